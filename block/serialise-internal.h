/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/serialise-internal.h - order between overlapping writes to a node.
 *
 * Overlapping writes are the clients' affair, unless one of them must be alone: read-modify-write,
 * a truncate, a request with BLOCK_REQ_SERIALISING. So ordinary writes only pass a gate. One that
 * must be alone closes the gate, waits until it is empty, and from then on all writes stand in a
 * list with their ranges, in order of arrival, until nobody asks for order any more. A request
 * waits only for such as came before it, so there are no circles.
 *
 * Threads   Any. A request may end in another thread than it began in.
 */
#ifndef WHARF_BLOCK_SERIALISE_INTERNAL_H
#define WHARF_BLOCK_SERIALISE_INTERNAL_H

#include "block/block-internal.h"

/* One write, in its coroutine's frame. */
typedef struct BlockTracked {
    uint64_t start, end;
    bool serialising;
    bool listed;
    GList link; /* in BlockNode.tracked, if listed */
} BlockTracked;

/* For the two functions below alone. */
void co_fn block_tracked_co_begin_slow(BlockNode *node, BlockTracked *t);
void block_tracked_end_slow(BlockNode *node, BlockTracked *t);

/* Wait for what must be over before the write of [@start, @end) may run. */
static inline void co_fn block_tracked_co_begin(BlockNode *node, BlockTracked *t, uint64_t start,
                                                uint64_t end, bool serialising)
{
    t->start = start;
    t->end = end;
    t->serialising = serialising;
    t->listed = false;
    if (G_UNLIKELY(serialising || !gate_enter(&node->writes))) {
        block_tracked_co_begin_slow(node, t);
    }
}

static inline void block_tracked_end(BlockNode *node, BlockTracked *t)
{
    if (G_UNLIKELY(t->listed || gate_leave(&node->writes))) {
        block_tracked_end_slow(node, t);
    }
}

#endif
