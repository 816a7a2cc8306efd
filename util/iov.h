/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * util/iov.h - vectors of buffers, as they travel down the request path.
 *
 * Threads   A vector belongs to whoever made it; the request path reads it and never changes it.
 * Lifetime  An IoVector borrows the buffers, and its iovec array unless IOV_LOCAL made it.
 */
#ifndef WHARF_UTIL_IOV_H
#define WHARF_UTIL_IOV_H

#include <glib.h>
#include <stdbool.h>
#include <sys/uio.h>

typedef struct IoVector {
    const struct iovec *iov;
    unsigned n;   /* elements of iov */
    size_t bytes; /* sum of their lengths */
} IoVector;

/* A vector over one buffer, living in the caller's frame. */
#define IOV_LOCAL(buffer, length)                                                                  \
    (&(const IoVector){                                                                            \
        .iov = &(const struct iovec){(void *)(buffer), (length)}, .n = 1, .bytes = (length)})

/*
 * Describe @bytes bytes of @from, starting @skip bytes in, in @out (room for @from->n elements; the
 * caller's). @skip + @bytes must not exceed @from->bytes. Returns the number of elements.
 */
unsigned iov_slice(struct iovec *out, const IoVector *from, size_t skip, size_t bytes);

/*
 * A part of a vector as a vector of its own, living in the caller's frame; the buffers stay the
 * whole's. Only a part of many elements needs memory.
 */
typedef struct IovPart {
    IoVector iov;
    struct iovec *array; /* of iov; may be changed together with it */
    struct iovec small[8];
} IovPart;

/* What a part is before iov_part_init(); may be cleared. */
#define IOV_PART_EMPTY                                                                             \
    {                                                                                              \
        .array = NULL                                                                              \
    }

/* Make it @bytes bytes of @iov, starting @skip bytes in, which must lie inside. */
void iov_part_init(IovPart *part, const IoVector *iov, size_t skip, size_t bytes);
void iov_part_clear(IovPart *part);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(IovPart, iov_part_clear)

/* Copy between a vector and a flat buffer; @skip + @bytes must lie inside @iov. */
void iov_to_buffer(const IoVector *iov, size_t skip, void *buffer, size_t bytes);
void iov_from_buffer(const IoVector *iov, size_t skip, const void *buffer, size_t bytes);

/* Set @bytes bytes of @iov, from @skip on, to @byte. */
void iov_fill(const IoVector *iov, size_t skip, int byte, size_t bytes);

/* Whether all @iov is zero bytes. */
bool iov_is_zero(const IoVector *iov);

#endif
