/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "object/tls-session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/x509.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "aio/aio.h"
#include "object/tls-internal.h"
#include "util/error.h"

/*
 * Ciphertext is gathered on both ways, since GnuTLS asks for the five bytes of a record's head
 * alone, and hands out each record, 16 KiB, by itself.
 */
#define TLS_BUFFER_SIZE (128 * 1024)

/* Up to so many bytes, the elements of a vector travel in one record. */
#define TLS_GATHER_MAX 4096

typedef struct TlsBuffer {
    char *data;
    size_t begin, end; /* what is in it */
} TlsBuffer;

struct TlsSession {
    TlsCreds *creds;
    Authz *authz;
    int fd;
    char *hostname;
    char *peer;
    gnutls_session_t tls; /* NULL: could not be made, for @init_error */
    int init_error;

    TlsBuffer in, out;
    int in_error, out_error; /* what the socket said last: positive errno */
    bool in_ended;

    AioWatch *watch; /* NULL: in no context */
    Coroutine *reader, *writer;
    short reader_events; /* what the reader waits for */
};

/* ---- the socket ---- */

/* As much as the socket takes now. 0, also if not all is gone, or -errno. */
static int tls_flush_some(TlsSession *s)
{
    TlsBuffer *out = &s->out;

    while (out->begin < out->end) {
        ssize_t n =
            send(s->fd, out->data + out->begin, out->end - out->begin, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == EAGAIN ? 0 : -(s->out_error = errno);
        }
        out->begin += n;
    }
    out->begin = out->end = 0;
    return 0;
}

static ssize_t tls_push(gnutls_transport_ptr_t opaque, const void *data, size_t bytes)
{
    TlsSession *s = opaque;
    TlsBuffer *out = &s->out;
    size_t n;

    if (out->end == TLS_BUFFER_SIZE && tls_flush_some(s) < 0) {
        gnutls_transport_set_errno(s->tls, s->out_error);
        return -1;
    }
    n = MIN(bytes, TLS_BUFFER_SIZE - out->end);
    if (n == 0) {
        gnutls_transport_set_errno(s->tls, EAGAIN);
        return -1;
    }
    memcpy(out->data + out->end, data, n);
    out->end += n;
    return n;
}

