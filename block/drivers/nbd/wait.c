/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/nbd/wait.h"

#include <errno.h>
#include <sys/socket.h>

static void nbd_waiter_wake(NbdWaiter *w)
{
    if (w->co) {
        aio_watch_set_events(w->watch, 0);
        aio_co_wake(g_steal_pointer(&w->co));
    }
}

static void on_ready(void *opaque, short revents)
{
    nbd_waiter_wake(opaque);
}

static void on_late(void *opaque)
{
    NbdWaiter *w = opaque;

    w->late = true;
    nbd_waiter_wake(w);
}

void nbd_waiter_init(NbdWaiter *w, int fd, short events)
{
    AioContext *ctx = aio_context_current();

    *w = (NbdWaiter){.events = events};
    w->watch = aio_watch_new(ctx, fd, 0, on_ready, NULL, w);
    w->timer = aio_timer_new(ctx, on_late, w);
}

void nbd_waiter_clear(NbdWaiter *w)
{
    g_assert(!w->co);
    g_clear_pointer(&w->watch, aio_watch_free);
    g_clear_pointer(&w->timer, aio_timer_free);
}

bool co_fn nbd_waiter_co_wait(NbdWaiter *w, int64_t deadline_ns)
{
    g_assert(!w->co);
    w->late = false;
    w->co = coroutine_self();
    if (deadline_ns != G_MAXINT64) {
        aio_timer_arm(w->timer, deadline_ns);
    }
    aio_watch_set_events(w->watch, w->events);
    coroutine_yield();
    aio_timer_disarm(w->timer);
    return !w->late;
}

/* What a call on the socket said: bytes; 0 to try again; or -errno. */
static ssize_t co_fn nbd_waiter_co_result(NbdWaiter *w, ssize_t n, int err, int64_t deadline_ns)
{
    if (n >= 0) {
        return n > 0 ? n : -ECONNRESET;
    }
    if (err == EINTR) {
        return 0;
    }
    if (err != EAGAIN) {
        return -err;
    }
    return nbd_waiter_co_wait(w, deadline_ns) ? 0 : -ETIMEDOUT;
}

int co_fn nbd_waiter_co_read_full(NbdWaiter *w, int fd, void *buffer, size_t bytes,
                                  int64_t deadline_ns)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = recv(fd, (char *)buffer + done, bytes - done, MSG_DONTWAIT);

        n = nbd_waiter_co_result(w, n, errno, deadline_ns);
        if (n < 0) {
            return n;
        }
        done += n;
    }
    return 0;
}

int co_fn nbd_waiter_co_write_full(NbdWaiter *w, int fd, const void *buffer, size_t bytes,
                                   int64_t deadline_ns)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n =
            send(fd, (const char *)buffer + done, bytes - done, MSG_DONTWAIT | MSG_NOSIGNAL);

        n = nbd_waiter_co_result(w, n, errno, deadline_ns);
        if (n < 0) {
            return n;
        }
        done += n;
    }
    return 0;
}
