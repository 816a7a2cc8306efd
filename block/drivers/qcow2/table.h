/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/table.h - what the entries of L1 and L2 tables mean.
 *
 * The L1 table names L2 tables of one cluster each, whose entries say where the clusters of the
 * disk lie. With extended L2 entries a cluster has 32 subclusters, each of which may lie in the
 * image, read as zeros or come from the backing file; without, a cluster counts as one subcluster
 * here.
 *
 * Threads   Any; nothing here has state or suspends. Tables may change while they are looked at:
 *           each word is read at once, and whatever it is, the answer keeps within the arguments.
 * Errors    A Qcow2Fault: what is wrong with an entry.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_TABLE_H
#define WHARF_BLOCK_DRIVERS_QCOW2_TABLE_H

#include "block/drivers/qcow2/header.h"

#define QCOW2_SUBCLUSTERS 32 /* in a cluster, with extended L2 entries */

/* Bits of entries that say that the refcount is exactly one, and that a cluster is compressed. */
#define QCOW2_ENTRY_COPIED     (UINT64_C(1) << 63)
#define QCOW2_ENTRY_COMPRESSED (UINT64_C(1) << 62)
#define QCOW2_ENTRY_ZERO       (UINT64_C(1) << 0)
#define QCOW2_ENTRY_OFFSET     UINT64_C(0x00fffffffffffe00)

/* What the header says about tables and clusters. Fixed while an image is open. */
typedef struct Qcow2Layout {
    unsigned cluster_bits;
    unsigned subcluster_bits; /* as cluster_bits without extended L2 entries */
    unsigned subclusters;     /* in a cluster: 32 or 1 */
    unsigned entry_words;     /* 64-bit words of an L2 entry: 2 or 1 */
    unsigned l2_bits;         /* an L2 table has 1 << l2_bits entries */
    bool zero_flag;           /* an L2 entry may have QCOW2_ENTRY_ZERO */
    bool data_file;           /* data lies in another file, each cluster at its own offset */
} Qcow2Layout;

void qcow2_layout_init(Qcow2Layout *layout, const Qcow2Header *header);

static inline uint64_t qcow2_cluster_size(const Qcow2Layout *layout)
{
    return UINT64_C(1) << layout->cluster_bits;
}

/* The bytes of the disk that one L2 table describes, as a power of two: at most 39. */
static inline unsigned qcow2_l2_reach_bits(const Qcow2Layout *layout)
{
    return layout->l2_bits + layout->cluster_bits;
}

typedef enum {
    QCOW2_FAULT_NONE,
    QCOW2_FAULT_L1_RESERVED,
    QCOW2_FAULT_L1_UNALIGNED,
    QCOW2_FAULT_L2_RESERVED,
    QCOW2_FAULT_L2_UNALIGNED,
    QCOW2_FAULT_L2_ZERO_FLAG,
    QCOW2_FAULT_L2_NOWHERE,
    QCOW2_FAULT_L2_EXTERNAL,
    QCOW2_FAULT_SUBCLUSTER_BOTH,
    QCOW2_FAULT_SUBCLUSTER_NOWHERE,
    QCOW2_FAULT_COMPRESSED_EXTERNAL,
    QCOW2_FAULT_COMPRESSED_HIGH,
    /* found by those who know the file */
    QCOW2_FAULT_TABLE_PAST_END,
    QCOW2_FAULT_TABLE_OVERLAP,
    QCOW2_FAULT_DATA_PAST_END,
    QCOW2_FAULT_COMPRESSED_DATA,
    QCOW2_FAULT_REFBLOCK_UNALIGNED,
    QCOW2_FAULT_REFBLOCK_PAST_END,
    QCOW2_FAULT_REFBLOCK_OVERLAP,
    QCOW2_FAULT_COUNTED_PAST_END,
    QCOW2_FAULT_NOT_COUNTED,
    QCOW2_FAULT_METADATA_FREE,
    QCOW2_FAULT__MAX,
} Qcow2Fault;

