/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkdebug over a memory node: each rule strikes what it says, and nothing else. */
#include <errno.h>
#include <string.h>

#include "tests/unit/graph-rig.h"

#define SIZE (64 * 1024)

/* Add "m", a memory node, and "d" over it with further options ("'key': value, ...", or ""). */
static BlockBackend *co_fn co_set_up(GraphRig *rig, const char *more)
{
    g_autofree char *json =
        g_strdup_printf("{'driver': 'blkdebug', 'node-name': 'd', 'image': 'm', "
                        "'discard': 'unmap'%s%s}",
                        *more ? ", " : "", more);

    graph_rig_co_add(rig, graph_rig_options("{'driver': 'memory', 'node-name': 'm', 'size': 65536, "
                                            "'discard': 'unmap'}"));
    return graph_rig_co_use(graph_rig_co_add(rig, graph_rig_options(json)),
                            BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE);
}

static void co_fn co_tear_down(GraphRig *rig, BlockBackend *blk)
{
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "d");
    graph_rig_co_del(rig, "m");
}

/* One request of each type, in the order of the schema's enumeration. */

static int co_fn co_read(BlockBackend *blk)
{
    char buffer[512];

    return blk_co_preadv(blk, 4096, IOV_LOCAL(buffer, sizeof(buffer)), 0);
}

static int co_fn co_write(BlockBackend *blk)
{
    char buffer[512] = "x";

    return blk_co_pwritev(blk, 4096, IOV_LOCAL(buffer, sizeof(buffer)), 0);
}

static int co_fn co_write_zeroes(BlockBackend *blk)
{
    return blk_co_pwrite_zeroes(blk, 4096, 512, 0);
}

static int co_fn co_discard(BlockBackend *blk)
{
    return blk_co_pdiscard(blk, 4096, 512);
}

static int co_fn co_flush(BlockBackend *blk)
{
    return blk_co_flush(blk);
}

static int co_fn co_block_status(BlockBackend *blk)
{
    BlockStatus status;
    uint64_t n;

    return blk_co_block_status(blk, 4096, 512, &n, &status);
}

static int co_fn co_allocate(BlockBackend *blk)
{
    return blk_co_allocate(blk, 4096, 512);
}

static int co_fn (*const co_requests[])(BlockBackend *blk) = {
    [BLKDEBUG_IO_TYPE_READ] = co_read,
    [BLKDEBUG_IO_TYPE_WRITE] = co_write,
    [BLKDEBUG_IO_TYPE_WRITE_ZEROES] = co_write_zeroes,
    [BLKDEBUG_IO_TYPE_DISCARD] = co_discard,
    [BLKDEBUG_IO_TYPE_FLUSH] = co_flush,
    [BLKDEBUG_IO_TYPE_BLOCK_STATUS] = co_block_status,
    [BLKDEBUG_IO_TYPE_ALLOCATE] = co_allocate,
};

/*
 * Each request gives 0, but those in the set @failing give -@error. (Rules for flushes here strike
 * once: a node that cannot be flushed can neither be reopened nor closed without a word.)
 */
static void co_fn co_expect_failing(BlockBackend *blk, unsigned failing, int error)
{
    for (unsigned type = 0; type < G_N_ELEMENTS(co_requests); type++) {
        g_assert_cmpint(co_requests[type](blk), ==, failing & (1u << type) ? -error : 0);
    }
}

static void co_fn test_nothing(GraphRig *rig)
{
    BlockBackend *blk = co_set_up(rig, "");

    co_expect_failing(blk, 0, 0);
    graph_rig_co_write(blk, 0, SIZE, 1, 0);
    graph_rig_co_expect(blk, 0, SIZE, 1);
    co_tear_down(rig, blk);
}

static void co_fn test_every_errno(GraphRig *rig)
{
    BlockBackend *blk = co_set_up(rig, "");

    for (unsigned type = 0; type < G_N_ELEMENTS(co_requests); type++) {
        for (int error = 1; error < 134; error++) {
            g_autofree char *json = g_strdup_printf(
                "{'driver': 'blkdebug', 'node-name': 'd', 'image': 'm', 'discard': 'unmap', "
                "'inject-error': [{'event': 'none', 'iotype': '%s', 'errno': %d, 'once': true}]}",
                blkdebug_io_type_to_string(type), error);

            /* -ENOTSUP of these means that the core finds another way, or does without. */
            if (error == ENOTSUP &&
                (type == BLKDEBUG_IO_TYPE_DISCARD || type == BLKDEBUG_IO_TYPE_WRITE_ZEROES ||
                 type == BLKDEBUG_IO_TYPE_ALLOCATE)) {
                continue;
            }
            g_assert_null(graph_rig_co_reopen(rig, graph_rig_options(json)));
            co_expect_failing(blk, 1u << type, error);
        }
    }
    co_tear_down(rig, blk);
}

