/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Several threads write to one qcow2 image, side by side in the same clusters. In the end
 * everything is there, and the image is consistent.
 */
#include "tests/unit/graph-rig.h"
#include "tests/unit/qcow2-builder.h"
#include "tests/unit/qcow2-checker.h"

#define KIB 1024u
#define MIB (1024u * 1024u)

typedef struct Kind {
    const char *name;
    unsigned version, cluster_bits;
    uint64_t features;
    uint32_t size;
    const char *options;
    bool compress; /* every third write */
} Kind;

static const Kind kinds[] = {
    {"usual", 3, 16, 0, MIB, ""},
    {"small-clusters", 3, 9, 0, 300 * KIB, ""},
    {"subclusters", 3, 16, QCOW2_INCOMPATIBLE_EXTENDED_L2, MIB, ""},
    {"version-2", 2, 12, 0, MIB, ""},
    {"tiny-cache", 3, 9, 0, 300 * KIB, ", 'l2-cache-size': 1024, 'l2-cache-entry-size': 512"},
    {"compressed", 3, 16, 0, MIB, "", true},
    {"compressed-small", 3, 12, 0, MIB, ", 'pass-discard-other': true", true},
};

#define WRITERS 9

typedef struct Writer {
    BlockBackend *blk;
    unsigned number, *ended;
    bool compress;
    uint64_t sectors;
    uint8_t *model; /* one byte a sector */
} Writer;

static void co_fn writer_entry(void *opaque)
{
    Writer *w = opaque;
    uint8_t sector[512];

    for (unsigned i = 0; i < 100; i++) {
        uint64_t n = (i * 7919 + w->number * 31) % (w->sectors / WRITERS) * WRITERS + w->number;

        BlockRequestFlags flags = w->compress && i % 3 == 0 ? BLOCK_REQ_WRITE_COMPRESSED : 0;

        w->model[n] = i + 1;
        memset(sector, i + 1, sizeof(sector));
        g_assert_cmpint(blk_co_pwritev(w->blk, n * 512, IOV_LOCAL(sector, 512), flags), ==, 0);
        n = (i / 2 * 7919 + w->number * 31) % (w->sectors / WRITERS) * WRITERS + w->number;
        g_assert_cmpint(blk_co_preadv(w->blk, n * 512, IOV_LOCAL(sector, 512), 0), ==, 0);
        g_assert_cmpuint(sector[0], ==, w->model[n]);
        g_assert_cmpuint(sector[511], ==, w->model[n]);
        if (i % 30 == 29) {
            g_assert_cmpint(blk_co_flush(w->blk), ==, 0);
        }
    }
    __atomic_add_fetch(w->ended, 1, __ATOMIC_SEQ_CST);
}

static void test_threads(gconstpointer opaque)
{
    const Kind *kind = opaque;
    g_autoptr(Fixture) f = fixture_new();
    g_autoptr(Qcow2Builder) b =
        qcow2_builder_new(kind->version, kind->cluster_bits, kind->features, kind->size);
    g_autofree char *json = NULL, *more = NULL;
    g_autofree uint8_t *model = g_malloc0(kind->size / 512);
    g_autofree uint8_t *disk = g_malloc(kind->size);
    g_autofree uint8_t *image = NULL;
    Writer writers[WRITERS];
    Qcow2Check check;
    unsigned ended = 0;
    uint64_t length;
    BlockBackend *blk;

    qcow2_builder_count(b);
    json =
        g_strdup_printf("{'driver': 'memory', 'node-name': 'memory', 'size': %u}", b->bytes->len);
    more =
        g_strdup_printf("{'driver': 'qcow2', 'node-name': 'q', 'file': 'file' %s}", kind->options);
    fixture_add(f, json);
    blk = fixture_backend(f, "memory", "test", BLOCK_PERM_WRITE, BLOCK_PERM_ALL);
    g_assert_cmpint(fixture_write(f, blk, 0, b->bytes->data, b->bytes->len, 0), ==, 0);
    fixture_free_backend(f, blk);
    /* Slow enough for others to come in between. */
    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'file', 'image': 'memory', 'inject-delay': "
                   "[{'event': 'write_aio', 'delay-ns': 1000}]}");
    fixture_add(f, more);
    blk = fixture_backend(f, "q", "test", BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE,
                          BLOCK_PERM_ALL);
    fixture_start_threads(f);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (Writer){blk, i, &ended, kind->compress, kind->size / 512, model};
        aio_co_enter(fixture_thread(f, i % FIXTURE_THREADS), writer_entry, &writers[i]);
    }
    fixture_wait_count(f, &ended, WRITERS);
    g_assert_cmpint(fixture_read(f, blk, 0, disk, kind->size), ==, 0);
    for (uint64_t i = 0; i < kind->size; i++) {
        g_assert_cmpuint(disk[i], ==, model[i / 512]);
    }
    fixture_free_backend(f, blk);
    fixture_del(f, "q");
    blk = fixture_backend(f, "file", "test", BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL);
    length = blk_length(blk);
    image = g_malloc(length);
    g_assert_cmpint(fixture_read(f, blk, 0, image, length), ==, 0);
    qcow2_check(image, length, &check);
    g_assert_cmpstr(check.first, ==, NULL);
    g_assert_cmpuint(check.leaks, ==, 0);
    qcow2_check_clear(&check);
    fixture_free_backend(f, blk);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *path = g_strdup_printf("/qcow2/stress/%s", kinds[i].name);

        g_test_add_data_func(path, &kinds[i], test_threads);
    }
    return g_test_run();
}
