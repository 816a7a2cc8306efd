/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "aio/context-internal.h"

#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BUFFER_PAGE 4096 /* what the kernel keeps, at least */
#define BUFFER_HUGE (2 * 1024 * 1024)
#define BUFFER_GROW 4 /* times as much it is each time that there must be more */
#define LIMIT_SHARE 8 /* one in so many bytes of locked memory is for a context's buffers */

/* The number of the first user namespace, which never changes; see linux/proc_ns.h. */
#define INITIAL_USER_NAMESPACE 0xEFFFFFFDu

/* Capabilities say nothing about the system's resources in any other. */
static bool in_initial_user_namespace(void)
{
    struct stat st;

    return stat("/proc/self/ns/user", &st) == 0 && st.st_ino == INITIAL_USER_NAMESPACE;
}

/* Whether the kernel asks the calling thread for no limit. */
static bool may_lock_memory(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{0}};

    return syscall(SYS_capget, &header, data) == 0 &&
           (data[0].effective & (1u << CAP_IPC_LOCK)) != 0;
}

/*
 * The limit is that of all processes of a user together, and rings count, too: those of iothreads
 * that are still to come must find room. So a context takes its share and no more.
 */
static size_t buffers_max(void)
{
    struct rlimit limit;

    if ((may_lock_memory() && in_initial_user_namespace()) ||
        getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) {
        return SIZE_MAX;
    }
    return MAX(limit.rlim_cur / LIMIT_SHARE, 1);
}

void *aio_buffer_map(size_t bytes)
{
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (map == MAP_FAILED) {
        return NULL;
    }
    madvise(map, bytes, MADV_DONTFORK);
    return map;
}

/* The place of the first buffer behind @address. */
static unsigned place_behind(const AioContext *ctx, const char *address)
{
    unsigned first = 0, end = ctx->buffers->len;

    while (first < end) {
        unsigned middle = first + (end - first) / 2;
        const AioBuffer *buffer = g_ptr_array_index(ctx->buffers, middle);

        if (buffer->base <= address) {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    return first;
}

/* The last buffer that begins at @address or before, or NULL. */
static AioBuffer *buffer_before(const AioContext *ctx, const char *address)
{
    unsigned place = place_behind(ctx, address);

    return place ? g_ptr_array_index(ctx->buffers, place - 1) : NULL;
}

static bool overlaps(const AioContext *ctx, const char *base, size_t bytes)
{
    const AioBuffer *last = buffer_before(ctx, base + bytes - 1);

    return last && last->base + last->bytes > base;
}

AioBuffer *aio_buffer_new(void *base, size_t bytes)
{
    AioContext *ctx = aio_context_current();
    AioBuffer *buffer;

    g_assert(ctx && bytes > 0 && ((uintptr_t)base | bytes) % BUFFER_PAGE == 0);
    if (!ctx->ops->buffer_keep) {
        return NULL;
    }
    g_assert(!overlaps(ctx, base, bytes));
    if (!ctx->buffers_max) {
        ctx->buffers_max = buffers_max();
    }
    buffer = g_new(AioBuffer, 1);
    *buffer = (AioBuffer){.ctx = ctx, .base = base, .bytes = bytes, .number = -1};
    g_ptr_array_insert(ctx->buffers, place_behind(ctx, base), buffer);
    return buffer;
}

/* How much the pages of the first @bytes of @buffer are, as the kernel counts. */
static size_t pages_of(const AioBuffer *buffer, size_t bytes)
{
    uintptr_t begin = (uintptr_t)buffer->base, end = begin + bytes;

    if (!buffer->huge || bytes == 0) {
        return bytes;
    }
    return (end + BUFFER_HUGE - 1) / BUFFER_HUGE * BUFFER_HUGE - begin / BUFFER_HUGE * BUFFER_HUGE;
}

void aio_buffer_forget(AioBuffer *buffer)
{
    if (!buffer) {
        return;
    }
    aio_context_assert_owner(buffer->ctx);
    buffer->ctx->buffers_refused = false; /* worth a try: whoever is idle forgets */
    if (!buffer->kept) {
        return;
    }
    buffer->ctx->ops->buffer_forget(buffer->ctx, buffer->number);
    buffer->ctx->buffers_kept -= pages_of(buffer, buffer->kept);
    buffer->kept = 0;
    buffer->number = -1;
}

void aio_buffer_set_huge(AioBuffer *buffer, bool huge)
{
    aio_buffer_forget(buffer);
    if (buffer) {
        buffer->huge = huge;
    }
}

void aio_buffer_free(AioBuffer *buffer)
{
    if (!buffer) {
        return;
    }
    aio_buffer_forget(buffer);
    g_ptr_array_remove_index(buffer->ctx->buffers, place_behind(buffer->ctx, buffer->base) - 1);
    g_free(buffer);
}

static void tell_of_end(AioContext *ctx, const char *why)
{
    if (!ctx->buffers_told) {
        ctx->buffers_told = true;
        g_info("the kernel keeps %zu KiB of buffers for direct I/O at hand and no more: %s",
               ctx->buffers_kept / 1024, why);
    }
}

/* Have the kernel keep the first @bytes of @buffer. */
static bool keep(AioBuffer *buffer, size_t bytes)
{
    AioContext *ctx = buffer->ctx;
    size_t others = ctx->buffers_kept - pages_of(buffer, buffer->kept);
    int number;

    if (others + pages_of(buffer, bytes) > ctx->buffers_max) {
        tell_of_end(ctx, "this is its share of the memory that may be locked (RLIMIT_MEMLOCK)");
        return false;
    }
    number = ctx->ops->buffer_keep(ctx, buffer->number, &(struct iovec){buffer->base, bytes});
    if (number < 0) {
        ctx->buffers_refused = true;
        tell_of_end(ctx, g_strerror(-number));
        return false;
    }
    ctx->buffers_kept = others + pages_of(buffer, bytes);
    buffer->number = number;
    buffer->kept = bytes;
    return true;
}

/*
 * The same, or further, so that it is not grown for each request. A huge page is kept whole anyway,
 * so all of such a buffer is at once: grown later, within one page, it would drop out of what the
 * kernel counts.
 */
static bool reach(AioBuffer *buffer, size_t bytes)
{
    size_t want = buffer->huge ? buffer->bytes : BUFFER_PAGE;

    while (want < bytes) {
        want *= BUFFER_GROW;
    }
    return !buffer->ctx->buffers_refused && keep(buffer, MIN(want, buffer->bytes));
}

AioBuffer *aio_buffer_find(AioContext *ctx, const struct iovec *iov, unsigned n)
{
    const char *address;
    AioBuffer *buffer;
    size_t end;

    if (n != 1 || iov->iov_len == 0) {
        return NULL;
    }
    address = iov->iov_base;
    buffer = buffer_before(ctx, address);
    if (!buffer || address >= buffer->base + buffer->bytes) {
        return NULL;
    }
    end = address - buffer->base + iov->iov_len;
    if (end > buffer->bytes || (end > buffer->kept && !reach(buffer, end))) {
        return NULL;
    }
    ctx->buffer_requests++;
    return buffer;
}
