/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * aio/context-internal.h - an AioContext from inside: what its parts in aio/ share.
 *
 * context.c  turns of the loop, posted work, ownership, GLib
 * affinity.c, bh.c, buffer.c, timer.c, watch.c, co.c, io.c, command.c, worker.c  see their names
 * epoll.c, uring.c  the backends
 */
#ifndef WHARF_AIO_CONTEXT_INTERNAL_H
#define WHARF_AIO_CONTEXT_INTERNAL_H

#include <sched.h>

#include "aio/aio.h"
#include "aio/coroutine-internal.h"
#include "aio/work-internal.h"

typedef struct AioBackendOps AioBackendOps;
typedef struct AioRequest AioRequest;
typedef struct AioWorkers AioWorkers;

/* A singly linked list in order of arrival. */
typedef struct AioWorkList {
    AioWork *head;
    AioWork **tail;
} AioWorkList;

struct AioContext {
    /* Fixed after creation */
    const AioBackendOps *ops;
    void *backend; /* the backend's state */
    int wake_fd;   /* eventfd */
    AioWorkers *workers;
    AioWorkers *workers_apart; /* for what may wait for the others */

    /* Any thread, atomic */
    int refs;
    int posters;       /* threads inside aio_context_post() */
    int sleeping;      /* the owner sleeps or is about to: whoever clears it writes to wake_fd */
    AioWork *incoming; /* posted by other threads; last one first */
    void *owner;       /* the thread's CoroutineThread; NULL until attached, run or polled */
    uint64_t poll_max_ns;
    uint64_t poll_grow;
    uint64_t poll_shrink;
    uint64_t max_batch;
    bool takes_commands;

    /* Owner thread only */
    bool polled;             /* as given to bind() */
    AioWorkList ready;       /* posted work, oldest first */
    GPtrArray *timers;       /* AioTimer, a heap by deadline */
    uint64_t timer_seq;      /* counts armings */
    GList *watches;          /* all AioWatch */
    GList *probes;           /* those with a probe; the last one called back first */
    GList *probe_next;       /* where a walk over @probes is */
    uint64_t poll_ns;        /* how long to busy-wait now */
    unsigned poll_misses;    /* longest busy-waits in a row that were in vain */
    int64_t poll_keep_until; /* the busy-wait offers the processor to nobody before */
    unsigned cache_misses;   /* of reads in a row that asked the page cache */
    unsigned cache_skipped;  /* reads that did not ask */
    AioBh *kick;

    GPtrArray *buffers;       /* AioBuffer, by address */
    size_t buffers_kept;      /* bytes of pages of theirs that the kernel keeps */
    size_t buffers_max;       /* and may keep; 0: not known yet */
    bool buffers_refused;     /* it takes no more, until one is forgotten */
    bool buffers_told;        /* that there is an end to it has been logged */
    uint64_t buffer_requests; /* that went to a buffer which the kernel keeps */

    GSList *bindings;    /* AioBinding */
    bool bindable;       /* there are some, and nobody else has chosen where the thread runs */
    cpu_set_t free_cpus; /* where it may run without bindings */
    cpu_set_t cpus;      /* where it may run, if only we have a say */
};

/* Posted work */

/* Queue @work to @ctx and wake it. FIFO, across threads in order of causality. Any thread. */
void aio_context_post(AioContext *ctx, AioWork *work);

/* Ownership */

/* Assert that the caller may touch @ctx's own state. */
void aio_context_assert_owner(AioContext *ctx);

/* Watches */

struct AioWatch {
    AioContext *ctx;
    int fd;
    short events;
    AioWatchCallback *cb;
    AioWatchProbe *probe;
    void *opaque;
    GList link;       /* in ctx->watches */
    GList probe_link; /* in ctx->probes */
    bool probed;      /* among the first AIO_PROBES_MAX there: the busy-wait asks it */
    void *backend;    /* the backend's state */
};

/* The busy-wait asks so many probes at most, those whose watches were called back last. */
#define AIO_PROBES_MAX 8

/* Call back for @revents. @watch may be gone on return, or any other. */
void aio_watch_call(AioWatch *watch, short revents);

/* Ask the probes, and call back for those that say yes. Returns whether there was one. */
bool aio_watches_probe(AioContext *ctx);

/* Timers */

struct AioTimer {
    AioContext *ctx;
    AioCallback *cb;
    void *opaque;
    int64_t deadline;
    uint64_t seq;   /* orders equal deadlines */
    unsigned index; /* place in the heap, or AIO_TIMER_IDLE */
};

#define AIO_TIMER_IDLE G_MAXUINT

/* Initialize a timer that somebody else allocated; it must be disarmed before it goes. */
void aio_timer_init(AioTimer *timer, AioContext *ctx, AioCallback *cb, void *opaque);

/* Nanoseconds to the next timer: 0 if due, -1 without any. */
int64_t aio_timers_timeout(AioContext *ctx);

/* Fire those that are due. Returns whether there was one. */
bool aio_timers_run(AioContext *ctx);

