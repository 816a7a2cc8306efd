/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Compressing and decompressing a cluster, and the clusters that are kept decompressed. */
#include <errno.h>

#include "block/drivers/qcow2/compress.h"
#include "block/drivers/qcow2/unpacked.h"
#include "tests/unit/graph-rig.h"
#include "util/iov.h"

#define CLUSTER 65536

static bool is_there(Qcow2Compression type)
{
    char in[100] = {0}, out[100];

    return qcow2_compress(type, out, sizeof(out), in, sizeof(in)) > 0;
}

/* What is compressed comes out again, for each size of a cluster, whatever stands behind it. */
static void test_round_trip(gconstpointer opaque)
{
    Qcow2Compression type = GPOINTER_TO_INT(opaque);

    if (!is_there(type)) {
        g_test_skip("this build does not have it");
        return;
    }
    for (unsigned bits = 9; bits <= 21; bits++) {
        size_t size = 1u << bits, n;
        g_autofree uint8_t *in = g_malloc(size), *packed = g_malloc(size), *out = g_malloc(size);

        graph_rig_fill(in, size, bits);
        memset(packed, 0xff, size);
        n = qcow2_compress(type, packed, size - 1, in, size);
        g_assert_cmpuint(n, >, 0);
        g_assert_cmpuint(n, <, size);
        g_assert_cmpint(qcow2_decompress(type, out, size, packed, n), ==, 0);
        g_assert_cmpmem(out, size, in, size);
        memset(out, 0, size);
        g_assert_cmpint(qcow2_decompress(type, out, size, packed, size), ==, 0);
        g_assert_cmpmem(out, size, in, size);
        g_assert_cmpint(qcow2_decompress(type, out, size, packed, n / 2), ==, -EIO);
    }
}

static void test_does_not_fit(gconstpointer opaque)
{
    Qcow2Compression type = GPOINTER_TO_INT(opaque);
    g_autofree uint8_t *in = g_malloc(CLUSTER), *out = g_malloc(CLUSTER);
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);

    for (unsigned i = 0; i < CLUSTER; i++) {
        in[i] = g_rand_int(rand);
    }
    g_assert_cmpuint(qcow2_compress(type, out, CLUSTER - 1, in, CLUSTER), ==, 0);
}

/* Clusters in memory */

typedef struct Read {
    Qcow2Unpacked *u;
    uint64_t host;
    uint32_t bytes;
    size_t from;
    uint8_t got[16];
    unsigned loads;
    int result;   /* of loading */
    bool slow;    /* loading takes a while */
    bool dropped; /* and meanwhile it is dropped */
    int r;
    unsigned *ended; /* atomic */
} Read;

static int co_fn load(void *out, void *opaque)
{
    Read *read = opaque;

    read->loads++;
    if (read->slow) {
        aio_co_sleep_ns(2000000);
    }
    if (read->dropped) {
        qcow2_unpacked_drop(read->u, read->host, 1);
    }
    graph_rig_fill(out, CLUSTER, read->host / 1000);
    return read->result;
}

static void co_fn read_entry(void *opaque)
{
    Read *read = opaque;
    g_autofree uint8_t *wanted = g_malloc(CLUSTER);

    read->r = qcow2_unpacked_co_read(read->u, read->host, read->bytes, load, read, read->from,
                                     IOV_LOCAL(read->got, sizeof(read->got)));
    if (read->r == 0) {
        graph_rig_fill(wanted, CLUSTER, read->host / 1000);
        g_assert_cmpmem(read->got, sizeof(read->got), wanted + read->from, sizeof(read->got));
    }
    if (read->ended) {
        __atomic_add_fetch(read->ended, 1, __ATOMIC_SEQ_CST);
    }
}

/* Read of the cluster at @host; how often it was decompressed for that. */
static unsigned read_of(Fixture *f, Qcow2Unpacked *u, uint64_t host)
{
    Read read = {.u = u, .host = host, .bytes = 1000, .from = host % 777};

    fixture_run(f, read_entry, &read);
    g_assert_cmpint(read.r, ==, 0);
    return read.loads;
}

static void test_once(void)
{
    g_autoptr(Fixture) f = fixture_new();
    Qcow2Unpacked *u = qcow2_unpacked_new(CLUSTER);

    g_assert_cmpuint(read_of(f, u, 5000), ==, 1);
    g_assert_cmpuint(read_of(f, u, 6000), ==, 1);
    g_assert_cmpuint(read_of(f, u, 5000), ==, 0);
    g_assert_cmpuint(read_of(f, u, 6000), ==, 0);
    g_assert_cmpuint(qcow2_unpacked_used(u), ==, 2);
    qcow2_unpacked_free(u);
}

/* There is a bound, and what was used last is kept. */
static void test_bound(void)
{
    g_autoptr(Fixture) f = fixture_new();
    Qcow2Unpacked *u = qcow2_unpacked_new(CLUSTER);
    unsigned most;

    for (unsigned i = 1; i <= 100; i++) {
        read_of(f, u, i * 1000);
        read_of(f, u, 1000);
    }
    most = qcow2_unpacked_used(u);
    g_assert_cmpuint(most * CLUSTER, <=, 4 * 1024 * 1024);
    g_assert_cmpuint(read_of(f, u, 1000), ==, 0);
    g_assert_cmpuint(read_of(f, u, 100 * 1000), ==, 0);
    g_assert_cmpuint(read_of(f, u, 2000), ==, 1);
    g_assert_cmpuint(qcow2_unpacked_used(u), ==, most);
    qcow2_unpacked_free(u);
}

