/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * aio/aio.h - AioContext, the event loop of a thread, and what coroutines do in it.
 *
 * A context belongs to one thread, its owner: the first that attaches it to a GMainContext, runs or
 * polls it. It calls back for file descriptors (watches), points in time (timers) and work that was
 * posted to it (bottom halves, woken coroutines), and carries out I/O for the coroutines that run
 * in it: through io_uring, or through epoll and worker threads where the kernel offers no io_uring.
 *
 * Threads   Each function says whether any thread may call it. All others are for the owner (or,
 *           before there is an owner, for the thread that made the context), which is asserted.
 *           Callbacks run in the owner thread, outside of any coroutine.
 * Lifetime  Contexts are reference counted. Watches, timers and bottom halves are freed by whoever
 *           made them, before the last reference to their context goes. Posting to a context needs
 *           a reference, somebody's, that stays until the call has returned.
 * Errors    Control calls fill a GError; I/O returns a result or -errno.
 * Loops     Only a thread's entry point or a test calls aio_context_run() or aio_context_poll(),
 *           never a callback or a coroutine.
 */
#ifndef WHARF_AIO_AIO_H
#define WHARF_AIO_AIO_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "aio/coroutine.h"

typedef struct AioContext AioContext;

/* Contexts */

typedef enum {
    AIO_BACKEND_AUTO, /* $WHARF_AIO if set (auto, io_uring, epoll), else the best that works here */
    AIO_BACKEND_IO_URING,
    AIO_BACKEND_EPOLL,
} AioBackend;

typedef struct AioOptions {
    AioBackend backend;
    uint64_t poll_max_ns; /* busy-wait at most so long before sleeping; 0: never */
    uint64_t poll_grow;   /* factor by which the busy-wait grows towards poll_max_ns; 0: 2 */
    uint64_t
        poll_shrink;    /* divisor by which it shrinks when it was in vain; 0: at once to nothing */
    uint64_t max_batch; /* requests gathered before they are submitted; 0: a whole turn's */
    unsigned workers_min; /* worker threads kept when idle */
    unsigned workers_max; /* worker threads at most; 0: AIO_WORKERS_MAX_DEFAULT */
} AioOptions;

#define AIO_POLL_MAX_NS_DEFAULT 32768
#define AIO_WORKERS_MAX_DEFAULT 64
#define AIO_OPTIONS_DEFAULT                                                                        \
    {                                                                                              \
        .poll_max_ns = AIO_POLL_MAX_NS_DEFAULT, .workers_max = AIO_WORKERS_MAX_DEFAULT             \
    }

/*
 * A new context, without an owner yet. @opts NULL: AIO_OPTIONS_DEFAULT. Where AUTO cannot have
 * io_uring it takes epoll and says so in the log, once; a backend asked for by name is had or the
 * call fails. Any thread.
 */
AioContext *aio_context_new(const AioOptions *opts, GError **error);

/* Any thread may take a reference. The last one goes in the owner thread, or after it has ended. */
AioContext *aio_context_ref(AioContext *ctx);
void aio_context_unref(AioContext *ctx);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(AioContext, aio_context_unref)

/* Change polling, batch and workers while it runs; the backend stays. Any thread. */
void aio_context_set_options(AioContext *ctx, const AioOptions *opts);

/* The options in force, with defaults filled in. Any thread. */
void aio_context_get_options(AioContext *ctx, AioOptions *opts);

/* "io_uring" or "epoll". Any thread. */
const char *aio_context_backend_name(const AioContext *ctx);

/* The context that the calling thread runs right now, or has attached to GLib; or NULL. */
AioContext *aio_context_current(void);

/*
 * Make @ctx run from @main (NULL: the default one), which the calling thread iterates: the caller
 * becomes the owner and @ctx, which must not have been run or polled before, its current context
 * until the source is destroyed. Returns the attached source, which holds a reference to @ctx; the
 * caller ends it with g_source_destroy() and g_source_unref(), in the same thread.
 */
GSource *aio_context_attach_glib(AioContext *ctx, GMainContext *main);

/*
 * Run @ctx until *@stop, read atomically, is true. To stop it, store true, then aio_context_kick().
 * What had been posted before is run before it returns.
 */
void aio_context_run(AioContext *ctx, const bool *stop);

