/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "aio/context-internal.h"

#define link_in(list, node)                                                                        \
    G_STMT_START                                                                                   \
    {                                                                                              \
        (node)->prev = NULL;                                                                       \
        (node)->next = (list);                                                                     \
        if (list) {                                                                                \
            (list)->prev = (node);                                                                 \
        }                                                                                          \
        (list) = (node);                                                                           \
    }                                                                                              \
    G_STMT_END

AioWatch *aio_watch_new(AioContext *ctx, int fd, short events, AioWatchCallback *cb,
                        AioWatchProbe *probe, void *opaque)
{
    AioWatch *watch = g_new0(AioWatch, 1);

    aio_context_assert_owner(ctx);
    *watch = (AioWatch){
        .ctx = ctx, .fd = fd, .events = events, .cb = cb, .probe = probe, .opaque = opaque};
    watch->link.data = watch;
    watch->probe_link.data = watch;
    link_in(ctx->watches, &watch->link);
    if (probe) {
        link_in(ctx->probes, &watch->probe_link);
    }
    ctx->ops->watch_added(watch);
    return watch;
}

void aio_watch_set_events(AioWatch *watch, short events)
{
    aio_context_assert_owner(watch->ctx);
    if (watch->events != events) {
        watch->events = events;
        watch->ctx->ops->watch_changed(watch);
    }
}

void aio_watch_free(AioWatch *watch)
{
    AioContext *ctx;

    if (!watch) {
        return;
    }
    ctx = watch->ctx;
    aio_context_assert_owner(ctx);
    ctx->ops->watch_removed(watch);
    ctx->watches = g_list_remove_link(ctx->watches, &watch->link);
    if (watch->probe) {
        if (ctx->probe_next == &watch->probe_link) {
            ctx->probe_next = watch->probe_link.next;
        }
        ctx->probes = g_list_remove_link(ctx->probes, &watch->probe_link);
    }
    g_free(watch);
}
