/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "export/fuse/records.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "export/fuse/mount.h"

#define LOCK_NAME        "lock"
#define DIRECTORY_PREFIX "fuse-" /* of what a daemon keeps for itself in the base directory */

struct FuseRecords {
    char *directory; /* this daemon's; NULL: none are kept */
    int lock_fd;
};

char *fuse_records_default_base(void)
{
    const char *runtime = g_getenv("XDG_RUNTIME_DIR");

    if (runtime && g_path_is_absolute(runtime)) {
        return g_build_filename(runtime, "wharf", NULL);
    }
    return geteuid() == 0 ? g_strdup("/run/wharf") : NULL;
}

/* Take the lock of @directory. The descriptor, or -1 if a living daemon has it or it is gone. */
static int lock_directory(const char *directory, int flags)
{
    g_autofree char *path = g_build_filename(directory, LOCK_NAME, NULL);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
    struct stat st;

    if (fd < 0) {
        return -1;
    }
    /* Whoever had it before may have removed the file while we opened it. */
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &st) < 0 || st.st_nlink == 0) {
        close(fd);
        return -1;
    }
    return fd;
}

bool fuse_record_parse(const char *text, gsize length, uint64_t *mount, char **path)
{
    const char *newline = memchr(text, '\n', length);
    g_autofree char *number = NULL;

    if (!newline || newline[1] != '/' || memchr(text, 0, length)) {
        return false;
    }
    number = g_strndup(text, newline - text);
    if (!g_ascii_string_to_unsigned(number, 10, 0, G_MAXUINT64, mount, NULL)) {
        return false;
    }
    *path = g_strndup(newline + 1, length - (newline + 1 - text));
    return true;
}

/* Whether a file called @name is a record, and if so of which mount. */
static bool record_parse_name(const char *name, FuseMountId *id)
{
    int end = 0;

    return sscanf(name, "%u:%u:%" SCNu64 "%n", &id->dev_major, &id->dev_minor, &id->unique, &end) ==
               3 &&
           !name[end];
}

static bool record_read(const char *file, FuseMountId *id, char **path)
{
    g_autofree char *text = NULL;
    gsize length;

    return g_file_get_contents(file, &text, &length, NULL) &&
           fuse_record_parse(text, length, &id->mount, path);
}

/*
 * Unmount what the record @name of a dead daemon tells of, and remove it. What is none stays, and
 * so does that of a mount which cannot be unmounted now: another daemon may.
 */
static void clear_record(const char *directory, const char *name)
{
    g_autofree char *file = g_build_filename(directory, name, NULL);
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL;
    FuseMountId id;

    if (!record_parse_name(name, &id)) {
        return;
    }
    if (record_read(file, &id, &path)) {
        switch (fuse_unmount_dead(path, &id, &error)) {
        case FUSE_UNMOUNT_DONE:
            g_message("cleared '%s', a mount that a killed daemon had left", path);
            break;
        case FUSE_UNMOUNT_GONE:
            break;
        default:
            g_message("an earlier daemon has left a mount: %s", error->message);
            return;
        }
    }
    g_unlink(file);
}

static bool holds_records(const char *directory)
{
    g_autoptr(GDir) dir = g_dir_open(directory, 0, NULL);
    const char *name;
    FuseMountId id;

    while (dir && (name = g_dir_read_name(dir))) {
        if (record_parse_name(name, &id)) {
            return true;
        }
    }
    return false;
}

/* Without its lock nobody would ever look into it, so what still holds records stays. */
static void remove_directory(const char *directory)
{
    g_autofree char *lock = g_build_filename(directory, LOCK_NAME, NULL);

    if (holds_records(directory)) {
        return;
    }

    g_unlink(lock);
    g_rmdir(directory);
}

/* If the daemon that @directory belonged to is dead, clear away what it has left. */
static void clear_directory(const char *directory)
{
    int lock_fd = lock_directory(directory, 0);
    g_autoptr(GDir) dir = NULL;
    const char *name;

    if (lock_fd < 0) {
        return;
    }
    dir = g_dir_open(directory, 0, NULL);
    while (dir && (name = g_dir_read_name(dir))) {
        if (!g_str_equal(name, LOCK_NAME)) {
            clear_record(directory, name);
        }
    }
    remove_directory(directory);
    close(lock_fd);
}

static void clear_leftovers(const char *base)
{
    g_autoptr(GDir) dir = g_dir_open(base, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *directory = g_build_filename(base, name, NULL);

        /* Others may keep their things here, too: sockets, say. */
        if (g_str_has_prefix(name, DIRECTORY_PREFIX)) {
            clear_directory(directory);
        }
    }
}

/* Whether @base is a directory that only this user can have filled. */
static bool base_is_ours(const char *base)
{
    struct stat st;

    return g_mkdir_with_parents(base, 0700) == 0 && lstat(base, &st) == 0 && S_ISDIR(st.st_mode) &&
           st.st_uid == geteuid() && !(st.st_mode & 022);
}

FuseRecords *fuse_records_open(const char *base)
{
    FuseRecords *records = g_new0(FuseRecords, 1);
    g_autofree char *directory = NULL;

    records->lock_fd = -1;
    if (!base || !base_is_ours(base)) {
        g_debug("no place for records of mounts");
        return records;
    }
    clear_leftovers(base);
    directory = g_strdup_printf("%s/" DIRECTORY_PREFIX "%d-XXXXXX", base, (int)getpid());
    if (!g_mkdtemp(directory)) {
        return records;
    }
    records->lock_fd = lock_directory(directory, O_CREAT);
    if (records->lock_fd < 0) {
        g_rmdir(directory);
        return records;
    }
    records->directory = g_steal_pointer(&directory);
    return records;
}

static char *record_file(FuseRecords *records, const FuseMountId *id)
{
    return g_strdup_printf("%s/%u:%u:%" PRIu64, records->directory, id->dev_major, id->dev_minor,
                           id->unique);
}

void fuse_records_add(FuseRecords *records, const FuseMountId *id, const char *path)
{
    g_autofree char *file = NULL;
    g_autofree char *text = NULL;

    if (records->directory) {
        file = record_file(records, id);
        text = g_strdup_printf("%" PRIu64 "\n%s", id->mount, path);
        g_file_set_contents_full(file, text, strlen(text), G_FILE_SET_CONTENTS_NONE, 0600, NULL);
    }
}

void fuse_records_remove(FuseRecords *records, const FuseMountId *id)
{
    if (records->directory) {
        g_autofree char *file = record_file(records, id);

        g_unlink(file);
    }
}

void fuse_records_close(FuseRecords *records)
{
    if (!records) {
        return;
    }
    if (records->directory) {
        remove_directory(records->directory);
        close(records->lock_fd);
        g_free(records->directory);
    }
    g_free(records);
}
