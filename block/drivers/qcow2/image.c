/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading an image when it is opened: the header's cluster, the L1 table and the list of snapshots.
 * All of that has bounds of its own; how large the disk is, or how much of it is allocated, does
 * not matter.
 */
#include "block/drivers/qcow2/state.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "util/error.h"

static bool co_fn co_read(BlockChild *file, uint64_t offset, void *buffer, size_t bytes,
                          const char *what, GError **error)
{
    int r = block_child_co_preadv(file, offset, IOV_LOCAL(buffer, bytes), 0);

    if (r < 0) {
        wharf_set_error_errno(error, -r, "cannot read the %s", what);
    }
    return r == 0;
}

/* Header */

Qcow2Header *co_fn qcow2_image_co_read_header(BlockChild *file, GError **error)
{
    uint64_t length = block_child_length(file);
    uint8_t start[QCOW2_HEADER_MIN] = {0};
    g_autofree uint8_t *cluster = NULL;
    size_t bytes;

    if (!co_read(file, 0, start, MIN(sizeof(start), length), "header", error)) {
        return NULL;
    }
    bytes = qcow2_header_extent(start, MIN(sizeof(start), length), error);
    if (bytes == 0) {
        return NULL;
    }
    bytes = MIN(bytes, length);
    cluster = g_malloc(bytes);
    return co_read(file, 0, cluster, bytes, "header", error)
               ? qcow2_header_parse(cluster, bytes, error)
               : NULL;
}

static bool check_header(const Qcow2Header *header, BlockChild *file, Qcow2Purpose purpose,
                         GError **error)
{
    if (purpose == QCOW2_FOR_CHECK) {
        return qcow2_header_check_format(header, error);
    }
    return (purpose == QCOW2_FOR_INFO ? qcow2_header_check_known(header, error)
                                      : qcow2_header_check_features(header, error)) &&
           qcow2_header_check_tables(header, block_child_length(file), error);
}

Qcow2Image *co_fn qcow2_image_co_load_header(BlockChild *file, const char *name,
                                             Qcow2Purpose purpose, GError **error)
{
    g_autoptr(Qcow2Image) image = g_new0(Qcow2Image, 1);

    image->header = qcow2_image_co_read_header(file, error);
    if (!image->header || !check_header(image->header, file, purpose, error)) {
        g_prefix_error(error, "image '%s': ", name);
        return NULL;
    }
    qcow2_layout_init(&image->layout, image->header);
    image->snapshots = g_ptr_array_new_with_free_func((GDestroyNotify)qcow2_snapshot_free);
    return g_steal_pointer(&image);
}

/* L1 table */

static bool co_fn co_load_l1(Qcow2Image *image, BlockChild *file, GError **error)
{
    const Qcow2Header *h = image->header;
    size_t bytes = (size_t)h->l1_entries * sizeof(*image->l1);

    /* Room for all that there may ever be, so that it need not move while it is read. */
    image->l1 = mmap(NULL, QCOW2_MAX_L1_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (image->l1 == MAP_FAILED) {
        image->l1 = NULL;
        wharf_set_error_errno(error, errno, "there is no memory for the L1 table");
        return false;
    }
    if (bytes > 0 && !co_read(file, h->l1_offset, image->l1, bytes, "L1 table", error)) {
        return false;
    }
    for (uint32_t i = 0; i < h->l1_entries; i++) {
        image->l1[i] = GUINT64_FROM_BE(image->l1[i]);
    }
    return true;
}

/* Snapshots */

/* The table of snapshots, read in pieces, for it tells only bit by bit how long it is. */
typedef struct TableReader {
    BlockChild *file;
    bool cut;        /* entries with too much extra data are taken without the rest of it */
    uint64_t offset; /* of the first byte that has not been looked at */
    uint64_t end;    /* of the file, or of what a table may have */
    uint8_t *buffer;
    size_t size, used;
    size_t at; /* of the first byte in the buffer that has not been looked at */
} TableReader;

/* Make the next @bytes bytes be in the buffer. */
static bool co_fn reader_co_need(TableReader *r, size_t bytes, GError **error)
{
    size_t wanted;

    if (r->offset <= r->end && bytes <= r->used - r->at) {
        return true;
    }
    if (r->offset > r->end || bytes > r->end - r->offset) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "the table of snapshots reaches past the end of the file, or is too long");
        return false;
    }
    wanted = MIN(r->size, r->end - r->offset);
    if (!co_read(r->file, r->offset, r->buffer, wanted, "table of snapshots", error)) {
        return false;
    }
    r->used = wanted;
    r->at = 0;
    return true;
}

static void reader_skip(TableReader *r, uint64_t bytes)
{
    r->offset += bytes;
    if (bytes <= r->used - r->at) {
        r->at += bytes;
    } else {
        r->at = r->used = 0;
    }
}

