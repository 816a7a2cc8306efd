/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/graph-rig.h"

#include "qapi/convert-block-core.h"
#include "qapi/json-parser.h"

typedef struct RigRun {
    GraphRig *rig;
    void co_fn (*body)(GraphRig *rig);
} RigRun;

static void co_fn run_body(void *opaque)
{
    RigRun *run = opaque;

    run->body(run->rig);
}

void graph_rig_run(void co_fn (*body)(GraphRig *rig), gpointer user)
{
    g_autoptr(Fixture) fixture = fixture_new();
    GraphRig rig = {
        .fixture = fixture, .ctx = fixture->main, .graph = fixture->graph, .user = user};
    RigRun run = {.rig = &rig, .body = body};

    fixture_run(fixture, run_body, &run);
}

typedef struct RigTest {
    void co_fn (*body)(GraphRig *rig);
    gconstpointer user;
} RigTest;

static void run_test(gconstpointer opaque)
{
    const RigTest *test = opaque;

    graph_rig_run(test->body, (gpointer)test->user);
}

void graph_rig_add_test(const char *path, void co_fn (*body)(GraphRig *rig), gconstpointer user)
{
    RigTest *test = g_new(RigTest, 1);

    *test = (RigTest){body, user};
    g_test_add_data_func_full(path, test, run_test, g_free);
}

BlockdevOptions *graph_rig_options(const char *json)
{
    GError *error = NULL;
    g_autoptr(QValue) value = qvalue_from_json(json, -1, &error);
    BlockdevOptions *opts;

    g_assert_no_error(error);
    opts = blockdev_options_from_qvalue(value, &error);
    g_assert_no_error(error);
    return opts;
}

BlockNode *co_fn graph_rig_co_add(GraphRig *rig, BlockdevOptions *opts)
{
    g_autoptr(BlockdevOptions) o = opts;
    GError *error = NULL;

    g_assert_true(block_graph_co_add(rig->graph, o, &error));
    g_assert_no_error(error);
    return block_graph_find(rig->graph, o->node_name, NULL);
}

char *co_fn graph_rig_co_add_fails(GraphRig *rig, BlockdevOptions *opts)
{
    g_autoptr(BlockdevOptions) o = opts;
    g_autoptr(GError) error = NULL;

    g_assert_false(block_graph_co_add(rig->graph, o, &error));
    g_assert_nonnull(error);
    g_assert_null(block_graph_find(rig->graph, o->node_name, NULL));
    return g_strdup(error->message);
}

void co_fn graph_rig_co_del(GraphRig *rig, const char *name)
{
    GError *error = NULL;

    g_assert_true(block_graph_co_del(rig->graph, name, &error));
    g_assert_no_error(error);
}

char *co_fn graph_rig_co_reopen(GraphRig *rig, BlockdevOptions *opts)
{
    g_autoptr(GPtrArray) list =
        g_ptr_array_new_with_free_func((GDestroyNotify)blockdev_options_free);
    g_autoptr(GError) error = NULL;
    bool ok;

    g_ptr_array_add(list, opts);
    ok = block_graph_co_reopen(rig->graph, list, &error);
    g_assert_true(ok == (error == NULL));
    return error ? g_strdup(error->message) : NULL;
}

BlockBackend *co_fn graph_rig_co_use(BlockNode *node, BlockPerm perm)
{
    GError *error = NULL;
    BlockBackend *blk = block_backend_co_new(node, "test", perm, BLOCK_PERM_ALL, &error);

    g_assert_no_error(error);
    g_assert_nonnull(blk);
    return blk;
}

void graph_rig_fill(uint8_t *buffer, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++) {
        buffer[i] = (uint8_t)(i * 7 + i / 251 + seed + 1);
    }
}

void co_fn graph_rig_co_write(BlockBackend *blk, uint64_t offset, size_t n, unsigned seed,
                              BlockRequestFlags flags)
{
    g_autofree uint8_t *buffer = g_malloc(n);

    graph_rig_fill(buffer, n, seed);
    g_assert_cmpint(blk_co_pwritev(blk, offset, IOV_LOCAL(buffer, n), flags), ==, 0);
}

void co_fn graph_rig_co_expect(BlockBackend *blk, uint64_t offset, size_t n, unsigned seed)
{
    g_autofree uint8_t *wanted = g_malloc(n);
    g_autofree uint8_t *buffer = g_malloc(n);

    graph_rig_fill(wanted, n, seed);
    g_assert_cmpint(blk_co_preadv(blk, offset, IOV_LOCAL(buffer, n), 0), ==, 0);
    g_assert_cmpmem(buffer, n, wanted, n);
}

void co_fn graph_rig_co_expect_zeros(BlockBackend *blk, uint64_t offset, size_t n)
{
    g_autofree uint8_t *wanted = g_malloc0(n);
    g_autofree uint8_t *buffer = g_malloc(n);

    memset(buffer, 0xee, n);
    g_assert_cmpint(blk_co_preadv(blk, offset, IOV_LOCAL(buffer, n), 0), ==, 0);
    g_assert_cmpmem(buffer, n, wanted, n);
}
