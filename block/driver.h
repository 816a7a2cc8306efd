/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/driver.h - how to write a block driver.
 *
 * A driver is one const table, `block_driver_NAME`, in a file of its own under block/drivers/,
 * listed in block/drivers/meson.build. It needs its options in qapi/schema/block-core.json, nothing
 * else.
 *
 * Threads   Control callbacks (open, close, reopen, permissions, limits, information) run in
 *           coroutines of the main thread, one at a time for each node. Requests run in the thread
 *           they came from: many at once, from several threads, where the driver says
 *           BLOCK_CONCURRENT, else one at a time for each node. Control callbacks that change what
 *           requests read (co_reopen_commit, co_close) run with the node drained; co_set_perm does
 *           not. co_flush, co_block_status, co_length and co_allocated_size come from control
 *           coroutines as well as from requests.
 *
 * Requests  A request lies inside the node and is aligned to the node's request_alignment, with
 *           this exception: where the length is no multiple of the alignment, a request may reach
 *           past the length, up to the next multiple. The driver then reads zeros there, and keeps
 *           the length when it writes. A request respects max_transfer, max_iov, min_mem_alignment
 *           and carries no flag but those that the driver says it handles. Writes come to writable,
 *           active nodes only.
 *
 * Absent    What a driver leaves out, nodes of a filter (is_filter) pass on to their first child.
 *           For others: without co_pwritev the node must be read-only; without co_pwrite_zeroes
 *           zero bytes are written; without co_pdiscard a discard succeeds; without co_allocate
 *           there is nothing to reserve, which succeeds; without co_flush the children are flushed;
 *           without co_truncate that is -ENOTSUP; without co_block_status all is data; without
 *           co_allocated_size it is the sum of the children's.
 *
 * Errors    Control callbacks return false and fill @error with a message that needs no further
 *           context (it names file or option); requests return 0 or -errno.
 */
#ifndef WHARF_BLOCK_DRIVER_H
#define WHARF_BLOCK_DRIVER_H

#include "block/backend.h"
#include "block/block.h"
#include "qapi/types-block-job.h"

typedef enum {
    BLOCK_SERIAL, /* the core lets one request at a time into the node */
    BLOCK_CONCURRENT,
} BlockConcurrency;

/* The common options of a node, after inheritance and defaults. Drivers read, the core changes. */
typedef struct BlockNodeFlags {
    bool read_only; /* what holds now: with auto_read_only the driver may have set it in open */
    bool auto_read_only; /* if it cannot be opened writable, it may be opened read-only */
    bool force_share;    /* share everything with other processes; only ever with read_only */
    bool cache_direct;
    bool cache_no_flush;
    bool discard_unmap;
    BlockdevDetectZeroesOptions detect_zeroes;
} BlockNodeFlags;

/* One node in a reopen: what was, what is to be, and the driver's own work in between. */
typedef struct BlockReopen {
    BlockNode *node;
    const BlockdevOptions *opts; /* the new options; the old ones: block_node_options() */
    BlockNodeFlags flags;        /* the new ones; the driver may set read_only, as in open */
    gpointer state;              /* the driver's, from prepare to commit or abort */
} BlockReopen;

