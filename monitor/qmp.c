/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QMP, the protocol of qemu-storage-daemon: a greeting, a negotiation, then one reply a command.
 */
#include "monitor/client-internal.h"
#include "monitor/errors-internal.h"
#include "monitor/wire-internal.h"
#include "util/error.h"

/* What a message asks for; all borrowed from it. */
typedef struct {
    const char *command;
    const QValue *arguments; /* NULL if absent */
    bool oob;
} QmpRequest;

static QValue *qmp_greeting(MonitorClient *client)
{
    QValue *greeting = qvalue_object();
    QValue *body = qvalue_object();
    QValue *capabilities = qvalue_array();

    qvalue_array_append(capabilities, qvalue_string("oob"));
    qvalue_object_set(body, "version", monitor_version());
    qvalue_object_set(body, "capabilities", capabilities);
    qvalue_object_set(greeting, "QMP", body);
    return greeting;
}

static void qmp_set_invalid(GError **error, const char *message)
{
    g_set_error_literal(error, WHARF_ERROR, WHARF_ERROR_INVALID_REQUEST, message);
}

/* Take one member of a message's envelope. */
static bool qmp_read_member(const QmpSession *session, const char *key, const QValue *value,
                            QmpRequest *req, GError **error)
{
    bool oob = g_str_equal(key, "exec-oob");

    if (g_str_equal(key, "id")) {
        return true;
    }
    if (g_str_equal(key, "arguments")) {
        if (qvalue_type(value) != QVALUE_OBJECT) {
            qmp_set_invalid(error, "QMP message: member 'arguments' must be an object");
            return false;
        }
        req->arguments = value;
        return true;
    }
    if (!g_str_equal(key, "execute") && !(oob && session->oob)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_REQUEST,
                    "QMP message: member '%s' is unexpected%s", key,
                    oob ? ": the capability 'oob' has not been negotiated" : "");
        return false;
    }
    if (req->command) {
        qmp_set_invalid(error, "QMP message: 'execute' and 'exec-oob' exclude each other");
        return false;
    }
    req->command = monitor_plain_string(value);
    if (!req->command) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_REQUEST,
                    "QMP message: member '%s' must be a string", key);
        return false;
    }
    req->oob = oob;
    return true;
}

static bool qmp_read_request(const QmpSession *session, const QValue *message, QmpRequest *req,
                             GError **error)
{
    for (gsize i = 0; i < qvalue_object_size(message); i++) {
        if (!qmp_read_member(session, qvalue_object_key(message, i),
                             qvalue_object_value(message, i), req, error)) {
            return false;
        }
    }
    if (!req->command) {
        qmp_set_invalid(error, "QMP message: it lacks the member 'execute'");
        return false;
    }
    return true;
}

/* Whether the negotiation, or the lack of it, lets the command run. */
static bool qmp_may_run(MonitorClient *client, const QmpRequest *req, GError **error)
{
    const QmpSession *session = monitor_client_qmp(client);
    MonitorHost *host = monitor_client_host(client);
    bool negotiation = g_str_equal(req->command, "qmp_capabilities");

    if (!session->negotiated && !negotiation) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_COMMAND_NOT_FOUND,
                    "cannot run '%s' yet: end the negotiation first, with 'qmp_capabilities'",
                    req->command);
        return false;
    }
    if (session->negotiated && negotiation) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_COMMAND_NOT_FOUND,
                    "the negotiation is already complete; 'qmp_capabilities' works once only");
        return false;
    }
    if (req->oob && host->has_command(host, req->command)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "command '%s' does not support out-of-band execution; use 'execute'",
                    req->command);
        return false;
    }
    return true;
}

static bool co_fn qmp_co_run(MonitorClient *client, const QValue *message, QValue **ret,
                             GError **error)
{
    MonitorHost *host = monitor_client_host(client);
    QmpRequest req = {0};

    if (qvalue_type(message) != QVALUE_OBJECT) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_REQUEST,
                    "QMP message: it must be an object, not %s", qvalue_type_name(message));
        return false;
    }
    return qmp_read_request(monitor_client_qmp(client), message, &req, error) &&
           qmp_may_run(client, &req, error) &&
           host->co_run(host, client, req.command, req.arguments, ret, error);
}

static QValue *qmp_error_reply(const GError *error)
{
    QValue *reply = qvalue_object();
    QValue *body = qvalue_object();

    qvalue_object_set(body, "class", qvalue_string(monitor_error_class(error)));
    qvalue_object_set(body, "desc", qvalue_string(error->message));
    qvalue_object_set(reply, "error", body);
    return reply;
}

static void co_fn qmp_co_handle(MonitorClient *client, const QValue *message,
                                const GError *parse_error)
{
    g_autoptr(QValue) reply = NULL;
    g_autoptr(GError) error = NULL;
    const QValue *id = NULL;
    QValue *ret = NULL;

    if (parse_error) {
        reply = qmp_error_reply(parse_error);
    } else if (qmp_co_run(client, message, &ret, &error)) {
        reply = qvalue_object();
        qvalue_object_set(reply, "return", ret);
    } else {
        reply = qmp_error_reply(error);
    }
    if (message && qvalue_type(message) == QVALUE_OBJECT) {
        id = qvalue_object_get(message, "id");
    }
    if (id) {
        qvalue_object_set(reply, "id", qvalue_ref(id));
    }
    monitor_client_flush_events(client);
    monitor_client_send(client, reply);
}

static QValue *qmp_event(const EventRecord *record, bool subscribed)
{
    QValue *event = qvalue_object();

    qvalue_object_set(event, "timestamp", monitor_timestamp(record->time_us));
    qvalue_object_set(event, "event", qvalue_string(record->name));
    if (record->data && qvalue_object_size(record->data) > 0) {
        qvalue_object_set(event, "data", qvalue_ref(record->data));
    }
    if (subscribed) {
        qvalue_object_set(event, "seq", qvalue_uint(record->seq));
    }
    return event;
}

const MonitorEnvelope monitor_envelope_qmp = {
    .strict = false,
    .greeting = qmp_greeting,
    .co_handle = qmp_co_handle,
    .event = qmp_event,
};
