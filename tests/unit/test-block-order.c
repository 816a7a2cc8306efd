/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What waits for what: drains, overlapping writes, truncates, requests from several threads. */
#include <errno.h>
#include <string.h>

#include "block-fixture.h"
#include "block-script.h"

#define RW (BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE)

static Fixture *order_new(uint32_t alignment)
{
    Fixture *f = fixture_new();

    script_reset();
    script.limits.request_alignment = alignment;
    fixture_start_threads(f);
    fixture_add(f, "{'driver': 'memory', 'node-name': 'mem', 'size': 65536}");
    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'low', 'image': 'mem'}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'top', 'file': 'low'}");
    return f;
}

static BlockBackend *backend(Fixture *f, const char *node)
{
    return fixture_backend(f, node, "test", RW, BLOCK_PERM_ALL);
}

static BlockNode *find(Fixture *f, const char *name)
{
    return block_graph_find(f->graph, name, NULL);
}

/* Poll until the driver holds @n requests of the kind. */
static void wait_held(Fixture *f, ScriptOp op, unsigned n)
{
    while (script_held(op) != n) {
        aio_context_poll(f->main, false);
        g_usleep(100);
    }
}

static Request write_request(BlockBackend *blk, uint64_t offset, uint64_t bytes, void *buffer)
{
    return (Request){
        .op = REQUEST_WRITE, .blk = blk, .offset = offset, .bytes = bytes, .buffer = buffer};
}

/* A coroutine that drains a node, says so, and goes on when told. */
typedef struct Drainer {
    BlockNode *node;
    unsigned drained; /* atomic */
    bool go_on, done;
} Drainer;

static void drainer_entry(void *opaque)
{
    Drainer *d = opaque;

    block_node_co_drain_begin(d->node);
    __atomic_store_n(&d->drained, 1, __ATOMIC_SEQ_CST);
    while (!d->go_on) {
        aio_co_sleep_ns(100 * 1000);
    }
    block_node_co_drain_end(d->node);
    d->done = true;
}

static void drainer_start(Fixture *f, Drainer *d, BlockNode *node)
{
    *d = (Drainer){.node = node};
    aio_co_enter(f->main, drainer_entry, d);
    fixture_settle(f);
}

static void drainer_end(Fixture *f, Drainer *d)
{
    d->go_on = true;
    fixture_wait(f, &d->done);
}

/* Give other threads a chance to do what they must not do. */
static void let_others_run(Fixture *f)
{
    for (unsigned i = 0; i < 20; i++) {
        fixture_settle(f);
        g_usleep(500);
    }
}

/* Stop in mid-request: the drain waits for it, and what comes later waits for the drain. */
static void test_drain_waits(void)
{
    g_autoptr(Fixture) f = order_new(1);
    BlockBackend *blk = backend(f, "top");
    char buffer[512] = {1};
    Request before = write_request(blk, 0, 512, buffer);
    Request during = write_request(blk, 4096, 512, buffer);
    Drainer d;

    script_hold(SCRIPT_WRITE);
    request_start(&before, fixture_thread(f, 0));
    wait_held(f, SCRIPT_WRITE, 1);
    drainer_start(f, &d, find(f, "low"));
    g_assert_cmpuint(d.drained, ==, 0);
    request_start(&during, fixture_thread(f, 1));
    let_others_run(f);
    g_assert_cmpuint(d.drained, ==, 0);
    g_assert_cmpuint(script_held(SCRIPT_WRITE), ==, 1);

    script_release(SCRIPT_WRITE);
    fixture_wait_count(f, &d.drained, 1);
    fixture_wait_count(f, &before.done, 1);
    let_others_run(f);
    g_assert_false(request_done(&during));
    g_assert_cmpuint(script_count(SCRIPT_WRITE), ==, 1);

    drainer_end(f, &d);
    fixture_wait_count(f, &during.done, 1);
    g_assert_cmpint(during.result, ==, 0);
    g_assert_true(during.ended_in == fixture_thread(f, 1));
    fixture_free_backend(f, blk);
}