/*
 * One turn: wait for something to do if @blocking, do what is ready. Returns whether anything was
 * done; a turn that was woken by aio_context_kick() counts.
 */
bool aio_context_poll(AioContext *ctx, bool blocking);

/*
 * Hand over to the kernel now what has been queued in the current context, which happens by itself
 * at the end of a turn. For those who must know that it has arrived; it is no way to be faster.
 */
void aio_context_flush(void);

/* Make @ctx begin its next turn now. Any thread. */
void aio_context_kick(AioContext *ctx);

/* Bottom halves: functions to be called soon, by the loop. In the order in which they were posted.
 */

typedef void AioCallback(void *opaque);
typedef struct AioBh AioBh;

/* Call @cb(@opaque) once. Any thread. */
void aio_bh_schedule_oneshot(AioContext *ctx, AioCallback *cb, void *opaque);

/* A bottom half that can be scheduled again and again without allocation. Not scheduled yet. */
AioBh *aio_bh_new(AioContext *ctx, AioCallback *cb, void *opaque);

/* Call it once, soon; does nothing while it is already scheduled. Any thread, also from its @cb. */
void aio_bh_schedule(AioBh *bh);

/* Its @cb is not called any more, even if scheduled. Also from its @cb. NULL is fine. */
void aio_bh_free(AioBh *bh);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(AioBh, aio_bh_free)

/* Timers */

typedef struct AioTimer AioTimer;

/* A timer, not armed. */
AioTimer *aio_timer_new(AioContext *ctx, AioCallback *cb, void *opaque);

/*
 * Call its @cb once, not before @deadline_ns of CLOCK_MONOTONIC. Replaces the deadline it had.
 * Timers with the same deadline fire in the order in which they were armed.
 */
void aio_timer_arm(AioTimer *timer, int64_t deadline_ns);

/* Forget the deadline. Its @cb is not called until it is armed again. */
void aio_timer_disarm(AioTimer *timer);

