/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What each FUSE operation does to a node, without kernel and transport (qsd-behaviour C2 to C9).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "export-fixture.h"

#define DISK       10000 /* no multiple of anything */
#define MEMORY     "{'driver': 'memory', 'node-name': 'n0', 'size': 10000}"
#define FIXED      "{'driver': 'null-co', 'node-name': 'n0', 'size': 10000, 'read-zeroes': true}"
#define PAGE       4096
#define PUNCH      (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define ZERO       FALLOC_FL_ZERO_RANGE
#define ZERO_KEEP  (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)
#define NS_PER_SEC 1000000000

typedef struct Message {
    struct fuse_in_header header;
    char rest[64 * 1024];
} Message;

typedef struct Bench {
    ExportFixture *f;
    Message *message;
    char *payload; /* room for answers */
    uint32_t uid;  /* who asks */
    FuseCall call; /* the last one */
} Bench;

static void bench_begin(Bench *b, const char *node, bool writable, bool growable)
{
    b->uid = 0;
    b->f = export_fixture_new(node, writable, growable);
    b->message = g_new0(Message, 1);
    b->payload = g_malloc(FUSE_INIT_MAX_IO);
}

static void bench_end(Bench *b)
{
    export_fixture_free(b->f);
    g_free(b->message);
    g_free(b->payload);
}

static int serve(Bench *b, uint32_t opcode, const void *args, size_t args_bytes, const void *data,
                 size_t data_bytes)
{
    Message *m = b->message;

    m->header = (struct fuse_in_header){.len = sizeof(m->header) + args_bytes + data_bytes,
                                        .opcode = opcode,
                                        .unique = 2,
                                        .nodeid = FUSE_ROOT_ID,
                                        .uid = b->uid};
    if (args_bytes) {
        memcpy(m->rest, args, args_bytes);
    }
    if (data_bytes) {
        memcpy(m->rest + args_bytes, data, data_bytes);
    }
    return export_fixture_serve(b->f, &b->call, m, m->header.len, b->payload);
}

/* Bytes read or -errno. */
static int do_read(Bench *b, uint64_t offset, uint32_t size)
{
    struct fuse_read_in in = {.offset = offset, .size = size};
    int ret = serve(b, FUSE_READ, &in, sizeof(in), NULL, 0);

    return ret < 0 ? ret : (int)b->call.data_bytes;
}

/* Bytes written or -errno. */
static int do_write(Bench *b, uint64_t offset, uint32_t size, char byte)
{
    struct fuse_write_in in = {.offset = offset, .size = size};
    g_autofree char *data = g_malloc(size + 1);
    int ret;

    memset(data, byte, size);
    ret = serve(b, FUSE_WRITE, &in, sizeof(in), data, size);
    return ret < 0 ? ret : (int)b->call.out.write.size;
}

static int do_fallocate(Bench *b, uint32_t mode, uint64_t offset, uint64_t length)
{
    struct fuse_fallocate_in in = {.offset = offset, .length = length, .mode = mode};

    return serve(b, FUSE_FALLOCATE, &in, sizeof(in), NULL, 0);
}

static int64_t do_lseek(Bench *b, uint64_t offset, uint32_t whence)
{
    struct fuse_lseek_in in = {.offset = offset, .whence = whence};
    int ret = serve(b, FUSE_LSEEK, &in, sizeof(in), NULL, 0);

    return ret < 0 ? ret : (int64_t)b->call.out.lseek.offset;
}

static int do_open(Bench *b, uint32_t flags)
{
    struct fuse_open_in in = {.flags = flags};

    return serve(b, FUSE_OPEN, &in, sizeof(in), NULL, 0);
}

static int do_setattr(Bench *b, const struct fuse_setattr_in *in)
{
    return serve(b, FUSE_SETATTR, in, sizeof(*in), NULL, 0);
}

static int do_truncate(Bench *b, uint64_t size)
{
    return do_setattr(b, &(struct fuse_setattr_in){.valid = FATTR_SIZE, .size = size});
}

static const struct fuse_attr *do_getattr(Bench *b)
{
    struct fuse_getattr_in in = {0};

    g_assert_cmpint(serve(b, FUSE_GETATTR, &in, sizeof(in), NULL, 0), ==, 0);
    return &b->call.out.attr.attr;
}

static uint64_t length(Bench *b)
{
    return do_getattr(b)->size;
}

static bool reads_as(Bench *b, uint64_t offset, uint32_t size, char byte)
{
    int n = do_read(b, offset, size);

    g_assert_cmpint(n, ==, size);
    for (int i = 0; i < n; i++) {
        if (b->payload[i] != byte) {
            return false;
        }
    }
    return true;
}

