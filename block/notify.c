/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tells backends that the node below them has become longer or shorter, or was written by somebody
 * else. Requests only leave a mark and schedule one bottom half, which finds out in the main thread
 * who is concerned; and they do not even that where nobody listens.
 */
#include "block/block-internal.h"

#include "qapi/events-block-core.h"

/* Marks, and the bottom half that acts on them */

static void mark_changed(BlockBackend *blk, BlockChanges changes)
{
    blk->changed |= changes;
    aio_bh_schedule(blk->graph->changed_bh);
}

/* Appends the nodes that what is written at @node goes to. */
static void collect_written(BlockNode *node, unsigned visit, GPtrArray *out)
{
    if (node->visited == visit) {
        return;
    }
    node->visited = visit;
    g_ptr_array_add(out, node);
    for (unsigned i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);

        if (child->perm & BLOCK_PERM_WRITE) {
            collect_written(child->node, visit, out);
        }
    }
}

/* Marks all but @blk that see @node. */
static void mark_others(BlockBackend *blk, BlockNode *node)
{
    g_autoptr(GPtrArray) backends = block_node_backends_above(node);

    for (unsigned i = 0; i < backends->len; i++) {
        BlockBackend *other = g_ptr_array_index(backends, i);

        if (other != blk) {
            mark_changed(other, BLOCK_CHANGED_CONTENT);
        }
    }
}

/* Marks all who see what @blk has written at its node or below. */
static void mark_readers(BlockBackend *blk)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();

    collect_written(blk->root.node, block_graph_new_visit(blk->graph), nodes);
    for (unsigned i = 0; i < nodes->len; i++) {
        mark_others(blk, g_ptr_array_index(nodes, i));
    }
}

static BlockNode *take_grown(BlockGraph *graph)
{
    BlockNode *node = NULL;

    g_mutex_lock(&graph->grown_lock);
    if (graph->grown->len > 0) {
        node = g_ptr_array_steal_index_fast(graph->grown, 0);
        node->grown = false;
    }
    g_mutex_unlock(&graph->grown_lock);
    return node;
}

static void co_fn grown_co_entry(void *opaque)
{
    BlockNode *node = opaque;

    block_notify_co_length(node);
    block_node_co_unref(node);
}

/* One who is to be told, or NULL. A callback may free any backend, so each is looked for anew. */
static BlockBackend *take_changed(BlockGraph *graph, BlockChanges *changes)
{
    for (GList *l = graph->backends.head; l; l = l->next) {
        BlockBackend *blk = l->data;

        if (blk->changed) {
            *changes = blk->changed;
            blk->changed = 0;
            return blk;
        }
    }
    return NULL;
}

/* A corruption that was found in some thread, on its way to those who listen to events. */
typedef struct BlockReport {
    char *node;
    char *message;
    int64_t offset, bytes; /* in the image; -1: not known */
    bool fatal;
} BlockReport;

static BlockReport *take_report(BlockGraph *graph)
{
    BlockReport *report;

    g_mutex_lock(&graph->grown_lock);
    report = g_queue_pop_head(&graph->reports);
    g_mutex_unlock(&graph->grown_lock);
    return report;
}

static void report_free(BlockReport *report)
{
    g_free(report->node);
    g_free(report->message);
    g_free(report);
}

static void send_reports(BlockGraph *graph)
{
    BlockReport *report;

    while ((report = take_report(graph))) {
        bool known = report->offset >= 0;

        qapi_event_block_image_corrupted(graph->events, "", report->node, report->message, known,
                                         report->offset, known, report->bytes, report->fatal);
        report_free(report);
    }
}

void block_node_report_corruption(BlockNode *node, const char *message, int64_t offset,
                                  int64_t bytes, bool fatal)
{
    BlockGraph *graph = node->graph;
    BlockReport *report = g_new0(BlockReport, 1);

    g_warning("block node '%s': the image is corrupt: %s", node->name, message);
    *report = (BlockReport){.node = g_strdup(node->name),
                            .message = g_strdup(message),
                            .offset = offset,
                            .bytes = bytes,
                            .fatal = fatal};
    g_mutex_lock(&graph->grown_lock);
    g_queue_push_tail(&graph->reports, report);
    g_mutex_unlock(&graph->grown_lock);
    aio_bh_schedule(graph->changed_bh);
}

static void notify_act(void *opaque)
{
    BlockGraph *graph = opaque;
    BlockNode *node;
    BlockBackend *blk;
    BlockChanges changes;

    send_reports(graph);

    while ((node = take_grown(graph))) {
        if (node->phase == BLOCK_NODE_OPEN) { /* else nobody holds it any more, nor listens */
            aio_co_enter(graph->main, grown_co_entry, block_node_ref(node));
        }
    }
    for (GList *l = graph->backends.head; l; l = l->next) {
        blk = l->data;
        if (__atomic_exchange_n(&blk->wrote, false, __ATOMIC_SEQ_CST)) {
            mark_readers(blk);
        }
    }
    while ((blk = take_changed(graph, &changes))) {
        if (blk->notify) {
            blk->notify(changes, blk->notify_opaque);
        }
    }
    block_graph_wake(graph, &graph->notified);
}

