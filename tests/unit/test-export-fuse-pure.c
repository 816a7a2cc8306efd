/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The parts of the FUSE export that only look at bytes. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "export/fuse/fuse-internal.h"
#include "export/fuse/helper.h"
#include "export/fuse/mountinfo.h"
#include "export/fuse/records.h"

#define LINE_PLAIN "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"
#define LINE_FUSE  "512 28 0:49 / /tmp/a\\040b\\134c\\011d ro,nosuid - fuse /dev/fuse rw,user_id=0"

static void test_mountinfo_line(void)
{
    g_autoptr(MountInfo) plain = mountinfo_parse_line(LINE_PLAIN "\n");
    g_autoptr(MountInfo) fuse = mountinfo_parse_line(LINE_FUSE);

    g_assert_nonnull(plain);
    g_assert_cmpuint(plain->id, ==, 36);
    g_assert_cmpuint(plain->dev_major, ==, 98);
    g_assert_cmpuint(plain->dev_minor, ==, 0);
    g_assert_cmpstr(plain->mountpoint, ==, "/mnt2");
    g_assert_cmpstr(plain->fstype, ==, "ext3");
    g_assert_nonnull(fuse);
    g_assert_cmpuint(fuse->dev_minor, ==, 49);
    g_assert_cmpstr(fuse->mountpoint, ==, "/tmp/a b\\c\td");
    g_assert_cmpstr(fuse->fstype, ==, "fuse");
}

static void test_mountinfo_bad_lines(void)
{
    static const char *const lines[] = {
        "",
        "\n",
        "36",
        "36 35 98:0 /mnt1 /mnt2 rw",
        "36 35 98:0 /mnt1 /mnt2 rw -",
        "36 35 98:0 /mnt1 /mnt2 rw - ext3",
        "x 35 98:0 / / rw - ext3 a rw",
        "36 35 98 / / rw - ext3 a rw",
        "36 35 98:0:1 / / rw - ext3 a rw",
        "36 35 98:x / / rw - ext3 a rw",
        "99999999999999999999 35 98:0 / / rw - ext3 a rw",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(lines); i++) {
        g_assert_null(mountinfo_parse_line(lines[i]));
    }
}

static void test_mountinfo_find(void)
{
    const char *text = LINE_PLAIN "\nnonsense\n" LINE_FUSE "\n";
    g_autoptr(MountInfo) found = mountinfo_parse_find(text, 512, 0, 49);

    g_assert_nonnull(found);
    g_assert_cmpstr(found->fstype, ==, "fuse");
    g_assert_null(mountinfo_parse_find(text, 512, 0, 50));
    g_assert_null(mountinfo_parse_find(text, 513, 0, 49));
    g_assert_null(mountinfo_parse_find("", 512, 0, 49));
}

static void assert_tidy(const char *output, const char *expected)
{
    g_autofree char *text = fuse_helper_tidy(output);

    g_assert_cmpstr(text, ==, expected);
}

static void test_helper_tidy(void)
{
    assert_tidy("", NULL);
    assert_tidy("\n \n", NULL);
    assert_tidy("fusermount3: mount failed: Operation not permitted\n",
                "mount failed: Operation not permitted");
    assert_tidy("/usr/bin/fusermount3: one\nfusermount3: two\n", "one; two");
    assert_tidy("something else", "something else");
}

static bool is_record(const char *text, gsize length)
{
    g_autofree char *path = NULL;
    uint64_t mount;

    return fuse_record_parse(text, length, &mount, &path);
}

static void test_record(void)
{
    g_autofree char *path = NULL;
    uint64_t mount = 0;

    g_assert_true(fuse_record_parse("77\n/a\nb", 7, &mount, &path));
    g_assert_cmpuint(mount, ==, 77);
    g_assert_cmpstr(path, ==, "/a\nb");
    g_assert_false(is_record("", 0));
    g_assert_false(is_record("77", 2));
    g_assert_false(is_record("77\n", 3));
    g_assert_false(is_record("77\na", 4));
    g_assert_false(is_record("x\n/a", 4));
    g_assert_false(is_record("9 7\n/a", 6));
    g_assert_false(is_record("7\n/a\0b", 6));
}

typedef struct InitMessage {
    struct fuse_in_header header;
    struct fuse_init_in in;
} InitMessage;

