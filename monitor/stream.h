/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * monitor/stream.h - one connection as bytes: a socket, or a pair of descriptors such as stdin and
 * stdout.
 *
 * Reading and writing never block, also where the descriptors are shared with other processes and
 * must not be made non-blocking. Files that cannot be polled (/dev/null, regular ones) count as
 * always ready.
 *
 * Threads   The main thread only.
 * Lifetime  stream_close() frees it, also from within its own handler, which is not called again.
 */
#ifndef WHARF_MONITOR_STREAM_H
#define WHARF_MONITOR_STREAM_H

#include "aio/aio.h"

typedef struct Stream Stream;

enum {
    STREAM_READ = 1,
    STREAM_WRITE = 2,
};

typedef void StreamHandler(void *opaque, unsigned ready);

/* Take over a connected socket (@in == @out) or two descriptors. */
Stream *stream_new(AioContext *ctx, int in, int out);

/* Who is told; call it before anything else. Interest begins empty. */
void stream_set_handler(Stream *stream, StreamHandler *handler, void *opaque);

/*
 * Of what to tell: STREAM_READ | STREAM_WRITE. That the other side has gone counts as both, for
 * trying tells it.
 */
void stream_set_interest(Stream *stream, unsigned interest);

/* Bytes moved, 0 at the end of input, -EAGAIN, or another -errno. */
ssize_t stream_read(Stream *stream, void *buffer, size_t bytes);
ssize_t stream_write(Stream *stream, const void *buffer, size_t bytes);

/* Say that no more output follows. */
void stream_shutdown_output(Stream *stream);

/* Whether closing with unread input would make the other side lose output (TCP). */
bool stream_wants_linger(const Stream *stream);

/*
 * Close and free. Input that arrived unread is drained first, so that the other side sees the end
 * of the stream and no reset. stdin and stdout stay open, as nobody else may get their numbers.
 */
void stream_close(Stream *stream);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Stream, stream_close)

#endif
