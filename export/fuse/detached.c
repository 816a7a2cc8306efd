/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A mount whose root is a directory with the file in it, made by the kernel's mount interface of
 * file descriptors. Only the file is attached, at the mountpoint, so nobody gets to see the
 * directory.
 *
 * That is for the write-back cache. The kernel makes the inode of a root before it has agreed with
 * us on anything, and under that cache never asks for the size and times of a regular file again: a
 * file as root would be empty, and its times would stand still. The inode of a file in a directory
 * comes with all of them, by the answer to LOOKUP.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "export/fuse/mount.h"
#include "util/error.h"

#define DETACHED_SOURCE "/dev/fuse"
#define DETACHED_TYPE   "fuse"

/* Where a child keeps the root of the mount; all later descriptors are closed. */
#define CHILD_TREE_FD 3

/* In what a child exits with: it is the errno of what the child was for. */
#define CHILD_HAS_FAILED 0x80

/* A child that nothing holds up in the kernel any more does not stay for longer. */
#define CHILD_MAX_S 60

static int set_string(int context, const char *key, const char *value)
{
    return fsconfig(context, FSCONFIG_SET_STRING, key, value, 0);
}

static int set_number(int context, const char *key, unsigned value)
{
    g_autofree char *text = g_strdup_printf("%u", value);

    return set_string(context, key, text);
}

static int set_flag(int context, const char *key)
{
    return fsconfig(context, FSCONFIG_SET_FLAG, key, NULL, 0);
}

/* Give @context everything that a FUSE file system over @fd needs. 0, or -1 with errno. */
static int configure(int context, int fd, bool allow_other)
{
    g_autofree char *mode = g_strdup_printf("%o", S_IFDIR);

    if (set_string(context, "source", DETACHED_SOURCE) < 0 || set_number(context, "fd", fd) < 0 ||
        set_string(context, "rootmode", mode) < 0 ||
        set_number(context, "user_id", geteuid()) < 0 ||
        set_number(context, "group_id", getegid()) < 0 ||
        set_number(context, "max_read", FUSE_MOUNT_MAX_READ) < 0 ||
        set_flag(context, "default_permissions") < 0) {
        return -1;
    }
    if (allow_other && set_flag(context, "allow_other") < 0) {
        return -1;
    }
    return fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
}

/* The root of a new mount over @fd that is nowhere attached, or -1 with errno. */
static int make_tree(int fd, bool allow_other)
{
    int context = fsopen(DETACHED_TYPE, FSOPEN_CLOEXEC);
    int tree = -1;
    int err;

    if (context < 0) {
        return -1;
    }
    if (configure(context, fd, allow_other) == 0) {
        tree = fsmount(context, FSMOUNT_CLOEXEC,
                       MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOATIME);
    }
    err = errno;
    close(context);
    errno = err;
    return tree;
}

/* Whether the kernel lets a part of a mount that is nowhere attached be attached: Linux 6.15. */
static bool can_be_cloned(int tree)
{
    int clone = open_tree(tree, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);

    if (clone < 0) {
        return false;
    }
    close(clone);
    return true;
}

