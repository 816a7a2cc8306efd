/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/server.h"
#include "util/error.h"
#include "util/stdio.h"

#define PROGRAM "wharfd"

/* How many descriptors the main thread takes before it can fail in a better way than by abort(). */
#define DESCRIPTORS_MIN 8

/* Print what the command line asked. */
static int print_answer(const char *answer)
{
    return fputs(answer, stdout) >= 0 && fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int fail_early(GError *error)
{
    fprintf(stderr, PROGRAM ": %s\n", error->message);
    g_error_free(error);
    return EXIT_FAILURE;
}

static int fail(Log *log, GError *error)
{
    log_start_failed(log, error->message);
    g_error_free(error);
    return EXIT_FAILURE;
}

static bool uses_stdio(const DaemonOptions *options)
{
    for (guint i = 0; i < options->items->len; i++) {
        const StartItem *item = options->items->pdata[i];

        if (item->kind == START_CHARDEV && item->u.chardev->kind == CHARDEV_BACKEND_KIND_STDIO) {
            return true;
        }
    }
    return false;
}

/* Many exports need many descriptors, and what a shell allows by default is few. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static bool check_descriptors(GError **error)
{
    int fds[DESCRIPTORS_MIN];
    int n = 0, err;

    while (n < DESCRIPTORS_MIN && (fds[n] = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)) >= 0) {
        n++;
    }
    err = errno;
    for (int i = 0; i < n; i++) {
        close(fds[i]);
    }
    if (n < DESCRIPTORS_MIN) {
        wharf_set_error_errno(error, err, "cannot start with so few descriptors (ulimit -n)");
        return false;
    }
    return true;
}

static int run(const DaemonOptions *options, Log *log)
{
    g_autoptr(Server) server = NULL;
    Background *background = NULL;
    GError *error = NULL;

    if (options->aio) {
        /* Iothreads, those of later commands too, follow it as the main thread does. */
        g_setenv("WHARF_AIO", options->aio, TRUE);
    }
    if (options->daemonize) {
        if (uses_stdio(options)) {
            log_start_failed(log, "--daemonize takes stdin and stdout away, which a chardev uses");
            return EXIT_FAILURE;
        }
        background = background_begin(&error);
        if (!background) {
            return fail(log, error);
        }
    }
    server = server_new(options, log, &error);
    if (!server) {
        return fail(log, error);
    }
    return server_run(server, background);
}

int main(int argc, char **argv)
{
    g_autofree char *answer = NULL;
    g_autoptr(DaemonOptions) options = NULL;
    GError *error = NULL;
    Log *log;

    stdio_fill_gaps();
    options = daemon_options_parse(argc, argv, &answer, &error);
    if (answer) {
        return print_answer(answer);
    }
    if (!options) {
        return fail_early(error);
    }
    log = log_open(PROGRAM, &options->log, &error);
    if (!log) {
        return fail_early(error);
    }
    raise_descriptor_limit();
    if (!check_descriptors(&error)) {
        return fail(log, error);
    }
    return run(options, log);
}
