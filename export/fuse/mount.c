/* SPDX-License-Identifier: GPL-2.0-or-later */
#define FUSE_USE_VERSION 31

#include "export/fuse/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "export/fuse/helper.h"
#include "export/fuse/mountinfo.h"
#include "util/error.h"

/* What libfuse has to say while this thread mounts; a GString in its frame. */
static GPrivate mount_log;

G_GNUC_PRINTF(2, 0)
static void mount_log_append(enum fuse_log_level level, const char *format, va_list ap)
{
    GString *text = g_private_get(&mount_log);
    g_autofree char *line = g_strchomp(g_strdup_vprintf(format, ap));

    if (text) {
        g_string_append_printf(text, "%s%s", text->len ? "; " : "", line);
    } else {
        g_message("libfuse: %s", line);
    }
}

static gpointer mount_log_install(gpointer unused)
{
    fuse_set_log_func(mount_log_append);
    return NULL;
}

static char *mount_options(const FuseMount *mount)
{
    return g_strdup_printf("%s,nosuid,nodev,noatime,default_permissions,max_read=%d%s",
                           mount->read_only ? "ro" : "rw", FUSE_MOUNT_MAX_READ,
                           mount->allow_other ? ",allow_other" : "");
}

/*
 * Have libfuse let go of what it has mounted, without unmounting it. It knows no such thing, but it
 * leaves a mount alone whose connection has ended: so its descriptor becomes one with an error, the
 * end of a pipe that nobody reads.
 */
static void session_disown(struct fuse_session *session)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0) {
        return; /* a few bytes leak */
    }
    close(ends[0]);
    if (dup3(ends[1], fuse_session_fd(session), O_CLOEXEC) >= 0) {
        fuse_session_unmount(session);
    }
    close(ends[1]);
}

/*
 * Mount by libfuse, for those who may. The session serves to mount only; its descriptor is taken
 * over and nothing else of it is used.
 */
static int mount_by_library(const char *path, char *options, GError **error)
{
    static GOnce once = G_ONCE_INIT;
    const struct fuse_lowlevel_ops none = {0};
    char *argv[] = {"wharf", "-o", options, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, argv);
    g_autoptr(GString) said = g_string_new(NULL);
    struct fuse_session *session;
    int fd = -1;

    g_once(&once, mount_log_install, NULL);
    g_private_set(&mount_log, said);
    session = fuse_session_new(&args, &none, sizeof(none), NULL);
    if (session) {
        if (fuse_session_mount(session, path) == 0) {
            fd = fcntl(fuse_session_fd(session), F_DUPFD_CLOEXEC, 3);
            if (fd >= 0) {
                session_disown(session);
            } else {
                fuse_session_unmount(session);
            }
        }
        fuse_session_destroy(session);
    }
    fuse_opt_free_args(&args);
    g_private_set(&mount_log, NULL);
    if (fd < 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "cannot mount '%s': %s", path,
                    said->len ? said->str : "libfuse has failed without a word");
    }
    return fd;
}

static bool mount_once(FuseMount *mount, GError **error)
{
    g_autofree char *options = mount_options(mount);

    mount->fd = geteuid() == 0 ? mount_by_library(mount->path, options, error)
                               : fuse_helper_mount(mount->path, options, error);
    return mount->fd >= 0;
}

static bool mount_with(FuseMount *mount, bool writable, bool allow_other, GError **error)
{
    mount->allow_other = allow_other;
    mount->read_only = !writable && !allow_other;
    return mount_once(mount, error);
}

static bool mount_as_asked(FuseMount *mount, bool writable, FuseExportAllowOther allow_other,
                           GError **error)
{
    switch (allow_other) {
    case FUSE_EXPORT_ALLOW_OTHER_ON:
        return mount_with(mount, writable, true, error);
    case FUSE_EXPORT_ALLOW_OTHER_OFF:
        return mount_with(mount, writable, false, error);
    default:
        return mount_with(mount, writable, true, NULL) || mount_with(mount, writable, false, error);
    }
}

bool fuse_mount(const char *path, bool writable, FuseExportAllowOther allow_other, FuseMount *mount,
                GError **error)
{
    FuseMountId before;
    int ret;

    *mount = (FuseMount){.path = g_strdup(path), .fd = -1, .tree_fd = -1};
    ret = fuse_mountpoint_identify(path, &before);
    if (ret < 0) {
        wharf_set_error_errno(error, -ret, "cannot stat mountpoint '%s'", path);
        fuse_mount_clear(mount);
        return false;
    }
    if (!mount_as_asked(mount, writable, allow_other, error)) {
        fuse_mount_clear(mount);
        return false;
    }
    ret = fuse_mountpoint_identify(path, &mount->id);
    if (ret < 0 || fuse_mount_id_equal(&before, &mount->id)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO,
                    "cannot mount '%s': somebody else has changed the path meanwhile", path);
        fuse_mount_clear(mount);
        return false;
    }
    fcntl(mount->fd, F_SETFL, fcntl(mount->fd, F_GETFL) | O_NONBLOCK);
    return true;
}