static int identify_tree(int tree, FuseMountId *id)
{
    struct statx st;

    if (statx(tree, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0) {
        return -1;
    }
    *id = (FuseMountId){.dev_major = st.stx_dev_major, .dev_minor = st.stx_dev_minor};
    return 0;
}

bool fuse_mount_detached(FuseExportAllowOther allow_other, FuseMount *mount, GError **error)
{
    /* Nobody else to ask: whoever may mount at all may let others in. */
    *mount = (FuseMount){
        .fd = open(DETACHED_SOURCE, O_RDWR | O_CLOEXEC | O_NONBLOCK),
        .tree_fd = -1,
        .allow_other = allow_other != FUSE_EXPORT_ALLOW_OTHER_OFF,
    };
    if (mount->fd < 0) {
        wharf_set_error_errno(error, errno, "cannot open '%s'", DETACHED_SOURCE);
        return false;
    }
    mount->tree_fd = make_tree(mount->fd, mount->allow_other);
    if (mount->tree_fd < 0 || !can_be_cloned(mount->tree_fd) ||
        identify_tree(mount->tree_fd, &mount->id) < 0) {
        wharf_set_error_errno(error, errno,
                              "cannot mount a directory that is nowhere attached (it needs root "
                              "and Linux 6.15 or later)");
        fuse_mount_clear(mount);
        return false;
    }
    mount->in_directory = true;
    return true;
}

/* Children: what a thread of ours would wait for is answered by ourselves, and if we are killed
 * then, nobody does, nor can the thread end. A child with none of our descriptors does not keep the
 * connection alive, so the end of it ends the child's wait, too. */

/* Let @signo end this process, whatever the thread had blocked that it was forked from. */
static void child_heed(int signo)
{
    sigset_t set;

    signal(signo, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, signo);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/* In a forked child: system calls only. */
static void child_close_all_from(int first)
{
    child_heed(SIGTERM);
    child_heed(SIGALRM);
    alarm(CHILD_MAX_S);
    if (close_range(first, ~0U, 0) < 0) {
        _exit(EXIT_FAILURE);
    }
}

/* Errno of what a child has exited with; 0: it has succeeded. */
static int child_wait(pid_t pid)
{
    int status;

    if (pid < 0) {
        return errno;
    }
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return errno;
        }
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

static void attach_in_child(int tree, const char *path) G_GNUC_NORETURN;

static void attach_in_child(int tree, const char *path)
{
    int file;

    if (tree != CHILD_TREE_FD && dup2(tree, CHILD_TREE_FD) < 0) {
        _exit(errno);
    }
    child_close_all_from(CHILD_TREE_FD + 1);
    file = open_tree(CHILD_TREE_FD, FUSE_MOUNT_FILE_NAME, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (file < 0 || move_mount(file, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0) {
        _exit(errno);
    }
    _exit(EXIT_SUCCESS);
}

bool fuse_mount_attach(FuseMount *mount, const char *path, GError **error)
{
    FuseMountId before, after;
    int err = -fuse_mountpoint_identify(path, &before);
    pid_t pid;

    if (err) {
        wharf_set_error_errno(error, err, "cannot stat mountpoint '%s'", path);
        return false;
    }
    pid = fork();
    if (pid == 0) {
        attach_in_child(mount->tree_fd, path);
    }
    err = child_wait(pid);
    if (err) {
        wharf_set_error_errno(error, err, "cannot mount '%s'", path);
        return false;
    }
    if (fuse_mountpoint_identify(path, &after) < 0 || after.dev_major != mount->id.dev_major ||
        after.dev_minor != mount->id.dev_minor) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO,
                    "cannot mount '%s': somebody else has changed the path meanwhile", path);
        return false;
    }
    mount->id = after;
    mount->path = g_strdup(path);
    /* What is attached keeps the file system from now on. */
    close(mount->tree_fd);
    mount->tree_fd = -1;
    return true;
}

static void sync_in_child(const char *path, const FuseMountId *id) G_GNUC_NORETURN;

static void sync_in_child(const char *path, const FuseMountId *id)
{
    struct statx st;
    int fd;

    child_close_all_from(STDERR_FILENO + 1);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0) {
        _exit(errno);
    }
    if (st.stx_dev_major != id->dev_major || st.stx_dev_minor != id->dev_minor) {
        _exit(ESTALE); /* another mount on top of it */
    }
    /* From here on nothing but the connection holds it up, and it may take its time. */
    alarm(0);
    _exit(fsync(fd) < 0 ? errno | CHILD_HAS_FAILED : EXIT_SUCCESS);
}

FuseSyncResult fuse_mount_sync(const char *path, const FuseMountId *id, GError **error)
{
    g_autofree char *place = fuse_mount_find(path, id);
    pid_t pid;
    int err;

    if (!place) {
        return FUSE_SYNC_NOT_FOUND;
    }
    pid = fork();
    if (pid == 0) {
        sync_in_child(place, id);
    }
    err = child_wait(pid);
    if (err == 0) {
        return FUSE_SYNC_DONE;
    }
    wharf_set_error_errno(error, err & ~CHILD_HAS_FAILED,
                          "cannot write back what the kernel keeps of '%s'", place);
    return err & CHILD_HAS_FAILED ? FUSE_SYNC_FAILED : FUSE_SYNC_NOT_DONE;
}
