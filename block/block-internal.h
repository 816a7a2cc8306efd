/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/block-internal.h - nodes, edges and backends, for the room itself.
 *
 * Each member says who may touch it:
 *   fixed     set before anybody else sees the object
 *   main      main thread only
 *   drained   changed in the main thread with the node drained, so requests read it without a lock
 *   atomic    any thread, by atomic operations
 *   LOCK      any thread that holds that lock
 */
#ifndef WHARF_BLOCK_BLOCK_INTERNAL_H
#define WHARF_BLOCK_BLOCK_INTERNAL_H

#include "aio/lock.h"
#include "block/driver.h"
#include "block/gate-internal.h"
#include "block/stats-internal.h"
#include "util/error.h"

/* Longer chains of nodes are refused: requests travel them by recursion on a coroutine's stack. */
#define BLOCK_DEPTH_MAX 64

/*
 * So are graphs with more ways down from a node: requests, and what looks at a node with all below
 * it, take each of them, and in chains of nodes with two children their number is exponential.
 */
#define BLOCK_WAYS_MAX 1024

/* Lengths end here, so that rounding up to any alignment cannot overflow. Also in the schema. */
#define BLOCK_LENGTH_MAX (INT64_MAX - (INT64_C(64) << 20) + 1)

/* What the request path copies at once where it must, and what it writes of zeros. */
#define BLOCK_BOUNCE_MAX (1024 * 1024)

typedef enum {
    BLOCK_NODE_OPENING,
    BLOCK_NODE_OPEN,
    BLOCK_NODE_CLOSING,
} BlockNodeState;

/*
 * What has gone wrong with writes after they were acknowledged: of each kind the latest, as what
 * graph->troubles was with it; 0: nothing. So each user can tell what is newer than his own writes,
 * and is told of that once, whoever's flush it was that failed.
 */
typedef struct BlockTrouble {
    uint64_t report; /* a flush has failed, or there was a loss */
    uint64_t loss;   /* the storage has forgotten what it had acknowledged */
} BlockTrouble;

struct BlockGraph {
    AioContext *main;
    const QapiEventSink *events;
    ObjectRegistry *objects; /* or NULL */
    JobRegistry *jobs;       /* of jobs on its nodes; NULL: there are none */

    /* main */
    GQueue nodes;        /* BlockNode *, oldest first */
    GHashTable *by_name; /* name -> BlockNode * */
    GQueue backends;     /* BlockBackend * */
    uint64_t next_name;  /* of a node without one */
    uint64_t next_id;
    unsigned drains;    /* drains that are under way anywhere */
    unsigned visit;     /* serial number of the last walk, see BlockNode.visited */
    int64_t quiesce_ns; /* how long a change waits for nodes to become quiet */
    unsigned commands;  /* under way, between block_graph_begin_command() and _end_ */
    bool closing;

    /*
     * Held while edges and permissions change. Taken before any gate is closed or waited for, never
     * while a request of the same coroutine is inside one.
     */
    CoMutex change_lock;
    CoMutex reopen_lock; /* one reopen at a time; taken before change_lock */

    /* Waiters are all in the main thread; CoQueue wants a lock nevertheless. */
    GMutex wait_lock;
    CoQueue drained;  /* somebody left a closed gate */
    CoQueue closed;   /* a node has closed, or a command has ended */
    CoQueue reopened; /* a reopen has ended */
    CoQueue notified; /* changed_bh has run */

    uint64_t troubles; /* atomic; how many were reported of all nodes, see BlockTrouble */

    AioBh *drained_bh; /* wakes @drained; scheduled by any thread */
    AioBh *changed_bh; /* tells backends of changes; scheduled by any thread */
    GMutex grown_lock;
    GPtrArray *grown; /* grown_lock; BlockNode *, became longer by a write */
    GQueue reports;   /* grown_lock; BlockReport *, events to be sent */
};

