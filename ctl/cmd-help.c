/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wharfctl help: of the short forms from their table, of the daemon's commands from its schema.
 */
#include "ctl/help.h"

#include <stdio.h>
#include <string.h>

#include "ctl/client.h"
#include "ctl/commands.h"
#include "ctl/place.h"
#include "ctl/schema.h"
#include "ctl/text.h"

/* Objects within objects are spelt out so deep. */
#define MEMBERS_DEPTH 3

#define NAME_COLUMN 12

/* Arguments of the daemon's commands, and what they mean beside them. */
#define DOC_COLUMN 30
#define WIDTH      80

char *ctl_help_general(void)
{
    GString *out = g_string_new("Usage: wharfctl [OPTION...] COMMAND [ARGUMENT...]\n"
                                "\n"
                                "Show disk images as files, and drive the storage daemon wharfd.\n"
                                "\n"
                                "Daily work:\n");

    for (const CtlCommand *const *command = ctl_commands; *command; command++) {
        g_string_append_printf(out, "  %-*s %s\n", NAME_COLUMN, (*command)->name,
                               (*command)->summary);
    }
    g_string_append(out,
                    "\n"
                    "Any command of the daemon:\n"
                    "  wharfctl COMMAND key=value...   'wharfctl help' lists them when one runs\n"
                    "\n"
                    "Options:\n");
    ctl_options_describe(ctl_global_options, out);
    g_string_append(
        out, "\n"
             "The daemon's socket is the one given, or $WHARF_SOCKET, or the first there is of\n"
             "$XDG_RUNTIME_DIR/wharf/wharfd.sock and /run/wharf/wharfd.sock.\n"
             "Exit status: 0 done, 1 refused, 2 wrong usage, 3 no daemon. See wharfctl(1).\n");
    return g_string_free(out, FALSE);
}

char *ctl_help_command(const CtlCommand *command)
{
    GString *out = g_string_new(NULL);

    g_string_append_printf(out, "Usage: wharfctl %s%s%s%s\n\n%c%s.\n", command->name,
                           command->options ? " [OPTION...]" : "", *command->synopsis ? " " : "",
                           command->synopsis, g_ascii_toupper(command->summary[0]),
                           command->summary + 1);
    if (command->details) {
        g_string_append_printf(out, "\n%s\n", command->details);
    }
    g_string_append(out, "\nOptions:\n");
    ctl_options_describe(command->options, out);
    ctl_options_describe(ctl_global_options, out);
    return g_string_free(out, FALSE);
}

/* ---- Commands of the daemon ---- */

static void describe_members(const CtlSchema *schema, const QValue *type, const char *prefix,
                             unsigned depth, GString *out);

/* Documentation refers to members as "@name". */
static char *quote_references(const char *doc)
{
    g_autoptr(GRegex) reference = g_regex_new("@([[:alpha:]][-.\\w]*\\w)", 0, 0, NULL);

    return g_regex_replace(reference, doc, -1, 0, "'\\1'", 0, NULL);
}

/* @line, and @doc beside it, or below where the line is too long for that. */
static void append_described(GString *out, const char *line, const char *doc)
{
    gsize width = ctl_text_width(line);
    g_autofree char *text = quote_references(doc);

    g_string_append(out, line);
    if (!*doc) {
        g_string_append_c(out, '\n');
        return;
    }
    if (width + 2 > DOC_COLUMN) {
        g_string_append_c(out, '\n');
        width = 0;
    }
    g_string_append_printf(out, "%*s", (int)(DOC_COLUMN - width), "");
    ctl_text_wrap(out, text, DOC_COLUMN, DOC_COLUMN, WIDTH);
}

static char *member_doc(const CtlMember *member)
{
    const QValue *value = member->default_value;
    g_autofree char *text = NULL;

    if (!value) {
        return g_strdup(member->doc ? member->doc : "");
    }
    if (qvalue_type(value) == QVALUE_BOOL) {
        text = g_strdup(qvalue_get_bool(value) ? "on" : "off");
    } else if (qvalue_type(value) == QVALUE_STRING) {
        text = g_strdup(*qvalue_get_string(value, NULL) ? qvalue_get_string(value, NULL) : "''");
    } else {
        text = qvalue_to_json_string(value);
    }
    return g_strdup_printf("%s (default: %s)", member->doc ? member->doc : "", text);
}

static void describe_member(const CtlSchema *schema, const CtlMember *member, const char *prefix,
                            unsigned depth, GString *out)
{
    g_autofree char *what = ctl_type_describe(schema, member->type);
    g_autofree char *below = NULL;
    g_autofree char *line = NULL;
    g_autofree char *doc = NULL;

    /* A union within needs a kind first; its JSON form is as good a way to say it as any. */
    if (ctl_type_kind(member->type) == CTL_TYPE_OBJECT && !ctl_type_tag(member->type) &&
        depth < MEMBERS_DEPTH) {
        below = g_strdup_printf("%s%s.", prefix, member->name);
        describe_members(schema, member->type, below, depth + 1, out);
        return;
    }
    line = g_strdup_printf("  %s%s%s=%s%s", member->optional ? "[" : "", prefix, member->name, what,
                           member->optional ? "]" : "");
    doc = member_doc(member);
    append_described(out, line, doc);
}

