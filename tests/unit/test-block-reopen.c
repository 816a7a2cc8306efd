/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blockdev-reopen (qsd-behaviour B4): all or none, defaults return, children are exchanged. */
#include <errno.h>
#include <string.h>

#include "block-fixture.h"
#include "block/driver.h"
#include "block-script.h"

#define RW  (BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE)
#define ALL BLOCK_PERM_ALL

static Fixture *reopen_new(void)
{
    Fixture *f = fixture_new();

    script_reset();
    fixture_add(f, "{'driver': 'memory', 'node-name': 'f', 'size': 65536}");
    fixture_add(f, "{'driver': 'memory', 'node-name': 'g', 'size': 32768}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'top', 'file': 'f'}");
    return f;
}

static const BlockNodeFlags *flags(Fixture *f, const char *name)
{
    return block_node_flags(block_graph_find(f->graph, name, NULL));
}

static void test_empty(void)
{
    g_autoptr(Fixture) f = reopen_new();

    fixture_reopen(f, "[]");
}

static void test_defaults_return(void)
{
    g_autoptr(Fixture) f = reopen_new();

    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'f', 'read-only': true, "
                      "'discard': 'unmap', 'detect-zeroes': 'unmap', "
                      "'cache': {'direct': true, 'no-flush': true}}]");
    g_assert_true(flags(f, "top")->read_only);
    g_assert_true(flags(f, "top")->cache_direct);
    g_assert_true(flags(f, "top")->cache_no_flush);
    g_assert_true(flags(f, "top")->discard_unmap);
    g_assert_cmpint(flags(f, "top")->detect_zeroes, ==, BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP);
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'f'}]");
    g_assert_false(flags(f, "top")->read_only);
    g_assert_false(flags(f, "top")->cache_direct);
    g_assert_false(flags(f, "top")->cache_no_flush);
    g_assert_false(flags(f, "top")->discard_unmap);
    g_assert_cmpint(flags(f, "top")->detect_zeroes, ==, BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF);
}

/* A node made with another takes that one's new options over, whichever is named first. */
static void test_order_of_inheritance(void)
{
    g_autoptr(Fixture) f = reopen_new();

    fixture_add(f, "{'driver': 'raw', 'node-name': 'outer', "
                   "'file': {'driver': 'raw', 'node-name': 'inner', 'file': 'f'}}");
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'inner', 'file': 'f'}, "
                      "{'driver': 'raw', 'node-name': 'outer', 'file': 'inner', "
                      "'read-only': true, 'cache': {'direct': true}}]");
    g_assert_true(flags(f, "inner")->read_only);
    g_assert_true(flags(f, "inner")->cache_direct);
}

/* What follows its child, if that can only be read, does so after a reopen, too. */
static void test_auto_read_only(void)
{
    g_autoptr(Fixture) f = reopen_new();

    fixture_reopen(f, "[{'driver': 'memory', 'node-name': 'g', 'size': 32768, 'read-only': true}]");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'x', 'file': 'g', 'auto-read-only': true}");
    g_assert_true(flags(f, "x")->read_only);
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'x', 'file': 'g', 'auto-read-only': true}]");
    g_assert_true(flags(f, "x")->read_only);
    /* Another child, or the same one with other options, whichever is named first. */
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'x', 'file': 'f', 'auto-read-only': true}]");
    g_assert_false(flags(f, "x")->read_only);
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'x', 'file': 'g', 'auto-read-only': true}]");
    g_assert_true(flags(f, "x")->read_only);
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'x', 'file': 'g', 'auto-read-only': true}, "
                      "{'driver': 'memory', 'node-name': 'g', 'size': 32768}]");
    g_assert_false(flags(f, "x")->read_only);
    fixture_reopen(f, "[{'driver': 'memory', 'node-name': 'g', 'size': 32768, 'read-only': true}, "
                      "{'driver': 'raw', 'node-name': 'x', 'file': 'g', 'auto-read-only': true}]");
    g_assert_true(flags(f, "x")->read_only);
}

/* It may outlive that one. */
static void test_origin_is_gone(void)
{
    g_autoptr(Fixture) f = reopen_new();
    g_autoptr(GError) error = NULL;

    fixture_add(f, "{'driver': 'raw', 'node-name': 'outer', 'read-only': true, "
                   "'file': {'driver': 'raw', 'node-name': 'inner', 'file': 'f'}}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'other', 'file': 'inner', 'read-only': true}");
    fixture_del(f, "outer");
    g_assert_false(fixture_try_del(f, "inner", &error));
    assert_error(&error, "is gone");
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'inner', 'file': 'f'}]");
    g_assert_false(flags(f, "inner")->read_only);
    fixture_del(f, "other");
    g_assert_null(block_graph_find(f->graph, "inner", NULL));
}

