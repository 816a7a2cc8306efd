/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The lock protocol of the file driver, seen from a second open file description. */
#include "block/drivers/file/locks.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

#include "aio/aio.h"
#include "util/error.h"

enum {
    READ = 1,
    WRITE = 2,
    WRITE_UNCHANGED = 4,
    RESIZE = 8,
    ALL = 15
};

static const FileLockSet nothing = {0};

typedef struct Fixture {
    char *path;
    int ours;   /* the description under test */
    int theirs; /* somebody else's */
} Fixture;

static void fixture_set_up(Fixture *f, gconstpointer data)
{
    int fd = g_file_open_tmp("wharf-locks-XXXXXX", &f->path, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    f->ours = open(f->path, O_RDWR | O_CLOEXEC);
    f->theirs = open(f->path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(f->ours, >=, 0);
    g_assert_cmpint(f->theirs, >=, 0);
}

static void fixture_tear_down(Fixture *f, gconstpointer data)
{
    close(f->ours);
    close(f->theirs);
    g_unlink(f->path);
    g_free(f->path);
}

static void lock_byte(int fd, short type, off_t byte)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    g_assert_cmpint(fcntl(fd, F_OFD_SETLK, &lock), ==, 0);
}

/* Type of the lock that stands in the way of an exclusive one of @fd, or F_UNLCK. */
static short byte_as_seen_by(int fd, off_t byte)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    g_assert_cmpint(fcntl(fd, F_OFD_GETLK, &lock), ==, 0);
    return lock.l_type;
}

/* Exactly the bytes of @set are locked, each of them shared, as @fd sees it. */
static void assert_bytes(int fd, FileLockSet set)
{
    for (off_t byte = 0; byte < 300; byte++) {
        bool perm = byte >= 100 && byte < 104 && (set.perm & (1u << (byte - 100)));
        bool unshared = byte >= 200 && byte < 204 && (set.unshared & (1u << (byte - 200)));

        g_assert_cmpint(byte_as_seen_by(fd, byte), ==, perm || unshared ? F_RDLCK : F_UNLCK);
    }
}

static void test_set_from_permissions(void)
{
    FileLockSet set = file_lock_set(READ | WRITE | RESIZE, READ | WRITE_UNCHANGED);

    g_assert_cmpuint(set.perm, ==, READ | WRITE | RESIZE);
    g_assert_cmpuint(set.unshared, ==, WRITE | RESIZE);
    set = file_lock_set(0, ALL);
    g_assert_cmpuint(set.perm | set.unshared, ==, 0);
    set = file_lock_set(~0u, 0); /* unknown bits have no bytes */
    g_assert_cmpuint(set.perm, ==, ALL);
    g_assert_cmpuint(set.unshared, ==, ALL);
}

static void test_takes_exactly_its_bytes(Fixture *f, gconstpointer data)
{
    for (unsigned perm = 0; perm <= ALL; perm++) {
        for (unsigned shared = 0; shared <= ALL; shared++) {
            FileLockSet held = nothing, want = file_lock_set(perm, shared);
            GError *error = NULL;

            g_assert_true(file_locks_acquire(f->ours, &held, want, f->path, &error));
            g_assert_no_error(error);
            assert_bytes(f->theirs, want);
            file_locks_release(f->ours, &held, nothing);
            g_assert_cmpuint(held.perm | held.unshared, ==, 0);
            assert_bytes(f->theirs, nothing);
        }
    }
}

static void test_grows_and_shrinks(Fixture *f, gconstpointer data)
{
    FileLockSet held = nothing, read = {.perm = READ}, write = {WRITE | RESIZE, WRITE};
    FileLockSet both = file_lock_set_union(read, write);

    g_assert_true(file_locks_acquire(f->ours, &held, read, f->path, NULL));
    g_assert_true(file_locks_acquire(f->ours, &held, write, f->path, NULL));
    assert_bytes(f->theirs, both);
    file_locks_release(f->ours, &held, write);
    g_assert_cmpuint(held.perm, ==, write.perm);
    assert_bytes(f->theirs, write);
}

