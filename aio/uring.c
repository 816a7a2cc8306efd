/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The io_uring backend: one ring carries I/O, watches and wake-ups of a context.
 *
 * What a turn queues is submitted by the system call that waits. A watch is a one-shot poll request
 * that is made again after each event: arming looks at the descriptor's state, so the watch is
 * level-triggered and cannot miss or lose an event. The thread is woken through a read of its
 * eventfd that is always in flight.
 *
 * A request's user_data is a pointer with a tag in its low bits.
 */
#include "aio/context-internal.h"

#include "util/error.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define SQ_ENTRIES 256
#define CQ_ENTRIES 2048

#define STALE_LOOKS 8 /* of which one enters the kernel */

#define KEPT_FILES   64
#define KEPT_BUFFERS 1024

/* The most that the kernel transfers in one call. */
#define TRANSFER_MAX 0x7ffff000u

enum {
    TAG_REQUEST = 0, /* AioRequest */
    TAG_POLL = 1,    /* UringPoll */
    TAG_WAKE = 2,    /* none */
    TAG_IGNORE = 3,  /* none */
    TAG_MASK = 3,
};

/*
 * A poll request. It belongs to its watch until the watch changes or goes while the request is in
 * flight. Then it is an orphan: it is cancelled, and freed when the kernel gives it back.
 */
typedef struct UringPoll {
    AioWatch *watch; /* NULL: orphan */
    bool queued;     /* in state->unarmed */
    bool armed;      /* in flight */
    bool cancelled;  /* orphan, and the kernel has been told */
    int stand_in;    /* an epoll instance that is polled in the descriptor's place, or -1 */
    GList link;      /* in state->unarmed or, as an orphan, in state->orphans */
} UringPoll;

typedef struct UringState {
    struct io_uring ring;
    bool wake_armed;      /* the read of the eventfd is in flight */
    uint64_t wake_value;  /* where it goes */
    GQueue unarmed;       /* UringPoll */
    GQueue orphans;       /* UringPoll */
    unsigned stale;       /* looks since the flag for work was found to be so; 0: it was not */
    unsigned uncancelled; /* how many of the orphans the kernel has not been told about */
    AioRequest *waiting;  /* found no room in the ring; oldest first */
    AioRequest **waiting_tail;
    uint64_t kept_files;     /* a bit for each place of the ring's table of files that is taken */
    bool file_table;         /* it has one */
    uint16_t *spare_buffers; /* numbers of the ring's table of buffers; NULL: it has none */
    unsigned n_spare_buffers;
} UringState;

G_STATIC_ASSERT(KEPT_FILES == 64);

/* Submission */

static struct io_uring_sqe *get_sqe(UringState *s)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);

    if (!sqe) {
        io_uring_submit(&s->ring);
        sqe = io_uring_get_sqe(&s->ring); /* NULL if the kernel does not take any now */
    }
    return sqe;
}

static void set_user_data(struct io_uring_sqe *sqe, void *pointer, unsigned tag)
{
    io_uring_sqe_set_data64(sqe, (uintptr_t)pointer | tag);
}

static void prep_rw_kept(struct io_uring_sqe *sqe, const AioRequest *req)
{
    const struct iovec *iov = req->iov;

    if (req->op == AIO_OP_READ) {
        io_uring_prep_read_fixed(sqe, req->fd, iov->iov_base, iov->iov_len, req->offset,
                                 req->buffer->number);
    } else {
        io_uring_prep_write_fixed(sqe, req->fd, iov->iov_base, iov->iov_len, req->offset,
                                  req->buffer->number);
    }
    sqe->rw_flags = req->flags;
}

static void prep_rw(struct io_uring_sqe *sqe, const AioRequest *req)
{
    unsigned len = req->n == 1 ? MIN(req->iov[0].iov_len, TRANSFER_MAX) : 0;

    if (req->op == AIO_OP_READ) {
        if (req->n == 1) {
            io_uring_prep_read(sqe, req->fd, req->iov[0].iov_base, len, req->offset);
        } else {
            io_uring_prep_readv(sqe, req->fd, req->iov, req->n, req->offset);
        }
    } else {
        if (req->n == 1) {
            io_uring_prep_write(sqe, req->fd, req->iov[0].iov_base, len, req->offset);
        } else {
            io_uring_prep_writev(sqe, req->fd, req->iov, req->n, req->offset);
        }
    }
    sqe->rw_flags = req->flags;
}

