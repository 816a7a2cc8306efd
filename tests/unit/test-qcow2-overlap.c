/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Images of which something says that metadata is data, or free: whether a write there is prevented
 * is up to 'overlap-check'. What is prevented leaves the image as it was, and is told.
 */
#include <errno.h>

#include "block/block-internal.h"
#include "block/drivers/qcow2/snapshot.h"
#include "block/drivers/qcow2/state.h"
#include "qapi/commands-block-core.h"
#include "tests/unit/graph-rig.h"
#include "tests/unit/qcow2-builder.h"

#define BITS    12
#define CLUSTER (UINT64_C(1) << BITS)

/* Clusters of the disk: one that has data, one whose entry is wrong, and one that has nothing. */
#define GOOD  1
#define WRONG 5
#define FREE  7
#define SIZE  (1024 * CLUSTER) /* two L2 tables */

/* The image, and where its metadata lies, by kind. */
typedef struct Image {
    Qcow2Builder *b;
    uint64_t at[QCOW2_META__N];
} Image;

static uint64_t append_table(Qcow2Builder *b, uint64_t entry)
{
    uint64_t table = qcow2_builder_append(b, 1);

    be64_put(qcow2_builder_at(b, table), entry);
    return table;
}

/* A snapshot that has a table of its own, with nothing in it. */
static void add_snapshot(Image *image)
{
    g_autoptr(GPtrArray) snapshots =
        g_ptr_array_new_with_free_func((GDestroyNotify)qcow2_snapshot_free);
    g_autoptr(GByteArray) bytes = NULL;
    uint64_t l2 = append_table(image->b, 0);
    uint64_t l1 = append_table(image->b, l2 | QCOW2_ENTRY_COPIED);
    uint64_t table = qcow2_builder_append(image->b, 1);

    g_ptr_array_add(snapshots, qcow2_snapshot_new("1", "s", l1, image->b->l1_entries, SIZE));
    bytes = qcow2_snapshots_serialise(snapshots);
    g_assert_cmpuint(bytes->len, <=, CLUSTER);
    memcpy(qcow2_builder_at(image->b, table), bytes->data, bytes->len);
    be32_put(qcow2_builder_at(image->b, 60), 1);
    be64_put(qcow2_builder_at(image->b, 64), table);
    image->at[QCOW2_META_INACTIVE_L2] = l2;
    image->at[QCOW2_META_INACTIVE_L1] = l1;
    image->at[QCOW2_META_SNAPSHOT_TABLE] = table;
}

static uint64_t bitmap_directory(Qcow2Builder *b)
{
    g_autoptr(Qcow2Header) h = qcow2_header_parse(b->bytes->data, b->bytes->len, NULL);
    GBytes *extension = qcow2_header_extension(h, QCOW2_EXTENSION_BITMAPS);

    return be64_get((const uint8_t *)g_bytes_get_data(extension, NULL) + 16);
}

static void image_init(Image *image)
{
    Qcow2Builder *b = qcow2_builder_new(3, BITS, 0, SIZE);

    *image = (Image){.b = b};
    qcow2_builder_data(b, GOOD, 1);
    qcow2_builder_bitmaps(b);
    add_snapshot(image);
    qcow2_builder_count(b);
    image->at[QCOW2_META_REFCOUNT_TABLE] = CLUSTER;
    image->at[QCOW2_META_ACTIVE_L1] = b->l1_offset;
    image->at[QCOW2_META_ACTIVE_L2] = qcow2_builder_l2_slot(b, 0);
    image->at[QCOW2_META_REFCOUNT_BLOCK] = be64_get(qcow2_builder_at(b, CLUSTER));
    image->at[QCOW2_META_BITMAP_DIRECTORY] = bitmap_directory(b);
}

static void image_clear(Image *image)
{
    qcow2_builder_free(image->b);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Image, image_clear)

/* Options, and whether with them a kind is guarded */

typedef struct Mode {
    const char *name, *json;
    unsigned kinds;
} Mode;

