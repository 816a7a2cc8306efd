/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The whole qcow2 driver over a node in memory that holds any bytes. The first byte of the input
 * chooses options, whether it is written to, and how the rest is spread: a sparse image is made
 * from pieces of 512 bytes, each after its cluster's number in one byte.
 */
#include <string.h>

#include "../unit/block-fixture.h"
#include "qapi/commands-block-core.h"

/* The image has at most so much; what is read of the disk at one place. */
#define IMAGE_SIZE 1048576
#define READ_SIZE  (300 * 1024)

/* Of the first byte. Bits 0 and 1, and 4 and 5, choose options. */
#define PIECES   4u
#define WRITABLE 8u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Stands in for the one without __wrap_, see meson.build. */
int co_fn __wrap_aio_co_run_worker(int (*fn)(void *opaque), void *opaque);

/*
 * Clusters are compressed and decompressed here and not in worker threads. Threads would make the
 * same input run differently each time, and take most of the time by waking each other.
 */
int co_fn __wrap_aio_co_run_worker(int (*fn)(void *opaque), void *opaque)
{
    aio_co_wake(coroutine_self());
    coroutine_yield();
    return fn(opaque);
}

static void drop_message(const gchar *domain, GLogLevelFlags level, const gchar *message,
                         gpointer opaque)
{
    g_assert_true(g_utf8_validate(message, -1, NULL));
}

/* Lay @data out in the node: as it is, or in pieces. */
static void lay_out(Fixture *f, BlockBackend *blk, const uint8_t *data, size_t size, bool pieces)
{
    if (!pieces) {
        size = MIN(size, IMAGE_SIZE);
        g_assert_cmpint(fixture_write(f, blk, 0, data, size, 0), ==, 0);
        return;
    }
    while (size > 1) {
        size_t n = MIN(size - 1, 512);

        g_assert_cmpint(fixture_write(f, blk, (uint64_t)data[0] * 512, data + 1, n, 0), ==, 0);
        data += n + 1;
        size -= n + 1;
    }
}

static void read_around(Fixture *f, BlockBackend *blk, uint64_t offset, void *buffer)
{
    uint64_t length = blk_length(blk);
    uint64_t n = 0;
    BlockStatus status;

    if (offset >= length) {
        return;
    }
    fixture_read(f, blk, offset, buffer, MIN(READ_SIZE, length - offset));
    if (fixture_status(f, blk, offset, length - offset, &n, &status) == 0) {
        g_assert_cmpuint(n, >, 0);
        g_assert_cmpuint(n, <=, length - offset);
    }
}

static void read_all(Fixture *f, const char *node)
{
    BlockBackend *blk =
        fixture_try_backend(f, node, "fuzz", BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL, NULL);
    g_autofree void *buffer = g_malloc(READ_SIZE);
    uint64_t length;

    if (!blk) {
        return; /* it only tells what it is, or is not active */
    }
    length = blk_length(blk);
    read_around(f, blk, 0, buffer);
    read_around(f, blk, 5000, buffer);
    read_around(f, blk, length / 2, buffer);
    read_around(f, blk, length - MIN(length, READ_SIZE / 2), buffer);
    fixture_free_backend(f, blk);
}

/* Snapshots, of the node "q"; all of that may fail. */
static void co_fn snapshots_entry(void *opaque)
{
    Fixture *f = opaque;
    QapiCall call = {.self = f->graph};
    GError *error = NULL;

    qmp_blockdev_snapshot_apply_internal_sync(&call, "q", "1", NULL, &error);
    g_clear_error(&error);
    qmp_blockdev_snapshot_internal_sync(&call, "q", "fuzz", &error);
    g_clear_error(&error);
    snapshot_info_free(qmp_blockdev_snapshot_delete_internal_sync(&call, "q", "1", NULL, &error));
    g_clear_error(&error);
    qmp_blockdev_snapshot_apply_internal_sync(&call, "q", NULL, "fuzz", &error);
    g_clear_error(&error);
}

