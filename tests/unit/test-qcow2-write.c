/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing to qcow2 images in memory: random requests next to a model that is plain memory, and
 * snapshots next to copies of it; the image is checked whenever it is closed; and what reaches it
 * is recorded, so that it can be looked at as it would be after a crash at any moment: after each
 * write, and with any of those since the last flush lost.
 */
#include <errno.h>

#include "block/block-internal.h"
#include "block/drivers/qcow2/bitmap.h"
#include "block/drivers/qcow2/refcount.h"
#include "block/drivers/qcow2/snapshot.h"
#include "qapi/commands-block-core.h"
#include "tests/unit/graph-rig.h"
#include "tests/unit/qcow2-builder.h"
#include "tests/unit/qcow2-checker.h"
#include "tests/unit/qcow2-records.h"

#define KIB 1024u
#define MIB (1024u * 1024u)

#define EXTENDED QCOW2_INCOMPATIBLE_EXTENDED_L2

/* Faults: requests of the driver to its file that fail */

static int faults_in = -1; /* so many requests go well before; -1: all do */
static bool faults_stay;   /* all that come then fail, too */

/* No more faults; returns whether one came to pass. */
static bool end_faults(void)
{
    bool struck = faults_stay ? faults_in == 0 : faults_in < 0;

    faults_in = -1;
    return struck;
}

static bool is_tested(const BlockChild *child)
{
    return strcmp(block_node_name(child->parent), "q") == 0;
}

static bool is_fault(const BlockChild *child)
{
    if (faults_in < 0 || !is_tested(child)) {
        return false;
    }
    if (faults_in > 0) {
        faults_in--;
        return false;
    }
    faults_in = faults_stay ? 0 : -1;
    return true;
}

int co_fn __real_block_child_co_preadv(BlockChild *child, uint64_t offset, const IoVector *iov,
                                       BlockRequestFlags flags);
int co_fn __wrap_block_child_co_preadv(BlockChild *child, uint64_t offset, const IoVector *iov,
                                       BlockRequestFlags flags);
int co_fn __wrap_block_child_co_preadv(BlockChild *child, uint64_t offset, const IoVector *iov,
                                       BlockRequestFlags flags)
{
    return is_fault(child) ? -EIO : __real_block_child_co_preadv(child, offset, iov, flags);
}

/* Recording: what the driver asks its file to do */

static GArray *records;      /* NULL: nothing is recorded */
static uint64_t record_time; /* a clock that each beginning and end moves on */

#define NOT_RECORDED G_MAXUINT

/* Returns what record_end() needs. */
static guint record_begin(const BlockChild *child, RecordKind kind, uint64_t offset, uint64_t bytes,
                          const IoVector *iov)
{
    if (!records || !is_tested(child)) {
        return NOT_RECORDED;
    }
    records_add(records, kind, offset, bytes, iov);
    g_array_index(records, Record, records->len - 1).begun = ++record_time;
    return records->len - 1;
}

static int record_end(guint n, int r)
{
    if (n != NOT_RECORDED && r == 0) {
        g_array_index(records, Record, n).ended = ++record_time;
    }
    return r;
}

int co_fn __real_block_child_co_pwritev(BlockChild *child, uint64_t offset, const IoVector *iov,
                                        BlockRequestFlags flags);
int co_fn __wrap_block_child_co_pwritev(BlockChild *child, uint64_t offset, const IoVector *iov,
                                        BlockRequestFlags flags);
int co_fn __wrap_block_child_co_pwritev(BlockChild *child, uint64_t offset, const IoVector *iov,
                                        BlockRequestFlags flags)
{
    guint n = record_begin(child, RECORD_WRITE, offset, iov->bytes, iov);

    return record_end(
        n, is_fault(child) ? -EIO : __real_block_child_co_pwritev(child, offset, iov, flags));
}

int co_fn __real_block_child_co_pwrite_zeroes(BlockChild *child, uint64_t offset, uint64_t bytes,
                                              BlockRequestFlags flags);
int co_fn __wrap_block_child_co_pwrite_zeroes(BlockChild *child, uint64_t offset, uint64_t bytes,
                                              BlockRequestFlags flags);
int co_fn __wrap_block_child_co_pwrite_zeroes(BlockChild *child, uint64_t offset, uint64_t bytes,
                                              BlockRequestFlags flags)
{
    guint n = record_begin(child, RECORD_ZERO, offset, bytes, NULL);

    return record_end(n, is_fault(child)
                             ? -EIO
                             : __real_block_child_co_pwrite_zeroes(child, offset, bytes, flags));
}

int co_fn __real_block_child_co_pdiscard(BlockChild *child, uint64_t offset, uint64_t bytes);
int co_fn __wrap_block_child_co_pdiscard(BlockChild *child, uint64_t offset, uint64_t bytes);
int co_fn __wrap_block_child_co_pdiscard(BlockChild *child, uint64_t offset, uint64_t bytes)
{
    guint n = record_begin(child, RECORD_ZERO, offset, bytes, NULL);

    return record_end(n, __real_block_child_co_pdiscard(child, offset, bytes));
}

static bool truncate_fails;  /* the next one */
static bool *truncate_waits; /* the next one, until that is true */

int co_fn __real_block_child_co_truncate(BlockChild *child, uint64_t size, PreallocMode prealloc,
                                         BlockRequestFlags flags, GError **error);
int co_fn __wrap_block_child_co_truncate(BlockChild *child, uint64_t size, PreallocMode prealloc,
                                         BlockRequestFlags flags, GError **error);
int co_fn __wrap_block_child_co_truncate(BlockChild *child, uint64_t size, PreallocMode prealloc,
                                         BlockRequestFlags flags, GError **error)
{
    guint n = record_begin(child, RECORD_TRUNCATE, size, 0, NULL);
    const bool *until = is_tested(child) ? g_steal_pointer(&truncate_waits) : NULL;

    if (truncate_fails && is_tested(child)) {
        truncate_fails = false;
        return -EIO;
    }
    while (until && !*until) {
        aio_co_sleep_ns(100000);
    }
    return record_end(n, __real_block_child_co_truncate(child, size, prealloc, flags, error));
}

int co_fn __real_block_child_co_flush(BlockChild *child);
int co_fn __wrap_block_child_co_flush(BlockChild *child);
int co_fn __wrap_block_child_co_flush(BlockChild *child)
{
    guint n = record_begin(child, RECORD_FLUSH, 0, 0, NULL);

    return record_end(n, is_fault(child) ? -EIO : __real_block_child_co_flush(child));
}

/* The kinds of images */

typedef struct Kind {
    const char *name;
    unsigned version, cluster_bits, order;
    uint64_t features;
    uint32_t size;
    bool backing;
    const char *options;
    bool compress; /* some of what is written */
    uint32_t base; /* bytes of the backing file; 0: half of the disk, and a little */
} Kind;

static const Kind kinds[] = {
    {"usual", 3, 16, 4, 0, 2 * MIB, false, ""},
    {"backing", 3, 16, 4, 0, 2 * MIB, true, ", 'discard': 'unmap'"},
    {"small-clusters", 3, 9, 4, 0, 300 * KIB, true, ", 'discard': 'unmap'"},
    {"small-clusters-wide-refcounts", 3, 9, 6, 0, 300 * KIB, false, ", 'overlap-check': 'all'"},
    {"one-bit", 3, 12, 0, 0, MIB, true, ", 'discard': 'unmap'"},
    {"two-bits", 3, 12, 1, 0, MIB, false, ", 'discard': 'unmap'"},
    {"four-bits", 3, 12, 2, 0, MIB, false, ""},
    {"eight-bits", 3, 12, 3, 0, MIB, true, ", 'overlap-check': 'none'"},
    {"thirty-two-bits", 3, 12, 5, 0, MIB, false,
     ", 'discard': 'unmap', 'pass-discard-other': true, 'overlap-check': 'all'"},
    {"version-2", 2, 12, 4, 0, MIB, false, ", 'discard': 'unmap'"},
    {"version-2-backing", 2, 12, 4, 0, MIB, true, ", 'discard': 'unmap'"},
    {"subclusters", 3, 16, 4, EXTENDED, 2 * MIB, false, ", 'discard': 'unmap'"},
    {"subclusters-backing", 3, 14, 4, EXTENDED, MIB, true, ", 'discard': 'unmap'"},
    {"large-clusters", 3, 21, 4, 0, 8 * MIB, true, ", 'discard': 'unmap'"},
    {"tiny-cache", 3, 9, 4, 0, 300 * KIB, true,
     ", 'l2-cache-size': 1024, 'l2-cache-entry-size': 512, 'discard': 'unmap'"},
    {"no-unref", 3, 12, 4, 0, MIB, true, ", 'discard-no-unref': true, 'discard': 'unmap'"},
    {"long-bitmaps", 3, 9, 4, 0, 1800 * KIB, false, ", 'discard': 'unmap'"},
    {"lazy", 3, 16, 4, 0, 2 * MIB, false, ", 'lazy-refcounts': true, 'discard': 'unmap'"},
    {"lazy-small", 3, 9, 6, 0, 300 * KIB, true, ", 'lazy-refcounts': true, 'discard': 'unmap'"},
    {"lazy-tiny-cache", 3, 9, 4, 0, 300 * KIB, true,
     ", 'lazy-refcounts': true, 'l2-cache-size': 1024, 'l2-cache-entry-size': 512"},
    {"compressed", 3, 16, 4, 0, 2 * MIB, true, ", 'discard': 'unmap'", true},
    {"compressed-small", 3, 9, 4, 0, 300 * KIB, false,
     ", 'discard': 'unmap', 'pass-discard-other': true, 'overlap-check': 'all'", true},
    {"compressed-subclusters", 3, 14, 4, EXTENDED, MIB, true, ", 'discard': 'unmap'", true},
    {"compressed-one-bit", 3, 12, 0, 0, MIB, true, "", true},
    {"compressed-two-bits", 3, 12, 1, 0, MIB, false, ", 'discard': 'unmap'", true},
    {"compressed-version-2", 2, 12, 4, 0, MIB, false, "", true},
};

