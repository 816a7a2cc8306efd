/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The transmission with one client, in the context of one queue.
 *
 * What comes is received into a buffer, many small requests at once; the payload of a write goes
 * straight into the request's own buffer where it is not there yet. Each request is served by a
 * coroutine of its own, which for a large write may go to another queue's context and come back.
 * Answers that are ready at the same time go out in one call.
 *
 * A client gets no further request begun while it has too many or too large ones in flight, or
 * while it does not take its answers; so what it makes us keep is bounded. When it has nothing more
 * to say, all that it has said is answered before the connection ends, if it takes the answers.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "export/nbd/nbd-internal.h"

#define CONN_INPUT     (64 * 1024)
#define CONN_MAX_CALLS 256                /* in flight, answers that are not sent included */
#define CONN_MAX_COST  (32 * 1024 * 1024) /* bytes of their buffers; one more may exceed it */
#define CONN_ROUND     16                 /* answers after which the client gets them at once */
#define CONN_ROUND_OUT (64 * 1024)        /* the same for their bytes */
#define CONN_BATCH     256 /* requests taken before other work of the context gets its turn */
#define CONN_BULK      (256 * 1024)  /* of payload: a client that writes so much at once goes on */
#define CONN_RECEIVES  16            /* the same as CONN_BATCH for what is received */
#define CONN_MAX_IOV   256           /* of one system call */
#define CONN_MAX_DRAIN (1024 * 1024) /* bytes of input thrown away at the end */
#define CONN_BYE_NS    (1000 * G_GINT64_CONSTANT(1000000)) /* for the end of TLS */

/*
 * Where another context takes longer than that, in nanoseconds, to begin with a request that it has
 * been given, so many large writes are done without it.
 */
#define CONN_HELP_NS_MAX G_GINT64_CONSTANT(300000)
#define CONN_UNHELPED    64

/* Of so many large writes one is looked at, how the node does it. */
#define CONN_SAMPLE_EVERY 64

struct NbdConnection {
    NbdQueue *queue;
    NbdExport *ne;
    NbdSeat *seat;
    NbdTerms terms;
    uint32_t *context_ids;
    BlockClient client;
    GList link; /* in queue->active */

    int fd;
    AioWatch *watch; /* NULL: closed. TLS has its own for reading and writing */
    AioBh *kick;     /* see conn_on_kick() */
    bool closed;
    bool working;   /* conn_work() is under way */
    bool hung_up;   /* the client has closed its side; there may be more to receive before that */
    bool eof;       /* nothing more comes, but what has come is served */
    bool ended;     /* no further request is */
    bool broken;    /* nor does anything go */
    bool refusing;  /* what comes now is too late */
    bool probed;    /* received in a busy-wait, not looked at yet */
    bool blocked;   /* the client does not take its answers just now */
    unsigned calls; /* in flight */
    size_t cost;    /* of their buffers */

    unsigned unhelped; /* so many large writes are not to be given to another context */
    unsigned samples;  /* of large writes; see call_co_run() */
    bool copied;       /* the last of them was over before anything else could happen */
    bool unspliced;    /* the node does not take payload from a pipe */
    bool many_cpus;    /* one for the client, one for the queue's context, and more */
    NbdBulk *bulk;
    NbdCall *begun; /* while it has not been suspended */

    NbdCall *receiving; /* its payload is not complete yet */
    uint64_t skip;      /* bytes of payload that nobody wants */
    uint8_t *input;     /* of CONN_INPUT bytes */
    size_t in_at, in_end;

    NbdCall *out, **out_tail; /* answers to be sent */
    unsigned out_calls;
    size_t out_bytes;
    size_t out_sent; /* bytes of the first of them that have gone */
    int64_t linger_ns;
    AioTimer *linger; /* while the client, which says no more, does not take them */

    /* with TLS; see conn_co_read_tls() and conn_co_write_tls() */
    TlsSession *tls;
    bool reading;
    bool writing;            /* what is to be sent must stay */
    Coroutine *reader_waits; /* for room */
};

static void conn_work(NbdConnection *conn, bool readable);
static void conn_answered(NbdConnection *conn, NbdCall *call);

/* ---- life ---- */

