/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The monitor's own commands: negotiation, what the daemon is and can do, events, chardevs, the
 * end.
 */
#include "monitor/set-internal.h"
#include "monitor/wire-internal.h"
#include "qapi/commands-chardev.h"
#include "qapi/commands-control.h"
#include "qapi/introspect.h"

#include "util/error.h"

bool co_fn qmp_qmp_capabilities(QapiCall *call, const GArray *enable, GError **error)
{
    MonitorClient *client = call->client;
    QmpSession *session = monitor_client_qmp(client);

    if (monitor_client_envelope(client) != &monitor_envelope_qmp) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_COMMAND_NOT_FOUND,
                    "there is no method 'qmp_capabilities': JSON-RPC has no negotiation");
        return false;
    }
    for (guint i = 0; enable && i < enable->len; i++) {
        session->oob |= g_array_index(enable, QMPCapability, i) == QMP_CAPABILITY_OOB;
    }
    session->negotiated = true;
    monitor_client_enable_events(client);
    return true;
}

VersionInfo *co_fn qmp_query_version(QapiCall *call, GError **error)
{
    g_autoptr(QValue) version = monitor_version();

    return version_info_from_qvalue(version, error);
}

static void append_command(const QapiCommand *command, gpointer opaque)
{
    CommandInfo *info = g_new0(CommandInfo, 1);

    info->name = g_strdup(command->name);
    g_ptr_array_add(opaque, info);
}

GPtrArray *co_fn qmp_query_commands(QapiCall *call, GError **error)
{
    MonitorSet *set = call->self;
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)command_info_free);

    qapi_command_table_foreach(set->commands, append_command, list);
    return list;
}

QValue *co_fn qmp_query_qmp_schema(QapiCall *call, GError **error)
{
    return qapi_introspect(false);
}

bool co_fn qmp_quit(QapiCall *call, GError **error)
{
    monitor_set_co_quit(call->self);
    return true;
}

/* ---- events ---- */

/* A name that no event has is a mistake, of which a client would hear nothing ever after. */
static bool check_event_names(const GPtrArray *names, GError **error)
{
    const QapiInput arguments = {0};
    const QapiInput list = {.parent = &arguments, .name = "events", .depth = 1};
    unsigned known = g_strv_length((char **)qapi_event_names);

    for (guint i = 0; i < names->len; i++) {
        g_autoptr(QValue) name = qvalue_string(names->pdata[i]);
        QapiInput in = {.value = name, .parent = &list, .index = i, .depth = 2};
        unsigned found;

        if (!qapi_read_enum(&in, qapi_event_names, known, &found, error)) {
            return false;
        }
    }
    return true;
}

static GHashTable *names_to_set(const GPtrArray *names)
{
    GHashTable *set = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (guint i = 0; i < names->len; i++) {
        g_hash_table_add(set, g_strdup(names->pdata[i]));
    }
    return set;
}

EventSubscription *co_fn qmp_subscribe(QapiCall *call, const GPtrArray *events, bool has_since,
                                       uint64_t since, const char *instance, GError **error)
{
    MonitorSet *set = call->self;
    EventSubscription *ret;
    uint64_t from = since;

    if (events && !check_event_names(events, error)) {
        return NULL;
    }
    /* Numbers of another run say nothing; what this one remembers is all new to the client. */
    if (instance && !g_str_equal(instance, event_log_instance(set->events))) {
        from = 1;
    }
    ret = g_new0(EventSubscription, 1);
    ret->instance = g_strdup(event_log_instance(set->events));
    ret->lost = monitor_client_subscribe(call->client, events ? names_to_set(events) : NULL,
                                         has_since ? &from : NULL, &ret->next);
    return ret;
}

bool co_fn qmp_unsubscribe(QapiCall *call, GError **error)
{
    monitor_client_unsubscribe(call->client);
    return true;
}

/* ---- chardevs ---- */

ChardevReturn *co_fn qmp_chardev_add(QapiCall *call, const char *id, const ChardevBackend *backend,
                                     GError **error)
{
    g_autoptr(ChardevConfig) config = chardev_config_from_backend(id, backend, error);

    if (!config) {
        return NULL;
    }
    if (config->wait) {
        g_set_error(
            error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
            "chardev '%s': 'wait' is for the start of the daemon; a command cannot wait for "
            "another client",
            id);
        return NULL;
    }
    if (!monitor_set_co_add_chardev(call->self, config, error)) {
        return NULL;
    }
    return g_new0(ChardevReturn, 1);
}

bool co_fn qmp_chardev_remove(QapiCall *call, const char *id, GError **error)
{
    MonitorSet *set = call->self;
    Chardev *chardev = monitor_set_find_chardev(set, id, error);

    if (!chardev) {
        return false;
    }
    if (chardev_is_attached(chardev)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "chardev '%s' is busy: a monitor is on it", id);
        return false;
    }
    monitor_set_drop_chardev(set, chardev);
    return true;
}

GPtrArray *co_fn qmp_query_chardev(QapiCall *call, GError **error)
{
    MonitorSet *set = call->self;
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)chardev_info_free);

    for (guint i = 0; i < set->chardevs->len; i++) {
        const Chardev *chardev = set->chardevs->pdata[i];
        ChardevInfo *info = g_new0(ChardevInfo, 1);

        info->label = g_strdup(chardev_id(chardev));
        info->filename = chardev_describe(chardev);
        info->frontend_open = chardev_is_attached(chardev);
        g_ptr_array_add(list, info);
    }
    return list;
}
