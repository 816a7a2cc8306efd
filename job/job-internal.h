/* SPDX-License-Identifier: GPL-2.0-or-later */
/* job/job-internal.h - what the files of the room share. Main thread only. */
#ifndef WHARF_JOB_JOB_INTERNAL_H
#define WHARF_JOB_JOB_INTERNAL_H

#include "aio/lock.h"
#include "job/driver.h"

struct JobRegistry {
    AioContext *main;
    const QapiEventSink *events;
    GHashTable *by_id; /* Job.id -> Job, a reference */
    GQueue jobs;       /* Job, borrowed from by_id, newest first */
    CoQueue ended;     /* a job has concluded, or waiting for that takes too long */
    bool closing;      /* nothing can be made any more */
};

struct Job {
    unsigned refs;
    JobRegistry *registry;
    const JobDriver *driver;
    gpointer state;
    char *id;
    bool manual_finalize, manual_dismiss;

    JobStatus status;
    GError *error; /* why it has failed */
    uint64_t current, total;
    bool started;
    bool cancelled;     /* told to end */
    bool paused;        /* told to rest */
    bool settling;      /* what follows the work is under way; nothing can stop that */
    Coroutine *waiting; /* in job_co_wait() */
};

typedef enum {
    JOB_VERB_CANCEL,
    JOB_VERB_PAUSE,
    JOB_VERB_RESUME,
    JOB_VERB_COMPLETE,
    JOB_VERB_FINALIZE,
    JOB_VERB_DISMISS,
    JOB_VERB__MAX,
} JobVerb;

/* state.c: pure */

/* Whether a job may go from one state to the other. */
bool job_status_may_follow(JobStatus from, JobStatus to);
/* Whether @verb fits the state @status of the job @id; @error says in which states it would. */
bool job_verb_check(JobVerb verb, JobStatus status, const char *id, GError **error);

/* job.c */

/* Put it into another state, and tell. */
void job_set_status(Job *job, JobStatus status);

/* registry.c */

/* It has concluded; tell those who wait. */
void job_registry_tell_ended(JobRegistry *registry);
/* It is null. Drops the registry's reference. */
void job_registry_forget(JobRegistry *registry, Job *job);

#endif
