/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands of modules block-export and nbd. */
#include "export/export.h"
#include "qapi/commands-block-export.h"
#include "qapi/commands-nbd.h"
#include "util/error.h"

bool qmp_block_export_add(QapiCall *call, const BlockExportOptions *arg, GError **error)
{
    return export_registry_co_add(call->self, arg, error);
}

bool qmp_block_export_del(QapiCall *call, const char *id, BlockExportRemoveMode mode,
                          GError **error)
{
    return export_registry_co_del(call->self, id, mode, error);
}

GPtrArray *qmp_query_block_exports(QapiCall *call, GError **error)
{
    return export_registry_query(call->self);
}

bool qmp_nbd_server_start(QapiCall *call, const SocketAddressLegacy *addr,
                          uint32_t handshake_max_seconds, const char *tls_creds,
                          const char *tls_authz, uint32_t max_connections, GError **error)
{
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED, "this build has no NBD server");
    return false;
}

static bool refuse_without_server(GError **error)
{
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                "the NBD server is not running; this build has none");
    return false;
}

bool qmp_nbd_server_stop(QapiCall *call, GError **error)
{
    return refuse_without_server(error);
}

bool qmp_nbd_server_add(QapiCall *call, const char *name, const char *description,
                        const char *device, bool writable, const char *bitmap, GError **error)
{
    return refuse_without_server(error);
}

bool qmp_nbd_server_remove(QapiCall *call, const char *name, BlockExportRemoveMode mode,
                           GError **error)
{
    return refuse_without_server(error);
}

void export_register_commands(ExportRegistry *registry, QapiCommandTable *table)
{
    qapi_command_table_add(table, qapi_commands_block_export, registry);
    qapi_command_table_add(table, qapi_commands_nbd, registry);
}
