/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Places come in sets of up to WAYS; a table may stand in any place of one set. Each place has a
 * sequence number, odd while its table changes. Whoever changes a table makes it odd, stores words
 * with release semantics and makes it even again; who has loaded, with acquire semantics, one of
 * those words then sees a number that is not the one before.
 */
#include "block/drivers/qcow2/cache.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "aio/lock.h"
#include "util/error.h"

#define WAYS  8
#define EMPTY 0 /* a place's key is its table's number + 1 */

/* What is written of a table is a multiple of that, as disks like it. */
#define WRITE_UNIT 4096

/* Bytes of a table; empty with @from == @to. */
typedef struct Range {
    uint32_t from, to;
} Range;

typedef struct Place {
    uint32_t sequence; /* atomic */
    uint32_t stamp;    /* atomic; of the last look */
    /* lock */
    bool loading;
    Range changed; /* waits to be written */
    Range writing; /* is being written, as it was some time ago */
} Place;

struct Qcow2Cache {
    size_t table_size;
    unsigned ways, sets;
    bool by_pages;  /* tables can be given back to the system one by one */
    char *memory;   /* of all tables */
    uint64_t *keys; /* atomic, changed with lock; those of a set stand together */
    Place *places;

    uint32_t now; /* atomic; the stamp of what is looked at now */
    GMutex lock;
    uint32_t cleaned;   /* lock; now as it was after the last cleaning */
    CoQueue loaded;     /* lock; somebody has loaded a table, or failed to */
    unsigned n_changed; /* lock */
};

static size_t n_places(const Qcow2Cache *c)
{
    return (size_t)c->ways * c->sets;
}

Qcow2Cache *qcow2_cache_new(size_t table_size, unsigned n, GError **error)
{
    Qcow2Cache *c = g_new0(Qcow2Cache, 1);

    c->table_size = table_size;
    c->ways = MIN(n, WAYS);
    c->sets = (n + c->ways - 1) / c->ways;
    c->by_pages = table_size % (size_t)getpagesize() == 0;
    c->now = 1;
    g_mutex_init(&c->lock);
    co_queue_init(&c->loaded);
    c->memory = mmap(NULL, n_places(c) * table_size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->memory == MAP_FAILED) {
        c->memory = NULL;
    }
    c->keys = g_try_new0(uint64_t, n_places(c));
    c->places = g_try_new0(Place, n_places(c));
    if (!c->memory || !c->keys || !c->places) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "there is not enough memory for a cache of %zu tables of %zu bytes",
                    n_places(c), table_size);
        qcow2_cache_free(c);
        return NULL;
    }
    return c;
}

void qcow2_cache_free(Qcow2Cache *cache)
{
    if (!cache) {
        return;
    }
    if (cache->memory) {
        munmap(cache->memory, n_places(cache) * cache->table_size);
    }
    g_free(cache->keys);
    g_free(cache->places);
    g_mutex_clear(&cache->lock);
    g_free(cache);
}

static uint64_t *table_at(const Qcow2Cache *c, size_t i)
{
    return (uint64_t *)(c->memory + i * c->table_size);
}

static size_t set_of(const Qcow2Cache *c, uint64_t key)
{
    return key % c->sets * c->ways;
}

static uint64_t key_at(const Qcow2Cache *c, size_t i)
{
    return __atomic_load_n(&c->keys[i], __ATOMIC_ACQUIRE);
}

/* Note that place @i is of use. Mostly it is noted already, and then the line stays shared. */
static void touch(Qcow2Cache *c, size_t i)
{
    uint32_t now = __atomic_load_n(&c->now, __ATOMIC_RELAXED);

    if (__atomic_load_n(&c->places[i].stamp, __ATOMIC_RELAXED) != now) {
        __atomic_store_n(&c->places[i].stamp, now, __ATOMIC_RELAXED);
    }
}

