/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Contexts in threads of their own: wake-ups between them, moving coroutines, start and stop. */
#include "aio/aio.h"
#include "aio/iothread.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static AioContext *new_context(void)
{
    g_autoptr(GError) error = NULL;
    AioContext *ctx = aio_context_new(NULL, &error);

    g_assert_no_error(error);
    return ctx;
}

static Iothread *new_iothread(const char *name)
{
    g_autoptr(GError) error = NULL;
    Iothread *iothread = iothread_new(name, NULL, &error);

    g_assert_no_error(error);
    return iothread;
}

static void set_flag(void *opaque)
{
    *(bool *)opaque = true;
}

static void test_name(void)
{
    g_autoptr(Iothread) iothread = new_iothread("quite-a-long-name-for-a-thread");
    g_autofree char *path = g_strdup_printf("/proc/self/task/%d/comm", iothread_tid(iothread));
    g_autofree char *comm = NULL;

    g_assert_cmpstr(iothread_name(iothread), ==, "quite-a-long-name-for-a-thread");
    g_assert_true(g_file_get_contents(path, &comm, NULL, NULL));
    g_assert_cmpstr(g_strchomp(comm), ==, "quite-a-long-na");
}

/* What was posted before the last unref is done. */
static void test_stop_after_work(void)
{
    for (int i = 0; i < 50; i++) {
        Iothread *iothread = new_iothread("stop");
        bool done = false;

        aio_bh_schedule_oneshot(iothread_context(iothread), set_flag, &done);
        iothread_ref(iothread);
        iothread_unref(iothread);
        iothread_unref(iothread);
        g_assert_true(done);
    }
}

static void read_mask(void *opaque)
{
    pthread_sigmask(SIG_SETMASK, NULL, opaque);
}

/* Signals are the main thread's affair. */
static void test_signals(void)
{
    Iothread *iothread = new_iothread("signals");
    sigset_t mask;

    sigemptyset(&mask);
    aio_bh_schedule_oneshot(iothread_context(iothread), read_mask, &mask);
    iothread_unref(iothread);
    g_assert_true(sigismember(&mask, SIGTERM) && sigismember(&mask, SIGINT));
    g_assert_false(sigismember(&mask, SIGSEGV));
}

/* Bindings to CPUs */

typedef struct Bound {
    Iothread *iothread;
    cpu_set_t free;      /* of the process */
    unsigned first, all; /* its first CPU; more than it has */
    AioBinding *binding[2];
    cpu_set_t worker; /* where a worker may run that was started meanwhile */
    bool done;        /* main context only */
} Bound;

static cpu_set_t affinity_of(pid_t tid)
{
    cpu_set_t cpus;

    g_assert_cmpint(sched_getaffinity(tid, sizeof(cpus), &cpus), ==, 0);
    return cpus;
}

static void assert_affinity(Bound *b, const cpu_set_t *expected)
{
    cpu_set_t cpus = affinity_of(iothread_tid(b->iothread));

    g_assert_true(CPU_EQUAL(&cpus, expected));
}

static int note_affinity(void *opaque)
{
    Bound *b = opaque;

    b->worker = affinity_of(0);
    return 0;
}

static cpu_set_t one_cpu(unsigned cpu)
{
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    return cpus;
}

static void co_fn co_bind(void *opaque)
{
    Bound *b = opaque;
    AioContext *home = aio_context_current();
    cpu_set_t first = one_cpu(b->first);

    aio_co_reschedule_self(iothread_context(b->iothread));
    b->binding[0] = aio_binding_new(b->first, b->all);
    assert_affinity(b, &first);
    /* Threads that are started there are not bound. */
    aio_co_run_worker(note_affinity, b);
    g_assert_true(CPU_EQUAL(&b->worker, &b->free));
    assert_affinity(b, &first);
    /* Two bindings: on the CPUs of either. */
    b->binding[1] = aio_binding_new(0, 1);
    assert_affinity(b, &b->free);
    aio_binding_free(b->binding[1]);
    assert_affinity(b, &first);
    aio_binding_free(b->binding[0]);
    assert_affinity(b, &b->free);
    /* Where there are no such CPUs. */
    b->binding[0] = aio_binding_new(CPU_SETSIZE - 1, b->all);
    assert_affinity(b, CPU_ISSET(CPU_SETSIZE - 1, &b->free) ? &first : &b->free);
    aio_binding_free(b->binding[0]);
    aio_co_reschedule_self(home);
    b->done = true;
}