/* One run */

/* A request to the disk: it began when so many records had been made. */
typedef struct Touch {
    guint at;
    uint64_t offset, bytes;
} Touch;

/* A flush that has returned: from then on the disk holds at least this, but for what came after. */
typedef struct Mark {
    guint at;
    uint8_t *model;
    uint64_t size;
    guint touches; /* before it */
} Mark;

/* A snapshot that was taken: the content it has. */
typedef struct Snap {
    char name[8];
    uint8_t *model;
    uint64_t size;
} Snap;

/* Which snapshots there are, "s1 s4 ", from some record on; and from an earlier one on, maybe. */
typedef struct Snaps {
    guint begun, done;
    char *names;
} Snaps;

typedef struct Run {
    GraphRig *rig;
    const Kind *kind;
    GRand *rand;
    BlockBackend *blk;
    uint8_t *model;
    uint8_t *first;     /* the model, at the beginning */
    uint64_t size, max; /* of the disk: now, and at most */
    uint8_t *buffer;
    GArray *touches, *marks;
    GArray *snaps;   /* of Snap: those there are */
    GArray *taken;   /* of Snap: all there were; they own the models */
    GArray *changes; /* of Snaps */
} Run;

static void mark_clear(gpointer mark)
{
    g_free(((Mark *)mark)->model);
}

static guint n_records(void)
{
    return records ? records->len : 0;
}

static void co_fn co_open(Run *run)
{
    g_autofree char *json =
        g_strdup_printf("{'driver': 'qcow2', 'node-name': 'q', 'file': 'file', 'backing': %s %s}",
                        run->kind->backing ? "'base'" : "null", run->kind->options);

    run->blk =
        graph_rig_co_use(graph_rig_co_add(run->rig, graph_rig_options(json)), BLOCK_PERM_ALL);
    g_assert_cmpuint(blk_length(run->blk), ==, run->size);
}

/* The bytes of a node as they are. */
static uint8_t *co_fn co_node_bytes(Run *run, const char *name, uint64_t *length)
{
    BlockNode *node = block_graph_find(run->rig->graph, name, NULL);
    BlockBackend *blk = graph_rig_co_use(node, 0);
    uint8_t *bytes;

    *length = blk_length(blk);
    bytes = g_malloc(*length);
    block_backend_co_free(blk);
    blk = graph_rig_co_use(node, BLOCK_PERM_CONSISTENT_READ);
    g_assert_cmpint(blk_co_preadv(blk, 0, IOV_LOCAL(bytes, *length), 0), ==, 0);
    block_backend_co_free(blk);
    return bytes;
}

static uint8_t *co_fn co_image(Run *run, uint64_t *length)
{
    return co_node_bytes(run, "file", length);
}

static void check_image(const uint8_t *bytes, uint64_t length, bool leaks, const char *when,
                        guint n)
{
    Qcow2Check check;

    qcow2_check(bytes, length, &check);
    if (check.corruptions > 0) {
        g_error("%s %u: %u corruptions: %s", when, n, check.corruptions, check.first);
    }
    if (!leaks && check.leaks > 0) {
        g_error("%s %u: %u leaks", when, n, check.leaks);
    }
    qcow2_check_clear(&check);
}

/*
 * A bitmap that may be trusted tells of all parts in which @disk is not what it was at the
 * beginning. Others are as they were.
 */
static void check_bitmaps(const Run *run, const uint8_t *bytes, uint64_t length,
                          const uint8_t *disk, uint64_t size)
{
    uint32_t flags = 0;
    g_autoptr(GByteArray) kept_up = qcow2_check_bitmap(bytes, length, "auto", &flags);
    g_autoptr(GByteArray) kept = NULL;

    for (uint64_t i = 0; kept_up && !(flags & QCOW2_BITMAP_IN_USE) && i < size; i++) {
        if (disk[i] != run->first[i] && !(kept_up->data[i / 512 / 8] & 1 << i / 512 % 8)) {
            g_error("the bitmap does not tell of a change at %" G_GUINT64_FORMAT, i);
        }
    }
    kept = qcow2_check_bitmap(bytes, length, "kept", &flags);
    for (uint64_t i = 0; kept && i < MIN(size, run->kind->size) / 512 / 8; i++) {
        uint64_t cluster = UINT64_C(1) << run->kind->cluster_bits;
        uint64_t last = run->kind->size / 512 / 8 / cluster * cluster;

        g_assert_cmpuint(flags, ==, 0);
        g_assert_cmphex(kept->data[i], ==, i < last ? 0xff : 0x55);
    }
}

/* With the image closed in order they are all there. */
static void check_closed_bitmaps(const Run *run, const uint8_t *bytes, uint64_t length)
{
    uint32_t flags;
    g_autoptr(GByteArray) bits = NULL;

    if (run->kind->version < 3) {
        return;
    }
    bits = qcow2_check_bitmap(bytes, length, "lost", &flags);
    g_assert_cmphex(flags, ==, QCOW2_BITMAP_AUTO | QCOW2_BITMAP_IN_USE);
    g_clear_pointer(&bits, g_byte_array_unref);
    bits = qcow2_check_bitmap(bytes, length, "auto", &flags);
    g_assert_cmphex(flags, ==, QCOW2_BITMAP_AUTO);
    check_bitmaps(run, bytes, length, run->model, run->size);
}

static void co_fn co_close(Run *run)
{
    g_autofree uint8_t *bytes = NULL;
    uint64_t length;

    block_backend_co_free(run->blk);
    graph_rig_co_del(run->rig, "q");
    bytes = co_image(run, &length);
    check_image(bytes, length, false, "closed at", n_records());
    check_closed_bitmaps(run, bytes, length);
}

static void co_fn co_mark(Run *run)
{
    Mark mark = {.at = n_records(),
                 .model = g_memdup2(run->model, run->max),
                 .size = run->size,
                 .touches = run->touches->len};

    g_array_append_val(run->marks, mark);
}

static void touch(Run *run, uint64_t offset, uint64_t bytes)
{
    Touch t = {n_records(), offset, bytes};

    g_array_append_val(run->touches, t);
}

/* A range of the disk: often small, often aligned. */
static void choose(Run *run, uint64_t *offset, uint64_t *bytes)
{
    uint64_t unit = g_rand_boolean(run->rand)           ? 1
                    : g_rand_int_range(run->rand, 0, 3) ? 512
                                                        : UINT64_C(1) << run->kind->cluster_bits;
    uint64_t most =
        MIN(run->size, g_rand_boolean(run->rand) ? 5000 : 3u << run->kind->cluster_bits);

    *offset = g_rand_int_range(run->rand, 0, run->size) / unit * unit;
    *bytes = g_rand_int_range(run->rand, 0, most) / unit * unit + unit;
    *bytes = MIN(*bytes, run->size - *offset);
}

static void co_fn co_expect(Run *run)
{
    g_assert_cmpint(blk_co_preadv(run->blk, 0, IOV_LOCAL(run->buffer, run->size), 0), ==, 0);
    if (memcmp(run->buffer, run->model, run->size) == 0) {
        return;
    }
    for (uint64_t i = 0; i < run->size; i++) {
        if (run->buffer[i] != run->model[i]) {
            g_error("the disk differs at %#" G_GINT64_MODIFIER "x: %#x instead of %#x", i,
                    run->buffer[i], run->model[i]);
        }
    }
}

