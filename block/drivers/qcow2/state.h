/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/state.h - what the files of the qcow2 driver share: a node's state and the
 * parts of its work, which qcow2.c puts into the driver's table.
 *
 *   header, table, snapshot, bitmap, compress   the format, as functions on plain structs
 *   cache, unpacked                     tables, and what compressed clusters held, in memory
 *   check     whether an image is consistent, and repairs (with check-*, counts)
 *   image     what is read when an image is opened
 *   names     the files that an image names
 *   options   sizes of caches
 *   parts     what a request has done side by side
 *   map       from an offset in the disk to where its data is
 *   read      reads; status: block status
 *   refcount  which clusters are in use; shadow: changes of that all at once
 *   tree      all that an L1 table names, as a whole
 *   snapshots internal snapshots
 *   bitmaps   persistent dirty bitmaps, kept up while the disk is written to
 *   overlap   metadata that is not to be written over
 *   metadata  changes of tables: in memory, and from there to the image in an order that is safe
 *   compressed  reads and writes of compressed clusters
 *   write     writes; clear: zeros and discards; truncate: other lengths
 *   preallocate   places for clusters ahead of writes
 *   plan      where things lie in a new image; create: making one
 *   info      what queries tell
 *   qcow2     open, close, reopen and the rest of control
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_STATE_H
#define WHARF_BLOCK_DRIVERS_QCOW2_STATE_H

#include "aio/aio.h"
#include "block/driver.h"
#include "block/drivers/qcow2/bitmap.h"
#include "block/drivers/qcow2/cache.h"
#include "block/drivers/qcow2/header.h"
#include "block/drivers/qcow2/overlap.h"
#include "block/drivers/qcow2/refcount.h"
#include "block/drivers/qcow2/snapshot.h"
#include "block/drivers/qcow2/table.h"
#include "block/drivers/qcow2/unpacked.h"
#include "block/gate-internal.h"

/* What was read when the image was opened. */
typedef struct Qcow2Image {
    Qcow2Header *header;
    Qcow2Layout layout;
    uint64_t *l1;         /* header->l1_entries, in the machine's byte order */
    GPtrArray *snapshots; /* Qcow2Snapshot * */
    GPtrArray *bitmaps;   /* Qcow2Bitmap *; NULL: none that could be trusted */
} Qcow2Image;

/* How to cache, as the options and the image say. */
typedef struct Qcow2CacheSizes {
    size_t l2_entry;     /* bytes of a part of an L2 table that is cached as one */
    unsigned l2_entries; /* such parts, at least 1 */
    bool l2_all;         /* these are all that the disk can have */
    uint64_t refcount_bytes;
    int64_t clean_ns; /* time between two cleanings, 0: none */
} Qcow2CacheSizes;

/* A cache of L2 tables, in slices: parts of @entries entries each, numbered through all tables. */
typedef struct Qcow2L2 {
    Qcow2Cache *cache;
    unsigned slice_bits; /* a slice has 1 << slice_bits entries */
    size_t slice_bytes;
    bool holds_all; /* there is room for all slices of the disk */
} Qcow2L2;

/* Clusters that an entry has let go of. */
typedef struct Qcow2Freed {
    uint64_t offset, bytes;
    bool discard; /* give their storage back */
} Qcow2Freed;

/* Clusters of the disk whose entries somebody is about to change: he alone does. */
typedef struct Qcow2Claim {
    uint64_t first, end;
    GList link;
} Qcow2Claim;

/*
 * What a writable node has besides. See metadata.c for how changes come into the image, and for
 * what becomes of clusters that are not used any more.
 */
typedef struct Qcow2Metadata {
    Qcow2Guard guard;
    Qcow2Refcounts refcounts;
    CoMutex commit_lock; /* one at a time writes tables; taken before the others */
    CoMutex tables_lock; /* one at a time makes L2 tables */
    CoMutex header_lock;
    bool unflushed;   /* commit_lock; tables were written, and not flushed yet */
    bool begun;       /* atomic; the header says what writing makes wrong */
    GArray *recorded; /* of Qcow2Recorded: dirty bitmaps that are kept up; NULL: not begun */
    bool unsure;      /* atomic; writing the header has failed, it may say anything */

    GMutex lock;
    CoQueue claims_ended; /* lock */
    GQueue claims;        /* lock; Qcow2Claim * */
    GArray *l1_changed;   /* lock; of uint64_t: entries to be written */
    GArray *freed;        /* lock; of Qcow2Freed: the entry in memory does not name them */
    GArray *durable;      /* lock; nor does the image */
    GArray *grace;        /* lock; nor has a request that is under way since before */
    unsigned grace_epoch; /* lock; of these requests */
    unsigned epoch;       /* atomic; of requests that begin now: 0 or 1 */
    Gate *inside;         /* requests under way, by epoch; never closed */
} Qcow2Metadata;

