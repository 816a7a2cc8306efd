/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Internal snapshots: taking, applying and deleting them, with the node drained.
 *
 * Each changes refcounts of about everything in the image, and the flags in the disk's tables that
 * follow from these. All of that comes into the image at once: tables and refcounts that change are
 * written to places that nobody knows, and then the header, one write within a sector, names these
 * instead of the old ones. A crash finds the image as it was before or as it is afterwards; and if
 * anything fails before, nothing has happened.
 */
#include <errno.h>
#include <string.h>

#include "block/drivers/qcow2/state.h"
#include "util/error.h"

/* What the header says of the image as a whole. */
typedef struct Root {
    uint64_t size, l1_offset, reftable_offset, snapshots_offset;
    uint32_t l1_entries, reftable_clusters, n_snapshots;
} Root;

/* A change under way. */
typedef struct Change {
    BlockNode *node;
    Qcow2State *s;
    Qcow2Snapshot *snapshot; /* that is deleted or applied; owned, if it is a new one */
    uint64_t *snapshot_l1;   /* its L1 table */
    uint64_t *l1;            /* that the disk is to have */
    GPtrArray *snapshots;    /* that the image is to have; they belong to others */
    Root root;               /* that the header is to say */
    bool discard;            /* storage that becomes free */
} Change;

typedef int co_fn ChangeFunc(Change *c);

static Root root_of(const Qcow2Header *h)
{
    return (Root){.size = h->size,
                  .l1_offset = h->l1_offset,
                  .reftable_offset = h->reftable_offset,
                  .snapshots_offset = h->snapshots_offset,
                  .l1_entries = h->l1_entries,
                  .reftable_clusters = h->reftable_clusters,
                  .n_snapshots = h->n_snapshots};
}

/* Queries may look at the header meanwhile. */
static void set_root(Qcow2Header *h, const Root *root)
{
    __atomic_store_n(&h->size, root->size, __ATOMIC_RELAXED);
    __atomic_store_n(&h->l1_offset, root->l1_offset, __ATOMIC_RELAXED);
    __atomic_store_n(&h->l1_entries, root->l1_entries, __ATOMIC_RELAXED);
    __atomic_store_n(&h->reftable_offset, root->reftable_offset, __ATOMIC_RELAXED);
    __atomic_store_n(&h->reftable_clusters, root->reftable_clusters, __ATOMIC_RELAXED);
    h->snapshots_offset = root->snapshots_offset;
    h->n_snapshots = root->n_snapshots;
}

static void change_init(Change *c, BlockNode *node)
{
    Qcow2State *s = block_node_state(node);
    const Qcow2Image *image = s->image;

    *c = (Change){.node = node, .s = s, .root = root_of(image->header)};
    c->l1 = g_try_malloc(QCOW2_MAX_L1_BYTES); /* used as far as need be */
    c->snapshots = g_ptr_array_copy(image->snapshots, NULL, NULL);
    g_ptr_array_set_free_func(c->snapshots, NULL);
}

static void change_clear(Change *c)
{
    g_free(c->snapshot_l1);
    g_free(c->l1);
    g_clear_pointer(&c->snapshots, g_ptr_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Change, change_clear)

/* Writing what is new */

/* Write @bytes bytes (none: *@offset becomes 0) to clusters of their own. */
static int co_fn co_write_new(Change *c, const void *data, uint64_t bytes, uint64_t *offset)
{
    unsigned bits = c->s->image->layout.cluster_bits;
    uint64_t n = (bytes + (UINT64_C(1) << bits) - 1) >> bits;
    int r;

    *offset = 0;
    if (bytes == 0) {
        return 0;
    }
    r = qcow2_refcounts_co_take_run(&c->s->metadata.refcounts, n, offset);
    return r < 0 ? r
                 : block_child_co_pwritev(c->s->file, *offset, IOV_LOCAL((void *)data, bytes), 0);
}

static int co_fn co_write_l1(Change *c, const uint64_t *l1, uint32_t entries, uint64_t *offset)
{
    g_autofree uint64_t *table = g_try_new(uint64_t, MAX(entries, 1));

    if (!table) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < entries; i++) {
        table[i] = GUINT64_TO_BE(l1[i]);
    }
    return co_write_new(c, table, (uint64_t)entries * 8, offset);
}

