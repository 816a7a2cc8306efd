/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/nbd/nbd.h - the NBD server of a registry of exports, for the command line.
 *
 * Threads   Main thread; co_fn in coroutines of the main context.
 */
#ifndef WHARF_EXPORT_NBD_NBD_H
#define WHARF_EXPORT_NBD_NBD_H

#include "export/export.h"
#include "qapi/types-nbd.h"

/* Start the server: it listens when this returns. One at a time. */
bool co_fn nbd_server_co_start(ExportRegistry *registry, const NbdServerOptions *options,
                               GError **error);

#endif
