/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The nbd driver with a server in this process, which goes away when it is told to: requests of
 * several threads, those that wait, and those that are given up.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "block/driver.h"
#include "block/drivers/nbd/connection.h"
#include "tests/unit/block-fixture.h"
#include "util/socket.h"

#define SIZE (1024 * 1024)

/* Of the NBD protocol. */
enum {
    NBD_READ,
    NBD_WRITE,
    NBD_DISC,
    NBD_FLUSH
};
enum {
    NBD_OPT_GO = 7
};

/* What a server may do to a request. */
typedef enum Trouble {
    TROUBLE_JUNK,    /* answer what is no reply */
    TROUBLE_HALF,    /* begin to answer, and go away */
    TROUBLE_GOODBYE, /* say that it shuts down */
    TROUBLE_TWICE,   /* answer twice */
    TROUBLE_LATE,    /* answer after a while */
    N_TROUBLES,
} Trouble;

typedef struct Server {
    char *dir, *path;
    SocketFile *file;
    int listener;
    GThread *thread;
    guint8 *data;
    gint ended;         /* atomic */
    gint dies_after;    /* atomic: requests that each connection serves; 0: any number */
    gint silent;        /* atomic: requests are taken, and not answered */
    gint dies_in_flush; /* atomic: the next flush ends the connection, without an answer */
    gint slow_every;    /* atomic: of so many requests one takes a few milliseconds; 0: none */
    gint knows_fua;     /* atomic: new clients are told so */
    gint trouble_in;    /* atomic: so many requests from now on there is trouble; 0: none */
    gint trouble;       /* of this kind */
    gint requests, connections, flushes; /* atomic: counts */
    int client;                          /* under @lock; -1: none */
    GMutex lock;
} Server;

/* ---- the server ---- */

static bool read_full(int fd, void *buffer, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = read(fd, (char *)buffer + done, bytes - done);

        if (n <= 0 && !(n < 0 && errno == EINTR)) {
            return false;
        }
        done += MAX(n, 0);
    }
    return true;
}

static bool write_full(int fd, const void *buffer, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = send(fd, (const char *)buffer + done, bytes - done, MSG_NOSIGNAL);

        if (n < 0 && errno != EINTR) {
            return false;
        }
        done += MAX(n, 0);
    }
    return true;
}

typedef struct __attribute__((packed)) Option {
    char magic[8];
    guint32 option, length;
} Option;

typedef struct __attribute__((packed)) OptionReply {
    guint64 magic;
    guint32 option, type, length;
} OptionReply;

static bool reply_option(int fd, guint32 option, guint32 type, const void *data, guint32 length)
{
    OptionReply reply = {GUINT64_TO_BE(0x0003e889045565a9), option, GUINT32_TO_BE(type),
                         GUINT32_TO_BE(length)};

    return write_full(fd, &reply, sizeof(reply)) && write_full(fd, data, length);
}

static bool negotiate(Server *s, int fd)
{
    /* Has flags, flush, FUA. */
    guint16 can = 1 | 4 | (g_atomic_int_get(&s->knows_fua) ? 8 : 0);
    const struct __attribute__((packed)) {
        guint16 type;
        guint64 size;
        guint16 flags;
    } info = {0, GUINT64_TO_BE(SIZE), GUINT16_TO_BE(can)};
    char flags[4], skipped[8192];

    if (!write_full(fd, "NBDMAGICIHAVEOPT\0\3", 18) || !read_full(fd, flags, 4)) {
        return false;
    }
    for (;;) {
        Option option;
        guint32 length;

        if (!read_full(fd, &option, sizeof(option))) {
            return false;
        }
        length = GUINT32_FROM_BE(option.length);
        if (length > sizeof(skipped) || !read_full(fd, skipped, length)) {
            return false;
        }
        if (GUINT32_FROM_BE(option.option) == NBD_OPT_GO) {
            return reply_option(fd, option.option, 3, &info, sizeof(info)) &&
                   reply_option(fd, option.option, 1, "", 0);
        }
        if (!reply_option(fd, option.option, 0x80000001, "", 0)) {
            return false;
        }
    }
}

typedef struct __attribute__((packed)) WireRequest {
    guint32 magic;
    guint16 flags, type;
    guint64 cookie, offset;
    guint32 length;
} WireRequest;

typedef struct __attribute__((packed)) WireReply {
    guint32 magic, error;
    guint64 cookie;
} WireReply;

/* Between the export and @payload, under the lock, since sockets tell ThreadSanitizer nothing. */
static void copy_data(Server *s, bool write, guint64 offset, guint8 *payload, guint32 length)
{
    g_mutex_lock(&s->lock);
    if (write) {
        memcpy(s->data + offset, payload, length);
    } else {
        memcpy(payload, s->data + offset, length);
    }
    g_mutex_unlock(&s->lock);
}

/* Send @reply, and @length bytes. */
static bool answer(int fd, const WireReply *reply, const void *payload, guint32 length)
{
    return write_full(fd, reply, sizeof(*reply)) && write_full(fd, payload, length);
}

