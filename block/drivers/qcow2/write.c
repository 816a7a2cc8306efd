/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes. What lies in clusters of its own is written there. The rest gets new clusters, or
 * subclusters: these are claimed, written with what they lack of the old data in one go, and then
 * named by their entries. Who writes to other clusters does not wait for that.
 */
#include <errno.h>
#include <string.h>

#include "block/drivers/qcow2/parts.h"
#include "block/drivers/qcow2/state.h"

/* So many clusters get their place at once. */
#define MAX_RUN 32

/* A write of new clusters; offsets in the disk, if not said otherwise. */
typedef struct NewWrite {
    BlockNode *node;
    Qcow2State *s;
    Qcow2Claim claim;
    Qcow2Cluster old[MAX_RUN], new[MAX_RUN];
    unsigned n;          /* clusters, from claim.first on */
    bool taken;          /* they are new in the image */
    bool fresh;          /* and the file has zeros there */
    uint64_t host;       /* of the first, in the image or data file */
    uint64_t start, end; /* what is written */
    uint64_t low, high;  /* with what comes along: whole subclusters, or clusters */
} NewWrite;

static unsigned cluster_bits(const NewWrite *w)
{
    return w->s->image->layout.cluster_bits;
}

static uint64_t first_offset(const NewWrite *w)
{
    return w->claim.first << cluster_bits(w);
}

/* Where the cluster that the entry has is to be kept. */
static bool keeps_host(const Qcow2Cluster *c)
{
    return c->has_host && c->copied && !c->compressed;
}

/* Subclusters of a cluster at @cluster that [@low, @high) covers. */
static uint32_t covered(const NewWrite *w, uint64_t cluster, uint64_t low, uint64_t high)
{
    const Qcow2Layout *layout = &w->s->image->layout;
    uint64_t end = cluster + qcow2_cluster_size(layout);
    unsigned from, to;

    low = MAX(low, cluster) - cluster;
    high = MIN(high, end) - cluster;
    from = low >> layout->subcluster_bits;
    to = (high + (1u << layout->subcluster_bits) - 1) >> layout->subcluster_bits;
    return qcow2_all_subclusters(layout) >> (layout->subclusters - (to - from)) << from;
}

/* Old data */

/* Whether the range reads as zeros, as far as tables tell. Behind the end of the disk it does. */
static int co_fn co_reads_zeros(BlockNode *node, uint64_t offset, uint64_t end, bool *zeros)
{
    const Qcow2State *s = block_node_state(node);

    end = MIN(end, qcow2_disk_size(s));
    for (*zeros = true; *zeros && offset < end;) {
        Qcow2Extent extent;
        int r = qcow2_co_map(node, offset, end - offset, &extent);

        if (r < 0) {
            return r;
        }
        *zeros = extent.kind == QCOW2_EXTENT_ZERO ||
                 (extent.kind == QCOW2_EXTENT_UNALLOCATED &&
                  (!s->backing || offset >= (uint64_t)block_child_length(s->backing)));
        offset += extent.bytes;
    }
    return 0;
}

int co_fn qcow2_co_read_old(BlockNode *node, uint64_t offset, uint64_t bytes, void *buffer)
{
    const Qcow2State *s = block_node_state(node);
    uint64_t size = qcow2_disk_size(s);
    uint64_t inside = offset < size ? MIN(bytes, size - offset) : 0;

    memset((char *)buffer + inside, 0, bytes - inside);
    return inside ? qcow2_co_preadv(node, offset, IOV_LOCAL(buffer, inside), 0) : 0;
}

/* Writing */

static int co_fn co_write_at(const NewWrite *w, uint64_t offset, const IoVector *iov)
{
    return block_child_co_pwritev(w->s->data, w->host + (offset - first_offset(w)), iov, 0);
}

/* Old data that is read while other is. */
typedef struct OldRead {
    Qcow2Part part;
    BlockNode *node;
    uint64_t offset, bytes;
    void *buffer;
} OldRead;

static int co_fn old_co_read(Qcow2Part *part)
{
    const OldRead *o = (OldRead *)part;

    return qcow2_co_read_old(o->node, o->offset, o->bytes, o->buffer);
}

/* What the clusters have before and behind what is written, one behind the other in @buffer. */
static int co_fn co_read_around(const NewWrite *w, char *buffer)
{
    uint64_t before = w->start - w->low;
    OldRead head = {.part.run = old_co_read,
                    .node = w->node,
                    .offset = w->low,
                    .bytes = before,
                    .buffer = buffer};
    Qcow2Parts parts = {.running = 0};

    if (before > 0) {
        qcow2_parts_co_start(&parts, &head.part);
    }
    qcow2_parts_note(&parts, qcow2_co_read_old(w->node, w->end, w->high - w->end, buffer + before));
    return qcow2_parts_co_end(&parts);
}

