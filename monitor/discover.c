/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rpc.discover: the interface as an OpenRPC document, made from the schema.
 *
 * Each type becomes a JSON schema among the components, each command that this daemon has a method.
 * A method whose parameters depend on one of them (a union) lists those that all cases share, and
 * refers to the schema of the whole in "x-params". "x-events" lists events, and "x-schema" is the
 * schema itself with names and documentation, for help.
 */
#include "monitor/set-internal.h"

#include <string.h>

#include "qapi/introspect.h"

#define OPENRPC_VERSION "1.2.6"

static const char *member_string(const QValue *object, const char *key)
{
    const QValue *value = qvalue_object_get(object, key);

    return value && qvalue_type(value) == QVALUE_STRING ? qvalue_get_string(value, NULL) : NULL;
}

static void copy_member(const QValue *from, const char *key, QValue *to, const char *new_key)
{
    const QValue *value = qvalue_object_get(from, key);

    if (value && qvalue_type(value) != QVALUE_NULL) {
        qvalue_object_set(to, new_key, qvalue_ref(value));
    }
}

/* ---- types ---- */

/* A schema that refers to the type called @name; "[T]" is an array of T. */
static QValue *schema_ref(const char *name)
{
    QValue *schema = qvalue_object();
    g_autofree char *element = NULL;
    g_autofree char *ref = NULL;

    if (name[0] == '[') {
        element = g_strndup(name + 1, strlen(name) - 2);
        qvalue_object_set(schema, "type", qvalue_string("array"));
        qvalue_object_set(schema, "items", schema_ref(element));
        return schema;
    }
    ref = g_strconcat("#/components/schemas/", name, NULL);
    qvalue_object_set(schema, "$ref", qvalue_string(ref));
    return schema;
}

static QValue *builtin_schema(const QValue *entry)
{
    QValue *schema = qvalue_object();
    const char *type = member_string(entry, "json-type");

    if (!g_str_equal(type, "value")) {
        qvalue_object_set(schema, "type",
                          qvalue_string(g_str_equal(type, "int") ? "integer" : type));
    }
    return schema;
}

static QValue *enum_schema(const QValue *entry)
{
    QValue *schema = qvalue_object();

    qvalue_object_set(schema, "type", qvalue_string("string"));
    copy_member(entry, "values", schema, "enum");
    return schema;
}

static QValue *alternate_schema(const QValue *entry)
{
    QValue *schema = qvalue_object();
    QValue *any = qvalue_array();
    const QValue *members = qvalue_object_get(entry, "members");

    for (gsize i = 0; i < qvalue_array_length(members); i++) {
        const QValue *member = qvalue_array_get(members, i);

        qvalue_array_append(any, schema_ref(member_string(member, "type")));
    }
    qvalue_object_set(schema, "anyOf", any);
    return schema;
}

/* The schema of one member: its type, and what is known about its value. */
static QValue *member_schema(const QValue *member)
{
    QValue *schema = schema_ref(member_string(member, "type"));

    copy_member(member, "default", schema, "default");
    copy_member(member, "min", schema, "minimum");
    copy_member(member, "max", schema, "maximum");
    copy_member(member, "doc", schema, "description");
    return schema;
}

static bool member_is_required(const QValue *member)
{
    return !qvalue_object_has(member, "default");
}

/* One case of a union: the tag has this value, and the branch's members are there, too. */
static QValue *variant_schema(const char *tag, const QValue *variant)
{
    QValue *schema = qvalue_object();
    QValue *properties = qvalue_object();
    QValue *value = qvalue_object();
    QValue *all = qvalue_array();

    qvalue_object_set(value, "const", qvalue_ref(qvalue_object_get(variant, "case")));
    qvalue_object_set(properties, tag, value);
    qvalue_array_append(all, schema_ref(member_string(variant, "type")));
    qvalue_object_set(schema, "properties", properties);
    qvalue_object_set(schema, "allOf", all);
    return schema;
}

static QValue *object_schema(const QValue *entry)
{
    QValue *schema = qvalue_object();
    QValue *properties = qvalue_object();
    QValue *required = qvalue_array();
    const QValue *members = qvalue_object_get(entry, "members");
    const QValue *variants = qvalue_object_get(entry, "variants");

    for (gsize i = 0; i < qvalue_array_length(members); i++) {
        const QValue *member = qvalue_array_get(members, i);

        qvalue_object_set(properties, member_string(member, "name"), member_schema(member));
        if (member_is_required(member)) {
            qvalue_array_append(required, qvalue_ref(qvalue_object_get(member, "name")));
        }
    }
    qvalue_object_set(schema, "type", qvalue_string("object"));
    qvalue_object_set(schema, "properties", properties);
    qvalue_object_set(schema, "required", required);
    if (variants) {
        QValue *cases = qvalue_array();

        for (gsize i = 0; i < qvalue_array_length(variants); i++) {
            qvalue_array_append(
                cases, variant_schema(member_string(entry, "tag"), qvalue_array_get(variants, i)));
        }
        qvalue_object_set(schema, "oneOf", cases);
    }
    return schema;
}

