/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which states follow each other, and what can be asked for in which. */
#include "job/job-internal.h"

#include "util/error.h"

#define IN(status) (1u << JOB_STATUS_##status)

/* While its work is not done. */
#define AT_WORK (IN(CREATED) | IN(RUNNING) | IN(PAUSED) | IN(READY) | IN(STANDBY))

static const unsigned followers[JOB_STATUS__COUNT] = {
    [JOB_STATUS_UNDEFINED] = IN(CREATED),
    [JOB_STATUS_CREATED] = IN(RUNNING) | IN(ABORTING) | IN(NULL),
    [JOB_STATUS_RUNNING] = IN(PAUSED) | IN(READY) | IN(WAITING) | IN(ABORTING),
    [JOB_STATUS_PAUSED] = IN(RUNNING),
    [JOB_STATUS_READY] = IN(STANDBY) | IN(WAITING) | IN(ABORTING),
    [JOB_STATUS_STANDBY] = IN(READY),
    [JOB_STATUS_WAITING] = IN(PENDING) | IN(ABORTING),
    [JOB_STATUS_PENDING] = IN(CONCLUDED) | IN(ABORTING),
    [JOB_STATUS_ABORTING] = IN(CONCLUDED),
    [JOB_STATUS_CONCLUDED] = IN(NULL),
};

static const struct {
    const char *name;
    unsigned states;
} verbs[JOB_VERB__MAX] = {
    [JOB_VERB_CANCEL] = {"cancel", AT_WORK | IN(WAITING) | IN(PENDING)},
    [JOB_VERB_PAUSE] = {"pause", AT_WORK},
    [JOB_VERB_RESUME] = {"resume", AT_WORK},
    [JOB_VERB_COMPLETE] = {"complete", IN(READY)},
    [JOB_VERB_FINALIZE] = {"finalize", IN(PENDING)},
    [JOB_VERB_DISMISS] = {"dismiss", IN(CONCLUDED)},
};

bool job_status_may_follow(JobStatus from, JobStatus to)
{
    return followers[from] & (1u << to);
}

/* "running, paused" */
static char *states_to_string(unsigned states)
{
    GString *text = g_string_new(NULL);

    for (unsigned i = 0; i < JOB_STATUS__COUNT; i++) {
        if (states & (1u << i)) {
            g_string_append_printf(text, "%s%s", text->len ? ", " : "", job_status_to_string(i));
        }
    }
    return g_string_free(text, FALSE);
}

bool job_verb_check(JobVerb verb, JobStatus status, const char *id, GError **error)
{
    g_autofree char *possible = NULL;

    if (verbs[verb].states & (1u << status)) {
        return true;
    }
    possible = states_to_string(verbs[verb].states);
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                "job '%s' in state '%s' cannot accept command verb '%s'; possible in: %s", id,
                job_status_to_string(status), verbs[verb].name, possible);
    return false;
}
