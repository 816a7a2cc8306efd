/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sockets take nobody's place, and their names go when they should and only then. */
#include "util/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/error.h"
#include "util/name.h"

#define CONNECT_MS 60000

typedef struct {
    char *dir;
    SocketPlace place; /* a Unix socket in dir */
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("wharf-socket-XXXXXX", NULL);
    f->place = (SocketPlace){
        .kind = SOCKET_UNIX,
        .path = g_build_filename(f->dir, "sock", NULL),
        .mode = 0600,
    };
}

static void tear_down(Fixture *f, gconstpointer data)
{
    g_unlink(f->place.path);
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_free(f->place.path);
    g_free(f->dir);
}

static int must_listen(const SocketPlace *place, SocketFile **file)
{
    g_autoptr(GError) error = NULL;
    int fd = socket_listen(place, file, &error);

    g_assert_no_error(error);
    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static void must_not_listen(const SocketPlace *place, int code)
{
    g_autoptr(GError) error = NULL;
    SocketFile *file = NULL;

    g_assert_cmpint(socket_listen(place, &file, &error), ==, -1);
    g_assert_error(error, WHARF_ERROR, code);
    g_assert_null(file);
}

static bool exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

static mode_t mode_of(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return st.st_mode & 07777;
}

static void test_listen_and_connect(Fixture *f, gconstpointer data)
{
    SocketFile *file;
    int listener = must_listen(&f->place, &file);
    int client = socket_connect(&f->place, CONNECT_MS, NULL, NULL);
    int server;

    g_assert_cmpint(client, >=, 0);
    server = socket_accept(listener);
    g_assert_cmpint(server, >=, 0);
    g_assert_cmpint(socket_accept(listener), ==, -EAGAIN);
    g_assert_true(fcntl(server, F_GETFD) & FD_CLOEXEC);
    g_assert_true(fcntl(server, F_GETFL) & O_NONBLOCK);
    close(server);
    close(client);
    socket_file_remove(file);
    close(listener);
    g_assert_false(exists(f->place.path));
}

/* The mode is exact, whatever the umask is. */
static void test_mode(Fixture *f, gconstpointer data)
{
    static const mode_t modes[] = {0600, 0660, 0666, 0777};
    mode_t old = umask(027);

    for (gsize i = 0; i < G_N_ELEMENTS(modes); i++) {
        SocketFile *file;

        f->place.mode = modes[i];
        close(must_listen(&f->place, &file));
        g_assert_cmpint(mode_of(f->place.path), ==, modes[i]);
        socket_file_remove(file);
    }
    umask(old);
}

static void test_dead_socket_is_replaced(Fixture *f, gconstpointer data)
{
    SocketFile *first, *second;

    close(must_listen(&f->place, &first));
    g_assert_true(exists(f->place.path));
    close(must_listen(&f->place, &second));
    socket_file_forget(first);
    socket_file_remove(second);
    g_assert_false(exists(f->place.path));
}

static void test_live_socket_is_refused(Fixture *f, gconstpointer data)
{
    SocketFile *file;
    int listener = must_listen(&f->place, &file);
    int client;

    must_not_listen(&f->place, WHARF_ERROR_IN_USE);
    client = socket_connect(&f->place, CONNECT_MS, NULL, NULL);
    g_assert_cmpint(client, >=, 0);
    close(client);
    socket_file_remove(file);
    close(listener);
}

static void test_other_files_are_refused(Fixture *f, gconstpointer data)
{
    g_autofree char *text = NULL;

    g_assert_true(g_file_set_contents(f->place.path, "precious", -1, NULL));
    must_not_listen(&f->place, WHARF_ERROR_EXISTS);
    g_assert_true(g_file_get_contents(f->place.path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "precious");
    g_unlink(f->place.path);

    g_assert_cmpint(symlink("nowhere", f->place.path), ==, 0);
    must_not_listen(&f->place, WHARF_ERROR_EXISTS);
    g_assert_true(exists(f->place.path));
}

/* Whatever takes the name's place while we live is left alone. */
static void test_replaced_name_is_left(Fixture *f, gconstpointer data)
{
    SocketFile *file;
    int listener = must_listen(&f->place, &file);

    g_unlink(f->place.path);
    g_assert_true(g_file_set_contents(f->place.path, "new", -1, NULL));
    socket_file_remove(file);
    close(listener);
    g_assert_true(exists(f->place.path));
}

/* A relative path is found again after the working directory has changed. */
static void test_relative_path(Fixture *f, gconstpointer data)
{
    g_autofree char *cwd = g_get_current_dir();
    SocketPlace place = {.kind = SOCKET_UNIX, .path = (char *)"sock", .mode = 0600};
    SocketFile *file;
    int listener;

    g_assert_cmpint(chdir(f->dir), ==, 0);
    listener = must_listen(&place, &file);
    g_assert_cmpint(chdir("/"), ==, 0);
    g_assert_true(exists(f->place.path));
    socket_file_remove(file);
    close(listener);
    g_assert_false(exists(f->place.path));
    g_assert_cmpint(chdir(cwd), ==, 0);
}

static void test_bad_paths(Fixture *f, gconstpointer data)
{
    g_autofree char *lengthy = g_strnfill(108, 'x');
    SocketPlace place = {.kind = SOCKET_UNIX, .path = lengthy, .mode = 0600};

    must_not_listen(&place, WHARF_ERROR_INVALID_ARGUMENT);
    place.path = (char *)"";
    must_not_listen(&place, WHARF_ERROR_INVALID_ARGUMENT);
    place.path = (char *)"/nonexistent/directory/sock";
    must_not_listen(&place, WHARF_ERROR_IO);
}

static void test_abstract(Fixture *f, gconstpointer data)
{
    for (int padded = 0; padded <= 1; padded++) {
        g_autofree char *name = g_strdup_printf("wharf-test-%d-%d", getpid(), padded);
        SocketPlace place = {.kind = SOCKET_ABSTRACT, .path = name, .padded = padded};
        SocketFile *file;
        int listener = must_listen(&place, &file);
        int client = socket_connect(&place, CONNECT_MS, NULL, NULL);

        g_assert_null(file);
        g_assert_cmpint(client, >=, 0);
        must_not_listen(&place, WHARF_ERROR_IO);
        /* The two ways to write a name are two names. */
        place.padded = !padded;
        g_assert_cmpint(socket_connect(&place, CONNECT_MS, NULL, NULL), ==, -1);
        close(client);
        close(listener);
    }
}

static void test_tcp(Fixture *f, gconstpointer data)
{
    SocketPlace place = {
        .kind = SOCKET_INET, .host = (char *)"127.0.0.1", .port = (char *)"0", .family = AF_UNSPEC};
    SocketFile *file;
    int listener = must_listen(&place, &file);
    g_autofree char *where = socket_describe_local(listener);
    int client;

    g_assert_true(g_str_has_prefix(where, "tcp:127.0.0.1:"));
    place.port = where + strlen("tcp:127.0.0.1:");
    g_assert_cmpint(atoi(place.port), >, 0);
    client = socket_connect(&place, CONNECT_MS, NULL, NULL);
    g_assert_cmpint(client, >=, 0);
    close(client);
    close(listener);
}

/* A name that stands for an address of ours and one that is nobody's. */
#define TWO_ADDRESSES "two.example"

int __real_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **list);
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **list);

