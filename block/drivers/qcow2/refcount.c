/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/refcount-internal.h"

#include <errno.h>
#include <string.h>

#include "block/drivers/qcow2/be.h"
#include "block/drivers/qcow2/state.h"
#include "util/error.h"

/* So many blocks may count clusters that the file does not have. */
#define MAX_BLOCKS_PAST_END 1024

/* What is written of a block is a multiple of that. */
#define WRITE_UNIT 4096

/* By how much the file is made longer at a time. */
#define MIN_STEP (UINT64_C(1) << 20)
#define MAX_STEP (UINT64_C(64) << 20)

/* Entries of any width */

uint64_t qcow2_refcount_get(const void *block, unsigned order, uint64_t index)
{
    const uint8_t *p = block;

    switch (order) {
    case 6:
        return be64_get(p + index * 8);
    case 5:
        return be32_get(p + index * 4);
    case 4:
        return be16_get(p + index * 2);
    case 3:
        return p[index];
    default: /* several in a byte, the first in its lowest bits */
        return p[(index << order) / 8] >> ((index << order) % 8) & ((1u << (1u << order)) - 1);
    }
}

void qcow2_refcount_set(void *block, unsigned order, uint64_t index, uint64_t value)
{
    uint8_t *p = block;
    unsigned shift, mask;

    switch (order) {
    case 6:
        be64_put(p + index * 8, value);
        break;
    case 5:
        be32_put(p + index * 4, value);
        break;
    case 4:
        p[index * 2] = value >> 8;
        p[index * 2 + 1] = value;
        break;
    case 3:
        p[index] = value;
        break;
    default:
        p += (index << order) / 8;
        shift = (index << order) % 8;
        mask = (1u << (1u << order)) - 1;
        *p = (*p & ~(mask << shift)) | (value & mask) << shift;
        break;
    }
}

/* Blocks */

typedef Qcow2Refblock Block;

static uint64_t cluster_size(const Qcow2Refcounts *r)
{
    return UINT64_C(1) << r->cluster_bits;
}

/* How many refcounts a block has, as a power of two. */
static unsigned block_bits(const Qcow2Refcounts *r)
{
    return r->cluster_bits + 3 - r->order;
}

static uint64_t block_mask(const Qcow2Refcounts *r)
{
    return (UINT64_C(1) << block_bits(r)) - 1;
}

/* Locking: nobody takes the quick way while somebody is here, who may suspend */

Qcow2Whole *co_fn qcow2_whole_co_enter(Qcow2Refcounts *r)
{
    co_mutex_lock(&r->whole);
    g_mutex_lock(&r->quick);
    r->locked = true;
    g_mutex_unlock(&r->quick);
    return r;
}

void qcow2_whole_leave(Qcow2Whole *r)
{
    uint64_t index = r->hint >> block_bits(r);

    g_mutex_lock(&r->quick);
    r->near = g_hash_table_lookup(r->blocks, &index);
    r->locked = false;
    g_mutex_unlock(&r->quick);
    co_mutex_unlock(&r->whole);
}

/* Guarding metadata, by those who have the whole */

static Qcow2Guard *guard_of(const Qcow2Refcounts *r)
{
    Qcow2State *s = block_node_state(r->node);

    return &s->metadata.guard;
}

void qcow2_whole_guard_block(const Qcow2Refcounts *r, uint64_t offset)
{
    qcow2_guard_add(guard_of(r), QCOW2_META_REFCOUNT_BLOCK, offset, 1);
}

/* What is about to be written, by somebody who knows of metadata of the kind @except there. */
static int co_fn co_check_write(Qcow2Refcounts *r, uint64_t offset, uint64_t bytes,
                                Qcow2Meta except)
{
    Qcow2Meta kind = qcow2_co_find_metadata(r->node, offset, bytes, QCOW2_META_BIT(except), true);

    return kind == QCOW2_META__N ? 0 : qcow2_fault_overlap(r->node, kind, offset, bytes);
}

/* Clusters that are free, as far as refcounts tell. The header's never is. */
static int co_fn co_check_free(Qcow2Refcounts *r, uint64_t cluster, uint64_t n, Qcow2Fault fault)
{
    uint64_t offset = cluster << r->cluster_bits, bytes = n << r->cluster_bits;

    if (cluster > 0 &&
        qcow2_co_find_metadata(r->node, offset, bytes, QCOW2_META_NONE, true) == QCOW2_META__N) {
        return 0;
    }
    return qcow2_fault_in_image(r->node, fault, QCOW2_NOWHERE, offset, bytes);
}

int qcow2_whole_not_counted(Qcow2Refcounts *r, uint64_t cluster)
{
    return qcow2_fault_in_image(r->node, QCOW2_FAULT_NOT_COUNTED, QCOW2_NOWHERE,
                                cluster << r->cluster_bits, cluster_size(r));
}

