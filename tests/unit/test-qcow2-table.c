/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Entries of L1 and L2 tables: what they mean, and what is wrong with those that are wrong. */
#include <string.h>

#include "block/drivers/qcow2/refcount.h"
#include "block/drivers/qcow2/table.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)

static Qcow2Layout layout_for(uint32_t version, unsigned cluster_bits, uint64_t incompatible)
{
    const Qcow2Header header = {
        .version = version, .cluster_bits = cluster_bits, .incompatible = incompatible};
    Qcow2Layout layout;

    qcow2_layout_init(&layout, &header);
    return layout;
}

static void test_layout(void)
{
    Qcow2Layout l = layout_for(3, 16, 0);

    g_assert_cmpuint(l.l2_bits, ==, 13);
    g_assert_cmpuint(l.subclusters, ==, 1);
    g_assert_cmpuint(qcow2_l2_reach_bits(&l), ==, 29);
    l = layout_for(3, 16, QCOW2_INCOMPATIBLE_EXTENDED_L2);
    g_assert_cmpuint(l.l2_bits, ==, 12);
    g_assert_cmpuint(l.subclusters, ==, 32);
    g_assert_cmpuint(l.subcluster_bits, ==, 11);
    g_assert_false(l.zero_flag);
    g_assert_false(layout_for(2, 16, 0).zero_flag);
    g_assert_true(layout_for(3, 9, 0).zero_flag);
}

static void test_l1(void)
{
    const Qcow2Layout l = layout_for(3, 16, 0);
    uint64_t offset;

    g_assert_cmpint(qcow2_l1_decode(&l, 0, &offset), ==, QCOW2_FAULT_NONE);
    g_assert_cmpuint(offset, ==, 0);
    g_assert_cmpint(qcow2_l1_decode(&l, QCOW2_ENTRY_COPIED | 5 * 64 * KIB, &offset), ==,
                    QCOW2_FAULT_NONE);
    g_assert_cmpuint(offset, ==, 5 * 64 * KIB);
    g_assert_cmpint(qcow2_l1_decode(&l, 1, &offset), ==, QCOW2_FAULT_L1_RESERVED);
    g_assert_cmpint(qcow2_l1_decode(&l, UINT64_C(1) << 56, &offset), ==, QCOW2_FAULT_L1_RESERVED);
    g_assert_cmpint(qcow2_l1_decode(&l, UINT64_C(1) << 62, &offset), ==, QCOW2_FAULT_L1_RESERVED);
    g_assert_cmpint(qcow2_l1_decode(&l, 32 * KIB, &offset), ==, QCOW2_FAULT_L1_UNALIGNED);
}

typedef struct Entry {
    unsigned version, cluster_bits;
    uint64_t features;
    uint64_t entry, bitmap, guest;
    Qcow2Fault fault;
    uint64_t host;
    bool has_host;
    uint32_t data, zero;
} Entry;

#define EXTENDED QCOW2_INCOMPATIBLE_EXTENDED_L2
#define EXTERNAL QCOW2_INCOMPATIBLE_DATA_FILE
#define COPIED   QCOW2_ENTRY_COPIED
#define ALL      UINT32_MAX

