/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * aio/coroutine-internal.h - a coroutine and a thread's share of them, for aio/ alone.
 */
#ifndef WHARF_AIO_COROUTINE_INTERNAL_H
#define WHARF_AIO_COROUTINE_INTERNAL_H

#include "aio/coroutine.h"
#include "aio/stack-internal.h"
#include "aio/work-internal.h"

typedef struct AioContext AioContext;

typedef enum CoroutineState {
    COROUTINE_PARKED,  /* not entered: its stack holds all it needs to go on */
    COROUTINE_RUNNING, /* entered */
    COROUTINE_WANTED,  /* entered; who parks it posts it to @wanted_by */
} CoroutineState;

struct Coroutine {
    /* Fixed at creation */
    CoroutineStack stack; /* all zero for a thread's own stack */

    /* Owned by the thread that runs it, or by whoever will enter it */
    CoroutineEntry *entry; /* NULL: has ended */
    void *opaque;
    Coroutine *caller; /* who entered it; NULL while suspended */
    Coroutine *next;   /* in a pool */

    /* Any thread, atomic */
    AioContext *context; /* where it last ran */
    int state;           /* CoroutineState */
    int scheduled;       /* somebody has asked for it to be entered */

    /* Owned by whoever set @scheduled */
    AioWork wake;
    AioContext *wanted_by;
};

/* What a thread keeps. Reached by coroutine_thread() only: see there. */
typedef struct CoroutineThread {
    Coroutine leader; /* stands for the thread's own stack */
    Coroutine *current;
    AioContext *context; /* the one that this thread runs, or NULL */
    Coroutine *pool;
    unsigned pool_size;
} CoroutineThread;

/*
 * The calling thread's share. Never inlined, so that a coroutine that has moved to another thread
 * cannot go on with an address the compiler has kept; do not keep it across a yield yourself.
 */
CoroutineThread *coroutine_thread(void);

#endif
