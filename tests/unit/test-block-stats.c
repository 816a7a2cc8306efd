/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Counters that many threads keep, those with a shard to themselves and those without. */
#include "block/stats-internal.h"

#include <errno.h>

#define ROUNDS  20000
#define THREADS (3 * BLOCK_SHARDS)

typedef struct Fixture {
    BlockStatsSet set;
    Gate gate;
    bool own[THREADS];
    GMutex lock;
    GCond all_there;
    unsigned there;
} Fixture;

static void count(Fixture *f)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        g_assert_true(gate_enter(&f->gate));
        block_stats_done(&f->set, BLOCK_OP_READ, 512, 1000, 1003, 0);
        block_stats_done(&f->set, BLOCK_OP_WRITE, 512, 1000, 1003, -EIO);
        block_stats_invalid(&f->set, BLOCK_OP_READ);
        g_assert_false(gate_leave(&f->gate));
    }
}

static void assert_counted(Fixture *f, uint64_t n)
{
    BlockOpStats op[BLOCK_OP__MAX];

    block_stats_sum(&f->set, op);
    g_assert_cmpuint(op[BLOCK_OP_READ].ops, ==, n);
    g_assert_cmpuint(op[BLOCK_OP_READ].bytes, ==, 512 * n);
    g_assert_cmpuint(op[BLOCK_OP_READ].time_ns, ==, 3 * n);
    g_assert_cmpuint(op[BLOCK_OP_READ].invalid, ==, n);
    g_assert_cmpuint(op[BLOCK_OP_READ].failed, ==, 0);
    g_assert_cmpuint(op[BLOCK_OP_WRITE].ops, ==, 0);
    g_assert_cmpuint(op[BLOCK_OP_WRITE].failed, ==, n);
    g_assert_cmpint(gate_inside(&f->gate), ==, 0);
}

static gpointer count_once_all_are_there(gpointer opaque)
{
    Fixture *f = opaque;
    unsigned shard = block_shard();

    g_assert_cmpuint(shard, <, BLOCK_SHARDS);
    g_mutex_lock(&f->lock);
    if (block_shard_is_own(shard)) {
        g_assert_false(f->own[shard]); /* nobody else has it */
        f->own[shard] = true;
    }
    f->there++;
    g_cond_broadcast(&f->all_there);
    while (f->there < THREADS) {
        g_cond_wait(&f->all_there, &f->lock);
    }
    g_mutex_unlock(&f->lock);
    count(f);
    return NULL;
}

/* More threads at a time than there are shards. */
static void test_side_by_side(void)
{
    Fixture f = {.there = 0};
    GThread *threads[THREADS];

    for (unsigned i = 0; i < THREADS; i++) {
        threads[i] = g_thread_new("count", count_once_all_are_there, &f);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        g_thread_join(threads[i]);
    }
    assert_counted(&f, (uint64_t)THREADS * ROUNDS);
    block_stats_clear(&f.set);
}

static gpointer count_alone(gpointer opaque)
{
    g_assert_true(block_shard_is_own(block_shard()));
    count(opaque);
    return NULL;
}

/* A thread that ends leaves its shard to others, with what it has counted. */
static void test_one_after_another(void)
{
    Fixture f = {.there = 0};

    for (unsigned i = 0; i < THREADS; i++) {
        g_thread_join(g_thread_new("count", count_alone, &f));
    }
    assert_counted(&f, (uint64_t)THREADS * ROUNDS);
    block_stats_clear(&f.set);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block-stats/side-by-side", test_side_by_side);
    g_test_add_func("/block-stats/one-after-another", test_one_after_another);
    return g_test_run();
}