static void test_read(void)
{
    Bench b;

    bench_begin(&b, MEMORY, true, false);
    g_assert_cmpint(do_write(&b, 0, DISK, 'x'), ==, DISK);
    g_assert_true(reads_as(&b, 0, DISK, 'x'));
    g_assert_cmpint(do_read(&b, DISK - 10, 100), ==, 10);
    g_assert_cmpint(do_read(&b, DISK, 1), ==, 0);
    g_assert_cmpint(do_read(&b, DISK + 1, 1), ==, 0);
    g_assert_cmpint(do_read(&b, 0, 0), ==, 0);
    g_assert_cmpint(do_read(&b, G_MAXUINT64, 1), ==, 0);
    g_assert_cmpint(do_read(&b, 0, FUSE_INIT_MAX_IO + 1), ==, -EINVAL);
    bench_end(&b);
}

static void test_write_fixed(void)
{
    Bench b;

    bench_begin(&b, MEMORY, true, false);
    g_assert_cmpint(do_write(&b, 100, 0, 'x'), ==, 0);
    g_assert_cmpint(do_write(&b, DISK - 10, 100, 'x'), ==, 10);
    g_assert_cmpint(do_write(&b, DISK, 1, 'x'), ==, -ENOSPC);
    g_assert_cmpint(do_write(&b, DISK + 5000, 1, 'x'), ==, -ENOSPC);
    g_assert_cmpint(do_write(&b, G_MAXUINT64 - 10, 1, 'x'), ==, -EFBIG);
    g_assert_cmpuint(length(&b), ==, DISK);
    bench_end(&b);
}

static void test_write_growable(void)
{
    Bench b;

    bench_begin(&b, MEMORY, true, true);
    g_assert_cmpint(do_write(&b, DISK - 10, 100, 'x'), ==, 100);
    g_assert_cmpuint(length(&b), ==, DISK + 90);
    g_assert_cmpint(do_write(&b, DISK + 1000, 6, 'y'), ==, 6);
    g_assert_cmpuint(length(&b), ==, DISK + 1006);
    g_assert_true(reads_as(&b, DISK + 90, 910, 0));
    g_assert_cmpint(do_write(&b, INT64_MAX - 4, 10, 'x'), ==, -EFBIG);
    g_assert_cmpuint(length(&b), ==, DISK + 1006);
    bench_end(&b);

    /* A node whose length is fixed is like one that must not grow. */
    bench_begin(&b, FIXED, true, true);
    g_assert_cmpint(do_write(&b, DISK - 10, 100, 'x'), ==, 10);
    g_assert_cmpint(do_write(&b, DISK, 1, 'x'), ==, -ENOSPC);
    bench_end(&b);
}

/* Whoever writes to it and is not root takes away what would give him others' rights. */
static void test_write_drops_privileges(void)
{
    struct fuse_setattr_in in = {.valid = FATTR_MODE, .mode = 06757};
    Bench b;

    bench_begin(&b, MEMORY, true, false);
    g_assert_cmpint(do_setattr(&b, &in), ==, 0);
    g_assert_cmpint(do_write(&b, 0, 1, 'x'), ==, 1);
    g_assert_cmpuint(do_getattr(&b)->mode, ==, S_IFREG | 06757);
    b.uid = 65534;
    g_assert_cmpint(do_write(&b, DISK, 1, 'x'), ==, -ENOSPC);
    g_assert_cmpuint(do_getattr(&b)->mode, ==, S_IFREG | 06757);
    g_assert_cmpint(do_write(&b, 0, 1, 'x'), ==, 1);
    g_assert_cmpuint(do_getattr(&b)->mode, ==, S_IFREG | 0757);

    in.mode = 06646;
    g_assert_cmpint(do_setattr(&b, &in), ==, 0);
    g_assert_cmpint(do_write(&b, 0, 1, 'x'), ==, 1);
    g_assert_cmpuint(do_getattr(&b)->mode, ==, S_IFREG | 02646);
    bench_end(&b);
}

static void co_fn resize_past_it(ExportFixture *fixture, gpointer opaque)
{
    g_assert_cmpint(blk_co_truncate(fixture->fe->common.blk, GPOINTER_TO_UINT(opaque),
                                    PREALLOC_MODE_OFF, 0, NULL),
                    ==, 0);
}

/* Somebody else makes the node so long. */
static void others_resize(Bench *b, unsigned size)
{
    export_fixture_run(b->f, resize_past_it, GUINT_TO_POINTER(size));
}

static int do_append(Bench *b, uint64_t offset, uint32_t size, char byte)
{
    struct fuse_write_in in = {.offset = offset, .size = size, .flags = O_WRONLY | O_APPEND};
    g_autofree char *data = g_malloc(size);

    memset(data, byte, size);
    g_assert_cmpint(serve(b, FUSE_WRITE, &in, sizeof(in), data, size), ==, 0);
    return b->call.out.write.size;
}