static const Entry entries[] = {
    {3, 16, 0, 0, 0, 0, QCOW2_FAULT_NONE, 0, false, 0, 0},
    {3, 16, 0, COPIED | 64 * KIB, 0, 0, QCOW2_FAULT_NONE, 64 * KIB, true, 1, 0},
    {3, 16, 0, 64 * KIB, 0, 0, QCOW2_FAULT_NONE, 64 * KIB, true, 1, 0},
    {3, 16, 0, 1, 0, 0, QCOW2_FAULT_NONE, 0, false, 0, 1},
    {3, 16, 0, COPIED | 64 * KIB | 1, 0, 0, QCOW2_FAULT_NONE, 64 * KIB, true, 0, 1},
    {3, 9, 0, 0x00fffffffffffe00, 0, 0, QCOW2_FAULT_NONE, 0x00fffffffffffe00, true, 1, 0},
    {2, 16, 0, 64 * KIB, 0, 0, QCOW2_FAULT_NONE, 64 * KIB, true, 1, 0},
    {2, 16, 0, 1, 0, 0, QCOW2_FAULT_L2_ZERO_FLAG},
    {3, 16, 0, 2, 0, 0, QCOW2_FAULT_L2_RESERVED},
    {3, 16, 0, 64 * KIB | 0x100, 0, 0, QCOW2_FAULT_L2_RESERVED},
    {3, 16, 0, 64 * KIB | UINT64_C(1) << 56, 0, 0, QCOW2_FAULT_L2_RESERVED},
    {3, 16, 0, 64 * KIB | UINT64_C(1) << 61, 0, 0, QCOW2_FAULT_L2_RESERVED},
    {3, 16, 0, 32 * KIB, 0, 0, QCOW2_FAULT_L2_UNALIGNED},
    {3, 16, 0, COPIED, 0, 0, QCOW2_FAULT_L2_NOWHERE},
    {3, 16, EXTERNAL, COPIED, 0, 0, QCOW2_FAULT_NONE, 0, true, 1, 0},
    {3, 16, EXTERNAL, COPIED, 0, 64 * KIB, QCOW2_FAULT_L2_EXTERNAL},
    {3, 16, EXTERNAL, COPIED | 64 * KIB, 0, 64 * KIB, QCOW2_FAULT_NONE, 64 * KIB, true, 1, 0},
    {3, 16, EXTERNAL, COPIED | 64 * KIB, 0, 128 * KIB, QCOW2_FAULT_L2_EXTERNAL},
    {3, 16, EXTERNAL, QCOW2_ENTRY_COMPRESSED | 64 * KIB, 0, 0, QCOW2_FAULT_COMPRESSED_EXTERNAL},
    {3, 16, EXTENDED, 0, 0, 0, QCOW2_FAULT_NONE, 0, false, 0, 0},
    {3, 16, EXTENDED, 64 * KIB, 0x5, 0, QCOW2_FAULT_NONE, 64 * KIB, true, 5, 0},
    {3, 16, EXTENDED, 64 * KIB, UINT64_C(0xfffffffa00000005), 0, QCOW2_FAULT_NONE, 64 * KIB, true,
     5, 0xfffffffa},
    {3, 16, EXTENDED, 0, UINT64_C(0xffffffff00000000), 0, QCOW2_FAULT_NONE, 0, false, 0, ALL},
    {3, 16, EXTENDED, 64 * KIB, UINT64_C(0x0000000100000001), 0, QCOW2_FAULT_SUBCLUSTER_BOTH},
    {3, 16, EXTENDED, 0, 1, 0, QCOW2_FAULT_SUBCLUSTER_NOWHERE},
    {3, 16, EXTENDED, 64 * KIB | 1, 0, 0, QCOW2_FAULT_L2_ZERO_FLAG},
};

static void test_l2(gconstpointer opaque)
{
    const Entry *e = opaque;
    const Qcow2Layout l = layout_for(e->version, e->cluster_bits, e->features);
    Qcow2Cluster c;

    g_assert_cmpstr(qcow2_fault_text(qcow2_l2_decode(&l, e->entry, e->bitmap, e->guest, &c)), ==,
                    qcow2_fault_text(e->fault));
    if (e->fault) {
        return;
    }
    g_assert_false(c.compressed);
    g_assert_cmpint(c.copied, ==, !!(e->entry & COPIED));
    g_assert_cmpuint(c.has_host, ==, e->has_host);
    g_assert_cmpuint(c.host, ==, e->host);
    g_assert_cmpuint(c.data, ==, e->data);
    g_assert_cmpuint(c.zero, ==, e->zero);
}

static void check_compressed(unsigned cluster_bits, uint64_t descriptor, uint64_t host,
                             uint32_t length)
{
    const Qcow2Layout l = layout_for(3, cluster_bits, 0);
    Qcow2Cluster c;

    g_assert_cmpint(qcow2_l2_decode(&l, QCOW2_ENTRY_COMPRESSED | descriptor, 0, 0, &c), ==,
                    QCOW2_FAULT_NONE);
    g_assert_true(c.compressed);
    g_assert_cmpuint(c.host, ==, host);
    g_assert_cmpuint(c.compressed_length, ==, length);
}

