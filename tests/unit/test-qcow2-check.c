/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Checks and repairs of qcow2 images that are broken in one way each. What a repair leaves is
 * looked at by another checker, by the driver, and after each of the writes that it made.
 */
#include <errno.h>

#include "block/block-internal.h"
#include "block/drivers/qcow2/counts.h"
#include "block/drivers/qcow2/refcount.h"
#include "block/drivers/qcow2/snapshot.h"
#include "job/driver.h"
#include "tests/unit/graph-rig.h"
#include "tests/unit/qcow2-builder.h"
#include "tests/unit/qcow2-checker.h"
#include "tests/unit/qcow2-records.h"

#define CLUSTERS 6 /* of data at the beginning of the disk */

static GArray *records; /* what a repair writes to its file; NULL: nothing is recorded */

static int failing_write = -1; /* after so many that go well; -1: none fails */

static Job *to_cancel; /* when it writes the header; NULL: none */

int co_fn __real_block_child_co_pwritev(BlockChild *child, uint64_t offset, const IoVector *iov,
                                        BlockRequestFlags flags);
int co_fn __wrap_block_child_co_pwritev(BlockChild *child, uint64_t offset, const IoVector *iov,
                                        BlockRequestFlags flags);
int co_fn __wrap_block_child_co_pwritev(BlockChild *child, uint64_t offset, const IoVector *iov,
                                        BlockRequestFlags flags)
{
    if (records) {
        records_add(records, RECORD_WRITE, offset, iov->bytes, iov);
    }
    if (failing_write >= 0 && failing_write-- == 0) {
        return -EIO;
    }
    if (to_cancel && offset == 0) {
        g_assert_true(job_co_cancel(g_steal_pointer(&to_cancel), NULL));
    }
    return __real_block_child_co_pwritev(child, offset, iov, flags);
}

/* One way to break an image. */
typedef struct Case {
    const char *name;
    void (*damage)(Qcow2Builder *b);
    int64_t corruptions, leaks;
    int64_t left;     /* corruptions that no repair can mend */
    int64_t more;     /* leaks that there are then: old refcounts */
    uint64_t lost;    /* clusters of the disk (bits) that read as zeros afterwards */
    unsigned version; /* 0: 3 */
    unsigned bits;    /* of a cluster; 0: 12 */
    uint64_t features;
    unsigned order; /* of refcounts, if @set_order */
    bool set_order;
} Case;

static uint64_t size_of(const Qcow2Builder *b)
{
    return qcow2_cluster_size(&b->layout);
}

static uint64_t get(Qcow2Builder *b, uint64_t offset)
{
    return be64_get(qcow2_builder_at(b, offset));
}

static void put(Qcow2Builder *b, uint64_t offset, uint64_t word)
{
    be64_put(qcow2_builder_at(b, offset), word);
}

static uint64_t l2_slot(Qcow2Builder *b, uint64_t cluster)
{
    return qcow2_builder_l2_slot(b, cluster);
}

static void set_bits(Qcow2Builder *b, uint64_t slot, uint64_t bits)
{
    put(b, slot, get(b, slot) | bits);
}

static void clear_bits(Qcow2Builder *b, uint64_t slot, uint64_t bits)
{
    put(b, slot, get(b, slot) & ~bits);
}

/* The refcount of the cluster at @offset. */
static void set_refcount(Qcow2Builder *b, uint64_t offset, uint64_t value)
{
    unsigned order = be32_get(b->bytes->data + 4) >= 3 ? be32_get(b->bytes->data + 96) : 4;
    uint64_t cluster = offset / size_of(b), per_block = size_of(b) * 8 >> order;
    uint64_t block = get(b, size_of(b) + cluster / per_block * 8);

    qcow2_refcount_set(qcow2_builder_at(b, block), order, cluster % per_block, value);
}

static uint64_t data_of(Qcow2Builder *b, uint64_t cluster)
{
    return get(b, l2_slot(b, cluster)) & QCOW2_ENTRY_OFFSET;
}

/* Damage */

static void nothing(Qcow2Builder *b)
{
}

static void leak(Qcow2Builder *b)
{
    uint64_t at = qcow2_builder_append(b, 3);

    for (unsigned i = 0; i < 3; i++) {
        set_refcount(b, at + i * size_of(b), i + 1 > 1 && be32_get(b->bytes->data + 96) ? 2 : 1);
    }
}

static void too_high(Qcow2Builder *b)
{
    set_refcount(b, data_of(b, 1), 3);
    clear_bits(b, l2_slot(b, 1), QCOW2_ENTRY_COPIED);
}

static void too_low(Qcow2Builder *b)
{
    set_refcount(b, data_of(b, 1), 0);
}

static void named_twice(Qcow2Builder *b)
{
    put(b, l2_slot(b, 4), get(b, l2_slot(b, 1)));
    if (b->layout.entry_words > 1) {
        put(b, l2_slot(b, 4) + 8, UINT32_MAX);
    }
}

static void table_twice(Qcow2Builder *b)
{
    put(b, qcow2_builder_l1_slot(b, UINT64_C(1) << b->layout.l2_bits),
        get(b, qcow2_builder_l1_slot(b, 0)));
}

static void copied_missing(Qcow2Builder *b)
{
    clear_bits(b, l2_slot(b, 2), QCOW2_ENTRY_COPIED);
    clear_bits(b, qcow2_builder_l1_slot(b, 0), QCOW2_ENTRY_COPIED);
}

static void copied_wrong(Qcow2Builder *b)
{
    set_refcount(b, data_of(b, 2), 2);
}

static void unaligned_data(Qcow2Builder *b)
{
    set_bits(b, l2_slot(b, 2), 512);
}

static void unaligned_zero(Qcow2Builder *b)
{
    set_bits(b, l2_slot(b, 2), 512 | QCOW2_ENTRY_ZERO);
}

static void past_end(Qcow2Builder *b)
{
    put(b, l2_slot(b, 2), UINT64_C(1) << 40 | QCOW2_ENTRY_COPIED);
}

static void far_past_end(Qcow2Builder *b)
{
    put(b, l2_slot(b, 2), (QCOW2_ENTRY_OFFSET & ~(size_of(b) - 1)) | QCOW2_ENTRY_COPIED);
}

static void compressed_past_end(Qcow2Builder *b)
{
    put(b, l2_slot(b, 2), QCOW2_ENTRY_COMPRESSED | UINT64_C(1) << 40);
}

static void compressed_copied(Qcow2Builder *b)
{
    set_bits(b, l2_slot(b, CLUSTERS - 1), QCOW2_ENTRY_COPIED);
}

static void reserved_l2(Qcow2Builder *b)
{
    set_bits(b, l2_slot(b, 2), 4);
}

static void reserved_l1(Qcow2Builder *b)
{
    set_bits(b, qcow2_builder_l1_slot(b, 0), 2);
}

static void nowhere(Qcow2Builder *b)
{
    put(b, l2_slot(b, 2), QCOW2_ENTRY_COPIED);
}

