/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/parts.h"

#include "aio/aio.h"

/* So many may be under way at a time. */
#define MAX_RUNNING 16

static void co_fn part_co_entry(void *opaque)
{
    Qcow2Part *part = opaque;
    Qcow2Parts *parts = part->parts;
    Coroutine *waiter;

    qcow2_parts_note(parts, part->run(part));
    parts->running--;
    waiter = g_steal_pointer(&parts->waiter);
    if (waiter) {
        aio_co_wake(waiter);
    }
}

/* Wait until fewer than @n are under way. */
static void co_fn co_wait(Qcow2Parts *parts, unsigned n)
{
    while (parts->running >= n) {
        parts->waiter = coroutine_self();
        coroutine_yield();
    }
}

void co_fn qcow2_parts_co_start(Qcow2Parts *parts, Qcow2Part *part)
{
    co_wait(parts, MAX_RUNNING);
    part->parts = parts;
    parts->running++;
    aio_co_enter(aio_context_current(), part_co_entry, part);
}

int co_fn qcow2_parts_co_end(Qcow2Parts *parts)
{
    co_wait(parts, 1);
    return parts->result;
}
