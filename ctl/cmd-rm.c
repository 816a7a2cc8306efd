/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wharfctl rm: remove an export, and the node that "export" made for it.
 */
#include "ctl/commands.h"

#include "ctl/client.h"
#include "ctl/exports.h"
#include "ctl/json.h"
#include "ctl/place.h"
#include "ctl/text.h"

/* How long requests in flight may take to end, in seconds. */
#define END_TIMEOUT 60

typedef struct RmOptions {
    bool force;
} RmOptions;

static const CtlOption options[] = {
    {"force", 'f', NULL, NULL, offsetof(RmOptions, force),
     "even if requests are in flight; they fail for who made them"},
    {NULL},
};

static void explain_unknown(const QValue *exports, const char *id, GError **error)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new();
    const char *meant;

    for (gsize i = 0; i < qvalue_array_length(exports); i++) {
        const char *known = ctl_json_string(qvalue_array_get(exports, i), "id");

        if (known) {
            g_ptr_array_add(ids, (gpointer)known);
        }
    }
    meant = ctl_text_nearest(id, (const char *const *)ids->pdata, ids->len);
    if (meant) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                    "there is no export '%s'; did you mean '%s'?", id, meant);
    } else {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                    "there is no export '%s' in this daemon; 'wharfctl ls' shows all\n"
                    "What 'wharfctl mount' shows somewhere goes with:  wharfctl umount FILE",
                    id);
    }
}

typedef struct Removal {
    CtlClient *client;
    const RmOptions *opts;
} Removal;

static bool rm_one(const char *id, void *opaque, GError **error)
{
    const Removal *removal = opaque;
    CtlClient *client = removal->client;
    g_autoptr(QValue) exports = ctl_exports_query(client, error);
    const QValue *export = exports ? ctl_exports_find(exports, "id", id) : NULL;
    const char *mode = removal->opts->force ? "hard" : "safe";
    g_autoptr(GError) local = NULL;

    if (!exports) {
        return false;
    }
    if (!export) {
        explain_unknown(exports, id, error);
        return false;
    }
    if (!ctl_client_run(client, "block-export-del", ctl_json_strings("id", id, "mode", mode, NULL),
                        error)) {
        return false;
    }
    if (ctl_exports_wait_end(client, id, END_TIMEOUT, &local) &&
        ctl_exports_drop_node(client, id, ctl_json_string(export, "node-name"), &local)) {
        return true;
    }
    /* A daemon that ends with its last export has left nothing to do. */
    if (local->code == CTL_ERROR_UNREACHABLE) {
        return true;
    }
    g_propagate_error(error, g_steal_pointer(&local));
    return false;
}

static bool run(const Ctl *ctl, const void *opts, char **words, GError **error)
{
    g_autofree char *socket = ctl_place_socket(ctl->socket);
    g_autoptr(CtlClient) client = ctl_client_connect(socket, error);

    if (!client || !ctl_exports_watch(client, error)) {
        return false;
    }
    return ctl_do_each(words, rm_one, &(Removal){client, opts}, error);
}

const CtlCommand ctl_command_rm = {
    .name = "rm",
    .synopsis = "ID...",
    .summary = "remove exports, and the nodes that 'export' made for them",
    .details =
        "Returns when the export has ended and what was written is in the image. Programs that\n"
        "still have the file open get ENOTCONN from then on; 'umount' refuses instead.",
    .words = CTL_WORDS_EXPORTS,
    .min_words = 1,
    .max_words = G_MAXUINT,
    .options = options,
    .options_size = sizeof(RmOptions),
    .run = run,
};
