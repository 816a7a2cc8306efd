/* SPDX-License-Identifier: GPL-2.0-or-later */
/* key=value options to values. */
#include <glib.h>

#include "qapi/keyval.h"
#include "util/error.h"

typedef struct {
    const char *text;
    const char *implied;
    const char *result; /* as JSON, or the message */
} Case;

static void test_accepted(void)
{
    static const Case cases[] = {
        {"", NULL, "{}"},
        {"", "driver", "{}"},
        {"a=b", NULL, "{\"a\": \"b\"}"},
        {"a=b,", NULL, "{\"a\": \"b\"}"},
        {"a=,b=", NULL, "{\"a\": \"\", \"b\": \"\"}"},
        {"a=b=c", NULL, "{\"a\": \"b=c\"}"},
        {"a=1,a=2", NULL, "{\"a\": \"2\"}"},
        {"a=x,,y,b=,,", NULL, "{\"a\": \"x,y\", \"b\": \",\"}"},
        {"a=,,,b=1", NULL, "{\"a\": \",\", \"b\": \"1\"}"},
        {"a= x ", NULL, "{\"a\": \" x \"}"},
        {"a.b=1,a.c=2", NULL, "{\"a\": {\"b\": \"1\", \"c\": \"2\"}}"},
        {"a.b.c=1,d=2,a.b.e=3", NULL,
         "{\"a\": {\"b\": {\"c\": \"1\", \"e\": \"3\"}}, \"d\": \"2\"}"},
        {"a.0=x,a.1=y", NULL, "{\"a\": [\"x\", \"y\"]}"},
        {"a.1=y,a.0=x", NULL, "{\"a\": [\"x\", \"y\"]}"},
        {"a.0.b=x,a.1.0=y", NULL, "{\"a\": [{\"b\": \"x\"}, [\"y\"]]}"},
        {"a.0=x,a.0=y", NULL, "{\"a\": [\"y\"]}"},
        {"node-name=n,x_y=1,Z9=2", NULL, "{\"node-name\": \"n\", \"x_y\": \"1\", \"Z9\": \"2\"}"},
        {"raw,file=x", "driver", "{\"driver\": \"raw\", \"file\": \"x\"}"},
        {"raw", "driver", "{\"driver\": \"raw\"}"},
        {"raw,", "driver", "{\"driver\": \"raw\"}"},
        {"x=raw", "driver", "{\"x\": \"raw\"}"},
        {"raw,driver=file", "driver", "{\"driver\": \"file\"}"},
        {"a,,b", "path", "{\"path\": \"a,b\"}"},
        {"/some/path", "path", "{\"path\": \"/some/path\"}"},
        {"name=\xc3\xa4", NULL, "{\"name\": \"\\u00e4\"}"},
        {"name=\xff", NULL, "{\"name\": \"\\ufffd\"}"},
        {"{}", NULL, "{}"},
        {"{'a': {'b': [1, true]}}", "driver", "{\"a\": {\"b\": [1, true]}}"},
        {"{\"a\": 1}\n", NULL, "{\"a\": 1}"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(QValue) v = keyval_parse(cases[i].text, cases[i].implied, &error);
        g_autofree char *text = NULL;

        g_assert_no_error(error);
        text = qvalue_to_json_string(v);
        g_assert_cmpstr(text, ==, cases[i].result);
    }
}

static void test_refused(void)
{
    static const Case cases[] = {
        {"a", NULL, "Parameter 'a' lacks its value: write 'a=VALUE'"},
        {"a=1,server", NULL, "Parameter 'server' lacks its value: write 'server=VALUE'"},
        {"raw,off", "driver", "Parameter 'off' lacks its value: write 'off=VALUE'"},
        {",", NULL, "A parameter without a name: there is a comma too many"},
        {",a=1", "driver", "A parameter without a name: there is a comma too many"},
        {"a=1,,b=2,,,,c", NULL, NULL},
        {"=1", NULL, "A parameter without a name"},
        {"=1", "driver", "A parameter without a name"},
        {" {}", NULL, "Parameter ' {}' lacks its value: write ' {}=VALUE'"},
        {" {}=", NULL, "' {}' is no valid name of a parameter"},
        {"a b=1", NULL, "'a b' is no valid name of a parameter"},
        {"-a=1", NULL, "'-a' is no valid name of a parameter"},
        {".a=1", NULL, "'.a' is no valid name of a parameter"},
        {"a.=1", NULL, "'a.' is no valid name of a parameter"},
        {"a..b=1", NULL, "'a..b' is no valid name of a parameter"},
        {"a.01=1", NULL, "'a.01' is no valid name of a parameter"},
        {"a.1x=1", NULL, "'a.1x' is no valid name of a parameter"},
        {"a.9999999999=1", NULL, "'a.9999999999' is no valid name of a parameter"},
        {"\xff=1", NULL, "'\xef\xbf\xbd' is no valid name of a parameter"},
        {"a.1=x", NULL, "Parameter 'a.0' is missing in the list"},
        {"a.0=x,a.2=y", NULL, "Parameter 'a.1' is missing in the list"},
        {"b.a.0=x,b.a.2=y", NULL, "Parameter 'b.a.1' is missing in the list"},
        {"a.0.5=x", NULL, "Parameter 'a.0.0' is missing in the list"},
        {"a.0=x,a.b=y", NULL, "Parameter 'a' mixes members by name and elements by number"},
        {"0=x", NULL, "'0' is no valid name of a parameter"},
        {"0.a=x", NULL, "'0.a' is no valid name of a parameter"},
        {"a=1,a.b=2", NULL, "Parameter 'a.b' is given both a value and members of its own"},
        {"a.b=2,a=1", NULL, "Parameter 'a' is given both a value and members of its own"},
        {"a.b.c=2,a.b=1", NULL, "Parameter 'a.b' is given both a value and members of its own"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(QValue) v = keyval_parse(cases[i].text, cases[i].implied, &error);

        if (!cases[i].result) {
            continue; /* accepted or not, it must not crash */
        }
        if (v) {
            g_test_message("accepted: %s", cases[i].text);
        }
        g_assert_null(v);
        g_assert_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT);
        g_assert_cmpstr(error->message, ==, cases[i].result);
    }
}

static void test_bad_json(void)
{
    static const char *const texts[] = {"{",     "{'a': 1} x",       "{'a': 1}{}", "{'a': 1},b=2",
                                        "{a=1}", "{'a': 1, 'a': 2}", "{'a': \xff}"};

    for (gsize i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(keyval_parse(texts[i], "driver", &error));
        g_assert_error(error, WHARF_ERROR, WHARF_ERROR_PARSE);
    }
}

/* A key of very many parts is refused, however many. */
static void test_depth(void)
{
    for (unsigned parts = 60; parts < 70; parts++) {
        g_autoptr(GString) text = g_string_new("a");
        g_autoptr(GError) error = NULL;
        g_autoptr(QValue) v = NULL;

        for (unsigned i = 1; i < parts; i++) {
            g_string_append(text, ".a");
        }
        g_string_append(text, "=1");
        v = keyval_parse(text->str, NULL, &error);
        g_assert_cmpint(v != NULL, ==, parts <= 64);
    }
}

static void test_types(void)
{
    g_autoptr(QValue) typed = keyval_parse("{'a': 'on'}", NULL, NULL);
    g_autoptr(QValue) untyped = keyval_parse("on,b.0=off", "a", NULL);

    g_assert_false(qvalue_is_untyped(qvalue_object_get(typed, "a")));
    g_assert_true(qvalue_is_untyped(qvalue_object_get(untyped, "a")));
    g_assert_true(qvalue_is_untyped(qvalue_array_get(qvalue_object_get(untyped, "b"), 0)));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qapi/keyval/accepted", test_accepted);
    g_test_add_func("/qapi/keyval/refused", test_refused);
    g_test_add_func("/qapi/keyval/bad-json", test_bad_json);
    g_test_add_func("/qapi/keyval/depth", test_depth);
    g_test_add_func("/qapi/keyval/types", test_types);
    return g_test_run();
}
