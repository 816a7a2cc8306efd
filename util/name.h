/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * util/name.h - the rule that the names of exports, objects, chardevs and nodes have in common.
 *
 * Threads   Any thread.
 */
#ifndef WHARF_UTIL_NAME_H
#define WHARF_UTIL_NAME_H

#include <glib.h>
#include <stdbool.h>

/*
 * Whether @name begins with an ASCII letter and goes on with letters, digits, '-', '.' and '_'.
 * Names made by the daemon itself break this rule, so that nobody can take them.
 */
bool name_is_wellformed(const char *name);

/*
 * The same, with an error that says of what the name is (@what: "export id") and what the rule is.
 */
bool name_check(const char *name, const char *what, GError **error);

#endif
