/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "export/registry-internal.h"
#include "export/waiter.h"
#include "qapi/events-block-export.h"
#include "util/error.h"
#include "util/name.h"

#define NS_PER_S   G_GINT64_CONSTANT(1000000000)
#define CACHE_LINE 64

/* How long a deletion waits for requests that came at the last moment. */
#define EXPORT_DEL_WAIT_NS (10 * NS_PER_S)

/*
 * How long the end of the daemon waits for an export's requests, then for what has been cut off.
 * Those older than it, which may serve its image, wait for it, but only for the patience that there
 * is for one, or for all of them.
 */
#define EXPORT_QUIT_WAIT_NS     (10 * NS_PER_S)
#define EXPORT_QUIT_GRACE_NS    (5 * NS_PER_S)
#define EXPORT_QUIT_PATIENCE_NS (3 * NS_PER_S)

/* How long a child that abandons exports may live. */
#define EXPORT_ABANDON_MAX_S 10

#define EXPORT_DRIVER(name) extern const ExportDriver export_driver_##name;
#include "export/drivers.inc"
#undef EXPORT_DRIVER

static const ExportDriver *const export_drivers[] = {
#define EXPORT_DRIVER(name) &export_driver_##name,
#include "export/drivers.inc"
#undef EXPORT_DRIVER
    NULL,
};

const ExportDriver *export_driver_find(BlockExportType type)
{
    for (unsigned i = 0; export_drivers[i]; i++) {
        if (export_drivers[i]->type == type) {
            return export_drivers[i];
        }
    }
    return NULL;
}

ExportRegistry *export_registry_new(BlockGraph *graph, ObjectRegistry *objects,
                                    const QapiEventSink *events)
{
    ExportRegistry *registry = g_new0(ExportRegistry, 1);

    registry->main = aio_context_ref(aio_context_current());
    registry->graph = graph;
    registry->objects = objects;
    registry->events = events;
    registry->del_wait_ns = EXPORT_DEL_WAIT_NS;
    registry->quit_patience_ns = EXPORT_QUIT_PATIENCE_NS;
    registry->by_id =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)export_unref);
    registry->shared = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    return registry;
}

void export_registry_free(ExportRegistry *registry)
{
    if (!registry) {
        return;
    }
    g_queue_clear(&registry->exports);
    g_hash_table_destroy(registry->by_id);
    g_hash_table_destroy(registry->shared);
    aio_context_unref(registry->main);
    g_free(registry);
}

gpointer export_registry_shared(ExportRegistry *registry, const ExportDriver *driver)
{
    gpointer shared = g_hash_table_lookup(registry->shared, driver);

    if (!shared) {
        shared = g_malloc0(MAX(driver->shared_size, 1));
        if (driver->shared_init) {
            driver->shared_init(shared);
        }
        g_hash_table_insert(registry->shared, (gpointer)driver, shared);
    }
    return shared;
}

/* Returns whether nothing that exports share is left. */
static bool co_fn export_registry_co_clear_shared(ExportRegistry *registry, int64_t deadline_ns)
{
    bool cleared = true;

    /* Commands may look for it meanwhile, so it is in the table until it has been torn down. */
    for (unsigned i = 0; export_drivers[i]; i++) {
        const ExportDriver *driver = export_drivers[i];
        gpointer shared = g_hash_table_lookup(registry->shared, driver);

        if (!shared || !driver->co_shared_clear || driver->co_shared_clear(shared, deadline_ns)) {
            g_hash_table_remove(registry->shared, driver);
        } else {
            cleared = false;
        }
    }
    return cleared;
}

