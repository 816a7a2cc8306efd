/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The transport without a kernel: a socket that keeps messages apart takes the place of /dev/fuse,
 * and the test plays the kernel at its other end. Proves who owns a request when a queue is
 * stopped, cut off and closed in its middle.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "aio/context-internal.h"
#include "direct-file.h"
#include "export-fixture.h"

#define MEMORY "{'driver': 'memory', 'node-name': 'n0', 'size': 65536}"

typedef struct Kernel {
    ExportFixture *f;
    int fd;
    uint64_t unique;
} Kernel;

typedef struct Answer {
    struct fuse_out_header header;
    char data[8192];
} Answer;

/* The next @n reads of a message from @fd lose it, and fail with @err. */
static struct {
    int fd;
    unsigned n;
    int err;
} failing;

static void fail_reads(int fd, unsigned n, int err)
{
    failing.fd = fd;
    failing.n = n;
    failing.err = err;
}

ssize_t __real_read(int fd, void *buffer, size_t bytes);
ssize_t __wrap_read(int fd, void *buffer, size_t bytes);
ssize_t __wrap_read(int fd, void *buffer, size_t bytes)
{
    ssize_t n = __real_read(fd, buffer, bytes);

    if (n > 0 && failing.n > 0 && fd == failing.fd) {
        failing.n--;
        errno = failing.err;
        return -1;
    }
    return n;
}

static void kernel_begin_over(Kernel *k, const char *node_json)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), ==,
                    0);
    k->f = export_fixture_new(node_json, true, false);
    k->fd = fds[0];
    k->unique = 2;
    export_fixture_queue(k->f)->channel.fd = fds[1];
    fuse_channel_begin(export_fixture_queue(k->f));
}

static void kernel_begin(Kernel *k)
{
    kernel_begin_over(k, MEMORY);
}

static void kernel_end(Kernel *k)
{
    fuse_channel_stop(export_fixture_queue(k->f), false);
    g_assert_cmpuint(export_fixture_queue(k->f)->common.requests, ==, 0);
    fuse_channel_close(export_fixture_queue(k->f));
    export_fixture_free(k->f);
    close(k->fd);
}

/* Ask; the number of the request. */
static uint64_t ask(Kernel *k, uint32_t opcode, const void *args, size_t args_bytes,
                    const void *data, size_t data_bytes)
{
    struct fuse_in_header header = {
        .len = sizeof(header) + args_bytes + data_bytes,
        .opcode = opcode,
        .unique = k->unique,
        .nodeid = FUSE_ROOT_ID,
    };
    struct iovec iov[] = {
        {&header, sizeof(header)}, {(void *)args, args_bytes}, {(void *)data, data_bytes}};

    g_assert_cmpint(writev(k->fd, iov, G_N_ELEMENTS(iov)), ==, header.len);
    k->unique += 2;
    return header.unique;
}

static uint64_t ask_read(Kernel *k, uint64_t offset, uint32_t size)
{
    struct fuse_read_in in = {.offset = offset, .size = size};

    return ask(k, FUSE_READ, &in, sizeof(in), NULL, 0);
}

static uint64_t ask_write(Kernel *k, uint64_t offset, const void *data, uint32_t size)
{
    struct fuse_write_in in = {.offset = offset, .size = size};

    return ask(k, FUSE_WRITE, &in, sizeof(in), data, size);
}

/* The next answer, or false if there is none now. */
static bool answer_now(Kernel *k, Answer *answer)
{
    ssize_t n = read(k->fd, answer, sizeof(*answer));

    if (n <= 0) {
        return false;
    }
    g_assert_cmpint(n, ==, answer->header.len);
    return true;
}

static void answer_wait(Kernel *k, Answer *answer)
{
    while (!answer_now(k, answer)) {
        aio_context_poll(k->f->ctx, true);
    }
}

static void assert_answer(Kernel *k, uint64_t unique, int err)
{
    Answer answer;

    answer_wait(k, &answer);
    g_assert_cmpuint(answer.header.unique, ==, unique);
    g_assert_cmpint(answer.header.error, ==, err);
}

static unsigned in_flight(Kernel *k)
{
    return export_fixture_queue(k->f)->common.data_requests;
}

/* Let the queue begin what it has been sent, until @n requests are in flight. */
static void wait_in_flight(Kernel *k, unsigned n)
{
    while (in_flight(k) != n) {
        aio_context_poll(k->f->ctx, true);
    }
}

static void test_round_trip(void)
{
    char data[4096];
    Kernel k;
    Answer answer;
    uint64_t unique;

    memset(data, 'x', sizeof(data));
    kernel_begin(&k);
    unique = ask_write(&k, 100, data, sizeof(data));
    answer_wait(&k, &answer);
    g_assert_cmpuint(answer.header.unique, ==, unique);
    g_assert_cmpuint(((struct fuse_write_out *)answer.data)->size, ==, sizeof(data));

    ask_read(&k, 99, 3);
    answer_wait(&k, &answer);
    g_assert_cmpuint(answer.header.len, ==, sizeof(answer.header) + 3);
    g_assert_cmpmem(answer.data, 3, "\0xx", 3);
    kernel_end(&k);
}