#define BIT(kind) QCOW2_META_BIT(QCOW2_META_##kind)
#define CONSTANT                                                                                   \
    (BIT(HEADER) | BIT(ACTIVE_L1) | BIT(REFCOUNT_TABLE) | BIT(SNAPSHOT_TABLE) |                    \
     BIT(BITMAP_DIRECTORY))
#define CACHED (CONSTANT | BIT(ACTIVE_L2) | BIT(REFCOUNT_BLOCK) | BIT(INACTIVE_L1))
#define ALL    (CACHED | BIT(INACTIVE_L2))

static const Mode modes[] = {
    {"default", "", CACHED},
    {"none", ", 'overlap-check': 'none'", 0},
    {"constant", ", 'overlap-check': 'constant'", CONSTANT},
    {"cached", ", 'overlap-check': 'cached'", CACHED},
    {"all", ", 'overlap-check': 'all'", ALL},
    {"template", ", 'overlap-check': {'template': 'constant'}", CONSTANT},
    {"only-active-l1", ", 'overlap-check': {'template': 'none', 'active-l1': true}",
     BIT(ACTIVE_L1)},
    {"only-active-l2", ", 'overlap-check': {'template': 'none', 'active-l2': true}",
     BIT(ACTIVE_L2)},
    {"only-refcount-table", ", 'overlap-check': {'template': 'none', 'refcount-table': true}",
     BIT(REFCOUNT_TABLE)},
    {"only-refcount-block", ", 'overlap-check': {'template': 'none', 'refcount-block': true}",
     BIT(REFCOUNT_BLOCK)},
    {"only-snapshot-table", ", 'overlap-check': {'template': 'none', 'snapshot-table': true}",
     BIT(SNAPSHOT_TABLE)},
    {"only-inactive-l1", ", 'overlap-check': {'template': 'none', 'inactive-l1': true}",
     BIT(INACTIVE_L1)},
    {"only-inactive-l2", ", 'overlap-check': {'template': 'none', 'inactive-l2': true}",
     BIT(INACTIVE_L2)},
    {"only-bitmap-directory", ", 'overlap-check': {'template': 'none', 'bitmap-directory': true}",
     BIT(BITMAP_DIRECTORY)},
    {"but-active-l2", ", 'overlap-check': {'active-l2': false}", CACHED & ~BIT(ACTIVE_L2)},
    {"but-l1", ", 'overlap-check': {'template': 'all', 'active-l1': false, 'inactive-l1': false}",
     ALL & ~(BIT(ACTIVE_L1) | BIT(INACTIVE_L1))},
};

/* A node over the image */

typedef struct Run {
    GraphRig *rig;
    BlockNode *file;
    BlockBackend *blk;
    QapiEventSink sink;
    unsigned events;
    int64_t offset, size; /* of the last; -1: it had none */
} Run;

static void note_event(gpointer opaque, const char *name, QValue *data)
{
    Run *run = opaque;
    const QValue *offset = qvalue_object_get(data, "offset");
    const QValue *size = qvalue_object_get(data, "size");

    g_assert_cmpstr(name, ==, "BLOCK_IMAGE_CORRUPTED");
    g_assert_true(qvalue_get_bool(qvalue_object_get(data, "fatal")));
    run->events++;
    run->offset = offset ? qvalue_get_int(offset) : -1;
    run->size = size ? qvalue_get_int(size) : -1;
}

static BlockdevOptions *node_options(const char *more)
{
    g_autofree char *json = g_strdup_printf(
        "{'driver': 'qcow2', 'node-name': 'q', 'file': 'file', 'discard': 'unmap' %s}", more);

    return graph_rig_options(json);
}

static void co_fn co_begin(Run *run, GraphRig *rig, const Image *image, const char *more)
{
    g_autofree char *json = g_strdup_printf("{'driver': 'memory', 'node-name': 'file', 'size': %u}",
                                            image->b->bytes->len);
    BlockBackend *blk;

    *run = (Run){.rig = rig};
    run->sink = (QapiEventSink){note_event, run};
    rig->graph->events = &run->sink;
    run->file = graph_rig_co_add(rig, graph_rig_options(json));
    blk = graph_rig_co_use(run->file, BLOCK_PERM_WRITE);
    g_assert_cmpint(
        blk_co_pwritev(blk, 0, IOV_LOCAL(image->b->bytes->data, image->b->bytes->len), 0), ==, 0);
    block_backend_co_free(blk);
    run->blk = graph_rig_co_use(graph_rig_co_add(rig, node_options(more)),
                                BLOCK_PERM_WRITE | BLOCK_PERM_CONSISTENT_READ);
}

