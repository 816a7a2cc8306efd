/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The small drivers: raw, null-co and null-aio, memory. */
#include <errno.h>
#include <string.h>

#include "block-fixture.h"

#define RW (BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE)

static BlockBackend *backend(Fixture *f, const char *node)
{
    return fixture_backend(f, node, "test", RW, BLOCK_PERM_ALL);
}

static void assert_status(Fixture *f, BlockBackend *blk, uint64_t offset, uint64_t bytes,
                          uint64_t expected_n, BlockStatus expected)
{
    uint64_t n;
    BlockStatus status;

    g_assert_cmpint(fixture_status(f, blk, offset, bytes, &n, &status), ==, 0);
    g_assert_cmpuint(n, ==, expected_n);
    g_assert_cmphex(status, ==, expected | BLOCK_STATUS_ALLOCATED);
}

/* raw */

static void test_raw_offset(void)
{
    g_autoptr(Fixture) f = fixture_new();
    BlockBackend *low, *raw;

    fixture_add(f, "{'driver': 'memory', 'node-name': 'm', 'size': 200000}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'r', 'file': 'm', 'offset': 1001, "
                   "'size': 131072, 'discard': 'unmap'}");
    low = backend(f, "m");
    raw = backend(f, "r");
    g_assert_cmpint(blk_length(raw), ==, 131072);
    g_assert_cmpint(fixture_fill(f, raw, 10, 20, 0x22), ==, 0);
    fixture_assert_bytes(f, low, 1011, 20, 0x22);
    g_assert_cmpint(fixture_fill(f, low, 0, 200000, 0x33), ==, 0);
    g_assert_cmpint(fixture_zero(f, raw, 0, 131072, 0), ==, 0);
    fixture_assert_bytes(f, low, 0, 1001, 0x33);
    fixture_assert_bytes(f, low, 1001, 131072, 0);
    fixture_assert_bytes(f, low, 1001 + 131072, 1000, 0x33);
    /* Chunks of memory are 64 KiB: the second one below is all zeros, so it is not there. */
    assert_status(f, raw, 0, 131072, 65536 - 1001, BLOCK_STATUS_DATA);
    assert_status(f, raw, 65536 - 1001, 131072, 65536, BLOCK_STATUS_ZERO);
    g_assert_cmpint(fixture_fill(f, raw, 131072, 1, 0), ==, -EIO);
    g_assert_cmpint(fixture_truncate(f, raw, 512, 0, NULL), ==, -ENOTSUP);
    g_assert_cmpint(fixture_discard(f, raw, 0, 131072), ==, 0);
    g_assert_cmpint(fixture_allocate(f, raw, 0, 131072), ==, 0);
    g_assert_cmpint(fixture_allocate(f, raw, 131072, 1), ==, -EIO);
    g_assert_cmpint(fixture_flush(f, raw), ==, 0);
    fixture_free_backend(f, low);
    fixture_free_backend(f, raw);
}

/* A length that is fine for the window, but not for what it looks at, changes nothing. */
static void test_raw_too_long(void)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autoptr(GError) error = NULL;
    BlockBackend *blk;

    fixture_add(f, "{'driver': 'memory', 'node-name': 'm', 'size': 1000}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'r', 'file': 'm', 'offset': 100}");
    blk = fixture_backend(f, "r", "test", BLOCK_PERM_WRITE, BLOCK_PERM_ALL);
    g_assert_cmpint(fixture_truncate(f, blk, INT64_C(9223372036787666944), BLOCK_REQ_ZERO, &error),
                    ==, -EFBIG);
    assert_error(&error, "too large");
    g_assert_cmpint(blk_length(blk), ==, 900);
    g_assert_cmpint(block_node_length(block_graph_find(f->graph, "m", NULL)), ==, 1000);
    g_assert_cmpint(fixture_truncate(f, blk, 950, BLOCK_REQ_ZERO, &error), ==, 0);
    g_assert_cmpint(block_node_length(block_graph_find(f->graph, "m", NULL)), ==, 1050);
    fixture_free_backend(f, blk);
}

