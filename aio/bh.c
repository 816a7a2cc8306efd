/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "aio/context-internal.h"

enum {
    BH_SCHEDULED = 1, /* queued, or about to be */
    BH_FREED = 2,     /* free it when it comes out of the queue */
};

struct AioBh {
    AioWork work;
    AioContext *ctx;
    AioCallback *cb;
    void *opaque;
    int state; /* atomic */
};

typedef struct AioOneshot {
    AioWork work;
    AioCallback *cb;
    void *opaque;
} AioOneshot;

static void oneshot_run(AioWork *work)
{
    AioOneshot one = *(AioOneshot *)work;

    g_free(work);
    one.cb(one.opaque);
}

void aio_bh_schedule_oneshot(AioContext *ctx, AioCallback *cb, void *opaque)
{
    AioOneshot *one = g_new(AioOneshot, 1);

    *one = (AioOneshot){.work.run = oneshot_run, .cb = cb, .opaque = opaque};
    aio_context_post(ctx, &one->work);
}

static void bh_run(AioWork *work)
{
    AioBh *bh = (AioBh *)work;
    int state = __atomic_fetch_and(&bh->state, ~BH_SCHEDULED, __ATOMIC_ACQ_REL);

    if (state & BH_FREED) {
        g_free(bh);
        return;
    }
    bh->cb(bh->opaque); /* may free it */
}

AioBh *aio_bh_new(AioContext *ctx, AioCallback *cb, void *opaque)
{
    AioBh *bh = g_new(AioBh, 1);

    *bh = (AioBh){.work.run = bh_run, .ctx = ctx, .cb = cb, .opaque = opaque};
    return bh;
}

void aio_bh_schedule(AioBh *bh)
{
    if (!(__atomic_fetch_or(&bh->state, BH_SCHEDULED, __ATOMIC_ACQ_REL) & BH_SCHEDULED)) {
        aio_context_post(bh->ctx, &bh->work);
    }
}

void aio_bh_free(AioBh *bh)
{
    if (!bh) {
        return;
    }
    /* Setting SCHEDULED, too, makes this the last who may decide to queue or free it. */
    if (!(__atomic_fetch_or(&bh->state, BH_FREED | BH_SCHEDULED, __ATOMIC_ACQ_REL) &
          BH_SCHEDULED)) {
        g_free(bh);
    }
}
