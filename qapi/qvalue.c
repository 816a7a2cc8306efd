/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qapi/qvalue.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* An object with more members than this gets an index. */
#define INDEX_THRESHOLD 16

typedef struct {
    char *key;
    QValue *value;
} Member;

struct QValue {
    gint refs;
    QValueType type;
    bool untyped; /* QVALUE_STRING: see qvalue_string_untyped() */
    union {
        bool b;
        int64_t i;
        uint64_t u;
        double d;
        struct {
            char *s;
            gsize len;
        } string;
        GPtrArray *array; /* of QValue, not freed by it: see qvalue_unref() */
        struct {
            GArray *members; /* of Member */
            /*
             * key -> position + 1, once there are many members. A tree and not a hash: keys come
             * from clients, who could make them collide.
             */
            GTree *index;
        } object;
    };
};

static QValue *qvalue_new(QValueType type)
{
    QValue *v = g_new0(QValue, 1);

    v->refs = 1;
    v->type = type;
    return v;
}

QValue *qvalue_ref(const QValue *v)
{
    QValue *shared = (QValue *)v;

    g_atomic_int_inc(&shared->refs);
    return shared;
}

static Member *object_member(const QValue *object, gsize i)
{
    return &g_array_index(object->object.members, Member, i);
}

/* Free @v, whose last reference is gone, leaving its elements to the caller through @orphans. */
static void qvalue_free_shell(QValue *v, GPtrArray *orphans)
{
    switch (v->type) {
    case QVALUE_STRING:
        g_free(v->string.s);
        break;
    case QVALUE_ARRAY:
        g_ptr_array_extend(orphans, v->array, NULL, NULL);
        g_ptr_array_unref(v->array);
        break;
    case QVALUE_OBJECT:
        g_clear_pointer(&v->object.index, g_tree_unref);
        for (gsize i = 0; i < v->object.members->len; i++) {
            g_free(object_member(v, i)->key);
            g_ptr_array_add(orphans, object_member(v, i)->value);
        }
        g_array_unref(v->object.members);
        break;
    default:
        break;
    }
    g_free(v);
}

void qvalue_unref(QValue *v)
{
    g_autoptr(GPtrArray) orphans = NULL;

    if (!v || !g_atomic_int_dec_and_test(&v->refs)) {
        return;
    }
    orphans = g_ptr_array_new();
    qvalue_free_shell(v, orphans);
    while (orphans->len > 0) {
        QValue *next = g_ptr_array_steal_index_fast(orphans, orphans->len - 1);

        if (g_atomic_int_dec_and_test(&next->refs)) {
            qvalue_free_shell(next, orphans);
        }
    }
}

QValueType qvalue_type(const QValue *v)
{
    return v->type;
}

const char *qvalue_type_name(const QValue *v)
{
    static const char *const names[] = {
        [QVALUE_NULL] = "null",       [QVALUE_BOOL] = "a boolean",   [QVALUE_INT] = "an integer",
        [QVALUE_UINT] = "an integer", [QVALUE_DOUBLE] = "a number",  [QVALUE_STRING] = "a string",
        [QVALUE_ARRAY] = "an array",  [QVALUE_OBJECT] = "an object",
    };

    return names[v->type];
}

QValue *qvalue_null(void)
{
    return qvalue_new(QVALUE_NULL);
}

QValue *qvalue_bool(bool b)
{
    QValue *v = qvalue_new(QVALUE_BOOL);

    v->b = b;
    return v;
}

QValue *qvalue_int(int64_t i)
{
    QValue *v = qvalue_new(QVALUE_INT);

    v->i = i;
    return v;
}

QValue *qvalue_uint(uint64_t u)
{
    QValue *v;

    if (u <= INT64_MAX) {
        return qvalue_int((int64_t)u);
    }
    v = qvalue_new(QVALUE_UINT);
    v->u = u;
    return v;
}

QValue *qvalue_double(double d)
{
    QValue *v = qvalue_new(QVALUE_DOUBLE);

    g_assert(isfinite(d));
    v->d = d;
    return v;
}

QValue *qvalue_string(const char *s)
{
    return qvalue_string_len(s, strlen(s));
}

