/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the event loop costs: a coroutine switch, a wake-up between threads, a request of the ring,
 * a read of 4 KiB. Prints "name value unit" lines.
 */
#include "aio/context-internal.h"
#include "aio/iothread.h"
#include "aio/lock.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_SIZE  4096
#define FILE_BLOCKS 1024

static void report(const char *name, int64_t ns, uint64_t n)
{
    double each = (double)ns / n;

    printf("%-32s %10.1f ns %12.0f 1/s\n", name, each, 1e9 / each);
    fflush(stdout);
}

static AioContext *new_context(const AioOptions *opts)
{
    g_autoptr(GError) error = NULL;
    AioContext *ctx = aio_context_new(opts, &error);

    if (!ctx) {
        g_error("%s", error->message);
    }
    return ctx;
}

/* Coroutines */

static void co_fn yield_for_ever(void *opaque)
{
    while (!*(bool *)opaque) {
        coroutine_yield();
    }
}

static void bench_switch(void)
{
    enum {
        N = 10000000
    };
    bool stop = false;
    Coroutine *co = coroutine_create(yield_for_ever, &stop);
    int64_t start = aio_now_ns();

    for (int i = 0; i < N; i++) {
        coroutine_enter(co);
    }
    report("coroutine-switch", aio_now_ns() - start, 2 * (uint64_t)N);
    stop = true;
    coroutine_enter(co);
}

static void co_fn empty(void *opaque)
{
}

static void bench_create(void)
{
    enum {
        N = 5000000
    };
    int64_t start = aio_now_ns();

    for (int i = 0; i < N; i++) {
        coroutine_enter(coroutine_create(empty, NULL));
    }
    report("coroutine-create-run", aio_now_ns() - start, N);
}

static void co_fn lock_unlock(void *opaque)
{
    enum {
        N = 5000000
    };
    CoMutex mutex = {0};
    CoRwlock rwlock = {0};
    int64_t start = aio_now_ns();

    for (int i = 0; i < N; i++) {
        co_mutex_lock(&mutex);
        co_mutex_unlock(&mutex);
    }
    report("mutex-lock-unlock", aio_now_ns() - start, N);

    start = aio_now_ns();
    for (int i = 0; i < N; i++) {
        co_rwlock_rdlock(&rwlock);
        co_rwlock_unlock(&rwlock);
    }
    report("rwlock-read-unlock", aio_now_ns() - start, N);
}

static void bench_locks(void)
{
    coroutine_enter(coroutine_create(lock_unlock, NULL));
}

/* Bottom halves between two threads */

typedef struct PingPong {
    AioContext *ctx[2];
    AioBh *bh[2];
    unsigned left;
    bool done; /* of ctx[0] */
} PingPong;

static void ping(void *opaque)
{
    PingPong *p = opaque;

    if (p->left-- == 0) {
        p->done = true;
    } else {
        aio_bh_schedule(p->bh[1]);
    }
}

static void pong(void *opaque)
{
    PingPong *p = opaque;

    aio_bh_schedule(p->bh[0]);
}

static void bench_ping_pong(const char *name, const AioOptions *opts)
{
    enum {
        N = 100000
    };
    g_autoptr(AioContext) ctx = new_context(opts);
    g_autoptr(Iothread) iothread = iothread_new("pong", opts, NULL);
    PingPong p = {.ctx = {ctx, iothread_context(iothread)}, .left = N};
    int64_t start = aio_now_ns();

    p.bh[0] = aio_bh_new(p.ctx[0], ping, &p);
    p.bh[1] = aio_bh_new(p.ctx[1], pong, &p);
    aio_bh_schedule(p.bh[0]);
    while (!p.done) {
        aio_context_poll(ctx, true);
    }
    report(name, aio_now_ns() - start, N);
    iothread_unref(g_steal_pointer(&iothread));
    aio_bh_free(p.bh[0]);
    aio_bh_free(p.bh[1]);
}

/* Requests */

typedef struct Requests {
    AioEngine engine;
    AioOp op;
    int fd;
    unsigned left;    /* to be begun */
    unsigned running; /* coroutines */
} Requests;

static void co_fn request_loop(void *opaque)
{
    Requests *r = opaque;
    g_autofree char *buffer = g_malloc(BLOCK_SIZE);
    struct iovec iov = {buffer, BLOCK_SIZE};
    unsigned seed = r->left;

    while (r->left > 0) {
        uint64_t offset = rand_r(&seed) % FILE_BLOCKS * BLOCK_SIZE;

        r->left--;
        switch (r->op) {
        case AIO_OP_READ:
            aio_co_preadv(r->engine, r->fd, &iov, 1, offset, 0);
            break;
        case AIO_OP_WRITE:
            aio_co_pwritev(r->engine, r->fd, &iov, 1, offset, 0);
            break;
        default:
            aio_co_nop(r->engine);
            break;
        }
    }
    r->running--;
}