static void both(Qcow2Builder *b)
{
    put(b, l2_slot(b, 2) + 8, UINT64_MAX);
}

static void nowhere_subclusters(Qcow2Builder *b)
{
    put(b, l2_slot(b, 2), 0);
}

static void unaligned_table(Qcow2Builder *b)
{
    set_bits(b, qcow2_builder_l1_slot(b, 0), 512);
}

static void table_past_end(Qcow2Builder *b)
{
    put(b, qcow2_builder_l1_slot(b, 0), UINT64_C(1) << 40 | QCOW2_ENTRY_COPIED);
}

static void table_is_l1(Qcow2Builder *b)
{
    put(b, qcow2_builder_l1_slot(b, 0), b->l1_offset | QCOW2_ENTRY_COPIED);
}

static void block_missing(Qcow2Builder *b)
{
    put(b, size_of(b), 0);
}

static void block_unaligned(Qcow2Builder *b)
{
    set_bits(b, size_of(b), 512);
}

static void block_past_end(Qcow2Builder *b)
{
    put(b, size_of(b), UINT64_C(1) << 41);
}

static void block_negative(Qcow2Builder *b)
{
    put(b, size_of(b), -size_of(b));
}

static void block_twice(Qcow2Builder *b)
{
    put(b, size_of(b) + 8, get(b, size_of(b)));
}

static void block_is_data(Qcow2Builder *b)
{
    put(b, l2_slot(b, 2), get(b, size_of(b)) | QCOW2_ENTRY_COPIED);
}

static void no_reftable(Qcow2Builder *b)
{
    put(b, 48, UINT64_C(1) << 40);
}

static void huge_reftable(Qcow2Builder *b)
{
    be32_put(qcow2_builder_at(b, 56), UINT32_MAX);
}

static void reftable_unaligned(Qcow2Builder *b)
{
    put(b, 48, size_of(b) + 8);
}

static void marks(Qcow2Builder *b)
{
    put(b, 72, get(b, 72) | QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT);
}

static void all_uncounted(Qcow2Builder *b)
{
    memset(qcow2_builder_at(b, get(b, size_of(b))), 0, size_of(b));
    put(b, 72, get(b, 72) | QCOW2_INCOMPATIBLE_DIRTY);
}

static void l1_past_end(Qcow2Builder *b)
{
    put(b, 40, UINT64_C(1) << 40);
}

static void l1_unaligned(Qcow2Builder *b)
{
    put(b, 40, b->l1_offset + 8);
}

static void l1_huge(Qcow2Builder *b)
{
    be32_put(qcow2_builder_at(b, 36), UINT32_MAX);
}

/* So that it goes on, after the largest number, with the header. */
static void l1_wraps(Qcow2Builder *b)
{
    put(b, 40, UINT64_C(0xffffffffffff0000));
    be32_put(qcow2_builder_at(b, 36), 16384);
}

static void no_snapshots(Qcow2Builder *b)
{
    be32_put(qcow2_builder_at(b, 60), 2);
    put(b, 64, UINT64_C(1) << 40);
}

/* An empty table of snapshots, as it were, is one of snapshots without anything. */
static void snapshots_cut(Qcow2Builder *b)
{
    uint64_t at = qcow2_builder_append(b, 1);

    be32_put(qcow2_builder_at(b, 60), UINT32_MAX);
    put(b, 64, at);
    set_refcount(b, at, 1);
}

static void snapshot_l1(Qcow2Builder *b, uint64_t offset, uint32_t entries)
{
    uint64_t at = qcow2_builder_append(b, 1);

    be32_put(qcow2_builder_at(b, 60), 1);
    put(b, 64, at);
    put(b, at, offset);
    be32_put(qcow2_builder_at(b, at + 8), entries);
    be32_put(qcow2_builder_at(b, at + 36), QCOW2_SNAPSHOT_V3_EXTRA);
    put(b, at + 48, get(b, 24));
    set_refcount(b, at, 1);
}

/* One that has nothing, with an id of one letter, as if its extra data had that length. */
static void snapshot_extra(Qcow2Builder *b, uint32_t bytes)
{
    uint64_t at;

    snapshot_l1(b, 0, 0);
    at = get(b, 64);
    be32_put(qcow2_builder_at(b, at + 36), bytes);
    be16_put(qcow2_builder_at(b, at + 12), 1);
    *qcow2_builder_at(b, at + 40 + bytes) = 'x';
}

static void snapshot_incomplete(Qcow2Builder *b)
{
    snapshot_extra(b, 8);
}

static void snapshot_bare(Qcow2Builder *b)
{
    snapshot_extra(b, 0);
}

static void snapshot_too_long(Qcow2Builder *b)
{
    snapshot_extra(b, 1025);
}

/* Its extra data ends behind the end of the file: nobody can tell where its name is. */
/* The same in an image whose refcounts have to be written anew. */
static void snapshot_too_long_uncounted(Qcow2Builder *b)
{
    snapshot_too_long(b);
    all_uncounted(b);
}

static void snapshot_beyond(Qcow2Builder *b)
{
    snapshot_l1(b, 0, 0);
    be32_put(qcow2_builder_at(b, get(b, 64) + 36), UINT32_MAX);
}

static void l1_short(Qcow2Builder *b)
{
    be32_put(qcow2_builder_at(b, 36), 0);
}

static void disk_long(Qcow2Builder *b)
{
    put(b, 24, UINT64_C(1) << 40);
}

static void snapshot_unaligned(Qcow2Builder *b)
{
    snapshot_l1(b, b->l1_offset + 8, 1);
}

static void snapshot_past_end(Qcow2Builder *b)
{
    snapshot_l1(b, UINT64_C(1) << 40, 1);
}

static void snapshot_huge(Qcow2Builder *b)
{
    snapshot_l1(b, b->l1_offset, UINT32_MAX);
}

/* A snapshot that has the L1 table in use: all it names is named once more. */
static void snapshot_shares(Qcow2Builder *b)
{
    snapshot_l1(b, b->l1_offset, b->l1_entries);
}

/* Clusters that three bitmaps have, in the order of their places. */
enum {
    BITS,
    AUTO_TABLE,
    KEPT_TABLE,
    LOST_TABLE,
    DIRECTORY,
    BITMAP_CLUSTERS,
};

/* Give it bitmaps; where the first of their clusters lies. */
static uint64_t add_bitmaps(Qcow2Builder *b)
{
    uint64_t at = b->bytes->len;

    qcow2_builder_bitmaps(b);
    g_assert_cmpuint(b->bytes->len, ==, at + BITMAP_CLUSTERS * size_of(b));
    for (unsigned i = 0; i < BITMAP_CLUSTERS; i++) {
        set_refcount(b, at + i * size_of(b), 1);
    }
    return at;
}

static void bitmaps(Qcow2Builder *b)
{
    add_bitmaps(b);
}

