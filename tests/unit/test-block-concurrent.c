/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Commands of several clients at the same time, at nodes that have to do with each other. */
#include "block-fixture.h"
#include "block-script.h"
#include "qapi/commands-block-core.h"

/* A command that runs beside others. */
typedef struct Command Command;
struct Command {
    QapiCall call;
    bool co_fn (*co_run)(Command *c);
    const char *name;
    bool ok, done;
    GError *error;
};

static void co_fn command_entry(void *opaque)
{
    Command *c = opaque;

    c->ok = c->co_run(c);
    c->done = true;
}

/* Begin it, and let it go as far as it can. */
static void command_start(Fixture *f, Command *c, bool co_fn (*co_run)(Command *c),
                          const char *name)
{
    *c = (Command){.call = {.self = f->graph}, .co_run = co_run, .name = name};
    aio_co_enter(f->main, command_entry, c);
    fixture_settle(f);
}

static void command_succeeds(Fixture *f, Command *c)
{
    fixture_wait(f, &c->done);
    g_assert_no_error(c->error);
    g_assert_true(c->ok);
}

static bool co_fn co_snapshot(Command *c)
{
    return qmp_blockdev_snapshot_internal_sync(&c->call, c->name, "s", &c->error);
}

static bool co_fn co_check(Command *c)
{
    g_autoptr(ImageCheck) result =
        qmp_blockdev_check(&c->call, c->name, IMAGE_REPAIR_NONE, &c->error);

    return result != NULL;
}

static Fixture *concurrent_new(void)
{
    Fixture *f = fixture_new();

    script_reset();
    fixture_add(f, "{'driver': 'memory', 'node-name': 'mem', 'size': 65536}");
    fixture_add(f, "{'driver': 'memory', 'node-name': 'other', 'size': 65536}");
    return f;
}

/* Snapshot commands and checks look at the image as a whole: one of them at a time. */
static void test_commands_on_image(void)
{
    g_autoptr(Fixture) f = concurrent_new();
    Command first, second, check;

    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'd', 'image': 'mem'}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'above', 'file': 'd'}");
    script_hold(SCRIPT_SNAPSHOT);
    script_hold(SCRIPT_CHECK);
    command_start(f, &first, co_snapshot, "d");
    command_start(f, &second, co_snapshot, "above");
    command_start(f, &check, co_check, "d");
    g_assert_cmpuint(script_count(SCRIPT_SNAPSHOT), ==, 1);
    g_assert_cmpuint(script_count(SCRIPT_CHECK), ==, 0);
    script_release(SCRIPT_SNAPSHOT);
    command_succeeds(f, &first);
    command_succeeds(f, &second);
    g_assert_cmpuint(script_count(SCRIPT_SNAPSHOT), ==, 2);
    script_release(SCRIPT_CHECK);
    command_succeeds(f, &check);

    /* And the other way round. */
    script_hold(SCRIPT_CHECK);
    command_start(f, &check, co_check, "d");
    command_start(f, &first, co_snapshot, "d");
    g_assert_cmpuint(script_held(SCRIPT_CHECK), ==, 1);
    g_assert_cmpuint(script_count(SCRIPT_SNAPSHOT), ==, 2);
    script_release(SCRIPT_CHECK);
    command_succeeds(f, &check);
    command_succeeds(f, &first);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block/concurrent/commands-on-image", test_commands_on_image);
    return g_test_run();
}
