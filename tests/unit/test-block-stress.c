/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Several clients change the graph at random while requests come from all threads. Nothing may
 * hang, crash or be left behind, and a request may only fail for a reason.
 */
#include <errno.h>
#include <string.h>

#include "block-fixture.h"
#include "block-script.h"

#define CLIENTS 4
#define CHANGES 300
#define KINDS   6
#define RW      (BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE)

typedef struct Stress {
    Fixture *f;
    bool stop;       /* atomic */
    unsigned ended;  /* atomic; workers */
    unsigned served; /* atomic; requests that succeeded */
    unsigned clients_ended;
    unsigned changed[KINDS]; /* that succeeded */
} Stress;

/* Names: two nodes with storage, one with a script, and raw nodes that come and go. */
static const char *const bases[] = {"m0", "m1", "s0"};

static const char *pick_base(GRand *rand)
{
    return bases[g_rand_int_range(rand, 0, G_N_ELEMENTS(bases))];
}

static char *pick_raw(GRand *rand)
{
    return g_strdup_printf("r%d", g_rand_int_range(rand, 0, 4));
}

static BlockdevOptions *pick_options(GRand *rand, const char *name)
{
    static const char *const extras[] = {
        "",
        ", 'read-only': true",
        ", 'discard': 'unmap'",
        ", 'offset': 512",
        ", 'cache': {'no-flush': true}",
    };
    g_autofree char *json =
        g_strdup_printf("{'driver': 'raw', 'node-name': '%s', 'file': '%s'%s}", name,
                        pick_base(rand), extras[g_rand_int_range(rand, 0, G_N_ELEMENTS(extras))]);
    g_autoptr(QValue) value = fixture_parse(json);

    return blockdev_options_from_qvalue(value, NULL);
}

static bool change_add(Stress *s, GRand *rand)
{
    g_autofree char *name = pick_raw(rand);
    g_autoptr(BlockdevOptions) opts = pick_options(rand, name);

    return block_graph_co_add(s->f->graph, opts, NULL);
}

static bool change_del(Stress *s, GRand *rand)
{
    g_autofree char *name = pick_raw(rand);

    return block_graph_co_del(s->f->graph, name, NULL);
}

static bool change_reopen(Stress *s, GRand *rand)
{
    g_autoptr(GPtrArray) options =
        g_ptr_array_new_with_free_func((GDestroyNotify)blockdev_options_free);

    for (int n = g_rand_int_range(rand, 1, 3); n > 0; n--) {
        g_autofree char *name = g_rand_boolean(rand) ? pick_raw(rand) : g_strdup("top");

        g_ptr_array_add(options, pick_options(rand, name));
    }
    return block_graph_co_reopen(s->f->graph, options, NULL);
}

static bool change_active(Stress *s, GRand *rand)
{
    g_autofree char *name = g_rand_boolean(rand) ? pick_raw(rand) : g_strdup(pick_base(rand));

    return block_graph_co_set_active(s->f->graph, name, g_rand_boolean(rand), NULL);
}

/* A short-lived user: requests, a resize, other permissions. */
static bool change_backend(Stress *s, GRand *rand)
{
    g_autofree char *name = g_rand_boolean(rand) ? pick_raw(rand) : g_strdup(pick_base(rand));
    BlockNode *node = block_graph_find(s->f->graph, name, NULL);
    BlockBackend *blk;
    char buffer[700] = {0};

    blk = node ? block_backend_co_new(node, "client", g_rand_int_range(rand, 0, 16),
                                      BLOCK_PERM_ALL & ~g_rand_int_range(rand, 0, 16), NULL)
               : NULL;
    if (!blk) {
        return false;
    }
    blk_co_pwritev(blk, g_rand_int_range(rand, 0, 60000), IOV_LOCAL(buffer, sizeof(buffer)), 0);
    blk_co_truncate(blk, g_rand_int_range(rand, 40000, 70000), PREALLOC_MODE_OFF, 0, NULL);
    block_backend_co_set_perm(blk, BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL, NULL);
    block_backend_co_free(blk);
    return true;
}

static bool change_drain(Stress *s, GRand *rand)
{
    g_autofree char *name = g_rand_boolean(rand) ? pick_raw(rand) : g_strdup(pick_base(rand));
    BlockNode *node = block_node_ref(block_graph_find(s->f->graph, name, NULL));

    if (!node) {
        return false;
    }
    block_node_co_drain_begin(node);
    aio_co_sleep_ns(g_rand_int_range(rand, 0, 200000));
    block_node_co_drain_end(node);
    block_node_unref(node);
    return true;
}

