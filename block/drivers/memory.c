/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * memory: a node whose bytes live in this process, in chunks that exist only where something other
 * than zeros was written. For tests, and for scratch space.
 */
#include "block/driver.h"

#include <errno.h>
#include <string.h>

#define CHUNK_SIZE (64 * 1024)

typedef struct MemoryState {
    GMutex lock;        /* of what follows; held for a memcpy, never across a yield */
    GHashTable *chunks; /* index as a guint64 * -> char[CHUNK_SIZE] */
    uint64_t size;
} MemoryState;

static bool co_fn memory_co_open(BlockNode *node, const BlockdevOptions *opts, GError **error)
{
    MemoryState *s = block_node_state(node);
    BlockRequestFlags write = BLOCK_REQ_FUA | BLOCK_REQ_WRITE_UNCHANGED;

    g_mutex_init(&s->lock);
    s->chunks = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    s->size = opts->u.memory.size;
    block_node_set_supported_flags(node, write, write | BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_NO_FALLBACK,
                                   BLOCK_REQ_ZERO);
    return true;
}

static void co_fn memory_co_close(BlockNode *node)
{
    MemoryState *s = block_node_state(node);

    g_hash_table_unref(s->chunks);
    g_mutex_clear(&s->lock);
}

/* The chunk of that index, or NULL if there is none and @make is false, or no memory is left. */
static char *memory_chunk(MemoryState *s, guint64 index, bool make)
{
    char *chunk = g_hash_table_lookup(s->chunks, &index);

    if (!chunk && make) {
        chunk = g_try_malloc0(CHUNK_SIZE);
        if (chunk) {
            g_hash_table_insert(s->chunks, g_memdup2(&index, sizeof(index)), chunk);
        }
    }
    return chunk;
}

/* What lies in one chunk of the range of @bytes bytes at @offset. */
static size_t memory_piece(uint64_t offset, uint64_t bytes)
{
    return MIN(bytes, CHUNK_SIZE - offset % CHUNK_SIZE);
}

static int co_fn memory_co_preadv(BlockNode *node, uint64_t offset, const IoVector *iov,
                                  BlockRequestFlags flags)
{
    MemoryState *s = block_node_state(node);
    size_t piece;

    g_mutex_lock(&s->lock);
    for (size_t done = 0; done < iov->bytes; done += piece) {
        const char *chunk = memory_chunk(s, (offset + done) / CHUNK_SIZE, false);

        piece = memory_piece(offset + done, iov->bytes - done);
        if (chunk) {
            iov_from_buffer(iov, done, chunk + (offset + done) % CHUNK_SIZE, piece);
        } else {
            iov_fill(iov, done, 0, piece);
        }
    }
    g_mutex_unlock(&s->lock);
    return 0;
}

static int co_fn memory_co_pwritev(BlockNode *node, uint64_t offset, const IoVector *iov,
                                   BlockRequestFlags flags)
{
    MemoryState *s = block_node_state(node);
    size_t piece;
    int r = 0;

    g_mutex_lock(&s->lock);
    for (size_t done = 0; done < iov->bytes; done += piece) {
        char *chunk = memory_chunk(s, (offset + done) / CHUNK_SIZE, true);

        if (!chunk) {
            r = -ENOSPC;
            break;
        }
        piece = memory_piece(offset + done, iov->bytes - done);
        iov_to_buffer(iov, done, chunk + (offset + done) % CHUNK_SIZE, piece);
    }
    g_mutex_unlock(&s->lock);
    return r;
}

/* The range of bytes that is to become zero. */
typedef struct MemoryRange {
    uint64_t start, end;
} MemoryRange;

/* Zeroes what of the chunk lies in the range; returns whether nothing of it is left. */
static gboolean memory_zero_chunk(gpointer key, gpointer value, gpointer opaque)
{
    const MemoryRange *range = opaque;
    uint64_t start = *(guint64 *)key * CHUNK_SIZE;
    uint64_t from = MAX(range->start, start);
    uint64_t to = MIN(range->end, start + CHUNK_SIZE);

    if (from >= to) {
        return FALSE;
    }
    if (to - from == CHUNK_SIZE) {
        return TRUE;
    }
    memset((char *)value + (from - start), 0, to - from);
    return FALSE;
}