static void prep_command(struct io_uring_sqe *sqe, const AioRequest *req)
{
    bool kept = req->file >= 0;

    io_uring_prep_rw(IORING_OP_URING_CMD, sqe, kept ? req->file : req->fd, req->iov, req->n, 0);
    sqe->flags = kept ? IOSQE_FIXED_FILE : 0;
    sqe->cmd_op = req->flags;
    memcpy(sqe->cmd, req->area, AIO_COMMAND_AREA);
}

static void prep_request(struct io_uring_sqe *sqe, AioRequest *req)
{
    switch (req->op) {
    case AIO_OP_READ:
    case AIO_OP_WRITE:
        if (req->buffer) {
            prep_rw_kept(sqe, req);
        } else {
            prep_rw(sqe, req);
        }
        break;
    case AIO_OP_FSYNC:
        io_uring_prep_fsync(sqe, req->fd, req->flags ? IORING_FSYNC_DATASYNC : 0);
        break;
    case AIO_OP_FALLOCATE:
        io_uring_prep_fallocate(sqe, req->fd, req->flags, req->offset, req->bytes);
        break;
    case AIO_OP_NOP:
        io_uring_prep_nop(sqe);
        break;
    case AIO_OP_COMMAND:
        prep_command(sqe, req);
        break;
    }
    set_user_data(sqe, req, TAG_REQUEST);
}

static void uring_submit(AioContext *ctx, AioRequest *req)
{
    UringState *s = ctx->backend;
    struct io_uring_sqe *sqe = s->waiting ? NULL : get_sqe(s);
    uint64_t max_batch = __atomic_load_n(&ctx->max_batch, __ATOMIC_RELAXED);

    if (!sqe) {
        req->next = NULL;
        *s->waiting_tail = req;
        s->waiting_tail = &req->next;
        return;
    }
    prep_request(sqe, req);
    if (max_batch && io_uring_sq_ready(&s->ring) >= max_batch) {
        io_uring_submit(&s->ring);
    }
}

/* Queue what waited for room in the ring. Returns false if there is not enough. */
static bool queue_waiting(UringState *s)
{
    while (s->waiting) {
        AioRequest *req = s->waiting;
        struct io_uring_sqe *sqe = get_sqe(s);

        if (!sqe) {
            return false;
        }
        s->waiting = req->next;
        if (!s->waiting) {
            s->waiting_tail = &s->waiting;
        }
        prep_request(sqe, req);
    }
    return true;
}

static bool queue_wake(AioContext *ctx, UringState *s)
{
    struct io_uring_sqe *sqe;

    if (s->wake_armed) {
        return true;
    }
    sqe = get_sqe(s);
    if (!sqe) {
        return false;
    }
    io_uring_prep_read(sqe, ctx->wake_fd, &s->wake_value, sizeof(s->wake_value), 0);
    set_user_data(sqe, NULL, TAG_WAKE);
    s->wake_armed = true;
    return true;
}

static bool queue_cancels(UringState *s)
{
    for (GList *l = s->orphans.head; l && s->uncancelled; l = l->next) {
        UringPoll *poll = l->data;
        struct io_uring_sqe *sqe;

        if (poll->cancelled) {
            continue;
        }
        sqe = get_sqe(s);
        if (!sqe) {
            return false;
        }
        io_uring_prep_poll_remove(sqe, (uintptr_t)poll | TAG_POLL);
        set_user_data(sqe, NULL, TAG_IGNORE);
        poll->cancelled = true;
        s->uncancelled--;
    }
    return true;
}

static void prepare_poll(struct io_uring_sqe *sqe, const UringPoll *poll)
{
    if (poll->stand_in >= 0) {
        io_uring_prep_poll_add(sqe, poll->stand_in, POLLIN);
    } else {
        io_uring_prep_poll_add(sqe, poll->watch->fd, (unsigned short)poll->watch->events);
    }
}

