/* SPDX-License-Identifier: GPL-2.0-or-later */
/* block/drivers/qcow2/be.h - numbers as they stand in an image. */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_BE_H
#define WHARF_BLOCK_DRIVERS_QCOW2_BE_H

#include "util/be.h"

#endif
