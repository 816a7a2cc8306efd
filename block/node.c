/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One block node: its name, its life, its options, and what follows from the nodes below it. */
#include "block/block-internal.h"

#include <errno.h>
#include <string.h>

#include "util/name.h"

/* Names */

static bool name_check_node(BlockGraph *graph, const char *name, GError **error)
{
    if (!name_check(name, "node name", error)) {
        return false;
    }
    if (strlen(name) > BLOCK_NODE_NAME_MAX) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "node name '%s' is too long: at most %d bytes are allowed", name,
                    BLOCK_NODE_NAME_MAX);
        return false;
    }
    if (g_hash_table_contains(graph->by_name, name)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_EXISTS,
                    "there is a block node '%s' already; choose another name", name);
        return false;
    }
    return true;
}

static void name_make(BlockGraph *graph, char name[BLOCK_NODE_NAME_MAX + 1])
{
    g_snprintf(name, BLOCK_NODE_NAME_MAX + 1, "#block%03" G_GUINT64_FORMAT, graph->next_name++);
}

/* One node */

/* A node that holds its name from now on. */
static BlockNode *node_new(BlockGraph *graph, const BlockDriver *drv, const char *name,
                           GError **error)
{
    BlockNode *node;

    if (name && !name_check_node(graph, name, error)) {
        return NULL;
    }
    node = g_aligned_alloc0(1, sizeof(*node), BLOCK_CACHE_LINE);
    node->graph = graph;
    node->drv = drv;
    node->state = drv->state_size ? g_malloc0(drv->state_size) : NULL;
    node->refs = 1;
    node->id = graph->next_id++;
    node->depth = node->ways = 1;
    node->shared = BLOCK_PERM_ALL;
    node->children = g_ptr_array_new();
    node->parents = g_ptr_array_new();
    co_mutex_init(&node->serial);
    co_mutex_init(&node->grow_lock);
    co_rwlock_init(&node->resize_lock);
    co_mutex_init(&node->append_lock);
    co_mutex_init(&node->image_lock);
    g_mutex_init(&node->limits_lock);
    g_mutex_init(&node->tracked_lock);
    co_queue_init(&node->tracked_wait);
    g_mutex_init(&node->flush_lock);
    co_queue_init(&node->flush_wait);
    if (drv->is_filter) {
        node->write_flags = BLOCK_REQ_FUA | BLOCK_REQ_WRITE_UNCHANGED;
        node->zero_flags = node->write_flags | BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_NO_FALLBACK;
        node->truncate_flags = BLOCK_REQ_ZERO | BLOCK_REQ_GROW_ONLY;
    }
    if (name) {
        g_strlcpy(node->name, name, sizeof(node->name));
    } else {
        name_make(graph, node->name);
    }
    g_hash_table_insert(graph->by_name, node->name, node);
    node->link.data = node;
    g_queue_push_tail_link(&graph->nodes, &node->link);
    return node;
}

/* Nodes made with @node may outlive it, where others use them, too. */
static void node_forget_as_origin(const BlockNode *node)
{
    for (GList *l = node->graph->nodes.head; l; l = l->next) {
        BlockNode *other = l->data;

        if (other->inherits_from == node) {
            other->inherits_from = NULL;
        }
    }
}

static void node_free(BlockNode *node)
{
    BlockGraph *graph = node->graph;

    g_assert(node->parents->len == 0 && node->children->len == 0);
    block_notify_forget(node);
    node_forget_as_origin(node);
    g_queue_unlink(&graph->nodes, &node->link);
    g_hash_table_remove(graph->by_name, node->name);
    g_ptr_array_unref(node->parents);
    g_ptr_array_unref(node->children);
    g_mutex_clear(&node->tracked_lock);
    g_mutex_clear(&node->flush_lock);
    g_mutex_clear(&node->limits_lock);
    block_stats_clear(&node->stats);
    blockdev_options_free(node->opts);
    g_free(node->state);
    g_aligned_free(node);
    block_graph_wake(graph, &graph->closed);
}

/* What a failed flush at the end loses, somebody should hear of. */
void co_fn block_node_co_flush_last(BlockNode *node)
{
    int r = node->flags.read_only ? 0 : block_node_co_flush(node);

    if (r < 0) {
        g_warning("block node '%s': data may be lost, flushing it at its end failed: %s",
                  node->name, g_strerror(-r));
    }
}

/*
 * Wait for the end of a reopen at work below @node, which must not exchange edges under what goes
 * through them. One that begins later is refused while @node is being closed.
 */
static void co_fn node_co_wait_reopened(BlockNode *node)
{
    block_graph_co_lock_change(node->graph, node);
    block_graph_unlock_change(node->graph);
}

