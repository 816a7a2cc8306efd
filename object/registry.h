/* SPDX-License-Identifier: GPL-2.0-or-later */
/* object/registry.h - the inside of the registry, which the QOM commands read. Main thread only. */
#ifndef WHARF_OBJECT_REGISTRY_H
#define WHARF_OBJECT_REGISTRY_H

#include "object/class.h"
#include "object/object.h"

typedef struct Object {
    const ObjectClass *class;
    gpointer instance;      /* the class's */
    ObjectOptions *options; /* what it was made from, with later changes */
    GPtrArray *users;       /* char *, one for each use */
} Object;

/* A type that objects can be of, and what its create gets. */
typedef struct ObjectClassEntry {
    const ObjectClass *class;
    gpointer self;
} ObjectClassEntry;

struct ObjectRegistry {
    GArray *classes;    /* ObjectClassEntry */
    GHashTable *by_id;  /* options->id -> Object, borrowed */
    GPtrArray *objects; /* Object, owned, oldest first */
    GHashTable *making; /* ids of objects that are being made; borrowed */
};

/* The object @id, or NULL. */
const Object *object_registry_find(const ObjectRegistry *registry, const char *id);

/* The class of that name, or NULL. */
const ObjectClassEntry *object_registry_find_class(const ObjectRegistry *registry,
                                                   const char *name);

#endif
