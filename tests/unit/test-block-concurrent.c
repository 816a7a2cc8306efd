/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Commands of several clients at the same time, at nodes that have to do with each other. */
#include <errno.h>

#include "block-fixture.h"
#include "block-script.h"
#include "block/query-internal.h"
#include "qapi/commands-block-core.h"

/* A command that runs beside others. */
typedef struct Command Command;
struct Command {
    QapiCall call;
    bool co_fn (*co_run)(Command *c);
    const char *name;
    bool ok, done;
    GError *error;
};

static void co_fn command_entry(void *opaque)
{
    Command *c = opaque;

    c->ok = c->co_run(c);
    c->done = true;
}

/* Begin it, and let it go as far as it can. */
static void command_start(Fixture *f, Command *c, bool co_fn (*co_run)(Command *c),
                          const char *name)
{
    *c = (Command){.call = {.self = f->graph}, .co_run = co_run, .name = name};
    aio_co_enter(f->main, command_entry, c);
    fixture_settle(f);
}

static void command_succeeds(Fixture *f, Command *c)
{
    fixture_wait(f, &c->done);
    g_assert_no_error(c->error);
    g_assert_true(c->ok);
}

static bool co_fn co_snapshot(Command *c)
{
    return qmp_blockdev_snapshot_internal_sync(&c->call, c->name, "s", &c->error);
}

static bool co_fn co_check(Command *c)
{
    g_autoptr(ImageCheck) result =
        qmp_blockdev_check(&c->call, c->name, IMAGE_REPAIR_NONE, &c->error);

    return result != NULL;
}

static Fixture *concurrent_new(void)
{
    Fixture *f = fixture_new();

    script_reset();
    fixture_add(f, "{'driver': 'memory', 'node-name': 'mem', 'size': 65536}");
    fixture_add(f, "{'driver': 'memory', 'node-name': 'other', 'size': 65536}");
    return f;
}

/* Snapshot commands and checks look at the image as a whole: one of them at a time. */
static void test_commands_on_image(void)
{
    g_autoptr(Fixture) f = concurrent_new();
    Command first, second, check;

    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'd', 'image': 'mem'}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'above', 'file': 'd'}");
    script_hold(SCRIPT_SNAPSHOT);
    script_hold(SCRIPT_CHECK);
    command_start(f, &first, co_snapshot, "d");
    command_start(f, &second, co_snapshot, "above");
    command_start(f, &check, co_check, "d");
    g_assert_cmpuint(script_count(SCRIPT_SNAPSHOT), ==, 1);
    g_assert_cmpuint(script_count(SCRIPT_CHECK), ==, 0);
    script_release(SCRIPT_SNAPSHOT);
    command_succeeds(f, &first);
    command_succeeds(f, &second);
    g_assert_cmpuint(script_count(SCRIPT_SNAPSHOT), ==, 2);
    script_release(SCRIPT_CHECK);
    command_succeeds(f, &check);

    /* And the other way round. */
    script_hold(SCRIPT_CHECK);
    command_start(f, &check, co_check, "d");
    command_start(f, &first, co_snapshot, "d");
    g_assert_cmpuint(script_held(SCRIPT_CHECK), ==, 1);
    g_assert_cmpuint(script_count(SCRIPT_SNAPSHOT), ==, 2);
    script_release(SCRIPT_CHECK);
    command_succeeds(f, &check);
    command_succeeds(f, &first);
}

static bool co_fn co_add(Command *c)
{
    g_autoptr(QValue) value = fixture_parse(c->name);
    g_autoptr(BlockdevOptions) opts = blockdev_options_from_qvalue(value, &c->error);

    return block_graph_co_add(c->call.self, opts, &c->error);
}

static bool co_fn co_del(Command *c)
{
    return block_graph_co_del(c->call.self, c->name, &c->error);
}

static bool co_fn co_reopen(Command *c)
{
    g_autoptr(QValue) value = fixture_parse(c->name);
    g_autoptr(GPtrArray) options =
        g_ptr_array_new_with_free_func((GDestroyNotify)blockdev_options_free);

    g_ptr_array_add(options, blockdev_options_from_qvalue(value, &c->error));
    return block_graph_co_reopen(c->call.self, options, &c->error);
}

#define EXCHANGE "{'driver': 'raw', 'node-name': 'r', 'file': 'other'}"
#define RW       (BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE)

static void assert_exchange_refused(Fixture *f, const char *word)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(fixture_try_reopen(f, "[" EXCHANGE "]", &error));
    assert_error(&error, word);
}

/* A chain of 'd', which is as slow as need be, over 'r' over 'mem'. */
static Fixture *chain_new(void)
{
    Fixture *f = concurrent_new();

    fixture_add(f, "{'driver': 'raw', 'node-name': 'r', 'file': 'mem'}");
    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'd', 'image': 'r'}");
    return f;
}

