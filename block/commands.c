/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands of the schema's module block-core. */
#include "qapi/commands-block-core.h"

#include "block/block-internal.h"
#include "block/query-internal.h"

void block_register_commands(BlockGraph *graph, QapiCommandTable *table)
{
    qapi_command_table_add(table, qapi_commands_block_core, graph);
}

bool co_fn qmp_blockdev_add(QapiCall *call, const BlockdevOptions *arg, GError **error)
{
    return block_graph_co_add(call->self, arg, error);
}

bool co_fn qmp_blockdev_del(QapiCall *call, const char *node_name, GError **error)
{
    return block_graph_co_del(call->self, node_name, error);
}

bool co_fn qmp_blockdev_reopen(QapiCall *call, const GPtrArray *options, GError **error)
{
    return block_graph_co_reopen(call->self, options, error);
}

bool co_fn qmp_blockdev_set_active(QapiCall *call, const char *node_name, bool active,
                                   GError **error)
{
    return block_graph_co_set_active(call->self, node_name, active, error);
}

/* The node that a command means which takes a device, too. */
static BlockNode *find_node(BlockGraph *graph, const char *device, const char *node_name,
                            GError **error)
{
    if (node_name) {
        return block_graph_find(graph, node_name, error);
    }
    if (device) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "there is no device '%s'; give the name of a block node as 'node-name'",
                    device);
        return NULL;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT, "'node-name' is missing");
    return NULL;
}

static bool co_fn resize(BlockNode *node, uint64_t size, GError **error)
{
    BlockBackend *blk = block_backend_co_new(node, "block_resize", 0, BLOCK_PERM_ALL, error);
    int r;

    if (!blk) {
        return false;
    }
    r = blk_co_truncate(blk, size, PREALLOC_MODE_OFF, BLOCK_REQ_ZERO, error);
    block_backend_co_free(blk);
    return r == 0;
}

bool co_fn qmp_block_resize(QapiCall *call, const char *device, const char *node_name, int64_t size,
                            GError **error)
{
    BlockNode *node = find_node(call->self, device, node_name, error);
    bool ok;

    if (!node || !block_graph_begin_command(call->self, error)) {
        return false;
    }
    ok = resize(node, size, error);
    block_graph_end_command(call->self);
    return ok;
}

ImageCheck *co_fn qmp_blockdev_check(QapiCall *call, const char *node_name, ImageRepair repair,
                                     GError **error)
{
    BlockNode *node = block_graph_find(call->self, node_name, error);
    ImageCheck *result;

    if (!node || !block_graph_begin_command(call->self, error)) {
        return NULL;
    }
    result = block_check_co_node(node, repair, NULL, error);
    block_graph_end_command(call->self);
    return result;
}

/* The open nodes, oldest first, held for a reply that suspends; they may be deleted meanwhile. */
static void hold_open(BlockNode *node, void *opaque)
{
    if (node->phase == BLOCK_NODE_OPEN) {
        block_node_begin_read(node);
        g_ptr_array_add(opaque, node);
    }
}

GPtrArray *co_fn qmp_query_named_block_nodes(QapiCall *call, bool flat, GError **error)
{
    GPtrArray *reply = g_ptr_array_new_with_free_func((GDestroyNotify)block_device_info_free);
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();

    block_graph_foreach(call->self, hold_open, nodes);
    for (unsigned i = nodes->len; i-- > 0;) {
        g_ptr_array_add(reply, block_query_co_node(g_ptr_array_index(nodes, i), flat));
    }
    /* Not one by one: a reopen may have put any of them below one that was asked later. */
    for (unsigned i = nodes->len; i-- > 0;) {
        block_node_end_read(g_ptr_array_index(nodes, i));
    }
    return reply;
}

GPtrArray *co_fn qmp_query_block(QapiCall *call, GError **error)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)block_info_free);
}

static void add_stats(BlockNode *node, void *opaque)
{
    if (node->phase == BLOCK_NODE_OPEN) {
        g_ptr_array_add(opaque, block_query_stats(node));
    }
}

GPtrArray *co_fn qmp_query_blockstats(QapiCall *call, bool query_nodes, GError **error)
{
    GPtrArray *reply = g_ptr_array_new_with_free_func((GDestroyNotify)block_stats_free);

    if (query_nodes) {
        block_graph_foreach(call->self, add_stats, reply);
    }
    return reply;
}