static InitMessage init_message(uint32_t major, uint32_t minor, uint64_t flags)
{
    return (InitMessage){
        .header = {.len = sizeof(InitMessage), .opcode = FUSE_INIT, .unique = 2},
        .in = {.major = major,
               .minor = minor,
               .max_readahead = 131072,
               .flags = (uint32_t)flags,
               .flags2 = (uint32_t)(flags >> 32)},
    };
}

static const FuseInitWishes init_plain = {.max_readahead = G_MAXUINT32};
static const FuseInitWishes init_uring = {.uring = true, .max_readahead = G_MAXUINT32};

static void test_init(void)
{
    InitMessage message = init_message(7, 45, ~0ULL);
    FuseAgreement agreed;
    struct fuse_init_out out;

    g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &init_plain, &agreed, &out), ==,
                    0);
    g_assert_cmpuint(out.major, ==, 7);
    g_assert_cmpuint(out.max_write, ==, 1024 * 1024);
    g_assert_cmpuint(out.max_pages, ==, 256);
    g_assert_cmpuint(out.max_readahead, ==, 131072);
    g_assert_cmpuint(out.time_gran, ==, 1);
    g_assert_cmpuint(out.flags & FUSE_ASYNC_DIO, !=, 0);
    g_assert_cmpuint(out.flags & FUSE_ATOMIC_O_TRUNC, !=, 0);
    g_assert_cmpuint(out.flags2 & (1 << 4), !=, 0); /* shared mappings with direct I/O */
    /* What would give the kernel a cache of its own, or locks to us, is not asked for. */
    g_assert_cmpuint(out.flags & FUSE_WRITEBACK_CACHE, ==, 0);
    g_assert_cmpuint(out.flags & FUSE_NO_OPEN_SUPPORT, ==, 0);
    g_assert_cmpuint(out.flags & (FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS), ==, 0);
}

/* Kept back until it is wished for. */
static void test_init_writeback(void)
{
    const FuseInitWishes wishes = {.writeback = true, .max_readahead = G_MAXUINT32};
    InitMessage message = init_message(7, 45, ~0ULL);
    FuseAgreement agreed;
    struct fuse_init_out out;

    g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &wishes, &agreed, &out), ==, 0);
    g_assert_cmpuint(out.flags & FUSE_WRITEBACK_CACHE, !=, 0);
    g_assert_false(agreed.flags & URING_INIT_FLAG);
}

static uint32_t stack_depth(const struct fuse_init_out *out)
{
    uint32_t depth;

    memcpy(&depth, (const char *)out + PASSTHROUGH_DEPTH_OFFSET, sizeof(depth));
    return depth;
}

static void test_init_passthrough(void)
{
    const FuseInitWishes wishes = {.passthrough = true};
    InitMessage message = init_message(7, 45, ~0ULL);
    FuseAgreement agreed;
    struct fuse_init_out out;

    g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &wishes, &agreed, &out), ==, 0);
    g_assert_cmpuint(agreed.flags & PASSTHROUGH_INIT_FLAG, !=, 0);
    g_assert_cmpuint(agreed.flags & FUSE_HANDLE_KILLPRIV_V2, !=, 0);
    g_assert_cmpuint(out.flags2 & (1 << 5), !=, 0);
    g_assert_cmpuint(stack_depth(&out), ==, 2);

    g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &init_plain, &agreed, &out), ==,
                    0);
    g_assert_cmpuint(agreed.flags & PASSTHROUGH_INIT_FLAG, ==, 0);
    g_assert_cmpuint(agreed.flags & FUSE_HANDLE_KILLPRIV_V2, ==, 0);
    g_assert_cmpuint(stack_depth(&out), ==, 0);

    message = init_message(7, 39, ~PASSTHROUGH_INIT_FLAG);
    g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &wishes, &agreed, &out), ==, 0);
    g_assert_cmpuint(agreed.flags & PASSTHROUGH_INIT_FLAG, ==, 0);
    g_assert_cmpuint(stack_depth(&out), ==, 0);
}

