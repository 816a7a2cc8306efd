/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Objects: making, removing, users, and the QOM commands with what they refuse. */
#include <string.h>

#include "object/object.h"
#include "util/error.h"

typedef struct Fixture {
    ObjectRegistry *registry;
    QapiCommandTable *table;
} Fixture;

static void set_up(Fixture *f, gconstpointer unused)
{
    f->registry = object_registry_new();
    f->table = qapi_command_table_new();
    object_register_commands(f->registry, f->table);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    qapi_command_table_free(f->table);
    object_registry_free(f->registry);
}

/* An object of string members, NULL-ended pairs; a value that begins with '#' is an integer. */
G_GNUC_NULL_TERMINATED
static QValue *object_of(const char *key, ...)
{
    QValue *object = qvalue_object();
    va_list ap;

    va_start(ap, key);
    while (key) {
        const char *text = va_arg(ap, const char *);

        qvalue_object_set(object, key,
                          *text == '#' ? qvalue_int(g_ascii_strtoll(text + 1, NULL, 10))
                                       : qvalue_string(text));
        key = va_arg(ap, const char *);
    }
    va_end(ap);
    return object;
}

/* Run a command; its result as JSON, or NULL with @error. Takes @args. */
static char *run(Fixture *f, const char *name, QValue *args, GError **error)
{
    gpointer self;
    const QapiCommand *command = qapi_command_table_lookup(f->table, name, &self);
    QapiCall call = {.self = self, .command = name};
    g_autoptr(QValue) arguments = args;
    g_autoptr(QValue) ret = NULL;

    g_assert_nonnull(command);
    command->marshal(&call, arguments, &ret, error);
    return ret ? qvalue_to_json_string(ret) : NULL;
}

static void assert_result(Fixture *f, const char *name, QValue *args, const char *expected)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *result = run(f, name, args, &error);

    g_assert_no_error(error);
    g_assert_cmpstr(result, ==, expected);
}

static void assert_refused(Fixture *f, const char *name, QValue *args, int code, const char *word)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *result = run(f, name, args, &error);

    g_assert_null(result);
    g_assert_error(error, WHARF_ERROR, code);
    if (!strstr(error->message, word)) {
        g_error("'%s' does not name '%s'", error->message, word);
    }
}

static QValue *iothread(const char *id)
{
    return object_of("qom-type", "iothread", "id", id, NULL);
}

static void test_add_del(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    Iothread *found;

    assert_result(f, "object-add", iothread("io0"), "{}");
    found = object_registry_get_iothread(f->registry, "io0", &error);
    g_assert_no_error(error);
    g_assert_cmpstr(iothread_name(found), ==, "io0");
    iothread_unref(found);

    assert_refused(f, "object-add", iothread("io0"), WHARF_ERROR_EXISTS, "io0");
    assert_result(f, "object-del", object_of("id", "io0", NULL), "{}");
    assert_refused(f, "object-del", object_of("id", "io0", NULL), WHARF_ERROR_NOT_FOUND, "io0");
    g_assert_null(object_registry_get_iothread(f->registry, "io0", &error));
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND);
    assert_result(f, "object-add", iothread("io0"), "{}");
}

static void test_bad_options(Fixture *f, gconstpointer unused)
{
    static const char *const bad_ids[] = {"", "0a", "a b", "a/b", "#x", "-a", "\303\251"};

    for (unsigned i = 0; i < G_N_ELEMENTS(bad_ids); i++) {
        QValue *args = object_of("qom-type", "iothread", NULL);

        qvalue_object_set(args, "id", qvalue_string(bad_ids[i]));
        assert_refused(f, "object-add", args, WHARF_ERROR_INVALID_ARGUMENT, "id");
    }
    assert_refused(f, "object-add", object_of("qom-type", "iothread", NULL),
                   WHARF_ERROR_INVALID_ARGUMENT, "id");
    assert_refused(f, "object-add", object_of("qom-type", "nonsense", "id", "a", NULL),
                   WHARF_ERROR_INVALID_ARGUMENT, "nonsense");
    assert_refused(f, "object-add",
                   object_of("qom-type", "iothread", "id", "a", "poll-max-ns", "#-1", NULL),
                   WHARF_ERROR_INVALID_ARGUMENT, "poll-max-ns");
    assert_refused(f, "object-add",
                   object_of("qom-type", "iothread", "id", "a", "colour", "#1", NULL),
                   WHARF_ERROR_INVALID_ARGUMENT, "colour");
    assert_refused(f, "object-add",
                   object_of("qom-type", "iothread", "id", "a", "thread-pool-min", "#9",
                             "thread-pool-max", "#8", NULL),
                   WHARF_ERROR_INVALID_ARGUMENT, "thread-pool-min");
    assert_result(f, "qom-list", object_of("path", "/objects", NULL),
                  "[{\"name\": \"type\", \"type\": \"string\"}]");
}

