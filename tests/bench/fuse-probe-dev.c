/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Transport dev: threads with a channel each, which read a request, serve it and write the answer,
 * one after the other: three system calls a request.
 */
#include "tests/bench/fuse-probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#define DEV_HEAD (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))

typedef struct DevChannel {
    Probe *probe;
    int fd;
    char *message; /* its data begins on a page */
} DevChannel;

static int dev_clone(int fd)
{
    uint32_t source = fd;
    int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC);

    if (clone < 0 || ioctl(clone, FUSE_DEV_IOC_CLONE, &source) < 0) {
        probe_die("cannot clone /dev/fuse: %m");
    }
    return clone;
}

static ssize_t dev_read_sleeping(const DevChannel *channel)
{
    ssize_t n;

    do {
        n = read(channel->fd, channel->message, DEV_HEAD + PROBE_MAX_IO);
        /* ENOENT: the request was taken back while it was on its way. */
    } while (n < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN));
    return n;
}

/* The same for a descriptor that does not block: look for a while, then sleep. */
static ssize_t dev_read_polling(const DevChannel *channel)
{
    int64_t deadline = probe_now_ns() + channel->probe->poll_ns;

    for (;;) {
        ssize_t n = read(channel->fd, channel->message, DEV_HEAD + PROBE_MAX_IO);

        if (n >= 0 || (errno != EINTR && errno != ENOENT && errno != EAGAIN)) {
            return n;
        }
        if (errno == EAGAIN && probe_now_ns() > deadline) {
            poll(&(struct pollfd){.fd = channel->fd, .events = POLLIN}, 1, -1);
        }
    }
}

static void dev_answer(const DevChannel *channel, const ProbeCall *call, int ret)
{
    size_t out_bytes = ret < 0 ? 0 : call->out_bytes;
    size_t data_bytes = ret < 0 ? 0 : call->data_bytes;
    struct fuse_out_header header = {
        .len = sizeof(header) + out_bytes + data_bytes,
        .error = ret,
        .unique = call->in->unique,
    };
    /* No answer has both. */
    struct iovec iov[] = {
        {&header, sizeof(header)},
        {data_bytes ? call->data : (void *)&call->out, data_bytes + out_bytes},
    };

    /* A failure means that nobody waits any more. */
    (void)!writev(channel->fd, iov, iov[1].iov_len ? 2 : 1);
}

static void *dev_run(void *opaque)
{
    DevChannel *channel = opaque;
    Probe *probe = channel->probe;
    struct fuse_in_header *in = (void *)channel->message;
    ProbeCall call = {.in = in, .args = in + 1, .data = channel->message + DEV_HEAD};

    sem_post(&probe->ready);
    while ((probe->poll_ns ? dev_read_polling(channel) : dev_read_sleeping(channel)) > 0) {
        int ret = probe_serve(probe, &call);

        if (ret != PROBE_NO_ANSWER) {
            dev_answer(channel, &call, ret);
        }
    }
    kill(getpid(), SIGUSR1);
    return NULL;
}

void probe_dev_start(Probe *probe, unsigned queues)
{
    for (unsigned i = 0; i < queues; i++) {
        DevChannel *channel = calloc(1, sizeof(*channel));

        channel->probe = probe;
        channel->fd = i == 0 ? probe->fuse : dev_clone(probe->fuse);
        if (probe->poll_ns) {
            fcntl(channel->fd, F_SETFL, O_NONBLOCK);
        }
        channel->message = (char *)probe_buffer(PROBE_PAGE + PROBE_MAX_IO) + PROBE_PAGE - DEV_HEAD;
        probe_start_thread(dev_run, channel);
    }
}
