/* SPDX-License-Identifier: GPL-2.0-or-later */
/* I/O and worker threads of coroutines: results, errors, more at once than there is room for. */
#include "aio/aio.h"
#include "aio/iothread.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static AioContext *new_context(const AioOptions *opts)
{
    g_autoptr(GError) error = NULL;
    AioContext *ctx = aio_context_new(opts, &error);

    g_assert_no_error(error);
    return ctx;
}

/* An empty file without a name, in @dir. */
static int temp_file(const char *dir)
{
    g_autofree char *path = g_build_filename(dir, "test-aio-XXXXXX", NULL);
    int fd = g_mkstemp(path);

    g_assert_cmpint(fd, >=, 0);
    unlink(path);
    return fd;
}

/* Run one coroutine to its end. */
typedef struct Run {
    CoroutineEntry *entry;
    void *opaque;
    bool done;
} Run;

static void co_fn run_entry(void *opaque)
{
    Run *run = opaque;

    run->entry(run->opaque);
    run->done = true;
}

static void run_in(AioContext *ctx, CoroutineEntry *entry, void *opaque)
{
    Run run = {entry, opaque, false};

    aio_co_enter(ctx, run_entry, &run);
    while (!run.done) {
        aio_context_poll(ctx, true);
    }
}

static void run_one(CoroutineEntry *entry, void *opaque)
{
    g_autoptr(AioContext) ctx = new_context(NULL);

    run_in(ctx, entry, opaque);
}

/* Reading and writing */

typedef struct Target {
    AioEngine engine;
    const char *dir;
} Target;

static void co_fn read_write(void *opaque)
{
    const Target *t = opaque;
    int fd = temp_file(t->dir);
    char a[5000], b[3000], in[8000];
    struct iovec out[2] = {{a, sizeof(a)}, {b, sizeof(b)}};
    struct iovec one = {in, sizeof(in)};
    struct iovec parts[3] = {{in, 1}, {in + 1, 5000}, {in + 5001, 2999}};
    struct stat st;

    memset(a, 'a', sizeof(a));
    memset(b, 'b', sizeof(b));
    g_assert_cmpint(aio_co_pwritev(t->engine, fd, out, 2, 100, 0), ==, 8000);
    g_assert_cmpint(aio_co_fsync(t->engine, fd, true), ==, 0);
    g_assert_cmpint(aio_co_fsync(t->engine, fd, false), ==, 0);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 8100);

    g_assert_cmpint(aio_co_preadv(t->engine, fd, &one, 1, 100, 0), ==, 8000);
    g_assert_cmpmem(in, 5000, a, 5000);
    g_assert_cmpmem(in + 5000, 3000, b, 3000);
    memset(in, 0, sizeof(in));
    g_assert_cmpint(aio_co_preadv(t->engine, fd, parts, 3, 100, 0), ==, 8000);
    g_assert_cmpmem(in, 5000, a, 5000);
    g_assert_cmpmem(in + 5000, 3000, b, 3000);

    /* Short at the end of the file, nothing past it; the gap in front is zeros. */
    g_assert_cmpint(aio_co_preadv(t->engine, fd, &one, 1, 8000, 0), ==, 100);
    g_assert_cmpint(aio_co_preadv(t->engine, fd, &one, 1, 9000, 0), ==, 0);
    one.iov_len = 100;
    g_assert_cmpint(aio_co_preadv(t->engine, fd, &one, 1, 0, 0), ==, 100);
    for (int i = 0; i < 100; i++) {
        g_assert_cmpint(in[i], ==, 0);
    }

    g_assert_cmpint(aio_co_pwritev(t->engine, fd, out, 1, 0, RWF_DSYNC), ==, 5000);
    one.iov_len = 0;
    g_assert_cmpint(aio_co_preadv(t->engine, fd, &one, 1, 0, 0), ==, 0);
    close(fd);
}

static void co_fn allocate(void *opaque)
{
    const Target *t = opaque;
    int fd = temp_file(t->dir);
    char c = 'x';
    struct iovec iov = {&c, 1};
    struct stat st;

    g_assert_cmpint(aio_co_fallocate(t->engine, fd, 0, 0, 1 << 20), ==, 0);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 1 << 20);
    g_assert_cmpint(aio_co_pwritev(t->engine, fd, &iov, 1, 5000, 0), ==, 1);
    g_assert_cmpint(
        aio_co_fallocate(t->engine, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 19), ==,
        0);
    g_assert_cmpint(aio_co_preadv(t->engine, fd, &iov, 1, 5000, 0), ==, 1);
    g_assert_cmpint(c, ==, 0);
    g_assert_cmpint(aio_co_fallocate(t->engine, fd, 0, 0, 0), ==, -EINVAL);
    close(fd);
}

