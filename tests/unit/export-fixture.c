/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "export-fixture.h"

#include "qapi/json-parser.h"

typedef struct FixtureRun {
    ExportFixture *fixture;
    ExportFixtureFn *fn;
    gpointer opaque;
    bool done;
} FixtureRun;

static void co_fn fixture_run_entry(void *opaque)
{
    FixtureRun *run = opaque;

    run->fn(run->fixture, run->opaque);
    run->done = true;
}

void export_fixture_run(ExportFixture *fixture, ExportFixtureFn *fn, gpointer opaque)
{
    FixtureRun run = {fixture, fn, opaque, false};

    aio_co_enter(fixture->ctx, fixture_run_entry, &run);
    while (!run.done) {
        aio_context_poll(fixture->ctx, true);
    }
}

static void co_fn fixture_co_open(ExportFixture *fixture, gpointer json)
{
    FuseExport *fe = fixture->fe;
    BlockPerm perm =
        BLOCK_PERM_CONSISTENT_READ | (fe->common.writable ? BLOCK_PERM_WRITE : (BlockPerm)0);
    g_autoptr(BlockdevOptions) options = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(QValue) value = qvalue_from_json(json, -1, &error);

    g_assert_no_error(error);
    options = blockdev_options_from_qvalue(value, &error);
    g_assert_no_error(error);
    block_graph_co_add(fixture->graph, options, &error);
    g_assert_no_error(error);
    fixture->node = block_graph_find(fixture->graph, "n0", &error);
    g_assert_no_error(error);
    fe->common.blk =
        block_backend_co_new(fixture->node, fe->common.user, perm, BLOCK_PERM_ALL, &error);
    g_assert_no_error(error);
}

static void co_fn fixture_co_close(ExportFixture *fixture, gpointer unused)
{
    block_backend_co_free(fixture->fe->common.blk);
    block_graph_co_close_all(fixture->graph);
}

FuseQueue *export_fixture_queue(ExportFixture *fixture)
{
    return (FuseQueue *)fixture->fe->common.queues[0];
}

static void fixture_add_queue(ExportFixture *fixture)
{
    FuseExport *fe = fixture->fe;
    FuseQueue *queue = g_new0(FuseQueue, 1);

    queue->common.exp = &fe->common;
    queue->common.ctx = aio_context_ref(fixture->ctx);
    queue->channel.fd = -1;
    fe->common.queues = g_new0(ExportQueue *, 1);
    fe->common.queues[0] = &queue->common;
    fe->common.n_queues = 1;
}

ExportFixture *export_fixture_new(const char *node_json, bool writable, bool growable)
{
    ExportFixture *fixture = g_new0(ExportFixture, 1);
    FuseExport *fe = g_new0(FuseExport, 1);
    g_autoptr(GError) error = NULL;

    fixture->ctx = aio_context_new(NULL, &error);
    g_assert_no_error(error);
    fixture->graph = block_graph_new(fixture->ctx, NULL);
    fixture->fe = fe;
    fe->common.main = fixture->ctx;
    fe->common.user = g_strdup("export 'e0'");
    fe->common.refs = 1;
    fe->common.writable = writable;
    /* Whoever tells of a loss finds an export that is gone already, and does nothing. */
    fe->common.state = EXPORT_GONE;
    fe->growable = growable;
    fe->mount.fd = -1;
    fe->mount.allow_other = true;
    fuse_attributes_init(fe);
    fixture_add_queue(fixture);
    export_fixture_run(fixture, fixture_co_open, (gpointer)node_json);
    fuse_end_init(fe);
    return fixture;
}

void export_fixture_free(ExportFixture *fixture)
{
    export_fixture_run(fixture, fixture_co_close, NULL);
    block_graph_free(fixture->graph);
    export_unref(&fixture->fe->common);
    aio_context_unref(fixture->ctx);
    g_free(fixture);
}

static void co_fn fixture_co_drain(ExportFixture *fixture, gpointer unused)
{
    block_node_co_drain_begin(fixture->node);
}

static void co_fn fixture_co_undrain(ExportFixture *fixture, gpointer unused)
{
    block_node_co_drain_end(fixture->node);
}

void export_fixture_drain(ExportFixture *fixture)
{
    export_fixture_run(fixture, fixture_co_drain, NULL);
}

void export_fixture_undrain(ExportFixture *fixture)
{
    export_fixture_run(fixture, fixture_co_undrain, NULL);
}

typedef struct FixtureServe {
    FuseCall *call;
    const FuseOperation *operation;
    int ret;
} FixtureServe;

static void co_fn fixture_co_serve(ExportFixture *fixture, gpointer opaque)
{
    FixtureServe *serve = opaque;

    serve->ret = serve->operation->co_serve(serve->call);
}

/* Run @operation, if there is one; @err is the answer where there is none. */
static int fixture_serve(ExportFixture *fixture, FuseCall *call, const FuseOperation *operation,
                         int err)
{
    FixtureServe serve = {call, operation, err};

    if (operation) {
        call->queue = export_fixture_queue(fixture);
        export_fixture_run(fixture, fixture_co_serve, &serve);
    }
    return serve.ret;
}

int export_fixture_serve(ExportFixture *fixture, FuseCall *call, const void *message, size_t bytes,
                         void *payload)
{
    int err;
    const FuseOperation *operation =
        fuse_call_parse(call, fixture->fe, message, bytes, payload, &err);

    return fixture_serve(fixture, call, operation, err);
}

int export_fixture_serve_entry(ExportFixture *fixture, FuseCall *call, const UringHeaders *headers,
                               void *data)
{
    int err;
    const FuseOperation *operation = fuse_uring_parse(call, fixture->fe, headers, data, &err);

    return fixture_serve(fixture, call, operation, err);
}
