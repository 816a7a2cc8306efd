/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/nbd/connect.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/error.h"

/* Of TCP: a host that has vanished is noticed after so long, in requests or between them. */
#define VANISHED_AFTER_S 120
#define KEEP_IDLE_S      60
#define KEEP_INTERVAL_S  15
#define KEEP_PROBES      ((VANISHED_AFTER_S - KEEP_IDLE_S) / KEEP_INTERVAL_S)

struct NbdConnect {
    gint refs;           /* atomic: the owner's, and the thread's */
    SocketPlace *place;  /* fixed */
    unsigned timeout_ms; /* fixed before the thread begins */
    gint cancelled;      /* atomic */

    GMutex lock;   /* of what follows */
    Coroutine *co; /* waits; whoever takes it wakes it */
    int fd;        /* the result, -1: none */
    GError *error;
};

NbdConnect *nbd_connect_new(const SocketPlace *place)
{
    NbdConnect *c = g_new0(NbdConnect, 1);

    g_atomic_int_set(&c->refs, 1);
    g_mutex_init(&c->lock);
    c->place = socket_place_copy(place);
    c->fd = -1;
    return c;
}

static void nbd_connect_unref(NbdConnect *c)
{
    if (!g_atomic_int_dec_and_test(&c->refs)) {
        return;
    }
    if (c->fd >= 0) {
        close(c->fd);
    }
    g_clear_error(&c->error);
    socket_place_free(c->place);
    g_mutex_clear(&c->lock);
    g_free(c);
}

void nbd_connect_free(NbdConnect *c)
{
    g_atomic_int_set(&c->cancelled, 1);
    nbd_connect_unref(c);
}

static void nbd_connect_wake(NbdConnect *c)
{
    Coroutine *co;

    g_mutex_lock(&c->lock);
    co = g_steal_pointer(&c->co);
    g_mutex_unlock(&c->lock);
    if (co) {
        aio_co_wake(co);
    }
}

static void set_option(int fd, int level, int option, int value)
{
    setsockopt(fd, level, option, &value, sizeof(value)); /* at worst it is as it was */
}

/* Fails, without harm, where the socket is none of TCP. */
static void prepare_tcp(int fd)
{
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEP_INTERVAL_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEP_PROBES);
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, VANISHED_AFTER_S * 1000);
}

static gpointer nbd_connect_thread(gpointer opaque)
{
    NbdConnect *c = opaque;
    GError *error = NULL;
    int fd = socket_connect(c->place, c->timeout_ms, &c->cancelled, &error);

    if (fd >= 0) {
        prepare_tcp(fd);
    }
    g_mutex_lock(&c->lock);
    c->fd = fd;
    c->error = error;
    g_mutex_unlock(&c->lock);
    nbd_connect_wake(c);
    nbd_connect_unref(c);
    return NULL;
}

void nbd_connect_cancel(NbdConnect *c)
{
    g_atomic_int_set(&c->cancelled, 1);
    nbd_connect_wake(c);
}

static void on_late(void *opaque)
{
    nbd_connect_cancel(opaque);
}

static int nbd_connect_result(NbdConnect *c, GError **error)
{
    int fd;

    g_mutex_lock(&c->lock);
    fd = c->fd;
    c->fd = -1;
    if (fd < 0 && c->error) {
        g_propagate_error(error, g_steal_pointer(&c->error));
    } else if (fd < 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "cannot connect in time");
    }
    g_mutex_unlock(&c->lock);
    return fd;
}

int co_fn nbd_connect_co_run(NbdConnect *c, int64_t deadline_ns, GError **error)
{
    int64_t left_ms = MAX(deadline_ns - aio_now_ns(), 0) / 1000000;
    AioTimer *timer = aio_timer_new(aio_context_current(), on_late, c);
    GThread *thread;

    c->timeout_ms = MIN(left_ms, G_MAXINT);
    c->co = coroutine_self();
    g_atomic_int_inc(&c->refs);
    thread = g_thread_try_new("nbd-connect", nbd_connect_thread, c, error);
    if (!thread) {
        c->co = NULL;
        nbd_connect_unref(c);
        aio_timer_free(timer);
        return -1;
    }
    g_thread_unref(thread);
    aio_timer_arm(timer, deadline_ns);
    coroutine_yield();
    aio_timer_free(timer);
    return nbd_connect_result(c, error);
}
