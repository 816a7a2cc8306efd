/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The JSON parser, fed with anything. The first byte selects the dialect, the limits, and how the
 * rest is cut into pieces; what comes out must not depend on the pieces, each value must read back
 * as itself, and a good value after a reset must come through.
 */
#include <glib.h>
#include <stdint.h>
#include <string.h>

#include "qapi/json-parser.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The way to resynchronise, then a good value, and what that comes out as. */
static const char resynchronise[] = "\xff{\"ok\": [1]}";
static const char good[] = "{\"ok\": [1]}\n";

static const JsonLimits small_limits = {.max_bytes = 100, .max_tokens = 20, .max_depth = 5};

/* All that came out, as text. */
static void log_item(void *opaque, QValue *value, GError *error)
{
    GString *log = opaque;

    if (value) {
        qvalue_to_json(value, log, 0);
    } else {
        g_string_append(log, error->message);
    }
    g_string_append_c(log, '\n');
}

static char *run(const JsonLimits *limits, bool strict, const char *bytes, size_t n, size_t piece)
{
    GString *log = g_string_new(NULL);
    g_autoptr(JsonParser) parser = json_parser_new(limits, strict, log_item, log);

    for (size_t i = 0; i < n; i += piece) {
        json_parser_feed(parser, bytes + i, MIN(piece, n - i));
    }
    json_parser_feed(parser, resynchronise, strlen(resynchronise));
    g_assert_true(g_str_has_suffix(log->str, good));
    json_parser_end(parser);
    return g_string_free(log, FALSE);
}

static void check_round_trip(void *opaque, QValue *value, GError *error)
{
    g_autoptr(QValue) back = NULL;
    g_autofree char *text = NULL;

    if (!value) {
        return;
    }
    text = qvalue_to_json_string(value);
    back = qvalue_from_json(text, -1, NULL);
    /* A double without a fraction reads back as an integer, so texts are compared, not values. */
    if (back) {
        g_autofree char *again = qvalue_to_json_string(back);

        g_assert_cmpstr(again, ==, text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0) {
        const JsonLimits *limits = data[0] & 1 ? &small_limits : NULL;
        bool strict = data[0] & 2;
        const char *bytes = (const char *)data + 1;
        g_autofree char *whole = run(limits, strict, bytes, size - 1, size);
        g_autofree char *pieces = run(limits, strict, bytes, size - 1, 1 + (data[0] >> 4));
        g_autoptr(JsonParser) parser = json_parser_new(limits, strict, check_round_trip, NULL);

        g_assert_cmpstr(whole, ==, pieces);
        json_parser_feed(parser, bytes, size - 1);
        json_parser_end(parser);
    }
    return 0;
}
