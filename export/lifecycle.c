/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How an export begins and ends, whatever its type. Each of the two is one coroutine of the main
 * context that visits the queues' contexts in turn.
 */
#include "export/registry-internal.h"
#include "export/waiter.h"
#include "util/error.h"

/* How long a shutdown without a wish of its own waits before it cuts requests off. */
#define EXPORT_WAIT_NS (10 * G_GINT64_CONSTANT(1000000000))

Export *export_ref(Export *exp)
{
    g_atomic_int_inc(&exp->refs);
    return exp;
}

void export_unref(Export *exp)
{
    if (!exp || !g_atomic_int_dec_and_test(&exp->refs)) {
        return;
    }
    for (unsigned i = 0; i < exp->n_queues; i++) {
        aio_context_unref(exp->queues[i]->ctx);
        g_aligned_free(exp->queues[i]);
    }
    g_free(exp->queues);
    g_free(exp->id);
    g_free(exp->user);
    g_free(exp->node_name);
    g_free(exp);
}

unsigned export_requests(const Export *exp)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < exp->n_queues; i++) {
        sum += __atomic_load_n(&exp->queues[i]->requests, __ATOMIC_RELAXED);
    }
    return sum;
}

unsigned export_data_requests(const Export *exp)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < exp->n_queues; i++) {
        sum += __atomic_load_n(&exp->queues[i]->data_requests, __ATOMIC_ACQUIRE);
    }
    return sum;
}

void export_set_state(Export *exp, ExportState state)
{
    GSList *waiters = g_steal_pointer(&exp->waiters);

    exp->state = state;
    for (GSList *l = waiters; l; l = l->next) {
        export_waiter_wake(l->data);
    }
    g_slist_free(waiters);
}

bool export_co_wait_change(Export *exp, int64_t deadline_ns)
{
    ExportWaiter waiter = {0};
    bool told;

    exp->waiters = g_slist_prepend(exp->waiters, &waiter);
    told = export_waiter_co_wait(&waiter, deadline_ns);
    if (!told) {
        exp->waiters = g_slist_remove(exp->waiters, &waiter);
    }
    return told;
}

ExportState export_co_wait_end(Export *exp, int64_t deadline_ns)
{
    while (exp->state != EXPORT_GONE && !(exp->cut && export_requests(exp))) {
        if (!export_co_wait_change(exp, deadline_ns)) {
            break;
        }
    }
    return exp->state;
}

bool export_co_wait_started(Export *exp, int64_t deadline_ns)
{
    while (exp->state == EXPORT_STARTING && export_co_wait_change(exp, deadline_ns)) {
    }
    return exp->state != EXPORT_STARTING;
}

void export_queue_idle(ExportQueue *queue)
{
    ExportWaiter *waiter = g_steal_pointer(&queue->idle_waiter);

    export_waiter_wake(waiter);
}

static void co_fn export_co_begin_queues(Export *exp)
{
    for (unsigned i = 0; i < exp->n_queues; i++) {
        aio_co_reschedule_self(exp->queues[i]->ctx);
        exp->driver->begin(exp->queues[i]);
    }
    aio_co_reschedule_self(exp->main);
}

/* Stop all queues. Returns whether none has a request any more. */
static bool co_fn export_co_stop_queues(Export *exp, bool cut)
{
    bool idle = true;

    for (unsigned i = 0; i < exp->n_queues; i++) {
        ExportQueue *queue = exp->queues[i];

        aio_co_reschedule_self(queue->ctx);
        exp->driver->stop(queue, cut);
        /* Seen in its own context: if there is none, none is even in its last steps. */
        idle = idle && queue->requests == 0;
    }
    aio_co_reschedule_self(exp->main);
    return idle;
}

/* Wait until no stopped queue has a request any more, or until @deadline_ns (false). */
static bool co_fn export_co_wait_idle(Export *exp, int64_t deadline_ns)
{
    bool idle = true;

    for (unsigned i = 0; i < exp->n_queues && idle; i++) {
        ExportQueue *queue = exp->queues[i];

        aio_co_reschedule_self(queue->ctx);
        while (queue->requests && idle) {
            ExportWaiter waiter = {0};

            queue->idle_waiter = &waiter;
            idle = export_waiter_co_wait(&waiter, deadline_ns);
            queue->idle_waiter = NULL;
        }
    }
    aio_co_reschedule_self(exp->main);
    return idle;
}

/*
 * Stop taking requests and see those that have begun to their end; those that take too long, or all
 * if nobody is to wait, are cut off from their clients first.
 */
static void co_fn export_co_quiesce(Export *exp)
{
    bool hard = exp->deadline_ns == 0;
    bool idle = export_co_stop_queues(exp, hard);

    if (!idle && !hard) {
        idle = export_co_wait_idle(exp, exp->deadline_ns);
        if (!idle) {
            g_message("%s: cutting off what does not end (requests: %u)", exp->user,
                      export_requests(exp));
            export_co_stop_queues(exp, true);
        }
    }
    exp->cut = true;
    if (!idle) {
        export_set_state(exp, EXPORT_SHUTTING_DOWN); /* tells of the cut */
        export_co_wait_idle(exp, INT64_MAX);
    }
}

