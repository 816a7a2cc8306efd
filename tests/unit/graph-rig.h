/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tests/unit/graph-rig.h - for tests whose body is a coroutine of the main context: a fixture's
 * graph and what such a body does with it over and over.
 */
#ifndef WHARF_TESTS_GRAPH_RIG_H
#define WHARF_TESTS_GRAPH_RIG_H

#include "tests/unit/block-fixture.h"

typedef struct GraphRig {
    Fixture *fixture;
    AioContext *ctx; /* the main one */
    BlockGraph *graph;
    gpointer user; /* the test's */
} GraphRig;

/* Run @body as a coroutine of a new fixture's main context; then everything must be gone. */
void graph_rig_run(void co_fn (*body)(GraphRig *rig), gpointer user);

/* Add a test under @path that does so. */
void graph_rig_add_test(const char *path, void co_fn (*body)(GraphRig *rig), gconstpointer user);

/* Options of a node, from JSON in QMP's dialect (single quotes are fine). The caller's. */
BlockdevOptions *graph_rig_options(const char *json);

/* Add a node, or fail the test. Takes @opts. The node is borrowed. */
BlockNode *co_fn graph_rig_co_add(GraphRig *rig, BlockdevOptions *opts);

/* Add a node, which must fail and leave none. Takes @opts. Returns the error's message. */
char *co_fn graph_rig_co_add_fails(GraphRig *rig, BlockdevOptions *opts);

void co_fn graph_rig_co_del(GraphRig *rig, const char *name);

/* Reopen one node. Takes @opts. Returns NULL, or the error's message. */
char *co_fn graph_rig_co_reopen(GraphRig *rig, BlockdevOptions *opts);

/* A backend on @node that needs @perm and shares everything. */
BlockBackend *co_fn graph_rig_co_use(BlockNode *node, BlockPerm perm);

/* Bytes that tell where they stand, different for each @seed. */
void graph_rig_fill(uint8_t *buffer, size_t n, unsigned seed);

/* Write such bytes at @offset, which must succeed. */
void co_fn graph_rig_co_write(BlockBackend *blk, uint64_t offset, size_t n, unsigned seed,
                              BlockRequestFlags flags);

/* The bytes at @offset must be these. */
void co_fn graph_rig_co_expect(BlockBackend *blk, uint64_t offset, size_t n, unsigned seed);
void co_fn graph_rig_co_expect_zeros(BlockBackend *blk, uint64_t offset, size_t n);

#endif
