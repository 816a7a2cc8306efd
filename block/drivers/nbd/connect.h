/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/nbd/connect.h - a connection that is made in a thread of its own.
 *
 * Looking up a name may take long and cannot be interrupted. So no worker does it, for whoever ends
 * a context waits for its workers: the thread is left behind where nobody wants its result any
 * more, and cleans up after itself.
 *
 * Threads   One context, that of the coroutine that waits.
 */
#ifndef WHARF_BLOCK_DRIVERS_NBD_CONNECT_H
#define WHARF_BLOCK_DRIVERS_NBD_CONNECT_H

#include "aio/aio.h"
#include "util/socket.h"

typedef struct NbdConnect NbdConnect;

/* About to connect to @place. */
NbdConnect *nbd_connect_new(const SocketPlace *place);

/* Once; nobody waits for it. */
void nbd_connect_free(NbdConnect *connect);

/*
 * Do it, once. Returns a descriptor, or -1 with @error when it fails, lasts longer than until
 * @deadline_ns, or is cancelled.
 */
int co_fn nbd_connect_co_run(NbdConnect *connect, int64_t deadline_ns, GError **error);

/* Let the coroutine that waits go on soon, without a result. */
void nbd_connect_cancel(NbdConnect *connect);

#endif
