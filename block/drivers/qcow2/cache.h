/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/cache.h - tables of one size in memory, found by number.
 *
 * There is room for a fixed number of tables; memory is used as they come in, and given back when
 * they have not been looked at for a while. A table has a few places where it may stand, by its
 * number: neighbours never compete, and a cache for all the tables there are holds all of them.
 *
 * Threads   Any. Who looks at a table that is there takes no lock, waits for nobody and writes
 *           nothing that others read, but for a stamp, now and then: it looks, and looks again if
 *           the table has changed meanwhile. Who needs one that is not there loads it; others who
 *           need the same wait for that.
 * Lifetime  Nobody may be inside when the cache is freed.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_CACHE_H
#define WHARF_BLOCK_DRIVERS_QCOW2_CACHE_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "aio/coroutine.h"

typedef struct Qcow2Cache Qcow2Cache;

/*
 * Looks at a table for @opaque. It may change meanwhile, so words are read by atomic loads with
 * acquire semantics and taken for anything; what was found is of use only after the call that was
 * given this function has returned. May be called several times, may not suspend.
 */
typedef void Qcow2CacheLook(const uint64_t *table, void *opaque);

/* Fetches table @key into @table. 0 or -errno. */
typedef int co_fn Qcow2CacheLoad(uint64_t key, void *table, void *opaque);

/*
 * A cache for at least @n tables (> 0) of @table_size bytes, a multiple of 8. NULL and @error:
 * there is not enough memory.
 */
Qcow2Cache *qcow2_cache_new(size_t table_size, unsigned n, GError **error);
void qcow2_cache_free(Qcow2Cache *cache);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Cache, qcow2_cache_free)

/* Look at table @key, if it is there. Returns whether it was. */
bool qcow2_cache_look(Qcow2Cache *cache, uint64_t key, Qcow2CacheLook *look, void *opaque);

/*
 * Look at table @key, which @load fetches where it is not there; both get @opaque. 0, or the error
 * of @load, or -ENOMEM; after an error the next look tries again.
 */
int co_fn qcow2_cache_co_look(Qcow2Cache *cache, uint64_t key, Qcow2CacheLoad *load,
                              Qcow2CacheLook *look, void *opaque);

/*
 * Change the @bytes bytes from @from on of table @key: @change, which must not suspend, gets the
 * table to store words there by atomic stores with release semantics. From then on it stays in
 * memory until it has been written. What is not there is fetched by @load. 0, or the error of
 * @load, or -ENOBUFS: all places for that table hold some that wait to be written, so write them
 * and try again.
 */
typedef void Qcow2CacheChange(uint64_t *table, void *opaque);
int co_fn qcow2_cache_co_change(Qcow2Cache *cache, uint64_t key, size_t from, size_t bytes,
                                Qcow2CacheLoad *load, Qcow2CacheChange *change, void *opaque);

/* What has changed of a table, as it was at one moment, to be written; in whole blocks of 4 KiB. */
typedef struct Qcow2CacheCopy {
    uint64_t key;
    size_t from, bytes; /* in the table */
    void *part;         /* owned */
} Qcow2CacheCopy;

/*
 * Copies of all tables that have changed, in the order of their numbers, appended to @copies (of
 * Qcow2CacheCopy, which clears them). Each must be given to qcow2_cache_written() before the next
 * call. Returns whether there was memory for all of them; if not there are none.
 */
bool qcow2_cache_take_changed(Qcow2Cache *cache, GArray *copies);
GArray *qcow2_cache_copies_new(void);

/* Table @key was written as it was taken, or that has failed. */
void qcow2_cache_written(Qcow2Cache *cache, uint64_t key, bool ok);

/* How many tables wait to be written. */
unsigned qcow2_cache_changed(Qcow2Cache *cache);

/* How many tables there is room for. */
unsigned qcow2_cache_room(const Qcow2Cache *cache);

/* Drop what was not looked at since the last call, and give its memory back. */
void qcow2_cache_clean(Qcow2Cache *cache);

/* Drop all tables, for others have taken their place. None may wait to be written. */
void co_fn qcow2_cache_co_drop_all(Qcow2Cache *cache);

/* How many tables are in. For tests and information. */
unsigned qcow2_cache_used(Qcow2Cache *cache);

#endif
