/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "monitor/client-internal.h"

#include <errno.h>

#include "aio/coroutine.h"
#include "qapi/json-parser.h"

/*
 * What one message may be. Less than qemu-storage-daemon takes in bytes and tokens, since a value
 * that large would keep the main thread from its other work; as deep.
 */
static const JsonLimits message_limits = {
    .max_bytes = 16 * 1024 * 1024,
    .max_tokens = 1024 * 1024,
    .max_depth = 1024,
};

/* Bytes read in one turn of the loop: large enough to be quick, small enough to be fair. */
#define READ_CHUNK (64 * 1024)

/* Messages that may wait before reading stops; one chunk may bring more, and that is fine. */
#define PENDING_MAX 64

/* Output that may wait before this client's next message or event has to. */
#define OUTPUT_MAX (1024 * 1024)

/* Messages run in one go before others get their turn. */
#define BURST 32

#define PRETTY_INDENT 4

/* How long the end of a TCP connection waits for the client's own end. */
#define LINGER_NS (G_GINT64_CONSTANT(1000) * 1000 * 1000)

typedef struct {
    QValue *value;
    GError *error;
} Message;

struct MonitorClient {
    unsigned refs;
    MonitorHost *host;
    const MonitorEnvelope *envelope;
    Stream *stream; /* NULL once it has ended */

    /* input */
    JsonParser *parser;
    GQueue pending; /* Message */
    bool no_more_input;
    bool running;      /* the coroutine is under way */
    unsigned burst;    /* what it has done since others had their turn */
    Coroutine *waiter; /* the coroutine, where it waits for room in the output */

    /* output */
    GByteArray *output;
    size_t written; /* of @output */
    bool in_array;  /* an array has begun and not ended */
    bool output_dead;
    bool finishing; /* end when the output is out */
    AioBh *end_bh;
    AioTimer *linger; /* the output is shut, and the client's own end is awaited */

    /* events */
    bool wants_events;
    bool subscribed;
    bool replay_due;         /* from the next reply on */
    GHashTable *event_names; /* NULL: all */
    uint64_t next_event;

    QmpSession qmp;
};

static void client_update(MonitorClient *c);

static void message_free(Message *message)
{
    g_clear_pointer(&message->value, qvalue_unref);
    g_clear_error(&message->error);
    g_free(message);
}

/* ---- life ---- */

static void on_value(void *opaque, QValue *value, GError *error)
{
    MonitorClient *c = opaque;
    Message *message = g_new0(Message, 1);

    message->value = value ? qvalue_ref(value) : NULL;
    message->error = error ? g_error_copy(error) : NULL;
    g_queue_push_tail(&c->pending, message);
}

static void on_ready(void *opaque, unsigned ready);
static void on_end(void *opaque);

MonitorClient *monitor_client_new(MonitorHost *host, const MonitorEnvelope *envelope,
                                  Stream *stream)
{
    MonitorClient *c = g_new0(MonitorClient, 1);
    g_autoptr(QValue) greeting = NULL;

    c->refs = 1;
    c->host = host;
    c->envelope = envelope;
    c->stream = stream;
    c->output = g_byte_array_new();
    c->end_bh = aio_bh_new(host->ctx, on_end, c);
    c->parser = json_parser_new(&message_limits, envelope->strict, on_value, c);
    stream_set_handler(stream, on_ready, c);
    greeting = envelope->greeting ? envelope->greeting(c) : NULL;
    if (greeting) {
        monitor_client_send(c, greeting);
    }
    client_update(c);
    return c;
}

MonitorClient *monitor_client_ref(MonitorClient *c)
{
    c->refs++;
    return c;
}

void monitor_client_unref(MonitorClient *c)
{
    MonitorHost *host;

    if (!c || --c->refs > 0) {
        return;
    }
    host = c->host;
    g_assert(!c->stream);
    json_parser_free(c->parser);
    g_queue_clear_full(&c->pending, (GDestroyNotify)message_free);
    g_byte_array_unref(c->output);
    g_clear_pointer(&c->event_names, g_hash_table_unref);
    g_free(c);
    host->freed(host);
}

MonitorHost *monitor_client_host(MonitorClient *c)
{
    return c->host;
}

const MonitorEnvelope *monitor_client_envelope(const MonitorClient *c)
{
    return c->envelope;
}

QmpSession *monitor_client_qmp(MonitorClient *c)
{
    return &c->qmp;
}

/* ---- output ---- */

static size_t output_waiting(const MonitorClient *c)
{
    return c->output->len - c->written;
}

/* Empty the buffer, and do not keep one that a large reply has blown up. */
static void output_discard(MonitorClient *c)
{
    if (c->output->len > OUTPUT_MAX) {
        g_byte_array_unref(c->output);
        c->output = g_byte_array_new();
    }
    g_byte_array_set_size(c->output, 0);
    c->written = 0;
}

