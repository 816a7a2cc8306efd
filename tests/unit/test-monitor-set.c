/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Clients of monitors: order, independence, events that are lost and found, the end. */
#include "monitor/monitor.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "aio/coroutine.h"
#include "qapi/json-parser.h"

#define TIMEOUT_US (60 * G_TIME_SPAN_SECOND)

/* A set with a QMP and a JSON-RPC monitor, run by hand. */
typedef struct {
    char *dir, *qmp_path, *rpc_path;
    AioContext *ctx;
    QapiCommandTable *commands;
    MonitorSet *set;
    GString *trace;     /* what ran, a letter each */
    Coroutine *sleeper; /* a 'test-sleep' that waits to be woken */
    bool quit;
} Rig;

/* ---- running the loop ---- */

static void rig_turn(Rig *rig, gint64 deadline)
{
    if (!aio_context_poll(rig->ctx, false)) {
        g_usleep(1000);
    }
    g_assert_cmpint(g_get_monotonic_time(), <, deadline);
}

#define RIG_WAIT(rig, condition)                                                                   \
    do {                                                                                           \
        gint64 deadline_ = g_get_monotonic_time() + TIMEOUT_US;                                    \
        while (!(condition)) {                                                                     \
            rig_turn((rig), deadline_);                                                            \
        }                                                                                          \
    } while (0)

typedef struct {
    Rig *rig;
    void (*fn)(Rig *rig, gconstpointer data);
    gconstpointer data;
    bool done;
} Run;

static void run_entry(void *opaque)
{
    Run *run = opaque;

    run->fn(run->rig, run->data);
    run->done = true;
}

/* Run a function in a coroutine, to its end. */
static void rig_run(Rig *rig, void (*fn)(Rig *rig, gconstpointer data), gconstpointer data)
{
    Run run = {rig, fn, data, false};

    aio_co_enter(rig->ctx, run_entry, &run);
    RIG_WAIT(rig, run.done);
}

/* ---- commands for the tests ---- */

/* Leaves the letter 'text' in the trace. */
static void co_fn marshal_trace(QapiCall *call, const QValue *args, QValue **ret, GError **error)
{
    Rig *rig = call->self;

    g_string_append(rig->trace, qvalue_get_string(qvalue_object_get(args, "text"), NULL));
    *ret = qvalue_object();
}

/* Sleeps until the test wakes it. */
static void co_fn marshal_sleep(QapiCall *call, const QValue *args, QValue **ret, GError **error)
{
    Rig *rig = call->self;

    g_assert_null(rig->sleeper);
    rig->sleeper = coroutine_self();
    coroutine_yield();
    *ret = qvalue_object();
}

/* Emits 'count' events TEST with a number. */
static void co_fn marshal_emit(QapiCall *call, const QValue *args, QValue **ret, GError **error)
{
    Rig *rig = call->self;
    int64_t count = qvalue_get_int(qvalue_object_get(args, "count"));

    for (int64_t i = 0; i < count; i++) {
        g_autoptr(QValue) data = qvalue_object();

        qvalue_object_set(data, "n", qvalue_int(i));
        qapi_event_emit(monitor_set_event_sink(rig->set), "TEST", data);
    }
    *ret = qvalue_object();
}

/* Answers with a string of 'bytes' bytes. */
static void co_fn marshal_large(QapiCall *call, const QValue *args, QValue **ret, GError **error)
{
    int64_t bytes = qvalue_get_int(qvalue_object_get(args, "bytes"));
    g_autofree char *text = g_strnfill(bytes, 'x');

    *ret = qvalue_string(text);
}

static const QapiCommand test_commands[] = {
    {"test-trace", marshal_trace, 0},
    {"test-sleep", marshal_sleep, 0},
    {"test-emit", marshal_emit, 0},
    {"test-large", marshal_large, 0},
    {NULL, NULL, 0},
};

/* ---- set-up ---- */

static void on_quit(void *opaque)
{
    ((Rig *)opaque)->quit = true;
}

static void add_monitor(Rig *rig, gconstpointer data)
{
    const MonitorOptions *options = data;
    GError *error = NULL;

    monitor_set_co_add(rig->set, options, &error);
    g_assert_no_error(error);
}

