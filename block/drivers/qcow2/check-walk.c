/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the header to all that is named. L1 tables are read one after the other, and remember which
 * L2 tables they name, and how often; then each L2 table is read once, however many snapshots share
 * it, in the order of their places.
 */
#include <errno.h>

#include "block/drivers/qcow2/be.h"
#include "block/drivers/qcow2/check-internal.h"
#include "block/drivers/qcow2/state.h"
#include "util/error.h"

/* How much of a table is read at a time. */
#define CHUNK_WORDS 8192

/* More L2 tables are not remembered. */
#define MAX_TABLES (1u << 24)

#define MAX_DIRECTORY_BYTES (UINT64_C(64) << 20)

/* All that a walk has besides. */
typedef struct Walk {
    Check *check;
    uint64_t budget; /* bytes of L1 and bitmap tables; more can only be there if they overlap */
} Walk;

/* Naming */

static int name(Check *c, uint64_t offset, uint64_t bytes, uint64_t times)
{
    uint64_t end = offset + bytes;
    int r = 0;

    for (uint64_t i = offset >> c->layout.cluster_bits;
         r == 0 && i < c->clusters && i << c->layout.cluster_bits < end; i++) {
        r = qcow2_counts_add(&c->named, i, times);
    }
    return r;
}

/*
 * Name a table of @bytes bytes. Sets *@usable where there is one. Where it is not inside the file,
 * what it would name cannot be found.
 */
static int name_table(Check *c, uint64_t offset, uint64_t bytes, const char *what, bool *usable)
{
    *usable = false;
    if (offset & (check_cluster_size(c) - 1)) {
        check_corruption(c, false, "%s at %#" G_GINT64_MODIFIER "x is not aligned to a cluster",
                         what, offset);
    } else if (offset == 0 || !check_is_inside(c, offset, bytes)) {
        check_corruption(c, false,
                         "%s at %#" G_GINT64_MODIFIER "x, of %" G_GUINT64_FORMAT
                         " bytes, is not inside the file",
                         what, offset, bytes);
    } else {
        *usable = true;
        return name(c, offset, bytes, 1);
    }
    c->incomplete = true;
    return 0;
}

/* Whether so much of tables may be read still. */
static bool afford(Walk *w, uint64_t bytes, const char *what)
{
    if (bytes <= w->budget) {
        w->budget -= bytes;
        return true;
    }
    check_corruption(w->check, false, "%s is not looked at, for too many tables overlap", what);
    w->check->incomplete = true;
    return false;
}

/* Refcount table and blocks */

/* The entry's block, if it is one; else 0, and all refcounts have to be made anew. */
static uint64_t check_block(Check *c, uint64_t index, uint64_t entry)
{
    const char *wrong = NULL;

    if (entry & (check_cluster_size(c) - 1)) {
        wrong = "is not aligned to a cluster";
    } else if (entry > INT64_MAX || !check_is_inside(c, entry, check_cluster_size(c))) {
        wrong = "is not inside the file";
    }
    if (!wrong) {
        return entry;
    }
    check_corruption(c, check_repairs_all(c),
                     "refcount block %" G_GUINT64_FORMAT " at %#" G_GINT64_MODIFIER "x %s", index,
                     entry, wrong);
    c->rebuild = true;
    return 0;
}

static int co_fn co_walk_reftable(Check *c)
{
    const Qcow2Header *h = c->header;
    uint64_t bytes = (uint64_t)h->reftable_clusters << h->cluster_bits;
    int r;

    if (h->reftable_clusters == 0 || bytes > QCOW2_MAX_REFTABLE_BYTES || h->reftable_offset == 0 ||
        (h->reftable_offset & (check_cluster_size(c) - 1)) ||
        !check_is_inside(c, h->reftable_offset, 1)) {
        check_corruption(c, check_repairs_all(c), "the refcount table is not where one can be");
        c->rebuild = true;
        return 0;
    }
    c->reftable = g_try_malloc(bytes);
    r = c->reftable ? check_co_read(c, h->reftable_offset, c->reftable, bytes) : -ENOMEM;
    if (r == 0) {
        c->reftable_entries = bytes / 8;
        c->reftable_named = h->reftable_clusters;
        r = name(c, h->reftable_offset, bytes, 1);
    }
    for (uint64_t i = 0; r == 0 && i < c->reftable_entries; i++) {
        uint64_t entry = GUINT64_FROM_BE(c->reftable[i]);

        c->reftable[i] = entry ? check_block(c, i, entry) : 0;
        r = c->reftable[i] ? name(c, c->reftable[i], check_cluster_size(c), 1) : 0;
    }
    return r;
}

