/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "monitor/stream.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* How much unread input is thrown away at most before a close. */
#define DRAIN_MAX (1024 * 1024)

struct Stream {
    AioContext *ctx;
    int in, out; /* the same for a socket */
    bool is_socket;
    bool is_tcp;
    StreamHandler *handler;
    void *opaque;

    unsigned interest;
    AioWatch *in_watch, *out_watch; /* NULL where the descriptor cannot be polled */
    AioBh *always_ready;            /* stands in for them */
};

static bool fd_is_socket(int fd, int *domain)
{
    socklen_t len = sizeof(*domain);

    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, domain, &len) == 0;
}

/* Regular files and the likes of /dev/null are no use to epoll. */
static bool fd_can_be_polled(int fd)
{
    struct epoll_event ev = {.events = EPOLLIN};
    int ep = epoll_create1(EPOLL_CLOEXEC);
    bool can = ep >= 0 && epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0;

    if (ep >= 0) {
        close(ep);
    }
    return can;
}

static void on_in_ready(void *opaque, short revents)
{
    Stream *s = opaque;

    s->handler(s->opaque, STREAM_READ);
}

static void on_out_ready(void *opaque, short revents)
{
    Stream *s = opaque;

    s->handler(s->opaque, STREAM_WRITE);
}

/* The part of the interest that no watch serves. */
static unsigned interest_unwatched(const Stream *s)
{
    return s->interest & ((s->in_watch ? 0 : STREAM_READ) | (s->out_watch ? 0 : STREAM_WRITE));
}

static void on_always_ready(void *opaque)
{
    Stream *s = opaque;
    unsigned ready = interest_unwatched(s);

    if (ready) {
        aio_bh_schedule(s->always_ready);
        s->handler(s->opaque, ready); /* last: it may free us */
    }
}

Stream *stream_new(AioContext *ctx, int in, int out)
{
    Stream *s = g_new0(Stream, 1);
    int domain = 0;

    s->ctx = aio_context_ref(ctx);
    s->in = in;
    s->out = out;
    s->is_socket = in == out && fd_is_socket(in, &domain);
    s->is_tcp = s->is_socket && domain != AF_UNIX;
    /* A socket is not tried out: the one descriptor that is left may be the socket's. */
    if (s->is_socket || fd_can_be_polled(in)) {
        s->in_watch = aio_watch_new(ctx, in, 0, on_in_ready, NULL, s);
    }
    if (s->is_socket || fd_can_be_polled(out)) {
        s->out_watch = aio_watch_new(ctx, out, 0, on_out_ready, NULL, s);
    }
    if (!s->in_watch || !s->out_watch) {
        s->always_ready = aio_bh_new(ctx, on_always_ready, s);
    }
    return s;
}

void stream_set_handler(Stream *s, StreamHandler *handler, void *opaque)
{
    s->handler = handler;
    s->opaque = opaque;
}

void stream_set_interest(Stream *s, unsigned interest)
{
    unsigned changed = s->interest ^ interest;

    s->interest = interest;
    if (s->in_watch && (changed & STREAM_READ)) {
        aio_watch_set_events(s->in_watch, interest & STREAM_READ ? POLLIN : 0);
    }
    if (s->out_watch && (changed & STREAM_WRITE)) {
        aio_watch_set_events(s->out_watch, interest & STREAM_WRITE ? POLLOUT : 0);
    }
    if (interest_unwatched(s)) {
        aio_bh_schedule(s->always_ready);
    }
}

ssize_t stream_read(Stream *s, void *buffer, size_t bytes)
{
    struct pollfd pfd = {.fd = s->in, .events = POLLIN};
    ssize_t n;

    do {
        if (s->is_socket) {
            n = recv(s->in, buffer, bytes, MSG_DONTWAIT);
        } else if (s->in_watch && poll(&pfd, 1, 0) == 0) {
            return -EAGAIN;
        } else {
            n = read(s->in, buffer, bytes);
        }
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

ssize_t stream_write(Stream *s, const void *buffer, size_t bytes)
{
    struct pollfd pfd = {.fd = s->out, .events = POLLOUT};
    ssize_t n;

    do {
        if (s->is_socket) {
            n = send(s->out, buffer, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
        } else if (s->out_watch && poll(&pfd, 1, 0) == 0) {
            return -EAGAIN;
        } else {
            /* A pipe that is ready takes this much without blocking. */
            n = write(s->out, buffer, MIN(bytes, PIPE_BUF));
        }
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

void stream_shutdown_output(Stream *s)
{
    if (s->is_socket) {
        shutdown(s->out, SHUT_WR);
    }
}

bool stream_wants_linger(const Stream *s)
{
    return s->is_tcp;
}

/* A socket that is closed while it holds unread input resets the connection. */
static void drain_input(int fd)
{
    char buffer[4096];
    size_t drained = 0;
    ssize_t n;

    do {
        n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
        drained += MAX(n, 0);
    } while (n > 0 && drained < DRAIN_MAX);
}

void stream_close(Stream *s)
{
    g_clear_pointer(&s->in_watch, aio_watch_free);
    g_clear_pointer(&s->out_watch, aio_watch_free);
    g_clear_pointer(&s->always_ready, aio_bh_free);
    if (s->is_socket) {
        shutdown(s->in, s->is_tcp ? SHUT_WR : SHUT_RDWR);
        drain_input(s->in);
    }
    if (s->in > STDERR_FILENO) {
        close(s->in);
    }
    if (s->out != s->in && s->out > STDERR_FILENO) {
        close(s->out);
    }
    aio_context_unref(s->ctx);
    g_free(s);
}
