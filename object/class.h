/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * object/class.h - for authors of object types.
 *
 * A type is one const table `object_class_NAME` in a file of its own. The registry keeps the typed
 * options of each object and derives everything about properties (listing, reading, checking a new
 * value against the schema) from them.
 */
#ifndef WHARF_OBJECT_CLASS_H
#define WHARF_OBJECT_CLASS_H

#include <glib.h>
#include <stdbool.h>

#include "qapi/types-object.h"

typedef struct ObjectClass {
    ObjectType type;
    const char *parent; /* name of the type that it derives from, for qom-list-types */

    /* What stands behind an object, from checked options; NULL with @error on failure. */
    gpointer (*create)(const ObjectOptions *options, GError **error);
    /* Ends what create made. It has no users any more. */
    void (*destroy)(gpointer instance);
    /* Apply @options, which differ in one property. Changes nothing on failure. */
    bool (*reconfigure)(gpointer instance, const ObjectOptions *options, GError **error);
} ObjectClass;

extern const ObjectClass object_class_iothread;

#endif
