/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/options.h"

#include <string.h>

#include "ctl/ctl.h"
#include "ctl/text.h"

/* Where help begins what an option does. */
#define HELP_COLUMN 26

/* An option found in one of the tables, and the struct it belongs to. */
typedef struct Match {
    const CtlOption *option;
    void *into;
} Match;

static bool match_name(const CtlOptionSet *sets, unsigned n_sets, const char *name, gsize length,
                       Match *match)
{
    for (unsigned i = 0; i < n_sets; i++) {
        for (const CtlOption *o = sets[i].options; o && o->name; o++) {
            if (strlen(o->name) == length && strncmp(o->name, name, length) == 0) {
                *match = (Match){o, sets[i].into};
                return true;
            }
        }
    }
    return false;
}

static bool match_letter(const CtlOptionSet *sets, unsigned n_sets, char letter, Match *match)
{
    for (unsigned i = 0; i < n_sets; i++) {
        for (const CtlOption *o = sets[i].options; o && o->name; o++) {
            if (o->letter == letter) {
                *match = (Match){o, sets[i].into};
                return true;
            }
        }
    }
    return false;
}

static void refuse_unknown(const CtlOptionSet *sets, unsigned n_sets, const char *arg,
                           GError **error)
{
    g_autoptr(GPtrArray) known = g_ptr_array_new();
    g_autofree char *name = g_strndup(arg + 2, strcspn(arg + 2, "="));
    const char *near;

    for (unsigned i = 0; i < n_sets; i++) {
        for (const CtlOption *o = sets[i].options; o && o->name; o++) {
            g_ptr_array_add(known, (gpointer)o->name);
        }
    }
    near = ctl_text_nearest(name, (const char *const *)known->pdata, known->len);
    if (near) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE, "unknown option '%s'; did you mean '--%s'?",
                    arg, near);
        return;
    }
    g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE,
                "unknown option '%s'; --help shows those there are", arg);
}

static bool set_flag(const Match *match, GError **error)
{
    *(bool *)((char *)match->into + match->option->offset) = true;
    return true;
}

static bool set_value(const Match *match, const char *value, GError **error)
{
    const CtlOption *o = match->option;
    g_auto(GStrv) choices = NULL;
    g_autofree char *list = NULL;

    if (!value) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE, "option '--%s' needs a value: --%s=%s",
                    o->name, o->name, o->value);
        return false;
    }
    if (o->choices) {
        choices = g_strsplit(o->choices, "|", -1);
        if (!g_strv_contains((const char *const *)choices, value)) {
            list = g_strjoinv(", ", choices);
            g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE,
                        "option '--%s' cannot be '%s', only one of %s", o->name, value, list);
            return false;
        }
    }
    *(const char **)((char *)match->into + o->offset) = value;
    return true;
}

/* Parse "--name" or "--name=value"; *@next is the argument after it and moves on if it is taken. */
static bool parse_long(const CtlOptionSet *sets, unsigned n_sets, const char *arg, char ***next,
                       GError **error)
{
    const char *equals = strchr(arg, '=');
    gsize length = equals ? (gsize)(equals - arg - 2) : strlen(arg + 2);
    Match match;

    if (!match_name(sets, n_sets, arg + 2, length, &match)) {
        refuse_unknown(sets, n_sets, arg, error);
        return false;
    }
    if (match.option->value) {
        return set_value(&match, equals ? equals + 1 : **next ? *(*next)++ : NULL, error);
    }
    if (equals) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE, "option '--%s' takes no value",
                    match.option->name);
        return false;
    }
    return set_flag(&match, error);
}

/* Parse "-x", "-xy" or "-xVALUE" likewise. */
static bool parse_short(const CtlOptionSet *sets, unsigned n_sets, const char *arg, char ***next,
                        GError **error)
{
    for (const char *letter = arg + 1; *letter; letter++) {
        Match match;

        if (!match_letter(sets, n_sets, *letter, &match)) {
            g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE,
                        "unknown option '-%c' in '%s'; --help shows those there are", *letter, arg);
            return false;
        }
        if (match.option->value) {
            return set_value(&match, letter[1] ? letter + 1 : **next ? *(*next)++ : NULL, error);
        }
        if (!set_flag(&match, error)) {
            return false;
        }
    }
    return true;
}

char **ctl_options_parse(const CtlOptionSet *sets, unsigned n_sets, char **args, bool stop_at_word,
                         GError **error)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new();
    char **next = args;
    bool done = false;

    while (*next) {
        char *arg = *next++;
        bool ok = true;

        if (done || arg[0] != '-' || !arg[1]) {
            g_ptr_array_add(words, arg);
            done |= stop_at_word;
        } else if (strcmp(arg, "--") == 0) {
            done = true;
        } else if (arg[1] == '-') {
            ok = parse_long(sets, n_sets, arg, &next, error);
        } else {
            ok = parse_short(sets, n_sets, arg, &next, error);
        }
        if (!ok) {
            return NULL;
        }
    }
    g_ptr_array_add(words, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&words), FALSE);
}

void ctl_options_describe(const CtlOption *options, GString *out)
{
    for (const CtlOption *o = options; o && o->name; o++) {
        g_autofree char *shown = g_strdup_printf(
            "  %c%c%s--%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
            o->letter ? ", " : "  ", o->name, o->value ? "=" : "", o->value ? o->value : "");

        g_string_append_printf(out, "%-*s %s\n", HELP_COLUMN, shown, o->help);
    }
}
