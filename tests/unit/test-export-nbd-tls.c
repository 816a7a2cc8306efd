/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Clients of the NBD server that talk through TLS and do not behave. */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nbd-fixture.h"
#include "object/object.h"
#include "qapi/json-parser.h"
#include "util/be.h"
#include "util/error.h"

#define SIZE   (4 * 1024 * 1024)
#define MEMORY "{'driver': 'memory', 'node-name': 'n0', 'size': 4194304}"
#define SECOND G_GINT64_CONSTANT(1000000000)

typedef struct TlsClient {
    NbdFixture *f;
    ObjectRegistry *objects;
    int fds[2];
    TlsSession *tls[2]; /* the client's, and the server's until it has got it */
    unsigned steps;     /* that have ended */
    NbdTerms terms;
    unsigned type, count; /* of the requests to send */
} TlsClient;

/* ---- both ends ---- */

static void co_fn co_add_creds(TlsClient *c, const char *json)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QValue) value = qvalue_from_json(json, -1, &error);
    g_autoptr(ObjectOptions) options = object_options_from_qvalue(value, &error);

    g_assert_no_error(error);
    object_registry_co_add(c->objects, options, &error);
    g_assert_no_error(error);
}

static TlsSession *new_session(TlsClient *c, unsigned i)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(TlsCreds) creds = object_registry_get_tls_creds(
        c->objects, i ? "s" : "c", i ? TLS_CREDS_ENDPOINT_SERVER : TLS_CREDS_ENDPOINT_CLIENT,
        &error);

    g_assert_no_error(error);
    return tls_session_new(creds, c->fds[i], NULL, NULL);
}

static void co_fn co_prepare(void *opaque)
{
    TlsClient *c = opaque;

    co_add_creds(c, "{\"qom-type\":\"tls-creds-anon\",\"id\":\"s\",\"endpoint\":\"server\"}");
    co_add_creds(c, "{\"qom-type\":\"tls-creds-anon\",\"id\":\"c\",\"endpoint\":\"client\"}");
    for (unsigned i = 0; i < 2; i++) {
        c->tls[i] = new_session(c, i);
    }
    c->steps++;
}

static void co_shake(TlsClient *c, unsigned i)
{
    g_autoptr(GError) error = NULL;

    tls_session_co_handshake(c->tls[i], aio_now_ns() + 60 * SECOND, &error);
    g_assert_no_error(error);
    c->steps++;
}

static void co_fn co_shake_client(void *opaque)
{
    co_shake(opaque, 0);
}

static void co_fn co_shake_server(void *opaque)
{
    co_shake(opaque, 1);
}

static void await_steps(TlsClient *c, unsigned steps)
{
    while (c->steps < steps) {
        aio_context_poll(c->f->ctx, true);
    }
}

static TlsClient *client_new(void)
{
    TlsClient *c = g_new0(TlsClient, 1);

    c->f = nbd_fixture_new(MEMORY, true);
    c->objects = object_registry_new();
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, c->fds), ==,
                    0);
    aio_co_enter(c->f->ctx, co_prepare, c);
    await_steps(c, 1);
    aio_co_enter(c->f->ctx, co_shake_client, c);
    aio_co_enter(c->f->ctx, co_shake_server, c);
    await_steps(c, 3);
    tls_session_detach(c->tls[1]);
    c->terms = (NbdTerms){.size = SIZE, .flags = NBD_FLAG_HAS_FLAGS};
    nbd_fixture_serve(c->f, c->fds[1], c->tls[1], &c->terms);
    return c;
}

static void client_free(TlsClient *c)
{
    tls_session_free(c->tls[0]);
    close(c->fds[0]);
    object_registry_del(c->objects, "s", NULL, NULL);
    object_registry_del(c->objects, "c", NULL, NULL);
    object_registry_free(c->objects);
    nbd_fixture_free(c->f);
    g_free(c);
}

/* Send the requests, and a goodbye. */
static void co_fn co_send_and_leave(void *opaque)
{
    TlsClient *c = opaque;

    for (unsigned i = 0; i < c->count; i++) {
        uint8_t out[NBD_REQUEST_BYTES] = {0};
        struct iovec iov = {out, sizeof(out)};

        be32_put(out, NBD_REQUEST_MAGIC);
        be16_put(out + 6, c->type);
        be32_put(out + 24, SIZE);
        g_assert_cmpint(tls_session_co_writev(c->tls[0], &iov, 1), ==, 0);
    }
    tls_session_co_bye(c->tls[0], aio_now_ns() + 60 * SECOND);
    c->steps++;
}

static void say_goodbye_after(TlsClient *c, unsigned type, unsigned count)
{
    c->type = type;
    c->count = count;
    aio_co_enter(c->f->ctx, co_send_and_leave, c);
    await_steps(c, 4);
}

static void await_end(TlsClient *c)
{
    while (c->f->ne->connections) {
        aio_context_poll(c->f->ctx, true);
    }
    g_assert_cmpuint(nbd_fixture_queue(c->f)->common.requests, ==, 0);
}

/* ---- tests ---- */

/*
 * One that says goodbye, does not close its socket and takes no answers is not kept for ever: not
 * with @count requests of which all are begun at once, or more.
 */
static void test_goodbye_and_does_not_read(gconstpointer count)
{
    TlsClient *c = client_new();

    say_goodbye_after(c, NBD_CMD_READ, GPOINTER_TO_UINT(count));
    await_end(c);
    client_free(c);
}

/* Nor one that had no answers to take. */
static void test_goodbye_alone(void)
{
    TlsClient *c = client_new();

    say_goodbye_after(c, NBD_CMD_READ, 0);
    await_end(c);
    client_free(c);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd/tls/goodbye-alone", test_goodbye_alone);
    g_test_add_data_func("/nbd/tls/goodbye-and-does-not-read/1", GUINT_TO_POINTER(1),
                         test_goodbye_and_does_not_read);
    g_test_add_data_func("/nbd/tls/goodbye-and-does-not-read/50", GUINT_TO_POINTER(50),
                         test_goodbye_and_does_not_read);
    g_test_add_data_func("/nbd/tls/goodbye-and-does-not-read/1000", GUINT_TO_POINTER(1000),
                         test_goodbye_and_does_not_read);
    return g_test_run();
}