struct BlockNode {
    BlockGraph *graph;                  /* fixed */
    const BlockDriver *drv;             /* fixed */
    char name[BLOCK_NODE_NAME_MAX + 1]; /* fixed */
    gpointer state;                     /* fixed */
    CoMutex serial;                     /* for BLOCK_SERIAL drivers */
    CoMutex grow_lock;                  /* one write at a time makes the node longer */
    CoRwlock resize_lock;               /* written to make it shorter; change_lock is given back */
    CoMutex append_lock;                /* see blk_append_lock() */
    CoMutex image_lock; /* one snapshot command, check or shrinking at a time; before drains */
    GMutex limits_lock;

    /* drained */
    BlockdevOptions *opts;
    BlockNodeFlags flags;
    BlockLimits limits;      /* outside of requests: limits_lock */
    BlockChild *first_child; /* NULL without any */
    GPtrArray *children;     /* BlockChild *, owned */

    /* atomic */
    BlockRequestFlags write_flags, zero_flags, truncate_flags; /* what the driver handles */
    int64_t length;
    bool active;
    bool dirty;                  /* written since the last flush began */
    BlockTrouble trouble;        /* reported of this very node */
    bool grown;                  /* stands in graph->grown */
    BlockBackend *direct_writer; /* writes past us; changed in the main thread. NULL: nobody */
    BlockStatsSet stats;

    /* main */
    BlockNodeState phase;
    unsigned refs;
    unsigned readers; /* of them: queries, which do not make it in use */
    uint64_t id;      /* of this node alone, ever */
    bool monitor_owned;
    BlockNode *inherits_from;       /* the parent that this node was made with */
    GList link;                     /* in graph->nodes */
    GPtrArray *parents;             /* BlockChild *, edges that lead here */
    BlockPerm perm, shared;         /* cumulative, as last told to the driver */
    BlockPerm new_perm, new_shared; /* while a change is being checked */
    BlockReopen *reopen;
    bool resting;     /* to be inactive by a change that is being put together */
    bool reopening;   /* a reopen is at work; edges and permissions wait */
    unsigned drains;  /* drains begun on this very node */
    unsigned pins;    /* I/O of commands that no drain waits for: nodes below may not be reopened */
    unsigned visited; /* == graph->visit: seen by this walk */
    unsigned depth;   /* of the chain that begins here; 1 without children */
    unsigned ways;    /* from here to nodes without children; at most BLOCK_WAYS_MAX + 1 */
    bool perm_checked; /* driver has checked, not yet set or aborted */

    /* writes: those that need no order enter the gate, the others stand in the list */
    Gate writes;
    GMutex tracked_lock;
    unsigned serialisers; /* tracked_lock; the gate is closed while > 0 */
    GQueue tracked;       /* tracked_lock; BlockTracked *, oldest first */
    CoQueue tracked_wait; /* tracked_lock */

    /* flushes; flush_lock */
    GMutex flush_lock;
    CoQueue flush_wait;
    bool flushing;
    unsigned flush_failures; /* counted */
    int flush_error;         /* of the last one */
};

/*
 * What of the trouble below an edge is one of the parent's. Who could never write through it has
 * nothing to lose there, and what was before he could is not his.
 */
typedef struct BlockEdgeTrouble {
    bool counts;         /* atomic; the edge has held a permission to change the node, once */
    uint64_t from;       /* later trouble of the node below is one of the parent's */
    BlockTrouble before; /* with other nodes that the edge has led to */
} BlockEdgeTrouble;

struct BlockChild {
    char *name;                     /* fixed; of a backend's edge: NULL */
    BlockNode *parent;              /* fixed; NULL for a backend's */
    BlockBackend *backend;          /* fixed; NULL for a node's */
    BlockNode *node;                /* drained; holds a reference */
    BlockPerm perm;                 /* atomic; changed in the main thread with change_lock held */
    BlockPerm shared;               /* main */
    BlockPerm new_perm, new_shared; /* main; while a change is being checked */
    BlockEdgeTrouble trouble;       /* drained, but for what its own comment says */
};

#define BLOCK_ALL_FLUSHED UINT64_MAX

struct BlockBackend {
    BlockGraph *graph; /* fixed */
    char *user;        /* fixed */
    BlockChild root;
    BlockStatsSet stats;
    Gate gate;

