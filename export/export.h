/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/export.h - block nodes made available to others.
 *
 * What users of the room need: a registry that adds, removes and lists exports of every type.
 * export/driver.h is for authors of an export type.
 *
 * Threads   Main thread; co_fn in coroutines of the main context, any number of them at once.
 * Lifetime  The registry owns its exports. An export goes when it is deleted, when the daemon ends,
 *           or when its clients' side is gone for good (a mount that somebody else unmounts); each
 *           time BLOCK_EXPORT_DELETED tells so, once the last of it is gone.
 * Errors    WHARF_ERROR. A failed add leaves nothing.
 */
#ifndef WHARF_EXPORT_EXPORT_H
#define WHARF_EXPORT_EXPORT_H

#include <glib.h>
#include <stdbool.h>

#include "aio/coroutine.h"
#include "block/block.h"
#include "object/object.h"
#include "qapi/qapi.h"
#include "qapi/types-block-export.h"

typedef struct ExportRegistry ExportRegistry;

/*
 * A registry of exports of nodes in @graph, running in the calling thread's AioContext or in
 * iothreads of @objects. @events (may be NULL) and the others are borrowed and must outlive it.
 */
ExportRegistry *export_registry_new(BlockGraph *graph, ObjectRegistry *objects,
                                    const QapiEventSink *events);

/* Frees a registry after export_registry_co_shutdown_all(). Accepts NULL. */
void export_registry_free(ExportRegistry *registry);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ExportRegistry, export_registry_free)

/*
 * Export a node. Checks in this order: type known to this build, id well-formed, id free, node
 * exists, node writable if asked, iothreads exist, permissions, then what the type needs.
 */
bool co_fn export_registry_co_add(ExportRegistry *registry, const BlockExportOptions *options,
                                  GError **error);

/*
 * Remove an export. Safe: refused while a request that reads or changes data is in flight, while
 * clients use the image without requests (passthrough) and do not end soon, or where the kernel
 * cannot write back what it keeps of them. Hard: what is in flight is cut off from its client, and
 * the call does not wait for it; the export stays listed as shutting down until the requests below
 * it, and the last flush, have ended. Otherwise the export is gone when this returns true, and its
 * event has been sent.
 */
bool co_fn export_registry_co_del(ExportRegistry *registry, const char *id,
                                  BlockExportRemoveMode mode, GError **error);

/*
 * Remove all exports of @type, side by side, the newest first, waiting for what is in flight; after
 * a while, one for all, it is cut off from its clients. What then still hangs below goes on
 * shutting down. Those that are just being added do not come into service; one whose start hangs is
 * waited for no longer than for requests.
 */
void co_fn export_registry_co_del_type(ExportRegistry *registry, BlockExportType type);

/* Whether there is an export @id of @type. */
bool export_registry_has(ExportRegistry *registry, const char *id, BlockExportType type);

/* The objects that exports use (borrowed). */
ObjectRegistry *export_registry_objects(ExportRegistry *registry);

/* The node @name (borrowed) of the graph that exports are made of. */
BlockNode *export_registry_find_node(ExportRegistry *registry, const char *name, GError **error);

/* All exports, newest first (BlockExportInfo). */
GPtrArray *export_registry_query(ExportRegistry *registry);

/* How many exports there are, those that are just being added or shut down included. */
unsigned export_registry_count(ExportRegistry *registry);

/*
 * Shut down all exports, newest first, waiting for what is in flight, but not for ever: after a
 * while requests are cut off from their clients, and what then still hangs below is given up. An
 * older one may serve the image of a newer one, and waits for it; but one that hangs costs the
 * others a little time and nothing else. One that is just being added has @start_wait_ns for that.
 * Nothing can be added any more. Returns whether all are gone; if not, each that is left is logged,
 * no longer reachable for clients, and still uses its node.
 */
bool co_fn export_registry_co_shutdown_all(ExportRegistry *registry, int64_t start_wait_ns);

/*
 * For an end that cannot wait: make all exports impossible to find for clients. What takes longer
 * than a second is done by a child after the end of this process, which must be near: nothing is
 * served any more.
 */
void export_registry_abandon(ExportRegistry *registry);

/*
 * Call @cb in the main thread each time an export has gone (NULL: no more); for a daemon that ends
 * with its last export.
 */
void export_registry_set_gone_notify(ExportRegistry *registry, void (*cb)(gpointer opaque),
                                     gpointer opaque);

/* Register the commands of modules block-export and nbd, with @registry as their service. */
void export_register_commands(ExportRegistry *registry, QapiCommandTable *table);

#endif
