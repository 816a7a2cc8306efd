/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "monitor/errors-internal.h"

#include "util/error.h"

#define JSONRPC_INTERNAL_ERROR (-32603)

/* Indexed by WharfError. */
static const int jsonrpc_codes[] = {
    [WHARF_ERROR_GENERIC] = -32000,
    [WHARF_ERROR_INVALID_ARGUMENT] = -32602,
    [WHARF_ERROR_INVALID_REQUEST] = -32600,
    [WHARF_ERROR_PARSE] = -32700,
    [WHARF_ERROR_COMMAND_NOT_FOUND] = -32601,
    [WHARF_ERROR_DEVICE_NOT_FOUND] = -32001,
    [WHARF_ERROR_NOT_FOUND] = -32002,
    [WHARF_ERROR_EXISTS] = -32003,
    [WHARF_ERROR_IN_USE] = -32004,
    [WHARF_ERROR_UNSUPPORTED] = -32005,
    [WHARF_ERROR_IO] = -32006,
};

const char *monitor_error_class(const GError *error)
{
    if (g_error_matches(error, WHARF_ERROR, WHARF_ERROR_COMMAND_NOT_FOUND)) {
        return "CommandNotFound";
    }
    if (g_error_matches(error, WHARF_ERROR, WHARF_ERROR_DEVICE_NOT_FOUND)) {
        return "DeviceNotFound";
    }
    return "GenericError";
}

int monitor_error_code(const GError *error)
{
    if (error->domain != WHARF_ERROR || error->code < 0 ||
        (gsize)error->code >= G_N_ELEMENTS(jsonrpc_codes)) {
        return JSONRPC_INTERNAL_ERROR;
    }
    return jsonrpc_codes[error->code];
}