static int co_fn co_drop(Change *c, uint64_t offset, uint64_t bytes)
{
    return bytes ? qcow2_shadow_co_drop(&c->s->metadata.refcounts, offset, bytes) : 0;
}

/* The L1 table of the disk, if it is another one than before. */
static int co_fn co_replace_l1(Change *c)
{
    const Qcow2Image *image = c->s->image;
    uint32_t before = image->header->l1_entries;
    int r;

    if (c->root.l1_entries == before && memcmp(c->l1, image->l1, (size_t)before * 8) == 0) {
        return 0;
    }
    r = co_write_l1(c, c->l1, c->root.l1_entries, &c->root.l1_offset);
    return r < 0 ? r : co_drop(c, image->header->l1_offset, (uint64_t)before * 8);
}

static int co_fn co_replace_snapshots(Change *c)
{
    const Qcow2Image *image = c->s->image;
    g_autoptr(GByteArray) table = qcow2_snapshots_serialise(c->snapshots);
    int r;

    if (table->len > QCOW2_SNAPSHOTS_MAX_BYTES) {
        return -EFBIG;
    }
    r = co_write_new(c, table->data, table->len, &c->root.snapshots_offset);
    c->root.n_snapshots = c->snapshots->len;
    return r < 0 ? r
                 : co_drop(c, image->header->snapshots_offset,
                           qcow2_snapshots_bytes(image->snapshots));
}

static int co_fn co_switch(Change *c)
{
    Qcow2Header *h = c->s->image->header;
    Root before = root_of(h);
    int r;

    set_root(h, &c->root);
    r = qcow2_co_write_header(c->node);
    if (r < 0) {
        set_root(h, &before);
        qcow2_co_write_header_back(c->node);
    }
    return r;
}

/* What the image says from now on. */
static void co_fn co_adopt(Change *c)
{
    Qcow2Image *image = c->s->image;

    for (uint32_t i = 0; i < c->root.l1_entries; i++) { /* never fewer than before */
        __atomic_store_n(&image->l1[i], c->l1[i], __ATOMIC_RELEASE);
    }
    qcow2_guard_co_fill(c->s, c->snapshots);
    qcow2_cache_co_drop_all(c->s->l2.cache);
    qcow2_unpacked_drop(c->s->unpacked, 0, INT64_MAX);
}

static int co_fn co_write_all(Change *c, ChangeFunc *prepare)
{
    Qcow2Refcounts *refcounts = &c->s->metadata.refcounts;
    int r = prepare(c);

    if (r == 0) {
        r = co_replace_l1(c);
    }
    if (r == 0) {
        r = co_replace_snapshots(c);
    }
    if (r == 0) {
        r = qcow2_shadow_co_write(refcounts, &c->root.reftable_offset, &c->root.reftable_clusters);
    }
    if (r == 0) {
        r = qcow2_co_flush_file(c->node);
    }
    return r < 0 ? r : co_switch(c);
}

static int co_fn co_change_locked(Change *c, ChangeFunc *prepare)
{
    Qcow2Refcounts *refcounts = &c->s->metadata.refcounts;
    int r = qcow2_co_commit_locked(c->node);

    if (r == 0) {
        r = qcow2_refcounts_co_write(refcounts);
    }
    if (r == 0) {
        r = c->l1 ? qcow2_shadow_co_begin(refcounts) : -ENOMEM;
    }
    if (r < 0) {
        return r;
    }
    r = co_write_all(c, prepare);
    if (r < 0) {
        qcow2_shadow_abort(refcounts);
        return r;
    }
    co_adopt(c);
    qcow2_shadow_co_commit(refcounts, c->discard);
    /* What was counted down just now; that need not be durable, and if it fails the next one does
     * it. */
    qcow2_refcounts_co_write(refcounts);
    return 0;
}

static int co_fn co_change(Change *c, ChangeFunc *prepare)
{
    Qcow2Metadata *m = &c->s->metadata;
    int r = qcow2_co_begin_writing(c->node);

    if (r < 0) {
        return r;
    }
    CO_MUTEX_GUARD(&m->commit_lock);
    CO_MUTEX_GUARD(&m->tables_lock);
    return co_change_locked(c, prepare);
}

/* Messages */