/* Whoever has chosen where the thread runs has the last word, before and after. */
static void co_fn co_bind_elsewhere(void *opaque)
{
    Bound *b = opaque;
    AioContext *home = aio_context_current();
    cpu_set_t first = one_cpu(b->first);

    aio_co_reschedule_self(iothread_context(b->iothread));
    sched_setaffinity(0, sizeof(first), &first);
    b->binding[0] = aio_binding_new(b->first + 1, b->all);
    assert_affinity(b, &first);
    aio_binding_free(b->binding[0]);
    assert_affinity(b, &first);

    sched_setaffinity(0, sizeof(b->free), &b->free);
    b->binding[0] = aio_binding_new(b->first, b->all);
    sched_setaffinity(0, sizeof(b->free), &b->free);
    b->binding[1] = aio_binding_new(b->first, b->all);
    assert_affinity(b, &b->free);
    aio_binding_free(b->binding[1]);
    aio_binding_free(b->binding[0]);
    assert_affinity(b, &b->free);
    aio_co_reschedule_self(home);
    b->done = true;
}

static void run_bound(CoroutineEntry *entry)
{
    g_autoptr(AioContext) main = new_context();
    g_autoptr(Iothread) iothread = new_iothread("bound");
    Bound b = {.iothread = iothread, .free = affinity_of(0), .all = CPU_SETSIZE};

    if (CPU_COUNT(&b.free) < 2) {
        g_test_skip("with one CPU there is nothing to choose");
        return;
    }
    while (!CPU_ISSET(b.first, &b.free)) {
        b.first++;
    }
    aio_co_enter(main, entry, &b);
    while (!b.done) {
        aio_context_poll(main, true);
    }
}

static void test_bind(void)
{
    run_bound(co_bind);
}

static void test_bind_elsewhere(void)
{
    run_bound(co_bind_elsewhere);
}

/* A ball between two threads: each hop is a wake-up of a thread that may just fall asleep. */

typedef struct Ball {
    AioContext *main;
    Iothread *a, *b;
    unsigned hops;
    bool done; /* main context only */
} Ball;

static void ball_done(void *opaque)
{
    ((Ball *)opaque)->done = true;
}

static void ball_hop(void *opaque)
{
    Ball *ball = opaque;

    if (ball->hops == 0) {
        aio_bh_schedule_oneshot(ball->main, ball_done, ball);
        return;
    }
    ball->hops--;
    aio_bh_schedule_oneshot(iothread_context(ball->hops % 2 ? ball->a : ball->b), ball_hop, ball);
}

static void run_ball(const AioOptions *opts)
{
    g_autoptr(AioContext) main = new_context();
    g_autoptr(Iothread) a = new_iothread("a");
    g_autoptr(Iothread) b = new_iothread("b");
    Ball ball = {.main = main, .a = a, .b = b, .hops = 1500};

    aio_context_set_options(iothread_context(a), opts);
    aio_context_set_options(iothread_context(b), opts);
    ball_hop(&ball);
    while (!ball.done) {
        aio_context_poll(main, true);
    }
}

static void test_ping_pong(void)
{
    static const AioOptions asleep = {0};
    static const AioOptions busy = AIO_OPTIONS_DEFAULT;

    run_ball(&asleep);
    run_ball(&busy);
}

/* A coroutine that changes threads all the time, and one that is woken by it. */

typedef struct Trip {
    AioContext *main;
    Iothread *a, *b;
    unsigned rounds;
    bool done; /* main context only */
} Trip;

static void trip_done(void *opaque)
{
    ((Trip *)opaque)->done = true;
}

static void co_fn trip(void *opaque)
{
    Trip *t = opaque;

    for (unsigned i = 0; i < t->rounds; i++) {
        AioContext *to = iothread_context(i % 2 ? t->a : t->b);

        aio_co_reschedule_self(to);
        g_assert_true(aio_context_current() == to);
        if (i % 10 == 0) {
            aio_co_sleep_ns(100);
            g_assert_true(aio_context_current() == to);
        }
    }
    aio_co_reschedule_self(t->main);
    g_assert_true(aio_context_current() == t->main);
    trip_done(t);
}

static void test_reschedule(void)
{
    g_autoptr(AioContext) main = new_context();
    g_autoptr(Iothread) a = new_iothread("a");
    g_autoptr(Iothread) b = new_iothread("b");
    Trip t = {.main = main, .a = a, .b = b, .rounds = 600};

    aio_co_enter(main, trip, &t);
    while (!t.done) {
        aio_context_poll(main, true);
    }
}

/* Woken from another thread right when it yields, or before. */

typedef struct Sleepy {
    AioContext *main;
    Iothread *waker;
    unsigned wakes; /* each written by the one, read by the other, ordered by the wake-ups */
    bool done;      /* main context only */
} Sleepy;