/* The schema of a type, or NULL where @entry is none that stands alone. */
static QValue *type_schema(const QValue *entry)
{
    static const struct {
        const char *meta;
        QValue *(*schema)(const QValue *entry);
    } kinds[] = {
        {"builtin", builtin_schema},
        {"enum", enum_schema},
        {"alternate", alternate_schema},
        {"object", object_schema},
    };
    const char *meta = member_string(entry, "meta-type");

    for (gsize i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (g_str_equal(kinds[i].meta, meta)) {
            QValue *schema = kinds[i].schema(entry);

            copy_member(entry, "doc", schema, "description");
            return schema;
        }
    }
    return NULL;
}

/* ---- methods ---- */

/* Entries of the schema by name; commands and types share no names. */
static GHashTable *index_entries(const QValue *entries)
{
    GHashTable *index = g_hash_table_new(g_str_hash, g_str_equal);

    for (gsize i = 0; i < qvalue_array_length(entries); i++) {
        const QValue *entry = qvalue_array_get(entries, i);

        g_hash_table_insert(index, (gpointer)member_string(entry, "name"), (gpointer)entry);
    }
    return index;
}

static QValue *method_params(const QValue *arguments)
{
    QValue *params = qvalue_array();
    const QValue *members = qvalue_object_get(arguments, "members");

    for (gsize i = 0; i < qvalue_array_length(members); i++) {
        const QValue *member = qvalue_array_get(members, i);
        QValue *param = qvalue_object();

        copy_member(member, "name", param, "name");
        copy_member(member, "doc", param, "description");
        qvalue_object_set(param, "required", qvalue_bool(member_is_required(member)));
        qvalue_object_set(param, "schema", member_schema(member));
        qvalue_array_append(params, param);
    }
    return params;
}

static QValue *method_result(const QValue *command)
{
    QValue *result = qvalue_object();

    qvalue_object_set(result, "name", qvalue_string("result"));
    copy_member(command, "ret-doc", result, "description");
    qvalue_object_set(result, "schema", schema_ref(member_string(command, "ret-type")));
    return result;
}

static QValue *method(const QValue *command, GHashTable *index)
{
    const char *type = member_string(command, "arg-type");
    const QValue *arguments = g_hash_table_lookup(index, type);
    QValue *m = qvalue_object();

    copy_member(command, "name", m, "name");
    copy_member(command, "doc", m, "description");
    qvalue_object_set(m, "paramStructure", qvalue_string("by-name"));
    qvalue_object_set(m, "params", method_params(arguments));
    if (qvalue_object_has(arguments, "variants")) {
        qvalue_object_set(m, "x-params", schema_ref(type));
    }
    qvalue_object_set(m, "result", method_result(command));
    return m;
}

/* OpenRPC has no notifications from the server; ours stand beside the methods. */
static QValue *event(const QValue *entry)
{
    QValue *e = qvalue_object();

    copy_member(entry, "name", e, "name");
    copy_member(entry, "doc", e, "description");
    qvalue_object_set(e, "data", schema_ref(member_string(entry, "arg-type")));
    return e;
}

/* Commands that this daemon has, less QMP's negotiation. */
static bool is_method(const QValue *entry, const QapiCommandTable *commands)
{
    const char *name = member_string(entry, "name");

    return g_str_equal(member_string(entry, "meta-type"), "command") &&
           !g_str_equal(name, "qmp_capabilities") &&
           qapi_command_table_lookup(commands, name, NULL);
}

QValue *monitor_discover(const QapiCommandTable *commands)
{
    g_autoptr(QValue) entries = qapi_introspect(true);
    g_autoptr(GHashTable) index = index_entries(entries);
    QValue *document = qvalue_object(), *info = qvalue_object(), *components = qvalue_object();
    QValue *methods = qvalue_array(), *events = qvalue_array(), *schemas = qvalue_object();

    for (gsize i = 0; i < qvalue_array_length(entries); i++) {
        const QValue *entry = qvalue_array_get(entries, i);
        QValue *schema = type_schema(entry);

        if (schema) {
            qvalue_object_set(schemas, member_string(entry, "name"), schema);
        } else if (is_method(entry, commands)) {
            qvalue_array_append(methods, method(entry, index));
        } else if (g_str_equal(member_string(entry, "meta-type"), "event")) {
            qvalue_array_append(events, event(entry));
        }
    }
    qvalue_object_set(info, "title", qvalue_string("wharfd"));
    qvalue_object_set(info, "version", qvalue_string(WHARF_VERSION));
    qvalue_object_set(components, "schemas", schemas);
    qvalue_object_set(document, "openrpc", qvalue_string(OPENRPC_VERSION));
    qvalue_object_set(document, "info", info);
    qvalue_object_set(document, "methods", methods);
    qvalue_object_set(document, "components", components);
    qvalue_object_set(document, "x-events", events);
    qvalue_object_set(document, "x-schema", qvalue_ref(entries));
    return document;
}
