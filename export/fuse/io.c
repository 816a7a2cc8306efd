/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Operations on data: read, write, flush. */
#include <errno.h>
#include <fcntl.h>

#include "export/fuse/fuse-internal.h"

int fuse_co_read(FuseCall *call)
{
    const struct fuse_read_in *in = call->args;
    BlockBackend *blk = fuse_blk(call->fe);
    uint64_t length, bytes;
    int ret;

    if (in->size > FUSE_INIT_MAX_IO) {
        return -EINVAL;
    }
    fuse_note_mapping(call->fe, in);
    /* Again if the node was made shorter under the request: then there is less to read, no error.
     */
    do {
        length = blk_length(blk);
        if (in->offset >= length) {
            return 0;
        }
        bytes = MIN(in->size, length - in->offset);
        ret = blk_co_preadv(blk, in->offset, IOV_LOCAL(call->payload, bytes), 0);
    } while (fuse_was_shortened(call->fe, ret, in->offset + bytes));

    if (ret < 0) {
        return ret;
    }
    fuse_cache_filled(call->fe, bytes);
    call->data_bytes = bytes;
    return 0;
}

/* Whoever is refused sees an errno only; the log says why. Once: a client may go on trying. */
static void log_refusal(FuseExport *fe, int err, const GError *why)
{
    if ((err == EBUSY || err == EPERM) && !fe->refusal_logged) {
        fe->refusal_logged = true;
        g_message("%s: a client cannot change the length of '%s': %s", fe->common.user,
                  fe->mount.path ? fe->mount.path : "", why->message);
    }
}

/*
 * Set the length that the node can have: the next one above, so that nothing is lost. What is
 * between the two reads as zeros. @flags: as for blk_co_truncate().
 */
static int co_fn co_resize_rounded(FuseExport *fe, uint64_t size, PreallocMode prealloc,
                                   BlockRequestFlags flags)
{
    BlockBackend *blk = fuse_blk(fe);
    uint64_t before = blk_length(blk);
    g_autoptr(GError) why = NULL;
    uint64_t rounded;
    BlockLimits limits;
    int ret;

    blk_limits(blk, &limits);
    rounded =
        (size + limits.length_alignment - 1) / limits.length_alignment * limits.length_alignment;
    ret = blk_co_truncate(blk, rounded, prealloc, BLOCK_REQ_ZERO | flags, &why);
    if (ret < 0) {
        log_refusal(fe, -ret, why);
        return ret;
    }
    fuse_end_moved(fe, rounded);
    if ((flags & BLOCK_REQ_GROW_ONLY) || size >= MIN(rounded, before)) {
        return 0;
    }
    return blk_co_pwrite_zeroes(blk, size, MIN(rounded, before) - size, 0);
}

static int co_fn co_resize_locked(FuseExport *fe, uint64_t size, PreallocMode prealloc,
                                  BlockRequestFlags flags)
{
    int64_t before = blk_length(fuse_blk(fe));
    int ret;

    if (size > INT64_MAX) {
        return -EFBIG;
    }
    __atomic_store_n(&fe->resized, true, __ATOMIC_RELAXED);
    ret = co_resize_rounded(fe, size, prealloc, flags);
    if (blk_length(fuse_blk(fe)) == before) {
        __atomic_store_n(&fe->resized, false, __ATOMIC_RELAXED); /* of that nobody is told */
    }
    if (ret == 0) {
        __atomic_store_n(&fe->length_told, (int64_t)size, __ATOMIC_RELAXED);
        fuse_touch(fe);
    }
    return ret;
}

int fuse_co_grow_locked(FuseExport *fe, uint64_t size, PreallocMode prealloc)
{
    return co_resize_locked(fe, size, prealloc, BLOCK_REQ_GROW_ONLY);
}

int fuse_co_truncate(FuseExport *fe, uint64_t size)
{
    int ret;

    CO_MUTEX_GUARD(&fe->resize_lock);

    ret = co_resize_locked(fe, size, PREALLOC_MODE_OFF, 0);
    if (ret == 0) {
        fuse_end_known(fe);
    }
    return ret;
}

/* Make the node as long as it can be between @from and @to, which is too long. 0 or -errno. */
static int co_fn co_grow_to_limit_locked(FuseExport *fe, uint64_t from, uint64_t to)
{
    bool grown = false;

    while (to - from > 1) {
        uint64_t middle = from + (to - from) / 2;
        int ret = fuse_co_grow_locked(fe, middle, PREALLOC_MODE_OFF);

        if (ret == 0) {
            from = middle;
            grown = true;
        } else if (ret == -EFBIG) {
            to = middle;
        } else {
            return ret;
        }
    }
    return grown ? 0 : -EFBIG;
}

