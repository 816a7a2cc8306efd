/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Changing options of open nodes, of all or of none:
 *
 *   flush      what can be done at all, while requests go on, so that little is left to do later
 *   collect    which nodes, with what options; they are marked, so that edges and permissions there
 *              stay as they are until the end (others wait in block_graph_co_lock_change())
 *   prepare    drivers acquire what they need, while requests go on and no lock is held
 *   quiet      the nodes are drained and flushed, or it all ends here, for that takes too long
 *   switch     with the nodes drained: edges are exchanged, permissions checked
 *   take up    what others have changed while they could
 *   commit     or everything is put back
 */
#include "block/block-internal.h"

/* An edge that is to lead elsewhere. */
typedef struct EdgeSwitch {
    BlockChild *edge;
    BlockNode
        *node; /* where to: before the switch the new one, afterwards the old one; a reference */
    BlockEdgeTrouble trouble; /* the edge's, exchanged like @node */
} EdgeSwitch;

/* One node in a reopen. */
typedef struct ReopenNode {
    BlockReopen pub; /* what the driver sees; first, so that one leads to the other */
    BlockdevOptions *opts;
    GArray *switches; /* EdgeSwitch */
    bool heir;        /* not named by the user, changes with its parent */
    bool has_flags;
    bool prepared;
    bool taken_up;
    bool stale; /* others may have changed what it shows */
} ReopenNode;

typedef struct Reopen {
    BlockGraph *graph;
    GPtrArray *nodes;    /* ReopenNode * */
    GError *flush_error; /* of the flush ahead; or NULL */
    BlockQuiesce quiesce;
} Reopen;

static ReopenNode *reopen_get(const Reopen *r, unsigned i)
{
    return g_ptr_array_index(r->nodes, i);
}

static ReopenNode *reopen_find(const Reopen *r, const BlockNode *node)
{
    for (unsigned i = 0; i < r->nodes->len; i++) {
        if (reopen_get(r, i)->pub.node == node) {
            return reopen_get(r, i);
        }
    }
    return NULL;
}

/*
 * Who may not be disturbed. A drain waits for requests that came through a backend. Others have to
 * end before edges below them are exchanged: a reopen is refused while they are there, and those
 * that would begin meanwhile wait for its end.
 */

static bool check_backend(const BlockBackend *blk, BlockNode *node, GError **error)
{
    if (!(blk->pins || blk->direct) || !block_node_reaches(blk->root.node, node)) {
        return true;
    }
    if (blk->pins) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "block node '%s' cannot be changed while %s is at work", node->name, blk->user);
        return false;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                "block node '%s' cannot be changed while clients of %s read and write its file "
                "directly ('passthrough'): end that first, and begin it anew afterwards",
                node->name, blk->user);
    return false;
}

/* What is opened, closed or flushed reads and writes what is below it. */
static bool check_above(BlockNode *above, BlockNode *node, GError **error)
{
    static const char *const what[] = {"opened", "flushed", "closed"}; /* by phase */
    bool busy = above->phase != BLOCK_NODE_OPEN || above->pins > 0;

    if (!busy || !block_node_reaches(above, node)) {
        return true;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                "block node '%s' cannot be changed while node '%s' is being %s; try again later",
                node->name, above->name, what[above->phase]);
    return false;
}

static bool reopen_check_undisturbed(BlockNode *node, GError **error)
{
    for (GList *l = node->graph->backends.head; l; l = l->next) {
        if (!check_backend(l->data, node, error)) {
            return false;
        }
    }
    for (GList *l = node->graph->nodes.head; l; l = l->next) {
        if (!check_above(l->data, node, error)) {
            return false;
        }
    }
    return true;
}

/* Collect */

static ReopenNode *reopen_add(Reopen *r, BlockNode *node, const BlockdevOptions *opts)
{
    ReopenNode *rn = g_new0(ReopenNode, 1);

    rn->opts = blockdev_options_copy(opts);
    rn->switches = g_array_new(FALSE, FALSE, sizeof(EdgeSwitch));
    rn->pub.node = block_node_ref(node);
    rn->pub.opts = rn->opts;
    node->reopening = true;
    g_ptr_array_add(r->nodes, rn);
    return rn;
}

