/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/args.h"

#include <string.h>

#include "ctl/ctl.h"
#include "ctl/json.h"
#include "ctl/text.h"
#include "qapi/json-parser.h"

/* Unions within unions are followed so far. */
#define BRANCHES_DEPTH 8

/* What the words say: a tree, since keys are dotted. A leaf is text to be converted, or a value. */
typedef struct Node {
    struct Node *parent; /* NULL at the root */
    char *key;
    GPtrArray *children; /* of Node, in the order given; empty for a leaf */
    char *text;          /* of "key=text", else NULL */
    QValue *value;       /* of "key:=JSON" or a member of "{...}", else NULL */
} Node;

static void node_free(Node *node)
{
    g_ptr_array_unref(node->children);
    g_free(node->key);
    g_free(node->text);
    qvalue_unref(node->value);
    g_free(node);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Node, node_free)

static Node *node_new(Node *parent, const char *key)
{
    Node *node = g_new0(Node, 1);

    node->parent = parent;
    node->key = g_strdup(key);
    node->children = g_ptr_array_new_with_free_func((GDestroyNotify)node_free);
    if (parent) {
        g_ptr_array_add(parent->children, node);
    }
    return node;
}

static Node *node_child(const Node *node, const char *key)
{
    for (guint i = 0; i < node->children->len; i++) {
        Node *child = g_ptr_array_index(node->children, i);

        if (strcmp(child->key, key) == 0) {
            return child;
        }
    }
    return NULL;
}

static bool node_is_leaf(const Node *node)
{
    return node->text || node->value;
}

/* The key of @node as it was typed. */
static char *node_path(const Node *node)
{
    GString *path = g_string_new(node->key);

    for (node = node->parent; node && node->key; node = node->parent) {
        g_string_prepend_c(path, '.');
        g_string_prepend(path, node->key);
    }
    return g_string_free(path, FALSE);
}

G_GNUC_PRINTF(2, 3)
static void usage(GError **error, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    g_propagate_error(error, g_error_new_valist(CTL_ERROR, CTL_ERROR_USAGE, format, ap));
    va_end(ap);
}

static QValue *parse_json(const char *where, const char *text, GError **error)
{
    g_autoptr(GError) local = NULL;
    QValue *value = qvalue_from_json(text, -1, &local);

    if (!value) {
        usage(error, "%s is no valid JSON: %s", where, local->message);
    }
    return value;
}

/* ---- Words to the tree ---- */

/* Add every member of the JSON object @text to the root. */
static bool add_json_object(Node *root, const char *text, GError **error)
{
    g_autoptr(QValue) object = parse_json("the argument in braces", text, error);

    if (!object) {
        return false;
    }
    for (gsize i = 0; i < qvalue_object_size(object); i++) {
        const char *key = qvalue_object_key(object, i);

        if (node_child(root, key)) {
            usage(error, "'%s' is given twice", key);
            return false;
        }
        node_new(root, key)->value = qvalue_ref(qvalue_object_value(object, i));
    }
    return true;
}

/* The node for the dotted @key, made as needed. NULL with an error if it cannot be. */
static Node *add_key(Node *root, const char *key, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(key, ".", -1);
    Node *node = root;

    for (char **part = parts; *part; part++) {
        Node *child;

        if (**part == '\0') {
            usage(error, "'%s' is no key: a part of it is empty", key);
            return NULL;
        }
        if (node_is_leaf(node)) {
            g_autofree char *path = node_path(node);

            usage(error, "'%s' has a value of its own, so it cannot have the member '%s'", path,
                  *part);
            return NULL;
        }
        child = node_child(node, *part);
        node = child ? child : node_new(node, *part);
    }
    if (node_is_leaf(node) || node->children->len) {
        usage(error, "'%s' is given twice", key);
        return NULL;
    }
    return node;
}

