/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the system tells of the thread that waits for an answer. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "export/fuse/fuse-internal.h"

/* In the line /proc/PID/stat, counted from the state on, which follows the name. */
#define STAT_FLAGS   6
#define STAT_PENDING 28

#define STAT_SIGNALED 0x400 /* of the flags: a signal has ended it, and it is on its way out */
#define STAT_KILLED   (1U << (SIGKILL - 1))

static guint64 stat_field(const char *fields, unsigned number)
{
    while (fields && number--) {
        fields = strchr(fields, ' ');
        fields = fields ? fields + 1 : NULL;
    }
    return fields ? g_ascii_strtoull(fields, NULL, 10) : 0;
}

bool fuse_client_stat_is_killed(const char *line)
{
    const char *name_end = strrchr(line, ')'); /* the name may hold any byte */

    if (!name_end || name_end[1] != ' ') {
        return false;
    }
    return (stat_field(name_end + 2, STAT_FLAGS) & STAT_SIGNALED) ||
           (stat_field(name_end + 2, STAT_PENDING) & STAT_KILLED);
}

bool fuse_client_is_killed(uint32_t pid)
{
    char path[32], line[1024];
    ssize_t n;
    int fd;

    if (!pid) {
        return false; /* in a namespace of processes that is not ours */
    }
    snprintf(path, sizeof(path), "/proc/%u/stat", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false; /* whoever has gone waits for nothing */
    }
    n = read(fd, line, sizeof(line) - 1);
    close(fd);
    line[MAX(n, 0)] = '\0';
    return fuse_client_stat_is_killed(line);
}