/* An append in two pieces is moved as one, in whatever order they come. */
static void test_append_in_pieces(void)
{
    const unsigned ends[] = {DISK + 500, DISK - 500}; /* longer, shorter */
    Bench b;

    for (unsigned i = 0; i < G_N_ELEMENTS(ends); i++) {
        for (unsigned first = 0; first < 2; first++) {
            bench_begin(&b, MEMORY, true, true);
            others_resize(&b, ends[i]);
            for (unsigned piece = 0; piece < 2; piece++) {
                unsigned second = piece ^ first;

                do_append(&b, DISK + 3000 * second, 3000, second ? 'b' : 'a');
            }
            do_append(&b, DISK + 6000, 10, 'c');
            g_assert_true(reads_as(&b, ends[i], 3000, 'a'));
            g_assert_true(reads_as(&b, ends[i] + 3000, 3000, 'b'));
            g_assert_true(reads_as(&b, ends[i] + 6000, 10, 'c'));
            g_assert_cmpuint(length(&b), ==, ends[i] + 6010);
            bench_end(&b);
        }
    }
}

/* The kernel has asked, and whether it has heard the answer is open. */
static void test_append_in_doubt(void)
{
    Bench b;

    bench_begin(&b, MEMORY, true, true);
    others_resize(&b, DISK + 500);
    g_assert_cmpuint(length(&b), ==, DISK + 500);
    do_append(&b, DISK, 10, 'a'); /* it has not */
    g_assert_true(reads_as(&b, DISK + 500, 10, 'a'));
    do_append(&b, DISK + 510, 10, 'b'); /* it has */
    g_assert_true(reads_as(&b, DISK + 510, 10, 'b'));
    do_append(&b, DISK, 10, 'c'); /* so this is no append */
    g_assert_true(reads_as(&b, DISK, 10, 'c'));
    g_assert_cmpuint(length(&b), ==, DISK + 520);

    /* A write past the end that the kernel had in mind has moved that. */
    others_resize(&b, DISK + 1000);
    g_assert_cmpint(do_append(&b, DISK + 520, 10, 'd'), ==, 10);
    g_assert_cmpint(do_write(&b, DISK + 600, 10, 'w'), ==, 10);
    do_append(&b, DISK + 610, 10, 'e');
    g_assert_true(reads_as(&b, DISK + 600, 10, 'w'));
    g_assert_true(reads_as(&b, DISK + 1000, 10, 'd'));
    g_assert_true(reads_as(&b, DISK + 1010, 10, 'e'));
    g_assert_cmpuint(length(&b), ==, DISK + 1020);

    /* What the client sets itself, its kernel knows. */
    others_resize(&b, DISK + 2000);
    g_assert_cmpint(do_truncate(&b, 100), ==, 0);
    do_append(&b, 100, 10, 'f');
    g_assert_true(reads_as(&b, 100, 10, 'f'));
    g_assert_cmpuint(length(&b), ==, 110);
    bench_end(&b);
}

static void test_read_only(void)
{
    struct fuse_setattr_in touch = {.valid = FATTR_MTIME | FATTR_MTIME_NOW};
    Bench b;

    bench_begin(&b, MEMORY, false, false);
    g_assert_cmpint(do_open(&b, O_RDONLY), ==, 0);
    g_assert_cmpint(do_open(&b, O_WRONLY), ==, -EROFS);
    g_assert_cmpint(do_open(&b, O_RDWR), ==, -EROFS);
    g_assert_cmpint(do_open(&b, O_RDONLY | O_TRUNC), ==, -EROFS);
    g_assert_cmpint(do_write(&b, 0, 1, 'x'), ==, -EBADF);
    g_assert_cmpint(do_fallocate(&b, 0, 0, 1), ==, -EBADF);
    g_assert_cmpint(do_truncate(&b, 5), ==, -EROFS);
    g_assert_cmpint(do_setattr(&b, &touch), ==, -EROFS);
    g_assert_cmpuint(length(&b), ==, DISK);
    bench_end(&b);
}

static void test_open_truncates(void)
{
    Bench b;

    bench_begin(&b, MEMORY, true, false);
    g_assert_cmpint(do_open(&b, O_RDWR | O_TRUNC), ==, 0);
    g_assert_cmpuint(length(&b), ==, DISK);
    bench_end(&b);
    bench_begin(&b, MEMORY, true, true);
    g_assert_cmpint(do_open(&b, O_RDWR | O_TRUNC), ==, 0);
    g_assert_cmpuint(length(&b), ==, 0);
    bench_end(&b);
    bench_begin(&b, FIXED, true, true);
    g_assert_cmpint(do_open(&b, O_RDWR | O_TRUNC), ==, 0);
    g_assert_cmpuint(length(&b), ==, DISK);
    bench_end(&b);
}

