/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/stats-internal.h"

#include <string.h>
#include <time.h>

struct BlockStatsShard {
    BlockOpStats op[BLOCK_OP__MAX];
};

int64_t block_stats_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static BlockStatsShard *stats_shard_new(BlockStatsShard **place)
{
    BlockStatsShard *fresh = g_aligned_alloc0(1, sizeof(*fresh), BLOCK_CACHE_LINE);
    BlockStatsShard *first = NULL;

    if (__atomic_compare_exchange_n(place, &first, fresh, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE)) {
        return fresh;
    }
    g_aligned_free(fresh);
    return first;
}

static BlockStatsShard *stats_shard(BlockStatsSet *set)
{
    BlockStatsShard **place = &set->shard[block_shard()];
    BlockStatsShard *shard = __atomic_load_n(place, __ATOMIC_ACQUIRE);

    return G_LIKELY(shard) ? shard : stats_shard_new(place);
}

static void stats_add(uint64_t *counter, uint64_t n)
{
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

void block_stats_done(BlockStatsSet *set, BlockOp op, uint64_t bytes, int64_t start_ns,
                      int64_t end_ns, int result)
{
    BlockOpStats *s = &stats_shard(set)->op[op];

    if (G_UNLIKELY(result < 0)) {
        stats_add(&s->failed, 1);
        return;
    }
    stats_add(&s->ops, 1);
    stats_add(&s->bytes, bytes);
    stats_add(&s->time_ns, end_ns - start_ns);
}

void block_stats_invalid(BlockStatsSet *set, BlockOp op)
{
    stats_add(&stats_shard(set)->op[op].invalid, 1);
}

void block_stats_wrote_up_to(BlockStatsSet *set, uint64_t end)
{
    uint64_t highest = __atomic_load_n(&set->highest_write, __ATOMIC_RELAXED);

    while (end > highest && !__atomic_compare_exchange_n(&set->highest_write, &highest, end, true,
                                                         __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

uint64_t block_stats_highest_write(BlockStatsSet *set)
{
    return __atomic_load_n(&set->highest_write, __ATOMIC_RELAXED);
}

static void stats_sum_op(BlockOpStats *sum, const BlockOpStats *s)
{
    sum->ops += __atomic_load_n(&s->ops, __ATOMIC_RELAXED);
    sum->failed += __atomic_load_n(&s->failed, __ATOMIC_RELAXED);
    sum->invalid += __atomic_load_n(&s->invalid, __ATOMIC_RELAXED);
    sum->bytes += __atomic_load_n(&s->bytes, __ATOMIC_RELAXED);
    sum->time_ns += __atomic_load_n(&s->time_ns, __ATOMIC_RELAXED);
}

void block_stats_sum(BlockStatsSet *set, BlockOpStats out[BLOCK_OP__MAX])
{
    memset(out, 0, BLOCK_OP__MAX * sizeof(out[0]));
    for (unsigned i = 0; i < BLOCK_SHARDS; i++) {
        BlockStatsShard *shard = __atomic_load_n(&set->shard[i], __ATOMIC_ACQUIRE);

        for (BlockOp op = 0; shard && op < BLOCK_OP__MAX; op++) {
            stats_sum_op(&out[op], &shard->op[op]);
        }
    }
}

void block_stats_clear(BlockStatsSet *set)
{
    for (unsigned i = 0; i < BLOCK_SHARDS; i++) {
        g_aligned_free(set->shard[i]);
        set->shard[i] = NULL;
    }
}