/* Arm all watches that wait for it, but for those that are being probed if @probing. */
static bool queue_polls(UringState *s, bool probing)
{
    GList *next;

    for (GList *l = s->unarmed.head; l; l = next) {
        UringPoll *poll = l->data;
        struct io_uring_sqe *sqe;

        next = l->next;
        if (probing && poll->watch->probed) {
            continue;
        }
        sqe = get_sqe(s);
        if (!sqe) {
            return false;
        }
        prepare_poll(sqe, poll);
        set_user_data(sqe, poll, TAG_POLL);
        g_queue_unlink(&s->unarmed, l);
        poll->queued = false;
        poll->armed = true;
    }
    return true;
}

/* Fill the ring with all that is due, in order. Returns false if it did not take everything. */
static bool queue_all(AioContext *ctx, bool probing)
{
    UringState *s = ctx->backend;
    bool all = queue_cancels(s);

    all = queue_wake(ctx, s) && all;
    all = queue_polls(s, probing) && all;
    return queue_waiting(s) && all;
}

/*
 * Whether the kernel may have completions that only show when it is entered.
 *
 * That there is work for it to do is no more than a hint: the kernel sets the flag after it has
 * queued the work, so the flag may stay when the work has long been done, until there is more. A
 * flag that was found stale is believed only once in STALE_LOOKS looks.
 */
static bool needs_enter(UringState *s)
{
    unsigned flags = IO_URING_READ_ONCE(*s->ring.sq.kflags);

    if (flags & IORING_SQ_CQ_OVERFLOW) {
        return true;
    }
    if (!(flags & IORING_SQ_TASKRUN)) {
        s->stale = 0;
        return false;
    }
    return s->stale == 0 || s->stale++ % STALE_LOOKS == 0;
}

/* Submit what is queued, and have the kernel do what it has to do for there to be completions. */
static void enter(UringState *s)
{
    bool standing;

    io_uring_submit_and_get_events(&s->ring);
    standing = IO_URING_READ_ONCE(*s->ring.sq.kflags) & IORING_SQ_TASKRUN;
    if (io_uring_cq_ready(&s->ring) || !standing) {
        s->stale = 0;
    } else if (s->stale == 0) {
        s->stale = 1;
    }
}

static void uring_flush(AioContext *ctx, bool probing)
{
    UringState *s = ctx->backend;

    queue_all(ctx, probing);
    if (io_uring_sq_ready(&s->ring)) {
        io_uring_submit(&s->ring);
    }
}

static void uring_wait(AioContext *ctx, int64_t timeout_ns, bool probing)
{
    UringState *s = ctx->backend;
    struct io_uring_cqe *cqe;

    if (!queue_all(ctx, probing)) {
        timeout_ns = 0; /* there will be room once completions have been taken */
    }
    if (timeout_ns < 0) {
        io_uring_submit_and_wait(&s->ring, 1);
    } else if (timeout_ns > 0) {
        struct __kernel_timespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};

        io_uring_submit_and_wait_timeout(&s->ring, &cqe, 1, &ts, NULL);
    } else if (io_uring_sq_ready(&s->ring) || needs_enter(s)) {
        enter(s);
    }
}

static bool uring_peek(AioContext *ctx)
{
    UringState *s = ctx->backend;

    if (!io_uring_cq_ready(&s->ring) && needs_enter(s)) {
        enter(s);
    }
    return io_uring_cq_ready(&s->ring);
}

static bool uring_settled(AioContext *ctx)
{
    UringState *s = ctx->backend;

    /* With DEFER_TASKRUN nothing is completed but when the ring is entered. */
    return (s->ring.flags & IORING_SETUP_DEFER_TASKRUN) && !s->waiting &&
           !io_uring_sq_ready(&s->ring) && !io_uring_cq_ready(&s->ring) &&
           !(IO_URING_READ_ONCE(*s->ring.sq.kflags) & IORING_SQ_CQ_OVERFLOW);
}

static bool table_init(UringState *s)
{
    s->file_table = s->file_table || io_uring_register_files_sparse(&s->ring, KEPT_FILES) == 0;
    return s->file_table;
}