/* Nobody will read any more of it. */
static void output_die(MonitorClient *c)
{
    c->output_dead = true;
    output_discard(c);
}

static void output_flush(MonitorClient *c)
{
    while (output_waiting(c) > 0) {
        ssize_t n = stream_write(c->stream, c->output->data + c->written, output_waiting(c));

        if (n == -EAGAIN) {
            break;
        }
        if (n < 0) {
            output_die(c);
            return;
        }
        c->written += n;
    }
    if (output_waiting(c) == 0) {
        output_discard(c);
    } else if (c->written > OUTPUT_MAX) {
        g_byte_array_remove_range(c->output, 0, c->written);
        c->written = 0;
    }
}

/* Output @before, then @value unless it is NULL, then @after. */
static void output_append(MonitorClient *c, const char *before, const QValue *value,
                          const char *after)
{
    g_autoptr(GString) text = NULL;

    if (!c->stream || c->output_dead) {
        return;
    }
    text = g_string_new(before);
    if (value) {
        qvalue_to_json(value, text, c->host->pretty ? PRETTY_INDENT : 0);
    }
    g_string_append(text, after);
    g_byte_array_append(c->output, (const guint8 *)text->str, text->len);
    output_flush(c);
    client_update(c);
}

void monitor_client_send(MonitorClient *c, const QValue *value)
{
    output_append(c, "", value, "\r\n");
}

/* Wait until the client has read most of what it was sent. */
static void co_fn client_co_wait_for_room(MonitorClient *c)
{
    while (c->stream && output_waiting(c) > OUTPUT_MAX) {
        c->waiter = coroutine_self();
        coroutine_yield();
    }
}

void co_fn monitor_client_co_send_element(MonitorClient *c, const QValue *value)
{
    if (!c->in_array) {
        monitor_client_flush_events(c);
    }
    client_co_wait_for_room(c);
    output_append(c, c->in_array ? ", " : "[", value, "");
    c->in_array = true;
}

void monitor_client_end_array(MonitorClient *c)
{
    if (c->in_array) {
        c->in_array = false;
        output_append(c, "]", NULL, "\r\n");
    }
}

/* ---- the coroutine that runs messages ---- */

void co_fn monitor_client_co_breathe(MonitorClient *c)
{
    if (++c->burst < BURST) {
        return;
    }
    c->burst = 0;
    aio_co_schedule(c->host->ctx, coroutine_self());
    coroutine_yield();
}

static void co_fn client_run(void *opaque)
{
    g_autoptr(MonitorClient) c = opaque;
    Message *message;

    while (true) {
        client_co_wait_for_room(c);
        if (!c->host->may_run(c->host)) {
            break;
        }
        message = g_queue_pop_head(&c->pending);
        if (!message) {
            break;
        }
        c->envelope->co_handle(c, message->value, message->error);
        message_free(message);
        c->replay_due = false;
        monitor_client_pump_events(c);
        monitor_client_co_breathe(c);
        client_update(c);
    }
    c->running = false;
    client_update(c);
}

/* ---- the end of the connection ---- */

/* Whether nothing is left to be done for this client. */
static bool client_is_done(MonitorClient *c)
{
    if (c->running || output_waiting(c) > 0) {
        return false;
    }
    return c->finishing || (c->no_more_input && g_queue_is_empty(&c->pending));
}

static void client_end(MonitorClient *c)
{
    g_clear_pointer(&c->linger, aio_timer_free);
    g_clear_pointer(&c->end_bh, aio_bh_free);
    g_clear_pointer(&c->stream, stream_close);
    output_die(c);
    if (c->waiter) {
        aio_co_wake(g_steal_pointer(&c->waiter));
    }
    c->host->ended(c->host, c);
}

static void on_linger_over(void *opaque)
{
    client_end(opaque);
}

/* Runs from the loop, so that whoever noticed the end need not expect the client to vanish. */
static void on_end(void *opaque)
{
    MonitorClient *c = opaque;

    if (c->linger || !client_is_done(c)) {
        return;
    }
    if (c->no_more_input || c->output_dead || !stream_wants_linger(c->stream)) {
        client_end(c);
        return;
    }
    stream_shutdown_output(c->stream);
    c->linger = aio_timer_new(c->host->ctx, on_linger_over, c);
    aio_timer_arm(c->linger, aio_now_ns() + LINGER_NS);
    stream_set_interest(c->stream, STREAM_READ);
}

void monitor_client_finish(MonitorClient *c, bool force)
{
    if (!c->stream) {
        return;
    }
    c->finishing = true;
    if (force) {
        client_end(c);
        return;
    }
    client_update(c);
}

/* ---- input ---- */

