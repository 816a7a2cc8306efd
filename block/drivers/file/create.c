/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A new regular file. Until it is complete it has no name, where the file system can do that; so
 * nothing is left of it in any case. What is there already is locked as by a writer, and emptied.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/drivers/file/state.h"
#include "job/driver.h"
#include "util/error.h"

#define MODE 0644

/* How much is reserved or written between two pause points. */
#define RESERVE_CHUNK (G_GUINT64_CONSTANT(1) << 30)
#define WRITE_CHUNK   (4 * 1024 * 1024)

/* "/proc/self/fd/N" and its final zero. */
#define FD_PATH_SIZE 32

typedef enum {
    ORIGIN_FOREIGN,  /* it was there, and is not ours to touch yet */
    ORIGIN_OLD,      /* it was there, and has been emptied */
    ORIGIN_NAMELESS, /* made here, without a name yet */
    ORIGIN_NEW,      /* made here */
} Origin;

typedef struct Creation {
    const BlockdevCreateOptionsFile *options;
    FileHandle handle;
    FileLockSet locks;
    Origin origin;
    uint64_t done; /* bytes that were reserved or written */
    void *zeros;   /* WRITE_CHUNK of them */
    GError *error;
} Creation;

static int fail(Creation *c, const char *what)
{
    wharf_set_error_errno(&c->error, errno, "cannot create '%s': %s", c->options->filename, what);
    return -1;
}

/* Steps, each in a worker: 0, or -1 and @c->error. */

static int open_old(Creation *c)
{
    FileLockSet wanted = file_lock_set(BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE, 0);

    if (!file_handle_open(&c->handle, c->options->filename, FILE_KIND_REGULAR,
                          (FileAccess){.writable = true}, &c->error)) {
        return -1;
    }
    if (file_locks_supported(c->handle.fd) &&
        !file_locks_acquire(c->handle.fd, &c->locks, wanted, c->options->filename, &c->error)) {
        file_handle_close(&c->handle);
        return -1;
    }
    if (ftruncate(c->handle.fd, 0) < 0) {
        return fail(c, "emptying the one that is there");
    }
    c->origin = ORIGIN_OLD;
    return 0;
}

static int open_new(Creation *c)
{
    g_autofree char *directory = g_path_get_dirname(c->options->filename);

    c->origin = ORIGIN_NAMELESS;
    c->handle.fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, MODE);
    if (c->handle.fd < 0 && errno == EOPNOTSUPP) {
        c->origin = ORIGIN_NEW;
        c->handle.fd = open(c->options->filename, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, MODE);
    }
    return c->handle.fd < 0 ? fail(c, "opening it") : 0;
}

