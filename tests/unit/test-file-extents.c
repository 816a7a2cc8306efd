/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Data and holes of a file, and the memory of the last run of data. */
#include "block/drivers/file/extents.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

#define MIB (1024u * 1024u)

/* A temporary file of @size bytes, all hole, already unlinked. */
static int temporary_file(off_t size)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("wharf-extents-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_unlink(path);
    g_assert_cmpint(ftruncate(fd, size), ==, 0);
    return fd;
}

static void assert_extent(int fd, uint64_t offset, bool data, uint64_t end)
{
    FileExtent e = file_extent_find(fd, offset);

    g_assert_cmpint(e.data, ==, data);
    g_assert_cmpuint(e.end, ==, end);
}

static void test_find(void)
{
    int fd = temporary_file(5 * MIB);
    g_autofree char *block = g_malloc0(MIB);

    if (lseek(fd, 0, SEEK_DATA) >= 0) {
        g_test_skip("the temporary directory lies on a file system without holes");
        close(fd);
        return;
    }
    assert_extent(fd, 0, false, UINT64_MAX);
    g_assert_cmpint(pwrite(fd, block, MIB, MIB), ==, MIB);
    g_assert_cmpint(pwrite(fd, block, MIB, 3 * MIB), ==, MIB);
    assert_extent(fd, 0, false, MIB);
    assert_extent(fd, 1234, false, MIB);
    assert_extent(fd, MIB, true, 2 * MIB);
    assert_extent(fd, 2 * MIB - 1, true, 2 * MIB);
    assert_extent(fd, 2 * MIB, false, 3 * MIB);
    assert_extent(fd, 3 * MIB + 4096, true, 4 * MIB);
    assert_extent(fd, 4 * MIB, false, UINT64_MAX);
    assert_extent(fd, 7 * MIB, false, UINT64_MAX);
    close(fd);
}

/* What cannot tell holes from data is data: reading it will tell more. */
static void test_find_without_seek(void)
{
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    assert_extent(fds[0], 0, true, UINT64_MAX);
    close(fds[0]);
    close(fds[1]);
    assert_extent(-1, 0, true, UINT64_MAX);
}

static void test_cache(void)
{
    FileExtentCache cache;
    uint64_t end = 7, ticket;

    file_extent_cache_init(&cache);
    g_assert_false(file_extent_cache_lookup(&cache, 0, &end, &ticket));
    file_extent_cache_store(&cache, ticket, 100, 200);
    g_assert_false(file_extent_cache_lookup(&cache, 99, &end, &ticket));
    g_assert_false(file_extent_cache_lookup(&cache, 200, &end, &ticket));
    g_assert_cmpuint(end, ==, 7);
    g_assert_true(file_extent_cache_lookup(&cache, 100, &end, &ticket));
    g_assert_cmpuint(end, ==, 200);
    g_assert_true(file_extent_cache_lookup(&cache, 199, &end, &ticket));
    file_extent_cache_forget(&cache);
    g_assert_false(file_extent_cache_lookup(&cache, 150, &end, &ticket));
    file_extent_cache_clear(&cache);
}

/* A hole that was made while the file system was being asked must not be covered up. */
static void test_cache_drops_what_was_overtaken(void)
{
    FileExtentCache cache;
    uint64_t end, ticket;

    file_extent_cache_init(&cache);
    g_assert_false(file_extent_cache_lookup(&cache, 0, &end, &ticket));
    file_extent_cache_forget(&cache);
    file_extent_cache_store(&cache, ticket, 0, 1000);
    g_assert_false(file_extent_cache_lookup(&cache, 0, &end, &ticket));
    file_extent_cache_clear(&cache);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/file/extents/find", test_find);
    g_test_add_func("/file/extents/find-without-seek", test_find_without_seek);
    g_test_add_func("/file/extents/cache", test_cache);
    g_test_add_func("/file/extents/cache-overtaken", test_cache_drops_what_was_overtaken);
    return g_test_run();
}
