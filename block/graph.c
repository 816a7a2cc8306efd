/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The graph as a whole, and the commands that add and delete nodes. */
#include "block/block-internal.h"

void block_graph_assert_main(const BlockGraph *graph)
{
    g_assert(aio_context_current() == graph->main);
}

/* The graph as a whole */

void block_graph_wake(BlockGraph *graph, CoQueue *queue)
{
    g_mutex_lock(&graph->wait_lock);
    co_queue_wake_all(queue);
    g_mutex_unlock(&graph->wait_lock);
}

static void graph_wake_drained(void *opaque)
{
    BlockGraph *graph = opaque;

    block_graph_wake(graph, &graph->drained);
}

void co_fn block_graph_co_wait(BlockGraph *graph, CoQueue *queue)
{
    g_mutex_lock(&graph->wait_lock);
    co_queue_wait(queue, &graph->wait_lock);
    g_mutex_unlock(&graph->wait_lock);
}

/* Longer than storage that is slow but works should take. */
#define QUIESCE_NS (30 * INT64_C(1000000000))

BlockGraph *block_graph_new(AioContext *main, const QapiEventSink *events)
{
    BlockGraph *graph = g_new0(BlockGraph, 1);

    graph->main = aio_context_ref(main);
    graph->quiesce_ns = QUIESCE_NS;
    graph->events = events;
    graph->by_name = g_hash_table_new(g_str_hash, g_str_equal);
    co_mutex_init(&graph->change_lock);
    co_mutex_init(&graph->reopen_lock);
    g_mutex_init(&graph->wait_lock);
    co_queue_init(&graph->drained);
    co_queue_init(&graph->closed);
    co_queue_init(&graph->reopened);
    co_queue_init(&graph->notified);
    graph->drained_bh = aio_bh_new(main, graph_wake_drained, graph);
    block_notify_init(graph);
    return graph;
}

void block_graph_set_objects(BlockGraph *graph, ObjectRegistry *objects)
{
    graph->objects = objects;
}

void block_graph_give_up_waiting(BlockGraph *graph)
{
    for (GList *l = graph->nodes.head; l; l = l->next) {
        BlockNode *node = l->data;

        if (node->drv->give_up_waiting) {
            node->drv->give_up_waiting(node);
        }
    }
}

void block_graph_free(BlockGraph *graph)
{
    if (!graph) {
        return;
    }
    g_assert(g_queue_is_empty(&graph->nodes) && g_queue_is_empty(&graph->backends));
    aio_bh_free(graph->drained_bh);
    block_notify_clear(graph);
    g_mutex_clear(&graph->wait_lock);
    g_hash_table_unref(graph->by_name);
    aio_context_unref(graph->main);
    g_free(graph);
}

unsigned block_graph_new_visit(BlockGraph *graph)
{
    return ++graph->visit;
}

void block_node_collect_below(BlockNode *node, unsigned visit, GPtrArray *order)
{
    if (node->visited == visit) {
        return;
    }
    node->visited = visit;
    for (unsigned i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);

        block_node_collect_below(child->node, visit, order);
    }
    g_ptr_array_add(order, node);
}

BlockNode *block_node_skip_filters(BlockNode *node)
{
    while (node->drv->is_filter && node->first_child) {
        node = node->first_child->node;
    }
    return node;
}

GPtrArray *block_node_all_below(BlockNode *node)
{
    GPtrArray *nodes = g_ptr_array_new();

    block_node_collect_below(node, block_graph_new_visit(node->graph), nodes);
    return nodes;
}

/* Appends those above first. */
static void collect_above(BlockNode *node, unsigned visit, GPtrArray *order)
{
    if (node->visited == visit) {
        return;
    }
    node->visited = visit;
    for (unsigned i = 0; i < node->parents->len; i++) {
        const BlockChild *edge = g_ptr_array_index(node->parents, i);

        if (edge->parent) {
            collect_above(edge->parent, visit, order);
        }
    }
    g_ptr_array_add(order, node);
}

GPtrArray *block_node_all_above(BlockNode *node)
{
    g_autoptr(GPtrArray) above_first = g_ptr_array_new();
    GPtrArray *nodes = g_ptr_array_new();

    collect_above(node, block_graph_new_visit(node->graph), above_first);
    for (unsigned i = above_first->len; i-- > 0;) {
        g_ptr_array_add(nodes, g_ptr_array_index(above_first, i));
    }
    return nodes;
}

void block_graph_foreach(BlockGraph *graph, void (*fn)(BlockNode *node, void *opaque), void *opaque)
{
    for (GList *l = graph->nodes.head; l; l = l->next) {
        fn(l->data, opaque);
    }
}

BlockNode *block_graph_find(BlockGraph *graph, const char *name, GError **error)
{
    BlockNode *node = g_hash_table_lookup(graph->by_name, name);

    if (!node) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "there is no block node '%s'; query-named-block-nodes lists them", name);
        return NULL;
    }
    if (node->phase != BLOCK_NODE_OPEN) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE, "block node '%s' is just being %s",
                    name, node->phase == BLOCK_NODE_OPENING ? "opened; try again later" : "closed");
        return NULL;
    }
    return node;
}

static bool subtree_reopening(BlockNode *node, unsigned visit)
{
    if (node->visited == visit) {
        return false;
    }
    node->visited = visit;
    if (node->reopening) {
        return true;
    }
    for (unsigned i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);

        if (subtree_reopening(child->node, visit)) {
            return true;
        }
    }
    return false;
}

