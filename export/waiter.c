/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "export/waiter.h"

#include <glib.h>

#include "aio/aio.h"

typedef struct Deadline {
    ExportWaiter *waiter;
    bool passed;
} Deadline;

static void deadline_passed(void *opaque)
{
    Deadline *deadline = opaque;

    if (deadline->waiter->co) {
        deadline->passed = true;
        export_waiter_wake(deadline->waiter);
    }
}

void export_waiter_wake(ExportWaiter *waiter)
{
    Coroutine *co = g_steal_pointer(&waiter->co);

    if (co) {
        aio_co_wake(co);
    }
}

bool export_waiter_co_wait(ExportWaiter *waiter, int64_t deadline_ns)
{
    Deadline deadline = {.waiter = waiter};
    AioTimer *timer = NULL;

    if (deadline_ns != INT64_MAX) {
        timer = aio_timer_new(aio_context_current(), deadline_passed, &deadline);
        aio_timer_arm(timer, deadline_ns);
    }
    waiter->co = coroutine_self();
    coroutine_yield();
    if (timer) {
        aio_timer_free(timer);
    }
    return !deadline.passed;
}
