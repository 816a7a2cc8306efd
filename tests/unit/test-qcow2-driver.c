/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The qcow2 driver over images in memory: what reads give, what block status says, how children are
 * found; and images that are wrong, each of which must be an error, told by name.
 */
#include <errno.h>
#include <unistd.h>

#include "block/block-internal.h"
#include "block/drivers/qcow2/state.h"
#include "tests/unit/graph-rig.h"
#include "tests/unit/qcow2-builder.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)

/* Of most images here. */
#define CLUSTER (64 * KIB)

#define EXTENDED QCOW2_INCOMPATIBLE_EXTENDED_L2
#define EXTERNAL QCOW2_INCOMPATIBLE_DATA_FILE
#define COPIED   QCOW2_ENTRY_COPIED

/* A memory node called @name that holds these bytes. */
static BlockNode *co_fn co_add_bytes(GraphRig *rig, const char *name, const uint8_t *bytes,
                                     uint64_t length)
{
    g_autofree char *json = g_strdup_printf(
        "{'driver': 'memory', 'node-name': '%s', 'size': %" G_GUINT64_FORMAT "}", name, length);
    BlockNode *node = graph_rig_co_add(rig, graph_rig_options(json));
    BlockBackend *blk = graph_rig_co_use(node, BLOCK_PERM_WRITE);

    g_assert_cmpint(blk_co_pwritev(blk, 0, IOV_LOCAL(bytes, length), 0), ==, 0);
    block_backend_co_free(blk);
    return node;
}

static BlockNode *co_fn co_add_file(GraphRig *rig, const Qcow2Builder *b)
{
    return co_add_bytes(rig, "file", b->bytes->data, b->bytes->len);
}

/* Options of a qcow2 node "q" over the node "file"; @more begins with a comma, or is empty. */
static BlockdevOptions *options(const char *more)
{
    g_autofree char *json = g_strdup_printf(
        "{'driver': 'qcow2', 'node-name': 'q', 'read-only': true, 'file': 'file' %s}", more);

    return graph_rig_options(json);
}

/* The image as the node "q", and a backend to read it by. */
static BlockBackend *co_fn co_open(GraphRig *rig, const Qcow2Builder *b, const char *more)
{
    co_add_file(rig, b);
    return graph_rig_co_use(graph_rig_co_add(rig, options(more)), BLOCK_PERM_CONSISTENT_READ);
}

static void co_fn co_open_fails(GraphRig *rig, const Qcow2Builder *b, const char *more,
                                const char *words)
{
    g_autofree char *message = NULL;

    co_add_file(rig, b);
    message = graph_rig_co_add_fails(rig, options(more));
    if (!strstr(message, words)) {
        g_error("'%s' is not in '%s'", words, message);
    }
}

static void co_fn co_expect_status(BlockBackend *blk, uint64_t offset, uint64_t bytes,
                                   uint64_t pnum, BlockStatus status)
{
    BlockStatus found;
    uint64_t n;

    g_assert_cmpint(blk_co_block_status(blk, offset, bytes, &n, &found), ==, 0);
    g_assert_cmpuint(n, ==, pnum);
    g_assert_cmphex(found & ~BLOCK_STATUS_EOF, ==, status);
}

static uint64_t reads_of(GraphRig *rig, const char *name)
{
    BlockOpStats stats[BLOCK_OP__MAX];

    block_stats_sum(&block_graph_find(rig->graph, name, NULL)->stats, stats);
    return stats[BLOCK_OP_READ].ops;
}

/* Reads */

/* Each kind of cluster, in turn, in clusters of any size. */
static void co_fn body_kinds(GraphRig *rig)
{
    const unsigned bits = GPOINTER_TO_UINT(rig->user);
    const uint64_t size = UINT64_C(1) << bits;
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, bits, 0, 200 * size - 100);
    BlockBackend *blk;
    g_autofree uint8_t *all = NULL;
    g_autofree uint8_t *wanted = g_malloc(size);

    qcow2_builder_data(b, 1, 1);
    qcow2_builder_data(b, 2, 2);
    qcow2_builder_map(b, 3, QCOW2_ENTRY_ZERO, 0);
    qcow2_builder_map(b, 4, qcow2_builder_append(b, 1) | COPIED | QCOW2_ENTRY_ZERO, 0);
    memset(qcow2_builder_at(b, b->bytes->len - size), 0xff, size);
    qcow2_builder_compressed(b, 5, 5, QCOW2_COMPRESSION_ZLIB);
    qcow2_builder_compressed(b, 6, 6, QCOW2_COMPRESSION_ZLIB);
    qcow2_builder_data(b, 199, 199);
    blk = co_open(rig, b, "");
    g_assert_cmpuint(blk_length(blk), ==, 200 * size - 100);

    graph_rig_co_expect_zeros(blk, 0, size);
    graph_rig_co_expect(blk, size, size, 1);
    graph_rig_co_expect(blk, 2 * size, size, 2);
    graph_rig_co_expect_zeros(blk, 3 * size, 2 * size);
    graph_rig_co_expect(blk, 5 * size, size, 5);
    graph_rig_co_expect(blk, 6 * size, size, 6);
    graph_rig_co_expect_zeros(blk, 7 * size, 3 * size);
    graph_rig_co_expect(blk, 199 * size, size - 100, 199);

    /* All kinds in one request, and parts of a compressed cluster. */
    all = g_malloc(10 * size);
    g_assert_cmpint(blk_co_preadv(blk, 17, IOV_LOCAL(all, 7 * size), 0), ==, 0);
    graph_rig_fill(wanted, size, 1);
    g_assert_cmpmem(all + size - 17, size, wanted, size);
    graph_rig_fill(wanted, size, 5);
    g_assert_cmpmem(all + 5 * size - 17, size, wanted, size);
    graph_rig_fill(wanted, size, 6);
    g_assert_cmpmem(all + 6 * size - 17, size, wanted, size);
    g_assert_cmpint(blk_co_preadv(blk, 6 * size + 100, IOV_LOCAL(all, 50), 0), ==, 0);
    g_assert_cmpmem(all, 50, wanted + 100, 50);

    co_expect_status(blk, 0, MIB, MIN(size, MIB), BLOCK_STATUS_ZERO);
    co_expect_status(blk, 3 * size + 5, 2 * size, 2 * size - 5,
                     BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED);
    co_expect_status(blk, 5 * size, 2 * size, size, BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED);
    block_backend_co_free(blk);
}

