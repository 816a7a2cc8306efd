/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "aio/context-internal.h"

#include "util/error.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* The first busy-wait after a time without any. */
#define POLL_START_NS 4000

/* What comes after so many times the longest busy-wait is none that it could ever catch. */
#define POLL_ASLEEP_FACTOR 2

/* So many of the longest busy-waits in a row may be in vain. */
#define POLL_MISSES_MAX 2

/* A look for what has come takes no longer than this: beyond, others have had the processor. */
#define POLL_LOOK_NS 2000

/*
 * If others keep the processor for longer than this once it is offered, they are not those who
 * bring us work: it is not offered for so many times as long then.
 */
#define POLL_AWAY_NS_MAX 500000
#define POLL_AWAY_FACTOR 64

/* So long the context may keep other sources of its GMainContext waiting. */
#define DISPATCH_NS_MAX 1000000

int64_t aio_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* Lists of work */

static void work_list_init(AioWorkList *list)
{
    list->head = NULL;
    list->tail = &list->head;
}

static void work_list_append(AioWorkList *list, AioWork *work)
{
    work->next = NULL;
    *list->tail = work;
    list->tail = &work->next;
}

/* Move what other threads have posted to the ready list. */
static void take_incoming(AioContext *ctx)
{
    AioWork *newest;
    AioWork *oldest = NULL;

    if (!__atomic_load_n(&ctx->incoming, __ATOMIC_RELAXED)) {
        return;
    }
    newest = __atomic_exchange_n(&ctx->incoming, NULL, __ATOMIC_ACQUIRE);
    while (newest) {
        AioWork *next = newest->next;

        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        AioWork *next = oldest->next;

        work_list_append(&ctx->ready, oldest);
        oldest = next;
    }
}

static bool has_ready(AioContext *ctx)
{
    return ctx->ready.head || __atomic_load_n(&ctx->incoming, __ATOMIC_SEQ_CST);
}

static void wake_up(AioContext *ctx)
{
    const uint64_t one = 1;
    ssize_t r;

    /* Of all who find the owner asleep, one writes. */
    if (!__atomic_load_n(&ctx->sleeping, __ATOMIC_SEQ_CST) ||
        !__atomic_exchange_n(&ctx->sleeping, 0, __ATOMIC_SEQ_CST)) {
        return;
    }
    do {
        r = write(ctx->wake_fd, &one, sizeof(one));
    } while (r < 0 && errno == EINTR);
}

void aio_context_post(AioContext *ctx, AioWork *work)
{
    if (coroutine_thread()->context == ctx) {
        /* What had been posted elsewhere before comes first, whoever knew of it. */
        take_incoming(ctx);
        work_list_append(&ctx->ready, work);
        wake_up(ctx); /* under GLib another source may post when this one is ready to sleep */
        return;
    }

    /* Once @work is in the list the owner may run it, and that may lead to the end of @ctx. */
    __atomic_fetch_add(&ctx->posters, 1, __ATOMIC_RELAXED);
    work->next = __atomic_load_n(&ctx->incoming, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&ctx->incoming, &work->next, work, true, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED)) {
    }
    wake_up(ctx);
    __atomic_fetch_sub(&ctx->posters, 1, __ATOMIC_RELEASE);
}

/* Run what is ready now. What that posts in turn waits for the next turn, so that I/O gets its. */
static bool run_ready(AioContext *ctx)
{
    AioWork *work;

    take_incoming(ctx);
    work = ctx->ready.head;
    if (!work) {
        return false;
    }
    work_list_init(&ctx->ready);
    while (work) {
        AioWork *next = work->next;

        work->run(work);
        work = next;
    }
    return true;
}

/* Ownership */

static bool is_owner(AioContext *ctx)
{
    return __atomic_load_n(&ctx->owner, __ATOMIC_RELAXED) == coroutine_thread();
}

void aio_context_assert_owner(AioContext *ctx)
{
    g_assert(!__atomic_load_n(&ctx->owner, __ATOMIC_RELAXED) || is_owner(ctx));
}

AioContext *aio_context_current(void)
{
    return coroutine_thread()->context;
}