/* Write to @node, so that a flush has something to do. */
static void make_dirty(Fixture *f, const char *node)
{
    BlockBackend *blk = fixture_backend(f, node, "test", RW, BLOCK_PERM_ALL);

    g_assert_cmpint(fixture_fill(f, blk, 0, 512, 1), ==, 0);
    fixture_free_backend(f, blk);
}

/* What reads and writes below a node without a backend keeps a reopen away from there. */
static void test_reopen_below_open(void)
{
    g_autoptr(Fixture) f = chain_new();
    Command add;

    script.slow_open = true;
    command_start(f, &add, co_add, "{'driver': 'blkdebug', 'node-name': 'new', 'image': 'd'}");
    g_assert_false(add.done);
    assert_exchange_refused(f, "'new' is being opened");
    script_release_open();
    command_succeeds(f, &add);
    fixture_reopen(f, "[" EXCHANGE "]");
}

static void test_reopen_below_close(void)
{
    g_autoptr(Fixture) f = chain_new();
    Command del;

    make_dirty(f, "d");
    script_hold(SCRIPT_FLUSH);
    command_start(f, &del, co_del, "d");
    g_assert_cmpuint(script_held(SCRIPT_FLUSH), ==, 1);
    assert_exchange_refused(f, "'d' is being closed");
    script_release(SCRIPT_FLUSH);
    command_succeeds(f, &del);
    fixture_reopen(f, "[" EXCHANGE "]");
}

static void test_reopen_below_snapshot(void)
{
    g_autoptr(Fixture) f = chain_new();
    Command snapshot;

    script_hold(SCRIPT_SNAPSHOT);
    command_start(f, &snapshot, co_snapshot, "d");
    assert_exchange_refused(f, "while blockdev-snapshot-internal-sync is at work");
    script_release(SCRIPT_SNAPSHOT);
    command_succeeds(f, &snapshot);
    fixture_reopen(f, "[" EXCHANGE "]");
}

/* A node that is closed later waits for the reopen before it touches what is below. */
static void test_close_above_reopen(void)
{
    g_autoptr(Fixture) f = chain_new();
    BlockBackend *blk;
    Request write = {.op = REQUEST_WRITE, .bytes = 512, .buffer = (char[512]){0}};
    Command reopen, del;

    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'busy', 'image': 'r'}");
    blk = fixture_backend(f, "busy", "test", RW, BLOCK_PERM_ALL);
    make_dirty(f, "d");
    script_hold(SCRIPT_WRITE);
    write.blk = blk;
    request_start(&write, f->main);
    fixture_settle(f);
    g_assert_cmpuint(script_held(SCRIPT_WRITE), ==, 1);
    command_start(f, &reopen, co_reopen, EXCHANGE);
    g_assert_false(reopen.done);
    command_start(f, &del, co_del, "d");
    g_assert_false(del.done);
    g_assert_cmpuint(script_count(SCRIPT_FLUSH), ==, 0);
    script_release(SCRIPT_WRITE);
    command_succeeds(f, &reopen);
    command_succeeds(f, &del);
    g_assert_cmpuint(script_count(SCRIPT_FLUSH), ==, 1);
    fixture_free_backend(f, blk);
}

/* Holds the graph's lock until told, so that commands stand in the order in which they came. */
typedef struct Holder {
    BlockGraph *graph;
    bool release, done;
} Holder;

static void co_fn holder_entry(void *opaque)
{
    Holder *h = opaque;

    co_mutex_lock(&h->graph->change_lock);
    while (!h->release) {
        aio_co_sleep_ns(100000);
    }
    co_mutex_unlock(&h->graph->change_lock);
    h->done = true;
}

static void holder_start(Fixture *f, Holder *h)
{
    *h = (Holder){.graph = f->graph};
    aio_co_enter(f->main, holder_entry, h);
}

static void holder_release(Fixture *f, Holder *h)
{
    h->release = true;
    fixture_wait(f, &h->done);
}

static bool co_fn co_deactivate(Command *c)
{
    return block_graph_co_set_active(c->call.self, c->name, false, &c->error);
}

/* The node that is to be a child is made inactive after the reopen has looked at it. */
static void test_child_rests_during_reopen(void)
{
    g_autoptr(Fixture) f = chain_new();
    Command reopen, rest;
    Holder h;

    holder_start(f, &h);
    command_start(f, &reopen, co_reopen, EXCHANGE);
    command_start(f, &rest, co_deactivate, "other");
    holder_release(f, &h);
    fixture_wait(f, &reopen.done);
    command_succeeds(f, &rest);
    g_assert_false(reopen.ok);
    assert_error(&reopen.error, "'other' is inactive");
    g_assert_true(fixture_try_set_active(f, "other", true, NULL));
    fixture_reopen(f, "[" EXCHANGE "]");
}

