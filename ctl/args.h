/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/args.h - words of the command line to the arguments of a command, by the daemon's schema.
 *
 *   key=value        converted to the type that the schema asks for: on/off/yes/no/true/false, 10M,
 *                    0x1f, text as it is; for a list or an object, JSON
 *   key.sub=value    a member of an object; key.0=, key.1=, ... the elements of a list
 *   key:=JSON        any value, exactly as written
 *   {...}            all of it as JSON, at most once, before or after the others
 */
#ifndef WHARF_CTL_ARGS_H
#define WHARF_CTL_ARGS_H

#include "ctl/schema.h"

/*
 * The arguments for @command, which the schema knows, out of @words (NULL-terminated). Returns NULL
 * with CTL_ERROR_USAGE when a word does not fit the schema, naming it, what was expected, and names
 * that were probably meant. What came as JSON is left for the daemon to check.
 */
QValue *ctl_args_convert(const CtlSchema *schema, const char *command, char **words,
                         GError **error);

/*
 * What @word could become after @words, for completion: "key=" or "key." for members still missing,
 * "key=value" where the values are known. NULL-terminated; g_strfreev().
 */
char **ctl_args_complete(const CtlSchema *schema, const char *command, char **words,
                         const char *word);

#endif