static void test_malformed(void)
{
    struct fuse_in_header header = {.len = 4000, .opcode = FUSE_STATFS, .unique = 7};
    Kernel k;

    kernel_begin(&k);
    g_assert_cmpint(write(k.fd, "short", 5), ==, 5); /* nobody could answer that */
    g_assert_cmpint(write(k.fd, &header, sizeof(header)), ==, sizeof(header));
    assert_answer(&k, 7, -EINVAL);
    assert_answer(&k, ask(&k, FUSE_READ, NULL, 0, NULL, 0), -EINVAL);
    assert_answer(&k, ask(&k, FUSE_LOOKUP, "x", 2, NULL, 0), -ENOSYS);
    assert_answer(&k, ask(&k, 0xfffffff0, NULL, 0, NULL, 0), -ENOSYS);
    assert_answer(&k, ask_read(&k, 0, FUSE_INIT_MAX_IO + 1), -EINVAL);
    assert_answer(&k, ask(&k, FUSE_STATFS, NULL, 0, NULL, 0), 0);
    kernel_end(&k);
}

static void test_forget_has_no_answer(void)
{
    struct fuse_forget_in in = {.nlookup = 1};
    Kernel k;

    kernel_begin(&k);
    ask(&k, FUSE_FORGET, &in, sizeof(in), NULL, 0);
    assert_answer(&k, ask_read(&k, 0, 1), 0);
    kernel_end(&k);
}

/* A stopped queue finishes what it has begun, and takes nothing new until it begins again. */
static void test_stop_in_the_middle(void)
{
    FuseQueue *queue;
    Kernel k;
    uint64_t first, second;
    Answer answer;

    kernel_begin(&k);
    queue = export_fixture_queue(k.f);
    export_fixture_drain(k.f);
    first = ask_read(&k, 0, 512);
    wait_in_flight(&k, 1);
    fuse_channel_stop(queue, false);
    second = ask_read(&k, 0, 512);
    export_fixture_undrain(k.f);
    assert_answer(&k, first, 0);
    wait_in_flight(&k, 0);
    g_assert_false(answer_now(&k, &answer));

    fuse_channel_begin(queue);
    assert_answer(&k, second, 0);
    wait_in_flight(&k, 0);
    kernel_end(&k);
}

/* What is cut off fails at once, answered once, and still runs to its end in peace. */
static void test_cut_in_the_middle(void)
{
    static const char data[512];
    FuseQueue *queue;
    Kernel k;
    uint64_t begun[2], unread;
    Answer answer;

    kernel_begin(&k);
    queue = export_fixture_queue(k.f);
    export_fixture_drain(k.f);
    begun[0] = ask_read(&k, 0, 512);
    begun[1] = ask_write(&k, 0, data, sizeof(data));
    wait_in_flight(&k, 2);
    fuse_channel_stop(queue, false);
    unread = ask_read(&k, 0, 512);

    fuse_channel_stop(queue, true);
    assert_answer(&k, begun[1], -ENOTCONN);
    assert_answer(&k, begun[0], -ENOTCONN);
    assert_answer(&k, unread, -ENOTCONN);
    g_assert_cmpuint(in_flight(&k), ==, 2);
    g_assert_cmpint(read(k.fd, &answer, sizeof(answer)), ==, 0); /* closed */

    export_fixture_undrain(k.f);
    wait_in_flight(&k, 0);
    kernel_end(&k);
}

/* More requests than there are buffers wait in the kernel, and none is lost. */
static void test_more_than_buffers(void)
{
    enum {
        N = 400
    };
    bool seen[N] = {false};
    uint64_t first;
    Answer answer;
    Kernel k;
    int sent = 0;

    kernel_begin(&k);
    export_fixture_drain(k.f);
    first = k.unique;
    while (sent < N) {
        struct pollfd room = {.fd = k.fd, .events = POLLOUT};

        if (in_flight(&k) == 256 || poll(&room, 1, 0) == 0) {
            break;
        }
        ask_read(&k, 0, 16);
        sent++;
        aio_context_poll(k.f->ctx, false);
    }
    g_assert_cmpuint(in_flight(&k), <=, 256);
    export_fixture_undrain(k.f);
    for (int answered = 0; answered < N; answered++) {
        if (sent < N) {
            ask_read(&k, 0, 16);
            sent++;
        }
        answer_wait(&k, &answer);
        g_assert_false(seen[(answer.header.unique - first) / 2]);
        seen[(answer.header.unique - first) / 2] = true;
        g_assert_cmpint(answer.header.error, ==, 0);
    }
    wait_in_flight(&k, 0);
    kernel_end(&k);
}

