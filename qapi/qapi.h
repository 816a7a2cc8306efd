/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qapi/qapi.h - the runtime of what scripts/qapi generates from qapi/schema.
 *
 * Three audiences: the monitor (command table, event sink), the rooms that implement commands
 * (QapiCall), and generated code (everything below "For generated code", which nobody else calls).
 *
 * For each module M of the schema there are, to be included as "qapi/types-M.h" and so on:
 *   types-M.h     C types, x_free(), x_copy(), x_from_qvalue(), x_from_keyval(), x_to_qvalue()
 *   commands-M.h  the qmp_x() functions that a room has to implement, and their table
 *   events-M.h    qapi_event_x(), which emit an event
 *   convert-M.h   the pieces that generated files of several modules share
 *
 * Threads   Conversion is pure and runs anywhere. A command table is filled by the main thread
 *           before the first lookup and read-only from then on. Commands and events belong to the
 *           main thread.
 * Errors    WHARF_ERROR_INVALID_ARGUMENT; the message names the member by its path, as in
 *           "options[0].file.offset", what was expected and what was found.
 */
#ifndef WHARF_QAPI_QAPI_H
#define WHARF_QAPI_QAPI_H

#include "qapi/qvalue.h"

/* How deep typed values may nest in each other; conversion recurses, and coroutine stacks are
 * short. */
#define QAPI_MAX_DEPTH 200

/* One run of a command. */
typedef struct QapiCall {
    gpointer self;       /* the implementing room's object, from qapi_command_table_add() */
    gpointer client;     /* the monitor's client; opaque below the monitor */
    const char *command; /* its name */
} QapiCall;

typedef enum {
    QAPI_COMMAND_ALLOW_OOB = 1,  /* may run out of band */
    QAPI_COMMAND_DEPRECATED = 2, /* the schema says so */
    QAPI_COMMAND_UNSTABLE = 4,   /* the same */
} QapiCommandFlags;

typedef struct QapiCommand {
    const char *name;
    /*
     * Check @args (an object, or NULL for none), run the command, and either set *@ret to a new
     * reference or fill @error. A co_fn: the command may suspend.
     */
    void (*marshal)(QapiCall *call, const QValue *args, QValue **ret, GError **error);
    unsigned flags; /* QapiCommandFlags */
} QapiCommand;

/* All commands of a daemon, by name. */
typedef struct QapiCommandTable QapiCommandTable;

QapiCommandTable *qapi_command_table_new(void);
void qapi_command_table_free(QapiCommandTable *table);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QapiCommandTable, qapi_command_table_free)

/*
 * Add @commands (static, ended by a NULL name), which run on behalf of @self; borrowed, must
 * outlive the table. A name that is there already is a bug.
 */
void qapi_command_table_add(QapiCommandTable *table, const QapiCommand *commands, gpointer self);

/* The command called @name, or NULL. @self (may be NULL) gets what it was added with. */
const QapiCommand *qapi_command_table_lookup(const QapiCommandTable *table, const char *name,
                                             gpointer *self);

/* Call @visit for each command, sorted by name. */
void qapi_command_table_foreach(const QapiCommandTable *table,
                                void (*visit)(const QapiCommand *command, gpointer opaque),
                                gpointer opaque);

/* Where events go. */
typedef struct QapiEventSink {
    /* @data is borrowed and NULL if the event carries none. Main thread only. */
    void (*emit)(gpointer opaque, const char *name, QValue *data);
    gpointer opaque;
} QapiEventSink;

/* Emit through @sink; a NULL sink swallows it. @data is borrowed, may be NULL. */
void qapi_event_emit(const QapiEventSink *sink, const char *name, QValue *data);

/* ---- For generated code ---- */

/* A value being converted, and how to name it in a message. Lives in the reader's frame. */
typedef struct QapiInput QapiInput;
struct QapiInput {
    const QValue *value;
    const QapiInput *parent; /* NULL at the root */
    const char *name;        /* of the member, or NULL for an element of an array */
    gsize index;             /* of the element */
    unsigned depth;          /* of typed containers around it */
    bool keyval;             /* untyped strings stand for any scalar */
};

/* An object being read: tells members that nobody asked for. */
typedef struct QapiObject {
    const QapiInput *in;
    guint8 *seen; /* a flag a member */
    gsize n_seen;
    GPtrArray *known; /* names asked for, to suggest one of them */
} QapiObject;

QapiInput qapi_input_root(const QValue *value, bool keyval);

/* Open the object @in. Pair with qapi_object_clear(), also after a failure. */
bool qapi_object_begin(QapiObject *object, const QapiInput *in, GError **error);
void qapi_object_clear(QapiObject *object);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(QapiObject, qapi_object_clear)