/* Contiguous clusters are one request to the file. */
static void co_fn body_runs(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, 16 * MIB);
    g_autofree uint8_t *buffer = g_malloc(MIB);
    BlockBackend *blk;
    uint64_t before;

    for (unsigned i = 0; i < 16; i++) {
        qcow2_builder_data(b, i, i);
    }
    blk = co_open(rig, b, "");
    g_assert_cmpint(blk_co_preadv(blk, 0, IOV_LOCAL(buffer, 1), 0), ==, 0);
    before = reads_of(rig, "file");
    g_assert_cmpint(blk_co_preadv(blk, 100, IOV_LOCAL(buffer, MIB - 200), 0), ==, 0);
    g_assert_cmpuint(reads_of(rig, "file"), ==, before + 1);
    block_backend_co_free(blk);
}

static void co_fn body_subclusters(GraphRig *rig)
{
    const uint64_t sub = 2 * KIB;
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, EXTENDED, 4 * MIB);
    g_autofree uint8_t *wanted = g_malloc(64 * KIB);
    g_autofree uint8_t *base = g_malloc(4 * MIB);
    g_autofree uint8_t *buffer = g_malloc(64 * KIB);
    BlockBackend *blk;
    uint64_t host;

    /* Subclusters by turns: data, zeros, nothing. */
    host = qcow2_builder_data(b, 3, 3);
    qcow2_builder_map(b, 3, host | COPIED, UINT64_C(0x9249249249249249) & 0xffffffff);
    for (unsigned i = 0; i < 32; i++) {
        uint64_t slot = qcow2_builder_l2_slot(b, 3) + 8;
        uint64_t bitmap = i == 0 ? 0 : be64_get(qcow2_builder_at(b, slot));

        bitmap |= i % 3 == 0 ? UINT64_C(1) << i : i % 3 == 1 ? UINT64_C(1) << (32 + i) : 0;
        be64_put(qcow2_builder_at(b, slot), bitmap);
    }
    qcow2_builder_compressed(b, 4, 4, QCOW2_COMPRESSION_ZLIB);
    graph_rig_fill(base, 4 * MIB, 77);
    co_add_bytes(rig, "base", base, 4 * MIB);
    blk = co_open(rig, b, ", 'backing': 'base'");

    graph_rig_fill(wanted, 64 * KIB, 3);
    for (unsigned i = 0; i < 32; i++) {
        if (i % 3 == 1) {
            memset(wanted + i * sub, 0, sub);
        } else if (i % 3 == 2) {
            memcpy(wanted + i * sub, base + 3 * 64 * KIB + i * sub, sub);
        }
    }
    g_assert_cmpint(blk_co_preadv(blk, 3 * 64 * KIB, IOV_LOCAL(buffer, 64 * KIB), 0), ==, 0);
    g_assert_cmpmem(buffer, 64 * KIB, wanted, 64 * KIB);
    graph_rig_co_expect(blk, 4 * 64 * KIB, 64 * KIB, 4);
    co_expect_status(blk, 3 * 64 * KIB, 64 * KIB, sub, BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED);
    co_expect_status(blk, 3 * 64 * KIB + sub, 64 * KIB, sub,
                     BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED);
    co_expect_status(blk, 3 * 64 * KIB + 2 * sub, 64 * KIB, sub, BLOCK_STATUS_DATA);
    block_backend_co_free(blk);
}

static void co_fn body_data_file(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, EXTERNAL, 4 * MIB);
    g_autofree uint8_t *data = g_malloc(4 * MIB);
    BlockBackend *blk;

    graph_rig_fill(data, 4 * MIB, 9);
    co_add_bytes(rig, "data", data, 3 * MIB + 5);
    qcow2_builder_map(b, 0, COPIED, 0);
    qcow2_builder_map(b, 5, 5 * 64 * KIB | COPIED, 0);
    qcow2_builder_map(b, 48, 3 * MIB | COPIED, 0);
    qcow2_builder_map(b, 49, (3 * MIB + 64 * KIB) | COPIED, 0);
    blk = co_open(rig, b, ", 'data-file': 'data'");
    graph_rig_co_expect(blk, 0, 64 * KIB, 9);
    graph_rig_co_expect_zeros(blk, 64 * KIB, 4 * 64 * KIB);
    {
        g_autofree uint8_t *buffer = g_malloc(128 * KIB);
        g_autofree uint8_t *zeros = g_malloc0(128 * KIB);

        g_assert_cmpint(blk_co_preadv(blk, 5 * 64 * KIB, IOV_LOCAL(buffer, 64 * KIB), 0), ==, 0);
        g_assert_cmpmem(buffer, 64 * KIB, data + 5 * 64 * KIB, 64 * KIB);
        /* The data file ends before the disk does. */
        g_assert_cmpint(blk_co_preadv(blk, 3 * MIB, IOV_LOCAL(buffer, 128 * KIB), 0), ==, 0);
        g_assert_cmpmem(buffer, 5, data + 3 * MIB, 5);
        g_assert_cmpmem(buffer + 5, 128 * KIB - 5, zeros, 128 * KIB - 5);
    }
    block_backend_co_free(blk);
}

/* Backing files */

static void co_fn body_short_backing(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, 4 * MIB);
    g_autofree uint8_t *base = g_malloc(100000);
    BlockBackend *blk;

    graph_rig_fill(base, 100000, 7);
    co_add_bytes(rig, "base", base, 100000);
    qcow2_builder_data(b, 0, 1);
    blk = co_open(rig, b, ", 'backing': 'base'");
    {
        g_autofree uint8_t *buffer = g_malloc(128 * KIB);

        g_assert_cmpint(blk_co_preadv(blk, 64 * KIB, IOV_LOCAL(buffer, 128 * KIB), 0), ==, 0);
        g_assert_cmpmem(buffer, 100000 - 64 * KIB, base + 64 * KIB, 100000 - 64 * KIB);
    }
    graph_rig_co_expect(blk, 0, 64 * KIB, 1);
    graph_rig_co_expect_zeros(blk, 100000, MIB);
    co_expect_status(blk, 64 * KIB, MIB, 100000 - 64 * KIB, BLOCK_STATUS_DATA);
    co_expect_status(blk, 100000, MIB, MIB, BLOCK_STATUS_ZERO);
    block_backend_co_free(blk);
}

