/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Watches: level-triggered, freed and changed anywhere, several on a descriptor, probes. */
#include "aio/aio.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct Fixture {
    AioContext *ctx;
    int fd[2]; /* a socket pair, non-blocking */
} Fixture;

static void make_pair(int fd[2])
{
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), ==, 0);
}

static void set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->ctx = aio_context_new(NULL, &error);
    g_assert_no_error(error);
    make_pair(f->fd);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    aio_context_unref(f->ctx);
    close(f->fd[0]);
    close(f->fd[1]);
}

static void send_byte(int fd)
{
    g_assert_cmpint(write(fd, "x", 1), ==, 1);
}

static bool take_byte(int fd)
{
    char c;

    return read(fd, &c, 1) == 1;
}

/* Turn until nothing is left to do. Some backends need two turns for an event. */
static void settle(AioContext *ctx)
{
    for (int idle = 0; idle < 5;) {
        idle = aio_context_poll(ctx, false) ? 0 : idle + 1;
    }
}

/* Turn @n times, for watches that are ready all the time. */
static void turn(AioContext *ctx, int n)
{
    while (n-- > 0) {
        aio_context_poll(ctx, false);
    }
}

static void wait_for(AioContext *ctx, const unsigned *calls, unsigned n)
{
    while (*calls < n) {
        aio_context_poll(ctx, true);
    }
}

typedef struct Count {
    unsigned calls;
    short revents;
    int fd;        /* take a byte from it, unless -1 */
    unsigned left; /* free the watch when it has been called so often */
    AioWatch *watch;
} Count;

static void count(void *opaque, short revents)
{
    Count *c = opaque;

    c->calls++;
    c->revents = revents;
    if (c->fd >= 0) {
        take_byte(c->fd);
    }
    if (c->left && --c->left == 0) {
        aio_watch_free(g_steal_pointer(&c->watch));
    }
}

/* Called as long as there is something, not once for each arrival. */
static void test_level(Fixture *f, gconstpointer data)
{
    Count c = {.fd = -1};

    c.watch = aio_watch_new(f->ctx, f->fd[0], POLLIN, count, NULL, &c);
    settle(f->ctx);
    g_assert_cmpuint(c.calls, ==, 0);
    send_byte(f->fd[1]);
    wait_for(f->ctx, &c.calls, 10);
    g_assert_cmpint(c.revents, ==, POLLIN);
    g_assert_true(take_byte(f->fd[0]));
    settle(f->ctx);
    c.calls = 0;
    settle(f->ctx);
    g_assert_cmpuint(c.calls, ==, 0);

    c.fd = f->fd[0];
    for (int i = 0; i < 5; i++) {
        send_byte(f->fd[1]);
    }
    wait_for(f->ctx, &c.calls, 5);
    settle(f->ctx);
    aio_watch_free(c.watch);
}

static void test_ready_before(Fixture *f, gconstpointer data)
{
    Count c = {.fd = f->fd[0]};

    send_byte(f->fd[1]);
    c.watch = aio_watch_new(f->ctx, f->fd[0], POLLIN, count, NULL, &c);
    wait_for(f->ctx, &c.calls, 1);
    aio_watch_free(c.watch);
}

static void test_out_and_in(Fixture *f, gconstpointer data)
{
    Count c = {.fd = -1};

    c.watch = aio_watch_new(f->ctx, f->fd[0], POLLIN | POLLOUT, count, NULL, &c);
    wait_for(f->ctx, &c.calls, 1);
    g_assert_cmpint(c.revents, ==, POLLOUT);
    send_byte(f->fd[1]);
    while (c.revents != (POLLIN | POLLOUT)) {
        aio_context_poll(f->ctx, true);
    }
    aio_watch_free(c.watch);
}

static void fill(int fd)
{
    static const char zeroes[4096];

    while (write(fd, zeroes, sizeof(zeroes)) > 0) {
    }
}

static void empty(int fd)
{
    char buffer[4096];

    while (read(fd, buffer, sizeof(buffer)) > 0) {
    }
}