static void client_read(MonitorClient *c)
{
    g_autofree char *buffer = g_malloc(READ_CHUNK);
    ssize_t n = stream_read(c->stream, buffer, READ_CHUNK);

    if (n == -EAGAIN) {
        return;
    }
    if (n > 0 && !c->linger) {
        json_parser_feed(c->parser, buffer, n);
    }
    if (n > 0) {
        return;
    }
    c->no_more_input = true;
    if (n < 0) {
        output_die(c);
    }
    if (c->linger) {
        client_end(c);
        return;
    }
    json_parser_end(c->parser);
}

static void on_ready(void *opaque, unsigned ready)
{
    g_autoptr(MonitorClient) c = monitor_client_ref(opaque);

    if ((ready & STREAM_WRITE) && !c->output_dead) {
        output_flush(c);
        monitor_client_pump_events(c);
    }
    if (ready & STREAM_READ) {
        client_read(c);
    }
    client_update(c);
}

/*
 * Set what the stream waits for, and begin what can begin. Never ends the client by itself, so any
 * code may call it.
 */
static void client_update(MonitorClient *c)
{
    bool read;

    if (!c->stream || c->linger) {
        return;
    }
    if (c->waiter && output_waiting(c) <= OUTPUT_MAX) {
        aio_co_wake(g_steal_pointer(&c->waiter));
    }
    if (!c->running && !g_queue_is_empty(&c->pending) && c->host->may_run(c->host)) {
        c->running = true;
        aio_co_enter(c->host->ctx, client_run, monitor_client_ref(c));
        return; /* it came by here itself */
    }
    if (client_is_done(c)) {
        aio_bh_schedule(c->end_bh);
    }
    read = !c->no_more_input && !c->finishing && g_queue_get_length(&c->pending) < PENDING_MAX;
    stream_set_interest(c->stream,
                        (read ? STREAM_READ : 0) | (output_waiting(c) ? STREAM_WRITE : 0));
}

/* ---- events ---- */

static void send_events_lost(MonitorClient *c, uint64_t first, uint64_t count)
{
    g_autoptr(QValue) data = qvalue_object();
    g_autoptr(QValue) value = NULL;
    EventRecord record = {
        .seq = first,
        .time_us = g_get_real_time(),
        .name = (char *)"EVENTS_LOST",
        .data = data,
    };

    qvalue_object_set(data, "first", qvalue_uint(first));
    qvalue_object_set(data, "count", qvalue_uint(count));
    value = c->envelope->event(&record, true);
    monitor_client_send(c, value);
}

/* Go past events that the log has forgotten. */
static void skip_lost_events(MonitorClient *c)
{
    uint64_t first = event_log_first(c->host->events);
    uint64_t lost;

    if (c->next_event >= first) {
        return;
    }
    lost = first - c->next_event;
    c->next_event = first;
    if (c->subscribed) {
        send_events_lost(c, first - lost, lost);
    } else {
        g_warning("a monitor's client does not read: %" G_GUINT64_FORMAT " events are lost to it",
                  lost);
    }
}

static void send_events(MonitorClient *c, bool force)
{
    const EventLog *log = c->host->events;

    if (!c->wants_events || c->replay_due || c->in_array || !c->stream) {
        return;
    }
    while (c->next_event < event_log_next(log) && (force || output_waiting(c) <= OUTPUT_MAX)) {
        const EventRecord *record;

        skip_lost_events(c);
        record = event_log_get(log, c->next_event++);
        if (!c->event_names || g_hash_table_contains(c->event_names, record->name)) {
            g_autoptr(QValue) value = c->envelope->event(record, c->subscribed);

            monitor_client_send(c, value);
        }
    }
}

void monitor_client_pump_events(MonitorClient *c)
{
    send_events(c, false);
}

void monitor_client_flush_events(MonitorClient *c)
{
    send_events(c, true);
}

void monitor_client_enable_events(MonitorClient *c)
{
    c->wants_events = true;
    c->next_event = event_log_next(c->host->events);
}

uint64_t monitor_client_subscribe(MonitorClient *c, GHashTable *names, const uint64_t *since,
                                  uint64_t *ret_next)
{
    const EventLog *log = c->host->events;
    uint64_t first = event_log_first(log), next = event_log_next(log);
    uint64_t from = since ? CLAMP(*since, 1, next) : next;

    monitor_client_flush_events(c);
    g_clear_pointer(&c->event_names, g_hash_table_unref);
    c->event_names = names;
    c->wants_events = true;
    c->subscribed = true;
    c->replay_due = true;
    c->next_event = MAX(from, first);
    *ret_next = c->next_event;
    return c->next_event - from;
}

void monitor_client_unsubscribe(MonitorClient *c)
{
    g_clear_pointer(&c->event_names, g_hash_table_unref);
    c->subscribed = false;
    c->wants_events = c->qmp.negotiated;
}
