/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Transport "io-uring": the kernel puts requests into entries that we have lent it, and one command
 * hands an answer over and asks for the next request. The kernel has a ring queue for each CPU that
 * the machine may have, and switches over to them when each has an entry; they are spread over the
 * queues of the export. FORGET and INTERRUPT still come through /dev/fuse, so the transport "dev"
 * runs beside.
 *
 * An entry has a slot in a mapping that the entries of a queue share. The data of a WRITE, or that
 * for a READ's answer, goes to and from the node where it is in the slot. Memory is used as far as
 * requests need it, and given back when there have been none for a while; large requests get huge
 * pages, which the kernel copies from and to the faster. The kernel may keep a slot at hand for the
 * node's direct I/O (AioBuffer), and forgets it before its pages are exchanged or given back.
 *
 * Who owns an entry, all in the context of its queue:
 *
 *   KERNEL   from the submission of a command until it is done. Nobody else touches its memory, and
 *            nobody can take it back: only the end of the connection does.
 *   REQUEST  from there until its answer is submitted: the request's coroutine.
 *   PARKED   it holds a request that came after the queue was stopped: nobody begins it. Its client
 *            waits as it would for a request that is still in /dev/fuse.
 *   DEAD     the kernel does not want it any more.
 *
 * A queue that is stopped begins nothing and still answers, each time at once. With @cut, and at
 * the end, the connection is aborted through its control file (connection.h): that fails all
 * requests towards their clients (ECONNABORTED), begun, parked or not even here, and makes the
 * kernel give back every entry. From then on nothing is submitted: an entry that comes back or
 * whose request ends is DEAD. Answering what is cut off instead would lend its buffer to the
 * kernel while the node still reads or writes there. Memory and descriptor stay until no entry is
 * in the KERNEL; those in the hands of a REQUEST do not exist then, for the queue is idle.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "export/fuse/connection.h"
#include "export/fuse/fuse-internal.h"
#include "export/fuse/uring-protocol.h"
#include "util/error.h"

#define URING_SLOT    (2 * 1024 * 1024) /* address space: a huge page, where those are to be had */
#define URING_LARGE   (128 * 1024)      /* bytes of a request that is worth a huge page */
#define URING_TRIM_NS (1000 * G_GINT64_CONSTANT(1000000))

G_STATIC_ASSERT(FUSE_INIT_MAX_IO <= URING_SLOT);

typedef enum {
    URING_ENTRY_DEAD,
    URING_ENTRY_KERNEL,
    URING_ENTRY_REQUEST,
    URING_ENTRY_PARKED,
} UringEntryState;

typedef struct UringEntry {
    FuseUring *uring;
    UringEntryState state;
    uint16_t cpu;
    bool registered; /* it has held a request */
    bool large;      /* one that was */
    bool huge;       /* its slot is to have a huge page */
    AioCommand *command;
    void *data;      /* its slot; FUSE_INIT_MAX_IO bytes are for the kernel to use */
    AioBuffer *kept; /* these, for the node's I/O */
    struct iovec buffers[2];
    const FuseOperation *operation;
    uint64_t unique; /* of the request */
    FuseCall call;
    UringHeaders headers;
} UringEntry;

struct FuseUring {
    FuseQueue *queue;
    int fd;   /* commands go there. Not the channel's: it stays open until the last one is done */
    int file; /* the same, as the context keeps it, or -1 */
    bool stopped;
    bool ended;           /* nothing is submitted any more */
    AioTimer *trim_timer; /* NULL: memory is not given back */
    bool used;            /* since the timer was armed */
    AioBinding *binding;  /* of the context to the CPUs whose requests it serves */
    unsigned in_kernel;
    ExportWaiter *waiter; /* for in_kernel to become 0 */
    char *slots;          /* one for each entry */
    unsigned n_entries;
    UringEntry entries[];
};

static FuseExport *uring_export(const FuseUring *uring)
{
    return (FuseExport *)uring->queue->common.exp;
}

/* Memory */

/* Nothing of value is in the slot now. */
static void entry_data_unused(UringEntry *entry)
{
    if (!entry->large || entry->huge) {
        return;
    }
    entry->huge = true;
    aio_buffer_set_huge(entry->kept, true);
    /* Without the small pages, and the table of them, the next one is a huge one. */
    madvise(entry->data, URING_SLOT, MADV_DONTNEED);
    madvise(entry->data, URING_SLOT, MADV_HUGEPAGE);
}

