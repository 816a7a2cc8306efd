/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/server.h"

#include <stdlib.h>
#include <unistd.h>

#include "aio/coroutine.h"
#include "block/block.h"
#include "daemon/plan.h"
#include "export/export.h"
#include "export/nbd/nbd.h"
#include "job/job.h"
#include "monitor/monitor.h"
#include "object/object.h"

/* How long the end waits for commands that run; one may hang in a file system. */
#define COMMANDS_WAIT_NS (10 * G_GINT64_CONSTANT(1000000000))

/* How long it waits for jobs that were cancelled. */
#define JOBS_WAIT_NS COMMANDS_WAIT_NS

/* How long for what the command line asks for, when the daemon is told to end before it serves. */
#define START_WAIT_NS COMMANDS_WAIT_NS

struct Server {
    const DaemonOptions *options;
    Log *log;
    Background *background;
    GMainLoop *loop;
    AioContext *ctx;
    GSource *source;
    Signals *signals;
    Pidfile *pidfile;

    QapiCommandTable *commands;
    MonitorSet *monitors;
    ObjectRegistry *objects;
    JobRegistry *jobs;
    BlockGraph *graph;
    ExportRegistry *exports;

    const StartItem *starting; /* what is just being made of the command line */
    bool start_ended;          /* with all of it, or with a failure */
    bool start_late;           /* it was waited for long enough */

    bool hanging;        /* commands, or requests below exports, do not end: nodes stay open */
    bool stopping;       /* told to end */
    Coroutine *sleeping; /* the main coroutine, while there is nothing for it to do */
    int exit_code;
};

/* ---- the end ---- */

static void co_fn server_co_sleep(Server *s)
{
    s->sleeping = coroutine_self();
    coroutine_yield();
}

static void server_wake(Server *s)
{
    if (s->sleeping) {
        aio_co_wake(g_steal_pointer(&s->sleeping));
    }
}

void server_request_stop(Server *s)
{
    if (s->stopping) {
        return;
    }
    s->stopping = true;
    monitor_set_cancel_starts(s->monitors);
    server_wake(s);
}

static void on_quit(void *opaque)
{
    server_request_stop(opaque);
}

/* Leave at once; what other processes could trip over is still removed. */
static void server_abandon(Server *s)
{
    log_error(s->log, "told to end again: ending at once, without waiting");
    monitor_set_abandon(s->monitors);
    export_registry_abandon(s->exports);
    pidfile_remove(s->pidfile);
    _exit(EXIT_FAILURE);
}

static void on_end_signal(void *opaque, bool again)
{
    if (again) {
        server_abandon(opaque);
    }
    server_request_stop(opaque);
}

/* Whoever asked for the start in the background has given it up. */
static void on_nobody_waits(void *opaque)
{
    server_request_stop(opaque);
}

static void on_export_gone(void *opaque)
{
    Server *s = opaque;

    if (s->options->exit_when_idle && export_registry_count(s->exports) == 0) {
        server_request_stop(s);
    }
}

/* Exports and jobs go first, since they use nodes; monitors last, since they tell of it. */
static void co_fn server_co_take_down(Server *s)
{
    bool gone, ended, quiet;

    notify_service_manager("STOPPING=1");
    block_graph_give_up_waiting(s->graph);
    monitor_set_co_quiesce(s->monitors, COMMANDS_WAIT_NS);
    /* Requests of exports may wait for a job that keeps a node drained. */
    job_registry_co_cancel_all(s->jobs);
    /* What is still being added has been waited for. */
    gone = export_registry_co_shutdown_all(s->exports, 0);
    ended = job_registry_co_end_all(s->jobs, JOBS_WAIT_NS);
    quiet = monitor_set_co_quiesce(s->monitors, 0);
    s->hanging = !gone || !ended || !quiet || !s->start_ended;
    if (!s->hanging) {
        block_graph_co_close_all(s->graph);
    }
    if (quiet && s->start_ended) {
        monitor_set_co_close(s->monitors);
    } else {
        monitor_set_abandon(s->monitors);
    }
    pidfile_remove(g_steal_pointer(&s->pidfile));
}

/* ---- the start ---- */

static bool co_fn server_co_start_item(Server *s, const StartItem *item, GError **error)
{
    switch (item->kind) {
    case START_OBJECT:
        return object_registry_co_add(s->objects, item->u.object, error);
    case START_CHARDEV:
        return monitor_set_co_add_chardev(s->monitors, item->u.chardev, error);
    case START_MONITOR:
        return monitor_set_co_add_object(s->monitors, s->objects, item->u.monitor, error);
    case START_BLOCKDEV:
        return block_graph_co_add(s->graph, item->u.blockdev, error);
    case START_EXPORT:
        return export_registry_co_add(s->exports, item->u.export, error);
    case START_NBD_SERVER:
        return nbd_server_co_start(s->exports, item->u.nbd_server, error);
    }
    g_assert_not_reached();
}