/* Errors come as the system call gives them. */
static void co_fn errors(void *opaque)
{
    const Target *t = opaque;
    g_autofree char *path = g_build_filename(t->dir, "test-aio-XXXXXX", NULL);
    int rw = g_mkstemp(path);
    int ro = open(path, O_RDONLY | O_CLOEXEC);
    int dir = open(t->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char c = 0;
    struct iovec iov = {&c, 1};
    struct iovec bad = {(void *)16, 1};

    unlink(path);
    g_assert_cmpint(aio_co_pwritev(t->engine, ro, &iov, 1, 0, 0), ==, -EBADF);
    g_assert_cmpint(aio_co_preadv(t->engine, dir, &iov, 1, 0, 0), ==, -EISDIR);
    g_assert_cmpint(aio_co_preadv(t->engine, 1 << 20, &iov, 1, 0, 0), ==, -EBADF);
    g_assert_cmpint(aio_co_fsync(t->engine, 1 << 20, true), ==, -EBADF);
    g_assert_cmpint(aio_co_pwritev(t->engine, rw, &bad, 1, 0, 0), ==, -EFAULT);
    g_assert_cmpint(aio_co_pwritev(t->engine, rw, &iov, 1, G_MAXINT64, 0), ==, -EINVAL);
    g_assert_cmpint(aio_co_fallocate(t->engine, ro, 0, 0, 1), ==, -EBADF);
    close(rw);
    close(ro);
    close(dir);
}

static const char *const dirs[] = {"/tmp", "/dev/shm"};

static void for_all_targets(CoroutineEntry *entry)
{
    for (guint i = 0; i < G_N_ELEMENTS(dirs); i++) {
        for (AioEngine e = AIO_ENGINE_DEFAULT; e <= AIO_ENGINE_INLINE; e++) {
            Target t = {e, dirs[i]};

            if (g_access(dirs[i], W_OK) == 0) {
                run_one(entry, &t);
            }
        }
    }
}

static void test_read_write(void)
{
    for_all_targets(read_write);
}

static void test_fallocate(void)
{
    for_all_targets(allocate);
}

static void test_errors(void)
{
    for_all_targets(errors);
}

/* What is not in the page cache, or only in part, is read all the same. */
static void co_fn read_uncached(void *opaque)
{
    enum {
        SIZE = 1 << 20
    };
    int fd = temp_file("/tmp");
    g_autofree char *out = g_malloc(SIZE);
    g_autofree char *in = g_malloc(SIZE);
    struct iovec iov = {out, SIZE};

    for (int i = 0; i < SIZE; i++) {
        out[i] = i * 7 / 3;
    }
    g_assert_cmpint(aio_co_pwritev(AIO_ENGINE_CACHED, fd, &iov, 1, 0, 0), ==, SIZE);
    g_assert_cmpint(aio_co_fsync(AIO_ENGINE_CACHED, fd, false), ==, 0);
    for (int i = 0; i < 200; i++) {
        uint64_t offset = i * 4099;

        if (i % 2) {
            posix_fadvise(fd, i * 4096, 8192, POSIX_FADV_DONTNEED);
        }
        iov = (struct iovec){in, 20000};
        g_assert_cmpint(aio_co_preadv(AIO_ENGINE_CACHED, fd, &iov, 1, offset, 0), ==, 20000);
        g_assert_cmpmem(in, 20000, out + offset, 20000);
    }
    close(fd);
}

static void test_uncached(void)
{
    run_one(read_uncached, NULL);
}

static void test_engine_for_file(void)
{
    int disk = temp_file("/tmp"), memory = memfd_create("test-aio", MFD_CLOEXEC);
    int pipes[2];

    g_assert_cmpint(pipe2(pipes, O_CLOEXEC), ==, 0);
    g_assert_cmpint(aio_engine_for_file(memory), ==, AIO_ENGINE_INLINE);
    g_assert_cmpint(aio_engine_for_file(disk), !=, AIO_ENGINE_THREADS);
    g_assert_cmpint(aio_engine_for_file(pipes[0]), ==, AIO_ENGINE_DEFAULT);
    g_assert_cmpint(aio_engine_for_file(-1), ==, AIO_ENGINE_DEFAULT);
    if (aio_engine_for_file(disk) != AIO_ENGINE_INLINE && fcntl(disk, F_SETFL, O_DIRECT) == 0) {
        g_assert_cmpint(aio_engine_for_file(disk), ==, AIO_ENGINE_DIRECT);
    }
    close(disk);
    close(memory);
    close(pipes[0]);
    close(pipes[1]);
}

#define SPLICED (512 * 1024)

/* Splice @bytes from @offset on, and if something came, see that it is what the file holds. */
static ssize_t splice_and_compare(int fd, uint64_t offset, size_t bytes)
{
    g_autofree char *spliced = g_malloc(SPLICED), *held = g_malloc(SPLICED);
    int pipes[2];
    ssize_t n;

    g_assert_cmpint(pipe2(pipes, O_CLOEXEC | O_NONBLOCK), ==, 0);
    g_assert_cmpint(fcntl(pipes[1], F_SETPIPE_SZ, SPLICED), >=, SPLICED);
    n = aio_splice_cached(aio_engine_for_file(fd), fd, offset, bytes, pipes[1]);
    if (n > 0) {
        ssize_t at = 0;

        while (at < n) {
            ssize_t got = read(pipes[0], spliced + at, n - at);

            g_assert_cmpint(got, >, 0);
            at += got;
        }
        g_assert_cmpint(pread(fd, held, n, (off_t)offset), ==, n);
        g_assert_cmpmem(spliced, n, held, n);
    }
    close(pipes[0]);
    close(pipes[1]);
    return n;
}

/* A file with bytes other than zero, but for its third quarter. */
static int spliced_file(const char *dir)
{
    g_autofree char *data = g_malloc(SPLICED);
    int fd = temp_file(dir);

    for (unsigned i = 0; i < SPLICED; i++) {
        data[i] = i / (SPLICED / 4) == 2 ? 0 : (char)(i % 251 + 1);
    }
    g_assert_cmpint(pwrite(fd, data, SPLICED, 0), ==, SPLICED);
    return fd;
}

static void test_splice_memory(void)
{
    int fd = spliced_file("/dev/shm");

    g_assert_true(aio_can_splice(fd, aio_engine_for_file(fd)));
    g_assert_false(aio_can_splice(fd, AIO_ENGINE_THREADS));
    g_assert_cmpint(splice_and_compare(fd, 0, SPLICED / 2), ==, SPLICED / 2);
    g_assert_cmpint(splice_and_compare(fd, 12345, 100000), ==, 100000);
    g_assert_cmpint(splice_and_compare(fd, SPLICED - 70000, 70000), ==, 70000);
    g_assert_cmpint(splice_and_compare(fd, 5, 64), ==, 64);
    g_assert_cmpint(splice_and_compare(fd, 5, 63), ==, -EAGAIN);
    /* zeros, the end, what is behind it */
    g_assert_cmpint(splice_and_compare(fd, SPLICED / 2, 64 * 1024), ==, -EAGAIN);
    g_assert_cmpint(splice_and_compare(fd, 0, SPLICED), ==, -EAGAIN);
    g_assert_cmpint(splice_and_compare(fd, SPLICED - 70000, 70001), ==, -EAGAIN);
    g_assert_cmpint(splice_and_compare(fd, SPLICED, 4096), ==, -EAGAIN);
    close(fd);
}

/* On a disk nothing is waited for: what the page cache does not hold is to be read. */
static void test_splice_disk(void)
{
    int fd = spliced_file("/tmp");
    char byte;

    if (!aio_can_splice(fd, aio_engine_for_file(fd)) ||
        aio_engine_for_file(fd) != AIO_ENGINE_CACHED) {
        g_test_skip("the file system of /tmp is none that is spliced from");
    } else if (splice_and_compare(fd, 0, 100000) == -EAGAIN) {
        g_test_skip("this kernel does not tell what is cached");
    } else {
        g_assert_cmpint(splice_and_compare(fd, 0, SPLICED / 2), ==, SPLICED / 2);
        g_assert_cmpint(fsync(fd), ==, 0);
        g_assert_cmpint(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), ==, 0);
        g_assert_cmpint(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), ==, 0);
        g_assert_cmpint(splice_and_compare(fd, 0, SPLICED / 2), ==, -EAGAIN);
        g_assert_cmpint(pread(fd, &byte, 1, 0), ==, 1);
        g_assert_cmpint(splice_and_compare(fd, 0, SPLICED / 2), ==, -EAGAIN);
    }
    close(fd);
}

