/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qapi/qapi.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "util/error.h"

/* Messages quote at most this many bytes of a client's value. */
#define QUOTE_MAX 64

/* Enumerations up to this size are listed in full when a value is none of them. */
#define LIST_NAMES_MAX 24

/* ---- Command table ---- */

typedef struct {
    const QapiCommand *command;
    gpointer self;
} TableEntry;

struct QapiCommandTable {
    GTree *entries; /* name -> TableEntry */
};

static gint compare_names(gconstpointer a, gconstpointer b, gpointer opaque)
{
    return strcmp(a, b);
}

QapiCommandTable *qapi_command_table_new(void)
{
    QapiCommandTable *table = g_new0(QapiCommandTable, 1);

    table->entries = g_tree_new_full(compare_names, NULL, NULL, g_free);
    return table;
}

void qapi_command_table_free(QapiCommandTable *table)
{
    if (table) {
        g_tree_unref(table->entries);
        g_free(table);
    }
}

void qapi_command_table_add(QapiCommandTable *table, const QapiCommand *commands, gpointer self)
{
    for (; commands->name; commands++) {
        TableEntry *entry = g_new0(TableEntry, 1);

        g_assert(!g_tree_lookup(table->entries, commands->name));
        *entry = (TableEntry){commands, self};
        g_tree_insert(table->entries, (gpointer)commands->name, entry);
    }
}

const QapiCommand *qapi_command_table_lookup(const QapiCommandTable *table, const char *name,
                                             gpointer *self)
{
    const TableEntry *entry = g_tree_lookup(table->entries, name);

    if (!entry) {
        return NULL;
    }
    if (self) {
        *self = entry->self;
    }
    return entry->command;
}

void qapi_command_table_foreach(const QapiCommandTable *table,
                                void (*visit)(const QapiCommand *command, gpointer opaque),
                                gpointer opaque)
{
    for (GTreeNode *node = g_tree_node_first(table->entries); node; node = g_tree_node_next(node)) {
        const TableEntry *entry = g_tree_node_value(node);

        visit(entry->command, opaque);
    }
}

void qapi_event_emit(const QapiEventSink *sink, const char *name, QValue *data)
{
    if (sink) {
        sink->emit(sink->opaque, name, data);
    }
}

/* ---- Names in messages ---- */

QapiInput qapi_input_root(const QValue *value, bool keyval)
{
    return (QapiInput){.value = value, .keyval = keyval};
}

static void append_path(const QapiInput *in, GString *out)
{
    if (!in->parent) {
        return;
    }
    append_path(in->parent, out);
    if (!in->name) {
        g_string_append_printf(out, "[%" G_GSIZE_FORMAT "]", in->index);
        return;
    }
    if (out->len > 0) {
        g_string_append_c(out, '.');
    }
    g_string_append(out, in->name);
}

/* @text for a message: control characters escaped, no more than QUOTE_MAX bytes of it or so. */
static char *shorten(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    GString *out = g_string_new(NULL);
    const char *p;

    for (p = valid; *p && p - valid < QUOTE_MAX; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);

        if (c < 0x20 || c == 0x7f) {
            g_string_append_printf(out, "\\u%04x", c);
        } else {
            g_string_append_unichar(out, c);
        }
    }
    if (*p) {
        g_string_append(out, "...");
    }
    return g_string_free(out, FALSE);
}

/* "Parameter 'a.b'", or what the root is called. */
static char *input_describe(const QapiInput *in)
{
    g_autoptr(GString) path = g_string_new(NULL);
    g_autofree char *shown = NULL;

    if (!in->parent) {
        return g_strdup(in->keyval ? "The option's value" : "The argument object");
    }
    append_path(in, path);
    shown = shorten(path->str);
    return g_strdup_printf("Parameter '%s'", shown);
}

