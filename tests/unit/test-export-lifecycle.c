/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How exports of any type begin and end: the order of a driver's callbacks, who waits for whom,
 * what a deletion refuses. The driver is one of the test's own; its requests do nothing but last.
 */
#include <string.h>

#include "export/registry-internal.h"
#include "qapi/json-parser.h"
#include "tests/unit/block-script.h"
#include "tests/unit/graph-rig.h"
#include "util/error.h"

#define MS G_GINT64_CONSTANT(1000000)

/* What the driver and the events have recorded, and what they are to do. */
typedef struct Stage {
    ObjectRegistry *objects;
    ExportRegistry *registry;
    QapiEventSink sink;
    GString *log;    /* main thread */
    bool fail_start; /* the next start fails */
    bool fail_publish;
    bool prepare_sleeps;
    bool start_sleeps;
    bool lose_at_start;
    unsigned cuts; /* atomic: of queues */
    bool in_use;   /* by clients without requests */
    bool release;  /* atomic: requests may end */
} Stage;

static Stage *stage;

static void note(const char *what, const Export *exp)
{
    g_string_append_printf(stage->log, "%s%s%s ", what, exp ? ":" : "", exp ? exp->id : "");
}

static void assert_log(const char *expected)
{
    g_assert_cmpstr(stage->log->str, ==, expected);
    g_string_truncate(stage->log, 0);
}

static void on_event(gpointer opaque, const char *name, QValue *data)
{
    g_autofree char *text = qvalue_to_json_string(data);

    g_assert_cmpstr(name, ==, "BLOCK_EXPORT_DELETED");
    g_string_append_printf(stage->log, "event:%s ", text);
}

/* The driver */

typedef struct FakeQueue {
    ExportQueue common;
    bool taking;
    bool cut;
} FakeQueue;

static void fake_permissions(const BlockExportOptions *options, BlockPerm *perm, BlockPerm *shared)
{
    *perm = BLOCK_PERM_CONSISTENT_READ | (options->writable ? BLOCK_PERM_WRITE : (BlockPerm)0);
    *shared = BLOCK_PERM_ALL;
}

static void co_fn fake_co_prepare(Export *exp)
{
    g_assert_null(exp->blk);
    if (stage->prepare_sleeps) {
        aio_co_sleep_ns(20 * MS);
    }
}

static bool co_fn fake_co_start(Export *exp, const BlockExportOptions *options, GError **error)
{
    note("start", exp);
    if (stage->start_sleeps) {
        aio_co_sleep_ns(20 * MS);
    }
    if (stage->lose_at_start) {
        export_lost(exp, BLOCK_EXPORT_END_REASON_ABORTED);
    }
    if (stage->fail_start) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "the driver does not want to");
        return false;
    }
    return true;
}

static void fake_begin(ExportQueue *queue)
{
    FakeQueue *fake = (FakeQueue *)queue;

    g_assert_true(aio_context_current() == queue->ctx);
    g_assert_false(fake->taking);
    fake->taking = true;
}

static void fake_stop(ExportQueue *queue, bool cut)
{
    FakeQueue *fake = (FakeQueue *)queue;

    g_assert_true(aio_context_current() == queue->ctx);
    g_assert_true(fake->taking || cut);
    fake->taking = false;
    fake->cut = fake->cut || cut;
    __atomic_fetch_add(&stage->cuts, cut, __ATOMIC_RELAXED);
}

static bool co_fn fake_co_publish(Export *exp, const BlockExportOptions *options, GError **error)
{
    for (unsigned i = 0; i < exp->n_queues; i++) {
        g_assert_true(((FakeQueue *)exp->queues[i])->taking);
    }
    if (stage->fail_publish) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "nobody wants to know");
        return false;
    }
    return true;
}

static bool co_fn fake_co_may_end(Export *exp, GError **error)
{
    for (unsigned i = 0; i < 20 && stage->in_use && exp->state == EXPORT_RUNNING; i++) {
        aio_co_sleep_ns(1 * MS);
    }
    if (stage->in_use && exp->state == EXPORT_RUNNING) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE, "somebody uses it");
        return false;
    }
    return true;
}

static void co_fn fake_co_withdraw(Export *exp)
{
    note("withdraw", exp);
    for (unsigned i = 0; i < exp->n_queues; i++) {
        g_assert_true(((FakeQueue *)exp->queues[i])->taking);
    }
}

