/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/create.h - what drivers that make images need: BlockDriver.co_create, which runs in a job.
 *
 * Threads   Main thread; coroutines.
 */
#ifndef WHARF_BLOCK_CREATE_H
#define WHARF_BLOCK_CREATE_H

#include "block/backend.h"
#include "job/driver.h"
#include "qapi/types-block-job.h"

/*
 * A backend of @job on the node that @ref names, or that is made for this and goes with it: to
 * write, to resize, and with nobody else who does. NULL and @error.
 */
BlockBackend *co_fn block_create_co_open(BlockGraph *graph, const BlockdevRef *ref, Job *job,
                                         GError **error);

#endif
