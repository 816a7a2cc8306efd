/* SPDX-License-Identifier: GPL-2.0-or-later */
/* JSON values: what they hold and how they are written. */
#include <glib.h>
#include <stdlib.h>

#include "qapi/qvalue.h"

static void check_json(QValue *take, const char *expected)
{
    g_autoptr(QValue) v = take;
    g_autofree char *text = qvalue_to_json_string(v);

    g_assert_cmpstr(text, ==, expected);
}

static void test_scalars(void)
{
    check_json(qvalue_null(), "null");
    check_json(qvalue_bool(true), "true");
    check_json(qvalue_bool(false), "false");
    check_json(qvalue_int(0), "0");
    check_json(qvalue_int(INT64_MIN), "-9223372036854775808");
    check_json(qvalue_int(INT64_MAX), "9223372036854775807");
    check_json(qvalue_uint(UINT64_MAX), "18446744073709551615");
    check_json(qvalue_double(1.0), "1");
    check_json(qvalue_double(1e5), "100000");
    check_json(qvalue_double(-0.0), "0");
    check_json(qvalue_double(0.1), "0.1");
    check_json(qvalue_double(1.0 / 3), "0.3333333333333333");
    check_json(qvalue_double(5e-324), "4.94065645841247e-324");
    check_json(qvalue_double(-1.7976931348623157e308), "-1.7976931348623157e+308");
}

/* Whatever is written reads back as the same number. */
static void test_doubles_are_exact(void)
{
    double d = 1;

    for (int i = 0; i < 1000; i++) {
        g_autoptr(QValue) v = qvalue_double(d);
        g_autofree char *text = qvalue_to_json_string(v);

        g_assert_true(g_ascii_strtod(text, NULL) == d);
        d = d * -1.37 + 0.1;
    }
}

static void test_number_types(void)
{
    g_autoptr(QValue) small = qvalue_uint(INT64_MAX);
    g_autoptr(QValue) large = qvalue_uint((uint64_t)INT64_MAX + 1);
    g_autoptr(QValue) real = qvalue_double(2.5);

    g_assert_cmpint(qvalue_type(small), ==, QVALUE_INT);
    g_assert_cmpint(qvalue_get_int(small), ==, INT64_MAX);
    g_assert_cmpuint(qvalue_get_uint(small), ==, INT64_MAX);
    g_assert_cmpint(qvalue_type(large), ==, QVALUE_UINT);
    g_assert_cmpuint(qvalue_get_uint(large), ==, (uint64_t)INT64_MAX + 1);
    g_assert_cmpfloat(qvalue_get_double(large), ==, 9223372036854775808.0);
    g_assert_cmpfloat(qvalue_get_double(real), ==, 2.5);
}

static void test_strings(void)
{
    check_json(qvalue_string(""), "\"\"");
    check_json(qvalue_string("\"\\\b\f\n\r\t/"), "\"\\\"\\\\\\b\\f\\n\\r\\t/\"");
    check_json(qvalue_string("\x01\x1f\x7f"), "\"\\u0001\\u001f\\u007f\"");
    check_json(qvalue_string("\xc3\xa4"), "\"\\u00e4\"");
    check_json(qvalue_string("\xf0\x9f\x98\x80"), "\"\\ud83d\\ude00\"");
    check_json(qvalue_string_len("a\0b", 3), "\"a\\u0000b\"");
    check_json(qvalue_string("a\xff\xe4z"), "\"a\\ufffd\\ufffdz\"");
    check_json(qvalue_string("cut \xe2\x82"), "\"cut \\ufffd\\ufffd\"");
}

static void test_string_content(void)
{
    g_autoptr(QValue) v = qvalue_string_len("a\0b", 3);
    g_autoptr(QValue) untyped = qvalue_string_untyped("on");
    gsize len = 0;

    g_assert_cmpmem(qvalue_get_string(v, &len), 4, "a\0b", 4);
    g_assert_cmpuint(len, ==, 3);
    g_assert_false(qvalue_is_untyped(v));
    g_assert_true(qvalue_is_untyped(untyped));
    g_assert_cmpstr(qvalue_get_string(untyped, NULL), ==, "on");
}

