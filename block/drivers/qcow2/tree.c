/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Walks over all that an L1 table names: its L2 tables, and what they name. The disk's own table is
 * one such tree, each snapshot's another, and they share what they have in common; a cluster is
 * counted once for each tree in which it is, however the trees share the tables between.
 */
#include <errno.h>

#include "block/drivers/qcow2/state.h"

/* So many entries are decoded at once. */
#define BATCH 64

typedef int co_fn Count(Qcow2Refcounts *r, uint64_t offset, uint64_t bytes);

typedef struct Walk {
    BlockNode *node;
    Qcow2State *s;
    Count *count;
    uint64_t offset, bytes; /* clusters in a row that wait for being counted */
    uint64_t *table;        /* the L2 table that is looked at */
    uint64_t guest;         /* what it describes begins there */
    uint64_t file_end;
    bool changed; /* that table */
} Walk;

static bool walk_init(Walk *w, BlockNode *node, Count *count)
{
    Qcow2State *s = block_node_state(node);
    uint64_t cluster = qcow2_cluster_size(&s->image->layout);

    *w = (Walk){.node = node, .s = s, .count = count};
    w->file_end = ((uint64_t)block_child_length(s->file) + cluster - 1) & ~(cluster - 1);
    w->table = g_try_malloc(cluster);
    return w->table != NULL;
}

static void walk_clear(Walk *w)
{
    g_free(w->table);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Walk, walk_clear)

/* Load the L2 table of an entry. *@table is 0 where there is none. */
static int co_fn walk_co_load(Walk *w, uint64_t index, uint64_t entry, uint64_t *table)
{
    const Qcow2Layout *layout = &w->s->image->layout;
    Qcow2Fault fault = qcow2_l1_decode(layout, entry, table);

    w->guest = index << qcow2_l2_reach_bits(layout);
    if (!fault && *table) {
        fault = qcow2_check_l2_table(w->s, *table);
    }
    if (fault) {
        return qcow2_fault_in_image(w->node, fault, w->guest, *table, qcow2_cluster_size(layout));
    }
    return *table ? block_child_co_preadv(w->s->file, *table,
                                          IOV_LOCAL(w->table, qcow2_cluster_size(layout)), 0)
                  : 0;
}

/* Decode the @n entries from @first on. */
static int walk_decode(const Walk *w, unsigned first, unsigned n, Qcow2Cluster *clusters)
{
    const Qcow2Layout *layout = &w->s->image->layout;
    uint64_t guest = w->guest + ((uint64_t)first << layout->cluster_bits);
    Qcow2Fault fault = qcow2_decode_run(layout, w->table, first, n, guest, clusters);

    for (unsigned i = 0; !fault && i < n; i++) {
        if (clusters[i].has_host && clusters[i].host >= w->file_end) {
            fault = QCOW2_FAULT_DATA_PAST_END;
        }
    }
    return fault ? qcow2_fault(w->node, fault, guest) : 0;
}

static int co_fn walk_co_count_waiting(Walk *w)
{
    uint64_t bytes = w->bytes;

    w->bytes = 0;
    return bytes ? w->count(&w->s->metadata.refcounts, w->offset, bytes) : 0;
}

/* Rows of clusters are counted at once, not so compressed ones, which share clusters. */
static int co_fn walk_co_count(Walk *w, uint64_t offset, uint64_t bytes)
{
    uint64_t mask = qcow2_cluster_size(&w->s->image->layout) - 1;
    int r = 0;

    if (w->bytes > 0 && w->offset + w->bytes == offset &&
        !((w->offset | w->bytes | bytes) & mask)) {
        w->bytes += bytes;
        return 0;
    }
    r = walk_co_count_waiting(w);
    w->offset = offset;
    w->bytes = bytes;
    return r;
}

/* Call @each for all entries of the table that was loaded which name a cluster. */
typedef int co_fn Each(Walk *w, unsigned index, const Qcow2Cluster *cluster);

