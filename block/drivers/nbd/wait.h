/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/nbd/wait.h - a coroutine that waits for a descriptor, for a while.
 *
 * Threads   The context in which the waiter was made.
 */
#ifndef WHARF_BLOCK_DRIVERS_NBD_WAIT_H
#define WHARF_BLOCK_DRIVERS_NBD_WAIT_H

#include "aio/aio.h"

typedef struct NbdWaiter {
    AioWatch *watch;
    AioTimer *timer;
    Coroutine *co; /* waits, or NULL */
    short events;
    bool late;
} NbdWaiter;

/* For @events of @fd, which is there until nbd_waiter_clear(), in the current context. */
void nbd_waiter_init(NbdWaiter *w, int fd, short events);
void nbd_waiter_clear(NbdWaiter *w);

/* Wait until they come: true. False: @deadline_ns (G_MAXINT64: never) has passed. */
bool co_fn nbd_waiter_co_wait(NbdWaiter *w, int64_t deadline_ns);

/*
 * Read or write all of the @bytes bytes, by then. 0, -ETIMEDOUT, -ECONNRESET if they end before, or
 * another -errno.
 */
int co_fn nbd_waiter_co_read_full(NbdWaiter *w, int fd, void *buffer, size_t bytes,
                                  int64_t deadline_ns);
int co_fn nbd_waiter_co_write_full(NbdWaiter *w, int fd, const void *buffer, size_t bytes,
                                   int64_t deadline_ns);

#endif
