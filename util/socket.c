/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "util/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/error.h"

#define LISTEN_BACKLOG 128

/* Where the descriptors that a service manager passes begin. */
#define FIRST_PASSED_FD 3

/* How long another process may hold the directory before we go on without its lock. */
#define DIR_LOCK_TRIES 40

/* How long the socket of a dead process may go on to accept before we believe in it. */
#define DYING_TRIES 60

/* Between two tries. */
#define PAUSE_US (50 * G_TIME_SPAN_MILLISECOND)

struct SocketFile {
    int dir; /* the directory, so that neither chdir() nor a rename above leads astray */
    char *base;
    dev_t dev;
    ino_t ino;
};

/* ---- addresses ---- */

SocketPlace *socket_place_copy(const SocketPlace *address)
{
    SocketPlace *copy = g_new(SocketPlace, 1);

    *copy = *address;
    copy->path = g_strdup(address->path);
    copy->host = g_strdup(address->host);
    copy->port = g_strdup(address->port);
    return copy;
}

void socket_place_free(SocketPlace *address)
{
    if (!address) {
        return;
    }
    g_free(address->path);
    g_free(address->host);
    g_free(address->port);
    g_free(address);
}

static char *describe_tcp(const char *host, const char *port)
{
    return g_strdup_printf(strchr(host, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
}

char *socket_place_describe(const SocketPlace *address)
{
    switch (address->kind) {
    case SOCKET_UNIX:
        return g_strdup_printf("unix:%s", address->path);
    case SOCKET_ABSTRACT:
        return g_strdup_printf("abstract:%s", address->path);
    case SOCKET_INET:
        return describe_tcp(address->host, address->port);
    case SOCKET_FD:
        return g_strdup_printf("fd:%d", address->fd);
    }
    g_assert_not_reached();
}

bool socket_parse_mode(const char *text, mode_t *ret_mode, GError **error)
{
    guint64 value;

    if (!g_ascii_string_to_unsigned(text, 8, 0, 0777, &value, NULL)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'%s' is no set of permissions: give them in octal, from 0000 to 0777", text);
        return false;
    }
    *ret_mode = value;
    return true;
}

bool socket_choose_family(bool has_ipv4, bool ipv4, bool has_ipv6, bool ipv6, int *ret_family,
                          GError **error)
{
    bool want4 = has_ipv4 ? ipv4 : !(has_ipv6 && ipv6);
    bool want6 = has_ipv6 ? ipv6 : !(has_ipv4 && ipv4);

    if (!want4 && !want6) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'ipv4' and 'ipv6' are both off, which leaves no address family");
        return false;
    }
    *ret_family = want4 && want6 ? AF_UNSPEC : want4 ? AF_INET : AF_INET6;
    return true;
}

/* The names of the descriptors that a service manager has passed to this process, or NULL. */
static GStrv passed_names(void)
{
    const char *pid = g_getenv("LISTEN_PID");
    const char *names = g_getenv("LISTEN_FDNAMES");

    if (!pid || !names || g_ascii_strtoull(pid, NULL, 10) != (guint64)getpid()) {
        return NULL;
    }
    return g_strsplit(names, ":", -1);
}

int socket_parse_fd(const char *text, GError **error)
{
    g_auto(GStrv) names = passed_names();
    guint64 fd;

    if (g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT, &fd, NULL)) {
        return fd;
    }
    for (int i = 0; names && names[i]; i++) {
        if (g_str_equal(names[i], text)) {
            return FIRST_PASSED_FD + i;
        }
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                "'%s' is neither the number of an inherited descriptor nor the name of one that "
                "the service manager has passed",
                text);
    return -1;
}

/* Returns the length of the address, or 0. */
static socklen_t unix_sockaddr(const SocketPlace *address, struct sockaddr_un *ret, GError **error)
{
    bool abstract = address->kind == SOCKET_ABSTRACT;
    size_t len = strlen(address->path);

    if (len == 0 && !abstract) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "the path of a socket must not be empty");
        return 0;
    }
    if (len >= sizeof(ret->sun_path)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "socket path '%s' is too long: %zu bytes, where the system allows %zu",
                    address->path, len, sizeof(ret->sun_path) - 1);
        return 0;
    }
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret->sun_path + (abstract ? 1 : 0), address->path, len);
    if (abstract && !address->padded) {
        return offsetof(struct sockaddr_un, sun_path) + 1 + len;
    }
    return sizeof(*ret);
}

