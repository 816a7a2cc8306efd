/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daemon/plan.h - in which order to carry out what the command line asks for.
 *
 * Threads   Any; pure.
 */
#ifndef WHARF_DAEMON_PLAN_H
#define WHARF_DAEMON_PLAN_H

#include "daemon/options.h"

/*
 * Order @items (StartItem) so that what is referred to comes first: objects and nodes before those
 * that name them, chardevs before their monitor, the NBD server before NBD exports. Apart from that
 * the order given stays. Items that refer to each other in a circle stay, too, and fail when their
 * turn comes. Returns the same items, borrowed, in their new order.
 */
GPtrArray *plan_start(const GPtrArray *items);

#endif