static void co_fn co_end(Run *run)
{
    block_backend_co_free(run->blk);
    graph_rig_co_del(run->rig, "q");
    graph_rig_co_del(run->rig, "file");
    run->rig->graph->events = NULL;
}

/* Whether the cluster of the file is as in the image; but bitmaps may be in use now. */
static bool co_fn co_is_untouched(Run *run, const Image *image, uint64_t offset)
{
    uint64_t skip = offset == image->at[QCOW2_META_BITMAP_DIRECTORY] ? 256 : 0;
    BlockBackend *blk = graph_rig_co_use(run->file, BLOCK_PERM_CONSISTENT_READ);
    uint8_t bytes[CLUSTER];

    g_assert_cmpint(blk_co_preadv(blk, offset, IOV_LOCAL(bytes, CLUSTER), 0), ==, 0);
    block_backend_co_free(blk);
    return memcmp(bytes + skip, image->b->bytes->data + offset + skip, CLUSTER - skip) == 0;
}

static bool co_fn co_is_marked(Run *run)
{
    BlockBackend *blk = graph_rig_co_use(run->file, BLOCK_PERM_CONSISTENT_READ);
    uint8_t features[8];

    g_assert_cmpint(blk_co_preadv(blk, 72, IOV_LOCAL(features, 8), 0), ==, 0);
    block_backend_co_free(blk);
    return be64_get(features) & QCOW2_INCOMPATIBLE_CORRUPT;
}

static void expect_report(const char *words)
{
    g_autofree char *pattern = g_strdup_printf("*'q'*corrupt*%s*", words);

    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, pattern);
}

/* A write was prevented: all that belongs to that. */
static void co_fn co_expect_prevented(Run *run, const Image *image, Qcow2Meta kind, int64_t offset,
                                      int64_t size)
{
    g_test_assert_expected_messages();
    g_assert_true(co_is_untouched(run, image, image->at[kind]));
    blk_co_settle_changes(run->blk);
    g_assert_cmpuint(run->events, ==, 1);
    g_assert_cmpint(run->offset, ==, offset);
    g_assert_cmpint(run->size, ==, size);
    g_assert_true(co_is_marked(run));
    g_assert_cmpint(blk_co_pwritev(run->blk, GOOD * CLUSTER, IOV_LOCAL("x", 1), 0), ==, -EIO);
    graph_rig_co_expect(run->blk, GOOD * CLUSTER, CLUSTER, 1);
}

/* What has just been done to the image is seen, and nobody complains. */
static void co_fn co_expect_done(Run *run, const Image *image, Qcow2Meta kind)
{
    g_assert_false(co_is_untouched(run, image, image->at[kind]));
    blk_co_settle_changes(run->blk);
    g_assert_cmpuint(run->events, ==, 0);
    g_assert_false(co_is_marked(run));
}

/* An entry of the disk names metadata: writing in place. */
static void co_fn co_try_in_place(GraphRig *rig, const Mode *mode, Qcow2Meta kind)
{
    g_auto(Image) image = {0};
    Run run;
    int r;

    image_init(&image);
    qcow2_builder_map(image.b, WRONG, image.at[kind] | QCOW2_ENTRY_COPIED, 0);
    co_begin(&run, rig, &image, mode->json);
    if (mode->kinds & QCOW2_META_BIT(kind)) {
        expect_report(qcow2_meta_text(kind));
    }
    r = blk_co_pwritev(run.blk, WRONG * CLUSTER + 4000, IOV_LOCAL("xyz", 3), 0);
    if (mode->kinds & QCOW2_META_BIT(kind)) {
        g_assert_cmpint(r, ==, -EIO);
        co_expect_prevented(&run, &image, kind, image.at[kind] + 4000, 3);
    } else {
        g_assert_cmpint(r, ==, 0);
        co_expect_done(&run, &image, kind);
    }
    co_end(&run);
}

