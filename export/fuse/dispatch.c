/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From the bytes of a request to its operation. Nothing in a message is trusted: it comes from the
 * kernel, but a wrong length must not become a wrong access.
 */
#include <errno.h>

#include "export/fuse/fuse-internal.h"

/* Answered without a word to the node. */
static int co_fn fuse_co_nothing(FuseCall *call)
{
    return 0;
}

/*
 * The root of the mount is the file, or a directory that nobody sees, so nothing that needs a
 * directory ever comes but the LOOKUP by which the file is attached. What is not listed gets
 * ENOSYS: the kernel then does without (extended attributes become ENOTSUP, copy_file_range is done
 * by reading and writing) and does not ask again.
 */
static const FuseOperation fuse_operations[] = {
    [FUSE_LOOKUP] = {.co_serve = fuse_co_lookup, .flags = FUSE_OPERATION_PAYLOAD},
    [FUSE_FORGET] = {.co_serve = fuse_co_nothing,
                     .args_bytes = sizeof(struct fuse_forget_in),
                     .flags = FUSE_OPERATION_NO_REPLY},
    [FUSE_BATCH_FORGET] = {.co_serve = fuse_co_nothing,
                           .args_bytes = sizeof(struct fuse_batch_forget_in),
                           .flags = FUSE_OPERATION_NO_REPLY | FUSE_OPERATION_PAYLOAD},
    [FUSE_GETATTR] = {.co_serve = fuse_co_getattr,
                      .args_bytes = sizeof(struct fuse_getattr_in),
                      .flags = FUSE_OPERATION_HARMLESS},
    [FUSE_SETATTR] = {.co_serve = fuse_co_setattr, .args_bytes = sizeof(struct fuse_setattr_in)},
    [FUSE_OPEN] = {.co_serve = fuse_co_open, .args_bytes = sizeof(struct fuse_open_in)},
    [FUSE_READ] = {.co_serve = fuse_co_read,
                   .args_bytes = sizeof(struct fuse_read_in),
                   .flags = FUSE_OPERATION_DATA | FUSE_OPERATION_HARMLESS},
    [FUSE_WRITE] = {.co_serve = fuse_co_write,
                    .args_bytes = sizeof(struct fuse_write_in),
                    .flags = FUSE_OPERATION_DATA | FUSE_OPERATION_PAYLOAD},
    [FUSE_STATFS] = {.co_serve = fuse_co_statfs, .flags = FUSE_OPERATION_HARMLESS},
    [FUSE_RELEASE] = {.co_serve = fuse_co_release, .args_bytes = sizeof(struct fuse_release_in)},
    [FUSE_FSYNC] = {.co_serve = fuse_co_flush,
                    .args_bytes = sizeof(struct fuse_fsync_in),
                    .flags = FUSE_OPERATION_DATA | FUSE_OPERATION_HARMLESS},
    [FUSE_FLUSH] = {.co_serve = fuse_co_flush,
                    .args_bytes = sizeof(struct fuse_flush_in),
                    .flags = FUSE_OPERATION_HARMLESS},
    [FUSE_DESTROY] = {.co_serve = fuse_co_nothing},
    [FUSE_IOCTL] = {.error = -ENOTTY},
    [FUSE_FALLOCATE] = {.co_serve = fuse_co_fallocate,
                        .args_bytes = sizeof(struct fuse_fallocate_in),
                        .flags = FUSE_OPERATION_DATA},
    [FUSE_LSEEK] = {.co_serve = fuse_co_lseek,
                    .args_bytes = sizeof(struct fuse_lseek_in),
                    .flags = FUSE_OPERATION_HARMLESS},
};

static const FuseOperation *find_operation(uint32_t opcode, int *err)
{
    const FuseOperation *operation =
        opcode < G_N_ELEMENTS(fuse_operations) ? &fuse_operations[opcode] : NULL;

    if (operation && operation->co_serve) {
        return operation;
    }
    *err = operation && operation->error ? operation->error : -ENOSYS;
    return NULL;
}

const FuseOperation *fuse_call_parse(FuseCall *call, FuseExport *fe, const void *message,
                                     size_t bytes, void *payload, int *err)
{
    const struct fuse_in_header *in = message;
    const FuseOperation *operation;
    size_t rest;

    *err = 0;
    if (bytes < sizeof(*in)) {
        return NULL;
    }
    rest = bytes - sizeof(*in);
    *call = (FuseCall){.fe = fe, .in = in, .args = in + 1, .payload = payload};

    operation = find_operation(in->opcode, err);
    if (!operation) {
        return NULL;
    }
    if (in->len != bytes || rest < operation->args_bytes) {
        *err = -EINVAL;
        return NULL;
    }
    if (operation->flags & FUSE_OPERATION_PAYLOAD) {
        call->payload = (char *)(in + 1) + operation->args_bytes;
        call->payload_bytes = rest - operation->args_bytes;
    }
    return operation;
}

const FuseOperation *fuse_call_parse_parts(FuseCall *call, FuseExport *fe,
                                           const FuseMessage *message, int *err)
{
    const struct fuse_in_header *in = message->in;
    const FuseOperation *operation = find_operation(in->opcode, err);
    size_t whole = sizeof(*in) + message->payload_bytes;

    *call = (FuseCall){.fe = fe, .in = in, .args = message->args, .payload = message->payload};
    if (!operation) {
        return NULL;
    }
    if (in->len < whole || in->len - whole > message->args_bytes ||
        in->len - whole < operation->args_bytes) {
        *err = -EINVAL;
        return NULL;
    }
    if (operation->flags & FUSE_OPERATION_PAYLOAD) {
        call->payload_bytes = message->payload_bytes;
    }
    return operation;
}

static int co_fn fuse_call_co_run(const FuseOperation *operation, FuseCall *call)
{
    if (G_UNLIKELY(call->fe->passthrough.unseen_writes)) {
        fuse_passthrough_co_look(call->fe);
    }
    return operation->co_serve(call);
}

int co_fn fuse_call_co_serve(FuseQueue *queue, const FuseOperation *operation, FuseCall *call)
{
    int ret;

    call->queue = queue;
    if (!fuse_operation_is_data(operation, call)) {
        return fuse_call_co_run(operation, call);
    }
    export_request_data_begin(&queue->common);
    ret = fuse_call_co_run(operation, call);
    export_request_data_end(&queue->common);
    return ret;
}
