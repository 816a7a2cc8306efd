/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/exports.h - the exports of a daemon, as the short forms see them.
 */
#ifndef WHARF_CTL_EXPORTS_H
#define WHARF_CTL_EXPORTS_H

#include "ctl/client.h"

/* The answer to query-block-exports, an array. NULL with an error. */
QValue *ctl_exports_query(CtlClient *client, GError **error);

/* The one of @exports whose member @key is the string @value, or NULL; borrowed. */
const QValue *ctl_exports_find(const QValue *exports, const char *key, const char *value);

/* The answer to query-named-block-nodes, an array. NULL with an error. */
QValue *ctl_nodes_query(CtlClient *client, GError **error);

/* The one of @nodes called @name, or NULL; borrowed. */
const QValue *ctl_nodes_find(const QValue *nodes, const char *name);

/*
 * The length of @node in bytes, or G_MAXUINT64 if that is not told. Exact, but for daemons that
 * know multiples of 512 alone.
 */
guint64 ctl_nodes_length(const QValue *node);

/* Begin to hear of exports that end; to be called before what makes them end. */
bool ctl_exports_watch(CtlClient *client, GError **error);

/*
 * Wait until the export @id has ended, up to @seconds. CTL_ERROR_FAILED if it takes longer.
 */
bool ctl_exports_wait_end(CtlClient *client, const char *id, unsigned seconds, GError **error);

/*
 * Delete the node that "export" made for the export @id, which has ended and was of the node
 * @node_name. Leaves any other node alone, and one that somebody else uses by now, with a note.
 */
bool ctl_exports_drop_node(CtlClient *client, const char *id, const char *node_name,
                           GError **error);

#endif
