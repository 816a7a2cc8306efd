/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tables in memory: what is in, what must go, who waits for whom; and many threads at once. */
#include <errno.h>

#include "block/drivers/qcow2/cache.h"
#include "tests/unit/block-fixture.h"

#define TABLE 4096
#define WORDS (TABLE / 8)

/* One look at a table, and how it is fetched. */
typedef struct Look {
    uint64_t key;
    uint64_t first, last; /* words seen */
    unsigned loads;
    int result; /* of loading */
    bool slow;  /* loading takes a while */
    bool done;
    int r;
    Qcow2Cache *cache;
} Look;

static void look_at(const uint64_t *table, void *opaque)
{
    Look *l = opaque;

    l->first = __atomic_load_n(&table[0], __ATOMIC_ACQUIRE);
    l->last = __atomic_load_n(&table[WORDS - 1], __ATOMIC_ACQUIRE);
}

static int co_fn load(uint64_t key, void *table, void *opaque)
{
    Look *l = opaque;

    l->loads++;
    if (l->slow) {
        aio_co_sleep_ns(1000000);
    }
    for (unsigned i = 0; i < WORDS; i++) {
        ((uint64_t *)table)[i] = key * 1000 + 1;
    }
    return l->result;
}

static void co_fn look_entry(void *opaque)
{
    Look *l = opaque;

    l->r = qcow2_cache_co_look(l->cache, l->key, load, look_at, l);
    if (l->r == 0) {
        g_assert_cmpuint(l->first, ==, l->key * 1000 + 1);
        g_assert_cmpuint(l->last, ==, l->first);
    }
    l->done = true;
}

/* Look at @key; returns how often it was loaded for that. */
static unsigned look(Fixture *f, Qcow2Cache *cache, uint64_t key)
{
    Look l = {.cache = cache, .key = key};

    fixture_run(f, look_entry, &l);
    g_assert_cmpint(l.r, ==, 0);
    return l.loads;
}

static Qcow2Cache *cache_new(unsigned n)
{
    GError *error = NULL;
    Qcow2Cache *cache = qcow2_cache_new(TABLE, n, &error);

    g_assert_no_error(error);
    return cache;
}

static void test_holds_all(void)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autoptr(Qcow2Cache) cache = cache_new(64);

    for (unsigned round = 0; round < 2; round++) {
        for (uint64_t key = 1000; key < 1064; key++) {
            g_assert_cmpuint(look(f, cache, key), ==, round == 0);
        }
    }
    g_assert_cmpuint(qcow2_cache_used(cache), ==, 64);
}

static void test_drops_the_oldest(void)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autoptr(Qcow2Cache) cache = cache_new(4);

    for (uint64_t key = 0; key < 4; key++) {
        look(f, cache, key);
    }
    look(f, cache, 0);
    g_assert_cmpuint(look(f, cache, 9), ==, 1);
    g_assert_cmpuint(look(f, cache, 0), ==, 0);
    g_assert_cmpuint(look(f, cache, 1), ==, 1);
    g_assert_cmpuint(qcow2_cache_used(cache), ==, 4);
}

static void test_one_place(void)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autoptr(Qcow2Cache) cache = cache_new(1);

    for (uint64_t key = 0; key < 10; key++) {
        g_assert_cmpuint(look(f, cache, key), ==, 1);
        g_assert_cmpuint(look(f, cache, key), ==, 0);
    }
}

static void test_huge_key(void)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autoptr(Qcow2Cache) cache = cache_new(16);

    g_assert_cmpuint(look(f, cache, UINT64_C(1) << 54), ==, 1);
    g_assert_cmpuint(look(f, cache, UINT64_C(1) << 54), ==, 0);
}

/* Several who need one table at the same time load it once. */
static void test_load_once(void)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autoptr(Qcow2Cache) cache = cache_new(4);
    Look looks[5] = {{0}};
    unsigned loads = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(looks); i++) {
        looks[i] = (Look){.cache = cache, .key = 7, .slow = true};
        aio_co_enter(f->main, look_entry, &looks[i]);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(looks); i++) {
        fixture_wait(f, &looks[i].done);
        g_assert_cmpint(looks[i].r, ==, 0);
        loads += looks[i].loads;
    }
    g_assert_cmpuint(loads, ==, 1);
}

