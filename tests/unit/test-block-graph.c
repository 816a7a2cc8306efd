/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Nodes: names, references, children, adding and deleting (qsd-behaviour B1 to B3). */
#include <string.h>

#include "block-fixture.h"
#include "block-script.h"
#include "qapi/commands-block-core.h"

#define MEM "{'driver': 'memory', 'size': 65536, 'node-name': 'mem'}"
#define RW  (BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE)

static Fixture *graph_new(void)
{
    script_reset();
    return fixture_new();
}

static void count_one(BlockNode *node, void *opaque)
{
    ++*(unsigned *)opaque;
}

static unsigned count_nodes(Fixture *f)
{
    unsigned n = 0;

    block_graph_foreach(f->graph, count_one, &n);
    return n;
}

static void assert_not_added(Fixture *f, const char *json, const char *word)
{
    g_autoptr(GError) error = NULL;
    unsigned before = count_nodes(f);

    g_assert_false(fixture_try_add(f, json, &error));
    assert_error(&error, word);
    g_assert_cmpuint(count_nodes(f), ==, before);
}

static void test_add_read_write_del(void)
{
    g_autoptr(Fixture) f = graph_new();
    BlockBackend *blk;

    fixture_add(f, MEM);
    fixture_add(f, "{'driver': 'raw', 'file': 'mem', 'offset': 512, 'node-name': 'top'}");
    blk = fixture_backend(f, "top", "test", RW, BLOCK_PERM_ALL);
    g_assert_cmpint(blk_length(blk), ==, 65536 - 512);
    g_assert_cmpint(fixture_fill(f, blk, 100, 1000, 0x5a), ==, 0);
    fixture_assert_bytes(f, blk, 100, 1000, 0x5a);
    fixture_assert_bytes(f, blk, 0, 100, 0);
    fixture_assert_bytes(f, blk, 1100, 100, 0);
    fixture_free_backend(f, blk);
    fixture_del(f, "top");
    fixture_del(f, "mem");
    g_assert_cmpuint(count_nodes(f), ==, 0);
}

static void assert_name(Fixture *f, const char *name, bool good)
{
    g_autofree char *json = g_strdup_printf("{'driver': 'null-co', 'node-name': '%s'}", name);
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(fixture_try_add(f, json, &error), ==, good);
    if (good) {
        fixture_del(f, name);
    } else {
        g_assert_nonnull(error);
    }
}

static void test_names(void)
{
    g_autoptr(Fixture) f = graph_new();

    assert_name(f, "a", true);
    assert_name(f, "Z9-._x", true);
    assert_name(f, "a234567890123456789012345678901", true);
    assert_name(f, "a2345678901234567890123456789012", false);
    assert_name(f, "", false);
    assert_name(f, "9a", false);
    assert_name(f, "-a", false);
    assert_name(f, "a b", false);
    assert_name(f, "a/b", false);
    assert_name(f, "#block0", false);
    assert_name(f, "\xc3\xa4", false);
    assert_not_added(f, "{'driver': 'null-co'}", "node-name");
    fixture_add(f, MEM);
    assert_not_added(f, MEM, "already");
    assert_not_added(f, "{'driver': 'raw', 'node-name': 'mem', 'file': 'mem'}", "already");
}

