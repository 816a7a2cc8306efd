/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The transmission of the NBD server: limits, stopping in the middle, clients that go. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "aio/context-internal.h"
#include "direct-file.h"
#include "nbd-fixture.h"
#include "util/be.h"

#define SIZE   (4 * 1024 * 1024)
#define MEMORY "{'driver': 'memory', 'node-name': 'n0', 'size': 4194304}"

static size_t put_request(const NbdTerms *terms, uint8_t *out, unsigned type, uint64_t cookie,
                          uint64_t offset, uint32_t length)
{
    be32_put(out, terms->extended ? NBD_EXT_REQUEST : NBD_REQUEST_MAGIC);
    be16_put(out + 4, terms->extended && type == NBD_CMD_WRITE ? NBD_CMD_FLAG_PAYLOAD_LEN : 0);
    be16_put(out + 6, type);
    be64_put(out + 8, cookie);
    be64_put(out + 16, offset);
    if (terms->extended) {
        be64_put(out + 24, length);
        return NBD_EXT_REQUEST_BYTES;
    }
    be32_put(out + 24, length);
    return NBD_REQUEST_BYTES;
}

static void send_request(int fd, const NbdTerms *terms, unsigned type, uint64_t cookie,
                         uint64_t offset, uint32_t length)
{
    uint8_t out[NBD_EXT_REQUEST_BYTES];
    size_t n = put_request(terms, out, type, cookie, offset, length);

    g_assert_cmpint(send(fd, out, n, 0), ==, n);
}

/* So many requests with one call, with their number for a cookie. */
static void send_requests(NbdFixture *f, int fd, const NbdTerms *terms, unsigned type,
                          uint32_t length, unsigned count)
{
    g_autofree uint8_t *out = g_malloc(count * NBD_EXT_REQUEST_BYTES);
    size_t bytes = 0;

    for (unsigned i = 0; i < count; i++) {
        bytes += put_request(terms, out + bytes, type, i, 0, length);
    }
    g_assert_cmpint(send(fd, out, bytes, 0), ==, bytes);
    nbd_fixture_poll(f);
}

/* Exactly @bytes bytes from the server; false if it ends before. */
static bool receive(NbdFixture *f, int fd, void *out, size_t bytes)
{
    while (bytes) {
        ssize_t n = recv(fd, out, bytes, 0);

        if (n < 0 && errno == EAGAIN) {
            aio_context_poll(f->ctx, false);
            continue;
        }
        if (n <= 0) {
            return false;
        }
        out = (char *)out + n;
        bytes -= n;
    }
    return true;
}

/* A simple reply without data: its error, or -1 at the end of the connection. */
static int receive_simple(NbdFixture *f, int fd, uint64_t *cookie)
{
    uint8_t reply[NBD_SIMPLE_BYTES];

    if (!receive(f, fd, reply, sizeof(reply))) {
        return -1;
    }
    g_assert_cmphex(be32_get(reply), ==, NBD_SIMPLE_MAGIC);
    *cookie = be64_get(reply + 8);
    return be32_get(reply + 4);
}

static void send_all(NbdFixture *f, int fd, const uint8_t *data, size_t bytes)
{
    while (bytes) {
        ssize_t n = send(fd, data, bytes, MSG_DONTWAIT);

        if (n < 0) {
            g_assert_cmpint(errno, ==, EAGAIN);
            aio_context_poll(f->ctx, true);
            continue;
        }
        data += n;
        bytes -= (size_t)n;
    }
}

static bool at_end(NbdFixture *f, int fd)
{
    uint8_t byte;

    return !receive(f, fd, &byte, 1);
}

static unsigned in_flight(NbdFixture *f)
{
    return nbd_fixture_queue(f)->common.data_requests;
}

/* Flushes that wait at the gate of a drained node: no more than so many are begun. */
static void test_limit_of_requests(void)
{
    NbdFixture *f = nbd_fixture_new(MEMORY, true);
    NbdTerms terms;
    int fd = nbd_fixture_connect(f, false, false, &terms);
    bool seen[1000] = {false};
    uint64_t cookie;

    nbd_fixture_drain(f);
    send_requests(f, fd, &terms, NBD_CMD_TRIM, 4096, G_N_ELEMENTS(seen));
    g_assert_cmpuint(in_flight(f), ==, 256);
    nbd_fixture_undrain(f);
    for (unsigned i = 0; i < G_N_ELEMENTS(seen); i++) {
        g_assert_cmpint(receive_simple(f, fd, &cookie), ==, 0);
        g_assert_cmpuint(cookie, <, G_N_ELEMENTS(seen));
        g_assert_false(seen[cookie]);
        seen[cookie] = true;
    }
    g_assert_cmpuint(in_flight(f), ==, 0);
    close(fd);
    nbd_fixture_free(f);
}

/* The same for their bytes. */
static void test_limit_of_bytes(void)
{
    NbdFixture *f = nbd_fixture_new(MEMORY, true);
    NbdTerms terms;
    int fd = nbd_fixture_connect(f, false, false, &terms);
    g_autofree uint8_t *data = g_malloc(SIZE);

    nbd_fixture_drain(f);
    send_requests(f, fd, &terms, NBD_CMD_READ, SIZE, 100);
    g_assert_cmpuint(in_flight(f), ==, 8);
    nbd_fixture_undrain(f);
    for (unsigned i = 0; i < 100; i++) {
        uint64_t cookie;

        g_assert_cmpint(receive_simple(f, fd, &cookie), ==, 0);
        g_assert_true(receive(f, fd, data, SIZE));
    }
    close(fd);
    nbd_fixture_free(f);
}