/* Only what can reach the node is stopped: not a user of the node below it. */
static void test_drain_is_local(void)
{
    g_autoptr(Fixture) f = order_new(1);
    BlockBackend *above = backend(f, "top");
    BlockBackend *below = backend(f, "mem");
    Drainer d;
    char byte;
    Request read = {.op = REQUEST_READ, .blk = above, .bytes = 1, .buffer = &byte};

    drainer_start(f, &d, find(f, "low"));
    fixture_wait_count(f, &d.drained, 1);
    g_assert_cmpint(fixture_read(f, below, 0, &byte, 1), ==, 0);
    request_start(&read, f->main);
    fixture_settle(f);
    g_assert_false(request_done(&read));
    drainer_end(f, &d);
    fixture_wait_count(f, &read.done, 1);
    fixture_free_backend(f, above);
    fixture_free_backend(f, below);
}

/* Two drains: requests go on when both have ended. A backend made meanwhile waits, too. */
static void test_drain_nests(void)
{
    g_autoptr(Fixture) f = order_new(1);
    BlockBackend *blk;
    Drainer d1, d2;
    char byte;
    Request read;

    drainer_start(f, &d1, find(f, "low"));
    drainer_start(f, &d2, find(f, "top"));
    blk = backend(f, "top");
    read = (Request){.op = REQUEST_READ, .blk = blk, .bytes = 1, .buffer = &byte};
    request_start(&read, fixture_thread(f, 0));
    drainer_end(f, &d1);
    let_others_run(f);
    g_assert_false(request_done(&read));
    drainer_end(f, &d2);
    fixture_wait_count(f, &read.done, 1);
    g_assert_cmpint(read.result, ==, 0);
    fixture_free_backend(f, blk);
}

/* Freeing a backend waits for its requests, inside as well as at the gate. */
typedef struct Freer {
    BlockBackend *blk;
    bool done;
} Freer;

static void freer_entry(void *opaque)
{
    Freer *freer = opaque;

    block_backend_co_free(freer->blk);
    freer->done = true;
}

static void test_free_waits(void)
{
    g_autoptr(Fixture) f = order_new(1);
    Freer freer = {backend(f, "top"), false};
    char buffer[512] = {1};
    Request inside = write_request(freer.blk, 0, 512, buffer);
    Request outside = write_request(freer.blk, 512, 512, buffer);
    Drainer d;

    script_hold(SCRIPT_WRITE);
    request_start(&inside, fixture_thread(f, 0));
    wait_held(f, SCRIPT_WRITE, 1);
    drainer_start(f, &d, find(f, "top"));
    request_start(&outside, fixture_thread(f, 1));
    while (block_backend_in_flight(freer.blk) != 2) {
        fixture_settle(f);
    }
    aio_co_enter(f->main, freer_entry, &freer);
    let_others_run(f);
    g_assert_false(freer.done);
    script_release(SCRIPT_WRITE);
    fixture_wait_count(f, &d.drained, 1);
    let_others_run(f);
    g_assert_false(freer.done);
    drainer_end(f, &d);
    fixture_wait(f, &freer.done);
    fixture_wait_count(f, &inside.done, 1);
    fixture_wait_count(f, &outside.done, 1);
    g_assert_cmpint(inside.result | outside.result, ==, 0);
}

/* Read-modify-write holds back what overlaps its blocks, and nothing else. */
static void test_rmw_excludes(void)
{
    g_autoptr(Fixture) f = order_new(512);
    BlockBackend *blk = backend(f, "low");
    char a[512], b[512], c[512];
    Request rmw = write_request(blk, 100, 100, memset(a, 'a', sizeof(a)));
    Request same = write_request(blk, 0, 512, memset(b, 'b', sizeof(b)));
    Request other = write_request(blk, 512, 512, memset(c, 'c', sizeof(c)));

    script_hold(SCRIPT_READ);
    request_start(&rmw, fixture_thread(f, 0));
    wait_held(f, SCRIPT_READ, 1);
    request_start(&same, fixture_thread(f, 1));
    request_start(&other, fixture_thread(f, 2));
    fixture_wait_count(f, &other.done, 1);
    let_others_run(f);
    g_assert_false(request_done(&same));
    g_assert_cmpuint(script_count(SCRIPT_WRITE), ==, 1);
    script_release(SCRIPT_READ);
    fixture_wait_count(f, &rmw.done, 1);
    fixture_wait_count(f, &same.done, 1);
    g_assert_true(same.ended_in == fixture_thread(f, 1));
    fixture_assert_bytes(f, blk, 0, 512, 'b');
    fixture_assert_bytes(f, blk, 512, 512, 'c');
    fixture_free_backend(f, blk);
}