/* All kinds of changes; they may fail, and what they have changed may be read. */
static void write_around(Fixture *f, const char *node)
{
    BlockBackend *blk = fixture_backend(f, node, "fuzz", BLOCK_PERM_ALL, BLOCK_PERM_ALL);
    g_autofree void *buffer = g_malloc0(READ_SIZE);
    uint64_t length = blk_length(blk);
    const uint64_t places[] = {0, 700, length / 2, length - MIN(length, 5000)};

    for (unsigned i = 0; i < G_N_ELEMENTS(places); i++) {
        uint64_t left = length - MIN(places[i], length);

        fixture_write(f, blk, places[i], buffer, MIN(left, i % 2 ? 3000 : READ_SIZE), 0);
        fixture_zero(f, blk, places[i], MIN(left, 66000), i % 2 ? BLOCK_REQ_MAY_UNMAP : 0);
        fixture_discard(f, blk, places[i], MIN(left, 130000));
        fixture_write(f, blk, places[i], buffer, MIN(left, 512), 0);
        fixture_write(f, blk, places[i], buffer, MIN(left, i ? 4096 : 70000),
                      BLOCK_REQ_WRITE_COMPRESSED);
        if (i == 1) {
            fixture_flush(f, blk);
        }
    }
    fixture_run(f, snapshots_entry, f);
    fixture_truncate(f, blk, 40960, BLOCK_REQ_ZERO, NULL);
    fixture_truncate(f, blk, 100 * 1024, 0, NULL);
    fixture_write(f, blk, 0, buffer, MIN((uint64_t)blk_length(blk), 5000), 0);
    fixture_free_backend(f, blk);
}

/* What tells about all nodes. */
static void co_fn query_entry(void *opaque)
{
    Fixture *f = opaque;
    QapiCall call = {.self = f->graph};
    GPtrArray *nodes = qmp_query_named_block_nodes(&call, false, NULL);

    g_assert_nonnull(nodes);
    g_ptr_array_unref(nodes);
}

/* The node "q", as the bits of @kind say. */
static char *options_of(uint8_t kind, bool read_only)
{
    static const char *const options[] = {
        "'backing': null, 'l2-cache-size': 1024, 'l2-cache-entry-size': 512",
        "'backing': 'base', 'data-file': 'base'",
        "'backing': 'base', 'pass-discard-other': true, 'overlap-check': 'none'",
        "'follow-names': false, 'overlap-check': 'all'",
    };
    static const char *const views[] = {
        "'for-info': false",
        "'for-info': true",
        "'snapshot': '1'",
        "'lazy-refcounts': true, 'discard-no-unref': true",
    };

    return g_strdup_printf("{'driver': 'qcow2', 'node-name': 'q', 'read-only': %s, "
                           "'discard': 'unmap', 'file': 'file', %s, %s}",
                           read_only ? "true" : "false", options[kind & 3], views[kind >> 4 & 3]);
}

/* The node as it is, and after it was closed for a while, in part or for all. */
static void use(Fixture *f, uint8_t kind)
{
    g_autofree char *options = options_of(kind, true);
    g_autofree char *read_only = g_strdup_printf("[%s]", options);

    read_all(f, "q");
    fixture_run(f, query_entry, f);
    if (kind & WRITABLE) {
        write_around(f, "q");
        read_all(f, "q");
        fixture_try_reopen(f, read_only, NULL);
    }
    if (fixture_try_set_active(f, "q", false, NULL)) {
        fixture_try_set_active(f, "q", true, NULL);
    }
    read_all(f, "q");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autofree char *json = NULL;
    g_autoptr(GError) error = NULL;
    BlockBackend *blk;

    if (size == 0) {
        return 0;
    }
    g_log_set_default_handler(drop_message, NULL);
    json = options_of(data[0], !(data[0] & WRITABLE));
    fixture_add(f, "{'driver': 'null-co', 'node-name': 'base', 'size': 70000}");
    fixture_add(f,
                "{'driver': 'memory', 'node-name': 'file', 'size': 1048576, 'discard': 'unmap'}");
    blk = fixture_backend(f, "file", "fuzz", BLOCK_PERM_WRITE, BLOCK_PERM_ALL);
    lay_out(f, blk, data + 1, size - 1, data[0] & PIECES);
    fixture_free_backend(f, blk);
    if (fixture_try_add(f, json, &error)) {
        use(f, data[0]);
    } else {
        g_assert_true(g_utf8_validate(error->message, -1, NULL));
    }
    return 0;
}
