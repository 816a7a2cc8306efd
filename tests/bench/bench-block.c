/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What stands between transport and disk: CPU time that a 4 KiB request through a backend takes of
 * an iothread, one request after the other and 32 at a time. Prints "name value unit" lines. The
 * file lies in tmpfs; the plain system call is a row of its own, and what a request costs beyond it
 * another.
 *
 *     bench-block              all rows
 *     bench-block --list       the names of rows
 *     bench-block ROW N        N requests of one row, without any further thread, for those who
 *                              count instructions
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/block-fixture.h"
#include "tests/unit/qcow2-builder.h"
#include "util/iov.h"

#define BLOCK_SIZE  4096
#define NODE_BLOCKS 1024
#define NODE_BYTES  (NODE_BLOCKS * BLOCK_SIZE)
#define REQUESTS    300000
#define WARM_UP     10000

/* Of a graph whose requests each go to a cluster that was not there before. */
#define CLUSTER      65536
#define NEW_REQUESTS 20000
#define NEW_BYTES    (UINT64_C(4) * (NEW_REQUESTS + WARM_UP) * CLUSTER)

/* A graph; %s is the path of a file. */
typedef struct BenchGraph {
    const char *name;
    const char *json;
    bool file;
    bool qcow2; /* which is an image with all clusters allocated */
    bool empty; /* or with none; only written to */
} BenchGraph;

#define JSON_NULL   "'driver': 'null-co', 'size': 4194304"
#define JSON_MEMORY "'driver': 'memory', 'size': 4194304"
#define JSON_FILE   "'driver': 'file', 'filename': '%s'"

static const BenchGraph graphs[] = {
    {"null", "{'node-name': 'top', " JSON_NULL "}"},
    {"raw-null", "{'node-name': 'top', 'driver': 'raw', 'file': {" JSON_NULL "}}"},
    {"memory", "{'node-name': 'top', " JSON_MEMORY "}"},
    {"file", "{'node-name': 'top', " JSON_FILE "}", true},
    {"raw-file", "{'node-name': 'top', 'driver': 'raw', 'file': {" JSON_FILE "}}", true},
    {"qcow2-file", "{'node-name': 'top', 'driver': 'qcow2', 'file': {" JSON_FILE "}}", true, true},
    {"qcow2-new", "{'node-name': 'top', 'driver': 'qcow2', 'file': {" JSON_FILE "}}", true, true,
     true},
};

static const unsigned depths[] = {1, 32};

/* Requests of coroutines in one iothread. */
typedef struct Load {
    BlockBackend *blk;
    unsigned *next; /* cluster that is not there yet; NULL: all are */
    bool write;
    unsigned depth;   /* coroutines */
    unsigned left;    /* requests to begin */
    unsigned running; /* coroutines that have not ended */
    int64_t cpu_ns;   /* of the thread, at the start; of all, at the end */
    unsigned done;    /* atomic */
} Load;

static int64_t thread_cpu_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * G_GINT64_CONSTANT(1000000000) + time.tv_nsec;
}

static void report(const char *name, double ns)
{
    printf("%-32s %10.1f ns\n", name, ns);
    fflush(stdout);
}

static uint64_t random_offset(unsigned *seed)
{
    return (uint64_t)(rand_r(seed) % NODE_BLOCKS) * BLOCK_SIZE;
}

static uint64_t next_offset(Load *load, unsigned *seed)
{
    return load->next ? (uint64_t)(*load->next)++ * CLUSTER : random_offset(seed);
}

static void co_fn load_loop(void *opaque)
{
    Load *load = opaque;
    void *buffer = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
    const IoVector *iov = IOV_LOCAL(buffer, BLOCK_SIZE);
    unsigned seed = load->running;
    int ret = 0;

    memset(buffer, 1, BLOCK_SIZE);
    while (load->left > 0 && ret == 0) {
        load->left--;
        ret = load->write ? blk_co_pwritev(load->blk, next_offset(load, &seed), iov, 0)
                          : blk_co_preadv(load->blk, next_offset(load, &seed), iov, 0);
    }
    g_assert_cmpint(ret, ==, 0);
    free(buffer);
    if (--load->running == 0) {
        load->cpu_ns = thread_cpu_ns() - load->cpu_ns;
        __atomic_store_n(&load->done, 1, __ATOMIC_SEQ_CST);
    }
}

static void co_fn load_start(void *opaque)
{
    Load *load = opaque;
    unsigned depth = load->depth;

    load->running = depth;
    load->cpu_ns = thread_cpu_ns();
    for (unsigned i = 0; i < depth; i++) {
        coroutine_enter(coroutine_create(load_loop, load));
    }
}

/* CPU time of @n requests in an iothread. */
static int64_t run_load(Fixture *f, BlockBackend *blk, unsigned *next, bool write, unsigned depth,
                        unsigned n)
{
    Load load = {.blk = blk, .next = next, .write = write, .depth = depth, .left = n};

    aio_co_enter(fixture_thread(f, 0), load_start, &load);
    fixture_wait_count(f, &load.done, 1);
    return load.cpu_ns;
}

/* @n requests in this thread, the only one. */
static void run_load_alone(Fixture *f, BlockBackend *blk, unsigned *next, bool write,
                           unsigned depth, unsigned n)
{
    Load load = {.blk = blk, .next = next, .write = write, .depth = depth, .left = n};

    aio_co_enter(f->main, load_start, &load);
    while (!load.done) {
        aio_context_poll(f->main, true);
    }
}

static char *make_file(const void *content, size_t bytes)
{
    char *path = g_strdup("/dev/shm/bench-block-XXXXXX");
    int fd = g_mkstemp(path);

    if (fd < 0 || write(fd, content, bytes) != (ssize_t)bytes) {
        g_error("cannot make '%s'", path);
    }
    close(fd);
    return path;
}

