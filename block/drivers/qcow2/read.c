/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads. One that lies in a single extent, as most do, goes on to the child with the vector it came
 * with. Of several extents each is a request of its own, and they run side by side in the thread of
 * the whole.
 */
#include "block/drivers/qcow2/parts.h"
#include "block/drivers/qcow2/state.h"

#include <errno.h>

/* One extent */

static int co_fn co_read_extent(BlockNode *node, const Qcow2Extent *extent, uint64_t offset,
                                const IoVector *iov)
{
    const Qcow2State *s = block_node_state(node);

    switch (extent->kind) {
    case QCOW2_EXTENT_DATA:
        return block_child_co_preadv(s->data, extent->host, iov, 0);
    case QCOW2_EXTENT_COMPRESSED:
        return qcow2_co_read_compressed(node, extent, offset, iov);
    case QCOW2_EXTENT_UNALLOCATED:
        if (s->backing) {
            return block_child_co_preadv(s->backing, offset, iov, 0);
        }
        break;
    case QCOW2_EXTENT_ZERO:
        break;
    case QCOW2_EXTENT_FAULTY: /* the map has refused it */
        return -EIO;
    }
    iov_fill(iov, 0, 0, iov->bytes);
    return 0;
}

/* Whether reading the extent has to wait for something. */
static bool takes_time(const Qcow2State *s, const Qcow2Extent *extent)
{
    return extent->kind != QCOW2_EXTENT_ZERO &&
           !(extent->kind == QCOW2_EXTENT_UNALLOCATED && !s->backing);
}

/* Several extents */

/* A request in parts. */
typedef struct Whole {
    BlockNode *node;
    const IoVector *iov;
    uint64_t offset;
    Qcow2Parts parts;
} Whole;

typedef struct ReadPart {
    Qcow2Part part;
    Whole *whole;
    Qcow2Extent extent;
    size_t skip;
} ReadPart;

static int co_fn co_read_part(Whole *w, const Qcow2Extent *extent, size_t skip)
{
    g_auto(IovPart) part = IOV_PART_EMPTY;

    iov_part_init(&part, w->iov, skip, extent->bytes);
    return co_read_extent(w->node, extent, w->offset + skip, &part.iov);
}

static int co_fn part_co_run(Qcow2Part *part)
{
    g_autofree ReadPart *p = (ReadPart *)part;

    return co_read_part(p->whole, &p->extent, p->skip);
}

static void co_fn whole_co_start_part(Whole *w, const Qcow2Extent *extent, size_t skip)
{
    ReadPart *p = g_new(ReadPart, 1);

    *p = (ReadPart){.part.run = part_co_run, .whole = w, .extent = *extent, .skip = skip};
    qcow2_parts_co_start(&w->parts, &p->part);
}

/* The request from its second extent on; @extent is the first. */
static int co_fn co_read_parts(Whole *w, Qcow2Extent *extent)
{
    const Qcow2State *s = block_node_state(w->node);
    size_t skip = 0;

    while (w->parts.result == 0) {
        bool last = skip + extent->bytes == w->iov->bytes;

        if (last || !takes_time(s, extent)) {
            qcow2_parts_note(&w->parts, co_read_part(w, extent, skip));
        } else {
            whole_co_start_part(w, extent, skip);
        }
        skip += extent->bytes;
        if (last) {
            break;
        }
        qcow2_parts_note(&w->parts,
                         qcow2_co_map(w->node, w->offset + skip, w->iov->bytes - skip, extent));
    }
    return qcow2_parts_co_end(&w->parts);
}

static int co_fn co_read(BlockNode *node, uint64_t offset, const IoVector *iov)
{
    Whole w = {.node = node, .iov = iov, .offset = offset};
    Qcow2Extent extent;
    int r = qcow2_co_map(node, offset, iov->bytes, &extent);

    if (r < 0) {
        return r;
    }
    if (G_LIKELY(extent.bytes == iov->bytes)) {
        return co_read_extent(node, &extent, offset, iov);
    }
    return co_read_parts(&w, &extent);
}

int co_fn qcow2_co_preadv(BlockNode *node, uint64_t offset, const IoVector *iov,
                          BlockRequestFlags flags)
{
    Qcow2State *s = block_node_state(node);
    unsigned epoch;
    int r;

    if (!s->writable) {
        return co_read(node, offset, iov);
    }
    epoch = qcow2_use_begin(s);
    r = co_read(node, offset, iov);
    qcow2_use_end(s, epoch);
    return r;
}
