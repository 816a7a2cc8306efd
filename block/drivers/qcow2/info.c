/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What queries tell of an image. Texts from the image may be anything, and are made UTF-8. */
#include "block/drivers/qcow2/state.h"

static char *shown(const char *text)
{
    return text ? g_utf8_make_valid(text, -1) : NULL;
}

static char *shown_extension(const Qcow2Header *header, Qcow2ExtensionType type)
{
    g_autofree char *text = qcow2_header_extension_string(header, type);

    return shown(text);
}

static Qcow2BitmapInfo *bitmap_info(const Qcow2Bitmap *bitmap)
{
    static const Qcow2BitmapInfoFlags in_use = QCOW2_BITMAP_INFO_FLAGS_IN_USE;
    static const Qcow2BitmapInfoFlags kept_up = QCOW2_BITMAP_INFO_FLAGS_AUTO;
    Qcow2BitmapInfo *info = g_new0(Qcow2BitmapInfo, 1);

    info->name = shown(bitmap->name);
    info->granularity = 1u << bitmap->granularity;
    info->flags = g_array_new(FALSE, FALSE, sizeof(Qcow2BitmapInfoFlags));
    if (bitmap->flags & QCOW2_BITMAP_IN_USE) {
        g_array_append_val(info->flags, in_use);
    }
    if (bitmap->flags & QCOW2_BITMAP_AUTO) {
        g_array_append_val(info->flags, kept_up);
    }
    return info;
}

static GPtrArray *bitmaps_info(const GPtrArray *bitmaps)
{
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)qcow2_bitmap_info_free);

    for (guint i = 0; i < bitmaps->len; i++) {
        g_ptr_array_add(list, bitmap_info(g_ptr_array_index(bitmaps, i)));
    }
    return list;
}

static ImageInfoSpecificQCow2Encryption *encryption_info(const Qcow2Header *h)
{
    ImageInfoSpecificQCow2Encryption *info;

    if (h->crypt == QCOW2_CRYPT_NONE) {
        return NULL;
    }
    info = g_new0(ImageInfoSpecificQCow2Encryption, 1);
    info->format =
        h->crypt == QCOW2_CRYPT_AES ? QCOW2_ENCRYPTION_FORMAT_AES : QCOW2_ENCRYPTION_FORMAT_LUKS;
    return info;
}

ImageInfoSpecific *qcow2_image_specific(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);
    const Qcow2Header *h = s->image->header;
    ImageInfoSpecific *info = g_new0(ImageInfoSpecific, 1);
    ImageInfoSpecificQCow2 *data = g_new0(ImageInfoSpecificQCow2, 1);
    bool later = h->version >= 3;
    bool external = qcow2_header_has_data_file(h);

    info->type = IMAGE_INFO_SPECIFIC_KIND_QCOW2;
    info->u.qcow2.data = data;
    *data = (ImageInfoSpecificQCow2){
        .compat = g_strdup(later ? "1.1" : "0.10"),
        .data_file = external ? shown_extension(h, QCOW2_EXTENSION_DATA_FILE) : NULL,
        .has_data_file_raw = external,
        .data_file_raw = h->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW,
        .has_extended_l2 = later,
        .extended_l2 = qcow2_header_extended_l2(h),
        .has_lazy_refcounts = later,
        .lazy_refcounts = h->compatible & QCOW2_COMPATIBLE_LAZY,
        .has_corrupt = later,
        .corrupt = (h->incompatible & QCOW2_INCOMPATIBLE_CORRUPT) ||
                   __atomic_load_n(&s->corrupt, __ATOMIC_RELAXED),
        .bitmaps = s->image->bitmaps ? bitmaps_info(s->image->bitmaps) : NULL,
        .refcount_bits = INT64_C(1) << h->refcount_order,
        .encrypt = encryption_info(h),
        .compression_type = h->compression == QCOW2_COMPRESSION_ZSTD ? QCOW2_COMPRESSION_TYPE_ZSTD
                                                                     : QCOW2_COMPRESSION_TYPE_ZLIB,
    };
    return info;
}

SnapshotInfo *qcow2_snapshot_info(const Qcow2Snapshot *snapshot)
{
    SnapshotInfo *info = g_new0(SnapshotInfo, 1);

    *info = (SnapshotInfo){
        .id = shown(snapshot->id),
        .name = shown(snapshot->name),
        .vm_state_size = MIN(snapshot->state_bytes, INT64_MAX),
        .date_sec = snapshot->seconds,
        .date_nsec = snapshot->nanoseconds,
        .vm_clock_sec = snapshot->clock_nanoseconds / 1000000000,
        .vm_clock_nsec = snapshot->clock_nanoseconds % 1000000000,
        .has_icount = snapshot->icount <= INT64_MAX,
        .icount = snapshot->icount,
    };
    return info;
}

static GPtrArray *snapshots_info(const GPtrArray *snapshots)
{
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)snapshot_info_free);

    for (guint i = 0; i < snapshots->len; i++) {
        g_ptr_array_add(list, qcow2_snapshot_info(g_ptr_array_index(snapshots, i)));
    }
    return list;
}

bool qcow2_image_info(BlockNode *node, ImageInfo *info)
{
    const Qcow2State *s = block_node_state(node);
    const Qcow2Header *h = s->image->header;

    info->length = (int64_t)h->size; /* also where the disk cannot be read */
    info->has_encrypted = info->encrypted = h->crypt != QCOW2_CRYPT_NONE;
    info->has_cluster_size = true;
    info->cluster_size = qcow2_cluster_size(&s->image->layout);
    info->has_dirty_flag = true;
    info->dirty_flag = h->incompatible & QCOW2_INCOMPATIBLE_DIRTY;
    info->backing_filename = shown(h->backing_file);
    info->full_backing_filename = qcow2_names_full_backing(s);
    info->backing_filename_format = shown_extension(h, QCOW2_EXTENSION_BACKING_FORMAT);
    info->snapshots = s->image->snapshots->len > 0 ? snapshots_info(s->image->snapshots) : NULL;
    return true;
}
