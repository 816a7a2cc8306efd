/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The request path: what every request to a node needs once, between those who ask and the driver.
 *
 * A request that fits the node's limits goes straight to the driver: no lock, no allocation, no
 * copy. One that is too long is split. One that is not aligned, or whose buffers are not, goes
 * through a bounce buffer in pieces of at most BLOCK_BOUNCE_MAX; if it writes, the blocks that it
 * covers in part are read first, and no other write may touch these meanwhile.
 */
#include "block/serialise-internal.h"

#include <stdlib.h>
#include <string.h>

#define ZERO_BUFFER_SIZE (64 * 1024)
#define ZERO_VECTOR_MAX  16

/* What fallbacks write. As a vector names it many times over, it need not be large. */
static const char zero_buffer[ZERO_BUFFER_SIZE] __attribute__((aligned(4096)));

static uint64_t round_down(uint64_t n, uint64_t alignment)
{
    return n & ~(alignment - 1);
}

static uint64_t round_up(uint64_t n, uint64_t alignment)
{
    return round_down(n + alignment - 1, alignment);
}

/* Into the driver, or through a filter that has nothing to do with the request */

static void co_fn serial_co_lock(BlockNode *node)
{
    if (G_UNLIKELY(node->drv->concurrency == BLOCK_SERIAL)) {
        co_mutex_lock(&node->serial);
    }
}

static void serial_unlock(BlockNode *node)
{
    if (G_UNLIKELY(node->drv->concurrency == BLOCK_SERIAL)) {
        co_mutex_unlock(&node->serial);
    }
}

/* Whether requests that the driver has no callback for go to the first child. */
static bool passes_through(const BlockNode *node)
{
    return node->drv->is_filter && node->first_child;
}

static int co_fn driver_co_preadv(BlockNode *node, uint64_t offset, const IoVector *iov)
{
    int r;

    if (!node->drv->co_preadv) {
        return passes_through(node) ? block_child_co_preadv(node->first_child, offset, iov, 0)
                                    : -ENOTSUP;
    }
    serial_co_lock(node);
    r = node->drv->co_preadv(node, offset, iov, 0);
    serial_unlock(node);
    return r;
}

static int co_fn driver_co_pwritev(BlockNode *node, uint64_t offset, const IoVector *iov,
                                   BlockRequestFlags flags)
{
    int r;

    flags &= block_node_write_flags(node);
    if (!node->drv->co_pwritev) {
        return passes_through(node) ? block_child_co_pwritev(node->first_child, offset, iov, flags)
                                    : -ENOTSUP;
    }
    serial_co_lock(node);
    r = node->drv->co_pwritev(node, offset, iov, flags);
    serial_unlock(node);
    return r;
}

static int co_fn driver_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                         BlockRequestFlags flags)
{
    int r;

    flags &= block_node_zero_flags(node);
    if (!node->drv->co_pwrite_zeroes) {
        return passes_through(node)
                   ? block_child_co_pwrite_zeroes(node->first_child, offset, bytes, flags)
                   : -ENOTSUP;
    }
    serial_co_lock(node);
    r = node->drv->co_pwrite_zeroes(node, offset, bytes, flags);
    serial_unlock(node);
    return r;
}

static int co_fn driver_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    int r;

    if (!node->drv->co_pdiscard) {
        return passes_through(node) ? block_child_co_pdiscard(node->first_child, offset, bytes) : 0;
    }
    serial_co_lock(node);
    r = node->drv->co_pdiscard(node, offset, bytes);
    serial_unlock(node);
    return r;
}

static int co_fn driver_co_allocate(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    int r;

    if (!node->drv->co_allocate) {
        return passes_through(node) ? block_child_co_allocate(node->first_child, offset, bytes) : 0;
    }
    serial_co_lock(node);
    r = node->drv->co_allocate(node, offset, bytes);
    serial_unlock(node);
    return r;
}

static int co_fn driver_co_flush(BlockNode *node)
{
    int r;

    serial_co_lock(node);
    r = node->drv->co_flush(node);
    serial_unlock(node);
    return r;
}

/* Durability */

static void set_dirty(BlockNode *node)
{
    /* Mostly it is set already, and then the cache line stays shared. */
    if (!__atomic_load_n(&node->dirty, __ATOMIC_SEQ_CST)) {
        __atomic_store_n(&node->dirty, true, __ATOMIC_SEQ_CST);
    }
}

/* Without a flush of its own a node has nothing to make durable; its children decide for
 * themselves. */
static bool ignores_flush(const BlockNode *node)
{
    return node->flags.cache_no_flush && node->drv->co_flush;
}

