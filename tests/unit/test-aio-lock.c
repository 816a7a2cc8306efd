/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Coroutine locks: exclusion, fairness, no lost wake-up, within a thread and across threads. */
#include "aio/aio.h"
#include "aio/iothread.h"
#include "aio/lock.h"

#define THREADS    3
#define PER_THREAD 8

/* One context, stepped by hand */

static AioContext *new_context(void)
{
    g_autoptr(GError) error = NULL;
    AioContext *ctx = aio_context_new(NULL, &error);

    g_assert_no_error(error);
    return ctx;
}

static void settle(AioContext *ctx)
{
    while (aio_context_poll(ctx, false)) {
    }
}

typedef struct Actor {
    GString *log;
    void *lock;
    Coroutine *co;
    char name;
} Actor;

static void co_fn hold_mutex(void *opaque)
{
    Actor *a = opaque;

    a->co = coroutine_self();
    CO_MUTEX_GUARD(a->lock);
    g_string_append_c(a->log, a->name);
    coroutine_yield();
}

static void test_mutex_fifo(void)
{
    g_autoptr(AioContext) ctx = new_context();
    g_autoptr(GString) log = g_string_new(NULL);
    static CoMutex mutex; /* all zero is valid */
    Actor a[4];

    for (int i = 0; i < 4; i++) {
        a[i] = (Actor){log, &mutex, NULL, 'a' + i};
        aio_co_enter(ctx, hold_mutex, &a[i]);
    }
    settle(ctx);
    for (int i = 0; i < 4; i++) {
        g_assert_cmpuint(log->len, ==, i + 1);
        g_assert_false(co_mutex_trylock(&mutex));
        aio_co_wake(a[i].co);
        settle(ctx);
    }
    g_assert_cmpstr(log->str, ==, "abcd");
    g_assert_true(co_mutex_trylock(&mutex));
    co_mutex_unlock(&mutex);
}

static void co_fn hold_read(void *opaque)
{
    Actor *a = opaque;

    a->co = coroutine_self();
    CO_READ_GUARD(a->lock);
    g_string_append_c(a->log, a->name);
    coroutine_yield();
}

static void co_fn hold_write(void *opaque)
{
    Actor *a = opaque;

    a->co = coroutine_self();
    CO_WRITE_GUARD(a->lock);
    g_string_append_c(a->log, a->name);
    coroutine_yield();
}

/* a and b read; C waits to write, so d and e wait behind it; then C; then d and e together; then F.
 */
static void test_rwlock_fair(void)
{
    g_autoptr(AioContext) ctx = new_context();
    g_autoptr(GString) log = g_string_new(NULL);
    CoRwlock lock;
    const char *names = "abCdeF";
    Actor a[6];

    co_rwlock_init(&lock);
    for (int i = 0; i < 6; i++) {
        a[i] = (Actor){log, &lock, NULL, names[i]};
        aio_co_enter(ctx, g_ascii_isupper(names[i]) ? hold_write : hold_read, &a[i]);
    }
    settle(ctx);
    g_assert_cmpstr(log->str, ==, "ab");
    aio_co_wake(a[0].co);
    settle(ctx);
    g_assert_cmpstr(log->str, ==, "ab");
    aio_co_wake(a[1].co);
    settle(ctx);
    g_assert_cmpstr(log->str, ==, "abC");
    aio_co_wake(a[2].co);
    settle(ctx);
    g_assert_cmpstr(log->str, ==, "abCde");
    aio_co_wake(a[4].co);
    settle(ctx);
    g_assert_cmpstr(log->str, ==, "abCde");
    aio_co_wake(a[3].co);
    settle(ctx);
    g_assert_cmpstr(log->str, ==, "abCdeF");
    aio_co_wake(a[5].co);
    settle(ctx);
}

static void co_fn wait_in_queue(void *opaque)
{
    Actor *a = opaque;

    co_queue_wait(a->lock, NULL);
    g_string_append_c(a->log, a->name);
}

