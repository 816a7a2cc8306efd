/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/image.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/json.h"
#include "ctl/text.h"
#include "util/iov.h"

#define PROBE_SIZE 512

/* Whatever a device holds shows within that much of it. */
#define BLANK_SIZE (1024 * 1024)

const char *ctl_image_probe(const void *start, gsize length)
{
    /* Magic numbers from the specifications of the formats. */
    static const struct {
        const char *format;
        gsize offset;
        const char *magic;
        gsize length;
    } formats[] = {
        {"qcow2", 0, "QFI\xfb\0\0\0\2", 8},
        {"qcow2", 0, "QFI\xfb\0\0\0\3", 8},
        {"qcow", 0, "QFI\xfb\0\0\0\1", 8},
        {"qed", 0, "QED\0", 4},
        {"vmdk", 0, "KDMV", 4},
        {"vmdk", 0, "# Disk DescriptorFile", 21},
        {"vhdx", 0, "vhdxfile", 8},
        {"vpc", 0, "conectix", 8},
        {"vdi", 64, "\x7f\x10\xda\xbe", 4},
        {"parallels", 0, "WithoutFreeSpace", 16},
        {"parallels", 0, "WithouFreSpacExt", 16},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(formats); i++) {
        if (length >= formats[i].offset + formats[i].length &&
            memcmp((const char *)start + formats[i].offset, formats[i].magic, formats[i].length) ==
                0) {
            return formats[i].format;
        }
    }
    return NULL;
}

static bool check_kind(const char *path, bool *is_device, GError **error)
{
    struct stat st;

    if (!ctl_text_check_path(path, error)) {
        return false;
    }
    if (stat(path, &st) < 0) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot find the image '%s': %s", path,
                    g_strerror(errno));
        return false;
    }
    if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) {
        *is_device = S_ISBLK(st.st_mode);
        return true;
    }
    g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                "'%s' is %s; an image is a regular file or a block device", path,
                S_ISDIR(st.st_mode) ? "a directory" : "neither a file nor a block device");
    return false;
}

/* Read the beginning of the image. Returns the bytes got, or -errno. */
static ssize_t read_start(const char *path, void *start, gsize size)
{
    /* O_NONBLOCK: if it has just become a fifo, do not wait for its writer. */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    ssize_t n;

    if (fd < 0) {
        return -errno;
    }
    n = pread(fd, start, size, 0);
    n = n < 0 ? -errno : n;
    close(fd);
    return n;
}

bool ctl_image_is_blank(const char *path)
{
    g_autofree char *start = NULL;
    struct stat st;
    ssize_t n;

    if (stat(path, &st) < 0) {
        return true;
    }
    if (!S_ISBLK(st.st_mode)) {
        return !S_ISREG(st.st_mode) || st.st_size == 0;
    }
    start = g_malloc(BLANK_SIZE);
    n = read_start(path, start, BLANK_SIZE);
    return n <= 0 || iov_is_zero(IOV_LOCAL(start, n));
}

/* Whether there is a driver of that name that opens an image in a file. */
static bool is_known(const char *format)
{
    return strcmp(format, "raw") == 0 || strcmp(format, "qcow2") == 0;
}

/* What @path looks like: *@found is NULL for nothing known. */
static bool probe(const char *path, const char **found, GError **error)
{
    char start[PROBE_SIZE];
    ssize_t n = read_start(path, start, sizeof(start));

    if (n == -EACCES || n == -EPERM) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                    "no permission to read the image '%s'\n"
                    "If the daemon may read it and it is raw, say so with --format=raw.",
                    path);
        return false;
    }
    if (n < 0) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot read the image '%s': %s", path,
                    g_strerror(-n));
        return false;
    }
    *found = ctl_image_probe(start, n);
    return true;
}

static bool check_format(const char *path, GError **error)
{
    const char *found;

    if (!probe(path, &found, error)) {
        return false;
    }
    if (found) {
        g_autofree char *way =
            is_known(found)
                ? g_strdup_printf("To open it as one, and the files it refers to: --format=%s",
                                  found)
                : g_strdup("This version cannot open it yet; to convert it:  "
                           "qemu-img convert -O raw IMAGE NEW-IMAGE");

        g_set_error(
            error, CTL_ERROR, CTL_ERROR_FAILED,
            "'%s' looks like a %s image\n%s\n"
            "If it is a raw disk after all, or its bytes are wanted as they are: --format=raw",
            path, found, way);
    }
    return !found;
}

bool ctl_image_check(const char *path, const char *format, bool *is_device, GError **error)
{
    return check_kind(path, is_device, error) && (format || check_format(path, error));
}

const char *ctl_image_recognise(const char *path, bool *is_device, GError **error)
{
    const char *found;

    if (!check_kind(path, is_device, error) || !probe(path, &found, error)) {
        return NULL;
    }
    return found ? found : "raw";
}

QValue *ctl_image_node(const char *name, const char *path, const char *format, bool is_device)
{
    QValue *node = ctl_json_strings("driver", format, "node-name", name, NULL);

    qvalue_object_set(node, "read-only", qvalue_bool(true));
    qvalue_object_set(
        node, "file",
        ctl_json_strings("driver", is_device ? "host_device" : "file", "filename", path, NULL));
    return node;
}