static void test_compressed(void)
{
    const Qcow2Layout l = layout_for(3, 9, 0);
    Qcow2Cluster c;

    /* 64 KiB: 8 bits of sectors above 54 bits of offset. */
    check_compressed(16, 0x12345, 0x12345, 512 - 0x145);
    check_compressed(16, UINT64_C(3) << 54 | 512, 512, 2048);
    check_compressed(16, UINT64_C(255) << 54 | 1, 1, 128 * KIB - 1);
    /* 2 MiB: 13 bits above 49. */
    check_compressed(21, (UINT64_C(1) << 62) - 1, (UINT64_C(1) << 49) - 1, 4 * MIB - 511);
    /* 512 bytes: one bit above 61, of which those from 56 on must be 0. */
    check_compressed(9, UINT64_C(1) << 61 | 512, 512, 1024);
    g_assert_cmpint(qcow2_l2_decode(&l, QCOW2_ENTRY_COMPRESSED | UINT64_C(1) << 56 | 512, 0, 0, &c),
                    ==, QCOW2_FAULT_COMPRESSED_HIGH);
}

/* Mapping: a table of eight clusters of 64 KiB, those of the disk from 1 MiB on. */

#define START MIB
#define C     (64 * KIB)

static void put(uint64_t *table, unsigned i, uint64_t word)
{
    table[i] = GUINT64_TO_BE(word);
}

static Qcow2Extent map(const Qcow2Layout *l, const uint64_t *table, uint64_t offset, uint64_t bytes)
{
    Qcow2Extent e;

    qcow2_map(l, table, 8, START, START + offset, bytes, &e);
    g_assert_cmpuint(e.bytes, >, 0);
    g_assert_cmpuint(e.bytes, <=, bytes);
    return e;
}

static void expect(Qcow2Extent e, Qcow2ExtentKind kind, uint64_t bytes, uint64_t host)
{
    g_assert_cmpint(e.kind, ==, kind);
    g_assert_cmpuint(e.bytes, ==, bytes);
    if (kind == QCOW2_EXTENT_DATA || kind == QCOW2_EXTENT_COMPRESSED) {
        g_assert_cmpuint(e.host, ==, host);
    }
}

static void test_map_runs(void)
{
    const Qcow2Layout l = layout_for(3, 16, 0);
    uint64_t table[8] = {0};

    expect(map(&l, table, 0, MIB), QCOW2_EXTENT_UNALLOCATED, 8 * C, 0);
    put(table, 2, COPIED | 10 * C);
    put(table, 3, 11 * C);
    put(table, 4, 13 * C);
    put(table, 5, 14 * C | 1);
    put(table, 6, 1);
    expect(map(&l, table, 5, MIB), QCOW2_EXTENT_UNALLOCATED, 2 * C - 5, 0);
    expect(map(&l, table, 5, 7), QCOW2_EXTENT_UNALLOCATED, 7, 0);
    expect(map(&l, table, 2 * C + 100, MIB), QCOW2_EXTENT_DATA, 2 * C - 100, 10 * C + 100);
    expect(map(&l, table, 2 * C + 100, C), QCOW2_EXTENT_DATA, C, 10 * C + 100);
    expect(map(&l, table, 4 * C, MIB), QCOW2_EXTENT_DATA, C, 13 * C);
    expect(map(&l, table, 5 * C + 1, MIB), QCOW2_EXTENT_ZERO, 2 * C - 1, 0);
    expect(map(&l, table, 8 * C - 1, MIB), QCOW2_EXTENT_UNALLOCATED, 1, 0);
}

static void test_map_compressed(void)
{
    const Qcow2Layout l = layout_for(3, 16, 0);
    uint64_t table[8] = {0};
    Qcow2Extent e;

    put(table, 0, QCOW2_ENTRY_COMPRESSED | 1000);
    put(table, 1, QCOW2_ENTRY_COMPRESSED | 1000);
    e = map(&l, table, 10, MIB);
    expect(e, QCOW2_EXTENT_COMPRESSED, C - 10, 1000);
    g_assert_cmpuint(e.compressed_length, ==, 24);
}

