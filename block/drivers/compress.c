/* SPDX-License-Identifier: GPL-2.0-or-later */
/* compress: a filter that has what is written to the node below compressed there. */
#include <string.h>

#include "block/driver.h"
#include "util/error.h"

static bool check_file(BlockNode *node, BlockNode *file, GError **error)
{
    if (block_node_can_compress(file)) {
        return true;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                "block node '%s': node '%s' (driver '%s') cannot store compressed data%s",
                block_node_name(node), block_node_name(file), block_node_driver_name(file),
                strcmp(block_node_driver_name(file), "qcow2") == 0
                    ? ", for its image has an external data file"
                    : "; its driver must be qcow2");
    return false;
}

static bool co_fn compress_co_open(BlockNode *node, const BlockdevOptions *opts, GError **error)
{
    BlockChild *file = block_child_co_open(node, opts->u.compress.file, "file", error);

    return file && check_file(node, block_child_node(file), error);
}

static bool co_fn compress_co_reopen_prepare(BlockReopen *reopen, GError **error)
{
    return check_file(reopen->node, block_reopen_child(reopen, "file"), error);
}

static int co_fn compress_co_pwritev(BlockNode *node, uint64_t offset, const IoVector *iov,
                                     BlockRequestFlags flags)
{
    return block_child_co_pwritev(block_node_first_child(node), offset, iov,
                                  flags | BLOCK_REQ_WRITE_COMPRESSED);
}

const BlockDriver block_driver_compress = {
    .name = "compress",
    .type = BLOCKDEV_DRIVER_COMPRESS,
    .is_filter = true,
    .follows_child_length = true,
    .concurrency = BLOCK_CONCURRENT,
    .co_open = compress_co_open,
    .co_reopen_prepare = compress_co_reopen_prepare,
    .co_pwritev = compress_co_pwritev,
};
