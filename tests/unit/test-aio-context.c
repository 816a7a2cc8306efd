/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One context: bottom halves, timers, coroutines, GLib. */
#include "aio/aio.h"

#include <unistd.h>

static AioContext *new_context(void)
{
    g_autoptr(GError) error = NULL;
    AioContext *ctx = aio_context_new(NULL, &error);

    g_assert_no_error(error);
    return ctx;
}

static void append(void *opaque)
{
    g_string_append_c(opaque, 'a' + ((GString *)opaque)->len);
}

/* Bottom halves run in order, once each. */
typedef struct Mark {
    GString *log;
    char c;
} Mark;

static void mark(void *opaque)
{
    Mark *m = opaque;

    g_string_append_c(m->log, m->c);
}

static void test_bh_order(void)
{
    g_autoptr(AioContext) ctx = new_context();
    g_autoptr(GString) log = g_string_new(NULL);
    Mark m[4] = {{log, 'a'}, {log, 'b'}, {log, 'c'}, {log, 'd'}};
    g_autoptr(AioBh) b = aio_bh_new(ctx, mark, &m[1]);
    g_autoptr(AioBh) d = aio_bh_new(ctx, mark, &m[3]);

    aio_bh_schedule_oneshot(ctx, mark, &m[0]);
    aio_bh_schedule(b);
    aio_bh_schedule_oneshot(ctx, mark, &m[2]);
    aio_bh_schedule(d);
    aio_bh_schedule(b); /* is already */
    g_assert_true(aio_context_poll(ctx, true));
    g_assert_cmpstr(log->str, ==, "abcd");
    g_assert_false(aio_context_poll(ctx, false));

    aio_bh_schedule(b);
    g_assert_true(aio_context_poll(ctx, true));
    g_assert_cmpstr(log->str, ==, "abcdb");
}

static void test_bh_free_scheduled(void)
{
    g_autoptr(AioContext) ctx = new_context();
    g_autoptr(GString) log = g_string_new(NULL);
    AioBh *bh = aio_bh_new(ctx, append, log);

    aio_bh_schedule(bh);
    aio_bh_free(bh);
    while (aio_context_poll(ctx, false)) {
    }
    g_assert_cmpuint(log->len, ==, 0);
}

static void free_bh(void *opaque)
{
    aio_bh_free(*(AioBh **)opaque);
}

static void test_bh_free_itself(void)
{
    g_autoptr(AioContext) ctx = new_context();
    AioBh *bh;

    bh = aio_bh_new(ctx, free_bh, &bh);
    aio_bh_schedule(bh);
    g_assert_true(aio_context_poll(ctx, true));
    g_assert_false(aio_context_poll(ctx, false));
}

/* What a bottom half posts runs in the next turn. */
typedef struct Again {
    AioContext *ctx;
    AioBh *bh;
    unsigned n;
} Again;

static void again(void *opaque)
{
    Again *a = opaque;

    a->n++;
    aio_bh_schedule(a->bh);
}

static void test_bh_again(void)
{
    g_autoptr(AioContext) ctx = new_context();
    Again a = {.ctx = ctx};

    a.bh = aio_bh_new(ctx, again, &a);
    aio_bh_schedule(a.bh);
    for (unsigned i = 1; i <= 10; i++) {
        g_assert_true(aio_context_poll(ctx, true));
        g_assert_cmpuint(a.n, ==, i);
    }
    aio_bh_free(a.bh);
}

/* Work that is still posted when a context goes is run, not lost. */
static void test_bh_at_end(void)
{
    AioContext *ctx = new_context();
    g_autoptr(GString) log = g_string_new(NULL);

    aio_bh_schedule_oneshot(ctx, append, log);
    aio_context_unref(ctx);
    g_assert_cmpuint(log->len, ==, 1);
}

