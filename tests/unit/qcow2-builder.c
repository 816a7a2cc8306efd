/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/qcow2-builder.h"

#include <zlib.h>

#include "block/drivers/qcow2/bitmap.h"
#include "block/drivers/qcow2/refcount.h"
#include "tests/unit/graph-rig.h"

static uint64_t cluster_size(const Qcow2Builder *b)
{
    return qcow2_cluster_size(&b->layout);
}

static void put_header(Qcow2Builder *b, const Qcow2Header *h)
{
    g_autoptr(GByteArray) cluster = qcow2_header_serialise(h, NULL);

    g_assert_nonnull(cluster);
    memcpy(b->bytes->data, cluster->data, cluster->len);
}

Qcow2Builder *qcow2_builder_new(uint32_t version, unsigned cluster_bits, uint64_t incompatible,
                                uint64_t size)
{
    Qcow2Builder *b = g_new0(Qcow2Builder, 1);
    bool extended = incompatible & QCOW2_INCOMPATIBLE_EXTENDED_L2;
    Qcow2Header h = {
        .version = version,
        .cluster_bits = cluster_bits,
        .size = size,
        .l1_entries = qcow2_l1_entries_for(size, cluster_bits, extended),
        .reftable_offset = UINT64_C(1) << cluster_bits,
        .reftable_clusters = 1,
        .refcount_order = 4,
        .incompatible = incompatible,
        .compression = incompatible & QCOW2_INCOMPATIBLE_COMPRESSION ? QCOW2_COMPRESSION_ZSTD
                                                                     : QCOW2_COMPRESSION_ZLIB,
        .extensions = g_array_new(FALSE, FALSE, sizeof(Qcow2Extension)),
    };

    qcow2_layout_init(&b->layout, &h);
    b->bytes = g_byte_array_new();
    b->l1_entries = h.l1_entries;
    qcow2_builder_append(b, 2);
    b->l1_offset =
        qcow2_builder_append(b, (h.l1_entries * 8 + cluster_size(b) - 1) / cluster_size(b));
    h.l1_offset = b->l1_offset;
    put_header(b, &h);
    g_array_unref(h.extensions);
    return b;
}

void qcow2_builder_free(Qcow2Builder *b)
{
    g_byte_array_unref(b->bytes);
    g_free(b);
}

uint64_t qcow2_builder_append(Qcow2Builder *b, unsigned n)
{
    guint before = b->bytes->len;
    guint at = (before + cluster_size(b) - 1) & ~(cluster_size(b) - 1);

    g_byte_array_set_size(b->bytes, at + n * cluster_size(b));
    memset(b->bytes->data + before, 0, b->bytes->len - before);
    return at;
}

uint8_t *qcow2_builder_at(Qcow2Builder *b, uint64_t offset)
{
    g_assert_cmpuint(offset, <, b->bytes->len);
    return b->bytes->data + offset;
}

uint64_t qcow2_builder_l1_slot(const Qcow2Builder *b, uint64_t cluster)
{
    return b->l1_offset + (cluster >> b->layout.l2_bits) * 8;
}

uint64_t qcow2_builder_l2_slot(Qcow2Builder *b, uint64_t cluster)
{
    uint64_t slot = qcow2_builder_l1_slot(b, cluster);
    uint64_t within = cluster & ((UINT64_C(1) << b->layout.l2_bits) - 1);
    uint64_t entry = be64_get(qcow2_builder_at(b, slot));

    if (entry == 0) {
        entry = qcow2_builder_append(b, 1) | QCOW2_ENTRY_COPIED;
        be64_put(qcow2_builder_at(b, slot), entry);
    }
    return (entry & QCOW2_ENTRY_OFFSET) + within * 8 * b->layout.entry_words;
}

void qcow2_builder_map(Qcow2Builder *b, uint64_t cluster, uint64_t entry, uint64_t bitmap)
{
    uint64_t slot = qcow2_builder_l2_slot(b, cluster);

    be64_put(qcow2_builder_at(b, slot), entry);
    if (b->layout.entry_words > 1) {
        be64_put(qcow2_builder_at(b, slot + 8), bitmap);
    }
}

uint64_t qcow2_builder_data(Qcow2Builder *b, uint64_t cluster, unsigned seed)
{
    uint64_t host;

    qcow2_builder_l2_slot(b, cluster);
    host = qcow2_builder_append(b, 1);
    graph_rig_fill(qcow2_builder_at(b, host), cluster_size(b), seed);
    qcow2_builder_map(b, cluster, host | QCOW2_ENTRY_COPIED, UINT32_MAX);
    return host;
}

static size_t deflate_all(void *out, size_t out_length, const void *in, size_t in_length)
{
    z_stream z = {
        .next_in = (void *)in, .avail_in = in_length, .next_out = out, .avail_out = out_length};

    g_assert_cmpint(deflateInit2(&z, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), ==, Z_OK);
    g_assert_cmpint(deflate(&z, Z_FINISH), ==, Z_STREAM_END);
    deflateEnd(&z);
    return out_length - z.avail_out;
}

