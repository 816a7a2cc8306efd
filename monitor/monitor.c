/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "monitor/monitor.h"

#include "monitor/set-internal.h"
#include "qapi/commands-chardev.h"
#include "qapi/commands-control.h"
#include "util/error.h"
#include "util/name.h"

/* Events remembered for clients that come back. */
#define EVENT_LOG_CAPACITY 1024

/* Clients of one monitor at a time; more wait in the listen queue. */
#define CLIENTS_MAX 256

/* How long clients may take at the end to read what they were sent. */
#define CLOSE_TIMEOUT_NS (G_GINT64_CONSTANT(3) * 1000 * 1000 * 1000)

/* ---- waiting inside the set ---- */

static void set_wake(MonitorSet *set)
{
    if (set->waiter) {
        aio_co_wake(g_steal_pointer(&set->waiter));
    }
}

static void co_fn set_co_wait(MonitorSet *set)
{
    g_assert(!set->waiter);
    set->waiter = coroutine_self();
    coroutine_yield();
}

/* ---- a monitor ---- */

static void monitor_unref(Monitor *m)
{
    MonitorSet *set = m->set;

    if (--m->refs > 0) {
        return;
    }
    g_assert(m->clients->len == 0);
    g_ptr_array_remove(set->detached, m);
    g_ptr_array_unref(m->clients);
    chardev_unref(m->chardev);
    g_free(m->id);
    g_free(m);
    set->n_monitors--;
    set_wake(set);
}

static void on_connected(void *opaque, Stream *stream)
{
    Monitor *m = opaque;

    m->refs++;
    g_ptr_array_add(m->clients, monitor_client_new(&m->host, m->envelope, stream));
    if (m->clients->len >= CLIENTS_MAX) {
        chardev_set_accepting(m->chardev, false);
    }
}

static void host_ended(MonitorHost *host, MonitorClient *client)
{
    Monitor *m = (Monitor *)host;

    g_ptr_array_remove(m->clients, client);
    monitor_client_unref(client);
}

static void host_freed(MonitorHost *host)
{
    Monitor *m = (Monitor *)host;

    if (!m->detached && !m->set->quiescing) {
        chardev_connection_ended(m->chardev);
        chardev_set_accepting(m->chardev, true);
    }
    monitor_unref(m);
}

static bool host_has_command(MonitorHost *host, const char *command)
{
    Monitor *m = (Monitor *)host;

    return qapi_command_table_lookup(m->set->commands, command, NULL) != NULL;
}

static bool host_may_run(MonitorHost *host)
{
    return !((Monitor *)host)->set->quiescing;
}

static QValue *host_discover(MonitorHost *host)
{
    return monitor_discover(((Monitor *)host)->set->commands);
}

static bool co_fn host_co_run(MonitorHost *host, MonitorClient *client, const char *name,
                              const QValue *arguments, QValue **ret, GError **error)
{
    MonitorSet *set = ((Monitor *)host)->set;
    QapiCall call = {.client = client, .command = name};
    const QapiCommand *command = qapi_command_table_lookup(set->commands, name, &call.self);
    GError *local = NULL;

    if (!command) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_COMMAND_NOT_FOUND,
                    "there is no command '%s'; query-commands lists those there are", name);
        return false;
    }
    *ret = NULL;
    set->n_running++;
    command->marshal(&call, arguments, ret, &local);
    if (--set->n_running == 0 && set->quiescing) {
        set_wake(set);
    }
    if (local) {
        g_propagate_error(error, local);
        return false;
    }
    if (!*ret) {
        *ret = qvalue_object();
    }
    return true;
}

/* ---- the set ---- */

static void set_emit(gpointer opaque, const char *name, QValue *data)
{
    MonitorSet *set = opaque;
    GPtrArray *lists[] = {set->monitors, set->detached};

    event_log_append(set->events, name, data);
    for (gsize l = 0; l < G_N_ELEMENTS(lists); l++) {
        for (guint i = 0; i < lists[l]->len; i++) {
            Monitor *m = lists[l]->pdata[i];

            for (guint j = 0; j < m->clients->len; j++) {
                monitor_client_pump_events(m->clients->pdata[j]);
            }
        }
    }
}

