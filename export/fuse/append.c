/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where clients append to. The kernel takes the end of the file from the length that it has heard
 * of last; it asks for no other before it appends, and there is no telling it. So where others have
 * moved the end, the offset of a write that is to append is an old one: what others have written
 * there would be lost.
 *
 * What the kernel has heard of we cannot know exactly: it may not have seen our last answer yet,
 * and drops one that has crossed a write. So, since others have moved the end, each length between
 * those that it had may be the kernel's. A write to one of these goes to the end; once one has come
 * that was sent there anyway, the kernel knows. It has one append under way at a time.
 *
 * All else keeps its place: an append after an O_TRUNC that was ignored, which the kernel counts
 * from 0, and single writes of such files by RWF_NOAPPEND, unless they meet one of these lengths.
 */
#include "export/fuse/fuse-internal.h"

void fuse_end_init(FuseExport *fe)
{
    fe->end.length = blk_length(fuse_blk(fe));
    fuse_end_known(fe);
}

void fuse_end_known(FuseExport *fe)
{
    fe->end.low = 1;
    fe->end.high = 0;
}

static void end_add(FuseEnd *end, int64_t length)
{
    bool none = end->low > end->high;

    end->low = none ? length : MIN(end->low, length);
    end->high = none ? length : MAX(end->high, length);
}

/* See what others have done. */
static void end_look(FuseExport *fe)
{
    FuseEnd *end = &fe->end;
    int64_t now = blk_length(fuse_blk(fe));

    if (now != end->length) {
        end_add(end, end->length);
        end_add(end, now);
        end->length = now;
    }
}

void fuse_end_moved(FuseExport *fe, int64_t length)
{
    fe->end.length = length;
}

uint64_t fuse_end_place(FuseExport *fe, uint64_t offset, uint64_t bytes)
{
    FuseEnd *end = &fe->end;

    end_look(fe);
    if ((int64_t)offset < end->low || (int64_t)offset > end->high) {
        return offset;
    }
    if ((int64_t)offset == end->length) {
        fuse_end_known(fe);
        return offset;
    }
    end_add(end, offset + bytes); /* where the kernel has the end after this one */
    return end->length;
}
