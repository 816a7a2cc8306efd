/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/complete.h - what the shell offers when a word is completed.
 */
#ifndef WHARF_CTL_COMPLETE_H
#define WHARF_CTL_COMPLETE_H

/*
 * Print what the last of @args (the words after "wharfctl", NULL-terminated) could become, a line
 * each; the line ":files" instead means file names. Never complains, and prints nothing where it
 * knows nothing, for instance because there is no daemon.
 */
void ctl_complete(char **args);

#endif