/* A client that takes no answers gets nothing begun, and everything once it does. */
static void test_client_that_does_not_read(void)
{
    NbdFixture *f = nbd_fixture_new(MEMORY, true);
    NbdTerms terms;
    int fd = nbd_fixture_connect(f, true, false, &terms);
    int other = nbd_fixture_connect(f, false, false, &terms);
    g_autofree uint8_t *data = g_malloc(SIZE);
    uint64_t cookie;

    terms.structured = true;
    send_requests(f, fd, &terms, NBD_CMD_READ, 128 * 1024, 200);
    send_request(other, &terms, NBD_CMD_TRIM, 7, 0, 4096);
    g_assert_cmpint(receive_simple(f, other, &cookie), ==, 0);
    g_assert_cmpuint(in_flight(f), ==, 0);
    for (unsigned i = 0; i < 200; i++) {
        /* All zeros: one chunk that says so. */
        g_assert_true(receive(f, fd, data, NBD_STRUCTURED_BYTES + 12));
        g_assert_cmpuint(be64_get(data + 8), ==, i);
    }
    close(fd);
    close(other);
    nbd_fixture_free(f);
}

/* What has begun when the queue stops is answered, what comes later is told so; then it ends. */
static void test_stop(void)
{
    NbdFixture *f = nbd_fixture_new(MEMORY, true);
    NbdTerms terms;
    int fd = nbd_fixture_connect(f, false, false, &terms);
    uint64_t cookie;

    nbd_fixture_drain(f);
    send_request(fd, &terms, NBD_CMD_TRIM, 1, 0, 4096);
    nbd_fixture_poll(f);
    send_request(fd, &terms, NBD_CMD_TRIM, 2, 0, 4096);
    nbd_fixture_stop(f, false);
    g_assert_cmpint(receive_simple(f, fd, &cookie), ==, NBD_ESHUTDOWN);
    g_assert_cmpuint(cookie, ==, 2);
    g_assert_cmpuint(nbd_fixture_queue(f)->common.requests, ==, 1);
    nbd_fixture_undrain(f);
    g_assert_cmpint(receive_simple(f, fd, &cookie), ==, 0);
    g_assert_cmpuint(cookie, ==, 1);
    g_assert_true(at_end(f, fd));
    g_assert_cmpuint(nbd_fixture_queue(f)->common.requests, ==, 0);
    g_assert_cmpuint(f->ne->connections, ==, 0);
    close(fd);
    nbd_fixture_free(f);
}

/* Cut off: the client is gone at once, the request runs on. */
static void test_cut(void)
{
    NbdFixture *f = nbd_fixture_new(MEMORY, true);
    NbdTerms terms;
    int fd = nbd_fixture_connect(f, false, false, &terms);

    nbd_fixture_drain(f);
    send_request(fd, &terms, NBD_CMD_TRIM, 1, 0, 4096);
    nbd_fixture_poll(f);
    nbd_fixture_stop(f, false);
    nbd_fixture_poll(f);
    g_assert_cmpuint(nbd_fixture_queue(f)->common.requests, ==, 1);
    nbd_fixture_stop(f, true);
    g_assert_true(at_end(f, fd));
    g_assert_cmpuint(nbd_fixture_queue(f)->common.requests, ==, 1);
    nbd_fixture_undrain(f);
    while (nbd_fixture_queue(f)->common.requests) {
        aio_context_poll(f->ctx, true);
    }
    close(fd);
    nbd_fixture_free(f);
}

/* A client that goes while its requests run, and one that goes in the middle of a write. */
static void test_client_that_goes(void)
{
    NbdFixture *f = nbd_fixture_new(MEMORY, true);
    NbdTerms terms;
    int fd = nbd_fixture_connect(f, false, true, &terms);
    int other = nbd_fixture_connect(f, false, false, &terms);

    nbd_fixture_drain(f);
    send_request(other, &terms, NBD_CMD_WRITE, 1, 0, 1000);
    g_assert_cmpint(send(other, "abc", 3, 0), ==, 3);
    terms.extended = true;
    send_request(fd, &terms, NBD_CMD_READ, 1, 0, 4096);
    nbd_fixture_poll(f);
    close(fd);
    close(other);
    nbd_fixture_poll(f);
    g_assert_cmpuint(f->ne->connections, ==, 1); /* its request is held up */
    nbd_fixture_undrain(f);
    nbd_fixture_poll(f);
    while (nbd_fixture_queue(f)->common.requests) {
        aio_context_poll(f->ctx, true);
    }
    g_assert_cmpuint(f->ne->connections, ==, 0);
    nbd_fixture_free(f);
}

/* Answers to the requests 0 to @count - 1, each once and without data, and then the end. */
static void assert_all_answered(NbdFixture *f, int fd, unsigned count)
{
    g_autofree bool *seen = g_new0(bool, count);
    uint64_t cookie;

    for (unsigned i = 0; i < count; i++) {
        g_assert_cmpint(receive_simple(f, fd, &cookie), ==, 0);
        g_assert_cmpuint(cookie, <, count);
        g_assert_false(seen[cookie]);
        seen[cookie] = true;
    }
    g_assert_true(at_end(f, fd));
    g_assert_cmpuint(nbd_fixture_queue(f)->common.requests, ==, 0);
}

/* A client that says no more gets all its answers, also to what had to wait for its turn. */
static void test_half_closed(void)
{
    NbdFixture *f = nbd_fixture_new(MEMORY, true);
    NbdTerms terms;
    int fd = nbd_fixture_connect(f, false, false, &terms);

    nbd_fixture_drain(f);
    send_requests(f, fd, &terms, NBD_CMD_TRIM, 4096, 1500);
    shutdown(fd, SHUT_WR);
    nbd_fixture_poll(f);
    nbd_fixture_undrain(f);
    assert_all_answered(f, fd, 1500);
    close(fd);
    nbd_fixture_free(f);
}

