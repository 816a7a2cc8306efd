/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Jobs: what each verb does in each state, which events tell of it, and the end of all. */
#include <string.h>

#include "aio/aio.h"
#include "job/driver.h"
#include "job/job-internal.h"
#include "util/error.h"

#define SECOND G_GINT64_CONSTANT(1000000000)

/* A job that does as it is told. */
typedef struct TestJob {
    bool finish, fail, ready; /* the test wants it to */
    bool stubborn;            /* it does not listen to cancel */
    bool prepare_fails, prepare_waits;
    GString *steps;
} TestJob;

typedef struct Fixture {
    AioContext *main;
    JobRegistry *registry;
    QapiEventSink sink;
    GString *events;
    GString *steps;
    JobOptions options;
} Fixture;

static void on_event(gpointer opaque, const char *name, QValue *data)
{
    Fixture *f = opaque;

    g_assert_cmpstr(name, ==, "JOB_STATUS_CHANGE");
    g_string_append_printf(f->events, "%s%s", f->events->len ? " " : "",
                           qvalue_get_string(qvalue_object_get(data, "status"), NULL));
}

static void set_up(Fixture *f, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;

    f->main = aio_context_new(NULL, &error);
    g_assert_no_error(error);
    aio_context_poll(f->main, false);
    f->events = g_string_new(NULL);
    f->steps = g_string_new(NULL);
    f->sink = (QapiEventSink){on_event, f};
    f->registry = job_registry_new(f->main, &f->sink);
    f->options = (JobOptions){.id = "j", .manual_finalize = true, .manual_dismiss = true};
}

static void settle(Fixture *f)
{
    while (aio_context_poll(f->main, false)) {
    }
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    settle(f);
    job_registry_free(f->registry);
    g_string_free(f->events, TRUE);
    g_string_free(f->steps, TRUE);
    aio_context_unref(f->main);
}

static bool co_fn test_co_run(Job *job, GError **error)
{
    TestJob *t = job_state(job);
    bool told = false;

    job_progress_add_total(job, 10);
    while (!t->finish && !t->fail) {
        if (t->ready && !told) {
            job_set_ready(job);
            told = true;
        }
        if (!job_co_sleep(job, 1000 * SECOND)) {
            if (!t->stubborn) {
                return false;
            }
            aio_co_sleep_ns(SECOND / 1000);
        }
    }
    if (t->fail) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC, "it was told to fail");
    }
    return !t->fail;
}

static bool co_fn test_co_prepare(Job *job, GError **error)
{
    TestJob *t = job_state(job);

    g_string_append(t->steps, "prepare ");
    while (t->prepare_waits) {
        aio_co_sleep_ns(SECOND / 1000);
    }
    if (t->prepare_fails) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC, "it cannot be prepared");
    }
    return !t->prepare_fails;
}

static void co_fn test_co_commit(Job *job)
{
    g_string_append(((TestJob *)job_state(job))->steps, "commit ");
}

static void co_fn test_co_abort(Job *job)
{
    g_string_append(((TestJob *)job_state(job))->steps, "abort ");
}

static void co_fn test_co_clean(Job *job)
{
    g_string_append(((TestJob *)job_state(job))->steps, "clean");
}

static bool test_complete(Job *job, GError **error)
{
    ((TestJob *)job_state(job))->finish = true;
    job_wake(job);
    return true;
}

static const JobDriver test_driver = {
    .type = JOB_TYPE_CREATE,
    .state_size = sizeof(TestJob),
    .co_run = test_co_run,
    .co_prepare = test_co_prepare,
    .co_commit = test_co_commit,
    .co_abort = test_co_abort,
    .co_clean = test_co_clean,
    .complete = test_complete,
};

static Job *new_job(Fixture *f)
{
    g_autoptr(GError) error = NULL;
    Job *job = job_new(f->registry, &test_driver, &f->options, &error);

    g_assert_no_error(error);
    ((TestJob *)job_state(job))->steps = f->steps;
    return job;
}

/* The verbs, in a coroutine */

typedef struct Asking {
    Job *job;
    JobVerb verb;
    bool ok, done;
    GError *error;
} Asking;

