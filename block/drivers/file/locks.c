/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/file/locks.h"

#include <errno.h>
#include <fcntl.h>

#include "aio/aio.h"
#include "util/error.h"

/* In the order of the bits of BlockPerm, and so of the bytes. */
static const char *const perm_names[] = {"consistent-read", "write", "write-unchanged", "resize"};

#define PERM_COUNT G_N_ELEMENTS(perm_names)
#define PERM_MASK  ((1u << PERM_COUNT) - 1)

/* Between two attempts. */
#define PAUSE_MIN_NS (2 * 1000 * 1000)
#define PAUSE_MAX_NS (12 * 1000 * 1000)

FileLockSet file_lock_set(unsigned perm, unsigned shared)
{
    return (FileLockSet){.perm = perm & PERM_MASK, .unshared = ~shared & PERM_MASK};
}

FileLockSet file_lock_set_union(FileLockSet a, FileLockSet b)
{
    return (FileLockSet){.perm = a.perm | b.perm, .unshared = a.unshared | b.unshared};
}

static FileLockSet set_minus(FileLockSet a, FileLockSet b)
{
    return (FileLockSet){.perm = a.perm & ~b.perm, .unshared = a.unshared & ~b.unshared};
}

/* One fcntl() on one byte. Returns 0 or -errno; @lock is filled in by F_OFD_GETLK. */
static int lock_control(int fd, int command, short type, off_t byte, struct flock *lock)
{
    int r;

    do {
        *lock = (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
        r = fcntl(fd, command, lock);
    } while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

static int set_byte(int fd, short type, off_t byte)
{
    struct flock lock;

    return lock_control(fd, F_OFD_SETLK, type, byte, &lock);
}

static int is_held_by_others(int fd, off_t byte, bool *held)
{
    struct flock lock;
    int r = lock_control(fd, F_OFD_GETLK, F_WRLCK, byte, &lock);

    if (r < 0) {
        return r;
    }
    *held = lock.l_type != F_UNLCK;
    return 0;
}

bool file_locks_supported(int fd)
{
    bool held;

    return is_held_by_others(fd, FILE_LOCK_PERM_BYTE, &held) == 0;
}

static void unlock_group(int fd, off_t first, unsigned bits)
{
    for (unsigned i = 0; i < PERM_COUNT; i++) {
        if (bits & (1u << i)) {
            set_byte(fd, F_UNLCK, first + i);
        }
    }
}

static void unlock_set(int fd, FileLockSet set)
{
    unlock_group(fd, FILE_LOCK_PERM_BYTE, set.perm);
    unlock_group(fd, FILE_LOCK_UNSHARED_BYTE, set.unshared);
}

static void set_lock_error(GError **error, int err, off_t byte, const char *path)
{
    if (err == EAGAIN || err == EACCES) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "cannot lock byte %d of '%s': another process holds an exclusive lock on it; "
                    "end that process, or use 'locking': 'off' if it is no user of the image",
                    (int)byte, path);
        return;
    }
    wharf_set_error_errno(error, err,
                          "cannot lock byte %d of '%s' ('locking': 'off' does without locks)",
                          (int)byte, path);
}

static bool lock_group(int fd, off_t first, unsigned bits, const char *path, GError **error)
{
    for (unsigned i = 0; i < PERM_COUNT; i++) {
        int r = bits & (1u << i) ? set_byte(fd, F_RDLCK, first + i) : 0;

        if (r < 0) {
            set_lock_error(error, -r, first + i, path);
            return false;
        }
    }
    return true;
}

/* Unlocking what was never locked is harmless, so a failure half-way just unlocks the whole set. */
static bool lock_set(int fd, FileLockSet set, const char *path, GError **error)
{
    if (!lock_group(fd, FILE_LOCK_PERM_BYTE, set.perm, path, error) ||
        !lock_group(fd, FILE_LOCK_UNSHARED_BYTE, set.unshared, path, error)) {
        unlock_set(fd, set);
        return false;
    }
    return true;
}

/* Fail with "@format" (one %s for the permission, one for @path) if others hold a byte of @bits. */
static bool ask_group(int fd, off_t first, unsigned bits, const char *complaint, const char *path,
                      GError **error)
{
    for (unsigned i = 0; i < PERM_COUNT; i++) {
        bool held = false;
        int r = bits & (1u << i) ? is_held_by_others(fd, first + i, &held) : 0;

        if (r < 0) {
            wharf_set_error_errno(error, -r, "cannot ask for locks on '%s'", path);
            return false;
        }
        if (held) {
            g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                        "'%s' is in use: another process or node %s the permission '%s' (lock on "
                        "byte %d); end that use, or read with 'read-only' and 'force-share'",
                        path, complaint, perm_names[i], (int)first + (int)i);
            return false;
        }
    }
    return true;
}

/* Whether others agree with @added: what we use they must share, what we do not share not use. */
static bool ask_set(int fd, FileLockSet added, const char *path, GError **error)
{
    return ask_group(fd, FILE_LOCK_UNSHARED_BYTE, added.perm, "does not share", path, error) &&
           ask_group(fd, FILE_LOCK_PERM_BYTE, added.unshared, "needs", path, error);
}

bool file_locks_acquire(int fd, FileLockSet *held, FileLockSet want, const char *path,
                        GError **error)
{
    /* What we hold already was asked for when it was taken; whoever came later saw our bytes. */
    FileLockSet added = set_minus(want, *held);

    if (!lock_set(fd, added, path, error)) {
        return false;
    }
    if (!ask_set(fd, added, path, error)) {
        unlock_set(fd, added);
        return false;
    }
    *held = file_lock_set_union(*held, added);
    return true;
}

bool co_fn file_locks_co_wait(FileLocksWait *wait, GError **error)
{
    int64_t now = aio_now_ns();

    if (!g_error_matches(*error, WHARF_ERROR, WHARF_ERROR_IN_USE)) {
        return false;
    }
    if (wait->end_ns == 0) {
        wait->end_ns = now + FILE_LOCKS_WAIT_NS;
    }
    if (now >= wait->end_ns) {
        return false;
    }
    g_clear_error(error);
    aio_co_sleep_ns(g_random_int_range(PAUSE_MIN_NS, PAUSE_MAX_NS));
    return true;
}

void file_locks_release(int fd, FileLockSet *held, FileLockSet keep)
{
    FileLockSet dropped = set_minus(*held, keep);

    unlock_set(fd, dropped);
    *held = set_minus(*held, dropped);
}

bool file_locks_copy(int fd, FileLockSet set, const char *path, GError **error)
{
    return lock_set(fd, set, path, error);
}
