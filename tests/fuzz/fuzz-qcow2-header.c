/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pure part of qcow2: any bytes as the beginning of an image, as a table of clusters, as one of
 * snapshots and as a directory of bitmaps. What is accepted of the latter two comes out as the same
 * again. A header that is accepted reads back as the same after it was written; a map of a
 * table covers it without end, gap or overlap.
 */
#include <string.h>

#include "block/drivers/qcow2/bitmap.h"
#include "block/drivers/qcow2/header.h"
#include "block/drivers/qcow2/snapshot.h"
#include "block/drivers/qcow2/table.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_round_trip(const Qcow2Header *h)
{
    g_autoptr(GByteArray) once = qcow2_header_serialise(h, NULL);
    g_autoptr(GByteArray) twice = NULL;
    g_autoptr(Qcow2Header) again = NULL;
    GError *error = NULL;

    if (!once) { /* the compression type found no room */
        return;
    }
    again = qcow2_header_parse(once->data, once->len, &error);
    g_assert_no_error(error);
    twice = qcow2_header_serialise(again, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(once->data, once->len, twice->data, twice->len);
}

static void check_table(const Qcow2Header *h, const uint8_t *data, size_t size)
{
    Qcow2Layout layout;
    unsigned n;
    g_autofree uint64_t *table = NULL;
    uint64_t length, done = 0, l2;

    qcow2_layout_init(&layout, h);
    n = MIN(size / 8 / layout.entry_words, 512);
    if (n == 0) {
        return;
    }
    table = g_memdup2(data, (gsize)n * layout.entry_words * 8);
    length = n * qcow2_cluster_size(&layout);
    qcow2_l1_decode(&layout, table[0], &l2);
    while (done < length) {
        Qcow2Extent e;

        qcow2_map(&layout, table, n, length, length + done, length - done, &e);
        g_assert_cmpuint(e.bytes, >, 0);
        g_assert_cmpuint(e.bytes, <=, length - done);
        g_assert_true((e.kind == QCOW2_EXTENT_FAULTY) == (e.fault != QCOW2_FAULT_NONE));
        if (e.kind == QCOW2_EXTENT_COMPRESSED) {
            g_assert_cmpuint(e.compressed_length, >, 0);
            g_assert_cmpuint(e.compressed_length, <=, 2 * qcow2_cluster_size(&layout));
        }
        done += e.bytes;
    }
}

static void check_header(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(Qcow2Header) h = qcow2_header_parse(data, size, &error);

    g_assert_true(!h == !!error);
    if (!h) {
        g_assert_true(g_utf8_validate(error->message, -1, NULL));
        return;
    }
    if (!qcow2_header_check_features(h, &error)) {
        g_assert_true(g_utf8_validate(error->message, -1, NULL));
        return;
    }
    qcow2_header_check_tables(h, (uint64_t)size << 9, NULL);
    check_round_trip(h);
    check_table(h, data, size);
}

static void check_snapshots(const uint8_t *data, size_t size)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func((GDestroyNotify)qcow2_snapshot_free);
    g_autoptr(GByteArray) again = NULL;
    g_autofree char *id = NULL;
    size_t done = 0;

    while (size - done >= QCOW2_SNAPSHOT_FIXED) {
        size_t length = qcow2_snapshot_length(data + done, NULL);

        g_assert_cmpuint(length, <=, QCOW2_SNAPSHOT_MAX_BYTES);
        if (length == 0 || length > size - done) {
            break;
        }
        g_ptr_array_add(list, qcow2_snapshot_parse(data + done));
        done += length;
    }
    again = qcow2_snapshots_serialise(list);
    g_assert_cmpuint(again->len, ==, done);
    g_assert_cmpuint(qcow2_snapshots_bytes(list), ==, done);
    id = qcow2_snapshots_new_id(list);
    g_assert_null(qcow2_snapshots_find(list, id, NULL));
}

static void check_bitmaps(const uint8_t *data, size_t size)
{
    g_autoptr(GBytes) start = g_bytes_new(data, MIN(size, 24));
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) bitmaps = NULL;
    g_autoptr(GByteArray) again = NULL;
    Qcow2BitmapsExtension ext;
    uint64_t offset;

    qcow2_bits_decode(size, 16, &offset);
    if (!qcow2_bitmaps_extension_parse(start, 16, &ext, &error) || ext.bytes > size - 24) {
        return;
    }
    bitmaps = qcow2_bitmaps_parse(&ext, data + 24, 16, &error);
    if (!bitmaps) {
        g_assert_true(g_utf8_validate(error->message, -1, NULL));
        return;
    }
    again = qcow2_bitmaps_serialise(bitmaps);
    g_assert_cmpuint(again->len, ==, ext.bytes);
    g_assert_cmpuint(qcow2_bitmaps_flags_at(bitmaps, bitmaps->len - 1), <, ext.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree uint8_t *copy = g_memdup2(data, size); /* so that a sanitizer sees its ends */

    check_header(copy, size);
    check_snapshots(copy, size);
    check_bitmaps(copy, size);
    return 0;
}
