/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Large reads that are answered with the image's own pages: from the page cache through a pipe into
 * the client's socket, and nothing is copied on the way, but by the client. What is wrong with the
 * range shows when the pages go into the pipe, before the answer has begun.
 *
 * And large writes whose payload goes from the socket through a pipe into the image, where it is
 * copied for the first time since the client gave it to its socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "export/nbd/nbd-internal.h"

/*
 * Less is copied sooner. A client that waits for this answer alone cannot copy one while we are at
 * the next, and has the data sooner if we have brought it into the cache.
 */
#define SPLICE_MIN       (16 * 1024)
#define SPLICE_MIN_ALONE (128 * 1024)

/* About what comes at once, as in stream.c. */
#define SPLICE_PIECE (256 * 1024)

/* Pages that hold the range of @request. */
static size_t pages_of(const NbdRequest *request)
{
    size_t page = sysconf(_SC_PAGESIZE);

    return (request->offset % page + request->length + page - 1) / page;
}

static size_t bytes_in(const NbdPipe *pipe)
{
    int n = 0;

    return ioctl(pipe->read_fd, FIONREAD, &n) == 0 ? n : 1;
}

void nbd_splice_end(NbdCall *call)
{
    if (call->pipe) {
        nbd_pool_give_pipe(call->pool, g_steal_pointer(&call->pipe));
    }
}

bool nbd_splice_co_read(NbdCall *call)
{
    const NbdRequest *request = &call->request;

    if (!call->may_splice || !call->ne->zero_copy ||
        request->length < (call->alone ? SPLICE_MIN_ALONE : SPLICE_MIN)) {
        return false;
    }
    call->pipe = nbd_pool_take_pipe(call->pool, pages_of(request));
    if (!call->pipe) {
        return false;
    }
    if (blk_co_splice(call->ne->common.blk, request->offset, request->length,
                      call->pipe->write_fd) < 0) {
        call->pipe->bytes = bytes_in(call->pipe);
        nbd_splice_end(call);
        return false;
    }
    call->pipe->bytes = request->length;
    return true;
}

ssize_t nbd_splice_send(NbdCall *call, int fd, bool more)
{
    NbdPipe *pipe = call->pipe;
    unsigned flags = SPLICE_F_NONBLOCK | (more ? SPLICE_F_MORE : 0);
    ssize_t n;

    do {
        n = splice(pipe->read_fd, NULL, fd, NULL, pipe->bytes, flags);
    } while (n < 0 && errno == EINTR);
    if (n <= 0) {
        return n < 0 ? -errno : -EIO; /* a page that cannot be had any more */
    }
    pipe->bytes -= n;
    return n;
}

/* ---- writes ---- */

void nbd_splice_begin_write(NbdCall *call)
{
    if (call->may_splice) {
        call->pipe = nbd_pool_take_pipe(call->pool, 1);
    }
}

bool nbd_splice_may_receive(const NbdCall *call)
{
    return call->pipe && !call->pieces.busy && !nbd_stream_is_ready(call);
}

/* What is in the buffer, less than a page, into the pipe, for what follows comes there. */
static int put_rest(NbdCall *call)
{
    size_t rest = call->received - call->pieces.taken;

    if (call->pipe->bytes == 0 && rest > 0) {
        ssize_t n = write(call->pipe->write_fd, nbd_call_payload(call, call->pieces.taken), rest);

        if (n != (ssize_t)rest) {
            return -EIO;
        }
        call->pipe->bytes = rest;
    }
    return 0;
}

ssize_t nbd_splice_receive(NbdCall *call, int fd)
{
    size_t bytes = MIN(call->payload - call->received, SPLICE_PIECE);
    ssize_t n = put_rest(call);

    if (n < 0) {
        return n;
    }
    do {
        n = splice(fd, NULL, call->pipe->write_fd, NULL, bytes, SPLICE_F_NONBLOCK);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        return -errno;
    }
    call->pipe->bytes += (size_t)n;
    return n;
}

int nbd_splice_take_back(NbdCall *call)
{
    NbdPipe *pipe = call->pipe;
    uint8_t *to = nbd_call_payload(call, call->pieces.taken);

    while (pipe->bytes) {
        ssize_t n = read(pipe->read_fd, to, pipe->bytes);

        if (n <= 0) {
            return -EIO;
        }
        to += n;
        pipe->bytes -= (size_t)n;
    }
    nbd_splice_end(call);
    return 0;
}

bool co_fn nbd_splice_co_write(NbdCall *call, size_t bytes, int *ret)
{
    *ret = blk_co_splice_write(call->ne->common.blk, call->request.offset + call->pieces.taken,
                               bytes, call->pipe->read_fd);
    if (*ret == -ENOTSUP) {
        call->unspliced = true;
        *ret = nbd_splice_take_back(call);
        return *ret < 0;
    }
    call->pipe->bytes -= *ret == 0 ? bytes : 0;
    return true;
}
