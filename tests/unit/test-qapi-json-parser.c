/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The JSON parser: what it takes, what it refuses, and how it goes on after each error.
 *
 * Sessions are written as input and as what comes out of it: the values, one line each as they are
 * written back, or "!" for an error. Each session is fed whole, byte by byte, and in pieces.
 */
#include <glib.h>
#include <string.h>

#include "qapi/json-parser.h"
#include "util/error.h"

/* A good message to end a session with, and what it comes out as. */
#define NEXT     "{\"n\":1}"
#define NEXT_OUT "{\"n\": 1}\n"

static void log_item(void *opaque, QValue *value, GError *error)
{
    GString *log = opaque;

    g_assert_true((value != NULL) != (error != NULL));
    if (value) {
        qvalue_to_json(value, log, 0);
    } else {
        g_assert_error(error, WHARF_ERROR, WHARF_ERROR_PARSE);
        g_assert_true(g_str_has_prefix(error->message, "line "));
        g_string_append_c(log, '!');
    }
    g_string_append_c(log, '\n');
}

/* What comes out of @n bytes of @in fed in pieces of @piece. */
static char *feed(const JsonLimits *limits, bool strict, const char *in, gsize n, gsize piece)
{
    GString *log = g_string_new(NULL);
    g_autoptr(JsonParser) parser = json_parser_new(limits, strict, log_item, log);

    for (gsize i = 0; i < n; i += piece) {
        json_parser_feed(parser, in + i, MIN(piece, n - i));
    }
    return g_string_free(log, FALSE);
}

static void check_bytes(bool strict, const char *in, gsize n, const char *out)
{
    const gsize pieces[] = {n ? n : 1, 1, 2, 3, 7};

    for (gsize i = 0; i < G_N_ELEMENTS(pieces); i++) {
        g_autofree char *log = feed(NULL, strict, in, n, pieces[i]);

        if (strcmp(log, out) != 0) {
            g_test_message("input: %s, in pieces of %" G_GSIZE_FORMAT, in, pieces[i]);
        }
        g_assert_cmpstr(log, ==, out);
    }
}

typedef struct {
    const char *in;
    const char *out;
} Session;

#define CHECK_ALL(strict, sessions)                                                                \
    for (gsize i_ = 0; i_ < G_N_ELEMENTS(sessions); i_++) {                                        \
        check_bytes(strict, sessions[i_].in, strlen(sessions[i_].in), sessions[i_].out);           \
    }

static void test_values(void)
{
    static const Session sessions[] = {
        {"{}", "{}\n"},
        {"[]", "[]\n"},
        {"{\"a\":[1,{\"b\":null}],\"c\":{}}", "{\"a\": [1, {\"b\": null}], \"c\": {}}\n"},
        {"[true,false,null]", "[true, false, null]\n"},
        {"\"x\"", "\"x\"\n"},
        /* A number or word ends with what follows it. */
        {"5", ""},
        {"5 ", "5\n"},
        {"null\n", "null\n"},
        {"5{}", "5\n{}\n"},
        {"5\"x\"", "5\n\"x\"\n"},
        {"true[]", "true\n[]\n"},
        /* Framing needs no white space, and may have any. */
        {"{}{}[]", "{}\n{}\n[]\n"},
        {" \t\r\n{ \t\r\n\"a\" \t\r\n: \t\r\n1 \t\r\n} \t\r\n{}", "{\"a\": 1}\n{}\n"},
        {"\"a\"\"b\"", "\"a\"\n\"b\"\n"},
    };

    CHECK_ALL(false, sessions);
    CHECK_ALL(true, sessions);
}

