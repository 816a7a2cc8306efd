/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Checks and repairs of qcow2 images over a node in memory that holds any bytes. The first byte of
 * the input says what is repaired, and how the rest is spread, as in the target of the driver: as
 * it is, or in pieces of 512 bytes, each after its cluster's number in one byte.
 */
#include <string.h>

#include "../unit/block-fixture.h"
#include "block/block-internal.h"

/* The image has at most so much. */
#define IMAGE_SIZE 1048576

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void drop_message(const gchar *domain, GLogLevelFlags level, const gchar *message,
                         gpointer opaque)
{
    g_assert_true(g_utf8_validate(message, -1, NULL));
}

static void lay_out(Fixture *f, BlockBackend *blk, const uint8_t *data, size_t size, bool pieces)
{
    size_t step = pieces ? 513 : IMAGE_SIZE, head = pieces ? 1 : 0;

    while (size > head) {
        size_t n = MIN(size, step);

        g_assert_cmpint(
            fixture_write(f, blk, head ? (uint64_t)data[0] * 512 : 0, data + head, n - head, 0), ==,
            0);
        data += n;
        size = head ? size - n : 0;
    }
}

typedef struct Look {
    Fixture *f;
    ImageRepair repair;
    ImageCheck *found;
} Look;

static void co_fn look_entry(void *opaque)
{
    Look *look = opaque;

    look->found =
        block_check_co_node(block_graph_find(look->f->graph, "q", NULL), look->repair, NULL, NULL);
}

static void look(Fixture *f, ImageRepair repair)
{
    Look l = {.f = f, .repair = repair};

    fixture_run(f, look_entry, &l);
    if (!l.found) {
        return;
    }
    for (guint i = 0; i < l.found->findings->len; i++) {
        g_assert_true(g_utf8_validate(g_ptr_array_index(l.found->findings, i), -1, NULL));
    }
    image_check_free(l.found);
}

/* What was repaired, or could not be, may be opened as any image; the driver has its own target. */
static void try_open(Fixture *f)
{
    g_autoptr(GError) error = NULL;

    if (fixture_try_add(f, "{'driver': 'qcow2', 'node-name': 'q', 'file': 'file', 'backing': null}",
                        &error)) {
        look(f, IMAGE_REPAIR_NONE);
        fixture_del(f, "q");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autoptr(GError) error = NULL;
    BlockBackend *blk;

    if (size == 0) {
        return 0;
    }
    g_log_set_default_handler(drop_message, NULL);
    fixture_add(f,
                "{'driver': 'memory', 'node-name': 'file', 'size': 1048576, 'discard': 'unmap'}");
    blk = fixture_backend(f, "file", "fuzz", BLOCK_PERM_WRITE, BLOCK_PERM_ALL);
    lay_out(f, blk, data + 1, size - 1, data[0] & 4);
    fixture_free_backend(f, blk);
    if (!fixture_try_add(f,
                         "{'driver': 'qcow2', 'node-name': 'q', 'file': 'file', "
                         "'for-check': true}",
                         &error)) {
        g_assert_true(g_utf8_validate(error->message, -1, NULL));
        return 0;
    }
    look(f, IMAGE_REPAIR_NONE);
    look(f, data[0] & 8 ? IMAGE_REPAIR_LEAKS : IMAGE_REPAIR_ALL);
    look(f, IMAGE_REPAIR_NONE);
    fixture_del(f, "q");
    try_open(f);
    return 0;
}
