/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/fuse/fuse-internal.h - the parts of a FUSE export and the seams between them.
 *
 *   mount.c, detached.c,     mounting and unmounting; know nothing of requests
 *   mountpoint.c, mountinfo.c,
 *   helper.c, records.c
 *   init.c                   what is agreed on with the kernel
 *   dispatch.c               from the bytes of a request to its operation
 *   io.c, append.c,          operations: what a request means for the node; know nothing of how
 *   allocate.c, attributes.c requests travel
 *   channel.c, client.c      transport "dev": requests and replies through /dev/fuse
 *   uring.c, connection.c    transport "io-uring": through the kernel's ring queues
 *   passthrough.c            what the kernel does without us, and how we learn of it
 *   export.c                 the export driver, which ties them together
 *
 * An operation gets a FuseCall and leaves its answer there. A transport reads a request, parses it
 * by fuse_call_parse(), runs fuse_call_co_serve() in a coroutine of its queue's context and sends
 * the answer. No more passes between the two.
 */
#ifndef WHARF_EXPORT_FUSE_INTERNAL_H
#define WHARF_EXPORT_FUSE_INTERNAL_H

#include <errno.h>
#include <linux/fuse.h>

#include "aio/lock.h"
#include "export/driver.h"
#include "export/fuse/connection.h"
#include "export/fuse/init.h"
#include "export/fuse/mount.h"
#include "export/fuse/uring-protocol.h"
#include "export/waiter.h"

typedef struct FuseShared FuseShared;
typedef struct FuseUring FuseUring;
typedef struct FuseQueue FuseQueue;
typedef struct FuseWriteBack FuseWriteBack;

/* What stat shows and utimensat, chmod and chown set. Any thread; each member for itself. */
typedef struct FuseAttributes {
    uint32_t mode; /* permission bits */
    uint32_t uid, gid;
    int64_t atime, mtime, ctime; /* nanoseconds of CLOCK_REALTIME */
} FuseAttributes;

/* See passthrough.c. */
typedef struct FusePassthrough {
    /* fixed while requests run */
    bool active;          /* clients read and write @file, not us */
    bool unseen_writes;   /* and they may write */
    BlockDirectFile file; /* fd -1: there is to be no passthrough */

    int64_t stat_mtime; /* FuseExport.resize_lock; of the file when we last looked, in ns */

    /* lock; any thread */
    GMutex lock;
    int backing_id; /* the kernel's name of the file; 0: it does not know it */
    unsigned users; /* open files */
} FusePassthrough;

/* Where the file ends; resize_lock. See append.c. */
typedef struct FuseEnd {
    int64_t length; /* of the node, by our clients' doing or as we have noticed others'. Atomic */
    int64_t low, high; /* what the kernel may take for it since others have moved it; none: 1, 0 */
    int64_t heard;     /* what it was when they began to, as the kernel knows */
    int64_t shift;     /* how far they have moved it */
} FuseEnd;

typedef struct FuseExport {
    Export common;

    /* fixed while requests run */
    bool growable;
    FuseExportCache cache;
    uint16_t queue_depth; /* of each ring queue */
    uint64_t read_ahead;  /* bytes; what the kernel was brought to */
    FuseAgreement agreed;
    FuseMount mount;
    FuseConnection connection; /* if there are ring queues */
    FusePassthrough passthrough;

    /* any thread */
    FuseAttributes attributes; /* atomic */
    unsigned open_files;       /* atomic */
    GMutex writers_lock;       /* while open_writers changes */
    unsigned open_writers;     /* atomic; of open_files: also while a writable mapping lasts */
    bool opened;               /* atomic: ever; see fuse_channel_void_attributes() */
    bool mapped;               /* atomic: see fuse_note_mapping() */
    unsigned leaving;          /* atomic: so many safe deletions unmount it, which is no loss */
    FuseWriteBack *write_back; /* main; the last that a safe deletion has begun, or NULL */
    int lost;                  /* atomic: with what errno the kernel has ended the connection; 0 */
    bool uring_refused;        /* atomic: the kernel does not want our entries */
    bool resized;              /* atomic: a client of ours has, since we last looked */
    int64_t length_told;       /* atomic: what the kernel knows or will find out by itself */
    int64_t cache_mtime;       /* atomic: see fuse_told_of_change() */
    int64_t cache_heard;       /* atomic: the one of them that the kernel was last told */
    uint64_t cache_filled;     /* atomic: bytes that the page cache has got since it was dropped */
    uint64_t cache_asked;      /* atomic: questions of reads since the last write */
    CoMutex resize_lock;       /* from looking at the length to having changed it */
    FuseEnd end;
    bool end_moved;      /* atomic: by others, and we do not know that the kernel knows */
    bool end_doubtful;   /* atomic: the kernel may have heard of another end since */
    bool refusal_logged; /* resize_lock */

    /* main thread */
    bool unmounted;
    ExportWaiter *unmount_waiter;
} FuseExport;

