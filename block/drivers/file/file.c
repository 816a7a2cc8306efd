/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The drivers `file` (regular files) and `host_device` (block devices): opening, reopening,
 * permissions, information. Whatever may wait for storage runs in a worker thread, for the image
 * may lie on a mount that this very thread serves.
 *
 * A node's descriptor keeps its number for life. Where it must be opened differently (writable or
 * not, direct or not), the new descriptor is prepared first, as `next`, together with the locks;
 * taking it into use is then a step that cannot fail.
 */
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "block/drivers/file/state.h"
#include "util/error.h"

#define WRITING (BLOCK_PERM_WRITE | BLOCK_PERM_WRITE_UNCHANGED | BLOCK_PERM_RESIZE)

static const BlockdevOptionsFile *file_options(const BlockdevOptions *opts)
{
    return opts->driver == BLOCKDEV_DRIVER_HOST_DEVICE ? &opts->u.host_device : &opts->u.file;
}

/* The descriptor that these options and permissions ask for. */
static FileAccess access_for(const BlockNodeFlags *flags, unsigned perm)
{
    bool writes_now = !flags->auto_read_only || (perm & WRITING);

    return (FileAccess){.writable = !flags->read_only && writes_now, .direct = flags->cache_direct};
}

static bool check_options(const BlockdevOptionsFile *o, const BlockNodeFlags *flags, GError **error)
{
    if (o->filename[0] == '\0') {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'filename' is empty: name the image file or device");
        return false;
    }
    if (o->has_aio && o->aio == BLOCKDEV_AIO_OPTIONS_NATIVE && !flags->cache_direct) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'aio': 'native' for '%s' needs 'cache': {'direct': true} ('io_uring' and "
                    "'threads' do not)",
                    o->filename);
        return false;
    }
    return true;
}

static AioEngine engine_for(const BlockdevOptionsFile *o, const FileHandle *handle)
{
    bool threads = o->has_aio && o->aio == BLOCKDEV_AIO_OPTIONS_THREADS;

    return threads && handle->engine != AIO_ENGINE_APART ? AIO_ENGINE_THREADS : handle->engine;
}

/* Opening, in a worker. */
typedef struct Opening {
    const BlockdevOptionsFile *options;
    FileKind kind;
    FileAccess access;
    FileHandle handle;
    bool use_locks;
    GError *error;
} Opening;

/* Whether to lock the image that is open as @o->handle. */
static bool decide_locking(Opening *o)
{
    const BlockdevOptionsFile *options = o->options;

    o->use_locks = options->locking != ON_OFF_AUTO_OFF && file_locks_supported(o->handle.fd);
    if (o->use_locks || options->locking == ON_OFF_AUTO_OFF) {
        return true;
    }
    if (options->locking == ON_OFF_AUTO_ON) {
        g_set_error(&o->error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "cannot lock '%s': its file system has no open-file-description locks "
                    "('locking': 'off' or 'auto' does without)",
                    options->filename);
        return false;
    }
    g_message("'%s' is used without locks, for its file system has none", options->filename);
    return true;
}

static int open_worker(void *opaque)
{
    Opening *o = opaque;

    file_handle_init(&o->handle);
    if (!file_handle_open(&o->handle, o->options->filename, o->kind, o->access, &o->error)) {
        return -1;
    }
    if (!decide_locking(o)) {
        file_handle_close(&o->handle);
        return -1;
    }
    return 0;
}

static bool co_fn open_kind(BlockNode *node, const BlockdevOptions *opts, FileKind kind,
                            GError **error)
{
    FileState *s = block_node_state(node);
    const BlockNodeFlags *flags = block_node_flags(node);
    Opening o = {.options = file_options(opts), .kind = kind, .access = access_for(flags, 0)};

    if (!check_options(o.options, flags, error)) {
        return false;
    }
    if (aio_co_run_worker(open_worker, &o) < 0) {
        g_propagate_error(error, o.error);
        return false;
    }
    s->handle = o.handle;
    s->engine = engine_for(o.options, &s->handle);
    s->page_size = (uint32_t)getpagesize();
    s->node = node;
    s->path = g_strdup(o.options->filename);
    s->use_locks = o.use_locks;
    s->shared = BLOCK_PERM_ALL;
    file_handle_init(&s->next);
    file_extent_cache_init(&s->extents);
    file_syncs_init(&s->syncs);
    block_node_set_supported_flags(
        node, BLOCK_REQ_FUA | BLOCK_REQ_WRITE_UNCHANGED,
        BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_NO_FALLBACK | BLOCK_REQ_WRITE_UNCHANGED, BLOCK_REQ_ZERO);
    return true;
}