/* Five overlays, each with a cluster of its own. */
static void co_fn body_chain(GraphRig *rig)
{
    const char *below = NULL;
    static const char *const names[] = {"o0", "o1", "o2", "o3", "o4"};
    static const char *const files[] = {"f0", "f1", "f2", "f3", "f4"};
    BlockBackend *blk;

    for (unsigned i = 0; i < 5; i++) {
        g_autoptr(Qcow2Builder) b = qcow2_builder_new(i % 2 ? 2 : 3, 16, 0, (i + 1) * MIB);
        g_autofree char *json = g_strdup_printf(
            "{'driver': 'qcow2', 'node-name': '%s', 'read-only': true, 'file': '%s'%s%s%s}",
            names[i], files[i], below ? ", 'backing': '" : "", below ? below : "",
            below ? "'" : "");

        qcow2_builder_data(b, i, i);
        qcow2_builder_data(b, 10, 100 + i);
        co_add_bytes(rig, files[i], b->bytes->data, b->bytes->len);
        graph_rig_co_add(rig, graph_rig_options(json));
        below = names[i];
    }
    blk = graph_rig_co_use(block_graph_find(rig->graph, "o4", NULL), BLOCK_PERM_CONSISTENT_READ);
    for (unsigned i = 0; i < 5; i++) {
        graph_rig_co_expect(blk, i * CLUSTER, CLUSTER, i);
    }
    graph_rig_co_expect(blk, 10 * CLUSTER, CLUSTER, 104);
    graph_rig_co_expect_zeros(blk, 11 * CLUSTER, 4 * MIB);
    block_backend_co_free(blk);
}

static void co_fn body_backing_null(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    BlockBackend *blk;

    qcow2_builder_names(b, "nowhere.img", "raw", NULL);
    blk = co_open(rig, b, ", 'backing': null");
    graph_rig_co_expect_zeros(blk, 0, MIB);
    block_backend_co_free(blk);
}

/* Names that are not followed, and why. */
typedef struct Name {
    const char *backing, *format, *data_file;
    const char *more;
    const char *words;
} Name;

static const Name bad_names[] = {
    {"/nowhere/base.img", NULL, NULL, "", "not its format"},
    {"/nowhere/base.img", "vmdk", NULL, "", "format 'vmdk'"},
    {"/nowhere/base.img", "raw", NULL, "", "/nowhere/base.img"},
    {"base.img", "raw", NULL, "", "relative to where it lies"},
    {"json:{\"driver\":\"null-co\"}", "raw", NULL, "", "'json:'"},
    {"nbd://host/export", "raw", NULL, "", "'nbd:'"},
    {"file:/nowhere/base.img", "raw", NULL, "", "'/nowhere/base.img'"},
    {"/nowhere/base.img", "raw", NULL, ", 'follow-names': false", "'follow-names' is off"},
    {"/nowhere/b\xff.img", "raw", NULL, "", "not UTF-8"},
    {NULL, NULL, "data.raw", "", "relative to where it lies"},
    {NULL, NULL, "/nowhere/data.raw", ", 'follow-names': false", "'follow-names' is off"},
    {NULL, NULL, "/nowhere/data.raw", "", "/nowhere/data.raw"},
    {NULL, NULL, "", "", "does not name it"},
};

static void co_fn body_bad_name(GraphRig *rig)
{
    const Name *name = rig->user;
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, name->data_file ? EXTERNAL : 0, MIB);

    qcow2_builder_names(b, name->backing, name->format, name->data_file);
    co_open_fails(rig, b, name->more, name->words);
}

static void co_fn body_data_file_refused(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    uint8_t byte = 0;

    co_add_bytes(rig, "data", &byte, 1);
    co_open_fails(rig, b, ", 'data-file': 'data'", "no external data file");
}

/* Caches */

static const char *const cache_options[] = {
    "",
    ", 'l2-cache-size': 1",
    ", 'l2-cache-entry-size': 512",
    ", 'l2-cache-entry-size': 512, 'l2-cache-size': 1024",
    ", 'cache-size': 0",
    ", 'cache-size': 1000000000000",
    ", 'cache-size': 65536, 'refcount-cache-size': 4096, 'cache-clean-interval': 0",
};

/* Whatever the size of the caches, reads give the same. */
static void co_fn body_caches(GraphRig *rig)
{
    const unsigned clusters = 4096;
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 12, 0, clusters * 4096);
    BlockBackend *blk;

    for (unsigned i = 0; i < clusters; i += 37) {
        qcow2_builder_data(b, i, i);
    }
    blk = co_open(rig, b, rig->user);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < clusters; i += 37) {
            graph_rig_co_expect(blk, i * 4096, 4096, i);
            graph_rig_co_expect_zeros(blk, i * 4096 + 4096, 4096);
        }
    }
    block_backend_co_free(blk);
}

static const char *const bad_cache_options[][2] = {
    {", 'l2-cache-entry-size': 256", "power of two"},
    {", 'l2-cache-entry-size': 1000", "power of two"},
    {", 'l2-cache-entry-size': 131072", "to the cluster size, 65536"},
    {", 'cache-size': 9, 'l2-cache-size': 4, 'refcount-cache-size': 5", "all together"},
    {", 'cache-size': 9, 'l2-cache-size': 10", "'l2-cache-size' cannot be larger"},
    {", 'cache-size': 9, 'refcount-cache-size': 10", "'refcount-cache-size' cannot be larger"},
};

static void co_fn body_bad_cache(GraphRig *rig)
{
    const char *const *o = rig->user;
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);

    co_open_fails(rig, b, o[0], o[1]);
}

/* Control */

/* An image that others must not write to: only to be read, where that will do. */
static void co_fn body_writable(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    const uint64_t marked = GPOINTER_TO_SIZE(rig->user);
    g_autofree char *message = NULL;
    BlockNode *node;

    be64_put(qcow2_builder_at(b, 72), marked);
    if (marked & QCOW2_INCOMPATIBLE_DIRTY) { /* which is repaired, if it can be */
        be64_put(qcow2_builder_at(b, b->l1_offset), UINT64_C(1) << 40);
    }
    co_add_file(rig, b);
    message = graph_rig_co_add_fails(
        rig, graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', 'file': 'file'}"));
    g_assert_nonnull(strstr(message, marked & QCOW2_INCOMPATIBLE_CORRUPT
                                         ? "is marked as corrupt"
                                         : "was not closed in order"));
    node = graph_rig_co_add(rig, graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', "
                                                   "'file': 'file', 'auto-read-only': true}"));
    g_assert_true(block_node_read_only(node));
}

