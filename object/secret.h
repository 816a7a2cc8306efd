/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * object/secret.h - the object type "secret": a password or key that other objects refer to.
 *
 * Threads   Main thread.
 */
#ifndef WHARF_OBJECT_SECRET_H
#define WHARF_OBJECT_SECRET_H

#include "object/object.h"

/*
 * What the secret @id says, for the option @option of another object; NULL with @error if there is
 * none. Passwords are text, so one with a zero byte in it is refused. The caller wipes and frees
 * it with secret_text_free().
 */
char *object_registry_get_secret_text(ObjectRegistry *registry, const char *id, const char *option,
                                      GError **error);

/* Accepts NULL. */
void secret_text_free(char *text);

#endif
