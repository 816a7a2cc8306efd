/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file driver in a graph of its own. Each test is a coroutine of the main context and runs once
 * for each place (the temporary directory, and one in memory) and each engine.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "block/drivers/file/locks.h"
#include "tests/unit/graph-rig.h"
#include "util/error.h"

#define KIB 1024u
#define MIB (1024u * 1024u)

/*
 * The system calls that a test wants to count or to fail, in place of libc's. Workers call them, so
 * they see what the thread engine and the epoll backend do, not io_uring.
 */
static struct {
    int syncs;      /* fdatasync(), fsync() and writes with RWF_DSYNC */
    int sync_error; /* what syncs fail with from now on, or 0 */
    int held;       /* 1: the next write with RWF_DSYNC makes it 2, and fails when it is 0 again */
} hooks;

static int hooked_sync(int fd, long number)
{
    int error = g_atomic_int_get(&hooks.sync_error);

    g_atomic_int_inc(&hooks.syncs);
    if (error) {
        errno = error;
        return -1;
    }
    return (int)syscall(number, fd);
}

int fdatasync(int fd)
{
    return hooked_sync(fd, SYS_fdatasync);
}

int fsync(int fd)
{
    return hooked_sync(fd, SYS_fsync);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    int error = g_atomic_int_get(&hooks.sync_error);
    ssize_t written = syscall(SYS_pwritev2, fd, iov, n, offset, 0L, flags);

    if (!(flags & RWF_DSYNC) || written < 0) {
        return written;
    }
    if (g_atomic_int_compare_and_exchange(&hooks.held, 1, 2)) {
        while (g_atomic_int_get(&hooks.held)) {
            g_usleep(100);
        }
        error = EIO;
    }
    g_atomic_int_inc(&hooks.syncs);
    if (error) {
        errno = error;
        return -1;
    }
    return written;
}

/* Where and how a case runs. */
typedef struct Place {
    const char *directory;
    bool threads; /* aio=threads, else what is fastest */
    char *path;   /* an image of 1 MiB, all hole */
} Place;

static const Place *place_of(const GraphRig *rig)
{
    return rig->user;
}

static bool hooks_see(const GraphRig *rig)
{
    return place_of(rig)->threads || g_str_equal(aio_context_backend_name(rig->ctx), "epoll");
}

static void make_image(const Place *place, off_t size)
{
    int fd = open(place->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, size), ==, 0);
    close(fd);
}

/* Options of a node called @name with the image, and further ones ("'key': value, ...", or ""). */
static BlockdevOptions *options(const GraphRig *rig, const char *name, const char *more)
{
    const Place *place = place_of(rig);
    bool threads = place->threads && !strstr(more, "'aio'");
    g_autofree char *json =
        g_strdup_printf("{'driver': 'file', 'node-name': '%s', 'filename': '%s'%s%s%s}", name,
                        place->path, threads ? ", 'aio': 'threads'" : "", *more ? ", " : "", more);

    return graph_rig_options(json);
}

static BlockNode *co_fn co_add(GraphRig *rig, const char *name, const char *more)
{
    return graph_rig_co_add(rig, options(rig, name, more));
}

#define READ_WRITE (BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE)

static int64_t size_of(const GraphRig *rig)
{
    struct stat st;

    g_assert_cmpint(stat(place_of(rig)->path, &st), ==, 0);
    return st.st_size;
}

static int64_t blocks_of(const GraphRig *rig)
{
    struct stat st;

    g_assert_cmpint(stat(place_of(rig)->path, &st), ==, 0);
    return st.st_blocks * 512;
}

/* The one descriptor of this process that has the file @path open, or had when it was there. */
static int find_descriptor(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    const char *name;
    int found = -1;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *link = g_build_filename("/proc/self/fd", name, NULL);
        g_autofree char *target = g_file_read_link(link, NULL);

        if (target && g_str_has_prefix(target, path)) { /* " (deleted)" may follow */
            g_assert_cmpint(found, ==, -1);
            found = atoi(name);
        }
    }
    return found;
}

/* How the node's descriptor is open: flags of fcntl(F_GETFL). */
static int open_flags(BlockNode *node)
{
    g_autofree char *path = block_node_plain_filename(node);
    int fd = find_descriptor(path);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(fcntl(fd, F_GETFD), ==, FD_CLOEXEC);
    return fcntl(fd, F_GETFL);
}