static void co_fn fake_co_end(Export *exp)
{
    note("end", exp);
    g_assert_nonnull(exp->blk);
    for (unsigned i = 0; i < exp->n_queues; i++) {
        g_assert_false(((FakeQueue *)exp->queues[i])->taking);
        g_assert_cmpuint(exp->queues[i]->requests, ==, 0);
    }
}

static void fake_query(Export *exp, BlockExportInfo *info)
{
}

static const ExportDriver fake_driver = {
    .type = BLOCK_EXPORT_TYPE_NBD,
    .state_size = sizeof(Export),
    .queue_size = sizeof(FakeQueue),
    .permissions = fake_permissions,
    .co_prepare = fake_co_prepare,
    .co_start = fake_co_start,
    .begin = fake_begin,
    .co_publish = fake_co_publish,
    .stop = fake_stop,
    .co_may_end = fake_co_may_end,
    .co_withdraw = fake_co_withdraw,
    .co_end = fake_co_end,
    .query = fake_query,
};

/* Requests */

static void co_fn request_co_run(ExportQueue *queue, bool data)
{
    export_request_begin(queue);
    if (data) {
        export_request_data_begin(queue);
    }
    while (!__atomic_load_n(&stage->release, __ATOMIC_RELAXED)) {
        aio_co_sleep_ns(1 * MS);
    }
    if (data) {
        export_request_data_end(queue);
    }
    export_request_end(queue);
}

static void co_fn data_request(void *opaque)
{
    request_co_run(opaque, true);
}

static void co_fn other_request(void *opaque)
{
    request_co_run(opaque, false);
}

/* Begin a request in the queue's own context and wait until it has begun. */
static void co_fn co_begin_request(ExportQueue *queue, CoroutineEntry *entry)
{
    unsigned before = __atomic_load_n(&queue->requests, __ATOMIC_RELAXED);

    aio_co_enter(queue->ctx, entry, queue);
    while (__atomic_load_n(&queue->requests, __ATOMIC_RELAXED) == before) {
        aio_co_sleep_ns(1 * MS);
    }
}

static void release_requests(bool release)
{
    __atomic_store_n(&stage->release, release, __ATOMIC_RELAXED);
}

/* The stage */

static void add_iothread(const char *id)
{
    g_autoptr(QValue) values = qvalue_object();
    g_autoptr(ObjectOptions) options = NULL;
    g_autoptr(GError) error = NULL;

    qvalue_object_set(values, "qom-type", qvalue_string("iothread"));
    qvalue_object_set(values, "id", qvalue_string(id));
    options = object_options_from_qvalue(values, &error);
    g_assert_no_error(error);
    object_registry_co_add(stage->objects, options, &error);
    g_assert_no_error(error);
}

static void co_fn co_set_stage(GraphRig *rig)
{
    stage = g_new0(Stage, 1);
    stage->log = g_string_new(NULL);
    stage->sink = (QapiEventSink){.emit = on_event};
    stage->objects = object_registry_new();
    stage->registry = export_registry_new(rig->graph, stage->objects, &stage->sink);
    add_iothread("t0");
    add_iothread("t1");
    graph_rig_co_add(rig, graph_rig_options("{'driver': 'null-co', 'node-name': 'n0'}"));
}

static void co_fn co_clear_stage(GraphRig *rig)
{
    release_requests(true);
    g_assert_true(export_registry_co_shutdown_all(stage->registry, 5000 * MS));
    export_registry_free(stage->registry);
    object_registry_free(stage->objects);
    g_string_free(stage->log, TRUE);
    g_free(stage);
    stage = NULL;
    graph_rig_co_del(rig, "n0");
}

/* Add an export with a queue in each of both iothreads. */
static bool co_fn co_add_of(const char *id, const char *node, bool writable, GError **error)
{
    g_autofree char *json =
        g_strdup_printf("{'type': 'nbd', 'id': '%s', 'node-name': '%s', 'writable': %s, "
                        "'iothread': ['t0', 't1']}",
                        id, node, writable ? "true" : "false");
    g_autoptr(QValue) values = qvalue_from_json(json, -1, NULL);
    g_autoptr(BlockExportOptions) options = block_export_options_from_qvalue(values, NULL);

    return export_registry_co_add_as(stage->registry, &fake_driver, options, error);
}