/* Metadata is counted as free: the next new cluster would be there. */
static void co_fn co_try_new(GraphRig *rig, const Mode *mode, Qcow2Meta kind)
{
    g_auto(Image) image = {0};
    uint64_t block;
    Run run;
    int r;

    image_init(&image);
    block = image.at[QCOW2_META_REFCOUNT_BLOCK];
    be16_put(qcow2_builder_at(image.b, block + (image.at[kind] >> BITS) * 2), 0);
    co_begin(&run, rig, &image, mode->json);
    if (mode->kinds & QCOW2_META_BIT(kind)) {
        expect_report("counted as free");
    }
    r = blk_co_pwritev(run.blk, FREE * CLUSTER + 4000, IOV_LOCAL("xyz", 3), 0);
    if (mode->kinds & QCOW2_META_BIT(kind)) {
        g_assert_cmpint(r, ==, -EIO);
        co_expect_prevented(&run, &image, kind, image.at[kind], CLUSTER);
    } else {
        g_assert_cmpint(r, ==, 0);
        co_expect_done(&run, &image, kind);
    }
    co_end(&run);
}

static void co_fn body_mode(GraphRig *rig)
{
    const Mode *mode = rig->user;

    for (Qcow2Meta kind = QCOW2_META_ACTIVE_L1; kind < QCOW2_META__N; kind++) {
        co_try_in_place(rig, mode, kind);
        co_try_new(rig, mode, kind);
    }
}

/* The cluster of the header is given to nobody, whatever is guarded. */
static void co_fn body_header(GraphRig *rig)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++) {
        g_auto(Image) image = {0};
        Run run;

        image_init(&image);
        be16_put(qcow2_builder_at(image.b, image.at[QCOW2_META_REFCOUNT_BLOCK]), 0);
        co_begin(&run, rig, &image, modes[i].json);
        expect_report("counted as free");
        g_assert_cmpint(blk_co_pwritev(run.blk, FREE * CLUSTER, IOV_LOCAL("xyz", 3), 0), ==, -EIO);
        g_test_assert_expected_messages();
        blk_co_settle_changes(run.blk);
        g_assert_cmpint(run.offset, ==, 0);
        g_assert_cmpint(run.size, ==, CLUSTER);
        co_end(&run);
    }
}

/* A discard takes no storage from metadata; neither where the cluster goes, nor where it stays. */
static void co_fn body_discard(GraphRig *rig)
{
    static const Qcow2Meta kinds[] = {QCOW2_META_ACTIVE_L2, QCOW2_META_REFCOUNT_BLOCK,
                                      QCOW2_META_INACTIVE_L1};

    for (unsigned i = 0; i < 2 * G_N_ELEMENTS(kinds); i++) {
        Qcow2Meta kind = kinds[i / 2];
        bool keep = i % 2;
        g_auto(Image) image = {0};
        Run run;

        image_init(&image);
        qcow2_builder_map(image.b, WRONG, image.at[kind] | QCOW2_ENTRY_COPIED, 0);
        co_begin(&run, rig, &image, keep ? ", 'discard-no-unref': true" : "");
        expect_report(keep ? qcow2_meta_text(kind) : "counted as free");
        g_assert_cmpint(blk_co_pdiscard(run.blk, WRONG * CLUSTER, CLUSTER), ==, 0);
        blk_co_flush(run.blk); /* that is when it comes to pass */
        g_test_assert_expected_messages();
        blk_co_settle_changes(run.blk);
        g_assert_cmpint(run.offset, ==, image.at[kind]);
        g_assert_cmpint(run.size, ==, CLUSTER);
        g_assert_true(co_is_marked(&run));
        if (kind == QCOW2_META_INACTIVE_L1) { /* the others change, but are not emptied */
            g_assert_true(co_is_untouched(&run, &image, image.at[kind]));
        }
        graph_rig_co_expect(run.blk, GOOD * CLUSTER, CLUSTER, 1);
        co_end(&run);
    }
}

