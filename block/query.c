/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/query-internal.h"

/* File names */

static QValue *object_without(const QValue *object, const char *key)
{
    QValue *copy = qvalue_object();

    for (gsize i = 0; i < qvalue_object_size(object); i++) {
        const char *k = qvalue_object_key(object, i);

        if (!g_str_equal(k, key)) {
            qvalue_object_set(copy, k, qvalue_ref(qvalue_object_value(object, i)));
        }
    }
    return copy;
}

/* Whether the options mean the same without that member. */
static bool is_default(const QValue *options, const char *key)
{
    g_autoptr(QValue) less = object_without(options, key);
    g_autoptr(BlockdevOptions) parsed = blockdev_options_from_qvalue(less, NULL);
    g_autoptr(QValue) complete = parsed ? blockdev_options_to_qvalue(parsed) : NULL;

    return complete && qvalue_equal(complete, options);
}

/* Options that say how a node is used, not what it is. */
static bool is_about_use(const char *key)
{
    static const char *const names[] = {
        "node-name",      "discard",     "cache",         "read-only",
        "auto-read-only", "force-share", "detect-zeroes", "active",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        if (g_str_equal(key, names[i])) {
            return true;
        }
    }
    return false;
}

/* What makes the node, with all that is below it, as short as it can be said. */
static QValue *node_full_options(BlockNode *node)
{
    g_autoptr(QValue) options = blockdev_options_to_qvalue(node->opts);
    QValue *full = qvalue_object();

    for (gsize i = 0; i < qvalue_object_size(options); i++) {
        const char *key = qvalue_object_key(options, i);
        BlockChild *child = block_node_child(node, key);

        if (child) {
            qvalue_object_set(full, key, node_full_options(child->node));
        } else if (!is_about_use(key) && !is_default(options, key)) {
            qvalue_object_set(full, key, qvalue_ref(qvalue_object_value(options, i)));
        }
    }
    return full;
}

char *block_node_plain_filename(BlockNode *node)
{
    if (node->drv->filename) {
        return node->drv->filename(node);
    }
    if (node->drv->is_filter && node->first_child) {
        return block_node_plain_filename(node->first_child->node);
    }
    return NULL;
}

char *block_node_filename(BlockNode *node)
{
    char *plain = block_node_plain_filename(node);
    g_autoptr(QValue) options = NULL;
    g_autofree char *json = NULL;

    if (plain) {
        return plain;
    }
    options = node_full_options(node);
    json = qvalue_to_json_string(options);
    return g_strconcat("json:", json, NULL);
}

/* Images and nodes */

static BlockLimitsInfo *limits_info(const BlockLimits *bl)
{
    BlockLimitsInfo *info = g_new0(BlockLimitsInfo, 1);

    *info = (BlockLimitsInfo){
        .request_alignment = bl->request_alignment,
        .has_max_discard = bl->max_pdiscard > 0,
        .max_discard = bl->max_pdiscard,
        .has_discard_alignment = bl->pdiscard_alignment > 0,
        .discard_alignment = bl->pdiscard_alignment,
        .has_max_write_zeroes = bl->max_pwrite_zeroes > 0,
        .max_write_zeroes = bl->max_pwrite_zeroes,
        .has_write_zeroes_alignment = bl->pwrite_zeroes_alignment > 0,
        .write_zeroes_alignment = bl->pwrite_zeroes_alignment,
        .has_opt_transfer = bl->preferred_io > 0,
        .opt_transfer = bl->preferred_io,
        .has_max_transfer = bl->max_transfer > 0,
        .max_transfer = bl->max_transfer,
        .max_iov = bl->max_iov,
        .min_mem_alignment = bl->min_mem_alignment,
        .opt_mem_alignment = bl->opt_mem_alignment,
    };
    return info;
}

/* What the driver, or that of the node a filter passes on, says about the image. */
static void add_driver_info(BlockNode *node, ImageInfo *info)
{
    if (node->drv->image_info) {
        node->drv->image_info(node, info);
    } else if (node->drv->is_filter && node->first_child) {
        add_driver_info(node->first_child->node, info);
    }
}

static BlockNode *backing_node(BlockNode *node)
{
    BlockChild *backing = block_node_child(node, "backing");

    return backing ? backing->node : NULL;
}