/* Data to write, some of which cannot be compressed; returns the flags of the request. */
static BlockRequestFlags choose_data(Run *run, uint8_t *buffer, uint64_t bytes)
{
    graph_rig_fill(buffer, bytes, g_rand_int(run->rand));
    if (!run->kind->compress) {
        return 0;
    }
    for (uint64_t i = g_rand_int_range(run->rand, 0, 3 * bytes); i < bytes; i++) {
        buffer[i] = g_rand_int(run->rand);
    }
    return g_rand_int_range(run->rand, 0, 3) ? BLOCK_REQ_WRITE_COMPRESSED : 0;
}

static void co_fn co_do_write(Run *run, uint64_t offset, uint64_t bytes)
{
    BlockRequestFlags flags = choose_data(run, run->buffer, bytes);

    touch(run, offset, bytes);
    g_assert_cmpint(blk_co_pwritev(run->blk, offset, IOV_LOCAL(run->buffer, bytes), flags), ==, 0);
    memcpy(run->model + offset, run->buffer, bytes);
}

static void co_fn co_do_zero(Run *run, uint64_t offset, uint64_t bytes)
{
    BlockRequestFlags flags = g_rand_boolean(run->rand) ? BLOCK_REQ_MAY_UNMAP : 0;

    touch(run, offset, bytes);
    g_assert_cmpint(blk_co_pwrite_zeroes(run->blk, offset, bytes, flags), ==, 0);
    memset(run->model + offset, 0, bytes);
}

/* What is there after a discard nobody knows. */
static void co_fn co_do_discard(Run *run, uint64_t offset, uint64_t bytes)
{
    touch(run, offset, bytes);
    g_assert_cmpint(blk_co_pdiscard(run->blk, offset, bytes), ==, 0);
    g_assert_cmpint(blk_co_preadv(run->blk, offset, IOV_LOCAL(run->model + offset, bytes), 0), ==,
                    0);
}

/* The disk stays as it is, but a write to the range needs no more space then. */
static void co_fn co_do_allocate(Run *run, uint64_t offset, uint64_t bytes)
{
    g_assert_cmpint(blk_co_allocate(run->blk, offset, bytes), ==, 0);
}

static void co_fn co_do_truncate(Run *run)
{
    uint64_t size = (uint64_t)g_rand_int_range(run->rand, 1, run->max / 512) * 512;
    uint64_t low = MIN(size, run->size);
    PreallocMode mode = g_rand_boolean(run->rand)
                            ? PREALLOC_MODE_OFF
                            : g_rand_int_range(run->rand, 0, PREALLOC_MODE__COUNT);

    if (run->kind->version < 3 && run->snaps->len > 0) { /* which would not know their length */
        g_assert_cmpint(blk_co_truncate(run->blk, size, PREALLOC_MODE_OFF, 0, NULL), ==, -ENOTSUP);
        return;
    }
    touch(run, low, run->max - low);
    g_assert_cmpint(blk_co_truncate(run->blk, size, mode, BLOCK_REQ_ZERO, NULL), ==, 0);
    memset(run->model + low, 0, run->max - low);
    run->size = size;
    g_assert_cmpuint(blk_length(run->blk), ==, size);
}

static void co_fn co_do_flush(Run *run)
{
    g_assert_cmpint(blk_co_flush(run->blk), ==, 0);
    co_mark(run);
}

/* Snapshots */

static void snap_clear(gpointer snap)
{
    g_free(((Snap *)snap)->model);
}

static void snaps_clear(gpointer snaps)
{
    g_free(((Snaps *)snaps)->names);
}

static void note_snapshots(Run *run, guint begun)
{
    g_autoptr(GString) names = g_string_new(NULL);
    Snaps change = {.begun = begun, .done = n_records()};

    for (guint i = 0; i < run->snaps->len; i++) {
        g_string_append_printf(names, "%s ", g_array_index(run->snaps, Snap, i).name);
    }
    change.names = g_strdup(names->str);
    g_array_append_val(run->changes, change);
}

/* Whether the refcounts are wide enough for as many snapshots as there may be. */
static bool can_snapshot(const Run *run)
{
    return run->kind->order >= 3;
}

static void co_fn co_take_snapshot(Run *run)
{
    QapiCall call = {.self = run->rig->graph};
    g_autoptr(GError) error = NULL;
    Snap snap = {.size = run->size};
    guint begun = n_records();
    bool ok;

    g_snprintf(snap.name, sizeof(snap.name), "s%u", run->taken->len);
    ok = qmp_blockdev_snapshot_internal_sync(&call, "q", snap.name, &error);
    if (!can_snapshot(run) && !ok) {
        g_assert_nonnull(strstr(error->message, "cannot count one more user"));
        return;
    }
    g_assert_no_error(error);
    snap.model = g_memdup2(run->model, run->max);
    g_array_append_val(run->snaps, snap);
    g_array_append_val(run->taken, snap);
    note_snapshots(run, begun);
}

static guint choose_snapshot(Run *run)
{
    return g_rand_int_range(run->rand, 0, run->snaps->len);
}

static void co_fn co_delete_snapshot(Run *run)
{
    guint i = choose_snapshot(run);
    const Snap *snap = &g_array_index(run->snaps, Snap, i);
    QapiCall call = {.self = run->rig->graph};
    g_autoptr(GError) error = NULL;
    guint begun = n_records();
    g_autoptr(SnapshotInfo) info =
        qmp_blockdev_snapshot_delete_internal_sync(&call, "q", NULL, snap->name, &error);

    g_assert_no_error(error);
    g_assert_cmpstr(info->name, ==, snap->name);
    g_array_remove_index(run->snaps, i);
    note_snapshots(run, begun);
}

static void co_fn co_apply_snapshot(Run *run)
{
    const Snap *snap = &g_array_index(run->snaps, Snap, choose_snapshot(run));
    QapiCall call = {.self = run->rig->graph};
    g_autoptr(GError) error = NULL;

    touch(run, 0, run->max);
    if (!qmp_blockdev_snapshot_apply_internal_sync(&call, "q", NULL, snap->name, &error)) {
        g_assert_false(can_snapshot(run));
        g_assert_nonnull(strstr(error->message, "cannot count one more user"));
        return;
    }
    memcpy(run->model, snap->model, run->max);
    run->size = snap->size;
    g_assert_cmpuint(blk_length(run->blk), ==, run->size);
    co_mark(run);
}

static void co_fn co_do_snapshots(Run *run)
{
    int what = g_rand_int_range(run->rand, 0, 10);

    if (what < 4 && run->snaps->len < 6) {
        co_take_snapshot(run);
    } else if (run->snaps->len > 0 && what < 7) {
        co_apply_snapshot(run);
    } else if (run->snaps->len > 0) {
        co_delete_snapshot(run);
    }
}

/* The snapshot that the image in node @file has reads as the disk did. */
static void co_fn co_expect_snapshot(Run *run, const char *file, const Snap *snap)
{
    g_autofree char *json =
        g_strdup_printf("{'driver': 'qcow2', 'node-name': 'snap', 'file': '%s', 'read-only': true, "
                        "'snapshot': '%s', 'backing': %s}",
                        file, snap->name, run->kind->backing ? "'base'" : "null");
    BlockBackend *blk = graph_rig_co_use(graph_rig_co_add(run->rig, graph_rig_options(json)),
                                         BLOCK_PERM_CONSISTENT_READ);

    g_assert_cmpuint(blk_length(blk), ==, snap->size);
    g_assert_cmpint(blk_co_preadv(blk, 0, IOV_LOCAL(run->buffer, snap->size), 0), ==, 0);
    g_assert_cmpmem(run->buffer, snap->size, snap->model, snap->size);
    block_backend_co_free(blk);
    graph_rig_co_del(run->rig, "snap");
}

/* With the image closed. */
static void co_fn co_expect_snapshots(Run *run)
{
    for (guint i = 0; i < run->snaps->len; i++) {
        co_expect_snapshot(run, "file", &g_array_index(run->snaps, Snap, i));
    }
}

static void co_fn co_step(Run *run)
{
    int what = g_rand_int_range(run->rand, 0, 100);
    uint64_t offset, bytes;

    choose(run, &offset, &bytes);
    if (what < 55) {
        co_do_write(run, offset, bytes);
    } else if (what < 60) {
        co_do_snapshots(run);
    } else if (what < 65) {
        co_do_allocate(run, offset, bytes);
    } else if (what < 75) {
        co_do_zero(run, offset, bytes);
    } else if (what < 84) {
        co_do_discard(run, offset, bytes);
    } else if (what < 86) {
        co_do_truncate(run);
    } else if (what < 98) {
        co_do_flush(run);
    } else {
        co_close(run);
        co_expect_snapshots(run);
        co_open(run);
        co_mark(run);
    }
}

static Qcow2Builder *make_image(const Kind *kind)
{
    Qcow2Builder *b =
        qcow2_builder_new(kind->version, kind->cluster_bits, kind->features, kind->size);

    if (kind->version >= 3) {
        be32_put(qcow2_builder_at(b, 96), kind->order);
    }
    qcow2_builder_data(b, 0, 1);
    qcow2_builder_compressed(b, 1, 2, QCOW2_COMPRESSION_ZLIB);
    if (kind->version >= 3 && !(kind->features & EXTENDED)) {
        qcow2_builder_map(b, 2, QCOW2_ENTRY_ZERO, 0);
    }
    if (kind->version >= 3) {
        qcow2_builder_bitmaps(b);
    }
    qcow2_builder_count(b);
    return b;
}