/* Ends @node; @opened: whether the driver's open has succeeded. */
static void co_fn node_co_close(BlockNode *node, bool opened)
{
    node->phase = BLOCK_NODE_CLOSING;
    node_co_wait_reopened(node);
    if (opened) {
        block_node_co_flush_last(node);
        if (node->drv->co_close) {
            node->drv->co_close(node);
        }
    }
    while (node->children->len > 0) {
        block_child_co_detach(g_ptr_array_index(node->children, node->children->len - 1));
    }
    node_free(node);
}

BlockNode *block_node_ref(BlockNode *node)
{
    if (node) {
        g_assert(node->refs > 0);
        node->refs++;
    }
    return node;
}

static void co_fn node_close_entry(void *opaque)
{
    node_co_close(opaque, true);
}

/* Returns whether that was the last one. */
static bool node_drop_ref(BlockNode *node)
{
    g_assert(node->refs > 0);
    if (--node->refs > 0) {
        return false;
    }
    node->phase = BLOCK_NODE_CLOSING;
    return true;
}

void block_node_unref(BlockNode *node)
{
    if (node && node_drop_ref(node)) {
        aio_co_enter(node->graph->main, node_close_entry, node);
    }
}

void co_fn block_node_co_unref(BlockNode *node)
{
    if (node_drop_ref(node)) {
        node_co_close(node, true);
    }
}

void block_node_begin_read(BlockNode *node)
{
    block_node_ref(node);
    node->readers++;
}

void block_node_end_read(BlockNode *node)
{
    node->readers--;
    block_node_unref(node);
}

/* Opening */

static bool pick(bool has, bool value, const bool *inherited)
{
    if (has) {
        return value;
    }
    return inherited ? *inherited : false;
}

bool block_node_flags_from(BlockNodeFlags *flags, const BlockdevOptions *opts,
                           const BlockNodeFlags *inherit, GError **error)
{
    const BlockdevCacheOptions *cache = opts->cache;
    bool unmap_by_default = inherit != NULL;

    *flags = (BlockNodeFlags){
        .read_only =
            pick(opts->has_read_only, opts->read_only, inherit ? &inherit->read_only : NULL),
        .auto_read_only = pick(opts->has_auto_read_only, opts->auto_read_only,
                               inherit ? &inherit->auto_read_only : NULL),
        .force_share =
            pick(opts->has_force_share, opts->force_share, inherit ? &inherit->force_share : NULL),
        .cache_direct = pick(cache && cache->has_direct, cache && cache->direct,
                             inherit ? &inherit->cache_direct : NULL),
        .cache_no_flush = pick(cache && cache->has_no_flush, cache && cache->no_flush,
                               inherit ? &inherit->cache_no_flush : NULL),
        .discard_unmap =
            opts->has_discard ? opts->discard == BLOCKDEV_DISCARD_OPTIONS_UNMAP : unmap_by_default,
        .detect_zeroes =
            opts->has_detect_zeroes ? opts->detect_zeroes : BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF,
    };
    if (flags->force_share && !flags->read_only) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'force-share' is possible for read-only nodes alone; set 'read-only' to true");
        return false;
    }
    if (flags->detect_zeroes == BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP && !flags->discard_unmap) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'detect-zeroes' can be 'unmap' only where 'discard' is 'unmap'");
        return false;
    }
    return true;
}

bool block_node_adjust_flags(BlockNode *node, BlockNodeFlags *flags, GError **error)
{
    const BlockDriver *drv = node->drv;
    const BlockNode *below = node->first_child ? node->first_child->node : NULL;
    bool can_write = drv->co_pwritev || (drv->is_filter && below);

    if (flags->auto_read_only &&
        (!can_write || (below && block_node_flags_to_be(below)->read_only))) {
        flags->read_only = true;
    }
    if (flags->read_only || can_write) {
        return true;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                "block node '%s': driver '%s' cannot write; set 'read-only' to true", node->name,
                drv->name);
    return false;
}

/* What there is to find out once the driver has opened. */
static bool co_fn node_co_settle(BlockNode *node, GError **error)
{
    int r;

    block_node_update_shape(node);
    if (!block_node_check_shape(node, error)) {
        return false;
    }
    if (!block_node_adjust_flags(node, &node->flags, error)) {
        return false;
    }
    block_node_refresh_limits(node);
    r = block_node_co_refresh_length(node);
    if (r < 0) {
        wharf_set_error_errno(error, -r, "block node '%s': cannot get its length", node->name);
        return false;
    }
    return true;
}