static void co_fn ask(void *opaque)
{
    Asking *a = opaque;

    switch (a->verb) {
    case JOB_VERB_CANCEL:
        a->ok = job_co_cancel(a->job, &a->error);
        break;
    case JOB_VERB_PAUSE:
        a->ok = job_pause(a->job, &a->error);
        break;
    case JOB_VERB_RESUME:
        a->ok = job_resume(a->job, &a->error);
        break;
    case JOB_VERB_COMPLETE:
        a->ok = job_complete(a->job, &a->error);
        break;
    case JOB_VERB_FINALIZE:
        a->ok = job_co_finalize(a->job, &a->error);
        break;
    case JOB_VERB_DISMISS:
        a->ok = job_dismiss(a->job, &a->error);
        break;
    default:
        g_assert_not_reached();
    }
    a->done = true;
}

static void start_asking(Fixture *f, Asking *a, Job *job, JobVerb verb)
{
    *a = (Asking){.job = job, .verb = verb};
    aio_co_enter(f->main, ask, a);
    settle(f);
}

static void must(Fixture *f, Job *job, JobVerb verb)
{
    Asking a;

    start_asking(f, &a, job, verb);
    g_assert_true(a.done);
    g_assert_no_error(a.error);
    g_assert_true(a.ok);
}

static void must_not(Fixture *f, Job *job, JobVerb verb, const char *word)
{
    Asking a;

    start_asking(f, &a, job, verb);
    g_assert_true(a.done && !a.ok);
    g_assert_nonnull(strstr(a.error->message, "'j'"));
    g_assert_nonnull(strstr(a.error->message, word));
    g_error_free(a.error);
}

static void assert_events(Fixture *f, const char *expected)
{
    g_assert_cmpstr(f->events->str, ==, expected);
    g_string_truncate(f->events, 0);
}

static void assert_steps(Fixture *f, const char *expected)
{
    g_assert_cmpstr(f->steps->str, ==, expected);
    g_string_truncate(f->steps, 0);
}

static void assert_error(Fixture *f, const char *expected)
{
    g_autoptr(GPtrArray) list = job_registry_query(f->registry);
    const JobInfo *info = list->pdata[0];

    g_assert_cmpuint(list->len, ==, 1);
    g_assert_cmpint(info->status, ==, JOB_STATUS_CONCLUDED);
    g_assert_cmpstr(info->error, ==, expected);
    if (!expected) {
        g_assert_cmpint(info->current_progress, ==, 10);
        g_assert_cmpint(info->total_progress, ==, 10);
    }
}

/* Bring a new job into a state. */
static Job *job_in(Fixture *f, JobStatus status)
{
    Job *job = new_job(f);
    TestJob *t = job_state(job);

    t->ready = status == JOB_STATUS_READY || status == JOB_STATUS_STANDBY;
    t->finish = status == JOB_STATUS_PENDING || status == JOB_STATUS_CONCLUDED;
    if (status != JOB_STATUS_CREATED) {
        job_start(job);
        settle(f);
    }
    if (status == JOB_STATUS_PAUSED || status == JOB_STATUS_STANDBY) {
        must(f, job, JOB_VERB_PAUSE);
    }
    if (status == JOB_STATUS_CONCLUDED) {
        must(f, job, JOB_VERB_FINALIZE);
    }
    g_assert_cmpint(job_status(job), ==, status);
    g_string_truncate(f->events, 0);
    g_string_truncate(f->steps, 0);
    return job;
}

static void end_all(void *opaque)
{
    Fixture *f = opaque;

    g_assert_true(job_registry_co_end_all(f->registry, 100 * SECOND));
    f->registry->closing = false; /* for the next one */
}

static void get_rid_of_all(Fixture *f)
{
    aio_co_enter(f->main, end_all, f);
    while (f->registry->jobs.length > 0) {
        aio_context_poll(f->main, true);
    }
    settle(f);
    g_string_truncate(f->events, 0);
    g_string_truncate(f->steps, 0);
}

/* What each verb brings about in each state that lasts: events, or an error with that word. */
typedef struct Row {
    JobStatus status;
    JobVerb verb;
    const char *events; /* NULL: refused */
    const char *word;
} Row;