/* The same if all of it is there at the first look, and ends with half a request. */
static void test_half_closed_at_once(void)
{
    NbdFixture *f = nbd_fixture_new(MEMORY, true);
    NbdTerms terms;
    int fd = nbd_fixture_connect(f, false, false, &terms);
    uint8_t requests[600 * NBD_REQUEST_BYTES];

    for (unsigned i = 0; i < 600; i++) {
        put_request(&terms, requests + i * NBD_REQUEST_BYTES, NBD_CMD_TRIM, i, 0, 4096);
    }
    for (unsigned cut = 0; cut < 2; cut++) {
        g_assert_cmpint(send(fd, requests, sizeof(requests) - cut, 0), ==, sizeof(requests) - cut);
        shutdown(fd, SHUT_WR);
        assert_all_answered(f, fd, 600 - cut);
        close(fd);
        fd = nbd_fixture_connect(f, false, false, &terms);
    }
    send_request(fd, &terms, NBD_CMD_TRIM, 0, 0, 4096);
    send_request(fd, &terms, NBD_CMD_WRITE, 1, 0, 4096); /* whose payload does not come */
    shutdown(fd, SHUT_WR);
    assert_all_answered(f, fd, 1);
    close(fd);
    nbd_fixture_free(f);
}

/* What has been asked for before a client disconnects is answered, however much it is. */
static void test_disconnect(void)
{
    NbdFixture *f = nbd_fixture_new(MEMORY, true);
    NbdTerms terms;
    int fd = nbd_fixture_connect(f, false, false, &terms);

    nbd_fixture_drain(f);
    send_requests(f, fd, &terms, NBD_CMD_TRIM, 4096, 1500);
    send_request(fd, &terms, NBD_CMD_DISC, 0, 0, 0);
    send_request(fd, &terms, NBD_CMD_TRIM, 5000, 0, 4096);
    shutdown(fd, SHUT_WR);
    nbd_fixture_poll(f);
    nbd_fixture_undrain(f);
    assert_all_answered(f, fd, 1500);
    close(fd);
    nbd_fixture_free(f);
}

/* One that says no more and takes no answers either is not kept for ever. */
static void test_half_closed_and_does_not_read(void)
{
    NbdFixture *f = nbd_fixture_new(MEMORY, true);
    NbdTerms terms;
    int fds[2];

    nbd_fixture_drain(f);
    for (unsigned i = 0; i < 2; i++) {
        fds[i] = nbd_fixture_connect(f, false, false, &terms);
        send_requests(f, fds[i], &terms, NBD_CMD_READ, SIZE, i == 0 ? 5 : 50);
    }
    send_request(fds[0], &terms, NBD_CMD_DISC, 0, 0, 0);
    shutdown(fds[1], SHUT_WR);
    nbd_fixture_poll(f);
    nbd_fixture_undrain(f);
    while (f->ne->connections) {
        aio_context_poll(f->ctx, true);
    }
    g_assert_cmpuint(nbd_fixture_queue(f)->common.requests, ==, 0);
    close(fds[0]);
    close(fds[1]);
    nbd_fixture_free(f);
}

/* A client that comes when the queue has been stopped is sent away. */
static void test_too_late(void)
{
    NbdFixture *f = nbd_fixture_new(MEMORY, true);
    NbdTerms terms;
    int fd;

    nbd_fixture_stop(f, false);
    fd = nbd_fixture_connect(f, false, false, &terms);
    g_assert_true(at_end(f, fd));
    g_assert_cmpuint(nbd_fixture_queue(f)->common.requests, ==, 0);
    close(fd);
    nbd_fixture_free(f);
}

/*
 * Over a node that wants aligned buffers, those of requests are used as they are: each goes to one
 * that the kernel keeps, where it keeps any, and no bounce buffer is. A queue that is stopped has
 * it forget them all.
 */
static void test_direct(void)
{
    static const uint32_t lengths[] = {4096, 65536, 1024 * 1024};
    DirectFile *file = direct_file_new(SIZE);
    g_autofree uint8_t *data = g_malloc(SIZE), *same = g_malloc(SIZE);
    uint64_t cookie;
    NbdTerms terms;
    NbdFixture *f;
    int fd;

    if (!file) {
        return;
    }
    for (unsigned i = 0; i < SIZE; i++) {
        data[i] = (uint8_t)(i * 5 + i / 512);
    }
    f = nbd_fixture_new(file->json, true);
    fd = nbd_fixture_connect(f, false, false, &terms);
    for (unsigned i = 0; i < G_N_ELEMENTS(lengths); i++) {
        uint32_t length = lengths[i];

        send_request(fd, &terms, NBD_CMD_WRITE, 1, length, length);
        send_all(f, fd, data + length, length);
        g_assert_cmpint(receive_simple(f, fd, &cookie), ==, 0);
        send_request(fd, &terms, NBD_CMD_READ, 2, length, length);
        g_assert_cmpint(receive_simple(f, fd, &cookie), ==, 0);
        g_assert_true(receive(f, fd, same, length));
        g_assert_cmpmem(same, length, data + length, length);
    }
    g_assert_cmpuint(f->ctx->buffer_requests, ==, f->ctx->ops->buffer_keep ? 6 : 0);
    nbd_fixture_stop(f, false);
    g_assert_true(at_end(f, fd));
    g_assert_cmpuint(f->ctx->buffers->len, ==, 0);
    close(fd);
    nbd_fixture_free(f);
    direct_file_free(file);
}