/* The flags as the rest of the path should see them. */
static BlockRequestFlags effective_flags(const BlockNode *node, BlockRequestFlags flags)
{
    if (G_UNLIKELY(flags & BLOCK_REQ_FUA) && ignores_flush(node)) {
        flags &= ~BLOCK_REQ_FUA;
    }
    if (!node->flags.discard_unmap) {
        flags &= ~BLOCK_REQ_MAY_UNMAP;
    }
    return flags;
}

/*
 * After a write with @result: what is left to do for its @flags, of which the driver did @handled.
 */
static int co_fn write_co_finish(BlockNode *node, int result, BlockRequestFlags flags,
                                 BlockRequestFlags handled)
{
    bool durable = result == 0 && (flags & handled & BLOCK_REQ_FUA);

    if (!durable) {
        set_dirty(node);
    }
    if (G_UNLIKELY(result == 0 && (flags & ~handled & BLOCK_REQ_FUA))) {
        return block_node_co_flush(node);
    }
    return result;
}

static bool child_counts(const BlockChild *child)
{
    return __atomic_load_n(&child->trouble.counts, __ATOMIC_ACQUIRE);
}

/* Those that could be written through @node; what others write is theirs to flush. */
static int co_fn flush_co_children(BlockNode *node)
{
    int result = 0;

    for (unsigned i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);
        int r = child_counts(child) ? block_child_co_flush(child) : 0;

        if (result == 0) {
            result = r;
        }
    }
    return result;
}

/*
 * Flush the driver, if something was written since the last flush began. One flush at a time: who
 * comes while one runs cannot know whether it covers his writes, so he looks again when it has
 * ended. If it has failed, he fails, too: it may have lost his writes, and a driver may tell of
 * that only once.
 */
static int co_fn flush_co_own(BlockNode *node)
{
    unsigned failures;
    int r;

    g_mutex_lock(&node->flush_lock);
    failures = node->flush_failures;
    while (node->flushing) {
        co_queue_wait(&node->flush_wait, &node->flush_lock);
    }
    if (node->flush_failures != failures) {
        r = node->flush_error;
        g_mutex_unlock(&node->flush_lock);
        return r;
    }
    if (!__atomic_exchange_n(&node->dirty, false, __ATOMIC_SEQ_CST) &&
        !__atomic_load_n(&node->direct_writer, __ATOMIC_SEQ_CST)) {
        g_mutex_unlock(&node->flush_lock);
        return 0;
    }
    node->flushing = true;
    g_mutex_unlock(&node->flush_lock);

    r = driver_co_flush(node);

    g_mutex_lock(&node->flush_lock);
    if (r < 0) {
        set_dirty(node);
        node->flush_failures++;
        node->flush_error = r;
    }
    node->flushing = false;
    co_queue_wake_all(&node->flush_wait);
    g_mutex_unlock(&node->flush_lock);
    return r;
}

