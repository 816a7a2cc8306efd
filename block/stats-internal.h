/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/stats-internal.h - counters of a node or a backend, kept by all threads without a lock.
 *
 * Each thread adds to a shard of its own or, where there are many threads, to one that it shares
 * with few others; a snapshot adds the shards up. Shards are made when first used, so that what is
 * idle costs little.
 */
#ifndef WHARF_BLOCK_STATS_INTERNAL_H
#define WHARF_BLOCK_STATS_INTERNAL_H

#include "block/backend.h"
#include "block/gate-internal.h"

typedef struct BlockStatsShard BlockStatsShard;

typedef struct BlockStatsSet {
    BlockStatsShard *shard[BLOCK_SHARDS];
    uint64_t highest_write;
} BlockStatsSet;

/* Now, in nanoseconds, on the clock that latencies are measured by. */
int64_t block_stats_clock(void);

/* Account a request that began at @start_ns and ended just now, at @end_ns, with @result. */
void block_stats_done(BlockStatsSet *set, BlockOp op, uint64_t bytes, int64_t start_ns,
                      int64_t end_ns, int result);

/* Account a request that was refused for its range. */
void block_stats_invalid(BlockStatsSet *set, BlockOp op);

/* Account the end of a write. */
void block_stats_wrote_up_to(BlockStatsSet *set, uint64_t end);

uint64_t block_stats_highest_write(BlockStatsSet *set);

void block_stats_sum(BlockStatsSet *set, BlockOpStats out[BLOCK_OP__MAX]);
void block_stats_clear(BlockStatsSet *set);

#endif