static void test_users(Fixture *f, gconstpointer unused)
{
    assert_result(f, "object-add", iothread("io0"), "{}");
    object_registry_use(f->registry, "io0", "export 'e0'");
    object_registry_use(f->registry, "io0", "export 'e0'");
    object_registry_use(f->registry, "io0", "export 'e1'");
    assert_refused(f, "object-del", object_of("id", "io0", NULL), WHARF_ERROR_IN_USE,
                   "by export 'e0', export 'e1';");
    object_registry_unuse(f->registry, "io0", "export 'e1'");
    object_registry_unuse(f->registry, "io0", "export 'e0'");
    assert_refused(f, "object-del", object_of("id", "io0", NULL), WHARF_ERROR_IN_USE,
                   "by export 'e0';");
    object_registry_unuse(f->registry, "io0", "export 'e0'");
    assert_result(f, "object-del", object_of("id", "io0", NULL), "{}");
}

static QValue *property(const char *path, const char *name)
{
    return object_of("path", path, "property", name, NULL);
}

static void test_qom_get_set(Fixture *f, gconstpointer unused)
{
    static const char *const paths[] = {"/objects/io0", "io0", "objects/io0"};

    assert_result(f, "object-add", iothread("io0"), "{}");
    for (unsigned i = 0; i < G_N_ELEMENTS(paths); i++) {
        QValue *args = property(paths[i], "poll-max-ns");

        assert_result(f, "qom-get", property(paths[i], "type"), "\"iothread\"");
        qvalue_object_set(args, "value", qvalue_int(1000 + i));
        assert_result(f, "qom-set", args, "{}");
        assert_result(f, "qom-get", property(paths[i], "poll-max-ns"),
                      ((const char *[]){"1000", "1001", "1002"})[i]);
    }
    assert_result(f, "qom-get", property("/objects", "type"), "\"container\"");
    /* The id is still found after a change, and the object can still be removed. */
    assert_refused(f, "object-add", iothread("io0"), WHARF_ERROR_EXISTS, "io0");
    assert_result(f, "object-del", object_of("id", "io0", NULL), "{}");
}

