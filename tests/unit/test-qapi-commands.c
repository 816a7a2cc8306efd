/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Generated marshalling: the commands of tests/unit/qapi/test.json called as a monitor calls them,
 * and the command table.
 */
#include <glib.h>

#include "qapi/commands-test.h"
#include "qapi/json-parser.h"
#include "util/error.h"

/* What the commands were called with, as text. They get it as their self. */
typedef struct {
    GString *log;
    bool fail;
} Service;

static bool maybe_fail(QapiCall *call, GError **error)
{
    Service *s = call->self;

    if (s->fail) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE, "'%s' was told to fail", call->command);
    }
    return s->fail;
}

static void log_value(QapiCall *call, QValue *take)
{
    g_autoptr(QValue) value = take;
    g_autofree char *text = qvalue_to_json_string(value);

    g_string_append(((Service *)call->self)->log, text);
}

bool co_fn qmp_do_nothing(QapiCall *call, GError **error)
{
    return !maybe_fail(call, error);
}

bool co_fn qmp_do_args(QapiCall *call, const char *name, bool has_size, uint64_t size,
                       uint8_t count, const TestPoint *point, const GArray *list, const QValue *any,
                       GError **error)
{
    Service *s = call->self;

    g_string_append_printf(s->log, "%s %d/%" G_GUINT64_FORMAT " %u %d %d %s", name, has_size,
                           has_size ? size : 0, count, point ? (int)point->x : -1,
                           list ? (int)list->len : -1, any ? qvalue_type_name(any) : "-");
    return !maybe_fail(call, error);
}

TestShape *co_fn qmp_do_boxed(QapiCall *call, const TestShape *arg, GError **error)
{
    log_value(call, test_shape_to_qvalue(arg));
    return maybe_fail(call, error) ? NULL : test_shape_copy(arg);
}

GPtrArray *co_fn qmp_do_derived(QapiCall *call, int64_t x, bool has_y, int64_t y, int64_t z,
                                GError **error)
{
    g_autoptr(GPtrArray) list = test_point_list_new();
    const int64_t values[] = {x, has_y ? y : -1, z};

    if (maybe_fail(call, error)) {
        return NULL;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(values); i++) {
        TestPoint *point = g_new0(TestPoint, 1);

        point->x = values[i];
        g_ptr_array_add(list, point);
    }
    return g_steal_pointer(&list);
}

QValue *co_fn qmp_do_raw(QapiCall *call, const QValue *args, GError **error)
{
    return maybe_fail(call, error) ? NULL : args ? qvalue_ref(args) : qvalue_object();
}

char *co_fn qmp_get_str(QapiCall *call, GError **error)
{
    return maybe_fail(call, error) ? NULL : g_strdup("text");
}

bool co_fn qmp_get_int(QapiCall *call, int64_t *ret, GError **error)
{
    *ret = -7;
    return !maybe_fail(call, error);
}

bool co_fn qmp_get_flag(QapiCall *call, bool *ret, GError **error)
{
    *ret = false;
    return !maybe_fail(call, error);
}

QValue *co_fn qmp_get_any(QapiCall *call, GError **error)
{
    return maybe_fail(call, error) ? NULL : qvalue_null();
}

bool co_fn qmp_get_color(QapiCall *call, TestColor *ret, GError **error)
{
    *ret = TEST_COLOR_DARK_BLUE;
    return !maybe_fail(call, error);
}

GArray *co_fn qmp_get_numbers(QapiCall *call, GError **error)
{
    GArray *list;
    const double numbers[] = {1, 2.5};

    if (maybe_fail(call, error)) {
        return NULL;
    }
    list = g_array_new(FALSE, FALSE, sizeof(double));
    return g_array_append_vals(list, numbers, G_N_ELEMENTS(numbers));
}

GPtrArray *co_fn qmp_get_strings(QapiCall *call, GError **error)
{
    GPtrArray *list;

    if (maybe_fail(call, error)) {
        return NULL;
    }
    list = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(list, g_strdup("a"));
    return list;
}

/* ---- Tests ---- */

typedef struct {
    QapiCommandTable *table;
    Service service;
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    f->service.log = g_string_new(NULL);
    f->table = qapi_command_table_new();
    qapi_command_table_add(f->table, qapi_commands_test, &f->service);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    qapi_command_table_free(f->table);
    g_string_free(f->service.log, TRUE);
}

/* Run a command; its result as text, or NULL and @error. @args may be NULL. */
static char *run(Fixture *f, const char *name, const char *args, GError **error)
{
    g_autoptr(QValue) parsed = args ? qvalue_from_json(args, -1, NULL) : NULL;
    QapiCall call = {.command = name};
    const QapiCommand *command = qapi_command_table_lookup(f->table, name, &call.self);
    g_autoptr(QValue) ret = NULL;

    g_string_truncate(f->service.log, 0);
    g_assert_true(call.self == &f->service);
    command->marshal(&call, parsed, &ret, error);
    return ret ? qvalue_to_json_string(ret) : NULL;
}

static void check_result(Fixture *f, const char *name, const char *args, const char *result)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = run(f, name, args, &error);

    g_assert_no_error(error);
    g_assert_cmpstr(text, ==, result);
}

