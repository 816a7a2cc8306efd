/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qapi/qvalue.h - a JSON value.
 *
 * Exact where JSON libraries often are not: integers from -2^63 to 2^64-1 keep every digit, members
 * keep their order, strings may hold U+0000.
 *
 * Threads   A value that only one thread knows may be changed by it. Once it is shared (a second
 *           reference, or handed to anybody) it is immutable, and any thread may read it.
 * Lifetime  Reference counted, atomically. Containers own their elements; getters that return a
 *           QValue or a string lend it for as long as the container stays unchanged.
 * Errors    None: asking a value for what it is not is a bug of the caller and asserts. Foreign
 *           input goes through the generated conversion, which checks.
 */
#ifndef WHARF_QAPI_QVALUE_H
#define WHARF_QAPI_QVALUE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct QValue QValue;

typedef enum {
    QVALUE_NULL,
    QVALUE_BOOL,
    QVALUE_INT,  /* fits int64_t */
    QVALUE_UINT, /* above INT64_MAX only, so that a number has one type */
    QVALUE_DOUBLE,
    QVALUE_STRING,
    QVALUE_ARRAY,
    QVALUE_OBJECT,
} QValueType;

QValue *qvalue_ref(const QValue *v);
void qvalue_unref(QValue *v); /* NULL is fine; nesting of any depth costs no stack */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QValue, qvalue_unref)

QValueType qvalue_type(const QValue *v);

/* What a person calls the type of @v: "null", "a boolean", "an integer", "a number", ... */
const char *qvalue_type_name(const QValue *v);

/* Scalars. Each call returns a new reference. */
QValue *qvalue_null(void);
QValue *qvalue_bool(bool b);
QValue *qvalue_int(int64_t i);
QValue *qvalue_uint(uint64_t u); /* a QVALUE_INT where it fits */
QValue *qvalue_double(double d); /* finite */
QValue *qvalue_string(const char *s);
QValue *qvalue_string_len(const char *s, gsize len);

/*
 * A string that stands for whatever scalar its reader expects, as key=value options have them. Only
 * the generated x_from_keyval() treats it differently from qvalue_string(): there "on" is a
 * boolean.
 */
QValue *qvalue_string_untyped(const char *s);
bool qvalue_is_untyped(const QValue *v);

bool qvalue_get_bool(const QValue *v);
int64_t qvalue_get_int(const QValue *v);   /* of a QVALUE_INT */
uint64_t qvalue_get_uint(const QValue *v); /* of a QVALUE_UINT, or a QVALUE_INT that is >= 0 */
double qvalue_get_double(const QValue *v); /* of any number; large integers are rounded */

/* The text of a QVALUE_STRING, NUL-terminated; its length in bytes goes to @len unless NULL. */
const char *qvalue_get_string(const QValue *v, gsize *len);

/* Arrays. @take becomes the array's. */
QValue *qvalue_array(void);
void qvalue_array_append(QValue *array, QValue *take);
gsize qvalue_array_length(const QValue *array);
const QValue *qvalue_array_get(const QValue *array, gsize i);

/*
 * Objects: members in the order in which they were set first. Setting a key again replaces its
 * value; @take becomes the object's. Lookups cost O(log n). A key holds U+0000 as the bytes c0 80.
 */
QValue *qvalue_object(void);
void qvalue_object_set(QValue *object, const char *key, QValue *take);
const QValue *qvalue_object_get(const QValue *object, const char *key); /* NULL if absent */
bool qvalue_object_has(const QValue *object, const char *key);
bool qvalue_object_remove(QValue *object, const char *key); /* whether it was there; O(n) */
gsize qvalue_object_size(const QValue *object);
const char *qvalue_object_key(const QValue *object, gsize i);
const QValue *qvalue_object_value(const QValue *object, gsize i);

/* Where @key stands in @object. Returns false if it is absent. */
bool qvalue_object_find(const QValue *object, const char *key, gsize *i);

/* Same type and content. The order of members does not count; 1 and 1.0 differ. */
bool qvalue_equal(const QValue *a, const QValue *b);

/*
 * Append @v to @out as JSON in pure ASCII. @indent 0 gives one line, "{"a": 1, "b": []}"; otherwise
 * each element stands on a line of its own, indented by @indent blanks a level, lines end in CR LF
 * and an empty container takes two of them. Bytes that are not UTF-8 come out as U+FFFD.
 */
void qvalue_to_json(const QValue *v, GString *out, unsigned indent);

/* The same on one line, as a new string; for messages and tests. */
char *qvalue_to_json_string(const QValue *v);

#endif
