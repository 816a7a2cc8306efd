/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Large writes to nodes that copy the data while the caller waits, as to a file in memory. They are
 * done in pieces. Between two of them the connection gets its turn, so that its client, whose
 * socket holds much less than one payload, goes on meanwhile. And another context that has nothing
 * else to do takes pieces, too, as many as it finds; nobody waits for it to begin.
 */
#include "export/nbd/nbd-internal.h"

/* About what the socket of a client holds: it fills that up while so much is written. */
#define BULK_PIECE (256 * 1024)

struct NbdBulk {
    AioContext *home;
    AioBh *over;
    bool helped; /* home: a coroutine takes pieces elsewhere, or is on its way there or back */
    AioContext *helper;

    GMutex lock;            /* of what follows, and of NbdCall.pieces */
    NbdCall *first, **tail; /* those with pieces that nobody has taken */
};

NbdBulk *nbd_bulk_new(AioContext *home, AioBh *over)
{
    NbdBulk *bulk = g_new0(NbdBulk, 1);

    bulk->home = home;
    bulk->over = over;
    bulk->tail = &bulk->first;
    g_mutex_init(&bulk->lock);
    return bulk;
}

void nbd_bulk_free(NbdBulk *bulk)
{
    g_assert(!bulk->first && !bulk->helped);
    g_mutex_clear(&bulk->lock);
    g_free(bulk);
}

bool nbd_bulk_is_helped(const NbdBulk *bulk)
{
    return bulk->helped;
}

/* ---- pieces ---- */

static void bulk_remove(NbdBulk *bulk, NbdCall *call)
{
    NbdCall **at = &bulk->first;

    while (*at != call) {
        at = &(*at)->next;
    }
    *at = call->next;
    if (!*at) {
        bulk->tail = at;
    }
}

/* A piece of @call (NULL: of the oldest) that is to be done by the caller. False: there is none. */
static bool bulk_take(NbdBulk *bulk, NbdCall **call, size_t *at)
{
    bool any;

    g_mutex_lock(&bulk->lock);
    if (!*call) {
        *call = bulk->first;
    }
    any = *call && (*call)->pieces.taken < (*call)->payload;
    if (any) {
        *at = (*call)->pieces.taken;
        (*call)->pieces.taken = MIN(*at + BULK_PIECE, (*call)->payload);
        (*call)->pieces.busy++;
        if ((*call)->pieces.taken == (*call)->payload) {
            bulk_remove(bulk, *call);
        }
    }
    g_mutex_unlock(&bulk->lock);
    return any;
}

/* A piece of @call is done, with @ret. If others did it, @call may be gone then. */
static void bulk_give(NbdBulk *bulk, NbdCall *call, int ret)
{
    Coroutine *waits = NULL;

    g_mutex_lock(&bulk->lock);
    call->pieces.ret = call->pieces.ret < 0 ? call->pieces.ret : ret;
    if (ret < 0 && call->pieces.taken < call->payload) {
        call->pieces.taken = call->payload;
        bulk_remove(bulk, call);
    }
    if (--call->pieces.busy == 0) {
        waits = g_steal_pointer(&call->pieces.waits);
    }
    g_mutex_unlock(&bulk->lock);
    if (waits) {
        aio_co_wake(waits);
    }
}

/* Do a piece of @call (NULL: of the oldest). False if there is none. */
static bool co_fn bulk_co_do_piece(NbdBulk *bulk, NbdCall *call)
{
    size_t at;

    if (!bulk_take(bulk, &call, &at)) {
        return false;
    }
    bulk_give(bulk, call, nbd_call_co_write_part(call, at, MIN(BULK_PIECE, call->payload - at)));
    return true;
}

/* ---- who does them ---- */

static void co_fn bulk_co_help(void *opaque)
{
    NbdBulk *bulk = opaque;

    do {
        aio_co_reschedule_self(bulk->helper);
        while (bulk_co_do_piece(bulk, NULL)) {
        }
        aio_co_reschedule_self(bulk->home);
    } while (bulk->first); /* only read, by who alone appends */
    bulk->helped = false;
    aio_bh_schedule(bulk->over);
}

static void bulk_add(NbdBulk *bulk, NbdCall *call)
{
    call->pieces = (NbdPieces){0};
    call->next = NULL;
    g_mutex_lock(&bulk->lock);
    *bulk->tail = call;
    bulk->tail = &call->next;
    g_mutex_unlock(&bulk->lock);
}

static void co_fn bulk_co_wait(NbdBulk *bulk, NbdCall *call)
{
    bool busy;

    g_mutex_lock(&bulk->lock);
    busy = call->pieces.busy > 0;
    if (busy) {
        call->pieces.waits = coroutine_self();
    }
    g_mutex_unlock(&bulk->lock);
    if (busy) {
        coroutine_yield();
    }
}

int co_fn nbd_bulk_co_write(NbdBulk *bulk, NbdCall *call, AioContext *helper)
{
    bulk_add(bulk, call);
    if (helper && !bulk->helped) {
        bulk->helped = true;
        bulk->helper = helper;
        coroutine_enter(coroutine_create(bulk_co_help, bulk));
    }
    while (bulk_co_do_piece(bulk, call)) {
        aio_co_schedule(bulk->home, coroutine_self());
        coroutine_yield();
    }
    bulk_co_wait(bulk, call);
    return call->pieces.ret;
}