    /* main */
    GList link;
    BlockPerm perm, shared; /* as asked for, without what a truncate takes for the moment */
    unsigned resizers;      /* truncates that hold RESIZE */
    bool allow_inactive;
    bool freeing;
    bool pins;                        /* nodes below may not be reopened */
    bool direct;                      /* holds direct access */
    BlockPerm lent_perm, lent_shared; /* a direct writer's own, without what that takes */
    BlockChangeCallback *notify;
    void *notify_opaque;

    /* gate_lock */
    GMutex gate_lock;
    CoQueue gate_wait;
    bool gate_closed;

    /* flush_lock */
    GMutex flush_lock;
    GQueue flushes;     /* BackendFlush *, under way, oldest first */
    uint64_t lost;      /* the latest trouble that came after a write and before its flush */
    BlockClient anyone; /* what at least one client has been told */

    /*
     * Atomic; graph->troubles before the first write that no flush has covered began, or before the
     * first one after the user was told of trouble. BLOCK_ALL_FLUSHED: there is none.
     */
    uint64_t unflushed_since;
    unsigned held;        /* atomic; requests on their way in, and truncates */
    bool shares_writes;   /* atomic; someone else wants to know what is written here */
    bool wrote;           /* atomic; changed_bh is to tell them */
    BlockChanges changed; /* main; changed_bh is to tell this backend */
};

/* Which flags the driver handles. Any thread. */
static inline BlockRequestFlags block_node_write_flags(const BlockNode *node)
{
    return __atomic_load_n(&node->write_flags, __ATOMIC_RELAXED);
}

static inline BlockRequestFlags block_node_zero_flags(const BlockNode *node)
{
    return __atomic_load_n(&node->zero_flags, __ATOMIC_RELAXED);
}

static inline BlockRequestFlags block_node_truncate_flags(const BlockNode *node)
{
    return __atomic_load_n(&node->truncate_flags, __ATOMIC_RELAXED);
}

/* graph.c */
void block_graph_assert_main(const BlockGraph *graph);
/* Sleep until @queue (drained, closed, reopened) is woken. */
void co_fn block_graph_co_wait(BlockGraph *graph, CoQueue *queue);
void block_graph_wake(BlockGraph *graph, CoQueue *queue);
/* Hold change_lock as soon as no reopen is at work on @node or below; on any of @nodes. */
void co_fn block_graph_co_lock_change(BlockGraph *graph, BlockNode *node);
void co_fn block_graph_co_lock_changes(BlockGraph *graph, BlockNode *const *nodes, unsigned n);
void block_graph_unlock_change(BlockGraph *graph);
unsigned block_graph_new_visit(BlockGraph *graph);
/* Append what can be reached from @node and was not yet visited, children before parents. */
void block_node_collect_below(BlockNode *node, unsigned visit, GPtrArray *order);
/* Whether @child is the backing file of its parent. */
bool block_child_is_backing(const BlockChild *child);
/* A node whose backing file @node is, itself or through filters, or NULL. Main thread. */
const BlockNode *block_node_overlay(const BlockNode *node);
/* The node itself or, below it, the first that is no filter. */
BlockNode *block_node_skip_filters(BlockNode *node);
/* All that can be reached from @node, each once, those below first. */
GPtrArray *block_node_all_below(BlockNode *node);
/* All that @node can be reached from, each once, those below first. */
GPtrArray *block_node_all_above(BlockNode *node);
/* A command that opens, changes or holds nodes; the graph is not closed before its end. */
bool block_graph_begin_command(BlockGraph *graph, GError **error);
void block_graph_end_command(BlockGraph *graph);

/* node.c */
/* A new node with one reference. What it leaves out it has from @inherits_from (may be NULL). */
BlockNode *co_fn block_node_co_open(BlockGraph *graph, const BlockdevOptions *opts,
                                    BlockNode *inherits_from, GError **error);
/* Like block_node_unref(), but returns when a node that nobody needs any more is closed. */
void co_fn block_node_co_unref(BlockNode *node);
/*
 * Hold a node while a query looks at it: it can be deleted meanwhile, but is closed afterwards.
 * Main thread.
 */
