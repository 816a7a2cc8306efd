/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of the file driver. Each is one request to the engine where all goes well; what is rare
 * (short transfers, a file that somebody else has cut, a refused method) is out of line.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include "block/drivers/file/state.h"

typedef ssize_t co_fn TransferFn(AioEngine engine, int fd, const struct iovec *iov, unsigned n,
                                 uint64_t offset, int rwf_flags);

/* A transfer that did not come back whole at the first try. */
typedef struct Transfer {
    TransferFn *co_transfer;
    int fd;
    uint64_t offset;
    const IoVector *iov;
    int rwf_flags;
    uint32_t alignment; /* a partial transfer that ends elsewhere has reached the end of the file */
} Transfer;

/*
 * Carry on after the first try of @t returned @result: in a worker where the ring said -EAGAIN, the
 * rest where it was short. Returns how many bytes were transferred up to the end of the file, or
 * -errno.
 */
static ssize_t co_fn carry_on(const Transfer *t, AioEngine engine, ssize_t result)
{
    g_autofree struct iovec *rest = g_new(struct iovec, t->iov->n);
    size_t done = 0;

    for (;;) {
        if (result == -EAGAIN && engine != AIO_ENGINE_THREADS && engine != AIO_ENGINE_APART) {
            engine = AIO_ENGINE_THREADS;
        } else if (result < 0) {
            return result;
        }
        done += result > 0 ? (size_t)result : 0;
        if (result == 0 || done == t->iov->bytes || done % t->alignment != 0) {
            return (ssize_t)done;
        }
        result =
            t->co_transfer(engine, t->fd, rest, iov_slice(rest, t->iov, done, t->iov->bytes - done),
                           t->offset + done, t->rwf_flags);
    }
}

/* What lies behind the end of the file reads as zeros: it may have been cut behind our back. */
static int co_fn finish_read(FileState *s, uint64_t offset, const IoVector *iov, ssize_t result)
{
    const Transfer t = {.co_transfer = aio_co_preadv,
                        .fd = s->handle.fd,
                        .offset = offset,
                        .iov = iov,
                        .alignment = s->handle.request_alignment};
    ssize_t done = carry_on(&t, s->engine, result);

    if (done < 0) {
        return (int)done;
    }
    iov_fill(iov, (size_t)done, 0, iov->bytes - (size_t)done);
    return 0;
}

int co_fn file_co_preadv(BlockNode *node, uint64_t offset, const IoVector *iov,
                         BlockRequestFlags flags)
{
    FileState *s = block_node_state(node);
    ssize_t n = aio_co_preadv(s->engine, s->handle.fd, iov->iov, iov->n, offset, 0);

    return G_LIKELY(n == (ssize_t)iov->bytes) ? 0 : finish_read(s, offset, iov, n);
}

/* Nobody has to be told of pages that are not there any more: reading finds out. */
int co_fn file_co_splice(BlockNode *node, uint64_t offset, size_t bytes, int pipe)
{
    const FileState *s = block_node_state(node);

    if (!s->handle.splices || s->engine != s->handle.engine ||
        aio_splice_cached(s->engine, s->handle.fd, offset, bytes, pipe) != (ssize_t)bytes) {
        return -ENOTSUP;
    }
    return 0;
}

static int co_fn write_plainly(FileState *s, uint64_t offset, const IoVector *iov, int rwf_flags)
{
    const Transfer t = {.co_transfer = aio_co_pwritev,
                        .fd = file_fd_for_writing(s),
                        .offset = offset,
                        .iov = iov,
                        .rwf_flags = rwf_flags,
                        .alignment = 1};
    ssize_t n = aio_co_pwritev(s->engine, t.fd, iov->iov, iov->n, offset, rwf_flags);

    if (G_LIKELY(n == (ssize_t)iov->bytes)) {
        return 0;
    }
    n = carry_on(&t, s->engine, n);
    if (n < 0) {
        return (int)n;
    }
    return (size_t)n == iov->bytes ? 0 : -ENOSPC; /* a write that writes nothing has no room */
}

