/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The NBD client against a server that says anything. The input has:
 *
 *   flags (see below), a number of requests, one byte for each of them;
 *   with ASSISTED: size (8), transmission flags (2), block sizes (3 * 4), for a handshake that is
 *   right otherwise;
 *   what the server says, or says after that handshake, in pieces, each after its length (2). The
 *   next one comes when the client has nothing more to do, and after the last the end.
 *
 * libnbd numbers requests from 1 on, so answers can be right, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "aio/lock.h"
#include "block/drivers/nbd/connection.h"
#include "object/object.h"
#include "object/tls-creds.h"
#include "qapi/json-parser.h"
#include "util/be.h"

/* The first byte. */
#define ASSISTED   1u  /* the handshake is made for the input */
#define STRUCTURED 2u  /* its server does structured replies, */
#define CONTEXT    4u  /* knows base:allocation */
#define BLOCKS     8u  /* and tells block sizes */
#define TUNNEL     16u /* the client wants TLS; not with ASSISTED */
#define CONCURRENT 32u /* requests are sent before the answers to others are read */

#define MAX_REQUESTS 16
#define DEADLINE_NS  (60 * INT64_C(1000000000))

/* So many looks at the context that find nothing mean that there is nothing to do. */
#define IDLE_AFTER 3

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Case {
    uint8_t flags;
    const uint8_t *requests;
    unsigned n_requests;
    int fd; /* the client's end */
    NbdConnection *connection;
    unsigned running; /* requests */
    CoQueue ended;    /* one of them */
    bool done;

    int server;          /* the server's end, */
    const uint8_t *said; /* and what it has not said yet */
    size_t left;
} Case;

typedef struct Request {
    Case *c;
    uint8_t kind;
} Request;

static AioContext *ctx;
static TlsCreds *creds; /* NULL: this build has no TLS */

/* ---- what the server says ---- */

static void put(GByteArray *out, uint64_t value, unsigned bytes)
{
    value = GUINT64_TO_BE(value);
    g_byte_array_append(out, (const guint8 *)&value + 8 - bytes, bytes);
}

static void put_reply(GByteArray *out, uint32_t option, uint32_t type, uint32_t length)
{
    put(out, UINT64_C(0x0003e889045565a9), 8);
    put(out, option, 4);
    put(out, type, 4);
    put(out, length, 4);
}

/* The handshake, with 22 bytes at @data. */
static void put_handshake(GByteArray *out, uint8_t flags, const uint8_t *data)
{
    static const char context[] = "base:allocation";

    g_byte_array_append(out, (const guint8 *)"NBDMAGICIHAVEOPT\0\3", 18);
    put_reply(out, 8, flags & STRUCTURED ? 1 : 0x80000001, 0);
    if (flags & STRUCTURED) {
        if (flags & CONTEXT) {
            put_reply(out, 10, 4, 4 + strlen(context));
            put(out, 1, 4);
            g_byte_array_append(out, (const guint8 *)context, strlen(context));
        }
        put_reply(out, 10, 1, 0);
    }
    put_reply(out, 7, 3, 12);
    put(out, 0, 2);
    g_byte_array_append(out, data, 10);
    if (flags & BLOCKS) {
        put_reply(out, 7, 3, 14);
        put(out, 3, 2);
        g_byte_array_append(out, data + 10, 12);
    }
    put_reply(out, 7, 1, 0);
}

/* ---- requests ---- */

static void check_result(const Case *c, int r)
{
    g_assert_cmpint(r, <=, 0);
    g_assert_true(r != -ENOTCONN || nbd_connection_is_lost(c->connection));
}

static void co_fn co_status(Case *c, uint64_t offset, uint64_t bytes)
{
    uint64_t n = 0;
    BlockStatus status;
    int r = nbd_connection_co_block_status(c->connection, offset, bytes, &n, &status);

    check_result(c, r);
    if (r == 0) {
        g_assert_cmpuint(n, >, 0);
        g_assert_cmpuint(n, <=, bytes);
        g_assert_cmpuint(n % nbd_connection_info(c->connection)->min_block, ==, 0);
        g_assert_true(status & (BLOCK_STATUS_DATA | BLOCK_STATUS_ZERO));
    }
}

static int co_fn co_transfer(Case *c, uint8_t kind, uint64_t offset, uint64_t bytes)
{
    g_autofree void *buffer = g_malloc0(bytes); /* of exactly that size */

    return kind & 1 ? nbd_connection_co_pwrite(c->connection, offset, buffer, bytes,
                                               kind & 2 ? BLOCK_REQ_FUA : 0)
                    : nbd_connection_co_pread(c->connection, offset, buffer, bytes);
}

/* A request as the block layer makes them: within the export, and aligned. */
static void co_fn co_request(Case *c, uint8_t kind)
{
    const NbdExportInfo *info = nbd_connection_info(c->connection);
    const uint64_t lengths[] = {1, 4096, 70000, UINT64_C(2) << 30};
    uint64_t offset = (uint64_t)(kind >> 3 & 7) * MAX(info->min_block, 512);
    uint64_t bytes = (lengths[kind >> 6] + info->min_block - 1) & ~(uint64_t)(info->min_block - 1);

    if (offset >= (uint64_t)info->size) {
        return;
    }
    bytes = MIN(bytes, info->size - offset);
    switch (kind & 7) {
    case 4:
        co_status(c, offset, bytes);
        return;
    case 5:
        check_result(c, nbd_connection_co_flush(c->connection));
        return;
    case 6:
        check_result(c, nbd_connection_co_zero(c->connection, offset, bytes, BLOCK_REQ_MAY_UNMAP));
        return;
    case 7:
        check_result(c, nbd_connection_co_trim(c->connection, offset, bytes));
        return;
    default:
        check_result(c, co_transfer(c, kind, offset, MIN(bytes, MIN(info->max_block, 131072))));
        return;
    }
}

