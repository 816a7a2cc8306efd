/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/nbd/tunnel.h - TLS for libnbd, by our own sessions.
 *
 * libnbd could do TLS itself, but reads credentials from their files at each connection, in the
 * event loop, and some of its versions compare no name where the connection was made for it. So
 * what comes before TLS is said here (the greeting, NBD_OPT_STARTTLS), and libnbd is given one end
 * of a socket pair, at which a server greets that needs no TLS. Two coroutines pass bytes on.
 *
 * Threads   One context.
 */
#ifndef WHARF_BLOCK_DRIVERS_NBD_TUNNEL_H
#define WHARF_BLOCK_DRIVERS_NBD_TUNNEL_H

#include "aio/aio.h"
#include "object/tls-creds.h"

typedef struct NbdTunnel NbdTunnel;

/*
 * Begin TLS over @fd, which stays the caller's until the tunnel is closed, by @deadline_ns.
 * *@ret_fd is libnbd's end.
 */
NbdTunnel *co_fn nbd_tunnel_co_open(int fd, TlsCreds *creds, const char *hostname,
                                    int64_t deadline_ns, int *ret_fd, GError **error);

/*
 * End it when libnbd's end is closed: pass on what is left, say goodbye, all by @deadline_ns, and
 * free it. NULL is fine.
 */
void co_fn nbd_tunnel_co_close(NbdTunnel *tunnel, int64_t deadline_ns);

#endif
