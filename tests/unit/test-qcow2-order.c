/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What comes into a qcow2 image, and in which order, when a request to its file has failed: it may
 * have done its work all the same, or not, and what follows must be right either way.
 */
#include <errno.h>

#include "block/block-internal.h"
#include "block/drivers/qcow2/refcount.h"
#include "tests/unit/graph-rig.h"
#include "tests/unit/qcow2-builder.h"
#include "tests/unit/qcow2-checker.h"
#include "tests/unit/qcow2-records.h"

/* What the driver asks its file to do */

typedef enum {
    PASS,
    FAIL, /* nothing is done */
    LIE,  /* it is done, and fails */
} Verdict;

static GArray *ops; /* of Record, without data */

/* The verdict on the next write of the header, on those that follow, and on the n-th flush. */
static Verdict next_header, more_headers;
static unsigned failing_flush; /* 0: none */

static bool is_tested(const BlockChild *child)
{
    return strcmp(block_node_name(child->parent), "q") == 0;
}

static Verdict judge_write(uint64_t offset)
{
    Verdict verdict = next_header;

    if (offset > 0) {
        return PASS;
    }
    next_header = more_headers;
    return verdict;
}

static Verdict note(const BlockChild *child, RecordKind kind, uint64_t offset, uint64_t bytes)
{
    if (!is_tested(child)) {
        return PASS;
    }
    records_add(ops, kind, offset, bytes, NULL);
    if (kind == RECORD_WRITE) {
        return judge_write(offset);
    }
    return failing_flush > 0 && --failing_flush == 0 ? FAIL : PASS;
}

int co_fn __real_block_child_co_pwritev(BlockChild *child, uint64_t offset, const IoVector *iov,
                                        BlockRequestFlags flags);
int co_fn __wrap_block_child_co_pwritev(BlockChild *child, uint64_t offset, const IoVector *iov,
                                        BlockRequestFlags flags);
int co_fn __wrap_block_child_co_pwritev(BlockChild *child, uint64_t offset, const IoVector *iov,
                                        BlockRequestFlags flags)
{
    Verdict verdict = note(child, RECORD_WRITE, offset, iov->bytes);
    int r = verdict == FAIL ? -EIO : __real_block_child_co_pwritev(child, offset, iov, flags);

    return verdict == LIE ? -EIO : r;
}

int co_fn __real_block_child_co_flush(BlockChild *child);
int co_fn __wrap_block_child_co_flush(BlockChild *child);
int co_fn __wrap_block_child_co_flush(BlockChild *child)
{
    return note(child, RECORD_FLUSH, 0, 0) == FAIL ? -EIO : __real_block_child_co_flush(child);
}

static const Record *op_at(guint i)
{
    g_assert_cmpuint(i, <, ops->len);
    return &g_array_index(ops, Record, i);
}

static bool is_flush(guint i)
{
    return op_at(i)->kind == RECORD_FLUSH;
}

/* The first write to the range, or how many ops there are. */
static guint find_write(uint64_t offset, uint64_t bytes)
{
    guint i = 0;

    while (i < ops->len &&
           (is_flush(i) || op_at(i)->offset >= offset + bytes || op_at(i)->offset < offset)) {
        i++;
    }
    return i;
}

static guint find_flush(void)
{
    guint i = 0;

    while (i < ops->len && !is_flush(i)) {
        i++;
    }
    return i;
}

/* A node over an image */

typedef struct Run {
    GraphRig *rig;
    BlockNode *file;
    BlockBackend *blk;
} Run;

static void co_fn co_open(Run *run)
{
    run->blk = graph_rig_co_use(
        graph_rig_co_add(run->rig, graph_rig_options("{'driver': 'qcow2', 'node-name': 'q', "
                                                     "'file': 'file', 'discard': 'unmap'}")),
        BLOCK_PERM_ALL);
}

static void co_fn co_begin(Run *run, GraphRig *rig, const Qcow2Builder *b)
{
    g_autofree char *json =
        g_strdup_printf("{'driver': 'memory', 'node-name': 'file', 'size': %u}", b->bytes->len);
    BlockBackend *blk;

    *run = (Run){.rig = rig};
    ops = records_new();
    next_header = more_headers = PASS;
    failing_flush = 0;
    run->file = graph_rig_co_add(rig, graph_rig_options(json));
    blk = graph_rig_co_use(run->file, BLOCK_PERM_WRITE);
    g_assert_cmpint(blk_co_pwritev(blk, 0, IOV_LOCAL(b->bytes->data, b->bytes->len), 0), ==, 0);
    block_backend_co_free(blk);
    co_open(run);
}

static void co_fn co_close(Run *run)
{
    block_backend_co_free(run->blk);
    graph_rig_co_del(run->rig, "q");
}

static void co_fn co_end(Run *run)
{
    graph_rig_co_del(run->rig, "file");
    g_clear_pointer(&ops, g_array_unref);
}

