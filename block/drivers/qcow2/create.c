/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A new image. What the file contained goes first and the header comes last, with a flush before
 * it: however that is interrupted, there is no image or a complete one.
 */
#include <errno.h>
#include <string.h>

#include "block/create.h"
#include "block/drivers/qcow2/plan.h"
#include "block/drivers/qcow2/state.h"
#include "util/error.h"

/* How much is written or reserved between two pause points. */
#define WRITE_CHUNK    (1024 * 1024)
#define RESERVE_CHUNK  (G_GUINT64_CONSTANT(1) << 30)
#define PREALLOC_CHUNK (G_GUINT64_CONSTANT(64) << 20)

#define REFUSE(...)                                                                                \
    (g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT, __VA_ARGS__), false)

/* Options */

static bool is_power_of_two(int64_t n)
{
    return n > 0 && (n & (n - 1)) == 0;
}

static bool check_sizes(const BlockdevCreateOptionsQcow2 *o, GError **error)
{
    if (o->size < 0 || o->size % QCOW2_SECTOR != 0) {
        return REFUSE("'size' is %" G_GINT64_FORMAT "; it must be a multiple of %d bytes", o->size,
                      QCOW2_SECTOR);
    }
    if (!is_power_of_two(o->cluster_size) || o->cluster_size < 1 << QCOW2_MIN_CLUSTER_BITS ||
        o->cluster_size > QCOW2_MAX_CLUSTER_SIZE) {
        return REFUSE("'cluster-size' is %" G_GINT64_FORMAT
                      "; it must be a power of two from %d to %d",
                      o->cluster_size, 1 << QCOW2_MIN_CLUSTER_BITS, QCOW2_MAX_CLUSTER_SIZE);
    }
    if (!is_power_of_two(o->refcount_bits) || o->refcount_bits > 64) {
        return REFUSE("'refcount-bits' is %" G_GINT64_FORMAT
                      "; it must be a power of two from 1 to 64",
                      o->refcount_bits);
    }
    if (o->extended_l2 && o->cluster_size < 16384) {
        return REFUSE(
            "'extended-l2' needs a 'cluster-size' of at least 16384, which %" G_GINT64_FORMAT
            " is not",
            o->cluster_size);
    }
    return true;
}

/* What version 2 has not. */
static bool check_version(const BlockdevCreateOptionsQcow2 *o, GError **error)
{
    const struct {
        bool wanted;
        const char *option;
    } needs[] = {
        {o->refcount_bits != 16, "refcount-bits"},
        {o->lazy_refcounts, "lazy-refcounts"},
        {o->compression_type != QCOW2_COMPRESSION_TYPE_ZLIB, "compression-type"},
        {o->extended_l2, "extended-l2"},
        {o->data_file != NULL, "data-file"},
    };

    for (unsigned i = 0; o->version == BLOCKDEV_QCOW2_VERSION_V2 && i < G_N_ELEMENTS(needs); i++) {
        if (needs[i].wanted) {
            return REFUSE("'%s' other than by default needs 'version' v3", needs[i].option);
        }
    }
    return true;
}

static bool has_backing(const BlockdevCreateOptionsQcow2 *o)
{
    return o->backing_file && *o->backing_file;
}

static bool check_files(const BlockdevCreateOptionsQcow2 *o, GError **error)
{
    if (o->data_file_raw && !o->data_file) {
        return REFUSE("'data-file-raw' needs a 'data-file'");
    }
    if (o->has_backing_fmt && !o->backing_file) {
        return REFUSE("'backing-fmt' needs a 'backing-file'");
    }
    if (!has_backing(o)) {
        return true;
    }
    if (o->data_file_raw) {
        return REFUSE("'backing-file' and 'data-file-raw' exclude each other");
    }
    if (o->preallocation != PREALLOC_MODE_OFF && !o->extended_l2) {
        return REFUSE("'preallocation' with a 'backing-file' needs 'extended-l2'");
    }
    if (strlen(o->backing_file) > QCOW2_MAX_BACKING_NAME) {
        return REFUSE("'backing-file' has %zu bytes; at most %d are possible",
                      strlen(o->backing_file), QCOW2_MAX_BACKING_NAME);
    }
    return true;
}

