/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "monitor/wire-internal.h"

#include <string.h>

/*
 * The release of qemu-storage-daemon that the behaviour follows. Clients that look at QMP's version
 * at all want to know what they may expect, which our own number would not tell them.
 */
#define QSD_MAJOR 11
#define QSD_MINOR 1
#define QSD_MICRO 3

QValue *monitor_version(void)
{
    QValue *version = qvalue_object();
    QValue *qemu = qvalue_object();

    qvalue_object_set(qemu, "major", qvalue_int(QSD_MAJOR));
    qvalue_object_set(qemu, "minor", qvalue_int(QSD_MINOR));
    qvalue_object_set(qemu, "micro", qvalue_int(QSD_MICRO));
    qvalue_object_set(version, "qemu", qemu);
    qvalue_object_set(version, "package", qvalue_string("wharf-" WHARF_VERSION));
    return version;
}

QValue *monitor_timestamp(int64_t time_us)
{
    QValue *timestamp = qvalue_object();

    qvalue_object_set(timestamp, "seconds", qvalue_int(time_us / G_USEC_PER_SEC));
    qvalue_object_set(timestamp, "microseconds", qvalue_int(time_us % G_USEC_PER_SEC));
    return timestamp;
}

const char *monitor_plain_string(const QValue *value)
{
    const char *text;
    gsize len;

    if (qvalue_type(value) != QVALUE_STRING) {
        return NULL;
    }
    text = qvalue_get_string(value, &len);
    return strlen(text) == len ? text : NULL;
}
