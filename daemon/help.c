/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/help.h"

#include <glib.h>
#include <stdbool.h>
#include <string.h>

#include "block/driver.h"
#include "export/driver.h"
#include "qapi/introspect.h"
#include "util/error.h"

static const char usage_text[] =
    "Usage: wharfd [OPTION]...\n"
    "Opens disk images as block nodes and exports them; driven over sockets by QMP or JSON-RPC.\n"
    "\n"
    "What to set up; each may be given several times, in any order, as key=value list or as JSON,\n"
    "and 'help' for a value tells what it may be:\n"
    "  --object [qom-type=]TYPE,id=ID[,PROPERTY=VALUE...]\n"
    "        an object, such as an iothread\n"
    "  --blockdev [driver=]DRIVER,node-name=NAME[,OPTION=VALUE...]\n"
    "        a block node, such as an image file\n"
    "  --export [type=]TYPE,id=ID,node-name=NAME[,OPTION=VALUE...]\n"
    "        an export of a node, such as a mountpoint\n"
    "  --chardev [backend=]socket,id=ID,path=PATH,server=on,wait=off[,OPTION=VALUE...]\n"
    "        a socket or stdio for a monitor\n"
    "  --monitor [chardev=]ID[,mode=control|jsonrpc][,pretty=on][,id=ID]\n"
    "  --monitor path=PATH[,mode=control|jsonrpc][,socket-mode=0660][,pretty=on][,id=ID]\n"
    "        a monitor on a chardev, or on a Unix socket of its own\n"
    "  --nbd-server addr.type=unix,addr.path=PATH[,OPTION=VALUE...]\n"
    "        where exports of type nbd are found\n"
    "\n"
    "How to run:\n"
    "  --daemonize             go to the background once everything is set up\n"
    "  --pidfile PATH          write the process id there once everything is set up\n"
    "  --exit-when-idle        end when the last export has gone\n"
    "  --aio auto|io_uring|epoll\n"
    "                          how to wait for input and output\n"
    "  --log [level=]LEVEL[,format=text|json][,file=PATH]\n"
    "                          LEVEL: error, warning, notice, info, debug\n"
    "  -T, --trace PATTERN     same as --log debug\n"
    "  -h, --help              print this\n"
    "  -V, --version           print the version and what this build can do\n"
    "\n"
    "SIGTERM, SIGINT and SIGHUP end the daemon in order; a second one ends it at once.\n";

char *help_usage(void)
{
    return g_strdup(usage_text);
}

char *help_version(void)
{
    return g_strdup("wharfd " WHARF_VERSION "\nThis build: " WHARF_FEATURES "\n");
}

/* ---- 'help' in place of a value ---- */

/* How deep options inside options are shown. */
#define MEMBER_DEPTH_MAX 3

#define TEXT_COLUMNS 80

/* An option whose value is described by a type of the schema. */
typedef struct {
    const char *option;
    const char *type;                   /* a union over kinds, or a plain struct */
    const char *what;                   /* what its kinds are called; NULL for a struct */
    bool (*is_built)(const char *kind); /* NULL: all are */
} HelpTopic;

static bool driver_is_built(const char *kind)
{
    BlockdevDriver driver;

    return blockdev_driver_from_string(kind, &driver) && block_driver_find(driver);
}

static bool export_is_built(const char *kind)
{
    BlockExportType type;

    return block_export_type_from_string(kind, &type) && export_driver_find(type);
}

static const HelpTopic topics[] = {
    {"object", "ObjectOptions", "types of objects", NULL},
    {"blockdev", "BlockdevOptions", "block drivers", driver_is_built},
    {"export", "BlockExportOptions", "types of exports", export_is_built},
    {"chardev", "ChardevOptions", "kinds of chardevs", NULL},
    {"monitor", "MonitorOptions", NULL, NULL},
    {"nbd-server", "NbdServerOptions", NULL, NULL},
};

/* The schema, and where the text goes. */
typedef struct {
    const QValue *entries;
    GString *text;
} Help;

static const char *member_string(const QValue *object, const char *key)
{
    const QValue *value = qvalue_object_get(object, key);

    return value && qvalue_type(value) == QVALUE_STRING ? qvalue_get_string(value, NULL) : NULL;
}

static const QValue *find_type(const Help *help, const char *name)
{
    for (gsize i = 0; i < qvalue_array_length(help->entries); i++) {
        const QValue *entry = qvalue_array_get(help->entries, i);

        if (g_strcmp0(member_string(entry, "name"), name) == 0) {
            return entry;
        }
    }
    return NULL;
}

static bool is_a(const QValue *type, const char *meta)
{
    return type && g_str_equal(member_string(type, "meta-type"), meta);
}

