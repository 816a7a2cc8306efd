/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "monitor/set-internal.h"

QValue *monitor_discover(const QapiCommandTable *commands)
{
    return qvalue_object();
}
