/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * BLOCK_STATUS: what the metadata contexts that the client has selected say of a range. The answer
 * is put together in the request's buffer, behind the payload that came with the request: for each
 * context a chunk, of which there is the same room for all.
 */
#include <errno.h>
#include <string.h>

#include "export/nbd/nbd-internal.h"
#include "util/be.h"

/* Room for all chunks. Clients ask again for what they have not been told. */
#define STATUS_ROOM (64 * 1024)

/* How often a context is asked for one chunk; extents of the same status become one. */
#define STATUS_STEPS_MAX 16384

/* Heads of the two kinds of chunk, the context's id included, and their descriptors. */
#define STATUS_HEAD_MAX (NBD_EXT_REPLY_BYTES + 8)
#define DESCRIPTOR      8
#define EXT_DESCRIPTOR  16

/* ---- contexts ---- */

void nbd_context_free(NbdContext *context)
{
    context->free(context);
}

static void plain_context_free(NbdContext *context)
{
    g_free(context->name);
    g_free(context);
}

static int co_fn allocation_co_status(NbdContext *context, NbdExport *ne, uint64_t offset,
                                      uint64_t bytes, NbdExtent *extent)
{
    BlockStatus status;
    int ret = blk_co_block_status(ne->common.blk, offset, bytes, &extent->bytes, &status);

    if (ret < 0) {
        return ret;
    }
    extent->status = (status & BLOCK_STATUS_DATA ? 0 : NBD_STATE_HOLE) |
                     (status & BLOCK_STATUS_ZERO ? NBD_STATE_ZERO : 0);
    return 0;
}

static int co_fn depth_co_status(NbdContext *context, NbdExport *ne, uint64_t offset,
                                 uint64_t bytes, NbdExtent *extent)
{
    return blk_co_allocation_depth(ne->common.blk, offset, bytes, &extent->bytes, &extent->status);
}

static NbdContext *plain_context_new(const char *name,
                                     int co_fn (*co_status)(NbdContext *, NbdExport *, uint64_t,
                                                            uint64_t, NbdExtent *))
{
    NbdContext *context = g_new0(NbdContext, 1);

    context->name = g_strdup(name);
    context->co_status = co_status;
    context->free = plain_context_free;
    return context;
}

NbdContext *nbd_context_new_allocation(void)
{
    return plain_context_new("base:allocation", allocation_co_status);
}

NbdContext *nbd_context_new_depth(void)
{
    return plain_context_new("qemu:allocation-depth", depth_co_status);
}

/* ---- one chunk ---- */

typedef struct StatusChunk {
    NbdCall *call;
    uint8_t *at;     /* where the next descriptor goes */
    unsigned n, max; /* descriptors that are there and that there is room for */
    NbdExtent last;  /* not put yet; 0 bytes: there is none */
} StatusChunk;

static void chunk_put_last(StatusChunk *chunk)
{
    if (chunk->call->terms->extended) {
        be64_put(chunk->at, chunk->last.bytes);
        be32_put(chunk->at + 8, 0);
        be32_put(chunk->at + 12, chunk->last.status);
        chunk->at += EXT_DESCRIPTOR;
    } else {
        be32_put(chunk->at, chunk->last.bytes);
        be32_put(chunk->at + 4, chunk->last.status);
        chunk->at += DESCRIPTOR;
    }
    chunk->n++;
}

/* Add an extent. False if there is no room for it. */
static bool chunk_add(StatusChunk *chunk, const NbdExtent *extent)
{
    if (chunk->last.bytes && chunk->last.status == extent->status) {
        chunk->last.bytes += extent->bytes;
        return true;
    }
    if (chunk->last.bytes) {
        if (chunk->n + 1 == chunk->max) {
            return false;
        }
        chunk_put_last(chunk);
    }
    chunk->last = *extent;
    return true;
}

/* Ask @context about the range. 0 or -errno. */
static int co_fn chunk_co_fill(StatusChunk *chunk, NbdContext *context, uint64_t offset,
                               uint64_t length)
{
    NbdExport *ne = chunk->call->ne;
    uint64_t end = offset + length;

    for (unsigned i = 0; i < STATUS_STEPS_MAX && offset < end; i++) {
        NbdExtent extent;
        int ret = context->co_status(context, ne, offset, end - offset, &extent);

        if (ret < 0) {
            return ret;
        }
        if (extent.bytes == 0 || !chunk_add(chunk, &extent)) {
            break;
        }
        offset += extent.bytes;
    }
    if (!chunk->last.bytes) {
        return -EIO; /* the node has become shorter */
    }
    chunk_put_last(chunk);
    return 0;
}

