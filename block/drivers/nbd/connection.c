/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/nbd/connection.h"

#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "aio/lock.h"
#include "util/error.h"

/* Of so many requests that the server has, one is answered soon. */
#define ANSWERED_SOON 8

struct NbdConnection {
    struct nbd_handle *nbd;
    NbdExportInfo info;

    int fd;            /* to the server */
    NbdTunnel *tunnel; /* or NULL */
    int watch_fd;      /* libnbd's socket once more, for libnbd closes its own whenever it likes */
    AioWatch *watch;   /* at home */

    /* Away. */
    AioWatch *away_watch; /* NULL: at home */
    AioTimer *away_timer;
    int64_t away_until_ns; /* the timer may go off sooner */
    bool probed;           /* the busy-wait has just seen that something has come */
    char *failure;         /* why it cannot go on, or NULL */

    GQueue commands; /* NbdCommand *, that were not answered yet */
    unsigned owed;   /* flushes that are about to follow one that was */
    int64_t reply_timeout_ns;
    int64_t heard_ns;  /* when the server last said something, or had nothing to say */
    AioTimer *silence; /* armed while there are commands, or it may have been */
    bool silence_armed;

    uint64_t written; /* writes that were acknowledged */
    uint64_t durable; /* so many of them, the first ones, were before a flush or had FUA */

    Coroutine *opener; /* waits for the handshake */
    bool used;         /* there was a request */
    bool served;       /* and one that was answered */
    bool lost;
    char *reason;
    const NbdConnectionUser *user; /* or NULL */
    void *opaque;
};

/* One request, on the stack of its coroutine. */
typedef struct NbdCommand {
    NbdConnection *c;
    GList link;
    Coroutine *co;   /* waits, or NULL */
    bool writes;     /* what a flush is needed for afterwards */
    bool owes;       /* and follows at once */
    uint64_t covers; /* a flush: so many writes had been acknowledged before it */
    bool done;
    int result;
} NbdCommand;

/* ---- commands ---- */

static void command_end(NbdCommand *cmd, int result)
{
    cmd->done = true;
    cmd->result = result;
    g_queue_unlink(&cmd->c->commands, &cmd->link);
    if (cmd->co) {
        aio_co_wake(g_steal_pointer(&cmd->co));
    }
}

/* ---- loss ---- */

void nbd_connection_lose(NbdConnection *c, const char *reason)
{
    if (c->lost) {
        return;
    }
    c->lost = true;
    c->reason = g_strdup(reason);
    if (c->watch) {
        aio_watch_set_events(c->watch, 0);
    }
    while (c->commands.head) {
        command_end(c->commands.head->data, -ENOTCONN);
    }
    if (c->opener) {
        aio_co_wake(g_steal_pointer(&c->opener));
    }
    if (c->user) {
        c->user->lost(c->opaque, reason);
    }
}

/* What libnbd says of the call that has just failed; servers may have a say in it. */
static char *last_error(void)
{
    const char *text = nbd_get_error();

    return wharf_printable(text ? text : "the connection ended");
}

bool nbd_connection_is_lost(const NbdConnection *c)
{
    return c->lost;
}

unsigned nbd_connection_load(const NbdConnection *c)
{
    return c->commands.length;
}

bool nbd_connection_has_served(const NbdConnection *c)
{
    return c->served;
}

uint64_t nbd_connection_unflushed(const NbdConnection *c)
{
    return c->info.flush ? c->written - c->durable : 0;
}

int64_t nbd_connection_silence(const NbdConnection *c)
{
    return c->commands.head ? aio_now_ns() - c->heard_ns : 0;
}

/* At home: whether it is, from now on. */
static bool is_here(const NbdConnection *c)
{
    return !c->user || c->user->is_home(c->opaque);
}

/* At home. Away nobody waits that long. */
static void connection_arm_silence(NbdConnection *c)
{
    if (c->reply_timeout_ns && c->commands.head && !c->silence_armed) {
        c->silence_armed = true;
        aio_timer_arm(c->silence, c->heard_ns + c->reply_timeout_ns);
    }
}

