/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The commands of module object. Properties are the members of an object's options, as the schema
 * has them: what qom-set is given passes through the same checks as object-add.
 */
#include <string.h>

#include "object/registry.h"
#include "qapi/commands-object.h"
#include "util/error.h"

#define OBJECTS      "objects"
#define USER_OBJECTS "user-creatable" /* the interface of all types that object-add makes */

/* What a path leads to. */
typedef enum {
    QOM_NOTHING,
    QOM_ROOT,
    QOM_OBJECTS, /* the container of all objects */
    QOM_OBJECT,
} QomKind;

typedef struct QomPlace {
    QomKind kind;
    Object *object; /* of a QOM_OBJECT */
} QomPlace;

static QomPlace qom_find_object(ObjectRegistry *registry, const char *id)
{
    Object *object = g_hash_table_lookup(registry->by_id, id);

    return (QomPlace){object ? QOM_OBJECT : QOM_NOTHING, object};
}

/* The parts of @path between its slashes; how many there are in a row means nothing. */
static GPtrArray *qom_split(const char *path)
{
    GPtrArray *parts = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) all = g_strsplit(path, "/", -1);

    for (char **part = all; *part; part++) {
        if (**part) {
            g_ptr_array_add(parts, g_strdup(*part));
        }
    }
    return parts;
}

static QomPlace qom_resolve(ObjectRegistry *registry, const char *path)
{
    g_autoptr(GPtrArray) parts = qom_split(path);
    bool absolute = *path == '/';
    bool in_objects = parts->len > 0 && g_str_equal(parts->pdata[0], OBJECTS);

    if (parts->len == 0 && absolute) {
        return (QomPlace){QOM_ROOT};
    }
    if (parts->len == 1 && in_objects) {
        return (QomPlace){QOM_OBJECTS};
    }
    if ((parts->len == 1 && !absolute) || (parts->len == 2 && in_objects)) {
        return qom_find_object(registry, parts->pdata[parts->len - 1]);
    }
    return (QomPlace){QOM_NOTHING};
}

/* The same; fails where nothing is. */
static bool qom_lookup(ObjectRegistry *registry, const char *path, QomPlace *place, GError **error)
{
    *place = qom_resolve(registry, path);
    if (place->kind == QOM_NOTHING) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_DEVICE_NOT_FOUND,
                    "there is nothing at path '%s'; '/objects' lists all objects", path);
        return false;
    }
    return true;
}

static const char *qom_type_name(const QomPlace *place)
{
    return place->kind == QOM_OBJECT ? object_type_to_string(place->object->class->type)
                                     : "container";
}

static void qom_append(GPtrArray *list, const char *name, const char *type)
{
    ObjectPropertyInfo *info = g_new0(ObjectPropertyInfo, 1);

    info->name = g_strdup(name);
    info->type = g_strdup(type);
    g_ptr_array_add(list, info);
}

static const char *qom_value_type(const QValue *value)
{
    switch (qvalue_type(value)) {
    case QVALUE_BOOL:
        return "bool";
    case QVALUE_INT:
    case QVALUE_UINT:
        return "int";
    case QVALUE_DOUBLE:
        return "number";
    case QVALUE_STRING:
        return "string";
    default:
        return "struct";
    }
}

/* Whether the member @name of an object's options is a property, and not what names the object. */
static bool qom_is_property(const char *name)
{
    return !g_str_equal(name, "id") && !g_str_equal(name, "qom-type");
}

static void qom_append_properties(GPtrArray *list, const ObjectOptions *options)
{
    g_autoptr(QValue) values = object_options_to_qvalue(options);

    for (gsize i = 0; i < qvalue_object_size(values); i++) {
        const char *name = qvalue_object_key(values, i);

        if (qom_is_property(name)) {
            qom_append(list, name, qom_value_type(qvalue_object_value(values, i)));
        }
    }
}

static void qom_append_children(GPtrArray *list, ObjectRegistry *registry)
{
    for (unsigned i = 0; i < registry->objects->len; i++) {
        const Object *object = g_ptr_array_index(registry->objects, i);
        g_autofree char *type =
            g_strdup_printf("child<%s>", object_type_to_string(object->class->type));

        qom_append(list, object->options->id, type);
    }
}

bool qmp_object_add(QapiCall *call, const ObjectOptions *arg, GError **error)
{
    return object_registry_co_add(call->self, arg, error);
}

bool qmp_object_del(QapiCall *call, const char *id, GError **error)
{
    return object_registry_del(call->self, id, call->client, error);
}

