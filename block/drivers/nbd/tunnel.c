/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/nbd/tunnel.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "aio/lock.h"
#include "block/drivers/nbd/wait.h"
#include "object/tls-session.h"
#include "util/error.h"

#define PUMP_SIZE (128 * 1024)

/* Of the NBD protocol's document. */
#define NBD_INIT_MAGIC       UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC     UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_REPLY_MAGIC      UINT64_C(0x0003e889045565a9)
#define NBD_FLAG_FIXED       1u
#define NBD_FLAG_NO_ZEROES   2u
#define NBD_OPT_STARTTLS     5u
#define NBD_REP_ACK          1u
#define NBD_REP_IS_ERROR     (UINT32_C(1) << 31)
#define NBD_REPLY_TEXT_BYTES 4096

typedef struct NbdGreeting {
    uint64_t init_magic, option_magic;
    uint16_t flags;
} __attribute__((packed)) NbdGreeting;

/* The answer to the greeting, and the first option right behind it. */
typedef struct NbdStart {
    uint32_t flags;
    uint64_t magic;
    uint32_t option, length;
} __attribute__((packed)) NbdStart;

typedef struct NbdOptionReply {
    uint64_t magic;
    uint32_t option, type, length;
} __attribute__((packed)) NbdOptionReply;

struct NbdTunnel {
    int fd;    /* to the server; the caller's */
    int inner; /* to libnbd */
    TlsSession *tls;
    int pumps; /* that run */
    CoQueue ended;
};

/* ---- what comes before TLS ---- */

static bool set_talk_error(int r, GError **error)
{
    if (r == -ECONNRESET) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO,
                    "the server closed the connection before TLS began");
    } else {
        wharf_set_error_errno(error, -r, "the server did not begin TLS");
    }
    return false;
}

static bool check_greeting(const NbdGreeting *greeting, GError **error)
{
    if (be64toh(greeting->init_magic) != NBD_INIT_MAGIC) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "what listens there is no NBD server");
        return false;
    }
    if (be64toh(greeting->option_magic) != NBD_OPTION_MAGIC ||
        !(be16toh(greeting->flags) & NBD_FLAG_FIXED)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED, "the server is too old for TLS");
        return false;
    }
    return true;
}

/* The server says why. Waits for what it announced, but not for more than fits. */
static bool co_fn co_refused(NbdWaiter *in, int fd, const NbdOptionReply *reply,
                             int64_t deadline_ns, GError **error)
{
    char text[NBD_REPLY_TEXT_BYTES + 1] = "";
    g_autofree char *shown = NULL;
    uint32_t length = be32toh(reply->length);

    if (length <= NBD_REPLY_TEXT_BYTES &&
        nbd_waiter_co_read_full(in, fd, text, length, deadline_ns) < 0) {
        text[0] = '\0';
    }
    shown = wharf_printable(text);
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED, "the server refuses TLS%s%s",
                *shown ? ": " : "", shown);
    return false;
}

static bool co_fn co_ask_for_tls(NbdWaiter *in, NbdWaiter *out, int fd, NbdGreeting *greeting,
                                 int64_t deadline_ns, GError **error)
{
    NbdStart start = {
        .magic = htobe64(NBD_OPTION_MAGIC),
        .option = htobe32(NBD_OPT_STARTTLS),
    };
    NbdOptionReply reply;
    int r = nbd_waiter_co_read_full(in, fd, greeting, sizeof(*greeting), deadline_ns);

    if (r < 0) {
        return set_talk_error(r, error);
    }
    if (!check_greeting(greeting, error)) {
        return false;
    }
    start.flags = htobe32(be16toh(greeting->flags) & (NBD_FLAG_FIXED | NBD_FLAG_NO_ZEROES));
    r = nbd_waiter_co_write_full(out, fd, &start, sizeof(start), deadline_ns);
    if (r == 0) {
        r = nbd_waiter_co_read_full(in, fd, &reply, sizeof(reply), deadline_ns);
    }
    if (r < 0) {
        return set_talk_error(r, error);
    }
    if (be64toh(reply.magic) != NBD_REPLY_MAGIC || be32toh(reply.option) != NBD_OPT_STARTTLS) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "the server does not keep to the protocol");
        return false;
    }
    if (be32toh(reply.type) & NBD_REP_IS_ERROR) {
        return co_refused(in, fd, &reply, deadline_ns, error);
    }
    if (be32toh(reply.type) != NBD_REP_ACK || reply.length != 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "the server does not keep to the protocol");
        return false;
    }
    return true;
}

static bool co_fn co_start_tls(int fd, NbdGreeting *greeting, int64_t deadline_ns, GError **error)
{
    NbdWaiter in, out;
    bool ok;

    nbd_waiter_init(&in, fd, POLLIN);
    nbd_waiter_init(&out, fd, POLLOUT);
    ok = co_ask_for_tls(&in, &out, fd, greeting, deadline_ns, error);
    nbd_waiter_clear(&in);
    nbd_waiter_clear(&out);
    return ok;
}

