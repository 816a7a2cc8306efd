/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The export driver "fuse". Everything that may wait for a file system, ours or somebody else's, is
 * done by a worker, never by a loop that serves requests.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "export/fuse/fuse-internal.h"
#include "export/fuse/mountinfo.h"
#include "export/fuse/records.h"
#include "util/error.h"

#define NS_PER_S G_GINT64_CONSTANT(1000000000)

/* How long a safe deletion waits for the files to be closed that clients have open past us. */
#define LEAVE_WAIT_NS (5 * NS_PER_S)
#define LEAVE_STEP_NS (NS_PER_S / 20)

/* How long a safe deletion waits for the kernel's next write while it writes back. */
#define WRITE_BACK_STALL_NS (10 * NS_PER_S)

/* How long taking an export away waits for an unmount before it cuts the connection off. */
#define UNMOUNT_WAIT_NS (5 * NS_PER_S)

/* What the FUSE exports of a daemon have in common. Workers look into it at the same time. */
struct FuseShared {
    GMutex lock;
    GHashTable *mounted; /* "MAJOR:MINOR" -> id of the export mounted there; under lock */
    GHashTable
        *covering; /* keys of the files that an export is just being mounted on; under lock */
    FuseRecords *records; /* opened by the first; under lock while it is NULL */
};

static void fuse_shared_init(gpointer opaque)
{
    FuseShared *shared = opaque;

    g_mutex_init(&shared->lock);
    shared->mounted = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    shared->covering = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
}

static int fuse_shared_close_records(void *opaque)
{
    FuseShared *shared = opaque;

    fuse_records_close(g_steal_pointer(&shared->records));
    return 0;
}

static bool co_fn fuse_co_shared_clear(gpointer opaque, int64_t deadline_ns)
{
    FuseShared *shared = opaque;

    aio_co_run_worker(fuse_shared_close_records, shared);
    g_hash_table_destroy(shared->mounted);
    g_hash_table_destroy(shared->covering);
    g_mutex_clear(&shared->lock);
    return true;
}

static FuseRecords *fuse_shared_records(FuseShared *shared)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&shared->lock);

    if (!shared->records) {
        g_autofree char *base = fuse_records_default_base();

        shared->records = fuse_records_open(base);
    }
    return shared->records;
}

static char *mount_key(const FuseMountId *id)
{
    return g_strdup_printf("%u:%u", id->dev_major, id->dev_minor);
}

/* The id of our export that is mounted there, or NULL. */
static char *fuse_shared_find(FuseShared *shared, const FuseMountId *id)
{
    g_autofree char *key = mount_key(id);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&shared->lock);

    return g_strdup(g_hash_table_lookup(shared->mounted, key));
}

static void fuse_shared_insert(FuseShared *shared, const FuseMountId *id, const char *export_id)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&shared->lock);

    g_hash_table_insert(shared->mounted, mount_key(id), g_strdup(export_id));
}

/* Does nothing where the number belongs to the mount of another export meanwhile. */
static void fuse_shared_remove(FuseShared *shared, const FuseMountId *id, const char *export_id)
{
    g_autofree char *key = mount_key(id);
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&shared->lock);

    if (g_strcmp0(g_hash_table_lookup(shared->mounted, key), export_id) == 0) {
        g_hash_table_remove(shared->mounted, key);
    }
}

/*
 * Keep other exports away from @path, before anything that asks a server about it: whoever waited
 * for a mount that is just being made would hold a worker that serving it may need. False if
 * another is at it.
 */
static bool fuse_shared_reserve(FuseShared *shared, const char *path)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&shared->lock);

    return g_hash_table_add(shared->covering, g_strdup(path));
}

static void fuse_shared_release(FuseShared *shared, const char *path)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&shared->lock);

    g_hash_table_remove(shared->covering, path);
}

/* Starting, in a worker */

typedef struct FuseStart {
    FuseExport *fe;
    const BlockExportOptionsFuse *options;
    char *path; /* the mountpoint, absolute */
    GError *error;
} FuseStart;

/* Refuse a path that leads to a mount of our own, however it is spelt. */
static bool start_check_own(FuseStart *start, const char *path)
{
    g_autofree char *other = NULL;
    FuseMountId id;
    int ret = fuse_mountpoint_identify(path, &id);

    if (ret < 0) {
        wharf_set_error_errno(&start->error, -ret, "cannot stat mountpoint '%s'", path);
        return false;
    }
    other = fuse_shared_find(start->fe->common.shared, &id);
    if (other) {
        g_set_error(&start->error, WHARF_ERROR, WHARF_ERROR_EXISTS,
                    "there is already an export at mountpoint '%s': '%s'; choose another file",
                    start->options->mountpoint, other);
        return false;
    }
    return true;
}

