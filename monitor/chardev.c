/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "monitor/chardev.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/error.h"

/* How long one attempt to connect may take. */
#define CONNECT_TIMEOUT_MS 10000

/* How long to leave clients waiting when the system has no descriptor for them. */
#define ACCEPT_PAUSE_NS (G_GINT64_CONSTANT(500) * 1000 * 1000)

struct Chardev {
    unsigned refs;
    AioContext *ctx;
    char *id;
    ChardevBackendKind kind;
    SocketPlace *address;
    bool server, wait, nodelay;
    unsigned reconnect_ms;

    int listen_fd; /* -1 unless listening */
    SocketFile *file;
    AioWatch *listen_watch;
    AioTimer *timer;    /* next attempt to connect, or the end of a pause in accepting */
    bool accept_failed; /* the last time, and that has been told */
    bool accept_paused;
    gint cancel; /* atomic: tells a start, and a worker that connects, to give up */
    bool starting;
    bool closed;

    GQueue held; /* Stream: connections that nobody has taken yet */
    Coroutine *waiter;

    void (*connected)(void *opaque, Stream *stream); /* NULL: nobody is attached */
    void *opaque;
    bool accepting;
};

static void chardev_update(Chardev *c);
static void chardev_release(Chardev *c);

/* ---- worker calls ---- */

typedef struct {
    Chardev *chardev;
    int fd;
    GError *error;
} SocketWork;

static int do_listen(void *opaque)
{
    SocketWork *work = opaque;
    Chardev *c = work->chardev;

    work->fd = socket_listen(c->address, &c->file, &work->error);
    return 0;
}

static int do_connect(void *opaque)
{
    SocketWork *work = opaque;
    Chardev *c = work->chardev;

    work->fd = socket_connect(c->address, CONNECT_TIMEOUT_MS, &c->cancel, &work->error);
    return 0;
}

/* Run @fn where blocking is allowed. Returns a descriptor or -1. */
static int co_fn chardev_co_socket(Chardev *c, int (*fn)(void *opaque), GError **error)
{
    SocketWork work = {.chardev = c, .fd = -1};

    aio_co_run_worker(fn, &work);
    if (work.error) {
        g_propagate_error(error, work.error);
    }
    return work.fd;
}

/* ---- connections ---- */

