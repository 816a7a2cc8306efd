/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "export/fuse/init.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "util/error.h"

/* Shared mappings of files opened for direct I/O; protocol 7.39. */
#define INIT_DIRECT_IO_ALLOW_MMAP (1ULL << 36)

#define INIT_PAGE           4096
#define INIT_MIN_MINOR      28 /* FUSE_MAX_PAGES; Linux 4.20 */
#define INIT_MAX_BACKGROUND 256
#define INIT_TIMEOUT_MS     10000
#define INIT_SMALL_IN       offsetof(struct fuse_init_in, flags2) /* before protocol 7.36 */

/*
 * What is asked for, some of it only where the export wants it. That writes take set-user-ID bits
 * away is promised with passthrough, by having none: the kernel then need not look at the file's
 * attributes with each write. Not among it, though the kernel
 * offers it: opens without a message (FUSE_NO_OPEN_SUPPORT), which are cached ones whatever the
 * export is to be; and locks, which are local and work without us.
 */
static const struct {
    uint64_t flag;
    const char *name;
} init_features[] = {
    {FUSE_ASYNC_READ, "async-read"},
    {FUSE_ATOMIC_O_TRUNC, "atomic-o-trunc"},
    {FUSE_BIG_WRITES, "big-writes"},
    {FUSE_AUTO_INVAL_DATA, "auto-inval-data"},
    {FUSE_ASYNC_DIO, "async-dio"},
    {FUSE_PARALLEL_DIROPS, "parallel-dirops"},
    {FUSE_ABORT_ERROR, "abort-error"},
    {FUSE_MAX_PAGES, "max-pages"},
    {FUSE_INIT_EXT, "init-ext"},
    {INIT_DIRECT_IO_ALLOW_MMAP, "direct-io-allow-mmap"},
    {PASSTHROUGH_INIT_FLAG, "passthrough"},
    {FUSE_HANDLE_KILLPRIV_V2, "handle-killpriv-v2"},
    {URING_INIT_FLAG, "over-io-uring"},
    {FUSE_WRITEBACK_CACHE, "writeback-cache"},
};

static uint64_t init_wanted(const FuseInitWishes *wishes)
{
    uint64_t flags = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(init_features); i++) {
        flags |= init_features[i].flag;
    }
    if (!wishes->uring) {
        flags &= ~URING_INIT_FLAG;
    }
    if (!wishes->writeback) {
        flags &= ~(uint64_t)FUSE_WRITEBACK_CACHE;
    }
    if (!wishes->passthrough) {
        flags &= ~(PASSTHROUGH_INIT_FLAG | FUSE_HANDLE_KILLPRIV_V2);
    }
    return flags;
}

/* In whole pages. */
static uint32_t init_max_io(const FuseInitWishes *wishes)
{
    uint32_t page = sysconf(_SC_PAGESIZE);
    uint32_t bytes = wishes->max_io ? wishes->max_io : FUSE_INIT_MAX_IO;

    return MIN((bytes + page - 1) / page * page, FUSE_INIT_MAX_IO);
}

static uint64_t init_offered(const struct fuse_init_in *in, size_t bytes)
{
    uint64_t flags = in->flags;

    if ((flags & FUSE_INIT_EXT) && bytes >= sizeof(*in)) {
        flags |= (uint64_t)in->flags2 << 32;
    }
    return flags;
}

