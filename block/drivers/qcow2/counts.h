/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/counts.h - how often each cluster of an image is named, found out by a check.
 *
 * Takes memory for what is named, not for how long the file is: pages of counters come as they are
 * needed, up to a limit.
 *
 * Threads   One at a time.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_COUNTS_H
#define WHARF_BLOCK_DRIVERS_QCOW2_COUNTS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* More clusters than that are not counted: 2 TiB of the smallest, 256 TiB of the usual ones. */
#define QCOW2_COUNTS_MAX (UINT64_C(1) << 32)

typedef struct Qcow2Counts {
    uint64_t n;       /* clusters that can be counted: 0 to n - 1 */
    uint16_t **pages; /* NULL: all zeros */
    uint64_t n_pages, used_pages;
    GHashTable *more; /* cluster -> count, where it is too large for its page */
} Qcow2Counts;

/* 0; -EFBIG: more than QCOW2_COUNTS_MAX clusters; -ENOMEM. Freed by qcow2_counts_clear(). */
int qcow2_counts_init(Qcow2Counts *c, uint64_t n);
void qcow2_counts_clear(Qcow2Counts *c);
/* More clusters can be counted from now on: @n. Errors as above, and nothing is changed. */
int qcow2_counts_grow(Qcow2Counts *c, uint64_t n);

/* Count @cluster (< n) @times more. 0; -ENOMEM, also where the limit is reached. */
int qcow2_counts_add(Qcow2Counts *c, uint64_t cluster, uint64_t times);
/* Once less, if it is counted at all. */
void qcow2_counts_remove(Qcow2Counts *c, uint64_t cluster);

/* 0 for what cannot be counted. */
uint64_t qcow2_counts_get(const Qcow2Counts *c, uint64_t cluster);

/* The first cluster from @from on, below @end (at most n), that is counted; or @end. */
uint64_t qcow2_counts_next(const Qcow2Counts *c, uint64_t from, uint64_t end);
/* The number behind the last cluster that is counted. */
uint64_t qcow2_counts_end(const Qcow2Counts *c);

#endif
