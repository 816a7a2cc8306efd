/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/qcow2-checker.h"

#include "block/drivers/qcow2/be.h"
#include "block/drivers/qcow2/bitmap.h"
#include "block/drivers/qcow2/refcount.h"
#include "block/drivers/qcow2/snapshot.h"
#include "block/drivers/qcow2/table.h"

typedef struct Walk {
    const uint8_t *bytes;
    uint64_t length;
    const Qcow2Header *h;
    Qcow2Layout layout;
    uint32_t *named; /* how often each cluster is */
    uint64_t clusters;
    bool active; /* the tables of the disk, not of a snapshot */
    Qcow2Check *check;
} Walk;

/* Then the image says itself that its refcounts are not to be relied on. */
static bool is_dirty(const Walk *w)
{
    return w->h->incompatible & QCOW2_INCOMPATIBLE_DIRTY;
}

static void G_GNUC_PRINTF(2, 3) corrupt(Walk *w, const char *format, ...)
{
    va_list ap;

    if (w->check->corruptions++ == 0) {
        va_start(ap, format);
        w->check->first = g_strdup_vprintf(format, ap);
        va_end(ap);
    }
}

static void name(Walk *w, uint64_t offset, uint64_t bytes, const char *what)
{
    uint64_t size = qcow2_cluster_size(&w->layout);

    for (uint64_t c = offset / size; c * size < offset + bytes; c++) {
        if (c >= w->clusters) {
            corrupt(w, "%s at %#" G_GINT64_MODIFIER "x is not in the file", what, offset);
            return;
        }
        w->named[c]++;
    }
}

static uint64_t word_at(const Walk *w, uint64_t offset)
{
    return offset + 8 <= w->length ? be64_get(w->bytes + offset) : 0;
}

static uint64_t refcount(const Walk *w, uint64_t cluster)
{
    unsigned bits = w->layout.cluster_bits + 3 - w->h->refcount_order;
    uint64_t index = cluster >> bits;
    uint64_t block;

    if (index >= (uint64_t)w->h->reftable_clusters << (w->layout.cluster_bits - 3)) {
        return 0;
    }
    block = word_at(w, w->h->reftable_offset + index * 8);
    if (block == 0 || block + qcow2_cluster_size(&w->layout) > w->length) {
        return 0;
    }
    return qcow2_refcount_get(w->bytes + block, w->h->refcount_order,
                              cluster & ((UINT64_C(1) << bits) - 1));
}

static void check_copied(Walk *w, uint64_t entry, uint64_t offset, const char *what)
{
    bool once = refcount(w, offset >> w->layout.cluster_bits) == 1;

    if (w->active && !is_dirty(w) && once != !!(entry & QCOW2_ENTRY_COPIED)) {
        corrupt(w, "%s at %#" G_GINT64_MODIFIER "x: bit 63 and its refcount contradict", what,
                offset);
    }
}

static void walk_l2(Walk *w, uint64_t table, uint64_t guest)
{
    for (uint64_t i = 0; i < UINT64_C(1) << w->layout.l2_bits; i++) {
        uint64_t at = table + i * 8 * w->layout.entry_words;
        uint64_t entry = word_at(w, at);
        uint64_t bitmap = w->layout.entry_words > 1 ? word_at(w, at + 8) : 0;
        Qcow2Cluster c;
        Qcow2Fault fault =
            qcow2_l2_decode(&w->layout, entry, bitmap, guest + (i << w->layout.cluster_bits), &c);

        if (fault) {
            corrupt(w, "%s", qcow2_fault_text(fault));
        } else if (c.compressed) {
            name(w, c.host & ~UINT64_C(511), c.compressed_length, "a compressed cluster");
        } else if (c.has_host) {
            name(w, c.host, qcow2_cluster_size(&w->layout), "a cluster");
            check_copied(w, entry, c.host, "a cluster");
        }
    }
}

static void walk_l1(Walk *w, uint64_t offset, uint32_t entries)
{
    name(w, offset, (uint64_t)entries * 8, "an L1 table");
    for (uint32_t i = 0; i < entries; i++) {
        uint64_t entry = word_at(w, offset + (uint64_t)i * 8);
        uint64_t table;
        Qcow2Fault fault = qcow2_l1_decode(&w->layout, entry, &table);

        if (fault) {
            corrupt(w, "%s", qcow2_fault_text(fault));
        } else if (table) {
            name(w, table, qcow2_cluster_size(&w->layout), "an L2 table");
            check_copied(w, entry, table, "an L2 table");
            walk_l2(w, table, (uint64_t)i << qcow2_l2_reach_bits(&w->layout));
        }
    }
}

static void walk_snapshots(Walk *w)
{
    uint64_t at = w->h->snapshots_offset;

    for (uint32_t i = 0; i < w->h->n_snapshots; i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(Qcow2Snapshot) s = NULL;
        size_t length = at + QCOW2_SNAPSHOT_FIXED <= w->length
                            ? qcow2_snapshot_length(w->bytes + at, &error)
                            : 0;

        if (length == 0 || length > w->length - at) {
            corrupt(w, "the table of snapshots is broken");
            return;
        }
        s = qcow2_snapshot_parse(w->bytes + at);
        at += length;
        walk_l1(w, s->l1_offset, s->l1_entries);
    }
    name(w, w->h->snapshots_offset, at - w->h->snapshots_offset, "the table of snapshots");
}

/* Bitmaps */

