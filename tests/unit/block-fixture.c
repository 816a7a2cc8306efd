/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block-fixture.h"

#include <string.h>

#include "qapi/json-parser.h"

/* Loop */

Fixture *fixture_new(void)
{
    Fixture *f = g_new0(Fixture, 1);
    g_autoptr(GError) error = NULL;

    f->main = aio_context_new(NULL, &error);
    g_assert_no_error(error);
    aio_context_poll(f->main, false);
    f->graph = block_graph_new(f->main, NULL);
    return f;
}

static void count_node(BlockNode *node, void *opaque)
{
    ++*(unsigned *)opaque;
}

static void close_entry(void *opaque)
{
    FixtureClose *closing = opaque;

    block_graph_co_close_all(closing->graph);
    closing->done = true;
}

void fixture_close_start(Fixture *f, FixtureClose *closing)
{
    *closing = (FixtureClose){.graph = f->graph};
    aio_co_enter(f->main, close_entry, closing);
}

void fixture_free(Fixture *f)
{
    unsigned left = 0;
    FixtureClose closing;

    fixture_close_start(f, &closing);
    fixture_wait(f, &closing.done);
    block_graph_foreach(f->graph, count_node, &left);
    g_assert_cmpuint(left, ==, 0);
    for (unsigned i = 0; i < FIXTURE_THREADS; i++) {
        g_clear_pointer(&f->thread[i], iothread_unref);
    }
    block_graph_free(f->graph);
    aio_context_unref(f->main);
    g_free(f);
}

void fixture_start_threads(Fixture *f)
{
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < FIXTURE_THREADS; i++) {
        g_autofree char *name = g_strdup_printf("test%u", i);

        f->thread[i] = iothread_new(name, NULL, &error);
        g_assert_no_error(error);
    }
}

AioContext *fixture_thread(Fixture *f, unsigned i)
{
    return iothread_context(f->thread[i]);
}

void fixture_wait(Fixture *f, const bool *flag)
{
    while (!*flag) {
        aio_context_poll(f->main, true);
    }
}

void fixture_wait_count(Fixture *f, const unsigned *counter, unsigned value)
{
    while (__atomic_load_n(counter, __ATOMIC_SEQ_CST) < value) {
        if (!aio_context_poll(f->main, false)) {
            g_usleep(100);
        }
    }
}

void fixture_settle(Fixture *f)
{
    while (aio_context_poll(f->main, false)) {
    }
}

typedef struct Run {
    CoroutineEntry *fn;
    void *opaque;
    bool done;
} Run;

static void run_entry(void *opaque)
{
    Run *run = opaque;

    run->fn(run->opaque);
    run->done = true;
}

static void run_begin(void *opaque)
{
    coroutine_enter(coroutine_create(run_entry, opaque));
}

void fixture_run(Fixture *f, CoroutineEntry *fn, void *opaque)
{
    Run run = {fn, opaque, false};

    aio_bh_schedule_oneshot(f->main, run_begin, &run);
    fixture_wait(f, &run.done);
}

/* Control */

typedef struct Control {
    Fixture *f;
    enum {
        CONTROL_ADD,
        CONTROL_DEL,
        CONTROL_REOPEN,
        CONTROL_ACTIVE,
        CONTROL_BACKEND,
        CONTROL_PERM,
        CONTROL_FREE_BACKEND,
        CONTROL_DRAIN_BEGIN,
        CONTROL_DRAIN_END,
    } op;
    const BlockdevOptions *opts;
    GPtrArray *options;
    const char *name, *user;
    bool active;
    BlockPerm perm, shared;
    BlockNode *node;
    BlockBackend *blk;
    bool ok;
    GError **error;
} Control;

static void control_backend(Control *c)
{
    BlockNode *node = block_graph_find(c->f->graph, c->name, c->error);

    c->blk = node ? block_backend_co_new(node, c->user, c->perm, c->shared, c->error) : NULL;
    c->ok = c->blk != NULL;
}

static void control_entry(void *opaque)
{
    Control *c = opaque;

    c->ok = true;
    switch (c->op) {
    case CONTROL_ADD:
        c->ok = block_graph_co_add(c->f->graph, c->opts, c->error);
        break;
    case CONTROL_DEL:
        c->ok = block_graph_co_del(c->f->graph, c->name, c->error);
        break;
    case CONTROL_REOPEN:
        c->ok = block_graph_co_reopen(c->f->graph, c->options, c->error);
        break;
    case CONTROL_ACTIVE:
        c->ok = block_graph_co_set_active(c->f->graph, c->name, c->active, c->error);
        break;
    case CONTROL_BACKEND:
        control_backend(c);
        break;
    case CONTROL_PERM:
        c->ok = block_backend_co_set_perm(c->blk, c->perm, c->shared, c->error);
        break;
    case CONTROL_FREE_BACKEND:
        block_backend_co_free(c->blk);
        break;
    case CONTROL_DRAIN_BEGIN:
        block_node_co_drain_begin(c->node);
        break;
    case CONTROL_DRAIN_END:
        block_node_co_drain_end(c->node);
        break;
    }
}