/* ---- listening: Unix ---- */

static int open_directory_of(const char *path, GError **error)
{
    g_autofree char *dir = g_path_get_dirname(path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    /* Without leave to list it we cannot lock it, but the socket may still be made. */
    if (fd < 0 && errno == EACCES) {
        fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    }
    if (fd < 0) {
        wharf_set_error_errno(error, errno, "cannot open the directory of socket '%s'", path);
    }
    return fd;
}

/*
 * Keep other daemons from making or replacing sockets in this directory: between its bind() and its
 * listen() a socket looks dead. Somebody may hold the lock for a reason of his own, so this gives
 * up in the end.
 */
static void lock_directory(int dir)
{
    for (int i = 0; i < DIR_LOCK_TRIES; i++) {
        if (flock(dir, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) {
            return;
        }
        g_usleep(PAUSE_US);
    }
}

/* Whether the process that began to listen at the other end of @fd is no more. */
static bool listener_has_died(int fd)
{
    struct ucred cred = {0};
    socklen_t len = sizeof(cred);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.pid > 0 &&
           kill(cred.pid, 0) < 0 && errno == ESRCH;
}

/* What one look at a socket tells. */
typedef enum {
    LISTENER_NONE,
    LISTENER_ALIVE,
    LISTENER_DYING, /* somebody accepts, but who began to listen has died */
} Listener;

static Listener probe_listener(const struct sockaddr_un *addr, socklen_t len)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    Listener listener = LISTENER_ALIVE;

    if (fd < 0) {
        return LISTENER_ALIVE;
    }
    if (connect(fd, (const struct sockaddr *)addr, len) == 0) {
        listener = listener_has_died(fd) ? LISTENER_DYING : LISTENER_ALIVE;
    } else if (errno == ECONNREFUSED) {
        listener = LISTENER_NONE;
    }
    close(fd);
    return listener;
}

/*
 * Whether anybody listens. The kernel may hold the socket of a killed process for a moment (when an
 * io_uring of its waited on it), while a process may also have handed its socket to another and
 * ended: only waiting tells the two apart.
 */
static bool socket_is_alive(const struct sockaddr_un *addr, socklen_t len)
{
    for (int i = 0; i < DYING_TRIES; i++) {
        Listener listener = probe_listener(addr, len);

        if (listener != LISTENER_DYING) {
            return listener == LISTENER_ALIVE;
        }
        g_usleep(PAUSE_US);
    }
    return true;
}

/* Remove what is at @path if it is a socket that nobody listens on. */
static bool remove_dead_socket(int dir, const char *base, const struct sockaddr_un *addr,
                               socklen_t len, GError **error)
{
    struct stat st;

    if (fstatat(dir, base, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno == ENOENT) {
            return true;
        }
        wharf_set_error_errno(error, errno, "cannot look at '%s'", addr->sun_path);
        return false;
    }
    if (!S_ISSOCK(st.st_mode)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_EXISTS,
                    "cannot listen at '%s': something that is no socket is there, and it is left "
                    "alone; remove it or choose another path",
                    addr->sun_path);
        return false;
    }
    if (socket_is_alive(addr, len)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                    "cannot listen at '%s': another process does so already; end it or choose "
                    "another path",
                    addr->sun_path);
        return false;
    }
    if (unlinkat(dir, base, 0) < 0 && errno != ENOENT) {
        wharf_set_error_errno(error, errno, "cannot remove the dead socket '%s'", addr->sun_path);
        return false;
    }
    return true;
}