/* With 'cache-clean-interval' memory is given back when nobody has used it for a while. */
static void co_fn body_clean(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    const Qcow2State *s;
    BlockBackend *blk;
    uint8_t byte[1];

    qcow2_builder_data(b, 3, 3);
    qcow2_builder_compressed(b, 4, 4, QCOW2_COMPRESSION_ZLIB);
    blk = co_open(rig, b, ", 'cache-clean-interval': 1");
    s = block_node_state(block_graph_find(rig->graph, "q", NULL));
    graph_rig_co_expect(blk, 3 * 64 * KIB, 64 * KIB, 3);
    g_assert_cmpint(blk_co_preadv(blk, 4 * 64 * KIB + 1000, IOV_LOCAL(byte, 1), 0), ==, 0);
    g_assert_cmpuint(qcow2_cache_used(s->l2.cache), ==, 1);
    g_assert_cmpuint(qcow2_unpacked_used(s->unpacked), ==, 1);
    while (qcow2_cache_used(s->l2.cache) > 0 || qcow2_unpacked_used(s->unpacked) > 0) {
        aio_co_sleep_ns(10000000);
    }
    graph_rig_co_expect(blk, 3 * 64 * KIB, 64 * KIB, 3);
    block_backend_co_free(blk);
}

static void co_fn body_reopen(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    uint8_t byte = 0;
    g_autofree char *a = NULL, *c = NULL, *e = NULL;
    BlockBackend *blk;

    qcow2_builder_data(b, 3, 3);
    blk = co_open(rig, b, "");
    co_add_bytes(rig, "other", &byte, 1);
    g_assert_null(graph_rig_co_reopen(rig, options(", 'l2-cache-entry-size': 4096")));
    graph_rig_co_expect(blk, 3 * 64 * KIB, 64 * KIB, 3);
    a = graph_rig_co_reopen(rig, options(", 'l2-cache-entry-size': 5"));
    g_assert_nonnull(strstr(a, "power of two"));
    c = graph_rig_co_reopen(rig, graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', "
                                                   "'file': 'other', 'read-only': true}"));
    g_assert_nonnull(strstr(c, "cannot change 'file'"));
    e = graph_rig_co_reopen(rig, options(", 'backing': 'other'"));
    g_assert_nonnull(strstr(e, "cannot change 'backing'"));
    graph_rig_co_expect(blk, 3 * 64 * KIB, 64 * KIB, 3);
    block_backend_co_free(blk);
}