static void test_init_payload(void)
{
    static const uint32_t sizes[][2] = {
        {4096, 4096}, {65537, 69632}, {1 << 20, 1 << 20}, {1 << 21, 1 << 20}};
    InitMessage message = init_message(7, 45, ~0ULL);
    FuseAgreement agreed;
    struct fuse_init_out out;

    if (sysconf(_SC_PAGESIZE) != 4096) {
        g_test_skip("sizes are in pages of 4096 bytes");
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        const FuseInitWishes wishes = {.max_io = sizes[i][0]};

        g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &wishes, &agreed, &out), ==,
                        0);
        g_assert_cmpuint(agreed.max_write, ==, sizes[i][1]);
        g_assert_cmpuint(out.max_write, ==, sizes[i][1]);
        g_assert_cmpuint(out.max_pages, ==, sizes[i][1] / 4096);
    }
}

static void test_init_read_ahead(void)
{
    static const uint32_t sizes[][2] = {{0, 0}, {4096, 4096}, {131072, 131072}, {1 << 22, 131072}};
    InitMessage message = init_message(7, 45, ~0ULL);
    FuseAgreement agreed;
    struct fuse_init_out out;

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        const FuseInitWishes wishes = {.max_readahead = sizes[i][0]};

        g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &wishes, &agreed, &out), ==,
                        0);
        g_assert_cmpuint(out.max_readahead, ==, sizes[i][1]);
        g_assert_cmpuint(agreed.max_readahead, ==, sizes[i][1]);
    }
}

static void test_init_offers_less(void)
{
    InitMessage message = init_message(7, 31, FUSE_ASYNC_READ);
    FuseAgreement agreed;
    struct fuse_init_out out;

    g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &init_plain, &agreed, &out), ==,
                    0);
    g_assert_cmpuint(out.flags, ==, FUSE_ASYNC_READ);
    g_assert_cmpuint(out.flags2, ==, 0);
    g_assert_cmpuint(agreed.minor, ==, 31);
    g_assert_cmpuint(out.max_write, ==, 32 * 4096);

    /* The message as it was before protocol 7.36. */
    message = init_message(7, 31, ~0ULL);
    message.header.len = sizeof(message.header) + 16;
    g_assert_cmpint(fuse_init_negotiate(&message, message.header.len, &init_plain, &agreed, &out),
                    ==, 0);
    g_assert_cmpuint(out.flags2, ==, 0);
}

static void test_init_refused(void)
{
    InitMessage message = init_message(7, 27, 0);
    FuseAgreement agreed;
    struct fuse_init_out out;

    g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &init_plain, &agreed, &out), ==,
                    -EPROTO);
    message = init_message(6, 45, 0);
    g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &init_plain, &agreed, &out), ==,
                    -EPROTO);
    message = init_message(8, 0, 0);
    g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &init_plain, &agreed, &out), ==,
                    -EAGAIN);
    g_assert_cmpuint(out.major, ==, 7);
    message = init_message(7, 45, 0);
    message.header.opcode = FUSE_READ;
    g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &init_plain, &agreed, &out), ==,
                    -EINVAL);
    message = init_message(7, 45, 0);
    g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message) - 1, &init_plain, &agreed, &out),
                    ==, -EINVAL);
    message.header.len = sizeof(message.header) + 8;
    g_assert_cmpint(fuse_init_negotiate(&message, message.header.len, &init_plain, &agreed, &out),
                    ==, -EINVAL);
}

typedef struct WriteMessage {
    struct fuse_in_header header;
    struct fuse_write_in in;
    char data[16];
} WriteMessage;

static void test_parse(void)
{
    WriteMessage message = {
        .header = {.len = sizeof(message), .opcode = FUSE_WRITE, .unique = 2, .nodeid = 1},
        .in = {.size = sizeof(message.data)},
    };
    FuseCall call;
    int err = 1;

    g_assert_nonnull(
        fuse_call_parse(&call, NULL, &message, sizeof(message), &call /*unused*/, &err));
    g_assert_cmpint(err, ==, 0);
    g_assert_true(call.args == &message.in);
    g_assert_true(call.payload == message.data);
    g_assert_cmpuint(call.payload_bytes, ==, sizeof(message.data));

    g_assert_null(fuse_call_parse(&call, NULL, &message, sizeof(message) - 1, NULL, &err));
    g_assert_cmpint(err, ==, -EINVAL);
    g_assert_null(fuse_call_parse(&call, NULL, &message, 7, NULL, &err));
    g_assert_cmpint(err, ==, 0); /* too short to tell what to answer to */
}

