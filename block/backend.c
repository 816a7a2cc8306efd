/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/block-internal.h"

/* Control */

/* What the backend's edge is to hold: what was asked for, and RESIZE during a truncate. */
static BlockPerm backend_perm(const BlockBackend *blk)
{
    return blk->perm | (blk->resizers > 0 ? BLOCK_PERM_RESIZE : 0);
}

bool co_fn block_backend_co_update_perm(BlockBackend *blk, GError **error)
{
    blk->root.new_perm = backend_perm(blk);
    blk->root.new_shared = blk->shared;
    return block_perm_co_update(blk->graph, &blk->root.node, 1, error);
}

static BlockBackend *backend_new(BlockNode *node, const char *user)
{
    BlockBackend *blk = g_aligned_alloc0(1, sizeof(*blk), BLOCK_CACHE_LINE);

    blk->graph = node->graph;
    blk->user = g_strdup(user);
    blk->root.backend = blk;
    blk->root.node = block_node_ref(node);
    blk->root.shared = blk->root.new_shared = BLOCK_PERM_ALL;
    blk->link.data = blk;
    blk->unflushed_since = BLOCK_ALL_FLUSHED;
    g_mutex_init(&blk->gate_lock);
    g_mutex_init(&blk->flush_lock);
    co_queue_init(&blk->gate_wait);
    return blk;
}

static void backend_link(BlockBackend *blk)
{
    g_ptr_array_add(blk->root.node->parents, &blk->root);
    g_queue_push_tail_link(&blk->graph->backends, &blk->link);
    block_backend_update_gate(blk);
}

static void backend_unlink(BlockBackend *blk)
{
    g_ptr_array_remove(blk->root.node->parents, &blk->root);
    g_queue_unlink(&blk->graph->backends, &blk->link);
}

/* Gives up everything but the node's permissions. */
static void co_fn backend_co_dispose(BlockBackend *blk)
{
    block_node_co_unref(blk->root.node);
    block_stats_clear(&blk->stats);
    g_mutex_clear(&blk->gate_lock);
    g_mutex_clear(&blk->flush_lock);
    g_free(blk->user);
    g_aligned_free(blk);
}

BlockBackend *co_fn block_backend_co_new(BlockNode *node, const char *user, BlockPerm perm,
                                         BlockPerm shared, GError **error)
{
    BlockBackend *blk = backend_new(node, user);
    bool ok;

    block_graph_co_lock_change(blk->graph, node);
    blk->perm = perm;
    blk->shared = shared;
    /* So that activation is refused as a whole where these permissions cannot be had. */
    blk->root.new_perm = perm;
    blk->root.new_shared = shared;
    backend_link(blk);
    ok = (perm == 0 || block_node_co_activate(node, error)) &&
         block_backend_co_update_perm(blk, error);
    if (!ok) {
        backend_unlink(blk);
        block_graph_unlock_change(blk->graph);
        backend_co_dispose(blk);
        return NULL;
    }
    block_notify_update(node);
    block_graph_unlock_change(blk->graph);
    return blk;
}

bool co_fn block_backend_co_set_perm(BlockBackend *blk, BlockPerm perm, BlockPerm shared,
                                     GError **error)
{
    BlockPerm old_perm, old_shared;
    bool ok;

    block_graph_co_lock_change(blk->graph, blk->root.node);
    old_perm = blk->perm;
    old_shared = blk->shared;
    blk->perm = perm;
    blk->shared = shared;
    ok = block_backend_co_update_perm(blk, error);
    if (!ok) {
        blk->perm = old_perm;
        blk->shared = old_shared;
    }
    block_graph_unlock_change(blk->graph);
    return ok;
}

void block_backend_set_allow_inactive(BlockBackend *blk, bool allow)
{
    blk->allow_inactive = allow;
}

static unsigned backend_held(BlockBackend *blk)
{
    return __atomic_load_n(&blk->held, __ATOMIC_SEQ_CST);
}