static void test_numbers(void)
{
    static const Session sessions[] = {
        {"[0,-0,1,-1]", "[0, 0, 1, -1]\n"},
        {"[9223372036854775807,9223372036854775808,18446744073709551615]",
         "[9223372036854775807, 9223372036854775808, 18446744073709551615]\n"},
        {"[-9223372036854775808]", "[-9223372036854775808]\n"},
        {"[18446744073709551616]", "[1.8446744073709552e+19]\n"},
        {"[-9223372036854775809]", "[-9.223372036854776e+18]\n"},
        {"[1.0,1e5,1E+2,1e-1,-1.5e0,0.125,0e0]", "[1, 100000, 100, 0.1, -1.5, 0.125, 0]\n"},
        {"[1e-400]", "[0]\n"},
        {"[1E400]" NEXT, "!\n" NEXT_OUT},
        {"[-1e999]" NEXT, "!\n" NEXT_OUT},
        /* Lexical errors: what is left of the array is new input. */
        {"[01]" NEXT, "!\n!\n" NEXT_OUT},
        {"[-01]" NEXT, "!\n!\n" NEXT_OUT},
        {"[+1]" NEXT, "!\n!\n" NEXT_OUT},
        {"[1.]" NEXT, "!\n!\n" NEXT_OUT},
        {"[.5]" NEXT, "!\n!\n" NEXT_OUT},
        {"[1e]" NEXT, "!\n!\n" NEXT_OUT},
        {"[1e+]" NEXT, "!\n!\n" NEXT_OUT},
        {"[-]" NEXT, "!\n!\n" NEXT_OUT},
        {"[NaN]" NEXT, "!\n!\n" NEXT_OUT},
        {"[0x10]" NEXT, "!\n" NEXT_OUT}, /* 0, then the word x */
        {"-" NEXT, "!\n" NEXT_OUT},
    };

    CHECK_ALL(false, sessions);
    CHECK_ALL(true, sessions);
}

static void test_strings(void)
{
    static const Session sessions[] = {
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\\"\\\\/\\b\\f\\n\\r\\t\"\n"},
        {"\"\\u0041\\u00e4\\u20ac\\uABCD\\uabcd\"", "\"A\\u00e4\\u20ac\\uabcd\\uabcd\"\n"},
        {"\"\\ud83d\\ude00\"", "\"\\ud83d\\ude00\"\n"},
        {"\"\\u0000\"", "\"\\u0000\"\n"},
        {"\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\x7f\"",
         "\"\\u00e4\\u20ac\\ud83d\\ude00\\u007f\"\n"},
        {"\"'\"", "\"'\"\n"},
        {"\"a\\u0000b\"", "\"a\\u0000b\"\n"},
        /* Wrong inside, but the string ends where it ends. */
        {"[\"\\x\"]" NEXT, "!\n" NEXT_OUT},
        {"[\"\\ud800\"]" NEXT, "!\n" NEXT_OUT},
        {"[\"\\udc00\"]" NEXT, "!\n" NEXT_OUT},
        {"[\"\\ud800x\"]" NEXT, "!\n" NEXT_OUT},
        {"[\"\\ud800\\n\"]" NEXT, "!\n" NEXT_OUT},
        {"[\"\\ud800\\u0041\"]" NEXT, "!\n" NEXT_OUT},
        {"[\"\\ud800\\ud800\\udc00\"]" NEXT, "!\n" NEXT_OUT},
        {"[\"\\u12\"]" NEXT, "!\n" NEXT_OUT},
        {"[\"\\u12x4\"]" NEXT, "!\n" NEXT_OUT},
        {"[\"\xed\xa0\x80\"]" NEXT, "!\n" NEXT_OUT},     /* an encoded surrogate */
        {"[\"\xc1\x81\"]" NEXT, "!\n" NEXT_OUT},         /* overlong */
        {"[\"\xe0\x80\x80\"]" NEXT, "!\n" NEXT_OUT},     /* overlong */
        {"[\"\xf4\x90\x80\x80\"]" NEXT, "!\n" NEXT_OUT}, /* above U+10FFFF */
        {"[\"\x80\"]" NEXT, "!\n" NEXT_OUT},             /* continues nothing */
        {"[\"\xe2\x82\"]" NEXT, "!\n" NEXT_OUT},         /* cut short */
        {"[\"\xe2\\u0082\"]" NEXT, "!\n" NEXT_OUT},      /* cut by an escape */
        /* Control characters and 0xff are lexical errors. */
        {"[\"a\tb\"]" NEXT, "!\n!\n" NEXT_OUT},
        {"[\"a\nb\"]" NEXT, "!\n!\n" NEXT_OUT},
        {"[\"a\x01" NEXT, "!\n" NEXT_OUT},
        {"[\"a\\\x01" NEXT, "!\n" NEXT_OUT},
        {"[\"a\xff" NEXT, "!\n" NEXT_OUT},
        {"[\"a\\u\xff" NEXT, "!\n" NEXT_OUT},
    };

    CHECK_ALL(false, sessions);
    CHECK_ALL(true, sessions);
}

