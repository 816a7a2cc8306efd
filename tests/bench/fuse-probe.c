/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuse-probe - the least program that answers FUSE from a file: what the kernel's interface can
 * give on this machine, for comparison. It needs root.
 *
 *     fuse-probe [OPTION...] IMAGE MOUNTPOINT
 *
 * Mounts over the file MOUNTPOINT, prints "ready" and serves until SIGTERM or until somebody
 * unmounts it.
 *
 * What was tried, on a virtual machine with 2 CPUs (Linux 6.18, image in tmpfs), 4 KiB random reads
 * in thousands a second, medians of interleaved runs, for there is no one best way (dev:
 * --batch 1):
 *
 *                                        1 job    4 jobs    depth 32
 *     dev, 1 channel, asleep                16        97         180
 *     dev, 1 channel, polling 30 us         51       113         189
 *     dev, 2 channels, asleep               43        95         184
 *     dev, 2 channels, polling 30 us        49        97         156
 *     io-uring, pinned                      27       170         142
 *     io-uring, pinned, SCHED_IDLE          75       142         124
 *     io-uring, not pinned                  18       144         226
 *     io-uring, not pinned, polling         25        79         223
 *
 * - To wake somebody on the other, idle CPU costs 10 to 20 us here, more than all the rest. With
 *   one job over io-uring, where the thread wakes its client from the CPU they share, the scheduler
 *   moves the client to the idle one each time; a client bound to a CPU gets 75. SCHED_IDLE, for
 *   which that CPU counts as idle, does the same for all clients, but starves on a busy machine.
 * - A client that keeps requests in flight goes on while its server works: it wants the thread on
 *   another CPU, and sixteen entries rather than four (252 to 220). Threads that wait for each
 *   request want it on their own.
 * - dev, depth 32: who reads all requests that are there before he answers the first wakes the
 *   client less often. Wharf, which works like that, had 200 where a loop of one request after the
 *   other had 138; hence --batch.
 * - Nothing that stood out of the noise: one entry or sixteen with 1 MiB requests (the kernel takes
 *   the entry that came back last), huge pages for the buffers, io_uring without DEFER_TASKRUN. To
 *   submit each answer at once instead of those of a turn together: for the worse (depth 32).
 */
#include "tests/bench/fuse-probe.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "export/fuse/uring-protocol.h"

#define PROBE_HUGE_PAGE      (2 << 20)
#define PROBE_MAX_BACKGROUND 256
#define PROBE_DEV_POLL_NS    30000

/* <linux/fuse.h> of Linux 6.9: a file that stands behind opens with PROBE_FOPEN_PASSTHROUGH. */
typedef struct ProbeBackingMap {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
} ProbeBackingMap;

#define PROBE_BACKING_OPEN _IOW(FUSE_DEV_IOC_MAGIC, 1, ProbeBackingMap)

/* Options */
static char *option_transport = "dev";
static char *option_cache = "direct";
static int option_queues = -1; /* as many as suit the transport */
static int option_batch = 32;
static int option_depth = 16;
static gint64 option_read_ahead;
static gint64 option_poll_ns = -1;
static gboolean option_passthrough;
static gboolean option_no_pin;
static char **option_files;

static bool probe_is_uring(void)
{
    return g_str_equal(option_transport, "io-uring");
}

static const char *mounted_at;

static void unmount_probe(void)
{
    if (mounted_at) {
        umount2(mounted_at, MNT_DETACH | UMOUNT_NOFOLLOW);
    }
}

void probe_die(const char *format, ...)
{
    va_list ap;

    fputs("fuse-probe: ", stderr);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    unmount_probe();
    _exit(1);
}

void *probe_buffer(size_t bytes)
{
    size_t mapped = (bytes + PROBE_HUGE_PAGE - 1) / PROBE_HUGE_PAGE * PROBE_HUGE_PAGE;
    char *area = mmap(NULL, mapped + PROBE_HUGE_PAGE, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (area == MAP_FAILED) {
        probe_die("no memory: %m");
    }
    area += -(uintptr_t)area % PROBE_HUGE_PAGE;
    madvise(area, mapped, MADV_HUGEPAGE);
    memset(area, 0, bytes);
    return area;
}

int64_t probe_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * G_GINT64_CONSTANT(1000000000) + now.tv_nsec;
}