/* Read-modify-write waits for a plain write that was there before, or it would undo it. */
static void test_rmw_waits(void)
{
    g_autoptr(Fixture) f = order_new(512);
    BlockBackend *blk = backend(f, "low");
    char a[512], b[512];
    Request plain = write_request(blk, 0, 512, memset(b, 'b', sizeof(b)));
    Request rmw = write_request(blk, 100, 100, memset(a, 'a', sizeof(a)));

    script_hold(SCRIPT_WRITE);
    request_start(&plain, fixture_thread(f, 0));
    wait_held(f, SCRIPT_WRITE, 1);
    request_start(&rmw, fixture_thread(f, 1));
    let_others_run(f);
    g_assert_cmpuint(script_count(SCRIPT_READ), ==, 0);
    script_release(SCRIPT_WRITE);
    fixture_wait_count(f, &plain.done, 1);
    fixture_wait_count(f, &rmw.done, 1);
    fixture_assert_bytes(f, blk, 0, 100, 'b');
    fixture_assert_bytes(f, blk, 100, 100, 'a');
    fixture_assert_bytes(f, blk, 200, 312, 'b');
    fixture_free_backend(f, blk);
}

/* Many small writes to the same blocks from all threads: each must keep its own bytes. */
typedef struct Stripes {
    BlockBackend *blk;
    unsigned first, step;
    unsigned *done;
} Stripes;

#define STRIPE        37
#define STRIPE_COUNT  150
#define STRIPE_ROUNDS 4

static void stripes_entry(void *opaque)
{
    Stripes *s = opaque;
    char buffer[STRIPE];

    for (unsigned round = 0; round < STRIPE_ROUNDS; round++) {
        for (unsigned i = s->first; i < STRIPE_COUNT; i += s->step) {
            memset(buffer, 1 + (i + round) % 255, sizeof(buffer));
            g_assert_cmpint(blk_co_pwritev(s->blk, i * STRIPE, IOV_LOCAL(buffer, STRIPE), 0), ==,
                            0);
        }
    }
    __atomic_fetch_add(s->done, 1, __ATOMIC_SEQ_CST);
}

static void test_rmw_race(void)
{
    g_autoptr(Fixture) f = order_new(512);
    BlockBackend *blk = backend(f, "top");
    unsigned done = 0;
    Stripes stripes[2 * FIXTURE_THREADS];

    for (unsigned i = 0; i < G_N_ELEMENTS(stripes); i++) {
        stripes[i] = (Stripes){blk, i, G_N_ELEMENTS(stripes), &done};
        aio_co_enter(fixture_thread(f, i % FIXTURE_THREADS), stripes_entry, &stripes[i]);
    }
    fixture_wait_count(f, &done, G_N_ELEMENTS(stripes));
    for (unsigned i = 0; i < STRIPE_COUNT; i++) {
        fixture_assert_bytes(f, blk, i * STRIPE, STRIPE, 1 + (i + STRIPE_ROUNDS - 1) % 255);
    }
    fixture_free_backend(f, blk);
}

/* A request that asks for it is alone; two plain ones are not. */
static void test_serialising(void)
{
    g_autoptr(Fixture) f = order_new(1);
    BlockBackend *blk = backend(f, "low");
    char buffer[512] = {1};
    Request r[4];

    for (unsigned i = 0; i < G_N_ELEMENTS(r); i++) {
        r[i] = write_request(blk, 0, 512, buffer);
    }
    r[2].flags = BLOCK_REQ_SERIALISING;
    script_hold(SCRIPT_WRITE);
    request_start(&r[0], fixture_thread(f, 0));
    request_start(&r[1], fixture_thread(f, 1));
    wait_held(f, SCRIPT_WRITE, 2);
    request_start(&r[2], fixture_thread(f, 0));
    let_others_run(f);
    request_start(&r[3], fixture_thread(f, 1));
    let_others_run(f);
    g_assert_cmpuint(script_count(SCRIPT_WRITE), ==, 2);
    script_release(SCRIPT_WRITE);
    for (unsigned i = 0; i < G_N_ELEMENTS(r); i++) {
        fixture_wait_count(f, &r[i].done, 1);
        g_assert_cmpint(r[i].result, ==, 0);
    }
    fixture_free_backend(f, blk);
}