static bool co_fn co_add(const char *id, GError **error)
{
    return co_add_of(id, "n0", false, error);
}

static Export *co_fn co_add_ok(const char *id)
{
    g_autoptr(GError) error = NULL;

    co_add(id, &error);
    g_assert_no_error(error);
    return g_hash_table_lookup(stage->registry->by_id, id);
}

static void co_fn co_del_ok(const char *id, BlockExportRemoveMode mode)
{
    g_autoptr(GError) error = NULL;

    export_registry_co_del(stage->registry, id, mode, &error);
    g_assert_no_error(error);
}

static void co_fn co_del_refused(const char *id, BlockExportRemoveMode mode, const char *word)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(export_registry_co_del(stage->registry, id, mode, &error));
    g_assert_nonnull(strstr(error->message, word));
}

/* Tests */

static void co_fn body_order(GraphRig *rig)
{
    co_set_stage(rig);
    co_add_ok("e0");
    assert_log("start:e0 ");
    co_del_ok("e0", BLOCK_EXPORT_REMOVE_MODE_SAFE);
    assert_log("withdraw:e0 end:e0 event:{\"id\": \"e0\", \"reason\": \"deleted\"} ");
    g_assert_cmpuint(export_registry_count(stage->registry), ==, 0);
    co_clear_stage(rig);
}

static void co_fn del_node_soon(void *opaque)
{
    GraphRig *rig = opaque;

    aio_co_sleep_ns(5 * MS);
    graph_rig_co_del(rig, "n1");
}

/* A node that goes while an export of it is prepared: nobody holds it yet. */
static void co_fn body_node_goes(GraphRig *rig)
{
    g_autoptr(GError) error = NULL;

    co_set_stage(rig);
    graph_rig_co_add(rig, graph_rig_options("{'driver': 'null-co', 'node-name': 'n1'}"));
    stage->prepare_sleeps = true;
    aio_co_enter(rig->ctx, del_node_soon, rig);
    g_assert_false(co_add_of("e0", "n1", false, &error));
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND);
    g_assert_cmpuint(export_registry_count(stage->registry), ==, 0);
    co_clear_stage(rig);
}

static void co_fn body_failed_start(GraphRig *rig)
{
    g_autoptr(GError) error = NULL;

    co_set_stage(rig);
    stage->fail_start = true;
    g_assert_false(co_add("e0", &error));
    g_assert_cmpstr(error->message, ==, "the driver does not want to");
    assert_log("start:e0 ");
    g_assert_cmpuint(export_registry_count(stage->registry), ==, 0);
    g_clear_error(&error);
    g_assert_true(object_registry_del(stage->objects, "t0", NULL, &error));
    add_iothread("t0");
    stage->fail_start = false;
    co_add_ok("e0");
    g_assert_false(object_registry_del(stage->objects, "t0", NULL, &error));
    co_clear_stage(rig);
}

/* The queues run by then; nothing of them is left. */
static void co_fn body_failed_publish(GraphRig *rig)
{
    g_autoptr(GError) error = NULL;

    co_set_stage(rig);
    stage->fail_publish = true;
    stage->lose_at_start = true;
    g_assert_false(co_add("e0", &error));
    g_assert_cmpstr(error->message, ==, "nobody wants to know");
    assert_log("start:e0 end:e0 ");
    g_assert_cmpuint(export_registry_count(stage->registry), ==, 0);
    g_clear_error(&error);
    g_assert_true(object_registry_del(stage->objects, "t0", NULL, &error));
    add_iothread("t0");
    stage->fail_publish = false;
    stage->lose_at_start = false;
    co_add_ok("e0");
    co_clear_stage(rig);
}

static void co_fn body_safe(GraphRig *rig)
{
    Export *exp;

    co_set_stage(rig);
    exp = co_add_ok("e0");
    co_begin_request(exp->queues[1], data_request);
    co_del_refused("e0", BLOCK_EXPORT_REMOVE_MODE_SAFE, "1 request in flight");
    g_assert_true(((FakeQueue *)exp->queues[0])->taking);
    release_requests(true);
    while (export_requests(exp)) {
        aio_co_sleep_ns(1 * MS);
    }
    co_del_ok("e0", BLOCK_EXPORT_REMOVE_MODE_SAFE);
    co_clear_stage(rig);
}

