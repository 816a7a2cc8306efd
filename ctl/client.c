/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/client.h"

#include <errno.h>
#include <poll.h>
#include <pwd.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/json.h"
#include "qapi/json-parser.h"

/* How long a daemon may take to accept a connection and to say what it is, in seconds. */
#define HANDSHAKE_TIMEOUT     20
#define HANDSHAKE_TIMEOUT_ANY 5

#define READ_SIZE (64 * 1024)

/* The daemon's JSON-RPC error code for a name that is taken. */
#define CODE_EXISTS (-32003)

struct CtlClient {
    char *path;
    int fd;
    bool qmp;
    gint64 last_id;
    JsonParser *parser;
    GQueue values;  /* of QValue: read, not yet looked at */
    GQueue events;  /* of QValue: put aside while waiting for an answer */
    GError *broken; /* what the parser could not read */
    QValue *version;
    QValue *last_error; /* the error object of the last call, or NULL */
};

static void client_take_value(void *opaque, QValue *value, GError *error)
{
    CtlClient *client = opaque;

    if (value) {
        g_queue_push_tail(&client->values, qvalue_ref(value));
    } else if (!client->broken) {
        client->broken = g_error_copy(error);
    }
}

void ctl_client_free(CtlClient *client)
{
    if (!client) {
        return;
    }
    if (client->fd >= 0) {
        close(client->fd);
    }
    g_clear_pointer(&client->parser, json_parser_free);
    g_queue_clear_full(&client->values, (GDestroyNotify)qvalue_unref);
    g_queue_clear_full(&client->events, (GDestroyNotify)qvalue_unref);
    g_clear_error(&client->broken);
    qvalue_unref(client->version);
    qvalue_unref(client->last_error);
    g_free(client->path);
    g_free(client);
}

const char *ctl_client_path(const CtlClient *client)
{
    return client->path;
}

const QValue *ctl_client_version(const CtlClient *client)
{
    return client->version;
}

static void set_lost(const CtlClient *client, const char *how, GError **error)
{
    g_set_error(error, CTL_ERROR, CTL_ERROR_UNREACHABLE,
                "connection to the daemon at '%s' lost: %s", client->path, how);
}

/* Who owns @path, for messages. */
static char *owner_of(const char *path)
{
    struct stat st;
    struct passwd *pw;

    if (stat(path, &st) < 0) {
        return g_strdup("its owner");
    }
    pw = getpwuid(st.st_uid);
    return pw ? g_strdup_printf("user '%s'", pw->pw_name) : g_strdup_printf("uid %u", st.st_uid);
}

/* How to start a daemon that listens at @path. */
static char *start_hint(const char *path)
{
    g_autofree char *directory = g_path_get_dirname(path);
    g_autofree char *make = NULL;

    if (!g_file_test(directory, G_FILE_TEST_EXISTS)) {
        make = g_strdup_printf("mkdir -p %s && ", directory);
    }
    return g_strdup_printf("%swharfd --monitor path=%s,mode=jsonrpc", make ? make : "", path);
}

static void explain_connect(const char *path, int err, GError **error)
{
    g_autofree char *start = start_hint(path);
    g_autofree char *owner = NULL;
    struct stat st;

    switch (err) {
    case ENOENT:
        g_set_error(error, CTL_ERROR, CTL_ERROR_UNREACHABLE,
                    "no daemon listens at '%s': there is no such socket\n"
                    "Start one with:  %s\n"
                    "or name another with --socket=PATH or WHARF_SOCKET.",
                    path, start);
        return;
    case ECONNREFUSED:
        if (stat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
            g_set_error(error, CTL_ERROR, CTL_ERROR_UNREACHABLE, "'%s' is not a socket", path);
            return;
        }
        g_set_error(error, CTL_ERROR, CTL_ERROR_UNREACHABLE,
                    "nobody listens at '%s' any longer: its daemon has died\n"
                    "Start it again with:  %s",
                    path, start);
        return;
    case EACCES:
    case EPERM:
        owner = owner_of(path);
        g_set_error(error, CTL_ERROR, CTL_ERROR_UNREACHABLE,
                    "no permission to talk to the daemon at '%s'\n"
                    "Only %s may; try it as that user, or start the daemon with\n"
                    "--monitor path=...,socket-mode=0660 and share a group with it.",
                    path, owner);
        return;
    case EAGAIN:
        g_set_error(
            error, CTL_ERROR, CTL_ERROR_UNREACHABLE,
            "the daemon at '%s' accepts no connection; it hangs, or is busy with another client",
            path);
        return;
    default:
        g_set_error(error, CTL_ERROR, CTL_ERROR_UNREACHABLE, "cannot connect to '%s': %s", path,
                    g_strerror(err));
    }
}

