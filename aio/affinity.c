/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Binding a context's thread to CPUs. Sets are of the fixed size that the C library has (1024); a
 * thread on a larger machine stays where it is.
 *
 * Who asks is served soonest on its own CPU, for to wake another one costs more than most requests.
 * That goes for who asks for many things at once, too: a server on a CPU of its own gains less by
 * working beside its client than the two spend on waking each other.
 */
#include "aio/context-internal.h"

#include <sched.h>
#include <unistd.h>

struct AioBinding {
    AioContext *ctx;
    unsigned first, step;
};

static bool affinity_get(pid_t tid, cpu_set_t *cpus)
{
    return sched_getaffinity(tid, sizeof(*cpus), cpus) == 0;
}

static void affinity_set(AioContext *ctx, const cpu_set_t *cpus)
{
    if (sched_setaffinity(0, sizeof(*cpus), cpus) == 0) {
        ctx->cpus = *cpus;
    }
}

/* Whether the thread runs where we have left it, and not where somebody else wants it to. */
static bool affinity_is_ours(AioContext *ctx)
{
    cpu_set_t now;

    return affinity_get(0, &now) && CPU_EQUAL(&now, &ctx->cpus);
}

/* The CPUs of all bindings, of those the thread may run on; or these, where that leaves none. */
static void affinity_wanted(AioContext *ctx, cpu_set_t *wanted)
{
    CPU_ZERO(wanted);
    for (GSList *l = ctx->bindings; l; l = l->next) {
        const AioBinding *binding = l->data;

        for (unsigned cpu = binding->first; cpu < CPU_SETSIZE; cpu += binding->step) {
            CPU_SET(cpu, wanted);
        }
    }
    CPU_AND(wanted, wanted, &ctx->free_cpus);
    if (CPU_COUNT(wanted) == 0) {
        *wanted = ctx->free_cpus;
    }
}

static void affinity_apply(AioContext *ctx)
{
    cpu_set_t wanted;

    if (!ctx->bindable) {
        return;
    }
    if (!affinity_is_ours(ctx)) {
        ctx->bindable = false;
        return;
    }
    affinity_wanted(ctx, &wanted);
    affinity_set(ctx, &wanted);
}

/* Before the first binding: see what the thread is free to use. */
static void affinity_begin(AioContext *ctx)
{
    cpu_set_t process;

    ctx->bindable = !ctx->polled && affinity_get(getpid(), &process) &&
                    affinity_get(0, &ctx->free_cpus) && CPU_EQUAL(&process, &ctx->free_cpus);
    ctx->cpus = ctx->free_cpus;
}

AioBinding *aio_binding_new(unsigned first, unsigned step)
{
    AioBinding *binding = g_new(AioBinding, 1);
    AioContext *ctx = aio_context_current();

    *binding = (AioBinding){.ctx = ctx, .first = first, .step = step};
    if (!ctx->bindings) {
        affinity_begin(ctx);
    }
    ctx->bindings = g_slist_prepend(ctx->bindings, binding);
    affinity_apply(ctx);
    return binding;
}

void aio_binding_free(AioBinding *binding)
{
    AioContext *ctx;

    if (!binding) {
        return;
    }
    ctx = binding->ctx;
    aio_context_assert_owner(ctx);
    ctx->bindings = g_slist_remove(ctx->bindings, binding);
    affinity_apply(ctx);
    ctx->bindable = ctx->bindable && ctx->bindings;
    g_free(binding);
}

static AioContext *bound_context(void)
{
    AioContext *ctx = aio_context_current();

    return ctx && ctx->bindable && affinity_is_ours(ctx) ? ctx : NULL;
}

AioContext *aio_affinity_lift(void)
{
    AioContext *ctx = bound_context();

    if (ctx) {
        sched_setaffinity(0, sizeof(ctx->free_cpus), &ctx->free_cpus);
    }
    return ctx;
}

void aio_affinity_restore(AioContext *ctx)
{
    if (ctx) {
        sched_setaffinity(0, sizeof(ctx->cpus), &ctx->cpus);
    }
}
