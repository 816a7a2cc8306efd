/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The shadow of refcounts: changes that come into the image all at once. See refcount.h.
 */
#include <errno.h>
#include <string.h>

#include "block/drivers/qcow2/refcount-internal.h"
#include "block/drivers/qcow2/state.h"

typedef Qcow2Refblock Block;

static uint64_t cluster_size(const Qcow2Refcounts *r)
{
    return UINT64_C(1) << r->cluster_bits;
}

struct Qcow2Shadow {
    /* As in the image. */
    uint64_t *table;
    uint64_t entries, offset, hint;
    uint32_t clusters;
    /* A bit a cluster of the file: it has no user any more. */
    uint64_t *unused;
    uint64_t n_clusters;
};

/* More blocks than this that have changed are written before the end. */
#define MAX_SHADOW_BYTES (UINT64_C(64) << 20)

static void shadow_free(Qcow2Shadow *shadow)
{
    g_free(shadow->table);
    g_free(shadow->unused);
    g_free(shadow);
}

bool qcow2_shadow_names_block(const Qcow2Shadow *shadow, uint64_t offset, uint64_t bytes)
{
    for (uint64_t i = 0; i < shadow->entries; i++) {
        if (shadow->table[i] && shadow->table[i] - offset < bytes) {
            return true;
        }
    }
    return false;
}

int co_fn qcow2_shadow_co_begin(Qcow2Refcounts *r)
{
    const Qcow2State *s = block_node_state(r->node);
    const Qcow2Header *h = s->image->header;
    g_autofree Qcow2Shadow *shadow = g_new0(Qcow2Shadow, 1);

    WHOLE_GUARD(r);
    *shadow =
        (Qcow2Shadow){.entries = r->entries,
                      .offset = h->reftable_offset,
                      .hint = r->hint,
                      .clusters = h->reftable_clusters,
                      .n_clusters = ((uint64_t)block_child_length(r->file) >> r->cluster_bits) + 1};
    shadow->table = g_try_malloc(r->entries * 8);
    shadow->unused = g_try_new0(uint64_t, shadow->n_clusters / 64 + 1);
    if (!shadow->table || !shadow->unused) {
        g_free(shadow->table);
        g_free(shadow->unused);
        return -ENOMEM;
    }
    memcpy(shadow->table, r->table, r->entries * 8);
    r->shadow = g_steal_pointer(&shadow);
    return 0;
}

int qcow2_shadow_grow_table(Qcow2Refcounts *r)
{
    uint64_t entries = (r->entries / (cluster_size(r) / 8) * 3 / 2 + 1) * (cluster_size(r) / 8);
    uint64_t *table;

    entries = MIN(entries, QCOW2_MAX_REFTABLE_BYTES / 8);
    if (entries <= r->entries) {
        return -EFBIG;
    }
    table = g_try_realloc(r->table, entries * 8);
    if (!table) {
        return -ENOMEM;
    }
    memset(table + r->entries, 0, (entries - r->entries) * 8);
    r->table = table;
    r->entries = entries;
    return 0;
}

/* Whether the block is where the image does not know it. */
static bool is_moved(const Qcow2Refcounts *r, uint64_t index)
{
    return index >= r->shadow->entries || r->table[index] != r->shadow->table[index];
}

static GPtrArray *blocks_to_move(const Qcow2Refcounts *r)
{
    GPtrArray *blocks = g_ptr_array_new();
    GHashTableIter iter;
    gpointer b;

    g_hash_table_iter_init(&iter, r->blocks);
    while (g_hash_table_iter_next(&iter, NULL, &b)) {
        if (qcow2_refblock_is_dirty(b) && !is_moved(r, ((Block *)b)->index)) {
            g_ptr_array_add(blocks, b);
        }
    }
    return blocks;
}

/* Give those that have changed other places, which changes some others. */
static int co_fn shadow_co_move(Qcow2Refcounts *r)
{
    for (;;) {
        g_autoptr(GPtrArray) blocks = blocks_to_move(r);

        if (blocks->len == 0) {
            return 0;
        }
        for (guint i = 0; i < blocks->len; i++) {
            Block *b = g_ptr_array_index(blocks, i);
            uint64_t offset, got;
            bool fresh;
            int ret = qcow2_whole_co_take(r, 1, &offset, &got, &fresh);

            if (ret < 0) {
                return ret;
            }
            qcow2_whole_guard_block(r, offset);
            r->table[b->index] = offset;
            qcow2_refblock_make_dirty(b, 0, cluster_size(r));
        }
    }
}

static int co_fn shadow_co_write_blocks(Qcow2Refcounts *r)
{
    int ret = shadow_co_move(r);

    return ret < 0 ? ret : qcow2_whole_co_write_blocks(r);
}

/* Do not let too much pile up in memory. */
static int co_fn shadow_co_relieve(Qcow2Refcounts *r)
{
    size_t most = MAX(r->keep, MAX_SHADOW_BYTES >> r->cluster_bits);
    int ret;

    if (g_hash_table_size(r->blocks) <= most) {
        return 0;
    }
    ret = shadow_co_write_blocks(r);
    qcow2_whole_trim_blocks(r);
    return ret;
}

static int co_fn shadow_co_count_up(Qcow2Refcounts *r, uint64_t cluster)
{
    uint64_t refcount;
    Block *b;
    int ret = qcow2_whole_co_get_used(r, cluster, &b, &refcount);

    if (ret == 0 && refcount == qcow2_refcounts_max(r)) {
        ret = -ERANGE;
    }
    if (ret == 0) {
        qcow2_whole_count(r, b, cluster, refcount + 1);
    }
    return ret;
}