static void test_qom_refuses(Fixture *f, gconstpointer unused)
{
    QValue *args;

    assert_result(f, "object-add", iothread("io0"), "{}");
    assert_refused(f, "qom-list", object_of("path", "nothing", NULL), WHARF_ERROR_DEVICE_NOT_FOUND,
                   "nothing");
    assert_refused(f, "qom-list", object_of("path", "/io0", NULL), WHARF_ERROR_DEVICE_NOT_FOUND,
                   "/io0");
    assert_refused(f, "qom-list", object_of("path", "", NULL), WHARF_ERROR_GENERIC, "empty");
    assert_refused(f, "qom-get", property("io0", "colour"), WHARF_ERROR_NOT_FOUND, "colour");
    assert_refused(f, "qom-get", property("io0", "id"), WHARF_ERROR_NOT_FOUND, "id");
    assert_refused(f, "qom-get", property("nothing", "type"), WHARF_ERROR_DEVICE_NOT_FOUND,
                   "nothing");

    args = property("io0", "poll-max-ns");
    qvalue_object_set(args, "value", qvalue_string("5"));
    assert_refused(f, "qom-set", args, WHARF_ERROR_INVALID_ARGUMENT, "poll-max-ns");
    args = property("io0", "poll-max-ns");
    qvalue_object_set(args, "value", qvalue_int(-5));
    assert_refused(f, "qom-set", args, WHARF_ERROR_INVALID_ARGUMENT, "poll-max-ns");
    args = property("io0", "thread-pool-min");
    qvalue_object_set(args, "value", qvalue_int(100));
    assert_refused(f, "qom-set", args, WHARF_ERROR_INVALID_ARGUMENT, "thread-pool-max");
    args = property("io0", "type");
    qvalue_object_set(args, "value", qvalue_string("x"));
    assert_refused(f, "qom-set", args, WHARF_ERROR_UNSUPPORTED, "type");
    args = property("io0", "id");
    qvalue_object_set(args, "value", qvalue_string("io1"));
    assert_refused(f, "qom-set", args, WHARF_ERROR_NOT_FOUND, "id");
    assert_result(f, "qom-get", property("io0", "poll-max-ns"), "32768");
    assert_result(f, "qom-get", property("io0", "thread-pool-min"), "0");
}

static void test_qom_lists(Fixture *f, gconstpointer unused)
{
    g_autofree char *of_object = NULL, *all = NULL, *creatable = NULL;
    g_autofree char *of_type = NULL;

    assert_result(f, "object-add", iothread("io0"), "{}");
    assert_result(f, "qom-list", object_of("path", "/objects", NULL),
                  "[{\"name\": \"type\", \"type\": \"string\"}, "
                  "{\"name\": \"io0\", \"type\": \"child<iothread>\"}]");
    assert_result(f, "qom-list", object_of("path", "/", NULL),
                  "[{\"name\": \"type\", \"type\": \"string\"}, "
                  "{\"name\": \"objects\", \"type\": \"child<container>\"}]");
    of_object = run(f, "qom-list", object_of("path", "io0", NULL), NULL);
    of_type = run(f, "qom-list-properties", object_of("typename", "iothread", NULL), NULL);
    g_assert_cmpstr(of_object, ==, of_type);
    g_assert_nonnull(strstr(of_object, "{\"name\": \"poll-max-ns\", \"type\": \"int\"}"));

    all = run(f, "qom-list-types", NULL, NULL);
    creatable = run(f, "qom-list-types", object_of("implements", "user-creatable", NULL), NULL);
    g_assert_cmpstr(all, ==, creatable);
    g_assert_nonnull(strstr(all, "{\"name\": \"secret\", \"parent\": \"object\"}"));
    assert_result(f, "qom-list-types", object_of("implements", "event-loop-base", NULL),
                  "[{\"name\": \"iothread\", \"parent\": \"event-loop-base\"}]");
    assert_result(f, "qom-list-types", object_of("implements", "nonsense", NULL), "[]");
    assert_refused(f, "qom-list-properties", object_of("typename", "nonsense", NULL),
                   WHARF_ERROR_DEVICE_NOT_FOUND, "nonsense");
}

static void test_secret_stays_secret(Fixture *f, gconstpointer unused)
{
    assert_result(f, "object-add",
                  object_of("qom-type", "secret", "id", "pw", "data", "letmein", NULL), "{}");
    assert_result(f, "qom-get", property("pw", "format"), "\"raw\"");
    assert_refused(f, "qom-get", property("pw", "data"), WHARF_ERROR_NOT_FOUND, "data");
    assert_refused(f, "qom-set", object_of("path", "pw", "property", "data", "value", "x", NULL),
                   WHARF_ERROR_NOT_FOUND, "data");
}

#define ADD(path, function) g_test_add("/object/" path, Fixture, NULL, set_up, function, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("add-del", test_add_del);
    ADD("bad-options", test_bad_options);
    ADD("users", test_users);
    ADD("qom-get-set", test_qom_get_set);
    ADD("qom-refuses", test_qom_refuses);
    ADD("qom-lists", test_qom_lists);
    ADD("secret-stays-secret", test_secret_stays_secret);
    return g_test_run();
}