static void conn_free(NbdConnection *conn)
{
    NbdQueue *queue = conn->queue;

    if (conn->tls) {
        tls_session_free(conn->tls);
        close(conn->fd);
    }
    aio_bh_free(conn->kick);
    g_clear_pointer(&conn->linger, aio_timer_free);
    g_queue_unlink(&queue->active, &conn->link);
    __atomic_fetch_sub(&queue->connections, 1, __ATOMIC_RELAXED);
    __atomic_fetch_sub(&conn->ne->connections, 1, __ATOMIC_RELEASE);
    if (conn->seat) {
        nbd_server_seat_leave(conn->seat);
    }
    g_free(conn->context_ids);
    g_free(conn->input);
    nbd_bulk_free(conn->bulk);
    g_free(conn);
    export_request_end(&queue->common); /* the last that touches the queue */
}

static void conn_release(NbdConnection *conn, NbdCall *call)
{
    conn->calls--;
    conn->cost -= call->cost;
    nbd_splice_end(call);
    nbd_pool_give(conn->queue->pool, call);
}

static void conn_drop_output(NbdConnection *conn)
{
    while (conn->out) {
        NbdCall *call = conn->out;

        conn->out = call->next;
        conn_release(conn, call);
    }
    conn->out_tail = &conn->out;
    conn->out_calls = 0;
    conn->out_bytes = 0;
    conn->out_sent = 0;
}

/* Answer a streamed request, or one that was cut short. */
static void call_answer_streamed(NbdCall *call)
{
    nbd_splice_end(call);
    if (call->cut) {
        nbd_call_answer(call, NBD_ESHUTDOWN, "the export is being shut down");
    } else {
        nbd_call_answer_result(call, call->pieces.ret);
    }
}

/* The request whose payload is coming ends with what has come of it. */
static void conn_cut_payload(NbdConnection *conn)
{
    NbdCall *call = g_steal_pointer(&conn->receiving);

    nbd_stream_cut(call);
    if (!call->pieces.busy) {
        call_answer_streamed(call);
        conn_answered(conn, call);
    }
}

/* Requests run on, and nobody learns of it. The connection is freed with the last of them. */
static void conn_close(NbdConnection *conn)
{
    if (conn->closed) {
        return;
    }
    conn->closed = true;
    conn->eof = true;
    conn->ended = true;
    g_clear_pointer(&conn->watch, aio_watch_free);
    shutdown(conn->fd, SHUT_RDWR);
    if (!conn->tls) {
        close(conn->fd);
    }
    if (conn->reader_waits) {
        aio_co_wake(g_steal_pointer(&conn->reader_waits));
    }
    if (conn->receiving) {
        conn_cut_payload(conn);
    }
    if (!conn->writing) {
        conn_drop_output(conn);
    }
}

static bool conn_is_over(const NbdConnection *conn)
{
    return conn->closed && conn->calls == 0 && !conn->reading && !conn->writing &&
           !nbd_bulk_is_helped(conn->bulk);
}

/* ---- answers ---- */

/*
 * Describe what is to be sent, up to the first that is not in memory. Returns the number of
 * elements.
 */
static unsigned conn_gather(const NbdConnection *conn, struct iovec *iov, size_t *bytes)
{
    size_t skip = conn->out_sent;
    unsigned n = 0;

    *bytes = 0;
    for (NbdCall *call = conn->out; call; call = call->next) {
        for (unsigned i = 0; i < call->n_iov; i++) {
            size_t gone = MIN(skip, call->iov[i].iov_len);

            if (n == CONN_MAX_IOV) {
                return n;
            }
            skip -= gone;
            if (gone == call->iov[i].iov_len) {
                continue;
            }
            iov[n++] =
                (struct iovec){(char *)call->iov[i].iov_base + gone, call->iov[i].iov_len - gone};
            *bytes += call->iov[i].iov_len - gone;
        }
        if (call->pipe) {
            break;
        }
    }
    return n;
}

static void conn_arm_linger(NbdConnection *conn)
{
    aio_timer_arm(conn->linger, aio_now_ns() + conn->linger_ns);
}

/* @bytes of what was to be sent have gone. */
static void conn_sent(NbdConnection *conn, size_t bytes)
{
    if (conn->linger && bytes) {
        conn_arm_linger(conn);
    }
    conn->out_bytes -= bytes;
    conn->out_sent += bytes;
    while (conn->out && conn->out_sent >= conn->out->answer_bytes) {
        NbdCall *call = conn->out;

        conn->out_sent -= call->answer_bytes;
        conn->out = call->next;
        conn->out_calls--;
        conn_release(conn, call);
    }
    if (!conn->out) {
        conn->out_tail = &conn->out;
    }
}

