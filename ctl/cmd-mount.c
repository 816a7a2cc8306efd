/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wharfctl mount: a daemon of one's own for one image. It runs in the background, listens on a
 * socket in the user's own directory, where "ls" and "umount" find it, and ends when its export
 * does.
 */
#include "ctl/commands.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/json.h"
#include "ctl/launch.h"
#include "ctl/output.h"
#include "ctl/place.h"
#include "ctl/recipe.h"
#include "ctl/text.h"

/* What the daemon is started with, kept to recognise it in its messages. */
typedef struct Launch {
    char *program;
    char *blockdev;
    char *export;
    char *monitor;
    char *socket;
} Launch;

static void launch_clear(Launch *launch)
{
    g_clear_pointer(&launch->program, g_free);
    g_clear_pointer(&launch->blockdev, g_free);
    g_clear_pointer(&launch->export, g_free);
    g_clear_pointer(&launch->monitor, g_free);
    g_clear_pointer(&launch->socket, g_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Launch, launch_clear)

/* A path that nobody uses. Fits into what a socket's path may have. */
static char *new_socket_path(GError **error)
{
    g_autofree char *directory = ctl_place_directory(true, error);

    return directory ? g_strdup_printf("%s/mount-%u-%08x.sock", directory, getpid(), g_random_int())
                     : NULL;
}

/* @path as the value of a key=value option. */
static char *escape_commas(const char *path)
{
    g_auto(GStrv) parts = g_strsplit(path, ",", -1);

    return g_strjoinv(",,", parts);
}

static bool launch_prepare(Launch *launch, const CtlRecipe *recipe, GError **error)
{
    const char *given = recipe->options->id;
    g_autofree char *id = given ? g_strdup(given) : ctl_recipe_id(recipe->image, 1);
    g_autoptr(QValue) node = ctl_recipe_node(recipe, id);
    g_autoptr(QValue) export = ctl_recipe_export(recipe, id);
    g_autofree char *escaped = NULL;

    launch->program = ctl_launch_find(error);
    launch->socket = launch->program ? new_socket_path(error) : NULL;
    if (!launch->socket) {
        return false;
    }
    escaped = escape_commas(launch->socket);
    launch->monitor = g_strdup_printf("path=%s,mode=jsonrpc", escaped);
    launch->blockdev = qvalue_to_json_string(node);
    launch->export = qvalue_to_json_string(export);
    return true;
}

/* Take what the user never typed, the options made up here, out of the daemon's message. */
static char *simplify(const Launch *launch, char *message)
{
    const char *const values[][2] = {{"--blockdev", launch->blockdev},
                                     {"--export", launch->export},
                                     {"--monitor", launch->monitor}};
    GString *text = g_string_new(g_strstrip(message));

    if (g_str_has_prefix(text->str, "wharfd: ")) {
        g_string_erase(text, 0, strlen("wharfd: "));
    }
    for (gsize i = 0; i < G_N_ELEMENTS(values); i++) {
        g_autofree char *prefix = g_strdup_printf("%s %s: ", values[i][0], values[i][1]);

        g_string_replace(text, prefix, "", 0);
    }
    return g_string_free(text, FALSE);
}

static bool launch_report(const Launch *launch, const CtlChild *child, int status, GError **error)
{
    g_autofree char *messages = ctl_child_messages(child);

    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        fputs(messages, stderr); /* warnings */
        return true;
    }
    if (WIFSIGNALED(status) && ctl_child_signal()) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "told to end (%s), nothing is mounted",
                    g_strsignal(WTERMSIG(status)));
    } else if (*messages) {
        g_autofree char *simple = simplify(launch, messages);

        g_set_error_literal(error, CTL_ERROR, CTL_ERROR_FAILED, simple);
    } else if (WIFSIGNALED(status)) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                    "the daemon '%s' was killed by signal %d (%s)", launch->program,
                    WTERMSIG(status), g_strsignal(WTERMSIG(status)));
    } else {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                    "the daemon '%s' failed with status %d and without a word", launch->program,
                    WEXITSTATUS(status));
    }
    return false;
}

/*
 * Start the daemon and wait until it runs or has failed; what goes on after that, in the
 * background, is not waited for.
 */
static bool launch_daemon(const Launch *launch, GError **error)
{
    const char *const argv[] = {launch->program, "--daemonize", "--exit-when-idle", "--monitor",
                                launch->monitor, "--blockdev",  launch->blockdev,   "--export",
                                launch->export,  NULL};
    g_auto(CtlChild) child = {0};
    int status;

    if (!ctl_child_start(&child, argv, -1, false, error)) {
        return false;
    }
    status = ctl_child_wait(&child, error);
    return status != -1 && launch_report(launch, &child, status, error);
}

static void tell(const Ctl *ctl, const CtlRecipe *recipe, const Launch *launch)
{
    g_autofree char *word = ctl_text_shell_word(recipe->mountpoint);
    g_autoptr(QValue) facts = NULL;

    if (ctl->json) {
        facts = ctl_json_strings("image", recipe->image, "mountpoint", recipe->mountpoint, "socket",
                                 launch->socket, NULL);
        qvalue_object_set(facts, "writable", qvalue_bool(recipe->options->writable));
        ctl_output_json(facts);
        return;
    }
    printf("%s is at %s, %s.\n"
           "To end it:  wharfctl umount %s  (or: fusermount3 -u %s)\n",
           recipe->image, recipe->mountpoint, recipe->options->writable ? "writable" : "read-only",
           word, word);
}

static bool run(const Ctl *ctl, const void *opts, char **words, GError **error)
{
    g_auto(CtlRecipe) recipe = {0};
    g_auto(Launch) daemon = {0};

    if (ctl->socket) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_USAGE,
                    "mount starts a daemon of its own; to use the one at '%s':  wharfctl export",
                    ctl->socket);
        return false;
    }
    if (!ctl_recipe_prepare(&recipe, opts, words[0], words[1], error) ||
        !launch_prepare(&daemon, &recipe, error) || !launch_daemon(&daemon, error)) {
        g_prefix_error(error, "cannot mount '%s' at '%s': ", words[0], words[1]);
        return false;
    }
    ctl_recipe_succeeded(&recipe);
    tell(ctl, &recipe, &daemon);
    return true;
}

const CtlCommand ctl_command_mount = {
    .name = "mount",
    .synopsis = "IMAGE FILE",
    .summary = "show the content of IMAGE as FILE, by a daemon of its own",
    .details =
        "No running daemon and no privilege is needed: one is started in the background for\n"
        "this image, as you, and ends by itself when FILE is unmounted. FILE is made if it\n"
        "is not there; if it is, it is covered and comes back untouched.\n"
        "\n"
        "Unless --writable is given FILE can only be read. IMAGE is taken as raw; if it looks\n"
        "like another format that is said, and nothing is done.",
    .words = CTL_WORDS_FILES,
    .min_words = 2,
    .max_words = 2,
    .options = ctl_recipe_options,
    .options_size = sizeof(CtlRecipeOptions),
    .run = run,
};
