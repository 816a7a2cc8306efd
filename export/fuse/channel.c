/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Transport "dev": requests are read from /dev/fuse into buffers of the queue's pool, each is
 * served by a coroutine of its own, and the answer goes from the same buffer to the same
 * descriptor.
 *
 * A buffer is one mapping: the request's own state and the head of its message share the first
 * page, and the data of a WRITE, or that for a READ's answer, begins with the second. So data is
 * aligned to a page without being moved, and memory is used as far as a request needs it. The head
 * of a READ's answer takes the place of the request's arguments, just before the data: so one plain
 * write sends both. The kernel may keep the part for data at hand for the node's direct I/O.
 *
 *     | FuseRequest ...          | in_header, write_in | data ...                      |
 *     0                    PAGE - 80               PAGE              PAGE + FUSE_INIT_MAX_IO
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "export/fuse/fuse-internal.h"
#include "util/error.h"

#define CHANNEL_DEVICE       "/dev/fuse"
#define CHANNEL_PAGE         4096
#define CHANNEL_HEAD         (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
#define CHANNEL_MAPPING      (CHANNEL_PAGE + FUSE_INIT_MAX_IO)
#define CHANNEL_BATCH        32 /* requests begun before other work of the context gets its turn */
#define CHANNEL_ROUND        8  /* of these, so many are read, then begun, then answered */
#define CHANNEL_ROUND_BYTES  (64 * 1024) /* longer messages make a round shorter */
#define CHANNEL_MAX_REQUESTS 256         /* in flight in one queue */
#define CHANNEL_TRIM_NS      (1000 * G_GINT64_CONSTANT(1000000))

/* Reads that may fail one after the other before the connection is given up. */
#define CHANNEL_MAX_FAILURES 100

/* Messages the kernel still has for a connection that is to be closed, at most. */
#define CHANNEL_MAX_REFUSED 4096

struct FuseRequest {
    FuseQueue *queue;
    FuseRequest *next;  /* in the list of free or active ones */
    FuseRequest **link; /* what points to an active one */
    const FuseOperation *operation;
    bool answered;   /* before its end: cut off, or its client was killed */
    bool slow;       /* the timer has seen it */
    size_t bytes;    /* of the message */
    int ret;         /* of the operation, once it has ended */
    AioBuffer *kept; /* for data; NULL: made while the queue was stopped */
    FuseRequest *next_ended;
    FuseCall call;
};

G_STATIC_ASSERT(sizeof(FuseRequest) + CHANNEL_HEAD <= CHANNEL_PAGE);
G_STATIC_ASSERT(sizeof(struct fuse_in_header) + sizeof(struct fuse_out_header) <= CHANNEL_HEAD);

static void *request_message(FuseRequest *req)
{
    return (char *)req + CHANNEL_PAGE - CHANNEL_HEAD;
}

static void *request_data(FuseRequest *req)
{
    return (char *)req + CHANNEL_PAGE;
}

int fuse_channel_clone(int fd, GError **error)
{
    uint32_t source = fd;
    int clone = open(CHANNEL_DEVICE, O_RDWR | O_CLOEXEC | O_NONBLOCK);

    if (clone >= 0 && ioctl(clone, FUSE_DEV_IOC_CLONE, &source) == 0) {
        return clone;
    }
    if (clone >= 0) {
        close(clone);
    }
    clone = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (clone < 0) {
        wharf_set_error_errno(error, errno, "cannot make a further channel of the FUSE connection");
    }
    return clone;
}

/* The pool */

static bool channel_runs(const FuseChannel *channel)
{
    return channel->trim_timer;
}

static FuseRequest *channel_grow(FuseQueue *queue)
{
    FuseChannel *channel = &queue->channel;
    FuseRequest *req;

    if (channel->n_requests == CHANNEL_MAX_REQUESTS) {
        return NULL;
    }
    req = aio_buffer_map(CHANNEL_MAPPING);
    if (!req) {
        return NULL;
    }
    req->queue = queue;
    if (channel_runs(channel)) {
        req->kept = aio_buffer_new(request_data(req), FUSE_INIT_MAX_IO);
    }
    channel->n_requests++;
    return req;
}

static FuseRequest *channel_take(FuseQueue *queue)
{
    FuseChannel *channel = &queue->channel;
    FuseRequest *req = channel->free;

    if (!req) {
        return channel_grow(queue);
    }
    channel->free = req->next;
    return req;
}

static void request_free(FuseChannel *channel, FuseRequest *req)
{
    aio_buffer_free(req->kept);
    munmap(req, CHANNEL_MAPPING);
    channel->n_requests--;
}