typedef struct BlockDriver {
    const char *name; /* as in BlockdevDriver */
    BlockdevDriver type;
    size_t state_size;         /* of block_node_state(), zeroed before open, freed after close */
    bool is_filter;            /* the node's content is that of its first child */
    bool is_protocol;          /* talks to storage itself */
    bool follows_child_length; /* co_length depends on the child's: ask again when it changes */
    BlockConcurrency concurrency;

    /*
     * Open as @opts say (const, complete, checked against the schema, alive as long as the node).
     * Opens its children with block_child_co_open(). May call block_node_set_read_only() and
     * block_node_set_supported_flags(). After a failure the core drops the children; co_close is
     * not called.
     */
    bool co_fn (*co_open)(BlockNode *node, const BlockdevOptions *opts, GError **error);
    /* Let go of everything but the children. The node has been flushed. */
    void co_fn (*co_close)(BlockNode *node);

    /*
     * Reopen. prepare acquires everything and changes nothing: requests still run. Then, for an
     * active node, comes take_up, with the node drained, edges and permissions as they are to be,
     * and the lengths below looked at again if others may have changed the image so far: if the
     * node was read-only or used with force-share, and is not to be any more. What is kept of the
     * image has to be read anew then. Then commit or abort follows, exactly one, in the same
     * coroutine; they may suspend, but cannot fail. Both of them, after take_up, run with the node
     * drained; commits come one after the other, so until then children are as they were. A driver
     * without prepare accepts only changes of the common options and, if it has children, of these.
     * Child references are the core's affair; raw's checks of a new child belong into prepare,
     * which finds it by block_reopen_child().
     */
    bool co_fn (*co_reopen_prepare)(BlockReopen *reopen, GError **error);
    bool co_fn (*co_reopen_take_up)(BlockReopen *reopen, GError **error);
    void co_fn (*co_reopen_commit)(BlockReopen *reopen);
    void co_fn (*co_reopen_abort)(BlockReopen *reopen);

    /* Requests. */
    int co_fn (*co_preadv)(BlockNode *node, uint64_t offset, const IoVector *iov,
                           BlockRequestFlags flags);
    /*
     * Read without copying, see blk_co_splice(): put the pages that hold the range into @pipe. Only
     * for a driver where a byte of the node stays in its place in the storage, for what the pages
     * hold is looked at later. -ENOTSUP: it is to be read instead. Left out: it always is, but a
     * filter without co_preadv asks its child.
     */
    int co_fn (*co_splice)(BlockNode *node, uint64_t offset, size_t bytes, int pipe);
    int co_fn (*co_pwritev)(BlockNode *node, uint64_t offset, const IoVector *iov,
                            BlockRequestFlags flags);
    /* Write what is in @pipe, see blk_co_splice_write(). -ENOTSUP: @pipe is as it was. */
    int co_fn (*co_splice_write)(BlockNode *node, uint64_t offset, size_t bytes, int pipe);
    /* -ENOTSUP: the core writes zero bytes (unless NO_FALLBACK). */
    int co_fn (*co_pwrite_zeroes)(BlockNode *node, uint64_t offset, uint64_t bytes,
                                  BlockRequestFlags flags);
    /* -ENOTSUP: the core takes it as done. Only called where the node has discard=unmap. */
    int co_fn (*co_pdiscard)(BlockNode *node, uint64_t offset, uint64_t bytes);
    /*
     * Reserve storage for the range, so that writes to it need none; what it reads as and the
     * length stay. -ENOTSUP: the core takes it as done.
     */
    int co_fn (*co_allocate)(BlockNode *node, uint64_t offset, uint64_t bytes);
    /*
     * Bring the node's own data and metadata to stable storage; the core flushes the children
     * afterwards. Not called when nothing was written since the last one, nor with cache.no-flush.
     */
    int co_fn (*co_flush)(BlockNode *node);
    /*
     * Set the length. @flags: BLOCK_REQ_ZERO if the added part must read as zeros; a driver that
     * does not list it in its supported truncate flags leaves that to the core. No request that
     * overlaps runs meanwhile. @error is set on failure.
     */
    int co_fn (*co_truncate)(BlockNode *node, uint64_t size, PreallocMode prealloc,
                             BlockRequestFlags flags, GError **error);
    /*
     * The status of the first *@pnum bytes (1 to @bytes) of the range, aligned outwards to the
     * request alignment if need be. Who knows of data that may be zeros in a child asks that.
     */
    int co_fn (*co_block_status)(BlockNode *node, uint64_t offset, uint64_t bytes, uint64_t *pnum,
                                 BlockStatus *status);
    /* The exact length, or -errno. Asked after open, reopen and truncate. Any thread. */
    int64_t co_fn (*co_length)(BlockNode *node);
    /* Bytes that the node takes up in its storage, or -errno. */
    int64_t co_fn (*co_allocated_size)(BlockNode *node);

    /*
     * Adapt *@limits, which holds the defaults or what the children's limits make of them. May not
     * suspend: find out in open.
     */
    void (*limits)(BlockNode *node, BlockLimits *limits);

    /*
     * What the edge @child needs and shares, given what the users of the node need and share
     * together. Left out: passed through as they are. With a read-only node the core takes WRITE,
     * WRITE_UNCHANGED and RESIZE out of the answer, with force-share it lets all be shared.
     */
    void (*child_perm)(BlockNode *node, BlockChild *child, BlockPerm parent_perm,
                       BlockPerm parent_shared, BlockPerm *perm, BlockPerm *shared);

    /*
     * The node's cumulative permissions are to become @perm, @shared. check acquires (locks, a
     * writable descriptor) and may fail; then set or abort follows, in the same coroutine; they may
     * suspend, but cannot fail. check and set also come when permissions shrink (check must then
     * not fail). After open none are held. Also part of a reopen: between co_reopen_prepare and
     * co_reopen_commit; then block_node_reopen() gives the BlockReopen.
     */
    bool co_fn (*co_check_perm)(BlockNode *node, BlockPerm perm, BlockPerm shared, GError **error);
    void co_fn (*co_set_perm)(BlockNode *node, BlockPerm perm, BlockPerm shared);
    void co_fn (*co_abort_perm)(BlockNode *node);

    /*
     * The node, drained and writable, may become read-only or inactive next, or change its options:
     * bring to its storage all that is in memory only, also what else would come there in co_close,
     * and also with 'no-flush'. What is written later begins anew. 0, or -errno: nothing changes
     * then.
     */
    int co_fn (*co_settle)(BlockNode *node);

    /*
     * Direct access (block_backend_co_hold_direct()): fill in @file with what holds the node's
     * bytes at the same offsets, for a user with these permissions; a node above its child passes
     * the call on by block_child_co_open_direct(). False and @error where requests mean more than
     * that; the same for all nodes of a driver that leaves it out. The core has looked at the
     * common options and sees to it that the node stays as it is meanwhile.
     */
    bool co_fn (*co_open_direct)(BlockNode *node, BlockPerm perm, BlockPerm shared,
                                 BlockDirectFile *file, GError **error);

    /*
     * The node becomes active after it was not, so others may have changed the image: read anew
     * what is kept of it. Runs with the node drained and its children active. After a failure,
     * which changes nothing, the node stays inactive.
     */
    bool co_fn (*co_activate)(BlockNode *node, GError **error);

    /*
     * Make an image as @opts say, which were checked against the schema, and no further; no node of
     * the driver is there (block/create.h). It comes to pause points of @job and tells it how much
     * is to be done and is done. False and @error; without one it was cancelled. Then nothing is
     * left of a file that was made here, and no image of what is not complete.
     */
    bool co_fn (*co_create)(BlockGraph *graph, const BlockdevCreateOptions *opts, Job *job,
                            GError **error);

    /*
     * Internal snapshots of the image, with the node drained, and one of these callbacks or of
     * co_check at a time; a failure changes nothing. Of @id and @name either may be NULL, which
     * matches any. Apply changes the content, perhaps the length.
     */
    bool co_fn (*co_snapshot_create)(BlockNode *node, const char *name, GError **error);
    SnapshotInfo *co_fn (*co_snapshot_delete)(BlockNode *node, const char *id, const char *name,
                                              GError **error);
    bool co_fn (*co_snapshot_apply)(BlockNode *node, const char *id, const char *name,
                                    GError **error);

    /*
     * Look whether the image is consistent, and repair it as @repair says. Runs with the node
     * drained; for a repair it is writable, and others only read. *@result, empty, gets numbers and
     * findings; a check that could not be completed counts as check_errors, and fails; that
     * includes one that @job, where there is one, has ended. Left out: there is nothing that could
     * be checked.
     */
    bool co_fn (*co_check)(BlockNode *node, ImageRepair repair, Job *job, ImageCheck *result,
                           GError **error);

    /*
     * See block_graph_give_up_waiting(). Main thread, at any time from the first suspension of
     * co_open on; may not suspend.
     */
    void (*give_up_waiting)(BlockNode *node);

    /* Information. Main thread; may not suspend. */
    char *(*filename)(BlockNode *node); /* plain name, or NULL: shown as json:{...} */
    BlockStatsSpecific *(*stats_specific)(BlockNode *node);
    ImageInfoSpecific *(*image_specific)(BlockNode *node);
    bool (*image_info)(BlockNode *node, ImageInfo *info); /* cluster-size, dirty-flag, ... */
} BlockDriver;

