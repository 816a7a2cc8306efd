/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/snapshot.h"

#include <string.h>

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
    KNOWN_LENGTH = 64, /* with all extra data that is known here */
};

static size_t round_up8(size_t n)
{
    return (n + 7) & ~(size_t)7;
}

uint32_t qcow2_snapshot_extra_bytes(const void *fixed)
{
    return be32_get((const uint8_t *)fixed + AT_EXTRA_LENGTH);
}

size_t qcow2_snapshot_names_bytes(const void *fixed)
{
    const uint8_t *p = fixed;

    return (size_t)be16_get(p + AT_ID_LENGTH) + be16_get(p + AT_NAME_LENGTH);
}

size_t qcow2_snapshot_length(const void *fixed, GError **error)
{
    uint32_t extra = qcow2_snapshot_extra_bytes(fixed);

    if (extra > QCOW2_SNAPSHOT_MAX_EXTRA) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "a snapshot has %u bytes of extra data; at most %d are possible", extra,
                    QCOW2_SNAPSHOT_MAX_EXTRA);
        return 0;
    }
    return round_up8(QCOW2_SNAPSHOT_FIXED + extra + qcow2_snapshot_names_bytes(fixed));
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
    uint32_t extra = qcow2_snapshot_extra_bytes(entry);
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
    s->extra_bytes = extra;
    s->raw = g_bytes_new(p, id - (const char *)p + id_length + be16_get(p + AT_NAME_LENGTH));
    s->id = g_strndup(id, id_length);
    s->name = g_strndup(id + id_length, be16_get(p + AT_NAME_LENGTH));
    return s;
}

Qcow2Snapshot *qcow2_snapshot_parse_cut(void *entry)
{
    Qcow2Snapshot *s;

    be32_put((uint8_t *)entry + AT_EXTRA_LENGTH, QCOW2_SNAPSHOT_MAX_EXTRA);
    s = qcow2_snapshot_parse(entry);
    s->cut = true;
    return s;
}

Qcow2Snapshot *qcow2_snapshot_complete(const Qcow2Snapshot *s, uint64_t disk_bytes)
{
    const uint8_t *raw = g_bytes_get_data(s->raw, NULL);
    size_t names = qcow2_snapshot_names_bytes(raw);
    g_autofree uint8_t *p = g_malloc0(KNOWN_LENGTH + names);

    memcpy(p, raw, QCOW2_SNAPSHOT_FIXED);
    be32_put(p + AT_EXTRA_LENGTH, KNOWN_LENGTH - QCOW2_SNAPSHOT_FIXED);
    be64_put(p + AT_STATE, s->state_bytes);
    be64_put(p + AT_DISK, s->disk_bytes == QCOW2_SNAPSHOT_SAME_LENGTH ? disk_bytes : s->disk_bytes);
    be64_put(p + AT_ICOUNT, s->icount);
    memcpy(p + KNOWN_LENGTH, raw + QCOW2_SNAPSHOT_FIXED + s->extra_bytes, names);
    return qcow2_snapshot_parse(p);
}

Qcow2Snapshot *qcow2_snapshot_new(const char *id, const char *name, uint64_t l1_offset,
                                  uint32_t l1_entries, uint64_t disk_bytes)
{
    size_t id_length = strlen(id), name_length = strlen(name);
    g_autofree uint8_t *p = g_malloc0(KNOWN_LENGTH + id_length + name_length);
    int64_t now = g_get_real_time();

    be64_put(p + AT_L1_OFFSET, l1_offset);
    be32_put(p + AT_L1_ENTRIES, l1_entries);
    be16_put(p + AT_ID_LENGTH, id_length);
    be16_put(p + AT_NAME_LENGTH, name_length);
    be32_put(p + AT_SECONDS, now / G_USEC_PER_SEC);
    be32_put(p + AT_NANOSECONDS, now % G_USEC_PER_SEC * 1000);
    be32_put(p + AT_EXTRA_LENGTH, KNOWN_LENGTH - QCOW2_SNAPSHOT_FIXED);
    be64_put(p + AT_DISK, disk_bytes);
    be64_put(p + AT_ICOUNT, QCOW2_SNAPSHOT_NO_ICOUNT);
    memcpy(p + KNOWN_LENGTH, id, id_length);
    memcpy(p + KNOWN_LENGTH + id_length, name, name_length);
    return qcow2_snapshot_parse(p);
}

void qcow2_snapshot_free(Qcow2Snapshot *snapshot)
{
    if (!snapshot) {
        return;
    }
    g_bytes_unref(snapshot->raw);
    g_free(snapshot->id);
    g_free(snapshot->name);
    g_free(snapshot);
}

/* Tables */

uint64_t qcow2_snapshots_bytes(const GPtrArray *snapshots)
{
    uint64_t bytes = 0;

    for (guint i = 0; i < snapshots->len; i++) {
        const Qcow2Snapshot *s = g_ptr_array_index(snapshots, i);

        bytes += round_up8(g_bytes_get_size(s->raw));
    }
    return bytes;
}

GByteArray *qcow2_snapshots_serialise(const GPtrArray *snapshots)
{
    static const uint8_t padding[8];
    GByteArray *out = g_byte_array_new();

    for (guint i = 0; i < snapshots->len; i++) {
        const Qcow2Snapshot *s = g_ptr_array_index(snapshots, i);
        gsize size;
        const uint8_t *raw = g_bytes_get_data(s->raw, &size);

        g_byte_array_append(out, raw, size);
        g_byte_array_append(out, padding, round_up8(size) - size);
    }
    return out;
}

int qcow2_snapshots_index(const GPtrArray *snapshots, const char *id, const char *name)
{
    for (guint i = 0; i < snapshots->len; i++) {
        const Qcow2Snapshot *s = g_ptr_array_index(snapshots, i);

        if ((!id || strcmp(s->id, id) == 0) && (!name || strcmp(s->name, name) == 0)) {
            return i;
        }
    }
    return -1;
}

Qcow2Snapshot *qcow2_snapshots_find(const GPtrArray *snapshots, const char *id, const char *name)
{
    int i = qcow2_snapshots_index(snapshots, id, name);

    return i >= 0 ? g_ptr_array_index(snapshots, i) : NULL;
}

char *qcow2_snapshots_new_id(const GPtrArray *snapshots)
{
    guint64 highest = 0;
    char *id;

    for (guint i = 0; i < snapshots->len; i++) {
        const Qcow2Snapshot *s = g_ptr_array_index(snapshots, i);
        guint64 n;

        if (g_ascii_string_to_unsigned(s->id, 10, 0, UINT32_MAX, &n, NULL)) {
            highest = MAX(highest, n);
        }
    }
    /* There may be larger numbers, which QEMU did not make. */
    while (qcow2_snapshots_find(snapshots, id = g_strdup_printf("%" G_GUINT64_FORMAT, ++highest),
                                NULL)) {
        g_free(id);
    }
    return id;
}
