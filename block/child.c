/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of a driver to a child of its node: the same path as a backend's, with other rules about
 * the end of the node, and accounted for the child alone.
 */
#include "block/block-internal.h"

#include <string.h>

static bool child_may_write(const BlockChild *child)
{
    return __atomic_load_n(&child->perm, __ATOMIC_RELAXED) &
           (BLOCK_PERM_WRITE | BLOCK_PERM_WRITE_UNCHANGED);
}

static int account(BlockChild *child, BlockOp op, uint64_t bytes, int64_t start_ns, int result)
{
    block_stats_done(&child->node->stats, op, bytes, start_ns, block_stats_clock(), result);
    return result;
}

/* A read that passes the end: zeros from there on. */
static int co_fn read_co_past_end(BlockNode *node, uint64_t offset, const IoVector *iov,
                                  uint64_t length)
{
    size_t inside = offset < length ? length - offset : 0;
    int r = 0;

    if (inside > 0) {
        g_auto(IovPart) part = IOV_PART_EMPTY;

        iov_part_init(&part, iov, 0, inside);
        r = block_node_co_preadv(node, offset, &part.iov, 0);
    }
    if (r == 0) {
        iov_fill(iov, inside, 0, iov->bytes - inside);
    }
    return r;
}

int co_fn block_child_co_preadv(BlockChild *child, uint64_t offset, const IoVector *iov,
                                BlockRequestFlags flags)
{
    BlockNode *node = child->node;
    uint64_t length = block_node_length(node);
    int64_t start_ns = block_stats_clock();
    int r;

    if (G_UNLIKELY(offset + iov->bytes > length)) {
        r = read_co_past_end(node, offset, iov, length);
    } else {
        r = block_node_co_preadv(node, offset, iov, flags);
    }
    return account(child, BLOCK_OP_READ, iov->bytes, start_ns, r);
}

/* Not counted where it is to be read instead, for then that is. */
int co_fn block_child_co_splice(BlockChild *child, uint64_t offset, size_t bytes, int pipe)
{
    int64_t start_ns = block_stats_clock();
    int r = -ENOTSUP;

    if (offset + bytes <= (uint64_t)block_node_length(child->node)) {
        r = block_node_co_splice(child->node, offset, bytes, pipe);
    }
    return r == -ENOTSUP ? r : account(child, BLOCK_OP_READ, bytes, start_ns, r);
}

/* Make the node long enough for a write up to @end. */
static int co_fn child_co_grow(BlockChild *child, uint64_t end)
{
    BlockNode *node = child->node;

    if (!(__atomic_load_n(&child->perm, __ATOMIC_RELAXED) & BLOCK_PERM_RESIZE)) {
        return -EIO;
    }
    if (end > (uint64_t)BLOCK_LENGTH_MAX) {
        return -EFBIG;
    }
    CO_MUTEX_GUARD(&node->grow_lock);
    if (end <= (uint64_t)block_node_length(node)) {
        return 0;
    }
    /* Others, who hold no such lock, may make it longer still before this has its turn. */
    return block_node_co_truncate(node, end, PREALLOC_MODE_OFF,
                                  BLOCK_REQ_ZERO | BLOCK_REQ_GROW_ONLY, NULL);
}

static int co_fn child_co_prepare_write(BlockChild *child, uint64_t offset, uint64_t bytes)
{
    if (G_UNLIKELY(!child_may_write(child))) {
        return -EPERM;
    }
    if (G_UNLIKELY(offset + bytes > (uint64_t)block_node_length(child->node))) {
        return child_co_grow(child, offset + bytes);
    }
    return 0;
}

int co_fn block_child_co_pwritev(BlockChild *child, uint64_t offset, const IoVector *iov,
                                 BlockRequestFlags flags)
{
    int64_t start_ns = block_stats_clock();
    int r = child_co_prepare_write(child, offset, iov->bytes);

    if (G_LIKELY(r == 0)) {
        r = block_node_co_pwritev(child->node, offset, iov, flags);
    }
    return account(child, BLOCK_OP_WRITE, iov->bytes, start_ns, r);
}

/* Counted as block_child_co_splice() is. */
int co_fn block_child_co_splice_write(BlockChild *child, uint64_t offset, size_t bytes, int pipe)
{
    int64_t start_ns = block_stats_clock();
    int r = child_co_prepare_write(child, offset, bytes);

    if (r == 0) {
        r = block_node_co_splice_write(child->node, offset, bytes, pipe);
    }
    return r == -ENOTSUP ? r : account(child, BLOCK_OP_WRITE, bytes, start_ns, r);
}

int co_fn block_child_co_pwrite_zeroes(BlockChild *child, uint64_t offset, uint64_t bytes,
                                       BlockRequestFlags flags)
{
    int64_t start_ns = block_stats_clock();
    int r = child_co_prepare_write(child, offset, bytes);

    if (r == 0) {
        r = block_node_co_pwrite_zeroes(child->node, offset, bytes, flags);
    }
    return account(child, BLOCK_OP_WRITE, bytes, start_ns, r);
}

int co_fn block_child_co_pdiscard(BlockChild *child, uint64_t offset, uint64_t bytes)
{
    uint64_t length = block_node_length(child->node);
    int64_t start_ns = block_stats_clock();
    int r = 0;

    if (!child_may_write(child)) {
        r = -EPERM;
    } else if (offset < length) {
        bytes = MIN(bytes, length - offset);
        r = block_node_co_pdiscard(child->node, offset, bytes);
    }
    return account(child, BLOCK_OP_UNMAP, bytes, start_ns, r);
}

int co_fn block_child_co_allocate(BlockChild *child, uint64_t offset, uint64_t bytes)
{
    uint64_t length = block_node_length(child->node);

    if (!child_may_write(child)) {
        return -EPERM;
    }
    return offset < length
               ? block_node_co_allocate(child->node, offset, MIN(bytes, length - offset))
               : 0;
}

int co_fn block_child_co_flush(BlockChild *child)
{
    int64_t start_ns = block_stats_clock();

    return account(child, BLOCK_OP_FLUSH, 0, start_ns, block_node_co_flush(child->node));
}

int co_fn block_child_co_truncate(BlockChild *child, uint64_t size, PreallocMode prealloc,
                                  BlockRequestFlags flags, GError **error)
{
    if (!(__atomic_load_n(&child->perm, __ATOMIC_RELAXED) & BLOCK_PERM_RESIZE)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "block node '%s': its length cannot be changed through node '%s', which is "
                    "not allowed to",
                    child->node->name, child->parent->name);
        return -EPERM;
    }
    return block_node_co_truncate(child->node, size, prealloc, flags, error);
}

int co_fn block_child_co_block_status(BlockChild *child, uint64_t offset, uint64_t bytes,
                                      uint64_t *pnum, BlockStatus *status)
{
    return block_node_co_block_status(child->node, offset, bytes, pnum, status);
}

int64_t co_fn block_child_co_allocated_size(BlockChild *child)
{
    return block_node_co_allocated_size(child->node);
}
