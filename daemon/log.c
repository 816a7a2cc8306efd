/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "qapi/qvalue.h"
#include "util/error.h"

struct Log {
    char *program;
    LogLevel level;
    bool json;
    int fd;
    gint dropped; /* atomic: messages that nobody read in time */
};

static const char *const level_names[] = {
    [LOG_LEVEL_ERROR] = "error", [LOG_LEVEL_WARNING] = "warning", [LOG_LEVEL_NOTICE] = "notice",
    [LOG_LEVEL_INFO] = "info",   [LOG_LEVEL_DEBUG] = "debug",
};

bool log_level_from_string(const char *text, LogLevel *ret)
{
    for (gsize i = 0; i < G_N_ELEMENTS(level_names); i++) {
        if (g_str_equal(level_names[i], text)) {
            *ret = i;
            return true;
        }
    }
    return false;
}

/* ---- one line ---- */

static char *format_json(LogLevel level, const char *domain, const char *message, gint64 time_us)
{
    g_autoptr(GDateTime) seconds = g_date_time_new_from_unix_utc(time_us / G_USEC_PER_SEC);
    g_autofree char *date = g_date_time_format(seconds, "%Y-%m-%dT%H:%M:%S");
    g_autofree char *time = g_strdup_printf("%s.%06dZ", date, (int)(time_us % G_USEC_PER_SEC));
    g_autoptr(QValue) line = qvalue_object();
    GString *text = g_string_new(NULL);

    qvalue_object_set(line, "time", qvalue_string(time));
    qvalue_object_set(line, "level", qvalue_string(level_names[level]));
    if (domain) {
        qvalue_object_set(line, "domain", qvalue_string(domain));
    }
    qvalue_object_set(line, "message", qvalue_string(message));
    qvalue_to_json(line, text, 0);
    g_string_append_c(text, '\n');
    return g_string_free(text, FALSE);
}

/* Control characters, which a message may have from a file name, must not reach a terminal. */
static char *format_text(const char *program, LogLevel level, const char *message)
{
    GString *text = g_string_new(program);

    g_string_append(text, ": ");
    if (level != LOG_LEVEL_ERROR && level != LOG_LEVEL_NOTICE) {
        g_string_append_printf(text, "%s: ", level_names[level]);
    }
    for (const char *p = message; *p; p++) {
        if (g_ascii_iscntrl(*p) && *p != '\t') {
            g_string_append_printf(text, "\\x%02x", (unsigned char)*p);
        } else {
            g_string_append_c(text, *p);
        }
    }
    g_string_append_c(text, '\n');
    return g_string_free(text, FALSE);
}

char *log_format(const char *program, bool json, LogLevel level, const char *domain,
                 const char *message, gint64 time_us)
{
    return json ? format_json(level, domain, message, time_us)
                : format_text(program, level, message);
}

/* ---- writing ---- */

/* Write it whole or not at all, as far as that can be had without waiting. */
static bool write_line(int fd, const char *line)
{
    struct pollfd pfd = {.fd = fd, .events = POLLOUT};
    ssize_t n;

    if (poll(&pfd, 1, 0) != 1 || !(pfd.revents & POLLOUT)) {
        return false;
    }
    do {
        n = write(fd, line, strlen(line));
    } while (n < 0 && errno == EINTR);
    return n >= 0;
}

static void log_line(Log *log, LogLevel level, const char *domain, const char *message)
{
    g_autofree char *line =
        log_format(log->program, log->json, level, domain, message, g_get_real_time());
    int dropped = g_atomic_int_get(&log->dropped);

    if (dropped > 0) {
        g_autofree char *note = g_strdup_printf("%d messages were dropped: nobody read", dropped);
        g_autofree char *first =
            log_format(log->program, log->json, LOG_LEVEL_WARNING, NULL, note, g_get_real_time());

        if (write_line(log->fd, first)) {
            g_atomic_int_add(&log->dropped, -dropped);
        }
    }
    if (!write_line(log->fd, line)) {
        g_atomic_int_inc(&log->dropped);
    }
}

void log_error(Log *log, const char *message)
{
    log_line(log, LOG_LEVEL_ERROR, NULL, message);
}

void log_start_failed(Log *log, const char *message)
{
    log_error(log, message);
    if (log->fd != STDERR_FILENO) {
        g_autofree char *line = format_text(log->program, LOG_LEVEL_ERROR, message);

        write_line(STDERR_FILENO, line);
    }
}

static LogLevel level_from_glib(GLogLevelFlags flags)
{
    if (flags & (G_LOG_LEVEL_ERROR | G_LOG_LEVEL_CRITICAL)) {
        return LOG_LEVEL_ERROR;
    }
    if (flags & G_LOG_LEVEL_WARNING) {
        return LOG_LEVEL_WARNING;
    }
    if (flags & G_LOG_LEVEL_MESSAGE) {
        return LOG_LEVEL_NOTICE;
    }
    return flags & G_LOG_LEVEL_INFO ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG;
}

/* The text of a field, which need not end in NUL. */
static char *field_text(const GLogField *fields, gsize n, const char *key)
{
    for (gsize i = 0; i < n; i++) {
        if (g_str_equal(fields[i].key, key)) {
            return fields[i].length < 0 ? g_strdup(fields[i].value)
                                        : g_strndup(fields[i].value, fields[i].length);
        }
    }
    return NULL;
}

static GLogWriterOutput log_writer(GLogLevelFlags flags, const GLogField *fields, gsize n,
                                   gpointer opaque)
{
    Log *log = opaque;
    LogLevel level = level_from_glib(flags);
    g_autofree char *message = NULL;
    g_autofree char *domain = NULL;

    if (level <= log->level) {
        message = field_text(fields, n, "MESSAGE");
        domain = field_text(fields, n, "GLIB_DOMAIN");
        log_line(log, level, domain, message ?: "");
    }
    return G_LOG_WRITER_HANDLED;
}

/* ---- life ---- */

Log *log_open(const char *program, const LogOptions *options, GError **error)
{
    Log *log;
    int fd = STDERR_FILENO;

    if (options->file) {
        fd = open(options->file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK,
                  0640);
        if (fd < 0) {
            wharf_set_error_errno(error, errno, "--log: cannot open '%s'", options->file);
            return NULL;
        }
    }
    log = g_new0(Log, 1);
    log->program = g_strdup(program);
    log->level = options->level;
    log->json = options->json;
    log->fd = fd;
    g_log_set_writer_func(log_writer, log, NULL);
    return log;
}
