/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "object/secret-cipher.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include "util/error.h"

/* How many bytes at the end of @data are padding; 0: it does not end in padding. */
static size_t padding_bytes(const char *data, size_t len)
{
    size_t n = (guint8)data[len - 1];

    if (n > SECRET_BLOCK_BYTES) {
        return 0;
    }
    for (size_t i = 1; i <= n; i++) {
        if ((guint8)data[len - i] != n) {
            return 0;
        }
    }
    return n;
}

static int decrypt_blocks(char *data, size_t len, const char *key, const char *iv)
{
    gnutls_datum_t key_datum = {(unsigned char *)key, SECRET_KEY_BYTES};
    gnutls_datum_t iv_datum = {(unsigned char *)iv, SECRET_BLOCK_BYTES};
    gnutls_cipher_hd_t cipher;
    int r = gnutls_cipher_init(&cipher, GNUTLS_CIPHER_AES_256_CBC, &key_datum, &iv_datum);

    if (r == 0) {
        r = gnutls_cipher_decrypt(cipher, data, len);
        gnutls_cipher_deinit(cipher);
    }
    return r;
}

bool secret_decrypt(char *data, size_t *len, const char key[SECRET_KEY_BYTES],
                    const char iv[SECRET_BLOCK_BYTES], GError **error)
{
    size_t padding;
    int r;

    if (*len == 0 || *len % SECRET_BLOCK_BYTES) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "%zu bytes are not what AES-256-CBC makes, which is blocks of %d", *len,
                    SECRET_BLOCK_BYTES);
        return false;
    }
    r = decrypt_blocks(data, *len, key, iv);
    if (r < 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED, "AES-256-CBC: %s",
                    gnutls_strerror(r));
        return false;
    }
    padding = padding_bytes(data, *len);
    if (padding == 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "it was encrypted with another key or 'iv', or otherwise than by AES-256-CBC");
        return false;
    }
    *len -= padding;
    return true;
}
