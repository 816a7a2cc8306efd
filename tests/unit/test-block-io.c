/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The request path: what of a request reaches the driver, and in which shape. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block-fixture.h"
#include "block-script.h"

#define RW (BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE)

/* A scripted node over memory, filled with 0x11, and a backend on it. */
typedef struct Io {
    Fixture *f;
    BlockBackend *blk;
} Io;

static Io io_new(uint64_t size, const char *more)
{
    Io io = {.f = fixture_new()};
    g_autofree char *mem = g_strdup_printf(
        "{'driver': 'memory', 'node-name': 'mem', 'size': %" G_GUINT64_FORMAT "}", size);
    g_autofree char *top = g_strdup_printf(
        "{'driver': 'blkdebug', 'node-name': 'top', 'image': 'mem'%s%s}", *more ? ", " : "", more);

    fixture_add(io.f, mem);
    io.blk = fixture_backend(io.f, "mem", "test", RW, BLOCK_PERM_ALL);
    g_assert_cmpint(fixture_fill(io.f, io.blk, 0, size, 0x11), ==, 0);
    fixture_free_backend(io.f, io.blk);
    fixture_add(io.f, top);
    io.blk = fixture_backend(io.f, "top", "test", RW, BLOCK_PERM_ALL);
    script_clear();
    return io;
}

static void io_clear(Io *io)
{
    fixture_free_backend(io->f, io->blk);
    fixture_free(io->f);
}

/* What has reached the driver since the last time. */
static void assert_script(const char *expected)
{
    g_autofree char *text = script_text();

    g_assert_cmpstr(text, ==, expected);
    script_clear();
}

static void test_bounds(void)
{
    Io io;
    char byte = 0;

    script_reset();
    io = io_new(1000, "");
    g_assert_cmpint(fixture_read(io.f, io.blk, 999, &byte, 1), ==, 0);
    g_assert_cmpint(byte, ==, 0x11);
    g_assert_cmpint(fixture_read(io.f, io.blk, 1000, &byte, 1), ==, -EIO);
    g_assert_cmpint(fixture_read(io.f, io.blk, 1000, &byte, 0), ==, 0);
    g_assert_cmpint(fixture_read(io.f, io.blk, 1001, &byte, 0), ==, -EIO);
    g_assert_cmpint(fixture_read(io.f, io.blk, UINT64_MAX, &byte, 1), ==, -EINVAL);
    g_assert_cmpint(fixture_write(io.f, io.blk, 999, "ab", 2, 0), ==, -EIO);
    g_assert_cmpint(fixture_zero(io.f, io.blk, 0, 1001, 0), ==, -EIO);
    g_assert_cmpint(fixture_zero(io.f, io.blk, 1, UINT64_MAX, 0), ==, -EINVAL);
    g_assert_cmpint(fixture_discard(io.f, io.blk, 0, 1001), ==, -EIO);
    g_assert_cmpint(fixture_allocate(io.f, io.blk, 0, 1001), ==, -EIO);
    g_assert_cmpint(fixture_allocate(io.f, io.blk, UINT64_MAX, 1), ==, -EINVAL);
    g_assert_cmpint(fixture_write(io.f, io.blk, 5, "", 0, 0), ==, 0);
    assert_script("r999+1");
    io_clear(&io);
}

static void test_no_permission(void)
{
    Io io;
    BlockBackend *reader;

    script_reset();
    io = io_new(4096, "");
    reader = fixture_backend(io.f, "top", "reader", BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL);
    g_assert_false(blk_writable(reader));
    g_assert_cmpint(fixture_fill(io.f, reader, 0, 10, 1), ==, -EPERM);
    g_assert_cmpint(fixture_zero(io.f, reader, 0, 10, 0), ==, -EPERM);
    g_assert_cmpint(fixture_discard(io.f, reader, 0, 10), ==, -EPERM);
    g_assert_cmpint(fixture_allocate(io.f, reader, 0, 10), ==, -EPERM);
    fixture_assert_bytes(io.f, reader, 0, 4096, 0x11);
    fixture_free_backend(io.f, reader);
    io_clear(&io);
}

static void test_read_unaligned(void)
{
    Io io;

    script_reset();
    script.limits.request_alignment = 512;
    io = io_new(4096, "");
    fixture_assert_bytes(io.f, io.blk, 100, 50, 0x11);
    assert_script("r0+512");
    fixture_assert_bytes(io.f, io.blk, 500, 600, 0x11);
    assert_script("r0+1536");
    fixture_assert_bytes(io.f, io.blk, 512, 1024, 0x11);
    assert_script("r512+1024");
    io_clear(&io);
}

