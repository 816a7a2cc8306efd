/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/bench/fuse-probe.h"

#include <errno.h>
#include <unistd.h>

/* Nobody else changes the file. */
#define PROBE_VALID_SECONDS 3600

static int serve_read(const Probe *probe, ProbeCall *call)
{
    const struct fuse_read_in *in = call->args;
    ssize_t n = pread(probe->image, call->data, in->size, in->offset);

    if (n < 0) {
        return -errno;
    }
    call->data_bytes = n;
    return 0;
}

static int serve_write(const Probe *probe, ProbeCall *call)
{
    const struct fuse_write_in *in = call->args;
    ssize_t n = pwrite(probe->image, call->data, in->size, in->offset);

    if (n < 0) {
        return -errno;
    }
    call->out.write = (struct fuse_write_out){.size = n};
    call->out_bytes = sizeof(call->out.write);
    return 0;
}

static int serve_getattr(const Probe *probe, ProbeCall *call)
{
    call->out.attr = (struct fuse_attr_out){.attr_valid = PROBE_VALID_SECONDS, .attr = probe->attr};
    call->out_bytes = sizeof(call->out.attr);
    return 0;
}

static int serve_open(const Probe *probe, ProbeCall *call)
{
    /* The last member is named padding where passthrough is not known. */
    call->out.open = (struct fuse_open_out){0, probe->open_flags, probe->backing_id};
    call->out_bytes = sizeof(call->out.open);
    return 0;
}

int probe_serve(const Probe *probe, ProbeCall *call)
{
    call->out_bytes = call->data_bytes = 0;
    switch (call->in->opcode) {
    case FUSE_READ:
        return serve_read(probe, call);
    case FUSE_WRITE:
        return serve_write(probe, call);
    case FUSE_GETATTR:
        return serve_getattr(probe, call);
    case FUSE_OPEN:
        return serve_open(probe, call);
    case FUSE_FSYNC:
        return fdatasync(probe->image) < 0 ? -errno : 0;
    case FUSE_RELEASE:
    case FUSE_DESTROY:
        return 0;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
        return PROBE_NO_ANSWER;
    default:
        return -ENOSYS; /* of most, the kernel does not ask a second time */
    }
}