static int co_fn shadow_co_count_down(Qcow2Refcounts *r, uint64_t cluster)
{
    Qcow2Shadow *shadow = r->shadow;
    uint64_t bit = UINT64_C(1) << cluster % 64;
    uint64_t refcount;
    Block *b;
    int ret = qcow2_whole_co_get_used(r, cluster, &b, &refcount);

    if (ret < 0) {
        return ret;
    }
    if (refcount > 1) {
        qcow2_whole_count(r, b, cluster, refcount - 1);
        return 0;
    }
    if (cluster >= shadow->n_clusters || (shadow->unused[cluster / 64] & bit)) {
        return qcow2_whole_not_counted(r, cluster);
    }
    shadow->unused[cluster / 64] |= bit;
    return 0;
}

static int co_fn shadow_co_count_all(Qcow2Refcounts *r, uint64_t offset, uint64_t bytes,
                                     int co_fn (*one)(Qcow2Refcounts *r, uint64_t cluster))
{
    int ret = shadow_co_relieve(r);

    for (uint64_t c = offset >> r->cluster_bits; ret == 0 && c << r->cluster_bits < offset + bytes;
         c++) {
        ret = one(r, c);
    }
    return ret;
}

int co_fn qcow2_shadow_co_add(Qcow2Refcounts *r, uint64_t offset, uint64_t bytes)
{
    WHOLE_GUARD(r);
    return shadow_co_count_all(r, offset, bytes, shadow_co_count_up);
}

int co_fn qcow2_shadow_co_drop(Qcow2Refcounts *r, uint64_t offset, uint64_t bytes)
{
    WHOLE_GUARD(r);
    return shadow_co_count_all(r, offset, bytes, shadow_co_count_down);
}

/* A place for the table, whose own clusters may need more entries. */
static int co_fn shadow_co_place_table(Qcow2Refcounts *r, uint64_t *offset, uint64_t *clusters)
{
    uint64_t per_cluster = cluster_size(r) / 8;

    for (;;) {
        int ret;

        *clusters = (r->entries + per_cluster - 1) / per_cluster;
        ret = qcow2_whole_co_take_run(r, *clusters, offset);
        if (ret == 0) {
            ret = shadow_co_move(r);
        }
        if (ret < 0 || *clusters * per_cluster >= r->entries) {
            return ret;
        }
        ret = qcow2_whole_co_release(r, *offset, *clusters << r->cluster_bits, false);
        if (ret < 0) {
            return ret;
        }
    }
}

static int co_fn shadow_co_write_table(Qcow2Refcounts *r, uint64_t offset, uint64_t clusters)
{
    uint64_t bytes = clusters << r->cluster_bits;
    g_autofree uint64_t *table = g_try_malloc0(bytes);

    if (!table) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < r->entries; i++) {
        table[i] = GUINT64_TO_BE(r->table[i]);
    }
    return block_child_co_pwritev(r->file, offset, IOV_LOCAL(table, bytes), 0);
}

int co_fn qcow2_shadow_co_write(Qcow2Refcounts *r, uint64_t *table_offset, uint32_t *table_clusters)
{
    uint64_t clusters;
    int ret;

    WHOLE_GUARD(r);
    ret = shadow_co_place_table(r, table_offset, &clusters);
    if (ret == 0) {
        ret = qcow2_whole_co_write_blocks(r);
    }
    if (ret == 0) {
        ret = shadow_co_write_table(r, *table_offset, clusters);
    }
    *table_clusters = clusters;
    return ret;
}

void qcow2_shadow_abort(Qcow2Refcounts *r)
{
    Qcow2Shadow *shadow = g_steal_pointer(&r->shadow);

    g_mutex_lock(&r->quick);
    r->near = NULL;
    g_mutex_unlock(&r->quick);
    g_hash_table_remove_all(r->blocks);
    g_array_set_size(r->new_entries, 0);
    g_free(r->table);
    r->table = g_steal_pointer(&shadow->table);
    r->entries = shadow->entries;
    r->hint = shadow->hint;
    shadow_free(shadow);
}

static bool is_unused(const Qcow2Shadow *shadow, uint64_t cluster)
{
    return shadow->unused[cluster / 64] & (UINT64_C(1) << cluster % 64);
}

/* Errors leave something counted, which does no harm. */
static void co_fn shadow_co_release_unused(Qcow2Refcounts *r, const Qcow2Shadow *shadow,
                                           bool discard)
{
    uint64_t c = 0;

    while (c < shadow->n_clusters) {
        uint64_t first = c;

        if (c % 64 == 0 && shadow->unused[c / 64] == 0) {
            c += 64;
            continue;
        }
        while (c < shadow->n_clusters && is_unused(shadow, c)) {
            c++;
        }
        if (c > first) {
            qcow2_whole_co_release(r, first << r->cluster_bits, (c - first) << r->cluster_bits,
                                   discard);
        }
        c += c == first;
    }
}

void co_fn qcow2_shadow_co_commit(Qcow2Refcounts *r, bool discard)
{
    Qcow2Shadow *shadow = g_steal_pointer(&r->shadow);
    uint64_t table_bytes = (uint64_t)shadow->clusters << r->cluster_bits;

    WHOLE_GUARD(r);
    g_array_set_size(r->new_entries, 0);
    for (uint64_t i = 0; i < shadow->entries; i++) {
        if (shadow->table[i] && shadow->table[i] != r->table[i]) {
            qcow2_whole_co_release(r, shadow->table[i], cluster_size(r), false);
        }
    }
    qcow2_whole_co_release(r, shadow->offset, table_bytes, false);
    shadow_co_release_unused(r, shadow, discard);
    shadow_free(shadow);
}
