/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The backend for kernels without io_uring: epoll for watches, worker threads for I/O.
 *
 * epoll knows a descriptor once, so an EpollFd stands for all watches of it. Events are first noted
 * in the watches, then called back for: a watch that is freed meanwhile takes its note with it, and
 * a new one on the same descriptor starts without any.
 */
#include "aio/context-internal.h"

#include "util/error.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EVENTS_MAX 128

typedef struct EpollFd {
    int fd;
    GList *watches;  /* EpollWatch */
    uint32_t events; /* what epoll knows; 0: not there */
    bool always;     /* epoll does not want it, as it is always ready: a regular file */
} EpollFd;

typedef struct EpollWatch {
    AioWatch *watch;
    EpollFd *fd;
    short pending;      /* events to call back for */
    GList pending_link; /* in state->pending, while there are */
} EpollWatch;

typedef struct EpollState {
    int epfd;
    bool woken;      /* wake_fd has been read since the last dispatch: somebody posted work */
    GHashTable *fds; /* fd -> EpollFd */
    unsigned always; /* number of EpollFd that are always ready */
    GQueue pending;  /* EpollWatch, in order of arrival */
} EpollState;

static void pending_add(EpollState *s, EpollWatch *w, short revents)
{
    revents &= w->watch->events | POLLERR | POLLHUP;
    if (!w->watch->events || !revents) {
        return;
    }
    if (!w->pending) {
        g_queue_push_tail_link(&s->pending, &w->pending_link);
    }
    w->pending |= revents;
}

static void pending_drop(EpollState *s, EpollWatch *w)
{
    if (w->pending) {
        g_queue_unlink(&s->pending, &w->pending_link);
        w->pending = 0;
    }
}

static void note_events(EpollState *s, EpollFd *f, short revents)
{
    for (GList *l = f->watches; l; l = l->next) {
        pending_add(s, l->data, revents);
    }
}

static void note_always_ready(EpollState *s)
{
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, s->fds);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        EpollFd *f = value;

        if (f->always) {
            note_events(s, f, POLLIN | POLLOUT);
        }
    }
}

static void drain_wake_fd(AioContext *ctx)
{
    EpollState *s = ctx->backend;
    uint64_t value;

    (void)!read(ctx->wake_fd, &value, sizeof(value));
    s->woken = true;
}

static int wait_ns(int epfd, struct epoll_event *events, int64_t timeout_ns)
{
    struct timespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    int n = epoll_pwait2(epfd, events, EVENTS_MAX, timeout_ns < 0 ? NULL : &ts, NULL);

    if (n < 0 && errno == ENOSYS) {
        int64_t ms = timeout_ns < 0 ? -1 : MIN((timeout_ns + 999999) / 1000000, G_MAXINT);

        n = epoll_wait(epfd, events, EVENTS_MAX, ms);
    }
    return n;
}

static void epoll_backend_wait(AioContext *ctx, int64_t timeout_ns, bool probing)
{
    EpollState *s = ctx->backend;
    struct epoll_event events[EVENTS_MAX];
    int n;

    if (s->always) {
        note_always_ready(s);
    }
    n = wait_ns(s->epfd, events, s->pending.length ? 0 : timeout_ns);
    for (int i = 0; i < n; i++) {
        EpollFd *f = events[i].data.ptr;

        if (f) {
            note_events(s, f, events[i].events);
        } else {
            drain_wake_fd(ctx);
        }
    }
}

static bool epoll_backend_dispatch(AioContext *ctx)
{
    EpollState *s = ctx->backend;
    guint n = s->pending.length;

    s->woken = false;
    for (guint i = 0; i < n && s->pending.length; i++) {
        EpollWatch *w = s->pending.head->data;
        short revents = w->pending;

        pending_drop(s, w);
        aio_watch_call(w->watch, revents); /* may free any watch */
    }
    return n > 0;
}

static bool epoll_backend_peek(AioContext *ctx)
{
    EpollState *s = ctx->backend;

    if (!s->pending.length) {
        epoll_backend_wait(ctx, 0, false);
    }
    /* The wake-up that was read may be for work that the caller has looked for in vain just before.
     */
    return s->pending.length > 0 || s->woken;
}

static void epoll_backend_flush(AioContext *ctx, bool probing)
{
}

