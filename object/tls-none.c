/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLS in a build without GnuTLS: no credentials can be made, so there are none to be found and no
 * sessions. What takes either is never called.
 */
#include <errno.h>

#include "object/tls-session.h"
#include "util/error.h"

TlsCreds *object_registry_get_tls_creds(ObjectRegistry *registry, const char *id,
                                        TlsCredsEndpoint endpoint, GError **error)
{
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                "there are no TLS credentials '%s', for this build has no TLS (GnuTLS)", id);
    return NULL;
}

TlsCreds *tls_creds_ref(TlsCreds *creds)
{
    return creds;
}

void tls_creds_unref(TlsCreds *creds)
{
}

TlsSession *tls_session_new(TlsCreds *creds, int fd, const char *hostname, Authz *authz)
{
    g_assert_not_reached();
}

void tls_session_free(TlsSession *session)
{
}

bool co_fn tls_session_co_handshake(TlsSession *session, int64_t deadline_ns, GError **error)
{
    g_assert_not_reached();
}

const char *tls_session_peer(const TlsSession *session)
{
    return NULL;
}

char *tls_session_describe(const TlsSession *session)
{
    return NULL;
}

ssize_t co_fn tls_session_co_read(TlsSession *session, void *buffer, size_t bytes)
{
    return -EPROTO;
}

int co_fn tls_session_co_read_full(TlsSession *session, void *buffer, size_t bytes)
{
    return -EPROTO;
}

bool tls_session_has_pending(const TlsSession *session)
{
    return false;
}

int co_fn tls_session_co_writev(TlsSession *session, const struct iovec *iov, unsigned n)
{
    return -EPROTO;
}

void co_fn tls_session_co_bye(TlsSession *session, int64_t deadline_ns)
{
}

void tls_session_detach(TlsSession *session)
{
}
