/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/recipe.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/image.h"
#include "ctl/json.h"
#include "ctl/place.h"
#include "ctl/text.h"
#include "util/name.h"

#define NODE_SUFFIX ".node"

/* So that the name of the node stays within the 31 bytes that one may have. */
#define ID_MAX (31 - (sizeof(NODE_SUFFIX) - 1))

const CtlOption ctl_recipe_options[] = {
    {"writable", 'w', NULL, NULL, offsetof(CtlRecipeOptions, writable), "let FILE be written to"},
    {"growable", 'g', NULL, NULL, offsetof(CtlRecipeOptions, growable),
     "writes past the end make IMAGE longer"},
    {"format", 'f', "raw|qcow2", "raw|qcow2", offsetof(CtlRecipeOptions, format),
     "what IMAGE is (raw), without a look at it"},
    {"snapshot", 0, "NAME", NULL, offsetof(CtlRecipeOptions, snapshot),
     "show the disk as it was at an internal snapshot of a qcow2"},
    {"allow-other", 'o', "on|off|auto", "on|off|auto", offsetof(CtlRecipeOptions, allow_other),
     "whether other users may use FILE (auto)"},
    {"id", 'i', "ID", NULL, offsetof(CtlRecipeOptions, id),
     "name of the export (made from IMAGE's name)"},
    {"replace-stale", 'r', NULL, NULL, offsetof(CtlRecipeOptions, replace_stale),
     "clear away what a dead FUSE server left at FILE"},
    {NULL},
};

/*
 * Refuse to cover a mount that is alive. One that is dead is the daemon's affair, which knows what
 * it may clear away.
 */
static bool check_not_mounted(const char *mountpoint, GError **error)
{
    g_autofree char *resolved = ctl_place_resolve(mountpoint, NULL);
    g_autofree char *type = resolved ? ctl_place_mounted(resolved) : NULL;
    struct statfs st;

    /* Not stat(), which the kernel may answer from its cache when the server is dead already. */
    if (!type || (statfs(resolved, &st) < 0 && (errno == ENOTCONN || errno == ECONNABORTED))) {
        return true;
    }
    g_set_error(
        error, CTL_ERROR, CTL_ERROR_FAILED,
        "something (of type %s) is mounted at '%s' already; 'wharfctl umount' ends an export", type,
        mountpoint);
    return false;
}

/* Make an empty file where nothing is yet, for the export to cover. */
static bool make_mountpoint(CtlRecipe *recipe, GError **error)
{
    /* O_EXCL: what is there already, even a dead mount, is not touched. */
    int fd = open(recipe->mountpoint, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);

    if (fd >= 0) {
        close(fd);
        recipe->made_mountpoint = true;
        return true;
    }
    if (errno == ENOENT || errno == ENOTDIR || errno == EACCES || errno == EROFS) {
        int err = errno;

        /* If something is there after all, the daemon knows best what it makes of it. */
        if (faccessat(AT_FDCWD, recipe->mountpoint, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
            return true;
        }
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot make the file '%s' to mount on: %s",
                    recipe->mountpoint, g_strerror(err));
        return false;
    }
    return true;
}

/* An empty word comes from a variable of a script that is not set. */
static bool check_words(const char *image, const char *mountpoint, GError **error)
{
    if (*image && *mountpoint) {
        return true;
    }
    g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE, "%s is empty", *image ? "FILE" : "IMAGE");
    return false;
}

static bool check_id(const char *id, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (strlen(id) > ID_MAX) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE,
                    "the id '%s' is too long: it may have %zu bytes here, since the node's name is "
                    "made from it",
                    id, ID_MAX);
        return false;
    }
    if (!name_check(id, "export id", &local)) {
        g_set_error_literal(error, CTL_ERROR, CTL_ERROR_USAGE, local->message);
        return false;
    }
    return true;
}

static bool check_snapshot(const CtlRecipeOptions *options, GError **error)
{
    if (options->snapshot && g_strcmp0(options->format, "qcow2") != 0) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE, "--snapshot needs --format=qcow2");
        return false;
    }
    if (options->snapshot && options->writable) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE,
                    "a snapshot can only be read; leave --writable out");
        return false;
    }
    return true;
}