static void test_array(void)
{
    g_autoptr(QValue) a = qvalue_array();

    g_assert_cmpuint(qvalue_array_length(a), ==, 0);
    qvalue_array_append(a, qvalue_int(1));
    qvalue_array_append(a, qvalue_array());
    g_assert_cmpuint(qvalue_array_length(a), ==, 2);
    g_assert_cmpint(qvalue_get_int(qvalue_array_get(a, 0)), ==, 1);
    check_json(qvalue_ref(a), "[1, []]");
}

static void test_object(void)
{
    g_autoptr(QValue) o = qvalue_object();

    qvalue_object_set(o, "b", qvalue_int(1));
    qvalue_object_set(o, "a", qvalue_int(2));
    qvalue_object_set(o, "b", qvalue_int(3));
    check_json(qvalue_ref(o), "{\"b\": 3, \"a\": 2}");
    g_assert_cmpuint(qvalue_object_size(o), ==, 2);
    g_assert_cmpstr(qvalue_object_key(o, 1), ==, "a");
    g_assert_cmpint(qvalue_get_int(qvalue_object_value(o, 1)), ==, 2);
    g_assert_true(qvalue_object_has(o, "a"));
    g_assert_null(qvalue_object_get(o, "c"));
    g_assert_true(qvalue_object_remove(o, "b"));
    g_assert_false(qvalue_object_remove(o, "b"));
    check_json(qvalue_ref(o), "{\"a\": 2}");
}

/* With many members an object has an index; it must agree with the members. */
static void test_large_object(void)
{
    enum {
        N = 100
    };
    g_autoptr(QValue) o = qvalue_object();
    gsize at;

    for (int i = 0; i < N; i++) {
        g_autofree char *key = g_strdup_printf("key%d", i);

        qvalue_object_set(o, key, qvalue_int(i));
    }
    for (int i = 0; i < N; i += 2) {
        g_autofree char *key = g_strdup_printf("key%d", i);

        g_assert_true(qvalue_object_remove(o, key));
    }
    qvalue_object_set(o, "key1", qvalue_int(-1));
    g_assert_cmpuint(qvalue_object_size(o), ==, N / 2);
    for (int i = 0; i < N; i++) {
        g_autofree char *key = g_strdup_printf("key%d", i);

        g_assert_cmpint(qvalue_object_find(o, key, &at), ==, i % 2);
        if (i % 2) {
            g_assert_cmpuint(at, ==, i / 2);
            g_assert_cmpint(qvalue_get_int(qvalue_object_get(o, key)), ==, i == 1 ? -1 : i);
        }
    }
}

static QValue *sample(const char *last)
{
    QValue *o = qvalue_object();
    QValue *a = qvalue_array();

    qvalue_array_append(a, qvalue_bool(true));
    qvalue_array_append(a, qvalue_int(-1));
    qvalue_array_append(a, qvalue_uint(UINT64_MAX));
    qvalue_array_append(a, qvalue_double(1.5));
    qvalue_array_append(a, qvalue_string(last));
    qvalue_object_set(o, "a", a);
    qvalue_object_set(o, "n", qvalue_null());
    return o;
}

static void test_equal(void)
{
    g_autoptr(QValue) a = sample("x"), b = sample("x"), c = sample("y");
    g_autoptr(QValue) i = qvalue_int(1), d = qvalue_double(1);
    g_autoptr(QValue) short_string = qvalue_string("a"), long_string = qvalue_string_len("a\0", 2);

    g_assert_true(qvalue_equal(a, b));
    g_assert_false(qvalue_equal(a, c));
    g_assert_false(qvalue_equal(i, d));
    g_assert_false(qvalue_equal(short_string, long_string));
    qvalue_object_remove(b, "a");
    qvalue_object_set(b, "a", qvalue_ref(qvalue_object_get(a, "a")));
    g_assert_true(qvalue_equal(a, b)); /* in another order */
    qvalue_object_set(b, "z", qvalue_null());
    g_assert_false(qvalue_equal(a, b));
}

