/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON-RPC 2.0 over a stream: requests, notifications and batches in, one value a line out.
 *
 * Parameters go by name only, as those of a QMP command do. Events are notifications of the method
 * "event", sent once the client has asked for them with "subscribe".
 */
#include "monitor/client-internal.h"
#include "monitor/errors-internal.h"
#include "monitor/wire-internal.h"
#include "util/error.h"

#define VERSION_MEMBER "jsonrpc"

/* What a request asks for; all borrowed from it. */
typedef struct {
    const QValue *id; /* NULL: a notification, which is not answered */
    const char *method;
    const QValue *params; /* NULL if absent */
} RpcRequest;

static QValue *rpc_new(void)
{
    QValue *value = qvalue_object();

    qvalue_object_set(value, VERSION_MEMBER, qvalue_string("2.0"));
    return value;
}

static QValue *rpc_reply(const QValue *id, const char *key, QValue *take)
{
    QValue *reply = rpc_new();

    qvalue_object_set(reply, "id", id ? qvalue_ref(id) : qvalue_null());
    qvalue_object_set(reply, key, take);
    return reply;
}

static QValue *rpc_error_reply(const QValue *id, const GError *error)
{
    QValue *body = qvalue_object();
    QValue *data = qvalue_object();

    qvalue_object_set(data, "class", qvalue_string(monitor_error_class(error)));
    qvalue_object_set(body, "code", qvalue_int(monitor_error_code(error)));
    qvalue_object_set(body, "message", qvalue_string(error->message));
    qvalue_object_set(body, "data", data);
    return rpc_reply(id, "error", body);
}

/* ---- reading a request ---- */

static bool rpc_is_string(const QValue *value, const char *text)
{
    return value && g_strcmp0(monitor_plain_string(value), text) == 0;
}

static bool rpc_read_id(const QValue *value, RpcRequest *req, GError **error)
{
    const QValue *id = qvalue_object_get(value, "id");

    if (!id) {
        return true;
    }
    switch (qvalue_type(id)) {
    case QVALUE_NULL:
    case QVALUE_INT:
    case QVALUE_UINT:
    case QVALUE_DOUBLE:
    case QVALUE_STRING:
        req->id = id;
        return true;
    default:
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_REQUEST,
                    "request: member 'id' must be a string, a number or null, not %s",
                    qvalue_type_name(id));
        return false;
    }
}

static bool rpc_read_members(const QValue *value, RpcRequest *req, GError **error)
{
    const QValue *method = qvalue_object_get(value, "method");

    req->method = method ? monitor_plain_string(method) : NULL;
    req->params = qvalue_object_get(value, "params");
    if (!rpc_is_string(qvalue_object_get(value, VERSION_MEMBER), "2.0")) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_REQUEST,
                    "request: member 'jsonrpc' must be there and be \"2.0\"");
        return false;
    }
    if (!req->method) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_REQUEST,
                    "request: member 'method' must be there and be a string");
        return false;
    }
    if (req->params && qvalue_type(req->params) != QVALUE_OBJECT &&
        qvalue_type(req->params) != QVALUE_ARRAY) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_REQUEST,
                    "request: member 'params' must be an object, not %s",
                    qvalue_type_name(req->params));
        return false;
    }
    return true;
}

static bool rpc_read_request(const QValue *value, RpcRequest *req, GError **error)
{
    if (qvalue_type(value) != QVALUE_OBJECT) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_REQUEST,
                    "request: it must be an object, not %s", qvalue_type_name(value));
        return false;
    }
    return rpc_read_id(value, req, error) && rpc_read_members(value, req, error);
}

/* ---- running it ---- */

static bool co_fn rpc_co_run(MonitorClient *client, const RpcRequest *req, QValue **ret,
                             GError **error)
{
    MonitorHost *host = monitor_client_host(client);
    const QValue *params = req->params;

    if (params && qvalue_type(params) == QVALUE_ARRAY) {
        if (qvalue_array_length(params) > 0) {
            g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                        "%s: parameters go by name: 'params' must be an object", req->method);
            return false;
        }
        params = NULL;
    }
    if (g_str_equal(req->method, "rpc.discover")) {
        *ret = host->discover(host);
        return true;
    }
    return host->co_run(host, client, req->method, params, ret, error);
}

/* Returns the reply, or NULL where none is due. */
static QValue *co_fn rpc_co_request(MonitorClient *client, const QValue *value)
{
    g_autoptr(GError) error = NULL;
    RpcRequest req = {0};
    QValue *ret = NULL;

    if (!rpc_read_request(value, &req, &error)) {
        return rpc_error_reply(req.id, error);
    }
    if (!rpc_co_run(client, &req, &ret, &error)) {
        return req.id ? rpc_error_reply(req.id, error) : NULL;
    }
    if (!req.id) {
        qvalue_unref(ret);
        return NULL;
    }
    return rpc_reply(req.id, "result", ret);
}

/* Run a batch, one after the other. The reply goes out as it comes about. */
static void co_fn rpc_co_batch(MonitorClient *client, const QValue *batch)
{
    MonitorHost *host = monitor_client_host(client);

    for (gsize i = 0; i < qvalue_array_length(batch) && host->may_run(host); i++) {
        g_autoptr(QValue) reply = rpc_co_request(client, qvalue_array_get(batch, i));

        if (reply) {
            monitor_client_co_send_element(client, reply);
        }
        monitor_client_co_breathe(client);
    }
    monitor_client_end_array(client);
}

/* Returns the reply to what is no batch, or NULL where none is due. */
static QValue *co_fn rpc_co_single(MonitorClient *client, const QValue *value,
                                   const GError *parse_error)
{
    g_autoptr(GError) error = NULL;

    if (parse_error) {
        return rpc_error_reply(NULL, parse_error);
    }
    if (qvalue_type(value) != QVALUE_ARRAY) {
        return rpc_co_request(client, value);
    }
    g_set_error(&error, WHARF_ERROR, WHARF_ERROR_INVALID_REQUEST,
                "batch: it must hold at least one request");
    return rpc_error_reply(NULL, error);
}

static void co_fn rpc_co_handle(MonitorClient *client, const QValue *value,
                                const GError *parse_error)
{
    g_autoptr(QValue) reply = NULL;

    if (value && qvalue_type(value) == QVALUE_ARRAY && qvalue_array_length(value) > 0) {
        rpc_co_batch(client, value);
        return;
    }
    reply = rpc_co_single(client, value, parse_error);
    monitor_client_flush_events(client);
    if (reply) {
        monitor_client_send(client, reply);
    }
}

static QValue *rpc_event(const EventRecord *record, bool subscribed)
{
    QValue *event = rpc_new();
    QValue *params = qvalue_object();

    qvalue_object_set(params, "seq", qvalue_uint(record->seq));
    qvalue_object_set(params, "event", qvalue_string(record->name));
    qvalue_object_set(params, "timestamp", monitor_timestamp(record->time_us));
    if (record->data) {
        qvalue_object_set(params, "data", qvalue_ref(record->data));
    }
    qvalue_object_set(event, "method", qvalue_string("event"));
    qvalue_object_set(event, "params", params);
    return event;
}

const MonitorEnvelope monitor_envelope_jsonrpc = {
    .strict = true,
    .co_handle = rpc_co_handle,
    .event = rpc_event,
};
