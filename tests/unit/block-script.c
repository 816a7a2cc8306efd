/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block-script.h"

#include <errno.h>
#include <string.h>

#include "aio/lock.h"
#include "util/error.h"

Script script;
ScriptPerm script_perm;
unsigned script_prepared, script_committed, script_aborted;
bool script_prepare_fails;
int script_open_nodes;

/* All of it under the lock. */
static struct {
    GMutex lock;
    GArray *notes;
    int error[SCRIPT__MAX];
    unsigned n_errors[SCRIPT__MAX];
    bool hold[SCRIPT__MAX];
    unsigned held[SCRIPT__MAX];
    CoQueue queue[SCRIPT__MAX];
    CoQueue open_queue;
} st;

void script_reset(void)
{
    script = (Script){.limits = {.max_iov = 0}};
    script_perm = (ScriptPerm){.shared = BLOCK_PERM_ALL};
    script_prepared = script_committed = script_aborted = 0;
    script_prepare_fails = false;
    script_open_nodes = 0;
    g_mutex_lock(&st.lock);
    if (!st.notes) {
        st.notes = g_array_new(FALSE, FALSE, sizeof(ScriptEntry));
    }
    g_array_set_size(st.notes, 0);
    memset(st.error, 0, sizeof(st.error));
    memset(st.n_errors, 0, sizeof(st.n_errors));
    memset(st.hold, 0, sizeof(st.hold));
    g_mutex_unlock(&st.lock);
}

unsigned script_count(ScriptOp op)
{
    unsigned n = 0;

    g_mutex_lock(&st.lock);
    for (unsigned i = 0; i < st.notes->len; i++) {
        n += g_array_index(st.notes, ScriptEntry, i).op == op;
    }
    g_mutex_unlock(&st.lock);
    return n;
}

ScriptEntry script_entry(ScriptOp op, unsigned index)
{
    ScriptEntry found = {0};
    unsigned n = 0;

    g_mutex_lock(&st.lock);
    for (unsigned i = 0; i < st.notes->len; i++) {
        ScriptEntry *e = &g_array_index(st.notes, ScriptEntry, i);

        if (e->op == op && n++ == index) {
            found = *e;
        }
    }
    g_mutex_unlock(&st.lock);
    g_assert_cmpuint(n, >, index);
    return found;
}

void script_clear(void)
{
    g_mutex_lock(&st.lock);
    g_array_set_size(st.notes, 0);
    g_mutex_unlock(&st.lock);
}

char *script_text(void)
{
    GString *text = g_string_new(NULL);

    g_mutex_lock(&st.lock);
    for (unsigned i = 0; i < st.notes->len; i++) {
        ScriptEntry *e = &g_array_index(st.notes, ScriptEntry, i);

        g_string_append_printf(text, "%s%c", i ? " " : "", "rwzdftsaSCA"[e->op]);
        if (e->op != SCRIPT_FLUSH) {
            g_string_append_printf(text, "%" G_GUINT64_FORMAT "+%" G_GUINT64_FORMAT, e->offset,
                                   e->bytes);
        }
        if (e->flags & BLOCK_REQ_FUA) {
            g_string_append(text, "!");
        }
        if (e->flags & BLOCK_REQ_MAY_UNMAP) {
            g_string_append(text, "u");
        }
    }
    g_mutex_unlock(&st.lock);
    return g_string_free(text, FALSE);
}

void script_fail(ScriptOp op, int err, unsigned n)
{
    g_mutex_lock(&st.lock);
    st.error[op] = err;
    st.n_errors[op] = n;
    g_mutex_unlock(&st.lock);
}

void script_hold(ScriptOp op)
{
    g_mutex_lock(&st.lock);
    st.hold[op] = true;
    g_mutex_unlock(&st.lock);
}

unsigned script_held(ScriptOp op)
{
    unsigned n;

    g_mutex_lock(&st.lock);
    n = st.held[op];
    g_mutex_unlock(&st.lock);
    return n;
}