/* The file as it is now; its image must be consistent. */
static uint8_t *co_fn co_checked(Run *run, uint64_t *length)
{
    BlockBackend *blk = graph_rig_co_use(run->file, BLOCK_PERM_CONSISTENT_READ);
    uint8_t *bytes;
    Qcow2Check check;

    *length = blk_length(blk);
    bytes = g_malloc(*length);
    g_assert_cmpint(blk_co_preadv(blk, 0, IOV_LOCAL(bytes, *length), 0), ==, 0);
    block_backend_co_free(blk);
    qcow2_check(bytes, *length, &check);
    g_assert_cmpstr(check.first, ==, NULL);
    g_assert_cmpuint(check.corruptions, ==, 0);
    qcow2_check_clear(&check);
    return bytes;
}

/*
 * An image with clusters of 512 bytes whose refcount table is full: it has @left free clusters, and
 * then the table has to grow. The disk's first L2 table is there, and empty.
 */
#define CLUSTER    UINT64_C(512)
#define PER_BLOCK  (CLUSTER / 2)
#define N_BLOCKS   (CLUSTER / 8)
#define N_CLUSTERS (N_BLOCKS * PER_BLOCK)

static Qcow2Builder *full_image(unsigned left)
{
    Qcow2Builder *b = qcow2_builder_new(3, 9, 0, 4096 * CLUSTER);

    qcow2_builder_l2_slot(b, 0);
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        uint64_t block = qcow2_builder_append(b, 1);

        be64_put(qcow2_builder_at(b, CLUSTER + i * 8), block);
        for (uint64_t c = i * PER_BLOCK; c < (i + 1) * PER_BLOCK && c < N_CLUSTERS - left; c++) {
            be16_put(qcow2_builder_at(b, block + c % PER_BLOCK * 2), 1);
        }
    }
    qcow2_builder_append(b, N_CLUSTERS - left - b->bytes->len / CLUSTER);
    return b;
}

/*
 * The header may name the new refcount table after an error: so it stays in the file, and until it
 * is clear what the header says no table is written.
 */
static void co_fn body_growth(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = full_image(2);
    g_autofree uint8_t *bytes = NULL, *again = NULL;
    uint64_t length, table;
    Run run;

    co_begin(&run, rig, b);
    graph_rig_co_write(run.blk, 0, CLUSTER, 1, 0);
    graph_rig_co_write(run.blk, CLUSTER, CLUSTER, 2, 0);
    next_header = LIE;
    more_headers = FAIL;
    g_assert_cmpint(blk_co_pwritev(run.blk, 2 * CLUSTER, IOV_LOCAL("x", 1), 0), ==, -EIO);
    bytes = co_checked(&run, &length);
    table = be64_get(bytes + 48);
    g_assert_cmpuint(table, !=, CLUSTER);

    g_array_set_size(ops, 0);
    g_assert_cmpint(blk_co_flush(run.blk), ==, -EIO);
    g_assert_cmpuint(find_write(1, UINT64_MAX - 1), ==, ops->len);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*data may be lost*");
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*changes may be lost*");
    co_close(&run);
    g_test_assert_expected_messages();
    again = co_checked(&run, &length);
    g_assert_cmpuint(be64_get(again + 48), ==, table);
    g_assert_cmpuint(length, >=, table + 2 * CLUSTER);
    g_assert_cmpmem(again + table, CLUSTER, again + CLUSTER, CLUSTER);
    co_end(&run);
}

/* The same, but the header can be written again after a while. */
static void co_fn body_growth_later(GraphRig *rig)
{
    static const Verdict verdicts[] = {FAIL, LIE};

    for (unsigned i = 0; i < G_N_ELEMENTS(verdicts); i++) {
        g_autoptr(Qcow2Builder) b = full_image(2);
        g_autofree uint8_t *bytes = NULL;
        uint64_t length;
        Run run;

        co_begin(&run, rig, b);
        graph_rig_co_write(run.blk, 0, CLUSTER, 1, 0);
        graph_rig_co_write(run.blk, CLUSTER, CLUSTER, 2, 0);
        next_header = verdicts[i];
        more_headers = FAIL;
        g_assert_cmpint(blk_co_pwritev(run.blk, 2 * CLUSTER, IOV_LOCAL("x", 1), 0), ==, -EIO);
        g_assert_cmpint(blk_co_pwritev(run.blk, 0, IOV_LOCAL("x", 1), 0), ==, -EIO);
        next_header = more_headers = PASS;
        g_assert_cmpint(blk_co_flush(run.blk), ==, 0);
        g_free(co_checked(&run, &length));
        for (unsigned c = 2; c < 20; c++) {
            g_assert_cmpint(blk_co_pwritev(run.blk, c * CLUSTER + 8, IOV_LOCAL("x", 1), 0), ==, 0);
        }
        co_close(&run);
        bytes = co_checked(&run, &length);
        g_assert_cmpuint(be64_get(bytes + 48), !=, CLUSTER);
        co_open(&run);
        graph_rig_co_expect(run.blk, 0, CLUSTER, 1);
        graph_rig_co_expect(run.blk, CLUSTER, CLUSTER, 2);
        for (unsigned c = 2; c < 20; c++) {
            graph_rig_co_expect_zeros(run.blk, c * CLUSTER, 8);
            graph_rig_co_expect_zeros(run.blk, c * CLUSTER + 9, CLUSTER - 9);
        }
        co_close(&run);
        co_end(&run);
    }
}

