/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "aio/lock.h"

#include "aio/aio.h"

#include <string.h>

/* On the stack of the coroutine that waits. Gone as soon as it has been woken. */
struct CoWaiter {
    CoWaiter *next;
    Coroutine *co;
    bool writer;
};

static void wait_list_append(CoWaitList *list, CoWaiter *waiter)
{
    if (list->head) {
        list->tail->next = waiter;
    } else {
        list->head = waiter;
    }
    list->tail = waiter;
}

static CoWaiter *wait_list_pop(CoWaitList *list)
{
    CoWaiter *waiter = list->head;

    if (waiter) {
        list->head = waiter->next;
    }
    return waiter;
}

/* Mutex */

void co_mutex_init(CoMutex *mutex)
{
    memset(mutex, 0, sizeof(*mutex));
}

static void set_holder(CoMutex *mutex, Coroutine *co)
{
    __atomic_store_n(&mutex->holder, co, __ATOMIC_RELAXED);
}

/*
 * Whoever brings claims from 0 to 1 holds the mutex. Whoever takes a claim away while others remain
 * owes it to one of them: to the first in the list, or, if the others have not got there yet, to
 * the first who comes. At most one such debt is open, since only the holder can make one.
 */
static void co_fn mutex_lock_slow(CoMutex *mutex)
{
    CoWaiter self = {.co = coroutine_self()};

    g_mutex_lock(&mutex->guard);
    if (mutex->handed_over) {
        mutex->handed_over = false;
        g_mutex_unlock(&mutex->guard);
        return;
    }
    wait_list_append(&mutex->waiters, &self);
    g_mutex_unlock(&mutex->guard);
    coroutine_yield();
}

void co_fn co_mutex_lock(CoMutex *mutex)
{
    Coroutine *self = coroutine_self();

    g_assert(self && __atomic_load_n(&mutex->holder, __ATOMIC_RELAXED) != self);
    if (__atomic_fetch_add(&mutex->claims, 1, __ATOMIC_ACQUIRE) > 0) {
        mutex_lock_slow(mutex);
    }
    set_holder(mutex, self);
}

bool co_mutex_trylock(CoMutex *mutex)
{
    int none = 0;

    if (!__atomic_compare_exchange_n(&mutex->claims, &none, 1, false, __ATOMIC_ACQUIRE,
                                     __ATOMIC_RELAXED)) {
        return false;
    }
    set_holder(mutex, coroutine_self());
    return true;
}

void co_mutex_unlock(CoMutex *mutex)
{
    CoWaiter *next;
    Coroutine *co = NULL;

    g_assert(__atomic_load_n(&mutex->holder, __ATOMIC_RELAXED) == coroutine_self());
    set_holder(mutex, NULL);
    if (__atomic_fetch_sub(&mutex->claims, 1, __ATOMIC_RELEASE) == 1) {
        return;
    }
    g_mutex_lock(&mutex->guard);
    next = wait_list_pop(&mutex->waiters);
    if (next) {
        co = next->co;
    } else {
        mutex->handed_over = true;
    }
    g_mutex_unlock(&mutex->guard);
    if (co) {
        aio_co_wake(co);
    }
}

/* Reader-writer lock */

void co_rwlock_init(CoRwlock *lock)
{
    memset(lock, 0, sizeof(*lock));
}

static bool rwlock_admits(const CoRwlock *lock, bool writer)
{
    return !lock->writer && (!writer || lock->readers == 0);
}

static void rwlock_admit(CoRwlock *lock, bool writer)
{
    if (writer) {
        lock->writer = true;
    } else {
        lock->readers++;
    }
}

static void co_fn rwlock_lock(CoRwlock *lock, bool writer)
{
    CoWaiter self = {.co = coroutine_self(), .writer = writer};

    g_assert(self.co);
    g_mutex_lock(&lock->guard);
    if (!lock->waiters.head && rwlock_admits(lock, writer)) {
        rwlock_admit(lock, writer);
        g_mutex_unlock(&lock->guard);
        return;
    }
    wait_list_append(&lock->waiters, &self);
    g_mutex_unlock(&lock->guard);
    coroutine_yield();
}

void co_fn co_rwlock_rdlock(CoRwlock *lock)
{
    rwlock_lock(lock, false);
}

void co_fn co_rwlock_wrlock(CoRwlock *lock)
{
    rwlock_lock(lock, true);
}

void co_rwlock_unlock(CoRwlock *lock)
{
    CoWaitList admitted = {0};
    CoWaiter *waiter;

    g_mutex_lock(&lock->guard);
    if (lock->writer) {
        lock->writer = false;
    } else {
        g_assert(lock->readers > 0);
        lock->readers--;
    }
    while (lock->waiters.head && rwlock_admits(lock, lock->waiters.head->writer)) {
        waiter = wait_list_pop(&lock->waiters);
        waiter->next = NULL;
        rwlock_admit(lock, waiter->writer);
        wait_list_append(&admitted, waiter);
    }
    g_mutex_unlock(&lock->guard);

    while ((waiter = wait_list_pop(&admitted))) {
        aio_co_wake(waiter->co);
    }
}

/* Queue */

void co_queue_init(CoQueue *queue)
{
    memset(queue, 0, sizeof(*queue));
}

void co_fn co_queue_wait(CoQueue *queue, GMutex *lock)
{
    CoWaiter self = {.co = coroutine_self()};

    g_assert(self.co);
    wait_list_append(&queue->waiters, &self);
    if (lock) {
        g_mutex_unlock(lock);
    }
    coroutine_yield();
    if (lock) {
        g_mutex_lock(lock);
    }
}

void co_fn co_queue_wait_co(CoQueue *queue, CoMutex *lock)
{
    CoWaiter self = {.co = coroutine_self()};

    wait_list_append(&queue->waiters, &self);
    co_mutex_unlock(lock);
    coroutine_yield();
    co_mutex_lock(lock);
}

bool co_queue_wake_one(CoQueue *queue)
{
    CoWaiter *waiter = wait_list_pop(&queue->waiters);

    if (!waiter) {
        return false;
    }
    aio_co_wake(waiter->co);
    return true;
}

void co_queue_wake_all(CoQueue *queue)
{
    while (co_queue_wake_one(queue)) {
    }
}

bool co_queue_empty(const CoQueue *queue)
{
    return !queue->waiters.head;
}
