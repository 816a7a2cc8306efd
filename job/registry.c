/* SPDX-License-Identifier: GPL-2.0-or-later */
/* All jobs of a daemon. */
#include "job/job-internal.h"
#include "util/error.h"
#include "util/name.h"

JobRegistry *job_registry_new(AioContext *main, const QapiEventSink *events)
{
    JobRegistry *registry = g_new0(JobRegistry, 1);

    registry->main = aio_context_ref(main);
    registry->events = events;
    registry->by_id =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)job_unref);
    co_queue_init(&registry->ended);
    return registry;
}

void job_registry_free(JobRegistry *registry)
{
    if (!registry) {
        return;
    }
    g_queue_clear(&registry->jobs);
    g_hash_table_destroy(registry->by_id);
    aio_context_unref(registry->main);
    g_free(registry);
}

static bool check_id(JobRegistry *registry, const char *id, GError **error)
{
    if (!name_check(id, "job id", error)) {
        return false;
    }
    if (g_hash_table_contains(registry->by_id, id)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_EXISTS,
                    "there is a job '%s' already; choose another id, or dismiss that one when it "
                    "has ended",
                    id);
        return false;
    }
    return true;
}

Job *job_new(JobRegistry *registry, const JobDriver *driver, const JobOptions *options,
             GError **error)
{
    Job *job;

    if (!check_id(registry, options->id, error)) {
        return NULL;
    }
    if (registry->closing) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "job '%s' cannot be made: the daemon is ending", options->id);
        return NULL;
    }
    job = g_new0(Job, 1);
    job->refs = 1;
    job->registry = registry;
    job->driver = driver;
    job->state = driver->state_size ? g_malloc0(driver->state_size) : NULL;
    job->id = g_strdup(options->id);
    job->manual_finalize = options->manual_finalize;
    job->manual_dismiss = options->manual_dismiss;
    g_hash_table_insert(registry->by_id, job->id, job);
    g_queue_push_head(&registry->jobs, job);
    job_set_status(job, JOB_STATUS_CREATED);
    return job;
}

void job_registry_forget(JobRegistry *registry, Job *job)
{
    g_queue_remove(&registry->jobs, job);
    g_hash_table_remove(registry->by_id, job->id);
}

Job *job_registry_find(JobRegistry *registry, const char *id, GError **error)
{
    Job *job = g_hash_table_lookup(registry->by_id, id);

    if (!job) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "there is no job '%s'; query-jobs lists them", id);
    }
    return job;
}

static JobInfo *job_info(const Job *job)
{
    JobInfo *info = g_new0(JobInfo, 1);

    info->id = g_strdup(job->id);
    info->type = job->driver->type;
    info->status = job->status;
    info->current_progress = (int64_t)MIN(job->current, INT64_MAX);
    info->total_progress = (int64_t)MIN(job->total, INT64_MAX);
    info->error = job->error ? g_strdup(job->error->message) : NULL;
    if (job->status == JOB_STATUS_CONCLUDED && !job->error && job->driver->result) {
        info->result = job->driver->result((Job *)job);
    }
    return info;
}

GPtrArray *job_registry_query(JobRegistry *registry)
{
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)job_info_free);

    for (GList *l = registry->jobs.head; l; l = l->next) {
        g_ptr_array_add(list, job_info(l->data));
    }
    return list;
}

/* The end of all */

void job_registry_tell_ended(JobRegistry *registry)
{
    co_queue_wake_all(&registry->ended);
}

static void on_deadline(void *opaque)
{
    job_registry_tell_ended(opaque);
}

/* What has not ended and can be told to. Each in a step of its own: the list may change. */
static Job *next_to_cancel(JobRegistry *registry)
{
    for (GList *l = registry->jobs.head; l; l = l->next) {
        Job *job = l->data;

        if (!job->cancelled && !job->settling && job->status != JOB_STATUS_CONCLUDED) {
            return job;
        }
    }
    return NULL;
}

void co_fn job_registry_co_cancel_all(JobRegistry *registry)
{
    Job *job;

    registry->closing = true;
    while ((job = next_to_cancel(registry))) {
        job_co_cancel(job, NULL);
    }
}

/* Dismiss those that have ended. Returns how many have not. */
static unsigned dismiss_ended(JobRegistry *registry)
{
    GList *next;

    for (GList *l = registry->jobs.head; l; l = next) {
        next = l->next;
        if (job_status(l->data) == JOB_STATUS_CONCLUDED) {
            job_dismiss(l->data, NULL);
        }
    }
    return registry->jobs.length;
}

bool co_fn job_registry_co_end_all(JobRegistry *registry, int64_t wait_ns)
{
    g_autoptr(AioTimer) timer = aio_timer_new(registry->main, on_deadline, registry);
    int64_t deadline = aio_now_ns() + wait_ns;

    aio_timer_arm(timer, deadline);
    job_registry_co_cancel_all(registry);
    while (dismiss_ended(registry) > 0 && aio_now_ns() < deadline) {
        co_queue_wait(&registry->ended, NULL);
        /* Those whose work was done before they heard of it. */
        job_registry_co_cancel_all(registry);
    }
    for (GList *l = registry->jobs.head; l; l = l->next) {
        g_warning("job '%s' does not end", job_id(l->data));
    }
    return registry->jobs.length == 0;
}