/*
 * A coroutine for as long as there is something to be sent through TLS. Then the connection is
 * looked after again: it may have waited for that.
 */
static void co_fn conn_co_write_tls(void *opaque)
{
    NbdConnection *conn = opaque;

    while (conn->out && !conn->closed) {
        struct iovec iov[CONN_MAX_IOV];
        size_t bytes;
        unsigned n = conn_gather(conn, iov, &bytes);
        int ret = tls_session_co_writev(conn->tls, iov, n);

        if (ret < 0) {
            conn->broken = true;
            break;
        }
        conn_sent(conn, bytes);
    }
    conn->writing = false;
    if (conn->closed) {
        conn_drop_output(conn);
    }
    aio_bh_schedule(conn->kick);
}

static void conn_send_tls(NbdConnection *conn)
{
    if (conn->out && !conn->writing && !conn->broken) {
        conn->writing = true;
        coroutine_enter(coroutine_create(conn_co_write_tls, conn));
    }
    conn->blocked = conn->writing;
}

static ssize_t conn_sendmsg(const NbdConnection *conn, struct iovec *iov, unsigned n, bool more)
{
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = n};
    int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0);
    ssize_t sent;

    do {
        sent = sendmsg(conn->fd, &message, flags);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

/* Send something. Returns how many of *@bytes, or -errno. */
static ssize_t conn_send_once(const NbdConnection *conn, size_t *bytes)
{
    struct iovec iov[CONN_MAX_IOV];
    unsigned n = conn_gather(conn, iov, bytes);

    if (n == 0) {
        *bytes = conn->out->answer_bytes - conn->out_sent;
        return nbd_splice_send(conn->out, conn->fd, *bytes < conn->out_bytes);
    }
    return conn_sendmsg(conn, iov, n, *bytes < conn->out_bytes);
}

/* Send what there is, as far as the client takes it. Returns whether it has taken something. */
static bool conn_send(NbdConnection *conn)
{
    bool any = false;

    if (conn->tls) {
        conn_send_tls(conn);
        return false;
    }
    while (conn->out && !conn->blocked) {
        size_t bytes;
        ssize_t n = conn_send_once(conn, &bytes);

        if (n < 0 && n != -EAGAIN) {
            conn_close(conn);
            return false;
        }
        conn->blocked = n < (ssize_t)bytes;
        any |= n > 0;
        conn_sent(conn, MAX(n, 0));
    }
    return any;
}

/* Its answer is there. */
static void conn_answered(NbdConnection *conn, NbdCall *call)
{
    if (conn->closed) {
        conn_release(conn, call);
        return;
    }
    call->next = NULL;
    *conn->out_tail = call;
    conn->out_tail = &call->next;
    conn->out_calls++;
    conn->out_bytes += call->answer_bytes;
}

/* A context of the export that has no client, or NULL. */
static AioContext *conn_find_helper(const NbdConnection *conn)
{
    const Export *exp = conn->queue->common.exp;
    unsigned own = conn->queue->common.index;

    /* Each looks behind its own first, so that several do not all choose the same. */
    for (unsigned i = 1; i < exp->n_queues; i++) {
        const NbdQueue *queue = (const NbdQueue *)exp->queues[(own + i) % exp->n_queues];

        if (!__atomic_load_n(&queue->connections, __ATOMIC_RELAXED)) {
            return queue->common.ctx;
        }
    }
    return NULL;
}

/*
 * Who else is to carry out a request, or NULL: a large write, while its client has more to send, so
 * that the next payload comes in meanwhile.
 */
static AioContext *call_helper(const NbdCall *call)
{
    NbdConnection *conn = call->conn;

    if (call->payload < CONN_BULK || conn->in_at == conn->in_end) {
        return NULL;
    }
    if (conn->unhelped) {
        conn->unhelped--;
        return NULL;
    }
    return conn_find_helper(conn);
}

/*
 * Whether its payload is to be written while it comes: where the node copies what is written while
 * we wait. With CPUs to spare for another context it is better shared with that one.
 */
static bool call_is_streamed(const NbdCall *call)
{
    NbdConnection *conn = call->conn;

    return conn->copied && !call->sampled && !nbd_call_is_durable(call) &&
           !(conn->many_cpus && conn_find_helper(conn));
}

/* Serve it in @helper. If that is slow to begin, as on a busy machine, do without for a while. */
static void co_fn call_co_serve_in(NbdCall *call, AioContext *helper)
{
    NbdConnection *conn = call->conn;
    int64_t asked_ns = aio_now_ns(), begun_ns;

    aio_co_reschedule_self(helper);
    begun_ns = aio_now_ns();
    nbd_call_co_serve(call);
    aio_co_reschedule_self(conn->queue->common.ctx);
    if (begun_ns - asked_ns > CONN_HELP_NS_MAX) {
        conn->unhelped = CONN_UNHELPED;
    }
}

/*
 * Serve a large write with the help of @helper: in pieces, where the node copies the data while we
 * wait; whole by @helper, where it does not.
 */
static void co_fn call_co_serve_bulk(NbdCall *call, AioContext *helper)
{
    NbdConnection *conn = call->conn;

    if (conn->copied) {
        call->bulk = conn->bulk;
        call->helper = helper;
        nbd_call_co_serve(call);
    } else {
        call_co_serve_in(call, helper);
    }
}

/* Look after the connection again, if nobody is doing that. */
static void conn_go_on(NbdConnection *conn)
{
    if (!conn->working) {
        aio_bh_schedule(conn->kick);
    }
}

static void call_end(NbdCall *call)
{
    NbdConnection *conn = call->conn;

    conn_answered(conn, call); /* perhaps its end */
    conn_go_on(conn);
}

static void co_fn call_co_run(void *opaque)
{
    NbdCall *call = opaque;
    NbdConnection *conn = call->conn;
    ExportQueue *queue = &conn->queue->common;
    AioContext *helper = call->sampled ? NULL : call_helper(call);

    export_request_data_begin(queue);
    if (helper) {
        call_co_serve_bulk(call, helper);
    } else {
        nbd_call_co_serve(call);
    }
    if (call->sampled) {
        conn->copied = conn->begun == call;
    }
    export_request_data_end(queue);
    call_end(call);
}

/* While the rest of the payload comes nothing is in flight. */
static void co_fn call_co_stream(void *opaque)
{
    NbdCall *call = opaque;
    NbdConnection *conn = call->conn;
    ExportQueue *queue = &conn->queue->common;

    export_request_data_begin(queue);
    nbd_stream_co_write(call);
    conn->copied &= conn->begun == call;
    conn->unspliced |= call->unspliced;
    export_request_data_end(queue);
    if (call->received == call->payload) {
        call_answer_streamed(call);
        call_end(call);
    } else {
        conn_go_on(conn); /* it may be received again */
    }
}

static void call_enter(NbdCall *call, void co_fn (*entry)(void *opaque))
{
    NbdConnection *conn = call->conn;

    conn->begun = call;
    coroutine_enter(coroutine_create(entry, call));
    conn->begun = NULL;
}

/* Some of its payload has come, or all there is. */
static void call_go_on(NbdCall *call)
{
    if (!call->streamed) {
        if (call->received == call->payload) {
            call_enter(call, call_co_run);
        }
    } else if (nbd_stream_is_ready(call)) {
        call_enter(call, call_co_stream);
    }
}

/* ---- requests ---- */

static NbdCall *conn_take_call(NbdConnection *conn, const NbdRequest *request, size_t bytes)
{
    NbdCall *call = nbd_pool_take(conn->queue->pool, bytes);

    if (!call) {
        return NULL;
    }
    call->conn = conn;
    call->ne = conn->ne;
    call->terms = &conn->terms;
    call->context_ids = conn->context_ids;
    call->client = &conn->client;
    call->request = *request;
    call->payload = 0;
    call->received = 0;
    call->moved = 0;
    call->bulk = NULL;
    call->sampled = false;
    call->streamed = false;
    call->cut = false;
    call->pieces = (NbdPieces){0};
    call->may_splice = !conn->tls;
    call->alone = conn->calls == 0 && conn->in_at == conn->in_end;
    call->unspliced = false;
    call->pipe = NULL;
    call->cost = call->buffer_size;
    conn->calls++;
    conn->cost += call->cost;
    return call;
}

static void conn_refuse(NbdConnection *conn, const NbdRequest *request, NbdError error,
                        const char *why)
{
    NbdCall *call = conn_take_call(conn, request, 0);

    conn->skip = nbd_wire_payload(&conn->terms, request);
    if (!call) {
        conn_close(conn);
        return;
    }
    nbd_call_answer(call, error, why);
    conn_answered(conn, call);
}

static void conn_serve(NbdConnection *conn, const NbdRequest *request)
{
    NbdCall *call = conn_take_call(conn, request, nbd_call_buffer_bytes(&conn->terms, request));

    if (!call) {
        conn_refuse(conn, request, NBD_ENOMEM, "no memory");
        return;
    }
    call->payload = nbd_wire_payload(&conn->terms, request);
    if (request->type == NBD_CMD_WRITE && call->payload >= CONN_BULK) {
        call->sampled = conn->samples++ % CONN_SAMPLE_EVERY == 0;
        call->streamed = call_is_streamed(call);
        if (call->streamed && !conn->unspliced) {
            nbd_splice_begin_write(call);
        }
    }
    if (call->payload) {
        conn->receiving = call;
    } else {
        call_go_on(call);
    }
}

static void conn_begin_request(NbdConnection *conn, const NbdRequest *request)
{
    NbdError error;
    const char *why;

    switch (nbd_wire_check_request(&conn->terms, request, &error, &why)) {
    case NBD_VERDICT_SERVE:
        if (conn->refusing) {
            conn_refuse(conn, request, NBD_ESHUTDOWN, "the export is being shut down");
        } else {
            conn_serve(conn, request);
        }
        break;
    case NBD_VERDICT_REFUSE:
        conn_refuse(conn, request, error, why);
        break;
    case NBD_VERDICT_END:
        conn->ended = true;
        break;
    case NBD_VERDICT_BREAK:
        conn_close(conn);
        break;
    }
}

/* Take payload, wanted or not, off the input. False if there is more to come first. */
static bool conn_take_payload(NbdConnection *conn)
{
    size_t there = conn->in_end - conn->in_at;

    if (conn->skip) {
        size_t bytes = MIN(conn->skip, there);

        conn->skip -= bytes;
        conn->in_at += bytes;
        there -= bytes;
    }
    if (conn->receiving) {
        NbdCall *call = conn->receiving;
        size_t bytes = MIN(call->payload - call->received, there);

        memcpy(nbd_call_payload(call, call->received), conn->input + conn->in_at, bytes);
        conn->in_at += bytes;
        call->received += bytes;
        if (call->received == call->payload) {
            conn->receiving = NULL;
        }
        call_go_on(call);
    }
    return !conn->skip && !conn->receiving;
}

static bool conn_is_full(const NbdConnection *conn)
{
    return conn->calls >= CONN_MAX_CALLS || conn->cost >= CONN_MAX_COST;
}

/* Whether further requests may be begun. */
static bool conn_may_take(const NbdConnection *conn)
{
    return !conn->ended && !conn->blocked && !conn_is_full(conn);
}

/* Whether what is there of the input lacks nothing to begin the next request. */
static bool conn_has_request(NbdConnection *conn)
{
    return conn_take_payload(conn) &&
           conn->in_end - conn->in_at >= nbd_wire_request_bytes(&conn->terms);
}

/* Take one request off the input. False if there is none, or not now. */
static bool conn_take_request(NbdConnection *conn)
{
    NbdRequest request;

    if (!conn_has_request(conn)) {
        conn->ended |= conn->eof; /* what it lacks will never come */
        return false;
    }
    if (!conn_may_take(conn)) {
        return false;
    }
    if (!nbd_wire_get_request(&conn->terms, conn->input + conn->in_at, &request)) {
        conn_close(conn); /* nobody knows where the next one begins */
        return false;
    }
    conn->in_at += nbd_wire_request_bytes(&conn->terms);
    conn_begin_request(conn, &request);
    return true;
}

/* Begin the requests that are there, up to @max, and send answers as they come up. */
static unsigned conn_take_requests(NbdConnection *conn, unsigned max)
{
    unsigned n = 0;

    while (n < max && conn_take_request(conn)) {
        n++;
        if (conn->out_calls >= CONN_ROUND || conn->out_bytes >= CONN_ROUND_OUT) {
            conn_send(conn);
        }
    }
    return n;
}

/* ---- input ---- */

/* Whether something may be received: there is a place for it. */
static bool conn_may_receive(const NbdConnection *conn)
{
    const NbdCall *call = conn->receiving;

    if (conn->eof || conn->ended) {
        return false;
    }
    /* What follows must not come to be written before what is in the pipe. */
    return call ? !call->pipe || !call->pipe->bytes || nbd_splice_may_receive(call)
                : conn_may_take(conn);
}

/* Make room for more behind what is left of a request. */
static void conn_compact(NbdConnection *conn)
{
    size_t left = conn->in_end - conn->in_at;

    if (conn->in_at && left) {
        memmove(conn->input, conn->input + conn->in_at, left);
    }
    conn->in_at = 0;
    conn->in_end = left;
}

static ssize_t conn_recv(NbdConnection *conn, struct iovec *iov, unsigned n)
{
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = n};
    ssize_t bytes;

    do {
        bytes = n == 1 ? recv(conn->fd, iov->iov_base, iov->iov_len, MSG_DONTWAIT)
                       : recvmsg(conn->fd, &message, MSG_DONTWAIT);
    } while (bytes < 0 && errno == EINTR);
    return bytes < 0 ? -errno : bytes;
}