static void on_silence(void *opaque)
{
    NbdConnection *c = opaque;

    c->silence_armed = false;
    if (!is_here(c) || !c->commands.head) {
        return;
    }
    if (nbd_connection_silence(c) >= c->reply_timeout_ns) {
        nbd_connection_lose(c, "the server does not answer");
    } else {
        connection_arm_silence(c);
    }
}

/* ---- the event loop ---- */

static short wanted_events(const NbdConnection *c)
{
    unsigned direction = nbd_aio_get_direction(c->nbd);

    return (direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
           (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
}

static bool has_ended(const NbdConnection *c)
{
    return nbd_aio_is_dead(c->nbd) > 0 || nbd_aio_is_closed(c->nbd) > 0;
}

/* After the last touch: it may be used at home before this returns. */
static void connection_leave(NbdConnection *c, bool idle)
{
    g_clear_pointer(&c->away_watch, aio_watch_free);
    g_clear_pointer(&c->away_timer, aio_timer_free);
    c->user->left(c->opaque, idle);
}

/* Losses are dealt with at home. */
static void connection_update_away(NbdConnection *c)
{
    if (c->failure || has_ended(c)) {
        connection_leave(c, false);
    } else if (!c->commands.head) {
        connection_leave(c, true);
    } else {
        aio_watch_set_events(c->away_watch, wanted_events(c));
    }
}

static void connection_update_home(NbdConnection *c)
{
    if (c->lost) {
        return;
    }
    if (c->failure || has_ended(c)) {
        nbd_connection_lose(c, c->failure ? c->failure : "the server closed the connection");
        return;
    }
    if (c->opener && nbd_aio_is_ready(c->nbd) > 0) {
        aio_co_wake(g_steal_pointer(&c->opener));
    }
    aio_watch_set_events(c->watch, wanted_events(c));
}

/* After each call that may have changed something: what libnbd waits for now. */
static void connection_update(NbdConnection *c)
{
    if (c->away_watch) {
        connection_update_away(c);
    } else {
        connection_update_home(c);
    }
}

/* Whether there is something to receive, or will never be. */
static bool has_come(const NbdConnection *c)
{
    char byte;

    return recv(c->watch_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
}

/*
 * What a watch has seen come may have been received since: elsewhere; and io_uring reports what the
 * sender tells of only after it was to be had. libnbd must not be told of it then: it would wait
 * for that reply, and send nothing before it has come, which is never if nothing is under way.
 * Where one comes soon, to look each time would cost more than to wait once in a long while; but
 * while libnbd has something to send, the server may have nothing to answer.
 */
static bool is_readable(NbdConnection *c, short wanted, short revents)
{
    bool comes = c->probed || (wanted == POLLIN && c->commands.length >= ANSWERED_SOON);

    c->probed = false;
    return (wanted & POLLIN) && (revents & ~POLLOUT) && (comes || has_come(c));
}

static void connection_notify(NbdConnection *c, short revents)
{
    short wanted = wanted_events(c);
    int r = 0;

    if (is_readable(c, wanted, revents)) {
        r = nbd_aio_notify_read(c->nbd);
    } else if ((wanted & POLLOUT) && (revents & ~POLLIN)) {
        r = nbd_aio_notify_write(c->nbd);
    } else {
        return;
    }
    c->heard_ns = aio_now_ns();
    if (r < 0 && !c->failure) {
        c->failure = last_error();
    }
    connection_update(c);
}

static void on_ready(void *opaque, short revents)
{
    NbdConnection *c = opaque;

    if (!is_here(c)) {
        /* It is for others to see, until it is back. */
        aio_watch_set_events(c->watch, 0);
        return;
    }
    connection_notify(c, revents);
}

static void on_ready_away(void *opaque, short revents)
{
    connection_notify(opaque, revents);
}

/* In the busy-wait of the context where it is. */
static bool probe_away(void *opaque)
{
    NbdConnection *c = opaque;

    c->probed = wanted_events(c) == POLLIN && has_come(c);
    return c->probed;
}

static void on_away_for_long(void *opaque)
{
    NbdConnection *c = opaque;

    if (aio_now_ns() < c->away_until_ns) {
        aio_timer_arm(c->away_timer, c->away_until_ns);
    } else {
        connection_leave(c, false);
    }
}

void nbd_connection_go_away(NbdConnection *c, int64_t until_ns)
{
    AioContext *ctx = aio_context_current();

    c->away_until_ns = until_ns;
    if (c->away_watch) {
        return;
    }
    c->away_watch = aio_watch_new(ctx, c->watch_fd, 0, on_ready_away, probe_away, c);
    c->away_timer = aio_timer_new(ctx, on_away_for_long, c);
    aio_timer_arm(c->away_timer, until_ns);
}

void nbd_connection_come_home(NbdConnection *c)
{
    connection_arm_silence(c);
    connection_update_home(c);
}

bool nbd_connection_may_go_away(const NbdConnection *c)
{
    return !c->lost && !c->failure && !c->commands.head && !c->owed && !c->tunnel;
}

/* ---- opening ---- */

static void on_late(void *opaque)
{
    nbd_connection_lose(opaque, "the server did not finish the handshake in time");
}

static bool connection_set_up(NbdConnection *c, const char *name)
{
    return nbd_set_export_name(c->nbd, name) == 0 &&
           nbd_add_meta_context(c->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0 &&
           nbd_set_tls(c->nbd, LIBNBD_TLS_DISABLE) == 0 &&
           nbd_set_pread_initialize(c->nbd, false) == 0;
}

static bool set_nbd_error(GError **error)
{
    g_autofree char *reason = last_error();

    g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "%s", reason);
    return false;
}

/* What the server says of the export, if it makes sense. */
static bool connection_get_info(NbdConnection *c, GError **error)
{
    NbdExportInfo *info = &c->info;
    int64_t min = nbd_get_block_size(c->nbd, LIBNBD_SIZE_MINIMUM);
    int64_t preferred = nbd_get_block_size(c->nbd, LIBNBD_SIZE_PREFERRED);
    int64_t max = nbd_get_block_size(c->nbd, LIBNBD_SIZE_MAXIMUM);

    info->size = nbd_get_size(c->nbd);
    if (info->size < 0) {
        return set_nbd_error(error);
    }
    min = MAX(min, 1);
    if ((min & (min - 1)) || min > 64 * 1024) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "the server wants blocks of %" G_GINT64_FORMAT
                    " bytes, which is no power of two up to 64 KiB",
                    min);
        return false;
    }
    info->min_block = min;
    info->preferred_block = preferred > 0 && preferred <= NBD_MAX_TRANSFER ? preferred : 0;
    info->max_block = max > 0 ? MIN(max, NBD_MAX_TRANSFER) / min * min : NBD_MAX_TRANSFER;
    info->max_block = MAX(info->max_block, info->min_block);
    info->size -= info->size % min;
    info->read_only = nbd_is_read_only(c->nbd) != 0;
    info->flush = nbd_can_flush(c->nbd) > 0;
    info->fua = nbd_can_fua(c->nbd) > 0;
    info->trim = nbd_can_trim(c->nbd) > 0;
    info->zero = nbd_can_zero(c->nbd) > 0;
    info->fast_zero = nbd_can_fast_zero(c->nbd) > 0;
    info->extents = nbd_can_meta_context(c->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
    return true;
}

/* The handshake of NBD. libnbd takes @nbd_fd. */
static bool co_fn connection_co_shake(NbdConnection *c, int nbd_fd, int64_t deadline_ns,
                                      GError **error)
{
    AioTimer *timer;

    if (nbd_aio_connect_socket(c->nbd, nbd_fd) < 0) {
        return set_nbd_error(error);
    }
    timer = aio_timer_new(aio_context_current(), on_late, c);
    aio_timer_arm(timer, deadline_ns);
    c->opener = coroutine_self();
    connection_update(c);
    /* It is taken by whoever wakes us, which may have happened. */
    coroutine_yield();
    aio_timer_free(timer);
    if (c->lost) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "%s", c->reason);
        return false;
    }
    return connection_get_info(c, error);
}