static void test_open_flags(void)
{
    const uint32_t both = FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_NOFLUSH;
    Bench b;

    bench_begin(&b, MEMORY, true, false);
    g_assert_cmpint(do_open(&b, O_RDONLY), ==, 0);
    g_assert_cmpuint(b.call.out.open.open_flags & FOPEN_DIRECT_IO, !=, 0);
    g_assert_cmpuint(b.call.out.open.open_flags & both, ==, FOPEN_NOFLUSH);
    g_assert_cmpint(do_open(&b, O_RDWR), ==, 0);
    g_assert_cmpuint(b.call.out.open.open_flags & FOPEN_DIRECT_IO, !=, 0);
    g_assert_cmpuint(b.call.out.open.open_flags & both, ==, FOPEN_PARALLEL_DIRECT_WRITES);
    b.f->fe->cache = FUSE_EXPORT_CACHE_PAGE;
    b.f->fe->opened = true;
    g_assert_cmpint(do_open(&b, O_RDONLY), ==, 0);
    g_assert_cmpuint(b.call.out.open.open_flags, ==, FOPEN_KEEP_CACHE | FOPEN_NOFLUSH);
    g_assert_cmpint(do_open(&b, O_RDWR), ==, 0);
    g_assert_cmpuint(b.call.out.open.open_flags, ==, FOPEN_KEEP_CACHE);
    bench_end(&b);
}

static void test_truncate(void)
{
    static const uint64_t sizes[] = {DISK + 1, 1, 0, 511, 70000, DISK};
    Bench b;

    bench_begin(&b, MEMORY, true, false);
    g_assert_cmpint(do_write(&b, 0, DISK, 'x'), ==, DISK);
    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_assert_cmpint(do_truncate(&b, sizes[i]), ==, 0);
        g_assert_cmpuint(b.call.out.attr.attr.size, ==, sizes[i]);
        g_assert_cmpuint(length(&b), ==, sizes[i]);
    }
    g_assert_true(reads_as(&b, 0, DISK, 0));
    g_assert_cmpint(do_truncate(&b, G_MAXUINT64), ==, -EFBIG);
    bench_end(&b);

    bench_begin(&b, FIXED, true, false);
    g_assert_cmpint(do_truncate(&b, DISK), ==, -EOPNOTSUPP);
    g_assert_cmpint(do_truncate(&b, 5), ==, -EOPNOTSUPP);
    bench_end(&b);
}

/* Where a range lies, for each mode: result, then the length after it. */
static void test_fallocate(void)
{
    static const struct {
        uint32_t mode;
        uint64_t offset, length;
        int ret;
        uint64_t after;
    } cases[] = {
        {0, 0, 100, 0, DISK},
        {0, DISK - 10, 10, 0, DISK},
        {0, DISK - 10, 20, 0, DISK + 10},
        {0, DISK, 20, 0, DISK + 20},
        {0, DISK + 100, 20, 0, DISK + 120},
        {FALLOC_FL_KEEP_SIZE, 0, 100, 0, DISK},
        {FALLOC_FL_KEEP_SIZE, DISK - 10, 20, 0, DISK},
        {FALLOC_FL_KEEP_SIZE, DISK + 100, 20, 0, DISK},
        {PUNCH, 0, 100, 0, DISK},
        {PUNCH, DISK - 10, 20, 0, DISK},
        {PUNCH, DISK, 20, 0, DISK},
        {PUNCH, DISK + 100, 20, 0, DISK},
        {ZERO, 0, 100, 0, DISK},
        {ZERO, DISK - 10, 20, 0, DISK + 10},
        {ZERO, DISK, 20, 0, DISK + 20},
        {ZERO, DISK + 100, 20, 0, DISK + 120},
        {ZERO_KEEP, 0, 100, 0, DISK},
        {ZERO_KEEP, DISK - 10, 20, 0, DISK},
        {ZERO_KEEP, DISK + 100, 20, 0, DISK},
        {FALLOC_FL_PUNCH_HOLE, 0, 100, -EOPNOTSUPP, DISK},
        {FALLOC_FL_COLLAPSE_RANGE, 0, 4096, -EOPNOTSUPP, DISK},
        {FALLOC_FL_INSERT_RANGE, 0, 4096, -EOPNOTSUPP, DISK},
        {FALLOC_FL_UNSHARE_RANGE, 0, 4096, -EOPNOTSUPP, DISK},
        {G_MAXUINT32, 0, 4096, -EOPNOTSUPP, DISK},
        {0, 0, 0, -EINVAL, DISK},
        {0, INT64_MAX, 1, -EFBIG, DISK},
        {0, 1, INT64_MAX, -EFBIG, DISK},
        {PUNCH, G_MAXUINT64, 1, -EFBIG, DISK},
        {ZERO_KEEP, 1, G_MAXUINT64, -EFBIG, DISK},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Bench b;

        g_test_message("mode %#x, %ju + %ju", cases[i].mode, (uintmax_t)cases[i].offset,
                       (uintmax_t)cases[i].length);
        bench_begin(&b, MEMORY, true, false);
        g_assert_cmpint(do_fallocate(&b, cases[i].mode, cases[i].offset, cases[i].length), ==,
                        cases[i].ret);
        g_assert_cmpuint(length(&b), ==, cases[i].after);
        bench_end(&b);
    }
}