/* Write @iov, and before and after it what its clusters had there. */
static int co_fn co_write_merged(const NewWrite *w, const IoVector *iov)
{
    uint64_t before = w->start - w->low, after = w->high - w->end;
    g_autofree char *old = g_try_malloc(MAX(before + after, 1));
    g_autofree struct iovec *array = g_new(struct iovec, iov->n + 2);
    IoVector all = {.iov = array, .bytes = w->high - w->low};
    int r = old ? co_read_around(w, old) : -ENOMEM;

    if (r < 0) {
        return r;
    }
    if (before) {
        array[all.n++] = (struct iovec){old, before};
    }
    memcpy(&array[all.n], iov->iov, iov->n * sizeof(*array));
    all.n += iov->n;
    if (after) {
        array[all.n++] = (struct iovec){old + before, after};
    }
    return co_write_at(w, w->low, &all);
}

static int co_fn co_write_data(const NewWrite *w, const IoVector *iov)
{
    bool zeros = w->fresh;
    int r = 0;

    if (w->low == w->start && w->high == w->end) {
        return co_write_at(w, w->start, iov);
    }
    if (zeros) {
        r = co_reads_zeros(w->node, w->low, w->start, &zeros);
    }
    if (r == 0 && zeros) {
        r = co_reads_zeros(w->node, w->end, w->high, &zeros);
    }
    if (r < 0) {
        return r;
    }
    return zeros ? co_write_at(w, w->start, iov) : co_write_merged(w, iov);
}

/* Places */

/* Whether there is data in @c that a cluster in its place must have, too. */
static bool must_move(const Qcow2Cluster *c)
{
    return c->compressed || c->data;
}

/*
 * What is written at once: @w->n clusters, all of which get new places, or one that keeps its own.
 * False: the first one can be written in place now.
 */
static bool choose_run(NewWrite *w)
{
    const Qcow2Layout *layout = &w->s->image->layout;
    uint32_t rest =
        covered(w, first_offset(w), w->start, first_offset(w) + qcow2_cluster_size(layout));
    uint32_t in_place = keeps_host(&w->old[0]) ? w->old[0].data & rest : 0;
    unsigned first = __builtin_ctz(rest);

    if (in_place & (UINT32_C(1) << first)) {
        return false;
    }
    if (keeps_host(&w->old[0])) {
        w->n = 1;
        if (in_place) { /* up to the first subcluster that others may write in place */
            w->end = MIN(w->end, first_offset(w) + ((uint64_t)__builtin_ctz(in_place)
                                                    << layout->subcluster_bits));
        }
        return true;
    }
    for (unsigned i = 1; i < w->n; i++) {
        if (keeps_host(&w->old[i])) {
            w->n = i;
        }
    }
    return true;
}

static int co_fn co_find_place(NewWrite *w)
{
    uint64_t got;
    int r;

    if (keeps_host(&w->old[0])) {
        w->host = w->old[0].host;
        return w->s->data == w->s->file
                   ? qcow2_co_check_write(w->node, w->host, UINT64_C(1) << cluster_bits(w),
                                          QCOW2_META_NONE)
                   : 0;
    }
    if (w->s->data != w->s->file) {
        w->host = first_offset(w);
        return 0;
    }
    r = qcow2_co_take(w->s, w->n, &w->host, &got, &w->fresh);
    if (r == 0) {
        w->taken = true;
        w->n = got;
    }
    return r;
}

static void choose_bounds(NewWrite *w)
{
    const Qcow2Layout *layout = &w->s->image->layout;
    uint64_t unit = UINT64_C(1) << layout->subcluster_bits;
    uint64_t clusters_end = first_offset(w) + ((uint64_t)w->n << layout->cluster_bits);
    bool moves = !keeps_host(&w->old[0]);

    w->end = MIN(w->end, clusters_end);
    w->n = ((w->end - 1) >> layout->cluster_bits) - w->claim.first + 1;
    clusters_end = first_offset(w) + ((uint64_t)w->n << layout->cluster_bits);
    w->low = moves && must_move(&w->old[0]) ? first_offset(w) : w->start & ~(unit - 1);
    w->high =
        moves && must_move(&w->old[w->n - 1]) ? clusters_end : (w->end + unit - 1) & ~(unit - 1);
    if (w->s->data != w->s->file) { /* which does not grow beyond the disk */
        w->high = MAX(w->end, MIN(w->high, qcow2_disk_size(w->s)));
    }
}

static void make_entries(NewWrite *w)
{
    const Qcow2Layout *layout = &w->s->image->layout;

    for (unsigned i = 0; i < w->n; i++) {
        uint64_t offset = first_offset(w) + ((uint64_t)i << layout->cluster_bits);
        const Qcow2Cluster *old = &w->old[i];
        uint32_t written = covered(w, offset, w->low, w->high);

        w->new[i] = (Qcow2Cluster){
            .copied = true,
            .has_host = true,
            .host = w->host + ((uint64_t)i << layout->cluster_bits),
            .data = written | (keeps_host(old) ? old->data : 0),
            .zero = old->compressed ? 0 : old->zero & ~written,
        };
    }
}

