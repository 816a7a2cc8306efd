/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Plans of new images: everything has its place and is counted, whatever the parameters. */
#include "block/drivers/qcow2/plan.h"
#include "block/drivers/qcow2/refcount.h"
#include "util/error.h"

static const uint64_t sizes[] = {
    0, 512, 1000 * 512, UINT64_C(1) << 20, (UINT64_C(1) << 24) + 512, UINT64_C(1) << 30,
};

static Qcow2Header *header_for(unsigned bits, unsigned order, uint64_t size, uint64_t features)
{
    Qcow2Header *h = qcow2_header_new();

    h->version = 3;
    h->cluster_bits = bits;
    h->refcount_order = order;
    h->size = size;
    h->incompatible = features;
    return h;
}

/* Each cluster up to the end is in use once, and no other one. */
static void check_counts(const Qcow2Plan *p)
{
    uint64_t cluster = qcow2_cluster_size(&p->layout);
    uint64_t per_block = cluster * 8 >> p->refcount_order;
    g_autofree uint8_t *block = g_malloc(cluster);
    uint64_t counted = 0;

    g_assert_cmpuint(p->refblocks * per_block, >=, p->end / cluster);
    for (uint64_t i = 0; i < p->refblocks; i++) {
        qcow2_plan_refblock(p, i, block);
        /* Not all of what follows: large clusters have millions. */
        for (uint64_t j = 0; j < MIN(per_block, p->end / cluster + 1000); j++) {
            uint64_t refcount = qcow2_refcount_get(block, p->refcount_order, j);

            g_assert_cmpuint(refcount, ==, i * per_block + j < p->end / cluster);
            counted += refcount;
        }
    }
    g_assert_cmpuint(counted, ==, p->end / cluster);
}

static void check_table(const Qcow2Plan *p, Qcow2PlanTable *table, uint64_t first, uint64_t n,
                        uint64_t total)
{
    g_autofree uint64_t *words = g_new(uint64_t, total);

    table(p, 0, total, words);
    for (uint64_t i = 0; i < total; i++) {
        uint64_t offset = GUINT64_FROM_BE(words[i]) & QCOW2_ENTRY_OFFSET;

        g_assert_cmpuint(offset, ==, i < n ? first + (i << p->layout.cluster_bits) : 0);
    }
}

static void check_l2(const Qcow2Plan *p)
{
    unsigned words = p->layout.entry_words;
    uint64_t last = p->data - 1;
    uint64_t entry[2];
    uint64_t bitmap;
    Qcow2Cluster c;

    qcow2_plan_l2(p, last * words, words, entry);
    bitmap = words > 1 ? GUINT64_FROM_BE(entry[1]) : 0;
    g_assert_cmpint(qcow2_l2_decode(&p->layout, GUINT64_FROM_BE(entry[0]), bitmap,
                                    last << p->layout.cluster_bits, &c),
                    ==, QCOW2_FAULT_NONE);
    g_assert_true(c.has_host && c.copied && !c.zero);
    g_assert_cmpuint(c.data, ==, p->backed ? 0 : qcow2_all_subclusters(&p->layout));
    g_assert_cmpuint(c.host, ==, p->data_offset + (last << p->layout.cluster_bits));
    qcow2_plan_l2(p, (last + 1) * words, words, entry);
    g_assert_cmpuint(entry[0], ==, 0);
}

static void check_plan(const Qcow2Plan *p, const Qcow2Header *h)
{
    g_autoptr(GError) error = NULL;
    uint64_t cluster = qcow2_cluster_size(&p->layout);

    qcow2_header_check_tables(h, p->end, &error);
    g_assert_no_error(error);
    check_counts(p);
    check_table(p, qcow2_plan_reftable, p->refblocks_offset, p->refblocks,
                p->reftable_clusters * cluster / 8);
    check_table(p, qcow2_plan_l1, p->l2_offset, p->l2_tables, p->l1_entries);
    if (p->data > 0) {
        check_l2(p);
    }
}

static void test_all(void)
{
    static const uint64_t features[] = {0, QCOW2_INCOMPATIBLE_EXTENDED_L2,
                                        QCOW2_INCOMPATIBLE_DATA_FILE};

    for (unsigned bits = QCOW2_MIN_CLUSTER_BITS; bits <= QCOW2_MAX_CLUSTER_BITS; bits++) {
        for (unsigned n = 0; n < 7 * 2 * G_N_ELEMENTS(features) * G_N_ELEMENTS(sizes); n++) {
            unsigned order = n % 7, feature = n / 14 % G_N_ELEMENTS(features);
            uint64_t size = sizes[n / 14 / G_N_ELEMENTS(features)];
            bool preallocate = n / 7 % 2;
            g_autoptr(Qcow2Header) h = header_for(bits, order, size, features[feature]);
            g_autoptr(GError) error = NULL;
            Qcow2Plan p;

            if (feature == 1 && bits < 14) {
                continue;
            }
            if (preallocate && bits < 14 && size == UINT64_C(1) << 30) {
                continue; /* right, but slow to look at */
            }
            qcow2_plan(&p, h, preallocate, &error);
            g_assert_no_error(error);
            check_plan(&p, h);
            g_assert_cmpuint(p.data, ==, preallocate ? (size + (1u << bits) - 1) >> bits : 0);
        }
    }
}

static void test_backed(void)
{
    g_autoptr(Qcow2Header) h = header_for(16, 4, 1 << 20, QCOW2_INCOMPATIBLE_EXTENDED_L2);
    g_autoptr(GError) error = NULL;
    Qcow2Plan p;

    h->backing_file = g_strdup("base");
    qcow2_plan(&p, h, true, &error);
    g_assert_no_error(error);
    g_assert_true(p.backed);
    check_plan(&p, h);
}

static void test_too_large(void)
{
    static const struct {
        unsigned bits, order;
        uint64_t size;
        bool preallocate;
    } rows[] = {
        {9, 4, (UINT64_C(1) << 37) + 512, false},
        {16, 4, (UINT64_C(1) << 51) + 512, false},
        {21, 4, (UINT64_C(1) << 61) + 512, false},
        {9, 6, UINT64_C(1) << 37, true}, /* the refcount table */
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(Qcow2Header) h = header_for(rows[i].bits, rows[i].order, rows[i].size, 0);
        g_autoptr(GError) error = NULL;
        Qcow2Plan p;

        g_assert_false(qcow2_plan(&p, h, rows[i].preallocate, &error));
        g_assert_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qcow2/plan/all", test_all);
    g_test_add_func("/qcow2/plan/backed", test_backed);
    g_test_add_func("/qcow2/plan/too-large", test_too_large);
    return g_test_run();
}