static void test_qmp_dialect(void)
{
    static const Session sessions[] = {
        {"{'a':'b'}", "{\"a\": \"b\"}\n"},
        {"'\"'", "\"\\\"\"\n"},
        {"'\\''\"\\'\"", "\"'\"\n\"'\"\n"},
        {"\"\xc0\x80\"", "\"\\u0000\"\n"},
        {"[\"\\uffff\"]" NEXT, "!\n" NEXT_OUT},
        {"[\"\\ufdd0\"]" NEXT, "!\n" NEXT_OUT},
        {"[\"\\ud83f\\udffe\"]" NEXT, "!\n" NEXT_OUT},
        {"[\"\xef\xbf\xbf\"]" NEXT, "!\n" NEXT_OUT},
        {"[\"\xef\xb7\x90\"]" NEXT, "!\n" NEXT_OUT},
    };

    CHECK_ALL(false, sessions);
}

static void test_strict_dialect(void)
{
    static const Session sessions[] = {
        {"{'a':1}\n" NEXT, "!\n!\n1\n!\n" NEXT_OUT},
        {"[\"\\'\"]" NEXT, "!\n" NEXT_OUT},
        {"[\"\xc0\x80\"]" NEXT, "!\n" NEXT_OUT},
        {"\"\\uffff\xef\xbf\xbf\"", "\"\\uffff\\uffff\"\n"},
        {"\"\\ud83f\\udffe\"", "\"\\ud83f\\udffe\"\n"},
    };

    CHECK_ALL(true, sessions);
}

/* Errors of grammar: one each, and the next value works. */
static void test_grammar_errors(void)
{
    static const char *const broken[] = {
        "{\"a\":1,}",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":,}",
        "{\"a\" 1}",
        "{\"a\":1 2}",
        "{\"a\":1 \"b\":2}",
        "{1:2}",
        "{[]:1}",
        "{{}:1}",
        "{null:1}",
        "[1,]",
        "[,]",
        "[1 2]",
        "[1,,2]",
        "[:]",
        "[1:2]",
        "{\"a\"::1}",
        "[1}",
        "[}",
        "{\"a\":1]",
        "{]",
        "}",
        "]",
        ",",
        ":",
        "foo ",
        "nul ",
        "truex ",
        "{\"a\":foo}",
        "[[[1,]]]",
        "{\"a\":[1,]}",
        "{\"a\":{\"b\":}}",
        "{\"a\":1,\"a\":2}",
        "{\"a\":{\"b\":1,\"b\":2}}",
        "{\"a\":1,\"\\u0061\":2}",
    };

    for (gsize i = 0; i < G_N_ELEMENTS(broken); i++) {
        g_autofree char *in = g_strconcat(broken[i], NEXT, NULL);

        check_bytes(false, in, strlen(in), "!\n" NEXT_OUT);
        check_bytes(true, in, strlen(in), "!\n" NEXT_OUT);
    }
}

/* The rest of a broken value is dropped up to its balanced end, and no further. */
static void test_balance(void)
{
    static const Session sessions[] = {
        {"{\"a\":,\"b\":[{},[]],\"c\":\"}\"}" NEXT, "!\n" NEXT_OUT},
        {"{\"a\":}}" NEXT, "!\n!\n" NEXT_OUT},
        {"{]}" NEXT, "!\n!\n" NEXT_OUT},
        {"{\"a\":1}}" NEXT, "{\"a\": 1}\n!\n" NEXT_OUT},
        {"1,2 ", "1\n!\n2\n"},
        /* What never balances swallows all that follows ... */
        {"{\"a\":[}" NEXT NEXT, "!\n"},
        /* ... until a lexical error resets, without an error of its own. */
        {"{\"a\":[}" NEXT "\x01" NEXT, "!\n" NEXT_OUT},
        {"{\"a\":[}" NEXT "\xff" NEXT, "!\n" NEXT_OUT},
        {"{\"a\":[}\"\x01" NEXT, "!\n" NEXT_OUT},
    };

    CHECK_ALL(false, sessions);
    CHECK_ALL(true, sessions);
}

