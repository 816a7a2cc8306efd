/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/counts.h"

#include <errno.h>
#include <string.h>

#define PAGE_BITS 10
#define PAGE_MASK ((UINT64_C(1) << PAGE_BITS) - 1)
#define MAX_PAGES (UINT64_C(1) << 19) /* 1 GiB */

/* In a page it says that the count stands elsewhere. */
#define IS_MORE UINT16_MAX

int qcow2_counts_init(Qcow2Counts *c, uint64_t n)
{
    *c = (Qcow2Counts){.n = n, .n_pages = (n + PAGE_MASK) >> PAGE_BITS};
    if (n > QCOW2_COUNTS_MAX) {
        c->n_pages = 0;
        return -EFBIG;
    }
    c->pages = g_try_new0(uint16_t *, c->n_pages);
    c->more = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    return c->pages || c->n_pages == 0 ? 0 : -ENOMEM;
}

int qcow2_counts_grow(Qcow2Counts *c, uint64_t n)
{
    uint64_t n_pages = (n + PAGE_MASK) >> PAGE_BITS;
    uint16_t **pages;

    if (n > QCOW2_COUNTS_MAX) {
        return -EFBIG;
    }
    pages = g_try_renew(uint16_t *, c->pages, n_pages);
    if (!pages) {
        return -ENOMEM;
    }
    memset(pages + c->n_pages, 0, (n_pages - c->n_pages) * sizeof(*pages));
    c->pages = pages;
    c->n_pages = n_pages;
    c->n = n;
    return 0;
}

void qcow2_counts_clear(Qcow2Counts *c)
{
    for (uint64_t i = 0; c->pages && i < c->n_pages; i++) {
        g_free(c->pages[i]);
    }
    g_clear_pointer(&c->pages, g_free);
    g_clear_pointer(&c->more, g_hash_table_unref);
}

/* The counter of @cluster; NULL: there is no memory for it. */
static uint16_t *need_counter(Qcow2Counts *c, uint64_t cluster)
{
    uint16_t **page = &c->pages[cluster >> PAGE_BITS];

    if (!*page) {
        if (c->used_pages == MAX_PAGES) {
            return NULL;
        }
        *page = g_try_new0(uint16_t, PAGE_MASK + 1);
        c->used_pages++;
    }
    return *page ? &(*page)[cluster & PAGE_MASK] : NULL;
}

static void set_more(Qcow2Counts *c, uint64_t cluster, uint64_t count)
{
    uint64_t *more = g_hash_table_lookup(c->more, &cluster);

    if (more) {
        *more = count;
        return;
    }
    g_hash_table_insert(c->more, g_memdup2(&cluster, sizeof(cluster)),
                        g_memdup2(&count, sizeof(count)));
}

int qcow2_counts_add(Qcow2Counts *c, uint64_t cluster, uint64_t times)
{
    uint16_t *counter = need_counter(c, cluster);
    uint64_t count;

    if (!counter) {
        return -ENOMEM;
    }
    count = qcow2_counts_get(c, cluster) + times;
    if (count >= IS_MORE) {
        set_more(c, cluster, count);
    }
    *counter = MIN(count, IS_MORE);
    return 0;
}

void qcow2_counts_remove(Qcow2Counts *c, uint64_t cluster)
{
    uint64_t count = qcow2_counts_get(c, cluster);

    if (count > IS_MORE) {
        set_more(c, cluster, count - 1);
    } else if (count > 0) {
        c->pages[cluster >> PAGE_BITS][cluster & PAGE_MASK] = count - 1;
    }
}

uint64_t qcow2_counts_get(const Qcow2Counts *c, uint64_t cluster)
{
    const uint16_t *page = cluster < c->n ? c->pages[cluster >> PAGE_BITS] : NULL;
    uint64_t count = page ? page[cluster & PAGE_MASK] : 0;

    return count == IS_MORE ? *(uint64_t *)g_hash_table_lookup(c->more, &cluster) : count;
}

uint64_t qcow2_counts_next(const Qcow2Counts *c, uint64_t from, uint64_t end)
{
    while (from < end) {
        const uint16_t *page = c->pages[from >> PAGE_BITS];

        if (!page) {
            from = (from | PAGE_MASK) + 1;
        } else if (page[from & PAGE_MASK] == 0) {
            from++;
        } else {
            return from;
        }
    }
    return end;
}

uint64_t qcow2_counts_end(const Qcow2Counts *c)
{
    for (uint64_t p = c->n_pages; p-- > 0;) {
        for (uint64_t i = PAGE_MASK + 1; c->pages[p] && i-- > 0;) {
            if (c->pages[p][i] > 0) {
                return (p << PAGE_BITS) + i + 1;
            }
        }
    }
    return 0;
}