NbdConnection *co_fn nbd_connection_co_open(int fd, NbdTunnel *tunnel, int inner_fd,
                                            const char *name, int64_t deadline_ns,
                                            int64_t reply_timeout_ns, GError **error)
{
    NbdConnection *c = g_new0(NbdConnection, 1);
    int nbd_fd = fcntl(tunnel ? inner_fd : fd, F_DUPFD_CLOEXEC, 0);
    bool ok;

    c->fd = fd;
    c->tunnel = tunnel;
    c->reply_timeout_ns = reply_timeout_ns;
    c->heard_ns = aio_now_ns();
    c->watch_fd = tunnel ? inner_fd : fd;
    c->nbd = nbd_create();
    if (nbd_fd < 0) {
        wharf_set_error_errno(error, errno, "cannot duplicate a socket");
        ok = false;
    } else if (!c->nbd || !connection_set_up(c, name)) {
        ok = set_nbd_error(error);
    } else {
        c->watch = aio_watch_new(aio_context_current(), c->watch_fd, 0, on_ready, NULL, c);
        c->silence = aio_timer_new(aio_context_current(), on_silence, c);
        ok = connection_co_shake(c, nbd_fd, deadline_ns, error);
        nbd_fd = -1;
    }
    if (ok) {
        return c;
    }
    if (nbd_fd >= 0) {
        close(nbd_fd);
    }
    c->lost = true;
    nbd_connection_co_close(c, 0);
    return NULL;
}