static Block *block_new(Qcow2Refcounts *r, uint64_t index)
{
    Block *b = g_try_malloc0(sizeof(*b) + cluster_size(r));

    if (b) {
        b->index = index;
        g_hash_table_insert(r->blocks, &b->index, b);
    }
    return b;
}

static void block_drop(Qcow2Refcounts *r, Block *b)
{
    g_hash_table_remove(r->blocks, &b->index);
}

static int co_fn block_co_read(Qcow2Refcounts *r, Block *b)
{
    uint64_t offset = r->table[b->index];
    uint64_t length = block_child_length(r->file);

    Qcow2Fault fault = QCOW2_FAULT_NONE;

    if (offset & (cluster_size(r) - 1)) {
        fault = QCOW2_FAULT_REFBLOCK_UNALIGNED;
    } else if (offset > length || cluster_size(r) > length - offset) {
        fault = QCOW2_FAULT_REFBLOCK_PAST_END;
    } else if (qcow2_overlaps_tables(block_node_state(r->node), offset, cluster_size(r))) {
        fault = QCOW2_FAULT_REFBLOCK_OVERLAP;
    }
    if (fault) {
        return qcow2_fault_in_image(r->node, fault, QCOW2_NOWHERE, offset, cluster_size(r));
    }
    return block_child_co_preadv(r->file, offset, IOV_LOCAL(b->data, cluster_size(r)), 0);
}

/* The block with entry @index, which has one. */
static int co_fn co_block(Qcow2Refcounts *r, uint64_t index, Block **block)
{
    Block *b = g_hash_table_lookup(r->blocks, &index);
    int ret;

    *block = b;
    if (b) {
        return 0;
    }
    b = block_new(r, index);
    if (!b) {
        return -ENOMEM;
    }
    ret = block_co_read(r, b);
    if (ret < 0) {
        block_drop(r, b);
        return ret;
    }
    *block = b;
    return 0;
}

/* Write what has changed, in blocks as disks like them. */
static int co_fn block_co_write(Qcow2Refcounts *r, Block *b)
{
    size_t unit = MIN(WRITE_UNIT, cluster_size(r));
    size_t from = b->dirty_from & ~(unit - 1);
    size_t to = (b->dirty_to + unit - 1) & ~(unit - 1);
    uint64_t offset = r->table[b->index] + from;
    int ret = co_check_write(r, offset, to - from, QCOW2_META_REFCOUNT_BLOCK);

    if (ret == 0) {
        ret = block_child_co_pwritev(r->file, offset, IOV_LOCAL((char *)b->data + from, to - from),
                                     0);
    }
    if (ret == 0) {
        b->dirty_from = b->dirty_to = 0;
    }
    return ret;
}

int co_fn qcow2_whole_co_write_blocks(Qcow2Refcounts *r)
{
    GHashTableIter iter;
    gpointer b;
    int ret = 0;

    /* The lock is held, so none comes or goes meanwhile. */
    g_hash_table_iter_init(&iter, r->blocks);
    while (ret == 0 && g_hash_table_iter_next(&iter, NULL, &b)) {
        if (qcow2_refblock_is_dirty(b)) {
            ret = block_co_write(r, b);
        }
    }
    return ret;
}

static gboolean is_clean(gpointer key, gpointer block, gpointer opaque)
{
    return !qcow2_refblock_is_dirty(block);
}

/* Forget blocks that have been written, if there are too many. */
void qcow2_whole_trim_blocks(Qcow2Refcounts *r)
{
    if (g_hash_table_size(r->blocks) > r->keep) {
        g_hash_table_foreach_remove(r->blocks, is_clean, NULL);
    }
}

/* The table */

bool co_fn qcow2_refcounts_co_load(Qcow2Refcounts *r, BlockNode *node, BlockChild *file,
                                   const Qcow2Header *header, size_t cache_bytes, GError **error)
{
    size_t bytes = (size_t)header->reftable_clusters << header->cluster_bits;
    uint64_t cluster = UINT64_C(1) << header->cluster_bits;
    /* The last cluster is in use as a whole, even where the file ends inside of it. */
    uint64_t end = (block_child_length(file) + cluster - 1) & ~(cluster - 1);
    int ret;

    *r = (Qcow2Refcounts){
        .node = node,
        .file = file,
        .cluster_bits = header->cluster_bits,
        .order = header->refcount_order,
        .entries = bytes / 8,
        .blocks = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free),
        .new_entries = g_array_new(FALSE, FALSE, sizeof(uint64_t)),
        .end = end,
        .extends = true,
        .fresh = end,
        .keep = MAX(cache_bytes >> header->cluster_bits, 4),
    };
    co_mutex_init(&r->whole);
    g_mutex_init(&r->quick);
    r->table = g_try_malloc(bytes);
    ret = r->table
              ? block_child_co_preadv(file, header->reftable_offset, IOV_LOCAL(r->table, bytes), 0)
              : -ENOMEM;
    if (ret < 0) {
        wharf_set_error_errno(error, -ret, "cannot read the refcount table");
        return false;
    }
    for (uint64_t i = 0; i < r->entries; i++) {
        r->table[i] = GUINT64_FROM_BE(r->table[i]);
    }
    return true;
}