/* What a node is there for. But for use, its disk can be neither read nor written. */
typedef enum {
    QCOW2_FOR_USE,
    QCOW2_FOR_INFO,  /* all was read that queries tell */
    QCOW2_FOR_CHECK, /* nothing but the header was read */
} Qcow2Purpose;

typedef struct Qcow2State {
    /* Fixed after open; what the edges lead to changes with the node drained. */
    char *name;        /* of the image, for messages */
    bool follow_names; /* of other files, in the image */
    Qcow2Purpose purpose;
    BlockChild *file, *data; /* the same without an external data file */
    BlockChild *backing;     /* NULL: none */

    /* Changed with the node drained. */
    Qcow2Image *image;
    Qcow2L2 l2;
    Qcow2Unpacked *unpacked;

    /* Main thread. */
    AioTimer *clean_timer;
    int64_t clean_ns;
    size_t refcount_bytes; /* of refcounts to be kept in memory */
    bool given_up;         /* the daemon ends */

    bool corrupt; /* atomic; found to be, and reported */

    uint64_t losses;  /* of the file, when the tables were read */
    gint losses_told; /* atomic */

    /* Options; drained. */
    bool discard_request, discard_snapshot, discard_other, discard_no_unref;
    bool lazy;        /* refcounts are written late; drained */
    unsigned guarded; /* drained; kinds of metadata, see overlap.h */

    bool writable;          /* drained */
    Qcow2Metadata metadata; /* of a writable node */
} Qcow2State;

/* The length of the disk. Any thread. */
static inline uint64_t qcow2_disk_size(const Qcow2State *s)
{
    return __atomic_load_n(&s->image->header->size, __ATOMIC_RELAXED);
}

/* image.c */

/*
 * Read the image in @file: header, L1 table, list of snapshots. Messages begin with @name. The
 * first step alone gives what is needed to open the other children, and accepts whatever is good
 * enough for @purpose; image_co_load_tables() then fills in the rest.
 */
Qcow2Image *co_fn qcow2_image_co_load_header(BlockChild *file, const char *name,
                                             Qcow2Purpose purpose, GError **error);
bool co_fn qcow2_image_co_load_tables(Qcow2Image *image, BlockChild *file, const char *name,
                                      GError **error);
/* Let @image, which is only read, be as it was at the snapshot with that id or name. */
bool co_fn qcow2_image_co_go_to(Qcow2Image *image, BlockChild *file, const char *name,
                                const char *snapshot, GError **error);
/* The L1 table of a snapshot, or NULL and @error. */
uint64_t *co_fn qcow2_image_co_snapshot_l1(const Qcow2Image *image, BlockChild *file,
                                           const Qcow2Snapshot *snapshot, GError **error);
/* The length of the disk at @snapshot; whether it is possible, and how many L1 entries it needs. */
uint64_t qcow2_image_snapshot_size(const Qcow2Image *image, const Qcow2Snapshot *snapshot);
bool qcow2_image_check_snapshot_size(const Qcow2Image *image, const Qcow2Snapshot *snapshot,
                                     uint64_t *entries, GError **error);
/* The header alone, as far as it can be parsed. */
Qcow2Header *co_fn qcow2_image_co_read_header(BlockChild *file, GError **error);
/* Whether the image has persistent bitmaps that are valid as far as the header says. */
bool qcow2_bitmaps_are_there(const Qcow2Header *header);
/*
 * The bitmaps that the header speaks of; NULL and @error, WHARF_ERROR_IO if they could not be
 * looked at. *@ext says where their directory lies, in any case; zeros where nobody knows.
 */
GPtrArray *co_fn qcow2_bitmaps_co_load(BlockChild *file, const Qcow2Header *header,
                                       Qcow2BitmapsExtension *ext, GError **error);
void qcow2_image_free(Qcow2Image *image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Image, qcow2_image_free)

