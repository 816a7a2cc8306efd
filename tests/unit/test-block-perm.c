/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Permissions (qsd-behaviour B8), read-only and inactive nodes. */
#include <errno.h>
#include <string.h>

#include "block-fixture.h"
#include "block-script.h"

#define R   BLOCK_PERM_CONSISTENT_READ
#define W   BLOCK_PERM_WRITE
#define U   BLOCK_PERM_WRITE_UNCHANGED
#define Z   BLOCK_PERM_RESIZE
#define ALL BLOCK_PERM_ALL

static Fixture *perm_new(void)
{
    Fixture *f = fixture_new();

    script_reset();
    fixture_add(f, "{'driver': 'memory', 'node-name': 'mem', 'size': 65536}");
    return f;
}

/* As a fuse export with growable and an nbd export, whichever comes first. */
static void test_conflict(void)
{
    g_autoptr(Fixture) f = perm_new();
    g_autoptr(GError) error = NULL;
    BlockBackend *a, *b;

    a = fixture_backend(f, "mem", "export 'e0'", R | W | Z, ALL);
    b = fixture_try_backend(f, "mem", "export 'e1'", R | W, R | W | U, &error);
    g_assert_null(b);
    g_assert_cmpint(error->code, ==, WHARF_ERROR_IN_USE);
    g_assert_nonnull(strstr(error->message, "'mem'"));
    g_assert_nonnull(strstr(error->message, "resize"));
    g_assert_nonnull(strstr(error->message, "export 'e1'"));
    assert_error(&error, "export 'e0'");
    fixture_free_backend(f, a);

    b = fixture_backend(f, "mem", "export 'e1'", R | W, R | W | U);
    g_assert_null(fixture_try_backend(f, "mem", "export 'e0'", R | W | Z, ALL, &error));
    assert_error(&error, "resize");
    /* One that does not need it may come. */
    a = fixture_backend(f, "mem", "export 'e2'", R | W, ALL);
    fixture_free_backend(f, a);
    fixture_free_backend(f, b);
}

/* What is needed travels down a filter; what it meets there counts. */
static void test_conflict_below(void)
{
    g_autoptr(Fixture) f = perm_new();
    g_autoptr(GError) error = NULL;
    BlockBackend *low, *high;

    fixture_add(f, "{'driver': 'raw', 'node-name': 'r1', 'file': 'mem'}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'r2', 'file': 'r1'}");
    low = fixture_backend(f, "mem", "job 'j'", R, R | U | Z);
    high = fixture_backend(f, "r2", "export 'x'", R, ALL);
    g_assert_false(fixture_try_set_perm(f, high, R | W, ALL, &error));
    g_assert_nonnull(strstr(error->message, "block node 'r1' (as its child 'file')"));
    assert_error(&error, "job 'j'");
    /* Nothing has changed by that, and it works once the other has gone. */
    g_assert_cmpint(fixture_fill(f, high, 0, 10, 1), ==, -EPERM);
    fixture_free_backend(f, low);
    g_assert_true(fixture_try_set_perm(f, high, R | W, ALL, &error));
    g_assert_cmpint(fixture_fill(f, high, 0, 10, 1), ==, 0);
    fixture_free_backend(f, high);
}

/* One user alone may need what it does not share. */
static void test_exclusive(void)
{
    g_autoptr(Fixture) f = perm_new();
    g_autoptr(GError) error = NULL;
    BlockBackend *a = fixture_backend(f, "mem", "a", R | W, R);
    BlockBackend *b;

    g_assert_null(fixture_try_backend(f, "mem", "b", W, ALL, &error));
    assert_error(&error, "write");
    g_assert_null(fixture_try_backend(f, "mem", "b", R, R, &error));
    assert_error(&error, "write");
    b = fixture_backend(f, "mem", "b", 0, ALL);
    fixture_free_backend(f, b);
    fixture_free_backend(f, a);
}

