/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes of caches: what the options leave open follows from the image, as in QEMU. */
#include "block/drivers/qcow2/state.h"
#include "util/error.h"

#define MIB (UINT64_C(1) << 20)

#define DEFAULT_L2_BYTES          (32 * MIB)
#define DEFAULT_L2_ENTRY          65536
#define MIN_L2_ENTRY              512
#define MIN_L2_TABLES             2
#define DEFAULT_REFCOUNT_CLUSTERS 4

#define FAIL(...)                                                                                  \
    (g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT, __VA_ARGS__), false)

/* What all L2 tables that the disk can have take up. */
static uint64_t all_l2_bytes(const Qcow2Header *header)
{
    bool extended = qcow2_header_extended_l2(header);

    return qcow2_l1_entries_for(header->size, header->cluster_bits, extended)
           << header->cluster_bits;
}

/* Share @total out between the two caches, as the options ask for. */
static bool share_out(const BlockdevOptionsQcow2 *o, const Qcow2Header *header, uint64_t *l2,
                      uint64_t *refcount, GError **error)
{
    uint64_t total = o->cache_size;
    uint64_t few = (uint64_t)DEFAULT_REFCOUNT_CLUSTERS << header->cluster_bits;

    if (o->has_l2_cache_size && o->has_refcount_cache_size) {
        return FAIL("'cache-size', 'l2-cache-size' and 'refcount-cache-size' cannot be given all "
                    "together; leave out one of them");
    }
    if ((o->has_l2_cache_size && o->l2_cache_size > total) ||
        (o->has_refcount_cache_size && o->refcount_cache_size > total)) {
        return FAIL("'%s' cannot be larger than 'cache-size'",
                    o->has_l2_cache_size ? "l2-cache-size" : "refcount-cache-size");
    }
    if (o->has_l2_cache_size) {
        *refcount = total - *l2;
    } else if (o->has_refcount_cache_size) {
        *l2 = total - *refcount;
    } else {
        *l2 = MIN(all_l2_bytes(header), total > few ? total - few : 0);
        *refcount = total - *l2;
    }
    return true;
}

static bool entry_size(const BlockdevOptionsQcow2 *o, const Qcow2Header *header, size_t *size,
                       GError **error)
{
    uint64_t cluster = UINT64_C(1) << header->cluster_bits;
    uint64_t n =
        o->has_l2_cache_entry_size ? o->l2_cache_entry_size : MIN(cluster, DEFAULT_L2_ENTRY);

    if (n < MIN_L2_ENTRY || n > cluster || (n & (n - 1))) {
        return FAIL("'l2-cache-entry-size' is %" G_GUINT64_FORMAT
                    ", but must be a power of two from %d to the cluster size, %" G_GUINT64_FORMAT,
                    n, MIN_L2_ENTRY, cluster);
    }
    *size = n;
    return true;
}

bool qcow2_cache_sizes(const BlockdevOptionsQcow2 *o, const Qcow2Header *header,
                       Qcow2CacheSizes *sizes, GError **error)
{
    uint64_t l2 = o->has_l2_cache_size ? o->l2_cache_size : DEFAULT_L2_BYTES;
    uint64_t refcount = o->has_refcount_cache_size
                            ? o->refcount_cache_size
                            : (uint64_t)DEFAULT_REFCOUNT_CLUSTERS << header->cluster_bits;
    uint64_t enough;

    if (o->has_cache_size && !share_out(o, header, &l2, &refcount, error)) {
        return false;
    }
    if (!entry_size(o, header, &sizes->l2_entry, error)) {
        return false;
    }
    /* More than there can be is of no use, and two tables always make sense. */
    enough = MAX(all_l2_bytes(header), (uint64_t)MIN_L2_TABLES * sizes->l2_entry);
    l2 = CLAMP(l2, (uint64_t)MIN_L2_TABLES * sizes->l2_entry, enough);
    if (l2 / sizes->l2_entry > INT32_MAX) {
        return FAIL("'l2-cache-size' is too large: it makes %" G_GUINT64_FORMAT " entries",
                    l2 / sizes->l2_entry);
    }
    sizes->l2_entries = l2 / sizes->l2_entry;
    sizes->l2_all = l2 >= all_l2_bytes(header);
    sizes->refcount_bytes = refcount;
    sizes->clean_ns = (int64_t)o->cache_clean_interval * 1000000000;
    return true;
}

bool qcow2_l2_init(Qcow2L2 *l2, const Qcow2CacheSizes *sizes, const Qcow2Layout *layout,
                   GError **error)
{
    size_t entries = sizes->l2_entry / sizeof(uint64_t) / layout->entry_words;

    l2->cache = qcow2_cache_new(sizes->l2_entry, sizes->l2_entries, error);
    l2->slice_bytes = sizes->l2_entry;
    l2->holds_all = sizes->l2_all;
    l2->slice_bits = g_bit_storage(entries) - 1;
    return l2->cache != NULL;
}

bool qcow2_check_options(const BlockdevOptionsQcow2 *o, const Qcow2Header *header, GError **error)
{
    if (o->discard_no_unref && header->version < 3) {
        return FAIL("'discard-no-unref' needs an image of version 3, for one of version 2 cannot "
                    "say that a cluster reads as zeros");
    }
    return true;
}
