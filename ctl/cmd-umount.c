/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wharfctl umount: unmount what mount or export has put somewhere, and see it end properly.
 */
#include "ctl/commands.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "ctl/client.h"
#include "ctl/exports.h"
#include "ctl/json.h"
#include "ctl/place.h"
#include "ctl/text.h"

/* How long the daemon may take to write out and end, in seconds. */
#define END_TIMEOUT 60

/* By then the daemon has noticed that nothing is mounted any more. */
#define NOTICE_TIMEOUT 10

typedef struct UmountOptions {
    bool lazy;
} UmountOptions;

static const CtlOption options[] = {
    {"lazy", 'l', NULL, NULL, offsetof(UmountOptions, lazy),
     "take FILE away now; who has it open keeps it until closing it"},
    {NULL},
};

/* Who serves a mount. */
typedef struct Server {
    CtlClient *client; /* NULL: nobody that could be asked */
    bool own;          /* a daemon that "mount" started, which ends with its export */
    char *id;
    char *node_name;
} Server;

static void server_clear(Server *server)
{
    g_clear_pointer(&server->client, ctl_client_free);
    g_clear_pointer(&server->id, g_free);
    g_clear_pointer(&server->node_name, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Server, server_clear)

/* Whether the daemon at @socket has an export at @mountpoint; if so @server is filled in. */
static bool server_try(Server *server, const char *socket, bool own, const char *mountpoint)
{
    g_autoptr(CtlClient) client = ctl_client_connect_any(socket, NULL);
    g_autoptr(QValue) exports = NULL;
    const QValue *export;

    if (!client || !ctl_exports_watch(client, NULL)) {
        return false;
    }
    exports = ctl_exports_query(client, NULL);
    export = exports ? ctl_exports_find(exports, "mountpoint", mountpoint) : NULL;
    if (!export) {
        return false;
    }
    server->id = g_strdup(ctl_json_string(export, "id"));
    server->node_name = g_strdup(ctl_json_string(export, "node-name"));
    server->own = own;
    server->client = g_steal_pointer(&client);
    return true;
}

static void server_find(Server *server, const Ctl *ctl, const char *mountpoint)
{
    g_autofree char *socket = ctl_place_socket(ctl->socket);
    g_auto(GStrv) own = ctl_place_mount_sockets();

    for (char **path = own; *path; path++) {
        if (server_try(server, *path, true, mountpoint)) {
            return;
        }
    }
    server_try(server, socket, false, mountpoint);
}

static void explain_umount(const char *path, int err, const char *words, GError **error)
{
    if (err == EBUSY) {
        g_autofree char *word = ctl_text_shell_word(path);

        g_set_error(
            error, CTL_ERROR, CTL_ERROR_FAILED,
            "'%s' is in use: a program has it open, or it is mounted or attached as a device\n"
            "fuser -v %s  shows who. --lazy takes it away at once, and ends it when they close it.",
            path, word);
        return;
    }
    g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot unmount '%s': %s", path,
                words ? words : g_strerror(err));
}

/* Unmount by fusermount3, which lets users unmount what they have mounted. */
static bool umount_as_user(const char *path, bool lazy, GError **error)
{
    const char *argv[] = {"fusermount3", lazy ? "-uz" : "-u", "--", path, NULL};
    g_autofree char *messages = NULL;
    g_autoptr(GError) local = NULL;
    int status;

    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL,
                      NULL, NULL, NULL, &messages, &status, &local)) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot unmount '%s': %s", path,
                    local->message);
        return false;
    }
    if (g_spawn_check_wait_status(status, NULL)) {
        return true;
    }
    g_strstrip(messages);
    /* It is not translated. */
    explain_umount(path, strstr(messages, "busy") ? EBUSY : EIO,
                   *messages ? messages : "fusermount3 refused", error);
    return false;
}

static bool umount_as_root(const char *path, bool lazy, GError **error)
{
    if (umount2(path, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0) {
        return true;
    }
    explain_umount(path, errno, NULL, error);
    return false;
}

/* Whether the export goes on as if nothing had happened: it has another mount. */
static bool server_goes_on(Server *server)
{
    g_autoptr(QValue) exports = ctl_exports_query(server->client, NULL);
    const QValue *export = exports ? ctl_exports_find(exports, "id", server->id) : NULL;

    return export && !ctl_json_bool(export, "shutting-down", true) &&
           ctl_json_uint(export, "in-flight", 1) == 0;
}

/* See that the export ends, and with it the daemon or the node that was made for it. */
static bool server_await_end(Server *server, const char *path, GError **error)
{
    g_autoptr(GError) local = NULL;
    bool ended = ctl_exports_wait_end(server->client, server->id, NOTICE_TIMEOUT, &local);

    if (!ended && local->code == CTL_ERROR_FAILED) {
        if (server_goes_on(server)) {
            fprintf(stderr,
                    "wharfctl: note: the export '%s' goes on: what was mounted at '%s' is mounted "
                    "elsewhere, too, in another place or another mount namespace\n",
                    server->id, path);
            return true;
        }
        g_clear_error(&local);
        ended = ctl_exports_wait_end(server->client, server->id, END_TIMEOUT, &local);
    }
    if (ended) {
        if (!server->own) {
            return ctl_exports_drop_node(server->client, server->id, server->node_name, error);
        }
        /* A last event that never comes: the connection ends with the daemon. */
        while (!local) {
            gint64 deadline = g_get_monotonic_time() + END_TIMEOUT * G_USEC_PER_SEC;
            g_autoptr(QValue) event = ctl_client_next_event(server->client, deadline, -1, &local);

            if (!event && !local) {
                g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                            "unmounted, but its daemon has not ended within %u seconds",
                            END_TIMEOUT);
                return false;
            }
        }
    }
    if (local->code == CTL_ERROR_UNREACHABLE) {
        return true;
    }
    g_propagate_error(error, g_steal_pointer(&local));
    return false;
}

typedef struct Umount {
    const Ctl *ctl;
    const UmountOptions *opts;
} Umount;

static bool umount_one(const char *file, void *opaque, GError **error)
{
    const Umount *umount = opaque;
    bool lazy = umount->opts->lazy;
    g_autofree char *path = ctl_place_resolve(file, error);
    g_autofree char *type = path ? ctl_place_mounted(path) : NULL;
    g_auto(Server) server = {0};

    if (!path) {
        return false;
    }
    if (!type) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "nothing is mounted at '%s'", file);
        return false;
    }
    if (strcmp(type, "fuse") != 0 && !g_str_has_prefix(type, "fuse.wharf")) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                    "what is mounted at '%s' is no export, but of type %s", file, type);
        return false;
    }
    server_find(&server, umount->ctl, path);
    if (!(geteuid() == 0 ? umount_as_root : umount_as_user)(path, lazy, error)) {
        return false;
    }
    return !server.client || lazy || server_await_end(&server, path, error);
}

static bool run(const Ctl *ctl, const void *opts, char **words, GError **error)
{
    return ctl_do_each(words, umount_one, &(Umount){ctl, opts}, error);
}

const CtlCommand ctl_command_umount = {
    .name = "umount",
    .synopsis = "FILE...",
    .summary = "unmount what mount or export shows as FILE",
    .details =
        "Returns when all that was written is in the image and the daemon has let go of it.\n"
        "Works for exports of a running daemon, too, whose node goes with it if 'export' made\n"
        "it, and for dead mounts that a killed daemon has left.",
    .words = CTL_WORDS_FILES,
    .min_words = 1,
    .max_words = G_MAXUINT,
    .options = options,
    .options_size = sizeof(UmountOptions),
    .run = run,
};
