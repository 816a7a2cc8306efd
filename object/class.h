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
     * What stands behind an object, from checked options; NULL with @error on failure. @self is
     * what the class was registered with.
     */
    gpointer (*create)(gpointer self, const ObjectOptions *options, GError **error);
    /* Ends what create made. It has no users any more. */
    void (*destroy)(gpointer instance);
    /* Whether the monitor client @client may remove it; absent: yes. Users are checked before. */
    bool (*may_delete)(gpointer instance, gpointer client, GError **error);
    /* Apply @options, which differ in one property. Changes nothing on failure. Absent: refused. */
    bool (*reconfigure)(gpointer instance, const ObjectOptions *options, GError **error);
};

extern const ObjectClass object_class_iothread;

#endif
