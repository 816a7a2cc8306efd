/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/file/extents.h - where a file has data and where it has holes.
 *
 * A sweep over an image asks for one small range after the other, and SEEK_HOLE walks all pages of
 * the data it crosses; so the last run of data is remembered. Runs of data alone: taking a new hole
 * for data costs a needless read, while taking new data for a hole would lose it. That is also why
 * writes need not tell us anything, which keeps them (and reads) free of this cache.
 *
 * Threads   Any; the cache has its own lock, never held across a system call.
 */
#ifndef WHARF_BLOCK_DRIVERS_FILE_EXTENTS_H
#define WHARF_BLOCK_DRIVERS_FILE_EXTENTS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* A run of bytes of one kind. */
typedef struct FileExtent {
    bool data;    /* false: a hole */
    uint64_t end; /* first byte behind the run; UINT64_MAX if nothing follows */
} FileExtent;

/*
 * Find the run that @offset lies in. Blocking. Where the file system cannot tell, all is data.
 * Uses the file position of @fd, which nothing else does. Never fails: an error is data, too, and
 * the read that follows will report it.
 */
FileExtent file_extent_find(int fd, uint64_t offset);

typedef struct FileExtentCache {
    GMutex lock;
    /* under lock */
    uint64_t start, end; /* a run of data; empty where start == end */
    uint64_t holes_made; /* counts calls of file_extent_cache_forget() */
} FileExtentCache;

void file_extent_cache_init(FileExtentCache *cache);
void file_extent_cache_clear(FileExtentCache *cache);

/*
 * Whether @offset lies in the run of data that is remembered; if so, its end is in @end. Otherwise
 * @ticket is for the call of file_extent_cache_store() that follows.
 */
bool file_extent_cache_lookup(FileExtentCache *cache, uint64_t offset, uint64_t *end,
                              uint64_t *ticket);

/* Remember that [start, end) is data, unless a hole was made since @ticket was given out. */
void file_extent_cache_store(FileExtentCache *cache, uint64_t ticket, uint64_t start, uint64_t end);

/* To be called when a hole has been made, or the file cut, before that is reported as done. */
void file_extent_cache_forget(FileExtentCache *cache);

#endif
