/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/nbd/server.h - the server as a whole: its start and its end.
 *
 * Threads   Main thread; co_fn in coroutines of the main context.
 */
#ifndef WHARF_EXPORT_NBD_SERVER_H
#define WHARF_EXPORT_NBD_SERVER_H

#include "export/nbd/nbd-internal.h"
#include "util/socket.h"

typedef struct NbdServerConfig {
    SocketPlace *place;       /* where to listen; owned */
    unsigned handshake_max_s; /* 0: for ever */
    unsigned max_connections; /* 0: any number */

    ObjectRegistry *objects; /* where the next two are from; borrowed */
    char *tls_creds;         /* id; NULL: no TLS. Owned */
    char *tls_authz;         /* id; NULL: everybody. Owned */
} NbdServerConfig;

void nbd_server_config_clear(NbdServerConfig *config);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(NbdServerConfig, nbd_server_config_clear)

/* A start or a stop of the server begins or is over. */
void nbd_shared_set_busy(NbdShared *shared, bool busy);

/* Begin to listen; shared->server is there then. */
bool co_fn nbd_server_co_listen(NbdShared *shared, const NbdServerConfig *config, GError **error);

/* Let nobody in any more; who negotiates is told that the server ends. */
void nbd_server_close(NbdServer *server);

/* The same, send those away, and free it as soon as its last client has left. */
void co_fn nbd_server_co_end(NbdServer *server);

/* Remove the socket's name: for an end that cannot wait. */
void nbd_server_forget_socket(NbdShared *shared);

NbdServerInfo *nbd_server_info(const NbdShared *shared);

/* Fill in how clients find exports. */
void nbd_server_set_directory(NbdShared *shared, NbdDirectory *directory);

#endif