/* The address of @path; it must fit. */
static bool set_address(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address->sun_path)) {
        return false;
    }
    strcpy(address->sun_path, path);
    return true;
}

bool ctl_client_is_dead(const char *path)
{
    struct sockaddr_un address;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool dead = fd >= 0 && set_address(&address, path) &&
                connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 &&
                errno == ECONNREFUSED;

    if (fd >= 0) {
        close(fd);
    }
    return dead;
}

static bool client_open(CtlClient *client, unsigned seconds, GError **error)
{
    const struct timeval limit = {.tv_sec = seconds};
    const struct timeval unlimited = {0};
    struct sockaddr_un address;

    if (!set_address(&address, client->path)) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE,
                    "the socket path '%s' is too long: a socket's may have %zu bytes", client->path,
                    sizeof(address.sun_path) - 1);
        return false;
    }
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->fd < 0) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot make a socket: %s",
                    g_strerror(errno));
        return false;
    }
    /* The limit on sending holds for connect(), too. */
    setsockopt(client->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (connect(client->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        explain_connect(client->path, errno, error);
        return false;
    }
    setsockopt(client->fd, SOL_SOCKET, SO_SNDTIMEO, &unlimited, sizeof(unlimited));
    return true;
}

static bool client_send(CtlClient *client, const QValue *message, GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    gsize sent = 0;

    qvalue_to_json(message, text, 0);
    g_string_append_c(text, '\n');
    while (sent < text->len) {
        ssize_t n = send(client->fd, text->str + sent, text->len - sent, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            set_lost(client, g_strerror(errno), error);
            return false;
        }
        sent += n;
    }
    return true;
}

typedef enum {
    WAIT_FAILED, /* error is set */
    WAIT_READABLE,
    WAIT_OVER, /* the deadline has passed, or nobody reads watch_fd any longer */
} WaitResult;

/* How long poll() may sleep until @deadline, in milliseconds; -1 for ever. */
static int poll_timeout(gint64 deadline)
{
    gint64 now = g_get_monotonic_time();

    if (deadline < 0) {
        return -1;
    }
    return deadline <= now ? 0 : (int)MIN((deadline - now) / 1000 + 1, G_MAXINT);
}

static WaitResult client_wait(CtlClient *client, gint64 deadline, int watch_fd, GError **error)
{
    struct pollfd fds[] = {{.fd = client->fd, .events = POLLIN}, {.fd = watch_fd}};

    for (;;) {
        int timeout = poll_timeout(deadline);
        int n = poll(fds, 2, timeout);

        if (n < 0 && errno != EINTR) {
            set_lost(client, g_strerror(errno), error);
            return WAIT_FAILED;
        }
        if (n > 0) {
            return fds[0].revents ? WAIT_READABLE : WAIT_OVER;
        }
        if (timeout == 0) {
            return WAIT_OVER;
        }
    }
}

/* Read what has come and parse it. */
static bool client_read(CtlClient *client, GError **error)
{
    char buffer[READ_SIZE];
    ssize_t n = recv(client->fd, buffer, sizeof(buffer), 0);

    if (n < 0 && errno == EINTR) {
        return true;
    }
    if (n <= 0) {
        set_lost(client, n < 0 ? g_strerror(errno) : "the daemon closed it", error);
        return false;
    }
    json_parser_feed(client->parser, buffer, n);
    if (client->broken) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_UNREACHABLE,
                    "what listens at '%s' is no storage daemon; it does not speak JSON: %s",
                    client->path, client->broken->message);
        return false;
    }
    return true;
}

/* The next value that has come or comes; NULL without an error as ctl_client_next_event() says. */
static QValue *client_next_value(CtlClient *client, gint64 deadline, int watch_fd, GError **error)
{
    while (g_queue_is_empty(&client->values)) {
        WaitResult result = client_wait(client, deadline, watch_fd, error);

        if (result != WAIT_READABLE || !client_read(client, error)) {
            return NULL;
        }
    }
    return g_queue_pop_head(&client->values);
}

/* The event in @value, without its envelope; NULL if it is none. */
static QValue *client_unwrap_event(CtlClient *client, const QValue *value)
{
    const QValue *params;

    if (client->qmp) {
        return ctl_json_string(value, "event") ? qvalue_ref(value) : NULL;
    }
    params = ctl_json_object(value, "params");
    if (g_strcmp0(ctl_json_string(value, "method"), "event") != 0 ||
        !ctl_json_string(params, "event")) {
        return NULL;
    }
    return qvalue_ref(params);
}