/* More who load than there is room for. */
static void test_all_places_busy(void)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autoptr(Qcow2Cache) cache = cache_new(2);
    Look looks[9] = {{0}};

    for (unsigned i = 0; i < G_N_ELEMENTS(looks); i++) {
        looks[i] = (Look){.cache = cache, .key = i, .slow = true};
        aio_co_enter(f->main, look_entry, &looks[i]);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(looks); i++) {
        fixture_wait(f, &looks[i].done);
        g_assert_cmpint(looks[i].r, ==, 0);
    }
    g_assert_cmpuint(qcow2_cache_used(cache), ==, 2);
}

/* An error strikes who meets it, and those who waited try for themselves. */
static void test_error(void)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autoptr(Qcow2Cache) cache = cache_new(4);
    Look looks[2] = {{.cache = cache, .key = 7, .slow = true, .result = -EIO},
                     {.cache = cache, .key = 7}};

    aio_co_enter(f->main, look_entry, &looks[0]);
    aio_co_enter(f->main, look_entry, &looks[1]);
    fixture_wait(f, &looks[0].done);
    fixture_wait(f, &looks[1].done);
    g_assert_cmpint(looks[0].r, ==, -EIO);
    g_assert_cmpint(looks[1].r, ==, 0);
    g_assert_cmpuint(looks[1].loads, ==, 1);
    g_assert_cmpuint(look(f, cache, 7), ==, 0);
}

static void test_clean(void)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autoptr(Qcow2Cache) cache = cache_new(8);

    for (uint64_t key = 0; key < 8; key++) {
        look(f, cache, key);
    }
    qcow2_cache_clean(cache);
    g_assert_cmpuint(qcow2_cache_used(cache), ==, 8);
    look(f, cache, 3);
    look(f, cache, 5);
    qcow2_cache_clean(cache);
    g_assert_cmpuint(qcow2_cache_used(cache), ==, 2);
    g_assert_cmpuint(look(f, cache, 5), ==, 0);
    g_assert_cmpuint(look(f, cache, 4), ==, 1);
    qcow2_cache_clean(cache);
    qcow2_cache_clean(cache);
    g_assert_cmpuint(qcow2_cache_used(cache), ==, 0);
}

static void test_too_large(void)
{
    GError *error = NULL;

    g_assert_null(qcow2_cache_new(UINT64_C(1) << 40, 1 << 20, &error));
    assert_error(&error, "not enough memory");
}

/* Threads that look for many tables in a small cache, while it is cleaned. */

typedef struct Storm {
    Qcow2Cache *cache;
    unsigned seed;
    unsigned *ended;
} Storm;

static void co_fn storm_entry(void *opaque)
{
    Storm *s = opaque;

    for (unsigned i = 0; i < 3000; i++) {
        Look l = {.cache = s->cache};

        s->seed = s->seed * 1103515245 + 12345;
        l.key = s->seed >> 16 & 31;
        look_entry(&l);
        g_assert_cmpint(l.r, ==, 0);
        if (i % 100 == 0) {
            qcow2_cache_clean(s->cache);
        }
    }
    __atomic_add_fetch(s->ended, 1, __ATOMIC_SEQ_CST);
}

static void test_storm(void)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autoptr(Qcow2Cache) cache = cache_new(16);
    Storm storms[3 * FIXTURE_THREADS];
    unsigned ended = 0;

    fixture_start_threads(f);
    for (unsigned i = 0; i < G_N_ELEMENTS(storms); i++) {
        storms[i] = (Storm){.cache = cache, .seed = i, .ended = &ended};
        aio_co_enter(fixture_thread(f, i % FIXTURE_THREADS), storm_entry, &storms[i]);
    }
    fixture_wait_count(f, &ended, G_N_ELEMENTS(storms));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qcow2/cache/holds-all", test_holds_all);
    g_test_add_func("/qcow2/cache/drops-the-oldest", test_drops_the_oldest);
    g_test_add_func("/qcow2/cache/one-place", test_one_place);
    g_test_add_func("/qcow2/cache/huge-key", test_huge_key);
    g_test_add_func("/qcow2/cache/load-once", test_load_once);
    g_test_add_func("/qcow2/cache/all-places-busy", test_all_places_busy);
    g_test_add_func("/qcow2/cache/error", test_error);
    g_test_add_func("/qcow2/cache/clean", test_clean);
    g_test_add_func("/qcow2/cache/too-large", test_too_large);
    g_test_add_func("/qcow2/cache/storm", test_storm);
    return g_test_run();
}
