/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/snapshot.h - entries of the table of internal snapshots.
 *
 * Threads   Any; nothing here has state or suspends.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_SNAPSHOT_H
#define WHARF_BLOCK_DRIVERS_QCOW2_SNAPSHOT_H

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

/* The part of an entry whose length is fixed. */
#define QCOW2_SNAPSHOT_FIXED 40

/* Longer ones are refused; QEMU has the same limits. */
#define QCOW2_SNAPSHOT_MAX_EXTRA   1024
#define QCOW2_SNAPSHOTS_MAX_BYTES  (64 * 1024 * 1024)
#define QCOW2_SNAPSHOT_MAX_BYTES   (QCOW2_SNAPSHOT_FIXED + QCOW2_SNAPSHOT_MAX_EXTRA + 2 * 65535 + 7)
#define QCOW2_SNAPSHOT_NO_ICOUNT   UINT64_MAX
#define QCOW2_SNAPSHOT_SAME_LENGTH UINT64_MAX

typedef struct Qcow2Snapshot {
    uint64_t l1_offset; /* not checked */
    uint32_t l1_entries;
    uint32_t seconds, nanoseconds; /* since the Epoch; when it was taken */
    uint64_t clock_nanoseconds;    /* the guest had run for */
    uint64_t state_bytes;          /* of the virtual machine; 0: none */
    uint64_t disk_bytes;           /* SAME_LENGTH: the image does not say */
    uint64_t icount;               /* or NO_ICOUNT */
    GBytes *extra;                 /* all extra data, as it was */
    char *id, *name;               /* as in the image, in no particular encoding */
} Qcow2Snapshot;

/*
 * The length in bytes of the entry that begins with the QCOW2_SNAPSHOT_FIXED bytes at @fixed, up to
 * the next one; at most QCOW2_SNAPSHOT_MAX_BYTES. 0 and @error: it cannot be one.
 */
size_t qcow2_snapshot_length(const void *fixed, GError **error);

/* The entry at @entry, as long as qcow2_snapshot_length() says. Never NULL. */
Qcow2Snapshot *qcow2_snapshot_parse(const void *entry);

void qcow2_snapshot_free(Qcow2Snapshot *snapshot);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Snapshot, qcow2_snapshot_free)

#endif