static void co_fn co_add_memory(Run *run, const char *name, const uint8_t *bytes, uint64_t length)
{
    g_autofree char *json =
        g_strdup_printf("{'driver': 'memory', 'node-name': '%s', 'size': %" G_GUINT64_FORMAT
                        ", 'discard': 'unmap'}",
                        name, length);
    BlockBackend *blk =
        graph_rig_co_use(graph_rig_co_add(run->rig, graph_rig_options(json)), BLOCK_PERM_WRITE);

    g_assert_cmpint(blk_co_pwritev(blk, 0, IOV_LOCAL(bytes, length), 0), ==, 0);
    block_backend_co_free(blk);
}

/* The disk of image @b has a length of @size. */
static void co_fn co_begin_with(Run *run, GraphRig *rig, const Kind *kind, const Qcow2Builder *b,
                                uint64_t size)
{
    guint seed = g_test_rand_int();
    uint64_t base_size = kind->base ? kind->base : kind->size / 2 + 100;
    g_autofree uint8_t *base = g_malloc(base_size);

    g_test_message("%s: seed %u", kind->name, seed);
    *run = (Run){.rig = rig,
                 .kind = kind,
                 .rand = g_rand_new_with_seed(seed),
                 .size = size,
                 .max = kind->size * 3 / 2 / 512 * 512,
                 .touches = g_array_new(FALSE, FALSE, sizeof(Touch)),
                 .marks = g_array_new(FALSE, FALSE, sizeof(Mark)),
                 .snaps = g_array_new(FALSE, FALSE, sizeof(Snap)),
                 .taken = g_array_new(FALSE, FALSE, sizeof(Snap)),
                 .changes = g_array_new(FALSE, FALSE, sizeof(Snaps))};
    g_array_set_clear_func(run->taken, snap_clear);
    g_array_set_clear_func(run->changes, snaps_clear);
    g_array_set_clear_func(run->marks, mark_clear);
    run->model = g_malloc0(run->max);
    run->buffer = g_malloc(run->max);
    graph_rig_fill(base, base_size, 50);
    co_add_memory(run, "base", base, base_size);
    co_add_memory(run, "file", b->bytes->data, b->bytes->len);
    co_open(run);
    /* What is in the image at the beginning the tests of reading have looked at. */
    g_assert_cmpint(blk_co_preadv(run->blk, 0, IOV_LOCAL(run->model, run->size), 0), ==, 0);
    run->first = g_memdup2(run->model, run->max);
    co_mark(run);
}

static void co_fn co_begin(Run *run, GraphRig *rig, const Kind *kind, const Qcow2Builder *b)
{
    co_begin_with(run, rig, kind, b, kind->size);
}

static void run_clear(Run *run)
{
    g_free(run->first);
    g_rand_free(run->rand);
    g_free(run->model);
    g_free(run->buffer);
    g_array_unref(run->touches);
    g_array_unref(run->marks);
    g_array_unref(run->snaps);
    g_array_unref(run->taken);
    g_array_unref(run->changes);
}

static void co_fn body_random(GraphRig *rig)
{
    const Kind *kind = rig->user;
    g_autoptr(Qcow2Builder) b = make_image(kind);
    unsigned steps = g_test_thorough() ? 3000 : 150;
    Run run;

    co_begin(&run, rig, kind, b);
    for (unsigned i = 0; i < steps; i++) {
        co_step(&run);
        if (i % 20 == 0) {
            co_expect(&run);
        }
    }
    co_expect(&run);
    co_close(&run);
    co_expect_snapshots(&run);
    co_open(&run);
    co_expect(&run);
    co_close(&run);
    run_clear(&run);
}

/* Writes alone make nothing durable: where all tables find room in memory, nothing is flushed. */
static void co_fn body_no_flush(GraphRig *rig)
{
    static const Kind kind = {"no-flush", 3, 12, 4, 0, 8 * MIB, false, ""};
    g_autoptr(Qcow2Builder) b = make_image(&kind);
    g_autoptr(GArray) all = NULL;
    Run run;

    co_begin(&run, rig, &kind, b);
    co_do_write(&run, 0, 1); /* before it bitmaps are marked as in use */
    records = records_new();
    for (unsigned i = 0; i < 300; i++) {
        co_do_write(&run, g_rand_int_range(run.rand, 0, run.size - 100), 100);
    }
    all = g_steal_pointer(&records);
    for (guint i = 0; i < all->len; i++) {
        g_assert_cmpint(g_array_index(all, Record, i).kind, !=, RECORD_FLUSH);
    }
    co_expect(&run);
    co_close(&run);
    run_clear(&run);
}

/* The file may end inside of its last cluster; what is written to the rest of it stays. */
static void co_fn body_short_file(GraphRig *rig)
{
    static const Kind kind = {"short-file", 3, 16, 4, 0, 2 * MIB, false, ""};
    g_autoptr(Qcow2Builder) b = make_image(&kind);
    uint64_t host = qcow2_builder_data(b, 5, 0);
    uint64_t block = be64_get(qcow2_builder_at(b, 64 * KIB));
    Run run;

    qcow2_refcount_set(qcow2_builder_at(b, block), 4, host / (64 * KIB), 1);
    g_byte_array_set_size(b->bytes, host + 1000);
    co_begin(&run, rig, &kind, b);
    co_do_write(&run, 5 * 64 * KIB + 20000, 7000);
    co_close(&run);
    co_open(&run);
    co_expect(&run);
    co_close(&run);
    run_clear(&run);
}

/* Crashes */

/* The last flush of the disk before record @n was made. */
static const Mark *last_mark(const Run *run, guint n)
{
    const Mark *last = NULL;

    for (guint i = 0; i < run->marks->len; i++) {
        const Mark *mark = &g_array_index(run->marks, Mark, i);

        if (mark->at <= n) {
            last = mark;
        }
    }
    return last;
}

/* Whether it may be that the image has these snapshots after a crash at @n. */
static bool may_have_snapshots(const Run *run, const char *names, guint n)
{
    const char *sure = "";

    for (guint i = 0; i < run->changes->len; i++) {
        const Snaps *change = &g_array_index(run->changes, Snaps, i);

        if (change->done <= n) {
            sure = change->names;
        } else if (change->begun < n && strcmp(names, change->names) == 0) {
            return true;
        }
    }
    return strcmp(names, sure) == 0;
}

/* The snapshots in the image in node "crashed" are right, and one of them reads as it did. */
static void co_fn co_check_snapshots(Run *run, const GByteArray *image, guint n)
{
    g_autoptr(Qcow2Header) h = qcow2_header_parse(image->data, image->len, NULL);
    g_autoptr(GString) names = g_string_new(NULL);
    uint64_t at = h->snapshots_offset;
    const Snap *one = NULL;

    for (uint32_t i = 0; i < h->n_snapshots; i++) {
        g_autoptr(Qcow2Snapshot) s = qcow2_snapshot_parse(image->data + at);

        at += qcow2_snapshot_length(image->data + at, NULL);
        g_string_append_printf(names, "%s ", s->name);
        if (!one || g_rand_boolean(run->rand)) {
            one = &g_array_index(run->taken, Snap, atoi(s->name + 1));
        }
    }
    if (!may_have_snapshots(run, names->str, n)) {
        g_error("after a crash at %u: the snapshots are '%s'", n, names->str);
    }
    if (one) {
        co_expect_snapshot(run, "crashed", one);
    }
}

/* With lazy refcounts; it is repaired when it is opened for writing. */
static bool is_dirty(const GByteArray *image)
{
    return be32_get(image->data + 4) >= 3 &&
           (be64_get(image->data + 72) & QCOW2_INCOMPATIBLE_DIRTY);
}

static void co_fn co_check_repaired(Run *run, guint n)
{
    g_autofree uint8_t *bytes = NULL;
    uint64_t length;

    bytes = co_node_bytes(run, "crashed", &length);
    g_assert_cmpuint(be64_get(bytes + 72) & QCOW2_INCOMPATIBLE_DIRTY, ==, 0);
    check_image(bytes, length, false, "repaired after a crash at", n);
}