void block_node_begin_read(BlockNode *node);
void block_node_end_read(BlockNode *node);
/* Flush it before its end; a failure is only logged. */
void co_fn block_node_co_flush_last(BlockNode *node);
/* The common options as @opts say, filled up from @inherit (NULL: by defaults), and checked. */
bool block_node_flags_from(BlockNodeFlags *flags, const BlockdevOptions *opts,
                           const BlockNodeFlags *inherit, GError **error);
/*
 * Where @flags, which @node has or is to have, leave that open, let it be read-only if its first
 * child is, or is to be, or its driver cannot write; an error if it cannot but should.
 */
bool block_node_adjust_flags(BlockNode *node, BlockNodeFlags *flags, GError **error);
/* Compute anew what depends on the nodes below, here and in all nodes above. */
void block_node_refresh_limits(BlockNode *node);
void block_node_update_shape(BlockNode *node);
/* Whether these are within bounds. */
bool block_node_check_shape(BlockNode *node, GError **error);
/* Put common options into force. */
void block_node_set_flags(BlockNode *node, const BlockNodeFlags *flags);
/* Ask the driver for the length, and tell those above of a change. 0 or -errno. Any thread. */
int co_fn block_node_co_refresh_length(BlockNode *node);
/* Whether @node can be reached from @top (which is reached from itself). */
bool block_node_reaches(BlockNode *top, const BlockNode *node);

/* edge.c */
BlockChild *co_fn block_child_co_attach(BlockNode *parent, BlockNode *node, const char *name,
                                        GError **error);
void co_fn block_child_co_detach(BlockChild *child);

/* perm.c; with change_lock held */
/* Whoever stands at the upper end of the edge, for messages. Newly allocated. */
char *block_child_user(const BlockChild *child);
/*
 * Compute the permissions anew for the @n @nodes and all below them, from new_perm and new_shared
 * of the edges that lead to them; check them and put them into force, or leave all as it was. Nodes
 * in a reopen count with the flags they are to have.
 */
bool co_fn block_perm_co_update(BlockGraph *graph, BlockNode **nodes, unsigned n, GError **error);
/* The same where less is needed than before, which cannot fail. */
void co_fn block_perm_co_shrink(BlockNode *node);

/* drain.c */
/* From any thread: look again whether those who drain may go on. */
void block_graph_kick(BlockGraph *graph);
/* The backends that can reach @node, each once. */
GPtrArray *block_node_backends_above(BlockNode *node);
/* Like block_node_co_drain_begin(), but for one request that is inside @self. */
void co_fn block_node_co_drain_begin_but(BlockNode *node, BlockBackend *self);
/* Like block_node_co_drain_begin(), but waits only as long as *@give_up is not set. */
void co_fn block_node_co_drain_begin_until(BlockNode *node, const bool *give_up);
/* Close or open the gate as the drains below @blk ask for. */
void block_backend_update_gate(BlockBackend *blk);
/* Between the two @blk is not freed; no drain waits for that. Any thread. */
void block_backend_hold(BlockBackend *blk);
void block_backend_release(BlockBackend *blk);
/* The way of a request into the node and out again. */
void co_fn block_backend_co_enter(BlockBackend *blk);
void block_backend_leave(BlockBackend *blk);

/* backend.c */
/* Put blk->perm and blk->shared into force. With change_lock held. */
bool co_fn block_backend_co_update_perm(BlockBackend *blk, GError **error);
/* Clients of @blk may have written since graph->troubles was @since. Any thread. */
void block_backend_set_unflushed(BlockBackend *blk, uint64_t since);

/* quiesce.c */
/* Several nodes that are drained together; zeroed at first. */
typedef struct BlockQuiesce {
    /* The user's; may be NULL: called when it gives up, before others may go on. */
    void co_fn (*co_give_up)(void *opaque);
    void *opaque;

    /* its own */
    BlockGraph *graph;
    GPtrArray *nodes; /* BlockNode *, the first @drained of them are */
    unsigned drained;
    bool settling, ended, late, given_up;
    GError *error;
} BlockQuiesce;
/* Before (1) and after (-1) I/O of commands at @nodes that no drain waits for. */
void block_nodes_pin(const GPtrArray *nodes, int change);
/* Flush those of @nodes that may be written, with no lock held. */
bool co_fn block_nodes_co_flush(const GPtrArray *nodes, GError **error);
/*
 * Drain and settle @nodes, which the caller has flushed before; with change_lock held. Fails, with
 * none of them drained, when a flush fails, or when requests or flushes under way do not end in
 * time; in the latter case change_lock is given back for a while.
 */
