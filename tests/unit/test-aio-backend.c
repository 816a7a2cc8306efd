/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which backend a context gets, and the ring pushed to its limits. */
#include "aio/context-internal.h"
#include "aio/iothread.h"

#include <errno.h>
#if __has_include(<liburing.h>)
#include <liburing.h>
#endif
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#endif

/* Make io_uring_setup() fail with @err, in the calling thread from now on. */
static bool forbid_io_uring(int err)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)err),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {G_N_ELEMENTS(filter), filter};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0;
}

static void set_true(void *opaque)
{
    *(bool *)opaque = true;
}

static void check_works(AioContext *ctx)
{
    bool called = false;

    aio_bh_schedule_oneshot(ctx, set_true, &called);
    while (!called) {
        aio_context_poll(ctx, true);
    }
}

/* Where the kernel refuses io_uring it is epoll, told once; but not for whom asked by name. */
static gpointer refused_thread(gpointer opaque)
{
    static const AioOptions by_name = {.backend = AIO_BACKEND_IO_URING};
    g_autoptr(GError) error = NULL;
    g_autoptr(AioContext) one = NULL;
    g_autoptr(AioContext) two = NULL;

    if (!forbid_io_uring(GPOINTER_TO_INT(opaque))) {
        return "no seccomp here";
    }
    one = aio_context_new(NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(aio_context_backend_name(one), ==, "epoll");
    check_works(one);
    two = aio_context_new(NULL, &error);
    g_assert_no_error(error);

    g_assert_null(aio_context_new(&by_name, &error));
    g_assert_nonnull(error);
    g_assert_nonnull(strstr(error->message, "io_uring"));
    g_clear_error(&error);
    return NULL;
}

static bool have_io_uring(void)
{
    static const AioOptions by_name = {.backend = AIO_BACKEND_IO_URING};
    g_autoptr(AioContext) ctx = aio_context_new(&by_name, NULL);

    return ctx != NULL;
}

static void test_refused(void)
{
    static const int errors[] = {EPERM, ENOSYS, ENOMEM, EINVAL};

    if (!have_io_uring()) {
        g_test_skip("no io_uring here anyway");
        return;
    }
    g_unsetenv("WHARF_AIO");
    g_test_expect_message(G_LOG_DOMAIN, G_LOG_LEVEL_MESSAGE, "*io_uring*epoll*");
    for (guint i = 0; i < G_N_ELEMENTS(errors); i++) {
        const char *skip =
            g_thread_join(g_thread_new("refused", refused_thread, GINT_TO_POINTER(errors[i])));

        if (skip) {
            g_test_skip(skip);
            return;
        }
    }
    g_test_assert_expected_messages();
}

static void test_by_name(void)
{
    static const AioOptions options[] = {
        {.backend = AIO_BACKEND_EPOLL},
        {.backend = AIO_BACKEND_IO_URING},
    };
    static const char *const names[] = {"epoll", "io_uring"};

    /* An option weighs more than the environment. */
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(AioContext) ctx = NULL;

        g_setenv("WHARF_AIO", names[1 - i], TRUE);
        ctx = aio_context_new(&options[i], &error);
        if (!ctx) {
            g_assert_true(options[i].backend == AIO_BACKEND_IO_URING);
            g_test_skip(error->message);
            continue;
        }
        g_assert_cmpstr(aio_context_backend_name(ctx), ==, names[i]);
        check_works(ctx);
    }
    g_unsetenv("WHARF_AIO");
}

static void test_bad_environment(void)
{
    g_autoptr(GError) error = NULL;

    g_setenv("WHARF_AIO", "select", TRUE);
    g_assert_null(aio_context_new(NULL, &error));
    g_assert_nonnull(error);
    g_assert_nonnull(strstr(error->message, "select"));
    g_assert_nonnull(strstr(error->message, "epoll"));
    g_unsetenv("WHARF_AIO");
}

