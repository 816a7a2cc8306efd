/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * object/tls-creds.h - the credentials of one side of TLS connections: the objects tls-creds-x509,
 * tls-creds-psk and tls-creds-anon.
 *
 * Files are read once, in a worker thread, when the object is made, and checked then: what would
 * make every handshake fail is refused by the name of its file.
 *
 * Threads   Immutable; any thread, but for the look-up.
 * Lifetime  Reference counted; sessions hold references of their own. Who makes sessions names
 *           itself as a user of the object's id (object_registry_use()).
 */
#ifndef WHARF_OBJECT_TLS_CREDS_H
#define WHARF_OBJECT_TLS_CREDS_H

#include "object/object.h"

typedef struct TlsCreds TlsCreds;

/*
 * The credentials @id (a new reference); NULL with @error if there are none of that name, or they
 * are for the other side than @endpoint. Main thread.
 */
TlsCreds *object_registry_get_tls_creds(ObjectRegistry *registry, const char *id,
                                        TlsCredsEndpoint endpoint, GError **error);

TlsCreds *tls_creds_ref(TlsCreds *creds);
void tls_creds_unref(TlsCreds *creds);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(TlsCreds, tls_creds_unref)

#endif
