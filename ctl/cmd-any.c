/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Any command of the daemon, with its arguments as words.
 */
#include "ctl/ctl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ctl/args.h"
#include "ctl/client.h"
#include "ctl/help.h"
#include "ctl/output.h"
#include "ctl/place.h"

/* More than any daemon takes. */
#define STDIN_MAX (64 * 1024 * 1024)

/* All of standard input. */
static char *read_stdin(GError **error)
{
    g_autoptr(GString) text = g_string_new(NULL);
    char buffer[64 * 1024];
    size_t n;

    while ((n = fread(buffer, 1, sizeof(buffer), stdin)) > 0 && text->len <= STDIN_MAX) {
        g_string_append_len(text, buffer, n);
    }
    if (ferror(stdin)) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot read standard input: %s",
                    g_strerror(errno));
        return NULL;
    }
    if (text->len > STDIN_MAX) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "what comes on standard input is too long");
        return NULL;
    }
    return g_string_free(g_steal_pointer(&text), FALSE);
}

/* The arguments in @words: "-" stands for a JSON object on standard input. */
static QValue *read_arguments(const CtlSchema *schema, const char *command, char **words,
                              GError **error)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    g_autofree char *input = NULL;

    for (; *words; words++) {
        if (strcmp(*words, "-") == 0 && !input) {
            input = read_stdin(error);
            if (!input) {
                return NULL;
            }
            g_ptr_array_add(all, g_strstrip(input));
        } else {
            g_ptr_array_add(all, *words);
        }
    }
    g_ptr_array_add(all, NULL);
    return ctl_args_convert(schema, command, (char **)all->pdata, error);
}

/* Run @command with @take_args, which may be NULL or empty, and show what comes back. */
static bool call(const Ctl *ctl, CtlClient *client, const char *command, QValue *take_args,
                 GError **error)
{
    g_autoptr(QValue) result = NULL;

    if (take_args && qvalue_object_size(take_args) == 0) {
        g_clear_pointer(&take_args, qvalue_unref);
    }
    result = ctl_client_call(client, command, take_args, error);
    if (!result) {
        return false;
    }
    if (ctl->json) {
        ctl_output_json(result);
    } else {
        ctl_output_value(result);
    }
    return true;
}

bool ctl_run_any(const Ctl *ctl, char **words, GError **error)
{
    g_autofree char *socket = ctl_place_socket(ctl->socket);
    g_autoptr(GError) local = NULL;
    g_autoptr(CtlClient) client = ctl_client_connect(socket, &local);
    g_autoptr(CtlSchema) schema = NULL;
    QValue *args;

    if (!client) {
        g_autoptr(GError) unknown = NULL;

        /* "lss" without a daemon is a slip of the finger, not a question of daemons. */
        ctl_help_unknown(NULL, words[0], &unknown);
        g_propagate_error(error, strstr(unknown->message, "did you mean")
                                     ? g_steal_pointer(&unknown)
                                     : g_steal_pointer(&local));
        return false;
    }
    /* JSON-RPC's own methods are in no schema. */
    if (g_str_has_prefix(words[0], "rpc.") && !words[1]) {
        return call(ctl, client, words[0], NULL, error);
    }
    schema = ctl_schema_fetch(client, error);
    if (!schema) {
        return false;
    }
    if (!g_strv_contains(ctl_schema_commands(schema), words[0])) {
        ctl_help_unknown(schema, words[0], error);
        return false;
    }
    args = read_arguments(schema, words[0], words + 1, error);
    if (!args) {
        g_prefix_error(error, "%s: ", words[0]);
        return false;
    }
    return call(ctl, client, words[0], args, error);
}