static void test_write_unaligned(void)
{
    Io io;

    script_reset();
    script.limits.request_alignment = 512;
    io = io_new(4096, "");
    g_assert_cmpint(fixture_fill(io.f, io.blk, 100, 50, 0x22), ==, 0);
    assert_script("r0+512 w0+512");
    g_assert_cmpint(fixture_fill(io.f, io.blk, 1000, 100, 0x33), ==, 0);
    assert_script("r512+512 r1024+512 w512+1024");
    g_assert_cmpint(fixture_fill(io.f, io.blk, 2048, 700, 0x44), ==, 0);
    assert_script("r2560+512 w2048+1024");
    g_assert_cmpint(fixture_fill(io.f, io.blk, 3000, 72, 0x55), ==, 0);
    assert_script("r2560+512 w2560+512");
    fixture_assert_bytes(io.f, io.blk, 0, 100, 0x11);
    fixture_assert_bytes(io.f, io.blk, 100, 50, 0x22);
    fixture_assert_bytes(io.f, io.blk, 150, 850, 0x11);
    fixture_assert_bytes(io.f, io.blk, 1000, 100, 0x33);
    fixture_assert_bytes(io.f, io.blk, 1100, 948, 0x11);
    fixture_assert_bytes(io.f, io.blk, 2048, 700, 0x44);
    fixture_assert_bytes(io.f, io.blk, 2748, 252, 0x11);
    fixture_assert_bytes(io.f, io.blk, 3000, 72, 0x55);
    fixture_assert_bytes(io.f, io.blk, 3072, 1024, 0x11);
    io_clear(&io);
}

static void test_write_unaligned_fails(void)
{
    Io io;

    script_reset();
    script.limits.request_alignment = 512;
    io = io_new(4096, "");
    script_fail(SCRIPT_READ, EIO, 1);
    g_assert_cmpint(fixture_fill(io.f, io.blk, 100, 50, 0x22), ==, -EIO);
    assert_script("r0+512");
    script_fail(SCRIPT_WRITE, ENOSPC, 1);
    g_assert_cmpint(fixture_fill(io.f, io.blk, 100, 50, 0x22), ==, -ENOSPC);
    fixture_assert_bytes(io.f, io.blk, 0, 4096, 0x11);
    /* Nothing stays behind that would block the next one. */
    g_assert_cmpint(fixture_fill(io.f, io.blk, 100, 50, 0x22), ==, 0);
    fixture_assert_bytes(io.f, io.blk, 100, 50, 0x22);
    io_clear(&io);
}

/* The length is no multiple of the alignment: the last block is whole for the driver. */
static void test_unaligned_length(void)
{
    Io io;

    script_reset();
    script.limits.request_alignment = 512;
    io = io_new(1000, "");
    fixture_assert_bytes(io.f, io.blk, 0, 1000, 0x11);
    assert_script("r0+1024");
    g_assert_cmpint(fixture_fill(io.f, io.blk, 900, 100, 0x22), ==, 0);
    assert_script("r512+512 w512+512");
    g_assert_cmpint(fixture_zero(io.f, io.blk, 512, 488, 0), ==, 0);
    assert_script("z512+512");
    fixture_assert_bytes(io.f, io.blk, 512, 488, 0);
    g_assert_cmpint(blk_length(io.blk), ==, 1000);
    io_clear(&io);
}

static void test_split_by_transfer(void)
{
    Io io;

    script_reset();
    script.limits.max_transfer = 4096;
    io = io_new(16384, "");
    g_assert_cmpint(fixture_fill(io.f, io.blk, 100, 10000, 0x22), ==, 0);
    assert_script("w100+4096 w4196+4096 w8292+1808");
    fixture_assert_bytes(io.f, io.blk, 100, 10000, 0x22);
    assert_script("r100+4096 r4196+4096 r8292+1808");
    script_fail(SCRIPT_WRITE, EIO, 1);
    g_assert_cmpint(fixture_fill(io.f, io.blk, 0, 10000, 0x33), ==, -EIO);
    assert_script("w0+4096");
    io_clear(&io);
}

static void test_split_unaligned(void)
{
    Io io;

    script_reset();
    script.limits.max_transfer = 4096;
    script.limits.request_alignment = 512;
    io = io_new(16384, "");
    g_assert_cmpint(fixture_fill(io.f, io.blk, 100, 10000, 0x22), ==, 0);
    assert_script("r0+512 w0+4096 w4096+4096 r9728+512 w8192+2048");
    fixture_assert_bytes(io.f, io.blk, 0, 100, 0x11);
    fixture_assert_bytes(io.f, io.blk, 100, 10000, 0x22);
    fixture_assert_bytes(io.f, io.blk, 10100, 6284, 0x11);
    io_clear(&io);
}

/* Requests with vectors of the test's own. */
typedef struct Vector {
    BlockBackend *blk;
    IoVector iov;
    uint64_t offset;
    bool write;
    int result;
} Vector;

static void vector_entry(void *opaque)
{
    Vector *v = opaque;

    v->result = v->write ? blk_co_pwritev(v->blk, v->offset, &v->iov, 0)
                         : blk_co_preadv(v->blk, v->offset, &v->iov, 0);
}