/* What was received: @bytes (0: the end) or -errno. Returns whether there was something. */
static bool conn_judge_receive(NbdConnection *conn, ssize_t bytes)
{
    if (bytes == -EAGAIN) {
        return false;
    }
    conn->broken |= bytes < 0;
    conn->eof |= bytes <= 0;
    return bytes > 0;
}

/* Whether there is something to receive. */
static bool conn_has_input(const NbdConnection *conn)
{
    uint8_t byte;

    return recv(conn->fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) > 0;
}

/*
 * Receive payload into a pipe; *@more says whether there was some. False: it is to be received as
 * other things are. So it is where it does not come this way though it is there: urgent data is in
 * between, or the pipe is full of small parts.
 */
static bool conn_receive_spliced(NbdConnection *conn, NbdCall *call, bool *more)
{
    ssize_t bytes = nbd_splice_receive(call, conn->fd);

    conn->unspliced |= bytes == -EINVAL; /* not from this kind of socket */
    if (bytes == -EINVAL || (bytes == -EAGAIN && conn_has_input(conn))) {
        bytes = nbd_splice_take_back(call);
        if (bytes == 0) {
            return false;
        }
    }
    *more = conn_judge_receive(conn, bytes);
    call->received += (size_t)MAX(bytes, 0);
    return true;
}

