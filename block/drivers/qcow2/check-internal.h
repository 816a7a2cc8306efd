/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/check-internal.h - what the parts of a check share. See check.h.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_CHECK_INTERNAL_H
#define WHARF_BLOCK_DRIVERS_QCOW2_CHECK_INTERNAL_H

#include "block/drivers/qcow2/check.h"
#include "block/drivers/qcow2/counts.h"
#include "block/drivers/qcow2/table.h"
#include "job/driver.h"

/* An L2 table that L1 tables name. */
typedef struct CheckTable {
    uint64_t offset;
    uint64_t guest;  /* of what it describes, for the first that named it */
    uint64_t times;  /* it is named */
    uint64_t active; /* times among them by the L1 table in use */
} CheckTable;

/* A refcount that is not what it should be. */
typedef struct CheckDifference {
    uint64_t cluster;
    uint64_t counted;
} CheckDifference;

typedef struct Check {
    BlockChild *file;
    ImageRepair repair;
    Job *job; /* or NULL */
    const bool *give_up;
    int64_t turn_ns; /* when others had their turn */
    ImageCheck *result;
    Qcow2Header *header;
    Qcow2Layout layout;
    uint64_t length;   /* of the file */
    uint64_t clusters; /* that it has, the last one maybe not as a whole */
    Qcow2Counts named;
    uint64_t l1_entries; /* of the L1 table in use; 0: it is not where one can be */
    uint64_t l1_sharers; /* that one, and those of snapshots at the same place */
    GArray *tables;      /* of CheckTable; after the walk by offset, each once */
    guint sorted;        /* so many of them are */

    uint64_t *reftable; /* offsets of blocks; 0: none, or none of use */
    uint64_t reftable_entries;
    uint64_t reftable_named; /* clusters of the old table that were counted as named */
    bool rebuild;            /* refcounts cannot be set in place */
    bool incomplete;         /* there may be more that names clusters, but cannot be found */

    GHashTable *differences; /* of CheckDifference: those left; NULL: too many to remember */
    uint64_t refcount_end;   /* number behind the last cluster that is counted */
    bool wrote;              /* something, and has not flushed it */
    bool must_finish;        /* what is under way cannot be cancelled */

    uint64_t snapshots_place; /* of a new table of snapshots, that nothing names yet; 0: none */
    uint64_t snapshots_place_end, snapshots_end; /* behind that one, and the one in use */
} Check;

static inline uint64_t check_cluster_size(const Check *c)
{
    return qcow2_cluster_size(&c->layout);
}

static inline bool check_repairs_all(const Check *c)
{
    return c->repair == IMAGE_REPAIR_ALL;
}

/* Add a line to the findings; where there are too many already it is only counted. */
void check_tell(Check *c, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* The same for a corruption; which is @repaired, or else stays. */
void check_corruption(Check *c, bool repaired, const char *format, ...) G_GNUC_PRINTF(3, 4);

/* There are so many more bytes of tables to be looked at, or that was done. */
void check_expect(Check *c, uint64_t bytes);
void check_advance(Check *c, uint64_t bytes);

/* Read from the file; behind its end are zeros. 0 or -errno: -ECANCELED by the job, or given up. */
int co_fn check_co_read(Check *c, uint64_t offset, void *buffer, uint64_t bytes);
int co_fn check_co_write(Check *c, uint64_t offset, const void *buffer, uint64_t bytes);
/* Flush what was written, if anything was. */
int co_fn check_co_flush(Check *c);
/* Write the header's fields, and flush. */
int co_fn check_co_write_header(Check *c);

/* Whether the file has the whole range, which may have any values. */
bool check_is_inside(const Check *c, uint64_t offset, uint64_t bytes);

/* check-walk.c; 0 or -errno */
int co_fn check_co_walk(Check *c);

/* Name all clusters of the file that the range touches, so many times. */
int check_name(Check *c, uint64_t offset, uint64_t bytes, uint64_t times);
/* Whether each of the @n clusters from @offset on is named so many times. */
bool check_is_named(const Check *c, uint64_t offset, uint64_t n, uint64_t times);
/* Make each L2 table be there once, by offset. */
void check_merge_tables(Check *c);
/* After it: whether that table is named as nothing else, so that its entries may be changed. */
bool check_l1_is_alone(const Check *c);
bool check_l2_is_alone(const Check *c, const CheckTable *table);

/*
 * check-l2.c: name what all L2 tables do, and append the numbers (guint) of those with entries that
 * cannot be right to @faulty. And, when all is named, tell and repair these entries.
 */
int co_fn check_co_name_l2(Check *c, GArray *faulty);
int co_fn check_co_settle_l2(Check *c, GArray *faulty);

/* When the refcounts are right: let the header name the new table of snapshots, if there is one. */
int co_fn check_co_switch_snapshots(Check *c);

/* check-refcounts.c */
int co_fn check_co_refcounts(Check *c);
/* After it: count clusters @first to @end - 1, some of which are not named any more, once again. */
int co_fn check_co_recount(Check *c, uint64_t first, uint64_t end);
/* What the image counts of @cluster now. Not where differences could not be remembered. */
uint64_t check_refcount(const Check *c, uint64_t cluster);

/* check-copied.c */
int co_fn check_co_copied(Check *c);

#endif
