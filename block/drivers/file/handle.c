/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/file/handle.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "util/error.h"

/* Not in <linux/magic.h> of all the systems we build on. */
#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif
#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546
#endif

#define PAGE_ALIGNMENT    4096 /* what any file system can do with O_DIRECT */
#define SECTOR_SIZE       512
#define MAX_ALIGNMENT     (64 * 1024)
#define DEFAULT_BLOCKSIZE 4096

/* "/proc/self/fd/N" and its final zero. */
#define FD_PATH_SIZE 32

void file_handle_init(FileHandle *handle)
{
    *handle = (FileHandle){.fd = -1};
}

static int open_retrying(const char *path, int flags)
{
    int fd;

    do {
        fd = open(path, flags | O_CLOEXEC | O_NOCTTY);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* Opening by descriptor takes the file that is meant, not what its path may lead to meanwhile. */
static int open_by_descriptor(int fd, FileAccess access)
{
    char path[FD_PATH_SIZE];
    int flags = access.writable ? O_RDWR : O_RDONLY;

    g_snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open_retrying(path, access.direct ? flags | O_DIRECT : flags);
}

static const char *type_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return "a directory";
    case S_IFBLK:
        return "a block device";
    case S_IFCHR:
        return "a character device";
    case S_IFIFO:
        return "a fifo";
    case S_IFSOCK:
        return "a socket";
    case S_IFREG:
        return "a regular file";
    default:
        return "of an unknown type";
    }
}

static bool check_kind(const char *path, FileKind kind, mode_t mode, GError **error)
{
    if (kind == FILE_KIND_REGULAR && !S_ISREG(mode)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "cannot open '%s': it is %s, and driver 'file' takes regular files only%s",
                    path, type_name(mode), S_ISBLK(mode) ? " (use 'host_device')" : "");
        return false;
    }
    if (kind == FILE_KIND_DEVICE && !S_ISBLK(mode)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "cannot open '%s': it is %s, and driver 'host_device' takes block devices "
                    "only%s",
                    path, type_name(mode), S_ISREG(mode) ? " (use 'file')" : "");
        return false;
    }
    return true;
}

static void set_open_error(GError **error, int err, const char *path, FileAccess access)
{
    if (access.direct && err == EINVAL) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "cannot open '%s' with 'cache.direct': its file system does not support "
                    "O_DIRECT",
                    path);
        return;
    }
    if (access.writable && (err == EACCES || err == EROFS || err == EPERM)) {
        wharf_set_error_errno(error, err,
                              "cannot open '%s' for reading and writing ('read-only': true opens "
                              "it for reading only)",
                              path);
        return;
    }
    wharf_set_error_errno(error, err, "cannot open '%s' for %s", path,
                          access.writable ? "reading and writing" : "reading");
}

/* File systems on the machine itself whose behaviour is known. */
static bool is_known_file_system(unsigned long magic)
{
    switch (magic) {
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case TMPFS_MAGIC:
        return true;
    default:
        return false;
    }
}

/*
 * io_uring polls a file before the first write to it, and FUSE passes that on to its server, which
 * may be waiting for this very call. So may it be for a worker, when those that wait for it have
 * taken all.
 */
static bool may_be_served_by_us(unsigned long magic)
{
    return magic == FUSE_SUPER_MAGIC;
}

static void look_at_file_system(FileHandle *h)
{
    struct statfs fs = {0};

    if (h->kind == FILE_KIND_REGULAR) {
        fstatfs(h->fd, &fs);
    }
    h->local = h->kind == FILE_KIND_DEVICE || is_known_file_system((unsigned long)fs.f_type);
    h->engine = may_be_served_by_us((unsigned long)fs.f_type) ? AIO_ENGINE_APART
                                                              : aio_engine_for_file(h->fd);
    h->splices = !h->direct && aio_can_splice(h->fd, h->engine);
}

