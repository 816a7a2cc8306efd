/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * monitor/errors-internal.h - what an error is called on the wire. Both names derive from the code
 * of the GError, here and nowhere else.
 */
#ifndef WHARF_MONITOR_ERRORS_INTERNAL_H
#define WHARF_MONITOR_ERRORS_INTERNAL_H

#include <glib.h>

/* QMP's error class: CommandNotFound, DeviceNotFound, and GenericError for all others. */
const char *monitor_error_class(const GError *error);

/*
 * JSON-RPC's error code. The specification's own where one fits: -32700 parse error, -32600 invalid
 * request, -32601 method not found, -32602 invalid params, -32603 internal error. Else one of ours:
 *   -32000  refused or failed               -32004  in use, or permissions conflict
 *   -32001  device not found                -32005  not supported
 *   -32002  no node, export or object has that name
 *   -32003  a name or place is taken        -32006  the system said no
 */
int monitor_error_code(const GError *error);

#endif
