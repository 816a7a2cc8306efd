/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whatever a client sends, in either protocol: every byte of the answer is JSON, one value a line,
 * and the connection ends when the client's does. The first byte of the input chooses the protocol.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "aio/coroutine.h"
#include "monitor/monitor.h"
#include "qapi/json-parser.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    AioContext *ctx;
    MonitorSet *set;
    int theirs; /* the daemon's end of the connection, to be inherited */
    MonitorMode mode;
    bool done;
} Rig;

static void on_quit(void *opaque)
{
}

/* Put a monitor on the connection. */
static void co_fn rig_co_open(void *opaque)
{
    Rig *rig = opaque;
    SocketPlace place = {.kind = SOCKET_FD, .fd = rig->theirs};
    const ChardevConfig config = {
        .id = (char *)"c", .kind = CHARDEV_BACKEND_KIND_SOCKET, .address = &place};
    const MonitorOptions options = {.chardev = (char *)"c", .mode = rig->mode};

    g_assert_true(monitor_set_co_add_chardev(rig->set, &config, NULL));
    g_assert_nonnull(monitor_set_co_add(rig->set, &options, NULL));
    monitor_set_start(rig->set);
    rig->done = true;
}

static void co_fn rig_co_close(void *opaque)
{
    Rig *rig = opaque;

    monitor_set_co_close(rig->set);
    rig->done = true;
}

static void rig_run(Rig *rig, CoroutineEntry *entry)
{
    rig->done = false;
    aio_co_enter(rig->ctx, entry, rig);
    while (!rig->done) {
        aio_context_poll(rig->ctx, true);
    }
}

/* Take what has been answered so far. Returns false at the end. */
static bool collect(int fd, GString *output)
{
    char buffer[4096];
    ssize_t n;

    while ((n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT)) > 0) {
        g_string_append_len(output, buffer, n);
    }
    return n < 0 && errno == EAGAIN;
}

static void check_output(const GString *output)
{
    g_auto(GStrv) lines = g_strsplit(output->str, "\r\n", -1);

    g_assert_cmpuint(strlen(output->str), ==, output->len);
    for (guint i = 0; lines[i]; i++) {
        g_autoptr(QValue) value = NULL;

        if (lines[i + 1]) {
            value = qvalue_from_json(lines[i], -1, NULL);
            g_assert_nonnull(value);
        } else {
            g_assert_cmpstr(lines[i], ==, "");
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(QapiCommandTable) commands = qapi_command_table_new();
    g_autoptr(GString) output = g_string_new(NULL);
    Rig rig = {.ctx = aio_context_new(NULL, NULL)};
    int ends[2];

    /* More than a socket takes in one go adds nothing. */
    if (size == 0 || size > 16384 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0) {
        aio_context_unref(rig.ctx);
        return 0;
    }
    rig.theirs = ends[1];
    rig.mode = data[0] & 1 ? MONITOR_MODE_JSONRPC : MONITOR_MODE_CONTROL;
    rig.set = monitor_set_new(rig.ctx, commands, on_quit, NULL);
    rig_run(&rig, rig_co_open);
    g_assert_cmpint(send(ends[0], data + 1, size - 1, 0), ==, size - 1);
    shutdown(ends[0], SHUT_WR);
    /* A 'quit' among it is answered by the end only. */
    for (int i = 0; i < 100 && collect(ends[0], output); i++) {
        aio_context_poll(rig.ctx, false);
    }
    rig_run(&rig, rig_co_close);
    collect(ends[0], output);
    check_output(output);
    close(ends[0]);
    monitor_set_free(rig.set);
    aio_context_unref(rig.ctx);
    return 0;
}