/* Change the only entry of a bitmap that names a cluster. */
static void change_bits(Qcow2Builder *b, uint64_t flip)
{
    uint64_t slot = add_bitmaps(b) + KEPT_TABLE * size_of(b);

    put(b, slot, get(b, slot) ^ flip);
}

static void bits_reserved(Qcow2Builder *b)
{
    change_bits(b, 2);
}

static void bits_unaligned(Qcow2Builder *b)
{
    change_bits(b, 512);
}

static void bits_ones(Qcow2Builder *b)
{
    change_bits(b, 1);
}

static void bits_past_end(Qcow2Builder *b)
{
    change_bits(b, UINT64_C(1) << 40);
}

static void bitmap_table_past_end(Qcow2Builder *b)
{
    put(b, add_bitmaps(b) + DIRECTORY * size_of(b), UINT64_C(1) << 40);
}

static void bitmap_table_unaligned(Qcow2Builder *b)
{
    put(b, add_bitmaps(b) + DIRECTORY * size_of(b), size_of(b) + 8);
}

static void bitmap_unknown(Qcow2Builder *b)
{
    uint64_t directory = add_bitmaps(b) + DIRECTORY * size_of(b);

    be32_put(qcow2_builder_at(b, directory + 12), 1u << 31);
}

static void bitmaps_cut(Qcow2Builder *b)
{
    uint64_t directory = add_bitmaps(b) + DIRECTORY * size_of(b);

    be32_put(qcow2_builder_at(b, directory + 20), 1u << 31);
}

/* Something is hidden, and all refcounts are written anew: what is counted stays counted. */
static void hidden(Qcow2Builder *b)
{
    unaligned_table(b);
    block_twice(b);
}

static void hidden_bits(Qcow2Builder *b)
{
    bits_reserved(b);
    block_twice(b);
}

#define LOST(cluster) (UINT64_C(1) << (cluster))
#define EXTENDED      .bits = 14, .features = QCOW2_INCOMPATIBLE_EXTENDED_L2

static const Case cases[] = {
    {"nothing", nothing},
    {"nothing-version-2", nothing, .version = 2},
    {"nothing-small", nothing, .bits = 9},
    {"nothing-extended", nothing, EXTENDED},
    {"nothing-one-bit", nothing, .set_order = true, .order = 0},
    {"nothing-64-bits", nothing, .set_order = true, .order = 6},
    {"leak", leak, 0, 3},
    {"leak-one-bit", leak, 0, 3, .set_order = true, .order = 0},
    {"leak-64-bits", leak, 0, 3, .set_order = true, .order = 6},
    {"too-high", too_high, 0, 1},
    {"too-low", too_low, 2},
    {"too-low-small", too_low, 2, .bits = 9},
    {"named-twice", named_twice, 1, 1},
    {"named-twice-extended", named_twice, 1, 1, EXTENDED},
    {"table-twice", table_twice, 7},
    {"copied-missing", copied_missing, 2},
    {"copied-wrong", copied_wrong, 1, 1},
    {"unaligned-data", unaligned_data, 1, 1, .lost = LOST(2)},
    {"unaligned-data-version-2", unaligned_data, 1, 1, .lost = LOST(2), .version = 2},
    {"unaligned-zero", unaligned_zero, 1, 1, .lost = LOST(2)},
    {"past-end", past_end, 1, 1, .lost = LOST(2)},
    {"past-end-extended", past_end, 1, 1, .lost = LOST(2), EXTENDED},
    {"far-past-end", far_past_end, 1, 1, .lost = LOST(2)},
    {"compressed-past-end", compressed_past_end, 1, 1, .lost = LOST(2)},
    {"compressed-copied", compressed_copied, 1},
    {"reserved-l2", reserved_l2, 1},
    {"reserved-l1", reserved_l1, 1, 0},
    {"nowhere", nowhere, 1, 1, .lost = LOST(2)},
    {"subcluster-both", both, 1, EXTENDED},
    {"subcluster-nowhere", nowhere_subclusters, 1, 1, .lost = LOST(2), EXTENDED},
    {"unaligned-table", unaligned_table, 1, 7, .left = 1},
    {"table-past-end", table_past_end, 1, 7, .left = 1},
    {"table-is-l1", table_is_l1, 1, 7, .left = 1},
    {"block-missing", block_missing, 16},
    {"block-unaligned", block_unaligned, 17, 0},
    {"block-past-end", block_past_end, 17, 0},
    {"block-negative", block_negative, 17, 0},
    {"block-twice", block_twice, 3},
    {"block-is-data", block_is_data, 2, 1},
    {"no-reftable", no_reftable, 16},
    {"huge-reftable", huge_reftable, 16},
    {"reftable-unaligned", reftable_unaligned, 16},
    {"marks", marks},
    {"all-uncounted", all_uncounted, 17},
    {"l1-past-end", l1_past_end, 1, 8, .left = 1},
    {"l1-unaligned", l1_unaligned, 1, 8, .left = 1},
    {"l1-huge", l1_huge, 1, 8, .left = 1},
    {"l1-wraps", l1_wraps, 1, 8, .left = 1},
    {"no-snapshots", no_snapshots, 1, .left = 1},
    {"snapshots-cut", snapshots_cut, 103},
    {"snapshot-unaligned", snapshot_unaligned, 1, .left = 1},
    {"snapshot-past-end", snapshot_past_end, 1, .left = 1},
    {"snapshot-huge", snapshot_huge, 1, .left = 1},
    {"snapshot-shares", snapshot_shares, 8},
    {"snapshot-incomplete", snapshot_incomplete, 1},
    {"snapshot-bare", snapshot_bare, 1},
    {"snapshot-bare-version-2", snapshot_bare, .version = 2},
    {"snapshot-too-long", snapshot_too_long, 1},
    {"snapshot-too-long-version-2", snapshot_too_long, 1, .version = 2},
    {"snapshot-too-long-rebuild", snapshot_too_long_uncounted, 19},
    {"snapshot-beyond", snapshot_beyond, 1, .left = 1},
    {"l1-short", l1_short, 1, 8, .left = 1},
    {"disk-long", disk_long, 1, .left = 1},
    {"bitmaps", bitmaps},
    {"bits-reserved", bits_reserved, 1, 1, .left = 1},
    {"bits-unaligned", bits_unaligned, 1, 1, .left = 1},
    {"bits-ones", bits_ones, 1, 1, .left = 1},
    {"bits-past-end", bits_past_end, 1, 1, .left = 1},
    {"bitmap-table-past-end", bitmap_table_past_end, 1, 1, .left = 1},
    {"bitmap-table-unaligned", bitmap_table_unaligned, 1, 4, .left = 1},
    {"bitmap-unknown", bitmap_unknown, 1, 4, .left = 1},
    {"bitmaps-cut", bitmaps_cut, 1, 4, .left = 1},
    {"hidden", hidden, 4, 7, .left = 1, .more = 2},
    {"hidden-bits", hidden_bits, 4, 1, .left = 1, .more = 2},
};

