/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/state.h"

#include <errno.h>
#include <string.h>

/* One question: what begins at @offset? */
typedef struct MapQuery {
    Qcow2State *s;
    uint64_t offset, bytes;
    uint64_t key;     /* of the slice */
    uint64_t start;   /* of what it describes */
    Qcow2Fault fault; /* in the L1 table */
    uint64_t table;   /* that it names */

    /* what is asked for */
    Qcow2Extent *extent;
    uint64_t found, host; /* in place */
    unsigned n;           /* entries to decode */
    Qcow2Cluster *clusters;
    Qcow2Fault decode_fault;
    Qcow2CacheChange *change;
    void *change_opaque;
} MapQuery;

/* What qcow2_fault() and the like report, the first time. @offset -1: not known. */
static int report(BlockNode *node, const char *message, int64_t offset, int64_t bytes)
{
    Qcow2State *s = block_node_state(node);

    if (!__atomic_exchange_n(&s->corrupt, true, __ATOMIC_SEQ_CST)) {
        block_node_report_corruption(node, message, offset, bytes, s->writable);
    }
    return -EIO;
}

int qcow2_fault(BlockNode *node, Qcow2Fault fault, uint64_t offset)
{
    g_autofree char *message = NULL;

    if (offset == QCOW2_NOWHERE) {
        return report(node, qcow2_fault_text(fault), -1, -1);
    }
    message = g_strdup_printf("%s (at %" G_GUINT64_FORMAT " of the disk)", qcow2_fault_text(fault),
                              offset);
    return report(node, message, -1, -1);
}

int qcow2_fault_in_image(BlockNode *node, Qcow2Fault fault, uint64_t disk, uint64_t offset,
                         uint64_t bytes)
{
    g_autofree char *message =
        disk == QCOW2_NOWHERE ? g_strdup_printf("%s (at %" G_GUINT64_FORMAT " of the image)",
                                                qcow2_fault_text(fault), offset)
                              : g_strdup_printf("%s (at %" G_GUINT64_FORMAT
                                                " of the disk, %" G_GUINT64_FORMAT " of the image)",
                                                qcow2_fault_text(fault), disk, offset);

    return report(node, message, offset, bytes);
}