/* Which events each type of request brings about. */
static void co_fn test_events(GraphRig *rig)
{
    const unsigned read = 1u << BLKDEBUG_IO_TYPE_READ, write = 1u << BLKDEBUG_IO_TYPE_WRITE,
                   zeroes = 1u << BLKDEBUG_IO_TYPE_WRITE_ZEROES,
                   discard = 1u << BLKDEBUG_IO_TYPE_DISCARD, flush = 1u << BLKDEBUG_IO_TYPE_FLUSH,
                   allocate = 1u << BLKDEBUG_IO_TYPE_ALLOCATE;
    const struct {
        const char *event;
        unsigned types;
    } events[] = {
        {"read_aio", read},
        {"write_aio", write},
        {"pwritev", write},
        {"pwritev_zero", zeroes},
        {"pwritev_done", write | zeroes},
        {"flush_to_os", flush},
        {"flush_to_disk", flush},
        {"none", read | write | zeroes | discard | flush | allocate},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(events); i++) {
        g_autoptr(GString) rules = g_string_new("'inject-error': [");
        BlockBackend *blk;

        for (unsigned left = events[i].types; left; left &= left - 1) { /* as many as types */
            g_string_append_printf(rules, "{'event': '%s', 'once': true}%s", events[i].event,
                                   left & (left - 1) ? ", " : "]");
        }
        blk = co_set_up(rig, rules->str);
        co_expect_failing(blk, events[i].types, EIO);
        co_expect_failing(blk, 0, 0);
        co_tear_down(rig, blk);
    }
}

/* A write that fails at its end has been done, one that fails at its beginning has not. */
static void co_fn test_before_and_after(GraphRig *rig)
{
    BlockBackend *blk = co_set_up(rig, "'inject-error': [{'event': 'pwritev', 'sector': 0},"
                                       "                 {'event': 'pwritev_done', 'sector': 8}]");
    char buffer[512];

    memset(buffer, 0x55, sizeof(buffer));
    g_assert_cmpint(blk_co_pwritev(blk, 0, IOV_LOCAL(buffer, 512), 0), ==, -EIO);
    g_assert_cmpint(blk_co_pwritev(blk, 4096, IOV_LOCAL(buffer, 512), 0), ==, -EIO);
    graph_rig_co_expect_zeros(blk, 0, 512);
    memset(buffer, 0, sizeof(buffer));
    g_assert_cmpint(blk_co_preadv(blk, 4096, IOV_LOCAL(buffer, 512), 0), ==, 0);
    g_assert_cmpint(buffer[0], ==, 0x55);
    co_tear_down(rig, blk);
}

static void co_fn test_once(GraphRig *rig)
{
    BlockBackend *blk =
        co_set_up(rig, "'inject-error': [{'event': 'read_aio', 'errno': 28, 'once': true},"
                       "                 {'event': 'read_aio', 'errno': 122, 'once': true}]");

    g_assert_cmpint(co_read(blk), ==, -ENOSPC);
    g_assert_cmpint(co_read(blk), ==, -EDQUOT);
    g_assert_cmpint(co_read(blk), ==, 0);
    co_tear_down(rig, blk);
}

static void co_fn test_sector(GraphRig *rig)
{
    BlockBackend *blk =
        co_set_up(rig, "'inject-error': [{'event': 'none', 'iotype': 'read', 'sector': 3},"
                       "                 {'event': 'flush_to_os', 'sector': 3, 'once': true}]");
    static const struct {
        uint64_t offset, bytes;
        bool fails;
    } reads[] = {{0, 1536, false}, {0, 1537, true}, {1536, 512, true}, {2047, 1, true},
                 {2048, 1, false}, {1535, 2, true}, {0, SIZE, true},   {2048, 4096, false}};
    g_autofree char *buffer = g_malloc(SIZE);

    for (unsigned i = 0; i < G_N_ELEMENTS(reads); i++) {
        g_assert_cmpint(blk_co_preadv(blk, reads[i].offset, IOV_LOCAL(buffer, reads[i].bytes), 0),
                        ==, reads[i].fails ? -EIO : 0);
    }
    g_assert_cmpint(co_write(blk), ==, 0);
    g_assert_cmpint(blk_co_flush(blk), ==, -EIO); /* a flush touches all */
    co_tear_down(rig, blk);
}