/* The driver is asked, told, and told to forget it. */
static void test_driver(void)
{
    g_autoptr(Fixture) f = perm_new();
    g_autoptr(GError) error = NULL;
    BlockBackend *a, *b;

    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'dbg', 'image': 'mem'}");
    g_assert_cmpuint(script_perm.checked, ==, 0);
    a = fixture_backend(f, "dbg", "a", R | W, R | W);
    g_assert_cmphex(script_perm.perm, ==, R | W);
    g_assert_cmphex(script_perm.shared, ==, R | W);
    b = fixture_backend(f, "dbg", "b", R, ALL);
    g_assert_cmpuint(script_perm.set, ==, 1);
    fixture_free_backend(f, a);
    g_assert_cmphex(script_perm.perm, ==, R);
    g_assert_cmphex(script_perm.shared, ==, ALL);

    script.check_perm_error = EAGAIN;
    g_assert_null(fixture_try_backend(f, "dbg", "c", R | W, ALL, &error));
    assert_error(&error, "the script locks it");
    g_assert_cmphex(script_perm.perm, ==, R);
    script.check_perm_error = 0;
    a = fixture_backend(f, "dbg", "c", R | W, ALL);
    fixture_free_backend(f, a);
    fixture_free_backend(f, b);
    g_assert_cmphex(script_perm.perm, ==, 0);
}

/* If a driver further down refuses, those above forget it. */
static void test_driver_abort(void)
{
    g_autoptr(Fixture) f = perm_new();
    g_autoptr(GError) error = NULL;
    BlockBackend *low, *high;

    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'd1', 'image': 'mem'}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'r', 'file': 'd1'}");
    low = fixture_backend(f, "d1", "low", R, R | U);
    script_perm.checked = script_perm.set = 0;
    g_assert_null(fixture_try_backend(f, "r", "high", R | W, ALL, &error));
    assert_error(&error, "low");
    /* Conflicts inside the daemon are found before any driver is asked. */
    g_assert_cmpuint(script_perm.checked, ==, 0);
    high = fixture_backend(f, "r", "high", R, ALL);
    fixture_free_backend(f, high);
    fixture_free_backend(f, low);
}

static void test_truncate_takes_resize(void)
{
    g_autoptr(Fixture) f = perm_new();
    g_autoptr(GError) error = NULL;
    BlockBackend *a = fixture_backend(f, "mem", "export 'e0'", R | W, ALL);
    BlockBackend *b;

    g_assert_cmpint(fixture_truncate(f, a, 1000, 0, &error), ==, 0);
    /* Only for the moment: one that does not share it may come afterwards. */
    b = fixture_backend(f, "mem", "export 'nbd'", R | W, R | W | U);
    g_assert_cmpint(fixture_truncate(f, a, 2000, 0, &error), ==, -EPERM);
    assert_error(&error, "export 'nbd'");
    g_assert_cmpint(blk_length(a), ==, 1000);
    fixture_free_backend(f, b);
    g_assert_cmpint(fixture_truncate(f, a, 2000, 0, &error), ==, 0);
    g_assert_cmpint(blk_length(a), ==, 2000);
    fixture_free_backend(f, a);
}

static void test_read_only(void)
{
    g_autoptr(Fixture) f = perm_new();
    g_autoptr(GError) error = NULL;
    BlockBackend *a;

    fixture_add(f, "{'driver': 'raw', 'node-name': 'ro', 'file': 'mem', 'read-only': true}");
    g_assert_null(fixture_try_backend(f, "ro", "export 'e'", R | W, ALL, &error));
    g_assert_nonnull(strstr(error->message, "read-only"));
    assert_error(&error, "export 'e'");
    a = fixture_backend(f, "ro", "export 'e'", R, ALL);
    g_assert_cmpint(fixture_truncate(f, a, 100, 0, &error), ==, -EPERM);
    assert_error(&error, "read-only");
    fixture_free_backend(f, a);

    /* A writable node above a read-only one can be opened, but not written. */
    fixture_add(f, "{'driver': 'raw', 'node-name': 'above', 'file': 'ro'}");
    g_assert_null(fixture_try_backend(f, "above", "export 'e'", R | W, ALL, &error));
    assert_error(&error, "'ro' is read-only");
}

