/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Changes of tables. They are made in memory, where all see them at once, and come into the image
 * together, when the node is flushed or memory for them runs out: that is a commit.
 *
 * A commit takes what has changed of the L1 table, then copies of the L2 slices, then the
 * refcounts, in this order: each may name only what was counted and made before, so what is taken
 * later has at least what the earlier needs. It is written the other way round:
 *
 *   1. refcounts
 *   2. flush: with these the data that was written is there, copies of old data among it, and new
 *      L2 tables, as yet with zeros or what the one before them had
 *   3. L2 tables, and the L1 table
 *   4. flush
 *
 * Whatever of that is lost in a crash, nothing in the image names a cluster that is not counted, or
 * data that is not there; some clusters may be counted that nobody names.
 *
 * With lazy refcounts the header says before the first change that refcounts are not to be relied
 * on, and they stay in memory until the image is closed, or there are too many. After a crash they
 * are counted anew.
 *
 * For clusters that are not used any more the order is the reverse: they are counted down only when
 * a commit has made the image forget them, and when the requests have ended that may have looked
 * their place up before. Requests are counted in two epochs for that: to find out when those of one
 * are over, new ones are counted in the other. No counter is shared by many threads.
 */
#include <errno.h>
#include <string.h>

#include "block/drivers/qcow2/be.h"
#include "block/drivers/qcow2/parts.h"
#include "block/drivers/qcow2/state.h"
#include "util/error.h"

/* With more ranges of clusters that wait for being counted down a commit is due. */
#define MAX_FREED 16384

/* A smaller cache is filled up before a commit, for it would have one all the time. */
#define MIN_ROOM 16

/* Life */

/* Refcounts, and all that is not to be written over. */
static bool co_fn co_init_guarded(BlockNode *node, size_t refcount_bytes, GError **error)
{
    Qcow2State *s = block_node_state(node);
    Qcow2Metadata *m = &s->metadata;

    if (!qcow2_guard_init(&m->guard, s->image->layout.cluster_bits, error)) {
        qcow2_guard_clear(&m->guard);
        return false;
    }
    if (!qcow2_refcounts_co_load(&m->refcounts, node, s->file, s->image->header, refcount_bytes,
                                 error)) {
        qcow2_refcounts_clear(&m->refcounts);
        qcow2_guard_clear(&m->guard);
        return false;
    }
    qcow2_guard_co_fill(s, s->image->snapshots);
    return true;
}

bool co_fn qcow2_metadata_co_init(BlockNode *node, size_t refcount_bytes, GError **error)
{
    Qcow2State *s = block_node_state(node);
    Qcow2Metadata *m = &s->metadata;

    *m = (Qcow2Metadata){.l1_changed = NULL};
    if (!co_init_guarded(node, refcount_bytes, error)) {
        g_prefix_error(error, "image '%s': ", s->name);
        return false;
    }
    co_mutex_init(&m->commit_lock);
    co_mutex_init(&m->tables_lock);
    co_mutex_init(&m->header_lock);
    g_mutex_init(&m->lock);
    co_queue_init(&m->claims_ended);
    g_queue_init(&m->claims);
    m->inside = g_aligned_alloc0(2, sizeof(*m->inside), BLOCK_CACHE_LINE);
    m->l1_changed = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    m->freed = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    m->durable = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    m->grace = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    s->writable = true;
    return true;
}

void qcow2_metadata_clear(Qcow2State *s)
{
    Qcow2Metadata *m = &s->metadata;

    if (!s->writable) {
        return;
    }
    s->writable = false;
    qcow2_bitmaps_clear(m);
    g_aligned_free(m->inside);
    g_array_unref(m->l1_changed);
    g_array_unref(m->freed);
    g_array_unref(m->durable);
    g_array_unref(m->grace);
    g_mutex_clear(&m->lock);
    qcow2_refcounts_clear(&m->refcounts);
    qcow2_guard_clear(&m->guard);
}

