/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/nbd/nbd-internal.h - the parts of the NBD server and the seams between them.
 *
 *   wire.c        the protocol's bytes; pure
 *   haggle.c      what the options of a handshake mean; pure
 *   server.c      the socket: listens, accepts, counts clients; the exports by name
 *   handshake.c   a new client, from its greeting to the export that it chooses; main thread
 *   connection.c  the transmission: requests in, replies out; the context of one queue
 *   bulk.c        large writes, done by several contexts
 *   stream.c      large writes, done while they come in
 *   splice.c      large reads and writes whose data is not copied on the way
 *   pool.c        memory of requests, of one queue
 *   call.c        what each request means for the node
 *   status.c      metadata contexts: what BLOCK_STATUS tells
 *   export.c      the export driver, which ties them together
 *   commands.c    nbd-server-*
 *
 * One NbdServer at most runs in a registry of exports. A client belongs to the server, in the main
 * thread, until it has chosen an export; then its socket moves to one of the export's queues and is
 * served there to its end. Until it has ended it counts as a request of the queue, so that the
 * export outlives it.
 */
#ifndef WHARF_EXPORT_NBD_INTERNAL_H
#define WHARF_EXPORT_NBD_INTERNAL_H

#include <sys/uio.h>

#include "export/driver.h"
#include "export/nbd/haggle.h"
#include "export/nbd/nbd.h"
#include "export/nbd/wire.h"
#include "export/waiter.h"
#include "object/tls-session.h"

typedef struct NbdServer NbdServer;
typedef struct NbdShared NbdShared;
typedef struct NbdExport NbdExport;
typedef struct NbdQueue NbdQueue;
typedef struct NbdConnection NbdConnection;
typedef struct NbdCall NbdCall;
typedef struct NbdContext NbdContext;

/* The server */

/* What all NBD exports of a registry share. Main thread. */
struct NbdShared {
    NbdServer *server;         /* NULL: none runs */
    bool busy;                 /* one is just being started or stopped; see nbd_shared_set_busy() */
    ExportWaiter *idle_waiter; /* until that is over */
    GHashTable *by_name; /* NbdExport.face.name -> NbdExport, borrowed; those being added, too */
    GQueue exports;      /* the same, oldest first */
};

/*
 * A place on the server, for one client. Main thread but for nbd_server_seat_leave().
 */
typedef struct NbdSeat NbdSeat;

/* The client has gone, its socket is closed. Frees @seat. Any thread. */
void nbd_server_seat_leave(NbdSeat *seat);

/* The exports that clients may find. */
const NbdDirectory *nbd_server_directory(NbdServer *server);
bool nbd_server_ending(const NbdServer *server);

/* What TLS of its clients is to be done by; NULL: there is no TLS. Stays. */
TlsCreds *nbd_server_tls_creds(const NbdServer *server);
/* Whom TLS lets in (NULL: everybody). */
Authz *nbd_server_tls_authz(const NbdServer *server);
AioContext *nbd_server_context(NbdServer *server);

/* Whether several connections of one client are possible. */
bool nbd_server_multi_conn(const NbdShared *shared);

/* Handshake */

typedef struct NbdHandshake NbdHandshake;

/*
 * A new client at @fd, which becomes the handshake's, as @seat. Nothing happens before it is run.
 * It tells @gone (@opaque) when it is over, and is freed then: the client has left, or has been
 * handed over to an export. @max_s: seconds it may take; 0: any.
 */
NbdHandshake *nbd_handshake_new(NbdServer *server, NbdSeat *seat, int fd, unsigned max_s,
                                void (*gone)(gpointer opaque, NbdHandshake *handshake),
                                gpointer opaque);
void nbd_handshake_run(NbdHandshake *handshake);

/* End it soon. */
void nbd_handshake_cancel(NbdHandshake *handshake);

/* Exports */

struct NbdExport {
    Export common;

    /* fixed once started */
    NbdFace face;             /* what clients see of it */
    char *name;               /* face.name */
    char *description;        /* face.description */
    GPtrArray *contexts;      /* NbdContext *, in the order of face.contexts */
    GPtrArray *context_names; /* face.contexts */
    bool zero_copy;           /* clients may be given the image's own pages */

    /* main thread */
    bool published;    /* clients find it */
    unsigned entering; /* clients on their way to a queue, and who else goes to them */
    ExportWaiter *entered_waiter;

    /* any thread; atomic */
    unsigned connections; /* of clients that have chosen it */
};

struct NbdQueue {
    ExportQueue common;

    unsigned connections; /* atomic: with this queue's; chosen in the main thread */

    /* the queue's context */
    bool running;
    GQueue active; /* NbdConnection */
    struct NbdPool *pool;
};

/*
 * A client begins to use @ne, which is published: returns the queue that it belongs to. It cannot
 * end before nbd_export_entered(), by which time that queue has the client. Main thread.
 */