bool ctl_recipe_prepare(CtlRecipe *recipe, const CtlRecipeOptions *options, const char *image,
                        const char *mountpoint, GError **error)
{
    recipe->options = options;
    if (!check_words(image, mountpoint, error)) {
        return false;
    }
    recipe->image = ctl_place_absolute(image, error);
    recipe->mountpoint = recipe->image ? ctl_place_absolute(mountpoint, error) : NULL;
    if (!recipe->mountpoint) {
        return false;
    }
    if (options->growable && !options->writable) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE, "--growable needs --writable");
        return false;
    }
    if ((options->id && !check_id(options->id, error)) || !check_snapshot(options, error)) {
        return false;
    }
    return ctl_text_check_path(recipe->mountpoint, error) &&
           ctl_image_check(recipe->image, options->format, &recipe->is_device, error) &&
           check_not_mounted(recipe->mountpoint, error) && make_mountpoint(recipe, error);
}

void ctl_recipe_succeeded(CtlRecipe *recipe)
{
    recipe->made_mountpoint = false;
}

void ctl_recipe_clear(CtlRecipe *recipe)
{
    if (recipe->made_mountpoint) {
        unlink(recipe->mountpoint);
    }
    g_clear_pointer(&recipe->image, g_free);
    g_clear_pointer(&recipe->mountpoint, g_free);
}

/* @path's file name without an ending that says nothing. */
static char *stem(const char *path)
{
    static const char *const endings[] = {".img", ".raw", ".iso", ".bin", ".dd"};
    char *base = g_path_get_basename(path);

    for (gsize i = 0; i < G_N_ELEMENTS(endings); i++) {
        if (g_str_has_suffix(base, endings[i]) && strlen(base) > strlen(endings[i])) {
            base[strlen(base) - strlen(endings[i])] = '\0';
            break;
        }
    }
    return base;
}

char *ctl_recipe_id(const char *path, unsigned nth)
{
    g_autofree char *name = stem(path);
    g_autofree char *number = nth > 1 ? g_strdup_printf("-%u", nth) : g_strdup("");
    g_autoptr(GString) id = g_string_new(g_ascii_isalpha(name[0]) ? NULL : "image-");

    for (const char *c = name; *c; c++) {
        bool allowed = g_ascii_isalnum(*c) || strchr("-._", *c);

        if (allowed || id->str[id->len - 1] != '-') {
            g_string_append_c(id, allowed ? *c : '-');
        }
    }
    g_string_truncate(id, MIN(id->len, ID_MAX - strlen(number)));
    while (strchr("-._", id->str[id->len - 1])) {
        g_string_truncate(id, id->len - 1);
    }
    g_string_append(id, number);
    return g_string_free(g_steal_pointer(&id), FALSE);
}

char *ctl_recipe_node_name(const char *id)
{
    return g_strconcat(id, NODE_SUFFIX, NULL);
}

/* The image itself. Holes punched into FILE become holes in it, as in any file. */
static QValue *protocol_node(const CtlRecipe *recipe)
{
    return ctl_json_strings("driver", recipe->is_device ? "host_device" : "file", "filename",
                            recipe->image, "discard", recipe->options->writable ? "unmap" : NULL,
                            NULL);
}

QValue *ctl_recipe_node(const CtlRecipe *recipe, const char *id)
{
    g_autofree char *name = ctl_recipe_node_name(id);
    const char *format = recipe->options->format ? recipe->options->format : "raw";
    /* One node that owns its child, so that one blockdev-del takes both. */
    QValue *node = ctl_json_strings("driver", format, "node-name", name, "discard",
                                    recipe->options->writable ? "unmap" : NULL, NULL);

    qvalue_object_set(node, "read-only", qvalue_bool(!recipe->options->writable));
    if (recipe->options->snapshot) {
        qvalue_object_set(node, "snapshot", qvalue_string(recipe->options->snapshot));
    }
    qvalue_object_set(node, "file", protocol_node(recipe));
    return node;
}

QValue *ctl_recipe_export(const CtlRecipe *recipe, const char *id)
{
    const CtlRecipeOptions *options = recipe->options;
    g_autofree char *node = ctl_recipe_node_name(id);
    QValue *export =
        ctl_json_strings("type", "fuse", "id", id, "node-name", node, "mountpoint",
                         recipe->mountpoint, "allow-other", options->allow_other, NULL);

    if (options->writable) {
        qvalue_object_set(export, "writable", qvalue_bool(true));
    }
    if (options->growable) {
        qvalue_object_set(export, "growable", qvalue_bool(true));
    }
    if (options->replace_stale) {
        qvalue_object_set(export, "replace-stale", qvalue_bool(true));
    }
    return export;
}