QValue *qvalue_string_len(const char *s, gsize len)
{
    QValue *v = qvalue_new(QVALUE_STRING);

    v->string.s = g_malloc(len + 1);
    memcpy(v->string.s, s, len);
    v->string.s[len] = '\0';
    v->string.len = len;
    return v;
}

QValue *qvalue_string_untyped(const char *s)
{
    QValue *v = qvalue_string(s);

    v->untyped = true;
    return v;
}

bool qvalue_is_untyped(const QValue *v)
{
    return v->untyped;
}

bool qvalue_get_bool(const QValue *v)
{
    g_assert(v->type == QVALUE_BOOL);
    return v->b;
}

int64_t qvalue_get_int(const QValue *v)
{
    g_assert(v->type == QVALUE_INT);
    return v->i;
}

uint64_t qvalue_get_uint(const QValue *v)
{
    if (v->type == QVALUE_UINT) {
        return v->u;
    }
    g_assert(v->type == QVALUE_INT && v->i >= 0);
    return (uint64_t)v->i;
}

double qvalue_get_double(const QValue *v)
{
    switch (v->type) {
    case QVALUE_INT:
        return (double)v->i;
    case QVALUE_UINT:
        return (double)v->u;
    default:
        g_assert(v->type == QVALUE_DOUBLE);
        return v->d;
    }
}

const char *qvalue_get_string(const QValue *v, gsize *len)
{
    g_assert(v->type == QVALUE_STRING);
    if (len) {
        *len = v->string.len;
    }
    return v->string.s;
}

QValue *qvalue_array(void)
{
    QValue *v = qvalue_new(QVALUE_ARRAY);

    v->array = g_ptr_array_new();
    return v;
}

void qvalue_array_append(QValue *array, QValue *take)
{
    g_assert(array->type == QVALUE_ARRAY);
    g_ptr_array_add(array->array, take);
}

gsize qvalue_array_length(const QValue *array)
{
    g_assert(array->type == QVALUE_ARRAY);
    return array->array->len;
}

const QValue *qvalue_array_get(const QValue *array, gsize i)
{
    g_assert(array->type == QVALUE_ARRAY && i < array->array->len);
    return g_ptr_array_index(array->array, i);
}

QValue *qvalue_object(void)
{
    QValue *v = qvalue_new(QVALUE_OBJECT);

    v->object.members = g_array_new(FALSE, FALSE, sizeof(Member));
    return v;
}

static gint compare_keys(gconstpointer a, gconstpointer b, gpointer opaque)
{
    return strcmp(a, b);
}

static void object_build_index(QValue *object)
{
    object->object.index = g_tree_new_full(compare_keys, NULL, NULL, NULL);
    for (gsize i = 0; i < object->object.members->len; i++) {
        g_tree_insert(object->object.index, object_member(object, i)->key, GSIZE_TO_POINTER(i + 1));
    }
}

bool qvalue_object_find(const QValue *object, const char *key, gsize *i)
{
    g_assert(object->type == QVALUE_OBJECT);
    if (object->object.index) {
        gsize found = GPOINTER_TO_SIZE(g_tree_lookup(object->object.index, key));

        *i = found - 1;
        return found > 0;
    }
    for (*i = 0; *i < object->object.members->len; (*i)++) {
        if (strcmp(object_member(object, *i)->key, key) == 0) {
            return true;
        }
    }
    return false;
}

void qvalue_object_set(QValue *object, const char *key, QValue *take)
{
    GArray *members = object->object.members;
    Member m = {.value = take};
    gsize i;

    if (qvalue_object_find(object, key, &i)) {
        qvalue_unref(object_member(object, i)->value);
        object_member(object, i)->value = take;
        return;
    }
    m.key = g_strdup(key);
    g_array_append_val(members, m);
    if (object->object.index) {
        g_tree_insert(object->object.index, m.key, GSIZE_TO_POINTER((gsize)members->len));
    } else if (members->len > INDEX_THRESHOLD) {
        object_build_index(object);
    }
}

const QValue *qvalue_object_get(const QValue *object, const char *key)
{
    gsize i;

    return qvalue_object_find(object, key, &i) ? object_member(object, i)->value : NULL;
}

bool qvalue_object_has(const QValue *object, const char *key)
{
    gsize i;

    return qvalue_object_find(object, key, &i);
}

