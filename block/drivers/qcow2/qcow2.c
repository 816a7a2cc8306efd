/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2: images in QEMU's format, written after its public specification. This file opens, closes
 * and changes nodes; see state.h for the rest.
 */
#include <string.h>

#include "block/drivers/qcow2/check.h"
#include "block/drivers/qcow2/state.h"
#include "util/error.h"

/* Children */

static char *image_name(BlockChild *file)
{
    BlockNode *node = block_child_node(file);
    char *plain = block_node_plain_filename(node);

    return plain ? plain : g_strdup(block_node_name(node));
}

/* The node that holds the data, if it is another one than that of the image. */
static bool co_fn co_open_data_file(BlockNode *node, Qcow2State *s, const Qcow2Header *header,
                                    const BlockdevOptionsQcow2 *o, GError **error)
{
    g_autoptr(BlockdevRef) named = NULL;

    s->data = s->file;
    if (s->purpose == QCOW2_FOR_INFO && !o->data_file && !s->follow_names) {
        return true; /* then it is not told how much there is of it */
    }
    if (!qcow2_header_has_data_file(header)) {
        if (o->data_file) {
            g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                        "image '%s' has no external data file; leave 'data-file' out", s->name);
        }
        return !o->data_file;
    }
    if (!o->data_file) {
        named = qcow2_names_co_data_file(s, header, error);
        if (!named) {
            return false;
        }
    }
    s->data = block_child_co_open(node, named ? named : o->data_file, "data-file", error);
    return s->data != NULL;
}

/*
 * Whether there is to be no backing file, whatever the image says. A command line knows no null, so
 * an empty name says the same.
 */
static bool means_none(const BlockdevRefOrNull *given)
{
    return given->type == QVALUE_NULL || (given->type == QVALUE_STRING && !*given->u.reference);
}

/* The options of the backing file, if there is to be one; false: an error. */
static bool co_fn co_backing_ref(Qcow2State *s, const Qcow2Header *header,
                                 const BlockdevRefOrNull *given, BlockdevRef **ref, GError **error)
{
    g_autoptr(QValue) options = NULL;

    if (!given && (!header->backing_file || (s->purpose == QCOW2_FOR_INFO && !s->follow_names))) {
        return true;
    }
    if (!given) {
        *ref = qcow2_names_co_backing(s, header, error);
        return *ref != NULL;
    }
    if (means_none(given)) {
        return true;
    }
    options = blockdev_ref_or_null_to_qvalue(given);
    *ref = blockdev_ref_from_qvalue(options, error);
    return *ref != NULL;
}

static bool co_fn co_open_backing(BlockNode *node, Qcow2State *s, const Qcow2Header *header,
                                  const BlockdevOptionsQcow2 *o, GError **error)
{
    g_autoptr(BlockdevRef) ref = NULL;

    if (!co_backing_ref(s, header, o->backing, &ref, error)) {
        return false;
    }
    if (!ref) {
        return true;
    }
    s->backing = block_child_co_open(node, ref, "backing", error);
    if (!s->backing) {
        g_prefix_error(error, "cannot open the backing file of image '%s': ", s->name);
    }
    return s->backing != NULL;
}

/* The snapshot that the node shows, as its options say; NULL: none, or it is no qcow2 node. */
static const char *snapshot_of(BlockNode *node)
{
    const BlockdevOptions *opts = block_node_options(node);

    return opts->driver == BLOCKDEV_DRIVER_QCOW2 ? opts->u.qcow2.snapshot : NULL;
}

static bool shows_disk(BlockNode *node, void *opaque)
{
    return block_node_options(node)->driver == BLOCKDEV_DRIVER_QCOW2 && !snapshot_of(node);
}

bool qcow2_shows_snapshot(BlockNode *node, void *snapshot)
{
    const Qcow2Snapshot *s = snapshot;
    const char *shown = snapshot_of(node);

    return shown && (strcmp(shown, s->id) == 0 || strcmp(shown, s->name) == 0);
}

