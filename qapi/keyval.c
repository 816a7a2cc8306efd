/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qapi/keyval.h"

#include <string.h>

#include "qapi/json-parser.h"
#include "util/error.h"

/* Parts of a dotted key, at most; more cannot mean anything, and conversion recurses. */
#define MAX_PARTS 64

static void refuse(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void refuse(GError **error, const char *format, ...)
{
    g_autofree char *text = NULL;
    g_autofree char *valid = NULL;
    va_list ap;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    valid = g_utf8_make_valid(text, -1);
    g_set_error_literal(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT, valid);
}

/* ---- key=value to a tree of objects ---- */

/* Take the value at *@text up to a comma that stands alone, and move *@text behind that comma. */
static char *take_value(const char **text)
{
    GString *value = g_string_new(NULL);
    const char *p = *text;

    for (; *p; p++) {
        if (*p == ',') {
            if (p[1] != ',') {
                break;
            }
            p++;
        }
        g_string_append_c(value, *p);
    }
    *text = *p ? p + 1 : p;
    return g_string_free(value, FALSE);
}

static bool is_index(const char *part)
{
    return g_ascii_isdigit(*part);
}

/* A name as the schema has them, or the index of an element. */
static bool is_part(const char *part)
{
    const char *rest = part;

    if (is_index(part)) {
        bool leading_zero = part[0] == '0' && part[1];

        while (g_ascii_isdigit(*rest)) {
            rest++;
        }
        return *rest == '\0' && !leading_zero && rest - part <= 9;
    }
    if (!g_ascii_isalpha(*part) && *part != '_') {
        return false;
    }
    while (g_ascii_isalnum(*rest) || *rest == '-' || *rest == '_') {
        rest++;
    }
    return *rest == '\0';
}

/* The parts of @key between its dots. */
static char **split_key(const char *key, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(key, ".", -1);

    if (g_strv_length(parts) == 0 || g_strv_length(parts) > MAX_PARTS) {
        refuse(error,
               *parts ? "Parameter '%.64s' has too many parts" : "A parameter without a name", key);
        return NULL;
    }
    for (guint i = 0; parts[i]; i++) {
        if (!is_part(parts[i]) || (i == 0 && is_index(parts[i]))) {
            refuse(error, "'%.64s' is no valid name of a parameter", key);
            return NULL;
        }
    }
    return g_steal_pointer(&parts);
}

static bool refuse_mixture(const char *key, GError **error)
{
    refuse(error, "Parameter '%s' is given both a value and members of its own", key);
    return false;
}

/* Set the member that @key names below @root. */
static bool set_value(QValue *root, const char *key, const char *value, GError **error)
{
    g_auto(GStrv) parts = split_key(key, error);
    QValue *object = root;
    const QValue *present;
    guint i;

    if (!parts) {
        return false;
    }
    for (i = 0; parts[i + 1]; i++) {
        /* All this tree is ours still, so it may be changed. */
        QValue *inner = (QValue *)qvalue_object_get(object, parts[i]);

        if (!inner) {
            inner = qvalue_object();
            qvalue_object_set(object, parts[i], inner);
        } else if (qvalue_type(inner) != QVALUE_OBJECT) {
            return refuse_mixture(key, error);
        }
        object = inner;
    }
    present = qvalue_object_get(object, parts[i]);
    if (present && qvalue_type(present) == QVALUE_OBJECT) {
        return refuse_mixture(key, error);
    }
    qvalue_object_set(object, parts[i], qvalue_string_untyped(value));
    return true;
}

static bool take_pair(QValue *root, const char **text, GError **error)
{
    gsize len = strcspn(*text, "=,");
    g_autofree char *key = g_strndup(*text, len);
    g_autofree char *value = NULL;

    if (len == 0 && **text == ',') {
        refuse(error, "A parameter without a name: there is a comma too many");
        return false;
    }
    if ((*text)[len] != '=') {
        refuse(error, "Parameter '%.64s' lacks its value: write '%.64s=VALUE'", key, key);
        return false;
    }
    *text += len + 1;
    value = take_value(text);
    return set_value(root, key, value, error);
}

/* ---- Arrays ---- */

static QValue *with_arrays(const QValue *object, const char *path, GError **error);

/* The element or member @value, which @path and @name lead to. */
static QValue *convert_inner(const QValue *value, const char *path, const char *name,
                             GError **error)
{
    g_autofree char *inner = NULL;

    if (qvalue_type(value) != QVALUE_OBJECT) {
        return qvalue_ref(value);
    }
    inner = *path ? g_strdup_printf("%s.%s", path, name) : g_strdup(name);
    return with_arrays(value, inner, error);
}

static QValue *to_array(const QValue *object, const char *path, GError **error)
{
    g_autoptr(QValue) array = qvalue_array();

    for (gsize i = 0; i < qvalue_object_size(object); i++) {
        g_autofree char *index = g_strdup_printf("%" G_GSIZE_FORMAT, i);
        const QValue *element = qvalue_object_get(object, index);
        QValue *converted;

        if (!element) {
            refuse(error, "Parameter '%s.%s' is missing in the list", path, index);
            return NULL;
        }
        converted = convert_inner(element, path, index, error);
        if (!converted) {
            return NULL;
        }
        qvalue_array_append(array, converted);
    }
    return g_steal_pointer(&array);
}

static QValue *to_object(const QValue *object, const char *path, GError **error)
{
    g_autoptr(QValue) result = qvalue_object();

    for (gsize i = 0; i < qvalue_object_size(object); i++) {
        const char *key = qvalue_object_key(object, i);
        QValue *converted = convert_inner(qvalue_object_value(object, i), path, key, error);

        if (!converted) {
            return NULL;
        }
        qvalue_object_set(result, key, converted);
    }
    return g_steal_pointer(&result);
}

/* @object with each object inside whose members are called 0, 1, ... made an array. */
static QValue *with_arrays(const QValue *object, const char *path, GError **error)
{
    gsize n_indices = 0;

    for (gsize i = 0; i < qvalue_object_size(object); i++) {
        n_indices += is_index(qvalue_object_key(object, i));
    }
    if (n_indices == 0) {
        return to_object(object, path, error);
    }
    if (n_indices < qvalue_object_size(object)) {
        refuse(error, "Parameter '%s' mixes members by name and elements by number", path);
        return NULL;
    }
    return to_array(object, path, error);
}

static QValue *parse_json(const char *text, GError **error)
{
    QValue *value = qvalue_from_json(text, -1, error);

    g_assert(!value || qvalue_type(value) == QVALUE_OBJECT); /* it begins with a brace */
    return value;
}

QValue *keyval_parse(const char *text, const char *implied_key, GError **error)
{
    g_autoptr(QValue) root = NULL;
    gsize first = strcspn(text, "=,");

    if (*text == '{') {
        return parse_json(text, error);
    }
    root = qvalue_object();
    if (implied_key && first > 0 && text[first] != '=') {
        g_autofree char *value = take_value(&text);

        qvalue_object_set(root, implied_key, qvalue_string_untyped(value));
    }
    while (*text) {
        if (!take_pair(root, &text, error)) {
            return NULL;
        }
    }
    return with_arrays(root, "", error);
}
