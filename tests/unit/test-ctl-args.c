/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Words of the command line become arguments by the daemon's schema, or an error that helps. */
#include <string.h>

#include "ctl/args.h"
#include "ctl/ctl.h"
#include "qapi/json-parser.h"

/* A small interface in the shape of query-qmp-schema, type names masked as there. */
static const char schema_text[] =
    "[{'name': 'nothing', 'meta-type': 'command', 'arg-type': '0', 'ret-type': '0'},"
    " {'name': 'scalars', 'meta-type': 'command', 'arg-type': '1', 'ret-type': '0'},"
    " {'name': 'add', 'meta-type': 'command', 'arg-type': '2', 'ret-type': '0'},"
    " {'name': 'lists', 'meta-type': 'command', 'arg-type': '3', 'ret-type': '0'},"
    " {'name': 'GONE', 'meta-type': 'event', 'arg-type': '0'},"
    " {'name': 'str', 'meta-type': 'builtin', 'json-type': 'string'},"
    " {'name': 'int', 'meta-type': 'builtin', 'json-type': 'int'},"
    " {'name': 'number', 'meta-type': 'builtin', 'json-type': 'number'},"
    " {'name': 'bool', 'meta-type': 'builtin', 'json-type': 'boolean'},"
    " {'name': 'null', 'meta-type': 'builtin', 'json-type': 'null'},"
    " {'name': 'any', 'meta-type': 'builtin', 'json-type': 'value'},"
    " {'name': '[str]', 'meta-type': 'array', 'element-type': 'str'},"
    " {'name': '[2]', 'meta-type': 'array', 'element-type': '2'},"
    " {'name': '0', 'meta-type': 'object', 'members': []},"
    " {'name': '1', 'meta-type': 'object', 'members': ["
    "    {'name': 's', 'type': 'str', 'default': null}, {'name': 'i', 'type': 'int', 'default': "
    "null},"
    "    {'name': 'n', 'type': 'number', 'default': null},"
    "    {'name': 'b', 'type': 'bool', 'default': null}, {'name': 'a', 'type': 'any', 'default': "
    "null},"
    "    {'name': 'e', 'type': '4', 'default': null}]},"
    " {'name': '4', 'meta-type': 'enum', 'values': ['hard', 'safe']},"
    " {'name': '2', 'meta-type': 'object', 'tag': 'driver', 'members': ["
    "    {'name': 'driver', 'type': '5'}, {'name': 'node-name', 'type': 'str', 'default': null},"
    "    {'name': 'cache', 'type': '6', 'default': null}],"
    "  'variants': [{'case': 'file', 'type': '7'}, {'case': 'raw', 'type': '8'}]},"
    " {'name': '5', 'meta-type': 'enum', 'members': [{'name': 'file'}, {'name': 'raw'},"
    "    {'name': 'null-co'}], 'values': ['file', 'raw', 'null-co']},"
    " {'name': '6', 'meta-type': 'object', 'members': ["
    "    {'name': 'direct', 'type': 'bool', 'default': null},"
    "    {'name': 'no-flush', 'type': 'bool', 'default': null}]},"
    " {'name': '7', 'meta-type': 'object', 'members': [{'name': 'filename', 'type': 'str'}]},"
    " {'name': '8', 'meta-type': 'object', 'members': [{'name': 'file', 'type': '9'},"
    "    {'name': 'size', 'type': 'int', 'default': null}]},"
    " {'name': '9', 'meta-type': 'alternate', 'members': [{'type': '2'}, {'type': 'str'}]},"
    " {'name': '10', 'meta-type': 'alternate', 'members': [{'type': 'str'}, {'type': '[str]'}]},"
    " {'name': '11', 'meta-type': 'alternate', 'members': [{'type': 'bool'}, {'type': 'int'},"
    "    {'type': 'null'}]},"
    " {'name': '3', 'meta-type': 'object', 'members': ["
    "    {'name': 'iothread', 'type': '10', 'default': null},"
    "    {'name': 'options', 'type': '[2]', 'default': null},"
    "    {'name': 'names', 'type': '[str]', 'default': null},"
    "    {'name': 'either', 'type': '11', 'default': null}]}]";

