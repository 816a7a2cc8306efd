/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests of host_device that differ from those of a regular file: zeroing, discarding, length. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "block/drivers/file/state.h"
#include "util/error.h"

typedef struct RangeCommand {
    int fd;
    unsigned long command;
    uint64_t range[2]; /* offset and bytes, as the ioctls want it */
} RangeCommand;

static int range_worker(void *opaque)
{
    RangeCommand *c = opaque;
    int r;

    do {
        r = ioctl(c->fd, c->command, c->range);
    } while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

static int co_fn co_range_command(FileState *s, unsigned long command, uint64_t offset,
                                  uint64_t bytes)
{
    RangeCommand c = {.fd = file_fd_for_writing(s), .command = command, .range = {offset, bytes}};

    return aio_co_run_worker(range_worker, &c);
}

/* Zero by giving back, which the kernel does without ever writing zeros itself. */
static int co_fn co_unmap_to_zeros(FileState *s, uint64_t offset, uint64_t bytes)
{
    if (!file_method_usable(s, FILE_METHOD_PUNCH)) {
        return -ENOTSUP;
    }
    return file_method_result(s, FILE_METHOD_PUNCH,
                              aio_co_fallocate(s->engine, file_fd_for_writing(s),
                                               FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                                               bytes));
}

int co_fn file_device_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                       BlockRequestFlags flags)
{
    FileState *s = block_node_state(node);
    int r = -ENOTSUP;

    if (flags & BLOCK_REQ_MAY_UNMAP) {
        r = co_unmap_to_zeros(s, offset, bytes);
    }
    /* BLKZEROOUT writes zeros where the device cannot do better: that is a fallback, too. */
    if (r != -ENOTSUP || (flags & BLOCK_REQ_NO_FALLBACK) ||
        !file_method_usable(s, FILE_METHOD_ZERO_RANGE)) {
        return r;
    }
    return file_method_result(s, FILE_METHOD_ZERO_RANGE,
                              co_range_command(s, BLKZEROOUT, offset, bytes));
}

int co_fn file_device_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    FileState *s = block_node_state(node);
    int r = -ENOTSUP;

    if (file_method_usable(s, FILE_METHOD_DISCARD)) {
        r = file_method_result(s, FILE_METHOD_DISCARD,
                               co_range_command(s, BLKDISCARD, offset, bytes));
    }
    return file_count_discard(s, bytes, r);
}

/* A device has the size it has; but it may have grown since it was opened. */
int co_fn file_device_co_truncate(BlockNode *node, uint64_t size, PreallocMode prealloc,
                                  BlockRequestFlags flags, GError **error)
{
    FileState *s = block_node_state(node);
    int64_t length = file_co_length(node);

    if (length < 0) {
        wharf_set_error_errno(error, (int)-length, "cannot find the size of '%s'", s->path);
        return (int)length;
    }
    if ((uint64_t)length != size) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "cannot resize '%s' to %" G_GUINT64_FORMAT
                    " bytes: a device of %" G_GINT64_FORMAT
                    " bytes; resize it by its own means, then name its new size here",
                    s->path, size, length);
        return -ENOTSUP;
    }
    return 0;
}
