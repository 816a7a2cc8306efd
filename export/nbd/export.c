/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The export driver. */
#include <string.h>

#include "export/nbd/server.h"
#include "util/error.h"

/* A good size for small requests, unless the node has a larger one. */
#define PREFERRED_BLOCK 4096

/* How often and in what distance a deletion looks whether clients have gone. */
#define LOOK_TRIES    5
#define LOOK_PAUSE_NS (10 * G_GINT64_CONSTANT(1000000))

/* ---- what exports share ---- */

static void nbd_shared_init(gpointer opaque)
{
    NbdShared *shared = opaque;

    shared->by_name = g_hash_table_new(g_str_hash, g_str_equal);
}

/* False: not by @deadline_ns. */
static bool co_fn nbd_shared_co_wait_idle(NbdShared *shared, int64_t deadline_ns)
{
    bool idle = true;

    while (shared->busy && idle) {
        ExportWaiter waiter = {0};

        shared->idle_waiter = &waiter;
        idle = export_waiter_co_wait(&waiter, deadline_ns);
        shared->idle_waiter = NULL;
    }
    return idle;
}

static bool co_fn nbd_shared_co_clear(gpointer opaque, int64_t deadline_ns)
{
    NbdShared *shared = opaque;

    if (!nbd_shared_co_wait_idle(shared, deadline_ns)) {
        g_warning("NBD server: its start or its end takes too long; giving up on it");
        return false;
    }
    nbd_shared_set_busy(shared, true);
    if (shared->server) {
        nbd_server_co_end(g_steal_pointer(&shared->server));
    }
    g_hash_table_destroy(shared->by_name);
    return true;
}

static void nbd_shared_abandon(gpointer opaque)
{
    nbd_server_forget_socket(opaque);
}

static const NbdFace *find_face(gpointer opaque, const NbdString *name)
{
    NbdShared *shared = opaque;
    g_autofree char *text = g_strndup(name->text, name->length);
    NbdExport *ne = g_hash_table_lookup(shared->by_name, text);

    return ne && ne->published && nbd_wire_string_is(name, ne->name) ? &ne->face : NULL;
}

static void foreach_face(gpointer opaque, void (*fn)(const NbdFace *face, gpointer arg),
                         gpointer arg)
{
    NbdShared *shared = opaque;

    for (GList *l = shared->exports.head; l; l = l->next) {
        const NbdExport *ne = l->data;

        if (ne->published) {
            fn(&ne->face, arg);
        }
    }
}

void nbd_server_set_directory(NbdShared *shared, NbdDirectory *directory)
{
    *directory = (NbdDirectory){shared, find_face, foreach_face};
}

/* ---- clients that come ---- */

NbdQueue *nbd_export_enter(NbdExport *ne)
{
    NbdQueue *best = (NbdQueue *)ne->common.queues[0];

    for (unsigned i = 1; i < ne->common.n_queues; i++) {
        NbdQueue *queue = (NbdQueue *)ne->common.queues[i];

        if (__atomic_load_n(&queue->connections, __ATOMIC_RELAXED) <
            __atomic_load_n(&best->connections, __ATOMIC_RELAXED)) {
            best = queue;
        }
    }
    __atomic_fetch_add(&best->connections, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&ne->connections, 1, __ATOMIC_RELAXED);
    ne->entering++;
    return best;
}

void nbd_export_entered(NbdExport *ne)
{
    ne->entering--;
    if (ne->entered_waiter) {
        export_waiter_wake(ne->entered_waiter);
    }
}

/* ---- start ---- */

static void nbd_export_permissions(const BlockExportOptions *options, BlockPerm *perm,
                                   BlockPerm *shared)
{
    *perm = BLOCK_PERM_CONSISTENT_READ;
    if (options->writable) {
        *perm |= BLOCK_PERM_WRITE;
    }
    /* Clients are told the length once. */
    *shared = BLOCK_PERM_ALL & ~(BlockPerm)BLOCK_PERM_RESIZE;
}

static bool check_text(const Export *exp, const char *what, const char *text, GError **error)
{
    if (text && strlen(text) > NBD_MAX_STRING) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "%s: '%s' is too long: %zu bytes, where the protocol allows %d", exp->user,
                    what, strlen(text), NBD_MAX_STRING);
        return false;
    }
    return true;
}