/* Two tables at one place: neither is written over the other. */
static void co_fn body_two_tables(GraphRig *rig)
{
    g_auto(Image) image = {0};
    Run run;

    image_init(&image);
    be64_put(qcow2_builder_at(image.b, image.b->l1_offset + 8),
             image.at[QCOW2_META_INACTIVE_L1] | QCOW2_ENTRY_COPIED);
    be64_put(qcow2_builder_at(image.b, image.at[QCOW2_META_INACTIVE_L1]), 0);
    co_begin(&run, rig, &image, "");
    g_assert_cmpint(blk_co_pwritev(run.blk, 600 * CLUSTER, IOV_LOCAL("xyz", 3), 0), ==, 0);
    expect_report(qcow2_meta_text(QCOW2_META_INACTIVE_L1));
    g_assert_cmpint(blk_co_flush(run.blk), ==, -EIO);
    co_expect_prevented(&run, &image, QCOW2_META_INACTIVE_L1, image.at[QCOW2_META_INACTIVE_L1],
                        CLUSTER);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*data may be lost*");
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*changes may be lost*");
    co_end(&run);
    g_test_assert_expected_messages();
}

/* The same with the place where the image says of bitmaps that they are in use. */
static void co_fn body_directory(GraphRig *rig)
{
    g_auto(Image) image = {0};
    Qcow2Meta kind = QCOW2_META_BITMAP_DIRECTORY;
    Run run;

    image_init(&image);
    be64_put(qcow2_builder_at(image.b, image.b->l1_offset + 8),
             image.at[kind] | QCOW2_ENTRY_COPIED);
    co_begin(&run, rig, &image, "");
    expect_report(qcow2_meta_text(QCOW2_META_ACTIVE_L2));
    g_assert_cmpint(blk_co_pwritev(run.blk, FREE * CLUSTER, IOV_LOCAL("xyz", 3), 0), ==, -EIO);
    g_test_assert_expected_messages();
    g_assert_true(co_is_untouched(&run, &image, image.at[kind]));
    co_end(&run);
}

/* The refcount table has to grow, to where an L2 table lies already, that nobody counts. */
static void co_fn body_growth(GraphRig *rig)
{
    const uint64_t cluster = 512, per_block = 256, full = cluster / 8 * per_block * cluster;
    g_auto(Image) image = {.b = qcow2_builder_new(3, 9, 0, 64 * cluster * 64)};
    Run run;

    for (unsigned i = 0; i < cluster / 8; i++) {
        uint64_t block = qcow2_builder_append(image.b, 1);

        be64_put(qcow2_builder_at(image.b, cluster + i * 8), block);
        for (unsigned j = 0; j < per_block; j++) {
            be16_put(qcow2_builder_at(image.b, block + j * 2), 1);
        }
    }
    qcow2_builder_append(image.b, (full - image.b->bytes->len) / cluster);
    g_assert_cmpuint(qcow2_builder_append(image.b, 8), ==, full);
    be64_put(qcow2_builder_at(image.b, image.b->l1_offset + 8), full | QCOW2_ENTRY_COPIED);
    co_begin(&run, rig, &image, "");
    expect_report("not counted");
    g_assert_cmpint(blk_co_pwritev(run.blk, 0, IOV_LOCAL("xyz", 3), 0), ==, -EIO);
    g_test_assert_expected_messages();
    blk_co_settle_changes(run.blk);
    g_assert_cmpint(run.offset, ==, full);
    g_assert_true(co_is_untouched(&run, &image, full));
    g_assert_true(co_is_untouched(&run, &image, cluster));
    co_end(&run);
}