static void set_up(Rig *rig, gconstpointer data)
{
    MonitorOptions qmp = {.mode = MONITOR_MODE_CONTROL}, rpc = {.mode = MONITOR_MODE_JSONRPC};

    rig->dir = g_dir_make_tmp("wharf-monitor-XXXXXX", NULL);
    rig->qmp_path = g_build_filename(rig->dir, "qmp", NULL);
    rig->rpc_path = g_build_filename(rig->dir, "rpc", NULL);
    rig->ctx = aio_context_new(NULL, NULL);
    rig->commands = qapi_command_table_new();
    rig->set = monitor_set_new(rig->ctx, rig->commands, on_quit, rig);
    rig->trace = g_string_new(NULL);
    qapi_command_table_add(rig->commands, test_commands, rig);
    qmp.path = rig->qmp_path;
    rpc.path = rig->rpc_path;
    rig_run(rig, add_monitor, &qmp);
    rig_run(rig, add_monitor, &rpc);
    monitor_set_start(rig->set);
}

static void close_set(Rig *rig, gconstpointer data)
{
    monitor_set_co_close(rig->set);
}

static void tear_down(Rig *rig, gconstpointer data)
{
    rig_run(rig, close_set, NULL);
    g_assert_false(g_file_test(rig->qmp_path, G_FILE_TEST_EXISTS));
    monitor_set_free(rig->set);
    qapi_command_table_free(rig->commands);
    aio_context_unref(rig->ctx);
    g_string_free(rig->trace, TRUE);
    g_assert_cmpint(g_rmdir(rig->dir), ==, 0);
    g_free(rig->qmp_path);
    g_free(rig->rpc_path);
    g_free(rig->dir);
}

/* ---- a client ---- */

typedef struct {
    Rig *rig;
    int fd;
    GString *input;
} Client;

static Client *client_new(Rig *rig, const char *path)
{
    SocketPlace place = {.kind = SOCKET_UNIX, .path = (char *)path};
    Client *client = g_new0(Client, 1);

    client->rig = rig;
    client->fd = socket_connect(&place, 60000, NULL, NULL);
    g_assert_cmpint(client->fd, >=, 0);
    client->input = g_string_new(NULL);
    return client;
}

static void client_free(Client *client)
{
    close(client->fd);
    g_string_free(client->input, TRUE);
    g_free(client);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Client, client_free)

static void client_write(Client *client, const char *text)
{
    size_t len = strlen(text);
    gint64 deadline = g_get_monotonic_time() + TIMEOUT_US;

    while (len > 0) {
        ssize_t n = send(client->fd, text, len, MSG_NOSIGNAL);

        if (n < 0) {
            g_assert_cmpint(errno, ==, EAGAIN);
            rig_turn(client->rig, deadline);
            continue;
        }
        text += n;
        len -= n;
    }
}

/* The next line, or NULL at the end of the connection. */
static char *client_read_line(Client *client)
{
    gint64 deadline = g_get_monotonic_time() + TIMEOUT_US;
    char buffer[65536];
    char *end, *line;

    while (!(end = strchr(client->input->str, '\n'))) {
        ssize_t n = recv(client->fd, buffer, sizeof(buffer), 0);

        if (n == 0) {
            return NULL;
        }
        if (n < 0) {
            g_assert_cmpint(errno, ==, EAGAIN);
            rig_turn(client->rig, deadline);
            continue;
        }
        g_string_append_len(client->input, buffer, n);
    }
    line = g_strndup(client->input->str, end - client->input->str);
    g_string_erase(client->input, 0, end + 1 - client->input->str);
    return line;
}

static QValue *client_read(Client *client)
{
    g_autofree char *line = client_read_line(client);
    GError *error = NULL;
    QValue *value;

    g_assert_nonnull(line);
    value = qvalue_from_json(line, -1, &error);
    g_assert_no_error(error);
    return value;
}

/* The next value must hold @text. */
static void client_expect(Client *client, const char *text)
{
    g_autofree char *line = client_read_line(client);

    g_assert_nonnull(line);
    if (!strstr(line, text)) {
        g_test_message("wanted %s, got %s", text, line);
        g_test_fail();
    }
}

static Client *qmp_client(Rig *rig)
{
    Client *client = client_new(rig, rig->qmp_path);

    client_expect(client, "QMP");
    client_write(client, "{'execute':'qmp_capabilities'}");
    client_expect(client, "return");
    return client;
}

/* ---- tests ---- */

/* Commands of one client run in order, also past one that sleeps; other clients do not wait. */
static void test_order_and_independence(Rig *rig, gconstpointer data)
{
    g_autoptr(Client) slow = qmp_client(rig);
    g_autoptr(Client) quick = qmp_client(rig);

    client_write(slow, "{'execute':'test-trace','arguments':{'text':'a'}}"
                       "{'execute':'test-sleep','id':'slept'}"
                       "{'execute':'test-trace','arguments':{'text':'c'},'id':'last'}");
    RIG_WAIT(rig, rig->sleeper);
    client_write(quick, "{'execute':'test-trace','arguments':{'text':'b'},'id':'quick'}");
    client_expect(quick, "quick");
    g_assert_cmpstr(rig->trace->str, ==, "ab");
    aio_co_wake(g_steal_pointer(&rig->sleeper));
    client_expect(slow, "return");
    client_expect(slow, "slept");
    client_expect(slow, "last");
    g_assert_cmpstr(rig->trace->str, ==, "abc");
}