bool fuse_mount_set_read_ahead(const FuseMountId *id, uint64_t bytes, GError **error)
{
    g_autofree char *path =
        g_strdup_printf("/sys/class/bdi/%u:%u/read_ahead_kb", id->dev_major, id->dev_minor);
    g_autofree char *text = g_strdup_printf("%" G_GUINT64_FORMAT "\n", bytes / 1024);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool done;

    if (fd < 0) {
        wharf_set_error_errno(error, errno, "cannot open '%s'", path);
        return false;
    }
    done = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (!done) {
        wharf_set_error_errno(error, errno, "cannot write to '%s'", path);
    }
    close(fd);
    return done;
}

void fuse_mount_clear(FuseMount *mount)
{
    if (mount->fd >= 0) {
        close(mount->fd);
        mount->fd = -1;
    }
    if (mount->tree_fd >= 0) {
        close(mount->tree_fd);
        mount->tree_fd = -1;
    }
    g_clear_pointer(&mount->path, g_free);
}

static bool detach(const char *path, GError **error)
{
    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
        return true;
    }
    if (errno == EPERM && geteuid() != 0) {
        return fuse_helper_unmount(path, error);
    }
    wharf_set_error_errno(error, errno, "cannot unmount '%s'", path);
    return false;
}

/* Whether @id is the topmost mount at @path. */
static bool is_on_top(const char *path, const FuseMountId *id)
{
    FuseMountId there;

    return fuse_mountpoint_identify(path, &there) == 0 && fuse_mount_id_equal(&there, id);
}

char *fuse_mount_find(const char *path, const FuseMountId *id)
{
    g_autoptr(MountInfo) info = NULL;

    if (is_on_top(path, id)) {
        return g_strdup(path);
    }
    info = mountinfo_find_id(id->mount, id->dev_major, id->dev_minor);
    return info && id->unique && is_on_top(info->mountpoint, id) ? g_strdup(info->mountpoint)
                                                                 : NULL;
}

static FuseUnmountResult covered(const char *path, GError **error)
{
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                "something else is mounted over '%s'; unmount that, then this one, which is dead "
                "(umount '%s' twice)",
                path, path);
    return FUSE_UNMOUNT_COVERED;
}

FuseUnmountResult fuse_unmount(const char *path, const FuseMountId *id, GError **error)
{
    g_autoptr(MountInfo) info = NULL;

    if (is_on_top(path, id)) {
        return detach(path, error) ? FUSE_UNMOUNT_DONE : FUSE_UNMOUNT_FAILED;
    }
    /* Gone, covered, or moved together with a directory above. */
    info = mountinfo_find_id(id->mount, id->dev_major, id->dev_minor);
    if (!info || !(id->unique || g_str_equal(info->mountpoint, path))) {
        return FUSE_UNMOUNT_GONE; /* or somebody else's, who has got our numbers */
    }
    if (is_on_top(info->mountpoint, id)) {
        return detach(info->mountpoint, error) ? FUSE_UNMOUNT_DONE : FUSE_UNMOUNT_FAILED;
    }
    return covered(info->mountpoint, error);
}

int fuse_unmount_unused(const char *path, const FuseMountId *id)
{
    if (is_on_top(path, id) && umount2(path, UMOUNT_NOFOLLOW) < 0 && errno == EBUSY) {
        return -EBUSY;
    }
    return 0;
}

void fuse_unmount_in_child(const char *path, const FuseMountId *id)
{
    if (is_on_top(path, id) && umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno == EPERM) {
        fuse_helper_unmount_in_child(path);
    }
}

FuseUnmountResult fuse_unmount_dead(const char *path, const FuseMountId *id, GError **error)
{
    if (!is_on_top(path, id)) {
        g_autoptr(MountInfo) info = mountinfo_find_id(id->mount, id->dev_major, id->dev_minor);

        return info && g_str_equal(info->mountpoint, path) ? covered(path, error)
                                                           : FUSE_UNMOUNT_GONE;
    }
    if (fuse_mountpoint_inspect(path, NULL) != FUSE_PLACE_STALE) {
        return FUSE_UNMOUNT_GONE;
    }
    return detach(path, error) ? FUSE_UNMOUNT_DONE : FUSE_UNMOUNT_FAILED;
}

bool fuse_unmount_stale(const char *path, GError **error)
{
    return detach(path, error);
}
