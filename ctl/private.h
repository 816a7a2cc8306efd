/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/private.h - a daemon for one short form alone, which opens images for us, does what is to be
 * done with them, and is gone with us. Nobody else can talk to it.
 */
#ifndef WHARF_CTL_PRIVATE_H
#define WHARF_CTL_PRIVATE_H

#include "ctl/client.h"
#include "ctl/ctl.h"

typedef struct CtlPrivate CtlPrivate;

/*
 * Start one; NULL with an error. A daemon that the user names (@ctl->socket) is none of our own, so
 * that is refused.
 */
CtlPrivate *ctl_private_start(const Ctl *ctl, GError **error);

/* The connection to it; borrowed. Commands may be run until the end. */
CtlClient *ctl_private_client(CtlPrivate *daemon);

/* As ctl_client_call(), but a lost connection is told by why, as far as that is known. */
QValue *ctl_private_call(CtlPrivate *daemon, const char *command, QValue *take_args,
                         GError **error);

/*
 * Have it close everything and end; false if it had something to complain about. What it warned of
 * is shown. Nothing but freeing comes after.
 */
bool ctl_private_end(CtlPrivate *daemon, GError **error);

/* Accepts NULL. What was not ended is told to give up, and waited for. */
void ctl_private_free(CtlPrivate *daemon);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CtlPrivate, ctl_private_free)

/* Shows how far a job has come, now and then. @total may change, and be 0. */
typedef void CtlPrivateProgress(guint64 current, guint64 total);

/*
 * Run @command, which makes the job @id, with @take_args; wait until it has ended and dismiss it.
 * The job as query-jobs told it then; NULL with what the command or the job said. @show may be
 * NULL.
 */
QValue *ctl_private_run_job(CtlPrivate *daemon, const char *command, QValue *take_args,
                            const char *id, CtlPrivateProgress *show, GError **error);

#endif
