/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tests/unit/qcow2-records.h - what a driver has asked its file to do, for tests that look at the
 * order, or at the image that a crash would leave.
 */
#ifndef WHARF_TESTS_QCOW2_RECORDS_H
#define WHARF_TESTS_QCOW2_RECORDS_H

#include <stdint.h>

#include "util/iov.h"

typedef enum {
    RECORD_WRITE,
    RECORD_ZERO,
    RECORD_TRUNCATE, /* to a length of @offset */
    RECORD_FLUSH,
} RecordKind;

typedef struct Record {
    RecordKind kind;
    uint64_t offset, bytes;
    uint8_t *data;         /* of a write; owned */
    uint64_t begun, ended; /* by the test's clock; 0: not ended */
} Record;

/* An empty array of Record, which owns their data. */
GArray *records_new(void);
/* Append one, with a copy of what is in @iov, if it is not NULL. */
void records_add(GArray *records, RecordKind kind, uint64_t offset, uint64_t bytes,
                 const IoVector *iov);
/* Do the same to the bytes of an image. */
void record_apply(GByteArray *image, const Record *r);

#endif