/* Each byte of others alone stops exactly those who contradict it. */
static void test_conflicts(Fixture *f, gconstpointer data)
{
    static const char *const names[] = {"'consistent-read'", "'write'", "'write-unchanged'",
                                        "'resize'"};

    for (unsigned theirs = 0; theirs < 8; theirs++) {
        off_t their_byte = (theirs < 4 ? 100 : 200) + theirs % 4;

        lock_byte(f->theirs, F_RDLCK, their_byte);
        for (unsigned ours = 0; ours < 8; ours++) {
            bool conflict = (theirs < 4) != (ours < 4) && theirs % 4 == ours % 4;
            FileLockSet held = nothing, want = nothing;
            g_autoptr(GError) error = NULL;

            *(ours < 4 ? &want.perm : &want.unshared) = 1u << ours % 4;
            g_assert_true(file_locks_acquire(f->ours, &held, want, f->path, &error) == !conflict);
            if (conflict) {
                g_assert_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE);
                g_assert_nonnull(strstr(error->message, names[ours % 4]));
                g_assert_nonnull(strstr(error->message, f->path));
                g_assert_cmpuint(held.perm | held.unshared, ==, 0);
                assert_bytes(f->theirs, nothing);
            } else {
                assert_bytes(f->theirs, want);
            }
            file_locks_release(f->ours, &held, nothing);
        }
        lock_byte(f->theirs, F_UNLCK, their_byte);
    }
}

/* A refused request leaves what was held before. */
static void test_conflict_keeps_the_old(Fixture *f, gconstpointer data)
{
    FileLockSet held = nothing, before = {.perm = READ, .unshared = RESIZE};
    g_autoptr(GError) error = NULL;

    g_assert_true(file_locks_acquire(f->ours, &held, before, f->path, NULL));
    lock_byte(f->theirs, F_RDLCK, 201);
    g_assert_false(file_locks_acquire(f->ours, &held, file_lock_set(READ | WRITE | RESIZE, 0),
                                      f->path, &error));
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE);
    assert_bytes(f->theirs, before);
    g_assert_cmpuint(held.perm, ==, before.perm);
    g_assert_cmpuint(held.unshared, ==, before.unshared);
}

/* What is held was asked for once: who came later and did not go away is the one to fail. */
static void test_held_is_not_asked_again(Fixture *f, gconstpointer data)
{
    FileLockSet held = nothing, write = {.perm = WRITE};
    g_autoptr(GError) error = NULL;

    g_assert_true(file_locks_acquire(f->ours, &held, write, f->path, NULL));
    lock_byte(f->theirs, F_RDLCK, 201);
    g_assert_true(
        file_locks_acquire(f->ours, &held, file_lock_set(WRITE | READ, ALL), f->path, &error));
    g_assert_no_error(error);
}

/* Exclusive locks, OFD or POSIX, are foreign to the scheme: the byte cannot be locked. */
static void test_exclusive_lock_of_others(Fixture *f, gconstpointer data)
{
    for (unsigned i = 0; i < 8; i++) {
        off_t byte = (i < 4 ? 100 : 200) + i % 4;
        FileLockSet held = nothing;
        g_autofree char *text = g_strdup_printf("byte %d ", (int)byte);
        g_autoptr(GError) error = NULL;

        lock_byte(f->theirs, F_WRLCK, byte);
        g_assert_false(
            file_locks_acquire(f->ours, &held, (FileLockSet){ALL, ALL}, f->path, &error));
        g_assert_error(error, WHARF_ERROR, WHARF_ERROR_IN_USE);
        g_assert_nonnull(strstr(error->message, text));
        g_assert_nonnull(strstr(error->message, f->path));
        lock_byte(f->theirs, F_UNLCK, byte);
        assert_bytes(f->theirs, nothing);
    }
}

static void test_read_only_descriptor(Fixture *f, gconstpointer data)
{
    FileLockSet held = nothing, want = {.perm = ALL, .unshared = ALL};
    int fd = open(f->path, O_RDONLY | O_CLOEXEC);

    g_assert_true(file_locks_supported(fd));
    g_assert_true(file_locks_acquire(fd, &held, want, f->path, NULL));
    assert_bytes(f->theirs, want);
    close(fd);
    assert_bytes(f->theirs, nothing);
}