/* Reports of several threads may come here in any order: the latest stays. */
static void set_latest(uint64_t *latest, uint64_t number)
{
    uint64_t old = __atomic_load_n(latest, __ATOMIC_SEQ_CST);

    while (old < number && !__atomic_compare_exchange_n(latest, &old, number, false,
                                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
}

static uint64_t next_trouble(BlockNode *node)
{
    return __atomic_add_fetch(&node->graph->troubles, 1, __ATOMIC_SEQ_CST);
}

void block_node_report_flush_error(BlockNode *node)
{
    set_latest(&node->trouble.report, next_trouble(node));
}

void block_node_report_loss(BlockNode *node)
{
    uint64_t number = next_trouble(node);

    set_latest(&node->trouble.loss, number);
    set_latest(&node->trouble.report, number);
}

static void add_trouble(BlockTrouble *sum, BlockTrouble other)
{
    sum->report = MAX(sum->report, other.report);
    sum->loss = MAX(sum->loss, other.loss);
}

/* What is below @child, as far as it is one of the parent's. */
static BlockTrouble child_trouble(const BlockChild *child)
{
    BlockTrouble sum = {0}, below;

    if (!child_counts(child)) {
        return sum;
    }
    sum = child->trouble.before;
    below = block_node_trouble(child->node);
    add_trouble(&sum, (BlockTrouble){
                          .report = below.report > child->trouble.from ? below.report : 0,
                          .loss = below.loss > child->trouble.from ? below.loss : 0,
                      });
    return sum;
}

BlockTrouble block_node_trouble(const BlockNode *node)
{
    BlockTrouble sum = {.report = __atomic_load_n(&node->trouble.report, __ATOMIC_SEQ_CST),
                        .loss = __atomic_load_n(&node->trouble.loss, __ATOMIC_SEQ_CST)};

    for (unsigned i = 0; i < node->children->len; i++) {
        add_trouble(&sum, child_trouble(g_ptr_array_index(node->children, i)));
    }
    return sum;
}

void block_child_begin_to_count(BlockChild *child)
{
    if (!child_counts(child)) {
        child->trouble.from = block_graph_troubles(child->node->graph);
        __atomic_store_n(&child->trouble.counts, true, __ATOMIC_RELEASE);
    }
}

BlockEdgeTrouble block_child_trouble_kept(const BlockChild *child)
{
    return (BlockEdgeTrouble){.counts = child_counts(child),
                              .from = block_graph_troubles(child->node->graph),
                              .before = child_trouble(child)};
}

uint64_t block_child_losses(const BlockChild *child)
{
    return child_trouble(child).loss;
}

void block_node_set_dirty_below(BlockNode *node)
{
    set_dirty(node);
    for (unsigned i = 0; i < node->children->len; i++) {
        BlockChild *child = g_ptr_array_index(node->children, i);

        block_node_set_dirty_below(child->node);
    }
}

int co_fn block_node_co_flush(BlockNode *node)
{
    int r = 0;

    if (node->drv->co_flush && !node->flags.cache_no_flush) {
        r = flush_co_own(node);
    }
    return r < 0 ? r : flush_co_children(node);
}

/* Does a request fit? */

static bool range_is_aligned(const BlockLimits *bl, uint64_t offset, uint64_t bytes)
{
    return ((offset | bytes) & (bl->request_alignment - 1)) == 0;
}

static bool memory_is_aligned(const BlockLimits *bl, const IoVector *iov)
{
    if (G_LIKELY(bl->min_mem_alignment <= 1)) {
        return true;
    }
    for (unsigned i = 0; i < iov->n; i++) {
        if (((uintptr_t)iov->iov[i].iov_base & (bl->min_mem_alignment - 1)) ||
            (iov->iov[i].iov_len & (bl->request_alignment - 1))) {
            return false;
        }
    }
    return true;
}

static bool length_fits(const BlockLimits *bl, const IoVector *iov)
{
    return (bl->max_transfer == 0 || iov->bytes <= bl->max_transfer) && iov->n <= bl->max_iov;
}

static bool request_fits(const BlockLimits *bl, uint64_t offset, const IoVector *iov)
{
    return range_is_aligned(bl, offset, iov->bytes) && length_fits(bl, iov) &&
           memory_is_aligned(bl, iov);
}

/* Pieces of requests that do not fit */

/* Drops elements at the end until at most @max_iov are left, and the length is aligned. */
static void iov_part_limit(IovPart *part, const BlockLimits *bl)
{
    size_t bytes = 0;
    unsigned n = 0;

    if (part->iov.n <= bl->max_iov) {
        return;
    }
    for (unsigned i = 0; i < bl->max_iov; i++) {
        bytes += part->array[i].iov_len;
    }
    part->iov.bytes = round_down(bytes, bl->request_alignment);
    for (bytes = part->iov.bytes; bytes > 0; n++) {
        part->array[n].iov_len = MIN(part->array[n].iov_len, bytes);
        bytes -= part->array[n].iov_len;
    }
    part->iov.n = n;
}

/* A buffer that covers a part of a request and is aligned in every respect. */
typedef struct Bounce {
    char *buffer;
    uint64_t start, end; /* what it covers of the node */
    uint64_t offset;     /* what of that the request covers */
    size_t bytes;
} Bounce;

static bool bounce_init(Bounce *b, const BlockLimits *bl, uint64_t offset, size_t bytes)
{
    uint64_t window = MIN(bl->max_transfer ? bl->max_transfer : BLOCK_BOUNCE_MAX, BLOCK_BOUNCE_MAX);
    size_t alignment = MAX(MAX(bl->opt_mem_alignment, bl->min_mem_alignment), sizeof(void *));

    window = MAX(round_down(window, bl->request_alignment), bl->request_alignment);
    b->start = round_down(offset, bl->request_alignment);
    b->end = MIN(round_up(offset + bytes, bl->request_alignment), b->start + window);
    b->offset = offset;
    b->bytes = MIN(offset + bytes, b->end) - offset;
    if (posix_memalign((void **)&b->buffer, alignment, b->end - b->start) != 0) {
        b->buffer = NULL;
        return false;
    }
    return true;
}

static void bounce_clear(Bounce *b)
{
    free(b->buffer);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Bounce, bounce_clear)

/* Reads */

static int co_fn read_co_bounced(BlockNode *node, uint64_t offset, const IoVector *iov, size_t skip,
                                 size_t *done)
{
    g_auto(Bounce) b = {NULL};
    int r;

    if (!bounce_init(&b, &node->limits, offset + skip, iov->bytes - skip)) {
        return -ENOMEM;
    }
    r = driver_co_preadv(node, b.start, IOV_LOCAL(b.buffer, b.end - b.start));
    if (r == 0) {
        iov_from_buffer(iov, skip, b.buffer + (b.offset - b.start), b.bytes);
        *done = b.bytes;
    }
    return r;
}

/* The next piece that fits: at most the limits' worth of @iov from @skip on; empty if none does. */
static void next_part(IovPart *part, const BlockLimits *bl, const IoVector *iov, size_t skip)
{
    size_t bytes = iov->bytes - skip;

    if (bl->max_transfer) {
        bytes = MIN(bytes, bl->max_transfer);
    }
    iov_part_init(part, iov, skip, bytes);
    iov_part_limit(part, bl);
}

static int co_fn read_co_piece(BlockNode *node, uint64_t offset, const IoVector *iov, size_t skip,
                               bool direct, size_t *done)
{
    g_auto(IovPart) part = IOV_PART_EMPTY;

    if (direct) {
        next_part(&part, &node->limits, iov, skip);
    }
    if (part.iov.bytes == 0) {
        return read_co_bounced(node, offset, iov, skip, done);
    }
    *done = part.iov.bytes;
    return driver_co_preadv(node, offset + skip, &part.iov);
}

static bool can_go_direct(const BlockLimits *bl, uint64_t offset, const IoVector *iov)
{
    return range_is_aligned(bl, offset, iov->bytes) && memory_is_aligned(bl, iov);
}

static int co_fn read_co_pieces(BlockNode *node, uint64_t offset, const IoVector *iov)
{
    bool direct = can_go_direct(&node->limits, offset, iov);
    size_t done = 0;

    for (size_t skip = 0; skip < iov->bytes; skip += done) {
        int r = read_co_piece(node, offset, iov, skip, direct, &done);

        if (r < 0) {
            return r;
        }
    }
    return 0;
}

int co_fn block_node_co_preadv(BlockNode *node, uint64_t offset, const IoVector *iov,
                               BlockRequestFlags flags)
{
    if (G_LIKELY(request_fits(&node->limits, offset, iov))) {
        return G_LIKELY(iov->bytes > 0) ? driver_co_preadv(node, offset, iov) : 0;
    }
    return read_co_pieces(node, offset, iov);
}

int co_fn block_node_co_splice(BlockNode *node, uint64_t offset, size_t bytes, int pipe)
{
    if (node->drv->co_splice) {
        return node->drv->co_splice(node, offset, bytes, pipe);
    }
    return !node->drv->co_preadv && passes_through(node)
               ? block_child_co_splice(node->first_child, offset, bytes, pipe)
               : -ENOTSUP;
}

/* Writes */

/* Read one block for read-modify-write; past the end there are zeros. */
static int co_fn rmw_co_read_block(BlockNode *node, const Bounce *b, uint64_t block)
{
    uint32_t size = node->limits.request_alignment;
    char *to = b->buffer + (block - b->start);

    if (block >= (uint64_t)block_node_length(node)) {
        memset(to, 0, size);
        return 0;
    }
    return driver_co_preadv(node, block, IOV_LOCAL(to, size));
}

/* Read those of the first and the last block that the request covers only in part. */
static int co_fn rmw_co_read(BlockNode *node, const Bounce *b)
{
    uint64_t last = b->end - node->limits.request_alignment;
    bool head = b->offset > b->start;
    bool tail = b->offset + b->bytes < b->end;
    int r = 0;

    if (head || (tail && last == b->start)) {
        r = rmw_co_read_block(node, b, b->start);
    }
    if (r == 0 && tail && last > b->start) {
        r = rmw_co_read_block(node, b, last);
    }
    return r;
}

static int co_fn write_co_bounced(BlockNode *node, uint64_t offset, const IoVector *iov,
                                  size_t skip, BlockRequestFlags flags, size_t *done)
{
    g_auto(Bounce) b = {NULL};
    int r;

    if (!bounce_init(&b, &node->limits, offset + skip, iov->bytes - skip)) {
        return -ENOMEM;
    }
    r = rmw_co_read(node, &b);
    if (r < 0) {
        return r;
    }
    iov_to_buffer(iov, skip, b.buffer + (b.offset - b.start), b.bytes);
    *done = b.bytes;
    return driver_co_pwritev(node, b.start, IOV_LOCAL(b.buffer, b.end - b.start), flags);
}

static int co_fn write_co_piece(BlockNode *node, uint64_t offset, const IoVector *iov, size_t skip,
                                bool direct, BlockRequestFlags flags, size_t *done)
{
    g_auto(IovPart) part = IOV_PART_EMPTY;

    if (direct) {
        next_part(&part, &node->limits, iov, skip);
    }
    if (part.iov.bytes == 0) {
        return write_co_bounced(node, offset, iov, skip, flags, done);
    }
    *done = part.iov.bytes;
    return driver_co_pwritev(node, offset + skip, &part.iov, flags);
}

static int co_fn write_co_pieces(BlockNode *node, uint64_t offset, const IoVector *iov,
                                 BlockRequestFlags flags)
{
    bool direct = can_go_direct(&node->limits, offset, iov);
    size_t done = 0;

    for (size_t skip = 0; skip < iov->bytes; skip += done) {
        int r = write_co_piece(node, offset, iov, skip, direct, flags, &done);

        if (r < 0) {
            return r;
        }
    }
    return 0;
}

/*
 * Whether the range still lies in the node. The node may have been made shorter while the request
 * waited for its turn; what were written behind its end would come to light when it grows again.
 */
static bool is_inside(const BlockNode *node, uint64_t offset, uint64_t bytes)
{
    return offset + bytes <= (uint64_t)block_node_length(node);
}

/* The driver's part of a write, in pieces if need be; the caller has seen to the order. */
static int co_fn write_co_untracked(BlockNode *node, uint64_t offset, const IoVector *iov,
                                    BlockRequestFlags flags)
{
    if (G_LIKELY(request_fits(&node->limits, offset, iov))) {
        return driver_co_pwritev(node, offset, iov, flags);
    }
    return write_co_pieces(node, offset, iov, flags);
}

/* What is to be written: memory, or what is in a pipe. */
typedef struct WriteData {
    const IoVector *iov; /* NULL: @pipe, and a driver that can */
    size_t bytes;
    int pipe;
} WriteData;

static int co_fn write_co_inside(BlockNode *node, uint64_t offset, const WriteData *data,
                                 BlockRequestFlags flags)
{
    if (G_UNLIKELY(!is_inside(node, offset, data->bytes))) {
        return -EIO;
    }
    return data->iov ? write_co_untracked(node, offset, data->iov, flags)
                     : node->drv->co_splice_write(node, offset, data->bytes, data->pipe);
}

static int co_fn write_co_data(BlockNode *node, uint64_t offset, const WriteData *data,
                               BlockRequestFlags flags)
{
    uint64_t alignment = node->limits.request_alignment;
    bool alone =
        (flags & BLOCK_REQ_SERIALISING) || !range_is_aligned(&node->limits, offset, data->bytes);
    BlockTracked t;
    int r;

    block_tracked_co_begin(node, &t, round_down(offset, alignment),
                           round_up(offset + data->bytes, alignment), alone);
    r = write_co_inside(node, offset, data, flags);
    r = write_co_finish(node, r, flags, block_node_write_flags(node));
    block_tracked_end(node, &t);
    if (G_LIKELY(r == 0)) {
        block_stats_wrote_up_to(&node->stats, offset + data->bytes);
    }
    return r;
}

int co_fn block_node_co_pwritev(BlockNode *node, uint64_t offset, const IoVector *iov,
                                BlockRequestFlags flags)
{
    BlockdevDetectZeroesOptions detect = node->flags.detect_zeroes;

    if (G_UNLIKELY(iov->bytes == 0)) {
        return 0;
    }
    if (G_UNLIKELY(detect != BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF) && iov_is_zero(iov)) {
        if (detect == BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP) {
            flags |= BLOCK_REQ_MAY_UNMAP;
        }
        return block_node_co_pwrite_zeroes(node, offset, iov->bytes, flags);
    }
    return write_co_data(node, offset, &(WriteData){.iov = iov, .bytes = iov->bytes},
                         effective_flags(node, flags));
}

int co_fn block_node_co_splice_write(BlockNode *node, uint64_t offset, size_t bytes, int pipe)
{
    if (!node->drv->co_splice_write || node->limits.request_alignment > 1 ||
        node->flags.detect_zeroes != BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF) {
        return -ENOTSUP;
    }
    return write_co_data(node, offset, &(WriteData){.bytes = bytes, .pipe = pipe}, 0);
}

/* Zeros */

/* A vector over up to @bytes zero bytes, which lives as long as @array. */
static IoVector zero_vector(struct iovec array[ZERO_VECTOR_MAX], const BlockLimits *bl,
                            uint64_t bytes)
{
    unsigned max = MIN(ZERO_VECTOR_MAX, bl->max_iov);
    IoVector iov = {.iov = array};

    while (iov.bytes < bytes && iov.n < max) {
        size_t piece = MIN(bytes - iov.bytes, ZERO_BUFFER_SIZE);

        array[iov.n++] = (struct iovec){(void *)zero_buffer, piece};
        iov.bytes += piece;
    }
    return iov;
}

/* Write zero bytes where the driver has nothing better; any alignment. */
static int co_fn zero_co_write_bytes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                     BlockRequestFlags flags)
{
    struct iovec array[ZERO_VECTOR_MAX];

    while (bytes > 0) {
        IoVector iov = zero_vector(array, &node->limits, bytes);
        int r = write_co_untracked(node, offset, &iov, flags);

        if (r < 0) {
            return r;
        }
        offset += iov.bytes;
        bytes -= iov.bytes;
    }
    return 0;
}

/*
 * How much of the range, from its start, makes a good piece for a driver that likes @alignment and
 * can do @max at once: what is left to the next boundary first, then whole blocks, then the rest.
 */
static uint64_t piece_size(uint64_t offset, uint64_t bytes, uint64_t alignment, uint64_t max)
{
    uint64_t head = offset % alignment;

    if (head) {
        bytes = MIN(bytes, alignment - head);
    } else if (bytes > alignment) {
        bytes -= bytes % alignment;
    }
    if (max && bytes > max) {
        bytes = max >= alignment ? max - max % alignment : max;
    }
    return bytes;
}

static int co_fn zero_co_piece(BlockNode *node, uint64_t offset, uint64_t bytes,
                               BlockRequestFlags flags)
{
    int r = driver_co_pwrite_zeroes(node, offset, bytes, flags);

    if (r != -ENOTSUP || (flags & BLOCK_REQ_NO_FALLBACK)) {
        return r;
    }
    return zero_co_write_bytes(node, offset, bytes, flags);
}

/* A range that is aligned to the request alignment. */
static int co_fn zero_co_aligned(BlockNode *node, uint64_t offset, uint64_t bytes,
                                 BlockRequestFlags flags)
{
    const BlockLimits *bl = &node->limits;
    uint64_t alignment = MAX(bl->pwrite_zeroes_alignment, bl->request_alignment);
    uint64_t max = bl->max_pwrite_zeroes & ~(uint64_t)(bl->request_alignment - 1);

    while (bytes > 0) {
        uint64_t n = piece_size(offset, bytes, alignment, max);
        int r = zero_co_piece(node, offset, n, flags);

        if (r < 0) {
            return r;
        }
        offset += n;
        bytes -= n;
    }
    return 0;
}

/* A range as two partial blocks at its ends and what lies between. */
typedef struct RangeSplit {
    uint64_t head, middle, tail;
} RangeSplit;

/*
 * The last block of a node, @length bytes long, is whole even where the node ends inside of it. The
 * length holds still only for a tracked request; others give UINT64_MAX.
 */
static RangeSplit split_range(const BlockNode *node, uint64_t offset, uint64_t bytes,
                              uint64_t length)
{
    uint64_t alignment = node->limits.request_alignment;
    uint64_t end = offset + bytes;
    uint64_t from = round_up(offset, alignment);
    uint64_t to = end >= length ? round_up(end, alignment) : round_down(end, alignment);

    if (from >= to) {
        return (RangeSplit){.head = bytes};
    }
    return (RangeSplit){
        .head = from - offset,
        .middle = to - from,
        .tail = end > to ? end - to : 0,
    };
}

static int co_fn zero_co_untracked(BlockNode *node, uint64_t offset, uint64_t bytes,
                                   BlockRequestFlags flags)
{
    RangeSplit split = split_range(node, offset, bytes, block_node_length(node));
    int r = zero_co_write_bytes(node, offset, split.head, flags);

    if (r == 0) {
        r = zero_co_aligned(node, offset + split.head, split.middle, flags);
    }
    if (r == 0) {
        r = zero_co_write_bytes(node, offset + split.head + split.middle, split.tail, flags);
    }
    return r;
}

/*
 * One range with nothing else at work on it; partial blocks need that, so they come by themselves.
 */
static int co_fn zero_co_tracked(BlockNode *node, uint64_t offset, uint64_t bytes,
                                 BlockRequestFlags flags)
{
    uint64_t alignment = node->limits.request_alignment;
    bool alone = (flags & BLOCK_REQ_SERIALISING) || !range_is_aligned(&node->limits, offset, bytes);
    BlockTracked t;
    int r;

    if (bytes == 0) {
        return 0;
    }
    block_tracked_co_begin(node, &t, round_down(offset, alignment),
                           round_up(offset + bytes, alignment), alone);
    r = is_inside(node, offset, bytes) ? zero_co_untracked(node, offset, bytes, flags) : -EIO;
    block_tracked_end(node, &t);
    return r;
}

/* Whether the request may only be done if it is cheap, and is not. */
static bool refuses_fallback(const BlockNode *node, uint64_t offset, uint64_t bytes,
                             BlockRequestFlags flags)
{
    RangeSplit split = split_range(node, offset, bytes, block_node_length(node));

    return (flags & BLOCK_REQ_NO_FALLBACK) &&
           (split.head || split.tail || !(block_node_zero_flags(node) & BLOCK_REQ_NO_FALLBACK));
}

static int co_fn zero_co_range(BlockNode *node, uint64_t offset, uint64_t bytes,
                               BlockRequestFlags flags)
{
    RangeSplit split = split_range(node, offset, bytes, UINT64_MAX);
    int r = zero_co_tracked(node, offset, split.head, flags);

    if (r == 0) {
        r = zero_co_tracked(node, offset + split.head, split.middle, flags);
    }
    if (r == 0) {
        r = zero_co_tracked(node, offset + split.head + split.middle, split.tail, flags);
    }
    return r;
}

int co_fn block_node_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                      BlockRequestFlags flags)
{
    BlockRequestFlags handled = block_node_zero_flags(node);
    int r;

    if (bytes == 0) {
        return 0;
    }
    if (refuses_fallback(node, offset, bytes, flags)) {
        return -ENOTSUP;
    }
    flags = effective_flags(node, flags);
    /* Only what both ways of writing zeros can do need not be done at the end. */
    handled &= block_node_write_flags(node);
    r = zero_co_range(node, offset, bytes, flags);
    r = write_co_finish(node, r, flags, handled);
    if (r == 0) {
        block_stats_wrote_up_to(&node->stats, offset + bytes);
    }
    return r;
}

