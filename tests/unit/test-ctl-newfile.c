/* SPDX-License-Identifier: GPL-2.0-or-later */
/* New files: who keeps them, who removes them, and what others have put in their place. */
#include <glib/gstdio.h>
#include <string.h>

#include "ctl/ctl.h"
#include "ctl/newfile.h"

typedef struct Rig {
    char *directory, *path;
} Rig;

static void set_up(Rig *rig, gconstpointer data)
{
    rig->directory = g_dir_make_tmp("wharf-newfile-XXXXXX", NULL);
    g_assert_nonnull(rig->directory);
    rig->path = g_build_filename(rig->directory, "new", NULL);
}

static void tear_down(Rig *rig, gconstpointer data)
{
    g_unlink(rig->path);
    g_assert_cmpint(g_rmdir(rig->directory), ==, 0);
    g_free(rig->directory);
    g_free(rig->path);
}

static bool is_nameless(gconstpointer data)
{
    return GPOINTER_TO_INT(data);
}

static void write_into(const char *path, const char *text)
{
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
}

static void assert_has(const char *path, const char *text)
{
    g_autofree char *content = NULL;

    g_assert_true(g_file_get_contents(path, &content, NULL, NULL));
    g_assert_cmpstr(content, ==, text);
}

static bool is_there(const char *path)
{
    return g_file_test(path, G_FILE_TEST_EXISTS);
}

static void test_kept(Rig *rig, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    CtlNewFile file = {0};
    FILE *f;

    g_assert_true(ctl_new_file_make(&file, rig->path, is_nameless(data), &error));
    g_assert_cmpint(file.handle == NULL, ==, is_there(rig->path));
    f = fopen(ctl_new_file_reach(&file), "w");
    g_assert_nonnull(f);
    fputs("ours", f);
    fclose(f);
    g_assert_true(ctl_new_file_name(&file, &error));
    g_assert_cmpstr(ctl_new_file_reach(&file), ==, rig->path);
    ctl_new_file_keep(&file);
    ctl_new_file_clear(&file);
    assert_has(rig->path, "ours");
    ctl_new_file_clear(&file); /* there is none */
}

static void test_removed(Rig *rig, gconstpointer data)
{
    CtlNewFile file = {0};

    g_assert_true(ctl_new_file_make(&file, rig->path, is_nameless(data), NULL));
    ctl_new_file_clear(&file);
    g_assert_false(is_there(rig->path));

    g_assert_true(ctl_new_file_make(&file, rig->path, is_nameless(data), NULL));
    g_assert_true(ctl_new_file_name(&file, NULL));
    g_assert_true(is_there(rig->path));
    ctl_new_file_clear(&file);
    g_assert_false(is_there(rig->path));
}

/* Somebody has put something else in its place; that stays. */
static void test_replaced(Rig *rig, gconstpointer data)
{
    CtlNewFile file = {0};

    g_assert_true(ctl_new_file_make(&file, rig->path, is_nameless(data), NULL));
    g_assert_true(ctl_new_file_name(&file, NULL));
    g_unlink(rig->path);
    write_into(rig->path, "theirs");
    ctl_new_file_clear(&file);
    assert_has(rig->path, "theirs");
}

/* What is there when it is to get its name is not ours to replace, nor to remove. */
static void test_taken(Rig *rig, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    CtlNewFile file = {0};

    g_assert_true(ctl_new_file_make(&file, rig->path, true, NULL));
    if (!file.handle) {
        g_test_skip("files have names at once here");
        ctl_new_file_clear(&file);
        return;
    }
    write_into(rig->path, "theirs");
    g_assert_false(ctl_new_file_name(&file, &error));
    g_assert_error(error, CTL_ERROR, CTL_ERROR_FAILED);
    g_assert_nonnull(strstr(error->message, rig->path));
    ctl_new_file_clear(&file);
    assert_has(rig->path, "theirs");
}

static void test_there_before(Rig *rig, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    CtlNewFile file = {0};

    write_into(rig->path, "theirs");
    g_assert_false(ctl_new_file_make(&file, rig->path, false, &error));
    g_assert_error(error, CTL_ERROR, CTL_ERROR_FAILED);
    ctl_new_file_clear(&file);
    assert_has(rig->path, "theirs");
}

static void add(const char *name, void (*test)(Rig *rig, gconstpointer data))
{
    for (int nameless = 0; nameless < 2; nameless++) {
        g_autofree char *path =
            g_strdup_printf("/ctl/newfile/%s%s", name, nameless ? "/nameless" : "");

        g_test_add(path, Rig, GINT_TO_POINTER(nameless), set_up, test, tear_down);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("kept", test_kept);
    add("removed", test_removed);
    add("replaced", test_replaced);
    g_test_add("/ctl/newfile/taken", Rig, NULL, set_up, test_taken, tear_down);
    g_test_add("/ctl/newfile/there-before", Rig, NULL, set_up, test_there_before, tear_down);
    return g_test_run();
}
