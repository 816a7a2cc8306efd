/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/bitmap.h"

#include <string.h>

#include "block/drivers/qcow2/be.h"
#include "util/error.h"

/* Where the fields of an entry stand. */
enum {
    AT_TABLE_OFFSET = 0,
    AT_TABLE_ENTRIES = 8,
    AT_FLAGS = 12,
    AT_TYPE = 16,
    AT_GRANULARITY = 17,
    AT_NAME_LENGTH = 18,
    AT_EXTRA_LENGTH = 20,
};

/* And those of the header extension. */
enum {
    AT_N = 0,
    AT_DIRECTORY_BYTES = 8,
    AT_DIRECTORY_OFFSET = 16,
    EXTENSION_LENGTH = 24,
};

#define TYPE_DIRTY 1

#define KNOWN_FLAGS (QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO | QCOW2_BITMAP_COMPATIBLE)

#define ENTRY_ONES     UINT64_C(1)
#define ENTRY_OFFSET   UINT64_C(0x00fffffffffffe00)
#define ENTRY_RESERVED (~(ENTRY_ONES | ENTRY_OFFSET))

#define BAD(...) (g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC, __VA_ARGS__), false)

static size_t round_up8(size_t n)
{
    return (n + 7) & ~(size_t)7;
}

static bool is_aligned(uint64_t offset, unsigned cluster_bits)
{
    return (offset & ((UINT64_C(1) << cluster_bits) - 1)) == 0;
}

/* The extension */

bool qcow2_bitmaps_extension_parse(GBytes *data, unsigned cluster_bits, Qcow2BitmapsExtension *ext,
                                   GError **error)
{
    gsize length;
    const uint8_t *p = g_bytes_get_data(data, &length);

    if (length != EXTENSION_LENGTH) {
        return BAD("the header extension about them has %" G_GSIZE_FORMAT " bytes instead of %d",
                   length, EXTENSION_LENGTH);
    }
    *ext = (Qcow2BitmapsExtension){.n = be32_get(p + AT_N),
                                   .bytes = be64_get(p + AT_DIRECTORY_BYTES),
                                   .offset = be64_get(p + AT_DIRECTORY_OFFSET)};
    if (ext->n == 0 || ext->n > QCOW2_MAX_BITMAPS) {
        return BAD("%u of them are not possible; 1 to %d are", ext->n, QCOW2_MAX_BITMAPS);
    }
    if (ext->bytes > QCOW2_BITMAPS_MAX_BYTES ||
        ext->bytes < (uint64_t)ext->n * QCOW2_BITMAP_FIXED) {
        return BAD("a directory of %" G_GUINT64_FORMAT " bytes is not possible for %u of them",
                   ext->bytes, ext->n);
    }
    if (ext->offset == 0 || !is_aligned(ext->offset, cluster_bits)) {
        return BAD("their directory at %" G_GUINT64_FORMAT " does not begin at a cluster",
                   ext->offset);
    }
    return true;
}

/* The directory */

void qcow2_bitmap_free(Qcow2Bitmap *bitmap)
{
    if (!bitmap) {
        return;
    }
    g_free(bitmap->name);
    g_byte_array_unref(bitmap->raw);
    g_free(bitmap);
}

/* The length of the entry at @p, up to the next one; 0 and @error: it is none. */
static size_t entry_length(const uint8_t *p, size_t left, GError **error)
{
    uint16_t name = left >= QCOW2_BITMAP_FIXED ? be16_get(p + AT_NAME_LENGTH) : 0;
    uint32_t extra = left >= QCOW2_BITMAP_FIXED ? be32_get(p + AT_EXTRA_LENGTH) : 0;

    if (left < QCOW2_BITMAP_FIXED ||
        round_up8((uint64_t)QCOW2_BITMAP_FIXED + extra + name) > left) {
        return BAD("their directory ends within an entry");
    }
    if (name == 0 || name > QCOW2_BITMAP_MAX_NAME) {
        return BAD("one has a name of %u bytes; 1 to %d are possible", name, QCOW2_BITMAP_MAX_NAME);
    }
    return round_up8((uint64_t)QCOW2_BITMAP_FIXED + extra + name);
}

