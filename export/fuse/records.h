/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/fuse/records.h - what a killed daemon leaves for the next one to clear away.
 *
 * A daemon keeps a directory of its own under $XDG_RUNTIME_DIR/wharf, or /run/wharf for root: a
 * file "lock" that it holds locked while it lives, and a file for each mount, "MAJOR:MINOR", that
 * holds the mount's id, a newline and its path. A directory whose lock is free belongs to nobody
 * any more: the next daemon of the same user unmounts what is still there and removes it; where
 * something else covers a mount, its record stays for the daemon after that. Where there is no
 * place to write, nothing is recorded, and nothing fails.
 *
 * Threads   Any; all calls block, so they belong into a worker.
 */
#ifndef WHARF_EXPORT_FUSE_RECORDS_H
#define WHARF_EXPORT_FUSE_RECORDS_H

#include <glib.h>

#include "export/fuse/mountpoint.h"

typedef struct FuseRecords FuseRecords;

/* Where records are kept: a new string, or NULL if there is no such place. */
char *fuse_records_default_base(void);

/* Begin this daemon's records under @base (NULL: none are kept), clearing what dead ones left. */
FuseRecords *fuse_records_open(const char *base);

/* End them in order: removes them, but for those of mounts that are left. Accepts NULL. */
void fuse_records_close(FuseRecords *records);

void fuse_records_add(FuseRecords *records, const FuseMountId *id, const char *path);
void fuse_records_remove(FuseRecords *records, const FuseMountId *id);

/* Parse the content of a record into mount id and path (new); false if it is none. */
bool fuse_record_parse(const char *text, gsize length, uint64_t *mount, char **path);

#endif