static bool co_fn file_co_open(BlockNode *node, const BlockdevOptions *opts, GError **error)
{
    return open_kind(node, opts, FILE_KIND_REGULAR, error);
}

static bool co_fn device_co_open(BlockNode *node, const BlockdevOptions *opts, GError **error)
{
    return open_kind(node, opts, FILE_KIND_DEVICE, error);
}

static int close_worker(void *opaque)
{
    FileState *s = opaque;

    file_handle_close(&s->next);
    file_handle_close(&s->handle);
    return 0;
}

static void co_fn file_co_close(BlockNode *node)
{
    FileState *s = block_node_state(node);

    file_co_run_worker(s, close_worker, s);
    file_extent_cache_clear(&s->extents);
    file_syncs_clear(&s->syncs);
    g_free(s->path);
}

/* A change of what a node holds on its file: prepared, then taken or dropped. */
typedef struct FileChange {
    FileState *s;
    FileLockSet locks; /* to be held afterwards */
    FileAccess access; /* that the descriptor is to have */
    GError *error;
} FileChange;

/*
 * Run a step of @c. Locks on local file systems are a matter of memory, and are taken and given
 * back with each change of a growing image's length; everything else may wait, in a worker.
 */
static int co_fn co_run_step(FileChange *c, int (*step)(void *opaque), bool locks_only)
{
    return locks_only && c->s->handle.local ? step(c) : file_co_run_worker(c->s, step, c);
}

static FileLockSet locks_for(bool use_locks, unsigned perm, unsigned shared)
{
    return use_locks ? file_lock_set(perm, shared) : (FileLockSet){0};
}

static bool handle_has(const FileHandle *h, FileAccess access)
{
    return h->fd >= 0 && h->writable == access.writable && h->direct == access.direct;
}

static bool includes(FileLockSet held, FileLockSet wanted)
{
    return !(wanted.perm & ~held.perm) && !(wanted.unshared & ~held.unshared);
}

static bool set_direct(int fd, bool direct)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

/*
 * Until it is taken into use, what is written through `next` (see file_fd_for_writing()) is aligned
 * as the descriptor in use wants it.
 */
static bool defer_direct(FileState *s)
{
    return !s->next.direct || s->handle.direct || set_direct(s->next.fd, false);
}

/* Have `next` ready if the descriptor in use will not do, and only then. */
static bool prepare_descriptor(FileChange *c)
{
    FileState *s = c->s;
    bool could_keep = s->handle.writable && s->handle.direct == c->access.direct;

    if (handle_has(&s->handle, c->access)) {
        file_handle_close(&s->next);
        return true;
    }
    if (!handle_has(&s->next, c->access)) {
        file_handle_close(&s->next);
        if (!file_handle_open_again(&s->next, &s->handle, s->path, c->access,
                                    could_keep ? NULL : &c->error)) {
            return could_keep; /* more than is needed does no harm, failing would */
        }
    }
    if (!defer_direct(s)) {
        wharf_set_error_errno(&c->error, errno, "cannot change the flags of '%s'", s->path);
        file_handle_close(&s->next);
        return false;
    }
    if (!file_locks_copy(s->next.fd, s->locks, s->path, &c->error)) {
        file_handle_close(&s->next);
        return false;
    }
    return true;
}