/* Make @ctx the current one of the calling thread. @polled: see bind(). Returns the one before. */
static AioContext *context_enter(AioContext *ctx, bool polled)
{
    CoroutineThread *t = coroutine_thread();
    AioContext *outer = t->context;

    g_assert(!coroutine_in());
    if (!ctx->owner) {
        __atomic_store_n(&ctx->owner, t, __ATOMIC_RELAXED);
        ctx->polled = polled;
        ctx->ops->bind(ctx, polled);
    }
    g_assert(is_owner(ctx) && (ctx->polled || !polled));
    t->context = ctx;
    return outer;
}

static void context_leave(AioContext *outer)
{
    coroutine_thread()->context = outer;
}

/* Polling */

static uint64_t load_option(const uint64_t *option)
{
    return __atomic_load_n(option, __ATOMIC_RELAXED);
}

static void poll_grow(AioContext *ctx, uint64_t max)
{
    uint64_t factor = load_option(&ctx->poll_grow);

    factor = factor ? factor : 2;
    if (ctx->poll_ns == 0) {
        ctx->poll_ns = POLL_START_NS;
    } else if (__builtin_mul_overflow(ctx->poll_ns, factor, &ctx->poll_ns)) {
        ctx->poll_ns = max;
    }
    ctx->poll_ns = MIN(ctx->poll_ns, max);
}

static void poll_shrink(AioContext *ctx)
{
    uint64_t divisor = load_option(&ctx->poll_shrink);

    ctx->poll_ns = divisor ? ctx->poll_ns / divisor : 0;
    ctx->poll_misses = 0;
}

/*
 * Something came after @waited_ns, the last part of which we slept. Busy-wait longer next time
 * where that would have caught it, as it may have even if it took longer than the longest
 * busy-wait: who sleeps has to be woken first. A bound thread goes on where it was just too short:
 * it also keeps its CPU from being idle, and so those it serves from being drawn there and back.
 */
static void poll_adjust(AioContext *ctx, uint64_t waited_ns, uint64_t max)
{
    if (waited_ns <= ctx->poll_ns) {
        return;
    }
    if (waited_ns / POLL_ASLEEP_FACTOR > max) {
        poll_shrink(ctx);
    } else if (ctx->poll_ns < max) {
        poll_grow(ctx, max);
    } else if (!ctx->bindable && ++ctx->poll_misses > POLL_MISSES_MAX) {
        poll_shrink(ctx);
    }
}

/*
 * What to do between two looks, the last one at @last. Returns when that is over; *@spent_ns grows
 * by the part of the time that we have used up ourselves.
 *
 * Who is to bring work may need this very processor, so it is offered. Staying runnable is still
 * better than to sleep: nobody has to wake us, which is dear for him where it takes an interrupt
 * to another processor, most of all in a virtual machine.
 */
static int64_t poll_pause(AioContext *ctx, int64_t last, uint64_t *spent_ns)
{
    bool offer = last >= ctx->poll_keep_until;
    int64_t now;

    if (offer) {
        sched_yield();
    } else {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    now = aio_now_ns();
    if (offer && now - last > POLL_AWAY_NS_MAX) {
        ctx->poll_keep_until = now + POLL_AWAY_FACTOR * (now - last);
    }
    *spent_ns += offer ? MIN(now - last, POLL_LOOK_NS) : now - last;
    return now;
}

/*
 * Wait actively for what comes within @timeout_ns (-1: whenever), no longer than has been worth it
 * lately. Returns whether something came; *@progress says whether a probe called back for it.
 * *@spent_ns grows by what the wait has used up.
 */
static bool busy_wait(AioContext *ctx, int64_t timeout_ns, bool *progress, uint64_t *spent_ns)
{
    uint64_t max = load_option(&ctx->poll_max_ns);
    uint64_t span = MIN(ctx->poll_ns, max);
    int64_t start, now;

    if (span == 0) {
        return false;
    }
    start = now = aio_now_ns();
    ctx->ops->flush(ctx, true);
    do {
        *progress |= aio_watches_probe(ctx);
        if (*progress || has_ready(ctx) || ctx->ops->peek(ctx)) {
            ctx->ops->wait(ctx, 0, true);
            ctx->poll_misses = 0;
            return true;
        }
        now = poll_pause(ctx, now, spent_ns);
    } while (*spent_ns < span && (timeout_ns < 0 || now - start < timeout_ns));
    return false;
}

/* Turns */

typedef enum TurnKind {
    TURN_TAKE,  /* what is there */
    TURN_AWAIT, /* what comes, actively as long as that is worth it */
    TURN_SLEEP, /* what comes, however long it takes */
} TurnKind;

/* Sleep until something comes or @timeout_ns (-1: none) have passed. */
static void sleep_in_backend(AioContext *ctx, int64_t timeout_ns)
{
    __atomic_store_n(&ctx->sleeping, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&ctx->incoming, __ATOMIC_SEQ_CST)) {
        timeout_ns = 0;
    }
    ctx->ops->wait(ctx, timeout_ns, false);
    __atomic_store_n(&ctx->sleeping, 0, __ATOMIC_RELAXED);
}

