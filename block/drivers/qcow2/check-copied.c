/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Entries of the L1 table in use, and of the L2 tables that it names, say whether what they name
 * has a refcount of exactly one. (Those of snapshots are put right when a snapshot is applied.)
 */
#include <errno.h>

#include "block/drivers/qcow2/check-internal.h"

#define CHUNK_WORDS 8192

/*
 * Whether the bits are to be put right. Where all else is right they may be, even if only leaks are
 * to be repaired: nothing is lost by that.
 */
static bool repairs_bits(const Check *c)
{
    return check_repairs_all(c) ||
           (c->repair == IMAGE_REPAIR_LEAKS && c->result->corruptions == 0 && !c->incomplete);
}

/* Look at the bit of an entry that names the cluster at @host. Returns whether it was changed. */
static bool check_bit(Check *c, uint64_t *word, uint64_t host, bool repair, const char *what)
{
    uint64_t entry = GUINT64_FROM_BE(*word);
    uint64_t refcount = check_refcount(c, host >> c->layout.cluster_bits);

    if ((refcount == 1) == !!(entry & QCOW2_ENTRY_COPIED)) {
        return false;
    }
    check_corruption(c, repair,
                     "the entry %#" G_GINT64_MODIFIER "x of %s says the contrary of its refcount, "
                     "%" G_GUINT64_FORMAT,
                     entry, what, refcount);
    if (repair) {
        *word = GUINT64_TO_BE(entry ^ QCOW2_ENTRY_COPIED);
    }
    return repair;
}

static int co_fn co_check_l1(Check *c, bool repair)
{
    const Qcow2Header *h = c->header;
    g_autofree uint64_t *words = g_new(uint64_t, CHUNK_WORDS);
    int r = 0;

    for (uint64_t first = 0; r == 0 && first < c->l1_entries; first += CHUNK_WORDS) {
        uint64_t n = MIN(CHUNK_WORDS, c->l1_entries - first), offset;
        bool changed = false;

        r = check_co_read(c, h->l1_offset + first * 8, words, n * 8);
        for (uint64_t i = 0; r == 0 && i < n; i++) {
            if (words[i] && !qcow2_l1_decode(&c->layout, GUINT64_FROM_BE(words[i]), &offset) &&
                check_is_inside(c, offset, check_cluster_size(c))) {
                changed |= check_bit(c, &words[i], offset, repair, "the L1 table");
            }
        }
        if (r == 0 && changed) {
            r = check_co_write(c, h->l1_offset + first * 8, words, n * 8);
        }
    }
    return r;
}

static int co_fn co_check_l2(Check *c, const CheckTable *t, uint64_t *words, bool repair)
{
    unsigned step = c->layout.entry_words;
    bool changed = false;
    int r = check_co_read(c, t->offset, words, check_cluster_size(c));

    for (unsigned i = 0; r == 0 && i < 1u << c->layout.l2_bits; i++) {
        uint64_t bitmap = step > 1 ? GUINT64_FROM_BE(words[i * step + 1]) : 0;
        Qcow2Cluster cluster;

        if (qcow2_l2_decode(&c->layout, GUINT64_FROM_BE(words[i * step]), bitmap,
                            t->guest + ((uint64_t)i << c->layout.cluster_bits), &cluster) ||
            !cluster.has_host || cluster.compressed ||
            !check_is_inside(c, cluster.host, check_cluster_size(c))) {
            continue; /* which the walk has said */
        }
        changed |= check_bit(c, &words[i * step], cluster.host, repair, "an L2 table");
    }
    return r == 0 && changed ? check_co_write(c, t->offset, words, check_cluster_size(c)) : r;
}

int co_fn check_co_copied(Check *c)
{
    g_autofree uint64_t *words = g_try_malloc(check_cluster_size(c));
    bool repair = repairs_bits(c);
    int r;

    if (!words) {
        return -ENOMEM;
    }
    if (!c->differences) {
        check_tell(c,
                   "there are too many wrong refcounts to look at the entries that rely on them");
        return 0;
    }
    r = co_check_l1(c, repair && check_l1_is_alone(c));
    for (guint i = 0; r == 0 && !c->layout.data_file && i < c->tables->len; i++) {
        const CheckTable *t = &g_array_index(c->tables, CheckTable, i);

        r = t->active ? co_check_l2(c, t, words, repair && check_l2_is_alone(c, t)) : 0;
        check_advance(c, check_cluster_size(c));
    }
    return r < 0 ? r : check_co_flush(c);
}