void script_release(ScriptOp op)
{
    g_mutex_lock(&st.lock);
    st.hold[op] = false;
    co_queue_wake_all(&st.queue[op]);
    g_mutex_unlock(&st.lock);
}

void script_release_open(void)
{
    g_mutex_lock(&st.lock);
    script.slow_open = false;
    co_queue_wake_all(&st.open_queue);
    g_mutex_unlock(&st.lock);
}

/* Note the request, wait if it is to be held, and say whether it is to fail. */
static int co_fn script_co_pass(ScriptEntry e)
{
    int r = 0;

    g_mutex_lock(&st.lock);
    g_array_append_val(st.notes, e);
    st.held[e.op]++;
    while (st.hold[e.op]) {
        co_queue_wait(&st.queue[e.op], &st.lock);
    }
    st.held[e.op]--;
    if (st.n_errors[e.op] > 0) {
        st.n_errors[e.op]--;
        r = -st.error[e.op];
    }
    g_mutex_unlock(&st.lock);
    return r;
}

/* What the request path promises to drivers. */
static void check_request(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    uint64_t alignment = MAX(script.limits.request_alignment, 1);
    uint64_t end = (block_node_length(node) + alignment - 1) & ~(alignment - 1);

    g_assert_cmpuint(bytes, >, 0);
    g_assert_cmpuint(offset % alignment, ==, 0);
    g_assert_cmpuint(bytes % alignment, ==, 0);
    g_assert_cmpuint(offset + bytes, <=, end);
}

static void check_vector(BlockNode *node, uint64_t offset, const IoVector *iov)
{
    const BlockLimits *bl = &script.limits;
    size_t sum = 0;

    check_request(node, offset, iov->bytes);
    for (unsigned i = 0; i < iov->n; i++) {
        sum += iov->iov[i].iov_len;
        if (bl->min_mem_alignment > 1) {
            g_assert_cmpuint((uintptr_t)iov->iov[i].iov_base % bl->min_mem_alignment, ==, 0);
            g_assert_cmpuint(iov->iov[i].iov_len % MAX(bl->request_alignment, 1), ==, 0);
        }
    }
    g_assert_cmpuint(sum, ==, iov->bytes);
    g_assert_cmpuint(iov->n, <=, bl->max_iov ? bl->max_iov : 1024);
    g_assert_cmpuint(iov->bytes, <=, bl->max_transfer ? bl->max_transfer : UINT32_MAX);
}

static BlockChild *image(BlockNode *node)
{
    return block_node_first_child(node);
}

/* The bytes of the request that the image has; the rest are zeros or nowhere. */
static size_t inside(BlockNode *node, uint64_t offset, size_t bytes)
{
    return MIN(bytes, block_node_length(node) - offset);
}

static int co_fn script_co_preadv(BlockNode *node, uint64_t offset, const IoVector *iov,
                                  BlockRequestFlags flags)
{
    int r = script_co_pass((ScriptEntry){SCRIPT_READ, offset, iov->bytes, flags, iov->n});

    check_vector(node, offset, iov);
    return r < 0 ? r : block_child_co_preadv(image(node), offset, iov, 0);
}

static int co_fn script_co_pwritev(BlockNode *node, uint64_t offset, const IoVector *iov,
                                   BlockRequestFlags flags)
{
    int r = script_co_pass((ScriptEntry){SCRIPT_WRITE, offset, iov->bytes, flags, iov->n});
    g_autofree char *flat = g_malloc(iov->bytes);

    check_vector(node, offset, iov);
    iov_to_buffer(iov, 0, flat, iov->bytes);
    return r < 0 ? r
                 : block_child_co_pwritev(image(node), offset,
                                          IOV_LOCAL(flat, inside(node, offset, iov->bytes)), 0);
}

