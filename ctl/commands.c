/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/commands.h"

#include <string.h>

G_DEFINE_QUARK(ctl - error - quark, ctl_error)

const CtlOption ctl_global_options[] = {
    {"socket", 's', "PATH", NULL, offsetof(Ctl, socket), "the daemon's socket"},
    {"json", 'j', NULL, NULL, offsetof(Ctl, json), "one line of JSON, for scripts"},
    {"help", 'h', NULL, NULL, offsetof(Ctl, help), "show help, of the command if one is given"},
    {"version", 'V', NULL, NULL, offsetof(Ctl, version), "show the version"},
    {NULL},
};

const CtlCommand *const ctl_commands[] = {
    &ctl_command_create,
    &ctl_command_info,
    &ctl_command_snapshot,
    &ctl_command_check,
    &ctl_command_mount,
    &ctl_command_umount,
    &ctl_command_export,
    &ctl_command_rm,
    &ctl_command_ls,
    &ctl_command_graph,
    &ctl_command_events,
    &ctl_command_help,
    NULL,
};

const CtlCommand *ctl_command_find(const char *name)
{
    for (const CtlCommand *const *command = ctl_commands; *command; command++) {
        if (strcmp((*command)->name, name) == 0) {
            return *command;
        }
    }
    return NULL;
}

/* Have @error tell of @other, too. */
static void add_message(GError *error, const GError *other)
{
    g_autofree char *first = error->message;

    error->message = g_strdup_printf("%s\n%s", first, other->message);
}

bool ctl_do_each(char **words, bool (*one)(const char *word, void *opaque, GError **error),
                 void *opaque, GError **error)
{
    g_autoptr(GError) failed = NULL;
    bool reachable = true;

    for (; *words && reachable; words++) {
        g_autoptr(GError) local = NULL;

        if (one(*words, opaque, &local)) {
            continue;
        }
        reachable = !g_error_matches(local, CTL_ERROR, CTL_ERROR_UNREACHABLE);
        if (failed) {
            add_message(failed, local);
        } else {
            failed = g_steal_pointer(&local);
        }
    }
    if (failed) {
        g_propagate_error(error, g_steal_pointer(&failed));
        return false;
    }
    return true;
}