/* names.c; options of children that only the image names, or NULL and @error */
BlockdevRef *co_fn qcow2_names_co_backing(const Qcow2State *s, const Qcow2Header *header,
                                          GError **error);
BlockdevRef *co_fn qcow2_names_co_data_file(const Qcow2State *s, const Qcow2Header *header,
                                            GError **error);
/* The complete path of the backing file, newly allocated, UTF-8; NULL where there is none. */
char *qcow2_names_full_backing(const Qcow2State *s);

/* options.c */
bool qcow2_cache_sizes(const BlockdevOptionsQcow2 *o, const Qcow2Header *header,
                       Qcow2CacheSizes *sizes, GError **error);
/* Whether the image can do what the options ask for. */
bool qcow2_check_options(const BlockdevOptionsQcow2 *o, const Qcow2Header *header, GError **error);
bool qcow2_l2_init(Qcow2L2 *l2, const Qcow2CacheSizes *sizes, const Qcow2Layout *layout,
                   GError **error);

/* map.c */

/*
 * Where the disk has what begins at @offset: the first part of the @bytes (> 0) there, which must
 * lie inside the disk. 0; -EIO where the image is wrong, which is reported; or an error of reading
 * it.
 */
int co_fn qcow2_co_map(BlockNode *node, uint64_t offset, uint64_t bytes, Qcow2Extent *extent);

/*
 * The image is wrong, for what lies at @offset of the disk (or QCOW2_NOWHERE in it): report it, the
 * first time. Returns -EIO. Any thread.
 */
#define QCOW2_NOWHERE UINT64_MAX
int qcow2_fault(BlockNode *node, Qcow2Fault fault, uint64_t offset);
/*
 * The same where the image tells of @bytes bytes at @offset of it that are wrong, whatever lies at
 * @disk of the disk (or QCOW2_NOWHERE); or was going to be written there, over metadata.
 */
int qcow2_fault_in_image(BlockNode *node, Qcow2Fault fault, uint64_t disk, uint64_t offset,
                         uint64_t bytes);
int qcow2_fault_overlap(BlockNode *node, Qcow2Meta kind, uint64_t offset, uint64_t bytes);

/* Whether the range of the image touches the header, the L1 table, the refcount table or the table
 * of snapshots, so that no other table can lie there. */
bool qcow2_overlaps_tables(Qcow2State *s, uint64_t offset, uint64_t bytes);

/* Whether an L2 table may lie at @offset, which is aligned and not 0. */
Qcow2Fault qcow2_check_l2_table(Qcow2State *s, uint64_t offset);

/* How much of the range can be written where it is, at *@host; *@bytes 0: nothing. */
int co_fn qcow2_co_map_in_place(BlockNode *node, uint64_t offset, uint64_t *bytes, uint64_t *host);

/* What the @n entries of the disk's clusters from @first on say, all within one slice. */
int co_fn qcow2_co_decode(BlockNode *node, uint64_t first, unsigned n, Qcow2Cluster *clusters);

/* The number of the first cluster behind the slice that describes @cluster. */
uint64_t qcow2_slice_end(const Qcow2State *s, uint64_t cluster);

/*
 * Change the @n entries from that of cluster @first on, within one slice, whose L2 table is there:
 * @change gets the first of them, to store words by atomic stores with release semantics. -ENOBUFS:
 * commit first.
 */
int co_fn qcow2_co_change_slice(BlockNode *node, uint64_t first, unsigned n,
                                Qcow2CacheChange *change, void *opaque);

/* overlap.c; the node is writable */

/*
 * That range of the image (not empty) is about to be written, by somebody who knows of metadata of
 * the kinds of @except there. 0; or, if guarded metadata of another kind is there, -EIO, reported.
 * Nobody who has the whole of the refcounts may ask this.
 */
int co_fn qcow2_co_check_write(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned except);

/* What is there: a kind of guarded metadata, or QCOW2_META__N. @whole: the caller has that. */
Qcow2Meta co_fn qcow2_co_find_metadata(BlockNode *node, uint64_t offset, uint64_t bytes,
                                       unsigned except, bool whole);

/* Take up all that the image has, with these @snapshots; drained. */
void co_fn qcow2_guard_co_fill(Qcow2State *s, const GPtrArray *snapshots);
/* Other kinds are guarded now; drained. */
void co_fn qcow2_guard_co_settle(Qcow2State *s);

