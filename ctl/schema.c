/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/schema.h"

#include <string.h>

#include "ctl/ctl.h"
#include "ctl/json.h"

/* How deep a description looks into arrays and alternates, which might nest without end. */
#define DESCRIBE_DEPTH 4

struct CtlSchema {
    QValue *entries;
    GHashTable *commands; /* name -> entry, both borrowed from entries */
    GHashTable *events;
    GHashTable *types;
    GPtrArray *command_names; /* sorted, ended by NULL */
    GPtrArray *event_names;
};

static int compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static GPtrArray *sorted_keys(GHashTable *table)
{
    GPtrArray *names = g_ptr_array_new();
    GHashTableIter iter;
    gpointer name;

    g_hash_table_iter_init(&iter, table);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        g_ptr_array_add(names, name);
    }
    g_ptr_array_sort(names, compare_names);
    g_ptr_array_add(names, NULL);
    return names;
}

static void schema_add_entry(CtlSchema *schema, const QValue *entry)
{
    const char *name = ctl_json_string(entry, "name");
    const char *meta = ctl_json_string(entry, "meta-type");
    GHashTable *table = schema->types;

    if (!name || !meta) {
        return;
    }
    if (strcmp(meta, "command") == 0) {
        table = schema->commands;
    } else if (strcmp(meta, "event") == 0) {
        table = schema->events;
    }
    g_hash_table_insert(table, (gpointer)name, (gpointer)entry);
}

CtlSchema *ctl_schema_new(QValue *take_entries, GError **error)
{
    g_autoptr(CtlSchema) schema = g_new0(CtlSchema, 1);

    schema->entries = take_entries;
    if (qvalue_type(take_entries) != QVALUE_ARRAY) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                    "the daemon's schema is %s instead of an array",
                    qvalue_type_name(take_entries));
        return NULL;
    }
    schema->commands = g_hash_table_new(g_str_hash, g_str_equal);
    schema->events = g_hash_table_new(g_str_hash, g_str_equal);
    schema->types = g_hash_table_new(g_str_hash, g_str_equal);
    for (gsize i = 0; i < qvalue_array_length(take_entries); i++) {
        schema_add_entry(schema, qvalue_array_get(take_entries, i));
    }
    schema->command_names = sorted_keys(schema->commands);
    schema->event_names = sorted_keys(schema->events);
    return g_steal_pointer(&schema);
}

CtlSchema *ctl_schema_fetch(CtlClient *client, GError **error)
{
    QValue *entries = ctl_client_call(client, "query-qmp-schema", NULL, error);

    return entries ? ctl_schema_new(entries, error) : NULL;
}

CtlSchema *ctl_schema_fetch_documented(CtlClient *client, GError **error)
{
    g_autoptr(QValue) document = ctl_client_call(client, "rpc.discover", NULL, NULL);
    const QValue *entries = ctl_json_array(document, "x-schema");

    return entries ? ctl_schema_new(qvalue_ref(entries), error) : ctl_schema_fetch(client, error);
}

void ctl_schema_free(CtlSchema *schema)
{
    if (!schema) {
        return;
    }
    g_clear_pointer(&schema->command_names, g_ptr_array_unref);
    g_clear_pointer(&schema->event_names, g_ptr_array_unref);
    g_clear_pointer(&schema->commands, g_hash_table_unref);
    g_clear_pointer(&schema->events, g_hash_table_unref);
    g_clear_pointer(&schema->types, g_hash_table_unref);
    qvalue_unref(schema->entries);
    g_free(schema);
}

const char *const *ctl_schema_commands(const CtlSchema *schema)
{
    return (const char *const *)schema->command_names->pdata;
}

const char *const *ctl_schema_events(const CtlSchema *schema)
{
    return (const char *const *)schema->event_names->pdata;
}

static const QValue *schema_type(const CtlSchema *schema, const char *name)
{
    return name ? g_hash_table_lookup(schema->types, name) : NULL;
}

const QValue *ctl_schema_arguments(const CtlSchema *schema, const char *command)
{
    const QValue *entry = g_hash_table_lookup(schema->commands, command);

    return entry ? schema_type(schema, ctl_json_string(entry, "arg-type")) : NULL;
}

const char *ctl_schema_doc(const CtlSchema *schema, const char *command)
{
    return ctl_json_string(g_hash_table_lookup(schema->commands, command), "doc");
}

static CtlTypeKind builtin_kind(const char *json_type)
{
    static const struct {
        const char *json_type;
        CtlTypeKind kind;
    } kinds[] = {
        {"string", CTL_TYPE_STRING},   {"int", CTL_TYPE_INTEGER}, {"number", CTL_TYPE_NUMBER},
        {"boolean", CTL_TYPE_BOOLEAN}, {"null", CTL_TYPE_NULL},   {"value", CTL_TYPE_ANY},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (g_strcmp0(json_type, kinds[i].json_type) == 0) {
            return kinds[i].kind;
        }
    }
    return CTL_TYPE_UNKNOWN;
}

CtlTypeKind ctl_type_kind(const QValue *type)
{
    const char *meta = type ? ctl_json_string(type, "meta-type") : NULL;

    if (g_strcmp0(meta, "builtin") == 0) {
        return builtin_kind(ctl_json_string(type, "json-type"));
    }
    if (g_strcmp0(meta, "enum") == 0) {
        return CTL_TYPE_ENUM;
    }
    if (g_strcmp0(meta, "array") == 0) {
        return CTL_TYPE_ARRAY;
    }
    if (g_strcmp0(meta, "object") == 0) {
        return CTL_TYPE_OBJECT;
    }
    return g_strcmp0(meta, "alternate") == 0 ? CTL_TYPE_ALTERNATE : CTL_TYPE_UNKNOWN;
}