void nbd_connection_set_user(NbdConnection *c, const NbdConnectionUser *user, void *opaque)
{
    c->user = user;
    c->opaque = opaque;
}

const NbdExportInfo *nbd_connection_info(const NbdConnection *c)
{
    return &c->info;
}

/* ---- closing ---- */

/* Say goodbye. What the socket does not take at once it does not get. */
static void connection_disconnect(NbdConnection *c)
{
    c->user = NULL;
    if (!c->lost) {
        nbd_aio_disconnect(c->nbd, 0);
        nbd_connection_lose(c, "the connection is closed");
    }
}

/*
 * What a connection that is lost has not sent yet must not come to the server later, when the same
 * has been asked for again, and perhaps something else after that.
 */
static void connection_drop_unsent(const NbdConnection *c)
{
    const struct linger none = {.l_onoff = 1};

    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
}

void co_fn nbd_connection_co_close(NbdConnection *c, int64_t deadline_ns)
{
    if (!c) {
        return;
    }
    if (c->lost && c->used) {
        connection_drop_unsent(c);
    }
    connection_disconnect(c);
    g_clear_pointer(&c->watch, aio_watch_free);
    g_clear_pointer(&c->silence, aio_timer_free);
    g_clear_pointer(&c->nbd, nbd_close);
    if (c->tunnel) {
        close(c->watch_fd);
    }
    nbd_tunnel_co_close(c->tunnel, deadline_ns);
    close(c->fd);
    g_free(c->failure);
    g_free(c->reason);
    g_free(c);
}

/* ---- requests ---- */

/* At once, for the connection may be lost before the coroutine runs. */
static void command_count(const NbdCommand *cmd)
{
    NbdConnection *c = cmd->c;

    c->written += cmd->writes;
    c->durable = MAX(c->durable, cmd->covers);
}

static int on_done(void *opaque, int *error)
{
    NbdCommand *cmd = opaque;

    if (!cmd->done) {
        cmd->c->served |= *error != ENOTCONN;
        if (*error == 0) {
            command_count(cmd);
            cmd->c->owed += cmd->owes;
        }
        command_end(cmd, -*error);
    }
    return 1;
}

static nbd_completion_callback command_callback(NbdCommand *cmd)
{
    return (nbd_completion_callback){.callback = on_done, .user_data = cmd};
}

static void command_begin(NbdCommand *cmd, NbdConnection *c)
{
    *cmd = (NbdCommand){.c = c};
    cmd->link.data = cmd;
    c->used = true;
    if (!c->commands.head) {
        c->heard_ns = aio_now_ns();
    }
    g_queue_push_tail_link(&c->commands, &cmd->link);
    if (!c->away_watch) {
        connection_arm_silence(c);
    }
}