MonitorSet *monitor_set_new(AioContext *ctx, QapiCommandTable *commands, void (*quit)(void *opaque),
                            void *opaque)
{
    MonitorSet *set = g_new0(MonitorSet, 1);

    set->ctx = aio_context_ref(ctx);
    set->commands = commands;
    set->events = event_log_new(EVENT_LOG_CAPACITY);
    set->sink = (QapiEventSink){.emit = set_emit, .opaque = set};
    set->chardevs = g_ptr_array_new_with_free_func((GDestroyNotify)chardev_unref);
    set->monitors = g_ptr_array_new();
    set->detached = g_ptr_array_new();
    set->quit = quit;
    set->quit_opaque = opaque;
    qapi_command_table_add(commands, qapi_commands_control, set);
    qapi_command_table_add(commands, qapi_commands_chardev, set);
    return set;
}

void monitor_set_free(MonitorSet *set)
{
    if (!set) {
        return;
    }
    g_assert(set->n_monitors == 0 && set->chardevs->len == 0);
    g_ptr_array_unref(set->monitors);
    g_ptr_array_unref(set->detached);
    g_ptr_array_unref(set->chardevs);
    event_log_free(set->events);
    aio_context_unref(set->ctx);
    g_free(set);
}

const QapiEventSink *monitor_set_event_sink(MonitorSet *set)
{
    return &set->sink;
}

/* ---- chardevs ---- */

static Chardev *set_lookup_chardev(MonitorSet *set, const char *id)
{
    for (guint i = 0; i < set->chardevs->len; i++) {
        if (g_str_equal(chardev_id(set->chardevs->pdata[i]), id)) {
            return set->chardevs->pdata[i];
        }
    }
    return NULL;
}

Chardev *monitor_set_find_chardev(MonitorSet *set, const char *id, GError **error)
{
    Chardev *chardev = set_lookup_chardev(set, id);

    if (!chardev) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "there is no chardev '%s'; query-chardev lists them", id);
    }
    return chardev;
}

void monitor_set_drop_chardev(MonitorSet *set, Chardev *chardev)
{
    chardev_close(chardev);
    g_ptr_array_remove(set->chardevs, chardev);
}

bool monitor_set_uses_stdio(const MonitorSet *set)
{
    for (guint i = 0; i < set->chardevs->len; i++) {
        if (chardev_is_stdio(set->chardevs->pdata[i])) {
            return true;
        }
    }
    return false;
}

static bool check_chardev_is_free(MonitorSet *set, const ChardevConfig *config, GError **error)
{
    if (set_lookup_chardev(set, config->id)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_EXISTS,
                    "there is a chardev '%s' already; choose another id", config->id);
        return false;
    }
    if (config->kind == CHARDEV_BACKEND_KIND_STDIO && monitor_set_uses_stdio(set)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "chardev '%s': stdin and stdout are used by another chardev already",
                    config->id);
        return false;
    }
    return true;
}

/* Returns the new chardev, lent by the set, or NULL. */
static Chardev *co_fn set_co_make_chardev(MonitorSet *set, const ChardevConfig *config,
                                          GError **error)
{
    g_autoptr(Chardev) chardev = NULL;

    if (!check_chardev_is_free(set, config, error)) {
        return NULL;
    }
    chardev = chardev_new(set->ctx, config);
    g_ptr_array_add(set->chardevs, chardev_ref(chardev));
    if (!chardev_co_start(chardev, error)) {
        monitor_set_drop_chardev(set, chardev);
        return NULL;
    }
    return chardev;
}

bool co_fn monitor_set_co_add_chardev(MonitorSet *set, const ChardevConfig *config, GError **error)
{
    return set_co_make_chardev(set, config, error) != NULL;
}

void monitor_set_cancel_starts(MonitorSet *set)
{
    for (guint i = 0; i < set->chardevs->len; i++) {
        chardev_cancel_start(set->chardevs->pdata[i]);
    }
}

/* ---- monitors ---- */

static bool check_monitor_options(const MonitorOptions *options, GError **error)
{
    if (options->mode == MONITOR_MODE_READLINE) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "there is no readline monitor; use mode=control (QMP) or mode=jsonrpc");
        return false;
    }
    if (!options->chardev == !options->path) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "a monitor needs exactly one of 'chardev' and 'path'");
        return false;
    }
    if (options->socket_mode && !options->path) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'socket-mode' goes with 'path'; a chardev has 'mode'");
        return false;
    }
    return !options->id || name_check(options->id, "monitor id", error);
}

