/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where clients append to. The kernel takes the end of the file from the length that it has heard
 * of last; it asks for no other before it appends, and there is no telling it. So where others have
 * moved the end, the offset of a write that is to append is an old one: what others have written
 * there would be lost.
 *
 * So the server keeps account of how far others have moved it, and moves appends as far. Their
 * offsets are all that counts then: a large one may come in several pieces at once, in any order.
 * But whether the kernel has heard of the new length we cannot know for sure once it has asked: it
 * may not have seen our answer yet, and drops one that has crossed a write. From then on each
 * length between those that the file had since others moved the end may be the kernel's. An append
 * to one of these goes to the end, wherever it is; once one has come that was sent there anyway,
 * the kernel knows. It has one append under way at a time.
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
    fe->end.shift = 0;
    __atomic_store_n(&fe->end_moved, false, __ATOMIC_RELAXED);
    __atomic_store_n(&fe->end_doubtful, false, __ATOMIC_RELAXED);
}

void fuse_end_doubt(FuseExport *fe)
{
    if (__atomic_load_n(&fe->end_moved, __ATOMIC_RELAXED)) {
        __atomic_store_n(&fe->end_doubtful, true, __ATOMIC_RELAXED);
    }
}

void fuse_end_tell(FuseExport *fe, int64_t length)
{
    if (length != __atomic_load_n(&fe->end.length, __ATOMIC_RELAXED)) {
        __atomic_store_n(&fe->end_doubtful, true, __ATOMIC_RELAXED);
    }
    fuse_end_doubt(fe);
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
        if (!__atomic_load_n(&fe->end_moved, __ATOMIC_RELAXED)) {
            end->heard = end->length;
        }
        end_add(end, end->length);
        end_add(end, now);
        end->shift += now - end->length;
        fuse_end_moved(fe, now);
        __atomic_store_n(&fe->end_moved, true, __ATOMIC_RELAXED);
    }
}

void fuse_end_moved(FuseExport *fe, int64_t length)
{
    __atomic_store_n(&fe->end.length, length, __ATOMIC_RELAXED);
}

/* With certainty: the kernel has heard of nothing since. */
static uint64_t end_place_shifted(FuseEnd *end, uint64_t offset)
{
    return (int64_t)offset < end->heard ? offset : offset + end->shift;
}

static uint64_t end_place_in_doubt(FuseExport *fe, uint64_t offset)
{
    const FuseEnd *end = &fe->end;

    if ((int64_t)offset == end->length) {
        fuse_end_known(fe);
        return offset;
    }
    if ((int64_t)offset < end->low || (int64_t)offset > end->high) {
        return offset;
    }
    return end->length;
}

uint64_t fuse_end_place(FuseExport *fe, uint64_t offset, uint64_t bytes)
{
    uint64_t place;

    end_look(fe);
    if (!__atomic_load_n(&fe->end_moved, __ATOMIC_RELAXED)) {
        return offset;
    }
    place = __atomic_load_n(&fe->end_doubtful, __ATOMIC_RELAXED)
                ? end_place_in_doubt(fe, offset)
                : end_place_shifted(&fe->end, offset);
    if (place != offset) {
        end_add(&fe->end, offset + bytes); /* where the kernel has the end after this one */
    }
    return place;
}