static void co_fn release_soon(void *opaque)
{
    aio_co_sleep_ns(20 * MS);
    release_requests(true);
}

/* What only keeps the books does not refuse a deletion, and is waited for. */
static void co_fn body_bookkeeping(GraphRig *rig)
{
    Export *exp;

    co_set_stage(rig);
    exp = co_add_ok("e0");
    co_begin_request(exp->queues[0], other_request);
    co_begin_request(exp->queues[1], other_request);
    aio_co_enter(rig->ctx, release_soon, NULL);
    co_del_ok("e0", BLOCK_EXPORT_REMOVE_MODE_SAFE);
    g_assert_true(stage->release);
    co_clear_stage(rig);
}

static void assert_ending(BlockExportEndStep step)
{
    g_autoptr(GPtrArray) list = export_registry_query(stage->registry);
    const BlockExportInfo *info = g_ptr_array_index(list, 0);

    g_assert_true(info->shutting_down && info->has_ending);
    g_assert_cmpint(info->ending, ==, step);
}

/* A hard deletion returns at once; the export is listed until its requests have ended. */
static void co_fn body_hard(GraphRig *rig)
{
    g_autoptr(GPtrArray) list = NULL;
    g_autoptr(Export) exp = NULL;
    GError *error = NULL;

    co_set_stage(rig);
    exp = export_ref(co_add_ok("e0"));
    co_begin_request(exp->queues[0], data_request);
    co_del_ok("e0", BLOCK_EXPORT_REMOVE_MODE_HARD);
    assert_log("start:e0 withdraw:e0 ");
    g_assert_true(((FakeQueue *)exp->queues[0])->cut);
    list = export_registry_query(stage->registry);
    g_assert_cmpuint(list->len, ==, 1);
    g_assert_true(((BlockExportInfo *)g_ptr_array_index(list, 0))->shutting_down);
    assert_ending(BLOCK_EXPORT_END_STEP_REQUESTS);
    co_del_refused("e0", BLOCK_EXPORT_REMOVE_MODE_HARD,
                   "shutting down already: 1 request in flight");
    co_del_refused("e0", BLOCK_EXPORT_REMOVE_MODE_SAFE, "shutting down");
    g_assert_false(co_add("e0", &error));
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_EXISTS);
    g_clear_error(&error);

    release_requests(true);
    while (export_registry_count(stage->registry)) {
        aio_co_sleep_ns(1 * MS);
    }
    assert_log("end:e0 event:{\"id\": \"e0\", \"reason\": \"deleted\"} ");
    co_clear_stage(rig);
}

/* Nor does any deletion wait without limit for the last flush of its node. */
static void co_fn co_del_with_hung_flush(GraphRig *rig, BlockExportRemoveMode mode)
{
    g_autoptr(GError) error = NULL;
    Export *exp;

    script_reset();
    co_set_stage(rig);
    stage->registry->del_wait_ns = 20 * MS;
    graph_rig_co_add(rig, graph_rig_options("{'driver': 'blkdebug', 'node-name': 'n1', "
                                            "'image': {'driver': 'memory', 'size': 65536}}"));
    g_assert_true(co_add_of("e0", "n1", true, &error));
    exp = g_hash_table_lookup(stage->registry->by_id, "e0");
    graph_rig_co_write(exp->blk, 0, 512, 1, 0);
    script_hold(SCRIPT_FLUSH);
    co_del_ok("e0", mode);
    g_assert_cmpuint(export_registry_count(stage->registry), ==, 1);
    assert_ending(BLOCK_EXPORT_END_STEP_FLUSH);
    co_del_refused("e0", BLOCK_EXPORT_REMOVE_MODE_HARD, "node 'n1' is being flushed");
    script_release(SCRIPT_FLUSH);
    while (export_registry_count(stage->registry)) {
        aio_co_sleep_ns(1 * MS);
    }
    graph_rig_co_del(rig, "n1");
    co_clear_stage(rig);
}

static void co_fn body_hard_with_hung_flush(GraphRig *rig)
{
    co_del_with_hung_flush(rig, BLOCK_EXPORT_REMOVE_MODE_HARD);
}

static void co_fn body_safe_with_hung_flush(GraphRig *rig)
{
    co_del_with_hung_flush(rig, BLOCK_EXPORT_REMOVE_MODE_SAFE);
}

