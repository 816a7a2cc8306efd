/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Operations on what stat shows: lookup, getattr, setattr, statfs; and on open files. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "export/fuse/fuse-internal.h"

#define ATTRIBUTES_INO       1
#define ATTRIBUTES_DIRECTORY 2
#define ATTRIBUTES_VALID_S   1     /* how long the kernel may keep them */
#define ATTRIBUTES_BLOCK     4096  /* f_bsize */
#define ATTRIBUTES_IO        65536 /* st_blksize, unless the node prefers more */
#define ATTRIBUTES_NAME_MAX  255

/* How often reads may ask after a write before the pages are given up: so often, and once more for
 * so many bytes that would have to be read again. See fuse_told_of_change(). */
#define CACHE_ASKED_MIN       64
#define CACHE_ASKED_PER_BYTES 65536

#define NS_PER_S G_GINT64_CONSTANT(1000000000)

#define DIV_ROUND_UP(n, d) (((n) + (d)-1) / (d))

/* Every mode bit that is not the owner's to read, write and execute. */
#define MODE_FOR_OTHERS (07777 & ~0700)

#define load(member)         __atomic_load_n(&(member), __ATOMIC_RELAXED)
#define store(member, value) __atomic_store_n(&(member), (value), __ATOMIC_RELAXED)