/* The values of an enumeration, or the types of an alternate, joined by '|'; else NULL. */
static char *choices_text(const QValue *type)
{
    const QValue *members =
        is_a(type, "enum") || is_a(type, "alternate") ? qvalue_object_get(type, "members") : NULL;
    GString *text;

    if (!members) {
        return NULL;
    }
    text = g_string_new(NULL);
    for (gsize i = 0; i < qvalue_array_length(members); i++) {
        const QValue *member = qvalue_array_get(members, i);
        const char *name = member_string(member, "name");

        g_string_append(text, i > 0 ? "|" : "");
        if (name) {
            g_string_append(text, name);
        } else {
            g_string_append_printf(text, "<%s>", member_string(member, "type"));
        }
    }
    return g_string_free(text, FALSE);
}

/* What may stand after the '='. */
static char *value_text(const Help *help, const char *name)
{
    char *choices = choices_text(find_type(help, name));

    if (choices) {
        return choices;
    }
    return g_str_equal(name, "bool") ? g_strdup("on|off") : g_strdup_printf("<%s>", name);
}

/* Append a paragraph, indented and broken at blanks. */
static void append_paragraph(GString *text, const char *paragraph)
{
    g_auto(GStrv) words = g_strsplit(paragraph, " ", -1);
    gsize column = 0;

    for (gsize i = 0; words[i]; i++) {
        gsize len = strlen(words[i]);

        if (len == 0) {
            continue;
        }
        if (column == 0 || column + 1 + len > TEXT_COLUMNS) {
            g_string_append(text, column == 0 ? "        " : "\n        ");
            column = 8 + len;
        } else {
            g_string_append_c(text, ' ');
            column += 1 + len;
        }
        g_string_append(text, words[i]);
    }
    g_string_append(text, column > 0 ? "\n" : "");
}

/* Append @doc, of which each line is a paragraph. */
static void append_doc(GString *text, const char *doc)
{
    g_auto(GStrv) paragraphs = g_strsplit(doc, "\n", -1);

    for (char **paragraph = paragraphs; *paragraph; paragraph++) {
        append_paragraph(text, *paragraph);
    }
}

/* How the value that @member has without being given is written; NULL where the text says it. */
static char *default_text(const QValue *member)
{
    const QValue *value = qvalue_object_get(member, "default");

    switch (qvalue_type(value)) {
    case QVALUE_NULL:
        return NULL;
    case QVALUE_BOOL:
        return g_strdup(qvalue_get_bool(value) ? "on" : "off");
    case QVALUE_STRING:
        return g_strdup(*qvalue_get_string(value, NULL) ? qvalue_get_string(value, NULL) : "''");
    default:
        return qvalue_to_json_string(value);
    }
}

/* Append in brackets whether @member must be given, where, and what it is if it is not. */
static void append_condition(GString *text, const QValue *member, const char *where)
{
    bool required = !qvalue_object_get(member, "default");
    g_autofree char *without = required ? g_strdup("required") : default_text(member);

    if (without) {
        g_string_append_printf(text, " (%s%s", required ? "" : "default: ", without);
    }
    if (where) {
        g_string_append_printf(text, "%swith %s", without ? "; " : " (", where);
    }
    g_string_append(text, without || where ? ")" : "");
}

static void append_members(Help *help, const QValue *type, const char *prefix, const char *where,
                           unsigned depth);

static void append_member(Help *help, const QValue *member, const char *prefix, const char *where,
                          unsigned depth)
{
    const char *type_name = member_string(member, "type");
    const QValue *type = find_type(help, type_name);
    g_autofree char *name = g_strconcat(prefix, member_string(member, "name"), NULL);
    g_autofree char *inner = g_strconcat(name, ".", NULL);
    g_autofree char *value = NULL;

    if (is_a(type, "object") && depth < MEMBER_DEPTH_MAX) {
        append_members(help, type, inner, where, depth + 1);
        return;
    }
    value = value_text(help, type_name);
    g_string_append_printf(help->text, "  %s%s=%s", name, type_name[0] == '[' ? ".N" : "", value);
    append_condition(help->text, member, where);
    g_string_append_c(help->text, '\n');
    append_doc(help->text, member_string(member, "doc") ?: "");
}

/* The members of @type itself but for @except (or NULL), which count @where (NULL: always). */
static void append_own_members(Help *help, const QValue *type, const char *except,
                               const char *prefix, const char *where, unsigned depth)
{
    const QValue *members = qvalue_object_get(type, "members");

    for (gsize i = 0; members && i < qvalue_array_length(members); i++) {
        const QValue *member = qvalue_array_get(members, i);

        if (g_strcmp0(member_string(member, "name"), except) != 0) {
            append_member(help, member, prefix, where, depth);
        }
    }
}