/* @v for a message; containers by their type alone. */
static char *value_quote(const QValue *v)
{
    g_autofree char *json = NULL;

    if (qvalue_type(v) == QVALUE_ARRAY || qvalue_type(v) == QVALUE_OBJECT) {
        return g_strdup(qvalue_type_name(v));
    }
    json = qvalue_to_json_string(v);
    return shorten(json);
}

/* The same with its type, "a string ("abc")", where the type is what is wrong. */
static char *value_describe(const QValue *v)
{
    g_autofree char *shown = value_quote(v);
    QValueType type = qvalue_type(v);

    if (type == QVALUE_NULL || type == QVALUE_ARRAY || type == QVALUE_OBJECT ||
        qvalue_is_untyped(v)) {
        return g_steal_pointer(&shown);
    }
    return g_strdup_printf("%s (%s)", qvalue_type_name(v), shown);
}

static void refuse(const QapiInput *in, const char *expected, const char *found, GError **error)
{
    g_autofree char *what = input_describe(in);

    g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT, "%s must be %s, not %s", what,
                expected, found);
}

/* Report that the value of @in, whose type is right, is not what was expected. */
static void refuse_value(const QapiInput *in, const char *expected, GError **error)
{
    g_autofree char *found = value_quote(in->value);

    refuse(in, expected, found, error);
}

void qapi_input_refuse(const QapiInput *in, const char *expected, GError **error)
{
    g_autofree char *found = value_describe(in->value);

    refuse(in, expected, found, error);
}

/* ---- Objects and arrays ---- */

/* Whether one more level of typed containers is fine. */
static bool check_depth(const QapiInput *in, GError **error)
{
    if (in->depth >= QAPI_MAX_DEPTH) {
        g_autofree char *what = input_describe(in);

        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "%s is nested too deeply: at most %d levels are allowed", what, QAPI_MAX_DEPTH);
        return false;
    }
    return true;
}

bool qapi_object_begin(QapiObject *object, const QapiInput *in, GError **error)
{
    *object = (QapiObject){.in = in};
    if (qvalue_type(in->value) != QVALUE_OBJECT) {
        qapi_input_refuse(in, "an object", error);
        return false;
    }
    if (!check_depth(in, error)) {
        return false;
    }
    object->seen = g_new0(guint8, qvalue_object_size(in->value));
    object->known = g_ptr_array_new();
    return true;
}

void qapi_object_clear(QapiObject *object)
{
    g_clear_pointer(&object->seen, g_free);
    g_clear_pointer(&object->known, g_ptr_array_unref);
}

static QapiInput input_child(const QapiInput *in, const QValue *value)
{
    return (QapiInput){.value = value, .parent = in, .depth = in->depth + 1, .keyval = in->keyval};
}

bool qapi_object_get(QapiObject *object, const char *name, QapiInput *member)
{
    const QValue *value = object->in->value;
    gsize i;

    g_ptr_array_add(object->known, (gpointer)name);
    if (!qvalue_object_find(value, name, &i)) {
        return false;
    }
    object->n_seen += !object->seen[i];
    object->seen[i] = true;
    *member = input_child(object->in, qvalue_object_value(value, i));
    member->name = name;
    return true;
}

/* Two names that differ only in what one easily mistypes: case, '_' for '-'. */
static bool names_alike(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        char ca = *a == '_' ? '-' : g_ascii_tolower(*a);
        char cb = *b == '_' ? '-' : g_ascii_tolower(*b);

        if (ca != cb) {
            return false;
        }
    }
    return *a == *b;
}

static const char *find_alike(const GPtrArray *names, const char *name)
{
    for (guint i = 0; i < names->len; i++) {
        if (names_alike(g_ptr_array_index(names, i), name)) {
            return g_ptr_array_index(names, i);
        }
    }
    return NULL;
}

/* The member of the client's object that looks like @name. */
static const char *find_misspelt(const QValue *object, const char *name)
{
    for (gsize i = 0; i < qvalue_object_size(object); i++) {
        if (names_alike(qvalue_object_key(object, i), name)) {
            return qvalue_object_key(object, i);
        }
    }
    return NULL;
}