int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                       struct addrinfo **list)
{
    bool two = g_strcmp0(host, TWO_ADDRESSES) == 0;
    int r = __real_getaddrinfo(two ? "127.0.0.1" : host, port, hints, list);

    if (r == 0 && two) {
        r = __real_getaddrinfo("192.0.2.1", port, hints, &(*list)->ai_next);
    }
    return r;
}

static unsigned local_port(int fd)
{
    g_autofree char *name = socket_describe_local(fd);

    return g_ascii_strtoull(strrchr(name, ':') + 1, NULL, 10);
}

/* The first port of a range that is free, whatever is wrong with another address of the host. */
static void test_range_of_ports(Fixture *f, gconstpointer data)
{
    SocketPlace any = {.kind = SOCKET_INET, .host = (char *)"127.0.0.1", .port = (char *)"0"};
    SocketFile *file = NULL;
    int taken = must_listen(&any, &file);
    unsigned port = local_port(taken);
    g_autofree char *first = g_strdup_printf("%u", port);
    SocketPlace range = {.kind = SOCKET_INET, .host = (char *)TWO_ADDRESSES, .port = first};
    g_autoptr(GError) error = NULL;
    int fd;

    g_assert_cmpint(socket_listen(&range, &file, &error), ==, -1);
    g_assert_nonnull(strstr(error->message, g_strerror(EADDRINUSE)));
    range.last_port = MIN(port + 100, G_MAXUINT16);
    if (port < G_MAXUINT16) {
        fd = must_listen(&range, &file);
        g_assert_cmpuint(local_port(fd), >, port);
        g_assert_cmpuint(local_port(fd), <=, range.last_port);
        close(fd);
    }
    close(taken);
}

static void test_unresolvable(Fixture *f, gconstpointer data)
{
    SocketPlace place = {.kind = SOCKET_INET,
                         .host = (char *)"127.0.0.1",
                         .port = (char *)"no-such-service",
                         .family = AF_UNSPEC};

    must_not_listen(&place, WHARF_ERROR_IO);
}