/* Whether the mount at @path is a FUSE one. Takes the longer the more mounts there are. */
static bool is_fuse_mount(const char *path)
{
    g_autoptr(MountInfo) info = NULL;
    FuseMountId id;

    if (fuse_mountpoint_identify(path, &id) < 0) {
        return false;
    }
    info = mountinfo_find_id(id.mount, id.dev_major, id.dev_minor);
    return info && g_str_has_prefix(info->fstype, "fuse");
}

/* Two exports on one file would hide each other, and the end of one would unmount the other. */
static bool start_check_uncovered(FuseStart *start, const char *path)
{
    if (!fuse_mountpoint_is_mount(path) || !is_fuse_mount(path)) {
        return true;
    }
    g_set_error(&start->error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                "mountpoint '%s' has the file of another FUSE server mounted on it; end that one "
                "(or 'fusermount3 -u %s'), or choose another file",
                path, path);
    return false;
}

static bool start_clear_stale(FuseStart *start, const char *path)
{
    if (!start->options->replace_stale || !is_fuse_mount(path)) {
        g_set_error(&start->error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "mountpoint '%s' holds the stale mount of a FUSE server that is gone; clear it "
                    "by 'fusermount3 -u %s' (or umount), or add the export with 'replace-stale'",
                    path, path);
        return false;
    }
    if (!fuse_unmount_stale(path, &start->error)) {
        return false;
    }
    g_message("%s: cleared the stale mount at '%s'", start->fe->common.user, path);
    return true;
}

/* Make sure that there is a regular file to cover. */
static bool start_check_file(FuseStart *start, const char *path)
{
    /* One dead mount may lie upon another. */
    for (unsigned i = 0; i < 16; i++) {
        switch (fuse_mountpoint_inspect(path, &start->error)) {
        case FUSE_PLACE_FILE:
            return start_check_uncovered(start, path);
        case FUSE_PLACE_UNFIT:
            return false;
        case FUSE_PLACE_STALE:
            if (!start_clear_stale(start, path) || !start_check_own(start, path)) {
                return false;
            }
        }
    }
    g_set_error(&start->error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                "mountpoint '%s' holds too many stale mounts; clear them by umount", path);
    return false;
}

/* Open the channels of the other queues. */
static bool start_open_channels(FuseStart *start)
{
    FuseExport *fe = start->fe;

    for (unsigned i = 1; i < fe->common.n_queues; i++) {
        FuseQueue *queue = (FuseQueue *)fe->common.queues[i];

        queue->channel.fd = fuse_channel_clone(fe->mount.fd, &start->error);
        if (queue->channel.fd < 0) {
            return false;
        }
    }
    /* The first has the one that came with the mount, which then is the queue's alone. */
    ((FuseQueue *)fe->common.queues[0])->channel.fd = fe->mount.fd;
    fe->mount.fd = -1;
    return true;
}

static void start_close_channels(FuseExport *fe)
{
    for (unsigned i = 0; i < fe->common.n_queues; i++) {
        FuseQueue *queue = (FuseQueue *)fe->common.queues[i];

        if (queue->channel.fd >= 0) {
            close(queue->channel.fd);
            queue->channel.fd = -1;
        }
    }
}

/* How many bytes the kernel is to read ahead, in whole pages; UINT32_MAX: as many as it likes. */
static uint32_t start_read_ahead(const FuseStart *start)
{
    uint64_t page = sysconf(_SC_PAGESIZE);

    if (!start->options->has_read_ahead) {
        return UINT32_MAX;
    }
    return (start->options->read_ahead + page - 1) / page * page;
}

/* The handshake can only make it less than the kernel's own. */
static void start_raise_read_ahead(FuseStart *start)
{
    FuseExport *fe = start->fe;
    uint32_t wanted = start_read_ahead(start);
    g_autoptr(GError) error = NULL;

    fe->read_ahead = fe->agreed.max_readahead;
    if (wanted == UINT32_MAX || wanted <= fe->read_ahead) {
        return;
    }
    if (fuse_mount_set_read_ahead(&fe->mount.id, wanted, &error)) {
        fe->read_ahead = wanted;
        return;
    }
    g_message("%s: the kernel goes on reading %" G_GUINT64_FORMAT " KiB ahead, not %u: %s",
              fe->common.user, fe->read_ahead / 1024, wanted / 1024, error->message);
}

/* Ring queues */

static void start_free_urings(FuseExport *fe)
{
    for (unsigned i = 0; i < fe->common.n_queues; i++) {
        g_clear_pointer(&((FuseQueue *)fe->common.queues[i])->uring, fuse_uring_free);
    }
    fuse_connection_close(&fe->connection);
}