static Qcow2Builder *make_image(const Case *test)
{
    unsigned bits = test->bits ? test->bits : 12;
    Qcow2Builder *b = qcow2_builder_new(test->version ? test->version : 3, bits, test->features,
                                        UINT64_C(3) << (2 * bits - 3));

    if (test->set_order) {
        be32_put(qcow2_builder_at(b, 96), test->order);
    }
    for (unsigned i = 0; i < CLUSTERS - 1; i++) {
        qcow2_builder_data(b, i, i + 1);
    }
    qcow2_builder_compressed(b, CLUSTERS - 1, CLUSTERS, QCOW2_COMPRESSION_ZLIB);
    qcow2_builder_count(b);
    return b;
}

/* Nodes */

static void co_fn co_add_file(GraphRig *rig, const uint8_t *bytes, uint64_t length)
{
    g_autofree char *json = g_strdup_printf(
        "{'driver': 'memory', 'node-name': 'file', 'size': %" G_GUINT64_FORMAT "}", length);
    BlockBackend *blk =
        graph_rig_co_use(graph_rig_co_add(rig, graph_rig_options(json)), BLOCK_PERM_WRITE);

    g_assert_cmpint(blk_co_pwritev(blk, 0, IOV_LOCAL(bytes, length), 0), ==, 0);
    block_backend_co_free(blk);
}

static GByteArray *co_fn co_file_bytes(GraphRig *rig)
{
    BlockBackend *blk =
        graph_rig_co_use(block_graph_find(rig->graph, "file", NULL), BLOCK_PERM_CONSISTENT_READ);
    GByteArray *bytes = g_byte_array_new();

    g_byte_array_set_size(bytes, blk_length(blk));
    g_assert_cmpint(blk_co_preadv(blk, 0, IOV_LOCAL(bytes->data, bytes->len), 0), ==, 0);
    block_backend_co_free(blk);
    return bytes;
}

static ImageCheck *co_fn co_check_node(GraphRig *rig, const char *name, ImageRepair repair)
{
    GError *error = NULL;
    ImageCheck *result =
        block_check_co_node(block_graph_find(rig->graph, name, NULL), repair, NULL, &error);

    g_assert_no_error(error);
    g_assert_nonnull(result);
    for (guint i = 0; i < result->findings->len; i++) {
        g_test_message("%s", (char *)g_ptr_array_index(result->findings, i));
    }
    return result;
}

/* Open it for a check, do that, and close it. */
static ImageCheck *co_fn co_check(GraphRig *rig, ImageRepair repair)
{
    ImageCheck *result;

    graph_rig_co_add(rig, graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', 'file': 'file', "
                                            "'for-check': true}"));
    result = co_check_node(rig, "q", repair);
    graph_rig_co_del(rig, "q");
    return result;
}

/* Each case */

/* The other checker, which knows nothing of snapshots, finds nothing. */
static void co_fn co_expect_right(GraphRig *rig)
{
    g_autoptr(GByteArray) bytes = co_file_bytes(rig);
    Qcow2Check check;

    qcow2_check(bytes->data, bytes->len, &check);
    g_assert_cmpstr(check.first, ==, NULL);
    g_assert_cmpuint(check.leaks, ==, 0);
    qcow2_check_clear(&check);
}

static void co_fn co_expect_data(GraphRig *rig, const Case *test, uint64_t size)
{
    BlockBackend *blk = graph_rig_co_use(
        graph_rig_co_add(
            rig, graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', 'file': 'file'}")),
        BLOCK_PERM_ALL);

    for (unsigned i = 0; i < CLUSTERS; i++) {
        if (test->damage == named_twice && i == 4) {
            graph_rig_co_expect(blk, i * size, size, 2);
        } else if (test->damage == block_is_data && i == 2) {
            continue; /* whatever */
        } else if (test->lost & LOST(i)) {
            graph_rig_co_expect_zeros(blk, i * size, size);
        } else {
            graph_rig_co_expect(blk, i * size, size, i + 1);
        }
    }
    for (unsigned i = 0; i < 2 * CLUSTERS; i++) {
        graph_rig_co_write(blk, i * size, size, 20 + i, 0);
    }
    for (unsigned i = 0; i < 2 * CLUSTERS; i++) {
        graph_rig_co_expect(blk, i * size, size, 20 + i);
    }
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "q");
}

static void co_fn body_case(GraphRig *rig)
{
    const Case *test = rig->user;
    g_autoptr(Qcow2Builder) b = make_image(test);
    g_autoptr(ImageCheck) found = NULL, repaired = NULL, again = NULL;
    g_autoptr(GByteArray) before = NULL, after = NULL;

    test->damage(b);
    co_add_file(rig, b->bytes->data, b->bytes->len);
    before = co_file_bytes(rig);
    found = co_check(rig, IMAGE_REPAIR_NONE);
    after = co_file_bytes(rig);
    g_assert_cmpmem(before->data, before->len, after->data, after->len);
    g_assert_cmpint(found->check_errors, ==, 0);
    g_assert_cmpint(found->leaks, ==, test->leaks);
    g_assert_cmpint(found->corruptions, ==, test->corruptions);
    g_assert_cmpint(found->corruptions_fixed + found->leaks_fixed, ==, 0);

    repaired = co_check(rig, IMAGE_REPAIR_ALL);
    g_assert_cmpint(repaired->check_errors, ==, 0);
    g_assert_cmpint(repaired->corruptions, ==, test->left);
    if (test->corruptions > test->left) { /* some go by themselves where others are repaired */
        g_assert_cmpint(repaired->corruptions_fixed + repaired->leaks_fixed, >, 0);
    }
    again = co_check(rig, IMAGE_REPAIR_NONE);
    g_assert_cmpint(again->corruptions, ==, test->left);
    g_assert_cmpint(again->corruptions_fixed, ==, 0);
    if (test->left) {
        g_assert_cmpint(again->leaks, ==, test->leaks + test->more); /* which may be none */
        return;
    }
    g_assert_cmpint(repaired->leaks, ==, 0);
    g_assert_cmpint(again->leaks, ==, 0);
    if (test->damage != snapshot_shares && test->damage != snapshots_cut) {
        co_expect_right(rig);
        co_expect_data(rig, test, size_of(b));
        if (test->damage != table_twice) { /* whose second user does not learn that it is alone */
            co_expect_right(rig);
        }
    }
}

/* Repairing leaks alone: nothing is lost, and what is wrong otherwise stays. */
static void co_fn body_leaks(GraphRig *rig)
{
    const Case *test = rig->user;
    g_autoptr(Qcow2Builder) b = make_image(test);
    g_autoptr(ImageCheck) repaired = NULL, again = NULL;

    test->damage(b);
    co_add_file(rig, b->bytes->data, b->bytes->len);
    repaired = co_check(rig, IMAGE_REPAIR_LEAKS);
    again = co_check(rig, IMAGE_REPAIR_NONE);
    g_assert_cmpint(again->leaks, ==, repaired->leaks);
    g_assert_cmpint(again->corruptions, ==, repaired->corruptions);
    if (test->corruptions == 0) {
        g_assert_cmpint(again->leaks, ==, 0);
        g_assert_cmpint(again->corruptions, ==, 0);
        co_expect_right(rig);
        co_expect_data(rig, test, size_of(b));
    }
}

