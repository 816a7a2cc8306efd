/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "util/error.h"

static const int end_signals[] = {SIGTERM, SIGINT, SIGHUP};

/* ---- background ---- */

struct Background {
    int parent; /* a socket: one byte there says that all went well; its end, that nobody waits */
    AioWatch *watch;
    void (*on_gone)(void *opaque);
    void *opaque;
};

/* What the parent's signal handler can reach. */
static int child_socket = -1;
static volatile sig_atomic_t parent_signal;

/* Let the child see that it is not wanted any more. A second signal has its usual effect. */
static void handle_parent_signal(int signo)
{
    int saved = errno;

    parent_signal = signo;
    shutdown(child_socket, SHUT_WR);
    errno = saved;
}

static void parent_take_signals(int fd)
{
    struct sigaction action = {.sa_handler = handle_parent_signal,
                               .sa_flags = SA_RESTART | SA_RESETHAND};

    child_socket = fd;
    sigemptyset(&action.sa_mask);
    for (gsize i = 0; i < G_N_ELEMENTS(end_signals); i++) {
        sigaction(end_signals[i], &action, NULL);
    }
}

/* The parent's part: exit as the child fares. */
static void wait_and_exit(int fd, pid_t child) G_GNUC_NORETURN;

static void wait_and_exit(int fd, pid_t child)
{
    char byte;
    ssize_t n;

    parent_take_signals(fd);
    waitpid(child, NULL, 0); /* the one in between, gone at once */
    do {
        n = read(fd, &byte, 1);
    } while (n < 0 && errno == EINTR);
    if (n != 1 && parent_signal) {
        signal(parent_signal, SIG_DFL);
        raise(parent_signal);
    }
    _exit(n == 1 ? 0 : 1);
}

Background *background_begin(GError **error)
{
    Background *background;
    int fds[2];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        wharf_set_error_errno(error, errno, "--daemonize: cannot make a pair of sockets");
        return NULL;
    }
    pid = fork();
    if (pid < 0) {
        wharf_set_error_errno(error, errno, "--daemonize: cannot start a process");
        close(fds[0]);
        close(fds[1]);
        return NULL;
    }
    if (pid > 0) {
        close(fds[1]);
        wait_and_exit(fds[0], pid);
    }
    close(fds[0]);
    setsid();
    /* Not the leader of the session, so that no terminal can become ours by being opened. */
    pid = fork();
    if (pid != 0) {
        _exit(pid < 0 ? 1 : 0);
    }
    umask(027);
    background = g_new0(Background, 1);
    background->parent = fds[1];
    return background;
}

static void on_parent_ready(void *opaque, short revents)
{
    Background *background = opaque;

    /* It never sends anything: this is its end. */
    aio_watch_set_events(background->watch, 0);
    background->on_gone(background->opaque);
}

void background_watch(Background *background, AioContext *ctx, void (*on_gone)(void *opaque),
                      void *opaque)
{
    if (!background) {
        return;
    }
    background->on_gone = on_gone;
    background->opaque = opaque;
    background->watch =
        aio_watch_new(ctx, background->parent, POLLIN, on_parent_ready, NULL, background);
}

/* Tell the parent to exit. Returns whether it still was there. */
static bool tell_parent(Background *background)
{
    struct pollfd pfd = {.fd = background->parent, .events = POLLIN};

    return poll(&pfd, 1, 0) == 0 && send(background->parent, "", 1, MSG_NOSIGNAL) == 1;
}

static void take_null_for_stdio(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
        close(null);
    }
}

bool background_ready(Background *background)
{
    bool ok;

    if (!background) {
        return true;
    }
    if (chdir("/") < 0) {
        g_warning("cannot change to the directory '/': %s", g_strerror(errno));
    }
    take_null_for_stdio();
    ok = tell_parent(background);
    background_free(background);
    return ok;
}

void background_free(Background *background)
{
    if (background) {
        g_clear_pointer(&background->watch, aio_watch_free);
        close(background->parent);
        g_free(background);
    }
}

/* ---- pidfile ---- */

/* What a pidfile can hold at most: a number and a newline. */
#define PIDFILE_MAX 31

struct Pidfile {
    int fd; /* holds the lock */
    char *path;
};

/* Whether the file holds a number or nothing. Anything else is somebody's, and not for us to cut.
 */
static bool looks_like_pidfile(int fd, const struct stat *st)
{
    char text[PIDFILE_MAX + 1] = {0};

    if (!S_ISREG(st->st_mode) || st->st_size > PIDFILE_MAX ||
        pread(fd, text, PIDFILE_MAX, 0) != st->st_size) {
        return false;
    }
    g_strstrip(text);
    return strspn(text, "0123456789") == strlen(text);
}

static bool lock_whole(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

    return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

/* Whether the descriptor still is what the path leads to: its last owner may just have removed it.
 */
static bool is_at_path(int fd, const char *path)
{
    struct stat a, b;

    return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

/* Returns a locked descriptor, or -1. */
static int pidfile_open(const char *path, GError **error)
{
    struct stat st;

    while (true) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);

        if (fd < 0 || fstat(fd, &st) < 0) {
            wharf_set_error_errno(error, errno, "cannot open it");
            return -1;
        }
        if (!looks_like_pidfile(fd, &st)) {
            g_set_error(error, WHARF_ERROR, WHARF_ERROR_EXISTS,
                        "something that is no pidfile is there, and it is left alone");
            close(fd);
            return -1;
        }
        if (!lock_whole(fd)) {
            int err = errno;

            close(fd);
            if (err == EAGAIN || err == EACCES) {
                g_set_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE,
                            "another process holds it: it runs already");
            } else {
                wharf_set_error_errno(error, err, "cannot lock it");
            }
            return -1;
        }
        if (is_at_path(fd, path)) {
            return fd;
        }
        close(fd);
    }
}

