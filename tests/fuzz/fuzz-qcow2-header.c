/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pure part of qcow2: any bytes as the beginning of an image, as a table of clusters and as one
 * of snapshots. A header that is accepted reads back as the same after it was written; a map of a
 * table covers it without end, gap or overlap.
 */
#include <string.h>

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
    while (size >= QCOW2_SNAPSHOT_FIXED) {
        size_t length = qcow2_snapshot_length(data, NULL);

        g_assert_cmpuint(length, <=, QCOW2_SNAPSHOT_MAX_BYTES);
        if (length == 0 || length > size) {
            return;
        }
        qcow2_snapshot_free(qcow2_snapshot_parse(data));
        data += length;
        size -= length;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree uint8_t *copy = g_memdup2(data, size); /* so that a sanitizer sees its ends */

    check_header(copy, size);
    check_snapshots(copy, size);
    return 0;
}