char *ctl_help_members(const CtlSchema *schema, const QValue *type, const char *const *hidden)
{
    g_autoptr(GArray) members = ctl_type_members(schema, type);
    GString *out = g_string_new(NULL);

    for (guint i = 0; i < members->len; i++) {
        const CtlMember *member = &g_array_index(members, CtlMember, i);

        if (!g_strv_contains(hidden, member->name)) {
            describe_member(schema, member, "", 0, out);
        }
    }
    return g_string_free(out, FALSE);
}

static void describe_members(const CtlSchema *schema, const QValue *type, const char *prefix,
                             unsigned depth, GString *out)
{
    g_autoptr(GArray) members = ctl_type_members(schema, type);

    for (guint i = 0; i < members->len; i++) {
        describe_member(schema, &g_array_index(members, CtlMember, i), prefix, depth, out);
    }
}

/* What comes on top with each value of the member that selects a branch. */
static void describe_variants(const CtlSchema *schema, const QValue *type, GString *out)
{
    g_autoptr(GArray) members = ctl_type_members(schema, type);
    const char *tag = ctl_type_tag(type);
    g_autofree const char **values = NULL;

    for (guint i = 0; tag && i < members->len; i++) {
        const CtlMember *member = &g_array_index(members, CtlMember, i);

        if (strcmp(member->name, tag) == 0) {
            values = ctl_type_values(member->type);
        }
    }
    for (const char **value = values; value && *value; value++) {
        g_autoptr(GString) more = g_string_new(NULL);

        describe_members(schema, ctl_type_variant(schema, type, *value), "", 0, more);
        if (more->len) {
            g_string_append_printf(out, "\nwith %s=%s:\n%s", tag, *value, more->str);
        }
    }
}

static char *describe_command(const CtlSchema *schema, const char *name)
{
    const QValue *arguments = ctl_schema_arguments(schema, name);
    const char *doc = ctl_schema_doc(schema, name);
    GString *out = g_string_new(NULL);
    g_autoptr(GString) members = g_string_new(NULL);
    g_autofree char *text = NULL;

    describe_members(schema, arguments, "", 0, members);
    g_string_append_printf(out, "Usage: wharfctl %s%s\n", name,
                           members->len ? " key=value..." : "");
    if (doc) {
        text = quote_references(doc);
        g_string_append_c(out, '\n');
        ctl_text_wrap(out, text, 0, 0, WIDTH);
    }
    if (members->len) {
        g_string_append_printf(out, "\n%s", members->str);
        describe_variants(schema, arguments, out);
    } else {
        g_string_append(out, "\nIt takes no arguments.\n");
    }
    return g_string_free(out, FALSE);
}

static void list_commands(const CtlSchema *schema)
{
    puts("\nCommands of this daemon ('wharfctl help COMMAND' tells what one takes):");
    for (const char *const *name = ctl_schema_commands(schema); *name; name++) {
        printf("  %s\n", *name);
    }
}

static bool help_any(const Ctl *ctl, const char *name, GError **error)
{
    g_autofree char *socket = ctl_place_socket(ctl->socket);
    g_autoptr(CtlClient) client = ctl_client_connect(socket, error);
    g_autoptr(CtlSchema) schema = client ? ctl_schema_fetch_documented(client, error) : NULL;
    g_autofree char *text = NULL;

    if (!schema) {
        g_prefix_error(error,
                       "'%s' is none of the short forms, and commands are the daemon's: ", name);
        return false;
    }
    if (!g_strv_contains(ctl_schema_commands(schema), name)) {
        ctl_help_unknown(schema, name, error);
        return false;
    }
    text = describe_command(schema, name);
    fputs(text, stdout);
    return true;
}

/* General help, with the daemon's commands if there is a daemon. */
static void help_general(const Ctl *ctl)
{
    g_autofree char *socket = ctl_place_socket(ctl->socket);
    g_autoptr(CtlClient) client = ctl_client_connect(socket, NULL);
    g_autoptr(CtlSchema) schema = client ? ctl_schema_fetch(client, NULL) : NULL;
    g_autofree char *text = ctl_help_general();

    fputs(text, stdout);
    if (schema) {
        list_commands(schema);
    }
}

void ctl_help_unknown(const CtlSchema *schema, const char *name, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    const char *meant;

    for (const CtlCommand *const *command = ctl_commands; *command; command++) {
        g_ptr_array_add(names, (gpointer)(*command)->name);
    }
    for (const char *const *known = schema ? ctl_schema_commands(schema) : NULL; known && *known;
         known++) {
        g_ptr_array_add(names, (gpointer)*known);
    }
    meant = ctl_text_nearest(name, (const char *const *)names->pdata, names->len);
    if (meant) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE, "unknown command '%s'; did you mean '%s'?",
                    name, meant);
    } else {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE,
                    "unknown command '%s'; 'wharfctl help' lists those there are", name);
    }
}

static bool run(const Ctl *ctl, const void *opts, char **words, GError **error)
{
    const CtlCommand *command = words[0] ? ctl_command_find(words[0]) : NULL;
    g_autofree char *text = NULL;

    if (!words[0]) {
        help_general(ctl);
        return true;
    }
    if (!command) {
        return help_any(ctl, words[0], error);
    }
    text = ctl_help_command(command);
    fputs(text, stdout);
    return true;
}

const CtlCommand ctl_command_help = {
    .name = "help",
    .synopsis = "[COMMAND]",
    .summary = "tell what there is, or about one command",
    .details =
        "Of the daemon's commands it tells what the daemon at hand tells: every argument with\n"
        "its type, those in brackets may be left out.",
    .words = CTL_WORDS_COMMANDS,
    .max_words = 1,
    .run = run,
};