/* Discard */

static int co_fn discard_co_aligned(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    const BlockLimits *bl = &node->limits;
    uint64_t alignment = MAX(bl->pdiscard_alignment, bl->request_alignment);
    uint64_t max = bl->max_pdiscard & ~(uint64_t)(bl->request_alignment - 1);

    while (bytes > 0) {
        uint64_t n = piece_size(offset, bytes, alignment, max);
        int r = driver_co_pdiscard(node, offset, n);

        if (r < 0 && r != -ENOTSUP) {
            return r;
        }
        offset += n;
        bytes -= n;
    }
    return 0;
}

int co_fn block_node_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    uint64_t alignment = node->limits.request_alignment;
    BlockTracked t;
    int r = 0;

    if (!node->flags.discard_unmap || bytes == 0) {
        return 0;
    }
    block_tracked_co_begin(node, &t, round_down(offset, alignment),
                           round_up(offset + bytes, alignment), false);
    if (is_inside(node, offset, bytes)) {
        RangeSplit split = split_range(node, offset, bytes, block_node_length(node));

        r = discard_co_aligned(node, offset + split.head, split.middle);
        set_dirty(node);
    }
    block_tracked_end(node, &t);
    return r;
}

/* Allocation */

int co_fn block_node_co_allocate(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    uint64_t alignment = node->limits.request_alignment;
    uint64_t start = round_down(offset, alignment);
    uint64_t end = round_up(offset + bytes, alignment);
    BlockTracked t;
    int r = -EIO;

    if (bytes == 0) {
        return 0;
    }
    /* Whole blocks: nothing changes in those that the range covers only in part. */
    block_tracked_co_begin(node, &t, start, end, false);
    if (is_inside(node, offset, bytes)) {
        r = driver_co_allocate(node, start, end - start);
        set_dirty(node); /* what is reserved is metadata, to be made durable, too */
    }
    block_tracked_end(node, &t);
    return r == -ENOTSUP ? 0 : r;
}

