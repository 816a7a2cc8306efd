/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nbd-fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

#include "qapi/json-parser.h"

/* Not long, for tests that wait for it. */
#define LINGER_NS (50 * G_GINT64_CONSTANT(1000000))

typedef void FixtureFn(NbdFixture *fixture, gconstpointer opaque);

typedef struct FixtureRun {
    NbdFixture *fixture;
    FixtureFn *fn;
    gconstpointer opaque;
    bool done;
} FixtureRun;

static void co_fn fixture_run_entry(void *opaque)
{
    FixtureRun *run = opaque;

    run->fn(run->fixture, run->opaque);
    run->done = true;
}

/* Run @fn in a coroutine of the context and wait for its end. */
static void fixture_run(NbdFixture *fixture, FixtureFn *fn, gconstpointer opaque)
{
    FixtureRun run = {fixture, fn, opaque, false};

    aio_co_enter(fixture->ctx, fixture_run_entry, &run);
    while (!run.done) {
        aio_context_poll(fixture->ctx, true);
    }
}

NbdQueue *nbd_fixture_queue(NbdFixture *fixture)
{
    return (NbdQueue *)fixture->ne->common.queues[0];
}

static void co_fn fixture_co_open(NbdFixture *fixture, gconstpointer json)
{
    Export *exp = &fixture->ne->common;
    BlockPerm perm = BLOCK_PERM_CONSISTENT_READ | (exp->writable ? BLOCK_PERM_WRITE : (BlockPerm)0);
    g_autoptr(GError) error = NULL;
    g_autoptr(QValue) value = qvalue_from_json(json, -1, &error);
    g_autoptr(BlockdevOptions) options = NULL;

    g_assert_no_error(error);
    options = blockdev_options_from_qvalue(value, &error);
    g_assert_no_error(error);
    block_graph_co_add(fixture->graph, options, &error);
    g_assert_no_error(error);
    fixture->node = block_graph_find(fixture->graph, "n0", &error);
    g_assert_no_error(error);
    exp->blk = block_backend_co_new(fixture->node, exp->user, perm, BLOCK_PERM_ALL, &error);
    g_assert_no_error(error);
}

static void co_fn fixture_co_close(NbdFixture *fixture, gconstpointer unused)
{
    block_backend_co_free(fixture->ne->common.blk);
    block_graph_co_close_all(fixture->graph);
}

static void fixture_add_queue(NbdFixture *fixture)
{
    Export *exp = &fixture->ne->common;
    NbdQueue *queue = g_new0(NbdQueue, 1);

    queue->common.exp = exp;
    queue->common.ctx = aio_context_ref(fixture->ctx);
    queue->pool = nbd_pool_new(fixture->ctx);
    queue->running = true;
    nbd_pool_begin(queue->pool);
    exp->queues = g_new0(ExportQueue *, 1);
    exp->queues[0] = &queue->common;
    exp->n_queues = 1;
}

NbdFixture *nbd_fixture_new(const char *node_json, bool writable)
{
    NbdFixture *fixture = g_new0(NbdFixture, 1);
    NbdExport *ne = g_new0(NbdExport, 1);
    g_autoptr(GError) error = NULL;

    signal(SIGPIPE, SIG_IGN); /* as in the daemon */
    fixture->ctx = aio_context_new(NULL, &error);
    g_assert_no_error(error);
    fixture->graph = block_graph_new(fixture->ctx, NULL);
    fixture->ne = ne;
    ne->common.main = fixture->ctx;
    ne->common.user = g_strdup("export 'e0'");
    ne->common.refs = 1;
    ne->common.writable = writable;
    ne->zero_copy = true;
    ne->contexts = g_ptr_array_new_with_free_func((GDestroyNotify)nbd_context_free);
    g_ptr_array_add(ne->contexts, nbd_context_new_allocation());
    g_ptr_array_add(ne->contexts, nbd_context_new_depth());
    fixture_add_queue(fixture);
    fixture_run(fixture, fixture_co_open, node_json);
    return fixture;
}

void nbd_fixture_stop(NbdFixture *fixture, bool cut)
{
    NbdQueue *queue = nbd_fixture_queue(fixture);

    queue->running = false;
    nbd_connections_stop(queue, cut);
    nbd_pool_stop(queue->pool);
}

void nbd_fixture_free(NbdFixture *fixture)
{
    NbdQueue *queue = nbd_fixture_queue(fixture);

    nbd_fixture_stop(fixture, true);
    while (queue->common.requests) {
        aio_context_poll(fixture->ctx, true);
    }
    nbd_pool_free(queue->pool);
    g_ptr_array_unref(fixture->ne->contexts);
    fixture_run(fixture, fixture_co_close, NULL);
    block_graph_free(fixture->graph);
    export_unref(&fixture->ne->common);
    aio_context_unref(fixture->ctx);
    g_free(fixture);
}

/* What a client agrees on; it has selected both metadata contexts if it can. */
static NbdTerms fixture_terms(const NbdFixture *fixture, bool structured, bool extended)
{
    NbdTerms terms = {
        .size = blk_length(fixture->ne->common.blk),
        .flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_FAST_ZERO,
        .structured = structured || extended,
        .extended = extended,
    };

    if (!fixture->ne->common.writable) {
        terms.flags |= NBD_FLAG_READ_ONLY;
    }
    if (terms.structured) {
        terms.flags |= NBD_FLAG_SEND_DF | (extended ? NBD_FLAG_BLOCK_STATUS_PAYLOAD : 0);
        terms.n_contexts = 2;
    }
    return terms;
}

void nbd_fixture_serve(NbdFixture *fixture, int fd, TlsSession *tls, const NbdTerms *terms)
{
    static const uint32_t ids[] = {0, 1};
    NbdQueue *queue = nbd_fixture_queue(fixture);
    NbdClient client = {.fd = fd, .tls = tls, .terms = *terms, .linger_ns = LINGER_NS};

    client.context_ids = g_memdup2(ids, sizeof(ids));
    queue->connections++;
    fixture->ne->connections++;
    nbd_connection_begin(queue, &client);
}

int nbd_fixture_connect(NbdFixture *fixture, bool structured, bool extended, NbdTerms *terms)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), ==, 0);
    *terms = fixture_terms(fixture, structured, extended);
    nbd_fixture_serve(fixture, fds[1], NULL, terms);
    return fds[0];
}

void nbd_fixture_poll(NbdFixture *fixture)
{
    while (aio_context_poll(fixture->ctx, false)) {
    }
}

static void co_fn fixture_co_drain(NbdFixture *fixture, gconstpointer unused)
{
    block_node_co_drain_begin(fixture->node);
}

static void co_fn fixture_co_undrain(NbdFixture *fixture, gconstpointer unused)
{
    block_node_co_drain_end(fixture->node);
}

void nbd_fixture_drain(NbdFixture *fixture)
{
    fixture_run(fixture, fixture_co_drain, NULL);
}

void nbd_fixture_undrain(NbdFixture *fixture)
{
    fixture_run(fixture, fixture_co_undrain, NULL);
}
