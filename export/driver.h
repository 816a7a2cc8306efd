/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/driver.h - how to write an export type.
 *
 * A type is one const table, `export_driver_NAME`, in a file or folder of its own, listed in
 * export/meson.build, with its options in qapi/schema/block-export.json and nothing else.
 *
 * Queues    An export takes requests in one or several queues. Each belongs to one AioContext: the
 *           main one, or that of an iothread. begin() and stop() are the only pair of calls that
 *           start and end the taking of requests in a queue; adding an export, moving a queue to
 *           another context and shutting down all use them.
 *
 * Requests  Who owns one: from export_request_begin() to export_request_end() the driver, in a
 *           coroutine of the queue's context. It may suspend, and then anything may happen to the
 *           export but this: Export, ExportQueue, backend and whatever the driver keeps in them
 *           stay until the request has ended. The call of export_request_end() is the last that a
 *           request does. Requests that have begun when a queue is stopped still finish and are
 *           answered, unless they are cut off: then the client has got an error, the answer is
 *           dropped, and the request merely runs to its end.
 *
 * Start     In this order: co_start, begin for each queue, co_publish (clients find the export).
 *
 * Shutdown  In this order: co_withdraw (nobody new finds the export), stop for each queue, the core
 *           waits until no request is left, flushes the node, co_end (everything given back). The
 *           wait is bounded or cut short by stop once more, with @cut. A driver whose clients' side
 *           has gone by itself calls export_lost(), and the same follows.
 *
 * Threads   co_start, co_publish, co_withdraw, co_end, query: main thread. begin, stop: the queue's
 *           context.
 */
#ifndef WHARF_EXPORT_DRIVER_H
#define WHARF_EXPORT_DRIVER_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "aio/aio.h"
#include "aio/coroutine.h"
#include "aio/iothread.h"
#include "block/backend.h"
#include "qapi/types-block-export.h"

typedef struct Export Export;
typedef struct ExportQueue ExportQueue;
typedef struct ExportRegistry ExportRegistry;

typedef struct ExportDriver {
    BlockExportType type;
    size_t state_size;  /* of what begins with an Export; zeroed before co_start */
    size_t queue_size;  /* of what begins with an ExportQueue; the same */
    size_t shared_size; /* of what all exports of this type in one registry share; zeroed */

    /*
     * Set up and tear down the shared part, once no export is left. NULL: it needs nothing.
     * Commands that are still at work on it are waited for; false: not by @deadline_ns, and nothing
     * has been torn down. Main thread.
     */
    void (*shared_init)(gpointer shared);
    bool co_fn (*co_shared_clear)(gpointer shared, int64_t deadline_ns);

    /* May be NULL: for an end that cannot wait, remove what of the shared part others would see. */
    void (*shared_abandon)(gpointer shared);

    /* What an export with these options needs on its node, and what it lets others do. */
    void (*permissions)(const BlockExportOptions *options, BlockPerm *perm, BlockPerm *shared);

    /*
     * May be NULL: clear away what an earlier daemon may have left and this export would run into.
     * Before exp->blk is there.
     */
    void co_fn (*co_prepare)(Export *exp);

    /*
     * Acquire everything, serve nothing yet. exp->blk and the queues are there. On failure give
     * everything back, fill @error and return false; no other callback is called then.
     */
    bool co_fn (*co_start)(Export *exp, const BlockExportOptions *options, GError **error);

    /* Begin to take requests in @queue. */
    void (*begin)(ExportQueue *queue);

    /*
     * May be NULL, where co_start has done it: make it possible to find the export, which may need
     * that queues run. On failure fill @error and return false: the queues are stopped with @cut,
     * and co_end is called.
     */
    bool co_fn (*co_publish)(Export *exp, const BlockExportOptions *options, GError **error);

    /*
     * Take no more requests in @queue. With @cut, also fail what has begun towards its client, and
     * let go of what requests come and go through. May be called again, then with @cut.
     */
    void (*stop)(ExportQueue *queue, bool cut);

    /*
     * May be NULL: before a safe deletion of a running export. False with @error where clients use
     * what it stands for without any request that one could see. May wait for them to end, in
     * bounded time; the export may be shut down meanwhile, which is no failure.
     */
    bool co_fn (*co_may_end)(Export *exp, GError **error);

    /*
     * Make the export impossible to find for new clients (unmount, unlink). Queues still run, for
     * this may need them. Must return in bounded time, whatever the outside does.
     */
    void co_fn (*co_withdraw)(Export *exp);

    /* Give everything back. All queues are stopped and idle; exp->blk is still there. */
    void co_fn (*co_end)(Export *exp);

    /*
     * May be NULL: make the export impossible to find, in a forked child that has none of its
     * descriptors and may make system calls only.
     */
    void (*abandon)(Export *exp);

    /* Add what only the driver knows to @info, whose common members are filled in. */
    void (*query)(Export *exp, BlockExportInfo *info);
} ExportDriver;