/* Whether all contexts can do it. */
static bool start_check_commands(FuseExport *fe, GError **error)
{
    for (unsigned i = 0; i < fe->common.n_queues; i++) {
        if (!aio_context_takes_commands(fe->common.queues[i]->ctx)) {
            g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                        "its event loop has no io_uring that takes commands");
            return false;
        }
    }
    return true;
}

/* Get everything that ring queues need, but for the kernel's consent. */
static bool start_make_urings(FuseStart *start, GError **error)
{
    FuseExport *fe = start->fe;
    unsigned n_cpus = fuse_uring_count_cpus();

    if (!n_cpus) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "the system does not tell how many CPUs it may have");
        return false;
    }
    if (!start_check_commands(fe, error) ||
        !fuse_connection_open(&fe->connection, fe->mount.id.dev_minor, error)) {
        return false;
    }
    for (unsigned i = 0; i < fe->common.n_queues; i++) {
        FuseQueue *queue = (FuseQueue *)fe->common.queues[i];

        queue->uring = fuse_uring_new(queue, fe->mount.fd, n_cpus, fe->queue_depth, error);
        if (!queue->uring) {
            return false;
        }
    }
    return true;
}

/* Worth a line in the log where they were asked for by name. */
static void start_without_urings(FuseStart *start, const char *why)
{
    bool asked = start->options->transport == FUSE_EXPORT_TRANSPORT_IO_URING;

    start_free_urings(start->fe);
    g_log(G_LOG_DOMAIN, asked ? G_LOG_LEVEL_MESSAGE : G_LOG_LEVEL_DEBUG,
          "%s: no FUSE over io_uring: %s; using /dev/fuse", start->fe->common.user, why);
}

/*
 * By default ring queues where they were switched on in the kernel and there are iothreads: ahead
 * with several clients, behind with a single one on two iothreads (docs/design.md has the figures).
 * In the main thread their memory could not be given back.
 */
static bool start_wants_urings(const FuseStart *start)
{
    switch (start->options->transport) {
    case FUSE_EXPORT_TRANSPORT_AUTO:
        return start->fe->common.iothreads->len > 0;
    case FUSE_EXPORT_TRANSPORT_DEV:
        return false;
    default:
        return true;
    }
}

/* Agree with the kernel on everything, ring queues included where they are wanted and to be had. */
static bool start_handshake(FuseStart *start)
{
    FuseExport *fe = start->fe;
    FuseInitWishes wishes = {
        .uring = start_wants_urings(start),
        .writeback = fe->cache == FUSE_EXPORT_CACHE_WRITEBACK,
        .passthrough = fe->passthrough.file.fd >= 0,
        .max_readahead = start_read_ahead(start),
        .max_io = start->options->payload_size,
    };
    g_autoptr(GError) why = NULL;

    if (wishes.uring && !start_make_urings(start, &why)) {
        start_without_urings(start, why->message);
        wishes.uring = false;
    }
    if (!fuse_init_handshake(fe->mount.fd, &wishes, &fe->agreed, &start->error)) {
        return false;
    }
    if (wishes.uring && !(fe->agreed.flags & URING_INIT_FLAG)) {
        start_without_urings(start,
                             "the kernel does not offer it (it needs Linux 6.14 or later and "
                             "/sys/module/fuse/parameters/enable_uring set to 1)");
    }
    return true;
}

/* With everything ready for it, does the kernel consent? */
static bool start_passthrough(FuseStart *start)
{
    FuseExport *fe = start->fe;
    g_autoptr(GError) why = NULL;

    if (fe->passthrough.file.fd < 0) {
        return true;
    }
    fe->passthrough.active = fuse_passthrough_probe(fe, &why);
    return fe->passthrough.active ||
           fuse_passthrough_do_without(fe, start->options->passthrough, why, &start->error);
}

/* Make the connection ready to be served. On failure nothing is left but the mount, unserved. */
static bool start_connection(FuseStart *start)
{
    FuseExport *fe = start->fe;

    if (start_handshake(start) && start_passthrough(start) && start_open_channels(start)) {
        return true;
    }
    start_free_urings(fe);
    start_close_channels(fe);
    return false;
}

static bool start_mount(FuseStart *start, const char *path)
{
    FuseExport *fe = start->fe;
    g_autoptr(GError) unmount_error = NULL;

    if (!fuse_mount(path, fe->common.writable, start->options->allow_other, &fe->mount,
                    &start->error)) {
        return false;
    }
    if (start_connection(start)) {
        return true;
    }
    if (fuse_unmount(path, &fe->mount.id, &unmount_error) >= FUSE_UNMOUNT_COVERED) {
        g_warning("%s: %s", fe->common.user, unmount_error->message);
    }
    fuse_mount_clear(&fe->mount);
    return false;
}