/* A file of SIZE bytes with @data, and a node of it. */
typedef struct ImageFile {
    char *path, *json;
    int fd;
} ImageFile;

static ImageFile image_file(const char *dir, const uint8_t *data)
{
    ImageFile file = {.path = g_build_filename(dir, "test-nbd-XXXXXX", NULL)};

    file.fd = g_mkstemp(file.path);
    g_assert_cmpint(file.fd, >=, 0);
    g_assert_cmpint(pwrite(file.fd, data, SIZE, 0), ==, SIZE);
    file.json =
        g_strdup_printf("{'driver': 'file', 'node-name': 'n0', 'filename': '%s'}", file.path);
    return file;
}

static void image_file_free(ImageFile *file)
{
    close(file->fd);
    unlink(file->path);
    g_free(file->path);
    g_free(file->json);
}

/* Open ends of pipes in this process. */
static unsigned pipe_ends(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename("/proc/self/fd", name, NULL);
        g_autofree char *target = g_file_read_link(path, NULL);

        n += target && g_str_has_prefix(target, "pipe:");
    }
    return n;
}

static uint8_t *pattern(void)
{
    uint8_t *data = g_malloc(SIZE);

    for (unsigned i = 0; i < SIZE; i++) {
        data[i] = (uint8_t)(i * 7 + i / 4096 + 1);
    }
    return data;
}

/*
 * What streams are written to: nodes that take the payload from a buffer alone, and those that take
 * it from a pipe.
 */
typedef enum StreamKind {
    STREAM_BUFFERED,
    STREAM_SPLICED,
} StreamKind;

typedef struct StreamRig {
    bool spliced;
    ImageFile file;
    unsigned pipes; /* open when there is no request */
    NbdFixture *f;
} StreamRig;

static StreamRig stream_rig(gconstpointer kind)
{
    g_autofree uint8_t *zeros = g_malloc0(SIZE);
    StreamRig rig = {.spliced = GPOINTER_TO_UINT(kind) == STREAM_SPLICED,
                     .file = image_file("/dev/shm", zeros)};

    rig.f = nbd_fixture_new(rig.spliced ? rig.file.json : MEMORY, true);
    rig.pipes = pipe_ends();
    return rig;
}

static void stream_rig_free(StreamRig *rig)
{
    nbd_fixture_free(rig->f);
    g_assert_cmpuint(pipe_ends(), ==, rig->pipes);
    image_file_free(&rig->file);
}

#define PART (300 * 1024) /* of a payload of 1 MiB, that comes first */
#define HEAD (256 * 1024) /* what is written of that at once */
#define MIB  (1024 * 1024)

/*
 * A client whose large writes are written as they come, for the node has been seen to copy at once,
 * and that has sent PART of one of 1 MiB, to offset 0, with cookie 9.
 */
static void begin_stream_of(const StreamRig *rig, int fd, const uint8_t *data,
                            const NbdTerms *terms)
{
    NbdFixture *f = rig->f;
    uint64_t cookie;

    send_request(fd, terms, NBD_CMD_WRITE, 1, 2 * MIB, MIB);
    send_all(f, fd, data, MIB);
    g_assert_cmpint(receive_simple(f, fd, &cookie), ==, 0);
    send_request(fd, terms, NBD_CMD_WRITE, 9, 0, MIB);
    send_all(f, fd, data, PART);
    nbd_fixture_poll(f);
    if (rig->spliced) {
        g_assert_cmpuint(pipe_ends(), ==, rig->pipes + 2);
    }
}

static int begin_stream(const StreamRig *rig, const uint8_t *data, NbdTerms *terms)
{
    int fd = nbd_fixture_connect(rig->f, false, false, terms);

    begin_stream_of(rig, fd, data, terms);
    return fd;
}

static void assert_written(NbdFixture *f, uint64_t offset, const uint8_t *data, size_t bytes)
{
    NbdTerms terms;
    int fd = nbd_fixture_connect(f, false, false, &terms);
    g_autofree uint8_t *same = g_malloc(bytes);
    uint64_t cookie;

    send_request(fd, &terms, NBD_CMD_READ, 0, offset, bytes);
    g_assert_cmpint(receive_simple(f, fd, &cookie), ==, 0);
    g_assert_true(receive(f, fd, same, bytes));
    g_assert_cmpmem(same, bytes, data, bytes);
    close(fd);
}

/* Many small requests and then a write, all of which is there at once: its payload is in order. */
static void test_write_after_many(void)
{
    g_autofree uint8_t *data = pattern();

    for (unsigned many = 254; many <= 1025; many++) {
        NbdFixture *f = nbd_fixture_new(MEMORY, true);
        g_autofree uint8_t *out = g_malloc(many * NBD_REQUEST_BYTES);
        NbdTerms terms;
        int fd = nbd_fixture_connect(f, false, false, &terms);
        size_t bytes = 0;
        uint64_t cookie;

        for (unsigned i = 0; i < many; i++) {
            bytes += put_request(&terms, out + bytes, NBD_CMD_TRIM, i, MIB, 512);
        }
        g_assert_cmpint(send(fd, out, bytes, 0), ==, bytes);
        send_request(fd, &terms, NBD_CMD_WRITE, many, 0, 100000);
        send_all(f, fd, data, 100000);
        for (unsigned i = 0; i <= many; i++) {
            g_assert_cmpint(receive_simple(f, fd, &cookie), ==, 0);
        }
        assert_written(f, 0, data, 100000);
        close(fd);
        nbd_fixture_free(f);
    }
}