static bool check_build(const BlockdevCreateOptionsQcow2 *o, GError **error)
{
    if (o->encrypt) {
        return REFUSE("'encrypt' is not supported: images cannot be encrypted");
    }
#ifndef WHARF_ZSTD
    if (o->compression_type == QCOW2_COMPRESSION_TYPE_ZSTD) {
        return REFUSE("'compression-type' zstd is not to be had in this build");
    }
#endif
    return true;
}

/* The mode that holds: of a raw data file nothing may be where its entry does not say so. */
static PreallocMode preallocation(const BlockdevCreateOptionsQcow2 *o)
{
    return o->data_file_raw && o->preallocation == PREALLOC_MODE_OFF ? PREALLOC_MODE_METADATA
                                                                     : o->preallocation;
}

/* Header */

static void set_features(Qcow2Header *h, const BlockdevCreateOptionsQcow2 *o)
{
    h->incompatible = (o->data_file ? QCOW2_INCOMPATIBLE_DATA_FILE : 0) |
                      (o->extended_l2 ? QCOW2_INCOMPATIBLE_EXTENDED_L2 : 0);
    if (o->compression_type == QCOW2_COMPRESSION_TYPE_ZSTD) {
        h->incompatible |= QCOW2_INCOMPATIBLE_COMPRESSION;
        h->compression = QCOW2_COMPRESSION_ZSTD;
    }
    h->compatible = o->lazy_refcounts ? QCOW2_COMPATIBLE_LAZY : 0;
    h->autoclear = o->data_file_raw ? QCOW2_AUTOCLEAR_DATA_FILE_RAW : 0;
}

static void set_string(Qcow2Header *h, Qcow2ExtensionType type, const char *text)
{
    qcow2_header_set_extension(h, type, g_bytes_new(text, strlen(text)));
}

/* All but what depends on nodes; NULL: the options are wrong. */
static Qcow2Header *header_from(const BlockdevCreateOptionsQcow2 *o, GError **error)
{
    g_autoptr(Qcow2Header) h = NULL;

    if (!check_sizes(o, error) || !check_version(o, error) || !check_files(o, error) ||
        !check_build(o, error)) {
        return NULL;
    }
    h = qcow2_header_new();
    h->version = o->version == BLOCKDEV_QCOW2_VERSION_V2 ? 2 : 3;
    h->cluster_bits = (uint32_t)g_bit_nth_lsf(o->cluster_size, -1);
    h->size = (uint64_t)o->size;
    h->refcount_order = (uint32_t)g_bit_nth_lsf(o->refcount_bits, -1);
    set_features(h, o);
    if (has_backing(o)) {
        h->backing_file = g_strdup(o->backing_file);
    }
    if (has_backing(o) && o->has_backing_fmt) {
        set_string(h, QCOW2_EXTENSION_BACKING_FORMAT, blockdev_driver_to_string(o->backing_fmt));
    }
    return g_steal_pointer(&h);
}

/* The header's cluster; with the names of features, if there is room for them. */
static GByteArray *serialise(Qcow2Header *h, GError **error)
{
    GByteArray *out;

    if (h->version < 3) {
        return qcow2_header_serialise(h, error);
    }
    qcow2_header_set_extension(h, QCOW2_EXTENSION_FEATURE_NAMES, qcow2_header_known_features());
    out = qcow2_header_serialise(h, NULL);
    if (!out) {
        qcow2_header_set_extension(h, QCOW2_EXTENSION_FEATURE_NAMES, NULL);
        out = qcow2_header_serialise(h, error);
    }
    return out;
}

/* The image */

typedef struct Creation {
    const BlockdevCreateOptionsQcow2 *options;
    Job *job;
    BlockBackend *file, *data; /* data: NULL without a data file */
    Qcow2Header *header;
    Qcow2Plan plan;
    GByteArray *first; /* the header's cluster */
} Creation;

/* Report what came of a request; 0 goes on, unless the job was cancelled. */
static bool co_fn co_went_on(Creation *c, int r, uint64_t done, const char *what, GError **error)
{
    if (r < 0) {
        wharf_set_error_errno(error, -r, "cannot create the image in '%s': writing %s",
                              block_node_name(block_backend_node(c->file)), what);
        return false;
    }
    job_progress_advance(c->job, done);
    return job_co_pause_point(c->job);
}

static uint64_t chunk_of(PreallocMode mode)
{
    return mode == PREALLOC_MODE_FULL ? PREALLOC_CHUNK : RESERVE_CHUNK;
}