Pidfile *pidfile_create(const char *path, GError **error)
{
    g_autofree char *text = g_strdup_printf("%ld\n", (long)getpid());
    gssize len = strlen(text);
    Pidfile *pidfile;
    int fd = pidfile_open(path, error);

    if (fd < 0) {
        g_prefix_error(error, "--pidfile %s: ", path);
        return NULL;
    }
    if (fchmod(fd, 0600) < 0 || ftruncate(fd, 0) < 0 || pwrite(fd, text, len, 0) != len) {
        wharf_set_error_errno(error, errno, "--pidfile %s: cannot write it", path);
        unlink(path);
        close(fd);
        return NULL;
    }
    pidfile = g_new(Pidfile, 1);
    pidfile->fd = fd;
    pidfile->path = g_strdup(path);
    return pidfile;
}

void pidfile_remove(Pidfile *pidfile)
{
    if (!pidfile) {
        return;
    }
    if (is_at_path(pidfile->fd, pidfile->path)) {
        unlink(pidfile->path);
    }
    close(pidfile->fd);
    g_free(pidfile->path);
    g_free(pidfile);
}

/* ---- signals ---- */

/* How long the loop may take to get round to a second signal. */
#define LAST_RESORT_S 10

/*
 * What comes sooner after the first is the same wish: timeout(1), for one, tells its child and then
 * the group that this is in.
 */
#define AGAIN_MIN_NS (500 * G_GINT64_CONSTANT(1000000))

struct Signals {
    AioContext *ctx;
    AioWatch *watch;
    void (*on_end)(void *opaque, bool again);
    void *opaque;
};

/* What a signal handler can reach. A handler belongs to the process, and so do these. */
static int signal_event = -1;
static int64_t first_signal_ns; /* 0: there was none */
static volatile sig_atomic_t signalled_again;

/* A hangup tells nothing about who has lost patience. */
static void note_signal(int signo)
{
    int64_t now_ns = aio_now_ns();

    if (signo == SIGHUP) {
        return;
    }
    if (!first_signal_ns) {
        first_signal_ns = now_ns;
    } else if (now_ns - first_signal_ns >= AGAIN_MIN_NS) {
        signalled_again = true;
        alarm(LAST_RESORT_S);
    }
}

static void handle_signal(int signo)
{
    const uint64_t one = 1;
    int saved = errno;

    note_signal(signo);
    if (write(signal_event, &one, sizeof(one)) < 0) {
        /* The counter is full: the loop will wake all the same. */
    }
    errno = saved;
}

static void on_signal_event(void *opaque, short revents)
{
    Signals *signals = opaque;
    uint64_t n;

    if (read(signal_event, &n, sizeof(n)) < 0) {
        return;
    }
    signals->on_end(signals->opaque, signalled_again);
}

static void set_handler(int signo, void (*handler)(int signo))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};

    sigfillset(&action.sa_mask);
    sigaction(signo, &action, NULL);
}

Signals *signals_new(AioContext *ctx, void (*on_end)(void *opaque, bool again), void *opaque)
{
    Signals *signals = g_new0(Signals, 1);

    g_assert(signal_event < 0);
    signal_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    g_assert(signal_event >= 0);
    signals->ctx = aio_context_ref(ctx);
    signals->on_end = on_end;
    signals->opaque = opaque;
    signals->watch = aio_watch_new(ctx, signal_event, POLLIN, on_signal_event, NULL, signals);
    for (gsize i = 0; i < G_N_ELEMENTS(end_signals); i++) {
        set_handler(end_signals[i], handle_signal);
    }
    set_handler(SIGPIPE, SIG_IGN);
    set_handler(SIGUSR1, SIG_IGN);
    set_handler(SIGCHLD, SIG_DFL); /* whoever ignores it hands that down, and we wait for ours */
    return signals;
}

void signals_free(Signals *signals)
{
    if (!signals) {
        return;
    }
    for (gsize i = 0; i < G_N_ELEMENTS(end_signals); i++) {
        set_handler(end_signals[i], SIG_IGN);
    }
    aio_watch_free(signals->watch);
    close(signal_event);
    signal_event = -1;
    aio_context_unref(signals->ctx);
    g_free(signals);
}

/* ---- service manager ---- */

void notify_service_manager(const char *state)
{
    const char *path = g_getenv("NOTIFY_SOCKET");
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    gsize len = path ? strlen(path) : 0;
    int fd;

    if (len < 2 || len > sizeof(addr.sun_path) || (path[0] != '/' && path[0] != '@')) {
        return;
    }
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return;
    }
    memcpy(addr.sun_path, path, len);
    if (path[0] == '@') {
        addr.sun_path[0] = '\0';
    }
    if (sendto(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&addr,
               offsetof(struct sockaddr_un, sun_path) + len) < 0) {
        g_info("cannot tell the service manager '%s': %s", state, g_strerror(errno));
    }
    close(fd);
}
