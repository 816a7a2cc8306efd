/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * monitor/wire-internal.h - small pieces that both envelopes and the commands share.
 */
#ifndef WHARF_MONITOR_WIRE_INTERNAL_H
#define WHARF_MONITOR_WIRE_INTERNAL_H

#include "qapi/qvalue.h"

/* query-version's answer, which is part of QMP's greeting. */
QValue *monitor_version(void);

/* An event's time as QMP writes it. */
QValue *monitor_timestamp(int64_t time_us);

/* The text of a string that holds no U+0000, lent; NULL for anything else. */
const char *monitor_plain_string(const QValue *value);

#endif