static void assert_refused(Fixture *f, const char *json, const char *word)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(fixture_try_reopen(f, json, &error));
    assert_error(&error, word);
}

static void test_refused(void)
{
    g_autoptr(Fixture) f = reopen_new();
    BlockBackend *writer;

    assert_refused(f, "[{'driver': 'raw', 'file': 'f'}]", "node-name");
    assert_refused(f, "[{'driver': 'raw', 'node-name': 'nobody', 'file': 'f'}]", "nobody");
    assert_refused(f, "[{'driver': 'null-co', 'node-name': 'top'}]", "driver");
    assert_refused(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'nobody'}]", "nobody");
    assert_refused(f, "[{'driver': 'raw', 'node-name': 'top', 'file': {'driver': 'null-co'}}]",
                   "file");
    assert_refused(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'top'}]", "itself");
    assert_refused(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'f', 'offset': 70000}]",
                   "offset");
    assert_refused(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'f', 'force-share': true}]",
                   "force-share");
    assert_refused(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'f', 'active': false}]",
                   "blockdev-set-active");
    assert_refused(f, "[{'driver': 'memory', 'node-name': 'f', 'size': 1}]", "size");
    assert_refused(f,
                   "[{'driver': 'raw', 'node-name': 'top', 'file': 'f'}, "
                   "{'driver': 'raw', 'node-name': 'top', 'file': 'f'}]",
                   "twice");
    writer = fixture_backend(f, "top", "export 'e'", RW, ALL);
    assert_refused(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'f', 'read-only': true}]",
                   "export 'e'");
    /* The child cannot become read-only either. */
    assert_refused(f, "[{'driver': 'memory', 'node-name': 'f', 'size': 65536, 'read-only': true}]",
                   "read-only");
    g_assert_cmpint(fixture_fill(f, writer, 0, 100, 1), ==, 0);
    fixture_free_backend(f, writer);
}

/* The second of two fails: the first is as before, in every respect. */
static void test_all_or_none(void)
{
    g_autoptr(Fixture) f = reopen_new();
    BlockBackend *blk;

    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'dbg', 'image': 'g'}");
    blk = fixture_backend(f, "top", "export 'e'", RW, ALL);
    g_assert_cmpint(fixture_fill(f, blk, 0, 100, 0x22), ==, 0);
    script_prepare_fails = true;
    assert_refused(f,
                   "[{'driver': 'raw', 'node-name': 'top', 'file': 'g', 'discard': 'unmap'}, "
                   "{'driver': 'blkdebug', 'node-name': 'dbg', 'image': 'g'}]",
                   "script");
    g_assert_false(flags(f, "top")->discard_unmap);
    fixture_assert_bytes(f, blk, 0, 100, 0x22);
    g_assert_cmpint(blk_length(blk), ==, 65536);

    /* Refused by permissions, after all have prepared. */
    script_prepare_fails = false;
    script.check_perm_error = EAGAIN;
    assert_refused(f,
                   "[{'driver': 'raw', 'node-name': 'top', 'file': 'dbg', 'discard': 'unmap'}, "
                   "{'driver': 'blkdebug', 'node-name': 'dbg', 'image': 'g'}]",
                   "script");
    g_assert_cmpuint(script_prepared, ==, 1);
    g_assert_cmpuint(script_aborted, ==, 1);
    g_assert_cmpuint(script_committed, ==, 0);
    fixture_assert_bytes(f, blk, 0, 100, 0x22);
    g_assert_false(flags(f, "top")->discard_unmap);
    script.check_perm_error = 0;
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'dbg', 'discard': 'unmap'}, "
                      "{'driver': 'blkdebug', 'node-name': 'dbg', 'image': 'g'}]");
    g_assert_cmpuint(script_committed, ==, 1);
    fixture_assert_bytes(f, blk, 0, 100, 0);
    fixture_free_backend(f, blk);
}

static void count_call(BlockChanges changes, void *opaque)
{
    ++*(unsigned *)opaque;
}

typedef struct Listen {
    BlockBackend *blk;
    unsigned calls;
} Listen;

static void listen_entry(void *opaque)
{
    Listen *l = opaque;

    blk_set_change_notify(l->blk, count_call, &l->calls);
}