static void co_fn test_states(GraphRig *rig)
{
    BlockBackend *blk = co_set_up(
        rig, "'set-state': [{'event': 'write_aio', 'state': 1, 'new_state': 2},"
             "              {'event': 'write_aio', 'state': 2, 'new_state': 3},"
             "              {'event': 'pwritev_zero', 'new_state': 1}],"
             "'inject-error': [{'event': 'read_aio', 'state': 2, 'errno': 5},"
             "                 {'event': 'read_aio', 'state': 3, 'errno': 6},"
             "                 {'event': 'flush_to_os', 'state': 0, 'errno': 7, 'once': true}]");

    g_assert_cmpint(co_read(blk), ==, 0);
    g_assert_cmpint(co_write(blk), ==, 0);
    g_assert_cmpint(co_read(blk), ==, -5);
    g_assert_cmpint(co_write(blk), ==, 0);
    g_assert_cmpint(co_read(blk), ==, -6);
    g_assert_cmpint(co_write(blk), ==, 0);
    g_assert_cmpint(co_read(blk), ==, -6);
    g_assert_cmpint(co_flush(blk), ==, -7);
    g_assert_cmpint(co_write_zeroes(blk), ==, 0);
    g_assert_cmpint(co_read(blk), ==, 0);
    co_tear_down(rig, blk);
}

/* A request waits as long as the rules say together, and no others wait with it. */
static void co_fn test_delay(GraphRig *rig)
{
    BlockBackend *blk = co_set_up(
        rig, "'inject-delay': [{'event': 'none', 'iotype': 'read', 'delay-ns': 20000000},"
             "                 {'event': 'read_aio', 'once': true, 'delay-ns': 10000000}],"
             "'inject-error': [{'event': 'read_aio', 'once': true}]");
    gint64 start = g_get_monotonic_time();

    g_assert_cmpint(co_read(blk), ==, -EIO);
    g_assert_cmpint(g_get_monotonic_time() - start, >=, 30000);
    start = g_get_monotonic_time();
    g_assert_cmpint(co_read(blk), ==, 0);
    g_assert_cmpint(g_get_monotonic_time() - start, >=, 20000);
    co_tear_down(rig, blk);
}

/* Reopening replaces the rules; one that fails leaves them. */
static void co_fn test_reopen(GraphRig *rig)
{
    BlockBackend *blk = co_set_up(rig, "'inject-error': [{'event': 'none'}]");
    g_autofree char *words = graph_rig_co_reopen(
        rig, graph_rig_options("{'driver': 'blkdebug', 'node-name': 'd', 'image': 'm',"
                               " 'align': 3}"));

    g_assert_nonnull(strstr(words, "'align'"));
    g_assert_cmpint(co_read(blk), ==, -EIO);
    g_assert_null(graph_rig_co_reopen(
        rig, graph_rig_options("{'driver': 'blkdebug', 'node-name': 'd', 'image': 'm',"
                               " 'discard': 'unmap'}")));
    co_expect_failing(blk, 0, 0);
    co_tear_down(rig, blk);
}

static void co_fn test_limits(GraphRig *rig)
{
    BlockBackend *blk =
        co_set_up(rig, "'align': 4096, 'max-transfer': 8192, 'opt-write-zero': 16384,"
                       "'max-write-zero': 32768, 'opt-discard': 4096, 'max-discard': 12288,"
                       "'inject-error': [{'event': 'read_aio', 'sector': 24}]");
    g_autofree char *buffer = g_malloc(SIZE);
    BlockLimits limits;

    blk_limits(blk, &limits);
    g_assert_cmpuint(limits.request_alignment, ==, 4096);
    g_assert_cmpuint(limits.max_transfer, ==, 8192);
    g_assert_cmpuint(limits.pwrite_zeroes_alignment, ==, 16384);
    g_assert_cmpuint(limits.max_pwrite_zeroes, ==, 32768);
    g_assert_cmpuint(limits.pdiscard_alignment, ==, 4096);
    g_assert_cmpuint(limits.max_pdiscard, ==, 12288);
    /* Requests come in pieces of that size: one of them fails, those before it were done. */
    graph_rig_co_write(blk, 0, 8192, 1, 0);
    memset(buffer, 0, SIZE);
    g_assert_cmpint(blk_co_preadv(blk, 0, IOV_LOCAL(buffer, SIZE), 0), ==, -EIO);
    g_assert_cmpint(buffer[0], !=, 0);
    /* An unaligned read is widened, and touches the sector that way. */
    g_assert_cmpint(blk_co_preadv(blk, 13000, IOV_LOCAL(buffer, 1), 0), ==, -EIO);
    co_tear_down(rig, blk);
}