/* From reading to writing and back; what was written is there, whichever way. */
static void co_fn body_reopen_writable(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    BlockBackend *blk;

    qcow2_builder_data(b, 3, 3);
    qcow2_builder_count(b);
    blk = co_open(rig, b, "");
    for (unsigned i = 0; i < 3; i++) {
        BlockBackend *writer;

        g_assert_null(graph_rig_co_reopen(
            rig, graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', 'file': 'file'}")));
        writer = graph_rig_co_use(block_graph_find(rig->graph, "q", NULL), BLOCK_PERM_WRITE);
        graph_rig_co_write(writer, i * 64 * KIB + 100, 64 * KIB, 40 + i, 0);
        block_backend_co_free(writer);
        g_assert_null(graph_rig_co_reopen(rig, options("")));
        g_assert_cmpint(blk_co_pwritev(blk, 0, IOV_LOCAL("x", 1), 0), ==, -EPERM);
        graph_rig_co_expect(blk, i * 64 * KIB + 100, 64 * KIB, 40 + i);
    }
    block_backend_co_free(blk);
}

/*
 * What a node shows that shares its image by force others may have written since: once they cannot
 * any more it is read anew. The image lies in a file, for which there are locks; "other" writes.
 */

static void co_fn co_add_json(GraphRig *rig, const char *format, const char *a, const char *b)
{
    g_autofree char *json = g_strdup_printf(format, a, b);

    graph_rig_co_add(rig, graph_rig_options(json));
}

/* Reopen "file" and "q" above it, both with @more. Returns NULL, or the error's message. */
static char *co_fn co_reopen_both(GraphRig *rig, const char *path, const char *more)
{
    g_autoptr(GPtrArray) list =
        g_ptr_array_new_with_free_func((GDestroyNotify)blockdev_options_free);
    g_autofree char *file = g_strdup_printf(
        "{'driver': 'file', 'node-name': 'file', 'filename': '%s', %s}", path, more);
    g_autofree char *q =
        g_strdup_printf("{'driver': 'qcow2', 'node-name': 'q', 'file': 'file', %s}", more);
    GError *error = NULL;
    char *message;

    g_ptr_array_add(list, graph_rig_options(q));
    g_ptr_array_add(list, graph_rig_options(file));
    if (block_graph_co_reopen(rig->graph, list, &error)) {
        return NULL;
    }
    message = g_strdup(error->message);
    g_error_free(error);
    return message;
}

static void co_fn co_write_as_another(GraphRig *rig, const char *path, uint64_t offset,
                                      unsigned seed, uint64_t size)
{
    BlockBackend *blk;

    co_add_json(rig,
                "{'driver': 'qcow2', 'node-name': 'other', 'file': {'driver': 'file', "
                "'filename': '%s'}%s}",
                path, "");
    blk = graph_rig_co_use(block_graph_find(rig->graph, "other", NULL), BLOCK_PERM_ALL);
    g_assert_cmpint(blk_co_truncate(blk, size, PREALLOC_MODE_OFF, BLOCK_REQ_ZERO, NULL), ==, 0);
    graph_rig_co_write(blk, offset, 300 * KIB, seed, 0);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "other");
}

#define SHARED "'read-only': true, 'force-share': true"
#define OWN    "'read-only': false, 'force-share': false"

static void co_fn co_check_stale(GraphRig *rig, const char *path)
{
    g_autofree char *a = NULL, *c = NULL, *e = NULL, *g = NULL;
    BlockBackend *blk, *writer;
    uint8_t magic[4] = "QFI\xfb";

    co_add_json(rig, "{'driver': 'file', 'node-name': 'file', 'filename': '%s', %s}", path, SHARED);
    co_add_json(rig, "{'driver': 'qcow2', 'node-name': 'q', 'file': 'file', %s%s}", SHARED, "");
    blk = graph_rig_co_use(block_graph_find(rig->graph, "q", NULL), BLOCK_PERM_CONSISTENT_READ);
    graph_rig_co_expect(blk, 3 * CLUSTER, CLUSTER, 3);

    /* Not even to be read alone. */
    co_write_as_another(rig, path, 0, 11, 2 * MIB);
    a = co_reopen_both(rig, path, "'read-only': true");
    g_assert_cmpstr(a, ==, NULL);
    g_assert_cmpuint(blk_length(blk), ==, 2 * MIB);
    graph_rig_co_expect(blk, 0, 300 * KIB, 11);
    a = co_reopen_both(rig, path, SHARED);
    g_assert_cmpstr(a, ==, NULL);

    /* Nothing of what another one has written is lost. */
    co_write_as_another(rig, path, MIB, 12, UINT64_C(1) << 40);
    a = co_reopen_both(rig, path, OWN);
    g_assert_cmpstr(a, ==, NULL);
    g_assert_cmpuint(blk_length(blk), ==, UINT64_C(1) << 40);
    graph_rig_co_expect(blk, 0, 300 * KIB, 11);
    graph_rig_co_expect(blk, MIB, 300 * KIB, 12);
    writer = graph_rig_co_use(block_graph_find(rig->graph, "q", NULL), BLOCK_PERM_WRITE);
    graph_rig_co_write(writer, 5 * MIB, CLUSTER, 13, 0);
    block_backend_co_free(writer);
    a = co_reopen_both(rig, path, SHARED);
    g_assert_cmpstr(a, ==, NULL);

    /* What cannot be used is not: the node stays as it was, and the file is not locked. */
    co_add_json(rig, "{'driver': 'file', 'node-name': 'bytes', 'filename': '%s'%s}", path, "");
    writer = graph_rig_co_use(block_graph_find(rig->graph, "bytes", NULL), BLOCK_PERM_WRITE);
    g_assert_cmpint(blk_co_pwritev(writer, 0, IOV_LOCAL("R", 1), 0), ==, 0);
    block_backend_co_free(writer);
    c = co_reopen_both(rig, path, OWN);
    g_assert_nonnull(strstr(c, "no qcow2 image"));
    graph_rig_co_expect(blk, MIB, 300 * KIB, 12);
    g_assert_true(block_node_read_only(block_graph_find(rig->graph, "q", NULL)));
    writer = graph_rig_co_use(block_graph_find(rig->graph, "bytes", NULL), BLOCK_PERM_WRITE);
    g_assert_cmpint(blk_co_pwritev(writer, 0, IOV_LOCAL(magic, 4), 0), ==, 0);
    block_backend_co_free(writer);
    graph_rig_co_del(rig, "bytes");

    a = co_reopen_both(rig, path, OWN);
    g_assert_cmpstr(a, ==, NULL);
    graph_rig_co_expect(blk, 0, 300 * KIB, 11);
    graph_rig_co_expect(blk, MIB, 300 * KIB, 12);
    graph_rig_co_expect(blk, 5 * MIB, CLUSTER, 13);
    block_backend_co_free(blk);
}

static void co_fn body_reopen_stale(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("wharf-qcow2-XXXXXX", &path, NULL);

    qcow2_builder_data(b, 3, 3);
    qcow2_builder_count(b);
    g_assert_cmpint(write(fd, b->bytes->data, b->bytes->len), ==, b->bytes->len);
    close(fd);
    co_check_stale(rig, path);
    graph_rig_co_del(rig, "q");
    graph_rig_co_del(rig, "file");
    unlink(path);
}

/* Refcounts that contradict what is there: the image is marked, and not written to any more. */
static void co_fn body_corrupt_refcounts(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    uint8_t features[8];
    BlockBackend *blk, *reader;
    BlockNode *file;

    file = co_add_file(rig, b); /* nothing is counted */
    blk =
        graph_rig_co_use(graph_rig_co_add(rig, graph_rig_options("{'driver': 'qcow2', 'node-name': "
                                                                 "'q', 'file': 'file'}")),
                         BLOCK_PERM_WRITE | BLOCK_PERM_CONSISTENT_READ);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*'q'*in use, but is not counted*");
    g_assert_cmpint(blk_co_pwritev(blk, 0, IOV_LOCAL("x", 1), 0), ==, -EIO);
    g_test_assert_expected_messages();
    g_assert_cmpint(blk_co_pwritev(blk, 0, IOV_LOCAL("x", 1), 0), ==, -EIO);
    graph_rig_co_expect_zeros(blk, 0, MIB);
    reader = graph_rig_co_use(file, BLOCK_PERM_CONSISTENT_READ);
    g_assert_cmpint(blk_co_preadv(reader, 72, IOV_LOCAL(features, 8), 0), ==, 0);
    g_assert_cmpuint(be64_get(features), ==, QCOW2_INCOMPATIBLE_CORRUPT);
    block_backend_co_free(reader);
    block_backend_co_free(blk);
}

/* Features that others have to keep consistent are cleared before the first write, not earlier. */
static void co_fn body_autoclear(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    BlockBackend *blk, *reader;
    uint8_t features[8];
    BlockNode *file;

    qcow2_builder_count(b);
    be64_put(qcow2_builder_at(b, 88), UINT64_C(1) << 40 | QCOW2_AUTOCLEAR_BITMAPS);
    file = co_add_file(rig, b);
    blk =
        graph_rig_co_use(graph_rig_co_add(rig, graph_rig_options("{'driver': 'qcow2', 'node-name': "
                                                                 "'q', 'file': 'file'}")),
                         BLOCK_PERM_WRITE | BLOCK_PERM_CONSISTENT_READ);
    reader = graph_rig_co_use(file, BLOCK_PERM_CONSISTENT_READ);
    graph_rig_co_expect_zeros(blk, 0, MIB);
    g_assert_cmpint(blk_co_preadv(reader, 88, IOV_LOCAL(features, 8), 0), ==, 0);
    g_assert_cmpuint(be64_get(features), ==, UINT64_C(1) << 40 | QCOW2_AUTOCLEAR_BITMAPS);
    graph_rig_co_write(blk, 0, 1, 1, 0);
    g_assert_cmpint(blk_co_preadv(reader, 88, IOV_LOCAL(features, 8), 0), ==, 0);
    g_assert_cmpuint(be64_get(features), ==, 0);
    block_backend_co_free(reader);
    block_backend_co_free(blk);
}

static void co_fn body_exchange_backing(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    g_autofree uint8_t *bytes = g_malloc(MIB);
    BlockBackend *blk;

    graph_rig_fill(bytes, MIB, 1);
    co_add_bytes(rig, "one", bytes, MIB);
    graph_rig_fill(bytes, MIB, 2);
    co_add_bytes(rig, "two", bytes, MIB);
    blk = co_open(rig, b, ", 'backing': 'one'");
    graph_rig_co_expect(blk, 0, MIB, 1);
    g_assert_null(graph_rig_co_reopen(rig, options(", 'backing': 'two'")));
    graph_rig_co_expect(blk, 0, MIB, 2);
    block_backend_co_free(blk);
}

/* Nobody may write to what the node keeps in memory, not even while it is idle. */
static void co_fn body_permissions(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    g_autoptr(GError) error = NULL;
    uint8_t byte = 0;
    BlockNode *base, *file;
    BlockBackend *writer;

    base = co_add_bytes(rig, "base", &byte, 1);
    file = co_add_file(rig, b);
    graph_rig_co_add(rig, options(", 'backing': 'base'"));
    g_assert_null(block_backend_co_new(file, "test", BLOCK_PERM_WRITE, BLOCK_PERM_ALL, &error));
    g_assert_nonnull(strstr(error->message, "'write', which block node 'q'"));
    writer = graph_rig_co_use(base, BLOCK_PERM_WRITE);
    block_backend_co_free(writer);
}

/* Who writes to a backing file changes the disk: not where a user shares that with nobody. */
static void co_fn body_backing_permissions(GraphRig *rig)
{
    const BlockPerm others = BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE_UNCHANGED;
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    g_autoptr(GError) error = NULL;
    uint8_t byte = 0;
    BlockNode *base = co_add_bytes(rig, "base", &byte, 1), *q;
    BlockBackend *reader, *writer;

    co_add_file(rig, b);
    q = graph_rig_co_add(rig, options(", 'backing': 'base'"));
    reader = block_backend_co_new(q, "the reader", BLOCK_PERM_CONSISTENT_READ, others, &error);
    g_assert_no_error(error);
    g_assert_null(block_backend_co_new(base, "test", BLOCK_PERM_WRITE, BLOCK_PERM_ALL, &error));
    g_assert_nonnull(
        strstr(error->message, "'write', which block node 'q' (as its child 'backing"));
    g_clear_error(&error);
    g_assert_null(block_backend_co_new(base, "test", BLOCK_PERM_RESIZE, BLOCK_PERM_ALL, &error));
    block_backend_co_free(graph_rig_co_use(base, others));
    block_backend_co_free(reader);

    writer = graph_rig_co_use(base, BLOCK_PERM_WRITE);
    g_clear_error(&error);
    g_assert_null(
        block_backend_co_new(q, "the reader", BLOCK_PERM_CONSISTENT_READ, others, &error));
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*'base' is written to while overlay 'q'*");
    block_backend_co_free(graph_rig_co_use(q, BLOCK_PERM_CONSISTENT_READ));
    g_test_assert_expected_messages();
    block_backend_co_free(writer);
}

/* While the node is inactive another process changes the image. */
static void co_fn body_activate(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    GError *error = NULL;
    BlockNode *file = NULL;
    BlockBackend *blk, *writer;
    uint64_t slot;
    uint8_t entry[8];

    qcow2_builder_data(b, 3, 3);
    slot = qcow2_builder_l2_slot(b, 3);
    file = co_add_file(rig, b);
    graph_rig_co_add(rig, options(""));
    blk = graph_rig_co_use(block_graph_find(rig->graph, "q", NULL), BLOCK_PERM_CONSISTENT_READ);
    graph_rig_co_expect(blk, 3 * 64 * KIB, 64 * KIB, 3);
    block_backend_co_free(blk);

    g_assert_true(block_graph_co_set_active(rig->graph, "q", false, &error));
    writer = graph_rig_co_use(file, BLOCK_PERM_WRITE);
    be64_put(entry, QCOW2_ENTRY_ZERO);
    g_assert_cmpint(blk_co_pwritev(writer, slot, IOV_LOCAL(entry, 8), 0), ==, 0);
    be64_put(entry, 512 * KIB);
    g_assert_cmpint(blk_co_pwritev(writer, 24, IOV_LOCAL(entry, 8), 0), ==, 0);
    block_backend_co_free(writer);
    g_assert_true(block_graph_co_set_active(rig->graph, "q", true, &error));
    g_assert_no_error(error);
    blk = graph_rig_co_use(block_graph_find(rig->graph, "q", NULL), BLOCK_PERM_CONSISTENT_READ);
    g_assert_cmpuint(blk_length(blk), ==, 512 * KIB);
    graph_rig_co_expect_zeros(blk, 3 * 64 * KIB, 64 * KIB);
    block_backend_co_free(blk);

    /* And then makes it something that cannot be used: the node stays inactive. */
    g_assert_true(block_graph_co_set_active(rig->graph, "q", false, &error));
    writer = graph_rig_co_use(file, BLOCK_PERM_WRITE);
    g_assert_cmpint(blk_co_pwritev(writer, 0, IOV_LOCAL("Q", 2), 0), ==, 0);
    block_backend_co_free(writer);
    g_assert_false(block_graph_co_set_active(rig->graph, "q", true, &error));
    assert_error(&error, "no qcow2 image");
    g_assert_false(block_node_active(block_graph_find(rig->graph, "q", NULL)));
}

/* Images that are wrong */

/* Eight bytes of the image become @value; then a read of cluster 3 fails, for this reason. */
typedef struct Hostile {
    const char *name;
    enum {
        AT_L1,
        AT_L2,
        AT_BITMAP,
    } where;
    uint64_t value;
    uint64_t features;
    const char *words; /* in the log */
} Hostile;

/* The image: L1 table in cluster 2, L2 table in cluster 3, data in cluster 4, which is the last. */

static const Hostile hostiles[] = {
    {"l1-reserved", AT_L1, 3 * CLUSTER | 1, 0, "L1 entry has reserved bits"},
    {"l1-unaligned", AT_L1, 3 * CLUSTER + 512, 0, "L2 table is not aligned"},
    {"l1-past-end", AT_L1, 5 * CLUSTER, 0, "L2 table lies past the end"},
    {"l1-far-past-end", AT_L1, 0x00ffffffffff0000, 0, "L2 table lies past the end"},
    {"l1-is-its-own-table", AT_L1, 2 * CLUSTER, 0, "L2 table overlaps"},
    {"l1-names-reftable", AT_L1, CLUSTER, 0, "L2 table overlaps"},
    {"l2-reserved", AT_L2, 4 * CLUSTER | 2, 0, "L2 entry has reserved bits"},
    {"l2-unaligned", AT_L2, 4 * CLUSTER + 1024, 0, "data cluster is not aligned"},
    {"l2-past-end", AT_L2, 5 * CLUSTER, 0, "data cluster lies past the end"},
    {"l2-far-past-end", AT_L2, 0x00ffffffffff0000, 0, "data cluster lies past the end"},
    {"l2-nowhere", AT_L2, COPIED, 0, "allocated, but nowhere"},
    {"l2-zero-flag", AT_L2, 4 * CLUSTER | 1, EXTENDED, "zero flag"},
    {"compressed-past-end", AT_L2, QCOW2_ENTRY_COMPRESSED | 5 * CLUSTER, 0,
     "data cluster lies past the end"},
    {"compressed-far-past-end", AT_L2, QCOW2_ENTRY_COMPRESSED | 0x003fffffffffffff, 0,
     "data cluster lies past the end"},
    {"compressed-rubbish", AT_L2, QCOW2_ENTRY_COMPRESSED | 4 * CLUSTER, 0,
     "cannot be decompressed"},
    {"compressed-zeros", AT_L2, UINT64_C(0x7fc0000000000000) | 3 * CLUSTER, 0,
     "cannot be decompressed"},
    {"subcluster-both", AT_BITMAP, UINT64_C(0x100000001), EXTENDED, "data and zeros"},
    {"subcluster-nowhere", AT_L2, 0, EXTENDED, "has no cluster"},
    {"external-elsewhere", AT_L2, 4 * CLUSTER | COPIED, EXTERNAL, "another offset than its own"},
    {"external-compressed", AT_L2, QCOW2_ENTRY_COMPRESSED | 512, EXTERNAL,
     "compressed, in an image with a data file"},
};

static void co_fn body_hostile(GraphRig *rig)
{
    const Hostile *h = rig->user;
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, h->features, MIB);
    g_autofree char *pattern = g_strdup_printf("*'q'*%s*", h->words);
    g_autofree uint8_t *buffer = g_malloc(MIB);
    uint64_t slot, n;
    BlockStatus status;
    BlockBackend *blk;

    qcow2_builder_data(b, 3, 3);
    slot = h->where == AT_L1 ? qcow2_builder_l1_slot(b, 3)
                             : qcow2_builder_l2_slot(b, 3) + (h->where == AT_BITMAP ? 8 : 0);
    be64_put(qcow2_builder_at(b, slot), h->value);
    if (h->features & EXTERNAL) {
        co_add_bytes(rig, "data", buffer, MIB);
    }
    blk = co_open(rig, b, h->features & EXTERNAL ? ", 'data-file': 'data'" : "");
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, pattern);
    g_assert_cmpint(blk_co_preadv(blk, 3 * CLUSTER, IOV_LOCAL(buffer, 5), 0), ==, -EIO);
    g_test_assert_expected_messages();
    /* Told once. */
    g_assert_cmpint(blk_co_preadv(blk, 0, IOV_LOCAL(buffer, MIB), 0), ==, -EIO);
    if (!strstr(h->words, "decompressed")) {
        g_assert_cmpint(blk_co_block_status(blk, 3 * CLUSTER, 5, &n, &status), ==, -EIO);
    }
    block_backend_co_free(blk);
}

