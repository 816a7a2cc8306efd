/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/fuse/passthrough-protocol.h - what the kernel and a server say to each other about
 * passthrough, which <linux/fuse.h> may be too old to name: protocol 7.40, Linux 6.9. Source of the
 * layout: the kernel's include/uapi/linux/fuse.h and Documentation/filesystems/fuse.
 */
#ifndef WHARF_EXPORT_FUSE_PASSTHROUGH_PROTOCOL_H
#define WHARF_EXPORT_FUSE_PASSTHROUGH_PROTOCOL_H

#include <glib.h>
#include <linux/fuse.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

/* In fuse_init_in and fuse_init_out. */
#define PASSTHROUGH_INIT_FLAG (UINT64_C(1) << 37)

/*
 * In fuse_init_out: how many file systems may lie upon each other, counted from the file to us. A
 * uint32_t; old headers have a reserve there.
 */
#define PASSTHROUGH_DEPTH_OFFSET (offsetof(struct fuse_init_out, flags2) + sizeof(uint32_t))

/* What the kernel allows at most; with it a file on overlayfs will do. */
#define PASSTHROUGH_DEPTH_MAX 2

G_STATIC_ASSERT(PASSTHROUGH_DEPTH_OFFSET + sizeof(uint32_t) <= sizeof(struct fuse_init_out));

/* The answer to an open whose data goes to a registered file. */
typedef struct PassthroughOpenOut {
    uint64_t fh;
    uint32_t open_flags;
    int32_t backing_id;
} PassthroughOpenOut;

G_STATIC_ASSERT(sizeof(PassthroughOpenOut) == sizeof(struct fuse_open_out));

#define PASSTHROUGH_OPEN_FLAG (1U << 7)

/* What a file is registered by, with an ioctl on the connection that returns its id (> 0). */
typedef struct PassthroughBacking {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
} PassthroughBacking;

#define PASSTHROUGH_IOC_OPEN  _IOW(229, 1, PassthroughBacking)
#define PASSTHROUGH_IOC_CLOSE _IOW(229, 2, uint32_t)

#endif
