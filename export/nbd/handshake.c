/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A new client, from its greeting to the export that it chooses. A coroutine in the main context
 * for each; it has a time limit, after which its socket is shut down, which ends all waiting.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "export/nbd/nbd-internal.h"
#include "util/be.h"

/* For the end of TLS. */
#define HS_BYE_NS (1000 * G_GINT64_CONSTANT(1000000))

/* See NbdClient.linger_ns. */
#define HS_LINGER_NS (60 * G_GINT64_CONSTANT(1000000000))

struct NbdHandshake {
    NbdServer *server;
    NbdSeat *seat;
    int fd;
    TlsSession *tls; /* NULL: still in clear text */
    AioWatch *watch;
    AioTimer *timer; /* NULL: there is no limit */
    Coroutine *waiting;
    NbdHaggle haggle;
    uint8_t data[NBD_HAGGLE_MAX_DATA];
    void (*gone)(gpointer opaque, NbdHandshake *handshake);
    gpointer opaque;
};

static void hs_on_ready(void *opaque, short revents)
{
    NbdHandshake *hs = opaque;

    aio_watch_set_events(hs->watch, 0);
    if (hs->waiting) {
        aio_co_wake(g_steal_pointer(&hs->waiting));
    }
}

static void co_fn hs_co_wait(NbdHandshake *hs, short events)
{
    hs->waiting = coroutine_self();
    aio_watch_set_events(hs->watch, events);
    coroutine_yield();
}

void nbd_handshake_cancel(NbdHandshake *hs)
{
    shutdown(hs->fd, SHUT_RDWR);
}

static void hs_on_timeout(void *opaque)
{
    nbd_handshake_cancel(opaque);
}

/* ---- bytes ---- */

/* Exactly @bytes bytes, and none of what follows: that may be the next phase's. */
static bool co_fn hs_co_recv(NbdHandshake *hs, void *buffer, size_t bytes)
{
    if (hs->tls) {
        return tls_session_co_read_full(hs->tls, buffer, bytes) == 0;
    }
    while (bytes) {
        ssize_t n = recv(hs->fd, buffer, bytes, MSG_DONTWAIT);

        if (n > 0) {
            buffer = (char *)buffer + n;
            bytes -= n;
        } else if (n < 0 && errno == EAGAIN) {
            hs_co_wait(hs, POLLIN);
        } else if (n == 0 || errno != EINTR) {
            return false;
        }
    }
    return true;
}

