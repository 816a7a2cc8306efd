/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Comparing refcounts with how often clusters are named. They are set in place, one block after the
 * other, where there is a block for each cluster that is named, and it is one; otherwise all of
 * them are written anew.
 */
#include <errno.h>

#include "block/drivers/qcow2/check-internal.h"
#include "block/drivers/qcow2/refcount.h"

/* More differences are not remembered. */
#define MAX_DIFFERENCES (1u << 20)

/* How many refcounts a block has, as a power of two. */
static unsigned block_bits(const Check *c)
{
    return c->layout.cluster_bits + 3 - c->header->refcount_order;
}

static uint64_t per_block(const Check *c)
{
    return UINT64_C(1) << block_bits(c);
}

static uint64_t max_refcount(const Check *c)
{
    return UINT64_MAX >> (64 - (1u << c->header->refcount_order));
}

static uint64_t block_offset(const Check *c, uint64_t index)
{
    return index < c->reftable_entries ? c->reftable[index] : 0;
}

/* Differences */

static void remember(Check *c, uint64_t cluster, uint64_t counted)
{
    CheckDifference *d;

    if (!c->differences) {
        return;
    }
    if (g_hash_table_size(c->differences) == MAX_DIFFERENCES) {
        g_clear_pointer(&c->differences, g_hash_table_unref);
        return;
    }
    d = g_new(CheckDifference, 1);
    *d = (CheckDifference){cluster, counted};
    g_hash_table_add(c->differences, d);
}

uint64_t check_refcount(const Check *c, uint64_t cluster)
{
    const CheckDifference *d = g_hash_table_lookup(c->differences, &cluster);

    return d ? d->counted : qcow2_counts_get(&c->named, cluster);
}

/* Comparing */

typedef struct Compare {
    Check *check;
    uint8_t *block; /* one cluster */
    bool present;   /* the image has that block */
    bool changed;
} Compare;

/* Whether a refcount that is too low can be set; if not now, then by new blocks. */
static bool can_raise(const Check *c, uint64_t named)
{
    return check_repairs_all(c) && named <= max_refcount(c);
}

/* Where there is more that may name clusters, one that seems to be leaked may not be. */
static bool can_lower(const Check *c)
{
    return !c->incomplete &&
           (check_repairs_all(c) || (c->repair == IMAGE_REPAIR_LEAKS && !c->rebuild));
}

static void tell_leak(Compare *m, uint64_t cluster, uint64_t counted, uint64_t named, bool repaired)
{
    ImageCheck *result = m->check->result;

    check_tell(m->check,
               "%s: cluster %" G_GUINT64_FORMAT " is counted %" G_GUINT64_FORMAT
               " times, but used %" G_GUINT64_FORMAT,
               repaired ? "repaired leak" : "leak", cluster, counted, named);
    result->leaks += !repaired;
    result->leaks_fixed += repaired;
}

/* Whether this repair has added the cluster, so that it is not wrong that it was not counted. */
static bool is_added(const Check *c, uint64_t cluster)
{
    uint64_t offset = cluster << c->layout.cluster_bits;

    return c->snapshots_place <= offset && offset < c->snapshots_place_end;
}

static void compare_cluster(Compare *m, uint64_t cluster)
{
    Check *c = m->check;
    uint64_t index = cluster & (per_block(c) - 1);
    uint64_t counted =
        m->present ? qcow2_refcount_get(m->block, c->header->refcount_order, index) : 0;
    uint64_t named = qcow2_counts_get(&c->named, cluster);
    bool repaired;

    if (counted || named) {
        c->refcount_end = cluster + 1;
    }
    if (counted == named) {
        return;
    }
    if (counted > named) {
        repaired = can_lower(c);
        tell_leak(m, cluster, counted, named, repaired);
    } else {
        repaired = can_raise(c, named);
        if (!repaired || !is_added(c, cluster)) {
            check_corruption(c, repaired,
                             "cluster %" G_GUINT64_FORMAT " is used %" G_GUINT64_FORMAT
                             " times, but counted %" G_GUINT64_FORMAT,
                             cluster, named, counted);
        }
    }
    if (!repaired) {
        remember(c, cluster, counted);
    } else if (m->present) {
        qcow2_refcount_set(m->block, c->header->refcount_order, index, named);
        m->changed = true;
    } else {
        c->rebuild = true;
    }
}