static void test_pretty(void)
{
    g_autoptr(QValue) v = sample("x");
    g_autoptr(GString) out = g_string_new(NULL);

    qvalue_object_set(v, "e", qvalue_array());
    qvalue_object_set(v, "o", qvalue_object());
    qvalue_to_json(v, out, 4);
    g_assert_cmpstr(out->str, ==,
                    "{\r\n"
                    "    \"a\": [\r\n"
                    "        true,\r\n"
                    "        -1,\r\n"
                    "        18446744073709551615,\r\n"
                    "        1.5,\r\n"
                    "        \"x\"\r\n"
                    "    ],\r\n"
                    "    \"n\": null,\r\n"
                    "    \"e\": [\r\n"
                    "    ],\r\n"
                    "    \"o\": {\r\n"
                    "    }\r\n"
                    "}");
}

/* Freeing and writing must not recurse: whoever sends a value chooses its depth. */
static void test_deep(void)
{
    enum {
        DEPTH = 200000
    };
    QValue *v = qvalue_array();
    g_autoptr(GString) out = g_string_new(NULL);

    for (int i = 1; i < DEPTH; i++) {
        QValue *outer = qvalue_array();

        qvalue_array_append(outer, v);
        v = outer;
    }
    qvalue_to_json(v, out, 0);
    g_assert_cmpuint(out->len, ==, 2 * DEPTH);
    qvalue_unref(v);
}

static void test_shared(void)
{
    QValue *inner = qvalue_string("x");
    QValue *outer = qvalue_array();

    qvalue_array_append(outer, qvalue_ref(inner));
    qvalue_array_append(outer, qvalue_ref(inner));
    qvalue_unref(outer);
    g_assert_cmpstr(qvalue_get_string(inner, NULL), ==, "x");
    qvalue_unref(inner);
    qvalue_unref(NULL);
}

static void test_type_names(void)
{
    g_autoptr(QValue) n = qvalue_null(), b = qvalue_bool(true), i = qvalue_uint(UINT64_MAX),
                      d = qvalue_double(1), s = qvalue_string(""), a = qvalue_array(),
                      o = qvalue_object();

    g_assert_cmpstr(qvalue_type_name(n), ==, "null");
    g_assert_cmpstr(qvalue_type_name(b), ==, "a boolean");
    g_assert_cmpstr(qvalue_type_name(i), ==, "an integer");
    g_assert_cmpstr(qvalue_type_name(d), ==, "a number");
    g_assert_cmpstr(qvalue_type_name(s), ==, "a string");
    g_assert_cmpstr(qvalue_type_name(a), ==, "an array");
    g_assert_cmpstr(qvalue_type_name(o), ==, "an object");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qapi/qvalue/scalars", test_scalars);
    g_test_add_func("/qapi/qvalue/doubles-are-exact", test_doubles_are_exact);
    g_test_add_func("/qapi/qvalue/number-types", test_number_types);
    g_test_add_func("/qapi/qvalue/strings", test_strings);
    g_test_add_func("/qapi/qvalue/string-content", test_string_content);
    g_test_add_func("/qapi/qvalue/array", test_array);
    g_test_add_func("/qapi/qvalue/object", test_object);
    g_test_add_func("/qapi/qvalue/large-object", test_large_object);
    g_test_add_func("/qapi/qvalue/equal", test_equal);
    g_test_add_func("/qapi/qvalue/pretty", test_pretty);
    g_test_add_func("/qapi/qvalue/deep", test_deep);
    g_test_add_func("/qapi/qvalue/shared", test_shared);
    g_test_add_func("/qapi/qvalue/type-names", test_type_names);
    return g_test_run();
}
