/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wharfctl mount: a daemon of one's own for one image. It runs in the background, listens on a
 * socket in the user's own directory, where "ls" and "umount" find it, and ends when its export
 * does.
 */
#include "ctl/commands.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/json.h"
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

static char *if_executable(char *take_path)
{
    if (g_file_test(take_path, G_FILE_TEST_IS_EXECUTABLE) &&
        !g_file_test(take_path, G_FILE_TEST_IS_DIR)) {
        return take_path;
    }
    g_free(take_path);
    return NULL;
}

/* wharfd: $WHARFD, beside this program, where the build leaves it, or in $PATH. */
static char *find_daemon(GError **error)
{
    const char *named = g_getenv("WHARFD");
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *here = self ? g_path_get_dirname(self) : NULL;
    char *found = NULL;

    if (named && *named) {
        return g_strdup(named);
    }
    if (here) {
        found = if_executable(g_build_filename(here, "wharfd", NULL));
        found =
            found ? found : if_executable(g_build_filename(here, "..", "daemon", "wharfd", NULL));
    }
    found = found ? found : g_find_program_in_path("wharfd");
    if (!found) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                    "cannot find the daemon 'wharfd' beside this program or in $PATH\n"
                    "Name it in the environment variable WHARFD.");
    }
    return found;
}

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

    launch->program = find_daemon(error);
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

/* How a user, or a service manager, says that it is enough. */
static const int end_signals[] = {SIGINT, SIGTERM, SIGHUP};

/* What the signal handler can reach. */
static volatile sig_atomic_t waited_pid; /* of the daemon's process that is waited for, or 0 */
static volatile sig_atomic_t told_to_end;

/* The daemon knows best how to stop its start, and that it has stopped. */
static void pass_on(int signo)
{
    int saved = errno;

    told_to_end = signo;
    if (waited_pid) {
        kill(waited_pid, signo);
    }
    errno = saved;
}

/* Pass on those that are not ignored; @ret_old gets how they were. */
static void catch_ends(struct sigaction *ret_old)
{
    struct sigaction action = {.sa_handler = pass_on};

    sigemptyset(&action.sa_mask);
    for (gsize i = 0; i < G_N_ELEMENTS(end_signals); i++) {
        sigaction(end_signals[i], NULL, &ret_old[i]);
        if (ret_old[i].sa_handler != SIG_IGN) {
            sigaction(end_signals[i], &action, NULL);
        }
    }
}

static void release_ends(const struct sigaction *old)
{
    for (gsize i = 0; i < G_N_ELEMENTS(end_signals); i++) {
        sigaction(end_signals[i], &old[i], NULL);
    }
}

/* A group of its own: what the terminal sends comes once, through us. */
static void leave_group(void *opaque)
{
    setpgid(0, 0);
}

static bool spawn(const char *const *argv, int messages_fd, GPid *ret_pid, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (!g_spawn_async_with_fds(NULL, (char **)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, leave_group,
                                NULL, ret_pid, -1, -1, messages_fd, &local)) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot start '%s': %s", argv[0],
                    local->message);
        return false;
    }
    return true;
}

/* Wait for the end of @pid. Returns its status, or -1. */
static int wait_for(GPid pid)
{
    int status = -1;

    waited_pid = pid;
    if (told_to_end) {
        kill(pid, told_to_end);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

/* Start the daemon with its messages going to @messages_fd and wait until it runs or has failed. */
static int launch_run(const Launch *launch, int messages_fd, GError **error)
{
    const char *const argv[] = {launch->program, "--daemonize", "--exit-when-idle", "--monitor",
                                launch->monitor, "--blockdev",  launch->blockdev,   "--export",
                                launch->export,  NULL};
    struct sigaction old[G_N_ELEMENTS(end_signals)];
    int status = -1;
    GPid pid;

    /* If whoever started us ignores its children there would be nothing to wait for. */
    signal(SIGCHLD, SIG_DFL);
    catch_ends(old);
    /* The daemon's start has to be waited for; what goes on after it, in the background, has not.
     */
    if (spawn(argv, messages_fd, &pid, error)) {
        status = wait_for(pid);
        if (status == -1) {
            g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot wait for '%s': %s",
                        launch->program, g_strerror(errno));
        }
    }
    release_ends(old);
    return status;
}

/* All that has been written to @fd. */
static char *read_messages(int fd)
{
    GString *text = g_string_new(NULL);
    char buffer[4096];
    ssize_t n;

    while ((n = pread(fd, buffer, sizeof(buffer), text->len)) > 0) {
        g_string_append_len(text, buffer, n);
    }
    return g_string_free(g_string_append_c(text, '\0'), FALSE);
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

static bool launch_report(const Launch *launch, int status, int messages_fd, GError **error)
{
    g_autofree char *messages = read_messages(messages_fd);

    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        fputs(messages, stderr); /* warnings */
        return true;
    }
    if (WIFSIGNALED(status) && told_to_end) {
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

/* Run the daemon; its messages are caught in memory, so that no pipe can fill up or stay open. */
static bool launch_daemon(const Launch *launch, GError **error)
{
    int fd = memfd_create("wharfd-messages", MFD_CLOEXEC);
    int status;
    bool ok;

    if (fd < 0) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot make a file in memory: %s",
                    g_strerror(errno));
        return false;
    }
    status = launch_run(launch, fd, error);
    ok = status != -1 && launch_report(launch, status, fd, error);
    close(fd);
    return ok;
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