/* Ranges are exact to the byte: what lies beside keeps its content. */
static void test_zeroing_is_exact(void)
{
    static const uint32_t modes[] = {PUNCH, ZERO, ZERO_KEEP};
    static const uint64_t ranges[][2] = {
        {0, 1}, {1, 4095}, {4095, 4098}, {4096, 4096}, {9000, 500}};

    for (unsigned m = 0; m < G_N_ELEMENTS(modes); m++) {
        for (unsigned r = 0; r < G_N_ELEMENTS(ranges); r++) {
            uint64_t from = ranges[r][0], to = from + ranges[r][1];
            Bench b;

            bench_begin(&b, MEMORY, true, false);
            do_write(&b, 0, DISK, 'x');
            g_assert_cmpint(do_fallocate(&b, modes[m], from, to - from), ==, 0);
            g_assert_true(reads_as(&b, 0, from, 'x'));
            g_assert_true(reads_as(&b, from, to - from, 0));
            g_assert_true(reads_as(&b, to, DISK - to, 'x'));
            bench_end(&b);
        }
    }
}

/* Reserving changes nothing that can be read, and its errors come through. */
static void test_fallocate_reserves(void)
{
    static const struct {
        uint32_t mode;
        uint64_t offset, length;
        int ret;
    } cases[] = {
        {0, 100, 5000, -ENOSPC},
        {0, DISK - 10, 20, -ENOSPC}, /* and it does not grow either */
        {FALLOC_FL_KEEP_SIZE, 0, DISK, -ENOSPC},
        {FALLOC_FL_KEEP_SIZE, DISK - 10, 20, -ENOSPC},
        {FALLOC_FL_KEEP_SIZE, DISK, 20, 0}, /* nothing to reserve */
        {FALLOC_FL_KEEP_SIZE, DISK + 100, 20, 0},
        {PUNCH, 0, 0, -EINVAL},
    };
    Bench b;

    bench_begin(&b,
                "{'driver': 'blkdebug', 'node-name': 'n0', 'image': {'driver': 'memory', "
                "'size': 10000}, 'inject-error': [{'event': 'none', 'iotype': 'allocate', "
                "'errno': 28}]}",
                true, true);
    do_write(&b, 0, DISK, 'x');
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_test_message("case %u", i);
        g_assert_cmpint(do_fallocate(&b, cases[i].mode, cases[i].offset, cases[i].length), ==,
                        cases[i].ret);
        g_assert_cmpuint(length(&b), ==, DISK);
        g_assert_true(reads_as(&b, 0, DISK, 'x'));
    }
    bench_end(&b);
}

static void test_fallocate_fixed_length(void)
{
    Bench b;

    bench_begin(&b, FIXED, true, false);
    g_assert_cmpint(do_fallocate(&b, 0, 0, 100), ==, 0);
    g_assert_cmpint(do_fallocate(&b, 0, DISK, 100), ==, -EOPNOTSUPP);
    g_assert_cmpint(do_fallocate(&b, PUNCH, 0, 100), ==, 0);
    g_assert_cmpint(do_fallocate(&b, ZERO, DISK - 10, 20), ==, -EOPNOTSUPP);
    bench_end(&b);
}

static void test_lseek(void)
{
    Bench b;

    bench_begin(&b, FIXED, true, false); /* reads as zeros: all hole */
    g_assert_cmpint(do_lseek(&b, 0, SEEK_DATA), ==, -ENXIO);
    g_assert_cmpint(do_lseek(&b, 5, SEEK_HOLE), ==, 5);
    g_assert_cmpint(do_lseek(&b, DISK, SEEK_HOLE), ==, DISK);
    g_assert_cmpint(do_lseek(&b, DISK + 1, SEEK_HOLE), ==, -ENXIO);
    g_assert_cmpint(do_lseek(&b, DISK, SEEK_DATA), ==, -ENXIO);
    g_assert_cmpint(do_lseek(&b, (uint64_t)-5, SEEK_DATA), ==, -ENXIO);
    g_assert_cmpint(do_lseek(&b, (uint64_t)-5, SEEK_HOLE), ==, -ENXIO);
    g_assert_cmpint(do_lseek(&b, 0, SEEK_END), ==, -EINVAL);
    bench_end(&b);

    bench_begin(&b, MEMORY, true, false);
    do_write(&b, 0, DISK, 'x'); /* all data: the only hole is at the end */
    g_assert_cmpint(do_lseek(&b, 0, SEEK_HOLE), ==, DISK);
    g_assert_cmpint(do_lseek(&b, 77, SEEK_DATA), ==, 77);
    bench_end(&b);
}

static void test_getattr(void)
{
    const struct fuse_attr *a;
    Bench b;

    bench_begin(&b, MEMORY, true, false);
    a = do_getattr(&b);
    g_assert_cmpuint(a->ino, ==, 1);
    g_assert_cmpuint(a->nlink, ==, 1);
    g_assert_cmpuint(a->mode, ==, S_IFREG | 0600);
    g_assert_cmpuint(a->size, ==, DISK);
    g_assert_cmpuint(a->blksize, >=, PAGE);
    g_assert_cmpuint(a->uid, ==, geteuid());
    g_assert_cmpuint(a->gid, ==, getegid());
    g_assert_cmpuint(a->mtime, ==, a->atime);
    g_assert_cmpuint(b.call.out.attr.attr_valid, ==, 0); /* nobody has opened it yet */
    b.f->fe->opened = true;
    do_getattr(&b);
    g_assert_cmpuint(b.call.out.attr.attr_valid, ==, 1);
    bench_end(&b);
    bench_begin(&b, MEMORY, false, false);
    g_assert_cmpuint(do_getattr(&b)->mode, ==, S_IFREG | 0400);
    bench_end(&b);
}