/* A block that the image has, or for clusters that are named at least. */
static int co_fn co_compare_block(Compare *m, uint64_t index)
{
    Check *c = m->check;
    uint64_t offset = block_offset(c, index);
    uint64_t end = MIN((index + 1) << block_bits(c), c->clusters);
    int r = 0;

    m->present = offset != 0;
    m->changed = false;
    if (m->present) {
        r = check_co_read(c, offset, m->block, check_cluster_size(c));
        check_advance(c, check_cluster_size(c));
    }
    for (uint64_t i = index << block_bits(c); r == 0 && i < end; i++) {
        if (!m->present) {
            i = qcow2_counts_next(&c->named, i, end);
        }
        if (i < end) {
            compare_cluster(m, i);
        }
    }
    if (r == 0 && m->changed && !c->rebuild) {
        r = check_co_write(c, offset, m->block, check_cluster_size(c));
    }
    return r;
}

/* Whether any cluster that block @index counts is named. */
static bool counts_named(const Check *c, uint64_t index)
{
    uint64_t end = MIN((index + 1) << block_bits(c), c->clusters);

    return qcow2_counts_next(&c->named, index << block_bits(c), end) < end;
}

/* The first index from @index on of a block that is there, or has to be; or @end. */
static uint64_t next_block(const Check *c, uint64_t index, uint64_t end)
{
    while (index < end && block_offset(c, index) == 0 && !counts_named(c, index)) {
        index++;
    }
    return index;
}

static int co_fn co_compare(Check *c)
{
    Compare m = {.check = c};
    uint64_t end = (c->clusters + per_block(c) - 1) >> block_bits(c);
    int r = 0;

    m.block = g_try_malloc(check_cluster_size(c));
    if (!m.block) {
        return -ENOMEM;
    }
    for (uint64_t i = next_block(c, 0, end); r == 0 && i < end; i = next_block(c, i + 1, end)) {
        r = co_compare_block(&m, i);
    }
    g_free(m.block);
    return r;
}

/* A block that something else lies in cannot be relied on. */
static void check_blocks_apart(Check *c)
{
    for (uint64_t i = 0; i < c->reftable_entries; i++) {
        if (c->reftable[i] &&
            qcow2_counts_get(&c->named, c->reftable[i] >> c->layout.cluster_bits) > 1) {
            check_corruption(c, check_repairs_all(c),
                             "refcount block %" G_GUINT64_FORMAT " at %#" G_GINT64_MODIFIER
                             "x overlaps something else",
                             i, c->reftable[i]);
            c->rebuild = true;
        }
    }
}

/* New blocks and a new table */

typedef struct Rebuild {
    Check *check;
    uint64_t start; /* cluster: the blocks lie from there on, and the table behind them */
    uint64_t n_blocks;
    uint64_t clusters; /* of the table */
    uint64_t entries;  /* that are needed */
    uint64_t *table;   /* in the image's byte order */
    uint8_t *block, *old;
} Rebuild;

static void rebuild_clear(Rebuild *b)
{
    g_free(b->table);
    g_free(b->block);
    g_free(b->old);
}

static uint64_t rebuild_end(const Rebuild *b)
{
    return b->start + b->n_blocks + b->clusters;
}

/* Whether block @index counts anything: what is named, what is kept, or itself. */
static bool is_needed(const Rebuild *b, uint64_t index)
{
    const Check *c = b->check;

    return counts_named(c, index) || (index + 1) << block_bits(c) > b->start ||
           (c->incomplete && block_offset(c, index));
}

/* Find out how much is needed, itself included. */
static int rebuild_plan(Rebuild *b)
{
    const Check *c = b->check;
    uint64_t below = (b->start) >> block_bits(c); /* blocks that count none of it */
    uint64_t few = 0, before;

    for (uint64_t i = 0; i < below; i++) {
        few += is_needed(b, i);
    }
    do {
        before = rebuild_end(b);
        b->entries = (before + per_block(c) - 1) >> block_bits(c);
        b->n_blocks = few + b->entries - below;
        b->clusters = (b->entries * 8 + check_cluster_size(c) - 1) >> c->layout.cluster_bits;
        if (b->clusters << c->layout.cluster_bits > QCOW2_MAX_REFTABLE_BYTES) {
            return -EFBIG;
        }
    } while (rebuild_end(b) != before);
    b->table = g_try_malloc0(b->clusters << c->layout.cluster_bits);
    b->block = g_try_malloc(check_cluster_size(c));
    b->old = g_try_malloc(check_cluster_size(c));
    return b->table && b->block && b->old ? 0 : -ENOMEM;
}

/* What is counted, but not known to be named, is kept if we do not know all that names clusters. */
static uint64_t new_refcount(const Rebuild *b, uint64_t cluster, bool has_old)
{
    const Check *c = b->check;
    uint64_t named = qcow2_counts_get(&c->named, cluster);

    if (cluster >= b->start && cluster < rebuild_end(b)) {
        return 1;
    }
    if (has_old) { /* too many are a leak at most */
        named = MAX(named, qcow2_refcount_get(b->old, c->header->refcount_order,
                                              cluster & (per_block(c) - 1)));
    }
    return MIN(named, max_refcount(c));
}