static void co_fn co_run_request(void *opaque)
{
    Request *request = opaque;

    co_request(request->c, request->kind);
    request->c->running--;
    co_queue_wake_all(&request->c->ended);
    g_free(request);
}

static void co_fn co_run_requests(Case *c)
{
    for (unsigned i = 0; i < c->n_requests && !nbd_connection_is_lost(c->connection); i++) {
        Request *request = g_new(Request, 1);

        *request = (Request){c, c->requests[i]};
        c->running++;
        aio_co_enter(ctx, co_run_request, request);
        while (c->running && !(c->flags & CONCURRENT)) {
            co_queue_wait(&c->ended, NULL);
        }
    }
    while (c->running) {
        co_queue_wait(&c->ended, NULL);
    }
}

/* ---- one connection ---- */

static void check_info(const NbdExportInfo *info)
{
    g_assert_cmpint(info->size, >=, 0);
    g_assert_true(info->min_block && (info->min_block & (info->min_block - 1)) == 0);
    g_assert_cmpuint(info->min_block, <=, 65536);
    g_assert_cmpuint(info->max_block, >=, info->min_block);
    g_assert_cmpuint(info->max_block, <=, NBD_MAX_TRANSFER);
    g_assert_cmpuint((info->size | info->max_block) % info->min_block, ==, 0);
}

static void co_fn co_connect(Case *c, GError **error)
{
    int64_t deadline_ns = aio_now_ns() + DEADLINE_NS;
    NbdTunnel *tunnel = NULL;
    int inner_fd = -1;

    if (creds && (c->flags & (TUNNEL | ASSISTED)) == TUNNEL) {
        tunnel = nbd_tunnel_co_open(c->fd, creds, NULL, deadline_ns, &inner_fd, error);
        if (!tunnel) {
            close(c->fd);
            return;
        }
    }
    c->connection =
        nbd_connection_co_open(c->fd, tunnel, inner_fd, "e", deadline_ns, DEADLINE_NS, error);
}

static void co_fn co_case(void *opaque)
{
    Case *c = opaque;
    g_autoptr(GError) error = NULL;

    co_connect(c, &error);
    if (c->connection) {
        check_info(nbd_connection_info(c->connection));
        co_run_requests(c);
        nbd_connection_co_close(c->connection, aio_now_ns() + DEADLINE_NS);
    } else {
        g_assert_nonnull(error);
        g_assert_true(g_utf8_validate(error->message, -1, NULL));
    }
    c->done = true;
}

/* ---- the server ---- */

static void server_say(const Case *c, const void *data, size_t bytes)
{
    /* What does not fit is never said. */
    if (bytes && send(c->server, data, bytes, MSG_NOSIGNAL) < 0) {
        g_assert_true(errno == EAGAIN || errno == EPIPE || errno == ECONNRESET);
    }
}

static void server_say_next(Case *c)
{
    size_t bytes;
    char skipped[4096];

    while (recv(c->server, skipped, sizeof(skipped), 0) > 0) {
    }
    if (c->left <= 2) {
        shutdown(c->server, SHUT_WR);
        return;
    }
    bytes = MIN(be16_get(c->said), c->left - 2);
    server_say(c, c->said + 2, bytes);
    c->said += 2 + bytes;
    c->left -= 2 + bytes;
}

static void run_case(Case *c, const GByteArray *handshake)
{
    unsigned idle = 0;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), ==, 0);
    c->fd = fds[0];
    c->server = fds[1];
    server_say(c, handshake->data, handshake->len);
    aio_co_enter(ctx, co_case, c);
    while (!c->done) {
        idle = aio_context_poll(ctx, false) ? 0 : idle + 1;
        if (idle == IDLE_AFTER) {
            server_say_next(c);
            idle = 0;
        }
    }
    close(c->server);
}

/* ---- credentials, made once ---- */

static void co_fn co_make_creds(void *opaque)
{
    ObjectRegistry *registry = object_registry_new();
    g_autoptr(QValue) value = qvalue_from_json(
        "{\"qom-type\": \"tls-creds-anon\", \"id\": \"c\", \"endpoint\": \"client\"}", -1, NULL);
    g_autoptr(GError) error = NULL;
    ObjectOptions *options = object_options_from_qvalue(value, &error);
    bool *done = opaque;

    if (options && object_registry_co_add(registry, options, &error)) {
        creds = object_registry_get_tls_creds(registry, "c", TLS_CREDS_ENDPOINT_CLIENT, &error);
        object_registry_del(registry, "c", NULL, NULL);
    }
    object_options_free(options);
    object_registry_free(registry);
    *done = true;
}

static void set_up(void)
{
    g_autoptr(GError) error = NULL;
    bool done = false;

    ctx = aio_context_new(NULL, &error);
    g_assert_no_error(error);
    aio_co_enter(ctx, co_make_creds, &done);
    while (!done) {
        aio_context_poll(ctx, true);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) handshake = g_byte_array_new();
    Case c = {0};

    co_queue_init(&c.ended);

    if (!ctx) {
        set_up();
    }
    if (size < 2) {
        return 0;
    }
    c.flags = data[0];
    c.n_requests = MIN(data[1] % (MAX_REQUESTS + 1u), size - 2);
    c.requests = data + 2;
    data += 2 + c.n_requests;
    size -= 2 + c.n_requests;
    if (c.flags & ASSISTED) {
        if (size < 22) {
            return 0;
        }
        put_handshake(handshake, c.flags, data);
        data += 22;
        size -= 22;
    }
    c.said = data;
    c.left = size;
    run_case(&c, handshake);
    return 0;
}
