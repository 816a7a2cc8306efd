/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/waiter.h - a coroutine that waits to be told something, or for a deadline.
 *
 * Threads   Waiting and waking happen in one context, that in which the coroutine runs.
 * Lifetime  A waiter lives in the frame of the coroutine that waits.
 */
#ifndef WHARF_EXPORT_WAITER_H
#define WHARF_EXPORT_WAITER_H

#include <stdbool.h>
#include <stdint.h>

#include "aio/coroutine.h"

typedef struct ExportWaiter {
    Coroutine *co; /* NULL: woken, or not waiting */
} ExportWaiter;

/*
 * Wait until export_waiter_wake() or CLOCK_MONOTONIC reaches @deadline_ns (INT64_MAX: no deadline).
 * Returns false if the deadline ended the wait.
 */
bool co_fn export_waiter_co_wait(ExportWaiter *waiter, int64_t deadline_ns);

/* Ends the wait; does nothing if it has ended. */
void export_waiter_wake(ExportWaiter *waiter);

#endif