/* L1 tables */

typedef struct L1Table {
    uint64_t offset, entries;
    bool active;
    char *what;     /* owned */
    uint64_t times; /* so many have exactly this one */
} L1Table;

static void l1_table_clear(gpointer table)
{
    g_free(((L1Table *)table)->what);
}

static int compare_places(gconstpointer a, gconstpointer b)
{
    const CheckTable *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Make each L2 table be there once. */
static void merge_tables(Check *c)
{
    CheckTable *t = (CheckTable *)c->tables->data;
    guint n = 0;

    g_array_sort(c->tables, compare_places);
    for (guint i = 0; i < c->tables->len; i++) {
        if (n > 0 && t[n - 1].offset == t[i].offset) {
            t[n - 1].guest = t[n - 1].active ? t[n - 1].guest : t[i].guest;
            t[n - 1].times += t[i].times;
            t[n - 1].active += t[i].active;
        } else {
            t[n++] = t[i];
        }
    }
    g_array_set_size(c->tables, n);
    c->sorted = n;
}

static int add_table(Check *c, const CheckTable *table)
{
    if (c->tables->len > 2 * c->sorted + CHUNK_WORDS) {
        merge_tables(c);
    }
    if (c->tables->len >= MAX_TABLES) {
        return -ENOMEM;
    }
    g_array_append_vals(c->tables, table, 1);
    return name(c, table->offset, check_cluster_size(c), table->times);
}

static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
    return a < b + b_bytes && b < a + a_bytes;
}

/* Where the L2 table of an entry can lie at all. */
static Qcow2Fault check_l2_place(const Check *c, uint64_t offset)
{
    const Qcow2Header *h = c->header;
    uint64_t size = check_cluster_size(c);

    if (!check_is_inside(c, offset, size)) {
        return QCOW2_FAULT_TABLE_PAST_END;
    }
    return overlap(offset, size, h->l1_offset, (uint64_t)h->l1_entries * 8) ||
                   overlap(offset, size, h->reftable_offset, c->reftable_named * size)
               ? QCOW2_FAULT_TABLE_OVERLAP
               : QCOW2_FAULT_NONE;
}

/* Look at an entry, and take its reserved bits away. */
static Qcow2Fault check_l1_entry(const Check *c, uint64_t *entry, uint64_t *offset)
{
    Qcow2Fault fault = qcow2_l1_decode(&c->layout, *entry, offset);

    if (fault == QCOW2_FAULT_L1_RESERVED) {
        *entry &= QCOW2_ENTRY_COPIED | QCOW2_ENTRY_OFFSET;
        fault = qcow2_l1_decode(&c->layout, *entry, offset);
    }
    return fault || *offset == 0 ? fault : check_l2_place(c, *offset);
}

static int co_fn co_take_l1_entry(Check *c, const L1Table *t, uint64_t index, uint64_t entry)
{
    CheckTable table = {.guest = index << qcow2_l2_reach_bits(&c->layout),
                        .times = t->times,
                        .active = t->active ? t->times : 0};
    uint64_t kept = entry;
    Qcow2Fault fault = check_l1_entry(c, &kept, &table.offset);
    bool repaired = !fault && check_repairs_all(c);
    uint64_t word = GUINT64_TO_BE(kept);
    int r = 0;

    if (fault || kept != entry) {
        check_corruption(c, repaired,
                         "entry %" G_GUINT64_FORMAT " of %s (%#" G_GINT64_MODIFIER "x): %s", index,
                         t->what, entry, qcow2_fault_text(fault ? fault : QCOW2_FAULT_L1_RESERVED));
    }
    if (fault) {
        c->incomplete = true;
        return 0;
    }
    if (kept != entry && repaired) {
        r = check_co_write(c, t->offset + index * 8, &word, sizeof(word));
    }
    return r == 0 && table.offset ? add_table(c, &table) : r;
}

static int co_fn co_walk_l1(Check *c, const L1Table *t)
{
    g_autofree uint64_t *words = g_new(uint64_t, CHUNK_WORDS);
    int r = 0;

    for (uint64_t first = 0; r == 0 && first < t->entries; first += CHUNK_WORDS) {
        uint64_t n = MIN(CHUNK_WORDS, t->entries - first);

        r = check_co_read(c, t->offset + first * 8, words, n * 8);
        for (uint64_t i = 0; r == 0 && i < n; i++) {
            if (words[i]) {
                r = co_take_l1_entry(c, t, first + i, GUINT64_FROM_BE(words[i]));
            }
        }
    }
    return r;
}

