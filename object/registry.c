/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "object/registry.h"

#include "util/error.h"
#include "util/name.h"

const ObjectClass *const object_classes[] = {
    &object_class_iothread,
    NULL,
};

const ObjectClass *object_class_find(const char *name)
{
    for (unsigned i = 0; object_classes[i]; i++) {
        if (g_str_equal(object_type_to_string(object_classes[i]->type), name)) {
            return object_classes[i];
        }
    }
    return NULL;
}

static void object_free(Object *object)
{
    if (object->instance) {
        object->class->destroy(object->instance);
    }
    object_options_free(object->options);
    g_ptr_array_unref(object->users);
    g_free(object);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Object, object_free)

ObjectRegistry *object_registry_new(void)
{
    ObjectRegistry *registry = g_new0(ObjectRegistry, 1);

    registry->by_id = g_hash_table_new(g_str_hash, g_str_equal);
    registry->objects = g_ptr_array_new();
    return registry;
}

void object_registry_free(ObjectRegistry *registry)
{
    if (!registry) {
        return;
    }
    g_hash_table_destroy(registry->by_id);
    while (registry->objects->len) {
        Object *newest = g_ptr_array_steal_index(registry->objects, registry->objects->len - 1);

        g_assert(newest->users->len == 0);
        object_free(newest);
    }
    g_ptr_array_unref(registry->objects);
    g_free(registry);
}

bool object_registry_add(ObjectRegistry *registry, const ObjectOptions *options, GError **error)
{
    const char *type = object_type_to_string(options->qom_type);
    g_autoptr(Object) object = NULL;

    if (!name_check(options->id, "object id", error)) {
        return false;
    }
    if (g_hash_table_contains(registry->by_id, options->id)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_EXISTS,
                    "there is already an object '%s'; choose another id", options->id);
        return false;
    }

    object = g_new0(Object, 1);
    object->class = object_class_find(type);
    object->options = object_options_copy(options);
    object->users = g_ptr_array_new_with_free_func(g_free);
    object->instance = object->class->create(options, error);
    if (!object->instance) {
        return false;
    }
    g_hash_table_insert(registry->by_id, object->options->id, object);
    g_ptr_array_add(registry->objects, g_steal_pointer(&object));
    return true;
}

static Object *object_registry_find(ObjectRegistry *registry, const char *id, GError **error)
{
    Object *object = g_hash_table_lookup(registry->by_id, id);

    if (!object) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND, "there is no object '%s'", id);
    }
    return object;
}

/* "export 'e0', export 'e1'": each user once, for a message. */
static char *object_users_to_string(const Object *object)
{
    g_autoptr(GString) text = g_string_new(NULL);

    for (unsigned i = 0; i < object->users->len; i++) {
        const char *user = g_ptr_array_index(object->users, i);
        unsigned first;

        g_ptr_array_find_with_equal_func(object->users, user, g_str_equal, &first);
        if (first == i) {
            g_string_append_printf(text, "%s%s", i ? ", " : "", user);
        }
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}

bool object_registry_del(ObjectRegistry *registry, const char *id, GError **error)
{
    Object *object = object_registry_find(registry, id, error);

    if (!object) {
        return false;
    }
    if (object->users->len) {
        g_autofree char *users = object_users_to_string(object);

        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "object '%s' is in use by %s; remove that first", id, users);
        return false;
    }
    g_hash_table_remove(registry->by_id, id);
    g_ptr_array_remove(registry->objects, object);
    object_free(object);
    return true;
}

Iothread *object_registry_get_iothread(ObjectRegistry *registry, const char *id, GError **error)
{
    Object *object = g_hash_table_lookup(registry->by_id, id);

    if (!object || object->class != &object_class_iothread) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "there is no iothread '%s'; make it with object-add (--object iothread,id=%s)",
                    id, id);
        return NULL;
    }
    return iothread_ref(object->instance);
}

void object_registry_use(ObjectRegistry *registry, const char *id, const char *user)
{
    Object *object = g_hash_table_lookup(registry->by_id, id);

    g_return_if_fail(object);
    g_ptr_array_add(object->users, g_strdup(user));
}

void object_registry_unuse(ObjectRegistry *registry, const char *id, const char *user)
{
    Object *object = g_hash_table_lookup(registry->by_id, id);
    unsigned i;

    g_return_if_fail(object);
    if (g_ptr_array_find_with_equal_func(object->users, user, g_str_equal, &i)) {
        g_ptr_array_remove_index_fast(object->users, i);
    }
}
