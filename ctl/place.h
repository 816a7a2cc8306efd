/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/place.h - where sockets are, and what is mounted where.
 */
#ifndef WHARF_CTL_PLACE_H
#define WHARF_CTL_PLACE_H

#include <glib.h>
#include <stdbool.h>

/*
 * The socket of the daemon to talk to: @given (--socket) if there is one, else $WHARF_SOCKET, else
 * the first that exists of $XDG_RUNTIME_DIR/wharf/wharfd.sock and /run/wharf/wharfd.sock; if none
 * does, the first of these. g_free().
 */
char *ctl_place_socket(const char *given);

/*
 * The directory for the sockets of the daemons that "mount" starts, private to this user: wharf in
 * $XDG_RUNTIME_DIR, /run/user/UID, or for root /run; else /tmp/wharf-UID. With @make it is made if
 * it is missing; a place that anybody else could meddle with is refused. NULL with an error.
 */
char *ctl_place_directory(bool make, GError **error);

/* Paths of the sockets in there, those that are still alive or not; NULL-terminated, g_strfreev().
 */
char **ctl_place_mount_sockets(void);

/*
 * @path as the kernel would show a mount there: absolute, without symbolic links. Nothing is asked
 * of what is mounted at @path itself, which may be dead or hang. NULL with an error.
 */
char *ctl_place_resolve(const char *path, GError **error);

/* @path made absolute, and otherwise left as it is. NULL with an error. */
char *ctl_place_absolute(const char *path, GError **error);

/* The type of the topmost file system mounted at exactly @resolved, or NULL if none is. g_free().
 */
char *ctl_place_mounted(const char *resolved);

#endif