/* How much to receive into the input. */
static size_t conn_input_room(const NbdConnection *conn)
{
    size_t room = CONN_INPUT - conn->in_end;

    if (!conn->receiving || conn->receiving->payload < CONN_BULK) {
        return room;
    }
    /* Another large write is likely to follow, and its payload not to come here, to be copied. */
    return MIN(room, nbd_wire_request_bytes(&conn->terms));
}

/*
 * Receive once. Returns whether there may be more: what there was room for has come. What it means,
 * and be it the end of the connection, is for others to see, so a probe may do this.
 */
static bool conn_receive(NbdConnection *conn)
{
    NbdCall *call = conn->receiving;
    struct iovec iov[2];
    unsigned n = 0;
    size_t wanted, room, payload = 0;
    bool more;
    ssize_t bytes;

    if (call && conn->in_at < conn->in_end) {
        return true; /* what is there of the payload, and not taken yet, comes first */
    }
    conn_compact(conn);
    if (call && nbd_splice_may_receive(call) && conn_receive_spliced(conn, call, &more)) {
        return more;
    }
    if (call) {
        payload = call->payload - call->received;
        iov[n++] = (struct iovec){nbd_call_payload(call, call->received), payload};
    }
    room = conn_input_room(conn);
    iov[n++] = (struct iovec){conn->input + conn->in_end, room};
    wanted = payload + room;
    if (wanted == 0) {
        return false; /* receiving nothing would look like the end */
    }

    bytes = conn_recv(conn, iov, n);
    if (!conn_judge_receive(conn, bytes)) {
        return false;
    }
    conn->in_end += MAX((size_t)bytes, payload) - payload;
    if (call) {
        call->received += MIN((size_t)bytes, payload);
    }
    /* While a piece is written the client sends more. */
    return (size_t)bytes == wanted || (call && call->streamed);
}