/* What was flushed, and not been written since, is in the image that a crash at @n leaves. */
static void co_fn co_check_content(Run *run, const GByteArray *image, guint n)
{
    const Mark *mark = last_mark(run, n);
    g_autofree uint8_t *touched = g_malloc0(run->max);
    bool dirty = is_dirty(image);
    g_autofree char *json =
        g_strdup_printf("{'driver': 'qcow2', 'node-name': 'cut', 'file': "
                        "'crashed', 'read-only': %s, 'backing': %s}",
                        dirty ? "false" : "true", run->kind->backing ? "'base'" : "null");
    BlockBackend *blk;
    uint64_t size;

    for (guint i = mark->touches; i < run->touches->len; i++) {
        const Touch *t = &g_array_index(run->touches, Touch, i);

        if (t->at <= n) {
            memset(touched + t->offset, 1, t->bytes);
        }
    }
    co_add_memory(run, "crashed", image->data, image->len);
    blk = graph_rig_co_use(graph_rig_co_add(run->rig, graph_rig_options(json)),
                           BLOCK_PERM_CONSISTENT_READ);
    size = MIN((uint64_t)blk_length(blk), mark->size);
    g_assert_cmpint(blk_co_preadv(blk, 0, IOV_LOCAL(run->buffer, size), 0), ==, 0);
    check_bitmaps(run, image->data, image->len, run->buffer, size);
    if (memcmp(run->buffer, mark->model, size) == 0) {
        size = 0; /* nothing to look for */
    }
    for (uint64_t i = 0; i < size; i++) {
        if (!touched[i] && run->buffer[i] != mark->model[i]) {
            g_error("after a crash at %u: what was flushed at %u is lost at %#" G_GINT64_MODIFIER
                    "x: %#x instead of %#x",
                    n, mark->at, i, run->buffer[i], mark->model[i]);
        }
    }
    block_backend_co_free(blk);
    graph_rig_co_del(run->rig, "cut");
    if (dirty) {
        co_check_repaired(run, n);
    }
    co_check_snapshots(run, image, n);
    graph_rig_co_del(run->rig, "crashed");
}

/* Images in which some of the writes since the last flush are lost. */
static void co_fn co_check_losses(Run *run, const GByteArray *flushed, guint from, guint to)
{
    for (unsigned i = 0; i < 3; i++) {
        g_autoptr(GByteArray) image = g_byte_array_new();
        double kept = g_rand_double(run->rand);

        g_byte_array_append(image, flushed->data, flushed->len);
        for (guint n = from; n < to; n++) {
            if (g_rand_double(run->rand) < kept) {
                record_apply(image, &g_array_index(records, Record, n));
            }
        }
        check_image(image->data, image->len, true, "with losses before", to);
        if (i == 0) {
            co_check_content(run, image, to);
        }
    }
}

static void co_fn co_replay(Run *run, const Qcow2Builder *b)
{
    g_autoptr(GByteArray) image = g_byte_array_new();
    g_autoptr(GByteArray) flushed = g_byte_array_new();
    g_autoptr(GArray) all = g_steal_pointer(&records);
    guint last = 0;

    g_byte_array_append(image, b->bytes->data, b->bytes->len);
    g_byte_array_append(flushed, b->bytes->data, b->bytes->len);
    for (guint n = 0; n < all->len; n++) {
        const Record *r = &g_array_index(all, Record, n);

        record_apply(image, r);
        check_image(image->data, image->len, true, "after a crash at", n + 1);
        if (r->kind != RECORD_FLUSH && g_rand_int_range(run->rand, 0, 40) > 0) {
            continue;
        }
        records = all;
        co_check_losses(run, flushed, last, r->kind == RECORD_FLUSH ? n : n + 1);
        records = NULL;
        co_check_content(run, image, n + 1);
        if (r->kind == RECORD_FLUSH) {
            g_byte_array_set_size(flushed, 0);
            g_byte_array_append(flushed, image->data, image->len);
            last = n + 1;
        }
    }
}

static void co_fn body_crash(GraphRig *rig)
{
    const Kind *kind = rig->user;
    g_autoptr(Qcow2Builder) b = make_image(kind);
    unsigned steps = g_test_thorough() ? 400 : 40;
    Run run;

    records = records_new();
    co_begin(&run, rig, kind, b);
    for (unsigned i = 0; i < steps; i++) {
        co_step(&run);
        if (i % 8 == 7) {
            co_do_snapshots(&run);
        }
    }
    co_close(&run);
    co_replay(&run, b);
    run_clear(&run);
}

/*
 * A disk whose length changes: whenever a crash comes, it is as it was before, or has the new
 * length. What was added is zeros then, though the backing file has something there, and so has the
 * rest of the last cluster; and what was cut off does not come back when it grows again.
 */

static const Kind resized[] = {
    {"usual", 3, 16, 4, 0, 320 * KIB, true, "", false, MIB},
    {"alone", 3, 16, 4, 0, 320 * KIB, false, ", 'discard': 'unmap'"},
    {"small-clusters", 3, 9, 4, 0, 50 * KIB, true, "", false, MIB},
    {"version-2", 2, 12, 4, 0, 100 * KIB, true, "", false, MIB},
    {"subclusters", 3, 16, 4, EXTENDED, 320 * KIB, true, "", false, MIB},
    {"lazy", 3, 12, 4, 0, 100 * KIB, true, ", 'lazy-refcounts': true", false, MIB},
    {"compressed", 3, 16, 4, 0, 320 * KIB, true, "", true, MIB},
};

static void co_fn co_expect_zeros(const Run *run, BlockBackend *blk, uint64_t from, uint64_t to)
{
    g_assert_cmpint(blk_co_preadv(blk, 0, IOV_LOCAL(run->buffer, to), 0), ==, 0);
    for (uint64_t i = from; i < to; i++) {
        if (run->buffer[i] != 0) {
            g_error("something shows up at %" G_GUINT64_FORMAT, i);
        }
    }
}

/* The image in node "crashed" reads as the model does as far as its length goes, then zeros. */
static uint64_t co_fn co_check_crashed(Run *run, bool grow)
{
    g_autofree char *json =
        g_strdup_printf("{'driver': 'qcow2', 'node-name': 'cut', 'file': 'crashed', "
                        "'read-only': %s, 'backing': %s}",
                        grow ? "false" : "true", run->kind->backing ? "'base'" : "null");
    BlockBackend *blk = graph_rig_co_use(graph_rig_co_add(run->rig, graph_rig_options(json)),
                                         grow ? BLOCK_PERM_ALL : BLOCK_PERM_CONSISTENT_READ);
    uint64_t length = blk_length(blk);

    co_expect_zeros(run, blk, run->size, length);
    g_assert_cmpmem(run->buffer, MIN(run->size, length), run->model, MIN(run->size, length));
    if (grow) {
        g_assert_cmpint(blk_co_truncate(blk, run->max, PREALLOC_MODE_OFF, BLOCK_REQ_ZERO, NULL), ==,
                        0);
        co_expect_zeros(run, blk, length, run->max);
    }
    block_backend_co_free(blk);
    graph_rig_co_del(run->rig, "cut");
    return length;
}

/* Of an image that a crash has left while the disk's length changed from run->size. */
static void co_fn co_check_resized(Run *run, const GByteArray *image, uint64_t size)
{
    uint64_t length;

    co_add_memory(run, "crashed", image->data, image->len);
    length = co_check_crashed(run, false);
    g_assert_true(length == run->size || length == size);
    co_check_crashed(run, true);
    graph_rig_co_del(run->rig, "crashed");
}

/* All cuts of what was recorded since the image had @bytes; any write not flushed may be lost. */
static void co_fn co_check_resizing(Run *run, const uint8_t *bytes, uint64_t length, uint64_t size)
{
    g_autoptr(GArray) all = g_steal_pointer(&records);
    guint flushed = 0;

    for (guint n = 0; n <= all->len; n++) {
        for (unsigned i = 0; i < 4; i++) {
            g_autoptr(GByteArray) image = g_byte_array_new();
            double kept = i == 0 ? 1 : g_rand_double(run->rand);

            g_byte_array_append(image, bytes, length);
            for (guint j = 0; j < n; j++) {
                if (j < flushed || g_rand_double(run->rand) < kept) {
                    record_apply(image, &g_array_index(all, Record, j));
                }
            }
            check_image(image->data, image->len, true, "while the length changed, at", n);
            co_check_resized(run, image, size);
        }
        if (n < all->len && g_array_index(all, Record, n).kind == RECORD_FLUSH) {
            flushed = n + 1;
        }
    }
}

static void co_fn co_resize_and_crash(Run *run, uint64_t size, PreallocMode mode)
{
    uint64_t length, low = MIN(size, run->size);
    g_autofree uint8_t *bytes = NULL;

    g_assert_cmpint(blk_co_flush(run->blk), ==, 0);
    bytes = co_image(run, &length);
    records = records_new();
    g_assert_cmpint(blk_co_truncate(run->blk, size, mode, BLOCK_REQ_ZERO, NULL), ==, 0);
    co_check_resizing(run, bytes, length, size);
    memset(run->model + low, 0, run->max - low);
    run->size = size;
    co_expect(run);
}

