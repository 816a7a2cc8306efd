/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/plan.h - where everything lies in a new image.
 *
 * One thing after the other: header, refcount table, refcount blocks, L1 table, and if clusters are
 * to have their place from the start L2 tables and data. Each cluster up to the end is in use once.
 *
 * Threads   Any; pure.
 * Errors    WHARF_ERROR; messages say what and why, without naming the image.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_PLAN_H
#define WHARF_BLOCK_DRIVERS_QCOW2_PLAN_H

#include "block/drivers/qcow2/table.h"

/* Offsets in bytes, counts of clusters. */
typedef struct Qcow2Plan {
    Qcow2Layout layout;
    unsigned refcount_order;
    uint64_t reftable_offset, reftable_clusters;
    uint64_t refblocks_offset, refblocks;
    uint64_t l1_offset, l1_entries; /* offset 0: no entries */
    uint64_t l2_offset, l2_tables;
    uint64_t data_offset, data; /* data: clusters that have a place, perhaps in the data file */
    bool backed;                /* what they contain comes from the backing file nevertheless */
    uint64_t metadata_end;
    uint64_t end;
} Qcow2Plan;

/*
 * The plan of an image with this header, whose offsets and counts of tables are filled in.
 * @preallocate: its clusters have a place. Fails where it would be too large.
 */
bool qcow2_plan(Qcow2Plan *plan, Qcow2Header *header, bool preallocate, GError **error);

/*
 * @n words of a table from word @index on, in the image's byte order. The L2 tables count as one;
 * there, both are multiples of the words that an entry has.
 */
typedef void Qcow2PlanTable(const Qcow2Plan *plan, uint64_t index, uint64_t n, uint64_t *out);

Qcow2PlanTable qcow2_plan_reftable;
Qcow2PlanTable qcow2_plan_l1;
Qcow2PlanTable qcow2_plan_l2;

/* Refcount block @index. */
void qcow2_plan_refblock(const Qcow2Plan *plan, uint64_t index, void *out);

#endif