static int co_fn walk_co_each(Walk *w, Each *each)
{
    unsigned entries = 1u << w->s->image->layout.l2_bits;
    Qcow2Cluster clusters[BATCH];
    int r = 0;

    for (unsigned first = 0; r == 0 && first < entries; first += BATCH) {
        unsigned n = MIN(BATCH, entries - first);

        r = walk_decode(w, first, n, clusters);
        for (unsigned i = 0; r == 0 && i < n; i++) {
            r = clusters[i].has_host ? each(w, first + i, &clusters[i]) : 0;
        }
    }
    return r;
}

static int co_fn count_co_each(Walk *w, unsigned index, const Qcow2Cluster *c)
{
    uint64_t size = qcow2_cluster_size(&w->s->image->layout);

    return walk_co_count(w, c->host, c->compressed ? c->compressed_length : size);
}

static int co_fn co_count(BlockNode *node, const uint64_t *l1, uint32_t n, Count *count)
{
    g_auto(Walk) w = {0};
    int r = walk_init(&w, node, count) ? 0 : -ENOMEM;

    for (uint32_t i = 0; r == 0 && i < n; i++) {
        uint64_t table;

        r = walk_co_load(&w, i, l1[i], &table);
        if (r == 0 && table) {
            r = walk_co_count(&w, table, qcow2_cluster_size(&w.s->image->layout));
        }
        if (r == 0 && table) {
            r = walk_co_each(&w, count_co_each);
        }
    }
    return r < 0 ? r : walk_co_count_waiting(&w);
}

int co_fn qcow2_tree_co_add(BlockNode *node, const uint64_t *l1, uint32_t n)
{
    return co_count(node, l1, n, qcow2_shadow_co_add);
}

int co_fn qcow2_tree_co_drop(BlockNode *node, const uint64_t *l1, uint32_t n)
{
    return co_count(node, l1, n, qcow2_shadow_co_drop);
}

/* Flags */

static int co_fn co_is_single(Qcow2State *s, uint64_t offset, bool *single)
{
    uint64_t refcount;
    int r = qcow2_refcounts_co_get(&s->metadata.refcounts, offset, &refcount);

    *single = refcount == 1;
    return r;
}

static int co_fn flag_co_each(Walk *w, unsigned index, const Qcow2Cluster *c)
{
    bool single = false;
    int r = c->compressed ? 0 : co_is_single(w->s, c->host, &single);

    if (r == 0 && single != c->copied) {
        w->table[index * w->s->image->layout.entry_words] ^= GUINT64_TO_BE(QCOW2_ENTRY_COPIED);
        w->changed = true;
    }
    return r;
}

/* Put the table that was loaded to another place than *@table. */
static int co_fn walk_co_move_table(Walk *w, uint64_t *table, unsigned users)
{
    uint64_t size = qcow2_cluster_size(&w->s->image->layout);
    Qcow2Refcounts *refcounts = &w->s->metadata.refcounts;
    uint64_t old = *table, got;
    bool fresh;
    int r = qcow2_co_take(w->s, 1, table, &got, &fresh);

    if (r == 0) {
        r = block_child_co_pwritev(w->s->file, *table, IOV_LOCAL(w->table, size), 0);
    }
    for (unsigned i = 0; r == 0 && i < users; i++) {
        r = qcow2_shadow_co_drop(refcounts, old, size);
        if (r == 0 && i > 0) {
            r = qcow2_shadow_co_add(refcounts, *table, size);
        }
    }
    return r;
}

int co_fn qcow2_tree_co_flag(BlockNode *node, uint64_t *l1, uint32_t n, unsigned users)
{
    g_auto(Walk) w = {0};
    int r = walk_init(&w, node, NULL) ? 0 : -ENOMEM;

    for (uint32_t i = 0; r == 0 && i < n; i++) {
        bool single = false;
        uint64_t table;

        r = walk_co_load(&w, i, l1[i], &table);
        if (r < 0 || table == 0) {
            continue;
        }
        w.changed = false;
        r = walk_co_each(&w, flag_co_each);
        if (r == 0 && w.changed) {
            r = walk_co_move_table(&w, &table, users);
        }
        if (r == 0) {
            r = co_is_single(w.s, table, &single);
        }
        l1[i] = table | (single ? QCOW2_ENTRY_COPIED : 0);
    }
    return r;
}
