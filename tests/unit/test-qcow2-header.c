/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Headers of qcow2 images: what is read, what is refused and by which words, what is written. */
#include <string.h>

#include "block/drivers/qcow2/be.h"
#include "block/drivers/qcow2/header.h"
#include "block/drivers/qcow2/snapshot.h"
#include "util/error.h"

#define CLUSTER_BITS 16
#define CLUSTER      (1 << CLUSTER_BITS)
#define FILE_LENGTH  (10 * CLUSTER)

/* A good header of version 3 in a cluster of 64 KiB, for a disk of 1 GiB, at @p. */
static void make(uint8_t *p)
{
    memset(p, 0, CLUSTER);
    memcpy(p, "QFI\xfb", 4);
    be32_put(p + 4, 3);
    be32_put(p + 20, CLUSTER_BITS);
    be64_put(p + 24, 1 << 30);
    be32_put(p + 36, 2);           /* L1 entries */
    be64_put(p + 40, 3 * CLUSTER); /* L1 table */
    be64_put(p + 48, CLUSTER);     /* refcount table */
    be32_put(p + 56, 1);
    be32_put(p + 96, 4); /* refcount order */
    be32_put(p + 100, 104);
}

static uint8_t *image(void)
{
    uint8_t *p = g_malloc(CLUSTER);

    make(p);
    return p;
}

/* Append an extension at @at; returns where the next one goes. */
static size_t put_extension(uint8_t *p, size_t at, uint32_t type, const void *data, uint32_t size)
{
    be32_put(p + at, type);
    be32_put(p + at + 4, size);
    memcpy(p + at + 8, data, size);
    return at + 8 + ((size + 7) & ~7u);
}

static void put_backing(uint8_t *p, size_t at, const char *name)
{
    be64_put(p + 8, at);
    be32_put(p + 16, strlen(name));
    memcpy(p + at, name, strlen(name));
}

/* All three steps. */
static Qcow2Header *read_all(const uint8_t *p, size_t length, GError **error)
{
    g_autoptr(Qcow2Header) h = qcow2_header_parse(p, length, error);

    if (!h || !qcow2_header_check_features(h, error) ||
        !qcow2_header_check_tables(h, FILE_LENGTH, error)) {
        return NULL;
    }
    return g_steal_pointer(&h);
}

static Qcow2Header *read_good(const uint8_t *p)
{
    GError *error = NULL;
    Qcow2Header *h = read_all(p, CLUSTER, &error);

    g_assert_no_error(error);
    g_assert_nonnull(h);
    return h;
}

static void expect_error(GError *error, const char *words)
{
    g_assert_nonnull(error);
    g_assert_true(error->domain == WHARF_ERROR);
    if (!strstr(error->message, words)) {
        g_error("'%s' is not in '%s'", words, error->message);
    }
    g_error_free(error);
}

static void expect_refused(const uint8_t *p, const char *words)
{
    GError *error = NULL;

    g_assert_null(read_all(p, CLUSTER, &error));
    expect_error(error, words);
}

static void test_fields(void)
{
    g_autofree uint8_t *p = image();
    g_autoptr(Qcow2Header) h = NULL;

    be64_put(p + 72, QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT);
    be64_put(p + 80, QCOW2_COMPATIBLE_LAZY | UINT64_C(1) << 63);
    be64_put(p + 88, QCOW2_AUTOCLEAR_BITMAPS | UINT64_C(1) << 40);
    be32_put(p + 60, 3);
    be64_put(p + 64, 5 * CLUSTER);
    h = read_good(p);
    g_assert_cmpuint(qcow2_header_extent(p, QCOW2_HEADER_MIN, NULL), ==, CLUSTER);
    g_assert_cmpuint(h->version, ==, 3);
    g_assert_cmpuint(h->cluster_bits, ==, CLUSTER_BITS);
    g_assert_cmpuint(h->size, ==, 1 << 30);
    g_assert_cmpuint(h->crypt, ==, QCOW2_CRYPT_NONE);
    g_assert_cmpuint(h->l1_entries, ==, 2);
    g_assert_cmpuint(h->l1_offset, ==, 3 * CLUSTER);
    g_assert_cmpuint(h->reftable_offset, ==, CLUSTER);
    g_assert_cmpuint(h->reftable_clusters, ==, 1);
    g_assert_cmpuint(h->n_snapshots, ==, 3);
    g_assert_cmpuint(h->snapshots_offset, ==, 5 * CLUSTER);
    g_assert_cmpuint(h->incompatible, ==, 3);
    g_assert_cmpuint(h->compatible, ==, UINT64_C(1) << 63 | 1);
    g_assert_cmpuint(h->autoclear, ==, UINT64_C(1) << 40 | 1);
    g_assert_cmpuint(h->refcount_order, ==, 4);
    g_assert_cmpuint(h->compression, ==, QCOW2_COMPRESSION_ZLIB);
    g_assert_null(h->backing_file);
    g_assert_null(h->more_fields);
    g_assert_cmpuint(h->extensions->len, ==, 0);
}