/* Something into the empty buffer. False if there is nothing, now or ever. */
static bool tls_fill(TlsSession *s)
{
    ssize_t n;

    do {
        n = recv(s->fd, s->in.data, TLS_BUFFER_SIZE, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    s->in_error = n < 0 ? errno : 0;
    s->in_ended = n == 0;
    s->in.begin = 0;
    s->in.end = MAX(n, 0);
    return n > 0;
}

static ssize_t tls_pull(gnutls_transport_ptr_t opaque, void *data, size_t bytes)
{
    TlsSession *s = opaque;
    TlsBuffer *in = &s->in;
    size_t n;

    if (in->begin == in->end && !tls_fill(s)) {
        gnutls_transport_set_errno(s->tls, s->in_error);
        return s->in_ended ? 0 : -1;
    }
    n = MIN(bytes, in->end - in->begin);
    memcpy(data, in->data + in->begin, n);
    in->begin += n;
    return n;
}

static int tls_pull_timeout(gnutls_transport_ptr_t opaque, unsigned ms)
{
    TlsSession *s = opaque;
    struct pollfd pfd = {.fd = s->fd, .events = POLLIN};

    return s->in.begin < s->in.end || poll(&pfd, 1, 0) > 0;
}

/* ---- waiting ---- */

static void tls_watch_events(TlsSession *s)
{
    aio_watch_set_events(s->watch, (s->reader ? s->reader_events : 0) | (s->writer ? POLLOUT : 0));
}

static void tls_wake(Coroutine **waiter)
{
    if (*waiter) {
        aio_co_wake(g_steal_pointer(waiter));
    }
}

static void on_ready(void *opaque, short revents)
{
    TlsSession *s = opaque;

    if (revents & (s->reader_events | ~(POLLIN | POLLOUT))) {
        tls_wake(&s->reader);
    }
    if (revents & ~POLLIN) {
        tls_wake(&s->writer);
    }
    tls_watch_events(s);
}

/* Wait as @waiter until the socket is ready for it. A wake-up may be in vain. */
static void co_fn tls_co_wait(TlsSession *s, Coroutine **waiter)
{
    g_assert(!*waiter);
    *waiter = coroutine_self();
    if (!s->watch) {
        s->watch = aio_watch_new(aio_context_current(), s->fd, 0, on_ready, NULL, s);
    }
    tls_watch_events(s);
    coroutine_yield();
}

/*
 * Wait until GnuTLS, which has said GNUTLS_E_AGAIN, can go on reading. To do that it may have to
 * write first, as at an update of keys.
 */
static void co_fn tls_co_wait_readable(TlsSession *s)
{
    s->reader_events = s->in.begin == s->in.end ? POLLIN : 0;
    if (s->out.end == TLS_BUFFER_SIZE) {
        s->reader_events |= POLLOUT;
    }
    if (s->reader_events) {
        tls_co_wait(s, &s->reader);
    }
}

/* A limit in time for one coroutine that waits. */
typedef struct TlsDeadline {
    TlsSession *s;
    AioTimer *timer; /* NULL: no limit */
    bool passed;
} TlsDeadline;

static void on_deadline(void *opaque)
{
    TlsDeadline *deadline = opaque;

    deadline->passed = true;
    tls_wake(&deadline->s->reader);
    tls_wake(&deadline->s->writer);
    if (deadline->s->watch) {
        tls_watch_events(deadline->s);
    }
}

static void tls_deadline_begin(TlsDeadline *deadline, TlsSession *s, int64_t deadline_ns)
{
    *deadline = (TlsDeadline){.s = s};
    if (deadline_ns == G_MAXINT64) {
        return;
    }
    deadline->timer = aio_timer_new(aio_context_current(), on_deadline, deadline);
    aio_timer_arm(deadline->timer, deadline_ns);
}

static void tls_deadline_end(TlsDeadline *deadline)
{
    g_clear_pointer(&deadline->timer, aio_timer_free);
}

/* All of what was pushed. 0 or -errno; -ETIMEDOUT. @deadline may be NULL. */
static int co_fn tls_co_flush(TlsSession *s, const TlsDeadline *deadline)
{
    for (;;) {
        int r = tls_flush_some(s);

        if (r < 0 || s->out.begin == s->out.end) {
            return r;
        }
        if (deadline && deadline->passed) {
            return -ETIMEDOUT;
        }
        tls_co_wait(s, &s->writer);
    }
}

/* ---- life ---- */

static void tls_set_credentials(TlsSession *s)
{
    const TlsCreds *creds = s->creds;

    switch (creds->kind) {
    case GNUTLS_CRD_CERTIFICATE:
        gnutls_credentials_set(s->tls, creds->kind, creds->x509);
        break;
    case GNUTLS_CRD_PSK:
        gnutls_credentials_set(s->tls, creds->kind,
                               creds->psk_server ? (void *)creds->psk_server
                                                 : (void *)creds->psk_client);
        break;
    default:
        gnutls_credentials_set(s->tls, creds->kind,
                               creds->anon_server ? (void *)creds->anon_server
                                                  : (void *)creds->anon_client);
        break;
    }
}

static bool is_address(const char *host)
{
    struct in6_addr addr;

    return inet_pton(AF_INET, host, &addr) == 1 || inet_pton(AF_INET6, host, &addr) == 1;
}

static int tls_init(TlsSession *s)
{
    bool server = s->creds->endpoint == TLS_CREDS_ENDPOINT_SERVER;
    int r = gnutls_init(&s->tls, (server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK |
                                     GNUTLS_NO_SIGNAL);

    if (r < 0) {
        s->tls = NULL;
        return r;
    }
    gnutls_session_set_ptr(s->tls, s->creds);
    gnutls_transport_set_ptr(s->tls, s);
    gnutls_transport_set_push_function(s->tls, tls_push);
    gnutls_transport_set_pull_function(s->tls, tls_pull);
    gnutls_transport_set_pull_timeout_function(s->tls, tls_pull_timeout);
    gnutls_handshake_set_timeout(s->tls, GNUTLS_INDEFINITE_TIMEOUT);
    tls_set_credentials(s);
    if (server && s->creds->x509) {
        gnutls_certificate_server_set_request(s->tls, s->creds->verify_peer ? GNUTLS_CERT_REQUEST
                                                                            : GNUTLS_CERT_IGNORE);
    }
    if (!server && s->hostname && *s->hostname && !is_address(s->hostname)) {
        gnutls_server_name_set(s->tls, GNUTLS_NAME_DNS, s->hostname, strlen(s->hostname));
    }
    return gnutls_priority_set(s->tls, s->creds->priority);
}

TlsSession *tls_session_new(TlsCreds *creds, int fd, const char *hostname, Authz *authz)
{
    TlsSession *s = g_new0(TlsSession, 1);

    s->creds = tls_creds_ref(creds);
    s->authz = authz ? authz_ref(authz) : NULL;
    s->fd = fd;
    s->hostname = g_strdup(hostname);
    s->in.data = g_malloc(TLS_BUFFER_SIZE);
    s->out.data = g_malloc(TLS_BUFFER_SIZE);
    s->init_error = tls_init(s);
    return s;
}

void tls_session_detach(TlsSession *s)
{
    g_assert(!s->reader && !s->writer);
    g_clear_pointer(&s->watch, aio_watch_free);
}

void tls_session_free(TlsSession *s)
{
    if (!s) {
        return;
    }
    tls_session_detach(s);
    g_clear_pointer(&s->tls, gnutls_deinit);
    tls_creds_unref(s->creds);
    authz_unref(s->authz);
    g_free(s->in.data);
    g_free(s->out.data);
    g_free(s->hostname);
    g_free(s->peer);
    g_free(s);
}

/* ---- the handshake ---- */

/* GnuTLS gave up with @r. */
static void tls_set_handshake_error(TlsSession *s, int r, GError **error)
{
    if (s->in_ended) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO,
                    "the peer closed the connection during the TLS handshake");
        return;
    }
    switch (r) {
    case GNUTLS_E_FATAL_ALERT_RECEIVED:
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "the peer refused the TLS handshake: %s",
                    gnutls_alert_get_name(gnutls_alert_get(s->tls)));
        break;
    case GNUTLS_E_PULL_ERROR:
        wharf_set_error_errno(error, s->in_error, "TLS handshake");
        break;
    case GNUTLS_E_PUSH_ERROR:
        wharf_set_error_errno(error, s->out_error, "TLS handshake");
        break;
    default:
        tls_set_error(error, r, "the TLS handshake failed");
        break;
    }
}

