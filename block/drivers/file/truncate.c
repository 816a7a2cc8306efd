/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Changing the length of a regular file, with or without taking the space that is added. */
#include <errno.h>
#include <unistd.h>

#include "block/drivers/file/state.h"
#include "util/error.h"

#define FULL_PREALLOCATION_CHUNK (1024 * 1024)

/* A change of length, in a worker. */
typedef struct Truncation {
    FileState *s;
    uint64_t from, to;
    FileHandle buffered; /* for writing what is added, with full preallocation */
} Truncation;

static int set_length(int fd, uint64_t length)
{
    int r;

    do {
        r = ftruncate(fd, (off_t)length);
    } while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

static int truncate_worker(void *opaque)
{
    Truncation *t = opaque;

    return set_length(file_fd_for_writing(t->s), t->to);
}

static int truncate_back_worker(void *opaque)
{
    Truncation *t = opaque;

    return set_length(file_fd_for_writing(t->s), t->from);
}

static int open_buffered_worker(void *opaque)
{
    Truncation *t = opaque;
    g_autoptr(GError) error = NULL;

    if (!file_handle_open_again(&t->buffered, &t->s->handle, t->s->path,
                                (FileAccess){.writable = true}, &error)) {
        return -EIO;
    }
    return 0;
}

static int close_buffered_worker(void *opaque)
{
    Truncation *t = opaque;

    file_handle_close(&t->buffered);
    return 0;
}

/* fallocate() makes the file longer, too. */
static int co_fn co_allocate_added(Truncation *t)
{
    return aio_co_fallocate(t->s->engine, file_fd_for_writing(t->s), 0, t->from, t->to - t->from);
}

static int co_fn co_write_zeros(Truncation *t)
{
    g_autofree char *zeros = g_malloc0(FULL_PREALLOCATION_CHUNK);
    uint64_t at = t->from;

    while (at < t->to) {
        struct iovec iov = {zeros, MIN(t->to - at, FULL_PREALLOCATION_CHUNK)};
        ssize_t n = aio_co_pwritev(file_worker_engine(t->s), t->buffered.fd, &iov, 1, at, 0);

        if (n <= 0) {
            return n < 0 ? (int)n : -ENOSPC;
        }
        at += (uint64_t)n;
    }
    return aio_co_fsync(file_worker_engine(t->s), t->buffered.fd, true);
}

/* Through the page cache also for direct nodes, whose alignment the length need not have. */
static int co_fn co_write_added(Truncation *t)
{
    int r = file_co_run_worker(t->s, open_buffered_worker, t);

    if (r < 0) {
        return r;
    }
    r = co_write_zeros(t);
    file_co_run_worker(t->s, close_buffered_worker, t);
    return r;
}

static int co_fn co_change_length(Truncation *t, PreallocMode prealloc)
{
    if (t->to > t->from && prealloc == PREALLOC_MODE_FALLOC) {
        return co_allocate_added(t);
    }
    if (t->to > t->from && prealloc == PREALLOC_MODE_FULL) {
        return co_write_added(t);
    }
    return file_co_run_worker(t->s, truncate_worker, t);
}

static int check_preallocation(const Truncation *t, PreallocMode prealloc, GError **error)
{
    if (prealloc == PREALLOC_MODE_METADATA) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "'%s' has no metadata to preallocate: use 'off', 'falloc' or 'full'",
                    t->s->path);
        return -ENOTSUP;
    }
    if (prealloc != PREALLOC_MODE_OFF && t->to < t->from) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "cannot preallocate while making '%s' shorter (%" G_GUINT64_FORMAT
                    " to %" G_GUINT64_FORMAT " bytes): use preallocation 'off'",
                    t->s->path, t->from, t->to);
        return -EINVAL;
    }
    return 0;
}

int co_fn file_co_truncate(BlockNode *node, uint64_t size, PreallocMode prealloc,
                           BlockRequestFlags flags, GError **error)
{
    FileState *s = block_node_state(node);
    int64_t length = file_co_length(node);
    Truncation t = {.s = s, .from = (uint64_t)length, .to = size};
    int r;

    if (length < 0) {
        wharf_set_error_errno(error, (int)-length, "cannot find the length of '%s'", s->path);
        return (int)length;
    }
    file_handle_init(&t.buffered);
    r = check_preallocation(&t, prealloc, error);
    if (r < 0) {
        return r;
    }
    r = co_change_length(&t, prealloc);
    if (r < 0) {
        wharf_set_error_errno(
            error, -r, "cannot resize '%s' to %" G_GUINT64_FORMAT " bytes with preallocation '%s'",
            s->path, size, prealloc_mode_to_string(prealloc));
        if (prealloc != PREALLOC_MODE_OFF) {
            file_co_run_worker(t.s, truncate_back_worker, &t);
        }
    }
    file_extent_cache_forget(&s->extents);
    return r;
}