static int uring_file_keep(AioContext *ctx, int fd)
{
    UringState *s = ctx->backend;
    int file = __builtin_ffsll(~s->kept_files) - 1;

    if (file < 0 || !table_init(s) || io_uring_register_files_update(&s->ring, file, &fd, 1) != 1) {
        return -1;
    }
    s->kept_files |= UINT64_C(1) << file;
    return file;
}

static void uring_file_forget(AioContext *ctx, int file)
{
    UringState *s = ctx->backend;
    int none = -1;

    io_uring_register_files_update(&s->ring, file, &none, 1);
    s->kept_files &= ~(UINT64_C(1) << file);
}

/* Returns 0 or -errno. */
static int buffer_table_init(UringState *s)
{
    int r;

    if (s->spare_buffers) {
        return 0;
    }
    r = io_uring_register_buffers_sparse(&s->ring, KEPT_BUFFERS);
    if (r < 0) {
        return r;
    }
    s->spare_buffers = g_new(uint16_t, KEPT_BUFFERS);
    while (s->n_spare_buffers < KEPT_BUFFERS) {
        s->spare_buffers[s->n_spare_buffers] = s->n_spare_buffers;
        s->n_spare_buffers++;
    }
    return 0;
}

/* Returns 0 or -errno. */
static int buffer_table_set(UringState *s, int number, const struct iovec *iov)
{
    int r = io_uring_register_buffers_update_tag(&s->ring, number, iov, NULL, 1);

    return r < 0 ? r : 0;
}

static int uring_buffer_keep(AioContext *ctx, int number, const struct iovec *iov)
{
    UringState *s = ctx->backend;
    bool fresh = number < 0;
    int r = buffer_table_init(s);

    if (r < 0) {
        return r;
    }
    if (fresh && s->n_spare_buffers == 0) {
        return -ENOSPC;
    }
    number = fresh ? s->spare_buffers[s->n_spare_buffers - 1] : number;
    r = buffer_table_set(s, number, iov);
    if (r < 0) {
        return r;
    }
    s->n_spare_buffers -= fresh;
    return number;
}

static void uring_buffer_forget(AioContext *ctx, int number)
{
    const struct iovec none = {NULL, 0};
    UringState *s = ctx->backend;

    buffer_table_set(s, number, &none);
    s->spare_buffers[s->n_spare_buffers++] = number;
}

static int uring_fd(AioContext *ctx)
{
    return ((UringState *)ctx->backend)->ring.ring_fd;
}

/* Watches */

static void poll_queue(UringState *s, UringPoll *poll)
{
    g_queue_push_tail_link(&s->unarmed, &poll->link);
    poll->queued = true;
}

static void poll_new(UringState *s, AioWatch *watch)
{
    UringPoll *poll = g_new0(UringPoll, 1);

    poll->watch = watch;
    poll->stand_in = -1;
    poll->link.data = poll;
    watch->backend = poll;
    if (watch->events) {
        poll_queue(s, poll);
    }
}

static void poll_free(UringPoll *poll)
{
    if (poll->stand_in >= 0) {
        close(poll->stand_in);
    }
    g_free(poll);
}

/*
 * io_uring reports, asked or not, that the peer sends no more, and does so again each time a poll
 * request is armed. Where that is not what is waited for, an epoll instance, which reports no more
 * than it is asked for, is polled instead. Without one it goes on as it is: busily.
 */
static void poll_take_stand_in(UringPoll *poll)
{
    struct epoll_event event = {.events = (unsigned short)poll->watch->events};

    poll->stand_in = epoll_create1(EPOLL_CLOEXEC);
    if (poll->stand_in >= 0 &&
        epoll_ctl(poll->stand_in, EPOLL_CTL_ADD, poll->watch->fd, &event) < 0) {
        close(poll->stand_in);
        poll->stand_in = -1;
    }
}

/* What there is of what is waited for; @res as the poll request has told. */
static short poll_revents(const UringPoll *p, int res)
{
    struct pollfd pfd = {.fd = p->watch->fd, .events = p->watch->events};

    if (res < 0) {
        return 0;
    }
    if (p->stand_in >= 0) {
        return poll(&pfd, 1, 0) > 0 ? pfd.revents : 0;
    }
    return (short)(res & (p->watch->events | POLLERR | POLLHUP));
}

