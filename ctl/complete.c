/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/complete.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/args.h"
#include "ctl/client.h"
#include "ctl/ctl.h"
#include "ctl/exports.h"
#include "ctl/json.h"
#include "ctl/place.h"

#define FILES ":files"

/* Nobody waits longer for a completion, whatever the daemon does, in seconds. */
#define PATIENCE 3

/* The word being completed, and what is known of those before it. */
typedef struct Completion {
    const char *word;
    Ctl ctl;
    const CtlCommand *command; /* NULL for a command of the daemon, or none yet */
    char **words;              /* without options; [0] is the command, if there is one */
    CtlClient *client;         /* NULL until needed, or if there is none */
} Completion;

static void offer(const Completion *c, const char *candidate)
{
    if (g_str_has_prefix(candidate, c->word)) {
        puts(candidate);
    }
}

static void offer_all(const Completion *c, const char *const *candidates)
{
    for (; *candidates; candidates++) {
        offer(c, *candidates);
    }
}

static CtlClient *reach(Completion *c)
{
    if (!c->client) {
        g_autofree char *socket = ctl_place_socket(c->ctl.socket);

        c->client = ctl_client_connect_any(socket, NULL);
    }
    return c->client;
}

static CtlSchema *fetch_schema(Completion *c)
{
    CtlClient *client = reach(c);

    return client ? ctl_schema_fetch(client, NULL) : NULL;
}

static void offer_options(const Completion *c, const CtlOption *options)
{
    for (const CtlOption *o = options; o && o->name; o++) {
        g_autofree char *text = g_strconcat("--", o->name, o->value ? "=" : "", NULL);

        offer(c, text);
    }
}

static const CtlOption *find_option(const CtlOption *options, const char *name, gsize length)
{
    for (const CtlOption *o = options; o && o->name; o++) {
        if (strlen(o->name) == length && strncmp(o->name, name, length) == 0) {
            return o;
        }
    }
    return NULL;
}

/* The word is "--name=..." with a value still open. */
static void offer_option_values(const Completion *c, const char *equals)
{
    const char *name = c->word + 2;
    gsize length = equals - name;
    const CtlOption *o = c->command ? find_option(c->command->options, name, length) : NULL;
    g_auto(GStrv) choices = NULL;

    o = o ? o : find_option(ctl_global_options, name, length);
    if (o && !o->choices) {
        puts(FILES);
        return;
    }
    choices = o ? g_strsplit(o->choices, "|", -1) : NULL;
    for (char **choice = choices; choice && *choice; choice++) {
        g_autofree char *text = g_strdup_printf("--%s=%s", o->name, *choice);

        offer(c, text);
    }
}

static void offer_commands(Completion *c)
{
    g_autoptr(CtlSchema) schema = fetch_schema(c);

    for (const CtlCommand *const *command = ctl_commands; *command; command++) {
        offer(c, (*command)->name);
    }
    if (schema) {
        offer_all(c, ctl_schema_commands(schema));
    }
}

static void offer_exports(Completion *c)
{
    CtlClient *client = reach(c);
    g_autoptr(QValue) exports = client ? ctl_exports_query(client, NULL) : NULL;

    for (gsize i = 0; exports && i < qvalue_array_length(exports); i++) {
        const char *id = ctl_json_string(qvalue_array_get(exports, i), "id");

        if (id) {
            offer(c, id);
        }
    }
}

static void offer_words(Completion *c)
{
    g_autoptr(CtlSchema) schema = NULL;

    switch (c->command->words) {
    case CTL_WORDS_FILES:
        puts(FILES);
        break;
    case CTL_WORDS_EXPORTS:
        offer_exports(c);
        break;
    case CTL_WORDS_COMMANDS:
        offer_commands(c);
        break;
    case CTL_WORDS_EVENTS:
        schema = fetch_schema(c);
        if (schema) {
            offer_all(c, ctl_schema_events(schema));
        }
        break;
    case CTL_WORDS_NONE:
        break;
    }
}

/* Names of nodes or exports, where the key says that one is wanted. */
static bool offer_names(Completion *c, const char *equals)
{
    gsize length = equals - c->word + 1;
    bool node = g_str_has_prefix(c->word, "node-name=");
    bool export =
        !node && g_str_has_prefix(c->word, "id=") && g_str_has_prefix(c->words[0], "block-export-");
    CtlClient *client = node || export ? reach(c) : NULL;
    g_autoptr(QValue) all = NULL;

    if (!client) {
        return false;
    }
    all = node ? ctl_nodes_query(client, NULL) : ctl_exports_query(client, NULL);
    for (gsize i = 0; all && i < qvalue_array_length(all); i++) {
        const char *name = ctl_json_string(qvalue_array_get(all, i), node ? "node-name" : "id");
        g_autofree char *text = g_strdup_printf("%.*s%s", (int)length, c->word, name ? name : "");

        offer(c, text);
    }
    return true;
}

static void offer_arguments(Completion *c)
{
    g_autoptr(CtlSchema) schema = fetch_schema(c);
    const char *equals = strchr(c->word, '=');
    g_auto(GStrv) candidates = NULL;

    if (!schema || (equals && offer_names(c, equals))) {
        return;
    }
    candidates = ctl_args_complete(schema, c->words[0], c->words + 1, c->word);
    if (equals && !*candidates) {
        puts(FILES);
    }
    offer_all(c, (const char *const *)candidates);
}

static void complete(Completion *c)
{
    const char *equals = strchr(c->word, '=');

    if (g_str_has_prefix(c->word, "--") && equals) {
        offer_option_values(c, equals);
    } else if (c->word[0] == '-') {
        offer_options(c, c->command ? c->command->options : NULL);
        offer_options(c, ctl_global_options);
    } else if (!c->words[0]) {
        offer_commands(c);
    } else if (c->command) {
        offer_words(c);
    } else {
        offer_arguments(c);
    }
}

/* Find the command and the global options among the words before the last. */
static bool parse(Completion *c, char **args)
{
    const CtlOptionSet set = {ctl_global_options, &c->ctl};
    g_autofree char **from_command = ctl_options_parse(&set, 1, args, true, NULL);
    g_autofree void *options = NULL;

    if (!from_command) {
        return false;
    }
    c->command = from_command[0] ? ctl_command_find(from_command[0]) : NULL;
    options = g_malloc0(c->command ? MAX(c->command->options_size, 1) : 1);
    {
        const CtlOptionSet sets[] = {{c->command ? c->command->options : NULL, options}, set};

        c->words = ctl_options_parse(sets, G_N_ELEMENTS(sets), from_command, false, NULL);
    }
    return c->words != NULL;
}

void ctl_complete(char **args)
{
    guint n = g_strv_length(args);
    Completion c = {.word = n ? args[n - 1] : ""};
    g_autofree char **before = g_memdup2(args, (n + 1) * sizeof(*args));

    signal(SIGALRM, _exit);
    alarm(PATIENCE);
    if (n) {
        before[n - 1] = NULL;
    }
    if (parse(&c, before)) {
        complete(&c);
    }
    ctl_client_free(c.client);
    g_free(c.words);
}