static size_t uring_slots_bytes(const FuseUring *uring)
{
    return (size_t)uring->n_entries * URING_SLOT;
}

static void uring_note_use(FuseUring *uring)
{
    if (!uring->used && uring->trim_timer) {
        uring->used = true;
        aio_timer_arm(uring->trim_timer, aio_now_ns() + URING_TRIM_NS);
    }
}

/*
 * Give memory back, unless there have been requests. What the kernel puts into entries it puts
 * there in this very thread when the ring is entered, so nothing comes into the slots meanwhile.
 */
static void uring_trim(void *opaque)
{
    FuseUring *uring = opaque;

    if (uring->used || uring->queue->common.requests || !aio_commands_settled()) {
        uring->used = false;
        aio_timer_arm(uring->trim_timer, aio_now_ns() + URING_TRIM_NS);
        return;
    }
    for (unsigned i = 0; i < uring->n_entries; i++) {
        aio_buffer_set_huge(uring->entries[i].kept, false);
        uring->entries[i].large = uring->entries[i].huge = false;
    }
    madvise(uring->slots, uring_slots_bytes(uring), MADV_DONTNEED);
    madvise(uring->slots, uring_slots_bytes(uring), MADV_NOHUGEPAGE);
}

/* Answers */

static void entry_submit(UringEntry *entry, uint32_t op, uint64_t commit_id)
{
    UringArea *area = aio_command_area(entry->command);

    if (entry->uring->ended) {
        entry->state = URING_ENTRY_DEAD;
        return;
    }
    *area = (UringArea){.commit_id = commit_id, .queue = entry->cpu};
    entry->state = URING_ENTRY_KERNEL;
    entry->uring->in_kernel++;
    aio_command_submit(entry->command, op, entry->buffers,
                       op == URING_REGISTER ? G_N_ELEMENTS(entry->buffers) : 0);
}

static void entry_answer(UringEntry *entry, int ret)
{
    struct fuse_out_header *header = (void *)entry->headers.in_out;
    const FuseCall *call = &entry->call;
    size_t bytes = 0;

    if (ret >= 0) {
        /* No answer has both; what follows the header is in the second buffer either way. */
        g_assert(!call->out_bytes || !call->data_bytes);
        entry->large |= call->data_bytes >= URING_LARGE;
        if (!call->data_bytes) {
            entry_data_unused(entry);
        }
        memcpy(entry->data, (const char *)&call->out + sizeof(call->out.header), call->out_bytes);
        bytes = call->out_bytes + call->data_bytes;
    }
    *header = (struct fuse_out_header){
        .len = sizeof(*header) + bytes,
        .error = MIN(ret, 0),
        .unique = entry->unique,
    };
    entry->headers.payload_bytes = bytes;
    entry_submit(entry, URING_COMMIT, entry->unique);
}

/* Requests */

static void co_fn entry_co_run(void *opaque)
{
    UringEntry *entry = opaque;
    FuseQueue *queue = entry->uring->queue;

    export_request_begin(&queue->common);
    entry_answer(entry, fuse_call_co_serve(queue, entry->operation, &entry->call));
    if (entry->uring->stopped) {
        aio_context_flush(); /* with the last request the connection may be aborted */
    }
    export_request_end(&queue->common);
}

const FuseOperation *fuse_uring_parse(FuseCall *call, FuseExport *fe, const UringHeaders *headers,
                                      void *data, int *err)
{
    const FuseMessage message = {
        .in = (const void *)headers->in_out,
        .args = headers->op,
        .args_bytes = sizeof(headers->op),
        .payload = data,
        .payload_bytes = headers->payload_bytes,
    };

    if (message.payload_bytes > FUSE_INIT_MAX_IO) {
        *err = -EINVAL;
        return NULL;
    }
    return fuse_call_parse_parts(call, fe, &message, err);
}