/* metadata.c */

/*
 * Whether the file has told of a loss since the tables were read: then some of them may not be in
 * it, though they were written, and nothing may be written that names others. Says so once.
 */
bool qcow2_has_lost(BlockNode *node);

/* Flush the file: whatever was written to it since the tables were read is there, or -errno. */
int co_fn qcow2_co_flush_file(BlockNode *node);

/* Make the node ready for writing, or put away what it had for that. */
bool co_fn qcow2_metadata_co_init(BlockNode *node, size_t refcount_bytes, GError **error);
void qcow2_metadata_clear(Qcow2State *s);

/* Before the first change of anything: 0, or -EIO for an image that is corrupt. */
int co_fn qcow2_co_begin_writing(BlockNode *node);
/* After a request that may have found it to be that: let the image say so. Returns @r. */
int co_fn qcow2_co_end_writing(BlockNode *node, int r);

/*
 * Around each request, of a writable node, that looks up where something is and then reads or
 * writes there. Returns what the end needs.
 */
unsigned qcow2_use_begin(Qcow2State *s);
void qcow2_use_end(Qcow2State *s, unsigned epoch);

/*
 * Claim clusters @first to @end - 1, or fewer from the first on: what is claimed already stays so.
 * False: it had to wait; look again at what is to be done.
 */
bool co_fn qcow2_claim_co_begin(Qcow2State *s, Qcow2Claim *claim, uint64_t first, uint64_t end);
void qcow2_claim_end(Qcow2State *s, Qcow2Claim *claim);

/*
 * Make the @n entries from cluster @first on, within one slice and claimed, say what @clusters do.
 * Makes the L2 table, if need be.
 */
int co_fn qcow2_co_set_entries(BlockNode *node, uint64_t first, unsigned n,
                               const Qcow2Cluster *clusters);

/* Nothing in memory names that part of the image any more. */
void qcow2_free_later(Qcow2State *s, uint64_t offset, uint64_t bytes, bool discard);
/* The same for what @cluster, an entry that was replaced, had. */
void qcow2_free_cluster_later(Qcow2State *s, const Qcow2Cluster *cluster, bool discard);

/* Give up to @n clusters; as qcow2_refcounts_co_take(). */
int co_fn qcow2_co_take(Qcow2State *s, uint64_t n, uint64_t *offset, uint64_t *got, bool *fresh);

/* Write all tables that have changed. */
int co_fn qcow2_co_commit(BlockNode *node);
int co_fn qcow2_co_commit_locked(BlockNode *node); /* with commit_lock */
int co_fn qcow2_co_flush(BlockNode *node);
/*
 * With nothing under way: have the image be complete, and the header say so. The next request that
 * writes begins anew.
 */
int co_fn qcow2_co_finish_writing(BlockNode *node);

/* Write the header's fields. Not flushed. */
int co_fn qcow2_co_update_header(BlockNode *node);

/*
 * The same, flushed. After a failure the image may say the one or the other: the caller takes back
 * what it changed and calls the second one, which writes it again. Where that fails, too, it
 * returns false, and no request writes before it has come to pass.
 */
int co_fn qcow2_co_write_header(BlockNode *node);
bool co_fn qcow2_co_write_header_back(BlockNode *node);

/*
 * tree.c: all that the @n entries of an L1 table name, in a shadow of the refcounts. Everything is
 * in the image, and nothing changes meanwhile.
 */

/* Count it once more (-ERANGE: a refcount has not enough bits), or once less. */
int co_fn qcow2_tree_co_add(BlockNode *node, const uint64_t *l1, uint32_t n);
int co_fn qcow2_tree_co_drop(BlockNode *node, const uint64_t *l1, uint32_t n);

/*
 * Make the flags that say "counted once" right. An L2 table where they are not is replaced by
 * another one, for all of the @users trees that have these entries.
 */
int co_fn qcow2_tree_co_flag(BlockNode *node, uint64_t *l1, uint32_t n, unsigned users);

/* compressed.c */

/* Read a part of the compressed cluster of @extent, to which @offset of the disk belongs. */
int co_fn qcow2_co_read_compressed(BlockNode *node, const Qcow2Extent *extent, uint64_t offset,
                                   const IoVector *iov);

/*
 * Write the first clusters of what @iov has from @skip on, compressed where that makes them
 * shorter; *@done bytes of it, 0: look again. Inside of qcow2_use_begin().
 */
