/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of several threads to one qcow2 image: who waits for whom, and how many requests it
 * makes of each. What reaches the file is noted there, and held for as long as a test likes.
 */
#include "aio/lock.h"
#include "tests/unit/block-fixture.h"
#include "tests/unit/block-script.h"
#include "tests/unit/graph-rig.h"
#include "tests/unit/qcow2-builder.h"

#define KIB     UINT64_C(1024)
#define CLUSTER (64 * KIB)
#define SIZE    (128 * CLUSTER)
#define MAPPED  UINT64_C(3) /* the only cluster that is there at first */

/* Locks that this thread has taken */

static __thread unsigned n_locks;

void __real_g_mutex_lock(GMutex *mutex);
void __wrap_g_mutex_lock(GMutex *mutex);
void __wrap_g_mutex_lock(GMutex *mutex)
{
    n_locks++;
    __real_g_mutex_lock(mutex);
}

void co_fn __real_co_mutex_lock(CoMutex *mutex);
void co_fn __wrap_co_mutex_lock(CoMutex *mutex);
void co_fn __wrap_co_mutex_lock(CoMutex *mutex)
{
    n_locks++;
    __real_co_mutex_lock(mutex);
}

/* The image */

typedef struct Rig {
    Fixture *f;
    BlockBackend *blk;
    Request requests[8];
    unsigned n;
    uint8_t *buffer; /* for each request a part of it, of 1 MiB */
} Rig;

static void add_memory(Fixture *f, const char *name, const void *bytes, size_t length)
{
    g_autofree char *json = g_strdup_printf(
        "{'driver': 'memory', 'node-name': '%s', 'size': %zu, 'discard': 'unmap'}", name, length);
    BlockBackend *blk;

    fixture_add(f, json);
    blk = fixture_backend(f, name, "test", BLOCK_PERM_WRITE, BLOCK_PERM_ALL);
    g_assert_cmpint(fixture_write(f, blk, 0, bytes, length, 0), ==, 0);
    fixture_free_backend(f, blk);
}

/* A disk of @size bytes; @more are options of the node. */
static void rig_init_with(Rig *rig, uint64_t size, const char *more)
{
    g_autoptr(Qcow2Builder) b = qcow2_builder_new(3, 16, 0, size);
    g_autofree char *json =
        g_strdup_printf("{'driver': 'qcow2', 'node-name': 'q', 'file': 'file' %s}", more);
    g_autofree uint8_t *base = g_malloc(SIZE);
    Fixture *f = fixture_new();

    script_reset();
    script.truncate_flags = BLOCK_REQ_ZERO;
    *rig = (Rig){.f = f, .buffer = g_malloc(G_N_ELEMENTS(rig->requests) * 1024 * KIB)};
    graph_rig_fill(rig->buffer, G_N_ELEMENTS(rig->requests) * 1024 * KIB, 3);
    graph_rig_fill(base, SIZE, 9);
    qcow2_builder_data(b, MAPPED, 5);
    qcow2_builder_count(b);
    add_memory(f, "memory", b->bytes->data, b->bytes->len);
    add_memory(f, "base", base, SIZE);
    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'file', 'image': 'memory', "
                   "'discard': 'unmap'}");
    fixture_add(f, json);
    rig->blk = fixture_backend(f, "q", "test", BLOCK_PERM_ALL, BLOCK_PERM_ALL);
    fixture_start_threads(f);
    /* So that the L2 table is in memory, and the file longer than it needs to be. */
    g_assert_cmpint(fixture_fill(f, rig->blk, 0, 1, 1), ==, 0);
    g_assert_cmpint(fixture_flush(f, rig->blk), ==, 0);
    script_clear();
}

static void rig_init(Rig *rig, bool backing)
{
    rig_init_with(rig, SIZE, backing ? ", 'backing': 'base'" : "");
}

static void rig_clear(Rig *rig)
{
    fixture_free_backend(rig->f, rig->blk);
    fixture_del(rig->f, "q");
    fixture_del(rig->f, "file");
    fixture_free(rig->f);
    g_free(rig->buffer);
}