/*
 * Write and sync in one step. 1: that is not to be had here; nothing is synced, but perhaps
 * written. A failure leaves open which half failed, and a failed sync must not be forgotten; so the
 * first is tried again by itself. If it fails the same way, that was it.
 */
static int co_fn write_and_sync(FileState *s, uint64_t offset, const IoVector *iov)
{
    FileSync sync;
    int first, again;

    file_sync_begin(s, &sync);
    first = write_plainly(s, offset, iov, RWF_DSYNC);
    if (first == 0) {
        file_sync_end(s, &sync, 0);
        return file_sync_co_settle(s, &sync, file_keeps_cached(s));
    }
    if (first == -EOPNOTSUPP) {
        file_sync_end(s, &sync, 0);
        return 1;
    }
    again = write_plainly(s, offset, iov, 0);
    file_sync_end(s, &sync, again == first ? 0 : first);
    return again < 0 ? again : first;
}

static int co_fn write_durably(FileState *s, uint64_t offset, const IoVector *iov)
{
    int r = s->handle.local ? write_and_sync(s, offset, iov) : 1;

    if (r <= 0) {
        return r;
    }
    r = write_plainly(s, offset, iov, 0);
    return r < 0 ? r : file_sync(s);
}

static int co_fn write_within(BlockNode *node, uint64_t offset, const IoVector *iov,
                              BlockRequestFlags flags)
{
    FileState *s = block_node_state(node);

    if ((flags & BLOCK_REQ_FUA) && !block_node_flags(node)->cache_no_flush) {
        return write_durably(s, offset, iov);
    }
    return write_plainly(s, offset, iov, 0);
}

/* Bytes at the end of a file whose length is no multiple of what direct I/O needs. */
typedef struct TailWrite {
    FileState *s;
    uint64_t offset;
    const char *bytes;
    size_t n;
    bool sync;
} TailWrite;

static int write_tail(void *opaque)
{
    TailWrite *t = opaque;
    FileHandle buffered;
    size_t done = 0;
    int r = 0;

    file_handle_init(&buffered);
    if (!file_handle_open_again(&buffered, &t->s->handle, t->s->path,
                                (FileAccess){.writable = true}, NULL)) {
        return -EIO;
    }
    while (done < t->n && r == 0) {
        ssize_t n = pwrite(buffered.fd, t->bytes + done, t->n - done, (off_t)(t->offset + done));

        if (n > 0) {
            done += (size_t)n;
        } else if (n == 0) {
            r = -ENOSPC;
        } else if (errno != EINTR) {
            r = -errno;
        }
    }
    if (r == 0 && t->sync && fdatasync(buffered.fd) < 0) {
        r = file_sync_failed(t->s, -errno);
    }
    file_handle_close(&buffered);
    return r;
}

/*
 * Up to where direct writes may reach in a file of @length bytes. If no direct write can end with
 * the file, its last page is left to the page cache as a whole: a direct write beside a page that
 * is being written back from there could be undone by it.
 */
static uint64_t end_of_direct_writes(const FileState *s, uint64_t length)
{
    uint32_t unit = MAX(s->handle.request_alignment, s->page_size);

    return length % s->handle.request_alignment ? length - length % unit : length;
}

/*
 * A write with direct I/O that reaches past @direct_end, and perhaps past @length. What lies behind
 * the one goes through the page cache, which the kernel keeps in step with direct I/O; what lies
 * behind the other is padding, and would make the file longer.
 */
