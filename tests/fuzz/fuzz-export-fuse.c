/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * FUSE requests: any bytes as a message from the kernel, over a node in memory. The first byte of
 * the input chooses the kind of export and of transport; then come messages, each after its length
 * in two bytes. Those of a ring queue begin with its headers, cut off behind what matters of them.
 */
#include <string.h>

#include "../unit/export-fixture.h"

#define MEMORY "{'driver': 'memory', 'node-name': 'n0', 'size': 70000}"
#define FIXED  "{'driver': 'null-co', 'node-name': 'n0', 'size': 70000, 'read-zeroes': true}"

/* Lengths that would need more memory than a fuzzer has are not what is looked for. */
#define MAX_LENGTH (16 * 1024 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One message in memory of its own, so that a sanitizer sees each access beside it. */
static void serve(ExportFixture *fixture, const uint8_t *bytes, size_t size, void *payload)
{
    g_autofree void *message = g_memdup2(bytes, size);
    const struct fuse_in_header *in = message;
    FuseCall call;

    if (size >= sizeof(*in) && in->opcode == FUSE_INIT) {
        const FuseInitWishes wishes = {.max_readahead = G_MAXUINT32};
        struct fuse_init_out out;
        FuseAgreement agreed;

        fuse_init_negotiate(message, size, &wishes, &agreed, &out);
    }
    if (blk_length(fixture->fe->common.blk) <= MAX_LENGTH) {
        export_fixture_serve(fixture, &call, message, size, payload);
    }
}

/* One request in an entry of a ring queue: headers, and what data there is. */
static void serve_entry(ExportFixture *fixture, const uint8_t *bytes, size_t size, void *payload)
{
    const size_t in_headers = offsetof(UringHeaders, padding);
    g_autofree UringHeaders *headers = g_new0(UringHeaders, 1);
    FuseCall call;

    memcpy(headers, bytes, MIN(size, in_headers));
    if (size > in_headers) {
        memcpy(payload, bytes + in_headers, size - in_headers);
    }
    if (blk_length(fixture->fe->common.blk) <= MAX_LENGTH) {
        export_fixture_serve_entry(fixture, &call, headers, payload);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ExportFixture *fixture;
    g_autofree void *payload = g_malloc(FUSE_INIT_MAX_IO);
    uint8_t kind;

    if (size == 0) {
        return 0;
    }
    kind = *data++;
    size--;
    fixture = export_fixture_new(kind & 4 ? FIXED : MEMORY, kind & 1, kind & 2);
    if (kind & 8) {
        fixture->fe->cache = FUSE_EXPORT_CACHE_WRITEBACK;
        fixture->fe->mount.in_directory = true;
    } else if (kind & 16) {
        fixture->fe->cache = FUSE_EXPORT_CACHE_PAGE;
        fixture->fe->mount.in_directory = true;
    }
    while (size >= 2) {
        size_t length = MIN((size_t)(data[0] | data[1] << 8), size - 2);

        (kind & 8 ? serve_entry : serve)(fixture, data + 2, length, payload);
        data += 2 + length;
        size -= 2 + length;
    }
    export_fixture_free(fixture);
    return 0;
}