static bool reopen_collect_one(Reopen *r, const BlockdevOptions *opts, GError **error)
{
    BlockNode *node;

    if (!opts->node_name) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'node-name' is missing among the options of a node to reopen");
        return false;
    }
    node = block_graph_find(r->graph, opts->node_name, error);
    if (!node) {
        return false;
    }
    if (reopen_find(r, node)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "block node '%s' is given twice", node->name);
        return false;
    }
    if (opts->driver != node->drv->type) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "the driver of block node '%s' is '%s' and cannot be changed", node->name,
                    node->drv->name);
        return false;
    }
    if (!reopen_check_undisturbed(node, error)) {
        return false;
    }
    if (opts->has_active && opts->active != block_node_active(node)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'active' of block node '%s' cannot be changed here; use blockdev-set-active",
                    node->name);
        return false;
    }
    reopen_add(r, node, opts);
    return true;
}

static bool reopen_collect_listed(Reopen *r, const GPtrArray *options, GError **error)
{
    for (unsigned i = 0; i < options->len; i++) {
        if (!reopen_collect_one(r, g_ptr_array_index(options, i), error)) {
            return false;
        }
    }
    return true;
}

static bool flags_equal(const BlockNodeFlags *a, const BlockNodeFlags *b)
{
    return a->read_only == b->read_only && a->auto_read_only == b->auto_read_only &&
           a->force_share == b->force_share && a->cache_direct == b->cache_direct &&
           a->cache_no_flush == b->cache_no_flush && a->discard_unmap == b->discard_unmap &&
           a->detect_zeroes == b->detect_zeroes;
}

/* A child that takes its options over from its parent changes with it. */
static bool reopen_collect_heirs(Reopen *r, const ReopenNode *rn, GError **error)
{
    for (unsigned i = 0; i < rn->pub.node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(rn->pub.node->children, i);
        BlockNode *heir = child->node;
        BlockNodeFlags flags;

        if (heir->inherits_from != rn->pub.node || reopen_find(r, heir)) {
            continue;
        }
        if (!block_node_flags_from(&flags, heir->opts, &rn->pub.flags, error)) {
            return false;
        }
        if (!flags_equal(&flags, &heir->flags)) {
            if (!reopen_check_undisturbed(heir, error)) {
                return false;
            }
            reopen_add(r, heir, heir->opts)->heir = true;
        }
    }
    return true;
}

static bool reopen_compute_flags(const Reopen *r, ReopenNode *rn, GError **error)
{
    const BlockNode *from = rn->pub.node->inherits_from;
    ReopenNode *parent = from ? reopen_find(r, from) : NULL;
    const BlockNodeFlags *inherited = from ? &from->flags : NULL;

    if (rn->has_flags) {
        return true;
    }
    if (parent) { /* which may stand behind @rn in the user's list */
        if (!reopen_compute_flags(r, parent, error)) {
            return false;
        }
        inherited = &parent->pub.flags;
    }
    if (!block_node_flags_from(&rn->pub.flags, rn->opts, inherited, error)) {
        g_prefix_error(error, "block node '%s': ", rn->pub.node->name);
        return false;
    }
    rn->has_flags = true;
    return true;
}

/* Computes the flags of all; r->nodes grows by the heirs meanwhile. */
static bool reopen_collect_flags(Reopen *r, GError **error)
{
    for (unsigned i = 0; i < r->nodes->len; i++) {
        ReopenNode *rn = reopen_get(r, i);

        if (!reopen_compute_flags(r, rn, error) || !reopen_collect_heirs(r, rn, error)) {
            return false;
        }
    }
    return true;
}

/* Children */

static bool reopen_check_active(const ReopenNode *rn, const BlockChild *edge, BlockNode *to,
                                GError **error)
{
    if (block_node_active(to) || !block_node_active(rn->pub.node)) {
        return true;
    }
    g_set_error(
        error, WHARF_ERROR, WHARF_ERROR_IN_USE,
        "block node '%s' is inactive, so it cannot be the child '%s' of the active node '%s'",
        to->name, edge->name, rn->pub.node->name);
    return false;
}