/* Put the chunk of the context @id at @out, @room bytes; *@bytes is what it takes. 0 or -errno. */
static int co_fn status_co_chunk(NbdCall *call, uint32_t id, uint64_t length, bool done,
                                 uint8_t *out, size_t room, size_t *bytes)
{
    bool extended = call->terms->extended;
    size_t head = (extended ? NBD_EXT_REPLY_BYTES : NBD_STRUCTURED_BYTES) + (extended ? 8 : 4);
    bool one = call->request.flags & NBD_CMD_FLAG_REQ_ONE;
    StatusChunk chunk = {
        .call = call,
        .at = out + head,
        .max = one ? 1 : (room - head) / (extended ? EXT_DESCRIPTOR : DESCRIPTOR),
    };
    NbdContext *context = g_ptr_array_index(call->ne->contexts, id);
    int ret = chunk_co_fill(&chunk, context, call->request.offset, length);
    size_t at;

    if (ret < 0) {
        return ret;
    }
    *bytes = chunk.at - out;
    at = nbd_wire_put_chunk(call->terms, out, &call->request,
                            extended ? NBD_CHUNK_BLOCK_STATUS_EXT : NBD_CHUNK_BLOCK_STATUS, done,
                            *bytes - head + (extended ? 8 : 4));
    be32_put(out + at, id);
    if (extended) {
        be32_put(out + at + 4, chunk.n);
    }
    return 0;
}

/* ---- the whole answer ---- */

size_t nbd_status_buffer_bytes(uint64_t payload)
{
    return payload + STATUS_ROOM;
}

static bool is_among(const uint8_t *ids, unsigned n, uint32_t id)
{
    for (unsigned i = 0; i < n; i++) {
        if (be32_get(ids + 4 * i) == id) {
            return true;
        }
    }
    return false;
}

static bool is_selected(const NbdCall *call, uint32_t id)
{
    for (unsigned i = 0; i < call->terms->n_contexts; i++) {
        if (call->context_ids[i] == id) {
            return true;
        }
    }
    return false;
}

/* What is asked for: of a range of *@length bytes, the contexts in *@ids (32 bits each). */
typedef struct StatusQuestion {
    uint64_t length;
    unsigned n_ids;
    const uint8_t *ids; /* NULL: all that have been selected */
} StatusQuestion;

static uint32_t question_id(const NbdCall *call, const StatusQuestion *question, unsigned i)
{
    return question->ids ? be32_get(question->ids + 4 * i) : call->context_ids[i];
}

/* NULL, or what is wrong with it. */
static const char *read_question(const NbdCall *call, StatusQuestion *question)
{
    const NbdRequest *request = &call->request;
    NbdStatusPayload payload;

    *question = (StatusQuestion){request->length, call->terms->n_contexts, NULL};
    if (!(request->flags & NBD_CMD_FLAG_PAYLOAD_LEN)) {
        return NULL;
    }
    if (!nbd_wire_get_status_payload(call->buffer, call->payload, &payload) || !payload.n_ids ||
        payload.n_ids > call->terms->n_contexts) {
        return "a payload that names no contexts, or too many";
    }
    *question = (StatusQuestion){payload.length, payload.n_ids, payload.ids};
    for (unsigned i = 0; i < payload.n_ids; i++) {
        uint32_t id = be32_get(payload.ids + 4 * i);

        if (!is_selected(call, id) || is_among(payload.ids, i, id)) {
            return "a payload with a context that was not selected, or twice the same";
        }
    }
    if (request->offset > call->terms->size || payload.length == 0 ||
        payload.length > call->terms->size - request->offset) {
        return "the range is empty or goes beyond the end of the export";
    }
    return NULL;
}

void nbd_status_co_serve(NbdCall *call)
{
    uint8_t *out = call->buffer + call->payload;
    size_t all = 0;
    StatusQuestion question;
    const char *wrong = read_question(call, &question);

    if (wrong) {
        nbd_call_answer(call, NBD_EINVAL, wrong);
        return;
    }
    for (unsigned i = 0; i < question.n_ids; i++) {
        size_t bytes = 0;
        int ret = status_co_chunk(call, question_id(call, &question, i), question.length,
                                  i + 1 == question.n_ids, out + all, STATUS_ROOM / question.n_ids,
                                  &bytes);

        if (ret < 0) {
            nbd_call_answer(call, nbd_wire_error(ret), g_strerror(-ret));
            return;
        }
        all += bytes;
    }
    nbd_call_add(call, 0, out, all);
}