static void test_timers(void)
{
    g_autoptr(AioContext) ctx = new_context();
    g_autoptr(GString) log = g_string_new(NULL);
    Mark m[4] = {{log, 'a'}, {log, 'b'}, {log, 'c'}, {log, 'd'}};
    AioTimer *t[4];
    int64_t now = aio_now_ns();

    for (int i = 0; i < 4; i++) {
        t[i] = aio_timer_new(ctx, mark, &m[i]);
    }
    aio_timer_arm(t[3], now + 3000000);
    aio_timer_arm(t[1], now + 2000000);
    aio_timer_arm(t[2], now + 2000000);
    aio_timer_arm(t[0], now + 9000000);
    aio_timer_arm(t[0], now + 1000000);
    while (log->len < 4) {
        aio_context_poll(ctx, true);
    }
    g_assert_cmpint(aio_now_ns(), >=, now + 3000000);
    g_assert_cmpstr(log->str, ==, "abcd");

    aio_timer_arm(t[0], 0);
    aio_timer_disarm(t[0]);
    aio_timer_disarm(t[0]);
    g_assert_false(aio_context_poll(ctx, false));
    aio_timer_arm(t[1], -1);
    g_assert_true(aio_context_poll(ctx, true));
    g_assert_cmpstr(log->str, ==, "abcdb");
    aio_timer_arm(t[2], G_MAXINT64); /* freed while armed */
    for (int i = 0; i < 4; i++) {
        aio_timer_free(t[i]);
    }
}

/* Many timers against a sorted list. */
static void test_timer_heap(void)
{
    enum {
        N = 500
    };
    g_autoptr(AioContext) ctx = new_context();
    g_autoptr(GString) log = g_string_new(NULL);
    AioTimer *t[N];
    unsigned armed = 0;

    for (int i = 0; i < N; i++) {
        t[i] = aio_timer_new(ctx, append, log);
        aio_timer_arm(t[i], g_test_rand_int_range(0, 50));
    }
    for (int i = 0; i < N; i++) {
        if (g_test_rand_bit()) {
            aio_timer_disarm(t[i]);
        } else {
            aio_timer_arm(t[i], g_test_rand_int_range(0, 50));
            armed++;
        }
    }
    while (aio_context_poll(ctx, false)) {
    }
    g_assert_cmpuint(log->len, ==, armed);
    for (int i = 0; i < N; i++) {
        aio_timer_free(t[i]);
    }
}

typedef struct Self {
    AioTimer *timer;
    unsigned n;
} Self;

static void rearm(void *opaque)
{
    Self *s = opaque;

    if (++s->n == 3) {
        aio_timer_free(s->timer);
    } else {
        aio_timer_arm(s->timer, 0);
    }
}

static void test_timer_itself(void)
{
    g_autoptr(AioContext) ctx = new_context();
    Self s = {0};

    s.timer = aio_timer_new(ctx, rearm, &s);
    aio_timer_arm(s.timer, 0);
    for (unsigned i = 1; i <= 3; i++) {
        g_assert_true(aio_context_poll(ctx, true));
        g_assert_cmpuint(s.n, ==, i);
    }
    g_assert_false(aio_context_poll(ctx, false));
}

/* Coroutines */

typedef struct Sleeper {
    int64_t ns;
    unsigned *ended;
} Sleeper;

static void co_fn sleeper(void *opaque)
{
    Sleeper *s = opaque;
    int64_t begin = aio_now_ns();

    g_assert_cmpint(aio_co_sleep_ns(s->ns), ==, 0);
    g_assert_cmpint(aio_now_ns(), >=, begin + s->ns);
    ++*s->ended;
}

static void test_sleep(void)
{
    g_autoptr(AioContext) ctx = new_context();
    unsigned ended = 0;
    Sleeper s[3] = {{2000000, &ended}, {1000000, &ended}, {0, &ended}};

    for (int i = 0; i < 3; i++) {
        aio_co_enter(ctx, sleeper, &s[i]);
    }
    while (ended < 3) {
        aio_context_poll(ctx, true);
    }
}

static void co_fn wake_self(void *opaque)
{
    unsigned *n = opaque;

    for (int i = 0; i < 5; i++) {
        ++*n;
        aio_co_wake(coroutine_self()); /* before the yield */
        coroutine_yield();
    }
}

static void test_wake_early(void)
{
    g_autoptr(AioContext) ctx = new_context();
    unsigned n = 0;

    aio_co_enter(ctx, wake_self, &n);
    g_assert_cmpuint(n, ==, 0); /* not this thread's context yet */
    for (unsigned i = 1; i <= 5; i++) {
        g_assert_true(aio_context_poll(ctx, true));
        g_assert_cmpuint(n, ==, i);
    }
    g_assert_true(aio_context_poll(ctx, true));
    g_assert_false(aio_context_poll(ctx, false));
}

