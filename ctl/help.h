/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/help.h - texts that help.
 */
#ifndef WHARF_CTL_HELP_H
#define WHARF_CTL_HELP_H

#include "ctl/ctl.h"
#include "ctl/schema.h"

/* What wharfctl is, its commands and options. g_free(). */
char *ctl_help_general(void);

/* All about a short form. g_free(). */
char *ctl_help_command(const CtlCommand *command);

/*
 * The members of objects of @type, a line or more each, but for those in @hidden (NULL-terminated).
 * g_free().
 */
char *ctl_help_members(const CtlSchema *schema, const QValue *type, const char *const *hidden);

/* Report that there is no command @name, with the nearest that there is; @schema may be NULL. */
void ctl_help_unknown(const CtlSchema *schema, const char *name, GError **error);

#endif
