/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "util/error.h"

#include <stdarg.h>

G_DEFINE_QUARK(wharf_error, wharf_error)

void wharf_set_error_errno(GError **error, int err, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list ap;

    va_start(ap, format);
    what = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "%s: %s", what, g_strerror(err));
}
