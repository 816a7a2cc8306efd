/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wharfctl info: what an image is, told by a daemon of its own that opens it read-only. A format
 * that is not said is recognised here: nothing is done with the image but showing it, and the files
 * that it names are opened only if that is asked for.
 */
#include "ctl/commands.h"

#include <stdio.h>
#include <string.h>

#include "ctl/exports.h"
#include "ctl/image.h"
#include "ctl/json.h"
#include "ctl/output.h"
#include "ctl/private.h"
#include "ctl/snapshots.h"
#include "ctl/text.h"

#define NODE "image"

typedef struct InfoOptions {
    const char *format;
    const char *output;
    bool chain;
    bool force_share;
} InfoOptions;

static const CtlOption info_options[] = {
    {"format", 'f', "FMT", "raw|qcow2", offsetof(InfoOptions, format),
     "format of IMAGE (default: the one that it looks like)"},
    {"output", 0, "FORM", "human|json", offsetof(InfoOptions, output),
     "for people (default), or as JSON"},
    {"backing-chain", 0, NULL, NULL, offsetof(InfoOptions, chain), "its backing files, too"},
    {"force-share", 'U', NULL, NULL, offsetof(InfoOptions, force_share),
     "also if somebody writes to it; what is shown may be inconsistent then"},
    {NULL},
};

/* ---- For people ---- */

static void print_pair(const char *key, const char *text)
{
    g_autofree char *safe = ctl_text_printable(text, -1);

    printf("%s: %s\n", key, safe);
}

static void print_size(const char *key, guint64 bytes, bool exact)
{
    g_autofree char *text = ctl_text_size(bytes);

    if (exact) {
        printf("%s: %s (%" G_GUINT64_FORMAT " bytes)\n", key, text, bytes);
    } else {
        printf("%s: %s\n", key, text);
    }
}

static void print_backing(const QValue *info)
{
    const char *name = ctl_json_string(info, "backing-filename");
    const char *full = ctl_json_string(info, "full-backing-filename");
    const char *format = ctl_json_string(info, "backing-filename-format");
    g_autofree char *both = NULL;

    if (!name) {
        return;
    }
    if (full && strcmp(name, full + (g_str_has_prefix(full, "./") ? 2 : 0)) != 0) {
        both = g_strdup_printf("%s (actual path: %s)", name, full);
    }
    print_pair("backing file", both ? both : name);
    if (format) {
        print_pair("backing file format", format);
    }
}

static void print_snapshots(const QValue *info)
{
    const QValue *snapshots = ctl_json_array(info, "snapshots");

    if (snapshots && qvalue_array_length(snapshots) > 0) {
        puts("Snapshot list:");
        ctl_snapshots_print(snapshots);
    }
}

#define INDENT 4

/* The members of @data, with so many blanks before each. */
static void print_members(const QValue *data, int indent)
{
    for (gsize i = 0; i < qvalue_object_size(data); i++) {
        const QValue *value = qvalue_object_value(data, i);
        g_autofree char *key = g_strdup_printf("%*s%s", indent, "", qvalue_object_key(data, i));
        g_autofree char *text = NULL;

        g_strdelimit(key, "-", ' ');
        if (qvalue_type(value) == QVALUE_OBJECT) {
            printf("%s:\n", key);
            print_members(value, indent + INDENT);
            continue;
        }
        text = qvalue_type(value) == QVALUE_STRING ? g_strdup(qvalue_get_string(value, NULL))
                                                   : qvalue_to_json_string(value);
        print_pair(key, text);
    }
}

/* Whatever the format alone knows, as it comes. */
static void print_specific(const QValue *info)
{
    const QValue *data = ctl_json_object(ctl_json_object(info, "format-specific"), "data");

    if (data && qvalue_object_size(data) > 0) {
        puts("Format specific information:");
        print_members(data, INDENT);
    }
}

static void print_info(const QValue *info)
{
    guint64 allocated = ctl_json_uint(info, "actual-size", G_MAXUINT64);
    guint64 cluster = ctl_json_uint(info, "cluster-size", 0);

    print_pair("image", ctl_json_string(info, "filename"));
    print_pair("file format", ctl_json_string(info, "format"));
    /* That is a multiple of 512, which the exact length need not be. */
    print_size("virtual size",
               ctl_json_uint(info, "length", ctl_json_uint(info, "virtual-size", 0)), true);
    if (allocated != G_MAXUINT64) {
        print_size("disk size", allocated, false);
    }
    if (ctl_json_bool(info, "encrypted", false)) {
        puts("encrypted: yes");
    }
    if (cluster) {
        printf("cluster_size: %" G_GUINT64_FORMAT "\n", cluster);
    }
    if (ctl_json_bool(info, "dirty-flag", false)) {
        puts("cleanly shut down: no");
    }
    print_backing(info);
    print_snapshots(info);
    print_specific(info);
}

