/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Transport io-uring: for each CPU a thread, bound to it or not, or fewer that share the CPUs. Each
 * has a ring of its own that holds the entries of the kernel's queues for its CPUs. A turn of its
 * loop hands the answers over, asks for the next requests and waits for them in one system call;
 * the file is read and written in between, by the thread itself.
 */
#include "tests/bench/fuse-probe.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "export/fuse/uring-protocol.h"

typedef struct UringProbeEntry {
    UringHeaders headers;
    unsigned cpu;
    char *data;
    struct iovec buffers[2]; /* headers, data: looked at when the entry is registered */
} UringProbeEntry;

typedef struct UringProbeQueue {
    Probe *probe;
    unsigned first_cpu; /* of those it serves: every step-th up to n_cpus */
    unsigned step;
    unsigned n_cpus;
    unsigned n_entries;
    struct io_uring ring;
    unsigned alive; /* entries */
    UringProbeEntry *entries;
} UringProbeQueue;

static void entry_submit(UringProbeQueue *queue, UringProbeEntry *entry, uint32_t op)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&queue->ring);
    bool registers = op == URING_REGISTER;
    UringArea area = {.commit_id = entry->headers.commit_id, .queue = entry->cpu};

    io_uring_prep_rw(IORING_OP_URING_CMD, sqe, 0, registers ? entry->buffers : NULL,
                     registers ? 2 : 0, 0);
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->cmd_op = op;
    memcpy(sqe->cmd, &area, sizeof(area));
    io_uring_sqe_set_data(sqe, entry);
}

static void entry_answer(UringProbeEntry *entry, const ProbeCall *call, int ret)
{
    uint64_t unique = call->in->unique;
    size_t bytes = 0;

    if (ret == 0) {
        /* No answer has both; what follows the header is in the second buffer either way. */
        memcpy(entry->data, &call->out, call->out_bytes);
        bytes = call->out_bytes + call->data_bytes;
    }
    *(struct fuse_out_header *)entry->headers.in_out = (struct fuse_out_header){
        .len = sizeof(struct fuse_out_header) + bytes,
        .error = ret == PROBE_NO_ANSWER ? 0 : ret,
        .unique = unique,
    };
    entry->headers.payload_bytes = bytes;
}

/* A command is done: the entry holds a request, or it is lost. */
static void entry_done(UringProbeQueue *queue, UringProbeEntry *entry, int result)
{
    ProbeCall call = {
        .in = (void *)entry->headers.in_out,
        .args = entry->headers.op,
        .data = entry->data,
    };

    if (result < 0) {
        if (result != -ENOTCONN && result != -ECANCELED) {
            fprintf(stderr, "an entry is lost: %s\n", strerror(-result));
        }
        queue->alive--;
        return;
    }
    entry_answer(entry, &call, probe_serve(queue->probe, &call));
    entry_submit(queue, entry, URING_COMMIT);
}

static unsigned queue_reap(UringProbeQueue *queue)
{
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;

    io_uring_for_each_cqe(&queue->ring, head, cqe)
    {
        n++;
        entry_done(queue, io_uring_cqe_get_data(cqe), cqe->res);
    }
    io_uring_cq_advance(&queue->ring, n);
    return n;
}

/* Hand over what there is and look for requests without sleeping, for a while. */
static void queue_poll(UringProbeQueue *queue)
{
    int64_t deadline = probe_now_ns() + queue->probe->poll_ns;

    io_uring_submit_and_get_events(&queue->ring);
    while (!io_uring_cq_ready(&queue->ring) && probe_now_ns() < deadline) {
        if (IO_URING_READ_ONCE(*queue->ring.sq.kflags) & IORING_SQ_TASKRUN) {
            io_uring_get_events(&queue->ring);
        }
    }
}

static void queue_init_ring(UringProbeQueue *queue)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_TASKRUN_FLAG,
    };
    int ret = io_uring_queue_init_params(queue->n_entries, &queue->ring, &params);

    if (ret == 0) {
        ret = io_uring_register_files(&queue->ring, &queue->probe->fuse, 1);
    }
    if (ret < 0) {
        probe_die("cannot make a ring: %s", strerror(-ret));
    }
    io_uring_register_ring_fd(&queue->ring);
}

static unsigned queue_share(const UringProbeQueue *queue)
{
    return (queue->n_cpus - queue->first_cpu + queue->step - 1) / queue->step;
}

static void queue_register(UringProbeQueue *queue)
{
    unsigned share = queue_share(queue);

    queue->entries = calloc(queue->n_entries, sizeof(*queue->entries));
    for (unsigned i = 0; i < queue->n_entries; i++) {
        UringProbeEntry *entry = &queue->entries[i];

        entry->cpu = queue->first_cpu + i % share * queue->step;
        entry->data = probe_buffer(PROBE_MAX_IO);
        entry->buffers[0] = (struct iovec){&entry->headers, sizeof(entry->headers)};
        entry->buffers[1] = (struct iovec){entry->data, PROBE_MAX_IO};
        entry_submit(queue, entry, URING_REGISTER);
        queue->alive++;
    }
    io_uring_submit(&queue->ring);
}

/* Fails for CPUs that are not there: nothing comes for those then. */
static void queue_pin(const UringProbeQueue *queue)
{
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    for (unsigned cpu = queue->first_cpu; cpu < queue->n_cpus; cpu += queue->step) {
        CPU_SET(cpu, &cpus);
    }
    pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
}

static void *queue_run(void *opaque)
{
    UringProbeQueue *queue = opaque;

    if (queue->probe->pin) {
        queue_pin(queue);
    }
    queue_init_ring(queue);
    queue_register(queue);
    sem_post(&queue->probe->ready);
    while (queue->alive) {
        if (queue->probe->poll_ns) {
            queue_poll(queue);
        }
        if (!queue_reap(queue)) {
            io_uring_submit_and_wait(&queue->ring, 1);
        }
    }
    return NULL;
}

void probe_uring_start(Probe *probe, unsigned threads, unsigned n_cpus)
{
    for (unsigned i = 0; i < threads; i++) {
        UringProbeQueue *queue = calloc(1, sizeof(*queue));

        queue->probe = probe;
        queue->first_cpu = i;
        queue->step = threads;
        queue->n_cpus = n_cpus;
        queue->n_entries = queue_share(queue) * probe->depth;
        probe_start_thread(queue_run, queue);
    }
}