/* Again, for the lock was given back since the edges were collected. */
static bool reopen_check_still_active(const Reopen *r, GError **error)
{
    for (unsigned i = 0; i < r->nodes->len; i++) {
        const ReopenNode *rn = reopen_get(r, i);

        for (unsigned j = 0; j < rn->switches->len; j++) {
            const EdgeSwitch *change = &g_array_index(rn->switches, EdgeSwitch, j);

            if (!reopen_check_active(rn, change->edge, change->node, error)) {
                return false;
            }
        }
    }
    return true;
}

/* What the options say about one edge. */
static bool reopen_collect_edge(Reopen *r, ReopenNode *rn, BlockChild *edge, const QValue *ref,
                                GError **error)
{
    BlockNode *to;
    EdgeSwitch change;

    if (!ref || qvalue_type(ref) != QVALUE_STRING) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "block node '%s': '%s' must be the name of a node (it is '%s' now); a child "
                    "cannot be made or left out in a reopen",
                    rn->pub.node->name, edge->name, edge->node->name);
        return false;
    }
    to = block_graph_find(r->graph, qvalue_get_string(ref, NULL), error);
    if (!to) {
        return false;
    }
    if (to == edge->node) {
        return true;
    }
    if (!reopen_check_active(rn, edge, to, error)) {
        return false;
    }
    change = (EdgeSwitch){.edge = edge, .node = block_node_ref(to)};
    g_array_append_val(rn->switches, change);
    return true;
}

static bool reopen_collect_edges(Reopen *r, ReopenNode *rn, GError **error)
{
    g_autoptr(QValue) options = blockdev_options_to_qvalue(rn->opts);
    GPtrArray *edges = rn->pub.node->children;

    for (unsigned i = 0; !rn->heir && i < edges->len; i++) {
        BlockChild *edge = g_ptr_array_index(edges, i);

        if (!reopen_collect_edge(r, rn, edge, qvalue_object_get(options, edge->name), error)) {
            return false;
        }
    }
    return true;
}

BlockNode *block_reopen_child(BlockReopen *reopen, const char *name)
{
    ReopenNode *rn = (ReopenNode *)reopen;

    for (unsigned i = 0; i < rn->switches->len; i++) {
        EdgeSwitch *change = &g_array_index(rn->switches, EdgeSwitch, i);

        if (g_str_equal(change->edge->name, name)) {
            return change->node;
        }
    }
    return block_node_child(reopen->node, name)->node;
}

/* Prepare */

/* What the core sees to, so that a driver without reopen callbacks need not know it. */
static bool is_common_option(const BlockNode *node, const char *key)
{
    static const char *const common[] = {
        "driver",         "node-name",   "discard",       "cache",  "read-only",
        "auto-read-only", "force-share", "detect-zeroes", "active",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(common); i++) {
        if (g_str_equal(key, common[i])) {
            return true;
        }
    }
    return block_node_child((BlockNode *)node, key) != NULL;
}

static bool same_member(const QValue *a, const QValue *b)
{
    return a && b ? qvalue_equal(a, b) : a == b;
}

/* Whether each option of @from that is the driver's own is the same in @to. */
static bool check_own_options(const BlockNode *node, const QValue *from, const QValue *to,
                              GError **error)
{
    for (gsize i = 0; i < qvalue_object_size(from); i++) {
        const char *key = qvalue_object_key(from, i);

        if (!is_common_option(node, key) &&
            !same_member(qvalue_object_value(from, i), qvalue_object_get(to, key))) {
            g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                        "block node '%s': driver '%s' cannot change '%s' by a reopen", node->name,
                        node->drv->name, key);
            return false;
        }
    }
    return true;
}