/* Whether member @name is there; @member describes it then. */
bool qapi_object_get(QapiObject *object, const char *name, QapiInput *member);

/* The same for one that must be. */
bool qapi_object_require(QapiObject *object, const char *name, QapiInput *member, GError **error);

/* Refuse members that nobody asked for. */
bool qapi_object_end(QapiObject *object, GError **error);

/* Refuse arguments to a command that takes none; @args may be NULL. */
bool qapi_arguments_none(const QValue *args, GError **error);

/* Check that @in is an array and get its length. */
bool qapi_array_begin(const QapiInput *in, gsize *length, GError **error);
QapiInput qapi_array_element(const QapiInput *in, gsize i);

/* Report that @in is not what was expected, @expected being the likes of "an integer". */
void qapi_input_refuse(const QapiInput *in, const char *expected, GError **error);

/* Which branch of an alternate @in selects; of those whose bits (1 << QValueType) are in @branches.
 */
QValueType qapi_alternate_type(const QapiInput *in, unsigned branches);

/* Scalars. On failure *@out is unchanged. Ranges include both ends. */
bool qapi_read_bool(const QapiInput *in, bool *out, GError **error);
bool qapi_read_str(const QapiInput *in, char **out, GError **error);
bool qapi_read_any(const QapiInput *in, QValue **out, GError **error);
bool qapi_read_null(const QapiInput *in, QValue **out, GError **error);
bool qapi_read_number(const QapiInput *in, double min, double max, double *out, GError **error);
bool qapi_read_int8(const QapiInput *in, int8_t min, int8_t max, int8_t *out, GError **error);
bool qapi_read_int16(const QapiInput *in, int16_t min, int16_t max, int16_t *out, GError **error);
bool qapi_read_int32(const QapiInput *in, int32_t min, int32_t max, int32_t *out, GError **error);
bool qapi_read_int64(const QapiInput *in, int64_t min, int64_t max, int64_t *out, GError **error);
bool qapi_read_uint8(const QapiInput *in, uint8_t min, uint8_t max, uint8_t *out, GError **error);
bool qapi_read_uint16(const QapiInput *in, uint16_t min, uint16_t max, uint16_t *out,
                      GError **error);
bool qapi_read_uint32(const QapiInput *in, uint32_t min, uint32_t max, uint32_t *out,
                      GError **error);
bool qapi_read_uint64(const QapiInput *in, uint64_t min, uint64_t max, uint64_t *out,
                      GError **error);
/* Like uint64; an untyped string may carry a suffix: k, M, G, T, P, E (powers of 1024) or B. */
bool qapi_read_size(const QapiInput *in, uint64_t min, uint64_t max, uint64_t *out, GError **error);

/* The position of the string @in among @n @names. */
bool qapi_read_enum(const QapiInput *in, const char *const *names, unsigned n, unsigned *out,
                    GError **error);

/*
 * Lists of builtin types; those of pointers are a GPtrArray that owns its elements, those of
 * scalars a GArray. A NULL list copies to NULL.
 */
GPtrArray *qapi_copy_str_list(const GPtrArray *list);
bool qapi_read_str_list(const QapiInput *in, GPtrArray **out, GError **error);
QValue *qapi_write_str_list(const GPtrArray *list);
GPtrArray *qapi_copy_any_list(const GPtrArray *list);
bool qapi_read_any_list(const QapiInput *in, GPtrArray **out, GError **error);
QValue *qapi_write_any_list(const GPtrArray *list);

GArray *qapi_copy_scalar_list(const GArray *list);

#define QAPI_DECLARE_SCALAR_LIST(name)                                                             \
    bool qapi_read_##name##_list(const QapiInput *in, GArray **out, GError **error);               \
    QValue *qapi_write_##name##_list(const GArray *list);

QAPI_DECLARE_SCALAR_LIST(bool)
QAPI_DECLARE_SCALAR_LIST(number)
QAPI_DECLARE_SCALAR_LIST(int8)
QAPI_DECLARE_SCALAR_LIST(int16)
QAPI_DECLARE_SCALAR_LIST(int32)
QAPI_DECLARE_SCALAR_LIST(int64)
QAPI_DECLARE_SCALAR_LIST(uint8)
QAPI_DECLARE_SCALAR_LIST(uint16)
QAPI_DECLARE_SCALAR_LIST(uint32)
QAPI_DECLARE_SCALAR_LIST(uint64)
QAPI_DECLARE_SCALAR_LIST(size)

#endif
