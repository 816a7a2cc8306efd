/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/fuse/connection.h - the kernel's control file of a FUSE connection.
 *
 * Threads   Any. Opening blocks, so it belongs into a worker; aborting does not.
 */
#ifndef WHARF_EXPORT_FUSE_CONNECTION_H
#define WHARF_EXPORT_FUSE_CONNECTION_H

#include <glib.h>
#include <stdbool.h>

typedef struct FuseConnection {
    int abort_fd; /* -1: none */
} FuseConnection;

/*
 * Open that of connection @number: where it is mounted, else, for those who may, in a mount of our
 * own that no path leads to. It stands for this very connection, also when its number belongs to
 * another one later. @connection is closed by the caller.
 */
bool fuse_connection_open(FuseConnection *connection, unsigned number, GError **error);

/* End the connection: all its requests fail. Does nothing if it has ended. */
void fuse_connection_abort(const FuseConnection *connection);

void fuse_connection_close(FuseConnection *connection);

#endif