static void test_failed_add_leaves_nothing(void)
{
    g_autoptr(Fixture) f = graph_new();

    fixture_add(f, MEM);
    assert_not_added(f, "{'driver': 'raw', 'node-name': 'r', 'file': 'nobody'}", "nobody");
    assert_not_added(f, "{'driver': 'raw', 'node-name': 'r', 'offset': 65537, 'file': 'mem'}",
                     "offset");
    assert_not_added(f,
                     "{'driver': 'raw', 'node-name': 'r', 'offset': 65000, 'size': 1024, "
                     "'file': 'mem'}",
                     "size");
    assert_not_added(f, "{'driver': 'raw', 'node-name': 'r', 'size': 1000, 'file': 'mem'}", "512");
    assert_not_added(f,
                     "{'driver': 'raw', 'node-name': 'r', 'offset': 2000, "
                     "'file': {'driver': 'null-co', 'size': 1000, 'node-name': 'inner'}}",
                     "offset");
    /* The same name for parent and child. */
    assert_not_added(f,
                     "{'driver': 'raw', 'node-name': 'r', "
                     "'file': {'driver': 'null-co', 'node-name': 'r'}}",
                     "already");
    assert_not_added(f,
                     "{'driver': 'raw', 'node-name': 'r', 'file': {'driver': 'raw', 'file': "
                     "{'driver': 'raw', 'file': 'nobody'}}}",
                     "nobody");
    /* Deep inside, after all children were opened. */
    script.no_open = true;
    assert_not_added(f,
                     "{'driver': 'blkdebug', 'node-name': 'd', 'image': "
                     "{'driver': 'raw', 'file': {'driver': 'null-co'}}}",
                     "script");
    script.no_open = false;
    /* All the names are free, and the node that was referred to is, too. */
    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'd', 'image': 'mem'}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'r', 'file': "
                   "{'driver': 'null-co', 'node-name': 'inner'}}");
    fixture_del(f, "d");
    fixture_del(f, "mem");
}

static void assert_not_deleted(Fixture *f, const char *name, const char *word)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(fixture_try_del(f, name, &error));
    assert_error(&error, word);
}

static void test_del(void)
{
    g_autoptr(Fixture) f = graph_new();
    BlockBackend *blk;

    fixture_add(f, MEM);
    fixture_add(f, "{'driver': 'raw', 'node-name': 'top', 'file': 'mem'}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'in', 'file': "
                   "{'driver': 'raw', 'node-name': 'ner', 'file': {'driver': 'null-co'}}}");
    g_assert_cmpuint(count_nodes(f), ==, 5);
    assert_not_deleted(f, "nobody", "nobody");
    assert_not_deleted(f, "mem", "'top'");
    assert_not_deleted(f, "ner", "'in'");
    blk = fixture_backend(f, "top", "export 'e'", RW, BLOCK_PERM_ALL);
    assert_not_deleted(f, "top", "export 'e'");
    fixture_free_backend(f, blk);
    fixture_del(f, "top");
    fixture_del(f, "mem");
    fixture_del(f, "in");
    g_assert_cmpuint(count_nodes(f), ==, 0);
}

/* What is written is flushed at the end, also when only the node above was written. */
static void test_del_flushes(void)
{
    g_autoptr(Fixture) f = graph_new();
    BlockBackend *blk;

    fixture_add(f, MEM);
    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'd', 'image': 'mem'}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'top', 'file': 'd'}");
    blk = fixture_backend(f, "top", "test", RW, BLOCK_PERM_ALL);
    g_assert_cmpint(fixture_fill(f, blk, 0, 10, 1), ==, 0);
    fixture_free_backend(f, blk);
    g_assert_cmpuint(script_count(SCRIPT_FLUSH), ==, 0);
    fixture_del(f, "top");
    g_assert_cmpuint(script_count(SCRIPT_FLUSH), ==, 1);
}

static void test_depth(void)
{
    g_autoptr(Fixture) f = graph_new();
    g_autoptr(GString) nested = g_string_new("{'driver': 'null-co'}");
    g_autoptr(GError) error = NULL;
    BlockBackend *blk;
    unsigned n = 0;

    fixture_add(f, "{'driver': 'memory', 'size': 4096, 'node-name': 'n0'}");
    for (bool ok = true; ok && n < 1000; n += ok) {
        g_autofree char *json =
            g_strdup_printf("{'driver': 'raw', 'node-name': 'n%u', 'file': 'n%u'}", n + 1, n);

        ok = fixture_try_add(f, json, &error);
    }
    g_assert_cmpuint(n, ==, 63);
    assert_error(&error, "64");
    blk = fixture_backend(f, "n63", "test", RW, BLOCK_PERM_ALL);
    g_assert_cmpint(fixture_fill(f, blk, 0, 4096, 0x22), ==, 0);
    fixture_assert_bytes(f, blk, 0, 4096, 0x22);
    g_assert_cmpint(fixture_truncate(f, blk, 8192, 0, &error), ==, 0);
    g_assert_cmpint(blk_length(blk), ==, 8192);
    fixture_free_backend(f, blk);

    for (unsigned i = 0; i < 150; i++) {
        g_string_prepend(nested, "{'driver': 'raw', 'file': ");
        g_string_append(nested, "}");
    }
    g_string_insert(nested, 1, "'node-name': 'deep', ");
    assert_not_added(f, nested->str, "64");
}

