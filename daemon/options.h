/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daemon/options.h - wharfd's command line, which is qemu-storage-daemon's and a little more.
 *
 * It is read in steps, so that the form of everything is known before anything happens: split it
 * (names, abbreviations, arguments), answer --help and --version, answer 'help' in place of a
 * value, then turn each value into typed options. Nothing here touches the system.
 *
 * Threads   The main thread, before anything else runs.
 * Errors    As they go to the user: "--OPTION VALUE: gist".
 */
#ifndef WHARF_DAEMON_OPTIONS_H
#define WHARF_DAEMON_OPTIONS_H

#include <glib.h>
#include <stdbool.h>

#include "daemon/log.h"
#include "monitor/chardev.h"
#include "qapi/types-block-core.h"
#include "qapi/types-block-export.h"
#include "qapi/types-control.h"
#include "qapi/types-nbd.h"
#include "qapi/types-object.h"

/* What the daemon is to set up at its start, in the order of doing where nothing else matters. */
typedef enum StartKind {
    START_OBJECT,
    START_CHARDEV,
    START_NBD_SERVER,
    START_BLOCKDEV,
    START_EXPORT,
    START_MONITOR,
} StartKind;

/* One --object, --chardev, --blockdev, ... */
typedef struct StartItem {
    StartKind kind;
    char *option;  /* as it is spelt in full, "--blockdev" */
    char *text;    /* its value, as given */
    QValue *value; /* the same, parsed */
    union {        /* the same, typed */
        ObjectOptions *object;
        ChardevConfig *chardev;
        BlockdevOptions *blockdev;
        BlockExportOptions *export;
        MonitorOptions *monitor;
        NbdServerOptions *nbd_server;
    } u;
} StartItem;

typedef struct DaemonOptions {
    GPtrArray *items; /* StartItem, in the order given */
    bool daemonize;
    bool exit_when_idle; /* end when the last export has gone */
    char *pidfile;       /* absolute; NULL: none */
    LogOptions log;
    const char *aio; /* event loop to use, as $WHARF_AIO has it; NULL: not given */
} DaemonOptions;

void daemon_options_free(DaemonOptions *options);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DaemonOptions, daemon_options_free)

/*
 * Read the command line. Where it only asks a question (--help, --version, 'help' for a value),
 * *ret_answer becomes what to print, and NULL is returned without an error. Relative paths of files
 * that are made here count from the working directory of this moment.
 */
DaemonOptions *daemon_options_parse(int argc, char **argv, char **ret_answer, GError **error);

#endif