static void qcow2_child_perm(BlockNode *node, BlockChild *child, BlockPerm parent_perm,
                             BlockPerm parent_shared, BlockPerm *perm, BlockPerm *shared)
{
    if (strcmp(block_child_name(child), "backing") == 0) {
        /* What the disk shows changes with it, which is right for who shares writes to the disk. */
        *perm = parent_perm ? BLOCK_PERM_CONSISTENT_READ : 0;
        *shared = parent_shared & BLOCK_PERM_WRITE
                      ? BLOCK_PERM_ALL
                      : BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE_UNCHANGED;
        return;
    }
    /* Also while nobody uses the node: others must not write to what is kept in memory. */
    *perm = BLOCK_PERM_CONSISTENT_READ;
    *shared = BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE_UNCHANGED;
    if (snapshot_of(node)) {
        /* The node of the disk itself touches nothing that a snapshot has, but in deleting it. */
        if (block_child_any_sibling(child, shows_disk, NULL)) {
            *shared = BLOCK_PERM_ALL;
        }
        return;
    }
    if (!block_node_flags_to_be(node)->auto_read_only ||
        !block_node_flags_to_be(block_child_node(child))->read_only) {
        *perm |= BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE;
    }
}

/* Caches */

/* A cache for @image as the options say. */
static bool make_caches(const BlockdevOptionsQcow2 *o, const Qcow2Image *image, Qcow2L2 *l2,
                        int64_t *clean_ns, size_t *refcount_bytes, GError **error)
{
    Qcow2CacheSizes sizes;

    if (!qcow2_check_options(o, image->header, error) ||
        !qcow2_cache_sizes(o, image->header, &sizes, error)) {
        return false;
    }
    *clean_ns = sizes.clean_ns;
    *refcount_bytes = sizes.refcount_bytes;
    return qcow2_l2_init(l2, &sizes, &image->layout, error);
}

static void arm_cleaning(Qcow2State *s)
{
    if (s->clean_ns > 0) {
        aio_timer_arm(s->clean_timer, aio_now_ns() + s->clean_ns);
    } else {
        aio_timer_disarm(s->clean_timer);
    }
}

static void clean_caches(void *opaque)
{
    Qcow2State *s = opaque;

    qcow2_cache_clean(s->l2.cache);
    qcow2_unpacked_clean(s->unpacked);
    arm_cleaning(s);
}

/* Writing */

static bool has_feature(const Qcow2State *s, uint64_t incompatible)
{
    return s->image->header->incompatible & incompatible;
}

/* Whether the image may be written to; while it is somebody else's it may well be dirty. */
static bool check_writable(BlockNode *node, const Qcow2State *s, GError **error)
{
    const char *what = NULL;

    if (has_feature(s, QCOW2_INCOMPATIBLE_CORRUPT)) {
        what = "is marked as corrupt";
    } else if (has_feature(s, QCOW2_INCOMPATIBLE_DIRTY) && block_node_active(node)) {
        what = "was not closed in order";
    }
    if (what) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "image '%s' %s; repair it (wharfctl check -r all), or set 'read-only' to true",
                    s->name, what);
    }
    return !what;
}

/* The header as it is now, of an image that a repair has changed. */
static bool co_fn co_load_header_anew(Qcow2State *s, GError **error)
{
    Qcow2Image *image = qcow2_image_co_load_header(s->file, s->name, s->purpose, error);

    if (image) {
        qcow2_image_free(s->image);
        s->image = image;
    }
    return image != NULL;
}

/* Count anew what is in use, since whoever wrote to the image last has left without saying it. */
static bool co_fn co_repair_dirty(Qcow2State *s, GError **error)
{
    g_autoptr(ImageCheck) found = g_new0(ImageCheck, 1);
    bool ok;

    found->findings = g_ptr_array_new_with_free_func(g_free);
    g_message("image '%s' was not closed in order: its refcounts are being made anew", s->name);
    ok = qcow2_check_co_run(s->file, IMAGE_REPAIR_ALL, NULL, &s->given_up, found, error);
    if (!ok) {
        g_prefix_error(error,
                       "image '%s' was not closed in order, and cannot be repaired: ", s->name);
    }
    return ok;
}

