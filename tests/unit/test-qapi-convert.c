/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Generated conversion: each construct of the schema language (tests/unit/qapi/test.json) there and
 * back, and each way in which a value can be wrong.
 */
#include <glib.h>
#include <math.h>

#include "qapi/events-test.h"
#include "qapi/json-parser.h"
#include "qapi/keyval.h"
#include "qapi/types-test.h"
#include "util/error.h"

typedef enum {
    FROM_JSON,
    FROM_KEYVAL
} From;

/* Read @v, copy it, and write the copy; NULL and @error if reading fails. */
typedef QValue *Trip(const QValue *v, From from, GError **error);

#define DEFINE_TRIP(type, snake)                                                                   \
    static QValue *trip_##snake(const QValue *v, From from, GError **error)                        \
    {                                                                                              \
        g_autoptr(type) obj =                                                                      \
            from == FROM_JSON ? snake##_from_qvalue(v, error) : snake##_from_keyval(v, error);     \
        g_autoptr(type) copy = snake##_copy(obj);                                                  \
                                                                                                   \
        return copy ? snake##_to_qvalue(copy) : NULL;                                              \
    }

DEFINE_TRIP(TestScalars, test_scalars)
DEFINE_TRIP(TestOptional, test_optional)
DEFINE_TRIP(TestDefaults, test_defaults)
DEFINE_TRIP(TestRanges, test_ranges)
DEFINE_TRIP(TestLists, test_lists)
DEFINE_TRIP(TestIntLists, test_int_lists)
DEFINE_TRIP(TestWord, test_word)
DEFINE_TRIP(TestEmpty, test_empty)
DEFINE_TRIP(TestDerived, test_derived)
DEFINE_TRIP(TestShape, test_shape)
DEFINE_TRIP(TestColored, test_colored)
DEFINE_TRIP(TestChoice, test_choice)
DEFINE_TRIP(TestScalarChoice, test_scalar_choice)
DEFINE_TRIP(TestColorChoice, test_color_choice)
DEFINE_TRIP(TestNumberChoice, test_number_choice)
DEFINE_TRIP(TestTree, test_tree)
DEFINE_TRIP(TestConditional, test_conditional)

typedef struct {
    Trip *trip;
    const char *in;
    const char *out; /* what comes back, or the message that refuses it */
} Case;

static QValue *parse(const char *text)
{
    g_autoptr(GError) error = NULL;
    QValue *v = qvalue_from_json(text, -1, &error);

    g_assert_no_error(error);
    return v;
}

static void check_accepted(const Case *c, From from)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QValue) in = from == FROM_JSON ? parse(c->in) : keyval_parse(c->in, NULL, &error);
    g_autoptr(QValue) out = NULL;
    g_autofree char *text = NULL;

    g_assert_no_error(error);
    out = c->trip(in, from, &error);
    g_assert_no_error(error);
    text = qvalue_to_json_string(out);
    g_assert_cmpstr(text, ==, c->out ? c->out : c->in);
}

static void check_refused(const Case *c, From from)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QValue) in = from == FROM_JSON ? parse(c->in) : keyval_parse(c->in, NULL, &error);
    g_autoptr(QValue) out = NULL;

    g_assert_no_error(error);
    out = c->trip(in, from, &error);
    if (out) {
        g_test_message("accepted: %s", c->in);
    }
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT);
    g_assert_cmpstr(error->message, ==, c->out);
    g_assert_null(out);
}

#define SCALARS(i8, i16, i32, i64, u8, u16, u32, u64, rest)                                        \
    "{\"i\": 0, \"i8\": " i8 ", \"i16\": " i16 ", \"i32\": " i32 ", \"i64\": " i64 ", \"u8\": " u8 \
    ", \"u16\": " u16 ", \"u32\": " u32 ", \"u64\": " u64 ", " rest "}"

#define REST                                                                                       \
    "\"size\": 0, \"number\": 0.5, \"flag\": true, \"str\": \"\\u00e4\", \"any\": [{}, null], "    \
    "\"color\": \"dark-blue\", \"nothing\": null"