/* A sector that has come in part is not written, whoever sends the rest of it or goes. */
static void test_stream_sectors(gconstpointer kind)
{
    StreamRig rig = stream_rig(kind);
    NbdFixture *f = rig.f;
    g_autofree uint8_t *data = pattern(), *zeros = g_malloc0(MIB);
    NbdTerms terms;
    int fd = begin_stream(&rig, data, &terms);
    size_t at = PART, end = MIB - 5000;

    while (at < end) {
        size_t n = MIN(777, end - at);

        send_all(f, fd, data + at, n);
        at += n;
        nbd_fixture_poll(f);
    }
    end -= end % (rig.spliced ? 4096 : 65536);
    assert_written(f, 0, data, end);
    assert_written(f, end, zeros, MIB - end);
    close(fd);
    nbd_fixture_poll(f);
    assert_written(f, end, zeros, MIB - end);
    stream_rig_free(&rig);
}

/*
 * What has come is written, up to a whole block where it is buffered, and nothing is in flight
 * until more comes.
 */
static void test_stream(gconstpointer kind)
{
    StreamRig rig = stream_rig(kind);
    NbdFixture *f = rig.f;
    g_autofree uint8_t *data = pattern(), *zeros = g_malloc0(MIB);
    NbdTerms terms;
    int fd = begin_stream(&rig, data, &terms);
    size_t written = rig.spliced ? PART : HEAD;
    uint64_t cookie;

    assert_written(f, 0, data, written);
    assert_written(f, written, zeros, MIB - written);
    g_assert_cmpuint(in_flight(f), ==, 0);
    send_all(f, fd, data + PART, MIB - PART);
    g_assert_cmpint(receive_simple(f, fd, &cookie), ==, 0);
    g_assert_cmpuint(cookie, ==, 9);
    assert_written(f, 0, data, MIB);
    assert_written(f, MIB, zeros, MIB);
    close(fd);
    stream_rig_free(&rig);
}

/* Wherever it begins and ends, all of it is written; of what is refused, nothing. */
static void test_stream_any_range(gconstpointer kind)
{
    StreamRig rig = stream_rig(kind);
    NbdFixture *f = rig.f;
    g_autofree uint8_t *data = pattern();
    NbdTerms terms;
    int fd = nbd_fixture_connect(f, false, false, &terms);

    for (unsigned i = 0; i < 20; i++) {
        uint64_t offset = i * 33333, cookie;
        size_t bytes = 300001 + i * 54321;
        bool past_end = i % 5 == 4;

        data[offset + bytes / 2] ^= 0xff;
        send_request(fd, &terms, NBD_CMD_WRITE, i, past_end ? SIZE - bytes + 1 : offset, bytes);
        send_all(f, fd, data + offset, bytes);
        g_assert_cmpint(receive_simple(f, fd, &cookie), ==, past_end ? NBD_ENOSPC : 0);
        if (past_end) {
            data[offset + bytes / 2] ^= 0xff;
        }
        g_assert_cmpuint(cookie, ==, i);
        assert_written(f, 0, data, past_end ? 0x1000 : offset + bytes);
    }
    close(fd);
    stream_rig_free(&rig);
}

/* A queue that stops in the middle of a payload answers that, and waits for no more of it. */
static void test_stream_stop(gconstpointer kind)
{
    StreamRig rig = stream_rig(kind);
    NbdFixture *f = rig.f;
    g_autofree uint8_t *data = pattern();
    NbdTerms terms;
    int fd = begin_stream(&rig, data, &terms);
    uint64_t cookie;

    nbd_fixture_stop(f, false);
    g_assert_cmpint(receive_simple(f, fd, &cookie), ==, NBD_ESHUTDOWN);
    g_assert_cmpuint(cookie, ==, 9);
    g_assert_true(at_end(f, fd));
    g_assert_cmpuint(nbd_fixture_queue(f)->common.requests, ==, 0);
    close(fd);
    stream_rig_free(&rig);
}

/* Hold up the node, and have a client send what a piece is made of; @more: and all the rest. */
static int hold_stream(const StreamRig *rig, const uint8_t *data, NbdTerms *terms, bool more)
{
    NbdFixture *f = rig->f;
    int fd = begin_stream(rig, data, terms);

    nbd_fixture_drain(f);
    send_all(f, fd, data + PART, (more ? MIB : PART + HEAD) - PART);
    nbd_fixture_poll(f);
    g_assert_cmpuint(in_flight(f), ==, 1);
    return fd;
}

/* The same while a piece is in flight: the client is told when that is over. */
static void test_stream_stop_in_piece(gconstpointer kind)
{
    StreamRig rig = stream_rig(kind);
    NbdFixture *f = rig.f;
    g_autofree uint8_t *data = pattern();
    NbdTerms terms;
    int fd = hold_stream(&rig, data, &terms, false);
    uint64_t cookie;
    uint8_t byte;

    nbd_fixture_stop(f, false);
    nbd_fixture_poll(f);
    g_assert_cmpint(recv(fd, &byte, 1, MSG_DONTWAIT), ==, -1);
    nbd_fixture_undrain(f);
    g_assert_cmpint(receive_simple(f, fd, &cookie), ==, NBD_ESHUTDOWN);
    g_assert_cmpuint(cookie, ==, 9);
    g_assert_true(at_end(f, fd));
    g_assert_cmpuint(nbd_fixture_queue(f)->common.requests, ==, 0);
    close(fd);
    stream_rig_free(&rig);
}

/*
 * A node that takes its time after all: the rest is received, where there is a buffer for it, and
 * written when it goes on.
 */
