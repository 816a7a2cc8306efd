/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Transport dev: threads with a channel each, which read a request, serve it and write the answer:
 * three system calls a request. While there is more than one, all that are there are read, then all
 * are served, then all are answered.
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

/* A message that begins so that its data begins on a page. */
typedef struct DevRequest {
    struct fuse_in_header *in;
    ProbeCall call;
    int ret; /* of probe_serve() */
} DevRequest;

typedef struct DevChannel {
    Probe *probe;
    int fd; /* does not block */
    unsigned n_requests;
    DevRequest requests[];
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

/* 0, -EAGAIN if there is no request, or another -errno when all is over. */
static int dev_read(const DevChannel *channel, const DevRequest *req)
{
    ssize_t n;

    do {
        n = read(channel->fd, req->in, DEV_HEAD + PROBE_MAX_IO);
        /* ENOENT: the request was taken back while it was on its way. */
    } while (n < 0 && (errno == EINTR || errno == ENOENT));
    return n < 0 ? -errno : n == 0 ? -ENODEV : 0;
}

/* Look for a while, then sleep. */
static int dev_wait(const DevChannel *channel, const DevRequest *req)
{
    int64_t deadline = probe_now_ns() + channel->probe->poll_ns;
    int ret;

    while ((ret = dev_read(channel, req)) == -EAGAIN) {
        if (probe_now_ns() >= deadline) {
            poll(&(struct pollfd){.fd = channel->fd, .events = POLLIN}, 1, -1);
        }
    }
    return ret;
}

/* Read what there is, and wait if there is nothing. How many, or -errno when all is over. */
static int dev_read_batch(const DevChannel *channel)
{
    unsigned n = 0;
    int ret = dev_read(channel, &channel->requests[0]);

    if (ret == -EAGAIN) {
        ret = dev_wait(channel, &channel->requests[0]);
        return ret < 0 ? ret : 1; /* where they come one by one, asking for a second is in vain */
    }
    while (ret == 0 && ++n < channel->n_requests) {
        ret = dev_read(channel, &channel->requests[n]);
    }
    return n ? (int)n : ret;
}

static void dev_answer(const DevChannel *channel, const DevRequest *req)
{
    const ProbeCall *call = &req->call;
    int ret = req->ret;
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
    int n;

    sem_post(&probe->ready);
    while ((n = dev_read_batch(channel)) > 0) {
        for (int i = 0; i < n; i++) {
            channel->requests[i].ret = probe_serve(probe, &channel->requests[i].call);
        }
        for (int i = 0; i < n; i++) {
            if (channel->requests[i].ret != PROBE_NO_ANSWER) {
                dev_answer(channel, &channel->requests[i]);
            }
        }
    }
    kill(getpid(), SIGUSR1);
    return NULL;
}

static DevChannel *dev_channel_new(Probe *probe, int fd)
{
    DevChannel *channel = calloc(1, sizeof(*channel) + probe->batch * sizeof(DevRequest));

    channel->probe = probe;
    channel->fd = fd;
    channel->n_requests = probe->batch;
    for (unsigned i = 0; i < probe->batch; i++) {
        DevRequest *req = &channel->requests[i];
        char *data = (char *)probe_buffer(PROBE_PAGE + PROBE_MAX_IO) + PROBE_PAGE;

        req->in = (void *)(data - DEV_HEAD);
        req->call = (ProbeCall){.in = req->in, .args = req->in + 1, .data = data};
    }
    return channel;
}

void probe_dev_start(Probe *probe, unsigned queues)
{
    for (unsigned i = 0; i < queues; i++) {
        int fd = i == 0 ? probe->fuse : dev_clone(probe->fuse);

        fcntl(fd, F_SETFL, O_NONBLOCK);
        probe_start_thread(dev_run, dev_channel_new(probe, fd));
    }
}