/* The same with trouble. Whether the connection goes on. */
static bool make_trouble(Trouble kind, int fd, WireReply *reply, const void *payload,
                         guint32 length)
{
    switch (kind) {
    case TROUBLE_JUNK:
        reply->magic = ~reply->magic;
        return answer(fd, reply, payload, length);
    case TROUBLE_HALF:
        answer(fd, reply, payload, length / 2);
        return false;
    case TROUBLE_GOODBYE:
        reply->error = GUINT32_TO_BE(ESHUTDOWN);
        return answer(fd, reply, NULL, 0);
    case TROUBLE_TWICE:
        if (!answer(fd, reply, payload, length)) {
            return false;
        }
        return answer(fd, reply, payload, length);
    default:
        g_usleep(3000);
        return answer(fd, reply, payload, length);
    }
}

static bool serve_one(Server *s, int fd)
{
    g_autofree guint8 *payload = NULL;
    WireRequest request;
    WireReply reply = {.magic = GUINT32_TO_BE(0x67446698)};
    guint64 offset;
    guint32 length;
    guint16 type;

    if (!read_full(fd, &request, sizeof(request))) {
        return false;
    }
    type = GUINT16_FROM_BE(request.type);
    offset = GUINT64_FROM_BE(request.offset);
    length = GUINT32_FROM_BE(request.length);
    if (type == NBD_DISC || offset + length > SIZE) {
        return false;
    }
    payload = g_malloc0(length);
    if (type == NBD_WRITE && !read_full(fd, payload, length)) {
        return false;
    }
    if (type == NBD_WRITE || type == NBD_READ) {
        copy_data(s, type == NBD_WRITE, offset, payload, length);
    }
    g_atomic_int_inc(&s->requests);
    if (type == NBD_FLUSH) {
        g_atomic_int_inc(&s->flushes);
    }
    if (g_atomic_int_get(&s->slow_every) &&
        g_atomic_int_get(&s->requests) % g_atomic_int_get(&s->slow_every) == 0) {
        g_usleep(3000);
    }
    if (g_atomic_int_get(&s->silent)) {
        return true;
    }
    if (type == NBD_FLUSH && g_atomic_int_compare_and_exchange(&s->dies_in_flush, 1, 0)) {
        return false;
    }
    reply.cookie = request.cookie;
    length = type == NBD_READ ? length : 0;
    return g_atomic_int_get(&s->trouble_in) && g_atomic_int_dec_and_test(&s->trouble_in)
               ? make_trouble(g_atomic_int_get(&s->trouble), fd, &reply, payload, length)
               : answer(fd, &reply, payload, length);
}

static void serve(Server *s, int fd)
{
    int limit = g_atomic_int_get(&s->dies_after);

    g_atomic_int_inc(&s->connections);
    if (!negotiate(s, fd)) {
        return;
    }
    for (int n = 0; (limit == 0 || n < limit) && serve_one(s, fd); n++) {
    }
}

static void server_set_client(Server *s, int fd)
{
    g_mutex_lock(&s->lock);
    s->client = fd;
    g_mutex_unlock(&s->lock);
}

static gpointer server_thread(gpointer opaque)
{
    Server *s = opaque;

    while (!g_atomic_int_get(&s->ended)) {
        int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);

        if (fd < 0) {
            continue;
        }
        server_set_client(s, fd);
        serve(s, fd);
        server_set_client(s, -1);
        close(fd);
    }
    return NULL;
}

/* Cut off the client that is there. */
static void server_cut(Server *s)
{
    g_mutex_lock(&s->lock);
    if (s->client >= 0) {
        shutdown(s->client, SHUT_RDWR);
    }
    g_mutex_unlock(&s->lock);
}

/* Something that no client has asked for. */
static void server_send(Server *s, const void *data, size_t bytes)
{
    g_mutex_lock(&s->lock);
    g_assert_true(write_full(s->client, data, bytes));
    g_mutex_unlock(&s->lock);
}

/* A client of our own. */
static int socket_to(const Server *s)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, s->path, sizeof(address.sun_path));
    g_assert_no_errno(connect(fd, (struct sockaddr *)&address, sizeof(address)));
    return fd;
}

static void server_begin(Server *s)
{
    SocketPlace place = {.kind = SOCKET_UNIX, .path = s->path, .mode = 0600};
    g_autoptr(GError) error = NULL;

    g_atomic_int_set(&s->ended, 0);
    s->client = -1;
    s->listener = socket_listen(&place, &s->file, &error);
    g_assert_no_error(error);
    /* The thread may block. */
    fcntl(s->listener, F_SETFL, fcntl(s->listener, F_GETFL) & ~O_NONBLOCK);
    s->thread = g_thread_new("server", server_thread, s);
}

static void server_end(Server *s)
{
    g_atomic_int_set(&s->ended, 1);
    shutdown(s->listener, SHUT_RDWR);
    server_cut(s);
    g_thread_join(s->thread);
    g_clear_pointer(&s->file, socket_file_remove);
    close(s->listener);
}

