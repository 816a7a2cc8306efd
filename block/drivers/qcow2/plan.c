/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/plan.h"

#include <string.h>

#include "block/drivers/qcow2/refcount.h"
#include "util/error.h"

static uint64_t div_up(uint64_t n, uint64_t d)
{
    return n / d + (n % d != 0);
}

/* How many clusters an array of @n words takes. */
static uint64_t clusters_of_words(const Qcow2Plan *p, uint64_t n)
{
    return div_up(n * 8, qcow2_cluster_size(&p->layout));
}

static uint64_t refblock_entries(const Qcow2Plan *p)
{
    return qcow2_cluster_size(&p->layout) * 8 >> p->refcount_order;
}

/* Refcounts count what they lie in, too: begin without and add as long as it is not enough. */
static void plan_refcounts(Qcow2Plan *p, uint64_t others)
{
    uint64_t total = others;

    p->refblocks = p->reftable_clusters = 0;
    for (;;) {
        uint64_t blocks = div_up(total, refblock_entries(p));
        uint64_t table = clusters_of_words(p, blocks);

        if (blocks == p->refblocks && table == p->reftable_clusters) {
            return;
        }
        p->refblocks = blocks;
        p->reftable_clusters = table;
        total = others + blocks + table;
    }
}

static bool check_sizes(const Qcow2Plan *p, uint64_t size, GError **error)
{
    const char *what = NULL;

    if (p->l1_entries > QCOW2_MAX_L1_BYTES / 8) {
        what = "its L1 table";
    } else if (p->reftable_clusters << p->layout.cluster_bits > QCOW2_MAX_REFTABLE_BYTES) {
        what = "its refcount table";
    }
    if (what) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "a disk of %" G_GUINT64_FORMAT
                    " bytes is too large for clusters of %" G_GUINT64_FORMAT
                    ", for %s would be; larger clusters make larger disks possible",
                    size, qcow2_cluster_size(&p->layout), what);
    }
    return !what;
}

/* @n clusters at the end of what there is so far; 0 where there are none. */
static uint64_t place(const Qcow2Plan *p, uint64_t *at, uint64_t n)
{
    uint64_t offset = *at << p->layout.cluster_bits;

    *at += n;
    return n ? offset : 0;
}

static void place_all(Qcow2Plan *p)
{
    uint64_t at = 1;

    p->reftable_offset = place(p, &at, p->reftable_clusters);
    p->refblocks_offset = place(p, &at, p->refblocks);
    p->l1_offset = place(p, &at, clusters_of_words(p, p->l1_entries));
    p->l2_offset = place(p, &at, p->l2_tables);
    p->metadata_end = at << p->layout.cluster_bits;
    p->data_offset = p->layout.data_file ? 0 : place(p, &at, p->data);
    p->end = at << p->layout.cluster_bits;
}

bool qcow2_plan(Qcow2Plan *p, Qcow2Header *h, bool preallocate, GError **error)
{
    uint64_t inside;

    memset(p, 0, sizeof(*p));
    qcow2_layout_init(&p->layout, h);
    p->refcount_order = h->refcount_order;
    p->l1_entries = qcow2_l1_entries_for(h->size, h->cluster_bits, qcow2_header_extended_l2(h));
    p->backed = h->backing_file != NULL;
    if (preallocate) {
        p->l2_tables = p->l1_entries;
        p->data = div_up(h->size, qcow2_cluster_size(&p->layout));
    }
    inside = p->layout.data_file ? 0 : p->data;
    plan_refcounts(p, 1 + clusters_of_words(p, p->l1_entries) + p->l2_tables + inside);
    if (!check_sizes(p, h->size, error)) {
        return false;
    }
    place_all(p);
    h->reftable_offset = p->reftable_offset;
    h->reftable_clusters = (uint32_t)p->reftable_clusters;
    h->l1_offset = p->l1_offset;
    h->l1_entries = (uint32_t)p->l1_entries;
    return true;
}

/* Entries of a table that names @limit clusters from @offset on. */
static void fill(const Qcow2Plan *p, uint64_t offset, uint64_t limit, uint64_t flags,
                 uint64_t index, uint64_t n, uint64_t *out)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t where = offset + ((index + i) << p->layout.cluster_bits);

        out[i] = index + i < limit ? GUINT64_TO_BE(where | flags) : 0;
    }
}

void qcow2_plan_reftable(const Qcow2Plan *p, uint64_t index, uint64_t n, uint64_t *out)
{
    fill(p, p->refblocks_offset, p->refblocks, 0, index, n, out);
}

void qcow2_plan_l1(const Qcow2Plan *p, uint64_t index, uint64_t n, uint64_t *out)
{
    fill(p, p->l2_offset, p->l2_tables, QCOW2_ENTRY_COPIED, index, n, out);
}

void qcow2_plan_l2(const Qcow2Plan *p, uint64_t index, uint64_t n, uint64_t *out)
{
    unsigned words = p->layout.entry_words;
    Qcow2Cluster c = {.has_host = true, .copied = true};

    c.data = p->backed ? 0 : qcow2_all_subclusters(&p->layout);
    memset(out, 0, n * sizeof(*out));
    for (uint64_t i = 0; i < n && (index + i) / words < p->data; i += words) {
        uint64_t bitmap;

        c.host = p->data_offset + ((index + i) / words << p->layout.cluster_bits);
        out[i] = GUINT64_TO_BE(qcow2_l2_encode(&p->layout, &c, &bitmap));
        if (words > 1) {
            out[i + 1] = GUINT64_TO_BE(bitmap);
        }
    }
}

void qcow2_plan_refblock(const Qcow2Plan *p, uint64_t index, void *out)
{
    uint64_t total = p->end >> p->layout.cluster_bits;
    uint64_t first = index * refblock_entries(p);

    memset(out, 0, qcow2_cluster_size(&p->layout));
    for (uint64_t i = 0; i < refblock_entries(p) && first + i < total; i++) {
        qcow2_refcount_set(out, p->refcount_order, i, 1);
    }
}