static void wake_it(void *co)
{
    aio_co_wake(co);
}

static void sleepy_done(void *opaque)
{
    ((Sleepy *)opaque)->done = true;
}

static void co_fn sleepy(void *opaque)
{
    Sleepy *s = opaque;

    for (unsigned i = 0; i < 1000; i++) {
        aio_bh_schedule_oneshot(iothread_context(s->waker), wake_it, coroutine_self());
        if (i % 3 == 0) {
            g_thread_yield(); /* often the wake comes first */
        }
        coroutine_yield();
        s->wakes++;
    }
    aio_bh_schedule_oneshot(s->main, sleepy_done, s);
}

static void test_wake_race(void)
{
    g_autoptr(AioContext) main = new_context();
    g_autoptr(Iothread) sleeper = new_iothread("sleeper");
    g_autoptr(Iothread) waker = new_iothread("waker");
    Sleepy s = {.main = main, .waker = waker};

    aio_co_enter(iothread_context(sleeper), sleepy, &s);
    while (!s.done) {
        aio_context_poll(main, true);
    }
    g_assert_cmpuint(s.wakes, ==, 1000);
}

/* Scheduled by another into another context while it still runs here. */

static void co_fn sent_away(void *opaque)
{
    Trip *t = opaque;

    for (unsigned i = 0; i < 200; i++) {
        AioContext *to = iothread_context(i % 2 ? t->a : t->b);

        aio_co_schedule(to, coroutine_self());
        g_thread_yield(); /* @to may well look at it now */
        coroutine_yield();
        g_assert_true(aio_context_current() == to);
    }
    aio_bh_schedule_oneshot(t->main, trip_done, t);
}

static void test_schedule_running(void)
{
    g_autoptr(AioContext) main = new_context();
    g_autoptr(Iothread) a = new_iothread("a");
    g_autoptr(Iothread) b = new_iothread("b");
    Trip t = {.main = main, .a = a, .b = b};

    aio_co_enter(main, sent_away, &t);
    while (!t.done) {
        aio_context_poll(main, true);
    }
}

/* Somebody else sends it elsewhere, maybe before it has yielded. */

typedef struct Sent {
    Trip *trip;
    Coroutine *co;
    AioContext *to;
} Sent;

static void send_it(void *opaque)
{
    Sent *s = opaque;

    aio_co_schedule(s->to, s->co);
}

static void co_fn sent_by_another(void *opaque)
{
    Trip *t = opaque;

    for (unsigned i = 0; i < 300; i++) {
        AioContext *sender = iothread_context(i % 2 ? t->a : t->b);
        Sent s = {t, coroutine_self(), iothread_context(i % 2 ? t->b : t->a)};

        aio_bh_schedule_oneshot(sender, send_it, &s);
        for (unsigned n = 0; n < i % 4; n++) {
            g_thread_yield();
        }
        coroutine_yield();
        g_assert_true(aio_context_current() == s.to);
    }
    aio_bh_schedule_oneshot(t->main, trip_done, t);
}

static void test_sent_by_another(void)
{
    g_autoptr(AioContext) main = new_context();
    g_autoptr(Iothread) a = new_iothread("a");
    g_autoptr(Iothread) b = new_iothread("b");
    Trip t = {.main = main, .a = a, .b = b};

    aio_co_enter(main, sent_by_another, &t);
    while (!t.done) {
        aio_context_poll(main, true);
    }
}

/* Many threads post to one, in order. */

typedef struct Poster {
    AioContext *to;
    unsigned posted;  /* the poster's */
    unsigned arrived; /* the context's */
    AioBh *bh;
} Poster;

typedef struct Letter {
    Poster *from;
    unsigned number;
} Letter;

static void letter_arrives(void *opaque)
{
    Letter *l = opaque;

    g_assert_cmpuint(l->from->arrived++, ==, l->number);
    g_free(l);
}

static gpointer poster_main(gpointer opaque)
{
    Poster *p = opaque;

    for (int i = 0; i < 2000; i++) {
        Letter *l = g_new(Letter, 1);

        *l = (Letter){p, p->posted++};
        aio_bh_schedule_oneshot(p->to, letter_arrives, l);
        aio_bh_schedule(p->bh);
        if (i % 50 == 0) {
            g_usleep(50);
        }
    }
    return NULL;
}

static void bump(void *opaque)
{
    ++*(unsigned *)opaque;
}