/* Each context has descriptors of its own, and gives them back. */
static guint count_descriptors(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    guint n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

static void test_descriptors(void)
{
    guint before = count_descriptors();

    for (int i = 0; i < 100; i++) {
        g_autoptr(AioContext) ctx = aio_context_new(NULL, NULL);
        g_autoptr(Iothread) iothread = iothread_new("fds", NULL, NULL);

        check_works(ctx);
    }
    g_assert_cmpuint(count_descriptors(), ==, before);
}

/* More requests than the ring has entries, more completions than it has room for. */

#ifdef __SANITIZE_THREAD__
#define FLOOD 300 /* it takes a millisecond to tell ThreadSanitizer of a coroutine */
#else
#define FLOOD 5000
#endif

typedef struct Flood {
    unsigned running;
    unsigned rounds;
} Flood;

static void co_fn flood_one(void *opaque)
{
    Flood *f = opaque;

    for (unsigned i = 0; i < f->rounds; i++) {
        g_assert_cmpint(aio_co_nop(AIO_ENGINE_DEFAULT), ==, 0);
    }
    f->running--;
}

static void start_flood(void *opaque)
{
    Flood *f = opaque;

    for (unsigned i = 0; i < f->running; i++) {
        aio_co_enter(aio_context_current(), flood_one, f);
    }
}

static void run_flood(AioContext *ctx)
{
    Flood f = {.running = FLOOD, .rounds = 3};

    /* From a bottom half, so that all of them submit before anything is taken out. */
    aio_bh_schedule_oneshot(ctx, start_flood, &f);
    while (f.running) {
        aio_context_poll(ctx, true);
    }
}

static void test_flood(void)
{
    g_autoptr(AioContext) ctx = aio_context_new(NULL, NULL);

    run_flood(ctx);
    check_works(ctx);
}

/* The ring that a context has under GLib is another one. */
static void test_flood_glib(void)
{
    g_autoptr(AioContext) ctx = aio_context_new(NULL, NULL);
    g_autoptr(GMainContext) main = g_main_context_new();
    GSource *source = aio_context_attach_glib(ctx, main);
    Flood f = {.running = FLOOD, .rounds = 3};

    aio_bh_schedule_oneshot(ctx, start_flood, &f);
    while (f.running) {
        g_main_context_iteration(main, TRUE);
    }
    g_source_destroy(source);
    g_source_unref(source);
}

#if __has_include(<liburing.h>)
static bool stop_idle; /* atomic */

static gpointer run_idle(gpointer ctx)
{
    aio_context_run(ctx, &stop_idle);
    return NULL;
}

/*
 * The kernel can leave the flag standing that asks to be entered, for it sets it after the work has
 * been queued, and somebody may have done that by then. A loop with nothing to do sleeps all the
 * same, if it has waited actively before.
 */
static void test_stale_flag(void)
{
    AioOptions opts = {.poll_max_ns = 1000000};
    g_autoptr(AioContext) ctx = aio_context_new(&opts, NULL);
    struct io_uring *ring;
    GThread *thread;

    if (strcmp(aio_context_backend_name(ctx), "io_uring") != 0) {
        return;
    }
    ring = ctx->backend; /* the first of its members */
    __atomic_fetch_or(ring->sq.kflags, IORING_SQ_TASKRUN, __ATOMIC_RELAXED);
    ctx->poll_ns = 1000;
    thread = g_thread_new("idle", run_idle, ctx);
    while (!__atomic_load_n(&ctx->sleeping, __ATOMIC_ACQUIRE)) {
        g_usleep(1000);
    }
    __atomic_store_n(&stop_idle, true, __ATOMIC_RELEASE);
    aio_context_kick(ctx);
    g_thread_join(thread);
}
#endif

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backend/refused", test_refused);
    g_test_add_func("/backend/by-name", test_by_name);
    g_test_add_func("/backend/bad-environment", test_bad_environment);
    g_test_add_func("/backend/descriptors", test_descriptors);
    g_test_add_func("/backend/flood", test_flood);
    g_test_add_func("/backend/flood-glib", test_flood_glib);
#if __has_include(<liburing.h>)
    g_test_add_func("/backend/stale-flag", test_stale_flag);
#endif
    return g_test_run();
}