static bool check_unchanged(const ReopenNode *rn, GError **error)
{
    g_autoptr(QValue) old = blockdev_options_to_qvalue(rn->pub.node->opts);
    g_autoptr(QValue) new = blockdev_options_to_qvalue(rn->opts);

    return check_own_options(rn->pub.node, old, new, error) &&
           check_own_options(rn->pub.node, new, old, error);
}

static bool co_fn reopen_co_prepare_node(ReopenNode *rn, GError **error)
{
    BlockNode *node = rn->pub.node;

    node->reopen = &rn->pub;
    if (!node->drv->co_reopen_prepare) {
        return check_unchanged(rn, error);
    }
    rn->prepared = node->drv->co_reopen_prepare(&rn->pub, error);
    return rn->prepared;
}

static bool co_fn reopen_co_prepare(Reopen *r, GError **error)
{
    for (unsigned i = 0; i < r->nodes->len; i++) {
        if (!reopen_co_prepare_node(reopen_get(r, i), error)) {
            return false;
        }
    }
    return true;
}

/* Without the switch: give back what was prepared. A second time there is nothing to do. */
static void co_fn reopen_co_abort(Reopen *r)
{
    for (unsigned i = r->nodes->len; i-- > 0;) {
        ReopenNode *rn = reopen_get(r, i);
        BlockNode *node = rn->pub.node;

        if (rn->prepared && node->drv->co_reopen_abort) {
            node->drv->co_reopen_abort(&rn->pub);
        }
        rn->prepared = false;
        node->reopen = NULL;
    }
}

/* Others may change the nodes again. */
static void reopen_unmark(Reopen *r)
{
    for (unsigned i = 0; i < r->nodes->len; i++) {
        reopen_get(r, i)->pub.node->reopening = false;
    }
    block_graph_wake(r->graph, &r->graph->reopened);
}

/* Quiet */

static GPtrArray *reopen_list(const Reopen *r)
{
    GPtrArray *nodes = g_ptr_array_new();

    for (unsigned i = 0; i < r->nodes->len; i++) {
        g_ptr_array_add(nodes, reopen_get(r, i)->pub.node);
    }
    return nodes;
}

/* What a request needs that does not end may be what the reopen holds up. */
static void co_fn reopen_co_give_up(void *opaque)
{
    reopen_co_abort(opaque);
    reopen_unmark(opaque);
}

static bool co_fn reopen_co_quiesce(Reopen *r, GError **error)
{
    g_autoptr(GPtrArray) nodes = reopen_list(r);

    r->quiesce = (BlockQuiesce){.co_give_up = reopen_co_give_up, .opaque = r};
    return block_quiesce_co_begin(&r->quiesce, r->graph, nodes, error);
}

/* Switch */

static void edge_switch(EdgeSwitch *change)
{
    BlockChild *edge = change->edge;
    BlockNode *old = edge->node;
    BlockEdgeTrouble trouble = edge->trouble;

    edge->trouble = change->trouble;
    change->trouble = trouble;
    g_ptr_array_remove(old->parents, edge);
    edge->node = change->node;
    g_ptr_array_add(edge->node->parents, edge);
    change->node = old;
}

/* Before the switch, for in the midst of it there may be loops. */
static void reopen_keep_trouble(Reopen *r)
{
    for (unsigned i = 0; i < r->nodes->len; i++) {
        GArray *switches = reopen_get(r, i)->switches;

        for (unsigned j = 0; j < switches->len; j++) {
            EdgeSwitch *change = &g_array_index(switches, EdgeSwitch, j);

            change->trouble = block_child_trouble_kept(change->edge);
        }
    }
}

/* Exchanges the edges; a second time puts them back. */
static void reopen_switch_edges(Reopen *r)
{
    for (unsigned i = 0; i < r->nodes->len; i++) {
        GArray *switches = reopen_get(r, i)->switches;

        for (unsigned j = 0; j < switches->len; j++) {
            edge_switch(&g_array_index(switches, EdgeSwitch, j));
        }
    }
}

static void reopen_update_shapes(Reopen *r)
{
    for (unsigned i = 0; i < r->nodes->len; i++) {
        block_node_update_shape(reopen_get(r, i)->pub.node);
    }
}