/* Tables that name each other as data do no harm: their bytes are read as they are. */
static void co_fn body_tables_as_data(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    uint8_t wanted[8], found[8];
    BlockBackend *blk;

    qcow2_builder_map(b, 0, 3 * CLUSTER | COPIED, 0);
    be64_put(wanted, 3 * CLUSTER | COPIED);
    blk = co_open(rig, b, "");
    g_assert_cmpint(blk_co_preadv(blk, 0, IOV_LOCAL(found, 8), 0), ==, 0);
    g_assert_cmpmem(found, 8, wanted, 8);
    block_backend_co_free(blk);
}

/* Snapshots */

static void put_snapshot(uint8_t *p, const char *id, const char *name, uint32_t extra)
{
    be32_put(p + 36, extra);
    p[13] = strlen(id);
    p[15] = strlen(name);
    memcpy(p + 40 + extra, id, strlen(id));
    memcpy(p + 40 + extra + strlen(id), name, strlen(name));
}

static void co_fn body_snapshots(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    uint64_t table = qcow2_builder_append(b, 4);
    unsigned n = 3000;

    for (unsigned i = 0; i < n; i++) {
        put_snapshot(qcow2_builder_at(b, table + i * 64), "1", "abc", 16);
    }
    be32_put(qcow2_builder_at(b, 60), n);
    be64_put(qcow2_builder_at(b, 64), table);
    co_add_file(rig, b);
    graph_rig_co_add(rig, options(""));
}

