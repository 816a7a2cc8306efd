/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daemon/server.h - the daemon as one object: it owns the main context, nodes, objects, exports,
 * monitors and the command table, sets them up from the command line, and takes them down in order.
 *
 * Threads   The main thread.
 */
#ifndef WHARF_DAEMON_SERVER_H
#define WHARF_DAEMON_SERVER_H

#include "daemon/log.h"
#include "daemon/options.h"
#include "daemon/process.h"

typedef struct Server Server;

/*
 * A server that does nothing yet. @options and @log are borrowed. Must come after the process has
 * gone to the background, as it starts threads.
 */
Server *server_new(const DaemonOptions *options, Log *log, GError **error);
void server_free(Server *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Server, server_free)

/*
 * Set up everything, serve until told to end, take down everything. A start that fails is reported
 * in the log and undone. @background (may be NULL) learns of the success. Returns the exit code.
 */
int server_run(Server *server, Background *background);

/* Tell it to end; at any time, also during the start. Idempotent. */
void server_request_stop(Server *server);

#endif
