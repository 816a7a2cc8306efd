/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/options.h - options on wharfctl's command line, described as data.
 *
 * One table serves parsing, help and completion. Values land in a struct of the caller's, at the
 * offset that the table says: a bool for a flag, a const char * (borrowed from the command line)
 * for an option with a value.
 */
#ifndef WHARF_CTL_OPTIONS_H
#define WHARF_CTL_OPTIONS_H

#include <glib.h>
#include <stdbool.h>

typedef struct CtlOption {
    const char *name;    /* without the dashes; NULL ends a table */
    char letter;         /* short form, or 0 */
    const char *value;   /* what help calls the value; NULL for a flag */
    const char *choices; /* the values allowed, separated by '|'; NULL for any */
    size_t offset;
    const char *help;
} CtlOption;

/* A table and the struct it fills. */
typedef struct CtlOptionSet {
    const CtlOption *options; /* may be NULL */
    void *into;
} CtlOptionSet;

/*
 * Take options out of @args (NULL-terminated), trying the @n_sets tables in turn, and return the
 * words between them; the array is the caller's (g_free), the strings are not. With @stop_at_word
 * everything from the first word on is left as it is. "--" ends the options. Returns NULL with
 * CTL_ERROR_USAGE, naming the option and, where there is one, its nearest neighbour.
 */
char **ctl_options_parse(const CtlOptionSet *sets, unsigned n_sets, char **args, bool stop_at_word,
                         GError **error);

/* Append one line for each option to @out, as help shows them. */
void ctl_options_describe(const CtlOption *options, GString *out);

#endif
