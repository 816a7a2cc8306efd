/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qapi/socket-place.h"

#include "util/error.h"

/* Of a listening Unix socket: for its owner only. */
#define SOCKET_MODE 0600

static SocketPlace *unix_place(const UnixSocketAddress *addr)
{
    SocketPlace *place = g_new0(SocketPlace, 1);

    place->kind = addr->abstract ? SOCKET_ABSTRACT : SOCKET_UNIX;
    place->path = g_strdup(addr->path);
    place->padded = !addr->tight;
    place->mode = SOCKET_MODE;
    return place;
}

static SocketPlace *inet_place(const InetSocketAddress *addr, GError **error)
{
    SocketPlace *place;
    int family;

    if (addr->mptcp) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "this build has no Multipath TCP; leave 'mptcp' out");
        return NULL;
    }
    if (!socket_choose_family(addr->has_ipv4, addr->ipv4, addr->has_ipv6, addr->ipv6, &family,
                              error)) {
        return NULL;
    }
    place = g_new0(SocketPlace, 1);
    place->kind = SOCKET_INET;
    place->host = g_strdup(addr->host);
    place->port = g_strdup(addr->port);
    place->family = family;
    place->numeric = addr->numeric;
    place->last_port = addr->has_to ? addr->to : 0;
    return place;
}

static SocketPlace *fd_place(const FdSocketAddress *addr, GError **error)
{
    int fd = socket_parse_fd(addr->str, error);
    SocketPlace *place;

    if (fd < 0) {
        return NULL;
    }
    place = g_new0(SocketPlace, 1);
    place->kind = SOCKET_FD;
    place->fd = fd;
    return place;
}

static SocketPlace *no_vsock(GError **error)
{
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                "this build knows addresses of the types 'unix', 'inet' and 'fd', but not 'vsock'");
    return NULL;
}

SocketPlace *socket_place_from_address(const SocketAddress *addr, GError **error)
{
    switch (addr->type) {
    case SOCKET_ADDRESS_TYPE_UNIX:
        return unix_place(&addr->u.q_unix);
    case SOCKET_ADDRESS_TYPE_INET:
        return inet_place(&addr->u.inet, error);
    case SOCKET_ADDRESS_TYPE_FD:
        return fd_place(&addr->u.fd, error);
    default:
        return no_vsock(error);
    }
}

SocketPlace *socket_place_from_legacy(const SocketAddressLegacy *addr, GError **error)
{
    switch (addr->type) {
    case SOCKET_ADDRESS_TYPE_UNIX:
        return unix_place(addr->u.q_unix.data);
    case SOCKET_ADDRESS_TYPE_INET:
        return inet_place(addr->u.inet.data, error);
    case SOCKET_ADDRESS_TYPE_FD:
        return fd_place(addr->u.fd.data, error);
    default:
        return no_vsock(error);
    }
}