/* Begin a request in one of the threads. */
static Request *start_flagged(Rig *rig, int op, uint64_t offset, uint64_t bytes,
                              BlockRequestFlags flags)
{
    unsigned i = rig->n++;

    rig->requests[i] = (Request){.op = op,
                                 .blk = rig->blk,
                                 .offset = offset,
                                 .bytes = bytes,
                                 .flags = flags,
                                 .buffer = rig->buffer + i * 1024 * KIB};
    request_start(&rig->requests[i], fixture_thread(rig->f, i % FIXTURE_THREADS));
    return &rig->requests[i];
}

static Request *start(Rig *rig, int op, uint64_t offset, uint64_t bytes)
{
    return start_flagged(rig, op, offset, bytes, 0);
}

static void wait_held(ScriptOp op, unsigned n)
{
    gint64 deadline = g_get_monotonic_time() + 60 * G_TIME_SPAN_SECOND;

    while (script_held(op) < n) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(1000);
    }
}

static void end_all(Rig *rig)
{
    for (unsigned i = 0; i < rig->n; i++) {
        fixture_wait_count(rig->f, &rig->requests[i].done, 1);
        g_assert_cmpint(rig->requests[i].result, ==, 0);
    }
    rig->n = 0;
}

/* How many writes have reached the file, but for those of tables. */
static unsigned n_writes(void)
{
    return script_count(SCRIPT_WRITE) + script_count(SCRIPT_ZERO);
}

/* Who waits for whom */

static void test_independent(void)
{
    Rig rig;

    rig_init(&rig, false);
    script_hold(SCRIPT_WRITE);
    for (unsigned i = 0; i < 6; i++) { /* clusters whose entries stand side by side */
        start(&rig, REQUEST_WRITE, (10 + i) * CLUSTER + i * 512, 4096);
    }
    wait_held(SCRIPT_WRITE, 6);
    script_release(SCRIPT_WRITE);
    end_all(&rig);
    g_assert_cmpuint(n_writes(), ==, 6);
    rig_clear(&rig);
}

/* Two of them are for one cluster: the later one waits, nobody else does. */
static void test_same_cluster(void)
{
    Request *later;
    Rig rig;

    rig_init(&rig, false);
    script_hold(SCRIPT_WRITE);
    start(&rig, REQUEST_WRITE, 10 * CLUSTER, 4096);
    wait_held(SCRIPT_WRITE, 1);
    later = start(&rig, REQUEST_WRITE, 10 * CLUSTER + 8192, 4096);
    start(&rig, REQUEST_WRITE, 9 * CLUSTER, 4096);
    start(&rig, REQUEST_WRITE, 11 * CLUSTER, 4096);
    start(&rig, REQUEST_WRITE, MAPPED * CLUSTER, 4096);
    wait_held(SCRIPT_WRITE, 4);
    g_usleep(20000); /* it is not to come, however long one waits */
    g_assert_cmpuint(script_held(SCRIPT_WRITE), ==, 4);
    g_assert_false(request_done(later));
    script_release(SCRIPT_WRITE);
    end_all(&rig);
    g_assert_cmpuint(n_writes(), ==, 5);
    rig_clear(&rig);
}

/* A request over several clusters waits for the one of them that somebody else makes. */
static void test_across_clusters(void)
{
    Rig rig;

    rig_init(&rig, false);
    script_hold(SCRIPT_WRITE);
    start(&rig, REQUEST_WRITE, 12 * CLUSTER, 4096);
    wait_held(SCRIPT_WRITE, 1);
    start(&rig, REQUEST_WRITE, 10 * CLUSTER, 4 * CLUSTER); /* 10 and 11 at once */
    wait_held(SCRIPT_WRITE, 2);
    script_release(SCRIPT_WRITE);
    end_all(&rig);
    rig_clear(&rig);
}

