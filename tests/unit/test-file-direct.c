/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Direct access to the file below a node: who gets it, and what it keeps others from. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "block/driver.h"
#include "block/drivers/file/locks.h"
#include "tests/unit/graph-rig.h"
#include "util/error.h"

#define KIB 1024u
#define MIB (1024u * 1024u)

#define R   BLOCK_PERM_CONSISTENT_READ
#define W   BLOCK_PERM_WRITE
#define U   BLOCK_PERM_WRITE_UNCHANGED
#define Z   BLOCK_PERM_RESIZE
#define ALL BLOCK_PERM_ALL

static int syncs;

/* In place of libc's: what the node with aio=threads does. */
int fdatasync(int fd)
{
    g_atomic_int_inc(&syncs);
    return (int)syscall(SYS_fdatasync, fd);
}

static const char *image(const GraphRig *rig)
{
    return rig->user;
}

/* Options of a file node with the image, and further ones ("'key': value, ...", or ""). */
static BlockNode *co_fn co_add_file(GraphRig *rig, const char *name, const char *more)
{
    g_autofree char *json =
        g_strdup_printf("{'driver': 'file', 'node-name': '%s', 'filename': '%s', "
                        "'aio': 'threads'%s%s}",
                        name, image(rig), *more ? ", " : "", more);

    return graph_rig_co_add(rig, graph_rig_options(json));
}

static BlockNode *co_fn co_add(GraphRig *rig, const char *json)
{
    return graph_rig_co_add(rig, graph_rig_options(json));
}

static int co_fn co_hold(BlockBackend *blk)
{
    BlockDirectFile file;
    GError *error = NULL;

    g_assert_true(block_backend_co_hold_direct(blk, &file, &error));
    g_assert_no_error(error);
    g_assert_cmpint(fcntl(file.fd, F_GETFD), ==, FD_CLOEXEC);
    return file.fd;
}

static void co_fn co_release(BlockBackend *blk, int fd)
{
    close(fd);
    block_backend_co_release_direct(blk);
}

/* It must be refused for a reason that holds @word, and leave nothing. */
static void co_fn co_hold_fails(BlockNode *node, BlockPerm perm, const char *word)
{
    BlockBackend *blk = graph_rig_co_use(node, perm);
    BlockDirectFile file;
    g_autoptr(GError) error = NULL;

    g_assert_false(block_backend_co_hold_direct(blk, &file, &error));
    assert_error(&error, word);
    block_backend_co_free(blk);
    /* Nobody is kept away. */
    block_backend_co_free(graph_rig_co_use(node, R));
}

static char *co_fn co_reopen_file(GraphRig *rig, const char *name, const char *more)
{
    g_autofree char *json =
        g_strdup_printf("{'driver': 'file', 'node-name': '%s', 'filename': '%s', "
                        "'aio': 'threads'%s%s}",
                        name, image(rig), *more ? ", " : "", more);

    return graph_rig_co_reopen(rig, graph_rig_options(json));
}

static BlockBackend *co_fn co_try_use(BlockNode *node, BlockPerm perm, GError **error)
{
    return block_backend_co_new(node, "the other one", perm, ALL, error);
}

/* The descriptor has the access that is needed and leads to the bytes of the node. */
static void co_fn test_file(GraphRig *rig)
{
    BlockNode *node = co_add_file(rig, "f0", "");
    BlockNode *raw = co_add(rig, "{'driver': 'raw', 'node-name': 'r0', 'file': 'f0'}");
    BlockNode *nodes[] = {node, raw};
    uint8_t bytes[100], same[100];

    graph_rig_fill(bytes, sizeof(bytes), 3);
    for (unsigned i = 0; i < G_N_ELEMENTS(nodes); i++) {
        BlockBackend *reader = graph_rig_co_use(nodes[i], R);
        BlockBackend *writer;
        int fd = co_hold(reader);

        g_assert_cmpint(fcntl(fd, F_GETFL) & O_ACCMODE, ==, O_RDONLY);
        co_release(reader, fd);
        block_backend_co_free(reader);

        writer = graph_rig_co_use(nodes[i], R | W);
        fd = co_hold(writer);
        g_assert_cmpint(fcntl(fd, F_GETFL) & (O_ACCMODE | O_DIRECT), ==, O_RDWR);
        graph_rig_co_write(writer, 5000, sizeof(bytes), 3, 0);
        g_assert_cmpint(pread(fd, same, sizeof(same), 5000), ==, sizeof(same));
        g_assert_cmpint(pwrite(fd, same, sizeof(same), 9000), ==, sizeof(same));
        graph_rig_co_expect_zeros(writer, 0, 5000);
        graph_rig_co_expect(writer, 5000, sizeof(bytes), 3);
        co_release(writer, fd);
        block_backend_co_free(writer);
        g_assert_cmpint(truncate(image(rig), 0), ==, 0);
        g_assert_cmpint(truncate(image(rig), MIB), ==, 0);
    }
    graph_rig_co_del(rig, "r0");
    graph_rig_co_del(rig, "f0");
}

