/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Buffers that the kernel keeps: found by address, used from the first request on as far as
 * requests have reached, forgotten before their memory goes, and done without where there is a
 * limit. Any file will do, for what is asked for is the engine.
 */
#include "aio/context-internal.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u
#define MIB  (1024u * 1024u)
#define SIZE (2 * MIB)

typedef struct Fixture {
    AioContext *ctx;
    int fd;    /* an empty file without a name */
    char *map; /* SIZE bytes */
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL;

    f->ctx = aio_context_new(NULL, &error);
    g_assert_no_error(error);
    aio_context_poll(f->ctx, false); /* whose it then is */
    f->fd = g_file_open_tmp("test-aio-buffer-XXXXXX", &path, &error);
    g_assert_no_error(error);
    unlink(path);
    f->map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(f->map != MAP_FAILED);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    munmap(f->map, SIZE);
    close(f->fd);
    aio_context_unref(f->ctx);
}

/* A test is one coroutine. */
typedef void co_fn TestFn(Fixture *f);

typedef struct Run {
    Fixture *f;
    TestFn *co_test;
    bool done;
} Run;

static void co_fn run_entry(void *opaque)
{
    Run *run = opaque;

    run->co_test(run->f);
    run->done = true;
}

static void run_test(Fixture *f, gconstpointer test)
{
    Run run = {f, (TestFn *)test, false};

    aio_co_enter(f->ctx, run_entry, &run);
    while (!run.done) {
        aio_context_poll(f->ctx, true);
    }
}

static bool keeps_buffers(const Fixture *f)
{
    return f->ctx->ops->buffer_keep;
}

/* What is there and then overwritten must come back from the file. */
static void co_fn co_round_trip(Fixture *f, size_t from, size_t bytes, uint64_t offset)
{
    struct iovec iov = {f->map + from, bytes};
    g_autofree char *wanted = g_malloc(bytes);

    for (size_t i = 0; i < bytes; i++) {
        wanted[i] = (char)(i * 7 + from + offset);
    }
    memcpy(iov.iov_base, wanted, bytes);
    g_assert_cmpint(aio_co_pwritev(AIO_ENGINE_DIRECT, f->fd, &iov, 1, offset, 0), ==, bytes);
    memset(iov.iov_base, 0x55, bytes);
    g_assert_cmpint(aio_co_preadv(AIO_ENGINE_DIRECT, f->fd, &iov, 1, offset, 0), ==, bytes);
    g_assert_cmpmem(iov.iov_base, bytes, wanted, bytes);
}

/* The same, by @kept requests to what the kernel keeps, of two. */
static void co_fn co_expect(Fixture *f, size_t from, size_t bytes, unsigned kept)
{
    uint64_t before = f->ctx->buffer_requests;

    co_round_trip(f, from, bytes, from);
    g_assert_cmpuint(f->ctx->buffer_requests - before, ==, keeps_buffers(f) ? kept : 0);
}

static void co_fn co_test_reach(Fixture *f)
{
    AioBuffer *buffer = aio_buffer_new(f->map + PAGE, MIB);
    struct iovec parts[] = {{f->map + PAGE, PAGE}, {f->map + 3 * PAGE, PAGE}};
    uint64_t before;

    g_assert_cmpint(buffer != NULL, ==, keeps_buffers(f));
    co_expect(f, PAGE, PAGE, 2);
    g_assert_cmpuint(buffer ? buffer->kept : PAGE, ==, PAGE);
    co_expect(f, PAGE, 1, 2);
    co_expect(f, 2 * PAGE + 512, 5000, 2);
    co_expect(f, PAGE + MIB - 100, 100, 2);
    g_assert_cmpuint(buffer ? buffer->kept : MIB, ==, MIB);
    co_expect(f, PAGE, MIB, 2);
    /* Beside it, and across its ends. */
    co_expect(f, 0, PAGE, 0);
    co_expect(f, PAGE - 1, 2, 0);
    co_expect(f, MIB, 2 * PAGE, 0);
    co_expect(f, MIB + PAGE, PAGE, 0);
    /* In several pieces. */
    before = f->ctx->buffer_requests;
    g_assert_cmpint(aio_co_pwritev(AIO_ENGINE_DIRECT, f->fd, parts, 2, 0, 0), ==, 2 * PAGE);
    g_assert_cmpint(aio_co_fsync(AIO_ENGINE_DIRECT, f->fd, true), ==, 0);
    g_assert_cmpuint(f->ctx->buffer_requests, ==, before);
    aio_buffer_free(buffer);
    co_expect(f, PAGE, PAGE, 0);
}

