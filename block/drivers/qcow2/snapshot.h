/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/snapshot.h - entries of the table of internal snapshots.
 *
 * Threads   Any; nothing here has state, and only what is marked suspends.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_SNAPSHOT_H
#define WHARF_BLOCK_DRIVERS_QCOW2_SNAPSHOT_H

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

#include "block/driver.h"
#include "block/drivers/qcow2/header.h"

/* What QEMU can keep of a name and an id; longer ones it would cut. */
#define QCOW2_SNAPSHOT_MAX_NAME 255

/* The part of an entry whose length is fixed. */
#define QCOW2_SNAPSHOT_FIXED 40

/* Longer ones are refused; QEMU has the same limits. */
#define QCOW2_SNAPSHOT_MAX_EXTRA   1024
#define QCOW2_SNAPSHOTS_MAX_BYTES  (64 * 1024 * 1024)
#define QCOW2_SNAPSHOT_MAX_BYTES   (QCOW2_SNAPSHOT_FIXED + QCOW2_SNAPSHOT_MAX_EXTRA + 2 * 65535 + 7)
#define QCOW2_SNAPSHOT_V3_EXTRA    16 /* what version 3 wants at least */
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
    uint32_t extra_bytes;          /* of extra data in @raw */
    bool cut;                      /* there was more of that than there can be, which is left out */
    GBytes *raw;                   /* the whole entry as it was, without padding */
    char *id, *name;               /* as in the image, in no particular encoding */
} Qcow2Snapshot;

/*
 * The length in bytes of the entry that begins with the QCOW2_SNAPSHOT_FIXED bytes at @fixed, up to
 * the next one; at most QCOW2_SNAPSHOT_MAX_BYTES. 0 and @error: it cannot be one.
 */
size_t qcow2_snapshot_length(const void *fixed, GError **error);

/* The entry at @entry, as long as qcow2_snapshot_length() says. Never NULL. */
Qcow2Snapshot *qcow2_snapshot_parse(const void *entry);

/* The two parts of an entry whose length is not fixed, whatever that is; both without padding. */
uint32_t qcow2_snapshot_extra_bytes(const void *fixed);
size_t qcow2_snapshot_names_bytes(const void *fixed);

/*
 * An entry with too much extra data: @entry has the first QCOW2_SNAPSHOT_MAX_EXTRA bytes of that,
 * then id and name. Changes its length.
 */
Qcow2Snapshot *qcow2_snapshot_parse_cut(void *entry);

/* The same with all that version 3 wants; @disk_bytes is taken where it does not say. */
Qcow2Snapshot *qcow2_snapshot_complete(const Qcow2Snapshot *snapshot, uint64_t disk_bytes);

/* A new one, taken now. */
Qcow2Snapshot *qcow2_snapshot_new(const char *id, const char *name, uint64_t l1_offset,
                                  uint32_t l1_entries, uint64_t disk_bytes);

void qcow2_snapshot_free(Qcow2Snapshot *snapshot);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Snapshot, qcow2_snapshot_free)

/* Of tables: arrays of Qcow2Snapshot *, in the image's order. */

/* The bytes of a table; those that were parsed come out as they were. */
GByteArray *qcow2_snapshots_serialise(const GPtrArray *snapshots);
/* How many bytes that has. */
uint64_t qcow2_snapshots_bytes(const GPtrArray *snapshots);

/* The first that has both, where NULL matches anything; or its number. NULL, -1: there is none. */
Qcow2Snapshot *qcow2_snapshots_find(const GPtrArray *snapshots, const char *id, const char *name);
int qcow2_snapshots_index(const GPtrArray *snapshots, const char *id, const char *name);

/* An id that none of them has: one more than the highest number. */
char *qcow2_snapshots_new_id(const GPtrArray *snapshots);

/*
 * Append the snapshots that the header speaks of, but at most QCOW2_MAX_SNAPSHOTS, to @snapshots.
 * *@end becomes the offset behind the last one. @cut: those with too much extra data are taken
 * without the rest of it. After an error those that could be read are there; WHARF_ERROR_NOT_FOUND
 * means that the next one does not even begin where there can be one.
 */
bool co_fn qcow2_snapshots_co_load(BlockChild *file, const Qcow2Header *header, bool cut,
                                   GPtrArray *snapshots, uint64_t *end, GError **error);

#endif
