/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wharfctl snapshot: internal snapshots of a qcow2 image that nobody uses, by a daemon of its own.
 * The files that the image names are not opened: nothing of the disk is read.
 */
#include "ctl/commands.h"

#include <stdio.h>

#include "ctl/exports.h"
#include "ctl/image.h"
#include "ctl/json.h"
#include "ctl/output.h"
#include "ctl/private.h"
#include "ctl/snapshots.h"

#define NODE "image"

typedef struct SnapshotOptions {
    bool list;
    const char *create, *apply, *delete;
    bool force_share;
} SnapshotOptions;

static const CtlOption snapshot_options[] = {
    {"list", 'l', NULL, NULL, offsetof(SnapshotOptions, list), "list the snapshots (default)"},
    {"create", 'c', "NAME", NULL, offsetof(SnapshotOptions, create),
     "take one: keep the disk as it is now"},
    {"apply", 'a', "NAME", NULL, offsetof(SnapshotOptions, apply),
     "make the disk what it was; what it is now is lost"},
    {"delete", 'd', "NAME", NULL, offsetof(SnapshotOptions, delete), "delete one"},
    {"force-share", 'U', NULL, NULL, offsetof(SnapshotOptions, force_share),
     "list them also if somebody writes to IMAGE"},
    {NULL},
};

static bool changes(const SnapshotOptions *o)
{
    return o->create || o->apply || o->delete;
}

static bool check_options(const SnapshotOptions *o, GError **error)
{
    if (o->list + !!o->create + !!o->apply + !!o->delete > 1) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE,
                    "--list, --create, --apply and --delete exclude each other");
        return false;
    }
    if (o->force_share && changes(o)) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE, "--force-share is for --list alone");
        return false;
    }
    return true;
}

static QValue *make_node(const char *path, bool is_device, const SnapshotOptions *o)
{
    QValue *node = ctl_image_node(NODE, path, "qcow2", is_device);

    qvalue_object_set(node, "read-only", qvalue_bool(!changes(o)));
    qvalue_object_set(node, "backing", qvalue_null());
    qvalue_object_set(node, "follow-names", qvalue_bool(false));
    if (o->force_share) {
        qvalue_object_set(node, "force-share", qvalue_bool(true));
    }
    return node;
}

/* The snapshots of the image, an array; NULL with an error. */
static QValue *query(CtlPrivate *daemon, GError **error)
{
    g_autoptr(QValue) nodes = ctl_private_call(daemon, "query-named-block-nodes", NULL, error);
    const QValue *image = nodes ? ctl_json_object(ctl_nodes_find(nodes, NODE), "image") : NULL;
    const QValue *snapshots = ctl_json_array(image, "snapshots");

    if (!nodes) {
        return NULL;
    }
    return snapshots ? qvalue_ref((QValue *)snapshots) : qvalue_array();
}

/* A name, or, where none has that name, an id. */
static QValue *arguments(const QValue *snapshots, const char *name)
{
    bool is_id =
        !ctl_snapshots_have(snapshots, "name", name) && ctl_snapshots_have(snapshots, "id", name);

    return ctl_json_strings("device", NODE, is_id ? "id" : "name", name, NULL);
}

static bool change(CtlPrivate *daemon, const SnapshotOptions *o, const QValue *snapshots,
                   GError **error)
{
    g_autoptr(QValue) result = NULL;

    if (o->create) {
        result = ctl_private_call(daemon, "blockdev-snapshot-internal-sync",
                                  ctl_json_strings("device", NODE, "name", o->create, NULL), error);
    } else if (o->apply) {
        result = ctl_private_call(daemon, "blockdev-snapshot-apply-internal-sync",
                                  arguments(snapshots, o->apply), error);
    } else {
        result = ctl_private_call(daemon, "blockdev-snapshot-delete-internal-sync",
                                  arguments(snapshots, o->delete), error);
    }
    return result != NULL;
}

static void show(const Ctl *ctl, const QValue *snapshots)
{
    if (ctl->json) {
        ctl_output_json(snapshots);
    } else if (qvalue_array_length(snapshots) > 0) {
        ctl_snapshots_print(snapshots);
    }
}

static bool run_by(CtlPrivate *daemon, const Ctl *ctl, const SnapshotOptions *o, QValue *take_node,
                   GError **error)
{
    g_autoptr(QValue) added = ctl_private_call(daemon, "blockdev-add", take_node, error);
    g_autoptr(QValue) snapshots = added ? query(daemon, error) : NULL;

    if (!snapshots || (changes(o) && !change(daemon, o, snapshots, error)) ||
        !ctl_private_end(daemon, error)) {
        return false;
    }
    if (!changes(o)) {
        show(ctl, snapshots);
    }
    return true;
}

static bool run(const Ctl *ctl, const void *opts, char **words, GError **error)
{
    const SnapshotOptions *o = opts;
    g_autoptr(CtlPrivate) daemon = NULL;
    bool is_device;

    if (!check_options(o, error) || !ctl_image_check(words[0], "qcow2", &is_device, error)) {
        return false;
    }
    daemon = ctl_private_start(ctl, error);
    if (!daemon) {
        return false;
    }
    if (!run_by(daemon, ctl, o, make_node(words[0], is_device, o), error)) {
        g_prefix_error(error, "%s '%s': ", changes(o) ? "cannot change" : "cannot look at",
                       words[0]);
        return false;
    }
    return true;
}

const CtlCommand ctl_command_snapshot = {
    .name = "snapshot",
    .synopsis = "IMAGE",
    .summary = "list, take, apply or delete internal snapshots of a qcow2 image",
    .details =
        "NAME is a snapshot's name or, if none is called that, its id. No running daemon is\n"
        "needed, and nobody else may use IMAGE meanwhile. Of an image that a daemon has open\n"
        "they are changed by its commands blockdev-snapshot-internal-sync,\n"
        "blockdev-snapshot-apply-internal-sync and blockdev-snapshot-delete-internal-sync.\n"
        "What is in one is shown by 'wharfctl mount --snapshot'.",
    .words = CTL_WORDS_FILES,
    .min_words = 1,
    .max_words = 1,
    .options = snapshot_options,
    .options_size = sizeof(SnapshotOptions),
    .run = run,
};