static void test_idle_gives_memory_back(void)
{
    Kernel k;

    kernel_begin(&k);
    assert_answer(&k, ask_read(&k, 0, 4096), 0);
    while (export_fixture_queue(k.f)->channel.n_requests) {
        aio_context_poll(k.f->ctx, true);
    }
    assert_answer(&k, ask_read(&k, 0, 4096), 0);
    kernel_end(&k);
}

/* What the kernel could not copy to us it has answered itself; the connection goes on. */
static void test_out_of_memory(void)
{
    FuseQueue *queue;
    Kernel k;

    kernel_begin(&k);
    queue = export_fixture_queue(k.f);
    for (unsigned turn = 0; turn < 2; turn++) {
        g_test_expect_message("export", G_LOG_LEVEL_WARNING, "*could not be read*");
        fail_reads(queue->channel.fd, 3, ENOMEM);
        for (unsigned i = 0; i < 3; i++) {
            ask_read(&k, 0, 1);
        }
        assert_answer(&k, ask_read(&k, 0, 1), 0);
        g_test_assert_expected_messages();
        g_assert_cmpint(k.f->fe->lost, ==, 0);
    }

    g_test_expect_message("export", G_LOG_LEVEL_WARNING, "*could not be read*");
    g_test_expect_message("export", G_LOG_LEVEL_WARNING, "*reading requests failed*");
    fail_reads(queue->channel.fd, 1000, ENOMEM);
    for (unsigned i = 0; i < 110; i++) {
        ask_read(&k, 0, 1);
    }
    while (!k.f->fe->lost) {
        aio_context_poll(k.f->ctx, true);
    }
    g_test_assert_expected_messages();
    fail_reads(-1, 0, 0);
    kernel_end(&k);
}

/* When the other side goes, the queue stops by itself and says so once. */
static void test_lost(void)
{
    FuseQueue *queue;
    Kernel k;

    kernel_begin(&k);
    queue = export_fixture_queue(k.f);
    close(k.fd);
    while (!k.f->fe->lost) {
        aio_context_poll(k.f->ctx, true);
    }
    g_assert_null(queue->channel.watch);
    k.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    kernel_end(&k);
}

/*
 * Over a node that wants aligned buffers, those of requests are used as they are: each goes to one
 * that the kernel keeps, where it keeps any, and no bounce buffer is. A queue that is stopped has
 * it forget them all.
 */
static void test_direct(void)
{
    DirectFile *file = direct_file_new(65536);
    char data[8192];
    uint64_t second;
    FuseQueue *queue;
    Answer answer;
    AioContext *ctx;
    Kernel k;

    if (!file) {
        return;
    }
    for (unsigned i = 0; i < sizeof(data); i++) {
        data[i] = (char)(i * 5 + i / 512);
    }
    kernel_begin_over(&k, file->json);
    ctx = k.f->ctx;
    queue = export_fixture_queue(k.f);
    for (unsigned turn = 0; turn < 2; turn++) {
        ctx->buffer_requests = 0;
        assert_answer(&k, ask_write(&k, 4096, data, 4096), 0);
        assert_answer(&k, ask_write(&k, 8192, data + 4096, 4096), 0);
        assert_answer(&k, ask_write(&k, 16384, data, 8192), 0);
        for (uint64_t offset = 4096; offset <= 16384; offset += 12288) {
            ask_read(&k, offset, sizeof(data));
            answer_wait(&k, &answer);
            g_assert_cmpmem(answer.data, answer.header.len - sizeof(answer.header), data,
                            sizeof(data));
        }
        g_assert_cmpuint(ctx->buffer_requests, ==, ctx->ops->buffer_keep ? 5 : 0);

        export_fixture_drain(k.f);
        second = ask_read(&k, 0, 4096);
        wait_in_flight(&k, 1);
        fuse_channel_stop(queue, false);
        g_assert_cmpuint(ctx->buffers->len, ==, ctx->ops->buffer_keep ? 1 : 0);
        export_fixture_undrain(k.f);
        assert_answer(&k, second, 0);
        wait_in_flight(&k, 0);
        g_assert_cmpuint(ctx->buffers->len, ==, 0);
        fuse_channel_begin(queue);
    }
    kernel_end(&k);
    direct_file_free(file);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fuse/channel/round-trip", test_round_trip);
    g_test_add_func("/fuse/channel/malformed", test_malformed);
    g_test_add_func("/fuse/channel/forget", test_forget_has_no_answer);
    g_test_add_func("/fuse/channel/stop", test_stop_in_the_middle);
    g_test_add_func("/fuse/channel/cut", test_cut_in_the_middle);
    g_test_add_func("/fuse/channel/more-than-buffers", test_more_than_buffers);
    g_test_add_func("/fuse/channel/idle", test_idle_gives_memory_back);
    g_test_add_func("/fuse/channel/out-of-memory", test_out_of_memory);
    g_test_add_func("/fuse/channel/lost", test_lost);
    g_test_add_func("/fuse/channel/direct", test_direct);
    return g_test_run();
}
