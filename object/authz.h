/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * object/authz.h - who is let in: the objects authz-simple, authz-list and authz-list-file.
 *
 * An identity is what the peer has proven to be: a certificate's distinguished name, as GnuTLS
 * writes it ("C=DE,O=Example,CN=backup"), or the user name of a pre-shared key. Whatever no rule
 * lets in stays out.
 *
 * Threads   References: any thread. Checks: coroutines of any context.
 * Lifetime  Reference counted. Who works with one holds a reference, and names itself as a user of
 *           its id (object_registry_use()).
 */
#ifndef WHARF_OBJECT_AUTHZ_H
#define WHARF_OBJECT_AUTHZ_H

#include "aio/coroutine.h"
#include "object/object.h"

typedef struct Authz Authz;

/* The authz object @id (a new reference), or NULL with @error if there is none. Main thread. */
Authz *object_registry_get_authz(ObjectRegistry *registry, const char *id, GError **error);

Authz *authz_ref(Authz *authz);
void authz_unref(Authz *authz);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Authz, authz_unref)

/*
 * Whether @identity (NULL: nobody in particular, which is let in by no rule) is let in. If not,
 * @error says who was refused by what. Rules in a file that has changed are read anew, in a worker
 * thread; while the file is missing or wrong nobody is let in.
 */
bool co_fn authz_co_is_allowed(Authz *authz, const char *identity, GError **error);

#endif
