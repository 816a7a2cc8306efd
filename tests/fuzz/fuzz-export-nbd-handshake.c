/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The handshake of the NBD server: any bytes as options. The first byte of the input says what the
 * client and the server are like; then come options, each with its header but without its magic
 * number. What is answered must be well-formed.
 */
#include <string.h>

#include "export/nbd/haggle.h"
#include "util/be.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const contexts[] = {"base:allocation", "qemu:allocation-depth",
                                       "qemu:dirty-bitmap:b", NULL};
static const NbdFace faces[] = {
    {.name = "", .size = 5, .contexts = contexts + 2},
    {.name = "a", .description = "text", .size = UINT64_MAX, .contexts = contexts},
};

static const NbdFace *find(gpointer opaque, const NbdString *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(faces); i++) {
        if (nbd_wire_string_is(name, faces[i].name)) {
            return &faces[i];
        }
    }
    return NULL;
}

static void foreach (gpointer opaque, void (*fn)(const NbdFace *face, gpointer arg), gpointer arg)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(faces); i++) {
        fn(&faces[i], arg);
    }
}

static const NbdDirectory directory = {NULL, find, foreach};

/* Replies to @option follow each other without a gap, and one that is final is the last. */
static void check_replies(const GByteArray *reply, uint32_t option)
{
    guint at = 0;
    bool final = false;

    while (at < reply->len) {
        uint32_t type;

        g_assert(!final && reply->len - at >= 20);
        g_assert(be64_get(reply->data + at) == NBD_REPLY_MAGIC);
        g_assert(be32_get(reply->data + at + 8) == option);
        type = be32_get(reply->data + at + 12);
        final = type == NBD_REP_ACK || type >= NBD_REP_ERROR(0);
        at += 20 + be32_get(reply->data + at + 16);
    }
    g_assert(final && at == reply->len);
}

/* One option in memory of its own. Returns whether the handshake goes on. */
static bool deal(NbdHaggle *haggle, uint32_t type, const uint8_t *data, uint32_t length, bool huge)
{
    g_autofree void *copy = g_memdup2(data, length);
    const NbdOptionHeader header = {type, huge ? NBD_HAGGLE_MAX_DATA + 1 : length};
    NbdHaggleStep step;

    g_byte_array_set_size(haggle->reply, 0);
    step = nbd_haggle_option(haggle, &header, huge ? NULL : length ? copy : "");
    if (type != NBD_OPT_EXPORT_NAME && (step != NBD_HAGGLE_END || haggle->reply->len)) {
        check_replies(haggle->reply, type);
    }
    if (step == NBD_HAGGLE_STARTTLS) {
        nbd_haggle_set_tls(haggle);
        return true;
    }
    if (step == NBD_HAGGLE_GO) {
        g_assert(haggle->chosen && haggle->terms.n_contexts == haggle->meta_ids->len);
    }
    return step == NBD_HAGGLE_ON;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    NbdHaggle haggle;
    bool on = true;

    if (size == 0) {
        return 0;
    }
    nbd_haggle_init(&haggle, &directory);
    haggle.tls_possible = *data & 4;
    haggle.tls_required = *data & 8;
    haggle.shutting_down = *data & 16;
    nbd_haggle_set_client_flags(&haggle, *data & 3);
    data++;
    size--;
    while (on && size >= 4) {
        uint32_t type = be16_get(data);
        bool huge = be16_get(data + 2) == UINT16_MAX;
        uint32_t length = MIN(be16_get(data + 2), size - 4);

        on = deal(&haggle, type, data + 4, length, huge);
        data += 4 + length;
        size -= 4 + length;
    }
    nbd_haggle_clear(&haggle);
    return 0;
}
