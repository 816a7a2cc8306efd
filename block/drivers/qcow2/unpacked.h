/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/unpacked.h - what compressed clusters held, for a while: those of an image
 * that were decompressed last. Who reads a cluster bit by bit has it decompressed once.
 *
 * Clusters are known by where their compressed data lies, so whoever gives that place to something
 * else drops them before.
 *
 * Threads   Any. Who needs a cluster that is being decompressed for somebody else waits for that.
 * Memory    A few MiB at most, used as they are needed; beyond that readers have their own.
 * Lifetime  Nobody may be inside when it is freed.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_UNPACKED_H
#define WHARF_BLOCK_DRIVERS_QCOW2_UNPACKED_H

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

#include "aio/coroutine.h"
#include "util/iov.h"

typedef struct Qcow2Unpacked Qcow2Unpacked;

Qcow2Unpacked *qcow2_unpacked_new(size_t cluster_size);
void qcow2_unpacked_free(Qcow2Unpacked *u);

/* Decompresses the cluster into @out. 0 or -errno. */
typedef int co_fn Qcow2UnpackedLoad(void *out, void *opaque);

/*
 * Copy what the cluster has from @from on to @iov; its compressed data are the @bytes bytes at
 * @host. What is not there @load decompresses. 0, -ENOMEM, or the error of @load.
 */
int co_fn qcow2_unpacked_co_read(Qcow2Unpacked *u, uint64_t host, uint32_t bytes,
                                 Qcow2UnpackedLoad *load, void *opaque, size_t from,
                                 const IoVector *iov);

/* Forget the clusters whose compressed data touches that range. */
void qcow2_unpacked_drop(Qcow2Unpacked *u, uint64_t host, uint64_t bytes);

/* Forget what was not read since the last call, and give its memory back. */
void qcow2_unpacked_clean(Qcow2Unpacked *u);

/* How many clusters are in. For tests. */
unsigned qcow2_unpacked_used(Qcow2Unpacked *u);

#endif