void qcow2_builder_compressed(Qcow2Builder *b, uint64_t cluster, unsigned seed,
                              Qcow2Compression type)
{
    size_t size = cluster_size(b);
    g_autofree uint8_t *plain = g_malloc(size);
    g_autofree uint8_t *packed = g_malloc(2 * size);
    unsigned offset_bits = 62 - (b->layout.cluster_bits - 8);
    uint64_t host, sectors;
    size_t n;

    g_assert_cmpint(type, ==, QCOW2_COMPRESSION_ZLIB);
    qcow2_builder_l2_slot(b, cluster);
    graph_rig_fill(plain, size, seed);
    n = deflate_all(packed, 2 * size, plain, size);
    host = b->bytes->len;
    g_byte_array_append(b->bytes, packed, n);
    sectors = (host + n - 1) / 512 - host / 512;
    qcow2_builder_map(b, cluster, QCOW2_ENTRY_COMPRESSED | sectors << offset_bits | host, 0);
}

static void set_string(Qcow2Header *h, Qcow2ExtensionType type, const char *text)
{
    qcow2_header_set_extension(h, type, text ? g_bytes_new(text, strlen(text)) : NULL);
}

void qcow2_builder_names(Qcow2Builder *b, const char *backing, const char *format,
                         const char *data_file)
{
    g_autoptr(Qcow2Header) h = qcow2_header_parse(b->bytes->data, b->bytes->len, NULL);

    g_assert_nonnull(h);
    g_free(h->backing_file);
    h->backing_file = g_strdup(backing);
    set_string(h, QCOW2_EXTENSION_BACKING_FORMAT, format);
    set_string(h, QCOW2_EXTENSION_DATA_FILE, data_file);
    put_header(b, h);
}

/* A directory entry with a table of @entries entries, all of which are @entry. */
static void append_bitmap(Qcow2Builder *b, GByteArray *directory, const char *name, uint32_t flags,
                          uint32_t entries, uint64_t entry)
{
    uint64_t table = qcow2_builder_append(b, (entries * 8 - 1) / cluster_size(b) + 1);
    uint8_t fixed[QCOW2_BITMAP_FIXED + 8] = {0};

    for (uint32_t i = 0; i < entries; i++) {
        be64_put(qcow2_builder_at(b, table + i * 8), entry);
    }
    be64_put(fixed, table);
    be32_put(fixed + 8, entries);
    be32_put(fixed + 12, flags);
    fixed[16] = 1;
    fixed[17] = 9;
    be16_put(fixed + 18, strlen(name));
    memcpy(fixed + QCOW2_BITMAP_FIXED, name, strlen(name));
    g_assert_cmpuint(strlen(name), <=, 8);
    g_byte_array_append(directory, fixed, sizeof(fixed));
}

void qcow2_builder_bitmaps(Qcow2Builder *b)
{
    g_autoptr(Qcow2Header) h = qcow2_header_parse(b->bytes->data, b->bytes->len, NULL);
    g_autoptr(GByteArray) directory = g_byte_array_new();
    uint32_t entries = qcow2_bitmap_entries(9, b->layout.cluster_bits, h->size);
    uint64_t bits = qcow2_builder_append(b, 1);
    uint64_t at, last;
    uint8_t extension[24] = {0};

    memset(qcow2_builder_at(b, bits), 0x55, cluster_size(b));
    append_bitmap(b, directory, "auto", QCOW2_BITMAP_AUTO, entries, 0);
    append_bitmap(b, directory, "kept", 0, entries, 1);
    last = be64_get(directory->data + 32) + (entries - 1) * 8;
    be64_put(qcow2_builder_at(b, last), bits);
    append_bitmap(b, directory, "lost", QCOW2_BITMAP_AUTO | QCOW2_BITMAP_IN_USE, entries, 0);
    at = qcow2_builder_append(b, (directory->len - 1) / cluster_size(b) + 1);
    memcpy(qcow2_builder_at(b, at), directory->data, directory->len);
    be32_put(extension, 3);
    be64_put(extension + 8, directory->len);
    be64_put(extension + 16, at);
    qcow2_header_set_extension(h, QCOW2_EXTENSION_BITMAPS,
                               g_bytes_new(extension, sizeof(extension)));
    h->autoclear |= QCOW2_AUTOCLEAR_BITMAPS;
    put_header(b, h);
}

void qcow2_builder_count(Qcow2Builder *b)
{
    unsigned order = be32_get(b->bytes->data + 4) >= 3 ? be32_get(b->bytes->data + 96) : 4;
    uint64_t per_block = cluster_size(b) * 8 >> order;
    uint64_t n_blocks = 1, clusters;

    qcow2_builder_append(b, 0);
    clusters = b->bytes->len / cluster_size(b);
    while (n_blocks * per_block < clusters + n_blocks) {
        n_blocks++;
    }
    g_assert_cmpuint(n_blocks, <=, cluster_size(b) / 8);
    for (uint64_t i = 0; i < n_blocks; i++) {
        uint64_t block = qcow2_builder_append(b, 1);

        be64_put(qcow2_builder_at(b, cluster_size(b) + i * 8), block);
        for (uint64_t c = i * per_block; c < (i + 1) * per_block && c < clusters + n_blocks; c++) {
            qcow2_refcount_set(qcow2_builder_at(b, block), order, c % per_block, 1);
        }
    }
}