/* Wait for events, at most @timeout_ns (-1: for ever). Returns whether a probe called back. */
static bool wait_for_events(AioContext *ctx, TurnKind kind, int64_t timeout_ns)
{
    uint64_t max = load_option(&ctx->poll_max_ns);
    uint64_t spent_ns = 0;
    bool progress = false;
    int64_t start;

    if (busy_wait(ctx, timeout_ns, &progress, &spent_ns) || kind == TURN_AWAIT) {
        return progress;
    }
    if (timeout_ns > 0 && spent_ns > 0) {
        timeout_ns = aio_timers_timeout(ctx);
    }
    start = max ? aio_now_ns() : 0;
    sleep_in_backend(ctx, timeout_ns);
    if (max) {
        poll_adjust(ctx, spent_ns + (aio_now_ns() - start), max);
    }
    return false;
}

static bool turn(AioContext *ctx, TurnKind kind)
{
    int64_t timeout_ns = has_ready(ctx) ? 0 : aio_timers_timeout(ctx);
    bool progress = false;

    if (kind == TURN_TAKE || timeout_ns == 0) {
        ctx->ops->wait(ctx, 0, false);
    } else {
        progress = wait_for_events(ctx, kind, timeout_ns);
    }
    progress |= ctx->ops->dispatch(ctx);
    progress |= aio_timers_run(ctx);
    progress |= run_ready(ctx);
    return progress;
}

bool aio_context_poll(AioContext *ctx, bool blocking)
{
    AioContext *outer = context_enter(ctx, false);
    bool progress = turn(ctx, blocking ? TURN_SLEEP : TURN_TAKE);

    context_leave(outer);
    return progress;
}

void aio_context_run(AioContext *ctx, const bool *stop)
{
    AioContext *outer = context_enter(ctx, false);

    while (!__atomic_load_n(stop, __ATOMIC_ACQUIRE)) {
        turn(ctx, TURN_SLEEP);
    }
    while (turn(ctx, TURN_TAKE)) {
    }
    context_leave(outer);
}

void aio_context_flush(void)
{
    AioContext *ctx = aio_context_current();

    ctx->ops->flush(ctx, false);
}

void aio_context_kick(AioContext *ctx)
{
    aio_bh_schedule(ctx->kick);
}

/* GLib */

typedef struct AioSource {
    GSource base;
    AioContext *ctx;
    AioContext *outer; /* the thread's current context before */
    int64_t last_ns;   /* when the last event had been dealt with; 0 before the first */
} AioSource;

static gint timeout_to_ms(int64_t timeout_ns)
{
    return timeout_ns < 0 ? -1 : (gint)MIN((timeout_ns + 999999) / 1000000, G_MAXINT);
}

