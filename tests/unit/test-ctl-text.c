/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What wharfctl makes of text: near matches, sizes, escapes, options, image headers, names. */
#include <string.h>

#include "ctl/ctl.h"
#include "ctl/image.h"
#include "ctl/options.h"
#include "ctl/recipe.h"
#include "ctl/text.h"

static void test_nearest(void)
{
    static const char *const names[] = {"blockdev-add", "blockdev-del", "block-export-add", "ls",
                                        "query-block-exports"};
    static const struct {
        const char *word, *meant;
    } cases[] = {
        {"blockdev-ad", "blockdev-add"},
        {"blockdev_add", "blockdev-add"},
        {"BLOCKDEV-ADD", "blockdev-add"},
        {"blokcdev-dle", "blockdev-del"},
        {"query-block-export", "query-block-exports"},
        {"lss", "ls"},
        {"ls", "ls"},
        {"x", NULL},
        {"mount", NULL},
        {"", NULL},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_assert_cmpstr(ctl_text_nearest(cases[i].word, names, G_N_ELEMENTS(names)), ==,
                        cases[i].meant);
    }
}

/* Longer than any name: no answer, and no harm. */
static void test_nearest_long(void)
{
    static const char *const names[] = {"ls"};
    g_autofree char *word = g_strnfill(100000, 'x');
    const char *const long_name[] = {word};

    g_assert_null(ctl_text_nearest(word, names, 1));
    g_assert_null(ctl_text_nearest("x", long_name, 1));
}

static void test_integers(void)
{
    static const struct {
        const char *text;
        bool ok, negative;
        guint64 value;
    } cases[] = {
        {"0", true, false, 0},
        {"-0", true, false, 0},
        {"007", true, false, 7},
        {"1k", true, false, 1024},
        {"1K", true, false, 1024},
        {"1KiB", true, false, 1024},
        {"1kB", true, false, 1024},
        {"512B", true, false, 512},
        {"10M", true, false, 10 << 20},
        {"1.5G", true, false, G_GUINT64_CONSTANT(3) << 29},
        {"0.5k", true, false, 512},
        {"15E", true, false, G_GUINT64_CONSTANT(15) << 60},
        {"0x1f", true, false, 31},
        {"-0x10", true, true, 16},
        {"-1", true, true, 1},
        {"18446744073709551615", true, false, G_MAXUINT64},
        {"-9223372036854775808", true, true, G_GUINT64_CONSTANT(1) << 63},
        {"18446744073709551616", false},
        {"-9223372036854775809", false},
        {"16E", false},
        {"15.9999999999E", false},
        {"0.1k", false},
        {"1.5", false},
        {"1.", false},
        {".5", false},
        {"", false},
        {"-", false},
        {"+1", false},
        {" 1", false},
        {"1 ", false},
        {"0x", false},
        {"0x10k", false},
        {"1x", false},
        {"1kk", false},
        {"1kiBx", false},
        {"k", false},
        {"1e3", false},
        {"on", false},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        bool negative = false;
        guint64 value = 0;

        g_test_message("%s", cases[i].text);
        g_assert_cmpint(ctl_text_parse_integer(cases[i].text, &negative, &value), ==, cases[i].ok);
        g_assert_cmpint(negative, ==, cases[i].negative);
        g_assert_cmpuint(value, ==, cases[i].value);
    }
}