/* A queue that is stopped keeps none: its context is to have forgotten them all. */
static void channel_give(FuseChannel *channel, FuseRequest *req)
{
    if (!channel_runs(channel)) {
        request_free(channel, req);
        return;
    }
    req->next = channel->free;
    channel->free = req;
}

static void channel_free_requests(FuseChannel *channel)
{
    while (channel->free) {
        FuseRequest *req = channel->free;

        channel->free = req->next;
        request_free(channel, req);
    }
}

static void channel_resume(FuseChannel *channel)
{
    if (channel->paused && channel->watch) {
        channel->paused = false;
        aio_watch_set_events(channel->watch, POLLIN);
    }
}

/* Answers */

/* Failures mean that the kernel has given up the request or the connection: nobody waits any more.
 */
static void channel_write(FuseChannel *channel, const void *answer, size_t bytes)
{
    while (write(channel->fd, answer, bytes) < 0 && errno == EINTR) {
    }
}

static void channel_answer_error(FuseChannel *channel, uint64_t unique, int err)
{
    struct fuse_out_header header = {.len = sizeof(header), .error = err, .unique = unique};

    channel_write(channel, &header, sizeof(header));
}

/* Where the head of an answer goes, in one piece with what follows it. */
static struct fuse_out_header *request_answer_header(FuseRequest *req)
{
    FuseCall *call = &req->call;

    if (!call->data_bytes) {
        return &call->out.header;
    }
    /* No answer has both, and data is where there was room for it. */
    g_assert(!call->out_bytes && call->payload == request_data(req));
    return (struct fuse_out_header *)request_data(req) - 1;
}

void fuse_channel_void_attributes(FuseQueue *queue)
{
    const struct {
        struct fuse_out_header header;
        struct fuse_notify_inval_inode_out inval;
    } notice = {
        .header = {.len = sizeof(notice), .error = FUSE_NOTIFY_INVAL_INODE},
        /* A negative offset: attributes only. See fuse_told_of_change() on pages. */
        .inval = {.ino = fuse_node_id((FuseExport *)queue->common.exp), .off = -1},
    };

    if (!__atomic_load_n(&((FuseExport *)queue->common.exp)->opened, __ATOMIC_RELAXED)) {
        return;
    }
    if (queue->channel.fd >= 0 && write(queue->channel.fd, &notice, sizeof(notice)) < 0) {
        g_debug("%s: cannot tell the kernel of a change: %s", queue->common.exp->user,
                g_strerror(errno));
    }
}

static void request_answer(FuseRequest *req, int ret)
{
    FuseCall *call = &req->call;
    FuseChannel *channel = &req->queue->channel;
    struct fuse_out_header *header;

    if (req->answered || (req->operation && req->operation->flags & FUSE_OPERATION_NO_REPLY)) {
        return;
    }
    if (ret < 0) {
        channel_answer_error(channel, call->in->unique, ret);
        return;
    }
    header = request_answer_header(req);
    *header = (struct fuse_out_header){
        .len = sizeof(*header) + call->out_bytes + call->data_bytes,
        .unique = call->in->unique,
    };
    channel_write(channel, header, header->len);
}

/*
 * A client that is killed waits for its answer all the same, once we have the request. Where that
 * changes nothing, it gets one, for nobody is to see it, and the request runs on in its buffer. Not
 * a write: it could arrive after what others have written since. The kernel would tell of signals
 * (INTERRUPT), but of any, also of those that a program goes on after, and of the first one only.
 */
static void request_release_killed(FuseRequest *req)
{
    if (req->answered || !(req->operation->flags & FUSE_OPERATION_HARMLESS)) {
        return;
    }
    if (req->slow && fuse_client_is_killed(req->call.in->pid)) {
        request_answer(req, -EINTR);
        req->answered = true;
    }
    req->slow = true;
}

static void channel_release_killed(FuseChannel *channel)
{
    for (FuseRequest *req = channel->active; req; req = req->next) {
        request_release_killed(req);
    }
}

static void channel_trim(void *opaque)
{
    FuseChannel *channel = opaque;

    if (!channel->used) {
        channel_free_requests(channel);
    }
    channel->used = false;
    channel_release_killed(channel);
    /* If there was no memory for any buffer, no request that ends will do it. */
    channel_resume(channel);
    if (channel->n_requests) {
        aio_timer_arm(channel->trim_timer, aio_now_ns() + CHANNEL_TRIM_NS);
    }
}

/* Requests */

/* Its operation has ended with req->ret. */
static void request_end(FuseRequest *req)
{
    FuseQueue *queue = req->queue;

    request_answer(req, req->ret);
    *req->link = req->next;
    if (req->next) {
        req->next->link = req->link;
    }
    channel_give(&queue->channel, req);
    channel_resume(&queue->channel);
    export_request_end(&queue->common);
}