static bool place_look(Qcow2Cache *c, size_t i, uint64_t key, Qcow2CacheLook *look, void *opaque)
{
    Place *place = &c->places[i];
    uint32_t before;

    do {
        before = __atomic_load_n(&place->sequence, __ATOMIC_ACQUIRE);
        if ((before & 1) || key_at(c, i) != key + 1) {
            return false;
        }
        look(table_at(c, i), opaque);
    } while (__atomic_load_n(&place->sequence, __ATOMIC_RELAXED) != before);
    touch(c, i);
    return true;
}

bool qcow2_cache_look(Qcow2Cache *c, uint64_t key, Qcow2CacheLook *look, void *opaque)
{
    size_t set = set_of(c, key);

    for (size_t i = set; i < set + c->ways; i++) {
        if (key_at(c, i) == key + 1 && place_look(c, i, key, look, opaque)) {
            return true;
        }
    }
    return false;
}

/* Change what stands at place @i: between the two nobody believes what he sees there. */
static void change_begin(Qcow2Cache *c, size_t i)
{
    uint32_t sequence = __atomic_load_n(&c->places[i].sequence, __ATOMIC_RELAXED);

    __atomic_store_n(&c->places[i].sequence, sequence + 1, __ATOMIC_RELAXED);
}

static void change_end(Qcow2Cache *c, size_t i)
{
    uint32_t sequence = __atomic_load_n(&c->places[i].sequence, __ATOMIC_RELAXED);

    __atomic_store_n(&c->places[i].sequence, sequence + 1, __ATOMIC_RELEASE);
}

static void set_key(Qcow2Cache *c, size_t i, uint64_t key)
{
    __atomic_store_n(&c->keys[i], key, __ATOMIC_RELEASE);
}

static void copy_in(Qcow2Cache *c, size_t i, const uint64_t *from)
{
    uint64_t *to = table_at(c, i);

    for (size_t n = 0; n < c->table_size / sizeof(*to); n++) {
        __atomic_store_n(&to[n], from[n], __ATOMIC_RELEASE);
    }
}

/* Loading; with the lock */

/* The place where @key stands or is about to, or -1. */
static ssize_t find_place(const Qcow2Cache *c, uint64_t key)
{
    size_t set = set_of(c, key);

    for (size_t i = set; i < set + c->ways; i++) {
        if (c->keys[i] == key + 1) {
            return i;
        }
    }
    return -1;
}

static bool is_empty(const Range *r)
{
    return r->from == r->to;
}

static void widen(Range *r, const Range *more)
{
    if (is_empty(r)) {
        *r = *more;
        return;
    }
    r->from = MIN(r->from, more->from);
    r->to = MAX(r->to, more->to);
}

/* What has to stay where it is. */
static bool is_held(const Place *place)
{
    return place->loading || !is_empty(&place->changed) || !is_empty(&place->writing);
}

/* No place now; wait for another one that is being loaded, or do without. */
#define PLACE_BUSY (-1)
#define PLACE_NONE (-2)

/* The place to load @key to: an empty one, else what has not been looked at for longest. */
static ssize_t choose_place(const Qcow2Cache *c, uint64_t key)
{
    size_t set = set_of(c, key);
    uint32_t oldest = 0;
    ssize_t best = PLACE_NONE;

    for (size_t i = set; i < set + c->ways; i++) {
        uint32_t age = c->now - __atomic_load_n(&c->places[i].stamp, __ATOMIC_RELAXED);

        if (is_held(&c->places[i])) {
            best = best == PLACE_NONE && c->places[i].loading ? PLACE_BUSY : best;
            continue;
        }
        if (c->keys[i] == EMPTY) {
            return i;
        }
        if (best < 0 || age > oldest) {
            oldest = age;
            best = i;
        }
    }
    return best;
}

/*
 * A place to load @key to, which nobody else will touch until place_give_back(). PLACE_BUSY: look
 * again, for somebody has brought a change about meanwhile. PLACE_NONE: there is no place.
 */
static ssize_t co_fn place_co_take(Qcow2Cache *c, uint64_t key)
{
    ssize_t i;

    g_mutex_lock(&c->lock);
    i = find_place(c, key);
    if (i >= 0) {
        if (c->places[i].loading) {
            co_queue_wait(&c->loaded, &c->lock);
        }
        i = PLACE_BUSY;
    } else {
        i = choose_place(c, key);
        if (i == PLACE_BUSY) {
            co_queue_wait(&c->loaded, &c->lock);
        } else if (i >= 0) {
            c->places[i].loading = true;
            change_begin(c, i);
            set_key(c, i, key + 1);
        }
    }
    g_mutex_unlock(&c->lock);
    return i;
}

