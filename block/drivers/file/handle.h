/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/file/handle.h - an open image file or block device, and what is known of it.
 *
 * Threads   Everything here but file_handle_init() may block for as long as the storage likes, for
 *           ever on a mount that this daemon serves itself: call it in a worker thread only.
 * Lifetime  A handle owns its descriptor. What is asked of the system once, at open, stays fixed.
 * Errors    Control path: false and @error, which names the file and the way out.
 */
#ifndef WHARF_BLOCK_DRIVERS_FILE_HANDLE_H
#define WHARF_BLOCK_DRIVERS_FILE_HANDLE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "aio/aio.h"

/* What a file must be to be opened. */
typedef enum FileKind {
    FILE_KIND_REGULAR,
    FILE_KIND_DEVICE, /* a block device */
} FileKind;

typedef struct FileHandle {
    int fd; /* or -1 */
    FileKind kind;
    bool writable;
    bool direct; /* opened with O_DIRECT */

    uint32_t request_alignment; /* of offsets and lengths: 1 unless direct */
    uint32_t memory_alignment;  /* of buffers: 1 unless direct */
    uint32_t block_size;        /* a good size for small requests */
    uint32_t zero_alignment;    /* of zeroing and discarding ranges: 1 for regular files */
    bool local;                 /* of a known kind on this machine: RWF_DSYNC does sync, and stat
                                   does not wait */
    bool splices;               /* see aio_can_splice() */
    AioEngine engine;           /* the fastest there is for it; INLINE says that it is in memory */
} FileHandle;

/* How to open; the same struct says what a handle was opened for. */
typedef struct FileAccess {
    bool writable;
    bool direct;
} FileAccess;

/* An empty handle, which file_handle_close() accepts. */
void file_handle_init(FileHandle *handle);

/*
 * Open @path, which must be of kind @kind: nothing else is touched, so that a fifo does not hang
 * and a device is not woken. @handle is an empty one, and stays so on failure.
 */
bool file_handle_open(FileHandle *handle, const char *path, FileKind kind, FileAccess access,
                      GError **error);

/*
 * Open the file that @old has open once more, as an open file description of its own and without
 * looking at its path: what lies at that path may be another file by now, or a mount of our own.
 * @path is for messages.
 */
bool file_handle_open_again(FileHandle *handle, const FileHandle *old, const char *path,
                            FileAccess access, GError **error);

/* Close the descriptor, if any. Locks go with it. */
void file_handle_close(FileHandle *handle);

/*
 * Let @handle's descriptor number lead to what @next has open, the same file, in one step: a system
 * call that runs meanwhile in another thread uses one or the other. But if `direct` changes, so do
 * the alignments, and no request may be running. @next is empty afterwards. Returns 0 or -errno:
 * then nothing has changed.
 */
int file_handle_replace(FileHandle *handle, FileHandle *next);

/* The exact length in bytes, or -errno. */
int64_t file_handle_length(const FileHandle *handle);

/* Bytes that the file takes up, or -errno (-ENOTSUP for devices). */
int64_t file_handle_allocated_size(const FileHandle *handle);

#endif
