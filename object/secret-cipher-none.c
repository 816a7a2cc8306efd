/* SPDX-License-Identifier: GPL-2.0-or-later */
/* In a build without GnuTLS. */
#include "object/secret-cipher.h"
#include "util/error.h"

bool secret_decrypt(char *data, size_t *len, const char key[SECRET_KEY_BYTES],
                    const char iv[SECRET_BLOCK_BYTES], GError **error)
{
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                "this build cannot decrypt, for it has no GnuTLS; give the secret in a 'file' that "
                "only you can read");
    return false;
}
