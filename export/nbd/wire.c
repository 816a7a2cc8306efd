/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "export/nbd/wire.h"

#include <errno.h>
#include <string.h>

#include "util/be.h"

bool nbd_wire_string_is(const NbdString *string, const char *text)
{
    return strlen(text) == string->length && memcmp(string->text, text, string->length) == 0;
}

/* ---- handshake ---- */

void nbd_wire_put_greeting(uint8_t out[NBD_GREETING_BYTES])
{
    be64_put(out, NBD_MAGIC);
    be64_put(out + 8, NBD_OPTION_MAGIC);
    be16_put(out + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

bool nbd_wire_get_option(const uint8_t bytes[NBD_OPTION_BYTES], NbdOptionHeader *header)
{
    header->option = be32_get(bytes + 8);
    header->length = be32_get(bytes + 12);
    return be64_get(bytes) == NBD_OPTION_MAGIC;
}

/* The data of an option, as far as it has not been looked at. */
typedef struct Cursor {
    const uint8_t *at;
    size_t left;
} Cursor;

static bool cursor_take(Cursor *cursor, size_t bytes, const uint8_t **taken)
{
    if (bytes > cursor->left) {
        return false;
    }
    *taken = cursor->at;
    cursor->at += bytes;
    cursor->left -= bytes;
    return true;
}

static bool cursor_u32(Cursor *cursor, uint32_t *n)
{
    const uint8_t *bytes;

    if (!cursor_take(cursor, sizeof(*n), &bytes)) {
        return false;
    }
    *n = be32_get(bytes);
    return true;
}

/* A string after its length. */
static bool cursor_string(Cursor *cursor, NbdString *string)
{
    const uint8_t *bytes;

    if (!cursor_u32(cursor, &string->length) || string->length > NBD_MAX_STRING ||
        !cursor_take(cursor, string->length, &bytes)) {
        return false;
    }
    string->text = (const char *)bytes;
    return true;
}

bool nbd_wire_get_info_request(const void *data, size_t length, NbdInfoRequest *request)
{
    Cursor cursor = {data, length};
    const uint8_t *n;

    if (!cursor_string(&cursor, &request->name) || !cursor_take(&cursor, 2, &n)) {
        return false;
    }
    request->n_infos = be16_get(n);
    request->infos = cursor.at;
    return cursor.left == (size_t)request->n_infos * 2;
}

bool nbd_wire_wants_info(const NbdInfoRequest *request, NbdInfoType type)
{
    for (unsigned i = 0; i < request->n_infos; i++) {
        if (be16_get(request->infos + i * 2) == type) {
            return true;
        }
    }
    return false;
}

bool nbd_wire_get_meta_request(const void *data, size_t length, NbdMetaRequest *request)
{
    Cursor cursor = {data, length};

    if (!cursor_string(&cursor, &request->name) || !cursor_u32(&cursor, &request->n_queries)) {
        return false;
    }
    request->queries = cursor.at;
    for (uint32_t i = 0; i < request->n_queries; i++) {
        NbdString query;

        if (!cursor_string(&cursor, &query)) {
            return false;
        }
    }
    return cursor.left == 0;
}

NbdString nbd_wire_next_query(NbdMetaRequest *request)
{
    NbdString query = {(const char *)request->queries + 4, be32_get(request->queries)};

    request->queries += 4 + query.length;
    return query;
}

void nbd_wire_add_u16(GByteArray *out, uint16_t n)
{
    n = GUINT16_TO_BE(n);
    g_byte_array_append(out, (const uint8_t *)&n, sizeof(n));
}

void nbd_wire_add_u32(GByteArray *out, uint32_t n)
{
    n = GUINT32_TO_BE(n);
    g_byte_array_append(out, (const uint8_t *)&n, sizeof(n));
}

void nbd_wire_add_u64(GByteArray *out, uint64_t n)
{
    n = GUINT64_TO_BE(n);
    g_byte_array_append(out, (const uint8_t *)&n, sizeof(n));
}

void nbd_wire_add_reply(GByteArray *out, uint32_t option, NbdReplyType type, uint32_t length)
{
    nbd_wire_add_u64(out, NBD_REPLY_MAGIC);
    nbd_wire_add_u32(out, option);
    nbd_wire_add_u32(out, type);
    nbd_wire_add_u32(out, length);
}

void nbd_wire_add_reply_data(GByteArray *out, uint32_t option, NbdReplyType type, const void *data,
                             uint32_t length)
{
    nbd_wire_add_reply(out, option, type, length);
    g_byte_array_append(out, data, length);
}

/* ---- requests ---- */

bool nbd_wire_get_request(const NbdTerms *terms, const void *bytes, NbdRequest *request)
{
    const uint8_t *p = bytes;

    request->flags = be16_get(p + 4);
    request->type = be16_get(p + 6);
    request->cookie = be64_get(p + 8);
    request->offset = be64_get(p + 16);
    request->length = terms->extended ? be64_get(p + 24) : be32_get(p + 24);
    return be32_get(p) == (terms->extended ? NBD_EXT_REQUEST : NBD_REQUEST_MAGIC);
}

uint64_t nbd_wire_payload(const NbdTerms *terms, const NbdRequest *request)
{
    if (terms->extended) {
        return request->flags & NBD_CMD_FLAG_PAYLOAD_LEN ? request->length : 0;
    }
    return request->type == NBD_CMD_WRITE ? request->length : 0;
}

/* Flags that a command may have under @terms. */
static unsigned valid_flags(const NbdTerms *terms, unsigned type)
{
    unsigned flags = terms->flags & NBD_FLAG_SEND_FUA ? NBD_CMD_FLAG_FUA : 0;

    switch (type) {
    case NBD_CMD_READ:
        return flags | (terms->flags & NBD_FLAG_SEND_DF ? NBD_CMD_FLAG_DF : 0);
    case NBD_CMD_WRITE:
        return flags | (terms->extended ? NBD_CMD_FLAG_PAYLOAD_LEN : 0);
    case NBD_CMD_WRITE_ZEROES:
        return flags | NBD_CMD_FLAG_NO_HOLE |
               (terms->flags & NBD_FLAG_SEND_FAST_ZERO ? NBD_CMD_FLAG_FAST_ZERO : 0);
    case NBD_CMD_BLOCK_STATUS:
        return flags | NBD_CMD_FLAG_REQ_ONE |
               (terms->flags & NBD_FLAG_BLOCK_STATUS_PAYLOAD ? NBD_CMD_FLAG_PAYLOAD_LEN : 0);
    default:
        return flags;
    }
}

static bool is_write(unsigned type)
{
    return type == NBD_CMD_WRITE || type == NBD_CMD_WRITE_ZEROES || type == NBD_CMD_TRIM;
}

static NbdVerdict refuse(NbdError *error, const char **why, NbdError code, const char *text)
{
    *error = code;
    *why = text;
    return NBD_VERDICT_REFUSE;
}

/* Whether offset and length of @request are about the export: not if they are a payload's. */
static bool has_range(const NbdRequest *request)
{
    return request->type != NBD_CMD_FLUSH &&
           !(request->type == NBD_CMD_BLOCK_STATUS && request->flags & NBD_CMD_FLAG_PAYLOAD_LEN);
}

static NbdVerdict check_range(const NbdTerms *terms, const NbdRequest *request, NbdError *error,
                              const char **why)
{
    bool extends = request->type == NBD_CMD_WRITE || request->type == NBD_CMD_WRITE_ZEROES;

    if (request->offset > terms->size || request->length > terms->size - request->offset) {
        return refuse(error, why, extends ? NBD_ENOSPC : NBD_EINVAL,
                      "the range goes beyond the end of the export");
    }
    if ((request->type == NBD_CMD_READ || request->type == NBD_CMD_CACHE) &&
        request->length > NBD_MAX_PAYLOAD) {
        return refuse(error, why, NBD_EINVAL, "more than 32 MiB at once");
    }
    if (request->type == NBD_CMD_BLOCK_STATUS && request->length == 0) {
        return refuse(error, why, NBD_EINVAL, "there is no status of an empty range");
    }
    return NBD_VERDICT_SERVE;
}

NbdVerdict nbd_wire_check_request(const NbdTerms *terms, const NbdRequest *request, NbdError *error,
                                  const char **why)
{
    uint64_t payload = nbd_wire_payload(terms, request);

    if (request->type == NBD_CMD_DISC) {
        return NBD_VERDICT_END;
    }
    if (payload > NBD_MAX_PAYLOAD) {
        return NBD_VERDICT_BREAK;
    }
    if (request->type > NBD_CMD_BLOCK_STATUS) {
        return refuse(error, why, NBD_EINVAL, "unknown command");
    }
    if (request->flags & ~valid_flags(terms, request->type)) {
        return refuse(error, why, NBD_EINVAL, "a flag that does not go with the command");
    }
    if (request->type == NBD_CMD_WRITE && terms->extended && payload != request->length) {
        return refuse(error, why, NBD_EINVAL, "a write without its payload");
    }
    if (is_write(request->type) && terms->flags & NBD_FLAG_READ_ONLY) {
        return refuse(error, why, NBD_EPERM, "the export is read-only");
    }
    if (request->type == NBD_CMD_FLUSH && (request->offset || request->length)) {
        return refuse(error, why, NBD_EINVAL, "a flush has no range");
    }
    if (request->type == NBD_CMD_BLOCK_STATUS && terms->n_contexts == 0) {
        return refuse(error, why, NBD_EINVAL, "no metadata context has been selected");
    }
    return has_range(request) ? check_range(terms, request, error, why) : NBD_VERDICT_SERVE;
}

NbdError nbd_wire_error(int ret)
{
    switch (-ret) {
    case 0:
        return NBD_OK;
    case EPERM:
    case EROFS:
    case EACCES:
        return NBD_EPERM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOMEM:
        return NBD_ENOMEM;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NBD_ENOSPC;
    case ENOTSUP:
        return NBD_ENOTSUP;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

bool nbd_wire_get_status_payload(const void *data, size_t length, NbdStatusPayload *payload)
{
    const uint8_t *p = data;

    if (length < 8 || (length - 8) % 4) {
        return false;
    }
    payload->length = be64_get(p);
    payload->n_ids = (length - 8) / 4;
    payload->ids = p + 8;
    return true;
}

/* ---- replies ---- */

size_t nbd_wire_put_simple(uint8_t *out, uint64_t cookie, NbdError error)
{
    be32_put(out, NBD_SIMPLE_MAGIC);
    be32_put(out + 4, error);
    be64_put(out + 8, cookie);
    return NBD_SIMPLE_BYTES;
}

size_t nbd_wire_put_chunk(const NbdTerms *terms, uint8_t *out, const NbdRequest *request,
                          NbdChunkType type, bool done, uint32_t length)
{
    be32_put(out, terms->extended ? NBD_EXT_REPLY : NBD_STRUCTURED_MAGIC);
    be16_put(out + 4, done ? NBD_REPLY_FLAG_DONE : 0);
    be16_put(out + 6, type);
    be64_put(out + 8, request->cookie);
    if (!terms->extended) {
        be32_put(out + 16, length);
        return NBD_STRUCTURED_BYTES;
    }
    be64_put(out + 16, request->offset);
    be64_put(out + 24, length);
    return NBD_EXT_REPLY_BYTES;
}

size_t nbd_wire_put_data_chunk(const NbdTerms *terms, uint8_t *out, const NbdRequest *request,
                               bool done, uint64_t offset, uint32_t bytes)
{
    size_t head = nbd_wire_put_chunk(terms, out, request, NBD_CHUNK_OFFSET_DATA, done, 8 + bytes);

    be64_put(out + head, offset);
    return head + 8;
}

size_t nbd_wire_put_hole_chunk(const NbdTerms *terms, uint8_t *out, const NbdRequest *request,
                               bool done, uint64_t offset, uint32_t bytes)
{
    size_t head = nbd_wire_put_chunk(terms, out, request, NBD_CHUNK_OFFSET_HOLE, done, 12);

    be64_put(out + head, offset);
    be32_put(out + head + 8, bytes);
    return head + 12;
}

/* An error with its text, which a structured reply can carry. */
static size_t put_error_chunk(const NbdTerms *terms, uint8_t *out, const NbdRequest *request,
                              NbdError error, const char *why)
{
    size_t length = why ? MIN(strlen(why), NBD_WHY_MAX) : 0;
    size_t head =
        nbd_wire_put_chunk(terms, out, request, NBD_CHUNK_ERROR, true, 6 + (uint32_t)length);

    be32_put(out + head, error);
    be16_put(out + head + 4, length);
    memcpy(out + head + 6, why ? why : "", length);
    return head + 6 + length;
}

size_t nbd_wire_put_end(const NbdTerms *terms, uint8_t *out, const NbdRequest *request,
                        NbdError error, const char *why)
{
    if (error && terms->structured) {
        return put_error_chunk(terms, out, request, error, why);
    }
    /* Only a read must not be answered by the shorter one. */
    if (terms->extended || (terms->structured && request->type == NBD_CMD_READ)) {
        return nbd_wire_put_chunk(terms, out, request, NBD_CHUNK_NONE, true, 0);
    }
    return nbd_wire_put_simple(out, request->cookie, error);
}
