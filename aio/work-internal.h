/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * aio/work-internal.h - what can be queued to an AioContext: bottom halves, woken coroutines.
 *
 * Threads   See aio_context_post() in aio/context-internal.h.
 * Lifetime  Embedded in its owner, which keeps it alive from the post until run() is called.
 */
#ifndef WHARF_AIO_WORK_INTERNAL_H
#define WHARF_AIO_WORK_INTERNAL_H

typedef struct AioWork AioWork;

struct AioWork {
    AioWork *next;
    void (*run)(AioWork *work); /* in the context's thread; may free @work */
};

#endif
