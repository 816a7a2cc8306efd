/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "monitor/chardev.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include "util/error.h"
#include "util/name.h"

#define DEFAULT_SOCKET_MODE 0600

void chardev_config_free(ChardevConfig *config)
{
    if (!config) {
        return;
    }
    g_free(config->id);
    socket_place_free(config->address);
    g_free(config);
}

static ChardevConfig *config_new(const char *id, ChardevBackendKind kind, GError **error)
{
    ChardevConfig *config;

    if (!name_check(id, "chardev id", error)) {
        return NULL;
    }
    config = g_new0(ChardevConfig, 1);
    config->id = g_strdup(id);
    config->kind = kind;
    return config;
}

/* ---- addresses ---- */

static SocketPlace *unix_address(const char *path, bool abstract, bool tight, const char *mode,
                                 GError **error)
{
    g_autoptr(SocketPlace) address = g_new0(SocketPlace, 1);

    if (abstract && mode) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'mode' goes with a path only: an abstract socket has no permissions");
        return NULL;
    }
    address->kind = abstract ? SOCKET_ABSTRACT : SOCKET_UNIX;
    address->path = g_strdup(path);
    address->padded = !tight;
    address->mode = DEFAULT_SOCKET_MODE;
    if (mode && !socket_parse_mode(mode, &address->mode, error)) {
        return NULL;
    }
    return g_steal_pointer(&address);
}

static SocketPlace *inet_address(const char *host, const char *port, int family)
{
    SocketPlace *address = g_new0(SocketPlace, 1);

    address->kind = SOCKET_INET;
    address->host = g_strdup(host);
    address->port = g_strdup(port);
    address->family = family;
    return address;
}

static SocketPlace *fd_address(const char *text, GError **error)
{
    int fd = socket_parse_fd(text, error);
    SocketPlace *address;

    if (fd < 0) {
        return NULL;
    }
    address = g_new0(SocketPlace, 1);
    address->kind = SOCKET_FD;
    address->fd = fd;
    return address;
}

/* ---- rules that both forms share ---- */

static bool check_socket(const ChardevConfig *config, bool has_mode, GError **error)
{
    SocketPlaceKind kind = config->address->kind;

    if (config->server && config->reconnect_ms) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "chardev '%s': 'reconnect-ms' goes with a socket that connects, not with "
                    "server=on",
                    config->id);
        return false;
    }
    if (!config->server && config->wait) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "chardev '%s': 'wait' goes with server=on only", config->id);
        return false;
    }
    if (kind == SOCKET_FD && config->reconnect_ms) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "chardev '%s': an inherited connection cannot be made again, so "
                    "'reconnect-ms' does not go with 'fd'",
                    config->id);
        return false;
    }
    if (has_mode && !(kind == SOCKET_UNIX && config->server)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "chardev '%s': 'mode' goes with 'path' and server=on only", config->id);
        return false;
    }
    return true;
}

/* ---- --chardev ---- */

static bool check_one_place(const char *id, const ChardevSocketOptions *o, GError **error)
{
    int places = !!o->path + !!o->host + !!o->fd;

    if (places == 0 && o->port) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "chardev '%s': 'port' needs 'host'", id);
        return false;
    }
    if (places != 1) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "chardev '%s': give exactly one of 'path', 'host' with 'port', and 'fd'", id);
        return false;
    }
    if (!o->host != !o->port) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "chardev '%s': 'host' and 'port' go together only", id);
        return false;
    }
    if (!o->path && (o->abstract || !o->tight)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "chardev '%s': 'abstract' and 'tight' go with 'path' only", id);
        return false;
    }
    if (!o->host && (o->has_ipv4 || o->has_ipv6)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "chardev '%s': 'ipv4' and 'ipv6' go with 'host' only", id);
        return false;
    }
    return true;
}

static SocketPlace *address_from_options(const ChardevSocketOptions *o, GError **error)
{
    int family = AF_UNSPEC;

    if (o->path) {
        return unix_address(o->path, o->abstract, o->tight, o->mode, error);
    }
    if (o->fd) {
        return fd_address(o->fd, error);
    }
    if (!socket_choose_family(o->has_ipv4, o->ipv4, o->has_ipv6, o->ipv6, &family, error)) {
        return NULL;
    }
    return inet_address(o->host, o->port, family);
}

ChardevConfig *chardev_config_from_options(const ChardevOptions *options, GError **error)
{
    g_autoptr(ChardevConfig) config = config_new(options->id, options->backend, error);
    const ChardevSocketOptions *o = &options->u.socket;

    if (!config || options->backend != CHARDEV_BACKEND_KIND_SOCKET) {
        return g_steal_pointer(&config);
    }
    if (!check_one_place(options->id, o, error)) {
        return NULL;
    }
    config->address = address_from_options(o, error);
    if (!config->address) {
        g_prefix_error(error, "chardev '%s': ", options->id);
        return NULL;
    }
    config->server = o->server;
    config->wait = o->has_wait ? o->wait : o->server;
    config->nodelay = o->nodelay;
    config->reconnect_ms = o->reconnect_ms;
    if (!check_socket(config, o->mode != NULL, error)) {
        return NULL;
    }
    return g_steal_pointer(&config);
}

/* ---- chardev-add ---- */

static SocketPlace *address_from_backend(const ChardevSocket *socket, GError **error)
{
    const ChardevSocketAddress *addr = socket->addr;
    int family = AF_UNSPEC;

    switch (addr->type) {
    case CHARDEV_SOCKET_ADDRESS_KIND_UNIX: {
        const ChardevUnixAddress *u = addr->u.q_unix.data;

        return unix_address(u->path, u->abstract, u->tight, socket->mode, error);
    }
    case CHARDEV_SOCKET_ADDRESS_KIND_INET: {
        const ChardevInetAddress *i = addr->u.inet.data;

        if (!socket_choose_family(i->has_ipv4, i->ipv4, i->has_ipv6, i->ipv6, &family, error)) {
            return NULL;
        }
        return inet_address(i->host, i->port, family);
    }
    case CHARDEV_SOCKET_ADDRESS_KIND_FD:
        return fd_address(addr->u.fd.data->str, error);
    default:
        g_assert_not_reached();
    }
}

ChardevConfig *chardev_config_from_backend(const char *id, const ChardevBackend *backend,
                                           GError **error)
{
    g_autoptr(ChardevConfig) config = config_new(id, backend->type, error);
    const ChardevSocket *socket;

    if (!config || backend->type != CHARDEV_BACKEND_KIND_SOCKET) {
        return g_steal_pointer(&config);
    }
    socket = backend->u.socket.data;
    config->address = address_from_backend(socket, error);
    if (!config->address) {
        g_prefix_error(error, "chardev '%s': ", id);
        return NULL;
    }
    config->server = socket->server;
    config->wait = socket->wait;
    config->nodelay = socket->nodelay;
    config->reconnect_ms = socket->reconnect_ms;
    if (!check_socket(config, socket->mode != NULL, error)) {
        return NULL;
    }
    return g_steal_pointer(&config);
}

ChardevConfig *chardev_config_for_path(const char *id, const char *path, const char *mode,
                                       GError **error)
{
    g_autoptr(ChardevConfig) config = g_new0(ChardevConfig, 1);

    config->id = g_strdup(id);
    config->kind = CHARDEV_BACKEND_KIND_SOCKET;
    config->server = true;
    config->address = unix_address(path, false, true, mode, error);
    if (!config->address) {
        return NULL;
    }
    return g_steal_pointer(&config);
}