unsigned block_backend_in_flight(BlockBackend *blk)
{
    int64_t inside = gate_inside(&blk->gate);

    return backend_held(blk) + MAX(inside, 0);
}

/* Wait until no request is inside or on its way in; no new one comes. */
static void co_fn backend_co_wait_idle(BlockBackend *blk)
{
    while (backend_held(blk) > 0) {
        block_graph_co_wait(blk->graph, &blk->graph->drained);
    }
    blk->freeing = true;
    block_backend_update_gate(blk);
    while (gate_inside(&blk->gate) > 0) {
        block_graph_co_wait(blk->graph, &blk->graph->drained);
    }
}

void co_fn block_backend_co_free(BlockBackend *blk)
{
    BlockGraph *graph;

    if (!blk) {
        return;
    }
    graph = blk->graph;
    block_graph_assert_main(graph);
    blk->notify = NULL;
    backend_co_wait_idle(blk);
    block_graph_co_lock_change(graph, blk->root.node);
    backend_unlink(blk);
    block_perm_co_shrink(blk->root.node);
    block_notify_update(blk->root.node);
    block_graph_unlock_change(graph);
    backend_co_dispose(blk);
}

BlockNode *block_backend_node(BlockBackend *blk)
{
    return blk->root.node;
}

const char *block_backend_user(BlockBackend *blk)
{
    return blk->user;
}

void blk_set_change_notify(BlockBackend *blk, BlockChangeCallback *cb, void *opaque)
{
    block_graph_assert_main(blk->graph);
    blk->notify = cb;
    blk->notify_opaque = opaque;
    block_notify_update(blk->root.node);
}

/* Requests */

static int check_range(BlockBackend *blk, uint64_t offset, uint64_t bytes)
{
    uint64_t length = block_node_length(blk->root.node);

    if (G_UNLIKELY(offset > (uint64_t)BLOCK_LENGTH_MAX || bytes > (uint64_t)BLOCK_LENGTH_MAX)) {
        return -EINVAL;
    }
    if (G_UNLIKELY(bytes > length || offset > length - bytes)) {
        return -EIO;
    }
    return G_LIKELY(block_node_active(blk->root.node)) ? 0 : -ENOMEDIUM;
}

static int check_write(BlockBackend *blk, uint64_t offset, uint64_t bytes, BlockRequestFlags flags)
{
    BlockPerm enough = BLOCK_PERM_WRITE;

    if (flags & BLOCK_REQ_WRITE_UNCHANGED) {
        enough |= BLOCK_PERM_WRITE_UNCHANGED;
    }
    if (G_UNLIKELY(!(__atomic_load_n(&blk->root.perm, __ATOMIC_RELAXED) & enough))) {
        return -EPERM;
    }
    return check_range(blk, offset, bytes);
}

bool blk_writable(BlockBackend *blk)
{
    return (__atomic_load_n(&blk->root.perm, __ATOMIC_RELAXED) & BLOCK_PERM_WRITE) &&
           !block_node_read_only(blk->root.node) && block_node_active(blk->root.node);
}

static bool writes_directly(const BlockBackend *blk)
{
    return __atomic_load_n(&blk->root.node->direct_writer, __ATOMIC_SEQ_CST) == blk;
}

