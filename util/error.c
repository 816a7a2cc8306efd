/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "util/error.h"

#include <stdarg.h>
#include <stdbool.h>

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

static bool is_printable(gunichar c)
{
    switch (g_unichar_type(c)) {
    case G_UNICODE_CONTROL:
    case G_UNICODE_FORMAT:
    case G_UNICODE_LINE_SEPARATOR:
    case G_UNICODE_PARAGRAPH_SEPARATOR:
        return false;
    default:
        return true;
    }
}

char *wharf_printable(const char *text)
{
    GString *out = g_string_new(NULL);

    while (*text) {
        gunichar c = g_utf8_get_char_validated(text, -1);

        if (c == (gunichar)-1 || c == (gunichar)-2) {
            g_string_append_printf(out, "\\x%02x", (guint8)*text++);
            continue;
        }
        if (is_printable(c)) {
            g_string_append_unichar(out, c);
        } else {
            g_string_append_printf(out, c < 0x80 ? "\\x%02x" : "\\u%04x", c);
        }
        text = g_utf8_next_char(text);
    }
    return g_string_free(out, FALSE);
}