/* The event says where in the image something is wrong, whatever it is. */
static void co_fn body_places(GraphRig *rig)
{
    const uint64_t far = UINT64_C(1) << 40;

    for (unsigned i = 0; i < 4; i++) {
        g_auto(Image) image = {0};
        uint8_t bytes[100];
        Run run;

        image_init(&image);
        be64_put(qcow2_builder_at(image.b, image.b->l1_offset + 8), far | QCOW2_ENTRY_COPIED);
        qcow2_builder_map(image.b, WRONG, (far + CLUSTER) | QCOW2_ENTRY_COPIED, 0);
        if (i == 2) {
            be64_put(qcow2_builder_at(image.b, CLUSTER), far + 512);
        }
        co_begin(&run, rig, &image, "");
        expect_report("*");
        switch (i) {
        case 0: /* an L2 table */
            g_assert_cmpint(blk_co_preadv(run.blk, 600 * CLUSTER, IOV_LOCAL(bytes, 100), 0), ==,
                            -EIO);
            break;
        case 1: /* data */
            g_assert_cmpint(blk_co_preadv(run.blk, WRONG * CLUSTER + 7, IOV_LOCAL(bytes, 100), 0),
                            ==, -EIO);
            break;
        case 2: /* a refcount block */
            g_assert_cmpint(blk_co_pwritev(run.blk, FREE * CLUSTER, IOV_LOCAL("x", 1), 0), ==,
                            -EIO);
            break;
        default: /* a table that is to be written to */
            g_assert_cmpint(blk_co_pwritev(run.blk, 600 * CLUSTER, IOV_LOCAL("x", 1), 0), ==, -EIO);
        }
        g_test_assert_expected_messages();
        blk_co_settle_changes(run.blk);
        g_assert_cmpuint(run.events, ==, 1);
        g_assert_cmpint(run.offset, ==, i == 1 ? far + CLUSTER + 7 : i == 2 ? far + 512 : far);
        g_assert_cmpint(run.size, ==, i == 1 ? 100 : CLUSTER);
        co_end(&run);
    }
}

/* What is guarded follows the options, and what the image has. */
static void co_fn body_reopen(GraphRig *rig)
{
    g_auto(Image) image = {0};
    Qcow2Meta kind = QCOW2_META_INACTIVE_L2;
    Run run;

    image_init(&image);
    qcow2_builder_map(image.b, WRONG, image.at[kind] | QCOW2_ENTRY_COPIED, 0);
    co_begin(&run, rig, &image, "");
    g_assert_cmpint(blk_co_pwritev(run.blk, WRONG * CLUSTER + 4000, IOV_LOCAL("", 1), 0), ==, 0);
    g_assert_null(graph_rig_co_reopen(rig, node_options(", 'overlap-check': 'all'")));
    expect_report(qcow2_meta_text(kind));
    g_assert_cmpint(blk_co_pwritev(run.blk, WRONG * CLUSTER + 4000, IOV_LOCAL("x", 1), 0), ==,
                    -EIO);
    co_expect_prevented(&run, &image, kind, image.at[kind] + 4000, 1);
    co_end(&run);
}

/*
 * What is metadata no more can be used for data: all that a snapshot had, after its end, and the
 * tables that were replaced. Fill the image, with everything guarded, again and again.
 */
static void co_fn body_reuse(GraphRig *rig)
{
    g_auto(Image) image = {0};
    QapiCall call = {.self = rig->graph};
    Run run;

    image_init(&image);
    co_begin(&run, rig, &image, ", 'overlap-check': 'all'");
    for (unsigned round = 0; round < 6; round++) {
        g_autofree char *name = g_strdup_printf("n%u", round);
        g_autoptr(SnapshotInfo) info = NULL;

        g_assert_true(qmp_blockdev_snapshot_internal_sync(&call, "q", name, NULL));
        for (unsigned i = 0; i < 40; i++) {
            graph_rig_co_write(run.blk, (round * 7 + i * 23) % 1024 * CLUSTER, CLUSTER, i, 0);
        }
        if (round % 2) {
            info = qmp_blockdev_snapshot_delete_internal_sync(&call, "q", NULL, name, NULL);
            g_assert_nonnull(info);
        } else {
            g_assert_true(qmp_blockdev_snapshot_apply_internal_sync(&call, "q", NULL, name, NULL));
        }
        g_assert_cmpint(blk_co_pdiscard(run.blk, 100 * CLUSTER, 300 * CLUSTER), ==, 0);
        g_assert_cmpint(blk_co_flush(run.blk), ==, 0);
    }
    blk_co_settle_changes(run.blk);
    g_assert_cmpuint(run.events, ==, 0);
    co_end(&run);
}

/* The bits alone */