/*
 * Whether there is room to read through TLS. It need not be what may be begun: the goodbye of a
 * client who takes no answers is not seen otherwise.
 */
static bool conn_may_read_tls(const NbdConnection *conn)
{
    return conn->in_end - conn->in_at < CONN_INPUT;
}

/* A coroutine for as long as the connection may receive something through TLS. */
static void co_fn conn_co_read_tls(void *opaque)
{
    NbdConnection *conn = opaque;

    while (!conn->eof && !conn->ended) {
        ssize_t n;

        if (!conn_may_read_tls(conn)) {
            conn->reader_waits = coroutine_self();
            coroutine_yield();
            continue;
        }
        conn_compact(conn);
        n = tls_session_co_read(conn->tls, conn->input + conn->in_end, CONN_INPUT - conn->in_end);
        conn->eof |= n <= 0;
        conn->broken |= n < 0;
        conn->in_end += MAX(n, 0);
        conn_work(conn, false);
    }
    conn->reading = false;
    aio_bh_schedule(conn->kick);
}

/* ---- work ---- */

static void conn_on_linger(void *opaque)
{
    NbdConnection *conn = opaque;

    conn_close(conn);
    if (conn_is_over(conn)) {
        conn_free(conn);
    }
}

/* Do not wait for ever for a client that has said its last word and takes no answers. */
static void conn_update_linger(NbdConnection *conn)
{
    bool lingers = conn->out && (conn->hung_up || conn->eof || conn->ended);

    if (!lingers) {
        g_clear_pointer(&conn->linger, aio_timer_free);
    } else if (!conn->linger) {
        conn->linger = aio_timer_new(conn->queue->common.ctx, conn_on_linger, conn);
        conn_arm_linger(conn);
    }
}

