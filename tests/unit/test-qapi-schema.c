/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The daemon's own schema: introspection, and options as clients and command lines give them. */
#include <glib.h>

#include "qapi/introspect.h"
#include "qapi/json-parser.h"
#include "qapi/keyval.h"
#include "qapi/types-block-core.h"
#include "qapi/types-block-export.h"
#include "qapi/types-chardev.h"
#include "qapi/types-control.h"
#include "qapi/types-nbd.h"
#include "qapi/types-object.h"

/* What query-qmp-schema answers is as the schema says. */
static void test_introspection_is_schema_info(void)
{
    g_autoptr(QValue) entries = qapi_introspect(false);

    g_assert_cmpuint(qvalue_array_length(entries), >, 50);
    for (gsize i = 0; i < qvalue_array_length(entries); i++) {
        const QValue *entry = qvalue_array_get(entries, i);
        g_autoptr(GError) error = NULL;
        g_autoptr(SchemaInfo) info = schema_info_from_qvalue(entry, &error);
        g_autoptr(QValue) back = NULL;

        g_assert_no_error(error);
        back = schema_info_to_qvalue(info);
        g_assert_true(qvalue_equal(entry, back));
    }
}

static const QValue *find_entry(const QValue *entries, const char *name)
{
    for (gsize i = 0; i < qvalue_array_length(entries); i++) {
        const QValue *entry = qvalue_array_get(entries, i);

        if (g_str_equal(qvalue_get_string(qvalue_object_get(entry, "name"), NULL), name)) {
            return entry;
        }
    }
    g_error("no entry %s", name);
}

static const char *get(const QValue *entry, const char *key)
{
    return qvalue_get_string(qvalue_object_get(entry, key), NULL);
}

/* The readable schema has what help needs. */
static void test_readable_introspection(void)
{
    g_autoptr(QValue) entries = qapi_introspect(true);
    const QValue *command = find_entry(entries, "block-export-add");
    const QValue *options = find_entry(entries, "BlockExportOptions");
    const QValue *member = qvalue_array_get(qvalue_object_get(options, "members"), 0);

    g_assert_cmpstr(get(command, "arg-type"), ==, "BlockExportOptions");
    g_assert_cmpstr(get(command, "ret-type"), ==, "Empty");
    g_assert_nonnull(get(command, "doc"));
    g_assert_cmpstr(get(member, "name"), ==, "type");
    g_assert_nonnull(get(member, "doc"));
}

static void test_blockdev_keyval(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QValue) v = keyval_parse("raw,node-name=r,offset=1M,file.driver=file,"
                                       "file.filename=/a,,b,file.cache.direct=on,read-only=on",
                                       "driver", &error);
    g_autoptr(BlockdevOptions) o = blockdev_options_from_keyval(v, &error);
    const BlockdevRef *ref;

    g_assert_no_error(error);
    g_assert_cmpint(o->driver, ==, BLOCKDEV_DRIVER_RAW);
    g_assert_cmpstr(o->node_name, ==, "r");
    g_assert_true(o->has_read_only && o->read_only);
    g_assert_cmpuint(o->u.raw.offset, ==, 1024 * 1024);
    g_assert_false(o->u.raw.has_size);
    ref = o->u.raw.file;
    g_assert_cmpint(ref->type, ==, QVALUE_OBJECT);
    g_assert_cmpstr(ref->u.definition.u.file.filename, ==, "/a,b");
    g_assert_true(ref->u.definition.cache->direct);
}

static void test_blockdev_reference(void)
{
    g_autoptr(QValue) v = qvalue_from_json("{'driver': 'raw', 'file': 'f0'}", -1, NULL);
    g_autoptr(BlockdevOptions) o = blockdev_options_from_qvalue(v, NULL);

    g_assert_cmpint(o->u.raw.file->type, ==, QVALUE_STRING);
    g_assert_cmpstr(o->u.raw.file->u.reference, ==, "f0");
}

static void test_export_iothreads(void)
{
    g_autoptr(QValue) v = keyval_parse("type=fuse,id=e,node-name=n,mountpoint=/m,writable=on,"
                                       "iothread.0=a,iothread.1=b",
                                       "type", NULL);
    g_autoptr(BlockExportOptions) o = block_export_options_from_keyval(v, NULL);

    g_assert_cmpint(o->type, ==, BLOCK_EXPORT_TYPE_FUSE);
    g_assert_true(o->writable);
    g_assert_cmpint(o->u.fuse.allow_other, ==, FUSE_EXPORT_ALLOW_OTHER_AUTO);
    g_assert_cmpint(o->iothread->type, ==, QVALUE_ARRAY);
    g_assert_cmpuint(o->iothread->u.multi->len, ==, 2);
    g_assert_cmpstr(g_ptr_array_index(o->iothread->u.multi, 1), ==, "b");
}

static void test_other_options(void)
{
    g_autoptr(QValue) chardev =
        keyval_parse("socket,id=c,path=/p,server=on,wait=off", "backend", NULL);
    g_autoptr(QValue) monitor = keyval_parse("c,pretty=on", "chardev", NULL);
    g_autoptr(QValue) nbd = keyval_parse("addr.type=unix,addr.path=/p", NULL, NULL);
    g_autoptr(QValue) object = keyval_parse("iothread,id=t,poll-max-ns=0", "qom-type", NULL);
    g_autoptr(ChardevOptions) c = chardev_options_from_keyval(chardev, NULL);
    g_autoptr(MonitorOptions) m = monitor_options_from_keyval(monitor, NULL);
    g_autoptr(NbdServerOptions) n = nbd_server_options_from_keyval(nbd, NULL);
    g_autoptr(ObjectOptions) o = object_options_from_keyval(object, NULL);

    g_assert_true(c->u.socket.server && c->u.socket.has_wait && !c->u.socket.wait);
    g_assert_true(m->pretty);
    g_assert_cmpint(m->mode, ==, MONITOR_MODE_CONTROL);
    g_assert_cmpstr(n->addr->u.q_unix.path, ==, "/p");
    g_assert_cmpuint(n->max_connections, ==, 100);
    g_assert_cmpint(o->u.iothread.poll_max_ns, ==, 0);
}

/* Values that made qemu-storage-daemon end are refused by their range. */
static void test_refused_by_range(void)
{
    static const char *const bad[] = {
        "{'driver': 'null-co', 'node-name': 'n', 'size': -1}",
        "{'driver': 'raw', 'file': 'f', 'offset': -1}",
        "{'driver': 'null-co', 'cache.direct': true}",
        "{'driver': 'null-co', 'cache': {'writeback': true}}",
        "{'driver': 'nonsense'}",
        "{'driver': 'NULL-CO'}",
        "{'driver': 'raw'}",
        "{'node-name': 'n'}",
    };

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(QValue) v = qvalue_from_json(bad[i], -1, NULL);
        g_autoptr(GError) error = NULL;

        g_assert_null(blockdev_options_from_qvalue(v, &error));
        g_assert_nonnull(error);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qapi/schema/introspection-is-schema-info", test_introspection_is_schema_info);
    g_test_add_func("/qapi/schema/readable-introspection", test_readable_introspection);
    g_test_add_func("/qapi/schema/blockdev-keyval", test_blockdev_keyval);
    g_test_add_func("/qapi/schema/blockdev-reference", test_blockdev_reference);
    g_test_add_func("/qapi/schema/export-iothreads", test_export_iothreads);
    g_test_add_func("/qapi/schema/other-options", test_other_options);
    g_test_add_func("/qapi/schema/refused-by-range", test_refused_by_range);
    return g_test_run();
}