static void test_copy_to_another_description(Fixture *f, gconstpointer data)
{
    FileLockSet held = nothing, want = {.perm = READ | WRITE, .unshared = WRITE};
    int second = open(f->path, O_RDONLY | O_CLOEXEC);

    g_assert_true(file_locks_acquire(f->ours, &held, want, f->path, NULL));
    g_assert_true(file_locks_copy(second, held, f->path, NULL));
    file_locks_release(f->ours, &held, nothing);
    assert_bytes(f->theirs, want);
    close(second);
    assert_bytes(f->theirs, nothing);
}

static void test_without_locks(void)
{
    FileLockSet held = nothing;
    g_autoptr(GError) error = NULL;

    g_assert_false(file_locks_supported(-1));
    g_assert_false(
        file_locks_acquire(-1, &held, (FileLockSet){.perm = READ}, "/the/image", &error));
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_IO);
    g_assert_nonnull(strstr(error->message, "/the/image"));
}

#define RACE_ROUNDS 2000

typedef struct Racer {
    int fd;
    FileLockSet want;
    int *barrier;
    bool *got; /* one element a round */
} Racer;

/* Both meet here before each half of a round. */
static void meet(int *barrier, int generation)
{
    g_atomic_int_inc(barrier);
    while (g_atomic_int_get(barrier) < 2 * generation) {
        g_thread_yield();
    }
}

static gpointer race(gpointer opaque)
{
    Racer *r = opaque;

    for (int round = 0; round < RACE_ROUNDS; round++) {
        FileLockSet held = nothing;

        meet(r->barrier, 2 * round + 1);
        r->got[round] = file_locks_acquire(r->fd, &held, r->want, "race", NULL);
        meet(r->barrier, 2 * round + 2);
        file_locks_release(r->fd, &held, nothing);
    }
    return NULL;
}

/* Of two contradicting requests made at the same moment at most one succeeds. */
static void test_race(Fixture *f, gconstpointer data)
{
    int barrier = 0;
    g_autofree bool *ours_got = g_new0(bool, RACE_ROUNDS);
    g_autofree bool *theirs_got = g_new0(bool, RACE_ROUNDS);
    Racer ours = {f->ours, {.perm = WRITE, .unshared = WRITE}, &barrier, ours_got};
    Racer theirs = {f->theirs, {.perm = WRITE, .unshared = WRITE}, &barrier, theirs_got};
    GThread *other = g_thread_new("race", race, &theirs);

    race(&ours);
    g_thread_join(other);
    for (int round = 0; round < RACE_ROUNDS; round++) {
        g_assert_false(ours_got[round] && theirs_got[round]);
    }
}

/* One who asks as the file driver does. */
typedef struct Asker {
    int fd;
    const char *path;
    FileLockSet want, held;
    void (*after_failure)(struct Asker *a); /* or NULL */
    gpointer user;
    AioContext *ctx; /* where it runs */
    unsigned attempts;
    int64_t begun_ns, last_ns; /* of CLOCK_MONOTONIC; last_ns: of the last attempt */
    GError *error;
    bool ended;
} Asker;

static void co_fn asker_entry(void *opaque)
{
    Asker *a = opaque;
    FileLocksWait wait = {0};

    a->begun_ns = aio_now_ns();
    do {
        a->attempts++;
        a->last_ns = aio_now_ns();
        if (file_locks_acquire(a->fd, &a->held, a->want, a->path, &a->error)) {
            break;
        }
        if (a->after_failure) {
            a->after_failure(a);
        }
    } while (file_locks_co_wait(&wait, &a->error));
    a->ended = true;
}

static AioContext *new_context(void)
{
    g_autoptr(GError) error = NULL;
    AioContext *ctx = aio_context_new(NULL, &error);

    g_assert_no_error(error);
    return ctx;
}

static gpointer ask_in_context(gpointer opaque)
{
    Asker *a = opaque;

    aio_co_enter(a->ctx, asker_entry, a);
    while (!a->ended) {
        aio_context_poll(a->ctx, true);
    }
    return NULL;
}

static void ask(Asker *a)
{
    g_autoptr(AioContext) ctx = new_context();

    a->ctx = ctx;
    ask_in_context(a);
}

static void let_go(Asker *a)
{
    Fixture *f = a->user;

    assert_bytes(f->theirs, nothing); /* who waits keeps nobody away */
    lock_byte(f->theirs, F_UNLCK, 201);
}

