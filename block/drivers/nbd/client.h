/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/nbd/client.h - a node's way to its export: connections that are made again.
 *
 * A client has a thread of its own, its home, where all of it happens: connections, their libnbd
 * handles, TLS, reconnecting. A request goes there and comes back as a coroutine, whatever thread
 * it came from. So hardly anything needs a lock, whoever receives a reply of 32 MiB holds up no
 * export, and iothreads may come and go.
 *
 * Only small requests that are calm, which come one by one or few at a time from one context, stay
 * where they are: the connection is lent to them for as long as they take, or a millisecond, and
 * nothing of it is left behind.
 *
 * Threads   Main thread: life. Requests: any thread.
 * Lost      A request that was under way, or comes while there is no connection, waits until
 *           reconnect-delay has passed since the loss, and is carried out (again) if the server is
 *           back by then; else it fails with -EIO.
 * Forgotten What a server has acknowledged, and was not flushed when the connection was lost, may
 *           be forgotten: nobody can tell a server that has crashed from one that was out of reach.
 *           So the next flush fails, once, unless the server is said to keep its writes.
 */
#ifndef WHARF_BLOCK_DRIVERS_NBD_CLIENT_H
#define WHARF_BLOCK_DRIVERS_NBD_CLIENT_H

#include "block/drivers/nbd/connection.h"
#include "util/socket.h"

typedef struct NbdClient NbdClient;

/* Fixed for life; the client takes copies and references. */
typedef struct NbdClientOptions {
    const char *node_name;
    const SocketPlace *place;
    const char *export_name;
    TlsCreds *creds; /* or NULL */
    const char *hostname;
    unsigned reconnect_delay_s, open_timeout_s, reply_timeout_s;
    bool keeps_writes; /* the server forgets nothing that it has acknowledged */
} NbdClientOptions;

/* A client that has no connection yet. NULL with @error if there is no thread for it. */
NbdClient *nbd_client_new(const NbdClientOptions *options, GError **error);

/* After nbd_client_co_close(). */
void nbd_client_free(NbdClient *client);

/* Connect for the first time, as long as open-timeout allows. */
bool co_fn nbd_client_co_open(NbdClient *client, GError **error);

/* Say goodbye; in a moment, whatever the server does. No requests come any more. */
void co_fn nbd_client_co_close(NbdClient *client);

/*
 * The daemon ends: wait for no server any more that is not there, and not for long for one that is
 * silent. Main thread, at any time.
 */
void nbd_client_give_up_waiting(NbdClient *client);

/* What the server said at the first time. */
const NbdExportInfo *nbd_client_info(const NbdClient *client);

/* Whether the server offers the export read-only, as far as is known. */
bool nbd_client_is_read_only(NbdClient *client);

/* From now on a new connection to an export that has become read-only is as good as none. */
void nbd_client_set_writing(NbdClient *client, bool writing);

/* What a request does with a connection, perhaps more than once. 0 or -errno. */
typedef int co_fn NbdClientWork(NbdConnection *connection, void *opaque);

/* Carry out @work(.., @opaque) in the client's home. Returns in the thread of the caller. */
int co_fn nbd_client_co_run(NbdClient *client, NbdClientWork *work, void *opaque);

/*
 * The same for @work that is one small command, and does not touch the connection after it: if
 * requests are calm, it is carried out where the caller is. @fua: it is a write with FUA, which is
 * one command only where the server knows that.
 */
int co_fn nbd_client_co_run_brief(NbdClient *client, bool fua, NbdClientWork *work, void *opaque);

/* Why a flush has failed. */
typedef enum NbdFlushFailure {
    NBD_FLUSH_LATE,      /* the server is out of reach, which says nothing of its storage */
    NBD_FLUSH_REFUSED,   /* the server says so */
    NBD_FLUSH_FORGOTTEN, /* by a server that was away: writes that should be durable now, perhaps */
} NbdFlushFailure;

/* Flush. Where that fails *@why says how. */
int co_fn nbd_client_co_flush(NbdClient *client, NbdFlushFailure *why);

#endif