static void memory_zero_locked(MemoryState *s, uint64_t offset, uint64_t bytes)
{
    MemoryRange range;
    size_t piece;

    if (offset + bytes >= s->size) {
        /* The last chunk goes as a whole, though the node ends inside of it. */
        bytes = s->size + CHUNK_SIZE - s->size % CHUNK_SIZE - offset;
    }
    range = (MemoryRange){offset, offset + bytes};
    if (bytes / CHUNK_SIZE > g_hash_table_size(s->chunks)) {
        g_hash_table_foreach_remove(s->chunks, memory_zero_chunk, &range);
        return;
    }
    for (uint64_t done = 0; done < bytes; done += piece) {
        guint64 index = (offset + done) / CHUNK_SIZE;
        char *chunk = memory_chunk(s, index, false);

        piece = memory_piece(offset + done, bytes - done);
        if (chunk && memory_zero_chunk(&index, chunk, &range)) {
            g_hash_table_remove(s->chunks, &index);
        }
    }
}

static int co_fn memory_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                         BlockRequestFlags flags)
{
    MemoryState *s = block_node_state(node);

    g_mutex_lock(&s->lock);
    memory_zero_locked(s, offset, bytes);
    g_mutex_unlock(&s->lock);
    return 0;
}

static int co_fn memory_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return memory_co_pwrite_zeroes(node, offset, bytes, 0);
}

static int co_fn memory_co_truncate(BlockNode *node, uint64_t size, PreallocMode prealloc,
                                    BlockRequestFlags flags, GError **error)
{
    MemoryState *s = block_node_state(node);

    g_mutex_lock(&s->lock);
    if (size < s->size) {
        memory_zero_locked(s, size, s->size - size);
    }
    s->size = size;
    g_mutex_unlock(&s->lock);
    return 0;
}

static int co_fn memory_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes,
                                        uint64_t *pnum, BlockStatus *status)
{
    MemoryState *s = block_node_state(node);
    bool data;

    g_mutex_lock(&s->lock);
    data = memory_chunk(s, offset / CHUNK_SIZE, false);
    *pnum = memory_piece(offset, bytes);
    if (g_hash_table_size(s->chunks) == 0) {
        *pnum = bytes;
    }
    while (*pnum < bytes && !!memory_chunk(s, (offset + *pnum) / CHUNK_SIZE, false) == data &&
           *pnum < 1024 * CHUNK_SIZE) {
        *pnum += memory_piece(offset + *pnum, bytes - *pnum);
    }
    g_mutex_unlock(&s->lock);
    *status = BLOCK_STATUS_ALLOCATED | (data ? BLOCK_STATUS_DATA : BLOCK_STATUS_ZERO);
    return 0;
}

static int64_t co_fn memory_co_length(BlockNode *node)
{
    MemoryState *s = block_node_state(node);
    int64_t size;

    g_mutex_lock(&s->lock);
    size = s->size;
    g_mutex_unlock(&s->lock);
    return size;
}

static int64_t co_fn memory_co_allocated_size(BlockNode *node)
{
    MemoryState *s = block_node_state(node);
    int64_t size;

    g_mutex_lock(&s->lock);
    size = (int64_t)g_hash_table_size(s->chunks) * CHUNK_SIZE;
    g_mutex_unlock(&s->lock);
    return size;
}

const BlockDriver block_driver_memory = {
    .name = "memory",
    .type = BLOCKDEV_DRIVER_MEMORY,
    .state_size = sizeof(MemoryState),
    .is_protocol = true,
    .concurrency = BLOCK_CONCURRENT,
    .co_open = memory_co_open,
    .co_close = memory_co_close,
    .co_preadv = memory_co_preadv,
    .co_pwritev = memory_co_pwritev,
    .co_pwrite_zeroes = memory_co_pwrite_zeroes,
    .co_pdiscard = memory_co_pdiscard,
    .co_truncate = memory_co_truncate,
    .co_block_status = memory_co_block_status,
    .co_length = memory_co_length,
    .co_allocated_size = memory_co_allocated_size,
};
