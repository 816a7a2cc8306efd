/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Spoils an answer on its way to the kernel, so that the kernel refuses it and the entry of the
 * ring, with the request in it, is lost. The next one is spoilt when there is a file of the name
 * that WHARF_LOSE_ENTRY has; the file goes with it.
 */
#include <stdlib.h>
#include <unistd.h>

#include "aio/aio.h"
#include "export/fuse/uring-protocol.h"

void __real_aio_command_submit(AioCommand *command, uint32_t op, const struct iovec *iov,
                               unsigned n);
void __wrap_aio_command_submit(AioCommand *command, uint32_t op, const struct iovec *iov,
                               unsigned n);

void __wrap_aio_command_submit(AioCommand *command, uint32_t op, const struct iovec *iov,
                               unsigned n)
{
    const char *trigger = getenv("WHARF_LOSE_ENTRY");
    UringArea *area = aio_command_area(command);

    if (op == URING_COMMIT && trigger && unlink(trigger) == 0) {
        area->commit_id = ~area->commit_id;
    }
    __real_aio_command_submit(command, op, iov, n);
}
