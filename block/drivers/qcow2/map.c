/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/state.h"

#include <errno.h>

/* One question: what begins at @offset? */
typedef struct MapQuery {
    const Qcow2State *s;
    uint64_t offset, bytes;
    uint64_t start; /* of what the slice describes */
    Qcow2Fault fault;
    Qcow2Extent *extent;
} MapQuery;

int qcow2_fault(BlockNode *node, Qcow2Fault fault, uint64_t offset)
{
    Qcow2State *s = block_node_state(node);
    g_autofree char *message = NULL;

    if (!__atomic_exchange_n(&s->corrupt, true, __ATOMIC_RELAXED)) {
        message = g_strdup_printf("%s (at %" G_GUINT64_FORMAT " of the disk)",
                                  qcow2_fault_text(fault), offset);
        block_node_report_corruption(node, message, false);
    }
    return -EIO;
}

/* L1 */

static Qcow2Fault l1_at(const Qcow2Image *image, uint64_t offset, uint64_t *l2_table)
{
    const Qcow2Layout *layout = &image->layout;
    uint64_t entry =
        __atomic_load_n(&image->l1[offset >> qcow2_l2_reach_bits(layout)], __ATOMIC_ACQUIRE);

    return qcow2_l1_decode(layout, entry, l2_table);
}

/* How many bytes, up to @bytes, have no L2 table, of those from @offset on, the first of which has
 * none. */
static uint64_t hole_length(const Qcow2Image *image, uint64_t offset, uint64_t bytes)
{
    uint64_t reach = UINT64_C(1) << qcow2_l2_reach_bits(&image->layout);
    uint64_t length = reach - (offset & (reach - 1));
    uint64_t l2_table;

    while (length < bytes && l1_at(image, offset + length, &l2_table) == QCOW2_FAULT_NONE &&
           l2_table == 0) {
        length += reach;
    }
    return MIN(length, bytes);
}

static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
    return a < b + b_bytes && b < a + a_bytes;
}

/* Whether an L2 table may lie at @offset, which is aligned and not 0. */
static Qcow2Fault check_l2_table(const Qcow2State *s, uint64_t offset)
{
    const Qcow2Header *h = s->image->header;
    uint64_t size = qcow2_cluster_size(&s->image->layout);
    uint64_t length = block_child_length(s->file);

    if (offset > length || size > length - offset) {
        return QCOW2_FAULT_TABLE_PAST_END;
    }
    if (overlap(offset, size, h->l1_offset, (uint64_t)h->l1_entries * 8) ||
        overlap(offset, size, h->reftable_offset,
                (uint64_t)h->reftable_clusters << h->cluster_bits) ||
        (h->n_snapshots > 0 && overlap(offset, size, h->snapshots_offset, 1))) {
        return QCOW2_FAULT_TABLE_OVERLAP;
    }
    return QCOW2_FAULT_NONE;
}

/* L2 */

static void look_at_slice(const uint64_t *table, void *opaque)
{
    const MapQuery *q = opaque;

    qcow2_map(&q->s->image->layout, table, 1u << q->s->l2.slice_bits, q->start, q->offset, q->bytes,
              q->extent);
}

static int co_fn load_slice(uint64_t key, void *table, void *opaque)
{
    MapQuery *q = opaque;
    const Qcow2State *s = q->s;
    unsigned per_table_bits = s->image->layout.l2_bits - s->l2.slice_bits;
    uint64_t within = (key & ((UINT64_C(1) << per_table_bits) - 1)) * s->l2.slice_bytes;
    uint64_t l2_table;

    q->fault = l1_at(s->image, q->offset, &l2_table);
    if (!q->fault) {
        q->fault = check_l2_table(s, l2_table);
    }
    if (q->fault) {
        return -EIO;
    }
    return block_child_co_preadv(s->file, l2_table + within, IOV_LOCAL(table, s->l2.slice_bytes),
                                 0);
}

/* What the tables alone do not tell: whether there is something at the place they name. */
static Qcow2Fault check_extent(const Qcow2State *s, const Qcow2Extent *extent)
{
    uint64_t mask = qcow2_cluster_size(&s->image->layout) - 1;
    uint64_t length;

    switch (extent->kind) {
    case QCOW2_EXTENT_FAULTY:
        return extent->fault;
    case QCOW2_EXTENT_DATA:
        if (s->data != s->file) {
            break; /* what a data file lacks at its end is a hole */
        }
        /* The last cluster of a file need not be complete. */
        length = (block_child_length(s->file) + mask) & ~mask;
        return extent->host + extent->bytes > length ? QCOW2_FAULT_DATA_PAST_END : QCOW2_FAULT_NONE;
    case QCOW2_EXTENT_COMPRESSED:
        return extent->host >= (uint64_t)block_child_length(s->file) ? QCOW2_FAULT_DATA_PAST_END
                                                                     : QCOW2_FAULT_NONE;
    case QCOW2_EXTENT_UNALLOCATED:
    case QCOW2_EXTENT_ZERO:
        break;
    }
    return QCOW2_FAULT_NONE;
}

int co_fn qcow2_co_map(BlockNode *node, uint64_t offset, uint64_t bytes, Qcow2Extent *extent)
{
    const Qcow2State *s = block_node_state(node);
    unsigned slice_bits = s->l2.slice_bits + s->image->layout.cluster_bits;
    uint64_t key = offset >> slice_bits;
    MapQuery q = {
        .s = s, .offset = offset, .bytes = bytes, .start = key << slice_bits, .extent = extent};
    uint64_t l2_table;
    int r;

    q.fault = l1_at(s->image, offset, &l2_table);
    if (q.fault) {
        return qcow2_fault(node, q.fault, offset);
    }
    if (l2_table == 0) {
        *extent = (Qcow2Extent){.bytes = hole_length(s->image, offset, bytes)};
        return 0;
    }
    r = qcow2_cache_co_look(s->l2.cache, key, load_slice, look_at_slice, &q);
    if (r == 0) {
        q.fault = check_extent(s, extent);
    }
    return q.fault ? qcow2_fault(node, q.fault, offset) : r;
}
