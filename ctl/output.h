/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/output.h - what wharfctl shows on standard output: tables and indented text for people, one
 * line of JSON for scripts.
 *
 * Everything foreign is made safe for a terminal on its way. Emphasis and box drawing characters
 * are used on a terminal that can show them, and nowhere else. Writing never fails here; main()
 * asks ctl_output_finish() at the end.
 */
#ifndef WHARF_CTL_OUTPUT_H
#define WHARF_CTL_OUTPUT_H

#include <glib.h>
#include <stdbool.h>

#include "qapi/qvalue.h"

/* @value as JSON on a line of its own. */
void ctl_output_json(const QValue *value);

/*
 * @value for people: an array of flat objects as a table, other objects as "key: value", nested
 * ones indented, an empty object as nothing at all.
 */
void ctl_output_value(const QValue *value);

/* A table being filled. */
typedef struct CtlTable CtlTable;

/* @header: the names of the columns, NULL-terminated; those that begin with '>' are right-aligned.
 */
CtlTable *ctl_table_new(const char *const *header);

/* Add a row of as many cells as there are columns; a NULL cell shows as '-'. Copies. */
void ctl_table_add(CtlTable *table, const char *const *cells);

/* Write it and free it. */
void ctl_table_print(CtlTable *table);

/* Whether output goes to a terminal on which emphasis is wanted (NO_COLOR, TERM=dumb). */
bool ctl_output_is_fancy(void);

/* Whether the user's locale can show box drawing characters. */
bool ctl_output_is_utf8(void);

/* Flush. Returns false with CTL_ERROR_FAILED if something could not be written. */
bool ctl_output_finish(GError **error);

#endif
