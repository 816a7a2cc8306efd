/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "aio/context-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static ssize_t system_call(const AioRequest *req)
{
    switch (req->op) {
    case AIO_OP_READ:
        return preadv2(req->fd, req->iov, req->n, req->offset, req->flags);
    case AIO_OP_WRITE:
        return pwritev2(req->fd, req->iov, req->n, req->offset, req->flags);
    case AIO_OP_FSYNC:
        return req->flags ? fdatasync(req->fd) : fsync(req->fd);
    case AIO_OP_FALLOCATE:
        return fallocate(req->fd, req->flags, req->offset, req->bytes);
    case AIO_OP_NOP:
        return 0;
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
    if (engine == AIO_ENGINE_THREADS || !ctx->ops->submit) {
        aio_co_run_worker(run_in_worker, req);
        return req->ret;
    }
    req->co = coroutine_self();
    do {
        ctx->ops->submit(ctx, req);
        coroutine_yield();
    } while (req->ret == -EINTR);
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
