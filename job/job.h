/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * job/job.h - work that outlives the command that asked for it: known by an id, watched, paused,
 * cancelled, and its result kept until somebody has looked at it.
 *
 * What users of the room need; job/driver.h is for authors of a kind of job. The room knows nothing
 * of what jobs do: those of block nodes are in block/.
 *
 * Threads   Main thread only; co_fn in coroutines of the main context.
 * Lifetime  The registry owns its jobs until they are dismissed, by a client or by themselves. A
 *           drain of nodes that a job uses holds its requests up at the gates of its backends, and
 *           so the job; it is neither told nor in another state meanwhile.
 * Errors    WHARF_ERROR. A verb that does not fit the state of a job changes nothing.
 */
#ifndef WHARF_JOB_JOB_H
#define WHARF_JOB_JOB_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "aio/aio.h"
#include "aio/coroutine.h"
#include "qapi/qapi.h"
#include "qapi/types-job.h"

typedef struct JobRegistry JobRegistry;
typedef struct Job Job;

/*
 * A registry of jobs that run in @main, the main thread's context (a reference is kept). @events
 * (may be NULL, borrowed, must outlive the registry) takes the events.
 */
JobRegistry *job_registry_new(AioContext *main, const QapiEventSink *events);

/* Frees a registry that holds no job that has begun and not ended. Accepts NULL. */
void job_registry_free(JobRegistry *registry);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(JobRegistry, job_registry_free)

/* Cancel all jobs, newest first, without waiting for their ends. None can be made any more. */
void co_fn job_registry_co_cancel_all(JobRegistry *registry);

/*
 * Cancel all jobs, newest first, wait until they have ended and dismiss them, but no longer than
 * @wait_ns. None can be made any more. Returns whether all are gone; each that is left is logged.
 */
bool co_fn job_registry_co_end_all(JobRegistry *registry, int64_t wait_ns);

/* The job @id (borrowed), or NULL and WHARF_ERROR_NOT_FOUND. */
Job *job_registry_find(JobRegistry *registry, const char *id, GError **error);

/* All jobs, newest first (JobInfo). */
GPtrArray *job_registry_query(JobRegistry *registry);

/* Register the commands of module job, with @registry as their service. */
void job_register_commands(JobRegistry *registry, QapiCommandTable *table);

JobStatus job_status(const Job *job);

/* The verbs; see the commands of their names. */
bool job_pause(Job *job, GError **error);
bool job_resume(Job *job, GError **error);
bool co_fn job_co_cancel(Job *job, GError **error);
bool job_complete(Job *job, GError **error);
bool co_fn job_co_finalize(Job *job, GError **error);
bool job_dismiss(Job *job, GError **error);

#endif
