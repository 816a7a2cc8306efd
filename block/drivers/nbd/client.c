/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/nbd/client.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "aio/iothread.h"
#include "aio/lock.h"
#include "block/drivers/nbd/connect.h"
#include "util/error.h"

#define SECOND_NS G_GINT64_CONSTANT(1000000000)

/* How long one attempt to connect may take. */
#define ATTEMPT_MAX_NS (30 * SECOND_NS)

/* Between two attempts; doubled each time, up to the maximum. */
#define RETRY_MIN_NS (SECOND_NS / 4)
#define RETRY_MAX_NS (8 * SECOND_NS)

/* A connection that lasted so long was good, and is made again at once. */
#define GOOD_AFTER_NS SECOND_NS

/* One that only served a request is made again so soon. */
#define RETRY_SERVED_NS (SECOND_NS / 100)

/* Losses are told no more often. */
#define TELL_EVERY_NS SECOND_NS

/* How long goodbyes may take. */
#define CLOSE_MAX_NS SECOND_NS

/* So many requests in a row must be calm for the connection to be lent. */
#define LEND_AFTER 16

/* So many at a time of one context still are. With more, two threads are better than one. */
#define LEND_DEPTH 8

/* No loan lasts longer from its last request on; others may wait for it. */
#define LEND_MAX_NS (SECOND_NS / 1000)

/* So soon after it was lent somebody looks whether it is idle, and may have ended. */
#define LEND_LOOK_NS (SECOND_NS / 4)

/* At the end of the daemon a server may be silent for so long. */
#define SILENCE_AT_END_NS (3 * SECOND_NS)

/* Where the connection is, if there is one. */
typedef enum NbdWhereabouts {
    NBD_HOME,
    NBD_SPARE,     /* nowhere: who needs it takes it */
    NBD_LENT,      /* with requests, in their context */
    NBD_RETURNING, /* on its way home */
} NbdWhereabouts;

struct NbdClient {
    /* Fixed. */
    char *node_name, *where; /* for messages */
    SocketPlace *place;
    char *export_name;
    TlsCreds *creds;
    char *hostname;
    int64_t reconnect_delay_ns, open_timeout_ns, reply_timeout_ns;
    bool keeps_writes;
    Iothread *home;
    AioContext *ctx;
    NbdExportInfo info; /* once it is open */

    gint writing;   /* atomic */
    gint giving_up; /* atomic: nothing is waited for any more */
    gint read_only; /* atomic: what the last server said */

    GMutex lock;                /* of these */
    NbdWhereabouts whereabouts; /* of the connection */
    AioContext *lent_to;        /* while it is */
    bool wanted;                /* at home, when it comes back */

    /* Home. */
    NbdConnection *connection; /* NULL: none */
    int64_t connected_ns;      /* since when */
    int64_t wait_until_ns;     /* without one, requests wait until then */
    uint64_t forgotten;        /* writes, perhaps, that no flush has told of yet */
    unsigned calm;             /* requests in a row that were */
    AioContext *last_caller;   /* of the last request; perhaps it has ended since */
    AioTimer *look_timer;      /* while it may be lent */
    CoQueue waiting;           /* requests, for a connection */
    AioTimer *wait_timer;      /* for wait_until_ns */
    int64_t retry_ns;          /* pause before the next attempt */
    int64_t told_ns;           /* when a loss was last told */
    bool loss_told;            /* the last one was */
    bool closing;
    bool reconnecting; /* a coroutine is at it */
    CoQueue reconnected;

    /* The attempt that is under way. */
    NbdConnect *connect; /* or NULL */
    int attempt_fd;      /* to be shut down to end it, or -1 */

    /* A pause that may be cut short. */
    Coroutine *pausing;
    AioTimer *pause_timer;
    AioTimer *silence_timer; /* at the end */
};

/* ---- pauses ---- */

static void client_end_pause(void *opaque)
{
    NbdClient *c = opaque;

    if (c->pausing) {
        aio_co_wake(g_steal_pointer(&c->pausing));
    }
}

static void co_fn client_co_pause(NbdClient *c, int64_t ns)
{
    c->pausing = coroutine_self();
    aio_timer_arm(c->pause_timer, aio_now_ns() + ns);
    coroutine_yield();
    aio_timer_disarm(c->pause_timer);
}

static bool client_is_ending(NbdClient *c)
{
    return c->closing || g_atomic_int_get(&c->giving_up);
}

