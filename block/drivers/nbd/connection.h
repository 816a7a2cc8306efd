/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/nbd/connection.h - one connection to an export: a libnbd handle in an event loop.
 *
 * Threads   All in the context where it was made: libnbd's lock is never waited for.
 * Errors    Requests return 0 or -errno, -ENOTCONN only where the connection is lost: they may or
 *           may not have been carried out then. A connection that is lost stays so.
 */
#ifndef WHARF_BLOCK_DRIVERS_NBD_CONNECTION_H
#define WHARF_BLOCK_DRIVERS_NBD_CONNECTION_H

#include "block/driver.h"
#include "block/drivers/nbd/tunnel.h"

/* libnbd takes no larger ones, whatever the server says. */
#define NBD_MAX_TRANSFER (32 * 1024 * 1024)

/* What the server says of the export. */
typedef struct NbdExportInfo {
    int64_t size;
    uint32_t min_block, preferred_block, max_block; /* 1, 0, NBD_MAX_TRANSFER if it does not say */
    bool read_only, flush, fua, trim, zero, fast_zero;
    bool extents; /* base:allocation */
} NbdExportInfo;

typedef struct NbdConnection NbdConnection;

/* The connection is lost, for this reason. It must not be freed from here. */
typedef void NbdLostCallback(void *opaque, const char *reason);

/*
 * Talk to the server over @fd, or, with a @tunnel, over @fd to it and over @inner_fd to libnbd, and
 * open the export called @name, by @deadline_ns. All three become the connection's, also if it
 * fails. @reply_timeout_ns: see the option; 0: none.
 */
NbdConnection *co_fn nbd_connection_co_open(int fd, NbdTunnel *tunnel, int inner_fd,
                                            const char *name, int64_t deadline_ns,
                                            int64_t reply_timeout_ns, GError **error);

/* From now on tell of its loss. */
void nbd_connection_set_lost(NbdConnection *c, NbdLostCallback *lost, void *opaque);

/*
 * Say goodbye if it is not lost, and free it, by @deadline_ns. Requests that are still under way
 * return. NULL is fine.
 */
void co_fn nbd_connection_co_close(NbdConnection *c, int64_t deadline_ns);

const NbdExportInfo *nbd_connection_info(const NbdConnection *c);
bool nbd_connection_is_lost(const NbdConnection *c);

/* Whether any request has been answered. */
bool nbd_connection_has_served(const NbdConnection *c);

/*
 * How many writes the server has acknowledged that nothing has made durable since: it may forget
 * them if it crashes. Discards are not among them, for nobody may rely on what they leave; nor are
 * writes that are done only when they are durable; and a server that knows no flush says by that
 * that it needs none.
 */
uint64_t nbd_connection_unflushed(const NbdConnection *c);

/* Take it for lost, for this reason. */
void nbd_connection_lose(NbdConnection *c, const char *reason);

/* How long (ns) the server has been silent although there are requests; 0: there are none. */
int64_t nbd_connection_silence(const NbdConnection *c);

/* Requests. One buffer each, within the export and its limits. */
int co_fn nbd_connection_co_pread(NbdConnection *c, uint64_t offset, void *buffer, size_t bytes);
int co_fn nbd_connection_co_pwrite(NbdConnection *c, uint64_t offset, const void *buffer,
                                   size_t bytes, BlockRequestFlags flags);
int co_fn nbd_connection_co_zero(NbdConnection *c, uint64_t offset, uint64_t bytes,
                                 BlockRequestFlags flags);
int co_fn nbd_connection_co_trim(NbdConnection *c, uint64_t offset, uint64_t bytes);
int co_fn nbd_connection_co_flush(NbdConnection *c);
/* As BlockDriver.co_block_status; up to 2 GiB. */
int co_fn nbd_connection_co_block_status(NbdConnection *c, uint64_t offset, uint64_t bytes,
                                         uint64_t *pnum, BlockStatus *status);

#endif
