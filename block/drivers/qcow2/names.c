/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files that an image names: its backing file and its external data file. An image may come from
 * anybody, so a name is followed only where the user lets it be, names a plain file or a block
 * device, and never says more than that.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "block/drivers/qcow2/state.h"
#include "util/error.h"

/* One file that an image names. */
typedef struct Named {
    const Qcow2State *s;
    const char *name;   /* as the image has it */
    const char *what;   /* "backing file" */
    const char *option; /* "backing": by which the user can say better */
} Named;

#define REFUSE(n, code, format, ...)                                                               \
    (g_set_error(error, WHARF_ERROR, code,                                                         \
                 "image '%s' names the %s '%s', " format "; give '%s' among the options",          \
                 (n)->s->name, (n)->what, shown, __VA_ARGS__, (n)->option),                        \
     NULL)

/* What stands before a colon in a name that is no plain path; NULL for one that is. */
static char *protocol_of(const char *name)
{
    const char *colon = strchr(name, ':');
    const char *slash = strchr(name, '/');

    return colon && colon > name && (!slash || colon < slash) ? g_strndup(name, colon - name)
                                                              : NULL;
}

/* The path that is meant: from where the image lies, if it does not begin at the root. */
static char *resolve(const Named *n, const char *path, GError **error)
{
    g_autofree char *image = NULL;
    g_autofree char *directory = NULL;

    if (path[0] == '/') {
        return g_strdup(path);
    }
    image = block_node_plain_filename(block_child_node(n->s->file));
    if (!image) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "image '%s' names the %s '%s', relative to where it lies itself, but it is no "
                    "plain file; give '%s' among the options",
                    n->s->name, n->what, path, n->option);
        return NULL;
    }
    directory = g_path_get_dirname(image);
    return g_build_filename(directory, path, NULL);
}

/* The path of the file, or NULL where the name is none of a plain file. */
static char *path_of(const Named *n, GError **error)
{
    g_autofree char *shown = g_utf8_make_valid(n->name, -1);
    g_autofree char *protocol = protocol_of(n->name);
    const char *path = n->name;

    if (!g_utf8_validate(n->name, -1, NULL)) {
        return REFUSE(n, WHARF_ERROR_UNSUPPORTED, "which is not %s", "UTF-8");
    }
    if (protocol && strcmp(protocol, "file") != 0 && strcmp(protocol, "host_device") != 0) {
        return REFUSE(n, WHARF_ERROR_UNSUPPORTED,
                      "but names that begin with '%s:' are not followed", protocol);
    }
    if (protocol) {
        path += strlen(protocol) + 1;
    }
    return resolve(n, path, error);
}

char *qcow2_names_full_backing(const Qcow2State *s)
{
    const Named n = {s, s->image->header->backing_file, "backing file", "backing"};
    g_autofree char *path = n.name ? path_of(&n, NULL) : NULL;

    return path ? g_utf8_make_valid(path, -1) : NULL;
}

static int is_device_worker(void *opaque)
{
    struct stat st;

    return stat(opaque, &st) == 0 && S_ISBLK(st.st_mode);
}

/* {driver: file, filename: @path}; what it is must not be asked in this thread. */
static QValue *co_fn co_protocol_options(const char *path)
{
    QValue *options = qvalue_object();
    bool device = aio_co_run_worker_apart(is_device_worker, (void *)path) > 0;

    qvalue_object_set(options, "driver", qvalue_string(device ? "host_device" : "file"));
    qvalue_object_set(options, "filename", qvalue_string(path));
    return options;
}

static bool may_follow(const Named *n, GError **error)
{
    g_autofree char *shown = g_utf8_make_valid(n->name, -1);

    return n->s->follow_names ||
           REFUSE(n, WHARF_ERROR_GENERIC, "which is not followed, for '%s' is off", "follow-names");
}

BlockdevRef *co_fn qcow2_names_co_data_file(const Qcow2State *s, const Qcow2Header *header,
                                            GError **error)
{
    g_autofree char *name = qcow2_header_extension_string(header, QCOW2_EXTENSION_DATA_FILE);
    Named n = {s, name, "data file", "data-file"};
    g_autofree char *path = NULL;
    g_autoptr(QValue) options = NULL;

    if (!name || !*name) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "image '%s' has an external data file but does not name it; give 'data-file' "
                    "among the options",
                    s->name);
        return NULL;
    }
    path = may_follow(&n, error) ? path_of(&n, error) : NULL;
    if (!path) {
        return NULL;
    }
    options = co_protocol_options(path);
    return blockdev_ref_from_qvalue(options, error);
}

/* The format of the backing file, if it is one that can be used. */
static const char *backing_format(const Named *n, const char *format, GError **error)
{
    g_autofree char *shown = g_utf8_make_valid(n->name, -1);
    g_autofree char *shown_format = format ? g_utf8_make_valid(format, -1) : NULL;

    if (!format) {
        return REFUSE(n, WHARF_ERROR_GENERIC, "but not its %s, and that is not guessed", "format");
    }
    if (strcmp(format, "raw") != 0 && strcmp(format, "qcow2") != 0) {
        return REFUSE(n, WHARF_ERROR_UNSUPPORTED, "of the format '%s', which is not known here",
                      shown_format);
    }
    return format;
}

BlockdevRef *co_fn qcow2_names_co_backing(const Qcow2State *s, const Qcow2Header *header,
                                          GError **error)
{
    g_autofree char *format = qcow2_header_extension_string(header, QCOW2_EXTENSION_BACKING_FORMAT);
    Named n = {s, header->backing_file, "backing file", "backing"};
    g_autofree char *path = may_follow(&n, error) ? path_of(&n, error) : NULL;
    g_autoptr(QValue) options = NULL;

    if (!path || !backing_format(&n, format, error)) {
        return NULL;
    }
    options = qvalue_object();
    qvalue_object_set(options, "driver", qvalue_string(format));
    qvalue_object_set(options, "read-only", qvalue_bool(true));
    if (s->purpose == QCOW2_FOR_INFO && strcmp(format, "qcow2") == 0) {
        qvalue_object_set(options, "for-info", qvalue_bool(true));
    }
    qvalue_object_set(options, "file", co_protocol_options(path));
    return blockdev_ref_from_qvalue(options, error);
}
