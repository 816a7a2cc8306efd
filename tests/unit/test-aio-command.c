/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands come back, each exactly once, with what the other side says; also when they do not all
 * fit into the ring. An eventfd takes the place of a driver: it refuses each command.
 */
#include "aio/aio.h"

#include <errno.h>
#include <fcntl.h>
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

static void keep_file(void *opaque)
{
    *(int *)opaque = aio_file_keep(*(int *)opaque);
}

static void forget_file(void *opaque)
{
    aio_file_forget(*(int *)opaque);
}

static int run_in_context(Fixture *f, AioCallback *cb, int argument)
{
    aio_bh_schedule_oneshot(f->ctx, cb, &argument);
    aio_context_poll(f->ctx, true);
    return argument;
}

/* A command to a file that is kept; the descriptor may be gone. */
static void test_kept_file(Fixture *f, gconstpointer data)
{
    Sender sender = {.again = 9};
    int file;

    if (!takes_commands(f)) {
        return;
    }
    file = run_in_context(f, keep_file, f->fd);
    g_assert_cmpint(file, >=, 0);
    sender.command = aio_command_new(-1, returned, &sender);
    aio_command_use_file(sender.command, file);
    aio_bh_schedule_oneshot(f->ctx, submit, &sender);
    while (sender.returned < 10) {
        aio_context_poll(f->ctx, true);
    }
    run_in_context(f, forget_file, file);
    aio_command_free(sender.command);
}

/* There is an end to how many files are kept, and places are used again. */
static void test_kept_files(Fixture *f, gconstpointer data)
{
    g_autoptr(GArray) files = g_array_new(FALSE, FALSE, sizeof(int));
    int file;

    if (!takes_commands(f)) {
        return;
    }
    while ((file = run_in_context(f, keep_file, f->fd)) >= 0) {
        g_array_append_val(files, file);
        g_assert_cmpuint(files->len, <, 10000);
    }
    g_assert_cmpuint(files->len, >, 0);
    file = g_array_index(files, int, files->len / 2);
    run_in_context(f, forget_file, file);
    g_assert_cmpint(run_in_context(f, keep_file, f->fd), ==, file);
    for (unsigned i = 0; i < files->len; i++) {
        run_in_context(f, forget_file, g_array_index(files, int, i));
    }
}

/* The other end of a pipe tells when the last one who has a file open is gone. */
static void test_kept_file_is_open(Fixture *f, gconstpointer data)
{
    int ends[2], file;
    char byte;

    if (!takes_commands(f)) {
        return;
    }
    g_assert_cmpint(pipe2(ends, O_NONBLOCK | O_CLOEXEC), ==, 0);
    file = run_in_context(f, keep_file, ends[1]);
    g_assert_cmpint(file, >=, 0);
    close(ends[1]);
    g_assert_cmpint(read(ends[0], &byte, 1), ==, -1);
    g_assert_cmpint(errno, ==, EAGAIN);
    run_in_context(f, forget_file, file);
    while (read(ends[0], &byte, 1) != 0) {
        aio_context_poll(f->ctx, false); /* the kernel lets go of it a little later */
    }
    close(ends[0]);
}

#define add(path, test) g_test_add("/command/" path, Fixture, NULL, set_up, test, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("returns", test_returns);
    add("crowd", test_crowd);
    add("flush", test_flush);
    add("kept-file", test_kept_file);
    add("kept-files", test_kept_files);
    add("kept-file-is-open", test_kept_file_is_open);
    return g_test_run();
}
