/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Compressed clusters. They are read through a cache of those that were read last; workers
 * decompress and compress them, never the thread of an AioContext.
 *
 * A write of clusters to be compressed claims some of them, compresses them side by side, gives
 * them places that lie together, and writes what is contiguous at once. A cluster of which only a
 * part is written is merged with what it had. What does not shrink is written as any other data,
 * when the claim has ended.
 */
#include <errno.h>
#include <string.h>

#include "block/drivers/qcow2/compress.h"
#include "block/drivers/qcow2/parts.h"
#include "block/drivers/qcow2/state.h"

/* Reading */

typedef struct Decompression {
    Qcow2Compression type;
    void *out;
    size_t out_length;
    const void *in;
    size_t in_length;
} Decompression;

static int decompress_worker(void *opaque)
{
    const Decompression *d = opaque;

    return qcow2_decompress(d->type, d->out, d->out_length, d->in, d->in_length);
}

/* A cluster to be decompressed: for messages it is the one at @offset of the disk. */
typedef struct ClusterLoad {
    BlockNode *node;
    const Qcow2Extent *extent;
    uint64_t offset;
} ClusterLoad;

static int co_fn co_load_cluster(void *out, void *opaque)
{
    const ClusterLoad *load = opaque;
    const Qcow2State *s = block_node_state(load->node);
    g_autofree void *in = g_try_malloc(load->extent->compressed_length);
    Decompression d = {.type = s->image->header->compression,
                       .out = out,
                       .out_length = qcow2_cluster_size(&s->image->layout),
                       .in = in,
                       .in_length = load->extent->compressed_length};
    int r;

    if (!in) {
        return -ENOMEM;
    }
    r = block_child_co_preadv(s->file, load->extent->host, IOV_LOCAL(in, d.in_length), 0);
    if (r < 0) {
        return r;
    }
    r = aio_co_run_worker(decompress_worker, &d);
    return r == -EIO ? qcow2_fault(load->node, QCOW2_FAULT_COMPRESSED_DATA, load->offset) : r;
}

int co_fn qcow2_co_read_compressed(BlockNode *node, const Qcow2Extent *extent, uint64_t offset,
                                   const IoVector *iov)
{
    const Qcow2State *s = block_node_state(node);
    size_t size = qcow2_cluster_size(&s->image->layout);
    ClusterLoad load = {.node = node, .extent = extent, .offset = offset};

    if (iov->bytes == size && iov->n == 1) { /* nobody will ask for the rest of it */
        return co_load_cluster(iov->iov[0].iov_base, &load);
    }
    return qcow2_unpacked_co_read(s->unpacked, extent->host, extent->compressed_length,
                                  co_load_cluster, &load, offset & (size - 1), iov);
}

/* Writing */

/* So many clusters are compressed at once, if they have no more than so many bytes. */
#define MAX_BATCH       16
#define MAX_BATCH_BYTES (UINT64_C(4) << 20)

typedef struct Batch Batch;

/* A cluster to be written. */
typedef struct Piece {
    Qcow2Part part;
    Batch *batch;
    const void *in; /* all of it */
    char *merged;   /* owned; @in, if it had to be put together */
    char *out;      /* owned */
    size_t length;  /* of @out; 0: it does not get shorter */
    bool placed;    /* it has a place: that of @new */
} Piece;

struct Batch {
    BlockNode *node;
    Qcow2State *s;
    const IoVector *iov; /* of the request */
    size_t skip;         /* in there */
    uint64_t start, end; /* of the disk: what is written of it */
    Qcow2Claim claim;
    unsigned n; /* clusters, from claim.first on */
    Qcow2Cluster old[MAX_BATCH], new[MAX_BATCH];
    Piece pieces[MAX_BATCH];
};

static uint64_t cluster_size(const Batch *b)
{
    return qcow2_cluster_size(&b->s->image->layout);
}

static uint64_t cluster_start(const Batch *b, unsigned i)
{
    return (b->claim.first + i) << b->s->image->layout.cluster_bits;
}

/* The part of cluster @i that the request has. */
static uint64_t part_start(const Batch *b, unsigned i)
{
    return MAX(b->start, cluster_start(b, i));
}

static uint64_t part_end(const Batch *b, unsigned i)
{
    return MIN(b->end, cluster_start(b, i + 1));
}