static bool co_fn server_co_set_up(Server *s, GError **error)
{
    g_autoptr(GPtrArray) plan = plan_start(s->options->items);

    for (guint i = 0; i < plan->len && !s->stopping; i++) {
        const StartItem *item = plan->pdata[i];

        s->starting = item;
        if (!server_co_start_item(s, item, error)) {
            g_prefix_error(error, "%s %s: ", item->option, item->text);
            return false;
        }
    }
    if (s->options->pidfile && !s->stopping) {
        s->pidfile = pidfile_create(s->options->pidfile, error);
        return s->pidfile != NULL;
    }
    return true;
}

static void server_begin_to_serve(Server *s)
{
    if (!background_ready(g_steal_pointer(&s->background))) {
        server_request_stop(s);
        return;
    }
    monitor_set_start(s->monitors);
    notify_service_manager("READY=1");
}

/* A coroutine of its own: it may hang. */
static void co_fn server_co_start(void *opaque)
{
    Server *s = opaque;
    g_autoptr(GError) error = NULL;

    if (!server_co_set_up(s, &error)) {
        /* What was interrupted fails, too, but that is no failure. */
        if (!s->stopping) {
            log_start_failed(s->log, error->message);
            s->exit_code = EXIT_FAILURE;
        }
        s->stopping = true;
    }
    s->start_ended = true;
    server_wake(s);
}

static void on_start_late(void *opaque)
{
    Server *s = opaque;

    s->start_late = true;
    server_wake(s);
}

/* Wait for the end of the start; not for ever once told to end. */
static void co_fn server_co_wait_started(Server *s)
{
    g_autoptr(AioTimer) timer = aio_timer_new(s->ctx, on_start_late, s);

    while (!s->start_ended && !s->stopping) {
        server_co_sleep(s);
    }
    aio_timer_arm(timer, aio_now_ns() + START_WAIT_NS);
    while (!s->start_ended && !s->start_late) {
        server_co_sleep(s);
    }
    if (!s->start_ended) {
        g_autofree char *message = g_strdup_printf("%s %s: this does not end; giving up on it",
                                                   s->starting->option, s->starting->text);

        log_error(s->log, message);
    }
}

/* ---- the main coroutine ---- */

static void co_fn server_co_main(void *opaque)
{
    Server *s = opaque;

    aio_co_enter(s->ctx, server_co_start, s);
    server_co_wait_started(s);
    if (!s->stopping) {
        server_begin_to_serve(s);
    }
    while (!s->stopping) {
        server_co_sleep(s);
    }
    server_co_take_down(s);
    g_main_loop_quit(s->loop);
}

static void server_enter(void *opaque)
{
    Server *s = opaque;

    aio_co_enter(s->ctx, server_co_main, s);
}

int server_run(Server *s, Background *background)
{
    s->background = background;
    background_watch(background, s->ctx, on_nobody_waits, s);
    aio_bh_schedule_oneshot(s->ctx, server_enter, s);
    g_main_loop_run(s->loop);
    if (s->hanging) {
        /* What still waits below uses what would be freed. */
        log_error(s->log, "some commands or requests did not end; leaving them behind");
        _exit(EXIT_FAILURE);
    }
    return s->exit_code;
}

/* ---- life ---- */

Server *server_new(const DaemonOptions *options, Log *log, GError **error)
{
    AioContext *ctx = aio_context_new(NULL, error);
    Server *s;

    if (!ctx) {
        return NULL;
    }
    s = g_new0(Server, 1);
    s->options = options;
    s->log = log;
    s->ctx = ctx;
    s->loop = g_main_loop_new(NULL, FALSE);
    s->source = aio_context_attach_glib(ctx, NULL);
    s->commands = qapi_command_table_new();
    s->monitors = monitor_set_new(ctx, s->commands, on_quit, s);
    s->objects = object_registry_new();
    object_register_commands(s->objects, s->commands);
    monitor_set_register_objects(s->monitors, s->objects);
    s->graph = block_graph_new(ctx, monitor_set_event_sink(s->monitors));
    block_graph_set_objects(s->graph, s->objects);
    block_register_commands(s->graph, s->commands);
    s->jobs = job_registry_new(ctx, monitor_set_event_sink(s->monitors));
    job_register_commands(s->jobs, s->commands);
    block_register_job_commands(s->graph, s->jobs, s->commands);
    s->exports = export_registry_new(s->graph, s->objects, monitor_set_event_sink(s->monitors));
    export_register_commands(s->exports, s->commands);
    export_registry_set_gone_notify(s->exports, on_export_gone, s);
    s->signals = signals_new(ctx, on_end_signal, s);
    return s;
}

void server_free(Server *s)
{
    if (!s) {
        return;
    }
    signals_free(s->signals);
    background_free(s->background);
    export_registry_free(s->exports);
    block_graph_free(s->graph);
    job_registry_free(s->jobs);
    object_registry_free(s->objects);
    monitor_set_free(s->monitors);
    qapi_command_table_free(s->commands);
    g_source_destroy(s->source);
    g_source_unref(s->source);
    aio_context_unref(s->ctx);
    g_main_loop_unref(s->loop);
    g_free(s);
}