void qcow2_refcounts_clear(Qcow2Refcounts *r)
{
    g_clear_pointer(&r->blocks, g_hash_table_unref);
    g_clear_pointer(&r->new_entries, g_array_unref);
    g_clear_pointer(&r->table, g_free);
    g_mutex_clear(&r->quick);
}

static int co_fn co_write_entry(Qcow2Refcounts *r, uint64_t index)
{
    const Qcow2State *s = block_node_state(r->node);
    uint64_t entry = GUINT64_TO_BE(r->table[index]);
    uint64_t offset = s->image->header->reftable_offset + index * 8;
    int ret = co_check_write(r, offset, sizeof(entry), QCOW2_META_REFCOUNT_TABLE);

    return ret < 0 ? ret
                   : block_child_co_pwritev(r->file, offset, IOV_LOCAL(&entry, sizeof(entry)), 0);
}

/* Whether new entries from @from to @to - 1 name the block that counts the one of entry @index. */
static bool is_counted_among(const Qcow2Refcounts *r, uint64_t index, guint from, guint to)
{
    uint64_t counted_by = r->table[index] >> (r->cluster_bits + block_bits(r));

    while (from < to && g_array_index(r->new_entries, uint64_t, from) != counted_by) {
        from++;
    }
    return from < to;
}

/*
 * The image names a block when that is there, and what counts it is in the image, too. Most blocks
 * count themselves; others come after those that count them.
 */
static int co_fn co_write_entries(Qcow2Refcounts *r)
{
    guint flushed = 0; /* so many of them */
    int ret = qcow2_co_flush_file(r->node);

    for (guint i = 0; ret == 0 && i < r->new_entries->len; i++) {
        uint64_t index = g_array_index(r->new_entries, uint64_t, i);

        if (is_counted_among(r, index, flushed, i)) {
            ret = qcow2_co_flush_file(r->node);
            flushed = i;
        }
        if (ret == 0) {
            ret = co_write_entry(r, index);
        }
    }
    return ret;
}

static int co_fn co_write_all(Qcow2Refcounts *r)
{
    int ret = qcow2_whole_co_write_blocks(r);

    if (ret == 0 && r->new_entries->len > 0) {
        ret = co_write_entries(r);
    }
    if (ret == 0) {
        g_array_set_size(r->new_entries, 0);
    }
    return ret;
}

/* Growing: blocks and tables for what lies behind the clusters that are counted so far */

void qcow2_whole_count(Qcow2Refcounts *r, Block *b, uint64_t cluster, uint64_t refcount)
{
    uint64_t index = cluster & block_mask(r);

    qcow2_refcount_set(b->data, r->order, index, refcount);
    qcow2_refblock_make_dirty(b, (index << r->order) / 8, (((index + 1) << r->order) + 7) / 8);
}

/* A block for entry @index, which has none, at @cluster: that is not counted here. */
static int co_fn co_add_block_at(Qcow2Refcounts *r, uint64_t index, uint64_t cluster, Block **block)
{
    int ret = co_check_free(r, cluster, 1, QCOW2_FAULT_NOT_COUNTED);

    if (ret < 0) {
        return ret;
    }
    *block = block_new(r, index);
    if (!*block) {
        return -ENOMEM;
    }
    qcow2_refblock_make_dirty(*block, 0, cluster_size(r));
    qcow2_whole_guard_block(r, cluster << r->cluster_bits);
    r->table[index] = cluster << r->cluster_bits;
    g_array_append_val(r->new_entries, index);
    r->end = MAX(r->end, r->table[index] + cluster_size(r));
    return 0;
}

/* The same at the first of the clusters that it counts. */
static int co_fn co_add_block(Qcow2Refcounts *r, uint64_t index, Block **block)
{
    int ret = co_add_block_at(r, index, index << block_bits(r), block);

    if (ret == 0) {
        qcow2_whole_count(r, *block, index << block_bits(r), 1);
    }
    return ret;
}

/* A table that is to take the place of the one in use, with blocks for what it takes up itself. */
typedef struct Growth {
    uint64_t first; /* entry: behind the old table */
    uint64_t n_blocks;
    uint64_t clusters; /* of the new table */
    uint64_t *table;
    uint64_t entries;
} Growth;

