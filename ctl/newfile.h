/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/newfile.h - a file that is made here, so that whatever fails it goes again, and nothing else:
 * what others have put in its place stays.
 *
 * It can do without a name until it is complete, where the file system has that. Then nothing is
 * left of it even if we are killed.
 */
#ifndef WHARF_CTL_NEWFILE_H
#define WHARF_CTL_NEWFILE_H

#include <glib.h>
#include <stdbool.h>

/* All zero: none. */
typedef struct CtlNewFile {
    int fd;
    char *path;   /* of the name that it has, or is to have; NULL: there is no such file */
    char *handle; /* by which others reach it, while it has no name; or NULL */
    bool kept;
} CtlNewFile;

/* Make it, empty. There must be nothing at @path. @file is to be cleared in any case. */
bool ctl_new_file_make(CtlNewFile *file, const char *path, bool nameless, GError **error);

/* The path by which a child of ours finds it now; borrowed. */
const char *ctl_new_file_reach(const CtlNewFile *file);

/* Give it its name, for good if the machine crashes after that. An error: that is taken. */
bool ctl_new_file_name(CtlNewFile *file, GError **error);

/* It has come to something: it is not removed any more. */
void ctl_new_file_keep(CtlNewFile *file);

void ctl_new_file_clear(CtlNewFile *file);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CtlNewFile, ctl_new_file_clear)

#endif