static bool check_possible(const Qcow2State *s, GError **error)
{
    if (!s->writable) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "image '%s' is open for reading only; set 'read-only' to false", s->name);
        return false;
    }
    if (s->data != s->file) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "image '%s' has an external data file, which snapshots are not possible with",
                    s->name);
        return false;
    }
    return true;
}

static Qcow2Snapshot *find(const Qcow2State *s, const char *id, const char *name, GError **error)
{
    Qcow2Snapshot *snapshot = qcow2_snapshots_find(s->image->snapshots, id, name);

    if (!id && !name) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'id' and 'name' are missing: at least one of them must be there");
        return NULL;
    }
    if (!snapshot && id && name) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "image '%s' has no snapshot '%s' with the id '%s'", s->name, name, id);
    } else if (!snapshot) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "image '%s' has no snapshot with the %s '%s'", s->name, id ? "id" : "name",
                    id ? id : name);
    }
    return snapshot;
}

static void set_error(const Change *c, int r, const char *what, const char *name, GError **error)
{
    const Qcow2State *s = c->s;

    if (r == -ERANGE) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "image '%s': cannot %s snapshot '%s': refcounts of %u bits cannot count one "
                    "more user of a cluster; nothing was changed",
                    s->name, what, name, 1u << s->image->header->refcount_order);
        return;
    }
    wharf_set_error_errno(error, -r, "image '%s': cannot %s snapshot '%s'", s->name, what, name);
}

/* Create */

static int co_fn co_prepare_create(Change *c)
{
    const Qcow2Image *image = c->s->image;
    uint32_t entries = image->header->l1_entries;
    g_autofree char *id = qcow2_snapshots_new_id(image->snapshots);
    uint64_t offset;
    int r;

    memcpy(c->l1, image->l1, (size_t)entries * 8);
    r = qcow2_tree_co_add(c->node, c->l1, entries);
    if (r == 0) {
        r = qcow2_tree_co_flag(c->node, c->l1, entries, 2);
    }
    if (r == 0) {
        r = co_write_l1(c, c->l1, entries, &offset);
    }
    if (r == 0) {
        c->snapshot = qcow2_snapshot_new(id, c->snapshot->name, offset, entries, c->root.size);
        g_ptr_array_add(c->snapshots, c->snapshot);
    }
    return r;
}

static bool check_name(const Qcow2State *s, const char *name, GError **error)
{
    const char *problem = NULL;

    if (!*name) {
        problem = "a snapshot needs a name that is not empty";
    } else if (strlen(name) > QCOW2_SNAPSHOT_MAX_NAME) {
        problem = "the name of a snapshot has at most 255 bytes";
    } else if (s->image->snapshots->len >= QCOW2_MAX_SNAPSHOTS) {
        problem = "it has as many snapshots as are possible";
    }
    if (problem) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT, "image '%s': %s", s->name,
                    problem);
        return false;
    }
    if (qcow2_snapshots_find(s->image->snapshots, NULL, name)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_EXISTS,
                    "image '%s' has a snapshot '%s' already", s->name, name);
        return false;
    }
    return true;
}

bool co_fn qcow2_co_snapshot_create(BlockNode *node, const char *name, GError **error)
{
    Qcow2State *s = block_node_state(node);
    Qcow2Snapshot wanted = {.name = (char *)name};
    g_auto(Change) c = {0};
    int r;

    if (!check_possible(s, error) || !check_name(s, name, error)) {
        return false;
    }
    change_init(&c, node);
    c.snapshot = &wanted;
    r = co_change(&c, co_prepare_create);
    if (r == 0) {
        g_ptr_array_add(s->image->snapshots, c.snapshot);
        return true;
    }
    if (c.snapshot != &wanted) {
        qcow2_snapshot_free(c.snapshot);
    }
    set_error(&c, r, "take", name, error);
    return false;
}

/* Delete */

static int co_fn co_prepare_delete(Change *c)
{
    const Qcow2Image *image = c->s->image;
    uint32_t entries = image->header->l1_entries;
    int r = qcow2_tree_co_drop(c->node, c->snapshot_l1, c->snapshot->l1_entries);

    if (r == 0) {
        r = co_drop(c, c->snapshot->l1_offset, (uint64_t)c->snapshot->l1_entries * 8);
    }
    memcpy(c->l1, image->l1, (size_t)entries * 8);
    g_ptr_array_remove(c->snapshots, c->snapshot);
    return r < 0 ? r : qcow2_tree_co_flag(c->node, c->l1, entries, 1);
}

