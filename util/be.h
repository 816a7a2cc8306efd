/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * util/be.h - numbers as they stand in files and messages: big-endian, at any address.
 *
 * Threads   Any; pure.
 */
#ifndef WHARF_UTIL_BE_H
#define WHARF_UTIL_BE_H

#include <glib.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t be16_get(const void *p)
{
    uint16_t n;

    memcpy(&n, p, sizeof(n));
    return GUINT16_FROM_BE(n);
}

static inline uint32_t be32_get(const void *p)
{
    uint32_t n;

    memcpy(&n, p, sizeof(n));
    return GUINT32_FROM_BE(n);
}

static inline uint64_t be64_get(const void *p)
{
    uint64_t n;

    memcpy(&n, p, sizeof(n));
    return GUINT64_FROM_BE(n);
}

static inline void be16_put(void *p, uint16_t n)
{
    n = GUINT16_TO_BE(n);
    memcpy(p, &n, sizeof(n));
}

static inline void be32_put(void *p, uint32_t n)
{
    n = GUINT32_TO_BE(n);
    memcpy(p, &n, sizeof(n));
}

static inline void be64_put(void *p, uint64_t n)
{
    n = GUINT64_TO_BE(n);
    memcpy(p, &n, sizeof(n));
}

#endif