static void test_inherited(Fixture *f, gconstpointer data)
{
    SocketFile *file;
    int listener = must_listen(&f->place, &file);
    SocketPlace place = {.kind = SOCKET_FD, .fd = listener};
    SocketFile *none;
    int pair[2];

    /* Close-on-exec: it cannot have been inherited. */
    must_not_listen(&place, WHARF_ERROR_INVALID_ARGUMENT);
    fcntl(listener, F_SETFD, 0);
    g_assert_cmpint(must_listen(&place, &none), ==, listener);
    g_assert_null(none);
    /* Taken once, it is ours. */
    must_not_listen(&place, WHARF_ERROR_INVALID_ARGUMENT);

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
    place.fd = pair[0];
    must_not_listen(&place, WHARF_ERROR_INVALID_ARGUMENT);
    g_assert_cmpint(socket_connect(&place, 0, NULL, NULL), ==, pair[0]);
    close(pair[0]);
    close(pair[1]);

    place.fd = open("/dev/null", O_RDONLY);
    must_not_listen(&place, WHARF_ERROR_INVALID_ARGUMENT);
    close(place.fd);
    must_not_listen(&place, WHARF_ERROR_INVALID_ARGUMENT);
    socket_file_remove(file);
    close(listener);
}

/* A listener that never accepts makes a connect wait; the flag ends that. */
static void test_connect_can_be_cancelled(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    SocketFile *file;
    int listener = must_listen(&f->place, &file);
    GArray *clients = g_array_new(FALSE, FALSE, sizeof(int));
    gint cancel = 1;
    int fd;

    listen(listener, 0);
    while ((fd = socket_connect(&f->place, CONNECT_MS, &cancel, &error)) >= 0) {
        g_array_append_val(clients, fd);
        g_assert_cmpuint(clients->len, <, 1000);
    }
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_IO);
    for (guint i = 0; i < clients->len; i++) {
        close(g_array_index(clients, int, i));
    }
    g_array_unref(clients);
    socket_file_remove(file);
    close(listener);
}

static void test_nobody_listens(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(socket_connect(&f->place, CONNECT_MS, NULL, &error), ==, -1);
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_IO);
    g_assert_nonnull(strstr(error->message, f->place.path));
}

static void test_parse_mode(Fixture *f, gconstpointer data)
{
    static const char *const bad[] = {"", "8", "rw", "01000", "-1", "0x1ff", "600 "};
    mode_t mode;

    g_assert_true(socket_parse_mode("0660", &mode, NULL));
    g_assert_cmpint(mode, ==, 0660);
    g_assert_true(socket_parse_mode("777", &mode, NULL));
    g_assert_cmpint(mode, ==, 0777);
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(socket_parse_mode(bad[i], &mode, &error));
        g_assert_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT);
    }
}

static void test_names(Fixture *f, gconstpointer data)
{
    static const char *const good[] = {"a", "Z9", "a-b.c_d", "x0"};
    static const char *const bad[] = {"",    "0a",  "-a", "_a",       ".a",
                                      "a b", "a/b", "a#", "\xc3\xa4", "#block1"};
    g_autofree char *lengthy = g_strnfill(300, 'x');

    for (gsize i = 0; i < G_N_ELEMENTS(good); i++) {
        g_assert_true(name_is_wellformed(good[i]));
    }
    g_assert_true(name_is_wellformed(lengthy));
    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(name_check(bad[i], "thing", &error));
        g_assert_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, fn) g_test_add("/util/socket/" name, Fixture, NULL, set_up, fn, tear_down)
    ADD("listen-and-connect", test_listen_and_connect);
    ADD("mode", test_mode);
    ADD("dead-socket-is-replaced", test_dead_socket_is_replaced);
    ADD("live-socket-is-refused", test_live_socket_is_refused);
    ADD("other-files-are-refused", test_other_files_are_refused);
    ADD("replaced-name-is-left", test_replaced_name_is_left);
    ADD("relative-path", test_relative_path);
    ADD("bad-paths", test_bad_paths);
    ADD("abstract", test_abstract);
    ADD("tcp", test_tcp);
    ADD("range-of-ports", test_range_of_ports);
    ADD("unresolvable", test_unresolvable);
    ADD("inherited", test_inherited);
    ADD("connect-can-be-cancelled", test_connect_can_be_cancelled);
    ADD("nobody-listens", test_nobody_listens);
    ADD("parse-mode", test_parse_mode);
    ADD("names", test_names);
    return g_test_run();
}