/* Whether the node is going to be writable, as far as it is up to the options and the file. */
static bool is_for_writing(BlockNode *node, const Qcow2State *s)
{
    const BlockNodeFlags *flags = block_node_flags_to_be(node);
    const BlockNodeFlags *below = block_node_flags_to_be(block_child_node(s->file));

    return !flags->read_only && block_node_active(node) &&
           !(flags->auto_read_only && below->read_only);
}

/* Repair the image with this header if it needs that before it is written to. */
static bool co_fn co_settle_dirty(BlockNode *node, Qcow2State *s, const Qcow2Header *header,
                                  GError **error)
{
    uint64_t marks = header->incompatible & (QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT);

    if (marks != QCOW2_INCOMPATIBLE_DIRTY || !is_for_writing(node, s)) {
        return true;
    }
    if (block_node_flags_to_be(node)->auto_read_only) {
        co_repair_dirty(s, NULL); /* it can be read, whatever has become of that */
        return true;
    }
    return co_repair_dirty(s, error);
}

static bool co_fn co_settle_header(BlockNode *node, Qcow2State *s, GError **error)
{
    return co_settle_dirty(node, s, s->image->header, error) &&
           (!has_feature(s, QCOW2_INCOMPATIBLE_DIRTY) || co_load_header_anew(s, error));
}

static bool wants_lazy(const BlockdevOptionsQcow2 *o, const Qcow2Header *header)
{
    return o->has_lazy_refcounts ? o->lazy_refcounts
                                 : !!(header->compatible & QCOW2_COMPATIBLE_LAZY);
}

static bool check_lazy(const Qcow2State *s, const BlockdevOptionsQcow2 *o, GError **error)
{
    bool ok = s->image->header->version >= 3 || !wants_lazy(o, s->image->header);

    if (!ok) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "image '%s' is of version 2 ('compat' 0.10), which knows no 'lazy-refcounts'",
                    s->name);
    }
    return ok;
}

static void take_options(Qcow2State *s, const BlockdevOptionsQcow2 *o, const BlockNodeFlags *flags)
{
    s->discard_request =
        o->has_pass_discard_request ? o->pass_discard_request : flags->discard_unmap;
    s->discard_snapshot = o->pass_discard_snapshot;
    s->discard_other = o->pass_discard_other;
    s->discard_no_unref = o->discard_no_unref;
    s->lazy = wants_lazy(o, s->image->header);
    s->guarded = qcow2_guarded_kinds(o);
}

/* Get ready to write where the node is to be writable. */
static bool co_fn co_open_writing(BlockNode *node, Qcow2State *s, const BlockdevOptionsQcow2 *o,
                                  GError **error)
{
    const BlockNodeFlags *flags = block_node_flags(node);
    g_autoptr(GError) local = NULL;

    take_options(s, o, flags);
    if (flags->read_only) {
        return true;
    }
    if (o->snapshot && !flags->auto_read_only) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "image '%s': a snapshot can only be read; set 'read-only' to true", s->name);
        return false;
    }
    if (flags->auto_read_only && (o->snapshot || block_node_read_only(block_child_node(s->file)) ||
                                  !check_writable(node, s, &local))) {
        block_node_set_read_only(node, true);
        return true;
    }
    return check_writable(node, s, error) && qcow2_metadata_co_init(node, s->refcount_bytes, error);
}

/* Open, close */

static void state_clear(Qcow2State *s)
{
    g_clear_pointer(&s->clean_timer, aio_timer_free);
    qcow2_metadata_clear(s);
    g_clear_pointer(&s->l2.cache, qcow2_cache_free);
    g_clear_pointer(&s->unpacked, qcow2_unpacked_free);
    g_clear_pointer(&s->image, qcow2_image_free);
    g_clear_pointer(&s->name, g_free);
}

/* Whether the table of snapshots is still the one that was read. */
static bool co_fn co_check_snapshots(const Qcow2Image *image, const Qcow2State *s, GError **error)
{
    g_autoptr(Qcow2Image) now = qcow2_image_co_load_header(s->file, s->name, s->purpose, error);

    if (now && (now->header->snapshots_offset != image->header->snapshots_offset ||
                now->header->n_snapshots != image->header->n_snapshots)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "image '%s': its snapshots were changed just now; try again", s->name);
        return false;
    }
    return now != NULL;
}