NbdQueue *nbd_export_enter(NbdExport *ne);
void nbd_export_entered(NbdExport *ne);

/* Transmission */

/* What a handshake hands over. */
typedef struct NbdClient {
    int fd;
    TlsSession *tls; /* NULL: it talks in clear text. Detached */
    NbdTerms terms;
    uint32_t *context_ids; /* terms.n_contexts of them; owned */
    NbdSeat *seat;         /* NULL: it came from no server */
    int64_t linger_ns;     /* how long it may take no answers when it has nothing more to say */
} NbdClient;

/*
 * Serve @client, whose members become the connection's, in @queue's context, which is the current
 * one. If the queue does not run any more, the client is sent away.
 */
void nbd_connection_begin(NbdQueue *queue, const NbdClient *client);

/* Look what the clients of @queue have sent meanwhile: some may have gone. The queue's context. */
void nbd_connections_look(NbdQueue *queue);

/* See ExportDriver.stop. */
void nbd_connections_stop(NbdQueue *queue, bool cut);

/* Pool: see pool.c. The queue's context; when it is stopped and idle, the main thread. */

typedef struct NbdPool NbdPool;

NbdPool *nbd_pool_new(AioContext *ctx);
void nbd_pool_free(NbdPool *pool);

/* A call with a buffer of at least @bytes bytes (0: none), or NULL if there is no memory. */
NbdCall *nbd_pool_take(NbdPool *pool, size_t bytes);
void nbd_pool_give(NbdPool *pool, NbdCall *call);

/* A pipe whose ends do not block. */
typedef struct NbdPipe {
    struct NbdPipe *next; /* in whatever list it is in */
    int read_fd, write_fd;
    size_t room;  /* pages */
    size_t bytes; /* in it */
} NbdPipe;

/* An empty one, with room for at least @pages pages; NULL if there are no more. */
NbdPipe *nbd_pool_take_pipe(NbdPool *pool, size_t pages);
void nbd_pool_give_pipe(NbdPool *pool, NbdPipe *pipe);

/* From begin to stop, in the context: free calls are kept for a while. */
void nbd_pool_begin(NbdPool *pool);
void nbd_pool_stop(NbdPool *pool);

/* Splicing: see splice.c. The connection's context. */

/* Give back the pipe of @call, if it has one, whatever is in it. */
void nbd_splice_end(NbdCall *call);

/*
 * Serve a read of @call from the image's own pages: they are in call->pipe then. False: it is to be
 * read.
 */
bool co_fn nbd_splice_co_read(NbdCall *call);

/*
 * Send of the pages what @fd, a socket, takes. @more: other things are sent at once afterwards.
 * Bytes, or -errno. SIGPIPE is ignored: this cannot do without it as sendmsg() can.
 */
ssize_t nbd_splice_send(NbdCall *call, int fd, bool more);

/* A pipe for the payload of @call, which is streamed, if there is one. */
void nbd_splice_begin_write(NbdCall *call);

/* Whether more of its payload may come that way: nothing that has come can be written yet. */
bool nbd_splice_may_receive(const NbdCall *call);

/* Take payload of @call off @fd, a socket. Bytes (0: the end), or -errno. */
ssize_t nbd_splice_receive(NbdCall *call, int fd);

/* Into the buffer with what is in the pipe; it is done without that from now on. 0 or -errno. */
int nbd_splice_take_back(NbdCall *call);

/*
 * Write the next @bytes bytes of its payload, which are in call->pipe; *@ret is 0 or -errno. False:
 * the node takes nothing from there, all is in the buffer now, and call->unspliced says so.
 */
bool co_fn nbd_splice_co_write(NbdCall *call, size_t bytes, int *ret);

/* Bulk: see bulk.c. The context of one connection, @home. */

typedef struct NbdBulk NbdBulk;

/* What is to be written of a call in pieces. */
typedef struct NbdPieces {
    size_t taken;     /* bytes, from the beginning, that somebody does or has done */
    unsigned busy;    /* pieces that somebody does */
    int ret;          /* 0, or the first error */
    Coroutine *waits; /* for the last of them */
} NbdPieces;

/* @over is scheduled each time nobody helps any more. */
NbdBulk *nbd_bulk_new(AioContext *home, AioBh *over);

/* Nothing is written, and nobody helps. */
void nbd_bulk_free(NbdBulk *bulk);

/* Whether a coroutine in another context may still use @bulk. */
bool nbd_bulk_is_helped(const NbdBulk *bulk);

/* Write the payload of @call, with what help @helper gives in time. 0 or -errno. */
int co_fn nbd_bulk_co_write(NbdBulk *bulk, NbdCall *call, AioContext *helper);

/* Streams: see stream.c. The connection's context. */