/* A peer that sends no more, and does not read either, keeps nobody busy. */
static void test_half_closed(Fixture *f, gconstpointer data)
{
    Count c = {.fd = -1};

    c.watch = aio_watch_new(f->ctx, f->fd[0], POLLOUT, count, NULL, &c);
    for (int round = 0; round < 3; round++) {
        unsigned busy = 0;

        fill(f->fd[0]);
        shutdown(f->fd[1], SHUT_WR);
        turn(f->ctx, 10);
        c.calls = 0;
        for (int i = 0; i < 100; i++) {
            busy += aio_context_poll(f->ctx, false);
        }
        g_assert_cmpuint(c.calls, ==, 0);
        g_assert_cmpuint(busy, <, 10);

        empty(f->fd[1]);
        wait_for(f->ctx, &c.calls, 3);
        g_assert_cmpint(c.revents, ==, POLLOUT);
        aio_watch_set_events(c.watch, 0);
        aio_watch_set_events(c.watch, POLLOUT);
    }
    fill(f->fd[0]);
    turn(f->ctx, 10);
    aio_watch_free(c.watch);
}

/* Events may be switched off and on, also while they are there. */
static void test_set_events(Fixture *f, gconstpointer data)
{
    Count c = {.fd = -1};

    c.watch = aio_watch_new(f->ctx, f->fd[0], 0, count, NULL, &c);
    send_byte(f->fd[1]);
    settle(f->ctx);
    g_assert_cmpuint(c.calls, ==, 0);

    for (int i = 0; i < 5; i++) {
        aio_watch_set_events(c.watch, POLLIN);
        c.calls = 0;
        wait_for(f->ctx, &c.calls, 1);
        g_assert_cmpint(c.revents, ==, POLLIN);
        aio_watch_set_events(c.watch, 0);
        c.calls = 0;
        turn(f->ctx, 5);
        g_assert_cmpuint(c.calls, ==, 0);
        aio_watch_set_events(c.watch, POLLOUT);
        wait_for(f->ctx, &c.calls, 1);
        g_assert_cmpint(c.revents, ==, POLLOUT);
        aio_watch_set_events(c.watch, 0);
    }

    /* Changed again before the loop has seen it. */
    aio_watch_set_events(c.watch, POLLIN);
    aio_watch_set_events(c.watch, POLLOUT);
    aio_watch_set_events(c.watch, 0);
    aio_watch_set_events(c.watch, POLLIN);
    c.calls = 0;
    wait_for(f->ctx, &c.calls, 1);
    aio_watch_free(c.watch);
}

static void test_hangup(Fixture *f, gconstpointer data)
{
    Count c = {.fd = -1};

    c.watch = aio_watch_new(f->ctx, f->fd[0], POLLIN, count, NULL, &c);
    settle(f->ctx);
    g_assert_cmpint(shutdown(f->fd[1], SHUT_RDWR), ==, 0);
    while (!(c.revents & POLLHUP)) {
        aio_context_poll(f->ctx, true);
    }
    /* Without events it is not even told about that. */
    aio_watch_set_events(c.watch, 0);
    c.calls = 0;
    turn(f->ctx, 5);
    g_assert_cmpuint(c.calls, ==, 0);
    aio_watch_free(c.watch);
}

static void test_free_itself(Fixture *f, gconstpointer data)
{
    Count c = {.fd = -1, .left = 3};

    c.watch = aio_watch_new(f->ctx, f->fd[0], POLLIN, count, NULL, &c);
    send_byte(f->fd[1]);
    wait_for(f->ctx, &c.calls, 3);
    turn(f->ctx, 5);
    g_assert_cmpuint(c.calls, ==, 3);
    g_assert_null(c.watch);
}

/* Each of two ready watches frees the other: only one is ever called. */
typedef struct Rival {
    AioWatch *watch;
    struct Rival *other;
    unsigned calls;
} Rival;

static void kill_other(void *opaque, short revents)
{
    Rival *r = opaque;

    r->calls++;
    aio_watch_free(g_steal_pointer(&r->other->watch));
}