/* ---- one attempt ---- */

static int co_fn client_co_connect(NbdClient *c, int64_t deadline_ns, GError **error)
{
    int fd;

    c->connect = nbd_connect_new(c->place);
    fd = nbd_connect_co_run(c->connect, deadline_ns, error);
    nbd_connect_free(g_steal_pointer(&c->connect));
    return fd;
}

/* Takes @fd. */
static NbdConnection *co_fn client_co_negotiate(NbdClient *c, int fd, int64_t deadline_ns,
                                                GError **error)
{
    NbdTunnel *tunnel = NULL;
    int inner_fd = -1;

    if (c->creds) {
        tunnel = nbd_tunnel_co_open(fd, c->creds, c->hostname, deadline_ns, &inner_fd, error);
        if (!tunnel) {
            close(fd);
            return NULL;
        }
    }
    return nbd_connection_co_open(fd, tunnel, inner_fd, c->export_name, deadline_ns,
                                  c->reply_timeout_ns, error);
}

/* Whether the node can go on with what the server says now. */
static bool client_check_info(NbdClient *c, const NbdExportInfo *now, GError **error)
{
    if (c->info.min_block == 0) {
        return true; /* the first time */
    }
    if (now->size < c->info.size) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO,
                    "the export has shrunk from %" G_GINT64_FORMAT " to %" G_GINT64_FORMAT " bytes",
                    c->info.size, now->size);
        return false;
    }
    if (now->min_block > c->info.min_block || now->max_block < c->info.max_block) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO,
                    "the server has other limits on the size of blocks than before");
        return false;
    }
    if (c->info.flush && !now->flush) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO,
                    "the server cannot flush any more, as it could before");
        return false;
    }
    if (now->read_only && g_atomic_int_get(&c->writing)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "the export has become read-only");
        return false;
    }
    return true;
}

static NbdConnection *co_fn client_co_attempt(NbdClient *c, int64_t deadline_ns, GError **error)
{
    NbdConnection *connection;
    int fd = client_co_connect(c, deadline_ns, error);

    if (fd < 0) {
        return NULL;
    }
    if (client_is_ending(c)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC, "it is to be closed");
        close(fd);
        return NULL;
    }
    c->attempt_fd = fd;
    connection = client_co_negotiate(c, fd, deadline_ns, error);
    c->attempt_fd = -1;
    if (connection && !client_check_info(c, nbd_connection_info(connection), error)) {
        nbd_connection_co_close(connection, aio_now_ns() + CLOSE_MAX_NS);
        return NULL;
    }
    return connection;
}

/* Let whatever waits for a server come back. */
static void client_end_waits(NbdClient *c)
{
    if (c->connect) {
        nbd_connect_cancel(c->connect);
    }
    if (c->attempt_fd >= 0) {
        shutdown(c->attempt_fd, SHUT_RDWR);
    }
    client_end_pause(c);
    co_queue_wake_all(&c->waiting);
}

/* ---- lending ---- */

/*
 * To go home and back costs two wake-ups, more than a small request. So while requests are calm,
 * which is that they come one by one, or few at a time from one context, the connection goes to
 * them instead.
 */

/* Only from home does it go from there, so that it is there stays true until we let it go. */
static bool client_is_home(NbdClient *c)
{
    bool home;

    g_mutex_lock(&c->lock);
    home = c->whereabouts == NBD_HOME;
    g_mutex_unlock(&c->lock);
    return home;
}

/* Let requests have it where they are, if they are calm. */
static void client_lend(NbdClient *c)
{
    if (c->calm < LEND_AFTER || client_is_ending(c) || !c->connection || !client_is_home(c) ||
        !nbd_connection_may_go_away(c->connection)) {
        return;
    }
    g_mutex_lock(&c->lock);
    c->whereabouts = NBD_SPARE;
    g_mutex_unlock(&c->lock);
}

/* Have it at home. False: it is lent, and comes if @wanted. */
static bool client_fetch(NbdClient *c, bool wanted)
{
    bool home;

    g_mutex_lock(&c->lock);
    if (c->whereabouts == NBD_SPARE) {
        c->whereabouts = NBD_HOME;
    }
    home = c->whereabouts == NBD_HOME;
    c->wanted |= wanted && !home;
    g_mutex_unlock(&c->lock);
    return home;
}

/*
 * Whether a request in context @here may have it there. That it is there already stays true until
 * the caller returns to its loop. Under the lock.
 */