static void chardev_hold(Chardev *c, int in, int out)
{
    int on = 1;

    if (c->nodelay) {
        setsockopt(in, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    if (c->kind == CHARDEV_BACKEND_KIND_SOCKET && c->address->kind == SOCKET_INET) {
        /* Without it a client whose machine died would stay for ever. */
        setsockopt(in, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    }
    g_queue_push_tail(&c->held, stream_new(c->ctx, in, out));
}

static void on_timer(void *opaque);

static void chardev_arm(Chardev *c, int64_t delay_ns)
{
    if (!c->timer) {
        c->timer = aio_timer_new(c->ctx, on_timer, c);
    }
    aio_timer_arm(c->timer, aio_now_ns() + delay_ns);
}

static void on_listen_ready(void *opaque, short revents)
{
    Chardev *c = opaque;
    int fd = socket_accept(c->listen_fd);

    if (fd == -EAGAIN) {
        return;
    }
    if (fd < 0) {
        if (!c->accept_failed) {
            g_warning("chardev '%s': cannot accept a connection for now: %s", c->id,
                      g_strerror(-fd));
        }
        c->accept_failed = true;
        c->accept_paused = true;
        chardev_arm(c, ACCEPT_PAUSE_NS);
    } else {
        c->accept_failed = false;
        chardev_hold(c, fd, fd);
    }
    chardev_update(c);
}

static void co_fn chardev_reconnect(void *opaque)
{
    g_autoptr(Chardev) c = opaque;
    g_autoptr(GError) error = NULL;
    int fd = chardev_co_socket(c, do_connect, &error);

    if (c->closed) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    if (fd < 0) {
        g_debug("%s; trying again in %u ms", error->message, c->reconnect_ms);
        chardev_arm(c, c->reconnect_ms * G_GINT64_CONSTANT(1000000));
        return;
    }
    chardev_hold(c, fd, fd);
    chardev_update(c);
}

static void on_timer(void *opaque)
{
    Chardev *c = opaque;

    if (c->server) {
        c->accept_paused = false;
        chardev_update(c);
        return;
    }
    aio_co_enter(c->ctx, chardev_reconnect, chardev_ref(c));
}

static bool chardev_can_deliver(const Chardev *c)
{
    return c->connected && c->accepting;
}

/* Hand over what may be handed over, and listen for more only if somebody wants it. */
static void chardev_update(Chardev *c)
{
    bool wanted;

    if (c->closed) {
        return;
    }
    while (chardev_can_deliver(c) && !g_queue_is_empty(&c->held)) {
        c->connected(c->opaque, g_queue_pop_head(&c->held));
    }
    if (c->waiter && !g_queue_is_empty(&c->held)) {
        aio_co_wake(g_steal_pointer(&c->waiter));
    }
    if (c->listen_fd < 0) {
        return;
    }
    wanted = (chardev_can_deliver(c) || c->waiter) && !c->accept_paused;
    if (!wanted) {
        g_clear_pointer(&c->listen_watch, aio_watch_free);
    } else if (!c->listen_watch) {
        c->listen_watch = aio_watch_new(c->ctx, c->listen_fd, POLLIN, on_listen_ready, NULL, c);
    }
}

/* ---- life ---- */

Chardev *chardev_new(AioContext *ctx, const ChardevConfig *config)
{
    Chardev *c = g_new0(Chardev, 1);

    c->refs = 1;
    c->ctx = aio_context_ref(ctx);
    c->id = g_strdup(config->id);
    c->kind = config->kind;
    c->address = config->address ? socket_place_copy(config->address) : NULL;
    c->server = config->server;
    c->wait = config->wait;
    c->nodelay = config->nodelay && c->address && c->address->kind == SOCKET_INET;
    c->reconnect_ms = config->reconnect_ms;
    c->listen_fd = -1;
    return c;
}

static bool co_fn chardev_co_start_client(Chardev *c, GError **error)
{
    int fd;

    if (c->reconnect_ms) {
        aio_co_enter(c->ctx, chardev_reconnect, chardev_ref(c));
        return true;
    }
    fd = chardev_co_socket(c, do_connect, error);
    if (fd < 0) {
        return false;
    }
    chardev_hold(c, fd, fd);
    return true;
}

static void co_fn chardev_co_wait_client(Chardev *c)
{
    g_autofree char *where = chardev_describe(c);

    if (g_queue_is_empty(&c->held) && !g_atomic_int_get(&c->cancel)) {
        g_message("waiting for a client on %s", where);
        c->waiter = coroutine_self();
        chardev_update(c);
        coroutine_yield();
    }
}

static bool co_fn chardev_co_start_server(Chardev *c, GError **error)
{
    c->listen_fd = chardev_co_socket(c, do_listen, error);
    if (c->listen_fd < 0) {
        return false;
    }
    if (c->wait) {
        chardev_co_wait_client(c);
    }
    return true;
}

static bool co_fn chardev_co_start_kind(Chardev *c, GError **error)
{
    if (c->kind == CHARDEV_BACKEND_KIND_STDIO) {
        chardev_hold(c, STDIN_FILENO, STDOUT_FILENO);
        return true;
    }
    return c->server ? chardev_co_start_server(c, error) : chardev_co_start_client(c, error);
}

bool co_fn chardev_co_start(Chardev *c, GError **error)
{
    c->starting = true;
    if (!chardev_co_start_kind(c, error)) {
        c->starting = false;
        return false;
    }
    c->starting = false;
    if (g_atomic_int_get(&c->cancel)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "chardev '%s': told to end while it was starting", c->id);
        chardev_release(c);
        return false;
    }
    chardev_update(c);
    return true;
}

Chardev *chardev_ref(Chardev *c)
{
    c->refs++;
    return c;
}

void chardev_unref(Chardev *c)
{
    if (!c || --c->refs > 0) {
        return;
    }
    g_assert(c->closed);
    socket_place_free(c->address);
    aio_context_unref(c->ctx);
    g_free(c->id);
    g_free(c);
}

/* Give back what the start acquired. */
static void chardev_release(Chardev *c)
{
    g_clear_pointer(&c->listen_watch, aio_watch_free);
    g_clear_pointer(&c->timer, aio_timer_free);
    g_queue_clear_full(&c->held, (GDestroyNotify)stream_close);
    g_clear_pointer(&c->file, socket_file_remove);
    if (c->listen_fd >= 0) {
        close(c->listen_fd);
        c->listen_fd = -1;
    }
}

void chardev_cancel_start(Chardev *c)
{
    g_atomic_int_set(&c->cancel, 1);
    if (c->waiter) {
        aio_co_wake(g_steal_pointer(&c->waiter));
    }
}

void chardev_close(Chardev *c)
{
    c->closed = true;
    chardev_cancel_start(c);
    /* A worker may be at it right now; then the start cleans up by itself. */
    if (!c->starting) {
        chardev_release(c);
    }
}

void chardev_abandon(Chardev *c)
{
    if (!c->starting) {
        g_clear_pointer(&c->file, socket_file_remove);
    }
}

/* ---- use ---- */

const char *chardev_id(const Chardev *c)
{
    return c->id;
}

bool chardev_is_stdio(const Chardev *c)
{
    return c->kind == CHARDEV_BACKEND_KIND_STDIO;
}

char *chardev_describe(const Chardev *c)
{
    g_autofree char *where = NULL;

    if (chardev_is_stdio(c)) {
        return g_strdup("stdio");
    }
    if (c->listen_fd >= 0) {
        where = socket_describe_local(c->listen_fd);
    }
    if (!where) {
        where = socket_place_describe(c->address);
    }
    return g_strdup_printf("%s,server=%s", where, c->server ? "on" : "off");
}

void chardev_attach(Chardev *c, void (*connected)(void *opaque, Stream *stream), void *opaque)
{
    g_assert(!c->connected);
    c->connected = connected;
    c->opaque = opaque;
}

void chardev_detach(Chardev *c)
{
    c->connected = NULL;
    c->accepting = false;
    chardev_update(c);
}

bool chardev_is_attached(const Chardev *c)
{
    return c->connected != NULL;
}

void chardev_set_accepting(Chardev *c, bool accepting)
{
    c->accepting = accepting;
    chardev_update(c);
}

void chardev_connection_ended(Chardev *c)
{
    if (!c->closed && !c->server && c->reconnect_ms) {
        chardev_arm(c, c->reconnect_ms * G_GINT64_CONSTANT(1000000));
    }
}