static void bench_requests(const char *name, AioOp op, AioEngine engine, int fd, unsigned depth,
                           unsigned n)
{
    g_autoptr(AioContext) ctx = new_context(NULL);
    Requests r = {engine, op, fd, n, depth};
    int64_t start = aio_now_ns();

    for (unsigned i = 0; i < depth; i++) {
        aio_co_enter(ctx, request_loop, &r);
    }
    while (r.running) {
        aio_context_poll(ctx, true);
    }
    report(name, aio_now_ns() - start, n);
}

static int make_file(const char *dir)
{
    g_autofree char *path = g_build_filename(dir, "bench-aio-XXXXXX", NULL);
    g_autofree char *buffer = g_malloc0(BLOCK_SIZE);
    int fd = g_mkstemp(path);

    unlink(path);
    for (int i = 0; fd >= 0 && i < FILE_BLOCKS; i++) {
        if (write(fd, buffer, BLOCK_SIZE) != BLOCK_SIZE) {
            g_error("cannot write to a file in %s", dir);
        }
    }
    return fd;
}

static void bench_system_call(const char *name, int fd)
{
    enum {
        N = 1000000
    };
    g_autofree char *buffer = g_malloc(BLOCK_SIZE);
    unsigned seed = N;
    int64_t start = aio_now_ns();

    for (int i = 0; i < N; i++) {
        if (pread(fd, buffer, BLOCK_SIZE, rand_r(&seed) % FILE_BLOCKS * BLOCK_SIZE) < 0) {
            g_error("cannot read");
        }
    }
    report(name, aio_now_ns() - start, N);
}

/* For rows: what aio_engine_for_file() says. */
#define BEST ((AioEngine)-1)

static void bench_file(const char *name, const char *dir)
{
    static const struct {
        const char *name;
        AioOp op;
        AioEngine engine;
        unsigned depth;
        unsigned n;
    } rows[] = {
        {"read-best", AIO_OP_READ, BEST, 1, 300000},
        {"read-best-32", AIO_OP_READ, BEST, 32, 300000},
        {"read", AIO_OP_READ, AIO_ENGINE_DEFAULT, 1, 100000},
        {"read-32", AIO_OP_READ, AIO_ENGINE_DEFAULT, 32, 200000},
        {"read-workers", AIO_OP_READ, AIO_ENGINE_THREADS, 1, 50000},
        {"read-workers-32", AIO_OP_READ, AIO_ENGINE_THREADS, 32, 50000},
        {"write-best", AIO_OP_WRITE, BEST, 1, 50000},
        {"write", AIO_OP_WRITE, AIO_ENGINE_DEFAULT, 1, 50000},
        {"write-32", AIO_OP_WRITE, AIO_ENGINE_DEFAULT, 32, 50000},
        {"write-workers", AIO_OP_WRITE, AIO_ENGINE_THREADS, 1, 50000},
        {"write-workers-32", AIO_OP_WRITE, AIO_ENGINE_THREADS, 32, 50000},
    };
    g_autofree char *bare = g_strdup_printf("%s-pread", name);
    int fd = make_file(dir);

    if (fd < 0) {
        return;
    }
    bench_system_call(bare, fd);
    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *row = g_strdup_printf("%s-%s", name, rows[i].name);

        AioEngine engine = rows[i].engine == BEST ? aio_engine_for_file(fd) : rows[i].engine;

        bench_requests(row, rows[i].op, engine, fd, rows[i].depth, rows[i].n);
    }
    close(fd);
}

int main(int argc, char **argv)
{
    static const AioOptions asleep = {0};

    bench_switch();
    bench_create();
    bench_locks();
    bench_ping_pong("bh-ping-pong-asleep", &asleep);
    bench_ping_pong("bh-ping-pong-polling", NULL);
    bench_requests("ring-nop", AIO_OP_NOP, AIO_ENGINE_DEFAULT, -1, 1, 1000000);
    bench_requests("ring-nop-32", AIO_OP_NOP, AIO_ENGINE_DEFAULT, -1, 32, 3000000);
    bench_file("tmpfs", "/dev/shm");
    bench_file("disk", argc > 1 ? argv[1] : "/var/tmp");
    return 0;
}