/* ---- passing on ---- */

static void tunnel_pump_ended(NbdTunnel *t)
{
    t->pumps--;
    co_queue_wake_all(&t->ended);
}

/* libnbd answers the greeting, as we have answered it for it already. */
static int co_fn co_swallow_flags(NbdTunnel *t, NbdWaiter *in)
{
    uint32_t flags;

    return nbd_waiter_co_read_full(in, t->inner, &flags, sizeof(flags), G_MAXINT64);
}

/* Some bytes of libnbd's. 0: it has closed its end. */
static ssize_t co_fn co_read_inner(NbdTunnel *t, NbdWaiter *in, char *buffer)
{
    for (;;) {
        ssize_t n = recv(t->inner, buffer, PUMP_SIZE, MSG_DONTWAIT);

        if (n >= 0) {
            return n;
        }
        if (errno == EAGAIN) {
            nbd_waiter_co_wait(in, G_MAXINT64);
        } else if (errno != EINTR) {
            return 0;
        }
    }
}

static void co_fn co_pump_out(void *opaque)
{
    NbdTunnel *t = opaque;
    g_autofree char *buffer = g_malloc(PUMP_SIZE);
    NbdWaiter in;
    int r;

    nbd_waiter_init(&in, t->inner, POLLIN);
    r = co_swallow_flags(t, &in);
    while (r == 0) {
        struct iovec iov = {buffer, co_read_inner(t, &in, buffer)};

        if (iov.iov_len == 0) {
            tls_session_co_bye(t->tls, G_MAXINT64); /* ended by who closes */
            break;
        }
        r = tls_session_co_writev(t->tls, &iov, 1);
    }
    nbd_waiter_clear(&in);
    shutdown(t->inner, SHUT_RDWR);
    shutdown(t->fd, SHUT_RDWR);
    tunnel_pump_ended(t);
}

static void co_fn co_pump_in(void *opaque)
{
    NbdTunnel *t = opaque;
    g_autofree char *buffer = g_malloc(PUMP_SIZE);
    NbdWaiter out;
    int r = 0;

    nbd_waiter_init(&out, t->inner, POLLOUT);
    while (r == 0) {
        ssize_t n = tls_session_co_read(t->tls, buffer, PUMP_SIZE);

        r = n > 0 ? nbd_waiter_co_write_full(&out, t->inner, buffer, n, G_MAXINT64) : -ECONNRESET;
    }
    nbd_waiter_clear(&out);
    shutdown(t->inner, SHUT_WR);
    tunnel_pump_ended(t);
}

/* ---- life ---- */

static void tunnel_free(NbdTunnel *t)
{
    tls_session_free(t->tls);
    if (t->inner >= 0) {
        close(t->inner);
    }
    g_free(t);
}

/* Put the greeting where libnbd will find it. */
static bool tunnel_make_pair(NbdTunnel *t, const NbdGreeting *greeting, int *ret_fd, GError **error)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0) {
        wharf_set_error_errno(error, errno, "cannot make a pair of sockets");
        return false;
    }
    t->inner = fds[0];
    if (send(t->inner, greeting, sizeof(*greeting), MSG_NOSIGNAL) != sizeof(*greeting)) {
        wharf_set_error_errno(error, errno, "cannot write to a new socket");
        close(fds[1]);
        return false;
    }
    *ret_fd = fds[1];
    return true;
}

NbdTunnel *co_fn nbd_tunnel_co_open(int fd, TlsCreds *creds, const char *hostname,
                                    int64_t deadline_ns, int *ret_fd, GError **error)
{
    NbdTunnel *t = g_new0(NbdTunnel, 1);
    NbdGreeting greeting;

    t->fd = fd;
    t->inner = -1;
    t->tls = tls_session_new(creds, fd, hostname, NULL);
    if (!co_start_tls(fd, &greeting, deadline_ns, error) ||
        !tls_session_co_handshake(t->tls, deadline_ns, error) ||
        !tunnel_make_pair(t, &greeting, ret_fd, error)) {
        tunnel_free(t);
        return NULL;
    }
    t->pumps = 2;
    aio_co_enter(aio_context_current(), co_pump_out, t);
    aio_co_enter(aio_context_current(), co_pump_in, t);
    return t;
}

static void on_late(void *opaque)
{
    NbdTunnel *t = opaque;

    shutdown(t->fd, SHUT_RDWR);
    shutdown(t->inner, SHUT_RDWR);
}

void co_fn nbd_tunnel_co_close(NbdTunnel *t, int64_t deadline_ns)
{
    AioTimer *timer;

    if (!t) {
        return;
    }
    timer = aio_timer_new(aio_context_current(), on_late, t);
    aio_timer_arm(timer, deadline_ns);
    while (t->pumps) {
        co_queue_wait(&t->ended, NULL);
    }
    aio_timer_free(timer);
    tunnel_free(t);
}