/*
 * The command was given to libnbd, which said @cookie. Wait for what becomes of it: of the
 * connection nothing is known any more then, not even that it is there.
 */
static int co_fn command_co_finish(NbdCommand *cmd, int64_t cookie)
{
    NbdConnection *c = cmd->c;
    bool waits;

    if (cookie < 0 && !cmd->done) {
        int err = nbd_get_errno();

        command_end(cmd, has_ended(c) ? -ENOTCONN : err ? -err : -EIO);
    }
    waits = !cmd->done;
    if (waits) {
        cmd->co = coroutine_self(); /* whoever takes it may be in another thread from now on */
    }
    connection_update(c);
    if (waits) {
        coroutine_yield();
    }
    return cmd->result;
}

/* A read, which the server may answer in pieces, in any order. */
typedef struct NbdRead {
    NbdCommand cmd;
    char *buffer;
    uint64_t offset;
    size_t bytes; /* that have come */
    size_t end;   /* up to where there is nothing left in the buffer that was in it before */
} NbdRead;

/* What libnbd has put into the buffer at @data. */
static int on_piece(void *opaque, const void *data, size_t bytes, uint64_t offset, unsigned status,
                    int *error)
{
    NbdRead *read = opaque;
    size_t begin = offset - read->offset;

    if (status == LIBNBD_READ_ERROR) {
        return 0;
    }
    if (begin > read->end) {
        memset(read->buffer + read->end, 0, begin - read->end);
    }
    read->end = MAX(read->end, begin + bytes);
    read->bytes += bytes;
    return 0;
}

/*
 * A server may say that it has answered when there are pieces that it has not sent. Whoever reads
 * must not find what the buffer was last used for, perhaps by others; of pieces that come twice to
 * hide others, zeros in their place are as good as anything that such a server might send.
 */
int co_fn nbd_connection_co_pread(NbdConnection *c, uint64_t offset, void *buffer, size_t bytes)
{
    NbdRead read = {.buffer = buffer, .offset = offset};
    int r;

    command_begin(&read.cmd, c);
    r = command_co_finish(
        &read.cmd,
        nbd_aio_pread_structured(c->nbd, buffer, bytes, offset,
                                 (nbd_chunk_callback){.callback = on_piece, .user_data = &read},
                                 command_callback(&read.cmd), 0));
    return r == 0 && (read.bytes < bytes || read.end < bytes) ? -EIO : r;
}

int co_fn nbd_connection_co_flush(NbdConnection *c)
{
    NbdCommand cmd;

    if (!c->info.flush) {
        return 0; /* the server says that there is nothing to flush */
    }
    command_begin(&cmd, c);
    cmd.covers = c->written;
    return command_co_finish(&cmd, nbd_aio_flush(c->nbd, command_callback(&cmd), 0));
}

/*
 * What must be on stable storage is flushed where the server cannot be told with the request
 * itself. Where nothing is owed the connection may be anywhere by now.
 */
static int co_fn command_co_flush_after(const NbdCommand *cmd, int r)
{
    NbdConnection *c = cmd->c;

    if (r < 0 || !cmd->owes) {
        return r;
    }
    c->owed--;
    /* It may have been lost since: what is asked for now would never end. */
    return c->lost ? -ENOTCONN : nbd_connection_co_flush(c);
}

/* A write with @flags. */
static void command_begin_write(NbdCommand *cmd, NbdConnection *c, BlockRequestFlags flags)
{
    command_begin(cmd, c);
    cmd->writes = !(flags & BLOCK_REQ_FUA); /* it counts as done when it is stable */
    cmd->owes = (flags & BLOCK_REQ_FUA) && !c->info.fua;
}

static uint32_t fua_flag(const NbdConnection *c, BlockRequestFlags flags)
{
    return (flags & BLOCK_REQ_FUA) && c->info.fua ? LIBNBD_CMD_FLAG_FUA : 0;
}

