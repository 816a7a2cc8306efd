/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The transmission of the NBD server: any bytes as requests, over a node in memory, or over a file
 * there, whose data is passed on in pipes. The first byte
 * of the input says what was agreed on; the rest is what the client sends, cut in pieces by the
 * second byte. The input may leave out magic numbers: with MAGICS they are put in front of each run
 * of bytes that is as long as the rest of a header; and, with PAYLOADS, what is written, too, so
 * that a small input makes large writes. What comes back must be replies.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../unit/nbd-fixture.h"
#include "util/be.h"

#define MEMORY "{'driver': 'memory', 'node-name': 'n0', 'size': 70000}"
#define LARGE  "{'driver': 'memory', 'node-name': 'n0', 'size': 4194304}"

/* The first byte. */
#define STRUCTURED 1u
#define EXTENDED   2u
#define READ_ONLY  4u
#define MAGICS     8u
#define PAYLOADS   16u /* of a larger node; with MAGICS only */
#define CUT        32u /* the last payload lacks its second half */
#define IN_FILE    64u

#define FILE_BYTES 4194304

/* Longer ones would take more time than they show. Pieces of the input are so much longer then. */
#define MAX_PAYLOAD 1048576
#define PIECE_SCALE 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Stream {
    NbdFixture *fixture;
    const NbdTerms *terms;
    int fd;
    GByteArray *answers;
} Stream;

/* Take what has come. False at the end of the connection. */
static bool take_answers(Stream *stream)
{
    uint8_t buffer[65536];
    ssize_t n;

    do {
        n = recv(stream->fd, buffer, sizeof(buffer), MSG_DONTWAIT);
        if (n > 0) {
            g_byte_array_append(stream->answers, buffer, n);
        }
    } while (n > 0);
    return n < 0 && errno == EAGAIN;
}

static bool send_bytes(Stream *stream, const uint8_t *bytes, size_t size)
{
    while (size) {
        ssize_t n = send(stream->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n > 0) {
            bytes += n;
            size -= n;
        } else if (errno != EAGAIN) {
            return false;
        }
        nbd_fixture_poll(stream->fixture);
        if (!take_answers(stream)) {
            return false;
        }
    }
    return true;
}

/*
 * Each reply begins with the magic number of the kind agreed on. Simple ones to reads have data
 * whose length cannot be told here, so only the first is looked at.
 */
static void check_answers(const Stream *stream)
{
    const GByteArray *all = stream->answers;
    size_t at = 0;

    while (all->len - at >= NBD_SIMPLE_BYTES) {
        const uint8_t *reply = all->data + at;
        uint32_t magic = be32_get(reply);

        if (magic == NBD_SIMPLE_MAGIC) {
            g_assert(!stream->terms->extended);
            if (!stream->terms->structured) {
                return;
            }
            at += NBD_SIMPLE_BYTES;
        } else if (magic == NBD_STRUCTURED_MAGIC) {
            g_assert(stream->terms->structured && !stream->terms->extended);
            g_assert(all->len - at >= NBD_STRUCTURED_BYTES);
            at += NBD_STRUCTURED_BYTES + be32_get(reply + 16);
        } else {
            g_assert(magic == NBD_EXT_REPLY && stream->terms->extended);
            g_assert(all->len - at >= NBD_EXT_REPLY_BYTES);
            at += NBD_EXT_REPLY_BYTES + be64_get(reply + 24);
        }
        if (at > all->len) {
            return; /* the connection was closed in the middle */
        }
    }
}

/* The payload of a write whose header, from behind the magic number on, is @header. */
static uint32_t payload_of(const NbdTerms *terms, const uint8_t *header)
{
    uint64_t length = terms->extended ? be64_get(header + 20) : be32_get(header + 20);

    return be16_get(header + 2) == NBD_CMD_WRITE ? MIN(length, MAX_PAYLOAD) : 0;
}

/* The input as the client sends it. */
static GByteArray *with_magics(const NbdTerms *terms, uint8_t kind, const uint8_t *data,
                               size_t size)
{
    size_t head = nbd_wire_request_bytes(terms) - 4;
    GByteArray *out = g_byte_array_new();

    while (size) {
        size_t n = MIN(head, size);
        uint32_t payload = n == head && (kind & PAYLOADS) ? payload_of(terms, data) : 0;

        nbd_wire_add_u32(out, terms->extended ? NBD_EXT_REQUEST : NBD_REQUEST_MAGIC);
        g_byte_array_append(out, data, n);
        data += n;
        size -= n;
        payload = size == 0 && (kind & CUT) ? payload / 2 : payload;
        g_byte_array_set_size(out, out->len + payload);
        memset(out->data + out->len - payload, 0x5a, payload);
    }
    return out;
}

static void run(NbdFixture *fixture, uint8_t kind, uint8_t piece, const uint8_t *data, size_t size)
{
    NbdTerms terms;
    Stream stream = {.fixture = fixture, .terms = &terms, .answers = g_byte_array_new()};
    g_autoptr(GByteArray) input = NULL;
    size_t step = !piece ? SIZE_MAX : kind & PAYLOADS ? piece * (size_t)PIECE_SCALE : piece;

    stream.fd = nbd_fixture_connect(fixture, kind & STRUCTURED, kind & EXTENDED, &terms);
    if (kind & MAGICS) {
        input = with_magics(&terms, kind, data, size);
    } else {
        input = g_byte_array_append(g_byte_array_new(), data, size);
    }
    for (size_t at = 0; at < input->len; at += MIN(step, input->len - at)) {
        if (!send_bytes(&stream, input->data + at, MIN(step, input->len - at))) {
            break;
        }
    }
    shutdown(stream.fd, SHUT_WR);
    while (take_answers(&stream)) {
        aio_context_poll(fixture->ctx, false);
    }
    check_answers(&stream);
    close(stream.fd);
    g_byte_array_unref(stream.answers);
}

/* The node over a file, as JSON. The file stays, with what was written to it. */
static const char *file_node(void)
{
    static char *json;

    if (!json) {
        int fd = memfd_create("fuzz-export-nbd", 0);
        g_autofree uint8_t *bytes = g_malloc(FILE_BYTES);

        memset(bytes, 0xa5, FILE_BYTES);
        g_assert_cmpint(pwrite(fd, bytes, FILE_BYTES, 0), ==, FILE_BYTES);
        json = g_strdup_printf("{'driver': 'file', 'node-name': 'n0', 'locking': 'off', "
                               "'filename': '/proc/self/fd/%d'}",
                               fd);
    }
    return json;
}

static const char *node_for(uint8_t kind)
{
    if (kind & IN_FILE) {
        return file_node();
    }
    return kind & PAYLOADS ? LARGE : MEMORY;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    NbdFixture *fixture;

    if (size < 2) {
        return 0;
    }
    fixture = nbd_fixture_new(node_for(data[0]), !(data[0] & READ_ONLY));
    run(fixture, data[0], data[1], data + 2, size - 2);
    nbd_fixture_free(fixture);
    return 0;
}
