/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuse-probe.h - the parts of fuse-probe, the least program that answers FUSE from a file.
 *
 * fuse-probe.c        options, mount, handshake, the end
 * fuse-probe-serve.c  what each request means for the file
 * fuse-probe-dev.c    transport dev
 * fuse-probe-uring.c  transport io-uring
 *
 * Everything in Probe is fixed before the threads that serve begin.
 */
#ifndef WHARF_TESTS_FUSE_PROBE_H
#define WHARF_TESTS_FUSE_PROBE_H

#include <linux/fuse.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROBE_PAGE   4096
#define PROBE_MAX_IO (1 << 20)

/* Of newer kernels than <linux/fuse.h> may be from: protocol 7.40. */
#define PROBE_INIT_PASSTHROUGH  (UINT64_C(1) << 37)
#define PROBE_FOPEN_PASSTHROUGH (1 << 7)

typedef struct Probe {
    int image;
    int fuse;
    uint32_t open_flags;   /* of each answer to OPEN */
    int32_t backing_id;    /* with PROBE_FOPEN_PASSTHROUGH */
    struct fuse_attr attr; /* of the one file there is */
    unsigned queues;       /* threads that serve */
    unsigned batch;        /* dev: requests read before the first is answered, at the most */
    unsigned depth;        /* io-uring: entries a queue */
    bool pin;              /* io-uring: each thread to the CPU whose queue it serves */
    uint64_t poll_ns;      /* how long a thread looks for requests before it sleeps */
    sem_t ready;           /* posted by each thread that has begun to serve */
} Probe;

/* One request and its answer. */
typedef struct ProbeCall {
    const struct fuse_in_header *in;
    const void *args; /* struct fuse_*_in */
    void *data;       /* payload of a WRITE, and place for that of a READ */
    /* Set by probe_serve(): */
    union {
        struct fuse_attr_out attr;
        struct fuse_open_out open;
        struct fuse_write_out write;
    } out;
    size_t out_bytes;
    size_t data_bytes;
} ProbeCall;

/* In place of an error: nobody waits for an answer. */
#define PROBE_NO_ANSWER 1

/* Do what the request asks for. 0, -errno, or PROBE_NO_ANSWER. */
int probe_serve(const Probe *probe, ProbeCall *call);

/* Memory that is there when it is used. Exits if there is none. */
void *probe_buffer(size_t bytes);

int64_t probe_now_ns(void);

/*
 * Begin to serve /dev/fuse with @queues threads. When the connection has ended, one of them sends
 * SIGUSR1 to the process.
 */
void probe_dev_start(Probe *probe, unsigned queues);

/* Begin to serve the ring queues of @n_cpus CPUs with no more than so many threads. */
void probe_uring_start(Probe *probe, unsigned threads, unsigned n_cpus);

/* How many CPUs this machine may ever have. */
unsigned probe_count_cpus(void);

/* Print a message (printf), take the mount away and exit. */
void probe_die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

void probe_start_thread(void *(*run)(void *), void *opaque);

#endif