static bool growth_init(Growth *g, const Qcow2Refcounts *r)
{
    uint64_t per_cluster = cluster_size(r) / 8;

    *g = (Growth){.first = r->entries};
    g->clusters = MAX(r->entries / per_cluster * 2, 1);
    if (g->clusters << r->cluster_bits > QCOW2_MAX_REFTABLE_BYTES) {
        g->clusters = QCOW2_MAX_REFTABLE_BYTES >> r->cluster_bits;
    }
    g->n_blocks = 1;
    while (g->n_blocks << block_bits(r) < g->n_blocks + g->clusters) {
        g->n_blocks++;
    }
    g->entries = g->clusters * per_cluster;
    if (g->entries < g->first + g->n_blocks) {
        return false;
    }
    g->table = g_try_malloc0(g->clusters << r->cluster_bits);
    return g->table != NULL;
}

/*
 * The blocks stand together at the beginning of what they count, and the table behind them. They
 * belong to nobody before the header names the table.
 */
static int co_fn growth_co_write(Growth *g, Qcow2Refcounts *r)
{
    uint64_t start = g->first << block_bits(r); /* a cluster */
    uint64_t used = g->n_blocks + g->clusters;
    g_autofree uint64_t *disk = g_try_malloc(g->clusters << r->cluster_bits);
    g_autofree uint8_t *block = g_try_malloc(cluster_size(r));
    int ret = disk && block ? 0 : -ENOMEM;

    if (ret == 0) {
        ret = co_check_free(r, start, used, QCOW2_FAULT_NOT_COUNTED);
    }
    if (ret == 0) {
        memcpy(g->table, r->table, r->entries * 8);
    }
    for (uint64_t i = 0; ret == 0 && i < g->n_blocks; i++) {
        uint64_t first = i << block_bits(r);

        memset(block, 0, cluster_size(r));
        for (uint64_t j = first; j < used && j - first <= block_mask(r); j++) {
            qcow2_refcount_set(block, r->order, j - first, 1);
        }
        g->table[g->first + i] = (start + i) << r->cluster_bits;
        ret = block_child_co_pwritev(r->file, g->table[g->first + i],
                                     IOV_LOCAL(block, cluster_size(r)), 0);
    }
    if (ret < 0) {
        return ret;
    }
    for (uint64_t i = 0; i < g->entries; i++) {
        disk[i] = GUINT64_TO_BE(g->table[i]);
    }
    return block_child_co_pwritev(r->file, (start + g->n_blocks) << r->cluster_bits,
                                  IOV_LOCAL(disk, g->clusters << r->cluster_bits), 0);
}

/* Where the table is: for the header, and for those who must not write there. */
static void set_table_place(Qcow2Refcounts *r, uint64_t offset, uint32_t clusters)
{
    const Qcow2State *s = block_node_state(r->node);
    Qcow2Header *h = s->image->header;

    __atomic_store_n(&h->reftable_offset, offset, __ATOMIC_RELAXED);
    __atomic_store_n(&h->reftable_clusters, clusters, __ATOMIC_RELAXED);
    qcow2_guard_set_table(guard_of(r), QCOW2_META_REFCOUNT_TABLE, offset,
                          (uint64_t)clusters << r->cluster_bits);
}

/* All that the new table names is written, flushed, and only then the header. */
static int co_fn growth_co_write_and_name(Growth *g, Qcow2Refcounts *r)
{
    const Qcow2State *s = block_node_state(r->node);
    uint64_t old_offset = s->image->header->reftable_offset;
    uint32_t old_clusters = s->image->header->reftable_clusters;
    uint64_t offset = ((g->first << block_bits(r)) + g->n_blocks) << r->cluster_bits;
    uint64_t end = offset + (g->clusters << r->cluster_bits);
    int ret = growth_co_write(g, r);

    /* Whatever becomes of it, there are no zeros, and after an error the header may name it. */
    r->fresh = MAX(r->fresh, end);
    r->end = MAX(r->end, end);
    if (ret == 0) {
        ret = qcow2_co_flush_file(r->node);
    }
    if (ret < 0) {
        return ret;
    }
    set_table_place(r, offset, g->clusters);
    ret = qcow2_co_write_header(r->node);
    if (ret < 0) {
        set_table_place(r, old_offset, old_clusters);
        qcow2_co_write_header_back(r->node);
    }
    return ret;
}

