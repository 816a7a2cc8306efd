/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The server's socket, its clients while they negotiate, and the exports by name. */
#include "export/nbd/server.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/error.h"

/* After a failure to accept, other than by a client that has gone, this long nobody is. */
#define ACCEPT_PAUSE_NS (100 * G_GINT64_CONSTANT(1000000))

/* Clients of TCP that have vanished without a word are found out after about two minutes. */
#define KEEP_IDLE_S     60
#define KEEP_INTERVAL_S 15
#define KEEP_PROBES     4

struct NbdServer {
    NbdShared *shared;
    AioContext *ctx;
    SocketPlace *place;
    unsigned handshake_max_s;
    unsigned max_connections;
    NbdDirectory directory;

    ObjectRegistry *objects;
    char *tls_creds_id, *tls_authz_id;
    TlsCreds *tls_creds; /* NULL: no TLS */
    Authz *tls_authz;    /* NULL: everybody */

    int listen_fd; /* -1: no longer */
    SocketFile *file;
    AioWatch *watch;
    AioTimer *pause; /* armed while nobody is accepted */
    bool paused;
    bool accept_failed; /* has been told of */
    bool ending;

    unsigned refs;     /* one of the shared part, one a seat */
    unsigned clients;  /* seats taken */
    GQueue handshakes; /* NbdHandshake */
    ExportWaiter *idle_waiter;
};

struct NbdSeat {
    NbdServer *server;
    AioContext *ctx; /* borrowed from the server, which stays */
};

/* Of a Unix socket, for what the client has not taken yet. */
#define UNIX_ROOM (512 * 1024)

/* How users of objects are called. */
#define SERVER_USER "the NBD server"

static void server_update(NbdServer *server);

/* ---- life ---- */

static void server_unref(NbdServer *server)
{
    if (--server->refs) {
        return;
    }
    g_clear_pointer(&server->tls_creds, tls_creds_unref);
    g_clear_pointer(&server->tls_authz, authz_unref);
    g_free(server->tls_creds_id);
    g_free(server->tls_authz_id);
    socket_place_free(server->place);
    aio_context_unref(server->ctx);
    g_free(server);
}

void nbd_server_config_clear(NbdServerConfig *config)
{
    g_clear_pointer(&config->place, socket_place_free);
    g_clear_pointer(&config->tls_creds, g_free);
    g_clear_pointer(&config->tls_authz, g_free);
}

/* What TLS needs, with the server for a user of it. */
static bool server_get_tls(NbdServer *server, const NbdServerConfig *config, GError **error)
{
    g_autoptr(TlsCreds) creds = NULL;
    g_autoptr(Authz) authz = NULL;

    if (config->tls_creds) {
        creds = object_registry_get_tls_creds(config->objects, config->tls_creds,
                                              TLS_CREDS_ENDPOINT_SERVER, error);
        if (!creds) {
            return false;
        }
    }
    if (config->tls_authz) {
        authz = object_registry_get_authz(config->objects, config->tls_authz, error);
        if (!authz) {
            return false;
        }
    }
    server->objects = config->objects;
    server->tls_creds_id = g_strdup(config->tls_creds);
    server->tls_authz_id = g_strdup(config->tls_authz);
    server->tls_creds = g_steal_pointer(&creds);
    server->tls_authz = g_steal_pointer(&authz);
    if (server->tls_creds) {
        object_registry_use(server->objects, server->tls_creds_id, SERVER_USER);
    }
    if (server->tls_authz) {
        object_registry_use(server->objects, server->tls_authz_id, SERVER_USER);
    }
    return true;
}

/* The objects may go, though what clients use of them stays. */
static void server_let_go_of_tls(NbdServer *server)
{
    if (server->tls_creds) {
        object_registry_unuse(server->objects, server->tls_creds_id, SERVER_USER);
    }
    if (server->tls_authz) {
        object_registry_unuse(server->objects, server->tls_authz_id, SERVER_USER);
    }
}

typedef struct ListenWork {
    const SocketPlace *place;
    SocketFile *file;
    int fd;
    GError *error;
} ListenWork;

