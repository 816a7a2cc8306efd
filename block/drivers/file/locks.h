/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/file/locks.h - permissions of a node as byte-range locks on its image.
 *
 * Every process that follows the scheme (this daemon, QEMU and its tools) shows what it does with
 * an image by locks of single bytes: byte 100 + i says "I use permission i", byte 200 + i says "I
 * do not let others use permission i", where i is the number of the bit in BlockPerm. All locks are
 * open-file-description locks and all are shared, so any number of processes can say the same; to
 * learn of a conflict one asks for an exclusive lock with F_OFD_GETLK, without ever taking it.
 * Whoever wants more first adds its bytes and asks afterwards. So of two that come at the same time
 * at least one sees the other.
 *
 * The locks of a killed process end only when the kernel has ended its last requests, some
 * milliseconds after the process seems to be gone. And of two that come at the same time both may
 * give way. So a conflict is not believed at once where that may wait, see file_locks_co_wait().
 *
 * Threads   Any, but only one at a time for a descriptor. The calls may block on network and FUSE
 *           file systems: run them in a worker thread. file_locks_co_wait() is for coroutines, and
 *           blocks nothing.
 * Lifetime  Locks belong to the open file description and end with its last descriptor.
 * Errors    Control path: false and @error.
 */
#ifndef WHARF_BLOCK_DRIVERS_FILE_LOCKS_H
#define WHARF_BLOCK_DRIVERS_FILE_LOCKS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "aio/coroutine.h"

#define FILE_LOCK_PERM_BYTE     100 /* + i: permission i is in use */
#define FILE_LOCK_UNSHARED_BYTE 200 /* + i: permission i is not shared with others */

/* How long others may take to go: several times what the kernel needs for a killed one. */
#define FILE_LOCKS_WAIT_NS (G_GINT64_CONSTANT(200) * 1000 * 1000)

/* Which bytes are meant; both members are sets of BlockPerm bits. */
typedef struct FileLockSet {
    unsigned perm;     /* bytes 100 + i */
    unsigned unshared; /* bytes 200 + i */
} FileLockSet;

/* The bytes that stand for needing @perm and sharing @shared (both BlockPerm bits). */
FileLockSet file_lock_set(unsigned perm, unsigned shared);

FileLockSet file_lock_set_union(FileLockSet a, FileLockSet b);

/* Whether kernel and file system offer these locks on @fd. Takes none. */
bool file_locks_supported(int fd);

/*
 * Lock each byte of @want that @held lacks, then ask whether somebody else contradicts one of
 * these. On success @held is the union of both. On failure the bytes locked here are unlocked again
 * and
 * @held is unchanged; @error names @path, and the permission or byte. Needs a readable @fd.
 */
bool file_locks_acquire(int fd, FileLockSet *held, FileLockSet want, const char *path,
                        GError **error);

/* Of one who asks until others have gone. Begins as {0}. */
typedef struct FileLocksWait {
    int64_t end_ns; /* of CLOCK_MONOTONIC, once there was a conflict */
} FileLocksWait;

/*
 * Whether to call file_locks_acquire() once more after it has failed with *@error. If it was a
 * conflict, and the first one less than FILE_LOCKS_WAIT_NS ago: sleep a few milliseconds, clear
 * *@error and return true. So the last attempt comes when that time is over, however slow all is.
 * Nothing of what was wanted is locked meanwhile, so nobody is kept away by one who waits. How long
 * it sleeps is left to chance, so that two who want the same do not give way to each other forever.
 */
bool co_fn file_locks_co_wait(FileLocksWait *wait, GError **error);

/* Unlock each byte of @held that @keep lacks. */
void file_locks_release(int fd, FileLockSet *held, FileLockSet keep);

/*
 * Lock the bytes of @set on @fd, a second description of a file on which the caller holds @set
 * already. Nobody is asked: the caller's own locks would seem foreign, and a conflict cannot have
 * come up since they were taken. On failure none of them remains.
 */
bool file_locks_copy(int fd, FileLockSet set, const char *path, GError **error);

#endif
