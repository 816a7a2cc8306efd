/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tests/unit/export-fixture.h - a FUSE export over a node, without registry, mount and kernel.
 *
 * One thread: the test polls the context whenever it waits.
 */
#ifndef WHARF_TESTS_EXPORT_FIXTURE_H
#define WHARF_TESTS_EXPORT_FIXTURE_H

#include "export/fuse/fuse-internal.h"

typedef struct ExportFixture {
    AioContext *ctx;
    BlockGraph *graph;
    BlockNode *node; /* borrowed */
    FuseExport *fe;  /* one queue, with a closed channel */
} ExportFixture;

/* Make one over the node that @node_json (BlockdevOptions with node-name "n0") describes. */
ExportFixture *export_fixture_new(const char *node_json, bool writable, bool growable);
void export_fixture_free(ExportFixture *fixture);

FuseQueue *export_fixture_queue(ExportFixture *fixture);

/* Run @fn in a coroutine of the context and wait for its end. */
typedef void ExportFixtureFn(ExportFixture *fixture, gpointer opaque);
void export_fixture_run(ExportFixture *fixture, ExportFixtureFn *fn, gpointer opaque);

/* Hold up all requests to the node, and let them go on. */
void export_fixture_drain(ExportFixture *fixture);
void export_fixture_undrain(ExportFixture *fixture);

/* Serve a request that a ring queue has delivered, the same way. */
int export_fixture_serve_entry(ExportFixture *fixture, FuseCall *call, const UringHeaders *headers,
                               void *data);

/* Serve one request message as a transport does; its answer is left in @call. 0 or -errno. */
int export_fixture_serve(ExportFixture *fixture, FuseCall *call, const void *message, size_t bytes,
                         void *payload);

#endif
