/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/json.h - looking into answers. They are foreign: what is not there, or not of the type asked
 * for, is NULL, and so is anything in NULL.
 */
#ifndef WHARF_CTL_JSON_H
#define WHARF_CTL_JSON_H

#include "qapi/qvalue.h"

const char *ctl_json_string(const QValue *value, const char *key);
const QValue *ctl_json_object(const QValue *value, const char *key);
const QValue *ctl_json_array(const QValue *value, const char *key);

/* @fallback if it is not there or not of that type (or negative). */
bool ctl_json_bool(const QValue *value, const char *key, bool fallback);
guint64 ctl_json_uint(const QValue *value, const char *key, guint64 fallback);

/* An object of string members: key, value, key, value, ..., NULL. A NULL value leaves its key out.
 */
QValue *ctl_json_strings(const char *key, ...) G_GNUC_NULL_TERMINATED;

#endif