static bool add_word(Node *root, const char *word, GError **error)
{
    const char *equals = strchr(word, '=');
    bool json = equals && equals > word && equals[-1] == ':';
    g_autofree char *key = NULL;
    Node *node;

    if (word[0] == '{') {
        return add_json_object(root, word, error);
    }
    if (!equals || equals == word + json) {
        usage(error, "'%s' is no argument; arguments are written key=value, or as {JSON}", word);
        return false;
    }
    key = g_strndup(word, equals - word - json);
    if (!g_utf8_validate(word, -1, NULL)) {
        g_autofree char *shown = ctl_text_printable(word, -1);

        usage(error, "'%s' is not UTF-8, which all text in a command has to be", shown);
        return false;
    }
    node = add_key(root, key, error);
    if (!node) {
        return false;
    }
    if (json) {
        g_autofree char *where = g_strdup_printf("the value of '%s'", key);

        node->value = parse_json(where, equals + 1, error);
        return node->value != NULL;
    }
    node->text = g_strdup(equals + 1);
    return true;
}

static Node *parse_words(char **words, GError **error)
{
    g_autoptr(Node) root = node_new(NULL, NULL);

    for (; *words; words++) {
        if (!add_word(root, *words, error)) {
            return NULL;
        }
    }
    return g_steal_pointer(&root);
}

/* ---- The tree to values ---- */

static QValue *convert(const CtlSchema *schema, const Node *node, const QValue *type,
                       GError **error);

static QValue *refuse(const CtlSchema *schema, const Node *node, const QValue *type, GError **error)
{
    g_autofree char *path = node_path(node);
    g_autofree char *expected = ctl_type_describe(schema, type);

    if (node->text) {
        usage(error, "'%s=%s' does not fit: '%s' is %s", path, node->text, path, expected);
    } else {
        usage(error, "'%s' has no members: it is %s", path, expected);
    }
    return NULL;
}

static QValue *convert_integer(const CtlSchema *schema, const Node *node, const QValue *type,
                               GError **error)
{
    guint64 n;
    bool negative;

    if (!ctl_text_parse_integer(node->text, &negative, &n)) {
        return refuse(schema, node, type, error);
    }
    return negative ? qvalue_int((int64_t)(0 - n)) : qvalue_uint(n);
}

static QValue *convert_number(const CtlSchema *schema, const Node *node, const QValue *type,
                              GError **error)
{
    g_autoptr(QValue) value = qvalue_from_json(node->text, -1, NULL);

    switch (value ? qvalue_type(value) : QVALUE_NULL) {
    case QVALUE_INT:
    case QVALUE_UINT:
    case QVALUE_DOUBLE:
        return g_steal_pointer(&value);
    default:
        return refuse(schema, node, type, error);
    }
}

static QValue *convert_boolean(const CtlSchema *schema, const Node *node, const QValue *type,
                               GError **error)
{
    static const char *const yes[] = {"on", "yes", "true", NULL};
    static const char *const no[] = {"off", "no", "false", NULL};

    if (g_strv_contains(yes, node->text)) {
        return qvalue_bool(true);
    }
    return g_strv_contains(no, node->text) ? qvalue_bool(false) : refuse(schema, node, type, error);
}

static QValue *convert_enum(const CtlSchema *schema, const Node *node, const QValue *type,
                            GError **error)
{
    g_autofree const char **values = ctl_type_values(type);
    const char *meant;

    if (g_strv_contains(values, node->text)) {
        return qvalue_string(node->text);
    }
    meant = ctl_text_nearest(node->text, values, g_strv_length((char **)values));
    if (meant) {
        g_autofree char *path = node_path(node);

        usage(error, "'%s' cannot be '%s'; did you mean '%s'?", path, node->text, meant);
        return NULL;
    }
    return refuse(schema, node, type, error);
}

/* A list or an object as one word: JSON. */
static QValue *convert_json_text(const Node *node, const char *what, char bracket, GError **error)
{
    g_autofree char *path = node_path(node);
    g_autofree char *where = g_strdup_printf("the value of '%s'", path);

    if (node->text[0] == bracket) {
        return parse_json(where, node->text, error);
    }
    if (bracket == '[') {
        usage(error, "'%s' is %s: write %s.0=..., %s.1=..., or %s=[JSON]", path, what, path, path,
              path);
    } else {
        usage(error, "'%s' is %s: write %s.MEMBER=..., or %s={JSON}", path, what, path, path);
    }
    return NULL;
}