static void test_stream_held_up(gconstpointer kind)
{
    StreamRig rig = stream_rig(kind);
    NbdFixture *f = rig.f;
    g_autofree uint8_t *data = pattern();
    NbdTerms terms;
    int fd = hold_stream(&rig, data, &terms, !rig.spliced);
    uint64_t cookie;

    if (!rig.spliced) {
        send_request(fd, &terms, NBD_CMD_WRITE, 10, MIB, MIB);
        send_all(f, fd, data + MIB, MIB);
        nbd_fixture_poll(f);
    }
    nbd_fixture_undrain(f);
    if (rig.spliced) {
        send_all(f, fd, data + PART + HEAD, MIB - PART - HEAD);
        send_request(fd, &terms, NBD_CMD_WRITE, 10, MIB, MIB);
        send_all(f, fd, data + MIB, MIB);
    }
    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpint(receive_simple(f, fd, &cookie), ==, 0);
    }
    assert_written(f, 0, data, 2 * MIB);
    close(fd);
    stream_rig_free(&rig);
}

/* A piece that fails: the client is told, after the rest has come, and goes on. */
static void test_stream_fails(void)
{
    StreamRig rig = stream_rig(GUINT_TO_POINTER(STREAM_SPLICED));
    NbdFixture *f = rig.f;
    g_autofree uint8_t *data = pattern();
    struct rlimit old, low = {600 * 1024, RLIM_INFINITY};
    NbdTerms terms;
    int fd = begin_stream(&rig, data, &terms);
    uint64_t cookie;

    signal(SIGXFSZ, SIG_IGN);
    g_assert_cmpint(getrlimit(RLIMIT_FSIZE, &old), ==, 0);
    low.rlim_max = old.rlim_max;
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &low), ==, 0);
    send_all(f, fd, data + PART, MIB - PART);
    g_assert_cmpint(receive_simple(f, fd, &cookie), ==, NBD_ENOSPC);
    g_assert_cmpuint(cookie, ==, 9);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &old), ==, 0);
    assert_written(f, 0, data, low.rlim_cur);
    send_request(fd, &terms, NBD_CMD_WRITE, 10, 0, MIB);
    send_all(f, fd, data + MIB, MIB);
    g_assert_cmpint(receive_simple(f, fd, &cookie), ==, 0);
    assert_written(f, 0, data + MIB, MIB);
    close(fd);
    stream_rig_free(&rig);
}

/* The ends of a TCP connection. */
static void tcp_pair(int fds[2])
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(addr);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(listener, (struct sockaddr *)&addr, size), ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    g_assert_cmpint(getsockname(listener, (struct sockaddr *)&addr, &size), ==, 0);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(connect(fds[0], (struct sockaddr *)&addr, size), ==, 0);
    fds[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    g_assert_cmpint(fds[1], >=, 0);
    g_assert_cmpint(fcntl(fds[0], F_SETFL, O_NONBLOCK), ==, 0);
    close(listener);
}

/* Urgent data, which no pipe takes, in a payload: it is not part of that, and holds nothing up. */
static void test_stream_urgent(void)
{
    StreamRig rig = stream_rig(GUINT_TO_POINTER(STREAM_SPLICED));
    NbdFixture *f = rig.f;
    g_autofree uint8_t *data = pattern();
    NbdTerms terms;
    int unused = nbd_fixture_connect(f, false, false, &terms), fds[2];
    uint64_t cookie;

    close(unused);
    tcp_pair(fds);
    nbd_fixture_serve(f, fds[1], NULL, &terms);
    begin_stream_of(&rig, fds[0], data, &terms);
    g_assert_cmpint(send(fds[0], "!", 1, MSG_OOB), ==, 1);
    send_all(f, fds[0], data + PART, MIB - PART);
    g_assert_cmpint(receive_simple(f, fds[0], &cookie), ==, 0);
    g_assert_cmpuint(cookie, ==, 9);
    assert_written(f, 0, data, MIB);
    close(fds[0]);
    stream_rig_free(&rig);
}

/* A client that goes in the middle of a payload, or is cut off, between two pieces or in one. */
static void test_stream_that_ends(gconstpointer kind)
{
    for (unsigned i = 0; i < 6; i++) {
        bool in_piece = i % 2, cut = i / 2 == 1, half = i / 2 == 2;
        StreamRig rig = stream_rig(kind);
        NbdFixture *f = rig.f;
        g_autofree uint8_t *data = pattern();
        NbdTerms terms;
        int fd =
            in_piece ? hold_stream(&rig, data, &terms, false) : begin_stream(&rig, data, &terms);

        if (cut) {
            nbd_fixture_stop(f, true);
        } else if (half) {
            shutdown(fd, SHUT_WR);
        } else {
            close(fd);
        }
        nbd_fixture_poll(f);
        if (in_piece) {
            g_assert_cmpuint(nbd_fixture_queue(f)->common.requests, ==, 1);
            nbd_fixture_undrain(f);
        }
        while (nbd_fixture_queue(f)->common.requests) {
            aio_context_poll(f->ctx, true);
        }
        g_assert_cmpuint(f->ne->connections, ==, 0);
        if (cut || half) {
            g_assert_true(at_end(f, fd));
            close(fd);
        }
        stream_rig_free(&rig);
    }
}

/* ---- the image's own pages ---- */