/* Tell the peer why, if it still listens; nobody waits for that. */
static void tls_send_alert(TlsSession *s, gnutls_alert_description_t alert)
{
    gnutls_alert_send(s->tls, GNUTLS_AL_FATAL, alert);
    tls_flush_some(s);
}

static bool co_fn tls_co_shake(TlsSession *s, const TlsDeadline *deadline, GError **error)
{
    for (;;) {
        int r = gnutls_handshake(s->tls);
        int sent = tls_co_flush(s, deadline);

        if (r < 0 && gnutls_error_is_fatal(r)) {
            gnutls_alert_send_appropriate(s->tls, r);
            tls_flush_some(s);
            tls_set_handshake_error(s, r, error);
            return false;
        }
        if (sent < 0 && sent != -ETIMEDOUT) {
            wharf_set_error_errno(error, -sent, "TLS handshake");
            return false;
        }
        if (deadline->passed) {
            g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO,
                        "the peer did not finish the TLS handshake in time");
            return false;
        }
        if (r == 0) {
            return true;
        }
        if (r == GNUTLS_E_AGAIN) {
            tls_co_wait_readable(s);
        }
    }
}

static char *tls_certificate_name(gnutls_x509_crt_t cert)
{
    gnutls_datum_t name = {0};
    char *text;

    if (gnutls_x509_crt_get_dn2(cert, &name) < 0) {
        return NULL;
    }
    text = g_strndup((const char *)name.data, name.size);
    gnutls_free(name.data);
    return text;
}

