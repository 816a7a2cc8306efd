/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/fuse/helper.h - mounting and unmounting for users who may not, by fusermount3.
 *
 * libfuse would run the same program for us, but lets it complain on our standard error and asks it
 * only where /dev/fuse could be opened. Here its complaint becomes the reason of the error.
 *
 * Threads   Any; all calls block, so they belong into a worker.
 */
#ifndef WHARF_EXPORT_FUSE_HELPER_H
#define WHARF_EXPORT_FUSE_HELPER_H

#include <glib.h>
#include <stdbool.h>

/* Mount at @path with @options (as of mount.fuse3(8)). The connection's descriptor, or -1. */
int fuse_helper_mount(const char *path, const char *options, GError **error);

/* Detach the FUSE mount at @path, whoever uses it. */
bool fuse_helper_unmount(const char *path, GError **error);

/* The same in a forked child, which allocates nothing: errors are not told. */
void fuse_helper_unmount_in_child(const char *path);

/*
 * What the program has said, fit for a message: one line, without its name in front. NULL if
 * nothing. For tests, too.
 */
char *fuse_helper_tidy(const char *output);

#endif