unsigned probe_count_cpus(void)
{
    return sysconf(_SC_NPROCESSORS_CONF);
}

void probe_start_thread(void *(*run)(void *), void *opaque)
{
    pthread_t thread;
    int err = pthread_create(&thread, NULL, run, opaque);

    if (err) {
        probe_die("cannot start a thread: %s", strerror(err));
    }
}

/* Start */

static void open_image(Probe *probe, const char *path)
{
    struct stat st;

    probe->image = open(path, O_RDWR | O_CLOEXEC);
    if (probe->image < 0 || fstat(probe->image, &st) < 0) {
        probe_die("cannot open '%s': %m", path);
    }
    probe->attr = (struct fuse_attr){
        .ino = FUSE_ROOT_ID,
        .size = st.st_size,
        .blocks = st.st_blocks,
        .mode = S_IFREG | 0600,
        .nlink = 1,
        .blksize = PROBE_PAGE,
    };
}

static void mount_probe(Probe *probe, const char *path)
{
    char options[128];

    probe->fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (probe->fuse < 0) {
        probe_die("cannot open /dev/fuse: %m");
    }
    snprintf(options, sizeof(options),
             "fd=%d,rootmode=%o,user_id=0,group_id=0,allow_other,default_permissions,max_read=%d",
             probe->fuse, S_IFREG, PROBE_MAX_IO);
    if (mount("fuse-probe", path, "fuse", MS_NOSUID | MS_NODEV | MS_NOATIME, options) < 0) {
        probe_die("cannot mount at '%s': %m", path);
    }
    mounted_at = path;
}

static uint64_t wanted_flags(void)
{
    uint64_t flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |
                     FUSE_MAX_PAGES | FUSE_INIT_EXT;

    if (probe_is_uring()) {
        flags |= URING_INIT_FLAG;
    }
    if (option_passthrough) {
        flags |= PROBE_INIT_PASSTHROUGH;
    }
    return flags;
}

static struct fuse_init_out agree(const struct fuse_init_in *in)
{
    uint64_t offered = in->flags | (uint64_t)in->flags2 << 32;
    uint64_t flags = wanted_flags();
    struct fuse_init_out out = {
        .major = FUSE_KERNEL_VERSION,
        .minor = FUSE_KERNEL_MINOR_VERSION,
        .max_readahead = option_read_ahead ? option_read_ahead : in->max_readahead,
        .flags = (uint32_t)flags,
        .flags2 = flags >> 32,
        .max_background = PROBE_MAX_BACKGROUND,
        .congestion_threshold = PROBE_MAX_BACKGROUND,
        .max_write = PROBE_MAX_IO,
        .time_gran = 1,
        .max_pages = PROBE_MAX_IO / PROBE_PAGE,
    };

    if (flags & ~offered) {
        probe_die("the kernel does not offer %s", flags & ~offered & URING_INIT_FLAG
                                                      ? "FUSE over io_uring (fuse.enable_uring)"
                                                      : "what is needed");
    }
    if (option_passthrough) {
        out.unused[0] = 1; /* max_stack_depth: files of file systems that stand on none */
    }
    return out;
}

static void handshake(const Probe *probe)
{
    _Alignas(8) char message[FUSE_MIN_READ_BUFFER];
    const struct fuse_in_header *in = (const void *)message;
    ssize_t n = read(probe->fuse, message, sizeof(message));
    struct {
        struct fuse_out_header header;
        struct fuse_init_out init;
    } out = {0};

    if (n < (ssize_t)(sizeof(*in) + sizeof(struct fuse_init_in)) || in->opcode != FUSE_INIT) {
        probe_die("no handshake with the kernel");
    }
    out.init = agree((const void *)(in + 1));
    out.header.len = sizeof(out);
    out.header.unique = in->unique;
    if (write(probe->fuse, &out, sizeof(out)) != sizeof(out)) {
        probe_die("the kernel refuses the handshake: %m");
    }
}

static void choose_open_flags(Probe *probe)
{
    ProbeBackingMap map = {.fd = probe->image};

    if (option_passthrough) {
        probe->backing_id = ioctl(probe->fuse, PROBE_BACKING_OPEN, &map);
        if (probe->backing_id <= 0) {
            probe_die("cannot pass the file through: %m");
        }
        probe->open_flags = PROBE_FOPEN_PASSTHROUGH;
    } else if (g_str_equal(option_cache, "direct")) {
        probe->open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
    }
}

