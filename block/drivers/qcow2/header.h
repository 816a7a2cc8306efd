/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/header.h - the header of a qcow2 image as a plain struct.
 *
 * An image begins with its header, header extensions and the name of its backing file, all within
 * the first cluster. What is not understood here is kept and written again as it was.
 *
 * Reading one goes in three steps, each of which trusts nothing: parse (is it well-formed?), check
 * the features (can we do what it asks for?), check the tables (do they lie where tables can lie?).
 *
 * Threads   Any; nothing here has state, suspends, or knows of nodes.
 * Errors    WHARF_ERROR_GENERIC where the header is wrong, WHARF_ERROR_UNSUPPORTED where it asks
 *           for what this build cannot do. Messages say what and why, not which image: that is
 *           the caller's prefix.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_HEADER_H
#define WHARF_BLOCK_DRIVERS_QCOW2_HEADER_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QCOW2_MIN_CLUSTER_BITS 9
#define QCOW2_MAX_CLUSTER_BITS 21
#define QCOW2_MAX_CLUSTER_SIZE (1 << QCOW2_MAX_CLUSTER_BITS)

/* The disk has a multiple of this. The header could say others, which QEMU would cut. */
#define QCOW2_SECTOR 512

/* Bytes that tell how long the whole header is; a shorter file is no image. */
#define QCOW2_HEADER_MIN 72

/* What one image may have at most of each; more is refused. QEMU has the same limits. */
#define QCOW2_MAX_L1_BYTES       (32 * 1024 * 1024)
#define QCOW2_MAX_REFTABLE_BYTES (8 * 1024 * 1024)
#define QCOW2_MAX_SNAPSHOTS      65536
#define QCOW2_MAX_BACKING_NAME   1023

/* Bits of the feature fields. */
#define QCOW2_INCOMPATIBLE_DIRTY       (UINT64_C(1) << 0)
#define QCOW2_INCOMPATIBLE_CORRUPT     (UINT64_C(1) << 1)
#define QCOW2_INCOMPATIBLE_DATA_FILE   (UINT64_C(1) << 2)
#define QCOW2_INCOMPATIBLE_COMPRESSION (UINT64_C(1) << 3)
#define QCOW2_INCOMPATIBLE_EXTENDED_L2 (UINT64_C(1) << 4)
#define QCOW2_COMPATIBLE_LAZY          (UINT64_C(1) << 0)
#define QCOW2_AUTOCLEAR_BITMAPS        (UINT64_C(1) << 0)
#define QCOW2_AUTOCLEAR_DATA_FILE_RAW  (UINT64_C(1) << 1)

typedef enum {
    QCOW2_COMPRESSION_ZLIB = 0,
    QCOW2_COMPRESSION_ZSTD = 1,
} Qcow2Compression;

typedef enum {
    QCOW2_CRYPT_NONE = 0,
    QCOW2_CRYPT_AES = 1,
    QCOW2_CRYPT_LUKS = 2,
} Qcow2Crypt;

/* Types of header extensions. */
typedef enum {
    QCOW2_EXTENSION_END = 0,
    QCOW2_EXTENSION_BACKING_FORMAT = 0xe2792aca,
    QCOW2_EXTENSION_FEATURE_NAMES = 0x6803f857,
    QCOW2_EXTENSION_BITMAPS = 0x23852875,
    QCOW2_EXTENSION_ENCRYPTION = 0x0537be77,
    QCOW2_EXTENSION_DATA_FILE = 0x44415441,
} Qcow2ExtensionType;

typedef struct Qcow2Extension {
    uint32_t type;
    uint32_t at; /* where its data stands in the image it was parsed from */
    GBytes *data;
} Qcow2Extension;