/* One place where requests are taken. The driver's own state follows in memory. */
struct ExportQueue {
    /* fixed */
    Export *exp;
    unsigned index;
    AioContext *ctx;

    /* changed by the context alone; any thread may look at the counts */
    unsigned requests;      /* begun and not ended */
    unsigned data_requests; /* those of them that read or change data */
    struct ExportWaiter *idle_waiter;
};

typedef enum {
    EXPORT_STARTING,
    EXPORT_RUNNING,
    EXPORT_SHUTTING_DOWN,
    EXPORT_GONE,
} ExportState;

/* What all exports have. The driver's own state follows in memory. */
struct Export {
    /* fixed once added */
    const ExportDriver *driver;
    ExportRegistry *registry;
    gpointer shared; /* the driver's shared_size bytes */
    char *id;
    char *user; /* "export 'ID'": how messages call it */
    char *node_name;
    AioContext *main; /* borrowed */
    bool writable;
    bool writethrough;
    bool fixed_iothread;
    BlockBackend *blk;
    GPtrArray *iothreads; /* Iothread *, one for each queue; empty: all in the main context */
    ExportQueue **queues;
    unsigned n_queues;

    int refs; /* atomic */

    /* main thread */
    ExportState state;
    bool cut;                    /* what was in flight has been cut off */
    bool unwanted;               /* it is not to come into service; set while it starts */
    BlockExportEndReason reason; /* why it is shutting down */
    BlockExportEndStep ending;   /* how far that has come */
    int64_t deadline_ns;         /* when a shutdown stops waiting and cuts off; 0: at once */
    GSList *waiters;             /* ExportWaiter *, told of every change of state */
};

/* References keep the memory, nothing else. Any thread. */
Export *export_ref(Export *exp);
void export_unref(Export *exp);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Export, export_unref)

/*
 * The clients' side of a running export has gone by itself: shut it down, for @reason. Any thread,
 * while the export has not ended; further calls do nothing.
 */
void export_lost(Export *exp, BlockExportEndReason reason);

/* A request begins in @queue. In the queue's context, and so are the others. */
static inline void export_request_begin(ExportQueue *queue)
{
    __atomic_store_n(&queue->requests, queue->requests + 1, __ATOMIC_RELAXED);
}

/*
 * The part of a request that reads or changes data, which is what keeps a safe deletion away. Ends
 * before the client learns of the result: whoever deletes after that must not find it in flight.
 */
static inline void export_request_data_begin(ExportQueue *queue)
{
    __atomic_store_n(&queue->data_requests, queue->data_requests + 1, __ATOMIC_RELAXED);
}

static inline void export_request_data_end(ExportQueue *queue)
{
    __atomic_store_n(&queue->data_requests, queue->data_requests - 1, __ATOMIC_RELEASE);
}

/* Wakes whoever waits for @queue to be idle. */
void export_queue_idle(ExportQueue *queue);

/* The request has ended; the caller does not touch the export any more. */
static inline void export_request_end(ExportQueue *queue)
{
    __atomic_store_n(&queue->requests, queue->requests - 1, __ATOMIC_RELAXED);
    if (queue->requests == 0 && queue->idle_waiter) {
        export_queue_idle(queue);
    }
}

/*
 * What all exports of the type of @driver in @registry share; made when it is first asked for. Main
 * thread.
 */
gpointer export_registry_shared(ExportRegistry *registry, const ExportDriver *driver);

/* The driver of @type, or NULL if this build has none. */
const ExportDriver *export_driver_find(BlockExportType type);

#endif
