/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Syncs of the file driver, alone and as part of a write.
 *
 * What the kernel could not write it tells a descriptor once. So of several syncs that run at the
 * same time the first that looks takes the error, though it may be about what another one was to
 * make durable, which then succeeds. Each therefore waits for those that were begun before it
 * ended, and fails if one of them did.
 */
#include <errno.h>

#include "block/drivers/file/state.h"

void file_syncs_init(FileSyncs *syncs)
{
    g_mutex_init(&syncs->lock);
    co_queue_init(&syncs->ended);
    g_queue_init(&syncs->under_way);
}

void file_syncs_clear(FileSyncs *syncs)
{
    g_assert(g_queue_is_empty(&syncs->under_way));
    g_mutex_clear(&syncs->lock);
}

/*
 * The kernel tells a descriptor of a failed sync once, but it is of concern to each user of the
 * node; and the first one is kept for ever (see sync_error).
 */
static void remember_error(FileState *s, int error)
{
    int none = 0;

    block_node_report_flush_error(s->node);
    if (file_keeps_cached(s)) {
        atomic_compare_exchange_strong(&s->sync_error, &none, error);
    }
}

void file_sync_begin(FileState *s, FileSync *sync)
{
    FileSyncs *syncs = &s->syncs;

    *sync = (FileSync){.link.data = sync};
    g_mutex_lock(&syncs->lock);
    sync->number = syncs->begun++;
    sync->failures = syncs->failures;
    g_queue_push_tail_link(&syncs->under_way, &sync->link);
    g_mutex_unlock(&syncs->lock);
}

void file_sync_end(FileState *s, FileSync *sync, int error)
{
    FileSyncs *syncs = &s->syncs;

    if (error < 0) {
        remember_error(s, error);
    }
    g_mutex_lock(&syncs->lock);
    if (error < 0) {
        syncs->failures++;
        syncs->error = error;
    }
    g_queue_unlink(&syncs->under_way, &sync->link);
    co_queue_wake_all(&syncs->ended);
    g_mutex_unlock(&syncs->lock);
}

static bool any_before(const FileSyncs *syncs, uint64_t number)
{
    const GList *oldest = syncs->under_way.head;

    return oldest && ((const FileSync *)oldest->data)->number < number;
}

int co_fn file_sync_co_settle(FileState *s, const FileSync *sync, bool wait)
{
    FileSyncs *syncs = &s->syncs;
    uint64_t begun;
    int r;

    g_mutex_lock(&syncs->lock);
    begun = syncs->begun;
    while (wait && any_before(syncs, begun)) {
        co_queue_wait(&syncs->ended, &syncs->lock);
    }
    r = syncs->failures == sync->failures ? 0 : syncs->error;
    g_mutex_unlock(&syncs->lock);
    return r;
}

int file_sync_failed(FileState *s, int error)
{
    FileSync sync;

    file_sync_begin(s, &sync);
    file_sync_end(s, &sync, error);
    return error;
}

int co_fn file_sync(FileState *s)
{
    int r = atomic_load_explicit(&s->sync_error, memory_order_relaxed);
    FileSync sync;

    if (r < 0) {
        return r;
    }
    file_sync_begin(s, &sync);
    r = aio_co_fsync(s->engine, s->handle.fd, true);
    if (r == -EAGAIN) {
        r = aio_co_fsync(file_worker_engine(s), s->handle.fd, true);
    }
    file_sync_end(s, &sync, r == -EAGAIN ? 0 : r);
    return r < 0 ? r : file_sync_co_settle(s, &sync, true);
}

int co_fn file_co_flush(BlockNode *node)
{
    return file_sync(block_node_state(node));
}
