/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * object/class.h - for authors of object types.
 *
 * A type is one const table `object_class_NAME` in a file of its own. The registry keeps the typed
 * options of each object and derives everything about properties (listing, reading, checking a new
 * value against the schema) from them. Types of this room stand in a table in registry.c; rooms
 * above register theirs with object_registry_add_class().
 */
#ifndef WHARF_OBJECT_CLASS_H
#define WHARF_OBJECT_CLASS_H

#include <glib.h>
#include <stdbool.h>

#include "object/object.h"

struct ObjectClass {
    ObjectType type;
    const char *parent; /* name of the type that it derives from, for qom-list-types */

    /*
     * What stands behind an object, from checked options, which stay while it suspends; NULL with
     * @error on failure. @self is what the class was registered with; the registry itself for the
     * types of this room.
     */
    gpointer co_fn (*co_create)(gpointer self, const ObjectOptions *options, GError **error);
    /* Ends what co_create made. It has no users any more. */
    void (*destroy)(gpointer instance);
    /* Whether the monitor client @client may remove it; absent: yes. Users are checked before. */
    bool (*may_delete)(gpointer instance, gpointer client, GError **error);
    /* Apply @options, which differ in one property. Changes nothing on failure. Absent: refused. */
    bool (*reconfigure)(gpointer instance, const ObjectOptions *options, GError **error);
    /* Take out of @options, the registry's copy, what no client is to read. Absent: nothing. */
    void (*conceal)(ObjectOptions *options);
};

extern const ObjectClass object_class_iothread;
extern const ObjectClass object_class_secret;
extern const ObjectClass object_class_authz_simple;
extern const ObjectClass object_class_authz_list;
extern const ObjectClass object_class_authz_list_file;
extern const ObjectClass object_class_tls_creds_x509;
extern const ObjectClass object_class_tls_creds_psk;
extern const ObjectClass object_class_tls_creds_anon;

#endif
