/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A driver that takes one request at a time (BLOCK_SERIAL, what a driver is that says nothing). It
 * stands in for the memory driver in this program.
 */
#include <string.h>

#include "block-fixture.h"
#include "block/driver.h"

static unsigned inside, most_inside, requests; /* atomic */

static int co_fn serial_co_work(void)
{
    unsigned now = __atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST);

    if (now > __atomic_load_n(&most_inside, __ATOMIC_SEQ_CST)) {
        __atomic_store_n(&most_inside, now, __ATOMIC_SEQ_CST);
    }
    aio_co_sleep_ns(20000);
    __atomic_fetch_sub(&inside, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&requests, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static bool co_fn serial_co_open(BlockNode *node, const BlockdevOptions *opts, GError **error)
{
    return true;
}

static int co_fn serial_co_rw(BlockNode *node, uint64_t offset, const IoVector *iov,
                              BlockRequestFlags flags)
{
    return serial_co_work();
}

static int co_fn serial_co_zero(BlockNode *node, uint64_t offset, uint64_t bytes,
                                BlockRequestFlags flags)
{
    return serial_co_work();
}

static int co_fn serial_co_flush(BlockNode *node)
{
    return serial_co_work();
}

static int64_t co_fn serial_co_length(BlockNode *node)
{
    return 65536;
}

const BlockDriver block_driver_memory = {
    .name = "memory",
    .type = BLOCKDEV_DRIVER_MEMORY,
    .is_protocol = true,
    .co_open = serial_co_open,
    .co_preadv = serial_co_rw,
    .co_pwritev = serial_co_rw,
    .co_pwrite_zeroes = serial_co_zero,
    .co_flush = serial_co_flush,
    .co_length = serial_co_length,
};

static void test_one_at_a_time(void)
{
    g_autoptr(Fixture) f = fixture_new();
    BlockBackend *blk;
    char buffer[512] = {0};
    Request r[24];

    fixture_start_threads(f);
    fixture_add(f, "{'driver': 'memory', 'node-name': 'm', 'size': 65536}");
    blk = fixture_backend(f, "m", "test", BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE,
                          BLOCK_PERM_ALL);
    for (unsigned i = 0; i < G_N_ELEMENTS(r); i++) {
        r[i] = (Request){.op = i % 4 == 3 ? REQUEST_FLUSH : REQUEST_READ + i % 4,
                         .blk = blk,
                         .offset = i * 512,
                         .bytes = 512,
                         .buffer = buffer};
        request_start(&r[i], fixture_thread(f, i % FIXTURE_THREADS));
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(r); i++) {
        fixture_wait_count(f, &r[i].done, 1);
        g_assert_cmpint(r[i].result, ==, 0);
    }
    g_assert_cmpuint(most_inside, ==, 1);
    g_assert_cmpuint(requests, >=, 18);
    fixture_free_backend(f, blk);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block/serial/one-at-a-time", test_one_at_a_time);
    return g_test_run();
}