/* For each operation: a message one byte too short is refused, whatever the operation. */
static void test_parse_short(void)
{
    struct {
        struct fuse_in_header header;
        char args[256];
    } message = {.header = {.unique = 2, .nodeid = 1}};
    FuseCall call;

    for (uint32_t opcode = 0; opcode < 64; opcode++) {
        const FuseOperation *operation;
        int err;

        message.header.opcode = opcode;
        message.header.len = sizeof(message);
        operation = fuse_call_parse(&call, NULL, &message, sizeof(message), NULL, &err);
        if (!operation) {
            g_assert_true(err == -ENOSYS || err == -ENOTTY);
            continue;
        }
        if (!operation->args_bytes) {
            continue;
        }
        message.header.len = sizeof(message.header) + operation->args_bytes;
        g_assert_true(fuse_call_parse(&call, NULL, &message, message.header.len, NULL, &err) ==
                      operation);
        message.header.len--;
        g_assert_null(fuse_call_parse(&call, NULL, &message, message.header.len, NULL, &err));
        g_assert_cmpint(err, ==, -EINVAL);
    }
    message.header.opcode = G_MAXUINT32;
    message.header.len = sizeof(message);
    {
        int err;

        g_assert_null(fuse_call_parse(&call, NULL, &message, sizeof(message), NULL, &err));
        g_assert_cmpint(err, ==, -ENOSYS);
    }
}

/* The same in the parts in which a ring queue delivers it. */
static void test_parse_parts(void)
{
    WriteMessage whole = {
        .header = {.len = sizeof(whole), .opcode = FUSE_WRITE, .unique = 2, .nodeid = 1},
        .in = {.size = sizeof(whole.data)},
    };
    FuseMessage message = {
        .in = &whole.header,
        .args = &whole.in,
        .args_bytes = 128,
        .payload = whole.data,
        .payload_bytes = sizeof(whole.data),
    };
    FuseCall call;
    int err = 0;

    g_assert_nonnull(fuse_call_parse_parts(&call, NULL, &message, &err));
    g_assert_true(call.args == &whole.in);
    g_assert_true(call.payload == whole.data);
    g_assert_cmpuint(call.payload_bytes, ==, sizeof(whole.data));

    /* Arguments too short, or longer than there is room for; more payload than the message. */
    whole.header.len = sizeof(whole) - 1;
    g_assert_null(fuse_call_parse_parts(&call, NULL, &message, &err));
    g_assert_cmpint(err, ==, -EINVAL);
    whole.header.len = sizeof(whole.header) + 129 + sizeof(whole.data);
    g_assert_null(fuse_call_parse_parts(&call, NULL, &message, &err));
    g_assert_cmpint(err, ==, -EINVAL);
    whole.header.len = sizeof(whole);
    message.payload_bytes = sizeof(whole);
    g_assert_null(fuse_call_parse_parts(&call, NULL, &message, &err));
    g_assert_cmpint(err, ==, -EINVAL);

    message.payload_bytes = 0;
    whole.header.opcode = FUSE_MKNOD;
    g_assert_null(fuse_call_parse_parts(&call, NULL, &message, &err));
    g_assert_cmpint(err, ==, -ENOSYS);
}

