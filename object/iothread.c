/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The object type "iothread": an aio/ iothread that clients can make, tune and name. */
#include "aio/iothread.h"
#include "object/class.h"
#include "util/error.h"

static bool iothread_options(const ObjectOptions *options, AioOptions *out, GError **error)
{
    const IothreadProperties *p = &options->u.iothread;

    if (p->thread_pool_min > p->thread_pool_max) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'thread-pool-min' (%" G_GINT64_FORMAT ") of iothread '%s' must not exceed "
                    "'thread-pool-max' (%" G_GINT64_FORMAT ")",
                    p->thread_pool_min, options->id, p->thread_pool_max);
        return false;
    }
    *out = (AioOptions){
        .backend = AIO_BACKEND_AUTO,
        .poll_max_ns = p->poll_max_ns,
        .poll_grow = p->poll_grow,
        .poll_shrink = p->poll_shrink,
        .max_batch = p->aio_max_batch,
        .workers_min = p->thread_pool_min,
        .workers_max = p->thread_pool_max,
    };
    return true;
}

static gpointer co_fn iothread_co_create(gpointer self, const ObjectOptions *options,
                                         GError **error)
{
    AioOptions aio;

    if (!iothread_options(options, &aio, error)) {
        return NULL;
    }
    return iothread_new(options->id, &aio, error);
}

static void iothread_destroy(gpointer instance)
{
    iothread_unref(instance);
}

static bool iothread_reconfigure(gpointer instance, const ObjectOptions *options, GError **error)
{
    AioOptions aio;

    if (!iothread_options(options, &aio, error)) {
        return false;
    }
    aio_context_set_options(iothread_context(instance), &aio);
    return true;
}

const ObjectClass object_class_iothread = {
    .type = OBJECT_TYPE_IOTHREAD,
    .parent = "event-loop-base",
    .co_create = iothread_co_create,
    .destroy = iothread_destroy,
    .reconfigure = iothread_reconfigure,
};
