/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands of modules block-export and nbd. */
#include "export/export.h"
#include "qapi/commands-block-export.h"
#include "qapi/commands-nbd.h"

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

void export_register_commands(ExportRegistry *registry, QapiCommandTable *table)
{
    qapi_command_table_add(table, qapi_commands_block_export, registry);
    qapi_command_table_add(table, qapi_commands_nbd, registry);
}