static bool check_bitmaps(const Export *exp, const BlockExportOptionsNbd *options, GError **error)
{
    const BlockDirtyBitmapOrStr *first;

    if (!options->bitmaps || options->bitmaps->len == 0) {
        return true;
    }
    first = g_ptr_array_index(options->bitmaps, 0);
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                "%s: there is no dirty bitmap '%s': this build has no dirty bitmaps", exp->user,
                first->type == QVALUE_STRING ? first->u.local : first->u.external.name);
    return false;
}

static bool check_options(NbdExport *ne, const BlockExportOptionsNbd *options, GError **error)
{
    const Export *exp = &ne->common;
    const NbdShared *shared = exp->shared;
    const NbdExport *other;

    if (!shared->server || shared->busy) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "%s: the NBD server is not running; start it by nbd-server-start or "
                    "--nbd-server first",
                    exp->user);
        return false;
    }
    if (!check_text(exp, "name", options->name, error) ||
        !check_text(exp, "description", options->description, error)) {
        return false;
    }
    other = g_hash_table_lookup(shared->by_name, options->name ? options->name : exp->node_name);
    if (other) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_EXISTS,
                    "%s: the NBD server has an export called '%s' already, with the id '%s'; give "
                    "this one another 'name'",
                    exp->user, other->name, other->common.id);
        return false;
    }
    return check_bitmaps(exp, options, error);
}

static void add_context(NbdExport *ne, NbdContext *context)
{
    g_ptr_array_add(ne->contexts, context);
    g_ptr_array_add(ne->context_names, context->name);
}

static uint16_t transmission_flags(const NbdExport *ne)
{
    uint16_t flags =
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;

    /* What one client has been told is written, all connections see, and a flush covers it. */
    if (nbd_server_multi_conn(ne->common.shared)) {
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    }
    if (!ne->common.writable) {
        return flags | NBD_FLAG_READ_ONLY;
    }
    return flags | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
}

static void make_face(NbdExport *ne, const BlockExportOptionsNbd *options)
{
    BlockLimits limits;

    blk_limits(ne->common.blk, &limits);
    ne->name = g_strdup(options->name ? options->name : ne->common.node_name);
    ne->description = g_strdup(options->description);
    ne->zero_copy = options->zero_copy;
    ne->contexts = g_ptr_array_new_with_free_func((GDestroyNotify)nbd_context_free);
    ne->context_names = g_ptr_array_new();
    add_context(ne, nbd_context_new_allocation());
    if (options->allocation_depth) {
        add_context(ne, nbd_context_new_depth());
    }
    g_ptr_array_add(ne->context_names, NULL);
    ne->face = (NbdFace){
        .name = ne->name,
        .description = ne->description,
        .size = blk_length(ne->common.blk),
        .flags = transmission_flags(ne),
        .preferred_block = MAX(PREFERRED_BLOCK, limits.preferred_io),
        .contexts = (const char *const *)ne->context_names->pdata,
        .self = ne,
    };
}

static bool co_fn nbd_export_co_start(Export *exp, const BlockExportOptions *options,
                                      GError **error)
{
    NbdExport *ne = (NbdExport *)exp;
    NbdShared *shared = exp->shared;

    if (!check_options(ne, &options->u.nbd, error)) {
        return false;
    }
    make_face(ne, &options->u.nbd);
    g_hash_table_insert(shared->by_name, ne->name, ne);
    g_queue_push_tail(&shared->exports, ne);
    for (unsigned i = 0; i < exp->n_queues; i++) {
        NbdQueue *queue = (NbdQueue *)exp->queues[i];

        queue->pool = nbd_pool_new(exp->queues[i]->ctx);
    }
    return true;
}

static void nbd_export_begin(ExportQueue *queue)
{
    NbdQueue *nbd_queue = (NbdQueue *)queue;

    nbd_pool_begin(nbd_queue->pool);
    nbd_queue->running = true;
}

static bool co_fn nbd_export_co_publish(Export *exp, const BlockExportOptions *options,
                                        GError **error)
{
    ((NbdExport *)exp)->published = true;
    return true;
}

/* ---- end ---- */

static void nbd_export_stop(ExportQueue *queue, bool cut)
{
    NbdQueue *nbd_queue = (NbdQueue *)queue;

    nbd_queue->running = false;
    nbd_connections_stop(nbd_queue, cut);
    nbd_pool_stop(nbd_queue->pool);
}

