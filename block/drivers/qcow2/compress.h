/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/compress.h - compressed clusters.
 *
 * Threads   Any. What is here takes its time on the processor, so callers that serve an AioContext
 *           run it in a worker.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_COMPRESS_H
#define WHARF_BLOCK_DRIVERS_QCOW2_COMPRESS_H

#include "block/drivers/qcow2/header.h"

/*
 * Decompress @in into @out, which must be filled to its end; what @in has behind that is ignored.
 * 0, -EIO (the data is not right), -ENOMEM, or -ENOTSUP (this build cannot do it).
 */
int qcow2_decompress(Qcow2Compression type, void *out, size_t out_length, const void *in,
                     size_t in_length);

/*
 * Compress @in into @out, as QEMU reads it. How long it is then; 0: it does not fit, or there is no
 * memory, so that it is stored as it is.
 */
size_t qcow2_compress(Qcow2Compression type, void *out, size_t out_length, const void *in,
                      size_t in_length);

#endif