bool qapi_object_require(QapiObject *object, const char *name, QapiInput *member, GError **error)
{
    g_autofree char *what = NULL;
    const char *written;

    if (qapi_object_get(object, name, member)) {
        return true;
    }
    *member = (QapiInput){.parent = object->in, .name = name};
    what = input_describe(member);
    written = find_misspelt(object->in->value, name);
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT, "%s is missing%s%s%s", what,
                written ? "; '" : "", written ? written : "", written ? "' is not the same" : "");
    return false;
}

/* What was meant by the unexpected member @name, as the end of a message; may be empty. */
static char *suggest(const QapiObject *object, const char *name)
{
    const char *alike = find_alike(object->known, name);
    const char *dot = strchr(name, '.');
    g_autofree char *first = NULL;

    if (alike) {
        return g_strdup_printf("; did you mean '%s'?", alike);
    }
    if (!dot) {
        return g_strdup("");
    }
    first = g_strndup(name, (gsize)(dot - name));
    if (!find_alike(object->known, first)) {
        return g_strdup("");
    }
    return g_strdup_printf("; in JSON it belongs into an object '%s'", first);
}

static void refuse_unexpected(const QapiObject *object, gsize i, GError **error)
{
    QapiInput member = input_child(object->in, qvalue_object_value(object->in->value, i));
    g_autofree char *what = NULL;
    g_autofree char *meant = NULL;

    member.name = qvalue_object_key(object->in->value, i);
    what = input_describe(&member);
    meant = suggest(object, member.name);
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT, "%s is unexpected%s", what,
                meant);
}

bool qapi_object_end(QapiObject *object, GError **error)
{
    gsize size = qvalue_object_size(object->in->value);

    if (object->n_seen == size) {
        return true;
    }
    for (gsize i = 0; i < size; i++) {
        if (!object->seen[i]) {
            refuse_unexpected(object, i, error);
            break;
        }
    }
    return false;
}

bool qapi_arguments_none(const QValue *args, GError **error)
{
    QapiInput in = qapi_input_root(args, false);
    g_auto(QapiObject) object = {0};

    return !args || (qapi_object_begin(&object, &in, error) && qapi_object_end(&object, error));
}

bool qapi_array_begin(const QapiInput *in, gsize *length, GError **error)
{
    if (qvalue_type(in->value) != QVALUE_ARRAY) {
        qapi_input_refuse(in, "an array", error);
        return false;
    }
    if (!check_depth(in, error)) {
        return false;
    }
    *length = qvalue_array_length(in->value);
    return true;
}

QapiInput qapi_array_element(const QapiInput *in, gsize i)
{
    QapiInput element = input_child(in, qvalue_array_get(in->value, i));

    element.index = i;
    return element;
}

/* ---- Scalars ---- */

/* The text of @in if it is an untyped string and may be read as another scalar, else NULL. */
static const char *untyped_text(const QapiInput *in)
{
    return in->keyval && qvalue_is_untyped(in->value) ? qvalue_get_string(in->value, NULL) : NULL;
}

static bool parse_bool(const char *text, bool *out)
{
    static const char *const words[] = {"off", "on", "no", "yes", "false", "true"};

    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
        if (strcmp(text, words[i]) == 0) {
            *out = i & 1;
            return true;
        }
    }
    return false;
}

bool qapi_read_bool(const QapiInput *in, bool *out, GError **error)
{
    const char *text = untyped_text(in);

    if (text && parse_bool(text, out)) {
        return true;
    }
    if (text) {
        qapi_input_refuse(in, "'on' or 'off'", error);
        return false;
    }
    if (qvalue_type(in->value) != QVALUE_BOOL) {
        qapi_input_refuse(in, "a boolean", error);
        return false;
    }
    *out = qvalue_get_bool(in->value);
    return true;
}

