/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Other lengths of the disk, for which the L1 table may have to grow. */
#include <errno.h>

#include "block/drivers/qcow2/state.h"
#include "util/error.h"

/* So much is written at once. */
#define WRITE_CHUNK (1024 * 1024)

static int co_fn co_write_l1(Qcow2State *s, uint64_t offset, uint32_t entries)
{
    g_autofree uint64_t *table = g_try_new0(uint64_t, entries);

    if (!table) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < s->image->header->l1_entries; i++) {
        table[i] = GUINT64_TO_BE(__atomic_load_n(&s->image->l1[i], __ATOMIC_ACQUIRE));
    }
    return block_child_co_pwritev(s->file, offset, IOV_LOCAL(table, (size_t)entries * 8), 0);
}

static void set_l1_place(Qcow2State *s, uint64_t offset, uint32_t entries)
{
    Qcow2Header *h = s->image->header;

    __atomic_store_n(&h->l1_offset, offset, __ATOMIC_RELAXED);
    __atomic_store_n(&h->l1_entries, entries, __ATOMIC_RELAXED);
    qcow2_guard_set_table(&s->metadata.guard, QCOW2_META_ACTIVE_L1, offset, (uint64_t)entries * 8);
}

/*
 * Move the L1 table to where it has room. All that it names must be in the image, so a commit has
 * come before; none comes meanwhile. *@named: the image may name the new place even after an error.
 */
static int co_fn co_move_l1(BlockNode *node, uint64_t offset, uint32_t entries, bool *named)
{
    Qcow2State *s = block_node_state(node);
    const Qcow2Header *h = s->image->header;
    uint64_t old_offset = h->l1_offset;
    uint32_t old_entries = h->l1_entries;
    int r = co_write_l1(s, offset, entries);

    *named = false;
    if (r == 0) {
        r = qcow2_refcounts_co_write(&s->metadata.refcounts);
    }
    if (r == 0) {
        r = qcow2_co_flush_file(node);
    }
    if (r < 0) {
        return r;
    }
    set_l1_place(s, offset, entries);
    r = qcow2_co_write_header(node);
    if (r < 0) {
        set_l1_place(s, old_offset, old_entries);
        *named = !qcow2_co_write_header_back(node);
        return r;
    }
    if (old_entries > 0) {
        qcow2_free_later(s, old_offset, (uint64_t)old_entries * 8, false);
    }
    return 0;
}

static int co_fn co_grow_l1(BlockNode *node, uint64_t entries)
{
    Qcow2State *s = block_node_state(node);
    uint64_t cluster = qcow2_cluster_size(&s->image->layout);
    uint64_t n = (entries * 8 + cluster - 1) / cluster;
    uint64_t offset;
    bool named;
    int r;

    if (entries > QCOW2_MAX_L1_BYTES / 8) {
        return -EFBIG;
    }
    /* Nobody commits between the copy and the change: with the lock all that is to come waits. */
    CO_MUTEX_GUARD(&s->metadata.commit_lock);
    r = qcow2_co_commit_locked(node);
    if (r == 0) {
        r = qcow2_refcounts_co_take_run(&s->metadata.refcounts, n, &offset);
    }
    if (r < 0) {
        return r;
    }
    CO_MUTEX_GUARD(&s->metadata.tables_lock);
    r = co_move_l1(node, offset, entries, &named);
    if (r < 0 && !named) {
        qcow2_refcounts_co_release(&s->metadata.refcounts, offset, n * cluster, false);
    }
    return r;
}

static int co_fn co_set_size(BlockNode *node, uint64_t size)
{
    Qcow2State *s = block_node_state(node);
    uint64_t before = qcow2_disk_size(s);
    int r;

    CO_MUTEX_GUARD(&s->metadata.commit_lock);
    __atomic_store_n(&s->image->header->size, size, __ATOMIC_RELAXED);
    r = qcow2_co_write_header(node);
    if (r < 0) {
        __atomic_store_n(&s->image->header->size, before, __ATOMIC_RELAXED);
        qcow2_co_write_header_back(node);
    }
    return r;
}

/* What is behind the end of the disk. */

/* Make what lies from @start to @end, behind the end, as if nothing had been written. */
static int co_fn co_drop_behind(BlockNode *node, uint64_t start, uint64_t end)
{
    const Qcow2State *s = block_node_state(node);
    uint64_t mask = qcow2_cluster_size(&s->image->layout) - 1;
    int r = 0;

    start = (start + mask) & ~mask;
    end = (end + mask) & ~mask;
    if (start < end) {
        r = qcow2_co_drop(node, start, end - start);
    }
    return r < 0 ? r : qcow2_co_commit(node);
}