/* Each node has the one below it as two children: the ways down double with each. */
static void test_ways(void)
{
    g_autoptr(Fixture) f = graph_new();
    g_autoptr(GError) error = NULL;
    BlockBackend *blk;
    unsigned n = 0;

    fixture_add(f, "{'driver': 'memory', 'size': 65536, 'node-name': 'n0'}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'r', 'file': 'n0'}");
    script.twice = true;
    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'two', 'image': 'r'}");
    for (bool ok = true; ok && n < 12; n += ok) {
        g_autofree char *json =
            g_strdup_printf("{'driver': 'blkdebug', 'node-name': 'n%u', 'image': 'n%u'}", n + 1, n);

        ok = fixture_try_add(f, json, &error);
    }
    g_assert_cmpuint(n, ==, 10);
    assert_error(&error, "more than 1024 ways");
    g_assert_false(
        fixture_try_reopen(f, "[{'driver': 'raw', 'node-name': 'r', 'file': 'n10'}]", &error));
    assert_error(&error, "'two': the nodes below it");
    blk = fixture_backend(f, "n10", "test", RW, BLOCK_PERM_ALL);
    g_assert_cmpint(fixture_fill(f, blk, 0, 512, 1), ==, 0);
    g_assert_cmpint(fixture_flush(f, blk), ==, 0);
    fixture_assert_bytes(f, blk, 0, 512, 1);
    fixture_free_backend(f, blk);
    g_assert_true(fixture_try_set_active(f, NULL, false, NULL));
    g_assert_true(fixture_try_set_active(f, NULL, true, NULL));
    fixture_reopen(f, "[{'driver': 'raw', 'node-name': 'r', 'file': 'n9'}]");
}

/* Commands of several clients at the same time */

typedef struct Adder {
    Fixture *f;
    BlockdevOptions *opts;
    bool ok, done;
    GError *error;
} Adder;

static void adder_entry(void *opaque)
{
    Adder *a = opaque;

    a->ok = block_graph_co_add(a->f->graph, a->opts, &a->error);
    a->done = true;
}

static void adder_start(Adder *a, Fixture *f, const char *json)
{
    g_autoptr(QValue) value = NULL;

    value = fixture_parse(json);
    *a = (Adder){.f = f, .opts = blockdev_options_from_qvalue(value, NULL)};
    aio_co_enter(f->main, adder_entry, a);
    fixture_settle(f);
}

static void adder_clear(Adder *a)
{
    blockdev_options_free(a->opts);
    g_clear_error(&a->error);
}

static void test_concurrent_adds(void)
{
    g_autoptr(Fixture) f = graph_new();
    Adder a, b;

    fixture_add(f, MEM);
    script.slow_open = true;
    adder_start(&a, f, "{'driver': 'blkdebug', 'node-name': 'x', 'image': 'mem'}");
    g_assert_false(a.done);
    /* The name is taken, the node is of no use yet. */
    adder_start(&b, f, "{'driver': 'null-co', 'node-name': 'x'}");
    g_assert_true(b.done);
    g_assert_false(b.ok);
    assert_error(&b.error, "already");
    adder_clear(&b);
    assert_not_added(f, "{'driver': 'raw', 'node-name': 'y', 'file': 'x'}", "opened");
    assert_not_deleted(f, "x", "opened");
    /* Its child is in use already. */
    assert_not_deleted(f, "mem", "'x'");
    /* Meanwhile other things can be done. */
    fixture_add(f, "{'driver': 'null-co', 'node-name': 'other'}");
    fixture_reopen(f, "[{'driver': 'null-co', 'node-name': 'other', 'read-only': true}]");
    fixture_del(f, "other");
    script_release_open();
    fixture_wait(f, &a.done);
    g_assert_no_error(a.error);
    adder_clear(&a);
    fixture_del(f, "x");
}