/* A client that has gone while its command runs does not matter to the command. */
static void test_client_goes_during_a_command(Rig *rig, gconstpointer data)
{
    Client *client = qmp_client(rig);

    client_write(client, "{'execute':'test-sleep'}"
                         "{'execute':'test-trace','arguments':{'text':'x'}}");
    RIG_WAIT(rig, rig->sleeper);
    client_free(client);
    for (int i = 0; i < 10; i++) {
        aio_context_poll(rig->ctx, false);
    }
    aio_co_wake(g_steal_pointer(&rig->sleeper));
    /* What had arrived whole is still carried out. */
    RIG_WAIT(rig, rig->trace->len == 1);
}

/* Events come before the reply to the command that caused them. */
static void test_events_before_the_reply(Rig *rig, gconstpointer data)
{
    g_autoptr(Client) client = qmp_client(rig);
    g_autoptr(Client) other = qmp_client(rig);

    client_write(client, "{'execute':'test-emit','arguments':{'count':2},'id':'emit'}");
    client_expect(client, "\"n\": 0");
    client_expect(client, "\"n\": 1");
    client_expect(client, "emit");
    client_expect(other, "\"n\": 0");
    client_expect(other, "\"n\": 1");
}

/* Too many events for the memory of them: the subscriber is told how many it will never see. */
static void test_events_lost(Rig *rig, gconstpointer data)
{
    g_autoptr(Client) reader = client_new(rig, rig->rpc_path);
    g_autoptr(Client) emitter = qmp_client(rig);
    g_autoptr(QValue) lost = NULL;
    const QValue *params, *count;
    int64_t missing, first;

    client_write(reader, "{\"jsonrpc\":\"2.0\",\"method\":\"subscribe\",\"id\":1}");
    client_expect(reader, "instance");
    /* Fill its output, so that events have to wait for it. */
    client_write(reader, "{\"jsonrpc\":\"2.0\",\"method\":\"test-large\","
                         "\"params\":{\"bytes\":8000000},\"id\":2}"
                         "{\"jsonrpc\":\"2.0\",\"method\":\"test-trace\","
                         "\"params\":{\"text\":\"x\"},\"id\":3}");
    client_write(emitter, "{'execute':'test-trace','arguments':{'text':'.'},'id':0}");
    client_expect(emitter, "return");
    for (int i = 0; i < 10; i++) {
        aio_context_poll(rig->ctx, false);
    }
    g_assert_cmpstr(rig->trace->str, ==, ".");

    client_write(emitter, "{'execute':'test-emit','arguments':{'count':3000},'id':'done'}");
    for (int i = 0; i < 3000; i++) {
        client_expect(emitter, "TEST");
    }
    client_expect(emitter, "done");

    client_expect(reader, "xxxx");
    lost = client_read(reader);
    params = qvalue_object_get(lost, "params");
    g_assert_cmpstr(qvalue_get_string(qvalue_object_get(params, "event"), NULL), ==, "EVENTS_LOST");
    count = qvalue_object_get(params, "data");
    missing = qvalue_get_int(qvalue_object_get(count, "count"));
    first = qvalue_get_int(qvalue_object_get(count, "first"));
    g_assert_cmpint(first, ==, 1);
    g_assert_cmpint(missing, >, 0);
    /* All others follow, in order. */
    for (int64_t seq = first + missing; seq <= 3000; seq++) {
        g_autofree char *wanted = g_strdup_printf("\"seq\": %" G_GINT64_FORMAT ",", seq);

        client_expect(reader, wanted);
    }
    client_expect(reader, "\"id\": 3");
}

/* A client that does not read has nothing more run for it, and loses no reply. */
static void test_backpressure(Rig *rig, gconstpointer data)
{
    g_autoptr(Client) client = qmp_client(rig);
    g_autoptr(Client) other = qmp_client(rig);

    for (int i = 0; i < 8; i++) {
        client_write(client, "{'execute':'test-large','arguments':{'bytes':2000000}}"
                             "{'execute':'test-trace','arguments':{'text':'x'}}");
    }
    for (int i = 0; i < 200; i++) {
        client_write(other, "{'execute':'test-trace','arguments':{'text':''}}");
        client_expect(other, "return");
    }
    g_assert_cmpuint(rig->trace->len, <, 2);
    for (int i = 0; i < 8; i++) {
        client_expect(client, "xxxx");
        client_expect(client, "return");
    }
    g_assert_cmpstr(rig->trace->str, ==, "xxxxxxxx");
}

