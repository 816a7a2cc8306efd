/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tests/unit/nbd-fixture.h - an NBD export over a node, without registry and server: clients are
 * socket pairs, past the handshake.
 *
 * One thread: the test polls the context whenever it waits.
 */
#ifndef WHARF_TESTS_NBD_FIXTURE_H
#define WHARF_TESTS_NBD_FIXTURE_H

#include "export/nbd/nbd-internal.h"

typedef struct NbdFixture {
    AioContext *ctx;
    BlockGraph *graph;
    BlockNode *node; /* borrowed */
    NbdExport *ne;   /* one queue, which runs */
} NbdFixture;

/* Make one over the node that @node_json (BlockdevOptions with node-name "n0") describes. */
NbdFixture *nbd_fixture_new(const char *node_json, bool writable);

/* All clients are cut off. */
void nbd_fixture_free(NbdFixture *fixture);

NbdQueue *nbd_fixture_queue(NbdFixture *fixture);

/*
 * A client that has agreed on @structured or @extended, and selected both metadata contexts if
 * either. Returns its end of the connection, which does not block; *@terms is what was agreed on.
 */
int nbd_fixture_connect(NbdFixture *fixture, bool structured, bool extended, NbdTerms *terms);

/*
 * Serve whoever is at the other end of @fd, through @tls (NULL: in clear text); both become the
 * connection's.
 */
void nbd_fixture_serve(NbdFixture *fixture, int fd, TlsSession *tls, const NbdTerms *terms);

/* Let the context do what there is to do. */
void nbd_fixture_poll(NbdFixture *fixture);

/* Stop the queue, see ExportDriver. */
void nbd_fixture_stop(NbdFixture *fixture, bool cut);

/* Hold up all requests to the node, and let them go on. */
void nbd_fixture_drain(NbdFixture *fixture);
void nbd_fixture_undrain(NbdFixture *fixture);

#endif