static void co_fn body_growing(GraphRig *rig)
{
    const Kind *kind = rig->user;
    g_autoptr(Qcow2Builder) b = make_image(kind);
    Run run;

    co_begin(&run, rig, kind, b);
    co_do_write(&run, kind->size - 9000, 9000);
    /* Within a cluster, of which the rest is not empty. */
    g_assert_cmpint(blk_co_truncate(run.blk, kind->size - 1536, PREALLOC_MODE_OFF, 0, NULL), ==, 0);
    run.size = kind->size - 1536;
    co_resize_and_crash(&run, kind->size - 512, PREALLOC_MODE_OFF);
    co_resize_and_crash(&run, kind->size + 1024, PREALLOC_MODE_OFF);
    co_resize_and_crash(&run, kind->size * 5 / 4 / 512 * 512, PREALLOC_MODE_METADATA);
    co_resize_and_crash(&run, run.max, PREALLOC_MODE_FULL);
    co_close(&run);
    run_clear(&run);
}

static void co_fn body_shrinking(GraphRig *rig)
{
    const Kind *kind = rig->user;
    g_autoptr(Qcow2Builder) b = make_image(kind);
    Run run;

    co_begin(&run, rig, kind, b);
    co_do_write(&run, kind->size / 2, kind->size / 2);
    co_resize_and_crash(&run, kind->size - 1536, PREALLOC_MODE_OFF);
    co_resize_and_crash(&run, kind->size / 2 / 512 * 512, PREALLOC_MODE_OFF);
    co_resize_and_crash(&run, 512, PREALLOC_MODE_OFF);
    co_resize_and_crash(&run, kind->size, PREALLOC_MODE_OFF);
    co_close(&run);
    run_clear(&run);
}

/*
 * Who wrote the image before us has left something behind the end of the disk: a crash while it was
 * made shorter, say, or the state of a virtual machine. That does not show up when it grows.
 */
static void co_fn body_behind_the_end(GraphRig *rig)
{
    static const Kind kind = {"behind", 3, 12, 4, 0, 512 * KIB, true, ", 'discard': 'unmap'"};
    static const uint64_t lengths[] = {100 * KIB, 200 * KIB + 512, 300 * KIB};
    g_autoptr(Qcow2Builder) b = make_image(&kind);
    Run run;

    for (unsigned i = 3; i < 128; i += 5) {
        qcow2_builder_data(b, i, i + 1);
    }
    qcow2_builder_count(b);
    be64_put(qcow2_builder_at(b, 24), lengths[0]);
    be64_put(qcow2_builder_at(b, 88), 0); /* bitmaps would be of another length */
    co_begin_with(&run, rig, &kind, b, lengths[0]);
    for (unsigned i = 1; i < G_N_ELEMENTS(lengths); i++) {
        PreallocMode mode = i == 2 ? PREALLOC_MODE_METADATA : PREALLOC_MODE_OFF;

        co_resize_and_crash(&run, lengths[i], mode);
    }
    block_backend_co_free(run.blk);
    graph_rig_co_del(rig, "q");
    run_clear(&run);
}

/*
 * Several requests under way at a time. A crash may lose any write that has not ended before a
 * flush began that has ended.
 */

#define WORKERS 6

typedef struct Worker {
    Run *run;
    uint64_t start, end; /* of the disk; nobody else touches that */
    unsigned *left;
} Worker;

static void co_fn worker_entry(void *opaque)
{
    Worker *w = opaque;
    Run *run = w->run;
    g_autofree uint8_t *buffer = g_malloc(w->end - w->start);

    for (unsigned i = 0; i < 15; i++) {
        uint64_t offset = w->start + g_rand_int_range(run->rand, 0, w->end - w->start - 1);
        uint64_t bytes = g_rand_int_range(run->rand, 1, w->end - offset + 1);
        int what = g_rand_int_range(run->rand, 0, 10);

        bytes = g_rand_boolean(run->rand) ? MIN(bytes, 3000) : bytes;
        if (g_rand_int_range(run->rand, 0, 10) == 0) {
            g_assert_cmpint(blk_co_allocate(run->blk, offset, bytes), ==, 0);
        } else if (what < 5) {
            BlockRequestFlags flags = choose_data(run, buffer, bytes);

            g_assert_cmpint(blk_co_pwritev(run->blk, offset, IOV_LOCAL(buffer, bytes), flags), ==,
                            0);
            memcpy(run->model + offset, buffer, bytes);
        } else if (what < 7) {
            g_assert_cmpint(blk_co_pwrite_zeroes(run->blk, offset, bytes, BLOCK_REQ_MAY_UNMAP), ==,
                            0);
            memset(run->model + offset, 0, bytes);
        } else if (what < 8) {
            g_assert_cmpint(blk_co_pdiscard(run->blk, offset, bytes), ==, 0);
            g_assert_cmpint(
                blk_co_preadv(run->blk, offset, IOV_LOCAL(run->model + offset, bytes), 0), ==, 0);
        } else {
            g_assert_cmpint(blk_co_flush(run->blk), ==, 0);
        }
    }
    --*w->left;
}

static bool is_durable(const GArray *all, const Record *r, uint64_t when)
{
    for (guint i = 0; r->ended && i < all->len; i++) {
        const Record *f = &g_array_index(all, Record, i);

        if (f->kind == RECORD_FLUSH && f->begun > r->ended && f->ended && f->ended <= when) {
            return true;
        }
    }
    return false;
}

static void check_cut(Run *run, const Qcow2Builder *b, const GArray *all, uint64_t when)
{
    g_autoptr(GByteArray) image = g_byte_array_new();
    double kept = g_rand_double(run->rand);

    g_byte_array_append(image, b->bytes->data, b->bytes->len);
    for (guint i = 0; i < all->len; i++) {
        const Record *r = &g_array_index(all, Record, i);

        if (r->begun <= when && (is_durable(all, r, when) || g_rand_double(run->rand) < kept)) {
            record_apply(image, r);
        }
    }
    check_image(image->data, image->len, true, "side by side, at", when);
}

static void co_fn body_side_by_side(GraphRig *rig)
{
    const Kind *kind = rig->user;
    g_autoptr(Qcow2Builder) b = make_image(kind);
    g_autoptr(GArray) all = NULL;
    Worker workers[WORKERS];
    unsigned left = WORKERS;
    Run run;

    co_begin(&run, rig, kind, b);
    co_close(&run);
    graph_rig_co_del(rig, "file");
    co_add_memory(&run, "memory", b->bytes->data, b->bytes->len);
    graph_rig_co_add(
        rig, graph_rig_options("{'driver': 'blkdebug', 'node-name': 'file', 'image': 'memory', "
                               "'inject-delay': [{'event': 'none', 'delay-ns': 30000}]}"));
    records = records_new();
    co_open(&run);
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i] = (Worker){&run, i * run.size / WORKERS, (i + 1) * run.size / WORKERS, &left};
        aio_co_enter(rig->ctx, worker_entry, &workers[i]);
    }
    while (left > 0) {
        aio_co_sleep_ns(1000000);
    }
    co_expect(&run);
    co_close(&run);
    all = g_steal_pointer(&records);
    for (unsigned i = 0; i < 80; i++) {
        check_cut(&run, b, all, g_rand_int_range(run.rand, 0, record_time + 1));
    }
    run_clear(&run);
}

/*
 * Snapshots, lengths and the end, which stores bitmaps, when something fails: what is done then has
 * been done as a whole or not at all, and the image can be used on. Each request to the file fails,
 * alone or with all that follow.
 */

typedef enum {
    DO_CREATE,
    DO_APPLY,
    DO_DELETE,
    DO_GROW,
    DO_SHRINK,
    DO_CLOSE,
    DO__MAX,
} Doing;

#define SHRUNK 1024u

static bool co_fn co_do(Run *run, Doing what, GError **error)
{
    QapiCall call = {.self = run->rig->graph};
    g_autoptr(SnapshotInfo) info = NULL;

    switch (what) {
    case DO_CREATE:
        return qmp_blockdev_snapshot_internal_sync(&call, "q", "s2", error);
    case DO_APPLY:
        return qmp_blockdev_snapshot_apply_internal_sync(&call, "q", NULL, "s0", error);
    case DO_DELETE:
        info = qmp_blockdev_snapshot_delete_internal_sync(&call, "q", NULL, "s0", error);
        return info != NULL;
    case DO_GROW:
        return blk_co_truncate(run->blk, run->max, PREALLOC_MODE_OFF, BLOCK_REQ_ZERO, error) == 0;
    case DO_SHRINK:
        return blk_co_truncate(run->blk, SHRUNK, PREALLOC_MODE_OFF, 0, error) == 0;
    default:
        block_backend_co_free(run->blk);
        graph_rig_co_del(run->rig, "q");
        return true;
    }
}