static int co_fn write_across_end(BlockNode *node, uint64_t offset, const IoVector *iov,
                                  BlockRequestFlags flags, uint64_t direct_end, uint64_t length)
{
    uint64_t inside = offset < length ? MIN(iov->bytes, length - offset) : 0;
    size_t direct = offset < direct_end ? direct_end - offset : 0;
    g_autofree struct iovec *part = g_new(struct iovec, iov->n);
    g_autofree char *tail = g_malloc(inside - direct);
    TailWrite t = {.s = block_node_state(node),
                   .offset = offset + direct,
                   .bytes = tail,
                   .n = inside - direct,
                   .sync = (flags & BLOCK_REQ_FUA) && !block_node_flags(node)->cache_no_flush};

    if (direct) {
        IoVector front = {.iov = part, .n = iov_slice(part, iov, 0, direct), .bytes = direct};
        int r = write_within(node, offset, &front, flags);

        if (r < 0) {
            return r;
        }
    }
    if (t.n == 0) {
        return 0;
    }
    iov_to_buffer(iov, direct, tail, t.n);
    atomic_store(&t.s->tail_cached, true);
    return file_co_run_worker(t.s, write_tail, &t);
}

int co_fn file_co_pwritev(BlockNode *node, uint64_t offset, const IoVector *iov,
                          BlockRequestFlags flags)
{
    FileState *s = block_node_state(node);

    if (G_UNLIKELY(s->handle.direct)) {
        uint64_t length = (uint64_t)block_node_length(node);
        uint64_t direct_end = end_of_direct_writes(s, length);

        if (offset + iov->bytes > direct_end) {
            return write_across_end(node, offset, iov, flags, direct_end, length);
        }
    }
    return write_within(node, offset, iov, flags);
}

int co_fn file_co_splice_write(BlockNode *node, uint64_t offset, size_t bytes, int pipe)
{
    const FileState *s = block_node_state(node);

    if (!s->handle.splices || s->engine != AIO_ENGINE_INLINE) {
        return -ENOTSUP; /* there it may have to wait */
    }
    return aio_splice_to_memory(file_fd_for_writing(s), offset, bytes, pipe);
}

bool file_method_usable(const FileState *s, FileMethod method)
{
    return !atomic_load_explicit(&s->refused[method], memory_order_relaxed);
}

int file_method_result(FileState *s, FileMethod method, int r)
{
    switch (r) {
    case -EOPNOTSUPP:
    case -ENOSYS:
    case -ENOTTY:
        atomic_store_explicit(&s->refused[method], true, memory_order_relaxed);
        return -ENOTSUP;
    case -EINVAL: /* some file systems say so of ranges they do not like */
        return -ENOTSUP;
    default:
        return r;
    }
}

int file_count_discard(FileState *s, uint64_t bytes, int r)
{
    if (r == 0) {
        atomic_fetch_add_explicit(&s->discards_ok, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&s->discarded_bytes, bytes, memory_order_relaxed);
    } else {
        atomic_fetch_add_explicit(&s->discards_failed, 1, memory_order_relaxed);
    }
    return r;
}

/* Returns -ENOTSUP where it is not to be had. The file's length never changes by it. */
static int co_fn change_range(FileState *s, FileMethod method, int mode, uint64_t offset,
                              uint64_t bytes)
{
    if (!file_method_usable(s, method)) {
        return -ENOTSUP;
    }
    return file_method_result(s, method,
                              aio_co_fallocate(s->engine, file_fd_for_writing(s),
                                               mode | FALLOC_FL_KEEP_SIZE, offset, bytes));
}

static int co_fn punch(FileState *s, uint64_t offset, uint64_t bytes)
{
    int r = change_range(s, FILE_METHOD_PUNCH, FALLOC_FL_PUNCH_HOLE, offset, bytes);

    file_extent_cache_forget(&s->extents);
    return r;
}

static int co_fn zero_keeping_space(FileState *s, uint64_t offset, uint64_t bytes)
{
    int r = change_range(s, FILE_METHOD_ZERO_RANGE, FALLOC_FL_ZERO_RANGE, offset, bytes);

    if (r == -ENOTSUP && file_method_usable(s, FILE_METHOD_ALLOCATE)) {
        r = punch(s, offset, bytes);
        if (r == 0) {
            r = change_range(s, FILE_METHOD_ALLOCATE, 0, offset, bytes);
        }
    }
    file_extent_cache_forget(&s->extents);
    return r;
}