/* Block status */

static int co_fn driver_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes,
                                        uint64_t *pnum, BlockStatus *status)
{
    int r;

    if (!node->drv->co_block_status) {
        if (passes_through(node)) {
            return block_child_co_block_status(node->first_child, offset, bytes, pnum, status);
        }
        *pnum = bytes;
        *status = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED;
        return 0;
    }
    serial_co_lock(node);
    r = node->drv->co_block_status(node, offset, bytes, pnum, status);
    serial_unlock(node);
    return r;
}

int co_fn block_node_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes,
                                     uint64_t *pnum, BlockStatus *status)
{
    uint64_t alignment = node->limits.request_alignment;
    uint64_t length = block_node_length(node);
    uint64_t start = round_down(offset, alignment);
    uint64_t n = 0;
    BlockStatus found = 0;
    int r;

    if (offset >= length || bytes == 0) {
        *pnum = 0;
        *status = offset >= length ? BLOCK_STATUS_EOF : 0;
        return 0;
    }
    bytes = MIN(bytes, length - offset);
    r = driver_co_block_status(node, start, round_up(offset + bytes, alignment) - start, &n,
                               &found);
    if (r < 0) {
        return r;
    }
    if (n <= offset - start) {
        /* What lies below knows smaller blocks; one of ours that is data in part is data. */
        n = alignment;
        found = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED;
    }
    *pnum = MIN(n - (offset - start), bytes);
    *status = found & ~(BlockStatus)BLOCK_STATUS_EOF;
    if (offset + *pnum == length) {
        *status |= BLOCK_STATUS_EOF;
    }
    return 0;
}