/* A vector of @n elements of @each bytes, with holes in memory between them. */
static int run_vector(Io *io, bool write, uint64_t offset, unsigned n, size_t each, char *memory)
{
    g_autofree struct iovec *iov = g_new(struct iovec, n);
    Vector v = {io->blk, {iov, n, n * each}, offset, write, 0};

    for (unsigned i = 0; i < n; i++) {
        iov[i] = (struct iovec){memory + i * 2 * each, each};
    }
    fixture_run(io->f, vector_entry, &v);
    return v.result;
}

static void test_split_by_iov(void)
{
    Io io;
    char memory[2 * 1000];

    script_reset();
    script.limits.max_iov = 4;
    io = io_new(16384, "");
    memset(memory, 0x22, sizeof(memory));
    g_assert_cmpint(run_vector(&io, true, 0, 10, 100, memory), ==, 0);
    assert_script("w0+400 w400+400 w800+200");
    fixture_assert_bytes(io.f, io.blk, 0, 1000, 0x22);
    fixture_assert_bytes(io.f, io.blk, 1000, 100, 0x11);
    script_clear();
    g_assert_cmpint(run_vector(&io, false, 200, 10, 100, memory), ==, 0);
    assert_script("r200+400 r600+400 r1000+200");
    g_assert_cmpint(memory[7 * 200 + 99], ==, 0x22);
    g_assert_cmpint(memory[8 * 200], ==, 0x11);
    io_clear(&io);
}

/* Aligned as a whole, but no run of four elements makes up a block: pieces are copied. */
static void test_split_by_iov_and_alignment(void)
{
    Io io;
    char memory[2 * 1024];

    script_reset();
    script.limits.max_iov = 4;
    script.limits.request_alignment = 512;
    io = io_new(16384, "");
    memset(memory, 0x22, sizeof(memory));
    g_assert_cmpint(run_vector(&io, true, 512, 16, 64, memory), ==, 0);
    fixture_assert_bytes(io.f, io.blk, 0, 512, 0x11);
    fixture_assert_bytes(io.f, io.blk, 512, 1024, 0x22);
    fixture_assert_bytes(io.f, io.blk, 1536, 512, 0x11);
    io_clear(&io);
}

static void test_memory_alignment(void)
{
    Io io;
    g_autofree char *memory = g_malloc(8192 + 1);

    script_reset();
    script.limits.request_alignment = 512;
    script.limits.min_mem_alignment = 512;
    io = io_new(16384, "");
    /* At least one of the two is not aligned; the driver asserts what it gets. */
    for (unsigned i = 0; i < 2; i++) {
        memset(memory, 0x22 + i, 8193);
        g_assert_cmpint(fixture_write(io.f, io.blk, 4096, memory + i, 8192, 0), ==, 0);
        memset(memory, 0, 8193);
        g_assert_cmpint(fixture_read(io.f, io.blk, 4096, memory + i, 8192), ==, 0);
        g_assert_cmpint(memory[i], ==, 0x22 + i);
        g_assert_cmpint(memory[8191 + i], ==, 0x22 + i);
    }
    io_clear(&io);
}

/* Zeros */

static void test_zero_native(void)
{
    Io io;

    script_reset();
    script.zero_flags = BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_FUA;
    script.limits.pwrite_zeroes_alignment = 4096;
    script.limits.max_pwrite_zeroes = 8192;
    io = io_new(65536, "");
    g_assert_cmpint(fixture_zero(io.f, io.blk, 1000, 30000, 0), ==, 0);
    assert_script("z1000+3096 z4096+8192 z12288+8192 z20480+8192 z28672+2328");
    fixture_assert_bytes(io.f, io.blk, 0, 1000, 0x11);
    fixture_assert_bytes(io.f, io.blk, 1000, 30000, 0);
    fixture_assert_bytes(io.f, io.blk, 31000, 1000, 0x11);
    io_clear(&io);
}

static void test_zero_partial_blocks(void)
{
    Io io;

    script_reset();
    script.limits.request_alignment = 512;
    io = io_new(65536, "");
    g_assert_cmpint(fixture_zero(io.f, io.blk, 100, 2000, 0), ==, 0);
    assert_script("r0+512 w0+512 z512+1536 r2048+512 w2048+512");
    fixture_assert_bytes(io.f, io.blk, 0, 100, 0x11);
    fixture_assert_bytes(io.f, io.blk, 100, 2000, 0);
    fixture_assert_bytes(io.f, io.blk, 2100, 1000, 0x11);
    script_clear();
    g_assert_cmpint(fixture_zero(io.f, io.blk, 4100, 100, 0), ==, 0);
    assert_script("r4096+512 w4096+512");
    fixture_assert_bytes(io.f, io.blk, 4096, 4, 0x11);
    fixture_assert_bytes(io.f, io.blk, 4100, 100, 0);
    fixture_assert_bytes(io.f, io.blk, 4200, 100, 0x11);
    io_clear(&io);
}

