/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daemon/log.h - where messages go: to stderr or a file, as text or as JSON, one a line.
 *
 * All rooms log through GLib (g_warning(), g_message(), g_info(), g_debug()); this is what GLib
 * hands it to. Writing never waits: when nobody reads, messages are dropped and counted.
 *
 * Threads   log_error(), log_start_failed() and the functions of GLib: any thread.
 */
#ifndef WHARF_DAEMON_LOG_H
#define WHARF_DAEMON_LOG_H

#include <glib.h>
#include <stdbool.h>

typedef enum LogLevel {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    LOG_LEVEL_NOTICE, /* g_message(); the default */
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG,
} LogLevel;

typedef struct LogOptions {
    LogLevel level; /* the least urgent that is logged */
    bool json;
    char *file; /* NULL: stderr */
} LogOptions;

typedef struct Log Log;

/*
 * Begin to log. GLib takes one writer for the whole life of the process, so this is called once and
 * the Log is never freed. Returns NULL if the file cannot be opened.
 */
Log *log_open(const char *program, const LogOptions *options, GError **error);

/* Report why the program fails. */
void log_error(Log *log, const char *message);

/*
 * Report why the program does not even start: on stderr, too, if the log goes to a file, since
 * whoever has started it looks there.
 */
void log_start_failed(Log *log, const char *message);

/* "error", "warning", ... */
bool log_level_from_string(const char *text, LogLevel *ret);

/* One line, with its newline, as it is written. The caller frees it. For log.c and its test. */
char *log_format(const char *program, bool json, LogLevel level, const char *domain,
                 const char *message, gint64 time_us);

#endif