bool qcow2_has_lost(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);

    if (G_LIKELY(block_child_losses(s->file) == s->losses)) {
        return false;
    }
    if (g_atomic_int_compare_and_exchange(&s->losses_told, 0, 1)) {
        g_warning("image '%s': its storage has lost something that was written; what was not "
                  "flushed is gone, and nothing more is written: delete the node and add it again",
                  s->name);
    }
    return true;
}

int co_fn qcow2_co_flush_file(BlockNode *node)
{
    const Qcow2State *s = block_node_state(node);
    int r = block_child_co_flush(s->file);

    /* An earlier flush may have failed, for somebody else. */
    return r == 0 && qcow2_has_lost(node) ? -EIO : r;
}

/* Header */

int co_fn qcow2_co_update_header(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);
    uint8_t start[QCOW2_HEADER_PATCH];
    int r;

    CO_MUTEX_GUARD(&s->metadata.header_lock);
    r = block_child_co_preadv(s->file, 0, IOV_LOCAL(start, sizeof(start)), 0);
    if (r == 0) {
        qcow2_header_patch(s->image->header, start);
        r = block_child_co_pwritev(s->file, 0, IOV_LOCAL(start, sizeof(start)), 0);
    }
    return r;
}

/* Say in the image that it is corrupt, so that others do not write to it, either. */
static void co_fn co_mark_corrupt(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);
    Qcow2Header *h = s->image->header;

    if (h->version >= 3 && !(h->incompatible & QCOW2_INCOMPATIBLE_CORRUPT)) {
        h->incompatible |= QCOW2_INCOMPATIBLE_CORRUPT;
        if (qcow2_co_update_header(node) < 0) { /* the next request tries it again */
            h->incompatible &= ~QCOW2_INCOMPATIBLE_CORRUPT;
        }
    }
}

int co_fn qcow2_co_write_header(BlockNode *node)
{
    int r = qcow2_co_update_header(node);

    return r < 0 ? r : qcow2_co_flush_file(node);
}

/* Have the header say these, durably; if that fails, what it said before. */
static int co_fn co_set_features(BlockNode *node, uint64_t incompatible, uint64_t autoclear)
{
    Qcow2State *s = block_node_state(node);
    Qcow2Header *h = s->image->header;
    uint64_t old_incompatible = h->incompatible, old_autoclear = h->autoclear;
    int r;

    if (incompatible == old_incompatible && autoclear == old_autoclear) {
        return 0;
    }
    h->incompatible = incompatible;
    h->autoclear = autoclear;
    r = qcow2_co_write_header(node);
    if (r < 0) {
        h->incompatible = old_incompatible;
        h->autoclear = old_autoclear;
        qcow2_co_write_header_back(node);
    }
    return r;
}

/*
 * What writing makes wrong: features of others that must be consistent with the data, which we do
 * not know how to keep so; and with lazy refcounts, that these are right.
 */
static int co_fn co_begin_features(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);
    const Qcow2Header *h = s->image->header;
    uint64_t kept =
        QCOW2_AUTOCLEAR_DATA_FILE_RAW | (s->image->bitmaps ? QCOW2_AUTOCLEAR_BITMAPS : 0);

    return co_set_features(node, h->incompatible | (s->lazy ? QCOW2_INCOMPATIBLE_DIRTY : 0),
                           h->autoclear & kept);
}

bool co_fn qcow2_co_write_header_back(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);
    Qcow2Metadata *m = &s->metadata;
    bool ok;

    __atomic_store_n(&m->unsure, true, __ATOMIC_RELEASE);
    __atomic_store_n(&m->begun, false, __ATOMIC_RELEASE); /* so that all look at that */
    ok = qcow2_co_write_header(node) == 0;
    if (ok) {
        __atomic_store_n(&m->unsure, false, __ATOMIC_RELEASE);
    }
    return ok;
}

int co_fn qcow2_co_end_writing(BlockNode *node, int r)
{
    Qcow2State *s = block_node_state(node);

    if (G_UNLIKELY(__atomic_load_n(&s->corrupt, __ATOMIC_RELAXED)) && !qcow2_has_lost(node)) {
        CO_MUTEX_GUARD(&s->metadata.commit_lock);
        co_mark_corrupt(node);
    }
    return r;
}