/* Read @bytes at @offset and compare. The answer is one chunk, if it is of chunks. */
static void assert_read(NbdFixture *f, int fd, const NbdTerms *terms, uint64_t offset,
                        const uint8_t *data, size_t bytes)
{
    size_t head = !terms->structured ? NBD_SIMPLE_BYTES
                  : terms->extended  ? NBD_EXT_REPLY_BYTES + 8
                                     : NBD_STRUCTURED_BYTES + 8;
    g_autofree uint8_t *same = g_malloc(bytes);
    uint8_t reply[NBD_EXT_REPLY_BYTES + 8];

    send_request(fd, terms, NBD_CMD_READ, 7, offset, bytes);
    g_assert_true(receive(f, fd, reply, head));
    if (!terms->structured) {
        g_assert_cmphex(be32_get(reply), ==, NBD_SIMPLE_MAGIC);
        g_assert_cmpuint(be32_get(reply + 4), ==, 0);
    } else {
        g_assert_cmpuint(be16_get(reply + 4), ==, NBD_REPLY_FLAG_DONE);
        g_assert_cmpuint(be16_get(reply + 6), ==, NBD_CHUNK_OFFSET_DATA);
        g_assert_cmpuint(be64_get(reply + head - 8), ==, offset);
    }
    g_assert_cmpuint(be64_get(reply + 8), ==, 7);
    g_assert_true(receive(f, fd, same, bytes));
    g_assert_cmpmem(same, bytes, data + offset, bytes);
}

/* Whatever the range and the kind of the reply, it is what the image holds. */
static void test_splice_any_range(void)
{
    g_autofree uint8_t *data = pattern();
    ImageFile file = image_file("/dev/shm", data);
    unsigned before = pipe_ends(), most = 0;
    NbdFixture *f = nbd_fixture_new(file.json, false);
    GRand *rand = g_rand_new_with_seed(1);

    for (unsigned kind = 0; kind < 3; kind++) {
        NbdTerms terms;
        int fd = nbd_fixture_connect(f, kind > 0, kind > 1, &terms);

        for (unsigned i = 0; i < 200; i++) {
            uint32_t bytes = g_rand_int_range(rand, 1, i % 2 ? 40000 : SIZE / 2);
            uint32_t end = i % 7 ? g_rand_int_range(rand, bytes, SIZE) : SIZE;
            uint32_t offset = end - bytes;

            assert_read(f, fd, &terms, i % 3 ? offset : offset / 4096 * 4096, data, bytes);
            most = MAX(most, pipe_ends());
        }
        close(fd);
    }
    g_assert_cmpuint(most, ==, before + 2);
    nbd_fixture_free(f);
    g_assert_cmpuint(pipe_ends(), ==, before);
    g_rand_free(rand);
    image_file_free(&file);
}

/* More at once than there are pipes, and then the client does not read for a while. */
static void test_splice_many(void)
{
    g_autofree uint8_t *data = pattern(), *same = g_malloc(MIB);
    ImageFile file = image_file("/dev/shm", data);
    NbdFixture *f = nbd_fixture_new(file.json, false);
    unsigned before = pipe_ends();
    NbdTerms terms;
    int fd = nbd_fixture_connect(f, false, false, &terms);
    uint64_t cookie;

    nbd_fixture_drain(f);
    send_requests(f, fd, &terms, NBD_CMD_READ, MIB, 25);
    g_assert_cmpuint(pipe_ends(), ==, before + 2 * 16);
    nbd_fixture_undrain(f);
    nbd_fixture_poll(f);
    for (unsigned i = 0; i < 25; i++) {
        g_assert_cmpint(receive_simple(f, fd, &cookie), ==, 0);
        g_assert_cmpuint(cookie, ==, i);
        g_assert_true(receive(f, fd, same, MIB));
        g_assert_cmpmem(same, MIB, data, MIB);
    }
    nbd_fixture_poll(f);
    g_assert_cmpuint(nbd_fixture_queue(f)->common.requests, ==, 1); /* the client */
    close(fd);
    nbd_fixture_free(f);
    g_assert_cmpuint(pipe_ends(), ==, before);
    image_file_free(&file);
}

/* A client that goes, or is sent away, leaves no pipe, and its pages come to no other client. */
static void test_splice_that_ends(void)
{
    g_autofree uint8_t *data = pattern();
    ImageFile file = image_file("/dev/shm", data);
    unsigned before = pipe_ends();

    for (unsigned cut = 0; cut < 2; cut++) {
        NbdFixture *f = nbd_fixture_new(file.json, false);
        NbdTerms terms;
        int fd = nbd_fixture_connect(f, false, false, &terms);
        uint8_t some[1000];

        send_requests(f, fd, &terms, NBD_CMD_READ, MIB, 3);
        g_assert_true(receive(f, fd, some, sizeof(some)));
        if (cut) {
            nbd_fixture_stop(f, true);
        } else {
            close(fd);
            while (nbd_fixture_queue(f)->common.requests) {
                aio_context_poll(f->ctx, true);
            }
            fd = nbd_fixture_connect(f, false, false, &terms);
            assert_read(f, fd, &terms, MIB, data, MIB);
        }
        close(fd);
        nbd_fixture_free(f);
        g_assert_cmpuint(pipe_ends(), ==, before);
    }
    image_file_free(&file);
}

/* What somebody has cut off the file reads as zeros; without descriptors for pipes it is read. */
static void test_splice_not(void)
{
    g_autofree uint8_t *data = pattern();
    ImageFile file = image_file("/dev/shm", data);
    unsigned before = pipe_ends();
    NbdFixture *f = nbd_fixture_new(file.json, false);
    struct rlimit old, none = {0, 0};
    NbdTerms terms;
    int fd = nbd_fixture_connect(f, false, false, &terms);

    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &old), ==, 0);
    none.rlim_max = old.rlim_max;
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &none), ==, 0);
    assert_read(f, fd, &terms, MIB, data, MIB);
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &old), ==, 0);
    g_assert_cmpuint(pipe_ends(), ==, before);

    g_assert_cmpint(ftruncate(file.fd, MIB + 300000), ==, 0);
    memset(data + MIB + 300000, 0, SIZE - MIB - 300000);
    assert_read(f, fd, &terms, MIB, data, MIB);
    assert_read(f, fd, &terms, MIB, data, 300000);
    close(fd);
    nbd_fixture_free(f);
    image_file_free(&file);
}