/* A node of 1000 bytes in blocks of 512: what is written of the last one leaves the length. */
static void co_fn test_odd_length(GraphRig *rig)
{
    BlockNode *m = graph_rig_co_add(
        rig, graph_rig_options("{'driver': 'memory', 'node-name': 'm', 'size': 1000}"));
    BlockNode *d = graph_rig_co_add(
        rig, graph_rig_options("{'driver': 'blkdebug', 'node-name': 'd', 'image': 'm',"
                               " 'align': 512, 'take-child-perms': ['resize']}"));
    BlockBackend *blk = graph_rig_co_use(d, BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE);

    graph_rig_co_write(blk, 990, 10, 1, 0);
    g_assert_cmpint(block_node_length(m), ==, 1000);
    graph_rig_co_expect(blk, 990, 10, 1);
    g_assert_cmpint(blk_co_pwrite_zeroes(blk, 600, 400, 0), ==, 0);
    g_assert_cmpint(block_node_length(m), ==, 1000);
    graph_rig_co_expect_zeros(blk, 600, 400);
    co_tear_down(rig, blk);
}

/* Blocks larger than those of the image: one that is partly a hole is data. */
static void co_fn test_status_of_larger_blocks(GraphRig *rig)
{
    BlockNode *m = graph_rig_co_add(
        rig, graph_rig_options("{'driver': 'memory', 'node-name': 'm', 'size': 262144}"));
    BlockNode *d =
        graph_rig_co_add(rig, graph_rig_options("{'driver': 'blkdebug', 'node-name': 'd',"
                                                " 'image': 'm', 'align': 131072}"));
    BlockBackend *below = graph_rig_co_use(m, BLOCK_PERM_WRITE);
    BlockBackend *blk = graph_rig_co_use(d, BLOCK_PERM_CONSISTENT_READ);
    BlockStatus status;
    uint64_t n;

    graph_rig_co_write(below, 70000, 100, 1, 0); /* in the second 64 KiB; the first are a hole */
    g_assert_cmpint(blk_co_block_status(blk, 70000, 1000, &n, &status), ==, 0);
    g_assert_cmphex(status & BLOCK_STATUS_DATA, ==, BLOCK_STATUS_DATA);
    g_assert_cmpuint(n, ==, 1000);
    block_backend_co_free(below);
    co_tear_down(rig, blk);
}

static void co_fn test_wrong_options(GraphRig *rig)
{
    static const char *const wrong[][2] = {
        {"'config': 'x'", "'config'"},
        {"'align': 3", "'align'"},
        {"'align': 4096, 'max-transfer': 512", "'max-transfer'"},
        {"'align': 512, 'opt-write-zero': 100", "'opt-write-zero'"},
        {"'opt-write-zero': 4096, 'max-write-zero': 512", "'max-write-zero'"},
        {"'align': 512, 'opt-discard': 100", "'opt-discard'"},
        {"'opt-discard': 4096, 'max-discard': 512", "'max-discard'"},
    };

    graph_rig_co_add(rig,
                     graph_rig_options("{'driver': 'memory', 'node-name': 'm', 'size': 65536}"));
    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autofree char *json = g_strdup_printf(
            "{'driver': 'blkdebug', 'node-name': 'd', 'image': 'm', %s}", wrong[i][0]);
        g_autofree char *words = graph_rig_co_add_fails(rig, graph_rig_options(json));

        g_assert_nonnull(strstr(words, wrong[i][1]));
    }
    graph_rig_co_del(rig, "m");
}

