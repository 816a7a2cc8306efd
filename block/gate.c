/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/gate-internal.h"

/*
 * Not inlined and not pure in the compiler's eyes: a coroutine may go on in another thread, so the
 * address of a thread-local variable must not be kept.
 */
__attribute__((noinline)) unsigned block_shard(void)
{
    static unsigned threads;
    static __thread unsigned shard;

    if (G_UNLIKELY(shard == 0)) {
        shard = 1 + __atomic_fetch_add(&threads, 1, __ATOMIC_RELAXED) % BLOCK_SHARDS;
    }
    __asm__ volatile("");
    return shard - 1;
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
