/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/fuse/mountpoint.h - looking at a path that is, was or is to be a mountpoint.
 *
 * Threads   Any; all calls may block on whatever file system the path leads through, so they belong
 *           into a worker. None waits for a server of ours: a mount is told from others by its
 *           identity, which the kernel knows without asking its server.
 */
#ifndef WHARF_EXPORT_FUSE_MOUNTPOINT_H
#define WHARF_EXPORT_FUSE_MOUNTPOINT_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * What tells one mount from others. The kernel gives ids and device numbers of its own making out
 * again soon after an unmount; only the unique id, which Linux 6.8 brought, stays unique.
 */
typedef struct FuseMountId {
    uint64_t unique;               /* of all mounts of this boot; 0: the kernel has none */
    uint64_t mount;                /* as in mountinfo */
    unsigned dev_major, dev_minor; /* of what is mounted */
} FuseMountId;

bool fuse_mount_id_equal(const FuseMountId *a, const FuseMountId *b);

/*
 * @path, which is absolute, without symbolic links, "." and "..". Does not touch what it names.
 * NULL with @error if it leads nowhere.
 */
char *fuse_mountpoint_resolve(const char *path, GError **error);

/* Which mount @path lies on. Asks no server. 0 or -errno. */
int fuse_mountpoint_identify(const char *path, FuseMountId *id);

/* Whether something is mounted at the resolved @path itself. Asks no server; false if unknown. */
bool fuse_mountpoint_is_mount(const char *path);

/*
 * Have other daemons wait that are about to mount at the resolved @path, too: until the descriptor
 * that is returned is closed, or for a while. Waits so itself. -1: nothing keeps them away, for the
 * file cannot be locked, somebody else holds it locked for a while or a mount covers it already.
 */
int fuse_mountpoint_lock(const char *path);

typedef enum {
    FUSE_PLACE_FILE,  /* a regular file: may be covered */
    FUSE_PLACE_STALE, /* a mount whose server is gone */
    FUSE_PLACE_UNFIT, /* anything else: @error is set */
} FusePlaceKind;

/* What is at the resolved @path. Asks the server of whatever is mounted there. */
FusePlaceKind fuse_mountpoint_inspect(const char *path, GError **error);

#endif