static bool any_reopening(BlockGraph *graph, BlockNode *const *nodes, unsigned n)
{
    unsigned visit = block_graph_new_visit(graph);

    for (unsigned i = 0; i < n; i++) {
        if (subtree_reopening(nodes[i], visit)) {
            return true;
        }
    }
    return false;
}

void co_fn block_graph_co_lock_change(BlockGraph *graph, BlockNode *node)
{
    block_graph_co_lock_changes(graph, &node, 1);
}

void co_fn block_graph_co_lock_changes(BlockGraph *graph, BlockNode *const *nodes, unsigned n)
{
    block_graph_assert_main(graph);
    co_mutex_lock(&graph->change_lock);
    while (any_reopening(graph, nodes, n)) {
        co_mutex_unlock(&graph->change_lock);
        block_graph_co_wait(graph, &graph->reopened);
        co_mutex_lock(&graph->change_lock);
    }
}

void block_graph_unlock_change(BlockGraph *graph)
{
    co_mutex_unlock(&graph->change_lock);
}

/* Commands on the graph */

bool block_graph_begin_command(BlockGraph *graph, GError **error)
{
    block_graph_assert_main(graph);
    if (graph->closing) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC, "the daemon is shutting down");
        return false;
    }
    graph->commands++;
    return true;
}

void block_graph_end_command(BlockGraph *graph)
{
    graph->commands--;
    block_graph_wake(graph, &graph->closed);
}

bool co_fn block_graph_co_add(BlockGraph *graph, const BlockdevOptions *opts, GError **error)
{
    BlockNode *node;

    if (!opts->node_name) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'node-name' is missing: the node needs one, so that it can be used");
        return false;
    }
    if (!block_graph_begin_command(graph, error)) {
        return false;
    }
    node = block_node_co_open(graph, opts, NULL, error);
    if (node) {
        node->monitor_owned = true;
    }
    block_graph_end_command(graph);
    return node != NULL;
}

static bool node_check_unused(BlockNode *node, GError **error)
{
    g_autofree char *user = NULL;

    if (node->parents->len > 0) {
        user = block_child_user(g_ptr_array_index(node->parents, 0));
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "block node '%s' is in use by %s; delete that first", node->name, user);
        return false;
    }
    if (node->refs > 1 + node->readers || node->reopening) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "block node '%s' is in use by another command; try again when that has ended",
                    node->name);
        return false;
    }
    return true;
}

/* Drop the monitor's reference; if it was the last but those of queries, wait for the end. */
static void co_fn graph_co_disown(BlockNode *node)
{
    BlockGraph *graph = node->graph;
    g_autofree char *name = g_strdup(node->name);
    uint64_t id = node->id;

    node->monitor_owned = false;
    if (node->refs == 1 + node->readers) {
        node->phase = BLOCK_NODE_CLOSING;
    }
    block_node_co_unref(node);
    while ((node = g_hash_table_lookup(graph->by_name, name)) && node->id == id &&
           node->phase == BLOCK_NODE_CLOSING) {
        block_graph_co_wait(graph, &graph->closed);
    }
}

static void graph_set_not_owned_error(const BlockNode *node, GError **error)
{
    if (node->inherits_from) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "block node '%s' was made with node '%s' and goes with it; delete that one",
                    node->name, node->inherits_from->name);
        return;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                "block node '%s' was made with a node that is gone, and goes with its last user; "
                "delete that one",
                node->name);
}

bool co_fn block_graph_co_del(BlockGraph *graph, const char *name, GError **error)
{
    BlockNode *node = block_graph_find(graph, name, error);

    block_graph_assert_main(graph);
    if (!node) {
        return false;
    }
    if (!node->monitor_owned) {
        graph_set_not_owned_error(node, error);
        return false;
    }
    if (!node_check_unused(node, error)) {
        return false;
    }
    graph_co_disown(node);
    return true;
}

/* The newest node that the monitor owns, or NULL. */
static BlockNode *graph_newest_owned(BlockGraph *graph)
{
    for (GList *l = graph->nodes.tail; l; l = l->prev) {
        BlockNode *node = l->data;

        if (node->monitor_owned) {
            return node;
        }
    }
    return NULL;
}

static BlockNode *graph_any_closing(BlockGraph *graph)
{
    for (GList *l = graph->nodes.head; l; l = l->next) {
        BlockNode *node = l->data;

        if (node->phase == BLOCK_NODE_CLOSING) {
            return node;
        }
    }
    return NULL;
}

static void co_fn graph_co_flush_rest(BlockGraph *graph)
{
    GList *l = graph->nodes.head;

    while (l) {
        BlockNode *node = block_node_ref(l->data);

        g_warning("block node '%s' is still in use at the end", node->name);
        block_node_co_flush_last(node);
        l = l->next;
        node->refs--;
    }
}

void co_fn block_graph_co_close_all(BlockGraph *graph)
{
    BlockNode *node;

    block_graph_assert_main(graph);
    graph->closing = true;
    while (graph->commands > 0) {
        block_graph_co_wait(graph, &graph->closed);
    }
    while ((node = graph_newest_owned(graph))) {
        graph_co_disown(node);
    }
    while (graph_any_closing(graph)) {
        block_graph_co_wait(graph, &graph->closed);
    }
    graph_co_flush_rest(graph);
}