static void co_fn request_co_run(void *opaque)
{
    FuseRequest *req = opaque;
    FuseQueue *queue = req->queue;
    FuseChannel *channel = &queue->channel;

    export_request_begin(&queue->common);
    req->ret = fuse_call_co_serve(queue, req->operation, &req->call);
    if (channel->ended) {
        req->next_ended = NULL;
        *channel->ended = req;
        channel->ended = &req->next_ended;
    } else {
        request_end(req);
    }
}

/* A message has been read into @req. */
static void request_begin(FuseRequest *req)
{
    FuseQueue *queue = req->queue;
    FuseChannel *channel = &queue->channel;
    FuseExport *fe = (FuseExport *)queue->common.exp;
    int err;

    req->answered = req->slow = false;
    req->operation =
        fuse_call_parse(&req->call, fe, request_message(req), req->bytes, request_data(req), &err);
    if (!req->operation) {
        if (err) {
            request_answer(req, err);
        }
        channel_give(channel, req);
        return;
    }
    req->next = channel->active;
    req->link = &channel->active;
    if (req->next) {
        req->next->link = &req->next;
    }
    channel->active = req;
    coroutine_enter(coroutine_create(request_co_run, req));
}

/* The connection has ended: no more comes from it. */
static void channel_lost(FuseQueue *queue, int err)
{
    FuseExport *fe = (FuseExport *)queue->common.exp;

    g_clear_pointer(&queue->channel.watch, aio_watch_free);
    if (__atomic_exchange_n(&fe->lost, err, __ATOMIC_SEQ_CST) ||
        __atomic_load_n(&fe->leaving, __ATOMIC_SEQ_CST)) {
        return;
    }
    if (err != ENODEV && err != ECONNABORTED) {
        g_warning("%s: reading requests failed: %s", queue->common.exp->user, g_strerror(err));
    }
    export_lost(queue->common.exp, err == ENODEV ? BLOCK_EXPORT_END_REASON_UNMOUNTED
                                                 : BLOCK_EXPORT_END_REASON_ABORTED);
}

/* Whether only the one request is lost, for want of memory: the kernel has answered it itself. */
static bool channel_survives(FuseQueue *queue, int err)
{
    FuseChannel *channel = &queue->channel;

    if ((err != ENOMEM && err != EFAULT && err != EIO) ||
        channel->failures == CHANNEL_MAX_FAILURES) {
        return false;
    }
    if (channel->failures++ == 0) {
        g_warning("%s: a request could not be read: %s", queue->common.exp->user, g_strerror(err));
    }
    return true;
}

/* Read one message into @req. 0 or -errno. */
static int channel_read(FuseQueue *queue, FuseRequest *req)
{
    FuseChannel *channel = &queue->channel;
    ssize_t n;

    do {
        n = read(channel->fd, request_message(req), CHANNEL_HEAD + FUSE_INIT_MAX_IO);
        /* ENOENT: the request was taken back while it was on its way. */
    } while (n < 0 && (errno == EINTR || errno == ENOENT || channel_survives(queue, errno)));
    if (n < 0) {
        return -errno;
    }
    channel->failures = 0;
    req->bytes = n;
    /* Nothing at all is what no kernel sends: the other side has gone. */
    return n == 0 ? -ENODEV : 0;
}

/*
 * Read one message into *@req, of the pool. 0 or -errno: -EAGAIN if there is none, -ENOBUFS if
 * there is nothing to put it in. Then the queue pauses.
 */
static int channel_fetch(FuseQueue *queue, FuseRequest **req)
{
    FuseChannel *channel = &queue->channel;
    FuseRequest *taken = channel_take(queue);
    int ret;

    if (!taken) {
        channel->paused = true;
        aio_watch_set_events(channel->watch, 0);
        return -ENOBUFS;
    }
    ret = channel_read(queue, taken);
    if (ret < 0) {
        channel_give(channel, taken);
        return ret;
    }
    *req = taken;
    return 0;
}

/* Read up to @max messages into @requests. Returns how many; *@ret says what has ended it. */
static unsigned channel_gather(FuseQueue *queue, FuseRequest *requests[], unsigned max, int *ret)
{
    size_t bytes = 0;
    unsigned n = 0;

    if (queue->channel.probed) {
        requests[n++] = g_steal_pointer(&queue->channel.probed);
    }
    *ret = 0;
    while (n < max && bytes < CHANNEL_ROUND_BYTES) {
        *ret = channel_fetch(queue, &requests[n]);
        if (*ret < 0) {
            break;
        }
        bytes += requests[n++]->bytes;
    }
    return n;
}