bool qvalue_object_remove(QValue *object, const char *key)
{
    gsize i;

    if (!qvalue_object_find(object, key, &i)) {
        return false;
    }
    g_clear_pointer(&object->object.index, g_tree_unref);
    g_free(object_member(object, i)->key);
    qvalue_unref(object_member(object, i)->value);
    g_array_remove_index(object->object.members, i);
    if (object->object.members->len > INDEX_THRESHOLD) {
        object_build_index(object);
    }
    return true;
}

gsize qvalue_object_size(const QValue *object)
{
    g_assert(object->type == QVALUE_OBJECT);
    return object->object.members->len;
}

const char *qvalue_object_key(const QValue *object, gsize i)
{
    g_assert(i < qvalue_object_size(object));
    return object_member(object, i)->key;
}

const QValue *qvalue_object_value(const QValue *object, gsize i)
{
    g_assert(i < qvalue_object_size(object));
    return object_member(object, i)->value;
}

static bool array_equal(const QValue *a, const QValue *b)
{
    if (a->array->len != b->array->len) {
        return false;
    }
    for (gsize i = 0; i < a->array->len; i++) {
        if (!qvalue_equal(qvalue_array_get(a, i), qvalue_array_get(b, i))) {
            return false;
        }
    }
    return true;
}

static bool object_equal(const QValue *a, const QValue *b)
{
    if (qvalue_object_size(a) != qvalue_object_size(b)) {
        return false;
    }
    for (gsize i = 0; i < qvalue_object_size(a); i++) {
        const QValue *other = qvalue_object_get(b, qvalue_object_key(a, i));

        if (!other || !qvalue_equal(qvalue_object_value(a, i), other)) {
            return false;
        }
    }
    return true;
}

bool qvalue_equal(const QValue *a, const QValue *b)
{
    if (a->type != b->type) {
        return false;
    }
    switch (a->type) {
    case QVALUE_NULL:
        return true;
    case QVALUE_BOOL:
        return a->b == b->b;
    case QVALUE_INT:
        return a->i == b->i;
    case QVALUE_UINT:
        return a->u == b->u;
    case QVALUE_DOUBLE:
        return a->d == b->d;
    case QVALUE_STRING:
        return a->string.len == b->string.len &&
               memcmp(a->string.s, b->string.s, a->string.len) == 0;
    case QVALUE_ARRAY:
        return array_equal(a, b);
    case QVALUE_OBJECT:
        return object_equal(a, b);
    }
    g_assert_not_reached();
}

static void append_code_unit(GString *out, unsigned unit)
{
    static const char hex[] = "0123456789abcdef";
    const char escape[] = {
        '\\', 'u', hex[unit >> 12 & 15], hex[unit >> 8 & 15], hex[unit >> 4 & 15], hex[unit & 15]};

    g_string_append_len(out, escape, sizeof(escape));
}

static void append_code_point(GString *out, gunichar c)
{
    if (c <= 0xffff) {
        append_code_unit(out, c);
        return;
    }
    c -= 0x10000;
    append_code_unit(out, 0xd800 + (c >> 10));
    append_code_unit(out, 0xdc00 + (c & 0x3ff));
}

static void append_ascii(GString *out, char c)
{
    switch (c) {
    case '"':
        g_string_append(out, "\\\"");
        break;
    case '\\':
        g_string_append(out, "\\\\");
        break;
    case '\b':
        g_string_append(out, "\\b");
        break;
    case '\f':
        g_string_append(out, "\\f");
        break;
    case '\n':
        g_string_append(out, "\\n");
        break;
    case '\r':
        g_string_append(out, "\\r");
        break;
    case '\t':
        g_string_append(out, "\\t");
        break;
    default:
        if (c < 0x20 || c == 0x7f) {
            append_code_unit(out, (unsigned char)c);
        } else {
            g_string_append_c(out, c);
        }
    }
}

