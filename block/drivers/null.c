/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * null-co, null-aio: a node that forgets what is written. Reads give zeros in any case (a buffer
 * left as it was would show a client what others have read); read-zeroes says whether the node
 * promises it.
 */
#include "block/driver.h"

typedef struct NullState {
    uint64_t size;
    int64_t latency_ns;
    bool read_zeroes;
} NullState;

static bool co_fn null_co_open(BlockNode *node, const BlockdevOptions *opts, GError **error)
{
    const BlockdevOptionsNull *o =
        opts->driver == BLOCKDEV_DRIVER_NULL_CO ? &opts->u.null_co : &opts->u.null_aio;
    NullState *s = block_node_state(node);
    BlockRequestFlags write = BLOCK_REQ_FUA | BLOCK_REQ_WRITE_UNCHANGED;

    *s = (NullState){
        .size = o->size,
        .latency_ns = o->latency_ns,
        .read_zeroes = o->read_zeroes,
    };
    block_node_set_supported_flags(node, write, write | BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_NO_FALLBACK,
                                   0);
    return true;
}

static int co_fn null_co_wait(BlockNode *node)
{
    const NullState *s = block_node_state(node);

    return s->latency_ns ? aio_co_sleep_ns(s->latency_ns) : 0;
}

static int co_fn null_co_preadv(BlockNode *node, uint64_t offset, const IoVector *iov,
                                BlockRequestFlags flags)
{
    iov_fill(iov, 0, 0, iov->bytes);
    return null_co_wait(node);
}

static int co_fn null_co_pwritev(BlockNode *node, uint64_t offset, const IoVector *iov,
                                 BlockRequestFlags flags)
{
    return null_co_wait(node);
}

static int co_fn null_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                       BlockRequestFlags flags)
{
    return null_co_wait(node);
}

static int co_fn null_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return null_co_wait(node);
}

static int co_fn null_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes,
                                      uint64_t *pnum, BlockStatus *status)
{
    const NullState *s = block_node_state(node);

    *pnum = bytes;
    *status = BLOCK_STATUS_ALLOCATED | (s->read_zeroes ? BLOCK_STATUS_ZERO : BLOCK_STATUS_DATA);
    return 0;
}

static int64_t co_fn null_co_length(BlockNode *node)
{
    const NullState *s = block_node_state(node);

    return s->size;
}

static char *null_filename(BlockNode *node)
{
    const NullState *s = block_node_state(node);

    if (s->size != 1024 * 1024 * 1024 || s->latency_ns || s->read_zeroes) {
        return NULL;
    }
    return g_strdup_printf("%s://", block_node_driver_name(node));
}

#define NULL_DRIVER(name_, type_)                                                                  \
    {                                                                                              \
        .name = name_, .type = type_, .state_size = sizeof(NullState), .is_protocol = true,        \
        .concurrency = BLOCK_CONCURRENT, .co_open = null_co_open, .co_preadv = null_co_preadv,     \
        .co_pwritev = null_co_pwritev, .co_pwrite_zeroes = null_co_pwrite_zeroes,                  \
        .co_pdiscard = null_co_pdiscard, .co_flush = null_co_wait,                                 \
        .co_block_status = null_co_block_status, .co_length = null_co_length,                      \
        .filename = null_filename,                                                                 \
    }

const BlockDriver block_driver_null_co = NULL_DRIVER("null-co", BLOCKDEV_DRIVER_NULL_CO);
const BlockDriver block_driver_null_aio = NULL_DRIVER("null-aio", BLOCKDEV_DRIVER_NULL_AIO);
