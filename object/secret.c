/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "object/secret.h"

#include <string.h>

#include "aio/aio.h"
#include "object/class.h"
#include "object/file.h"
#include "object/registry.h"
#include "object/secret-cipher.h"
#include "util/error.h"

/* What stands behind such an object. */
typedef struct Secret {
    char *data; /* with a zero after the last byte */
    size_t len;
} Secret;

/* What the worker reads. */
typedef struct SecretLoad {
    const char *path;
    ObjectFile file;
    GError *error;
} SecretLoad;

static void secret_wipe(char *data, size_t len)
{
    if (data) {
        explicit_bzero(data, len);
        g_free(data);
    }
}

static int secret_load_file(void *opaque)
{
    SecretLoad *load = opaque;

    object_file_read(&load->file, "secret", load->path, &load->error);
    return 0;
}

static bool secret_check_options(const ObjectOptions *options, GError **error)
{
    const SecretProperties *p = &options->u.secret;

    if (!p->keyid != !p->iv) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "secret '%s': 'keyid' and 'iv' go together, for a secret that is encrypted",
                    options->id);
        return false;
    }
    if (!p->data == !p->file) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "secret '%s' needs one of 'data' and 'file', and not both", options->id);
        return false;
    }
    return true;
}

static void secret_free(Secret *secret)
{
    if (secret) {
        secret_wipe(secret->data, secret->len);
        g_free(secret);
    }
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Secret, secret_free)

static bool is_base64(const char *text, size_t len)
{
    return strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n") ==
           len;
}

/* The @len bytes of @text, as its format says. */
static Secret *secret_decode(const ObjectOptions *options, const char *text, size_t len,
                             GError **error)
{
    Secret *secret;

    if (options->u.secret.format == SECRET_FORMAT_BASE64 && !is_base64(text, len)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "secret '%s' is not in base64; with 'format' raw it is taken as it is",
                    options->id);
        return NULL;
    }
    secret = g_new0(Secret, 1);
    secret->data = g_malloc0(len + 1);
    memcpy(secret->data, text, len);
    secret->len = len;
    if (options->u.secret.format == SECRET_FORMAT_BASE64) {
        secret->len = 0;
        if (len > 0) {
            g_base64_decode_inplace(secret->data, &secret->len);
        }
        explicit_bzero(secret->data + secret->len, len + 1 - secret->len);
    }
    return secret;
}

/* ---- encrypted ones ---- */

static const Secret *secret_find(ObjectRegistry *registry, const char *id, const char *option,
                                 GError **error)
{
    const Object *object = object_registry_find(registry, id);

    if (!object || object->class != &object_class_secret) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "'%s': there is no secret '%s'; make it first (--object secret,id=%s,file=...)",
                    option, id, id);
        return NULL;
    }
    return object->instance;
}

static bool secret_parse_iv(const ObjectOptions *options, char iv[SECRET_BLOCK_BYTES],
                            GError **error)
{
    const char *text = options->u.secret.iv;
    g_autofree guchar *bytes = NULL;
    size_t len = 0;

    if (is_base64(text, strlen(text))) {
        bytes = g_base64_decode(text, &len);
    }
    if (len != SECRET_BLOCK_BYTES) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "secret '%s': 'iv' must be %d bytes in base64", options->id,
                    SECRET_BLOCK_BYTES);
        return false;
    }
    memcpy(iv, bytes, len);
    return true;
}

/* What @secret stands for, which is encrypted if there is a key. */
static bool secret_open(Secret *secret, ObjectRegistry *registry, const ObjectOptions *options,
                        GError **error)
{
    const char *keyid = options->u.secret.keyid;
    const Secret *key;
    char iv[SECRET_BLOCK_BYTES];
    size_t len = secret->len;

    if (!keyid) {
        return true;
    }
    key = secret_find(registry, keyid, "keyid", error);
    if (!key || !secret_parse_iv(options, iv, error)) {
        return false;
    }
    if (key->len != SECRET_KEY_BYTES) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'keyid': secret '%s' has %zu bytes, and a key has %d", keyid, key->len,
                    SECRET_KEY_BYTES);
        return false;
    }
    if (!secret_decrypt(secret->data, &len, key->data, iv, error)) {
        g_prefix_error(error, "secret '%s' cannot be decrypted with '%s': ", options->id, keyid);
        return false;
    }
    explicit_bzero(secret->data + len, secret->len - len);
    secret->len = len;
    return true;
}

/* ---- life ---- */

static Secret *secret_make(ObjectRegistry *registry, const ObjectOptions *options, const char *text,
                           size_t len, GError **error)
{
    g_autoptr(Secret) secret = secret_decode(options, text, len, error);

    return secret && secret_open(secret, registry, options, error) ? g_steal_pointer(&secret)
                                                                   : NULL;
}

static gpointer co_fn secret_co_create(gpointer self, const ObjectOptions *options, GError **error)
{
    const SecretProperties *p = &options->u.secret;
    SecretLoad load = {.path = p->file};
    Secret *secret;

    if (!secret_check_options(options, error)) {
        return NULL;
    }
    if (p->data) {
        return secret_make(self, options, p->data, strlen(p->data), error);
    }
    aio_co_run_worker_apart(secret_load_file, &load);
    if (load.error) {
        g_propagate_error(error, load.error);
        return NULL;
    }
    secret = secret_make(self, options, load.file.data, load.file.len, error);
    object_file_clear(&load.file);
    return secret;
}

static void secret_destroy(gpointer instance)
{
    secret_free(instance);
}

static void secret_conceal(ObjectOptions *options)
{
    char **data = &options->u.secret.data;

    secret_wipe(*data, *data ? strlen(*data) : 0);
    *data = NULL;
}

const ObjectClass object_class_secret = {
    .type = OBJECT_TYPE_SECRET,
    .parent = "object",
    .co_create = secret_co_create,
    .destroy = secret_destroy,
    .conceal = secret_conceal,
};

char *object_registry_get_secret_text(ObjectRegistry *registry, const char *id, const char *option,
                                      GError **error)
{
    const Secret *secret = secret_find(registry, id, option, error);

    if (!secret) {
        return NULL;
    }
    if (memchr(secret->data, '\0', secret->len)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "'%s': secret '%s' is no password, for it has a zero byte in it", option, id);
        return NULL;
    }
    return g_strndup(secret->data, secret->len);
}

void secret_text_free(char *text)
{
    secret_wipe(text, text ? strlen(text) : 0);
}