/* Make the table longer. */
static int co_fn co_grow_table(Qcow2Refcounts *r)
{
    const Qcow2State *s = block_node_state(r->node);
    uint64_t old_offset = s->image->header->reftable_offset;
    uint32_t old_clusters = s->image->header->reftable_clusters;
    Growth g;
    int ret;

    if (r->shadow) {
        return qcow2_shadow_grow_table(r);
    }
    if (!growth_init(&g, r)) {
        return -EFBIG;
    }
    ret = co_write_all(r);
    if (ret == 0) {
        ret = growth_co_write_and_name(&g, r);
    }
    if (ret < 0) {
        g_free(g.table);
        return ret;
    }
    for (uint64_t i = 0; i < g.n_blocks; i++) {
        qcow2_whole_guard_block(r, g.table[g.first + i]);
    }
    g_free(r->table);
    r->table = g.table;
    r->entries = g.entries;
    return qcow2_whole_co_release(r, old_offset, (uint64_t)old_clusters << r->cluster_bits,
                                  s->discard_other);
}

/* Taking and releasing */

/* The block that counts @cluster; a new one if need be. */
static int co_fn co_block_for(Qcow2Refcounts *r, uint64_t cluster, Block **b)
{
    uint64_t index = cluster >> block_bits(r);

    if (cluster >> (56 - r->cluster_bits)) {
        return -EFBIG; /* the format cannot say more */
    }
    if (index >= r->entries) {
        int ret = co_grow_table(r);

        if (ret < 0 || index >= r->entries) {
            return ret < 0 ? ret : -EFBIG;
        }
    }
    return r->table[index] ? co_block(r, index, b) : co_add_block(r, index, b);
}

static int co_fn co_is_free(Qcow2Refcounts *r, uint64_t cluster, bool *free)
{
    Block *b;
    int ret = co_block_for(r, cluster, &b);

    if (ret == 0) {
        *free = qcow2_refcount_get(b->data, r->order, cluster & block_mask(r)) == 0;
    }
    return ret;
}

/* The first entry from @from on that is 0, or the number of entries. */
static uint64_t find_zero(const Qcow2Refcounts *r, const Block *b, uint64_t from)
{
    while (from <= block_mask(r) && qcow2_refcount_get(b->data, r->order, from) > 0) {
        from++;
    }
    return from;
}

/*
 * The first free cluster from the hint on. A crash may have left counted what the file does not
 * have; but so much that there is no end to it is nothing that we believe.
 */
static int co_fn co_find(Qcow2Refcounts *r, uint64_t *cluster)
{
    uint64_t in_file = (uint64_t)block_child_length(r->file) >> r->cluster_bits;
    uint64_t last = (in_file >> block_bits(r)) + MAX_BLOCKS_PAST_END;

    for (;;) {
        uint64_t index = r->hint >> block_bits(r);
        uint64_t found;
        Block *b;
        int ret;

        if (index > last) {
            return qcow2_fault(r->node, QCOW2_FAULT_COUNTED_PAST_END, QCOW2_NOWHERE);
        }
        ret = co_block_for(r, r->hint, &b);
        if (ret < 0) {
            return ret;
        }
        found = find_zero(r, b, r->hint & block_mask(r));
        r->hint = (index << block_bits(r)) + found;
        if (found <= block_mask(r)) {
            *cluster = r->hint;
            return 0;
        }
        qcow2_whole_trim_blocks(r);
    }
}

static int co_fn co_take_locked(Qcow2Refcounts *r, uint64_t n, uint64_t *offset, uint64_t *got)
{
    uint64_t cluster = 0;
    bool free = true;
    Block *b;
    int ret = co_find(r, &cluster);

    if (ret < 0) {
        return ret;
    }
    for (*got = 0; *got < n; ++*got) {
        /* Each may be the one that makes a block, which takes the first of its own. */
        ret = co_is_free(r, cluster + *got, &free);
        if (ret < 0 || !free) {
            break;
        }
        ret = co_check_free(r, cluster + *got, 1, QCOW2_FAULT_METADATA_FREE);
        if (ret < 0) {
            return ret;
        }
    }
    if (*got == 0) {
        return ret;
    }
    for (uint64_t i = 0; i < *got; i++) {
        ret = co_block_for(r, cluster + i, &b);
        if (ret < 0) {
            return ret;
        }
        qcow2_whole_count(r, b, cluster + i, 1);
    }
    *offset = cluster << r->cluster_bits;
    return 0;
}

/* Clusters were taken. Whether the file has zeros there. */
static bool note_taken(Qcow2Refcounts *r, uint64_t offset, uint64_t n)
{
    uint64_t end = offset + (n << r->cluster_bits);
    bool fresh = offset >= r->fresh;

    r->hint = end >> r->cluster_bits;
    r->fresh = MAX(r->fresh, end);
    r->end = MAX(r->end, end);
    return fresh;
}

/*
 * Make the file longer, by more than is needed now: to do so for each cluster would cost more than
 * to write it. Where that is not possible the write will say so.
 */