static bool is_counted(Qcow2Builder *b, uint64_t offset)
{
    unsigned order = be32_get(b->bytes->data + 4) >= 3 ? be32_get(b->bytes->data + 96) : 4;
    uint64_t cluster = offset / size_of(b), per_block = size_of(b) * 8 >> order;
    uint64_t block = get(b, size_of(b) + cluster / per_block * 8);

    return block && qcow2_refcount_get(qcow2_builder_at(b, block), order, cluster % per_block) > 0;
}

static bool replaces_snapshots(const Case *test)
{
    return test->damage == snapshot_incomplete || test->damage == snapshot_bare ||
           test->damage == snapshot_too_long;
}

/* A repair that was cut off after any of its writes can be done again, to the same effect. */
static void co_fn body_cut(GraphRig *rig)
{
    const Case *test = rig->user;
    g_autoptr(Qcow2Builder) b = make_image(test);
    g_autoptr(GArray) all = NULL;

    test->damage(b);
    co_add_file(rig, b->bytes->data, b->bytes->len);
    records = records_new();
    image_check_free(co_check(rig, IMAGE_REPAIR_ALL));
    all = g_steal_pointer(&records);
    graph_rig_co_del(rig, "file");
    for (guint i = 0; i < all->len; i++) {
        g_autoptr(ImageCheck) again = NULL;

        record_apply(b->bytes, &g_array_index(all, Record, i));
        if (replaces_snapshots(test)) { /* or the next writer would take its place */
            g_assert_true(is_counted(b, get(b, 64)));
        }
        co_add_file(rig, b->bytes->data, b->bytes->len);
        again = co_check(rig, IMAGE_REPAIR_ALL);
        g_assert_cmpint(again->corruptions, ==, test->left);
        g_assert_cmpint(again->check_errors, ==, 0);
        if (!test->left && test->damage != snapshot_shares && test->damage != snapshots_cut) {
            co_expect_right(rig);
            co_expect_data(rig, test, size_of(b));
        }
        graph_rig_co_del(rig, "file");
    }
}

/* Take as many clusters as there are, and more, in an image that may not be fit for that. */
static void co_fn co_write_much(GraphRig *rig, uint64_t size)
{
    g_autoptr(GError) error = NULL;
    BlockdevOptions *opts =
        graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', 'file': 'file'}");
    bool ok = block_graph_co_add(rig->graph, opts, &error);
    BlockBackend *blk;

    blockdev_options_free(opts);
    if (!ok) {
        return;
    }
    blk = graph_rig_co_use(block_graph_find(rig->graph, "q", NULL), BLOCK_PERM_ALL);
    graph_rig_co_write(blk, 0, 64 * size, 99, 0);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "q");
}

/*
 * A repair in which a write fails, each of them in turn: whoever writes to the image then harms
 * nothing, and the next repair mends it.
 */
static void co_fn body_write_error(GraphRig *rig)
{
    const Case *test = rig->user;
    bool failed = true;

    for (int n = 0; failed; n++) {
        g_autoptr(Qcow2Builder) b = make_image(test);
        g_autoptr(ImageCheck) repaired = NULL, found = NULL, again = NULL;

        test->damage(b);
        co_add_file(rig, b->bytes->data, b->bytes->len);
        failing_write = n;
        repaired = co_check(rig, IMAGE_REPAIR_ALL);
        failed = failing_write < 0;
        failing_write = -1;
        g_assert_cmpint(repaired->check_errors, ==, failed);
        co_write_much(rig, size_of(b));
        found = co_check(rig, IMAGE_REPAIR_NONE);
        g_assert_cmpint(found->corruptions, <=, test->corruptions);
        again = co_check(rig, IMAGE_REPAIR_ALL);
        g_assert_cmpint(again->corruptions + again->check_errors, ==, 0);
        co_expect_right(rig);
        graph_rig_co_del(rig, "file");
    }
}

/* Tables that are something else, too */

/* A place that a table is to be at, where something else is already: an offset. */
typedef uint64_t Place(Qcow2Builder *b);

typedef struct Overlap {
    const char *name;
    Place *place;
    bool as_l1; /* of a snapshot; else as the L2 table of a part of the disk */
} Overlap;

static uint64_t at_data(Qcow2Builder *b)
{
    return data_of(b, 1);
}

static uint64_t at_compressed(Qcow2Builder *b)
{
    uint64_t entry = get(b, l2_slot(b, CLUSTERS - 1));

    return entry & ((UINT64_C(1) << (70 - b->layout.cluster_bits)) - 1) & ~(size_of(b) - 1);
}

static uint64_t at_refblock(Qcow2Builder *b)
{
    return get(b, size_of(b));
}

static uint64_t at_snapshots(Qcow2Builder *b)
{
    if (be32_get(qcow2_builder_at(b, 60)) == 0) {
        snapshot_l1(b, 0, 0);
    }
    return get(b, 64);
}

static uint64_t at_snapshot_l1(Qcow2Builder *b)
{
    uint64_t at = qcow2_builder_append(b, 1);

    set_refcount(b, at, 1);
    snapshot_l1(b, at, 1);
    return at;
}

static uint64_t at_l2(Qcow2Builder *b)
{
    return get(b, qcow2_builder_l1_slot(b, 0)) & QCOW2_ENTRY_OFFSET;
}

static uint64_t at_bits(Qcow2Builder *b)
{
    return add_bitmaps(b) + BITS * size_of(b);
}

static uint64_t at_bitmap_table(Qcow2Builder *b)
{
    return add_bitmaps(b) + KEPT_TABLE * size_of(b);
}

static uint64_t at_bitmap_directory(Qcow2Builder *b)
{
    return add_bitmaps(b) + DIRECTORY * size_of(b);
}

static const Overlap overlaps[] = {
    {"data", at_data},
    {"compressed", at_compressed},
    {"refblock", at_refblock},
    {"snapshots", at_snapshots},
    {"snapshot-l1", at_snapshot_l1},
    {"bits", at_bits},
    {"bitmap-table", at_bitmap_table},
    {"bitmap-directory", at_bitmap_directory},
    {"data-as-l1", at_data, true},
    {"compressed-as-l1", at_compressed, true},
    {"refblock-as-l1", at_refblock, true},
    {"l2-as-l1", at_l2, true},
    {"snapshots-as-l1", at_snapshots, true},
    {"bits-as-l1", at_bits, true},
    {"bitmap-table-as-l1", at_bitmap_table, true},
    {"bitmap-directory-as-l1", at_bitmap_directory, true},
};

/*
 * Entries that would be repaired if this were a table, at the end of a place, where it does least
 * harm: reserved bits, one that leads nowhere, and one that says that it is named once.
 */
