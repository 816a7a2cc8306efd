/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/ctl.h"

#define SOCKET_NAME   "wharfd.sock"
#define SYSTEM_SOCKET "/run/wharf/" SOCKET_NAME

char *ctl_place_socket(const char *given)
{
    const char *named = given ? given : g_getenv("WHARF_SOCKET");
    const char *runtime = g_getenv("XDG_RUNTIME_DIR");
    g_autofree char *own = NULL;

    if (named && *named) {
        return g_strdup(named);
    }
    if (!runtime || !*runtime) {
        return g_strdup(SYSTEM_SOCKET);
    }
    own = g_build_filename(runtime, "wharf", SOCKET_NAME, NULL);
    if (!g_file_test(own, G_FILE_TEST_EXISTS) && g_file_test(SYSTEM_SOCKET, G_FILE_TEST_EXISTS)) {
        return g_strdup(SYSTEM_SOCKET);
    }
    return g_steal_pointer(&own);
}

/* Whether @path is a directory of this user's that nobody else may write to. */
static bool is_private(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() &&
           !(st.st_mode & (S_IWGRP | S_IWOTH));
}

/* The directory without a look at whether it is there. */
static char *directory_path(void)
{
    const char *runtime = g_getenv("XDG_RUNTIME_DIR");
    g_autofree char *run_user = g_strdup_printf("/run/user/%u", geteuid());

    /* After su(1) the variable may still name the directory of somebody else. */
    if (runtime && *runtime && is_private(runtime)) {
        return g_build_filename(runtime, "wharf", NULL);
    }
    if (is_private(run_user)) {
        return g_build_filename(run_user, "wharf", NULL);
    }
    if (geteuid() == 0) {
        return g_strdup("/run/wharf");
    }
    return g_strdup_printf("/tmp/wharf-%u", geteuid());
}

char *ctl_place_directory(bool make, GError **error)
{
    g_autofree char *path = directory_path();

    if (make && mkdir(path, 0700) < 0 && errno != EEXIST) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot make the directory '%s': %s", path,
                    g_strerror(errno));
        return NULL;
    }
    if (!is_private(path)) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                    "'%s' is no directory of yours alone, so no socket can be kept there", path);
        return NULL;
    }
    return g_steal_pointer(&path);
}

char **ctl_place_mount_sockets(void)
{
    g_autofree char *path = ctl_place_directory(false, NULL);
    g_autoptr(GDir) dir = path ? g_dir_open(path, 0, NULL) : NULL;
    GPtrArray *found = g_ptr_array_new();
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        if (g_str_has_prefix(name, "mount-") && g_str_has_suffix(name, ".sock")) {
            g_ptr_array_add(found, g_build_filename(path, name, NULL));
        }
    }
    g_ptr_array_add(found, NULL);
    return (char **)g_ptr_array_free(found, FALSE);
}

char *ctl_place_absolute(const char *path, GError **error)
{
    char *here, *absolute;

    if (g_path_is_absolute(path)) {
        return g_strdup(path);
    }
    /* Not g_get_current_dir(), which makes up "/" for a directory that is gone. */
    here = getcwd(NULL, 0);
    if (!here) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                    "cannot tell where '%s' is: the current directory: %s", path,
                    g_strerror(errno));
        return NULL;
    }
    /* Not g_canonicalize_filename(): "a/.." is not "." where a is a symbolic link. */
    absolute = g_build_filename(here, path, NULL);
    free(here);
    return absolute;
}

/* The directory part of @path without symbolic links, then its last part. */
static char *resolve_parent(const char *path, GError **error)
{
    g_autofree char *parent = g_path_get_dirname(path);
    g_autofree char *name = g_path_get_basename(path);
    char *real = realpath(parent, NULL);
    char *resolved;

    if (!real) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot find '%s': %s", path,
                    g_strerror(errno));
        return NULL;
    }
    resolved = g_build_filename(real, name, NULL);
    free(real);
    return resolved;
}

char *ctl_place_resolve(const char *path, GError **error)
{
    g_autofree char *absolute = ctl_place_absolute(path, error);
    g_autofree char *resolved = absolute ? resolve_parent(absolute, error) : NULL;
    g_autofree char *fs = resolved ? ctl_place_mounted(resolved) : NULL;
    char *real;

    if (!resolved || fs) {
        return g_steal_pointer(&resolved);
    }
    /* Nothing is mounted there, so asking is safe; a link may lead to where something is. */
    if (!g_file_test(resolved, G_FILE_TEST_IS_SYMLINK)) {
        return g_steal_pointer(&resolved);
    }
    g_clear_pointer(&absolute, g_free);
    absolute = g_file_read_link(resolved, NULL);
    if (absolute && !g_path_is_absolute(absolute)) {
        g_autofree char *parent = g_path_get_dirname(resolved);
        char *joined = g_build_filename(parent, absolute, NULL);

        g_free(absolute);
        absolute = joined;
    }
    real = absolute ? resolve_parent(absolute, NULL) : NULL;
    return real ? real : g_steal_pointer(&resolved);
}

/* Undo the octal escapes of a field of /proc/self/mountinfo. */
static char *unescape(const char *field)
{
    GString *out = g_string_new(NULL);

    while (*field) {
        if (field[0] == '\\' && field[1] >= '0' && field[1] <= '3' && field[2] && field[3]) {
            g_string_append_c(out, (field[1] - '0') * 64 + (field[2] - '0') * 8 + (field[3] - '0'));
            field += 4;
        } else {
            g_string_append_c(out, *field++);
        }
    }
    return g_string_free(out, FALSE);
}

/* The type of the file system on a line of mountinfo if it is mounted at @path. */
static char *mount_type_at(const char *line, const char *path)
{
    g_auto(GStrv) fields = g_strsplit(line, " ", -1);
    g_autofree char *point = NULL;
    guint i;

    /* id parent major:minor root mountpoint options [optional fields] - type source options */
    if (g_strv_length(fields) < 9) {
        return NULL;
    }
    point = unescape(fields[4]);
    if (strcmp(point, path) != 0) {
        return NULL;
    }
    for (i = 6; fields[i] && strcmp(fields[i], "-") != 0; i++) {
    }
    return fields[i] && fields[i + 1] ? g_strdup(fields[i + 1]) : NULL;
}

char *ctl_place_mounted(const char *resolved)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    g_autofree char *type = NULL;

    if (!g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL)) {
        return NULL;
    }
    lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        char *found = mount_type_at(*line, resolved);

        if (found) { /* a later line lies on top of an earlier one */
            g_free(type);
            type = found;
        }
    }
    return g_steal_pointer(&type);
}