int co_fn qcow2_co_begin_writing(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);
    Qcow2Metadata *m = &s->metadata;
    int r = 0;

    if (G_UNLIKELY(!s->writable)) { /* after a repair that could not be completed */
        return -EIO;
    }
    if (G_UNLIKELY(qcow2_has_lost(node))) {
        return -EIO;
    }
    if (G_UNLIKELY(__atomic_load_n(&s->corrupt, __ATOMIC_RELAXED))) {
        return qcow2_co_end_writing(node, -EIO);
    }
    if (G_LIKELY(__atomic_load_n(&m->begun, __ATOMIC_ACQUIRE))) {
        return 0;
    }
    CO_MUTEX_GUARD(&m->commit_lock);
    if (!m->begun) {
        bool unsure = __atomic_load_n(&m->unsure, __ATOMIC_ACQUIRE);

        r = unsure && !qcow2_co_write_header_back(node) ? -EIO : co_begin_features(node);
        if (r == 0) {
            r = qcow2_bitmaps_co_begin(node);
        }
        __atomic_store_n(&m->begun, r == 0, __ATOMIC_RELEASE);
    }
    return r;
}

/* Requests under way */

unsigned qcow2_use_begin(Qcow2State *s)
{
    Qcow2Metadata *m = &s->metadata;

    for (;;) {
        unsigned epoch = __atomic_load_n(&m->epoch, __ATOMIC_SEQ_CST);

        gate_force(&m->inside[epoch]);
        if (G_LIKELY(__atomic_load_n(&m->epoch, __ATOMIC_SEQ_CST) == epoch)) {
            return epoch;
        }
        gate_leave(&m->inside[epoch]);
    }
}

void qcow2_use_end(Qcow2State *s, unsigned epoch)
{
    gate_leave(&s->metadata.inside[epoch]);
}

/* Claims */

static Qcow2Claim *find_overlap(Qcow2Metadata *m, uint64_t first, uint64_t end)
{
    Qcow2Claim *lowest = NULL;

    for (GList *l = m->claims.head; l; l = l->next) {
        Qcow2Claim *other = l->data;

        if (other->first < end && first < other->end && (!lowest || other->first < lowest->first)) {
            lowest = other;
        }
    }
    return lowest;
}

bool co_fn qcow2_claim_co_begin(Qcow2State *s, Qcow2Claim *claim, uint64_t first, uint64_t end)
{
    Qcow2Metadata *m = &s->metadata;
    Qcow2Claim *other;

    g_mutex_lock(&m->lock);
    other = find_overlap(m, first, end);
    if (other && other->first <= first) {
        co_queue_wait(&m->claims_ended, &m->lock);
        g_mutex_unlock(&m->lock);
        return false;
    }
    *claim = (Qcow2Claim){.first = first, .end = other ? other->first : end};
    claim->link.data = claim;
    g_queue_push_tail_link(&m->claims, &claim->link);
    g_mutex_unlock(&m->lock);
    return true;
}

void qcow2_claim_end(Qcow2State *s, Qcow2Claim *claim)
{
    Qcow2Metadata *m = &s->metadata;

    g_mutex_lock(&m->lock);
    g_queue_unlink(&m->claims, &claim->link);
    co_queue_wake_all(&m->claims_ended);
    g_mutex_unlock(&m->lock);
}

/* Clusters that are not used any more */

/*
 * Discards of large ranges free long rows of clusters. Not so compressed ones, several of which may
 * count for one cluster.
 */
static bool extend_last(GArray *freed, const Qcow2Freed *more, uint64_t cluster)
{
    Qcow2Freed *last = freed->len ? &g_array_index(freed, Qcow2Freed, freed->len - 1) : NULL;

    if (!last || last->offset + last->bytes != more->offset || last->discard != more->discard ||
        ((last->offset | last->bytes | more->bytes) & (cluster - 1))) {
        return false;
    }
    last->bytes += more->bytes;
    return true;
}

static bool has_many_freed(Qcow2Metadata *m)
{
    bool many;

    g_mutex_lock(&m->lock);
    many = m->freed->len > MAX_FREED;
    g_mutex_unlock(&m->lock);
    return many;
}