/* The elements of @node by number: 0, 1, 2, ... without a gap, in any order. */
static QValue *convert_array(const CtlSchema *schema, const Node *node, const QValue *type,
                             GError **error)
{
    const QValue *element = ctl_type_element(schema, type);
    g_autoptr(QValue) array = qvalue_array();
    g_autofree char *path = node_path(node);

    if (node->text) {
        return convert_json_text(node, "a list", '[', error);
    }
    for (guint i = 0; i < node->children->len; i++) {
        g_autofree char *index = g_strdup_printf("%u", i);
        const Node *child = node_child(node, index);
        QValue *value;

        if (!child) {
            usage(error, "the list '%s' has no '%s.%u': its elements are numbered 0, 1, 2, ...",
                  path, path, i);
            return NULL;
        }
        value = convert(schema, child, element, error);
        if (!value) {
            return NULL;
        }
        qvalue_array_append(array, value);
    }
    return g_steal_pointer(&array);
}

/* The text that selects the branch of a union, however it was given; NULL if it was not. */
static const char *tag_value(const Node *node, const char *tag)
{
    const Node *child = tag ? node_child(node, tag) : NULL;

    if (!child) {
        return NULL;
    }
    if (child->value && qvalue_type(child->value) == QVALUE_STRING) {
        return qvalue_get_string(child->value, NULL);
    }
    return child->text;
}

/* All members that an object like @node may have; those of its branch are found through its tag. */
static GArray *members_for(const CtlSchema *schema, const Node *node, const QValue *type)
{
    GArray *members = ctl_type_members(schema, type);

    /* Branches may be unions, too; a schema in which they never end is not to hang us. */
    for (unsigned depth = 0; type && depth < BRANCHES_DEPTH; depth++) {
        const char *value = tag_value(node, ctl_type_tag(type));
        g_autoptr(GArray) more = NULL;

        if (!value) {
            break;
        }
        type = ctl_type_variant(schema, type, value);
        more = ctl_type_members(schema, type);
        g_array_append_vals(members, more->data, more->len);
    }
    return members;
}

static const CtlMember *find_member(const GArray *members, const char *name)
{
    for (guint i = 0; i < members->len; i++) {
        const CtlMember *member = &g_array_index(members, CtlMember, i);

        if (strcmp(member->name, name) == 0) {
            return member;
        }
    }
    return NULL;
}

static void refuse_member(const Node *child, const GArray *members, const QValue *type,
                          GError **error)
{
    g_autofree char *path = node_path(child);
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    const char *tag = ctl_type_tag(type), *meant;

    for (guint i = 0; i < members->len; i++) {
        g_ptr_array_add(names, (gpointer)g_array_index(members, CtlMember, i).name);
    }
    meant = ctl_text_nearest(child->key, (const char *const *)names->pdata, names->len);
    if (meant) {
        usage(error, "there is no '%s' here; did you mean '%s'?", path, meant);
    } else if (tag && !node_child(child->parent, tag)) {
        usage(error, "there is no '%s' here without '%s', which says what kind it is", path, tag);
    } else if (names->len == 0) {
        usage(error, "there is no '%s' here: nothing is taken", path);
    } else {
        g_autofree char *list = NULL;

        g_ptr_array_add(names, NULL);
        list = g_strjoinv(", ", (char **)names->pdata);
        usage(error, "there is no '%s' here; there is: %s", path, list);
    }
}

static bool require_members(const CtlSchema *schema, const Node *node, const GArray *members,
                            GError **error)
{
    for (guint i = 0; i < members->len; i++) {
        const CtlMember *member = &g_array_index(members, CtlMember, i);
        g_autofree char *path = NULL;
        g_autofree char *type = NULL;

        if (member->optional || node_child(node, member->name)) {
            continue;
        }
        type = ctl_type_describe(schema, member->type);
        path = node->key ? node_path(node) : NULL;
        usage(error, "the argument '%s%s%s' (%s) is missing", path ? path : "", path ? "." : "",
              member->name, type);
        return false;
    }
    return true;
}

static QValue *convert_object(const CtlSchema *schema, const Node *node, const QValue *type,
                              GError **error)
{
    g_autoptr(QValue) object = qvalue_object();
    g_autoptr(GArray) members = NULL;

    if (node->text) {
        return convert_json_text(node, "an object", '{', error);
    }
    members = members_for(schema, node, type);
    for (guint i = 0; i < node->children->len; i++) {
        const Node *child = g_ptr_array_index(node->children, i);
        const CtlMember *member = find_member(members, child->key);
        QValue *value;

        if (!member) {
            refuse_member(child, members, type, error);
            return NULL;
        }
        value = convert(schema, child, member->type, error);
        if (!value) {
            return NULL;
        }
        qvalue_object_set(object, child->key, value);
    }
    return require_members(schema, node, members, error) ? g_steal_pointer(&object) : NULL;
}