/* Operations */

/* One request and its answer. Lives as long as the request. */
typedef struct FuseCall {
    FuseExport *fe;
    FuseQueue *queue; /* while it is served; in its context */
    const struct fuse_in_header *in;
    const void *args; /* the operation's fuse_*_in, whole */
    void *payload; /* what follows it (WRITE); room for FUSE_INIT_MAX_IO bytes of answer (READ) */
    size_t payload_bytes;

    /* the answer of a call that returns 0: first @out_bytes of @out, then @data_bytes of payload */
    struct {
        struct fuse_out_header header; /* the transport's */
        union {
            struct fuse_attr_out attr;
            struct fuse_entry_out entry;
            struct fuse_open_out open;
            struct fuse_write_out write;
            struct fuse_statfs_out statfs;
            struct fuse_lseek_out lseek;
        };
    } out;
    size_t out_bytes;
    size_t data_bytes;
} FuseCall;

typedef enum {
    FUSE_OPERATION_DATA = 1,     /* reads or changes data: in flight, it keeps a deletion away */
    FUSE_OPERATION_PAYLOAD = 2,  /* data follows the arguments */
    FUSE_OPERATION_NO_REPLY = 4, /* the kernel wants no answer */
    FUSE_OPERATION_HARMLESS = 8, /* changes nothing: it may be answered before it has ended */
} FuseOperationFlags;

typedef struct FuseOperation {
    int co_fn (*co_serve)(FuseCall *call); /* 0 or -errno; NULL: always @error */
    int error;
    uint16_t args_bytes; /* of its fuse_*_in */
    uint16_t flags;
} FuseOperation;

/*
 * Find the operation for the message @message of @bytes bytes (aligned to 8) and fill in what of
 * @call describes the request; the message must stay as long as the call. @payload: room for the
 * data of an answer, which must not overlap the arguments of a READ. NULL with *@err = -errno to
 * answer where the message is malformed or of a kind nobody knows; *@err is 0 where it is too short
 * to tell what to answer to.
 */
const FuseOperation *fuse_call_parse(FuseCall *call, FuseExport *fe, const void *message,
                                     size_t bytes, void *payload, int *err);

/* A message in the parts in which a ring queue delivers it. */
typedef struct FuseMessage {
    const struct fuse_in_header *in;
    const void *args;
    size_t args_bytes; /* there, at most */
    void *payload;     /* as for fuse_call_parse() */
    size_t payload_bytes;
} FuseMessage;

/* The same for such a message. *@err is never 0 on failure. */
const FuseOperation *fuse_call_parse_parts(FuseCall *call, FuseExport *fe,
                                           const FuseMessage *message, int *err);

/* Run the operation, counted as a request for data where it is one. 0 or -errno to answer. */
int co_fn fuse_call_co_serve(FuseQueue *queue, const FuseOperation *operation, FuseCall *call);

/* Whether this call of the operation is a FUSE_OPERATION_DATA one. */
static inline bool fuse_operation_is_data(const FuseOperation *operation, const FuseCall *call)
{
    if (call->in->opcode == FUSE_SETATTR) {
        return ((const struct fuse_setattr_in *)call->args)->valid & FATTR_SIZE;
    }
    return operation->flags & FUSE_OPERATION_DATA;
}

int co_fn fuse_co_read(FuseCall *call);
int co_fn fuse_co_write(FuseCall *call);
int co_fn fuse_co_flush(FuseCall *call);
int co_fn fuse_co_fallocate(FuseCall *call);
int co_fn fuse_co_lseek(FuseCall *call);
int co_fn fuse_co_lookup(FuseCall *call);
int co_fn fuse_co_getattr(FuseCall *call);
int co_fn fuse_co_setattr(FuseCall *call);
int co_fn fuse_co_open(FuseCall *call);
int co_fn fuse_co_release(FuseCall *call);
int co_fn fuse_co_statfs(FuseCall *call);

/* What operations share */