/* The driver of that type, or NULL if this build has none. */
const BlockDriver *block_driver_find(BlockdevDriver type);

/* Where the objects are that the node's options name, or NULL. Main thread. */
ObjectRegistry *block_node_objects(BlockNode *node);

/* The driver's state of the node. Any thread. */
gpointer block_node_state(BlockNode *node);

/* The node's options as given by the user (const); they live until a reopen replaces them. */
const BlockdevOptions *block_node_options(BlockNode *node);

/* The node's common options. Stable inside a request. */
const BlockNodeFlags *block_node_flags(BlockNode *node);

/* Its common options, or those that it will have after a reopen under way. Main thread. */
const BlockNodeFlags *block_node_flags_to_be(const BlockNode *node);

/* The reopen that is under way for the node, between prepare and commit or abort; else NULL. */
BlockReopen *block_node_reopen(BlockNode *node);

/* In co_open only: the image can only be read, and auto-read-only allows that. */
void block_node_set_read_only(BlockNode *node, bool read_only);

/*
 * In co_open, co_reopen_commit and co_set_perm: which flags the driver handles in co_pwritev (FUA,
 * WRITE_UNCHANGED, WRITE_COMPRESSED), co_pwrite_zeroes (FUA, MAY_UNMAP, NO_FALLBACK,
 * WRITE_UNCHANGED) and co_truncate (ZERO). The core does FUA by a flush, ZERO by writing zeros,
 * and keeps the others back. None at first; filters have FUA, MAY_UNMAP, NO_FALLBACK, ZERO.
 */
