/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wharfctl check: whether an image is consistent, found out and mended by a daemon of its own. The
 * exit status is that of qemu-img's check.
 */
#include "ctl/commands.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/image.h"
#include "ctl/json.h"
#include "ctl/output.h"
#include "ctl/private.h"
#include "ctl/text.h"

#define NODE "image"
#define JOB  "check"

/* Exit statuses, as codes of CTL_ERROR. */
enum {
    CHECK_FAILED = 1, /* it could not be completed */
    CHECK_CORRUPT = 2,
    CHECK_LEAKS = 3,
    CHECK_UNSUPPORTED = 63,
};

typedef struct CheckOptions {
    const char *repair;
    const char *output;
    const char *format;
    bool force_share;
    bool quiet;
} CheckOptions;

static const CtlOption check_options[] = {
    {"repair", 'r', "leaks|all", "leaks|all", offsetof(CheckOptions, repair),
     "repair what is wrong: leaks alone, or all that can be"},
    {"output", 0, "FORM", "human|json", offsetof(CheckOptions, output),
     "for people (default), or as JSON"},
    {"format", 'f', "FMT", "raw|qcow2", offsetof(CheckOptions, format),
     "format of IMAGE (default: the one that it looks like)"},
    {"force-share", 'U', NULL, NULL, offsetof(CheckOptions, force_share),
     "also if somebody writes to it; what is found may mean nothing then"},
    {"quiet", 'q', NULL, NULL, offsetof(CheckOptions, quiet), "tell by the exit status alone"},
    {NULL},
};

/* Asking */

static QValue *node_for(const char *path, bool is_device, const CheckOptions *o)
{
    QValue *node = ctl_image_node(NODE, path, "qcow2", is_device);

    qvalue_object_set(node, "for-check", qvalue_bool(true));
    qvalue_object_set(node, "read-only", qvalue_bool(!o->repair));
    if (o->force_share) {
        qvalue_object_set(node, "force-share", qvalue_bool(true));
    }
    return node;
}

static void show_progress(guint64 current, guint64 total)
{
    fprintf(stderr, "\r%.0f %% ",
            total ? 100.0 * (double)MIN(current, total) / (double)total : 0.0);
}

/* Whether somebody looks at it who can see it go by. */
static bool wants_progress(const CheckOptions *o)
{
    return !o->quiet && isatty(STDERR_FILENO);
}

static QValue *ask_once(CtlPrivate *daemon, const CheckOptions *o, const char *repair,
                        GError **error)
{
    bool progress = wants_progress(o);
    g_autoptr(QValue) job = ctl_private_run_job(
        daemon, "blockdev-check-start",
        ctl_json_strings("job-id", JOB, "node-name", NODE, "repair", repair, NULL), JOB,
        progress ? show_progress : NULL, error);
    const QValue *found = ctl_json_object(job, "result");

    if (progress) {
        fputs("\r       \r", stderr);
    }
    if (job && !found) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "the daemon does not tell what was found");
    }
    return found ? qvalue_ref((QValue *)found) : NULL;
}

static bool has_repaired(const QValue *found)
{
    return ctl_json_uint(found, "corruptions-fixed", 0) > 0 ||
           ctl_json_uint(found, "leaks-fixed", 0) > 0;
}

/* What has been found, of which the first look with its repairs is *@first. */
static QValue *ask(CtlPrivate *daemon, const char *path, bool is_device, const CheckOptions *o,
                   QValue **first, GError **error)
{
    g_autoptr(QValue) added =
        ctl_private_call(daemon, "blockdev-add", node_for(path, is_device, o), error);

    *first = added ? ask_once(daemon, o, o->repair ? o->repair : "none", error) : NULL;
    if (!*first) {
        return NULL;
    }
    return has_repaired(*first) ? ask_once(daemon, o, "none", error) : qvalue_ref(*first);
}

/* Telling */

static void print_findings(const QValue *found)
{
    const QValue *findings = ctl_json_array(found, "findings");
    guint64 more = ctl_json_uint(found, "findings-left-out", 0);

    for (gsize i = 0; findings && i < qvalue_array_length(findings); i++) {
        g_autofree char *safe =
            ctl_text_printable(qvalue_get_string(qvalue_array_get(findings, i), NULL), -1);

        puts(safe);
    }
    if (more) {
        printf("... and %" G_GUINT64_FORMAT " more\n", more);
    }
}

static void print_share(const char *what, guint64 part, guint64 of)
{
    printf("%s: %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " (%.2f%%)\n", what, part, of,
           of ? 100.0 * (double)part / (double)of : 0.0);
}

static void print_numbers(const QValue *found)
{
    guint64 total = ctl_json_uint(found, "total-clusters", 0);
    guint64 allocated = ctl_json_uint(found, "allocated-clusters", 0);
    guint64 end = ctl_json_uint(found, "image-end-offset", 0);

    if (total) {
        print_share("allocated clusters", allocated, total);
        print_share("fragmented clusters", ctl_json_uint(found, "fragmented-clusters", 0),
                    allocated);
        print_share("compressed clusters", ctl_json_uint(found, "compressed-clusters", 0),
                    allocated);
    }
    if (end) {
        printf("image end offset: %" G_GUINT64_FORMAT "\n", end);
    }
}