static int do_listen(void *opaque)
{
    ListenWork *work = opaque;

    work->fd = socket_listen(work->place, &work->file, &work->error);
    return 0;
}

static NbdServer *server_new(NbdShared *shared, const NbdServerConfig *config)
{
    NbdServer *server = g_new0(NbdServer, 1);

    server->shared = shared;
    server->ctx = aio_context_ref(aio_context_current());
    server->place = socket_place_copy(config->place);
    server->handshake_max_s = config->handshake_max_s;
    server->max_connections = config->max_connections;
    server->listen_fd = -1;
    server->refs = 1;
    return server;
}

void nbd_shared_set_busy(NbdShared *shared, bool busy)
{
    shared->busy = busy;
    if (!busy && shared->idle_waiter) {
        export_waiter_wake(shared->idle_waiter);
    }
}

static bool refuse_second(NbdShared *shared, GError **error)
{
    if (!shared->server && !shared->busy) {
        return false;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_EXISTS,
                "the NBD server is %s; end it by nbd-server-stop first",
                shared->busy ? "just being started or stopped" : "already running");
    return true;
}

static bool co_fn server_co_listen(NbdServer *server, GError **error)
{
    ListenWork work = {.place = server->place};

    aio_co_run_worker(do_listen, &work);
    if (work.fd < 0) {
        g_propagate_prefixed_error(error, work.error, "the NBD server does not start: ");
        return false;
    }
    server->listen_fd = work.fd;
    server->file = work.file;
    return true;
}

bool nbd_server_co_listen(NbdShared *shared, const NbdServerConfig *config, GError **error)
{
    NbdServer *server;

    if (refuse_second(shared, error)) {
        return false;
    }
    server = server_new(shared, config);
    if (!server_get_tls(server, config, error)) {
        server_unref(server);
        return false;
    }
    nbd_shared_set_busy(shared, true);
    if (!server_co_listen(server, error)) {
        nbd_shared_set_busy(shared, false);
        server_let_go_of_tls(server);
        server_unref(server);
        return false;
    }
    shared->server = server;
    nbd_server_set_directory(shared, &server->directory);
    server_update(server);
    nbd_shared_set_busy(shared, false);
    return true;
}

void nbd_server_forget_socket(NbdShared *shared)
{
    if (shared->server) {
        g_clear_pointer(&shared->server->file, socket_file_remove);
    }
}

/* Nobody comes any more. */
static void server_stop_listening(NbdServer *server)
{
    g_clear_pointer(&server->watch, aio_watch_free);
    g_clear_pointer(&server->pause, aio_timer_free);
    g_clear_pointer(&server->file, socket_file_remove);
    if (server->listen_fd >= 0) {
        close(server->listen_fd);
        server->listen_fd = -1;
    }
}

static void co_fn server_co_end_handshakes(NbdServer *server)
{
    g_queue_foreach(&server->handshakes, (GFunc)(void (*)(void))nbd_handshake_cancel, NULL);
    while (!g_queue_is_empty(&server->handshakes)) {
        ExportWaiter waiter = {0};

        server->idle_waiter = &waiter;
        export_waiter_co_wait(&waiter, INT64_MAX);
        server->idle_waiter = NULL;
    }
}

void nbd_server_close(NbdServer *server)
{
    server->ending = true;
    server_stop_listening(server);
}

void nbd_server_co_end(NbdServer *server)
{
    nbd_server_close(server);
    server_co_end_handshakes(server);
    server_let_go_of_tls(server);
    server_unref(server);
}

/* ---- clients ---- */

static void seat_left(void *opaque)
{
    NbdSeat *seat = opaque;
    NbdServer *server = seat->server;

    g_free(seat);
    server->clients--;
    server_update(server);
    server_unref(server);
}

void nbd_server_seat_leave(NbdSeat *seat)
{
    aio_bh_schedule_oneshot(seat->ctx, seat_left, seat);
}

static NbdSeat *seat_new(NbdServer *server)
{
    NbdSeat *seat = g_new(NbdSeat, 1);

    *seat = (NbdSeat){server, server->ctx};
    server->refs++;
    server->clients++;
    return seat;
}