bool qapi_read_str(const QapiInput *in, char **out, GError **error)
{
    const char *text;
    gsize len;

    if (qvalue_type(in->value) != QVALUE_STRING) {
        qapi_input_refuse(in, "a string", error);
        return false;
    }
    text = qvalue_get_string(in->value, &len);
    if (strlen(text) != len) {
        refuse_value(in, "a string without U+0000", error);
        return false;
    }
    *out = g_strndup(text, len);
    return true;
}

bool qapi_read_any(const QapiInput *in, QValue **out, GError **error)
{
    *out = qvalue_ref(in->value);
    return true;
}

bool qapi_read_null(const QapiInput *in, QValue **out, GError **error)
{
    if (qvalue_type(in->value) != QVALUE_NULL) {
        qapi_input_refuse(in, "null", error);
        return false;
    }
    *out = qvalue_ref(in->value);
    return true;
}

static bool parse_number(const char *text, double *out)
{
    char *end;

    if (!g_ascii_isdigit(*text) && *text != '-' && *text != '.') {
        return false;
    }
    *out = g_ascii_strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*out);
}

bool qapi_read_number(const QapiInput *in, double min, double max, double *out, GError **error)
{
    const char *text = untyped_text(in);
    QValueType type = qvalue_type(in->value);
    g_autofree char *expected = NULL;
    bool is_number;
    double d = 0;

    if (text) {
        is_number = parse_number(text, &d);
    } else {
        is_number = type == QVALUE_INT || type == QVALUE_UINT || type == QVALUE_DOUBLE;
        d = is_number ? qvalue_get_double(in->value) : 0;
    }
    if (is_number && d >= min && d <= max) {
        *out = d;
        return true;
    }
    if (!is_number) {
        qapi_input_refuse(in, "a number", error);
        return false;
    }
    expected = g_strdup_printf("a number from %g to %g", min, max);
    refuse_value(in, expected, error);
    return false;
}

/* An integer with its sign apart, which covers -2^63 to 2^64-1. */
typedef struct {
    bool negative;
    uint64_t magnitude;
} Integer;

static Integer integer_from_int(int64_t i)
{
    return (Integer){i < 0, i < 0 ? -(uint64_t)i : (uint64_t)i};
}

static Integer integer_from_uint(uint64_t u)
{
    return (Integer){false, u};
}

static bool integer_less(Integer a, Integer b)
{
    if (a.negative != b.negative) {
        return a.negative;
    }
    return a.negative ? a.magnitude > b.magnitude : a.magnitude < b.magnitude;
}

/* Decimal or 0x digits, nothing else. @rest gets what follows them. */
static bool parse_digits(const char *text, uint64_t *out, const char **rest)
{
    bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    char *end;
    gboolean is_digit;

    text += hex ? 2 : 0;
    is_digit = hex ? g_ascii_isxdigit(*text) : g_ascii_isdigit(*text);
    if (!is_digit) {
        return false;
    }
    errno = 0;
    *out = g_ascii_strtoull(text, &end, hex ? 16 : 10);
    *rest = end;
    return errno == 0;
}

static bool parse_integer(const char *text, Integer *out)
{
    const char *rest;

    out->negative = *text == '-';
    if (!parse_digits(text + out->negative, &out->magnitude, &rest) || *rest) {
        return false;
    }
    if (out->magnitude == 0) {
        out->negative = false;
    }
    return !out->negative || out->magnitude <= (uint64_t)INT64_MAX + 1;
}

/* The power of two that a size's @suffix stands for, or -1. */
static int suffix_shift(const char *suffix)
{
    static const char letters[] = "BKMGTPE";
    const char *found;

    if (*suffix == '\0') {
        return 0;
    }
    found = strchr(letters, g_ascii_toupper(*suffix));
    return found && suffix[1] == '\0' ? (int)(found - letters) * 10 : -1;
}