/* The distinguished name in the peer's certificate, which is yet to be verified; or NULL. */
static char *tls_peer_certificate_name(TlsSession *s)
{
    unsigned n = 0;
    const gnutls_datum_t *chain = gnutls_certificate_get_peers(s->tls, &n);
    gnutls_x509_crt_t cert;
    char *name = NULL;

    if (!chain || n == 0 || gnutls_x509_crt_init(&cert) < 0) {
        return NULL;
    }
    if (gnutls_x509_crt_import(cert, &chain[0], GNUTLS_X509_FMT_DER) == 0) {
        name = tls_certificate_name(cert);
    }
    gnutls_x509_crt_deinit(cert);
    return name;
}

static void tls_set_status_error(unsigned status, const char *name, GError **error)
{
    g_autofree char *shown = wharf_printable(name ? name : "");
    gnutls_datum_t text = {0};

    gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0);
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC, "certificate '%s' of the peer: %s", shown,
                text.data ? g_strchomp((char *)text.data) : "not trusted");
    gnutls_free(text.data);
}

static bool tls_verify_certificate(TlsSession *s, GError **error)
{
    bool server = s->creds->endpoint == TLS_CREDS_ENDPOINT_SERVER;
    g_autofree char *name = tls_peer_certificate_name(s);
    gnutls_typed_vdata_st wanted[2] = {
        {.type = GNUTLS_DT_KEY_PURPOSE_OID,
         .data = (unsigned char *)(server ? GNUTLS_KP_TLS_WWW_CLIENT : GNUTLS_KP_TLS_WWW_SERVER)},
        {.type = GNUTLS_DT_DNS_HOSTNAME, .data = (unsigned char *)s->hostname},
    };
    unsigned status = 0;
    int r;

    if (!gnutls_certificate_get_peers(s->tls, NULL)) {
        tls_send_alert(s, GNUTLS_A_CERTIFICATE_REQUIRED);
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC, "the peer has sent no certificate");
        return false;
    }
    r = gnutls_certificate_verify_peers(s->tls, wanted, s->hostname ? 2 : 1, &status);
    if (r < 0) {
        tls_send_alert(s, GNUTLS_A_BAD_CERTIFICATE);
        tls_set_error(error, r, "the peer's certificate cannot be verified");
        return false;
    }
    if (status != 0) {
        tls_send_alert(s, GNUTLS_A_BAD_CERTIFICATE);
        tls_set_status_error(status, name, error);
        return false;
    }
    s->peer = g_steal_pointer(&name);
    return true;
}

/* Find out who the peer is. */
static bool tls_verify_peer(TlsSession *s, GError **error)
{
    if (s->creds->x509 && s->creds->verify_peer) {
        return tls_verify_certificate(s, error);
    }
    if (s->creds->psk_server) {
        s->peer = g_strdup(gnutls_psk_server_get_username(s->tls));
    }
    return true;
}

static bool co_fn tls_co_authorize(TlsSession *s, GError **error)
{
    if (!s->authz || authz_co_is_allowed(s->authz, s->peer, error)) {
        return true;
    }
    tls_send_alert(s, GNUTLS_A_ACCESS_DENIED);
    return false;
}

bool co_fn tls_session_co_handshake(TlsSession *s, int64_t deadline_ns, GError **error)
{
    TlsDeadline deadline;
    bool ok;

    if (s->init_error < 0) {
        tls_set_error(error, s->init_error, "cannot begin a TLS session");
        return false;
    }
    tls_deadline_begin(&deadline, s, deadline_ns);
    ok = tls_co_shake(s, &deadline, error);
    tls_deadline_end(&deadline);
    return ok && tls_verify_peer(s, error) && tls_co_authorize(s, error);
}

const char *tls_session_peer(const TlsSession *s)
{
    return s->peer;
}