/* The node whose storage shows where @node has none of its own; NULL: there are zeros. */
static BlockNode *node_behind(BlockNode *node)
{
    BlockChild *backing =
        passes_through(node) ? node->first_child : block_node_child(node, "backing");

    return backing ? backing->node : NULL;
}

int co_fn block_node_co_allocation_depth(BlockNode *node, uint64_t offset, uint64_t bytes,
                                         uint64_t *pnum, uint32_t *depth)
{
    uint32_t layers = 0;

    *pnum = bytes;
    *depth = 0;
    for (; node; node = node_behind(node)) {
        BlockStatus status;
        uint64_t n;
        int r;

        if (passes_through(node)) {
            continue;
        }
        layers++;
        r = block_node_co_block_status(node, offset, *pnum, &n, &status);
        if (r < 0) {
            return r;
        }
        if (n > 0) {
            *pnum = n;
        }
        /* One that is shorter than those above gives the zeros behind its end itself. */
        if (n == 0 || status & BLOCK_STATUS_ALLOCATED) {
            *depth = layers;
            break;
        }
    }
    return 0;
}

/* Truncate */

static int co_fn driver_co_truncate(BlockNode *node, uint64_t size, PreallocMode prealloc,
                                    BlockRequestFlags flags, GError **error)
{
    int r;

    if (!node->drv->co_truncate) {
        if (passes_through(node)) {
            return block_child_co_truncate(node->first_child, size, prealloc, flags, error);
        }
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "block node '%s': driver '%s' cannot change its length", node->name,
                    node->drv->name);
        return -ENOTSUP;
    }
    serial_co_lock(node);
    r = node->drv->co_truncate(node, size, prealloc, flags, error);
    serial_unlock(node);
    return r;
}