BlockNode *co_fn block_node_co_open(BlockGraph *graph, const BlockdevOptions *opts,
                                    BlockNode *inherits_from, GError **error)
{
    const BlockDriver *drv = block_driver_find(opts->driver);
    BlockNode *node;
    bool opened;

    if (!drv) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "this build has no block driver '%s'", blockdev_driver_to_string(opts->driver));
        return NULL;
    }
    node = node_new(graph, drv, opts->node_name, error);
    if (!node) {
        return NULL;
    }
    node->opts = blockdev_options_copy(opts);
    node->inherits_from = inherits_from;
    node->active = pick(opts->has_active, opts->active,
                        inherits_from ? &inherits_from->active : &(bool){true});
    opened = block_node_flags_from(&node->flags, opts, inherits_from ? &inherits_from->flags : NULL,
                                   error) &&
             drv->co_open(node, node->opts, error);
    if (!opened || !node_co_settle(node, error)) {
        node_co_close(node, opened);
        return NULL;
    }
    node->phase = BLOCK_NODE_OPEN;
    /* Nodes are listed by age, and the children that were made with this one are older. */
    g_queue_unlink(&graph->nodes, &node->link);
    g_queue_push_tail_link(&graph->nodes, &node->link);
    return node;
}

/* Limits, length, shape */

static uint32_t min_limit(uint32_t a, uint32_t b)
{
    return a && b ? MIN(a, b) : MAX(a, b);
}

/* What the nodes below ask for, so that requests pass them without being split or copied. */
static void limits_merge(BlockLimits *limits, const BlockLimits *below)
{
    limits->length_alignment = MAX(limits->length_alignment, below->length_alignment);
    limits->preferred_io = MAX(limits->preferred_io, below->preferred_io);
    limits->max_transfer = min_limit(limits->max_transfer, below->max_transfer);
    limits->max_iov = min_limit(limits->max_iov, below->max_iov);
    limits->opt_mem_alignment = MAX(limits->opt_mem_alignment, below->opt_mem_alignment);
}

static void node_compute_limits(BlockNode *node)
{
    BlockLimits limits = {
        .request_alignment = 1,
        .length_alignment = 1,
        .max_iov = 1024,
        .min_mem_alignment = 1,
        .opt_mem_alignment = 1,
    };

    for (unsigned i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);

        limits_merge(&limits, &child->node->limits);
    }
    if (node->drv->limits) {
        node->drv->limits(node, &limits);
    }
    g_assert(limits.request_alignment > 0 &&
             (limits.request_alignment & (limits.request_alignment - 1)) == 0);
    if (limits.max_transfer) {
        limits.max_transfer &= ~(limits.request_alignment - 1);
        limits.max_transfer = MAX(limits.max_transfer, limits.request_alignment);
    }
    limits.max_iov = CLAMP(limits.max_iov, 1, 1024);
    g_mutex_lock(&node->limits_lock);
    node->limits = limits;
    g_mutex_unlock(&node->limits_lock);
}

void block_node_refresh_limits(BlockNode *node)
{
    g_autoptr(GPtrArray) nodes = block_node_all_above(node);

    for (unsigned i = 0; i < nodes->len; i++) {
        BlockNode *above = g_ptr_array_index(nodes, i);

        if (above == node || above->phase == BLOCK_NODE_OPEN) {
            node_compute_limits(above);
        }
    }
}

static void node_compute_shape(BlockNode *node)
{
    unsigned depth = 1, ways = 0;

    for (unsigned i = 0; i < node->children->len; i++) {
        const BlockChild *child = g_ptr_array_index(node->children, i);

        depth = MAX(depth, child->node->depth + 1);
        ways = MIN(ways + child->node->ways, BLOCK_WAYS_MAX + 1);
    }
    node->depth = depth;
    node->ways = MAX(ways, 1);
}

void block_node_update_shape(BlockNode *node)
{
    g_autoptr(GPtrArray) nodes = block_node_all_above(node);

    for (unsigned i = 0; i < nodes->len; i++) {
        node_compute_shape(g_ptr_array_index(nodes, i));
    }
}

static bool node_check_shape(const BlockNode *node, GError **error)
{
    if (node->depth > BLOCK_DEPTH_MAX) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "block node '%s': chains of more than %d nodes are not supported", node->name,
                    BLOCK_DEPTH_MAX);
        return false;
    }
    if (node->ways > BLOCK_WAYS_MAX) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "block node '%s': the nodes below it share so many of their children that more "
                    "than %d ways lead down from it, which is not supported",
                    node->name, BLOCK_WAYS_MAX);
        return false;
    }
    return true;
}

bool block_node_check_shape(BlockNode *node, GError **error)
{
    g_autoptr(GPtrArray) nodes = block_node_all_above(node);

    for (unsigned i = 0; i < nodes->len; i++) {
        if (!node_check_shape(g_ptr_array_index(nodes, i), error)) {
            return false;
        }
    }
    return true;
}

static int64_t co_fn node_co_length(BlockNode *node)
{
    if (node->drv->co_length) {
        return node->drv->co_length(node);
    }
    return node->drv->is_filter ? block_child_length(node->first_child) : 0;
}