/* The same, and those of all its branches, each with the kind that it belongs to. */
static void append_members(Help *help, const QValue *type, const char *prefix, const char *where,
                           unsigned depth)
{
    const QValue *variants = qvalue_object_get(type, "variants");

    append_own_members(help, type, NULL, prefix, where, depth);
    for (gsize i = 0; variants && i < qvalue_array_length(variants); i++) {
        const QValue *variant = qvalue_array_get(variants, i);
        g_autofree char *kind = g_strdup_printf("%s%s=%s", prefix, member_string(type, "tag"),
                                                member_string(variant, "case"));

        append_members(help, find_type(help, member_string(variant, "type")), prefix, kind, depth);
    }
}

/* The branch of the union @type for @kind, or NULL. */
static const QValue *find_variant(const Help *help, const QValue *type, const char *kind)
{
    const QValue *variants = qvalue_object_get(type, "variants");

    for (gsize i = 0; variants && i < qvalue_array_length(variants); i++) {
        const QValue *variant = qvalue_array_get(variants, i);

        if (g_str_equal(member_string(variant, "case"), kind)) {
            return find_type(help, member_string(variant, "type"));
        }
    }
    return NULL;
}

static void append_kinds(Help *help, const HelpTopic *topic, const QValue *type)
{
    const QValue *variants = qvalue_object_get(type, "variants");

    g_string_append_printf(help->text, "%s for --%s ('NAME,help' tells the options of one):\n",
                           topic->what, topic->option);
    help->text->str[0] = g_ascii_toupper(help->text->str[0]);
    for (gsize i = 0; i < qvalue_array_length(variants); i++) {
        const char *kind = member_string(qvalue_array_get(variants, i), "case");
        bool built = !topic->is_built || topic->is_built(kind);

        g_string_append_printf(help->text, "  %s%s\n", kind, built ? "" : " (not in this build)");
    }
}

/* Write the answer. Returns false with @error where @kind is none of the topic's. */
static bool append_topic(Help *help, const HelpTopic *topic, const char *kind, GError **error)
{
    const QValue *type = find_type(help, topic->type);
    const QValue *variant = kind ? find_variant(help, type, kind) : NULL;
    const char *tag = member_string(type, "tag");

    if (kind && !variant) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "there is no '%s'; '--%s help' lists those there are", kind, topic->option);
        return false;
    }
    if (topic->what && !kind) {
        append_kinds(help, topic, type);
        return true;
    }
    g_string_append_printf(help->text, "Options of --%s%s%s:\n", topic->option, kind ? " " : "",
                           kind ?: "");
    if (!kind) {
        append_members(help, type, "", NULL, 0);
        return true;
    }
    g_string_append_printf(help->text, "  %s=%s\n", tag, kind);
    append_own_members(help, type, tag, "", NULL, 0);
    append_members(help, variant, "", NULL, 0);
    return true;
}

/* Whether @value is "help" or "KIND,help"; the kind, if any, goes to *ret_kind. */
static bool asks_for_help(const char *value, char **ret_kind)
{
    g_auto(GStrv) parts = g_strsplit(value, ",", -1);
    guint n = g_strv_length(parts);

    if (n == 0 || (!g_str_equal(parts[n - 1], "help") && !g_str_equal(parts[n - 1], "?"))) {
        return false;
    }
    /* A doubled comma is part of a value, and so is what follows it. */
    if (n > 2 && !*parts[n - 2]) {
        return false;
    }
    if (n > 1) {
        const char *equals = strchr(parts[0], '=');

        *ret_kind = g_strdup(equals ? equals + 1 : parts[0]);
    }
    return true;
}

char *help_for_value(const char *option, const char *value, GError **error)
{
    g_autoptr(QValue) entries = NULL;
    g_autofree char *kind = NULL;
    Help help;

    if (!asks_for_help(value, &kind)) {
        return NULL;
    }
    if (g_str_equal(option, "trace")) {
        return g_strdup("There are no trace events; any pattern sets the log level to debug.\n");
    }
    for (gsize i = 0; i < G_N_ELEMENTS(topics); i++) {
        const HelpTopic *topic = &topics[i];

        if (g_str_equal(topic->option, option)) {
            entries = qapi_introspect(true);
            help = (Help){.entries = entries, .text = g_string_new(NULL)};
            return g_string_free(help.text,
                                 !append_topic(&help, topic, topic->what ? kind : NULL, error));
        }
    }
    return NULL;
}
