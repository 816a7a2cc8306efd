/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * job/driver.h - how to write a kind of job.
 *
 * A kind of job is one const table. Whoever makes a job (a command of its room) calls job_new(),
 * fills in its state, and starts it. The job then is a coroutine in the main context, which comes
 * to pause points often, at least wherever it might go on for a while.
 *
 *   created ─ running ─ (ready) ─ waiting ─ pending ─ concluded ─ null
 *                └──────────┴────────┴─────────┴─ aborting ─┘
 *
 * Threads   Main thread only, as job/job.h.
 * Lifetime  A job keeps what it holds on block nodes or other objects in its state, from job_new()
 *           or co_run to co_clean. It lasts until after that.
 * Errors    co_run and co_prepare fill @error with what the job's user is to read.
 */
#ifndef WHARF_JOB_DRIVER_H
#define WHARF_JOB_DRIVER_H

#include "job/job.h"

typedef struct JobDriver {
    JobType type;
    size_t state_size; /* of job_state(), zeroed in job_new() */

    /*
     * The work. True if it is done, also where the job was cancelled too late. False without
     * @error: it was cancelled.
     */
    bool co_fn (*co_run)(Job *job, GError **error);

    /*
     * Afterwards, all may be absent. If the work was done and the job is finalized: co_prepare, the
     * last step that may fail, then co_commit. If it was not, or is not to be: co_abort. At last,
     * in any case, co_clean, also for a job that was cancelled before it began.
     */
    bool co_fn (*co_prepare)(Job *job, GError **error);
    void co_fn (*co_commit)(Job *job);
    void co_fn (*co_abort)(Job *job);
    void co_fn (*co_clean)(Job *job);

    /* A job that is ready is to end; absent in those that never are. May not suspend. */
    bool (*complete)(Job *job, GError **error);
    /* It was cancelled: end what it waits for, if not in job_co_sleep(). May not suspend. */
    void (*cancel)(Job *job);

    /* What it has found, when it has succeeded; absent in those that find nothing. */
    QValue *(*result)(Job *job);

    /* Free what the state refers to. */
    void (*free)(Job *job);
} JobDriver;

/* How a job ends. By default it takes effect, and is forgotten, by itself. */
typedef struct JobOptions {
    const char *id;       /* copied */
    bool manual_finalize; /* it waits for job-finalize */
    bool manual_dismiss;  /* its result is kept until job-dismiss */
} JobOptions;

/* A new job in state created, owned by @registry. NULL: the id is no good or taken. */
Job *job_new(JobRegistry *registry, const JobDriver *driver, const JobOptions *options,
             GError **error);

/* Let it run, as a coroutine that is entered soon. Once. */
void job_start(Job *job);

/* References, for those who keep a job in their hands while it may end. */
Job *job_ref(Job *job);
void job_unref(Job *job);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Job, job_unref)

gpointer job_state(Job *job);
const char *job_id(const Job *job);

/* For the job's own coroutine, in co_run: */

/* Rest here if told to. False if the job was cancelled, and should end. */
bool co_fn job_co_pause_point(Job *job);

/* The same, after @ns nanoseconds, or sooner if told to rest, to end, or by job_wake(). */
bool co_fn job_co_sleep(Job *job, int64_t ns);

/* It is ready from now on (see JobDriver.complete). */
void job_set_ready(Job *job);

/* For everybody who works for the job: */

void job_wake(Job *job);
bool job_is_cancelled(const Job *job);

/* The job has @units more to do, or has done @units of it. */
void job_progress_add_total(Job *job, uint64_t units);
void job_progress_advance(Job *job, uint64_t units);

#endif