char *tls_session_describe(const TlsSession *s)
{
    char *desc = gnutls_session_get_desc(s->tls);
    char *copy = g_strdup(desc ? desc : "no TLS");

    gnutls_free(desc);
    return copy;
}

/* ---- data ---- */

/* What GnuTLS' fatal @r means for a request. */
static int tls_errno(const TlsSession *s, int r)
{
    if (s->in_ended) {
        return -ECONNRESET;
    }
    switch (r) {
    case GNUTLS_E_PULL_ERROR:
        return s->in_error ? -s->in_error : -EIO;
    case GNUTLS_E_PUSH_ERROR:
        return s->out_error ? -s->out_error : -EIO;
    case GNUTLS_E_MEMORY_ERROR:
        return -ENOMEM;
    default:
        return -EPROTO;
    }
}

ssize_t co_fn tls_session_co_read(TlsSession *s, void *buffer, size_t bytes)
{
    for (;;) {
        ssize_t n = gnutls_record_recv(s->tls, buffer, bytes);

        if (n >= 0) {
            return n;
        }
        if (gnutls_error_is_fatal(n) || n == GNUTLS_E_REHANDSHAKE) {
            return tls_errno(s, n);
        }
        /* It may have answered the peer, as to an update of keys, or want to. */
        if (tls_flush_some(s) < 0) {
            return -s->out_error;
        }
        if (n == GNUTLS_E_AGAIN) {
            tls_co_wait_readable(s);
        }
    }
}

int co_fn tls_session_co_read_full(TlsSession *s, void *buffer, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = tls_session_co_read(s, (char *)buffer + done, bytes - done);

        if (n <= 0) {
            return n < 0 ? n : -ECONNRESET;
        }
        done += n;
    }
    return 0;
}

bool tls_session_has_pending(const TlsSession *s)
{
    return gnutls_record_check_pending(s->tls) > 0 || s->in.begin < s->in.end;
}

static int co_fn tls_co_write(TlsSession *s, const char *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = gnutls_record_send(s->tls, data, bytes);

        if (n < 0 && gnutls_error_is_fatal(n)) {
            return tls_errno(s, n);
        }
        if (n < 0) {
            int r = tls_co_flush(s, NULL);

            if (r < 0) {
                return r;
            }
            continue;
        }
        data += n;
        bytes -= n;
    }
    return 0;
}

/* The first elements that fit together into @gathered; returns their number. */
static unsigned tls_gather(char *gathered, size_t *bytes, const struct iovec *iov, unsigned n)
{
    unsigned i;

    *bytes = 0;
    for (i = 0; i < n && iov[i].iov_len <= TLS_GATHER_MAX - *bytes; i++) {
        if (iov[i].iov_len > 0) { /* an empty element may be nowhere */
            memcpy(gathered + *bytes, iov[i].iov_base, iov[i].iov_len);
            *bytes += iov[i].iov_len;
        }
    }
    return i;
}

int co_fn tls_session_co_writev(TlsSession *s, const struct iovec *iov, unsigned n)
{
    char gathered[TLS_GATHER_MAX];
    int r = 0;

    for (unsigned i = 0; i < n && r == 0;) {
        size_t bytes;
        unsigned together = tls_gather(gathered, &bytes, iov + i, n - i);

        r = together ? tls_co_write(s, gathered, bytes)
                     : tls_co_write(s, iov[i].iov_base, iov[i].iov_len);
        i += MAX(together, 1);
    }
    return r < 0 ? r : tls_co_flush(s, NULL);
}

void co_fn tls_session_co_bye(TlsSession *s, int64_t deadline_ns)
{
    TlsDeadline deadline;

    if (!s->tls) {
        return;
    }
    tls_deadline_begin(&deadline, s, deadline_ns);
    while (gnutls_bye(s->tls, GNUTLS_SHUT_WR) == GNUTLS_E_AGAIN && !deadline.passed) {
        if (tls_co_flush(s, &deadline) < 0) {
            break;
        }
    }
    tls_co_flush(s, &deadline);
    tls_deadline_end(&deadline);
}