void qcow2_free_later(Qcow2State *s, uint64_t offset, uint64_t bytes, bool discard)
{
    Qcow2Metadata *m = &s->metadata;
    Qcow2Freed freed = {.offset = offset, .bytes = bytes, .discard = discard};

    g_mutex_lock(&m->lock);
    if (!extend_last(m->freed, &freed, qcow2_cluster_size(&s->image->layout))) {
        g_array_append_val(m->freed, freed);
    }
    g_mutex_unlock(&m->lock);
}

void qcow2_free_cluster_later(Qcow2State *s, const Qcow2Cluster *cluster, bool discard)
{
    if (!cluster->has_host || s->data != s->file) {
        return; /* a data file is not counted */
    }
    qcow2_free_later(s, cluster->host,
                     cluster->compressed ? cluster->compressed_length
                                         : qcow2_cluster_size(&s->image->layout),
                     discard);
}

static void append_all(GArray *to, const GArray *from)
{
    g_array_append_vals(to, from->data, from->len);
}

/* Let what the image has forgotten wait for the requests under way. With the lock. */
static void begin_grace(Qcow2Metadata *m)
{
    if (m->grace->len > 0 || m->durable->len == 0) {
        return;
    }
    append_all(m->grace, m->durable);
    g_array_set_size(m->durable, 0);
    m->grace_epoch = m->epoch;
    __atomic_store_n(&m->epoch, !m->grace_epoch, __ATOMIC_SEQ_CST);
}

/* What nobody can have looked up any more; NULL: nothing. */
static GArray *take_released(Qcow2Metadata *m)
{
    GArray *released = NULL;

    g_mutex_lock(&m->lock);
    begin_grace(m);
    if (m->grace->len > 0 && gate_inside(&m->inside[m->grace_epoch]) == 0) {
        released = m->grace;
        m->grace = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    }
    g_mutex_unlock(&m->lock);
    return released;
}

/* Count down what can be counted down. */
static void co_fn co_release(Qcow2State *s)
{
    Qcow2Metadata *m = &s->metadata;
    GArray *released;

    while ((released = take_released(m))) {
        for (guint i = 0; i < released->len; i++) {
            const Qcow2Freed *f = &g_array_index(released, Qcow2Freed, i);

            qcow2_unpacked_drop(s->unpacked, f->offset, f->bytes);
            /* An error leaves them counted, which does no harm. */
            qcow2_refcounts_co_release(&m->refcounts, f->offset, f->bytes, f->discard);
        }
        g_array_unref(released);
    }
}

int co_fn qcow2_co_take(Qcow2State *s, uint64_t n, uint64_t *offset, uint64_t *got, bool *fresh)
{
    return qcow2_refcounts_co_take(&s->metadata.refcounts, n, offset, got, fresh);
}

/* L2 tables */

static void set_l1(Qcow2State *s, uint64_t index, uint64_t table)
{
    Qcow2Metadata *m = &s->metadata;

    qcow2_guard_add(&m->guard, QCOW2_META_ACTIVE_L2, table, 1);
    g_mutex_lock(&m->lock);
    __atomic_store_n(&s->image->l1[index], table | QCOW2_ENTRY_COPIED, __ATOMIC_RELEASE);
    g_array_append_val(m->l1_changed, index);
    g_mutex_unlock(&m->lock);
}

/* Fill a new table at @to with what is in @from (0: nothing). @fresh: it has zeros already. */
static int co_fn co_fill_table(Qcow2State *s, uint64_t to, uint64_t from, bool fresh)
{
    uint64_t size = qcow2_cluster_size(&s->image->layout);
    g_autofree void *table = NULL;
    int r;

    if (from == 0 && fresh && to + size <= (uint64_t)block_child_length(s->file)) {
        return 0;
    }
    if (from == 0) {
        return block_child_co_pwrite_zeroes(s->file, to, size, BLOCK_REQ_MAY_UNMAP);
    }
    table = g_try_malloc(size);
    if (!table) {
        return -ENOMEM;
    }
    r = block_child_co_preadv(s->file, from, IOV_LOCAL(table, size), 0);
    return r < 0 ? r : block_child_co_pwritev(s->file, to, IOV_LOCAL(table, size), 0);
}