/* Bytes that start no token. */
static void test_lexical_errors(void)
{
    static const Session sessions[] = {
        {"\x01" NEXT, "!\n" NEXT_OUT},
        {"\x0b" NEXT, "!\n" NEXT_OUT},
        {"\x7f" NEXT, "!\n" NEXT_OUT},
        {"\xff" NEXT, "!\n" NEXT_OUT},
        {"\xef\xbb\xbf" NEXT, "!\n" NEXT_OUT}, /* a byte order mark */
        {"%" NEXT, "!\n" NEXT_OUT},
        {"@@\n@@\n" NEXT, "!\n!\n" NEXT_OUT},
        {"{\"a\":%}" NEXT, "!\n!\n" NEXT_OUT},
        {"{\"a\":/*x*/1}" NEXT, "!\n!\n" NEXT_OUT},
        {"{\"a\":A}" NEXT, "!\n!\n" NEXT_OUT},
        {"{\"a\":\x01" NEXT, "!\n" NEXT_OUT},
        {"{\"a\":1,\x01" NEXT, "!\n" NEXT_OUT},
        {"+1\n5 ", "!\n5\n"},
        {"+1\r5 ", "!\n5\n"},
        {"+1 5 ", "!\n"},
        {"+1\t5 ", "!\n"},
        {"+\"a\"[]", "!\n[]\n"},
        {"+\x01", "!\n!\n"},
    };

    CHECK_ALL(false, sessions);
    CHECK_ALL(true, sessions);
    check_bytes(false, "\0{}", 3, "!\n{}\n");
    check_bytes(false, "{\"a\0", 4, "!\n");
}

/* Names of members may hold U+0000 and stay different then. */
static void test_nul_in_names(void)
{
    static const Session sessions[] = {
        {"{\"a\\u0000b\":1,\"a\":2,\"\":3,\"\\u0000\":4}",
         "{\"a\\u0000b\": 1, \"a\": 2, \"\": 3, \"\\u0000\": 4}\n"},
        {"{\"\\u0000\":1,\"\\u0000\":2}" NEXT, "!\n" NEXT_OUT},
    };

    CHECK_ALL(false, sessions);
    CHECK_ALL(true, sessions);
}

static char *repeat(const char *text, gsize n)
{
    GString *s = g_string_new(NULL);

    for (gsize i = 0; i < n; i++) {
        g_string_append(s, text);
    }
    return g_string_free(s, FALSE);
}

static void check_depth(const char *open, const char *close, gsize depth, bool fits)
{
    g_autofree char *head = repeat(open, depth), *tail = repeat(close, depth);
    g_autofree char *in = g_strconcat(head, tail, NEXT, NULL);
    g_autofree char *log = feed(NULL, false, in, strlen(in), 4096);

    if (fits) {
        g_assert_true(g_str_has_suffix(log, "\n" NEXT_OUT));
        g_assert_true(log[0] != '!');
    } else {
        g_assert_cmpstr(log, ==, "!\n" NEXT_OUT);
    }
}

static void test_depth(void)
{
    check_depth("[", "]", 1024, true);
    check_depth("[", "]", 1025, false);
    check_depth("[", "]", 100000, false);
    check_depth("{\"a\":[", "]}", 512, true);
    check_depth("[{\"a\":", "}]", 513, false);
}

static void check_limits(const JsonLimits *limits, const char *in, const char *out)
{
    for (gsize piece = 1; piece < 20; piece++) {
        g_autofree char *log = feed(limits, false, in, strlen(in), piece);

        if (strcmp(log, out) != 0) {
            g_test_message("input: %s, in pieces of %" G_GSIZE_FORMAT, in, piece);
        }
        g_assert_cmpstr(log, ==, out);
    }
}

static void test_tokens(void)
{
    static const JsonLimits limits = {.max_bytes = 1000, .max_tokens = 7, .max_depth = 10};

    check_limits(&limits, "[1,2,3]" NEXT, "[1, 2, 3]\n" NEXT_OUT);
    check_limits(&limits, "[1,2,3,4]" NEXT, "!\n" NEXT_OUT);
    check_limits(&limits, "[1,2,3,{\"a\":[\"]}\"]},4]" NEXT, "!\n" NEXT_OUT);
}