static Server *server_new(void)
{
    Server *s = g_new0(Server, 1);
    g_autoptr(GError) error = NULL;

    s->dir = g_dir_make_tmp("test-nbd-XXXXXX", &error);
    g_assert_no_error(error);
    s->path = g_build_filename(s->dir, "s", NULL);
    s->data = g_malloc0(SIZE);
    g_mutex_init(&s->lock);
    server_begin(s);
    return s;
}

static void server_free(Server *s)
{
    g_rmdir(s->dir);
    g_mutex_clear(&s->lock);
    g_free(s->dir);
    g_free(s->path);
    g_free(s->data);
    g_free(s);
}

/* ---- the node ---- */

/* A node 'n' of the server's export, with further options, and a backend that writes to it. */
typedef struct Rig {
    Server *server;
    Fixture *f;
    BlockBackend *blk;
} Rig;

static void rig_init(Rig *rig, const char *options)
{
    g_autofree char *json = NULL;

    rig->server = server_new();
    rig->f = fixture_new();
    json = g_strdup_printf("{'driver': 'nbd', 'node-name': 'n', 'server': {'type': 'unix', "
                           "'path': '%s'}%s}",
                           rig->server->path, options);
    fixture_add(rig->f, json);
    rig->blk = fixture_backend(rig->f, "n", "test", BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE,
                               BLOCK_PERM_ALL);
}

static void rig_clear(Rig *rig)
{
    fixture_free_backend(rig->f, rig->blk);
    fixture_del(rig->f, "n");
    fixture_free(rig->f);
    if (!g_atomic_int_get(&rig->server->ended)) {
        server_end(rig->server);
    }
    server_free(rig->server);
}

static void assert_byte(const Rig *rig, uint64_t offset, int byte)
{
    guint8 found;

    copy_data(rig->server, false, offset, &found, 1);
    g_assert_cmpint(found, ==, byte);
}

static void test_requests(void)
{
    guint8 buffer[4096];
    Rig rig;

    rig_init(&rig, "");
    memset(buffer, 'a', sizeof(buffer));
    g_assert_cmpint(fixture_write(rig.f, rig.blk, 1000, buffer, sizeof(buffer), 0), ==, 0);
    assert_byte(&rig, 999, 0);
    assert_byte(&rig, 1000, 'a');
    assert_byte(&rig, 5095, 'a');
    assert_byte(&rig, 5096, 0);
    memset(buffer, 0, sizeof(buffer));
    g_assert_cmpint(fixture_read(rig.f, rig.blk, 1000, buffer, sizeof(buffer)), ==, 0);
    g_assert_cmpint(buffer[4095], ==, 'a');
    /* Neither FUA nor zeroes are the server's, so others are sent. */
    g_assert_cmpint(fixture_write(rig.f, rig.blk, 0, buffer, 512, BLOCK_REQ_FUA), ==, 0);
    g_assert_cmpint(g_atomic_int_get(&rig.server->flushes), ==, 1);
    g_assert_cmpint(fixture_zero(rig.f, rig.blk, 1000, 1000, 0), ==, 0);
    assert_byte(&rig, 1000, 0);
    assert_byte(&rig, 2000, 'a');
    rig_clear(&rig);
}

typedef struct Vectored {
    BlockBackend *blk;
    int result;
} Vectored;

static void co_fn co_vectored(void *opaque)
{
    Vectored *v = opaque;
    char a[100], b[1], c[411];
    struct iovec parts[3] = {{a, sizeof(a)}, {b, sizeof(b)}, {c, sizeof(c)}};
    IoVector iov = {parts, 3, 512};

    memset(a, 'a', sizeof(a));
    memset(b, 'b', sizeof(b));
    memset(c, 'c', sizeof(c));
    g_assert_cmpint(blk_co_pwritev(v->blk, 0, &iov, 0), ==, 0);
    iov_fill(&iov, 0, 0, 512);
    v->result = blk_co_preadv(v->blk, 0, &iov, 0);
    g_assert_cmpint(a[99], ==, 'a');
    g_assert_cmpint(b[0], ==, 'b');
    g_assert_cmpint(c[0], ==, 'c');
    g_assert_cmpint(c[410], ==, 'c');
}

static void test_vectors(void)
{
    Vectored v = {.result = 1};
    Rig rig;

    rig_init(&rig, "");
    v.blk = rig.blk;
    fixture_run(rig.f, co_vectored, &v);
    g_assert_cmpint(v.result, ==, 0);
    assert_byte(&rig, 100, 'b');
    rig_clear(&rig);
}

/* Without a delay: the request that is under way fails, and so do others until it is back. */
static void test_no_delay(void)
{
    guint8 buffer[512];
    Rig rig;

    rig_init(&rig, "");
    server_end(rig.server);
    g_assert_cmpint(fixture_read(rig.f, rig.blk, 0, buffer, 512), ==, -EIO);
    g_assert_cmpint(fixture_read(rig.f, rig.blk, 0, buffer, 512), ==, -EIO);
    server_begin(rig.server);
    while (fixture_read(rig.f, rig.blk, 0, buffer, 512) < 0) {
        g_usleep(10000);
    }
    rig_clear(&rig);
}

