/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/schema.h - the daemon's interface, as query-qmp-schema tells it.
 *
 * A type is an entry of that answer. Entries, names and strings are borrowed from the schema.
 * The answer is foreign: what is malformed or missing in it counts as absent.
 */
#ifndef WHARF_CTL_SCHEMA_H
#define WHARF_CTL_SCHEMA_H

#include <glib.h>
#include <stdbool.h>

#include "ctl/client.h"
#include "qapi/qvalue.h"

typedef struct CtlSchema CtlSchema;

/* Take over the answer to query-qmp-schema. */
CtlSchema *ctl_schema_new(QValue *take_entries, GError **error);
CtlSchema *ctl_schema_fetch(CtlClient *client, GError **error);

/* The same with documentation and the values of defaults, where the daemon has them to tell. */
CtlSchema *ctl_schema_fetch_documented(CtlClient *client, GError **error);

void ctl_schema_free(CtlSchema *schema);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CtlSchema, ctl_schema_free)

/* Names of all commands or events, sorted, ended by NULL. */
const char *const *ctl_schema_commands(const CtlSchema *schema);
const char *const *ctl_schema_events(const CtlSchema *schema);

/* The type of the arguments of a command, NULL if there is no such command. */
const QValue *ctl_schema_arguments(const CtlSchema *schema, const char *command);

/* What the command does, paragraphs separated by ends of line; NULL if it is not told. */
const char *ctl_schema_doc(const CtlSchema *schema, const char *command);

typedef enum {
    CTL_TYPE_UNKNOWN,
    CTL_TYPE_STRING,
    CTL_TYPE_INTEGER,
    CTL_TYPE_NUMBER,
    CTL_TYPE_BOOLEAN,
    CTL_TYPE_NULL,
    CTL_TYPE_ANY,
    CTL_TYPE_ENUM,
    CTL_TYPE_ARRAY,
    CTL_TYPE_OBJECT,
    CTL_TYPE_ALTERNATE,
} CtlTypeKind;

/* @type may be NULL, which is unknown. */
CtlTypeKind ctl_type_kind(const QValue *type);

/* What help calls it: "integer", "list of string", "on|off|auto". g_free(). */
char *ctl_type_describe(const CtlSchema *schema, const QValue *type);

/* The type of the elements of an array. */
const QValue *ctl_type_element(const CtlSchema *schema, const QValue *type);

/* The values of an enum, ended by NULL; g_free() the array alone. */
const char **ctl_type_values(const QValue *type);

/* The branch of an alternate that is of @kind (CTL_TYPE_STRING finds an enum, too), or NULL. */
const QValue *ctl_type_branch(const CtlSchema *schema, const QValue *type, CtlTypeKind kind);

/* One member of an object. */
typedef struct CtlMember {
    const char *name;
    const QValue *type;
    bool optional;
    const char *doc;             /* NULL if it is not told */
    const QValue *default_value; /* the same */
} CtlMember;

/* The members that all objects of @type have: an array of CtlMember; g_array_unref(). */
GArray *ctl_type_members(const CtlSchema *schema, const QValue *type);

/* Name of the member that selects the branch of a union, or NULL. */
const char *ctl_type_tag(const QValue *type);

/* The type of the branch for @value, whose members are added to the common ones; NULL if none. */
const QValue *ctl_type_variant(const CtlSchema *schema, const QValue *type, const char *value);

#endif