static void test_bytes(void)
{
    static const JsonLimits limits = {.max_bytes = 10, .max_tokens = 1000, .max_depth = 10};

    check_limits(&limits, "                    {}" NEXT, "{}\n" NEXT_OUT); /* blanks do not count */
    check_limits(&limits, "[12345678]" NEXT, "[12345678]\n" NEXT_OUT);
    check_limits(&limits, "[123456789]" NEXT, "!\n" NEXT_OUT);
    check_limits(&limits, "[         ]" NEXT, "!\n" NEXT_OUT);
    check_limits(&limits, "\"12345678\"" NEXT, "\"12345678\"\n" NEXT_OUT);
    check_limits(&limits, "\"123456789\"" NEXT, "!\n" NEXT_OUT);
    check_limits(&limits, "\"1234567890123456789012345\"" NEXT, "!\n" NEXT_OUT);
    check_limits(&limits, "[\"1234567890123456789012345\"]" NEXT, "!\n" NEXT_OUT);
    check_limits(&limits, "1234567890 " NEXT, "1234567890\n" NEXT_OUT);
    check_limits(&limits, "12345678901 " NEXT, "!\n" NEXT_OUT);
    check_limits(&limits, "truetruetruetruetrue " NEXT, "!\n" NEXT_OUT);
    /* Each value begins counting anew, also after an error. */
    check_limits(&limits,
                 NEXT NEXT "[12345678]"
                           "]"
                           "[12345678]",
                 NEXT_OUT NEXT_OUT "[12345678]\n!\n[12345678]\n");
}