static void test_options(void)
{
    g_autoptr(Fixture) f = perm_new();
    g_autoptr(GError) error = NULL;
    BlockNode *node;

    g_assert_false(fixture_try_add(
        f, "{'driver': 'raw', 'node-name': 'x', 'file': 'mem', 'force-share': true}", &error));
    assert_error(&error, "read-only");
    g_assert_false(fixture_try_add(
        f, "{'driver': 'raw', 'node-name': 'x', 'file': 'mem', 'detect-zeroes': 'unmap'}", &error));
    assert_error(&error, "discard");
    /* An inline child takes over what it leaves out, and forwards discards. */
    node = fixture_add(f, "{'driver': 'raw', 'node-name': 'x', 'read-only': true, "
                          "'force-share': true, 'cache': {'direct': true, 'no-flush': true}, "
                          "'file': {'driver': 'null-co', 'node-name': 'y', "
                          "'cache': {'direct': false}}}");
    g_assert_true(block_node_read_only(node));
    node = block_graph_find(f->graph, "y", NULL);
    g_assert_true(block_node_read_only(node));
    g_assert_true(block_node_flags(node)->force_share);
    g_assert_true(block_node_flags(node)->discard_unmap);
    g_assert_true(block_node_flags(node)->cache_no_flush);
    g_assert_false(block_node_flags(node)->cache_direct);
}

/* Inactive nodes (B5) */

static void test_inactive(void)
{
    g_autoptr(Fixture) f = perm_new();
    g_autoptr(GError) error = NULL;
    BlockBackend *a;
    char byte;

    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'dbg', 'image': 'mem'}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'top', 'file': 'dbg'}");
    a = fixture_backend(f, "top", "export 'e'", R, ALL);
    /* Better than QSD: refused below a read-only export, too. */
    g_assert_false(fixture_try_set_active(f, "top", false, &error));
    assert_error(&error, "export 'e'");
    g_assert_false(fixture_try_set_active(f, "dbg", false, &error));
    assert_error(&error, "'top'");

    block_backend_set_allow_inactive(a, true);
    g_assert_true(fixture_try_set_active(f, "top", false, &error));
    g_assert_false(block_node_active(block_graph_find(f->graph, "mem", NULL)));
    g_assert_cmphex(script_perm.perm, ==, 0);
    g_assert_cmpint(fixture_read(f, a, 0, &byte, 1), ==, -ENOMEDIUM);
    g_assert_false(
        fixture_try_add(f, "{'driver': 'raw', 'node-name': 'x', 'file': 'top'}", &error));
    assert_error(&error, "inactive");
    g_assert_true(fixture_try_set_active(f, "top", false, &error));

    g_assert_true(fixture_try_set_active(f, "top", true, &error));
    g_assert_cmphex(script_perm.perm, ==, R);
    g_assert_cmpint(fixture_read(f, a, 0, &byte, 1), ==, 0);
    fixture_free_backend(f, a);

    /* All at once, and a user makes what it needs active again. */
    g_assert_true(fixture_try_set_active(f, NULL, false, &error));
    g_assert_false(block_node_active(block_graph_find(f->graph, "dbg", NULL)));
    a = fixture_backend(f, "top", "export 'e'", R | W, ALL);
    g_assert_true(block_node_active(block_graph_find(f->graph, "mem", NULL)));
    g_assert_cmpint(fixture_fill(f, a, 0, 100, 1), ==, 0);
    fixture_free_backend(f, a);
    g_assert_false(fixture_try_set_active(f, "nobody", false, &error));
    assert_error(&error, "nobody");
}

/* All nodes at once: where one cannot be made (in)active, none is. */
static void test_all_or_none(void)
{
    g_autoptr(Fixture) f = perm_new();
    g_autoptr(GError) error = NULL;
    BlockNode *mem = block_graph_find(f->graph, "mem", NULL);
    BlockNode *first = fixture_add(f, "{'driver': 'null-co', 'node-name': 'first'}");
    BlockNode *last;
    BlockBackend *a;

    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'dbg', 'image': 'mem'}");
    last = fixture_add(f, "{'driver': 'null-co', 'node-name': 'last'}");
    a = fixture_backend(f, "dbg", "export 'e'", R, ALL);
    g_assert_false(fixture_try_set_active(f, NULL, false, &error));
    assert_error(&error, "export 'e'");
    g_assert_true(block_node_active(first) && block_node_active(mem) && block_node_active(last));

    block_backend_set_allow_inactive(a, true);
    g_assert_true(fixture_try_set_active(f, NULL, false, &error));
    g_assert_false(block_node_active(first) || block_node_active(mem) || block_node_active(last));
    script.check_perm_error = EAGAIN;
    g_assert_false(fixture_try_set_active(f, NULL, true, &error));
    assert_error(&error, "the script locks it");
    g_assert_false(block_node_active(first) || block_node_active(mem) || block_node_active(last));
    script.check_perm_error = 0;
    g_assert_true(fixture_try_set_active(f, NULL, true, &error));
    g_assert_true(block_node_active(first) && block_node_active(mem) && block_node_active(last));
    fixture_free_backend(f, a);
}