void blk_co_settle_changes(BlockBackend *blk)
{
    AioContext *home = aio_context_current();
    BlockGraph *graph = blk->graph;

    if (home != graph->main) {
        aio_co_reschedule_self(graph->main);
    }
    aio_bh_schedule(graph->changed_bh);
    block_graph_co_wait(graph, &graph->notified);
    if (home != graph->main) {
        aio_co_reschedule_self(home);
    }
}

void block_notify_init(BlockGraph *graph)
{
    g_mutex_init(&graph->grown_lock);
    graph->grown = g_ptr_array_new();
    graph->changed_bh = aio_bh_new(graph->main, notify_act, graph);
}

void block_notify_clear(BlockGraph *graph)
{
    BlockReport *report;

    aio_bh_free(graph->changed_bh);
    while ((report = take_report(graph))) {
        report_free(report);
    }
    g_ptr_array_unref(graph->grown);
    g_mutex_clear(&graph->grown_lock);
}

/* What may happen */

void co_fn block_notify_co_length(BlockNode *node)
{
    g_autoptr(GPtrArray) edges = g_ptr_array_copy(node->parents, NULL, NULL);

    for (unsigned i = 0; i < edges->len; i++) {
        BlockChild *edge = g_ptr_array_index(edges, i);

        if (edge->backend) {
            mark_changed(edge->backend, BLOCK_CHANGED_LENGTH);
        } else if (edge->parent->phase == BLOCK_NODE_OPEN &&
                   (edge->parent->drv->follows_child_length || edge->parent->drv->is_filter)) {
            block_node_co_refresh_length(edge->parent);
        }
    }
}

void block_notify_content(BlockNode *node)
{
    g_autoptr(GPtrArray) backends = block_node_backends_above(node);

    for (unsigned i = 0; i < backends->len; i++) {
        mark_changed(g_ptr_array_index(backends, i), BLOCK_CHANGED_CONTENT);
    }
}

void block_notify_grown(BlockNode *node)
{
    BlockGraph *graph = node->graph;

    g_mutex_lock(&graph->grown_lock);
    if (!node->grown) {
        node->grown = true;
        g_ptr_array_add(graph->grown, node);
    }
    g_mutex_unlock(&graph->grown_lock);
    aio_bh_schedule(graph->changed_bh);
}

void block_notify_forget(BlockNode *node)
{
    g_mutex_lock(&node->graph->grown_lock);
    g_ptr_array_remove(node->graph->grown, node);
    g_mutex_unlock(&node->graph->grown_lock);
}

void block_notify_written(BlockBackend *blk)
{
    if (__atomic_load_n(&blk->shares_writes, __ATOMIC_RELAXED) &&
        !__atomic_exchange_n(&blk->wrote, true, __ATOMIC_SEQ_CST)) {
        aio_bh_schedule(blk->graph->changed_bh);
    }
}

/* Who listens to whom */

static unsigned count_listeners(BlockNode *node)
{
    g_autoptr(GPtrArray) backends = block_node_backends_above(node);
    unsigned listeners = 0;

    for (unsigned i = 0; i < backends->len; i++) {
        listeners += ((BlockBackend *)g_ptr_array_index(backends, i))->notify != NULL;
    }
    return listeners;
}

/* Whether more than @own backends listen to a node that can be reached from @node. */
static bool others_listen(BlockNode *node, unsigned own)
{
    g_autoptr(GPtrArray) nodes = block_node_all_below(node);

    for (unsigned i = 0; i < nodes->len; i++) {
        if (count_listeners(g_ptr_array_index(nodes, i)) > own) {
            return true;
        }
    }
    return false;
}

static void update_backend(BlockBackend *blk)
{
    bool shares = others_listen(blk->root.node, blk->notify ? 1 : 0);

    __atomic_store_n(&blk->shares_writes, shares, __ATOMIC_RELAXED);
}

static void update_backends_above(BlockNode *node)
{
    g_autoptr(GPtrArray) backends = block_node_backends_above(node);

    /* With two listeners or more at this node, none of its backends need look any further. */
    bool all_share = count_listeners(node) > 1;

    for (unsigned i = 0; i < backends->len; i++) {
        BlockBackend *blk = g_ptr_array_index(backends, i);

        if (all_share) {
            __atomic_store_n(&blk->shares_writes, true, __ATOMIC_RELAXED);
        } else {
            update_backend(blk);
        }
    }
}

void block_notify_update(BlockNode *node)
{
    g_autoptr(GPtrArray) nodes = block_node_all_below(node);

    for (unsigned i = 0; i < nodes->len; i++) {
        update_backends_above(g_ptr_array_index(nodes, i));
    }
}