/* Making a node shorter waits for the requests of all its users, from any thread. */
static void test_truncate_waits(void)
{
    g_autoptr(Fixture) f = order_new(1);
    BlockBackend *writer = backend(f, "top");
    BlockBackend *other = backend(f, "low");
    char buffer[512] = {1};
    Request write = write_request(writer, 60000, 512, buffer);
    Request resize = {.op = REQUEST_TRUNCATE, .blk = other, .bytes = 1000};
    Request grow = {.op = REQUEST_TRUNCATE, .blk = writer, .bytes = 3000};

    script_hold(SCRIPT_WRITE);
    request_start(&write, fixture_thread(f, 0));
    wait_held(f, SCRIPT_WRITE, 1);
    request_start(&resize, fixture_thread(f, 1));
    let_others_run(f);
    g_assert_cmpuint(script_count(SCRIPT_TRUNCATE), ==, 0);
    request_start(&grow, fixture_thread(f, 2));
    let_others_run(f);
    g_assert_cmpint(blk_length(other), ==, 65536);
    script_release(SCRIPT_WRITE);
    fixture_wait_count(f, &write.done, 1);
    fixture_wait_count(f, &resize.done, 1);
    fixture_wait_count(f, &grow.done, 1);
    g_assert_cmpint(write.result | resize.result | grow.result, ==, 0);
    g_assert_true(resize.ended_in == fixture_thread(f, 1));
    g_assert_true(grow.ended_in == fixture_thread(f, 2));
    g_assert_cmpint(blk_length(other), ==, 3000);
    g_assert_cmpint(blk_length(writer), ==, 3000);
    fixture_free_backend(f, writer);
    fixture_free_backend(f, other);
}

/* Of two that make a node longer the longer one wins; other nodes can be made longer meanwhile. */
static void test_truncate_grows(void)
{
    g_autoptr(Fixture) f = order_new(1);
    BlockBackend *blk = backend(f, "top");
    BlockBackend *low = backend(f, "low");
    BlockBackend *other;
    Request longer = {.op = REQUEST_TRUNCATE, .blk = blk, .bytes = 90000};
    Request shorter = {.op = REQUEST_TRUNCATE, .blk = low, .bytes = 80000};

    fixture_add(f, "{'driver': 'memory', 'node-name': 'other', 'size': 0}");
    other = backend(f, "other");
    script_hold(SCRIPT_TRUNCATE);
    request_start(&longer, fixture_thread(f, 0));
    wait_held(f, SCRIPT_TRUNCATE, 1);
    request_start(&shorter, fixture_thread(f, 1));
    while (block_backend_in_flight(low) != 2) {
        /* Once for the call, once for being inside, where it waits for the first. */
        fixture_settle(f);
    }
    g_assert_cmpint(fixture_truncate(f, other, 1000, 0, NULL), ==, 0);
    /* What was there can be written all the time. */
    g_assert_cmpint(fixture_fill(f, blk, 0, 512, 1), ==, 0);
    script_release(SCRIPT_TRUNCATE);
    fixture_wait_count(f, &longer.done, 1);
    fixture_wait_count(f, &shorter.done, 1);
    g_assert_cmpint(longer.result | shorter.result, ==, 0);
    g_assert_cmpint(blk_length(low), ==, 90000);
    fixture_free_backend(f, blk);
    fixture_free_backend(f, low);
    fixture_free_backend(f, other);
}