/* An entry with too much extra data, without the rest of it. */
static Qcow2Snapshot *co_fn reader_co_next_cut(TableReader *r, GError **error)
{
    const size_t kept = QCOW2_SNAPSHOT_FIXED + QCOW2_SNAPSHOT_MAX_EXTRA;
    const uint8_t *fixed = r->buffer + r->at;
    uint64_t extra = qcow2_snapshot_extra_bytes(fixed);
    size_t names = qcow2_snapshot_names_bytes(fixed);
    g_autofree uint8_t *entry = g_malloc(kept + names);

    if (!reader_co_need(r, kept, error)) {
        return NULL;
    }
    memcpy(entry, r->buffer + r->at, kept);
    reader_skip(r, QCOW2_SNAPSHOT_FIXED + extra);
    if (!reader_co_need(r, names, error)) {
        return NULL;
    }
    memcpy(entry + kept, r->buffer + r->at, names);
    reader_skip(r, names + (-(extra + names) & 7));
    return qcow2_snapshot_parse_cut(entry);
}

static Qcow2Snapshot *co_fn reader_co_next(TableReader *r, GError **error)
{
    Qcow2Snapshot *snapshot;
    size_t length;

    if (!reader_co_need(r, QCOW2_SNAPSHOT_FIXED, error)) {
        if (error && g_error_matches(*error, WHARF_ERROR, WHARF_ERROR_GENERIC)) {
            (*error)->code = WHARF_ERROR_NOT_FOUND;
        }
        return NULL;
    }
    if (r->cut && qcow2_snapshot_extra_bytes(r->buffer + r->at) > QCOW2_SNAPSHOT_MAX_EXTRA) {
        return reader_co_next_cut(r, error);
    }
    length = qcow2_snapshot_length(r->buffer + r->at, error);
    if (length == 0 || !reader_co_need(r, length, error)) {
        return NULL;
    }
    snapshot = qcow2_snapshot_parse(r->buffer + r->at);
    reader_skip(r, length);
    return snapshot;
}

bool co_fn qcow2_snapshots_co_load(BlockChild *file, const Qcow2Header *h, bool cut,
                                   GPtrArray *snapshots, uint64_t *end, GError **error)
{
    uint64_t length = block_child_length(file);
    uint32_t n = MIN(h->n_snapshots, QCOW2_MAX_SNAPSHOTS);
    g_autofree uint8_t *buffer = NULL;
    TableReader r = {
        .file = file, .cut = cut, .offset = h->snapshots_offset, .size = QCOW2_SNAPSHOT_MAX_BYTES};

    if (n == 0) {
        return true;
    }
    /* The padding of the last entry may be a hole that the file does not reach. */
    r.end = MIN((length + 7) & ~UINT64_C(7), h->snapshots_offset + QCOW2_SNAPSHOTS_MAX_BYTES);
    r.buffer = buffer = g_malloc(r.size);
    for (uint32_t i = 0; i < n; i++) {
        Qcow2Snapshot *snapshot = reader_co_next(&r, error);

        if (!snapshot) {
            return false;
        }
        g_ptr_array_add(snapshots, snapshot);
        *end = r.offset;
    }
    return true;
}

/* Bitmaps */

GPtrArray *co_fn qcow2_bitmaps_co_load(BlockChild *file, const Qcow2Header *header,
                                       Qcow2BitmapsExtension *ext, GError **error)
{
    GBytes *extension = qcow2_header_extension(header, QCOW2_EXTENSION_BITMAPS);
    uint64_t length = block_child_length(file);
    g_autofree void *directory = NULL;

    if (!qcow2_bitmaps_extension_parse(extension, header->cluster_bits, ext, error)) {
        *ext = (Qcow2BitmapsExtension){0};
        return NULL;
    }
    if (ext->offset > length || ext->bytes > length - ext->offset) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "their directory reaches past the end of the file");
        return NULL;
    }
    directory = g_try_malloc(ext->bytes);
    if (!directory) {
        wharf_set_error_errno(error, ENOMEM, "there is no memory for their directory");
        return NULL;
    }
    return co_read(file, ext->offset, directory, ext->bytes, "directory of bitmaps", error)
               ? qcow2_bitmaps_parse(ext, directory, header->cluster_bits, error)
               : NULL;
}

bool qcow2_bitmaps_are_there(const Qcow2Header *header)
{
    return qcow2_header_extension(header, QCOW2_EXTENSION_BITMAPS) &&
           (header->autoclear & QCOW2_AUTOCLEAR_BITMAPS);
}

/* Bitmaps that are not right are no reason to keep anybody from the data; nobody trusts them. */
static void co_fn co_try_load_bitmaps(Qcow2Image *image, BlockChild *file, const char *name)
{
    Qcow2BitmapsExtension ext;
    g_autoptr(GError) error = NULL;

    if (!qcow2_bitmaps_are_there(image->header)) {
        return;
    }
    image->bitmaps = qcow2_bitmaps_co_load(file, image->header, &ext, &error);
    if (!image->bitmaps) {
        g_warning("image '%s': its persistent bitmaps cannot be used, and are given up with the "
                  "first write: %s",
                  name, error->message);
    }
}