/* The default is what qemu-storage-daemon allows; a value of a few MiB is nothing special. */
static void test_default_limits(void)
{
    g_autofree char *body = repeat("1234567,", 100000);
    g_autofree char *text = g_strconcat("[", body, "0]", NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(QValue) v = qvalue_from_json(text, -1, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(qvalue_array_length(v), ==, 100001);
    g_assert_cmpuint(json_limits_default.max_bytes, ==, 64 * 1024 * 1024);
    g_assert_cmpuint(json_limits_default.max_tokens, ==, 2 * 1024 * 1024);
    g_assert_cmpuint(json_limits_default.max_depth, ==, 1024);
}

typedef struct {
    const char *in;
    const char *message;
} Message;

static void test_messages(void)
{
    static const Message cases[] = {
        {"", "there is no JSON value"},
        {" \n", "there is no JSON value"},
        {"{} {}", "text follows the JSON value"},
        {"{} x", "line 1, column 4: unknown word 'x'"},
        {"{\n \"a\": foo}", "line 2, column 7: unknown word 'foo'"},
        {"{", "line 1, column 2: the input ends inside a value"},
        {"[\"a", "line 1, column 4: the input ends inside a value"},
        {"\"a\\", "line 1, column 1: a control character or 0xff in a string that is not closed"},
        {"-", "line 1, column 1: stray '-\\x0a'"},
        {"{\"a\":1,}", "line 1, column 8: trailing ','"},
        {"{\"a\" 1}", "line 1, column 6: expected ':' after the name of a member"},
        {"{1}", "line 1, column 2: expected the name of a member in quotes"},
        {"[1 2]", "line 1, column 4: expected ',' or ']' after an element"},
        {"{\"a\":1 2}", "line 1, column 8: expected ',' or '}' after a member"},
        {"[1,]", "line 1, column 4: expected a value"},
        {"{\"a\":]", "line 1, column 6: ']' where '}' has to close an object"},
        {"[}", "line 1, column 2: '}' where ']' has to close an array"},
        {"]", "line 1, column 1: nothing is open that this bracket could close"},
        {"[,]", "line 1, column 2: unexpected ','"},
        {"[:]", "line 1, column 2: unexpected ':'"},
        {"{\"a\":1,\"a\":2}", "line 1, column 8: member 'a' is there already"},
        {"[1e999]", "line 1, column 2: a number too large for a double"},
        {"[\"\\x\"]", "line 1, column 2: an unknown escape sequence in a string"},
        {"[\"\\ud800\"]", "line 1, column 2: half of a surrogate pair in a string"},
        {"[\"\\uffff\"]", "line 1, column 2: a noncharacter in a string"},
        {"[\"\\u1\"]", "line 1, column 2: \\u without four hexadecimal digits in a string"},
        {"[\"\x80\"]", "line 1, column 2: a string that is not valid UTF-8"},
        {"[%]", "line 1, column 2: stray '%'"},
        {"\xff", "line 1, column 1: stray '\\xff'"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(QValue) v = qvalue_from_json(cases[i].in, -1, &error);

        g_assert_null(v);
        g_assert_error(error, WHARF_ERROR, WHARF_ERROR_PARSE);
        g_assert_cmpstr(error->message, ==, cases[i].message);
    }
}

static void test_from_json(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QValue) number = qvalue_from_json("12", -1, &error);
    g_autoptr(QValue) cut = qvalue_from_json("[1]garbage", 3, &error);
    g_autoptr(QValue) word = qvalue_from_json(" null", -1, &error);

    g_assert_no_error(error);
    g_assert_cmpint(qvalue_get_int(number), ==, 12);
    g_assert_cmpuint(qvalue_array_length(cut), ==, 1);
    g_assert_cmpint(qvalue_type(word), ==, QVALUE_NULL);
    g_assert_null(qvalue_from_json("[", -1, NULL));
}

/* The end of the input ends a number, breaks an unfinished value, and leaves the parser as new. */
static void test_end(void)
{
    GString *log = g_string_new(NULL);
    g_autoptr(JsonParser) parser = json_parser_new(NULL, false, log_item, log);

    json_parser_feed(parser, "12", 2);
    json_parser_end(parser);
    json_parser_feed(parser, "{\"a\":", 5);
    json_parser_end(parser);
    json_parser_feed(parser, "[,", 2); /* broken and told already */
    json_parser_end(parser);
    json_parser_feed(parser, "{}", 2);
    json_parser_end(parser);
    json_parser_end(parser);
    g_assert_cmpstr(log->str, ==, "12\n!\n!\n{}\n");
    g_string_free(log, TRUE);
}

/* A parser that is freed in the middle of a value leaks nothing. */
static void test_free_inside(void)
{
    static const char text[] = "{\"a\": [1, {\"b\": \"\\u00e4 x\", \"c\": nul";

    for (gsize n = 0; n < sizeof(text); n++) {
        g_autofree char *log = feed(NULL, false, text, n, 5);

        g_assert_cmpstr(log, ==, "");
    }
    json_parser_free(NULL);
}

/* Any bytes at all: each prefix of a session may be broken off by the way to resynchronise. */
static void test_resynchronise(void)
{
    static const char text[] = "{\"a\": [1.5e1, -2, {\"b\": \"\\u00e4\\\\ x\", 'c': null}]}] x ";

    for (gsize n = 0; n < sizeof(text) - 1; n++) {
        g_autofree char *in = g_strdup_printf("%.*s\xff" NEXT, (int)n, text);
        g_autofree char *log = feed(NULL, false, in, strlen(in), 1);

        g_assert_true(g_str_has_suffix(log, NEXT_OUT));
    }
}

/* Many members, none of which may be compared with all others. */
static void test_many_members(void)
{
    GString *in = g_string_new("{");
    g_autofree char *log = NULL;

    for (int i = 0; i < 30000; i++) {
        g_string_append_printf(in, "%s\"k%d\":0", i ? "," : "", i);
    }
    g_string_append(in, ",\"k777\":1}" NEXT);
    log = feed(NULL, false, in->str, in->len, 65536);
    g_assert_cmpstr(log, ==, "!\n" NEXT_OUT);
    g_string_free(in, TRUE);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qapi/json-parser/values", test_values);
    g_test_add_func("/qapi/json-parser/numbers", test_numbers);
    g_test_add_func("/qapi/json-parser/strings", test_strings);
    g_test_add_func("/qapi/json-parser/qmp-dialect", test_qmp_dialect);
    g_test_add_func("/qapi/json-parser/strict-dialect", test_strict_dialect);
    g_test_add_func("/qapi/json-parser/grammar-errors", test_grammar_errors);
    g_test_add_func("/qapi/json-parser/balance", test_balance);
    g_test_add_func("/qapi/json-parser/lexical-errors", test_lexical_errors);
    g_test_add_func("/qapi/json-parser/nul-in-names", test_nul_in_names);
    g_test_add_func("/qapi/json-parser/depth", test_depth);
    g_test_add_func("/qapi/json-parser/tokens", test_tokens);
    g_test_add_func("/qapi/json-parser/bytes", test_bytes);
    g_test_add_func("/qapi/json-parser/default-limits", test_default_limits);
    g_test_add_func("/qapi/json-parser/messages", test_messages);
    g_test_add_func("/qapi/json-parser/from-json", test_from_json);
    g_test_add_func("/qapi/json-parser/end", test_end);
    g_test_add_func("/qapi/json-parser/free-inside", test_free_inside);
    g_test_add_func("/qapi/json-parser/resynchronise", test_resynchronise);
    g_test_add_func("/qapi/json-parser/many-members", test_many_members);
    return g_test_run();
}