Monitor *monitor_set_lookup(MonitorSet *set, const char *id)
{
    for (guint i = 0; i < set->monitors->len; i++) {
        Monitor *m = set->monitors->pdata[i];

        if (g_str_equal(m->id, id)) {
            return m;
        }
    }
    return NULL;
}

static bool check_monitor_id_is_free(MonitorSet *set, const char *id, GError **error)
{
    if (monitor_set_lookup(set, id)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_EXISTS,
                    "there is a monitor '%s' already; choose another id", id);
        return false;
    }
    return true;
}

/* The chardev of that name, lent, if no monitor is on it. */
static Chardev *set_find_free_chardev(MonitorSet *set, const char *id, GError **error)
{
    Chardev *chardev = monitor_set_find_chardev(set, id, error);

    if (chardev && chardev_is_attached(chardev)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "chardev '%s' serves another monitor already", id);
        return NULL;
    }
    return chardev;
}

/* The chardev that the options name or ask for; lent. */
static Chardev *co_fn set_co_chardev_for(MonitorSet *set, const char *id,
                                         const MonitorOptions *options, GError **error)
{
    g_autoptr(ChardevConfig) config = NULL;

    if (!options->path) {
        return set_find_free_chardev(set, options->chardev, error);
    }
    config = chardev_config_for_path(id, options->path, options->socket_mode, error);
    return config ? set_co_make_chardev(set, config, error) : NULL;
}

static Monitor *monitor_new(MonitorSet *set, const char *id, Chardev *chardev,
                            const MonitorOptions *options)
{
    Monitor *m = g_new0(Monitor, 1);

    m->host = (MonitorHost){
        .ctx = set->ctx,
        .events = set->events,
        .pretty = options->pretty,
        .co_run = host_co_run,
        .has_command = host_has_command,
        .may_run = host_may_run,
        .discover = host_discover,
        .ended = host_ended,
        .freed = host_freed,
    };
    m->refs = 1;
    m->set = set;
    m->id = g_strdup(id);
    m->chardev = chardev_ref(chardev);
    m->own_chardev = options->path != NULL;
    m->envelope =
        options->mode == MONITOR_MODE_JSONRPC ? &monitor_envelope_jsonrpc : &monitor_envelope_qmp;
    m->clients = g_ptr_array_new();
    set->n_monitors++;
    return m;
}

static Monitor *set_enter_monitor(MonitorSet *set, const char *id, Chardev *chardev,
                                  const MonitorOptions *options)
{
    Monitor *m = monitor_new(set, id, chardev, options);

    g_ptr_array_add(set->monitors, m);
    chardev_attach(chardev, on_connected, m);
    if (set->started) {
        chardev_set_accepting(chardev, true);
    }
    return m;
}

const char *co_fn monitor_set_co_add(MonitorSet *set, const MonitorOptions *options, GError **error)
{
    g_autofree char *id = NULL;
    Chardev *chardev;

    if (!check_monitor_options(options, error)) {
        return NULL;
    }
    id = options->id ? g_strdup(options->id)
                     : g_strdup_printf("compat_monitor%u", set->next_compat_id);
    if (!check_monitor_id_is_free(set, id, error)) {
        return NULL;
    }
    chardev = set_co_chardev_for(set, id, options, error);
    if (!chardev) {
        return NULL;
    }
    if (!check_monitor_id_is_free(set, id, error)) {
        if (options->path) {
            monitor_set_drop_chardev(set, chardev);
        }
        return NULL;
    }
    set->next_compat_id += !options->id;
    return set_enter_monitor(set, id, chardev, options)->id;
}

bool monitor_set_add_on_chardev(MonitorSet *set, const MonitorOptions *options, GError **error)
{
    Chardev *chardev;

    if (!check_monitor_options(options, error) ||
        !check_monitor_id_is_free(set, options->id, error)) {
        return false;
    }
    chardev = set_find_free_chardev(set, options->chardev, error);
    if (!chardev) {
        return false;
    }
    set_enter_monitor(set, options->id, chardev, options);
    return true;
}