static bool client_may_borrow(const NbdClient *c, const AioContext *here, bool fua)
{
    bool there = c->whereabouts == NBD_LENT && c->lent_to == here && !c->wanted &&
                 nbd_connection_load(c->connection) < LEND_DEPTH;

    return (there || c->whereabouts == NBD_SPARE) &&
           (!fua || nbd_connection_info(c->connection)->fua);
}

/* Any thread but home: the connection, in the current context, for a request that follows. */
static NbdConnection *client_borrow(NbdClient *c, bool fua)
{
    AioContext *here = aio_context_current();
    NbdConnection *connection = NULL;

    g_mutex_lock(&c->lock);
    if (client_may_borrow(c, here, fua)) {
        c->whereabouts = NBD_LENT;
        c->lent_to = here;
        connection = c->connection;
    }
    g_mutex_unlock(&c->lock);
    if (connection) {
        nbd_connection_go_away(connection, aio_now_ns() + LEND_MAX_NS);
    }
    return connection;
}

static void client_come_home(void *opaque)
{
    NbdClient *c = opaque;

    g_mutex_lock(&c->lock);
    c->whereabouts = NBD_HOME;
    c->wanted = false;
    g_mutex_unlock(&c->lock);
    c->calm = 0;
    nbd_connection_come_home(c->connection);
    co_queue_wake_all(&c->waiting);
}

static void on_left(void *opaque, bool idle)
{
    NbdClient *c = opaque;
    bool home;

    g_mutex_lock(&c->lock);
    home = !idle || c->wanted;
    c->whereabouts = home ? NBD_RETURNING : NBD_SPARE;
    g_mutex_unlock(&c->lock);
    if (home) {
        aio_bh_schedule_oneshot(c->ctx, client_come_home, c);
    }
}

/* Something has come. If that is for a request elsewhere, be quiet here for a while. */
static bool on_come(void *opaque)
{
    NbdClient *c = opaque;

    if (client_fetch(c, false)) {
        return true;
    }
    aio_timer_arm(c->look_timer, aio_now_ns() + LEND_LOOK_NS);
    return false;
}

static void on_look(void *opaque)
{
    NbdClient *c = opaque;

    if (!c->connection) {
        return;
    }
    if (on_come(c)) {
        nbd_connection_come_home(c->connection);
        client_lend(c);
    }
}

/* ---- connections come and go ---- */

static void on_lost(void *opaque, const char *reason);

static void client_adopt(NbdClient *c, NbdConnection *connection)
{
    static const NbdConnectionUser user = {.lost = on_lost, .is_home = on_come, .left = on_left};

    c->connection = connection;
    g_atomic_int_set(&c->read_only, nbd_connection_info(connection)->read_only);
    c->connected_ns = aio_now_ns();
    aio_timer_disarm(c->wait_timer);
    c->calm = 0;
    nbd_connection_set_user(connection, &user, c);
    co_queue_wake_all(&c->waiting);
}

static void on_wait_over(void *opaque)
{
    NbdClient *c = opaque;

    if (!c->connection && c->reconnect_delay_ns) {
        g_message("block node '%s': %s is still away; requests fail now", c->node_name, c->where);
    }
    co_queue_wake_all(&c->waiting);
}

/* Until there is a connection again, or none is wanted any more. */
static void co_fn client_co_reconnect(NbdClient *c)
{
    bool told = false;

    while (!client_is_ending(c)) {
        g_autoptr(GError) error = NULL;
        NbdConnection *connection;

        if (c->retry_ns) {
            client_co_pause(c, c->retry_ns);
        }
        c->retry_ns = CLAMP(2 * c->retry_ns, RETRY_MIN_NS, RETRY_MAX_NS);
        if (client_is_ending(c)) {
            return;
        }
        connection = client_co_attempt(c, aio_now_ns() + ATTEMPT_MAX_NS, &error);
        if (connection) {
            if (c->loss_told || told) {
                g_message("block node '%s': connected to %s again", c->node_name, c->where);
            }
            client_adopt(c, connection);
            return;
        }
        if (!told) {
            g_message("block node '%s': cannot connect to %s again yet: %s", c->node_name, c->where,
                      error->message);
        }
        told = true;
    }
}