static void test_map_faulty(void)
{
    const Qcow2Layout l = layout_for(3, 16, 0);
    uint64_t table[8] = {0};
    Qcow2Extent e;

    put(table, 0, 10 * C);
    put(table, 1, 11 * C + 512);
    put(table, 2, 12 * C + 512);
    expect(map(&l, table, 0, MIB), QCOW2_EXTENT_DATA, C, 10 * C);
    e = map(&l, table, C + 1, MIB);
    expect(e, QCOW2_EXTENT_FAULTY, C - 1, 0);
    g_assert_cmpint(e.fault, ==, QCOW2_FAULT_L2_UNALIGNED);
}

static void test_map_subclusters(void)
{
    const Qcow2Layout l = layout_for(3, 16, EXTENDED);
    uint64_t table[16] = {0};

    /* The first cluster: four of data, four zeros, the rest nowhere; the second: the reverse. */
    put(table, 0, 10 * C);
    put(table, 1, UINT64_C(0xf0) << 32 | 0x0f);
    put(table, 2, 11 * C);
    put(table, 3, UINT64_C(0xf000000) << 32 | 0xf0000000);
    put(table, 4, 12 * C);
    put(table, 5, 0xffffffff);
    put(table, 6, 13 * C);
    put(table, 7, 1);
    expect(map(&l, table, 0, MIB), QCOW2_EXTENT_DATA, 8 * KIB, 10 * C);
    expect(map(&l, table, 3 * KIB, MIB), QCOW2_EXTENT_DATA, 5 * KIB, 10 * C + 3 * KIB);
    expect(map(&l, table, 8 * KIB, MIB), QCOW2_EXTENT_ZERO, 8 * KIB, 0);
    expect(map(&l, table, 16 * KIB, MIB), QCOW2_EXTENT_UNALLOCATED, 48 * KIB + 48 * KIB, 0);
    expect(map(&l, table, C + 48 * KIB, MIB), QCOW2_EXTENT_ZERO, 8 * KIB, 0);
    expect(map(&l, table, C + 57 * KIB, MIB), QCOW2_EXTENT_DATA, 7 * KIB + C + 2 * KIB,
           11 * C + 57 * KIB);
    expect(map(&l, table, 3 * C + 2 * KIB, MIB), QCOW2_EXTENT_UNALLOCATED, 62 * KIB + 4 * C, 0);
}

/* What is encoded is decoded as the same. */
static void test_encode(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(entries); i++) {
        const Entry *e = &entries[i];
        const Qcow2Layout l = layout_for(e->version, e->cluster_bits, e->features);
        uint64_t bitmap;
        Qcow2Cluster c;

        if (qcow2_l2_decode(&l, e->entry, e->bitmap, e->guest, &c) || (c.compressed && e->bitmap)) {
            continue;
        }
        g_assert_cmphex(qcow2_l2_encode(&l, &c, &bitmap), ==,
                        c.compressed ? e->entry & ~COPIED : e->entry);
        g_assert_cmphex(bitmap, ==, e->bitmap);
    }
}

/* Each place that an entry can name comes out as it went in. */
static void test_encode_compressed(void)
{
    for (unsigned bits = 9; bits <= 21; bits++) {
        const Qcow2Layout l = layout_for(3, bits, 0);
        const uint64_t most = (UINT64_C(1) << bits) - 1;
        const uint64_t limit = UINT64_C(1) << MIN(62 - (bits - 8), 56);
        const uint64_t hosts[] = {0x200000, 0x2001ff, 0x2ffe01, limit - 4 * MIB + 77};
        const uint64_t lengths[] = {1, 100, 512 % most, most};
        Qcow2Cluster c, again;
        uint64_t bitmap;

        for (unsigned i = 0; i < 16; i++) {
            uint64_t host = hosts[i / 4], length = lengths[i % 4];

            g_assert_true(qcow2_compressed_init(&l, host, length, &c));
            g_assert_cmpint(qcow2_l2_decode(&l, qcow2_l2_encode(&l, &c, &bitmap), 0, 0, &again), ==,
                            QCOW2_FAULT_NONE);
            g_assert_true(again.compressed);
            g_assert_cmphex(again.host, ==, host);
            g_assert_cmpuint(again.compressed_length, >=, length);
            g_assert_cmpuint(again.compressed_length, <, length + 512);
            g_assert_cmpuint((host + again.compressed_length) % 512, ==, 0);
            g_assert_cmphex(bitmap, ==, 0);
        }
        g_assert_false(qcow2_compressed_init(&l, limit - 100, 101, &c));
    }
}

