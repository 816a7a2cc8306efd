/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Coroutines by themselves: enter, yield, nesting, pools, guard pages. */
#include "aio/coroutine.h"

#include <string.h>

typedef struct Steps {
    int n;
    Coroutine *self;
} Steps;

static void co_fn count_three(void *opaque)
{
    Steps *s = opaque;

    for (int i = 0; i < 3; i++) {
        g_assert_true(coroutine_in());
        g_assert_true(coroutine_self() == s->self);
        s->n++;
        coroutine_yield();
    }
    s->n = 100;
}

static void test_enter_yield(void)
{
    Steps s = {0};

    g_assert_false(coroutine_in());
    g_assert_null(coroutine_self());
    s.self = coroutine_create(count_three, &s);
    for (int i = 1; i <= 3; i++) {
        coroutine_enter(s.self);
        g_assert_cmpint(s.n, ==, i);
        g_assert_false(coroutine_in());
    }
    coroutine_enter(s.self);
    g_assert_cmpint(s.n, ==, 100);
}

typedef struct Nest {
    unsigned depth;
    unsigned *deepest;
} Nest;

static void co_fn nest(void *opaque)
{
    Nest *n = opaque;
    Nest inner = {n->depth - 1, n->deepest};
    Coroutine *self = coroutine_self();

    if (n->depth > 0) {
        Coroutine *co = coroutine_create(nest, &inner);

        coroutine_enter(co);
        g_assert_true(coroutine_self() == self);
        coroutine_enter(co);
        g_assert_true(coroutine_self() == self);
    }
    ++*n->deepest;
    coroutine_yield();
}

static void test_nested(void)
{
    unsigned ended = 0;
    Nest n = {50, &ended};
    Coroutine *co = coroutine_create(nest, &n);

    coroutine_enter(co);
    g_assert_cmpuint(ended, ==, 51);
    coroutine_enter(co);
}

static void co_fn nothing(void *opaque)
{
    ++*(unsigned *)opaque;
}

/* Stacks are taken from the pool again, the last one first. */
static void test_reuse(void)
{
    unsigned n = 0;
    Coroutine *first = coroutine_create(nothing, &n);

    coroutine_enter(first);
    for (int i = 0; i < 1000; i++) {
        Coroutine *co = coroutine_create(nothing, &n);

        g_assert_true(co == first);
        coroutine_enter(co);
    }
    g_assert_cmpuint(n, ==, 1001);
}

static void co_fn yield_once(void *opaque)
{
    coroutine_yield();
    ++*(unsigned *)opaque;
}

/* More at once than a pool keeps. */
static void test_many(void)
{
    enum {
        N = 200
    };
    g_autofree Coroutine **co = g_new(Coroutine *, N);
    unsigned n = 0;

    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) {
            co[i] = coroutine_create(yield_once, &n);
            coroutine_enter(co[i]);
        }
        for (int i = 0; i < N; i++) {
            coroutine_enter(co[i]);
        }
    }
    g_assert_cmpuint(n, ==, 2 * N);
}

static gpointer pool_thread(gpointer opaque)
{
    test_many();
    return NULL;
}

/* A thread that ends takes its pool with it; a leak would exhaust the address space or the maps. */
static void test_thread_pools(void)
{
    for (int i = 0; i < 3; i++) {
        g_thread_join(g_thread_new("pool", pool_thread, NULL));
    }
}

static gpointer enter_there(gpointer co)
{
    coroutine_enter(co);
    return NULL;
}

/* A suspended coroutine may go on, and end, in another thread. */
static void test_migrate(void)
{
    unsigned n = 0;

    for (int i = 0; i < 100; i++) {
        Coroutine *co = coroutine_create(yield_once, &n);

        coroutine_enter(co);
        g_thread_join(g_thread_new("migrate", enter_there, co));
    }
    g_assert_cmpuint(n, ==, 100);
}

/* Registers and floating point survive the switch, at any alignment of the frames. */
static void co_fn keep_values(void *opaque)
{
    double *out = opaque;
    double a = 1.5, b = 2.5, c = 3.5;
    guint64 words[16];

    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
        words[i] = i * G_GUINT64_CONSTANT(0x0123456789abcdef);
    }
    g_assert_cmpuint((guintptr)words % sizeof(words[0]), ==, 0);
    for (int i = 0; i < 10; i++) {
        g_autofree char *text = g_strdup_printf("%.1f %.1f %.1f", a, b, c);

        g_assert_cmpstr(text, ==, "1.5 2.5 3.5");
        coroutine_yield();
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
        g_assert_cmpuint(words[i], ==, i * G_GUINT64_CONSTANT(0x0123456789abcdef));
    }
    *out = a + b + c;
}

static void test_registers(void)
{
    double out[2] = {0};
    Coroutine *a = coroutine_create(keep_values, &out[0]);
    Coroutine *b = coroutine_create(keep_values, &out[1]);

    for (int i = 0; i < 11; i++) {
        coroutine_enter(a);
        coroutine_enter(b);
    }
    g_assert_cmpfloat(out[0], ==, 7.5);
    g_assert_cmpfloat(out[1], ==, 7.5);
}

/* Most of the stack can be used. */
static void co_fn use_stack(void *opaque)
{
    char buffer[COROUTINE_STACK_SIZE / 2];

    memset(buffer, 1, sizeof(buffer));
    coroutine_yield();
    for (size_t i = 0; i < sizeof(buffer); i++) {
        g_assert_cmpint(buffer[i], ==, 1);
    }
}

static void test_stack_size(void)
{
    for (int i = 0; i < 3; i++) {
        Coroutine *co = coroutine_create(use_stack, NULL);

        coroutine_enter(co);
        coroutine_enter(co);
    }
}

static unsigned G_GNUC_NO_INLINE overflow(volatile unsigned *last)
{
    volatile unsigned here[64];

    here[0] = *last + 1;
    return here[0] == 0 ? 0 : overflow(here) + here[0];
}

static void co_fn overflow_stack(void *opaque)
{
    unsigned zero = 0;

    overflow(&zero);
}

/* Too deep a recursion hits the guard page, not a neighbour's stack. */
static void test_guard_page(void)
{
    if (g_test_subprocess()) {
        coroutine_enter(coroutine_create(overflow_stack, NULL));
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
}

static void test_enter_running(void)
{
    if (g_test_subprocess()) {
        Steps s = {0};

        s.self = coroutine_create((CoroutineEntry *)coroutine_enter, NULL);
        coroutine_enter(coroutine_create((CoroutineEntry *)coroutine_enter, s.self));
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/coroutine/enter-yield", test_enter_yield);
    g_test_add_func("/coroutine/nested", test_nested);
    g_test_add_func("/coroutine/reuse", test_reuse);
    g_test_add_func("/coroutine/many", test_many);
    g_test_add_func("/coroutine/thread-pools", test_thread_pools);
    g_test_add_func("/coroutine/migrate", test_migrate);
    g_test_add_func("/coroutine/registers", test_registers);
    g_test_add_func("/coroutine/stack-size", test_stack_size);
    g_test_add_func("/coroutine/guard-page", test_guard_page);
    g_test_add_func("/coroutine/enter-running", test_enter_running);
    return g_test_run();
}