static bool is_answer_to(const QValue *value, gint64 id)
{
    const QValue *member =
        qvalue_type(value) == QVALUE_OBJECT ? qvalue_object_get(value, "id") : NULL;

    return member && qvalue_type(member) == QVALUE_INT && qvalue_get_int(member) == id;
}

/* Wait for the answer to request @id; events that come before it are put aside. */
static QValue *client_wait_answer(CtlClient *client, gint64 id, gint64 deadline, GError **error)
{
    for (;;) {
        g_autoptr(QValue) value = client_next_value(client, deadline, -1, error);
        QValue *event;

        if (!value || is_answer_to(value, id)) {
            return g_steal_pointer(&value);
        }
        event = client_unwrap_event(client, value);
        if (event) {
            g_queue_push_tail(&client->events, event);
        }
    }
}

static QValue *make_request(CtlClient *client, const char *command, QValue *take_args)
{
    QValue *request = qvalue_object();

    if (!client->qmp) {
        qvalue_object_set(request, "jsonrpc", qvalue_string("2.0"));
    }
    qvalue_object_set(request, client->qmp ? "execute" : "method", qvalue_string(command));
    if (take_args) {
        qvalue_object_set(request, client->qmp ? "arguments" : "params", take_args);
    }
    qvalue_object_set(request, "id", qvalue_int(++client->last_id));
    return request;
}

/* The result in @answer, or what it says went wrong. */
static QValue *client_unwrap_answer(CtlClient *client, const QValue *answer, GError **error)
{
    const QValue *result = qvalue_object_get(answer, client->qmp ? "return" : "result");
    const QValue *failure = ctl_json_object(answer, "error");
    const char *message = ctl_json_string(failure, client->qmp ? "desc" : "message");

    if (result) {
        return qvalue_ref(result);
    }
    if (!message) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_UNREACHABLE,
                    "the daemon at '%s' breaks the protocol: an answer without result or error",
                    client->path);
        return NULL;
    }
    client->last_error = qvalue_ref(failure);
    g_set_error_literal(error, CTL_ERROR, CTL_ERROR_FAILED, message);
    return NULL;
}

QValue *ctl_client_call(CtlClient *client, const char *command, QValue *take_args, GError **error)
{
    g_autoptr(QValue) request = make_request(client, command, take_args);
    g_autoptr(QValue) answer = NULL;

    g_clear_pointer(&client->last_error, qvalue_unref);
    if (!client_send(client, request, error)) {
        return NULL;
    }
    answer = client_wait_answer(client, client->last_id, -1, error);
    return answer ? client_unwrap_answer(client, answer, error) : NULL;
}

bool ctl_client_run(CtlClient *client, const char *command, QValue *take_args, GError **error)
{
    g_autoptr(QValue) result = ctl_client_call(client, command, take_args, error);

    return result != NULL;
}

/* Report that nothing came within the time that the handshake has. */
static void set_silent(const CtlClient *client, GError **error)
{
    g_set_error(error, CTL_ERROR, CTL_ERROR_UNREACHABLE,
                "the daemon at '%s' does not answer: it hangs, or serves one client at a time (as\n"
                "qemu-storage-daemon does) and is busy with another",
                client->path);
}

/* Run a command within the handshake. */
static QValue *client_handshake_call(CtlClient *client, const char *command, gint64 deadline,
                                     GError **error)
{
    g_autoptr(QValue) request = make_request(client, command, NULL);
    g_autoptr(QValue) answer = NULL;
    g_autoptr(GError) local = NULL;

    if (!client_send(client, request, error)) {
        return NULL;
    }
    answer = client_wait_answer(client, client->last_id, deadline, &local);
    if (answer) {
        return client_unwrap_answer(client, answer, error);
    }
    if (local) {
        g_propagate_error(error, g_steal_pointer(&local));
    } else {
        set_silent(client, error);
    }
    return NULL;
}

static bool client_negotiate_qmp(CtlClient *client, gint64 deadline, GError **error)
{
    g_autoptr(QValue) negotiated = NULL;

    client->qmp = true;
    negotiated = client_handshake_call(client, "qmp_capabilities", deadline, error);
    if (negotiated) {
        client->version = client_handshake_call(client, "query-version", deadline, error);
    }
    return client->version != NULL;
}

/*
 * Find out what the peer speaks. A QMP server greets; a JSON-RPC server says nothing before it is
 * asked. So ask at once, in JSON-RPC: whichever of the two comes first tells, and a QMP server only
 * answers with an error that concerns nobody.
 */