/* Part @poll from its watch. Returns whether it is in flight and has to be cancelled. */
static bool poll_release(UringState *s, UringPoll *poll)
{
    if (poll->armed) {
        poll->watch = NULL;
        g_queue_push_tail_link(&s->orphans, &poll->link);
        s->uncancelled++;
        return true;
    }
    if (poll->queued) {
        g_queue_unlink(&s->unarmed, &poll->link);
    }
    poll_free(poll);
    return false;
}

static void uring_watch_added(AioWatch *watch)
{
    poll_new(watch->ctx->backend, watch);
}

static void uring_watch_changed(AioWatch *watch)
{
    UringState *s = watch->ctx->backend;

    poll_release(s, watch->backend);
    poll_new(s, watch);
}

/* The caller may close the descriptor next, so make the kernel let go of it now. */
static void uring_watch_removed(AioWatch *watch)
{
    UringState *s = watch->ctx->backend;

    if (poll_release(s, watch->backend)) {
        queue_cancels(s);
        io_uring_submit_and_get_events(&s->ring);
    }
}

/* Completion */

static void poll_completed(UringState *s, UringPoll *poll, int res)
{
    AioWatch *watch = poll->watch;
    short revents;

    poll->armed = false;
    if (!watch) {
        g_queue_unlink(&s->orphans, &poll->link);
        s->uncancelled -= !poll->cancelled;
        poll_free(poll);
        return;
    }
    if (res < 0 && res != -ECANCELED && res != -EINTR) {
        g_warning("cannot watch descriptor %d: %s", watch->fd, g_strerror(-res));
        return;
    }
    poll_queue(s, poll);
    revents = poll_revents(poll, res);
    if (!revents && res > 0 && (res & POLLRDHUP) && poll->stand_in < 0) {
        poll_take_stand_in(poll);
    }
    if (revents) {
        aio_watch_call(watch, revents); /* may free any watch */
    }
}

static void completed(UringState *s, uint64_t user_data, int res)
{
    void *pointer = (void *)(uintptr_t)(user_data & ~(uint64_t)TAG_MASK);
    AioRequest *req;

    switch (user_data & TAG_MASK) {
    case TAG_REQUEST:
        req = pointer;
        req->ret = res;
        if (req->co) {
            coroutine_enter(req->co);
        } else {
            aio_command_completed(req);
        }
        break;
    case TAG_POLL:
        poll_completed(s, pointer, res);
        break;
    case TAG_WAKE:
        s->wake_armed = false;
        break;
    default:
        break;
    }
}

static bool uring_dispatch(AioContext *ctx)
{
    UringState *s = ctx->backend;
    unsigned n = io_uring_cq_ready(&s->ring);
    struct io_uring_cqe *cqe;
    bool progress = n > 0;

    /* Callbacks may enter the kernel and thereby add completions: those are for the next turn. */
    while (n-- > 0 && io_uring_peek_cqe(&s->ring, &cqe) == 0) {
        uint64_t user_data = cqe->user_data;
        int res = cqe->res;

        io_uring_cqe_seen(&s->ring, cqe);
        completed(s, user_data, res);
    }
    return progress;
}

/* Life */

/*
 * From what serves best to what every io_uring can. With DEFER_TASKRUN completions wait until the
 * ring is entered, and the kernel does not tell who waits for the ring in poll(): not for GLib.
 * Submissions of 128 bytes are what commands need; all others leave their second half alone, and
 * then it costs nothing but memory.
 */
#define SETUP_BARE                                                                                 \
    (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |         \
     IORING_SETUP_R_DISABLED | IORING_SETUP_SQE128)
#define SETUP_POLLED (IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SQE128)