static inline BlockBackend *fuse_blk(FuseExport *fe)
{
    return fe->common.blk;
}

/* The kernel's number of the file. */
static inline uint64_t fuse_node_id(const FuseExport *fe)
{
    return fe->mount.in_directory ? FUSE_MOUNT_FILE_NODE : FUSE_ROOT_ID;
}

/* Whether @ret, of a request up to @end, is due to somebody making the node shorter meanwhile. */
static inline bool fuse_was_shortened(FuseExport *fe, int ret, uint64_t end)
{
    return ret == -EIO && end > (uint64_t)blk_length(fuse_blk(fe));
}

/* The data has changed: mtime and ctime move. */
void fuse_touch(FuseExport *fe);
/*
 * A client has written: unless that is root, the file is no longer one that gives its owner's
 * rights away. Past the page cache, the kernel leaves it to us.
 */
void fuse_drop_privileges(FuseExport *fe, uint32_t uid);
/* It has changed at that time, in ns of CLOCK_REALTIME. */
void fuse_touch_at(FuseExport *fe, int64_t mtime);

/* @bytes bytes have been read or written, which the kernel may keep. */
static inline void fuse_cache_filled(FuseExport *fe, uint64_t bytes)
{
    if (fe->cache == FUSE_EXPORT_CACHE_PAGE) {
        __atomic_add_fetch(&fe->cache_filled, bytes, __ATOMIC_RELAXED);
    }
}

/*
 * A read of a file that is opened past the page cache may be for that cache all the same, on behalf
 * of a mapping: nobody owns it. If the mapping is a shared one of a writer, what is stored there
 * stays unseen until the kernel writes it back.
 */
static inline void fuse_note_mapping(FuseExport *fe, const struct fuse_read_in *in)
{
    if (G_UNLIKELY(!(in->read_flags & FUSE_READ_LOCKOWNER))) {
        __atomic_store_n(&fe->mapped, true, __ATOMIC_RELAXED);
    }
}

/*
 * Somebody else has changed the node.
 *
 * With the page cache (cache=page), the kernel drops its pages when it finds another mtime than
 * before. It may find one only where they are out of date, though writes of our own clients move
 * it, too. So questions on behalf of a read are answered with cache_mtime, which is the one that
 * the kernel has heard of last and moves when others change the node; stat is told the real one.
 * While the two differ, because of a write of our own, the kernel must keep neither: reads ask each
 * time, and before stat is told, the kernel's knowledge of the attributes is made void, upon which
 * it hands the answer on without looking at it. When reads have asked more often than reading all
 * again would take, the real one is told to them, too, and the pages go.
 *
 * Dropping the pages by a notice of ours would be simpler, but that waits for our own answers to
 * reads, in the kernel, where nothing can end it: a daemon killed then would stay for ever.
 */
void fuse_told_of_change(FuseExport *fe);

/* Attributes of a new export. */
void fuse_attributes_init(FuseExport *fe);

/* Make the node @size bytes long, if it is shorter. resize_lock is held. */
int co_fn fuse_co_grow_locked(FuseExport *fe, uint64_t size, PreallocMode prealloc);

/* Set the length, as a client has asked for, whose kernel takes it for the length from then on. */
int co_fn fuse_co_truncate(FuseExport *fe, uint64_t size);

/* Begin to keep account of the end. */
void fuse_end_init(FuseExport *fe);
/* The kernel is told of this length. Any thread. */
void fuse_end_tell(FuseExport *fe, int64_t length);
/* A client's request other than an append may move the end for the kernel. Any thread. */
void fuse_end_doubt(FuseExport *fe);
/* Our clients have made the node @length bytes long. resize_lock is held for these three. */
void fuse_end_moved(FuseExport *fe, int64_t length);
/* The kernel knows the length: its client has set it. */
void fuse_end_known(FuseExport *fe);
/* Where a write of @bytes bytes goes that is to append and that the kernel has sent to @offset. */
uint64_t fuse_end_place(FuseExport *fe, uint64_t offset, uint64_t bytes);

/* Passthrough */

/*
 * Get all that passthrough needs, but for the kernel's consent, if the options ask for it and the
 * node can do it. False only where it must be. Main thread.
 */
bool co_fn fuse_passthrough_co_begin(FuseExport *fe, const BlockExportOptions *options,
                                     GError **error);

/* Whether the kernel consents: after the handshake, on fe->mount.fd, in a worker. */
bool fuse_passthrough_probe(FuseExport *fe, GError **error);

