/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making several nodes quiet for a change: each is drained and flushed.
 *
 * The storage of one may be served from another: by an NBD node that is connected to an export of
 * ours, or by a file on our own mount. Then requests and flushes of the first pass gates of the
 * second. So everything is flushed once before any gate is closed; nodes are made quiet one after
 * the other, those above before those below, else the newest first, for what serves has to be there
 * before what is served; but before all others those that write while their gates are closed, which
 * nothing can cut off, and those above them; and if that does not come to an end nevertheless, all
 * gates are opened again and the change fails.
 */
#include "block/block-internal.h"

static bool co_fn node_co_flush(BlockNode *node, GError **error)
{
    int r = block_node_read_only(node) ? 0 : block_node_co_flush(node);

    if (r < 0) {
        wharf_set_error_errno(error, -r, "block node '%s': cannot flush it", node->name);
    }
    return r == 0;
}

void block_nodes_pin(const GPtrArray *nodes, int change)
{
    for (unsigned i = 0; i < nodes->len; i++) {
        ((BlockNode *)g_ptr_array_index(nodes, i))->pins += change;
    }
}

bool co_fn block_nodes_co_flush(const GPtrArray *nodes, GError **error)
{
    for (unsigned i = 0; i < nodes->len; i++) {
        BlockNode *node = g_ptr_array_index(nodes, i);

        if (block_node_active(node) && !node_co_flush(node, error)) {
            return false;
        }
    }
    return true;
}

/* Those of @nodes, which stand below first, that have to settle, or are above one that has to. */
static GHashTable *find_settling(const GPtrArray *nodes)
{
    GHashTable *found = g_hash_table_new(NULL, NULL);

    for (unsigned i = 0; i < nodes->len; i++) {
        BlockNode *node = g_ptr_array_index(nodes, i);
        bool settles = node->drv->co_settle && !block_node_read_only(node);

        for (unsigned j = 0; !settles && j < node->children->len; j++) {
            const BlockChild *child = g_ptr_array_index(node->children, j);

            settles = g_hash_table_contains(found, child->node);
        }
        if (settles) {
            g_hash_table_add(found, node);
        }
    }
    return found;
}

/* Append those of @below_first that are wanted, and settle or do not, those above first. */
static void append_nodes(GPtrArray *sorted, const GPtrArray *below_first, GHashTable *wanted,
                         GHashTable *settling, bool settle)
{
    for (unsigned i = below_first->len; i-- > 0;) {
        BlockNode *node = g_ptr_array_index(below_first, i);

        if (g_hash_table_contains(wanted, node) &&
            g_hash_table_contains(settling, node) == settle) {
            g_ptr_array_add(sorted, node);
        }
    }
}

/* @nodes in the order in which they are to be made quiet. */
static GPtrArray *sort_nodes(BlockGraph *graph, const GPtrArray *nodes)
{
    g_autoptr(GHashTable) wanted = g_hash_table_new(NULL, NULL);
    g_autoptr(GHashTable) settling = NULL;
    g_autoptr(GPtrArray) below_first = g_ptr_array_new();
    unsigned visit = block_graph_new_visit(graph);
    GPtrArray *sorted = g_ptr_array_new();

    for (unsigned i = 0; i < nodes->len; i++) {
        g_hash_table_add(wanted, g_ptr_array_index(nodes, i));
    }
    for (GList *l = graph->nodes.head; l; l = l->next) {
        if (g_hash_table_contains(wanted, l->data)) {
            block_node_collect_below(l->data, visit, below_first);
        }
    }
    settling = find_settling(below_first);
    append_nodes(sorted, below_first, wanted, settling, true);
    append_nodes(sorted, below_first, wanted, settling, false);
    return sorted;
}

