/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What each request means for the node. */
#include <errno.h>
#include <string.h>

#include "export/nbd/nbd-internal.h"

/*
 * Zeros in what was read are told as holes, instead of being sent, where so many come in a row, or
 * where there is nothing else.
 */
#define READ_BLOCK    4096
#define READ_HOLE_MIN (16 * 1024)

/* To bring data into caches below, it is read so much at a time. */
#define CACHE_STEP (1024 * 1024)

/* ---- answers ---- */

uint8_t *nbd_call_head(NbdCall *call)
{
    return call->heads + call->heads_bytes;
}

static void add_iov(NbdCall *call, const void *base, size_t bytes)
{
    g_assert(call->n_iov < G_N_ELEMENTS(call->iov));
    call->iov[call->n_iov++] = (struct iovec){(void *)base, bytes};
    call->answer_bytes += bytes;
}

void nbd_call_add(NbdCall *call, size_t head_bytes, const void *data, size_t data_bytes)
{
    if (head_bytes) {
        add_iov(call, nbd_call_head(call), head_bytes);
        call->heads_bytes += head_bytes;
    }
    if (data_bytes) {
        add_iov(call, data, data_bytes);
    }
}

void nbd_call_add_pipe(NbdCall *call, size_t head_bytes, size_t data_bytes)
{
    nbd_call_add(call, head_bytes, NULL, 0);
    call->answer_bytes += data_bytes;
}

void nbd_call_answer(NbdCall *call, NbdError error, const char *why)
{
    nbd_call_add(call,
                 nbd_wire_put_end(call->terms, nbd_call_head(call), &call->request, error, why),
                 NULL, 0);
}

void nbd_call_answer_result(NbdCall *call, int ret)
{
    if (ret == -ENOTSUP && !(call->request.flags & NBD_CMD_FLAG_FAST_ZERO)) {
        ret = -EIO; /* clients expect ENOTSUP there alone */
    }
    nbd_call_answer(call, nbd_wire_error(ret), ret < 0 ? g_strerror(-ret) : NULL);
}

/* ---- read ---- */

/* How many bytes from @from to @end, in whole blocks but for the last, are all zeros (or not). */
static size_t run_length(uint8_t *buffer, size_t from, size_t end, bool zero)
{
    size_t at = from;

    while (at < end) {
        size_t step = MIN(READ_BLOCK, end - at);

        if (iov_is_zero(IOV_LOCAL(buffer + at, step)) != zero) {
            break;
        }
        at += step;
    }
    return at - from;
}

/* The next chunk of what was read, from @from on: how many bytes, and whether they are a hole. */
static size_t next_chunk(const NbdCall *call, size_t from, bool *hole)
{
    size_t end = call->request.length;
    size_t at = from;

    while (at < end) {
        size_t zeros = run_length(call->buffer, at, end, true);

        if (zeros >= READ_HOLE_MIN || zeros == end) {
            *hole = at == from;
            return at == from ? zeros : at - from;
        }
        at += zeros;
        at += run_length(call->buffer, at, end, false);
    }
    *hole = false;
    return end - from;
}

static void add_chunk(NbdCall *call, size_t from, size_t bytes, bool hole)
{
    const NbdRequest *request = &call->request;
    bool done = from + bytes == request->length;
    uint8_t *head = nbd_call_head(call);

    if (hole) {
        nbd_call_add(call,
                     nbd_wire_put_hole_chunk(call->terms, head, request, done,
                                             request->offset + from, bytes),
                     NULL, 0);
    } else {
        nbd_call_add(call,
                     nbd_wire_put_data_chunk(call->terms, head, request, done,
                                             request->offset + from, bytes),
                     call->buffer + from, bytes);
    }
}

/* Answer a read by chunks; what there is no room to tell apart goes as data. */
static void answer_chunks(NbdCall *call)
{
    size_t length = call->request.length;
    bool whole = call->request.flags & NBD_CMD_FLAG_DF;
    size_t from = 0;

    for (unsigned n = 1; from < length; n++) {
        bool hole = false;
        size_t bytes =
            whole || n == NBD_CALL_CHUNKS ? length - from : next_chunk(call, from, &hole);

        add_chunk(call, from, bytes, hole);
        from += bytes;
    }
}

static void answer_pipe(NbdCall *call)
{
    const NbdRequest *request = &call->request;
    uint8_t *head = nbd_call_head(call);

    nbd_call_add_pipe(call,
                      call->terms->structured
                          ? nbd_wire_put_data_chunk(call->terms, head, request, true,
                                                    request->offset, request->length)
                          : nbd_wire_put_simple(head, request->cookie, NBD_OK),
                      request->length);
}

