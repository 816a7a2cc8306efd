/* SPDX-License-Identifier: GPL-2.0-or-later */
/* NBD as bytes: what is sent, what is understood, and what options of a handshake come to. */
#include <errno.h>
#include <string.h>

#include "export/nbd/haggle.h"
#include "util/be.h"

#define SIZE 10000

static const NbdTerms compact = {
    .size = SIZE,
    .flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_FAST_ZERO,
};

static const NbdTerms structured = {
    .size = SIZE,
    .flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_DF | NBD_FLAG_READ_ONLY,
    .structured = true,
    .n_contexts = 1,
};

static const NbdTerms extended = {
    .size = SIZE,
    .flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_DF | NBD_FLAG_SEND_FAST_ZERO |
             NBD_FLAG_BLOCK_STATUS_PAYLOAD,
    .structured = true,
    .extended = true,
    .n_contexts = 1,
};

static void test_request(void)
{
    static const uint8_t small[NBD_EXT_REQUEST_BYTES] = {0x25, 0x60, 0x95, 0x13, 0, 1, 0, 3, 1, 2,
                                                         3,    4,    5,    6,    7, 8, 0, 0, 0, 1,
                                                         0,    0,    0,    2,    0, 0, 1, 0};
    static const uint8_t large[NBD_EXT_REQUEST_BYTES] = {
        0x21, 0xe4, 0x1c, 0x71, 0, 0x20, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9,
        0,    0,    0,    0,    0, 0,    0, 5, 0, 0, 0, 1, 0, 0, 0, 0};
    NbdRequest request;

    g_assert_true(nbd_wire_get_request(&compact, small, &request));
    g_assert_cmpuint(request.flags, ==, 1);
    g_assert_cmpuint(request.type, ==, 3);
    g_assert_cmphex(request.cookie, ==, 0x0102030405060708);
    g_assert_cmphex(request.offset, ==, 0x100000002);
    g_assert_cmpuint(request.length, ==, 256);
    g_assert_true(nbd_wire_get_request(&extended, large, &request));
    g_assert_cmpuint(request.flags, ==, NBD_CMD_FLAG_PAYLOAD_LEN);
    g_assert_cmphex(request.length, ==, 0x100000000);
    g_assert_cmphex(nbd_wire_payload(&extended, &request), ==, 0x100000000);
    g_assert_false(nbd_wire_get_request(&extended, small, &request));
    g_assert_false(nbd_wire_get_request(&compact, large, &request));
}

/* What is done with a request; @error 0: served. */
static const struct {
    const NbdTerms *terms;
    NbdRequest request;
    NbdVerdict verdict;
    NbdError error;
} verdicts[] = {
    {&compact, {0, NBD_CMD_READ, 0, 0, SIZE}, NBD_VERDICT_SERVE, 0},
    {&compact, {0, NBD_CMD_READ, 0, SIZE, 0}, NBD_VERDICT_SERVE, 0},
    {&compact, {0, NBD_CMD_READ, 0, 1, SIZE}, NBD_VERDICT_REFUSE, NBD_EINVAL},
    {&compact, {0, NBD_CMD_READ, 0, UINT64_MAX, 1}, NBD_VERDICT_REFUSE, NBD_EINVAL},
    {&compact, {NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, 0, 1}, NBD_VERDICT_REFUSE, NBD_EINVAL},
    {&structured, {NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, 0, 1}, NBD_VERDICT_SERVE, 0},
    {&compact, {NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, 0, 0, SIZE}, NBD_VERDICT_SERVE, 0},
    {&compact, {0, NBD_CMD_WRITE, 0, 1, SIZE}, NBD_VERDICT_REFUSE, NBD_ENOSPC},
    {&compact, {0, NBD_CMD_WRITE, 0, 0, NBD_MAX_PAYLOAD + 1}, NBD_VERDICT_BREAK, 0},
    {&structured, {0, NBD_CMD_WRITE, 0, 0, 1}, NBD_VERDICT_REFUSE, NBD_EPERM},
    {&structured, {0, NBD_CMD_TRIM, 0, 0, 1}, NBD_VERDICT_REFUSE, NBD_EPERM},
    {&extended, {0, NBD_CMD_WRITE, 0, 0, 1}, NBD_VERDICT_REFUSE, NBD_EINVAL},
    {&extended, {NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_WRITE, 0, 0, 1}, NBD_VERDICT_SERVE, 0},
    {&extended, {NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_TRIM, 0, 0, 1}, NBD_VERDICT_REFUSE, NBD_EINVAL},
    {&extended, {NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_READ, 0, 0, UINT64_MAX}, NBD_VERDICT_BREAK, 0},
    {&extended, {0, NBD_CMD_TRIM, 0, 0, UINT64_MAX}, NBD_VERDICT_REFUSE, NBD_EINVAL},
    {&extended, {NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 0, 0, 12}, NBD_VERDICT_SERVE, 0},
    {&structured,
     {NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_BLOCK_STATUS, 0, 0, 12},
     NBD_VERDICT_REFUSE,
     NBD_EINVAL},
    {&structured, {0, NBD_CMD_BLOCK_STATUS, 0, 0, 12}, NBD_VERDICT_SERVE, 0},
    {&compact, {0, NBD_CMD_BLOCK_STATUS, 0, 0, 12}, NBD_VERDICT_REFUSE, NBD_EINVAL},
    {&compact, {0, NBD_CMD_FLUSH, 0, 0, 0}, NBD_VERDICT_SERVE, 0},
    {&compact, {0, NBD_CMD_FLUSH, 0, 1, 0}, NBD_VERDICT_REFUSE, NBD_EINVAL},
    {&compact, {0xffff, NBD_CMD_DISC, 0, 1, 1}, NBD_VERDICT_END, 0},
    {&compact, {0, 8, 0, 0, 0}, NBD_VERDICT_REFUSE, NBD_EINVAL},
    {&compact, {NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 0, 0, 1}, NBD_VERDICT_SERVE, 0},
    {&structured,
     {NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 0, 0, 1},
     NBD_VERDICT_REFUSE,
     NBD_EINVAL},
};