static bool control(Control *c)
{
    fixture_run(c->f, control_entry, c);
    return c->ok;
}

QValue *fixture_parse(const char *json)
{
    g_autoptr(GError) error = NULL;
    QValue *value = qvalue_from_json(json, -1, &error);

    g_assert_no_error(error);
    return value;
}

static BlockdevOptions *parse_options(const char *json, GError **error)
{
    g_autoptr(QValue) value = fixture_parse(json);

    return blockdev_options_from_qvalue(value, error);
}

bool fixture_try_add(Fixture *f, const char *json, GError **error)
{
    g_autoptr(BlockdevOptions) opts = parse_options(json, error);

    return opts && control(&(Control){.f = f, .op = CONTROL_ADD, .opts = opts, .error = error});
}

BlockNode *fixture_add(Fixture *f, const char *json)
{
    g_autoptr(BlockdevOptions) opts = NULL;
    g_autoptr(GError) error = NULL;
    BlockNode *node;

    fixture_try_add(f, json, &error);
    g_assert_no_error(error);
    opts = parse_options(json, &error);
    node = block_graph_find(f->graph, opts->node_name, &error);
    g_assert_no_error(error);
    return node;
}

bool fixture_try_del(Fixture *f, const char *name, GError **error)
{
    return control(&(Control){.f = f, .op = CONTROL_DEL, .name = name, .error = error});
}

void fixture_del(Fixture *f, const char *name)
{
    g_autoptr(GError) error = NULL;

    fixture_try_del(f, name, &error);
    g_assert_no_error(error);
}

bool fixture_try_reopen(Fixture *f, const char *json, GError **error)
{
    g_autoptr(QValue) value = fixture_parse(json);
    g_autoptr(GPtrArray) options =
        g_ptr_array_new_with_free_func((GDestroyNotify)blockdev_options_free);

    for (gsize i = 0; i < qvalue_array_length(value); i++) {
        BlockdevOptions *opts = blockdev_options_from_qvalue(qvalue_array_get(value, i), error);

        if (!opts) {
            return false;
        }
        g_ptr_array_add(options, opts);
    }
    return control(&(Control){.f = f, .op = CONTROL_REOPEN, .options = options, .error = error});
}

void fixture_reopen(Fixture *f, const char *json)
{
    g_autoptr(GError) error = NULL;

    fixture_try_reopen(f, json, &error);
    g_assert_no_error(error);
}

bool fixture_try_set_active(Fixture *f, const char *name, bool active, GError **error)
{
    return control(
        &(Control){.f = f, .op = CONTROL_ACTIVE, .name = name, .active = active, .error = error});
}

BlockBackend *fixture_try_backend(Fixture *f, const char *node, const char *user, BlockPerm perm,
                                  BlockPerm shared, GError **error)
{
    Control c = {.f = f,
                 .op = CONTROL_BACKEND,
                 .name = node,
                 .user = user,
                 .perm = perm,
                 .shared = shared,
                 .error = error};

    control(&c);
    return c.blk;
}

BlockBackend *fixture_backend(Fixture *f, const char *node, const char *user, BlockPerm perm,
                              BlockPerm shared)
{
    g_autoptr(GError) error = NULL;
    BlockBackend *blk = fixture_try_backend(f, node, user, perm, shared, &error);

    g_assert_no_error(error);
    return blk;
}

bool fixture_try_set_perm(Fixture *f, BlockBackend *blk, BlockPerm perm, BlockPerm shared,
                          GError **error)
{
    return control(&(Control){
        .f = f, .op = CONTROL_PERM, .blk = blk, .perm = perm, .shared = shared, .error = error});
}

void fixture_free_backend(Fixture *f, BlockBackend *blk)
{
    control(&(Control){.f = f, .op = CONTROL_FREE_BACKEND, .blk = blk});
}

void fixture_drain_begin(Fixture *f, BlockNode *node)
{
    control(&(Control){.f = f, .op = CONTROL_DRAIN_BEGIN, .node = node});
}

void fixture_drain_end(Fixture *f, BlockNode *node)
{
    control(&(Control){.f = f, .op = CONTROL_DRAIN_END, .node = node});
}

/* Requests */