static void test_table(Fixture *f, gconstpointer unused)
{
    static const Row rows[] = {
        {JOB_STATUS_CREATED, JOB_VERB_CANCEL, "aborting concluded"},
        {JOB_STATUS_CREATED, JOB_VERB_PAUSE, ""},
        {JOB_STATUS_CREATED, JOB_VERB_RESUME, NULL, "not paused"},
        {JOB_STATUS_CREATED, JOB_VERB_COMPLETE, NULL, "'complete'; possible in: ready"},
        {JOB_STATUS_CREATED, JOB_VERB_FINALIZE, NULL, "'finalize'; possible in: pending"},
        {JOB_STATUS_CREATED, JOB_VERB_DISMISS, NULL, "'dismiss'; possible in: concluded"},
        {JOB_STATUS_RUNNING, JOB_VERB_CANCEL, "aborting concluded"},
        {JOB_STATUS_RUNNING, JOB_VERB_PAUSE, "paused"},
        {JOB_STATUS_RUNNING, JOB_VERB_RESUME, NULL, "not paused"},
        {JOB_STATUS_RUNNING, JOB_VERB_COMPLETE, NULL, "'running'"},
        {JOB_STATUS_RUNNING, JOB_VERB_FINALIZE, NULL, "'running'"},
        {JOB_STATUS_RUNNING, JOB_VERB_DISMISS, NULL, "'running'"},
        {JOB_STATUS_PAUSED, JOB_VERB_CANCEL, "running aborting concluded"},
        {JOB_STATUS_PAUSED, JOB_VERB_PAUSE, NULL, "already"},
        {JOB_STATUS_PAUSED, JOB_VERB_RESUME, "running"},
        {JOB_STATUS_PAUSED, JOB_VERB_COMPLETE, NULL, "'paused'"},
        {JOB_STATUS_PAUSED, JOB_VERB_FINALIZE, NULL, "'paused'"},
        {JOB_STATUS_PAUSED, JOB_VERB_DISMISS, NULL, "'paused'"},
        {JOB_STATUS_READY, JOB_VERB_CANCEL, "aborting concluded"},
        {JOB_STATUS_READY, JOB_VERB_PAUSE, "standby"},
        {JOB_STATUS_READY, JOB_VERB_RESUME, NULL, "not paused"},
        {JOB_STATUS_READY, JOB_VERB_COMPLETE, "waiting pending"},
        {JOB_STATUS_READY, JOB_VERB_FINALIZE, NULL, "'ready'"},
        {JOB_STATUS_READY, JOB_VERB_DISMISS, NULL, "'ready'"},
        {JOB_STATUS_STANDBY, JOB_VERB_CANCEL, "ready aborting concluded"},
        {JOB_STATUS_STANDBY, JOB_VERB_PAUSE, NULL, "already"},
        {JOB_STATUS_STANDBY, JOB_VERB_RESUME, "ready"},
        {JOB_STATUS_STANDBY, JOB_VERB_COMPLETE, NULL, "'standby'"},
        {JOB_STATUS_STANDBY, JOB_VERB_FINALIZE, NULL, "'standby'"},
        {JOB_STATUS_STANDBY, JOB_VERB_DISMISS, NULL, "'standby'"},
        {JOB_STATUS_PENDING, JOB_VERB_CANCEL, "aborting concluded"},
        {JOB_STATUS_PENDING, JOB_VERB_PAUSE, NULL, "'pending'"},
        {JOB_STATUS_PENDING, JOB_VERB_RESUME, NULL, "'pending'"},
        {JOB_STATUS_PENDING, JOB_VERB_COMPLETE, NULL, "'pending'"},
        {JOB_STATUS_PENDING, JOB_VERB_FINALIZE, "concluded"},
        {JOB_STATUS_PENDING, JOB_VERB_DISMISS, NULL, "'pending'"},
        {JOB_STATUS_CONCLUDED, JOB_VERB_CANCEL, NULL, "'concluded'"},
        {JOB_STATUS_CONCLUDED, JOB_VERB_PAUSE, NULL, "'concluded'"},
        {JOB_STATUS_CONCLUDED, JOB_VERB_RESUME, NULL, "'concluded'"},
        {JOB_STATUS_CONCLUDED, JOB_VERB_COMPLETE, NULL, "'concluded'"},
        {JOB_STATUS_CONCLUDED, JOB_VERB_FINALIZE, NULL, "'concluded'"},
        {JOB_STATUS_CONCLUDED, JOB_VERB_DISMISS, "null"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        const Row *row = &rows[i];
        Job *job = job_in(f, row->status);

        if (row->events) {
            must(f, job, row->verb);
            assert_events(f, row->events);
        } else {
            must_not(f, job, row->verb, row->word);
            assert_events(f, "");
            g_assert_cmpint(job_status(job), ==, row->status);
        }
        if (row->events && row->verb == JOB_VERB_CANCEL) {
            assert_error(f, "Operation canceled");
            assert_steps(f, "abort clean");
        }
        get_rid_of_all(f);
    }
}

/* Those that last only while something is done: nothing can come in between. */
static void test_settling(Fixture *f, gconstpointer unused)
{
    Job *job = job_in(f, JOB_STATUS_PENDING);
    TestJob *t = job_state(job);
    Asking finalize;

    t->prepare_waits = true;
    start_asking(f, &finalize, job, JOB_VERB_FINALIZE);
    g_assert_false(finalize.done);
    must_not(f, job, JOB_VERB_FINALIZE, "already");
    must_not(f, job, JOB_VERB_CANCEL, "already");
    t->prepare_waits = false;
    while (!finalize.done) {
        aio_context_poll(f->main, true);
    }
    g_assert_true(finalize.ok);
    assert_events(f, "concluded");
    assert_steps(f, "prepare commit clean");
    assert_error(f, NULL);
    get_rid_of_all(f);
}

static void test_automatic(Fixture *f, gconstpointer unused)
{
    Job *job;

    f->options.manual_dismiss = f->options.manual_finalize = false;
    job = new_job(f);
    ((TestJob *)job_state(job))->finish = true;
    job_start(job);
    settle(f);
    assert_events(f, "created running waiting pending concluded null");
    assert_steps(f, "prepare commit clean");
    g_assert_null(job_registry_find(f->registry, "j", NULL));
}

static void test_fails(Fixture *f, gconstpointer unused)
{
    Job *job = new_job(f);

    ((TestJob *)job_state(job))->fail = true;
    job_start(job);
    settle(f);
    assert_events(f, "created running aborting concluded");
    assert_steps(f, "abort clean");
    assert_error(f, "it was told to fail");
    get_rid_of_all(f);
}

static void test_prepare_fails(Fixture *f, gconstpointer unused)
{
    Job *job = job_in(f, JOB_STATUS_PENDING);

    ((TestJob *)job_state(job))->prepare_fails = true;
    must(f, job, JOB_VERB_FINALIZE);
    assert_events(f, "aborting concluded");
    assert_steps(f, "prepare abort clean");
    assert_error(f, "it cannot be prepared");
    get_rid_of_all(f);
}

/* A job that was paused before it began rests at once, and one that is resumed in time never. */
static void test_paused_before(Fixture *f, gconstpointer unused)
{
    Job *job = new_job(f);

    must(f, job, JOB_VERB_PAUSE);
    job_start(job);
    settle(f);
    assert_events(f, "created running paused");
    must(f, job, JOB_VERB_RESUME);
    assert_events(f, "running");
    get_rid_of_all(f);

    job = new_job(f);
    must(f, job, JOB_VERB_PAUSE);
    must(f, job, JOB_VERB_RESUME);
    job_start(job);
    settle(f);
    assert_events(f, "created running");
    get_rid_of_all(f);
}

/* Cancelled too late: it counts if the job waits to be finalized, else the work is done. */
static void test_cancelled_late(Fixture *f, gconstpointer unused)
{
    for (int manual = 0; manual <= 1; manual++) {
        Job *job;
        TestJob *t;

        f->options.manual_finalize = manual;
        job = job_in(f, JOB_STATUS_RUNNING);
        t = job_state(job);
        t->stubborn = true;
        must(f, job, JOB_VERB_CANCEL);
        must(f, job, JOB_VERB_CANCEL);
        t->finish = true;
        while (job_status(job) != JOB_STATUS_CONCLUDED) {
            aio_context_poll(f->main, true);
        }
        assert_events(f, manual ? "aborting concluded" : "waiting pending concluded");
        assert_error(f, manual ? "Operation canceled" : NULL);
        get_rid_of_all(f);
    }
}

typedef struct Ending {
    Fixture *f;
    int64_t wait_ns;
    bool gone, done;
} Ending;

static void co_fn end_entry(void *opaque)
{
    Ending *e = opaque;

    e->gone = job_registry_co_end_all(e->f->registry, e->wait_ns);
    e->done = true;
}

static bool end(Fixture *f, int64_t wait_ns)
{
    Ending e = {.f = f, .wait_ns = wait_ns};

    aio_co_enter(f->main, end_entry, &e);
    while (!e.done) {
        aio_context_poll(f->main, true);
    }
    return e.gone;
}

static void test_end_all(Fixture *f, gconstpointer unused)
{
    static const char *const ids[] = {"created", "running", "paused",
                                      "ready",   "pending", "concluded"};
    static const JobStatus states[] = {JOB_STATUS_CREATED, JOB_STATUS_RUNNING,
                                       JOB_STATUS_PAUSED,  JOB_STATUS_READY,
                                       JOB_STATUS_PENDING, JOB_STATUS_CONCLUDED};
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(ids); i++) {
        f->options.id = ids[i];
        job_in(f, states[i]);
    }
    g_assert_true(end(f, 100 * SECOND));
    g_assert_cmpuint(f->registry->jobs.length, ==, 0);
    f->options.id = "late";
    g_assert_null(job_new(f->registry, &test_driver, &f->options, &error));
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC);
}