static void expect_ended(Command *c, bool ok, const char *word)
{
    g_assert_true(c->done);
    g_assert_cmpint(c->ok, ==, ok);
    if (!ok) {
        assert_error(&c->error, word);
    }
}

#define LATE "did not end within 0.001 seconds"

/* A request that may wait for what is held up itself: all goes on, and the change fails. */
static void late_request(bool co_fn (*co_run)(Command *c), const char *name)
{
    g_autoptr(Fixture) f = chain_new();
    BlockBackend *blk = fixture_backend(f, "d", "test", RW, BLOCK_PERM_ALL);
    Request write = {.op = REQUEST_WRITE, .blk = blk, .bytes = 512, .buffer = (char[512]){0}};
    Command change;

    block_backend_set_allow_inactive(blk, true);
    f->graph->quiesce_ns = 1000000;
    script_hold(SCRIPT_WRITE);
    request_start(&write, f->main);
    command_start(f, &change, co_run, name);
    fixture_wait(f, &change.done);
    g_assert_false(request_done(&write));
    expect_ended(&change, false, LATE);
    fixture_assert_bytes(f, blk, 0, 512, 0);
    script_release(SCRIPT_WRITE);
    fixture_wait_count(f, &write.done, 1);
    g_assert_cmpint(write.result, ==, 0);
    f->graph->quiesce_ns = INT64_C(60000000000);
    command_start(f, &change, co_run, name);
    command_succeeds(f, &change);
    fixture_free_backend(f, blk);
}

static void test_late_request(void)
{
    late_request(co_reopen, "{'driver': 'blkdebug', 'node-name': 'd', 'image': 'r'}");
    late_request(co_deactivate, "d");
}

/* The same of a flush, which the change waits for, but nobody else. */
static void late_flush(bool co_fn (*co_run)(Command *c), const char *name)
{
    g_autoptr(Fixture) f = chain_new();
    BlockBackend *blk = fixture_backend(f, "d", "test", RW, BLOCK_PERM_ALL);
    Command change, other;
    Holder first, second;

    block_backend_set_allow_inactive(blk, true);
    f->graph->quiesce_ns = 1000000;
    /* Stop it where it has flushed what there was, and has given back the lock. */
    holder_start(f, &first);
    command_start(f, &change, co_run, name);
    holder_start(f, &second);
    holder_release(f, &first);
    fixture_settle(f);
    g_assert_cmpint(fixture_fill(f, blk, 0, 512, 1), ==, 0);
    script_hold(SCRIPT_FLUSH);
    holder_release(f, &second);
    while (script_held(SCRIPT_FLUSH) == 0 || f->graph->drains > 0) {
        aio_context_poll(f->main, true);
    }
    fixture_assert_bytes(f, blk, 0, 512, 1);
    /* Others change the graph, but exchange no edges under the flush. */
    command_start(f, &other, co_add, "{'driver': 'raw', 'node-name': 'x', 'file': 'd'}");
    command_succeeds(f, &other);
    command_start(f, &other, co_reopen, EXCHANGE);
    g_assert_false(change.done);
    g_assert_false(other.ok);
    script_release(SCRIPT_FLUSH);
    fixture_wait(f, &change.done);
    expect_ended(&change, false, LATE);
    fixture_wait(f, &other.done);
    g_clear_error(&other.error);
    fixture_free_backend(f, blk);
    fixture_del(f, "x");
}

static void test_late_flush(void)
{
    late_flush(co_reopen, "{'driver': 'blkdebug', 'node-name': 'd', 'image': 'r'}");
    g_assert_cmpuint(script_prepared, ==, 1);
    g_assert_cmpuint(script_aborted, ==, 1);
    late_flush(co_deactivate, "d");
}

/* A node becomes read-only after a truncate has looked at it, and before it begins. */
static void test_resize_during_reopen(void)
{
    g_autoptr(Fixture) f = concurrent_new();
    Request read = {.op = REQUEST_READ, .bytes = 512, .buffer = (char[512]){0}};
    Request resize = {.op = REQUEST_TRUNCATE, .bytes = 131072};
    Command reopen;

    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'd', 'read-only': true, 'image': 'mem'}");
    read.blk = fixture_backend(f, "d", "test", BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL);
    resize.blk = fixture_backend(f, "mem", "resizer", 0, BLOCK_PERM_ALL);
    script_hold(SCRIPT_READ);
    request_start(&read, f->main);
    command_start(f, &reopen, co_reopen,
                  "{'driver': 'memory', 'node-name': 'mem', 'size': 65536, 'read-only': true}");
    request_start(&resize, f->main);
    fixture_settle(f);
    g_assert_false(request_done(&resize));
    script_release(SCRIPT_READ);
    command_succeeds(f, &reopen);
    fixture_wait_count(f, &resize.done, 1);
    g_assert_cmpint(resize.result, ==, -EPERM);
    g_assert_cmpint(block_node_length(block_graph_find(f->graph, "mem", NULL)), ==, 65536);
    fixture_wait_count(f, &read.done, 1);
    fixture_free_backend(f, resize.blk);
    fixture_free_backend(f, read.blk);
}

