/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/recipe.h - what "mount" and "export" have in common: the way from an image and a file to the
 * node and the export that show one at the other.
 */
#ifndef WHARF_CTL_RECIPE_H
#define WHARF_CTL_RECIPE_H

#include "ctl/options.h"
#include "qapi/qvalue.h"

/* Options of both commands, and what they fill. */
typedef struct CtlRecipeOptions {
    bool writable;
    bool growable;
    const char *format;
    const char *snapshot;
    const char *allow_other;
    const char *id;
    bool replace_stale;
} CtlRecipeOptions;

extern const CtlOption ctl_recipe_options[];

typedef struct CtlRecipe {
    const CtlRecipeOptions *options; /* borrowed */
    char *image;                     /* absolute */
    char *mountpoint;                /* absolute */
    bool is_device;
    bool made_mountpoint;
} CtlRecipe;

/*
 * Check the image, and make an empty file at @mountpoint if there is nothing yet. What was made
 * goes again in ctl_recipe_clear(), unless ctl_recipe_succeeded() comes before.
 */
bool ctl_recipe_prepare(CtlRecipe *recipe, const CtlRecipeOptions *options, const char *image,
                        const char *mountpoint, GError **error);
void ctl_recipe_succeeded(CtlRecipe *recipe);
void ctl_recipe_clear(CtlRecipe *recipe);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CtlRecipe, ctl_recipe_clear)

/*
 * The export's id for the image @path: the letters of its file's name that an id may have. The
 * number @nth > 1 makes it another one. g_free().
 */
char *ctl_recipe_id(const char *path, unsigned nth);

/* The name of the node that belongs to the export @id, which is how "rm" knows it. g_free(). */
char *ctl_recipe_node_name(const char *id);

/* Arguments of blockdev-add and block-export-add. */
QValue *ctl_recipe_node(const CtlRecipe *recipe, const char *id);
QValue *ctl_recipe_export(const CtlRecipe *recipe, const char *id);

#endif
