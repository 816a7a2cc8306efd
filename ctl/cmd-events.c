/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wharfctl events: follow what happens in a daemon, also across its restarts.
 */
#include "ctl/commands.h"

#include <stdio.h>
#include <unistd.h>

#include "ctl/client.h"
#include "ctl/json.h"
#include "ctl/output.h"
#include "ctl/place.h"
#include "ctl/text.h"

/* The wait between attempts to reach a daemon that has gone grows from this to that, in ms. */
#define RETRY_FIRST 100
#define RETRY_LAST  2000

typedef struct EventsOptions {
    bool once;
} EventsOptions;

static const CtlOption options[] = {
    {"no-reconnect", 'n', NULL, NULL, offsetof(EventsOptions, once),
     "end when the connection does, instead of waiting for the daemon"},
    {NULL},
};

static char *format_time(const QValue *event)
{
    const QValue *stamp = ctl_json_object(event, "timestamp");
    guint64 seconds = ctl_json_uint(stamp, "seconds", G_MAXINT64);
    g_autoptr(GDateTime) when =
        seconds <= G_MAXINT64 ? g_date_time_new_from_unix_local(seconds) : NULL;
    g_autofree char *text = when ? g_date_time_format(when, "%F %T") : g_strdup("?");

    return g_strdup_printf("%s.%06u", text, (unsigned)ctl_json_uint(stamp, "microseconds", 0));
}

/* Members as " key=value", nested ones as JSON. */
static void append_data(GString *line, const QValue *data)
{
    for (gsize i = 0; data && i < qvalue_object_size(data); i++) {
        const QValue *value = qvalue_object_value(data, i);
        g_autofree char *text = NULL;
        g_autofree char *key = ctl_text_printable(qvalue_object_key(data, i), -1);

        if (qvalue_type(value) == QVALUE_STRING) {
            text = ctl_text_printable(qvalue_get_string(value, NULL), -1);
        } else {
            text = qvalue_to_json_string(value);
        }
        g_string_append_printf(line, " %s=%s", key, text);
    }
}

static bool print_event(const Ctl *ctl, const QValue *event, GError **error)
{
    if (ctl->json) {
        ctl_output_json(event);
    } else {
        g_autofree char *time = format_time(event);
        g_autofree char *name = ctl_text_printable(ctl_json_string(event, "event"), -1);
        g_autoptr(GString) line = g_string_new(NULL);

        g_string_append_printf(line, "%s %s", time, name);
        append_data(line, ctl_json_object(event, "data"));
        puts(line->str);
    }
    return ctl_output_finish(error);
}

/* Ask for events, those missed since the last connection included, and tell what is lost. */
static bool subscribe(CtlClient *client, char **names, CtlSubscription *subscription,
                      GError **error)
{
    g_autofree char *before = g_strdup(subscription->instance);

    if (!ctl_client_subscribe(client, (const char *const *)names, subscription, error)) {
        return false;
    }
    if (before && g_strcmp0(before, subscription->instance) != 0) {
        fputs("wharfctl: note: this is a new run of the daemon\n", stderr);
    }
    if (before && subscription->lost) {
        fprintf(stderr, "wharfctl: note: %" G_GUINT64_FORMAT " events were missed\n",
                subscription->lost);
    }
    return true;
}

static bool wanted(const QValue *event, char **names)
{
    /* A daemon that does not know subscribe sends all there is. */
    return !*names ||
           g_strv_contains((const char *const *)names, ctl_json_string(event, "event")) ||
           g_strcmp0(ctl_json_string(event, "event"), "EVENTS_LOST") == 0;
}

/* Print events until the connection ends, with an error, or nobody reads them any longer, without.
 */
static bool follow(const Ctl *ctl, CtlClient *client, char **names, CtlSubscription *subscription,
                   GError **error)
{
    g_autoptr(GError) local = NULL;

    for (;;) {
        g_autoptr(QValue) event = ctl_client_next_event(client, -1, STDOUT_FILENO, &local);

        if (!event) {
            break;
        }
        subscription->next = ctl_json_uint(event, "seq", subscription->next) + 1;
        if (wanted(event, names) && !print_event(ctl, event, error)) {
            return false;
        }
    }
    if (local) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    return true;
}

/* Connect, waiting for the daemon if @patient. */
static CtlClient *reach(const char *socket, bool patient, GError **error)
{
    unsigned wait = RETRY_FIRST;

    for (;;) {
        g_autoptr(GError) local = NULL;
        CtlClient *client = ctl_client_connect(socket, &local);

        if (client) {
            return client;
        }
        if (!patient || local->code != CTL_ERROR_UNREACHABLE) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
        g_usleep(wait * 1000);
        wait = MIN(wait * 2, RETRY_LAST);
    }
}

static bool run(const Ctl *ctl, const void *opts, char **words, GError **error)
{
    const EventsOptions *o = opts;
    g_autofree char *socket = ctl_place_socket(ctl->socket);
    g_auto(CtlSubscription) subscription = {0};
    bool again = false;

    for (;;) {
        g_autoptr(GError) local = NULL;
        g_autoptr(CtlClient) client = reach(socket, again, error);

        if (!client) {
            return false;
        }
        if (again) {
            fputs("wharfctl: note: connected again\n", stderr);
        }
        if (subscribe(client, words, &subscription, &local) &&
            follow(ctl, client, words, &subscription, &local)) {
            return true;
        }
        if (o->once || local->code != CTL_ERROR_UNREACHABLE) {
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
        fprintf(stderr, "wharfctl: note: %s; waiting for it to come back\n", local->message);
        again = true;
    }
}

const CtlCommand ctl_command_events = {
    .name = "events",
    .synopsis = "[EVENT...]",
    .summary = "show events as they happen (all, or those named)",
    .details =
        "Goes on until it is interrupted. When the daemon goes away it waits for it to come back\n"
        "and asks for what has happened meanwhile. With --json one event a line.",
    .words = CTL_WORDS_EVENTS,
    .max_words = G_MAXUINT,
    .options = options,
    .options_size = sizeof(EventsOptions),
    .run = run,
};