/* Many requests at once: more than the ring has entries, more than there may be threads. */

typedef struct Many {
    int fd;
    AioEngine engine;
    unsigned running;
} Many;

typedef struct Slot {
    Many *many;
    unsigned number;
} Slot;

static void co_fn write_slot(void *opaque)
{
    Slot *s = opaque;
    unsigned out = s->number, in = 0;
    struct iovec iov = {&out, sizeof(out)};

    for (unsigned round = 0; round < 3; round++) {
        out = s->number * 3 + round;
        iov.iov_base = &out;
        g_assert_cmpint(
            aio_co_pwritev(s->many->engine, s->many->fd, &iov, 1, s->number * sizeof(out), 0), ==,
            sizeof(out));
        iov.iov_base = &in;
        g_assert_cmpint(
            aio_co_preadv(s->many->engine, s->many->fd, &iov, 1, s->number * sizeof(out), 0), ==,
            sizeof(in));
        g_assert_cmpuint(in, ==, out);
    }
    s->many->running--;
}

static void run_many(AioEngine engine, const char *dir, const AioOptions *opts, unsigned n)
{
    g_autoptr(AioContext) ctx = new_context(opts);
    g_autofree Slot *slots = g_new(Slot, n);
    Many many = {temp_file(dir), engine, n};

    for (unsigned i = 0; i < n; i++) {
        slots[i] = (Slot){&many, i};
        aio_co_enter(ctx, write_slot, &slots[i]);
    }
    while (many.running) {
        aio_context_poll(ctx, true);
    }
    close(many.fd);
}

