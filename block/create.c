/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blockdev-create: a job that lets a driver make an image. */
#include "block/create.h"

#include "block/block-internal.h"
#include "qapi/commands-block-job.h"

typedef struct CreateJob {
    BlockGraph *graph;
    const BlockDriver *drv;
    BlockdevCreateOptions *opts;
} CreateJob;

BlockBackend *co_fn block_create_co_open(BlockGraph *graph, const BlockdevRef *ref, Job *job,
                                         GError **error)
{
    g_autofree char *user = g_strdup_printf("job '%s'", job_id(job));
    BlockPerm others = BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE_UNCHANGED;
    BlockNode *node = ref->type == QVALUE_STRING
                          ? block_node_ref(block_graph_find(graph, ref->u.reference, error))
                          : block_node_co_open(graph, &ref->u.definition, NULL, error);
    BlockBackend *blk;

    if (!node) {
        return NULL;
    }
    blk = block_backend_co_new(node, user, BLOCK_PERM_WRITE | BLOCK_PERM_RESIZE, others, error);
    block_node_co_unref(node);
    return blk;
}

static bool co_fn create_co_run(Job *job, GError **error)
{
    CreateJob *c = job_state(job);
    bool ok;

    if (!block_graph_begin_command(c->graph, error)) {
        return false;
    }
    ok = c->drv->co_create(c->graph, c->opts, job, error);
    block_graph_end_command(c->graph);
    return ok;
}

static void create_free(Job *job)
{
    CreateJob *c = job_state(job);

    blockdev_create_options_free(c->opts);
}

static const JobDriver create_driver = {
    .type = JOB_TYPE_CREATE,
    .state_size = sizeof(CreateJob),
    .co_run = create_co_run,
    .free = create_free,
};

bool co_fn qmp_blockdev_create(QapiCall *call, const char *id, const BlockdevCreateOptions *options,
                               GError **error)
{
    BlockGraph *graph = call->self;
    const BlockDriver *drv = block_driver_find(options->driver);
    Job *job;

    if (!drv || !drv->co_create) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "driver '%s' does not support blockdev-create",
                    blockdev_driver_to_string(options->driver));
        return false;
    }
    job = job_new(graph->jobs, &create_driver, &(JobOptions){.id = id, .manual_dismiss = true},
                  error);
    if (!job) {
        return false;
    }
    *(CreateJob *)job_state(job) =
        (CreateJob){.graph = graph, .drv = drv, .opts = blockdev_create_options_copy(options)};
    job_start(job);
    return true;
}

void block_register_job_commands(BlockGraph *graph, JobRegistry *jobs, QapiCommandTable *table)
{
    graph->jobs = jobs;
    qapi_command_table_add(table, qapi_commands_block_job, graph);
}
