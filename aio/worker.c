/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Worker threads of a context. A request lives on the stack of the coroutine that waits for it.
 * Threads are started when a request finds none idle, and end when idle for some time.
 */
#include "aio/context-internal.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#define IDLE_SECONDS 10

typedef struct WorkerItem WorkerItem;

struct WorkerItem {
    WorkerItem *next;
    int (*fn)(void *opaque);
    void *opaque;
    Coroutine *co;
    int ret;
};

struct AioWorkers {
    GMutex lock;
    /* Under lock */
    GCond wanted;     /* there is an item, a thread too many, or the end */
    WorkerItem *head; /* waiting, oldest first */
    WorkerItem **tail;
    unsigned waiting;  /* items in the list */
    unsigned min, max; /* threads */
    unsigned threads;  /* running */
    unsigned idle;     /* of these, without an item */
    bool stopping;
    GSList *ended; /* GThread to be joined */
    GSList *alive; /* GThread */
};

GThread *aio_thread_new(const char *name, GThreadFunc func, gpointer data, GError **error)
{
    static const int own_faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGPROF};
    sigset_t block, old;
    AioContext *lifted;
    GThread *thread;

    sigfillset(&block);
    for (unsigned i = 0; i < G_N_ELEMENTS(own_faults); i++) {
        sigdelset(&block, own_faults[i]);
    }
    /* Both are handed down. */
    lifted = aio_affinity_lift();
    pthread_sigmask(SIG_BLOCK, &block, &old);
    thread = g_thread_try_new(name, func, data, error);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    aio_affinity_restore(lifted);
    return thread;
}

static bool worker_is_surplus(AioWorkers *w)
{
    return w->stopping || w->threads > w->max;
}

/* Wait for an item. Returns NULL when the thread shall end. Called with the lock held. */
static WorkerItem *worker_take(AioWorkers *w)
{
    gint64 deadline = g_get_monotonic_time() + IDLE_SECONDS * G_TIME_SPAN_SECOND;
    WorkerItem *item;

    while (!w->head) {
        bool timed_out;

        if (worker_is_surplus(w)) {
            return NULL;
        }
        w->idle++;
        timed_out = !g_cond_wait_until(&w->wanted, &w->lock, deadline);
        w->idle--;
        if (timed_out && !w->head) {
            if (w->threads > w->min) {
                return NULL;
            }
            deadline = g_get_monotonic_time() + IDLE_SECONDS * G_TIME_SPAN_SECOND;
        }
    }
    item = w->head;
    w->head = item->next;
    if (!w->head) {
        w->tail = &w->head;
    }
    w->waiting--;
    return item;
}

static gpointer worker_main(gpointer opaque)
{
    AioWorkers *w = opaque;
    WorkerItem *item;

    g_mutex_lock(&w->lock);
    while ((item = worker_take(w))) {
        g_mutex_unlock(&w->lock);
        item->ret = item->fn(item->opaque);
        aio_co_wake(item->co); /* and the item is gone */
        g_mutex_lock(&w->lock);
    }
    w->threads--;
    w->alive = g_slist_remove(w->alive, g_thread_self());
    w->ended = g_slist_prepend(w->ended, g_thread_self());
    g_mutex_unlock(&w->lock);
    return NULL;
}

static void join_all(GSList *threads)
{
    for (GSList *l = threads; l; l = l->next) {
        g_thread_join(l->data);
    }
    g_slist_free(threads);
}

/* Start a thread if the items outnumber those who wait for one. Called with the lock held. */
static void start_if_needed(AioWorkers *w)
{
    GThread *thread;

    if (w->waiting <= w->idle || w->threads >= w->max) {
        return;
    }
    thread = aio_thread_new("wharf-worker", worker_main, w, NULL);
    if (thread) {
        w->threads++;
        w->alive = g_slist_prepend(w->alive, thread);
    }
}

/* Queue @item. Returns false if there is no thread and none can be started. */
static bool workers_submit(AioWorkers *w, WorkerItem *item)
{
    GSList *ended;
    bool queued;

    g_mutex_lock(&w->lock);
    item->next = NULL;
    *w->tail = item;
    w->tail = &item->next;
    w->waiting++;
    start_if_needed(w);
    queued = w->threads > 0;
    if (queued) {
        g_cond_signal(&w->wanted);
    } else {
        w->head = NULL;
        w->tail = &w->head;
        w->waiting = 0;
    }
    ended = g_steal_pointer(&w->ended);
    g_mutex_unlock(&w->lock);
    join_all(ended);
    return queued;
}

static int co_fn workers_co_run(AioWorkers *w, int (*fn)(void *opaque), void *opaque)
{
    WorkerItem item = {.fn = fn, .opaque = opaque, .co = coroutine_self()};

    g_assert(item.co);
    if (!workers_submit(w, &item)) {
        return fn(opaque); /* late is better than never */
    }
    coroutine_yield();
    return item.ret;
}

int co_fn aio_co_run_worker(int (*fn)(void *opaque), void *opaque)
{
    AioContext *ctx = aio_context_current();

    g_assert(ctx);
    return workers_co_run(ctx->workers, fn, opaque);
}

int co_fn aio_co_run_worker_apart(int (*fn)(void *opaque), void *opaque)
{
    AioContext *ctx = aio_context_current();

    g_assert(ctx);
    return workers_co_run(ctx->workers_apart, fn, opaque);
}

AioWorkers *aio_workers_new(void)
{
    AioWorkers *w = g_new0(AioWorkers, 1);

    g_mutex_init(&w->lock);
    g_cond_init(&w->wanted);
    w->tail = &w->head;
    return w;
}

void aio_workers_free(AioWorkers *w)
{
    GSList *threads;

    g_mutex_lock(&w->lock);
    w->stopping = true;
    g_cond_broadcast(&w->wanted);
    threads = g_slist_concat(g_slist_copy(w->alive), g_steal_pointer(&w->ended));
    g_mutex_unlock(&w->lock);

    join_all(threads);
    g_slist_free(w->ended);
    g_mutex_clear(&w->lock);
    g_cond_clear(&w->wanted);
    g_free(w);
}

void aio_workers_set_limits(AioWorkers *w, unsigned min, unsigned max)
{
    g_mutex_lock(&w->lock);
    w->max = max ? max : AIO_WORKERS_MAX_DEFAULT;
    w->min = MIN(min, w->max);
    g_cond_broadcast(&w->wanted);
    g_mutex_unlock(&w->lock);
}

void aio_workers_get_limits(AioWorkers *w, unsigned *min, unsigned *max)
{
    g_mutex_lock(&w->lock);
    *min = w->min;
    *max = w->max;
    g_mutex_unlock(&w->lock);
}