/* Make what was added read as zeros; without that it must not stay. */
static int co_fn truncate_co_zero(BlockNode *node, uint64_t old, uint64_t size, GError **error)
{
    int r = zero_co_untracked(node, old, size - old, effective_flags(node, BLOCK_REQ_MAY_UNMAP));

    if (r < 0) {
        wharf_set_error_errno(error, -r, "block node '%s': cannot zero what was added", node->name);
        driver_co_truncate(node, old, PREALLOC_MODE_OFF, 0, NULL);
        block_node_co_refresh_length(node);
    }
    return r;
}

static int co_fn truncate_co_untracked(BlockNode *node, uint64_t size, PreallocMode prealloc,
                                       BlockRequestFlags flags, GError **error)
{
    BlockRequestFlags handled = flags & block_node_truncate_flags(node);
    uint64_t old = block_node_length(node);
    int r;

    if ((flags & BLOCK_REQ_GROW_ONLY) && size < old) {
        return 0;
    }
    r = driver_co_truncate(node, size, prealloc, handled, error);
    if (r < 0) {
        return r;
    }
    r = block_node_co_refresh_length(node);
    if (r < 0) {
        wharf_set_error_errno(error, -r, "block node '%s': cannot get its length", node->name);
        return r;
    }
    if (size > old && (flags & ~handled & BLOCK_REQ_ZERO)) {
        return truncate_co_zero(node, old, size, error);
    }
    return 0;
}

