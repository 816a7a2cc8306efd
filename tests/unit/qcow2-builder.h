/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tests/unit/qcow2-builder.h - qcow2 images made in memory, cluster by cluster, right or wrong.
 *
 * The header is in cluster 0, the refcount table in cluster 1 (empty, unless the clusters are
 * counted at the end), then comes the L1 table, and what is asked for. The image grows at its end.
 */
#ifndef WHARF_TESTS_QCOW2_BUILDER_H
#define WHARF_TESTS_QCOW2_BUILDER_H

#include "block/drivers/qcow2/be.h"
#include "block/drivers/qcow2/table.h"

typedef struct Qcow2Builder {
    GByteArray *bytes;
    Qcow2Layout layout;
    uint64_t l1_offset;
    uint32_t l1_entries;
} Qcow2Builder;

/* An image for a disk of @size bytes; @incompatible: the feature bits. */
Qcow2Builder *qcow2_builder_new(uint32_t version, unsigned cluster_bits, uint64_t incompatible,
                                uint64_t size);
void qcow2_builder_free(Qcow2Builder *b);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Builder, qcow2_builder_free)

/* Append @n clusters of zeros; their offset. */
uint64_t qcow2_builder_append(Qcow2Builder *b, unsigned n);

/* What stands at @offset of the image. */
uint8_t *qcow2_builder_at(Qcow2Builder *b, uint64_t offset);

/* Where the L1 entry and the L2 entry (its first word) of a cluster of the disk stand. */
uint64_t qcow2_builder_l1_slot(const Qcow2Builder *b, uint64_t cluster);
uint64_t qcow2_builder_l2_slot(Qcow2Builder *b, uint64_t cluster); /* makes the table */

/* Make the disk's cluster be described by @entry (and @bitmap, if extended). */
void qcow2_builder_map(Qcow2Builder *b, uint64_t cluster, uint64_t entry, uint64_t bitmap);

/* Give it a cluster of its own, filled with bytes of @seed (see graph_rig_fill()); its offset. */
uint64_t qcow2_builder_data(Qcow2Builder *b, uint64_t cluster, unsigned seed);

/* Such bytes, compressed, at the end of the image. */
void qcow2_builder_compressed(Qcow2Builder *b, uint64_t cluster, unsigned seed,
                              Qcow2Compression type);

/* Write the header anew, with that name and format (NULL: none) and the data file's name. */
void qcow2_builder_names(Qcow2Builder *b, const char *backing, const char *format,
                         const char *data_file);

/*
 * Give it persistent bitmaps of parts of 512 bytes: "auto", empty and kept up; "kept", which is
 * not, full but for its last table entry, where every other bit is set; and "lost", in use.
 */
void qcow2_builder_bitmaps(Qcow2Builder *b);

/* Count all clusters that there are, each once: the image can be written to then. */
void qcow2_builder_count(Qcow2Builder *b);

#endif