/*
 * No node may be made from itself. Only after the switch, for several exchanges may make one loop.
 */
static bool reopen_check_loops(const Reopen *r, GError **error)
{
    for (unsigned i = 0; i < r->nodes->len; i++) {
        ReopenNode *rn = reopen_get(r, i);

        for (unsigned j = 0; j < rn->switches->len; j++) {
            const BlockChild *edge = g_array_index(rn->switches, EdgeSwitch, j).edge;

            if (block_node_reaches(edge->node, rn->pub.node)) {
                g_set_error(
                    error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "block node '%s' cannot be the child '%s' of '%s': it would be made from "
                    "itself",
                    edge->node->name, edge->name, rn->pub.node->name);
                return false;
            }
        }
    }
    return true;
}

static bool reopen_check_shapes(const Reopen *r, GError **error)
{
    for (unsigned i = 0; i < r->nodes->len; i++) {
        if (!block_node_check_shape(reopen_get(r, i)->pub.node, error)) {
            return false;
        }
    }
    return true;
}

/* As after an open: nodes follow those below them, which come first. */
static bool reopen_adjust_flags(const Reopen *r, GError **error)
{
    g_autoptr(GPtrArray) order = g_ptr_array_new();
    unsigned visit = block_graph_new_visit(r->graph);

    for (unsigned i = 0; i < r->nodes->len; i++) {
        block_node_collect_below(reopen_get(r, i)->pub.node, visit, order);
    }
    for (unsigned i = 0; i < order->len; i++) {
        BlockNode *node = g_ptr_array_index(order, i);

        if (node->reopen && !block_node_adjust_flags(node, &node->reopen->flags, error)) {
            return false;
        }
    }
    return true;
}

/* The permissions of all nodes concerned: those reopened, and those that lose a parent. */
static bool co_fn reopen_co_update_perms(Reopen *r, GError **error)
{
    g_autoptr(GPtrArray) nodes = reopen_list(r);

    for (unsigned i = 0; i < r->nodes->len; i++) {
        const ReopenNode *rn = reopen_get(r, i);

        for (unsigned j = 0; j < rn->switches->len; j++) {
            g_ptr_array_add(nodes, g_array_index(rn->switches, EdgeSwitch, j).node);
        }
    }
    return block_perm_co_update(r->graph, (BlockNode **)nodes->pdata, nodes->len, error);
}

static unsigned reopen_count_read_only(const Reopen *r)
{
    unsigned n = 0;

    for (unsigned i = 0; i < r->nodes->len; i++) {
        n += reopen_get(r, i)->pub.flags.read_only;
    }
    return n;
}

/*
 * Some drivers find out only with their permissions that they cannot write after all. Then that
 * must do for those above, and less is needed below.
 */
static bool co_fn reopen_co_follow(Reopen *r, unsigned read_only_before, GError **error)
{
    return reopen_adjust_flags(r, error) &&
           (reopen_count_read_only(r) == read_only_before || reopen_co_update_perms(r, error));
}

/* Taking up what others have changed */

/* Whether others could write to what the node shows, and cannot from now on. */
static bool may_be_stale(const ReopenNode *rn)
{
    const BlockNodeFlags *before = &rn->pub.node->flags;

    return block_node_active(rn->pub.node) &&
           ((before->force_share && !rn->pub.flags.force_share) ||
            (before->read_only && !rn->pub.flags.read_only));
}

static bool co_fn node_co_look_at_length(BlockNode *node, GError **error)
{
    int r = block_node_co_refresh_length(node);

    if (r < 0) {
        wharf_set_error_errno(error, -r, "block node '%s': cannot get its length", node->name);
    }
    return r == 0;
}

static bool co_fn reopen_co_take_up_node(ReopenNode *rn, GError **error)
{
    BlockNode *node = rn->pub.node;

    if (rn->taken_up || !block_node_active(node)) {
        return true;
    }
    rn->taken_up = true;
    rn->stale = may_be_stale(rn);
    return !rn->prepared || !node->drv->co_reopen_take_up ||
           node->drv->co_reopen_take_up(&rn->pub, error);
}