static void request_entry(void *opaque)
{
    Request *r = opaque;
    IoVector iov = {&(struct iovec){r->buffer, r->bytes}, 1, r->bytes};

    switch (r->op) {
    case REQUEST_READ:
        r->result = blk_co_preadv(r->blk, r->offset, &iov, r->flags);
        break;
    case REQUEST_WRITE:
        r->result = blk_co_pwritev(r->blk, r->offset, &iov, r->flags);
        break;
    case REQUEST_ZERO:
        r->result = blk_co_pwrite_zeroes(r->blk, r->offset, r->bytes, r->flags);
        break;
    case REQUEST_DISCARD:
        r->result = blk_co_pdiscard(r->blk, r->offset, r->bytes);
        break;
    case REQUEST_ALLOCATE:
        r->result = blk_co_allocate(r->blk, r->offset, r->bytes);
        break;
    case REQUEST_FLUSH:
        r->result = blk_co_flush(r->blk);
        break;
    case REQUEST_TRUNCATE:
        r->result = blk_co_truncate(r->blk, r->bytes, PREALLOC_MODE_OFF, r->flags, NULL);
        break;
    case REQUEST_STATUS:
        r->result = blk_co_block_status(r->blk, r->offset, r->bytes, &r->pnum, &r->status);
        break;
    }
    r->ended_in = aio_context_current();
    __atomic_store_n(&r->done, 1, __ATOMIC_SEQ_CST);
}

void request_start(Request *r, AioContext *ctx)
{
    aio_co_enter(ctx, request_entry, r);
}

static int request_run(Fixture *f, Request r)
{
    request_start(&r, f->main);
    fixture_wait_count(f, &r.done, 1);
    return r.result;
}

int fixture_read(Fixture *f, BlockBackend *blk, uint64_t offset, void *buffer, size_t bytes)
{
    return request_run(f, (Request){REQUEST_READ, blk, offset, bytes, buffer});
}

int fixture_write(Fixture *f, BlockBackend *blk, uint64_t offset, const void *buffer, size_t bytes,
                  BlockRequestFlags flags)
{
    return request_run(f, (Request){REQUEST_WRITE, blk, offset, bytes, (void *)buffer, flags});
}

int fixture_fill(Fixture *f, BlockBackend *blk, uint64_t offset, size_t bytes, int byte)
{
    g_autofree char *buffer = g_malloc(bytes);

    memset(buffer, byte, bytes);
    return fixture_write(f, blk, offset, buffer, bytes, 0);
}

int fixture_zero(Fixture *f, BlockBackend *blk, uint64_t offset, uint64_t bytes,
                 BlockRequestFlags flags)
{
    return request_run(f, (Request){REQUEST_ZERO, blk, offset, bytes, NULL, flags});
}

int fixture_discard(Fixture *f, BlockBackend *blk, uint64_t offset, uint64_t bytes)
{
    return request_run(f, (Request){REQUEST_DISCARD, blk, offset, bytes});
}

int fixture_allocate(Fixture *f, BlockBackend *blk, uint64_t offset, uint64_t bytes)
{
    return request_run(f, (Request){REQUEST_ALLOCATE, blk, offset, bytes});
}

int fixture_flush(Fixture *f, BlockBackend *blk)
{
    return request_run(f, (Request){REQUEST_FLUSH, blk});
}

typedef struct Truncate {
    BlockBackend *blk;
    uint64_t size;
    BlockRequestFlags flags;
    GError **error;
    int result;
} Truncate;

static void truncate_entry(void *opaque)
{
    Truncate *t = opaque;

    t->result = blk_co_truncate(t->blk, t->size, PREALLOC_MODE_OFF, t->flags, t->error);
}

int fixture_truncate(Fixture *f, BlockBackend *blk, uint64_t size, BlockRequestFlags flags,
                     GError **error)
{
    Truncate t = {blk, size, flags, error, 0};

    fixture_run(f, truncate_entry, &t);
    return t.result;
}

typedef struct Status {
    BlockBackend *blk;
    uint64_t offset, bytes, *pnum;
    BlockStatus *status;
    int result;
} Status;

static void status_entry(void *opaque)
{
    Status *s = opaque;

    s->result = blk_co_block_status(s->blk, s->offset, s->bytes, s->pnum, s->status);
}

int fixture_status(Fixture *f, BlockBackend *blk, uint64_t offset, uint64_t bytes, uint64_t *pnum,
                   BlockStatus *status)
{
    Status s = {blk, offset, bytes, pnum, status, 0};

    fixture_run(f, status_entry, &s);
    return s.result;
}

void fixture_assert_bytes(Fixture *f, BlockBackend *blk, uint64_t offset, size_t bytes, int byte)
{
    g_autofree unsigned char *buffer = g_malloc(bytes);

    g_assert_cmpint(fixture_read(f, blk, offset, buffer, bytes), ==, 0);
    for (size_t i = 0; i < bytes; i++) {
        g_assert_cmphex(buffer[i], ==, (unsigned char)byte);
    }
}

void assert_error(GError **error, const char *word)
{
    g_assert_nonnull(*error);
    if (!strstr((*error)->message, word)) {
        g_error("'%s' is not in the message '%s'", word, (*error)->message);
    }
    g_clear_error(error);
}
