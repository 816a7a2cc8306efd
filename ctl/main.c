/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <locale.h>
#include <stdio.h>
#include <string.h>

#include "ctl/complete.h"
#include "ctl/ctl.h"
#include "ctl/help.h"
#include "ctl/output.h"
#include "ctl/text.h"
#include "util/stdio.h"

/* Messages quote names and the daemon's words, both of which may hold anything. */
static int report(const GError *error)
{
    g_auto(GStrv) lines = g_strsplit(error->message, "\n", -1);

    fflush(stdout);
    for (char **line = lines; *line; line++) {
        g_autofree char *safe = ctl_text_printable(*line, -1);

        fprintf(stderr, "%s%s\n", line == lines ? "wharfctl: " : "", safe);
    }
    return error->code;
}

static bool check_count(const CtlCommand *command, guint count, GError **error)
{
    if (count >= command->min_words && count <= command->max_words) {
        return true;
    }
    g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE, "usage: wharfctl %s%s%s%s  ('wharfctl help %s')",
                command->name, command->options ? " [OPTION...]" : "",
                *command->synopsis ? " " : "", command->synopsis, command->name);
    return false;
}

static bool run_short_form(Ctl *ctl, const CtlCommand *command, char **args, GError **error)
{
    g_autofree void *options = g_malloc0(MAX(command->options_size, 1));
    const CtlOptionSet sets[] = {{command->options, options}, {ctl_global_options, ctl}};
    g_autofree char **words = ctl_options_parse(sets, G_N_ELEMENTS(sets), args, false, error);

    if (!words) {
        return false;
    }
    if (ctl->help) {
        g_autofree char *text = ctl_help_command(command);

        fputs(text, stdout);
        return true;
    }
    return check_count(command, g_strv_length(words), error) &&
           command->run(ctl, options, words, error);
}

static bool run_any(Ctl *ctl, char **args, GError **error)
{
    const CtlOptionSet set = {ctl_global_options, ctl};
    g_autofree char **words = ctl_options_parse(&set, 1, args, false, error);
    char *help[] = {NULL, NULL};

    if (!words) {
        return false;
    }
    if (ctl->help) {
        help[0] = words[0];
        return ctl_command_find("help")->run(ctl, NULL, help, error);
    }
    return ctl_run_any(ctl, words, error);
}

static bool run(char **args, GError **error)
{
    Ctl ctl = {0};
    const CtlOptionSet set = {ctl_global_options, &ctl};
    g_autofree char **words = ctl_options_parse(&set, 1, args, true, error);
    const CtlCommand *command;
    g_autofree char *text = NULL;

    if (!words) {
        return false;
    }
    if (ctl.version) {
        puts("wharfctl " WHARF_VERSION);
        return true;
    }
    text = ctl_help_general();
    if (ctl.help && !words[0]) {
        fputs(text, stdout);
        return true;
    }
    if (!words[0]) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE, "no command is given\n\n%s", text);
        return false;
    }
    command = ctl_command_find(words[0]);
    return command ? run_short_form(&ctl, command, words + 1, error) : run_any(&ctl, words, error);
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;

    stdio_fill_gaps();
    setlocale(LC_CTYPE, "");
    if (argc > 1 && strcmp(argv[1], "--complete") == 0) {
        ctl_complete(argv + 2);
        return 0;
    }
    if (!run(argv + 1, &error)) {
        return report(error);
    }
    return ctl_output_finish(&error) ? 0 : report(error);
}