/* Each iothread that @options name (Iothread *, none: the main context), or NULL. */
static GPtrArray *export_find_iothreads(ExportRegistry *registry, const BlockExportOptions *options,
                                        GError **error)
{
    g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func((GDestroyNotify)iothread_unref);
    const BlockExportIothreads *wanted = options->iothread;
    unsigned n = 0;
    const char *const *ids = NULL;

    if (wanted && wanted->type == QVALUE_STRING) {
        n = 1;
        ids = (const char *const *)&wanted->u.single;
    } else if (wanted) {
        n = wanted->u.multi->len;
        ids = (const char *const *)wanted->u.multi->pdata;
        if (n == 0) {
            g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                        "'iothread' of export '%s' is an empty list; leave it out for the main "
                        "thread",
                        options->id);
            return NULL;
        }
    }
    for (unsigned i = 0; i < n; i++) {
        Iothread *iothread = object_registry_get_iothread(registry->objects, ids[i], error);

        if (!iothread) {
            return NULL;
        }
        g_ptr_array_add(found, iothread);
    }
    return g_steal_pointer(&found);
}

/* Another export of @node that has to stay where it is, or NULL. */
static Export *export_registry_find_fixed(ExportRegistry *registry, const char *node_name)
{
    for (GList *l = registry->exports.head; l; l = l->next) {
        Export *exp = l->data;

        if (exp->fixed_iothread && g_str_equal(exp->node_name, node_name)) {
            return exp;
        }
    }
    return NULL;
}

/*
 * Where an export with `fixed-iothread` runs. Nodes here serve every context at once, so nothing
 * forbids two places; clients that pin one are told about a contradiction all the same.
 */
static bool export_check_fixed(ExportRegistry *registry, const BlockExportOptions *options,
                               GPtrArray *iothreads, GError **error)
{
    Export *other = export_registry_find_fixed(registry, options->node_name);

    if (!options->fixed_iothread) {
        return true;
    }
    if (options->iothread && options->iothread->type != QVALUE_STRING) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'fixed-iothread' of export '%s' goes with one iothread, not with a list",
                    options->id);
        return false;
    }
    if (!other) {
        return true;
    }
    if (!iothreads->len) {
        if (other->iothreads->len) {
            g_ptr_array_add(iothreads, iothread_ref(g_ptr_array_index(other->iothreads, 0)));
        }
        return true;
    }
    if (other->queues[0]->ctx != iothread_context(g_ptr_array_index(iothreads, 0))) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "node '%s' cannot be moved to iothread '%s': %s is fixed elsewhere",
                    options->node_name, options->iothread->u.single, other->user);
        return false;
    }
    return true;
}

static ExportQueue *export_queue_new(Export *exp, unsigned index, AioContext *ctx)
{
    /* Queues are busy in different threads, so they have no cache line in common. */
    gsize size = (exp->driver->queue_size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    ExportQueue *queue = g_aligned_alloc0(1, size, CACHE_LINE);

    queue->exp = exp;
    queue->index = index;
    queue->ctx = aio_context_ref(ctx);
    return queue;
}

static void export_make_queues(Export *exp)
{
    unsigned n = MAX(exp->iothreads->len, 1);

    exp->queues = g_new0(ExportQueue *, n);
    exp->n_queues = n;
    for (unsigned i = 0; i < n; i++) {
        AioContext *ctx = exp->iothreads->len
                              ? iothread_context(g_ptr_array_index(exp->iothreads, i))
                              : exp->main;

        exp->queues[i] = export_queue_new(exp, i, ctx);
    }
}

/* A new export in the registry: from here on its id is taken. Takes @iothreads. */
static Export *export_registry_insert(ExportRegistry *registry, const ExportDriver *driver,
                                      const BlockExportOptions *options, GPtrArray *iothreads)
{
    Export *exp = g_malloc0(driver->state_size);

    exp->driver = driver;
    exp->registry = registry;
    exp->shared = export_registry_shared(registry, driver);
    exp->id = g_strdup(options->id);
    exp->user = g_strdup_printf("export '%s'", options->id);
    exp->node_name = g_strdup(options->node_name);
    exp->main = registry->main;
    exp->writable = options->writable;
    exp->writethrough = options->writethrough;
    exp->fixed_iothread = options->fixed_iothread;
    exp->iothreads = iothreads;
    exp->refs = 1;
    exp->state = EXPORT_STARTING;
    export_make_queues(exp);

    for (unsigned i = 0; i < iothreads->len; i++) {
        object_registry_use(registry->objects, iothread_name(g_ptr_array_index(iothreads, i)),
                            exp->user);
    }
    g_hash_table_insert(registry->by_id, exp->id, exp);
    g_queue_push_head(&registry->exports, exp);
    return exp;
}

/* Take @exp out of the registry and let go of its iothreads. The caller has a reference. */
static void export_registry_remove(ExportRegistry *registry, Export *exp)
{
    for (unsigned i = 0; i < exp->iothreads->len; i++) {
        object_registry_unuse(registry->objects,
                              iothread_name(g_ptr_array_index(exp->iothreads, i)), exp->user);
    }
    g_clear_pointer(&exp->iothreads, g_ptr_array_unref);
    g_queue_remove(&registry->exports, exp);
    g_hash_table_remove(registry->by_id, exp->id);
}

void export_registry_forget(ExportRegistry *registry, Export *exp)
{
    export_registry_remove(registry, exp);
    qapi_event_block_export_deleted(registry->events, exp->id, exp->reason);
    if (registry->gone_cb) {
        registry->gone_cb(registry->gone_opaque);
    }
}

static bool export_check_id(ExportRegistry *registry, const char *id, GError **error)
{
    Export *exp;

    if (!name_check(id, "export id", error)) {
        return false;
    }
    exp = g_hash_table_lookup(registry->by_id, id);
    if (exp) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_EXISTS,
                    exp->state == EXPORT_SHUTTING_DOWN
                        ? "export '%s' is still shutting down; wait for BLOCK_EXPORT_DELETED or "
                          "choose another id"
                        : "there is already an export '%s'; choose another id",
                    id);
        return false;
    }
    return true;
}

