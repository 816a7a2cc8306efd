/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/launch.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/ctl.h"

#define END_POLL_US (5 * 1000)

static char *if_executable(char *take_path)
{
    if (g_file_test(take_path, G_FILE_TEST_IS_EXECUTABLE) &&
        !g_file_test(take_path, G_FILE_TEST_IS_DIR)) {
        return take_path;
    }
    g_free(take_path);
    return NULL;
}

char *ctl_launch_find(GError **error)
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

/* How a user, or a service manager, says that it is enough. */
static const int end_signals[CTL_CHILD_SIGNALS] = {SIGINT, SIGTERM, SIGHUP};

/* What the signal handler can reach. */
static volatile sig_atomic_t child_pid; /* of the one that runs, or 0 */
static volatile sig_atomic_t told_to_end;

/* The daemon knows best how to stop, and that it has stopped. */
static void pass_on(int signo)
{
    int saved = errno;

    told_to_end = signo;
    if (child_pid) {
        kill(child_pid, signo);
    }
    errno = saved;
}

int ctl_child_signal(void)
{
    return told_to_end;
}

/* Pass on those that are not ignored. */
static void catch_ends(CtlChild *child)
{
    struct sigaction action = {.sa_handler = pass_on};

    sigemptyset(&action.sa_mask);
    for (gsize i = 0; i < G_N_ELEMENTS(end_signals); i++) {
        sigaction(end_signals[i], NULL, &child->old[i]);
        if (child->old[i].sa_handler != SIG_IGN) {
            sigaction(end_signals[i], &action, NULL);
        }
    }
    child->caught = true;
}

static void release_ends(CtlChild *child)
{
    for (gsize i = 0; child->caught && i < G_N_ELEMENTS(end_signals); i++) {
        sigaction(end_signals[i], &child->old[i], NULL);
    }
    child->caught = false;
}

/* A group of its own: what the terminal sends comes once, through us. */
static void leave_group(void *opaque)
{
    setpgid(0, 0);
}

static void leave_group_tied(void *opaque)
{
    leave_group(opaque);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
}

static bool spawn(CtlChild *child, const char *const *argv, int io_fd, bool tied, GError **error)
{
    GSpawnChildSetupFunc prepare = tied ? leave_group_tied : leave_group;
    g_autoptr(GError) local = NULL;
    GPid pid;

    if (!g_spawn_async_with_fds(NULL, (char **)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, prepare, NULL,
                                &pid, io_fd, io_fd, child->messages_fd, &local)) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot start '%s': %s", argv[0],
                    local->message);
        return false;
    }
    child->pid = pid;
    child_pid = pid;
    if (told_to_end) {
        kill(pid, told_to_end);
    }
    return true;
}

bool ctl_child_start(CtlChild *child, const char *const *argv, int io_fd, bool tied, GError **error)
{
    *child = (CtlChild){.program = g_strdup(argv[0])};
    child->messages_fd = memfd_create("wharfd-messages", MFD_CLOEXEC);
    if (child->messages_fd < 0) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot make a file in memory: %s",
                    g_strerror(errno));
        return false;
    }
    /* If whoever started us ignores its children there would be nothing to wait for. */
    signal(SIGCHLD, SIG_DFL);
    catch_ends(child);
    return spawn(child, argv, io_fd, tied, error);
}

int ctl_child_wait(CtlChild *child, GError **error)
{
    int status = -1;
    pid_t r;

    do {
        r = waitpid(child->pid, &status, 0);
    } while (r < 0 && errno == EINTR);
    if (r < 0) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED, "cannot wait for '%s': %s", child->program,
                    g_strerror(errno));
        status = -1;
    }
    child->pid = 0;
    child_pid = 0;
    return status;
}

/* Whether it has ended within that time; it stays to be waited for. */
static bool ends_within(const CtlChild *child, unsigned seconds)
{
    gint64 deadline = g_get_monotonic_time() + seconds * G_USEC_PER_SEC;
    siginfo_t info;

    for (;;) {
        info.si_pid = 0;
        if (waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 ||
            info.si_pid) {
            return true;
        }
        if (g_get_monotonic_time() >= deadline) {
            return false;
        }
        g_usleep(END_POLL_US);
    }
}

int ctl_child_end(CtlChild *child, unsigned seconds)
{
    if (!child->pid) {
        return -1;
    }
    /* A second signal would have the daemon leave things as they are. */
    if (!told_to_end) {
        kill(child->pid, SIGTERM);
    }
    if (!ends_within(child, seconds)) {
        kill(child->pid, SIGKILL);
    }
    return ctl_child_wait(child, NULL);
}

char *ctl_child_messages(const CtlChild *child)
{
    GString *text = g_string_new(NULL);
    char buffer[4096];
    ssize_t n;

    while ((n = pread(child->messages_fd, buffer, sizeof(buffer), text->len)) > 0) {
        g_string_append_len(text, buffer, n);
    }
    return g_string_free(g_string_append_c(text, '\0'), FALSE);
}

void ctl_child_clear(CtlChild *child)
{
    if (!child->program) {
        return;
    }
    ctl_child_end(child, CTL_CHILD_PATIENCE);
    release_ends(child);
    if (child->messages_fd >= 0) {
        close(child->messages_fd);
    }
    g_clear_pointer(&child->program, g_free);
}
