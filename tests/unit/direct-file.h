/* SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/direct-file.h - a file node whose requests go past the page cache. */
#ifndef WHARF_TESTS_DIRECT_FILE_H
#define WHARF_TESTS_DIRECT_FILE_H

#include <stddef.h>

typedef struct DirectFile {
    char *path;
    char *json; /* BlockdevOptions of node "n0" */
} DirectFile;

/* A new file of @bytes zeros; NULL, and the test is skipped, where there is no direct I/O. */
DirectFile *direct_file_new(size_t bytes);
void direct_file_free(DirectFile *file);

#endif