static void test_exchange_child(void)
{
    g_autoptr(Fixture) f = reopen_new();
    g_autoptr(GError) error = NULL;
    BlockBackend *blk = fixture_backend(f, "top", "export 'e'", RW, ALL);
    Listen l = {blk, 0};

    fixture_run(f, listen_entry, &l);
    g_assert_cmpint(fixture_fill(f, blk, 0, 100, 0x22), ==, 0);
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'g'}]");
    fixture_settle(f);
    g_assert_cmpuint(l.calls, >, 0);
    g_assert_cmpint(blk_length(blk), ==, 32768);
    fixture_assert_bytes(f, blk, 0, 100, 0);
    g_assert_cmpint(fixture_fill(f, blk, 0, 100, 0x33), ==, 0);
    /* The old child is free, the new one is in use. */
    g_assert_false(fixture_try_del(f, "g", &error));
    assert_error(&error, "'top'");
    fixture_del(f, "f");
    fixture_free_backend(f, blk);
}

/* An inline child goes when it is exchanged for another one. */
static void test_exchange_inline(void)
{
    g_autoptr(Fixture) f = reopen_new();

    fixture_add(f, "{'driver': 'raw', 'node-name': 'x', "
                   "'file': {'driver': 'null-co', 'node-name': 'inner'}}");
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'x', 'file': 'inner'}]");
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'x', 'file': 'g'}]");
    g_assert_null(block_graph_find(f->graph, "inner", NULL));
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'x', 'file': 'f'}]");
}

static void put_at(Fixture *f, const char *child)
{
    g_autofree char *json = g_strdup_printf(
        "[{'driver': 'raw', 'node-name': 'top', 'file': '%s', 'size': 32768}]", child);

    fixture_reopen(f, json);
}

static void write_a_bit(Fixture *f, BlockBackend *blk)
{
    g_assert_cmpint(fixture_fill(f, blk, 0, 512, 1), ==, 0);
}

/* What a child has lost is told once, wherever the edge leads by then; no other's loss is. */
static void test_exchange_losses(void)
{
    g_autoptr(Fixture) f = reopen_new();
    BlockNode *old = block_graph_find(f->graph, "f", NULL);
    BlockNode *other = block_graph_find(f->graph, "g", NULL);
    BlockBackend *blk;

    block_node_report_loss(other);
    blk = fixture_backend(f, "top", "user", RW, ALL);
    write_a_bit(f, blk);
    put_at(f, "g");
    g_assert_cmpint(fixture_flush(f, blk), ==, 0);
    write_a_bit(f, blk);
    put_at(f, "f");
    g_assert_cmpint(fixture_flush(f, blk), ==, 0);
    write_a_bit(f, blk);
    block_node_report_loss(old);
    put_at(f, "g");
    g_assert_cmpint(fixture_flush(f, blk), ==, -EIO);
    g_assert_cmpint(fixture_flush(f, blk), ==, 0);
    /* One that fails changes nothing. */
    write_a_bit(f, blk);
    block_node_report_loss(other);
    block_node_report_loss(other);
    assert_refused(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'f', 'offset': 70000}]",
                   "offset");
    g_assert_cmpint(fixture_flush(f, blk), ==, -EIO);
    g_assert_cmpint(fixture_flush(f, blk), ==, 0);
    fixture_free_backend(f, blk);
}

static void test_loops(void)
{
    g_autoptr(Fixture) f = reopen_new();

    fixture_add(f, "{'driver': 'raw', 'node-name': 'upper', 'file': 'top'}");
    assert_refused(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'upper'}]", "itself");
    fixture_del(f, "upper");
    /* Harmless one by one, a loop together. */
    fixture_add(f, "{'driver': 'raw', 'node-name': 'other', 'file': 'g'}");
    assert_refused(f,
                   "[{'driver': 'raw', 'node-name': 'top', 'file': 'other'}, "
                   "{'driver': 'raw', 'node-name': 'other', 'file': 'top'}]",
                   "itself");
    /* The other way round: turning a chain over is no loop. */
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'other'}]");
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'f'}, "
                      "{'driver': 'raw', 'node-name': 'other', 'file': 'top'}]");
}

