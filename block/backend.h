/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/backend.h - a block backend: what an export or a job holds on a node, and the way all
 * requests enter the graph.
 *
 * Threads   Creating, freeing, permissions, notification: coroutines of the main thread. Requests
 *           (blk_co_*): coroutines in any thread with an AioContext, any number at once; each goes
 *           on in the thread it came from. blk_length(), blk_limits(), blk_stats(): any thread.
 *
 * Lifetime  A backend holds a reference on its node. block_backend_co_free() waits for the requests
 *           inside; none may be started once it was called. A request borrows its vector and
 *           buffers until it returns.
 *
 * Requests  Checked against the node's length, made to fit its limits (see block/io.c), counted for
 *           drain. While the node is drained they wait. 0 or -errno:
 *             -EIO        a range past the end of the node
 *             -EINVAL     a range that is none (overflow)
 *             -EPERM      a write or resize that the backend's permissions or the node do not allow
 *             -ENOTSUP    the driver cannot do it and no fallback may be taken
 *             -ENOMEDIUM  the node is inactive
 *           and what the driver reports.
 */
#ifndef WHARF_BLOCK_BACKEND_H
#define WHARF_BLOCK_BACKEND_H

#include "aio/lock.h"
#include "block/block.h"
#include "util/iov.h"

/* How a request is to be done. What a call has no use for is ignored. */
typedef enum {
    BLOCK_REQ_FUA = 1,               /* on stable storage before the request returns */
    BLOCK_REQ_MAY_UNMAP = 2,         /* zeroes: storage may be given back (if discard=unmap) */
    BLOCK_REQ_NO_FALLBACK = 4,       /* zeroes: -ENOTSUP rather than writing zero bytes */
    BLOCK_REQ_SERIALISING = 8,       /* no overlapping write may run at the same time */
    BLOCK_REQ_WRITE_UNCHANGED = 16,  /* does not change the content: WRITE_UNCHANGED suffices */
    BLOCK_REQ_ZERO = 32,             /* truncate: what is added must read as zeros */
    BLOCK_REQ_WRITE_COMPRESSED = 64, /* write: compressed, by nodes that can */
    BLOCK_REQ_GROW_ONLY = 128,       /* truncate: do nothing where the node is longer */
} BlockRequestFlags;

/* What block status says of a range. */
typedef enum {
    BLOCK_STATUS_DATA = 1,      /* may hold data in its storage */
    BLOCK_STATUS_ZERO = 2,      /* reads as zeros */
    BLOCK_STATUS_ALLOCATED = 4, /* comes from this node, not from one it is backed by */
    BLOCK_STATUS_EOF = 8,       /* the range ends at the end of the node */
} BlockStatus;

/*
 * A backend on @node for @user ("export 'e0'": it stands in messages about conflicts), with the
 * permissions @perm, sharing @shared with the other users of the node. Checked for the whole
 * subgraph, taken all or none; a conflict names node, permission and both users. An inactive node
 * is made active unless @perm is 0.
 */
BlockBackend *co_fn block_backend_co_new(BlockNode *node, const char *user, BlockPerm perm,
                                         BlockPerm shared, GError **error);

/* Change the permissions, all or none. */
bool co_fn block_backend_co_set_perm(BlockBackend *blk, BlockPerm perm, BlockPerm shared,
                                     GError **error);

/* Whether the node may be made inactive below this backend (false at first). */
void block_backend_set_allow_inactive(BlockBackend *blk, bool allow);

/* Wait for the requests inside and give everything back. Accepts NULL. */
void co_fn block_backend_co_free(BlockBackend *blk);

/* The node (borrowed). Main thread, or inside a request. */
BlockNode *block_backend_node(BlockBackend *blk);
const char *block_backend_user(BlockBackend *blk);

/* A regular file that holds exactly what a node holds. */
typedef struct BlockDirectFile {
    int fd;     /* the caller's to close, in a worker; holds the image's locks, too */
    bool local; /* fstat() does not wait */
} BlockDirectFile;

