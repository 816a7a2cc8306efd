/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/client.h - a connection to a daemon.
 *
 * Speaks JSON-RPC 2.0, or QMP where the peer greets with it: wharfd's QMP monitors and
 * qemu-storage-daemon itself.
 *
 * Threads   One. Calls block; waiting for an answer has no limit, since a command may take long.
 * Errors    CTL_ERROR_UNREACHABLE when there is no daemon or no longer one, CTL_ERROR_FAILED with
 *           the daemon's own words when it refused.
 */
#ifndef WHARF_CTL_CLIENT_H
#define WHARF_CTL_CLIENT_H

#include <glib.h>
#include <stdbool.h>

#include "qapi/qvalue.h"

typedef struct CtlClient CtlClient;

/* Connect to the Unix socket @path and find out what is spoken there. */
CtlClient *ctl_client_connect(const char *path, GError **error);

/* The same for one of many, that others are not to wait for long should it hang. */
CtlClient *ctl_client_connect_any(const char *path, GError **error);

/*
 * The same over @fd, a connected socket, which becomes the client's in any case. @name stands for
 * it in messages.
 */
CtlClient *ctl_client_adopt(int fd, const char *name, GError **error);

void ctl_client_free(CtlClient *client);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CtlClient, ctl_client_free)

/* Whether @path is a socket that nobody listens on any longer. */
bool ctl_client_is_dead(const char *path);

const char *ctl_client_path(const CtlClient *client);

/* The answer to query-version; borrowed. */
const QValue *ctl_client_version(const CtlClient *client);

/* Run @command with @take_args (an object; NULL for none; becomes the client's). Returns the
 * result. */
QValue *ctl_client_call(CtlClient *client, const char *command, QValue *take_args, GError **error);

/* The same for a command of which nothing but success is of interest. */
bool ctl_client_run(CtlClient *client, const char *command, QValue *take_args, GError **error);

/* Whether the call that just failed did so because the daemon has no such command. */
bool ctl_client_says_no_command(const CtlClient *client);

/* Whether it did so because a name was taken. Over QMP, which has no code for that, never. */
bool ctl_client_says_exists(const CtlClient *client);

/* What the daemon said when it began to send events here. */
typedef struct CtlSubscription {
    char *instance; /* NULL if this daemon does not number its events; g_free */
    guint64 next;   /* number of the event after the last seen */
    guint64 lost;   /* events that are gone for ever */
} CtlSubscription;

void ctl_subscription_clear(CtlSubscription *subscription);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CtlSubscription, ctl_subscription_clear)

/*
 * Have the events called @names (NULL or empty: all) sent. If @subscription has an instance, from
 * its next one on, otherwise from now on; it is updated. Fine with a daemon that sends them
 * unasked.
 */
bool ctl_client_subscribe(CtlClient *client, const char *const *names,
                          CtlSubscription *subscription, GError **error);

/*
 * The next event: {"event", "timestamp", "data"?, "seq"?}. Waits for it until @deadline (of
 * g_get_monotonic_time(); -1 for ever); NULL without an error means that it has passed, or that
 * nobody reads @watch_fd (a pipe's writing end; -1 for none) any longer.
 */
QValue *ctl_client_next_event(CtlClient *client, gint64 deadline, int watch_fd, GError **error);

#endif