/* Take it out of the set; its clients keep it in being. */
static void set_detach_monitor(MonitorSet *set, Monitor *m)
{
    Chardev *chardev = m->chardev;

    m->detached = true;
    chardev_detach(chardev);
    g_ptr_array_remove(set->monitors, m);
    g_ptr_array_add(set->detached, m);
    if (m->own_chardev) {
        monitor_set_drop_chardev(set, chardev);
    }
    monitor_unref(m);
}

bool monitor_set_remove(MonitorSet *set, const char *id, GError **error)
{
    Monitor *m = monitor_set_lookup(set, id);

    if (!m) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND, "there is no monitor '%s'", id);
        return false;
    }
    set_detach_monitor(set, m);
    return true;
}

void monitor_set_start(MonitorSet *set)
{
    set->started = true;
    for (guint i = 0; i < set->monitors->len; i++) {
        chardev_set_accepting(((Monitor *)set->monitors->pdata[i])->chardev, true);
    }
}

/* ---- the end ---- */

void co_fn monitor_set_co_quit(MonitorSet *set)
{
    set->quit(set->quit_opaque);
    g_queue_push_tail(&set->quit_waiters, coroutine_self());
    /* The end waits for all other commands, and must not wait for this one. */
    if (--set->n_running == 0 && set->quiescing) {
        set_wake(set);
    }
    coroutine_yield();
    set->n_running++;
}

static void on_quiesce_timeout(void *opaque)
{
    MonitorSet *set = opaque;

    set->out_of_patience = true;
    set_wake(set);
}

/* Begin no more commands. */
static void set_quiesce(MonitorSet *set)
{
    set->quiescing = true;
    for (guint i = 0; i < set->monitors->len; i++) {
        chardev_set_accepting(((Monitor *)set->monitors->pdata[i])->chardev, false);
    }
}

bool co_fn monitor_set_co_quiesce(MonitorSet *set, int64_t wait_ns)
{
    AioTimer *timer = aio_timer_new(set->ctx, on_quiesce_timeout, set);

    set_quiesce(set);
    set->out_of_patience = wait_ns == 0;
    aio_timer_arm(timer, aio_now_ns() + wait_ns);
    while (set->n_running > 0 && !set->out_of_patience) {
        set_co_wait(set);
    }
    aio_timer_free(timer);
    return set->n_running == 0;
}

/* End all clients: once they have read what is on its way, or at once. */
static void set_finish_clients(MonitorSet *set, bool force)
{
    for (guint i = 0; i < set->detached->len; i++) {
        Monitor *m = set->detached->pdata[i];
        g_autoptr(GPtrArray) clients = g_ptr_array_copy(m->clients, NULL, NULL);

        for (guint j = 0; j < clients->len; j++) {
            monitor_client_finish(clients->pdata[j], force);
        }
    }
}

static void on_close_timeout(void *opaque)
{
    MonitorSet *set = opaque;

    g_warning("some clients do not read what they were sent; closing their connections");
    /* A monitor goes with its last client, and must not do so while we look at it. */
    for (guint i = 0; i < set->detached->len; i++) {
        ((Monitor *)set->detached->pdata[i])->refs++;
    }
    set_finish_clients(set, true);
    for (guint i = set->detached->len; i > 0; i--) {
        monitor_unref(set->detached->pdata[i - 1]);
    }
}

void co_fn monitor_set_co_close(MonitorSet *set)
{
    Coroutine *quit;

    set_quiesce(set);
    while (set->n_running > 0) {
        set_co_wait(set);
    }
    while ((quit = g_queue_pop_head(&set->quit_waiters))) {
        aio_co_wake(quit);
    }
    while (set->monitors->len > 0) {
        set_detach_monitor(set, set->monitors->pdata[0]);
    }
    while (set->chardevs->len > 0) {
        monitor_set_drop_chardev(set, set->chardevs->pdata[0]);
    }
    set_finish_clients(set, false);
    set->close_timer = aio_timer_new(set->ctx, on_close_timeout, set);
    aio_timer_arm(set->close_timer, aio_now_ns() + CLOSE_TIMEOUT_NS);
    while (set->n_monitors > 0) {
        set_co_wait(set);
    }
    g_clear_pointer(&set->close_timer, aio_timer_free);
}

void monitor_set_abandon(MonitorSet *set)
{
    for (guint i = 0; i < set->chardevs->len; i++) {
        chardev_abandon(set->chardevs->pdata[i]);
    }
}