static void make_faulty(Qcow2Builder *b, uint64_t at)
{
    uint64_t end = at + size_of(b);

    put(b, end - 8, data_of(b, 2) | QCOW2_ENTRY_COPIED | 2);
    put(b, end - 16, QCOW2_ENTRY_COPIED);
    put(b, end - 24, UINT64_C(1) << 40 | QCOW2_ENTRY_COPIED);
    put(b, end - 32, data_of(b, 3) | QCOW2_ENTRY_COPIED);
}

/* Whatever is wrong with the entries, what the other one is must not change. */
static void co_fn body_overlap(GraphRig *rig)
{
    static const Case test = {"overlap", nothing};
    const Overlap *overlap = rig->user;
    /* What was a block before all refcounts were written anew is a table then, and no more. */
    uint64_t ignored = overlap->place == at_refblock ? QCOW2_ENTRY_COPIED : 0;
    g_autoptr(Qcow2Builder) b = make_image(&test);
    g_autoptr(GByteArray) after = NULL;
    g_autoptr(ImageCheck) repaired = NULL;
    uint64_t at = overlap->place(b);

    make_faulty(b, at);
    if (overlap->as_l1) {
        uint64_t table = at_snapshots(b);

        put(b, table, at);
        be32_put(qcow2_builder_at(b, table + 8), size_of(b) / 8);
    } else {
        put(b, qcow2_builder_l1_slot(b, UINT64_C(1) << b->layout.l2_bits), at);
    }
    co_add_file(rig, b->bytes->data, b->bytes->len);
    repaired = co_check(rig, IMAGE_REPAIR_ALL);
    g_assert_cmpint(repaired->check_errors, ==, 0);
    g_assert_cmpint(repaired->corruptions, >, 0);
    after = co_file_bytes(rig);
    for (uint64_t i = at; i < at + size_of(b); i += 8) {
        g_assert_cmphex(get(b, i) & ~ignored, ==, be64_get(after->data + i) & ~ignored);
    }
}

/* Nodes in use */

#define IMAGE_NODE "{'driver': 'qcow2', 'node-name': 'q', 'file': 'file'}"

static BlockBackend *co_fn co_open(GraphRig *rig, BlockPerm perm)
{
    return graph_rig_co_use(graph_rig_co_add(rig, graph_rig_options(IMAGE_NODE)), perm);
}

static void co_fn co_expect_refused(GraphRig *rig, const char *node, ImageRepair repair,
                                    const char *pattern)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(
        block_check_co_node(block_graph_find(rig->graph, node, NULL), repair, NULL, &error));
    if (!g_pattern_match_simple(pattern, error->message)) {
        g_error("'%s' is not like '%s'", error->message, pattern);
    }
}

static void co_fn body_in_use(GraphRig *rig)
{
    static const Case test = {"in-use", nothing};
    g_autoptr(Qcow2Builder) b = make_image(&test);
    g_autoptr(ImageCheck) found = NULL, repaired = NULL;
    BlockBackend *blk;

    leak(b);
    co_add_file(rig, b->bytes->data, b->bytes->len);
    blk = co_open(rig, BLOCK_PERM_ALL);
    graph_rig_co_write(blk, 100 * size_of(b), 7 * size_of(b), 99, 0);
    found = co_check_node(rig, "q", IMAGE_REPAIR_NONE);
    g_assert_cmpint(found->corruptions, ==, 0);
    g_assert_cmpint(found->leaks, ==, 3);
    g_assert_cmpint(found->allocated_clusters, ==, CLUSTERS + 7);
    g_assert_cmpint(found->compressed_clusters, ==, 1);
    g_assert_cmpstr(found->format, ==, "qcow2");
    co_expect_refused(rig, "q", IMAGE_REPAIR_LEAKS, "*write*");
    block_backend_co_free(blk);

    blk = graph_rig_co_use(block_graph_find(rig->graph, "q", NULL), BLOCK_PERM_CONSISTENT_READ);
    repaired = co_check_node(rig, "q", IMAGE_REPAIR_LEAKS);
    g_assert_cmpint(repaired->leaks, ==, 0);
    g_assert_cmpint(repaired->leaks_fixed, ==, 3);
    graph_rig_co_expect(blk, 100 * size_of(b), 7 * size_of(b), 99);
    block_backend_co_free(blk);
    blk = graph_rig_co_use(block_graph_find(rig->graph, "q", NULL), BLOCK_PERM_ALL);
    graph_rig_co_write(blk, 200 * size_of(b), 7 * size_of(b), 98, 0);
    graph_rig_co_expect(blk, 200 * size_of(b), 7 * size_of(b), 98);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "q");
    co_expect_right(rig);
}

/* A corruption that is met in use makes the node refuse writes, until it is repaired. */
static void co_fn body_met_in_use(GraphRig *rig)
{
    static const Case test = {"met-in-use", past_end};
    g_autoptr(Qcow2Builder) b = make_image(&test);
    g_autoptr(ImageCheck) repaired = NULL;
    g_autofree uint8_t *buffer = g_malloc(size_of(b));
    IoVector iov = *IOV_LOCAL(buffer, size_of(b));
    BlockBackend *blk;

    past_end(b);
    co_add_file(rig, b->bytes->data, b->bytes->len);
    blk = co_open(rig, BLOCK_PERM_ALL);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*the image is corrupt*");
    g_assert_cmpint(blk_co_preadv(blk, 2 * size_of(b), &iov, 0), ==, -EIO);
    g_test_assert_expected_messages();
    g_assert_cmpint(blk_co_pwritev(blk, 0, &iov, 0), ==, -EIO);
    block_backend_co_free(blk);
    repaired = co_check_node(rig, "q", IMAGE_REPAIR_ALL);
    g_assert_cmpint(repaired->corruptions, ==, 0);
    blk = graph_rig_co_use(block_graph_find(rig->graph, "q", NULL), BLOCK_PERM_ALL);
    graph_rig_co_expect_zeros(blk, 2 * size_of(b), size_of(b));
    graph_rig_co_expect(blk, 0, size_of(b), 1);
    graph_rig_co_write(blk, 2 * size_of(b), size_of(b), 77, 0);
    graph_rig_co_expect(blk, 2 * size_of(b), size_of(b), 77);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "q");
    co_expect_right(rig);
}

/* A repair by a job */

typedef struct Repair {
    BlockNode *node;
    bool *ended;
} Repair;

static bool co_fn repair_co_run(Job *job, GError **error)
{
    const Repair *repair = job_state(job);
    g_autoptr(ImageCheck) found = NULL;

    to_cancel = job;
    found = block_check_co_node(repair->node, IMAGE_REPAIR_ALL, job, error);
    *repair->ended = true;
    return found;
}

static const JobDriver repair_driver = {
    .type = JOB_TYPE_CHECK,
    .state_size = sizeof(Repair),
    .co_run = repair_co_run,
};