/* Digits, a fraction ("1.5G"; cut to whole bytes) and a suffix. */
static bool parse_size(const char *text, Integer *out)
{
    uint64_t whole, fraction = 0, scale = 1;
    const char *rest;
    unsigned __int128 bytes;
    int shift;

    if (parse_integer(text, out)) {
        return true;
    }
    if (!parse_digits(text, &whole, &rest)) {
        return false;
    }
    if (*rest == '.' && g_ascii_isdigit(rest[1])) {
        for (rest++; g_ascii_isdigit(*rest); rest++) {
            if (scale < 1000000000000) {
                fraction = fraction * 10 + (uint64_t)(*rest - '0');
                scale *= 10;
            }
        }
    }
    shift = suffix_shift(rest);
    if (shift < 0) {
        return false;
    }
    bytes = ((unsigned __int128)whole << shift) + ((unsigned __int128)fraction << shift) / scale;
    *out = integer_from_uint((uint64_t)bytes);
    return bytes <= UINT64_MAX;
}

static char *describe_range(const char *kind, Integer min, Integer max)
{
    return g_strdup_printf("%s from %s%" G_GUINT64_FORMAT " to %s%" G_GUINT64_FORMAT, kind,
                           min.negative ? "-" : "", min.magnitude, max.negative ? "-" : "",
                           max.magnitude);
}

static bool input_integer(const QapiInput *in, bool size, Integer *out)
{
    const char *text = untyped_text(in);

    if (text) {
        return size ? parse_size(text, out) : parse_integer(text, out);
    }
    switch (qvalue_type(in->value)) {
    case QVALUE_INT:
        *out = integer_from_int(qvalue_get_int(in->value));
        return true;
    case QVALUE_UINT:
        *out = integer_from_uint(qvalue_get_uint(in->value));
        return true;
    default:
        return false;
    }
}

static bool read_integer(const QapiInput *in, Integer min, Integer max, bool size, Integer *out,
                         GError **error)
{
    g_autofree char *expected = NULL;
    Integer i;

    if (!input_integer(in, size, &i)) {
        bool suffix = size && untyped_text(in);

        qapi_input_refuse(in, suffix ? "a size, such as 512, 64k or 10G" : "an integer", error);
        return false;
    }
    if (integer_less(i, min) || integer_less(max, i)) {
        expected = describe_range("an integer", min, max);
        refuse_value(in, expected, error);
        return false;
    }
    *out = i;
    return true;
}

#define DEFINE_READ_SIGNED(name, type)                                                             \
    bool qapi_read_##name(const QapiInput *in, type min, type max, type *out, GError **error)      \
    {                                                                                              \
        Integer i;                                                                                 \
                                                                                                   \
        if (!read_integer(in, integer_from_int(min), integer_from_int(max), false, &i, error)) {   \
            return false;                                                                          \
        }                                                                                          \
        *out = (type)(i.negative ? -i.magnitude : i.magnitude);                                    \
        return true;                                                                               \
    }

#define DEFINE_READ_UNSIGNED(name, type, size)                                                     \
    bool qapi_read_##name(const QapiInput *in, type min, type max, type *out, GError **error)      \
    {                                                                                              \
        Integer i;                                                                                 \
                                                                                                   \
        if (!read_integer(in, integer_from_uint(min), integer_from_uint(max), size, &i, error)) {  \
            return false;                                                                          \
        }                                                                                          \
        *out = (type)i.magnitude;                                                                  \
        return true;                                                                               \
    }

DEFINE_READ_SIGNED(int8, int8_t)
DEFINE_READ_SIGNED(int16, int16_t)
DEFINE_READ_SIGNED(int32, int32_t)
DEFINE_READ_SIGNED(int64, int64_t)
DEFINE_READ_UNSIGNED(uint8, uint8_t, false)
DEFINE_READ_UNSIGNED(uint16, uint16_t, false)
DEFINE_READ_UNSIGNED(uint32, uint32_t, false)
DEFINE_READ_UNSIGNED(uint64, uint64_t, false)
DEFINE_READ_UNSIGNED(size, uint64_t, true)