/* Another window into a node writes behind the end that a truncate is just moving: not any more. */
static void test_truncate_cuts_off(void)
{
    g_autoptr(Fixture) f = order_new(1);
    BlockBackend *blk, *side;
    char buffer[512] = {1};
    Request cut, write, zero;

    fixture_add(f, "{'driver': 'raw', 'node-name': 'side', 'file': 'low'}");
    blk = backend(f, "top");
    side = backend(f, "side");
    cut = (Request){.op = REQUEST_TRUNCATE, .blk = blk, .bytes = 4096};
    write = write_request(side, 8192, 512, buffer);
    zero = (Request){.op = REQUEST_ZERO, .blk = side, .offset = 8192, .bytes = 512};

    script_hold(SCRIPT_TRUNCATE);
    request_start(&cut, fixture_thread(f, 0));
    wait_held(f, SCRIPT_TRUNCATE, 1);
    request_start(&write, fixture_thread(f, 1));
    request_start(&zero, fixture_thread(f, 2));
    let_others_run(f);
    script_release(SCRIPT_TRUNCATE);
    fixture_wait_count(f, &cut.done, 1);
    fixture_wait_count(f, &write.done, 1);
    fixture_wait_count(f, &zero.done, 1);
    g_assert_cmpint(cut.result, ==, 0);
    g_assert_cmpint(write.result, ==, -EIO);
    g_assert_cmpint(zero.result, ==, -EIO);
    g_assert_cmpuint(script_count(SCRIPT_WRITE) + script_count(SCRIPT_ZERO), ==, 0);
    fixture_free_backend(f, blk);
    fixture_free_backend(f, side);
}

/* A truncate that comes while a node is drained waits at the gate and holds nothing meanwhile. */
static void test_truncate_during_drain(void)
{
    g_autoptr(Fixture) f = order_new(1);
    BlockBackend *blk = backend(f, "top");
    Request resize = {.op = REQUEST_TRUNCATE, .blk = blk, .bytes = 1000};
    Drainer d;

    drainer_start(f, &d, find(f, "mem"));
    request_start(&resize, fixture_thread(f, 0));
    let_others_run(f);
    g_assert_false(request_done(&resize));
    /* The graph can be changed. */
    fixture_add(f, "{'driver': 'null-co', 'node-name': 'n'}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'r', 'file': 'top'}");
    fixture_del(f, "r");
    drainer_end(f, &d);
    fixture_wait_count(f, &resize.done, 1);
    g_assert_cmpint(resize.result, ==, 0);
    fixture_free_backend(f, blk);
}

/* Changes are told to other users of the bytes, and of length to all. */
typedef struct Listener {
    BlockBackend *blk;
    unsigned calls;
} Listener;

static void listener_cb(BlockChanges changes, void *opaque)
{
    ++((Listener *)opaque)->calls;
}

static void listen_entry(void *opaque)
{
    blk_set_change_notify(((Listener *)opaque)->blk, listener_cb, opaque);
}

static void unlisten_entry(void *opaque)
{
    blk_set_change_notify(((Listener *)opaque)->blk, NULL, NULL);
}

/* Between the two nobody else runs. */
static void write_and_settle_entry(void *opaque)
{
    static char data[512];
    BlockBackend *blk = opaque;

    g_assert_cmpint(blk_co_pwritev(blk, 0, IOV_LOCAL(data, sizeof(data)), 0), ==, 0);
    blk_co_settle_changes(blk);
}

static void test_notify(void)
{
    g_autoptr(Fixture) f = order_new(1);
    BlockBackend *a = backend(f, "top");
    BlockBackend *b = backend(f, "top");
    BlockBackend *c = backend(f, "mem");
    Listener la = {.blk = a}, lc = {.blk = c};

    fixture_run(f, listen_entry, &la);
    fixture_run(f, listen_entry, &lc);
    fixture_assert_bytes(f, b, 0, 100, 0);
    fixture_settle(f);
    g_assert_cmpuint(la.calls, ==, 0);
    g_assert_cmpint(fixture_fill(f, a, 0, 100, 1), ==, 0);
    fixture_settle(f);
    g_assert_cmpuint(la.calls, ==, 0);
    g_assert_cmpuint(lc.calls, >, 0);
    g_assert_cmpint(fixture_fill(f, b, 0, 100, 1), ==, 0);
    fixture_settle(f);
    g_assert_cmpuint(la.calls, ==, 1);

    /* Not only some time, but before one goes on who waits for that. */
    fixture_run(f, write_and_settle_entry, b);
    g_assert_cmpuint(la.calls, ==, 2);

    /* One who has gone is not told any more. */
    lc.calls = la.calls = 0;
    fixture_run(f, unlisten_entry, &lc);
    g_assert_cmpint(fixture_truncate(f, b, 70000, 0, NULL), ==, 0);
    fixture_settle(f);
    g_assert_cmpuint(la.calls, >, 0);
    g_assert_cmpuint(lc.calls, ==, 0);
    g_assert_cmpint(blk_length(c), ==, 70000);

    /* The author of a change of length is told, too. */
    la.calls = 0;
    g_assert_cmpint(fixture_truncate(f, a, 80000, 0, NULL), ==, 0);
    fixture_settle(f);
    g_assert_cmpuint(la.calls, >, 0);

    /* And users above a node that is resized below them. */
    la.calls = 0;
    g_assert_cmpint(fixture_truncate(f, c, 90000, 0, NULL), ==, 0);
    fixture_settle(f);
    g_assert_cmpuint(la.calls, >, 0);
    g_assert_cmpint(blk_length(a), ==, 90000);
    fixture_free_backend(f, a);
    fixture_free_backend(f, b);
    fixture_free_backend(f, c);
}

