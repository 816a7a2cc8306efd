/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "object/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "util/error.h"

static bool file_check(ObjectFile *file, int fd, const char *what, const char *path, GError **error)
{
    if (fstat(fd, &file->st) < 0) {
        wharf_set_error_errno(error, errno, "cannot look at %s '%s'", what, path);
        return false;
    }
    if (!S_ISREG(file->st.st_mode)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT, "%s '%s' is no regular file",
                    what, path);
        return false;
    }
    if (file->st.st_size > OBJECT_FILE_MAX) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "%s '%s' is larger than %d MiB", what, path, OBJECT_FILE_MAX / 1024 / 1024);
        return false;
    }
    return true;
}

/* Up to the size that it had when it was looked at. */
static bool file_read_from(ObjectFile *file, int fd, const char *what, const char *path,
                           GError **error)
{
    file->data = g_malloc0(file->st.st_size + 1);
    while (file->len < (size_t)file->st.st_size) {
        ssize_t n = read(fd, file->data + file->len, file->st.st_size - file->len);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            wharf_set_error_errno(error, errno, "cannot read %s '%s'", what, path);
            return false;
        }
        if (n == 0) {
            break;
        }
        file->len += n;
    }
    return true;
}

bool object_file_read(ObjectFile *file, const char *what, const char *path, GError **error)
{
    /* O_NONBLOCK, so that a pipe that nobody writes to is refused, and not waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    bool ok;

    *file = (ObjectFile){0};
    if (fd < 0) {
        wharf_set_error_errno(error, errno, "cannot open %s '%s'", what, path);
        return false;
    }
    ok = file_check(file, fd, what, path, error) && file_read_from(file, fd, what, path, error);
    close(fd);
    if (!ok) {
        object_file_clear(file);
    }
    return ok;
}

void object_file_clear(ObjectFile *file)
{
    if (file->data) {
        explicit_bzero(file->data, file->len);
        g_clear_pointer(&file->data, g_free);
    }
    file->len = 0;
}