static CtlSchema *make_schema(void)
{
    g_autoptr(GError) error = NULL;
    QValue *entries = qvalue_from_json(schema_text, -1, &error);
    CtlSchema *schema;

    g_assert_no_error(error);
    schema = ctl_schema_new(entries, &error);
    g_assert_no_error(error);
    return schema;
}

/* @line: the command, then its words, separated by blanks. */
static QValue *convert(const char *line, GError **error)
{
    g_autoptr(CtlSchema) schema = make_schema();
    g_auto(GStrv) words = g_strsplit(line, " ", -1);

    return ctl_args_convert(schema, words[0], words + 1, error);
}

static void test_accepted(void)
{
    static const struct {
        const char *line, *json;
    } cases[] = {
        {"nothing", "{}"},
        {"nothing {}", "{}"},
        {"scalars s=x", "{'s': 'x'}"},
        {"scalars s=", "{'s': ''}"},
        {"scalars s=a=b,c", "{'s': 'a=b,c'}"},
        {"scalars s=12", "{'s': '12'}"},
        {"scalars s={x}", "{'s': '{x}'}"},
        {"scalars i=12", "{'i': 12}"},
        {"scalars i=-3", "{'i': -3}"},
        {"scalars i=10M", "{'i': 10485760}"},
        {"scalars i=0x10", "{'i': 16}"},
        {"scalars i=18446744073709551615", "{'i': 18446744073709551615}"},
        {"scalars i=-9223372036854775808", "{'i': -9223372036854775808}"},
        {"scalars n=1.5", "{'n': 1.5}"},
        {"scalars b=on", "{'b': true}"},
        {"scalars b=no", "{'b': false}"},
        {"scalars e=safe", "{'e': 'safe'}"},
        {"scalars a=text", "{'a': 'text'}"},
        {"scalars a=[1]", "{'a': [1]}"},
        {"scalars a.b=1 a.c=x", "{'a': {'b': 1, 'c': 'x'}}"},
        {"scalars s:=\"q\"", "{'s': 'q'}"},
        {"scalars s:=null", "{'s': null}"}, /* refused by the daemon, in its own words */
        {"scalars {'i':5}", "{'i': 5}"},
        {"scalars {'i':5} s=x", "{'i': 5, 's': 'x'}"},
        {"add driver=file filename=/x", "{'driver': 'file', 'filename': '/x'}"},
        {"add filename=/x driver=file cache.direct=on",
         "{'filename': '/x', 'driver': 'file', 'cache': {'direct': true}}"},
        {"add driver=raw file=node", "{'driver': 'raw', 'file': 'node'}"},
        {"add driver=raw file.driver=file file.filename=/x size=1k",
         "{'driver': 'raw', 'file': {'driver': 'file', 'filename': '/x'}, 'size': 1024}"},
        {"add driver=raw file={'driver':'file','filename':'/x'}",
         "{'driver': 'raw', 'file': {'driver': 'file', 'filename': '/x'}}"},
        {"add {'driver':'raw'} file=n", "{'driver': 'raw', 'file': 'n'}"},
        {"add driver=null-co cache:={'direct':true}",
         "{'driver': 'null-co', 'cache': {'direct': true}}"},
        {"lists iothread=a", "{'iothread': 'a'}"},
        {"lists iothread.0=a iothread.1=b", "{'iothread': ['a', 'b']}"},
        {"lists iothread.1=b iothread.0=a", "{'iothread': ['a', 'b']}"},
        {"lists iothread=['a']", "{'iothread': ['a']}"},
        {"lists names=['a','b']", "{'names': ['a', 'b']}"},
        {"lists options.0.driver=null-co options.1.driver=file options.1.filename=x",
         "{'options': [{'driver': 'null-co'}, {'driver': 'file', 'filename': 'x'}]}"},
        {"lists either=on", "{'either': true}"},
        {"lists either=5", "{'either': 5}"},
        {"lists either=null", "{'either': null}"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(QValue) wanted = qvalue_from_json(cases[i].json, -1, NULL);
        g_autoptr(QValue) got = convert(cases[i].line, &error);

        g_test_message("%s", cases[i].line);
        g_assert_no_error(error);
        g_assert_nonnull(wanted);
        g_assert_true(qvalue_equal(got, wanted));
    }
}

static void test_refused(void)
{
    static const struct {
        const char *line, *part;
    } cases[] = {
        {"nothing x=1", "there is no 'x' here: nothing is taken"},
        {"nothing x", "'x' is no argument; arguments are written key=value"},
        {"scalars =1", "'=1' is no argument"},
        {"scalars :=1", "':=1' is no argument"},
        {"scalars .s=1", "a part of it is empty"},
        {"scalars a..b=1", "a part of it is empty"},
        {"scalars s=1 s=2", "'s' is given twice"},
        {"scalars a.b=1 a=2", "'a' is given twice"},
        {"scalars a=2 a.b=1", "'a' has a value of its own"},
        {"scalars {'s':'x'} s=y", "'s' is given twice"},
        {"scalars {'s':'x'} {'s':'y'}", "'s' is given twice"},
        {"scalars {'s'", "the argument in braces is no valid JSON"},
        {"scalars i:=x", "the value of 'i' is no valid JSON"},
        {"scalars i=x", "'i=x' does not fit: 'i' is integer"},
        {"scalars i=1.5", "does not fit"},
        {"scalars i=99999999999999999999", "does not fit"},
        {"scalars i.j=1", "'i' has no members: it is integer"},
        {"scalars n=x", "'n' is number"},
        {"scalars n=on", "'n' is number"},
        {"scalars b=maybe", "'b' is on|off"},
        {"scalars b=1", "'b' is on|off"},
        {"scalars e=sfae", "'e' cannot be 'sfae'; did you mean 'safe'?"},
        {"scalars e=xxxxxxx", "'e' is hard|safe"},
        {"scalars zz=1", "there is: s, i, n, b, a, e"},
        {"add", "the argument 'driver' (file|raw|null-co) is missing"},
        {"add driver=file", "the argument 'filename' (string) is missing"},
        {"add driver=fil filename=/x", "did you mean 'file'?"},
        {"add filename=/x", "there is no 'filename' here without 'driver'"},
        {"add driver=file filname=/x", "there is no 'filname' here; did you mean 'filename'?"},
        {"add driver=file nodename=x filename=/x", "did you mean 'node-name'?"},
        {"add driver=raw", "the argument 'file' (object or string) is missing"},
        {"add driver=raw file.driver=file", "the argument 'file.filename' (string) is missing"},
        {"add driver=raw file.driver=file file.filename=x file.zz=1", "there is no 'file.zz' here"},
        {"add driver=null-co cache=on", "'cache' is an object: write cache.MEMBER=..."},
        {"add driver=null-co cache.derict=on",
         "there is no 'cache.derict' here; did you mean 'direct'?"},
        {"lists names=a", "'names' is a list: write names.0=..., names.1=..., or names=[JSON]"},
        {"lists names.1=a", "the list 'names' has no 'names.0'"},
        {"lists names.0=a names.x=b", "the list 'names' has no 'names.1'"},
        {"lists options.0.driver=zzzzzzzz", "'options.0.driver=zzzzzzzz' does not fit"},
        {"lists either=maybe", "'either' is on|off or integer or null"},
        {"scalars s=\xff", "'s=\\xff' is not UTF-8"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(QValue) got = convert(cases[i].line, &error);

        g_test_message("%s", cases[i].line);
        g_assert_null(got);
        g_assert_error(error, CTL_ERROR, CTL_ERROR_USAGE);
        g_test_message("  %s", error->message);
        g_assert_nonnull(strstr(error->message, cases[i].part));
    }
}

/* @line: the command, the words before, and last the word to complete. */
static void test_complete(void)
{
    static const struct {
        const char *line, *candidates;
    } cases[] = {
        {"nothing ", ""},
        {"scalars ", "s= i= n= b= a= e="},
        {"scalars s=x ", "i= n= b= a= e="},
        {"scalars b=", "b=on b=off"},
        {"scalars e=h", "e=hard"},
        {"scalars s=", ""},
        {"add ", "driver= node-name= cache."},
        {"add driver=", "driver=file driver=raw driver=null-co"},
        {"add driver=file ", "node-name= cache. filename="},
        {"add driver=file fi", "filename="},
        {"add driver=file cache.", "cache.direct= cache.no-flush="},
        {"add driver=file cache.direct=on cache.", "cache.no-flush="},
        {"add driver=raw file.", "file.driver= file.node-name= file.cache."},
        {"add driver=raw file.driver=file file.", "file.node-name= file.cache. file.filename="},
        {"add driver=raw file.driver=f", "file.driver=file"},
        {"lists options.0.driver=f", "options.0.driver=file"},
        {"lists options.", ""},
        {"lists zz.yy.xx", ""},
        {"lists zz=", ""},
    };
    g_autoptr(CtlSchema) schema = make_schema();

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_auto(GStrv) words = g_strsplit(cases[i].line, " ", -1);
        guint last = g_strv_length(words) - 1;
        g_autofree char *word = g_steal_pointer(&words[last]);
        g_auto(GStrv) got = ctl_args_complete(schema, words[0], words + 1, word);
        g_autofree char *joined = g_strjoinv(" ", got);

        g_assert_cmpstr(joined, ==, cases[i].candidates);
    }
}

/* A daemon that tells nonsense is no reason to crash. */
static void test_malformed_schema(void)
{
    static const char *const texts[] = {
        "[]",
        "[1, null, [], {}, {'name': 1}, {'name': 'x'}]",
        "[{'name': 'scalars', 'meta-type': 'command'}]",
        "[{'name': 'scalars', 'meta-type': 'command', 'arg-type': 'gone'}]",
        "[{'name': 'scalars', 'meta-type': 'command', 'arg-type': '1'},"
        " {'name': '1', 'meta-type': 'object', 'members': [{'name': 'x', 'type': 'gone'}, 5]}]",
        "[{'name': 'scalars', 'meta-type': 'command', 'arg-type': '1'},"
        " {'name': '1', 'meta-type': 'enum'}]",
        "[{'name': 'scalars', 'meta-type': 'command', 'arg-type': '1'},"
        " {'name': '1', 'meta-type': 'array', 'element-type': '1'}]",
        "[{'name': 'scalars', 'meta-type': 'command', 'arg-type': '1'},"
        " {'name': '1', 'meta-type': 'alternate', 'members': [{'type': '1'}]}]",
    };

    for (gsize i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autoptr(CtlSchema) schema = ctl_schema_new(qvalue_from_json(texts[i], -1, NULL), NULL);
        char *words[] = {(char *)"x=1", NULL};
        g_autoptr(QValue) value = ctl_args_convert(schema, "scalars", words, NULL);
        g_auto(GStrv) candidates = ctl_args_complete(schema, "scalars", words, "x");
        g_autofree char *what = ctl_type_describe(schema, ctl_schema_arguments(schema, "scalars"));

        g_assert_nonnull(what);
        g_assert_nonnull(candidates);
    }
    g_assert_null(ctl_schema_new(qvalue_object(), NULL));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ctl/args/accepted", test_accepted);
    g_test_add_func("/ctl/args/refused", test_refused);
    g_test_add_func("/ctl/args/complete", test_complete);
    g_test_add_func("/ctl/args/malformed-schema", test_malformed_schema);
    return g_test_run();
}