static void test_conflict_of_exchange(void)
{
    g_autoptr(Fixture) f = reopen_new();
    BlockBackend *writer = fixture_backend(f, "top", "export 'e'", RW, ALL);
    BlockBackend *guard =
        fixture_backend(f, "g", "job 'j'", BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_CONSISTENT_READ);

    assert_refused(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'g'}]", "job 'j'");
    g_assert_cmpint(blk_length(writer), ==, 65536);
    g_assert_cmpint(fixture_fill(f, writer, 0, 100, 1), ==, 0);
    fixture_free_backend(f, guard);
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'g'}]");
    fixture_free_backend(f, writer);
}

/* What an inline child took over changes with its parent. */
static void test_inheritance(void)
{
    g_autoptr(Fixture) f = reopen_new();

    fixture_add(f, "{'driver': 'raw', 'node-name': 'x', 'cache': {'direct': true}, "
                   "'file': {'driver': 'null-co', 'node-name': 'y'}}");
    g_assert_true(flags(f, "y")->cache_direct);
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'x', 'file': 'y', 'read-only': true}]");
    g_assert_false(flags(f, "y")->cache_direct);
    g_assert_true(flags(f, "y")->read_only);
    g_assert_true(flags(f, "y")->discard_unmap);
}

static void test_raw_window(void)
{
    g_autoptr(Fixture) f = reopen_new();
    BlockBackend *blk = fixture_backend(f, "top", "export 'e'", RW, ALL);

    g_assert_cmpint(fixture_fill(f, blk, 512, 512, 0x22), ==, 0);
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'f', 'offset': 512, "
                      "'size': 1024}]");
    g_assert_cmpint(blk_length(blk), ==, 1024);
    fixture_assert_bytes(f, blk, 0, 512, 0x22);
    fixture_assert_bytes(f, blk, 512, 512, 0);
    fixture_free_backend(f, blk);
}

/* Requests from other threads wait during a reopen and do not fail. */
typedef struct Worker {
    BlockBackend *blk;
    bool stop; /* atomic */
    unsigned ended;
} Worker;

static void worker_entry(void *opaque)
{
    Worker *w = opaque;
    char buffer[512];

    while (!__atomic_load_n(&w->stop, __ATOMIC_SEQ_CST)) {
        g_assert_cmpint(blk_co_preadv(w->blk, 0, IOV_LOCAL(buffer, sizeof(buffer)), 0), ==, 0);
        g_assert_cmpint(blk_co_pwritev(w->blk, 0, IOV_LOCAL(buffer, sizeof(buffer)), 0), ==, 0);
        aio_co_sleep_ns(1000);
    }
    __atomic_fetch_add(&w->ended, 1, __ATOMIC_SEQ_CST);
}

static void test_under_load(void)
{
    g_autoptr(Fixture) f = reopen_new();
    BlockBackend *blk = fixture_backend(f, "top", "export 'e'", RW, ALL);
    Worker w = {.blk = blk};

    fixture_start_threads(f);
    for (unsigned i = 0; i < FIXTURE_THREADS; i++) {
        aio_co_enter(fixture_thread(f, i), worker_entry, &w);
    }
    for (unsigned i = 0; i < 50; i++) {
        fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'g', "
                          "'discard': 'unmap', 'offset': 512}]");
        fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'top', 'file': 'f'}]");
    }
    __atomic_store_n(&w.stop, true, __ATOMIC_SEQ_CST);
    fixture_wait_count(f, &w.ended, FIXTURE_THREADS);
    fixture_free_backend(f, blk);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block/reopen/empty", test_empty);
    g_test_add_func("/block/reopen/defaults-return", test_defaults_return);
    g_test_add_func("/block/reopen/order-of-inheritance", test_order_of_inheritance);
    g_test_add_func("/block/reopen/auto-read-only", test_auto_read_only);
    g_test_add_func("/block/reopen/origin-is-gone", test_origin_is_gone);
    g_test_add_func("/block/reopen/refused", test_refused);
    g_test_add_func("/block/reopen/all-or-none", test_all_or_none);
    g_test_add_func("/block/reopen/exchange-child", test_exchange_child);
    g_test_add_func("/block/reopen/exchange-inline", test_exchange_inline);
    g_test_add_func("/block/reopen/exchange-losses", test_exchange_losses);
    g_test_add_func("/block/reopen/loops", test_loops);
    g_test_add_func("/block/reopen/conflict-of-exchange", test_conflict_of_exchange);
    g_test_add_func("/block/reopen/inheritance", test_inheritance);
    g_test_add_func("/block/reopen/raw-window", test_raw_window);
    g_test_add_func("/block/reopen/under-load", test_under_load);
    return g_test_run();
}
