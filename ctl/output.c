/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/output.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ctl/ctl.h"
#include "ctl/text.h"

#define BOLD  "\033[1m"
#define PLAIN "\033[0m"

/* An array of objects with more members than this is easier to read one below the other. */
#define TABLE_MAX_COLUMNS 8
#define INDENT            2

bool ctl_output_is_fancy(void)
{
    return isatty(STDOUT_FILENO) && !g_getenv("NO_COLOR") &&
           g_strcmp0(g_getenv("TERM"), "dumb") != 0;
}

bool ctl_output_is_utf8(void)
{
    return g_get_charset(NULL);
}

bool ctl_output_finish(GError **error)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return true;
    }
    g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot write the output: %s",
                errno ? g_strerror(errno) : "an earlier part of it could not be written");
    return false;
}

void ctl_output_json(const QValue *value)
{
    g_autoptr(GString) text = g_string_new(NULL);

    qvalue_to_json(value, text, 0);
    puts(text->str);
}

/* ---- Tables ---- */

struct CtlTable {
    guint columns;
    GPtrArray *cells; /* of char *, row by row, the header first */
    bool *right;
    gsize *widths;
};

static void table_add_cell(CtlTable *table, const char *text)
{
    guint column = table->cells->len % table->columns;
    char *cell = text ? ctl_text_printable(text, -1) : g_strdup("-");

    table->widths[column] = MAX(table->widths[column], ctl_text_width(cell));
    g_ptr_array_add(table->cells, cell);
}

CtlTable *ctl_table_new(const char *const *header)
{
    CtlTable *table = g_new0(CtlTable, 1);

    table->columns = g_strv_length((char **)header);
    table->cells = g_ptr_array_new_with_free_func(g_free);
    table->right = g_new0(bool, table->columns);
    table->widths = g_new0(gsize, table->columns);
    for (guint i = 0; i < table->columns; i++) {
        table->right[i] = header[i][0] == '>';
        table_add_cell(table, header[i] + table->right[i]);
    }
    return table;
}

void ctl_table_add(CtlTable *table, const char *const *cells)
{
    for (guint i = 0; i < table->columns; i++) {
        table_add_cell(table, cells[i]);
    }
}

static void table_print_row(const CtlTable *table, guint first, const char *before,
                            const char *after)
{
    g_autoptr(GString) line = g_string_new(before);

    for (guint i = 0; i < table->columns; i++) {
        const char *cell = g_ptr_array_index(table->cells, first + i);
        int padding = table->widths[i] - ctl_text_width(cell);

        if (table->right[i]) {
            g_string_append_printf(line, "%*s%s", padding, "", cell);
        } else if (i + 1 < table->columns) {
            g_string_append_printf(line, "%s%*s", cell, padding, "");
        } else {
            g_string_append(line, cell);
        }
        g_string_append(line, i + 1 < table->columns ? "  " : after);
    }
    puts(line->str);
}

void ctl_table_print(CtlTable *table)
{
    bool fancy = ctl_output_is_fancy();

    for (guint i = 0; i < table->cells->len; i += table->columns) {
        bool emphasis = fancy && i == 0;

        table_print_row(table, i, emphasis ? BOLD : "", emphasis ? PLAIN : "");
    }
    g_ptr_array_unref(table->cells);
    g_free(table->right);
    g_free(table->widths);
    g_free(table);
}

/* ---- Values ---- */

static bool is_container(const QValue *value)
{
    return qvalue_type(value) == QVALUE_OBJECT || qvalue_type(value) == QVALUE_ARRAY;
}

static bool is_empty(const QValue *value)
{
    return qvalue_type(value) == QVALUE_OBJECT  ? qvalue_object_size(value) == 0
           : qvalue_type(value) == QVALUE_ARRAY ? qvalue_array_length(value) == 0
                                                : false;
}

static char *scalar_text(const QValue *value)
{
    g_autoptr(GString) json = NULL;
    const char *text;
    gsize length;

    if (qvalue_type(value) == QVALUE_STRING) {
        text = qvalue_get_string(value, &length);
        return ctl_text_printable(text, length);
    }
    json = g_string_new(NULL);
    qvalue_to_json(value, json, 0);
    return g_string_free(g_steal_pointer(&json), FALSE);
}

/* Collect the keys of all objects in @array; NULL if it is not something to be shown as a table. */
static GPtrArray *table_columns(const QValue *array)
{
    g_autoptr(GPtrArray) keys = g_ptr_array_new_with_free_func(g_free);

    for (gsize i = 0; i < qvalue_array_length(array); i++) {
        const QValue *row = qvalue_array_get(array, i);

        if (qvalue_type(row) != QVALUE_OBJECT) {
            return NULL;
        }
        for (gsize j = 0; j < qvalue_object_size(row); j++) {
            const char *key = qvalue_object_key(row, j);

            if (is_container(qvalue_object_value(row, j))) {
                return NULL;
            }
            if (!g_ptr_array_find_with_equal_func(keys, key, g_str_equal, NULL)) {
                g_ptr_array_add(keys, g_strdup(key));
            }
        }
    }
    if (keys->len == 0 || keys->len > TABLE_MAX_COLUMNS) {
        return NULL;
    }
    g_ptr_array_add(keys, NULL);
    return g_steal_pointer(&keys);
}

