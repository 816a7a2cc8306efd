/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Draining. Requests enter through backends alone, so a node is quiet when the gates of all
 * backends that can reach it are closed and nobody is inside. A gate is closed while any node below
 * it is being drained; that is computed anew for the backends concerned when a drain begins or
 * ends.
 */
#include "block/block-internal.h"

void block_graph_kick(BlockGraph *graph)
{
    aio_bh_schedule(graph->drained_bh);
}

static void collect_above(BlockNode *node, unsigned visit, GPtrArray *out)
{
    if (node->visited == visit) {
        return;
    }
    node->visited = visit;
    for (unsigned i = 0; i < node->parents->len; i++) {
        BlockChild *edge = g_ptr_array_index(node->parents, i);

        if (edge->backend) {
            g_ptr_array_add(out, edge->backend);
        } else {
            collect_above(edge->parent, visit, out);
        }
    }
}

GPtrArray *block_node_backends_above(BlockNode *node)
{
    GPtrArray *backends = g_ptr_array_new();

    collect_above(node, block_graph_new_visit(node->graph), backends);
    return backends;
}

static bool subtree_drained(BlockNode *node)
{
    g_autoptr(GPtrArray) nodes = block_node_all_below(node);

    for (unsigned i = 0; i < nodes->len; i++) {
        if (((BlockNode *)g_ptr_array_index(nodes, i))->drains > 0) {
            return true;
        }
    }
    return false;
}

void block_backend_update_gate(BlockBackend *blk)
{
    bool closed = blk->freeing || (blk->graph->drains > 0 && subtree_drained(blk->root.node));

    g_mutex_lock(&blk->gate_lock);
    if (closed && !blk->gate_closed) {
        blk->gate_closed = true;
        gate_close(&blk->gate);
    } else if (!closed && blk->gate_closed) {
        blk->gate_closed = false;
        gate_open(&blk->gate);
        co_queue_wake_all(&blk->gate_wait);
    }
    g_mutex_unlock(&blk->gate_lock);
}

static void update_gates_above(BlockNode *node)
{
    g_autoptr(GPtrArray) backends = block_node_backends_above(node);

    for (unsigned i = 0; i < backends->len; i++) {
        block_backend_update_gate(g_ptr_array_index(backends, i));
    }
}

/* Whether nobody is inside above @node, but for one request in @self. */
static bool node_is_quiet(BlockNode *node, BlockBackend *self)
{
    g_autoptr(GPtrArray) backends = block_node_backends_above(node);

    for (unsigned i = 0; i < backends->len; i++) {
        BlockBackend *blk = g_ptr_array_index(backends, i);

        if (gate_inside(&blk->gate) > (blk == self ? 1 : 0)) {
            return false;
        }
    }
    return true;
}

static void node_close_gates(BlockNode *node)
{
    block_graph_assert_main(node->graph);
    node->drains++;
    node->graph->drains++;
    update_gates_above(node);
}

void co_fn block_node_co_drain_begin_but(BlockNode *node, BlockBackend *self)
{
    node_close_gates(node);
    while (!node_is_quiet(node, self)) {
        block_graph_co_wait(node->graph, &node->graph->drained);
    }
}

void co_fn block_node_co_drain_begin_until(BlockNode *node, const bool *give_up)
{
    node_close_gates(node);
    while (!*give_up && !node_is_quiet(node, NULL)) {
        block_graph_co_wait(node->graph, &node->graph->drained);
    }
}

void co_fn block_node_co_drain_begin(BlockNode *node)
{
    block_node_co_drain_begin_but(node, NULL);
}

void co_fn block_node_co_drain_end(BlockNode *node)
{
    block_graph_assert_main(node->graph);
    g_assert(node->drains > 0);
    node->drains--;
    node->graph->drains--;
    update_gates_above(node);
    /* A backend that is to be freed waits for its gate to open. */
    block_graph_kick(node->graph);
}

void block_backend_hold(BlockBackend *blk)
{
    __atomic_fetch_add(&blk->held, 1, __ATOMIC_SEQ_CST);
}

void block_backend_release(BlockBackend *blk)
{
    BlockGraph *graph = blk->graph;

    __atomic_fetch_sub(&blk->held, 1, __ATOMIC_SEQ_CST);
    block_graph_kick(graph);
}

/* The way in for one who found the gate closed. Held until it is inside. */
static void co_fn backend_co_enter_slow(BlockBackend *blk)
{
    bool inside = false;

    block_backend_hold(blk);
    while (!inside) {
        g_mutex_lock(&blk->gate_lock);
        while (blk->gate_closed) {
            co_queue_wait(&blk->gate_wait, &blk->gate_lock);
        }
        g_mutex_unlock(&blk->gate_lock);
        inside = gate_enter(&blk->gate);
        if (!inside) {
            /* By trying it was counted for a moment, and whoever drains may have seen that. */
            block_graph_kick(blk->graph);
        }
    }
    block_backend_release(blk);
}

void co_fn block_backend_co_enter(BlockBackend *blk)
{
    if (G_UNLIKELY(!gate_enter(&blk->gate))) {
        block_graph_kick(blk->graph);
        backend_co_enter_slow(blk);
    }
}

void block_backend_leave(BlockBackend *blk)
{
    BlockGraph *graph = blk->graph;

    if (G_UNLIKELY(gate_leave(&blk->gate))) {
        block_graph_kick(graph);
    }
}