/* A table for L1 entry @index: its first, or one that no snapshot shares. */
static int co_fn co_make_table(BlockNode *node, uint64_t index, uint64_t old)
{
    Qcow2State *s = block_node_state(node);
    uint64_t size = qcow2_cluster_size(&s->image->layout);
    uint64_t table, got;
    bool fresh;
    int r = qcow2_co_take(s, 1, &table, &got, &fresh);

    if (r < 0) {
        return r;
    }
    r = co_fill_table(s, table, old, fresh);
    if (r < 0) {
        qcow2_refcounts_co_release(&s->metadata.refcounts, table, size, false);
        return r;
    }
    set_l1(s, index, table);
    if (old) {
        qcow2_free_later(s, old, size, s->discard_other);
    }
    return 0;
}

/* See to it that cluster @first has an L2 table that can be changed. */
static int co_fn co_need_table(BlockNode *node, uint64_t first)
{
    Qcow2State *s = block_node_state(node);
    uint64_t index = first >> s->image->layout.l2_bits;
    uint64_t entry = __atomic_load_n(&s->image->l1[index], __ATOMIC_ACQUIRE);
    uint64_t table;
    Qcow2Fault fault;

    if (G_LIKELY(entry & QCOW2_ENTRY_COPIED)) {
        return 0;
    }
    CO_MUTEX_GUARD(&s->metadata.tables_lock);
    entry = __atomic_load_n(&s->image->l1[index], __ATOMIC_ACQUIRE);
    if (entry & QCOW2_ENTRY_COPIED) {
        return 0;
    }
    fault = qcow2_l1_decode(&s->image->layout, entry, &table);
    if (fault) {
        return qcow2_fault_in_image(node, fault, first << s->image->layout.cluster_bits, table,
                                    qcow2_cluster_size(&s->image->layout));
    }
    return co_make_table(node, index, table);
}

/* Entries */

typedef struct EntryChange {
    const Qcow2Layout *layout;
    const Qcow2Cluster *clusters;
    unsigned n;
} EntryChange;

static void store(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, GUINT64_TO_BE(value), __ATOMIC_RELEASE);
}

static void store_entries(uint64_t *entry, void *opaque)
{
    const EntryChange *c = opaque;

    for (unsigned i = 0; i < c->n; i++, entry += c->layout->entry_words) {
        uint64_t bitmap;

        store(&entry[0], qcow2_l2_encode(c->layout, &c->clusters[i], &bitmap));
        if (c->layout->entry_words > 1) {
            store(&entry[1], bitmap);
        }
    }
}

/*
 * Whether there is so much in memory that it should not wait for a flush. Slices that wait take
 * room from others, where there is not room for all.
 */
static bool is_commit_due(Qcow2State *s)
{
    unsigned room = qcow2_cache_room(s->l2.cache);

    return has_many_freed(&s->metadata) || (!s->l2.holds_all && room >= MIN_ROOM &&
                                            qcow2_cache_changed(s->l2.cache) > room / 4 * 3);
}

int co_fn qcow2_co_set_entries(BlockNode *node, uint64_t first, unsigned n,
                               const Qcow2Cluster *clusters)
{
    Qcow2State *s = block_node_state(node);
    EntryChange change = {.layout = &s->image->layout, .clusters = clusters, .n = n};
    int r = co_need_table(node, first);

    if (r < 0) {
        return r;
    }
    while ((r = qcow2_co_change_slice(node, first, n, store_entries, &change)) == -ENOBUFS) {
        r = qcow2_co_commit(node);
        if (r < 0) {
            return r;
        }
    }
    /* If that fails, so will the next flush, and say it. */
    if (r == 0 && is_commit_due(s)) {
        qcow2_co_commit(node);
    }
    return r;
}

/* Commit */

typedef struct L1Change {
    uint64_t index, entry;
} L1Change;