/* Give the name just bound exactly the permissions asked for: the umask may have taken some. */
static bool finish_socket_file(SocketFile *file, const SocketPlace *address, GError **error)
{
    struct stat st;

    if (fstatat(file->dir, file->base, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        wharf_set_error_errno(error, errno, "cannot look at socket '%s'", address->path);
        return false;
    }
    file->dev = st.st_dev;
    file->ino = st.st_ino;
    if ((st.st_mode & 0777) != address->mode &&
        fchmodat(file->dir, file->base, address->mode, 0) < 0) {
        wharf_set_error_errno(error, errno, "cannot set the permissions of socket '%s'",
                              address->path);
        return false;
    }
    return true;
}

static bool bind_and_listen_locked(int fd, SocketFile *file, const SocketPlace *address,
                                   const struct sockaddr_un *addr, socklen_t len, GError **error)
{
    if (!remove_dead_socket(file->dir, file->base, addr, len, error)) {
        return false;
    }
    /* The socket's own mode is what its name gets, less the umask: nobody gets in too early. */
    fchmod(fd, address->mode);
    if (bind(fd, (const struct sockaddr *)addr, len) < 0) {
        wharf_set_error_errno(error, errno, "cannot make socket '%s'", address->path);
        return false;
    }
    if (!finish_socket_file(file, address, error)) {
        unlinkat(file->dir, file->base, 0);
        return false;
    }
    if (listen(fd, LISTEN_BACKLOG) < 0) {
        wharf_set_error_errno(error, errno, "cannot listen on socket '%s'", address->path);
        unlinkat(file->dir, file->base, 0);
        return false;
    }
    return true;
}

static int listen_unix(const SocketPlace *address, SocketFile **ret_file, GError **error)
{
    struct sockaddr_un addr;
    socklen_t len = unix_sockaddr(address, &addr, error);
    SocketFile *file;
    int fd;
    bool ok;

    if (len == 0) {
        return -1;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        wharf_set_error_errno(error, errno, "cannot make a socket");
        return -1;
    }
    file = g_new0(SocketFile, 1);
    file->base = g_path_get_basename(address->path);
    file->dir = open_directory_of(address->path, error);
    if (file->dir < 0) {
        socket_file_forget(file);
        close(fd);
        return -1;
    }
    lock_directory(file->dir);
    ok = bind_and_listen_locked(fd, file, address, &addr, len, error);
    flock(file->dir, LOCK_UN);
    if (!ok) {
        socket_file_forget(file);
        close(fd);
        return -1;
    }
    *ret_file = file;
    return fd;
}

static int listen_abstract(const SocketPlace *address, GError **error)
{
    struct sockaddr_un addr;
    socklen_t len = unix_sockaddr(address, &addr, error);
    int fd;

    if (len == 0) {
        return -1;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&addr, len) < 0 ||
        listen(fd, LISTEN_BACKLOG) < 0) {
        wharf_set_error_errno(error, errno, "cannot listen on abstract socket '%s'", address->path);
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    return fd;
}

static bool remove_socket_if_ours(const SocketFile *file)
{
    struct stat st;

    if (fstatat(file->dir, file->base, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        return false;
    }
    if (st.st_dev != file->dev || st.st_ino != file->ino || !S_ISSOCK(st.st_mode)) {
        return false;
    }
    return unlinkat(file->dir, file->base, 0) == 0;
}

void socket_file_remove(SocketFile *file)
{
    if (!file) {
        return;
    }
    remove_socket_if_ours(file);
    socket_file_forget(file);
}

void socket_file_forget(SocketFile *file)
{
    if (!file) {
        return;
    }
    if (file->dir >= 0) {
        close(file->dir);
    }
    g_free(file->base);
    g_free(file);
}

/* ---- listening and connecting: TCP ---- */

/* getaddrinfo() takes nothing for 0 and 65537 for 1. */
static bool check_port(const char *port, GError **error)
{
    bool is_number = strspn(port, "0123456789") == strlen(port);

    if (!*port || (is_number && g_ascii_strtoull(port, NULL, 10) > G_MAXUINT16)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'%s' is no port: it must be a number from 0 to 65535 or a service's name",
                    port);
        return false;
    }
    return true;
}

static struct addrinfo *resolve(const SocketPlace *address, bool passive, GError **error)
{
    struct addrinfo hints = {
        .ai_family = address->family,
        .ai_socktype = SOCK_STREAM,
        .ai_flags = (passive ? AI_PASSIVE : 0) | (address->numeric ? AI_NUMERICHOST : 0),
    };
    const char *host = *address->host ? address->host : NULL;
    struct addrinfo *list = NULL;
    int r;

    if (!check_port(address->port, error)) {
        return NULL;
    }
    r = getaddrinfo(host, address->port, &hints, &list);
    if (r != 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "cannot resolve '%s', port '%s': %s",
                    address->host, address->port,
                    r == EAI_SYSTEM ? g_strerror(errno) : gai_strerror(r));
        return NULL;
    }
    return list;
}

