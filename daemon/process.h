/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daemon/process.h - what the system sees of the daemon: a process in the background, a pidfile,
 * signals, messages to a service manager.
 *
 * Threads   The main thread.
 */
#ifndef WHARF_DAEMON_PROCESS_H
#define WHARF_DAEMON_PROCESS_H

#include <glib.h>
#include <stdbool.h>

#include "aio/aio.h"

/* ---- background ---- */

/* What the one who called for a background process is still waiting on. */
typedef struct Background Background;

/*
 * Go on in a background process: a session of its own, umask 027. Must come before the first
 * thread. Only the child returns; the parent waits for background_ready() or the child's end, and
 * exits with 0 or 1, or by the signal that told it to end. Returns NULL if there can be no child.
 */
Background *background_begin(GError **error);

/*
 * Call @on_gone(@opaque) once in the context's thread if the parent is told to end, or killed,
 * before background_ready(): nobody waits for the start then. NULL for @background is fine.
 */
void background_watch(Background *background, AioContext *ctx, void (*on_gone)(void *opaque),
                      void *opaque);

/*
 * The start has succeeded: go to "/", put /dev/null in the place of stdin, stdout and stderr, and
 * let the parent exit. Returns false if nobody waits for it any more. Frees @background; NULL is
 * fine.
 */
bool background_ready(Background *background);

/* The start has failed: the parent exits with 1 as soon as this process has ended. NULL is fine. */
void background_free(Background *background);

/* ---- pidfile ---- */

typedef struct Pidfile Pidfile;

/*
 * Write our process id to @path, an absolute one, and hold a lock on the file. Fails if another
 * process holds it, or if what is there is no pidfile.
 */
Pidfile *pidfile_create(const char *path, GError **error);

/* Remove it if it still is ours, and free it; NULL is fine. */
void pidfile_remove(Pidfile *pidfile);

/* ---- signals ---- */

typedef struct Signals Signals;

/*
 * Call @on_end(@opaque, again) in the context's thread for SIGTERM, SIGINT and SIGHUP; @again: a
 * SIGTERM or SIGINT that came a moment before, or longer, is still being obeyed. If the loop does
 * not get round to the second one within a few seconds, the process is killed. SIGPIPE and SIGUSR1
 * are ignored, SIGCHLD is not. One at a time, since signals belong to the process.
 */
Signals *signals_new(AioContext *ctx, void (*on_end)(void *opaque, bool again), void *opaque);
void signals_free(Signals *signals);

/* ---- service manager ---- */

/*
 * Tell the service manager that started us @state, such as "READY=1", by the protocol of
 * sd_notify(3). Does nothing where there is none.
 */
void notify_service_manager(const char *state);

#endif