typedef struct Commit {
    BlockNode *node;
    Qcow2State *s;
    GArray *freed;  /* of Qcow2Freed */
    GArray *l1;     /* of L1Change */
    GArray *slices; /* of Qcow2CacheCopy */
    bool *written;  /* which of them are */
} Commit;

static void take_l1(Commit *c)
{
    Qcow2Metadata *m = &c->s->metadata;

    g_mutex_lock(&m->lock);
    append_all(c->freed, m->freed);
    g_array_set_size(m->freed, 0);
    for (guint i = 0; i < m->l1_changed->len; i++) {
        uint64_t index = g_array_index(m->l1_changed, uint64_t, i);
        L1Change change = {index, __atomic_load_n(&c->s->image->l1[index], __ATOMIC_ACQUIRE)};

        g_array_append_val(c->l1, change);
    }
    g_array_set_size(m->l1_changed, 0);
    g_mutex_unlock(&m->lock);
}

/* What was not written has to be next time. */
static void give_back(Commit *c)
{
    Qcow2Metadata *m = &c->s->metadata;

    for (guint i = 0; i < c->slices->len; i++) {
        if (!c->written[i]) {
            qcow2_cache_written(c->s->l2.cache, g_array_index(c->slices, Qcow2CacheCopy, i).key,
                                false);
        }
    }
    g_mutex_lock(&m->lock);
    append_all(m->freed, c->freed);
    for (guint i = 0; i < c->l1->len; i++) {
        g_array_append_val(m->l1_changed, g_array_index(c->l1, L1Change, i).index);
    }
    g_mutex_unlock(&m->lock);
}

static uint64_t l1_index_of(const Qcow2State *s, uint64_t key)
{
    return key >> (s->image->layout.l2_bits - s->l2.slice_bits);
}

typedef struct SliceWrite {
    Qcow2Part part;
    Commit *commit;
    guint number;
} SliceWrite;

static int co_fn slice_co_write(Qcow2Part *part)
{
    g_autofree SliceWrite *w = (SliceWrite *)part;
    Commit *c = w->commit;
    const Qcow2State *s = c->s;
    const Qcow2CacheCopy *copy = &g_array_index(c->slices, Qcow2CacheCopy, w->number);
    unsigned per_table_bits = s->image->layout.l2_bits - s->l2.slice_bits;
    uint64_t within = (copy->key & ((UINT64_C(1) << per_table_bits) - 1)) * s->l2.slice_bytes;
    uint64_t entry = __atomic_load_n(&s->image->l1[l1_index_of(s, copy->key)], __ATOMIC_ACQUIRE);
    uint64_t offset = (entry & QCOW2_ENTRY_OFFSET) + within + copy->from;
    int r =
        qcow2_co_check_write(c->node, offset, copy->bytes, QCOW2_META_BIT(QCOW2_META_ACTIVE_L2));

    if (r == 0) {
        r = block_child_co_pwritev(s->file, offset, IOV_LOCAL(copy->part, copy->bytes), 0);
    }
    if (r == 0) {
        qcow2_cache_written(s->l2.cache, copy->key, true);
        c->written[w->number] = true;
    }
    return r;
}

/* Write all slices, side by side. */
static int co_fn co_write_slices(Commit *c)
{
    Qcow2Parts parts = {.running = 0};

    for (guint i = 0; i < c->slices->len && parts.result == 0; i++) {
        SliceWrite *w = g_new(SliceWrite, 1);

        *w = (SliceWrite){.part.run = slice_co_write, .commit = c, .number = i};
        qcow2_parts_co_start(&parts, &w->part);
    }
    return qcow2_parts_co_end(&parts);
}

static int co_fn co_write_l1(Commit *c)
{
    int r = 0;

    for (guint i = 0; r == 0 && i < c->l1->len; i++) {
        const L1Change *change = &g_array_index(c->l1, L1Change, i);
        uint64_t entry = GUINT64_TO_BE(change->entry);
        uint64_t offset = c->s->image->header->l1_offset + change->index * 8;

        r = qcow2_co_check_write(c->node, offset, sizeof(entry),
                                 QCOW2_META_BIT(QCOW2_META_ACTIVE_L1));
        if (r == 0) {
            r = block_child_co_pwritev(c->s->file, offset, IOV_LOCAL(&entry, sizeof(entry)), 0);
        }
    }
    return r;
}