/* Times stand still until something is changed; then mtime and ctime move, and atime does not. */
static void test_times(void)
{
    struct fuse_setattr_in in = {
        .valid = FATTR_ATIME | FATTR_MTIME,
        .atime = 5,
        .atimensec = 6,
        .mtime = (uint64_t)-7,
        .mtimensec = 8,
    };
    const struct fuse_attr *a;
    Bench b;

    bench_begin(&b, MEMORY, true, false);
    g_assert_cmpint(do_setattr(&b, &in), ==, 0);
    do_read(&b, 0, 100);
    a = do_getattr(&b);
    g_assert_cmpuint(a->atime, ==, 5);
    g_assert_cmpuint(a->atimensec, ==, 6);
    g_assert_cmpint((int64_t)a->mtime, ==, -7);
    g_assert_cmpuint(a->mtimensec, ==, 8);
    do_write(&b, 0, 1, 'x');
    a = do_getattr(&b);
    g_assert_cmpuint(a->atime, ==, 5);
    g_assert_cmpuint(a->mtime, >, 1000000000);
    g_assert_cmpuint(a->ctime, ==, a->mtime);
    in.atime = G_MAXUINT64 / 2; /* cannot be kept; must not trap */
    g_assert_cmpint(do_setattr(&b, &in), ==, 0);
    bench_end(&b);
}

static int64_t answered_mtime(const Bench *b)
{
    const struct fuse_attr *attr = &b->call.out.attr.attr;

    return (int64_t)attr->mtime * NS_PER_SEC + attr->mtimensec;
}

/* The mtime that a question for a read, or else one of stat, is answered with. */
static int64_t ask_mtime(Bench *b, bool for_read)
{
    struct fuse_getattr_in in = {.getattr_flags = for_read ? FUSE_GETATTR_FH : 0};

    g_assert_cmpint(serve(b, FUSE_GETATTR, &in, sizeof(in), NULL, 0), ==, 0);
    return answered_mtime(b);
}

/* Reads find another mtime, which drops the page cache, when others change the node, else never. */
static void test_mtime_of_cached_reads(void)
{
    struct fuse_setattr_in set = {.valid = FATTR_MTIME, .mtime = 1000};
    Bench b;
    int64_t first, now;

    bench_begin(&b, MEMORY, true, false);
    b.f->fe->cache = FUSE_EXPORT_CACHE_PAGE;
    b.f->fe->opened = true;
    first = ask_mtime(&b, false);
    g_assert_cmpint(ask_mtime(&b, true), ==, first);
    g_assert_cmpuint(b.call.out.attr.attr_valid, >, 0);

    /* Our own write: the kernel must not keep for stat what it has got for a read. */
    g_assert_cmpint(do_write(&b, 0, 1, 'x'), ==, 1);
    g_assert_cmpint(ask_mtime(&b, true), ==, first);
    g_assert_cmpuint(b.call.out.attr.attr_valid, ==, 0);
    /* Nor for a read what stat has got. */
    now = ask_mtime(&b, false);
    g_assert_cmpint(now, !=, first);
    g_assert_cmpuint(b.call.out.attr.attr_valid, ==, 0);
    g_assert_cmpint(ask_mtime(&b, true), ==, first);

    /* That must not go on for ever. */
    for (unsigned i = 0; ask_mtime(&b, true) != now; i++) {
        g_assert_cmpuint(i, <, 1000);
        g_assert_cmpuint(b.call.out.attr.attr_valid, ==, 0);
    }
    g_assert_cmpuint(b.call.out.attr.attr_valid, >, 0);
    g_assert_cmpint(ask_mtime(&b, false), ==, now);
    g_assert_cmpuint(b.call.out.attr.attr_valid, >, 0);

    /* Somebody else's between two of our own. */
    g_assert_cmpint(do_write(&b, 0, 1, 'x'), ==, 1);
    fuse_told_of_change(b.f->fe);
    g_assert_cmpint(do_write(&b, 0, 1, 'x'), ==, 1);
    g_assert_cmpint(ask_mtime(&b, true), !=, now);

    /* Somebody else's, and a client sets back the time. */
    now = ask_mtime(&b, false);
    fuse_told_of_change(b.f->fe);
    set.mtime = now / NS_PER_SEC;
    set.mtimensec = now % NS_PER_SEC;
    g_assert_cmpint(do_setattr(&b, &set), ==, 0);
    g_assert_cmpuint(b.call.out.attr.attr_valid, ==, 0);
    first = answered_mtime(&b);
    g_assert_cmpint(ask_mtime(&b, true), !=, first);
    g_assert_cmpint(ask_mtime(&b, false), ==, now);
    g_assert_cmpint(ask_mtime(&b, true), !=, first);
    bench_end(&b);
}

