/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * object/file.h - small files that objects are made from: keys, certificates, rules.
 *
 * Threads   Reading blocks: in a worker thread.
 */
#ifndef WHARF_OBJECT_FILE_H
#define WHARF_OBJECT_FILE_H

#include <glib.h>
#include <stdbool.h>
#include <sys/stat.h>

/* The contents of a file, with a zero after the last byte. */
typedef struct ObjectFile {
    char *data; /* NULL: none */
    size_t len;
    struct stat st; /* when it was opened */
} ObjectFile;

/* More than any of them has. */
#define OBJECT_FILE_MAX (16 * 1024 * 1024)

/*
 * Read the regular file @path, which @what names in messages ("certificate"), up to OBJECT_FILE_MAX
 * bytes, into *@file.
 */
bool object_file_read(ObjectFile *file, const char *what, const char *path, GError **error);

/* Wipe and free what it holds. */
void object_file_clear(ObjectFile *file);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ObjectFile, object_file_clear)

#endif
