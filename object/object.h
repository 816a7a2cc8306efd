/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * object/object.h - objects that a client makes at run time and others refer to by id.
 *
 * Iothreads, secrets, credentials for TLS (object/tls-creds.h), and lists of who is let in
 * (object/authz.h). A further type is a file of its own with an ObjectClass (object/class.h), one
 * line in object/meson.build, and its properties in qapi/schema/object.json.
 *
 * Threads   Main thread only.
 * Lifetime  The registry owns its objects. Whoever works with one names itself as its user, and as
 *           long as an object has users it cannot be deleted.
 * Errors    WHARF_ERROR; the QOM commands say DEVICE_NOT_FOUND where nothing is at a path.
 */
#ifndef WHARF_OBJECT_OBJECT_H
#define WHARF_OBJECT_OBJECT_H

#include <glib.h>
#include <stdbool.h>

#include "aio/iothread.h"
#include "qapi/qapi.h"
#include "qapi/types-object.h"

typedef struct ObjectRegistry ObjectRegistry;
typedef struct ObjectClass ObjectClass;

ObjectRegistry *object_registry_new(void);

/* Frees the objects, too, newest first; they must have no users any more. Accepts NULL. */
void object_registry_free(ObjectRegistry *registry);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ObjectRegistry, object_registry_free)

/*
 * Let objects of the type @class (object/class.h; static) be made. @self is passed to its create
 * and must outlive the registry.
 */
void object_registry_add_class(ObjectRegistry *registry, const ObjectClass *class, gpointer self);

/*
 * Enter an object that exists already: @instance becomes the registry's, as if the class had just
 * made it from @options. On failure it stays the caller's.
 */
bool object_registry_adopt(ObjectRegistry *registry, const ObjectOptions *options,
                           gpointer instance, GError **error);

/*
 * Make the object that @options describe, which stay until it returns; that may read files, in a
 * worker thread. The id is taken from the start. Nothing is left behind by a failure.
 */
bool co_fn object_registry_co_add(ObjectRegistry *registry, const ObjectOptions *options,
                                  GError **error);

/*
 * Remove the object @id, on behalf of the monitor client @client (NULL: nobody's). Refused while it
 * has users; the message names them.
 */
bool object_registry_del(ObjectRegistry *registry, const char *id, gpointer client, GError **error);

/* The iothread called @id (a new reference), or NULL with @error if there is none. */
Iothread *object_registry_get_iothread(ObjectRegistry *registry, const char *id, GError **error);

/*
 * Note that @user ("export 'e0'") uses the object @id, which exists; the same user may do so more
 * than once. Pair with object_registry_unuse().
 */
void object_registry_use(ObjectRegistry *registry, const char *id, const char *user);
void object_registry_unuse(ObjectRegistry *registry, const char *id, const char *user);

/* Register the commands of module object, with @registry as their service. */
void object_register_commands(ObjectRegistry *registry, QapiCommandTable *table);

#endif