const QValue *ctl_type_element(const CtlSchema *schema, const QValue *type)
{
    return schema_type(schema, ctl_json_string(type, "element-type"));
}

const char **ctl_type_values(const QValue *type)
{
    g_autoptr(GPtrArray) values = g_ptr_array_new();
    const QValue *members = ctl_json_array(type, "members");
    const QValue *old = ctl_json_array(type, "values");

    for (gsize i = 0; members && i < qvalue_array_length(members); i++) {
        const char *name = ctl_json_string(qvalue_array_get(members, i), "name");

        if (name) {
            g_ptr_array_add(values, (gpointer)name);
        }
    }
    for (gsize i = 0; !members && old && i < qvalue_array_length(old); i++) {
        const QValue *value = qvalue_array_get(old, i);

        if (qvalue_type(value) == QVALUE_STRING) {
            g_ptr_array_add(values, (gpointer)qvalue_get_string(value, NULL));
        }
    }
    g_ptr_array_add(values, NULL);
    return (const char **)g_ptr_array_free(g_steal_pointer(&values), FALSE);
}

const QValue *ctl_type_branch(const CtlSchema *schema, const QValue *type, CtlTypeKind kind)
{
    const QValue *members = ctl_json_array(type, "members");

    for (gsize i = 0; members && i < qvalue_array_length(members); i++) {
        const QValue *branch =
            schema_type(schema, ctl_json_string(qvalue_array_get(members, i), "type"));
        CtlTypeKind found = ctl_type_kind(branch);

        if (found == kind || (kind == CTL_TYPE_STRING && found == CTL_TYPE_ENUM)) {
            return branch;
        }
    }
    return NULL;
}

GArray *ctl_type_members(const CtlSchema *schema, const QValue *type)
{
    GArray *found = g_array_new(FALSE, FALSE, sizeof(CtlMember));
    const QValue *members = type ? ctl_json_array(type, "members") : NULL;

    for (gsize i = 0; members && i < qvalue_array_length(members); i++) {
        const QValue *member = qvalue_array_get(members, i);
        CtlMember m = {.name = ctl_json_string(member, "name"),
                       .type = schema_type(schema, ctl_json_string(member, "type"))};

        if (m.name) {
            const QValue *value = qvalue_object_get(member, "default");

            m.optional = value != NULL;
            m.default_value = value && qvalue_type(value) != QVALUE_NULL ? value : NULL;
            m.doc = ctl_json_string(member, "doc");
            g_array_append_val(found, m);
        }
    }
    return found;
}

const char *ctl_type_tag(const QValue *type)
{
    return ctl_json_string(type, "tag");
}

const QValue *ctl_type_variant(const CtlSchema *schema, const QValue *type, const char *value)
{
    const QValue *variants = ctl_json_array(type, "variants");

    for (gsize i = 0; variants && i < qvalue_array_length(variants); i++) {
        const QValue *variant = qvalue_array_get(variants, i);

        if (g_strcmp0(ctl_json_string(variant, "case"), value) == 0) {
            return schema_type(schema, ctl_json_string(variant, "type"));
        }
    }
    return NULL;
}

static void describe(const CtlSchema *schema, const QValue *type, unsigned depth, GString *out);

static void describe_alternate(const CtlSchema *schema, const QValue *type, unsigned depth,
                               GString *out)
{
    const QValue *members = ctl_json_array(type, "members");

    for (gsize i = 0; members && i < qvalue_array_length(members); i++) {
        const char *name = ctl_json_string(qvalue_array_get(members, i), "type");

        g_string_append(out, i ? " or " : "");
        describe(schema, schema_type(schema, name), depth, out);
    }
}

static void describe(const CtlSchema *schema, const QValue *type, unsigned depth, GString *out)
{
    static const char *const names[] = {
        [CTL_TYPE_UNKNOWN] = "?",         [CTL_TYPE_STRING] = "string",
        [CTL_TYPE_INTEGER] = "integer",   [CTL_TYPE_NUMBER] = "number",
        [CTL_TYPE_BOOLEAN] = "on|off",    [CTL_TYPE_NULL] = "null",
        [CTL_TYPE_ANY] = "any value",     [CTL_TYPE_ENUM] = "enum",
        [CTL_TYPE_ARRAY] = "list",        [CTL_TYPE_OBJECT] = "object",
        [CTL_TYPE_ALTERNATE] = "variant",
    };
    CtlTypeKind kind = ctl_type_kind(type);

    if (kind == CTL_TYPE_ENUM) {
        g_autofree const char **values = ctl_type_values(type);
        g_autofree char *joined = g_strjoinv("|", (char **)values);

        g_string_append(out, joined);
    } else if (kind == CTL_TYPE_ARRAY && depth < DESCRIBE_DEPTH) {
        g_string_append(out, "list of ");
        describe(schema, ctl_type_element(schema, type), depth + 1, out);
    } else if (kind == CTL_TYPE_ALTERNATE && depth < DESCRIBE_DEPTH) {
        describe_alternate(schema, type, depth + 1, out);
    } else if (g_strcmp0(ctl_json_string(type, "name"), "size") == 0) {
        g_string_append(out, "size");
    } else {
        g_string_append(out, names[kind]);
    }
}

char *ctl_type_describe(const CtlSchema *schema, const QValue *type)
{
    GString *out = g_string_new(NULL);

    describe(schema, type, 0, out);
    return g_string_free(out, FALSE);
}