static gboolean source_prepare(GSource *source, gint *timeout)
{
    AioContext *ctx = ((AioSource *)source)->ctx;
    int64_t timeout_ns = has_ready(ctx) ? 0 : aio_timers_timeout(ctx);

    if (timeout_ns != 0) {
        /* From here on a post writes to wake_fd; what came before it is seen below. */
        __atomic_store_n(&ctx->sleeping, 1, __ATOMIC_SEQ_CST);
        ctx->ops->flush(ctx, false);
        if (has_ready(ctx) || ctx->ops->peek(ctx)) {
            __atomic_store_n(&ctx->sleeping, 0, __ATOMIC_RELAXED);
            timeout_ns = 0;
        }
    }
    *timeout = timeout_to_ms(timeout_ns);
    return timeout_ns == 0;
}

static gboolean source_check(GSource *source)
{
    AioContext *ctx = ((AioSource *)source)->ctx;

    __atomic_store_n(&ctx->sleeping, 0, __ATOMIC_RELAXED);
    return has_ready(ctx) || ctx->ops->peek(ctx) || aio_timers_timeout(ctx) == 0;
}

/*
 * Other sources have their turn when nothing has come for a while, but also when there is no end to
 * what comes.
 */
static gboolean source_dispatch(GSource *source, GSourceFunc callback, gpointer user_data)
{
    AioSource *s = (AioSource *)source;
    AioContext *outer = context_enter(s->ctx, true);
    uint64_t max = load_option(&s->ctx->poll_max_ns);
    int64_t start = max ? aio_now_ns() : 0;

    if (max && s->last_ns) {
        poll_adjust(s->ctx, start - s->last_ns, max);
    }
    turn(s->ctx, TURN_TAKE);
    if (max) {
        do {
            s->last_ns = aio_now_ns();
        } while (s->last_ns - start < DISPATCH_NS_MAX && turn(s->ctx, TURN_AWAIT));
    }
    context_leave(outer);
    return G_SOURCE_CONTINUE;
}

/* Also called when the source is destroyed, by GLib, in the thread that does it. */
static void source_finalize(GSource *source)
{
    AioSource *s = (AioSource *)source;
    CoroutineThread *t = coroutine_thread();

    if (t->context == s->ctx) {
        t->context = s->outer;
    }
    aio_context_unref(s->ctx);
}

GSource *aio_context_attach_glib(AioContext *ctx, GMainContext *main)
{
    static GSourceFuncs funcs = {
        .prepare = source_prepare,
        .check = source_check,
        .dispatch = source_dispatch,
        .finalize = source_finalize,
    };
    GSource *source = g_source_new(&funcs, sizeof(AioSource));
    AioSource *s = (AioSource *)source;

    g_source_set_static_name(source, "AioContext");
    s->ctx = aio_context_ref(ctx);
    s->outer = context_enter(ctx, true);
    g_source_add_unix_fd(source, ctx->ops->fd(ctx), G_IO_IN);
    g_source_attach(source, main);
    return source;
}

/* Life */

static const AioBackendOps *backend_by_name(const char *name, GError **error)
{
    if (g_str_equal(name, "epoll")) {
        return &aio_backend_epoll;
    }
#ifdef WHARF_HAVE_IO_URING
    if (g_str_equal(name, "io_uring")) {
        return &aio_backend_uring;
    }
#else
    if (g_str_equal(name, "io_uring")) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "WHARF_AIO=io_uring: this build has no io_uring; use epoll or auto");
        return NULL;
    }
#endif
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                "WHARF_AIO=%s: no such event loop; use auto, io_uring or epoll", name);
    return NULL;
}

/* Take the best backend that the kernel lets us have. */
static bool backend_init_auto(AioContext *ctx, GError **error)
{
#ifdef WHARF_HAVE_IO_URING
    static gsize told;
    g_autoptr(GError) why = NULL;

    ctx->ops = &aio_backend_uring;
    if (ctx->ops->init(ctx, &why)) {
        return true;
    }
    if (g_once_init_enter(&told)) {
        g_message("%s; using epoll and worker threads instead", why->message);
        g_once_init_leave(&told, 1);
    }
#endif
    ctx->ops = &aio_backend_epoll;
    return ctx->ops->init(ctx, error);
}