static void test_bits(void)
{
    const uint64_t far = QCOW2_GUARD_BITS << BITS;
    const unsigned l2 = BIT(ACTIVE_L2), blocks = BIT(REFCOUNT_BLOCK);
    Qcow2Guard g;

    g_assert_true(qcow2_guard_init(&g, BITS, NULL));
    g_assert_false(qcow2_guard_may_hit(&g, QCOW2_META_ANY, 0, far));
    qcow2_guard_add(&g, QCOW2_META_ACTIVE_L2, 64 * CLUSTER, 1);
    g_assert_true(qcow2_guard_may_hit(&g, l2, 64 * CLUSTER, 1));
    g_assert_true(qcow2_guard_may_hit(&g, l2, 65 * CLUSTER - 1, 1));
    g_assert_true(qcow2_guard_may_hit(&g, l2, 0, 64 * CLUSTER + 1));
    g_assert_false(qcow2_guard_may_hit(&g, l2, 0, 64 * CLUSTER));
    g_assert_false(qcow2_guard_may_hit(&g, l2, 65 * CLUSTER, far - 2 * CLUSTER));
    g_assert_false(qcow2_guard_may_hit(&g, blocks, 0, far));
    g_assert_true(qcow2_guard_may_hit(&g, l2 | blocks, 3 * far + 64 * CLUSTER, 1)); /* shared */
    qcow2_guard_add(&g, QCOW2_META_REFCOUNT_BLOCK, far - CLUSTER, 3 * CLUSTER);
    g_assert_true(qcow2_guard_may_hit(&g, blocks, far + CLUSTER, 1));
    g_assert_true(qcow2_guard_may_hit(&g, blocks, CLUSTER, 1));
    g_assert_false(qcow2_guard_may_hit(&g, blocks, 2 * CLUSTER, far - 3 * CLUSTER));
    qcow2_guard_set_table(&g, QCOW2_META_ACTIVE_L1, 7 * CLUSTER, 8);
    g_assert_cmpint(qcow2_guard_find_table(&g, CACHED, 8 * CLUSTER - 1, 1), ==,
                    QCOW2_META_ACTIVE_L1);
    g_assert_cmpint(qcow2_guard_find_table(&g, l2, 7 * CLUSTER, 1), ==, QCOW2_META__N);
    qcow2_guard_set_table(&g, QCOW2_META_ACTIVE_L1, 9 * CLUSTER, CLUSTER + 8);
    g_assert_true(qcow2_guard_may_hit(&g, CACHED, 7 * CLUSTER, 1)); /* as it was once */
    g_assert_cmpint(qcow2_guard_find_table(&g, CACHED, 7 * CLUSTER, 1), ==, QCOW2_META__N);
    g_assert_cmpint(qcow2_guard_find_table(&g, CACHED, 0, 10 * CLUSTER + 1), ==,
                    QCOW2_META_ACTIVE_L1);
    g_assert_cmpint(qcow2_guard_find_table(&g, CACHED, 11 * CLUSTER, far), ==, QCOW2_META__N);
    qcow2_guard_reset(&g);
    g_assert_false(qcow2_guard_may_hit(&g, QCOW2_META_ANY, 0, far));
    qcow2_guard_clear(&g);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qcow2/overlap/bits", test_bits);
    for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++) {
        g_autofree char *path = g_strdup_printf("/qcow2/overlap/%s", modes[i].name);

        graph_rig_add_test(path, body_mode, &modes[i]);
    }
    graph_rig_add_test("/qcow2/overlap/header", body_header, NULL);
    graph_rig_add_test("/qcow2/overlap/discard", body_discard, NULL);
    graph_rig_add_test("/qcow2/overlap/two-tables", body_two_tables, NULL);
    graph_rig_add_test("/qcow2/overlap/directory", body_directory, NULL);
    graph_rig_add_test("/qcow2/overlap/growth", body_growth, NULL);
    graph_rig_add_test("/qcow2/overlap/places", body_places, NULL);
    graph_rig_add_test("/qcow2/overlap/reopen", body_reopen, NULL);
    graph_rig_add_test("/qcow2/overlap/reuse", body_reuse, NULL);
    return g_test_run();
}
