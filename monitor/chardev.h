/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * monitor/chardev.h - character devices: where connections come from.
 *
 * A chardev listens, connects, or is stdin and stdout. It hands each connection to the monitor that
 * is attached to it; those that come before one is attached wait.
 *
 * Threads   The main thread only.
 * Lifetime  Reference counted, since coroutines may wait inside. chardev_close() ends its work and
 *           removes its socket; it must come before the last unref.
 */
#ifndef WHARF_MONITOR_CHARDEV_H
#define WHARF_MONITOR_CHARDEV_H

#include "aio/aio.h"
#include "monitor/stream.h"
#include "qapi/types-chardev.h"
#include "util/socket.h"

/* What a chardev is to be, from whichever form the user wrote it in. */
typedef struct ChardevConfig {
    char *id;
    ChardevBackendKind kind;
    SocketPlace *address;  /* SOCKET */
    bool server;           /* SOCKET: listen */
    bool wait;             /* with server: the start goes on when a client has come */
    bool nodelay;          /* SOCKET over TCP */
    unsigned reconnect_ms; /* without server; 0: never */
} ChardevConfig;

void chardev_config_free(ChardevConfig *config);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ChardevConfig, chardev_config_free)

/* From --chardev, and from chardev-add. NULL if something is contradictory, missing or malformed.
 */
ChardevConfig *chardev_config_from_options(const ChardevOptions *options, GError **error);
ChardevConfig *chardev_config_from_backend(const char *id, const ChardevBackend *backend,
                                           GError **error);

/* A listening Unix socket at @path; @mode is octal, or NULL for the default. */
ChardevConfig *chardev_config_for_path(const char *id, const char *path, const char *mode,
                                       GError **error);

typedef struct Chardev Chardev;

/* A chardev that does nothing yet. */
Chardev *chardev_new(AioContext *ctx, const ChardevConfig *config);

/*
 * Begin: it listens, or has connected (unless it may try again later), when this returns; with
 * 'wait', a client has connected. Fails when it was closed meanwhile. The caller holds a reference.
 */
bool co_fn chardev_co_start(Chardev *chardev, GError **error);

Chardev *chardev_ref(Chardev *chardev);
void chardev_unref(Chardev *chardev);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Chardev, chardev_unref)

const char *chardev_id(const Chardev *chardev);
bool chardev_is_stdio(const Chardev *chardev);

/* Kind and address for people; the caller frees it. */
char *chardev_describe(const Chardev *chardev);

/* Let a start that waits for somebody fail now. */
void chardev_cancel_start(Chardev *chardev);

/*
 * Give connections to @connected from now on, which owns the stream it gets. One at a time
 * attaches; it gets nothing before chardev_set_accepting(true).
 */
void chardev_attach(Chardev *chardev, void (*connected)(void *opaque, Stream *stream),
                    void *opaque);
void chardev_detach(Chardev *chardev);
bool chardev_is_attached(const Chardev *chardev);

/* Pause and resume; clients that come meanwhile wait in the listen queue. */
void chardev_set_accepting(Chardev *chardev, bool accepting);

/* The attached one says that a connection has ended, so that a lost one is made anew. */
void chardev_connection_ended(Chardev *chardev);

/* Stop everything, also a start that is under way, and remove the socket. Idempotent. */
void chardev_close(Chardev *chardev);

/* Remove the socket and do no more: for an end that cannot wait. */
void chardev_abandon(Chardev *chardev);

#endif
