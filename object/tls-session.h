/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * object/tls-session.h - a TLS connection over a non-blocking stream socket, for coroutines.
 *
 * Threads   A session belongs to the context of whoever calls it, and to another one only after
 *           tls_session_detach(). There, one coroutine may read while another writes.
 * Lifetime  The descriptor stays the caller's and open until the session is freed, which may be
 *           done in the owning context, or anywhere after a detach. Nobody reads or writes then.
 * Errors    The handshake fills @error, with a message that names the reason and, where it is
 *           known, the peer; everything after it returns -errno: -EPROTO for what is no TLS or was
 *           tampered with, -ECONNRESET where the peer went without saying goodbye. After an error
 *           the session is of no use any more; the connection is to be closed.
 * Ending    To end waiting calls early, shutdown() the socket: they return with an error or 0.
 */
#ifndef WHARF_OBJECT_TLS_SESSION_H
#define WHARF_OBJECT_TLS_SESSION_H

#include <sys/uio.h>

#include "object/authz.h"
#include "object/tls-creds.h"

typedef struct TlsSession TlsSession;

/*
 * A session over @fd, for the side that @creds are for. For a client, @hostname is whom the
 * server's certificate must be for (NULL: any name the authority has signed for; not used with
 * other kinds of credentials). For a server, @authz (may be NULL: whoever proves to be somebody) is
 * asked for leave for the peer's identity. Never fails. Any thread.
 */
TlsSession *tls_session_new(TlsCreds *creds, int fd, const char *hostname, Authz *authz);
void tls_session_free(TlsSession *session);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TlsSession, tls_session_free)

/*
 * Shake hands, waiting for the peer until @deadline_ns of CLOCK_MONOTONIC (G_MAXINT64: for ever),
 * verify it, and ask the authz object. Must have succeeded before anything is read or written.
 */
bool co_fn tls_session_co_handshake(TlsSession *session, int64_t deadline_ns, GError **error);

/* Who the peer has proven to be (see object/authz.h), or NULL. Valid as long as the session. */
const char *tls_session_peer(const TlsSession *session);

/* "TLS1.3 ECDHE-PSK AES-256-GCM" or so, for logs. The caller frees it. */
char *tls_session_describe(const TlsSession *session);

/* Read 1 to @bytes bytes, waiting for the first. 0 after the peer's goodbye, or -errno. */
ssize_t co_fn tls_session_co_read(TlsSession *session, void *buffer, size_t bytes);

/* Read exactly @bytes bytes. 0, or -errno; -ECONNRESET if they end before. */
int co_fn tls_session_co_read_full(TlsSession *session, void *buffer, size_t bytes);

/* Whether a read would return at once with what has been decrypted already. */
bool tls_session_has_pending(const TlsSession *session);

/* Write all of the @n elements of @iov, waiting where the socket is full. 0, or -errno. */
int co_fn tls_session_co_writev(TlsSession *session, const struct iovec *iov, unsigned n);

/* Tell the peer that nothing more will be written, waiting no longer than until @deadline_ns. */
void co_fn tls_session_co_bye(TlsSession *session, int64_t deadline_ns);

/* Leave the current context: nobody reads or writes. The next call that waits takes up its own. */
void tls_session_detach(TlsSession *session);

#endif
