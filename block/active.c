/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Active and inactive nodes. An inactive node gives all permissions on its children and all locks
 * on its image back, so that another process may use the image; requests are refused.
 */
#include "block/block-internal.h"

static void set_active(BlockNode *node, bool active)
{
    __atomic_store_n(&node->active, active, __ATOMIC_SEQ_CST);
}

/* The inactive nodes that can be reached from @tops, those below first. */
static GPtrArray *collect_inactive(BlockGraph *graph, const GPtrArray *tops)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    unsigned visit = block_graph_new_visit(graph);
    GPtrArray *inactive = g_ptr_array_new();

    for (unsigned i = 0; i < tops->len; i++) {
        block_node_collect_below(g_ptr_array_index(tops, i), visit, nodes);
    }
    for (unsigned i = 0; i < nodes->len; i++) {
        if (!block_node_active(g_ptr_array_index(nodes, i))) {
            g_ptr_array_add(inactive, g_ptr_array_index(nodes, i));
        }
    }
    return inactive;
}

static void nodes_set_active(const GPtrArray *nodes, bool active)
{
    for (unsigned i = 0; i < nodes->len; i++) {
        set_active(g_ptr_array_index(nodes, i), active);
    }
}

/* Others may have changed the image meanwhile, and its length. */
static bool co_fn node_co_look_again(BlockNode *node, GError **error)
{
    int r;

    if (node->drv->co_activate && !node->drv->co_activate(node, error)) {
        return false;
    }
    r = block_node_co_refresh_length(node);
    if (r < 0) {
        wharf_set_error_errno(error, -r, "block node '%s': cannot get its length", node->name);
    }
    return r == 0;
}

/* Make @nodes, which are drained, active: those below first. */
static bool co_fn nodes_co_wake(BlockGraph *graph, const GPtrArray *nodes, GError **error)
{
    bool ok;

    nodes_set_active(nodes, true);
    if (!block_perm_co_update(graph, (BlockNode **)nodes->pdata, nodes->len, error)) {
        nodes_set_active(nodes, false);
        return false;
    }
    ok = true;
    for (unsigned i = 0; ok && i < nodes->len; i++) {
        ok = node_co_look_again(g_ptr_array_index(nodes, i), error);
    }
    if (!ok) {
        nodes_set_active(nodes, false);
        block_perm_co_update(graph, (BlockNode **)nodes->pdata, nodes->len, NULL);
    }
    return ok;
}

static bool co_fn nodes_co_activate(BlockGraph *graph, const GPtrArray *tops, GError **error)
{
    g_autoptr(GPtrArray) nodes = collect_inactive(graph, tops);
    bool ok;

    if (nodes->len == 0) {
        return true;
    }
    for (unsigned i = 0; i < nodes->len; i++) {
        block_node_co_drain_begin(g_ptr_array_index(nodes, i));
    }
    ok = nodes_co_wake(graph, nodes, error);
    for (unsigned i = 0; i < nodes->len; i++) {
        block_node_co_drain_end(g_ptr_array_index(nodes, i));
    }
    return ok;
}

bool co_fn block_node_co_activate(BlockNode *node, GError **error)
{
    g_autoptr(GPtrArray) tops = g_ptr_array_new();

    g_ptr_array_add(tops, node);
    return nodes_co_activate(node->graph, tops, error);
}

/*
 * Whether it is active, and is to stay so. Requests of all threads look at node->active itself, so
 * that changes when the node is drained and not before.
 */
static bool stays_active(BlockNode *node)
{
    return block_node_active(node) && !node->resting;
}

/* Whether somebody above needs the node to be active; then @error says who. */
static bool node_check_may_rest(BlockNode *node, GError **error)
{
    for (unsigned i = 0; i < node->parents->len; i++) {
        BlockChild *edge = g_ptr_array_index(node->parents, i);
        g_autofree char *user = block_child_user(edge);

        if (edge->backend ? !edge->backend->allow_inactive : stays_active(edge->parent)) {
            g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                        "block node '%s' cannot be made inactive: it is in use by %s", node->name,
                        user);
            return false;
        }
    }
    return true;
}

/* Rest @node, and below it whatever nobody active needs any more. */
static void collect_to_rest(BlockNode *node, GPtrArray *out)
{
    if (!stays_active(node) || !node_check_may_rest(node, NULL)) {
        return;
    }
    node->resting = true;
    g_ptr_array_add(out, node);
    for (unsigned i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);

        collect_to_rest(child->node, out);
    }
}