void block_node_set_supported_flags(BlockNode *node, BlockRequestFlags write,
                                    BlockRequestFlags zero, BlockRequestFlags truncate);

/* Whether the node's driver does what BLOCK_REQ_WRITE_COMPRESSED asks for; filters do not. */
bool block_node_can_compress(const BlockNode *node);

/*
 * The image of @node is corrupt: @message, the end of a sentence, says how. Logged, and told by the
 * event BLOCK_IMAGE_CORRUPTED, with @offset and @bytes of the image if that is known (@offset -1:
 * it is not). Any thread; drivers do so once, not for each request.
 */
void block_node_report_corruption(BlockNode *node, const char *message, int64_t offset,
                                  int64_t bytes, bool fatal);

/*
 * Before a flush fails: what was written to @node since the last one is probably gone, and the next
 * flush may succeed. The same as block_node_report_flush_error(), but who keeps tables there has to
 * stop (block_child_losses()). Any thread.
 */
void block_node_report_loss(BlockNode *node);

/*
 * Before a flush, or a write with FUA, fails because storage could not do it: what any user has
 * written to @node since the last flush may be gone, and the next flush may succeed. So the next
 * one of each of them fails, once. Not for what is only late or out of reach. Any thread.
 */
void block_node_report_flush_error(BlockNode *node);

/*
 * Open or find the child that @ref names and tie it to @parent as @name ("file"), with the
 * permissions that child_perm gives. In co_open only. The edge (owned by the parent, until after
 * its close) or NULL.
 */
BlockChild *co_fn block_child_co_open(BlockNode *parent, const BlockdevRef *ref, const char *name,
                                      GError **error);

/* The node below, borrowed. Stable inside a request and in control callbacks. */
BlockNode *block_child_node(const BlockChild *child);
const char *block_child_name(const BlockChild *child);
/* The parent's edge of that name, or NULL. Main thread. */
BlockChild *block_node_child(BlockNode *node, const char *name);
/*
 * Whether @fn says so of a node that has the same child, too, and is open or being opened. Main
 * thread.
 */
bool block_child_any_sibling(const BlockChild *child, bool (*fn)(BlockNode *sibling, void *opaque),
                             void *opaque);
/* The first child that was opened. Stable inside a request and in control callbacks. */
BlockChild *block_node_first_child(BlockNode *node);
/*
 * A number that changes with each loss that is reported of the node below, or one below that, since
 * the parent could write to it. Who keeps tables there has to stop when it has changed: of those
 * that seem to be written some may not be. Inside a request and in control callbacks.
 */
uint64_t block_child_losses(const BlockChild *child);
/* The length of the node below. Any thread. */
int64_t block_child_length(const BlockChild *child);

/* In co_reopen_prepare: the node that the edge @name will lead to, exchanged or not. */
BlockNode *block_reopen_child(BlockReopen *reopen, const char *name);

/* Requests to a child, in the shape of the driver callbacks. Any alignment and size. */
int co_fn block_child_co_preadv(BlockChild *child, uint64_t offset, const IoVector *iov,
                                BlockRequestFlags flags);
int co_fn block_child_co_splice(BlockChild *child, uint64_t offset, size_t bytes, int pipe);
/* A write past the child's end makes it longer, if the edge holds RESIZE; else -EIO. */
int co_fn block_child_co_pwritev(BlockChild *child, uint64_t offset, const IoVector *iov,
                                 BlockRequestFlags flags);
int co_fn block_child_co_splice_write(BlockChild *child, uint64_t offset, size_t bytes, int pipe);
int co_fn block_child_co_pwrite_zeroes(BlockChild *child, uint64_t offset, uint64_t bytes,
                                       BlockRequestFlags flags);
int co_fn block_child_co_pdiscard(BlockChild *child, uint64_t offset, uint64_t bytes);
int co_fn block_child_co_allocate(BlockChild *child, uint64_t offset, uint64_t bytes);
int co_fn block_child_co_flush(BlockChild *child);
int co_fn block_child_co_truncate(BlockChild *child, uint64_t size, PreallocMode prealloc,
                                  BlockRequestFlags flags, GError **error);
int co_fn block_child_co_block_status(BlockChild *child, uint64_t offset, uint64_t bytes,
                                      uint64_t *pnum, BlockStatus *status);
int64_t co_fn block_child_co_allocated_size(BlockChild *child);

/* In co_open_direct: what the child has to say. */
bool co_fn block_child_co_open_direct(BlockChild *child, BlockPerm perm, BlockPerm shared,
                                      BlockDirectFile *file, GError **error);

#endif
