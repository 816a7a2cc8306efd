/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qapi/socket-place.h - from addresses of the schema to places of util/socket.h.
 *
 * Threads   Any; nothing is looked up.
 * Errors    WHARF_ERROR: a contradiction, or what this build cannot do (vsock, mptcp).
 */
#ifndef WHARF_QAPI_SOCKET_PLACE_H
#define WHARF_QAPI_SOCKET_PLACE_H

#include "qapi/types-common.h"
#include "util/socket.h"

/* From the flat form. A new place, or NULL. */
SocketPlace *socket_place_from_address(const SocketAddress *addr, GError **error);

/* From the nested form. */
SocketPlace *socket_place_from_legacy(const SocketAddressLegacy *addr, GError **error);

#endif