/* @node and all below it, those below first. */
static bool co_fn reopen_co_take_up_all(Reopen *r, BlockNode *node, GError **error)
{
    ReopenNode *rn = reopen_find(r, node);

    for (unsigned i = 0; i < node->children->len; i++) {
        const BlockChild *child = g_ptr_array_index(node->children, i);

        if (!reopen_co_take_up_all(r, child->node, error)) {
            return false;
        }
    }
    return (!rn || reopen_co_take_up_node(rn, error)) &&
           (!block_node_active(node) || node_co_look_at_length(node, error));
}

static bool co_fn reopen_co_take_up(Reopen *r, GError **error)
{
    for (unsigned i = 0; i < r->nodes->len; i++) {
        ReopenNode *rn = reopen_get(r, i);

        if (!(may_be_stale(rn) ? reopen_co_take_up_all(r, rn->pub.node, error)
                               : reopen_co_take_up_node(rn, error))) {
            return false;
        }
    }
    return true;
}

/* Commit, clean up */

static void co_fn reopen_co_commit_node(ReopenNode *rn)
{
    BlockNode *node = rn->pub.node;

    block_node_set_flags(node, &rn->pub.flags);
    if (rn->prepared && node->drv->co_reopen_commit) {
        node->drv->co_reopen_commit(&rn->pub);
    }
    rn->prepared = false;
    node->reopen = NULL;
    blockdev_options_free(node->opts);
    node->opts = g_steal_pointer(&rn->opts);
}

/* What follows from new options: limits and length, here and above, and what backends know. */
static void co_fn reopen_co_refresh(Reopen *r)
{
    for (unsigned i = 0; i < r->nodes->len; i++) {
        BlockNode *node = reopen_get(r, i)->pub.node;
        int ret;

        block_node_refresh_limits(node);
        ret = block_node_co_refresh_length(node);
        if (ret < 0) {
            g_warning("block node '%s': cannot get its length: %s", node->name, g_strerror(-ret));
        }
        block_notify_update(node);
        if (reopen_get(r, i)->switches->len > 0 || reopen_get(r, i)->stale) {
            block_notify_content(node);
        }
    }
}

static void co_fn reopen_co_free(Reopen *r)
{
    block_quiesce_clear(&r->quiesce);
    if (r->flush_error) {
        g_warning("%s", r->flush_error->message);
        g_error_free(r->flush_error);
    }
    for (unsigned i = 0; i < r->nodes->len; i++) {
        ReopenNode *rn = reopen_get(r, i);

        for (unsigned j = 0; j < rn->switches->len; j++) {
            block_node_co_unref(g_array_index(rn->switches, EdgeSwitch, j).node);
        }
        g_array_unref(rn->switches);
        blockdev_options_free(rn->opts);
        block_node_co_unref(rn->pub.node);
        g_free(rn);
    }
    g_ptr_array_unref(r->nodes);
}

/* After the switch: all is as it was before the reopen. */
static void co_fn reopen_co_revert(Reopen *r)
{
    g_autoptr(GError) error = NULL;

    reopen_co_abort(r);
    reopen_switch_edges(r);
    reopen_update_shapes(r);
    if (!reopen_co_update_perms(r, &error)) {
        g_warning("a reopen that failed cannot give permissions back: %s", error->message);
    }
    for (unsigned i = 0; i < r->nodes->len; i++) {
        if (reopen_get(r, i)->taken_up) {
            block_node_co_refresh_length(reopen_get(r, i)->pub.node);
        }
    }
}