static void test_mode_and_owner(void)
{
    struct fuse_setattr_in mode = {.valid = FATTR_MODE};
    struct fuse_setattr_in owner = {.valid = FATTR_UID | FATTR_GID, .uid = 7, .gid = 8};
    const struct fuse_attr *a;
    Bench b;

    bench_begin(&b, MEMORY, true, false);
    mode.mode = 06755;
    g_assert_cmpint(do_setattr(&b, &mode), ==, 0);
    g_assert_cmpint(do_setattr(&b, &owner), ==, 0);
    a = do_getattr(&b);
    g_assert_cmpuint(a->mode, ==, S_IFREG | 06755);
    g_assert_cmpuint(a->uid, ==, 7);
    g_assert_cmpuint(a->gid, ==, 8);

    b.f->fe->mount.allow_other = false;
    mode.mode = 0640;
    g_assert_cmpint(do_setattr(&b, &mode), ==, -EPERM);
    mode.mode = 04600;
    g_assert_cmpint(do_setattr(&b, &mode), ==, -EPERM);
    mode.mode = 0400;
    g_assert_cmpint(do_setattr(&b, &mode), ==, 0);
    g_assert_cmpint(do_setattr(&b, &owner), ==, -EOPNOTSUPP);
    g_assert_cmpuint(do_getattr(&b)->mode, ==, S_IFREG | 0400);
    bench_end(&b);

    bench_begin(&b, MEMORY, false, false);
    mode.mode = 0644;
    g_assert_cmpint(do_setattr(&b, &mode), ==, -EROFS);
    mode.mode = 0444;
    g_assert_cmpint(do_setattr(&b, &mode), ==, 0);
    g_assert_cmpint(do_setattr(&b, &owner), ==, 0);
    g_assert_cmpuint(do_getattr(&b)->mode, ==, S_IFREG | 0444);
    bench_end(&b);
}

/* A request to change several things changes all or nothing. */
static void test_setattr_is_whole(void)
{
    struct fuse_setattr_in in = {.valid = FATTR_SIZE | FATTR_MODE, .size = 5, .mode = 0644};
    Bench b;

    bench_begin(&b, MEMORY, true, false);
    b.f->fe->mount.allow_other = false;
    g_assert_cmpint(do_setattr(&b, &in), ==, -EPERM);
    g_assert_cmpuint(do_getattr(&b)->size, ==, DISK);
    bench_end(&b);
    bench_begin(&b, FIXED, true, false);
    g_assert_cmpint(do_setattr(&b, &in), ==, -EOPNOTSUPP);
    g_assert_cmpuint(do_getattr(&b)->mode, ==, S_IFREG | 0600);
    bench_end(&b);
}

static void test_statfs(void)
{
    const struct fuse_kstatfs *st;
    Bench b;

    bench_begin(&b, MEMORY, true, false);
    g_assert_cmpint(serve(&b, FUSE_STATFS, NULL, 0, NULL, 0), ==, 0);
    st = &b.call.out.statfs.st;
    g_assert_cmpuint(st->bsize, ==, PAGE);
    g_assert_cmpuint(st->frsize, ==, PAGE);
    g_assert_cmpuint(st->blocks, ==, 3);
    g_assert_cmpuint(st->bfree, <=, st->blocks);
    g_assert_cmpuint(st->bavail, ==, st->bfree);
    bench_end(&b);
}

static void test_flush(void)
{
    struct fuse_flush_in flush = {0};
    struct fuse_fsync_in fsync_in = {0};
    Bench b;

    bench_begin(&b, MEMORY, true, false);
    do_write(&b, 0, 1, 'x');
    g_assert_cmpint(serve(&b, FUSE_FLUSH, &flush, sizeof(flush), NULL, 0), ==, 0);
    g_assert_cmpint(serve(&b, FUSE_FSYNC, &fsync_in, sizeof(fsync_in), NULL, 0), ==, 0);
    bench_end(&b);
    bench_begin(&b, MEMORY, false, false);
    g_assert_cmpint(serve(&b, FUSE_FSYNC, &fsync_in, sizeof(fsync_in), NULL, 0), ==, 0);
    bench_end(&b);
}

static void test_open_files_are_counted(void)
{
    struct fuse_release_in release = {0};
    Bench b;

    bench_begin(&b, MEMORY, true, false);
    do_open(&b, O_RDONLY);
    do_open(&b, O_RDWR);
    g_assert_cmpuint(b.f->fe->open_files, ==, 2);
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpint(serve(&b, FUSE_RELEASE, &release, sizeof(release), NULL, 0), ==, 0);
    }
    g_assert_cmpuint(b.f->fe->open_files, ==, 0);
    bench_end(&b);
}

