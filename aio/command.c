/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "aio/context-internal.h"

struct AioCommand {
    AioRequest req;
    AioCommandCallback *cb;
    void *opaque;
    bool in_flight;
    _Alignas(8) uint8_t area[AIO_COMMAND_AREA];
};

bool aio_context_takes_commands(const AioContext *ctx)
{
    return __atomic_load_n(&ctx->takes_commands, __ATOMIC_RELAXED);
}

AioCommand *aio_command_new(int fd, AioCommandCallback *cb, void *opaque)
{
    AioCommand *command = g_new0(AioCommand, 1);

    command->req.op = AIO_OP_COMMAND;
    command->req.fd = fd;
    command->req.file = -1;
    command->req.area = command->area;
    command->cb = cb;
    command->opaque = opaque;
    return command;
}

void aio_command_free(AioCommand *command)
{
    g_assert(!command || !command->in_flight);
    g_free(command);
}

void *aio_command_area(AioCommand *command)
{
    return command->area;
}

void aio_command_submit(AioCommand *command, uint32_t op, const struct iovec *iov, unsigned n)
{
    AioContext *ctx = aio_context_current();

    g_assert(aio_context_takes_commands(ctx) && !command->in_flight);
    command->in_flight = true;
    command->req.flags = op;
    command->req.iov = iov;
    command->req.n = n;
    ctx->ops->submit(ctx, &command->req);
}

int aio_file_keep(int fd)
{
    AioContext *ctx = aio_context_current();

    g_assert(aio_context_takes_commands(ctx));
    return ctx->ops->file_keep(ctx, fd);
}

void aio_file_forget(int file)
{
    AioContext *ctx = aio_context_current();

    if (file >= 0) {
        ctx->ops->file_forget(ctx, file);
    }
}

void aio_command_use_file(AioCommand *command, int file)
{
    g_assert(!command->in_flight);
    command->req.file = file;
}

bool aio_commands_settled(void)
{
    AioContext *ctx = aio_context_current();

    return ctx->ops->settled && ctx->ops->settled(ctx);
}

void aio_command_completed(AioRequest *req)
{
    AioCommand *command = (AioCommand *)req;

    command->in_flight = false;
    command->cb(command->opaque, req->ret);
}
