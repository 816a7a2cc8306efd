/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wharfctl ls: what is exported, by the daemon and by those that "mount" has started.
 */
#include "ctl/commands.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/client.h"
#include "ctl/exports.h"
#include "ctl/json.h"
#include "ctl/output.h"
#include "ctl/place.h"
#include "ctl/text.h"

/* A socket that refuses connections may still be about to listen; after so many seconds it is dead.
 */
#define DEAD_AFTER 60

/* No graph of nodes is deeper than this. */
#define IMAGE_DEPTH 64

/*
 * The file that holds the content of @node: what lies at the bottom, where each node has one child.
 * A node in between may have a name that only says how it was made.
 */
static const char *find_image(const QValue *nodes, const QValue *node)
{
    for (unsigned depth = 0; depth < IMAGE_DEPTH; depth++) {
        const QValue *children = ctl_json_array(node, "children");

        if (!children || qvalue_array_length(children) != 1) {
            break;
        }
        node = ctl_nodes_find(nodes, ctl_json_string(qvalue_array_get(children, 0), "node-name"));
    }
    return ctl_json_string(node, "file");
}

/* One line: an element of query-block-exports, with "image", "size" and "socket" added. */
static QValue *make_row(const QValue *export, const QValue *nodes, const char *socket)
{
    const QValue *node = ctl_nodes_find(nodes, ctl_json_string(export, "node-name"));
    guint64 length = ctl_nodes_length(node);
    const char *file = find_image(nodes, node);
    QValue *row = qvalue_object();

    for (gsize i = 0; i < qvalue_object_size(export); i++) {
        qvalue_object_set(row, qvalue_object_key(export, i),
                          qvalue_ref(qvalue_object_value(export, i)));
    }
    if (file) {
        qvalue_object_set(row, "image", qvalue_string(file));
    }
    if (length != G_MAXUINT64) {
        qvalue_object_set(row, "size", qvalue_uint(length));
    }
    qvalue_object_set(row, "socket", qvalue_string(socket));
    return row;
}

static bool collect(QValue *rows, CtlClient *client, GError **error)
{
    g_autoptr(QValue) exports = client ? ctl_exports_query(client, error) : NULL;
    g_autoptr(QValue) nodes = exports ? ctl_nodes_query(client, error) : NULL;

    if (!nodes) {
        return false;
    }
    for (gsize i = 0; i < qvalue_array_length(exports); i++) {
        const QValue *export = qvalue_array_get(exports, i);

        if (qvalue_type(export) == QVALUE_OBJECT) {
            qvalue_array_append(rows, make_row(export, nodes, ctl_client_path(client)));
        }
    }
    return true;
}

/* Remove the socket of a daemon that was killed. */
static void sweep(const char *socket)
{
    struct stat st;

    if (lstat(socket, &st) == 0 && S_ISSOCK(st.st_mode) && time(NULL) - st.st_mtime > DEAD_AFTER) {
        unlink(socket);
    }
}

/* The daemons that "mount" has started; what is wrong with one of them does not concern the others.
 */
static void collect_mounts(QValue *rows)
{
    g_auto(GStrv) sockets = ctl_place_mount_sockets();

    for (char **socket = sockets; *socket; socket++) {
        g_autoptr(GError) local = NULL;
        g_autoptr(CtlClient) client = ctl_client_connect_any(*socket, &local);

        if (client && collect(rows, client, &local)) {
            continue;
        }
        if (ctl_client_is_dead(*socket)) {
            sweep(*socket);
        } else if (g_file_test(*socket, G_FILE_TEST_EXISTS)) {
            fprintf(stderr, "wharfctl: note: %s\n", local->message);
        }
    }
}

