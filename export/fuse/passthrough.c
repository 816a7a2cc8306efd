/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Passthrough: the kernel reads and writes the image file itself, for clients that have the export
 * open; all else still comes to us.
 *
 * The file is known to the kernel only while a client has the export open: from the first open to
 * the last release. It holds the description that we have registered, and so the image's locks, as
 * long as any such file is open, even if we are killed; and no longer.
 */
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "export/fuse/fuse-internal.h"
#include "export/fuse/passthrough-protocol.h"
#include "util/error.h"

#define NS_PER_S G_GINT64_CONSTANT(1000000000)

/* At 100 Hz, the slowest that the kernel ticks. */
#define CLOCK_STEP_NS (NS_PER_S / 100)

/* What the kernel is asked */

/* The id of the file, or -errno. */
static int backing_open(int connection, int fd)
{
    PassthroughBacking backing = {.fd = fd};
    int id = ioctl(connection, PASSTHROUGH_IOC_OPEN, &backing);

    return id < 0 ? -errno : id;
}

static void backing_close(int connection, int id)
{
    uint32_t number = id;

    if (ioctl(connection, PASSTHROUGH_IOC_CLOSE, &number) < 0) {
        g_warning("cannot take a passthrough file back from the kernel: %s", g_strerror(errno));
    }
}

static void set_refused_error(GError **error, int err)
{
    switch (err) {
    case EPERM:
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "the daemon lacks the privilege CAP_SYS_ADMIN, which the kernel asks for");
        return;
    case ELOOP:
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "the image lies on a file system that is stacked on others already");
        return;
    case EOPNOTSUPP:
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "the kernel cannot do it with files of the image's file system");
        return;
    default:
        wharf_set_error_errno(error, err, "the kernel refuses the image file");
    }
}

bool fuse_passthrough_probe(FuseExport *fe, GError **error)
{
    int id;

    if (!(fe->agreed.flags & PASSTHROUGH_INIT_FLAG)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "the kernel does not offer it (it needs Linux 6.9 or later, built with "
                    "CONFIG_FUSE_PASSTHROUGH)");
        return false;
    }
    id = backing_open(fe->mount.fd, fe->passthrough.file.fd);
    if (id < 0) {
        set_refused_error(error, -id);
        return false;
    }
    backing_close(fe->mount.fd, id);
    return true;
}

/* Open files */

int fuse_passthrough_open(FuseCall *call, uint32_t flags)
{
    FusePassthrough *p = &call->fe->passthrough;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&p->lock);
    PassthroughOpenOut out;

    if (!p->backing_id) {
        int id = backing_open(call->queue->channel.fd, p->file.fd);

        if (id < 0) {
            return id;
        }
        p->backing_id = id;
    }
    p->users++;
    out = (PassthroughOpenOut){.open_flags = flags | PASSTHROUGH_OPEN_FLAG,
                               .backing_id = p->backing_id};
    memcpy(&call->out.open, &out, sizeof(out));
    return 0;
}

/* Without a connection its end takes the file back. */
static void take_back_locked(FusePassthrough *p, int connection)
{
    if (p->backing_id && connection >= 0) {
        backing_close(connection, p->backing_id);
        p->backing_id = 0;
    }
}

void fuse_passthrough_release(FuseCall *call)
{
    FusePassthrough *p = &call->fe->passthrough;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&p->lock);

    /* As with open_files: never below zero. */
    if (p->users && --p->users == 0) {
        take_back_locked(p, call->queue->channel.fd);
    }
}

/* What has passed us by */

static int stat_mtime(void *opaque)
{
    FusePassthrough *p = opaque;
    struct stat st;

    if (fstat(p->file.fd, &st) < 0) {
        return -errno;
    }
    p->stat_mtime = st.st_mtim.tv_sec * NS_PER_S + st.st_mtim.tv_nsec;
    return 0;
}