/* Readers of what is there pass by those who write it, make others, and write tables. */
static void test_readers(void)
{
    Request *read;
    Rig rig;

    rig_init(&rig, false);
    script_hold(SCRIPT_WRITE);
    script_hold(SCRIPT_FLUSH);
    start(&rig, REQUEST_WRITE, 10 * CLUSTER, 4096);
    start(&rig, REQUEST_WRITE, MAPPED * CLUSTER, 4096);
    wait_held(SCRIPT_WRITE, 2);
    read = start(&rig, REQUEST_READ, MAPPED * CLUSTER + 8192, 4096);
    fixture_wait_count(rig.f, &read->done, 1);
    script_release(SCRIPT_WRITE);
    end_all(&rig);
    start(&rig, REQUEST_FLUSH, 0, 0); /* holds what locks a commit holds */
    wait_held(SCRIPT_FLUSH, 1);
    read = start(&rig, REQUEST_READ, MAPPED * CLUSTER, 4096);
    fixture_wait_count(rig.f, &read->done, 1);
    script_hold(SCRIPT_READ);
    for (unsigned i = 0; i < 4; i++) {
        start(&rig, REQUEST_READ, MAPPED * CLUSTER + i, 512);
    }
    wait_held(SCRIPT_READ, 4);
    script_release(SCRIPT_READ);
    script_release(SCRIPT_FLUSH);
    end_all(&rig);
    rig_clear(&rig);
}

/* Writers, too, get places while tables are being written. */
static void test_writers_and_commit(void)
{
    Request *write;
    Rig rig;

    rig_init(&rig, false);
    g_assert_cmpint(fixture_fill(rig.f, rig.blk, 20 * CLUSTER, 512, 1), ==, 0);
    script_hold(SCRIPT_FLUSH);
    start(&rig, REQUEST_FLUSH, 0, 0);
    wait_held(SCRIPT_FLUSH, 1);
    write = start(&rig, REQUEST_WRITE, 21 * CLUSTER, CLUSTER);
    fixture_wait_count(rig.f, &write->done, 1);
    script_release(SCRIPT_FLUSH);
    end_all(&rig);
    rig_clear(&rig);
}

/*
 * Zeros are to be written up to the end of the disk, which lies in a cluster, while that becomes
 * longer: what is written behind it then stays.
 */
static void test_zeros_and_growth(void)
{
    const uint64_t cluster = SIZE - CLUSTER, size = SIZE - CLUSTER / 2;
    Request *grow;
    uint8_t wanted[4096];
    Rig rig;

    rig_init_with(&rig, size, "");
    g_assert_cmpint(fixture_fill(rig.f, rig.blk, cluster, 512, 1), ==, 0);
    script_hold(SCRIPT_WRITE);
    grow = start_flagged(&rig, REQUEST_TRUNCATE, 0, SIZE, BLOCK_REQ_ZERO);
    while (script_held(SCRIPT_WRITE) == 0) { /* lengths change in the main thread */
        fixture_settle(rig.f);
        g_usleep(1000);
    }
    script_hold(SCRIPT_ALLOCATE);
    start(&rig, REQUEST_ALLOCATE, cluster, 4096); /* has the cluster to itself meanwhile */
    g_usleep(20000);                              /* or waits for the end of the growth */
    start(&rig, REQUEST_ZERO, cluster, size - cluster);
    g_usleep(20000);
    script_release(SCRIPT_WRITE);
    fixture_wait_count(rig.f, &grow->done, 1);
    memset(wanted, 7, sizeof(wanted));
    g_assert_cmpint(fixture_write(rig.f, rig.blk, size, wanted, sizeof(wanted), 0), ==, 0);
    script_release(SCRIPT_ALLOCATE);
    end_all(&rig);
    fixture_assert_bytes(rig.f, rig.blk, size, sizeof(wanted), 7);
    fixture_assert_bytes(rig.f, rig.blk, cluster, size - cluster, 0);
    rig_clear(&rig);
}

/*
 * While the file is asked about a cluster that one moves, and the place it had before is given back
 * to the file: there are zeros then, but not in the disk.
 */