typedef struct BadSnapshots {
    uint32_t n;
    uint32_t extra;
    const char *words;
} BadSnapshots;

static const BadSnapshots bad_snapshots[] = {
    {65536, 0, "reaches past the end of the file"},
    {65537, 0, "65537 snapshots"},
    {1, 1025, "1025 bytes of extra data"},
    {1, 0xffffffff, "4294967295 bytes of extra data"},
};

static void co_fn body_bad_snapshots(GraphRig *rig)
{
    const BadSnapshots *bad = rig->user;
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    uint64_t table = qcow2_builder_append(b, 1);

    be32_put(qcow2_builder_at(b, table + 36), bad->extra);
    be32_put(qcow2_builder_at(b, 60), bad->n);
    be64_put(qcow2_builder_at(b, 64), table);
    co_open_fails(rig, b, "", bad->words);
}

static void co_fn body_no_image(GraphRig *rig)
{
    uint8_t bytes[100] = "QFI\xfb";
    g_autofree char *message = NULL;

    co_add_bytes(rig, "file", bytes, 71);
    message = graph_rig_co_add_fails(rig, options(""));
    g_assert_nonnull(strstr(message, "image 'file': it is no qcow2 image"));
}

static void co_fn body_empty_disk(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, 0);
    BlockBackend *blk;

    qcow2_builder_append(b, 1);
    blk = co_open(rig, b, "");
    g_assert_cmpuint(blk_length(blk), ==, 0);
    block_backend_co_free(blk);
}

/* Errors of the storage come through as they are, and are not held against the image. */
static void co_fn body_io_error(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    g_autofree char *json = NULL;
    uint64_t slot;
    uint8_t byte;
    BlockBackend *blk;

    qcow2_builder_data(b, 3, 3);
    slot = qcow2_builder_l2_slot(b, 3);
    co_add_file(rig, b);
    json = g_strdup_printf("{'driver': 'qcow2', 'node-name': 'q', 'read-only': true, 'file': "
                           "{'driver': 'blkdebug', 'image': 'file', 'inject-error': [{'event': "
                           "'read_aio', 'sector': %" G_GUINT64_FORMAT
                           ", 'errno': 5, 'once': true}, {'event': 'read_aio', 'sector': %u, "
                           "'errno': 28, 'once': true}]}}",
                           slot / 512, (unsigned)(4 * CLUSTER / 512));
    blk = graph_rig_co_use(graph_rig_co_add(rig, graph_rig_options(json)),
                           BLOCK_PERM_CONSISTENT_READ);
    g_assert_cmpint(blk_co_preadv(blk, 3 * CLUSTER, IOV_LOCAL(&byte, 1), 0), ==, -EIO);
    g_assert_cmpint(blk_co_preadv(blk, 3 * CLUSTER, IOV_LOCAL(&byte, 1), 0), ==, -ENOSPC);
    graph_rig_co_expect(blk, 3 * CLUSTER, CLUSTER, 3);
    block_backend_co_free(blk);
}

/* Many threads */

typedef struct Reader {
    BlockBackend *blk;
    unsigned seed;
    unsigned *ended;
} Reader;