static void set_read_ahead(const char *mountpoint)
{
    char path[64];
    struct stat st;
    FILE *f;

    if (stat(mountpoint, &st) < 0) {
        probe_die("cannot stat '%s': %m", mountpoint);
    }
    snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(st.st_dev),
             minor(st.st_dev));
    f = fopen(path, "w");
    if (!f || fprintf(f, "%" G_GINT64_FORMAT, option_read_ahead / 1024) < 0 || fclose(f) != 0) {
        probe_die("cannot write to '%s': %m", path);
    }
}

static void serve(Probe *probe)
{
    unsigned threads = probe->queues;

    sem_init(&probe->ready, 0, 0);
    if (probe_is_uring()) {
        probe_dev_start(probe, 1); /* for FORGET, INTERRUPT, and to learn of the end */
        probe_uring_start(probe, threads++, probe_count_cpus());
    } else {
        probe_dev_start(probe, threads);
    }
    while (threads--) {
        sem_wait(&probe->ready);
    }
}

static const GOptionEntry option_entries[] = {
    {"transport", 0, 0, G_OPTION_ARG_STRING, &option_transport, "dev or io-uring", "NAME"},
    {"queues", 0, 0, G_OPTION_ARG_INT, &option_queues,
     "threads that serve (dev: 1, io-uring: one a CPU)", "N"},
    {"batch", 0, 0, G_OPTION_ARG_INT, &option_batch,
     "dev: requests read before the first is answered", "N"},
    {"depth", 0, 0, G_OPTION_ARG_INT, &option_depth, "io-uring: entries a CPU", "N"},
    {"no-pin", 0, 0, G_OPTION_ARG_NONE, &option_no_pin, "io-uring: let threads run on any CPU",
     NULL},
    {"cache", 0, 0, G_OPTION_ARG_STRING, &option_cache, "direct or page", "MODE"},
    {"read-ahead", 0, 0, G_OPTION_ARG_INT64, &option_read_ahead, "with the page cache", "BYTES"},
    {"passthrough", 0, 0, G_OPTION_ARG_NONE, &option_passthrough, "let the kernel do it", NULL},
    {"poll-ns", 0, 0, G_OPTION_ARG_INT64, &option_poll_ns,
     "look for requests that long before sleeping (dev: 30000, io-uring: 0)", "NS"},
    {G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &option_files, NULL,
     "IMAGE MOUNTPOINT"},
    {0},
};

static void parse_options(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, option_entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        probe_die("%s", error->message);
    }
    if (!option_files || g_strv_length(option_files) != 2) {
        probe_die("give IMAGE and MOUNTPOINT");
    }
    if (!g_str_equal(option_transport, "dev") && !probe_is_uring()) {
        probe_die("no transport '%s'", option_transport);
    }
    if (!g_str_equal(option_cache, "direct") && !g_str_equal(option_cache, "page")) {
        probe_die("no cache mode '%s'", option_cache);
    }
    if (option_queues < -1 || option_queues == 0 || option_batch < 1 || option_depth < 1 ||
        option_read_ahead < 0) {
        probe_die("a number is out of range");
    }
}

static unsigned choose_queues(void)
{
    unsigned most = probe_is_uring() ? probe_count_cpus() : G_MAXUINT;

    if (option_queues < 0) {
        return probe_is_uring() ? most : 1;
    }
    return MIN((unsigned)option_queues, most);
}

int main(int argc, char **argv)
{
    static Probe probe;
    sigset_t ends;
    int number;

    parse_options(argc, argv);
    probe.queues = choose_queues();
    probe.batch = option_batch;
    probe.depth = option_depth;
    probe.pin = !option_no_pin;
    probe.poll_ns = option_poll_ns >= 0 ? option_poll_ns : probe_is_uring() ? 0 : PROBE_DEV_POLL_NS;
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &ends, NULL);

    open_image(&probe, option_files[0]);
    mount_probe(&probe, option_files[1]);
    handshake(&probe);
    choose_open_flags(&probe);
    serve(&probe);
    if (option_read_ahead) {
        set_read_ahead(option_files[1]);
    }
    puts("ready");
    fflush(stdout);

    sigwait(&ends, &number);
    if (number != SIGUSR1) {
        unmount_probe();
    }
    _exit(0); /* the threads are still at it */
}