static void test_queue_order(void)
{
    g_autoptr(AioContext) ctx = new_context();
    g_autoptr(GString) log = g_string_new(NULL);
    CoQueue queue;
    Actor a[4];

    co_queue_init(&queue);
    g_assert_true(co_queue_empty(&queue));
    g_assert_false(co_queue_wake_one(&queue));
    for (int i = 0; i < 4; i++) {
        a[i] = (Actor){log, &queue, NULL, 'a' + i};
        aio_co_enter(ctx, wait_in_queue, &a[i]);
    }
    settle(ctx);
    g_assert_cmpstr(log->str, ==, "");
    g_assert_true(co_queue_wake_one(&queue));
    settle(ctx);
    g_assert_cmpstr(log->str, ==, "a");
    co_queue_wake_all(&queue);
    g_assert_true(co_queue_empty(&queue));
    settle(ctx);
    g_assert_cmpstr(log->str, ==, "abcd");
}

/* Across threads */

typedef struct Stress {
    AioContext *main;
    Iothread *threads[THREADS];
    unsigned running; /* main context only */
    unsigned rounds;
    CoMutex mutex;
    CoRwlock rwlock;
    /* under mutex or rwlock: no atomics, so that ThreadSanitizer sees a lock that does not lock */
    unsigned counter;
    unsigned inside;
} Stress;

static void one_ended(void *opaque)
{
    ((Stress *)opaque)->running--;
}

/* Something different each time, the same for each run. */
static void co_fn stumble(unsigned i)
{
    if (i % 7 == 0) {
        aio_co_sleep_ns(1000);
    } else if (i % 5 == 0) {
        aio_co_wake(coroutine_self());
        coroutine_yield();
    }
}

static void co_fn mutex_worker(void *opaque)
{
    Stress *s = opaque;

    for (unsigned i = 0; i < s->rounds; i++) {
        if (i % 3 == 0 && co_mutex_trylock(&s->mutex)) {
            s->counter++;
            co_mutex_unlock(&s->mutex);
            continue;
        }
        CO_MUTEX_GUARD(&s->mutex);
        g_assert_cmpuint(s->inside++, ==, 0);
        s->counter++;
        stumble(i);
        s->inside--;
    }
    aio_bh_schedule_oneshot(s->main, one_ended, s);
}

static void co_fn rwlock_worker(void *opaque)
{
    Stress *s = opaque;

    for (unsigned i = 0; i < s->rounds; i++) {
        if (i % 4 == 0) {
            CO_WRITE_GUARD(&s->rwlock);
            g_assert_cmpuint(s->inside++, ==, 0);
            s->counter++;
            stumble(i);
            s->inside--;
        } else {
            unsigned before;

            CO_READ_GUARD(&s->rwlock);
            g_assert_cmpuint(s->inside, ==, 0);
            before = s->counter;
            stumble(i);
            g_assert_cmpuint(s->counter, ==, before);
        }
    }
    aio_bh_schedule_oneshot(s->main, one_ended, s);
}

/* Takes the mutex in one thread and goes on in another with it. */
static void co_fn traveller(void *opaque)
{
    Stress *s = opaque;

    for (unsigned i = 0; i < s->rounds; i++) {
        CO_MUTEX_GUARD(&s->mutex);
        g_assert_cmpuint(s->inside++, ==, 0);
        aio_co_reschedule_self(iothread_context(s->threads[i % THREADS]));
        g_assert_true(aio_context_current() == iothread_context(s->threads[i % THREADS]));
        s->counter++;
        s->inside--;
    }
    aio_bh_schedule_oneshot(s->main, one_ended, s);
}

static void run_stress(CoroutineEntry *entry, unsigned rounds, unsigned expected)
{
    g_autoptr(AioContext) main = new_context();
    Stress s = {.main = main, .rounds = rounds, .running = THREADS * PER_THREAD};

    for (int t = 0; t < THREADS; t++) {
        s.threads[t] = iothread_new("stress", NULL, NULL);
        g_assert_nonnull(s.threads[t]);
    }
    for (int t = 0; t < THREADS; t++) {
        for (int i = 0; i < PER_THREAD; i++) {
            aio_co_enter(iothread_context(s.threads[t]), entry, &s);
        }
    }
    while (s.running) {
        aio_context_poll(main, true);
    }
    g_assert_cmpuint(s.counter, ==, expected);
    for (int t = 0; t < THREADS; t++) {
        iothread_unref(s.threads[t]);
    }
}

static void test_mutex_threads(void)
{
    run_stress(mutex_worker, 200, 200 * THREADS * PER_THREAD);
}