/* Only who asks for direct I/O costs locked memory. */
static void co_fn co_test_lazy(Fixture *f)
{
    AioBuffer *buffer = aio_buffer_new(f->map, MIB);
    struct iovec iov = {f->map, PAGE};

    for (AioEngine e = AIO_ENGINE_DEFAULT; e <= AIO_ENGINE_INLINE; e++) {
        if (e != AIO_ENGINE_DIRECT) {
            g_assert_cmpint(aio_co_pwritev(e, f->fd, &iov, 1, 0, 0), ==, PAGE);
        }
    }
    g_assert_cmpuint(buffer ? buffer->kept : 0, ==, 0);
    g_assert_cmpuint(f->ctx->buffer_requests, ==, 0);
    aio_buffer_free(buffer);
}

static void put_other_pages(Fixture *f)
{
    g_assert_true(mmap(f->map, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                       -1, 0) == f->map);
}

/* The reason to forget: without it a read goes to pages that are not there any more. */
static void co_fn co_test_forget(Fixture *f)
{
    AioBuffer *buffer = aio_buffer_new(f->map, MIB);
    struct iovec iov = {f->map, PAGE};

    aio_buffer_forget(buffer);
    co_expect(f, 0, PAGE, 2);
    put_other_pages(f);
    if (keeps_buffers(f)) {
        g_assert_cmpint(aio_co_preadv(AIO_ENGINE_DIRECT, f->fd, &iov, 1, 0, 0), ==, PAGE);
        g_assert_cmpint(f->map[1], ==, 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        aio_buffer_forget(buffer);
        put_other_pages(f);
        co_expect(f, 0, i % 2 ? MIB : PAGE, 2);
        aio_buffer_forget(buffer);
        g_assert_cmpint(madvise(f->map, MIB, MADV_DONTNEED), ==, 0);
        co_expect(f, 0, PAGE, 2);
    }
    aio_buffer_free(buffer);
}

/* Requests to the parts of one buffer, all at the same time, while ever more of it is kept. */
typedef struct Piece {
    Fixture *f;
    size_t from, bytes;
    unsigned *left;
} Piece;

static void co_fn piece_run(void *opaque)
{
    Piece *piece = opaque;

    for (unsigned i = 0; i < 4; i++) {
        co_round_trip(piece->f, piece->from, piece->bytes, piece->from);
    }
    --*piece->left;
}

static void co_fn co_test_pieces(Fixture *f)
{
    enum {
        N = 400 /* more than the ring takes at once */
    };
    AioBuffer *buffer = aio_buffer_new(f->map, SIZE);
    Piece pieces[N];
    unsigned left = N;
    size_t at = 0;

    for (unsigned i = 0; i < N; i++) {
        pieces[i] = (Piece){f, at, 1 + i * 12, &left};
        at += pieces[i].bytes;
        aio_co_enter(f->ctx, piece_run, &pieces[i]);
    }
    g_assert_cmpuint(at, <=, SIZE);
    while (left) {
        aio_co_sleep_ns(100000);
    }
    g_assert_cmpuint(f->ctx->buffer_requests, ==, keeps_buffers(f) ? 8 * N : 0);
    aio_buffer_free(buffer);
}

/* Found by address, whatever the order of coming and going. */
static void co_fn co_test_many(Fixture *f)
{
    enum {
        N = SIZE / PAGE
    };
    AioBuffer *buffers[N] = {NULL};
    g_autoptr(GRand) random = g_rand_new_with_seed(1);

    for (unsigned i = 0; keeps_buffers(f) && i < 20 * N; i++) {
        unsigned at = (unsigned)g_rand_int_range(random, 0, N);
        char *base = f->map + at * PAGE;
        struct iovec iov = {base + i % 100, 3000};

        if (buffers[at]) {
            g_assert_true(aio_buffer_find(f->ctx, &iov, 1) == buffers[at]);
            g_clear_pointer(&buffers[at], aio_buffer_free);
        } else {
            buffers[at] = aio_buffer_new(base, PAGE);
        }
        g_assert_true(aio_buffer_find(f->ctx, &iov, 1) == buffers[at]);
    }
    for (unsigned i = 0; i < N; i++) {
        aio_buffer_free(buffers[i]);
    }
    g_assert_cmpuint(f->ctx->buffers->len, ==, 0);
}

/* More than the kernel's table has places: those beyond are used all the same. */
static void co_fn co_test_table_full(Fixture *f)
{
    enum {
        N = 1100
    };
    size_t bytes = (size_t)N * PAGE;
    char *small = f->map;
    AioBuffer *buffers[N];
    unsigned kept = 0;

    f->map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(f->map != MAP_FAILED);
    for (unsigned i = 0; i < N; i++) {
        buffers[i] = aio_buffer_new(f->map + (size_t)i * PAGE, PAGE);
        co_round_trip(f, (size_t)i * PAGE, PAGE, 0);
        kept += buffers[i] && buffers[i]->kept;
    }
    if (keeps_buffers(f)) {
        g_assert_cmpuint(kept, >, 0);
        g_assert_cmpuint(kept, <, N);
        /* There is room again once one goes. */
        g_clear_pointer(&buffers[3], aio_buffer_free);
        co_expect(f, (size_t)(N - 1) * PAGE, PAGE, 2);
    }
    for (unsigned i = 0; i < N; i++) {
        aio_buffer_free(buffers[i]);
    }
    munmap(f->map, bytes);
    f->map = small;
}

/* A kernel that takes so many and no more, and how often it was asked. */
static const AioBackendOps *real_ops;
static unsigned takes, asked;

static int keep_some(AioContext *ctx, int number, const struct iovec *iov)
{
    asked++;
    return takes && takes-- ? real_ops->buffer_keep(ctx, number, iov) : -ENOMEM;
}

static void co_fn co_test_refused(Fixture *f)
{
    AioBackendOps ops = *f->ctx->ops;
    AioBuffer *first, *second;

    if (!keeps_buffers(f)) {
        g_assert_null(aio_buffer_new(f->map, MIB)); /* so there is nothing to refuse */
        return;
    }
    real_ops = f->ctx->ops;
    ops.buffer_keep = keep_some;
    f->ctx->ops = &ops;
    takes = 1;
    first = aio_buffer_new(f->map, MIB);
    second = aio_buffer_new(f->map + MIB, MIB);
    co_expect(f, 0, PAGE, 2);
    co_expect(f, MIB, PAGE, 0);
    co_expect(f, 0, 2 * PAGE, 0);
    co_expect(f, 0, PAGE, 2); /* what was kept still is */
    g_assert_cmpuint(asked, ==, 2);
    g_assert_true(f->ctx->buffers_told);
    /* Whoever forgets makes room. */
    takes = 2;
    aio_buffer_forget(first);
    co_expect(f, MIB, MIB, 2);
    co_expect(f, 0, PAGE, 2);
    aio_buffer_free(first);
    aio_buffer_free(second);
    f->ctx->ops = real_ops;
}

/* Run a test as one who has given up what @give_up says, with a limit on locked memory. */
static void test_limited(Fixture *f, gconstpointer data, bool (*give_up)(void))
{
    const struct rlimit limit = {8 * MIB, 8 * MIB};

    if (!g_test_subprocess()) {
        g_test_trap_subprocess(NULL, 30 * G_USEC_PER_SEC, G_TEST_SUBPROCESS_INHERIT_STDERR);
        g_test_trap_assert_passed();
        return;
    }
    g_assert_true(give_up());
    g_assert_cmpint(setrlimit(RLIMIT_MEMLOCK, &limit), ==, 0);
    run_test(f, data);
}

static bool give_up_root(void)
{
    return geteuid() != 0 || setuid(65534) == 0;
}

/* Those who may not lock memory at will use a part of what they may. */
static void test_limit(Fixture *f, gconstpointer data)
{
    test_limited(f, data, give_up_root);
}

/* One has all capabilities there, but not over the system's memory. */
static bool enter_user_namespace(void)
{
    return unshare(CLONE_NEWUSER) == 0;
}

/* Not in a chroot, and not where the system's administrator rules it out. */
static bool may_enter_user_namespace(void)
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        _exit(!enter_user_namespace());
    }
    g_assert_cmpint(child, >, 0);
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    return status == 0;
}

