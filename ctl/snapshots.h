/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/snapshots.h - the internal snapshots of an image, as the daemon tells them.
 */
#ifndef WHARF_CTL_SNAPSHOTS_H
#define WHARF_CTL_SNAPSHOTS_H

#include "qapi/qvalue.h"

/* A table of @snapshots, an array of SnapshotInfo. */
void ctl_snapshots_print(const QValue *snapshots);

/* Whether one of them has the string @value as its member @key. */
bool ctl_snapshots_have(const QValue *snapshots, const char *key, const char *value);

#endif