static void test_version_2(void)
{
    g_autofree uint8_t *p = image();
    g_autoptr(Qcow2Header) h = NULL;
    g_autofree char *format = NULL;
    size_t at;

    be32_put(p + 4, 2);
    memset(p + 72, 0, 40);
    at = put_extension(p, 72, QCOW2_EXTENSION_BACKING_FORMAT, "raw", 3);
    put_backing(p, at + 8, "base.img");
    h = read_good(p);
    g_assert_cmpuint(h->version, ==, 2);
    g_assert_cmpuint(h->refcount_order, ==, 4);
    g_assert_cmpuint(h->incompatible | h->compatible | h->autoclear, ==, 0);
    g_assert_cmpstr(h->backing_file, ==, "base.img");
    format = qcow2_header_extension_string(h, QCOW2_EXTENSION_BACKING_FORMAT);
    g_assert_cmpstr(format, ==, "raw");
}

/* Old images have the name right behind the header, without an end of the extensions. */
static void test_backing_without_extensions(void)
{
    g_autofree uint8_t *p = image();
    g_autoptr(Qcow2Header) h = NULL;

    be32_put(p + 4, 2);
    memset(p + 72, 0xff, 40);
    put_backing(p, 72, "base.img");
    h = read_good(p);
    g_assert_cmpstr(h->backing_file, ==, "base.img");
    g_assert_cmpuint(h->extensions->len, ==, 0);
}

static void test_small_file(void)
{
    g_autofree uint8_t *p = image();
    g_autofree uint8_t *exact = g_memdup2(p, 104);
    g_autoptr(Qcow2Header) h = qcow2_header_parse(exact, 104, NULL);
    GError *error = NULL;

    g_assert_nonnull(h);
    g_assert_null(qcow2_header_parse(p, 103, &error));
    expect_error(error, "ends within the header");
    for (size_t n = 0; n < QCOW2_HEADER_MIN; n++) {
        error = NULL;
        g_assert_null(qcow2_header_parse(p, n, &error));
        expect_error(error, "no qcow2 image");
    }
}

static void test_feature_names(void)
{
    g_autofree uint8_t *p = image();
    g_autoptr(Qcow2Header) h = NULL;
    char table[3 * 48 + 5] = {0};
    g_autofree char *a = NULL, *b = NULL, *c = NULL;

    table[1] = 7;
    strcpy(table + 2, "time travel");
    table[48] = 1;
    table[49] = 7;
    memset(table + 50, 'x', 46);
    table[97] = 8;
    strcpy(table + 98, "caf\xe9");
    put_extension(p, 104, QCOW2_EXTENSION_FEATURE_NAMES, table, sizeof(table));
    h = read_good(p);
    a = qcow2_header_feature_name(h, 0, 7);
    b = qcow2_header_feature_name(h, 1, 7);
    c = qcow2_header_feature_name(h, 0, 8);
    g_assert_cmpstr(a, ==, "time travel");
    g_assert_cmpuint(strlen(b), ==, 46);
    g_assert_true(g_utf8_validate(c, -1, NULL));

    be64_put(p + 72, UINT64_C(1) << 7 | UINT64_C(1) << 60);
    expect_refused(p, "'time travel', 'bit 60'");
}

