/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands of module job. */
#include "job/job.h"
#include "qapi/commands-job.h"

void job_register_commands(JobRegistry *registry, QapiCommandTable *table)
{
    qapi_command_table_add(table, qapi_commands_job, registry);
}

GPtrArray *co_fn qmp_query_jobs(QapiCall *call, GError **error)
{
    return job_registry_query(call->self);
}

bool co_fn qmp_job_pause(QapiCall *call, const char *id, GError **error)
{
    Job *job = job_registry_find(call->self, id, error);

    return job && job_pause(job, error);
}

bool co_fn qmp_job_resume(QapiCall *call, const char *id, GError **error)
{
    Job *job = job_registry_find(call->self, id, error);

    return job && job_resume(job, error);
}

bool co_fn qmp_job_cancel(QapiCall *call, const char *id, GError **error)
{
    Job *job = job_registry_find(call->self, id, error);

    return job && job_co_cancel(job, error);
}

bool co_fn qmp_job_complete(QapiCall *call, const char *id, GError **error)
{
    Job *job = job_registry_find(call->self, id, error);

    return job && job_complete(job, error);
}

bool co_fn qmp_job_finalize(QapiCall *call, const char *id, GError **error)
{
    Job *job = job_registry_find(call->self, id, error);

    return job && job_co_finalize(job, error);
}

bool co_fn qmp_job_dismiss(QapiCall *call, const char *id, GError **error)
{
    Job *job = job_registry_find(call->self, id, error);

    return job && job_dismiss(job, error);
}