/* Both are hints: a file system without such a thing is as good. */
static void set_attributes(Creation *c)
{
    int64_t hint = c->options->extent_size_hint;
    struct fsxattr attributes;
    int flags;

    if (c->options->nocow && ioctl(c->handle.fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags |= FS_NOCOW_FL;
        ioctl(c->handle.fd, FS_IOC_SETFLAGS, &flags);
    }
    if (hint > 0 && hint <= UINT32_MAX &&
        ioctl(c->handle.fd, FS_IOC_FSGETXATTR, &attributes) == 0) {
        attributes.fsx_xflags |= FS_XFLAG_EXTSIZE;
        attributes.fsx_extsize = (uint32_t)hint;
        ioctl(c->handle.fd, FS_IOC_FSSETXATTR, &attributes);
    }
}

static int open_worker(void *opaque)
{
    Creation *c = opaque;
    struct stat st;
    int r;

    r = stat(c->options->filename, &st) == 0 ? open_old(c) : open_new(c);
    if (r == 0) {
        set_attributes(c);
    }
    return r;
}

static int set_length_worker(void *opaque)
{
    Creation *c = opaque;

    return ftruncate(c->handle.fd, c->options->size) < 0 ? fail(c, "setting its length") : 0;
}

static int reserve_worker(void *opaque)
{
    Creation *c = opaque;
    uint64_t n = MIN((uint64_t)c->options->size - c->done, RESERVE_CHUNK);
    int r;

    do {
        r = fallocate(c->handle.fd, 0, (off_t)c->done, (off_t)n);
    } while (r < 0 && errno == EINTR);
    c->done += n;
    return r < 0 ? fail(c, "reserving space for it ('preallocation': 'falloc')") : 0;
}

static int write_worker(void *opaque)
{
    Creation *c = opaque;
    uint64_t n = MIN((uint64_t)c->options->size - c->done, WRITE_CHUNK);
    ssize_t r;

    do {
        r = pwrite(c->handle.fd, c->zeros, n, (off_t)c->done);
    } while (r < 0 && errno == EINTR);
    if (r <= 0) {
        errno = r < 0 ? errno : ENOSPC;
        return fail(c, "writing it ('preallocation': 'full')");
    }
    c->done += (uint64_t)r;
    return 0;
}

/* A crash of the machine after this leaves it there. */
static int sync_directory(Creation *c)
{
    g_autofree char *directory = g_path_get_dirname(c->options->filename);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r;

    if (fd < 0) {
        return 0; /* not ours to read; the file itself is synced */
    }
    r = fsync(fd);
    close(fd);
    return r < 0 && errno != EINVAL ? fail(c, "syncing its directory") : 0;
}

static int name_it(Creation *c)
{
    char path[FD_PATH_SIZE];

    g_snprintf(path, sizeof(path), "/proc/self/fd/%d", c->handle.fd);
    if (linkat(AT_FDCWD, path, AT_FDCWD, c->options->filename, AT_SYMLINK_FOLLOW) < 0) {
        return fail(c, "giving it its name");
    }
    c->origin = ORIGIN_NEW;
    return 0;
}

static int finish_worker(void *opaque)
{
    Creation *c = opaque;

    if (fsync(c->handle.fd) < 0) {
        return fail(c, "syncing it");
    }
    if (c->origin == ORIGIN_NAMELESS && name_it(c) < 0) {
        return -1;
    }
    return sync_directory(c);
}

/* Remove what was made here, if its name still leads to it. */
static int undo_worker(void *opaque)
{
    Creation *c = opaque;
    struct stat ours, there;

    if (c->origin == ORIGIN_NEW && fstat(c->handle.fd, &ours) == 0 &&
        stat(c->options->filename, &there) == 0 && ours.st_dev == there.st_dev &&
        ours.st_ino == there.st_ino) {
        unlink(c->options->filename);
    } else if (c->origin == ORIGIN_OLD) {
        /* It may be a lot; and if not even this can be done, nothing can. */
        return ftruncate(c->handle.fd, 0);
    }
    return 0;
}

static int close_worker(void *opaque)
{
    file_handle_close(&((Creation *)opaque)->handle);
    return 0;
}

/* The file may lie on a mount that this daemon serves. */
static bool co_fn co_step(Creation *c, int (*step)(void *opaque))
{
    return aio_co_run_worker_apart(step, c) == 0;
}

/* Others who are about to go may do so. */
static bool co_fn co_open(Creation *c)
{
    FileLocksWait wait = {0};

    while (!co_step(c, open_worker)) {
        if (!file_locks_co_wait(&wait, &c->error)) {
            return false;
        }
    }
    return true;
}

static bool co_fn co_fill(Creation *c, Job *job, int (*step)(void *opaque))
{
    while (c->done < (uint64_t)c->options->size) {
        uint64_t before = c->done;

        if (!co_step(c, step)) {
            return false;
        }
        job_progress_advance(job, c->done - before);
        if (!job_co_pause_point(job)) {
            return false;
        }
    }
    return true;
}

static bool co_fn co_set_length(Creation *c, Job *job)
{
    switch (c->options->preallocation) {
    case PREALLOC_MODE_FALLOC:
        return co_fill(c, job, reserve_worker);
    case PREALLOC_MODE_FULL:
        c->zeros = g_malloc0(WRITE_CHUNK);
        return co_fill(c, job, write_worker);
    default:
        return co_step(c, set_length_worker) && job_co_pause_point(job);
    }
}

static bool check_options(const BlockdevCreateOptionsFile *o, GError **error)
{
    if (o->size < 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "cannot create '%s': 'size' is %" G_GINT64_FORMAT "; it must be at least 0",
                    o->filename, o->size);
        return false;
    }
    if (o->preallocation == PREALLOC_MODE_METADATA) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "cannot create '%s': a raw file has no metadata to preallocate; use 'off', "
                    "'falloc' or 'full'",
                    o->filename);
        return false;
    }
    return true;
}

bool co_fn file_co_create(BlockGraph *graph, const BlockdevCreateOptions *opts, Job *job,
                          GError **error)
{
    Creation c = {.options = &opts->u.file};
    bool ok;

    if (!check_options(c.options, error)) {
        return false;
    }
    file_handle_init(&c.handle);
    job_progress_add_total(job, (uint64_t)c.options->size);
    ok = co_open(&c) && co_set_length(&c, job) && co_step(&c, finish_worker);
    if (!ok) {
        co_step(&c, undo_worker);
        if (c.error) {
            g_propagate_error(error, c.error);
        }
    }
    co_step(&c, close_worker);
    g_free(c.zeros);
    return ok;
}
