/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The NBD server's start and stop, when the daemon ends meanwhile. */
#include <glib/gstdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "export/nbd/server.h"
#include "qapi/commands-nbd.h"
#include "tests/unit/graph-rig.h"

#define MS G_GINT64_CONSTANT(1000000)

typedef struct Stage {
    ObjectRegistry *objects;
    ExportRegistry *registry;
    char *dir;
    char *path;   /* of the server's socket */
    bool started; /* the start, or the stop, has come to its end */
    bool stopped;
} Stage;

static void set_stage(Stage *stage, GraphRig *rig)
{
    stage->objects = object_registry_new();
    stage->registry = export_registry_new(rig->graph, stage->objects, NULL);
    stage->dir = g_dir_make_tmp("wharf-XXXXXX", NULL);
    stage->path = g_build_filename(stage->dir, "nbd", NULL);
}

static void clear_stage(Stage *stage)
{
    export_registry_free(stage->registry);
    object_registry_free(stage->objects);
    g_assert_cmpint(g_rmdir(stage->dir), ==, 0);
    g_free(stage->path);
    g_free(stage->dir);
}

static NbdShared *stage_shared(Stage *stage)
{
    return export_registry_shared(stage->registry, export_driver_find(BLOCK_EXPORT_TYPE_NBD));
}

static void co_fn co_start(void *opaque)
{
    Stage *stage = opaque;
    g_auto(NbdServerConfig) config = {.objects = stage->objects};
    g_autoptr(GError) error = NULL;

    config.place = g_new0(SocketPlace, 1);
    config.place->kind = SOCKET_UNIX;
    config.place->path = g_strdup(stage->path);
    config.place->mode = 0600;
    nbd_server_co_listen(stage_shared(stage), &config, &error);
    g_assert_no_error(error);
    stage->started = true;
}

static void co_fn co_stop(void *opaque)
{
    Stage *stage = opaque;
    QapiCall call = {.self = stage->registry};
    g_autoptr(GError) error = NULL;

    qmp_nbd_server_stop(&call, &error);
    g_assert_no_error(error);
    stage->stopped = true;
}

/* A client that the server has greeted. Returns its socket. */
static int co_fn co_connect(Stage *stage)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char byte;

    g_strlcpy(addr.sun_path, stage->path, sizeof(addr.sun_path));
    g_assert_cmpint(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    while (recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) != 1) {
        aio_co_sleep_ns(1 * MS);
    }
    return fd;
}

static void co_fn body_quit_while_starting(GraphRig *rig)
{
    Stage stage = {0};

    set_stage(&stage, rig);
    aio_co_enter(rig->ctx, co_start, &stage);
    g_assert_false(stage.started);
    g_assert_true(export_registry_co_shutdown_all(stage.registry, 0));
    g_assert_true(stage.started);
    clear_stage(&stage);
}

static void co_fn body_quit_while_stopping(GraphRig *rig)
{
    Stage stage = {0};
    int fd;

    set_stage(&stage, rig);
    co_start(&stage);
    fd = co_connect(&stage);
    aio_co_enter(rig->ctx, co_stop, &stage);
    g_assert_false(stage.stopped);
    g_assert_true(export_registry_co_shutdown_all(stage.registry, 0));
    g_assert_true(stage.stopped);
    close(fd);
    clear_stage(&stage);
}

/* A start that hangs is given up; what it works on stays. */
static void co_fn body_quit_gives_up(GraphRig *rig)
{
    const ExportDriver *driver = export_driver_find(BLOCK_EXPORT_TYPE_NBD);
    Stage stage = {0};
    NbdShared *shared;

    set_stage(&stage, rig);
    shared = stage_shared(&stage);
    nbd_shared_set_busy(shared, true);
    g_test_expect_message("export", G_LOG_LEVEL_WARNING, "*giving up*");
    g_assert_false(driver->co_shared_clear(shared, aio_now_ns() + 10 * MS));
    g_test_assert_expected_messages();
    g_assert_nonnull(shared->by_name);
    nbd_shared_set_busy(shared, false);
    g_assert_true(export_registry_co_shutdown_all(stage.registry, 0));
    clear_stage(&stage);
}

static void run_body(gconstpointer body)
{
    graph_rig_run((void co_fn (*)(GraphRig *))body, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/nbd/server/quit-while-starting", (gconstpointer)body_quit_while_starting,
                         run_body);
    g_test_add_data_func("/nbd/server/quit-while-stopping", (gconstpointer)body_quit_while_stopping,
                         run_body);
    g_test_add_data_func("/nbd/server/quit-gives-up", (gconstpointer)body_quit_gives_up, run_body);
    return g_test_run();
}