/* Cover @path, whether the connection is made for that or there already. */
static bool start_cover(FuseStart *start, const char *path)
{
    FuseMount *mount = &start->fe->mount;

    return mount->in_directory ? fuse_mount_attach(mount, path, &start->error)
                               : start_mount(start, path);
}

/* The same unless another daemon has just done it. */
static bool start_cover_locked(FuseStart *start, const char *path)
{
    int lock = fuse_mountpoint_lock(path);
    bool covered = start_check_uncovered(start, path) && start_cover(start, path);

    if (lock >= 0) {
        close(lock);
    }
    return covered;
}

static bool start_at(FuseStart *start, const char *path)
{
    FuseExport *fe = start->fe;
    FuseShared *shared = fe->common.shared;
    FuseRecords *records = fuse_shared_records(shared);

    if (!start_check_own(start, path) || !start_check_file(start, path) ||
        !start_cover_locked(start, path)) {
        return false;
    }
    start_raise_read_ahead(start);
    fuse_shared_insert(shared, &fe->mount.id, fe->common.id);
    fuse_records_add(records, &fe->mount.id, path);
    return true;
}

/* Make the export appear at its mountpoint. */
static int fuse_start_worker(void *opaque)
{
    FuseStart *start = opaque;
    FuseShared *shared = start->fe->common.shared;
    g_autofree char *path = fuse_mountpoint_resolve(start->path, &start->error);
    bool started;

    if (!path) {
        return -1;
    }
    if (!fuse_shared_reserve(shared, path)) {
        g_set_error(&start->error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "another export is just being added at mountpoint '%s'", path);
        return -1;
    }
    started = start_at(start, path);
    fuse_shared_release(shared, path);
    return started ? 0 : -1;
}

/* Make a mount that appears once its queues run, if there can be one; else go without its cache. */
static int fuse_start_detached_worker(void *opaque)
{
    FuseStart *start = opaque;
    FuseExport *fe = start->fe;
    g_autoptr(GError) why = NULL;

    if (!fuse_mount_detached(start->options->allow_other, &fe->mount, &why)) {
        fe->cache = FUSE_EXPORT_CACHE_PAGE;
        g_message("%s: no write-back cache: %s; using cache=page", fe->common.user, why->message);
        return 0;
    }
    if (!start_connection(start)) {
        fuse_mount_clear(&fe->mount);
        return -1;
    }
    return 0;
}

static int fuse_prepare_worker(void *opaque)
{
    fuse_shared_records(opaque);
    return 0;
}

/* The mount of a killed daemon may keep the image locked. */
static void co_fn fuse_export_co_prepare(Export *exp)
{
    aio_co_run_worker(fuse_prepare_worker, exp->shared);
}

/* The mountpoint as it is meant now, whatever the working directory becomes. */
static char *absolute_path(const char *path)
{
    g_autofree char *directory = NULL;

    if (!*path || g_path_is_absolute(path)) {
        return g_strdup(path);
    }
    directory = g_get_current_dir();
    return g_build_filename(directory, path, NULL);
}

/*
 * The node has changed: its length, which may be our own doing, or its data through somebody else.
 */
static void fuse_node_changed(BlockChanges changes, void *opaque)
{
    FuseExport *fe = opaque;
    int64_t length;
    bool ours, known;

    if (fe->passthrough.unseen_writes) {
        return; /* nobody else is there, and the kernel keeps no attributes */
    }
    length = blk_length(fe->common.blk);
    ours = __atomic_exchange_n(&fe->resized, false, __ATOMIC_RELAXED);
    known = __atomic_exchange_n(&fe->length_told, length, __ATOMIC_RELAXED) == length;
    if ((changes & BLOCK_CHANGED_CONTENT) || !ours || !known) {
        fuse_told_of_change(fe);
        fuse_channel_void_attributes((FuseQueue *)fe->common.queues[0]);
    }
}

/* What the write-back cache asks of an export, which only here can be known. */
static bool co_fn fuse_export_co_check_writeback(FuseExport *fe, GError **error)
{
    Export *exp = &fe->common;

    if (exp->writethrough) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "%s: 'writethrough' and cache=writeback exclude each other; leave one out",
                    exp->user);
        return false;
    }
    if (!fe->growable) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "%s: with cache=writeback the kernel accepts writes past the end before the "
                    "export sees them; set 'growable', or use cache=page",
                    exp->user);
        return false;
    }
    if (blk_co_truncate(exp->blk, blk_length(exp->blk), PREALLOC_MODE_OFF, 0, error) < 0) {
        g_prefix_error(
            error,
            "%s: cache=writeback needs a node that can grow (cache=page does not): ", exp->user);
        return false;
    }
    return true;
}

