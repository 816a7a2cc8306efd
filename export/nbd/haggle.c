/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "export/nbd/haggle.h"

#include <string.h>

#include "util/be.h"

/* One option, as it is dealt with. */
typedef struct Option {
    NbdHaggle *haggle;
    uint32_t type;
    const uint8_t *data;
    uint32_t length;
} Option;

void nbd_haggle_init(NbdHaggle *haggle, const NbdDirectory *directory)
{
    *haggle = (NbdHaggle){
        .directory = directory,
        .meta_ids = g_array_new(FALSE, FALSE, sizeof(uint32_t)),
        .reply = g_byte_array_new(),
    };
}

void nbd_haggle_clear(NbdHaggle *haggle)
{
    g_free(haggle->meta_name);
    g_array_unref(haggle->meta_ids);
    g_byte_array_unref(haggle->reply);
}

bool nbd_haggle_set_client_flags(NbdHaggle *haggle, uint32_t flags)
{
    haggle->fixed = flags & NBD_CLIENT_FIXED_NEWSTYLE;
    haggle->no_zeroes = flags & NBD_CLIENT_NO_ZEROES;
    return !(flags & ~(uint32_t)(NBD_CLIENT_FIXED_NEWSTYLE | NBD_CLIENT_NO_ZEROES));
}

static void forget_contexts(NbdHaggle *haggle)
{
    g_clear_pointer(&haggle->meta_name, g_free);
    g_array_set_size(haggle->meta_ids, 0);
}

void nbd_haggle_set_tls(NbdHaggle *haggle)
{
    haggle->tls = true;
    haggle->structured = false;
    haggle->extended = false;
    forget_contexts(haggle);
}

static NbdHaggleStep answer(const Option *option, NbdReplyType type, const char *text)
{
    nbd_wire_add_reply_data(option->haggle->reply, option->type, type, text, strlen(text));
    return NBD_HAGGLE_ON;
}

static NbdHaggleStep acknowledge(const Option *option)
{
    return answer(option, NBD_REP_ACK, "");
}

static NbdHaggleStep refuse_data(const Option *option)
{
    return answer(option, NBD_REP_ERR_INVALID, "this option takes no data");
}

/* ---- choosing an export ---- */

/* The flags of the export, with those that depend on what else was agreed on. */
static uint16_t session_flags(const NbdHaggle *haggle, const NbdFace *face, bool any_contexts)
{
    uint16_t flags = face->flags;

    if (haggle->structured) {
        flags |= NBD_FLAG_SEND_DF;
    }
    if (haggle->extended && any_contexts) {
        flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
    }
    return flags;
}

static void choose(NbdHaggle *haggle, const NbdFace *face)
{
    /* Contexts of another export are none. */
    if (haggle->meta_name && !g_str_equal(haggle->meta_name, face->name)) {
        forget_contexts(haggle);
    }
    haggle->chosen = face;
    haggle->terms = (NbdTerms){
        .size = face->size,
        .flags = session_flags(haggle, face, haggle->meta_ids->len > 0),
        .structured = haggle->structured,
        .extended = haggle->extended,
        .n_contexts = haggle->meta_ids->len,
    };
}

static NbdHaggleStep do_export_name(const Option *option)
{
    NbdHaggle *haggle = option->haggle;
    const NbdString name = {(const char *)option->data, option->length};
    const NbdFace *face;

    /* Nothing but the end of the connection can say no. */
    if (haggle->extended || haggle->shutting_down || option->length > NBD_MAX_STRING) {
        return NBD_HAGGLE_END;
    }
    face = haggle->directory->find(haggle->directory->opaque, &name);
    if (!face) {
        return NBD_HAGGLE_END;
    }
    choose(haggle, face);
    nbd_wire_add_u64(haggle->reply, face->size);
    nbd_wire_add_u16(haggle->reply, haggle->terms.flags);
    if (!haggle->no_zeroes) {
        static const uint8_t zeroes[NBD_OLD_ZEROES];

        g_byte_array_append(haggle->reply, zeroes, sizeof(zeroes));
    }
    return NBD_HAGGLE_GO;
}

static void add_info_text(const Option *option, NbdInfoType type, const char *text)
{
    GByteArray *out = option->haggle->reply;

    nbd_wire_add_reply(out, option->type, NBD_REP_INFO, 2 + strlen(text));
    nbd_wire_add_u16(out, type);
    g_byte_array_append(out, (const uint8_t *)text, strlen(text));
}

static void add_info_block_size(const Option *option, const NbdFace *face)
{
    GByteArray *out = option->haggle->reply;

    nbd_wire_add_reply(out, option->type, NBD_REP_INFO, 14);
    nbd_wire_add_u16(out, NBD_INFO_BLOCK_SIZE);
    nbd_wire_add_u32(out, 1); /* whatever the node needs, the request path sees to it */
    nbd_wire_add_u32(out, face->preferred_block);
    nbd_wire_add_u32(out, NBD_MAX_PAYLOAD);
}

