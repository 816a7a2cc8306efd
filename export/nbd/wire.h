/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/nbd/wire.h - the NBD protocol as bytes: its numbers, and functions from bytes to plain
 * structs and back. Source: the public protocol document (doc/proto.md of NetworkBlockDevice/nbd).
 *
 * Threads   Any; pure.
 * Lifetime  What is parsed points into the message.
 */
#ifndef WHARF_EXPORT_NBD_WIRE_H
#define WHARF_EXPORT_NBD_WIRE_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Handshake */

#define NBD_MAGIC        UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_REPLY_MAGIC  UINT64_C(0x0003e889045565a9)

enum {
    NBD_FLAG_FIXED_NEWSTYLE = 1,
    NBD_FLAG_NO_ZEROES = 2,
    /* what a client may answer with, in 32 bits */
    NBD_CLIENT_FIXED_NEWSTYLE = 1,
    NBD_CLIENT_NO_ZEROES = 2,
};

typedef enum {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
    NBD_OPT_EXTENDED_HEADERS = 11,
} NbdOptionType;

#define NBD_REP_ERROR(n) (0x80000000u + (n))

typedef enum {
    NBD_REP_ACK = 1,
    NBD_REP_SERVER = 2,
    NBD_REP_INFO = 3,
    NBD_REP_META_CONTEXT = 4,
    NBD_REP_ERR_UNSUP = NBD_REP_ERROR(1),
    NBD_REP_ERR_POLICY = NBD_REP_ERROR(2),
    NBD_REP_ERR_INVALID = NBD_REP_ERROR(3),
    NBD_REP_ERR_TLS_REQD = NBD_REP_ERROR(5),
    NBD_REP_ERR_UNKNOWN = NBD_REP_ERROR(6),
    NBD_REP_ERR_SHUTDOWN = NBD_REP_ERROR(7),
    NBD_REP_ERR_TOO_BIG = NBD_REP_ERROR(9),
    NBD_REP_ERR_EXT_HEADER_REQD = NBD_REP_ERROR(10),
} NbdReplyType;

typedef enum {
    NBD_INFO_EXPORT = 0,
    NBD_INFO_NAME = 1,
    NBD_INFO_DESCRIPTION = 2,
    NBD_INFO_BLOCK_SIZE = 3,
} NbdInfoType;

/* Transmission flags. */
enum {
    NBD_FLAG_HAS_FLAGS = 1 << 0,
    NBD_FLAG_READ_ONLY = 1 << 1,
    NBD_FLAG_SEND_FLUSH = 1 << 2,
    NBD_FLAG_SEND_FUA = 1 << 3,
    NBD_FLAG_SEND_TRIM = 1 << 5,
    NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
    NBD_FLAG_SEND_DF = 1 << 7,
    NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
    NBD_FLAG_SEND_CACHE = 1 << 10,
    NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
    NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12,
};

#define NBD_MAX_STRING      4096               /* bytes of any string */
#define NBD_MAX_PAYLOAD     (32 * 1024 * 1024) /* of a write's or a read's data; what all expect */
#define NBD_GREETING_BYTES  18
#define NBD_OPTION_BYTES    16  /* of the header of an option */
#define NBD_OLD_REPLY_BYTES 134 /* the answer to NBD_OPT_EXPORT_NAME, zeroes included */
#define NBD_OLD_ZEROES      124 /* these, at its end */

/* The header of an option. */
typedef struct NbdOptionHeader {
    uint32_t option; /* NbdOptionType, or what nobody knows */
    uint32_t length; /* of the data that follows */
} NbdOptionHeader;

/* A string of a message, without a final zero. */
typedef struct NbdString {
    const char *text;
    uint32_t length;
} NbdString;

/* Whether @string is the text @text. */
bool nbd_wire_string_is(const NbdString *string, const char *text);

void nbd_wire_put_greeting(uint8_t out[NBD_GREETING_BYTES]);

/* False if it does not begin as an option must. */
bool nbd_wire_get_option(const uint8_t bytes[NBD_OPTION_BYTES], NbdOptionHeader *header);

/* The data of INFO and GO. */
typedef struct NbdInfoRequest {
    NbdString name;
    uint16_t n_infos;
    const uint8_t *infos; /* 16 bits each */
} NbdInfoRequest;

/* False if it is malformed. */
bool nbd_wire_get_info_request(const void *data, size_t length, NbdInfoRequest *request);

/* Whether the client asks for information of the type @type. */
bool nbd_wire_wants_info(const NbdInfoRequest *request, NbdInfoType type);

/* The data of LIST_META_CONTEXT and SET_META_CONTEXT. */
typedef struct NbdMetaRequest {
    NbdString name;
    uint32_t n_queries;
    const uint8_t *queries; /* all of them, checked: see nbd_wire_next_query() */
} NbdMetaRequest;

/* False if it is malformed, any of its queries included. */
bool nbd_wire_get_meta_request(const void *data, size_t length, NbdMetaRequest *request);

/* Take the next query off @request; not more often than n_queries says. */
NbdString nbd_wire_next_query(NbdMetaRequest *request);

/* Append the header of a reply to @option, with @length bytes to follow. */
void nbd_wire_add_reply(GByteArray *out, uint32_t option, NbdReplyType type, uint32_t length);

/* Append a whole reply. */
void nbd_wire_add_reply_data(GByteArray *out, uint32_t option, NbdReplyType type, const void *data,
                             uint32_t length);

