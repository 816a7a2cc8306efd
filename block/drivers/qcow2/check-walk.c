/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the header to all that is named. L1 tables are read one after the other, and remember which
 * L2 tables they name, and how often; then each L2 table is read once, however many snapshots share
 * it.
 *
 * What an entry that cannot be right would name if it were repaired is named, too. That it is wrong
 * is told, and it is repaired, when all names are known: a table that is named as something else as
 * well may be just that, and stays as it is.
 */
#include <errno.h>
#include <string.h>

#include "block/drivers/qcow2/be.h"
#include "block/drivers/qcow2/check-internal.h"
#include "block/drivers/qcow2/state.h"
#include "util/error.h"

/* How much of a table is read at a time. */
#define CHUNK_WORDS 8192

/* More L2 tables are not remembered. */
#define MAX_TABLES (1u << 24)

/* All that a walk has besides. */
typedef struct Walk {
    Check *check;
    uint64_t budget;        /* bytes of L1 and bitmap tables; more are only there if they overlap */
    GArray *l1_tables;      /* of L1Table */
    GArray *faulty_l2;      /* of guint: numbers of tables */
    GPtrArray *snapshots;   /* of Qcow2Snapshot: those that could be read */
    uint64_t snapshots_end; /* offset behind the last one */
} Walk;

/* Naming */

int check_name(Check *c, uint64_t offset, uint64_t bytes, uint64_t times)
{
    uint64_t end = offset + bytes;
    int r = 0;

    for (uint64_t i = offset >> c->layout.cluster_bits;
         r == 0 && i < c->clusters && i << c->layout.cluster_bits < end; i++) {
        r = qcow2_counts_add(&c->named, i, times);
    }
    return r;
}

bool check_is_named(const Check *c, uint64_t offset, uint64_t n, uint64_t times)
{
    uint64_t first = offset >> c->layout.cluster_bits;

    for (uint64_t i = first; i < first + n; i++) {
        if (qcow2_counts_get(&c->named, i) != times) {
            return false;
        }
    }
    return true;
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
        return check_name(c, offset, bytes, 1);
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
        r = check_name(c, h->reftable_offset, bytes, 1);
    }
    for (uint64_t i = 0; r == 0 && i < c->reftable_entries; i++) {
        uint64_t entry = GUINT64_FROM_BE(c->reftable[i]);

        c->reftable[i] = entry ? check_block(c, i, entry) : 0;
        if (c->reftable[i]) {
            check_expect(c, check_cluster_size(c));
            r = check_name(c, c->reftable[i], check_cluster_size(c), 1);
        }
    }
    return r;
}

/* L1 tables */

typedef struct L1Table {
    uint64_t offset, entries;
    bool active;
    bool faulty;      /* it has entries that cannot be right */
    bool repair;      /* those that can be repaired are */
    char *what;       /* owned */
    uint64_t times;   /* so many have exactly this one */
    uint64_t sharers; /* so many have one there, of whatever length */
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

void check_merge_tables(Check *c)
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
        check_merge_tables(c);
    }
    if (c->tables->len >= MAX_TABLES) {
        return -ENOMEM;
    }
    g_array_append_vals(c->tables, table, 1);
    return check_name(c, table->offset, check_cluster_size(c), table->times);
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

/* Does something about one entry that is not 0. */
typedef int co_fn L1Visit(Check *c, L1Table *t, uint64_t index, uint64_t entry);

static int co_fn co_name_l2(Check *c, L1Table *t, uint64_t index, uint64_t entry)
{
    CheckTable table = {.guest = index << qcow2_l2_reach_bits(&c->layout),
                        .times = t->times,
                        .active = t->active ? t->times : 0};
    uint64_t kept = entry;
    Qcow2Fault fault = check_l1_entry(c, &kept, &table.offset);

    t->faulty |= fault || kept != entry;
    return !fault && table.offset ? add_table(c, &table) : 0;
}

static uint64_t l1_clusters(const Check *c, uint64_t entries)
{
    return (entries * 8 + check_cluster_size(c) - 1) >> c->layout.cluster_bits;
}

static int co_fn co_settle_l1_entry(Check *c, L1Table *t, uint64_t index, uint64_t entry)
{
    uint64_t kept = entry, offset;
    Qcow2Fault fault = check_l1_entry(c, &kept, &offset);
    uint64_t word = GUINT64_TO_BE(kept);
    bool repaired;

    if (!fault && kept == entry) {
        return 0;
    }
    repaired = !fault && t->repair;
    check_corruption(c, repaired,
                     "entry %" G_GUINT64_FORMAT " of %s (%#" G_GINT64_MODIFIER "x): %s", index,
                     t->what, entry, qcow2_fault_text(fault ? fault : QCOW2_FAULT_L1_RESERVED));
    c->incomplete |= !repaired;
    return repaired ? check_co_write(c, t->offset + index * 8, &word, sizeof(word)) : 0;
}