static int put(Rig *rig, uint64_t offset, int byte, BlockRequestFlags flags)
{
    guint8 buffer[512];

    memset(buffer, byte, sizeof(buffer));
    return fixture_write(rig->f, rig->blk, offset, buffer, sizeof(buffer), flags);
}

/* The server ends, forgets all that was not flushed, and comes back. */
static void crash(Rig *rig)
{
    guint8 byte;

    server_end(rig->server);
    memset(rig->server->data, 0, SIZE);
    server_begin(rig->server);
    /* It is connected to again. */
    g_assert_cmpint(fixture_read(rig->f, rig->blk, 0, &byte, 1), ==, 0);
}

/* A flush fails, and says so. */
static void flush_tells_of(Rig *rig, unsigned writes)
{
    g_autofree char *pattern = g_strdup_printf("*was lost with %u unflushed writes*", writes);

    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, pattern);
    g_assert_cmpint(fixture_flush(rig->f, rig->blk), ==, -EIO);
    g_test_assert_expected_messages();
}

/* What a server has acknowledged, and may have forgotten, a flush tells of, once. */
static void test_forgotten(void)
{
    Rig rig;

    rig_init(&rig, ", 'reconnect-delay': 60");
    /* Nothing was written: nothing was forgotten. */
    crash(&rig);
    g_assert_cmpint(fixture_flush(rig.f, rig.blk), ==, 0);
    g_assert_cmpint(put(&rig, 0, 'a', 0), ==, 0);
    g_assert_cmpint(put(&rig, 512, 'a', 0), ==, 0);
    crash(&rig);
    g_assert_cmpint(put(&rig, 1024, 'a', 0), ==, 0);
    /* FUA is for the one write, and takes nothing from the flush. */
    g_assert_cmpint(put(&rig, 2048, 'a', BLOCK_REQ_FUA), ==, 0);
    flush_tells_of(&rig, 2);
    assert_byte(&rig, 0, 0);
    assert_byte(&rig, 1024, 'a');
    g_assert_cmpint(fixture_flush(rig.f, rig.blk), ==, 0);
    /* What was flushed, or written with FUA, is not in question. */
    g_assert_cmpint(put(&rig, 0, 'b', 0), ==, 0);
    g_assert_cmpint(fixture_flush(rig.f, rig.blk), ==, 0);
    g_assert_cmpint(put(&rig, 0, 'b', BLOCK_REQ_FUA), ==, 0);
    crash(&rig);
    g_assert_cmpint(fixture_flush(rig.f, rig.blk), ==, 0);
    /* Losses add up until somebody hears of them; a flush while it is away is none that does. */
    g_assert_cmpint(put(&rig, 0, 'c', 0), ==, 0);
    crash(&rig);
    g_assert_cmpint(fixture_zero(rig.f, rig.blk, 0, 512, 0), ==, 0);
    crash(&rig);
    flush_tells_of(&rig, 2);
    g_assert_cmpint(fixture_flush(rig.f, rig.blk), ==, 0);
    rig_clear(&rig);
}

/* The connection goes before the flush is answered, which is then repeated. */
static void test_forgotten_in_flush(void)
{
    Rig rig;

    rig_init(&rig, ", 'reconnect-delay': 60");
    g_assert_cmpint(put(&rig, 0, 'a', 0), ==, 0);
    g_atomic_int_set(&rig.server->dies_in_flush, 1);
    g_test_expect_message(NULL, G_LOG_LEVEL_MESSAGE, "*lost the connection*");
    g_test_expect_message(NULL, G_LOG_LEVEL_MESSAGE, "*connected to*");
    flush_tells_of(&rig, 1);
    g_assert_cmpint(fixture_flush(rig.f, rig.blk), ==, 0);
    rig_clear(&rig);
}

/* Each user who has written hears of it, once; not one who has come later, or has only read. */
static void test_forgotten_by_all(void)
{
    BlockBackend *second, *third, *reader;
    Rig rig;

    rig_init(&rig, ", 'reconnect-delay': 60");
    second = fixture_backend(rig.f, "n", "second", BLOCK_PERM_WRITE, BLOCK_PERM_ALL);
    reader = fixture_backend(rig.f, "n", "reader", BLOCK_PERM_WRITE, BLOCK_PERM_ALL);
    g_assert_cmpint(put(&rig, 0, 'a', 0), ==, 0);
    g_assert_cmpint(fixture_fill(rig.f, second, 512, 512, 'b'), ==, 0);
    crash(&rig);
    flush_tells_of(&rig, 2);
    third = fixture_backend(rig.f, "n", "third", BLOCK_PERM_WRITE, BLOCK_PERM_ALL);
    g_assert_cmpint(fixture_flush(rig.f, third), ==, 0);
    g_assert_cmpint(fixture_flush(rig.f, rig.blk), ==, 0);
    g_assert_cmpint(fixture_flush(rig.f, second), ==, -EIO);
    g_assert_cmpint(fixture_flush(rig.f, second), ==, 0);
    g_assert_cmpint(fixture_flush(rig.f, reader), ==, 0);
    fixture_free_backend(rig.f, reader);
    fixture_free_backend(rig.f, second);
    fixture_free_backend(rig.f, third);
    rig_clear(&rig);
}