/* One that is cancelled when a new table of snapshots is in use has that counted all the same. */
static void co_fn body_cancel(GraphRig *rig)
{
    static const Case test = {"cancel", snapshot_incomplete};
    g_autoptr(JobRegistry) jobs = job_registry_new(rig->ctx, NULL);
    g_autoptr(Qcow2Builder) b = make_image(&test);
    g_autoptr(ImageCheck) found = NULL;
    bool ended = false;
    Job *job = job_new(jobs, &repair_driver, &(JobOptions){.id = "repair"}, NULL);

    snapshot_incomplete(b);
    co_add_file(rig, b->bytes->data, b->bytes->len);
    *(Repair *)job_state(job) =
        (Repair){.node = graph_rig_co_add(rig, graph_rig_options(IMAGE_NODE)), .ended = &ended};
    job_start(job);
    while (!ended) {
        aio_co_sleep_ns(1000000);
    }
    g_assert_null(to_cancel);
    g_assert_true(job_registry_co_end_all(jobs, G_GINT64_CONSTANT(60000000000)));
    found = co_check_node(rig, "q", IMAGE_REPAIR_NONE);
    g_assert_cmpint(found->corruptions + found->leaks, ==, 0);
    graph_rig_co_del(rig, "q");
}

/* An image that was not closed in order is counted anew before it is written to. */
static void co_fn body_dirty(GraphRig *rig)
{
    static const Case test = {"dirty", all_uncounted};
    g_autoptr(Qcow2Builder) b = make_image(&test);
    g_autoptr(GByteArray) before = NULL, after = NULL;

    all_uncounted(b);
    co_add_file(rig, b->bytes->data, b->bytes->len);
    before = co_file_bytes(rig);
    graph_rig_co_add(rig, graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', "
                                            "'file': 'file', 'read-only': true}"));
    graph_rig_co_del(rig, "q");
    after = co_file_bytes(rig);
    g_assert_cmpmem(before->data, before->len, after->data, after->len);
    co_expect_data(rig, &test, size_of(b));
    co_expect_right(rig);
}

/* The same when it becomes active: until then it is not ours. */
static void co_fn body_dirty_inactive(GraphRig *rig)
{
    static const Case test = {"dirty-inactive", all_uncounted};
    g_autoptr(Qcow2Builder) b = make_image(&test);
    g_autoptr(GByteArray) before = NULL, after = NULL;
    BlockBackend *blk;

    all_uncounted(b);
    co_add_file(rig, b->bytes->data, b->bytes->len);
    before = co_file_bytes(rig);
    graph_rig_co_add(rig, graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', "
                                            "'file': 'file', 'active': false}"));
    after = co_file_bytes(rig);
    g_assert_cmpmem(before->data, before->len, after->data, after->len);
    g_assert_true(block_graph_co_set_active(rig->graph, "q", true, NULL));
    blk = graph_rig_co_use(block_graph_find(rig->graph, "q", NULL), BLOCK_PERM_ALL);
    graph_rig_co_write(blk, 50 * size_of(b), size_of(b), 5, 0);
    graph_rig_co_expect(blk, size_of(b), size_of(b), 2);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "q");
    co_expect_right(rig);
}

static bool co_fn co_is_dirty(GraphRig *rig)
{
    g_autoptr(GByteArray) bytes = co_file_bytes(rig);

    return be64_get(bytes->data + 72) & QCOW2_INCOMPATIBLE_DIRTY;
}

/* With lazy refcounts the image says that they are wrong from the first write on to the end. */
static void co_fn body_lazy(GraphRig *rig)
{
    static const Case test = {"lazy", nothing};
    g_autoptr(Qcow2Builder) b = make_image(&test);
    g_autoptr(ImageCheck) found = NULL;
    g_autofree char *reopened = NULL;
    BlockBackend *blk;

    be64_put(qcow2_builder_at(b, 80), QCOW2_COMPATIBLE_LAZY);
    co_add_file(rig, b->bytes->data, b->bytes->len);
    blk = co_open(rig, BLOCK_PERM_ALL);
    g_assert_false(co_is_dirty(rig));
    graph_rig_co_write(blk, 50 * size_of(b), 5 * size_of(b), 5, 0);
    g_assert_cmpint(blk_co_flush(blk), ==, 0);
    g_assert_true(co_is_dirty(rig));
    found = co_check_node(rig, "q", IMAGE_REPAIR_NONE);
    g_assert_cmpint(found->corruptions + found->leaks, ==, 0);
    g_assert_false(co_is_dirty(rig));
    graph_rig_co_write(blk, 60 * size_of(b), size_of(b), 6, 0);
    g_assert_true(co_is_dirty(rig));
    block_backend_co_free(blk);
    g_assert_true(block_graph_co_set_active(rig->graph, "q", false, NULL));
    g_assert_false(co_is_dirty(rig));
    co_expect_right(rig);
    g_assert_true(block_graph_co_set_active(rig->graph, "q", true, NULL));
    blk = graph_rig_co_use(block_graph_find(rig->graph, "q", NULL), BLOCK_PERM_ALL);
    graph_rig_co_write(blk, 70 * size_of(b), size_of(b), 7, 0);
    g_assert_true(co_is_dirty(rig));
    reopened = graph_rig_co_reopen(
        rig, graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', 'file': 'file', "
                               "'lazy-refcounts': false}"));
    g_assert_null(reopened);
    g_assert_false(co_is_dirty(rig));
    graph_rig_co_write(blk, 80 * size_of(b), size_of(b), 8, 0);
    g_assert_false(co_is_dirty(rig));
    graph_rig_co_expect(blk, 50 * size_of(b), 5 * size_of(b), 5);
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "q");
    co_expect_right(rig);
}

static void co_fn body_lazy_version_2(GraphRig *rig)
{
    static const Case test = {"lazy-version-2", nothing, .version = 2};
    g_autoptr(Qcow2Builder) b = make_image(&test);
    g_autofree char *message = NULL;

    co_add_file(rig, b->bytes->data, b->bytes->len);
    message = graph_rig_co_add_fails(
        rig, graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', 'file': 'file', "
                               "'lazy-refcounts': true}"));
    g_assert_nonnull(strstr(message, "lazy-refcounts"));
}

static void co_fn body_for_check(GraphRig *rig)
{
    static const Case test = {"for-check", nothing};
    g_autoptr(Qcow2Builder) b = make_image(&test);
    g_autofree char *message = NULL;
    BlockBackend *blk;
    BlockStatus status;
    uint64_t n;

    qcow2_builder_names(b, "/nowhere/at-all", "qcow2", NULL);
    marks(b);
    co_add_file(rig, b->bytes->data, b->bytes->len);
    blk = graph_rig_co_use(
        graph_rig_co_add(rig, graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', "
                                                "'file': 'file', 'for-check': true}")),
        BLOCK_PERM_ALL);
    g_assert_cmpint(blk_length(blk), ==, 0);
    g_assert_cmpint(blk_co_block_status(blk, 0, 1, &n, &status), ==, 0);
    g_assert_cmpint(blk_co_truncate(blk, 512, PREALLOC_MODE_OFF, 0, NULL), ==, -ENOTSUP);
    g_assert_cmpint(blk_co_flush(blk), ==, 0);
    message = graph_rig_co_reopen(rig, graph_rig_options(IMAGE_NODE));
    g_assert_nonnull(strstr(message, "for-check"));
    block_backend_co_free(blk);
    graph_rig_co_del(rig, "q");
}