static void test_limit_in_namespace(Fixture *f, gconstpointer data)
{
    if (!g_test_subprocess() && !may_enter_user_namespace()) {
        g_test_skip("no user namespace to be had");
        return;
    }
    test_limited(f, data, enter_user_namespace);
}

static void co_fn co_test_limit(Fixture *f)
{
    AioBuffer *first = aio_buffer_new(f->map, MIB);
    AioBuffer *second = aio_buffer_new(f->map + MIB, MIB);

    co_expect(f, 0, PAGE, 2);
    co_expect(f, 0, MIB, 2);
    co_expect(f, MIB, PAGE, 0);
    g_assert_cmpint(f->ctx->buffers_told, ==, keeps_buffers(f));
    aio_buffer_forget(first);
    co_expect(f, MIB, PAGE, 2);
    co_expect(f, 0, PAGE, 2);
    co_expect(f, 0, MIB, 0);
    co_expect(f, 0, MIB / 4, 2);
    aio_buffer_free(first);
    aio_buffer_free(second);
    g_assert_cmpuint(f->ctx->buffers_kept, ==, 0);
}

/* What a line of /proc/self/status says, in bytes. */
static size_t status_bytes(const char *key)
{
    g_autofree char *status = NULL;
    const char *line;

    g_assert_true(g_file_get_contents("/proc/self/status", &status, NULL, NULL));
    line = strstr(status, key);
    g_assert_nonnull(line);
    return g_ascii_strtoull(line + strlen(key), NULL, 10) * 1024;
}

