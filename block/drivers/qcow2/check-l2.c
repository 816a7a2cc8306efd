/* SPDX-License-Identifier: GPL-2.0-or-later */
/* L2 tables, in the order of their places: what they name, then what is wrong with them. */
#include <errno.h>

#include "block/drivers/qcow2/check-internal.h"

#define ALL_ZERO ((uint64_t)UINT32_MAX << 32)

/* Make an entry say that there is nothing; false where that would say something else. */
static bool make_zero(const Check *c, uint64_t *entry, uint64_t *bitmap)
{
    *entry = c->layout.zero_flag ? QCOW2_ENTRY_ZERO : 0;
    *bitmap = c->layout.subclusters > 1 ? ALL_ZERO : 0;
    return *entry || *bitmap || !c->header->backing_file;
}

/*
 * An entry in the place of one that cannot be right. What can be kept is; where the data cannot be
 * found it becomes zeros. False: nobody can say what it should be.
 */
static bool repair_entry(const Check *c, Qcow2Fault fault, uint64_t *entry, uint64_t *bitmap)
{
    uint32_t data = (uint32_t)*bitmap, zero = *bitmap >> 32;

    switch (fault) {
    case QCOW2_FAULT_L2_RESERVED:
        *entry &=
            QCOW2_ENTRY_COPIED | QCOW2_ENTRY_OFFSET | (c->layout.zero_flag ? QCOW2_ENTRY_ZERO : 0);
        return true;
    case QCOW2_FAULT_L2_ZERO_FLAG:
        *entry &= ~QCOW2_ENTRY_ZERO;
        return true;
    case QCOW2_FAULT_L2_NOWHERE:
        *entry &= ~QCOW2_ENTRY_COPIED;
        return true;
    case QCOW2_FAULT_SUBCLUSTER_BOTH:
        *bitmap = (uint64_t)(zero & ~data) << 32 | data;
        return true;
    case QCOW2_FAULT_SUBCLUSTER_NOWHERE:
        *bitmap = (uint64_t)(zero | data) << 32;
        return true;
    case QCOW2_FAULT_L2_UNALIGNED:
    case QCOW2_FAULT_COMPRESSED_HIGH:
    case QCOW2_FAULT_DATA_PAST_END:
        return make_zero(c, entry, bitmap);
    default:
        return false;
    }
}

typedef struct L2Walk {
    const CheckTable *table;
    uint64_t *words;
    uint64_t next; /* place behind the last data cluster; 0: none */
    bool faulty;   /* it has entries that cannot be right */
    bool repair;   /* those that can be repaired are */
    bool changed;
} L2Walk;

bool check_l2_is_alone(const Check *c, const CheckTable *table)
{
    return check_is_named(c, table->offset, 1, table->times);
}

static uint64_t cluster_bytes(const Check *c, const Qcow2Cluster *cluster)
{
    return cluster->compressed ? cluster->compressed_length : check_cluster_size(c);
}

static Qcow2Fault decode(const Check *c, uint64_t entry, uint64_t bitmap, uint64_t guest,
                         Qcow2Cluster *cluster)
{
    Qcow2Fault fault = qcow2_l2_decode(&c->layout, entry, bitmap, guest, cluster);

    if (fault || !cluster->has_host || c->layout.data_file) {
        return fault;
    }
    return check_is_inside(c, cluster->host, cluster_bytes(c, cluster)) ? QCOW2_FAULT_NONE
                                                                        : QCOW2_FAULT_DATA_PAST_END;
}

/* One repair may bring the next fault to light. */
static bool try_repair(const Check *c, Qcow2Fault fault, uint64_t guest, uint64_t *entry,
                       uint64_t *bitmap, Qcow2Cluster *cluster)
{
    for (unsigned i = 0; i < 3 && fault; i++) {
        if (!repair_entry(c, fault, entry, bitmap)) {
            return false;
        }
        fault = decode(c, *entry, *bitmap, guest, cluster);
    }
    return !fault;
}

/* One entry. */
typedef struct L2Entry {
    unsigned index;
    uint64_t was;           /* its first word in the image */
    uint64_t entry, bitmap; /* what it is to be, if it can be repaired */
    Qcow2Fault fault;
    bool copied;   /* it is compressed, and says that it may be written in place */
    bool possible; /* as it is, or is to be */
    Qcow2Cluster cluster;
} L2Entry;

static void look_at_entry(const Check *c, const L2Walk *w, unsigned index, L2Entry *e)
{
    unsigned at = index * c->layout.entry_words;
    uint64_t guest = w->table->guest + ((uint64_t)index << c->layout.cluster_bits);

    e->index = index;
    e->was = e->entry = GUINT64_FROM_BE(w->words[at]);
    e->bitmap = c->layout.entry_words > 1 ? GUINT64_FROM_BE(w->words[at + 1]) : 0;
    e->fault = decode(c, e->entry, e->bitmap, guest, &e->cluster);
    e->possible = !e->fault || try_repair(c, e->fault, guest, &e->entry, &e->bitmap, &e->cluster);
    e->copied = e->possible && e->cluster.compressed && (e->entry & QCOW2_ENTRY_COPIED);
    if (e->copied) {
        e->entry &= ~QCOW2_ENTRY_COPIED;
    }
}

