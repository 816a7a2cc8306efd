/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Places for clusters ahead of the writes to them, so that these need no more space, and change no
 * table where that can be. What the disk contains stays as it is.
 */
#include <errno.h>

#include "block/drivers/qcow2/state.h"

/* So many clusters get their place at once. */
#define MAX_RUN 32

/* How much is written at once. */
#define WRITE_CHUNK (1024 * 1024)

/* Clusters of the disk that get their places. */
typedef struct Placing {
    BlockNode *node;
    Qcow2State *s;
    PreallocMode mode;
    uint64_t size; /* of the disk, or what it is going to be */
    Qcow2Claim claim;
    Qcow2Cluster old[MAX_RUN], new[MAX_RUN];
    unsigned from, n;  /* of those that are claimed: the ones at hand */
    bool needed;       /* they have no place yet */
    uint64_t host;     /* of the first, in the image or data file */
    bool taken, fresh; /* as qcow2_co_take() says */
    bool zeroed;       /* there are zeros */
} Placing;

static unsigned cluster_bits(const Placing *p)
{
    return p->s->image->layout.cluster_bits;
}

static uint64_t run_bytes(const Placing *p)
{
    return (uint64_t)p->n << cluster_bits(p);
}

static uint64_t offset_of(const Placing *p, unsigned i)
{
    return (p->claim.first + i) << cluster_bits(p);
}

/* In a data file each has its own, and nobody else has a part in it, whatever the entry says. */
static bool has_place(const Placing *p, const Qcow2Cluster *c)
{
    return c->has_host && !c->compressed && (c->copied || p->s->data != p->s->file);
}

/* The first part of the claimed clusters that is alike. */
static void choose_run(Placing *p, unsigned end)
{
    const Qcow2Cluster *first = &p->old[p->from];

    p->needed = !has_place(p, first);
    p->host = first->host;
    p->taken = p->fresh = false;
    for (p->n = 1; p->from + p->n < end; p->n++) {
        const Qcow2Cluster *c = first + p->n;

        if (has_place(p, c) == p->needed ||
            (!p->needed && c->host != p->host + ((uint64_t)p->n << cluster_bits(p)))) {
            break;
        }
    }
}

/* Places */

/* What is not written to make the file long enough has to be done here. */
static int co_fn co_reach(const Placing *p)
{
    uint64_t end = p->host + run_bytes(p);

    if ((uint64_t)block_child_length(p->s->file) >= end) {
        return 0;
    }
    /* Not shorter, if others have made it longer meanwhile. */
    return block_child_co_truncate(p->s->file, end, PREALLOC_MODE_OFF,
                                   BLOCK_REQ_ZERO | BLOCK_REQ_GROW_ONLY, NULL);
}

static int co_fn co_find_place(Placing *p)
{
    uint64_t got;
    int r;

    if (!p->needed) {
        return p->s->data == p->s->file
                   ? qcow2_co_check_write(p->node, p->host, run_bytes(p), QCOW2_META_NONE)
                   : 0;
    }
    if (p->s->data != p->s->file) {
        p->host = offset_of(p, p->from);
        return 0;
    }
    r = qcow2_co_take(p->s, p->n, &p->host, &got, &p->fresh);
    if (r == 0) {
        p->taken = true;
        p->n = got;
        r = co_reach(p);
    }
    return r;
}

/* Contents */

static bool is_raw_data_file(const Placing *p)
{
    return p->s->image->header->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW;
}

/* Whether what is not allocated at @offset may read as something else than zeros. */
static bool is_backed(const Placing *p, uint64_t offset)
{
    return p->s->backing && offset < (uint64_t)block_child_length(p->s->backing);
}

static bool reads_zeros(const Placing *p, unsigned i)
{
    const Qcow2Cluster *c = &p->old[i];
    uint32_t all = qcow2_all_subclusters(&p->s->image->layout);

    return !c->compressed && !c->data && (c->zero == all || !is_backed(p, offset_of(p, i)));
}

/* Whether it can have a place and be without data all the same, as it is. */
static bool stays_empty(const Placing *p, unsigned i)
{
    return p->s->image->layout.subclusters > 1 && !p->old[i].compressed && !p->old[i].data;
}

static int co_fn co_write_zeros(const Placing *p, uint64_t host, uint64_t bytes)
{
    g_autofree char *zeros = g_try_malloc0(MIN(bytes, WRITE_CHUNK));
    int r = zeros ? 0 : -ENOMEM;

    while (r == 0 && bytes > 0) {
        uint64_t n = MIN(bytes, WRITE_CHUNK);

        r = block_child_co_pwritev(p->s->data, host, IOV_LOCAL(zeros, n), 0);
        host += n;
        bytes -= n;
    }
    return r;
}

static int co_fn co_copy(const Placing *p, unsigned i, uint64_t host, uint64_t bytes)
{
    g_autofree char *buffer = g_try_malloc(bytes);
    int r = buffer ? qcow2_co_read_old(p->node, offset_of(p, i), bytes, buffer) : -ENOMEM;

    return r < 0 ? r : block_child_co_pwritev(p->s->data, host, IOV_LOCAL(buffer, bytes), 0);
}