static int prepare_step(void *opaque)
{
    FileChange *c = opaque;
    FileLockSet before = c->s->locks;

    /* What `next` holds since an earlier step of a reopen would seem to be somebody else's. */
    if (!includes(before, c->locks)) {
        file_handle_close(&c->s->next);
    }
    if (!file_locks_acquire(c->s->handle.fd, &c->s->locks, c->locks, c->s->path, &c->error)) {
        return -1;
    }
    if (!prepare_descriptor(c)) {
        file_locks_release(c->s->handle.fd, &c->s->locks, before);
        return -1;
    }
    return 0;
}

/*
 * Whether @c comes from a request that makes the file longer, while it is in use. Its client does
 * without the answer as long as it may wait, and so does everybody who wants to change the graph.
 */
static bool only_grows(const FileChange *c)
{
    FileLockSet resize = {.perm = BLOCK_PERM_RESIZE};

    return (c->s->perm & BLOCK_PERM_WRITE) &&
           includes(file_lock_set_union(c->s->locks, resize), c->locks);
}

static bool co_fn co_prepare(FileChange *c, GError **error)
{
    FileState *s = c->s;
    bool locks_only = s->next.fd < 0 && handle_has(&s->handle, c->access);
    FileLocksWait wait = {0};

    if (includes(s->locks, c->locks) && locks_only) {
        return true;
    }
    while (co_run_step(c, prepare_step, locks_only) < 0) {
        if (only_grows(c) || !file_locks_co_wait(&wait, &c->error)) {
            g_propagate_error(error, c->error);
            return false;
        }
    }
    return true;
}

/*
 * The next descriptor holds the locks already. The old one gives them up by itself only when the
 * last request that uses it has ended, so it is told to.
 */
static void take_descriptor(FileState *s)
{
    FileLockSet held = s->locks;
    int r;

    file_locks_release(s->handle.fd, &held, (FileLockSet){0});
    if (s->next.direct && !set_direct(s->next.fd, true)) {
        g_warning("cannot switch on direct I/O with '%s': %s", s->path, g_strerror(errno));
    }
    r = file_handle_replace(&s->handle, &s->next);
    if (r < 0) {
        g_warning("cannot exchange the descriptor of '%s': %s", s->path, g_strerror(-r));
        file_locks_copy(s->handle.fd, s->locks, s->path, NULL);
        file_handle_close(&s->next);
    }
}

static int take_step(void *opaque)
{
    FileChange *c = opaque;

    if (c->s->next.fd >= 0) {
        take_descriptor(c->s);
    }
    file_locks_release(c->s->handle.fd, &c->s->locks, c->locks);
    return 0;
}

static void co_fn co_take(FileChange *c, bool sync)
{
    FileState *s = c->s;

    if (s->next.fd < 0 && includes(c->locks, s->locks)) {
        return;
    }
    /* Failures to write what was written through the old descriptor are told to it alone. */
    if (s->next.fd >= 0 && s->handle.writable && sync) {
        file_sync(s);
    }
    co_run_step(c, take_step, s->next.fd < 0);
}

static int drop_step(void *opaque)
{
    FileChange *c = opaque;

    file_handle_close(&c->s->next);
    file_locks_release(c->s->handle.fd, &c->s->locks, c->locks);
    return 0;
}

static void co_fn co_drop(FileState *s)
{
    FileChange c = {.s = s, .locks = locks_for(s->use_locks, s->perm, s->shared)};

    if (s->next.fd >= 0 || !includes(c.locks, s->locks)) {
        co_run_step(&c, drop_step, s->next.fd < 0);
    }
}

/* Permissions. Inside a reopen, its new options count. */

static bool co_fn file_co_check_perm(BlockNode *node, BlockPerm perm, BlockPerm shared,
                                     GError **error)
{
    FileState *s = block_node_state(node);
    BlockReopen *reopen = block_node_reopen(node);
    bool use_locks = reopen ? s->next_use_locks : s->use_locks;
    const BlockNodeFlags *flags = reopen ? &reopen->flags : block_node_flags(node);
    FileChange c = {
        .s = s, .locks = locks_for(use_locks, perm, shared), .access = access_for(flags, perm)};

    return co_prepare(&c, error);
}

