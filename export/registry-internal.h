/* SPDX-License-Identifier: GPL-2.0-or-later */
/* export/registry-internal.h - what registry.c and lifecycle.c share. Main thread only. */
#ifndef WHARF_EXPORT_REGISTRY_INTERNAL_H
#define WHARF_EXPORT_REGISTRY_INTERNAL_H

#include "export/driver.h"
#include "export/export.h"

struct ExportRegistry {
    AioContext *main;
    BlockGraph *graph;
    ObjectRegistry *objects;
    const QapiEventSink *events;
    GHashTable *by_id;   /* Export.id -> Export, a reference */
    GQueue exports;      /* Export, borrowed from by_id, newest first */
    GHashTable *shared;  /* ExportDriver -> what its exports share */
    bool closing;        /* nothing can be added any more */
    int64_t del_wait_ns; /* how long a deletion waits for requests that came at the last moment */
    int64_t quit_patience_ns; /* at the end of the daemon, before the next export is shut down */
    void (*gone_cb)(gpointer opaque);
    gpointer gone_opaque;
};

/* export_registry_co_add() with the driver @driver; for tests with one of their own. */
bool co_fn export_registry_co_add_as(ExportRegistry *registry, const ExportDriver *driver,
                                     const BlockExportOptions *options, GError **error);

/*
 * Bring a new export into service: permissions, what the driver needs, queues. On failure all is
 * undone, but for the entry in the registry.
 */
bool co_fn export_co_start(Export *exp, BlockNode *node, const BlockExportOptions *options,
                           GError **error);

/*
 * Begin to shut down a running export; @wait_ns: how long to wait for requests in flight before
 * they are cut off. Returns at once.
 */
void export_shut_down(Export *exp, BlockExportEndReason reason, int64_t wait_ns);

/*
 * Wait until @exp is gone, or cut off with requests still inside, or until @deadline_ns. Returns
 * its state then.
 */
ExportState co_fn export_co_wait_end(Export *exp, int64_t deadline_ns);

/* Wait for the next change of its state, or until @deadline_ns (false). */
bool co_fn export_co_wait_change(Export *exp, int64_t deadline_ns);

/* Wait until @exp is no longer starting, or until @deadline_ns (false). */
bool co_fn export_co_wait_started(Export *exp, int64_t deadline_ns);

/* Tell those who wait that the state has changed. */
void export_set_state(Export *exp, ExportState state);

/* What a shutdown waits for, in words: "node 'n0' is being flushed". A new string. */
char *export_describe_ending(const Export *exp);

/* Requests in flight, over all queues: all, or those that read or change data. */
unsigned export_requests(const Export *exp);
unsigned export_data_requests(const Export *exp);

/* The export is gone: take it out, free its iothreads, send its event. Drops the reference. */
void export_registry_forget(ExportRegistry *registry, Export *exp);

#endif