static bool co_fn fuse_co_start_worker(FuseExport *fe, const BlockExportOptions *options,
                                       int (*worker)(void *opaque), GError **error)
{
    g_autofree char *path = absolute_path(options->u.fuse.mountpoint);
    FuseStart start = {.fe = fe, .options = &options->u.fuse, .path = path};

    if (aio_co_run_worker(worker, &start) < 0) {
        g_propagate_error(error, start.error);
        return false;
    }
    return true;
}

static bool co_fn fuse_co_mount(FuseExport *fe, const BlockExportOptions *options, GError **error)
{
    if (fe->cache == FUSE_EXPORT_CACHE_WRITEBACK &&
        !fuse_co_start_worker(fe, options, fuse_start_detached_worker, error)) {
        return false;
    }
    return fe->mount.in_directory || fuse_co_start_worker(fe, options, fuse_start_worker, error);
}

static bool co_fn fuse_export_co_start(Export *exp, const BlockExportOptions *options,
                                       GError **error)
{
    FuseExport *fe = (FuseExport *)exp;

    fe->growable = options->u.fuse.growable && options->writable;
    fe->cache = options->u.fuse.cache;
    fe->queue_depth = options->u.fuse.queue_depth;
    if (fe->cache == FUSE_EXPORT_CACHE_WRITEBACK && !options->writable) {
        fe->cache = FUSE_EXPORT_CACHE_PAGE; /* it comes to the same */
    }
    g_mutex_init(&fe->writers_lock);
    fe->mount.fd = -1;
    fe->mount.tree_fd = -1;
    fe->connection.abort_fd = -1;
    for (unsigned i = 0; i < exp->n_queues; i++) {
        ((FuseQueue *)exp->queues[i])->channel.fd = -1;
    }
    fuse_attributes_init(fe);
    if (fe->cache == FUSE_EXPORT_CACHE_WRITEBACK && !fuse_export_co_check_writeback(fe, error)) {
        return false;
    }
    if (!fuse_passthrough_co_begin(fe, options, error)) {
        return false;
    }
    fe->length_told = blk_length(exp->blk);
    fuse_end_init(fe);
    if (!fuse_co_mount(fe, options, error)) {
        fuse_passthrough_co_end(fe);
        return false;
    }
    if (fe->passthrough.active) {
        fe->cache = FUSE_EXPORT_CACHE_DIRECT; /* the file's own page cache does it */
    } else {
        fuse_passthrough_co_end(fe);
    }
    blk_set_change_notify(exp->blk, fuse_node_changed, fe);
    return true;
}

static bool co_fn fuse_export_co_publish(Export *exp, const BlockExportOptions *options,
                                         GError **error)
{
    FuseExport *fe = (FuseExport *)exp;

    if (!fe->mount.in_directory || fuse_co_start_worker(fe, options, fuse_start_worker, error)) {
        return true;
    }
    blk_set_change_notify(exp->blk, NULL, NULL);
    fe->unmounted = true; /* it has never been mounted */
    return false;
}

static void fuse_export_permissions(const BlockExportOptions *options, BlockPerm *perm,
                                    BlockPerm *shared)
{
    *perm = BLOCK_PERM_CONSISTENT_READ;
    *shared = BLOCK_PERM_ALL;
    if (options->writable) {
        *perm |= BLOCK_PERM_WRITE;
    }
    if (options->writable && options->u.fuse.cache == FUSE_EXPORT_CACHE_WRITEBACK) {
        /* The kernel would not notice what others change. */
        *perm |= BLOCK_PERM_RESIZE;
        *shared &= ~(BlockPerm)(BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE);
    }
}

static void fuse_export_begin(ExportQueue *queue)
{
    FuseQueue *fuse_queue = (FuseQueue *)queue;

    fuse_channel_begin(fuse_queue);
    if (fuse_queue->uring) {
        fuse_uring_begin(fuse_queue->uring);
    }
}

static void fuse_export_stop(ExportQueue *queue, bool cut)
{
    FuseQueue *fuse_queue = (FuseQueue *)queue;

    /* The channel first: with @cut it fails what it has in its own way, not by the abort. */
    fuse_channel_stop(fuse_queue, cut);
    if (fuse_queue->uring) {
        fuse_uring_stop(fuse_queue->uring, cut);
    }
}

/* Ending */