/* Begin with what is known of the snapshot. */
static bool co_fn co_begin(Change *c, const char *id, const char *name, GError **error)
{
    if (!check_possible(c->s, error)) {
        return false;
    }
    c->snapshot = find(c->s, id, name, error);
    if (!c->snapshot) {
        return false;
    }
    c->snapshot_l1 = qcow2_image_co_snapshot_l1(c->s->image, c->s->file, c->snapshot, error);
    if (!c->snapshot_l1) {
        g_prefix_error(error, "image '%s', snapshot '%s': ", c->s->name, c->snapshot->name);
    }
    return c->snapshot_l1 != NULL;
}

/* Nodes that show it have the same file below. */
static bool check_unused(const Change *c, GError **error)
{
    if (!block_child_any_sibling(c->s->file, qcow2_shows_snapshot, c->snapshot)) {
        return true;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                "image '%s': another block node shows the snapshot '%s'; delete that node first",
                c->s->name, c->snapshot->name);
    return false;
}

SnapshotInfo *co_fn qcow2_co_snapshot_delete(BlockNode *node, const char *id, const char *name,
                                             GError **error)
{
    Qcow2State *s = block_node_state(node);
    g_autoptr(SnapshotInfo) info = NULL;
    g_auto(Change) c = {0};
    int r;

    change_init(&c, node);
    if (!co_begin(&c, id, name, error) || !check_unused(&c, error)) {
        return NULL;
    }
    c.discard = s->discard_snapshot;
    info = qcow2_snapshot_info(c.snapshot);
    r = co_change(&c, co_prepare_delete);
    if (r < 0) {
        set_error(&c, r, "delete", info->name, error);
        return NULL;
    }
    g_ptr_array_remove(s->image->snapshots, c.snapshot);
    return g_steal_pointer(&info);
}

/* Apply */

static int co_fn co_prepare_apply(Change *c)
{
    const Qcow2Image *image = c->s->image;
    /* Behind the end of the disk there may be the state of a virtual machine, of no use here. */
    uint32_t used = MIN(c->root.l1_entries, c->snapshot->l1_entries);
    int r;

    c->root.l1_entries = MAX(c->root.l1_entries, image->header->l1_entries);
    memset(c->l1, 0, (size_t)c->root.l1_entries * 8);
    memcpy(c->l1, c->snapshot_l1, (size_t)used * 8);
    r = qcow2_tree_co_add(c->node, c->l1, used);
    if (r == 0) {
        r = qcow2_tree_co_drop(c->node, image->l1, image->header->l1_entries);
    }
    return r < 0 ? r : qcow2_tree_co_flag(c->node, c->l1, used, 1);
}

/* For dirty bitmaps everything was written. */
static int co_fn co_apply(Change *c)
{
    int r = qcow2_co_begin_writing(c->node);
    int bitmaps = r == 0 ? qcow2_bitmaps_co_begin_resize(c->node, c->root.size) : r;

    if (bitmaps < 0) {
        return bitmaps;
    }
    qcow2_bitmaps_mark(c->s, 0, MAX(c->root.size, qcow2_disk_size(c->s)));
    r = co_change(c, co_prepare_apply);
    qcow2_bitmaps_co_end_resize(c->node, bitmaps);
    return r;
}

bool co_fn qcow2_co_snapshot_apply(BlockNode *node, const char *id, const char *name,
                                   GError **error)
{
    Qcow2State *s = block_node_state(node);
    g_auto(Change) c = {0};
    uint64_t entries;
    int r;

    change_init(&c, node);
    if (!co_begin(&c, id, name, error)) {
        return false;
    }
    if (!qcow2_image_check_snapshot_size(s->image, c.snapshot, &entries, error)) {
        g_prefix_error(error, "image '%s', snapshot '%s': ", s->name, c.snapshot->name);
        return false;
    }
    c.root.size = qcow2_image_snapshot_size(s->image, c.snapshot);
    c.root.l1_entries = entries;
    r = co_apply(&c);
    if (r < 0) {
        set_error(&c, r, "apply", c.snapshot->name, error);
    }
    return r == 0;
}