static void test_sizes(void)
{
    static const struct {
        guint64 bytes;
        const char *text;
    } cases[] = {
        {0, "0 B"},           {1, "1 B"},
        {1023, "1023 B"},     {1024, "1 KiB"},
        {1536, "1.5 KiB"},    {1024 * 1024 - 1, "1.0 MiB"},
        {10 << 20, "10 MiB"}, {G_MAXUINT64, "16 EiB"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = ctl_text_size(cases[i].bytes);

        g_assert_cmpstr(text, ==, cases[i].text);
    }
}

/* Nothing that a daemon sends may move the cursor or fake a line. */
static void test_printable(void)
{
    static const struct {
        const char *raw;
        gssize length;
        const char *shown;
    } cases[] = {
        {"plain", -1, "plain"},         {"gr\xc3\xbc\xc3\x9f", -1, "gr\xc3\xbc\xc3\x9f"},
        {"a\nb\tc", -1, "a\\nb\\tc"},   {"\033[31m", -1, "\\x1b[31m"},
        {"\xff\xfe", -1, "\\xff\\xfe"}, {"a\0b", 3, "a\\x00b"},
        {"\xc2\x9b", -1, "\\u009b"},    {"\xe2\x80\xae", -1, "\\u202e"},
        {"\xc3", -1, "\\xc3"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *shown = ctl_text_printable(cases[i].raw, cases[i].length);

        g_assert_cmpstr(shown, ==, cases[i].shown);
    }
}

static void test_wrap(void)
{
    static const struct {
        const char *text;
        gsize column, indent, width;
        const char *wrapped;
    } cases[] = {
        {"one two three", 0, 0, 80, "one two three\n"},
        {"one two three", 0, 2, 8, "one two\n  three\n"},
        {"one two", 6, 6, 9, "one\n      two\n"},
        {"one\ntwo", 2, 2, 80, "one\n  two\n"},
        {"averylongword x", 0, 1, 5, "averylongword\n x\n"},
        {"", 0, 0, 80, "\n"},
        {"a\033[2Jb", 0, 0, 80, "a\\x1b[2Jb\n"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GString) out = g_string_new(NULL);

        ctl_text_wrap(out, cases[i].text, cases[i].column, cases[i].indent, cases[i].width);
        g_assert_cmpstr(out->str, ==, cases[i].wrapped);
    }
}

static void test_shell_word(void)
{
    g_autofree char *plain = ctl_text_shell_word("/a/b-c_1.img");
    g_autofree char *blank = ctl_text_shell_word("/a b");
    g_autofree char *empty = ctl_text_shell_word("");

    g_assert_cmpstr(plain, ==, "/a/b-c_1.img");
    g_assert_cmpstr(blank, ==, "'/a b'");
    g_assert_cmpstr(empty, ==, "''");
}

/* ---- Options ---- */

typedef struct Parsed {
    bool flag, other;
    const char *name, *mode;
} Parsed;

static const CtlOption options[] = {
    {"flag", 'f', NULL, NULL, offsetof(Parsed, flag), ""},
    {"other", 'o', NULL, NULL, offsetof(Parsed, other), ""},
    {"name", 'n', "NAME", NULL, offsetof(Parsed, name), ""},
    {"mode", 0, "MODE", "on|off", offsetof(Parsed, mode), ""},
    {NULL},
};

static char **parse(const char *line, Parsed *parsed, bool stop, GError **error)
{
    const CtlOptionSet sets[] = {{NULL, NULL}, {options, parsed}};
    g_auto(GStrv) args = g_strsplit(line, " ", -1);
    g_autofree char **words = NULL;

    *parsed = (Parsed){0};
    words = ctl_options_parse(sets, 2, *line ? args : args + 0, stop, error);
    parsed->name = g_intern_string(parsed->name);
    parsed->mode = g_intern_string(parsed->mode);
    return words ? g_strdupv(words) : NULL;
}

static void test_options(void)
{
    static const struct {
        const char *line, *words;
        Parsed parsed;
    } cases[] = {
        {"a b", "a b", {0}},
        {"--flag a -o b", "a b", {.flag = true, .other = true}},
        {"a -fo", "a", {.flag = true, .other = true}},
        {"--name=x", "", {.name = "x"}},
        {"--name x y", "y", {.name = "x"}},
        {"--name= y", "y", {.name = ""}},
        {"-nx -n y", "", {.name = "y"}},
        {"-fn x", "", {.flag = true, .name = "x"}},
        {"--mode=on", "", {.mode = "on"}},
        {"- -- --flag", "- --flag", {0}},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        Parsed parsed;
        g_auto(GStrv) words = parse(cases[i].line, &parsed, false, &error);
        g_autofree char *joined = words ? g_strjoinv(" ", words) : NULL;

        g_assert_no_error(error);
        g_assert_cmpstr(joined, ==, cases[i].words);
        g_assert_cmpint(parsed.flag, ==, cases[i].parsed.flag);
        g_assert_cmpint(parsed.other, ==, cases[i].parsed.other);
        g_assert_cmpstr(parsed.name, ==, cases[i].parsed.name);
        g_assert_cmpstr(parsed.mode, ==, cases[i].parsed.mode);
    }
}

static void test_options_stop(void)
{
    g_autoptr(GError) error = NULL;
    Parsed parsed;
    g_auto(GStrv) words = parse("-f ls --json -x", &parsed, true, &error);
    g_autofree char *joined = NULL;

    g_assert_no_error(error);
    joined = g_strjoinv(" ", words);
    g_assert_cmpstr(joined, ==, "ls --json -x");
    g_assert_true(parsed.flag);
}

static void test_options_wrong(void)
{
    static const struct {
        const char *line, *part;
    } cases[] = {
        {"--flga", "did you mean '--flag'?"},
        {"--zzzzzzzz", "unknown option '--zzzzzzzz'"},
        {"-z", "unknown option '-z'"},
        {"-fz", "unknown option '-z' in '-fz'"},
        {"--name", "needs a value: --name=NAME"},
        {"-n", "needs a value"},
        {"--flag=1", "takes no value"},
        {"--mode=maybe", "only one of on, off"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        Parsed parsed;
        g_auto(GStrv) words = parse(cases[i].line, &parsed, false, &error);

        g_assert_null(words);
        g_assert_error(error, CTL_ERROR, CTL_ERROR_USAGE);
        g_assert_nonnull(strstr(error->message, cases[i].part));
    }
}

/* ---- Images ---- */

static void test_probe(void)
{
    char block[512] = {0};

    g_assert_null(ctl_image_probe(block, 0));
    g_assert_null(ctl_image_probe(block, sizeof(block)));
    memcpy(block, "QFI\xfb\0\0\0\3", 8);
    g_assert_cmpstr(ctl_image_probe(block, sizeof(block)), ==, "qcow2");
    g_assert_cmpstr(ctl_image_probe(block, 8), ==, "qcow2");
    g_assert_null(ctl_image_probe(block, 7));
    block[7] = 9;
    g_assert_null(ctl_image_probe(block, sizeof(block)));
    memset(block, 0, sizeof(block));
    memcpy(block + 64, "\x7f\x10\xda\xbe", 4);
    g_assert_cmpstr(ctl_image_probe(block, sizeof(block)), ==, "vdi");
    memcpy(block, "vhdxfile", 8);
    g_assert_cmpstr(ctl_image_probe(block, sizeof(block)), ==, "vhdx");
}

static void test_ids(void)
{
    static const struct {
        const char *path;
        unsigned nth;
        const char *id;
    } cases[] = {
        {"/a/disk.img", 1, "disk"},
        {"/a/disk.img", 2, "disk-2"},
        {"disk.qcow2", 1, "disk.qcow2"},
        {"/a/2024 backup (1).raw", 1, "image-2024-backup-1"},
        {"/a/.img", 1, "image-.img"},
        {"/a/---", 1, "image"},
        {"/dev/sda", 1, "sda"},
        {"/a/\xc3\xbc", 1, "image"},
        {"/a/abcdefghijklmnopqrstuvwxyz0123456789", 1, "abcdefghijklmnopqrstuvwxyz"},
        {"/a/abcdefghijklmnopqrstuvwxyz0123456789", 10, "abcdefghijklmnopqrstuvw-10"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *id = ctl_recipe_id(cases[i].path, cases[i].nth);
        g_autofree char *node = ctl_recipe_node_name(id);

        g_assert_cmpstr(id, ==, cases[i].id);
        g_assert_cmpuint(strlen(node), <=, 31);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ctl/text/nearest", test_nearest);
    g_test_add_func("/ctl/text/nearest-long", test_nearest_long);
    g_test_add_func("/ctl/text/integers", test_integers);
    g_test_add_func("/ctl/text/sizes", test_sizes);
    g_test_add_func("/ctl/text/printable", test_printable);
    g_test_add_func("/ctl/text/wrap", test_wrap);
    g_test_add_func("/ctl/text/shell-word", test_shell_word);
    g_test_add_func("/ctl/options/parse", test_options);
    g_test_add_func("/ctl/options/stop-at-word", test_options_stop);
    g_test_add_func("/ctl/options/wrong", test_options_wrong);
    g_test_add_func("/ctl/image/probe", test_probe);
    g_test_add_func("/ctl/recipe/ids", test_ids);
    return g_test_run();
}
