/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The object types "tls-creds-psk", pre-shared keys, and "tls-creds-anon", no keys at all. */
#include <string.h>

#include "aio/aio.h"
#include "object/file.h"
#include "object/tls-internal.h"
#include "util/error.h"

#define PSK_KINDS    "+ECDHE-PSK:+DHE-PSK:+PSK"
#define ANON_KINDS   "+ANON-ECDH:+ANON-DH"
#define DEFAULT_USER "qemu"

/* What the worker makes. */
typedef struct TlsKeysLoad {
    const ObjectOptions *options;
    TlsCreds *creds; /* NULL: failed */
    GError *error;
} TlsKeysLoad;

/* ---- keys.psk ---- */

static void key_free(gpointer data)
{
    GByteArray *key = data;

    explicit_bzero(key->data, key->len);
    g_byte_array_unref(key);
}

/* The bytes that @hex stands for, or NULL. */
static GByteArray *key_from_hex(const char *hex)
{
    size_t len = strlen(hex);
    GByteArray *key;

    if (len == 0 || len % 2 || strspn(hex, "0123456789abcdefABCDEF") != len) {
        return NULL;
    }
    key = g_byte_array_sized_new(len / 2);
    for (size_t i = 0; i < len; i += 2) {
        guint8 byte = g_ascii_xdigit_value(hex[i]) << 4 | g_ascii_xdigit_value(hex[i + 1]);

        g_byte_array_append(key, &byte, 1);
    }
    return key;
}

/* One line, without its end; changed while it is read. */
static bool keys_parse_line(GHashTable *keys, char *line, const char *path, unsigned number,
                            GError **error)
{
    char *colon = strrchr(line, ':');
    GByteArray *key = colon && colon > line ? key_from_hex(colon + 1) : NULL;

    if (!key) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "keys '%s', line %u: a line must be a user's name, ':' and a key in "
                    "hexadecimal, as psktool writes it",
                    path, number);
        return false;
    }
    *colon = '\0';
    g_hash_table_replace(keys, g_strdup(line), key);
    return true;
}

/* The keys in @dir: user -> GByteArray, at least one. */
static GHashTable *keys_load(const char *dir, char **ret_path, GError **error)
{
    g_autofree char *path = g_build_filename(dir, "keys.psk", NULL);
    g_autoptr(GHashTable) keys = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, key_free);
    g_auto(ObjectFile) file = {0};
    unsigned number = 0;

    if (!object_file_read(&file, "keys", path, error)) {
        return NULL;
    }
    for (char *line = file.data, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next) {
            *next++ = '\0';
        }
        number++;
        g_strchomp(line);
        if (*line && !keys_parse_line(keys, line, path, number, error)) {
            return NULL;
        }
    }
    if (g_hash_table_size(keys) == 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "keys '%s': there is none in the file; make one with psktool", path);
        return NULL;
    }
    *ret_path = g_steal_pointer(&path);
    return g_steal_pointer(&keys);
}

/* ---- tls-creds-psk ---- */

/* GnuTLS asks for a user's key. */
static int psk_find_key(gnutls_session_t session, const gnutls_datum_t *user, gnutls_datum_t *key)
{
    const TlsCreds *creds = gnutls_session_get_ptr(session);
    g_autofree char *name = g_strndup((const char *)user->data, user->size);
    const GByteArray *found = g_hash_table_lookup(creds->keys, name);

    if (!found || strlen(name) != user->size) {
        return -1;
    }
    key->data = gnutls_malloc(found->len);
    if (!key->data) {
        return -1;
    }
    memcpy(key->data, found->data, found->len);
    key->size = found->len;
    return 0;
}

static bool psk_make_server(TlsCreds *creds, GHashTable *keys, const char *dir, GError **error)
{
    int r = gnutls_psk_allocate_server_credentials(&creds->psk_server);

    if (r < 0) {
        tls_set_error(error, r, "cannot make credentials");
        return false;
    }
    creds->keys = g_hash_table_ref(keys);
    gnutls_psk_set_server_credentials_function2(creds->psk_server, psk_find_key);
    if (!tls_creds_load_dh_params(creds, dir, error)) {
        return false;
    }
    if (creds->dh_params) {
        gnutls_psk_set_server_dh_params(creds->psk_server, creds->dh_params);
    }
    return true;
}

