/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/block.h - the graph of named block nodes, for those who build and inspect it.
 *
 * block/backend.h is for those who read and write a node, block/driver.h for authors of drivers.
 *
 * Threads   The graph (nodes, edges, permissions, options) belongs to the main thread, that is, to
 *           the thread of the AioContext given to block_graph_new(). Every function here is for
 *           that thread, those marked co_fn for a coroutine in it, unless it says otherwise.
 *           Requests enter through backends alone, from any thread, and read the graph without a
 *           lock: whoever changes an edge that requests travel has drained its node first.
 *
 * Changes   Several clients may add, delete and reopen at the same time. What takes long (opening a
 *           file, looking at an image) happens with no graph-wide lock held: the node's name is
 *           taken from the start, the node is of no use to anyone until it is open, and only the
 *           short change itself (an edge, permissions) holds a lock.
 *
 * Draining  block_node_co_drain_begin() closes the gate of each backend that can reach the node and
 *           waits until the requests inside have left. Requests that come meanwhile wait at the
 *           gate as coroutines and go on, in the thread they came from, when the last drain ends.
 *           None fails. Nothing here runs an event loop.
 *
 * Lifetime  Nodes are reference counted; references are taken and dropped in the main thread. The
 *           monitor's reference, each parent's edge and each backend count. Closing suspends, so
 *           the last unref only starts it: the name stays taken until the driver has closed.
 *
 * Errors    Control calls return false or NULL and fill @error (WHARF_ERROR); requests 0 or -errno.
 */
#ifndef WHARF_BLOCK_BLOCK_H
#define WHARF_BLOCK_BLOCK_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "aio/aio.h"
#include "aio/coroutine.h"
#include "object/object.h"
#include "job/job.h"
#include "qapi/qapi.h"
#include "qapi/types-block-core.h"

typedef struct BlockGraph BlockGraph;
typedef struct BlockNode BlockNode;
typedef struct BlockChild BlockChild;
typedef struct BlockBackend BlockBackend;

/* The longest node name, without its final zero (qsd-behaviour B1). */
#define BLOCK_NODE_NAME_MAX 31

/*
 * What the user of a node needs of it, and what it lets others do meanwhile. The numbers are those
 * of the image locks (bit i is byte 100 + i), see qsd-behaviour E1.
 */
typedef enum {
    BLOCK_PERM_CONSISTENT_READ = 1, /* reads give what the node is meant to contain */
    BLOCK_PERM_WRITE = 2,
    BLOCK_PERM_WRITE_UNCHANGED = 4, /* writes that do not change what a reader sees */
    BLOCK_PERM_RESIZE = 8,
    BLOCK_PERM_ALL = 15,
} BlockPerm;

/* "consistent read", "write", ...: the permissions in @perm for messages, joined by ", ". */
char *block_perm_to_string(BlockPerm perm);

/* How requests to a node must look, and how they are best. Sizes in bytes; 0 means no limit. */
typedef struct BlockLimits {
    uint32_t request_alignment; /* offset and length; a power of two, at least 1 */
    uint32_t length_alignment;  /* a length is a multiple of it; others are refused */
    uint32_t preferred_io; /* a good size for small requests: what st_blksize shows; 0: unknown */
    uint32_t max_transfer; /* of a read or write */
    uint32_t max_iov;      /* elements of a vector */
    uint32_t pwrite_zeroes_alignment;
    uint32_t pdiscard_alignment;
    uint64_t max_pwrite_zeroes;
    uint64_t max_pdiscard;
    size_t min_mem_alignment; /* of each buffer of a vector; the request path copies if it must */
    size_t opt_mem_alignment;
} BlockLimits;

/*
 * An empty graph. @main is the main thread's context, kept by reference; @events (may be NULL, not
 * copied, must outlive the graph) takes the events the room sends.
 */
BlockGraph *block_graph_new(AioContext *main, const QapiEventSink *events);

/* Where options of nodes find the objects that they name. Before the first node; outlives them. */
void block_graph_set_objects(BlockGraph *graph, ObjectRegistry *objects);