static void test_zero_fallback(void)
{
    Io io;

    script_reset();
    script.lacks_zeroes = true;
    io = io_new(3 * 1024 * 1024, "");
    g_assert_cmpint(fixture_zero(io.f, io.blk, 4096, 2 * 1024 * 1024 + 512, 0), ==, 0);
    assert_script("z4096+2097664 w4096+1048576 w1052672+1048576 w2101248+512");
    fixture_assert_bytes(io.f, io.blk, 0, 4096, 0x11);
    fixture_assert_bytes(io.f, io.blk, 4096, 2 * 1024 * 1024 + 512, 0);
    fixture_assert_bytes(io.f, io.blk, 2101760, 4096, 0x11);
    io_clear(&io);
}

/* Bounded by the driver's limits, too. */
static void test_zero_fallback_limits(void)
{
    Io io;

    script_reset();
    script.lacks_zeroes = true;
    script.limits.max_transfer = 65536;
    script.limits.max_iov = 1;
    io = io_new(1024 * 1024, "");
    g_assert_cmpint(fixture_zero(io.f, io.blk, 0, 200000, 0), ==, 0);
    g_assert_cmpuint(script_count(SCRIPT_WRITE), ==, 4);
    fixture_assert_bytes(io.f, io.blk, 0, 200000, 0);
    fixture_assert_bytes(io.f, io.blk, 200000, 1000, 0x11);
    io_clear(&io);
}

static void test_zero_no_fallback(void)
{
    Io io;

    script_reset();
    script.limits.request_alignment = 512;
    io = io_new(65536, "");
    /* A driver that does not know the flag might do it slowly. */
    g_assert_cmpint(fixture_zero(io.f, io.blk, 0, 512, BLOCK_REQ_NO_FALLBACK), ==, -ENOTSUP);
    assert_script("");
    io_clear(&io);

    script.zero_flags = BLOCK_REQ_NO_FALLBACK;
    io = io_new(65536, "");
    g_assert_cmpint(fixture_zero(io.f, io.blk, 0, 512, BLOCK_REQ_NO_FALLBACK), ==, 0);
    assert_script("z0+512");
    g_assert_cmpint(fixture_zero(io.f, io.blk, 1, 512, BLOCK_REQ_NO_FALLBACK), ==, -ENOTSUP);
    assert_script("");
    script.lacks_zeroes = true;
    g_assert_cmpint(fixture_zero(io.f, io.blk, 512, 512, BLOCK_REQ_NO_FALLBACK), ==, -ENOTSUP);
    assert_script("z512+512");
    fixture_assert_bytes(io.f, io.blk, 512, 512, 0x11);
    io_clear(&io);
}

static void test_zero_may_unmap(void)
{
    Io io;

    script_reset();
    script.zero_flags = BLOCK_REQ_MAY_UNMAP;
    io = io_new(65536, "");
    g_assert_cmpint(fixture_zero(io.f, io.blk, 0, 512, BLOCK_REQ_MAY_UNMAP), ==, 0);
    assert_script("z0+512");
    io_clear(&io);
    io = io_new(65536, "'discard': 'unmap'");
    g_assert_cmpint(fixture_zero(io.f, io.blk, 0, 512, BLOCK_REQ_MAY_UNMAP), ==, 0);
    assert_script("z0+512u");
    io_clear(&io);
}

static void test_detect_zeroes(void)
{
    Io io;

    script_reset();
    script.zero_flags = BLOCK_REQ_MAY_UNMAP;
    io = io_new(65536, "'detect-zeroes': 'on'");
    g_assert_cmpint(fixture_fill(io.f, io.blk, 0, 4096, 0), ==, 0);
    g_assert_cmpint(fixture_fill(io.f, io.blk, 0, 4096, 7), ==, 0);
    assert_script("z0+4096 w0+4096");
    io_clear(&io);
    io = io_new(65536, "'detect-zeroes': 'unmap', 'discard': 'unmap'");
    g_assert_cmpint(fixture_fill(io.f, io.blk, 10, 4096, 0), ==, 0);
    assert_script("z10+4096u");
    io_clear(&io);

    /* Partial blocks of zeros must not be taken for zeros to detect again. */
    script.limits.request_alignment = 512;
    io = io_new(65536, "'detect-zeroes': 'on'");
    g_assert_cmpint(fixture_fill(io.f, io.blk, 10, 100, 0), ==, 0);
    assert_script("r0+512 w0+512");
    io_clear(&io);
}

/* Discard */

static void test_discard(void)
{
    Io io;

    script_reset();
    script.limits.request_alignment = 512;
    script.limits.pdiscard_alignment = 4096;
    script.limits.max_pdiscard = 8192;
    io = io_new(65536, "");
    g_assert_cmpint(fixture_discard(io.f, io.blk, 0, 65536), ==, 0);
    assert_script("");
    io_clear(&io);

    io = io_new(65536, "'discard': 'unmap'");
    g_assert_cmpint(fixture_discard(io.f, io.blk, 1000, 20000), ==, 0);
    assert_script("d1024+3072 d4096+8192 d12288+8192 d20480+512");
    g_assert_cmpint(fixture_discard(io.f, io.blk, 100, 300), ==, 0);
    assert_script("");
    script.lacks_discard = true;
    g_assert_cmpint(fixture_discard(io.f, io.blk, 0, 4096), ==, 0);
    script.lacks_discard = false;
    script_fail(SCRIPT_DISCARD, EIO, 1);
    g_assert_cmpint(fixture_discard(io.f, io.blk, 0, 4096), ==, -EIO);
    io_clear(&io);
}