static void test_end_hangs(Fixture *f, gconstpointer unused)
{
    Job *job = job_in(f, JOB_STATUS_RUNNING);
    TestJob *t = job_state(job);

    t->stubborn = true;
    g_test_expect_message("job", G_LOG_LEVEL_WARNING, "*'j' does not end*");
    g_assert_false(end(f, SECOND / 100));
    g_test_assert_expected_messages();
    t->finish = true;
    g_assert_true(end(f, 100 * SECOND));
}

static void test_ids(Fixture *f, gconstpointer unused)
{
    static const char *const bad[] = {"", "1", "a b", "#a", "-"};
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        f->options.id = bad[i];
        g_assert_null(job_new(f->registry, &test_driver, &f->options, &error));
        g_assert_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT);
        g_clear_error(&error);
    }
    f->options.id = "j";
    new_job(f);
    g_assert_null(job_new(f->registry, &test_driver, &f->options, &error));
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_EXISTS);
    g_clear_error(&error);
    g_assert_null(job_registry_find(f->registry, "k", &error));
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND);
    get_rid_of_all(f);
}

/* Each state can be left, but the last one, and none can be entered that nothing leads to. */
static void test_transitions(Fixture *f, gconstpointer unused)
{
    for (unsigned a = 0; a < JOB_STATUS__COUNT; a++) {
        unsigned out = 0, in = 0;

        for (unsigned b = 0; b < JOB_STATUS__COUNT; b++) {
            out += job_status_may_follow(a, b);
            in += job_status_may_follow(b, a);
        }
        g_assert_true((out > 0) == (a != JOB_STATUS_NULL));
        g_assert_true((in > 0) == (a != JOB_STATUS_UNDEFINED));
        g_assert_false(job_status_may_follow(a, a));
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *path;
        void (*run)(Fixture *f, gconstpointer unused);
    } tests[] = {
        {"/job/table", test_table},
        {"/job/settling", test_settling},
        {"/job/automatic", test_automatic},
        {"/job/fails", test_fails},
        {"/job/prepare-fails", test_prepare_fails},
        {"/job/paused-before", test_paused_before},
        {"/job/cancelled-late", test_cancelled_late},
        {"/job/end-all", test_end_all},
        {"/job/end-hangs", test_end_hangs},
        {"/job/ids", test_ids},
        {"/job/transitions", test_transitions},
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_test_add(tests[i].path, Fixture, NULL, set_up, tests[i].run, tear_down);
    }
    return g_test_run();
}
