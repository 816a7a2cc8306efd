/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/nbd/connection.h - one connection to an export: a libnbd handle in an event loop.
 *
 * Threads   All in the context where it was made, its home, or while it is away in the context
 *           where it is: never in two at a time, so libnbd's lock is never waited for.
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

/* Who uses it. */
typedef struct NbdConnectionUser {
    /* At home: it is lost, for this reason. It must not be freed from here. */
    void (*lost)(void *opaque, const char *reason);
    /* At home: there is reason to look at it; whether it is there, from now on. */
    bool (*is_home)(void *opaque);
    /* Where it was away: it is not there any more. @idle: it may go away again, as it is. */
    void (*left)(void *opaque, bool idle);
} NbdConnectionUser;

/*
 * Talk to the server over @fd, or, with a @tunnel, over @fd to it and over @inner_fd to libnbd, and
 * open the export called @name, by @deadline_ns. All three become the connection's, also if it
 * fails. @reply_timeout_ns: see the option; 0: none.
 */
NbdConnection *co_fn nbd_connection_co_open(int fd, NbdTunnel *tunnel, int inner_fd,
                                            const char *name, int64_t deadline_ns,
                                            int64_t reply_timeout_ns, GError **error);

/* From now on it has one. */
void nbd_connection_set_user(NbdConnection *c, const NbdConnectionUser *user, void *opaque);

/* Whether it may go away from home. With commands or a tunnel, which stays there, it may not. */
bool nbd_connection_may_go_away(const NbdConnection *c);

/*
 * Go to the current context, for a command that follows at once; not for one that needs a second
 * one afterwards. While it is there it may be called again, for another command. When the last of
 * them is answered, or at the last @until_ns, or when it cannot go on, the connection leaves, which
 * its user is told, and has to come home before anything is done with it there. What was not
 * answered is answered at home then. So nothing of it stays in a context that has no request of it.
 */
void nbd_connection_go_away(NbdConnection *c, int64_t until_ns);
void nbd_connection_come_home(NbdConnection *c);

/*
 * Say goodbye if it is not lost, and free it, by @deadline_ns. Requests that are still under way
 * return. NULL is fine.
 */
void co_fn nbd_connection_co_close(NbdConnection *c, int64_t deadline_ns);

const NbdExportInfo *nbd_connection_info(const NbdConnection *c);
bool nbd_connection_is_lost(const NbdConnection *c);

/* How many requests there are. */
unsigned nbd_connection_load(const NbdConnection *c);

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
