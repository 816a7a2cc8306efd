/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Zeros and discards: entries are changed, data is not touched.
 */
#include <errno.h>

#include "block/drivers/qcow2/state.h"

/* So many clusters are changed at once. */
#define MAX_RUN 64

typedef enum {
    CLEAR_ZERO,    /* reads zeros; clusters stay where they are */
    CLEAR_UNMAP,   /* the same, and they may go */
    CLEAR_DISCARD, /* reads as if nothing had been written, or zeros where that is not possible */
    CLEAR_DROP,    /* as if nothing had been written */
} ClearKind;

typedef struct Clear {
    BlockNode *node;
    Qcow2State *s;
    ClearKind kind;
    uint64_t limit; /* no entry behind that offset has to be looked at */
    bool discard;   /* storage of what goes */
    bool keep;      /* clusters keep their place, with 'discard-no-unref' */
} Clear;

/* Whether what is not allocated at @offset may read as something else than zeros. */
static bool is_backed(const Qcow2State *s, uint64_t offset)
{
    return s->backing && offset < (uint64_t)block_child_length(s->backing);
}

static bool can_say_zero(const Qcow2Layout *layout)
{
    return layout->zero_flag || layout->subclusters > 1;
}

/* The subclusters of the cluster at @cluster that lie in the range as a whole. */
static uint32_t whole_subclusters(const Qcow2Layout *layout, uint64_t cluster, uint64_t offset,
                                  uint64_t end)
{
    uint32_t mask = 0;

    for (unsigned i = 0; i < layout->subclusters; i++) {
        uint64_t from = cluster + ((uint64_t)i << layout->subcluster_bits);

        if (from >= offset && from + (UINT64_C(1) << layout->subcluster_bits) <= end) {
            mask |= UINT32_C(1) << i;
        }
    }
    return mask;
}

/* What the cluster becomes. 0, or -ENOTSUP: it cannot be said. */
static int clear_cluster(const Clear *c, uint64_t cluster, uint32_t mask, const Qcow2Cluster *old,
                         Qcow2Cluster *new)
{
    const Qcow2Layout *layout = &c->s->image->layout;
    uint32_t all = qcow2_all_subclusters(layout);
    bool zeros =
        c->kind != CLEAR_DROP && (c->kind == CLEAR_ZERO || c->keep || is_backed(c->s, cluster));

    *new = *old;
    if (mask == 0) {
        return 0;
    }
    if (old->compressed && mask != all) {
        return -ENOTSUP;
    }
    if (old->compressed) {
        *new = (Qcow2Cluster){.has_host = false};
    }
    new->data &= ~mask;
    new->zero |= mask;
    if (mask == all && c->kind != CLEAR_ZERO && !c->keep) {
        *new = (Qcow2Cluster){.zero = zeros ? all : 0};
    }
    if (mask == all && !new->copied) { /* somebody else's */
        new->has_host = false;
        new->host = 0;
    }
    return new->zero && !can_say_zero(layout) ? -ENOTSUP : 0;
}

static bool is_same(const Qcow2Cluster *a, const Qcow2Cluster *b)
{
    return a->compressed == b->compressed && a->has_host == b->has_host && a->host == b->host &&
           a->data == b->data && a->zero == b->zero;
}

/*
 * Whether nothing reads the data of a cluster any more, no snapshot either, and it is not going to
 * be counted down: it keeps its place, or lies in a data file.
 */
static bool is_idle(const Clear *c, const Qcow2Cluster *old, const Qcow2Cluster *new)
{
    return old->data && old->copied && !old->compressed && !new->data &&
           (new->has_host || c->s->data != c->s->file);
}

static void co_fn co_discard_at(const Clear *c, uint64_t host, uint64_t bytes)
{
    if (c->s->data != c->s->file ||
        qcow2_co_check_write(c->node, host, bytes, QCOW2_META_NONE) == 0) {
        block_child_co_pdiscard(c->s->data, host, bytes);
    }
}

/*
 * Give the storage of idle clusters back. After a crash the image may still say that they have
 * data, which reads as zeros then; that is as good as anything else for what was discarded. With
 * the clusters claimed, so that nobody has begun to write there again.
 */
static void co_fn co_discard_idle(const Clear *c, unsigned n, const Qcow2Cluster *old,
                                  const Qcow2Cluster *new)
{
    uint64_t size = qcow2_cluster_size(&c->s->image->layout);
    uint64_t from = 0, bytes = 0;

    for (unsigned i = 0; c->discard && c->kind != CLEAR_ZERO && i < n; i++) {
        if (!is_idle(c, &old[i], &new[i])) {
            continue;
        }
        if (bytes > 0 && old[i].host != from + bytes) {
            co_discard_at(c, from, bytes);
            bytes = 0;
        }
        from = bytes > 0 ? from : old[i].host;
        bytes += size;
    }
    if (bytes > 0) {
        co_discard_at(c, from, bytes);
    }
}