static void test_mutex_traveller(void)
{
    run_stress(traveller, 60, 60 * THREADS * PER_THREAD);
}

static void test_rwlock_threads(void)
{
    run_stress(rwlock_worker, 200, 50 * THREADS * PER_THREAD);
}

/* A bounded buffer between producers in some threads and consumers in others. */

typedef struct Buffer {
    AioContext *main;
    unsigned running; /* main context only */
    GMutex lock;
    CoMutex co_lock; /* instead of lock */
    bool use_co_lock;
    CoQueue not_full, not_empty;
    unsigned fill, puts, takes;
} Buffer;

#define BUFFER_MAX   4
#define BUFFER_ITEMS 150

static void buffer_ended(void *opaque)
{
    ((Buffer *)opaque)->running--;
}

static void co_fn buffer_lock(Buffer *b)
{
    if (b->use_co_lock) {
        co_mutex_lock(&b->co_lock);
    } else {
        g_mutex_lock(&b->lock);
    }
}

static void buffer_unlock(Buffer *b)
{
    if (b->use_co_lock) {
        co_mutex_unlock(&b->co_lock);
    } else {
        g_mutex_unlock(&b->lock);
    }
}

static void co_fn buffer_wait(Buffer *b, CoQueue *queue)
{
    if (b->use_co_lock) {
        co_queue_wait_co(queue, &b->co_lock);
    } else {
        co_queue_wait(queue, &b->lock);
    }
}

static void co_fn producer(void *opaque)
{
    Buffer *b = opaque;

    for (unsigned i = 0; i < BUFFER_ITEMS; i++) {
        buffer_lock(b);
        while (b->fill == BUFFER_MAX) {
            buffer_wait(b, &b->not_full);
        }
        b->fill++;
        b->puts++;
        co_queue_wake_one(&b->not_empty);
        buffer_unlock(b);
    }
    aio_bh_schedule_oneshot(b->main, buffer_ended, b);
}

static void co_fn consumer(void *opaque)
{
    Buffer *b = opaque;

    for (unsigned i = 0; i < BUFFER_ITEMS; i++) {
        buffer_lock(b);
        while (b->fill == 0) {
            buffer_wait(b, &b->not_empty);
        }
        b->fill--;
        b->takes++;
        if (i % 2) {
            co_queue_wake_all(&b->not_full);
        } else {
            co_queue_wake_one(&b->not_full);
        }
        buffer_unlock(b);
    }
    aio_bh_schedule_oneshot(b->main, buffer_ended, b);
}

static void run_buffer(bool use_co_lock)
{
    g_autoptr(AioContext) main = new_context();
    g_autoptr(Iothread) one = iothread_new("one", NULL, NULL);
    g_autoptr(Iothread) two = iothread_new("two", NULL, NULL);
    Buffer b = {.main = main, .running = 16, .use_co_lock = use_co_lock};

    g_assert_true(one && two);
    for (int i = 0; i < 4; i++) {
        aio_co_enter(iothread_context(one), producer, &b);
        aio_co_enter(iothread_context(two), consumer, &b);
        aio_co_enter(iothread_context(two), producer, &b);
        aio_co_enter(iothread_context(one), consumer, &b);
    }
    while (b.running) {
        aio_context_poll(main, true);
    }
    g_assert_cmpuint(b.fill, ==, 0);
    g_assert_cmpuint(b.puts, ==, 8 * BUFFER_ITEMS);
    g_assert_cmpuint(b.takes, ==, 8 * BUFFER_ITEMS);
}

static void test_queue_threads(void)
{
    run_buffer(false);
}

static void test_queue_co_mutex(void)
{
    run_buffer(true);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/lock/mutex/fifo", test_mutex_fifo);
    g_test_add_func("/lock/mutex/threads", test_mutex_threads);
    g_test_add_func("/lock/mutex/traveller", test_mutex_traveller);
    g_test_add_func("/lock/rwlock/fair", test_rwlock_fair);
    g_test_add_func("/lock/rwlock/threads", test_rwlock_threads);
    g_test_add_func("/lock/queue/order", test_queue_order);
    g_test_add_func("/lock/queue/threads", test_queue_threads);
    g_test_add_func("/lock/queue/co-mutex", test_queue_co_mutex);
    return g_test_run();
}