static void test_many(void)
{
    static const AioOptions batched = {.max_batch = 8};
    static const AioOptions few_workers = {.workers_max = 2};

    run_many(AIO_ENGINE_DEFAULT, "/tmp", NULL, 1500);
    run_many(AIO_ENGINE_DEFAULT, "/tmp", &batched, 100);
    run_many(AIO_ENGINE_DEFAULT, "/tmp", &few_workers, 100);
    run_many(AIO_ENGINE_THREADS, "/tmp", &few_workers, 300);
}

/* The same in a context that GLib runs. */

typedef struct UnderGlib {
    Many many;
    GMainLoop *loop;
    AioContext *ctx;
} UnderGlib;

static void co_fn io_under_glib(void *opaque)
{
    UnderGlib *g = opaque;
    Target t = {AIO_ENGINE_DEFAULT, "/tmp"};

    read_write(&t);
    allocate(&t);
    t.engine = AIO_ENGINE_THREADS;
    read_write(&t);
    g_main_loop_quit(g->loop);
}

static void test_glib(void)
{
    g_autoptr(AioContext) ctx = new_context(NULL);
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
    GSource *source = aio_context_attach_glib(ctx, NULL);
    UnderGlib g = {.loop = loop, .ctx = ctx};

    for (int i = 0; i < 20; i++) {
        aio_co_enter(ctx, io_under_glib, &g);
        g_main_loop_run(loop);
    }
    g_source_destroy(source);
    g_source_unref(source);
}

/* Workers */

static int add_one(void *opaque)
{
    return ++*(int *)opaque;
}

static void co_fn use_worker(void *opaque)
{
    int n = 41;

    g_assert_cmpint(aio_co_run_worker(add_one, &n), ==, 42);
    g_assert_cmpint(aio_co_run_worker(add_one, &n), ==, 43);
}

static void test_worker(void)
{
    run_one(use_worker, NULL);
}

/* Workers that block hold nobody else up. */

typedef struct Blockade {
    GMutex lock;
    GCond changed;
    unsigned inside;
    bool open;
    unsigned running; /* the context's */
    unsigned passed;  /* the context's */
} Blockade;

static int block_here(void *opaque)
{
    Blockade *b = opaque;

    g_mutex_lock(&b->lock);
    b->inside++;
    g_cond_broadcast(&b->changed);
    while (!b->open) {
        g_cond_wait(&b->changed, &b->lock);
    }
    g_mutex_unlock(&b->lock);
    return 0;
}

