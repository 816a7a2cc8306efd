/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ctl/image.h - whether a file can be taken for a raw image.
 *
 * Guessing the format of an image is dangerous: who can write to a raw image can put the header of
 * another format into it, and that format could name any file of the host as its backing file. So
 * a guess never opens an image as anything but raw; it only stops us from showing the inside of a
 * container as if it were the disk.
 */
#ifndef WHARF_CTL_IMAGE_H
#define WHARF_CTL_IMAGE_H

#include <glib.h>
#include <stdbool.h>

#include "qapi/qvalue.h"

/*
 * Look at the image @path, of the format @format (NULL: not said). Sets *@is_device for a block
 * device. Fails, saying why and what to do, if it is not there, is neither file nor device, cannot
 * be read, or looks like something that is not raw.
 */
bool ctl_image_check(const char *path, const char *format, bool *is_device, GError **error);

/*
 * The format of the image @path, to show what is in it and for nothing else: the one that it looks
 * like, even if it cannot be opened here, or raw. Static. Fails as ctl_image_check().
 */
const char *ctl_image_recognise(const char *path, bool *is_device, GError **error);

/*
 * The node @name that reads the image @path of the format @format, for blockdev-add; with its
 * backing file and data file if it has any.
 */
QValue *ctl_image_node(const char *name, const char *path, const char *format, bool is_device);

/*
 * Whether nothing is lost if an image is made at @path: there is no file, or an empty one, or a
 * device that begins with zeros. What cannot be looked at is nothing, either.
 */
bool ctl_image_is_blank(const char *path);

/* What format the first @length bytes of an image are of; NULL for nothing known, hence raw. */
const char *ctl_image_probe(const void *start, gsize length);

#endif