/* Whether anything has been written there. */
static int co_fn co_is_written(BlockNode *node, uint64_t offset, uint64_t end, bool *written)
{
    int r = 0;

    for (*written = false; r == 0 && !*written && offset < end;) {
        Qcow2Extent extent = {.bytes = 0};

        r = qcow2_co_map(node, offset, end - offset, &extent);
        *written = r == 0 && extent.kind != QCOW2_EXTENT_UNALLOCATED;
        offset += extent.bytes;
    }
    return r;
}

/*
 * There may be something left behind the end that was cut off before a crash, or the state of a
 * virtual machine; it is not to show up as part of the disk.
 */
static int co_fn co_clean_behind(BlockNode *node, uint64_t before, uint64_t size)
{
    const Qcow2State *s = block_node_state(node);
    uint64_t mask = qcow2_cluster_size(&s->image->layout) - 1;
    bool written;
    int r = co_is_written(node, (before + mask) & ~mask, size, &written);

    return r == 0 && written ? co_drop_behind(node, before, size) : r;
}

/* What is added: while it becomes what it shall be, the disk still ends before it. */

/* Write zeros where there are none; *@wrote: there was such a place. In qcow2_use_begin(). */
static int co_fn co_write_zeros(BlockNode *node, uint64_t offset, uint64_t end, bool *wrote)
{
    const Qcow2State *s = block_node_state(node);
    g_autofree char *zeros = g_try_malloc0(WRITE_CHUNK);
    int r = zeros ? 0 : -ENOMEM;

    while (r == 0 && offset < end) {
        Qcow2Extent extent;
        uint64_t n;

        r = qcow2_co_map(node, offset, end - offset, &extent);
        if (r < 0) {
            break;
        }
        n = MIN(extent.bytes, WRITE_CHUNK);
        if (extent.kind == QCOW2_EXTENT_DATA || extent.kind == QCOW2_EXTENT_COMPRESSED ||
            (extent.kind == QCOW2_EXTENT_UNALLOCATED && s->backing)) {
            *wrote = true;
            r = qcow2_co_write_plain(node, offset, IOV_LOCAL(zeros, n), 0, n);
        }
        offset += n;
    }
    return r;
}

/*
 * Nothing shows up of what the last cluster had behind the end, and of what a longer backing file
 * has there.
 */
static int co_fn co_zero_added(BlockNode *node, uint64_t before, uint64_t size, bool *wrote)
{
    const Qcow2State *s = block_node_state(node);
    uint64_t mask = qcow2_cluster_size(&s->image->layout) - 1;
    uint64_t cluster_end = MIN((before + mask) & ~mask, size);
    uint64_t backing = s->backing ? (uint64_t)block_child_length(s->backing) : 0;
    uint64_t backed = MIN((backing + mask) & ~mask, size);
    int r = co_write_zeros(node, before, cluster_end, wrote);

    if (r < 0 || backed <= cluster_end) {
        return r;
    }
    *wrote = true;
    r = qcow2_co_zero_added(node, cluster_end, backed - cluster_end);
    return r == -ENOTSUP ? co_write_zeros(node, cluster_end, backed, wrote) : r;
}

/* Have what was written come to the image before the length does that shows it. */
static int co_fn co_make_durable(BlockNode *node)
{
    const Qcow2State *s = block_node_state(node);
    int r = qcow2_co_commit(node);

    if (r == 0) {
        r = qcow2_co_flush_file(node);
    }
    return r == 0 && s->data != s->file ? block_child_co_flush(s->data) : r;
}

/* Make what is to be added zeros, if wanted, and give it places. */
static int co_fn co_prepare_added(BlockNode *node, uint64_t before, uint64_t size,
                                  PreallocMode prealloc, BlockRequestFlags flags)
{
    Qcow2State *s = block_node_state(node);
    unsigned epoch = qcow2_use_begin(s);
    bool wrote = false;
    int r = flags & BLOCK_REQ_ZERO ? co_zero_added(node, before, size, &wrote) : 0;

    if (r == 0 && prealloc != PREALLOC_MODE_OFF) {
        r = qcow2_co_preallocate(node, before, size - before, prealloc);
    }
    qcow2_use_end(s, epoch);
    return r == 0 && wrote ? co_make_durable(node) : r;
}

/* Another length */

typedef struct Resize {
    uint64_t before, size;
    PreallocMode prealloc;
    BlockRequestFlags flags;
} Resize;

/* A data file that is the disk as it is has its length, too. */
static bool data_file_is_disk(const Qcow2State *s)
{
    return s->image->header->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW;
}