/* The kernel has put a request into @entry. */
static void entry_begin(UringEntry *entry)
{
    UringHeaders *headers = &entry->headers;
    int err;

    entry->registered = true;
    entry->large |= headers->payload_bytes >= URING_LARGE;
    if (!headers->payload_bytes) {
        entry_data_unused(entry);
    }
    uring_note_use(entry->uring);
    entry->unique = ((const struct fuse_in_header *)headers->in_out)->unique;
    entry->operation =
        fuse_uring_parse(&entry->call, uring_export(entry->uring), headers, entry->data, &err);
    if (!entry->operation) {
        entry_answer(entry, err);
        return;
    }
    entry->state = URING_ENTRY_REQUEST;
    coroutine_enter(coroutine_create(entry_co_run, entry));
}

/* Without this entry the kernel may never switch over; it goes on with /dev/fuse then. */
static void uring_refused(FuseUring *uring, int err)
{
    FuseExport *fe = uring_export(uring);

    if (!__atomic_exchange_n(&fe->uring_refused, true, __ATOMIC_RELAXED)) {
        g_message("%s: the kernel refuses FUSE over io_uring: %s; using /dev/fuse", fe->common.user,
                  g_strerror(err));
    }
}

static void entry_failed(UringEntry *entry, int err)
{
    bool gone = err == ENOTCONN || err == ECONNABORTED || err == ECANCELED;

    entry->state = URING_ENTRY_DEAD;
    if (gone || entry->uring->ended) {
        return; /* what that means, the channel learns, too */
    }
    if (!entry->registered) {
        g_clear_pointer(&entry->uring->binding, aio_binding_free);
        uring_refused(entry->uring, err);
    } else {
        /* Perhaps with an answer that somebody waits for; there is no second way to give it. */
        g_warning("%s: lost an entry of ring queue %u: %s; cutting the connection off",
                  entry->uring->queue->common.exp->user, entry->cpu, g_strerror(err));
        fuse_connection_abort(&uring_export(entry->uring)->connection);
    }
}

/* A command is done. */
static void entry_returned(void *opaque, int result)
{
    UringEntry *entry = opaque;
    FuseUring *uring = entry->uring;

    uring->in_kernel--;
    if (result < 0) {
        entry_failed(entry, -result);
    } else if (uring->ended) {
        entry->state = URING_ENTRY_DEAD;
    } else if (uring->stopped) {
        entry->state = URING_ENTRY_PARKED;
    } else {
        entry_begin(entry);
    }
    if (uring->in_kernel == 0 && uring->waiter) {
        export_waiter_wake(uring->waiter);
    }
}

/* Life */

void fuse_uring_free(FuseUring *uring)
{
    if (!uring) {
        return;
    }
    g_assert(uring->in_kernel == 0);
    for (unsigned i = 0; i < uring->n_entries; i++) {
        aio_command_free(uring->entries[i].command);
    }
    munmap(uring->slots, uring_slots_bytes(uring));
    close(uring->fd);
    g_free(uring);
}

static void entry_init(FuseUring *uring, unsigned number, unsigned cpu)
{
    UringEntry *entry = &uring->entries[number];

    entry->uring = uring;
    entry->cpu = cpu;
    entry->command = aio_command_new(uring->fd, entry_returned, entry);
    entry->data = uring->slots + (size_t)number * URING_SLOT;
    entry->buffers[0] = (struct iovec){&entry->headers, sizeof(entry->headers)};
    entry->buffers[1] = (struct iovec){entry->data, FUSE_INIT_MAX_IO};
}

/* Entries for the CPUs that fall to this queue. */
static void uring_fill(FuseUring *uring, unsigned n_cpus)
{
    const ExportQueue *queue = &uring->queue->common;
    unsigned cpu = queue->index;

    /* In rounds, so that each CPU has one before any has two. */
    for (unsigned i = 0; i < uring->n_entries; i++) {
        entry_init(uring, i, cpu);
        cpu += queue->exp->n_queues;
        if (cpu >= n_cpus) {
            cpu = queue->index;
        }
    }
}

/* How many of @n_cpus CPUs fall to @queue. */
static unsigned queue_share(const ExportQueue *queue, unsigned n_cpus)
{
    unsigned step = queue->exp->n_queues;

    return queue->index < n_cpus ? (n_cpus - queue->index + step - 1) / step : 0;
}

/* Address space for @n slots, each at a multiple of its size. */
static char *slots_map(size_t bytes)
{
    char *area = aio_buffer_map(bytes + URING_SLOT);
    size_t before;

    if (!area) {
        return NULL;
    }
    before = -(uintptr_t)area % URING_SLOT;
    if (before) {
        munmap(area, before);
    }
    munmap(area + before + bytes, URING_SLOT - before);
    madvise(area + before, bytes, MADV_NOHUGEPAGE); /* as long as a slot is not to have one */
    return area + before;
}

