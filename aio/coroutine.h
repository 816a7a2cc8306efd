/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * aio/coroutine.h - stackful coroutines.
 *
 * A coroutine is a function with a stack of its own that may stop in the middle (yield) and be
 * continued later (entered), in the same thread or in another. Waiting thereby reads downwards.
 *
 * Threads   Any thread may create and enter coroutines; one coroutine runs in one thread at a time.
 *           Whoever hands a coroutine to another thread uses aio_co_wake() or aio_co_schedule()
 *           (aio/aio.h), never coroutine_enter() there.
 * Lifetime  A coroutine frees itself when its entry function returns. One that never ends leaks its
 *           stack, so whoever stops a service waits for the coroutines it started. Stacks are kept
 *           in a bounded pool for each thread and have a guard page below them.
 * Errors    None: as with g_malloc(), lack of memory for a stack ends the process.
 *
 * Traps     A coroutine may go on in another thread after each suspension: it must not keep the
 *           address of a thread-local variable, errno included, nor a GMutex across one. A stack
 *           has COROUTINE_STACK_SIZE bytes; large buffers belong on the heap.
 */
#ifndef WHARF_AIO_COROUTINE_H
#define WHARF_AIO_COROUTINE_H

#include <glib.h>
#include <stdbool.h>

/* Marks a function that may suspend, and so may be called in a coroutine only. */
#define co_fn

/* Bytes of a coroutine's stack. Address space only; memory is used as it is touched. */
#define COROUTINE_STACK_SIZE (1024 * 1024)

typedef struct Coroutine Coroutine;
typedef void CoroutineEntry(void *opaque);

/*
 * Make a coroutine that will run @entry(@opaque). It does not run yet; one that is never entered
 * leaks. Never NULL.
 */
Coroutine *coroutine_create(CoroutineEntry *entry, void *opaque);

/*
 * Run @co in the calling thread until it yields or ends, then return. The caller may itself be a
 * coroutine. @co must not be running or waiting to be run anywhere; it may be gone on return.
 */
void coroutine_enter(Coroutine *co);

/* Suspend the calling coroutine: coroutine_enter() returns to whoever called it. */
void co_fn coroutine_yield(void);

/* The running coroutine, or NULL outside of any. */
Coroutine *coroutine_self(void);

/* Whether the caller runs in a coroutine. */
bool coroutine_in(void);

#endif