/* The file's own mtime, where it can be had; else the one that was. */
static int64_t co_fn co_file_mtime(FusePassthrough *p)
{
    if (p->file.local) {
        stat_mtime(p);
    } else {
        aio_co_run_worker(stat_mtime, p);
    }
    return p->stat_mtime;
}

/*
 * File systems take their times from a clock that moves in steps, which may lag behind ours: a
 * change does not set mtime back by that.
 */
static int64_t not_before(FuseExport *fe, int64_t mtime)
{
    int64_t shown = __atomic_load_n(&fe->attributes.mtime, __ATOMIC_RELAXED);
    bool lags = mtime <= shown && shown - mtime <= CLOCK_STEP_NS;

    return lags ? shown + 1 : mtime;
}

void co_fn fuse_passthrough_co_look(FuseExport *fe)
{
    FusePassthrough *p = &fe->passthrough;
    int64_t before, mtime;
    int ret;

    CO_MUTEX_GUARD(&fe->resize_lock);

    ret = blk_co_refresh_length(fuse_blk(fe));
    if (ret < 0) {
        g_warning("%s: cannot ask its image for the length: %s", fe->common.user, g_strerror(-ret));
    }
    before = p->stat_mtime;
    mtime = co_file_mtime(p);
    if (mtime != before) {
        fuse_touch_at(fe, not_before(fe, mtime));
    }
}

/* Beginning and ending */

bool fuse_passthrough_do_without(FuseExport *fe, OnOffAuto wanted, const GError *why,
                                 GError **error)
{
    if (wanted == ON_OFF_AUTO_AUTO) {
        g_message("%s: no passthrough: %s", fe->common.user, why->message);
        return true;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                "%s cannot have passthrough: %s ('passthrough': 'auto' or 'off' does without)",
                fe->common.user, why->message);
    return false;
}

/* What the export itself is to do with each write. */
static bool check_options(const FuseExport *fe, const BlockExportOptions *options, GError **error)
{
    if (fe->cache == FUSE_EXPORT_CACHE_WRITEBACK) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "with 'cache': 'writeback' the kernel keeps what is written to itself; choose "
                    "another one");
        return false;
    }
    if (options->writable && !options->u.fuse.growable) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "the kernel makes the image file longer where clients write past its end, and "
                    "nobody can refuse that; set 'growable' to allow it, or export it read-only");
        return false;
    }
    if (options->writable && options->writethrough) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "with 'writethrough' each write is to be on stable storage before it is "
                    "answered, and the kernel answers those that it does itself sooner");
        return false;
    }
    return true;
}

bool co_fn fuse_passthrough_co_begin(FuseExport *fe, const BlockExportOptions *options,
                                     GError **error)
{
    FusePassthrough *p = &fe->passthrough;
    g_autoptr(GError) why = NULL;

    g_mutex_init(&p->lock);
    p->file.fd = -1;
    if (options->u.fuse.passthrough == ON_OFF_AUTO_OFF) {
        return true;
    }
    if (check_options(fe, options, &why) &&
        block_backend_co_hold_direct(fe->common.blk, &p->file, &why)) {
        p->unseen_writes = fe->common.writable;
        co_file_mtime(p);
        return true;
    }
    return fuse_passthrough_do_without(fe, options->u.fuse.passthrough, why, error);
}

static int close_file(void *opaque)
{
    FusePassthrough *p = opaque;

    close(p->file.fd);
    p->file.fd = -1;
    return 0;
}

void co_fn fuse_passthrough_co_end(FuseExport *fe)
{
    FusePassthrough *p = &fe->passthrough;

    if (p->file.fd < 0) {
        return;
    }
    g_mutex_lock(&p->lock);
    take_back_locked(p, ((FuseQueue *)fe->common.queues[0])->channel.fd);
    g_mutex_unlock(&p->lock);
    aio_co_run_worker(close_file, p);
    block_backend_co_release_direct(fe->common.blk);
    p->active = p->unseen_writes = false;
}
