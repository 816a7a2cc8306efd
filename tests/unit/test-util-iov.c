/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Vectors of buffers: slicing, copying and filling across element boundaries. */
#include "util/iov.h"

#include <string.h>

typedef struct Buffers {
    char a[3], b[1], c[4];
    struct iovec iov[4];
    IoVector v;
} Buffers;

/* "abcdefgh" in three buffers and an empty one between. */
static void buffers_init(Buffers *bufs)
{
    memcpy(bufs->a, "abc", 3);
    memcpy(bufs->b, "d", 1);
    memcpy(bufs->c, "efgh", 4);
    bufs->iov[0] = (struct iovec){bufs->a, 3};
    bufs->iov[1] = (struct iovec){NULL, 0};
    bufs->iov[2] = (struct iovec){bufs->b, 1};
    bufs->iov[3] = (struct iovec){bufs->c, 4};
    bufs->v = (IoVector){.iov = bufs->iov, .n = 4, .bytes = 8};
}

/* Every slice of the vector holds the bytes that the flat string has there. */
static void test_slice(void)
{
    Buffers bufs;

    buffers_init(&bufs);
    for (size_t skip = 0; skip <= 8; skip++) {
        for (size_t bytes = 0; skip + bytes <= 8; bytes++) {
            struct iovec out[4];
            char flat[8] = {0};
            IoVector part = {.iov = out, .bytes = bytes};

            part.n = iov_slice(out, &bufs.v, skip, bytes);
            g_assert_cmpuint(part.n, <=, 4);
            iov_to_buffer(&part, 0, flat, bytes);
            g_assert_cmpmem(flat, bytes, &"abcdefgh"[skip], bytes);
        }
    }
}

static void test_copy(void)
{
    Buffers bufs;
    char flat[8];

    buffers_init(&bufs);
    iov_from_buffer(&bufs.v, 2, "WXYZ", 4);
    iov_to_buffer(&bufs.v, 0, flat, 8);
    g_assert_cmpmem(flat, 8, "abWXYZgh", 8);
    iov_to_buffer(&bufs.v, 3, flat, 5);
    g_assert_cmpmem(flat, 5, "XYZgh", 5);
}

static void test_fill(void)
{
    Buffers bufs;
    char flat[8];

    buffers_init(&bufs);
    g_assert_false(iov_is_zero(&bufs.v));
    iov_fill(&bufs.v, 1, 0, 6);
    iov_to_buffer(&bufs.v, 0, flat, 8);
    g_assert_cmpmem(flat, 8, "a\0\0\0\0\0\0h", 8);
    g_assert_false(iov_is_zero(&bufs.v));
    iov_fill(&bufs.v, 0, 0, 8);
    g_assert_true(iov_is_zero(&bufs.v));
}

static void test_local(void)
{
    char text[] = "one";
    const IoVector *v = IOV_LOCAL(text, 3);

    g_assert_cmpuint(v->n, ==, 1);
    g_assert_cmpuint(v->bytes, ==, 3);
    g_assert_true(v->iov->iov_base == text);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/util/iov/slice", test_slice);
    g_test_add_func("/util/iov/copy", test_copy);
    g_test_add_func("/util/iov/fill", test_fill);
    g_test_add_func("/util/iov/local", test_local);
    return g_test_run();
}