static bool is_numbered(const Node *node)
{
    return node_child(node, "0") != NULL;
}

/* Text is text where the alternate takes it, and otherwise whatever scalar the alternate has. */
static QValue *convert_alternate(const CtlSchema *schema, const Node *node, const QValue *type,
                                 GError **error)
{
    static const CtlTypeKind scalars[] = {CTL_TYPE_BOOLEAN, CTL_TYPE_INTEGER, CTL_TYPE_NUMBER,
                                          CTL_TYPE_NULL, CTL_TYPE_STRING};
    const QValue *object = ctl_type_branch(schema, type, CTL_TYPE_OBJECT);
    const QValue *array = ctl_type_branch(schema, type, CTL_TYPE_ARRAY);

    if (object && (node->text ? node->text[0] == '{' : !is_numbered(node))) {
        return convert(schema, node, object, error);
    }
    if (array && (node->text ? node->text[0] == '[' : is_numbered(node))) {
        return convert(schema, node, array, error);
    }
    for (gsize i = 0; node->text && i < G_N_ELEMENTS(scalars); i++) {
        const QValue *branch = ctl_type_branch(schema, type, scalars[i]);
        QValue *value = branch ? convert(schema, node, branch, NULL) : NULL;

        if (value) {
            return value;
        }
    }
    return refuse(schema, node, type, error);
}

/* A value of no particular type: JSON if it reads as such, text otherwise. */
static QValue *convert_any(const Node *node)
{
    QValue *value;

    if (node->text) {
        value = qvalue_from_json(node->text, -1, NULL);
        return value ? value : qvalue_string(node->text);
    }
    value = qvalue_object();
    for (guint i = 0; i < node->children->len; i++) {
        const Node *child = g_ptr_array_index(node->children, i);

        qvalue_object_set(value, child->key,
                          child->value ? qvalue_ref(child->value) : convert_any(child));
    }
    return value;
}

static QValue *convert(const CtlSchema *schema, const Node *node, const QValue *type,
                       GError **error)
{
    CtlTypeKind kind = ctl_type_kind(type);

    if (node->value) {
        return qvalue_ref(node->value);
    }
    if (kind == CTL_TYPE_OBJECT) {
        return convert_object(schema, node, type, error);
    }
    if (kind == CTL_TYPE_ARRAY) {
        return convert_array(schema, node, type, error);
    }
    if (kind == CTL_TYPE_ALTERNATE) {
        return convert_alternate(schema, node, type, error);
    }
    if (kind == CTL_TYPE_ANY || kind == CTL_TYPE_UNKNOWN) {
        return convert_any(node);
    }
    if (!node->text) {
        return refuse(schema, node, type, error);
    }
    switch (kind) {
    case CTL_TYPE_INTEGER:
        return convert_integer(schema, node, type, error);
    case CTL_TYPE_NUMBER:
        return convert_number(schema, node, type, error);
    case CTL_TYPE_BOOLEAN:
        return convert_boolean(schema, node, type, error);
    case CTL_TYPE_ENUM:
        return convert_enum(schema, node, type, error);
    case CTL_TYPE_NULL:
        return strcmp(node->text, "null") == 0 ? qvalue_null() : refuse(schema, node, type, error);
    default:
        return qvalue_string(node->text);
    }
}

QValue *ctl_args_convert(const CtlSchema *schema, const char *command, char **words, GError **error)
{
    g_autoptr(Node) root = parse_words(words, error);

    return root ? convert_object(schema, root, ctl_schema_arguments(schema, command), error) : NULL;
}

/* ---- Completion ---- */

/* Whether a member of @type is written with a dot after its name rather than with a '='. */
static bool is_dotted(const CtlSchema *schema, const QValue *type)
{
    switch (ctl_type_kind(type)) {
    case CTL_TYPE_OBJECT:
    case CTL_TYPE_ARRAY:
        return true;
    case CTL_TYPE_ALTERNATE:
        return !ctl_type_branch(schema, type, CTL_TYPE_STRING);
    default:
        return false;
    }
}

