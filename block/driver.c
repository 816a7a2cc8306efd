/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/driver.h"

/* One line for each driver of this build, made from block/drivers/meson.build. */
#define BLOCK_DRIVER(name) extern const BlockDriver block_driver_##name;
#include "block/drivers/list.h"
#undef BLOCK_DRIVER

#define BLOCK_DRIVER(name) &block_driver_##name,
static const BlockDriver *const drivers[] = {
#include "block/drivers/list.h"
};
#undef BLOCK_DRIVER

const BlockDriver *block_driver_find(BlockdevDriver type)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(drivers); i++) {
        if (drivers[i]->type == type) {
            return drivers[i];
        }
    }
    return NULL;
}