/* Whether something is to be done of @call, a part of whose payload has come or all of it. */
bool nbd_stream_is_ready(const NbdCall *call);

/* Write what has come of it, and whatever comes meanwhile. The result is in call->pieces.ret. */
void co_fn nbd_stream_co_write(NbdCall *call);

/* No more of its payload will come, and no further piece is begun. */
void nbd_stream_cut(NbdCall *call);

/* Calls */

#define NBD_CALL_CHUNKS 16 /* of one answer to a read, at most */

/* One request and its answer. */
struct NbdCall {
    NbdCall *next;      /* in whatever list it is in */
    NbdPool *pool;      /* it comes from */
    uint8_t *buffer;    /* payload of the request or of the answer; aligned to a page */
    size_t buffer_size; /* room in it */
    unsigned size_class;
    AioBuffer *kept; /* the buffer, where it is used again and again; or NULL */

    NbdConnection *conn;
    NbdExport *ne;
    const NbdTerms *terms;
    const uint32_t *context_ids;
    BlockClient *client; /* whom a flush is to tell of losses */
    NbdRequest request;
    size_t payload;  /* bytes that come along */
    size_t received; /* of them have come */
    size_t moved;    /* of them are in the buffer no more, which begins with the next */
    size_t cost;     /* bytes counted against the connection's limit */
    NbdBulk *bulk;   /* that does it in pieces, with the help of @helper; or NULL */
    AioContext *helper;
    bool sampled;  /* what the node does about it is looked at */
    bool streamed; /* see stream.c */
    bool cut;      /* its payload ends in the middle, for the export does */
    NbdPieces pieces;
    bool may_splice; /* it may have a pipe */
    bool alone;      /* the client has asked for nothing else */
    bool unspliced;  /* the node did not take its payload from one */
    NbdPipe *pipe;   /* with the last bytes received, or with what comes after iov; or NULL */

    /* the answer */
    unsigned n_iov;
    unsigned heads_bytes; /* of heads in use */
    size_t answer_bytes;
    struct iovec iov[2 * NBD_CALL_CHUNKS + 1];
    uint8_t heads[NBD_CALL_CHUNKS * NBD_HEAD_MAX + NBD_END_MAX];
};

/* Bytes of buffer that serving @request takes. */
size_t nbd_call_buffer_bytes(const NbdTerms *terms, const NbdRequest *request);

/* Where the byte @at of its payload is, or belongs. */
static inline uint8_t *nbd_call_payload(const NbdCall *call, size_t at)
{
    return call->buffer + (at - call->moved);
}

/* Serve the request and leave the answer in @call. */
void co_fn nbd_call_co_serve(NbdCall *call);

/* Whether it must be on stable storage before it is answered. */
bool nbd_call_is_durable(const NbdCall *call);

/* Write @bytes bytes of its payload, from @at on. 0 or -errno. Any context of the export. */
int co_fn nbd_call_co_write_part(const NbdCall *call, size_t at, size_t bytes);

/* Answer with what came of it: @ret, 0 or -errno. */
void nbd_call_answer_result(NbdCall *call, int ret);

/* Answer with an error, or success, alone. */
void nbd_call_answer(NbdCall *call, NbdError error, const char *why);

/* Where the next head of the answer goes: room for NBD_END_MAX bytes. */
uint8_t *nbd_call_head(NbdCall *call);

/* Append to the answer the @head_bytes bytes put there, and data; either may be nothing. */
void nbd_call_add(NbdCall *call, size_t head_bytes, const void *data, size_t data_bytes);

/* The same, but the data is in call->pipe. */
void nbd_call_add_pipe(NbdCall *call, size_t head_bytes, size_t data_bytes);

/* Metadata contexts */

/* A run of bytes with one status. */
typedef struct NbdExtent {
    uint64_t bytes;
    uint32_t status;
} NbdExtent;

/*
 * A kind of metadata. A type of its own for each export that has it, so that it may keep state.
 */
struct NbdContext {
    char *name;
    /*
     * What holds from @offset on: @extent describes at most @bytes bytes. 0 or -errno. The queue's
     * context.
     */
    int co_fn (*co_status)(NbdContext *context, NbdExport *ne, uint64_t offset, uint64_t bytes,
                           NbdExtent *extent);
    void (*free)(NbdContext *context);
};

void nbd_context_free(NbdContext *context);

/* Most contexts that an export has. */
#define NBD_CONTEXTS_MAX 256

/* "base:allocation" and "qemu:allocation-depth". */
NbdContext *nbd_context_new_allocation(void);
NbdContext *nbd_context_new_depth(void);

/* Bytes of buffer for a BLOCK_STATUS with @payload bytes of payload. */
size_t nbd_status_buffer_bytes(uint64_t payload);

/* Serve BLOCK_STATUS. */
void co_fn nbd_status_co_serve(NbdCall *call);

#endif