static void test_verdicts(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(verdicts); i++) {
        NbdError error = 0;
        const char *why = NULL;

        g_test_message("row %u", i);
        g_assert_cmpint(
            nbd_wire_check_request(verdicts[i].terms, &verdicts[i].request, &error, &why), ==,
            verdicts[i].verdict);
        g_assert_cmpint(error, ==, verdicts[i].error);
    }
}

static void test_errors(void)
{
    static const int table[][2] = {
        {0, NBD_OK},          {-EIO, NBD_EIO},       {-EROFS, NBD_EPERM}, {-EDQUOT, NBD_ENOSPC},
        {-EFBIG, NBD_ENOSPC}, {-EINVAL, NBD_EINVAL}, {-EBADF, NBD_EIO},   {-ENOTSUP, NBD_ENOTSUP},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        g_assert_cmpint(nbd_wire_error(table[i][0]), ==, table[i][1]);
    }
}

/* What ends a reply: by a simple one where that may be, an error with its words where it can. */
static void test_ends(void)
{
    const NbdRequest read = {.type = NBD_CMD_READ, .cookie = 7, .offset = 9};
    const NbdRequest write = {.type = NBD_CMD_WRITE, .cookie = 7, .offset = 9};
    g_autofree char *long_words = g_strnfill(1000, 'x');
    uint8_t out[NBD_END_MAX];

    g_assert_cmpuint(nbd_wire_put_end(&compact, out, &read, NBD_EIO, "why"), ==, NBD_SIMPLE_BYTES);
    g_assert_cmphex(be32_get(out), ==, NBD_SIMPLE_MAGIC);
    g_assert_cmpuint(be32_get(out + 4), ==, NBD_EIO);
    g_assert_cmpuint(nbd_wire_put_end(&structured, out, &write, 0, NULL), ==, NBD_SIMPLE_BYTES);
    g_assert_cmpuint(nbd_wire_put_end(&structured, out, &read, 0, NULL), ==, NBD_STRUCTURED_BYTES);
    g_assert_cmpuint(nbd_wire_put_end(&extended, out, &write, 0, NULL), ==, NBD_EXT_REPLY_BYTES);
    g_assert_cmpuint(be64_get(out + 16), ==, 9);
    g_assert_cmpuint(nbd_wire_put_end(&extended, out, &write, NBD_EIO, "why"), ==,
                     NBD_EXT_REPLY_BYTES + 6 + 3);
    g_assert_cmpmem(out + NBD_EXT_REPLY_BYTES + 6, 3, "why", 3);
    g_assert_cmpuint(nbd_wire_put_end(&extended, out, &write, NBD_EIO, long_words), ==,
                     NBD_END_MAX);
}

/* ---- the handshake ---- */

static const char *const contexts[] = {"base:allocation", "qemu:allocation-depth", NULL};
static const NbdFace face = {
    .name = "disk", .size = SIZE, .preferred_block = 4096, .contexts = contexts};

static const NbdFace *find(gpointer opaque, const NbdString *name)
{
    return nbd_wire_string_is(name, face.name) ? &face : NULL;
}

static void foreach (gpointer opaque, void (*fn)(const NbdFace *face, gpointer arg), gpointer arg)
{
    fn(&face, arg);
}

static const NbdDirectory directory = {NULL, find, foreach};

/* The type of the last reply. */
static uint32_t last_reply(const GByteArray *reply)
{
    uint32_t type = 0;

    for (guint at = 0; at < reply->len; at += 20 + be32_get(reply->data + at + 16)) {
        g_assert_cmphex(be64_get(reply->data + at), ==, NBD_REPLY_MAGIC);
        type = be32_get(reply->data + at + 12);
    }
    return type;
}