static void on_handshake_gone(gpointer opaque, NbdHandshake *handshake)
{
    NbdServer *server = opaque;

    g_queue_remove(&server->handshakes, handshake);
    if (server->idle_waiter) {
        export_waiter_wake(server->idle_waiter);
    }
}

/* No waiting for more to send at once, and find out who has vanished. */
static void prepare_tcp(int fd)
{
    const int on = 1, idle = KEEP_IDLE_S, interval = KEEP_INTERVAL_S, probes = KEEP_PROBES;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

/*
 * More room than the system gives, so that a large answer takes fewer turns; yet no more than stays
 * in the processor's cache. Without privileges the system has a limit, which is no failure.
 */
static void prepare_unix(int fd)
{
    const int room = UNIX_ROOM;

    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) < 0) {
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    }
}

static void prepare_socket(int fd)
{
    int domain = 0;
    socklen_t length = sizeof(domain);

    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length);
    if (domain == AF_UNIX) {
        prepare_unix(fd);
    } else {
        prepare_tcp(fd);
    }
}

static void server_welcome(NbdServer *server, int fd)
{
    NbdHandshake *handshake;

    prepare_socket(fd);
    handshake = nbd_handshake_new(server, seat_new(server), fd, server->handshake_max_s,
                                  on_handshake_gone, server);
    g_queue_push_tail(&server->handshakes, handshake);
    nbd_handshake_run(handshake);
}

static void on_pause_over(void *opaque)
{
    NbdServer *server = opaque;

    server->paused = false;
    server_update(server);
}

static void server_pause(NbdServer *server, int err)
{
    if (!server->accept_failed) {
        g_warning("NBD server: cannot accept a client for now: %s", g_strerror(err));
    }
    server->accept_failed = true;
    server->paused = true;
    if (!server->pause) {
        server->pause = aio_timer_new(server->ctx, on_pause_over, server);
    }
    aio_timer_arm(server->pause, aio_now_ns() + ACCEPT_PAUSE_NS);
}

static void on_listen_ready(void *opaque, short revents)
{
    NbdServer *server = opaque;
    int fd = socket_accept(server->listen_fd);

    if (fd >= 0) {
        server->accept_failed = false;
        server_welcome(server, fd);
    } else if (fd != -EAGAIN && fd != -ECONNABORTED) {
        server_pause(server, -fd);
    }
    server_update(server);
}

/* Listen while there is a seat; others wait in the socket's queue. */
static void server_update(NbdServer *server)
{
    bool full = server->max_connections && server->clients >= server->max_connections;

    if (server->listen_fd < 0) {
        return;
    }
    if (full || server->paused) {
        g_clear_pointer(&server->watch, aio_watch_free);
    } else if (!server->watch) {
        server->watch =
            aio_watch_new(server->ctx, server->listen_fd, POLLIN, on_listen_ready, NULL, server);
    }
}

/* ---- queries ---- */

const NbdDirectory *nbd_server_directory(NbdServer *server)
{
    return &server->directory;
}

bool nbd_server_ending(const NbdServer *server)
{
    return server->ending;
}

TlsCreds *nbd_server_tls_creds(const NbdServer *server)
{
    return server->tls_creds;
}

Authz *nbd_server_tls_authz(const NbdServer *server)
{
    return server->tls_authz;
}

AioContext *nbd_server_context(NbdServer *server)
{
    return server->ctx;
}

bool nbd_server_multi_conn(const NbdShared *shared)
{
    return shared->server && shared->server->max_connections != 1;
}

NbdServerInfo *nbd_server_info(const NbdShared *shared)
{
    NbdServerInfo *info = g_new0(NbdServerInfo, 1);
    const NbdServer *server = shared->server;

    info->running = server != NULL;
    if (!server) {
        return info;
    }
    info->address = socket_describe_local(server->listen_fd);
    if (!info->address) {
        info->address = socket_place_describe(server->place);
    }
    info->has_connections = true;
    info->connections = server->clients;
    info->has_max_connections = true;
    info->max_connections = server->max_connections;
    return info;
}