static void place_give_back(Qcow2Cache *c, size_t i, bool loaded)
{
    g_mutex_lock(&c->lock);
    if (!loaded) {
        set_key(c, i, EMPTY);
    }
    __atomic_store_n(&c->places[i].stamp, __atomic_add_fetch(&c->now, 1, __ATOMIC_RELAXED),
                     __ATOMIC_RELAXED);
    c->places[i].loading = false;
    change_end(c, i);
    co_queue_wake_all(&c->loaded);
    g_mutex_unlock(&c->lock);
}

/* Fetch @key to place @i (PLACE_NONE: for this once), and look at it. */
static int co_fn place_co_load(Qcow2Cache *c, ssize_t i, uint64_t key, Qcow2CacheLoad *load,
                               Qcow2CacheLook *look, void *opaque)
{
    g_autofree uint64_t *table = g_try_malloc(c->table_size);
    int r = table ? load(key, table, opaque) : -ENOMEM;

    if (r == 0 && i >= 0) {
        copy_in(c, i, table);
    }
    if (r == 0 && look) {
        look(table, opaque);
    }
    if (i >= 0) {
        place_give_back(c, i, r == 0);
    }
    return r;
}

int co_fn qcow2_cache_co_look(Qcow2Cache *c, uint64_t key, Qcow2CacheLoad *load,
                              Qcow2CacheLook *look, void *opaque)
{
    while (!qcow2_cache_look(c, key, look, opaque)) {
        ssize_t i = place_co_take(c, key);

        if (i != PLACE_BUSY) {
            return place_co_load(c, i, key, load, look, opaque);
        }
    }
    return 0;
}

/* Changing */

/* Returns whether the table was there. */
static bool change_if_there(Qcow2Cache *c, uint64_t key, const Range *range,
                            Qcow2CacheChange *change, void *opaque)
{
    ssize_t i;

    g_mutex_lock(&c->lock);
    i = find_place(c, key);
    if (i >= 0 && !c->places[i].loading) {
        change_begin(c, i);
        change(table_at(c, i), opaque);
        change_end(c, i);
        touch(c, i);
        c->n_changed += is_empty(&c->places[i].changed);
        widen(&c->places[i].changed, range);
        g_mutex_unlock(&c->lock);
        return true;
    }
    g_mutex_unlock(&c->lock);
    return false;
}