/* As query-named-block-nodes does for each node. */
static bool co_fn co_query(Command *c)
{
    BlockNode *node = block_graph_find(c->call.self, c->name, &c->error);
    g_autoptr(BlockDeviceInfo) info = NULL;

    block_node_begin_read(node);
    info = block_query_co_node(node, false);
    block_node_end_read(node);
    return info->image->has_actual_size;
}

/* A node that a query is just asking leaves the graph. */
static void test_delete_during_query(void)
{
    g_autoptr(Fixture) f = chain_new();
    Command query, del;

    fixture_add(f, "{'driver': 'raw', 'node-name': 'top', 'file': 'd'}");
    script_hold(SCRIPT_SIZE);
    command_start(f, &query, co_query, "top");
    g_assert_cmpuint(script_held(SCRIPT_SIZE), ==, 1);
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'other'}]");
    command_start(f, &del, co_del, "d");
    g_assert_false(del.done);
    g_assert_cmpint(script_open_nodes, ==, 1);
    script_release(SCRIPT_SIZE);
    command_succeeds(f, &query);
    command_succeeds(f, &del);
    g_assert_cmpint(script_open_nodes, ==, 0);
}

#define RESTS 2000

/* Reads in an iothread without a pause, until one fails or it is told to stop. */
typedef struct Reader {
    BlockBackend *blk;
    int stop;      /* atomic */
    int result;    /* atomic */
    unsigned done; /* atomic */
} Reader;

static void co_fn reader_entry(void *opaque)
{
    Reader *r = opaque;
    char byte;

    while (!g_atomic_int_get(&r->stop) && !g_atomic_int_get(&r->result)) {
        g_atomic_int_set(&r->result, blk_co_preadv(r->blk, 0, IOV_LOCAL(&byte, 1), 0));
    }
    __atomic_store_n(&r->done, 1, __ATOMIC_SEQ_CST);
}

/* Nodes "n0" and so on over "d", each above the one before. */
static void add_tower(Fixture *f, unsigned height)
{
    for (unsigned i = 0; i < height; i++) {
        g_autofree char *below = i ? g_strdup_printf("n%u", i - 1) : g_strdup("d");
        g_autofree char *json =
            g_strdup_printf("{'driver': 'raw', 'node-name': 'n%u', 'file': '%s'}", i, below);

        fixture_add(f, json);
    }
}

/* A node that cannot be made inactive was active all the time to those who use it. */
static void test_reads_while_rest_fails(void)
{
    g_autoptr(Fixture) f = concurrent_new();
    Reader reader = {.result = 0};

    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'd', 'image': 'mem'}");
    add_tower(f, 40);
    fixture_start_threads(f);
    reader.blk = fixture_backend(f, "n39", "user", BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL);
    block_backend_set_allow_inactive(reader.blk, true);
    script.check_perm_error = EAGAIN;
    aio_co_enter(fixture_thread(f, 0), reader_entry, &reader);
    for (unsigned i = 0; i < RESTS; i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(fixture_try_set_active(f, "n39", false, &error));
        assert_error(&error, "locks it");
    }
    script.check_perm_error = 0;
    g_atomic_int_set(&reader.stop, 1);
    fixture_wait_count(f, &reader.done, 1);
    g_assert_cmpint(reader.result, ==, 0);
    fixture_free_backend(f, reader.blk);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block/concurrent/commands-on-image", test_commands_on_image);
    g_test_add_func("/block/concurrent/reopen-below-open", test_reopen_below_open);
    g_test_add_func("/block/concurrent/reopen-below-close", test_reopen_below_close);
    g_test_add_func("/block/concurrent/reopen-below-snapshot", test_reopen_below_snapshot);
    g_test_add_func("/block/concurrent/close-above-reopen", test_close_above_reopen);
    g_test_add_func("/block/concurrent/child-rests-during-reopen", test_child_rests_during_reopen);
    g_test_add_func("/block/concurrent/late-request", test_late_request);
    g_test_add_func("/block/concurrent/late-flush", test_late_flush);
    g_test_add_func("/block/concurrent/resize-during-reopen", test_resize_during_reopen);
    g_test_add_func("/block/concurrent/delete-during-query", test_delete_during_query);
    g_test_add_func("/block/concurrent/reads-while-rest-fails", test_reads_while_rest_fails);
    return g_test_run();
}