/* What is left of a connection that was lost, and those to come. */
static void co_fn client_co_replace(void *opaque)
{
    NbdClient *c = opaque;

    nbd_connection_co_close(g_steal_pointer(&c->connection), 0);
    if (c->place->kind != SOCKET_FD) {
        client_co_reconnect(c);
    }
    c->reconnecting = false;
    co_queue_wake_all(&c->reconnected);
}

static void client_begin_replace(void *opaque)
{
    NbdClient *c = opaque;

    aio_co_enter(c->ctx, client_co_replace, c);
}

/* How long to wait before the first attempt to replace the connection that was lost. */
static int64_t client_first_retry_ns(const NbdClient *c, int64_t now_ns)
{
    if (now_ns - c->connected_ns >= GOOD_AFTER_NS) {
        return 0;
    }
    return nbd_connection_has_served(c->connection) ? RETRY_SERVED_NS
                                                    : MAX(c->retry_ns, RETRY_MIN_NS);
}

static void client_tell_loss(NbdClient *c, const char *reason, int64_t now_ns)
{
    c->loss_told = c->told_ns == 0 || now_ns - c->told_ns >= TELL_EVERY_NS;
    if (c->loss_told) {
        c->told_ns = now_ns;
        g_message("block node '%s': lost the connection to %s: %s", c->node_name, c->where, reason);
    }
}

static void on_lost(void *opaque, const char *reason)
{
    NbdClient *c = opaque;
    int64_t now_ns = aio_now_ns();

    client_tell_loss(c, reason, now_ns);
    if (!c->keeps_writes) {
        c->forgotten += nbd_connection_unflushed(c->connection);
    }
    c->wait_until_ns = c->place->kind == SOCKET_FD ? now_ns : now_ns + c->reconnect_delay_ns;
    aio_timer_arm(c->wait_timer, c->wait_until_ns);
    c->retry_ns = client_first_retry_ns(c, now_ns);
    c->reconnecting = true;
    /* Not from inside the connection. */
    aio_bh_schedule_oneshot(c->ctx, client_begin_replace, c);
}

/* ---- requests ---- */

static NbdConnection *client_connection(NbdClient *c)
{
    return c->connection && !nbd_connection_is_lost(c->connection) ? c->connection : NULL;
}

/* Wait for a connection, but not beyond @give_up_ns for one to be made. */
static NbdConnection *co_fn client_co_get_connection(NbdClient *c, int64_t give_up_ns)
{
    for (;;) {
        if (client_connection(c)) {
            if (client_fetch(c, true)) {
                return c->connection;
            }
        } else if (client_is_ending(c) || aio_now_ns() >= MIN(give_up_ns, c->wait_until_ns)) {
            return NULL;
        }
        co_queue_wait(&c->waiting, NULL);
    }
}

/* A request of @caller is about to be sent. */
static void client_count_calm(NbdClient *c, AioContext *caller)
{
    unsigned load = nbd_connection_load(c->connection);
    bool is_calm = load == 0 || (load < LEND_DEPTH && caller == c->last_caller);

    c->calm = is_calm ? c->calm + 1 : 0;
    c->last_caller = caller;
}

/* What is to be done in the client's home, for whom. */
typedef struct NbdJob {
    NbdClientWork *work;
    void *opaque;
    AioContext *caller;
    bool lost;             /* an attempt has been made elsewhere that ended with the connection */
    NbdConnection *ending; /* or that its server answered by saying that it shuts down, or NULL */
} NbdJob;

/* With @connection, at home. */
static int co_fn client_co_work(NbdClient *c, NbdConnection *connection, const NbdJob *job)
{
    int r;

    client_count_calm(c, job->caller);
    r = job->work(connection, job->opaque);
    client_lend(c);
    return r;
}

/* In the client's home. */
static int co_fn client_co_run_here(NbdClient *c, const NbdJob *job)
{
    /* From the first loss on, for this request. */
    int64_t give_up_ns = job->lost ? c->wait_until_ns : G_MAXINT64;
    const NbdConnection *ending = job->ending;

    while (aio_now_ns() < give_up_ns) {
        NbdConnection *connection = client_co_get_connection(c, give_up_ns);
        int r;

        if (!connection) {
            return -EIO;
        }
        r = connection == ending ? -ESHUTDOWN : client_co_work(c, connection, job);
        ending = NULL;
        if (r == -ESHUTDOWN && connection == client_connection(c) && client_fetch(c, true)) {
            nbd_connection_lose(connection, "the server shuts down");
        } else if (r != -ENOTCONN && r != -ESHUTDOWN) {
            return r;
        }
        if (give_up_ns == G_MAXINT64) {
            give_up_ns = c->wait_until_ns;
        }
    }
    return -EIO;
}

