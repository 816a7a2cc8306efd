/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/overlap.h - metadata that must not be written over by mistake.
 *
 * An image that is wrong may say of metadata that it is data, or free. Before something is written
 * to a place that the image tells it is looked at whether there is metadata, as far as the option
 * 'overlap-check' asks for that.
 *
 * For each kind there are bits that say where such metadata may be, by the cluster's number: who
 * writes to another place learns that from them and takes no lock. They are set before a cluster
 * becomes metadata, and stay when it is none any more; clusters that are far apart share a bit. So
 * where one is set, the tables themselves are looked at.
 *
 * Memory    Follows how many pages of bits are touched; at most QCOW2_GUARD_BITS bits a kind.
 * Threads   Any; see each.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_OVERLAP_H
#define WHARF_BLOCK_DRIVERS_QCOW2_OVERLAP_H

#include "block/driver.h"
#include "block/drivers/qcow2/header.h"

#define QCOW2_GUARD_BITS (UINT64_C(1) << 28)

typedef enum {
    /* One each, in a row of clusters. */
    QCOW2_META_HEADER,
    QCOW2_META_ACTIVE_L1,
    QCOW2_META_REFCOUNT_TABLE,
    QCOW2_META_SNAPSHOT_TABLE,
    QCOW2_META_BITMAP_DIRECTORY,
    /* Any number of them. */
    QCOW2_META_INACTIVE_L1,
    QCOW2_META_ACTIVE_L2,
    QCOW2_META_REFCOUNT_BLOCK,
    QCOW2_META_INACTIVE_L2,
    QCOW2_META__N,
} Qcow2Meta;

/* Kinds together: a bit each. */
#define QCOW2_META_BIT(kind) (1u << (kind))
#define QCOW2_META_NONE      0u
#define QCOW2_META_ANY       (QCOW2_META_BIT(QCOW2_META__N) - 1)

typedef struct Qcow2MetaRange {
    uint64_t offset, bytes;
} Qcow2MetaRange;

/* What goes by one set of bits: single tables and the L1 tables of snapshots are few. */
typedef enum {
    QCOW2_GUARD_TABLES,
    QCOW2_GUARD_L2,
    QCOW2_GUARD_BLOCKS,
    QCOW2_GUARD_INACTIVE,
    QCOW2_GUARD__N,
} Qcow2GuardBits;

typedef struct Qcow2Guard {
    unsigned cluster_bits;
    uint64_t *bits[QCOW2_GUARD__N]; /* atomic */
    bool knows_inactive;            /* drained; the L2 tables of snapshots are among them */
    GMutex lock;
    Qcow2MetaRange tables[QCOW2_META_INACTIVE_L1]; /* lock; by kind */
    GArray *inactive_l1; /* of Qcow2MetaRange; changed with the lock and drained */
} Qcow2Guard;

/* What is to be guarded, as the options say. */
unsigned qcow2_guarded_kinds(const BlockdevOptionsQcow2 *o);

/* How messages call it: "the active L1 table". Static. */
const char *qcow2_meta_text(Qcow2Meta kind);

/* To be cleared in any case. False and @error: there is not enough memory. */
bool qcow2_guard_init(Qcow2Guard *g, unsigned cluster_bits, GError **error);
void qcow2_guard_clear(Qcow2Guard *g);

/* Forget everything. Nobody may be inside. */
void qcow2_guard_reset(Qcow2Guard *g);

/*
 * From now on there may be metadata of that kind. Of the kinds of which there is one, the place of
 * the table: it is nowhere else any more. Any thread.
 */
void qcow2_guard_add(Qcow2Guard *g, Qcow2Meta kind, uint64_t offset, uint64_t bytes);
void qcow2_guard_set_table(Qcow2Guard *g, Qcow2Meta kind, uint64_t offset, uint64_t bytes);

/*
 * Whether there may be metadata of @kinds in the clusters of that range (not empty). No lock is
 * taken. Any thread.
 */
bool qcow2_guard_may_hit(const Qcow2Guard *g, unsigned kinds, uint64_t offset, uint64_t bytes);

/*
 * Whether one of the tables of @kinds, or an L1 table of a snapshot, is there: its kind, or
 * QCOW2_META__N. Any thread.
 */
Qcow2Meta qcow2_guard_find_table(Qcow2Guard *g, unsigned kinds, uint64_t offset, uint64_t bytes);

#endif
