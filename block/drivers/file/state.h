/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/file/state.h - what the files of the file driver share: a node's state, and its
 * requests (io.c, truncate.c, device.c), which file.c puts into the tables of `file` and
 * `host_device`.
 */
#ifndef WHARF_BLOCK_DRIVERS_FILE_STATE_H
#define WHARF_BLOCK_DRIVERS_FILE_STATE_H

#include <stdatomic.h>

#include "aio/aio.h"
#include "aio/lock.h"
#include "block/driver.h"
#include "block/drivers/file/extents.h"
#include "block/drivers/file/handle.h"
#include "block/drivers/file/locks.h"

/* One method of changing a range without writing it: whether the file system has refused it. */
typedef enum FileMethod {
    FILE_METHOD_PUNCH,      /* give the range back; it reads as zeros */
    FILE_METHOD_ZERO_RANGE, /* zeros, and still allocated */
    FILE_METHOD_ALLOCATE,
    FILE_METHOD_DISCARD, /* devices only */
    FILE_METHOD__MAX,
} FileMethod;

/* Syncs, and writes that are synced in the same step, of one descriptor. */
typedef struct FileSyncs {
    GMutex lock;
    CoQueue ended;     /* one has */
    GQueue under_way;  /* FileSync *, oldest first */
    uint64_t begun;    /* counted */
    uint64_t failures; /* counted */
    int error;         /* of the last that failed */
} FileSyncs;

typedef struct FileSync {
    GList link; /* in under_way */
    uint64_t number;
    uint64_t failures; /* when it began */
} FileSync;

typedef struct FileState {
    /* Fixed while requests run. What handle.fd leads to may change under them: see handle.h. */
    FileHandle handle;
    AioEngine engine;
    uint32_t page_size; /* of the kernel's page cache */

    BlockNode *node; /* fixed */

    /* Requests, any thread. */
    FileExtentCache extents;
    atomic_bool refused[FILE_METHOD__MAX]; /* once refused, not tried again */
    /*
     * The first error of a sync, negative. A page that could not be written is clean to the kernel
     * from then on: a later sync would succeed without it. So the node never again claims that all
     * is on stable storage, until it is opened anew. Not set for direct I/O, where no page cache is
     * in between and each sync speaks for itself; but once the tail of a file of odd length has
     * gone through it, it is.
     */
    atomic_int sync_error;
    atomic_bool tail_cached;
    FileSyncs syncs;
    atomic_uint_fast64_t discards_ok, discards_failed, discarded_bytes;

    /* Control coroutines only. */
    char *path;
    bool use_locks;
    unsigned perm, shared; /* as last set; BlockPerm bits */
    FileLockSet locks;     /* what handle.fd holds */
    FileHandle next;       /* will replace the handle's descriptor, once it is decided */
    bool next_use_locks;   /* of the reopen that is under way */
} FileState;

/* Requests of regular files; host_device shares those without a twin below. */
int co_fn file_co_preadv(BlockNode *node, uint64_t offset, const IoVector *iov,
                         BlockRequestFlags flags);
int co_fn file_co_splice(BlockNode *node, uint64_t offset, size_t bytes, int pipe);
int co_fn file_co_pwritev(BlockNode *node, uint64_t offset, const IoVector *iov,
                          BlockRequestFlags flags);
int co_fn file_co_splice_write(BlockNode *node, uint64_t offset, size_t bytes, int pipe);
int co_fn file_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                BlockRequestFlags flags);
int co_fn file_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes);
int co_fn file_co_allocate(BlockNode *node, uint64_t offset, uint64_t bytes);
int co_fn file_co_flush(BlockNode *node);
int co_fn file_co_truncate(BlockNode *node, uint64_t size, PreallocMode prealloc,
                           BlockRequestFlags flags, GError **error);
int co_fn file_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes, uint64_t *pnum,
                               BlockStatus *status);
int64_t co_fn file_co_length(BlockNode *node);
int64_t co_fn file_co_allocated_size(BlockNode *node);

/* create.c */
bool co_fn file_co_create(BlockGraph *graph, const BlockdevCreateOptions *opts, Job *job,
                          GError **error);

int co_fn file_device_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                       BlockRequestFlags flags);
int co_fn file_device_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes);
int co_fn file_device_co_truncate(BlockNode *node, uint64_t size, PreallocMode prealloc,
                                  BlockRequestFlags flags, GError **error);

/* The worker threads for a file: for one on a FUSE mount, those apart. */
static inline AioEngine file_worker_engine(const FileState *s)
{
    return s->handle.engine == AIO_ENGINE_APART ? AIO_ENGINE_APART : AIO_ENGINE_THREADS;
}

static inline int co_fn file_co_run_worker(const FileState *s, int (*fn)(void *opaque),
                                           void *opaque)
{
    return s->handle.engine == AIO_ENGINE_APART ? aio_co_run_worker_apart(fn, opaque)
                                                : aio_co_run_worker(fn, opaque);
}

/*
 * What to write to. When a reopen has given the permission to write, but its end has not come yet,
 * that is the descriptor to be.
 */
static inline int file_fd_for_writing(const FileState *s)
{
    return G_LIKELY(s->handle.writable) || !s->next.writable ? s->handle.fd : s->next.fd;
}

/* Whether @method is worth a try. */
bool file_method_usable(const FileState *s, FileMethod method);

/*
 * Judge the result @r (0 or -errno) of @method: what says that it is not to be had becomes -ENOTSUP
 * and, where it will never be, is remembered.
 */
int file_method_result(FileState *s, FileMethod method, int r);

/* Count a discard of @bytes that ended with @r, for query-blockstats. Returns @r. */
int file_count_discard(FileState *s, uint64_t bytes, int r);

/* Whether what is written goes through the page cache, or some of it has gone there. */
static inline bool file_keeps_cached(FileState *s)
{
    return !s->handle.direct || atomic_load(&s->tail_cached);
}

void file_syncs_init(FileSyncs *syncs);
void file_syncs_clear(FileSyncs *syncs);

/*
 * Around each step that asks the kernel to make something durable, and before anybody is told that
 * it is: what others had done meanwhile; with @wait, when those have ended, too, that had begun.
 * 0, or the error of one that has failed. (@error: 0, or what the sync has failed with.)
 */
void file_sync_begin(FileState *s, FileSync *sync);
void file_sync_end(FileState *s, FileSync *sync, int error);
int co_fn file_sync_co_settle(FileState *s, const FileSync *sync, bool wait);

/* A sync of the file has failed with @error, which is returned. Any thread. */
int file_sync_failed(FileState *s, int error);

/*
 * Sync the data behind @s's descriptor and remember failure (see sync_error). For control
 * coroutines; requests come through file_co_flush().
 */
int co_fn file_sync(FileState *s);

#endif