/* Allocation */

static void test_allocate(void)
{
    Io io;

    script_reset();
    script.limits.request_alignment = 512;
    script.limits.max_transfer = 512;
    io = io_new(65000, "");
    g_assert_cmpint(fixture_allocate(io.f, io.blk, 0, 0), ==, 0);
    assert_script("");
    /* Whole blocks, at once, and nothing is read or written for it. */
    g_assert_cmpint(fixture_allocate(io.f, io.blk, 1000, 20000), ==, 0);
    assert_script("a512+20992");
    g_assert_cmpint(fixture_allocate(io.f, io.blk, 64999, 1), ==, 0);
    assert_script("a64512+512");
    fixture_assert_bytes(io.f, io.blk, 0, 65000, 0x11);
    script_clear();
    /* It is there to be made durable. */
    g_assert_cmpint(fixture_flush(io.f, io.blk), ==, 0);
    assert_script("f");
    script_fail(SCRIPT_ALLOCATE, ENOTSUP, 1);
    g_assert_cmpint(fixture_allocate(io.f, io.blk, 0, 512), ==, 0);
    script_fail(SCRIPT_ALLOCATE, ENOSPC, 1);
    g_assert_cmpint(fixture_allocate(io.f, io.blk, 0, 512), ==, -ENOSPC);
    g_assert_cmpint(fixture_allocate(io.f, io.blk, 0, 512), ==, 0);
    io_clear(&io);
}

/* A reservation is a request like others: drain waits for it, and keeps it out. */
static void test_allocate_sees_drain(void)
{
    Io io;
    Request r;

    script_reset();
    io = io_new(65536, "");
    r = (Request){.op = REQUEST_ALLOCATE, .blk = io.blk, .bytes = 512};
    fixture_drain_begin(io.f, block_backend_node(io.blk));
    request_start(&r, io.f->main);
    for (int i = 0; i < 10; i++) {
        aio_context_poll(io.f->main, false);
    }
    g_assert_false(request_done(&r));
    g_assert_cmpuint(block_backend_in_flight(io.blk), ==, 1);
    assert_script("");
    fixture_drain_end(io.f, block_backend_node(io.blk));
    fixture_wait_count(io.f, &r.done, 1);
    g_assert_cmpint(r.result, ==, 0);
    assert_script("a0+512");
    io_clear(&io);
}

/* Durability */

static void test_fua_by_flush(void)
{
    Io io;

    script_reset();
    io = io_new(65536, "");
    g_assert_cmpint(fixture_write(io.f, io.blk, 0, "abc", 3, BLOCK_REQ_FUA), ==, 0);
    assert_script("w0+3 f");
    g_assert_cmpint(fixture_flush(io.f, io.blk), ==, 0);
    assert_script("");
    /* The first write after a flush is no different from the others. */
    g_assert_cmpint(fixture_write(io.f, io.blk, 0, "abc", 3, BLOCK_REQ_FUA), ==, 0);
    g_assert_cmpint(fixture_write(io.f, io.blk, 0, "abc", 3, BLOCK_REQ_FUA), ==, 0);
    assert_script("w0+3 f w0+3 f");
    g_assert_cmpint(fixture_zero(io.f, io.blk, 0, 512, BLOCK_REQ_FUA), ==, 0);
    assert_script("z0+512 f");
    script_fail(SCRIPT_FLUSH, EIO, 1);
    g_assert_cmpint(fixture_write(io.f, io.blk, 0, "abc", 3, BLOCK_REQ_FUA), ==, -EIO);
    assert_script("w0+3 f");
    io_clear(&io);
}

static void test_fua_native(void)
{
    Io io;

    script_reset();
    script.write_flags = BLOCK_REQ_FUA;
    io = io_new(65536, "");
    g_assert_cmpint(fixture_write(io.f, io.blk, 0, "abc", 3, BLOCK_REQ_FUA), ==, 0);
    assert_script("w0+3!");
    g_assert_cmpint(fixture_flush(io.f, io.blk), ==, 0);
    assert_script("");
    /* The driver cannot do it for zeros, so these need a flush. */
    g_assert_cmpint(fixture_zero(io.f, io.blk, 0, 512, BLOCK_REQ_FUA), ==, 0);
    assert_script("z0+512 f");
    io_clear(&io);

    script.zero_flags = BLOCK_REQ_FUA;
    io = io_new(65536, "");
    g_assert_cmpint(fixture_zero(io.f, io.blk, 0, 512, BLOCK_REQ_FUA), ==, 0);
    assert_script("z0+512!");
    io_clear(&io);
}

