/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/ctl.h - wharfctl, the client for people.
 *
 * Knows the daemon by its socket and its schema alone: what commands there are, what they take and
 * what completion offers comes over the wire from the daemon at hand. A short form ("mount", "ls")
 * is a CtlCommand in a cmd-*.c file of its own and a line in commands.c.
 *
 * Threads   One.
 * Errors    CTL_ERROR; the code is the exit status. Whoever fails says what the user typed and what
 *           to do about it; main() prints that, once.
 */
#ifndef WHARF_CTL_CTL_H
#define WHARF_CTL_CTL_H

#include <glib.h>
#include <stdbool.h>

#include "ctl/options.h"

#define CTL_ERROR (ctl_error_quark())
GQuark ctl_error_quark(void);

/* Codes of CTL_ERROR. They are exit statuses, too, and documented in wharfctl(1). */
typedef enum {
    CTL_ERROR_FAILED = 1,      /* the daemon or the system refused */
    CTL_ERROR_USAGE = 2,       /* the command line is wrong */
    CTL_ERROR_UNREACHABLE = 3, /* no daemon to talk to, or the connection was lost */
} CtlError;

/* What the global options say. Strings are borrowed from the command line. */
typedef struct Ctl {
    const char *socket; /* NULL: found by itself */
    bool json;
    bool help;
    bool version;
} Ctl;

extern const CtlOption ctl_global_options[];

/* What the words after a short form's name are, for completion. */
typedef enum {
    CTL_WORDS_NONE,
    CTL_WORDS_FILES,
    CTL_WORDS_EXPORTS, /* ids of exports */
    CTL_WORDS_COMMANDS,
    CTL_WORDS_EVENTS,
} CtlWords;

typedef struct CtlCommand {
    const char *name;
    const char *synopsis; /* the words after the name, as help shows them */
    const char *summary;  /* one line without a full stop */
    const char *details;  /* for --help, lines of at most 80 columns; may be NULL */
    CtlWords words;
    unsigned min_words, max_words;
    const CtlOption *options; /* NULL for none */
    size_t options_size;      /* of the struct that they fill */

    /* Run it. @options is that struct, zeroed but for what was given; @words ends with NULL. */
    bool (*run)(const Ctl *ctl, const void *options, char **words, GError **error);
} CtlCommand;

/* All short forms in the order in which help shows them, ended by NULL. */
extern const CtlCommand *const ctl_commands[];

const CtlCommand *ctl_command_find(const char *name);

/*
 * Do @one for each of @words. Where that fails the others are done all the same, unless the daemon
 * cannot be reached; @error is that of the first that failed, and tells of each.
 */
bool ctl_do_each(char **words, bool (*one)(const char *word, void *opaque, GError **error),
                 void *opaque, GError **error);

/*
 * Run the daemon's command @words[0] with the arguments in the words after it, and show what comes
 * back. Reports an unknown command with the nearest that there are, short forms included.
 */
bool ctl_run_any(const Ctl *ctl, char **words, GError **error);

#endif
