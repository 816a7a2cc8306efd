/* SPDX-License-Identifier: GPL-2.0-or-later */
/* raw: the bytes of another node, or a part of them. */
#include "block/driver.h"
#include "util/error.h"

typedef struct RawState {
    uint64_t offset;
    bool has_size;
    uint64_t size;
} RawState;

static BlockChild *raw_file(BlockNode *node)
{
    return block_node_first_child(node);
}

/* Takes the options over into @s, if @file can hold what they ask for. */
static bool raw_state_from(RawState *s, BlockNode *node, const BlockdevOptionsRaw *o,
                           BlockNode *file, GError **error)
{
    uint64_t length = block_node_length(file);

    if (o->has_size && o->size % 512 != 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "block node '%s': 'size' is %" G_GUINT64_FORMAT ", which is no multiple of 512",
                    block_node_name(node), o->size);
        return false;
    }
    if (o->offset > length) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "block node '%s': 'offset' is %" G_GUINT64_FORMAT
                    ", but node '%s' has only %" G_GUINT64_FORMAT " bytes",
                    block_node_name(node), o->offset, block_node_name(file), length);
        return false;
    }
    if (o->has_size && o->size > length - o->offset) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "block node '%s': 'offset' and 'size' add up to %" G_GUINT64_FORMAT
                    ", but node '%s' has only %" G_GUINT64_FORMAT " bytes",
                    block_node_name(node), o->offset + o->size, block_node_name(file), length);
        return false;
    }
    *s = (RawState){.offset = o->offset, .has_size = o->has_size, .size = o->size};
    return true;
}

static bool co_fn raw_co_open(BlockNode *node, const BlockdevOptions *opts, GError **error)
{
    const BlockdevOptionsRaw *o = &opts->u.raw;
    BlockChild *file = block_child_co_open(node, o->file, "file", error);

    return file && raw_state_from(block_node_state(node), node, o, block_child_node(file), error);
}

static bool co_fn raw_co_reopen_prepare(BlockReopen *reopen, GError **error)
{
    g_autofree RawState *s = g_new0(RawState, 1);
    BlockNode *file = block_reopen_child(reopen, "file");

    if (!raw_state_from(s, reopen->node, &reopen->opts->u.raw, file, error)) {
        return false;
    }
    reopen->state = g_steal_pointer(&s);
    return true;
}

static void co_fn raw_co_reopen_commit(BlockReopen *reopen)
{
    RawState *s = block_node_state(reopen->node);

    *s = *(RawState *)reopen->state;
    g_free(reopen->state);
}

static void co_fn raw_co_reopen_abort(BlockReopen *reopen)
{
    g_free(reopen->state);
}

static int co_fn raw_co_preadv(BlockNode *node, uint64_t offset, const IoVector *iov,
                               BlockRequestFlags flags)
{
    const RawState *s = block_node_state(node);

    return block_child_co_preadv(raw_file(node), s->offset + offset, iov, flags);
}

static int co_fn raw_co_splice(BlockNode *node, uint64_t offset, size_t bytes, int pipe)
{
    const RawState *s = block_node_state(node);

    return block_child_co_splice(raw_file(node), s->offset + offset, bytes, pipe);
}

static int co_fn raw_co_pwritev(BlockNode *node, uint64_t offset, const IoVector *iov,
                                BlockRequestFlags flags)
{
    const RawState *s = block_node_state(node);

    return block_child_co_pwritev(raw_file(node), s->offset + offset, iov, flags);
}

static int co_fn raw_co_splice_write(BlockNode *node, uint64_t offset, size_t bytes, int pipe)
{
    const RawState *s = block_node_state(node);

    return block_child_co_splice_write(raw_file(node), s->offset + offset, bytes, pipe);
}

static int co_fn raw_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                      BlockRequestFlags flags)
{
    const RawState *s = block_node_state(node);

    return block_child_co_pwrite_zeroes(raw_file(node), s->offset + offset, bytes, flags);
}

static int co_fn raw_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    const RawState *s = block_node_state(node);

    return block_child_co_pdiscard(raw_file(node), s->offset + offset, bytes);
}

static int co_fn raw_co_allocate(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    const RawState *s = block_node_state(node);

    return block_child_co_allocate(raw_file(node), s->offset + offset, bytes);
}

static int co_fn raw_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes,
                                     uint64_t *pnum, BlockStatus *status)
{
    const RawState *s = block_node_state(node);
    int r = block_child_co_block_status(raw_file(node), s->offset + offset, bytes, pnum, status);

    if (r == 0 && *pnum == 0) {
        /* The file has become shorter than the window into it; reads give zeros there. */
        *pnum = bytes;
        *status = BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED;
    }
    return r;
}

static int co_fn raw_co_truncate(BlockNode *node, uint64_t size, PreallocMode prealloc,
                                 BlockRequestFlags flags, GError **error)
{
    const RawState *s = block_node_state(node);

    if (s->has_size) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "block node '%s' has a fixed 'size' among its options; its length can only be "
                    "changed by blockdev-reopen",
                    block_node_name(node));
        return -ENOTSUP;
    }
    if (size > INT64_MAX - s->offset) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "block node '%s': a length of %" G_GUINT64_FORMAT " bytes is too large",
                    block_node_name(node), size);
        return -EFBIG;
    }
    return block_child_co_truncate(raw_file(node), s->offset + size, prealloc, flags, error);
}

static int64_t co_fn raw_co_length(BlockNode *node)
{
    const RawState *s = block_node_state(node);
    uint64_t length = block_child_length(raw_file(node));

    if (s->has_size) {
        return s->size;
    }
    return length > s->offset ? length - s->offset : 0;
}

static char *raw_filename(BlockNode *node)
{
    const RawState *s = block_node_state(node);

    return s->offset || s->has_size ? NULL
                                    : block_node_plain_filename(block_child_node(raw_file(node)));
}

static bool co_fn raw_co_open_direct(BlockNode *node, BlockPerm perm, BlockPerm shared,
                                     BlockDirectFile *file, GError **error)
{
    const RawState *s = block_node_state(node);

    if (s->offset || s->has_size) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "block node '%s' has the option '%s', so it is a part of its file only",
                    block_node_name(node), s->offset ? "offset" : "size");
        return false;
    }
    return block_child_co_open_direct(raw_file(node), perm, shared, file, error);
}

const BlockDriver block_driver_raw = {
    .name = "raw",
    .type = BLOCKDEV_DRIVER_RAW,
    .state_size = sizeof(RawState),
    .is_filter = true,
    .follows_child_length = true,
    .concurrency = BLOCK_CONCURRENT,
    .co_open = raw_co_open,
    .co_reopen_prepare = raw_co_reopen_prepare,
    .co_reopen_commit = raw_co_reopen_commit,
    .co_reopen_abort = raw_co_reopen_abort,
    .co_preadv = raw_co_preadv,
    .co_splice = raw_co_splice,
    .co_pwritev = raw_co_pwritev,
    .co_splice_write = raw_co_splice_write,
    .co_pwrite_zeroes = raw_co_pwrite_zeroes,
    .co_pdiscard = raw_co_pdiscard,
    .co_allocate = raw_co_allocate,
    .co_block_status = raw_co_block_status,
    .co_truncate = raw_co_truncate,
    .co_length = raw_co_length,
    .filename = raw_filename,
    .co_open_direct = raw_co_open_direct,
};
