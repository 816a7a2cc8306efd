/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/snapshot.h"

#include "block/drivers/qcow2/be.h"
#include "util/error.h"

/* Where the fields stand; the last ones in the extra data, if it is long enough. */
enum {
    AT_L1_OFFSET = 0,
    AT_L1_ENTRIES = 8,
    AT_ID_LENGTH = 12,
    AT_NAME_LENGTH = 14,
    AT_SECONDS = 16,
    AT_NANOSECONDS = 20,
    AT_CLOCK = 24,
    AT_STATE_32 = 32,
    AT_EXTRA_LENGTH = 36,
    AT_STATE = 40,
    AT_DISK = 48,
    AT_ICOUNT = 56,
};

size_t qcow2_snapshot_length(const void *fixed, GError **error)
{
    const uint8_t *p = fixed;
    uint32_t extra = be32_get(p + AT_EXTRA_LENGTH);
    size_t length;

    if (extra > QCOW2_SNAPSHOT_MAX_EXTRA) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "a snapshot has %u bytes of extra data; at most %d are possible", extra,
                    QCOW2_SNAPSHOT_MAX_EXTRA);
        return 0;
    }
    length =
        QCOW2_SNAPSHOT_FIXED + extra + be16_get(p + AT_ID_LENGTH) + be16_get(p + AT_NAME_LENGTH);
    return (length + 7) & ~(size_t)7;
}

/* A field of the extra data, or @otherwise. */
static uint64_t extra_field(const uint8_t *p, uint32_t extra, size_t at, uint64_t otherwise)
{
    return QCOW2_SNAPSHOT_FIXED + extra >= at + 8 ? be64_get(p + at) : otherwise;
}

Qcow2Snapshot *qcow2_snapshot_parse(const void *entry)
{
    Qcow2Snapshot *s = g_new0(Qcow2Snapshot, 1);
    const uint8_t *p = entry;
    uint32_t extra = be32_get(p + AT_EXTRA_LENGTH);
    const char *id = (const char *)p + QCOW2_SNAPSHOT_FIXED + extra;
    uint16_t id_length = be16_get(p + AT_ID_LENGTH);

    s->l1_offset = be64_get(p + AT_L1_OFFSET);
    s->l1_entries = be32_get(p + AT_L1_ENTRIES);
    s->seconds = be32_get(p + AT_SECONDS);
    s->nanoseconds = be32_get(p + AT_NANOSECONDS);
    s->clock_nanoseconds = be64_get(p + AT_CLOCK);
    s->state_bytes = extra_field(p, extra, AT_STATE, be32_get(p + AT_STATE_32));
    s->disk_bytes = extra_field(p, extra, AT_DISK, QCOW2_SNAPSHOT_SAME_LENGTH);
    s->icount = extra_field(p, extra, AT_ICOUNT, QCOW2_SNAPSHOT_NO_ICOUNT);
    s->extra = g_bytes_new(p + QCOW2_SNAPSHOT_FIXED, extra);
    s->id = g_strndup(id, id_length);
    s->name = g_strndup(id + id_length, be16_get(p + AT_NAME_LENGTH));
    return s;
}

void qcow2_snapshot_free(Qcow2Snapshot *snapshot)
{
    if (!snapshot) {
        return;
    }
    g_bytes_unref(snapshot->extra);
    g_free(snapshot->id);
    g_free(snapshot->name);
    g_free(snapshot);
}
