/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/unpacked.h"

#include <errno.h>
#include <stdbool.h>

#include "aio/lock.h"

/* So much memory, but never fewer places than that, nor more. */
#define MAX_BYTES  (4 * 1024 * 1024)
#define MIN_PLACES 2
#define MAX_PLACES 16

/* A cluster, or room for one. All with the lock. */
typedef struct Place {
    bool valid; /* it holds, or is going to hold, the cluster at @host */
    bool loading;
    unsigned users; /* who copy from it, or load it */
    uint64_t host;
    uint32_t bytes;
    uint64_t stamp; /* of the last use */
    char *data;     /* NULL: not needed yet */
} Place;

struct Qcow2Unpacked {
    size_t cluster_size;
    unsigned n;
    GMutex lock; /* of what follows */
    CoQueue loaded;
    uint64_t now, cleaned;
    Place places[MAX_PLACES];
};

Qcow2Unpacked *qcow2_unpacked_new(size_t cluster_size)
{
    Qcow2Unpacked *u = g_new0(Qcow2Unpacked, 1);

    u->cluster_size = cluster_size;
    u->n = CLAMP(MAX_BYTES / cluster_size, MIN_PLACES, MAX_PLACES);
    g_mutex_init(&u->lock);
    co_queue_init(&u->loaded);
    return u;
}

void qcow2_unpacked_free(Qcow2Unpacked *u)
{
    if (!u) {
        return;
    }
    for (unsigned i = 0; i < u->n; i++) {
        g_free(u->places[i].data);
    }
    g_mutex_clear(&u->lock);
    g_free(u);
}

/* With the lock */

static Place *find(Qcow2Unpacked *u, uint64_t host, uint32_t bytes)
{
    for (unsigned i = 0; i < u->n; i++) {
        Place *p = &u->places[i];

        if (p->valid && p->host == host && p->bytes == bytes) {
            return p;
        }
    }
    return NULL;
}

/* A place for another cluster: an empty one, else that which was not used for longest; or NULL. */
static Place *choose(Qcow2Unpacked *u)
{
    Place *best = NULL;

    for (unsigned i = 0; i < u->n; i++) {
        Place *p = &u->places[i];

        if (p->users == 0 && (!best || (best->valid && (!p->valid || p->stamp < best->stamp)))) {
            best = p;
        }
    }
    return best;
}

static void use(Qcow2Unpacked *u, Place *p)
{
    p->users++;
    p->stamp = ++u->now;
}

/* A place with memory that is going to hold the cluster, or NULL. */
static Place *claim(Qcow2Unpacked *u, uint64_t host, uint32_t bytes)
{
    Place *p = choose(u);

    if (!p) {
        return NULL;
    }
    p->valid = false;
    if (!p->data) {
        p->data = g_try_malloc(u->cluster_size);
    }
    if (!p->data) {
        return NULL;
    }
    p->valid = p->loading = true;
    p->host = host;
    p->bytes = bytes;
    use(u, p);
    return p;
}

/* The lock is taken inside */

/* The place of the cluster, in use; with @p->loading it is the caller who has to fill it. */
static Place *co_fn place_co_take(Qcow2Unpacked *u, uint64_t host, uint32_t bytes)
{
    Place *p;

    g_mutex_lock(&u->lock);
    while ((p = find(u, host, bytes)) && p->loading) {
        co_queue_wait(&u->loaded, &u->lock);
    }
    if (p) {
        use(u, p);
    } else {
        p = claim(u, host, bytes);
    }
    g_mutex_unlock(&u->lock);
    return p;
}

static void place_loaded(Qcow2Unpacked *u, Place *p, bool ok)
{
    g_mutex_lock(&u->lock);
    p->loading = false;
    p->valid = p->valid && ok;
    co_queue_wake_all(&u->loaded);
    g_mutex_unlock(&u->lock);
}

static void place_release(Qcow2Unpacked *u, Place *p)
{
    g_mutex_lock(&u->lock);
    p->users--;
    g_mutex_unlock(&u->lock);
}

/* Reading */

static int co_fn co_read_alone(const Qcow2Unpacked *u, Qcow2UnpackedLoad *load, void *opaque,
                               size_t from, const IoVector *iov)
{
    g_autofree char *data = g_try_malloc(u->cluster_size);
    int r = data ? load(data, opaque) : -ENOMEM;

    if (r == 0) {
        iov_from_buffer(iov, 0, data + from, iov->bytes);
    }
    return r;
}

int co_fn qcow2_unpacked_co_read(Qcow2Unpacked *u, uint64_t host, uint32_t bytes,
                                 Qcow2UnpackedLoad *load, void *opaque, size_t from,
                                 const IoVector *iov)
{
    Place *p = place_co_take(u, host, bytes);
    int r = 0;

    if (!p) {
        return co_read_alone(u, load, opaque, from, iov);
    }
    if (p->loading) { /* for others do not get a place that is being loaded */
        r = load(p->data, opaque);
        place_loaded(u, p, r == 0);
    }
    if (r == 0) {
        iov_from_buffer(iov, 0, p->data + from, iov->bytes);
    }
    place_release(u, p);
    return r;
}

/* Forgetting */

void qcow2_unpacked_drop(Qcow2Unpacked *u, uint64_t host, uint64_t bytes)
{
    g_mutex_lock(&u->lock);
    for (unsigned i = 0; i < u->n; i++) {
        Place *p = &u->places[i];

        if (p->valid && p->host < host + bytes && host < p->host + p->bytes) {
            p->valid = false;
        }
    }
    g_mutex_unlock(&u->lock);
}

void qcow2_unpacked_clean(Qcow2Unpacked *u)
{
    g_mutex_lock(&u->lock);
    for (unsigned i = 0; i < u->n; i++) {
        Place *p = &u->places[i];

        if (p->users == 0 && p->stamp <= u->cleaned) {
            p->valid = false;
            g_clear_pointer(&p->data, g_free);
        }
    }
    u->cleaned = u->now;
    g_mutex_unlock(&u->lock);
}

unsigned qcow2_unpacked_used(Qcow2Unpacked *u)
{
    unsigned used = 0;

    g_mutex_lock(&u->lock);
    for (unsigned i = 0; i < u->n; i++) {
        used += u->places[i].valid && !u->places[i].loading;
    }
    g_mutex_unlock(&u->lock);
    return used;
}