static void test_status_and_moves(void)
{
    Request *status, *write;
    Rig rig;

    rig_init_with(&rig, SIZE, ", 'pass-discard-other': true");
    memset(rig.buffer, 5, G_N_ELEMENTS(rig.requests) * 1024 * KIB); /* so that it shrinks */
    script_hold(SCRIPT_STATUS);
    status = start(&rig, REQUEST_STATUS, MAPPED * CLUSTER, CLUSTER);
    wait_held(SCRIPT_STATUS, 1);
    write =
        start_flagged(&rig, REQUEST_WRITE, MAPPED * CLUSTER, CLUSTER, BLOCK_REQ_WRITE_COMPRESSED);
    fixture_wait_count(rig.f, &write->done, 1);
    g_assert_cmpint(fixture_flush(rig.f, rig.blk), ==, 0);
    script_release(SCRIPT_STATUS);
    end_all(&rig);
    g_assert_cmphex(status->status & ~BLOCK_STATUS_EOF, ==,
                    BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED);
    g_assert_cmpuint(script_count(SCRIPT_DISCARD), ==, 0);
    g_assert_cmpint(fixture_fill(rig.f, rig.blk, 0, 512, 1), ==, 0);
    g_assert_cmpint(fixture_flush(rig.f, rig.blk), ==, 0);
    g_assert_cmpuint(script_count(SCRIPT_DISCARD), ==, 1); /* now nobody asks any more */
    rig_clear(&rig);
}

/* How many requests */

static void expect_one_write(uint64_t offset, uint64_t bytes)
{
    ScriptEntry e = script_entry(SCRIPT_WRITE, 0);

    g_assert_cmpuint(n_writes(), ==, 1);
    g_assert_cmpuint(e.offset, ==, offset);
    g_assert_cmpuint(e.bytes, ==, bytes);
}

/* Where the next cluster comes to lie. */
static uint64_t next_place(void)
{
    uint64_t place = script_entry(SCRIPT_WRITE, script_count(SCRIPT_WRITE) - 1).offset;

    return place / CLUSTER * CLUSTER + CLUSTER;
}

static void test_written_once(void)
{
    uint64_t place;
    Rig rig;

    rig_init(&rig, false);
    start(&rig, REQUEST_WRITE, 10 * CLUSTER, 512);
    end_all(&rig);
    place = next_place();
    script_clear();
    start(&rig, REQUEST_WRITE, 20 * CLUSTER, CLUSTER);
    end_all(&rig);
    expect_one_write(place, CLUSTER);
    script_clear();
    start(&rig, REQUEST_WRITE, 30 * CLUSTER, 16 * CLUSTER);
    end_all(&rig);
    expect_one_write(place + CLUSTER, 16 * CLUSTER);
    script_clear();
    start(&rig, REQUEST_WRITE, 60 * CLUSTER + 512, 4096); /* the file has zeros around it */
    end_all(&rig);
    expect_one_write(place + 17 * CLUSTER + 512, 4096);
    rig_clear(&rig);
}

/* Head, data and tail are one write, whatever the request covers. */
static void test_copied_in_one(void)
{
    static const struct {
        uint64_t offset, bytes;
        unsigned clusters, n_iov;
    } cases[] = {
        {10 * CLUSTER + 512, 4096, 1, 3},          {12 * CLUSTER, 4096, 1, 2},
        {14 * CLUSTER + 512, CLUSTER - 512, 1, 2}, {16 * CLUSTER + 512, 4 * CLUSTER, 5, 3},
        {24 * CLUSTER, 2 * CLUSTER, 2, 1},
    };
    Rig rig;

    rig_init(&rig, true);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        ScriptEntry e;

        script_clear();
        start(&rig, REQUEST_WRITE, cases[i].offset, cases[i].bytes);
        end_all(&rig);
        g_assert_cmpuint(n_writes(), ==, 1);
        e = script_entry(SCRIPT_WRITE, 0);
        g_assert_cmpuint(e.bytes, ==, cases[i].clusters * CLUSTER);
        g_assert_cmpuint(e.n_iov, ==, cases[i].n_iov);
    }
    rig_clear(&rig);
}

