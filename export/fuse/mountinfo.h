/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/fuse/mountinfo.h - what /proc/self/mountinfo tells, see proc_pid_mountinfo(5).
 *
 * Threads   Any; pure but for mountinfo_find_id(), which reads a file in /proc and never touches a
 *           mount.
 */
#ifndef WHARF_EXPORT_FUSE_MOUNTINFO_H
#define WHARF_EXPORT_FUSE_MOUNTINFO_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* One mount. */
typedef struct MountInfo {
    uint64_t id;
    unsigned dev_major, dev_minor;
    char *mountpoint; /* with its escapes resolved; any bytes but zero */
    char *fstype;
} MountInfo;

void mountinfo_free(MountInfo *info);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(MountInfo, mountinfo_free)

/* Parse one line, with or without its newline. NULL if it is none. */
MountInfo *mountinfo_parse_line(const char *line);

/* The mount with this id and device number in the text of a whole file, or NULL. */
MountInfo *mountinfo_parse_find(const char *text, uint64_t id, unsigned dev_major,
                                unsigned dev_minor);

/* The same in this process's mount namespace. Blocking. */
MountInfo *mountinfo_find_id(uint64_t id, unsigned dev_major, unsigned dev_minor);

#endif
