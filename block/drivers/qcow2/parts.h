/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/parts.h - what one coroutine has done by several others, side by side.
 *
 * Threads   All of them run in the thread of the one, which alone uses this.
 * Lifetime  The parts must have ended before it goes: qcow2_parts_co_end().
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_PARTS_H
#define WHARF_BLOCK_DRIVERS_QCOW2_PARTS_H

#include "aio/coroutine.h"

typedef struct Qcow2Part Qcow2Part;

/* All zero at first. */
typedef struct Qcow2Parts {
    unsigned running;
    int result;        /* of the first part that failed; others may set it, too */
    Coroutine *waiter; /* for a part to end */
} Qcow2Parts;

/* What belongs to a part stands in a struct of its own, with this in it. */
struct Qcow2Part {
    Qcow2Parts *parts;
    int co_fn (*run)(Qcow2Part *part); /* 0 or -errno; may free the part */
};

/* Begin @part, with @run set, as soon as not too many others are under way. */
void co_fn qcow2_parts_co_start(Qcow2Parts *parts, Qcow2Part *part);

/* Wait for all. Returns the result. */
int co_fn qcow2_parts_co_end(Qcow2Parts *parts);

/* The first error is kept. */
static inline void qcow2_parts_note(Qcow2Parts *parts, int r)
{
    if (r < 0 && parts->result == 0) {
        parts->result = r;
    }
}

#endif
