/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/state.h"

#define CONTENT (BLOCK_STATUS_DATA | BLOCK_STATUS_ZERO)

/* What the backing file has there; behind its end are zeros. */
static int co_fn co_backing_status(BlockChild *backing, uint64_t offset, uint64_t bytes,
                                   uint64_t *pnum, BlockStatus *status)
{
    BlockStatus below;
    int r = block_child_co_block_status(backing, offset, bytes, pnum, &below);

    if (r == 0 && *pnum == 0) {
        *pnum = bytes;
        below = BLOCK_STATUS_ZERO;
    }
    *status = below & CONTENT;
    return r;
}

/* Clusters that were reserved, and never written, are holes in the file. */
static int co_fn co_data_status(BlockChild *file, uint64_t host, uint64_t *pnum,
                                BlockStatus *status)
{
    BlockStatus below;
    uint64_t n;
    int r = block_child_co_block_status(file, host, *pnum, &n, &below);

    if (r == 0 && n > 0) {
        *pnum = n;
        *status = BLOCK_STATUS_ALLOCATED | (below & CONTENT);
    }
    return r;
}

static int co_fn co_status(BlockNode *node, uint64_t offset, uint64_t bytes, uint64_t *pnum,
                           BlockStatus *status)
{
    const Qcow2State *s = block_node_state(node);
    Qcow2Extent extent;
    int r = qcow2_co_map(node, offset, bytes, &extent);

    if (r < 0) {
        return r;
    }
    *pnum = extent.bytes;
    *status = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED;
    switch (extent.kind) {
    case QCOW2_EXTENT_UNALLOCATED:
        if (s->backing) {
            return co_backing_status(s->backing, offset, extent.bytes, pnum, status);
        }
        *status = BLOCK_STATUS_ZERO;
        return 0;
    case QCOW2_EXTENT_ZERO:
        *status = BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED;
        return 0;
    case QCOW2_EXTENT_DATA:
        return s->data == s->file ? co_data_status(s->file, extent.host, pnum, status) : 0;
    default:
        return 0;
    }
}

/* A cluster stays where it was looked up until the file has been asked about it. */
int co_fn qcow2_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes, uint64_t *pnum,
                                BlockStatus *status)
{
    Qcow2State *s = block_node_state(node);
    unsigned epoch;
    int r;

    if (!s->writable) {
        return co_status(node, offset, bytes, pnum, status);
    }
    epoch = qcow2_use_begin(s);
    r = co_status(node, offset, bytes, pnum, status);
    qcow2_use_end(s, epoch);
    return r;
}