int fuse_init_negotiate(const void *message, size_t bytes, const FuseInitWishes *wishes,
                        FuseAgreement *agreed, struct fuse_init_out *out)
{
    const struct fuse_in_header *header = message;
    struct fuse_init_in in = {0};
    size_t rest;

    *out = (struct fuse_init_out){.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION};
    if (bytes < sizeof(*header) + INIT_SMALL_IN || header->len != bytes ||
        header->opcode != FUSE_INIT) {
        return -EINVAL;
    }
    rest = MIN(bytes - sizeof(*header), sizeof(in));
    memcpy(&in, header + 1, rest);
    if (in.major > FUSE_KERNEL_VERSION) {
        return -EAGAIN;
    }
    if (in.major < FUSE_KERNEL_VERSION || in.minor < INIT_MIN_MINOR) {
        return -EPROTO;
    }

    *agreed = (FuseAgreement){
        .minor = MIN(in.minor, FUSE_KERNEL_MINOR_VERSION),
        .flags = init_offered(&in, rest) & init_wanted(wishes),
        .max_write = init_max_io(wishes),
        .max_readahead = MIN(in.max_readahead, wishes->max_readahead),
        .max_background = INIT_MAX_BACKGROUND,
    };
    if (!(agreed->flags & FUSE_MAX_PAGES)) {
        /* what kernels without it can do */
        agreed->max_write = MIN(agreed->max_write, 32 * INIT_PAGE);
    }
    out->max_readahead = agreed->max_readahead;
    out->flags = (uint32_t)agreed->flags;
    out->flags2 = (uint32_t)(agreed->flags >> 32);
    out->max_background = agreed->max_background;
    out->congestion_threshold = agreed->max_background * 3 / 4;
    out->max_write = agreed->max_write;
    out->time_gran = 1;
    out->max_pages = MAX(agreed->max_write / sysconf(_SC_PAGESIZE), 1);
    if (agreed->flags & PASSTHROUGH_INIT_FLAG) {
        memcpy((char *)out + PASSTHROUGH_DEPTH_OFFSET, &(uint32_t){PASSTHROUGH_DEPTH_MAX},
               sizeof(uint32_t));
    }
    return 0;
}

/* Answer the message with this unique number; @error 0 sends @out, too. */
static bool init_answer(int fd, uint64_t unique, int err, const struct fuse_init_out *out)
{
    size_t bytes = err ? 0 : sizeof(*out);
    struct fuse_out_header header = {.len = sizeof(header) + bytes, .error = err, .unique = unique};
    struct iovec iov[] = {{&header, sizeof(header)}, {(void *)out, bytes}};

    return writev(fd, iov, err ? 1 : 2) == (ssize_t)header.len;
}

/* One message and its answer. 0, -EAGAIN to go on, or another -errno. */
static int init_exchange(int fd, const FuseInitWishes *wishes, FuseAgreement *agreed)
{
    _Alignas(8) char message[FUSE_MIN_READ_BUFFER];
    const struct fuse_in_header *header = (const void *)message;
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    struct fuse_init_out out;
    ssize_t n;
    int ret;

    ret = poll(&wait, 1, INIT_TIMEOUT_MS);
    if (ret <= 0) {
        return ret == 0 ? -ETIMEDOUT : errno == EINTR ? -EAGAIN : -errno;
    }
    n = read(fd, message, sizeof(message));
    if (n < 0) {
        return errno == EINTR ? -EAGAIN : -errno;
    }
    ret = fuse_init_negotiate(message, n, wishes, agreed, &out);
    if (ret < 0 && ret != -EAGAIN) {
        if ((size_t)n >= sizeof(*header)) {
            init_answer(fd, header->unique, -EPROTO, NULL);
        }
        return ret;
    }
    return init_answer(fd, header->unique, 0, &out) ? ret : -errno;
}

bool fuse_init_handshake(int fd, const FuseInitWishes *wishes, FuseAgreement *agreed,
                         GError **error)
{
    int ret;

    do {
        ret = init_exchange(fd, wishes, agreed);
    } while (ret == -EAGAIN);
    if (ret == -EPROTO) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "the kernel's FUSE protocol is too old; 7.%d (Linux 4.20) is needed",
                    INIT_MIN_MINOR);
        return false;
    }
    if (ret < 0) {
        wharf_set_error_errno(error, -ret, "the FUSE handshake with the kernel failed");
        return false;
    }
    return true;
}

GPtrArray *fuse_init_features(const FuseAgreement *agreed)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);

    for (unsigned i = 0; i < G_N_ELEMENTS(init_features); i++) {
        if (agreed->flags & init_features[i].flag) {
            g_ptr_array_add(names, g_strdup(init_features[i].name));
        }
    }
    return names;
}