/* Waiting ends at the deadline: then what is in flight is cut off. */
static void co_fn body_deadline(GraphRig *rig)
{
    g_autoptr(Export) exp = NULL;

    co_set_stage(rig);
    exp = export_ref(co_add_ok("e0"));
    co_begin_request(exp->queues[1], data_request);
    export_shut_down(exp, BLOCK_EXPORT_END_REASON_SHUTDOWN, 20 * MS);
    g_assert_cmpint(export_co_wait_end(exp, INT64_MAX), ==, EXPORT_SHUTTING_DOWN);
    g_assert_true(((FakeQueue *)exp->queues[0])->cut);
    g_assert_true(((FakeQueue *)exp->queues[1])->cut);
    g_assert_cmpuint(export_requests(exp), ==, 1);
    release_requests(true);
    while (exp->state != EXPORT_GONE) {
        export_co_wait_change(exp, INT64_MAX);
    }
    co_clear_stage(rig);
}

static void co_fn lose_in_queue(void *opaque)
{
    Export *exp = opaque;

    export_lost(exp, BLOCK_EXPORT_END_REASON_UNMOUNTED);
    export_lost(exp, BLOCK_EXPORT_END_REASON_ABORTED);
    export_unref(exp);
}

static void co_fn body_lost(GraphRig *rig)
{
    Export *exp;

    co_set_stage(rig);
    exp = co_add_ok("e0");
    aio_co_enter(exp->queues[1]->ctx, lose_in_queue, export_ref(exp));
    while (export_registry_count(stage->registry)) {
        aio_co_sleep_ns(1 * MS);
    }
    assert_log("start:e0 withdraw:e0 end:e0 event:{\"id\": \"e0\", \"reason\": \"unmounted\"} ");
    co_clear_stage(rig);
}

static void co_fn body_lost_at_start(GraphRig *rig)
{
    co_set_stage(rig);
    stage->lose_at_start = true;
    co_add_ok("e0");
    while (export_registry_count(stage->registry)) {
        aio_co_sleep_ns(1 * MS);
    }
    assert_log("start:e0 withdraw:e0 end:e0 event:{\"id\": \"e0\", \"reason\": \"aborted\"} ");
    co_clear_stage(rig);
}

static void co_fn body_quit(GraphRig *rig)
{
    g_autoptr(GError) error = NULL;

    co_set_stage(rig);
    co_add_ok("e0");
    co_add_ok("e1");
    co_add_ok("e2");
    g_string_truncate(stage->log, 0);
    g_assert_true(export_registry_co_shutdown_all(stage->registry, 5000 * MS));
    assert_log("withdraw:e2 end:e2 event:{\"id\": \"e2\", \"reason\": \"shutdown\"} "
               "withdraw:e1 end:e1 event:{\"id\": \"e1\", \"reason\": \"shutdown\"} "
               "withdraw:e0 end:e0 event:{\"id\": \"e0\", \"reason\": \"shutdown\"} ");
    g_assert_false(co_add("e3", &error));
    g_assert_nonnull(strstr(error->message, "ending"));
    co_clear_stage(rig);
}

typedef struct Quit {
    int64_t start_wait_ns;
    bool done;
} Quit;

static void co_fn quit_beside(void *opaque)
{
    Quit *quit = opaque;

    g_assert_true(export_registry_co_shutdown_all(stage->registry, quit->start_wait_ns));
    quit->done = true;
}

/* One that hangs does not make the older ones be cut off. */
static void co_fn body_quit_with_one_that_hangs(GraphRig *rig)
{
    Quit quit = {.start_wait_ns = 5000 * MS};

    co_set_stage(rig);
    stage->registry->quit_patience_ns = 20 * MS;
    co_add_ok("e0");
    co_begin_request(co_add_ok("e1")->queues[0], data_request);
    co_add_ok("e2");
    g_string_truncate(stage->log, 0);
    aio_co_enter(rig->ctx, quit_beside, &quit);
    while (export_registry_count(stage->registry) > 1) {
        aio_co_sleep_ns(1 * MS);
    }
    assert_log("withdraw:e2 end:e2 event:{\"id\": \"e2\", \"reason\": \"shutdown\"} withdraw:e1 "
               "withdraw:e0 end:e0 event:{\"id\": \"e0\", \"reason\": \"shutdown\"} ");
    g_assert_cmpuint(stage->cuts, ==, 0);
    release_requests(true);
    while (!quit.done) {
        aio_co_sleep_ns(1 * MS);
    }
    co_clear_stage(rig);
}

