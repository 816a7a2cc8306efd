/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/table.h"

#define L1_RESERVED (~(QCOW2_ENTRY_COPIED | QCOW2_ENTRY_OFFSET))
#define L2_RESERVED                                                                                \
    (~(QCOW2_ENTRY_COPIED | QCOW2_ENTRY_COMPRESSED | QCOW2_ENTRY_OFFSET | QCOW2_ENTRY_ZERO))

#define MAX_HOST_BITS 56
#define SECTOR        512

void qcow2_layout_init(Qcow2Layout *layout, const Qcow2Header *header)
{
    bool extended = qcow2_header_extended_l2(header);

    *layout = (Qcow2Layout){
        .cluster_bits = header->cluster_bits,
        .subcluster_bits = header->cluster_bits - (extended ? 5 : 0),
        .subclusters = extended ? QCOW2_SUBCLUSTERS : 1,
        .entry_words = extended ? 2 : 1,
        .l2_bits = header->cluster_bits - (extended ? 4 : 3),
        .zero_flag = header->version >= 3 && !extended,
        .data_file = qcow2_header_has_data_file(header),
    };
}

const char *qcow2_fault_text(Qcow2Fault fault)
{
    static const char *const texts[QCOW2_FAULT__MAX] = {
        [QCOW2_FAULT_NONE] = "nothing is wrong",
        [QCOW2_FAULT_L1_RESERVED] = "an L1 entry has reserved bits set",
        [QCOW2_FAULT_L1_UNALIGNED] = "an L2 table is not aligned to a cluster",
        [QCOW2_FAULT_L2_RESERVED] = "an L2 entry has reserved bits set",
        [QCOW2_FAULT_L2_UNALIGNED] = "a data cluster is not aligned to a cluster",
        [QCOW2_FAULT_L2_ZERO_FLAG] =
            "an L2 entry has the zero flag, which this kind of image lacks",
        [QCOW2_FAULT_L2_NOWHERE] = "a cluster is said to be allocated, but nowhere",
        [QCOW2_FAULT_L2_EXTERNAL] =
            "a cluster lies in the data file at another offset than its own",
        [QCOW2_FAULT_SUBCLUSTER_BOTH] = "a subcluster is said to be data and zeros",
        [QCOW2_FAULT_SUBCLUSTER_NOWHERE] = "a subcluster is said to be data, but has no cluster",
        [QCOW2_FAULT_COMPRESSED_EXTERNAL] = "a cluster is compressed, in an image with a data file",
        [QCOW2_FAULT_COMPRESSED_HIGH] = "a compressed cluster lies at an impossible offset",
        [QCOW2_FAULT_TABLE_PAST_END] = "an L2 table lies past the end of the file",
        [QCOW2_FAULT_TABLE_OVERLAP] = "an L2 table overlaps other metadata",
        [QCOW2_FAULT_DATA_PAST_END] = "a data cluster lies past the end of the file",
        [QCOW2_FAULT_COMPRESSED_DATA] = "a compressed cluster cannot be decompressed",
        [QCOW2_FAULT_REFBLOCK_UNALIGNED] = "a refcount block is not aligned to a cluster",
        [QCOW2_FAULT_REFBLOCK_PAST_END] = "a refcount block lies past the end of the file",
        [QCOW2_FAULT_REFBLOCK_OVERLAP] = "a refcount block overlaps other metadata",
        [QCOW2_FAULT_COUNTED_PAST_END] = "clusters far past the end of the file are counted",
        [QCOW2_FAULT_NOT_COUNTED] = "a cluster is in use, but is not counted",
        [QCOW2_FAULT_METADATA_FREE] = "metadata is counted as free",
    };

    return texts[fault < QCOW2_FAULT__MAX ? fault : QCOW2_FAULT_NONE];
}

Qcow2Fault qcow2_l1_decode(const Qcow2Layout *layout, uint64_t entry, uint64_t *offset)
{
    *offset = entry & QCOW2_ENTRY_OFFSET;
    if (entry & L1_RESERVED) {
        return QCOW2_FAULT_L1_RESERVED;
    }
    if (*offset & (qcow2_cluster_size(layout) - 1)) {
        return QCOW2_FAULT_L1_UNALIGNED;
    }
    return QCOW2_FAULT_NONE;
}

uint32_t qcow2_all_subclusters(const Qcow2Layout *layout)
{
    return layout->subclusters == 1 ? 1 : UINT32_MAX;
}

/* How many bits of a compressed cluster's entry its offset has; behind it is the length. */
static unsigned compressed_offset_bits(const Qcow2Layout *layout)
{
    return 62 - (layout->cluster_bits - 8);
}

bool qcow2_compressed_init(const Qcow2Layout *layout, uint64_t host, uint64_t bytes,
                           Qcow2Cluster *c)
{
    uint64_t end = (host + bytes + SECTOR - 1) / SECTOR * SECTOR;

    *c = (Qcow2Cluster){
        .compressed = true,
        .has_host = true,
        .host = host,
        .compressed_length = end - host,
        .data = qcow2_all_subclusters(layout),
    };
    return end <= UINT64_C(1) << MIN(compressed_offset_bits(layout), MAX_HOST_BITS);
}