static BlockNode *export_find_node(ExportRegistry *registry, const BlockExportOptions *options,
                                   GError **error)
{
    BlockNode *node = block_graph_find(registry->graph, options->node_name, error);

    if (node && options->writable && block_node_read_only(node)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "node '%s' is read-only; export '%s' cannot be writable", options->node_name,
                    options->id);
        return NULL;
    }
    if (node && options->allow_inactive && !block_node_active(node)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "node '%s' is inactive, and an export of type '%s' cannot leave it so; leave "
                    "'allow-inactive' out to make it active",
                    options->node_name, block_export_type_to_string(options->type));
        return NULL;
    }
    return node;
}

ObjectRegistry *export_registry_objects(ExportRegistry *registry)
{
    return registry->objects;
}

BlockNode *export_registry_find_node(ExportRegistry *registry, const char *name, GError **error)
{
    return block_graph_find(registry->graph, name, error);
}

/* Begin to delete it, unless it is on its way already. */
static void export_delete_running(Export *exp)
{
    if (exp->state == EXPORT_RUNNING) {
        export_shut_down(exp, BLOCK_EXPORT_END_REASON_DELETED, exp->registry->del_wait_ns);
    }
}

/* Prepare and start it. Its node is sought anew, for preparing it takes time in which it may go. */
static bool co_fn registry_co_start(ExportRegistry *registry, Export *exp,
                                    const BlockExportOptions *options, GError **error)
{
    BlockNode *node;

    if (exp->driver->co_prepare) {
        exp->driver->co_prepare(exp);
    }
    node = export_find_node(registry, options, error);
    return node && export_co_start(exp, node, options, error);
}

bool export_registry_co_add_as(ExportRegistry *registry, const ExportDriver *driver,
                               const BlockExportOptions *options, GError **error)
{
    g_autoptr(GPtrArray) iothreads = NULL;
    g_autoptr(Export) exp = NULL;

    if (registry->closing) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "export '%s' cannot be added: the daemon is ending", options->id);
        return false;
    }
    if (!export_check_id(registry, options->id, error) ||
        !export_find_node(registry, options, error)) {
        return false;
    }
    iothreads = export_find_iothreads(registry, options, error);
    if (!iothreads || !export_check_fixed(registry, options, iothreads, error)) {
        return false;
    }

    exp =
        export_ref(export_registry_insert(registry, driver, options, g_steal_pointer(&iothreads)));
    if (!registry_co_start(registry, exp, options, error)) {
        export_registry_remove(registry, exp);
        export_set_state(exp, EXPORT_GONE);
        return false;
    }
    export_set_state(exp, EXPORT_RUNNING);
    if (exp->unwanted) {
        export_delete_running(exp);
    }
    return true;
}