static void co_fn blocker(void *opaque)
{
    Blockade *b = opaque;

    aio_co_run_worker(block_here, b);
    b->running--;
}

static int quick(void *opaque)
{
    return 0;
}

static void co_fn passer(void *opaque)
{
    Blockade *b = opaque;

    aio_co_run_worker(quick, NULL);
    b->passed++;
}

static void test_blocked_workers(void)
{
    g_autoptr(AioContext) ctx = new_context(NULL);
    Blockade b = {.running = 40};

    for (unsigned i = 0; i < 40; i++) {
        aio_co_enter(ctx, blocker, &b);
    }
    while (aio_context_poll(ctx, false)) {
    }
    g_mutex_lock(&b.lock);
    while (b.inside < 40) {
        g_cond_wait(&b.changed, &b.lock);
    }
    g_mutex_unlock(&b.lock);

    for (unsigned i = 1; i <= 5; i++) {
        aio_co_enter(ctx, passer, &b);
        while (b.passed < i) {
            aio_context_poll(ctx, true);
        }
    }
    g_mutex_lock(&b.lock);
    b.open = true;
    g_cond_broadcast(&b.changed);
    g_mutex_unlock(&b.lock);
    while (b.running) {
        aio_context_poll(ctx, true);
    }
}

/* No more threads than allowed, and all requests are done all the same. */

typedef struct Crowd {
    int inside;
    int most;
    unsigned running; /* the context's */
} Crowd;

static int be_inside(void *opaque)
{
    Crowd *c = opaque;
    int now = __atomic_add_fetch(&c->inside, 1, __ATOMIC_SEQ_CST);
    int most = __atomic_load_n(&c->most, __ATOMIC_SEQ_CST);

    while (now > most && !__atomic_compare_exchange_n(&c->most, &most, now, false, __ATOMIC_SEQ_CST,
                                                      __ATOMIC_SEQ_CST)) {
    }
    g_usleep(100);
    __atomic_sub_fetch(&c->inside, 1, __ATOMIC_SEQ_CST);
    return 0;
}

static void co_fn crowd_member(void *opaque)
{
    Crowd *c = opaque;

    aio_co_run_worker(be_inside, c);
    c->running--;
}

static void test_worker_limits(void)
{
    static const AioOptions three = {.workers_max = 3};
    static const AioOptions one = {.workers_max = 1};
    g_autoptr(AioContext) ctx = new_context(&three);
    Crowd c = {.running = 100};

    for (int i = 0; i < 100; i++) {
        aio_co_enter(ctx, crowd_member, &c);
    }
    while (c.running) {
        aio_context_poll(ctx, true);
    }
    g_assert_cmpint(c.most, <=, 3);

    aio_context_set_options(ctx, &one);
    c = (Crowd){.running = 0};
    while (aio_context_poll(ctx, false)) {
    }
    for (int i = 0; i < 20; i++) {
        c.running++;
        aio_co_enter(ctx, crowd_member, &c);
    }
    while (c.running) {
        aio_context_poll(ctx, true);
    }
}

/* Whoever waits for workers of the same context takes none from them. */

typedef struct Dependents {
    GMutex lock;
    GCond cond;
    int done; /* calls of do_one(), under lock */
    int wanted;
    int running; /* coroutines */
} Dependents;

static int wait_for_all(void *opaque)
{
    Dependents *d = opaque;

    g_mutex_lock(&d->lock);
    while (d->done < d->wanted) {
        g_cond_wait(&d->cond, &d->lock);
    }
    g_mutex_unlock(&d->lock);
    return 0;
}

static int do_one(void *opaque)
{
    Dependents *d = opaque;

    g_mutex_lock(&d->lock);
    d->done++;
    g_cond_broadcast(&d->cond);
    g_mutex_unlock(&d->lock);
    return 0;
}

static void co_fn dependent(void *opaque)
{
    Dependents *d = opaque;

    aio_co_run_worker_apart(wait_for_all, d);
    d->running--;
}

static void co_fn worker_user(void *opaque)
{
    Dependents *d = opaque;

    aio_co_run_worker(do_one, d);
    d->running--;
}