/* With the clusters claimed. */
static int co_fn co_clear_claimed(const Clear *c, const Qcow2Claim *claim, uint64_t offset,
                                  uint64_t end)
{
    const Qcow2Layout *layout = &c->s->image->layout;
    unsigned n = claim->end - claim->first;
    Qcow2Cluster old[MAX_RUN], new[MAX_RUN];
    bool changed = false;
    int r = qcow2_co_decode(c->node, claim->first, n, old);

    for (unsigned i = 0; r == 0 && i < n; i++) {
        uint64_t cluster = (claim->first + i) << layout->cluster_bits;
        uint32_t mask = whole_subclusters(layout, cluster, offset, end);

        r = clear_cluster(c, cluster, mask, &old[i], &new[i]);
        changed |= !is_same(&old[i], &new[i]);
    }
    if (r < 0 || !changed) {
        return r;
    }
    r = qcow2_co_set_entries(c->node, claim->first, n, new);
    for (unsigned i = 0; r == 0 && i < n; i++) {
        if (old[i].has_host && !new[i].has_host) {
            qcow2_free_cluster_later(c->s, &old[i], c->discard);
        }
    }
    if (r == 0) {
        co_discard_idle(c, n, old, new);
    }
    return r;
}

/* The part of the range, from @offset on, where there is nothing to do. */
static int co_fn co_skip(const Clear *c, uint64_t offset, uint64_t end, uint64_t *skip)
{
    uint64_t cluster = qcow2_cluster_size(&c->s->image->layout);
    Qcow2Extent extent;
    int r;

    *skip = 0;
    if (offset >= c->limit) {
        *skip = end - offset;
        return 0;
    }
    r = qcow2_co_map(c->node, offset, MIN(end, c->limit) - offset, &extent);
    if (r == 0 && extent.kind == QCOW2_EXTENT_UNALLOCATED && !is_backed(c->s, offset)) {
        /* Not beyond a cluster that is allocated in part. */
        *skip = extent.bytes >= cluster ? extent.bytes & ~(cluster - 1) : 0;
    }
    return r;
}

static int co_fn co_clear(const Clear *c, uint64_t offset, uint64_t bytes)
{
    unsigned bits = c->s->image->layout.cluster_bits;
    uint64_t end = offset + bytes;
    int r = 0;

    while (r == 0 && offset < end) {
        uint64_t first = offset >> bits;
        uint64_t last = MIN(((end - 1) >> bits) + 1, qcow2_slice_end(c->s, first));
        Qcow2Claim claim;
        uint64_t skip;

        r = co_skip(c, offset, end, &skip);
        if (r < 0 || skip > 0) {
            offset += skip;
            continue;
        }
        if (!qcow2_claim_co_begin(c->s, &claim, first, MIN(last, first + MAX_RUN))) {
            continue;
        }
        r = co_clear_claimed(c, &claim, offset, end);
        offset = MIN(end, claim.end << bits);
        qcow2_claim_end(c->s, &claim);
    }
    return r;
}

int co_fn qcow2_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                 BlockRequestFlags flags)
{
    Qcow2State *s = block_node_state(node);
    const Qcow2Layout *layout = &s->image->layout;
    uint64_t unit = UINT64_C(1) << layout->subcluster_bits;
    uint64_t end = offset + bytes;
    Clear c = {.node = node,
               .s = s,
               .kind = flags & BLOCK_REQ_MAY_UNMAP ? CLEAR_UNMAP : CLEAR_ZERO,
               .limit = qcow2_disk_size(s),
               .discard = s->discard_request,
               .keep = s->discard_no_unref};
    int r = qcow2_co_begin_writing(node);

    if (r < 0) {
        return r;
    }
    qcow2_bitmaps_mark(s, offset, bytes);
    if (end == qcow2_disk_size(s)) {
        end = (end + unit - 1) & ~(unit - 1); /* nobody sees what is behind */
    }
    if ((s->image->header->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW) ||
        ((offset | end) & (unit - 1))) {
        return -ENOTSUP;
    }
    return co_clear(&c, offset, end - offset);
}

int co_fn qcow2_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    Qcow2State *s = block_node_state(node);
    uint64_t size = qcow2_cluster_size(&s->image->layout);
    uint64_t start = (offset + size - 1) & ~(size - 1);
    uint64_t end = offset + bytes;
    Clear c = {.node = node,
               .s = s,
               .kind = CLEAR_DISCARD,
               .limit = qcow2_disk_size(s),
               .discard = s->discard_request,
               .keep = s->discard_no_unref};
    int r = qcow2_co_begin_writing(node);

    if (r < 0 || (s->image->header->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW)) {
        return r;
    }
    qcow2_bitmaps_mark(s, offset, bytes);
    end = end == qcow2_disk_size(s) ? (end + size - 1) & ~(size - 1) : end & ~(size - 1);
    return start < end ? co_clear(&c, start, end - start) : 0;
}

int co_fn qcow2_co_zero_added(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    Qcow2State *s = block_node_state(node);
    uint64_t mask = qcow2_cluster_size(&s->image->layout) - 1;
    Clear c = {.node = node, .s = s, .kind = CLEAR_ZERO, .limit = offset + bytes};

    if (s->image->header->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW) {
        return -ENOTSUP;
    }
    return co_clear(&c, offset, (bytes + mask) & ~mask);
}

int co_fn qcow2_co_drop(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    Qcow2State *s = block_node_state(node);
    Clear c = {.node = node, .s = s, .kind = CLEAR_DROP, .limit = offset + bytes, .discard = true};

    return co_clear(&c, offset, bytes);
}
