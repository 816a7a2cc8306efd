/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * monitor/monitor.h - where clients talk to the daemon: chardevs, monitors on them, any number of
 * clients on each, and the events that go to them.
 *
 * Clients speak QMP or JSON-RPC 2.0 (docs/rpc.md has the commands, monitor/qmp.c and
 * monitor/jsonrpc.c the envelopes). Commands run as coroutines on the main context: those of one
 * client in order, different clients independently of each other.
 *
 * A client costs a bounded amount of memory and of the main thread's time: a message may have
 * 16 MiB and 1024 levels, one that does not read its replies is not read from, and between messages
 * others have their turn. At most 256 clients are served on a monitor at a time.
 *
 * Life of a set: new, add chardevs and monitors, start, ..., co_quiesce, (the owner takes exports
 * and nodes down), co_close, free. Nothing is accepted before the start, so that the first client
 * finds everything that the command line asked for.
 *
 * Threads   The main thread only.
 * Errors    As in util/error.h.
 */
#ifndef WHARF_MONITOR_MONITOR_H
#define WHARF_MONITOR_MONITOR_H

#include "aio/aio.h"
#include "monitor/chardev.h"
#include "object/object.h"
#include "qapi/qapi.h"
#include "qapi/types-control.h"

typedef struct MonitorSet MonitorSet;

/*
 * A set without monitors, which runs commands of @commands (borrowed; may be filled until the
 * start) and adds its own to it. @quit is called when a client asks the daemon to end; the command
 * is answered by co_close.
 */
MonitorSet *monitor_set_new(AioContext *ctx, QapiCommandTable *commands, void (*quit)(void *opaque),
                            void *opaque);
void monitor_set_free(MonitorSet *set); /* NULL is fine; closed, if anything was ever added */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(MonitorSet, monitor_set_free)

/* Where all rooms send their events. Lives as long as the set. */
const QapiEventSink *monitor_set_event_sink(MonitorSet *set);

/*
 * Make a chardev. One that listens does so when this returns; with 'wait' it returns when a client
 * has connected.
 */
bool co_fn monitor_set_co_add_chardev(MonitorSet *set, const ChardevConfig *config, GError **error);

/* Put a monitor on a chardev, or on a socket of its own. Returns its id, lent, or NULL. */
const char *co_fn monitor_set_co_add(MonitorSet *set, const MonitorOptions *options,
                                     GError **error);

/*
 * The same as an object of the type monitor-qmp in @registry, under the monitor's id, so that it
 * can be listed and removed there.
 */
bool co_fn monitor_set_co_add_object(MonitorSet *set, ObjectRegistry *registry,
                                     const MonitorOptions *options, GError **error);

/* Let object-add make monitors of this set. The set must outlive the registry. */
void monitor_set_register_objects(MonitorSet *set, ObjectRegistry *registry);

/* Take the monitor @id away; clients that are connected stay until they leave. */
bool monitor_set_remove(MonitorSet *set, const char *id, GError **error);

/* Whether a chardev uses stdin and stdout. */
bool monitor_set_uses_stdio(const MonitorSet *set);

/* Begin to serve clients. */
void monitor_set_start(MonitorSet *set);

/* Let chardevs that wait for a client or a connection fail now, because the daemon is ending. */
void monitor_set_cancel_starts(MonitorSet *set);

/*
 * Begin no more commands, and wait for those that run, 'quit' excepted, for @wait_ns at most: one
 * may hang below, in a file system that does not answer. Returns whether all have ended; may be
 * called again. Events still go out.
 */
bool co_fn monitor_set_co_quiesce(MonitorSet *set, int64_t wait_ns);

/*
 * Answer 'quit', give clients a bounded time to read what is on its way, end all connections and
 * remove the sockets. Begins no more commands, and waits for those that run however long it takes.
 */
void co_fn monitor_set_co_close(MonitorSet *set);

/* Remove the sockets and do no more: for an end that cannot wait. */
void monitor_set_abandon(MonitorSet *set);

#endif