static void co_fn file_co_set_perm(BlockNode *node, BlockPerm perm, BlockPerm shared)
{
    FileState *s = block_node_state(node);
    FileChange c = {.s = s, .locks = locks_for(s->use_locks, perm, shared)};

    s->perm = perm;
    s->shared = shared;
    if (!block_node_reopen(node)) { /* else commit does the rest, in one go */
        co_take(&c, !block_node_flags(node)->cache_no_flush);
    }
}

static void co_fn file_co_abort_perm(BlockNode *node)
{
    co_drop(block_node_state(node));
}

/* Reopening. */

static int decide_locking_worker(void *opaque)
{
    return decide_locking(opaque) ? 0 : -1;
}

static bool check_reopen_options(const FileState *s, BlockReopen *reopen, GError **error)
{
    const BlockdevOptionsFile *o = file_options(reopen->opts);

    if (strcmp(o->filename, s->path) != 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "cannot change 'filename' of node '%s' from '%s' to '%s' by reopening: add "
                    "another node and exchange the child of its parents",
                    block_node_name(reopen->node), s->path, o->filename);
        return false;
    }
    return check_options(o, &reopen->flags, error);
}

static bool co_fn file_co_reopen_prepare(BlockReopen *reopen, GError **error)
{
    FileState *s = block_node_state(reopen->node);
    Opening o = {.options = file_options(reopen->opts), .handle = s->handle};
    FileChange c = {.s = s, .access = access_for(&reopen->flags, s->perm)};

    if (!check_reopen_options(s, reopen, error)) {
        return false;
    }
    if (aio_co_run_worker(decide_locking_worker, &o) < 0) {
        g_propagate_error(error, o.error);
        return false;
    }
    s->next_use_locks = o.use_locks;
    c.locks = locks_for(o.use_locks, s->perm, s->shared);
    return co_prepare(&c, error);
}

static void co_fn file_co_reopen_commit(BlockReopen *reopen)
{
    FileState *s = block_node_state(reopen->node);
    FileChange c = {.s = s, .locks = locks_for(s->next_use_locks, s->perm, s->shared)};

    s->use_locks = s->next_use_locks;
    co_take(&c, !block_node_flags(reopen->node)->cache_no_flush);
    s->engine = engine_for(file_options(reopen->opts), &s->handle);
}

static void co_fn file_co_reopen_abort(BlockReopen *reopen)
{
    co_drop(block_node_state(reopen->node));
}

/* Information. */

static void file_limits(BlockNode *node, BlockLimits *limits)
{
    FileState *s = block_node_state(node);
    const FileHandle *h = &s->handle;

    limits->request_alignment = h->request_alignment;
    limits->preferred_io = h->block_size;
    limits->max_iov = IOV_MAX;
    limits->min_mem_alignment = h->memory_alignment;
    limits->opt_mem_alignment = MAX(h->memory_alignment, s->page_size);
    limits->pwrite_zeroes_alignment = h->zero_alignment;
    limits->pdiscard_alignment = h->zero_alignment;
}

static char *file_filename(BlockNode *node)
{
    FileState *s = block_node_state(node);

    return g_strdup(s->path);
}

static BlockStatsSpecific *file_stats_specific(BlockNode *node)
{
    FileState *s = block_node_state(node);
    BlockStatsSpecific *stats = g_new0(BlockStatsSpecific, 1);
    BlockStatsSpecificFile *f;

    stats->driver = block_node_options(node)->driver;
    f = stats->driver == BLOCKDEV_DRIVER_HOST_DEVICE ? &stats->u.host_device : &stats->u.file;
    f->discard_nb_ok = atomic_load(&s->discards_ok);
    f->discard_nb_failed = atomic_load(&s->discards_failed);
    f->discard_bytes_ok = atomic_load(&s->discarded_bytes);
    return stats;
}

static ImageInfoSpecific *file_image_specific(BlockNode *node)
{
    ImageInfoSpecific *specific = g_new0(ImageInfoSpecific, 1);

    specific->type = IMAGE_INFO_SPECIFIC_KIND_FILE;
    specific->u.file.data = g_new0(ImageInfoSpecificFile, 1);
    return specific;
}