static void co_fn co_extend_file(Qcow2Refcounts *r)
{
    uint64_t length = block_child_length(r->file);
    uint64_t step = CLAMP(length / 8, MIN_STEP, MAX_STEP);

    if (r->end > length && r->extends) {
        step = (r->end + step) & ~(cluster_size(r) - 1);
        r->extends = block_child_co_truncate(r->file, MAX(step, r->end), PREALLOC_MODE_OFF,
                                             BLOCK_REQ_ZERO | BLOCK_REQ_GROW_ONLY, NULL) == 0;
    }
}

void co_fn qcow2_refcounts_co_trim(Qcow2Refcounts *r)
{
    const Qcow2State *s = block_node_state(r->node);

    WHOLE_GUARD(r);
    if (__atomic_load_n(&s->metadata.unsure, __ATOMIC_ACQUIRE)) {
        return; /* the header may name what is not in use */
    }
    if (r->extends && r->end < (uint64_t)block_child_length(r->file)) {
        block_child_co_truncate(r->file, r->end, PREALLOC_MODE_OFF, 0, NULL);
    }
}

int co_fn qcow2_whole_co_take(Qcow2Refcounts *r, uint64_t n, uint64_t *offset, uint64_t *got,
                              bool *fresh)
{
    int ret;

    do {
        ret = co_take_locked(r, n, offset, got);
    } while (ret == 0 && *got == 0); /* a block was made where the cluster was found */
    if (ret == 0) {
        *fresh = note_taken(r, *offset, *got);
        co_extend_file(r);
    }
    return ret;
}

/*
 * Take clusters that @b, which counts the hint, counts, and that the file has. Returns how many; 0:
 * there is more to be done than that.
 */
static uint64_t take_from(Qcow2Refcounts *r, Block *b, uint64_t n, uint64_t *offset)
{
    uint64_t first = find_zero(r, b, r->hint & block_mask(r));
    uint64_t end = first;

    while (end <= block_mask(r) && end - first < n &&
           qcow2_refcount_get(b->data, r->order, end) == 0) {
        end++;
    }
    n = end - first;
    *offset = ((b->index << block_bits(r)) + first) << r->cluster_bits;
    if (n == 0 || *offset + (n << r->cluster_bits) > (uint64_t)block_child_length(r->file) ||
        qcow2_guard_may_hit(guard_of(r), QCOW2_META_ANY, *offset, n << r->cluster_bits)) {
        return 0;
    }
    for (uint64_t i = first; i < end; i++) {
        qcow2_whole_count(r, b, i, 1);
    }
    return n;
}

/* Take clusters if that needs nothing but memory. */
static bool take_quickly(Qcow2Refcounts *r, uint64_t n, uint64_t *offset, uint64_t *got,
                         bool *fresh)
{
    bool taken = false;

    g_mutex_lock(&r->quick);
    if (!r->locked && r->near && r->near->index == r->hint >> block_bits(r)) {
        *got = take_from(r, r->near, n, offset);
        taken = *got > 0;
        if (taken) {
            *fresh = note_taken(r, *offset, *got);
        }
    }
    g_mutex_unlock(&r->quick);
    return taken;
}

int co_fn qcow2_refcounts_co_take(Qcow2Refcounts *r, uint64_t n, uint64_t *offset, uint64_t *got,
                                  bool *fresh)
{
    if (!take_quickly(r, n, offset, got, fresh)) {
        WHOLE_GUARD(r);
        return qcow2_whole_co_take(r, n, offset, got, fresh);
    }
    return 0;
}

/* Bytes, for compressed clusters: several share a cluster of the image */

/* One user more for a cluster that has some. *@ok: whether there may be one more. */
static int co_fn co_count_up(Qcow2Refcounts *r, uint64_t cluster, bool *ok)
{
    Block *b;
    int ret = co_block_for(r, cluster, &b);
    uint64_t refcount;

    if (ret < 0) {
        return ret;
    }
    refcount = qcow2_refcount_get(b->data, r->order, cluster & block_mask(r));
    *ok = refcount > 0 && refcount < qcow2_refcounts_max(r);
    if (*ok) {
        qcow2_whole_count(r, b, cluster, refcount + 1);
    }
    return 0;
}

/* Take bytes where the last were taken, if the cluster has room. *@offset 0: it has not. */
static int co_fn co_take_packed(Qcow2Refcounts *r, uint64_t bytes, uint64_t *offset)
{
    uint64_t inside = r->packed & (cluster_size(r) - 1);
    bool ok = true;
    int ret;

    *offset = 0;
    if (r->packed == 0 || bytes > cluster_size(r) - inside) {
        return 0;
    }
    ret = co_count_up(r, r->packed >> r->cluster_bits, &ok);
    *offset = ret == 0 && ok ? r->packed : 0;
    return ret;
}