/* Without a size the node goes up to the end of its file, wherever that is. */
static void test_raw_follows(void)
{
    g_autoptr(Fixture) f = fixture_new();
    BlockBackend *low, *raw;

    fixture_add(f, "{'driver': 'memory', 'node-name': 'm', 'size': 1000}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'r', 'file': 'm', 'offset': 100}");
    low = backend(f, "m");
    raw = backend(f, "r");
    g_assert_cmpint(fixture_truncate(f, raw, 5000, 0, NULL), ==, 0);
    g_assert_cmpint(blk_length(low), ==, 5100);
    g_assert_cmpint(fixture_truncate(f, low, 2000, 0, NULL), ==, 0);
    g_assert_cmpint(blk_length(raw), ==, 1900);
    g_assert_cmpint(fixture_truncate(f, low, 50, 0, NULL), ==, 0);
    g_assert_cmpint(blk_length(raw), ==, 0);
    g_assert_cmpint(fixture_truncate(f, raw, INT64_MAX, 0, NULL), ==, -EFBIG);
    fixture_free_backend(f, low);
    fixture_free_backend(f, raw);
}

/* The file has become shorter than the window into it. */
static void test_raw_cut(void)
{
    g_autoptr(Fixture) f = fixture_new();
    BlockBackend *low, *raw;

    fixture_add(f, "{'driver': 'memory', 'node-name': 'm', 'size': 4096}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'r', 'file': 'm', 'size': 4096}");
    low = backend(f, "m");
    raw = backend(f, "r");
    g_assert_cmpint(fixture_fill(f, raw, 0, 4096, 0x22), ==, 0);
    g_assert_cmpint(fixture_truncate(f, low, 1000, 0, NULL), ==, 0);
    g_assert_cmpint(blk_length(raw), ==, 4096);
    fixture_assert_bytes(f, raw, 0, 1000, 0x22);
    fixture_assert_bytes(f, raw, 1000, 3096, 0);
    assert_status(f, raw, 2000, 4096, 2096, BLOCK_STATUS_ZERO | BLOCK_STATUS_EOF);
    g_assert_cmpint(fixture_fill(f, raw, 2000, 1, 0), ==, -EIO);
    fixture_free_backend(f, low);
    fixture_free_backend(f, raw);
}

/* null-co, null-aio */

static void test_null(void)
{
    g_autoptr(Fixture) f = fixture_new();
    BlockBackend *blk;

    fixture_add(f, "{'driver': 'null-co', 'node-name': 'n', 'size': 1000}");
    blk = backend(f, "n");
    g_assert_cmpint(fixture_fill(f, blk, 0, 1000, 0x22), ==, 0);
    /* Never what a reader's buffer held before. */
    fixture_assert_bytes(f, blk, 0, 1000, 0);
    assert_status(f, blk, 0, 1000, 1000, BLOCK_STATUS_DATA | BLOCK_STATUS_EOF);
    g_assert_cmpint(fixture_zero(f, blk, 1, 998, BLOCK_REQ_NO_FALLBACK | BLOCK_REQ_FUA), ==, 0);
    g_assert_cmpint(fixture_discard(f, blk, 1, 998), ==, 0);
    g_assert_cmpint(fixture_flush(f, blk), ==, 0);
    g_assert_cmpint(fixture_truncate(f, blk, 1000, 0, NULL), ==, -ENOTSUP);
    fixture_free_backend(f, blk);

    fixture_add(f, "{'driver': 'null-aio', 'node-name': 'z', 'read-zeroes': true}");
    blk = backend(f, "z");
    g_assert_cmpint(blk_length(blk), ==, 1 << 30);
    assert_status(f, blk, 0, 1 << 20, 1 << 20, BLOCK_STATUS_ZERO);
    fixture_free_backend(f, blk);
}