/* Whether the request has all of the cluster that lies on the disk. */
static bool is_whole(const Batch *b, unsigned i)
{
    uint64_t end = MIN(cluster_start(b, i + 1), qcow2_disk_size(b->s));

    return part_start(b, i) == cluster_start(b, i) && part_end(b, i) >= end;
}

/*
 * How many clusters are compressed, from the first one on: not those that the request has only a
 * part of and that can be written in place.
 */
static unsigned choose_clusters(const Batch *b)
{
    for (unsigned i = 0; i < b->n; i++) {
        const Qcow2Cluster *old = &b->old[i];

        if (!is_whole(b, i) && old->copied && !old->compressed && old->data) {
            return i;
        }
    }
    return b->n;
}

/* Put together what the cluster is to have. */
static int co_fn co_merge(Batch *b, unsigned i)
{
    Piece *p = &b->pieces[i];
    uint64_t from = part_start(b, i), to = part_end(b, i);
    uint64_t before = from - cluster_start(b, i), after = cluster_start(b, i + 1) - to;
    g_auto(IovPart) part = IOV_PART_EMPTY;
    int r;

    iov_part_init(&part, b->iov, b->skip + (from - b->start), to - from);
    if (before == 0 && after == 0 && part.iov.n == 1) {
        p->in = part.iov.iov[0].iov_base;
        return 0;
    }
    p->in = p->merged = g_try_malloc(cluster_size(b));
    if (!p->merged) {
        return -ENOMEM;
    }
    r = qcow2_co_read_old(b->node, cluster_start(b, i), before, p->merged);
    if (r == 0) {
        iov_to_buffer(&part.iov, 0, p->merged + before, to - from);
        r = qcow2_co_read_old(b->node, to, after, p->merged + before + (to - from));
    }
    return r;
}

static int compress_worker(void *opaque)
{
    Piece *p = opaque;
    size_t size = cluster_size(p->batch);

    p->length =
        qcow2_compress(p->batch->s->image->header->compression, p->out, size - 1, p->in, size);
    return 0;
}

static void co_fn piece_co_compress(Piece *p)
{
    p->out = g_try_malloc(cluster_size(p->batch));
    if (p->out) {
        aio_co_run_worker(compress_worker, p);
    }
}

static int co_fn piece_co_run(Qcow2Part *part)
{
    piece_co_compress((Piece *)part);
    return 0;
}

/* All pieces side by side. */
static void co_fn co_compress(Batch *b)
{
    Qcow2Parts parts = {.running = 0};

    for (unsigned i = 1; i < b->n; i++) {
        b->pieces[i].part.run = piece_co_run;
        qcow2_parts_co_start(&parts, &b->pieces[i].part);
    }
    piece_co_compress(&b->pieces[0]);
    qcow2_parts_co_end(&parts);
}

static void co_fn co_give_back(Batch *b, const Qcow2Cluster *c)
{
    qcow2_refcounts_co_release(&b->s->metadata.refcounts, c->host, c->compressed_length, false);
}

/* Find a place for each piece that has become shorter, and make its entry. */
static int co_fn co_place(Batch *b)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < b->n; i++) {
        Piece *p = &b->pieces[i];
        uint64_t host;

        if (p->length == 0) {
            continue;
        }
        r = qcow2_refcounts_co_take_bytes(&b->s->metadata.refcounts, p->length, &host);
        if (r < 0) {
            break;
        }
        p->placed = qcow2_compressed_init(&b->s->image->layout, host, p->length, &b->new[i]);
        if (!p->placed) {
            co_give_back(b, &b->new[i]);
        }
    }
    return r;
}

/* Write the pieces' data, as much at once as lies together. */
static int co_fn co_write_pieces(Batch *b)
{
    struct iovec array[MAX_BATCH];
    IoVector iov = {.iov = array};
    uint64_t host = 0;
    int r = 0;

    for (unsigned i = 0; r == 0 && i < b->n; i++) {
        const Piece *p = &b->pieces[i];

        if (!p->placed) {
            continue;
        }
        if (iov.n > 0 && b->new[i].host != host + iov.bytes) {
            r = block_child_co_pwritev(b->s->file, host, &iov, 0);
            iov.n = iov.bytes = 0;
        }
        host = iov.n > 0 ? host : b->new[i].host;
        array[iov.n++] = (struct iovec){p->out, p->length};
        iov.bytes += p->length;
    }
    return r == 0 && iov.n > 0 ? block_child_co_pwritev(b->s->file, host, &iov, 0) : r;
}