static void co_fn test_refused(GraphRig *rig)
{
    static const struct {
        const char *json; /* a node 'x' above the file node 'f0' */
        BlockPerm perm;
        const char *word;
    } cases[] = {
        {"{'driver': 'raw', 'node-name': 'x', 'file': 'f0', 'offset': 512}", R, "'offset'"},
        {"{'driver': 'raw', 'node-name': 'x', 'file': 'f0', 'size': 512}", R, "'size'"},
        {"{'driver': 'raw', 'node-name': 'x', 'file': 'f0', 'size': 0}", R | W, "'size'"},
        {"{'driver': 'blkdebug', 'node-name': 'x', 'image': 'f0'}", R, "'blkdebug'"},
        {"{'driver': 'raw', 'node-name': 'x', 'file': {'driver': 'blkdebug', 'image': 'f0'}}", R,
         "'blkdebug'"},
        {"{'driver': 'raw', 'node-name': 'x', 'file': 'f0', 'detect-zeroes': 'on'}", R | W,
         "detect-zeroes"},
        {"{'driver': 'raw', 'node-name': 'x', 'file': 'f0', 'cache': {'direct': true}}", R,
         "cache.direct"},
        {"{'driver': 'memory', 'node-name': 'x', 'size': 65536}", R, "'memory'"},
        {"{'driver': 'null-co', 'node-name': 'x', 'size': 65536}", R | W, "'null-co'"},
    };

    co_add_file(rig, "f0", "");
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        co_hold_fails(co_add(rig, cases[i].json), cases[i].perm, cases[i].word);
        graph_rig_co_del(rig, "x");
    }
    graph_rig_co_del(rig, "f0");
}

/* Zeros to detect are of interest to writers only. */
static void co_fn test_reader_needs_no_zeroes(GraphRig *rig)
{
    BlockBackend *blk = graph_rig_co_use(co_add_file(rig, "f0", "'detect-zeroes': 'on'"), R);

    co_release(blk, co_hold(blk));
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
}

/* Nobody else comes in beside a writer, by whatever way; and those that do nothing may stay. */
static void co_fn test_writer_is_alone(GraphRig *rig)
{
    BlockNode *file = co_add_file(rig, "f0", "");
    BlockNode *raw = co_add(rig, "{'driver': 'raw', 'node-name': 'r0', 'file': 'f0'}");
    BlockNode *idle = co_add(rig, "{'driver': 'raw', 'node-name': 'idle', 'file': 'f0'}");
    BlockNode *nodes[] = {file, raw, idle};
    BlockBackend *blk = graph_rig_co_use(raw, R | W);
    g_autoptr(GError) error = NULL;
    int fd = co_hold(blk);

    for (unsigned i = 0; i < G_N_ELEMENTS(nodes); i++) {
        g_assert_null(co_try_use(nodes[i], R, &error));
        g_assert_cmpint(error->code, ==, WHARF_ERROR_IN_USE);
        g_assert_nonnull(strstr(error->message, block_backend_user(blk)));
        assert_error(&error, "passthrough");
    }
    co_add(rig, "{'driver': 'raw', 'node-name': 'late', 'file': 'f0'}");
    graph_rig_co_del(rig, "late");
    /* Its own requests go on, its own resizes, too. */
    graph_rig_co_write(blk, 0, 4096, 1, 0);
    g_assert_cmpint(blk_co_truncate(blk, 2 * MIB, PREALLOC_MODE_OFF, BLOCK_REQ_ZERO, NULL), ==, 0);
    g_assert_cmpint(blk_co_truncate(blk, MIB, PREALLOC_MODE_OFF, BLOCK_REQ_ZERO, NULL), ==, 0);
    co_release(blk, fd);
    for (unsigned i = 0; i < G_N_ELEMENTS(nodes); i++) {
        BlockBackend *other = co_try_use(nodes[i], R | W, &error);

        g_assert_no_error(error);
        block_backend_co_free(other);
    }
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "idle");
    graph_rig_co_del(rig, "r0");
    graph_rig_co_del(rig, "f0");
}