/* Nothing to leave unfinished. */
static bool file_image_info(BlockNode *node, ImageInfo *info)
{
    info->has_dirty_flag = true;
    info->dirty_flag = false;
    return true;
}

/* Direct access. */

typedef struct DirectOpening {
    FileState *s;
    FileAccess access;
    FileLockSet locks;
    FileHandle handle;
    GError *error;
} DirectOpening;

/* A description of its own: its locks last as long as anybody uses it, the kernel included. */
static int open_direct_worker(void *opaque)
{
    DirectOpening *o = opaque;

    file_handle_init(&o->handle);
    if (!file_handle_open_again(&o->handle, &o->s->handle, o->s->path, o->access, &o->error)) {
        return -1;
    }
    if (!file_locks_copy(o->handle.fd, o->locks, o->s->path, &o->error)) {
        file_handle_close(&o->handle);
        return -1;
    }
    return 0;
}

static bool co_fn file_co_open_direct(BlockNode *node, BlockPerm perm, BlockPerm shared,
                                      BlockDirectFile *file, GError **error)
{
    FileState *s = block_node_state(node);
    DirectOpening o = {.s = s,
                       .access = {.writable = perm & BLOCK_PERM_WRITE},
                       .locks = locks_for(s->use_locks, perm, shared)};

    if (s->handle.kind == FILE_KIND_DEVICE) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "'%s' is a block device, and the kernel does this with regular files only",
                    s->path);
        return false;
    }
    /* It may be one of our own, and then serving it would wait for itself. */
    if (s->handle.engine == AIO_ENGINE_APART) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED, "'%s' lies on a FUSE file system",
                    s->path);
        return false;
    }
    if (file_co_run_worker(s, open_direct_worker, &o) < 0) {
        g_propagate_error(error, o.error);
        return false;
    }
    *file = (BlockDirectFile){.fd = o.handle.fd, .local = o.handle.local};
    return true;
}

/* What both drivers have in common. */
#define COMMON_CALLBACKS                                                                           \
    .state_size = sizeof(FileState), .is_protocol = true, .concurrency = BLOCK_CONCURRENT,         \
    .co_close = file_co_close, .co_reopen_prepare = file_co_reopen_prepare,                        \
    .co_reopen_commit = file_co_reopen_commit, .co_reopen_abort = file_co_reopen_abort,            \
    .co_preadv = file_co_preadv, .co_splice = file_co_splice, .co_pwritev = file_co_pwritev,       \
    .co_splice_write = file_co_splice_write, .co_flush = file_co_flush,                            \
    .co_length = file_co_length, .co_allocated_size = file_co_allocated_size,                      \
    .limits = file_limits, .co_check_perm = file_co_check_perm, .co_set_perm = file_co_set_perm,   \
    .co_abort_perm = file_co_abort_perm, .co_open_direct = file_co_open_direct,                    \
    .filename = file_filename, .image_info = file_image_info,                                      \
    .stats_specific = file_stats_specific

const BlockDriver block_driver_file = {
    COMMON_CALLBACKS,
    .name = "file",
    .type = BLOCKDEV_DRIVER_FILE,
    .co_open = file_co_open,
    .co_pwrite_zeroes = file_co_pwrite_zeroes,
    .co_pdiscard = file_co_pdiscard,
    .co_allocate = file_co_allocate,
    .co_truncate = file_co_truncate,
    .co_block_status = file_co_block_status,
    .co_create = file_co_create,
    .image_specific = file_image_specific,
};

const BlockDriver block_driver_host_device = {
    COMMON_CALLBACKS,
    .name = "host_device",
    .type = BLOCKDEV_DRIVER_HOST_DEVICE,
    .co_open = device_co_open,
    .co_pwrite_zeroes = file_device_co_pwrite_zeroes,
    .co_pdiscard = file_device_co_pdiscard,
    .co_truncate = file_device_co_truncate,
};