static int64_t now_realtime(void)
{
    struct timespec ts;

    /* Not the coarse clock: a change soon after another one shows, too. */
    clock_gettime(CLOCK_REALTIME, &ts);
    return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

void fuse_touch(FuseExport *fe)
{
    int64_t now = now_realtime();

    store(fe->attributes.mtime, now);
    store(fe->attributes.ctime, now);
    if (fe->cache == FUSE_EXPORT_CACHE_PAGE) {
        store(fe->cache_asked, 0);
    }
}

void fuse_drop_privileges(FuseExport *fe, uint32_t uid)
{
    uint32_t mode = load(fe->attributes.mode);
    /* Without the group's right to execute it, this one means something else. */
    uint32_t drop = S_ISUID | (mode & S_IXGRP ? S_ISGID : 0);

    if (G_UNLIKELY(mode & drop) && uid != 0) {
        __atomic_and_fetch(&fe->attributes.mode, ~drop, __ATOMIC_RELAXED);
    }
}

void fuse_touch_at(FuseExport *fe, int64_t mtime)
{
    store(fe->attributes.mtime, mtime);
    store(fe->attributes.ctime, MAX(load(fe->attributes.ctime), mtime));
}

void fuse_told_of_change(FuseExport *fe)
{
    fuse_touch(fe);
    store(fe->cache_filled, 0);
    /* After mtime: whoever sees this one must not find an older mtime. */
    __atomic_store_n(&fe->cache_mtime, load(fe->attributes.mtime), __ATOMIC_SEQ_CST);
}

void fuse_attributes_init(FuseExport *fe)
{
    int64_t now = now_realtime();

    fe->cache_mtime = now;
    fe->attributes = (FuseAttributes){
        .mode = fe->common.writable ? 0600 : 0400,
        .uid = geteuid(),
        .gid = getegid(),
        .atime = now,
        .mtime = now,
        .ctime = now,
    };
}

static uint32_t preferred_block(FuseExport *fe)
{
    BlockLimits limits;

    blk_limits(fuse_blk(fe), &limits);
    /* What cmp and others read at once; without a cache each such read is a request. */
    return MAX(limits.preferred_io, ATTRIBUTES_IO);
}

/* Bytes taken up in the node's storage; the whole length where nobody knows. */
static uint64_t co_fn fuse_co_allocated(FuseExport *fe, uint64_t length)
{
    int64_t allocated = blk_co_allocated_size(fuse_blk(fe));

    return allocated < 0 ? length : (uint64_t)allocated;
}

/* Split before the epoch, too: nanoseconds are never negative. */
static void split_time(int64_t ns, uint64_t *seconds, uint32_t *nanoseconds)
{
    int64_t rest = ns % NS_PER_S;

    if (rest < 0) {
        rest += NS_PER_S;
    }
    *seconds = (uint64_t)((ns - rest) / NS_PER_S);
    *nanoseconds = rest;
}

/* Not at all where they change without our knowledge. */
static unsigned attributes_valid_s(const FuseExport *fe)
{
    return fe->passthrough.unseen_writes ? 0 : ATTRIBUTES_VALID_S;
}

static void co_fn fuse_co_fill_attributes(FuseExport *fe, int64_t mtime, struct fuse_attr *attr)
{
    FuseAttributes *a = &fe->attributes;
    uint64_t length = blk_length(fuse_blk(fe));

    fuse_end_tell(fe, length);
    *attr = (struct fuse_attr){
        .ino = ATTRIBUTES_INO,
        .size = length,
        .blocks = DIV_ROUND_UP(fuse_co_allocated(fe, length), 512),
        .mode = S_IFREG | load(a->mode),
        .nlink = 1,
        .uid = load(a->uid),
        .gid = load(a->gid),
        .blksize = preferred_block(fe),
    };

    split_time(load(a->atime), &attr->atime, &attr->atimensec);
    split_time(mtime, &attr->mtime, &attr->mtimensec);
    split_time(load(a->ctime), &attr->ctime, &attr->ctimensec);
}

/* Answer with the attributes, which the kernel may keep for @valid_s seconds. */
static void co_fn fuse_co_answer_attributes(FuseCall *call, int64_t mtime, unsigned valid_s)
{
    call->out.attr = (struct fuse_attr_out){.attr_valid = load(call->fe->opened) ? valid_s : 0};
    fuse_co_fill_attributes(call->fe, mtime, &call->out.attr.attr);
    call->out_bytes = sizeof(call->out.attr);
}

/* The directory that the file lies in. Only whoever attaches the file gets to see it. */
static int answer_directory(FuseCall *call)
{
    call->out.attr = (struct fuse_attr_out){
        .attr_valid = ATTRIBUTES_VALID_S,
        .attr = {.ino = ATTRIBUTES_DIRECTORY,
                 .mode = S_IFDIR | 0500,
                 .nlink = 2,
                 .uid = geteuid(),
                 .gid = getegid(),
                 .blksize = ATTRIBUTES_BLOCK},
    };
    call->out_bytes = sizeof(call->out.attr);
    return 0;
}

static bool is_file_name(const FuseCall *call)
{
    return call->payload_bytes == sizeof(FUSE_MOUNT_FILE_NAME) &&
           memcmp(call->payload, FUSE_MOUNT_FILE_NAME, sizeof(FUSE_MOUNT_FILE_NAME)) == 0;
}

int fuse_co_lookup(FuseCall *call)
{
    FuseExport *fe = call->fe;

    if (!fe->mount.in_directory) {
        return -ENOSYS;
    }
    if (call->in->nodeid != FUSE_ROOT_ID || !is_file_name(call)) {
        return -ENOENT;
    }
    call->out.entry = (struct fuse_entry_out){
        .nodeid = fuse_node_id(fe),
        .entry_valid = ATTRIBUTES_VALID_S,
        .attr_valid = ATTRIBUTES_VALID_S,
    };
    fuse_co_fill_attributes(fe, load(fe->attributes.mtime), &call->out.entry.attr);
    call->out_bytes = sizeof(call->out.entry);
    return 0;
}

/* Let reads know the real mtime, too, unless others have changed the node since @told was seen. */
static bool tell_cache(FuseExport *fe, int64_t told, int64_t mtime)
{
    store(fe->cache_filled, 0);
    return __atomic_compare_exchange_n(&fe->cache_mtime, &told, mtime, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
}

/* Whether asking has become dearer to reads than reading all again. */
static bool asks_too_often(FuseExport *fe)
{
    return __atomic_add_fetch(&fe->cache_asked, 1, __ATOMIC_RELAXED) >
           CACHE_ASKED_MIN + load(fe->cache_filled) / CACHE_ASKED_PER_BYTES;
}

/* With the page cache, for a read. */
static void co_fn fuse_co_getattr_for_read(FuseCall *call, int64_t told, int64_t mtime)
{
    FuseExport *fe = call->fe;

    if (told != mtime && asks_too_often(fe) && tell_cache(fe, told, mtime)) {
        told = mtime;
    }
    store(fe->cache_heard, told);
    fuse_co_answer_attributes(call, told, told == mtime ? ATTRIBUTES_VALID_S : 0);
}

/* With the page cache, for stat. */
static void co_fn fuse_co_getattr_for_stat(FuseCall *call, int64_t told, int64_t mtime)
{
    FuseExport *fe = call->fe;

    if (told != mtime && load(fe->cache_heard) == told) {
        fuse_channel_void_attributes(call->queue);
        fuse_co_answer_attributes(call, mtime, 0);
        return;
    }
    if (tell_cache(fe, told, mtime)) {
        store(fe->cache_heard, mtime);
    }
    fuse_co_answer_attributes(call, mtime, ATTRIBUTES_VALID_S);
}

int fuse_co_getattr(FuseCall *call)
{
    const struct fuse_getattr_in *in = call->args;
    FuseExport *fe = call->fe;
    int64_t told = __atomic_load_n(&fe->cache_mtime, __ATOMIC_SEQ_CST);
    int64_t mtime = __atomic_load_n(&fe->attributes.mtime, __ATOMIC_SEQ_CST);

    if (fe->mount.in_directory && call->in->nodeid == FUSE_ROOT_ID) {
        return answer_directory(call);
    }
    if (fe->cache != FUSE_EXPORT_CACHE_PAGE) {
        fuse_co_answer_attributes(call, mtime, attributes_valid_s(fe));
    } else if (in->getattr_flags & FUSE_GETATTR_FH) { /* never set for stat or fstat */
        fuse_co_getattr_for_read(call, told, mtime);
    } else {
        fuse_co_getattr_for_stat(call, told, mtime);
    }
    return 0;
}

/* Whether the mode may be set so. That the caller owns the file is checked by the kernel. */
static int check_mode(const FuseExport *fe, uint32_t mode)
{
    if (!fe->common.writable && (mode & 0222)) {
        return -EROFS;
    }
    /* Where nobody else can come in, bits for others would promise what does not hold. */
    if (!fe->mount.allow_other && (mode & MODE_FOR_OTHERS)) {
        return -EPERM;
    }
    /* The kernel leaves it to us to take these away when the file is written. */
    if ((fe->agreed.flags & FUSE_HANDLE_KILLPRIV_V2) && (mode & (S_ISUID | S_ISGID))) {
        return -EPERM;
    }
    return 0;
}

/* Check everything before anything is changed. */
static int check_setattr(const FuseExport *fe, const struct fuse_setattr_in *in)
{
    const uint32_t times = FATTR_ATIME | FATTR_MTIME | FATTR_CTIME;

    if (!fe->common.writable && (in->valid & (FATTR_SIZE | times))) {
        return -EROFS;
    }
    if (!fe->mount.allow_other && (in->valid & (FATTR_UID | FATTR_GID))) {
        return -EOPNOTSUPP;
    }
    return in->valid & FATTR_MODE ? check_mode(fe, in->mode) : 0;
}

static int64_t join_time(uint64_t seconds, uint32_t nanoseconds)
{
    int64_t s = CLAMP((int64_t)seconds, G_MININT64 / NS_PER_S + 1, G_MAXINT64 / NS_PER_S - 1);

    return s * NS_PER_S + MIN(nanoseconds, NS_PER_S - 1);
}

static void apply_setattr(FuseExport *fe, const struct fuse_setattr_in *in)
{
    FuseAttributes *a = &fe->attributes;
    int64_t now = now_realtime();

    if (in->valid & FATTR_MODE) {
        store(a->mode, in->mode & 07777);
    }
    if (in->valid & FATTR_UID) {
        store(a->uid, in->uid);
    }
    if (in->valid & FATTR_GID) {
        store(a->gid, in->gid);
    }
    if (in->valid & FATTR_ATIME) {
        store(a->atime, in->valid & FATTR_ATIME_NOW ? now : join_time(in->atime, in->atimensec));
    }
    if (in->valid & FATTR_MTIME) {
        store(a->mtime, in->valid & FATTR_MTIME_NOW ? now : join_time(in->mtime, in->mtimensec));
    }
    store(a->ctime, in->valid & FATTR_CTIME ? join_time(in->ctime, in->ctimensec) : now);
}

int fuse_co_setattr(FuseCall *call)
{
    const struct fuse_setattr_in *in = call->args;
    FuseExport *fe = call->fe;
    int ret = check_setattr(fe, in);

    if (ret < 0) {
        return ret;
    }
    if (in->valid & FATTR_SIZE) {
        ret = fuse_co_truncate(fe, in->size);
        if (ret < 0) {
            return ret;
        }
    }
    apply_setattr(fe, in);
    if (fe->cache == FUSE_EXPORT_CACHE_PAGE) {
        /*
         * From here the kernel takes mtime without looking at its pages. They may be out of date
         * already, so it gets one that is wrong by a nanosecond: it asks again, and drops them.
         */
        fuse_co_answer_attributes(call, load(fe->attributes.mtime) ^ 1, 0);
    } else {
        fuse_co_answer_attributes(call, load(fe->attributes.mtime), attributes_valid_s(fe));
    }
    return 0;
}

/*
 * O_TRUNC empties a growable export; elsewhere it is ignored, so that cp and the shell's ">" write
 * over what is there. So it is where the node cannot change its length.
 */
static int co_fn fuse_co_open_truncate(FuseExport *fe)
{
    int ret;

    if (!fe->growable) {
        return 0;
    }
    ret = fuse_co_truncate(fe, 0);
    /* With the write-back cache the kernel takes the file for empty if the open succeeds. */
    return ret == -ENOTSUP && fe->cache != FUSE_EXPORT_CACHE_WRITEBACK ? 0 : ret;
}

/*
 * Whether a thread of this process opens the file, for an image that lies on the export. Process
 * ids mean the same to both sides unless the mount was made in another namespace of them.
 */
static bool is_opened_by_us(const FuseCall *call)
{
    return call->in->pid && tgkill(getpid(), (pid_t)call->in->pid, 0) == 0;
}

/*
 * A FLUSH at each close is for those who have written. Ours flush by themselves before they close,
 * and one that is killed must not wait in the kernel for its own answer.
 */
static uint32_t open_flush_flag(const FuseCall *call, bool write)
{
    return write && !is_opened_by_us(call) ? 0 : FOPEN_NOFLUSH;
}

static uint32_t open_cache_flags(const FuseExport *fe, bool write)
{
    if (fe->cache != FUSE_EXPORT_CACHE_DIRECT) {
        return FOPEN_KEEP_CACHE;
    }
    return FOPEN_DIRECT_IO | (write ? FOPEN_PARALLEL_DIRECT_WRITES : 0);
}

static int open_answer(FuseCall *call, bool write)
{
    uint32_t flush = open_flush_flag(call, write);

    call->out_bytes = sizeof(call->out.open);
    if (call->fe->passthrough.active) {
        return fuse_passthrough_open(call, flush);
    }
    call->out.open = (struct fuse_open_out){
        .open_flags = open_cache_flags(call->fe, write) | flush,
    };
    return 0;
}

/* Whoever opened it may have been told of a failure meanwhile; never below zero. */
static void count_down(unsigned *counter)
{
    if (load(*counter)) {
        __atomic_sub_fetch(counter, 1, __ATOMIC_RELAXED);
    }
}

static void writer_opened(FuseExport *fe)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&fe->writers_lock);

    __atomic_add_fetch(&fe->open_writers, 1, __ATOMIC_RELAXED);
}