/* What is unknown stays as it is when the header is written again. */
static void test_round_trip(void)
{
    g_autofree uint8_t *p = image();
    g_autoptr(Qcow2Header) h = NULL;
    g_autoptr(Qcow2Header) again = NULL;
    g_autoptr(GByteArray) out = NULL;
    g_autoptr(GByteArray) twice = NULL;
    GError *error = NULL;
    size_t at;

    be32_put(p + 100, 128);
    memcpy(p + 112, "fields of a later age", 16);
    at = put_extension(p, 128, 0x12345678, "odd", 3);
    at = put_extension(p, at, QCOW2_EXTENSION_BACKING_FORMAT, "qcow2", 5);
    at = put_extension(p, at, 0x12345678, "", 0);
    put_backing(p, at + 8, "base.qcow2");
    h = read_good(p);
    out = qcow2_header_serialise(h, &error);
    g_assert_no_error(error);
    g_assert_cmpmem(out->data, out->len, p, CLUSTER);

    qcow2_header_set_extension(h, QCOW2_EXTENSION_BACKING_FORMAT, g_bytes_new_static("raw", 3));
    qcow2_header_set_extension(h, QCOW2_EXTENSION_DATA_FILE, g_bytes_new_static("data", 4));
    qcow2_header_set_extension(h, 0x12345678, NULL);
    qcow2_header_set_extension(h, 0xdead, NULL);
    twice = qcow2_header_serialise(h, &error);
    g_assert_no_error(error);
    again = qcow2_header_parse(twice->data, twice->len, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(again->extensions->len, ==, 3);
    g_assert_cmpmem(g_bytes_get_data(qcow2_header_extension(again, 0x12345678), NULL), 0, "", 0);
    g_assert_cmpstr(again->backing_file, ==, "base.qcow2");
}

/* A header that was too short for the compression type gets room for it. */
static void test_serialise_grows(void)
{
    g_autofree uint8_t *p = image();
    g_autoptr(Qcow2Header) h = read_good(p);
    g_autoptr(GByteArray) out = qcow2_header_serialise(h, NULL);
    g_autoptr(Qcow2Header) again = qcow2_header_parse(out->data, out->len, NULL);

    g_assert_nonnull(again);
    g_assert_cmpuint(be32_get(out->data + 100), ==, 112);
}

static void test_serialise_too_much(void)
{
    g_autofree uint8_t *p = image();
    g_autoptr(Qcow2Header) h = NULL;
    g_autoptr(GByteArray) out = NULL;
    GError *error = NULL;

    h = read_good(p);
    qcow2_header_set_extension(h, 1, g_bytes_new_take(g_malloc0(CLUSTER), CLUSTER));
    out = qcow2_header_serialise(h, &error);
    g_assert_null(out);
    expect_error(error, "more than a cluster has");
}

/* One number in the header that is wrong: at @at, @width bytes, becomes @value. */
typedef struct Wrong {
    size_t at;
    unsigned width;
    uint64_t value;
    const char *words;
} Wrong;

static const Wrong wrongs[] = {
    {0, 4, 0x514649fa, "no qcow2 image"},
    {4, 4, 1, "version 1"},
    {4, 4, 4, "version 4"},
    {20, 4, 8, "2^8"},
    {20, 4, 22, "2^22"},
    {20, 4, 0xffffffff, "2^4294967295"},
    {24, 8, UINT64_C(1) << 63, "too large"},
    {24, 8, UINT64_C(1) << 62, "needs"},
    {24, 8, (1 << 30) + 1, "needs 3"},
    {32, 4, 1, "AES"},
    {32, 4, 2, "LUKS"},
    {32, 4, 3, "method 3"},
    {36, 4, 1, "needs 2"},
    {36, 4, 0, "needs 2"},
    {36, 4, 4 * 1024 * 1024 + 1, "too large"},
    {36, 4, 0xffffffff, "too large"},
    {36, 4, CLUSTER, "L1 table (524288 bytes at 196608) reaches past the end"},
    {40, 8, 3 * CLUSTER + 512, "L1 table at 197120 is not aligned"},
    {40, 8, 0, "L1 table at 0 overlaps the header"},
    {40, 8, CLUSTER, "L1 table and the refcount table overlap"},
    {40, 8, FILE_LENGTH, "past the end"},
    {40, 8, UINT64_MAX - CLUSTER + 1, "past the end"},
    {48, 8, 0, "refcount table at 0 overlaps the header"},
    {48, 8, 1, "refcount table at 1 is not aligned"},
    {48, 8, 3 * CLUSTER, "L1 table and the refcount table overlap"},
    {48, 8, UINT64_C(1) << 63, "past the end"},
    {56, 4, 0, "no refcount table"},
    {56, 4, 3, "L1 table and the refcount table overlap"},
    {56, 4, 129, "too large"},
    {56, 4, 0xffffffff, "too large"},
    {60, 4, 65537, "65537 snapshots"},
    {60, 4, 0xffffffff, "4294967295 snapshots"},
    {60, 4, 1, "snapshot table at 0 overlaps the header"},
    {72, 8, UINT64_C(1) << 5, "'bit 5'"},
    {72, 8, UINT64_C(1) << 63, "'bit 63'"},
    {72, 8, QCOW2_INCOMPATIBLE_COMPRESSION, "contradict"},
    {88, 8, QCOW2_AUTOCLEAR_DATA_FILE_RAW, "no data file"},
    {96, 4, 7, "2^7"},
    {96, 4, 0xffffffff, "2^4294967295"},
    {100, 4, 0, "0 bytes"},
    {100, 4, 103, "103 bytes"},
    {100, 4, 108, "108 bytes"},
    {100, 4, CLUSTER + 8, "65544 bytes"},
    {100, 4, 0xfffffff8, "4294967288 bytes"},
    {8, 8, 8, "does not lie in the first cluster"},
    {8, 8, CLUSTER + 1, "does not lie in the first cluster"},
    {8, 8, UINT64_MAX, "does not lie in the first cluster"},
    {8, 8, 200, "empty"},
};

static void test_wrong(gconstpointer opaque)
{
    const Wrong *w = opaque;
    g_autofree uint8_t *p = image();

    if (w->width == 8) {
        be64_put(p + w->at, w->value);
    } else {
        be32_put(p + w->at, w->value);
    }
    expect_refused(p, w->words);
}

static void test_wrong_backing(void)
{
    g_autofree uint8_t *p = image();

    put_backing(p, 1000, "ab");
    p[1001] = '\0';
    expect_refused(p, "zero byte");
    be32_put(p + 16, 1024);
    expect_refused(p, "1024 bytes");
    be32_put(p + 16, 0xffffffff);
    expect_refused(p, "4294967295 bytes");
    put_backing(p, CLUSTER - 1, "a");
    be32_put(p + 16, 2);
    expect_refused(p, "does not lie in the first cluster");
}

static void test_wrong_extensions(void)
{
    g_autofree uint8_t *p = image();
    size_t at;

    put_extension(p, 104, 1, "", 0);
    be32_put(p + 108, CLUSTER);
    expect_refused(p, "header extension 0x00000001 of 65536 bytes");
    be32_put(p + 108, 0xffffffff);
    expect_refused(p, "4294967295 bytes");
    at = put_extension(p, 104, QCOW2_EXTENSION_DATA_FILE, "a", 1);
    put_extension(p, at, QCOW2_EXTENSION_DATA_FILE, "b", 1);
    expect_refused(p, "0x44415441 is there twice");
    /* One that reaches into the backing file's name. */
    make(p);
    put_backing(p, 112, "name");
    put_extension(p, 104, 1, "", 0);
    be32_put(p + 108, 1);
    expect_refused(p, "reaches past the end");
}

static void test_wrong_features(void)
{
    g_autofree uint8_t *p = image();

    be32_put(p + 100, 112);
    p[104] = 1;
    expect_refused(p, "contradict");
    be64_put(p + 72, QCOW2_INCOMPATIBLE_COMPRESSION);
    p[104] = 2;
    expect_refused(p, "compression type 2");
    make(p);
    be64_put(p + 72, QCOW2_INCOMPATIBLE_EXTENDED_L2);
    be32_put(p + 20, 13);
    expect_refused(p, "at least 16384 bytes");
    make(p);
    be64_put(p + 72, QCOW2_INCOMPATIBLE_DATA_FILE);
    be64_put(p + 88, QCOW2_AUTOCLEAR_DATA_FILE_RAW);
    put_backing(p, 200, "base");
    expect_refused(p, "exclude each other");
}

static void test_l1_entries(void)
{
    g_assert_cmpuint(qcow2_l1_entries_for(0, 16, false), ==, 0);
    g_assert_cmpuint(qcow2_l1_entries_for(1, 16, false), ==, 1);
    g_assert_cmpuint(qcow2_l1_entries_for(UINT64_C(1) << 29, 16, false), ==, 1);
    g_assert_cmpuint(qcow2_l1_entries_for((UINT64_C(1) << 29) + 1, 16, false), ==, 2);
    g_assert_cmpuint(qcow2_l1_entries_for(UINT64_C(1) << 29, 16, true), ==, 2);
    g_assert_cmpuint(qcow2_l1_entries_for(INT64_MAX, 9, false), ==, UINT64_C(1) << 48);
    g_assert_cmpuint(qcow2_l1_entries_for(INT64_MAX, 21, false), ==, UINT64_C(1) << 24);
}

static void test_snapshot(void)
{
    uint8_t entry[88] = {0};
    g_autoptr(Qcow2Snapshot) s = NULL;
    GError *error = NULL;

    be64_put(entry, 7 * CLUSTER);
    be32_put(entry + 8, 2);
    entry[13] = 1;
    entry[15] = 5;
    be32_put(entry + 16, 1700000000);
    be32_put(entry + 20, 5);
    be64_put(entry + 24, 77);
    be32_put(entry + 32, 99);
    be32_put(entry + 36, 24);
    be64_put(entry + 40, UINT64_C(1) << 33);
    be64_put(entry + 48, 1 << 30);
    be64_put(entry + 56, 12);
    memcpy(entry + 64, "1first", 6);
    g_assert_cmpuint(qcow2_snapshot_length(entry, &error), ==, 72);
    g_assert_no_error(error);
    s = qcow2_snapshot_parse(entry);
    g_assert_cmpstr(s->id, ==, "1");
    g_assert_cmpstr(s->name, ==, "first");
    g_assert_cmpuint(s->l1_offset, ==, 7 * CLUSTER);
    g_assert_cmpuint(s->l1_entries, ==, 2);
    g_assert_cmpuint(s->seconds, ==, 1700000000);
    g_assert_cmpuint(s->nanoseconds, ==, 5);
    g_assert_cmpuint(s->clock_nanoseconds, ==, 77);
    g_assert_cmpuint(s->state_bytes, ==, UINT64_C(1) << 33);
    g_assert_cmpuint(s->disk_bytes, ==, 1 << 30);
    g_assert_cmpuint(s->icount, ==, 12);
}

/* Version 2 has no extra data. */
static void test_snapshot_without_extra(void)
{
    uint8_t entry[40] = {0};
    g_autoptr(Qcow2Snapshot) s = NULL;
    GError *error = NULL;

    be32_put(entry + 32, 99);
    g_assert_cmpuint(qcow2_snapshot_length(entry, NULL), ==, 40);
    s = qcow2_snapshot_parse(entry);
    g_assert_cmpuint(s->state_bytes, ==, 99);
    g_assert_cmpuint(s->disk_bytes, ==, QCOW2_SNAPSHOT_SAME_LENGTH);
    g_assert_cmpuint(s->icount, ==, QCOW2_SNAPSHOT_NO_ICOUNT);
    be32_put(entry + 36, 1025);
    g_assert_cmpuint(qcow2_snapshot_length(entry, &error), ==, 0);
    expect_error(error, "1025 bytes of extra data");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qcow2/header/fields", test_fields);
    g_test_add_func("/qcow2/header/version-2", test_version_2);
    g_test_add_func("/qcow2/header/backing-without-extensions", test_backing_without_extensions);
    g_test_add_func("/qcow2/header/small-file", test_small_file);
    g_test_add_func("/qcow2/header/feature-names", test_feature_names);
    g_test_add_func("/qcow2/header/round-trip", test_round_trip);
    g_test_add_func("/qcow2/header/serialise-grows", test_serialise_grows);
    g_test_add_func("/qcow2/header/serialise-too-much", test_serialise_too_much);
    for (unsigned i = 0; i < G_N_ELEMENTS(wrongs); i++) {
        g_autofree char *name = g_strdup_printf("/qcow2/header/wrong/%u", i);

        g_test_add_data_func(name, &wrongs[i], test_wrong);
    }
    g_test_add_func("/qcow2/header/wrong-backing", test_wrong_backing);
    g_test_add_func("/qcow2/header/wrong-extensions", test_wrong_extensions);
    g_test_add_func("/qcow2/header/wrong-features", test_wrong_features);
    g_test_add_func("/qcow2/header/l1-entries", test_l1_entries);
    g_test_add_func("/qcow2/snapshot/entry", test_snapshot);
    g_test_add_func("/qcow2/snapshot/without-extra", test_snapshot_without_extra);
    return g_test_run();
}