static void co_fn enter_at_once(void *opaque)
{
    unsigned n = 0;

    g_assert_true(aio_context_current() == opaque);
    aio_co_enter(opaque, wake_self, &n);
    g_assert_cmpuint(n, ==, 1);
    while (n < 5) {
        aio_co_sleep_ns(0);
    }
    aio_co_reschedule_self(opaque); /* is here already */
}

static void test_enter_at_once(void)
{
    g_autoptr(AioContext) ctx = new_context();

    aio_co_enter(ctx, enter_at_once, ctx);
    while (aio_context_poll(ctx, false)) {
    }
    g_assert_null(aio_context_current());
}

/* Kicks and stopping */

static gpointer kicker(gpointer opaque)
{
    g_usleep(1000);
    aio_context_kick(opaque);
    return NULL;
}

static void test_kick(void)
{
    g_autoptr(AioContext) ctx = new_context();

    for (int i = 0; i < 20; i++) {
        GThread *thread = g_thread_new("kicker", kicker, ctx);

        g_assert_true(aio_context_poll(ctx, true));
        g_thread_join(thread);
        while (aio_context_poll(ctx, false)) {
        }
    }
}

/* GLib */

static void quit(void *opaque)
{
    g_main_loop_quit(opaque);
}

typedef struct GlibRun {
    GMainLoop *loop;
    AioContext *ctx;
    AioBh *bh;
    unsigned left;
} GlibRun;

static void glib_step(void *opaque)
{
    GlibRun *run = opaque;

    if (--run->left == 0) {
        g_main_loop_quit(run->loop);
    }
}

static gpointer glib_poster(gpointer opaque)
{
    GlibRun *run = opaque;

    for (int i = 0; i < 1000; i++) {
        aio_bh_schedule_oneshot(run->ctx, glib_step, run);
        if (i % 16 == 0) {
            g_usleep(100);
        }
    }
    return NULL;
}

static void test_glib(void)
{
    g_autoptr(AioContext) ctx = new_context();
    g_autoptr(GMainContext) main = g_main_context_new();
    g_autoptr(GMainLoop) loop = g_main_loop_new(main, FALSE);
    GSource *source = aio_context_attach_glib(ctx, main);
    GlibRun run = {.loop = loop, .ctx = ctx, .left = 2000};
    AioTimer *timer = aio_timer_new(ctx, quit, loop);
    GThread *threads[2];

    g_assert_true(aio_context_current() == ctx);
    for (int i = 0; i < 2; i++) {
        threads[i] = g_thread_new("poster", glib_poster, &run);
    }
    g_main_loop_run(loop);
    for (int i = 0; i < 2; i++) {
        g_thread_join(threads[i]);
    }
    g_assert_cmpuint(run.left, ==, 0);

    aio_timer_arm(timer, aio_now_ns() + 2000000);
    g_main_loop_run(loop);
    aio_timer_free(timer);

    g_source_destroy(source);
    g_source_unref(source);
    g_assert_null(aio_context_current());
}

static void co_fn glib_sleeper(void *opaque)
{
    for (int i = 0; i < 10; i++) {
        aio_co_sleep_ns(i * 10000);
    }
    g_main_loop_quit(opaque);
}

static void test_glib_coroutine(void)
{
    g_autoptr(AioContext) ctx = new_context();
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
    GSource *source = aio_context_attach_glib(ctx, NULL);

    aio_co_enter(ctx, glib_sleeper, loop);
    g_main_loop_run(loop);
    g_source_destroy(source);
    g_source_unref(source);
}

/* Two contexts in one thread: what runs from each knows where it is. */

typedef struct Place {
    AioContext *ctx;
    unsigned *left;
} Place;

static void co_fn know_place(void *opaque)
{
    Place *p = opaque;

    for (int i = 0; i < 20; i++) {
        g_assert_true(aio_context_current() == p->ctx);
        aio_co_sleep_ns(1000);
    }
    --*p->left;
}