static void check_refused(Fixture *f, const char *name, const char *args, const char *message)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = run(f, name, args, &error);

    g_assert_null(text);
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT);
    g_assert_cmpstr(error->message, ==, message);
    g_assert_cmpstr(f->service.log->str, ==, ""); /* no command code has run */
}

static void test_results(Fixture *f, gconstpointer data)
{
    check_result(f, "do-nothing", NULL, "{}");
    check_result(f, "do-nothing", "{}", "{}");
    check_result(f, "do-boxed", "{'kind': 'dot'}", "{\"kind\": \"dot\"}");
    check_result(f, "do-derived", "{'x': 1, 'z': 3}", "[{\"x\": 1}, {\"x\": -1}, {\"x\": 3}]");
    check_result(f, "do-raw", "{'x': [1], 'other': 2}", "{\"x\": [1], \"other\": 2}");
    check_result(f, "do-raw", NULL, "{}");
    check_result(f, "get-str", NULL, "\"text\"");
    check_result(f, "get-int", NULL, "-7");
    check_result(f, "get-flag", NULL, "false");
    check_result(f, "get-any", NULL, "null");
    check_result(f, "get-color", NULL, "\"dark-blue\"");
    check_result(f, "get-numbers", NULL, "[1, 2.5]");
    check_result(f, "get-strings", NULL, "[\"a\"]");
}

static void test_arguments(Fixture *f, gconstpointer data)
{
    check_result(f, "do-args", "{'name': 'n'}", "{}");
    g_assert_cmpstr(f->service.log->str, ==, "n 0/0 7 -1 -1 -");
    check_result(f, "do-args",
                 "{'name': 'n', 'size': 5, 'count': 1, 'point': {'x': 2}, 'list': ['red'], "
                 "'any': null}",
                 "{}");
    g_assert_cmpstr(f->service.log->str, ==, "n 1/5 1 2 1 null");
}

static void test_bad_arguments(Fixture *f, gconstpointer data)
{
    check_refused(f, "do-nothing", "{'x': 1}", "Parameter 'x' is unexpected");
    check_refused(f, "do-args", NULL, "Parameter 'name' is missing");
    check_refused(f, "do-args", "{'name': 'n', 'count': 256}",
                  "Parameter 'count' must be an integer from 0 to 255, not 256");
    check_refused(f, "do-args", "{'name': 'n', 'point': {}}", "Parameter 'point.x' is missing");
    check_refused(
        f, "do-args", "{'name': 'n', 'list': ['pink']}",
        "Parameter 'list[0]' must be 'red', 'dark-blue', 'ultra' or 'sepia', not \"pink\"");
    check_refused(f, "do-boxed", NULL, "Parameter 'kind' is missing");
    check_refused(f, "do-derived", "{'x': 1}", "Parameter 'z' is missing");
    check_refused(f, "get-str", "{'x': 1}", "Parameter 'x' is unexpected");
}

static void check_fails(const QapiCommand *command, gpointer opaque)
{
    static const struct {
        const char *name, *args;
    } arguments[] = {{"do-args", "{'name': 'n'}"},
                     {"do-boxed", "{'kind': 'dot'}"},
                     {"do-derived", "{'x': 1, 'z': 1}"}};
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    const char *args = NULL;

    for (gsize i = 0; i < G_N_ELEMENTS(arguments); i++) {
        args = strcmp(arguments[i].name, command->name) == 0 ? arguments[i].args : args;
    }
    text = run(opaque, command->name, args, &error);
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE);
    g_assert_null(text);
}

/* A command's own failure comes through as it is, whatever it returns. */
static void test_failures(Fixture *f, gconstpointer data)
{
    f->service.fail = true;
    qapi_command_table_foreach(f->table, check_fails, f);
}

static void append_name(const QapiCommand *command, gpointer opaque)
{
    g_string_append_printf(opaque, "%s ", command->name);
}

static void test_table(Fixture *f, gconstpointer data)
{
    g_autoptr(GString) names = g_string_new(NULL);
    gpointer self = NULL;

    qapi_command_table_foreach(f->table, append_name, names);
    g_assert_cmpstr(names->str, ==,
                    "do-args do-boxed do-derived do-nothing do-raw get-any get-color get-flag "
                    "get-int get-numbers get-str get-strings ");
    g_assert_null(qapi_command_table_lookup(f->table, "do-ghost", &self));
    g_assert_null(qapi_command_table_lookup(f->table, "DO-ARGS", &self));
    g_assert_null(self);
    g_assert_nonnull(qapi_command_table_lookup(f->table, "do-args", NULL));
}

static void test_flags(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *name;
        unsigned flags;
    } cases[] = {{"do-nothing", QAPI_COMMAND_ALLOW_OOB | QAPI_COMMAND_UNSTABLE},
                 {"do-args", QAPI_COMMAND_DEPRECATED},
                 {"do-raw", 0}};

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        const QapiCommand *command = qapi_command_table_lookup(f->table, cases[i].name, NULL);

        g_assert_cmpuint(command->flags, ==, cases[i].flags);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, function)                                                                        \
    g_test_add("/qapi/commands/" name, Fixture, NULL, set_up, function, tear_down)
    ADD("results", test_results);
    ADD("arguments", test_arguments);
    ADD("bad-arguments", test_bad_arguments);
    ADD("failures", test_failures);
    ADD("table", test_table);
    ADD("flags", test_flags);
    return g_test_run();
}