GPtrArray *qmp_qom_list(QapiCall *call, const char *path, GError **error)
{
    GPtrArray *list;
    QomPlace place;

    if (!*path) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "the path is empty; '/objects' lists all objects");
        return NULL;
    }
    if (!qom_lookup(call->self, path, &place, error)) {
        return NULL;
    }
    list = g_ptr_array_new_with_free_func((GDestroyNotify)object_property_info_free);
    qom_append(list, "type", "string");
    switch (place.kind) {
    case QOM_ROOT:
        qom_append(list, OBJECTS, "child<container>");
        break;
    case QOM_OBJECTS:
        qom_append_children(list, call->self);
        break;
    default:
        qom_append_properties(list, place.object->options);
        break;
    }
    return list;
}

static void qom_no_property(const QomPlace *place, const char *property, GError **error)
{
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                "type '%s' has no property '%s'; qom-list names them", qom_type_name(place),
                property);
}

QValue *qmp_qom_get(QapiCall *call, const char *path, const char *property, GError **error)
{
    QomPlace place;

    if (!qom_lookup(call->self, path, &place, error)) {
        return NULL;
    }
    if (g_str_equal(property, "type")) {
        return qvalue_string(qom_type_name(&place));
    }
    if (place.kind == QOM_OBJECT && qom_is_property(property)) {
        g_autoptr(QValue) values = object_options_to_qvalue(place.object->options);
        const QValue *value = qvalue_object_get(values, property);

        if (value) {
            return qvalue_ref(value);
        }
    }
    qom_no_property(&place, property, error);
    return NULL;
}

bool qmp_qom_set(QapiCall *call, const char *path, const char *property, const QValue *value,
                 GError **error)
{
    g_autoptr(ObjectOptions) changed = NULL;
    g_autoptr(QValue) values = NULL;
    QomPlace place;

    if (!qom_lookup(call->self, path, &place, error)) {
        return false;
    }
    if (g_str_equal(property, "type")) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "property 'type' of '%s' cannot be changed", path);
        return false;
    }
    if (place.kind == QOM_OBJECT) {
        values = object_options_to_qvalue(place.object->options);
    }
    if (!values || !qom_is_property(property) || !qvalue_object_has(values, property)) {
        qom_no_property(&place, property, error);
        return false;
    }

    if (!place.object->class->reconfigure) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "properties of '%s' cannot be changed; remove it and make it anew", path);
        return false;
    }
    qvalue_object_set(values, property, qvalue_ref(value));
    changed = object_options_from_qvalue(values, error);
    if (!changed || !place.object->class->reconfigure(place.object->instance, changed, error)) {
        return false;
    }
    /* The id stays the very string that the registry's table has as its key. */
    g_free(changed->id);
    changed->id = g_steal_pointer(&place.object->options->id);
    object_options_free(place.object->options);
    place.object->options = g_steal_pointer(&changed);
    return true;
}

GPtrArray *qmp_qom_list_types(QapiCall *call, const char *implements, bool abstract, GError **error)
{
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)object_type_info_free);
    const GArray *classes = ((ObjectRegistry *)call->self)->classes;

    for (guint i = 0; i < classes->len; i++) {
        const ObjectClass *class = g_array_index(classes, ObjectClassEntry, i).class;
        const char *name = object_type_to_string(class->type);
        ObjectTypeInfo *info;

        if (implements && !g_str_equal(implements, name) &&
            !g_str_equal(implements, class->parent) && !g_str_equal(implements, USER_OBJECTS) &&
            !g_str_equal(implements, "object")) {
            continue;
        }
        info = g_new0(ObjectTypeInfo, 1);
        info->name = g_strdup(name);
        info->parent = g_strdup(class->parent);
        g_ptr_array_add(list, info);
    }
    return list;
}

/* Options of an object of type @name in which everything optional has its default, or NULL. */
static ObjectOptions *qom_default_options(const char *name)
{
    g_autoptr(QValue) values = qvalue_object();

    qvalue_object_set(values, "qom-type", qvalue_string(name));
    qvalue_object_set(values, "id", qvalue_string("default"));
    return object_options_from_qvalue(values, NULL);
}

GPtrArray *qmp_qom_list_properties(QapiCall *call, const char *type_name, GError **error)
{
    const ObjectClassEntry *class = object_registry_find_class(call->self, type_name);
    g_autoptr(ObjectOptions) options = NULL;
    GPtrArray *list;

    if (!class) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_DEVICE_NOT_FOUND,
                    "there is no object type '%s'; qom-list-types names them", type_name);
        return NULL;
    }
    list = g_ptr_array_new_with_free_func((GDestroyNotify)object_property_info_free);
    qom_append(list, "type", "string");
    options = qom_default_options(type_name);
    if (options) {
        qom_append_properties(list, options);
    }
    return list;
}

void object_register_commands(ObjectRegistry *registry, QapiCommandTable *table)
{
    qapi_command_table_add(table, qapi_commands_object, registry);
}