static bool client_handshake(CtlClient *client, unsigned seconds, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + seconds * G_USEC_PER_SEC;
    g_autoptr(QValue) question = make_request(client, "query-version", NULL);
    g_autoptr(QValue) first = NULL;
    g_autoptr(GError) local = NULL;

    if (!client_send(client, question, error)) {
        return false;
    }
    first = client_next_value(client, deadline, -1, &local);
    if (local) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    if (!first) {
        set_silent(client, error);
        return false;
    }
    if (ctl_json_object(first, "QMP")) {
        return client_negotiate_qmp(client, deadline, error);
    }
    if (is_answer_to(first, client->last_id)) {
        client->version = client_unwrap_answer(client, first, error);
        return client->version != NULL;
    }
    g_set_error(error, CTL_ERROR, CTL_ERROR_UNREACHABLE,
                "what listens at '%s' is no storage daemon: it speaks neither JSON-RPC nor QMP",
                client->path);
    return false;
}

static CtlClient *client_new(const char *path, int fd)
{
    CtlClient *client = g_new0(CtlClient, 1);

    client->fd = fd;
    client->path = g_strdup(path);
    client->parser = json_parser_new(NULL, false, client_take_value, client);
    return client;
}

CtlClient *ctl_client_adopt(int fd, const char *name, GError **error)
{
    g_autoptr(CtlClient) client = client_new(name, fd);

    return client_handshake(client, HANDSHAKE_TIMEOUT, error) ? g_steal_pointer(&client) : NULL;
}

static CtlClient *connect_within(const char *path, unsigned seconds, GError **error)
{
    g_autoptr(CtlClient) client = client_new(path, -1);

    if (!client_open(client, seconds, error) || !client_handshake(client, seconds, error)) {
        return NULL;
    }
    return g_steal_pointer(&client);
}

CtlClient *ctl_client_connect(const char *path, GError **error)
{
    return connect_within(path, HANDSHAKE_TIMEOUT, error);
}

CtlClient *ctl_client_connect_any(const char *path, GError **error)
{
    return connect_within(path, HANDSHAKE_TIMEOUT_ANY, error);
}

bool ctl_client_says_no_command(const CtlClient *client)
{
    const QValue *failure = client->last_error;
    const QValue *data = failure && !client->qmp ? ctl_json_object(failure, "data") : failure;

    return g_strcmp0(ctl_json_string(data, "class"), "CommandNotFound") == 0;
}

bool ctl_client_says_exists(const CtlClient *client)
{
    const QValue *code = client->last_error ? qvalue_object_get(client->last_error, "code") : NULL;

    return code && qvalue_type(code) == QVALUE_INT && qvalue_get_int(code) == CODE_EXISTS;
}

void ctl_subscription_clear(CtlSubscription *subscription)
{
    g_clear_pointer(&subscription->instance, g_free);
}

static QValue *make_subscription(const char *const *names, const CtlSubscription *subscription)
{
    QValue *args = qvalue_object();

    if (names && *names) {
        QValue *list = qvalue_array();

        for (; *names; names++) {
            qvalue_array_append(list, qvalue_string(*names));
        }
        qvalue_object_set(args, "events", list);
    }
    if (subscription->instance) {
        qvalue_object_set(args, "instance", qvalue_string(subscription->instance));
        qvalue_object_set(args, "since", qvalue_uint(subscription->next));
    }
    return args;
}

bool ctl_client_subscribe(CtlClient *client, const char *const *names,
                          CtlSubscription *subscription, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(QValue) result =
        ctl_client_call(client, "subscribe", make_subscription(names, subscription), &local);

    ctl_subscription_clear(subscription);
    if (!result && client->qmp && ctl_client_says_no_command(client)) {
        subscription->lost = 0;
        return true;
    }
    if (!result) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    subscription->instance = g_strdup(ctl_json_string(result, "instance"));
    subscription->next = ctl_json_uint(result, "next", 0);
    subscription->lost = ctl_json_uint(result, "lost", 0);
    return true;
}

QValue *ctl_client_next_event(CtlClient *client, gint64 deadline, int watch_fd, GError **error)
{
    QValue *event = g_queue_pop_head(&client->events);
    g_autoptr(GError) local = NULL;

    while (!event) {
        g_autoptr(QValue) value = client_next_value(client, deadline, watch_fd, &local);

        if (!value) {
            if (local) {
                g_propagate_error(error, g_steal_pointer(&local));
            }
            return NULL;
        }
        event = client_unwrap_event(client, value);
    }
    return event;
}