/*
 * One round: read up to @max requests, begin them, then answer those that have ended by then. A
 * client that keeps several in flight is woken once by such answers, and then finds them all.
 */
static unsigned channel_round(FuseQueue *queue, unsigned max, int *ret)
{
    FuseChannel *channel = &queue->channel;
    FuseRequest *requests[CHANNEL_ROUND];
    unsigned n = channel_gather(queue, requests, max, ret);
    FuseRequest *ended = NULL;

    channel->ended = &ended;
    for (unsigned i = 0; i < n; i++) {
        request_begin(requests[i]);
    }
    channel->ended = NULL;
    while (ended) {
        FuseRequest *req = ended;

        ended = req->next_ended;
        request_end(req);
    }
    return n;
}

/* In the context's busy-wait: asking is as dear as reading, so read. */
static bool channel_probe(void *opaque)
{
    FuseQueue *queue = opaque;
    FuseChannel *channel = &queue->channel;
    FuseRequest *req;
    int ret;

    if (channel->probed) {
        return true;
    }
    req = channel_take(queue);
    if (!req) {
        return false;
    }
    ret = channel_read(queue, req);
    if (ret < 0) {
        channel_give(channel, req);
        return ret != -EAGAIN;
    }
    channel->probed = req;
    return true;
}

static void channel_ready(void *opaque, short revents)
{
    FuseQueue *queue = opaque;
    FuseChannel *channel = &queue->channel;
    unsigned left = CHANNEL_BATCH;
    unsigned max = 1; /* the first waits for no other */
    int ret = 0;

    while (left && ret == 0 && channel->watch) {
        left -= channel_round(queue, MIN(max, left), &ret);
        max = CHANNEL_ROUND;
    }
    if (ret < 0 && ret != -EAGAIN && ret != -ENOBUFS) {
        channel_lost(queue, -ret);
    }
    if (!channel->used && channel->watch) {
        channel->used = true;
        aio_timer_arm(channel->trim_timer, aio_now_ns() + CHANNEL_TRIM_NS);
    }
}

void fuse_channel_begin(FuseQueue *queue)
{
    FuseChannel *channel = &queue->channel;
    AioContext *ctx = queue->common.ctx;

    channel->trim_timer = aio_timer_new(ctx, channel_trim, channel);
    if (channel->active) {
        aio_timer_arm(channel->trim_timer, aio_now_ns() + CHANNEL_TRIM_NS);
    }
    /* Beside rings, what comes here is rare. */
    channel->watch = aio_watch_new(ctx, channel->fd, POLLIN, channel_ready,
                                   queue->uring ? NULL : channel_probe, queue);
}

/* Fail what the kernel still has for us, so that its clients see ENOTCONN and not ECONNABORTED. */
static void channel_refuse_rest(FuseQueue *queue)
{
    FuseChannel *channel = &queue->channel;
    FuseRequest *req = channel_take(queue);

    for (unsigned i = 0; req && i < CHANNEL_MAX_REFUSED; i++) {
        const struct fuse_in_header *in = request_message(req);

        if (channel_read(queue, req) < 0 || req->bytes < sizeof(*in)) {
            break;
        }
        if (in->opcode != FUSE_FORGET && in->opcode != FUSE_BATCH_FORGET) {
            channel_answer_error(channel, in->unique, -ENOTCONN);
        }
    }
    if (req) {
        channel_give(channel, req);
    }
}

/* Fail what has begun. The requests run on, but nobody waits for them. */
static void channel_cut(FuseQueue *queue)
{
    FuseChannel *channel = &queue->channel;

    if (channel->fd < 0) {
        return;
    }
    for (FuseRequest *req = channel->active; req; req = req->next) {
        request_answer(req, -ENOTCONN);
        req->answered = true;
    }
    channel_refuse_rest(queue);
    close(channel->fd);
    channel->fd = -1;
}

void fuse_channel_stop(FuseQueue *queue, bool cut)
{
    FuseChannel *channel = &queue->channel;
    FuseRequest *probed = g_steal_pointer(&channel->probed);

    /* The kernel has handed this one over, so it counts as begun. */
    if (probed) {
        request_begin(probed);
    }
    g_clear_pointer(&channel->watch, aio_watch_free);
    g_clear_pointer(&channel->trim_timer, aio_timer_free);
    channel_free_requests(channel);
    if (cut) {
        channel_cut(queue);
    }
}

void fuse_channel_close(FuseQueue *queue)
{
    channel_cut(queue);
    g_assert(queue->channel.n_requests == 0);
}