static int co_fn rebuild_co_block(Rebuild *b, uint64_t index, uint64_t cluster)
{
    Check *c = b->check;
    bool has_old = c->incomplete && block_offset(c, index);
    int r = has_old ? check_co_read(c, block_offset(c, index), b->old, check_cluster_size(c)) : 0;

    if (r < 0) {
        return r;
    }
    memset(b->block, 0, check_cluster_size(c));
    for (uint64_t i = 0; i < per_block(c); i++) {
        qcow2_refcount_set(b->block, c->header->refcount_order, i,
                           new_refcount(b, (index << block_bits(c)) + i, has_old));
    }
    b->table[index] = GUINT64_TO_BE(cluster << c->layout.cluster_bits);
    return check_co_write(c, cluster << c->layout.cluster_bits, b->block, check_cluster_size(c));
}

static int co_fn rebuild_co_write(Rebuild *b)
{
    Check *c = b->check;
    uint64_t cluster = b->start;
    int r = 0;

    for (uint64_t i = 0; r == 0 && i < b->entries; i++) {
        if (is_needed(b, i)) {
            r = rebuild_co_block(b, i, cluster++);
        }
    }
    if (r == 0) {
        r = check_co_write(c, cluster << c->layout.cluster_bits, b->table,
                           b->clusters << c->layout.cluster_bits);
    }
    return r < 0 ? r : check_co_flush(c);
}

/* Nothing names the old table and its blocks any more. */
static void forget_old(Check *c)
{
    uint64_t first = c->header->reftable_offset >> c->layout.cluster_bits;

    for (uint64_t i = 0; i < c->reftable_named; i++) {
        qcow2_counts_remove(&c->named, first + i);
    }
    for (uint64_t i = 0; i < c->reftable_entries; i++) {
        if (c->reftable[i]) {
            qcow2_counts_remove(&c->named, c->reftable[i] >> c->layout.cluster_bits);
        }
    }
}

static int co_fn co_rebuild(Check *c)
{
    Rebuild b = {.check = c};
    int r;

    /* Behind all that is in use, old refcounts included; or in the file at all. */
    b.start = c->incomplete ? c->clusters : qcow2_counts_end(&c->named);
    forget_old(c);
    r = rebuild_plan(&b);
    if (r == 0) {
        r = rebuild_co_write(&b);
    }
    if (r == 0) {
        c->header->reftable_offset = (b.start + b.n_blocks) << c->layout.cluster_bits;
        c->header->reftable_clusters = b.clusters;
        c->refcount_end = rebuild_end(&b);
        r = check_co_write_header(c);
    }
    if (r == 0) {
        check_tell(c, "all refcounts were written anew");
    }
    rebuild_clear(&b);
    return r;
}

int co_fn check_co_refcounts(Check *c)
{
    int r;

    c->differences = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    check_blocks_apart(c);
    r = co_compare(c);
    if (r == 0 && c->rebuild && check_repairs_all(c)) {
        r = co_rebuild(c);
    }
    return r < 0 ? r : check_co_flush(c);
}

/* Counting again */

/* Where the image has the block with that index now; 0: nowhere. */
static int co_fn co_find_block(Check *c, uint64_t index, uint64_t *offset)
{
    const Qcow2Header *h = c->header;
    uint64_t entry = 0;
    int r = 0;

    if (index < (uint64_t)h->reftable_clusters << (h->cluster_bits - 3)) {
        r = check_co_read(c, h->reftable_offset + index * 8, &entry, sizeof(entry));
    }
    *offset = GUINT64_FROM_BE(entry);
    return r;
}

/* Those among the clusters that block @index counts. */
static int co_fn co_recount_block(Check *c, uint64_t index, uint64_t first, uint64_t end)
{
    g_autofree uint8_t *block = g_try_malloc(check_cluster_size(c));
    uint64_t offset;
    int r = block ? co_find_block(c, index, &offset) : -ENOMEM;

    if (r < 0 || offset == 0) {
        return r;
    }
    r = check_co_read(c, offset, block, check_cluster_size(c));
    for (uint64_t i = first; r == 0 && i < end; i++) {
        qcow2_refcount_set(block, c->header->refcount_order, i & (per_block(c) - 1),
                           MIN(qcow2_counts_get(&c->named, i), max_refcount(c)));
    }
    return r < 0 ? r : check_co_write(c, offset, block, check_cluster_size(c));
}

int co_fn check_co_recount(Check *c, uint64_t first, uint64_t end)
{
    int r = 0;

    while (r == 0 && first < end) {
        uint64_t index = first >> block_bits(c);
        uint64_t next = MIN(end, (index + 1) << block_bits(c));

        r = co_recount_block(c, index, first, next);
        first = next;
    }
    return r < 0 ? r : check_co_flush(c);
}
