/* SPDX-License-Identifier: GPL-2.0-or-later */
/* object/tls-internal.h - what the files of TLS share. Built with GnuTLS only. */
#ifndef WHARF_OBJECT_TLS_INTERNAL_H
#define WHARF_OBJECT_TLS_INTERNAL_H

#include <gnutls/gnutls.h>

#include "object/class.h"
#include "object/tls-creds.h"

struct TlsCreds {
    gint refs; /* atomic */
    TlsCredsEndpoint endpoint;
    bool verify_peer; /* x509 alone */
    gnutls_priority_t priority;

    /* What a session is given, of one kind. */
    gnutls_credentials_type_t kind;
    gnutls_certificate_credentials_t x509;
    gnutls_psk_client_credentials_t psk_client;
    gnutls_psk_server_credentials_t psk_server;
    gnutls_anon_client_credentials_t anon_client;
    gnutls_anon_server_credentials_t anon_server;

    gnutls_dh_params_t dh_params;
    GHashTable *keys; /* of a server's psk: user -> GByteArray */
};

/* Set @error to "@format: " and what GnuTLS says of its error @r. */
void tls_set_error(GError **error, int r, const char *format, ...) G_GNUC_PRINTF(3, 4);

/*
 * Credentials with what all kinds have in common. @priority: as in the options, or NULL; @kinds is
 * added to it ("+ANON-DH"), or NULL. NULL with @error if the priority is none.
 */
TlsCreds *tls_creds_new(TlsCredsEndpoint endpoint, const char *priority,
                        gnutls_credentials_type_t kind, const char *kinds, GError **error);

/*
 * The parameters in @dir/dh-params.pem, if there is such a file, into @creds. Blocks: in a worker.
 */
bool tls_creds_load_dh_params(TlsCreds *creds, const char *dir, GError **error);

/* The instance of an object: a reference to TlsCreds. */
void tls_creds_destroy(gpointer instance);

/* Any bytes as GnuTLS takes them, which reads only. */
static inline gnutls_datum_t tls_datum(const void *data, size_t len)
{
    return (gnutls_datum_t){(unsigned char *)data, len};
}

#endif