/* Where clients find it: a file, or a name of the NBD server. A new string, or NULL. */
static char *describe_place(const QValue *row)
{
    const QValue *nbd = qvalue_object_get(row, "nbd");

    if (nbd && qvalue_type(nbd) == QVALUE_OBJECT) {
        return g_strdup_printf("nbd:%s", ctl_json_string(nbd, "name"));
    }
    return g_strdup(ctl_json_string(row, "mountpoint"));
}

/* Whether it may be written; or that it comes to its end, perhaps waiting for its storage. */
static const char *describe_mode(const QValue *row)
{
    if (ctl_json_bool(row, "shutting-down", false)) {
        return g_strcmp0(ctl_json_string(row, "ending"), "flush") == 0 ? "flushing" : "ending";
    }
    return ctl_json_bool(row, "writable", false) ? "rw" : "ro";
}

static void print_row(CtlTable *table, const QValue *row)
{
    g_autofree char *place = describe_place(row);
    g_autofree char *size =
        qvalue_object_has(row, "size") ? ctl_text_size(ctl_json_uint(row, "size", 0)) : NULL;
    const char *const cells[] = {
        ctl_json_string(row, "id"),
        ctl_json_string(row, "type"),
        describe_mode(row),
        size,
        ctl_json_string(row, "image"),
        place,
    };

    ctl_table_add(table, cells);
}

/* By id, then by file: neither the order of sockets in a directory nor age says anything. */
static int compare_rows(gconstpointer a, gconstpointer b)
{
    const QValue *const *x = a, *const *y = b;
    int order = g_strcmp0(ctl_json_string(*x, "id"), ctl_json_string(*y, "id"));

    return order ? order
                 : g_strcmp0(ctl_json_string(*x, "mountpoint"), ctl_json_string(*y, "mountpoint"));
}

static QValue *sort_rows(const QValue *rows)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new();
    QValue *sorted = qvalue_array();

    for (gsize i = 0; i < qvalue_array_length(rows); i++) {
        g_ptr_array_add(list, (gpointer)qvalue_array_get(rows, i));
    }
    g_ptr_array_sort(list, compare_rows);
    for (guint i = 0; i < list->len; i++) {
        qvalue_array_append(sorted, qvalue_ref(g_ptr_array_index(list, i)));
    }
    return sorted;
}

static void print_rows(const Ctl *ctl, const QValue *rows)
{
    static const char *const header[] = {"ID", "TYPE", "MODE", ">SIZE", "IMAGE", "FILE", NULL};
    CtlTable *table;

    if (ctl->json) {
        ctl_output_json(rows);
        return;
    }
    if (qvalue_array_length(rows) == 0) {
        puts("Nothing is exported.");
        return;
    }
    table = ctl_table_new(header);
    for (gsize i = 0; i < qvalue_array_length(rows); i++) {
        print_row(table, qvalue_array_get(rows, i));
    }
    ctl_table_print(table);
}

static bool run(const Ctl *ctl, const void *opts, char **words, GError **error)
{
    g_autoptr(QValue) rows = qvalue_array();
    g_autoptr(QValue) sorted = NULL;
    g_autofree char *socket = ctl_place_socket(ctl->socket);
    bool named = ctl->socket || g_getenv("WHARF_SOCKET");

    /* Nobody said that there is a daemon; those of "mount" are enough then. */
    if (named || g_file_test(socket, G_FILE_TEST_EXISTS)) {
        g_autoptr(CtlClient) client = ctl_client_connect(socket, error);

        if (!client || !collect(rows, client, error)) {
            return false;
        }
    }
    if (!named) {
        collect_mounts(rows);
    }
    sorted = sort_rows(rows);
    print_rows(ctl, sorted);
    return true;
}

const CtlCommand ctl_command_ls = {
    .name = "ls",
    .synopsis = "",
    .summary = "list exports",
    .details =
        "Shows the exports of the daemon and those of the daemons that 'mount' has started for\n"
        "you; with --socket or WHARF_SOCKET those of the daemon named alone. With --json all\n"
        "that the daemon tells about each.",
    .run = run,
};