static int co_fn script_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                         BlockRequestFlags flags)
{
    int r = script_co_pass((ScriptEntry){SCRIPT_ZERO, offset, bytes, flags, 0});

    check_request(node, offset, bytes);
    if (script.limits.max_pwrite_zeroes) {
        g_assert_cmpuint(bytes, <=, script.limits.max_pwrite_zeroes);
    }
    if (script.lacks_zeroes) {
        return -ENOTSUP;
    }
    return r < 0
               ? r
               : block_child_co_pwrite_zeroes(image(node), offset, inside(node, offset, bytes), 0);
}

static int co_fn script_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    int r = script_co_pass((ScriptEntry){SCRIPT_DISCARD, offset, bytes, 0, 0});

    check_request(node, offset, bytes);
    if (script.limits.max_pdiscard) {
        g_assert_cmpuint(bytes, <=, script.limits.max_pdiscard);
    }
    if (script.lacks_discard) {
        return -ENOTSUP;
    }
    return r < 0 ? r : block_child_co_pdiscard(image(node), offset, inside(node, offset, bytes));
}

static int co_fn script_co_allocate(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    int r = script_co_pass((ScriptEntry){SCRIPT_ALLOCATE, offset, bytes, 0, 0});

    check_request(node, offset, bytes);
    return r < 0 ? r : block_child_co_allocate(image(node), offset, inside(node, offset, bytes));
}

static int co_fn script_co_flush(BlockNode *node)
{
    return script_co_pass((ScriptEntry){SCRIPT_FLUSH, 0, 0, 0, 0});
}

/* Fill what a truncate has added with something that is not zero. */
static int co_fn script_co_spoil(BlockNode *node, uint64_t from, uint64_t to)
{
    g_autofree char *junk = NULL;

    if (!script.truncate_fill || to <= from) {
        return 0;
    }
    junk = g_malloc(to - from);
    memset(junk, script.truncate_fill, to - from);
    return block_child_co_pwritev(image(node), from, IOV_LOCAL(junk, to - from), 0);
}

static int co_fn script_co_truncate(BlockNode *node, uint64_t size, PreallocMode prealloc,
                                    BlockRequestFlags flags, GError **error)
{
    uint64_t old = block_node_length(node);
    int r = script_co_pass((ScriptEntry){SCRIPT_TRUNCATE, size, 0, flags, 0});

    if (r < 0) {
        wharf_set_error_errno(error, -r, "the script says");
        return r;
    }
    r = block_child_co_truncate(image(node), size, prealloc, flags, error);
    return r < 0 ? r : script_co_spoil(node, old, size);
}

static int co_fn script_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes,
                                        uint64_t *pnum, BlockStatus *status)
{
    int r = script_co_pass((ScriptEntry){SCRIPT_STATUS, offset, bytes, 0, 0});

    check_request(node, offset, bytes);
    return r < 0 ? r : block_child_co_block_status(image(node), offset, bytes, pnum, status);
}

/* A command on the image as a whole, which does nothing. */
static bool co_fn script_co_command(ScriptOp op, GError **error)
{
    int r = script_co_pass((ScriptEntry){op, 0, 0, 0, 0});

    if (r < 0) {
        wharf_set_error_errno(error, -r, "the script says");
    }
    return r == 0;
}

static bool co_fn script_co_snapshot_create(BlockNode *node, const char *name, GError **error)
{
    return script_co_command(SCRIPT_SNAPSHOT, error);
}

static bool co_fn script_co_check(BlockNode *node, ImageRepair repair, Job *job, ImageCheck *result,
                                  GError **error)
{
    return script_co_command(SCRIPT_CHECK, error);
}

static int64_t co_fn script_co_allocated_size(BlockNode *node)
{
    int r = script_co_pass((ScriptEntry){SCRIPT_SIZE, 0, 0, 0, 0});

    return r < 0 ? r : block_child_co_allocated_size(image(node));
}

static int64_t co_fn script_co_length(BlockNode *node)
{
    return block_child_length(image(node));
}