static char *make_raw(void)
{
    g_autofree char *content = g_malloc(NODE_BYTES);

    memset(content, 2, NODE_BYTES);
    return make_file(content, NODE_BYTES);
}

static char *make_qcow2(bool empty)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, empty ? NEW_BYTES : NODE_BYTES);

    for (unsigned i = 0; !empty && i < NODE_BYTES / CLUSTER; i++) {
        qcow2_builder_data(b, i, i);
    }
    qcow2_builder_count(b);
    return make_file(b->bytes->data, b->bytes->len);
}

static char *make_image(const BenchGraph *graph)
{
    if (!graph->file) {
        return NULL;
    }
    return graph->qcow2 ? make_qcow2(graph->empty) : make_raw();
}

/* CPU time of a plain system call. */
static double bare_ns(const char *path, bool write)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    g_autofree char *buffer = g_malloc0(BLOCK_SIZE);
    unsigned seed = 1;
    int64_t start = thread_cpu_ns();

    for (unsigned i = 0; i < REQUESTS; i++) {
        uint64_t offset = random_offset(&seed);
        ssize_t n =
            write ? pwrite(fd, buffer, BLOCK_SIZE, offset) : pread(fd, buffer, BLOCK_SIZE, offset);

        if (n != BLOCK_SIZE) {
            g_error("cannot access '%s'", path);
        }
    }
    close(fd);
    return (double)(thread_cpu_ns() - start) / REQUESTS;
}

static char *row_name(const BenchGraph *graph, bool write, unsigned depth)
{
    return g_strdup_printf("%s-%s%s", graph->name, write ? "write" : "read",
                           depth > 1 ? "-32" : "");
}

static void bench_row(Fixture *f, BlockBackend *blk, const BenchGraph *graph, unsigned *next,
                      bool write, unsigned depth, double bare)
{
    unsigned requests = next ? NEW_REQUESTS : REQUESTS;
    g_autofree char *name = row_name(graph, write, depth);
    g_autofree char *beyond = g_strdup_printf("%s-beyond", name);
    double each;

    run_load(f, blk, next, write, depth, WARM_UP);
    each = (double)run_load(f, blk, next, write, depth, requests) / requests;
    report(name, each);
    if (graph->file) {
        report(beyond, each - bare);
    }
}

/* Run @bench with a backend on a graph's top. */
static void with_graph(const BenchGraph *graph,
                       void (*bench)(Fixture *f, BlockBackend *blk, const BenchGraph *graph,
                                     const char *path, void *opaque),
                       void *opaque)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autofree char *path = make_image(graph);
    g_auto(GStrv) parts = g_strsplit(graph->json, "%s", -1);
    g_autofree char *json = g_strjoinv(path ? path : "", parts);
    BlockBackend *blk;

    fixture_add(f, json);
    blk = fixture_backend(f, "top", "bench", BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE,
                          BLOCK_PERM_ALL);
    bench(f, blk, graph, path, opaque);
    if (path) {
        unlink(path);
    }
    fixture_free_backend(f, blk);
    fixture_del(f, "top");
}

static void bench_graph(Fixture *f, BlockBackend *blk, const BenchGraph *graph, const char *path,
                        void *unused)
{
    unsigned next = 0;

    fixture_start_threads(f);
    for (int write = graph->empty; write < 2; write++) {
        double bare = path ? bare_ns(path, write) : 0;

        if (path && g_str_equal(graph->name, "file")) {
            report(write ? "pwrite" : "pread", bare);
        }
        for (unsigned i = 0; i < G_N_ELEMENTS(depths); i++) {
            bench_row(f, blk, graph, graph->empty ? &next : NULL, write, depths[i], bare);
        }
    }
}

/* Single rows */

typedef struct SingleRow {
    const char *name;
    unsigned n;
    bool found;
} SingleRow;

static void bench_single(Fixture *f, BlockBackend *blk, const BenchGraph *graph, const char *path,
                         void *opaque)
{
    SingleRow *single = opaque;
    unsigned next = 0;

    for (int write = graph->empty; write < 2; write++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(depths); i++) {
            g_autofree char *name = row_name(graph, write, depths[i]);

            if (g_str_equal(name, single->name)) {
                run_load_alone(f, blk, graph->empty ? &next : NULL, write, depths[i], single->n);
                single->found = true;
            }
        }
    }
}

static void list_rows(void)
{
    for (unsigned g = 0; g < G_N_ELEMENTS(graphs); g++) {
        for (int write = graphs[g].empty; write < 2; write++) {
            for (unsigned i = 0; i < G_N_ELEMENTS(depths); i++) {
                g_autofree char *name = row_name(&graphs[g], write, depths[i]);

                puts(name);
            }
        }
    }
}

static bool run_single(const char *name, unsigned n)
{
    SingleRow single = {name, n, false};

    for (unsigned g = 0; g < G_N_ELEMENTS(graphs) && !single.found; g++) {
        g_autofree char *prefix = g_strconcat(graphs[g].name, "-", NULL);

        if (g_str_has_prefix(name, prefix)) {
            with_graph(&graphs[g], bench_single, &single);
        }
    }
    return single.found;
}

int main(int argc, char **argv)
{
    if (argc == 2 && g_str_equal(argv[1], "--list")) {
        list_rows();
        return 0;
    }
    if (argc == 3) {
        return run_single(argv[1], atoi(argv[2])) ? 0 : 1;
    }
    for (unsigned g = 0; g < G_N_ELEMENTS(graphs); g++) {
        with_graph(&graphs[g], bench_graph, NULL);
    }
    return 0;
}
