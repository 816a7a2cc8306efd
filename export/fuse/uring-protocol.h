/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/fuse/uring-protocol.h - what the kernel and a server say to each other in FUSE over
 * io_uring, which <linux/fuse.h> may be too old to name: protocol 7.42, Linux 6.14. Source of the
 * layout: the kernel's include/uapi/linux/fuse.h and Documentation/filesystems/fuse.
 */
#ifndef WHARF_EXPORT_FUSE_URING_PROTOCOL_H
#define WHARF_EXPORT_FUSE_URING_PROTOCOL_H

#include <glib.h>
#include <stdint.h>

/* In fuse_init_in and fuse_init_out: requests may come through rings. */
#define URING_INIT_FLAG (UINT64_C(1) << 41)

/* Operations of the commands to /dev/fuse. */
enum {
    URING_REGISTER = 1, /* here is an entry; done when it holds its first request */
    URING_COMMIT = 2,   /* here is the answer; done when the entry holds its next request */
};

/* What goes along with a command. */
typedef struct UringArea {
    uint64_t flags;
    uint64_t commit_id; /* URING_COMMIT: that of the request */
    uint16_t queue;     /* number of a CPU */
    uint8_t padding[6];
} UringArea;

G_STATIC_ASSERT(sizeof(UringArea) == 24);

#define URING_OP_BYTES 128

/* The first of the two buffers of an entry; the second has what follows the arguments. */
typedef struct UringHeaders {
    _Alignas(8) uint8_t in_out[128];        /* fuse_in_header, then fuse_out_header */
    _Alignas(8) uint8_t op[URING_OP_BYTES]; /* the arguments of the request, fuse_*_in */
    uint64_t flags;
    uint64_t commit_id;
    uint32_t payload_bytes; /* in the second buffer, of the request and then of the answer */
    uint32_t padding;
    uint64_t reserved;
} UringHeaders;

G_STATIC_ASSERT(sizeof(UringHeaders) == 288);

#endif
