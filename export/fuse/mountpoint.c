/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "export/fuse/mountpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/error.h"

/* Linux 6.8; the headers may be older. */
#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x4000U
#endif

/* Others mount in much less; who locks the file for ends of his own does not keep us away. */
#define LOCK_WAIT_US   10000
#define LOCK_WAITS_MAX 100

bool fuse_mount_id_equal(const FuseMountId *a, const FuseMountId *b)
{
    return a->unique == b->unique && a->mount == b->mount && a->dev_major == b->dev_major &&
           a->dev_minor == b->dev_minor;
}

char *fuse_mountpoint_resolve(const char *path, GError **error)
{
    /* realpath() follows links only, which no server of a mount at the end is asked for. */
    char *resolved = realpath(path, NULL);
    char *copy;

    if (!resolved) {
        wharf_set_error_errno(error, errno,
                              "cannot stat mountpoint '%s', which must be an existing "
                              "regular file",
                              path);
        return NULL;
    }
    copy = g_strdup(resolved);
    free(resolved);
    return copy;
}

/* What the kernel knows of @path by itself. 0 or -errno. */
static int ask_kernel(const char *path, unsigned mask, struct statx *st)
{
    const int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;

    return statx(AT_FDCWD, path, flags, mask, st) < 0 ? -errno : 0;
}

int fuse_mountpoint_identify(const char *path, FuseMountId *id)
{
    struct statx st, unique;
    int ret = ask_kernel(path, STATX_MNT_ID, &st);

    if (ret == 0) {
        ret = ask_kernel(path, STATX_MNT_ID_UNIQUE, &unique);
    }
    if (ret < 0) {
        return ret;
    }
    *id = (FuseMountId){
        .unique = unique.stx_mask & STATX_MNT_ID_UNIQUE ? unique.stx_mnt_id : 0,
        .mount = st.stx_mnt_id,
        .dev_major = st.stx_dev_major,
        .dev_minor = st.stx_dev_minor,
    };
    return 0;
}

bool fuse_mountpoint_is_mount(const char *path)
{
    struct statx st;

    return ask_kernel(path, 0, &st) == 0 && st.stx_attributes & STATX_ATTR_MOUNT_ROOT;
}

/* Open the file at @path, but nothing that is mounted there: its server may be hung. */
static int open_uncovered(const char *path)
{
    int place = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    g_autofree char *again = g_strdup_printf("/proc/self/fd/%d", place);
    struct statx st;
    int fd = -1;

    if (place < 0) {
        return -1;
    }
    if (statx(place, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &st) == 0 &&
        !(st.stx_attributes & STATX_ATTR_MOUNT_ROOT)) {
        fd = open(again, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    }
    close(place);
    return fd;
}

int fuse_mountpoint_lock(const char *path)
{
    int fd = open_uncovered(path);
    unsigned waits = LOCK_WAITS_MAX;
    bool locked = false;

    while (fd >= 0 && !(locked = flock(fd, LOCK_EX | LOCK_NB) == 0) && errno == EWOULDBLOCK &&
           waits--) {
        g_usleep(LOCK_WAIT_US);
    }
    if (fd >= 0 && !locked) {
        close(fd);
        return -1;
    }
    return fd;
}

static const char *file_kind(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return "a directory";
    case S_IFIFO:
        return "a fifo";
    case S_IFSOCK:
        return "a socket";
    case S_IFBLK:
    case S_IFCHR:
        return "a device";
    default:
        return "something else";
    }
}

FusePlaceKind fuse_mountpoint_inspect(const char *path, GError **error)
{
    struct statx st;

    /* Not from the kernel's cache, which for a while looks well when the server is dead already. */
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_STATX_FORCE_SYNC, STATX_TYPE, &st) < 0) {
        int err = errno;

        /* Not connected; cut off; refused because the first handshake had failed. */
        if (err == ENOTCONN || err == ECONNABORTED || err == ECONNREFUSED) {
            return FUSE_PLACE_STALE;
        }
        wharf_set_error_errno(error, err, "cannot stat mountpoint '%s'", path);
        return FUSE_PLACE_UNFIT;
    }
    if (!S_ISREG(st.stx_mode)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "mountpoint '%s' is %s; it must be a regular file", path,
                    file_kind(st.stx_mode));
        return FUSE_PLACE_UNFIT;
    }
    return FUSE_PLACE_FILE;
}
