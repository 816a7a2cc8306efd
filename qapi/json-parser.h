/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qapi/json-parser.h - foreign bytes to JSON values, as they arrive.
 *
 * Values may follow each other with any or no white space between. A value is handed out as soon as
 * it is complete; a number or word at top level is so at the next delimiter. Whatever comes in,
 * time is linear in its length and memory is bounded by the limits, and the parser goes on after
 * every error:
 * - A grammar error is reported once, at the offending token; the rest of that value, up to its
 *   balanced end, is dropped. So it is with a broken limit.
 * - Bytes that start no token (a control character, 0xff, '%') are a lexical error. It drops the
 *   value that was begun and resets the parser, whatever state that was in; what follows, from the
 *   next end of line or one of {}[]:, on, is new input. Sending 0xff is the way to resynchronise.
 *   While a broken value is being dropped a lexical error resets silently.
 *
 * Two dialects: QMP's, with 'single quoted' strings, the escape \' and U+0000 as the bytes c0 80,
 * but without noncharacters; and strict RFC 8259. Both refuse duplicate members, unpaired
 * surrogates, and numbers beyond a double. Integers from -2^63 to 2^64-1 are exact, other numbers
 * are doubles.
 *
 * Threads   A parser belongs to one thread at a time.
 * Errors    WHARF_ERROR_PARSE; messages begin with line and column, counted in bytes from the first
 *           byte fed.
 */
#ifndef WHARF_QAPI_JSON_PARSER_H
#define WHARF_QAPI_JSON_PARSER_H

#include "qapi/qvalue.h"

typedef struct JsonParser JsonParser;

/* Limits of one value. Values at the limit are fine. */
typedef struct JsonLimits {
    gsize max_bytes;    /* of the text, without white space around it */
    gsize max_tokens;   /* brackets, commas, colons and scalars */
    unsigned max_depth; /* nested arrays and objects */
} JsonLimits;

/* What qemu-storage-daemon allows: 64 MiB, 2 Mi tokens, 1024 levels. */
extern const JsonLimits json_limits_default;

/* Gets a value or an error; both are borrowed. It must neither feed nor free the parser. */
typedef void JsonEmit(void *opaque, QValue *value, GError *error);

/* @limits is copied; NULL means the default. @strict selects RFC 8259. */
JsonParser *json_parser_new(const JsonLimits *limits, bool strict, JsonEmit *emit, void *opaque);
void json_parser_free(JsonParser *parser);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(JsonParser, json_parser_free)

/* Parse @n bytes; calls emit any number of times. */
void json_parser_feed(JsonParser *parser, const char *bytes, size_t n);

/*
 * No more input follows: a number or word that waited for its end is complete, an unfinished value
 * is an error. The parser is as new afterwards.
 */
void json_parser_end(JsonParser *parser);

/*
 * The one value that @text (@len bytes, or up to its NUL if @len is -1) holds, in QMP's dialect.
 * Returns NULL and fills @error if it holds none, several, or a wrong one.
 */
QValue *qvalue_from_json(const char *text, gssize len, GError **error);

#endif