static void test_null_latency(void)
{
    g_autoptr(Fixture) f = fixture_new();
    BlockBackend *blk;
    char byte = 0;
    int64_t before;

    fixture_add(f, "{'driver': 'null-co', 'node-name': 'n', 'latency-ns': 2000000}");
    blk = backend(f, "n");
    before = aio_now_ns();
    g_assert_cmpint(fixture_read(f, blk, 0, &byte, 1), ==, 0);
    g_assert_cmpint(fixture_write(f, blk, 0, &byte, 1, 0), ==, 0);
    g_assert_cmpint(fixture_flush(f, blk), ==, 0);
    g_assert_cmpint(aio_now_ns() - before, >=, 4000000);
    fixture_free_backend(f, blk);
}

/* memory */

typedef struct Size {
    BlockBackend *blk;
    int64_t result;
} Size;

static void size_entry(void *opaque)
{
    Size *s = opaque;

    s->result = blk_co_allocated_size(s->blk);
}

static int64_t allocated(Fixture *f, BlockBackend *blk)
{
    Size s = {blk, 0};

    fixture_run(f, size_entry, &s);
    return s.result;
}

static void test_memory_sparse(void)
{
    g_autoptr(Fixture) f = fixture_new();
    BlockBackend *blk;
    const uint64_t far = INT64_C(1) << 60;

    fixture_add(f, "{'driver': 'memory', 'node-name': 'm', 'size': 9223372036787666944}");
    blk = backend(f, "m");
    assert_status(f, blk, 0, INT64_MAX, 9223372036787666944U, BLOCK_STATUS_ZERO | BLOCK_STATUS_EOF);
    g_assert_cmpint(fixture_fill(f, blk, far + 100, 100, 0x22), ==, 0);
    fixture_assert_bytes(f, blk, far, 100, 0);
    fixture_assert_bytes(f, blk, far + 100, 100, 0x22);
    g_assert_cmpint(allocated(f, blk), ==, 65536);
    assert_status(f, blk, far, 1 << 20, 65536, BLOCK_STATUS_DATA);
    g_assert_cmpint(fixture_zero(f, blk, 0, far + 150, 0), ==, 0);
    fixture_assert_bytes(f, blk, far + 100, 50, 0);
    fixture_assert_bytes(f, blk, far + 150, 50, 0x22);
    g_assert_cmpint(fixture_zero(f, blk, 0, far * 2, 0), ==, 0);
    g_assert_cmpint(allocated(f, blk), ==, 0);
    fixture_free_backend(f, blk);
}

static void test_memory_truncate(void)
{
    g_autoptr(Fixture) f = fixture_new();
    BlockBackend *blk;

    fixture_add(f, "{'driver': 'memory', 'node-name': 'm', 'size': 100000}");
    blk = backend(f, "m");
    g_assert_cmpint(fixture_fill(f, blk, 0, 100000, 0x22), ==, 0);
    g_assert_cmpint(fixture_truncate(f, blk, 1000, 0, NULL), ==, 0);
    g_assert_cmpint(allocated(f, blk), ==, 65536);
    g_assert_cmpint(fixture_truncate(f, blk, 100000, 0, NULL), ==, 0);
    fixture_assert_bytes(f, blk, 0, 1000, 0x22);
    fixture_assert_bytes(f, blk, 1000, 99000, 0);
    fixture_free_backend(f, blk);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block/drivers/raw/offset", test_raw_offset);
    g_test_add_func("/block/drivers/raw/too-long", test_raw_too_long);
    g_test_add_func("/block/drivers/raw/follows", test_raw_follows);
    g_test_add_func("/block/drivers/raw/cut", test_raw_cut);
    g_test_add_func("/block/drivers/null/basic", test_null);
    g_test_add_func("/block/drivers/null/latency", test_null_latency);
    g_test_add_func("/block/drivers/memory/sparse", test_memory_sparse);
    g_test_add_func("/block/drivers/memory/truncate", test_memory_truncate);
    return g_test_run();
}