/*
 * Drains while requests come from all threads: none fails, none is lost, no drain sees one inside.
 */
typedef struct Worker {
    BlockBackend *blk;
    const bool *stop; /* atomic */
    unsigned *running, *ended;
    uint64_t ops;
} Worker;

static void worker_entry(void *opaque)
{
    Worker *w = opaque;
    char buffer[512];

    while (!__atomic_load_n(w->stop, __ATOMIC_SEQ_CST)) {
        g_assert_cmpint(blk_co_preadv(w->blk, 512, IOV_LOCAL(buffer, sizeof(buffer)), 0), ==, 0);
        g_assert_cmpint(blk_co_pwritev(w->blk, 512, IOV_LOCAL(buffer, sizeof(buffer)), 0), ==, 0);
        w->ops++;
        aio_co_sleep_ns(1000);
    }
    __atomic_fetch_add(w->ended, 1, __ATOMIC_SEQ_CST);
}

static void test_drain_under_load(void)
{
    g_autoptr(Fixture) f = order_new(1);
    BlockBackend *blk[2] = {backend(f, "top"), backend(f, "low")};
    bool stop = false;
    unsigned ended = 0;
    Worker workers[2 * FIXTURE_THREADS];

    for (unsigned i = 0; i < G_N_ELEMENTS(workers); i++) {
        workers[i] = (Worker){blk[i % 2], &stop, NULL, &ended, 0};
        aio_co_enter(fixture_thread(f, i % FIXTURE_THREADS), worker_entry, &workers[i]);
    }
    for (unsigned i = 0; i < 100; i++) {
        unsigned before;

        fixture_drain_begin(f, find(f, "low"));
        script_clear();
        g_assert_cmpuint(script_held(SCRIPT_READ) + script_held(SCRIPT_WRITE), ==, 0);
        fixture_settle(f);
        before = script_count(SCRIPT_READ) + script_count(SCRIPT_WRITE);
        g_assert_cmpuint(before, ==, 0);
        fixture_drain_end(f, find(f, "low"));
        while (script_count(SCRIPT_READ) == 0) {
            fixture_settle(f);
        }
    }
    __atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
    fixture_wait_count(f, &ended, G_N_ELEMENTS(workers));
    fixture_free_backend(f, blk[0]);
    fixture_free_backend(f, blk[1]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block/order/drain/waits", test_drain_waits);
    g_test_add_func("/block/order/drain/local", test_drain_is_local);
    g_test_add_func("/block/order/drain/nests", test_drain_nests);
    g_test_add_func("/block/order/drain/under-load", test_drain_under_load);
    g_test_add_func("/block/order/free-waits", test_free_waits);
    g_test_add_func("/block/order/rmw/excludes", test_rmw_excludes);
    g_test_add_func("/block/order/rmw/waits", test_rmw_waits);
    g_test_add_func("/block/order/rmw/race", test_rmw_race);
    g_test_add_func("/block/order/serialising", test_serialising);
    g_test_add_func("/block/order/truncate/waits", test_truncate_waits);
    g_test_add_func("/block/order/truncate/grows", test_truncate_grows);
    g_test_add_func("/block/order/truncate/cuts-off", test_truncate_cuts_off);
    g_test_add_func("/block/order/truncate/during-drain", test_truncate_during_drain);
    g_test_add_func("/block/order/notify", test_notify);
    return g_test_run();
}
