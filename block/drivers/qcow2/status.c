/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/state.h"

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
    *status = below & (BLOCK_STATUS_DATA | BLOCK_STATUS_ZERO);
    return r;
}

int co_fn qcow2_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes, uint64_t *pnum,
                                BlockStatus *status, uint64_t *map)
{
    const Qcow2State *s = block_node_state(node);
    Qcow2Extent extent;
    int r = qcow2_co_map(node, offset, bytes, &extent);

    if (r < 0) {
        return r;
    }
    *pnum = extent.bytes;
    switch (extent.kind) {
    case QCOW2_EXTENT_UNALLOCATED:
        if (s->backing) {
            return co_backing_status(s->backing, offset, extent.bytes, pnum, status);
        }
        *status = BLOCK_STATUS_ZERO;
        break;
    case QCOW2_EXTENT_ZERO:
        *status = BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED;
        break;
    case QCOW2_EXTENT_DATA:
        *status = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED;
        if (s->data == s->file) {
            /* Clusters that were reserved, and never written, are holes in the file. */
            *status |= BLOCK_STATUS_OFFSET_VALID | BLOCK_STATUS_RECURSE;
            *map = extent.host;
        }
        break;
    default:
        *status = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED;
        break;
    }
    return 0;
}