/* The model follows. */
static void co_fn co_did(Run *run, Doing what)
{
    const Snap *first = &g_array_index(run->snaps, Snap, 0);
    Snap snap = {.name = "s2", .size = run->size};

    switch (what) {
    case DO_CREATE:
        snap.model = g_memdup2(run->model, run->max);
        g_array_append_val(run->snaps, snap);
        g_array_append_val(run->taken, snap);
        break;
    case DO_APPLY:
        memcpy(run->model, first->model, run->max);
        run->size = first->size;
        break;
    case DO_DELETE:
        g_array_remove_index(run->snaps, 0);
        break;
    case DO_GROW:
        memset(run->model + run->size, 0, run->max - run->size);
        run->size = run->max;
        break;
    case DO_SHRINK:
        memset(run->model + SHRUNK, 0, run->max - SHRUNK);
        run->size = SHRUNK;
        break;
    default:
        co_open(run);
    }
}

static void co_fn co_check_image(Run *run, const char *when, guint n)
{
    uint64_t length;
    g_autofree uint8_t *bytes = co_image(run, &length);

    check_image(bytes, length, true, when, n);
}

/* Returns whether the fault came to pass. */
static bool co_fn co_try_with_fault(Run *run, Doing what, int n, bool stay)
{
    g_autoptr(GError) error = NULL;
    g_autofree uint8_t *bytes = NULL;
    uint64_t length;
    bool ok, struck;

    co_do_write(run, run->size / 2, run->size / 4);
    g_assert_cmpint(blk_co_flush(run->blk), ==, 0);
    faults_in = n;
    faults_stay = stay;
    ok = co_do(run, what, &error);
    struck = end_faults();
    g_assert_true(ok == !error);
    g_assert_true(ok || struck);
    co_check_image(run, "right after a fault in request", n);
    if (ok) {
        co_did(run, what);
    }
    g_assert_cmpuint(blk_length(run->blk), ==, run->size);
    co_expect(run);
    co_do_write(run, run->size / 3, run->size / 3);
    co_do_write(run, 0, 100);
    g_assert_cmpint(blk_co_flush(run->blk), ==, 0);
    co_expect(run);
    block_backend_co_free(run->blk);
    graph_rig_co_del(run->rig, "q");
    bytes = co_image(run, &length);
    check_image(bytes, length, true, "with a fault in request", n);
    check_bitmaps(run, bytes, length, run->model, run->size);
    co_expect_snapshots(run);
    return struck;
}

/* Warnings say what became of data and bitmaps. GLib's own handler would end the run by them. */
static gboolean is_fatal(const gchar *domain, GLogLevelFlags level, const gchar *message,
                         gpointer opaque)
{
    return !(level & G_LOG_LEVEL_WARNING);
}

static void drop_warning(const gchar *domain, GLogLevelFlags level, const gchar *message,
                         gpointer opaque)
{
    if (!(level & G_LOG_LEVEL_WARNING)) {
        g_log_default_handler(domain, level, message, opaque);
    }
}

static void co_fn body_faults(GraphRig *rig)
{
    const Kind *kind = rig->user;
    g_autoptr(Qcow2Builder) b = make_image(kind);
    g_autofree uint8_t *bytes = NULL, *model = NULL;
    uint64_t length, size;
    GLogFunc before;
    Run run;

    g_test_log_set_fatal_handler(is_fatal, NULL);
    before = g_log_set_default_handler(drop_warning, NULL);
    co_begin(&run, rig, kind, b);
    for (unsigned i = 0; i < 20; i++) {
        co_do_write(&run, g_rand_int_range(run.rand, 0, run.size - 9000), 9000);
        if (i % 7 == 6) {
            co_take_snapshot(&run);
        }
    }
    if (kind->version >= 3) {
        co_do_truncate(&run);
    }
    g_assert_cmpuint(run.snaps->len, ==, 2);
    co_close(&run);
    bytes = co_image(&run, &length);
    model = g_memdup2(run.model, run.max);
    size = run.size;
    for (unsigned i = 0; i < 2 * DO__MAX; i++) {
        bool resizes = i / 2 == DO_GROW || i / 2 == DO_SHRINK;
        bool struck = kind->version >= 3 || !resizes; /* cannot, with snapshots */

        for (int n = 0; struck; n++) {
            graph_rig_co_del(rig, "file");
            co_add_memory(&run, "file", bytes, length);
            memcpy(run.model, model, run.max);
            run.size = size;
            g_array_set_size(run.snaps, 0);
            g_array_append_vals(run.snaps, run.taken->data, 2);
            co_open(&run);
            struck = co_try_with_fault(&run, i / 2, n, i % 2);
        }
    }
    g_log_set_default_handler(before, NULL);
    run_clear(&run);
}

/*
 * Reopening a node, and laying it to rest, drop what is in memory. With 'no-flush' nothing of that
 * is in the image; where bringing it there fails the node stays as it is, with all it has.
 */

#define NO_FLUSH ", 'discard': 'unmap', 'cache': {'no-flush': true}"

static bool co_fn co_reopen(Run *run, const char *more)
{
    g_autofree char *json = g_strdup_printf("{'driver': 'qcow2', 'node-name': 'q', 'file': 'file', "
                                            "'backing': 'base' %s}",
                                            more);
    g_autofree char *message = graph_rig_co_reopen(run->rig, graph_rig_options(json));

    return !message;
}

/*
 * @name is what is laid to rest: the node itself, or one above it. Returns whether the fault in
 * request @n has come to pass.
 */
static bool co_fn co_rest_and_wake(Run *run, const char *name, int n)
{
    g_autoptr(GError) error = NULL;
    bool ok, struck;

    block_backend_co_free(run->blk);
    faults_in = n;
    ok = block_graph_co_set_active(run->rig->graph, name, false, &error);
    struck = end_faults();
    g_assert_true(ok == !error);
    if (ok) {
        g_assert_true(block_graph_co_set_active(run->rig->graph, name, true, NULL));
    }
    run->blk = graph_rig_co_use(block_graph_find(run->rig->graph, "q", NULL), BLOCK_PERM_ALL);
    return struck;
}

static bool co_fn co_settle(Run *run, unsigned what, int n)
{
    bool struck;

    if (what == 2) {
        graph_rig_co_add(run->rig, graph_rig_options("{'driver': 'raw', 'node-name': 'top', "
                                                     "'file': 'q'}"));
        struck = co_rest_and_wake(run, "top", n);
        graph_rig_co_del(run->rig, "top");
        return struck;
    }
    if (what == 1) {
        return co_rest_and_wake(run, "q", n);
    }
    faults_in = n;
    co_reopen(run, NO_FLUSH ", 'cache-clean-interval': 7");
    return end_faults();
}

static bool co_fn co_settle_with_fault(Run *run, unsigned what, int n)
{
    bool struck;

    co_do_write(run, run->size / 2, run->size / 4);
    co_do_discard(run, 0, run->size / 4);
    struck = co_settle(run, what, n);
    co_expect(run);
    co_check_image(run, "right after a fault in request", n);
    g_assert_true(co_reopen(run, ", 'discard': 'unmap'"));
    co_do_write(run, run->size / 3, run->size / 3);
    g_assert_cmpint(blk_co_flush(run->blk), ==, 0);
    co_expect(run);
    block_backend_co_free(run->blk);
    graph_rig_co_del(run->rig, "q");
    co_check_image(run, "closed after a fault in request", n);
    co_open(run);
    co_expect(run);
    block_backend_co_free(run->blk);
    graph_rig_co_del(run->rig, "q");
    return struck;
}

static void co_fn body_settle(GraphRig *rig)
{
    static const Kind kind = {"settle", 3, 9, 4, 0, 100 * KIB, true, NO_FLUSH};
    g_autoptr(Qcow2Builder) b = make_image(&kind);
    GLogFunc before;
    Run run;

    g_test_log_set_fatal_handler(is_fatal, NULL);
    before = g_log_set_default_handler(drop_warning, NULL);
    co_begin(&run, rig, &kind, b);
    block_backend_co_free(run.blk);
    graph_rig_co_del(rig, "q");
    for (unsigned i = 0; i < 6; i++) {
        bool struck = true;

        faults_stay = i % 2;
        for (int n = 0; struck; n++) {
            graph_rig_co_del(rig, "file");
            co_add_memory(&run, "file", b->bytes->data, b->bytes->len);
            memcpy(run.model, run.first, run.max);
            co_open(&run);
            struck = co_settle_with_fault(&run, i / 2, n);
            g_assert_true(struck || n > 3);
        }
    }
    g_log_set_default_handler(before, NULL);
    run_clear(&run);
}