/*
 * A commit whose last flush fails has let the L1 table name a new L2 table already. What comes into
 * that with the next commit waits for a flush, as with any other.
 */
static void co_fn body_commit_again(GraphRig *rig)
{
    const uint64_t cluster = 4096;
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 12, 0, 256 * cluster);
    g_autofree uint8_t *bytes = NULL;
    uint64_t length, table;
    guint flush, slice;
    Run run;

    qcow2_builder_count(b);
    co_begin(&run, rig, b);
    graph_rig_co_write(run.blk, 0, cluster, 1, 0);
    failing_flush = 2;
    g_assert_cmpint(blk_co_flush(run.blk), ==, -EIO);
    bytes = co_checked(&run, &length);
    table = be64_get(bytes + b->l1_offset) & QCOW2_ENTRY_OFFSET;
    g_assert_cmpuint(table, >, 0);

    graph_rig_co_write(run.blk, 5 * cluster, cluster, 2, 0);
    g_array_set_size(ops, 0);
    g_assert_cmpint(blk_co_flush(run.blk), ==, 0);
    flush = find_flush();
    slice = find_write(table, cluster);
    g_assert_cmpuint(slice, <, ops->len);
    g_assert_cmpuint(flush, <, slice);
    g_assert_cmpuint(find_write(be64_get(qcow2_builder_at(b, cluster)), cluster), <, flush);
    g_assert_cmpuint(slice, <, find_write(b->l1_offset, cluster));
    g_assert_true(is_flush(ops->len - 1));
    g_free(co_checked(&run, &length));
    graph_rig_co_expect(run.blk, 0, cluster, 1);
    graph_rig_co_expect(run.blk, 5 * cluster, cluster, 2);
    co_close(&run);
    co_end(&run);
}

/* A write that did not fail waits for no flush; one more has nothing to do. */
static void co_fn body_commit_once(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 12, 0, 1 << 20);
    Run run;

    qcow2_builder_count(b);
    co_begin(&run, rig, b);
    graph_rig_co_write(run.blk, 0, 4096, 1, 0);
    g_assert_cmpuint(find_flush(), ==, ops->len);
    g_assert_cmpint(blk_co_flush(run.blk), ==, 0);
    g_array_set_size(ops, 0);
    graph_rig_co_write(run.blk, 0, 4096, 2, 0);
    g_assert_cmpint(blk_co_flush(run.blk), ==, 0);
    g_assert_cmpuint(ops->len, <=, 2); /* the data, a flush */
    co_close(&run);
    co_end(&run);
}

static void co_fn co_expect_mark(Run *run, bool marked)
{
    uint64_t length;
    g_autofree uint8_t *bytes = NULL;
    BlockBackend *blk = graph_rig_co_use(run->file, BLOCK_PERM_CONSISTENT_READ);

    length = blk_length(blk);
    bytes = g_malloc(length);
    g_assert_cmpint(blk_co_preadv(blk, 0, IOV_LOCAL(bytes, length), 0), ==, 0);
    block_backend_co_free(blk);
    g_assert_true(!!(be64_get(bytes + 72) & QCOW2_INCOMPATIBLE_CORRUPT) == marked);
}

/* Where the header cannot be written it is marked as corrupt when it can be. */
static void co_fn body_mark_later(GraphRig *rig)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 12, 0, 1 << 20);
    char byte;
    Run run;

    qcow2_builder_map(b, 1, UINT64_C(1) << 40, 0);
    qcow2_builder_count(b);
    co_begin(&run, rig, b);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*the image is corrupt*");
    g_assert_cmpint(blk_co_preadv(run.blk, 4096, IOV_LOCAL(&byte, 1), 0), ==, -EIO);
    g_test_assert_expected_messages();
    next_header = FAIL;
    g_assert_cmpint(blk_co_pwritev(run.blk, 0, IOV_LOCAL("x", 1), 0), ==, -EIO);
    co_expect_mark(&run, false);
    g_assert_cmpint(blk_co_pwritev(run.blk, 0, IOV_LOCAL("x", 1), 0), ==, -EIO);
    co_expect_mark(&run, true);
    g_array_set_size(ops, 0);
    g_assert_cmpint(blk_co_pwritev(run.blk, 0, IOV_LOCAL("x", 1), 0), ==, -EIO);
    g_assert_cmpuint(ops->len, ==, 0);
    co_close(&run);
    co_end(&run);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    graph_rig_add_test("/qcow2/order/growth", body_growth, NULL);
    graph_rig_add_test("/qcow2/order/growth-later", body_growth_later, NULL);
    graph_rig_add_test("/qcow2/order/commit-again", body_commit_again, NULL);
    graph_rig_add_test("/qcow2/order/commit-once", body_commit_once, NULL);
    graph_rig_add_test("/qcow2/order/mark-later", body_mark_later, NULL);
    return g_test_run();
}