/*
 * The tables of the disk, or those of a snapshot. From here on that is not deleted by the node of
 * the disk; but it, or others, may have been while they were looked for.
 */
static bool co_fn co_load_tables(Qcow2Image *image, const Qcow2State *s,
                                 const BlockdevOptionsQcow2 *o, GError **error)
{
    if (!qcow2_image_co_load_tables(image, s->file, s->name, error)) {
        return false;
    }
    return !o->snapshot || (co_check_snapshots(image, s, error) &&
                            qcow2_image_co_go_to(image, s->file, s->name, o->snapshot, error));
}

/* Nothing but the header is needed. */
static void open_for_check(BlockNode *node, Qcow2State *s)
{
    s->data = s->file;
    if (block_node_flags(node)->auto_read_only && block_node_read_only(block_child_node(s->file))) {
        block_node_set_read_only(node, true);
    }
}

/* All that can be told, of an image whose data may be out of reach. */
static bool co_fn co_open_for_info(BlockNode *node, Qcow2State *s, const BlockdevOptionsQcow2 *o,
                                   GError **error)
{
    if (!block_node_flags(node)->read_only) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "image '%s': 'for-info' needs 'read-only'", s->name);
        return false;
    }
    return co_open_data_file(node, s, s->image->header, o, error) &&
           co_open_backing(node, s, s->image->header, o, error) &&
           co_load_tables(s->image, s, o, error);
}

static bool take_purpose(Qcow2State *s, const BlockdevOptionsQcow2 *o, GError **error)
{
    if (o->for_check && o->for_info) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'for-check' and 'for-info' exclude each other");
        return false;
    }
    s->purpose = o->for_check ? QCOW2_FOR_CHECK : o->for_info ? QCOW2_FOR_INFO : QCOW2_FOR_USE;
    return true;
}

/*
 * The tables, which may be large, are read after the children are open: a chain of images without
 * end is refused for its length before it takes up memory.
 */
static bool co_fn co_open(BlockNode *node, Qcow2State *s, const BlockdevOptionsQcow2 *o,
                          GError **error)
{
    s->follow_names = o->follow_names;
    s->file = take_purpose(s, o, error) ? block_child_co_open(node, o->file, "file", error) : NULL;
    if (!s->file) {
        return false;
    }
    s->name = image_name(s->file);
    s->losses = block_child_losses(s->file);
    s->image = qcow2_image_co_load_header(s->file, s->name, s->purpose, error);
    if (!s->image) {
        return false;
    }
    if (s->purpose == QCOW2_FOR_CHECK) {
        open_for_check(node, s);
        return true;
    }
    if (s->purpose == QCOW2_FOR_INFO) {
        return co_open_for_info(node, s, o, error);
    }
    return check_lazy(s, o, error) && co_settle_header(node, s, error) &&
           co_open_data_file(node, s, s->image->header, o, error) &&
           co_open_backing(node, s, s->image->header, o, error) &&
           co_load_tables(s->image, s, o, error) &&
           make_caches(o, s->image, &s->l2, &s->clean_ns, &s->refcount_bytes, error) &&
           co_open_writing(node, s, o, error);
}

static bool co_fn qcow2_co_open(BlockNode *node, const BlockdevOptions *opts, GError **error)
{
    Qcow2State *s = block_node_state(node);

    if (!co_open(node, s, &opts->u.qcow2, error)) {
        state_clear(s);
        return false;
    }
    if (s->purpose != QCOW2_FOR_USE) {
        return true;
    }
    s->unpacked = qcow2_unpacked_new(qcow2_cluster_size(&s->image->layout));
    s->clean_timer = aio_timer_new(aio_context_current(), clean_caches, s);
    arm_cleaning(s);
    block_node_set_supported_flags(node, s->data == s->file ? BLOCK_REQ_WRITE_COMPRESSED : 0,
                                   BLOCK_REQ_MAY_UNMAP | BLOCK_REQ_NO_FALLBACK, BLOCK_REQ_ZERO);
    return true;
}

