/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Generated conversion, fed with anything: the first byte selects a type, the rest is JSON or
 * key=value. What is accepted must copy, be written, and be accepted again as the same.
 */
#include <glib.h>
#include <stdint.h>
#include <string.h>

#include "qapi/json-parser.h"
#include "qapi/keyval.h"
#include "qapi/types-block-core.h"
#include "qapi/types-block-export.h"
#include "qapi/types-chardev.h"
#include "qapi/types-control.h"
#include "qapi/types-nbd.h"
#include "qapi/types-object.h"
#include "qapi/types-test.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Read @v by key=value rules, copy, and write; NULL if it is refused, which must say why. */
typedef QValue *Trip(const QValue *v);

#define DEFINE_TRIP(type, snake)                                                                   \
    static QValue *trip_##snake(const QValue *v)                                                   \
    {                                                                                              \
        g_autoptr(GError) error = NULL;                                                            \
        g_autoptr(type) obj = snake##_from_keyval(v, &error);                                      \
        g_autoptr(type) copy = snake##_copy(obj);                                                  \
                                                                                                   \
        g_assert_true(!obj == !!error);                                                            \
        g_assert_true(!error || g_utf8_validate(error->message, -1, NULL));                        \
        return copy ? snake##_to_qvalue(copy) : NULL;                                              \
    }

DEFINE_TRIP(BlockdevOptions, blockdev_options)
DEFINE_TRIP(BlockExportOptions, block_export_options)
DEFINE_TRIP(ChardevOptions, chardev_options)
DEFINE_TRIP(ChardevBackend, chardev_backend)
DEFINE_TRIP(MonitorOptions, monitor_options)
DEFINE_TRIP(NbdServerOptions, nbd_server_options)
DEFINE_TRIP(ObjectOptions, object_options)
DEFINE_TRIP(SocketAddressLegacy, socket_address_legacy)
DEFINE_TRIP(TestScalars, test_scalars)
DEFINE_TRIP(TestOptional, test_optional)
DEFINE_TRIP(TestDefaults, test_defaults)
DEFINE_TRIP(TestRanges, test_ranges)
DEFINE_TRIP(TestLists, test_lists)
DEFINE_TRIP(TestShape, test_shape)
DEFINE_TRIP(TestTree, test_tree)

static Trip *const trips[] = {
    trip_blockdev_options, trip_block_export_options,
    trip_chardev_options,  trip_chardev_backend,
    trip_monitor_options,  trip_nbd_server_options,
    trip_object_options,   trip_socket_address_legacy,
    trip_test_scalars,     trip_test_optional,
    trip_test_defaults,    trip_test_ranges,
    trip_test_lists,       trip_test_shape,
    trip_test_tree,
};

static void check(Trip *trip, const QValue *v)
{
    g_autoptr(QValue) first = trip(v);
    g_autoptr(QValue) second = first ? trip(first) : NULL;

    if (first) {
        g_assert_nonnull(second);
        g_assert_true(qvalue_equal(first, second));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = NULL;
    g_autoptr(QValue) keyval = NULL;
    g_autoptr(QValue) json = NULL;

    if (size == 0) {
        return 0;
    }
    text = g_strndup((const char *)data + 1, size - 1);
    keyval = keyval_parse(text, data[0] & 0x80 ? "type" : NULL, NULL);
    json = qvalue_from_json(text, -1, NULL);
    if (keyval) {
        check(trips[data[0] % G_N_ELEMENTS(trips)], keyval);
    }
    if (json) {
        check(trips[data[0] % G_N_ELEMENTS(trips)], json);
    }
    return 0;
}
