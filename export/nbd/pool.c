/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory for requests. A call and its buffer are one mapping, of one of a few sizes; the ones used
 * last are the first to be used again, for they are in the cache. What is too large for a class is
 * mapped for the one request.
 */
#include <sys/mman.h>

#include "export/nbd/nbd-internal.h"

#define POOL_PAGE    4096
#define POOL_TRIM_NS (1000 * G_GINT64_CONSTANT(1000000))

/* Room in the buffers of each class, and how many free ones are kept. */
static const struct {
    size_t bytes;
    unsigned keep;
} classes[] = {
    {0, 256},
    {16 * 1024, 256},
    {128 * 1024, 64},
    {1024 * 1024, 16},
};

#define POOL_CLASSES  G_N_ELEMENTS(classes)
#define POOL_NO_CLASS POOL_CLASSES

G_STATIC_ASSERT(sizeof(NbdCall) <= POOL_PAGE);

struct NbdPool {
    AioContext *ctx;
    AioTimer *timer; /* while it runs */
    bool used;       /* since the timer looked */
    NbdCall *free[POOL_CLASSES];
    unsigned n_free[POOL_CLASSES];
};

NbdPool *nbd_pool_new(AioContext *ctx)
{
    NbdPool *pool = g_new0(NbdPool, 1);

    pool->ctx = ctx;
    return pool;
}

static void call_unmap(NbdCall *call)
{
    aio_buffer_free(call->kept);
    munmap(call, POOL_PAGE + call->buffer_size);
}

static void pool_trim(NbdPool *pool)
{
    for (unsigned i = 0; i < POOL_CLASSES; i++) {
        while (pool->free[i]) {
            NbdCall *call = pool->free[i];

            pool->free[i] = call->next;
            call_unmap(call);
        }
        pool->n_free[i] = 0;
    }
}

void nbd_pool_free(NbdPool *pool)
{
    if (!pool) {
        return;
    }
    g_assert(!pool->timer);
    g_free(pool);
}

static void on_timer(void *opaque)
{
    NbdPool *pool = opaque;

    if (pool->used) {
        pool->used = false;
        aio_timer_arm(pool->timer, aio_now_ns() + POOL_TRIM_NS);
    } else {
        pool_trim(pool);
    }
}

void nbd_pool_begin(NbdPool *pool)
{
    pool->timer = aio_timer_new(pool->ctx, on_timer, pool);
    pool->used = false;
}

void nbd_pool_stop(NbdPool *pool)
{
    g_clear_pointer(&pool->timer, aio_timer_free);
    pool_trim(pool);
}

/* Have the timer look soon. */
static void pool_touch(NbdPool *pool)
{
    if (!pool->used) {
        aio_timer_arm(pool->timer, aio_now_ns() + POOL_TRIM_NS);
    }
    pool->used = true;
}

static NbdCall *call_map(const NbdPool *pool, unsigned size_class, size_t bytes)
{
    size_t room = size_class < POOL_CLASSES ? classes[size_class].bytes
                                            : (bytes + POOL_PAGE - 1) / POOL_PAGE * POOL_PAGE;
    NbdCall *call = aio_buffer_map(POOL_PAGE + room);

    if (!call) {
        return NULL;
    }
    call->size_class = size_class;
    call->buffer_size = room;
    call->buffer = (uint8_t *)call + POOL_PAGE;
    if (pool->timer && size_class < POOL_CLASSES && room) {
        call->kept = aio_buffer_new(call->buffer, room);
    }
    return call;
}

NbdCall *nbd_pool_take(NbdPool *pool, size_t bytes)
{
    unsigned i = 0;
    NbdCall *call;

    while (i < POOL_CLASSES && classes[i].bytes < bytes) {
        i++;
    }
    call = i < POOL_CLASSES ? pool->free[i] : NULL;
    if (call) {
        pool->free[i] = call->next;
        pool->n_free[i]--;
    } else {
        call = call_map(pool, i, bytes);
        if (!call) {
            return NULL;
        }
    }
    call->pool = pool;
    call->next = NULL;
    call->n_iov = 0;
    call->answer_bytes = 0;
    call->heads_bytes = 0;
    return call;
}

void nbd_pool_give(NbdPool *pool, NbdCall *call)
{
    unsigned i = call->size_class;

    if (!pool->timer || i >= POOL_CLASSES || pool->n_free[i] >= classes[i].keep) {
        call_unmap(call);
        return;
    }
    pool_touch(pool);
    call->next = pool->free[i];
    pool->free[i] = call;
    pool->n_free[i]++;
}