static void test_free_other(Fixture *f, gconstpointer data)
{
    Rival a = {0}, b = {.other = &a};

    a.other = &b;
    for (int round = 0; round < 20; round++) {
        a.calls = b.calls = 0;
        a.watch = aio_watch_new(f->ctx, f->fd[0], POLLOUT, kill_other, NULL, &a);
        b.watch = aio_watch_new(f->ctx, f->fd[1], POLLOUT, kill_other, NULL, &b);
        while (a.calls + b.calls == 0) {
            aio_context_poll(f->ctx, true);
        }
        turn(f->ctx, 3);
        g_assert_true(!a.calls || !b.calls);
        aio_watch_free(g_steal_pointer(&a.watch));
        aio_watch_free(g_steal_pointer(&b.watch));
    }
}

/* A new watch on the number of a descriptor just closed sees its own events, and no others. */
static void test_new_on_same_number(Fixture *f, gconstpointer data)
{
    for (int round = 0; round < 50; round++) {
        Count old = {.fd = -1}, new = {.fd = -1};
        int a[2], b[2];

        make_pair(a);
        old.watch = aio_watch_new(f->ctx, a[0], POLLIN, count, NULL, &old);
        if (round % 2) {
            turn(f->ctx, 2);
        }
        if (round % 4 < 2) {
            send_byte(a[1]);
        }
        if (round % 8 < 4) {
            turn(f->ctx, 2);
        }
        aio_watch_free(old.watch);
        old.calls = 0;
        close(a[0]);
        make_pair(b);
        g_assert_true(b[0] == a[0]);
        new.watch = aio_watch_new(f->ctx, b[0], POLLIN, count, NULL, &new);
        turn(f->ctx, 3);
        g_assert_cmpuint(new.calls, ==, 0);
        send_byte(b[1]);
        wait_for(f->ctx, &new.calls, 1);
        g_assert_cmpuint(old.calls, ==, 0);
        aio_watch_free(new.watch);
        close(a[1]);
        close(b[0]);
        close(b[1]);
    }
}

/* The same descriptor, watched anew at once, keeps an event that is there already. */
static void test_new_on_same_fd(Fixture *f, gconstpointer data)
{
    send_byte(f->fd[1]);
    for (int round = 0; round < 20; round++) {
        Count c = {.fd = -1};

        c.watch = aio_watch_new(f->ctx, f->fd[0], POLLIN, count, NULL, &c);
        turn(f->ctx, round % 3);
        aio_watch_free(c.watch);
        c.calls = 0;
        c.watch = aio_watch_new(f->ctx, f->fd[0], POLLIN, count, NULL, &c);
        wait_for(f->ctx, &c.calls, 1);
        aio_watch_free(c.watch);
    }
}

/* After a watch is freed the descriptor is the caller's alone: to close it really closes. */
static void test_close_after_free(Fixture *f, gconstpointer data)
{
    Count c = {.fd = -1};
    char byte;
    int pair[2];

    make_pair(pair);
    c.watch = aio_watch_new(f->ctx, pair[0], POLLIN, count, NULL, &c);
    settle(f->ctx);
    aio_watch_free(c.watch);
    close(pair[0]);
    g_assert_cmpint(read(pair[1], &byte, 1), ==, 0); /* end of file, at once */
    close(pair[1]);
}

static void test_two_on_one_fd(Fixture *f, gconstpointer data)
{
    Count in = {.fd = -1}, out = {.fd = -1};

    in.watch = aio_watch_new(f->ctx, f->fd[0], POLLIN, count, NULL, &in);
    out.watch = aio_watch_new(f->ctx, f->fd[0], POLLOUT, count, NULL, &out);
    wait_for(f->ctx, &out.calls, 3);
    g_assert_cmpuint(in.calls, ==, 0);
    g_assert_cmpint(out.revents, ==, POLLOUT);
    send_byte(f->fd[1]);
    wait_for(f->ctx, &in.calls, 3);
    g_assert_cmpint(in.revents, ==, POLLIN);
    aio_watch_free(out.watch);
    in.calls = out.calls = 0;
    wait_for(f->ctx, &in.calls, 3);
    g_assert_cmpuint(out.calls, ==, 0);
    aio_watch_free(in.watch);
}

