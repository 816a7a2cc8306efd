/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * monitor/client-internal.h - one client of a monitor, and the envelopes that its messages travel
 * in.
 *
 * Bytes become values by the JSON parser, values wait in a queue that is bounded by reading no
 * further, and one coroutine takes them out and runs them, in order. Output waits in a buffer;
 * while that is long, no message of this client is begun and no event is added. So a client that
 * does not read costs a bounded amount of memory, and time of nobody but itself.
 *
 * Threads   The main thread only.
 * Lifetime  Reference counted. The monitor holds one reference until the connection has ended, the
 *           coroutine another while it runs.
 */
#ifndef WHARF_MONITOR_CLIENT_INTERNAL_H
#define WHARF_MONITOR_CLIENT_INTERNAL_H

#include "monitor/event-log.h"
#include "monitor/stream.h"
#include "qapi/qapi.h"

typedef struct MonitorClient MonitorClient;

/* What a client needs of the monitor it belongs to. */
typedef struct MonitorHost MonitorHost;
struct MonitorHost {
    AioContext *ctx;
    const EventLog *events;
    bool pretty;

    /* Run a command; false with @error set, or true with *@ret set (at least to an empty object).
     */
    bool co_fn (*co_run)(MonitorHost *host, MonitorClient *client, const char *command,
                         const QValue *arguments, QValue **ret, GError **error);
    /* Whether @command exists. */
    bool (*has_command)(MonitorHost *host, const char *command);
    /* Whether messages may be begun; false once the daemon is ending. */
    bool (*may_run)(MonitorHost *host);
    /* rpc.discover's answer. */
    QValue *(*discover)(MonitorHost *host);
    /* The connection has ended; gives the monitor's reference back. */
    void (*ended)(MonitorHost *host, MonitorClient *client);
    /* The client has been freed: the host need not stay any longer on its account. */
    void (*freed)(MonitorHost *host);
};

/* How messages look. One a protocol, in qmp.c and jsonrpc.c. */
typedef struct MonitorEnvelope {
    bool strict; /* plain JSON, without QMP's extensions */

    /* What a new client is told, or NULL. */
    QValue *(*greeting)(MonitorClient *client);

    /*
     * Act on one message: @value, or where the bytes were no JSON, @error. Both are lent.
     */
    void co_fn (*co_handle)(MonitorClient *client, const QValue *value, const GError *error);

    /* How an event is told; @subscribed: with its number. */
    QValue *(*event)(const EventRecord *record, bool subscribed);
} MonitorEnvelope;

extern const MonitorEnvelope monitor_envelope_qmp;
extern const MonitorEnvelope monitor_envelope_jsonrpc;

/* The client of a new connection; greets it at once. Takes @stream. */
MonitorClient *monitor_client_new(MonitorHost *host, const MonitorEnvelope *envelope,
                                  Stream *stream);
MonitorClient *monitor_client_ref(MonitorClient *client);
void monitor_client_unref(MonitorClient *client);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(MonitorClient, monitor_client_unref)

MonitorHost *monitor_client_host(MonitorClient *client);
const MonitorEnvelope *monitor_client_envelope(const MonitorClient *client);

/* Queue @value for output. After a failed connection it is dropped. */
void monitor_client_send(MonitorClient *client, const QValue *value);

/*
 * Send an array whose elements are not all there yet, so that however long it becomes, memory is
 * not filled with it. Between the first element and the end nothing else goes out, events neither.
 * monitor_client_co_send_element() first waits until the client has read most of what went before;
 * an array that got no element is not sent at all.
 */
void co_fn monitor_client_co_send_element(MonitorClient *client, const QValue *value);
void monitor_client_end_array(MonitorClient *client);

/* To be called for each piece of work: lets others have their turn now and then. */
void co_fn monitor_client_co_breathe(MonitorClient *client);

/* New events may be there: send what this client wants and can take. */
void monitor_client_pump_events(MonitorClient *client);

/* The same without regard to how much waits: events come before the reply that follows them. */
void monitor_client_flush_events(MonitorClient *client);

/* Take no more input, and end once the output is out, or at once with @force. */
void monitor_client_finish(MonitorClient *client, bool force);

/* ---- state of the QMP envelope ---- */

typedef struct QmpSession {
    bool negotiated;
    bool oob; /* exec-oob is allowed */
} QmpSession;

QmpSession *monitor_client_qmp(MonitorClient *client);

/* ---- events ---- */

/* Begin to send all events from now on, without numbers: QMP's way. */
void monitor_client_enable_events(MonitorClient *client);

/*
 * Send events with their numbers, from *@since on (NULL: from now on), those in @names only (NULL:
 * all). Takes @names, a set of strings. Returns how many of those asked for are gone. They are sent
 * after the reply that is due.
 */
uint64_t monitor_client_subscribe(MonitorClient *client, GHashTable *names, const uint64_t *since,
                                  uint64_t *ret_next);
void monitor_client_unsubscribe(MonitorClient *client);

#endif
