/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Permissions. Each edge says what its upper end needs of the node and what it shares with the
 * node's other users. A change begins with new_perm and new_shared of some edges, is computed
 * downwards for everything below, is checked, by the drivers too (they lock the image), and then
 * either put into force as a whole or taken back as a whole. Outside of a change new_perm equals
 * perm.
 */
#include "block/block-internal.h"

#define WRITES  (BLOCK_PERM_WRITE | BLOCK_PERM_WRITE_UNCHANGED)
#define CHANGES (WRITES | BLOCK_PERM_RESIZE)

static const char *const perm_names[] = {"consistent read", "write", "write-unchanged", "resize"};

char *block_perm_to_string(BlockPerm perm)
{
    GString *s = g_string_new(NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(perm_names); i++) {
        if (perm & (1U << i)) {
            g_string_append_printf(s, "%s%s", s->len ? ", " : "", perm_names[i]);
        }
    }
    return g_string_free(s, FALSE);
}

char *block_child_user(const BlockChild *child)
{
    if (child->backend) {
        return g_strdup(child->backend->user);
    }
    return g_strdup_printf("block node '%s' (as its child '%s')", child->parent->name, child->name);
}

/* The i-th edge that leads to @node. */
static BlockChild *upper_edge(const BlockNode *node, unsigned i)
{
    return g_ptr_array_index(node->parents, i);
}

/* One edge that needs @bit, and another one that does not share it, if there are such. */
static bool perm_find_conflict(const BlockNode *node, BlockPerm bit, BlockChild **needs,
                               BlockChild **denies)
{
    for (unsigned i = 0; i < node->parents->len; i++) {
        *needs = upper_edge(node, i);
        for (unsigned j = 0; ((*needs)->new_perm & bit) && j < node->parents->len; j++) {
            *denies = upper_edge(node, j);
            if (*denies != *needs && !((*denies)->new_shared & bit)) {
                return true;
            }
        }
    }
    return false;
}

static void perm_set_conflict_error(const BlockNode *node, BlockPerm bit, const BlockChild *needs,
                                    const BlockChild *denies, GError **error)
{
    g_autofree char *perm = block_perm_to_string(bit);
    g_autofree char *who = block_child_user(needs);
    g_autofree char *other = block_child_user(denies);

    g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                "conflict over block node '%s': %s needs the permission '%s', which %s does not "
                "share; delete one of the two first",
                node->name, who, perm, other);
}

static bool perm_check_conflicts(const BlockNode *node, GError **error)
{
    unsigned need[G_N_ELEMENTS(perm_names)] = {0}, deny[G_N_ELEMENTS(perm_names)] = {0};

    for (unsigned i = 0; i < node->parents->len; i++) {
        for (unsigned b = 0; b < G_N_ELEMENTS(perm_names); b++) {
            need[b] += !!(upper_edge(node, i)->new_perm & (1U << b));
            deny[b] += !(upper_edge(node, i)->new_shared & (1U << b));
        }
    }
    for (unsigned b = 0; b < G_N_ELEMENTS(perm_names); b++) {
        BlockChild *needs, *denies;

        if (need[b] && deny[b] && perm_find_conflict(node, 1U << b, &needs, &denies)) {
            perm_set_conflict_error(node, 1U << b, needs, denies, error);
            return false;
        }
    }
    return true;
}

/* The edge is the one through which @blk reaches the node, whose nodes it has to itself. */
static bool edge_is_of(const BlockChild *edge, const BlockBackend *blk)
{
    return edge->backend ? edge->backend == blk : edge->parent->direct_writer == blk;
}

/* Where somebody writes past us, nobody else would learn of it. */
static bool perm_check_direct(const BlockNode *node, GError **error)
{
    for (unsigned i = 0; node->direct_writer && i < node->parents->len; i++) {
        const BlockChild *edge = upper_edge(node, i);

        if (edge->new_perm && !edge_is_of(edge, node->direct_writer)) {
            g_autofree char *who = block_child_user(edge);

            g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                        "block node '%s' cannot be used by %s together with %s, whose clients "
                        "write to its file directly ('passthrough'): delete one of the two first, "
                        "or do without passthrough",
                        node->name, who, node->direct_writer->user);
            return false;
        }
    }
    return true;
}

const BlockNodeFlags *block_node_flags_to_be(const BlockNode *node)
{
    return node->reopen ? &node->reopen->flags : &node->flags;
}

/* What all users of @node together need, and what all of them share. */
static void perm_cumulate(const BlockNode *node, BlockPerm *perm, BlockPerm *shared)
{
    *perm = 0;
    *shared = BLOCK_PERM_ALL;
    for (unsigned i = 0; i < node->parents->len; i++) {
        *perm |= upper_edge(node, i)->new_perm;
        *shared &= upper_edge(node, i)->new_shared;
    }
}

static bool perm_check_read_only(const BlockNode *node, BlockPerm perm, GError **error)
{
    if (!(perm & CHANGES) || !block_node_flags_to_be(node)->read_only) {
        return true;
    }
    for (unsigned i = 0; i < node->parents->len; i++) {
        const BlockChild *edge = upper_edge(node, i);

        if (edge->new_perm & CHANGES) {
            g_autofree char *user = block_child_user(edge);

            g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                        "block node '%s' is read-only, but %s %s it", node->name, user,
                        edge->new_perm & WRITES ? "writes to" : "resizes");
            break;
        }
    }
    return false;
}