static void test_keeps_writes(void)
{
    Rig rig;

    rig_init(&rig, ", 'reconnect-delay': 60, 'keeps-writes': true");
    g_assert_cmpint(put(&rig, 0, 'a', 0), ==, 0);
    crash(&rig);
    g_assert_cmpint(fixture_flush(rig.f, rig.blk), ==, 0);
    rig_clear(&rig);
}

static void test_silence(void)
{
    guint8 buffer[512];
    Rig rig;

    rig_init(&rig, ", 'reply-timeout': 1");
    for (unsigned i = 0; i < 40; i++) {
        g_assert_cmpint(fixture_read(rig.f, rig.blk, 0, buffer, 512), ==, 0);
    }
    g_atomic_int_set(&rig.server->silent, 1);
    g_assert_cmpint(fixture_read(rig.f, rig.blk, 0, buffer, 512), ==, -EIO);
    rig_clear(&rig);
}

/* One thread's worth of requests while connections come and go. */
typedef struct Load {
    Rig *rig;
    unsigned seed;
    unsigned *left;
} Load;

static void co_fn co_load(void *opaque)
{
    Load *load = opaque;
    g_autofree guint8 *buffer = g_malloc(4096), *expected = g_malloc(4096);
    uint64_t base = (uint64_t)load->seed * 65536;

    for (unsigned i = 0; i < 200; i++) {
        uint64_t offset = base + i % 16 * 4096;

        memset(expected, i + load->seed, 4096);
        g_assert_cmpint(blk_co_pwritev(load->rig->blk, offset, IOV_LOCAL(expected, 4096), 0), ==,
                        0);
        g_assert_cmpint(blk_co_preadv(load->rig->blk, offset, IOV_LOCAL(buffer, 4096), 0), ==, 0);
        g_assert_true(memcmp(buffer, expected, 4096) == 0);
    }
    __atomic_sub_fetch(load->left, 1, __ATOMIC_RELEASE);
}

/* Until all loads have come to their end. */
static void rig_await(Rig *rig, const unsigned *left)
{
    while (__atomic_load_n(left, __ATOMIC_ACQUIRE)) {
        aio_context_poll(rig->f->main, false);
        g_usleep(100);
    }
}

static void test_threads(void)
{
    unsigned left = 12;
    Load loads[12];
    Rig rig;

    rig_init(&rig, ", 'reconnect-delay': 60");
    fixture_start_threads(rig.f);
    g_atomic_int_set(&rig.server->dies_after, 150);
    server_cut(rig.server);
    for (unsigned i = 0; i < G_N_ELEMENTS(loads); i++) {
        loads[i] = (Load){&rig, i, &left};
        aio_co_enter(i % 4 ? fixture_thread(rig.f, i % 4 - 1) : rig.f->main, co_load, &loads[i]);
    }
    rig_await(&rig, &left);
    g_assert_cmpint(g_atomic_int_get(&rig.server->connections), >, 10);
    g_atomic_int_set(&rig.server->dies_after, 0);
    g_test_expect_message(NULL, G_LOG_LEVEL_WARNING, "*unflushed writes*");
    g_assert_cmpint(fixture_flush(rig.f, rig.blk), ==, -EIO);
    g_test_assert_expected_messages();
    rig_clear(&rig);
}

/* ---- requests that come one by one ---- */

#define CALM_REQUESTS 40

/* The processor time (ns) that the thread of node 'n' has used. */
static int64_t home_time(void)
{
    g_autoptr(GDir) tasks = g_dir_open("/proc/self/task", 0, NULL);
    const char *tid;

    while ((tid = g_dir_read_name(tasks))) {
        g_autofree char *path = g_build_filename("/proc/self/task", tid, "comm", NULL);
        g_autofree char *name = NULL;

        if (g_file_get_contents(path, &name, NULL, NULL) && g_str_equal(name, "nbd-n\n")) {
            /* The kernel's name for the clock of a thread; the C library knows none of others. */
            clockid_t clock = (~(clockid_t)g_ascii_strtoll(tid, NULL, 10) * 8) | 6;
            struct timespec ts;

            g_assert_no_errno(clock_gettime(clock, &ts));
            return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
        }
    }
    g_assert_not_reached();
}

typedef struct Calm {
    Rig *rig;
    unsigned requests;
    size_t also; /* after them one that large; 0: none */
    bool fua;    /* they are writes that are to be durable */
    unsigned *left;
} Calm;

static int co_fn co_calm_request(const Calm *calm, uint64_t offset)
{
    guint8 buffer[512] = "";

    return calm->fua ? blk_co_pwritev(calm->rig->blk, offset, IOV_LOCAL(buffer, sizeof(buffer)),
                                      BLOCK_REQ_FUA)
                     : blk_co_preadv(calm->rig->blk, offset, IOV_LOCAL(buffer, sizeof(buffer)), 0);
}