/* Make @blk, which has @from bytes, longer, piece by piece where that takes long. */
static bool co_fn co_extend(Creation *c, BlockBackend *blk, uint64_t from, uint64_t to,
                            PreallocMode mode, GError **error)
{
    bool long_work = mode == PREALLOC_MODE_FALLOC || mode == PREALLOC_MODE_FULL;

    if (!long_work) {
        return blk_co_truncate(blk, to, PREALLOC_MODE_OFF, 0, error) == 0;
    }
    while (from < to) {
        uint64_t n = MIN(to - from, chunk_of(mode));

        if (blk_co_truncate(blk, from + n, mode, 0, error) < 0) {
            return false;
        }
        from += n;
        job_progress_advance(c->job, n);
        if (!job_co_pause_point(c->job)) {
            return false;
        }
    }
    return true;
}

/* What has a length of its own, a device, is long enough or not; nothing may be left of it. */
static bool co_fn co_reuse(Creation *c, GError **error)
{
    uint64_t length = (uint64_t)blk_length(c->file);
    uint64_t from = 0;

    if (length < c->plan.end) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "the image needs %" G_GUINT64_FORMAT " bytes from the start, but '%s' has only "
                    "%" G_GUINT64_FORMAT,
                    c->plan.end, block_node_name(block_backend_node(c->file)), length);
        return false;
    }
    while (from < c->plan.end) {
        uint64_t n = MIN(c->plan.end - from, PREALLOC_CHUNK);
        int r = blk_co_pwrite_zeroes(c->file, from, n, 0);

        if (!co_went_on(c, r, 0, "zeros", error)) {
            return false;
        }
        from += n;
    }
    /* An old header must not come back when the new tables are there. */
    return co_went_on(c, blk_co_flush(c->file), 0, "zeros", error);
}

static bool co_fn co_make_room(Creation *c, GError **error)
{
    PreallocMode mode = preallocation(c->options);
    int r = blk_co_truncate(c->file, 0, PREALLOC_MODE_OFF, 0, NULL);

    if (r == -ENOTSUP && blk_length(c->file) > 0) {
        return co_reuse(c, error);
    }
    if (r < 0) {
        wharf_set_error_errno(error, -r, "cannot empty '%s'",
                              block_node_name(block_backend_node(c->file)));
        return false;
    }
    return co_extend(c, c->file, 0, c->plan.metadata_end,
                     mode == PREALLOC_MODE_FULL ? PREALLOC_MODE_OFF : mode, error) &&
           (c->plan.end == c->plan.metadata_end ||
            co_extend(c, c->file, c->plan.metadata_end, c->plan.end, mode, error));
}

/* A data file that is raw keeps what it has; in another nothing may show up that is old. */
static bool co_fn co_prepare_data(Creation *c, GError **error)
{
    uint64_t size = c->header->size;
    uint64_t kept = 0;
    int r;

    if (!c->data || preallocation(c->options) == PREALLOC_MODE_OFF) {
        return true;
    }
    if (c->options->data_file_raw) {
        r = blk_co_refresh_length(c->data); /* nobody had to tell us so far */
        if (r < 0) {
            return co_went_on(c, r, 0, "the data file", error);
        }
        kept = MIN((uint64_t)blk_length(c->data), size);
    }
    if (blk_co_truncate(c->data, kept, PREALLOC_MODE_OFF, 0, error) < 0) {
        return false;
    }
    return co_extend(c, c->data, kept, size, preallocation(c->options), error);
}

static bool co_fn co_write(Creation *c, uint64_t offset, void *buffer, size_t bytes,
                           const char *what, GError **error)
{
    int r = blk_co_pwritev(c->file, offset, IOV_LOCAL(buffer, bytes), 0);

    return co_went_on(c, r, bytes, what, error);
}

static bool co_fn co_write_refblocks(Creation *c, void *buffer, GError **error)
{
    uint64_t cluster = qcow2_cluster_size(&c->plan.layout);

    for (uint64_t i = 0; i < c->plan.refblocks; i++) {
        qcow2_plan_refblock(&c->plan, i, buffer);
        if (!co_write(c, c->plan.refblocks_offset + i * cluster, buffer, cluster, "refcounts",
                      error)) {
            return false;
        }
    }
    return true;
}