/* The bitmaps that count, and their directory; NULL: there are none. */
static GPtrArray *parse_bitmaps(const Qcow2Header *h, const uint8_t *bytes, uint64_t length,
                                Qcow2BitmapsExtension *ext, GError **error)
{
    GBytes *data = qcow2_header_extension(h, QCOW2_EXTENSION_BITMAPS);

    if (!data || !(h->autoclear & QCOW2_AUTOCLEAR_BITMAPS) ||
        !qcow2_bitmaps_extension_parse(data, h->cluster_bits, ext, error)) {
        return NULL;
    }
    g_assert_cmpuint(ext->offset + ext->bytes, <=, length);
    return qcow2_bitmaps_parse(ext, bytes + ext->offset, h->cluster_bits, error);
}

static void walk_bitmap(Walk *w, const Qcow2Bitmap *b)
{
    int64_t entries = qcow2_bitmap_entries(b->granularity, w->layout.cluster_bits, w->h->size);

    if (entries != b->table_entries) {
        corrupt(w, "bitmap '%s' has a table of %u entries", b->name, b->table_entries);
    }
    name(w, b->table_offset, (uint64_t)b->table_entries * 8, "a table of a bitmap");
    for (uint32_t i = 0; i < b->table_entries; i++) {
        uint64_t entry = word_at(w, b->table_offset + (uint64_t)i * 8);
        uint64_t offset;

        switch (qcow2_bits_decode(entry, w->layout.cluster_bits, &offset)) {
        case QCOW2_BITS_STORED:
            name(w, offset, qcow2_cluster_size(&w->layout), "a cluster of a bitmap");
            break;
        case QCOW2_BITS_FAULTY:
            corrupt(w, "an entry of a bitmap's table is wrong");
            break;
        default:
            break;
        }
    }
}

static void walk_bitmaps(Walk *w)
{
    g_autoptr(GError) error = NULL;
    Qcow2BitmapsExtension ext;
    g_autoptr(GPtrArray) bitmaps = parse_bitmaps(w->h, w->bytes, w->length, &ext, &error);

    if (error) {
        corrupt(w, "bitmaps: %s", error->message);
    }
    for (guint i = 0; bitmaps && i < bitmaps->len; i++) {
        walk_bitmap(w, g_ptr_array_index(bitmaps, i));
    }
    if (bitmaps) {
        name(w, ext.offset, ext.bytes, "the directory of bitmaps");
    }
}

static GByteArray *read_bits(const uint8_t *bytes, const Qcow2Bitmap *b, unsigned cluster_bits)
{
    GByteArray *bits = g_byte_array_new();
    uint32_t size = 1u << cluster_bits;

    for (uint32_t i = 0; i < b->table_entries; i++) {
        uint64_t offset;
        Qcow2Bits kind =
            qcow2_bits_decode(be64_get(bytes + b->table_offset + i * 8), cluster_bits, &offset);

        g_byte_array_set_size(bits, (i + 1) * size);
        memset(bits->data + i * size, kind == QCOW2_BITS_ONES ? 0xff : 0, size);
        if (kind == QCOW2_BITS_STORED) {
            memcpy(bits->data + i * size, bytes + offset, size);
        }
    }
    return bits;
}

GByteArray *qcow2_check_bitmap(const uint8_t *bytes, uint64_t length, const char *name,
                               uint32_t *flags)
{
    g_autoptr(Qcow2Header) h = qcow2_header_parse(bytes, length, NULL);
    Qcow2BitmapsExtension ext;
    g_autoptr(GPtrArray) bitmaps = parse_bitmaps(h, bytes, length, &ext, NULL);

    for (guint i = 0; bitmaps && i < bitmaps->len; i++) {
        const Qcow2Bitmap *b = g_ptr_array_index(bitmaps, i);

        if (g_str_equal(b->name, name)) {
            *flags = b->flags;
            return read_bits(bytes, b, h->cluster_bits);
        }
    }
    return NULL;
}

/* All */

static void walk(Walk *w)
{
    uint64_t size = qcow2_cluster_size(&w->layout);
    uint64_t reftable = (uint64_t)w->h->reftable_clusters << w->layout.cluster_bits;

    name(w, 0, size, "the header");
    name(w, w->h->reftable_offset, reftable, "the refcount table");
    for (uint64_t i = 0; i < reftable; i += 8) {
        uint64_t block = word_at(w, w->h->reftable_offset + i);

        if (block) {
            name(w, block, size, "a refcount block");
        }
    }
    w->active = true;
    walk_l1(w, w->h->l1_offset, w->h->l1_entries);
    w->active = false;
    if (w->h->n_snapshots > 0) {
        walk_snapshots(w);
    }
    walk_bitmaps(w);
}

static void compare(Walk *w)
{
    for (uint64_t c = 0; c < w->clusters; c++) {
        uint64_t counted = refcount(w, c);

        if (counted < w->named[c]) {
            corrupt(w,
                    "cluster %" G_GUINT64_FORMAT
                    " is named %u times, and counted %" G_GUINT64_FORMAT,
                    c, w->named[c], counted);
        } else if (counted > w->named[c]) {
            w->check->leaks++;
        }
    }
}

void qcow2_check(const uint8_t *bytes, uint64_t length, Qcow2Check *check)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Qcow2Header) h = qcow2_header_parse(bytes, length, &error);
    Walk w = {.bytes = bytes, .length = length, .h = h, .check = check};

    *check = (Qcow2Check){.corruptions = 0};
    if (!h || !qcow2_header_check_features(h, &error) ||
        !qcow2_header_check_tables(h, length, &error)) {
        corrupt(&w, "%s", error->message);
        return;
    }
    qcow2_layout_init(&w.layout, h);
    w.clusters = (length + qcow2_cluster_size(&w.layout) - 1) >> w.layout.cluster_bits;
    w.named = g_new0(uint32_t, w.clusters);
    walk(&w);
    if (!is_dirty(&w)) {
        compare(&w);
    }
    g_free(w.named);
}

void qcow2_check_clear(Qcow2Check *check)
{
    g_clear_pointer(&check->first, g_free);
}