/* An inactive node holds no lock on its image, so nobody active may rely on it. */
static bool perm_check_active(const BlockNode *node, GError **error)
{
    for (unsigned i = 0; !block_node_active(node) && i < node->parents->len; i++) {
        const BlockChild *edge = upper_edge(node, i);

        if (edge->parent && block_node_active(edge->parent)) {
            g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                        "block node '%s' is inactive, but the active node '%s' uses it", node->name,
                        edge->parent->name);
            return false;
        }
    }
    return true;
}

/* Computes new_perm and new_shared of the edges below @node. */
static void perm_pass_down(BlockNode *node, BlockPerm perm, BlockPerm shared)
{
    const BlockNodeFlags *flags = block_node_flags_to_be(node);

    for (unsigned i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);
        BlockPerm p = perm, s = shared;

        if (node->drv->child_perm) {
            node->drv->child_perm(node, child, perm, shared, &p, &s);
        }
        if (flags->read_only) {
            p &= ~CHANGES;
        }
        if (flags->force_share) {
            s = BLOCK_PERM_ALL;
        }
        if (!block_node_active(node)) {
            p = 0;
            s = BLOCK_PERM_ALL;
        }
        child->new_perm = p;
        child->new_shared = s;
    }
}

static bool perm_check_node(BlockNode *node, GError **error)
{
    BlockPerm perm, shared;

    if (!perm_check_active(node, error) || !perm_check_direct(node, error) ||
        !perm_check_conflicts(node, error)) {
        return false;
    }
    perm_cumulate(node, &perm, &shared);
    if (!perm_check_read_only(node, perm, error)) {
        return false;
    }
    perm_pass_down(node, perm, shared);
    if (!block_node_active(node)) {
        perm = 0;
        shared = BLOCK_PERM_ALL;
    }
    node->new_perm = perm;
    node->new_shared = shared;
    return true;
}

/* Whether the driver must hear of the change. */
static bool perm_driver_concerned(const BlockNode *node)
{
    return node->drv->co_check_perm &&
           (node->new_perm != node->perm || node->new_shared != node->shared || node->reopen);
}

static bool co_fn perm_co_check_driver(BlockNode *node, GError **error)
{
    if (!perm_driver_concerned(node)) {
        return true;
    }
    if (!node->drv->co_check_perm(node, node->new_perm, node->new_shared, error)) {
        return false;
    }
    node->perm_checked = true;
    return true;
}

static void co_fn perm_co_abort(GPtrArray *order)
{
    for (unsigned i = order->len; i-- > 0;) {
        BlockNode *node = g_ptr_array_index(order, i);

        if (node->perm_checked && node->drv->co_abort_perm) {
            node->drv->co_abort_perm(node);
        }
        node->perm_checked = false;
        for (unsigned j = 0; j < node->parents->len; j++) {
            upper_edge(node, j)->new_perm = upper_edge(node, j)->perm;
            upper_edge(node, j)->new_shared = upper_edge(node, j)->shared;
        }
    }
}

/* An overlay that is in use although its backing file @node is written to; or NULL. */
static const BlockNode *perm_find_overlay(const BlockNode *node)
{
    for (unsigned i = 0; (node->perm & BLOCK_PERM_WRITE) && i < node->parents->len; i++) {
        const BlockChild *edge = upper_edge(node, i);

        if (block_child_is_backing(edge) && (edge->perm & BLOCK_PERM_CONSISTENT_READ)) {
            return edge->parent;
        }
    }
    return NULL;
}

static void perm_take(BlockNode *node)
{
    for (unsigned i = 0; i < node->parents->len; i++) {
        BlockChild *edge = upper_edge(node, i);

        __atomic_store_n(&edge->perm, edge->new_perm, __ATOMIC_SEQ_CST);
        edge->shared = edge->new_shared;
        if (edge->new_perm & CHANGES) {
            block_child_begin_to_count(edge);
        }
    }
    node->perm = node->new_perm;
    node->shared = node->new_shared;
}

/* The same. What is allowed and yet seldom meant is said. */
static void perm_take_and_tell(BlockNode *node)
{
    bool told = perm_find_overlay(node);
    const BlockNode *overlay;

    perm_take(node);
    overlay = told ? NULL : perm_find_overlay(node);
    if (overlay) {
        g_warning("block node '%s' is written to while overlay '%s' is in use, which shows what it "
                  "lacks itself from there: each write may change that, too",
                  node->name, overlay->name);
    }
}

static void co_fn perm_co_commit(GPtrArray *order)
{
    for (unsigned i = order->len; i-- > 0;) {
        BlockNode *node = g_ptr_array_index(order, i);

        perm_take_and_tell(node);
        if (node->perm_checked && node->drv->co_set_perm) {
            node->drv->co_set_perm(node, node->perm, node->shared);
        }
        node->perm_checked = false;
    }
}

bool co_fn block_perm_co_update(BlockGraph *graph, BlockNode **nodes, unsigned n, GError **error)
{
    g_autoptr(GPtrArray) order = g_ptr_array_new();
    unsigned visit = block_graph_new_visit(graph);
    bool ok = true;

    for (unsigned i = 0; i < n; i++) {
        block_node_collect_below(nodes[i], visit, order);
    }
    for (unsigned i = order->len; ok && i-- > 0;) {
        ok = perm_check_node(g_ptr_array_index(order, i), error);
    }
    for (unsigned i = order->len; ok && i-- > 0;) {
        ok = perm_co_check_driver(g_ptr_array_index(order, i), error);
    }
    if (!ok) {
        perm_co_abort(order);
        return false;
    }
    perm_co_commit(order);
    return true;
}

void co_fn block_perm_co_shrink(BlockNode *node)
{
    g_autoptr(GError) error = NULL;

    if (!block_perm_co_update(node->graph, &node, 1, &error)) {
        g_warning("block node '%s': cannot give permissions back: %s", node->name, error->message);
    }
}
