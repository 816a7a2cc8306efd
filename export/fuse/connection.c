/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "export/fuse/connection.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "util/error.h"

#define CONTROL_DIRECTORY "/sys/fs/fuse/connections"
#define CONTROL_TYPE      "fusectl"

/* The root of a mount of the control file system that is nowhere attached, or -1 with errno. */
static int control_mount(void)
{
    int context = fsopen(CONTROL_TYPE, FSOPEN_CLOEXEC);
    int root = -1;
    int err;

    if (context < 0) {
        return -1;
    }
    if (fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0) {
        root = fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    }
    err = errno;
    close(context);
    errno = err;
    return root;
}

static int open_abort(int root, unsigned number)
{
    g_autofree char *path = g_strdup_printf("%u/abort", number);

    return openat(root, path, O_WRONLY | O_CLOEXEC);
}

static int open_attached(unsigned number)
{
    int root = open(CONTROL_DIRECTORY, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = root < 0 ? -1 : open_abort(root, number);

    if (root >= 0) {
        close(root);
    }
    return fd;
}

static int open_detached(unsigned number)
{
    int root = control_mount();
    int fd, err;

    if (root < 0) {
        return -1;
    }
    fd = open_abort(root, number);
    err = errno;
    close(root);
    errno = err;
    return fd;
}

bool fuse_connection_open(FuseConnection *connection, unsigned number, GError **error)
{
    connection->abort_fd = open_attached(number);
    if (connection->abort_fd < 0) {
        connection->abort_fd = open_detached(number);
    }
    if (connection->abort_fd < 0) {
        wharf_set_error_errno(error, errno, "cannot open the control file of FUSE connection %u",
                              number);
        return false;
    }
    return true;
}

void fuse_connection_abort(const FuseConnection *connection)
{
    ssize_t n;

    do {
        n = write(connection->abort_fd, "1", 1);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        g_warning("cannot abort a FUSE connection: %s", g_strerror(errno));
    }
}

void fuse_connection_close(FuseConnection *connection)
{
    if (connection->abort_fd >= 0) {
        close(connection->abort_fd);
        connection->abort_fd = -1;
    }
}