typedef struct Client {
    Stress *s;
    GRand *rand;
} Client;

static void client_entry(void *opaque)
{
    static bool (*const changes[KINDS])(Stress *, GRand *) = {
        change_add, change_del, change_reopen, change_active, change_backend, change_drain,
    };
    Client *c = opaque;

    for (unsigned i = 0; i < CHANGES; i++) {
        unsigned kind = g_rand_int_range(c->rand, 0, KINDS);

        c->s->changed[kind] += changes[kind](c->s, c->rand);
        aio_co_sleep_ns(g_rand_int_range(c->rand, 0, 50000));
    }
    c->s->clients_ended++;
}

typedef struct Worker {
    Stress *s;
    BlockBackend *blk;
    GRand *rand;
} Worker;

static int worker_request(Worker *w)
{
    char buffer[1000] = {0};
    uint64_t offset = g_rand_int_range(w->rand, 0, 39000);
    size_t bytes = g_rand_int_range(w->rand, 1, sizeof(buffer));
    uint64_t n;
    BlockStatus status;

    switch (g_rand_int_range(w->rand, 0, 7)) {
    case 0:
        return blk_co_pwrite_zeroes(w->blk, offset, bytes, 0);
    case 1:
        return blk_co_pdiscard(w->blk, offset, bytes);
    case 2:
        return blk_co_flush(w->blk);
    case 3:
        return blk_co_block_status(w->blk, offset, bytes, &n, &status);
    case 4:
    case 5:
        return blk_co_pwritev(w->blk, offset, IOV_LOCAL(buffer, bytes), 0);
    default:
        return blk_co_preadv(w->blk, offset, IOV_LOCAL(buffer, bytes), 0);
    }
}

static void worker_entry(void *opaque)
{
    Worker *w = opaque;

    while (!__atomic_load_n(&w->s->stop, __ATOMIC_SEQ_CST)) {
        int r = worker_request(w);

        g_assert_true(r == 0 || r == -EIO || r == -ENOMEDIUM || r == -EPERM);
        __atomic_fetch_add(&w->s->served, r == 0, __ATOMIC_SEQ_CST);
        aio_co_sleep_ns(g_rand_int_range(w->rand, 0, 20000));
    }
    __atomic_fetch_add(&w->s->ended, 1, __ATOMIC_SEQ_CST);
}

static void test_stress(void)
{
    g_autoptr(Fixture) f = fixture_new();
    Stress s = {.f = f};
    Client clients[CLIENTS];
    Worker workers[2 * FIXTURE_THREADS];
    BlockBackend *blk[2];

    script_reset();
    script.limits.request_alignment = 512;
    fixture_start_threads(f);
    fixture_add(f, "{'driver': 'memory', 'node-name': 'm0', 'size': 65536}");
    fixture_add(f, "{'driver': 'memory', 'node-name': 'm1', 'size': 65536}");
    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 's0', 'image': "
                   "{'driver': 'memory', 'size': 65536}}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'top', 'file': 's0'}");
    blk[0] = fixture_backend(f, "top", "worker", BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL);
    blk[1] = fixture_backend(f, "s0", "worker", RW, BLOCK_PERM_ALL);
    for (unsigned i = 0; i < G_N_ELEMENTS(workers); i++) {
        workers[i] = (Worker){&s, blk[i % 2], g_rand_new_with_seed(100 + i)};
        aio_co_enter(fixture_thread(f, i % FIXTURE_THREADS), worker_entry, &workers[i]);
    }
    for (unsigned i = 0; i < CLIENTS; i++) {
        clients[i] = (Client){&s, g_rand_new_with_seed(i)};
        aio_co_enter(f->main, client_entry, &clients[i]);
    }
    fixture_wait_count(f, &s.clients_ended, CLIENTS);
    __atomic_store_n(&s.stop, true, __ATOMIC_SEQ_CST);
    fixture_wait_count(f, &s.ended, G_N_ELEMENTS(workers));
    g_assert_cmpuint(s.served, >, 0);
    for (unsigned i = 0; i < KINDS; i++) {
        g_test_message("changes of kind %u: %u", i, s.changed[i]);
        g_assert_cmpuint(s.changed[i], >, 0);
    }
    fixture_free_backend(f, blk[0]);
    fixture_free_backend(f, blk[1]);
    for (unsigned i = 0; i < G_N_ELEMENTS(workers); i++) {
        g_rand_free(workers[i].rand);
    }
    for (unsigned i = 0; i < CLIENTS; i++) {
        g_rand_free(clients[i].rand);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block/stress", test_stress);
    return g_test_run();
}