/*
 * Direct access: let the clients of @blk read, and write if it may, the file below its node without
 * any request, as FUSE passthrough does. It is not counted and a drain does not hold it up. So,
 * from here to the release,
 *   - the nodes from @blk's down to the file are not reopened,
 *   - if @blk writes, nobody else in this daemon uses any of them, and no other process writes;
 *     readers see each other's bytes through the page cache, but are told of no change,
 *   - a flush assumes that something was written, and lengths are what blk_co_refresh_length() has
 *     found last.
 * Refused where a node must see the requests (see BlockDriver.co_open_direct, cache.direct,
 * detect-zeroes), or somebody else is there; @error names what stands in the way. Not twice.
 */
bool co_fn block_backend_co_hold_direct(BlockBackend *blk, BlockDirectFile *file, GError **error);

/*
 * End it. The file's descriptor has been closed. Clients who still have it open elsewhere keep the
 * image locked against others, for whom their description stands.
 */
void co_fn block_backend_co_release_direct(BlockBackend *blk);

/* Ask the storage below for its length anew, for it may be changed past us. 0 or -errno. */
int co_fn blk_co_refresh_length(BlockBackend *blk);

/* Requests that are inside or wait at the gate. Any thread; exact only when nothing is started. */
unsigned block_backend_in_flight(BlockBackend *blk);

/* What a BlockChangeCallback is told. */
typedef enum BlockChanges {
    BLOCK_CHANGED_LENGTH = 1 << 0,  /* by whomever, the backend itself included */
    BLOCK_CHANGED_CONTENT = 1 << 1, /* by somebody else */
} BlockChanges;

typedef void BlockChangeCallback(BlockChanges changes, void *opaque);

/*
 * Tell @cb (NULL: nobody any more) when the node's length has changed, or when its content was
 * written through another backend. Called in the main thread, outside of any coroutine, soon after
 * the change; several changes may make one call.
 */
void blk_set_change_notify(BlockBackend *blk, BlockChangeCallback *cb, void *opaque);

/*
 * Returns when that has been called for all that had changed before; a change of length that the
 * drivers between have to find out about first may come later. Any thread.
 */
void co_fn blk_co_settle_changes(BlockBackend *blk);

int co_fn blk_co_preadv(BlockBackend *blk, uint64_t offset, const IoVector *iov,
                        BlockRequestFlags flags);

/*
 * Read without copying: put the pages that hold the range into @pipe, which is empty, does not
 * block and has room for each page. 0; or -ENOTSUP: it is to be read instead, by blk_co_preadv(),
 * for the node cannot do this, or not at once, or the request is one to be refused, or there seem
 * to be zeros. @pipe may hold a part then.
 *
 * What is in the pipe are the image's pages, not what they held. Who reads them late sees what was
 * written by then: as good as any reply to a read that is still on its way, but of no use for a
 * caller that goes by what was there at a certain time.
 */
int co_fn blk_co_splice(BlockBackend *blk, uint64_t offset, size_t bytes, int pipe);

int co_fn blk_co_pwritev(BlockBackend *blk, uint64_t offset, const IoVector *iov,
                         BlockRequestFlags flags);

/*
 * Write without a buffer: @bytes that are in @pipe. -ENOTSUP: the node cannot do this, and they are
 * still there, for blk_co_pwritev(). After another error some of them may be written, and gone.
 */
int co_fn blk_co_splice_write(BlockBackend *blk, uint64_t offset, size_t bytes, int pipe);

/* Make the range read as zeros. Any alignment. */
int co_fn blk_co_pwrite_zeroes(BlockBackend *blk, uint64_t offset, uint64_t bytes,
                               BlockRequestFlags flags);

/*
 * Advice that the content of the range is of no use any more; what reads give then is unspecified.
 */
int co_fn blk_co_pdiscard(BlockBackend *blk, uint64_t offset, uint64_t bytes);