/* What is taken and not shared on top counts for the other users of the image. */
static void co_fn test_permissions(GraphRig *rig)
{
    BlockBackend *blk = co_set_up(rig, "'take-child-perms': ['resize'],"
                                       "'unshare-child-perms': ['write-unchanged']");
    BlockNode *m = block_graph_find(rig->graph, "m", NULL);
    g_autoptr(GError) error = NULL;

    g_assert_null(
        block_backend_co_new(m, "x", 0, BLOCK_PERM_ALL & ~(unsigned)BLOCK_PERM_RESIZE, &error));
    g_assert_nonnull(strstr(error->message, "resize"));
    g_clear_error(&error);
    g_assert_null(block_backend_co_new(m, "x", BLOCK_PERM_WRITE_UNCHANGED, BLOCK_PERM_ALL, &error));
    g_assert_nonnull(strstr(error->message, "write-unchanged"));
    g_assert_null(graph_rig_co_reopen(
        rig, graph_rig_options("{'driver': 'blkdebug', 'node-name': 'd', 'image': 'm'}")));
    block_backend_co_free(graph_rig_co_use(m, BLOCK_PERM_WRITE_UNCHANGED));
    co_tear_down(rig, blk);
}

#define FLUSH_FAILS_ONCE                                                                           \
    "'inject-error': [{'event': 'none', 'iotype': 'flush', 'errno': 28, 'once': true}]"

static BlockBackend *co_fn co_use_d(GraphRig *rig)
{
    return graph_rig_co_use(block_graph_find(rig->graph, "d", NULL), BLOCK_PERM_WRITE);
}

/* One user's flush takes the error, but each that has written since its last flush hears of it. */
static void co_fn test_flush_error_for_each(GraphRig *rig)
{
    BlockBackend *blk = co_set_up(rig, FLUSH_FAILS_ONCE);
    BlockBackend *writer = co_use_d(rig), *reader = co_use_d(rig), *late;

    g_assert_cmpint(co_write(blk), ==, 0);
    g_assert_cmpint(co_write(writer), ==, 0);
    g_assert_cmpint(blk_co_flush(blk), ==, -ENOSPC);
    g_assert_cmpint(blk_co_flush(blk), ==, 0);
    late = co_use_d(rig);
    g_assert_cmpint(co_write(late), ==, 0);
    g_assert_cmpint(blk_co_flush(late), ==, 0);
    g_assert_cmpint(blk_co_flush(reader), ==, 0);
    /* Also where it has written more since. */
    g_assert_cmpint(co_write(writer), ==, 0);
    g_assert_cmpint(blk_co_flush(writer), ==, -EIO);
    g_assert_cmpint(blk_co_flush(writer), ==, 0);
    block_backend_co_free(late);
    block_backend_co_free(reader);
    block_backend_co_free(writer);
    co_tear_down(rig, blk);
}

/* Whatever counts as a write. */
static void co_fn test_flush_error_after(GraphRig *rig)
{
    static int (*const writes[])(BlockBackend *) = {co_write, co_write_zeroes, co_discard,
                                                    co_allocate};

    for (unsigned i = 0; i < G_N_ELEMENTS(writes); i++) {
        BlockBackend *blk = co_set_up(rig, FLUSH_FAILS_ONCE);
        BlockBackend *other = co_use_d(rig);

        g_assert_cmpint(writes[i](other), ==, 0);
        g_assert_cmpint(co_write(blk), ==, 0);
        g_assert_cmpint(blk_co_flush(blk), ==, -ENOSPC);
        g_assert_cmpint(blk_co_flush(other), ==, -EIO);
        g_assert_cmpint(blk_co_flush(other), ==, 0);
        block_backend_co_free(other);
        co_tear_down(rig, blk);
    }
}

/* What was stable before it was acknowledged is not lost by anybody's flush. */
static void co_fn test_flush_error_after_fua(GraphRig *rig)
{
    BlockBackend *blk = co_set_up(rig, FLUSH_FAILS_ONCE);
    BlockBackend *stable = co_use_d(rig);

    graph_rig_co_write(stable, 0, 512, 1, BLOCK_REQ_FUA);
    g_assert_cmpint(blk_co_pwrite_zeroes(stable, 512, 512, BLOCK_REQ_FUA), ==, 0);
    g_assert_cmpint(co_write(blk), ==, 0);
    g_assert_cmpint(blk_co_flush(blk), ==, -ENOSPC);
    g_assert_cmpint(blk_co_flush(stable), ==, 0);
    block_backend_co_free(stable);
    co_tear_down(rig, blk);
}