/* The caller holds @node. */
static ImageInfo *co_fn image_co_info(BlockNode *node, bool flat)
{
    ImageInfo *info = g_new0(ImageInfo, 1);
    int64_t allocated = block_node_co_allocated_size(node);
    BlockNode *backing = backing_node(node); /* now, for it may be another one than before */

    info->filename = block_node_filename(node);
    info->format = g_strdup(node->drv->name);
    info->length = block_node_length(node);
    info->has_actual_size = allocated >= 0;
    info->actual_size = MAX(allocated, 0);
    info->limits = limits_info(&node->limits);
    if (node->drv->image_specific) {
        info->format_specific = node->drv->image_specific(node);
    }
    add_driver_info(node, info);
    info->virtual_size = (info->length + 511) & ~INT64_C(511);
    if (backing && !flat) {
        block_node_begin_read(backing);
        info->backing_image = image_co_info(backing, flat);
        block_node_end_read(backing);
    }
    return info;
}

static GPtrArray *children_info(const BlockNode *node)
{
    GPtrArray *children = g_ptr_array_new_with_free_func((GDestroyNotify)blockdev_child_free);

    for (unsigned i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);
        BlockdevChild *info = g_new0(BlockdevChild, 1);

        info->child = g_strdup(child->name);
        info->node_name = g_strdup(child->node->name);
        g_ptr_array_add(children, info);
    }
    return children;
}

static unsigned backing_depth(BlockNode *node)
{
    unsigned depth = 0;

    while ((node = backing_node(node))) {
        depth++;
    }
    return depth;
}

BlockDeviceInfo *co_fn block_query_co_node(BlockNode *node, bool flat)
{
    BlockDeviceInfo *info = g_new0(BlockDeviceInfo, 1);
    BlockdevCacheInfo *cache = g_new0(BlockdevCacheInfo, 1);
    BlockNode *backing = backing_node(node);

    *cache = (BlockdevCacheInfo){
        .writeback = true,
        .direct = node->flags.cache_direct,
        .no_flush = node->flags.cache_no_flush,
    };
    info->file = block_node_filename(node);
    info->node_name = g_strdup(node->name);
    info->ro = node->flags.read_only;
    info->drv = g_strdup(node->drv->name);
    info->active = block_node_active(node);
    info->detect_zeroes = node->flags.detect_zeroes;
    info->backing_file = backing ? block_node_filename(backing) : NULL;
    info->backing_file_depth = flat ? 0 : backing_depth(node);
    info->cache = cache;
    info->children = children_info(node);
    info->image = image_co_info(node, flat);
    info->encrypted = info->image->encrypted;
    return info;
}

/* Counters */

static BlockDeviceStats *device_stats(BlockNode *node)
{
    BlockDeviceStats *info = g_new0(BlockDeviceStats, 1);
    BlockOpStats s[BLOCK_OP__MAX];
    const BlockOpStats *rd = &s[BLOCK_OP_READ], *wr = &s[BLOCK_OP_WRITE];
    const BlockOpStats *flush = &s[BLOCK_OP_FLUSH], *unmap = &s[BLOCK_OP_UNMAP];

    block_stats_sum(&node->stats, s);
    *info = (BlockDeviceStats){
        .rd_bytes = rd->bytes,
        .wr_bytes = wr->bytes,
        .unmap_bytes = unmap->bytes,
        .rd_operations = rd->ops,
        .wr_operations = wr->ops,
        .flush_operations = flush->ops,
        .unmap_operations = unmap->ops,
        .rd_total_time_ns = rd->time_ns,
        .wr_total_time_ns = wr->time_ns,
        .flush_total_time_ns = flush->time_ns,
        .unmap_total_time_ns = unmap->time_ns,
        .wr_highest_offset = block_stats_highest_write(&node->stats),
        .failed_rd_operations = rd->failed,
        .failed_wr_operations = wr->failed,
        .failed_flush_operations = flush->failed,
        .failed_unmap_operations = unmap->failed,
        .invalid_rd_operations = rd->invalid,
        .invalid_wr_operations = wr->invalid,
        .invalid_unmap_operations = unmap->invalid,
        .account_invalid = true,
        .account_failed = true,
        .timed_stats =
            g_ptr_array_new_with_free_func((GDestroyNotify)block_device_timed_stats_free),
    };
    return info;
}

/* The child that holds the node's own bytes. */
static BlockNode *storage_node(BlockNode *node)
{
    return node->first_child && !g_str_equal(node->first_child->name, "backing")
               ? node->first_child->node
               : NULL;
}

BlockStats *block_query_stats(BlockNode *node)
{
    BlockStats *info = g_new0(BlockStats, 1);
    BlockNode *storage = storage_node(node);
    BlockNode *backing = backing_node(node);

    info->node_name = g_strdup(node->name);
    info->stats = device_stats(node);
    if (node->drv->stats_specific) {
        info->driver_specific = node->drv->stats_specific(node);
    }
    info->parent = storage ? block_query_stats(storage) : NULL;
    info->backing = backing ? block_query_stats(backing) : NULL;
    return info;
}