/* All that is in memory into the image, with nothing under way. */
static int co_fn qcow2_co_settle(BlockNode *node)
{
    const Qcow2State *s = block_node_state(node);

    return s->writable ? qcow2_co_finish_writing(node) : 0;
}

static void co_fn qcow2_co_close(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);
    int r = qcow2_co_settle(node);

    if (r < 0) {
        g_warning("image '%s': changes may be lost, writing them has failed: %s", s->name,
                  g_strerror(-r));
    }
    if (s->writable) {
        qcow2_refcounts_co_trim(&s->metadata.refcounts);
    }
    state_clear(s);
}

/* What is read from an image, once more */

/* What a node keeps of its image. */
typedef struct Qcow2Loaded {
    Qcow2Image *image; /* NULL: not read */
    Qcow2Unpacked *unpacked;
    uint64_t losses;
    bool corrupt;
    Qcow2L2 l2;
    int64_t clean_ns;
    size_t refcount_bytes;
} Qcow2Loaded;

static void loaded_clear(Qcow2Loaded *l)
{
    g_clear_pointer(&l->image, qcow2_image_free);
    g_clear_pointer(&l->unpacked, qcow2_unpacked_free);
    g_clear_pointer(&l->l2.cache, qcow2_cache_free);
}

#define SWAP(a, b)                                                                                 \
    do {                                                                                           \
        __typeof__(a) swapped_ = (a);                                                              \
                                                                                                   \
        (a) = (b);                                                                                 \
        (b) = swapped_;                                                                            \
    } while (0)

/* Exchange what the node keeps; without an image the caches alone. */
static void exchange(Qcow2State *s, Qcow2Loaded *l)
{
    SWAP(s->l2, l->l2);
    SWAP(s->clean_ns, l->clean_ns);
    SWAP(s->refcount_bytes, l->refcount_bytes);
    if (l->image) {
        SWAP(s->image, l->image);
        SWAP(s->unpacked, l->unpacked);
        SWAP(s->losses, l->losses);
        l->corrupt = __atomic_exchange_n(&s->corrupt, l->corrupt, __ATOMIC_RELAXED);
        g_atomic_int_set(&s->losses_told, 0);
    }
}

static bool same_extension(const Qcow2Header *a, const Qcow2Header *b, Qcow2ExtensionType type)
{
    g_autofree char *x = qcow2_header_extension_string(a, type);
    g_autofree char *y = qcow2_header_extension_string(b, type);

    return g_strcmp0(x, y) == 0;
}

/* Whether the children that were opened are still the right ones. */
static bool check_same_names(const Qcow2State *s, const Qcow2Header *header, GError **error)
{
    const Qcow2Header *before = s->image->header;

    if (g_strcmp0(before->backing_file, header->backing_file) == 0 &&
        same_extension(before, header, QCOW2_EXTENSION_BACKING_FORMAT) &&
        qcow2_header_has_data_file(before) == qcow2_header_has_data_file(header) &&
        same_extension(before, header, QCOW2_EXTENSION_DATA_FILE)) {
        return true;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                "image '%s' names other files than before; delete its node and add it again",
                s->name);
    return false;
}

/* Read what the image is now, which may have changed behind our back. */
static bool co_fn co_load(BlockNode *node, const BlockdevOptionsQcow2 *o, Qcow2Loaded *loaded,
                          GError **error)
{
    const Qcow2State *s = block_node_state(node);
    Qcow2Loaded l = {.losses = block_child_losses(s->file)};
    g_autoptr(Qcow2Image) image = qcow2_image_co_load_header(s->file, s->name, s->purpose, error);

    if (!image || !check_same_names(s, image->header, error) ||
        !co_load_tables(image, s, o, error) ||
        !make_caches(o, image, &l.l2, &l.clean_ns, &l.refcount_bytes, error)) {
        return false;
    }
    l.unpacked = qcow2_unpacked_new(qcow2_cluster_size(&image->layout));
    l.image = g_steal_pointer(&image);
    *loaded = l;
    return true;
}