static short conn_events(const NbdConnection *conn)
{
    short events = (conn_may_receive(conn) ? POLLIN : 0) | (conn->out ? POLLOUT : 0);

    /* While nothing is received, its end is not seen otherwise. */
    if (events == POLLOUT && !conn->eof && !conn->hung_up) {
        events |= POLLRDHUP;
    }
    return conn->tls ? events & POLLRDHUP : events;
}

/* What is to be waited for. */
static void conn_update(NbdConnection *conn)
{
    conn_update_linger(conn);
    if (conn->watch) {
        aio_watch_set_events(conn->watch, conn_events(conn));
    }
    if (conn->reader_waits && (conn_may_read_tls(conn) || conn->ended)) {
        aio_co_wake(g_steal_pointer(&conn->reader_waits));
    }
}

/* The client has nothing more to expect. */
static bool conn_is_done(const NbdConnection *conn)
{
    unsigned open = conn->calls - (conn->receiving ? 1 : 0);

    return (conn->ended || conn->refusing) && open == 0 && !conn->writing;
}

/* Say goodbye, which TLS wants, but wait for nobody for that. */
static void co_fn conn_co_finish_tls(void *opaque)
{
    NbdConnection *conn = opaque;

    tls_session_co_bye(conn->tls, aio_now_ns() + CONN_BYE_NS);
    conn->writing = false;
    conn_close(conn);
    aio_bh_schedule(conn->kick);
}

/*
 * The end that was to be expected. What is unread then would make the system reset the connection,
 * and over TCP the client could lose answers by that.
 */
static void conn_finish(NbdConnection *conn)
{
    size_t drained = 0;
    ssize_t n;

    if (conn->closed) {
        return;
    }
    if (conn->tls) {
        conn->writing = true;
        coroutine_enter(coroutine_create(conn_co_finish_tls, conn));
        return;
    }
    shutdown(conn->fd, SHUT_WR);
    do {
        n = recv(conn->fd, conn->input, CONN_INPUT, MSG_DONTWAIT);
        drained += MAX(n, 0);
    } while (n > 0 && drained < CONN_MAX_DRAIN);
    conn_close(conn);
}

