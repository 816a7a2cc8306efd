/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads. One that lies in a single extent, as most do, goes on to the child with the vector it came
 * with. Of several extents each is a request of its own, and they run side by side in the thread of
 * the whole.
 */
#include "block/drivers/qcow2/state.h"

#include <errno.h>

/* So many parts of a request may be under way at a time. */
#define MAX_PARTS 16

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

/* A request in parts. Belongs to one thread, as its parts do. */
typedef struct Whole {
    BlockNode *node;
    const IoVector *iov;
    uint64_t offset;
    unsigned parts;    /* under way */
    int result;        /* of the first part that failed */
    Coroutine *waiter; /* for a part to end */
} Whole;

typedef struct Part {
    Whole *whole;
    Qcow2Extent extent;
    size_t skip;
} Part;

static int co_fn co_read_part(Whole *w, const Qcow2Extent *extent, size_t skip)
{
    g_auto(IovPart) part = IOV_PART_EMPTY;

    iov_part_init(&part, w->iov, skip, extent->bytes);
    return co_read_extent(w->node, extent, w->offset + skip, &part.iov);
}

static void note_result(Whole *w, int r)
{
    if (r < 0 && w->result == 0) {
        w->result = r;
    }
}

static void co_fn part_co_entry(void *opaque)
{
    Part *p = opaque;
    Whole *w = p->whole;
    Coroutine *waiter;

    note_result(w, co_read_part(w, &p->extent, p->skip));
    g_free(p);
    w->parts--;
    waiter = g_steal_pointer(&w->waiter);
    if (waiter) {
        aio_co_wake(waiter);
    }
}

/* Wait until fewer than @n parts are under way. */
static void co_fn whole_co_wait(Whole *w, unsigned n)
{
    while (w->parts >= n) {
        w->waiter = coroutine_self();
        coroutine_yield();
    }
}

static void co_fn whole_co_start_part(Whole *w, const Qcow2Extent *extent, size_t skip)
{
    Part *p = g_new(Part, 1);

    whole_co_wait(w, MAX_PARTS);
    *p = (Part){.whole = w, .extent = *extent, .skip = skip};
    w->parts++;
    aio_co_enter(aio_context_current(), part_co_entry, p);
}

/* The request from its second extent on; @extent is the first. */
static int co_fn co_read_parts(Whole *w, Qcow2Extent *extent)
{
    const Qcow2State *s = block_node_state(w->node);
    size_t skip = 0;

    while (w->result == 0) {
        bool last = skip + extent->bytes == w->iov->bytes;

        if (last || !takes_time(s, extent)) {
            note_result(w, co_read_part(w, extent, skip));
        } else {
            whole_co_start_part(w, extent, skip);
        }
        skip += extent->bytes;
        if (last) {
            break;
        }
        note_result(w, qcow2_co_map(w->node, w->offset + skip, w->iov->bytes - skip, extent));
    }
    whole_co_wait(w, 1);
    return w->result;
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
