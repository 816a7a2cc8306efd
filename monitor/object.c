/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object type "monitor-qmp": monitors that clients can list, make on a chardev, and remove.
 */
#include "monitor/set-internal.h"
#include "object/class.h"
#include "util/error.h"

/* What stands behind such an object. The monitor itself may have gone with the set. */
typedef struct {
    MonitorSet *set;
    char *id;
} MonitorObject;

static MonitorObject *monitor_object_new(MonitorSet *set, const char *id)
{
    MonitorObject *object = g_new(MonitorObject, 1);

    object->set = set;
    object->id = g_strdup(id);
    return object;
}

static void monitor_object_free(MonitorObject *object)
{
    g_free(object->id);
    g_free(object);
}

static gpointer co_fn monitor_object_co_create(gpointer self, const ObjectOptions *options,
                                               GError **error)
{
    const MonitorOptions monitor = {
        .id = options->id,
        .mode = options->u.monitor_qmp.mode,
        .pretty = options->u.monitor_qmp.pretty,
        .chardev = options->u.monitor_qmp.chardev,
    };

    return monitor_set_add_on_chardev(self, &monitor, error) ? monitor_object_new(self, options->id)
                                                             : NULL;
}

static void monitor_object_destroy(gpointer instance)
{
    MonitorObject *object = instance;

    monitor_set_remove(object->set, object->id, NULL);
    monitor_object_free(object);
}

static bool monitor_object_may_delete(gpointer instance, gpointer client, GError **error)
{
    const MonitorObject *object = instance;
    const Monitor *own = (const Monitor *)monitor_client_host(client);

    if (own == monitor_set_lookup(object->set, object->id)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "monitor '%s' is the one that this command came through; use another",
                    object->id);
        return false;
    }
    return true;
}

static const ObjectClass object_class_monitor_qmp = {
    .type = OBJECT_TYPE_MONITOR_QMP,
    .parent = "object",
    .co_create = monitor_object_co_create,
    .destroy = monitor_object_destroy,
    .may_delete = monitor_object_may_delete,
};

void monitor_set_register_objects(MonitorSet *set, ObjectRegistry *registry)
{
    object_registry_add_class(registry, &object_class_monitor_qmp, set);
}

bool co_fn monitor_set_co_add_object(MonitorSet *set, ObjectRegistry *registry,
                                     const MonitorOptions *options, GError **error)
{
    const char *id = monitor_set_co_add(set, options, error);
    MonitorObject *object;
    ObjectOptions described;

    if (!id) {
        return false;
    }
    /* A monitor with a socket of its own has a chardev of its name. */
    described = (ObjectOptions){
        .qom_type = OBJECT_TYPE_MONITOR_QMP,
        .id = (char *)id,
        .u.monitor_qmp = {.chardev = options->path ? (char *)id : options->chardev,
                          .mode = options->mode,
                          .pretty = options->pretty},
    };
    object = monitor_object_new(set, id);
    if (!object_registry_adopt(registry, &described, object, error)) {
        monitor_object_destroy(object);
        return false;
    }
    return true;
}