/* What the worker needs; the export itself may be shut down meanwhile. */
typedef struct FuseLeave {
    char *path;
    FuseMountId id;
} FuseLeave;

static int fuse_leave_worker(void *opaque)
{
    const FuseLeave *leave = opaque;

    return fuse_unmount_unused(leave->path, &leave->id);
}

static void co_fn fuse_co_pause(int64_t ns)
{
    ExportWaiter waiter = {0};

    export_waiter_co_wait(&waiter, aio_now_ns() + ns);
}

/* Unmount as soon as nobody has a file open any more; false if that takes too long. */
static bool co_fn fuse_co_leave(FuseExport *fe)
{
    int64_t deadline_ns = aio_now_ns() + LEAVE_WAIT_NS;
    g_autofree char *path = g_strdup(fe->mount.path);
    FuseLeave leave = {path, fe->mount.id};

    while (aio_co_run_worker(fuse_leave_worker, &leave) == -EBUSY &&
           fe->common.state == EXPORT_RUNNING) {
        if (aio_now_ns() >= deadline_ns) {
            return false;
        }
        fuse_co_pause(LEAVE_STEP_NS);
    }
    return true;
}

/* Writing back, in a coroutine that may outlive whoever wants it: it may hang. */
struct FuseWriteBack {
    unsigned refs;
    char *path;
    FuseMountId id;
    bool done;
    FuseSyncResult result;
    GError *error;
};

static void write_back_unref(FuseWriteBack *wb)
{
    if (wb && --wb->refs == 0) {
        g_free(wb->path);
        g_clear_error(&wb->error);
        g_free(wb);
    }
}

static int write_back_worker(void *opaque)
{
    FuseWriteBack *wb = opaque;

    wb->result = fuse_mount_sync(wb->path, &wb->id, &wb->error);
    return 0;
}

static void co_fn write_back_co_run(void *opaque)
{
    FuseWriteBack *wb = opaque;

    aio_co_run_worker(write_back_worker, wb);
    wb->done = true;
    write_back_unref(wb);
}

static void write_back_begin(FuseExport *fe)
{
    FuseWriteBack *wb = g_new0(FuseWriteBack, 1);

    wb->refs = 2;
    wb->path = g_strdup(fe->mount.path);
    wb->id = fe->mount.id;
    write_back_unref(fe->write_back);
    fe->write_back = wb;
    aio_co_enter(fe->common.main, write_back_co_run, wb);
}

static uint64_t writes_done(const FuseExport *fe)
{
    BlockOpStats stats[BLOCK_OP__MAX];

    blk_stats(fe->common.blk, stats);
    return stats[BLOCK_OP_WRITE].ops + stats[BLOCK_OP_WRITE].failed;
}

/* Wait for the one that has begun, however long that takes, if only it goes on (else false). */
static bool co_fn write_back_co_wait(FuseExport *fe)
{
    int64_t step_ns = NS_PER_S / 1000, deadline_ns = 0;
    uint64_t before = UINT64_MAX;

    while (fe->common.state == EXPORT_RUNNING && !fe->write_back->done) {
        uint64_t now_done = writes_done(fe);

        if (now_done != before) {
            before = now_done;
            deadline_ns = aio_now_ns() + WRITE_BACK_STALL_NS;
        } else if (aio_now_ns() >= deadline_ns) {
            return false;
        }
        fuse_co_pause(step_ns);
        step_ns = MIN(2 * step_ns, LEAVE_STEP_NS);
    }
    return true;
}

/* Whether the export may end after what was tried of writing back. */
static bool write_back_check(FuseExport *fe, GError **error)
{
    const FuseWriteBack *wb = fe->write_back;

    switch (wb->result) {
    case FUSE_SYNC_NOT_FOUND:
        if (__atomic_load_n(&fe->open_writers, __ATOMIC_RELAXED) == 0) {
            return true; /* the kernel has written all back before the last one was closed */
        }
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "%s is still in use: its file is open for writing, and the kernel cannot be "
                    "asked to write back, for the file is no longer to be found at '%s'; close it, "
                    "or mode 'hard' drops the data",
                    fe->common.user, wb->path);
        return false;
    case FUSE_SYNC_NOT_DONE:
        g_propagate_prefixed_error(error, g_error_copy(wb->error), "%s stays: ", fe->common.user);
        return false;
    case FUSE_SYNC_FAILED:
        g_propagate_prefixed_error(
            error, g_error_copy(wb->error),
            "%s stays, for data was lost; remove it again if that is known: ", fe->common.user);
        return false;
    case FUSE_SYNC_DONE:
    default:
        return true;
    }
}