static bool check_bitmap(const Qcow2Bitmap *b, const uint8_t *p, unsigned cluster_bits,
                         GError **error)
{
    g_autofree char *shown = g_utf8_make_valid(b->name, -1);

    if (p[AT_TYPE] != TYPE_DIRTY || (b->flags & ~KNOWN_FLAGS) ||
        (be32_get(p + AT_EXTRA_LENGTH) > 0 && !(b->flags & QCOW2_BITMAP_COMPATIBLE))) {
        return BAD("'%s' is of a kind that is not known here", shown);
    }
    if (b->granularity < QCOW2_BITMAP_MIN_GRANULARITY ||
        b->granularity > QCOW2_BITMAP_MAX_GRANULARITY) {
        return BAD("'%s' has a granularity of 2^%u bytes; 2^%d to 2^%d are possible", shown,
                   b->granularity, QCOW2_BITMAP_MIN_GRANULARITY, QCOW2_BITMAP_MAX_GRANULARITY);
    }
    if (b->table_entries > QCOW2_BITMAP_MAX_TABLE ||
        (uint64_t)b->table_entries << cluster_bits > QCOW2_BITMAP_MAX_BYTES) {
        return BAD("'%s' has a table of %u entries, which is too large", shown, b->table_entries);
    }
    if (!is_aligned(b->table_offset, cluster_bits) || (b->table_entries > 0 && !b->table_offset)) {
        return BAD("the table of '%s' at %" G_GUINT64_FORMAT " does not begin at a cluster", shown,
                   b->table_offset);
    }
    return true;
}

static Qcow2Bitmap *parse_entry(const uint8_t *p, unsigned cluster_bits, GError **error)
{
    g_autoptr(Qcow2Bitmap) b = g_new0(Qcow2Bitmap, 1);
    uint32_t head = QCOW2_BITMAP_FIXED + be32_get(p + AT_EXTRA_LENGTH);
    uint16_t name = be16_get(p + AT_NAME_LENGTH);

    b->table_offset = be64_get(p + AT_TABLE_OFFSET);
    b->table_entries = be32_get(p + AT_TABLE_ENTRIES);
    b->flags = be32_get(p + AT_FLAGS);
    b->granularity = p[AT_GRANULARITY];
    b->name = g_strndup((const char *)p + head, name);
    b->raw = g_byte_array_append(g_byte_array_new(), p, head + name);
    return check_bitmap(b, p, cluster_bits, error) ? g_steal_pointer(&b) : NULL;
}

GPtrArray *qcow2_bitmaps_parse(const Qcow2BitmapsExtension *ext, const void *directory,
                               unsigned cluster_bits, GError **error)
{
    g_autoptr(GPtrArray) bitmaps =
        g_ptr_array_new_with_free_func((GDestroyNotify)qcow2_bitmap_free);
    const uint8_t *p = directory;
    size_t left = ext->bytes;

    for (uint32_t i = 0; i < ext->n; i++) {
        size_t length = entry_length(p, left, error);
        Qcow2Bitmap *b = length ? parse_entry(p, cluster_bits, error) : NULL;

        if (!b) {
            return NULL;
        }
        g_ptr_array_add(bitmaps, b);
        p += length;
        left -= length;
    }
    if (left > 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "their directory has more than their entries");
        return NULL;
    }
    return g_steal_pointer(&bitmaps);
}

GByteArray *qcow2_bitmaps_serialise(const GPtrArray *bitmaps)
{
    static const uint8_t padding[8];
    GByteArray *out = g_byte_array_new();

    for (guint i = 0; i < bitmaps->len; i++) {
        const Qcow2Bitmap *b = g_ptr_array_index(bitmaps, i);
        guint at = out->len;

        g_byte_array_append(out, b->raw->data, b->raw->len);
        g_byte_array_append(out, padding, round_up8(b->raw->len) - b->raw->len);
        be64_put(out->data + at + AT_TABLE_OFFSET, b->table_offset);
        be32_put(out->data + at + AT_TABLE_ENTRIES, b->table_entries);
        be32_put(out->data + at + AT_FLAGS, b->flags);
    }
    return out;
}

uint64_t qcow2_bitmaps_flags_at(const GPtrArray *bitmaps, guint i)
{
    uint64_t at = AT_FLAGS;

    for (guint j = 0; j < i; j++) {
        at += round_up8(((const Qcow2Bitmap *)g_ptr_array_index(bitmaps, j))->raw->len);
    }
    return at;
}

/* Tables */

uint64_t qcow2_bitmap_bits(unsigned granularity, uint64_t size)
{
    return (size >> granularity) + ((size & ((UINT64_C(1) << granularity) - 1)) != 0);
}

int64_t qcow2_bitmap_entries(unsigned granularity, unsigned cluster_bits, uint64_t size)
{
    uint64_t bytes = (qcow2_bitmap_bits(granularity, size) + 63) / 64 * 8;

    return bytes <= QCOW2_BITMAP_MAX_BYTES
               ? (int64_t)((bytes + (UINT64_C(1) << cluster_bits) - 1) >> cluster_bits)
               : -1;
}

Qcow2Bits qcow2_bits_decode(uint64_t entry, unsigned cluster_bits, uint64_t *offset)
{
    *offset = entry & ENTRY_OFFSET;
    if ((entry & ENTRY_RESERVED) || !is_aligned(*offset, cluster_bits) ||
        (*offset && (entry & ENTRY_ONES))) {
        return QCOW2_BITS_FAULTY;
    }
    if (*offset) {
        return QCOW2_BITS_STORED;
    }
    return entry & ENTRY_ONES ? QCOW2_BITS_ONES : QCOW2_BITS_ZEROS;
}