bool co_fn qcow2_image_co_load_tables(Qcow2Image *image, BlockChild *file, const char *name,
                                      GError **error)
{
    uint64_t end;

    if (co_load_l1(image, file, error) &&
        qcow2_snapshots_co_load(file, image->header, false, image->snapshots, &end, error)) {
        co_try_load_bitmaps(image, file, name);
        return true;
    }
    g_prefix_error(error, "image '%s': ", name);
    return false;
}

/* Reading a snapshot */

uint64_t *co_fn qcow2_image_co_snapshot_l1(const Qcow2Image *image, BlockChild *file,
                                           const Qcow2Snapshot *snapshot, GError **error)
{
    uint64_t cluster = qcow2_cluster_size(&image->layout);
    uint64_t length = block_child_length(file);
    size_t bytes = (size_t)snapshot->l1_entries * 8;
    g_autofree uint64_t *l1 = NULL;

    if (bytes > QCOW2_MAX_L1_BYTES) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "its L1 table of %u entries is too large; at most %d are possible",
                    snapshot->l1_entries, QCOW2_MAX_L1_BYTES / 8);
        return NULL;
    }
    if (bytes > 0 && (snapshot->l1_offset < cluster || (snapshot->l1_offset & (cluster - 1)) ||
                      snapshot->l1_offset > length || bytes > length - snapshot->l1_offset)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "its L1 table (%zu bytes at %" G_GUINT64_FORMAT
                    ") does not lie at a cluster of the file",
                    bytes, snapshot->l1_offset);
        return NULL;
    }
    l1 = g_try_malloc(MAX(bytes, 8));
    if (!l1) {
        wharf_set_error_errno(error, ENOMEM, "there is no memory for its L1 table");
        return NULL;
    }
    if (bytes > 0 && !co_read(file, snapshot->l1_offset, l1, bytes, "L1 table", error)) {
        return NULL;
    }
    for (uint32_t i = 0; i < snapshot->l1_entries; i++) {
        l1[i] = GUINT64_FROM_BE(l1[i]);
    }
    return g_steal_pointer(&l1);
}

uint64_t qcow2_image_snapshot_size(const Qcow2Image *image, const Qcow2Snapshot *snapshot)
{
    return snapshot->disk_bytes == QCOW2_SNAPSHOT_SAME_LENGTH ? image->header->size
                                                              : snapshot->disk_bytes;
}

/* Whether the disk can have the length that it had at @snapshot; *@entries that it needs then. */
bool qcow2_image_check_snapshot_size(const Qcow2Image *image, const Qcow2Snapshot *snapshot,
                                     uint64_t *entries, GError **error)
{
    const Qcow2Header *h = image->header;
    uint64_t size = qcow2_image_snapshot_size(image, snapshot);

    *entries = qcow2_l1_entries_for(size, h->cluster_bits, qcow2_header_extended_l2(h));
    if (size > INT64_MAX || *entries > QCOW2_MAX_L1_BYTES / 8) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "its disk of %" G_GUINT64_FORMAT " bytes is too large", size);
        return false;
    }
    return true;
}

static bool co_fn co_take_snapshot(Qcow2Image *image, BlockChild *file,
                                   const Qcow2Snapshot *snapshot, GError **error)
{
    Qcow2Header *h = image->header;
    g_autofree uint64_t *l1 = NULL;
    uint64_t entries;

    if (!qcow2_image_check_snapshot_size(image, snapshot, &entries, error)) {
        return false;
    }
    l1 = qcow2_image_co_snapshot_l1(image, file, snapshot, error);
    if (!l1) {
        return false;
    }
    memset(image->l1, 0, MAX(h->l1_entries, entries) * 8);
    memcpy(image->l1, l1, MIN(entries, snapshot->l1_entries) * 8);
    h->size = qcow2_image_snapshot_size(image, snapshot);
    h->l1_entries = entries;
    h->l1_offset = snapshot->l1_offset;
    return true;
}

bool co_fn qcow2_image_co_go_to(Qcow2Image *image, BlockChild *file, const char *name,
                                const char *snapshot, GError **error)
{
    const Qcow2Snapshot *found = qcow2_snapshots_find(image->snapshots, snapshot, NULL);

    found = found ? found : qcow2_snapshots_find(image->snapshots, NULL, snapshot);
    if (!found) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "image '%s' has no snapshot with the id or name '%s'", name, snapshot);
        return false;
    }
    if (!co_take_snapshot(image, file, found, error)) {
        g_prefix_error(error, "image '%s', snapshot '%s': ", name, snapshot);
        return false;
    }
    return true;
}

void qcow2_image_free(Qcow2Image *image)
{
    if (!image) {
        return;
    }
    qcow2_header_free(image->header);
    if (image->l1) {
        munmap(image->l1, QCOW2_MAX_L1_BYTES);
    }
    g_clear_pointer(&image->snapshots, g_ptr_array_unref);
    g_clear_pointer(&image->bitmaps, g_ptr_array_unref);
    g_free(image);
}