static unsigned count_descriptors(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

static void co_fn test_read_write(GraphRig *rig)
{
    BlockNode *node = co_add(rig, "f0", "");
    BlockBackend *blk = graph_rig_co_use(node, READ_WRITE);
    uint8_t a[100], b[900], c[24], all[1024];
    struct iovec iov[] = {{a, 100}, {b, 900}, {c, 24}};
    IoVector vector = {.iov = iov, .n = 3, .bytes = 1024};

    g_assert_cmpint(block_node_length(node), ==, MIB);
    graph_rig_co_expect_zeros(blk, 0, MIB);
    graph_rig_co_write(blk, 0, MIB, 5, 0);
    graph_rig_co_expect(blk, 0, MIB, 5);
    graph_rig_co_write(blk, 4097, 1024, 9, 0);
    g_assert_cmpint(blk_co_preadv(blk, 4097, &vector, 0), ==, 0);
    graph_rig_fill(all, 1024, 9);
    g_assert_cmpmem(a, 100, all, 100);
    g_assert_cmpmem(b, 900, all + 100, 900);
    g_assert_cmpmem(c, 24, all + 1000, 24);
    g_assert_cmpint(blk_co_pwritev(blk, 77, &vector, 0), ==, 0);
    graph_rig_co_expect(blk, 77, 1024, 9);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

static void co_fn test_odd_length(GraphRig *rig)
{
    BlockNode *node;
    BlockBackend *blk;

    make_image(place_of(rig), 1000);
    node = co_add(rig, "f0", "");
    blk = graph_rig_co_use(node, READ_WRITE);
    g_assert_cmpint(block_node_length(node), ==, 1000);
    graph_rig_co_write(blk, 0, 1000, 1, 0);
    graph_rig_co_expect(blk, 0, 1000, 1);
    g_assert_cmpint(size_of(rig), ==, 1000);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

/* With direct I/O the last block is written in part, and the file keeps its length. */
static void co_fn test_direct(GraphRig *rig)
{
    static const off_t sizes[] = {MIB, MIB + 1000, 1000, 1};

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        size_t size = (size_t)sizes[i];
        BlockLimits limits;
        BlockNode *node;
        BlockBackend *blk;

        make_image(place_of(rig), sizes[i]);
        node = co_add(rig, "f0", "'cache': {'direct': true}");
        g_assert_true(open_flags(node) & O_DIRECT);
        block_node_limits(node, &limits);
        g_assert_cmpuint(limits.request_alignment, >=, 1);
        g_assert_cmpuint(limits.request_alignment, <=, 64 * KIB);
        blk = graph_rig_co_use(node, READ_WRITE);
        graph_rig_co_expect_zeros(blk, 0, size);
        graph_rig_co_write(blk, 0, size, 3, 0);
        graph_rig_co_expect(blk, 0, size, 3);
        graph_rig_co_write(blk, size / 2, size - size / 2, 4, BLOCK_REQ_FUA);
        graph_rig_co_expect(blk, size / 2, size - size / 2, 4);
        g_assert_cmpint(blk_co_flush(blk), ==, 0);
        g_assert_cmpint(blk_co_pwrite_zeroes(blk, size / 2, size - size / 2, 0), ==, 0);
        graph_rig_co_expect_zeros(blk, size / 2, size - size / 2);
        graph_rig_co_expect(blk, 0, size / 2, 3);
        g_assert_cmpint(block_node_length(node), ==, sizes[i]);
        g_assert_cmpint(size_of(rig), ==, sizes[i]);
        block_backend_co_free(blk);
        graph_rig_co_del(rig, "f0");
    }
}

/* Writes the sectors around the end of an odd file by themselves, whatever page they share. */
static void co_fn test_direct_sectors_at_the_end(GraphRig *rig)
{
    BlockBackend *blk;
    g_autofree char *content = NULL;
    g_autofree uint8_t *wanted = g_malloc0(64 * KIB + 3000);
    gsize size;

    make_image(place_of(rig), 64 * KIB + 3000);
    blk = graph_rig_co_use(co_add(rig, "f0", "'cache': {'direct': true}"), READ_WRITE);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned at = 60 * KIB; at < 64 * KIB + 3000; at += 512) {
            unsigned offset = round % 2 ? 124 * KIB + 3000 - at - 512 : at; /* there and back */
            size_t n = MIN(512, 64 * KIB + 3000 - offset);

            graph_rig_co_write(blk, offset, n, round + at, 0);
            graph_rig_fill(wanted + offset, n, round + at);
        }
    }
    g_assert_cmpint(blk_co_flush(blk), ==, 0);
    g_assert_true(g_file_get_contents(place_of(rig)->path, &content, &size, NULL));
    g_assert_cmpmem(content, size, wanted, 64 * KIB + 3000);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

static void co_fn test_native_needs_direct(GraphRig *rig)
{
    g_autofree char *words = graph_rig_co_add_fails(rig, options(rig, "f0", "'aio': 'native'"));

    g_assert_nonnull(strstr(words, "'cache'"));
    co_add(rig, "f0", "'aio': 'native', 'cache': {'direct': true}");
    graph_rig_co_del(rig, "f0");
}

/* Each wrong file name gets an error that names it, and none of them hangs. */
static void co_fn test_wrong_files(GraphRig *rig)
{
    g_autofree char *dir = g_strconcat(place_of(rig)->path, ".d", NULL);
    g_autofree char *fifo = g_strconcat(place_of(rig)->path, ".fifo", NULL);
    g_autofree char *dangling = g_strconcat(place_of(rig)->path, ".link", NULL);
    g_autofree char *missing = g_strconcat(place_of(rig)->path, ".missing", NULL);
    g_autofree char *below = g_strconcat(place_of(rig)->path, "/x", NULL);
    const struct {
        const char *path, *words;
        BlockdevDriver driver;
    } cases[] = {
        {dir, "a directory", BLOCKDEV_DRIVER_FILE},
        {fifo, "a fifo", BLOCKDEV_DRIVER_FILE},
        {dangling, "No such file", BLOCKDEV_DRIVER_FILE},
        {missing, "No such file", BLOCKDEV_DRIVER_FILE},
        {below, "Not a directory", BLOCKDEV_DRIVER_FILE},
        {"/dev/null", "a character device", BLOCKDEV_DRIVER_FILE},
        {"", "empty", BLOCKDEV_DRIVER_FILE},
        {place_of(rig)->path, "a regular file", BLOCKDEV_DRIVER_HOST_DEVICE},
        {dir, "a directory", BLOCKDEV_DRIVER_HOST_DEVICE},
        {"/dev/null", "a character device", BLOCKDEV_DRIVER_HOST_DEVICE},
        {missing, "No such file", BLOCKDEV_DRIVER_HOST_DEVICE},
        {"", "empty", BLOCKDEV_DRIVER_HOST_DEVICE},
    };
    unsigned before = count_descriptors();

    g_assert_cmpint(mkdir(dir, 0700), ==, 0);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    g_assert_cmpint(symlink("nowhere", dangling), ==, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        BlockdevOptions *o = options(rig, "f0", "");
        g_autofree char *words = NULL;

        o->driver = cases[i].driver; /* both have the same options */
        g_free(o->u.file.filename);
        o->u.file.filename = g_strdup(cases[i].path);
        words = graph_rig_co_add_fails(rig, o);
        g_assert_nonnull(strstr(words, cases[i].words));
        g_assert_nonnull(strstr(words, cases[i].path));
    }
    g_assert_cmpuint(count_descriptors(), ==, before);
    g_rmdir(dir);
    g_unlink(fifo);
    g_unlink(dangling);
}

static void co_fn co_expect_status(BlockBackend *blk, uint64_t offset, uint64_t bytes, bool data,
                                   uint64_t pnum)
{
    BlockStatus status;
    uint64_t n;

    g_assert_cmpint(blk_co_block_status(blk, offset, bytes, &n, &status), ==, 0);
    g_assert_cmpint(!!(status & BLOCK_STATUS_DATA), ==, data);
    g_assert_cmpint(!!(status & BLOCK_STATUS_ZERO), ==, !data);
    g_assert_cmpuint(n, ==, pnum);
}

static void co_fn test_block_status(GraphRig *rig)
{
    BlockBackend *blk = graph_rig_co_use(co_add(rig, "f0", "'discard': 'unmap'"), READ_WRITE);

    co_expect_status(blk, 0, MIB, false, MIB);
    graph_rig_co_write(blk, 256 * KIB, 256 * KIB, 0, 0);
    co_expect_status(blk, 0, MIB, false, 256 * KIB);
    co_expect_status(blk, 256 * KIB, 768 * KIB, true, 256 * KIB);
    co_expect_status(blk, 300 * KIB, 100 * KIB, true, 100 * KIB);
    co_expect_status(blk, 512 * KIB, 512 * KIB, false, 512 * KIB);
    /* What is remembered of data must not outlive the data. */
    g_assert_cmpint(blk_co_pdiscard(blk, 320 * KIB, 64 * KIB), ==, 0);
    co_expect_status(blk, 256 * KIB, 256 * KIB, true, 64 * KIB);
    co_expect_status(blk, 320 * KIB, 192 * KIB, false, 64 * KIB);
    g_assert_cmpint(blk_co_pwrite_zeroes(blk, 256 * KIB, 64 * KIB, BLOCK_REQ_MAY_UNMAP), ==, 0);
    co_expect_status(blk, 256 * KIB, 128 * KIB, false, 128 * KIB);
    /* Nor must a hole outlive itself. */
    graph_rig_co_write(blk, 256 * KIB, 64 * KIB, 1, 0);
    co_expect_status(blk, 256 * KIB, 128 * KIB, true, 64 * KIB);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

/* Space is there afterwards, and everything reads as before; holes go on being zeros. */
static void co_fn test_allocate(GraphRig *rig)
{
    BlockBackend *blk = graph_rig_co_use(co_add(rig, "f0", "'discard': 'unmap'"), READ_WRITE);

    graph_rig_co_write(blk, 256 * KIB, 256 * KIB, 1, 0);
    co_expect_status(blk, 256 * KIB, 768 * KIB, true, 256 * KIB); /* to be remembered */
    g_assert_cmpint(blocks_of(rig), <, MIB / 2);
    g_assert_cmpint(blk_co_allocate(blk, 300 * KIB + 1, 700 * KIB), ==, 0);
    g_assert_cmpint(blocks_of(rig), >=, 744 * KIB);
    g_assert_cmpint(blk_co_allocate(blk, 0, MIB), ==, 0);
    g_assert_cmpint(blocks_of(rig), >=, MIB);
    g_assert_cmpint(blk_co_allocated_size(blk), ==, blocks_of(rig));
    g_assert_cmpint(size_of(rig), ==, MIB);
    graph_rig_co_expect_zeros(blk, 0, 256 * KIB);
    graph_rig_co_expect(blk, 256 * KIB, 256 * KIB, 1);
    graph_rig_co_expect_zeros(blk, 512 * KIB, 512 * KIB);
    /* What is written into it is data at once. */
    graph_rig_co_write(blk, 600 * KIB, 8 * KIB, 2, 0);
    co_expect_status(blk, 600 * KIB, 8 * KIB, true, 8 * KIB);
    g_assert_cmpint(blk_co_allocate(blk, 0, MIB), ==, 0);
    co_expect_status(blk, 600 * KIB, 8 * KIB, true, 8 * KIB);
    graph_rig_co_expect(blk, 600 * KIB, 8 * KIB, 2);
    g_assert_cmpint(blk_co_allocate(blk, MIB, 1), ==, -EIO);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

/* A tail that fills no block gets one; the file ends where it did. */
static void co_fn test_allocate_odd_length(GraphRig *rig)
{
    BlockBackend *blk;

    make_image(place_of(rig), 100 * KIB + 77);
    blk = graph_rig_co_use(co_add(rig, "f0", ""), READ_WRITE);
    g_assert_cmpint(blk_co_allocate(blk, 100 * KIB + 76, 1), ==, 0);
    g_assert_cmpint(blocks_of(rig), >, 0);
    g_assert_cmpint(blocks_of(rig), <, 100 * KIB);
    g_assert_cmpint(size_of(rig), ==, 100 * KIB + 77);
    graph_rig_co_expect_zeros(blk, 0, 100 * KIB + 77);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

static void co_fn test_discard(GraphRig *rig)
{
    for (int unmap = 0; unmap < 2; unmap++) {
        const char *more = unmap ? "'discard': 'unmap'" : "'discard': 'ignore'";
        BlockBackend *blk = graph_rig_co_use(co_add(rig, "f0", more), READ_WRITE);

        graph_rig_co_write(blk, 0, MIB, 1, 0);
        g_assert_cmpint(blk_co_flush(blk), ==, 0);
        g_assert_cmpint(blocks_of(rig), >=, MIB);
        g_assert_cmpint(blk_co_pdiscard(blk, 0, MIB / 2), ==, 0);
        if (unmap) {
            graph_rig_co_expect_zeros(blk, 0, MIB / 2);
            g_assert_cmpint(blocks_of(rig), <, MIB * 3 / 4);
        } else {
            graph_rig_co_expect(blk, 0, MIB / 2, 1);
            g_assert_cmpint(blocks_of(rig), >=, MIB);
        }
        g_assert_cmpint(blk_co_allocated_size(blk), ==, blocks_of(rig));
        g_assert_cmpint(size_of(rig), ==, MIB);
        block_backend_co_free(blk);
        graph_rig_co_del(rig, "f0");
    }
}

static void co_fn test_write_zeroes(GraphRig *rig)
{
    for (int unmap = 0; unmap < 2; unmap++) {
        BlockRequestFlags flags = unmap ? BLOCK_REQ_MAY_UNMAP : 0;
        BlockBackend *blk = graph_rig_co_use(co_add(rig, "f0", "'discard': 'unmap'"), READ_WRITE);

        graph_rig_co_write(blk, 0, MIB, 1, 0);
        g_assert_cmpint(blk_co_flush(blk), ==, 0);
        g_assert_cmpint(blk_co_pwrite_zeroes(blk, 0, MIB / 2, flags | BLOCK_REQ_NO_FALLBACK), ==,
                        0);
        graph_rig_co_expect_zeros(blk, 0, MIB / 2);
        g_assert_cmpint(blk_co_flush(blk), ==, 0);
        if (unmap) {
            g_assert_cmpint(blocks_of(rig), <, MIB * 3 / 4);
        } else {
            g_assert_cmpint(blocks_of(rig), >=, MIB);
        }
        g_assert_cmpint(blk_co_pwrite_zeroes(blk, MIB / 2 + 13, 5000, flags), ==, 0);
        graph_rig_co_expect_zeros(blk, MIB / 2 + 13, 5000);
        g_assert_cmpint(size_of(rig), ==, MIB);
        block_backend_co_free(blk);
        graph_rig_co_del(rig, "f0");
    }
}

static int co_fn co_truncate(BlockBackend *blk, uint64_t size, PreallocMode mode)
{
    g_autoptr(GError) error = NULL;
    int r = blk_co_truncate(blk, size, mode, BLOCK_REQ_ZERO, &error);

    g_assert_true((r < 0) == (error != NULL));
    return r;
}

static void co_fn test_truncate(GraphRig *rig)
{
    BlockNode *node = co_add(rig, "f0", "");
    BlockBackend *blk = graph_rig_co_use(node, READ_WRITE | BLOCK_PERM_RESIZE);

    graph_rig_co_write(blk, 0, MIB, 1, 0);
    g_assert_cmpint(co_truncate(blk, 1001, PREALLOC_MODE_OFF), ==, 0);
    g_assert_cmpint(size_of(rig), ==, 1001);
    g_assert_cmpint(blk_length(blk), ==, 1001);
    g_assert_cmpint(co_truncate(blk, 2 * MIB, PREALLOC_MODE_OFF), ==, 0);
    graph_rig_co_expect(blk, 0, 1001, 1);
    graph_rig_co_expect_zeros(blk, 1001, 2 * MIB - 1001);
    g_assert_cmpint(blocks_of(rig), <, MIB);
    g_assert_cmpint(co_truncate(blk, 3 * MIB + 5, PREALLOC_MODE_FALLOC), ==, 0);
    g_assert_cmpint(blocks_of(rig), >=, MIB);
    g_assert_cmpint(size_of(rig), ==, 3 * MIB + 5);
    g_assert_cmpint(co_truncate(blk, 5 * MIB + 7, PREALLOC_MODE_FULL), ==, 0);
    g_assert_cmpint(blocks_of(rig), >=, 3 * MIB);
    g_assert_cmpint(size_of(rig), ==, 5 * MIB + 7);
    graph_rig_co_expect_zeros(blk, 2 * MIB, 3 * MIB + 7);
    co_expect_status(blk, 3 * MIB + 4096, MIB, true, MIB);
    g_assert_cmpint(co_truncate(blk, 0, PREALLOC_MODE_OFF), ==, 0);
    g_assert_cmpint(size_of(rig), ==, 0);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

static void co_fn test_truncate_fails(GraphRig *rig)
{
    BlockNode *node = co_add(rig, "f0", "");
    BlockBackend *blk = graph_rig_co_use(node, READ_WRITE | BLOCK_PERM_RESIZE);
    static const PreallocMode modes[] = {PREALLOC_MODE_METADATA, PREALLOC_MODE_FALLOC,
                                         PREALLOC_MODE_FULL};

    for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++) {
        g_assert_cmpint(co_truncate(blk, 1000, modes[i]), <, 0);
        g_assert_cmpint(size_of(rig), ==, MIB);
    }
    g_assert_cmpint(co_truncate(blk, 2 * MIB, PREALLOC_MODE_METADATA), ==, -ENOTSUP);
    g_assert_cmpint(co_truncate(blk, G_MAXINT64 - 511, PREALLOC_MODE_FALLOC), <, 0);
    g_assert_cmpint(size_of(rig), ==, MIB);
    g_assert_cmpint(blk_length(blk), ==, MIB);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

/* Somebody else cuts the image: what is missing reads as zeros. */
static void co_fn test_cut_behind_our_back(GraphRig *rig)
{
    BlockBackend *blk = graph_rig_co_use(co_add(rig, "f0", ""), READ_WRITE);

    graph_rig_co_write(blk, 0, MIB, 1, 0);
    g_assert_cmpint(truncate(place_of(rig)->path, 100 * KIB + 3), ==, 0);
    graph_rig_co_expect(blk, 0, 100 * KIB + 3, 1);
    graph_rig_co_expect_zeros(blk, 100 * KIB + 3, 5000);
    graph_rig_co_expect_zeros(blk, 500 * KIB, 100 * KIB);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

/* The descriptor is writable as long as somebody writes, and only then. */
static void co_fn test_auto_read_only(GraphRig *rig)
{
    unsigned before = count_descriptors();
    BlockNode *node = co_add(rig, "f0", "'auto-read-only': true");
    BlockBackend *reader, *writer;

    g_assert_false(block_node_read_only(node));
    g_assert_cmpint(open_flags(node) & O_ACCMODE, ==, O_RDONLY);
    reader = graph_rig_co_use(node, BLOCK_PERM_CONSISTENT_READ);
    g_assert_cmpint(open_flags(node) & O_ACCMODE, ==, O_RDONLY);
    writer = graph_rig_co_use(node, READ_WRITE);
    g_assert_cmpint(open_flags(node) & O_ACCMODE, ==, O_RDWR);
    graph_rig_co_write(writer, 0, 4096, 1, 0);
    graph_rig_co_expect(reader, 0, 4096, 1);
    block_backend_co_free(writer);
    g_assert_cmpint(open_flags(node) & O_ACCMODE, ==, O_RDONLY);
    graph_rig_co_expect(reader, 0, 4096, 1);
    block_backend_co_free(reader);
    g_assert_cmpuint(count_descriptors(), ==, before + 1);
    graph_rig_co_del(rig, "f0");
    g_assert_cmpuint(count_descriptors(), ==, before);
}

static void co_fn test_read_only(GraphRig *rig)
{
    BlockNode *node = co_add(rig, "f0", "'read-only': true");

    g_assert_true(block_node_read_only(node));
    g_assert_cmpint(open_flags(node) & O_ACCMODE, ==, O_RDONLY);
    graph_rig_co_del(rig, "f0");
}

/* Reopen "f0". Returns NULL or the error's message. */
static char *co_fn co_reopen(GraphRig *rig, const char *more)
{
    return graph_rig_co_reopen(rig, options(rig, "f0", more));
}

static void co_fn test_reopen(GraphRig *rig)
{
    BlockNode *node = co_add(rig, "f0", "");
    BlockBackend *blk = graph_rig_co_use(node, READ_WRITE);
    unsigned before = count_descriptors();

    graph_rig_co_write(blk, 0, MIB, 1, 0);
    /* By descriptor: what the path leads to meanwhile is another file. */
    g_assert_cmpint(g_unlink(place_of(rig)->path), ==, 0);
    make_image(place_of(rig), 10);
    g_assert_null(co_reopen(rig, "'cache': {'direct': true}"));
    g_assert_true(open_flags(node) & O_DIRECT);
    graph_rig_co_expect(blk, 0, MIB, 1);
    g_assert_null(co_reopen(rig, ""));
    g_assert_false(open_flags(node) & O_DIRECT);
    graph_rig_co_expect(blk, 0, MIB, 1);
    g_assert_null(co_reopen(rig, "'aio': 'threads'"));
    graph_rig_co_expect(blk, 0, MIB, 1);
    g_assert_cmpuint(count_descriptors(), ==, before);
    g_assert_cmpint(size_of(rig), ==, 10);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

static void co_fn test_reopen_fails(GraphRig *rig)
{
    BlockNode *node = co_add(rig, "f0", "");
    BlockBackend *blk = graph_rig_co_use(node, READ_WRITE);
    unsigned before = count_descriptors();
    BlockdevOptions *o = options(rig, "f0", "");
    g_autofree char *elsewhere = NULL, *read_only = NULL, *native = NULL;

    g_free(o->u.file.filename);
    o->u.file.filename = g_strdup("/another");
    elsewhere = graph_rig_co_reopen(rig, o);
    g_assert_nonnull(strstr(elsewhere, "'filename'"));
    read_only = co_reopen(rig, "'read-only': true");
    g_assert_nonnull(read_only); /* somebody writes */
    native = co_reopen(rig, "'aio': 'native'");
    g_assert_nonnull(strstr(native, "'cache'"));
    g_assert_cmpuint(count_descriptors(), ==, before);
    g_assert_cmpint(open_flags(node) & O_ACCMODE, ==, O_RDWR);
    graph_rig_co_write(blk, 0, 4096, 2, 0);
    graph_rig_co_expect(blk, 0, 4096, 2);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

/* Two nodes on one file are as strangers to each other. */
static void co_fn test_locks_between_nodes(GraphRig *rig)
{
    BlockNode *a = co_add(rig, "a", "");
    BlockNode *b = co_add(rig, "b", "");
    g_autoptr(GError) error = NULL;
    BlockBackend *reader =
        block_backend_co_new(a, "reader", BLOCK_PERM_CONSISTENT_READ,
                             BLOCK_PERM_ALL & ~(unsigned)BLOCK_PERM_WRITE, &error);
    BlockBackend *writer;

    g_assert_no_error(error);
    g_assert_null(block_backend_co_new(b, "writer", READ_WRITE, BLOCK_PERM_ALL, &error));
    g_assert_nonnull(strstr(error->message, "write"));
    g_assert_nonnull(strstr(error->message, place_of(rig)->path));
    g_clear_error(&error);
    writer = graph_rig_co_use(b, BLOCK_PERM_CONSISTENT_READ);
    g_assert_false(block_backend_co_set_perm(writer, READ_WRITE, BLOCK_PERM_ALL, &error));
    block_backend_co_free(reader);
    g_assert_true(block_backend_co_set_perm(writer, READ_WRITE, BLOCK_PERM_ALL, NULL));
    g_clear_error(&error);
    g_assert_null(block_backend_co_new(a, "reader", BLOCK_PERM_CONSISTENT_READ,
                                       BLOCK_PERM_CONSISTENT_READ, &error));
    block_backend_co_free(writer);
    graph_rig_co_del(rig, "a");
    graph_rig_co_del(rig, "b");
}

/* Another process, which does not share the permission to write, and is about to go. */
typedef struct Leaver {
    int fd;
    bool gone;
} Leaver;

static void set_foreign_lock(int fd, short type, off_t byte)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    g_assert_cmpint(fcntl(fd, F_OFD_SETLK, &lock), ==, 0);
}

static void co_fn leave_entry(void *opaque)
{
    Leaver *l = opaque;

    aio_co_sleep_ns(1000 * 1000); /* meanwhile the test asks, and must not believe what it hears */
    set_foreign_lock(l->fd, F_UNLCK, 201);
    l->gone = true;
}

static void co_fn begin_to_leave(GraphRig *rig, Leaver *l)
{
    set_foreign_lock(l->fd, F_RDLCK, 201);
    l->gone = false;
    aio_co_enter(rig->ctx, leave_entry, l);
    g_assert_false(l->gone);
}

/* Whoever takes an image waits for others who are about to go. */
static void co_fn test_waits_for_locks(GraphRig *rig)
{
    BlockNode *node = co_add(rig, "f0", "");
    Leaver l = {.fd = open(place_of(rig)->path, O_RDWR | O_CLOEXEC)};
    g_autoptr(GError) error = NULL;
    BlockBackend *blk;

    begin_to_leave(rig, &l);
    blk = block_backend_co_new(node, "new", READ_WRITE, BLOCK_PERM_ALL, &error);
    g_assert_no_error(error);
    g_assert_true(block_backend_co_set_perm(blk, BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL, NULL));
    begin_to_leave(rig, &l);
    block_backend_co_set_perm(blk, READ_WRITE, BLOCK_PERM_ALL, &error);
    g_assert_no_error(error);
    g_assert_null(co_reopen(rig, "'locking': 'off'"));
    begin_to_leave(rig, &l);
    g_assert_null(co_reopen(rig, "'locking': 'on', 'cache': {'direct': true}"));
    g_assert_true(l.gone);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
    close(l.fd);
}

/* But a request that makes a file longer does not: all other changes would have to wait for it. */
static void co_fn test_growing_does_not_wait(GraphRig *rig)
{
    BlockBackend *blk = graph_rig_co_use(co_add(rig, "f0", ""), READ_WRITE);
    int fd = open(place_of(rig)->path, O_RDWR | O_CLOEXEC);
    int64_t took = FILE_LOCKS_WAIT_NS;

    set_foreign_lock(fd, F_RDLCK, 203);
    /* One of these is quick, however busy the machine is. */
    for (unsigned i = 0; took >= FILE_LOCKS_WAIT_NS && i < 20; i++) {
        int64_t begun = aio_now_ns();
        g_autoptr(GError) error = NULL;

        g_assert_cmpint(blk_co_truncate(blk, 2 * MIB, PREALLOC_MODE_OFF, 0, &error), <, 0);
        g_assert_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE);
        took = aio_now_ns() - begun;
    }
    g_assert_cmpint(took, <, FILE_LOCKS_WAIT_NS);
    close(fd);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

/* A reopen for writing takes locks beside those that its new descriptor holds: its own. */
static void co_fn test_reopen_takes_locks(GraphRig *rig)
{
    static const char *const filter = "{'driver': 'blkdebug', 'node-name': 'd', 'image': 'f0', %s"
                                      " 'take-child-perms': ['%s'],"
                                      " 'unshare-child-perms': ['write']}";
    g_autoptr(GPtrArray) list =
        g_ptr_array_new_with_free_func((GDestroyNotify)blockdev_options_free);
    g_autofree char *reading = g_strdup_printf(filter, "'read-only': true,", "consistent-read");
    g_autofree char *writing = g_strdup_printf(filter, "", "write");
    BlockNode *node = co_add(rig, "f0", "'read-only': true");
    g_autoptr(GError) error = NULL;

    graph_rig_co_add(rig, graph_rig_options(reading));
    g_ptr_array_add(list, options(rig, "f0", ""));
    g_ptr_array_add(list, graph_rig_options(writing));
    block_graph_co_reopen(rig->graph, list, &error);
    g_assert_no_error(error);
    g_assert_cmpint(open_flags(node) & O_ACCMODE, ==, O_RDWR);
    graph_rig_co_del(rig, "d");
    graph_rig_co_del(rig, "f0");
}

/* Every FUA write is synced, the very first one and the first one after a flush, too. */
static void co_fn test_every_fua_write_is_synced(GraphRig *rig)
{
    BlockBackend *blk = graph_rig_co_use(co_add(rig, "f0", ""), READ_WRITE);

    if (!hooks_see(rig)) {
        g_test_message("syncs through io_uring are not counted here");
    }
    for (int round = 0; hooks_see(rig) && round < 2; round++) {
        g_atomic_int_set(&hooks.syncs, 0);
        graph_rig_co_write(blk, 0, 4096, 1, 0);
        g_assert_cmpint(g_atomic_int_get(&hooks.syncs), ==, 0);
        g_assert_cmpint(blk_co_flush(blk), ==, 0);
        g_assert_cmpint(g_atomic_int_get(&hooks.syncs), ==, 1);
        graph_rig_co_write(blk, 4096, 4096, 1, BLOCK_REQ_FUA);
        g_assert_cmpint(g_atomic_int_get(&hooks.syncs), ==, 2);
        graph_rig_co_write(blk, 8192, 4096, 1, BLOCK_REQ_FUA);
        g_assert_cmpint(g_atomic_int_get(&hooks.syncs), ==, 3);
        g_assert_cmpint(blk_co_pwrite_zeroes(blk, 8192, 4096, BLOCK_REQ_FUA), ==, 0);
        g_assert_cmpint(g_atomic_int_get(&hooks.syncs), ==, 4);
    }
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

static void co_fn test_no_flush_never_syncs(GraphRig *rig)
{
    BlockBackend *blk =
        graph_rig_co_use(co_add(rig, "f0", "'cache': {'no-flush': true}"), READ_WRITE);

    g_atomic_int_set(&hooks.syncs, 0);
    graph_rig_co_write(blk, 0, 4096, 1, BLOCK_REQ_FUA);
    g_assert_cmpint(blk_co_flush(blk), ==, 0);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
    g_assert_cmpint(g_atomic_int_get(&hooks.syncs), ==, 0);
}

/* After a failed sync the kernel takes the lost pages for clean: nothing is safe from then on. */
static void co_fn test_sync_error_is_kept(GraphRig *rig)
{
    for (int fua = 0; hooks_see(rig) && fua < 2; fua++) {
        BlockBackend *blk = graph_rig_co_use(co_add(rig, "f0", ""), READ_WRITE);
        g_autofree char *buffer = g_malloc0(4096);

        g_atomic_int_set(&hooks.sync_error, EIO);
        g_assert_cmpint(blk_co_pwritev(blk, 0, IOV_LOCAL(buffer, 4096), fua ? BLOCK_REQ_FUA : 0),
                        ==, fua ? -EIO : 0);
        if (!fua) {
            g_assert_cmpint(blk_co_flush(blk), ==, -EIO);
        }
        g_atomic_int_set(&hooks.sync_error, 0);
        graph_rig_co_write(blk, 0, 4096, 1, 0);
        g_assert_cmpint(blk_co_flush(blk), ==, -EIO);
        graph_rig_co_expect(blk, 0, 4096, 1);
        block_backend_co_free(blk);
        g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*data may be lost*");
        graph_rig_co_del(rig, "f0");
        g_test_assert_expected_messages();
    }
}

/*
 * Where each sync speaks for itself, a failed one is told to each user all the same. @fua: by a
 * write that should be stable, which is told of itself alone.
 */
static void co_fn co_fail_direct_sync(GraphRig *rig, bool fua)
{
    BlockNode *node = co_add(rig, "f0", "'cache': {'direct': true}");
    BlockBackend *blk = graph_rig_co_use(node, READ_WRITE);
    BlockBackend *other = graph_rig_co_use(node, READ_WRITE);
    g_autofree char *buffer = g_malloc0(4096);

    graph_rig_co_write(blk, 0, 4096, 1, 0);
    graph_rig_co_write(other, 4096, 4096, 1, 0);
    g_atomic_int_set(&hooks.sync_error, EIO);
    if (fua) {
        g_assert_cmpint(blk_co_pwritev(blk, 0, IOV_LOCAL(buffer, 4096), BLOCK_REQ_FUA), ==, -EIO);
    } else {
        g_assert_cmpint(blk_co_flush(blk), ==, -EIO);
    }
    g_atomic_int_set(&hooks.sync_error, 0);
    g_assert_cmpint(blk_co_flush(blk), ==, fua ? -EIO : 0);
    g_assert_cmpint(blk_co_flush(other), ==, -EIO);
    g_assert_cmpint(blk_co_flush(other), ==, 0);
    block_backend_co_free(other);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

static void co_fn test_sync_error_with_direct_for_each(GraphRig *rig)
{
    for (int fua = 0; hooks_see(rig) && fua < 2; fua++) {
        co_fail_direct_sync(rig, fua);
    }
}

typedef struct Syncing {
    BlockBackend *blk;
    BlockRequestFlags flags; /* FUA: a write at 4096, else a flush */
    int result;              /* atomic; 1: not there yet */
} Syncing;

static void co_fn co_sync(void *opaque)
{
    Syncing *syncing = opaque;
    g_autofree char *buffer = g_malloc0(4096);
    int r = syncing->flags & BLOCK_REQ_FUA
                ? blk_co_pwritev(syncing->blk, 4096, IOV_LOCAL(buffer, 4096), syncing->flags)
                : blk_co_flush(syncing->blk);

    g_atomic_int_set(&syncing->result, r);
}

/*
 * The kernel tells one of several syncs that run at the same time what it could not write, perhaps
 * what another was to make durable. @flags: of that one. The first, which is held up, holds up its
 * thread where a file in memory is written at once.
 */
static void co_fn co_sync_beside_one_that_fails(GraphRig *rig, BlockRequestFlags flags)
{
    BlockBackend *blk = graph_rig_co_use(co_add(rig, "f0", ""), READ_WRITE);
    Syncing fails = {blk, BLOCK_REQ_FUA, 1}, other = {blk, flags, 1};

    graph_rig_co_write(blk, 0, 4096, 1, 0);
    g_atomic_int_set(&hooks.held, 1);
    aio_co_enter(fixture_thread(rig->fixture, 0), co_sync, &fails);
    while (g_atomic_int_get(&hooks.held) != 2) {
        aio_co_sleep_ns(1000000);
    }
    g_atomic_int_set(&hooks.syncs, 0);
    aio_co_enter(rig->ctx, co_sync, &other);
    while (g_atomic_int_get(&hooks.syncs) == 0) {
        aio_co_sleep_ns(1000000);
    }
    aio_co_sleep_ns(1000000);
    g_assert_cmpint(g_atomic_int_get(&other.result), ==, 1);
    g_atomic_int_set(&hooks.held, 0);
    while (g_atomic_int_get(&fails.result) == 1 || g_atomic_int_get(&other.result) == 1) {
        aio_co_sleep_ns(1000000);
    }
    g_assert_cmpint(fails.result, ==, -EIO);
    g_assert_cmpint(other.result, ==, -EIO);
    block_backend_co_free(blk);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*data may be lost*");
    graph_rig_co_del(rig, "f0");
    g_test_assert_expected_messages();
}

static void co_fn test_sync_beside_one_that_fails(GraphRig *rig)
{
    if (hooks_see(rig)) {
        fixture_start_threads(rig->fixture);
        co_sync_beside_one_that_fails(rig, 0);
        co_sync_beside_one_that_fails(rig, BLOCK_REQ_FUA);
    }
}

/* Neither is the tail of a file that direct I/O cannot write whole. */
static void co_fn test_sync_error_of_direct_tail(GraphRig *rig)
{
    BlockBackend *blk;

    if (!hooks_see(rig)) {
        return;
    }
    make_image(place_of(rig), MIB + 100);
    blk = graph_rig_co_use(co_add(rig, "f0", "'cache': {'direct': true}"), READ_WRITE);
    graph_rig_co_write(blk, 0, 4096, 1, 0);
    g_atomic_int_set(&hooks.sync_error, EIO);
    g_assert_cmpint(blk_co_flush(blk), ==, -EIO);
    g_atomic_int_set(&hooks.sync_error, 0);
    g_assert_cmpint(blk_co_flush(blk), ==, 0);

    graph_rig_co_write(blk, MIB, 100, 1, 0);
    g_atomic_int_set(&hooks.sync_error, EIO);
    g_assert_cmpint(blk_co_flush(blk), ==, -EIO);
    g_atomic_int_set(&hooks.sync_error, 0);
    g_assert_cmpint(blk_co_flush(blk), ==, -EIO);
    block_backend_co_free(blk);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*data may be lost*");
    graph_rig_co_del(rig, "f0");
    g_test_assert_expected_messages();
}

#define TOGGLES 20

/* Reads and writes in a thread of its own, in a part of the image that is its own. */
typedef struct Worker {
    BlockBackend *blk;
    uint64_t offset;
    int stop; /* atomic */
    int done; /* atomic */
} Worker;

static void co_fn work(void *opaque)
{
    Worker *w = opaque;

    for (unsigned seed = 0; !g_atomic_int_get(&w->stop); seed++) {
        graph_rig_co_write(w->blk, w->offset, 64 * KIB, seed, 0);
        graph_rig_co_expect(w->blk, w->offset, 64 * KIB, seed);
    }
    g_atomic_int_set(&w->done, 1);
}

/* The descriptor is exchanged, drained and not, while several threads use it: nobody notices. */
static void co_fn test_exchange_under_load(GraphRig *rig)
{
    BlockNode *node = co_add(rig, "f0", "'auto-read-only': true");
    BlockBackend *blk = graph_rig_co_use(node, READ_WRITE);
    Worker workers[FIXTURE_THREADS];

    fixture_start_threads(rig->fixture);
    for (unsigned i = 0; i < FIXTURE_THREADS; i++) {
        workers[i] = (Worker){.blk = blk, .offset = i * 64 * KIB};
        aio_co_enter(fixture_thread(rig->fixture, i), work, &workers[i]);
    }
    for (unsigned i = 0; i < TOGGLES; i++) {
        g_assert_true(
            block_backend_co_set_perm(blk, READ_WRITE | BLOCK_PERM_RESIZE, BLOCK_PERM_ALL, NULL));
        g_assert_true(block_backend_co_set_perm(blk, READ_WRITE, BLOCK_PERM_CONSISTENT_READ, NULL));
        g_assert_null(graph_rig_co_reopen(
            rig,
            options(rig, "f0", i % 2 ? "'auto-read-only': true" : "'cache': {'direct': true}")));
    }
    for (unsigned i = 0; i < FIXTURE_THREADS; i++) {
        g_atomic_int_set(&workers[i].stop, 1);
        while (!g_atomic_int_get(&workers[i].done)) {
            aio_co_sleep_ns(100 * 1000);
        }
    }
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

/* With readers at work, the first writer comes and goes. */
static void co_fn read_on(void *opaque)
{
    Worker *w = opaque;

    while (!g_atomic_int_get(&w->stop)) {
        graph_rig_co_expect_zeros(w->blk, w->offset, 64 * KIB);
    }
    g_atomic_int_set(&w->done, 1);
}

static void co_fn test_writers_come_and_go(GraphRig *rig)
{
    BlockNode *node = co_add(rig, "f0", "'auto-read-only': true");
    BlockBackend *reader = graph_rig_co_use(node, BLOCK_PERM_CONSISTENT_READ);
    Worker w = {.blk = reader};

    fixture_start_threads(rig->fixture);
    aio_co_enter(fixture_thread(rig->fixture, 0), read_on, &w);
    for (unsigned i = 0; i < TOGGLES; i++) {
        BlockBackend *writer = graph_rig_co_use(node, READ_WRITE);

        graph_rig_co_write(writer, 512 * KIB, 4096, i, 0);
        block_backend_co_free(writer);
        g_assert_cmpint(open_flags(node) & O_ACCMODE, ==, O_RDONLY);
    }
    g_atomic_int_set(&w.stop, 1);
    while (!g_atomic_int_get(&w.done)) {
        aio_co_sleep_ns(100 * 1000);
    }
    block_backend_co_free(reader);
    graph_rig_co_del(rig, "f0");
}

typedef struct TestCase {
    const char *name;
    void co_fn (*body)(GraphRig *rig);
} TestCase;

static const TestCase cases[] = {
    {"read-write", test_read_write},
    {"odd-length", test_odd_length},
    {"direct", test_direct},
    {"direct-sectors-at-the-end", test_direct_sectors_at_the_end},
    {"native-needs-direct", test_native_needs_direct},
    {"wrong-files", test_wrong_files},
    {"block-status", test_block_status},
    {"allocate", test_allocate},
    {"allocate-odd-length", test_allocate_odd_length},
    {"discard", test_discard},
    {"write-zeroes", test_write_zeroes},
    {"truncate", test_truncate},
    {"truncate-fails", test_truncate_fails},
    {"cut-behind-our-back", test_cut_behind_our_back},
    {"auto-read-only", test_auto_read_only},
    {"read-only", test_read_only},
    {"reopen", test_reopen},
    {"reopen-fails", test_reopen_fails},
    {"reopen-takes-locks", test_reopen_takes_locks},
    {"locks-between-nodes", test_locks_between_nodes},
    {"waits-for-locks", test_waits_for_locks},
    {"growing-does-not-wait", test_growing_does_not_wait},
    {"every-fua-write-is-synced", test_every_fua_write_is_synced},
    {"no-flush-never-syncs", test_no_flush_never_syncs},
    {"sync-error-is-kept", test_sync_error_is_kept},
    {"sync-beside-one-that-fails", test_sync_beside_one_that_fails},
    {"sync-error-of-direct-tail", test_sync_error_of_direct_tail},
    {"sync-error-with-direct-for-each", test_sync_error_with_direct_for_each},
    {"exchange-under-load", test_exchange_under_load},
    {"writers-come-and-go", test_writers_come_and_go},
};

/* A case with where and how it runs. */
typedef struct Run {
    const TestCase *test;
    Place place;
} Run;

static void run_case(gconstpointer opaque)
{
    const Run *run = opaque;
    Place place = run->place;
    g_autofree char *directory = g_strconcat(place.directory, "/wharf-file-XXXXXX", NULL);
    g_autofree char *path = NULL;

    g_assert_nonnull(g_mkdtemp(directory));
    place.path = path = g_build_filename(directory, "image", NULL);
    make_image(&place, MIB);
    graph_rig_run(run->test->body, &place);
    g_unlink(path);
    g_rmdir(directory);
}

static void add_cases(const char *directory, const char *label, bool threads)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Run *run = g_new0(Run, 1);
        g_autofree char *name = g_strdup_printf("/file/driver/%s/%s/%s", label,
                                                threads ? "threads" : "default", cases[i].name);

        run->test = &cases[i];
        run->place = (Place){.directory = directory, .threads = threads};
        g_test_add_data_func_full(name, run, run_case, g_free);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (int threads = 0; threads < 2; threads++) {
        add_cases(g_get_tmp_dir(), "tmp", threads);
        if (g_access("/dev/shm", W_OK) == 0) {
            add_cases("/dev/shm", "memory", threads);
        }
    }
    return g_test_run();
}