/* The part with change_lock held, and soon the nodes drained. */
static bool co_fn reopen_co_switch(Reopen *r, GError **error)
{
    unsigned read_only;

    if (!reopen_co_quiesce(r, error) || !reopen_check_still_active(r, error)) {
        return false;
    }
    reopen_keep_trouble(r);
    reopen_switch_edges(r);
    if (!reopen_check_loops(r, error)) {
        reopen_switch_edges(r);
        return false;
    }
    reopen_update_shapes(r);
    if (!reopen_check_shapes(r, error) || !reopen_adjust_flags(r, error)) {
        reopen_switch_edges(r);
        reopen_update_shapes(r);
        return false;
    }
    read_only = reopen_count_read_only(r);
    if (!reopen_co_update_perms(r, error)) {
        reopen_switch_edges(r);
        reopen_update_shapes(r);
        return false;
    }
    if (!reopen_co_take_up(r, error) || !reopen_co_follow(r, read_only, error)) {
        reopen_co_revert(r);
        return false;
    }
    for (unsigned i = 0; i < r->nodes->len; i++) {
        reopen_co_commit_node(reopen_get(r, i));
    }
    reopen_co_refresh(r);
    return true;
}

static bool reopen_collect(Reopen *r, const GPtrArray *options, GError **error)
{
    if (!reopen_collect_listed(r, options, error) || !reopen_collect_flags(r, error)) {
        return false;
    }
    for (unsigned i = 0; i < r->nodes->len; i++) {
        if (!reopen_collect_edges(r, reopen_get(r, i), error)) {
            return false;
        }
    }
    return true;
}

/* Its cause should be looked at first: what was not flushed may be gone. */
static bool reopen_check_flushed(Reopen *r, GError **error)
{
    if (!r->flush_error) {
        return true;
    }
    g_propagate_error(error, g_steal_pointer(&r->flush_error));
    return false;
}

static bool co_fn reopen_co_run(Reopen *r, const GPtrArray *options, GError **error)
{
    bool ok;

    co_mutex_lock(&r->graph->change_lock);
    ok = reopen_collect(r, options, error);
    co_mutex_unlock(&r->graph->change_lock);

    ok = ok && reopen_co_prepare(r, error) && reopen_check_flushed(r, error);

    co_mutex_lock(&r->graph->change_lock);
    ok = ok && reopen_co_switch(r, error);
    if (!ok) {
        reopen_co_abort(r);
    }
    block_quiesce_co_end(&r->quiesce);
    reopen_unmark(r);
    co_mutex_unlock(&r->graph->change_lock);
    return ok;
}

/* Flush ahead. Without marks, for the flush of one node may need a change of another. */
static void co_fn reopen_co_flush(Reopen *r, const GPtrArray *options)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();

    for (unsigned i = 0; i < options->len; i++) {
        const BlockdevOptions *opts = g_ptr_array_index(options, i);
        BlockNode *node = block_graph_find(r->graph, opts->node_name, NULL);

        if (node) {
            g_ptr_array_add(nodes, block_node_ref(node));
        }
    }
    block_nodes_co_flush(nodes, &r->flush_error);
    for (unsigned i = 0; i < nodes->len; i++) {
        block_node_co_unref(g_ptr_array_index(nodes, i));
    }
}

/* What cannot be done anyway should not flush. */
static bool co_fn reopen_co_check(BlockGraph *graph, const GPtrArray *options, GError **error)
{
    Reopen r = {.graph = graph, .nodes = g_ptr_array_new()};
    bool ok;

    co_mutex_lock(&graph->change_lock);
    ok = reopen_collect(&r, options, error);
    reopen_unmark(&r);
    co_mutex_unlock(&graph->change_lock);
    reopen_co_free(&r);
    return ok;
}

bool co_fn block_graph_co_reopen(BlockGraph *graph, const GPtrArray *options, GError **error)
{
    Reopen r = {.graph = graph};
    bool ok;

    if (!block_graph_begin_command(graph, error)) {
        return false;
    }
    r.nodes = g_ptr_array_new();
    /* Two at a time could wait for each other's nodes. */
    co_mutex_lock(&graph->reopen_lock);
    ok = reopen_co_check(graph, options, error);
    if (ok) {
        reopen_co_flush(&r, options);
        ok = reopen_co_run(&r, options, error);
    }
    reopen_co_free(&r);
    co_mutex_unlock(&graph->reopen_lock);
    block_graph_end_command(graph);
    return ok;
}