static void test_drop(void)
{
    g_autoptr(Fixture) f = fixture_new();
    Qcow2Unpacked *u = qcow2_unpacked_new(CLUSTER);

    read_of(f, u, 5000);
    read_of(f, u, 6000);
    qcow2_unpacked_drop(u, 4000, 1000);
    qcow2_unpacked_drop(u, 7000, 1000);
    g_assert_cmpuint(read_of(f, u, 5000) + read_of(f, u, 6000), ==, 0);
    qcow2_unpacked_drop(u, 5999, 1);
    g_assert_cmpuint(read_of(f, u, 6000), ==, 0);
    g_assert_cmpuint(read_of(f, u, 5000), ==, 1);
    qcow2_unpacked_free(u);
}

static void test_clean(void)
{
    g_autoptr(Fixture) f = fixture_new();
    Qcow2Unpacked *u = qcow2_unpacked_new(CLUSTER);

    read_of(f, u, 5000);
    read_of(f, u, 6000);
    qcow2_unpacked_clean(u);
    read_of(f, u, 6000);
    qcow2_unpacked_clean(u);
    g_assert_cmpuint(qcow2_unpacked_used(u), ==, 1);
    g_assert_cmpuint(read_of(f, u, 6000), ==, 0);
    qcow2_unpacked_free(u);
}

/* An error is one's own, and leaves nothing. */
static void test_error(void)
{
    g_autoptr(Fixture) f = fixture_new();
    Qcow2Unpacked *u = qcow2_unpacked_new(CLUSTER);
    Read read = {.u = u, .host = 5000, .bytes = 1000, .result = -EIO};

    fixture_run(f, read_entry, &read);
    g_assert_cmpint(read.r, ==, -EIO);
    g_assert_cmpuint(qcow2_unpacked_used(u), ==, 0);
    g_assert_cmpuint(read_of(f, u, 5000), ==, 1);
    read.host = 6000;
    read.result = 0;
    read.dropped = true;
    fixture_run(f, read_entry, &read);
    g_assert_cmpint(read.r, ==, 0);
    g_assert_cmpuint(read_of(f, u, 6000), ==, 1);
    qcow2_unpacked_free(u);
}

/* Many at once, in several threads: each cluster is decompressed once, for all of them. */
static void test_together(void)
{
    g_autoptr(Fixture) f = fixture_new();
    Qcow2Unpacked *u = qcow2_unpacked_new(CLUSTER);
    Read reads[120];
    unsigned ended = 0, loads = 0;

    fixture_start_threads(f);
    for (unsigned i = 0; i < G_N_ELEMENTS(reads); i++) {
        reads[i] = (Read){.u = u,
                          .host = (i % 4 + 1) * 1000,
                          .bytes = 1000,
                          .from = i * 100,
                          .slow = true,
                          .ended = &ended};
        aio_co_enter(fixture_thread(f, i % FIXTURE_THREADS), read_entry, &reads[i]);
    }
    fixture_wait_count(f, &ended, G_N_ELEMENTS(reads));
    for (unsigned i = 0; i < G_N_ELEMENTS(reads); i++) {
        g_assert_cmpint(reads[i].r, ==, 0);
        loads += reads[i].loads;
    }
    g_assert_cmpuint(loads, ==, 4);
    qcow2_unpacked_free(u);
}

/* More than there is room for, with errors among them. */
static void test_crowd(void)
{
    g_autoptr(Fixture) f = fixture_new();
    Qcow2Unpacked *u = qcow2_unpacked_new(CLUSTER);
    Read reads[120];
    unsigned ended = 0;

    fixture_start_threads(f);
    for (unsigned i = 0; i < G_N_ELEMENTS(reads); i++) {
        reads[i] = (Read){.u = u,
                          .host = (i % 30 + 1) * 1000,
                          .bytes = 1000,
                          .from = i * 100,
                          .slow = i % 3,
                          .result = i % 30 == 7 ? -EIO : 0,
                          .dropped = i % 5 == 0,
                          .ended = &ended};
        aio_co_enter(fixture_thread(f, i % FIXTURE_THREADS), read_entry, &reads[i]);
    }
    fixture_wait_count(f, &ended, G_N_ELEMENTS(reads));
    for (unsigned i = 0; i < G_N_ELEMENTS(reads); i++) {
        g_assert_cmpint(reads[i].r, ==, i % 30 == 7 ? -EIO : 0);
    }
    qcow2_unpacked_free(u);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (Qcow2Compression type = QCOW2_COMPRESSION_ZLIB; type <= QCOW2_COMPRESSION_ZSTD; type++) {
        const char *name = type == QCOW2_COMPRESSION_ZLIB ? "zlib" : "zstd";
        g_autofree char *there = g_strdup_printf("/qcow2/compress/%s/round-trip", name);
        g_autofree char *not = g_strdup_printf("/qcow2/compress/%s/does-not-fit", name);

        g_test_add_data_func(there, GINT_TO_POINTER(type), test_round_trip);
        g_test_add_data_func(not, GINT_TO_POINTER(type), test_does_not_fit);
    }
    g_test_add_func("/qcow2/unpacked/once", test_once);
    g_test_add_func("/qcow2/unpacked/bound", test_bound);
    g_test_add_func("/qcow2/unpacked/drop", test_drop);
    g_test_add_func("/qcow2/unpacked/clean", test_clean);
    g_test_add_func("/qcow2/unpacked/error", test_error);
    g_test_add_func("/qcow2/unpacked/together", test_together);
    g_test_add_func("/qcow2/unpacked/crowd", test_crowd);
    return g_test_run();
}
