/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/fuse/mount.h - making and undoing one FUSE mount; nothing of what is served there.
 *
 * Threads   Any; all calls block, so they belong into a worker. An unmount may need the connection
 *           to be served meanwhile.
 */
#ifndef WHARF_EXPORT_FUSE_MOUNT_H
#define WHARF_EXPORT_FUSE_MOUNT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "export/fuse/mountpoint.h"
#include "qapi/types-block-export.h"

/* Largest read the kernel may ask for. */
#define FUSE_MOUNT_MAX_READ (1024 * 1024)

/* The kernel's number of the file, if it lies in a directory; and its name there. */
#define FUSE_MOUNT_FILE_NODE 2
#define FUSE_MOUNT_FILE_NAME "disk"

typedef struct FuseMount {
    char *path;  /* where, resolved; NULL while it is nowhere attached */
    int fd;      /* the connection; non-blocking. -1: none */
    int tree_fd; /* the root, while it is nowhere attached; else -1 */
    FuseMountId id;
    bool allow_other;  /* whether others may come in */
    bool read_only;    /* whether the kernel itself refuses to write */
    bool in_directory; /* the file is not the root, but lies in one */
} FuseMount;

/*
 * Cover the regular file at @path (resolved). On success @mount is filled in and owned by the
 * caller, who must answer the kernel's first request soon; on failure nothing has changed.
 *
 * A mount that is not writable is one the kernel knows as read-only only where nobody but its owner
 * comes in: elsewhere chmod and chown must reach the export, which the kernel would refuse.
 */
bool fuse_mount(const char *path, bool writable, FuseExportAllowOther allow_other, FuseMount *mount,
                GError **error);

/*
 * A mount of a file in a directory (see detached.c), which is nowhere attached. On success @mount
 * is filled in and owned by the caller, but for the path and the number of the mount. Only root may
 * have one, and only with a recent kernel.
 */
bool fuse_mount_detached(FuseExportAllowOther allow_other, FuseMount *mount, GError **error);

/*
 * Cover the regular file at @path (resolved) with that file. The connection must be served
 * meanwhile. On failure @mount is as it was; what is attached nowhere ends with its connection.
 */
bool fuse_mount_attach(FuseMount *mount, const char *path, GError **error);

typedef enum {
    FUSE_SYNC_DONE,
    FUSE_SYNC_NOT_FOUND, /* the mount is nowhere on top, so nobody can ask: no @error */
    FUSE_SYNC_NOT_DONE,  /* it could not be asked: @error says why */
    FUSE_SYNC_FAILED,    /* something could not be written, and is lost */
} FuseSyncResult;

/*
 * Have the kernel write back what programs have written to the mount @id, made at @path, wherever
 * it has been moved to. The connection must be served meanwhile, and it lasts as long as that
 * takes; if the connection ends, so does this.
 */
FuseSyncResult fuse_mount_sync(const char *path, const FuseMountId *id, GError **error);

/* Where the mount @id, made at @path, is on top now: to be freed; NULL: nowhere. */
char *fuse_mount_find(const char *path, const FuseMountId *id);

typedef enum {
    FUSE_UNMOUNT_DONE,
    FUSE_UNMOUNT_GONE,    /* it was no longer there */
    FUSE_UNMOUNT_COVERED, /* something else is mounted on top: left alone, @error says so */
    FUSE_UNMOUNT_FAILED,  /* @error says why */
} FuseUnmountResult;

/*
 * Detach the mount @id, made at @path, also while files on it are open; wherever it has been moved
 * to. Nothing but this very mount is ever detached.
 */
FuseUnmountResult fuse_unmount(const char *path, const FuseMountId *id, GError **error);

/*
 * Unmount it unless a file on it is open or mapped: 0, or -EBUSY. Also 0 where it is not there or
 * not on top; fuse_unmount() tells.
 */
int fuse_unmount_unused(const char *path, const FuseMountId *id);

/*
 * Detach it in a forked child that has no connection open: allocates nothing, and leaves what is
 * not on top at @path to those who read records.
 */
void fuse_unmount_in_child(const char *path, const FuseMountId *id);

/*
 * As fuse_unmount() for a mount of somebody who has died: only if it is dead, and still at @path.
 * COVERED tells of one that may be.
 */
FuseUnmountResult fuse_unmount_dead(const char *path, const FuseMountId *id, GError **error);

/* Detach whatever dead FUSE mount is at @path, which has been found to be stale. */
bool fuse_unmount_stale(const char *path, GError **error);

/*
 * Have the kernel read @bytes, whole pages, ahead of whoever reads the files of the mount @id in
 * sequence. A setting of the system, which not everybody may change.
 */
bool fuse_mount_set_read_ahead(const FuseMountId *id, uint64_t bytes, GError **error);

/* Close the connection, and free the rest. */
void fuse_mount_clear(FuseMount *mount);

#endif
