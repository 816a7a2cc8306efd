/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/gate-internal.h - counts who is inside, and can be closed.
 *
 * The way in costs one atomic addition to a counter that the thread shares with few others; the way
 * out another. Closing the gate lets nobody in any more; whoever closed it waits, by means of its
 * own, until nobody is inside.
 *
 * Each counter holds twice the number of those inside, and in bit 0 whether the gate is closed. So
 * one operation both enters and learns whether it was allowed to, and the last one to leave learns
 * that somebody waits without touching the gate once more: a gate may be freed as soon as it is
 * closed and empty. Who enters in one thread may leave in another; only the sum counts.
 *
 * Threads   Any; closing and opening are the owner's affair, one at a time.
 */
#ifndef WHARF_BLOCK_GATE_INTERNAL_H
#define WHARF_BLOCK_GATE_INTERNAL_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define BLOCK_SHARDS     16
#define BLOCK_SHARDS_OWN 12 /* so many threads have one of the first to themselves */
#define BLOCK_CACHE_LINE 64

/* The shard of the calling thread; never kept across a yield, which may change threads. */
unsigned block_shard(void);

/*
 * Whether only the calling thread changes what lies in @shard, its own: then a load and a store,
 * both atomic, add to a counter that others read.
 */
static inline bool block_shard_is_own(unsigned shard)
{
    return shard < BLOCK_SHARDS_OWN;
}

typedef struct Gate {
    struct {
        int64_t word;
    } __attribute__((aligned(BLOCK_CACHE_LINE))) shard[BLOCK_SHARDS];
} Gate;

/* Go inside, unless the gate is closed. After false whoever waits for the gate must be woken. */
static inline bool gate_enter(Gate *gate)
{
    int64_t *word = &gate->shard[block_shard()].word;

    if (G_LIKELY(!(__atomic_fetch_add(word, 2, __ATOMIC_SEQ_CST) & 1))) {
        return true;
    }
    __atomic_fetch_sub(word, 2, __ATOMIC_SEQ_CST);
    return false;
}

/* Go inside although the gate may be closed: for whoever closed it. */
static inline void gate_force(Gate *gate)
{
    __atomic_fetch_add(&gate->shard[block_shard()].word, 2, __ATOMIC_SEQ_CST);
}

/* Returns whether somebody waits for the gate to be empty. The gate may be gone by then. */
static inline bool gate_leave(Gate *gate)
{
    return __atomic_fetch_sub(&gate->shard[block_shard()].word, 2, __ATOMIC_SEQ_CST) & 1;
}

void gate_close(Gate *gate);
void gate_open(Gate *gate);

/* How many are inside. Never less than that once the gate is closed; may be more for a moment. */
int64_t gate_inside(Gate *gate);

#endif