int co_fn file_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                BlockRequestFlags flags)
{
    FileState *s = block_node_state(node);
    uint64_t length = (uint64_t)block_node_length(node);
    int r = -ENOTSUP;

    if (offset >= length) {
        return 0; /* the padding behind an odd length: not there, so zeros already */
    }
    bytes = MIN(bytes, length - offset);
    if (flags & BLOCK_REQ_MAY_UNMAP) {
        r = punch(s, offset, bytes);
    }
    return r == -ENOTSUP ? zero_keeping_space(s, offset, bytes) : r;
}

int co_fn file_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    FileState *s = block_node_state(node);

    return file_count_discard(s, bytes, punch(s, offset, bytes));
}

/* The extents' cache need not know: no data becomes a hole. */
int co_fn file_co_allocate(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    FileState *s = block_node_state(node);
    uint64_t length = (uint64_t)block_node_length(node);

    if (offset >= length) {
        return 0;
    }
    return change_range(s, FILE_METHOD_ALLOCATE, 0, offset, MIN(bytes, length - offset));
}

/* What a worker needs to answer something about a file. */
typedef struct Inquiry {
    const FileHandle *handle;
    uint64_t offset;
    FileExtent extent;
    int64_t number;
} Inquiry;

static int find_extent(void *opaque)
{
    Inquiry *q = opaque;

    q->extent = file_extent_find(q->handle->fd, q->offset);
    return 0;
}

static FileExtent co_fn co_find_extent(FileState *s, uint64_t offset)
{
    Inquiry q = {.handle = &s->handle, .offset = offset};

    if (s->handle.engine == AIO_ENGINE_INLINE) {
        return file_extent_find(s->handle.fd, offset);
    }
    file_co_run_worker(s, find_extent, &q);
    return q.extent;
}

/* The run at @offset, from memory if it is the last one of data that was found. */
static FileExtent co_fn co_extent_at(FileState *s, uint64_t offset)
{
    FileExtent e = {.data = true};
    uint64_t ticket;

    if (file_extent_cache_lookup(&s->extents, offset, &e.end, &ticket)) {
        return e;
    }
    e = co_find_extent(s, offset);
    if (e.data) {
        file_extent_cache_store(&s->extents, ticket, offset, e.end);
    }
    return e;
}

int co_fn file_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes, uint64_t *pnum,
                               BlockStatus *status)
{
    FileState *s = block_node_state(node);
    uint64_t alignment = s->handle.request_alignment;
    FileExtent e = co_extent_at(s, offset);
    uint64_t n = MIN(e.end - offset, bytes);

    /* A block that is partly a hole is data. */
    if (n % alignment && !e.data && n > alignment) {
        n -= n % alignment;
    } else if (n % alignment) {
        e.data = true;
        n = MIN(n - n % alignment + alignment, bytes);
    }
    *pnum = n;
    *status = BLOCK_STATUS_ALLOCATED | (e.data ? BLOCK_STATUS_DATA : BLOCK_STATUS_ZERO);
    return 0;
}

static int find_length(void *opaque)
{
    Inquiry *q = opaque;

    q->number = file_handle_length(q->handle);
    return 0;
}

static int find_allocated_size(void *opaque)
{
    Inquiry *q = opaque;

    q->number = file_handle_allocated_size(q->handle);
    return 0;
}

/* The answer to @question, which does not wait on local file systems. */
static int64_t co_fn co_ask(FileState *s, int (*question)(void *opaque))
{
    Inquiry q = {.handle = &s->handle};

    if (s->handle.local) {
        question(&q);
    } else {
        file_co_run_worker(s, question, &q);
    }
    return q.number;
}

int64_t co_fn file_co_length(BlockNode *node)
{
    return co_ask(block_node_state(node), find_length);
}

int64_t co_fn file_co_allocated_size(BlockNode *node)
{
    return co_ask(block_node_state(node), find_allocated_size);
}