static bool psk_make_client(TlsCreds *creds, GHashTable *keys, const char *path, const char *user,
                            GError **error)
{
    const GByteArray *key = g_hash_table_lookup(keys, user);
    gnutls_datum_t name, secret;
    int r;

    if (!key) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "keys '%s': there is none of user '%s'; choose one by 'username'", path, user);
        return false;
    }
    name = tls_datum(user, strlen(user));
    secret = tls_datum(key->data, key->len);
    r = gnutls_psk_allocate_client_credentials(&creds->psk_client);
    if (r == 0) {
        r = gnutls_psk_set_client_credentials2(creds->psk_client, &name, &secret,
                                               GNUTLS_PSK_KEY_RAW);
    }
    if (r < 0) {
        tls_set_error(error, r, "keys '%s': the key of user '%s'", path, user);
        return false;
    }
    return true;
}

static TlsCreds *psk_load(const ObjectOptions *options, GError **error)
{
    const TlsCredsPskProperties *p = &options->u.tls_creds_psk;
    g_autoptr(TlsCreds) creds =
        tls_creds_new(p->endpoint, p->priority, GNUTLS_CRD_PSK, PSK_KINDS, error);
    g_autofree char *path = NULL;
    g_autoptr(GHashTable) keys = creds ? keys_load(p->dir, &path, error) : NULL;

    if (!keys) {
        return NULL;
    }
    if (p->endpoint == TLS_CREDS_ENDPOINT_SERVER
            ? !psk_make_server(creds, keys, p->dir, error)
            : !psk_make_client(creds, keys, path, p->username ? p->username : DEFAULT_USER,
                               error)) {
        return NULL;
    }
    return g_steal_pointer(&creds);
}

static int psk_load_work(void *opaque)
{
    TlsKeysLoad *load = opaque;

    load->creds = psk_load(load->options, &load->error);
    return 0;
}

static gpointer co_fn tls_creds_psk_co_create(gpointer self, const ObjectOptions *options,
                                              GError **error)
{
    const TlsCredsPskProperties *p = &options->u.tls_creds_psk;
    TlsKeysLoad load = {.options = options};

    if (p->username && p->endpoint == TLS_CREDS_ENDPOINT_SERVER) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'username' says which key a client uses; a server ('%s') takes all of the "
                    "file",
                    options->id);
        return NULL;
    }
    aio_co_run_worker_apart(psk_load_work, &load);
    if (!load.creds) {
        g_propagate_error(error, load.error);
    }
    return load.creds;
}

const ObjectClass object_class_tls_creds_psk = {
    .type = OBJECT_TYPE_TLS_CREDS_PSK,
    .parent = "tls-creds",
    .co_create = tls_creds_psk_co_create,
    .destroy = tls_creds_destroy,
};

/* ---- tls-creds-anon ---- */

static bool anon_make_server(TlsCreds *creds, const char *dir, GError **error)
{
    int r = gnutls_anon_allocate_server_credentials(&creds->anon_server);

    if (r < 0) {
        tls_set_error(error, r, "cannot make credentials");
        return false;
    }
    if (dir && !tls_creds_load_dh_params(creds, dir, error)) {
        return false;
    }
    if (creds->dh_params) {
        gnutls_anon_set_server_dh_params(creds->anon_server, creds->dh_params);
        return true;
    }
    r = gnutls_anon_set_server_known_dh_params(creds->anon_server, GNUTLS_SEC_PARAM_MEDIUM);
    if (r < 0) {
        tls_set_error(error, r, "cannot choose Diffie-Hellman parameters");
    }
    return r == 0;
}

static bool anon_make_client(TlsCreds *creds, GError **error)
{
    int r = gnutls_anon_allocate_client_credentials(&creds->anon_client);

    if (r < 0) {
        tls_set_error(error, r, "cannot make credentials");
    }
    return r == 0;
}

static int anon_load_work(void *opaque)
{
    TlsKeysLoad *load = opaque;
    const TlsCredsAnonProperties *p = &load->options->u.tls_creds_anon;
    g_autoptr(TlsCreds) creds =
        tls_creds_new(p->endpoint, p->priority, GNUTLS_CRD_ANON, ANON_KINDS, &load->error);

    if (creds &&
        (p->endpoint == TLS_CREDS_ENDPOINT_SERVER ? anon_make_server(creds, p->dir, &load->error)
                                                  : anon_make_client(creds, &load->error))) {
        load->creds = g_steal_pointer(&creds);
    }
    return 0;
}

static gpointer co_fn tls_creds_anon_co_create(gpointer self, const ObjectOptions *options,
                                               GError **error)
{
    TlsKeysLoad load = {.options = options};

    aio_co_run_worker_apart(anon_load_work, &load);
    if (!load.creds) {
        g_propagate_error(error, load.error);
    }
    return load.creds;
}

const ObjectClass object_class_tls_creds_anon = {
    .type = OBJECT_TYPE_TLS_CREDS_ANON,
    .parent = "tls-creds",
    .co_create = tls_creds_anon_co_create,
    .destroy = tls_creds_destroy,
};