/* The driver does FUA for zeros alone; what it refuses falls back to writes without. */
static void test_fua_fallback(void)
{
    Io io;

    script_reset();
    script.zero_flags = BLOCK_REQ_FUA;
    script.lacks_zeroes = true;
    io = io_new(65536, "");
    g_assert_cmpint(fixture_zero(io.f, io.blk, 0, 512, BLOCK_REQ_FUA), ==, 0);
    assert_script("z0+512! w0+512 f");
    io_clear(&io);
}

static void test_flush_elision(void)
{
    Io io;

    script_reset();
    io = io_new(65536, "'discard': 'unmap'");
    g_assert_cmpint(fixture_flush(io.f, io.blk), ==, 0);
    assert_script("");
    g_assert_cmpint(fixture_fill(io.f, io.blk, 0, 10, 1), ==, 0);
    g_assert_cmpint(fixture_flush(io.f, io.blk), ==, 0);
    g_assert_cmpint(fixture_flush(io.f, io.blk), ==, 0);
    assert_script("w0+10 f");
    g_assert_cmpint(fixture_discard(io.f, io.blk, 0, 512), ==, 0);
    g_assert_cmpint(fixture_flush(io.f, io.blk), ==, 0);
    g_assert_cmpint(fixture_zero(io.f, io.blk, 0, 512, 0), ==, 0);
    g_assert_cmpint(fixture_flush(io.f, io.blk), ==, 0);
    assert_script("d0+512 f z0+512 f");
    /* A write that failed may have changed something. */
    script_fail(SCRIPT_WRITE, EIO, 1);
    g_assert_cmpint(fixture_fill(io.f, io.blk, 0, 10, 1), ==, -EIO);
    g_assert_cmpint(fixture_flush(io.f, io.blk), ==, 0);
    assert_script("w0+10 f");
    /* A flush that failed has to be done again. */
    g_assert_cmpint(fixture_fill(io.f, io.blk, 0, 10, 1), ==, 0);
    script_fail(SCRIPT_FLUSH, EIO, 1);
    g_assert_cmpint(fixture_flush(io.f, io.blk), ==, -EIO);
    g_assert_cmpint(fixture_flush(io.f, io.blk), ==, 0);
    assert_script("w0+10 f f");
    io_clear(&io);
}

/* A write that ends while a flush runs is not covered by it. */
static void test_flush_during_flush(void)
{
    Io io;
    Request first, second, third;

    script_reset();
    io = io_new(65536, "");
    first = second = third = (Request){.op = REQUEST_FLUSH, .blk = io.blk};
    g_assert_cmpint(fixture_fill(io.f, io.blk, 0, 10, 1), ==, 0);
    script_hold(SCRIPT_FLUSH);
    request_start(&first, io.f->main);
    while (script_held(SCRIPT_FLUSH) == 0) {
        aio_context_poll(io.f->main, false);
    }
    /* Nothing written since, so these two only wait for the first. */
    request_start(&second, io.f->main);
    g_assert_cmpint(fixture_fill(io.f, io.blk, 0, 10, 2), ==, 0);
    request_start(&third, io.f->main);
    fixture_settle(io.f);
    g_assert_false(request_done(&second) || request_done(&third));
    script_release(SCRIPT_FLUSH);
    fixture_wait_count(io.f, &first.done, 1);
    fixture_wait_count(io.f, &second.done, 1);
    fixture_wait_count(io.f, &third.done, 1);
    g_assert_cmpint(first.result | second.result | third.result, ==, 0);
    /* The second write needed one more, once. */
    assert_script("w0+10 f w0+10 f");
    io_clear(&io);
}

/* Who waits for a flush that fails has perhaps lost his writes, too. */
static void test_flush_fails_for_all(void)
{
    Io io;
    Request first, second;

    script_reset();
    io = io_new(65536, "");
    first = second = (Request){.op = REQUEST_FLUSH, .blk = io.blk};
    g_assert_cmpint(fixture_fill(io.f, io.blk, 0, 10, 1), ==, 0);
    script_hold(SCRIPT_FLUSH);
    script_fail(SCRIPT_FLUSH, EIO, 1);
    request_start(&first, io.f->main);
    while (script_held(SCRIPT_FLUSH) == 0) {
        aio_context_poll(io.f->main, false);
    }
    request_start(&second, io.f->main);
    fixture_settle(io.f);
    script_release(SCRIPT_FLUSH);
    fixture_wait_count(io.f, &first.done, 1);
    fixture_wait_count(io.f, &second.done, 1);
    g_assert_cmpint(first.result, ==, -EIO);
    g_assert_cmpint(second.result, ==, -EIO);
    g_assert_cmpint(fixture_flush(io.f, io.blk), ==, 0);
    assert_script("w0+10 f f");
    io_clear(&io);
}