static int co_fn co_walk_l1(Check *c, L1Table *t, L1Visit *visit)
{
    g_autofree uint64_t *words = g_new(uint64_t, CHUNK_WORDS);
    int r = 0;

    for (uint64_t first = 0; r == 0 && first < t->entries; first += CHUNK_WORDS) {
        uint64_t n = MIN(CHUNK_WORDS, t->entries - first);

        r = check_co_read(c, t->offset + first * 8, words, n * 8);
        for (uint64_t i = 0; r == 0 && i < n; i++) {
            if (words[i]) {
                r = visit(c, t, first + i, GUINT64_FROM_BE(words[i]));
            }
        }
    }
    return r;
}

/* Add an L1 table to the list, if there can be one. Takes @what. */
static int list_l1(Walk *w, uint64_t offset, uint64_t entries, bool active, char *take_what)
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
    g_array_append_val(w->l1_tables, t);
    return r;
}

/* The L1 table in use. What is behind a table that is too short, nobody knows. */
static int list_active_l1(Walk *w)
{
    Check *c = w->check;
    const Qcow2Header *h = c->header;
    uint64_t needed = qcow2_l1_entries_for(h->size, h->cluster_bits, qcow2_header_extended_l2(h));

    if (h->l1_entries < needed) {
        check_corruption(c, false,
                         "the L1 table has %u entries; a disk of %" G_GUINT64_FORMAT
                         " bytes needs %" G_GUINT64_FORMAT,
                         h->l1_entries, h->size, needed);
        c->incomplete = true;
    }
    return list_l1(w, h->l1_offset, h->l1_entries, true, g_strdup("the L1 table"));
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

/* Make each be there once, the one in use first. */
static void merge_l1_list(Check *c, GArray *list)
{
    L1Table *t = (L1Table *)list->data;
    guint n = 0;

    g_array_sort(list, compare_l1);
    for (guint i = 0; i < list->len; i++) {
        if (n > 0 && compare_l1(&t[n - 1], &t[i]) == 0) {
            t[n - 1].times++;
            l1_table_clear(&t[i]);
        } else {
            t[n++] = t[i];
        }
    }
    for (guint i = n; i < list->len; i++) {
        t[i].what = NULL;
    }
    g_array_set_size(list, n);
}

/* Say of each how many have one at the same place. */
static void count_sharers(Check *c, GArray *list)
{
    L1Table *t = (L1Table *)list->data;
    L1Table *active = list->len > 0 && t->active ? t : NULL;

    for (guint i = active ? 1 : 0, end; i < list->len; i = end) {
        uint64_t sharers = 0;

        for (end = i; end < list->len && t[end].offset == t[i].offset; end++) {
            sharers += t[end].times;
        }
        if (active && active->offset == t[i].offset) {
            active->sharers = ++sharers;
        }
        for (guint k = i; k < end; k++) {
            t[k].sharers = sharers;
        }
    }
    if (active) {
        active->sharers = MAX(active->sharers, 1);
        c->l1_sharers = active->sharers;
    }
}

static int co_fn co_walk_l1_list(Check *c, GArray *list)
{
    L1Table *t;
    int r = 0;

    merge_l1_list(c, list);
    count_sharers(c, list);
    t = (L1Table *)list->data;
    for (guint i = 0; r == 0 && i < list->len; i++) {
        r = co_walk_l1(c, &t[i], co_name_l2);
    }
    return r;
}

static int co_fn co_settle_l1(Check *c, L1Table *t)
{
    bool alone = check_is_named(c, t->offset, l1_clusters(c, t->entries), t->sharers);

    if (!alone) {
        check_tell(c, "%s overlaps something else, so no entry of it is repaired", t->what);
    }
    t->repair = alone && check_repairs_all(c);
    return co_walk_l1(c, t, co_settle_l1_entry);
}

static int co_fn co_settle_l1_list(Check *c, GArray *list)
{
    L1Table *t = (L1Table *)list->data;
    int r = 0;

    for (guint i = 0; r == 0 && i < list->len; i++) {
        r = t[i].faulty ? co_settle_l1(c, &t[i]) : 0;
    }
    return r;
}

bool check_l1_is_alone(const Check *c)
{
    return check_is_named(c, c->header->l1_offset, l1_clusters(c, c->l1_entries), c->l1_sharers);
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

/* What is wrong with the table. What does not even begin in the file is gone anyway. */
static int co_fn co_settle_table(Walk *w, const GError *error)
{
    Check *c = w->check;

    if (g_error_matches(error, WHARF_ERROR, WHARF_ERROR_IO)) {
        return -EIO; /* says nothing about the table */
    }
    if (g_error_matches(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND)) {
        return co_drop_snapshots(c, w->snapshots->len, error->message);
    }
    if (error) {
        check_corruption(c, false, "snapshot %u of %u: %s", w->snapshots->len + 1,
                         c->header->n_snapshots, error->message);
        c->incomplete = true;
        return 0;
    }
    return c->header->n_snapshots > QCOW2_MAX_SNAPSHOTS
               ? co_drop_snapshots(c, QCOW2_MAX_SNAPSHOTS, "there are too many")
               : 0;
}

static int co_fn co_list_snapshots(Walk *w)
{
    Check *c = w->check;
    uint64_t start = c->header->snapshots_offset;
    g_autoptr(GError) error = NULL;
    bool usable;
    int r;

    w->snapshots_end = start;
    if (c->header->n_snapshots == 0) {
        return 0;
    }
    r = name_table(c, start, 1, "the table of snapshots", &usable);
    if (r < 0 || !usable) {
        return r;
    }
    qcow2_snapshots_co_load(c->file, c->header, true, w->snapshots, &w->snapshots_end, &error);
    r = co_settle_table(w, error);
    if (r == 0 && w->snapshots_end > start) { /* its first cluster has been named */
        uint64_t first = start + check_cluster_size(c);

        r = check_name(c, first, MAX(w->snapshots_end, first) - first, 1);
    }
    for (guint i = 0; r == 0 && i < w->snapshots->len; i++) {
        const Qcow2Snapshot *s = g_ptr_array_index(w->snapshots, i);

        r = list_l1(w, s->l1_offset, s->l1_entries, false,
                    g_strdup_printf("the L1 table of snapshot %u", i + 1));
    }
    return r;
}

/* What is wrong with a snapshot itself; NULL: nothing. */
static const char *snapshot_fault(const Check *c, const Qcow2Snapshot *s)
{
    if (s->cut) {
        return "it has too much extra data";
    }
    return c->header->version >= 3 && s->extra_bytes < QCOW2_SNAPSHOT_V3_EXTRA
               ? "it does not say all that version 3 wants"
               : NULL;
}

/*
 * A new table behind the end of the file, which takes the place of the old one when it is counted.
 * Until then both are named.
 */
static int co_fn co_write_snapshots(Walk *w)
{
    Check *c = w->check;
    g_autoptr(GByteArray) table = qcow2_snapshots_serialise(w->snapshots);
    uint64_t size = check_cluster_size(c), bytes = table->len;
    uint64_t n = (bytes + size - 1) / size, place = c->clusters * size;
    int r = qcow2_counts_grow(&c->named, c->clusters + n);

    if (r < 0) {
        return r;
    }
    g_byte_array_set_size(table, n * size);
    memset(table->data + bytes, 0, table->len - bytes);
    r = check_co_write(c, place, table->data, table->len);
    if (r < 0) {
        return r;
    }
    c->clusters += n;
    c->length = c->clusters * size;
    c->snapshots_place = place;
    c->snapshots_place_end = c->length;
    c->snapshots_end = w->snapshots_end;
    return check_name(c, place, bytes, 1);
}

int co_fn check_co_switch_snapshots(Check *c)
{
    uint64_t size = check_cluster_size(c), first = c->header->snapshots_offset / size;
    uint64_t end = (c->snapshots_end + size - 1) / size;
    int r;

    if (c->snapshots_place == 0) {
        return 0;
    }
    c->must_finish = true;
    c->header->snapshots_offset = c->snapshots_place;
    r = check_co_write_header(c);
    for (uint64_t i = first; i < end; i++) {
        qcow2_counts_remove(&c->named, i);
    }
    if (r == 0) {
        r = check_co_recount(c, first, end);
    }
    c->must_finish = false;
    return r;
}

static int co_fn co_settle_snapshots(Walk *w)
{
    Check *c = w->check;
    bool repair = check_repairs_all(c) && !c->incomplete;
    bool changed = false;

    for (guint i = 0; i < w->snapshots->len; i++) {
        Qcow2Snapshot *s = g_ptr_array_index(w->snapshots, i);
        const char *fault = snapshot_fault(c, s);

        if (!fault) {
            continue;
        }
        check_corruption(c, repair, "snapshot %u: %s", i + 1, fault);
        if (!s->cut) {
            w->snapshots->pdata[i] = qcow2_snapshot_complete(s, c->header->size);
            qcow2_snapshot_free(s);
        }
        changed = true;
    }
    return changed && repair ? co_write_snapshots(w) : 0;
}

/* Bitmaps */

static int co_fn co_name_bits(Check *c, uint64_t entry)
{
    uint64_t offset;
    bool usable;

    switch (qcow2_bits_decode(entry, c->layout.cluster_bits, &offset)) {
    case QCOW2_BITS_STORED:
        return name_table(c, offset, check_cluster_size(c), "a cluster of a bitmap", &usable);
    case QCOW2_BITS_FAULTY:
        check_corruption(c, false,
                         "an entry of the table of a bitmap (%#" G_GINT64_MODIFIER
                         "x) is none that is possible",
                         entry);
        c->incomplete = true; /* it may name a cluster all the same */
        return 0;
    default:
        return 0;
    }
}

static int co_fn co_walk_bitmap_table(Walk *w, const Qcow2Bitmap *bitmap)
{
    Check *c = w->check;
    uint64_t entries = bitmap->table_entries;
    g_autofree uint64_t *words = g_new(uint64_t, CHUNK_WORDS);
    bool usable = false;
    int r = 0;

    if (entries == 0 || !afford(w, entries * 8, "the table of a bitmap")) {
        return 0;
    }
    r = name_table(c, bitmap->table_offset, entries * 8, "the table of a bitmap", &usable);
    for (uint64_t i = 0; r == 0 && usable && i < entries; i++) {
        if (i % CHUNK_WORDS == 0) {
            r = check_co_read(c, bitmap->table_offset + i * 8, words,
                              MIN(CHUNK_WORDS, entries - i) * 8);
        }
        r = r < 0 ? r : co_name_bits(c, GUINT64_FROM_BE(words[i % CHUNK_WORDS]));
    }
    return r;
}

static int co_fn co_walk_bitmaps(Walk *w)
{
    Check *c = w->check;
    g_autoptr(GPtrArray) bitmaps = NULL;
    g_autoptr(GError) error = NULL;
    Qcow2BitmapsExtension ext;
    bool usable = true;
    int r = 0;

    if (!qcow2_bitmaps_are_there(c->header)) {
        return 0;
    }
    bitmaps = qcow2_bitmaps_co_load(c->file, c->header, &ext, &error);
    if (g_error_matches(error, WHARF_ERROR, WHARF_ERROR_IO)) {
        return -EIO; /* says nothing about them */
    }
    if (ext.bytes > 0) {
        r = name_table(c, ext.offset, ext.bytes, "the directory of bitmaps", &usable);
    }
    if (r == 0 && usable && !bitmaps) {
        check_corruption(c, false, "the persistent bitmaps cannot be used: %s", error->message);
        c->incomplete = true;
    }
    for (guint i = 0; r == 0 && bitmaps && i < bitmaps->len; i++) {
        r = co_walk_bitmap_table(w, g_ptr_array_index(bitmaps, i));
    }
    return r;
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

static int co_fn co_name_all(Walk *w)
{
    Check *c = w->check;
    int r = check_name(c, 0, check_cluster_size(c), 1);

    if (r == 0) {
        r = co_walk_reftable(c);
    }
    if (r == 0) {
        r = list_active_l1(w);
    }
    if (r == 0) {
        r = co_list_snapshots(w);
    }
    if (r == 0) {
        r = co_walk_l1_list(c, w->l1_tables);
    }
    if (r == 0) {
        r = check_co_name_l2(c, w->faulty_l2);
    }
    if (r == 0) {
        r = co_walk_bitmaps(w);
    }
    return r < 0 ? r : walk_encryption(c);
}

static int co_fn co_settle_all(Walk *w)
{
    int r = co_settle_l1_list(w->check, w->l1_tables);

    if (r == 0) {
        r = check_co_settle_l2(w->check, w->faulty_l2);
    }
    return r < 0 ? r : co_settle_snapshots(w);
}

static void walk_init(Walk *w, Check *c)
{
    *w = (Walk){
        .check = c,
        .budget = 2 * (c->clusters << c->layout.cluster_bits),
        .l1_tables = g_array_new(FALSE, FALSE, sizeof(L1Table)),
        .faulty_l2 = g_array_new(FALSE, FALSE, sizeof(guint)),
        .snapshots = g_ptr_array_new_with_free_func((GDestroyNotify)qcow2_snapshot_free),
    };
    g_array_set_clear_func(w->l1_tables, l1_table_clear);
}

static void walk_clear(Walk *w)
{
    g_array_unref(w->l1_tables);
    g_array_unref(w->faulty_l2);
    g_ptr_array_unref(w->snapshots);
}

int co_fn check_co_walk(Check *c)
{
    Walk w;
    int r;

    walk_init(&w, c);
    r = co_name_all(&w);
    if (r == 0) {
        r = co_settle_all(&w);
    }
    walk_clear(&w);
    return r;
}