/* Take up what the image is now. Not yet ready for writing. */
static bool co_fn co_load_anew(BlockNode *node, GError **error)
{
    Qcow2State *s = block_node_state(node);
    Qcow2Loaded l;

    if (!co_load(node, &block_node_options(node)->u.qcow2, &l, error)) {
        return false;
    }
    qcow2_metadata_clear(s);
    exchange(s, &l);
    loaded_clear(&l);
    return true;
}

/* Reopen: caches can be changed, and the backing node exchanged for another one. */

typedef struct Qcow2Reopen {
    Qcow2Loaded loaded; /* for the node; once that has it, what it had before */
    bool exchanged;
    bool made_writable;
} Qcow2Reopen;

static void reopen_free(Qcow2Reopen *r)
{
    loaded_clear(&r->loaded);
    g_free(r);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Reopen, reopen_free)

static bool check_children(BlockReopen *reopen, GError **error)
{
    const Qcow2State *s = block_node_state(reopen->node);
    const BlockdevOptionsQcow2 *o = &reopen->opts->u.qcow2;
    const char *name = NULL;

    if (s->purpose == QCOW2_FOR_CHECK || o->for_check) {
        name = "for-check";
    } else if (s->purpose == QCOW2_FOR_INFO || o->for_info) {
        name = "for-info";
    } else if (block_reopen_child(reopen, "file") != block_child_node(s->file)) {
        name = "file";
    } else if (s->data != s->file &&
               block_reopen_child(reopen, "data-file") != block_child_node(s->data)) {
        name = "data-file";
    } else if (s->data == s->file && o->data_file) {
        name = "data-file";
    } else if (!s->backing && o->backing && !means_none(o->backing)) {
        name = "backing";
    } else if (g_strcmp0(o->snapshot, block_node_options(reopen->node)->u.qcow2.snapshot) != 0) {
        name = "snapshot";
    }
    if (name) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "block node '%s': driver 'qcow2' cannot change '%s' by a reopen",
                    block_node_name(reopen->node), name);
    }
    return name == NULL;
}

/*
 * Whether the node is to be writable then; false and @error if it cannot be. What the file says of
 * that is known only later, and then the core sees to it.
 */
static bool check_may_write(BlockReopen *reopen, GError **error)
{
    const Qcow2State *s = block_node_state(reopen->node);
    const char *snapshot = reopen->opts->u.qcow2.snapshot;
    BlockNodeFlags *flags = &reopen->flags;

    if (flags->auto_read_only && snapshot) {
        flags->read_only = true;
    }
    if (snapshot && !flags->read_only) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "image '%s': a snapshot can only be read; set 'read-only' to true", s->name);
        return false;
    }
    return true;
}

static bool co_fn qcow2_co_reopen_prepare(BlockReopen *reopen, GError **error)
{
    const Qcow2State *s = block_node_state(reopen->node);
    const BlockdevOptionsQcow2 *o = &reopen->opts->u.qcow2;
    g_autoptr(Qcow2Reopen) r = g_new0(Qcow2Reopen, 1);
    Qcow2Loaded *l = &r->loaded;

    if (s->writable && qcow2_has_lost(reopen->node)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO,
                    "image '%s': its storage has lost something that was written; delete the node "
                    "and add it again",
                    s->name);
        return false;
    }
    if (!check_children(reopen, error) || !check_lazy(s, o, error) ||
        !make_caches(o, s->image, &l->l2, &l->clean_ns, &l->refcount_bytes, error) ||
        !check_may_write(reopen, error)) {
        return false;
    }
    reopen->state = g_steal_pointer(&r);
    return true;
}

/* Whether what is kept of the image is not to be relied on any more. */
static bool is_stale(const BlockReopen *reopen)
{
    const Qcow2State *s = block_node_state(reopen->node);
    bool shared = block_node_flags(reopen->node)->force_share;

    return !s->writable && (!reopen->flags.read_only || (shared && !reopen->flags.force_share));
}