/* Make the node long enough for a write, or for the beginning of it. 0 or -errno. */
static int co_fn co_grow_for_locked(FuseExport *fe, uint64_t offset, uint64_t bytes)
{
    int ret = fe->growable ? fuse_co_grow_locked(fe, offset + bytes, PREALLOC_MODE_OFF) : -ENOTSUP;

    if (ret == -EFBIG) {
        ret = co_grow_to_limit_locked(fe, MAX(offset, (uint64_t)blk_length(fuse_blk(fe))),
                                      offset + bytes);
    }
    return ret == -ENOTSUP ? -ENOSPC : ret;
}

/*
 * Make room for a write past the end, or make it shorter where there is less. If the write then
 * fails, the new length stays: what others have written there meanwhile must not be cut off.
 */
static int co_fn co_make_room_locked(FuseExport *fe, uint64_t offset, uint64_t *bytes)
{
    uint64_t length = blk_length(fuse_blk(fe));
    int ret;

    if (offset + *bytes <= length) {
        return 0;
    }
    ret = co_grow_for_locked(fe, offset, *bytes);
    length = blk_length(fuse_blk(fe));
    if (offset >= length) {
        return ret < 0 ? ret : -EIO;
    }
    *bytes = MIN(*bytes, length - offset);
    return 0;
}

/* Whether the write is to go to the end, which it may have been sent to in vain. */
static bool is_append(const FuseExport *fe, const struct fuse_write_in *in)
{
    return (in->flags & O_APPEND) && !(in->write_flags & FUSE_WRITE_CACHE) &&
           fe->cache != FUSE_EXPORT_CACHE_WRITEBACK; /* there nobody else moves the end */
}

/* Find the place of the write, and make room there. */
static int co_fn fuse_co_prepare_write(FuseExport *fe, const struct fuse_write_in *in,
                                       uint64_t *offset, uint64_t *bytes)
{
    CO_MUTEX_GUARD(&fe->resize_lock);

    if (is_append(fe, in)) {
        CO_MUTEX_GUARD(blk_append_lock(fuse_blk(fe)));

        *offset = fuse_end_place(fe, in->offset, *bytes);
        return *offset > INT64_MAX - *bytes ? -EFBIG : co_make_room_locked(fe, *offset, bytes);
    }
    return co_make_room_locked(fe, *offset, bytes);
}

/* Whether the write is to be on stable storage before it is answered. */
static bool is_synchronous(const FuseExport *fe, const struct fuse_write_in *in)
{
    /* Of the open file or of the call itself; for direct I/O no FSYNC follows. */
    return fe->common.writethrough || (in->flags & (O_DSYNC | O_SYNC));
}

/* What has been written elsewhere than the kernel knows must not stay in its page cache there. */
static void write_was_moved(FuseCall *call)
{
    if (call->fe->cache == FUSE_EXPORT_CACHE_PAGE) {
        fuse_told_of_change(call->fe);
        fuse_channel_void_attributes(call->queue);
    }
}

int fuse_co_write(FuseCall *call)
{
    const struct fuse_write_in *in = call->args;
    FuseExport *fe = call->fe;
    BlockBackend *blk = fuse_blk(fe);
    BlockRequestFlags flags = is_synchronous(fe, in) ? BLOCK_REQ_FUA : 0;
    uint64_t offset = in->offset, bytes = in->size;
    int ret;

    if (in->size != call->payload_bytes) {
        return -EINVAL;
    }
    if (!fe->common.writable) {
        return -EBADF;
    }
    if (in->offset > INT64_MAX - bytes) {
        return -EFBIG;
    }
    if (!is_append(fe, in)) {
        fuse_end_doubt(fe);
    }
    /* Again if the node was made shorter under the request. */
    do {
        if (offset + bytes > (uint64_t)blk_length(blk) || is_append(fe, in)) {
            ret = fuse_co_prepare_write(fe, in, &offset, &bytes);
            if (ret < 0) {
                return ret;
            }
        }
        ret = bytes ? blk_co_pwritev(blk, offset, IOV_LOCAL(call->payload, bytes), flags) : 0;
    } while (fuse_was_shortened(fe, ret, offset + bytes));

    if (ret < 0) {
        return ret;
    }
    if (bytes < in->size && (in->write_flags & FUSE_WRITE_CACHE) &&
        fe->cache == FUSE_EXPORT_CACHE_WRITEBACK) {
        return -ENOSPC; /* the kernel looks at nothing else: what is missing would just be lost */
    }
    if (G_UNLIKELY(offset != in->offset)) {
        write_was_moved(call);
    }
    fuse_touch(fe);
    fuse_drop_privileges(fe, call->in->uid);
    fuse_cache_filled(fe, bytes);
    call->out.write = (struct fuse_write_out){.size = bytes};
    call->out_bytes = sizeof(call->out.write);
    return 0;
}

/* Serves FLUSH, which comes with each close(), and FSYNC alike. */
int fuse_co_flush(FuseCall *call)
{
    return call->fe->common.writable ? blk_co_flush(fuse_blk(call->fe)) : 0;
}
