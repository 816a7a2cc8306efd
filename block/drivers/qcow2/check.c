/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/check.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "block/drivers/qcow2/check-internal.h"
#include "block/drivers/qcow2/state.h"
#include "util/error.h"

/* So long a check goes on before others of its thread have their turn. */
#define TURN_NS (5 * G_GINT64_CONSTANT(1000000))

/* More lines than these are not kept. */
#define MAX_FINDINGS 1000

/* Findings */

/* A line is made only where it is kept: a broken image can have millions. */
static G_GNUC_PRINTF(3, 0) void tell(Check *c, const char *prefix, const char *format, va_list ap)
{
    GPtrArray *findings = c->result->findings;
    g_autofree char *what = NULL;

    if (findings->len >= MAX_FINDINGS) {
        c->result->findings_left_out++;
        return;
    }
    what = g_strdup_vprintf(format, ap);
    g_ptr_array_add(findings, g_strconcat(prefix, what, NULL));
}

void check_tell(Check *c, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    tell(c, "", format, ap);
    va_end(ap);
}

void check_corruption(Check *c, bool repaired, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    tell(c, repaired ? "repaired: " : "corruption: ", format, ap);
    va_end(ap);
    c->result->corruptions += !repaired;
    c->result->corruptions_fixed += repaired;
}

/* Progress, of a check by a job */

void check_expect(Check *c, uint64_t bytes)
{
    if (c->job) {
        job_progress_add_total(c->job, bytes);
    }
}

void check_advance(Check *c, uint64_t bytes)
{
    if (c->job) {
        job_progress_advance(c->job, bytes);
    }
}

/* The file */

/* Reads of what is in memory already may take no time, and what is found in them a lot. */
static void co_fn check_co_let_others(Check *c)
{
    int64_t now = aio_now_ns();

    if (now - c->turn_ns >= TURN_NS) {
        aio_co_sleep_ns(1);
        c->turn_ns = aio_now_ns();
    }
}

static bool co_fn check_co_is_cancelled(Check *c)
{
    return *c->give_up || (c->job && !job_co_pause_point(c->job));
}

int co_fn check_co_read(Check *c, uint64_t offset, void *buffer, uint64_t bytes)
{
    uint64_t inside = offset < c->length ? MIN(bytes, c->length - offset) : 0;

    check_co_let_others(c);
    if (check_co_is_cancelled(c) && !c->must_finish) {
        return -ECANCELED;
    }
    memset((char *)buffer + inside, 0, bytes - inside);
    return inside ? block_child_co_preadv(c->file, offset, IOV_LOCAL(buffer, inside), 0) : 0;
}

int co_fn check_co_write(Check *c, uint64_t offset, const void *buffer, uint64_t bytes)
{
    c->wrote = true;
    return block_child_co_pwritev(c->file, offset, IOV_LOCAL(buffer, bytes), 0);
}

int co_fn check_co_flush(Check *c)
{
    int r = c->wrote ? block_child_co_flush(c->file) : 0;

    c->wrote = c->wrote && r < 0;
    return r;
}

int co_fn check_co_write_header(Check *c)
{
    uint8_t start[QCOW2_HEADER_PATCH];
    int r = check_co_read(c, 0, start, sizeof(start));

    if (r == 0) {
        qcow2_header_patch(c->header, start);
        r = check_co_write(c, 0, start, sizeof(start));
    }
    return r < 0 ? r : check_co_flush(c);
}

bool check_is_inside(const Check *c, uint64_t offset, uint64_t bytes)
{
    uint64_t end = c->clusters << c->layout.cluster_bits;

    return offset <= end && bytes <= end - offset;
}

/* Begin and end */

static void check_clear(Check *c)
{
    qcow2_counts_clear(&c->named);
    g_clear_pointer(&c->header, qcow2_header_free);
    g_clear_pointer(&c->tables, g_array_unref);
    g_clear_pointer(&c->reftable, g_free);
    g_clear_pointer(&c->differences, g_hash_table_unref);
}

static bool co_fn co_load_header(Check *c, GError **error)
{
    c->header = qcow2_image_co_read_header(c->file, error);
    return c->header && qcow2_header_check_format(c->header, error);
}

static bool check_init(Check *c, GError **error)
{
    uint64_t size = UINT64_C(1) << c->header->cluster_bits;
    int r;

    qcow2_layout_init(&c->layout, c->header);
    c->clusters = c->length / size + (c->length % size > 0);
    c->tables = g_array_new(FALSE, FALSE, sizeof(CheckTable));
    r = qcow2_counts_init(&c->named, c->clusters);
    if (r < 0) {
        wharf_set_error_errno(error, -r, "a file of %" G_GUINT64_FORMAT " clusters is too large",
                              c->clusters);
    }
    return r == 0;
}

/* When nothing is wrong any more the header need not say it. */
static int co_fn co_clear_marks(Check *c)
{
    const uint64_t marks = QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT;

    if (c->repair == IMAGE_REPAIR_NONE || c->result->corruptions > 0 || c->incomplete ||
        !(c->header->incompatible & marks)) {
        return 0;
    }
    c->header->incompatible &= ~marks;
    return check_co_write_header(c);
}

static void sum_up(Check *c)
{
    ImageCheck *result = c->result;
    uint64_t size = check_cluster_size(c);

    result->has_image_end_offset = true;
    result->image_end_offset = (int64_t)MIN(c->refcount_end * size, INT64_MAX);
    result->has_total_clusters = true;
    result->total_clusters = (int64_t)(c->header->size / size + (c->header->size % size > 0));
}

static int co_fn co_check(Check *c)
{
    int r = check_co_walk(c);

    if (r == 0) {
        r = check_co_flush(c);
    }
    if (r == 0) {
        r = check_co_refcounts(c);
    }
    if (r == 0) {
        r = check_co_switch_snapshots(c);
    }
    if (r == 0) {
        r = check_co_copied(c);
    }
    if (r == 0) {
        r = co_clear_marks(c);
    }
    return r;
}

bool co_fn qcow2_check_co_run(BlockChild *file, ImageRepair repair, Job *job, const bool *give_up,
                              ImageCheck *result, GError **error)
{
    Check c = {.file = file,
               .repair = repair,
               .job = job,
               .give_up = give_up,
               .result = result,
               .length = (uint64_t)block_child_length(file)};
    int r = 0;
    bool ok = co_load_header(&c, error) && check_init(&c, error);

    if (ok) {
        r = co_check(&c);
        sum_up(&c);
    }
    if (r < 0) {
        result->check_errors++;
        wharf_set_error_errno(error, -r, "the check could not be completed");
    }
    check_clear(&c);
    return ok && r == 0;
}