/* Let the entries name the pieces that have a place; the others stay as they are. */
static int co_fn co_set_entries(Batch *b)
{
    bool any = false;
    int r;

    for (unsigned i = 0; i < b->n; i++) {
        any |= b->pieces[i].placed;
        if (!b->pieces[i].placed) {
            b->new[i] = b->old[i];
        }
    }
    if (!any) {
        return 0;
    }
    r = qcow2_co_set_entries(b->node, b->claim.first, b->n, b->new);
    for (unsigned i = 0; r == 0 && i < b->n; i++) {
        if (b->pieces[i].placed) {
            qcow2_free_cluster_later(b->s, &b->old[i], b->s->discard_other);
        }
    }
    return r;
}

/* With the clusters claimed; b->n is how many were dealt with. */
static int co_fn co_write_claimed(Batch *b)
{
    int r = qcow2_co_decode(b->node, b->claim.first, b->n, b->old);

    if (r < 0) {
        return r;
    }
    b->n = choose_clusters(b);
    for (unsigned i = 0; r == 0 && i < b->n; i++) {
        b->pieces[i].batch = b;
        r = co_merge(b, i);
    }
    if (r < 0 || b->n == 0) {
        return r;
    }
    co_compress(b);
    r = co_place(b);
    if (r == 0) {
        r = co_write_pieces(b);
    }
    if (r == 0) {
        r = co_set_entries(b);
    }
    for (unsigned i = 0; r < 0 && i < b->n; i++) {
        if (b->pieces[i].placed) {
            co_give_back(b, &b->new[i]);
        }
    }
    return r;
}

/* Write clusters @from to @to - 1 of the batch as they are. */
static int co_fn co_write_plain(const Batch *b, unsigned from, unsigned to)
{
    uint64_t start = part_start(b, from);

    return qcow2_co_write_plain(b->node, start, b->iov, b->skip + (start - b->start),
                                part_end(b, to - 1) - start);
}

/* What could not be compressed. */
static int co_fn co_write_rest(const Batch *b)
{
    unsigned from = 0;
    int r = 0;

    for (unsigned i = 0; r == 0 && i <= b->n; i++) {
        if (i < b->n && !b->pieces[i].placed) {
            continue;
        }
        r = from < i ? co_write_plain(b, from, i) : 0;
        from = i + 1;
    }
    return r;
}

static void batch_free(Batch *b)
{
    for (unsigned i = 0; i < MAX_BATCH; i++) {
        g_free(b->pieces[i].merged);
        g_free(b->pieces[i].out);
    }
    g_free(b);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Batch, batch_free)

/* The batch that begins at @offset, with its clusters claimed; NULL: it had to wait, look again. */
static Batch *co_fn batch_co_new(BlockNode *node, uint64_t offset, const IoVector *iov, size_t skip)
{
    Qcow2State *s = block_node_state(node);
    unsigned bits = s->image->layout.cluster_bits;
    uint64_t end = offset + (iov->bytes - skip);
    uint64_t first = offset >> bits;
    uint64_t most = CLAMP(MAX_BATCH_BYTES >> bits, 1, MAX_BATCH);
    uint64_t last = MIN(((end - 1) >> bits) + 1, MIN(qcow2_slice_end(s, first), first + most));
    g_autoptr(Batch) b = g_new0(Batch, 1);

    if (!qcow2_claim_co_begin(s, &b->claim, first, last)) {
        return NULL;
    }
    b->node = node;
    b->s = s;
    b->iov = iov;
    b->skip = skip;
    b->start = offset;
    b->n = b->claim.end - first;
    b->end = MIN(end, b->claim.end << bits);
    return g_steal_pointer(&b);
}

int co_fn qcow2_co_write_compressed(BlockNode *node, uint64_t offset, const IoVector *iov,
                                    size_t skip, uint64_t *done)
{
    Qcow2State *s = block_node_state(node);
    g_autoptr(Batch) b = batch_co_new(node, offset, iov, skip);
    int r;

    *done = 0;
    if (!b) {
        return 0;
    }
    r = co_write_claimed(b);
    qcow2_claim_end(s, &b->claim);
    if (r < 0) {
        return r;
    }
    if (b->n == 0) { /* the first one keeps its place */
        r = co_write_plain(b, 0, 1);
        *done = part_end(b, 0) - b->start;
    } else {
        r = co_write_rest(b);
        *done = part_end(b, b->n - 1) - b->start;
    }
    return r;
}