static void add_info_export(const Option *option, const NbdFace *face, uint16_t flags)
{
    GByteArray *out = option->haggle->reply;

    nbd_wire_add_reply(out, option->type, NBD_REP_INFO, 12);
    nbd_wire_add_u16(out, NBD_INFO_EXPORT);
    nbd_wire_add_u64(out, face->size);
    nbd_wire_add_u16(out, flags);
}

/* A name for people: what cannot be shown is left out. */
static char *printable(const NbdString *string)
{
    g_autofree char *raw = g_strndup(string->text, string->length);

    return g_utf8_make_valid(raw, -1);
}

static const NbdFace *find_export(const Option *option, const NbdString *name)
{
    const NbdDirectory *directory = option->haggle->directory;
    const NbdFace *face = directory->find(directory->opaque, name);

    if (!face) {
        g_autofree char *shown = printable(name);
        g_autofree char *text = g_strdup_printf("there is no export '%.256s'", shown);

        answer(option, NBD_REP_ERR_UNKNOWN, text);
    }
    return face;
}

static NbdHaggleStep do_info(const Option *option)
{
    NbdHaggle *haggle = option->haggle;
    NbdInfoRequest request;
    const NbdFace *face;
    uint16_t flags;

    if (!nbd_wire_get_info_request(option->data, option->length, &request)) {
        return answer(option, NBD_REP_ERR_INVALID, "the lengths in this option do not add up");
    }
    face = find_export(option, &request.name);
    if (!face) {
        return NBD_HAGGLE_ON;
    }
    if (option->type == NBD_OPT_GO) {
        choose(haggle, face);
        flags = haggle->terms.flags;
    } else {
        flags = session_flags(haggle, face, true);
    }
    if (nbd_wire_wants_info(&request, NBD_INFO_NAME)) {
        add_info_text(option, NBD_INFO_NAME, face->name);
    }
    if (face->description) {
        add_info_text(option, NBD_INFO_DESCRIPTION, face->description);
    }
    add_info_block_size(option, face);
    add_info_export(option, face, flags);
    acknowledge(option);
    return option->type == NBD_OPT_GO ? NBD_HAGGLE_GO : NBD_HAGGLE_ON;
}

/* ---- other options ---- */

static NbdHaggleStep do_abort(const Option *option)
{
    acknowledge(option);
    return NBD_HAGGLE_END;
}

static void add_listed(const NbdFace *face, gpointer opaque)
{
    const Option *option = opaque;
    GByteArray *out = option->haggle->reply;
    size_t name = strlen(face->name);
    size_t description = face->description ? strlen(face->description) : 0;

    nbd_wire_add_reply(out, option->type, NBD_REP_SERVER, 4 + name + description);
    nbd_wire_add_u32(out, name);
    g_byte_array_append(out, (const uint8_t *)face->name, name);
    g_byte_array_append(out, (const uint8_t *)face->description, description);
}

static NbdHaggleStep do_list(const Option *option)
{
    const NbdDirectory *directory = option->haggle->directory;

    if (option->length) {
        return refuse_data(option);
    }
    directory->foreach (directory->opaque, add_listed, (gpointer)option);
    return acknowledge(option);
}

static NbdHaggleStep do_starttls(const Option *option)
{
    if (option->length) {
        return refuse_data(option);
    }
    if (option->haggle->tls) {
        return answer(option, NBD_REP_ERR_INVALID, "TLS runs already");
    }
    if (!option->haggle->tls_possible) {
        return answer(option, NBD_REP_ERR_POLICY, "this server has no TLS credentials");
    }
    acknowledge(option);
    return NBD_HAGGLE_STARTTLS;
}

static NbdHaggleStep do_structured_reply(const Option *option)
{
    NbdHaggle *haggle = option->haggle;

    if (option->length) {
        return refuse_data(option);
    }
    if (haggle->extended) {
        return answer(option, NBD_REP_ERR_EXT_HEADER_REQD, "extended headers are in use");
    }
    if (haggle->structured) {
        return answer(option, NBD_REP_ERR_INVALID, "structured replies are in use already");
    }
    haggle->structured = true;
    return acknowledge(option);
}

static NbdHaggleStep do_extended_headers(const Option *option)
{
    NbdHaggle *haggle = option->haggle;

    if (option->length) {
        return refuse_data(option);
    }
    if (haggle->extended) {
        return answer(option, NBD_REP_ERR_INVALID, "extended headers are in use already");
    }
    haggle->extended = true;
    haggle->structured = true;
    return acknowledge(option);
}

/* ---- metadata contexts ---- */

/*
 * Whether @query means the context called @context. Where only a list is asked for, it may end
 * after any colon, which stands for all that begin so.
 */
