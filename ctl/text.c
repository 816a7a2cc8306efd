/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/text.h"

#include <string.h>

#include "ctl/ctl.h"

/* Nobody mistypes a name that is longer than this, and the matrix is quadratic. */
#define NEAREST_MAX 64

/*
 * How many insertions, deletions, replacements and swaps of neighbours lead from @a to @b; '_' and
 * '-' count as the same, upper and lower case, too.
 */
static unsigned edit_distance(const char *a, gsize a_length, const char *b, gsize b_length)
{
    unsigned rows[3][NEAREST_MAX + 1];

    for (gsize j = 0; j <= b_length; j++) {
        rows[0][j] = j;
    }
    for (gsize i = 1; i <= a_length; i++) {
        unsigned *before = rows[(i + 1) % 3], *above = rows[(i - 1) % 3], *row = rows[i % 3];

        row[0] = i;
        for (gsize j = 1; j <= b_length; j++) {
            bool same = a[i - 1] == b[j - 1];

            row[j] = MIN(MIN(above[j], row[j - 1]) + 1, above[j - 1] + !same);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                row[j] = MIN(row[j], before[j - 2] + 1);
            }
        }
    }
    return rows[a_length % 3][b_length];
}

static char *fold(const char *name)
{
    return g_strdelimit(g_ascii_strdown(name, -1), "_", '-');
}

const char *ctl_text_nearest(const char *word, const char *const *names, gsize n)
{
    g_autofree char *folded = fold(word);
    gsize length = strlen(folded);
    unsigned best_distance = 1 + MIN(3, length / 3);
    const char *best = NULL;

    if (length > NEAREST_MAX) {
        return NULL;
    }
    for (gsize i = 0; i < n; i++) {
        g_autofree char *name = fold(names[i]);
        gsize name_length = strlen(name);
        unsigned distance;

        if (name_length > NEAREST_MAX) {
            continue;
        }
        distance = edit_distance(folded, length, name, name_length);
        if (distance < best_distance) {
            best_distance = distance;
            best = names[i];
        }
    }
    return best;
}

char *ctl_text_printable(const char *text, gssize length)
{
    GString *out = g_string_new(NULL);
    const char *end = text + (length < 0 ? (gssize)strlen(text) : length);

    while (text < end) {
        gunichar c = g_utf8_get_char_validated(text, end - text);

        if (c == (gunichar)-1 || c == (gunichar)-2) {
            g_string_append_printf(out, "\\x%02x", (guint8)*text++);
            continue;
        }
        if (c == '\n') {
            g_string_append(out, "\\n");
        } else if (c == '\t') {
            g_string_append(out, "\\t");
        } else if (g_unichar_iscntrl(c) || g_unichar_type(c) == G_UNICODE_FORMAT ||
                   g_unichar_type(c) == G_UNICODE_LINE_SEPARATOR ||
                   g_unichar_type(c) == G_UNICODE_PARAGRAPH_SEPARATOR) {
            g_string_append_printf(out, c < 0x80 ? "\\x%02x" : "\\u%04x", c);
        } else {
            g_string_append_unichar(out, c);
        }
        text = c ? g_utf8_next_char(text) : text + 1;
    }
    return g_string_free(out, FALSE);
}

bool ctl_text_check_path(const char *path, GError **error)
{
    g_autofree char *shown = NULL;

    if (g_utf8_validate(path, -1, NULL)) {
        return true;
    }
    shown = ctl_text_printable(path, -1);
    g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                "the name '%s' is not UTF-8, as the daemon's commands need it\n"
                "Reach it by a symbolic link with another name.",
                shown);
    return false;
}

gsize ctl_text_width(const char *text)
{
    gsize width = 0;

    for (; *text; text = g_utf8_next_char(text)) {
        gunichar c = g_utf8_get_char(text);

        width += g_unichar_iszerowidth(c) ? 0 : g_unichar_iswide(c) ? 2 : 1;
    }
    return width;
}

/* Append one paragraph, from @column on. */
static void wrap_paragraph(GString *out, const char *text, gsize column, gsize indent, gsize width)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    bool first = true;

    for (char **word = words; *word; word++) {
        gsize length = ctl_text_width(*word);

        if (!first && column + 1 + length > width) {
            g_string_append_printf(out, "\n%*s", (int)indent, "");
            column = indent;
            first = true;
        }
        g_string_append_printf(out, "%s%s", first ? "" : " ", *word);
        column += length + !first;
        first = false;
    }
    g_string_append_c(out, '\n');
}

