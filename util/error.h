/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * util/error.h - the GError domain of the whole daemon.
 *
 * Threads   Any thread.
 * Errors    A message names the object concerned, the value that was wrong and the way out. The QMP
 *           error class and the JSON-RPC error code both derive from the code, in monitor/ alone.
 */
#ifndef WHARF_UTIL_ERROR_H
#define WHARF_UTIL_ERROR_H

#include <glib.h>

#define WHARF_ERROR (wharf_error_quark())
GQuark wharf_error_quark(void);

typedef enum {
    WHARF_ERROR_GENERIC,           /* the operation was refused or failed */
    WHARF_ERROR_INVALID_ARGUMENT,  /* an argument does not fit the schema */
    WHARF_ERROR_INVALID_REQUEST,   /* the envelope is malformed */
    WHARF_ERROR_PARSE,             /* the bytes are no JSON */
    WHARF_ERROR_COMMAND_NOT_FOUND, /* QMP class CommandNotFound */
    WHARF_ERROR_DEVICE_NOT_FOUND,  /* QMP class DeviceNotFound */
    WHARF_ERROR_NOT_FOUND,         /* a node, export or object of that name does not exist */
    WHARF_ERROR_EXISTS,            /* a name or place is taken */
    WHARF_ERROR_IN_USE,            /* somebody still uses it, or permissions conflict */
    WHARF_ERROR_UNSUPPORTED,       /* this build, kernel, driver or object cannot do it */
    WHARF_ERROR_IO,                /* the system said no; the message carries its reason */
} WharfError;

/* Set @error to "@format: strerror(@err)" with code WHARF_ERROR_IO. @err is a positive errno. */
void wharf_set_error_errno(GError **error, int err, const char *format, ...) G_GNUC_PRINTF(3, 4);

/*
 * What a stranger says (a peer's name, a server's reason), as it may stand in a message: in UTF-8,
 * and with what would control a terminal, break a line or turn the direction of writing around as
 * \xNN or \uNNNN.
 */
char *wharf_printable(const char *text);

#endif