/* ---- The image and those below it ---- */

/* @info without the image below, which is a record of its own. */
static QValue *without_backing(const QValue *info)
{
    QValue *copy = qvalue_object();

    for (gsize i = 0; i < qvalue_object_size(info); i++) {
        const char *key = qvalue_object_key(info, i);

        if (strcmp(key, "backing-image") != 0) {
            qvalue_object_set(copy, key, qvalue_ref(qvalue_object_value(info, i)));
        }
    }
    return copy;
}

/* @path: the first one as it was typed, whatever options its node has. */
static QValue *make_list(const char *path, const QValue *info)
{
    QValue *list = qvalue_array();
    QValue *first = without_backing(info);

    qvalue_object_set(first, "filename", qvalue_string(path));
    qvalue_array_append(list, first);
    info = ctl_json_object(info, "backing-image");
    for (; info; info = ctl_json_object(info, "backing-image")) {
        qvalue_array_append(list, without_backing(info));
    }
    return list;
}

static void show(const Ctl *ctl, const InfoOptions *o, const QValue *list)
{
    bool json = ctl->json || g_strcmp0(o->output, "json") == 0;

    if (json) {
        ctl_output_json(o->chain ? list : qvalue_array_get(list, 0));
        return;
    }
    for (gsize i = 0; i < qvalue_array_length(list); i++) {
        if (i) {
            putchar('\n');
        }
        print_info(qvalue_array_get(list, i));
    }
}

static QValue *node_for(const char *path, const char *format, bool is_device, const InfoOptions *o)
{
    QValue *node = ctl_image_node(NODE, path, format, is_device);

    if (strcmp(format, "qcow2") == 0) {
        qvalue_object_set(node, "for-info", qvalue_bool(true));
        qvalue_object_set(node, "follow-names", qvalue_bool(o->chain));
    }
    if (o->force_share) {
        qvalue_object_set(node, "force-share", qvalue_bool(true));
    }
    return node;
}

static const char *find_format(const char *path, const InfoOptions *o, bool *is_device,
                               GError **error)
{
    if (o->format) {
        return ctl_image_check(path, o->format, is_device, error) ? o->format : NULL;
    }
    return ctl_image_recognise(path, is_device, error);
}

static QValue *ask(CtlPrivate *daemon, const char *path, QValue *take_node, GError **error)
{
    g_autoptr(QValue) added = ctl_private_call(daemon, "blockdev-add", take_node, error);
    g_autoptr(QValue) nodes =
        added ? ctl_private_call(daemon, "query-named-block-nodes", NULL, error) : NULL;
    const QValue *info = nodes ? ctl_json_object(ctl_nodes_find(nodes, NODE), "image") : NULL;

    if (nodes && !info) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "the daemon tells nothing about it");
    }
    return info ? make_list(path, info) : NULL;
}

static bool run(const Ctl *ctl, const void *opts, char **words, GError **error)
{
    const InfoOptions *o = opts;
    bool is_device;
    const char *format = find_format(words[0], o, &is_device, error);
    g_autoptr(CtlPrivate) daemon = format ? ctl_private_start(ctl, error) : NULL;
    g_autoptr(QValue) list = NULL;

    if (!daemon) {
        return false;
    }
    list = ask(daemon, words[0], node_for(words[0], format, is_device, o), error);
    if (!list || !ctl_private_end(daemon, error)) {
        g_prefix_error(error, "cannot look at '%s' (%s): ", words[0], format);
        return false;
    }
    show(ctl, o, list);
    return true;
}

const CtlCommand ctl_command_info = {
    .name = "info",
    .synopsis = "IMAGE",
    .summary = "tell what an image is: format, size, backing file, snapshots",
    .details =
        "IMAGE is only read. With --backing-chain the files that it names are opened, too, in\n"
        "the formats that it says; so leave that for images you trust. If somebody writes to\n"
        "IMAGE it cannot be opened, but with --force-share. No running daemon is needed.",
    .words = CTL_WORDS_FILES,
    .min_words = 1,
    .max_words = 1,
    .options = info_options,
    .options_size = sizeof(InfoOptions),
    .run = run,
};