/* Disarm and free; also from its @cb. NULL is fine. */
void aio_timer_free(AioTimer *timer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(AioTimer, aio_timer_free)

/* Now, in nanoseconds of CLOCK_MONOTONIC. Any thread. */
int64_t aio_now_ns(void);

/* Watches: callbacks for file descriptors */

typedef struct AioWatch AioWatch;
typedef void AioWatchCallback(void *opaque, short revents);
typedef bool AioWatchProbe(void *opaque);

/*
 * Call @cb(@opaque, revents) whenever @fd is ready for @events (POLLIN, POLLOUT, POLLPRI,
 * POLLRDHUP), again and again as long as it is: level-triggered. POLLERR and POLLHUP are always
 * reported. With
 * @events 0 the watch sleeps and reports nothing. revents is a hint: somebody else may have been
 * faster, so @fd should be non-blocking.
 *
 * @probe, if given, is called in the busy-wait before the loop sleeps. It must be quick and not
 * free anything; when it returns true, @cb is called with @events.
 *
 * @fd stays open as long as the watch lives. Several watches may share a descriptor.
 */
AioWatch *aio_watch_new(AioContext *ctx, int fd, short events, AioWatchCallback *cb,
                        AioWatchProbe *probe, void *opaque);

/* Watch for @events from now on. */
void aio_watch_set_events(AioWatch *watch, short events);

/*
 * Stop and free. @cb is not called any more, and the context does not hold the descriptor: it may
 * be closed, and the number used for another watch, at once. From any callback of the context, also
 * from the watch's own. NULL is fine.
 */
void aio_watch_free(AioWatch *watch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(AioWatch, aio_watch_free)

/*
 * Bindings: what comes from certain CPUs, as from the kernel's queues for each CPU, is served
 * soonest by a thread that runs there. A thread elsewhere has to be woken across CPUs each time.
 */

typedef struct AioBinding AioBinding;

/*
 * Keep the current context's thread to the CPUs @first, @first + @step, and so on; with several
 * bindings, to those of any. Of no effect where it may use none of them, where its affinity is not
 * that of the process, so that somebody else has chosen it, and under GLib.
 */
AioBinding *aio_binding_new(unsigned first, unsigned step);

/* Without the last binding the thread may run where it could before. NULL is fine. */
void aio_binding_free(AioBinding *binding);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(AioBinding, aio_binding_free)

/* Coroutines in contexts */

/*
 * Enter @co from @ctx's loop, where it then belongs. @co is suspended, or about to: if it still
 * runs in another thread it is entered after its next yield. Must not be called again before that.
 * Any thread.
 */
void aio_co_schedule(AioContext *ctx, Coroutine *co);

/*
 * Continue @co in the context where it last ran, from its loop, after what was posted before. Not
 * lost when @co has not reached its yield yet: it is entered after that. Exactly one wake for each
 * yield; a second one before @co was entered is a bug and ends the process. Any thread.
 */
void aio_co_wake(Coroutine *co);

/* Go on in @ctx: return in its thread. Does nothing if the caller is there already. */
void co_fn aio_co_reschedule_self(AioContext *ctx);

/*
 * Run @entry(@opaque) as a new coroutine in @ctx: at once, before this returns, if the calling
 * thread runs @ctx, else from @ctx's loop. Any thread.
 */
void aio_co_enter(AioContext *ctx, CoroutineEntry *entry, void *opaque);

/* Suspend for at least @ns nanoseconds. Returns 0. */
int co_fn aio_co_sleep_ns(int64_t ns);

/*
 * I/O of coroutines, in the current context. Each call is one request of the system: it may be
 * short, and it fails as the system call does. Buffers and vectors stay with the caller. -EINTR
 * never comes out.
 */

typedef enum {
    AIO_ENGINE_DEFAULT, /* the context's backend */
    AIO_ENGINE_DIRECT,  /* the same, past the page cache: see aio_buffer_new() */
    AIO_ENGINE_THREADS, /* a worker thread */
    AIO_ENGINE_APART,   /* a worker thread of those apart, see aio_co_run_worker_apart() */
    AIO_ENGINE_CACHED,  /* reads are tried without waiting first, for the page cache may have it all
                         */
    AIO_ENGINE_INLINE,  /* the calling thread, at once: the file lies in memory */
} AioEngine;

/*
 * The fastest engine for @fd that never blocks a loop: INLINE on tmpfs and ramfs, CACHED where the
 * page cache is used and can be asked without waiting, DIRECT with O_DIRECT, else DEFAULT. A hint,
 * right until @fd is opened anew or its flags change. May block as fstatfs() may, so call it in a
 * worker. Any thread.
 */
AioEngine aio_engine_for_file(int fd);

/* As preadv2() and pwritev2(): bytes transferred or -errno. @n at most IOV_MAX. */
ssize_t co_fn aio_co_preadv(AioEngine engine, int fd, const struct iovec *iov, unsigned n,
                            uint64_t offset, int rwf_flags);
ssize_t co_fn aio_co_pwritev(AioEngine engine, int fd, const struct iovec *iov, unsigned n,
                             uint64_t offset, int rwf_flags);

/* As fdatasync() with @data_only, else as fsync(). */
int co_fn aio_co_fsync(AioEngine engine, int fd, bool data_only);

/* As fallocate(). */
int co_fn aio_co_fallocate(AioEngine engine, int fd, int mode, uint64_t offset, uint64_t bytes);

/*
 * Whether aio_splice_cached() may be used for @fd, whose engine is @engine, and is right as long as
 * @engine is. May block as fstatfs() may, so call it in a worker. Any thread.
 */
bool aio_can_splice(int fd, AioEngine engine);

/*
 * Put the pages of the page cache that hold @bytes of @fd from @offset on into @pipe, as they are,
 * if they are all there. Does not wait, but where a page vanishes in this very moment. Who reads
 * from the pipe sees what the file holds by then. Returns bytes that are in the pipe, fewer than
 * @bytes at the end of the file or where @pipe is full; or -errno, -EAGAIN if not everything is
 * there or if it looks as if there were zeros, of which who reads them can make more. Any thread.
 */
ssize_t aio_splice_cached(AioEngine engine, int fd, uint64_t offset, size_t bytes, int pipe);

/*
 * Write @bytes that are in @pipe to @fd, a file in memory that is not open for appending, at
 * @offset. They are copied. 0 or -errno; then some of them may be written, and no more in @pipe.
 * Any thread.
 */
int aio_splice_to_memory(int fd, uint64_t offset, size_t bytes, int pipe);

/*
 * Buffers that requests use again and again. For requests of AIO_ENGINE_DIRECT the kernel keeps
 * their pages at hand (io_uring's registered buffers) instead of finding and holding them each
 * time: from the first such request on, as far into the buffer as requests have reached. So a
 * buffer of which nobody reads or writes past the page cache costs nothing.
 *
 * What the kernel keeps are pages, not addresses. Whoever gives memory of a buffer back or puts
 * other pages there (munmap, MADV_DONTNEED and the like) has the kernel forget it first, for else
 * it would go on with pages that nobody sees any more.
 *
 * Where the kernel keeps none, or no more (RLIMIT_MEMLOCK), requests are carried out all the same.
 */

typedef struct AioBuffer AioBuffer;

/*
 * Address space for buffers, or NULL and errno. Child processes do not get it: the kernel would
 * copy at once what it keeps for direct I/O. Any thread; unmapped by munmap().
 */
void *aio_buffer_map(size_t bytes);

/*
 * Whole pages, @bytes from @base on, are such a buffer in the current context. They belong to no
 * other one there. NULL where the context has no use for it.
 */
AioBuffer *aio_buffer_new(void *base, size_t bytes);

/* The kernel keeps it no more, until the next request. None uses it now. NULL is fine. */
void aio_buffer_forget(AioBuffer *buffer);

/*
 * The same, and from now on its memory may be huge pages, or no more. Those the kernel keeps, and
 * counts, whole. NULL is fine.
 */
void aio_buffer_set_huge(AioBuffer *buffer, bool huge);

/* The same, for good. Its memory stays the caller's. */
void aio_buffer_free(AioBuffer *buffer);

/*
 * Run @fn(@opaque), which may block, in a worker thread of the current context and return its
 * result. @fn is no coroutine. Workers are started as needed up to the context's maximum; beyond
 * that requests wait in order.
 */
int co_fn aio_co_run_worker(int (*fn)(void *opaque), void *opaque);

/*
 * The same for an @fn that may wait for other workers of this context, as what asks a mount that
 * this process serves itself: each call has a thread at once, and counts for no maximum. Callers
 * see to it that there are not too many.
 */
int co_fn aio_co_run_worker_apart(int (*fn)(void *opaque), void *opaque);

/*
 * Commands: what only the driver behind a descriptor understands (IORING_OP_URING_CMD), through
 * the context's ring together with all other I/O. They are there where the kernel offers rings with
 * submissions of 128 bytes (Linux 5.19 or later).
 *
 * A command belongs to the kernel from its submission until its callback is called. It cannot be
 * taken back: whoever owns the descriptor must have a way to make the driver end it. Until then the
 * kernel holds the descriptor's file open, though not the number.
 */

#define AIO_COMMAND_AREA 80 /* bytes that go along with a command */

typedef struct AioCommand AioCommand;

/* The command is done, with what the driver has returned, or -errno. May submit it again. */
typedef void AioCommandCallback(void *opaque, int result);

/* Whether commands can be submitted in @ctx, which has an owner. Any thread. */
bool aio_context_takes_commands(const AioContext *ctx);

/* A command to @fd, to be submitted again and again. Any thread. */
AioCommand *aio_command_new(int fd, AioCommandCallback *cb, void *opaque);

/* Not while it is in flight. NULL is fine. Any thread. */
void aio_command_free(AioCommand *command);

/* Its area, to be filled in while it is not in flight; aligned to 8 bytes. */
void *aio_command_area(AioCommand *command);

/*
 * Let the kernel keep @fd's file at hand for commands of the current context, which takes commands,
 * instead of looking it up for each. Returns a number for aio_command_use_file(), or -1 where that
 * is not to be had. The file stays open until aio_file_forget() in the same context.
 */
int aio_file_keep(int fd);

/* No command in flight uses @file; -1 is fine. */
void aio_file_forget(int file);

/* From now on @command goes to @file (-1: to its descriptor), not while it is in flight. */
void aio_command_use_file(AioCommand *command, int file);

/*
 * Submit operation @op in the current context, which takes commands, with this turn's other I/O.
 * What @iov means is the driver's affair; it stays until the command is done.
 */
void aio_command_submit(AioCommand *command, uint32_t op, const struct iovec *iov, unsigned n);

/*
 * Whether the kernel has all commands that were submitted in the current context, has given back
 * none whose callback is still to be called, and neither changes before the caller returns to the
 * loop. For those who share memory with commands. Always false under GLib, where one may end at any
 * moment.
 */
bool aio_commands_settled(void);

#endif