static void test_many_posters(void)
{
    g_autoptr(AioContext) ctx = new_context();
    unsigned bumps = 0;
    AioBh *bh = aio_bh_new(ctx, bump, &bumps);
    Poster p[4];
    GThread *threads[4];

    for (int i = 0; i < 4; i++) {
        p[i] = (Poster){.to = ctx, .bh = bh};
        threads[i] = g_thread_new("poster", poster_main, &p[i]);
    }
    for (int i = 0; i < 4; i++) {
        while (p[i].arrived < 2000) {
            aio_context_poll(ctx, true);
        }
    }
    for (int i = 0; i < 4; i++) {
        g_thread_join(threads[i]);
    }
    while (aio_context_poll(ctx, false)) {
    }
    g_assert_cmpuint(bumps, >, 0);
    g_assert_cmpuint(bumps, <=, 8000);
    aio_bh_free(bh);
}

/* Options change while the thread runs. */
static void test_live_options(void)
{
    g_autoptr(Iothread) iothread = new_iothread("live");

    for (int i = 0; i < 200; i++) {
        AioOptions opts = {.poll_max_ns = i % 3 * 10000, .poll_grow = i % 5, .poll_shrink = i % 2};

        aio_context_set_options(iothread_context(iothread), &opts);
        aio_context_kick(iothread_context(iothread));
    }
}

/* The loop's own stop flag, in a thread of the test's. */
typedef struct Loop {
    AioContext *ctx;
    bool stop;
} Loop;

static gpointer loop_main(gpointer opaque)
{
    Loop *loop = opaque;

    aio_context_run(loop->ctx, &loop->stop);
    g_assert_null(aio_context_current());
    return NULL;
}

static void test_run_and_stop(void)
{
    for (int i = 0; i < 100; i++) {
        g_autoptr(AioContext) ctx = new_context();
        Loop loop = {ctx, false};
        GThread *thread = g_thread_new("loop", loop_main, &loop);

        if (i % 2) {
            g_usleep(100);
        }
        __atomic_store_n(&loop.stop, true, __ATOMIC_RELEASE);
        aio_context_kick(ctx);
        g_thread_join(thread);
    }
}

/* A watch in an iothread, made and freed there. */

typedef struct Remote {
    AioContext *main;
    Iothread *iothread;
    int fd[2];
    AioWatch *watch;
    unsigned taken;
    bool done; /* main context only */
} Remote;

static void remote_done(void *opaque)
{
    ((Remote *)opaque)->done = true;
}

static void remote_take(void *opaque, short revents)
{
    Remote *r = opaque;
    char c;

    while (read(r->fd[0], &c, 1) == 1) {
        r->taken++;
    }
    if (r->taken == 1000) {
        aio_watch_free(r->watch);
        aio_bh_schedule_oneshot(r->main, remote_done, r);
    }
}

static void remote_begin(void *opaque)
{
    Remote *r = opaque;

    r->watch = aio_watch_new(iothread_context(r->iothread), r->fd[0], POLLIN, remote_take, NULL, r);
}

static void test_remote_watch(void)
{
    g_autoptr(AioContext) main = new_context();
    g_autoptr(Iothread) iothread = new_iothread("watch");
    Remote r = {.main = main, .iothread = iothread};

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, r.fd), ==, 0);
    aio_bh_schedule_oneshot(iothread_context(iothread), remote_begin, &r);
    for (int i = 0; i < 1000; i++) {
        while (write(r.fd[1], "x", 1) != 1) {
            g_usleep(100);
        }
        if (i % 100 == 0) {
            g_usleep(500);
        }
    }
    while (!r.done) {
        aio_context_poll(main, true);
    }
    close(r.fd[0]);
    close(r.fd[1]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/iothread/name", test_name);
    g_test_add_func("/iothread/stop-after-work", test_stop_after_work);
    g_test_add_func("/iothread/signals", test_signals);
    g_test_add_func("/iothread/bind", test_bind);
    g_test_add_func("/iothread/bind-elsewhere", test_bind_elsewhere);
    g_test_add_func("/iothread/ping-pong", test_ping_pong);
    g_test_add_func("/iothread/reschedule", test_reschedule);
    g_test_add_func("/iothread/wake-race", test_wake_race);
    g_test_add_func("/iothread/schedule-running", test_schedule_running);
    g_test_add_func("/iothread/sent-by-another", test_sent_by_another);
    g_test_add_func("/iothread/many-posters", test_many_posters);
    g_test_add_func("/iothread/live-options", test_live_options);
    g_test_add_func("/iothread/run-and-stop", test_run_and_stop);
    g_test_add_func("/iothread/remote-watch", test_remote_watch);
    return g_test_run();
}
