/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nbd: an export of an NBD server, through libnbd's asynchronous calls. What is here is what the
 * block layer sees: options, limits, requests; client.h is the way to the server.
 */
#include <errno.h>
#include <string.h>

#include "block/driver.h"
#include "block/drivers/nbd/client.h"
#include "qapi/socket-place.h"
#include "util/error.h"

#define WRITING (BLOCK_PERM_WRITE | BLOCK_PERM_WRITE_UNCHANGED | BLOCK_PERM_RESIZE)

/* Of requests without data: as much as fits into the protocol's 32 bits, and is round. */
#define NBD_MAX_RANGE (UINT64_C(2) << 30)

/* Of requests that may be carried out in the thread of who asks: they hold it up for moments. */
#define NBD_BRIEF_MAX (64 * 1024)

typedef struct NbdState {
    NbdClient *client;
    char *creds_id; /* in use, or NULL */
    char *user;     /* who uses it */
} NbdState;

/* ---- options ---- */

/* Whom a certificate must be for; NULL: anybody. */
static const char *certificate_host(const BlockdevOptionsNbd *o)
{
    if (o->tls_hostname) {
        return o->tls_hostname;
    }
    return o->server->type == SOCKET_ADDRESS_TYPE_INET ? o->server->u.inet.host : NULL;
}

static bool check_options(const BlockdevOptionsNbd *o, GError **error)
{
    if (o->x_dirty_bitmap) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "'x-dirty-bitmap' is not supported; leave it out");
        return false;
    }
    if (strlen(o->export) > 4096) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'export' is longer than 4096 bytes");
        return false;
    }
    if (o->tls_hostname && !o->tls_creds) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'tls-hostname' goes with 'tls-creds' only");
        return false;
    }
    return true;
}

/* ---- opening ---- */

static TlsCreds *nbd_find_creds(BlockNode *node, const BlockdevOptionsNbd *o, GError **error)
{
    ObjectRegistry *objects = block_node_objects(node);

    if (!objects) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "'tls-creds': there are no objects here");
        return NULL;
    }
    return object_registry_get_tls_creds(objects, o->tls_creds, TLS_CREDS_ENDPOINT_CLIENT, error);
}

static void nbd_use_creds(BlockNode *node, const char *id)
{
    NbdState *s = block_node_state(node);

    s->creds_id = g_strdup(id);
    s->user = g_strdup_printf("block node '%s'", block_node_name(node));
    object_registry_use(block_node_objects(node), s->creds_id, s->user);
}

static NbdClient *nbd_make_client(BlockNode *node, const BlockdevOptionsNbd *o, GError **error)
{
    g_autoptr(SocketPlace) place = socket_place_from_address(o->server, error);
    g_autoptr(TlsCreds) creds = NULL;
    NbdClientOptions options = {
        .node_name = block_node_name(node),
        .place = place,
        .export_name = o->export,
        .hostname = certificate_host(o),
        .reconnect_delay_s = o->reconnect_delay,
        .open_timeout_s = o->open_timeout,
        .reply_timeout_s = o->reply_timeout,
        .keeps_writes = o->keeps_writes,
    };

    if (!place) {
        return NULL;
    }
    if (o->tls_creds) {
        creds = nbd_find_creds(node, o, error);
        if (!creds) {
            return NULL;
        }
        nbd_use_creds(node, o->tls_creds);
        options.creds = creds;
    }
    return nbd_client_new(&options, error);
}

/*
 * FUA is for a single write: where the server cannot do it, a flush of the connection follows here,
 * not one of the node, for that would tell the wrong one of what the server has forgotten.
 */
static void nbd_set_flags(BlockNode *node, const NbdExportInfo *info)
{
    BlockRequestFlags write = BLOCK_REQ_WRITE_UNCHANGED | BLOCK_REQ_FUA;

    block_node_set_supported_flags(
        node, write, write | BLOCK_REQ_MAY_UNMAP | (info->fast_zero ? BLOCK_REQ_NO_FALLBACK : 0),
        0);
}

static bool nbd_check_read_only(BlockNode *node, const NbdExportInfo *info, GError **error)
{
    const BlockNodeFlags *flags = block_node_flags(node);

    if (!info->read_only || flags->read_only) {
        return true;
    }
    if (!flags->auto_read_only) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "the server offers the export read-only; open it with read-only=on or "
                    "auto-read-only=on");
        return false;
    }
    block_node_set_read_only(node, true);
    return true;
}

static void co_fn nbd_co_close(BlockNode *node)
{
    NbdState *s = block_node_state(node);

    if (s->client) {
        nbd_client_co_close(s->client);
        g_clear_pointer(&s->client, nbd_client_free);
    }
    if (s->creds_id) {
        object_registry_unuse(block_node_objects(node), s->creds_id, s->user);
    }
    g_clear_pointer(&s->creds_id, g_free);
    g_clear_pointer(&s->user, g_free);
}

