/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/json.h"
#include "ctl/launch.h"

#define EVENT "JOB_STATUS_CHANGE"

/* How often it is asked how far a job has come. */
#define PROGRESS_US (300 * 1000)

struct CtlPrivate {
    CtlChild child;
    CtlClient *client;
};

/* Start it with @fd as its monitor. */
static bool start_child(CtlPrivate *daemon, int fd, GError **error)
{
    g_autofree char *program = ctl_launch_find(error);
    const char *const argv[] = {
        program, "--chardev", "stdio,id=ctl", "--monitor", "chardev=ctl,mode=jsonrpc", NULL};

    return program && ctl_child_start(&daemon->child, argv, fd, true, error);
}

/* It does not answer any more. Why, if it says or we know: replaces *@error. */
static void explain(CtlPrivate *daemon, GError **error)
{
    g_autofree char *messages = NULL;
    int signo;

    ctl_child_end(&daemon->child, CTL_CHILD_PATIENCE);
    messages = g_strstrip(ctl_child_messages(&daemon->child));
    signo = ctl_child_signal();
    if (signo) {
        g_clear_error(error);
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "told to end (%s)", g_strsignal(signo));
    } else if (*messages) {
        g_clear_error(error);
        g_set_error_literal(error, CTL_ERROR, CTL_ERROR_FAILED, messages);
    }
}

CtlPrivate *ctl_private_start(const Ctl *ctl, GError **error)
{
    g_autoptr(CtlPrivate) daemon = g_new0(CtlPrivate, 1);
    int fds[2];
    bool started;

    if (ctl->socket) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE,
                    "this is done by a daemon of its own; --socket has no use here");
        return NULL;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot make a socket: %s",
                    g_strerror(errno));
        return NULL;
    }
    started = start_child(daemon, fds[1], error);
    close(fds[1]);
    if (!started) {
        close(fds[0]);
        return NULL;
    }
    daemon->client = ctl_client_adopt(fds[0], daemon->child.program, error);
    if (!daemon->client) {
        explain(daemon, error);
        return NULL;
    }
    return g_steal_pointer(&daemon);
}

CtlClient *ctl_private_client(CtlPrivate *daemon)
{
    return daemon->client;
}

QValue *ctl_private_call(CtlPrivate *daemon, const char *command, QValue *take_args, GError **error)
{
    g_autoptr(GError) local = NULL;
    QValue *result = ctl_client_call(daemon->client, command, take_args, &local);

    if (g_error_matches(local, CTL_ERROR, CTL_ERROR_UNREACHABLE)) {
        explain(daemon, &local);
    }
    if (local) {
        g_propagate_error(error, g_steal_pointer(&local));
    }
    return result;
}

bool ctl_private_end(CtlPrivate *daemon, GError **error)
{
    g_autoptr(QValue) told = ctl_private_call(daemon, "quit", NULL, error);
    g_autofree char *messages = NULL;
    int status;

    if (!told) {
        return false;
    }
    status = ctl_child_wait(&daemon->child, error);
    messages = ctl_child_messages(&daemon->child);
    if (status == 0) {
        fputs(messages, stderr);
        ctl_child_clear(&daemon->child);
        return true;
    }
    if (status != -1) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "the daemon '%s' did not end well%s%s",
                    daemon->child.program, *messages ? ": " : "", g_strstrip(messages));
    }
    return false;
}

void ctl_private_free(CtlPrivate *daemon)
{
    if (!daemon) {
        return;
    }
    ctl_client_free(daemon->client);
    ctl_child_clear(&daemon->child);
    g_free(daemon);
}

/* ---- Jobs ---- */

static bool is_end_of(const QValue *event, const char *id)
{
    const QValue *data = ctl_json_object(event, "data");

    return g_strcmp0(ctl_json_string(event, "event"), EVENT) == 0 &&
           g_strcmp0(ctl_json_string(data, "id"), id) == 0 &&
           g_strcmp0(ctl_json_string(data, "status"), "concluded") == 0;
}

/* What query-jobs tells of the job; NULL with an error. */
static QValue *query_job(CtlPrivate *daemon, const char *id, GError **error)
{
    g_autoptr(QValue) jobs = ctl_private_call(daemon, "query-jobs", NULL, error);

    for (gsize i = 0; jobs && i < qvalue_array_length(jobs); i++) {
        const QValue *job = qvalue_array_get(jobs, i);

        if (g_strcmp0(ctl_json_string(job, "id"), id) == 0) {
            return qvalue_ref((QValue *)job);
        }
    }
    if (jobs) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "the daemon has lost the job '%s'", id);
    }
    return NULL;
}

/* Show how far it has come, if that is wanted. */
static bool show_progress(CtlPrivate *daemon, const char *id, CtlPrivateProgress *show,
                          GError **error)
{
    g_autoptr(QValue) job = query_job(daemon, id, error);

    if (job) {
        show(ctl_json_uint(job, "current-progress", 0), ctl_json_uint(job, "total-progress", 0));
    }
    return job != NULL;
}

static bool wait_for_end(CtlPrivate *daemon, const char *id, CtlPrivateProgress *show,
                         GError **error)
{
    g_autoptr(GError) local = NULL;
    bool ended = false;

    while (!ended) {
        gint64 deadline = show ? g_get_monotonic_time() + PROGRESS_US : -1;
        g_autoptr(QValue) event = ctl_client_next_event(daemon->client, deadline, -1, &local);

        if (!event && !local) {
            if (!show_progress(daemon, id, show, error)) {
                return false;
            }
            continue;
        }
        if (!event) {
            explain(daemon, &local);
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
        ended = is_end_of(event, id);
    }
    return true;
}

/* The job as query-jobs tells it, if it has succeeded. */
static QValue *judge(CtlPrivate *daemon, const char *id, GError **error)
{
    g_autoptr(QValue) job = query_job(daemon, id, error);
    const char *failure = ctl_json_string(job, "error");

    if (failure) {
        g_set_error_literal(error, CTL_ERROR, CTL_ERROR_FAILED, failure);
        return NULL;
    }
    return g_steal_pointer(&job);
}

QValue *ctl_private_run_job(CtlPrivate *daemon, const char *command, QValue *take_args,
                            const char *id, CtlPrivateProgress *show, GError **error)
{
    static const char *const events[] = {EVENT, NULL};
    g_auto(CtlSubscription) subscription = {0};
    g_autoptr(QValue) args = take_args;
    g_autoptr(QValue) begun = NULL;
    g_autoptr(QValue) job = NULL;
    g_autoptr(QValue) dismissed = NULL;

    if (!ctl_client_subscribe(daemon->client, events, &subscription, error)) {
        return NULL;
    }
    begun = ctl_private_call(daemon, command, g_steal_pointer(&args), error);
    job = begun && wait_for_end(daemon, id, show, error) ? judge(daemon, id, error) : NULL;
    if (!job) {
        return NULL;
    }
    dismissed = ctl_private_call(daemon, "job-dismiss", ctl_json_strings("id", id, NULL), error);
    return dismissed ? g_steal_pointer(&job) : NULL;
}
