/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Large writes whose payload is written while the rest of it comes in, for nodes that copy the data
 * while the caller waits. The client goes on filling its socket meanwhile, which holds much less
 * than one payload, and what is written is still in the cache.
 *
 * A client that leaves in the middle of a payload has written a part of it, then, or one whose
 * export ends in it. That is as good as any other outcome of a write without an answer.
 */
#include <string.h>

#include "export/nbd/nbd-internal.h"

/*
 * Pieces end at multiples of so much of the node, so that no cluster is written in two parts, and
 * are not much larger than what comes at once.
 */
#define STREAM_ALIGN (64 * 1024)
#define STREAM_PIECE (256 * 1024)

/* The same for those from a pipe, to files: at least no sector is written in two parts. */
#define STREAM_PIPE_ALIGN 4096

/* What comes next goes to the beginning of the buffer, which is in the cache. */
static void stream_move(NbdCall *call)
{
    size_t done = call->pieces.taken;

    memmove(call->buffer, nbd_call_payload(call, done), call->received - done);
    call->moved = done;
}

/* How much may be written now. */
static size_t stream_bytes(const NbdCall *call)
{
    uint64_t from = call->request.offset + call->pieces.taken;
    uint64_t end = call->request.offset + call->received;

    if (call->pieces.ret < 0 || call->cut) {
        return 0;
    }
    if (call->received < call->payload) {
        end -= end %
               (call->pipe ? STREAM_PIPE_ALIGN : MAX(STREAM_ALIGN, call->ne->face.preferred_block));
    }
    return end > from ? MIN(end - from, STREAM_PIECE) : 0;
}

bool nbd_stream_is_ready(const NbdCall *call)
{
    return !call->pieces.busy && (call->received == call->payload || stream_bytes(call) > 0);
}

void nbd_stream_cut(NbdCall *call)
{
    call->cut = true;
    call->payload = call->received;
}

/*
 * Write the next @bytes bytes; *@ret is 0 or -errno. In the pipe there is something only when there
 * is nothing in the buffer. False: now it is there, where other bounds hold.
 */
static bool co_fn stream_co_write_piece(NbdCall *call, size_t bytes, int *ret)
{
    if (call->pipe && call->pipe->bytes) {
        return nbd_splice_co_write(call, bytes, ret);
    }
    *ret = nbd_call_co_write_part(call, call->pieces.taken, bytes);
    return true;
}

void nbd_stream_co_write(NbdCall *call)
{
    size_t bytes;
    int ret;

    call->pieces.busy = 1;
    while ((bytes = stream_bytes(call)) > 0) {
        if (!stream_co_write_piece(call, bytes, &ret)) {
            continue;
        }
        call->pieces.taken += bytes;
        call->pieces.ret = call->pieces.ret < 0 ? call->pieces.ret : ret;
    }
    call->pieces.busy = 0;
    if (call->pieces.ret < 0) {
        nbd_splice_end(call); /* what is left in it is of no use, and what comes then neither */
    }
    stream_move(call);
}