static void co_fn co_calm(void *opaque)
{
    Calm *calm = opaque;
    g_autofree guint8 *large = g_malloc(calm->also);

    for (unsigned i = 0; i < calm->requests; i++) {
        g_assert_cmpint(co_calm_request(calm, i * 512), ==, 0);
    }
    if (calm->also) {
        g_assert_cmpint(blk_co_preadv(calm->rig->blk, 0, IOV_LOCAL(large, calm->also), 0), ==, 0);
    }
    __atomic_sub_fetch(calm->left, 1, __ATOMIC_RELEASE);
}

/* Such ones, @depth at a time, in @ctx. */
static void rig_run_calm(Calm calm, AioContext *ctx, unsigned depth)
{
    unsigned left = depth;

    calm.left = &left;
    for (unsigned i = 0; i < depth; i++) {
        aio_co_enter(ctx, co_calm, &calm);
    }
    rig_await(calm.rig, &left);
}

static void rig_be_calm(Rig *rig, AioContext *ctx, unsigned requests, size_t also)
{
    rig_run_calm((Calm){.rig = rig, .requests = requests, .also = also}, ctx, 1);
}

/* They are carried out where they come from, without the node's own thread. */
static void assert_lent(Rig *rig, unsigned depth, bool fua)
{
    int64_t until = g_get_monotonic_time() + 60 * G_USEC_PER_SEC;
    int64_t spent;

    do { /* where the machine is busy, not always */
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        spent = home_time();
        rig_run_calm((Calm){.rig = rig, .requests = CALM_REQUESTS, .fua = fua},
                     fixture_thread(rig->f, 0), depth);
        spent = home_time() - spent;
    } while (spent > CALM_REQUESTS * 1000);
}

static void test_lent(void)
{
    static const char *const options[] = {"", ", 'reply-timeout': 60"};

    for (unsigned i = 0; i < G_N_ELEMENTS(options); i++) {
        Rig rig;

        rig_init(&rig, options[i]);
        fixture_start_threads(rig.f);
        assert_lent(&rig, 1, false);
        rig_clear(&rig);
    }
}

/* Also those of one context that come while others of it are under way. */
static void test_lent_and_shared(void)
{
    Rig rig;

    rig_init(&rig, "");
    fixture_start_threads(rig.f);
    assert_lent(&rig, 2, false);
    assert_lent(&rig, 8, false);
    rig_clear(&rig);
}

/* Writes with FUA, too, from a connection on whose server knows that. */
static void test_lent_for_fua(void)
{
    Rig rig;

    rig_init(&rig, ", 'reconnect-delay': 60");
    fixture_start_threads(rig.f);
    rig_run_calm((Calm){.rig = &rig, .requests = CALM_REQUESTS, .fua = true},
                 fixture_thread(rig.f, 0), 2);
    g_assert_cmpint(g_atomic_int_get(&rig.server->flushes), ==, 2 * CALM_REQUESTS);
    g_atomic_int_set(&rig.server->knows_fua, 1);
    server_cut(rig.server);
    assert_lent(&rig, 1, true);
    g_assert_cmpint(g_atomic_int_get(&rig.server->flushes), ==, 2 * CALM_REQUESTS);
    rig_clear(&rig);
}

/* What the thread of the node has seen come may have been received by others since. */
static void test_lent_and_back(void)
{
    Rig rig;

    rig_init(&rig, "");
    fixture_start_threads(rig.f);
    for (unsigned i = 0; i < 300; i++) {
        AioContext *ctx = i % 4 ? fixture_thread(rig.f, i % 3) : rig.f->main;

        rig_be_calm(&rig, ctx, CALM_REQUESTS, i % 2 ? 128 * 1024 : 0);
    }
    rig_clear(&rig);
}

/* Several at a time, of which one goes on at once and the others after a while. */
static void co_fn co_uneven(void *opaque)
{
    Load *load = opaque;
    guint8 buffer[4096], expected[4096];

    for (unsigned i = 0; i < 300; i++) {
        uint64_t offset = load->seed * 65536 + i % 16 * 4096;

        memset(expected, i + load->seed, sizeof(expected));
        g_assert_cmpint(blk_co_pwritev(load->rig->blk, offset, IOV_LOCAL(expected, 4096), 0), ==,
                        0);
        g_assert_cmpint(blk_co_preadv(load->rig->blk, offset, IOV_LOCAL(buffer, 4096), 0), ==, 0);
        g_assert_true(memcmp(buffer, expected, sizeof(buffer)) == 0);
        if (load->seed && i % 4 == 0) {
            aio_co_sleep_ns(load->seed * 3000000);
        }
    }
    __atomic_sub_fetch(load->left, 1, __ATOMIC_RELEASE);
}

