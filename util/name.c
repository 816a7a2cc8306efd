/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "util/name.h"

#include "util/error.h"

#include <string.h>

bool name_is_wellformed(const char *name)
{
    if (!g_ascii_isalpha(*name)) {
        return false;
    }
    for (const char *p = name + 1; *p; p++) {
        if (!g_ascii_isalnum(*p) && !strchr("-._", *p)) {
            return false;
        }
    }
    return true;
}

bool name_check(const char *name, const char *what, GError **error)
{
    if (name_is_wellformed(name)) {
        return true;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                "'%s' is no %s: it must begin with a letter and go on with letters, digits, '-', "
                "'.' and '_'",
                name, what);
    return false;
}