static void test_workers_apart(void)
{
    static const AioOptions two = {.workers_max = 2};
    g_autoptr(AioContext) ctx = new_context(&two);
    Dependents d = {.wanted = 10};

    g_mutex_init(&d.lock);
    g_cond_init(&d.cond);
    for (int i = 0; i < 20; i++) {
        d.running++;
        aio_co_enter(ctx, dependent, &d);
    }
    for (int i = 0; i < d.wanted; i++) {
        d.running++;
        aio_co_enter(ctx, worker_user, &d);
    }
    while (d.running) {
        aio_context_poll(ctx, true);
    }
    g_assert_cmpint(d.done, ==, d.wanted);
    g_cond_clear(&d.cond);
    g_mutex_clear(&d.lock);
}

/* Requests of several iothreads at once, on one file. */

typedef struct Shared {
    AioContext *main;
    int fd;
    unsigned running; /* main context only */
} Shared;

typedef struct Part {
    Shared *shared;
    unsigned number;
} Part;

static void part_done(void *opaque)
{
    ((Shared *)opaque)->running--;
}

static void co_fn write_part(void *opaque)
{
    Part *p = opaque;
    unsigned char out[512], in[512];
    struct iovec iov = {out, sizeof(out)};

    for (unsigned i = 0; i < 50; i++) {
        AioEngine engine = i % 4 ? AIO_ENGINE_DEFAULT : AIO_ENGINE_THREADS;

        memset(out, p->number + i, sizeof(out));
        iov.iov_base = out;
        g_assert_cmpint(aio_co_pwritev(engine, p->shared->fd, &iov, 1, p->number * 512, 0), ==,
                        512);
        iov.iov_base = in;
        g_assert_cmpint(aio_co_preadv(engine, p->shared->fd, &iov, 1, p->number * 512, 0), ==, 512);
        g_assert_cmpmem(in, 512, out, 512);
    }
    aio_bh_schedule_oneshot(p->shared->main, part_done, p->shared);
}

static void test_threads(void)
{
    enum {
        THREADS = 3,
        PARTS = 8
    };
    g_autoptr(AioContext) main = new_context(NULL);
    Shared shared = {main, temp_file("/tmp"), THREADS * PARTS};
    Iothread *threads[THREADS];
    Part parts[THREADS * PARTS];

    for (int i = 0; i < THREADS; i++) {
        threads[i] = iothread_new("io", NULL, NULL);
        g_assert_nonnull(threads[i]);
    }
    for (int i = 0; i < THREADS * PARTS; i++) {
        parts[i] = (Part){&shared, i};
        aio_co_enter(iothread_context(threads[i % THREADS]), write_part, &parts[i]);
    }
    while (shared.running) {
        aio_context_poll(main, true);
    }
    for (int i = 0; i < THREADS; i++) {
        iothread_unref(threads[i]);
    }
    close(shared.fd);
}

/* Where no thread can be started, neither by us nor by the kernel's ring. */

#define OTHER_USER 65533 /* root is under no limit */

static void no_threads(void)
{
    Target t = {AIO_ENGINE_DEFAULT, "/tmp"};

    g_assert_cmpint(setrlimit(RLIMIT_NPROC, &(struct rlimit){1, 1}), ==, 0);
    if (geteuid() == 0) {
        g_assert_cmpint(setresuid(OTHER_USER, OTHER_USER, OTHER_USER), ==, 0);
    }
    run_one(read_write, &t);
    run_one(allocate, &t);
    _exit(0); /* what sanitizers do at the end takes threads, too */
}

static void test_no_threads(void)
{
    if (g_test_subprocess()) {
        no_threads();
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
    g_test_trap_assert_passed();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/io/read-write", test_read_write);
    g_test_add_func("/io/fallocate", test_fallocate);
    g_test_add_func("/io/errors", test_errors);
    g_test_add_func("/io/uncached", test_uncached);
    g_test_add_func("/io/engine-for-file", test_engine_for_file);
    g_test_add_func("/io/splice/memory", test_splice_memory);
    g_test_add_func("/io/splice/disk", test_splice_disk);
    g_test_add_func("/io/many", test_many);
    g_test_add_func("/io/glib", test_glib);
    g_test_add_func("/io/threads", test_threads);
    g_test_add_func("/io/no-threads", test_no_threads);
    g_test_add_func("/io/worker/result", test_worker);
    g_test_add_func("/io/worker/blocked", test_blocked_workers);
    g_test_add_func("/io/worker/limits", test_worker_limits);
    g_test_add_func("/io/worker/apart", test_workers_apart);
    return g_test_run();
}