static void test_in_place(void)
{
    const Qcow2Layout l = layout_for(3, 16, 0);
    uint64_t table[8] = {0}, host = 0;

    put(table, 1, COPIED | 10 * C);
    put(table, 2, COPIED | 11 * C);
    put(table, 3, 12 * C);
    put(table, 4, COPIED | 20 * C | 1);
    g_assert_cmpuint(qcow2_map_in_place(&l, table, 8, START, START, C, &host), ==, 0);
    g_assert_cmpuint(qcow2_map_in_place(&l, table, 8, START, START + C + 5, MIB, &host), ==,
                     2 * C - 5);
    g_assert_cmpuint(host, ==, 10 * C + 5);
    g_assert_cmpuint(qcow2_map_in_place(&l, table, 8, START, START + C + 5, 9, &host), ==, 9);
    g_assert_cmpuint(qcow2_map_in_place(&l, table, 8, START, START + 3 * C, C, &host), ==, 0);
    g_assert_cmpuint(qcow2_map_in_place(&l, table, 8, START, START + 4 * C, C, &host), ==, 0);
}

/* Refcounts of every width, each in between others that stay as they are. */
static void test_refcounts(void)
{
    for (unsigned order = 0; order <= 6; order++) {
        uint64_t most = order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << order)) - 1;
        uint8_t block[512] = {0};

        for (unsigned i = 0; i < 64; i++) {
            qcow2_refcount_set(block, order, i, most - (i * 7 & most));
        }
        for (unsigned i = 0; i < 64; i++) {
            g_assert_cmphex(qcow2_refcount_get(block, order, i), ==, most - (i * 7 & most));
        }
    }
    {
        const uint8_t bits[] = {0x02, 0x80}, wide[] = {0, 1, 2, 3};

        g_assert_cmpuint(qcow2_refcount_get(bits, 0, 1), ==, 1);
        g_assert_cmpuint(qcow2_refcount_get(bits, 0, 0), ==, 0);
        g_assert_cmpuint(qcow2_refcount_get(bits, 2, 3), ==, 8);
        g_assert_cmpuint(qcow2_refcount_get(wide, 4, 1), ==, 0x0203);
    }
}

static void test_texts(void)
{
    for (unsigned i = 0; i < QCOW2_FAULT__MAX; i++) {
        g_assert_nonnull(qcow2_fault_text(i));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qcow2/table/layout", test_layout);
    g_test_add_func("/qcow2/table/l1", test_l1);
    for (unsigned i = 0; i < G_N_ELEMENTS(entries); i++) {
        g_autofree char *name = g_strdup_printf("/qcow2/table/l2/%u", i);

        g_test_add_data_func(name, &entries[i], test_l2);
    }
    g_test_add_func("/qcow2/table/compressed", test_compressed);
    g_test_add_func("/qcow2/table/map/runs", test_map_runs);
    g_test_add_func("/qcow2/table/map/compressed", test_map_compressed);
    g_test_add_func("/qcow2/table/map/faulty", test_map_faulty);
    g_test_add_func("/qcow2/table/map/subclusters", test_map_subclusters);
    g_test_add_func("/qcow2/table/encode", test_encode);
    g_test_add_func("/qcow2/table/encode-compressed", test_encode_compressed);
    g_test_add_func("/qcow2/table/in-place", test_in_place);
    g_test_add_func("/qcow2/table/refcounts", test_refcounts);
    g_test_add_func("/qcow2/table/texts", test_texts);
    return g_test_run();
}