/* The same from anywhere. */
static int co_fn client_co_run(NbdClient *c, const NbdJob *job)
{
    int r;

    aio_co_reschedule_self(c->ctx);
    r = client_co_run_here(c, job);
    aio_co_reschedule_self(job->caller);
    return r;
}

int co_fn nbd_client_co_run(NbdClient *c, NbdClientWork *work, void *opaque)
{
    NbdJob job = {.work = work, .opaque = opaque, .caller = aio_context_current()};

    return client_co_run(c, &job);
}

int co_fn nbd_client_co_run_brief(NbdClient *c, bool fua, NbdClientWork *work, void *opaque)
{
    NbdJob job = {.work = work, .opaque = opaque, .caller = aio_context_current()};
    NbdConnection *connection = client_borrow(c, fua);

    if (connection) {
        int r = work(connection, opaque);

        if (r != -ENOTCONN && r != -ESHUTDOWN) {
            return r;
        }
        job.lost = r == -ENOTCONN;
        job.ending = r == -ESHUTDOWN ? connection : NULL;
    }
    return client_co_run(c, &job);
}

/* ---- flushing ---- */

typedef struct NbdFlush {
    NbdClient *client;
    uint64_t forgotten; /* before the flush was sent; what is forgotten later is not its affair */
    int answer;         /* of the last connection that was asked */
} NbdFlush;

static int co_fn co_flush(NbdConnection *connection, void *opaque)
{
    NbdFlush *flush = opaque;

    flush->forgotten = flush->client->forgotten;
    flush->answer = nbd_connection_co_flush(connection);
    return flush->answer;
}

/* What is there is flushed in any case. */
static int co_fn client_co_flush_here(NbdClient *c, AioContext *caller, NbdFlushFailure *why)
{
    NbdFlush flush = {.client = c};
    NbdJob job = {.work = co_flush, .opaque = &flush, .caller = caller};
    int r = client_co_run_here(c, &job);

    if (r < 0) {
        bool away = flush.answer == 0 || flush.answer == -ENOTCONN || flush.answer == -ESHUTDOWN;

        *why = away ? NBD_FLUSH_LATE : NBD_FLUSH_REFUSED;
        return r;
    }
    if (flush.forgotten == 0) {
        return 0;
    }
    *why = NBD_FLUSH_FORGOTTEN;
    c->forgotten -= flush.forgotten;
    g_warning("block node '%s': %s was lost with %" G_GUINT64_FORMAT " unflushed writes, which it "
              "may have forgotten; a flush fails for that, once",
              c->node_name, c->where, flush.forgotten);
    return -EIO;
}

int co_fn nbd_client_co_flush(NbdClient *c, NbdFlushFailure *why)
{
    AioContext *caller = aio_context_current();
    int r;

    aio_co_reschedule_self(c->ctx);
    r = client_co_flush_here(c, caller, why);
    aio_co_reschedule_self(caller);
    return r;
}

/* ---- life ---- */

static void on_silent_end(void *opaque);

static bool co_fn client_co_open_here(NbdClient *c, GError **error)
{
    int64_t deadline_ns = aio_now_ns() + c->open_timeout_ns;

    c->wait_timer = aio_timer_new(c->ctx, on_wait_over, c);
    c->look_timer = aio_timer_new(c->ctx, on_look, c);
    c->pause_timer = aio_timer_new(c->ctx, client_end_pause, c);
    c->silence_timer = aio_timer_new(c->ctx, on_silent_end, c);
    for (;;) {
        g_autoptr(GError) reason = NULL;
        int64_t limit_ns = aio_now_ns() + ATTEMPT_MAX_NS;
        NbdConnection *connection =
            client_is_ending(c)
                ? NULL
                : client_co_attempt(c, c->open_timeout_ns ? MIN(deadline_ns, limit_ns) : limit_ns,
                                    &reason);

        if (connection) {
            c->info = *nbd_connection_info(connection);
            client_adopt(c, connection);
            return true;
        }
        if (client_is_ending(c) || c->place->kind == SOCKET_FD ||
            aio_now_ns() + RETRY_MIN_NS >= deadline_ns) {
            g_set_error(error, reason ? reason->domain : WHARF_ERROR,
                        reason ? reason->code : WHARF_ERROR_GENERIC,
                        "cannot open NBD export '%s' of %s: %s", c->export_name, c->where,
                        reason ? reason->message : "the daemon ends");
            return false;
        }
        client_co_pause(c, RETRY_MIN_NS);
    }
}

