/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pages that go from a file to a pipe without being copied, and bytes from a pipe to a file. */
#include "aio/aio.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

/* A system call of Linux 6.5; its number is the same on all architectures. */
#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

/* As cachestat(2) has it. */
typedef struct CacheRange {
    uint64_t offset, bytes;
} CacheRange;

typedef struct CacheCounts {
    uint64_t cached, dirty, writeback, evicted, recently_evicted; /* pages */
} CacheCounts;

/* A range is looked at so often, so many bytes at a time. */
#define SAMPLE_EVERY (64 * 1024)
#define SAMPLE_BYTES 64

bool aio_can_splice(int fd, AioEngine engine)
{
    struct statfs fs;
    struct stat st;

    if ((engine != AIO_ENGINE_INLINE && engine != AIO_ENGINE_CACHED) || fstat(fd, &st) < 0 ||
        !S_ISREG(st.st_mode) || fstatfs(fd, &fs) < 0) {
        return false;
    }
    /* Others take a lock of the file for it that a writer may hold for long. */
    return fs.f_type == TMPFS_MAGIC || fs.f_type == EXT4_SUPER_MAGIC;
}

/* Whether all pages of the range are there, though perhaps still being read. */
static bool is_cached(int fd, uint64_t offset, size_t bytes)
{
    uint64_t page = sysconf(_SC_PAGESIZE);
    CacheRange range = {offset, bytes};
    CacheCounts counts = {0};

    if (syscall(SYS_cachestat, fd, &range, &counts, 0) < 0) {
        return false;
    }
    return counts.cached >= (offset + bytes - 1) / page - offset / page + 1;
}

/* Whether some bytes can be had without waiting, and are not zeros. */
static bool sample_is_good(int fd, uint64_t offset, int rwf_flags)
{
    static const char zeros[SAMPLE_BYTES];
    char sample[SAMPLE_BYTES];
    struct iovec iov = {sample, sizeof(sample)};

    return preadv2(fd, &iov, 1, offset, rwf_flags) == sizeof(sample) &&
           memcmp(sample, zeros, sizeof(sample)) != 0;
}

/* The same all over the range. What is just being read from the storage comes last at the end. */
static bool samples_are_good(int fd, uint64_t offset, size_t bytes, int rwf_flags)
{
    for (size_t at = 0; at < bytes - SAMPLE_BYTES; at += SAMPLE_EVERY) {
        if (!sample_is_good(fd, offset + at, rwf_flags)) {
            return false;
        }
    }
    return sample_is_good(fd, offset + bytes - SAMPLE_BYTES, rwf_flags);
}

ssize_t aio_splice_cached(AioEngine engine, int fd, uint64_t offset, size_t bytes, int pipe)
{
    bool in_memory = engine == AIO_ENGINE_INLINE;
    loff_t at = offset;
    ssize_t n;

    if (bytes < SAMPLE_BYTES || (!in_memory && !is_cached(fd, offset, bytes)) ||
        !samples_are_good(fd, offset, bytes, in_memory ? 0 : RWF_NOWAIT)) {
        return -EAGAIN;
    }
    do {
        n = splice(fd, &at, pipe, NULL, bytes, SPLICE_F_NONBLOCK);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

int aio_splice_to_memory(int fd, uint64_t offset, size_t bytes, int pipe)
{
    loff_t at = (loff_t)offset;

    while (bytes > 0) {
        ssize_t n = splice(pipe, NULL, fd, &at, bytes, SPLICE_F_NONBLOCK);

        if (n == 0) {
            return -EIO; /* so much is not there */
        }
        if (n > 0) {
            bytes -= (size_t)n;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}