/* Take a cluster, for bytes that begin in it, or in the one before if that goes on here. */
static int co_fn co_take_next(Qcow2Refcounts *r, uint64_t *offset)
{
    uint64_t before = r->packed >> r->cluster_bits;
    uint64_t cluster, got;
    bool fresh, ok = false;
    int ret = qcow2_whole_co_take(r, 1, &cluster, &got, &fresh);

    if (ret < 0) {
        return ret;
    }
    *offset = cluster;
    if (r->packed && (before + 1) << r->cluster_bits == cluster) {
        ret = co_count_up(r, before, &ok);
    }
    if (ret < 0) {
        qcow2_whole_co_release(r, cluster, cluster_size(r), false);
    } else if (ok) {
        *offset = r->packed;
    }
    return ret;
}

int co_fn qcow2_refcounts_co_take_bytes(Qcow2Refcounts *r, uint64_t bytes, uint64_t *offset)
{
    int ret;

    WHOLE_GUARD(r);
    ret = co_take_packed(r, bytes, offset);
    if (ret == 0 && *offset == 0) {
        ret = co_take_next(r, offset);
    }
    if (ret == 0) {
        r->packed = *offset + bytes;
        if ((r->packed & (cluster_size(r) - 1)) == 0) {
            r->packed = 0; /* what follows belongs to somebody else */
        }
    }
    return ret;
}

/* The first entry of the table behind all that name a block. */
static uint64_t end_of_blocks(const Qcow2Refcounts *r)
{
    uint64_t index = r->entries;

    while (index > 0 && !r->table[index - 1]) {
        index--;
    }
    return index;
}

/* How many blocks count @n clusters, and themselves before those. */
static uint64_t blocks_for_run(const Qcow2Refcounts *r, uint64_t n)
{
    uint64_t n_blocks = 1;

    while (n_blocks << block_bits(r) < n_blocks + n) {
        n_blocks++;
    }
    return n_blocks;
}

/* One user for a cluster whose block is in memory. */
static int co_fn co_count_new(Qcow2Refcounts *r, uint64_t cluster)
{
    Block *b;
    int ret = co_block_for(r, cluster, &b);

    if (ret == 0) {
        qcow2_whole_count(r, b, cluster, 1);
    }
    return ret;
}

/*
 * A run that is longer than what a block counts. Blocks usually are the first of what they count,
 * so they would stand in between; the ones for this run stand together before it, behind all that
 * was ever counted.
 */
static int co_fn co_take_long_run(Qcow2Refcounts *r, uint64_t n, uint64_t *offset)
{
    uint64_t n_blocks = blocks_for_run(r, n);
    uint64_t first, start;
    int ret = 0;

    for (first = end_of_blocks(r); ret == 0 && first + n_blocks > r->entries;
         first = end_of_blocks(r)) {
        ret = co_grow_table(r);
    }
    start = first << block_bits(r);
    for (uint64_t i = 0; ret == 0 && i < n_blocks; i++) {
        Block *b;

        ret = co_add_block_at(r, first + i, start + i, &b);
        if (ret == 0) {
            ret = co_count_new(r, start + i);
        }
    }
    start += n_blocks;
    if (ret == 0) {
        ret = co_check_free(r, start, n, QCOW2_FAULT_NOT_COUNTED);
    }
    for (uint64_t i = 0; ret == 0 && i < n; i++) {
        ret = co_count_new(r, start + i);
    }
    if (ret < 0) {
        return ret;
    }
    *offset = start << r->cluster_bits;
    r->fresh = MAX(r->fresh, *offset + (n << r->cluster_bits));
    r->end = MAX(r->end, *offset + (n << r->cluster_bits));
    co_extend_file(r);
    return 0;
}

/* What is too short on the way is given back in the end. */
int co_fn qcow2_whole_co_take_run(Qcow2Refcounts *r, uint64_t n, uint64_t *offset)
{
    g_autoptr(GArray) rejected = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    uint64_t got = 0;
    bool fresh;
    int ret;

    if (n > block_mask(r)) {
        return co_take_long_run(r, n, offset);
    }
    while ((ret = qcow2_whole_co_take(r, n, offset, &got, &fresh)) == 0 && got < n) {
        Qcow2Freed part = {.offset = *offset, .bytes = got << r->cluster_bits};

        g_array_append_val(rejected, part);
    }
    for (guint i = 0; i < rejected->len; i++) {
        const Qcow2Freed *part = &g_array_index(rejected, Qcow2Freed, i);

        qcow2_whole_co_release(r, part->offset, part->bytes, false);
    }
    return ret;
}

int co_fn qcow2_refcounts_co_take_run(Qcow2Refcounts *r, uint64_t n, uint64_t *offset)
{
    WHOLE_GUARD(r);
    return qcow2_whole_co_take_run(r, n, offset);
}

