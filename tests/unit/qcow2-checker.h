/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tests/unit/qcow2-checker.h - whether the bytes of a qcow2 image are consistent, found out without
 * the driver: each cluster is counted as often as it is named, at least; entries that say that
 * nobody else has their cluster are right, in the tables of the disk. Images without data files.
 */
#ifndef WHARF_TESTS_QCOW2_CHECKER_H
#define WHARF_TESTS_QCOW2_CHECKER_H

#include <glib.h>
#include <stdint.h>

typedef struct Qcow2Check {
    unsigned corruptions;
    unsigned leaks;
    char *first; /* what the first corruption is */
} Qcow2Check;

void qcow2_check(const uint8_t *bytes, uint64_t length, Qcow2Check *check);
/*
 * The bits of the persistent bitmap called @name, as in the image, and *@flags; NULL: there is none
 * that counts.
 */
GByteArray *qcow2_check_bitmap(const uint8_t *bytes, uint64_t length, const char *name,
                               uint32_t *flags);

void qcow2_check_clear(Qcow2Check *check);

#endif