int co_fn qcow2_co_write_compressed(BlockNode *node, uint64_t offset, const IoVector *iov,
                                    size_t skip, uint64_t *done);

/* write.c, clear.c, truncate.c */

/* Read what the disk has; behind its end there are zeros. */
int co_fn qcow2_co_read_old(BlockNode *node, uint64_t offset, uint64_t bytes, void *buffer);
/* Write @bytes bytes that @iov has from @skip on, as they are. Inside of qcow2_use_begin(). */
int co_fn qcow2_co_write_plain(BlockNode *node, uint64_t offset, const IoVector *iov, size_t skip,
                               uint64_t bytes);
int co_fn qcow2_co_pwritev(BlockNode *node, uint64_t offset, const IoVector *iov,
                           BlockRequestFlags flags);
int co_fn qcow2_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                 BlockRequestFlags flags);
int co_fn qcow2_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes);
/*
 * Make what lies behind the end of the disk zeros, from @offset on, where a cluster begins.
 * -ENOTSUP: entries cannot say that.
 */
int co_fn qcow2_co_zero_added(BlockNode *node, uint64_t offset, uint64_t bytes);
/* Drop the clusters from @offset on, up to @bytes behind it, whatever the backing file has. */
int co_fn qcow2_co_drop(BlockNode *node, uint64_t offset, uint64_t bytes);
int co_fn qcow2_co_truncate(BlockNode *node, uint64_t size, PreallocMode prealloc,
                            BlockRequestFlags flags, GError **error);

/* qcow2.c: whether the node shows the Qcow2Snapshot @snapshot, or may: of any image. */
bool qcow2_shows_snapshot(BlockNode *node, void *snapshot);

/* snapshots.c */
bool co_fn qcow2_co_snapshot_create(BlockNode *node, const char *name, GError **error);
SnapshotInfo *co_fn qcow2_co_snapshot_delete(BlockNode *node, const char *id, const char *name,
                                             GError **error);
bool co_fn qcow2_co_snapshot_apply(BlockNode *node, const char *id, const char *name,
                                   GError **error);

/*
 * preallocate.c: give each cluster that the range touches a place; with falloc it is reserved, with
 * full it is written. Inside of qcow2_use_begin().
 */
int co_fn qcow2_co_preallocate(BlockNode *node, uint64_t offset, uint64_t bytes, PreallocMode mode);
int co_fn qcow2_co_allocate(BlockNode *node, uint64_t offset, uint64_t bytes);

/* create.c */
bool co_fn qcow2_co_create(BlockGraph *graph, const BlockdevCreateOptions *opts, Job *job,
                           GError **error);

/*
 * bitmaps.c. Of what is in the image those that are AUTO are marked as in use before the first
 * write, kept up in memory from then on, and brought to the image in the end. The others stay as
 * they are. Where anything of that is not possible they stay in use, or all are given up: nobody
 * ever finds one that looks right and is not.
 */

/* With commit_lock, before the first write. */
int co_fn qcow2_bitmaps_co_begin(BlockNode *node);
/* That range of the disk is about to be written. Any thread. */
void qcow2_bitmaps_mark(const Qcow2State *s, uint64_t offset, uint64_t bytes);
/* With nothing under way, when all else is in the image. */
void co_fn qcow2_bitmaps_co_end(BlockNode *node);
void qcow2_bitmaps_clear(Qcow2Metadata *m);

/*
 * Around a change of the disk's length. Between, the image has no bitmaps, if tables of theirs must
 * get another length for that: which is what the first call returns, or -errno.
 */
int co_fn qcow2_bitmaps_co_begin_resize(BlockNode *node, uint64_t size);
void co_fn qcow2_bitmaps_co_end_resize(BlockNode *node, int begun);

/* read.c, status.c */
int co_fn qcow2_co_preadv(BlockNode *node, uint64_t offset, const IoVector *iov,
                          BlockRequestFlags flags);
int co_fn qcow2_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes, uint64_t *pnum,
                                BlockStatus *status);

/* info.c */
SnapshotInfo *qcow2_snapshot_info(const Qcow2Snapshot *snapshot);
ImageInfoSpecific *qcow2_image_specific(BlockNode *node);
bool qcow2_image_info(BlockNode *node, ImageInfo *info);

#endif
