/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/check.h - whether an image is consistent, and making it so.
 *
 * A check walks through all that the image's header leads to, counts how often each cluster is
 * named, and compares that with the refcounts. It works on the bytes of the file alone: nothing of
 * an open node is needed, nothing kept, and of the image nothing is believed. Tables that are named
 * many times are read once; memory is bounded by what the file holds.
 *
 *   counts           how often clusters are named
 *   check-walk       from the header to all that is named; entries that cannot be right
 *   check-l2         the same of L2 tables
 *   check-refcounts  comparing, and new refcounts
 *   check-copied     entries that say that nobody else has their cluster
 *
 * What a repair writes, and in which order: entries that cannot be right (each is one word, after
 * which fewer clusters are named), refcounts in place, flush, entries' bits, flush, and last the
 * header's bits that say that something was wrong. Where refcounts cannot be set in place, new
 * blocks and a new table for all of them are written to a place that nothing names, and flushed,
 * before the header names them. A new table of snapshots is named when it has been counted, and the
 * old one is counted down after that. So a repair that is cut off leaves nothing worse than there
 * was, and can be done again.
 *
 * Threads   Coroutines of any thread; nobody else may write to the file meanwhile.
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_CHECK_H
#define WHARF_BLOCK_DRIVERS_QCOW2_CHECK_H

#include "block/driver.h"

/*
 * Check the image in @file and repair it as @repair says. *@result (zeros and an empty list of
 * findings before) gets what was found, but not the names of file and format; it belongs to the
 * caller also after an error. False and @error: the image cannot be checked at all, or the check
 * has ended before its end (check_errors is not 0 then). @job, if it is not NULL, is told how far
 * it has come, in bytes of tables that are read, and may end it. So does *@give_up, when it becomes
 * true.
 */
bool co_fn qcow2_check_co_run(BlockChild *file, ImageRepair repair, Job *job, const bool *give_up,
                              ImageCheck *result, GError **error);

#endif
