/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands come back, each exactly once, with what the other side says; also when they do not all
 * fit into the ring. An eventfd takes the place of a driver: it refuses each command.
 */
#include "aio/aio.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef struct Fixture {
    AioContext *ctx;
    int fd;
} Fixture;

typedef struct Sender {
    AioCommand *command;
    unsigned again; /* how often to submit it from its callback */
    unsigned returned;
} Sender;

static void set_up(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    f->ctx = aio_context_new(NULL, &error);
    g_assert_no_error(error);
    f->fd = eventfd(0, EFD_CLOEXEC);
    g_assert_cmpint(f->fd, >=, 0);
    aio_context_poll(f->ctx, false); /* whose it then is */
}

static void tear_down(Fixture *f, gconstpointer data)
{
    aio_context_unref(f->ctx);
    close(f->fd);
}

static bool takes_commands(Fixture *f)
{
    if (!aio_context_takes_commands(f->ctx)) {
        g_test_skip("no commands here");
        return false;
    }
    return true;
}

static void submit(void *opaque)
{
    aio_command_submit(((Sender *)opaque)->command, 1, NULL, 0);
}

static void returned(void *opaque, int result)
{
    Sender *sender = opaque;

    g_assert_cmpint(result, ==, -EOPNOTSUPP);
    sender->returned++;
    if (sender->again) {
        sender->again--;
        submit(sender);
    }
}

static void test_returns(Fixture *f, gconstpointer data)
{
    Sender sender = {.again = 999};

    if (!takes_commands(f)) {
        return;
    }
    sender.command = aio_command_new(f->fd, returned, &sender);
    aio_bh_schedule_oneshot(f->ctx, submit, &sender);
    while (sender.returned < 1000) {
        aio_context_poll(f->ctx, true);
    }
    aio_context_poll(f->ctx, false);
    g_assert_cmpuint(sender.returned, ==, 1000);
    aio_command_free(sender.command);
}

#define CROWD 3000 /* more than a ring takes at once */

static void test_crowd(Fixture *f, gconstpointer data)
{
    g_autofree Sender *senders = g_new0(Sender, CROWD);
    unsigned sum;

    if (!takes_commands(f)) {
        return;
    }
    for (unsigned i = 0; i < CROWD; i++) {
        senders[i].command = aio_command_new(f->fd, returned, &senders[i]);
        aio_bh_schedule_oneshot(f->ctx, submit, &senders[i]);
    }
    do {
        aio_context_poll(f->ctx, true);
        sum = 0;
        for (unsigned i = 0; i < CROWD; i++) {
            g_assert_cmpuint(senders[i].returned, <=, 1);
            sum += senders[i].returned;
        }
    } while (sum < CROWD);
    for (unsigned i = 0; i < CROWD; i++) {
        aio_command_free(senders[i].command);
    }
}

static void submit_and_flush(void *opaque)
{
    submit(opaque);
    aio_context_flush();
}

static void test_flush(Fixture *f, gconstpointer data)
{
    Sender sender = {0};

    if (!takes_commands(f)) {
        return;
    }
    sender.command = aio_command_new(f->fd, returned, &sender);
    aio_bh_schedule_oneshot(f->ctx, submit_and_flush, &sender);
    while (!sender.returned) {
        aio_context_poll(f->ctx, true);
    }
    aio_command_free(sender.command);
}

#define add(path, test) g_test_add("/command/" path, Fixture, NULL, set_up, test, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("returns", test_returns);
    add("crowd", test_crowd);
    add("flush", test_flush);
    return g_test_run();
}