/* Of several clients of one backend each hears of it, once, for a flush covers what all write. */
static void co_fn test_flush_error_for_each_client(GraphRig *rig)
{
    BlockBackend *blk = co_set_up(rig, FLUSH_FAILS_ONCE);
    BlockClient first, second, late, later;

    blk_client_init(blk, &first);
    blk_client_init(blk, &second);
    g_assert_cmpint(co_write(blk), ==, 0);
    g_assert_cmpint(blk_co_flush_for(blk, &first), ==, -ENOSPC);
    g_assert_cmpint(blk_co_flush_for(blk, &first), ==, 0);
    blk_client_init(blk, &late);
    g_assert_cmpint(blk_co_flush_for(blk, &late), ==, 0);
    g_assert_cmpint(blk_co_flush(blk), ==, 0);
    g_assert_cmpint(co_write(blk), ==, 0);
    g_assert_cmpint(blk_co_flush_for(blk, &second), ==, -EIO);
    g_assert_cmpint(blk_co_flush_for(blk, &second), ==, 0);
    blk_client_init(blk, &later);
    g_assert_cmpint(blk_co_flush_for(blk, &later), ==, 0);
    co_tear_down(rig, blk);
}

/* Of what nobody was told the next one is, for he may be one of them who has come back. */
static void co_fn test_flush_error_for_later_client(GraphRig *rig)
{
    BlockBackend *blk = co_set_up(rig, FLUSH_FAILS_ONCE);
    BlockBackend *other = co_use_d(rig);
    BlockClient first, late;

    blk_client_init(other, &first);
    g_assert_cmpint(co_write(other), ==, 0);
    g_assert_cmpint(co_write(blk), ==, 0);
    g_assert_cmpint(blk_co_flush(blk), ==, -ENOSPC);
    blk_client_init(other, &late);
    g_assert_cmpint(blk_co_flush_for(other, &late), ==, -EIO);
    g_assert_cmpint(blk_co_flush_for(other, &late), ==, 0);
    g_assert_cmpint(blk_co_flush_for(other, &first), ==, -EIO);
    g_assert_cmpint(blk_co_flush_for(other, &first), ==, 0);
    block_backend_co_free(other);
    co_tear_down(rig, blk);
}

/* A command that flushes takes nothing from those who write. */
static void co_fn test_flush_error_of_command(GraphRig *rig)
{
    BlockBackend *blk = co_set_up(rig, FLUSH_FAILS_ONCE);
    g_autofree char *message = NULL;

    g_assert_cmpint(co_write(blk), ==, 0);
    message = graph_rig_co_reopen(
        rig, graph_rig_options("{'driver': 'blkdebug', 'node-name': 'd', 'image': 'm'}"));
    g_assert_nonnull(message);
    g_assert_nonnull(strstr(message, "flush"));
    g_assert_cmpint(blk_co_flush(blk), ==, -EIO);
    g_assert_cmpint(blk_co_flush(blk), ==, 0);
    co_tear_down(rig, blk);
}

static void run_case(gconstpointer body)
{
    graph_rig_run((void (*)(GraphRig *))body, NULL);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void co_fn (*body)(GraphRig *rig);
    } cases[] = {
        {"nothing", test_nothing},
        {"every-errno", test_every_errno},
        {"events", test_events},
        {"before-and-after", test_before_and_after},
        {"once", test_once},
        {"sector", test_sector},
        {"states", test_states},
        {"delay", test_delay},
        {"reopen", test_reopen},
        {"limits", test_limits},
        {"odd-length", test_odd_length},
        {"status-of-larger-blocks", test_status_of_larger_blocks},
        {"wrong-options", test_wrong_options},
        {"permissions", test_permissions},
        {"flush-error/for-each", test_flush_error_for_each},
        {"flush-error/after", test_flush_error_after},
        {"flush-error/after-fua", test_flush_error_after_fua},
        {"flush-error/for-each-client", test_flush_error_for_each_client},
        {"flush-error/for-later-client", test_flush_error_for_later_client},
        {"flush-error/of-command", test_flush_error_of_command},
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strconcat("/file/blkdebug/", cases[i].name, NULL);

        g_test_add_data_func(path, (gconstpointer)cases[i].body, run_case);
    }
    return g_test_run();
}