static char *describe_names(const char *const *names, unsigned n)
{
    GString *text = g_string_new(NULL);

    if (n > LIST_NAMES_MAX) {
        return g_string_free(g_string_append(text, "a known value"), FALSE);
    }
    for (unsigned i = 0; i < n; i++) {
        const char *separator = i == 0 ? "" : i + 1 == n ? " or " : ", ";

        g_string_append_printf(text, "%s'%s'", separator, names[i]);
    }
    return g_string_free(text, FALSE);
}

bool qapi_read_enum(const QapiInput *in, const char *const *names, unsigned n, unsigned *out,
                    GError **error)
{
    g_autofree char *expected = NULL;

    if (qvalue_type(in->value) == QVALUE_STRING) {
        gsize len;
        const char *text = qvalue_get_string(in->value, &len);

        for (unsigned i = 0; i < n; i++) {
            if (strlen(names[i]) == len && memcmp(names[i], text, len) == 0) {
                *out = i;
                return true;
            }
        }
    }
    expected = describe_names(names, n);
    if (qvalue_type(in->value) == QVALUE_STRING) {
        refuse_value(in, expected, error);
    } else {
        qapi_input_refuse(in, expected, error);
    }
    return false;
}

/* ---- Alternates ---- */

QValueType qapi_alternate_type(const QapiInput *in, unsigned branches)
{
    QValueType type = qvalue_type(in->value);
    const char *text = untyped_text(in);
    Integer i;
    bool b;

    if (type == QVALUE_UINT) {
        type = QVALUE_INT;
    }
    if (type == QVALUE_INT && !(branches & 1u << QVALUE_INT)) {
        type = QVALUE_DOUBLE;
    }
    if (!text || branches & 1u << QVALUE_STRING) {
        return type;
    }
    if (branches & 1u << QVALUE_BOOL && parse_bool(text, &b)) {
        return QVALUE_BOOL;
    }
    if (branches & 1u << QVALUE_INT && parse_size(text, &i)) {
        return QVALUE_INT;
    }
    return branches & 1u << QVALUE_DOUBLE ? QVALUE_DOUBLE : type;
}

/* ---- Lists of builtin types ---- */

static gpointer copy_string(gconstpointer s, gpointer opaque)
{
    return g_strdup(s);
}

static gpointer copy_qvalue(gconstpointer v, gpointer opaque)
{
    return qvalue_ref(v);
}

static GPtrArray *qvalue_list_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)qvalue_unref);
}

GPtrArray *qapi_copy_str_list(const GPtrArray *list)
{
    GPtrArray *copy;

    if (!list) {
        return NULL;
    }
    copy = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_extend(copy, (GPtrArray *)list, copy_string, NULL);
    return copy;
}

GPtrArray *qapi_copy_any_list(const GPtrArray *list)
{
    GPtrArray *copy;

    if (!list) {
        return NULL;
    }
    copy = qvalue_list_new();
    g_ptr_array_extend(copy, (GPtrArray *)list, copy_qvalue, NULL);
    return copy;
}

bool qapi_read_str_list(const QapiInput *in, GPtrArray **out, GError **error)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(g_free);
    gsize length;

    if (!qapi_array_begin(in, &length, error)) {
        return false;
    }
    for (gsize i = 0; i < length; i++) {
        QapiInput element = qapi_array_element(in, i);
        char *s;

        if (!qapi_read_str(&element, &s, error)) {
            return false;
        }
        g_ptr_array_add(list, s);
    }
    *out = g_steal_pointer(&list);
    return true;
}