static void co_fn call_co_read(NbdCall *call)
{
    size_t length = call->request.length;
    int ret = 0;

    if (nbd_splice_co_read(call)) {
        answer_pipe(call);
        return;
    }
    if (length) {
        ret = blk_co_preadv(call->ne->common.blk, call->request.offset,
                            IOV_LOCAL(call->buffer, length), 0);
    }
    if (ret < 0 || length == 0) {
        nbd_call_answer_result(call, ret);
    } else if (call->terms->structured) {
        answer_chunks(call);
    } else {
        nbd_call_add(call, nbd_wire_put_simple(nbd_call_head(call), call->request.cookie, NBD_OK),
                     call->buffer, length);
    }
}

/* ---- what changes ---- */

bool nbd_call_is_durable(const NbdCall *call)
{
    return call->request.flags & NBD_CMD_FLAG_FUA || call->ne->common.writethrough;
}

static BlockRequestFlags durability(const NbdCall *call)
{
    return nbd_call_is_durable(call) ? BLOCK_REQ_FUA : (BlockRequestFlags)0;
}

int co_fn nbd_call_co_write_part(const NbdCall *call, size_t at, size_t bytes)
{
    return blk_co_pwritev(call->ne->common.blk, call->request.offset + at,
                          IOV_LOCAL(nbd_call_payload(call, at), bytes), durability(call));
}

static int co_fn call_co_write(NbdCall *call)
{
    return call->bulk ? nbd_bulk_co_write(call->bulk, call, call->helper)
                      : nbd_call_co_write_part(call, 0, call->payload);
}

static int co_fn call_co_zero(NbdCall *call)
{
    BlockRequestFlags flags = durability(call);

    if (!(call->request.flags & NBD_CMD_FLAG_NO_HOLE)) {
        flags |= BLOCK_REQ_MAY_UNMAP;
    }
    if (call->request.flags & NBD_CMD_FLAG_FAST_ZERO) {
        flags |= BLOCK_REQ_NO_FALLBACK;
    }
    return blk_co_pwrite_zeroes(call->ne->common.blk, call->request.offset, call->request.length,
                                flags);
}

static int co_fn call_co_trim(NbdCall *call)
{
    BlockBackend *blk = call->ne->common.blk;
    int ret = blk_co_pdiscard(blk, call->request.offset, call->request.length);

    if (ret == -ENOTSUP) {
        ret = 0; /* it is advice */
    }
    return ret == 0 && durability(call) ? blk_co_flush_for(blk, call->client) : ret;
}

static int co_fn call_co_flush(NbdCall *call)
{
    return call->ne->common.writable ? blk_co_flush_for(call->ne->common.blk, call->client) : 0;
}

static int co_fn call_co_cache(NbdCall *call)
{
    uint64_t end = call->request.offset + call->request.length;

    for (uint64_t at = call->request.offset; at < end; at += CACHE_STEP) {
        size_t bytes = MIN(CACHE_STEP, end - at);
        int ret = blk_co_preadv(call->ne->common.blk, at, IOV_LOCAL(call->buffer, bytes), 0);

        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* ---- dispatch ---- */

size_t nbd_call_buffer_bytes(const NbdTerms *terms, const NbdRequest *request)
{
    switch (request->type) {
    case NBD_CMD_READ:
    case NBD_CMD_WRITE:
        return request->length;
    case NBD_CMD_CACHE:
        return MIN(request->length, CACHE_STEP);
    case NBD_CMD_BLOCK_STATUS:
        return nbd_status_buffer_bytes(nbd_wire_payload(terms, request));
    default:
        return 0;
    }
}

static int co_fn call_co_change(NbdCall *call)
{
    if (call->request.length == 0) {
        return 0;
    }
    switch (call->request.type) {
    case NBD_CMD_WRITE:
        return call_co_write(call);
    case NBD_CMD_WRITE_ZEROES:
        return call_co_zero(call);
    case NBD_CMD_TRIM:
        return call_co_trim(call);
    default:
        return call_co_cache(call);
    }
}

void nbd_call_co_serve(NbdCall *call)
{
    switch (call->request.type) {
    case NBD_CMD_READ:
        call_co_read(call);
        break;
    case NBD_CMD_BLOCK_STATUS:
        nbd_status_co_serve(call);
        break;
    case NBD_CMD_FLUSH:
        nbd_call_answer_result(call, call_co_flush(call));
        break;
    default:
        nbd_call_answer_result(call, call_co_change(call));
        break;
    }
}