/* Requests: on the stack of the coroutine that waits for them, or in an AioCommand */

typedef enum {
    AIO_OP_READ,
    AIO_OP_WRITE,
    AIO_OP_FSYNC,
    AIO_OP_FALLOCATE,
    AIO_OP_NOP,
    AIO_OP_COMMAND,
} AioOp;

struct AioRequest {
    AioOp op;
    int fd;
    int flags; /* RWF_*, fallocate mode, data_only, or the operation of a command */
    unsigned n;
    const struct iovec *iov;
    uint64_t offset;
    uint64_t bytes;
    Coroutine *co;
    ssize_t ret;
    AioRequest *next; /* while it waits for room in the ring */
    union {
        AioBuffer *buffer; /* of a read or write: what the kernel keeps of it; NULL: nothing */
        void *area;        /* of a command, AIO_COMMAND_AREA bytes */
    };
    int file; /* of a command, see aio_file_keep(); -1: fd */
};

/* A command that was submitted is done; req->ret is set. */
void aio_command_completed(AioRequest *req);

/* Carry out @req by the system call, which may block. The result, or -errno. */
ssize_t aio_request_run_sync(const AioRequest *req);

/* A request that does nothing, to see what requests cost. Returns 0. */
int co_fn aio_co_nop(AioEngine engine);

/* Buffers */

struct AioBuffer {
    AioContext *ctx;
    char *base;
    size_t bytes;
    size_t kept; /* bytes, from the first one on, that the kernel keeps; 0: none */
    int number;  /* by which it knows them */
    bool huge;   /* they may lie in huge pages */
};

/* What the kernel keeps, or begins to keep now, that holds all of @iov; or NULL. */
AioBuffer *aio_buffer_find(AioContext *ctx, const struct iovec *iov, unsigned n);

/* Bindings */

/* Let the calling thread, if a context's binding holds it, run anywhere again, until restored. */
AioContext *aio_affinity_lift(void);
void aio_affinity_restore(AioContext *lifted);

/* Workers */

AioWorkers *aio_workers_new(void);
void aio_workers_free(AioWorkers *workers); /* waits for all threads */
void aio_workers_set_limits(AioWorkers *workers, unsigned min, unsigned max);
void aio_workers_get_limits(AioWorkers *workers, unsigned *min, unsigned *max);

/*
 * Start a thread under @name with all signals blocked that are not the thread's own fault. It is
 * not bound to the CPUs that the caller's context may be bound to.
 */
GThread *aio_thread_new(const char *name, GThreadFunc func, gpointer data, GError **error);

/* Backends */

struct AioBackendOps {
    const char *name;

    /* Set up ctx->backend, or fail and leave nothing. Any thread. */
    bool (*init)(AioContext *ctx, GError **error);
    void (*fini)(AioContext *ctx);

    /*
     * The calling thread has become the owner, for good. Called once, before anything is submitted.
     * @polled: it sleeps outside, waiting for fd to become readable, instead of in wait().
     */
    void (*bind)(AioContext *ctx, bool polled);

    /*
     * Submit what is queued, wait for events until @timeout_ns have passed (-1: for ever, 0: not at
     * all). Calls nobody. @probing: the caller asks the watches' probes, so the descriptors of
     * those that are asked need not be watched.
     */
    void (*wait)(AioContext *ctx, int64_t timeout_ns, bool probing);
    /* Call back for the events that came. Returns whether there were any. */
    bool (*dispatch)(AioContext *ctx);
    /* Whether dispatch would find something; cheap. */
    bool (*peek)(AioContext *ctx);
    /* Submit what is queued. Without @probing fd then becomes readable when an event comes. */
    void (*flush)(AioContext *ctx, bool probing);
    int (*fd)(AioContext *ctx);

    void (*watch_added)(AioWatch *watch);
    void (*watch_changed)(AioWatch *watch);
    void (*watch_removed)(AioWatch *watch); /* the watch is freed right after */

    /*
     * Start @req; when it is done its coroutine is entered with ret set, or the command completed.
     * NULL: workers do all, and there are no commands.
     */
    void (*submit)(AioContext *ctx, AioRequest *req);
    /* See aio_commands_settled(). NULL: there are no commands. */
    bool (*settled)(AioContext *ctx);
    /* See aio_file_keep(). NULL: there are no commands. */
    int (*file_keep)(AioContext *ctx, int fd);
    void (*file_forget)(AioContext *ctx, int file);

    /*
     * Have the kernel keep @iov, instead of what it has kept as @number (-1: nothing). Requests
     * that use the latter go on with it. Returns the number, or -errno: then nothing has changed.
     * NULL: no buffers are kept.
     */
    int (*buffer_keep)(AioContext *ctx, int number, const struct iovec *iov);
    void (*buffer_forget)(AioContext *ctx, int number);
};

extern const AioBackendOps aio_backend_epoll;
#ifdef WHARF_HAVE_IO_URING
extern const AioBackendOps aio_backend_uring;
#endif

#endif
