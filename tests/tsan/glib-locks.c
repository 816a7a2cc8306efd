/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * GLib's locks, for ThreadSanitizer.
 *
 * The system's GLib is not instrumented and its locks are bare futexes, so ThreadSanitizer sees
 * neither who holds one nor what it orders, and calls everything they guard a race. Programs built
 * under it link these instead. They work alike, on the same types, and tell ThreadSanitizer, which
 * then finds lock order inversions, too.
 */
#include <glib.h>
#include <errno.h>
#include <linux/futex.h>
#include <sanitizer/tsan_interface.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    FREE,
    HELD,
    CONTENDED
};

static long futex(void *word, int op, unsigned value, const struct timespec *until)
{
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, until, NULL,
                   FUTEX_BITSET_MATCH_ANY);
}

static _Atomic unsigned *word_of(void *lock)
{
    return lock;
}

static void lock_word(_Atomic unsigned *word)
{
    unsigned expected = FREE;

    if (atomic_compare_exchange_strong(word, &expected, HELD)) {
        return;
    }
    while (atomic_exchange(word, CONTENDED) != FREE) {
        futex(word, FUTEX_WAIT_BITSET, CONTENDED, NULL);
    }
}

static void unlock_word(_Atomic unsigned *word)
{
    if (atomic_exchange(word, FREE) == CONTENDED) {
        futex(word, FUTEX_WAKE, 1, NULL);
    }
}

void g_mutex_init(GMutex *mutex)
{
    atomic_store(word_of(mutex), FREE);
}

void g_mutex_clear(GMutex *mutex)
{
    __tsan_mutex_destroy(mutex, __tsan_mutex_linker_init);
}

void g_mutex_lock(GMutex *mutex)
{
    __tsan_mutex_pre_lock(mutex, __tsan_mutex_linker_init);
    lock_word(word_of(mutex));
    __tsan_mutex_post_lock(mutex, __tsan_mutex_linker_init, 0);
}

gboolean g_mutex_trylock(GMutex *mutex)
{
    unsigned flags = __tsan_mutex_linker_init | __tsan_mutex_try_lock;
    unsigned expected = FREE;
    bool taken;

    __tsan_mutex_pre_lock(mutex, flags);
    taken = atomic_compare_exchange_strong(word_of(mutex), &expected, HELD);
    __tsan_mutex_post_lock(mutex, flags | (taken ? 0 : __tsan_mutex_try_lock_failed), 0);
    return taken;
}

void g_mutex_unlock(GMutex *mutex)
{
    __tsan_mutex_pre_unlock(mutex, 0);
    unlock_word(word_of(mutex));
    __tsan_mutex_post_unlock(mutex, 0);
}

void g_cond_init(GCond *cond)
{
    atomic_store(word_of(cond), 0);
}

void g_cond_clear(GCond *cond)
{
}

/* Wait for a change of the count of signals, at most until @until (NULL: for ever). */
static bool cond_wait(GCond *cond, GMutex *mutex, const struct timespec *until)
{
    unsigned seen = atomic_load(word_of(cond));
    bool timed_out;

    g_mutex_unlock(mutex);
    timed_out = futex(cond, FUTEX_WAIT_BITSET, seen, until) < 0 && errno == ETIMEDOUT;
    g_mutex_lock(mutex);
    return !timed_out;
}

void g_cond_wait(GCond *cond, GMutex *mutex)
{
    cond_wait(cond, mutex, NULL);
}

gboolean g_cond_wait_until(GCond *cond, GMutex *mutex, gint64 end_time)
{
    const struct timespec until = {end_time / G_USEC_PER_SEC, end_time % G_USEC_PER_SEC * 1000};

    return cond_wait(cond, mutex, &until);
}

void g_cond_signal(GCond *cond)
{
    atomic_fetch_add(word_of(cond), 1);
    futex(cond, FUTEX_WAKE, 1, NULL);
}

void g_cond_broadcast(GCond *cond)
{
    atomic_fetch_add(word_of(cond), 1);
    futex(cond, FUTEX_WAKE, G_MAXINT, NULL);
}
