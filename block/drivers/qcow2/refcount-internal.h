/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/refcount-internal.h - what refcount.c and shadow.c share. See refcount.h.
 *
 * Functions qcow2_whole_ are for those who have the whole of the refcounts, if not said otherwise.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_REFCOUNT_INTERNAL_H
#define WHARF_BLOCK_DRIVERS_QCOW2_REFCOUNT_INTERNAL_H

#include "block/drivers/qcow2/refcount.h"

/* A refcount block in memory. */
typedef struct Qcow2Refblock {
    uint64_t index;              /* of its entry in the table */
    size_t dirty_from, dirty_to; /* bytes that have changed; the same: none */
    uint64_t data[];             /* one cluster */
} Qcow2Refblock;

static inline bool qcow2_refblock_is_dirty(const Qcow2Refblock *b)
{
    return b->dirty_from < b->dirty_to;
}

static inline void qcow2_refblock_make_dirty(Qcow2Refblock *b, size_t from, size_t to)
{
    b->dirty_from = qcow2_refblock_is_dirty(b) ? MIN(b->dirty_from, from) : from;
    b->dirty_to = MAX(b->dirty_to, to);
}

/* The largest refcount that there can be. */
static inline uint64_t qcow2_refcounts_max(const Qcow2Refcounts *r)
{
    return r->order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << r->order)) - 1;
}

/* Have the whole, to the end of the scope; of those who do not have it yet. */
typedef Qcow2Refcounts Qcow2Whole;
Qcow2Whole *co_fn qcow2_whole_co_enter(Qcow2Refcounts *r);
void qcow2_whole_leave(Qcow2Whole *r);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Whole, qcow2_whole_leave)
#define WHOLE_GUARD(r) g_autoptr(Qcow2Whole) whole_guard G_GNUC_UNUSED = qcow2_whole_co_enter(r)

/* As the functions of refcount.h without 'whole'. */
int co_fn qcow2_whole_co_take(Qcow2Refcounts *r, uint64_t n, uint64_t *offset, uint64_t *got,
                              bool *fresh);
int co_fn qcow2_whole_co_take_run(Qcow2Refcounts *r, uint64_t n, uint64_t *offset);
int co_fn qcow2_whole_co_release(Qcow2Refcounts *r, uint64_t offset, uint64_t bytes, bool discard);

/* The refcount of a cluster that is in use, and the block that has it. */
int co_fn qcow2_whole_co_get_used(Qcow2Refcounts *r, uint64_t cluster, Qcow2Refblock **block,
                                  uint64_t *refcount);
/* Let block @b say that the cluster, which it counts, has so many users. */
void qcow2_whole_count(Qcow2Refcounts *r, Qcow2Refblock *b, uint64_t cluster, uint64_t refcount);
/* The fault of a cluster in use that is not counted. -EIO. */
int qcow2_whole_not_counted(Qcow2Refcounts *r, uint64_t cluster);

/* A block is going to be at @offset, and is not to be written over. */
void qcow2_whole_guard_block(const Qcow2Refcounts *r, uint64_t offset);

/* Write all blocks that have changed; forget those that were written, if there are too many. */
int co_fn qcow2_whole_co_write_blocks(Qcow2Refcounts *r);
void qcow2_whole_trim_blocks(Qcow2Refcounts *r);

/* Of a shadow: room for more entries of the table, which the image gets with all others. */
int qcow2_shadow_grow_table(Qcow2Refcounts *r);

/* Whether the image has a block that begins in that range. */
bool qcow2_shadow_names_block(const Qcow2Shadow *shadow, uint64_t offset, uint64_t bytes);

#endif