static int ring_setup(struct io_uring *ring, bool polled)
{
    static const unsigned flags[] = {SETUP_BARE, SETUP_POLLED, 0};
    int r = -EINVAL;

    for (unsigned i = polled; i < G_N_ELEMENTS(flags) && r == -EINVAL; i++) {
        struct io_uring_params params = {
            .flags = flags[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
            .cq_entries = CQ_ENTRIES,
        };

        r = io_uring_queue_init_params(SQ_ENTRIES, ring, &params);
    }
    return r;
}

/* Whether the kernel can do all that this file asks of it. */
static bool ring_suffices(struct io_uring *ring)
{
    static const unsigned features = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE |
                                     IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG;
    static const int ops[] = {
        IORING_OP_NOP,       IORING_OP_READ,     IORING_OP_READV,
        IORING_OP_WRITE,     IORING_OP_WRITEV,   IORING_OP_FSYNC,
        IORING_OP_FALLOCATE, IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE,
    };
    struct io_uring_probe *probe;
    bool ok = (ring->features & features) == features;

    probe = io_uring_get_probe_ring(ring);
    if (!probe) {
        return false;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(ops); i++) {
        ok = ok && io_uring_opcode_supported(probe, ops[i]);
    }
    io_uring_free_probe(probe);
    return ok;
}

static void note_commands(AioContext *ctx, UringState *s)
{
    struct io_uring_probe *probe = io_uring_get_probe_ring(&s->ring);
    bool takes = (s->ring.flags & IORING_SETUP_SQE128) && probe &&
                 io_uring_opcode_supported(probe, IORING_OP_URING_CMD);

    io_uring_free_probe(probe);
    __atomic_store_n(&ctx->takes_commands, takes, __ATOMIC_RELAXED);
}

static bool uring_init(AioContext *ctx, GError **error)
{
    g_autofree UringState *s = g_new0(UringState, 1);
    int r = ring_setup(&s->ring, false);

    if (r < 0) {
        wharf_set_error_errno(error, -r, "the kernel offers no io_uring");
        return false;
    }
    if (!ring_suffices(&s->ring)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "the kernel's io_uring is too old or restricted");
        io_uring_queue_exit(&s->ring);
        return false;
    }
    note_commands(ctx, s);
    g_queue_init(&s->unarmed);
    g_queue_init(&s->orphans);
    s->waiting_tail = &s->waiting;
    ctx->backend = g_steal_pointer(&s);
    return true;
}

static void uring_fini(AioContext *ctx)
{
    UringState *s = ctx->backend;
    GList *l;

    io_uring_queue_exit(&s->ring);
    while ((l = g_queue_pop_head_link(&s->orphans))) {
        poll_free(l->data);
    }
    g_free(s->spare_buffers);
    g_free(s);
}

/* Take a ring that poll() can wait for, before the first one has been used. */
static void ring_exchange(UringState *s)
{
    struct io_uring polled;
    int r = ring_setup(&polled, true);

    if (r < 0) {
        g_error("cannot set up an io_uring: %s", g_strerror(-r));
    }
    io_uring_queue_exit(&s->ring);
    s->ring = polled;
}

static void uring_bind(AioContext *ctx, bool polled)
{
    UringState *s = ctx->backend;

    if (!(s->ring.flags & IORING_SETUP_R_DISABLED)) {
        return;
    }
    if (polled) {
        ring_exchange(s);
        note_commands(ctx, s);
        return;
    }
    /*
     * Whoever enables the ring becomes its one issuer. Not by io_uring_enable_rings(): liburing 2.3
     * declares but does not export it.
     */
    if (io_uring_register(s->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0) {
        g_error("cannot enable an io_uring");
    }
    /* Saves looking the descriptor up each time it is entered; where it fails, that is done. */
    io_uring_register_ring_fd(&s->ring);
}

const AioBackendOps aio_backend_uring = {
    .name = "io_uring",
    .init = uring_init,
    .fini = uring_fini,
    .bind = uring_bind,
    .wait = uring_wait,
    .dispatch = uring_dispatch,
    .peek = uring_peek,
    .flush = uring_flush,
    .fd = uring_fd,
    .watch_added = uring_watch_added,
    .watch_changed = uring_watch_changed,
    .watch_removed = uring_watch_removed,
    .submit = uring_submit,
    .settled = uring_settled,
    .file_keep = uring_file_keep,
    .file_forget = uring_file_forget,
    .buffer_keep = uring_buffer_keep,
    .buffer_forget = uring_buffer_forget,
};