/* What is wrong, as the end of a sentence about the image. Static. */
const char *qcow2_fault_text(Qcow2Fault fault);

/* Where the L2 table of an L1 entry lies: *@offset in the image, 0 if there is none. */
Qcow2Fault qcow2_l1_decode(const Qcow2Layout *layout, uint64_t entry, uint64_t *offset);

/* One L2 entry. */
typedef struct Qcow2Cluster {
    bool compressed;
    bool copied;                /* may be written in place */
    uint64_t host;              /* where it lies; undefined where nothing of it does */
    bool has_host;              /* it has a cluster of its own, whatever it reads as */
    uint32_t compressed_length; /* bytes from @host to the end of the last sector */
    uint32_t data;              /* bit i: subcluster i lies in that cluster */
    uint32_t zero;              /* bit i: subcluster i reads as zeros */
} Qcow2Cluster;

/*
 * Decode the L2 entry @entry (with the word @bitmap behind it, if extended) of the cluster at
 * @guest, an offset in the disk.
 */
Qcow2Fault qcow2_l2_decode(const Qcow2Layout *layout, uint64_t entry, uint64_t bitmap,
                           uint64_t guest, Qcow2Cluster *cluster);

/*
 * Decode @n entries of @table (as in the image) from entry @index on; the first is that of the
 * cluster at @guest. The first fault, if there is any.
 */
Qcow2Fault qcow2_decode_run(const Qcow2Layout *layout, const uint64_t *table, unsigned index,
                            unsigned n, uint64_t guest, Qcow2Cluster *clusters);

/*
 * Describe a compressed cluster whose @bytes (> 0, less than a cluster) of data lie at @host of the
 * image. False: an entry cannot say that, it is too far behind.
 */
bool qcow2_compressed_init(const Qcow2Layout *layout, uint64_t host, uint64_t bytes,
                           Qcow2Cluster *cluster);

/* Where a range of the disk is. */
typedef enum {
    QCOW2_EXTENT_UNALLOCATED, /* in the backing file, or nowhere: zeros */
    QCOW2_EXTENT_ZERO,
    QCOW2_EXTENT_DATA,
    QCOW2_EXTENT_COMPRESSED,
    QCOW2_EXTENT_FAULTY, /* its entry is wrong */
} Qcow2ExtentKind;

typedef struct Qcow2Extent {
    Qcow2ExtentKind kind;
    Qcow2Fault fault; /* of a faulty one */
    uint64_t bytes;   /* of the disk, from the offset asked for on; at least 1 */
    uint64_t host;    /* data: where the first byte lies; compressed: the compressed data */
    uint32_t compressed_length; /* compressed */
} Qcow2Extent;

/*
 * The extent that begins at @offset and has at most @bytes (> 0) bytes, as far as @table tells: the
 * @n entries, as in the image, for the clusters of the disk from @start on, among them the one of
 * @offset. Neighbours of one kind are one extent, if their data is contiguous, too; of faulty and
 * compressed clusters each is one of its own.
 */
void qcow2_map(const Qcow2Layout *layout, const uint64_t *table, unsigned n, uint64_t start,
               uint64_t offset, uint64_t bytes, Qcow2Extent *extent);

/*
 * How many of the @bytes bytes from @offset on, arguments as above, can be written where they are:
 * they lie together, at *@host, in clusters of nobody else. 0: the first one cannot.
 */
uint64_t qcow2_map_in_place(const Qcow2Layout *layout, const uint64_t *table, unsigned n,
                            uint64_t start, uint64_t offset, uint64_t bytes, uint64_t *host);

/* The entry that says what @cluster does, and *@bitmap what goes with it in extended tables. */
uint64_t qcow2_l2_encode(const Qcow2Layout *layout, const Qcow2Cluster *cluster, uint64_t *bitmap);

/* All subclusters of a cluster, as in Qcow2Cluster. */
uint32_t qcow2_all_subclusters(const Qcow2Layout *layout);

#endif
