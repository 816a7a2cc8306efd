/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/json.h"

#include <stdarg.h>

static const QValue *get(const QValue *value, const char *key, QValueType type)
{
    const QValue *member =
        value && qvalue_type(value) == QVALUE_OBJECT ? qvalue_object_get(value, key) : NULL;

    return member && qvalue_type(member) == type ? member : NULL;
}

const char *ctl_json_string(const QValue *value, const char *key)
{
    const QValue *member = get(value, key, QVALUE_STRING);

    return member ? qvalue_get_string(member, NULL) : NULL;
}

const QValue *ctl_json_object(const QValue *value, const char *key)
{
    return get(value, key, QVALUE_OBJECT);
}

const QValue *ctl_json_array(const QValue *value, const char *key)
{
    return get(value, key, QVALUE_ARRAY);
}

bool ctl_json_bool(const QValue *value, const char *key, bool fallback)
{
    const QValue *member = get(value, key, QVALUE_BOOL);

    return member ? qvalue_get_bool(member) : fallback;
}

guint64 ctl_json_uint(const QValue *value, const char *key, guint64 fallback)
{
    const QValue *member = get(value, key, QVALUE_INT);

    if (member) {
        return qvalue_get_int(member) < 0 ? fallback : (guint64)qvalue_get_int(member);
    }
    member = get(value, key, QVALUE_UINT);
    return member ? qvalue_get_uint(member) : fallback;
}

QValue *ctl_json_strings(const char *key, ...)
{
    QValue *object = qvalue_object();
    va_list ap;

    va_start(ap, key);
    while (key) {
        const char *value = va_arg(ap, const char *);

        if (value) {
            qvalue_object_set(object, key, qvalue_string(value));
        }
        key = va_arg(ap, const char *);
    }
    va_end(ap);
    return object;
}
