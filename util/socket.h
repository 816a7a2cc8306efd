/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * util/socket.h - stream sockets: where they are, how one begins to listen or connects.
 *
 * A Unix socket is made without taking anybody's place: a path that is no socket, or a socket that
 * somebody still listens on, is left alone; only a dead one is replaced. Its name is removed at the
 * end only where it still is the one that was made here.
 *
 * Threads   Any thread. The functions that say so may block (file systems, name resolution): call
 *           them in a worker thread.
 * Lifetime  Descriptors are the caller's. They are close-on-exec and do not block.
 */
#ifndef WHARF_UTIL_SOCKET_H
#define WHARF_UTIL_SOCKET_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef enum SocketPlaceKind {
    SOCKET_UNIX,
    SOCKET_ABSTRACT, /* a Unix socket in Linux's abstract name space */
    SOCKET_INET,
    SOCKET_FD, /* an inherited descriptor */
} SocketPlaceKind;

typedef struct SocketPlace {
    SocketPlaceKind kind;
    char *path;         /* UNIX: path, counted from the working directory; ABSTRACT: name */
    mode_t mode;        /* UNIX: permissions of the socket when it is made */
    bool padded;        /* ABSTRACT: the name fills the whole address, the rest being zeros */
    char *host;         /* INET; empty to listen on all addresses */
    char *port;         /* INET: number or service name */
    int family;         /* INET: AF_UNSPEC, AF_INET, AF_INET6 */
    bool numeric;       /* INET: the host is an address; nothing is looked up */
    uint16_t last_port; /* INET, to listen: where @port, a number, is taken, the next one is tried,
                           up to this one; 0: no other */
    int fd;             /* FD */
} SocketPlace;

SocketPlace *socket_place_copy(const SocketPlace *address);
void socket_place_free(SocketPlace *address);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SocketPlace, socket_place_free)

/* "unix:PATH", "abstract:NAME", "tcp:HOST:PORT" or "fd:N", for people. The caller frees it. */
char *socket_place_describe(const SocketPlace *address);

/* The name that a listening Unix socket has in the file system. */
typedef struct SocketFile SocketFile;

/*
 * Remove the name, if it still is the socket that was made, and free @file (may be NULL). To be
 * called before the descriptor is closed: until then no other file can have the same identity.
 */
void socket_file_remove(SocketFile *file);

/* Free @file and leave the name alone: for a process that forked. */
void socket_file_forget(SocketFile *file);

/*
 * Listen at @address. May block. Returns the descriptor, or -1; *ret_file is what to call
 * socket_file_remove() with at the end, or NULL where nothing was made. A descriptor that was
 * inherited becomes ours.
 */
int socket_listen(const SocketPlace *address, SocketFile **ret_file, GError **error);

/*
 * Connect to @address, waiting up to @timeout_ms milliseconds, or until somebody sets *@cancel
 * (atomically; may be NULL). May block that long, and longer while a name is being resolved.
 * Returns the descriptor, or -1.
 */
int socket_connect(const SocketPlace *address, unsigned timeout_ms, const gint *cancel,
                   GError **error);

/*
 * Accept a connection. Returns the descriptor, -EAGAIN when none is there, or another -errno.
 */
int socket_accept(int listen_fd);

/* Where the listening TCP socket @fd really is: "tcp:HOST:PORT", or NULL. The caller frees it. */
char *socket_describe_local(int fd);

/*
 * What ipv4= and ipv6= of an address come to: a flag that is absent leaves both families open; one
 * that is on asks for its family alone. False where both are off.
 */
bool socket_choose_family(bool has_ipv4, bool ipv4, bool has_ipv6, bool ipv6, int *ret_family,
                          GError **error);

/*
 * An inherited descriptor: by its number, or by the name that a service manager has given it for
 * this process (LISTEN_FDNAMES, see sd_listen_fds(3)). Returns it, or -1.
 */
int socket_parse_fd(const char *text, GError **error);

/* Permissions in octal ("0660"). Returns false where @text is none. */
bool socket_parse_mode(const char *text, mode_t *ret_mode, GError **error);

#endif