/* What the image is now, after a repair where the node is to be writable and it needs that. */
static bool co_fn co_load_for_reopen(BlockReopen *reopen, Qcow2Loaded *anew, GError **error)
{
    Qcow2State *s = block_node_state(reopen->node);
    g_autoptr(Qcow2Header) header = qcow2_image_co_read_header(s->file, error);

    return header && co_settle_dirty(reopen->node, s, header, error) &&
           co_load(reopen->node, &reopen->opts->u.qcow2, anew, error);
}

static bool co_fn qcow2_co_reopen_take_up(BlockReopen *reopen, GError **error)
{
    Qcow2State *s = block_node_state(reopen->node);
    Qcow2Reopen *r = reopen->state;
    Qcow2Loaded anew;

    if (!is_stale(reopen)) {
        return true;
    }
    if (!co_load_for_reopen(reopen, &anew, error)) {
        return false;
    }
    loaded_clear(&r->loaded);
    r->loaded = anew;
    exchange(s, &r->loaded);
    r->exchanged = true;
    if (reopen->flags.auto_read_only && !check_writable(reopen->node, s, NULL)) {
        reopen->flags.read_only = true;
    }
    if (reopen->flags.read_only) {
        return true;
    }
    r->made_writable = check_lazy(s, &reopen->opts->u.qcow2, error) &&
                       check_writable(reopen->node, s, error) &&
                       qcow2_metadata_co_init(reopen->node, s->refcount_bytes, error);
    return r->made_writable;
}

static void co_fn qcow2_co_reopen_commit(BlockReopen *reopen)
{
    Qcow2State *s = block_node_state(reopen->node);
    g_autoptr(Qcow2Reopen) r = g_steal_pointer(&reopen->state);

    /* All that was in memory is in the image: it was settled. */
    if (reopen->flags.read_only) {
        qcow2_metadata_clear(s);
    }
    if (!r->exchanged) {
        exchange(s, &r->loaded);
    }
    take_options(s, &reopen->opts->u.qcow2, &reopen->flags);
    if (s->writable) {
        qcow2_guard_co_settle(s);
    }
    arm_cleaning(s);
}

static void co_fn qcow2_co_reopen_abort(BlockReopen *reopen)
{
    Qcow2State *s = block_node_state(reopen->node);
    g_autoptr(Qcow2Reopen) r = g_steal_pointer(&reopen->state);

    if (r->made_writable) {
        qcow2_metadata_clear(s);
    }
    if (r->exchanged) {
        exchange(s, &r->loaded);
    }
}

/* Active again */

/* The same of one that is not there for use. */
static bool co_fn co_load_sealed_anew(BlockNode *node, Qcow2State *s, GError **error)
{
    return co_load_header_anew(s, error) &&
           (s->purpose == QCOW2_FOR_CHECK ||
            co_load_tables(s->image, s, &block_node_options(node)->u.qcow2, error));
}

static bool co_fn qcow2_co_activate(BlockNode *node, GError **error)
{
    Qcow2State *s = block_node_state(node);
    g_autoptr(Qcow2Header) header = NULL;

    if (s->purpose != QCOW2_FOR_USE) {
        return co_load_sealed_anew(node, s, error);
    }
    header = qcow2_image_co_read_header(s->file, error);
    return header && co_settle_dirty(node, s, header, error) && co_load_anew(node, error) &&
           co_open_writing(node, s, &block_node_options(node)->u.qcow2, error);
}

/* Check */

/* An image that has been repaired, in part maybe, is another one than that in memory. */
static bool co_fn co_take_up_repaired(BlockNode *node, bool writable, GError **error)
{
    Qcow2State *s = block_node_state(node);

    if (s->purpose != QCOW2_FOR_USE) {
        return co_load_sealed_anew(node, s, error);
    }
    if (!co_load_anew(node, error) ||
        (writable && !qcow2_metadata_co_init(node, s->refcount_bytes, error))) {
        __atomic_store_n(&s->corrupt, true, __ATOMIC_RELAXED);
        return false;
    }
    __atomic_store_n(&s->corrupt, has_feature(s, QCOW2_INCOMPATIBLE_CORRUPT), __ATOMIC_RELAXED);
    return true;
}