static void test_lent_to_several(void)
{
    unsigned left = 3;
    Load loads[3];
    Rig rig;

    rig_init(&rig, ", 'reconnect-delay': 60, 'keeps-writes': true");
    fixture_start_threads(rig.f);
    g_atomic_int_set(&rig.server->dies_after, 130);
    g_atomic_int_set(&rig.server->slow_every, 31);
    server_cut(rig.server);
    for (unsigned i = 0; i < G_N_ELEMENTS(loads); i++) {
        loads[i] = (Load){&rig, i, &left};
        aio_co_enter(i < 2 ? fixture_thread(rig.f, i) : rig.f->main, co_uneven, &loads[i]);
    }
    rig_await(&rig, &left);
    g_assert_cmpint(g_atomic_int_get(&rig.server->connections), >, 10);
    rig_clear(&rig);
}

/* A server that says that it shuts down is asked nothing more, wherever it has said so. */
static void test_lent_and_goodbye(void)
{
    Rig rig;

    rig_init(&rig, ", 'reconnect-delay': 60");
    fixture_start_threads(rig.f);
    for (int i = 2; i < 10; i++) {
        assert_lent(&rig, 1, false);
        g_atomic_int_set(&rig.server->trouble, TROUBLE_GOODBYE);
        g_atomic_int_set(&rig.server->trouble_in, 1);
        rig_be_calm(&rig, fixture_thread(rig.f, 0), 1, 0);
        g_assert_cmpint(g_atomic_int_get(&rig.server->connections), ==, i);
    }
    rig_clear(&rig);
}

/* Whatever happens to one of them, all are carried out. */
static void test_lent_in_trouble(void)
{
    Rig rig;

    rig_init(&rig, ", 'reconnect-delay': 60, 'reply-timeout': 60, 'keeps-writes': true");
    fixture_start_threads(rig.f);
    for (int i = 0; i < 20 * N_TROUBLES; i++) {
        Calm calm = {.rig = &rig, .requests = CALM_REQUESTS, .fua = i % 2};

        g_atomic_int_set(&rig.server->trouble, i % N_TROUBLES);
        g_atomic_int_set(&rig.server->trouble_in, 1 + i * 7 % (3 * CALM_REQUESTS));
        g_atomic_int_set(&rig.server->knows_fua, i / N_TROUBLES % 2);
        rig_run_calm(calm, fixture_thread(rig.f, i % 3), 3);
    }
    g_assert_cmpint(g_atomic_int_get(&rig.server->connections), >, 10);
    rig_clear(&rig);
}

/* What was written from elsewhere counts as well. */
static void test_lent_and_forgotten(void)
{
    Rig rig;

    rig_init(&rig, ", 'reconnect-delay': 60");
    rig_be_calm(&rig, rig.f->main, CALM_REQUESTS, 0);
    g_assert_cmpint(put(&rig, 0, 'a', 0), ==, 0);
    g_assert_cmpint(put(&rig, 512, 'a', 0), ==, 0);
    crash(&rig);
    flush_tells_of(&rig, 2);
    g_assert_cmpint(fixture_flush(rig.f, rig.blk), ==, 0);
    rig_clear(&rig);
}

/* Nobody asks for anything, and yet the end of the connection is noticed. */
static void test_lent_and_cut(void)
{
    int64_t until = g_get_monotonic_time() + 30 * G_USEC_PER_SEC;
    Rig rig;

    rig_init(&rig, "");
    fixture_start_threads(rig.f);
    rig_be_calm(&rig, fixture_thread(rig.f, 0), CALM_REQUESTS, 0);
    server_cut(rig.server);
    while (g_atomic_int_get(&rig.server->connections) < 2) {
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        g_usleep(1000);
    }
    rig_clear(&rig);
}

typedef struct Waiting {
    BlockBackend *blk;
    int result;
    bool done;
} Waiting;

static void co_fn co_wait_for_server(void *opaque)
{
    Waiting *w = opaque;
    char buffer[512];

    w->result = blk_co_preadv(w->blk, 0, IOV_LOCAL(buffer, 512), 0);
    w->done = true;
}

/* At the end of the daemon nothing waits for a server that is away, or silent. */
static void test_given_up(void)
{
    for (int n = 0; n < 3; n++) {
        bool silent = n > 0, calm = n > 1;
        Waiting w = {.result = 1};
        Rig rig;

        rig_init(&rig, ", 'reconnect-delay': 3600");
        w.blk = rig.blk;
        if (calm) {
            rig_be_calm(&rig, rig.f->main, CALM_REQUESTS, 0);
        }
        g_atomic_int_set(&rig.server->silent, silent);
        if (!silent) {
            server_end(rig.server);
        }
        aio_co_enter(rig.f->main, co_wait_for_server, &w);
        fixture_settle(rig.f);
        g_assert_false(w.done);
        block_graph_give_up_waiting(rig.f->graph);
        fixture_wait(rig.f, &w.done);
        g_assert_cmpint(w.result, ==, -EIO);
        rig_clear(&rig);
    }
}

/* Closing while it is away, and while it is being connected to. */
static void test_close(void)
{
    Rig rig;

    rig_init(&rig, ", 'reconnect-delay': 3600");
    server_end(rig.server);
    rig_clear(&rig);
    for (unsigned i = 0; i < 5; i++) {
        rig_init(&rig, ", 'reconnect-delay': 3600");
        server_cut(rig.server);
        g_usleep(i * 1000);
        rig_clear(&rig);
    }
}