/* Something that cannot be read; its offset. */
typedef struct Unreadable {
    const char *name;
    Place *place;
} Unreadable;

static const Unreadable unreadable[] = {
    {"l2", at_l2},
    {"refblock", at_refblock},
    {"snapshots", at_snapshots},
    {"snapshot-l1", at_snapshot_l1},
    {"bitmap-directory", at_bitmap_directory},
    {"bitmap-table", at_bitmap_table},
};

/* What cannot be read is no finding, and nothing that is hidden by that is given up. */
static void co_fn body_read_error(GraphRig *rig)
{
    static const Case test = {"read-error", leak};
    const Unreadable *what = rig->user;
    g_autoptr(Qcow2Builder) b = make_image(&test);
    g_autoptr(ImageCheck) found = NULL;
    g_autoptr(GByteArray) before = NULL, after = NULL;
    g_autofree char *bad = NULL;

    leak(b);
    bad = g_strdup_printf("{'driver': 'blkdebug', 'node-name': 'bad', 'image': 'file', "
                          "'inject-error': [{'event': 'none', 'iotype': 'read', "
                          "'sector': %" G_GUINT64_FORMAT ", 'errno': 5}]}",
                          what->place(b) / 512);
    co_add_file(rig, b->bytes->data, b->bytes->len);
    before = co_file_bytes(rig);
    graph_rig_co_add(rig, graph_rig_options(bad));
    graph_rig_co_add(rig, graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', 'file': 'bad', "
                                            "'for-check': true}"));
    found = co_check_node(rig, "q", IMAGE_REPAIR_ALL);
    g_assert_cmpint(found->check_errors, ==, 1);
    g_assert_cmpint(found->corruptions + found->corruptions_fixed, ==, 0);
    g_assert_cmpint(found->leaks_fixed, ==, 0);
    after = co_file_bytes(rig);
    g_assert_cmpmem(before->data, before->len, after->data, after->len);
}

static void co_fn body_unsupported(GraphRig *rig)
{
    graph_rig_co_add(rig, graph_rig_options("{'driver': 'null-co', 'node-name': 'n'}"));
    co_expect_refused(rig, "n", IMAGE_REPAIR_NONE, "*'n'*'null-co' cannot be checked");
}

static void test_counts(void)
{
    Qcow2Counts c;

    g_assert_cmpint(qcow2_counts_init(&c, QCOW2_COUNTS_MAX + 1), ==, -EFBIG);
    qcow2_counts_clear(&c);
    g_assert_cmpint(qcow2_counts_init(&c, 0), ==, 0);
    g_assert_cmpuint(qcow2_counts_next(&c, 0, 0), ==, 0);
    g_assert_cmpuint(qcow2_counts_end(&c), ==, 0);
    qcow2_counts_clear(&c);
    g_assert_cmpint(qcow2_counts_init(&c, 1000000), ==, 0);
    g_assert_cmpuint(qcow2_counts_next(&c, 5, 1000000), ==, 1000000);
    g_assert_cmpint(qcow2_counts_add(&c, 5000, 65534), ==, 0);
    g_assert_cmpuint(qcow2_counts_get(&c, 5000), ==, 65534);
    g_assert_cmpint(qcow2_counts_add(&c, 5000, 1), ==, 0);
    g_assert_cmpuint(qcow2_counts_get(&c, 5000), ==, 65535);
    g_assert_cmpint(qcow2_counts_add(&c, 5000, UINT64_C(1) << 40), ==, 0);
    g_assert_cmpuint(qcow2_counts_get(&c, 5000), ==, (UINT64_C(1) << 40) + 65535);
    qcow2_counts_remove(&c, 5000);
    g_assert_cmpuint(qcow2_counts_get(&c, 5000), ==, (UINT64_C(1) << 40) + 65534);
    g_assert_cmpint(qcow2_counts_add(&c, 999999, 1), ==, 0);
    g_assert_cmpuint(qcow2_counts_next(&c, 0, 1000000), ==, 5000);
    g_assert_cmpuint(qcow2_counts_next(&c, 0, 5000), ==, 5000);
    g_assert_cmpuint(qcow2_counts_next(&c, 0, 4000), ==, 4000);
    g_assert_cmpuint(qcow2_counts_next(&c, 5001, 1000000), ==, 999999);
    g_assert_cmpuint(qcow2_counts_end(&c), ==, 1000000);
    qcow2_counts_remove(&c, 999999);
    qcow2_counts_remove(&c, 999999);
    g_assert_cmpuint(qcow2_counts_end(&c), ==, 5001);
    g_assert_cmpuint(qcow2_counts_get(&c, 2000000), ==, 0);
    qcow2_counts_clear(&c);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qcow2/check/counts", test_counts);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *all = g_strdup_printf("/qcow2/check/all/%s", cases[i].name);
        g_autofree char *leaks = g_strdup_printf("/qcow2/check/leaks/%s", cases[i].name);
        g_autofree char *cut = g_strdup_printf("/qcow2/check/cut/%s", cases[i].name);

        graph_rig_add_test(all, body_case, &cases[i]);
        graph_rig_add_test(leaks, body_leaks, &cases[i]);
        graph_rig_add_test(cut, body_cut, &cases[i]);
        if (replaces_snapshots(&cases[i])) {
            g_autofree char *error = g_strdup_printf("/qcow2/check/write-error/%s", cases[i].name);

            graph_rig_add_test(error, body_write_error, &cases[i]);
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(overlaps); i++) {
        g_autofree char *name = g_strdup_printf("/qcow2/check/overlap/%s", overlaps[i].name);

        graph_rig_add_test(name, body_overlap, &overlaps[i]);
    }
    graph_rig_add_test("/qcow2/check/in-use", body_in_use, NULL);
    graph_rig_add_test("/qcow2/check/met-in-use", body_met_in_use, NULL);
    graph_rig_add_test("/qcow2/check/cancel", body_cancel, NULL);
    graph_rig_add_test("/qcow2/check/dirty", body_dirty, NULL);
    graph_rig_add_test("/qcow2/check/dirty-inactive", body_dirty_inactive, NULL);
    graph_rig_add_test("/qcow2/check/lazy", body_lazy, NULL);
    graph_rig_add_test("/qcow2/check/lazy-version-2", body_lazy_version_2, NULL);
    graph_rig_add_test("/qcow2/check/for-check", body_for_check, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(unreadable); i++) {
        g_autofree char *name = g_strdup_printf("/qcow2/check/read-error/%s", unreadable[i].name);

        graph_rig_add_test(name, body_read_error, &unreadable[i]);
    }
    graph_rig_add_test("/qcow2/check/unsupported", body_unsupported, NULL);
    return g_test_run();
}