/*
 * Have the kernel write back all that it keeps. One that hangs from before is waited for and not
 * joined by others, each of which would take up a thread.
 */
static bool co_fn fuse_co_write_back(FuseExport *fe, GError **error)
{
    bool goes_on = !fe->write_back || write_back_co_wait(fe);

    if (goes_on && fe->common.state == EXPORT_RUNNING) {
        write_back_begin(fe);
        goes_on = write_back_co_wait(fe);
    }
    if (fe->common.state != EXPORT_RUNNING) {
        return true; /* somebody else has ended it meanwhile */
    }
    if (!goes_on) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "%s is still in use: the kernel has data to write back to its file '%s', and "
                    "that does not go on; mode 'hard' drops the data",
                    fe->common.user, fe->mount.path);
        return false;
    }
    return write_back_check(fe, error);
}

/* With passthrough, open files and mappings would go on without us. */
static bool co_fn fuse_export_co_may_end(Export *exp, GError **error)
{
    FuseExport *fe = (FuseExport *)exp;

    if (fe->cache == FUSE_EXPORT_CACHE_WRITEBACK) {
        return fuse_co_write_back(fe, error);
    }
    if (!fe->passthrough.active) {
        return true;
    }
    __atomic_fetch_add(&fe->leaving, 1, __ATOMIC_SEQ_CST);
    if (fuse_co_leave(fe)) {
        return true;
    }
    __atomic_fetch_sub(&fe->leaving, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&fe->lost, __ATOMIC_SEQ_CST)) {
        return true; /* nobody has been told of that yet */
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                "%s is still in use: its file '%s' is open or mapped, and with passthrough the "
                "image is read and written through that without the daemon; close it, or remove "
                "the export with mode 'hard', which does not stop that",
                exp->user, fe->mount.path);
    return false;
}

/* What the kernel has not written back is lost with the connection. */
static void fuse_sync_at_end(FuseExport *fe)
{
    g_autoptr(GError) error = NULL;
    FuseSyncResult result = fuse_mount_sync(fe->mount.path, &fe->mount.id, &error);

    if (error) {
        g_warning("%s: %s", fe->common.user, error->message);
    } else if (result == FUSE_SYNC_NOT_FOUND &&
               __atomic_load_n(&fe->open_writers, __ATOMIC_RELAXED) > 0) {
        g_warning(
            "%s: what the kernel keeps of '%s' is lost: the file is no longer to be found there",
            fe->common.user, fe->mount.path);
    }
}

static int fuse_unmount_worker(void *opaque)
{
    FuseExport *fe = opaque;
    FuseShared *shared = fe->common.shared;
    int lost = __atomic_load_n(&fe->lost, __ATOMIC_RELAXED);
    bool gone = lost == ENODEV; /* not there any more */
    g_autoptr(GError) error = NULL;

    if (!lost && fe->cache == FUSE_EXPORT_CACHE_WRITEBACK) {
        fuse_sync_at_end(fe);
    }
    if (!gone && fuse_unmount(fe->mount.path, &fe->mount.id, &error) >= FUSE_UNMOUNT_COVERED) {
        g_warning("%s leaves its mount behind: %s", fe->common.user, error->message);
    } else {
        fuse_records_remove(shared->records, &fe->mount.id);
    }
    fuse_shared_remove(shared, &fe->mount.id, fe->common.id);
    return 0;
}

static void co_fn fuse_co_unmount(void *opaque)
{
    FuseExport *fe = opaque;

    aio_co_run_worker(fuse_unmount_worker, fe);
    fe->unmounted = true;
    if (fe->unmount_waiter) {
        export_waiter_wake(fe->unmount_waiter);
    }
}

static void co_fn fuse_co_wait_unmounted(FuseExport *fe, int64_t deadline_ns)
{
    bool waiting = true;

    while (!fe->unmounted && waiting) {
        ExportWaiter waiter = {0};

        fe->unmount_waiter = &waiter;
        waiting = export_waiter_co_wait(&waiter, deadline_ns);
        fe->unmount_waiter = NULL;
    }
}

static int64_t unmount_deadline(const FuseExport *fe)
{
    int64_t deadline_ns = aio_now_ns() + UNMOUNT_WAIT_NS;

    /* Writing back takes as long as other requests may. */
    return fe->cache == FUSE_EXPORT_CACHE_WRITEBACK ? MAX(deadline_ns, fe->common.deadline_ns)
                                                    : deadline_ns;
}

