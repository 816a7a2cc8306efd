/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "export/fuse/helper.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/error.h"

#define HELPER         "fusermount3"
#define HELPER_DEFAULT "/usr/bin/" HELPER
#define COMM_FD        3 /* where the helper finds the socket that it sends the descriptor to */
#define COMM_VARIABLE  "_FUSE_COMMFD"
#define OUTPUT_MAX     4096

/* One run of the program. */
typedef struct Helper {
    int output[2]; /* pipe from its standard error; -1: it says into ours what it has to say */
    int comm[2];   /* socket pair; -1 if not used */
    pid_t pid;
} Helper;

static void helper_close(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

static void helper_clear(Helper *helper)
{
    for (unsigned i = 0; i < 2; i++) {
        helper_close(&helper->output[i]);
        helper_close(&helper->comm[i]);
    }
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Helper, helper_clear)

static char *helper_program(void)
{
    char *found = g_find_program_in_path(HELPER);

    return found ? found : g_strdup(HELPER_DEFAULT);
}

/* Signals as a program expects them, not as the daemon has them. */
static void helper_reset_signals(posix_spawnattr_t *attr)
{
    sigset_t none, usual;

    sigemptyset(&none);
    sigemptyset(&usual);
    sigaddset(&usual, SIGPIPE);
    posix_spawnattr_setsigmask(attr, &none);
    posix_spawnattr_setsigdefault(attr, &usual);
    posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
}

static bool helper_spawn(Helper *helper, char *const argv[], GError **error)
{
    g_auto(GStrv) environment =
        g_environ_setenv(g_get_environ(), COMM_VARIABLE, G_STRINGIFY(COMM_FD), TRUE);
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    int ret;

    if (pipe2(helper->output, O_CLOEXEC) < 0) {
        /* That there is no descriptor to spare must not keep a mount. */
        g_info("no pipe for what %s says: %s", HELPER, g_strerror(errno));
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attr);
    helper_reset_signals(&attr);
    if (helper->output[1] >= 0) {
        posix_spawn_file_actions_adddup2(&actions, helper->output[1], STDERR_FILENO);
    }
    if (helper->comm[1] >= 0) {
        posix_spawn_file_actions_adddup2(&actions, helper->comm[1], COMM_FD);
    }
    ret = posix_spawn(&helper->pid, argv[0], &actions, &attr, argv, environment);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    if (ret) {
        wharf_set_error_errno(error, ret,
                              "cannot run %s, which mounts for users without the right to (is the "
                              "package fuse3 installed?)",
                              argv[0]);
        return false;
    }
    helper_close(&helper->output[1]);
    helper_close(&helper->comm[1]);
    return true;
}

/* Read all the program says, but keep no more than the beginning. */
static char *helper_read_output(Helper *helper)
{
    g_autoptr(GString) text = g_string_new(NULL);
    char buffer[512];
    ssize_t n;

    if (helper->output[0] < 0) {
        return NULL;
    }
    while ((n = read(helper->output[0], buffer, sizeof(buffer))) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0 && text->len < OUTPUT_MAX) {
            g_string_append_len(text, buffer, n);
        }
    }
    return fuse_helper_tidy(text->str);
}

/* Wait for its end. Fails with what it has said if it failed. */
static bool helper_finish(Helper *helper, const char *what, const char *path, GError **error)
{
    g_autofree char *said = helper_read_output(helper);
    int status;

    while (waitpid(helper->pid, &status, 0) < 0) {
        if (errno != EINTR) {
            wharf_set_error_errno(error, errno, "cannot wait for %s", HELPER);
            return false;
        }
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO, "cannot %s '%s': %s", what, path,
                    said ? said : HELPER " has failed without a word");
        return false;
    }
    return true;
}

static int helper_receive(Helper *helper, const char *path, GError **error)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    char byte;
    struct iovec iov = {&byte, 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c;
    int fd = -1;

    if (recvmsg(helper->comm[0], &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) > 0) {
        c = CMSG_FIRSTHDR(&message);
        if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
            c->cmsg_len == CMSG_LEN(sizeof(int))) {
            memcpy(&fd, CMSG_DATA(c), sizeof(fd));
        }
    }
    if (fd < 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_IO,
                    "cannot mount '%s': %s has sent no descriptor", path, HELPER);
    }
    return fd;
}

int fuse_helper_mount(const char *path, const char *options, GError **error)
{
    g_auto(Helper) helper = {{-1, -1}, {-1, -1}, 0};
    g_autofree char *program = helper_program();
    char *argv[] = {program, "-o", (char *)options, "--", (char *)path, NULL};

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, helper.comm) < 0) {
        wharf_set_error_errno(error, errno, "cannot make a socket pair for %s", HELPER);
        return -1;
    }
    if (!helper_spawn(&helper, argv, error) || !helper_finish(&helper, "mount", path, error)) {
        return -1;
    }
    return helper_receive(&helper, path, error);
}

bool fuse_helper_unmount(const char *path, GError **error)
{
    g_auto(Helper) helper = {{-1, -1}, {-1, -1}, 0};
    g_autofree char *program = helper_program();
    char *argv[] = {program, "-u", "-z", "--", (char *)path, NULL};

    return helper_spawn(&helper, argv, error) && helper_finish(&helper, "unmount", path, error);
}

void fuse_helper_unmount_in_child(const char *path)
{
    char *argv[] = {HELPER, "-u", "-z", "-q", "--", (char *)path, NULL};
    pid_t pid = fork();

    if (pid == 0) {
        execvp(HELPER, argv);
        execv(HELPER_DEFAULT, argv);
        _exit(EXIT_FAILURE);
    }
    if (pid > 0) {
        waitpid(pid, NULL, 0);
    }
}

char *fuse_helper_tidy(const char *output)
{
    g_auto(GStrv) lines = g_strsplit(output, "\n", -1);
    g_autoptr(GString) text = g_string_new(NULL);

    for (unsigned i = 0; lines[i]; i++) {
        const char *line = g_strstrip(lines[i]);
        const char *name = strstr(line, HELPER ": ");

        if (name) {
            line = name + strlen(HELPER ": ");
        }
        if (*line) {
            g_string_append_printf(text, "%s%s", text->len ? "; " : "", line);
        }
    }
    if (!text->len) {
        return NULL;
    }
    return g_utf8_make_valid(text->str, text->len);
}