/* Returns a descriptor or -errno. */
static int listen_at(const struct addrinfo *ai)
{
    int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, ai->ai_protocol);
    int on = 1, off = 0;

    if (fd < 0) {
        return -errno;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (ai->ai_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    }
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, LISTEN_BACKLOG) < 0) {
        int err = errno;

        close(fd);
        return -err;
    }
    return fd;
}

/* Where the port is; it is at the same place in both families. */
static in_port_t *port_of(const struct addrinfo *ai)
{
    return &((struct sockaddr_in *)ai->ai_addr)->sin_port;
}

G_STATIC_ASSERT(offsetof(struct sockaddr_in, sin_port) == offsetof(struct sockaddr_in6, sin6_port));

/*
 * Listen at the address @ai, at its port or the first after that, up to @last_port, that nobody
 * uses. Returns a descriptor or -errno.
 */
static int listen_in_range(const struct addrinfo *ai, unsigned last_port)
{
    unsigned port = ntohs(*port_of(ai));
    int fd = listen_at(ai);

    while (fd == -EADDRINUSE && port && port++ < last_port) {
        *port_of(ai) = htons(port);
        fd = listen_at(ai);
    }
    return fd;
}

/*
 * The same at one of the addresses in @list. That the ports of one are in use says more than why
 * there is nothing to be had at another.
 */
static int listen_at_any(const struct addrinfo *list, bool all_addresses, unsigned last_port)
{
    int error = -EADDRNOTAVAIL;
    int fd = -1;

    /*
     * "All addresses" is one IPv6 socket that serves both families, where there is IPv6. A host
     * that has both kinds is served at its IPv4 address, which is what most clients try.
     */
    for (int pass = 0; pass < 2 && fd < 0; pass++) {
        for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
            if ((ai->ai_family == AF_INET6) == (pass == (all_addresses ? 0 : 1))) {
                fd = listen_in_range(ai, last_port);
                error = error == -EADDRINUSE ? error : fd;
            }
        }
    }
    return fd >= 0 ? fd : error;
}

static int listen_inet(const SocketPlace *address, GError **error)
{
    struct addrinfo *list = resolve(address, true, error);
    g_autofree char *what = NULL;
    int fd;

    if (!list) {
        return -1;
    }
    fd = listen_at_any(list, !*address->host, address->last_port);
    freeaddrinfo(list);
    if (fd < 0) {
        what = socket_place_describe(address);
        wharf_set_error_errno(error, -fd, "cannot listen at %s", what);
        return -1;
    }
    return fd;
}

char *socket_describe_local(int fd)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0 ||
        (ss.ss_family != AF_INET && ss.ss_family != AF_INET6) ||
        getnameinfo((struct sockaddr *)&ss, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return NULL;
    }
    return describe_tcp(host, port);
}

/* How long a connection may still take to come about. */
typedef struct {
    gint64 deadline;    /* monotonic, in microseconds */
    const gint *cancel; /* set from outside to give up at once; may be NULL */
} Patience;

/* Sleep on @fd (-1: on nothing) for a moment. Returns 0, or -errno when patience has run out. */
static int be_patient(const Patience *patience, struct pollfd *pfd, int slice_ms)
{
    if (patience->cancel && g_atomic_int_get(patience->cancel)) {
        return -ECANCELED;
    }
    if (g_get_monotonic_time() >= patience->deadline) {
        return -ETIMEDOUT;
    }
    return poll(pfd, pfd ? 1 : 0, slice_ms) < 0 && errno != EINTR ? -errno : 0;
}

/* Wait for a connect() that is under way. Returns 0 or -errno. */
static int finish_connect(int fd, const Patience *patience)
{
    struct pollfd pfd = {.fd = fd, .events = POLLOUT};
    int err = 0;
    socklen_t len = sizeof(err);
    int r;

    while (!pfd.revents) {
        r = be_patient(patience, &pfd, 100);
        if (r < 0) {
            return r;
        }
    }
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 ? -errno : -err;
}