static bool co_fn script_co_open(BlockNode *node, const BlockdevOptions *opts, GError **error)
{
    if (!block_child_co_open(node, opts->u.blkdebug.image, "image", error) ||
        (script.twice && !block_child_co_open(node, opts->u.blkdebug.image, "again", error))) {
        return false;
    }
    g_mutex_lock(&st.lock);
    while (script.slow_open) {
        co_queue_wait(&st.open_queue, &st.lock);
    }
    g_mutex_unlock(&st.lock);
    if (script.no_open) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "the script says that it does not open");
        return false;
    }
    block_node_set_supported_flags(node, script.write_flags, script.zero_flags,
                                   script.truncate_flags);
    script_open_nodes++;
    return true;
}

static void co_fn script_co_close(BlockNode *node)
{
    script_open_nodes--;
}

static bool co_fn script_co_reopen_prepare(BlockReopen *reopen, GError **error)
{
    if (script_prepare_fails) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "the script says no to a reopen");
        return false;
    }
    script_prepared++;
    return true;
}

static void co_fn script_co_reopen_commit(BlockReopen *reopen)
{
    script_committed++;
}

static void co_fn script_co_reopen_abort(BlockReopen *reopen)
{
    script_aborted++;
}

static void script_limits(BlockNode *node, BlockLimits *bl)
{
    const BlockLimits *set = &script.limits;

    bl->request_alignment = MAX(set->request_alignment, 1);
    bl->max_transfer = set->max_transfer;
    bl->max_iov = set->max_iov ? set->max_iov : bl->max_iov;
    bl->min_mem_alignment = MAX(set->min_mem_alignment, 1);
    bl->pwrite_zeroes_alignment = set->pwrite_zeroes_alignment;
    bl->pdiscard_alignment = set->pdiscard_alignment;
    bl->max_pwrite_zeroes = set->max_pwrite_zeroes;
    bl->max_pdiscard = set->max_pdiscard;
}

static bool co_fn script_co_check_perm(BlockNode *node, BlockPerm perm, BlockPerm shared,
                                       GError **error)
{
    if (script.check_perm_error) {
        wharf_set_error_errno(error, script.check_perm_error, "the script locks it");
        return false;
    }
    script_perm.checked++;
    return true;
}

static void co_fn script_co_set_perm(BlockNode *node, BlockPerm perm, BlockPerm shared)
{
    script_perm.perm = perm;
    script_perm.shared = shared;
    script_perm.set++;
}

static void co_fn script_co_abort_perm(BlockNode *node)
{
    script_perm.aborted++;
}

/* The image may be written and resized at any time, as by a format that keeps tables in it. */
static void script_child_perm(BlockNode *node, BlockChild *child, BlockPerm parent_perm,
                              BlockPerm parent_shared, BlockPerm *perm, BlockPerm *shared)
{
    *perm = BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE;
    *shared = parent_shared;
}

const BlockDriver block_driver_blkdebug = {
    .name = "blkdebug",
    .type = BLOCKDEV_DRIVER_BLKDEBUG,
    .follows_child_length = true,
    .concurrency = BLOCK_CONCURRENT,
    .co_open = script_co_open,
    .co_close = script_co_close,
    .co_reopen_prepare = script_co_reopen_prepare,
    .co_reopen_commit = script_co_reopen_commit,
    .co_reopen_abort = script_co_reopen_abort,
    .co_preadv = script_co_preadv,
    .co_pwritev = script_co_pwritev,
    .co_pwrite_zeroes = script_co_pwrite_zeroes,
    .co_pdiscard = script_co_pdiscard,
    .co_allocate = script_co_allocate,
    .co_flush = script_co_flush,
    .co_truncate = script_co_truncate,
    .co_block_status = script_co_block_status,
    .co_length = script_co_length,
    .co_allocated_size = script_co_allocated_size,
    .co_snapshot_create = script_co_snapshot_create,
    .co_check = script_co_check,
    .limits = script_limits,
    .child_perm = script_child_perm,
    .co_check_perm = script_co_check_perm,
    .co_set_perm = script_co_set_perm,
    .co_abort_perm = script_co_abort_perm,
};