/* Clusters that were taken and are not going to be used. */
static void co_fn co_give_back(NewWrite *w, unsigned from, unsigned to)
{
    if (w->taken && from < to) {
        qcow2_refcounts_co_release(&w->s->metadata.refcounts,
                                   w->host + ((uint64_t)from << cluster_bits(w)),
                                   (uint64_t)(to - from) << cluster_bits(w), false);
    }
}

/* With the clusters claimed. *@done: how much was written; 0: look again. */
static int co_fn co_write_claimed(NewWrite *w, const IoVector *iov, size_t skip, uint64_t *done)
{
    g_auto(IovPart) part = IOV_PART_EMPTY;
    unsigned taken;
    int r = qcow2_co_decode(w->node, w->claim.first, w->n, w->old);

    *done = 0;
    if (r < 0 || !choose_run(w)) {
        return r;
    }
    r = co_find_place(w);
    if (r < 0) {
        return r;
    }
    taken = w->n;
    choose_bounds(w);
    co_give_back(w, w->n, taken);
    iov_part_init(&part, iov, skip, w->end - w->start);
    r = co_write_data(w, &part.iov);
    if (r == 0) {
        make_entries(w);
        r = qcow2_co_set_entries(w->node, w->claim.first, w->n, w->new);
    }
    if (r < 0) {
        co_give_back(w, 0, w->n);
        return r;
    }
    for (unsigned i = 0; w->taken && i < w->n; i++) {
        qcow2_free_cluster_later(w->s, &w->old[i], w->s->discard_other);
    }
    *done = w->end - w->start;
    return 0;
}

static int co_fn co_write_new(BlockNode *node, uint64_t offset, const IoVector *iov, size_t skip,
                              uint64_t bytes, uint64_t *done)
{
    Qcow2State *s = block_node_state(node);
    unsigned bits = s->image->layout.cluster_bits;
    uint64_t end = offset + bytes;
    uint64_t first = offset >> bits;
    uint64_t last = MIN(((end - 1) >> bits) + 1, MIN(qcow2_slice_end(s, first), first + MAX_RUN));
    NewWrite w; /* with room for more clusters than are ever looked at, so it is not cleared */
    int r;

    *done = 0;
    if (!qcow2_claim_co_begin(s, &w.claim, first, last)) {
        return 0;
    }
    w.node = node;
    w.s = s;
    w.n = w.claim.end - first;
    w.taken = w.fresh = false;
    w.start = offset;
    w.end = MIN(end, w.claim.end << bits);
    r = co_write_claimed(&w, iov, skip, done);
    qcow2_claim_end(s, &w.claim);
    return r;
}

/* Write the first part of the next @bytes bytes of a request. */
static int co_fn co_write_some(BlockNode *node, uint64_t offset, const IoVector *iov, size_t skip,
                               uint64_t bytes, uint64_t *done)
{
    Qcow2State *s = block_node_state(node);
    g_auto(IovPart) part = IOV_PART_EMPTY;
    uint64_t in_place = bytes;
    uint64_t host;
    int r = qcow2_co_map_in_place(node, offset, &in_place, &host);

    if (r < 0) {
        return r;
    }
    if (in_place == 0) {
        return co_write_new(node, offset, iov, skip, bytes, done);
    }
    *done = in_place;
    if (G_LIKELY(in_place == iov->bytes)) {
        return block_child_co_pwritev(s->data, host, iov, 0);
    }
    iov_part_init(&part, iov, skip, in_place);
    return block_child_co_pwritev(s->data, host, &part.iov, 0);
}

int co_fn qcow2_co_write_plain(BlockNode *node, uint64_t offset, const IoVector *iov, size_t skip,
                               uint64_t bytes)
{
    uint64_t done = 0;
    int r = 0;

    for (; r == 0 && bytes > 0; bytes -= done, offset += done, skip += done) {
        r = co_write_some(node, offset, iov, skip, bytes, &done);
    }
    return r;
}

/* The whole request, clusters as they come. */
static int co_fn co_write_compressed(BlockNode *node, uint64_t offset, const IoVector *iov)
{
    uint64_t done = 0;
    int r = 0;

    for (size_t skip = 0; r == 0 && skip < iov->bytes; skip += done) {
        r = qcow2_co_write_compressed(node, offset + skip, iov, skip, &done);
    }
    return r;
}

int co_fn qcow2_co_pwritev(BlockNode *node, uint64_t offset, const IoVector *iov,
                           BlockRequestFlags flags)
{
    Qcow2State *s = block_node_state(node);
    unsigned epoch;
    int r = qcow2_co_begin_writing(node);

    if (r < 0) {
        return r;
    }
    qcow2_bitmaps_mark(s, offset, iov->bytes);
    epoch = qcow2_use_begin(s);
    r = G_UNLIKELY(flags & BLOCK_REQ_WRITE_COMPRESSED)
            ? co_write_compressed(node, offset, iov)
            : qcow2_co_write_plain(node, offset, iov, 0, iov->bytes);
    qcow2_use_end(s, epoch);
    return G_LIKELY(r == 0) ? 0 : qcow2_co_end_writing(node, r);
}