/* Another took what there was: the next arrival must still be seen. */
static void test_taken_by_another(Fixture *f, gconstpointer data)
{
    Count c = {.fd = f->fd[0]};

    c.watch = aio_watch_new(f->ctx, f->fd[0], POLLIN, count, NULL, &c);
    settle(f->ctx);
    for (int i = 0; i < 100; i++) {
        send_byte(f->fd[1]);
        if (i % 3 == 0) {
            aio_context_poll(f->ctx, false);
        }
        take_byte(f->fd[0]);
        if (i % 2 == 0) {
            settle(f->ctx);
        }
        c.calls = 0;
        send_byte(f->fd[1]);
        wait_for(f->ctx, &c.calls, 1);
    }
    aio_watch_free(c.watch);
}

/* A regular file, which epoll refuses, is always ready. */
static void test_regular_file(Fixture *f, gconstpointer data)
{
    Count c = {.fd = -1, .left = 3};
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp(NULL, &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    unlink(path);
    c.watch = aio_watch_new(f->ctx, fd, POLLIN, count, NULL, &c);
    wait_for(f->ctx, &c.calls, 3);
    g_assert_null(c.watch);
    turn(f->ctx, 3);
    g_assert_cmpuint(c.calls, ==, 3);
    close(fd);
}

/* Freed in the middle of a walk over many ready ones. */
typedef struct Crowd {
    AioWatch *watch[64];
    unsigned calls;
} Crowd;

static void thin_out(void *opaque, short revents)
{
    Crowd *c = opaque;

    c->calls++;
    for (int i = 0; i < 3; i++) {
        guint victim = g_test_rand_int_range(0, G_N_ELEMENTS(c->watch));

        aio_watch_free(g_steal_pointer(&c->watch[victim]));
    }
}

static bool crowd_left(const Crowd *c)
{
    for (guint i = 0; i < G_N_ELEMENTS(c->watch); i++) {
        if (c->watch[i]) {
            return true;
        }
    }
    return false;
}

static void test_crowd(Fixture *f, gconstpointer data)
{
    Crowd c = {0};
    int fds[G_N_ELEMENTS(c.watch)];

    for (guint i = 0; i < G_N_ELEMENTS(c.watch); i++) {
        fds[i] = dup(f->fd[i % 2]);
        c.watch[i] = aio_watch_new(f->ctx, fds[i], POLLOUT, thin_out, NULL, &c);
    }
    while (crowd_left(&c)) {
        aio_context_poll(f->ctx, true);
    }
    c.calls = 0;
    turn(f->ctx, 3);
    g_assert_cmpuint(c.calls, ==, 0);
    for (guint i = 0; i < G_N_ELEMENTS(c.watch); i++) {
        close(fds[i]);
    }
}

/* More watches than the ring has places, with the events of one of them. */
static void test_many(Fixture *f, gconstpointer data)
{
    enum {
        N = 700
    };
    g_autofree Count *c = g_new0(Count, N);

    for (int i = 0; i < N; i++) {
        c[i].fd = -1;
        c[i].watch = aio_watch_new(f->ctx, f->fd[0], POLLIN, count, NULL, &c[i]);
    }
    settle(f->ctx);
    send_byte(f->fd[1]);
    for (int i = 0; i < N; i++) {
        wait_for(f->ctx, &c[i].calls, 2);
    }
    for (int i = 0; i < N; i++) {
        aio_watch_free(c[i].watch);
    }
}

/* Probes */

typedef struct Probed {
    unsigned calls;
    unsigned asked;
    bool ready;
    AioWatch *watch;
    bool free_it;
} Probed;

static bool probe(void *opaque)
{
    Probed *p = opaque;

    p->asked++;
    return p->ready;
}

static void probed(void *opaque, short revents)
{
    Probed *p = opaque;

    g_assert_cmpint(revents & POLLIN, ==, POLLIN);
    p->calls++;
    p->ready = false;
    if (p->free_it) {
        aio_watch_free(g_steal_pointer(&p->watch));
    }
}

static void raise_ready(void *opaque)
{
    ((Probed *)opaque)->ready = true;
}

static void tick(void *opaque)
{
    aio_timer_arm(*(AioTimer **)opaque, aio_now_ns() + 1000);
}

/* What only a probe can see is found in the busy-wait. */
static void test_probe(Fixture *f, gconstpointer data)
{
    AioOptions opts = {.poll_max_ns = 100000000, .poll_shrink = 2};
    Probed p = {0};
    AioTimer *timer;

    aio_context_set_options(f->ctx, &opts);
    timer = aio_timer_new(f->ctx, tick, &timer);
    aio_timer_arm(timer, 0);
    p.watch = aio_watch_new(f->ctx, f->fd[0], POLLIN, probed, probe, &p);
    for (int i = 0; i < 20; i++) {
        /* The timer keeps turns short, so that the busy-wait grows. */
        aio_bh_schedule_oneshot(f->ctx, raise_ready, &p);
        wait_for(f->ctx, &p.calls, i + 1);
    }
    g_assert_cmpuint(p.asked, >, 0);
    p.free_it = true;
    p.ready = true;
    wait_for(f->ctx, &p.calls, 21);
    g_assert_null(p.watch);
    aio_timer_free(timer);
}

/* A watch with a probe still sees the events of its descriptor, asleep or busy. */
static gpointer sender(gpointer opaque)
{
    for (int i = 0; i < 300; i++) {
        if (i % 8 == 0) {
            g_usleep(200);
        }
        while (write(*(int *)opaque, "x", 1) != 1) {
            g_usleep(100);
        }
    }
    return NULL;
}

static bool probe_fd(void *opaque)
{
    struct pollfd p = {*(int *)opaque, POLLIN, 0};

    return poll(&p, 1, 0) == 1;
}

typedef struct Taker {
    int fd;
    unsigned taken;
} Taker;

static void take_all(void *opaque, short revents)
{
    Taker *t = opaque;

    while (take_byte(t->fd)) {
        t->taken++;
    }
}

static void test_probe_and_events(Fixture *f, gconstpointer data)
{
    Taker t[12];
    int fds[12][2];
    AioWatch *watch[12];
    GThread *threads[12];

    for (int i = 0; i < 12; i++) {
        make_pair(fds[i]);
        t[i] = (Taker){fds[i][0], 0};
        watch[i] = aio_watch_new(f->ctx, fds[i][0], POLLIN, take_all, probe_fd, &t[i]);
        threads[i] = g_thread_new("sender", sender, &fds[i][1]);
    }
    for (int i = 0; i < 12; i++) {
        wait_for(f->ctx, &t[i].taken, 300);
        g_thread_join(threads[i]);
    }
    for (int i = 0; i < 12; i++) {
        aio_watch_free(watch[i]);
        close(fds[i][0]);
        close(fds[i][1]);
    }
}

/* Under GLib, with the descriptors' events coming from another thread. */
typedef struct GlibTaker {
    Taker taker;
    GMainLoop *loop;
} GlibTaker;

static void glib_take(void *opaque, short revents)
{
    GlibTaker *t = opaque;

    take_all(&t->taker, revents);
    if (t->taker.taken == 300) {
        g_main_loop_quit(t->loop);
    }
}

static void test_glib(Fixture *f, gconstpointer data)
{
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
    GlibTaker t = {{f->fd[0], 0}, loop};
    GSource *source = aio_context_attach_glib(f->ctx, NULL);
    AioWatch *watch = aio_watch_new(f->ctx, f->fd[0], POLLIN, glib_take, NULL, &t);
    GThread *thread = g_thread_new("sender", sender, &f->fd[1]);

    g_main_loop_run(loop);
    g_thread_join(thread);
    g_assert_cmpuint(t.taker.taken, ==, 300);
    aio_watch_free(watch);
    g_source_destroy(source);
    g_source_unref(source);
}

#define add(path, test) g_test_add("/watch/" path, Fixture, NULL, set_up, test, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("level", test_level);
    add("ready-before", test_ready_before);
    add("out-and-in", test_out_and_in);
    add("set-events", test_set_events);
    add("half-closed", test_half_closed);
    add("hangup", test_hangup);
    add("free-itself", test_free_itself);
    add("free-other", test_free_other);
    add("new-on-same-number", test_new_on_same_number);
    add("new-on-same-fd", test_new_on_same_fd);
    add("close-after-free", test_close_after_free);
    add("two-on-one-fd", test_two_on_one_fd);
    add("taken-by-another", test_taken_by_another);
    add("regular-file", test_regular_file);
    add("crowd", test_crowd);
    add("many", test_many);
    add("probe", test_probe);
    add("probe-and-events", test_probe_and_events);
    add("glib", test_glib);
    return g_test_run();
}