static void test_close_during_add(void)
{
    Fixture *f = graph_new();
    Adder a;
    FixtureClose closing;

    fixture_add(f, MEM);
    script.slow_open = true;
    adder_start(&a, f, "{'driver': 'blkdebug', 'node-name': 'x', 'image': 'mem'}");
    fixture_close_start(f, &closing);
    fixture_settle(f);
    g_assert_false(closing.done);
    assert_not_added(f, "{'driver': 'null-co', 'node-name': 'late'}", "shutting down");
    script_release_open();
    fixture_wait(f, &closing.done);
    g_assert_true(a.done);
    g_assert_cmpint(script_open_nodes, ==, 0);
    adder_clear(&a);
    fixture_free(f);
}

/* Queries */

typedef struct Query {
    QapiCall call;
    bool flat, done;
    GPtrArray *nodes, *stats;
} Query;

static void query_entry(void *opaque)
{
    Query *q = opaque;

    q->nodes = qmp_query_named_block_nodes(&q->call, q->flat, NULL);
    q->stats = qmp_query_blockstats(&q->call, true, NULL);
    q->done = true;
}

static void query_clear(Query *q)
{
    g_clear_pointer(&q->nodes, g_ptr_array_unref);
    g_clear_pointer(&q->stats, g_ptr_array_unref);
}

static void test_query_nodes(void)
{
    g_autoptr(Fixture) f = graph_new();
    Query q = {.call = {.self = f->graph}};
    const BlockDeviceInfo *top, *mem, *null;
    const BlockdevChild *child;

    fixture_add(f, "{'driver': 'memory', 'size': 1000, 'node-name': 'mem'}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'top', 'file': 'mem', 'read-only': true, "
                   "'cache': {'no-flush': true}}");
    fixture_add(f, "{'driver': 'null-co', 'node-name': 'null'}");
    fixture_run(f, query_entry, &q);
    g_assert_cmpuint(q.nodes->len, ==, 3);
    null = g_ptr_array_index(q.nodes, 0);
    top = g_ptr_array_index(q.nodes, 1);
    mem = g_ptr_array_index(q.nodes, 2);
    g_assert_cmpstr(null->node_name, ==, "null");
    g_assert_cmpstr(null->file, ==, "null-co://");
    g_assert_false(null->image->has_actual_size);
    g_assert_cmpstr(top->node_name, ==, "top");
    g_assert_cmpstr(top->drv, ==, "raw");
    g_assert_true(top->ro);
    g_assert_true(top->active);
    g_assert_true(top->cache->no_flush);
    g_assert_cmpint(top->image->virtual_size, ==, 1024);
    g_assert_cmpuint(top->children->len, ==, 1);
    child = g_ptr_array_index(top->children, 0);
    g_assert_cmpstr(child->child, ==, "file");
    g_assert_cmpstr(child->node_name, ==, "mem");
    g_assert_cmpstr(
        top->image->filename, ==,
        "json:{\"driver\": \"raw\", \"file\": {\"driver\": \"memory\", \"size\": 1000}}");
    g_assert_cmpstr(mem->file, ==, "json:{\"driver\": \"memory\", \"size\": 1000}");
    g_assert_cmpuint(mem->children->len, ==, 0);
    query_clear(&q);
}

static void test_query_stats(void)
{
    g_autoptr(Fixture) f = graph_new();
    Query q = {.call = {.self = f->graph}};
    const BlockStats *mem, *top;
    BlockBackend *blk;

    fixture_add(f, MEM);
    fixture_add(f, "{'driver': 'raw', 'node-name': 'top', 'file': 'mem', 'offset': 4096}");
    blk = fixture_backend(f, "top", "test", RW, BLOCK_PERM_ALL);
    g_assert_cmpint(fixture_fill(f, blk, 512, 1000, 1), ==, 0);
    g_assert_cmpint(fixture_zero(f, blk, 0, 100, 0), ==, 0);
    fixture_assert_bytes(f, blk, 512, 1000, 1);
    fixture_free_backend(f, blk);
    fixture_run(f, query_entry, &q);
    mem = g_ptr_array_index(q.stats, 0);
    top = g_ptr_array_index(q.stats, 1);
    g_assert_cmpstr(mem->node_name, ==, "mem");
    g_assert_cmpstr(top->node_name, ==, "top");
    g_assert_cmpstr(top->parent->node_name, ==, "mem");
    g_assert_cmpint(top->stats->wr_operations, ==, 2);
    g_assert_cmpint(top->stats->wr_bytes, ==, 1100);
    g_assert_cmpint(top->stats->wr_highest_offset, ==, 1512);
    g_assert_cmpint(top->stats->rd_operations, ==, 1);
    g_assert_cmpint(top->stats->rd_bytes, ==, 1000);
    g_assert_cmpint(mem->stats->wr_operations, ==, 2);
    g_assert_cmpint(mem->stats->wr_highest_offset, ==, 4096 + 1512);
    g_assert_cmpint(mem->stats->rd_total_time_ns, >, 0);
    query_clear(&q);
}