static bool co_fn nbd_co_open(BlockNode *node, const BlockdevOptions *opts, GError **error)
{
    const BlockdevOptionsNbd *o = &opts->u.nbd;
    NbdState *s = block_node_state(node);

    if (!check_options(o, error)) {
        return false;
    }
    s->client = nbd_make_client(node, o, error);
    if (!s->client || !nbd_client_co_open(s->client, error) ||
        !nbd_check_read_only(node, nbd_client_info(s->client), error)) {
        nbd_co_close(node);
        return false;
    }
    nbd_set_flags(node, nbd_client_info(s->client));
    return true;
}

static void nbd_give_up_waiting(BlockNode *node)
{
    NbdState *s = block_node_state(node);

    if (s->client) {
        nbd_client_give_up_waiting(s->client);
    }
}

/* ---- what it can ---- */

static void nbd_limits(BlockNode *node, BlockLimits *limits)
{
    NbdState *s = block_node_state(node);
    const NbdExportInfo *info = nbd_client_info(s->client);

    limits->request_alignment = info->min_block;
    limits->preferred_io = info->preferred_block;
    limits->max_transfer = info->max_block;
    limits->pwrite_zeroes_alignment = info->min_block;
    limits->pdiscard_alignment = info->min_block;
    limits->max_pwrite_zeroes = NBD_MAX_RANGE;
    limits->max_pdiscard = NBD_MAX_RANGE;
}

/* Also part of a reopen that may make the node writable. */
static bool co_fn nbd_co_check_perm(BlockNode *node, BlockPerm perm, BlockPerm shared,
                                    GError **error)
{
    NbdState *s = block_node_state(node);
    BlockReopen *reopen = block_node_reopen(node);

    if (!nbd_client_is_read_only(s->client)) {
        return true;
    }
    if (reopen && reopen->flags.auto_read_only) {
        reopen->flags.read_only = true;
    }
    if ((perm & WRITING) || (reopen && !reopen->flags.read_only)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "block node '%s': the server offers the export read-only",
                    block_node_name(node));
        return false;
    }
    return true;
}

static void co_fn nbd_co_set_perm(BlockNode *node, BlockPerm perm, BlockPerm shared)
{
    NbdState *s = block_node_state(node);

    nbd_client_set_writing(s->client, perm & WRITING);
}

static int64_t co_fn nbd_co_length(BlockNode *node)
{
    NbdState *s = block_node_state(node);

    return nbd_client_info(s->client)->size;
}

static int co_fn nbd_co_truncate(BlockNode *node, uint64_t size, PreallocMode prealloc,
                                 BlockRequestFlags flags, GError **error)
{
    NbdState *s = block_node_state(node);

    if (size == (uint64_t)nbd_client_info(s->client)->size) {
        return 0;
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                "block node '%s': an NBD export cannot be resized by its clients; resize it at the "
                "server",
                block_node_name(node));
    return -ENOTSUP;
}

static char *nbd_filename(BlockNode *node)
{
    const BlockdevOptionsNbd *o = &block_node_options(node)->u.nbd;
    const SocketAddress *server = o->server;
    g_autofree char *name = g_uri_escape_string(o->export, "/", TRUE);
    const char *slash = *name ? "/" : "";

    if (o->tls_creds) {
        return NULL;
    }
    if (server->type == SOCKET_ADDRESS_TYPE_INET) {
        return g_strdup_printf(strchr(server->u.inet.host, ':') ? "nbd://[%s]:%s%s%s"
                                                                : "nbd://%s:%s%s%s",
                               server->u.inet.host, server->u.inet.port, slash, name);
    }
    if (server->type == SOCKET_ADDRESS_TYPE_UNIX && !server->u.q_unix.abstract) {
        g_autofree char *path = g_uri_escape_string(server->u.q_unix.path, "/", TRUE);

        return g_strdup_printf("nbd+unix://%s%s?socket=%s", slash, name, path);
    }
    return NULL;
}

/* ---- requests ---- */

/* What a request carries to the client's home; on the stack of its coroutine. */
typedef struct NbdRequest {
    uint64_t offset, bytes;
    void *buffer;
    BlockRequestFlags flags;
    uint64_t *pnum;
    BlockStatus *status;
} NbdRequest;

static int co_fn nbd_co_run(BlockNode *node, NbdClientWork *work, NbdRequest *request)
{
    NbdState *s = block_node_state(node);

    return nbd_client_co_run(s->client, work, request);
}

/* A read or write. */
static int co_fn nbd_co_transfer(BlockNode *node, NbdClientWork *work, NbdRequest *request)
{
    NbdState *s = block_node_state(node);

    return request->bytes <= NBD_BRIEF_MAX
               ? nbd_client_co_run_brief(s->client, request->flags & BLOCK_REQ_FUA, work, request)
               : nbd_client_co_run(s->client, work, request);
}