/*
 * The daemon ends: nodes whose storage has gone away, and may come back or not, do not wait for it
 * any longer; what waits for it fails, and so do checks of images. Whatever else still answers is
 * not disturbed.
 */
void block_graph_give_up_waiting(BlockGraph *graph);

/*
 * Close the graph: drop the monitor's references, newest node first, flush every writable node and
 * wait until all are closed. Backends must be gone; a node that is still referenced is flushed,
 * stays and is logged. No further node can be added afterwards.
 */
void co_fn block_graph_co_close_all(BlockGraph *graph);

/* Frees a graph that holds no node any more. Accepts NULL. */
void block_graph_free(BlockGraph *graph);

/*
 * The open node called @name (borrowed), or NULL and WHARF_ERROR_NOT_FOUND (or IN_USE: not ready).
 */
BlockNode *block_graph_find(BlockGraph *graph, const char *name, GError **error);

/*
 * Open a node as @opts say, with its inline children, and give it to the monitor. Keeps a copy of
 * @opts. A failure leaves nothing behind.
 */
bool co_fn block_graph_co_add(BlockGraph *graph, const BlockdevOptions *opts, GError **error);

/* Take the node @name from the monitor; returns when it and its inline children are closed. */
bool co_fn block_graph_co_del(BlockGraph *graph, const char *name, GError **error);

/*
 * Change the options of the nodes named in @options (elements BlockdevOptions *), all or none. What
 * is left out returns to its default. Requests wait meanwhile and do not fail.
 */
bool co_fn block_graph_co_reopen(BlockGraph *graph, const GPtrArray *options, GError **error);

/*
 * Make the node @name (NULL: every node) active or inactive. An inactive node holds no lock on its
 * image and takes no request. Refused while a user that does not allow it is there.
 */
bool co_fn block_graph_co_set_active(BlockGraph *graph, const char *name, bool active,
                                     GError **error);

/* Each node that is open or opening, oldest first. @fn must not suspend. */
void block_graph_foreach(BlockGraph *graph, void (*fn)(BlockNode *node, void *opaque),
                         void *opaque);

/* Register the commands of module block-core, with @graph as their service. */
void block_register_commands(BlockGraph *graph, QapiCommandTable *table);

/*
 * The same for module block-job. The jobs are made in @jobs (borrowed), which must have ended all
 * of them before the graph is closed.
 */
void block_register_job_commands(BlockGraph *graph, JobRegistry *jobs, QapiCommandTable *table);

/*
 * References. The last unref starts a coroutine in the main context that closes the node.
 * Both accept NULL.
 */
BlockNode *block_node_ref(BlockNode *node);
void block_node_unref(BlockNode *node);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlockNode, block_node_unref)

/* Fixed while the node lives; any thread. */
const char *block_node_name(const BlockNode *node);
const char *block_node_driver_name(const BlockNode *node);
BlockGraph *block_node_graph(const BlockNode *node);

/* The exact length in bytes. Any thread. */
int64_t block_node_length(const BlockNode *node);

/* Whether the node refuses writes (`read-only`, or a fallback of `auto-read-only`). Any thread. */
bool block_node_read_only(const BlockNode *node);

/* Whether the node is active (see block_graph_co_set_active()). Any thread. */
bool block_node_active(const BlockNode *node);

/*
 * Bytes that the node takes up in its storage, or -errno (-ENOTSUP where there is no such thing).
 */
int64_t co_fn block_node_co_allocated_size(BlockNode *node);

/*
 * The name of the node's image: a plain one, or NULL where there is none; or else json:{...} with
 * the options that make it. Newly allocated. Main thread.
 */
char *block_node_plain_filename(BlockNode *node);
char *block_node_filename(BlockNode *node);

/* The limits of the node. Any thread. */
void block_node_limits(BlockNode *node, BlockLimits *out);

/* See the top. Begin and end come in pairs; they nest, also between users. */
void co_fn block_node_co_drain_begin(BlockNode *node);
void co_fn block_node_co_drain_end(BlockNode *node);

#endif
