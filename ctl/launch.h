/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/launch.h - starting wharfd as a child.
 *
 * What it says on standard error is kept in memory, so that no pipe can fill up or stay open. While
 * it runs, SIGINT, SIGTERM and SIGHUP go to it instead of ending us: it knows best how to stop.
 * Until it is cleared they do not end us, either, so that we can tidy up. One child at a time.
 */
#ifndef WHARF_CTL_LAUNCH_H
#define WHARF_CTL_LAUNCH_H

#include <glib.h>
#include <signal.h>
#include <stdbool.h>

#define CTL_CHILD_SIGNALS 3

/* Seconds that a daemon may take to end: more than it waits for whatever is under way then. */
#define CTL_CHILD_PATIENCE 60

/* All zero: none. */
typedef struct CtlChild {
    GPid pid; /* 0: not running */
    int messages_fd;
    bool caught;
    struct sigaction old[CTL_CHILD_SIGNALS];
    char *program;
} CtlChild;

/* wharfd: $WHARFD, beside this program, where the build leaves it, or in $PATH. g_free(). */
char *ctl_launch_find(GError **error);

/*
 * Start @argv. @io_fd: its standard input and output; -1: as ours. @tied: it is told to end when we
 * do. @child is to be cleared in any case.
 */
bool ctl_child_start(CtlChild *child, const char *const *argv, int io_fd, bool tied,
                     GError **error);

/* Wait for its end. Returns the status as waitpid() has it, or -1 with @error. */
int ctl_child_wait(CtlChild *child, GError **error);

/*
 * Tell it to end, if nobody has, and kill it if it still runs @seconds later. Returns the status,
 * or -1: it did not run.
 */
int ctl_child_end(CtlChild *child, unsigned seconds);

/* All that it has said so far. g_free(). */
char *ctl_child_messages(const CtlChild *child);

/* The signal that was passed on to it, or 0. */
int ctl_child_signal(void);

/* One that still runs is told to end, and waited for. */
void ctl_child_clear(CtlChild *child);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CtlChild, ctl_child_clear)

#endif