typedef struct Resize {
    QapiCall call;
    const char *device, *node_name;
    int64_t size;
    bool ok;
    GError *error;
} Resize;

static void resize_entry(void *opaque)
{
    Resize *r = opaque;

    r->ok = qmp_block_resize(&r->call, r->device, r->node_name, r->size, &r->error);
}

static void assert_resize(Fixture *f, const char *device, const char *node_name, int64_t size,
                          const char *word)
{
    Resize r = {{.self = f->graph}, device, node_name, size, false, NULL};

    fixture_run(f, resize_entry, &r);
    if (word) {
        g_assert_false(r.ok);
        assert_error(&r.error, word);
    } else {
        g_assert_no_error(r.error);
        g_assert_true(r.ok);
    }
}

static void test_resize(void)
{
    g_autoptr(Fixture) f = graph_new();
    BlockNode *top;
    BlockBackend *blk;

    fixture_add(f, MEM);
    top = fixture_add(f, "{'driver': 'raw', 'node-name': 'top', 'file': 'mem', 'offset': 512}");
    fixture_add(f, "{'driver': 'null-co', 'node-name': 'null'}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'ro', 'file': 'mem', 'read-only': true}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'sized', 'file': 'mem', 'size': 512}");
    assert_resize(f, NULL, "top", 1001, NULL);
    g_assert_cmpint(block_node_length(top), ==, 1001);
    g_assert_cmpint(block_node_length(block_graph_find(f->graph, "mem", NULL)), ==, 1513);
    assert_resize(f, "ignored", "top", 0, NULL);
    g_assert_cmpint(block_node_length(top), ==, 0);
    /* What lies above follows. */
    assert_resize(f, NULL, "mem", 100000, NULL);
    g_assert_cmpint(block_node_length(top), ==, 100000 - 512);
    assert_resize(f, NULL, "mem", 100, NULL);
    g_assert_cmpint(block_node_length(top), ==, 0);

    assert_resize(f, "top", NULL, 1, "node-name");
    assert_resize(f, NULL, NULL, 1, "node-name");
    assert_resize(f, NULL, "nobody", 1, "nobody");
    assert_resize(f, NULL, "null", 1024, "null-co");
    assert_resize(f, NULL, "ro", 1024, "read-only");
    assert_resize(f, NULL, "sized", 1024, "size");
    assert_resize(f, NULL, "top", INT64_MAX, "too large");
    blk = fixture_backend(f, "top", "export 'nbd'", BLOCK_PERM_CONSISTENT_READ,
                          BLOCK_PERM_ALL & ~BLOCK_PERM_RESIZE);
    assert_resize(f, NULL, "top", 1024, "export 'nbd'");
    fixture_free_backend(f, blk);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block/graph/add-read-write-del", test_add_read_write_del);
    g_test_add_func("/block/graph/names", test_names);
    g_test_add_func("/block/graph/failed-add-leaves-nothing", test_failed_add_leaves_nothing);
    g_test_add_func("/block/graph/del", test_del);
    g_test_add_func("/block/graph/del-flushes", test_del_flushes);
    g_test_add_func("/block/graph/depth", test_depth);
    g_test_add_func("/block/graph/ways", test_ways);
    g_test_add_func("/block/graph/concurrent-adds", test_concurrent_adds);
    g_test_add_func("/block/graph/close-during-add", test_close_during_add);
    g_test_add_func("/block/graph/query/nodes", test_query_nodes);
    g_test_add_func("/block/graph/query/stats", test_query_stats);
    g_test_add_func("/block/graph/resize", test_resize);
    return g_test_run();
}