/* Give back an export that no client has found. */
static void co_fn export_co_undo_start(Export *exp)
{
    export_co_stop_queues(exp, true);
    export_co_wait_idle(exp, INT64_MAX);
    exp->driver->co_end(exp);
    block_backend_co_free(g_steal_pointer(&exp->blk));
}

/* Whether it may go on to start, after a time in which it may have been given up. */
static bool export_check_wanted(const Export *exp, GError **error)
{
    if (!exp->unwanted) {
        return true;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                "%s was removed while it was being added; add it again", exp->user);
    return false;
}

bool export_co_start(Export *exp, BlockNode *node, const BlockExportOptions *options,
                     GError **error)
{
    BlockPerm perm, shared;

    exp->driver->permissions(options, &perm, &shared);
    exp->blk = block_backend_co_new(node, exp->user, perm, shared, error);
    if (!exp->blk) {
        return false;
    }
    if (!export_check_wanted(exp, error) || !exp->driver->co_start(exp, options, error)) {
        block_backend_co_free(g_steal_pointer(&exp->blk));
        return false;
    }
    export_co_begin_queues(exp);
    if (!export_check_wanted(exp, error) ||
        (exp->driver->co_publish && !exp->driver->co_publish(exp, options, error))) {
        export_co_undo_start(exp);
        return false;
    }
    return true;
}

/* What clients have been told is written must not be lost with the export. */
static void co_fn export_co_flush(Export *exp)
{
    int ret = exp->writable ? blk_co_flush(exp->blk) : 0;

    if (ret < 0) {
        g_warning("%s: flushing its node at the end failed: %s", exp->user, g_strerror(-ret));
    }
}

char *export_describe_ending(const Export *exp)
{
    unsigned n = export_requests(exp);

    switch (exp->ending) {
    case BLOCK_EXPORT_END_STEP_CLIENTS:
        return g_strdup("it is being taken away from its clients");
    case BLOCK_EXPORT_END_STEP_REQUESTS:
        return g_strdup_printf("%u request%s in flight to node '%s'", n, n == 1 ? "" : "s",
                               exp->node_name);
    case BLOCK_EXPORT_END_STEP_FLUSH:
        return g_strdup_printf("node '%s' is being flushed", exp->node_name);
    default:
        return g_strdup("what it has held is given back");
    }
}

static void co_fn export_co_shut_down(void *opaque)
{
    g_autoptr(Export) exp = opaque;

    exp->driver->co_withdraw(exp);
    exp->ending = BLOCK_EXPORT_END_STEP_REQUESTS;
    export_co_quiesce(exp);
    exp->ending = BLOCK_EXPORT_END_STEP_FLUSH;
    export_co_flush(exp);
    exp->ending = BLOCK_EXPORT_END_STEP_RELEASE;
    exp->driver->co_end(exp);
    block_backend_co_free(g_steal_pointer(&exp->blk));
    export_registry_forget(exp->registry, exp);
    export_set_state(exp, EXPORT_GONE);
}

void export_shut_down(Export *exp, BlockExportEndReason reason, int64_t wait_ns)
{
    g_assert(exp->state == EXPORT_RUNNING);
    exp->reason = reason;
    exp->deadline_ns = wait_ns ? aio_now_ns() + wait_ns : 0;
    export_set_state(exp, EXPORT_SHUTTING_DOWN);
    aio_co_enter(exp->main, export_co_shut_down, export_ref(exp));
}

typedef struct ExportLoss {
    Export *exp;
    BlockExportEndReason reason;
} ExportLoss;

static const char *export_loss_to_string(BlockExportEndReason reason)
{
    return reason == BLOCK_EXPORT_END_REASON_UNMOUNTED ? "somebody else has unmounted it"
                                                       : "its connection to the kernel was cut off";
}

static void co_fn export_co_lose(void *opaque)
{
    ExportLoss *loss = opaque;
    g_autoptr(Export) exp = loss->exp;
    BlockExportEndReason reason = loss->reason;

    g_free(loss);
    export_co_wait_started(exp, INT64_MAX);
    if (exp->state == EXPORT_RUNNING) {
        g_message("%s: %s; shutting it down", exp->user, export_loss_to_string(reason));
        export_shut_down(exp, reason, EXPORT_WAIT_NS);
    }
}

void export_lost(Export *exp, BlockExportEndReason reason)
{
    ExportLoss *loss = g_new(ExportLoss, 1);

    *loss = (ExportLoss){export_ref(exp), reason};
    aio_co_enter(exp->main, export_co_lose, loss);
}
