/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/fuse/init.h - what is agreed on with the kernel before the first real request.
 *
 * The protocol is that of <linux/fuse.h>. What the installed header may be too old to name is
 * defined here, with the version of the protocol that brought it.
 *
 * Threads   Any; fuse_init_handshake() blocks, so it belongs into a worker.
 */
#ifndef WHARF_EXPORT_FUSE_INIT_H
#define WHARF_EXPORT_FUSE_INIT_H

#include <glib.h>
#include <linux/fuse.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "export/fuse/passthrough-protocol.h"
#include "export/fuse/uring-protocol.h"

/* Largest transfer in one request, in bytes. */
#define FUSE_INIT_MAX_IO (1024 * 1024)

/* What depends on the export. */
typedef struct FuseInitWishes {
    bool uring;     /* ring queues, too; if they are agreed on, clients wait until all are there */
    bool writeback; /* the kernel may keep what is written for a while */
    bool passthrough;
    uint32_t max_readahead; /* bytes; the kernel may have less in mind */
    uint32_t max_io;        /* bytes of one request, up to FUSE_INIT_MAX_IO, which 0 stands for */
} FuseInitWishes;

typedef struct FuseAgreement {
    uint32_t minor; /* of protocol 7 */
    uint64_t flags; /* FUSE_* of fuse_init_in, both halves */
    uint32_t max_write;
    uint32_t max_readahead;
    uint16_t max_background; /* asynchronous requests the kernel keeps in flight */
} FuseAgreement;

/*
 * Work out the answer to the FUSE_INIT message @message of @bytes bytes. 0; -EAGAIN: the kernel
 * speaks a later major version, @out names ours and it will ask again; -EPROTO: it is too old;
 * -EINVAL: no such message.
 */
int fuse_init_negotiate(const void *message, size_t bytes, const FuseInitWishes *wishes,
                        FuseAgreement *agreed, struct fuse_init_out *out);

/* Wait for the kernel's FUSE_INIT on a new connection and answer it. */
bool fuse_init_handshake(int fd, const FuseInitWishes *wishes, FuseAgreement *agreed,
                         GError **error);

/* Names of what has been agreed on (char *). */
GPtrArray *fuse_init_features(const FuseAgreement *agreed);

#endif