void nbd_wire_add_u16(GByteArray *out, uint16_t n);
void nbd_wire_add_u32(GByteArray *out, uint32_t n);
void nbd_wire_add_u64(GByteArray *out, uint64_t n);

/* Transmission */

#define NBD_REQUEST_MAGIC    0x25609513u
#define NBD_SIMPLE_MAGIC     0x67446698u
#define NBD_STRUCTURED_MAGIC 0x668e33efu
#define NBD_EXT_REQUEST      0x21e41c71u
#define NBD_EXT_REPLY        0x6e8a278cu

#define NBD_REQUEST_BYTES     28
#define NBD_EXT_REQUEST_BYTES 32
#define NBD_SIMPLE_BYTES      16
#define NBD_STRUCTURED_BYTES  20
#define NBD_EXT_REPLY_BYTES   32

typedef enum {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
} NbdCommand;

enum {
    NBD_CMD_FLAG_FUA = 1 << 0,
    NBD_CMD_FLAG_NO_HOLE = 1 << 1,
    NBD_CMD_FLAG_DF = 1 << 2,
    NBD_CMD_FLAG_REQ_ONE = 1 << 3,
    NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
    NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5,
};

#define NBD_REPLY_FLAG_DONE 1

typedef enum {
    NBD_CHUNK_NONE = 0,
    NBD_CHUNK_OFFSET_DATA = 1,
    NBD_CHUNK_OFFSET_HOLE = 2,
    NBD_CHUNK_BLOCK_STATUS = 5,
    NBD_CHUNK_BLOCK_STATUS_EXT = 6,
    NBD_CHUNK_ERROR = 0x8001,
} NbdChunkType;

typedef enum {
    NBD_OK = 0,
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
} NbdError;

/* Status flags of base:allocation. */
enum {
    NBD_STATE_HOLE = 1,
    NBD_STATE_ZERO = 2,
};

/* What both sides have agreed on for the transmission. */
typedef struct NbdTerms {
    uint64_t size;       /* of the export, in bytes */
    uint16_t flags;      /* NBD_FLAG_*, as the client knows them */
    bool structured;     /* replies; always with @extended */
    bool extended;       /* headers */
    unsigned n_contexts; /* metadata contexts that the client has selected */
} NbdTerms;

typedef struct NbdRequest {
    uint16_t flags;
    uint16_t type;
    uint64_t cookie;
    uint64_t offset;
    uint64_t length; /* of what the request is about or, if it is so, of its payload */
} NbdRequest;

/* Bytes of a request's header. */
static inline size_t nbd_wire_request_bytes(const NbdTerms *terms)
{
    return terms->extended ? NBD_EXT_REQUEST_BYTES : NBD_REQUEST_BYTES;
}

/* Parse a header of that many bytes. False if it does not begin as one must. */
bool nbd_wire_get_request(const NbdTerms *terms, const void *bytes, NbdRequest *request);

/* Bytes of payload that follow the header. */
uint64_t nbd_wire_payload(const NbdTerms *terms, const NbdRequest *request);

typedef enum {
    NBD_VERDICT_SERVE,
    NBD_VERDICT_REFUSE, /* the payload is to be skipped, and @error answered */
    NBD_VERDICT_END,    /* the connection is to be closed, after what is in flight */
    NBD_VERDICT_BREAK,  /* it is to be closed at once: nothing makes sense any more */
} NbdVerdict;

/* What to do with @request under @terms. With REFUSE, *@error and *@why say what to answer. */
NbdVerdict nbd_wire_check_request(const NbdTerms *terms, const NbdRequest *request, NbdError *error,
                                  const char **why);

/* The error to answer for -errno. */
NbdError nbd_wire_error(int ret);

/* What a BLOCK_STATUS request with a payload asks for. */
typedef struct NbdStatusPayload {
    uint64_t length; /* of the range */
    unsigned n_ids;
    const uint8_t *ids; /* 32 bits each */
} NbdStatusPayload;

/* False if it is malformed. */
bool nbd_wire_get_status_payload(const void *data, size_t length, NbdStatusPayload *payload);

/* Heads of replies; each returns its bytes. */
#define NBD_HEAD_MAX (NBD_EXT_REPLY_BYTES + 16)

size_t nbd_wire_put_simple(uint8_t *out, uint64_t cookie, NbdError error);

/* The head of a chunk with @length bytes of payload. */
size_t nbd_wire_put_chunk(const NbdTerms *terms, uint8_t *out, const NbdRequest *request,
                          NbdChunkType type, bool done, uint32_t length);

/* The head of a chunk with data of the export, the data's offset included. */
size_t nbd_wire_put_data_chunk(const NbdTerms *terms, uint8_t *out, const NbdRequest *request,
                               bool done, uint64_t offset, uint32_t bytes);

/* A whole chunk that tells of zeros. */
size_t nbd_wire_put_hole_chunk(const NbdTerms *terms, uint8_t *out, const NbdRequest *request,
                               bool done, uint64_t offset, uint32_t bytes);

/*
 * The last word on @request, where no data comes along: success, or an error (with @why, at most
 * NBD_WHY_MAX bytes of it, where the client can take it). @out has room for NBD_END_MAX bytes.
 */
#define NBD_WHY_MAX 128
#define NBD_END_MAX (NBD_EXT_REPLY_BYTES + 6 + NBD_WHY_MAX)

size_t nbd_wire_put_end(const NbdTerms *terms, uint8_t *out, const NbdRequest *request,
                        NbdError error, const char *why);

#endif