/* How much of the cluster is to be written; a data file does not grow beyond the disk. */
static uint64_t bytes_of(const Placing *p, unsigned i)
{
    uint64_t size = qcow2_cluster_size(&p->s->image->layout);
    uint64_t left = p->size - offset_of(p, i);

    return p->s->data != p->s->file ? MIN(size, left) : size;
}

/* Give cluster @i what it contains at @host, by data that is written or there, or by its entry. */
static int co_fn co_fill(Placing *p, unsigned i, uint64_t host)
{
    const Qcow2Layout *layout = &p->s->image->layout;
    uint32_t all = qcow2_all_subclusters(layout);
    int r = 0;

    p->new[i] = (Qcow2Cluster){.has_host = true, .copied = true, .host = host};
    if (!reads_zeros(p, i)) {
        if (stays_empty(p, i)) {
            p->new[i].zero = p->old[i].zero;
            return 0;
        }
        r = co_copy(p, i, host, bytes_of(p, i));
    } else if (!p->zeroed && p->mode != PREALLOC_MODE_FULL &&
               (layout->zero_flag || layout->subclusters > 1)) {
        p->new[i].zero = all;
        return 0;
    } else if (!p->zeroed) {
        r = co_write_zeros(p, host, bytes_of(p, i));
    }
    p->new[i].data = all;
    return r;
}

/* How many bytes of the image or data file the run has. */
static uint64_t bytes_of_run(const Placing *p)
{
    return run_bytes(p) - qcow2_cluster_size(&p->s->image->layout) +
           bytes_of(p, p->from + p->n - 1);
}

/* Have zeros there without writing them, for then a later write need not change the entries. */
static int co_fn co_zero_run(Placing *p)
{
    BlockRequestFlags unmap = p->mode == PREALLOC_MODE_METADATA ? BLOCK_REQ_MAY_UNMAP : 0;
    int r;

    p->zeroed = p->mode != PREALLOC_MODE_FULL && (p->fresh || is_raw_data_file(p));
    if (p->zeroed || p->mode == PREALLOC_MODE_FULL) {
        return 0;
    }
    r = block_child_co_pwrite_zeroes(p->s->data, p->host, bytes_of_run(p),
                                     BLOCK_REQ_NO_FALLBACK | unmap);
    p->zeroed = r == 0;
    return r == -ENOTSUP ? 0 : r;
}

static int co_fn co_fill_run(Placing *p)
{
    int r = co_zero_run(p);

    for (unsigned i = 0; r == 0 && i < p->n; i++) {
        r = co_fill(p, p->from + i, p->host + ((uint64_t)i << cluster_bits(p)));
    }
    return r;
}

static int co_fn co_reserve(const Placing *p)
{
    return p->mode == PREALLOC_MODE_FALLOC
               ? block_child_co_allocate(p->s->data, p->host, bytes_of_run(p))
               : 0;
}

static int co_fn co_place_run(Placing *p)
{
    int r = co_find_place(p);

    if (r == 0) {
        r = co_reserve(p);
    }
    if (r == 0 && p->needed) {
        r = co_fill_run(p);
    }
    if (r == 0 && p->needed) {
        r = qcow2_co_set_entries(p->node, p->claim.first + p->from, p->n, &p->new[p->from]);
    }
    if (r < 0 && p->taken) {
        qcow2_refcounts_co_release(&p->s->metadata.refcounts, p->host, run_bytes(p), false);
    }
    for (unsigned i = p->from; r == 0 && p->taken && i < p->from + p->n; i++) {
        qcow2_free_cluster_later(p->s, &p->old[i], false);
    }
    return r;
}

static int co_fn co_place_claimed(Placing *p)
{
    unsigned end = p->claim.end - p->claim.first;
    int r = qcow2_co_decode(p->node, p->claim.first, end, p->old);

    for (p->from = 0; r == 0 && p->from < end; p->from += p->n) {
        choose_run(p, end);
        r = co_place_run(p);
    }
    return r;
}

int co_fn qcow2_co_preallocate(BlockNode *node, uint64_t offset, uint64_t bytes, PreallocMode mode)
{
    Qcow2State *s = block_node_state(node);
    unsigned bits = s->image->layout.cluster_bits;
    uint64_t first = offset >> bits;
    uint64_t last = bytes ? ((offset + bytes - 1) >> bits) + 1 : first;
    g_autofree Placing *p = g_new0(Placing, 1);
    int r = 0;

    *p = (Placing){
        .node = node, .s = s, .mode = mode, .size = MAX(qcow2_disk_size(s), offset + bytes)};
    while (r == 0 && first < last) {
        uint64_t end = MIN(last, MIN(qcow2_slice_end(s, first), first + MAX_RUN));

        if (!qcow2_claim_co_begin(s, &p->claim, first, end)) {
            continue;
        }
        r = co_place_claimed(p);
        first = p->claim.end;
        qcow2_claim_end(s, &p->claim);
    }
    return r;
}

int co_fn qcow2_co_allocate(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    Qcow2State *s = block_node_state(node);
    unsigned epoch;
    int r = qcow2_co_begin_writing(node);

    if (r < 0) {
        return r;
    }
    epoch = qcow2_use_begin(s);
    r = qcow2_co_preallocate(node, offset, bytes, PREALLOC_MODE_FALLOC);
    qcow2_use_end(s, epoch);
    return r;
}
