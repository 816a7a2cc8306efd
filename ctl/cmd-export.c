/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wharfctl export: a node and its FUSE export in a running daemon, in one go or not at all.
 */
#include "ctl/commands.h"

#include <stdio.h>

#include "ctl/client.h"
#include "ctl/exports.h"
#include "ctl/json.h"
#include "ctl/output.h"
#include "ctl/place.h"
#include "ctl/recipe.h"
#include "ctl/text.h"

/* How many numbers are tried to find a name that is free. */
#define MAX_TRIES 10000

/* Whether neither an export nor a node stands in the way of the export @id. */
static bool is_free(const QValue *exports, const QValue *nodes, const char *id)
{
    g_autofree char *node = ctl_recipe_node_name(id);

    return !ctl_exports_find(exports, "id", id) && !ctl_nodes_find(nodes, node);
}

/* The number that makes the id for @path one that nobody has right now. */
static unsigned find_free(CtlClient *client, const char *path, GError **error)
{
    g_autoptr(QValue) exports = ctl_exports_query(client, error);
    g_autoptr(QValue) nodes = exports ? ctl_nodes_query(client, error) : NULL;

    for (unsigned i = 1; nodes && i <= MAX_TRIES; i++) {
        g_autofree char *id = ctl_recipe_id(path, i);

        if (is_free(exports, nodes, id)) {
            return i;
        }
    }
    if (nodes) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                    "no name is free for the export; give --id=ID");
    }
    return 0;
}

/* Export the node called after @id; if that fails it goes again. */
static bool add_export(CtlClient *client, const CtlRecipe *recipe, const char *id, GError **error)
{
    g_autofree char *node = ctl_recipe_node_name(id);
    g_autoptr(GError) local = NULL;

    if (ctl_client_run(client, "block-export-add", ctl_recipe_export(recipe, id), error)) {
        return true;
    }
    if (!ctl_client_run(client, "blockdev-del", ctl_json_strings("node-name", node, NULL),
                        &local)) {
        fprintf(stderr, "wharfctl: note: the node '%s' is left behind: %s\n", node, local->message);
    }
    return false;
}

static bool add_node(CtlClient *client, const CtlRecipe *recipe, const char *id, GError **error)
{
    return ctl_client_run(client, "blockdev-add", ctl_recipe_node(recipe, id), error);
}

/* Add both under a name made from the image's; somebody else may take one while we choose it. */
static char *add_under_free_id(CtlClient *client, const CtlRecipe *recipe, GError **error)
{
    unsigned n = find_free(client, recipe->image, error);

    while (n > 0) {
        g_autofree char *id = ctl_recipe_id(recipe->image, n);
        g_autoptr(GError) local = NULL;

        if (add_node(client, recipe, id, &local)) {
            return add_export(client, recipe, id, error) ? g_steal_pointer(&id) : NULL;
        }
        if (!ctl_client_says_exists(client) || n >= MAX_TRIES) {
            g_propagate_error(error, g_steal_pointer(&local));
            return NULL;
        }
        n++;
    }
    return NULL;
}

/* Add node and export, both or none. Returns the export's id. */
static char *add(CtlClient *client, const CtlRecipe *recipe, GError **error)
{
    const char *id = recipe->options->id;

    if (!id) {
        return add_under_free_id(client, recipe, error);
    }
    return add_node(client, recipe, id, error) && add_export(client, recipe, id, error)
               ? g_strdup(id)
               : NULL;
}

static void tell(const Ctl *ctl, const CtlRecipe *recipe, const char *id)
{
    g_autoptr(QValue) facts = NULL;

    if (!ctl->json) {
        printf("%s is at %s, %s.\nTo end it:  wharfctl rm %s\n", recipe->image, recipe->mountpoint,
               recipe->options->writable ? "writable" : "read-only", id);
        return;
    }
    facts =
        ctl_json_strings("id", id, "image", recipe->image, "mountpoint", recipe->mountpoint, NULL);
    qvalue_object_set(facts, "writable", qvalue_bool(recipe->options->writable));
    ctl_output_json(facts);
}

static bool run(const Ctl *ctl, const void *opts, char **words, GError **error)
{
    g_autofree char *socket = ctl_place_socket(ctl->socket);
    g_autoptr(CtlClient) client = ctl_client_connect(socket, error);
    g_auto(CtlRecipe) recipe = {0};
    g_autofree char *id = NULL;

    if (!client) {
        return false;
    }
    if (ctl_recipe_prepare(&recipe, opts, words[0], words[1], error)) {
        id = add(client, &recipe, error);
    }
    if (!id) {
        g_prefix_error(error, "cannot export '%s' at '%s': ", words[0], words[1]);
        return false;
    }
    ctl_recipe_succeeded(&recipe);
    tell(ctl, &recipe, id);
    return true;
}

const CtlCommand ctl_command_export = {
    .name = "export",
    .synopsis = "IMAGE FILE",
    .summary = "show the content of IMAGE as FILE, by the running daemon",
    .details =
        "Adds a node for IMAGE and a FUSE export of it at FILE; if the second fails, the first\n"
        "is taken back. FILE is made if it is not there. Paths count from where you are.\n"
        "'wharfctl rm ID' removes both again.",
    .words = CTL_WORDS_FILES,
    .min_words = 2,
    .max_words = 2,
    .options = ctl_recipe_options,
    .options_size = sizeof(CtlRecipeOptions),
    .run = run,
};
