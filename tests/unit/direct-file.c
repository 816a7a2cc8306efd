/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "direct-file.h"

#include <fcntl.h>
#include <glib.h>
#include <unistd.h>

#include "aio/aio.h"

static bool goes_past_the_page_cache(const char *path)
{
    int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    bool yes = fd >= 0 && aio_engine_for_file(fd) == AIO_ENGINE_DIRECT;

    if (fd >= 0) {
        close(fd);
    }
    return yes;
}

DirectFile *direct_file_new(size_t bytes)
{
    DirectFile *file = g_new0(DirectFile, 1);
    g_autoptr(GError) error = NULL;
    int fd = g_file_open_tmp("wharf-direct-XXXXXX", &file->path, &error);

    g_assert_no_error(error);
    g_assert_cmpint(ftruncate(fd, (off_t)bytes), ==, 0);
    close(fd);
    file->json = g_strdup_printf("{'driver': 'file', 'node-name': 'n0', 'filename': '%s', "
                                 "'cache': {'direct': true}}",
                                 file->path);
    if (!goes_past_the_page_cache(file->path)) {
        g_test_skip("no direct I/O in the directory of temporary files");
        direct_file_free(file);
        return NULL;
    }
    return file;
}

void direct_file_free(DirectFile *file)
{
    unlink(file->path);
    g_free(file->path);
    g_free(file->json);
    g_free(file);
}