/* Deal with an option; its data must be in memory of its own, for sanitizers to see. */
static NbdHaggleStep deal(NbdHaggle *haggle, uint32_t option, const char *data, size_t length)
{
    g_autofree void *copy = g_memdup2(data, length);
    const NbdOptionHeader header = {option, length};

    g_byte_array_set_size(haggle->reply, 0);
    return nbd_haggle_option(haggle, &header, length ? copy : "");
}

static void test_tls_first(void)
{
    NbdHaggle haggle;

    nbd_haggle_init(&haggle, &directory);
    haggle.fixed = true;
    haggle.tls_possible = true;
    haggle.tls_required = true;
    g_assert_cmpint(deal(&haggle, NBD_OPT_LIST, "", 0), ==, NBD_HAGGLE_ON);
    g_assert_cmphex(last_reply(haggle.reply), ==, NBD_REP_ERR_TLS_REQD);
    g_assert_cmpint(deal(&haggle, 77, "x", 1), ==, NBD_HAGGLE_ON);
    g_assert_cmphex(last_reply(haggle.reply), ==, NBD_REP_ERR_TLS_REQD);
    g_assert_cmpint(deal(&haggle, NBD_OPT_EXPORT_NAME, "disk", 4), ==, NBD_HAGGLE_END);
    g_assert_cmpint(deal(&haggle, NBD_OPT_STARTTLS, "x", 1), ==, NBD_HAGGLE_ON);
    g_assert_cmphex(last_reply(haggle.reply), ==, NBD_REP_ERR_INVALID);
    g_assert_cmpint(deal(&haggle, NBD_OPT_STARTTLS, "", 0), ==, NBD_HAGGLE_STARTTLS);
    g_assert_cmphex(last_reply(haggle.reply), ==, NBD_REP_ACK);
    nbd_haggle_set_tls(&haggle);
    g_assert_cmpint(deal(&haggle, NBD_OPT_STARTTLS, "", 0), ==, NBD_HAGGLE_ON);
    g_assert_cmphex(last_reply(haggle.reply), ==, NBD_REP_ERR_INVALID);
    g_assert_cmpint(deal(&haggle, NBD_OPT_EXPORT_NAME, "disk", 4), ==, NBD_HAGGLE_GO);
    nbd_haggle_clear(&haggle);
}

/* What was agreed on in clear text is void. */
static void test_tls_forgets(void)
{
    static const char meta[] = "\0\0\0\4disk\0\0\0\1\0\0\0\17base:allocation";
    NbdHaggle haggle;

    nbd_haggle_init(&haggle, &directory);
    haggle.fixed = true;
    haggle.tls_possible = true;
    deal(&haggle, NBD_OPT_EXTENDED_HEADERS, "", 0);
    deal(&haggle, NBD_OPT_SET_META_CONTEXT, meta, sizeof(meta) - 1);
    g_assert_cmphex(last_reply(haggle.reply), ==, NBD_REP_ACK);
    g_assert_cmpuint(haggle.meta_ids->len, ==, 1);
    g_assert_cmpint(deal(&haggle, NBD_OPT_STARTTLS, "", 0), ==, NBD_HAGGLE_STARTTLS);
    nbd_haggle_set_tls(&haggle);
    g_assert_cmpint(deal(&haggle, NBD_OPT_GO, "\0\0\0\4disk\0\0", 10), ==, NBD_HAGGLE_GO);
    g_assert_false(haggle.terms.structured);
    g_assert_false(haggle.terms.extended);
    g_assert_cmpuint(haggle.terms.n_contexts, ==, 0);
    nbd_haggle_clear(&haggle);
}

static void test_shutting_down(void)
{
    NbdHaggle haggle;

    nbd_haggle_init(&haggle, &directory);
    haggle.fixed = true;
    haggle.shutting_down = true;
    g_assert_cmpint(deal(&haggle, NBD_OPT_LIST, "", 0), ==, NBD_HAGGLE_ON);
    g_assert_cmphex(last_reply(haggle.reply), ==, NBD_REP_ERR_SHUTDOWN);
    g_assert_cmpint(deal(&haggle, NBD_OPT_EXPORT_NAME, "disk", 4), ==, NBD_HAGGLE_END);
    g_assert_cmpint(deal(&haggle, NBD_OPT_ABORT, "", 0), ==, NBD_HAGGLE_END);
    g_assert_cmphex(last_reply(haggle.reply), ==, NBD_REP_ACK);
    nbd_haggle_clear(&haggle);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/nbd/wire/request", test_request);
    g_test_add_func("/nbd/wire/verdicts", test_verdicts);
    g_test_add_func("/nbd/wire/errors", test_errors);
    g_test_add_func("/nbd/wire/ends", test_ends);
    g_test_add_func("/nbd/haggle/tls-first", test_tls_first);
    g_test_add_func("/nbd/haggle/tls-forgets", test_tls_forgets);
    g_test_add_func("/nbd/haggle/shutting-down", test_shutting_down);
    return g_test_run();
}