static char *known_types(void)
{
    GString *list = g_string_new(NULL);

    for (unsigned i = 0; export_drivers[i]; i++) {
        g_string_append_printf(list, "%s%s", i > 0 ? ", " : "",
                               block_export_type_to_string(export_drivers[i]->type));
    }
    return g_string_free(list, FALSE);
}

bool export_registry_co_add(ExportRegistry *registry, const BlockExportOptions *options,
                            GError **error)
{
    const ExportDriver *driver = export_driver_find(options->type);

    if (!driver) {
        g_autofree char *known = known_types();

        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "this build has no export of type '%s', only: %s",
                    block_export_type_to_string(options->type), known);
        return false;
    }
    return export_registry_co_add_as(registry, driver, options, error);
}

static Export *export_registry_find(ExportRegistry *registry, const char *id, GError **error)
{
    Export *exp = g_hash_table_lookup(registry->by_id, id);

    if (!exp) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "there is no export '%s'; query-block-exports lists them", id);
    }
    return exp;
}

static bool export_check_removable(Export *exp, BlockExportRemoveMode mode, GError **error)
{
    unsigned busy = export_data_requests(exp);

    if (exp->state == EXPORT_STARTING) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE, "export '%s' is still being added",
                    exp->id);
        return false;
    }
    if (exp->state != EXPORT_RUNNING) {
        g_autofree char *step = export_describe_ending(exp);

        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "export '%s' is shutting down already: %s", exp->id, step);
        return false;
    }
    if (mode == BLOCK_EXPORT_REMOVE_MODE_SAFE && busy) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "export '%s' is still in use: %u request%s in flight; mode 'hard' cuts %s off",
                    exp->id, busy, busy == 1 ? "" : "s", busy == 1 ? "it" : "them");
        return false;
    }
    return true;
}

static void co_fn export_co_await_deleted(Export *exp, int64_t deadline_ns)
{
    g_autofree char *step = NULL;

    if (export_co_wait_end(exp, deadline_ns) == EXPORT_GONE || aio_now_ns() < deadline_ns) {
        return;
    }
    step = export_describe_ending(exp);
    g_message("%s: its end takes long: %s", exp->user, step);
}

bool export_registry_co_del(ExportRegistry *registry, const char *id, BlockExportRemoveMode mode,
                            GError **error)
{
    g_autoptr(Export) exp = export_registry_find(registry, id, error);
    bool hard = mode == BLOCK_EXPORT_REMOVE_MODE_HARD;

    if (!exp) {
        return false;
    }
    export_ref(exp);
    if (!export_check_removable(exp, mode, error)) {
        return false;
    }
    if (!hard && exp->driver->co_may_end && !exp->driver->co_may_end(exp, error)) {
        return false;
    }
    if (exp->state == EXPORT_RUNNING) {
        export_shut_down(exp, BLOCK_EXPORT_END_REASON_DELETED, hard ? 0 : registry->del_wait_ns);
    }
    /* A safe one gives requests that came at the last moment their time first. */
    export_co_await_deleted(exp, aio_now_ns() + (hard ? 1 : 2) * registry->del_wait_ns);
    return true;
}

bool export_registry_has(ExportRegistry *registry, const char *id, BlockExportType type)
{
    const Export *exp = g_hash_table_lookup(registry->by_id, id);

    return exp && exp->driver->type == type;
}

/* The exports of @type, newest first (Export *, with a reference). */
static GPtrArray *export_registry_snapshot(ExportRegistry *registry, BlockExportType type)
{
    GPtrArray *all = g_ptr_array_new_with_free_func((GDestroyNotify)export_unref);

    for (GList *l = registry->exports.head; l; l = l->next) {
        Export *exp = l->data;

        if (exp->driver->type == type) {
            g_ptr_array_add(all, export_ref(exp));
        }
    }
    return all;
}