static void co_fn fuse_export_co_withdraw(Export *exp)
{
    FuseExport *fe = (FuseExport *)exp;
    unsigned open_files = __atomic_load_n(&fe->open_files, __ATOMIC_RELAXED);

    blk_set_change_notify(exp->blk, NULL, NULL);
    if (open_files && fe->passthrough.active) {
        g_message("%s: %u open file%s at '%s' will go on reading and writing the image, which "
                  "stays locked until then",
                  exp->user, open_files, open_files == 1 ? "" : "s", fe->mount.path);
    } else if (open_files && __atomic_load_n(&fe->lost, __ATOMIC_RELAXED) == 0) {
        g_message("%s: %u open file%s at '%s' will be cut off", exp->user, open_files,
                  open_files == 1 ? "" : "s", fe->mount.path);
    }
    /* A coroutine of its own: if the unmount hangs, the export goes on without it. */
    aio_co_enter(exp->main, fuse_co_unmount, fe);
    fuse_co_wait_unmounted(fe, unmount_deadline(fe));
    if (!fe->unmounted && fe->cache == FUSE_EXPORT_CACHE_WRITEBACK) {
        g_warning("%s: what the kernel has not written back to '%s' yet is lost", exp->user,
                  fe->mount.path);
    }
}

static void fuse_export_abandon(Export *exp)
{
    FuseExport *fe = (FuseExport *)exp;

    if (fe->mount.path && !fe->unmounted) {
        fuse_unmount_in_child(fe->mount.path, &fe->mount.id);
    }
}

static void co_fn fuse_export_co_end(Export *exp)
{
    FuseExport *fe = (FuseExport *)exp;

    fuse_passthrough_co_end(fe);
    write_back_unref(g_steal_pointer(&fe->write_back));

    for (unsigned i = 0; i < exp->n_queues; i++) {
        FuseQueue *queue = (FuseQueue *)exp->queues[i];

        fuse_channel_close(queue);
        if (queue->uring) {
            fuse_uring_co_wait_returned(queue->uring);
            g_clear_pointer(&queue->uring, fuse_uring_free);
        }
    }
    fuse_connection_close(&fe->connection);
    /* With the connection closed nothing can hold it up any more. */
    fuse_co_wait_unmounted(fe, INT64_MAX);
    fuse_mount_clear(&fe->mount);
}

static bool fuse_uses_uring(FuseExport *fe)
{
    return (fe->agreed.flags & URING_INIT_FLAG) &&
           !__atomic_load_n(&fe->uring_refused, __ATOMIC_RELAXED);
}

static void fuse_export_query(Export *exp, BlockExportInfo *info)
{
    FuseExport *fe = (FuseExport *)exp;
    BlockExportInfoFuse *fuse = g_new0(BlockExportInfoFuse, 1);

    info->mountpoint = g_strdup(fe->mount.path ? fe->mount.path : "");
    info->has_growable = true;
    info->growable = fe->growable;
    info->fuse = fuse;
    fuse->transport = g_strdup(fuse_uses_uring(fe) ? "io-uring" : "dev");
    fuse->protocol = g_strdup_printf("%d.%u", FUSE_KERNEL_VERSION, fe->agreed.minor);
    fuse->max_write = fe->agreed.max_write;
    fuse->max_read = MIN(FUSE_MOUNT_MAX_READ, fe->agreed.max_write);
    fuse->has_queue_depth = fuse_uses_uring(fe);
    fuse->queue_depth = fuse->has_queue_depth ? fe->queue_depth : 0;
    fuse->max_background = fe->agreed.max_background;
    fuse->features = fuse_init_features(&fe->agreed);
    fuse->allow_other = fe->mount.allow_other;
    fuse->cache = fe->cache;
    fuse->read_ahead = fe->read_ahead;
    fuse->connection = fe->mount.id.dev_minor;
    fuse->passthrough = fe->passthrough.active;
    fuse->open_files = __atomic_load_n(&fe->open_files, __ATOMIC_RELAXED);
}

extern const ExportDriver export_driver_fuse;
const ExportDriver export_driver_fuse = {
    .type = BLOCK_EXPORT_TYPE_FUSE,
    .state_size = sizeof(FuseExport),
    .queue_size = sizeof(FuseQueue),
    .shared_size = sizeof(FuseShared),
    .shared_init = fuse_shared_init,
    .co_shared_clear = fuse_co_shared_clear,
    .permissions = fuse_export_permissions,
    .co_prepare = fuse_export_co_prepare,
    .co_start = fuse_export_co_start,
    .begin = fuse_export_begin,
    .co_publish = fuse_export_co_publish,
    .stop = fuse_export_stop,
    .co_may_end = fuse_export_co_may_end,
    .co_withdraw = fuse_export_co_withdraw,
    .co_end = fuse_export_co_end,
    .abandon = fuse_export_abandon,
    .query = fuse_export_query,
};