FuseUring *fuse_uring_new(FuseQueue *queue, int fd, unsigned n_cpus, unsigned depth, GError **error)
{
    unsigned n = queue_share(&queue->common, n_cpus) * depth;
    g_autofree FuseUring *uring = g_malloc0(sizeof(*uring) + n * sizeof(uring->entries[0]));

    uring->queue = queue;
    uring->file = -1;
    uring->n_entries = n;
    uring->slots = slots_map(uring_slots_bytes(uring));
    if (!uring->slots) {
        wharf_set_error_errno(error, errno, "cannot reserve memory for requests");
        return NULL;
    }
    uring->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (uring->fd < 0) {
        wharf_set_error_errno(error, errno, "cannot duplicate the FUSE connection");
        munmap(uring->slots, uring_slots_bytes(uring));
        return NULL;
    }
    uring_fill(uring, n_cpus);
    return g_steal_pointer(&uring);
}

/* With a single queue there is nothing to choose: it serves all CPUs. */
static void uring_bind(FuseUring *uring)
{
    const ExportQueue *queue = &uring->queue->common;

    if (queue->exp->n_queues > 1 && uring->n_entries) {
        uring->binding = aio_binding_new(queue->index, queue->exp->n_queues);
    }
}

void fuse_uring_begin(FuseUring *uring)
{
    AioContext *ctx = uring->queue->common.ctx;

    /* Under GLib, where entries may be filled at any moment, their memory stays. */
    if (ctx != uring->queue->common.exp->main) {
        uring->trim_timer = aio_timer_new(ctx, uring_trim, uring);
    }
    uring_bind(uring);
    uring->file = aio_file_keep(uring->fd);
    for (unsigned i = 0; i < uring->n_entries; i++) {
        UringEntry *entry = &uring->entries[i];

        entry->kept = aio_buffer_new(entry->data, FUSE_INIT_MAX_IO);
        aio_command_use_file(entry->command, uring->file);
        entry_submit(entry, URING_REGISTER, 0);
    }
}

void fuse_uring_stop(FuseUring *uring, bool cut)
{
    if (!uring->stopped) {
        uring->stopped = true;
        g_clear_pointer(&uring->trim_timer, aio_timer_free);
        g_clear_pointer(&uring->binding, aio_binding_free);
        aio_context_flush(); /* answers of requests that have ended: nobody waits for those */
    }
    if (cut && !uring->ended) {
        uring->ended = true;
        fuse_connection_abort(&uring_export(uring)->connection);
    }
}

void co_fn fuse_uring_co_wait_returned(FuseUring *uring)
{
    AioContext *home = aio_context_current();

    aio_co_reschedule_self(uring->queue->common.ctx);
    fuse_uring_stop(uring, true);
    while (uring->in_kernel) {
        ExportWaiter waiter = {0};

        uring->waiter = &waiter;
        export_waiter_co_wait(&waiter, INT64_MAX);
        uring->waiter = NULL;
    }
    aio_file_forget(uring->file);
    uring->file = -1;
    for (unsigned i = 0; i < uring->n_entries; i++) {
        g_clear_pointer(&uring->entries[i].kept, aio_buffer_free);
    }
    aio_co_reschedule_self(home);
}

/* Whether it can be had */

/* How many CPUs a list such as "0-3,8" goes up to, which begins with the first; 0 if malformed. */
unsigned fuse_uring_parse_cpus(const char *text)
{
    const char *last = text + strcspn(text, "\n");
    guint64 value;
    g_autofree char *number = NULL;

    while (last > text && g_ascii_isdigit(last[-1])) {
        last--;
    }
    number = g_strndup(last, strcspn(last, "\n"));
    if (!g_ascii_string_to_unsigned(number, 10, 0, FUSE_URING_MAX_CPUS - 1, &value, NULL)) {
        return 0;
    }
    return value + 1;
}

unsigned fuse_uring_count_cpus(void)
{
    g_autofree char *text = NULL;

    if (!g_file_get_contents("/sys/devices/system/cpu/possible", &text, NULL, NULL)) {
        return 0;
    }
    return fuse_uring_parse_cpus(text);
}