static bool is_number(const QValue *value)
{
    return qvalue_type(value) == QVALUE_INT || qvalue_type(value) == QVALUE_UINT ||
           qvalue_type(value) == QVALUE_DOUBLE;
}

static CtlTable *table_for(const QValue *array, const GPtrArray *keys)
{
    g_autoptr(GPtrArray) header = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; i + 1 < keys->len; i++) {
        g_autofree char *upper = g_utf8_strup(g_ptr_array_index(keys, i), -1);
        bool numbers = true;

        for (gsize j = 0; j < qvalue_array_length(array) && numbers; j++) {
            const QValue *cell =
                qvalue_object_get(qvalue_array_get(array, j), g_ptr_array_index(keys, i));

            numbers = !cell || is_number(cell);
        }
        g_ptr_array_add(header, g_strconcat(numbers ? ">" : "", upper, NULL));
    }
    g_ptr_array_add(header, NULL);
    return ctl_table_new((const char *const *)header->pdata);
}

static void print_table(const QValue *array, const GPtrArray *keys)
{
    CtlTable *table = table_for(array, keys);

    for (gsize i = 0; i < qvalue_array_length(array); i++) {
        g_autoptr(GPtrArray) cells = g_ptr_array_new_with_free_func(g_free);

        for (guint j = 0; j + 1 < keys->len; j++) {
            const QValue *cell =
                qvalue_object_get(qvalue_array_get(array, i), g_ptr_array_index(keys, j));

            g_ptr_array_add(cells, cell ? scalar_text(cell) : NULL);
        }
        ctl_table_add(table, (const char *const *)cells->pdata);
    }
    ctl_table_print(table);
}

static void print_object(const QValue *object, int indent, bool first_is_placed);

/* The elements of an array, each begun by a dash. */
static void print_list(const QValue *array, int indent)
{
    for (gsize i = 0; i < qvalue_array_length(array); i++) {
        const QValue *element = qvalue_array_get(array, i);
        g_autofree char *text = NULL;

        if (qvalue_type(element) == QVALUE_OBJECT && !is_empty(element)) {
            printf("%*s- ", indent, "");
            print_object(element, indent + INDENT, true);
        } else if (qvalue_type(element) == QVALUE_ARRAY && !is_empty(element)) {
            printf("%*s-\n", indent, "");
            print_list(element, indent + INDENT);
        } else {
            text = scalar_text(element);
            printf("%*s- %s\n", indent, "", text);
        }
    }
}

/* The members of an object, a line each. With @first_is_placed the first is indented already. */
static void print_object(const QValue *object, int indent, bool first_is_placed)
{
    for (gsize i = 0; i < qvalue_object_size(object); i++) {
        const QValue *value = qvalue_object_value(object, i);
        g_autofree char *key = ctl_text_printable(qvalue_object_key(object, i), -1);
        g_autofree char *text = NULL;

        printf("%*s%s:", i == 0 && first_is_placed ? 0 : indent, "", key);
        if (!is_container(value) || is_empty(value)) {
            text = scalar_text(value);
            printf(" %s\n", text);
            continue;
        }
        putchar('\n');
        if (qvalue_type(value) == QVALUE_OBJECT) {
            print_object(value, indent + INDENT, false);
        } else {
            print_list(value, indent + INDENT);
        }
    }
}

/* Objects too rich for a table: one after the other, with an empty line between them. */
static void print_records(const QValue *array)
{
    for (gsize i = 0; i < qvalue_array_length(array); i++) {
        if (i) {
            putchar('\n');
        }
        ctl_output_value(qvalue_array_get(array, i));
    }
}

static bool all_objects(const QValue *array)
{
    for (gsize i = 0; i < qvalue_array_length(array); i++) {
        if (qvalue_type(qvalue_array_get(array, i)) != QVALUE_OBJECT) {
            return false;
        }
    }
    return true;
}

static bool any_containers(const QValue *array)
{
    for (gsize i = 0; i < qvalue_array_length(array); i++) {
        if (is_container(qvalue_array_get(array, i))) {
            return true;
        }
    }
    return false;
}

static void print_array(const QValue *array)
{
    g_autoptr(GPtrArray) keys = table_columns(array);

    if (is_empty(array)) {
        puts("(none)");
    } else if (keys) {
        print_table(array, keys);
    } else if (all_objects(array) || !any_containers(array)) {
        print_records(array);
    } else {
        print_list(array, 0);
    }
}

void ctl_output_value(const QValue *value)
{
    g_autofree char *text = NULL;

    if (qvalue_type(value) == QVALUE_OBJECT) {
        print_object(value, 0, false);
    } else if (qvalue_type(value) == QVALUE_ARRAY) {
        print_array(value);
    } else {
        text = scalar_text(value);
        puts(text);
    }
}