bool qapi_read_any_list(const QapiInput *in, GPtrArray **out, GError **error)
{
    g_autoptr(GPtrArray) list = qvalue_list_new();
    gsize length;

    if (!qapi_array_begin(in, &length, error)) {
        return false;
    }
    for (gsize i = 0; i < length; i++) {
        g_ptr_array_add(list, qvalue_ref(qvalue_array_get(in->value, i)));
    }
    *out = g_steal_pointer(&list);
    return true;
}

QValue *qapi_write_str_list(const GPtrArray *list)
{
    QValue *array = qvalue_array();

    for (guint i = 0; i < list->len; i++) {
        qvalue_array_append(array, qvalue_string(g_ptr_array_index(list, i)));
    }
    return array;
}

QValue *qapi_write_any_list(const GPtrArray *list)
{
    QValue *array = qvalue_array();

    for (guint i = 0; i < list->len; i++) {
        qvalue_array_append(array, qvalue_ref(g_ptr_array_index(list, i)));
    }
    return array;
}

GArray *qapi_copy_scalar_list(const GArray *list)
{
    return list ? g_array_copy((GArray *)list) : NULL;
}

#define DEFINE_SCALAR_LIST(name, type, read, write)                                                \
    bool qapi_read_##name##_list(const QapiInput *in, GArray **out, GError **error)                \
    {                                                                                              \
        g_autoptr(GArray) list = g_array_new(FALSE, FALSE, sizeof(type));                          \
        gsize length;                                                                              \
                                                                                                   \
        if (!qapi_array_begin(in, &length, error)) {                                               \
            return false;                                                                          \
        }                                                                                          \
        for (gsize i = 0; i < length; i++) {                                                       \
            QapiInput element = qapi_array_element(in, i);                                         \
            type x;                                                                                \
                                                                                                   \
            if (!read) {                                                                           \
                return false;                                                                      \
            }                                                                                      \
            g_array_append_val(list, x);                                                           \
        }                                                                                          \
        *out = g_steal_pointer(&list);                                                             \
        return true;                                                                               \
    }                                                                                              \
                                                                                                   \
    QValue *qapi_write_##name##_list(const GArray *list)                                           \
    {                                                                                              \
        QValue *array = qvalue_array();                                                            \
                                                                                                   \
        for (guint i = 0; i < list->len; i++) {                                                    \
            qvalue_array_append(array, write(g_array_index(list, type, i)));                       \
        }                                                                                          \
        return array;                                                                              \
    }

#define DEFINE_INTEGER_LIST(name, type, min, max, write)                                           \
    DEFINE_SCALAR_LIST(name, type, qapi_read_##name(&element, min, max, &x, error), write)

DEFINE_SCALAR_LIST(bool, bool, qapi_read_bool(&element, &x, error), qvalue_bool)
DEFINE_INTEGER_LIST(number, double, -G_MAXDOUBLE, G_MAXDOUBLE, qvalue_double)
DEFINE_INTEGER_LIST(int8, int8_t, INT8_MIN, INT8_MAX, qvalue_int)
DEFINE_INTEGER_LIST(int16, int16_t, INT16_MIN, INT16_MAX, qvalue_int)
DEFINE_INTEGER_LIST(int32, int32_t, INT32_MIN, INT32_MAX, qvalue_int)
DEFINE_INTEGER_LIST(int64, int64_t, INT64_MIN, INT64_MAX, qvalue_int)
DEFINE_INTEGER_LIST(uint8, uint8_t, 0, UINT8_MAX, qvalue_uint)
DEFINE_INTEGER_LIST(uint16, uint16_t, 0, UINT16_MAX, qvalue_uint)
DEFINE_INTEGER_LIST(uint32, uint32_t, 0, UINT32_MAX, qvalue_uint)
DEFINE_INTEGER_LIST(uint64, uint64_t, 0, UINT64_MAX, qvalue_uint)
DEFINE_INTEGER_LIST(size, uint64_t, 0, UINT64_MAX, qvalue_uint)