/* Without it because of @why: logged, or with 'on' an error. */
bool fuse_passthrough_do_without(FuseExport *fe, OnOffAuto wanted, const GError *why,
                                 GError **error);

/* Give everything back, if there is something. Main thread; queues are idle. */
void co_fn fuse_passthrough_co_end(FuseExport *fe);

/* Answer an OPEN; 0 or -errno. A RELEASE. */
int fuse_passthrough_open(FuseCall *call, uint32_t flags);
void fuse_passthrough_release(FuseCall *call);

/* Learn what writes that we have not seen have made of length and times. */
void co_fn fuse_passthrough_co_look(FuseExport *fe);

/*
 * Whether the thread with this number, of the kernel's request, has been killed and stays only as
 * long as it gets no answer. Any thread.
 */
bool fuse_client_is_killed(uint32_t pid);

/* The same from the line /proc/PID/stat. */
bool fuse_client_stat_is_killed(const char *line);

/* Transport "dev" */

typedef struct FuseRequest FuseRequest;

typedef struct FuseChannel {
    int fd; /* requests come from it, and their replies go to it; -1: closed */

    /* the queue's context; when stopped and idle, the main thread */
    AioWatch *watch;
    AioTimer *trim_timer; /* gives idle buffers and killed clients back */
    bool used;            /* since the timer looked */
    bool paused;          /* all buffers are taken: nothing is read until one is free */
    FuseRequest *free;
    FuseRequest *active;
    unsigned n_requests; /* free and active */
    unsigned failures;   /* so many reads in a row have failed for want of memory */
    FuseRequest *probed; /* read in a busy-wait, not begun yet */
    FuseRequest **ended; /* in a round: where the next request that ends is noted; else NULL */
} FuseChannel;

struct FuseQueue {
    ExportQueue common;
    FuseChannel channel;
    FuseUring *uring; /* NULL: all comes through the channel */
};

/*
 * Another descriptor for the connection @fd, for a queue of its own. Blocks for a moment. Where
 * /dev/fuse cannot be opened, queues share one channel of the kernel's. -1 with @error.
 */
int fuse_channel_clone(int fd, GError **error);

/*
 * Have the kernel ask for the attributes again; answers that it has not looked at yet will not be
 * kept. The queue's context, or the main thread while the export runs.
 *
 * Nothing before the first open: until then the kernel takes the file for empty, and without an
 * answer that it has kept it would go on doing so in reads. Such answers are not kept long.
 */
void fuse_channel_void_attributes(FuseQueue *queue);

/* See ExportDriver; the queue's context. */
void fuse_channel_begin(FuseQueue *queue);
void fuse_channel_stop(FuseQueue *queue, bool cut);

/*
 * Close the descriptor, failing with ENOTCONN what the kernel still has for it. The queue is
 * stopped and idle; main thread.
 */
void fuse_channel_close(FuseQueue *queue);

/* Transport "io-uring", beside the other */

#define FUSE_URING_MAX_CPUS 8192

/*
 * Entries for @queue's share of the ring queues of the connection @fd, @depth for each of @n_cpus
 * CPUs. Nothing is told to the kernel yet. A worker.
 */
FuseUring *fuse_uring_new(FuseQueue *queue, int fd, unsigned n_cpus, unsigned depth,
                          GError **error);

/*
 * fuse_call_parse() for a request as the kernel leaves it in an entry: @headers, and
 * FUSE_INIT_MAX_IO bytes at @data. Both must stay as long as the call. *@err is never 0 on failure.
 */
const FuseOperation *fuse_uring_parse(FuseCall *call, FuseExport *fe, const UringHeaders *headers,
                                      void *data, int *err);

/* See ExportDriver; the queue's context. */
void fuse_uring_begin(FuseUring *uring);
void fuse_uring_stop(FuseUring *uring, bool cut);

/*
 * End the connection, and wait until the kernel has given back all entries. The queue is stopped
 * and idle.
 */
void co_fn fuse_uring_co_wait_returned(FuseUring *uring);

/* The kernel has no entry: none was lent, or all are back. NULL is fine. Any thread. */
void fuse_uring_free(FuseUring *uring);

/* CPUs that this machine may ever have; 0 if it does not tell. Blocks for a moment. */
unsigned fuse_uring_count_cpus(void);

/* The same from the kernel's list of them, such as "0-3". 0 if it is malformed. */
unsigned fuse_uring_parse_cpus(const char *list);

#endif