int co_fn block_node_co_refresh_length(BlockNode *node)
{
    int64_t length = node_co_length(node);
    int64_t before;

    if (length < 0) {
        return length;
    }
    if (length > BLOCK_LENGTH_MAX) {
        return -EFBIG;
    }
    before = __atomic_exchange_n(&node->length, length, __ATOMIC_SEQ_CST);
    if (before == length) {
        return 0;
    }
    if (aio_context_current() == node->graph->main) {
        block_notify_co_length(node);
    } else {
        block_notify_grown(node);
    }
    return 0;
}

static bool node_reaches(BlockNode *top, const BlockNode *node, unsigned visit)
{
    if (top == node) {
        return true;
    }
    if (top->visited == visit) {
        return false;
    }
    top->visited = visit;
    for (unsigned i = 0; i < top->children->len; i++) {
        BlockChild *child = g_ptr_array_index(top->children, i);

        if (node_reaches(child->node, node, visit)) {
            return true;
        }
    }
    return false;
}

bool block_node_reaches(BlockNode *top, const BlockNode *node)
{
    return node_reaches(top, node, block_graph_new_visit(top->graph));
}

/* Accessors */

const char *block_node_name(const BlockNode *node)
{
    return node->name;
}

const char *block_node_driver_name(const BlockNode *node)
{
    return node->drv->name;
}

BlockGraph *block_node_graph(const BlockNode *node)
{
    return node->graph;
}

int64_t block_node_length(const BlockNode *node)
{
    return __atomic_load_n(&node->length, __ATOMIC_SEQ_CST);
}

bool block_node_read_only(const BlockNode *node)
{
    return __atomic_load_n(&node->flags.read_only, __ATOMIC_RELAXED);
}

bool block_node_active(const BlockNode *node)
{
    return __atomic_load_n(&node->active, __ATOMIC_RELAXED);
}

void block_node_limits(BlockNode *node, BlockLimits *out)
{
    g_mutex_lock(&node->limits_lock);
    *out = node->limits;
    g_mutex_unlock(&node->limits_lock);
}

ObjectRegistry *block_node_objects(BlockNode *node)
{
    return node->graph->objects;
}

gpointer block_node_state(BlockNode *node)
{
    return node->state;
}

const BlockdevOptions *block_node_options(BlockNode *node)
{
    return node->opts;
}

const BlockNodeFlags *block_node_flags(BlockNode *node)
{
    return &node->flags;
}

BlockReopen *block_node_reopen(BlockNode *node)
{
    return node->reopen;
}

void block_node_set_read_only(BlockNode *node, bool read_only)
{
    __atomic_store_n(&node->flags.read_only, read_only, __ATOMIC_RELAXED);
}

void block_node_set_flags(BlockNode *node, const BlockNodeFlags *flags)
{
    BlockNodeFlags *to = &node->flags;

    block_node_set_read_only(node, flags->read_only);
    to->auto_read_only = flags->auto_read_only;
    to->force_share = flags->force_share;
    to->cache_direct = flags->cache_direct;
    to->cache_no_flush = flags->cache_no_flush;
    to->discard_unmap = flags->discard_unmap;
    to->detect_zeroes = flags->detect_zeroes;
}

void block_node_set_supported_flags(BlockNode *node, BlockRequestFlags write,
                                    BlockRequestFlags zero, BlockRequestFlags truncate)
{
    __atomic_store_n(&node->write_flags, write, __ATOMIC_RELAXED);
    __atomic_store_n(&node->zero_flags, zero, __ATOMIC_RELAXED);
    __atomic_store_n(&node->truncate_flags, truncate, __ATOMIC_RELAXED);
}

bool block_node_can_compress(const BlockNode *node)
{
    return block_node_write_flags(node) & BLOCK_REQ_WRITE_COMPRESSED;
}

static int64_t co_fn node_co_allocated_size(BlockNode *node)
{
    int64_t sum = 0;

    if (node->drv->co_allocated_size) {
        return node->drv->co_allocated_size(node);
    }
    if (node->children->len == 0) {
        return -ENOTSUP;
    }
    for (unsigned i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);
        int64_t size = block_node_co_allocated_size(child->node);

        if (size < 0) {
            return size;
        }
        sum += size;
    }
    return sum;
}

int64_t co_fn block_node_co_allocated_size(BlockNode *node)
{
    /* A query, in the main thread, has no backend, so edges may be exchanged under it. */
    bool hold = aio_context_current() == node->graph->main;
    int64_t size;

    if (hold) {
        block_node_begin_read(node);
    }
    size = node_co_allocated_size(node);
    if (hold) {
        block_node_end_read(node);
    }
    return size;
}