/* The replay follows the answer to 'subscribe', and live events follow the replay. */
static void test_replay(Rig *rig, gconstpointer data)
{
    g_autoptr(Client) client = qmp_client(rig);
    g_autoptr(Client) late = client_new(rig, rig->rpc_path);

    client_write(client, "{'execute':'test-emit','arguments':{'count':3},'id':'emit'}");
    for (int i = 0; i < 3; i++) {
        client_expect(client, "TEST");
    }
    client_expect(client, "emit");
    client_write(late, "{\"jsonrpc\":\"2.0\",\"method\":\"subscribe\",\"id\":1,"
                       "\"params\":{\"since\":2}}");
    client_expect(late, "\"next\": 2");
    client_expect(late, "\"seq\": 2");
    client_expect(late, "\"seq\": 3");
    client_write(client, "{'execute':'test-emit','arguments':{'count':1}}");
    client_expect(late, "\"seq\": 4");
}

/* What is gone from the memory of events is told at once. */
static void test_replay_of_what_is_gone(Rig *rig, gconstpointer data)
{
    g_autoptr(Client) emitter = qmp_client(rig);
    g_autoptr(Client) late = client_new(rig, rig->rpc_path);
    g_autoptr(QValue) reply = NULL;
    const QValue *result;

    client_write(emitter, "{'execute':'test-emit','arguments':{'count':5000},'id':'done'}");
    for (int i = 0; i < 5000; i++) {
        client_expect(emitter, "TEST");
    }
    client_expect(emitter, "done");
    client_write(late, "{\"jsonrpc\":\"2.0\",\"method\":\"subscribe\",\"id\":1,"
                       "\"params\":{\"since\":1}}");
    reply = client_read(late);
    result = qvalue_object_get(reply, "result");
    g_assert_cmpint(qvalue_get_int(qvalue_object_get(result, "lost")) + 1, ==,
                    qvalue_get_int(qvalue_object_get(result, "next")));
    g_assert_cmpint(qvalue_get_int(qvalue_object_get(result, "lost")), >, 0);
}

/* 'quit' is answered at the very end; other commands that run are waited for, none begins. */
static void test_quit(Rig *rig, gconstpointer data)
{
    g_autoptr(Client) client = qmp_client(rig);
    g_autoptr(Client) busy = qmp_client(rig);
    Run run = {rig, close_set, NULL, false};

    client_write(busy, "{'execute':'test-sleep','id':'slept'}"
                       "{'execute':'test-trace','arguments':{'text':'never'}}");
    RIG_WAIT(rig, rig->sleeper);
    client_write(client, "{'execute':'quit','id':'quit'}"
                         "{'execute':'test-trace','arguments':{'text':'never'}}\n");
    RIG_WAIT(rig, rig->quit);
    aio_co_enter(rig->ctx, run_entry, &run);
    for (int i = 0; i < 10; i++) {
        aio_context_poll(rig->ctx, false);
    }
    g_assert_false(run.done);
    aio_co_wake(g_steal_pointer(&rig->sleeper));
    client_expect(busy, "slept");
    client_expect(client, "quit");
    g_assert_null(client_read_line(client));
    g_assert_null(client_read_line(busy));
    RIG_WAIT(rig, run.done);
    g_assert_cmpstr(rig->trace->str, ==, "");
}

/* A monitor can be taken away; its client stays, its socket goes. */
static void test_remove(Rig *rig, gconstpointer data)
{
    g_autoptr(Client) client = qmp_client(rig);
    GError *error = NULL;

    g_assert_true(monitor_set_remove(rig->set, "compat_monitor0", &error));
    g_assert_no_error(error);
    g_assert_false(g_file_test(rig->qmp_path, G_FILE_TEST_EXISTS));
    client_write(client, "{'execute':'test-emit','arguments':{'count':1},'id':'emit'}");
    client_expect(client, "TEST");
    client_expect(client, "emit");
    g_assert_false(monitor_set_remove(rig->set, "compat_monitor0", &error));
    g_assert_nonnull(error);
    g_clear_error(&error);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, fn) g_test_add("/monitor/set/" name, Rig, NULL, set_up, fn, tear_down)
    ADD("order-and-independence", test_order_and_independence);
    ADD("client-goes-during-a-command", test_client_goes_during_a_command);
    ADD("events-before-the-reply", test_events_before_the_reply);
    ADD("events-lost", test_events_lost);
    ADD("backpressure", test_backpressure);
    ADD("replay", test_replay);
    ADD("replay-of-what-is-gone", test_replay_of_what_is_gone);
    ADD("quit", test_quit);
    ADD("remove", test_remove);
    return g_test_run();
}
