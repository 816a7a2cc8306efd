/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "aio/iothread.h"

#include "aio/context-internal.h"
#include "util/error.h"

#include <pthread.h>
#include <unistd.h>

struct Iothread {
    int refs;  /* atomic */
    bool stop; /* atomic */

    /* Fixed once started */
    char *name;
    AioContext *ctx;
    GThread *thread;
    int tid;

    /* Only while starting */
    GMutex lock;
    GCond started;
};

static gpointer iothread_main(gpointer opaque)
{
    Iothread *iothread = opaque;
    char shown[16]; /* all that the system keeps; it refuses longer ones */

    g_strlcpy(shown, iothread->name, sizeof(shown));
    pthread_setname_np(pthread_self(), shown);

    g_mutex_lock(&iothread->lock);
    iothread->tid = gettid();
    g_cond_signal(&iothread->started);
    g_mutex_unlock(&iothread->lock);

    aio_context_run(iothread->ctx, &iothread->stop);
    return NULL;
}

static void iothread_free(Iothread *iothread)
{
    if (iothread->ctx) {
        aio_context_unref(iothread->ctx);
    }
    g_mutex_clear(&iothread->lock);
    g_cond_clear(&iothread->started);
    g_free(iothread->name);
    g_free(iothread);
}

/* Start the thread and wait until it has told its id. */
static bool iothread_start(Iothread *iothread, GError **error)
{
    g_autoptr(GError) why = NULL;

    iothread->thread = aio_thread_new(iothread->name, iothread_main, iothread, &why);
    if (!iothread->thread) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "cannot start iothread '%s': %s",
                    iothread->name, why->message);
        return false;
    }
    g_mutex_lock(&iothread->lock);
    while (!iothread->tid) {
        g_cond_wait(&iothread->started, &iothread->lock);
    }
    g_mutex_unlock(&iothread->lock);
    return true;
}

Iothread *iothread_new(const char *name, const AioOptions *opts, GError **error)
{
    Iothread *iothread = g_new0(Iothread, 1);

    iothread->refs = 1;
    iothread->name = g_strdup(name);
    g_mutex_init(&iothread->lock);
    g_cond_init(&iothread->started);
    iothread->ctx = aio_context_new(opts, error);
    if (!iothread->ctx || !iothread_start(iothread, error)) {
        iothread_free(iothread);
        return NULL;
    }
    return iothread;
}

Iothread *iothread_ref(Iothread *iothread)
{
    __atomic_fetch_add(&iothread->refs, 1, __ATOMIC_RELAXED);
    return iothread;
}

void iothread_unref(Iothread *iothread)
{
    if (__atomic_fetch_sub(&iothread->refs, 1, __ATOMIC_ACQ_REL) != 1) {
        return;
    }
    g_assert(aio_context_current() != iothread->ctx);
    __atomic_store_n(&iothread->stop, true, __ATOMIC_RELEASE);
    aio_context_kick(iothread->ctx);
    g_thread_join(iothread->thread);
    iothread_free(iothread);
}

AioContext *iothread_context(Iothread *iothread)
{
    return iothread->ctx;
}

const char *iothread_name(const Iothread *iothread)
{
    return iothread->name;
}

int iothread_tid(const Iothread *iothread)
{
    return iothread->tid;
}