/* Others who go in time are no reason to fail: a killed process seems to be there for a while. */
static void test_waits_for_others_to_go(Fixture *f, gconstpointer data)
{
    Asker a = {
        .fd = f->ours, .path = f->path, .want = {WRITE, WRITE}, .after_failure = let_go, .user = f};

    lock_byte(f->theirs, F_RDLCK, 201);
    ask(&a);
    g_assert_no_error(a.error);
    g_assert_cmpuint(a.attempts, ==, 2);
    assert_bytes(f->theirs, a.want);
}

/* Not for ever; and what is said is what would have been said at once. */
static void test_others_who_stay(Fixture *f, gconstpointer data)
{
    FileLockSet held = nothing;
    Asker a = {.fd = f->ours, .path = f->path, .want = {WRITE, WRITE}};
    g_autoptr(GError) at_once = NULL;

    lock_byte(f->theirs, F_RDLCK, 201);
    g_assert_false(file_locks_acquire(f->ours, &held, a.want, f->path, &at_once));
    ask(&a);
    g_assert_error(a.error, WHARF_ERROR, WHARF_ERROR_IN_USE);
    g_assert_cmpstr(a.error->message, ==, at_once->message);
    g_assert_cmpuint(a.attempts, >=, 2);
    g_assert_cmpint(a.last_ns - a.begun_ns, >=, FILE_LOCKS_WAIT_NS);
    assert_bytes(f->theirs, nothing);
    g_clear_error(&a.error);
}

static void test_waits_for_conflicts_only(void)
{
    Asker a = {.fd = -1, .path = "/the/image", .want = {.perm = READ}};

    ask(&a);
    g_assert_error(a.error, WHARF_ERROR, WHARF_ERROR_IO);
    g_assert_cmpuint(a.attempts, ==, 1);
    g_clear_error(&a.error);
}

#define CONTEST_ROUNDS 5

/* Two who come together do not give way to each other until both fail. */
static void test_contest(Fixture *f, gconstpointer data)
{
    unsigned won = 0;

    for (unsigned round = 0; round < CONTEST_ROUNDS; round++) {
        /* TSan does not see a ring's memory go: none may come anew in the place of the other. */
        g_autoptr(AioContext) here = new_context(), there = new_context();
        Asker ours = {.fd = f->ours, .path = f->path, .want = {WRITE, WRITE}, .ctx = here};
        Asker theirs = {.fd = f->theirs, .path = f->path, .want = {WRITE, WRITE}, .ctx = there};
        GThread *other = g_thread_new("contest", ask_in_context, &theirs);

        ask_in_context(&ours);
        g_thread_join(other);
        g_assert_false(!ours.error && !theirs.error);
        won += !ours.error || !theirs.error;
        g_clear_error(&ours.error);
        g_clear_error(&theirs.error);
        file_locks_release(f->ours, &ours.held, nothing);
        file_locks_release(f->theirs, &theirs.held, nothing);
    }
    g_assert_cmpuint(won, >, 0);
}

#define ADD(path, function)                                                                        \
    g_test_add(path, Fixture, NULL, fixture_set_up, function, fixture_tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/file/locks/set-from-permissions", test_set_from_permissions);
    ADD("/file/locks/takes-exactly-its-bytes", test_takes_exactly_its_bytes);
    ADD("/file/locks/grows-and-shrinks", test_grows_and_shrinks);
    ADD("/file/locks/conflicts", test_conflicts);
    ADD("/file/locks/conflict-keeps-the-old", test_conflict_keeps_the_old);
    ADD("/file/locks/held-is-not-asked-again", test_held_is_not_asked_again);
    ADD("/file/locks/exclusive-lock-of-others", test_exclusive_lock_of_others);
    ADD("/file/locks/read-only-descriptor", test_read_only_descriptor);
    ADD("/file/locks/copy", test_copy_to_another_description);
    g_test_add_func("/file/locks/without-locks", test_without_locks);
    ADD("/file/locks/race", test_race);
    ADD("/file/locks/waits-for-others-to-go", test_waits_for_others_to_go);
    ADD("/file/locks/others-who-stay", test_others_who_stay);
    g_test_add_func("/file/locks/waits-for-conflicts-only", test_waits_for_conflicts_only);
    ADD("/file/locks/contest", test_contest);
    return g_test_run();
}