static void tell_entry(Check *c, const L2Walk *w, const L2Entry *e, bool repaired, const char *what)
{
    check_corruption(c, repaired,
                     "entry %u of the L2 table at %#" G_GINT64_MODIFIER "x (%#" G_GINT64_MODIFIER
                     "x): %s",
                     e->index, w->table->offset, e->was, what);
}

/* Tell what is wrong with an entry, and repair it. */
static void settle_entry(Check *c, L2Walk *w, unsigned index)
{
    unsigned at = index * c->layout.entry_words;
    bool repaired;
    L2Entry e;

    look_at_entry(c, w, index, &e);
    if (!e.fault && !e.copied) {
        return;
    }
    repaired = e.possible && w->repair;
    if (e.fault) {
        tell_entry(c, w, &e, repaired, qcow2_fault_text(e.fault));
        c->incomplete |= !repaired;
    }
    if (e.copied) {
        tell_entry(c, w, &e, repaired, "bit 63 is set for a compressed cluster");
    }
    if (!repaired) {
        return;
    }
    w->words[at] = GUINT64_TO_BE(e.entry);
    if (c->layout.entry_words > 1) {
        w->words[at + 1] = GUINT64_TO_BE(e.bitmap);
    }
    w->changed = true;
}

static void count_cluster(Check *c, L2Walk *w, const Qcow2Cluster *cluster)
{
    ImageCheck *result = c->result;

    if (w->table->active == 0) {
        return;
    }
    result->allocated_clusters++;
    if (cluster->compressed) {
        result->compressed_clusters++;
        result->fragmented_clusters++;
        return;
    }
    result->fragmented_clusters += w->next && cluster->host != w->next;
    w->next = cluster->host + check_cluster_size(c);
}

static int name_entry(Check *c, L2Walk *w, unsigned index)
{
    L2Entry e;

    look_at_entry(c, w, index, &e);
    w->faulty |= e.fault || e.copied;
    if (!e.possible || !e.cluster.has_host) {
        return 0;
    }
    count_cluster(c, w, &e.cluster);
    return c->layout.data_file
               ? 0
               : check_name(c, e.cluster.host, cluster_bytes(c, &e.cluster), w->table->times);
}

/* Name all that the table does; *@faulty: it has entries that cannot be right. */
static int co_fn co_walk_l2(Check *c, const CheckTable *table, uint64_t *words, bool *faulty)
{
    L2Walk w = {.table = table, .words = words};
    int r = check_co_read(c, table->offset, words, check_cluster_size(c));

    for (unsigned i = 0; r == 0 && i < 1u << c->layout.l2_bits; i++) {
        r = name_entry(c, &w, i);
    }
    *faulty = w.faulty;
    return r;
}

int co_fn check_co_name_l2(Check *c, GArray *faulty)
{
    g_autofree uint64_t *words = g_try_malloc(check_cluster_size(c));
    int r = words ? 0 : -ENOMEM;

    check_merge_tables(c);
    /* They are read again when their bits are looked at. */
    check_expect(c, c->tables->len * check_cluster_size(c) * (c->layout.data_file ? 1 : 2));
    for (guint i = 0; r == 0 && i < c->tables->len; i++) {
        bool is_faulty;

        r = co_walk_l2(c, &g_array_index(c->tables, CheckTable, i), words, &is_faulty);
        check_advance(c, check_cluster_size(c));
        if (r == 0 && is_faulty) {
            g_array_append_val(faulty, i);
        }
    }
    return r;
}

static int co_fn co_settle_l2(Check *c, const CheckTable *table, uint64_t *words)
{
    bool alone = check_l2_is_alone(c, table);
    L2Walk w = {.table = table, .words = words, .repair = alone && check_repairs_all(c)};
    int r = check_co_read(c, table->offset, words, check_cluster_size(c));

    if (r == 0 && !alone) {
        check_tell(c,
                   "the L2 table at %#" G_GINT64_MODIFIER
                   "x overlaps something else, so no entry of it is repaired",
                   table->offset);
    }
    for (unsigned i = 0; r == 0 && i < 1u << c->layout.l2_bits; i++) {
        settle_entry(c, &w, i);
    }
    return r == 0 && w.changed ? check_co_write(c, table->offset, words, check_cluster_size(c)) : r;
}

int co_fn check_co_settle_l2(Check *c, GArray *faulty)
{
    g_autofree uint64_t *words = g_try_malloc(check_cluster_size(c));
    int r = words ? 0 : -ENOMEM;

    for (guint i = 0; r == 0 && i < faulty->len; i++) {
        guint number = g_array_index(faulty, guint, i);

        r = co_settle_l2(c, &g_array_index(c->tables, CheckTable, number), words);
    }
    return r;
}