static void co_fn test_writer_finds_others(GraphRig *rig)
{
    BlockNode *file = co_add_file(rig, "f0", "");
    BlockNode *raw = co_add(rig, "{'driver': 'raw', 'node-name': 'r0', 'file': 'f0'}");
    BlockBackend *other = graph_rig_co_use(file, R);

    co_hold_fails(raw, R | W, "block node 'f0' cannot be used by");
    co_hold_fails(file, R | W, "block node 'f0' cannot be used by");
    block_backend_co_free(other);
    /* The same backend, once the other has gone. */
    other = graph_rig_co_use(raw, R | W);
    co_release(other, co_hold(other));
    co_release(other, co_hold(other));
    block_backend_co_free(other);
    graph_rig_co_del(rig, "r0");
    graph_rig_co_del(rig, "f0");
}

/* Readers see what others write, so others may. */
static void co_fn test_readers_and_others(GraphRig *rig)
{
    BlockNode *node = co_add_file(rig, "f0", "");
    BlockBackend *a = graph_rig_co_use(node, R), *b = graph_rig_co_use(node, R);
    int fd_a = co_hold(a), fd_b = co_hold(b);
    BlockBackend *writer = graph_rig_co_use(node, R | W);
    uint8_t bytes[4096], want[4096];
    BlockDirectFile file;
    g_autoptr(GError) error = NULL;

    graph_rig_co_write(writer, 8192, sizeof(bytes), 5, 0);
    graph_rig_fill(want, sizeof(want), 5);
    g_assert_cmpint(pread(fd_a, bytes, sizeof(bytes), 8192), ==, sizeof(bytes));
    graph_rig_co_expect(writer, 8192, sizeof(bytes), 5);
    g_assert_false(block_backend_co_hold_direct(writer, &file, &error));
    assert_error(&error, "passthrough");
    co_release(b, fd_b);
    co_release(a, fd_a);
    block_backend_co_free(a);
    block_backend_co_free(b);
    co_release(writer, co_hold(writer));
    block_backend_co_free(writer);
    graph_rig_co_del(rig, "f0");
}

/* No node of the chain is reopened, whatever would change; others are. */
static void co_fn test_reopen(GraphRig *rig)
{
    static const BlockPerm perms[] = {R, R | W};
    BlockNode *raw;

    co_add_file(rig, "f0", "");
    raw = co_add(rig, "{'driver': 'raw', 'node-name': 'r0', 'file': 'f0'}");
    co_add(rig, "{'driver': 'raw', 'node-name': 'idle', 'file': 'f0'}");
    for (unsigned i = 0; i < G_N_ELEMENTS(perms); i++) {
        BlockBackend *blk = graph_rig_co_use(raw, perms[i]);
        int fd = co_hold(blk);
        char *message;

        message = graph_rig_co_reopen(
            rig,
            graph_rig_options("{'driver': 'raw', 'node-name': 'r0', 'file': 'f0', 'offset': 512}"));
        g_assert_nonnull(message);
        g_assert_nonnull(strstr(message, "passthrough"));
        g_free(message);
        message = co_reopen_file(rig, "f0", "'cache': {'direct': true}");
        g_assert_nonnull(message);
        g_free(message);
        message = graph_rig_co_reopen(
            rig, graph_rig_options(
                     "{'driver': 'raw', 'node-name': 'idle', 'file': 'f0', 'offset': 512}"));
        g_assert_cmpstr(message, ==, NULL);
        co_release(blk, fd);
        block_backend_co_free(blk);

        message = graph_rig_co_reopen(
            rig, graph_rig_options("{'driver': 'raw', 'node-name': 'r0', 'file': 'f0'}"));
        g_assert_cmpstr(message, ==, NULL);
        message = co_reopen_file(rig, "f0", "'detect-zeroes': 'off'");
        g_assert_cmpstr(message, ==, NULL);
    }
    graph_rig_co_del(rig, "idle");
    graph_rig_co_del(rig, "r0");
    graph_rig_co_del(rig, "f0");
}

