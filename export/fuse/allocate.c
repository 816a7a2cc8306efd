/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Operations on where data lies: fallocate, lseek to data and holes. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include "export/fuse/fuse-internal.h"

/* Make the node @end bytes long if it is shorter. *@length is what it was. */
static int co_fn fuse_co_grow(FuseExport *fe, uint64_t end, PreallocMode prealloc, uint64_t *length)
{
    int ret;

    CO_MUTEX_GUARD(&fe->resize_lock);

    fuse_end_doubt(fe);
    *length = blk_length(fuse_blk(fe));
    if (end <= *length) {
        return 0;
    }
    ret = fuse_co_grow_locked(fe, end, prealloc);
    if (ret == -ENOTSUP && prealloc != PREALLOC_MODE_OFF) {
        ret = fuse_co_grow_locked(fe, end, PREALLOC_MODE_OFF);
    }
    return ret;
}

/* Make the range from @offset to @end read as zeros, as far as the node reaches. */
static int co_fn fuse_co_zero(FuseExport *fe, uint64_t offset, uint64_t end,
                              BlockRequestFlags flags)
{
    int ret;

    if (fe->common.writethrough) {
        flags |= BLOCK_REQ_FUA;
    }
    do {
        uint64_t length = blk_length(fuse_blk(fe));

        end = MIN(end, length);
        if (offset >= end) {
            return 0;
        }
        ret = blk_co_pwrite_zeroes(fuse_blk(fe), offset, end - offset, flags);
    } while (fuse_was_shortened(fe, ret, end));

    if (ret == 0) {
        fuse_touch(fe);
    }
    return ret;
}

/* Reserve space for the range from @offset to @end, as far as the node reaches. */
static int co_fn fuse_co_allocate(FuseExport *fe, uint64_t offset, uint64_t end)
{
    int ret;

    do {
        uint64_t length = blk_length(fuse_blk(fe));

        end = MIN(end, length);
        if (offset >= end) {
            return 0;
        }
        ret = blk_co_allocate(fuse_blk(fe), offset, end - offset);
    } while (fuse_was_shortened(fe, ret, end));

    if (ret == 0) {
        fuse_touch(fe);
    }
    return ret;
}

/* Reserve space for the range, and make the node reach its @end. */
static int co_fn fuse_co_preallocate(FuseExport *fe, uint64_t offset, uint64_t end)
{
    uint64_t before = blk_length(fuse_blk(fe)), length;
    int ret = fuse_co_allocate(fe, offset, end); /* first: it may fail with nothing changed */

    if (ret == 0) {
        ret = fuse_co_grow(fe, end, PREALLOC_MODE_FALLOC, &length);
    }
    if (ret == 0 && length > before) { /* somebody else has made it longer meanwhile */
        ret = fuse_co_allocate(fe, offset, MIN(end, length));
    }
    return ret;
}

int fuse_co_fallocate(FuseCall *call)
{
    const struct fuse_fallocate_in *in = call->args;
    FuseExport *fe = call->fe;
    uint64_t end, length;
    int ret;

    if (!fe->common.writable) {
        return -EBADF;
    }
    if (in->length == 0) {
        return -EINVAL;
    }
    if (in->offset > INT64_MAX || in->length > INT64_MAX - in->offset) {
        return -EFBIG;
    }
    end = in->offset + in->length;

    switch (in->mode) {
    case 0:
        return fuse_co_preallocate(fe, in->offset, end);
    case FALLOC_FL_KEEP_SIZE:
        return fuse_co_allocate(fe, in->offset, end);
    case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
        return fuse_co_zero(fe, in->offset, end, BLOCK_REQ_MAY_UNMAP);
    case FALLOC_FL_ZERO_RANGE:
        ret = fuse_co_grow(fe, end, PREALLOC_MODE_OFF, &length);
        return ret < 0 ? ret : fuse_co_zero(fe, in->offset, MIN(end, length), 0);
    case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
        return fuse_co_zero(fe, in->offset, end, 0);
    default:
        return -EOPNOTSUPP;
    }
}

/*
 * Whether what is a hole for us may not be one: the kernel asks without writing back what is new in
 * its pages, which is what was stored in shared mappings (the write-back cache is not asked about
 * here). With the page cache any page may be mapped, else only one that was read for that.
 */
static bool has_unseen_data(const FuseExport *fe)
{
    return __atomic_load_n(&fe->open_writers, __ATOMIC_RELAXED) > 0 &&
           (fe->cache == FUSE_EXPORT_CACHE_PAGE || __atomic_load_n(&fe->mapped, __ATOMIC_RELAXED));
}

/* The first byte from @offset on that is (@data) or is not data; -ENXIO if there is none. */
static int64_t co_fn fuse_co_find(FuseExport *fe, uint64_t offset, bool data)
{
    if (has_unseen_data(fe)) {
        return data ? (int64_t)offset : blk_length(fuse_blk(fe));
    }
    for (;;) {
        uint64_t pnum;
        BlockStatus status;
        /* To the end in one go: an image may be so large that steps would never get there. */
        int ret = blk_co_block_status(fuse_blk(fe), offset, INT64_MAX, &pnum, &status);

        if (ret < 0) {
            return ret;
        }
        if (pnum == 0) {
            return data ? -ENXIO : (int64_t)offset; /* the end: a file has its last hole there */
        }
        if (!(status & BLOCK_STATUS_ZERO) == data) {
            return offset;
        }
        offset += pnum;
    }
}

int fuse_co_lseek(FuseCall *call)
{
    const struct fuse_lseek_in *in = call->args;
    uint64_t length = blk_length(fuse_blk(call->fe));
    int64_t found;

    if (call->fe->cache == FUSE_EXPORT_CACHE_WRITEBACK) {
        /* The kernel asks without writing back what is new: it may lie in what is a hole for us. */
        return -ENOSYS;
    }
    if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE) {
        return -EINVAL;
    }
    if (in->offset > length || (in->offset == length && in->whence == SEEK_DATA)) {
        return -ENXIO;
    }
    found = fuse_co_find(call->fe, in->offset, in->whence == SEEK_DATA);
    if (found < 0) {
        return found;
    }
    call->out.lseek = (struct fuse_lseek_out){.offset = found};
    call->out_bytes = sizeof(call->out.lseek);
    return 0;
}