static void test_killed(void)
{
#define AFTER_PENDING " 0 4096 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    /* what a reader looks like, and the same killed, and on its way out */
    g_assert_false(fuse_client_stat_is_killed(
        "7 (dd) D 1 7 7 0 -1 4194304 90 0 0 0 0 0 0 0 20 0 1 0 8 2 3 9 1 1 0 0 0 0" AFTER_PENDING));
    g_assert_true(fuse_client_stat_is_killed("7 (dd) D 1 7 7 0 -1 4194304 90 0 0 0 0 0 0 0 20 0 1 "
                                             "0 8 2 3 9 1 1 0 0 0 256" AFTER_PENDING));
    g_assert_true(fuse_client_stat_is_killed("7 (dd) D 1 7 7 0 -1 4195332 90 0 0 0 0 0 0 0 20 0 1 "
                                             "0 8 2 3 9 1 1 0 0 0 0" AFTER_PENDING));
    /* another signal; a name that looks like the rest; nothing of use */
    g_assert_false(fuse_client_stat_is_killed("7 (dd) D 1 7 7 0 -1 4194304 90 0 0 0 0 0 0 0 20 0 1 "
                                              "0 8 2 3 9 1 1 0 0 0 16384" AFTER_PENDING));
    g_assert_true(fuse_client_stat_is_killed("7 (a) S 1 7) D 1 7 7 0 -1 0 90 0 0 0 0 0 0 0 20 0 1 "
                                             "0 8 2 3 9 1 1 0 0 0 256" AFTER_PENDING));
    g_assert_false(fuse_client_stat_is_killed(""));
    g_assert_false(fuse_client_stat_is_killed("7 (dd) D 1 7"));
    g_assert_false(fuse_client_stat_is_killed("7 (dd)"));
    g_assert_false(fuse_client_is_killed(0));
    g_assert_false(fuse_client_is_killed(getpid()));
    g_assert_false(fuse_client_is_killed(G_MAXUINT32));
}

static void test_cpus(void)
{
    g_assert_cmpuint(fuse_uring_parse_cpus("0\n"), ==, 1);
    g_assert_cmpuint(fuse_uring_parse_cpus("0-1\n"), ==, 2);
    g_assert_cmpuint(fuse_uring_parse_cpus("0-127"), ==, 128);
    g_assert_cmpuint(fuse_uring_parse_cpus("0-3,8\n"), ==, 9);
    g_assert_cmpuint(fuse_uring_parse_cpus("0-3,8-11\n"), ==, 12);
    g_assert_cmpuint(fuse_uring_parse_cpus(""), ==, 0);
    g_assert_cmpuint(fuse_uring_parse_cpus("\n"), ==, 0);
    g_assert_cmpuint(fuse_uring_parse_cpus("0-"), ==, 0);
    g_assert_cmpuint(fuse_uring_parse_cpus("0-99999999999999999999\n"), ==, 0);
    g_assert_cmpuint(fuse_uring_parse_cpus("0-8192\n"), ==, 0);
}

/* Ring queues are agreed on only where both sides want them. */
static void test_init_uring(void)
{
    InitMessage message = init_message(7, 45, ~0ULL);
    struct fuse_init_out out;
    FuseAgreement agreed;

    g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &init_plain, &agreed, &out), ==,
                    0);
    g_assert_false(agreed.flags & URING_INIT_FLAG);
    g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &init_uring, &agreed, &out), ==,
                    0);
    g_assert_true(agreed.flags & URING_INIT_FLAG);
    g_assert_true(out.flags2 & (URING_INIT_FLAG >> 32));
    message = init_message(7, 45, ~URING_INIT_FLAG);
    g_assert_cmpint(fuse_init_negotiate(&message, sizeof(message), &init_uring, &agreed, &out), ==,
                    0);
    g_assert_false(agreed.flags & URING_INIT_FLAG);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fuse/mountinfo/line", test_mountinfo_line);
    g_test_add_func("/fuse/mountinfo/bad-lines", test_mountinfo_bad_lines);
    g_test_add_func("/fuse/mountinfo/find", test_mountinfo_find);
    g_test_add_func("/fuse/helper/tidy", test_helper_tidy);
    g_test_add_func("/fuse/record/parse", test_record);
    g_test_add_func("/fuse/init/all", test_init);
    g_test_add_func("/fuse/init/passthrough", test_init_passthrough);
    g_test_add_func("/fuse/init/read-ahead", test_init_read_ahead);
    g_test_add_func("/fuse/init/payload", test_init_payload);
    g_test_add_func("/fuse/init/writeback", test_init_writeback);
    g_test_add_func("/fuse/init/less", test_init_offers_less);
    g_test_add_func("/fuse/init/refused", test_init_refused);
    g_test_add_func("/fuse/parse/write", test_parse);
    g_test_add_func("/fuse/parse/short", test_parse_short);
    g_test_add_func("/fuse/parse/parts", test_parse_parts);
    g_test_add_func("/fuse/init/uring", test_init_uring);
    g_test_add_func("/fuse/client/killed", test_killed);
    g_test_add_func("/fuse/uring/cpus", test_cpus);
    return g_test_run();
}