static void add_candidate(GPtrArray *out, const char *word, char *take_candidate)
{
    if (g_str_has_prefix(take_candidate, word)) {
        g_ptr_array_add(out, take_candidate);
    } else {
        g_free(take_candidate);
    }
}

/* Names of the members of @type below @prefix that @node (NULL: none yet) does not have. */
static void complete_members(const CtlSchema *schema, const Node *node, const QValue *type,
                             const char *prefix, const char *word, GPtrArray *out)
{
    g_autoptr(Node) nothing = node_new(NULL, NULL);
    g_autoptr(GArray) members = members_for(schema, node ? node : nothing, type);

    for (guint i = 0; i < members->len; i++) {
        const CtlMember *member = &g_array_index(members, CtlMember, i);
        bool dotted = is_dotted(schema, member->type);

        if (dotted || !node || !node_child(node, member->name)) {
            add_candidate(out, word, g_strconcat(prefix, member->name, dotted ? "." : "=", NULL));
        }
    }
}

static void complete_values(const CtlSchema *schema, const QValue *type, const char *prefix,
                            const char *word, GPtrArray *out)
{
    static const char *const booleans[] = {"on", "off", NULL};
    CtlTypeKind kind = ctl_type_kind(type);
    const QValue *branch =
        kind == CTL_TYPE_ALTERNATE ? ctl_type_branch(schema, type, CTL_TYPE_STRING) : type;
    g_autofree const char **enumerated =
        ctl_type_kind(branch) == CTL_TYPE_ENUM ? ctl_type_values(branch) : NULL;
    const char *const *values =
        kind == CTL_TYPE_BOOLEAN ? booleans : (const char *const *)enumerated;

    for (; values && *values; values++) {
        add_candidate(out, word, g_strconcat(prefix, *values, NULL));
    }
}

/* The type of member @name of an object or, by number, of a list; alternates are looked through. */
static const QValue *step_into(const CtlSchema *schema, const Node *node, const QValue *type,
                               const char *name)
{
    g_autoptr(Node) nothing = node_new(NULL, NULL);
    g_autoptr(GArray) members = NULL;
    const CtlMember *member;

    if (ctl_type_kind(type) == CTL_TYPE_ALTERNATE) {
        type = ctl_type_branch(schema, type,
                               g_ascii_isdigit(*name) ? CTL_TYPE_ARRAY : CTL_TYPE_OBJECT);
    }
    if (ctl_type_kind(type) == CTL_TYPE_ARRAY) {
        return g_ascii_isdigit(*name) ? ctl_type_element(schema, type) : NULL;
    }
    members = members_for(schema, node ? node : nothing, type);
    member = find_member(members, name);
    return member ? member->type : NULL;
}

char **ctl_args_complete(const CtlSchema *schema, const char *command, char **words,
                         const char *word)
{
    g_autoptr(GPtrArray) out = g_ptr_array_new();
    const QValue *type = ctl_schema_arguments(schema, command);
    g_autoptr(Node) root = parse_words(words, NULL);
    const Node *node = root;
    const char *equals = strchr(word, '=');
    g_autofree char *key = equals ? g_strndup(word, equals - word) : g_strdup(word);
    g_auto(GStrv) parts = g_strsplit(key, ".", -1);
    guint n_parts = g_strv_length(parts);
    const char *last_dot = strrchr(key, '.');
    g_autofree char *prefix = equals     ? g_strconcat(key, "=", NULL)
                              : last_dot ? g_strndup(key, last_dot - key + 1)
                                         : g_strdup("");

    /* Walk down to the object that the last part of the key belongs to, or to the value itself. */
    for (guint i = 0; i + !equals < n_parts; i++) {
        type = step_into(schema, node, type, parts[i]);
        node = node ? node_child(node, parts[i]) : NULL;
    }
    if (equals) {
        complete_values(schema, type, prefix, word, out);
    } else {
        if (ctl_type_kind(type) == CTL_TYPE_ALTERNATE) {
            type = ctl_type_branch(schema, type, CTL_TYPE_OBJECT);
        }
        complete_members(schema, node, type, prefix, word, out);
    }
    g_ptr_array_add(out, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&out), FALSE);
}