void export_registry_co_del_type(ExportRegistry *registry, BlockExportType type)
{
    g_autoptr(GPtrArray) all = export_registry_snapshot(registry, type);
    int64_t start_deadline_ns = aio_now_ns() + registry->del_wait_ns;
    int64_t deadline_ns = start_deadline_ns + EXPORT_QUIT_GRACE_NS;

    /* All at once, so that many that hang take no longer than one. */
    for (unsigned i = 0; i < all->len; i++) {
        Export *exp = g_ptr_array_index(all, i);

        exp->unwanted = true; /* if it still starts, it is not to come afterwards */
        export_delete_running(exp);
    }
    for (unsigned i = 0; i < all->len; i++) {
        Export *exp = g_ptr_array_index(all, i);

        if (export_co_wait_started(exp, start_deadline_ns)) {
            export_co_wait_end(exp, deadline_ns);
        }
    }
}

/* Begin to shut down an export for the end of the daemon, as soon as it runs. */
static void co_fn export_co_begin_quit(Export *exp, int64_t start_deadline_ns)
{
    export_co_wait_started(exp, start_deadline_ns);
    if (exp->state == EXPORT_RUNNING) {
        export_shut_down(exp, BLOCK_EXPORT_END_REASON_SHUTDOWN, EXPORT_QUIT_WAIT_NS);
    }
}

/* Wait until it is gone, whatever it has been cut off from, or until @deadline_ns (false). */
static bool co_fn export_co_wait_gone(Export *exp, int64_t deadline_ns)
{
    while (exp->state != EXPORT_GONE && export_co_wait_change(exp, deadline_ns)) {
    }
    return exp->state == EXPORT_GONE;
}

static void export_warn_stuck(const Export *exp)
{
    if (exp->state == EXPORT_STARTING) {
        g_warning("%s: adding it does not end; giving up on it", exp->user);
    } else {
        g_autofree char *step = export_describe_ending(exp);

        g_warning("%s: its end takes too long: %s; giving up on it", exp->user, step);
    }
}

/* What others could trip over is removed. */
static void export_registry_abandon_shared(ExportRegistry *registry)
{
    GHashTableIter iter;
    gpointer driver, shared;

    g_hash_table_iter_init(&iter, registry->shared);
    while (g_hash_table_iter_next(&iter, &driver, &shared)) {
        const ExportDriver *d = driver;

        if (d->shared_abandon) {
            d->shared_abandon(shared);
        }
    }
}

bool export_registry_co_shutdown_all(ExportRegistry *registry, int64_t start_wait_ns)
{
    int64_t start_deadline_ns = aio_now_ns() + start_wait_ns;
    int64_t patience_end_ns = aio_now_ns() + EXPORT_QUIT_WAIT_NS;
    int64_t deadline_ns = patience_end_ns + EXPORT_QUIT_GRACE_NS;
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func((GDestroyNotify)export_unref);
    unsigned n_running = 0;
    bool gone = true;

    registry->closing = true;
    for (GList *l = registry->exports.head; l; l = l->next) {
        Export *exp = l->data;

        /* A start may hang; those that run are not to wait for it. */
        g_ptr_array_insert(all, exp->state == EXPORT_STARTING ? -1 : (int)n_running++,
                           export_ref(exp));
    }
    for (unsigned i = 0; i < all->len; i++) {
        Export *exp = g_ptr_array_index(all, i);

        export_co_begin_quit(exp, start_deadline_ns);
        deadline_ns = aio_now_ns() + EXPORT_QUIT_WAIT_NS + EXPORT_QUIT_GRACE_NS;
        if (exp->state == EXPORT_SHUTTING_DOWN) {
            export_co_wait_gone(exp,
                                MIN(aio_now_ns() + registry->quit_patience_ns, patience_end_ns));
        }
    }
    for (unsigned i = 0; i < all->len; i++) {
        Export *exp = g_ptr_array_index(all, i);

        if (exp->state == EXPORT_RUNNING) { /* its start has ended meanwhile */
            export_shut_down(exp, BLOCK_EXPORT_END_REASON_SHUTDOWN, EXPORT_QUIT_GRACE_NS);
        }
        if (exp->state == EXPORT_STARTING || !export_co_wait_gone(exp, deadline_ns)) {
            export_warn_stuck(exp);
            gone = false;
        }
    }
    gone = gone && export_registry_co_clear_shared(registry, deadline_ns);
    if (!gone) {
        export_registry_abandon_shared(registry);
    }
    return gone;
}

