/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "aio/context-internal.h"

static void co_run(AioWork *work)
{
    Coroutine *co = (Coroutine *)((char *)work - offsetof(Coroutine, wake));
    int state = COROUTINE_RUNNING;

    /* If it was sent here before it has yielded elsewhere, it comes again when it has. */
    co->wanted_by = aio_context_current();
    if (__atomic_compare_exchange_n(&co->state, &state, COROUTINE_WANTED, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE)) {
        return;
    }
    __atomic_store_n(&co->scheduled, false, __ATOMIC_RELAXED);
    coroutine_enter(co);
}

void aio_co_schedule(AioContext *ctx, Coroutine *co)
{
    if (__atomic_exchange_n(&co->scheduled, true, __ATOMIC_ACQUIRE)) {
        g_error("a coroutine was woken again before it could run");
    }
    co->wake.run = co_run;
    if (co == coroutine_self()) {
        /* Nobody can do anything with it yet. */
        co->wanted_by = ctx;
        __atomic_store_n(&co->state, COROUTINE_WANTED, __ATOMIC_RELAXED);
        return;
    }
    aio_context_post(ctx, &co->wake);
}

void aio_co_wake(Coroutine *co)
{
    AioContext *ctx = __atomic_load_n(&co->context, __ATOMIC_RELAXED);

    g_assert(ctx); /* it has run in a context */
    aio_co_schedule(ctx, co);
}

void co_fn aio_co_reschedule_self(AioContext *ctx)
{
    if (aio_context_current() != ctx) {
        aio_co_schedule(ctx, coroutine_self());
        coroutine_yield();
    }
}

void aio_co_enter(AioContext *ctx, CoroutineEntry *entry, void *opaque)
{
    Coroutine *co = coroutine_create(entry, opaque);

    if (aio_context_current() == ctx) {
        coroutine_enter(co);
    } else {
        aio_co_schedule(ctx, co);
    }
}

static void sleep_done(void *opaque)
{
    coroutine_enter(opaque);
}

int co_fn aio_co_sleep_ns(int64_t ns)
{
    AioContext *ctx = aio_context_current();
    int64_t deadline;
    AioTimer timer;

    g_assert(ctx && coroutine_in());
    if (__builtin_add_overflow(aio_now_ns(), ns, &deadline)) {
        deadline = INT64_MAX;
    }
    aio_timer_init(&timer, ctx, sleep_done, coroutine_self());
    aio_timer_arm(&timer, deadline);
    coroutine_yield();
    return 0;
}
