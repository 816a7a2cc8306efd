/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "object/registry.h"

#include "util/error.h"
#include "util/name.h"

/* The types of this room, ended by NULL. */
static const ObjectClass *const object_classes[] = {
    &object_class_iothread,
    &object_class_secret,
    &object_class_authz_simple,
    &object_class_authz_list,
    &object_class_authz_list_file,
#ifdef WHARF_HAVE_GNUTLS
    &object_class_tls_creds_x509,
    &object_class_tls_creds_psk,
    &object_class_tls_creds_anon,
#endif
    NULL,
};

const ObjectClassEntry *object_registry_find_class(const ObjectRegistry *registry, const char *name)
{
    for (guint i = 0; i < registry->classes->len; i++) {
        const ObjectClassEntry *entry = &g_array_index(registry->classes, ObjectClassEntry, i);

        if (g_str_equal(object_type_to_string(entry->class->type), name)) {
            return entry;
        }
    }
    return NULL;
}

static void object_free(Object *object)
{
    object->class->destroy(object->instance);
    object_options_free(object->options);
    g_ptr_array_unref(object->users);
    g_free(object);
}

ObjectRegistry *object_registry_new(void)
{
    ObjectRegistry *registry = g_new0(ObjectRegistry, 1);

    registry->by_id = g_hash_table_new(g_str_hash, g_str_equal);
    registry->making = g_hash_table_new(g_str_hash, g_str_equal);
    registry->objects = g_ptr_array_new();
    registry->classes = g_array_new(FALSE, FALSE, sizeof(ObjectClassEntry));
    for (unsigned i = 0; object_classes[i]; i++) {
        object_registry_add_class(registry, object_classes[i], registry);
    }
    return registry;
}

void object_registry_add_class(ObjectRegistry *registry, const ObjectClass *class, gpointer self)
{
    ObjectClassEntry entry = {class, self};

    g_array_append_val(registry->classes, entry);
}

void object_registry_free(ObjectRegistry *registry)
{
    if (!registry) {
        return;
    }
    g_hash_table_destroy(registry->by_id);
    g_hash_table_destroy(registry->making);
    while (registry->objects->len) {
        Object *newest = g_ptr_array_steal_index(registry->objects, registry->objects->len - 1);

        g_assert(newest->users->len == 0);
        object_free(newest);
    }
    g_ptr_array_unref(registry->objects);
    g_array_unref(registry->classes);
    g_free(registry);
}

static bool object_registry_check_id(ObjectRegistry *registry, const char *id, GError **error)
{
    if (!name_check(id, "object id", error)) {
        return false;
    }
    if (g_hash_table_contains(registry->by_id, id) || g_hash_table_contains(registry->making, id)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_EXISTS,
                    "there is already an object '%s'; choose another id", id);
        return false;
    }
    return true;
}

/* @instance becomes the registry's. */
static void object_registry_enter(ObjectRegistry *registry, const ObjectClass *class,
                                  const ObjectOptions *options, gpointer instance)
{
    Object *object = g_new0(Object, 1);

    object->class = class;
    object->options = object_options_copy(options);
    if (class->conceal) {
        class->conceal(object->options);
    }
    object->users = g_ptr_array_new_with_free_func(g_free);
    object->instance = instance;
    g_hash_table_insert(registry->by_id, object->options->id, object);
    g_ptr_array_add(registry->objects, object);
}

static const ObjectClassEntry *object_registry_class_of(const ObjectRegistry *registry,
                                                        const ObjectOptions *options,
                                                        GError **error)
{
    const char *type = object_type_to_string(options->qom_type);
    const ObjectClassEntry *entry = object_registry_find_class(registry, type);

    if (!entry) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "objects of type '%s' cannot be made here", type);
    }
    return entry;
}

bool object_registry_adopt(ObjectRegistry *registry, const ObjectOptions *options,
                           gpointer instance, GError **error)
{
    const ObjectClassEntry *entry = object_registry_class_of(registry, options, error);

    if (!entry || !object_registry_check_id(registry, options->id, error)) {
        return false;
    }
    object_registry_enter(registry, entry->class, options, instance);
    return true;
}

bool co_fn object_registry_co_add(ObjectRegistry *registry, const ObjectOptions *options,
                                  GError **error)
{
    const ObjectClassEntry *entry = object_registry_class_of(registry, options, error);
    const ObjectClass *class;
    gpointer instance;

    if (!entry || !object_registry_check_id(registry, options->id, error)) {
        return false;
    }
    class = entry->class;
    g_hash_table_add(registry->making, options->id);
    instance = class->co_create(entry->self, options, error);
    g_hash_table_remove(registry->making, options->id);
    if (!instance) {
        return false;
    }
    object_registry_enter(registry, class, options, instance);
    return true;
}

const Object *object_registry_find(const ObjectRegistry *registry, const char *id)
{
    return g_hash_table_lookup(registry->by_id, id);
}

static Object *object_registry_lookup(ObjectRegistry *registry, const char *id, GError **error)
{
    Object *object = g_hash_table_lookup(registry->by_id, id);

    if (!object) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "there is no object '%s'; qom-list of '/objects' lists them", id);
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

bool object_registry_del(ObjectRegistry *registry, const char *id, gpointer client, GError **error)
{
    Object *object = object_registry_lookup(registry, id, error);

    if (!object) {
        return false;
    }
    if (object->users->len) {
        g_autofree char *users = object_users_to_string(object);

        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "object '%s' is in use by %s; remove that first", id, users);
        return false;
    }
    if (object->class->may_delete && client &&
        !object->class->may_delete(object->instance, client, error)) {
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
