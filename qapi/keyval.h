/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qapi/keyval.h - options of the command line: key=value,... or JSON.
 *
 *   a=x,b.c=y     { "a": "x", "b": { "c": "y" } }
 *   a.0=x,a.1=y   { "a": ["x", "y"] }
 *   a=x,,y        { "a": "x,y" }
 *   a=x,a=y       { "a": "y" }; the last one wins
 *   { ... }       text that begins with a brace is JSON, in QMP's dialect
 *
 * Values of key=value are strings that stand for any scalar (qvalue_string_untyped()), so that the
 * generated x_from_keyval() takes "on" for a boolean; it stays as strict as over QMP with those of
 * JSON text.
 *
 * Threads   Any thread.
 * Errors    WHARF_ERROR_INVALID_ARGUMENT, or WHARF_ERROR_PARSE in JSON text.
 */
#ifndef WHARF_QAPI_KEYVAL_H
#define WHARF_QAPI_KEYVAL_H

#include "qapi/qvalue.h"

/*
 * Parse @text to a new object. With @implied_key (may be NULL) a first element without '=' is its
 * value: "raw,file=x" means "driver=raw,file=x". A trailing comma is fine; text without anything
 * gives an empty object.
 */
QValue *keyval_parse(const char *text, const char *implied_key, GError **error);

#endif