static void test_no_flush(void)
{
    Io io;

    script_reset();
    io = io_new(65536, "'cache': {'no-flush': true}");
    g_assert_cmpint(fixture_write(io.f, io.blk, 0, "abc", 3, BLOCK_REQ_FUA), ==, 0);
    g_assert_cmpint(fixture_flush(io.f, io.blk), ==, 0);
    assert_script("w0+3");
    io_clear(&io);
}

/* Block status */

static void test_block_status(void)
{
    Io io;
    uint64_t n;
    BlockStatus status;

    script_reset();
    script.limits.request_alignment = 512;
    io = io_new(200000, "");
    g_assert_cmpint(fixture_zero(io.f, io.blk, 65536, 65536, 0), ==, 0);
    script_clear();

    g_assert_cmpint(fixture_status(io.f, io.blk, 100, 100, &n, &status), ==, 0);
    g_assert_cmpuint(n, ==, 100);
    g_assert_cmphex(status, ==, BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED);
    assert_script("s0+512");
    g_assert_cmpint(fixture_status(io.f, io.blk, 100, 200000, &n, &status), ==, 0);
    g_assert_cmpuint(n, ==, 65436);
    g_assert_cmphex(status, ==, BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED);
    g_assert_cmpint(fixture_status(io.f, io.blk, 65536, 200000, &n, &status), ==, 0);
    g_assert_cmpuint(n, ==, 65536);
    g_assert_cmphex(status, ==, BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED);
    g_assert_cmpint(fixture_status(io.f, io.blk, 131072, 200000, &n, &status), ==, 0);
    g_assert_cmpuint(n, ==, 68928);
    g_assert_cmphex(status, ==, BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_EOF);
    g_assert_cmpint(fixture_status(io.f, io.blk, 200000, 1, &n, &status), ==, 0);
    g_assert_cmpuint(n, ==, 0);
    g_assert_cmphex(status, ==, BLOCK_STATUS_EOF);
    g_assert_cmpint(fixture_status(io.f, io.blk, UINT64_MAX, 1, &n, &status), ==, 0);
    g_assert_cmphex(status, ==, BLOCK_STATUS_EOF);
    g_assert_cmpint(fixture_status(io.f, io.blk, 0, UINT64_MAX, &n, &status), ==, 0);
    g_assert_cmpuint(n, ==, 65536);
    script_fail(SCRIPT_STATUS, EIO, 1);
    g_assert_cmpint(fixture_status(io.f, io.blk, 0, 512, &n, &status), ==, -EIO);
    io_clear(&io);
}

/* Truncate */

static void test_truncate(void)
{
    Io io;
    g_autoptr(GError) error = NULL;

    script_reset();
    io = io_new(1000, "");
    g_assert_cmpint(fixture_truncate(io.f, io.blk, 3000, 0, &error), ==, 0);
    g_assert_no_error(error);
    g_assert_cmpint(blk_length(io.blk), ==, 3000);
    fixture_assert_bytes(io.f, io.blk, 0, 1000, 0x11);
    fixture_assert_bytes(io.f, io.blk, 1000, 2000, 0);
    g_assert_cmpint(fixture_truncate(io.f, io.blk, 500, 0, &error), ==, 0);
    g_assert_cmpint(blk_length(io.blk), ==, 500);
    g_assert_cmpint(fixture_truncate(io.f, io.blk, 0, 0, &error), ==, 0);
    g_assert_cmpint(blk_length(io.blk), ==, 0);
    g_assert_cmpint(fixture_truncate(io.f, io.blk, UINT64_MAX, 0, &error), ==, -EFBIG);
    assert_error(&error, "too large");
    script_fail(SCRIPT_TRUNCATE, ENOSPC, 1);
    g_assert_cmpint(fixture_truncate(io.f, io.blk, 100, 0, &error), ==, -ENOSPC);
    assert_error(&error, "the script says");
    g_assert_cmpint(blk_length(io.blk), ==, 0);
    io_clear(&io);
}

static void test_truncate_zeroes(void)
{
    Io io;

    script_reset();
    script.truncate_fill = 0x77;
    script.limits.request_alignment = 512;
    io = io_new(1000, "");
    g_assert_cmpint(fixture_truncate(io.f, io.blk, 5000, 0, NULL), ==, 0);
    fixture_assert_bytes(io.f, io.blk, 1000, 4000, 0x77);
    g_assert_cmpint(fixture_truncate(io.f, io.blk, 1000, 0, NULL), ==, 0);
    g_assert_cmpint(fixture_truncate(io.f, io.blk, 5000, BLOCK_REQ_ZERO, NULL), ==, 0);
    fixture_assert_bytes(io.f, io.blk, 0, 1000, 0x11);
    fixture_assert_bytes(io.f, io.blk, 1000, 4000, 0);
    io_clear(&io);
}

