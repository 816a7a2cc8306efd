/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/refcount.h - which clusters of an image are in use, and by how many.
 *
 * The refcount table names refcount blocks of one cluster each. The table is in memory as a whole,
 * blocks are as they are needed. Changes stay in memory until they are written.
 *
 * Threads   Any. Who takes clusters where that needs nothing but memory holds a mutex for that
 *           moment. Else a lock of coroutines is taken inside, and others wait meanwhile.
 * Errors    0 or -errno. What is wrong in the image is reported, and -EIO.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_REFCOUNT_H
#define WHARF_BLOCK_DRIVERS_QCOW2_REFCOUNT_H

#include "aio/lock.h"
#include "block/driver.h"
#include "block/drivers/qcow2/header.h"

/* Entry @index of a block whose entries have 1 << @order bits. */
uint64_t qcow2_refcount_get(const void *block, unsigned order, uint64_t index);
void qcow2_refcount_set(void *block, unsigned order, uint64_t index, uint64_t value);

typedef struct Qcow2Shadow Qcow2Shadow;

typedef struct Qcow2Refcounts {
    BlockNode *node;
    BlockChild *file;
    unsigned cluster_bits, order;
    CoMutex whole;       /* of what follows, together with quick */
    uint64_t *table;     /* offsets of blocks, 0: none */
    uint64_t entries;    /* of the table */
    GHashTable *blocks;  /* those in memory */
    GArray *new_entries; /* of uint64_t: of the table, not written yet */
    uint64_t hint;       /* clusters below are in use */
    uint64_t fresh;      /* from this offset on the file has nothing but zeros */
    uint64_t end;        /* of all that was ever in use */
    uint64_t packed;     /* bytes are given away from this offset on, in a cluster; 0: nowhere */
    bool extends;        /* the file can be made longer ahead of that */
    size_t keep;         /* how many blocks are kept in memory when they have been written */
    Qcow2Shadow *shadow; /* NULL: none */
    GMutex quick;        /* enough for all that, where nobody has the whole */
    bool locked;         /* quick; somebody has the whole */
    struct Qcow2Refblock *near; /* quick; the block that counts the hint, if it is in memory */
} Qcow2Refcounts;

/* Read the table. Clears @r first; to be freed by qcow2_refcounts_clear() in any case. */
bool co_fn qcow2_refcounts_co_load(Qcow2Refcounts *r, BlockNode *node, BlockChild *file,
                                   const Qcow2Header *header, size_t cache_bytes, GError **error);
void qcow2_refcounts_clear(Qcow2Refcounts *r);

/*
 * Take up to @n free clusters that lie together, their refcounts become 1. *@got (> 0) says how
 * many, *@offset where; *@fresh whether the file has zeros there, at least once it is long enough.
 */
int co_fn qcow2_refcounts_co_take(Qcow2Refcounts *r, uint64_t n, uint64_t *offset, uint64_t *got,
                                  bool *fresh);

/*
 * Take @bytes bytes (> 0, less than a cluster) that lie together, wherever they begin: behind those
 * given away before, if possible. Each cluster that they touch has a user more.
 */
int co_fn qcow2_refcounts_co_take_bytes(Qcow2Refcounts *r, uint64_t bytes, uint64_t *offset);

/*
 * One user less for each cluster that the range touches; nothing in the image may name it any more.
 * With @discard the storage of those that are free then is given back.
 */
int co_fn qcow2_refcounts_co_release(Qcow2Refcounts *r, uint64_t offset, uint64_t bytes,
                                     bool discard);

/* Write all that has changed; whoever relies on it flushes the file afterwards. */
int co_fn qcow2_refcounts_co_write(Qcow2Refcounts *r);

/* The same if there are so many that they take up more memory than they should. */
int co_fn qcow2_refcounts_co_write_if_many(Qcow2Refcounts *r);

/*
 * As qcow2_refcounts_co_take(), but all @n together. -EFBIG: there cannot be so many.
 */
int co_fn qcow2_refcounts_co_take_run(Qcow2Refcounts *r, uint64_t n, uint64_t *offset);

/* Let all blocks that the table names be guarded (overlap.h). Nothing may be under way. */
void qcow2_refcounts_guard(Qcow2Refcounts *r);

/* Whether a block begins in that range of the image. @whole: the caller has the whole. */
bool co_fn qcow2_refcounts_co_names_block(Qcow2Refcounts *r, uint64_t offset, uint64_t bytes,
                                          bool whole);

/* How many users the cluster at @offset has. */
int co_fn qcow2_refcounts_co_get(Qcow2Refcounts *r, uint64_t offset, uint64_t *refcount);

/*
 * A shadow: changes of refcounts that come into the image all at once. From its begin on, blocks
 * that change get places the image knows nothing of, and so does the table in the end, until the
 * header names that. All that was changed before must have been written, and nobody else may take
 * or release clusters before the end.
 *
 * Meanwhile no cluster that the image uses becomes free, so that none is given to somebody: what
 * loses its last user stays counted up to the end.
 */
int co_fn qcow2_shadow_co_begin(Qcow2Refcounts *r);

/* One user more, or one less, for each cluster that the range touches. -ERANGE: a refcount has not
 * enough bits. */
int co_fn qcow2_shadow_co_add(Qcow2Refcounts *r, uint64_t offset, uint64_t bytes);
int co_fn qcow2_shadow_co_drop(Qcow2Refcounts *r, uint64_t offset, uint64_t bytes);

/* Write blocks and table; the header is the caller's, after a flush. */
int co_fn qcow2_shadow_co_write(Qcow2Refcounts *r, uint64_t *table_offset,
                                uint32_t *table_clusters);

/*
 * The end: the header in the image names the new table, and what has no user is free, its storage
 * given back with @discard; or everything is as it was before.
 */
void co_fn qcow2_shadow_co_commit(Qcow2Refcounts *r, bool discard);
void qcow2_shadow_abort(Qcow2Refcounts *r);

/* Cut off what the file was made longer by, and is not used. Nothing may be under way. */
void co_fn qcow2_refcounts_co_trim(Qcow2Refcounts *r);

#endif
