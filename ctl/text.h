/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/text.h - small things about text: what was probably meant, how to show what is foreign.
 */
#ifndef WHARF_CTL_TEXT_H
#define WHARF_CTL_TEXT_H

#include <glib.h>
#include <stdbool.h>

/* The one of @n @names that @word was probably meant to be, or NULL if none is near enough. */
const char *ctl_text_nearest(const char *word, const char *const *names, gsize n);

/*
 * @text (of @length bytes; -1 if NUL-terminated), safe for a terminal and on one line: control
 * characters and bytes that are not UTF-8 appear as escapes. g_free().
 */
char *ctl_text_printable(const char *text, gssize length);

/*
 * Whether @path can be said in a command, which is UTF-8 as all JSON is; else false with an error
 * that says so.
 */
bool ctl_text_check_path(const char *path, GError **error);

/* Columns that @text (valid UTF-8) takes on a terminal. */
gsize ctl_text_width(const char *text);

/*
 * Append @text to @out in lines of at most @width columns, broken between words. The first line
 * goes on from @column, the others are indented by @indent; an end of line in @text ends a
 * paragraph. Ends with an end of line.
 */
void ctl_text_wrap(GString *out, const char *text, gsize column, gsize indent, gsize width);

/* @bytes for people: "512 B", "1.5 GiB". g_free(). */
char *ctl_text_size(guint64 bytes);

/*
 * Parse an integer: decimal or 0x..., a sign, and for powers of 1024 one of the suffixes k, M, G,
 * T, P, E, in either case, with "iB" or "B" after it if one likes; "1.5G" is fine where it comes
 * out whole. *@negative tells the sign of *@value. Returns false for anything else, and on
 * overflow.
 */
bool ctl_text_parse_integer(const char *text, bool *negative, guint64 *value);

/* @word as one would have to type it in a shell. g_free(). */
char *ctl_text_shell_word(const char *word);

#endif
