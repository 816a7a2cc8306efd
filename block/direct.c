/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Direct access: clients of a backend that read and write the file below its node without a
 * request. What they do cannot be counted, held up or told to anybody, so here is decided who may,
 * and seen to it that nothing that would have to know of it comes in between.
 */
#include "block/block-internal.h"

/* What the common options ask for that only requests can give. */
static bool check_flags(BlockNode *node, BlockPerm perm, GError **error)
{
    if (node->flags.cache_direct) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "block node '%s' has 'cache.direct', and direct access goes through the page "
                    "cache",
                    node->name);
        return false;
    }
    if ((perm & BLOCK_PERM_WRITE) &&
        node->flags.detect_zeroes != BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "block node '%s' has 'detect-zeroes', which must see each write", node->name);
        return false;
    }
    return true;
}

static bool co_fn node_co_open_direct(BlockNode *node, BlockPerm perm, BlockPerm shared,
                                      BlockDirectFile *file, GError **error)
{
    if (!node->drv->co_open_direct) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "block node '%s': driver '%s' must see each request", node->name,
                    node->drv->name);
        return false;
    }
    return check_flags(node, perm, error) &&
           node->drv->co_open_direct(node, perm, shared, file, error);
}

bool co_fn block_child_co_open_direct(BlockChild *child, BlockPerm perm, BlockPerm shared,
                                      BlockDirectFile *file, GError **error)
{
    return node_co_open_direct(child->node, perm, shared, file, error);
}

/* Say of @node and all below it who writes past them. */
static void set_writer(BlockNode *node, BlockBackend *writer)
{
    g_autoptr(GPtrArray) nodes = block_node_all_below(node);

    for (unsigned i = 0; i < nodes->len; i++) {
        BlockNode *below = g_ptr_array_index(nodes, i);

        __atomic_store_n(&below->direct_writer, writer, __ATOMIC_SEQ_CST);
    }
}

/* Take or give back what a writer needs beyond what it has: to grow the file, and to be alone. */
static bool co_fn writer_co_set_perm(BlockBackend *blk, BlockPerm perm, BlockPerm shared,
                                     GError **error)
{
    BlockPerm old_perm = blk->perm, old_shared = blk->shared;

    blk->perm = perm;
    blk->shared = shared;
    if (block_backend_co_update_perm(blk, error)) {
        return true;
    }
    blk->perm = old_perm;
    blk->shared = old_shared;
    return false;
}

static bool check_no_writer(const BlockNode *node, GError **error)
{
    if (!node->direct_writer) {
        return true;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                "%s writes to block node '%s' directly already", node->direct_writer->user,
                node->name);
    return false;
}

static bool co_fn writer_co_begin(BlockBackend *blk, GError **error)
{
    BlockNode *node = blk->root.node;

    /* Another one here would need what its permissions refuse; but its mark must stay, too. */
    if (!check_no_writer(node, error)) {
        return false;
    }
    blk->lent_perm = blk->perm;
    blk->lent_shared = blk->shared;
    set_writer(node, blk);
    block_backend_set_unflushed(blk, block_graph_troubles(blk->graph));
    if (!writer_co_set_perm(blk, blk->perm | BLOCK_PERM_RESIZE,
                            blk->shared & BLOCK_PERM_CONSISTENT_READ, error)) {
        set_writer(node, NULL);
        return false;
    }
    return true;
}

static void co_fn writer_co_end(BlockBackend *blk)
{
    g_autoptr(GError) error = NULL;

    block_node_set_dirty_below(blk->root.node);
    set_writer(blk->root.node, NULL);
    if (!writer_co_set_perm(blk, blk->lent_perm, blk->lent_shared, &error)) {
        g_warning("%s: cannot give permissions back: %s", blk->user, error->message);
    }
}

static bool co_fn hold_co_begin(BlockBackend *blk, BlockDirectFile *file, GError **error)
{
    bool writes = blk->perm & BLOCK_PERM_WRITE;

    if (writes && !writer_co_begin(blk, error)) {
        return false;
    }
    if (!node_co_open_direct(blk->root.node, blk->perm, blk->shared, file, error)) {
        if (writes) {
            writer_co_end(blk);
        }
        return false;
    }
    blk->direct = true;
    return true;
}

bool co_fn block_backend_co_hold_direct(BlockBackend *blk, BlockDirectFile *file, GError **error)
{
    bool ok;

    g_assert(!blk->direct);
    block_graph_co_lock_change(blk->graph, blk->root.node);
    ok = hold_co_begin(blk, file, error);
    block_graph_unlock_change(blk->graph);
    return ok;
}

void co_fn block_backend_co_release_direct(BlockBackend *blk)
{
    g_assert(blk->direct);
    block_graph_co_lock_change(blk->graph, blk->root.node);
    blk->direct = false;
    if (blk->root.node->direct_writer == blk) {
        writer_co_end(blk);
    }
    block_graph_unlock_change(blk->graph);
}

static int co_fn node_co_refresh_lengths(BlockNode *node)
{
    for (unsigned i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);
        int r = node_co_refresh_lengths(child->node);

        if (r < 0) {
            return r;
        }
    }
    return block_node_co_refresh_length(node);
}

int co_fn blk_co_refresh_length(BlockBackend *blk)
{
    int r;

    block_backend_co_enter(blk);
    r = node_co_refresh_lengths(blk->root.node);
    block_backend_leave(blk);
    return r;
}
