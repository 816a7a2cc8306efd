/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "aio/context-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* To copy more than that takes so long that it is better done elsewhere. */
#define INLINE_BYTES_MAX (1024 * 1024)

/* After so many reads in a row that the page cache did not have, only each so-manieth asks it. */
#define CACHE_MISSES_MAX  16
#define CACHE_RETRY_EVERY 32

/* Whether @req is the plain case, for which the kernel need not look at a vector. */
static bool is_plain(const AioRequest *req)
{
    return req->n == 1 && !req->flags;
}

static ssize_t read_call(const AioRequest *req)
{
    if (is_plain(req)) {
        return pread(req->fd, req->iov->iov_base, req->iov->iov_len, req->offset);
    }
    return preadv2(req->fd, req->iov, req->n, req->offset, req->flags);
}

static ssize_t write_call(const AioRequest *req)
{
    if (is_plain(req)) {
        return pwrite(req->fd, req->iov->iov_base, req->iov->iov_len, req->offset);
    }
    return pwritev2(req->fd, req->iov, req->n, req->offset, req->flags);
}

static ssize_t system_call(const AioRequest *req)
{
    switch (req->op) {
    case AIO_OP_READ:
        return read_call(req);
    case AIO_OP_WRITE:
        return write_call(req);
    case AIO_OP_FSYNC:
        return req->flags ? fdatasync(req->fd) : fsync(req->fd);
    case AIO_OP_FALLOCATE:
        return fallocate(req->fd, req->flags, req->offset, req->bytes);
    case AIO_OP_NOP:
        return 0;
    case AIO_OP_COMMAND:
        break;
    }
    g_assert_not_reached();
}

ssize_t aio_request_run_sync(const AioRequest *req)
{
    ssize_t r;

    do {
        r = system_call(req);
    } while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : r;
}

/* Files in memory; elsewhere, what can be had from the page cache */

static bool is_direct(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && (flags & O_DIRECT);
}

AioEngine aio_engine_for_file(int fd)
{
    struct statfs fs;
    struct stat st;
    char byte;
    struct iovec one = {&byte, 1};

    /* The file system of a device is that of its name, which is in memory, too. */
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && fstatfs(fd, &fs) == 0 &&
        (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC)) {
        return AIO_ENGINE_INLINE;
    }
    if (is_direct(fd)) {
        return AIO_ENGINE_DIRECT; /* there, RWF_NOWAIT still waits for the device */
    }
    if (preadv2(fd, &one, 1, 0, RWF_NOWAIT) < 0 && errno != EAGAIN) {
        return AIO_ENGINE_DEFAULT;
    }
    return AIO_ENGINE_CACHED;
}

static size_t request_bytes(const AioRequest *req)
{
    size_t bytes = 0;

    for (unsigned i = 0; i < req->n; i++) {
        bytes += req->iov[i].iov_len;
    }
    return bytes;
}

/* Whether @req on a file in memory is done sooner than the loop misses its thread. */
static bool is_quick(const AioRequest *req)
{
    return req->op != AIO_OP_FALLOCATE && request_bytes(req) <= INLINE_BYTES_MAX;
}

/* Try to read all without waiting. Where that fails time and again it is tried less often. */
static bool read_cached(AioContext *ctx, AioRequest *req)
{
    if (ctx->cache_misses >= CACHE_MISSES_MAX && ++ctx->cache_skipped % CACHE_RETRY_EVERY) {
        return false;
    }
    req->ret = preadv2(req->fd, req->iov, req->n, req->offset, req->flags | RWF_NOWAIT);
    if (req->ret >= 0 && (size_t)req->ret == request_bytes(req)) {
        ctx->cache_misses = 0;
        return true;
    }
    ctx->cache_misses++;
    return false;
}

static int run_in_worker(void *opaque)
{
    AioRequest *req = opaque;

    req->ret = aio_request_run_sync(req);
    return 0;
}

static ssize_t co_fn request_run(AioEngine engine, AioRequest *req)
{
    AioContext *ctx = aio_context_current();

    g_assert(ctx);
    if (engine == AIO_ENGINE_INLINE && is_quick(req)) {
        return aio_request_run_sync(req);
    }
    if (engine == AIO_ENGINE_CACHED && req->op == AIO_OP_READ && read_cached(ctx, req)) {
        return req->ret;
    }
    if (engine == AIO_ENGINE_APART) {
        aio_co_run_worker_apart(run_in_worker, req);
        return req->ret;
    }
    if (engine == AIO_ENGINE_THREADS || !ctx->ops->submit) {
        aio_co_run_worker(run_in_worker, req);
        return req->ret;
    }
    if (engine == AIO_ENGINE_DIRECT) {
        req->buffer = aio_buffer_find(ctx, req->iov, req->n);
    }
    req->co = coroutine_self();
    do {
        ctx->ops->submit(ctx, req);
        coroutine_yield();
    } while (req->ret == -EINTR);
    if (req->ret == -ECANCELED) {
        /* Not begun: the kernel could start no thread for it. Ours may be there, or do without. */
        aio_co_run_worker(run_in_worker, req);
    }
    return req->ret;
}

ssize_t co_fn aio_co_preadv(AioEngine engine, int fd, const struct iovec *iov, unsigned n,
                            uint64_t offset, int rwf_flags)
{
    AioRequest req = {
        .op = AIO_OP_READ, .fd = fd, .iov = iov, .n = n, .offset = offset, .flags = rwf_flags};

    return request_run(engine, &req);
}

ssize_t co_fn aio_co_pwritev(AioEngine engine, int fd, const struct iovec *iov, unsigned n,
                             uint64_t offset, int rwf_flags)
{
    AioRequest req = {
        .op = AIO_OP_WRITE, .fd = fd, .iov = iov, .n = n, .offset = offset, .flags = rwf_flags};

    return request_run(engine, &req);
}

int co_fn aio_co_fsync(AioEngine engine, int fd, bool data_only)
{
    AioRequest req = {.op = AIO_OP_FSYNC, .fd = fd, .flags = data_only};

    return request_run(engine, &req);
}

int co_fn aio_co_fallocate(AioEngine engine, int fd, int mode, uint64_t offset, uint64_t bytes)
{
    AioRequest req = {
        .op = AIO_OP_FALLOCATE, .fd = fd, .flags = mode, .offset = offset, .bytes = bytes};

    return request_run(engine, &req);
}

int co_fn aio_co_nop(AioEngine engine)
{
    AioRequest req = {.op = AIO_OP_NOP};

    return request_run(engine, &req);
}