static void co_fn reader_entry(void *opaque)
{
    Reader *r = opaque;
    g_autofree uint8_t *buffer = g_malloc(3 * 4096);
    g_autofree uint8_t *wanted = g_malloc(4096);

    for (unsigned i = 0; i < 400; i++) {
        uint64_t cluster;

        r->seed = r->seed * 1103515245 + 12345;
        cluster = r->seed % 4000;
        g_assert_cmpint(
            blk_co_preadv(r->blk, cluster * 4096 + 5, IOV_LOCAL(buffer, 3 * 4096 - 5), 0), ==, 0);
        graph_rig_fill(wanted, 4096, cluster + 1);
        g_assert_cmpmem(buffer + 4096 - 5, 4096, wanted, 4096);
    }
    __atomic_add_fetch(r->ended, 1, __ATOMIC_SEQ_CST);
}

static void test_threads(void)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 12, 0, 4096 * 4096);
    g_autofree char *json = NULL;
    Reader readers[9];
    unsigned ended = 0;
    BlockBackend *blk;

    for (unsigned i = 0; i < 4096; i++) {
        if (i % 5 == 0) {
            qcow2_builder_compressed(b, i, i, QCOW2_COMPRESSION_ZLIB);
        } else {
            qcow2_builder_data(b, i, i);
        }
    }
    json = g_strdup_printf("{'driver': 'memory', 'node-name': 'file', 'size': %u}", b->bytes->len);
    fixture_add(f, json);
    blk = fixture_backend(f, "file", "test", BLOCK_PERM_WRITE, BLOCK_PERM_ALL);
    g_assert_cmpint(fixture_write(f, blk, 0, b->bytes->data, b->bytes->len, 0), ==, 0);
    fixture_free_backend(f, blk);
    fixture_add(f, "{'driver': 'qcow2', 'node-name': 'q', 'read-only': true, 'file': 'file', "
                   "'l2-cache-entry-size': 512, 'l2-cache-size': 4096}");
    blk = fixture_backend(f, "q", "test", BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL);
    fixture_start_threads(f);
    for (unsigned i = 0; i < G_N_ELEMENTS(readers); i++) {
        readers[i] = (Reader){.blk = blk, .seed = i, .ended = &ended};
        aio_co_enter(fixture_thread(f, i % FIXTURE_THREADS), reader_entry, &readers[i]);
    }
    fixture_wait_count(f, &ended, G_N_ELEMENTS(readers));
    fixture_free_backend(f, blk);
}

/* Running a body as a test */

/*
 * What writes while its gate is closed is made quiet before all others, also those that are newer,
 * for its storage may be served from them.
 */
static void co_fn body_settles_first(GraphRig *rig)
{
    static const char *const names[] = {"newer", "file", "q", "top"};
    static const char *const wanted[] = {"top", "q", "newer", "file"};
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, MIB);
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    g_auto(BlockQuiesce) quiesce = {0};
    GError *error = NULL;

    qcow2_builder_count(b);
    co_add_file(rig, b);
    graph_rig_co_add(rig,
                     graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', 'file': 'file'}"));
    graph_rig_co_add(rig, graph_rig_options("{'driver': 'raw', 'node-name': 'top', 'file': 'q'}"));
    graph_rig_co_add(rig,
                     graph_rig_options("{'driver': 'memory', 'node-name': 'newer', 'size': 512}"));
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_ptr_array_add(nodes, block_graph_find(rig->graph, names[i], NULL));
    }
    co_mutex_lock(&rig->graph->change_lock);
    block_quiesce_co_begin(&quiesce, rig->graph, nodes, &error);
    g_assert_no_error(error);
    for (unsigned i = 0; i < G_N_ELEMENTS(wanted); i++) {
        const BlockNode *node = g_ptr_array_index(quiesce.nodes, i);

        g_assert_cmpstr(node->name, ==, wanted[i]);
    }
    block_quiesce_co_end(&quiesce);
    co_mutex_unlock(&rig->graph->change_lock);
}

static void add(const char *name, void co_fn (*body)(GraphRig *rig), gconstpointer user)
{
    g_autofree char *path = g_strconcat("/qcow2/driver/", name, NULL);

    graph_rig_add_test(path, body, user);
}

static void add_nth(const char *name, unsigned i, void co_fn (*body)(GraphRig *rig),
                    gconstpointer user)
{
    g_autofree char *path = g_strdup_printf("%s/%u", name, i);

    add(path, body, user);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned bits = 9; bits <= 21; bits += 4) {
        add_nth("kinds", bits, body_kinds, GUINT_TO_POINTER(bits));
    }
    add("runs", body_runs, NULL);
    add("subclusters", body_subclusters, NULL);
    add("data-file", body_data_file, NULL);
    add("short-backing", body_short_backing, NULL);
    add("chain", body_chain, NULL);
    add("backing-null", body_backing_null, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad_names); i++) {
        add_nth("bad-name", i, body_bad_name, &bad_names[i]);
    }
    add("data-file-refused", body_data_file_refused, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cache_options); i++) {
        add_nth("caches", i, body_caches, cache_options[i]);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(bad_cache_options); i++) {
        add_nth("bad-cache", i, body_bad_cache, bad_cache_options[i]);
    }
    add_nth("writable", 1, body_writable, GSIZE_TO_POINTER(QCOW2_INCOMPATIBLE_DIRTY));
    add_nth("writable", 2, body_writable, GSIZE_TO_POINTER(QCOW2_INCOMPATIBLE_CORRUPT));
    add("clean", body_clean, NULL);
    add("reopen-writable", body_reopen_writable, NULL);
    add("reopen-stale", body_reopen_stale, NULL);
    add("corrupt-refcounts", body_corrupt_refcounts, NULL);
    add("autoclear", body_autoclear, NULL);
    add("reopen", body_reopen, NULL);
    add("exchange-backing", body_exchange_backing, NULL);
    add("permissions", body_permissions, NULL);
    add("backing-permissions", body_backing_permissions, NULL);
    add("settles-first", body_settles_first, NULL);
    add("activate", body_activate, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(hostiles); i++) {
        g_autofree char *name = g_strconcat("hostile/", hostiles[i].name, NULL);

        add(name, body_hostile, &hostiles[i]);
    }
    add("tables-as-data", body_tables_as_data, NULL);
    add("snapshots", body_snapshots, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad_snapshots); i++) {
        add_nth("bad-snapshots", i, body_bad_snapshots, &bad_snapshots[i]);
    }
    add("no-image", body_no_image, NULL);
    add("empty-disk", body_empty_disk, NULL);
    add("io-error", body_io_error, NULL);
    g_test_add_func("/qcow2/driver/threads", test_threads);
    return g_test_run();
}