/*
 * Reserve storage for the range, where the node has any to reserve; its content stays as it is. Not
 * undone where it fails half-way (-ENOSPC). Needs the permission to write; not among the counters.
 */
int co_fn blk_co_allocate(BlockBackend *blk, uint64_t offset, uint64_t bytes);

/*
 * Returns when every write that had returned before is on stable storage; -EIO, once, when what was
 * written through the node may have been lost, though the storage itself can go on.
 */
int co_fn blk_co_flush(BlockBackend *blk);

/*
 * One of several clients of a backend, which knows of none who has written what, for a flush of one
 * covers the writes of all. So each is told of a loss, once. Needs not be freed.
 */
typedef struct BlockClient {
    uint64_t told; /* the backend's */
} BlockClient;

/* One who comes; he is told, too, of what nobody has been told yet. Any thread. */
void blk_client_init(BlockBackend *blk, BlockClient *client);

/* blk_co_flush() for one client; by itself it is for all that come without one. */
int co_fn blk_co_flush_for(BlockBackend *blk, BlockClient *client);

/*
 * What is known of the range from @offset on: *@status (bits) holds for the first *@pnum bytes, at
 * most @bytes. At the end of the node and beyond *@pnum is 0 and *@status is BLOCK_STATUS_EOF.
 */
int co_fn blk_co_block_status(BlockBackend *blk, uint64_t offset, uint64_t bytes, uint64_t *pnum,
                              BlockStatus *status);

/*
 * How deep in the backing chain the storage of the range from @offset on lies: *@depth (1: in the
 * node itself; filters do not count; what is behind the end of a short one is its; 0: nowhere)
 * holds for the first *@pnum bytes, at most @bytes.
 */
int co_fn blk_co_allocation_depth(BlockBackend *blk, uint64_t offset, uint64_t bytes,
                                  uint64_t *pnum, uint32_t *depth);

/*
 * Set the exact length. What is added reads as zeros with BLOCK_REQ_ZERO, else as the driver likes.
 * Holds RESIZE for the moment, where the backend does not hold it for good; a conflict with another
 * user is -EPERM. The length of a backing file cannot be changed: -EBUSY. Waits for overlapping
 * requests. @error (may be NULL) gets the reason in words.
 */
int co_fn blk_co_truncate(BlockBackend *blk, uint64_t size, PreallocMode prealloc,
                          BlockRequestFlags flags, GError **error);

/*
 * The node's lock of those who append: held from looking for the end to having moved it, lest two
 * backends' writes go to the same place. Outside of other locks of the node.
 */
CoMutex *blk_append_lock(BlockBackend *blk);

/* The exact length of the node in bytes. */
int64_t blk_length(BlockBackend *blk);

/* Bytes the node takes up in its storage, or -errno (-ENOTSUP: unknown). */
int64_t co_fn blk_co_allocated_size(BlockBackend *blk);

/* The node's limits as they are now; a reopen may change them. */
void blk_limits(BlockBackend *blk, BlockLimits *out);

/* Whether writes through this backend can succeed: its permissions and the node's state. */
bool blk_writable(BlockBackend *blk);

/* Counters of one backend or node, since it was made. Latencies are sums, in nanoseconds. */
typedef struct BlockOpStats {
    uint64_t ops; /* completed, without the failed ones */
    uint64_t failed;
    uint64_t invalid; /* refused for their range */
    uint64_t bytes;   /* of the completed ones */
    uint64_t time_ns;
} BlockOpStats;

typedef enum {
    BLOCK_OP_READ,
    BLOCK_OP_WRITE, /* write-zeroes, too */
    BLOCK_OP_FLUSH,
    BLOCK_OP_UNMAP, /* discard */
    BLOCK_OP__MAX,
} BlockOp;

/* A snapshot of the backend's counters. Any thread. */
void blk_stats(BlockBackend *blk, BlockOpStats out[BLOCK_OP__MAX]);

#endif