static Qcow2Fault decode_compressed(const Qcow2Layout *layout, uint64_t entry, Qcow2Cluster *c)
{
    unsigned offset_bits = compressed_offset_bits(layout);
    uint64_t descriptor = entry & ~(QCOW2_ENTRY_COPIED | QCOW2_ENTRY_COMPRESSED);
    uint64_t more_sectors = descriptor >> offset_bits;

    c->compressed = true;
    c->copied = false;
    c->has_host = true;
    c->host = descriptor & ((UINT64_C(1) << offset_bits) - 1);
    c->compressed_length = (more_sectors + 1) * SECTOR - c->host % SECTOR;
    c->data = qcow2_all_subclusters(layout);
    if (layout->data_file) {
        return QCOW2_FAULT_COMPRESSED_EXTERNAL;
    }
    return c->host >> MAX_HOST_BITS ? QCOW2_FAULT_COMPRESSED_HIGH : QCOW2_FAULT_NONE;
}

static Qcow2Fault check_standard(const Qcow2Layout *layout, uint64_t entry, uint64_t guest,
                                 const Qcow2Cluster *c)
{
    if (entry & L2_RESERVED) {
        return QCOW2_FAULT_L2_RESERVED;
    }
    if ((entry & QCOW2_ENTRY_ZERO) && !layout->zero_flag) {
        return QCOW2_FAULT_L2_ZERO_FLAG;
    }
    if (c->host & (qcow2_cluster_size(layout) - 1)) {
        return QCOW2_FAULT_L2_UNALIGNED;
    }
    if (c->has_host && c->host == 0 && !layout->data_file) {
        return QCOW2_FAULT_L2_NOWHERE;
    }
    if (c->has_host && layout->data_file && c->host != guest) {
        return QCOW2_FAULT_L2_EXTERNAL;
    }
    return QCOW2_FAULT_NONE;
}

Qcow2Fault qcow2_l2_decode(const Qcow2Layout *layout, uint64_t entry, uint64_t bitmap,
                           uint64_t guest, Qcow2Cluster *c)
{
    Qcow2Fault fault;

    *c = (Qcow2Cluster){.copied = entry & QCOW2_ENTRY_COPIED};
    if (entry & QCOW2_ENTRY_COMPRESSED) {
        return decode_compressed(layout, entry, c);
    }
    c->host = entry & QCOW2_ENTRY_OFFSET;
    c->has_host = c->host != 0 || c->copied;
    fault = check_standard(layout, entry, guest, c);
    if (fault) {
        return fault;
    }
    if (layout->subclusters > 1) {
        c->data = (uint32_t)bitmap;
        c->zero = (uint32_t)(bitmap >> 32);
        if (c->data & c->zero) {
            return QCOW2_FAULT_SUBCLUSTER_BOTH;
        }
        return c->data && !c->has_host ? QCOW2_FAULT_SUBCLUSTER_NOWHERE : QCOW2_FAULT_NONE;
    }
    c->zero = entry & QCOW2_ENTRY_ZERO ? 1 : 0;
    c->data = c->has_host && !c->zero;
    return QCOW2_FAULT_NONE;
}

/* Mapping */

static uint64_t word(const uint64_t *table, unsigned i)
{
    return GUINT64_FROM_BE(__atomic_load_n(&table[i], __ATOMIC_ACQUIRE));
}

static Qcow2Fault decode_at(const Qcow2Layout *layout, const uint64_t *table, unsigned index,
                            uint64_t guest, Qcow2Cluster *c)
{
    unsigned i = index * layout->entry_words;

    return qcow2_l2_decode(layout, word(table, i), layout->entry_words > 1 ? word(table, i + 1) : 0,
                           guest, c);
}

Qcow2Fault qcow2_decode_run(const Qcow2Layout *layout, const uint64_t *table, unsigned index,
                            unsigned n, uint64_t guest, Qcow2Cluster *clusters)
{
    Qcow2Fault first = QCOW2_FAULT_NONE;

    for (unsigned i = 0; i < n; i++) {
        Qcow2Fault fault = decode_at(layout, table, index + i, guest, &clusters[i]);

        first = first ? first : fault;
        guest += qcow2_cluster_size(layout);
    }
    return first;
}

static Qcow2ExtentKind subcluster_kind(const Qcow2Cluster *c, unsigned i)
{
    if (c->compressed) {
        return QCOW2_EXTENT_COMPRESSED;
    }
    if (c->data & (UINT32_C(1) << i)) {
        return QCOW2_EXTENT_DATA;
    }
    return c->zero & (UINT32_C(1) << i) ? QCOW2_EXTENT_ZERO : QCOW2_EXTENT_UNALLOCATED;
}

/* The first subcluster behind @i that is of another kind, or their number. */
static unsigned run_end(const Qcow2Layout *layout, const Qcow2Cluster *c, unsigned i)
{
    Qcow2ExtentKind kind = subcluster_kind(c, i);

    do {
        i++;
    } while (i < layout->subclusters && subcluster_kind(c, i) == kind);
    return i;
}