static void test_accepted(void)
{
    static const Case cases[] = {
        {trip_test_scalars, SCALARS("-128", "-32768", "-2147483648", "-9223372036854775808", "0",
                                    "0", "0", "0", REST)},
        {trip_test_scalars, SCALARS("127", "32767", "2147483647", "9223372036854775807", "255",
                                    "65535", "4294967295", "18446744073709551615", REST)},
        {trip_test_optional, "{}"},
        {trip_test_optional,
         "{\"int\": 1, \"bool\": false, \"enum\": \"2d\", \"double\": 1e+300, \"default\": \"\", "
         "\"errno\": null, \"struct\": {\"x\": 1}, \"unix-list\": [], \"void\": null}"},
        {trip_test_defaults, "{}",
         "{\"i\": -5, \"lowest\": -9223372036854775808, \"u\": 4294967295, "
         "\"highest\": 18446744073709551615, \"size\": 1073741824, \"number\": 2.5, \"on\": true, "
         "\"off\": false, \"str\": \"say \\\"hi\\\" %s\", \"color\": \"dark-blue\"}"},
        {trip_test_defaults,
         "{\"i\": 1, \"lowest\": 2, \"u\": 3, \"highest\": 4, \"size\": 5, \"number\": 6, "
         "\"on\": false, \"off\": true, \"str\": \"\", \"color\": \"red\"}"},
        {trip_test_ranges, "{\"low\": -3, \"high\": 9, \"both\": 512, \"number\": -0.5}"},
        {trip_test_ranges, "{\"both\": 2097152, \"number\": 1.5}"},
        {trip_test_lists, "{}"},
        {trip_test_lists,
         "{\"strs\": [\"a\", \"b\"], \"ints\": [-1, 2], \"bytes\": [0, 255], \"sizes\": [1], "
         "\"numbers\": [1, 0.5], \"flags\": [true, false], \"anys\": [null, 1, [], {}], "
         "\"colors\": [\"red\", \"sepia\"], \"points\": [{\"x\": 1}, {\"x\": 2, \"y\": 3}], "
         "\"shapes\": [{\"kind\": \"dot\"}, {\"kind\": \"circle\", \"radius\": 1}], "
         "\"choices\": [\"s\", null, {\"x\": 1}, [1, 2]]}"},
        {trip_test_lists, "{\"strs\": [], \"ints\": [], \"anys\": [], \"colors\": [], "
                          "\"points\": [], \"choices\": []}"},
        {trip_test_int_lists,
         "{\"i8\": [-128, 127], \"i16\": [-32768, 32767], \"i32\": [-2147483648, 2147483647], "
         "\"u16\": [65535], \"u32\": [4294967295], \"u64\": [18446744073709551615]}"},
        {trip_test_word, "{\"letter\": \"z\"}"},
        {trip_test_empty, "{}"},
        {trip_test_derived, "{\"x\": 1, \"y\": 2, \"z\": 3}"},
        {trip_test_shape, "{\"kind\": \"circle\", \"label\": \"l\", \"radius\": 9, "
                          "\"center\": {\"x\": 1}}"},
        {trip_test_shape, "{\"kind\": \"dot\"}"},
        {trip_test_shape, "{\"kind\": \"plain\", \"label\": \"l\"}"},
        {trip_test_shape, "{\"kind\": \"solid\"}",
         "{\"kind\": \"solid\", \"solid-kind\": \"ball\"}"},
        {trip_test_shape, "{\"kind\": \"solid\", \"solid-kind\": \"cube\", \"edge\": \"e\"}"},
        {trip_test_colored, "{\"color\": \"red\", \"x\": 1}"},
        {trip_test_colored, "{\"color\": \"sepia\"}"},
        {trip_test_choice, "\"s\""},
        {trip_test_choice, "{\"x\": 1}"},
        {trip_test_choice, "[]"},
        {trip_test_choice, "null"},
        {trip_test_scalar_choice, "true"},
        {trip_test_scalar_choice, "255"},
        {trip_test_color_choice, "\"ultra\""},
        {trip_test_color_choice, "{\"kind\": \"circle\", \"radius\": 1}"},
        {trip_test_number_choice, "1"},
        {trip_test_number_choice, "1.5"},
        {trip_test_number_choice, "18446744073709551615", "1.8446744073709552e+19"},
        {trip_test_number_choice, "[\"red\"]"},
        {trip_test_tree, "{\"left\": {\"left\": {}, \"kids\": [{}, {}]}, \"ref\": \"r\"}"},
        {trip_test_tree, "{\"ref\": {\"ref\": {\"ref\": \"r\"}}}"},
        {trip_test_conditional, "{\"on\": \"x\"}"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        check_accepted(&cases[i], FROM_JSON);
    }
}

static void test_refused(void)
{
    static const Case cases[] = {
        /* The whole is no object. */
        {trip_test_derived, "[]", "The argument object must be an object, not an array"},
        {trip_test_derived, "null", "The argument object must be an object, not null"},
        {trip_test_derived, "\"x\"", "The argument object must be an object, not a string (\"x\")"},
        /* Members that are missing, unexpected, or almost right. */
        {trip_test_derived, "{}", "Parameter 'x' is missing"},
        {trip_test_derived, "{\"x\": 1}", "Parameter 'z' is missing"},
        {trip_test_derived, "{\"x\": 1, \"z\": 2, \"w\": 3}", "Parameter 'w' is unexpected"},
        {trip_test_derived, "{\"x\": 1, \"z\": 2, \"Y\": 3}",
         "Parameter 'Y' is unexpected; did you mean 'y'?"},
        {trip_test_optional, "{\"unix_list\": []}",
         "Parameter 'unix_list' is unexpected; did you mean 'unix-list'?"},
        {trip_test_derived, "{\"X\": 1, \"z\": 2}",
         "Parameter 'x' is missing; 'X' is not the same"},
        {trip_test_optional, "{\"struct.x\": 1}",
         "Parameter 'struct.x' is unexpected; in JSON it belongs into an object 'struct'"},
        {trip_test_optional, "{\"strukt.x\": 1}", "Parameter 'strukt.x' is unexpected"},
        {trip_test_empty, "{\"x\": 1}", "Parameter 'x' is unexpected"},
        {trip_test_conditional, "{\"on\": \"x\", \"off\": {\"boo\": \"\"}}",
         "Parameter 'off' is unexpected"},
        /* Wrong types. */
        {trip_test_derived, "{\"x\": \"1\", \"z\": 2}",
         "Parameter 'x' must be an integer, not a string (\"1\")"},
        {trip_test_derived, "{\"x\": 1.0, \"z\": 2}",
         "Parameter 'x' must be an integer, not a number (1)"},
        {trip_test_derived, "{\"x\": 1.5, \"z\": 2}",
         "Parameter 'x' must be an integer, not a number (1.5)"},
        {trip_test_derived, "{\"x\": true, \"z\": 2}",
         "Parameter 'x' must be an integer, not a boolean (true)"},
        {trip_test_derived, "{\"x\": null, \"z\": 2}",
         "Parameter 'x' must be an integer, not null"},
        {trip_test_optional, "{\"bool\": \"on\"}",
         "Parameter 'bool' must be a boolean, not a string (\"on\")"},
        {trip_test_optional, "{\"bool\": null}", "Parameter 'bool' must be a boolean, not null"},
        {trip_test_optional, "{\"bool\": 1}",
         "Parameter 'bool' must be a boolean, not an integer (1)"},
        {trip_test_optional, "{\"double\": \"1\"}",
         "Parameter 'double' must be a number, not a string (\"1\")"},
        {trip_test_optional, "{\"default\": 1}",
         "Parameter 'default' must be a string, not an integer (1)"},
        {trip_test_optional, "{\"default\": \"a\\u0000b\"}",
         "Parameter 'default' must be a string without U+0000, not \"a\\u0000b\""},
        {trip_test_optional, "{\"struct\": 1}",
         "Parameter 'struct' must be an object, not an integer (1)"},
        {trip_test_optional, "{\"unix-list\": \"x\"}",
         "Parameter 'unix-list' must be an array, not a string (\"x\")"},
        {trip_test_optional, "{\"unix-list\": {}}",
         "Parameter 'unix-list' must be an array, not an object"},
        {trip_test_optional, "{\"void\": 0}", "Parameter 'void' must be null, not an integer (0)"},
        /* Enumerations. */
        {trip_test_optional, "{\"enum\": \"South\"}",
         "Parameter 'enum' must be 'north' or '2d', not \"South\""},
        {trip_test_optional, "{\"enum\": \"North\"}",
         "Parameter 'enum' must be 'north' or '2d', not \"North\""},
        {trip_test_optional, "{\"enum\": \"north\\u0000\"}",
         "Parameter 'enum' must be 'north' or '2d', not \"north\\u0000\""},
        {trip_test_optional, "{\"enum\": \"\"}",
         "Parameter 'enum' must be 'north' or '2d', not \"\""},
        {trip_test_optional, "{\"enum\": 0}",
         "Parameter 'enum' must be 'north' or '2d', not an integer (0)"},
        {trip_test_word, "{\"letter\": \"A\"}",
         "Parameter 'letter' must be a known value, not \"A\""},
        {trip_test_defaults, "{\"color\": \"infra\"}",
         "Parameter 'color' must be 'red', 'dark-blue', 'ultra' or 'sepia', not \"infra\""},
        /* Ranges of types and of members. */
        {trip_test_defaults, "{\"u\": -1}",
         "Parameter 'u' must be an integer from 0 to 4294967295, not -1"},
        {trip_test_defaults, "{\"u\": 4294967296}",
         "Parameter 'u' must be an integer from 0 to 4294967295, not 4294967296"},
        {trip_test_defaults, "{\"i\": 9223372036854775808}",
         "Parameter 'i' must be an integer from -9223372036854775808 to 9223372036854775807, not "
         "9223372036854775808"},
        {trip_test_defaults, "{\"size\": -1}",
         "Parameter 'size' must be an integer from 0 to 18446744073709551615, not -1"},
        {trip_test_lists, "{\"bytes\": [0, 256]}",
         "Parameter 'bytes[1]' must be an integer from 0 to 255, not 256"},
        {trip_test_ranges, "{\"low\": -4}",
         "Parameter 'low' must be an integer from -3 to 9223372036854775807, not -4"},
        {trip_test_ranges, "{\"high\": 10}",
         "Parameter 'high' must be an integer from 0 to 9, not 10"},
        {trip_test_ranges, "{\"both\": 511}",
         "Parameter 'both' must be an integer from 512 to 2097152, not 511"},
        {trip_test_ranges, "{\"both\": 2097153}",
         "Parameter 'both' must be an integer from 512 to 2097152, not 2097153"},
        {trip_test_ranges, "{\"number\": 1.6}",
         "Parameter 'number' must be a number from -0.5 to 1.5, not 1.6"},
        {trip_test_ranges, "{\"number\": -1}",
         "Parameter 'number' must be a number from -0.5 to 1.5, not -1"},
        /* Unions. */
        {trip_test_shape, "{\"label\": \"l\"}", "Parameter 'kind' is missing"},
        {trip_test_shape, "{\"kind\": \"ghost\"}",
         "Parameter 'kind' must be 'circle', 'dot', 'solid' or 'plain', not \"ghost\""},
        {trip_test_shape, "{\"kind\": \"circle\"}", "Parameter 'radius' is missing"},
        {trip_test_shape, "{\"kind\": \"dot\", \"radius\": 1}", "Parameter 'radius' is unexpected"},
        {trip_test_shape, "{\"kind\": \"plain\", \"edge\": \"e\"}",
         "Parameter 'edge' is unexpected"},
        {trip_test_shape, "{\"kind\": \"solid\", \"edge\": \"e\"}",
         "Parameter 'edge' is unexpected"},
        {trip_test_shape, "{\"kind\": \"solid\", \"solid-kind\": \"cube\"}",
         "Parameter 'edge' is missing"},
        /* Paths. */
        {trip_test_shape, "{\"kind\": \"circle\", \"radius\": 1, \"center\": {\"x\": \"\"}}",
         "Parameter 'center.x' must be an integer, not a string (\"\")"},
        {trip_test_shape, "{\"kind\": \"circle\", \"radius\": 1, \"center\": {}}",
         "Parameter 'center.x' is missing"},
        {trip_test_lists, "{\"points\": [{\"x\": 1}, {\"x\": 1, \"z\": 1}]}",
         "Parameter 'points[1].z' is unexpected"},
        {trip_test_lists, "{\"points\": [{\"x\": 1}, 5]}",
         "Parameter 'points[1]' must be an object, not an integer (5)"},
        {trip_test_lists,
         "{\"shapes\": [{\"kind\": \"circle\", \"radius\": 1, "
         "\"center\": {\"x\": 1, \"y\": []}}]}",
         "Parameter 'shapes[0].center.y' must be an integer, not an array"},
        {trip_test_lists, "{\"colors\": [\"red\", \"blue\"]}",
         "Parameter 'colors[1]' must be 'red', 'dark-blue', 'ultra' or 'sepia', not \"blue\""},
        {trip_test_lists, "{\"strs\": [null]}", "Parameter 'strs[0]' must be a string, not null"},
        {trip_test_lists, "{\"anys\": {}}", "Parameter 'anys' must be an array, not an object"},
        {trip_test_lists, "{\"flags\": [1]}",
         "Parameter 'flags[0]' must be a boolean, not an integer (1)"},
        {trip_test_tree, "{\"left\": {\"kids\": [{}, {\"ref\": {\"ref\": {\"x\": 1}}}]}}",
         "Parameter 'left.kids[1].ref.ref.x' is unexpected"},
        /* Alternates. */
        {trip_test_choice, "5",
         "The argument object must be a string, an object, an array or null, not an integer (5)"},
        {trip_test_lists, "{\"choices\": [null, true]}",
         "Parameter 'choices[1]' must be a string, an object, an array or null, not a boolean "
         "(true)"},
        {trip_test_lists, "{\"choices\": [[1, \"2\"]]}",
         "Parameter 'choices[0][1]' must be an integer, not a string (\"2\")"},
        {trip_test_scalar_choice, "256",
         "The argument object must be an integer from 0 to 255, not 256"},
        {trip_test_scalar_choice, "1.5",
         "The argument object must be a boolean or an integer, not a number (1.5)"},
        {trip_test_scalar_choice, "\"on\"",
         "The argument object must be a boolean or an integer, not a string (\"on\")"},
        {trip_test_color_choice, "\"pink\"",
         "The argument object must be 'red', 'dark-blue', 'ultra' or 'sepia', not \"pink\""},
        {trip_test_color_choice, "{\"kind\": \"circle\"}", "Parameter 'radius' is missing"},
        /* Long and strange values and names are cut and made harmless. */
        {trip_test_derived,
         "{\"x\": \"0123456789012345678901234567890123456789012345678901234567890123456789\"}",
         "Parameter 'x' must be an integer, not a string "
         "(\"012345678901234567890123456789012345678901234567890123456789012...)"},
        {trip_test_empty, "{\"\\u0001\\u00e4\\n\": 1}",
         "Parameter '\\u0001\xc3\xa4\\u000a' is unexpected"},
        {trip_test_empty, "{\"\": 1}", "Parameter '' is unexpected"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        check_refused(&cases[i], FROM_JSON);
    }
}

static void test_keyval_accepted(void)
{
    static const Case cases[] = {
        {trip_test_derived, "x=1,z=0x10", "{\"x\": 1, \"z\": 16}"},
        {trip_test_derived, "x=-9223372036854775808,z=-0",
         "{\"x\": -9223372036854775808, \"z\": 0}"},
        {trip_test_optional, "bool=on", "{\"bool\": true}"},
        {trip_test_optional, "bool=no", "{\"bool\": false}"},
        {trip_test_optional, "bool=true", "{\"bool\": true}"},
        {trip_test_optional, "double=1.5,enum=2d,struct.x=3,unix-list.0=a,unix-list.1=b",
         "{\"enum\": \"2d\", \"double\": 1.5, \"struct\": {\"x\": 3}, \"unix-list\": [\"a\", "
         "\"b\"]}"},
        {trip_test_optional, "default=a,,b", "{\"default\": \"a,b\"}"},
        {trip_test_optional, "default=", "{\"default\": \"\"}"},
        {trip_test_optional, "default=5,errno=on", "{\"default\": \"5\", \"errno\": \"on\"}"},
        {trip_test_ranges, "both=1k", "{\"both\": 1024}"},
        {trip_test_ranges, "both=1.5K", "{\"both\": 1536}"},
        {trip_test_ranges, "both=512B", "{\"both\": 512}"},
        {trip_test_ranges, "both=2M", "{\"both\": 2097152}"},
        {trip_test_ranges, "both=0x200", "{\"both\": 512}"},
        {trip_test_lists, "sizes.0=1G,sizes.1=1T,sizes.2=1P,sizes.3=15E",
         "{\"sizes\": [1073741824, 1099511627776, 1125899906842624, 17293822569102704640]}"},
        {trip_test_lists, "points.0.x=1,points.1.x=2,flags.0=off",
         "{\"flags\": [false], \"points\": [{\"x\": 1}, {\"x\": 2}]}"},
        {trip_test_lists, "choices.0=s,choices.1.x=1,choices.2.0=5",
         "{\"choices\": [\"s\", {\"x\": 1}, [5]]}"},
        {trip_test_shape, "kind=circle,radius=64k,center.x=1",
         "{\"kind\": \"circle\", \"radius\": 65536, \"center\": {\"x\": 1}}"},
        {trip_test_tree, "ref.ref=r,left.kids.0.ref=q",
         "{\"left\": {\"kids\": [{\"ref\": \"q\"}]}, \"ref\": {\"ref\": \"r\"}}"},
        /* JSON text, with its types. */
        {trip_test_ranges, "{'both': 1024, 'low': 1}", "{\"low\": 1, \"both\": 1024}"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        check_accepted(&cases[i], FROM_KEYVAL);
    }
}

static void test_keyval_refused(void)
{
    static const Case cases[] = {
        {trip_test_derived, "x=1k,z=1", "Parameter 'x' must be an integer, not \"1k\""},
        {trip_test_derived, "x=,z=1", "Parameter 'x' must be an integer, not \"\""},
        {trip_test_derived, "x= 1,z=1", "Parameter 'x' must be an integer, not \" 1\""},
        {trip_test_derived, "x=1 ,z=1", "Parameter 'x' must be an integer, not \"1 \""},
        {trip_test_derived, "x=+1,z=1", "Parameter 'x' must be an integer, not \"+1\""},
        {trip_test_derived, "x=--1,z=1", "Parameter 'x' must be an integer, not \"--1\""},
        {trip_test_derived, "x=0x,z=1", "Parameter 'x' must be an integer, not \"0x\""},
        {trip_test_derived, "x=1.0,z=1", "Parameter 'x' must be an integer, not \"1.0\""},
        {trip_test_derived, "x=18446744073709551616,z=1",
         "Parameter 'x' must be an integer, not \"18446744073709551616\""},
        {trip_test_derived, "x=-9223372036854775809,z=1",
         "Parameter 'x' must be an integer, not \"-9223372036854775809\""},
        {trip_test_derived, "x=9223372036854775808,z=1",
         "Parameter 'x' must be an integer from -9223372036854775808 to 9223372036854775807, not "
         "\"9223372036854775808\""},
        {trip_test_derived, "", "Parameter 'x' is missing"},
        {trip_test_derived, "x.y=1,z=1", "Parameter 'x' must be an integer, not an object"},
        {trip_test_derived, "x.0=1,z=1", "Parameter 'x' must be an integer, not an array"},
        {trip_test_optional, "bool=ON", "Parameter 'bool' must be 'on' or 'off', not \"ON\""},
        {trip_test_optional, "bool=1", "Parameter 'bool' must be 'on' or 'off', not \"1\""},
        {trip_test_optional, "bool=", "Parameter 'bool' must be 'on' or 'off', not \"\""},
        {trip_test_optional, "double=x", "Parameter 'double' must be a number, not \"x\""},
        {trip_test_optional, "double=inf", "Parameter 'double' must be a number, not \"inf\""},
        {trip_test_optional, "double=1e999", "Parameter 'double' must be a number, not \"1e999\""},
        {trip_test_optional, "void=null", "Parameter 'void' must be null, not \"null\""},
        {trip_test_optional, "enum=up", "Parameter 'enum' must be 'north' or '2d', not \"up\""},
        {trip_test_optional, "unix-list=a", "Parameter 'unix-list' must be an array, not \"a\""},
        {trip_test_optional, "struct=a", "Parameter 'struct' must be an object, not \"a\""},
        {trip_test_ranges, "both=1x",
         "Parameter 'both' must be a size, such as 512, 64k or 10G, not \"1x\""},
        {trip_test_ranges, "both=1kk",
         "Parameter 'both' must be a size, such as 512, 64k or 10G, not \"1kk\""},
        {trip_test_ranges, "both=k",
         "Parameter 'both' must be a size, such as 512, 64k or 10G, not \"k\""},
        {trip_test_ranges, "both=-1k",
         "Parameter 'both' must be a size, such as 512, 64k or 10G, not \"-1k\""},
        {trip_test_ranges, "both=1.k",
         "Parameter 'both' must be a size, such as 512, 64k or 10G, not \"1.k\""},
        {trip_test_ranges, "both=-1",
         "Parameter 'both' must be an integer from 512 to 2097152, not \"-1\""},
        {trip_test_ranges, "both=3M",
         "Parameter 'both' must be an integer from 512 to 2097152, not \"3M\""},
        {trip_test_lists, "sizes.0=16E",
         "Parameter 'sizes[0]' must be a size, such as 512, 64k or 10G, not \"16E\""},
        {trip_test_lists, "sizes.0=99999999999999999999G",
         "Parameter 'sizes[0]' must be a size, such as 512, 64k or 10G, not "
         "\"99999999999999999999G\""},
        {trip_test_shape, "kind=dot,x=1", "Parameter 'x' is unexpected"},
        /* JSON text stays strict. */
        {trip_test_ranges, "{'both': '1k'}",
         "Parameter 'both' must be an integer, not a string (\"1k\")"},
        {trip_test_optional, "{'bool': 'on'}",
         "Parameter 'bool' must be a boolean, not a string (\"on\")"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        check_refused(&cases[i], FROM_KEYVAL);
    }
}

/* Untyped strings are lenient in x_from_keyval() alone. */
static void test_untyped_is_strict_elsewhere(void)
{
    g_autoptr(QValue) in = keyval_parse("bool=on", NULL, NULL);
    g_autoptr(GError) error = NULL;

    g_assert_null(test_optional_from_qvalue(in, &error));
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT);
}

/* An alternate of scalars takes what the text looks like. */
static void test_keyval_alternates(void)
{
    static const struct {
        const char *text;
        QValueType type;
    } cases[] = {{"on", QVALUE_BOOL}, {"7", QVALUE_INT}, {"0x10", QVALUE_INT}};

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(QValue) in = qvalue_string_untyped(cases[i].text);
        g_autoptr(GError) error = NULL;
        g_autoptr(TestScalarChoice) choice = test_scalar_choice_from_keyval(in, &error);

        g_assert_no_error(error);
        g_assert_cmpint(choice->type, ==, cases[i].type);
    }
}

static void test_keyval_number_alternate(void)
{
    g_autoptr(QValue) number = qvalue_string_untyped("-1.5");
    g_autoptr(QValue) word = qvalue_string_untyped("x");
    g_autoptr(TestNumberChoice) choice = test_number_choice_from_keyval(number, NULL);
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(choice->type, ==, QVALUE_DOUBLE);
    g_assert_cmpfloat(choice->u.number, ==, -1.5);
    g_assert_null(test_number_choice_from_keyval(word, &error));
    g_assert_cmpstr(error->message, ==, "The option's value must be a number, not \"x\"");
}

static void test_members_in_c(void)
{
    g_autoptr(QValue) v = parse("{'i': 1, 'i8': -1, 'i16': 2, 'i32': 3, 'i64': 4, 'u8': 5, "
                                "'u16': 6, 'u32': 7, 'u64': 18446744073709551615, 'size': 8, "
                                "'number': 1, 'flag': true, 'str': 's', 'any': 5, 'color': 'red', "
                                "'nothing': null}");
    g_autoptr(TestScalars) s = test_scalars_from_qvalue(v, NULL);

    g_assert_cmpint(s->i8, ==, -1);
    g_assert_cmpuint(s->u64, ==, UINT64_MAX);
    g_assert_cmpfloat(s->number, ==, 1.0);
    g_assert_true(s->flag);
    g_assert_cmpstr(s->str, ==, "s");
    g_assert_cmpint(qvalue_get_int(s->any), ==, 5);
    g_assert_cmpint(s->color, ==, TEST_COLOR_RED);
    g_assert_cmpint(qvalue_type(s->nothing), ==, QVALUE_NULL);
}

static void test_optional_in_c(void)
{
    g_autoptr(QValue) v = parse("{'int': 3}");
    g_autoptr(TestOptional) o = test_optional_from_qvalue(v, NULL);

    g_assert_true(o->has_q_int);
    g_assert_cmpint(o->q_int, ==, 3);
    g_assert_false(o->has_q_bool);
    g_assert_false(o->has_q_enum);
    g_assert_null(o->q_default);
    g_assert_null(o->q_errno);
    g_assert_null(o->q_struct);
    g_assert_null(o->unix_list);
}

static void test_copy_is_deep(void)
{
    g_autoptr(QValue) v = parse("{'points': [{'x': 1}], 'strs': ['a'], 'ints': [7]}");
    TestLists *original = test_lists_from_qvalue(v, NULL);
    g_autoptr(TestLists) copy = test_lists_copy(original);
    TestPoint *point = g_ptr_array_index(copy->points, 0);

    ((TestPoint *)g_ptr_array_index(original->points, 0))->x = 2;
    g_array_index(original->ints, int64_t, 0) = 8;
    test_lists_free(original);
    g_assert_cmpint(point->x, ==, 1);
    g_assert_cmpint(g_array_index(copy->ints, int64_t, 0), ==, 7);
    g_assert_cmpstr(g_ptr_array_index(copy->strs, 0), ==, "a");
    g_assert_null(test_lists_copy(NULL));
    test_lists_free(NULL);
}

static void test_enum_names(void)
{
    TestColor color = TEST_COLOR_RED;

    g_assert_cmpint(TEST_COLOR__COUNT, ==, 4);
    g_assert_cmpint(COMPASS__COUNT, ==, 2);
    for (unsigned i = 0; i < TEST_COLOR__COUNT; i++) {
        g_assert_true(test_color_from_string(test_color_to_string((TestColor)i), &color));
        g_assert_cmpint(color, ==, i);
    }
    g_assert_false(test_color_from_string("infra", &color));
    g_assert_cmpint(color, ==, TEST_COLOR__COUNT - 1);
    g_assert_cmpstr(test_compass_to_string(COMPASS_2D), ==, "2d");
}

/* A tree of @levels objects inside each other, by @member. */
static QValue *nested_tree(unsigned levels, const char *member)
{
    QValue *tree = qvalue_object();

    for (unsigned i = 1; i < levels; i++) {
        QValue *outer = qvalue_object();

        qvalue_object_set(outer, member, tree);
        tree = outer;
    }
    return tree;
}

static void test_depth_is_bounded(void)
{
    static const char *const members[] = {"left", "ref"};

    for (gsize i = 0; i < G_N_ELEMENTS(members); i++) {
        g_autoptr(QValue) fits = nested_tree(QAPI_MAX_DEPTH, members[i]);
        g_autoptr(QValue) too_deep = nested_tree(QAPI_MAX_DEPTH + 1, members[i]);
        g_autoptr(GError) error = NULL;
        g_autoptr(QValue) back = trip_test_tree(fits, FROM_JSON, &error);

        g_assert_no_error(error);
        g_assert_true(qvalue_equal(fits, back));
        g_assert_null(test_tree_from_qvalue(too_deep, &error));
        g_assert_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT);
        g_assert_nonnull(strstr(error->message, "nested too deeply"));
    }
}

/* Members of type any are not converted, so their depth does not count. */
static void test_any_may_be_deep(void)
{
    g_autoptr(QValue) v = qvalue_object();
    g_autoptr(QValue) back = NULL;

    qvalue_object_set(v, "errno", nested_tree(1000, "x"));
    back = trip_test_optional(v, FROM_JSON, NULL);
    g_assert_true(qvalue_equal(v, back));
}

/* Each truncation of a valid value is refused without a leak, wherever reading stops. */
static void test_stops_anywhere(void)
{
    static const char *const members[] = {"i",   "i8",  "i16",   "i32",    "i64",    "u8",
                                          "u16", "u32", "u64",   "size",   "number", "flag",
                                          "str", "any", "color", "nothing"};
    g_autoptr(QValue) whole = parse(SCALARS("1", "1", "1", "1", "1", "1", "1", "1", REST));

    for (gsize i = 0; i < G_N_ELEMENTS(members); i++) {
        g_autoptr(QValue) v = parse(SCALARS("1", "1", "1", "1", "1", "1", "1", "1", REST));
        g_autofree char *message = g_strdup_printf("Parameter '%s' is missing", members[i]);
        g_autoptr(GError) error = NULL;

        g_assert_true(qvalue_object_remove(v, members[i]));
        g_assert_null(test_scalars_from_qvalue(v, &error));
        g_assert_cmpstr(error->message, ==, message);
    }
    g_assert_cmpuint(qvalue_object_size(whole), ==, G_N_ELEMENTS(members));
}

/* ---- Events ---- */

typedef struct {
    GString *log;
} Sink;

static void log_event(gpointer opaque, const char *name, QValue *data)
{
    g_autofree char *text = data ? qvalue_to_json_string(data) : g_strdup("-");

    g_string_append_printf(((Sink *)opaque)->log, "%s %s\n", name, text);
}

static void test_events(void)
{
    Sink s = {.log = g_string_new(NULL)};
    QapiEventSink sink = {log_event, &s};
    TestPoint point = {.x = 1};
    TestShape shape = {.kind = TEST_SHAPE_KIND_CIRCLE, .u.circle.radius = 3};
    g_autoptr(GPtrArray) list = g_ptr_array_new();

    g_ptr_array_add(list, (gpointer) "a");
    qapi_event_test_plain(&sink);
    qapi_event_test_data(&sink, "n", false, 0, TEST_COLOR_RED, NULL, NULL);
    qapi_event_test_data(&sink, "n", true, -1, TEST_COLOR_ULTRA, &point, list);
    qapi_event_test_boxed(&sink, &shape);
    qapi_event_test_plain(NULL);
    g_assert_cmpstr(s.log->str, ==,
                    "TEST_PLAIN -\n"
                    "TEST_DATA {\"name\": \"n\", \"color\": \"red\"}\n"
                    "TEST_DATA {\"name\": \"n\", \"count\": -1, \"color\": \"ultra\", "
                    "\"point\": {\"x\": 1}, \"list\": [\"a\"]}\n"
                    "TEST_BOXED {\"kind\": \"circle\", \"radius\": 3}\n");
    g_string_free(s.log, TRUE);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qapi/convert/accepted", test_accepted);
    g_test_add_func("/qapi/convert/refused", test_refused);
    g_test_add_func("/qapi/convert/keyval-accepted", test_keyval_accepted);
    g_test_add_func("/qapi/convert/keyval-refused", test_keyval_refused);
    g_test_add_func("/qapi/convert/untyped-is-strict-elsewhere", test_untyped_is_strict_elsewhere);
    g_test_add_func("/qapi/convert/keyval-alternates", test_keyval_alternates);
    g_test_add_func("/qapi/convert/keyval-number-alternate", test_keyval_number_alternate);
    g_test_add_func("/qapi/convert/members-in-c", test_members_in_c);
    g_test_add_func("/qapi/convert/optional-in-c", test_optional_in_c);
    g_test_add_func("/qapi/convert/copy-is-deep", test_copy_is_deep);
    g_test_add_func("/qapi/convert/enum-names", test_enum_names);
    g_test_add_func("/qapi/convert/depth-is-bounded", test_depth_is_bounded);
    g_test_add_func("/qapi/convert/any-may-be-deep", test_any_may_be_deep);
    g_test_add_func("/qapi/convert/stops-anywhere", test_stops_anywhere);
    g_test_add_func("/qapi/convert/events", test_events);
    return g_test_run();
}