static void append_string(GString *out, const char *s, gsize len)
{
    const char *end = s + len;

    g_string_append_c(out, '"');
    while (s < end) {
        gunichar c;

        if ((unsigned char)*s < 0x80) {
            append_ascii(out, *s++);
            continue;
        }
        if (end - s >= 2 && memcmp(s, "\xc0\x80", 2) == 0) {
            append_code_unit(out, 0); /* how the name of a member holds U+0000 */
            s += 2;
            continue;
        }
        c = g_utf8_get_char_validated(s, end - s);
        if (c == (gunichar)-1 || c == (gunichar)-2) {
            append_code_point(out, 0xfffd);
            s++;
        } else {
            append_code_point(out, c);
            s = g_utf8_next_char(s);
        }
    }
    g_string_append_c(out, '"');
}

/* The shortest digits that read back as the same number; zero has no sign. */
static void append_double(GString *out, double d)
{
    char buffer[G_ASCII_DTOSTR_BUF_SIZE];

    for (int precision = 15; precision <= 17; precision++) {
        char format[8];

        g_snprintf(format, sizeof(format), "%%.%dg", precision);
        g_ascii_formatd(buffer, sizeof(buffer), format, d == 0 ? 0 : d);
        if (g_ascii_strtod(buffer, NULL) == d) {
            break;
        }
    }
    g_string_append(out, buffer);
}

static void append_scalar(GString *out, const QValue *v)
{
    switch (v->type) {
    case QVALUE_NULL:
        g_string_append(out, "null");
        break;
    case QVALUE_BOOL:
        g_string_append(out, v->b ? "true" : "false");
        break;
    case QVALUE_INT:
        g_string_append_printf(out, "%" G_GINT64_FORMAT, v->i);
        break;
    case QVALUE_UINT:
        g_string_append_printf(out, "%" G_GUINT64_FORMAT, v->u);
        break;
    case QVALUE_DOUBLE:
        append_double(out, v->d);
        break;
    case QVALUE_STRING:
        append_string(out, v->string.s, v->string.len);
        break;
    default:
        g_assert_not_reached();
    }
}

/* A container that is being written, and how many of its elements are out. */
typedef struct {
    const QValue *container;
    gsize next;
} WriteFrame;

static gsize container_size(const QValue *v)
{
    return v->type == QVALUE_ARRAY ? v->array->len : v->object.members->len;
}

static void append_line_break(GString *out, unsigned indent, unsigned level)
{
    if (indent > 0) {
        g_string_append(out, "\r\n");
        for (unsigned i = 0; i < indent * level; i++) {
            g_string_append_c(out, ' ');
        }
    }
}

/* Write what comes before the next element of @frame, and return that element. */
static const QValue *write_next(WriteFrame *frame, GString *out, unsigned indent, unsigned level)
{
    gsize i = frame->next++;
    const Member *m;

    if (i > 0) {
        g_string_append(out, indent > 0 ? "," : ", ");
    }
    append_line_break(out, indent, level);
    if (frame->container->type == QVALUE_ARRAY) {
        return qvalue_array_get(frame->container, i);
    }
    m = object_member(frame->container, i);
    append_string(out, m->key, strlen(m->key));
    g_string_append(out, ": ");
    return m->value;
}

/* With a stack of its own, for a coroutine's is short and a client chooses the nesting. */
void qvalue_to_json(const QValue *v, GString *out, unsigned indent)
{
    g_autoptr(GArray) stack = g_array_new(FALSE, FALSE, sizeof(WriteFrame));

    for (;;) {
        if (v->type == QVALUE_ARRAY || v->type == QVALUE_OBJECT) {
            WriteFrame frame = {.container = v};

            g_string_append_c(out, v->type == QVALUE_ARRAY ? '[' : '{');
            g_array_append_val(stack, frame);
        } else {
            append_scalar(out, v);
        }
        for (;;) {
            WriteFrame *top;

            if (stack->len == 0) {
                return;
            }
            top = &g_array_index(stack, WriteFrame, stack->len - 1);
            if (top->next < container_size(top->container)) {
                v = write_next(top, out, indent, stack->len);
                break;
            }
            append_line_break(out, indent, stack->len - 1);
            g_string_append_c(out, top->container->type == QVALUE_ARRAY ? ']' : '}');
            g_array_set_size(stack, stack->len - 1);
        }
    }
}

char *qvalue_to_json_string(const QValue *v)
{
    GString *out = g_string_new(NULL);

    qvalue_to_json(v, out, 0);
    return g_string_free(out, FALSE);
}