void ctl_text_wrap(GString *out, const char *text, gsize column, gsize indent, gsize width)
{
    g_auto(GStrv) paragraphs = g_strsplit(text, "\n", -1);

    if (!*text) { /* of which g_strsplit() makes no part at all */
        g_string_append_c(out, '\n');
    }
    for (char **paragraph = paragraphs; *paragraph; paragraph++) {
        g_autofree char *safe = ctl_text_printable(*paragraph, -1);

        if (paragraph != paragraphs) {
            g_string_append_printf(out, "%*s", (int)indent, "");
            column = indent;
        }
        wrap_paragraph(out, safe, column, indent, width);
    }
}

char *ctl_text_size(guint64 bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = bytes;
    gsize unit = 0;

    if (bytes < 1024) {
        return g_strdup_printf("%" G_GUINT64_FORMAT " B", bytes);
    }
    /* What would be shown as 1024.0 belongs to the next unit. */
    for (value /= 1024; value >= 1023.95 && unit + 1 < G_N_ELEMENTS(units); unit++) {
        value /= 1024;
    }
    if (value == (guint64)value) {
        return g_strdup_printf("%.0f %s", value, units[unit]);
    }
    return g_strdup_printf("%.1f %s", value, units[unit]);
}

/* The power of two that the suffix at @text stands for, or -1; an empty one is 0. */
static int parse_suffix(const char *text)
{
    static const char letters[] = "KMGTPE";
    const char *letter;

    if (*text == '\0' || strcmp(text, "B") == 0) {
        return 0;
    }
    letter = strchr(letters, g_ascii_toupper(*text));
    if (!letter || (text[1] && strcmp(text + 1, "B") != 0 && strcmp(text + 1, "iB") != 0)) {
        return -1;
    }
    return 10 * (letter - letters + 1);
}

/* Parse the digits after the point into *@numerator / *@denominator; @text moves behind them. */
static bool parse_fraction(const char **text, guint64 *numerator, guint64 *denominator)
{
    *numerator = 0;
    *denominator = 1;
    if (!g_ascii_isdigit(**text)) {
        return false;
    }
    for (; g_ascii_isdigit(**text); (*text)++) {
        if (*denominator >= G_GUINT64_CONSTANT(1000000000)) {
            return false;
        }
        *numerator = *numerator * 10 + (**text - '0');
        *denominator *= 10;
    }
    return true;
}

bool ctl_text_parse_integer(const char *text, bool *negative, guint64 *value)
{
    bool minus = *text == '-';
    guint64 numerator = 0, denominator = 1, n;
    char *after;
    const char *rest;
    int shift;
    bool hex;

    text += minus;
    hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    if (hex ? !g_ascii_isxdigit(text[2]) : !g_ascii_isdigit(*text)) {
        return false;
    }
    errno = 0;
    n = g_ascii_strtoull(text, &after, hex ? 16 : 10);
    if (errno) {
        return false;
    }
    rest = after;
    if (!hex && *rest == '.') {
        rest++;
        if (!parse_fraction(&rest, &numerator, &denominator)) {
            return false;
        }
    }
    shift = hex && *rest ? -1 : parse_suffix(rest);
    if (shift < 0 || (n && (n << shift) >> shift != n)) {
        return false;
    }
    /* numerator < 10^9 and shift <= 60: only the product needs 128 bits. */
    if (((unsigned __int128)numerator << shift) % denominator) {
        return false;
    }
    n = n << shift;
    numerator = (guint64)(((unsigned __int128)numerator << shift) / denominator);
    if (!g_uint64_checked_add(&n, n, numerator)) {
        return false;
    }
    if (minus && n > (guint64)G_MAXINT64 + 1) {
        return false;
    }
    *negative = minus && n;
    *value = n;
    return true;
}

char *ctl_text_shell_word(const char *word)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./,:=@%+";

    if (*word && word[strspn(word, plain)] == '\0') {
        return g_strdup(word);
    }
    return g_shell_quote(word);
}
