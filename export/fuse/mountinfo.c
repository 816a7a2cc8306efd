/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "export/fuse/mountinfo.h"

#include <string.h>

void mountinfo_free(MountInfo *info)
{
    if (info) {
        g_free(info->mountpoint);
        g_free(info->fstype);
        g_free(info);
    }
}

static bool is_octal(char c)
{
    return c >= '0' && c <= '7';
}

/* Blanks and the like stand as backslash and three octal digits. */
static char *mountinfo_unescape(const char *field)
{
    GString *out = g_string_new(NULL);

    while (*field) {
        if (field[0] == '\\' && is_octal(field[1]) && is_octal(field[2]) && is_octal(field[3])) {
            int c = (field[1] - '0') * 64 + (field[2] - '0') * 8 + (field[3] - '0');

            g_string_append_c(out, (char)c);
            field += 4;
        } else {
            g_string_append_c(out, *field++);
        }
    }
    return g_string_free(out, FALSE);
}

static bool parse_device(const char *field, unsigned *dev_major, unsigned *dev_minor)
{
    g_auto(GStrv) parts = g_strsplit(field, ":", 3);
    guint64 numbers[2];

    if (g_strv_length(parts) != 2 ||
        !g_ascii_string_to_unsigned(parts[0], 10, 0, G_MAXUINT32, &numbers[0], NULL) ||
        !g_ascii_string_to_unsigned(parts[1], 10, 0, G_MAXUINT32, &numbers[1], NULL)) {
        return false;
    }
    *dev_major = numbers[0];
    *dev_minor = numbers[1];
    return true;
}

/*
 * The fields: id, parent id, major:minor, root, mountpoint, options, any number of optional fields,
 * a single hyphen, type, source, options of the superblock.
 */
MountInfo *mountinfo_parse_line(const char *line)
{
    g_autofree char *copy = g_strdup(line);
    g_auto(GStrv) fields = g_strsplit(g_strchomp(copy), " ", -1);
    unsigned n = g_strv_length(fields);
    g_autoptr(MountInfo) info = g_new0(MountInfo, 1);
    unsigned hyphen = 6;

    while (hyphen < n && !g_str_equal(fields[hyphen], "-")) {
        hyphen++;
    }
    if (hyphen + 2 >= n ||
        !g_ascii_string_to_unsigned(fields[0], 10, 0, G_MAXUINT64, &info->id, NULL) ||
        !parse_device(fields[2], &info->dev_major, &info->dev_minor)) {
        return NULL;
    }
    info->mountpoint = mountinfo_unescape(fields[4]);
    info->fstype = g_strdup(fields[hyphen + 1]);
    return g_steal_pointer(&info);
}

MountInfo *mountinfo_parse_find(const char *text, uint64_t id, unsigned dev_major,
                                unsigned dev_minor)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (unsigned i = 0; lines[i]; i++) {
        g_autoptr(MountInfo) info = mountinfo_parse_line(lines[i]);

        if (info && info->id == id && info->dev_major == dev_major &&
            info->dev_minor == dev_minor) {
            return g_steal_pointer(&info);
        }
    }
    return NULL;
}

MountInfo *mountinfo_find_id(uint64_t id, unsigned dev_major, unsigned dev_minor)
{
    g_autofree char *text = NULL;

    if (!g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL)) {
        return NULL;
    }
    return mountinfo_parse_find(text, id, dev_major, dev_minor);
}
