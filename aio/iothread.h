/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * aio/iothread.h - a thread that runs an AioContext of its own.
 *
 * Threads   Any thread may take and drop references but the last, which goes in the main thread
 *           (never in the iothread itself).
 * Lifetime  Reference counted. Who uses the context holds a reference to the iothread. The last
 *           unref stops the thread, after the work that had been posted to it, and joins it.
 */
#ifndef WHARF_AIO_IOTHREAD_H
#define WHARF_AIO_IOTHREAD_H

#include "aio/aio.h"

typedef struct Iothread Iothread;

/*
 * Start a thread called @name (the system shows its first 15 bytes). @opts as for
 * aio_context_new(). Returns NULL and sets @error where the context or the thread is not to be had.
 */
Iothread *iothread_new(const char *name, const AioOptions *opts, GError **error);

Iothread *iothread_ref(Iothread *iothread);
void iothread_unref(Iothread *iothread);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Iothread, iothread_unref)

/* Its context; lives as long as @iothread. */
AioContext *iothread_context(Iothread *iothread);

/* The whole name. */
const char *iothread_name(const Iothread *iothread);

/* The kernel's id of the thread. */
int iothread_tid(const Iothread *iothread);

#endif
