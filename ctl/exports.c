/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/exports.h"

#include <stdio.h>

#include "ctl/ctl.h"
#include "ctl/json.h"
#include "ctl/recipe.h"

/* Run a query that returns an array. */
static QValue *query_array(CtlClient *client, const char *command, QValue *take_args,
                           GError **error)
{
    g_autoptr(QValue) answer = ctl_client_call(client, command, take_args, error);

    if (answer && qvalue_type(answer) != QVALUE_ARRAY) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "the daemon answers %s with %s", command,
                    qvalue_type_name(answer));
        return NULL;
    }
    return g_steal_pointer(&answer);
}

static const QValue *find_by(const QValue *array, const char *key, const char *value)
{
    for (gsize i = 0; i < qvalue_array_length(array); i++) {
        const QValue *element = qvalue_array_get(array, i);

        if (g_strcmp0(ctl_json_string(element, key), value) == 0) {
            return element;
        }
    }
    return NULL;
}

QValue *ctl_exports_query(CtlClient *client, GError **error)
{
    return query_array(client, "query-block-exports", NULL, error);
}

const QValue *ctl_exports_find(const QValue *exports, const char *key, const char *value)
{
    return find_by(exports, key, value);
}

QValue *ctl_nodes_query(CtlClient *client, GError **error)
{
    QValue *args = qvalue_object();

    qvalue_object_set(args, "flat", qvalue_bool(true));
    return query_array(client, "query-named-block-nodes", args, error);
}

const QValue *ctl_nodes_find(const QValue *nodes, const char *name)
{
    return find_by(nodes, "node-name", name);
}

guint64 ctl_nodes_length(const QValue *node)
{
    const QValue *image = ctl_json_object(node, "image");

    return ctl_json_uint(image, "length", ctl_json_uint(image, "virtual-size", G_MAXUINT64));
}

bool ctl_exports_watch(CtlClient *client, GError **error)
{
    static const char *const names[] = {"BLOCK_EXPORT_DELETED", NULL};
    g_auto(CtlSubscription) subscription = {0};

    return ctl_client_subscribe(client, names, &subscription, error);
}

static bool is_end_of(const QValue *event, const char *id)
{
    return g_strcmp0(ctl_json_string(event, "event"), "BLOCK_EXPORT_DELETED") == 0 &&
           g_strcmp0(ctl_json_string(ctl_json_object(event, "data"), "id"), id) == 0;
}

/* What the end of the export @id waits for, in words. */
static const char *describe_ending(CtlClient *client, const char *id)
{
    g_autoptr(QValue) exports = ctl_exports_query(client, NULL);
    const QValue *export = exports ? ctl_exports_find(exports, "id", id) : NULL;
    const char *step = export ? ctl_json_string(export, "ending") : NULL;

    if (g_strcmp0(step, "flush") == 0) {
        return "what was written is being flushed, which its storage takes so long for";
    }
    if (g_strcmp0(step, "requests") == 0) {
        return "requests are still in flight";
    }
    return "it is not done with";
}

bool ctl_exports_wait_end(CtlClient *client, const char *id, unsigned seconds, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + seconds * G_USEC_PER_SEC;
    g_autoptr(GError) local = NULL;

    for (;;) {
        g_autoptr(QValue) event = ctl_client_next_event(client, deadline, -1, &local);

        if (local) {
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
        if (!event) {
            g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                        "the export '%s' has not ended within %u seconds: %s; 'wharfctl ls' shows "
                        "it until that is over",
                        id, seconds, describe_ending(client, id));
            return false;
        }
        if (is_end_of(event, id)) {
            return true;
        }
    }
}

bool ctl_exports_drop_node(CtlClient *client, const char *id, const char *node_name, GError **error)
{
    g_autofree char *made = ctl_recipe_node_name(id);
    g_autoptr(QValue) nodes = NULL;
    g_autoptr(GError) local = NULL;

    if (g_strcmp0(made, node_name) != 0) {
        return true;
    }
    nodes = ctl_nodes_query(client, error);
    if (!nodes) {
        return false;
    }
    if (!ctl_nodes_find(nodes, made)) {
        return true;
    }
    if (ctl_client_run(client, "blockdev-del", ctl_json_strings("node-name", made, NULL), &local)) {
        return true;
    }
    if (local->code != CTL_ERROR_FAILED) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    fprintf(stderr, "wharfctl: note: the node '%s' stays: %s\n", made, local->message);
    return true;
}