int co_fn nbd_connection_co_pwrite(NbdConnection *c, uint64_t offset, const void *buffer,
                                   size_t bytes, BlockRequestFlags flags)
{
    uint32_t nbd_flags = fua_flag(c, flags);
    NbdCommand cmd;
    int r;

    command_begin_write(&cmd, c, flags);
    r = command_co_finish(
        &cmd, nbd_aio_pwrite(c->nbd, buffer, bytes, offset, command_callback(&cmd), nbd_flags));
    return command_co_flush_after(&cmd, r);
}

int co_fn nbd_connection_co_zero(NbdConnection *c, uint64_t offset, uint64_t bytes,
                                 BlockRequestFlags flags)
{
    uint32_t nbd_flags = fua_flag(c, flags);
    NbdCommand cmd;
    int r;

    if (!c->info.zero || ((flags & BLOCK_REQ_NO_FALLBACK) && !c->info.fast_zero)) {
        return -ENOTSUP;
    }
    nbd_flags |= flags & BLOCK_REQ_NO_FALLBACK ? LIBNBD_CMD_FLAG_FAST_ZERO : 0;
    nbd_flags |= flags & BLOCK_REQ_MAY_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE;
    command_begin_write(&cmd, c, flags);
    r = command_co_finish(&cmd,
                          nbd_aio_zero(c->nbd, bytes, offset, command_callback(&cmd), nbd_flags));
    return command_co_flush_after(&cmd, r);
}

int co_fn nbd_connection_co_trim(NbdConnection *c, uint64_t offset, uint64_t bytes)
{
    NbdCommand cmd;

    if (!c->info.trim) {
        return -ENOTSUP;
    }
    command_begin(&cmd, c);
    return command_co_finish(&cmd, nbd_aio_trim(c->nbd, bytes, offset, command_callback(&cmd), 0));
}

/* ---- what is allocated ---- */

/* What the server says of a range: its beginning, of one kind. */
typedef struct NbdExtent {
    NbdCommand cmd;
    uint64_t bytes;
    uint32_t flags;
    bool known;
} NbdExtent;

static int on_extents(void *opaque, const char *context, uint64_t offset, uint32_t *entries,
                      size_t n, int *error)
{
    NbdExtent *extent = opaque;

    if (extent->known || !g_str_equal(context, LIBNBD_CONTEXT_BASE_ALLOCATION)) {
        return 0;
    }
    for (size_t i = 0; i + 1 < n; i += 2) {
        if (extent->known && entries[i + 1] != extent->flags) {
            break;
        }
        extent->known = true;
        extent->flags = entries[i + 1];
        extent->bytes += entries[i];
    }
    return 0;
}

static BlockStatus extent_status(uint32_t flags)
{
    bool zero = flags & LIBNBD_STATE_ZERO;

    /* A hole that does not read as zeros may hold anything. */
    return BLOCK_STATUS_ALLOCATED | (zero ? BLOCK_STATUS_ZERO : 0) |
           (zero && (flags & LIBNBD_STATE_HOLE) ? 0 : BLOCK_STATUS_DATA);
}

int co_fn nbd_connection_co_block_status(NbdConnection *c, uint64_t offset, uint64_t bytes,
                                         uint64_t *pnum, BlockStatus *status)
{
    NbdExtent extent = {.known = false};
    uint32_t min_block = c->info.min_block;
    int r;

    *pnum = bytes;
    *status = BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_DATA;
    if (!c->info.extents) {
        return 0;
    }
    command_begin(&extent.cmd, c);
    r = command_co_finish(
        &extent.cmd,
        nbd_aio_block_status(c->nbd, bytes, offset,
                             (nbd_extent_callback){.callback = on_extents, .user_data = &extent},
                             command_callback(&extent.cmd), 0));
    if (r < 0) {
        return r;
    }
    /* A server that has nothing to say, or nonsense, has said nothing against data. */
    if (extent.known && extent.bytes >= min_block) {
        *pnum = MIN(extent.bytes - extent.bytes % min_block, bytes);
        *status = extent_status(extent.flags);
    }
    return 0;
}
