/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/newfile.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/ctl.h"

#define MODE 0644

static bool fail(const CtlNewFile *file, const char *what, GError **error)
{
    int err = errno;

    g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "%s '%s': %s", what, file->path,
                g_strerror(err));
    return false;
}

/* -1 with errno. */
static int open_nameless(const char *path)
{
    char *directory = g_path_get_dirname(path);
    int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, MODE);
    int err = errno;

    g_free(directory);
    errno = err;
    return fd;
}

bool ctl_new_file_make(CtlNewFile *file, const char *path, bool nameless, GError **error)
{
    *file = (CtlNewFile){.fd = -1, .path = g_strdup(path)};
    file->fd = nameless ? open_nameless(path) : -1;
    if (file->fd >= 0) {
        file->handle = g_strdup_printf("/proc/%d/fd/%d", getpid(), file->fd);
    } else if (!nameless || errno == EOPNOTSUPP) {
        file->fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, MODE);
    }
    return file->fd >= 0 || fail(file, "making", error);
}

const char *ctl_new_file_reach(const CtlNewFile *file)
{
    return file->handle ? file->handle : file->path;
}

static bool sync_directory(const CtlNewFile *file, GError **error)
{
    g_autofree char *directory = g_path_get_dirname(file->path);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r;

    if (fd < 0) {
        return true; /* not ours to read; the file itself is synced */
    }
    r = fsync(fd);
    close(fd);
    return r == 0 || errno == EINVAL || fail(file, "syncing the directory of", error);
}

bool ctl_new_file_name(CtlNewFile *file, GError **error)
{
    if (file->handle &&
        linkat(AT_FDCWD, file->handle, AT_FDCWD, file->path, AT_SYMLINK_FOLLOW) < 0) {
        return fail(file, "giving the new file its name", error);
    }
    g_clear_pointer(&file->handle, g_free);
    return sync_directory(file, error);
}

void ctl_new_file_keep(CtlNewFile *file)
{
    file->kept = true;
}

/* Whether its name still leads to it. */
static bool is_there(const CtlNewFile *file)
{
    struct stat ours, there;

    return fstat(file->fd, &ours) == 0 && lstat(file->path, &there) == 0 &&
           ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
}

void ctl_new_file_clear(CtlNewFile *file)
{
    if (!file->path) {
        return;
    }
    if (file->fd >= 0) {
        if (!file->kept && is_there(file)) {
            unlink(file->path);
        }
        close(file->fd);
    }
    g_clear_pointer(&file->handle, g_free);
    g_clear_pointer(&file->path, g_free);
}