static bool is_power_of_two(uint32_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

/* The logical block size of a device, or 0. */
static uint32_t logical_block_size(int fd)
{
    int size = 0;

    if (ioctl(fd, BLKSSZGET, &size) < 0 || size <= 0) {
        return 0;
    }
    return (uint32_t)size;
}

/* The kernel's own word about O_DIRECT (Linux 6.1, not every file system). */
static bool alignment_from_statx(FileHandle *h)
{
    struct statx stx = {0};

    if (syscall(SYS_statx, h->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) < 0 ||
        !(stx.stx_mask & STATX_DIOALIGN) || !is_power_of_two(stx.stx_dio_offset_align) ||
        !is_power_of_two(stx.stx_dio_mem_align)) {
        return false;
    }
    h->request_alignment = stx.stx_dio_offset_align;
    h->memory_alignment = stx.stx_dio_mem_align;
    return true;
}

/*
 * Without it, read from the file in larger and larger units until one is taken. At the end of an
 * empty file every size is, so that says nothing.
 */
static void alignment_by_trying(FileHandle *h)
{
    void *buffer = NULL;
    ssize_t n = 0;

    h->request_alignment = h->memory_alignment = PAGE_ALIGNMENT;
    if (posix_memalign(&buffer, MAX_ALIGNMENT, MAX_ALIGNMENT) != 0) {
        return;
    }
    for (uint32_t size = SECTOR_SIZE; size <= MAX_ALIGNMENT; size *= 2) {
        n = pread(h->fd, buffer, size, 0);
        if (n > 0) {
            h->request_alignment = size;
        }
        if (n >= 0 || errno != EINVAL) {
            break;
        }
    }
    h->memory_alignment = MAX(h->request_alignment, PAGE_ALIGNMENT);
    free(buffer);
}

static void find_alignment(FileHandle *h)
{
    uint32_t logical = h->kind == FILE_KIND_DEVICE ? logical_block_size(h->fd) : 0;

    h->request_alignment = h->memory_alignment = h->zero_alignment = 1;
    if (h->kind == FILE_KIND_DEVICE) {
        h->zero_alignment = logical ? logical : SECTOR_SIZE;
    }
    if (!h->direct || alignment_from_statx(h)) {
        return;
    }
    if (logical) {
        h->request_alignment = h->memory_alignment = logical;
        return;
    }
    alignment_by_trying(h);
}

static bool look_at_file(FileHandle *h, const char *path, GError **error)
{
    struct stat st;

    if (fstat(h->fd, &st) < 0) {
        wharf_set_error_errno(error, errno, "cannot stat '%s'", path);
        return false;
    }
    h->block_size = st.st_blksize > 0 && st.st_blksize <= MAX_ALIGNMENT ? (uint32_t)st.st_blksize
                                                                        : DEFAULT_BLOCKSIZE;
    look_at_file_system(h);
    find_alignment(h);
    return true;
}

/* Fill in @handle for the file behind @fd, by a new descriptor; @fd stays the caller's. */
static bool open_from(FileHandle *handle, int fd, const char *path, FileKind kind,
                      FileAccess access, GError **error)
{
    FileHandle h = {.fd = open_by_descriptor(fd, access),
                    .kind = kind,
                    .writable = access.writable,
                    .direct = access.direct};

    if (h.fd < 0) {
        set_open_error(error, errno, path, access);
        return false;
    }
    if (!look_at_file(&h, path, error)) {
        file_handle_close(&h);
        return false;
    }
    *handle = h;
    return true;
}

bool file_handle_open(FileHandle *handle, const char *path, FileKind kind, FileAccess access,
                      GError **error)
{
    int fd = open_retrying(path, O_PATH); /* touches nothing, whatever it is */
    struct stat st;
    bool ok;

    if (fd < 0) {
        set_open_error(error, errno, path, (FileAccess){.writable = access.writable});
        return false;
    }
    if (fstat(fd, &st) < 0) {
        wharf_set_error_errno(error, errno, "cannot stat '%s'", path);
        ok = false;
    } else {
        ok = check_kind(path, kind, st.st_mode, error) &&
             open_from(handle, fd, path, kind, access, error);
    }
    close(fd);
    return ok;
}

bool file_handle_open_again(FileHandle *handle, const FileHandle *old, const char *path,
                            FileAccess access, GError **error)
{
    return open_from(handle, old->fd, path, old->kind, access, error);
}

void file_handle_close(FileHandle *handle)
{
    if (handle->fd >= 0) {
        close(handle->fd);
    }
    file_handle_init(handle);
}

int file_handle_replace(FileHandle *handle, FileHandle *next)
{
    int r;

    do {
        r = dup3(next->fd, handle->fd, O_CLOEXEC);
    } while (r < 0 && (errno == EINTR || errno == EBUSY));
    if (r < 0) {
        return -errno;
    }
    handle->writable = next->writable;
    if (handle->direct != next->direct) { /* else requests may be reading these */
        handle->direct = next->direct;
        handle->request_alignment = next->request_alignment;
        handle->memory_alignment = next->memory_alignment;
        handle->engine = next->engine;
        handle->splices = next->splices;
    }
    file_handle_close(next);
    return 0;
}

int64_t file_handle_length(const FileHandle *handle)
{
    struct stat st;
    uint64_t bytes;

    if (handle->kind == FILE_KIND_DEVICE) {
        return ioctl(handle->fd, BLKGETSIZE64, &bytes) < 0 ? -errno : (int64_t)bytes;
    }
    return fstat(handle->fd, &st) < 0 ? -errno : (int64_t)st.st_size;
}

int64_t file_handle_allocated_size(const FileHandle *handle)
{
    struct stat st;

    if (handle->kind == FILE_KIND_DEVICE) {
        return -ENOTSUP;
    }
    return fstat(handle->fd, &st) < 0 ? -errno : (int64_t)st.st_blocks * 512;
}