/* How many clients there are that have not gone without our having looked. */
static unsigned co_fn nbd_export_co_count(NbdExport *ne)
{
    for (unsigned i = 0; i < ne->common.n_queues; i++) {
        aio_co_reschedule_self(ne->common.queues[i]->ctx);
        nbd_connections_look((NbdQueue *)ne->common.queues[i]);
    }
    aio_co_reschedule_self(ne->common.main);
    return __atomic_load_n(&ne->connections, __ATOMIC_ACQUIRE);
}

/* A client that has chosen the export uses it, whether it has requests in flight or not. */
static bool co_fn nbd_export_co_may_end(Export *exp, GError **error)
{
    NbdExport *ne = (NbdExport *)exp;
    unsigned clients;

    ne->entering++; /* so that the queues' contexts stay */
    clients = nbd_export_co_count(ne);
    /* With TLS it takes a moment to see that one has gone. */
    for (unsigned i = 0; clients && i < LOOK_TRIES; i++) {
        aio_co_sleep_ns(LOOK_PAUSE_NS);
        clients = nbd_export_co_count(ne);
    }
    nbd_export_entered(ne);
    if (!clients || exp->state != EXPORT_RUNNING) {
        return true;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                "%s is still in use: %u client connection%s; disconnect, or remove the export with "
                "mode 'hard', which cuts %s off",
                exp->user, clients, clients == 1 ? "" : "s", clients == 1 ? "it" : "them");
    return false;
}

static void co_fn nbd_export_co_withdraw(Export *exp)
{
    NbdExport *ne = (NbdExport *)exp;

    ne->published = false;
    while (ne->entering) {
        ExportWaiter waiter = {0};

        ne->entered_waiter = &waiter;
        export_waiter_co_wait(&waiter, INT64_MAX);
        ne->entered_waiter = NULL;
    }
}

static void co_fn nbd_export_co_end(Export *exp)
{
    NbdExport *ne = (NbdExport *)exp;
    NbdShared *shared = exp->shared;

    g_hash_table_remove(shared->by_name, ne->name);
    g_queue_remove(&shared->exports, ne);
    for (unsigned i = 0; i < exp->n_queues; i++) {
        g_clear_pointer(&((NbdQueue *)exp->queues[i])->pool, nbd_pool_free);
    }
    /* It may be asked about until it is forgotten. */
    g_clear_pointer(&ne->context_names, g_ptr_array_unref);
    g_clear_pointer(&ne->contexts, g_ptr_array_unref);
    g_clear_pointer(&ne->description, g_free);
    g_clear_pointer(&ne->name, g_free);
}

static void nbd_export_query(Export *exp, BlockExportInfo *info)
{
    NbdExport *ne = (NbdExport *)exp;
    BlockExportInfoNbd *nbd = g_new0(BlockExportInfoNbd, 1);

    info->nbd = nbd;
    nbd->name = g_strdup(ne->name ? ne->name : "");
    nbd->description = g_strdup(ne->description);
    nbd->size = ne->face.size;
    nbd->multi_conn = ne->face.flags & NBD_FLAG_CAN_MULTI_CONN;
    nbd->connections = __atomic_load_n(&ne->connections, __ATOMIC_RELAXED);
    nbd->contexts = g_ptr_array_new_with_free_func(g_free);
    for (unsigned i = 0; ne->contexts && i < ne->contexts->len; i++) {
        const NbdContext *context = g_ptr_array_index(ne->contexts, i);

        g_ptr_array_add(nbd->contexts, g_strdup(context->name));
    }
}

extern const ExportDriver export_driver_nbd;
const ExportDriver export_driver_nbd = {
    .type = BLOCK_EXPORT_TYPE_NBD,
    .state_size = sizeof(NbdExport),
    .queue_size = sizeof(NbdQueue),
    .shared_size = sizeof(NbdShared),
    .shared_init = nbd_shared_init,
    .co_shared_clear = nbd_shared_co_clear,
    .shared_abandon = nbd_shared_abandon,
    .permissions = nbd_export_permissions,
    .co_start = nbd_export_co_start,
    .begin = nbd_export_begin,
    .co_publish = nbd_export_co_publish,
    .stop = nbd_export_stop,
    .co_may_end = nbd_export_co_may_end,
    .co_withdraw = nbd_export_co_withdraw,
    .co_end = nbd_export_co_end,
    .query = nbd_export_query,
};
