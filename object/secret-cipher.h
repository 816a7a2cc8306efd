/* SPDX-License-Identifier: GPL-2.0-or-later */
/* object/secret-cipher.h - how a secret is encrypted by another one. Any thread. */
#ifndef WHARF_OBJECT_SECRET_CIPHER_H
#define WHARF_OBJECT_SECRET_CIPHER_H

#include <glib.h>
#include <stdbool.h>

/* AES-256-CBC, and padding as of PKCS #7, which fills the last block, or is one. */
#define SECRET_KEY_BYTES   32
#define SECRET_BLOCK_BYTES 16

/*
 * Decrypt @data where it is, *@len bytes; then *@len is that of the text. False and @error if it
 * was not encrypted like that, or this build cannot decrypt (the code is UNSUPPORTED then).
 */
bool secret_decrypt(char *data, size_t *len, const char key[SECRET_KEY_BYTES],
                    const char iv[SECRET_BLOCK_BYTES], GError **error);

#endif