/* The child's part of an abandonment: with its descriptors closed it keeps no connection alive. */
static void registry_abandon_in_child(ExportRegistry *registry) G_GNUC_NORETURN;

static void registry_abandon_in_child(ExportRegistry *registry)
{
    alarm(EXPORT_ABANDON_MAX_S);
    if (close_range(STDERR_FILENO + 1, ~0U, 0) < 0) {
        _exit(EXIT_FAILURE);
    }
    for (GList *l = registry->exports.head; l; l = l->next) {
        Export *exp = l->data;

        if (exp->state != EXPORT_STARTING && exp->driver->abandon) {
            exp->driver->abandon(exp);
        }
    }
    _exit(EXIT_SUCCESS);
}

void export_registry_abandon(ExportRegistry *registry)
{
    int64_t deadline_ns = aio_now_ns() + NS_PER_S;
    pid_t pid;

    export_registry_abandon_shared(registry);
    if (g_queue_is_empty(&registry->exports)) {
        return;
    }
    pid = fork();
    if (pid == 0) {
        registry_abandon_in_child(registry);
    }
    /* An unmount may write to the export first, which only the end of this process makes fail. */
    while (pid > 0 && waitpid(pid, NULL, WNOHANG) == 0 && aio_now_ns() < deadline_ns) {
        g_usleep(1000);
    }
}

unsigned export_registry_count(ExportRegistry *registry)
{
    return g_hash_table_size(registry->by_id);
}

void export_registry_set_gone_notify(ExportRegistry *registry, void (*cb)(gpointer opaque),
                                     gpointer opaque)
{
    registry->gone_cb = cb;
    registry->gone_opaque = opaque;
}

static BlockExportStats *export_stats(Export *exp)
{
    BlockExportStats *stats = g_new0(BlockExportStats, 1);
    BlockOpStats ops[BLOCK_OP__MAX];

    if (!exp->blk) {
        return stats;
    }
    blk_stats(exp->blk, ops);
    stats->rd_operations = ops[BLOCK_OP_READ].ops;
    stats->rd_bytes = ops[BLOCK_OP_READ].bytes;
    stats->wr_operations = ops[BLOCK_OP_WRITE].ops;
    stats->wr_bytes = ops[BLOCK_OP_WRITE].bytes;
    stats->unmap_operations = ops[BLOCK_OP_UNMAP].ops;
    stats->flush_operations = ops[BLOCK_OP_FLUSH].ops;
    for (unsigned i = 0; i < BLOCK_OP__MAX; i++) {
        stats->failed_operations += ops[i].failed;
    }
    return stats;
}

static BlockExportInfo *export_info(Export *exp)
{
    BlockExportInfo *info = g_new0(BlockExportInfo, 1);

    info->id = g_strdup(exp->id);
    info->type = exp->driver->type;
    info->node_name = g_strdup(exp->node_name);
    info->shutting_down = exp->state == EXPORT_SHUTTING_DOWN;
    info->has_ending = info->shutting_down;
    info->ending = exp->ending;
    info->writable = exp->writable;
    info->writethrough = exp->writethrough;
    info->iothreads = g_ptr_array_new_with_free_func(g_free);
    for (unsigned i = 0; i < exp->iothreads->len; i++) {
        const Iothread *iothread = g_ptr_array_index(exp->iothreads, i);

        g_ptr_array_add(info->iothreads, g_strdup(iothread_name(iothread)));
    }
    info->queues = exp->n_queues;
    info->in_flight = export_data_requests(exp);
    info->stats = export_stats(exp);
    exp->driver->query(exp, info);
    return info;
}

GPtrArray *export_registry_query(ExportRegistry *registry)
{
    GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify)block_export_info_free);

    for (GList *l = registry->exports.head; l; l = l->next) {
        Export *exp = l->data;

        if (exp->state != EXPORT_STARTING) {
            g_ptr_array_add(list, export_info(exp));
        }
    }
    return list;
}