/* What the driver may do only while requests wait, so the gates stay closed until it has ended. */
static bool co_fn quiesce_co_settle(BlockQuiesce *q, BlockNode *node)
{
    int r;

    if (block_node_read_only(node) || !node->drv->co_settle) {
        return true;
    }
    q->settling = true;
    r = node->drv->co_settle(node);
    q->settling = false;
    block_graph_wake(q->graph, &q->graph->drained);
    if (r < 0) {
        wharf_set_error_errno(&q->error, -r, "block node '%s': cannot write what it has in memory",
                              node->name);
    }
    return r == 0;
}

static bool co_fn quiesce_co_step(BlockQuiesce *q, BlockNode *node)
{
    block_node_co_drain_begin_until(node, &q->given_up);
    if (q->given_up || !node_co_flush(node, &q->error) || q->given_up ||
        !quiesce_co_settle(q, node)) {
        return false;
    }
    /* What that has written at last. */
    return !node->drv->co_settle || node_co_flush(node, &q->error);
}

/* In a coroutine of its own, so that whoever waits for it need not do so for ever. */
static void co_fn quiesce_entry(void *opaque)
{
    BlockQuiesce *q = opaque;
    BlockGraph *graph = q->graph;
    bool ok = true;

    while (ok && q->drained < q->nodes->len) {
        ok = quiesce_co_step(q, g_ptr_array_index(q->nodes, q->drained++));
    }
    q->ended = true;
    block_graph_wake(graph, &graph->drained);
}

static void on_late(void *opaque)
{
    BlockQuiesce *q = opaque;

    if (q->settling) {
        const BlockNode *node = g_ptr_array_index(q->nodes, q->drained - 1);

        g_warning("block node '%s': writing what it has in memory takes more than %g seconds; a "
                  "change of the graph waits for that",
                  node->name, (double)q->graph->quiesce_ns / 1e9);
    }
    q->late = true;
    block_graph_wake(q->graph, &q->graph->drained);
}

/* Let go of all that somebody may wait for, and wait for what is still under way. */
static void co_fn quiesce_co_give_up(BlockQuiesce *q)
{
    BlockNode *last = g_ptr_array_index(q->nodes, q->drained - 1);
    g_autofree char *name = g_strdup(last->name);
    BlockGraph *graph = q->graph;

    q->given_up = true;
    block_quiesce_co_end(q);
    if (q->co_give_up) {
        q->co_give_up(q->opaque);
    }
    block_nodes_pin(q->nodes, 1);
    block_graph_unlock_change(graph);
    while (!q->ended) {
        block_graph_co_wait(graph, &graph->drained);
    }
    co_mutex_lock(&graph->change_lock);
    block_nodes_pin(q->nodes, -1);
    g_clear_error(&q->error);
    g_set_error(&q->error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                "block node '%s': the requests under way, or a flush, did not end within %g "
                "seconds, so nothing was changed; try again later",
                name, (double)graph->quiesce_ns / 1e9);
}

bool co_fn block_quiesce_co_begin(BlockQuiesce *q, BlockGraph *graph, const GPtrArray *nodes,
                                  GError **error)
{
    g_autoptr(AioTimer) timer = aio_timer_new(graph->main, on_late, q);

    q->graph = graph;
    q->nodes = sort_nodes(graph, nodes);
    aio_timer_arm(timer, aio_now_ns() + graph->quiesce_ns);
    aio_co_enter(graph->main, quiesce_entry, q);
    while (!q->ended && !(q->late && !q->settling)) {
        block_graph_co_wait(graph, &graph->drained);
    }
    if (!q->ended) {
        quiesce_co_give_up(q);
    }
    if (q->error) {
        block_quiesce_co_end(q);
        g_propagate_error(error, g_steal_pointer(&q->error));
        return false;
    }
    return true;
}

void co_fn block_quiesce_co_end(BlockQuiesce *q)
{
    while (q->drained > 0) {
        block_node_co_drain_end(g_ptr_array_index(q->nodes, --q->drained));
    }
}

void block_quiesce_clear(BlockQuiesce *q)
{
    g_assert(q->drained == 0);
    g_clear_pointer(&q->nodes, g_ptr_array_unref);
}
