/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/query-internal.h - what nodes look like in replies. Main thread; results are the caller's.
 */
#ifndef WHARF_BLOCK_QUERY_INTERNAL_H
#define WHARF_BLOCK_QUERY_INTERNAL_H

#include "block/block-internal.h"

/* An element of query-named-block-nodes. */
BlockDeviceInfo *co_fn block_query_co_node(BlockNode *node, bool flat);

/* An element of query-blockstats. */
BlockStats *block_query_stats(BlockNode *node);

#endif
