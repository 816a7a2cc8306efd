/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The life of one job. */
#include <errno.h>

#include "job/job-internal.h"
#include "qapi/events-job.h"
#include "util/error.h"

void job_set_status(Job *job, JobStatus status)
{
    g_assert(job_status_may_follow(job->status, status));
    job->status = status;
    qapi_event_job_status_change(job->registry->events, job->id, status);
}

/* References */

Job *job_ref(Job *job)
{
    job->refs++;
    return job;
}

void job_unref(Job *job)
{
    if (!job || --job->refs > 0) {
        return;
    }
    if (job->driver->free) {
        job->driver->free(job);
    }
    g_clear_error(&job->error);
    g_free(job->state);
    g_free(job->id);
    g_free(job);
}

gpointer job_state(Job *job)
{
    return job->state;
}

const char *job_id(const Job *job)
{
    return job->id;
}

JobStatus job_status(const Job *job)
{
    return job->status;
}

bool job_is_cancelled(const Job *job)
{
    return job->cancelled;
}

void job_progress_add_total(Job *job, uint64_t units)
{
    job->total += units;
}

void job_progress_advance(Job *job, uint64_t units)
{
    job->current += units;
}

/* Waiting */

void job_wake(Job *job)
{
    Coroutine *co = g_steal_pointer(&job->waiting);

    if (co) {
        aio_co_wake(co);
    }
}

static void co_fn job_co_wait(Job *job)
{
    g_assert(!job->waiting);
    job->waiting = coroutine_self();
    coroutine_yield();
}

static void co_fn job_co_rest(Job *job)
{
    JobStatus before = job->status;

    job_set_status(job, before == JOB_STATUS_READY ? JOB_STATUS_STANDBY : JOB_STATUS_PAUSED);
    while (job->paused && !job->cancelled) {
        job_co_wait(job);
    }
    job_set_status(job, before);
}

bool co_fn job_co_pause_point(Job *job)
{
    if (job->paused && !job->cancelled) {
        job_co_rest(job);
    }
    return !job->cancelled;
}

static void wake_sleeper(void *opaque)
{
    job_wake(opaque);
}

bool co_fn job_co_sleep(Job *job, int64_t ns)
{
    AioTimer *timer;

    if (job->paused || job->cancelled) {
        return job_co_pause_point(job);
    }
    timer = aio_timer_new(job->registry->main, wake_sleeper, job);
    aio_timer_arm(timer, aio_now_ns() + ns);
    job_co_wait(job);
    aio_timer_free(timer);
    return job_co_pause_point(job);
}

void job_set_ready(Job *job)
{
    job_set_status(job, JOB_STATUS_READY);
}

/* The end */

static void job_conclude(Job *job)
{
    job->settling = false;
    job_set_status(job, JOB_STATUS_CONCLUDED);
    job_registry_tell_ended(job->registry);
    if (!job->manual_dismiss) {
        job_dismiss(job, NULL);
    }
}

static void co_fn job_co_fail(Job *job)
{
    job->settling = true;
    job_set_status(job, JOB_STATUS_ABORTING);
    /* Whatever it has failed of then, that was not why. */
    if (job->cancelled) {
        g_clear_error(&job->error);
    }
    if (!job->error) {
        g_set_error_literal(&job->error, WHARF_ERROR, WHARF_ERROR_GENERIC, g_strerror(ECANCELED));
    }
    if (job->driver->co_abort) {
        job->driver->co_abort(job);
    }
    if (job->driver->co_clean) {
        job->driver->co_clean(job);
    }
    job_conclude(job);
}

static void co_fn job_co_succeed(Job *job)
{
    job->settling = true;
    if (job->driver->co_prepare && !job->driver->co_prepare(job, &job->error)) {
        job_co_fail(job);
        return;
    }
    if (job->driver->co_commit) {
        job->driver->co_commit(job);
    }
    if (job->driver->co_clean) {
        job->driver->co_clean(job);
    }
    job_conclude(job);
}

/* All jobs that a job waits for have done their work; none does, yet. */
static void co_fn job_co_settle(Job *job)
{
    job->cancelled = false; /* came too late */
    job->current = job->total;
    job_set_status(job, JOB_STATUS_WAITING);
    job_set_status(job, JOB_STATUS_PENDING);
    if (!job->manual_finalize) {
        job_co_succeed(job);
    }
}

static void co_fn job_co_main(void *opaque)
{
    g_autoptr(Job) job = opaque;
    bool done;

    if (job->status != JOB_STATUS_CREATED) {
        return; /* cancelled before it began */
    }
    job_set_status(job, JOB_STATUS_RUNNING);
    done = job_co_pause_point(job) && job->driver->co_run(job, &job->error);
    /* What takes effect only when somebody says so can still be undone. */
    if (done && !(job->cancelled && job->manual_finalize)) {
        job_co_settle(job);
    } else {
        job_co_fail(job);
    }
}

void job_start(Job *job)
{
    g_assert(!job->started);
    job->started = true;
    aio_co_enter(job->registry->main, job_co_main, job_ref(job));
}

/* The verbs */

static bool job_check(const Job *job, JobVerb verb, GError **error)
{
    if (!job_verb_check(verb, job->status, job->id, error)) {
        return false;
    }
    if (job->settling) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "job '%s' is being finalized already; wait until it has concluded", job->id);
        return false;
    }
    return true;
}

bool job_pause(Job *job, GError **error)
{
    if (!job_check(job, JOB_VERB_PAUSE, error)) {
        return false;
    }
    if (job->paused) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "job '%s' is already paused; job-resume lets it go on", job->id);
        return false;
    }
    job->paused = true;
    job_wake(job);
    return true;
}

bool job_resume(Job *job, GError **error)
{
    if (!job_check(job, JOB_VERB_RESUME, error)) {
        return false;
    }
    if (!job->paused) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "job '%s' cannot be resumed, for it was not paused", job->id);
        return false;
    }
    job->paused = false;
    job_wake(job);
    return true;
}

bool job_complete(Job *job, GError **error)
{
    if (!job_check(job, JOB_VERB_COMPLETE, error)) {
        return false;
    }
    /* Only a job that says that it is ready comes here, and that can be completed. */
    return job->driver->complete(job, error);
}

bool co_fn job_co_cancel(Job *job, GError **error)
{
    g_autoptr(Job) kept = job_ref(job);

    if (!job_check(job, JOB_VERB_CANCEL, error)) {
        return false;
    }
    if (job->cancelled) {
        return true;
    }
    job->cancelled = true;
    if (job->status == JOB_STATUS_CREATED || job->status == JOB_STATUS_PENDING) {
        job_co_fail(job);
        return true;
    }
    if (job->driver->cancel) {
        job->driver->cancel(job);
    }
    job_wake(job);
    return true;
}

bool co_fn job_co_finalize(Job *job, GError **error)
{
    g_autoptr(Job) kept = job_ref(job);

    if (!job_check(job, JOB_VERB_FINALIZE, error)) {
        return false;
    }
    job_co_succeed(job);
    return true;
}

bool job_dismiss(Job *job, GError **error)
{
    if (!job_check(job, JOB_VERB_DISMISS, error)) {
        return false;
    }
    job_set_status(job, JOB_STATUS_NULL);
    job_registry_forget(job->registry, job);
    return true;
}
