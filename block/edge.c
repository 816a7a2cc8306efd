/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/block-internal.h"

/* An inactive node below an active one would be written without a lock. */
static bool child_check_active(BlockNode *parent, BlockNode *node, const char *name, GError **error)
{
    if (block_node_active(node) || !block_node_active(parent)) {
        return true;
    }
    g_set_error(
        error, WHARF_ERROR, WHARF_ERROR_IN_USE,
        "block node '%s' is inactive, so it cannot be the child '%s' of the active node '%s'; "
        "activate it by blockdev-set-active",
        node->name, name, parent->name);
    return false;
}

static void child_free(BlockChild *child)
{
    g_free(child->name);
    g_free(child);
}

/* Tie the edge in, without permissions. */
static BlockChild *child_link(BlockNode *parent, BlockNode *node, const char *name)
{
    BlockChild *child = g_new0(BlockChild, 1);

    child->name = g_strdup(name);
    child->parent = parent;
    child->node = block_node_ref(node);
    child->shared = child->new_shared = BLOCK_PERM_ALL;
    g_ptr_array_add(parent->children, child);
    g_ptr_array_add(node->parents, child);
    return child;
}

static void child_unlink(BlockChild *child)
{
    BlockNode *parent = child->parent;

    if (parent->first_child == child) {
        parent->first_child = NULL;
    }
    g_ptr_array_remove(parent->children, child);
    g_ptr_array_remove(child->node->parents, child);
}

BlockChild *co_fn block_child_co_attach(BlockNode *parent, BlockNode *node, const char *name,
                                        GError **error)
{
    BlockGraph *graph = parent->graph;
    BlockChild *child;

    block_graph_co_lock_change(graph, node);
    if (!child_check_active(parent, node, name, error)) {
        block_graph_unlock_change(graph);
        return NULL;
    }
    child = child_link(parent, node, name);
    if (!block_perm_co_update(graph, &parent, 1, error)) {
        child_unlink(child);
        block_graph_unlock_change(graph);
        block_node_co_unref(node);
        child_free(child);
        return NULL;
    }
    if (!parent->first_child) {
        parent->first_child = child;
    }
    block_graph_unlock_change(graph);
    return child;
}

void co_fn block_child_co_detach(BlockChild *child)
{
    BlockNode *node = child->node;
    BlockGraph *graph = node->graph;

    block_graph_co_lock_change(graph, node);
    child_unlink(child);
    block_perm_co_shrink(node);
    block_graph_unlock_change(graph);
    block_node_co_unref(node);
    child_free(child);
}

/* The open node that @ref names, or that it makes, with a reference. */
static BlockNode *co_fn child_co_resolve(BlockNode *parent, const BlockdevRef *ref, GError **error)
{
    if (ref->type == QVALUE_STRING) {
        return block_node_ref(block_graph_find(parent->graph, ref->u.reference, error));
    }
    return block_node_co_open(parent->graph, &ref->u.definition, parent, error);
}

static bool child_check_nesting(BlockNode *parent, GError **error)
{
    unsigned levels = 1;

    for (BlockNode *up = parent; up; up = up->inherits_from) {
        levels++;
    }
    if (levels <= BLOCK_DEPTH_MAX) {
        return true;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                "block node '%s': chains of more than %d nodes are not supported", parent->name,
                BLOCK_DEPTH_MAX);
    return false;
}

BlockChild *co_fn block_child_co_open(BlockNode *parent, const BlockdevRef *ref, const char *name,
                                      GError **error)
{
    BlockNode *node;
    BlockChild *child;

    if (!child_check_nesting(parent, error)) {
        return NULL;
    }
    node = child_co_resolve(parent, ref, error);
    if (!node) {
        return NULL;
    }
    child = block_child_co_attach(parent, node, name, error);
    block_node_co_unref(node);
    return child;
}

BlockNode *block_child_node(const BlockChild *child)
{
    return child->node;
}

const char *block_child_name(const BlockChild *child)
{
    return child->name;
}

int64_t block_child_length(const BlockChild *child)
{
    return block_node_length(child->node);
}

BlockChild *block_node_child(BlockNode *node, const char *name)
{
    for (unsigned i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);

        if (g_str_equal(child->name, name)) {
            return child;
        }
    }
    return NULL;
}

bool block_child_any_sibling(const BlockChild *child, bool (*fn)(BlockNode *sibling, void *opaque),
                             void *opaque)
{
    const GPtrArray *edges = child->node->parents;

    for (unsigned i = 0; i < edges->len; i++) {
        const BlockChild *edge = g_ptr_array_index(edges, i);

        if (edge->parent && edge->parent != child->parent && fn(edge->parent, opaque)) {
            return true;
        }
    }
    return false;
}

bool block_child_is_backing(const BlockChild *child)
{
    return child->parent && g_str_equal(child->name, "backing");
}

const BlockNode *block_node_overlay(const BlockNode *node)
{
    for (unsigned i = 0; i < node->parents->len; i++) {
        const BlockChild *edge = g_ptr_array_index(node->parents, i);
        const BlockNode *overlay = NULL;

        if (block_child_is_backing(edge)) {
            return edge->parent;
        }
        if (edge->parent && edge->parent->drv->is_filter) {
            overlay = block_node_overlay(edge->parent);
        }
        if (overlay) {
            return overlay;
        }
    }
    return NULL;
}

BlockChild *block_node_first_child(BlockNode *node)
{
    return node->first_child;
}