/* Add an L1 table to the list, if there can be one. Takes @what. */
static int list_l1(Walk *w, GArray *list, uint64_t offset, uint64_t entries, bool active,
                   char *take_what)
{
    Check *c = w->check;
    L1Table t = {.offset = offset, .entries = entries, .active = active, .times = 1};
    bool usable = false;
    int r = 0;

    t.what = take_what;
    if (entries * 8 > QCOW2_MAX_L1_BYTES) {
        check_corruption(c, false, "%s is too large: it has %" G_GUINT64_FORMAT " entries", t.what,
                         entries);
        c->incomplete = true;
    } else if (entries > 0 && afford(w, entries * 8, t.what)) {
        r = name_table(c, offset, entries * 8, t.what, &usable);
    }
    if (!usable) {
        l1_table_clear(&t);
        return r;
    }
    c->l1_entries = active ? entries : c->l1_entries;
    g_array_append_val(list, t);
    return r;
}

static int compare_l1(gconstpointer a, gconstpointer b)
{
    const L1Table *x = a, *y = b;

    if (x->active != y->active) {
        return x->active ? -1 : 1;
    }
    if (x->offset != y->offset) {
        return x->offset < y->offset ? -1 : 1;
    }
    return x->entries < y->entries ? -1 : x->entries > y->entries;
}

/* All on the list, each once, the one in use first. */
static int co_fn co_walk_l1_list(Check *c, GArray *list)
{
    L1Table *t = (L1Table *)list->data;
    int r = 0;

    g_array_sort(list, compare_l1);
    for (guint i = 0; r == 0 && i < list->len; i++) {
        if (i + 1 < list->len && compare_l1(&t[i], &t[i + 1]) == 0) {
            t[i + 1].times += t[i].times;
            continue;
        }
        r = co_walk_l1(c, &t[i]);
    }
    return r;
}

/* Snapshots */

/* The image has fewer snapshots than it says: only the first are readable. */
static int co_fn co_drop_snapshots(Check *c, guint n, const char *reason)
{
    check_corruption(c, check_repairs_all(c), "snapshot %u of %u: %s", n + 1,
                     c->header->n_snapshots, reason);
    if (!check_repairs_all(c)) {
        c->incomplete = true;
        return 0;
    }
    c->header->n_snapshots = n;
    return check_co_write_header(c);
}

static int co_fn co_list_snapshots(Walk *w, GArray *list)
{
    Check *c = w->check;
    g_autoptr(GPtrArray) snapshots =
        g_ptr_array_new_with_free_func((GDestroyNotify)qcow2_snapshot_free);
    uint64_t start = c->header->snapshots_offset, end = start;
    g_autoptr(GError) error = NULL;
    bool usable;
    int r;

    if (c->header->n_snapshots == 0) {
        return 0;
    }
    r = name_table(c, start, 1, "the table of snapshots", &usable);
    if (r < 0 || !usable) {
        return r;
    }
    if (!qcow2_snapshots_co_load(c->file, c->header, snapshots, &end, &error)) {
        if (g_error_matches(error, WHARF_ERROR, WHARF_ERROR_IO)) {
            return -EIO; /* says nothing about the table */
        }
        r = co_drop_snapshots(c, snapshots->len, error->message);
    } else if (c->header->n_snapshots > QCOW2_MAX_SNAPSHOTS) {
        r = co_drop_snapshots(c, QCOW2_MAX_SNAPSHOTS, "there are too many");
    }
    if (r == 0 && end > start) { /* its first cluster has been named */
        uint64_t first = start + check_cluster_size(c);

        r = name(c, first, MAX(end, first) - first, 1);
    }
    for (guint i = 0; r == 0 && i < snapshots->len; i++) {
        const Qcow2Snapshot *s = g_ptr_array_index(snapshots, i);

        r = list_l1(w, list, s->l1_offset, s->l1_entries, false,
                    g_strdup_printf("the L1 table of snapshot %u", i + 1));
    }
    return r;
}

/* L2 tables */

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
    bool changed;
} L2Walk;

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

/*
 * Decode an entry; one that cannot be right as it is going to be, or would be if it were repaired.
 * False: it says nothing.
 */