static bool goes_on(const Qcow2Extent *extent, const Qcow2Cluster *next)
{
    return subcluster_kind(next, 0) == extent->kind && extent->kind != QCOW2_EXTENT_COMPRESSED &&
           (extent->kind != QCOW2_EXTENT_DATA || next->host == extent->host + extent->bytes);
}

/*
 * Most requests lie in one cluster that is all data, so that its entry is little more than its
 * place, which this tells. 0: it has to be looked at more closely.
 */
static uint64_t plain_host(const Qcow2Layout *layout, uint64_t entry)
{
    uint64_t host = entry & ~QCOW2_ENTRY_COPIED;
    uint64_t others = ~QCOW2_ENTRY_OFFSET | (qcow2_cluster_size(layout) - 1);

    return !(host & others) && layout->entry_words == 1 && !layout->data_file ? host : 0;
}

void qcow2_map(const Qcow2Layout *layout, const uint64_t *table, unsigned n, uint64_t start,
               uint64_t offset, uint64_t bytes, Qcow2Extent *extent)
{
    uint64_t size = qcow2_cluster_size(layout);
    uint64_t inside = offset & (size - 1);
    uint64_t guest = offset - inside;
    unsigned index = (guest - start) >> layout->cluster_bits;
    unsigned first = inside >> layout->subcluster_bits;
    unsigned end = layout->subclusters;
    uint64_t host = plain_host(layout, word(table, index * layout->entry_words));
    Qcow2Cluster c;

    if (host > 0 && bytes <= size - inside) {
        *extent = (Qcow2Extent){.kind = QCOW2_EXTENT_DATA, .bytes = bytes, .host = host + inside};
        return;
    }
    *extent = (Qcow2Extent){.fault = decode_at(layout, table, index, guest, &c)};
    if (extent->fault) {
        extent->kind = QCOW2_EXTENT_FAULTY;
    } else {
        extent->kind = subcluster_kind(&c, first);
        extent->host = c.host + (c.compressed ? 0 : inside);
        extent->compressed_length = c.compressed_length;
        end = run_end(layout, &c, first);
    }
    extent->bytes = ((uint64_t)end << layout->subcluster_bits) - inside;
    while (end == layout->subclusters && extent->bytes < bytes && ++index < n) {
        guest += size;
        if (extent->kind == QCOW2_EXTENT_FAULTY || decode_at(layout, table, index, guest, &c) ||
            !goes_on(extent, &c)) {
            break;
        }
        end = run_end(layout, &c, 0);
        extent->bytes += (uint64_t)end << layout->subcluster_bits;
    }
    extent->bytes = MIN(extent->bytes, bytes);
}

uint64_t qcow2_map_in_place(const Qcow2Layout *layout, const uint64_t *table, unsigned n,
                            uint64_t start, uint64_t offset, uint64_t bytes, uint64_t *host)
{
    uint64_t size = qcow2_cluster_size(layout);
    uint64_t inside = offset & (size - 1);
    uint64_t guest = offset - inside;
    unsigned index = (guest - start) >> layout->cluster_bits;
    uint64_t entry = word(table, index * layout->entry_words);
    uint64_t done = 0;

    if ((entry & QCOW2_ENTRY_COPIED) && bytes <= size - inside && plain_host(layout, entry) > 0) {
        *host = plain_host(layout, entry) + inside;
        return bytes;
    }
    for (unsigned i = index; i < n && done < bytes; i++) {
        unsigned end, first = inside >> layout->subcluster_bits;
        Qcow2Cluster c;

        if (decode_at(layout, table, i, guest, &c) || !c.copied ||
            subcluster_kind(&c, first) != QCOW2_EXTENT_DATA ||
            (done > 0 && c.host != *host + done)) {
            break;
        }
        if (done == 0) {
            *host = c.host + inside;
        }
        end = run_end(layout, &c, first);
        done += ((uint64_t)end << layout->subcluster_bits) - inside;
        if (end < layout->subclusters) {
            break;
        }
        inside = 0;
        guest += size;
    }
    return MIN(done, bytes);
}

static uint64_t encode_compressed(const Qcow2Layout *layout, const Qcow2Cluster *c)
{
    uint64_t sectors = (c->host % SECTOR + c->compressed_length) / SECTOR;

    return QCOW2_ENTRY_COMPRESSED | (sectors - 1) << compressed_offset_bits(layout) | c->host;
}

uint64_t qcow2_l2_encode(const Qcow2Layout *layout, const Qcow2Cluster *c, uint64_t *bitmap)
{
    uint64_t entry = c->has_host ? c->host | (c->copied ? QCOW2_ENTRY_COPIED : 0) : 0;

    *bitmap = 0;
    if (c->compressed) {
        return encode_compressed(layout, c);
    }
    if (layout->subclusters > 1) {
        *bitmap = (uint64_t)c->zero << 32 | c->data;
    } else if (c->zero) {
        entry |= QCOW2_ENTRY_ZERO;
    }
    return entry;
}