void block_backend_set_unflushed(BlockBackend *blk, uint64_t since)
{
    uint64_t old = __atomic_load_n(&blk->unflushed_since, __ATOMIC_SEQ_CST);

    while (G_UNLIKELY(since < old) &&
           !__atomic_compare_exchange_n(&blk->unflushed_since, &old, since, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
    }
}

/* A request's way through the backend: in, checked, done, accounted, out. */
typedef struct BackendRequest {
    BlockBackend *blk;
    BlockOp op;
    int64_t start_ns;
    uint64_t troubles; /* of the graph, when it began */
    bool stable;       /* a write that needs no flush afterwards */
} BackendRequest;

static BackendRequest co_fn request_co_begin(BlockBackend *blk, BlockOp op, BlockRequestFlags flags)
{
    int64_t start_ns = block_stats_clock();

    block_backend_co_enter(blk);
    return (BackendRequest){
        .blk = blk,
        .op = op,
        .start_ns = start_ns,
        .troubles = block_graph_troubles(blk->graph),
        .stable = flags & BLOCK_REQ_FUA,
    };
}

/* @refused: what the checks said; 0: @result is the node's. */
static int request_end(const BackendRequest *req, uint64_t bytes, int refused, int result)
{
    BlockStatsSet *own = &req->blk->stats;
    BlockStatsSet *node = &req->blk->root.node->stats;

    if (G_UNLIKELY(refused < 0)) {
        block_stats_invalid(own, req->op);
        block_stats_invalid(node, req->op);
    } else {
        int64_t end_ns = block_stats_clock();

        block_stats_done(own, req->op, bytes, req->start_ns, end_ns, result);
        block_stats_done(node, req->op, bytes, req->start_ns, end_ns, result);
        if (req->op == BLOCK_OP_WRITE || req->op == BLOCK_OP_UNMAP) {
            if (!req->stable) {
                block_backend_set_unflushed(req->blk, req->troubles);
            }
            block_notify_written(req->blk);
        }
    }
    block_backend_leave(req->blk);
    return refused < 0 ? refused : result;
}

int co_fn blk_co_preadv(BlockBackend *blk, uint64_t offset, const IoVector *iov,
                        BlockRequestFlags flags)
{
    BackendRequest req = request_co_begin(blk, BLOCK_OP_READ, 0);
    int refused = check_range(blk, offset, iov->bytes);
    int r = refused < 0 ? 0 : block_node_co_preadv(blk->root.node, offset, iov, flags);

    return request_end(&req, iov->bytes, refused, r);
}

int co_fn blk_co_splice(BlockBackend *blk, uint64_t offset, size_t bytes, int pipe)
{
    BackendRequest req = request_co_begin(blk, BLOCK_OP_READ, 0);
    int r = -ENOTSUP;

    if (check_range(blk, offset, bytes) == 0) {
        r = block_node_co_splice(blk->root.node, offset, bytes, pipe);
    }
    if (r != -ENOTSUP) {
        return request_end(&req, bytes, 0, r);
    }
    block_backend_leave(blk);
    return r;
}

int co_fn blk_co_pwritev(BlockBackend *blk, uint64_t offset, const IoVector *iov,
                         BlockRequestFlags flags)
{
    BackendRequest req = request_co_begin(blk, BLOCK_OP_WRITE, flags);
    int refused = check_write(blk, offset, iov->bytes, flags);
    int r = refused < 0 ? 0 : block_node_co_pwritev(blk->root.node, offset, iov, flags);

    return request_end(&req, iov->bytes, refused, r);
}

int co_fn blk_co_splice_write(BlockBackend *blk, uint64_t offset, size_t bytes, int pipe)
{
    BackendRequest req = request_co_begin(blk, BLOCK_OP_WRITE, 0);
    int refused = check_write(blk, offset, bytes, 0);
    int r = refused < 0 ? 0 : block_node_co_splice_write(blk->root.node, offset, bytes, pipe);

    if (r != -ENOTSUP) {
        return request_end(&req, bytes, refused, r);
    }
    block_backend_leave(blk);
    return r;
}

int co_fn blk_co_pwrite_zeroes(BlockBackend *blk, uint64_t offset, uint64_t bytes,
                               BlockRequestFlags flags)
{
    BackendRequest req = request_co_begin(blk, BLOCK_OP_WRITE, flags);
    int refused = check_write(blk, offset, bytes, flags);
    int r = refused < 0 ? 0 : block_node_co_pwrite_zeroes(blk->root.node, offset, bytes, flags);

    return request_end(&req, bytes, refused, r);
}

int co_fn blk_co_pdiscard(BlockBackend *blk, uint64_t offset, uint64_t bytes)
{
    BackendRequest req = request_co_begin(blk, BLOCK_OP_UNMAP, 0);
    int refused = check_write(blk, offset, bytes, 0);
    int r = refused < 0 ? 0 : block_node_co_pdiscard(blk->root.node, offset, bytes);

    return request_end(&req, bytes, refused, r);
}

int co_fn blk_co_allocate(BlockBackend *blk, uint64_t offset, uint64_t bytes)
{
    uint64_t troubles;
    int r;

    block_backend_co_enter(blk);
    troubles = block_graph_troubles(blk->graph);
    r = check_write(blk, offset, bytes, 0);
    if (r == 0) {
        r = block_node_co_allocate(blk->root.node, offset, bytes);
        block_backend_set_unflushed(blk, troubles);
    }
    block_backend_leave(blk);
    return r;
}

/* Flush */

typedef struct BackendFlush {
    GList link;        /* in blk->flushes */
    uint64_t since;    /* blk->unflushed_since, when it began */
    uint64_t troubles; /* of the graph, then */
} BackendFlush;

void blk_client_init(BlockBackend *blk, BlockClient *client)
{
    g_mutex_lock(&blk->flush_lock);
    *client = blk->anyone;
    g_mutex_unlock(&blk->flush_lock);
}

static void flush_begin(BlockBackend *blk, BackendFlush *flush)
{
    g_mutex_lock(&blk->flush_lock);
    *flush = (BackendFlush){.link.data = flush, .troubles = block_graph_troubles(blk->graph)};
    flush->since = __atomic_exchange_n(&blk->unflushed_since, BLOCK_ALL_FLUSHED, __ATOMIC_SEQ_CST);
    g_queue_push_tail_link(&blk->flushes, &flush->link);
    g_mutex_unlock(&blk->flush_lock);
}

/* Since when writes are unflushed that @flush covers, those that an older one may not have lost. */
static uint64_t flush_covers_since(const BackendFlush *flush)
{
    uint64_t since = flush->since;

    for (const GList *l = flush->link.prev; l; l = l->prev) {
        since = MIN(since, ((const BackendFlush *)l->data)->since);
    }
    return since;
}

/* Whether @client has still to be told of a loss. */
static bool client_tell(BlockBackend *blk, BlockClient *client)
{
    bool news = client->told < blk->lost;

    client->told = blk->lost;
    blk->anyone.told = blk->lost;
    return news;
}

/*
 * A flush that fails is told to one user, and storage may tell of it only once; but each of them
 * may have lost something by it. Those that have written nothing since they flushed have not.
 */
static int flush_end(BlockBackend *blk, BackendFlush *flush, BlockClient *client, int r)
{
    uint64_t latest = block_node_trouble(blk->root.node).report;
    bool lost;

    g_mutex_lock(&blk->flush_lock);
    lost = flush_covers_since(flush) < latest;
    if (lost) {
        blk->lost = MAX(blk->lost, latest);
    }
    if ((r < 0 || lost) && flush->since != BLOCK_ALL_FLUSHED) {
        /* Told; but not yet of what goes wrong when it is tried again. */
        block_backend_set_unflushed(blk, MAX(flush->since, latest));
    } else if (G_UNLIKELY(writes_directly(blk))) {
        block_backend_set_unflushed(blk, flush->troubles);
    }
    if (client_tell(blk, client) && r == 0) {
        r = -EIO;
    }
    g_queue_unlink(&blk->flushes, &flush->link);
    g_mutex_unlock(&blk->flush_lock);
    return r;
}

static int co_fn backend_co_flush(BlockBackend *blk, BlockClient *client)
{
    BackendFlush flush;

    flush_begin(blk, &flush);
    return flush_end(blk, &flush, client, block_node_co_flush(blk->root.node));
}

int co_fn blk_co_flush_for(BlockBackend *blk, BlockClient *client)
{
    BackendRequest req = request_co_begin(blk, BLOCK_OP_FLUSH, 0);

    return request_end(&req, 0, 0, backend_co_flush(blk, client));
}

int co_fn blk_co_flush(BlockBackend *blk)
{
    return blk_co_flush_for(blk, &blk->anyone);
}

int co_fn blk_co_block_status(BlockBackend *blk, uint64_t offset, uint64_t bytes, uint64_t *pnum,
                              BlockStatus *status)
{
    int r;

    block_backend_co_enter(blk);
    r = block_node_co_block_status(blk->root.node, offset, bytes, pnum, status);
    block_backend_leave(blk);
    return r;
}

int co_fn blk_co_allocation_depth(BlockBackend *blk, uint64_t offset, uint64_t bytes,
                                  uint64_t *pnum, uint32_t *depth)
{
    int r;

    block_backend_co_enter(blk);
    r = block_node_co_allocation_depth(blk->root.node, offset, bytes, pnum, depth);
    block_backend_leave(blk);
    return r;
}

int64_t co_fn blk_co_allocated_size(BlockBackend *blk)
{
    int64_t r;

    block_backend_co_enter(blk);
    r = block_node_co_allocated_size(blk->root.node);
    block_backend_leave(blk);
    return r;
}

CoMutex *blk_append_lock(BlockBackend *blk)
{
    return &blk->root.node->append_lock;
}

int64_t blk_length(BlockBackend *blk)
{
    return block_node_length(blk->root.node);
}

void blk_limits(BlockBackend *blk, BlockLimits *out)
{
    block_node_limits(blk->root.node, out);
}

void blk_stats(BlockBackend *blk, BlockOpStats out[BLOCK_OP__MAX])
{
    block_stats_sum(&blk->stats, out);
}

/* Truncate */

static bool co_fn backend_co_take_resize(BlockBackend *blk, GError **error)
{
    bool ok = true;

    block_graph_co_lock_change(blk->graph, blk->root.node);
    if (blk->resizers++ == 0 && !(blk->perm & BLOCK_PERM_RESIZE)) {
        ok = block_backend_co_update_perm(blk, error);
    }
    if (!ok) {
        blk->resizers--;
    }
    block_graph_unlock_change(blk->graph);
    return ok;
}

static void co_fn backend_co_drop_resize(BlockBackend *blk)
{
    block_graph_co_lock_change(blk->graph, blk->root.node);
    if (--blk->resizers == 0 && !(blk->perm & BLOCK_PERM_RESIZE)) {
        blk->root.new_perm = backend_perm(blk);
        block_perm_co_shrink(blk->root.node);
    }
    block_graph_unlock_change(blk->graph);
}

/* Making a node shorter waits for all requests: those past the new end must not run after it. */
static int co_fn backend_co_shrink(BlockBackend *blk, uint64_t size, PreallocMode prealloc,
                                   BlockRequestFlags flags, GError **error)
{
    BlockNode *node = blk->root.node;
    uint64_t troubles;
    int r;

    block_backend_co_enter(blk);
    troubles = block_graph_troubles(blk->graph);
    block_node_co_drain_begin_but(node, blk);
    r = block_node_co_truncate(node, size, prealloc, flags, error);
    block_backend_set_unflushed(blk, troubles);
    block_node_co_drain_end(node);
    block_notify_written(blk);
    block_backend_leave(blk);
    return r;
}

/* Not beside a check, whose end the drain would wait for: then not even reads could go on. */
static int co_fn backend_co_shrink_alone(BlockBackend *blk, uint64_t size, PreallocMode prealloc,
                                         BlockRequestFlags flags, GError **error)
{
    BlockNode *image = block_node_ref(block_node_skip_filters(blk->root.node));
    int r;

    co_mutex_lock(&image->image_lock);
    r = backend_co_shrink(blk, size, prealloc, flags, error);
    co_mutex_unlock(&image->image_lock);
    block_node_co_unref(image);
    return r;
}

/* Growing runs beside everything else; if somebody else does the same, the longer one wins. */
static int co_fn backend_co_grow(BlockBackend *blk, uint64_t size, PreallocMode prealloc,
                                 BlockRequestFlags flags, GError **error)
{
    uint64_t troubles;
    int r;

    block_backend_co_enter(blk);
    troubles = block_graph_troubles(blk->graph);
    r = block_node_co_truncate(blk->root.node, size, prealloc, flags | BLOCK_REQ_GROW_ONLY, error);
    block_backend_set_unflushed(blk, troubles);
    block_notify_written(blk);
    block_backend_leave(blk);
    return r;
}

/*
 * Only one truncate at a time makes a node shorter: two would wait for each other's requests. Those
 * of other nodes need not wait, and must not: making the image below shorter may lead through an
 * export of another node.
 */
static int co_fn backend_co_resize(BlockBackend *blk, uint64_t size, PreallocMode prealloc,
                                   BlockRequestFlags flags, GError **error)
{
    CoRwlock *lock = &blk->root.node->resize_lock;
    bool longer;
    int r;

    co_rwlock_rdlock(lock);
    longer = (flags & BLOCK_REQ_GROW_ONLY) || size >= (uint64_t)block_node_length(blk->root.node);
    if (longer) {
        r = backend_co_grow(blk, size, prealloc, flags, error);
    } else {
        co_rwlock_unlock(lock);
        co_rwlock_wrlock(lock);
        r = backend_co_shrink_alone(blk, size, prealloc, flags, error);
    }
    co_rwlock_unlock(lock);
    return r;
}

/* What an overlay shows behind the end of its backing file is not to change by the way. */
static bool check_no_overlay(BlockNode *node, uint64_t size, GError **error)
{
    const BlockNode *overlay = block_node_overlay(node);

    if (!overlay || size == (uint64_t)block_node_length(node)) {
        return true;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                "block node '%s' cannot change its length while it is the backing file of block "
                "node '%s'; delete that one first",
                node->name, overlay->name);
    return false;
}

static int co_fn backend_co_truncate_in_main(BlockBackend *blk, uint64_t size,
                                             PreallocMode prealloc, BlockRequestFlags flags,
                                             GError **error)
{
    int r;

    if (!check_no_overlay(blk->root.node, size, error)) {
        return -EBUSY;
    }
    if (!backend_co_take_resize(blk, error)) {
        return -EPERM;
    }
    r = backend_co_resize(blk, size, prealloc, flags, error);
    backend_co_drop_resize(blk);
    return r;
}

static int check_truncate(BlockBackend *blk, uint64_t size, GError **error)
{
    BlockNode *node = blk->root.node;

    if (block_node_read_only(node)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "block node '%s' is read-only: its length cannot be changed", node->name);
        return -EPERM;
    }
    if (!block_node_active(node)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "block node '%s' is inactive: its length cannot be changed", node->name);
        return -ENOMEDIUM;
    }
    if (size > (uint64_t)BLOCK_LENGTH_MAX) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "block node '%s': a length of %" G_GUINT64_FORMAT " bytes is too large",
                    node->name, size);
        return -EFBIG;
    }
    return 0;
}

int co_fn blk_co_truncate(BlockBackend *blk, uint64_t size, PreallocMode prealloc,
                          BlockRequestFlags flags, GError **error)
{
    AioContext *home = aio_context_current();
    AioContext *main = blk->graph->main;
    int r = check_truncate(blk, size, error);

    if (r < 0) {
        return r;
    }
    block_backend_hold(blk);
    if (home != main) {
        aio_co_reschedule_self(main);
    }
    r = backend_co_truncate_in_main(blk, size, prealloc, flags, error);
    block_backend_release(blk);
    if (home != main) {
        aio_co_reschedule_self(home);
    }
    return r;
}
