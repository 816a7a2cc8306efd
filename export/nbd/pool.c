/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory for requests, and pipes. A call and its buffer are one mapping, of one of a few sizes; the
 * ones used last are the first to be used again, for they are in the cache. What is too large for a
 * class is mapped for the one request. Free calls that a second long nobody has had a use for are
 * unmapped, such pipes closed.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

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
    {1024 * 1024, 64},
};

#define POOL_CLASSES  G_N_ELEMENTS(classes)
#define POOL_NO_CLASS POOL_CLASSES

G_STATIC_ASSERT(sizeof(NbdCall) <= POOL_PAGE);

/* There are few: what is in them cannot be used for anything else, and users have few. */
#define POOL_PIPES_MAX  16
#define POOL_PIPE_PAGES 256 /* what one may have without privileges */

struct NbdPool {
    AioContext *ctx;
    AioTimer *timer;             /* while it runs */
    bool armed;                  /* so is the timer */
    NbdCall *free[POOL_CLASSES]; /* the one used last first */
    unsigned n_free[POOL_CLASSES];
    unsigned spare[POOL_CLASSES]; /* so many have been free ever since the timer looked */
    NbdPipe *free_pipes;          /* the one used last first */
    unsigned n_pipes, n_free_pipes, spare_pipes;
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

/* Unmap all free calls of class @i but the first @n. */
static void pool_keep(NbdPool *pool, unsigned i, unsigned n)
{
    NbdCall **at = &pool->free[i];

    for (unsigned k = 0; k < n; k++) {
        at = &(*at)->next;
    }
    while (*at) {
        NbdCall *call = *at;

        *at = call->next;
        call_unmap(call);
    }
    pool->n_free[i] = n;
    pool->spare[i] = n;
}

static void pipe_close(NbdPool *pool, NbdPipe *pipe)
{
    close(pipe->read_fd);
    close(pipe->write_fd);
    g_free(pipe);
    pool->n_pipes--;
}

/* Close all free pipes but the first @n. */
static void pool_keep_pipes(NbdPool *pool, unsigned n)
{
    NbdPipe **at = &pool->free_pipes;

    for (unsigned k = 0; k < n; k++) {
        at = &(*at)->next;
    }
    while (*at) {
        NbdPipe *pipe = *at;

        *at = pipe->next;
        pipe_close(pool, pipe);
    }
    pool->n_free_pipes = n;
    pool->spare_pipes = n;
}

void nbd_pool_free(NbdPool *pool)
{
    if (!pool) {
        return;
    }
    g_assert(!pool->timer && pool->n_pipes == 0);
    g_free(pool);
}

/* Have the timer look a while from now. */
static void pool_arm(NbdPool *pool)
{
    if (!pool->armed) {
        aio_timer_arm(pool->timer, aio_now_ns() + POOL_TRIM_NS);
        pool->armed = true;
    }
}

static void on_timer(void *opaque)
{
    NbdPool *pool = opaque;
    unsigned left;

    pool_keep_pipes(pool, pool->n_free_pipes - pool->spare_pipes);
    left = pool->n_free_pipes;
    for (unsigned i = 0; i < POOL_CLASSES; i++) {
        pool_keep(pool, i, pool->n_free[i] - pool->spare[i]);
        left += pool->n_free[i];
    }
    pool->armed = false;
    if (left) {
        pool_arm(pool);
    }
}

void nbd_pool_begin(NbdPool *pool)
{
    pool->timer = aio_timer_new(pool->ctx, on_timer, pool);
    pool->armed = false;
}

void nbd_pool_stop(NbdPool *pool)
{
    g_clear_pointer(&pool->timer, aio_timer_free);
    for (unsigned i = 0; i < POOL_CLASSES; i++) {
        pool_keep(pool, i, 0);
    }
    pool_keep_pipes(pool, 0);
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
        pool->spare[i] = MIN(pool->spare[i], pool->n_free[i]);
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
    pool_arm(pool);
    call->next = pool->free[i];
    pool->free[i] = call;
    pool->n_free[i]++;
}

/* ---- pipes ---- */

static NbdPipe *pipe_open(NbdPool *pool)
{
    NbdPipe *pipe;
    int fds[2], room;

    if (pool->n_pipes == POOL_PIPES_MAX || pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0) {
        return NULL;
    }
    fcntl(fds[1], F_SETPIPE_SZ, POOL_PIPE_PAGES * sysconf(_SC_PAGESIZE));
    room = fcntl(fds[1], F_GETPIPE_SZ);
    pipe = g_new0(NbdPipe, 1);
    pipe->read_fd = fds[0];
    pipe->write_fd = fds[1];
    pipe->room = MAX(room, 0) / sysconf(_SC_PAGESIZE);
    pool->n_pipes++;
    return pipe;
}

NbdPipe *nbd_pool_take_pipe(NbdPool *pool, size_t pages)
{
    NbdPipe *pipe = pool->free_pipes;

    if (pages > POOL_PIPE_PAGES) {
        return NULL;
    }
    if (pipe) {
        pool->free_pipes = pipe->next;
        pool->n_free_pipes--;
        pool->spare_pipes = MIN(pool->spare_pipes, pool->n_free_pipes);
    } else {
        pipe = pipe_open(pool);
    }
    if (pipe && pipe->room < pages) { /* the user may have no more */
        nbd_pool_give_pipe(pool, pipe);
        return NULL;
    }
    return pipe;
}

void nbd_pool_give_pipe(NbdPool *pool, NbdPipe *pipe)
{
    if (!pool->timer || pipe->bytes) { /* or empty it, which takes longer */
        pipe_close(pool, pipe);
        return;
    }
    pool_arm(pool);
    pipe->next = pool->free_pipes;
    pool->free_pipes = pipe;
    pool->n_free_pipes++;
}
