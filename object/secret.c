/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "object/secret.h"

#include <string.h>

#include "aio/aio.h"
#include "object/class.h"
#include "object/file.h"
#include "object/registry.h"
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

    if (p->keyid || p->iv) {
        g_set_error(
            error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
            "secret '%s': encrypted secrets ('keyid', 'iv') are not supported; give it in a "
            "'file' that only you can read",
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

/* The @len bytes of @text, as its format says. */
static Secret *secret_decode(const ObjectOptions *options, const char *text, size_t len,
                             GError **error)
{
    Secret *secret;

    if (options->u.secret.format == SECRET_FORMAT_BASE64 &&
        strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n") !=
            len) {
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

static gpointer co_fn secret_co_create(gpointer self, const ObjectOptions *options, GError **error)
{
    const SecretProperties *p = &options->u.secret;
    SecretLoad load = {.path = p->file};
    Secret *secret;

    if (!secret_check_options(options, error)) {
        return NULL;
    }
    if (p->data) {
        return secret_decode(options, p->data, strlen(p->data), error);
    }
    aio_co_run_worker_apart(secret_load_file, &load);
    if (load.error) {
        g_propagate_error(error, load.error);
        return NULL;
    }
    secret = secret_decode(options, load.file.data, load.file.len, error);
    object_file_clear(&load.file);
    return secret;
}

static void secret_destroy(gpointer instance)
{
    Secret *secret = instance;

    secret_wipe(secret->data, secret->len);
    g_free(secret);
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
    const Object *object = object_registry_find(registry, id);
    const Secret *secret;

    if (!object || object->class != &object_class_secret) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "'%s': there is no secret '%s'; make it first (--object secret,id=%s,file=...)",
                    option, id, id);
        return NULL;
    }
    secret = object->instance;
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
