/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * aio/lock.h - locks that suspend coroutines instead of threads.
 *
 * All work across threads and are fair: who waits gets its turn in order of arrival, handed over
 * directly. A waiter goes on in the context in which it waited.
 *
 * Threads   Any thread. Functions marked co_fn wait, so they need a coroutine that runs in an
 *           AioContext; the others never wait and may be called anywhere.
 * Lifetime  Locks hold no resources: nothing to free. One must not go while somebody holds it or
 *           waits for it. All zero bytes are a valid, unlocked lock.
 */
#ifndef WHARF_AIO_LOCK_H
#define WHARF_AIO_LOCK_H

#include <glib.h>
#include <stdbool.h>

#include "aio/coroutine.h"

typedef struct CoWaiter CoWaiter;

/* Coroutines that wait, in order of arrival. For this header's types alone. */
typedef struct CoWaitList {
    CoWaiter *head;
    CoWaiter *tail;
} CoWaitList;

/* Mutex */

typedef struct CoMutex {
    int claims;        /* atomic: the holder and all who want to be */
    Coroutine *holder; /* atomic; for assertions only */
    GMutex guard;      /* of what follows */
    CoWaitList waiters;
    bool handed_over; /* released to a claimant that has not begun to wait yet */
} CoMutex;

void co_mutex_init(CoMutex *mutex);

/* Take @mutex, waiting for it. Not recursive. */
void co_fn co_mutex_lock(CoMutex *mutex);

/* Take @mutex if it is free. Returns whether it was. */
bool co_mutex_trylock(CoMutex *mutex);

/* Release @mutex, which the caller holds, to the first who waits. */
void co_mutex_unlock(CoMutex *mutex);

/* Reader-writer lock: readers share it. New readers queue behind a writer that waits. */

typedef struct CoRwlock {
    GMutex guard; /* of what follows */
    unsigned readers;
    bool writer;
    CoWaitList waiters;
} CoRwlock;

void co_rwlock_init(CoRwlock *lock);
void co_fn co_rwlock_rdlock(CoRwlock *lock);
void co_fn co_rwlock_wrlock(CoRwlock *lock);

/* Release what the caller holds, reading or writing. */
void co_rwlock_unlock(CoRwlock *lock);

/* Queue: a condition to wait for. Guarded by a lock of the user's. */

typedef struct CoQueue {
    CoWaitList waiters;
} CoQueue;

void co_queue_init(CoQueue *queue);

/*
 * Wait until woken. @lock, held by the caller, guards @queue and the condition; it is dropped while
 * waiting and held again on return. NULL where only one context uses @queue. There are no spurious
 * wake-ups, but the condition may have changed again in between.
 */
void co_fn co_queue_wait(CoQueue *queue, GMutex *lock);

/* The same with a coroutine mutex as the lock. */
void co_fn co_queue_wait_co(CoQueue *queue, CoMutex *lock);

/* Wake who waits longest. Returns whether anybody waited. The lock is held. */
bool co_queue_wake_one(CoQueue *queue);

/* Wake all who wait now. The lock is held. */
void co_queue_wake_all(CoQueue *queue);

/* Whether nobody waits. The lock is held. */
bool co_queue_empty(const CoQueue *queue);

/* Guards: hold a lock to the end of the scope */

typedef CoMutex CoMutexGuard;
typedef CoRwlock CoRwlockGuard;

static inline CoMutexGuard *co_fn co_mutex_guard_new(CoMutex *mutex)
{
    co_mutex_lock(mutex);
    return mutex;
}

static inline CoRwlockGuard *co_fn co_read_guard_new(CoRwlock *lock)
{
    co_rwlock_rdlock(lock);
    return lock;
}

static inline CoRwlockGuard *co_fn co_write_guard_new(CoRwlock *lock)
{
    co_rwlock_wrlock(lock);
    return lock;
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(CoMutexGuard, co_mutex_unlock)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CoRwlockGuard, co_rwlock_unlock)

#define CO_GUARD_NAME_(line) co_guard_at_##line
#define CO_GUARD_NAME(line)  CO_GUARD_NAME_(line)

#define CO_MUTEX_GUARD(mutex)                                                                      \
    G_GNUC_UNUSED g_autoptr(CoMutexGuard) CO_GUARD_NAME(__LINE__) = co_mutex_guard_new(mutex)
#define CO_READ_GUARD(lock)                                                                        \
    G_GNUC_UNUSED g_autoptr(CoRwlockGuard) CO_GUARD_NAME(__LINE__) = co_read_guard_new(lock)
#define CO_WRITE_GUARD(lock)                                                                       \
    G_GNUC_UNUSED g_autoptr(CoRwlockGuard) CO_GUARD_NAME(__LINE__) = co_write_guard_new(lock)

#endif
