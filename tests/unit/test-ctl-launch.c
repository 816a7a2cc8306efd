/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How children of wharfctl end: by themselves, told to, or not otherwise. */
#include <signal.h>
#include <sys/wait.h>

#include "ctl/launch.h"

/* Longer than anything takes here. */
#define LONG 300

/* A child that runs @script; when this returns it has said so much as a word. */
static void start(CtlChild *child, const char *script)
{
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    g_autofree char *said = NULL;

    g_assert_true(ctl_child_start(child, argv, -1, true, NULL));
    do {
        g_usleep(1000);
        g_free(said);
        said = ctl_child_messages(child);
    } while (!*said);
}

static void test_told(void)
{
    g_auto(CtlChild) child = {0};
    int status;

    start(&child, "trap 'exit 3' TERM; echo up >&2; while :; do sleep 0.01; done");
    status = ctl_child_end(&child, LONG);
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 3);
    g_assert_cmpint(ctl_child_end(&child, LONG), ==, -1); /* it does not run any more */
}

static void test_by_itself(void)
{
    g_auto(CtlChild) child = {0};
    int status;

    start(&child, "trap '' TERM; echo up >&2; exit 4");
    status = ctl_child_end(&child, LONG);
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 4);
}

static void test_deaf(void)
{
    g_auto(CtlChild) child = {0};
    int status;

    start(&child, "trap '' TERM; echo up >&2; exec sleep 1000");
    status = ctl_child_end(&child, 0);
    g_assert_true(WIFSIGNALED(status));
    g_assert_cmpint(WTERMSIG(status), ==, SIGKILL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ctl/launch/told", test_told);
    g_test_add_func("/ctl/launch/by-itself", test_by_itself);
    g_test_add_func("/ctl/launch/deaf", test_deaf);
    return g_test_run();
}
