/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daemon/help.h - what wharfd says about itself: --help, --version, and 'help' in place of a value.
 *
 * Threads   Any. Nothing here depends on state.
 */
#ifndef WHARF_DAEMON_HELP_H
#define WHARF_DAEMON_HELP_H

#include <glib.h>

/* The texts of --help and --version. The caller frees them. */
char *help_usage(void);
char *help_version(void);

/*
 * If @value asks what it may be ("help", or "KIND,help" as in "--blockdev file,help"), the answer
 * for --@option, which the caller frees; else NULL. NULL with @error if there is no such kind.
 */
char *help_for_value(const char *option, const char *value, GError **error);

#endif