static bool query_matches(const NbdString *query, const char *context, bool list)
{
    if (nbd_wire_string_is(query, context)) {
        return true;
    }
    return list && query->length > 0 && query->text[query->length - 1] == ':' &&
           query->length < strlen(context) && memcmp(query->text, context, query->length) == 0;
}

static void add_context(const Option *option, uint32_t id, const char *context)
{
    GByteArray *out = option->haggle->reply;

    nbd_wire_add_reply(out, option->type, NBD_REP_META_CONTEXT, 4 + strlen(context));
    nbd_wire_add_u32(out, id);
    g_byte_array_append(out, (const uint8_t *)context, strlen(context));
}

/* Which contexts the queries mean: each once, in their own order. */
static void match_contexts(NbdMetaRequest *request, const char *const *contexts, bool list,
                           bool *wanted)
{
    for (uint32_t i = 0; i < request->n_queries; i++) {
        NbdString query = nbd_wire_next_query(request);

        for (unsigned id = 0; contexts[id]; id++) {
            wanted[id] |= query_matches(&query, contexts[id], list);
        }
    }
}

static NbdHaggleStep do_meta_context(const Option *option)
{
    NbdHaggle *haggle = option->haggle;
    bool list = option->type == NBD_OPT_LIST_META_CONTEXT;
    g_autofree bool *wanted = NULL;
    NbdMetaRequest request;
    const NbdFace *face;
    bool all;

    if (!list) {
        forget_contexts(haggle); /* also where this fails */
    }
    if (!haggle->structured) {
        return answer(option, NBD_REP_ERR_INVALID, "structured replies must be asked for first");
    }
    if (!nbd_wire_get_meta_request(option->data, option->length, &request)) {
        return answer(option, NBD_REP_ERR_INVALID, "the lengths in this option do not add up");
    }
    face = find_export(option, &request.name);
    if (!face) {
        return NBD_HAGGLE_ON;
    }
    wanted = g_new0(bool, g_strv_length((char **)face->contexts) + 1);
    all = list && request.n_queries == 0;
    match_contexts(&request, face->contexts, list, wanted);
    for (uint32_t id = 0; face->contexts[id]; id++) {
        if (!all && !wanted[id]) {
            continue;
        }
        add_context(option, list ? 0 : id, face->contexts[id]);
        if (!list) {
            g_array_append_val(haggle->meta_ids, id);
        }
    }
    if (!list) {
        haggle->meta_name = g_strdup(face->name);
    }
    return acknowledge(option);
}

/* ---- dispatch ---- */

static NbdHaggleStep deal_with(const Option *option)
{
    switch (option->type) {
    case NBD_OPT_EXPORT_NAME:
        return do_export_name(option);
    case NBD_OPT_ABORT:
        return do_abort(option);
    case NBD_OPT_LIST:
        return do_list(option);
    case NBD_OPT_STARTTLS:
        return do_starttls(option);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return do_info(option);
    case NBD_OPT_STRUCTURED_REPLY:
        return do_structured_reply(option);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return do_meta_context(option);
    case NBD_OPT_EXTENDED_HEADERS:
        return do_extended_headers(option);
    default:
        return answer(option, NBD_REP_ERR_UNSUP, "unknown option");
    }
}

static bool is_known(uint32_t type)
{
    return type >= NBD_OPT_EXPORT_NAME && type <= NBD_OPT_EXTENDED_HEADERS && type != 4;
}

NbdHaggleStep nbd_haggle_option(NbdHaggle *haggle, const NbdOptionHeader *header, const void *data)
{
    const Option option = {haggle, header->option, data, header->length};

    if (!haggle->fixed && header->option != NBD_OPT_EXPORT_NAME) {
        return NBD_HAGGLE_END;
    }
    if (haggle->tls_required && !haggle->tls && header->option != NBD_OPT_STARTTLS &&
        header->option != NBD_OPT_ABORT) {
        if (header->option == NBD_OPT_EXPORT_NAME) {
            return NBD_HAGGLE_END;
        }
        return answer(&option, NBD_REP_ERR_TLS_REQD, "this server wants TLS first");
    }
    if (haggle->shutting_down && header->option != NBD_OPT_ABORT) {
        if (header->option == NBD_OPT_EXPORT_NAME) {
            return NBD_HAGGLE_END;
        }
        return answer(&option, NBD_REP_ERR_SHUTDOWN, "this server is ending");
    }
    if (!data && is_known(header->option) && header->option != NBD_OPT_ABORT) {
        if (header->option == NBD_OPT_EXPORT_NAME) {
            return NBD_HAGGLE_END;
        }
        if (header->option == NBD_OPT_SET_META_CONTEXT) {
            forget_contexts(haggle);
        }
        return answer(&option, NBD_REP_ERR_TOO_BIG, "too much data");
    }
    return deal_with(&option);
}