/* What a flush costs: tables in blocks of 4 KiB, and two flushes. */
static void test_flush(void)
{
    Rig rig;

    rig_init(&rig, false);
    start(&rig, REQUEST_WRITE, 10 * CLUSTER, 4096);
    end_all(&rig);
    script_clear();
    start(&rig, REQUEST_FLUSH, 0, 0);
    end_all(&rig);
    g_assert_cmpuint(script_count(SCRIPT_FLUSH), ==, 2);
    g_assert_cmpuint(script_count(SCRIPT_WRITE), ==, 2);
    g_assert_cmpuint(script_entry(SCRIPT_WRITE, 0).bytes, ==, 4096);
    g_assert_cmpuint(script_entry(SCRIPT_WRITE, 1).bytes, ==, 4096);
    script_clear();
    start(&rig, REQUEST_WRITE, 10 * CLUSTER, 4096); /* no table changes by that */
    end_all(&rig);
    start(&rig, REQUEST_FLUSH, 0, 0);
    end_all(&rig);
    g_assert_cmpuint(script_count(SCRIPT_FLUSH), ==, 1);
    g_assert_cmpuint(script_count(SCRIPT_WRITE), ==, 1);
    rig_clear(&rig);
}

/* Locks */

typedef struct Reads {
    BlockBackend *blk;
    uint64_t offset;
    unsigned locks; /* taken for 100 of them */
    unsigned ended; /* atomic */
} Reads;

static void co_fn reads_entry(void *opaque)
{
    Reads *reads = opaque;
    uint8_t buffer[512];
    unsigned before = 0;

    for (unsigned i = 0; i < 110; i++) {
        if (i == 10) {
            before = n_locks;
        }
        g_assert_cmpint(
            blk_co_preadv(reads->blk, reads->offset + i, IOV_LOCAL(buffer, sizeof(buffer)), 0), ==,
            0);
    }
    reads->locks = n_locks - before;
    __atomic_store_n(&reads->ended, 1, __ATOMIC_SEQ_CST);
}

static unsigned locks_of_reads(Rig *rig, BlockBackend *blk, uint64_t offset)
{
    Reads reads = {.blk = blk, .offset = offset};

    aio_co_enter(fixture_thread(rig->f, 0), reads_entry, &reads);
    fixture_wait_count(rig->f, &reads.ended, 1);
    return reads.locks;
}

/* Of those that a read takes none is the driver's. */
static void test_no_lock(void)
{
    unsigned alone, through;
    BlockBackend *file;
    Rig rig;

    rig_init(&rig, false);
    file = fixture_backend(rig.f, "file", "test", BLOCK_PERM_CONSISTENT_READ, BLOCK_PERM_ALL);
    alone = locks_of_reads(&rig, file, MAPPED * CLUSTER);
    through = locks_of_reads(&rig, rig.blk, MAPPED * CLUSTER);
    g_assert_cmpuint(alone, >=, 100); /* the node in memory has one, so counting works */
    g_assert_cmpuint(through, ==, alone);
    fixture_free_backend(rig.f, file);
    rig_clear(&rig);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qcow2/parallel/independent", test_independent);
    g_test_add_func("/qcow2/parallel/same-cluster", test_same_cluster);
    g_test_add_func("/qcow2/parallel/across-clusters", test_across_clusters);
    g_test_add_func("/qcow2/parallel/readers", test_readers);
    g_test_add_func("/qcow2/parallel/writers-and-commit", test_writers_and_commit);
    g_test_add_func("/qcow2/parallel/zeros-and-growth", test_zeros_and_growth);
    g_test_add_func("/qcow2/parallel/status-and-moves", test_status_and_moves);
    g_test_add_func("/qcow2/parallel/written-once", test_written_once);
    g_test_add_func("/qcow2/parallel/copied-in-one", test_copied_in_one);
    g_test_add_func("/qcow2/parallel/flush", test_flush);
    g_test_add_func("/qcow2/parallel/no-lock", test_no_lock);
    return g_test_run();
}