static bool settle_entry(Check *c, L2Walk *w, unsigned index, Qcow2Cluster *cluster)
{
    unsigned at = index * c->layout.entry_words;
    uint64_t entry = GUINT64_FROM_BE(w->words[at]);
    uint64_t bitmap = c->layout.entry_words > 1 ? GUINT64_FROM_BE(w->words[at + 1]) : 0;
    uint64_t guest = w->table->guest + ((uint64_t)index << c->layout.cluster_bits);
    Qcow2Fault fault = decode(c, entry, bitmap, guest, cluster);
    uint64_t was = entry;
    bool can, repaired;

    if (!fault) {
        return true;
    }
    can = try_repair(c, fault, guest, &entry, &bitmap, cluster);
    repaired = can && check_repairs_all(c);
    check_corruption(c, repaired,
                     "entry %u of the L2 table at %#" G_GINT64_MODIFIER "x (%#" G_GINT64_MODIFIER
                     "x): %s",
                     index, w->table->offset, was, qcow2_fault_text(fault));
    if (!repaired) {
        c->incomplete = true;
        return can;
    }
    w->words[at] = GUINT64_TO_BE(entry);
    if (c->layout.entry_words > 1) {
        w->words[at + 1] = GUINT64_TO_BE(bitmap);
    }
    w->changed = true;
    return true;
}

/* A compressed cluster never has the bit that says that it may be written in place. */
static void check_compressed(Check *c, L2Walk *w, unsigned index)
{
    unsigned at = index * c->layout.entry_words;
    uint64_t entry = GUINT64_FROM_BE(w->words[at]);

    if (!(entry & QCOW2_ENTRY_COPIED)) {
        return;
    }
    check_corruption(c, check_repairs_all(c),
                     "entry %u of the L2 table at %#" G_GINT64_MODIFIER
                     "x: bit 63 is set for a compressed cluster",
                     index, w->table->offset);
    if (check_repairs_all(c)) {
        w->words[at] = GUINT64_TO_BE(entry & ~QCOW2_ENTRY_COPIED);
        w->changed = true;
    }
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

static int walk_entry(Check *c, L2Walk *w, unsigned index)
{
    Qcow2Cluster cluster;

    if (!settle_entry(c, w, index, &cluster) || !cluster.has_host) {
        return 0;
    }
    if (cluster.compressed) {
        check_compressed(c, w, index);
    }
    count_cluster(c, w, &cluster);
    return c->layout.data_file ? 0
                               : name(c, cluster.host, cluster_bytes(c, &cluster), w->table->times);
}

static int co_fn co_walk_l2(Check *c, const CheckTable *table, uint64_t *words)
{
    L2Walk w = {.table = table, .words = words};
    int r = check_co_read(c, table->offset, words, check_cluster_size(c));

    for (unsigned i = 0; r == 0 && i < 1u << c->layout.l2_bits; i++) {
        r = walk_entry(c, &w, i);
    }
    if (r == 0 && w.changed) {
        r = check_co_write(c, table->offset, words, check_cluster_size(c));
    }
    return r;
}

static int co_fn co_walk_all_l2(Check *c)
{
    g_autofree uint64_t *words = g_try_malloc(check_cluster_size(c));
    int r = words ? 0 : -ENOMEM;

    merge_tables(c);
    for (guint i = 0; r == 0 && i < c->tables->len; i++) {
        r = co_walk_l2(c, &g_array_index(c->tables, CheckTable, i), words);
    }
    return r;
}

/* Bitmaps */

#define BITMAP_ENTRY_FIXED    24
#define BITMAP_TABLE_RESERVED UINT64_C(0xff000000000001fe)

static int co_fn co_walk_bitmap_table(Walk *w, uint64_t offset, uint64_t entries)
{
    Check *c = w->check;
    g_autofree uint64_t *words = g_new(uint64_t, CHUNK_WORDS);
    bool usable = false;
    int r = 0;

    if (entries == 0 || !afford(w, entries * 8, "the table of a bitmap")) {
        return 0;
    }
    r = name_table(c, offset, entries * 8, "the table of a bitmap", &usable);
    if (r < 0 || !usable) {
        return r;
    }
    for (uint64_t i = 0; r == 0 && i < entries; i++) {
        uint64_t entry;

        if (i % CHUNK_WORDS == 0) {
            r = check_co_read(c, offset + i * 8, words, MIN(CHUNK_WORDS, entries - i) * 8);
        }
        entry = r == 0 ? GUINT64_FROM_BE(words[i % CHUNK_WORDS]) : 0;
        if ((entry & BITMAP_TABLE_RESERVED) || (entry & 1 && entry & QCOW2_ENTRY_OFFSET)) {
            check_corruption(c, false, "the table of a bitmap has reserved bits set");
            c->incomplete = true; /* it may name a cluster all the same */
        } else if (entry & QCOW2_ENTRY_OFFSET) {
            r = name_table(c, entry, check_cluster_size(c), "a cluster of a bitmap", &usable);
        }
    }
    return r;
}

/* How long the entry of the directory at @p is, of which there are @left bytes; 0: it is none. */
static uint64_t bitmap_entry_length(const uint8_t *p, uint64_t left)
{
    uint64_t length;

    if (left < BITMAP_ENTRY_FIXED) {
        return 0;
    }
    length =
        (BITMAP_ENTRY_FIXED + (uint64_t)be16_get(p + 18) + be32_get(p + 20) + 7) & ~UINT64_C(7);
    return length <= left ? length : 0;
}

static int co_fn co_walk_directory(Walk *w, const uint8_t *directory, uint64_t bytes, uint32_t n)
{
    uint64_t at = 0;
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < n; i++) {
        uint64_t length = bitmap_entry_length(directory + at, bytes - at);

        if (length == 0) {
            check_corruption(w->check, false, "entry %u of the directory of bitmaps is incomplete",
                             i + 1);
            w->check->incomplete = true;
            return 0;
        }
        r = co_walk_bitmap_table(w, be64_get(directory + at), be32_get(directory + at + 8));
        at += length;
    }
    return r;
}