/* Whatever can go on goes on. @readable: something has come. May free @conn. */
static void conn_work(NbdConnection *conn, bool readable)
{
    unsigned left = CONN_BATCH, receives = 0;
    bool more = readable;
    bool progress;

    conn->working = true;
    conn->blocked = false;
    do {
        unsigned taken;

        progress = conn_send(conn);
        if (more && !conn->tls && conn_may_receive(conn)) {
            more = conn_receive(conn) && ++receives < CONN_RECEIVES;
            progress = true;
        }
        taken = conn_take_requests(conn, left);
        left -= taken;
        progress |= taken > 0;
    } while (progress && left);
    conn_send(conn);
    conn->working = false;
    if (conn->broken) {
        conn_close(conn);
    } else if (left == 0) {
        aio_bh_schedule(conn->kick);
    } else if (conn_is_done(conn)) {
        conn_finish(conn);
    }
    if (conn_is_over(conn)) {
        conn_free(conn);
    } else {
        conn_update(conn);
    }
}

/* A request has ended meanwhile, or there was too much to be done at once. */
static void conn_on_kick(void *opaque)
{
    conn_work(opaque, false);
}

static void conn_on_ready(void *opaque, short revents)
{
    NbdConnection *conn = opaque;
    bool readable = revents & (POLLIN | POLLHUP | POLLERR);

    if (revents & POLLRDHUP) {
        conn->hung_up = true;
    }
    if (conn->probed) {
        conn->probed = false;
        readable = conn->receiving && conn->receiving->streamed;
    }
    conn_work(conn, readable);
}

/* How many bytes have come that nobody has looked at. */
static size_t conn_received(const NbdConnection *conn)
{
    return conn->in_end - conn->in_at + (conn->receiving ? conn->receiving->received : 0);
}

/* In the context's busy-wait: asking is as dear as receiving, so receive. */
static bool conn_probe(void *opaque)
{
    NbdConnection *conn = opaque;
    size_t before = conn_received(conn);

    if (conn->probed) {
        return true;
    }
    if (!conn_may_receive(conn)) {
        return false;
    }
    conn_receive(conn);
    conn->probed = conn_received(conn) != before || conn->eof;
    return conn->probed;
}

void nbd_connection_begin(NbdQueue *queue, const NbdClient *client)
{
    NbdConnection *conn = g_new0(NbdConnection, 1);
    AioContext *ctx = queue->common.ctx;

    export_request_begin(&queue->common);
    conn->queue = queue;
    conn->ne = (NbdExport *)queue->common.exp;
    conn->seat = client->seat;
    conn->linger_ns = client->linger_ns;
    conn->fd = client->fd;
    conn->terms = client->terms;
    conn->context_ids = client->context_ids;
    blk_client_init(conn->ne->common.blk, &conn->client);
    conn->link.data = conn;
    conn->out_tail = &conn->out;
    conn->input = g_malloc(CONN_INPUT);
    conn->many_cpus = g_get_num_processors() > 2;
    conn->kick = aio_bh_new(ctx, conn_on_kick, conn);
    conn->bulk = nbd_bulk_new(ctx, conn->kick);
    g_queue_push_tail_link(&queue->active, &conn->link);
    conn->tls = client->tls;
    if (!queue->running) {
        conn_close(conn);
        conn_free(conn);
    } else if (conn->tls) {
        conn->watch = aio_watch_new(ctx, conn->fd, 0, conn_on_ready, NULL, conn);
        conn->reading = true;
        aio_co_enter(ctx, conn_co_read_tls, conn);
    } else {
        conn->watch = aio_watch_new(ctx, conn->fd, POLLIN, conn_on_ready, conn_probe, conn);
    }
}

void nbd_connections_look(NbdQueue *queue)
{
    GList *next;

    for (GList *l = queue->active.head; l; l = next) {
        next = l->next;
        conn_work(l->data, true);
    }
}

/* Answer what has come too late, and go when all that has begun is answered. */
static void conn_stop(NbdConnection *conn)
{
    conn->refusing = true;
    if (conn->receiving) {
        conn->skip = conn->receiving->payload - conn->receiving->received;
        conn_cut_payload(conn);
    }
    conn_work(conn, true);
}

void nbd_connections_stop(NbdQueue *queue, bool cut)
{
    GList *next;

    for (GList *l = queue->active.head; l; l = next) {
        NbdConnection *conn = l->data;

        next = l->next;
        if (!cut) {
            conn_stop(conn);
            continue;
        }
        conn_close(conn);
        if (conn_is_over(conn)) {
            conn_free(conn);
        }
    }
}
