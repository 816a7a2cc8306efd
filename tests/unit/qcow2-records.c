/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/qcow2-records.h"

#include <string.h>

static void record_clear(gpointer record)
{
    g_free(((Record *)record)->data);
}

GArray *records_new(void)
{
    GArray *records = g_array_new(FALSE, FALSE, sizeof(Record));

    g_array_set_clear_func(records, record_clear);
    return records;
}

void records_add(GArray *records, RecordKind kind, uint64_t offset, uint64_t bytes,
                 const IoVector *iov)
{
    Record r = {.kind = kind, .offset = offset, .bytes = bytes};

    if (iov) {
        r.data = g_malloc(MAX(bytes, 1));
        iov_to_buffer(iov, 0, r.data, bytes);
    }
    g_array_append_val(records, r);
}

static void set_length(GByteArray *image, guint length)
{
    guint before = image->len;

    g_byte_array_set_size(image, length);
    if (length > before) {
        memset(image->data + before, 0, length - before);
    }
}

void record_apply(GByteArray *image, const Record *r)
{
    guint end = r->offset + r->bytes;

    if (r->kind == RECORD_FLUSH) {
        return;
    }
    if (r->kind == RECORD_TRUNCATE || end > image->len) {
        set_length(image, end);
    }
    if (r->kind == RECORD_WRITE) {
        memcpy(image->data + r->offset, r->data, r->bytes);
    } else {
        memset(image->data + r->offset, 0, r->bytes);
    }
}