static bool co_fn hs_co_send(NbdHandshake *hs, const void *buffer, size_t bytes)
{
    if (hs->tls) {
        const struct iovec iov = {(void *)buffer, bytes};

        return tls_session_co_writev(hs->tls, &iov, 1) == 0;
    }
    while (bytes) {
        ssize_t n = send(hs->fd, buffer, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n >= 0) {
            buffer = (const char *)buffer + n;
            bytes -= n;
        } else if (errno == EAGAIN) {
            hs_co_wait(hs, POLLOUT);
        } else if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

static bool co_fn hs_co_skip(NbdHandshake *hs, uint32_t bytes)
{
    while (bytes) {
        uint32_t step = MIN(bytes, sizeof(hs->data));

        if (!hs_co_recv(hs, hs->data, step)) {
            return false;
        }
        bytes -= step;
    }
    return true;
}

static void hs_let_go(NbdHandshake *hs)
{
    g_clear_pointer(&hs->watch, aio_watch_free);
    g_clear_pointer(&hs->timer, aio_timer_free);
}

/* ---- haggling ---- */

static bool co_fn hs_co_greet(NbdHandshake *hs)
{
    uint8_t greeting[NBD_GREETING_BYTES];
    uint8_t flags[4];

    nbd_wire_put_greeting(greeting);
    return hs_co_send(hs, greeting, sizeof(greeting)) && hs_co_recv(hs, flags, sizeof(flags)) &&
           nbd_haggle_set_client_flags(&hs->haggle, be32_get(flags));
}

/* Receive the data of an option. *@data is NULL if it is too much for any. */
static bool co_fn hs_co_recv_data(NbdHandshake *hs, const NbdOptionHeader *header,
                                  const void **data)
{
    if (header->length <= sizeof(hs->data)) {
        *data = hs->data;
        return hs_co_recv(hs, hs->data, header->length);
    }
    *data = NULL;
    return header->length <= NBD_HAGGLE_MAX_SKIP && hs_co_skip(hs, header->length);
}

/* One option. False: the connection is to be closed. */
static bool co_fn hs_co_option(NbdHandshake *hs, NbdHaggleStep *step)
{
    uint8_t bytes[NBD_OPTION_BYTES];
    NbdOptionHeader header;
    const void *data;

    if (!hs_co_recv(hs, bytes, sizeof(bytes)) || !nbd_wire_get_option(bytes, &header) ||
        !hs_co_recv_data(hs, &header, &data)) {
        return false;
    }
    g_byte_array_set_size(hs->haggle.reply, 0);
    hs->haggle.shutting_down = nbd_server_ending(hs->server);
    *step = nbd_haggle_option(&hs->haggle, &header, data);
    return true;
}

/* What the handshake has come to, for the export. The socket is no longer the handshake's. */
static NbdClient hs_take_client(NbdHandshake *hs)
{
    const GArray *ids = hs->haggle.meta_ids;
    NbdClient client = {
        .fd = hs->fd,
        .tls = hs->tls,
        .terms = hs->haggle.terms,
        .context_ids = g_memdup2(ids->data, ids->len * sizeof(uint32_t)),
        .seat = hs->seat,
        .linger_ns = HS_LINGER_NS,
    };

    if (hs->tls) {
        tls_session_detach(hs->tls);
    }
    hs_let_go(hs);
    hs->tls = NULL;
    hs->fd = -1;
    return client;
}

/*
 * Tell the client that it may begin, and hand it over. No other work of the main thread comes
 * between, so whoever hears of it from the client finds that the export is in use.
 */
static bool co_fn hs_co_hand_over(NbdHandshake *hs)
{
    NbdExport *ne = hs->haggle.chosen->self;
    g_autoptr(Export) exp = export_ref(&ne->common);
    NbdQueue *queue;
    NbdClient client;

    if (!hs_co_send(hs, hs->haggle.reply->data, hs->haggle.reply->len) || !ne->published) {
        return false;
    }
    queue = nbd_export_enter(ne);
    client = hs_take_client(hs);
    aio_co_reschedule_self(queue->common.ctx);
    nbd_connection_begin(queue, &client);
    aio_co_reschedule_self(nbd_server_context(hs->server));
    nbd_export_entered(ne);
    return true;
}

/*
 * The client has been told that TLS begins. If that fails the connection must end, for what the
 * client would say in clear text is not meant for that.
 */
static bool co_fn hs_co_start_tls(NbdHandshake *hs)
{
    g_autoptr(GError) error = NULL;

    hs->tls = tls_session_new(nbd_server_tls_creds(hs->server), hs->fd, NULL,
                              nbd_server_tls_authz(hs->server));
    /* The time limit of it all ends this, too. */
    if (!tls_session_co_handshake(hs->tls, INT64_MAX, &error)) {
        g_info("NBD server: a client is sent away: %s", error->message);
        return false;
    }
    nbd_haggle_set_tls(&hs->haggle);
    return true;
}

/* Returns whether an export has the client now. */
static bool co_fn hs_co_haggle(NbdHandshake *hs)
{
    NbdHaggleStep step = NBD_HAGGLE_ON;

    if (!hs_co_greet(hs)) {
        return false;
    }
    while (step == NBD_HAGGLE_ON) {
        if (!hs_co_option(hs, &step)) {
            return false;
        }
        if (step == NBD_HAGGLE_GO) {
            return hs_co_hand_over(hs);
        }
        if (!hs_co_send(hs, hs->haggle.reply->data, hs->haggle.reply->len)) {
            return false;
        }
        if (step == NBD_HAGGLE_STARTTLS) {
            if (!hs_co_start_tls(hs)) {
                return false;
            }
            step = NBD_HAGGLE_ON;
        }
    }
    return false;
}

static void co_fn hs_co_end_tls(NbdHandshake *hs)
{
    if (hs->tls && hs->haggle.tls) {
        tls_session_co_bye(hs->tls, aio_now_ns() + HS_BYE_NS);
    }
    g_clear_pointer(&hs->tls, tls_session_free);
}

static void hs_free(NbdHandshake *hs)
{
    nbd_haggle_clear(&hs->haggle);
    g_free(hs);
}

static void co_fn hs_co_run(void *opaque)
{
    NbdHandshake *hs = opaque;

    if (!hs_co_haggle(hs)) {
        hs_let_go(hs);
        hs_co_end_tls(hs);
        shutdown(hs->fd, SHUT_RDWR);
        close(hs->fd);
        nbd_server_seat_leave(hs->seat);
    }
    hs->gone(hs->opaque, hs);
    hs_free(hs);
}

NbdHandshake *nbd_handshake_new(NbdServer *server, NbdSeat *seat, int fd, unsigned max_s,
                                void (*gone)(gpointer opaque, NbdHandshake *handshake),
                                gpointer opaque)
{
    NbdHandshake *hs = g_new0(NbdHandshake, 1);
    AioContext *ctx = nbd_server_context(server);

    hs->server = server;
    hs->seat = seat;
    hs->fd = fd;
    hs->gone = gone;
    hs->opaque = opaque;
    hs->watch = aio_watch_new(ctx, fd, 0, hs_on_ready, NULL, hs);
    nbd_haggle_init(&hs->haggle, nbd_server_directory(server));
    hs->haggle.tls_possible = nbd_server_tls_creds(server) != NULL;
    hs->haggle.tls_required = hs->haggle.tls_possible;
    if (max_s) {
        hs->timer = aio_timer_new(ctx, hs_on_timeout, hs);
        aio_timer_arm(hs->timer, aio_now_ns() + max_s * G_GINT64_CONSTANT(1000000000));
    }
    return hs;
}

void nbd_handshake_run(NbdHandshake *hs)
{
    aio_co_enter(nbd_server_context(hs->server), hs_co_run, hs);
}