int qcow2_fault_overlap(BlockNode *node, Qcow2Meta kind, uint64_t offset, uint64_t bytes)
{
    g_autofree char *message =
        g_strdup_printf("a write to where %s lies was prevented (%" G_GUINT64_FORMAT
                        " bytes at %" G_GUINT64_FORMAT " of the image)",
                        qcow2_meta_text(kind), bytes, offset);

    return report(node, message, offset, bytes);
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

/* What the header says does not change where nobody writes. */
static bool overlaps_read_only(const Qcow2Header *h, uint64_t offset, uint64_t bytes)
{
    return offset >> h->cluster_bits == 0 ||
           overlap(offset, bytes, h->l1_offset, (uint64_t)h->l1_entries * 8) ||
           overlap(offset, bytes, h->reftable_offset,
                   (uint64_t)h->reftable_clusters << h->cluster_bits) ||
           (h->n_snapshots > 0 && overlap(offset, bytes, h->snapshots_offset, 1));
}

bool qcow2_overlaps_tables(Qcow2State *s, uint64_t offset, uint64_t bytes)
{
    const unsigned kinds =
        QCOW2_META_BIT(QCOW2_META_HEADER) | QCOW2_META_BIT(QCOW2_META_ACTIVE_L1) |
        QCOW2_META_BIT(QCOW2_META_REFCOUNT_TABLE) | QCOW2_META_BIT(QCOW2_META_SNAPSHOT_TABLE);

    if (!s->writable) {
        return overlaps_read_only(s->image->header, offset, bytes);
    }
    return qcow2_guard_may_hit(&s->metadata.guard, kinds, offset, bytes) &&
           qcow2_guard_find_table(&s->metadata.guard, kinds, offset, bytes) != QCOW2_META__N;
}

Qcow2Fault qcow2_check_l2_table(Qcow2State *s, uint64_t offset)
{
    uint64_t size = qcow2_cluster_size(&s->image->layout);
    uint64_t length = block_child_length(s->file);

    if (offset > length || size > length - offset) {
        return QCOW2_FAULT_TABLE_PAST_END;
    }
    return qcow2_overlaps_tables(s, offset, size) ? QCOW2_FAULT_TABLE_OVERLAP : QCOW2_FAULT_NONE;
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
    Qcow2State *s = q->s;
    unsigned per_table_bits = s->image->layout.l2_bits - s->l2.slice_bits;
    uint64_t within = (key & ((UINT64_C(1) << per_table_bits) - 1)) * s->l2.slice_bytes;

    q->fault = l1_at(s->image, q->offset, &q->table);
    if (!q->fault) {
        q->fault = qcow2_check_l2_table(s, q->table);
    }
    if (q->fault) {
        return -EIO;
    }
    return block_child_co_preadv(s->file, q->table + within, IOV_LOCAL(table, s->l2.slice_bytes),
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

static MapQuery query(Qcow2State *s, uint64_t offset, uint64_t bytes)
{
    unsigned slice_bits = s->l2.slice_bits + s->image->layout.cluster_bits;

    return (MapQuery){.s = s,
                      .offset = offset,
                      .bytes = bytes,
                      .key = offset >> slice_bits,
                      .start = offset >> slice_bits << slice_bits};
}

static int table_fault(BlockNode *node, const MapQuery *q)
{
    return qcow2_fault_in_image(node, q->fault, q->offset, q->table,
                                qcow2_cluster_size(&q->s->image->layout));
}

/*
 * Look at the slice that describes the query's offset. 1: its L2 table is not there; 0, or -errno.
 */
static int co_fn co_look(BlockNode *node, MapQuery *q, Qcow2CacheLook *look)
{
    int r;

    q->fault = l1_at(q->s->image, q->offset, &q->table);
    if (!q->fault && q->table == 0) {
        return 1;
    }
    r = q->fault ? -EIO : qcow2_cache_co_look(q->s->l2.cache, q->key, load_slice, look, q);
    return q->fault ? table_fault(node, q) : r;
}

int co_fn qcow2_co_map(BlockNode *node, uint64_t offset, uint64_t bytes, Qcow2Extent *extent)
{
    Qcow2State *s = block_node_state(node);
    MapQuery q = query(s, offset, bytes);
    Qcow2Fault fault;
    int r;

    q.extent = extent;
    r = co_look(node, &q, look_at_slice);
    if (r == 1) {
        *extent = (Qcow2Extent){.bytes = hole_length(s->image, offset, bytes)};
        return 0;
    }
    fault = r == 0 ? check_extent(s, extent) : QCOW2_FAULT_NONE;
    if (fault == QCOW2_FAULT_DATA_PAST_END) {
        return qcow2_fault_in_image(node, fault, offset, extent->host, extent->bytes);
    }
    return fault ? qcow2_fault(node, fault, offset) : r;
}

/* For those who write */

static void look_in_place(const uint64_t *table, void *opaque)
{
    MapQuery *q = opaque;

    q->found = qcow2_map_in_place(&q->s->image->layout, table, 1u << q->s->l2.slice_bits, q->start,
                                  q->offset, q->bytes, &q->host);
}

int co_fn qcow2_co_map_in_place(BlockNode *node, uint64_t offset, uint64_t *bytes, uint64_t *host)
{
    Qcow2State *s = block_node_state(node);
    MapQuery q = query(s, offset, *bytes);
    int r = co_look(node, &q, look_in_place);

    *bytes = r == 0 ? q.found : 0;
    *host = q.host;
    if (*bytes > 0 && s->data == s->file) {
        return qcow2_co_check_write(node, *host, *bytes, QCOW2_META_NONE);
    }
    return MIN(r, 0);
}

uint64_t qcow2_slice_end(const Qcow2State *s, uint64_t cluster)
{
    return ((cluster >> s->l2.slice_bits) + 1) << s->l2.slice_bits;
}

static void look_decode(const uint64_t *table, void *opaque)
{
    MapQuery *q = opaque;
    const Qcow2Layout *layout = &q->s->image->layout;

    q->decode_fault =
        qcow2_decode_run(layout, table, (q->offset - q->start) >> layout->cluster_bits, q->n,
                         q->offset, q->clusters);
}

int co_fn qcow2_co_decode(BlockNode *node, uint64_t first, unsigned n, Qcow2Cluster *clusters)
{
    Qcow2State *s = block_node_state(node);
    MapQuery q = query(s, first << s->image->layout.cluster_bits, 1);
    int r;

    q.n = n;
    q.clusters = clusters;
    r = co_look(node, &q, look_decode);
    if (r == 1) {
        memset(clusters, 0, n * sizeof(*clusters));
        return 0;
    }
    if (r == 0 && q.decode_fault) {
        return qcow2_fault(node, q.decode_fault, q.offset);
    }
    return r;
}

static void change_slice(uint64_t *table, void *opaque)
{
    MapQuery *q = opaque;
    const Qcow2Layout *layout = &q->s->image->layout;

    q->change(table + ((q->offset - q->start) >> layout->cluster_bits) * layout->entry_words,
              q->change_opaque);
}

int co_fn qcow2_co_change_slice(BlockNode *node, uint64_t first, unsigned n,
                                Qcow2CacheChange *change, void *opaque)
{
    Qcow2State *s = block_node_state(node);
    const Qcow2Layout *layout = &s->image->layout;
    MapQuery q = query(s, first << layout->cluster_bits, 1);
    size_t entry = layout->entry_words * sizeof(uint64_t);
    size_t from = ((q.offset - q.start) >> layout->cluster_bits) * entry;
    int r;

    q.change = change;
    q.change_opaque = opaque;
    r = qcow2_cache_co_change(s->l2.cache, q.key, from, n * entry, load_slice, change_slice, &q);
    return q.fault ? table_fault(node, &q) : r;
}