/* With the last of them go all mappings that could have been written to. */
static void writer_closed(FuseExport *fe)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&fe->writers_lock);

    count_down(&fe->open_writers);
    if (!load(fe->open_writers)) {
        store(fe->mapped, false);
    }
}

int fuse_co_open(FuseCall *call)
{
    const struct fuse_open_in *in = call->args;
    FuseExport *fe = call->fe;
    bool write = (in->flags & O_ACCMODE) != O_RDONLY;
    int ret;

    store(fe->opened, true);
    if (!fe->common.writable && (write || (in->flags & O_TRUNC))) {
        return -EROFS;
    }
    if (in->flags & O_TRUNC) {
        ret = fuse_co_open_truncate(fe);
        if (ret < 0) {
            return ret;
        }
    }
    if (fe->cache == FUSE_EXPORT_CACHE_PAGE) {
        /* Whoever opens it sees what others had written before, even a moment ago. */
        blk_co_settle_changes(fuse_blk(fe));
    }
    ret = open_answer(call, write);
    if (ret < 0) {
        return ret;
    }
    __atomic_add_fetch(&fe->open_files, 1, __ATOMIC_RELAXED);
    if (write) {
        writer_opened(fe);
    }
    return 0;
}

int fuse_co_release(FuseCall *call)
{
    const struct fuse_release_in *in = call->args;
    FuseExport *fe = call->fe;

    if (fe->passthrough.active) {
        fuse_passthrough_release(call);
    }
    count_down(&fe->open_files);
    if ((in->flags & O_ACCMODE) != O_RDONLY) {
        writer_closed(fe);
    }
    return 0;
}

int fuse_co_statfs(FuseCall *call)
{
    uint64_t length = blk_length(fuse_blk(call->fe));
    uint64_t blocks = DIV_ROUND_UP(length, ATTRIBUTES_BLOCK);
    uint64_t used = DIV_ROUND_UP(fuse_co_allocated(call->fe, length), ATTRIBUTES_BLOCK);

    call->out.statfs.st = (struct fuse_kstatfs){
        .blocks = blocks,
        .bfree = blocks - MIN(used, blocks),
        .bavail = blocks - MIN(used, blocks),
        .files = 1,
        .bsize = ATTRIBUTES_BLOCK,
        .frsize = ATTRIBUTES_BLOCK,
        .namelen = ATTRIBUTES_NAME_MAX,
    };
    call->out_bytes = sizeof(call->out.statfs);
    return 0;
}