static int co_fn co_walk_bitmaps(Walk *w)
{
    Check *c = w->check;
    GBytes *data = qcow2_header_extension(c->header, QCOW2_EXTENSION_BITMAPS);
    g_autofree uint8_t *directory = NULL;
    const uint8_t *p;
    uint64_t offset, bytes;
    bool usable;
    int r;

    if (!data || !(c->header->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        return 0;
    }
    if (g_bytes_get_size(data) < 24) {
        check_corruption(c, false, "the header extension about bitmaps is too short");
        c->incomplete = true;
        return 0;
    }
    p = g_bytes_get_data(data, NULL);
    bytes = be64_get(p + 8);
    offset = be64_get(p + 16);
    if (bytes > MAX_DIRECTORY_BYTES) {
        check_corruption(c, false, "the directory of bitmaps is too large");
        c->incomplete = true;
        return 0;
    }
    r = name_table(c, offset, bytes, "the directory of bitmaps", &usable);
    if (r < 0 || !usable) {
        return r;
    }
    directory = g_try_malloc(MAX(bytes, 1));
    r = directory ? check_co_read(c, offset, directory, bytes) : -ENOMEM;
    return r < 0 ? r : co_walk_directory(w, directory, bytes, be32_get(p));
}

/* The header of an encrypted image's own format */
static int walk_encryption(Check *c)
{
    GBytes *data = qcow2_header_extension(c->header, QCOW2_EXTENSION_ENCRYPTION);
    const uint8_t *p = data ? g_bytes_get_data(data, NULL) : NULL;
    bool usable;

    if (!data || c->header->crypt != QCOW2_CRYPT_LUKS || g_bytes_get_size(data) < 16) {
        return 0;
    }
    return name_table(c, be64_get(p), be64_get(p + 8), "the encryption header", &usable);
}

int co_fn check_co_walk(Check *c)
{
    g_autoptr(GArray) list = g_array_new(FALSE, FALSE, sizeof(L1Table));
    Walk w = {.check = c, .budget = 2 * (c->clusters << c->layout.cluster_bits)};
    int r = name(c, 0, check_cluster_size(c), 1);

    g_array_set_clear_func(list, l1_table_clear);
    if (r == 0) {
        r = co_walk_reftable(c);
    }
    if (r == 0) {
        r = list_l1(&w, list, c->header->l1_offset, c->header->l1_entries, true,
                    g_strdup("the L1 table"));
    }
    if (r == 0) {
        r = co_list_snapshots(&w, list);
    }
    if (r == 0) {
        r = co_walk_l1_list(c, list);
    }
    if (r == 0) {
        r = co_walk_all_l2(c);
    }
    if (r == 0) {
        r = co_walk_bitmaps(&w);
    }
    return r < 0 ? r : walk_encryption(c);
}