/* A huge page counts whole, however little is asked for; counted is what the kernel counts. */
static void co_fn co_test_huge(Fixture *f)
{
    char *map = aio_buffer_map(2 * SIZE);
    char *page = map + (-(uintptr_t)map % SIZE);
    AioBuffer *buffer = aio_buffer_new(page, MIB);
    struct iovec iov = {page, PAGE}, large = {page, MIB};
    size_t before = status_bytes("VmPin:");

    for (int huge = 0; huge < 2; huge++) {
        aio_buffer_set_huge(buffer, huge);
        madvise(page, SIZE, MADV_DONTNEED);
        madvise(page, SIZE, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
        g_assert_cmpint(aio_co_pwritev(AIO_ENGINE_DIRECT, f->fd, &iov, 1, 0, 0), ==, PAGE);
        if (buffer) {
            g_assert_cmpuint(f->ctx->buffers_kept, ==, huge ? SIZE : PAGE);
            g_assert_cmpuint(status_bytes("VmPin:") - before, <=, f->ctx->buffers_kept);
        }
        g_assert_cmpint(aio_co_pwritev(AIO_ENGINE_DIRECT, f->fd, &large, 1, 0, 0), ==, MIB);
        if (buffer) {
            g_assert_cmpuint(f->ctx->buffers_kept, ==, huge ? SIZE : MIB);
            g_assert_cmpuint(status_bytes("VmPin:") - before, >=, MIB);
        }
    }
    aio_buffer_set_huge(buffer, false);
    g_assert_cmpuint(f->ctx->buffers_kept, ==, 0);
    g_assert_cmpint(aio_co_pwritev(AIO_ENGINE_DIRECT, f->fd, &iov, 1, 0, 0), ==, PAGE);
    g_assert_cmpuint(f->ctx->buffers_kept, ==, buffer ? PAGE : 0);
    aio_buffer_free(buffer);
    munmap(map, 2 * SIZE);
}

/* A child has no such memory, so nothing of it is copied for one. */
static void test_fork(void)
{
    char *map = aio_buffer_map(PAGE);
    int status;
    pid_t pid;

    map[0] = 1;
    pid = fork();
    if (pid == 0) {
        _exit(madvise(map, PAGE, MADV_NORMAL) < 0 ? errno : 0); /* ENOMEM: not mapped */
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, ENOMEM);
    munmap(map, PAGE);
}

#define add(path, co_test)                                                                         \
    g_test_add("/buffer/" path, Fixture, co_test, set_up, run_test, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("reach", co_test_reach);
    add("lazy", co_test_lazy);
    add("forget", co_test_forget);
    add("pieces", co_test_pieces);
    add("many", co_test_many);
    add("table-full", co_test_table_full);
    add("refused", co_test_refused);
    add("huge", co_test_huge);
    g_test_add_func("/buffer/fork", test_fork);
    g_test_add("/buffer/limit", Fixture, co_test_limit, set_up, test_limit, tear_down);
    g_test_add("/buffer/limit-in-namespace", Fixture, co_test_limit, set_up,
               test_limit_in_namespace, tear_down);
    return g_test_run();
}