/* Those of @tops that are active, if all of these may rest; else NULL and an error. */
static GPtrArray *find_to_rest(const GPtrArray *tops, GError **error)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();

    for (unsigned i = 0; i < tops->len; i++) {
        BlockNode *node = g_ptr_array_index(tops, i);

        if (!block_node_active(node)) {
            continue;
        }
        if (!node_check_may_rest(node, error)) {
            return NULL;
        }
        g_ptr_array_add(nodes, node);
    }
    return g_steal_pointer(&nodes);
}

/* @tops and what below them goes to rest with them. */
static GPtrArray *collect_all_to_rest(const GPtrArray *tops)
{
    GPtrArray *nodes = g_ptr_array_new();

    for (unsigned i = 0; i < tops->len; i++) {
        collect_to_rest(g_ptr_array_index(tops, i), nodes);
    }
    for (unsigned i = 0; i < nodes->len; i++) {
        ((BlockNode *)g_ptr_array_index(nodes, i))->resting = false;
    }
    return nodes;
}

/* Lay @nodes, which are drained, to rest. */
static bool co_fn nodes_co_rest(BlockGraph *graph, const GPtrArray *nodes, GError **error)
{
    bool ok;

    nodes_set_active(nodes, false);
    ok = block_perm_co_update(graph, (BlockNode **)nodes->pdata, nodes->len, error);
    if (!ok) {
        nodes_set_active(nodes, true);
    }
    return ok;
}

static bool co_fn nodes_co_deactivate(BlockGraph *graph, const GPtrArray *tops, GError **error)
{
    g_autoptr(GPtrArray) resting = find_to_rest(tops, error);
    g_autoptr(GPtrArray) nodes = NULL;
    g_auto(BlockQuiesce) quiesce = {NULL};
    bool ok;

    if (!resting) {
        return false;
    }
    nodes = collect_all_to_rest(resting);
    ok =
        block_quiesce_co_begin(&quiesce, graph, nodes, error) && nodes_co_rest(graph, nodes, error);
    block_quiesce_co_end(&quiesce);
    return ok;
}

/* While requests go on, so that there is little left to flush when they wait. */
static bool co_fn nodes_co_flush_ahead(BlockGraph *graph, const GPtrArray *nodes, GError **error)
{
    bool ok;

    block_graph_co_lock_changes(graph, (BlockNode **)nodes->pdata, nodes->len);
    block_nodes_pin(nodes, 1);
    block_graph_unlock_change(graph);
    ok = block_nodes_co_flush(nodes, error);
    block_nodes_pin(nodes, -1);
    return ok;
}

/* All of @nodes, or none. */
static bool co_fn nodes_co_set_active(BlockGraph *graph, const GPtrArray *nodes, bool active,
                                      GError **error)
{
    bool ok;

    if (!active && !nodes_co_flush_ahead(graph, nodes, error)) {
        return false;
    }
    block_graph_co_lock_changes(graph, (BlockNode **)nodes->pdata, nodes->len);
    ok = active ? nodes_co_activate(graph, nodes, error) : nodes_co_deactivate(graph, nodes, error);
    block_graph_unlock_change(graph);
    return ok;
}

/*
 * All nodes that no other node uses, with references: making these (in)active reaches all others.
 */
static GPtrArray *graph_roots(BlockGraph *graph)
{
    GPtrArray *roots = g_ptr_array_new();

    for (GList *l = graph->nodes.head; l; l = l->next) {
        BlockNode *node = l->data;
        bool is_root = node->phase == BLOCK_NODE_OPEN;

        for (unsigned i = 0; i < node->parents->len; i++) {
            is_root &= !((BlockChild *)g_ptr_array_index(node->parents, i))->parent;
        }
        if (is_root) {
            g_ptr_array_add(roots, block_node_ref(node));
        }
    }
    return roots;
}

/* What is meant by @name, with references; NULL with an error if there is no such node. */
static GPtrArray *find_nodes(BlockGraph *graph, const char *name, GError **error)
{
    GPtrArray *nodes;
    BlockNode *node;

    if (!name) {
        return graph_roots(graph);
    }
    node = block_graph_find(graph, name, error);
    if (!node) {
        return NULL;
    }
    nodes = g_ptr_array_new();
    g_ptr_array_add(nodes, block_node_ref(node));
    return nodes;
}

bool co_fn block_graph_co_set_active(BlockGraph *graph, const char *name, bool active,
                                     GError **error)
{
    g_autoptr(GPtrArray) nodes = NULL;
    bool ok;

    if (!block_graph_begin_command(graph, error)) {
        return false;
    }
    nodes = find_nodes(graph, name, error);
    ok = nodes && nodes_co_set_active(graph, nodes, active, error);
    for (unsigned i = 0; nodes && i < nodes->len; i++) {
        block_node_co_unref(g_ptr_array_index(nodes, i));
    }
    block_graph_end_command(graph);
    return ok;
}