/* A user who is refused leaves the node at rest. */
static void test_refused_stays_inactive(void)
{
    g_autoptr(Fixture) f = perm_new();
    g_autoptr(GError) error = NULL;
    BlockNode *top;
    BlockBackend *blk;

    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'dbg', 'image': 'mem'}");
    top = fixture_add(f, "{'driver': 'raw', 'node-name': 'top', 'file': 'dbg'}");
    g_assert_true(fixture_try_set_active(f, "top", false, NULL));
    script.check_perm_error = EAGAIN;
    g_assert_null(fixture_try_backend(f, "top", "a", R | W, ALL, &error));
    assert_error(&error, "the script locks it");
    g_assert_false(block_node_active(top));
    g_assert_false(block_node_active(block_graph_find(f->graph, "dbg", NULL)));
    script.check_perm_error = 0;
    blk = fixture_backend(f, "top", "a", R | W, ALL);
    g_assert_true(block_node_active(top));
    g_assert_cmphex(script_perm.perm, ==, R | W);
    fixture_free_backend(f, blk);
}

static void test_added_inactive(void)
{
    g_autoptr(Fixture) f = perm_new();
    BlockNode *node = fixture_add(f, "{'driver': 'raw', 'node-name': 'x', 'active': false, "
                                     "'file': {'driver': 'null-co', 'node-name': 'y'}}");

    g_assert_false(block_node_active(node));
    g_assert_false(block_node_active(block_graph_find(f->graph, "y", NULL)));
    g_assert_true(fixture_try_set_active(f, "x", true, NULL));
    g_assert_true(block_node_active(block_graph_find(f->graph, "y", NULL)));
}

/* What is inactive was flushed. */
static void test_inactive_flushes(void)
{
    g_autoptr(Fixture) f = perm_new();
    g_autoptr(GError) error = NULL;
    BlockBackend *a;

    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'dbg', 'image': 'mem'}");
    a = fixture_backend(f, "dbg", "a", R | W, ALL);
    block_backend_set_allow_inactive(a, true);
    g_assert_cmpint(fixture_fill(f, a, 0, 100, 1), ==, 0);
    script_fail(SCRIPT_FLUSH, EIO, 1);
    g_assert_false(fixture_try_set_active(f, "dbg", false, &error));
    assert_error(&error, "flush");
    g_assert_true(block_node_active(block_graph_find(f->graph, "dbg", NULL)));
    g_assert_cmpint(fixture_fill(f, a, 0, 100, 1), ==, 0);
    script_clear();
    g_assert_true(fixture_try_set_active(f, "dbg", false, &error));
    g_assert_cmpuint(script_count(SCRIPT_FLUSH), ==, 1);
    fixture_free_backend(f, a);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block/perm/conflict", test_conflict);
    g_test_add_func("/block/perm/conflict-below", test_conflict_below);
    g_test_add_func("/block/perm/exclusive", test_exclusive);
    g_test_add_func("/block/perm/driver", test_driver);
    g_test_add_func("/block/perm/driver-abort", test_driver_abort);
    g_test_add_func("/block/perm/truncate-takes-resize", test_truncate_takes_resize);
    g_test_add_func("/block/perm/read-only", test_read_only);
    g_test_add_func("/block/perm/options", test_options);
    g_test_add_func("/block/perm/inactive/set", test_inactive);
    g_test_add_func("/block/perm/inactive/added", test_added_inactive);
    g_test_add_func("/block/perm/inactive/all-or-none", test_all_or_none);
    g_test_add_func("/block/perm/inactive/refused", test_refused_stays_inactive);
    g_test_add_func("/block/perm/inactive/flushes", test_inactive_flushes);
    return g_test_run();
}