static int co_fn co_resize_data_file(BlockNode *node, uint64_t size)
{
    const Qcow2State *s = block_node_state(node);

    return data_file_is_disk(s) ? block_child_co_truncate(s->data, size, PREALLOC_MODE_OFF, 0, NULL)
                                : 0;
}

/* Have it longer, and nothing in what is added that it had behind the end of the disk. */
static int co_fn co_grow_data_file(BlockNode *node, const Resize *resize)
{
    const Qcow2State *s = block_node_state(node);
    int r = 0;

    if (data_file_is_disk(s) && (uint64_t)block_child_length(s->data) > resize->before) {
        r = co_resize_data_file(node, resize->before);
        if (r == 0) {
            r = block_child_co_flush(s->data);
        }
    }
    return r == 0 ? co_resize_data_file(node, resize->size) : r;
}

/* With an L1 table that is long enough. */
static int co_fn co_grow_disk(BlockNode *node, const Resize *resize)
{
    int r = co_clean_behind(node, resize->before, resize->size);

    if (r == 0) {
        r = co_grow_data_file(node, resize);
    }
    if (r < 0) {
        return r;
    }
    qcow2_bitmaps_mark(block_node_state(node), resize->before, resize->size - resize->before);
    r = co_prepare_added(node, resize->before, resize->size, resize->prealloc, resize->flags);
    if (r == 0) {
        r = co_set_size(node, resize->size);
    }
    if (r < 0) {
        /* An error leaves zeros there, which do no harm. */
        co_drop_behind(node, resize->before, resize->size);
        co_resize_data_file(node, resize->before);
    }
    return r;
}

static int co_fn co_grow(BlockNode *node, const Resize *resize)
{
    Qcow2State *s = block_node_state(node);
    const Qcow2Layout *layout = &s->image->layout;
    uint64_t entries =
        qcow2_l1_entries_for(resize->size, layout->cluster_bits, layout->entry_words > 1);
    int r = entries > s->image->header->l1_entries ? co_grow_l1(node, entries) : 0;

    return r == 0 ? co_grow_disk(node, resize) : r;
}

/*
 * Nothing is dropped before the header says that it is not part of the disk, so that a crash leaves
 * the old disk or the new one. Once it does, the length has changed, whatever follows.
 */
static int co_fn co_shrink(BlockNode *node, const Resize *resize)
{
    const Qcow2State *s = block_node_state(node);
    int r = co_set_size(node, resize->size);

    if (r < 0) {
        return r;
    }
    r = co_drop_behind(node, resize->size, resize->before);
    if (r == 0) {
        r = co_resize_data_file(node, resize->size);
    }
    if (r < 0) {
        g_warning("image '%s' is shorter now, but what was cut off still takes up space: %s",
                  s->name, g_strerror(-r));
    }
    return 0;
}

static int co_fn co_change_size(BlockNode *node, const Resize *resize)
{
    int r = qcow2_co_begin_writing(node);
    int bitmaps = r == 0 ? qcow2_bitmaps_co_begin_resize(node, resize->size) : r;

    if (bitmaps < 0) {
        return bitmaps;
    }
    r = resize->size < resize->before ? co_shrink(node, resize) : co_grow(node, resize);
    qcow2_bitmaps_co_end_resize(node, bitmaps);
    return r;
}

int co_fn qcow2_co_truncate(BlockNode *node, uint64_t size, PreallocMode prealloc,
                            BlockRequestFlags flags, GError **error)
{
    const Qcow2State *s = block_node_state(node);
    Resize resize = {.size = size, .prealloc = prealloc, .flags = flags};
    int r;

    if (s->purpose != QCOW2_FOR_USE) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "block node '%s': it was opened for %s, and for nothing else",
                    block_node_name(node),
                    s->purpose == QCOW2_FOR_CHECK ? "a check" : "information");
        return -ENOTSUP;
    }
    if (size % QCOW2_SECTOR != 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "block node '%s': the length of a qcow2 image is a multiple of %d, which "
                    "%" G_GUINT64_FORMAT " is not",
                    block_node_name(node), QCOW2_SECTOR, size);
        return -EINVAL;
    }
    if (s->image->header->version < 3 && s->image->header->n_snapshots > 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "block node '%s': a version 2 image with snapshots cannot change its length",
                    block_node_name(node));
        return -ENOTSUP;
    }
    resize.before = qcow2_disk_size(s);
    r = co_change_size(node, &resize);
    if (r < 0) {
        wharf_set_error_errno(error, -r,
                              "block node '%s': cannot change the length to %" G_GUINT64_FORMAT,
                              block_node_name(node), size);
    }
    return r;
}
