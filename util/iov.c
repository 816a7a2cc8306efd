/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "util/iov.h"

#include <string.h>

typedef void IovVisit(void *piece, size_t bytes, size_t done, void *opaque);

/* Call @visit for each contiguous piece of the range, in order. */
static void iov_walk(const IoVector *iov, size_t skip, size_t bytes, IovVisit *visit, void *opaque)
{
    size_t done = 0;

    g_assert(skip <= iov->bytes && bytes <= iov->bytes - skip);
    for (unsigned i = 0; done < bytes; i++) {
        const struct iovec *v = &iov->iov[i];
        size_t piece;

        if (skip >= v->iov_len) {
            skip -= v->iov_len;
            continue;
        }
        piece = MIN(v->iov_len - skip, bytes - done);
        visit((char *)v->iov_base + skip, piece, done, opaque);
        done += piece;
        skip = 0;
    }
}

typedef struct {
    struct iovec *out;
    unsigned n;
} SliceState;

static void visit_slice(void *piece, size_t bytes, size_t done, void *opaque)
{
    SliceState *s = opaque;

    s->out[s->n++] = (struct iovec){piece, bytes};
}

unsigned iov_slice(struct iovec *out, const IoVector *from, size_t skip, size_t bytes)
{
    SliceState s = {.out = out};

    iov_walk(from, skip, bytes, visit_slice, &s);
    return s.n;
}

void iov_part_init(IovPart *part, const IoVector *iov, size_t skip, size_t bytes)
{
    part->array = iov->n <= G_N_ELEMENTS(part->small) ? part->small : g_new(struct iovec, iov->n);
    part->iov.n = iov_slice(part->array, iov, skip, bytes);
    part->iov.iov = part->array;
    part->iov.bytes = bytes;
}

void iov_part_clear(IovPart *part)
{
    if (part->array != part->small) {
        g_free(part->array);
    }
}

static void visit_to_buffer(void *piece, size_t bytes, size_t done, void *opaque)
{
    memcpy((char *)opaque + done, piece, bytes);
}

void iov_to_buffer(const IoVector *iov, size_t skip, void *buffer, size_t bytes)
{
    iov_walk(iov, skip, bytes, visit_to_buffer, buffer);
}

static void visit_from_buffer(void *piece, size_t bytes, size_t done, void *opaque)
{
    memcpy(piece, (const char *)opaque + done, bytes);
}

void iov_from_buffer(const IoVector *iov, size_t skip, const void *buffer, size_t bytes)
{
    iov_walk(iov, skip, bytes, visit_from_buffer, (void *)buffer);
}

static void visit_fill(void *piece, size_t bytes, size_t done, void *opaque)
{
    memset(piece, *(int *)opaque, bytes);
}

void iov_fill(const IoVector *iov, size_t skip, int byte, size_t bytes)
{
    iov_walk(iov, skip, bytes, visit_fill, &byte);
}

static bool buffer_is_zero(const char *p, size_t bytes)
{
    return bytes == 0 || (p[0] == 0 && memcmp(p, p + 1, bytes - 1) == 0);
}

bool iov_is_zero(const IoVector *iov)
{
    for (unsigned i = 0; i < iov->n; i++) {
        if (!buffer_is_zero(iov->iov[i].iov_base, iov->iov[i].iov_len)) {
            return false;
        }
    }
    return true;
}
