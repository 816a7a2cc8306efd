/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/plan.h"

typedef struct {
    const GPtrArray *items;
    GHashTable *names[START_MONITOR + 1]; /* by StartKind: name -> the first StartItem called so */
    StartItem *nbd_server;
    GHashTable *visited; /* StartItem */
    GPtrArray *order;
} Plan;

/* Which kinds an item may name in its options. */
static const guint refers_to[] = {
    [START_OBJECT] = 1 << START_OBJECT,
    [START_CHARDEV] = 1 << START_OBJECT,
    [START_NBD_SERVER] = 1 << START_OBJECT,
    [START_BLOCKDEV] = 1 << START_OBJECT | 1 << START_BLOCKDEV,
    [START_EXPORT] = 1 << START_OBJECT | 1 << START_BLOCKDEV,
    [START_MONITOR] = 1 << START_OBJECT | 1 << START_CHARDEV,
};

static const char *item_name(const StartItem *item)
{
    const char *key = item->kind == START_BLOCKDEV ? "node-name" : "id";
    const QValue *name = qvalue_object_get(item->value, key);

    return name && qvalue_type(name) == QVALUE_STRING ? qvalue_get_string(name, NULL) : NULL;
}

/* Members that never name another item, though their text may happen to look like it. */
static bool is_reference(const StartItem *item, const char *key)
{
    static const char *const plain[] = {"driver", "filename", "id",   "mountpoint",
                                        "path",   "qom-type", "type", NULL};

    if (g_strv_contains(plain, key)) {
        return false;
    }
    return item->kind != START_BLOCKDEV || !g_str_equal(key, "node-name");
}

static void plan_visit(Plan *plan, StartItem *item);

static void visit_name(Plan *plan, const StartItem *item, const char *name)
{
    for (int kind = 0; kind <= START_MONITOR; kind++) {
        StartItem *other = NULL;

        if (refers_to[item->kind] & (1 << kind)) {
            other = g_hash_table_lookup(plan->names[kind], name);
        }
        if (other) {
            plan_visit(plan, other);
        }
    }
}

/* Visit everything that strings inside @value name. */
static void visit_references(Plan *plan, const StartItem *item, const QValue *value)
{
    switch (qvalue_type(value)) {
    case QVALUE_STRING:
        visit_name(plan, item, qvalue_get_string(value, NULL));
        break;
    case QVALUE_ARRAY:
        for (gsize i = 0; i < qvalue_array_length(value); i++) {
            visit_references(plan, item, qvalue_array_get(value, i));
        }
        break;
    case QVALUE_OBJECT:
        for (gsize i = 0; i < qvalue_object_size(value); i++) {
            if (is_reference(item, qvalue_object_key(value, i))) {
                visit_references(plan, item, qvalue_object_value(value, i));
            }
        }
        break;
    default:
        break;
    }
}

static bool is_nbd_export(const StartItem *item)
{
    return item->kind == START_EXPORT && item->u.export->type == BLOCK_EXPORT_TYPE_NBD;
}

static void plan_visit(Plan *plan, StartItem *item)
{
    if (!g_hash_table_add(plan->visited, item)) {
        return;
    }
    if (is_nbd_export(item) && plan->nbd_server) {
        plan_visit(plan, plan->nbd_server);
    }
    visit_references(plan, item, item->value);
    g_ptr_array_add(plan->order, item);
}

static void plan_collect_names(Plan *plan)
{
    for (int kind = 0; kind <= START_MONITOR; kind++) {
        plan->names[kind] = g_hash_table_new(g_str_hash, g_str_equal);
    }
    for (guint i = 0; i < plan->items->len; i++) {
        StartItem *item = plan->items->pdata[i];
        const char *name = item_name(item);

        if (name && !g_hash_table_contains(plan->names[item->kind], name)) {
            g_hash_table_insert(plan->names[item->kind], (gpointer)name, item);
        }
        if (item->kind == START_NBD_SERVER) {
            plan->nbd_server = item;
        }
    }
}

GPtrArray *plan_start(const GPtrArray *items)
{
    Plan plan = {
        .items = items,
        .visited = g_hash_table_new(NULL, NULL),
        .order = g_ptr_array_new(),
    };

    plan_collect_names(&plan);
    for (guint i = 0; i < items->len; i++) {
        plan_visit(&plan, items->pdata[i]);
    }
    for (int kind = 0; kind <= START_MONITOR; kind++) {
        g_hash_table_unref(plan.names[kind]);
    }
    g_hash_table_unref(plan.visited);
    return plan.order;
}