/* Whoever has the image next finds it complete, even after a crash: the last thing is a flush. */
static void co_fn body_settled_is_flushed(GraphRig *rig)
{
    static const Kind kind = {"settled", 3, 9, 4, 0, 100 * KIB, true, ""};
    g_autoptr(Qcow2Builder) b = make_image(&kind);
    Run run;

    co_begin(&run, rig, &kind, b);
    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(GArray) all = NULL;

        co_do_write(&run, i * 9000, 9000); /* which bitmaps tell of */
        records = records_new();
        if (i == 0) {
            co_rest_and_wake(&run, "q", -1);
        } else {
            block_backend_co_free(run.blk);
            g_assert_true(co_reopen(&run, ", 'read-only': true"));
            run.blk = graph_rig_co_use(block_graph_find(rig->graph, "q", NULL),
                                       BLOCK_PERM_CONSISTENT_READ);
        }
        all = g_steal_pointer(&records);
        g_assert_cmpuint(all->len, >, 6);
        g_assert_cmpint(g_array_index(all, Record, all->len - 1).kind, ==, RECORD_FLUSH);
    }
    co_expect(&run);
    co_close(&run);
    run_clear(&run);
}

/* Close an image whose disk has become larger than the model. */
static void co_fn co_close_larger(Run *run)
{
    block_backend_co_free(run->blk);
    graph_rig_co_del(run->rig, "q");
    co_check_image(run, "closed at", n_records());
}

/*
 * An L1 table that is longer than what one refcount block counts, in an image whose refcount table
 * has to grow for that; and a table of L1 entries that is used up to its end afterwards.
 */
static void co_fn body_long_table(GraphRig *rig)
{
    static const Kind kind = {"long-table", 3, 9, 4, 0, 300 * KIB, false, ""};
    const uint64_t size = UINT64_C(1) << 30;
    g_autoptr(Qcow2Builder) b = make_image(&kind);
    uint8_t last[1000];
    Run run;

    records = records_new();
    co_begin(&run, rig, &kind, b);
    co_do_write(&run, 0, 100 * KIB);
    co_do_flush(&run);
    g_assert_cmpint(blk_co_truncate(run.blk, size, PREALLOC_MODE_OFF, BLOCK_REQ_ZERO, NULL), ==, 0);
    memset(last, 5, sizeof(last));
    g_assert_cmpint(blk_co_pwritev(run.blk, size - sizeof(last), IOV_LOCAL(last, sizeof(last)), 0),
                    ==, 0);
    g_assert_cmpint(blk_co_flush(run.blk), ==, 0);
    run.size = size;
    co_close_larger(&run);
    co_open(&run);
    memset(last, 0, sizeof(last));
    g_assert_cmpint(blk_co_preadv(run.blk, size - sizeof(last), IOV_LOCAL(last, sizeof(last)), 0),
                    ==, 0);
    g_assert_true(last[0] == 5 && last[999] == 5);
    run.size = kind.size;
    co_expect(&run);
    co_close_larger(&run);
    co_replay(&run, b);
    run_clear(&run);
}

/* Where all has a place, writes change no table: nothing but the data is written. */
static void co_fn body_preallocated(GraphRig *rig)
{
    static const Kind kind = {"preallocated", 3, 12, 4, 0, 300 * KIB, false, ""};
    static const PreallocMode modes[] = {PREALLOC_MODE_METADATA, PREALLOC_MODE_FALLOC,
                                         PREALLOC_MODE_FULL};
    g_autoptr(Qcow2Builder) b = make_image(&kind);
    Run run;

    co_begin(&run, rig, &kind, b);
    for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++) {
        g_autoptr(GArray) all = NULL;

        g_assert_cmpint(blk_co_truncate(run.blk, kind.size, PREALLOC_MODE_OFF, 0, NULL), ==, 0);
        g_assert_cmpint(
            blk_co_truncate(run.blk, kind.size + 64 * KIB, modes[i], BLOCK_REQ_ZERO, NULL), ==, 0);
        run.size = kind.size + 64 * KIB;
        co_expect(&run);
        co_do_flush(&run);
        records = records_new();
        co_do_write(&run, kind.size, 64 * KIB);
        g_assert_cmpint(blk_co_flush(run.blk), ==, 0);
        all = g_steal_pointer(&records);
        g_assert_cmpuint(all->len, <=, 2); /* one write, one flush */
        co_expect(&run);
        memset(run.model + kind.size, 0, 64 * KIB);
    }
    run.size = kind.size;
    g_assert_cmpint(blk_co_truncate(run.blk, kind.size, PREALLOC_MODE_OFF, 0, NULL), ==, 0);
    co_close(&run);
    run_clear(&run);
}

/* A cluster to be reserved, next to a write. */
typedef struct Reserving {
    Run *run;
    uint64_t offset;
    bool ended;
} Reserving;

static void co_fn reserving_entry(void *opaque)
{
    Reserving *r = opaque;

    co_do_allocate(r->run, r->offset, 4 * KIB);
    r->ended = true;
}

/* Who makes the file long enough for a cluster does not cut off what others have written behind. */
static void co_fn body_file_grows(GraphRig *rig)
{
    static const Kind kind = {"file-grows", 3, 12, 4, 0, 300 * KIB, false, ""};
    g_autoptr(Qcow2Builder) b = make_image(&kind);
    bool written = false;
    Reserving r;
    Run run;

    co_begin(&run, rig, &kind, b);
    truncate_fails = true; /* so the file is not made longer ahead of writes */
    co_do_write(&run, 40 * KIB, 4 * KIB);
    g_assert_false(truncate_fails);
    r = (Reserving){.run = &run, .offset = 60 * KIB};
    truncate_waits = &written;
    aio_co_enter(rig->ctx, reserving_entry, &r);
    while (truncate_waits) {
        aio_co_sleep_ns(100000);
    }
    co_do_write(&run, 80 * KIB, 20 * KIB);
    written = true;
    while (!r.ended) {
        aio_co_sleep_ns(100000);
    }
    co_expect(&run);
    co_close(&run);
    co_open(&run);
    co_expect(&run);
    co_close(&run);
    run_clear(&run);
}

/* Where the file cannot grow, the disk does not; what was taken is given back. */
static void co_fn body_no_space(GraphRig *rig)
{
    static const Kind kind = {"no-space", 3, 12, 4, 0, 300 * KIB, true, ""};
    const uint64_t larger = 400 * KIB;
    g_autoptr(Qcow2Builder) b = make_image(&kind);
    bool struck = true;
    Run run;

    co_begin(&run, rig, &kind, b);
    co_do_write(&run, 100, 50 * KIB);
    co_close(&run);
    for (int n = 0; struck; n++) {
        int r;

        co_open(&run);
        faults_in = n;
        faults_stay = false;
        r = blk_co_truncate(run.blk, larger, PREALLOC_MODE_FULL, BLOCK_REQ_ZERO, NULL);
        struck = faults_in < 0;
        faults_in = -1;
        g_assert_true(struck || r == 0);
        if (r == 0) {
            run.size = larger;
            memset(run.model + kind.size, 0, larger - kind.size);
        }
        g_assert_cmpuint(blk_length(run.blk), ==, run.size);
        co_expect(&run);
        g_assert_cmpint(blk_co_flush(run.blk), ==, 0);
        block_backend_co_free(run.blk);
        graph_rig_co_del(run.rig, "q");
        co_check_image(&run, "with a fault in request", n);
        co_open(&run);
        g_assert_cmpint(blk_co_truncate(run.blk, kind.size, PREALLOC_MODE_OFF, 0, NULL), ==, 0);
        run.size = kind.size;
        block_backend_co_free(run.blk);
        graph_rig_co_del(run.rig, "q");
    }
    run_clear(&run);
}

/* Running a body as a test */

static void add(const char *what, const Kind *kind, void co_fn (*body)(GraphRig *rig))
{
    g_autofree char *path = g_strdup_printf("/qcow2/write/%s/%s", what, kind->name);

    graph_rig_add_test(path, body, kind);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        add("random", &kinds[i], body_random);
        if (kinds[i].size <= 2 * MIB) {
            add("crash", &kinds[i], body_crash);
            add("side-by-side", &kinds[i], body_side_by_side);
        }
        if (kinds[i].cluster_bits < 16 && kinds[i].order >= 3) {
            add("faults", &kinds[i], body_faults);
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(resized); i++) {
        add("growing", &resized[i], body_growing);
        add("shrinking", &resized[i], body_shrinking);
    }
    graph_rig_add_test("/qcow2/write/behind-the-end", body_behind_the_end, NULL);
    graph_rig_add_test("/qcow2/write/no-flush", body_no_flush, NULL);
    graph_rig_add_test("/qcow2/write/short-file", body_short_file, NULL);
    graph_rig_add_test("/qcow2/write/settle", body_settle, NULL);
    graph_rig_add_test("/qcow2/write/settled-is-flushed", body_settled_is_flushed, NULL);
    graph_rig_add_test("/qcow2/write/long-table", body_long_table, NULL);
    graph_rig_add_test("/qcow2/write/preallocated", body_preallocated, NULL);
    graph_rig_add_test("/qcow2/write/file-grows", body_file_grows, NULL);
    graph_rig_add_test("/qcow2/write/no-space", body_no_space, NULL);
    return g_test_run();
}