static int do_lookup(Bench *b, uint64_t parent, const char *name)
{
    Message *m = b->message;

    m->header = (struct fuse_in_header){.len = sizeof(m->header) + strlen(name) + 1,
                                        .opcode = FUSE_LOOKUP,
                                        .unique = 2,
                                        .nodeid = parent};
    memcpy(m->rest, name, strlen(name) + 1);
    return export_fixture_serve(b->f, &b->call, m, m->header.len, b->payload);
}

/* The file in its directory, where it is not the root itself. */
static void test_directory(void)
{
    Bench b;

    bench_begin(&b, MEMORY, true, true);
    g_assert_cmpint(do_lookup(&b, FUSE_ROOT_ID, FUSE_MOUNT_FILE_NAME), ==, -ENOSYS);
    g_assert_true(S_ISREG(do_getattr(&b)->mode));
    b.f->fe->mount.in_directory = true;
    g_assert_true(S_ISDIR(do_getattr(&b)->mode));
    g_assert_cmpint(do_lookup(&b, FUSE_ROOT_ID, "other"), ==, -ENOENT);
    g_assert_cmpint(do_lookup(&b, FUSE_ROOT_ID, ""), ==, -ENOENT);
    g_assert_cmpint(do_lookup(&b, FUSE_MOUNT_FILE_NODE, FUSE_MOUNT_FILE_NAME), ==, -ENOENT);
    g_assert_cmpint(do_lookup(&b, FUSE_ROOT_ID, FUSE_MOUNT_FILE_NAME), ==, 0);
    g_assert_cmpuint(b.call.out.entry.nodeid, ==, FUSE_MOUNT_FILE_NODE);
    g_assert_cmpuint(b.call.out.entry.attr.size, ==, DISK);
    g_assert_cmpuint(b.call.out.entry.attr.ino, ==, 1);
    g_assert_true(S_ISREG(b.call.out.entry.attr.mode));
    bench_end(&b);
}

/* What the kernel would not find out, or would take in the wrong way, if answered as elsewhere. */
static void test_writeback(void)
{
    struct fuse_write_in in = {.offset = DISK - 10, .size = 20, .write_flags = FUSE_WRITE_CACHE};
    const char data[20] = "";
    Bench b;

    bench_begin(&b, FIXED, true, true);
    b.f->fe->cache = FUSE_EXPORT_CACHE_WRITEBACK;
    g_assert_cmpint(serve(&b, FUSE_WRITE, &in, sizeof(in), data, sizeof(data)), ==, -ENOSPC);
    in.write_flags = 0;
    g_assert_cmpint(serve(&b, FUSE_WRITE, &in, sizeof(in), data, sizeof(data)), ==, 0);
    g_assert_cmpuint(b.call.out.write.size, ==, 10);
    g_assert_cmpint(do_lseek(&b, 0, SEEK_DATA), ==, -ENOSYS);
    g_assert_cmpint(do_open(&b, O_RDWR | O_TRUNC), ==, -EOPNOTSUPP);
    g_assert_cmpint(do_open(&b, O_RDWR), ==, 0);
    g_assert_cmpuint(b.call.out.open.open_flags, ==, FOPEN_KEEP_CACHE);
    bench_end(&b);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fuse/operations/read", test_read);
    g_test_add_func("/fuse/operations/write-fixed", test_write_fixed);
    g_test_add_func("/fuse/operations/write-growable", test_write_growable);
    g_test_add_func("/fuse/operations/write-drops-privileges", test_write_drops_privileges);
    g_test_add_func("/fuse/operations/append-in-pieces", test_append_in_pieces);
    g_test_add_func("/fuse/operations/append-in-doubt", test_append_in_doubt);
    g_test_add_func("/fuse/operations/read-only", test_read_only);
    g_test_add_func("/fuse/operations/open-truncates", test_open_truncates);
    g_test_add_func("/fuse/operations/open-flags", test_open_flags);
    g_test_add_func("/fuse/operations/truncate", test_truncate);
    g_test_add_func("/fuse/operations/fallocate", test_fallocate);
    g_test_add_func("/fuse/operations/zeroing-is-exact", test_zeroing_is_exact);
    g_test_add_func("/fuse/operations/fallocate-reserves", test_fallocate_reserves);
    g_test_add_func("/fuse/operations/fallocate-fixed-length", test_fallocate_fixed_length);
    g_test_add_func("/fuse/operations/lseek", test_lseek);
    g_test_add_func("/fuse/operations/getattr", test_getattr);
    g_test_add_func("/fuse/operations/times", test_times);
    g_test_add_func("/fuse/operations/mtime-of-cached-reads", test_mtime_of_cached_reads);
    g_test_add_func("/fuse/operations/mode-and-owner", test_mode_and_owner);
    g_test_add_func("/fuse/operations/setattr-is-whole", test_setattr_is_whole);
    g_test_add_func("/fuse/operations/statfs", test_statfs);
    g_test_add_func("/fuse/operations/flush", test_flush);
    g_test_add_func("/fuse/operations/directory", test_directory);
    g_test_add_func("/fuse/operations/writeback", test_writeback);
    g_test_add_func("/fuse/operations/open-files", test_open_files_are_counted);
    return g_test_run();
}