/* Returns a descriptor or -errno. */
static int connect_at(const struct sockaddr *addr, socklen_t len, const Patience *patience)
{
    int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int r;

    if (fd < 0) {
        return -errno;
    }
    r = connect(fd, addr, len) < 0 ? -errno : 0;
    if (r == -EINPROGRESS) {
        r = finish_connect(fd, patience);
    }
    if (r < 0) {
        close(fd);
        return r;
    }
    return fd;
}

/* A Unix listener whose queue is full says EAGAIN at once; then only asking again helps. */
static int connect_unix(const SocketPlace *address, const Patience *patience, GError **error)
{
    struct sockaddr_un addr;
    socklen_t len = unix_sockaddr(address, &addr, error);
    int fd, r;

    if (len == 0) {
        return -1;
    }
    do {
        fd = connect_at((struct sockaddr *)&addr, len, patience);
        r = fd == -EAGAIN ? be_patient(patience, NULL, 10) : fd;
    } while (fd == -EAGAIN && r == 0);
    if (fd < 0) {
        wharf_set_error_errno(error, -r, "cannot connect to socket '%s'", address->path);
        return -1;
    }
    return fd;
}

static int connect_inet(const SocketPlace *address, const Patience *patience, GError **error)
{
    struct addrinfo *list = resolve(address, false, error);
    g_autofree char *what = NULL;
    int fd = -EADDRNOTAVAIL;

    if (!list) {
        return -1;
    }
    for (struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
        fd = connect_at(ai->ai_addr, ai->ai_addrlen, patience);
    }
    freeaddrinfo(list);
    if (fd < 0) {
        what = socket_place_describe(address);
        wharf_set_error_errno(error, -fd, "cannot connect to %s", what);
        return -1;
    }
    return fd;
}

/* ---- inherited descriptors ---- */

/*
 * What was inherited is not close-on-exec, while everything opened here is: so a number that the
 * user got wrong can never name a descriptor of our own, nor the same one twice.
 */
static bool take_inherited(int fd, bool listening, GError **error)
{
    int type = 0, accepts = 0;
    socklen_t len = sizeof(int);
    int flags = fcntl(fd, F_GETFD);

    if (flags < 0 || (flags & FD_CLOEXEC)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "descriptor %d was not inherited, or is used already", fd);
        return false;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "descriptor %d is no stream socket", fd);
        return false;
    }
    len = sizeof(int);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &len) < 0 || !accepts != !listening) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    listening ? "descriptor %d is no listening socket; leave server=on out for a "
                                "connected one"
                              : "descriptor %d is no connected socket; a listening one needs "
                                "server=on",
                    fd);
        return false;
    }
    fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return true;
}

/* ---- the front ---- */

int socket_listen(const SocketPlace *address, SocketFile **ret_file, GError **error)
{
    *ret_file = NULL;
    switch (address->kind) {
    case SOCKET_UNIX:
        return listen_unix(address, ret_file, error);
    case SOCKET_ABSTRACT:
        return listen_abstract(address, error);
    case SOCKET_INET:
        return listen_inet(address, error);
    case SOCKET_FD:
        return take_inherited(address->fd, true, error) ? address->fd : -1;
    }
    g_assert_not_reached();
}

int socket_connect(const SocketPlace *address, unsigned timeout_ms, const gint *cancel,
                   GError **error)
{
    Patience patience = {
        .deadline = g_get_monotonic_time() + timeout_ms * G_TIME_SPAN_MILLISECOND,
        .cancel = cancel,
    };

    switch (address->kind) {
    case SOCKET_UNIX:
    case SOCKET_ABSTRACT:
        return connect_unix(address, &patience, error);
    case SOCKET_INET:
        return connect_inet(address, &patience, error);
    case SOCKET_FD:
        return take_inherited(address->fd, false, error) ? address->fd : -1;
    }
    g_assert_not_reached();
}

int socket_accept(int listen_fd)
{
    int fd;

    do {
        fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    if (fd >= 0) {
        return fd;
    }
    return errno == EWOULDBLOCK ? -EAGAIN : -errno;
}
