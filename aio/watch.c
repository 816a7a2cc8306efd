/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "aio/context-internal.h"

static GList *link_first(GList *list, GList *link)
{
    link->prev = NULL;
    link->next = list;
    if (list) {
        list->prev = link;
    }
    return link;
}

/* Make @watch the first to be probed; one too many is not any more. */
static void probe_first(AioContext *ctx, AioWatch *watch)
{
    GList *surplus;

    ctx->probes = link_first(ctx->probes, &watch->probe_link);
    watch->probed = true;
    surplus = g_list_nth(ctx->probes, AIO_PROBES_MAX);
    if (surplus) {
        ((AioWatch *)surplus->data)->probed = false;
    }
}

static void probe_remove(AioContext *ctx, AioWatch *watch)
{
    if (ctx->probe_next == &watch->probe_link) {
        ctx->probe_next = watch->probe_link.next;
    }
    ctx->probes = g_list_remove_link(ctx->probes, &watch->probe_link);
    watch->probed = false;
}

void aio_watch_call(AioWatch *watch, short revents)
{
    if (watch->probe && !watch->probed) {
        probe_remove(watch->ctx, watch);
        probe_first(watch->ctx, watch);
    }
    watch->cb(watch->opaque, revents);
}

bool aio_watches_probe(AioContext *ctx)
{
    bool progress = false;

    ctx->probe_next = ctx->probes;
    while (ctx->probe_next) {
        AioWatch *watch = ctx->probe_next->data;

        ctx->probe_next = ctx->probe_next->next; /* aio_watch_free() moves it on */
        if (!watch->probed) {
            break;
        }
        if (watch->events && watch->probe(watch->opaque)) {
            watch->cb(watch->opaque, watch->events);
            progress = true;
        }
    }
    ctx->probe_next = NULL;
    return progress;
}

AioWatch *aio_watch_new(AioContext *ctx, int fd, short events, AioWatchCallback *cb,
                        AioWatchProbe *probe, void *opaque)
{
    AioWatch *watch = g_new0(AioWatch, 1);

    aio_context_assert_owner(ctx);
    *watch = (AioWatch){
        .ctx = ctx, .fd = fd, .events = events, .cb = cb, .probe = probe, .opaque = opaque};
    watch->link.data = watch;
    watch->probe_link.data = watch;
    ctx->watches = link_first(ctx->watches, &watch->link);
    if (probe) {
        probe_first(ctx, watch);
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
        probe_remove(ctx, watch);
    }
    g_free(watch);
}
