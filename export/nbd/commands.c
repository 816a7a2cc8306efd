/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands of module nbd, and --nbd-server. */
#include "export/nbd/server.h"
#include "qapi/commands-nbd.h"
#include "qapi/socket-place.h"
#include "util/error.h"

static NbdShared *registry_nbd(ExportRegistry *registry)
{
    return export_registry_shared(registry, export_driver_find(BLOCK_EXPORT_TYPE_NBD));
}

/* ---- start and stop ---- */

static bool check_tls(const char *creds, const char *authz, GError **error)
{
    if (authz && !creds) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'tls-authz' goes with 'tls-creds' only");
        return false;
    }
    return true;
}

bool nbd_server_co_start(ExportRegistry *registry, const NbdServerOptions *options, GError **error)
{
    g_auto(NbdServerConfig) config = {
        .handshake_max_s = options->handshake_max_seconds,
        .max_connections = options->max_connections,
        .objects = export_registry_objects(registry),
        .tls_creds = g_strdup(options->tls_creds),
        .tls_authz = g_strdup(options->tls_authz),
    };

    if (!check_tls(options->tls_creds, options->tls_authz, error)) {
        return false;
    }
    config.place = socket_place_from_address(options->addr, error);
    return config.place && nbd_server_co_listen(registry_nbd(registry), &config, error);
}

bool qmp_nbd_server_start(QapiCall *call, const SocketAddressLegacy *addr,
                          uint32_t handshake_max_seconds, const char *tls_creds,
                          const char *tls_authz, uint32_t max_connections, GError **error)
{
    g_auto(NbdServerConfig) config = {
        .handshake_max_s = handshake_max_seconds,
        .max_connections = max_connections,
        .objects = export_registry_objects(call->self),
        .tls_creds = g_strdup(tls_creds),
        .tls_authz = g_strdup(tls_authz),
    };

    if (!check_tls(tls_creds, tls_authz, error)) {
        return false;
    }
    config.place = socket_place_from_legacy(addr, error);
    return config.place && nbd_server_co_listen(registry_nbd(call->self), &config, error);
}

static bool check_running(const NbdShared *shared, GError **error)
{
    if (shared->server && !shared->busy) {
        return true;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                shared->busy ? "the NBD server is just being started or stopped"
                             : "the NBD server is not running; nbd-server-start starts it");
    return false;
}

bool qmp_nbd_server_stop(QapiCall *call, GError **error)
{
    NbdShared *shared = registry_nbd(call->self);

    if (!check_running(shared, error)) {
        return false;
    }
    nbd_shared_set_busy(shared, true);
    nbd_server_close(shared->server);
    export_registry_co_del_type(call->self, BLOCK_EXPORT_TYPE_NBD);
    nbd_server_co_end(g_steal_pointer(&shared->server));
    nbd_shared_set_busy(shared, false);
    return true;
}

NbdServerInfo *qmp_query_nbd_server(QapiCall *call, GError **error)
{
    return nbd_server_info(registry_nbd(call->self));
}

/* ---- the older way to export ---- */

static void add_bitmap(BlockExportOptionsNbd *options, const char *name)
{
    BlockDirtyBitmapOrStr *bitmap = g_new0(BlockDirtyBitmapOrStr, 1);

    bitmap->type = QVALUE_STRING;
    bitmap->u.local = g_strdup(name);
    options->bitmaps =
        g_ptr_array_new_with_free_func((GDestroyNotify)block_dirty_bitmap_or_str_free);
    g_ptr_array_add(options->bitmaps, bitmap);
}

bool qmp_nbd_server_add(QapiCall *call, const char *name, const char *description,
                        const char *device, bool writable, const char *bitmap, GError **error)
{
    ExportRegistry *registry = call->self;
    g_autoptr(BlockExportOptions) options = NULL;
    BlockNode *node;

    if (!check_running(registry_nbd(registry), error)) {
        return false;
    }
    node = export_registry_find_node(registry, device, error);
    if (!node) {
        return false;
    }
    options = g_new0(BlockExportOptions, 1);
    options->type = BLOCK_EXPORT_TYPE_NBD;
    options->id = g_strdup(name ? name : device);
    options->node_name = g_strdup(device);
    options->writable = writable && !block_node_read_only(node);
    options->u.nbd.name = g_strdup(options->id);
    options->u.nbd.description = g_strdup(description);
    if (bitmap) {
        add_bitmap(&options->u.nbd, bitmap);
    }
    return export_registry_co_add(registry, options, error);
}

bool qmp_nbd_server_remove(QapiCall *call, const char *name, BlockExportRemoveMode mode,
                           GError **error)
{
    ExportRegistry *registry = call->self;

    if (!check_running(registry_nbd(registry), error)) {
        return false;
    }
    if (!export_registry_has(registry, name, BLOCK_EXPORT_TYPE_NBD)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "there is no NBD export with the id '%s'; query-block-exports lists them",
                    name);
        return false;
    }
    return export_registry_co_del(registry, name, mode, error);
}
