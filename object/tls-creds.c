/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "object/tls-creds.h"

#include <string.h>
#include <unistd.h>

#include "object/file.h"
#include "object/registry.h"
#include "object/tls-internal.h"
#include "util/error.h"

void tls_set_error(GError **error, int r, const char *format, ...)
{
    g_autofree char *reason = g_strdup(gnutls_strerror(r));
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    if (g_str_has_suffix(reason, ".")) {
        reason[strlen(reason) - 1] = '\0';
    }
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC, "%s: %s", text, reason);
}

TlsCreds *tls_creds_new(TlsCredsEndpoint endpoint, const char *priority,
                        gnutls_credentials_type_t kind, const char *kinds, GError **error)
{
    g_autofree char *whole =
        g_strconcat(priority ? priority : "NORMAL", kinds ? ":" : NULL, kinds, NULL);
    g_autoptr(TlsCreds) creds = g_new0(TlsCreds, 1);
    const char *at = whole;
    int r;

    g_atomic_int_set(&creds->refs, 1);
    creds->kind = kind;
    creds->endpoint = endpoint;
    r = gnutls_priority_init(&creds->priority, whole, &at);
    if (r < 0) {
        creds->priority = NULL;
        tls_set_error(error, r, "'priority' is wrong from '%s' on", at);
        return NULL;
    }
    return g_steal_pointer(&creds);
}

bool tls_creds_load_dh_params(TlsCreds *creds, const char *dir, GError **error)
{
    g_autofree char *path = g_build_filename(dir, "dh-params.pem", NULL);
    g_auto(ObjectFile) file = {0};
    gnutls_datum_t datum;
    int r;

    if (access(path, F_OK) < 0) {
        return true; /* the groups of RFC 7919 */
    }
    if (!object_file_read(&file, "Diffie-Hellman parameters", path, error)) {
        return false;
    }
    datum = tls_datum(file.data, file.len);
    r = gnutls_dh_params_init(&creds->dh_params);
    if (r == 0) {
        r = gnutls_dh_params_import_pkcs3(creds->dh_params, &datum, GNUTLS_X509_FMT_PEM);
    }
    if (r < 0) {
        tls_set_error(error, r, "Diffie-Hellman parameters '%s'", path);
        return false;
    }
    return true;
}

TlsCreds *tls_creds_ref(TlsCreds *creds)
{
    g_atomic_int_inc(&creds->refs);
    return creds;
}

static void tls_creds_free(TlsCreds *creds)
{
    g_clear_pointer(&creds->x509, gnutls_certificate_free_credentials);
    g_clear_pointer(&creds->psk_client, gnutls_psk_free_client_credentials);
    g_clear_pointer(&creds->psk_server, gnutls_psk_free_server_credentials);
    g_clear_pointer(&creds->anon_client, gnutls_anon_free_client_credentials);
    g_clear_pointer(&creds->anon_server, gnutls_anon_free_server_credentials);
    /* After those who use them. */
    g_clear_pointer(&creds->dh_params, gnutls_dh_params_deinit);
    g_clear_pointer(&creds->priority, gnutls_priority_deinit);
    g_clear_pointer(&creds->keys, g_hash_table_unref);
    g_free(creds);
}

void tls_creds_unref(TlsCreds *creds)
{
    if (creds && g_atomic_int_dec_and_test(&creds->refs)) {
        tls_creds_free(creds);
    }
}

void tls_creds_destroy(gpointer instance)
{
    tls_creds_unref(instance);
}

TlsCreds *object_registry_get_tls_creds(ObjectRegistry *registry, const char *id,
                                        TlsCredsEndpoint endpoint, GError **error)
{
    const Object *object = object_registry_find(registry, id);
    TlsCreds *creds;

    if (!object || !g_str_equal(object->class->parent, "tls-creds")) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "there are no TLS credentials '%s'; make them first (--object "
                    "tls-creds-x509,id=%s,endpoint=%s,dir=...)",
                    id, id, tls_creds_endpoint_to_string(endpoint));
        return NULL;
    }
    creds = object->instance;
    if (creds->endpoint != endpoint) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "TLS credentials '%s' are for a %s, and a %s needs them here", id,
                    tls_creds_endpoint_to_string(creds->endpoint),
                    tls_creds_endpoint_to_string(endpoint));
        return NULL;
    }
    return tls_creds_ref(creds);
}