static void co_fn add_beside(void *opaque)
{
    bool *added = opaque;

    *added = co_add("e0", NULL);
}

/* An export that is just being added when the daemon ends is added, then ended. */
static void co_fn body_quit_while_starting(GraphRig *rig)
{
    bool added = false;

    co_set_stage(rig);
    stage->start_sleeps = true;
    aio_co_enter(rig->ctx, add_beside, &added);
    co_del_refused("e0", BLOCK_EXPORT_REMOVE_MODE_HARD, "still being added");
    g_assert_true(export_registry_co_shutdown_all(stage->registry, 5000 * MS));
    g_assert_true(added);
    assert_log("start:e0 withdraw:e0 end:e0 event:{\"id\": \"e0\", \"reason\": \"shutdown\"} ");
    co_clear_stage(rig);
}

/* One whose start ends only while another is waited for is shut down, too. */
static void co_fn body_quit_with_late_start(GraphRig *rig)
{
    Quit quit = {.start_wait_ns = 0};
    bool added = false;

    co_set_stage(rig);
    stage->registry->quit_patience_ns = 1 * MS;
    co_begin_request(co_add_ok("e1")->queues[0], data_request);
    stage->start_sleeps = true;
    aio_co_enter(rig->ctx, add_beside, &added);
    aio_co_enter(rig->ctx, quit_beside, &quit);
    while (!added) {
        aio_co_sleep_ns(1 * MS);
    }
    g_string_truncate(stage->log, 0);
    release_requests(true);
    while (!quit.done) {
        aio_co_sleep_ns(1 * MS);
    }
    g_assert_nonnull(strstr(stage->log->str, "withdraw:e0 end:e0"));
    co_clear_stage(rig);
}

typedef struct Deletion {
    unsigned *done;
    BlockExportRemoveMode mode;
    bool ok;
} Deletion;

static void co_fn del_beside(void *opaque)
{
    Deletion *deletion = opaque;

    deletion->ok = export_registry_co_del(stage->registry, "e0", deletion->mode, NULL);
    (*deletion->done)++;
}

static void co_fn body_two_deletions(GraphRig *rig)
{
    unsigned done = 0;
    Deletion deletions[2] = {{&done, BLOCK_EXPORT_REMOVE_MODE_HARD},
                             {&done, BLOCK_EXPORT_REMOVE_MODE_HARD}};

    co_set_stage(rig);
    co_add_ok("e0");
    aio_co_enter(rig->ctx, del_beside, &deletions[0]);
    aio_co_enter(rig->ctx, del_beside, &deletions[1]);
    while (done != 2) {
        aio_co_sleep_ns(1 * MS);
    }
    g_assert_true(deletions[0].ok);
    g_assert_false(deletions[1].ok);
    co_clear_stage(rig);
}

/* Clients without requests keep a safe deletion away, but not a hard one, which ends that, too. */
static void co_fn body_used_without_requests(GraphRig *rig)
{
    unsigned done = 0;
    Deletion safe = {&done, BLOCK_EXPORT_REMOVE_MODE_SAFE};

    co_set_stage(rig);
    co_add_ok("e0");
    stage->in_use = true;
    co_del_refused("e0", BLOCK_EXPORT_REMOVE_MODE_SAFE, "somebody uses it");
    assert_log("start:e0 ");
    aio_co_enter(rig->ctx, del_beside, &safe);
    g_assert_cmpuint(done, ==, 0);
    co_del_ok("e0", BLOCK_EXPORT_REMOVE_MODE_HARD);
    while (done != 1) {
        aio_co_sleep_ns(1 * MS);
    }
    g_assert_true(safe.ok);
    assert_log("withdraw:e0 end:e0 event:{\"id\": \"e0\", \"reason\": \"deleted\"} ");
    stage->in_use = false;
    co_add_ok("e0");
    co_del_ok("e0", BLOCK_EXPORT_REMOVE_MODE_SAFE);
    co_clear_stage(rig);
}

static void co_fn del_all_beside(void *opaque)
{
    bool *done = opaque;

    export_registry_co_del_type(stage->registry, BLOCK_EXPORT_TYPE_NBD);
    *done = true;
}