static bool co_fn qcow2_co_check(BlockNode *node, ImageRepair repair, Job *job, ImageCheck *result,
                                 GError **error)
{
    Qcow2State *s = block_node_state(node);
    bool writable = s->writable;
    int r = writable ? qcow2_co_finish_writing(node) : 0;
    bool ok;

    if (r < 0) {
        wharf_set_error_errno(error, -r, "image '%s': cannot write what has changed", s->name);
        return false;
    }
    ok = qcow2_check_co_run(s->file, repair, job, &s->given_up, result, error);
    if (!ok) {
        g_prefix_error(error, "image '%s': ", s->name);
    }
    if (repair != IMAGE_REPAIR_NONE && !co_take_up_repaired(node, writable, ok ? error : NULL)) {
        return false;
    }
    return ok;
}

/* A check may take longer than anybody wants to wait for the end of the daemon. */
static void qcow2_give_up_waiting(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);

    s->given_up = true;
}

/* What else there is to tell */

/* The backing file takes space of its own. */
static int64_t co_fn qcow2_co_allocated_size(BlockNode *node)
{
    const Qcow2State *s = block_node_state(node);
    int64_t file = block_child_co_allocated_size(s->file);
    int64_t data = file >= 0 && s->data != s->file ? block_child_co_allocated_size(s->data) : 0;

    return data < 0 ? data : file + data;
}

static int64_t co_fn qcow2_co_length(BlockNode *node)
{
    const Qcow2State *s = block_node_state(node);

    return s->purpose == QCOW2_FOR_USE ? (int64_t)qcow2_disk_size(s) : 0;
}

static void qcow2_limits(BlockNode *node, BlockLimits *limits)
{
    const Qcow2State *s = block_node_state(node);

    limits->length_alignment = QCOW2_SECTOR;
    limits->pwrite_zeroes_alignment = 1u << s->image->layout.subcluster_bits;
    limits->pdiscard_alignment = qcow2_cluster_size(&s->image->layout);
}

/* The image is all that is to be said, unless the options say something else than it does. */
static char *qcow2_filename(BlockNode *node)
{
    const Qcow2State *s = block_node_state(node);
    const BlockdevOptionsQcow2 *o = &block_node_options(node)->u.qcow2;

    return o->backing || o->data_file ? NULL : block_node_plain_filename(block_child_node(s->file));
}

const BlockDriver block_driver_qcow2 = {
    .name = "qcow2",
    .type = BLOCKDEV_DRIVER_QCOW2,
    .state_size = sizeof(Qcow2State),
    .concurrency = BLOCK_CONCURRENT,
    .co_open = qcow2_co_open,
    .co_close = qcow2_co_close,
    .co_reopen_prepare = qcow2_co_reopen_prepare,
    .co_reopen_take_up = qcow2_co_reopen_take_up,
    .co_reopen_commit = qcow2_co_reopen_commit,
    .co_reopen_abort = qcow2_co_reopen_abort,
    .co_preadv = qcow2_co_preadv,
    .co_pwritev = qcow2_co_pwritev,
    .co_pwrite_zeroes = qcow2_co_pwrite_zeroes,
    .co_pdiscard = qcow2_co_pdiscard,
    .co_allocate = qcow2_co_allocate,
    .co_flush = qcow2_co_flush,
    .co_truncate = qcow2_co_truncate,
    .co_block_status = qcow2_co_block_status,
    .co_length = qcow2_co_length,
    .co_allocated_size = qcow2_co_allocated_size,
    .limits = qcow2_limits,
    .child_perm = qcow2_child_perm,
    .co_activate = qcow2_co_activate,
    .co_settle = qcow2_co_settle,
    .co_check = qcow2_co_check,
    .give_up_waiting = qcow2_give_up_waiting,
    .filename = qcow2_filename,
    .co_create = qcow2_co_create,
    .co_snapshot_create = qcow2_co_snapshot_create,
    .co_snapshot_delete = qcow2_co_snapshot_delete,
    .co_snapshot_apply = qcow2_co_snapshot_apply,
    .image_specific = qcow2_image_specific,
    .image_info = qcow2_image_info,
};