static void print_for_people(const QValue *first, const QValue *last)
{
    print_findings(first);
    if (has_repaired(first)) {
        printf("repaired: %" G_GUINT64_FORMAT " corruptions, %" G_GUINT64_FORMAT " leaks\n",
               ctl_json_uint(first, "corruptions-fixed", 0),
               ctl_json_uint(first, "leaks-fixed", 0));
    }
    if (ctl_json_uint(last, "check-errors", 0) + ctl_json_uint(last, "corruptions", 0) +
            ctl_json_uint(last, "leaks", 0) ==
        0) {
        puts("no errors were found");
    }
    print_numbers(last);
}

/* The last look, with what the first has repaired. */
static void print_json(const QValue *first, const QValue *last, const char *path)
{
    static const char *const repaired[] = {"corruptions-fixed", "leaks-fixed"};
    g_autoptr(QValue) both = qvalue_object();

    for (gsize i = 0; i < qvalue_object_size(last); i++) {
        qvalue_object_set(both, qvalue_object_key(last, i),
                          qvalue_ref(qvalue_object_value(last, i)));
    }
    qvalue_object_set(both, "filename", qvalue_string(path));
    for (gsize i = 0; i < G_N_ELEMENTS(repaired); i++) {
        guint64 n = ctl_json_uint(first, repaired[i], 0);

        if (n) {
            qvalue_object_set(both, repaired[i], qvalue_uint(n));
        }
    }
    ctl_output_json(both);
}

/* Whether all is well; else the exit status is in *@error. */
static bool judge(const QValue *found, const char *path, GError **error)
{
    guint64 corruptions = ctl_json_uint(found, "corruptions", 0);
    guint64 leaks = ctl_json_uint(found, "leaks", 0);

    if (ctl_json_uint(found, "check-errors", 0)) {
        g_set_error(error, CTL_ERROR, CHECK_FAILED, "the check of '%s' could not be completed",
                    path);
    } else if (corruptions) {
        g_set_error(error, CTL_ERROR, CHECK_CORRUPT,
                    "'%s' is corrupt (%" G_GUINT64_FORMAT
                    " error%s): data may be wrong, and writing to it may make that worse",
                    path, corruptions, corruptions == 1 ? "" : "s");
    } else if (leaks) {
        g_set_error(error, CTL_ERROR, CHECK_LEAKS,
                    "'%s' has %" G_GUINT64_FORMAT
                    " leaked clusters, which waste space but harm no data",
                    path, leaks);
    } else {
        return true;
    }
    return false;
}

static void show(const Ctl *ctl, const CheckOptions *o, const QValue *first, const QValue *last,
                 const char *path)
{
    if (ctl->json || g_strcmp0(o->output, "json") == 0) {
        print_json(first, last, path);
    } else if (!o->quiet) {
        print_for_people(first, last);
    }
}

static const char *find_format(const char *path, const CheckOptions *o, bool *is_device,
                               GError **error)
{
    if (o->format) {
        return ctl_image_check(path, o->format, is_device, error) ? o->format : NULL;
    }
    return ctl_image_recognise(path, is_device, error);
}

/* Other errors must not look like what was found. */
static bool fail(GError *take_local, GError **error)
{
    take_local->code = CHECK_FAILED;
    g_propagate_error(error, take_local);
    return false;
}

static bool run(const Ctl *ctl, const void *opts, char **words, GError **error)
{
    const CheckOptions *o = opts;
    GError *local = NULL;
    bool is_device;
    const char *format = find_format(words[0], o, &is_device, &local);
    g_autoptr(CtlPrivate) daemon = NULL;
    g_autoptr(QValue) first = NULL, last = NULL;

    if (!format) {
        return fail(local, error);
    }
    if (strcmp(format, "qcow2") != 0) {
        g_set_error(error, CTL_ERROR, CHECK_UNSUPPORTED,
                    "'%s': an image of the format %s cannot be checked", words[0], format);
        return false;
    }
    if (o->repair && o->force_share) {
        g_set_error(error, CTL_ERROR, CHECK_FAILED,
                    "--force-share is for looking only; leave it or --repair out");
        return false;
    }
    daemon = ctl_private_start(ctl, &local);
    last = daemon ? ask(daemon, words[0], is_device, o, &first, &local) : NULL;
    if (!last || !ctl_private_end(daemon, &local)) {
        g_prefix_error(&local, "cannot check '%s': ", words[0]);
        return fail(local, error);
    }
    show(ctl, o, first, last, words[0]);
    return judge(last, words[0], error);
}

const CtlCommand ctl_command_check = {
    .name = "check",
    .synopsis = "IMAGE",
    .summary = "check whether an image is consistent, and repair it",
    .details =
        "Nothing is changed unless --repair is given; then make a copy before, if you can. Files\n"
        "that IMAGE names are not opened, and no running daemon is needed. Nobody may write to\n"
        "IMAGE meanwhile, and for a repair nobody may read it, either. It may be interrupted at\n"
        "any time; a repair leaves the rest as it is then.\n"
        "\n"
        "Exit status: 0 all is well (now), 1 the check could not be completed, 2 corrupt,\n"
        "3 leaked clusters and nothing else, 63 not for images of this format.",
    .words = CTL_WORDS_FILES,
    .min_words = 1,
    .max_words = 1,
    .options = check_options,
    .options_size = sizeof(CheckOptions),
    .run = run,
};
