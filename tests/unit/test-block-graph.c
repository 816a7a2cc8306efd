/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Nodes: names, references, children, adding and deleting. */
#include <string.h>

#include "block-fixture.h"

#define MEM "{'driver': 'memory', 'size': 65536, 'node-name': 'mem'}"

static void test_add_read_write_del(void)
{
    g_autoptr(Fixture) f = fixture_new();
    BlockBackend *blk;

    fixture_add(f, MEM);
    fixture_add(f, "{'driver': 'raw', 'file': 'mem', 'offset': 512, 'node-name': 'top'}");
    blk = fixture_backend(f, "top", "test", BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE,
                          BLOCK_PERM_ALL);
    g_assert_cmpint(blk_length(blk), ==, 65536 - 512);
    g_assert_cmpint(fixture_fill(f, blk, 100, 1000, 0x5a), ==, 0);
    fixture_assert_bytes(f, blk, 100, 1000, 0x5a);
    fixture_assert_bytes(f, blk, 0, 100, 0);
    fixture_assert_bytes(f, blk, 1100, 100, 0);
    fixture_free_backend(f, blk);
    fixture_del(f, "top");
    fixture_del(f, "mem");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block/graph/add-read-write-del", test_add_read_write_del);
    return g_test_run();
}