/* Another node is not put between, by an exchange of its own child. */
static void co_fn test_exchange(GraphRig *rig)
{
    BlockBackend *blk, *above;
    char *message;
    int fd;

    co_add_file(rig, "f0", "");
    co_add(rig, "{'driver': 'memory', 'node-name': 'm', 'size': 1048576}");
    above = graph_rig_co_use(co_add(rig, "{'driver': 'raw', 'node-name': 'r', 'file': 'm'}"), R);
    blk = graph_rig_co_use(block_graph_find(rig->graph, "f0", NULL), R | W);
    fd = co_hold(blk);
    message = graph_rig_co_reopen(
        rig, graph_rig_options("{'driver': 'raw', 'node-name': 'r', 'file': 'f0'}"));
    g_assert_nonnull(message);
    g_assert_nonnull(strstr(message, "passthrough"));
    g_free(message);
    co_release(blk, fd);
    message = graph_rig_co_reopen(
        rig, graph_rig_options("{'driver': 'raw', 'node-name': 'r', 'file': 'f0'}"));
    g_assert_cmpstr(message, ==, NULL);
    block_backend_co_free(blk);
    block_backend_co_free(above);
    graph_rig_co_del(rig, "r");
    graph_rig_co_del(rig, "m");
    graph_rig_co_del(rig, "f0");
}

/* What has gone past the node is found, and flushed. */
static void co_fn test_length_and_flush(GraphRig *rig)
{
    BlockNode *raw;
    BlockBackend *blk;
    int before, fd;

    co_add_file(rig, "f0", "");
    raw = co_add(rig, "{'driver': 'raw', 'node-name': 'r0', 'file': 'f0'}");
    blk = graph_rig_co_use(raw, R | W);
    fd = co_hold(blk);
    g_assert_cmpint(pwrite(fd, "end", 3, MIB + 1000), ==, 3);
    g_assert_cmpint(blk_co_refresh_length(blk), ==, 0);
    g_assert_cmpint(blk_length(blk), ==, MIB + 1003);
    g_assert_cmpint(block_node_length(block_graph_find(rig->graph, "f0", NULL)), ==, MIB + 1003);

    before = g_atomic_int_get(&syncs);
    g_assert_cmpint(blk_co_flush(blk), ==, 0);
    g_assert_cmpint(blk_co_flush(blk), ==, 0);
    g_assert_cmpint(g_atomic_int_get(&syncs), ==, before + 2);
    co_release(blk, fd);
    g_assert_cmpint(blk_co_flush(blk), ==, 0);
    g_assert_cmpint(g_atomic_int_get(&syncs), ==, before + 3);
    g_assert_cmpint(blk_co_flush(blk), ==, 0);
    g_assert_cmpint(g_atomic_int_get(&syncs), ==, before + 3);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "r0");
    graph_rig_co_del(rig, "f0");
}

/* Whether another process could have the image with these permissions. */
static bool others_may(const GraphRig *rig, BlockPerm perm, BlockPerm shared)
{
    int fd = open(image(rig), O_RDWR | O_CLOEXEC);
    FileLockSet held = {0};
    bool ok = file_locks_acquire(fd, &held, file_lock_set(perm, shared), image(rig), NULL);

    close(fd);
    return ok;
}

/* The image is locked as long as somebody has the description, whatever the daemon does. */
static void co_fn test_locks(GraphRig *rig)
{
    BlockBackend *blk = graph_rig_co_use(co_add_file(rig, "f0", ""), R | W);
    int fd, kept;

    g_assert_true(others_may(rig, R | W, ALL));
    fd = co_hold(blk);
    g_assert_true(others_may(rig, R, ALL));
    g_assert_false(others_may(rig, R | W, ALL));
    g_assert_false(others_may(rig, R, R));
    kept = dup(fd); /* as the kernel keeps it for open files */
    co_release(blk, fd);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "f0");
    g_assert_false(others_may(rig, R | W, ALL));
    g_assert_false(others_may(rig, R, R));
    close(kept);
    g_assert_true(others_may(rig, R | W, R));
}

typedef struct TestCase {
    const char *name;
    void co_fn (*body)(GraphRig *rig);
} TestCase;

static const TestCase cases[] = {
    {"file", test_file},
    {"refused", test_refused},
    {"reader-needs-no-zeroes", test_reader_needs_no_zeroes},
    {"writer-is-alone", test_writer_is_alone},
    {"writer-finds-others", test_writer_finds_others},
    {"readers-and-others", test_readers_and_others},
    {"reopen", test_reopen},
    {"exchange", test_exchange},
    {"length-and-flush", test_length_and_flush},
    {"locks", test_locks},
};

static void run_case(gconstpointer opaque)
{
    const TestCase *test = opaque;
    g_autofree char *path = g_build_filename(g_get_tmp_dir(), "wharf-direct-XXXXXX", NULL);
    int fd = g_mkstemp(path);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, MIB), ==, 0);
    close(fd);
    graph_rig_run(test->body, path);
    g_unlink(path);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *name = g_strconcat("/file/direct/", cases[i].name, NULL);

        g_test_add_data_func(name, &cases[i], run_case);
    }
    return g_test_run();
}