/* The refcount of a cluster; *@block, where it is counted: NULL if nowhere. */
static int co_fn co_get(Qcow2Refcounts *r, uint64_t cluster, Block **block, uint64_t *refcount)
{
    uint64_t index = cluster >> block_bits(r);
    int ret = 0;

    *block = NULL;
    *refcount = 0;
    if (index < r->entries && r->table[index]) {
        ret = co_block(r, index, block);
    }
    if (*block) {
        *refcount = qcow2_refcount_get((*block)->data, r->order, cluster & block_mask(r));
    }
    return ret;
}

/* The same for one that is in use. */
int co_fn qcow2_whole_co_get_used(Qcow2Refcounts *r, uint64_t cluster, Block **block,
                                  uint64_t *refcount)
{
    int ret = co_get(r, cluster, block, refcount);

    if (ret == 0 && *refcount == 0) {
        ret = qcow2_whole_not_counted(r, cluster);
    }
    return ret;
}

int co_fn qcow2_refcounts_co_get(Qcow2Refcounts *r, uint64_t offset, uint64_t *refcount)
{
    Block *b;

    WHOLE_GUARD(r);
    return co_get(r, offset >> r->cluster_bits, &b, refcount);
}

/* Returns 1 if the cluster is free now. */
static int co_fn co_count_down(Qcow2Refcounts *r, uint64_t cluster)
{
    uint64_t refcount;
    Block *b;
    int ret = qcow2_whole_co_get_used(r, cluster, &b, &refcount);

    if (ret < 0) {
        return ret;
    }
    qcow2_whole_count(r, b, cluster, refcount - 1);
    if (refcount == 1) {
        r->hint = MIN(r->hint, cluster);
        r->packed = r->packed >> r->cluster_bits == cluster ? 0 : r->packed;
    }
    return refcount == 1;
}

/* Give the storage of clusters from @from to @to - 1 back; if that fails nothing is lost. */
static void co_fn co_discard(Qcow2Refcounts *r, uint64_t from, uint64_t to)
{
    uint64_t offset = from << r->cluster_bits, bytes = (to - from) << r->cluster_bits;

    if (from < to && co_check_free(r, from, to - from, QCOW2_FAULT_METADATA_FREE) == 0) {
        block_child_co_pdiscard(r->file, offset, bytes);
    }
}

int co_fn qcow2_whole_co_release(Qcow2Refcounts *r, uint64_t offset, uint64_t bytes, bool discard)
{
    uint64_t c = offset >> r->cluster_bits;
    uint64_t free_from = c; /* those up to here are free */
    int result = 0;

    for (; c << r->cluster_bits < offset + bytes; c++) {
        int ret = co_count_down(r, c);

        if (ret == 1 && discard) {
            continue;
        }
        co_discard(r, free_from, discard ? c : free_from);
        free_from = c + 1;
        result = ret < 0 ? ret : result;
    }
    co_discard(r, free_from, c);
    return result;
}

int co_fn qcow2_refcounts_co_release(Qcow2Refcounts *r, uint64_t offset, uint64_t bytes,
                                     bool discard)
{
    WHOLE_GUARD(r);
    return qcow2_whole_co_release(r, offset, bytes, discard);
}

/* Writing */

static int co_fn co_write_and_trim(Qcow2Refcounts *r)
{
    int ret = co_write_all(r);

    if (ret == 0) {
        qcow2_whole_trim_blocks(r);
    }
    return ret;
}

int co_fn qcow2_refcounts_co_write(Qcow2Refcounts *r)
{
    WHOLE_GUARD(r);
    return co_write_and_trim(r);
}

int co_fn qcow2_refcounts_co_write_if_many(Qcow2Refcounts *r)
{
    WHOLE_GUARD(r);
    return g_hash_table_size(r->blocks) > r->keep ? co_write_and_trim(r) : 0;
}

/* What others must not write to */

/* Whether a block begins there, as the table says, or in the image meanwhile. */
static bool names_block(const Qcow2Refcounts *r, uint64_t offset, uint64_t bytes)
{
    for (uint64_t i = 0; i < r->entries; i++) {
        if (r->table[i] && r->table[i] - offset < bytes) {
            return true;
        }
    }
    return r->shadow && qcow2_shadow_names_block(r->shadow, offset, bytes);
}

bool co_fn qcow2_refcounts_co_names_block(Qcow2Refcounts *r, uint64_t offset, uint64_t bytes,
                                          bool whole)
{
    if (!whole) {
        WHOLE_GUARD(r);
        return names_block(r, offset, bytes);
    }
    return names_block(r, offset, bytes);
}

void qcow2_refcounts_guard(Qcow2Refcounts *r)
{
    for (uint64_t i = 0; i < r->entries; i++) {
        if (r->table[i]) {
            qcow2_whole_guard_block(r, r->table[i]);
        }
    }
}
