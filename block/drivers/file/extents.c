/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/file/extents.h"

#include <errno.h>
#include <unistd.h>

FileExtent file_extent_find(int fd, uint64_t offset)
{
    const FileExtent all_data = {.data = true, .end = UINT64_MAX};
    off_t data = lseek(fd, (off_t)offset, SEEK_DATA);
    off_t hole;

    if (data < 0) {
        return errno == ENXIO ? (FileExtent){.data = false, .end = UINT64_MAX} : all_data;
    }
    if ((uint64_t)data > offset) {
        return (FileExtent){.data = false, .end = (uint64_t)data};
    }
    hole = lseek(fd, (off_t)offset, SEEK_HOLE);
    if (hole < 0 || (uint64_t)hole <= offset) { /* somebody is changing the file meanwhile */
        return all_data;
    }
    return (FileExtent){.data = true, .end = (uint64_t)hole};
}

void file_extent_cache_init(FileExtentCache *cache)
{
    *cache = (FileExtentCache){0};
    g_mutex_init(&cache->lock);
}

void file_extent_cache_clear(FileExtentCache *cache)
{
    g_mutex_clear(&cache->lock);
}

bool file_extent_cache_lookup(FileExtentCache *cache, uint64_t offset, uint64_t *end,
                              uint64_t *ticket)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&cache->lock);

    *ticket = cache->holes_made;
    if (offset < cache->start || offset >= cache->end) {
        return false;
    }
    *end = cache->end;
    return true;
}

void file_extent_cache_store(FileExtentCache *cache, uint64_t ticket, uint64_t start, uint64_t end)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&cache->lock);

    if (ticket == cache->holes_made) {
        cache->start = start;
        cache->end = end;
    }
}

void file_extent_cache_forget(FileExtentCache *cache)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&cache->lock);

    cache->start = cache->end = 0;
    cache->holes_made++;
}