bool co_fn block_quiesce_co_begin(BlockQuiesce *q, BlockGraph *graph, const GPtrArray *nodes,
                                  GError **error);
/* End the drains, if there are any. */
void co_fn block_quiesce_co_end(BlockQuiesce *q);
void block_quiesce_clear(BlockQuiesce *q);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(BlockQuiesce, block_quiesce_clear)

/* check.c */
/*
 * Check the image of @node, with its requests waiting meanwhile, and repair it, for which others
 * may only read. NULL and @error: that cannot be done. What was found is no error. @job, if it is
 * not NULL, is told how far that has come, and may end it.
 */
ImageCheck *co_fn block_check_co_node(BlockNode *node, ImageRepair repair, Job *job,
                                      GError **error);

/* active.c */
/* Make @node and all below it active, if it is not. With change_lock held. */
bool co_fn block_node_co_activate(BlockNode *node, GError **error);

/* notify.c */
void block_notify_init(BlockGraph *graph);
void block_notify_clear(BlockGraph *graph);
/* The length of @node has changed. Main thread, in a coroutine. */
void co_fn block_notify_co_length(BlockNode *node);
/* What @node contains is another thing now. Main thread. */
void block_notify_content(BlockNode *node);
/* The same as block_notify_co_length(), from any thread. */
void block_notify_grown(BlockNode *node);
/* A request has written through @blk. Any thread. */
void block_notify_written(BlockBackend *blk);
/* Edges, permissions or listeners have changed at @node or above. */
void block_notify_update(BlockNode *node);
/* @node goes away. */
void block_notify_forget(BlockNode *node);

/*
 * io.c; requests to a node itself, in the thread of the request. Not accounted, but for the end of
 * the highest write.
 */
int co_fn block_node_co_preadv(BlockNode *node, uint64_t offset, const IoVector *iov,
                               BlockRequestFlags flags);
int co_fn block_node_co_splice(BlockNode *node, uint64_t offset, size_t bytes, int pipe);
int co_fn block_node_co_pwritev(BlockNode *node, uint64_t offset, const IoVector *iov,
                                BlockRequestFlags flags);
int co_fn block_node_co_splice_write(BlockNode *node, uint64_t offset, size_t bytes, int pipe);
int co_fn block_node_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                      BlockRequestFlags flags);
int co_fn block_node_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes);
int co_fn block_node_co_allocate(BlockNode *node, uint64_t offset, uint64_t bytes);
int co_fn block_node_co_flush(BlockNode *node);

/* The next flush of @node and all below it has something to do. */
void block_node_set_dirty_below(BlockNode *node);

/* How often trouble was reported of any node of the graph. Any thread. */
static inline uint64_t block_graph_troubles(const BlockGraph *graph)
{
    return __atomic_load_n(&graph->troubles, __ATOMIC_SEQ_CST);
}

/* The latest of @node, and of those below that are written through it. */
BlockTrouble block_node_trouble(const BlockNode *node);
/* The edge holds a permission to change what is below. Main thread. */
void block_child_begin_to_count(BlockChild *child);
/* For an edge that will lead to another node: what it has seen so far stays. Main thread. */
BlockEdgeTrouble block_child_trouble_kept(const BlockChild *child);
int co_fn block_node_co_truncate(BlockNode *node, uint64_t size, PreallocMode prealloc,
                                 BlockRequestFlags flags, GError **error);
int co_fn block_node_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes,
                                     uint64_t *pnum, BlockStatus *status);
int co_fn block_node_co_allocation_depth(BlockNode *node, uint64_t offset, uint64_t bytes,
                                         uint64_t *pnum, uint32_t *depth);

#endif