static void test_glib_two(void)
{
    g_autoptr(AioContext) a = new_context();
    g_autoptr(AioContext) b = new_context();
    GSource *sources[] = {aio_context_attach_glib(a, NULL), aio_context_attach_glib(b, NULL)};
    unsigned left = 2;
    Place places[] = {{a, &left}, {b, &left}};

    aio_co_enter(a, know_place, &places[0]);
    aio_co_enter(b, know_place, &places[1]);
    while (left) {
        g_main_context_iteration(NULL, TRUE);
    }
    for (int i = 1; i >= 0; i--) {
        g_source_destroy(sources[i]);
        g_source_unref(sources[i]);
    }
    g_assert_null(aio_context_current());
}

/* Posted by a source of GLib's that is asked after the context's own, right before the sleep. */

typedef struct LateSource {
    GSource base;
    AioBh *bh; /* to be scheduled at the next prepare */
} LateSource;

static gboolean late_prepare(GSource *source, gint *timeout)
{
    LateSource *late = (LateSource *)source;

    if (late->bh) {
        aio_bh_schedule(g_steal_pointer(&late->bh));
    }
    *timeout = -1;
    return FALSE;
}

static gboolean late_dispatch(GSource *source, GSourceFunc callback, gpointer opaque)
{
    return G_SOURCE_CONTINUE;
}

static void test_glib_late_post(void)
{
    static GSourceFuncs funcs = {.prepare = late_prepare, .dispatch = late_dispatch};
    g_autoptr(AioContext) ctx = new_context();
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
    GSource *source = aio_context_attach_glib(ctx, NULL);
    GSource *late = g_source_new(&funcs, sizeof(LateSource));
    g_autoptr(AioBh) bh = aio_bh_new(ctx, quit, loop);

    ((LateSource *)late)->bh = bh;
    g_source_attach(late, NULL);
    g_main_loop_run(loop);
    g_source_destroy(late);
    g_source_unref(late);
    g_source_destroy(source);
    g_source_unref(source);
}

/* Options */

static void test_options(void)
{
    AioOptions opts = {.poll_max_ns = 1, .poll_grow = 3, .workers_min = 2, .workers_max = 7};
    g_autoptr(AioContext) ctx = new_context();
    AioOptions got;

    aio_context_get_options(ctx, &got);
    g_assert_cmpuint(got.poll_max_ns, ==, AIO_POLL_MAX_NS_DEFAULT);
    g_assert_cmpuint(got.workers_max, ==, AIO_WORKERS_MAX_DEFAULT);
    aio_context_set_options(ctx, &opts);
    aio_context_get_options(ctx, &got);
    g_assert_cmpuint(got.poll_max_ns, ==, 1);
    g_assert_cmpuint(got.poll_grow, ==, 3);
    g_assert_cmpuint(got.workers_min, ==, 2);
    g_assert_cmpuint(got.workers_max, ==, 7);
}

static void test_backend_name(void)
{
    const char *wanted = g_getenv("WHARF_AIO");
    g_autoptr(AioContext) ctx = new_context();

    if (wanted) {
        g_assert_cmpstr(aio_context_backend_name(ctx), ==, wanted);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/context/bh/order", test_bh_order);
    g_test_add_func("/context/bh/free-scheduled", test_bh_free_scheduled);
    g_test_add_func("/context/bh/free-itself", test_bh_free_itself);
    g_test_add_func("/context/bh/again", test_bh_again);
    g_test_add_func("/context/bh/at-end", test_bh_at_end);
    g_test_add_func("/context/timer/order", test_timers);
    g_test_add_func("/context/timer/heap", test_timer_heap);
    g_test_add_func("/context/timer/itself", test_timer_itself);
    g_test_add_func("/context/co/sleep", test_sleep);
    g_test_add_func("/context/co/wake-early", test_wake_early);
    g_test_add_func("/context/co/enter-at-once", test_enter_at_once);
    g_test_add_func("/context/kick", test_kick);
    g_test_add_func("/context/glib/post", test_glib);
    g_test_add_func("/context/glib/coroutine", test_glib_coroutine);
    g_test_add_func("/context/glib/two", test_glib_two);
    g_test_add_func("/context/glib/late-post", test_glib_late_post);
    g_test_add_func("/context/options", test_options);
    g_test_add_func("/context/backend/name", test_backend_name);
    return g_test_run();
}