static bool backend_init(AioContext *ctx, AioBackend backend, GError **error)
{
    const char *name = backend == AIO_BACKEND_IO_URING ? "io_uring"
                       : backend == AIO_BACKEND_EPOLL  ? "epoll"
                                                       : g_getenv("WHARF_AIO");

    if (!name || !*name || g_str_equal(name, "auto")) {
        return backend_init_auto(ctx, error);
    }
    ctx->ops = backend_by_name(name, error);
    return ctx->ops && ctx->ops->init(ctx, error);
}

static void kick_cb(void *opaque)
{
}

AioContext *aio_context_new(const AioOptions *opts, GError **error)
{
    static const AioOptions defaults = AIO_OPTIONS_DEFAULT;
    AioContext *ctx = g_new0(AioContext, 1);

    opts = opts ? opts : &defaults;
    ctx->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (ctx->wake_fd < 0) {
        wharf_set_error_errno(error, errno, "cannot create an eventfd for an event loop");
        g_free(ctx);
        return NULL;
    }
    if (!backend_init(ctx, opts->backend, error)) {
        close(ctx->wake_fd);
        g_free(ctx);
        return NULL;
    }
    ctx->refs = 1;
    work_list_init(&ctx->ready);
    ctx->timers = g_ptr_array_new();
    ctx->buffers = g_ptr_array_new();
    ctx->workers = aio_workers_new();
    ctx->workers_apart = aio_workers_new();
    aio_workers_set_limits(ctx->workers_apart, 0, G_MAXUINT);
    ctx->kick = aio_bh_new(ctx, kick_cb, NULL);
    aio_context_set_options(ctx, opts);
    return ctx;
}

AioContext *aio_context_ref(AioContext *ctx)
{
    __atomic_fetch_add(&ctx->refs, 1, __ATOMIC_RELAXED);
    return ctx;
}

static void context_free(AioContext *ctx)
{
    AioContext *outer = coroutine_thread()->context;

    /* A thread that posted its last work may be about to look at ctx->sleeping. */
    while (__atomic_load_n(&ctx->posters, __ATOMIC_ACQUIRE)) {
        g_thread_yield();
    }
    aio_workers_free(ctx->workers_apart);
    aio_workers_free(ctx->workers);
    coroutine_thread()->context = ctx;
    aio_bh_free(ctx->kick);
    while (run_ready(ctx)) {
    }
    context_leave(outer == ctx ? NULL : outer);
    g_warn_if_fail(!ctx->watches && ctx->timers->len == 0 && ctx->buffers->len == 0);

    ctx->ops->fini(ctx);
    close(ctx->wake_fd);
    g_ptr_array_unref(ctx->timers);
    g_ptr_array_unref(ctx->buffers);
    g_free(ctx);
}

void aio_context_unref(AioContext *ctx)
{
    if (__atomic_fetch_sub(&ctx->refs, 1, __ATOMIC_ACQ_REL) == 1) {
        context_free(ctx);
    }
}

void aio_context_set_options(AioContext *ctx, const AioOptions *opts)
{
    __atomic_store_n(&ctx->poll_max_ns, opts->poll_max_ns, __ATOMIC_RELAXED);
    __atomic_store_n(&ctx->poll_grow, opts->poll_grow, __ATOMIC_RELAXED);
    __atomic_store_n(&ctx->poll_shrink, opts->poll_shrink, __ATOMIC_RELAXED);
    __atomic_store_n(&ctx->max_batch, opts->max_batch, __ATOMIC_RELAXED);
    aio_workers_set_limits(ctx->workers, opts->workers_min, opts->workers_max);
}

void aio_context_get_options(AioContext *ctx, AioOptions *opts)
{
    *opts = (AioOptions){
        .backend = ctx->ops == &aio_backend_epoll ? AIO_BACKEND_EPOLL : AIO_BACKEND_IO_URING,
        .poll_max_ns = load_option(&ctx->poll_max_ns),
        .poll_grow = load_option(&ctx->poll_grow),
        .poll_shrink = load_option(&ctx->poll_shrink),
        .max_batch = load_option(&ctx->max_batch),
    };
    aio_workers_get_limits(ctx->workers, &opts->workers_min, &opts->workers_max);
}

const char *aio_context_backend_name(const AioContext *ctx)
{
    return ctx->ops->name;
}