static int co_fn co_flush_data(BlockNode *node)
{
    const Qcow2State *s = block_node_state(node);
    int r = qcow2_co_flush_file(node);

    return r == 0 && s->data != s->file ? block_child_co_flush(s->data) : r;
}

/* Refcounts come into the image now; or late, where the header says that they are wrong. */
static int co_fn co_write_refcounts(Qcow2State *s)
{
    return s->lazy ? qcow2_refcounts_co_write_if_many(&s->metadata.refcounts)
                   : qcow2_refcounts_co_write(&s->metadata.refcounts);
}

static int co_fn commit_co_write(Commit *c)
{
    Qcow2Metadata *m = &c->s->metadata;
    int r = co_write_refcounts(c->s);

    if (r < 0 || (c->slices->len == 0 && c->l1->len == 0 && !m->unflushed)) {
        return r;
    }
    r = co_flush_data(c->node);
    m->unflushed = true;
    if (r == 0) {
        r = co_write_slices(c);
    }
    if (r == 0) {
        r = co_write_l1(c);
    }
    if (r == 0) {
        r = qcow2_co_flush_file(c->node);
    }
    m->unflushed = r < 0;
    return r;
}

int co_fn qcow2_co_commit_locked(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);
    Qcow2Metadata *m = &s->metadata;
    g_autoptr(GArray) freed = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    g_autoptr(GArray) l1 = g_array_new(FALSE, FALSE, sizeof(L1Change));
    g_autoptr(GArray) slices = qcow2_cache_copies_new();
    g_autofree bool *written = NULL;
    Commit c = {.node = node, .s = s, .freed = freed, .l1 = l1, .slices = slices};
    int r = -ENOMEM;

    if (qcow2_has_lost(node)) {
        return -EIO;
    }
    if (__atomic_load_n(&m->unsure, __ATOMIC_ACQUIRE) && !qcow2_co_write_header_back(node)) {
        return -EIO; /* the image may name other tables than those that would be written */
    }
    take_l1(&c);
    if (qcow2_cache_take_changed(s->l2.cache, slices)) {
        c.written = written = g_new0(bool, slices->len);
        r = commit_co_write(&c);
    }
    if (r < 0) {
        give_back(&c);
        return r;
    }
    g_mutex_lock(&m->lock);
    append_all(m->durable, freed);
    g_mutex_unlock(&m->lock);
    co_release(s);
    return 0;
}

int co_fn qcow2_co_commit(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);

    CO_MUTEX_GUARD(&s->metadata.commit_lock);
    return qcow2_co_commit_locked(node);
}

int co_fn qcow2_co_flush(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);
    int r;

    if (!s->writable) {
        return 0; /* nothing can have been written */
    }
    r = qcow2_co_commit(node);
    if (r == 0) { /* what was counted down just now; nobody has to wait for that to be durable */
        r = co_write_refcounts(s);
    }
    return qcow2_co_end_writing(node, r);
}

int co_fn qcow2_co_finish_writing(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);
    Qcow2Metadata *m = &s->metadata;
    const Qcow2Header *h = s->image->header;
    int r = qcow2_co_flush(node);

    if (r < 0 || !s->writable) {
        return r;
    }
    qcow2_bitmaps_co_end(node);
    CO_MUTEX_GUARD(&m->commit_lock);
    __atomic_store_n(&m->begun, false, __ATOMIC_RELEASE);
    if (__atomic_load_n(&s->corrupt, __ATOMIC_RELAXED)) {
        co_mark_corrupt(node);
        return 0;
    }
    if (!(h->incompatible & QCOW2_INCOMPATIBLE_DIRTY)) {
        return 0;
    }
    r = qcow2_refcounts_co_write(&m->refcounts);
    if (r == 0) {
        r = qcow2_co_flush_file(node);
    }
    return r < 0 ? r
                 : co_set_features(node, h->incompatible & ~QCOW2_INCOMPATIBLE_DIRTY, h->autoclear);
}
