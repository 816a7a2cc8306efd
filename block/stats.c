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

static G_GNUC_NO_INLINE BlockStatsShard *stats_shard_new(BlockStatsShard **place)
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

/* The part of a set that the calling thread adds to. */
typedef struct StatsPart {
    BlockStatsShard *shard;
    bool own; /* nobody else does */
} StatsPart;

static inline StatsPart stats_part(BlockStatsSet *set)
{
    unsigned i = block_shard();
    BlockStatsShard *shard = __atomic_load_n(&set->shard[i], __ATOMIC_ACQUIRE);

    return (StatsPart){
        .shard = G_LIKELY(shard) ? shard : stats_shard_new(&set->shard[i]),
        .own = block_shard_is_own(i),
    };
}

static void stats_add(StatsPart part, uint64_t *counter, uint64_t n)
{
    if (G_LIKELY(part.own)) {
        __atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
    } else {
        __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
    }
}

void block_stats_done(BlockStatsSet *set, BlockOp op, uint64_t bytes, int64_t start_ns,
                      int64_t end_ns, int result)
{
    StatsPart part = stats_part(set);
    BlockOpStats *s = &part.shard->op[op];

    if (G_UNLIKELY(result < 0)) {
        stats_add(part, &s->failed, 1);
        return;
    }
    stats_add(part, &s->ops, 1);
    stats_add(part, &s->bytes, bytes);
    stats_add(part, &s->time_ns, end_ns - start_ns);
}

void block_stats_invalid(BlockStatsSet *set, BlockOp op)
{
    StatsPart part = stats_part(set);

    stats_add(part, &part.shard->op[op].invalid, 1);
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