static int co_fn co_read(NbdConnection *connection, void *opaque)
{
    NbdRequest *r = opaque;

    return nbd_connection_co_pread(connection, r->offset, r->buffer, r->bytes);
}

static int co_fn co_write(NbdConnection *connection, void *opaque)
{
    NbdRequest *r = opaque;

    return nbd_connection_co_pwrite(connection, r->offset, r->buffer, r->bytes, r->flags);
}

static int co_fn co_zero(NbdConnection *connection, void *opaque)
{
    NbdRequest *r = opaque;

    return nbd_connection_co_zero(connection, r->offset, r->bytes, r->flags);
}

static int co_fn co_trim(NbdConnection *connection, void *opaque)
{
    NbdRequest *r = opaque;

    return nbd_connection_co_trim(connection, r->offset, r->bytes);
}

static int co_fn co_block_status(NbdConnection *connection, void *opaque)
{
    NbdRequest *r = opaque;

    return nbd_connection_co_block_status(connection, r->offset, r->bytes, r->pnum, r->status);
}

/*
 * libnbd takes one buffer a request. Most vectors have one element; of the others a copy is made.
 */
static int co_fn nbd_co_preadv(BlockNode *node, uint64_t offset, const IoVector *iov,
                               BlockRequestFlags flags)
{
    g_autofree void *copy = NULL;
    NbdRequest request = {.offset = offset, .bytes = iov->bytes};
    int r;

    if (iov->n == 1) {
        request.buffer = iov->iov[0].iov_base;
        return nbd_co_transfer(node, co_read, &request);
    }
    copy = g_try_malloc(iov->bytes);
    if (!copy) {
        return -ENOMEM;
    }
    request.buffer = copy;
    r = nbd_co_transfer(node, co_read, &request);
    if (r == 0) {
        iov_from_buffer(iov, 0, copy, iov->bytes);
    }
    return r;
}

static int co_fn nbd_co_pwritev(BlockNode *node, uint64_t offset, const IoVector *iov,
                                BlockRequestFlags flags)
{
    g_autofree void *copy = NULL;
    NbdRequest request = {.offset = offset, .bytes = iov->bytes, .flags = flags};

    if (iov->n == 1) {
        request.buffer = iov->iov[0].iov_base;
        return nbd_co_transfer(node, co_write, &request);
    }
    copy = g_try_malloc(iov->bytes);
    if (!copy) {
        return -ENOMEM;
    }
    iov_to_buffer(iov, 0, copy, iov->bytes);
    request.buffer = copy;
    return nbd_co_transfer(node, co_write, &request);
}

static int co_fn nbd_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                      BlockRequestFlags flags)
{
    NbdRequest request = {.offset = offset, .bytes = bytes, .flags = flags};

    return nbd_co_run(node, co_zero, &request);
}

static int co_fn nbd_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    NbdRequest request = {.offset = offset, .bytes = bytes};

    return nbd_co_run(node, co_trim, &request);
}

static int co_fn nbd_co_flush(BlockNode *node)
{
    NbdState *s = block_node_state(node);
    NbdFlushFailure why;
    int r = nbd_client_co_flush(s->client, &why);

    if (r < 0 && why == NBD_FLUSH_FORGOTTEN) {
        block_node_report_loss(node);
    } else if (r < 0 && why == NBD_FLUSH_REFUSED) {
        block_node_report_flush_error(node);
    }
    return r;
}

static int co_fn nbd_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes,
                                     uint64_t *pnum, BlockStatus *status)
{
    NbdRequest request = {
        .offset = offset,
        .bytes = MIN(bytes, NBD_MAX_RANGE),
        .pnum = pnum,
        .status = status,
    };

    return nbd_co_run(node, co_block_status, &request);
}

const BlockDriver block_driver_nbd = {
    .name = "nbd",
    .type = BLOCKDEV_DRIVER_NBD,
    .state_size = sizeof(NbdState),
    .is_protocol = true,
    .concurrency = BLOCK_CONCURRENT,
    .co_open = nbd_co_open,
    .co_close = nbd_co_close,
    .give_up_waiting = nbd_give_up_waiting,
    .co_check_perm = nbd_co_check_perm,
    .co_set_perm = nbd_co_set_perm,
    .limits = nbd_limits,
    .co_length = nbd_co_length,
    .co_truncate = nbd_co_truncate,
    .filename = nbd_filename,
    .co_preadv = nbd_co_preadv,
    .co_pwritev = nbd_co_pwritev,
    .co_pwrite_zeroes = nbd_co_pwrite_zeroes,
    .co_pdiscard = nbd_co_pdiscard,
    .co_flush = nbd_co_flush,
    .co_block_status = nbd_co_block_status,
};
