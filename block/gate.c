/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/gate-internal.h"

#define SHARDS_SHARED (BLOCK_SHARDS - BLOCK_SHARDS_OWN)
#define SHARDS_OWN    ((1U << BLOCK_SHARDS_OWN) - 1)

static unsigned shards_taken;         /* bit n: a thread has shard n to itself */
static unsigned threads;              /* that found none left */
static __thread unsigned this_thread; /* its shard + 1; 0: none yet */

static unsigned shard_share(void)
{
    return BLOCK_SHARDS_OWN + __atomic_fetch_add(&threads, 1, __ATOMIC_RELAXED) % SHARDS_SHARED;
}

/* The thread ends. Who takes its shard next goes on from what it has counted. */
static void shard_give(gpointer mine)
{
    this_thread = 1 + shard_share();
    __atomic_fetch_and(&shards_taken, ~(1U << (GPOINTER_TO_UINT(mine) - 1)), __ATOMIC_RELEASE);
}

static GPrivate shard_hook = G_PRIVATE_INIT(shard_give);

static G_GNUC_NO_INLINE void shard_take(void)
{
    unsigned taken = __atomic_load_n(&shards_taken, __ATOMIC_RELAXED);
    unsigned shard;

    do {
        if (taken == SHARDS_OWN) {
            this_thread = 1 + shard_share();
            return;
        }
        shard = g_bit_nth_lsf(~taken, -1);
    } while (!__atomic_compare_exchange_n(&shards_taken, &taken, taken | 1U << shard, true,
                                          __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
    this_thread = 1 + shard;
    g_private_set(&shard_hook, GUINT_TO_POINTER(this_thread));
}

/*
 * Not inlined and not pure in the compiler's eyes: a coroutine may go on in another thread, so the
 * address of a thread-local variable must not be kept.
 */
__attribute__((noinline)) unsigned block_shard(void)
{
    if (G_UNLIKELY(this_thread == 0)) {
        shard_take();
    }
    __asm__ volatile("");
    return this_thread - 1;
}

void gate_close(Gate *gate)
{
    for (unsigned i = 0; i < BLOCK_SHARDS; i++) {
        __atomic_fetch_or(&gate->shard[i].word, 1, __ATOMIC_SEQ_CST);
    }
}

void gate_open(Gate *gate)
{
    for (unsigned i = 0; i < BLOCK_SHARDS; i++) {
        __atomic_fetch_and(&gate->shard[i].word, ~(int64_t)1, __ATOMIC_SEQ_CST);
    }
}

int64_t gate_inside(Gate *gate)
{
    int64_t sum = 0;

    for (unsigned i = 0; i < BLOCK_SHARDS; i++) {
        sum += __atomic_load_n(&gate->shard[i].word, __ATOMIC_SEQ_CST) >> 1;
    }
    return sum;
}