/* A table of words, of @clusters clusters at @offset, as @table has it. */
static bool co_fn co_write_table(Creation *c, uint64_t offset, uint64_t clusters,
                                 Qcow2PlanTable *table, void *buffer, const char *what,
                                 GError **error)
{
    uint64_t bytes = clusters << c->plan.layout.cluster_bits;

    for (uint64_t at = 0; at < bytes;) {
        uint64_t n = MIN(bytes - at, WRITE_CHUNK);

        table(&c->plan, at / 8, n / 8, buffer);
        /* There are zeros already. */
        if (iov_is_zero(IOV_LOCAL(buffer, n))) {
            job_progress_advance(c->job, n);
        } else if (!co_write(c, offset + at, buffer, n, what, error)) {
            return false;
        }
        at += n;
    }
    return true;
}

static bool co_fn co_write_tables(Creation *c, GError **error)
{
    const Qcow2Plan *p = &c->plan;
    uint64_t cluster = qcow2_cluster_size(&p->layout);
    g_autofree void *buffer = g_malloc(MAX(WRITE_CHUNK, cluster));
    uint64_t l1_clusters = (p->l1_entries * 8 + cluster - 1) / cluster;

    return co_write_refblocks(c, buffer, error) &&
           co_write_table(c, p->reftable_offset, p->reftable_clusters, qcow2_plan_reftable, buffer,
                          "the refcount table", error) &&
           co_write_table(c, p->l1_offset, l1_clusters, qcow2_plan_l1, buffer, "the L1 table",
                          error) &&
           co_write_table(c, p->l2_offset, p->l2_tables, qcow2_plan_l2, buffer, "L2 tables", error);
}

static bool co_fn co_write_header(Creation *c, GError **error)
{
    int r = c->data ? blk_co_flush(c->data) : 0;

    r = r < 0 ? r : blk_co_flush(c->file);
    return co_went_on(c, r, 0, "tables", error) &&
           co_write(c, 0, c->first->data, c->first->len, "the header", error) &&
           co_went_on(c, blk_co_flush(c->file), 0, "the header", error);
}

static void tell_total(Creation *c)
{
    PreallocMode mode = preallocation(c->options);
    uint64_t total = c->plan.metadata_end;

    if (mode == PREALLOC_MODE_FALLOC) {
        total += c->plan.metadata_end;
    }
    if (mode == PREALLOC_MODE_FALLOC || mode == PREALLOC_MODE_FULL) {
        total += c->header->size;
    }
    job_progress_add_total(c->job, total);
}

static bool co_fn co_create(Creation *c, GError **error)
{
    tell_total(c);
    if (co_make_room(c, error) && co_prepare_data(c, error) && co_write_tables(c, error) &&
        co_write_header(c, error)) {
        return true;
    }
    blk_co_truncate(c->file, 0, PREALLOC_MODE_OFF, 0, NULL); /* it may be a lot */
    return false;
}

static bool co_fn co_open_files(Creation *c, BlockGraph *graph, GError **error)
{
    const BlockdevCreateOptionsQcow2 *o = c->options;

    c->file = block_create_co_open(graph, o->file, c->job, error);
    if (c->file && o->data_file) {
        c->data = block_create_co_open(graph, o->data_file, c->job, error);
    }
    return c->file && (c->data || !o->data_file);
}

/* All that can be refused before anything is lost. */
static bool co_fn co_begin(Creation *c, BlockGraph *graph, GError **error)
{
    g_autofree char *name = NULL;

    /* Mistakes in the options first, then what depends on the nodes. */
    c->header = header_from(c->options, error);
    if (!c->header || !co_open_files(c, graph, error)) {
        return false;
    }
    if (c->data) {
        name = block_node_plain_filename(block_backend_node(c->data));
    }
    if (name) {
        set_string(c->header, QCOW2_EXTENSION_DATA_FILE, name);
    }
    if (!qcow2_plan(&c->plan, c->header, preallocation(c->options) != PREALLOC_MODE_OFF, error)) {
        return false;
    }
    c->first = serialise(c->header, error);
    return c->first != NULL;
}

bool co_fn qcow2_co_create(BlockGraph *graph, const BlockdevCreateOptions *opts, Job *job,
                           GError **error)
{
    Creation c = {.options = &opts->u.qcow2, .job = job};
    bool ok = co_begin(&c, graph, error) && co_create(&c, error);

    block_backend_co_free(c.data);
    block_backend_co_free(c.file);
    qcow2_header_free(c.header);
    if (c.first) {
        g_byte_array_unref(c.first);
    }
    return ok;
}