static void co_fn co_wait(void *opaque)
{
    bool *done = opaque;

    aio_co_sleep_ns(2500 * G_GINT64_CONSTANT(1000000));
    *done = true;
}

/* Pipes that nobody uses are closed after a while. */
static void test_splice_idle(void)
{
    g_autofree uint8_t *data = pattern();
    ImageFile file = image_file("/dev/shm", data);
    NbdFixture *f = nbd_fixture_new(file.json, false);
    unsigned before = pipe_ends();
    bool done = false;
    NbdTerms terms;
    int fd = nbd_fixture_connect(f, false, false, &terms);

    assert_read(f, fd, &terms, MIB, data, MIB);
    g_assert_cmpuint(pipe_ends(), ==, before + 2);
    aio_co_enter(f->ctx, co_wait, &done);
    while (!done) {
        aio_context_poll(f->ctx, true);
    }
    g_assert_cmpuint(pipe_ends(), ==, before);
    close(fd);
    nbd_fixture_free(f);
    image_file_free(&file);
}

/* Take @n large buffers, and mark them. Returns how many had been marked before. */
static unsigned take_marked(NbdPool *pool, NbdCall **calls, unsigned n)
{
    unsigned marked = 0;

    for (unsigned i = 0; i < n; i++) {
        calls[i] = nbd_pool_take(pool, MIB);
        marked += calls[i]->buffer[MIB / 2] == 'm';
        calls[i]->buffer[MIB / 2] = 'm';
    }
    return marked;
}

static void give_all(NbdPool *pool, NbdCall **calls, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        nbd_pool_give(pool, calls[i]);
    }
}

static void co_fn co_use_pool(void *opaque)
{
    NbdFixture *f = opaque;
    NbdPool *pool = nbd_fixture_queue(f)->pool;
    int64_t end_ns = aio_now_ns() + 2500 * G_GINT64_CONSTANT(1000000);
    NbdCall *calls[40];

    g_assert_cmpuint(take_marked(pool, calls, 40), ==, 0);
    give_all(pool, calls, 40);
    g_assert_cmpuint(take_marked(pool, calls, 40), ==, 40);
    give_all(pool, calls, 40);
    while (aio_now_ns() < end_ns) {
        g_assert_cmpuint(take_marked(pool, calls, 3), ==, 3);
        give_all(pool, calls, 3);
        aio_co_sleep_ns(10 * G_GINT64_CONSTANT(1000000));
    }
    g_assert_cmpuint(take_marked(pool, calls, 40), ==, 3);
    give_all(pool, calls, 40);
    export_request_end(&nbd_fixture_queue(f)->common);
}

/* As many large buffers as clients use in turns are kept; those that nobody uses are not. */
static void test_pool(void)
{
    NbdFixture *f = nbd_fixture_new(MEMORY, true);

    export_request_begin(&nbd_fixture_queue(f)->common);
    aio_co_enter(f->ctx, co_use_pool, f);
    while (nbd_fixture_queue(f)->common.requests) {
        aio_context_poll(f->ctx, true);
    }
    nbd_fixture_free(f);
}

static void add_streams(const char *name, StreamKind kind)
{
    static const struct {
        const char *name;
        GTestDataFunc fn;
    } tests[] = {
        {"written", test_stream},         {"any-range", test_stream_any_range},
        {"stop", test_stream_stop},       {"stop-in-piece", test_stream_stop_in_piece},
        {"held-up", test_stream_held_up}, {"ends", test_stream_that_ends},
        {"sectors", test_stream_sectors},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_autofree char *path = g_strdup_printf("/nbd/connection/%s/%s", name, tests[i].name);

        g_test_add_data_func(path, GUINT_TO_POINTER(kind), tests[i].fn);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd/connection/limit-of-requests", test_limit_of_requests);
    g_test_add_func("/nbd/connection/limit-of-bytes", test_limit_of_bytes);
    g_test_add_func("/nbd/connection/does-not-read", test_client_that_does_not_read);
    g_test_add_func("/nbd/connection/stop", test_stop);
    g_test_add_func("/nbd/connection/cut", test_cut);
    g_test_add_func("/nbd/connection/goes", test_client_that_goes);
    g_test_add_func("/nbd/connection/half-closed", test_half_closed);
    g_test_add_func("/nbd/connection/half-closed-at-once", test_half_closed_at_once);
    g_test_add_func("/nbd/connection/disconnect", test_disconnect);
    g_test_add_func("/nbd/connection/half-closed-and-does-not-read",
                    test_half_closed_and_does_not_read);
    g_test_add_func("/nbd/connection/too-late", test_too_late);
    g_test_add_func("/nbd/connection/direct", test_direct);
    g_test_add_func("/nbd/connection/write-after-many", test_write_after_many);
    add_streams("stream", STREAM_BUFFERED);
    add_streams("spliced-stream", STREAM_SPLICED);
    g_test_add_func("/nbd/connection/spliced-stream/fails", test_stream_fails);
    g_test_add_func("/nbd/connection/spliced-stream/urgent", test_stream_urgent);
    g_test_add_func("/nbd/connection/splice/any-range", test_splice_any_range);
    g_test_add_func("/nbd/connection/splice/many", test_splice_many);
    g_test_add_func("/nbd/connection/splice/ends", test_splice_that_ends);
    g_test_add_func("/nbd/connection/splice/not", test_splice_not);
    g_test_add_func("/nbd/connection/splice/idle", test_splice_idle);
    g_test_add_func("/nbd/connection/pool", test_pool);
    return g_test_run();
}