bool co_fn nbd_client_co_open(NbdClient *c, GError **error)
{
    AioContext *caller = aio_context_current();
    bool ok;

    aio_co_reschedule_self(c->ctx);
    ok = client_co_open_here(c, error);
    aio_co_reschedule_self(caller);
    return ok;
}

static void co_fn client_co_close_here(NbdClient *c)
{
    c->closing = true;
    client_end_waits(c);
    while (c->reconnecting || (c->connection && !client_fetch(c, true))) {
        co_queue_wait(c->reconnecting ? &c->reconnected : &c->waiting, NULL);
    }
    nbd_connection_co_close(g_steal_pointer(&c->connection), aio_now_ns() + CLOSE_MAX_NS);
    g_clear_pointer(&c->wait_timer, aio_timer_free);
    g_clear_pointer(&c->look_timer, aio_timer_free);
    g_clear_pointer(&c->pause_timer, aio_timer_free);
    g_clear_pointer(&c->silence_timer, aio_timer_free);
}

void co_fn nbd_client_co_close(NbdClient *c)
{
    AioContext *caller = aio_context_current();

    aio_co_reschedule_self(c->ctx);
    client_co_close_here(c);
    aio_co_reschedule_self(caller);
}

/* Whether the server, which has been silent, still is: then it is taken for lost. */
static void client_check_silence(NbdClient *c)
{
    bool here = client_connection(c) && client_fetch(c, true);
    int64_t silence = here ? nbd_connection_silence(c->connection) : 0;

    if (silence >= SILENCE_AT_END_NS) {
        nbd_connection_lose(c->connection, "the server does not answer, and the daemon ends");
    } else if (!c->closing) {
        aio_timer_arm(c->silence_timer, aio_now_ns() + SILENCE_AT_END_NS - silence);
    }
}

static void on_silent_end(void *opaque)
{
    client_check_silence(opaque);
}

/* Home; holds a reference to it. */
static void client_give_up_here(void *opaque)
{
    NbdClient *c = opaque;

    if (c->closing || !c->silence_timer) {
        return;
    }
    client_end_waits(c);
    client_check_silence(c);
}

void nbd_client_give_up_waiting(NbdClient *c)
{
    g_atomic_int_set(&c->giving_up, 1);
    aio_bh_schedule_oneshot(c->ctx, client_give_up_here, c);
}

NbdClient *nbd_client_new(const NbdClientOptions *o, GError **error)
{
    g_autofree char *thread_name = g_strdup_printf("nbd-%s", o->node_name);
    Iothread *home = iothread_new(thread_name, NULL, error);
    NbdClient *c;

    if (!home) {
        return NULL;
    }
    c = g_new0(NbdClient, 1);
    g_mutex_init(&c->lock);
    c->home = home;
    c->ctx = iothread_context(home);
    c->node_name = g_strdup(o->node_name);
    c->place = socket_place_copy(o->place);
    c->where = socket_place_describe(o->place);
    c->export_name = g_strdup(o->export_name);
    c->creds = o->creds ? tls_creds_ref(o->creds) : NULL;
    c->hostname = g_strdup(o->hostname);
    c->reconnect_delay_ns = o->reconnect_delay_s * SECOND_NS;
    c->open_timeout_ns = o->open_timeout_s * SECOND_NS;
    c->reply_timeout_ns = o->reply_timeout_s * SECOND_NS;
    c->keeps_writes = o->keeps_writes;
    c->attempt_fd = -1;
    return c;
}

void nbd_client_free(NbdClient *c)
{
    if (!c) {
        return;
    }
    iothread_unref(c->home);
    g_mutex_clear(&c->lock);
    tls_creds_unref(c->creds);
    socket_place_free(c->place);
    g_free(c->node_name);
    g_free(c->where);
    g_free(c->export_name);
    g_free(c->hostname);
    g_free(c);
}

const NbdExportInfo *nbd_client_info(const NbdClient *c)
{
    return &c->info;
}

bool nbd_client_is_read_only(NbdClient *c)
{
    return g_atomic_int_get(&c->read_only);
}

void nbd_client_set_writing(NbdClient *c, bool writing)
{
    g_atomic_int_set(&c->writing, writing);
}