/* ---- one connection ---- */

typedef struct Direct {
    Server *server;
    Fixture *f;
    int fd;
    NbdConnection *connection;
    AioTimer *timer;
    bool may_go_away; /* although something is to follow */
    int result;
    bool done;
} Direct;

static void co_fn co_direct_open(void *opaque)
{
    Direct *d = opaque;
    g_autoptr(GError) error = NULL;

    d->connection = nbd_connection_co_open(d->fd, NULL, -1, "", G_MAXINT64, 0, &error);
    g_assert_no_error(error);
}

static void co_fn co_direct_read(void *opaque)
{
    Direct *d = opaque;
    char buffer[512];

    d->result = nbd_connection_co_pread(d->connection, 0, buffer, sizeof(buffer));
    d->done = true;
}

static void co_fn co_direct_close(void *opaque)
{
    Direct *d = opaque;

    nbd_connection_co_close(d->connection, 0);
}

static void direct_init(Direct *d)
{
    *d = (Direct){.server = server_new(), .f = fixture_new(), .result = 1};
    d->fd = socket_to(d->server);
    fixture_run(d->f, co_direct_open, d);
    fixture_settle(d->f);
}

static void direct_clear(Direct *d)
{
    fixture_run(d->f, co_direct_close, d);
    fixture_free(d->f);
    server_end(d->server);
    server_free(d->server);
}

/* @co's request ends, in a while. */
static void direct_run(Direct *d, CoroutineEntry *co)
{
    int64_t until = g_get_monotonic_time() + 30 * G_USEC_PER_SEC;

    aio_co_enter(d->f->main, co, d);
    while (!d->done) {
        g_assert_cmpint(g_get_monotonic_time(), <, until);
        aio_context_poll(d->f->main, false);
    }
    g_assert_cmpint(d->result, ==, 0);
}

/* The event loop tells of something to receive that is there no more, or was received already. */
static void test_nothing_has_come(void)
{
    Direct d;
    char byte;

    direct_init(&d);
    server_send(d.server, "x", 1);
    g_assert_cmpint(recv(d.fd, &byte, 1, MSG_DONTWAIT), ==, 1);
    fixture_settle(d.f);
    direct_run(&d, co_direct_read);
    direct_clear(&d);
}

static void co_fn co_direct_write(void *opaque)
{
    Direct *d = opaque;
    char buffer[512] = "";

    d->result = nbd_connection_co_pwrite(d->connection, 0, buffer, sizeof(buffer), BLOCK_REQ_FUA);
    d->done = true;
}

/* Also between the answer to the write and the coroutine that it has woken. */
static void on_turn(void *opaque)
{
    Direct *d = opaque;

    d->may_go_away |=
        g_atomic_int_get(&d->server->requests) == 1 && nbd_connection_may_go_away(d->connection);
    aio_timer_arm(d->timer, 0);
}

/* Where a flush is to follow a write, the connection stays for it. */
static void test_stays_for_flush(void)
{
    Direct d;

    direct_init(&d);
    d.timer = aio_timer_new(d.f->main, on_turn, &d);
    aio_timer_arm(d.timer, 0);
    direct_run(&d, co_direct_write);
    g_assert_cmpint(g_atomic_int_get(&d.server->flushes), ==, 1);
    g_assert_false(d.may_go_away);
    aio_timer_free(d.timer);
    direct_clear(&d);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd/requests", test_requests);
    g_test_add_func("/nbd/vectors", test_vectors);
    g_test_add_func("/nbd/no-delay", test_no_delay);
    g_test_add_func("/nbd/forgotten/told-once", test_forgotten);
    g_test_add_func("/nbd/forgotten/in-flush", test_forgotten_in_flush);
    g_test_add_func("/nbd/forgotten/by-all", test_forgotten_by_all);
    g_test_add_func("/nbd/forgotten/keeps-writes", test_keeps_writes);
    g_test_add_func("/nbd/silence", test_silence);
    g_test_add_func("/nbd/threads", test_threads);
    g_test_add_func("/nbd/lent/calm", test_lent);
    g_test_add_func("/nbd/lent/and-shared", test_lent_and_shared);
    g_test_add_func("/nbd/lent/for-fua", test_lent_for_fua);
    g_test_add_func("/nbd/lent/and-back", test_lent_and_back);
    g_test_add_func("/nbd/lent/to-several", test_lent_to_several);
    g_test_add_func("/nbd/lent/and-goodbye", test_lent_and_goodbye);
    g_test_add_func("/nbd/lent/in-trouble", test_lent_in_trouble);
    g_test_add_func("/nbd/lent/and-forgotten", test_lent_and_forgotten);
    g_test_add_func("/nbd/lent/and-cut", test_lent_and_cut);
    g_test_add_func("/nbd/given-up", test_given_up);
    g_test_add_func("/nbd/close", test_close);
    g_test_add_func("/nbd/nothing-has-come", test_nothing_has_come);
    g_test_add_func("/nbd/stays-for-flush", test_stays_for_flush);
    return g_test_run();
}