int co_fn qcow2_cache_co_change(Qcow2Cache *c, uint64_t key, size_t from, size_t bytes,
                                Qcow2CacheLoad *load, Qcow2CacheChange *change, void *opaque)
{
    const Range range = {from, from + bytes};

    while (!change_if_there(c, key, &range, change, opaque)) {
        ssize_t i = place_co_take(c, key);
        int r;

        if (i == PLACE_NONE) {
            return -ENOBUFS;
        }
        if (i == PLACE_BUSY) {
            continue;
        }
        r = place_co_load(c, i, key, load, NULL, opaque);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

/* Writing */

static void copy_clear(gpointer copy)
{
    g_free(((Qcow2CacheCopy *)copy)->part);
}

GArray *qcow2_cache_copies_new(void)
{
    GArray *copies = g_array_new(FALSE, FALSE, sizeof(Qcow2CacheCopy));

    g_array_set_clear_func(copies, copy_clear);
    return copies;
}

static int by_key(gconstpointer a, gconstpointer b)
{
    uint64_t x = ((const Qcow2CacheCopy *)a)->key, y = ((const Qcow2CacheCopy *)b)->key;

    return x < y ? -1 : x > y;
}

static bool copy_place(Qcow2Cache *c, size_t i, Qcow2CacheCopy *copy)
{
    size_t unit = MIN(WRITE_UNIT, c->table_size);
    const Range *changed = &c->places[i].changed;

    *copy = (Qcow2CacheCopy){.key = c->keys[i] - 1, .from = changed->from & ~(unit - 1)};
    copy->bytes = ((changed->to + unit - 1) & ~(unit - 1)) - copy->from;
    copy->part = g_try_malloc(copy->bytes);
    if (copy->part) { /* who changes it has the lock */
        memcpy(copy->part, (char *)table_at(c, i) + copy->from, copy->bytes);
    }
    return copy->part != NULL;
}

static bool copy_changed(Qcow2Cache *c, GArray *copies)
{
    for (size_t i = 0; i < n_places(c); i++) {
        Qcow2CacheCopy copy;

        if (is_empty(&c->places[i].changed)) {
            continue;
        }
        if (!copy_place(c, i, &copy)) {
            return false;
        }
        g_array_append_val(copies, copy);
    }
    return true;
}

bool qcow2_cache_take_changed(Qcow2Cache *c, GArray *copies)
{
    bool ok;

    g_mutex_lock(&c->lock);
    ok = copy_changed(c, copies);
    for (size_t i = 0; ok && i < n_places(c); i++) {
        c->places[i].writing = c->places[i].changed;
        c->places[i].changed = (Range){0, 0};
    }
    if (ok) {
        c->n_changed = 0;
    } else {
        g_array_set_size(copies, 0);
    }
    g_mutex_unlock(&c->lock);
    g_array_sort(copies, by_key);
    return ok;
}

void qcow2_cache_written(Qcow2Cache *c, uint64_t key, bool ok)
{
    Place *place;
    ssize_t i;

    g_mutex_lock(&c->lock);
    i = find_place(c, key);
    g_assert(i >= 0 && !is_empty(&c->places[i].writing));
    place = &c->places[i];
    if (!ok) {
        c->n_changed += is_empty(&place->changed);
        widen(&place->changed, &place->writing);
    }
    place->writing = (Range){0, 0};
    g_mutex_unlock(&c->lock);
}

unsigned qcow2_cache_changed(Qcow2Cache *c)
{
    unsigned n;

    g_mutex_lock(&c->lock);
    n = c->n_changed;
    g_mutex_unlock(&c->lock);
    return n;
}

unsigned qcow2_cache_room(const Qcow2Cache *c)
{
    return n_places(c);
}

/* Cleaning */

static void place_drop(Qcow2Cache *c, size_t i)
{
    change_begin(c, i);
    set_key(c, i, EMPTY);
    madvise(table_at(c, i), c->table_size, MADV_DONTNEED);
    change_end(c, i);
}

void qcow2_cache_clean(Qcow2Cache *c)
{
    if (!c->by_pages) {
        return;
    }
    g_mutex_lock(&c->lock);
    for (size_t i = 0; i < n_places(c); i++) {
        uint32_t stamp = __atomic_load_n(&c->places[i].stamp, __ATOMIC_RELAXED);

        if (c->keys[i] != EMPTY && !is_held(&c->places[i]) && (int32_t)(stamp - c->cleaned) < 0) {
            place_drop(c, i);
        }
    }
    c->cleaned = __atomic_add_fetch(&c->now, 1, __ATOMIC_RELAXED);
    g_mutex_unlock(&c->lock);
}

void co_fn qcow2_cache_co_drop_all(Qcow2Cache *c)
{
    g_mutex_lock(&c->lock);
    for (size_t i = 0; i < n_places(c); i++) {
        while (c->places[i].loading) {
            co_queue_wait(&c->loaded, &c->lock);
        }
        if (c->keys[i] != EMPTY) {
            g_assert(!is_held(&c->places[i]));
            change_begin(c, i);
            set_key(c, i, EMPTY);
            change_end(c, i);
        }
    }
    g_mutex_unlock(&c->lock);
}

unsigned qcow2_cache_used(Qcow2Cache *c)
{
    unsigned used = 0;

    g_mutex_lock(&c->lock);
    for (size_t i = 0; i < n_places(c); i++) {
        used += c->keys[i] != EMPTY && !c->places[i].loading;
    }
    g_mutex_unlock(&c->lock);
    return used;
}
