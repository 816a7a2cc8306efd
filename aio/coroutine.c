/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "aio/context-internal.h"

/* More than this many idle stacks of a thread go back to the system. */
#define POOL_MAX 128

static __thread CoroutineThread this_thread;

static void thread_end(gpointer opaque);
static GPrivate thread_end_hook = G_PRIVATE_INIT(thread_end);

CoroutineThread *G_GNUC_NO_INLINE coroutine_thread(void)
{
    CoroutineThread *t = &this_thread;

    /* Keeps the compiler from finding out that the result is always the same. */
    __asm__ volatile("" : "+r"(t));
    return t;
}

static void G_GNUC_NO_INLINE thread_begin(CoroutineThread *t)
{
    coroutine_stack_init_thread(&t->leader.stack);
    t->current = &t->leader;
    g_private_set(&thread_end_hook, t);
}

/* A coroutine lives at the top of its own stack. */
static void coroutine_destroy(Coroutine *co)
{
    CoroutineStack stack = co->stack;

    coroutine_stack_free(&stack);
}

static void thread_end(gpointer opaque)
{
    CoroutineThread *t = opaque;

    while (t->pool) {
        Coroutine *co = t->pool;

        t->pool = co->next;
        coroutine_destroy(co);
    }
    t->pool_size = 0;
}

/* What runs on each stack: one entry function after the other. */
static void coroutine_main(void *opaque)
{
    Coroutine *self = opaque;

    coroutine_stack_entered(&self->stack);
    for (;;) {
        Coroutine *caller;

        self->entry(self->opaque);
        self->entry = NULL;

        caller = self->caller;
        self->caller = NULL;
        coroutine_thread()->current = caller;
        coroutine_stack_switch(&self->stack, &caller->stack, true);
    }
}

static Coroutine *coroutine_new(void)
{
    CoroutineStack stack;
    Coroutine *co;

    coroutine_stack_alloc(&stack, COROUTINE_STACK_SIZE);
    co = (Coroutine *)(stack.base + stack.size) - 1;
    co->stack = stack;
    coroutine_stack_prepare(&co->stack, sizeof(*co), coroutine_main, co);
    return co;
}

Coroutine *coroutine_create(CoroutineEntry *entry, void *opaque)
{
    CoroutineThread *t = coroutine_thread();
    Coroutine *co = t->pool;

    if (co) {
        t->pool = co->next;
        t->pool_size--;
    } else {
        co = coroutine_new();
    }
    co->entry = entry;
    co->opaque = opaque;
    co->caller = NULL;
    __atomic_store_n(&co->state, COROUTINE_PARKED, __ATOMIC_RELAXED);
    return co;
}

static void coroutine_release(CoroutineThread *t, Coroutine *co)
{
    if (t->pool_size >= POOL_MAX) {
        coroutine_destroy(co);
        return;
    }
    co->next = t->pool;
    t->pool = co;
    t->pool_size++;
}

void coroutine_enter(Coroutine *co)
{
    CoroutineThread *t = coroutine_thread();
    Coroutine *self;

    if (G_UNLIKELY(!t->current)) {
        thread_begin(t);
    }
    self = t->current;
    g_assert(co->entry && !co->caller); /* neither ended nor running */

    co->caller = self;
    __atomic_store_n(&co->context, t->context, __ATOMIC_RELAXED);
    __atomic_store_n(&co->state, COROUTINE_RUNNING, __ATOMIC_RELAXED);
    t->current = co;
    coroutine_stack_switch(&self->stack, &co->stack, false);

    /* Whoever enters a coroutine returns in the same thread, so @t still holds. */
    if (!co->entry) {
        coroutine_release(t, co);
        return;
    }
    /* As soon as it is parked, and not wanted, somebody else may enter it and @co be gone. */
    if (__atomic_exchange_n(&co->state, COROUTINE_PARKED, __ATOMIC_ACQ_REL) == COROUTINE_WANTED) {
        aio_context_post(co->wanted_by, &co->wake);
    }
}

void co_fn coroutine_yield(void)
{
    CoroutineThread *t = coroutine_thread();
    Coroutine *self = t->current;
    Coroutine *caller;

    g_assert(self && self->caller); /* in a coroutine */
    caller = self->caller;
    self->caller = NULL;
    t->current = caller;
    coroutine_stack_switch(&self->stack, &caller->stack, false);
}

Coroutine *coroutine_self(void)
{
    Coroutine *current = coroutine_thread()->current;

    return current && current->caller ? current : NULL;
}

bool coroutine_in(void)
{
    return coroutine_self() != NULL;
}