/*
 * What a change of the length touches begins here. Not in the middle of a cluster: whoever clears
 * the last one may take for his what lies behind the end in it.
 */
static uint64_t truncate_start(const BlockNode *node, uint64_t size)
{
    const BlockLimits *bl = &node->limits;
    uint64_t alignment =
        MAX(bl->request_alignment, MAX(bl->pwrite_zeroes_alignment, bl->pdiscard_alignment));

    size = MIN(size, (uint64_t)block_node_length(node));
    return size - size % alignment;
}

static void co_fn truncate_co_begin_tracked(BlockNode *node, BlockTracked *t, uint64_t size)
{
    for (;;) {
        uint64_t start = truncate_start(node, size);

        block_tracked_co_begin(node, t, start, UINT64_MAX, true);
        if (truncate_start(node, size) >= start) {
            return;
        }
        block_tracked_end(node, t); /* another one has made it shorter meanwhile */
    }
}

int co_fn block_node_co_truncate(BlockNode *node, uint64_t size, PreallocMode prealloc,
                                 BlockRequestFlags flags, GError **error)
{
    BlockTracked t;
    int r;

    if (size > (uint64_t)BLOCK_LENGTH_MAX) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "block node '%s': a length of %" G_GUINT64_FORMAT " bytes is too large",
                    node->name, size);
        return -EFBIG;
    }
    truncate_co_begin_tracked(node, &t, size);
    r = truncate_co_untracked(node, size, prealloc, flags, error);
    set_dirty(node);
    block_tracked_end(node, &t);
    return r;
}