static int epoll_backend_fd(AioContext *ctx)
{
    return ((EpollState *)ctx->backend)->epfd;
}

/* Watches. EPOLLIN and its like have the values of POLLIN and its like. */

static uint32_t union_of_events(EpollFd *f)
{
    uint32_t events = 0;

    for (GList *l = f->watches; l; l = l->next) {
        events |= (unsigned short)((EpollWatch *)l->data)->watch->events;
    }
    return events;
}

static void set_always(EpollState *s, EpollFd *f, bool always)
{
    s->always += always - f->always;
    f->always = always;
}

/* Tell epoll what the watches of @f want, or all that is no longer wanted. */
static void update_epoll(EpollState *s, EpollFd *f)
{
    uint32_t events = union_of_events(f);
    struct epoll_event ev = {.events = events, .data.ptr = f};

    if (events == f->events) {
        return;
    }
    if (!events) {
        if (!f->always) {
            epoll_ctl(s->epfd, EPOLL_CTL_DEL, f->fd, NULL);
        }
        set_always(s, f, false);
    } else if (epoll_ctl(s->epfd, f->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, f->fd, &ev) < 0) {
        if (errno == EPERM) {
            set_always(s, f, true);
        } else if (!f->always) {
            g_warning("cannot watch descriptor %d: %s", f->fd, g_strerror(errno));
        }
    }
    f->events = events;
}

static void epoll_watch_added(AioWatch *watch)
{
    EpollState *s = watch->ctx->backend;
    EpollFd *f = g_hash_table_lookup(s->fds, GINT_TO_POINTER(watch->fd));
    EpollWatch *w = g_new0(EpollWatch, 1);

    if (!f) {
        f = g_new0(EpollFd, 1);
        f->fd = watch->fd;
        g_hash_table_insert(s->fds, GINT_TO_POINTER(watch->fd), f);
    }
    w->watch = watch;
    w->fd = f;
    w->pending_link.data = w;
    watch->backend = w;
    f->watches = g_list_append(f->watches, w);
    update_epoll(s, f);
}

static void epoll_watch_changed(AioWatch *watch)
{
    EpollState *s = watch->ctx->backend;
    EpollWatch *w = watch->backend;
    short still = w->pending & (watch->events | POLLERR | POLLHUP);

    pending_drop(s, w);
    pending_add(s, w, still);
    update_epoll(s, w->fd);
}

static void epoll_watch_removed(AioWatch *watch)
{
    EpollState *s = watch->ctx->backend;
    EpollWatch *w = watch->backend;
    EpollFd *f = w->fd;

    pending_drop(s, w);
    f->watches = g_list_remove(f->watches, w);
    update_epoll(s, f);
    if (!f->watches) {
        g_hash_table_remove(s->fds, GINT_TO_POINTER(f->fd));
    }
    g_free(w);
}

/* Life */

static bool epoll_init(AioContext *ctx, GError **error)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    EpollState *s;
    int epfd = epoll_create1(EPOLL_CLOEXEC);

    if (epfd < 0 || epoll_ctl(epfd, EPOLL_CTL_ADD, ctx->wake_fd, &ev) < 0) {
        wharf_set_error_errno(error, errno, "cannot set up epoll for an event loop");
        if (epfd >= 0) {
            close(epfd);
        }
        return false;
    }
    s = g_new0(EpollState, 1);
    s->epfd = epfd;
    s->fds = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    g_queue_init(&s->pending);
    ctx->backend = s;
    return true;
}

static void epoll_fini(AioContext *ctx)
{
    EpollState *s = ctx->backend;

    close(s->epfd);
    g_hash_table_unref(s->fds);
    g_free(s);
}

static void epoll_bind(AioContext *ctx, bool polled)
{
}

const AioBackendOps aio_backend_epoll = {
    .name = "epoll",
    .init = epoll_init,
    .fini = epoll_fini,
    .bind = epoll_bind,
    .wait = epoll_backend_wait,
    .dispatch = epoll_backend_dispatch,
    .peek = epoll_backend_peek,
    .flush = epoll_backend_flush,
    .fd = epoll_backend_fd,
    .watch_added = epoll_watch_added,
    .watch_changed = epoll_watch_changed,
    .watch_removed = epoll_watch_removed,
};