/* Several are removed at the same time: none waits for what hangs in another. */
static void co_fn body_delete_type(GraphRig *rig)
{
    bool done = false;

    co_set_stage(rig);
    for (unsigned i = 0; i < 3; i++) {
        g_autofree char *id = g_strdup_printf("e%u", i);
        Export *exp = co_add_ok(id);

        if (i > 0) {
            co_begin_request(exp->queues[0], data_request);
        }
    }
    g_string_truncate(stage->log, 0);
    aio_co_enter(rig->ctx, del_all_beside, &done);
    while (export_registry_count(stage->registry) > 2) {
        aio_co_sleep_ns(1 * MS);
    }
    g_assert_false(done);
    assert_log("withdraw:e2 withdraw:e1 withdraw:e0 end:e0 "
               "event:{\"id\": \"e0\", \"reason\": \"deleted\"} ");
    release_requests(true);
    while (!done) {
        aio_co_sleep_ns(1 * MS);
    }
    g_assert_cmpuint(export_registry_count(stage->registry), ==, 0);
    co_clear_stage(rig);
}

/* One that is just being added does not come afterwards, and one that hangs there is left alone. */
static void co_fn delete_type_while_starting(GraphRig *rig, int64_t wait_ns, const char *at_return)
{
    bool added = true;

    co_set_stage(rig);
    stage->registry->del_wait_ns = wait_ns;
    stage->start_sleeps = true;
    aio_co_enter(rig->ctx, add_beside, &added);
    export_registry_co_del_type(stage->registry, BLOCK_EXPORT_TYPE_NBD);
    assert_log(at_return);
    while (export_registry_count(stage->registry)) {
        aio_co_sleep_ns(1 * MS);
    }
    g_assert_false(added);
    co_clear_stage(rig);
}

static void co_fn body_delete_type_while_starting(GraphRig *rig)
{
    delete_type_while_starting(rig, 5000 * MS, "start:e0 end:e0 ");
}

static void co_fn body_delete_type_with_hung_start(GraphRig *rig)
{
    delete_type_while_starting(rig, 1 * MS, "start:e0 ");
}

/* Many times, with requests beginning and ending in both threads meanwhile; for ThreadSanitizer. */
static void co_fn body_cycles(GraphRig *rig)
{
    co_set_stage(rig);
    release_requests(true);
    for (unsigned turn = 0; turn < 100; turn++) {
        Export *exp = co_add_ok("e0");

        for (unsigned i = 0; i < 4; i++) {
            aio_co_enter(exp->queues[i % 2]->ctx, i < 2 ? data_request : other_request,
                         exp->queues[i % 2]);
        }
        co_del_ok("e0", BLOCK_EXPORT_REMOVE_MODE_HARD);
        while (export_registry_count(stage->registry)) {
            aio_co_sleep_ns(1 * MS);
        }
    }
    co_clear_stage(rig);
}

static void run_body(gconstpointer body)
{
    graph_rig_run((void co_fn (*)(GraphRig *))body, NULL);
}

#define ADD(path, body)                                                                            \
    g_test_add_data_func("/export/lifecycle/" path, (gconstpointer)body, run_body)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("order", body_order);
    ADD("node-goes", body_node_goes);
    ADD("failed-start", body_failed_start);
    ADD("failed-publish", body_failed_publish);
    ADD("safe", body_safe);
    ADD("bookkeeping", body_bookkeeping);
    ADD("hard", body_hard);
    ADD("hard-with-hung-flush", body_hard_with_hung_flush);
    ADD("safe-with-hung-flush", body_safe_with_hung_flush);
    ADD("deadline", body_deadline);
    ADD("lost", body_lost);
    ADD("lost-at-start", body_lost_at_start);
    ADD("quit", body_quit);
    ADD("quit-with-one-that-hangs", body_quit_with_one_that_hangs);
    ADD("quit-while-starting", body_quit_while_starting);
    ADD("quit-with-late-start", body_quit_with_late_start);
    ADD("two-deletions", body_two_deletions);
    ADD("used-without-requests", body_used_without_requests);
    ADD("delete-type", body_delete_type);
    ADD("delete-type-while-starting", body_delete_type_while_starting);
    ADD("delete-type-with-hung-start", body_delete_type_with_hung_start);
    ADD("cycles", body_cycles);
    return g_test_run();
}
