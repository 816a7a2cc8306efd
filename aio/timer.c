/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Timers form a binary heap: the parent of element i is element (i - 1) / 2, and no element is due
 * before its parent.
 */
#include "aio/context-internal.h"

static bool timer_before(const AioTimer *a, const AioTimer *b)
{
    return a->deadline != b->deadline ? a->deadline < b->deadline : a->seq < b->seq;
}

static AioTimer *heap_get(GPtrArray *heap, unsigned i)
{
    return g_ptr_array_index(heap, i);
}

static void heap_put(GPtrArray *heap, unsigned i, AioTimer *timer)
{
    g_ptr_array_index(heap, i) = timer;
    timer->index = i;
}

/* Put @timer into the free place @i, or further up. */
static void heap_sift_up(GPtrArray *heap, unsigned i, AioTimer *timer)
{
    while (i > 0) {
        unsigned parent = (i - 1) / 2;

        if (!timer_before(timer, heap_get(heap, parent))) {
            break;
        }
        heap_put(heap, i, heap_get(heap, parent));
        i = parent;
    }
    heap_put(heap, i, timer);
}

/* Put @timer into the free place @i, or further down. */
static void heap_sift_down(GPtrArray *heap, unsigned i, AioTimer *timer)
{
    for (;;) {
        unsigned child = 2 * i + 1;

        if (child >= heap->len) {
            break;
        }
        if (child + 1 < heap->len &&
            timer_before(heap_get(heap, child + 1), heap_get(heap, child))) {
            child++;
        }
        if (!timer_before(heap_get(heap, child), timer)) {
            break;
        }
        heap_put(heap, i, heap_get(heap, child));
        i = child;
    }
    heap_put(heap, i, timer);
}

void aio_timer_init(AioTimer *timer, AioContext *ctx, AioCallback *cb, void *opaque)
{
    *timer = (AioTimer){.ctx = ctx, .cb = cb, .opaque = opaque, .index = AIO_TIMER_IDLE};
}

AioTimer *aio_timer_new(AioContext *ctx, AioCallback *cb, void *opaque)
{
    AioTimer *timer = g_new(AioTimer, 1);

    aio_timer_init(timer, ctx, cb, opaque);
    return timer;
}

void aio_timer_arm(AioTimer *timer, int64_t deadline_ns)
{
    AioContext *ctx = timer->ctx;

    aio_timer_disarm(timer);
    timer->deadline = deadline_ns;
    timer->seq = ctx->timer_seq++;
    g_ptr_array_add(ctx->timers, timer);
    heap_sift_up(ctx->timers, ctx->timers->len - 1, timer);
}

void aio_timer_disarm(AioTimer *timer)
{
    GPtrArray *heap = timer->ctx->timers;
    unsigned i = timer->index;
    AioTimer *last;

    aio_context_assert_owner(timer->ctx);
    if (i == AIO_TIMER_IDLE) {
        return;
    }
    timer->index = AIO_TIMER_IDLE;
    last = g_ptr_array_steal_index(heap, heap->len - 1);
    if (last == timer) {
        return;
    }
    if (i > 0 && timer_before(last, heap_get(heap, (i - 1) / 2))) {
        heap_sift_up(heap, i, last);
    } else {
        heap_sift_down(heap, i, last);
    }
}

void aio_timer_free(AioTimer *timer)
{
    if (timer) {
        aio_timer_disarm(timer);
        g_free(timer);
    }
}

int64_t aio_timers_timeout(AioContext *ctx)
{
    int64_t deadline, now;

    if (ctx->timers->len == 0) {
        return -1;
    }
    deadline = heap_get(ctx->timers, 0)->deadline;
    now = aio_now_ns();
    return deadline > now ? deadline - now : 0;
}

bool aio_timers_run(AioContext *ctx)
{
    uint64_t end = ctx->timer_seq; /* what is armed from here on waits for the next turn */
    bool progress = false;
    int64_t now;

    if (ctx->timers->len == 0) {
        return false;
    }
    now = aio_now_ns();
    while (ctx->timers->len > 0) {
        AioTimer *timer = heap_get(ctx->timers, 0);

        if (timer->deadline > now || timer->seq >= end) {
            break;
        }
        aio_timer_disarm(timer);
        timer->cb(timer->opaque); /* may free it */
        progress = true;
    }
    return progress;
}