/* If what was added cannot be zeroed it must not stay. */
static void test_truncate_zeroes_fails(void)
{
    Io io;
    g_autoptr(GError) error = NULL;

    script_reset();
    io = io_new(1024, "");
    script_fail(SCRIPT_ZERO, EIO, 1);
    g_assert_cmpint(fixture_truncate(io.f, io.blk, 4096, BLOCK_REQ_ZERO, &error), ==, -EIO);
    assert_error(&error, "cannot zero");
    g_assert_cmpint(blk_length(io.blk), ==, 1024);
    io_clear(&io);
}

/* Statistics */

static void test_stats(void)
{
    Io io;
    BlockOpStats s[BLOCK_OP__MAX];
    char byte;

    script_reset();
    io = io_new(65536, "'discard': 'unmap'");
    fixture_assert_bytes(io.f, io.blk, 0, 100, 0x11);
    g_assert_cmpint(fixture_fill(io.f, io.blk, 0, 1000, 0x22), ==, 0);
    g_assert_cmpint(fixture_zero(io.f, io.blk, 0, 512, 0), ==, 0);
    g_assert_cmpint(fixture_discard(io.f, io.blk, 0, 512), ==, 0);
    g_assert_cmpint(fixture_flush(io.f, io.blk), ==, 0);
    script_fail(SCRIPT_READ, EIO, 1);
    g_assert_cmpint(fixture_read(io.f, io.blk, 0, &byte, 1), ==, -EIO);
    g_assert_cmpint(fixture_read(io.f, io.blk, 65536, &byte, 1), ==, -EIO);
    blk_stats(io.blk, s);
    g_assert_cmpuint(s[BLOCK_OP_READ].ops, ==, 1);
    g_assert_cmpuint(s[BLOCK_OP_READ].bytes, ==, 100);
    g_assert_cmpuint(s[BLOCK_OP_READ].failed, ==, 1);
    g_assert_cmpuint(s[BLOCK_OP_READ].invalid, ==, 1);
    g_assert_cmpuint(s[BLOCK_OP_READ].time_ns, >, 0);
    g_assert_cmpuint(s[BLOCK_OP_WRITE].ops, ==, 2);
    g_assert_cmpuint(s[BLOCK_OP_WRITE].bytes, ==, 1512);
    g_assert_cmpuint(s[BLOCK_OP_UNMAP].ops, ==, 1);
    g_assert_cmpuint(s[BLOCK_OP_UNMAP].bytes, ==, 512);
    g_assert_cmpuint(s[BLOCK_OP_FLUSH].ops, ==, 1);
    io_clear(&io);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block/io/bounds", test_bounds);
    g_test_add_func("/block/io/no-permission", test_no_permission);
    g_test_add_func("/block/io/read-unaligned", test_read_unaligned);
    g_test_add_func("/block/io/write-unaligned", test_write_unaligned);
    g_test_add_func("/block/io/write-unaligned-fails", test_write_unaligned_fails);
    g_test_add_func("/block/io/unaligned-length", test_unaligned_length);
    g_test_add_func("/block/io/split/transfer", test_split_by_transfer);
    g_test_add_func("/block/io/split/unaligned", test_split_unaligned);
    g_test_add_func("/block/io/split/iov", test_split_by_iov);
    g_test_add_func("/block/io/split/iov-and-alignment", test_split_by_iov_and_alignment);
    g_test_add_func("/block/io/memory-alignment", test_memory_alignment);
    g_test_add_func("/block/io/zero/native", test_zero_native);
    g_test_add_func("/block/io/zero/partial-blocks", test_zero_partial_blocks);
    g_test_add_func("/block/io/zero/fallback", test_zero_fallback);
    g_test_add_func("/block/io/zero/fallback-limits", test_zero_fallback_limits);
    g_test_add_func("/block/io/zero/no-fallback", test_zero_no_fallback);
    g_test_add_func("/block/io/zero/may-unmap", test_zero_may_unmap);
    g_test_add_func("/block/io/zero/detect", test_detect_zeroes);
    g_test_add_func("/block/io/discard", test_discard);
    g_test_add_func("/block/io/allocate", test_allocate);
    g_test_add_func("/block/io/allocate-sees-drain", test_allocate_sees_drain);
    g_test_add_func("/block/io/fua/by-flush", test_fua_by_flush);
    g_test_add_func("/block/io/fua/native", test_fua_native);
    g_test_add_func("/block/io/fua/fallback", test_fua_fallback);
    g_test_add_func("/block/io/flush/elision", test_flush_elision);
    g_test_add_func("/block/io/flush/during-flush", test_flush_during_flush);
    g_test_add_func("/block/io/flush/fails-for-all", test_flush_fails_for_all);
    g_test_add_func("/block/io/flush/no-flush", test_no_flush);
    g_test_add_func("/block/io/status", test_block_status);
    g_test_add_func("/block/io/truncate/basic", test_truncate);
    g_test_add_func("/block/io/truncate/zeroes", test_truncate_zeroes);
    g_test_add_func("/block/io/truncate/zeroes-fails", test_truncate_zeroes_fails);
    g_test_add_func("/block/io/stats", test_stats);
    return g_test_run();
}
