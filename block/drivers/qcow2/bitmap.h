/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/bitmap.h - persistent dirty bitmaps as they stand in an image: the header
 * extension, which names a directory; its entries, each of which names a table; and the entries of
 * such a table, each of which says what one cluster's worth of bits is.
 *
 * Bit i of a bitmap tells whether something in its part i of the disk was written. With the flag
 * AUTO that goes on; without, the bitmap stays as it is, whatever is written. IN_USE says that
 * somebody has begun to write and not brought the bits to the image: they must not be trusted.
 *
 * Threads   Any; nothing here has state or suspends.
 * Errors    Messages are the end of a sentence about the image.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_BITMAP_H
#define WHARF_BLOCK_DRIVERS_QCOW2_BITMAP_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What one image may have at most; more is refused. QEMU has the same limits. */
#define QCOW2_MAX_BITMAPS            65535
#define QCOW2_BITMAPS_MAX_BYTES      (1024 * QCOW2_MAX_BITMAPS)
#define QCOW2_BITMAP_MAX_TABLE       0x8000000  /* entries */
#define QCOW2_BITMAP_MAX_BYTES       0x20000000 /* of bits */
#define QCOW2_BITMAP_MAX_NAME        1023
#define QCOW2_BITMAP_MIN_GRANULARITY 9
#define QCOW2_BITMAP_MAX_GRANULARITY 31

/* The part of an entry of the directory whose length is fixed. */
#define QCOW2_BITMAP_FIXED 24

#define QCOW2_BITMAP_IN_USE     (1u << 0)
#define QCOW2_BITMAP_AUTO       (1u << 1)
#define QCOW2_BITMAP_COMPATIBLE (1u << 2) /* extra data that is not understood does no harm */

/* The header extension. */
typedef struct Qcow2BitmapsExtension {
    uint32_t n;
    uint64_t bytes, offset; /* of the directory */
} Qcow2BitmapsExtension;

bool qcow2_bitmaps_extension_parse(GBytes *data, unsigned cluster_bits, Qcow2BitmapsExtension *ext,
                                   GError **error);

/* One entry of the directory. */
typedef struct Qcow2Bitmap {
    uint64_t table_offset; /* aligned to a cluster, or 0 with no entries */
    uint32_t table_entries;
    uint32_t flags;
    unsigned granularity; /* a bit stands for 1 << granularity bytes of the disk */
    char *name;           /* in no particular encoding */
    GByteArray *raw;      /* the entry as in the image, without padding */
} Qcow2Bitmap;

void qcow2_bitmap_free(Qcow2Bitmap *bitmap);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Bitmap, qcow2_bitmap_free)

/*
 * The entries of a directory, @ext.bytes at @directory; an array of Qcow2Bitmap *. Everything must
 * be as the format says, with nothing unknown that would matter.
 */
GPtrArray *qcow2_bitmaps_parse(const Qcow2BitmapsExtension *ext, const void *directory,
                               unsigned cluster_bits, GError **error);

/* The directory's bytes: as they were, but for tables and flags. */
GByteArray *qcow2_bitmaps_serialise(const GPtrArray *bitmaps);

/* Where, in the directory, the 4 bytes of flags of bitmap @i stand. */
uint64_t qcow2_bitmaps_flags_at(const GPtrArray *bitmaps, guint i);

/* How many bits a bitmap of a disk of @size bytes has; and entries its table: -1: too many. */
uint64_t qcow2_bitmap_bits(unsigned granularity, uint64_t size);
int64_t qcow2_bitmap_entries(unsigned granularity, unsigned cluster_bits, uint64_t size);

/* What an entry of a bitmap's table says. */
typedef enum {
    QCOW2_BITS_ZEROS,
    QCOW2_BITS_ONES,
    QCOW2_BITS_STORED, /* in a cluster, at *@offset */
    QCOW2_BITS_FAULTY,
} Qcow2Bits;

Qcow2Bits qcow2_bits_decode(uint64_t entry, unsigned cluster_bits, uint64_t *offset);

#endif
