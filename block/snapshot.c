/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Internal snapshots: the commands. A filter means the node below it.
 */
#include "block/block-internal.h"
#include "qapi/commands-block-core.h"

/* A command under way. */
typedef struct SnapshotCommand {
    BlockGraph *graph;
    BlockNode *node; /* whose driver is asked */
    BlockBackend *blk;
} SnapshotCommand;

static bool check_node(BlockNode *node, GError **error)
{
    if (!node->drv->co_snapshot_create) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "block node '%s': driver '%s' has no internal snapshots", node->name,
                    node->drv->name);
        return false;
    }
    if (block_node_read_only(node)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "block node '%s' is read-only, so its snapshots cannot be changed", node->name);
        return false;
    }
    return true;
}

/* Requests, and other commands of the kind, wait from here to the end. */
static bool co_fn co_begin(SnapshotCommand *c, BlockGraph *graph, const char *device,
                           const char *user, BlockPerm perm, GError **error)
{
    BlockNode *node = block_graph_find(graph, device, error);

    if (!node || !block_graph_begin_command(graph, error)) {
        return false;
    }
    *c = (SnapshotCommand){.graph = graph, .node = block_node_skip_filters(node)};
    if (check_node(c->node, error)) {
        c->blk = block_backend_co_new(c->node, user, perm, BLOCK_PERM_ALL, error);
    }
    if (!c->blk) {
        block_graph_end_command(graph);
        return false;
    }
    c->blk->pins = true;
    co_mutex_lock(&c->node->image_lock);
    block_node_co_drain_begin(c->node);
    return true;
}

static void co_fn co_end(SnapshotCommand *c)
{
    block_node_co_drain_end(c->node);
    co_mutex_unlock(&c->node->image_lock);
    block_backend_co_free(c->blk);
    block_graph_end_command(c->graph);
}

bool co_fn qmp_blockdev_snapshot_internal_sync(QapiCall *call, const char *device, const char *name,
                                               GError **error)
{
    SnapshotCommand c;
    bool ok;

    if (!co_begin(&c, call->self, device, "blockdev-snapshot-internal-sync",
                  BLOCK_PERM_WRITE_UNCHANGED, error)) {
        return false;
    }
    ok = c.node->drv->co_snapshot_create(c.node, name, error);
    co_end(&c);
    return ok;
}

SnapshotInfo *co_fn qmp_blockdev_snapshot_delete_internal_sync(QapiCall *call, const char *device,
                                                               const char *id, const char *name,
                                                               GError **error)
{
    SnapshotCommand c;
    SnapshotInfo *info;

    if (!co_begin(&c, call->self, device, "blockdev-snapshot-delete-internal-sync",
                  BLOCK_PERM_WRITE_UNCHANGED, error)) {
        return NULL;
    }
    info = c.node->drv->co_snapshot_delete(c.node, id, name, error);
    co_end(&c);
    return info;
}

bool co_fn qmp_blockdev_snapshot_apply_internal_sync(QapiCall *call, const char *device,
                                                     const char *id, const char *name,
                                                     GError **error)
{
    SnapshotCommand c;
    bool ok;

    if (!co_begin(&c, call->self, device, "blockdev-snapshot-apply-internal-sync",
                  BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE, error)) {
        return false;
    }
    ok = c.node->drv->co_snapshot_apply(c.node, id, name, error);
    if (ok) {
        block_node_co_refresh_length(c.node);
        block_notify_content(c.node);
    }
    co_end(&c);
    return ok;
}
