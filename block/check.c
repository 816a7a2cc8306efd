/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Checks of images: who may begin one, and what others may do meanwhile. */
#include "block/block-internal.h"
#include "block/query-internal.h"
#include "block/serialise-internal.h"
#include "job/driver.h"
#include "qapi/commands-block-job.h"

static ImageCheck *result_new(void)
{
    ImageCheck *result = g_new0(ImageCheck, 1);

    result->findings = g_ptr_array_new_with_free_func(g_free);
    return result;
}

static bool check_can(const BlockNode *node, GError **error)
{
    if (!node->drv->co_check) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "block node '%s': images of driver '%s' cannot be checked", node->name,
                    node->drv->name);
    }
    return node->drv->co_check != NULL;
}

/* With the node drained. */
static bool co_fn co_repair_drained(BlockNode *node, ImageRepair repair, Job *job,
                                    ImageCheck *result, GError **error)
{
    bool ok;

    block_node_co_drain_begin(node);
    ok = node->drv->co_check(node, repair, job, result, error);
    if (result->corruptions_fixed > 0) {
        block_notify_content(node);
    }
    block_node_co_drain_end(node);
    return ok;
}

/* Everything that was written comes into the image, and nothing more is. */
static bool co_fn co_begin_no_writes(BlockNode *node, BlockTracked *t, GError **error)
{
    int r;

    block_node_co_drain_begin(node);
    r = node->drv->co_settle && !block_node_read_only(node) ? node->drv->co_settle(node) : 0;
    block_tracked_co_begin(node, t, 0, UINT64_MAX, true);
    block_node_co_drain_end(node);
    if (r < 0) {
        block_tracked_end(node, t);
        wharf_set_error_errno(error, -r, "block node '%s': cannot write what it has in memory",
                              node->name);
    }
    return r == 0;
}

/* Nothing changes, so there may be requests that read. */
static bool co_fn co_check_beside_reads(BlockNode *node, Job *job, ImageCheck *result,
                                        GError **error)
{
    BlockTracked t;
    bool ok;

    if (!co_begin_no_writes(node, &t, error)) {
        return false;
    }
    ok = node->drv->co_check(node, IMAGE_REPAIR_NONE, job, result, error);
    block_tracked_end(node, &t);
    return ok;
}

/* With nobody who could change the image. */
static bool co_fn co_check(BlockNode *node, ImageRepair repair, Job *job, ImageCheck *result,
                           GError **error)
{
    bool ok;

    co_mutex_lock(&node->image_lock);
    ok = repair == IMAGE_REPAIR_NONE ? co_check_beside_reads(node, job, result, error)
                                     : co_repair_drained(node, repair, job, result, error);
    co_mutex_unlock(&node->image_lock);
    return ok;
}

/* What does not depend on the driver. As in QEMU, what there is nothing of is left out. */
static void complete(ImageCheck *result, BlockNode *node)
{
    result->filename = block_node_filename(node);
    result->format = g_strdup(node->drv->name);
    result->has_leaks = result->leaks > 0;
    result->has_corruptions = result->corruptions > 0;
    result->has_leaks_fixed = result->leaks_fixed > 0;
    result->has_corruptions_fixed = result->corruptions_fixed > 0;
    result->has_allocated_clusters = result->allocated_clusters > 0;
    result->has_fragmented_clusters = result->fragmented_clusters > 0;
    result->has_compressed_clusters = result->compressed_clusters > 0;
}

/* A repair has the node for itself, but for those who read. */
static BlockBackend *co_fn co_hold(BlockNode *node, ImageRepair repair, GError **error)
{
    BlockPerm perm = BLOCK_PERM_CONSISTENT_READ, shared = BLOCK_PERM_ALL;
    BlockBackend *blk;

    if (repair != IMAGE_REPAIR_NONE) {
        perm |= BLOCK_PERM_WRITE;
        shared = BLOCK_PERM_CONSISTENT_READ;
    }
    blk = block_backend_co_new(node, "blockdev-check", perm, shared, error);
    if (blk) {
        blk->pins = true;
    }
    return blk;
}

ImageCheck *co_fn block_check_co_node(BlockNode *node, ImageRepair repair, Job *job, GError **error)
{
    g_autoptr(ImageCheck) result = NULL;
    BlockBackend *blk = check_can(node, error) ? co_hold(node, repair, error) : NULL;
    g_autoptr(GError) local = NULL;

    if (!blk) {
        return NULL;
    }
    result = result_new();
    /* One that has come to an end too early has something to tell nevertheless. */
    if (!co_check(node, repair, job, result, &local)) {
        if (result->check_errors == 0) {
            g_propagate_error(error, g_steal_pointer(&local));
            g_clear_pointer(&result, image_check_free);
        } else {
            g_ptr_array_add(result->findings, g_strdup_printf("error: %s", local->message));
        }
    }
    if (result) {
        complete(result, node);
    }
    block_backend_co_free(blk);
    return g_steal_pointer(&result);
}

/* As a job */

typedef struct CheckJob {
    BlockGraph *graph;
    char *node_name;
    ImageRepair repair;
    ImageCheck *found;
} CheckJob;

static bool co_fn check_co_run(Job *job, GError **error)
{
    CheckJob *c = job_state(job);
    BlockNode *node = block_graph_find(c->graph, c->node_name, error);

    if (!node || !block_graph_begin_command(c->graph, error)) {
        return false;
    }
    c->found = block_check_co_node(node, c->repair, job, error);
    block_graph_end_command(c->graph);
    return c->found && !job_is_cancelled(job);
}

static QValue *check_result(Job *job)
{
    const CheckJob *c = job_state(job);

    return image_check_to_qvalue(c->found);
}

static void check_free(Job *job)
{
    CheckJob *c = job_state(job);

    image_check_free(c->found);
    g_free(c->node_name);
}

static const JobDriver check_driver = {
    .type = JOB_TYPE_CHECK,
    .state_size = sizeof(CheckJob),
    .co_run = check_co_run,
    .result = check_result,
    .free = check_free,
};

bool co_fn qmp_blockdev_check_start(QapiCall *call, const char *id, const char *node_name,
                                    ImageRepair repair, GError **error)
{
    BlockGraph *graph = call->self;
    BlockNode *node = block_graph_find(graph, node_name, error);
    JobOptions options = {.id = id, .manual_dismiss = true};
    Job *job = node ? job_new(graph->jobs, &check_driver, &options, error) : NULL;

    if (!job) {
        return false;
    }
    *(CheckJob *)job_state(job) =
        (CheckJob){.graph = graph, .node_name = g_strdup(node_name), .repair = repair};
    job_start(job);
    return true;
}