/* Offsets are bytes from the start of the image. */
typedef struct Qcow2Header {
    uint32_t version; /* 2 or 3 */
    uint32_t cluster_bits;
    uint64_t size;  /* of the disk, in bytes */
    uint32_t crypt; /* a Qcow2Crypt, if it is one that is known */
    uint32_t l1_entries;
    uint64_t l1_offset;
    uint64_t reftable_offset;
    uint32_t reftable_clusters;
    uint32_t n_snapshots;
    uint64_t snapshots_offset; /* means nothing without snapshots */

    /* In version 2 these have the values that the format gives them there. */
    uint64_t incompatible, compatible, autoclear;
    uint32_t refcount_order; /* a refcount has 1 << refcount_order bits */
    uint32_t compression;    /* a Qcow2Compression, if it is one that is known */

    GBytes *more_fields; /* of a later version of the format, behind those above; NULL: none */
    GArray *extensions;  /* of Qcow2Extension, in the image's order, without the end */
    char *backing_file;  /* as the image has it, in no particular encoding; NULL: none */
} Qcow2Header;

/*
 * How many bytes of the image qcow2_header_parse() needs, which is the size of a cluster: from its
 * first QCOW2_HEADER_MIN bytes. 0 and @error: this is no image.
 */
size_t qcow2_header_extent(const void *start, size_t length, GError **error);

/*
 * Parse the first @length bytes of an image: as many as qcow2_header_extent() asks for, or all
 * there are of a shorter file.
 */
Qcow2Header *qcow2_header_parse(const void *start, size_t length, GError **error);

/* An empty one, all zeros and without extensions. */
Qcow2Header *qcow2_header_new(void);

/* The extension QCOW2_EXTENSION_FEATURE_NAMES for all features that are known here. */
GBytes *qcow2_header_known_features(void);

void qcow2_header_free(Qcow2Header *header);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Header, qcow2_header_free)

/* Whether the tables of an image with this header are as we know them, whatever its data is. */
bool qcow2_header_check_format(const Qcow2Header *header, GError **error);

/* The same, and whether this build could tell all that there is to tell about the image. */
bool qcow2_header_check_known(const Qcow2Header *header, GError **error);

/* Whether this build can do all that the header asks for; encryption it cannot. */
bool qcow2_header_check_features(const Qcow2Header *header, GError **error);

/*
 * Whether each table lies inside a file of @file_length bytes, aligned, apart from the header and
 * the others, and is large enough for the disk.
 */
bool qcow2_header_check_tables(const Qcow2Header *header, uint64_t file_length, GError **error);

/*
 * The first cluster of an image with this header: what one writes to offset 0 of it. An error says
 * that there is more than fits into a cluster.
 */
GByteArray *qcow2_header_serialise(const Qcow2Header *header, GError **error);

/*
 * Put the fields that change while an image is in use into @start, the first bytes of an image with
 * this header: QCOW2_HEADER_PATCH of them, which lie in one sector.
 */
#define QCOW2_HEADER_PATCH 104
void qcow2_header_patch(const Qcow2Header *header, void *start);

/* The data of the extension of that type (borrowed), or NULL. */
GBytes *qcow2_header_extension(const Qcow2Header *header, uint32_t type);

/* Where it stands in the image that was parsed; 0: there is none. */
uint32_t qcow2_header_extension_at(const Qcow2Header *header, uint32_t type);

/* Set or, with NULL, remove the extension of that type. Takes @data. */
void qcow2_header_set_extension(Qcow2Header *header, uint32_t type, GBytes *data);

/*
 * The string that is the extension's data, newly allocated; NULL without the extension. One with a
 * zero byte in it is cut there.
 */
char *qcow2_header_extension_string(const Qcow2Header *header, uint32_t type);

/*
 * The name of bit @bit of the field of kind @kind (0 incompatible, 1 compatible, 2 autoclear), from
 * the image's own table of names, or "bit N". Newly allocated, UTF-8.
 */
char *qcow2_header_feature_name(const Qcow2Header *header, unsigned kind, unsigned bit);

/* How many L1 entries a disk of @size bytes needs. */
uint64_t qcow2_l1_entries_for(uint64_t size, unsigned cluster_bits, bool extended_l2);

static inline bool qcow2_header_extended_l2(const Qcow2Header *header)
{
    return header->incompatible & QCOW2_INCOMPATIBLE_EXTENDED_L2;
}

static inline bool qcow2_header_has_data_file(const Qcow2Header *header)
{
    return header->incompatible & QCOW2_INCOMPATIBLE_DATA_FILE;
}

#endif
