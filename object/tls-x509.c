/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The object type "tls-creds-x509": certificates, and whether a handshake can succeed with them. */
#include <gnutls/x509.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "aio/aio.h"
#include "object/file.h"
#include "object/secret.h"
#include "object/tls-internal.h"
#include "util/error.h"

/* One of the files. */
typedef struct PemFile {
    char *path;
    ObjectFile file; /* data NULL: there is no such file */
} PemFile;

/* All of them, and who reads them. */
typedef struct X509Load {
    const ObjectOptions *options;
    const char *password; /* of the private key, or NULL */
    PemFile ca, crl, cert, key;
    TlsCreds *creds; /* NULL: failed */
    GError *error;
} X509Load;

/* Some certificates, in the order of their file. */
typedef struct CertList {
    gnutls_x509_crt_t *certs;
    unsigned n;
} CertList;

static const TlsCredsX509Properties *load_properties(const X509Load *load)
{
    return &load->options->u.tls_creds_x509;
}

static bool load_is_server(const X509Load *load)
{
    return load_properties(load)->endpoint == TLS_CREDS_ENDPOINT_SERVER;
}

/* ---- files ---- */

static void pem_file_clear(PemFile *pem)
{
    object_file_clear(&pem->file);
    g_clear_pointer(&pem->path, g_free);
}

static gnutls_datum_t pem_datum(const PemFile *pem)
{
    return tls_datum(pem->file.data, pem->file.len);
}

/* Read @dir/@name. If it is @optional it may be missing. */
static bool pem_file_read(PemFile *pem, const char *what, const char *dir, const char *name,
                          bool optional, GError **error)
{
    pem->path = g_build_filename(dir, name, NULL);
    /* Any other failure is told: nobody is let in for want of a list that is there. */
    if (optional && access(pem->path, F_OK) < 0 && errno == ENOENT) {
        return true;
    }
    return object_file_read(&pem->file, what, pem->path, error);
}

static bool load_read_files(X509Load *load, GError **error)
{
    const char *dir = load_properties(load)->dir;
    bool server = load_is_server(load);

    if (!pem_file_read(&load->ca, "certificate of the authority", dir, "ca-cert.pem", false,
                       error) ||
        !pem_file_read(&load->crl, "revocation list", dir, "ca-crl.pem", true, error) ||
        !pem_file_read(&load->cert, "certificate", dir,
                       server ? "server-cert.pem" : "client-cert.pem", !server, error)) {
        return false;
    }
    /* A client may have neither, but not one of the two. */
    if (!pem_file_read(&load->key, "private key", dir, server ? "server-key.pem" : "client-key.pem",
                       !server && !load->cert.file.data, error)) {
        return false;
    }
    if (load->key.file.data && !load->cert.file.data) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "there is a private key '%s', but no certificate '%s'", load->key.path,
                    load->cert.path);
        return false;
    }
    return true;
}

/* ---- checks ---- */

static void cert_list_clear(CertList *list)
{
    for (unsigned i = 0; i < list->n; i++) {
        gnutls_x509_crt_deinit(list->certs[i]);
    }
    g_clear_pointer(&list->certs, gnutls_free);
    list->n = 0;
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CertList, cert_list_clear)

static bool cert_list_import(CertList *list, const PemFile *pem, GError **error)
{
    gnutls_datum_t datum = pem_datum(pem);
    int r = gnutls_x509_crt_list_import2(&list->certs, &list->n, &datum, GNUTLS_X509_FMT_PEM, 0);

    if (r < 0) {
        *list = (CertList){0};
        tls_set_error(error, r, "certificate '%s'", pem->path);
    }
    return r >= 0;
}

static void set_time_error(GError **error, const char *path, const char *what, time_t when)
{
    g_autoptr(GDateTime) time = g_date_time_new_from_unix_utc(when);
    g_autofree char *text = time ? g_date_time_format(time, "%Y-%m-%d %H:%M:%S UTC") : NULL;

    g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                "certificate '%s' %s %s; get another, or look at the clock of this machine", path,
                what, text ? text : "at a time that cannot be");
}

static bool check_time(gnutls_x509_crt_t cert, const char *path, GError **error)
{
    time_t now = time(NULL);
    time_t from = gnutls_x509_crt_get_activation_time(cert);
    time_t until = gnutls_x509_crt_get_expiration_time(cert);

    if (until != (time_t)-1 && until < now) {
        set_time_error(error, path, "has expired on", until);
        return false;
    }
    if (from != (time_t)-1 && from > now) {
        set_time_error(error, path, "is not valid before", from);
        return false;
    }
    return true;
}

static bool refuse(GError **error, const char *path, const char *why)
{
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC, "certificate '%s' %s", path, why);
    return false;
}

/* Whether @cert lists purposes (there are some that do not) and @purpose is not among them. */
static bool lacks_purpose(gnutls_x509_crt_t cert, const char *purpose)
{
    for (unsigned i = 0;; i++) {
        char oid[128];
        size_t size = sizeof(oid);
        int r = gnutls_x509_crt_get_key_purpose_oid(cert, i, oid, &size, NULL);

        if (r == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
            return i > 0;
        }
        if (r == GNUTLS_E_SHORT_MEMORY_BUFFER) {
            continue; /* no purpose that we know is that long */
        }
        if (r < 0 || g_str_equal(oid, purpose) || g_str_equal(oid, GNUTLS_KP_ANY)) {
            return r < 0;
        }
    }
}

/* Of an authority: may it sign others? */
static bool check_authority(gnutls_x509_crt_t cert, const char *path, GError **error)
{
    unsigned usage;

    if (gnutls_x509_crt_get_basic_constraints(cert, NULL, NULL, NULL) == 0) {
        return refuse(error, path, "is not that of an authority (CA)");
    }
    if (gnutls_x509_crt_get_key_usage(cert, &usage, NULL) == 0 &&
        !(usage & GNUTLS_KEY_KEY_CERT_SIGN)) {
        return refuse(error, path, "is not for signing certificates");
    }
    return check_time(cert, path, error);
}

/* Our own: may it be used for this side of a connection? */
static bool check_own(gnutls_x509_crt_t cert, const char *path, bool server, GError **error)
{
    unsigned usage;

    if (gnutls_x509_crt_get_basic_constraints(cert, NULL, NULL, NULL) > 0) {
        return refuse(error, path, "is that of an authority (CA), which nobody accepts here");
    }
    if (gnutls_x509_crt_get_key_usage(cert, &usage, NULL) == 0 &&
        !(usage & (GNUTLS_KEY_DIGITAL_SIGNATURE | GNUTLS_KEY_KEY_ENCIPHERMENT))) {
        return refuse(error, path, "is not for signing or encrypting (key usage)");
    }
    if (lacks_purpose(cert, server ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT)) {
        return refuse(error, path,
                      server ? "is for other purposes than a TLS server"
                             : "is for other purposes than a TLS client");
    }
    return check_time(cert, path, error);
}

/* At least one authority must be of use; a bundle may also have old ones. */
static bool check_authorities(const CertList *ca, const char *path, GError **error)
{
    g_autoptr(GError) first = NULL;

    for (unsigned i = 0; i < ca->n; i++) {
        if (check_authority(ca->certs[i], path, first ? NULL : &first)) {
            return true;
        }
    }
    if (first) {
        g_propagate_error(error, g_steal_pointer(&first));
        return false;
    }
    return refuse(error, path, "is empty");
}

/* Whether a peer that trusts @ca can trust us. */
static bool check_chain(const X509Load *load, const CertList *own, const CertList *ca,
                        GError **error)
{
    gnutls_datum_t text = {0};
    unsigned status = 0;
    int r = gnutls_x509_crt_list_verify(own->certs, own->n, ca->certs, ca->n, NULL, 0, 0, &status);

    if (r < 0) {
        tls_set_error(error, r, "certificate '%s'", load->cert.path);
        return false;
    }
    if (status == 0) {
        return true;
    }
    gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0);
    g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                "certificate '%s' cannot be verified by '%s': %s", load->cert.path, load->ca.path,
                text.data ? g_strchomp((char *)text.data) : "no reason known");
    gnutls_free(text.data);
    return false;
}

static bool load_check(const X509Load *load, GError **error)
{
    g_auto(CertList) ca = {0}, own = {0};

    if (!cert_list_import(&ca, &load->ca, error) || !check_authorities(&ca, load->ca.path, error)) {
        return false;
    }
    if (!load->cert.file.data) {
        return true;
    }
    if (!cert_list_import(&own, &load->cert, error)) {
        return false;
    }
    if (own.n == 0) {
        return refuse(error, load->cert.path, "is empty");
    }
    return check_own(own.certs[0], load->cert.path, load_is_server(load), error) &&
           check_chain(load, &own, &ca, error);
}

/* ---- credentials ---- */

static bool load_trust(const X509Load *load, TlsCreds *creds, GError **error)
{
    gnutls_datum_t ca = pem_datum(&load->ca), crl = pem_datum(&load->crl);
    int r = gnutls_certificate_set_x509_trust_mem(creds->x509, &ca, GNUTLS_X509_FMT_PEM);

    if (r <= 0) {
        tls_set_error(error, r < 0 ? r : GNUTLS_E_NO_CERTIFICATE_FOUND, "certificate '%s'",
                      load->ca.path);
        return false;
    }
    if (!load->crl.file.data) {
        return true;
    }
    r = gnutls_certificate_set_x509_crl_mem(creds->x509, &crl, GNUTLS_X509_FMT_PEM);
    if (r < 0) {
        tls_set_error(error, r, "revocation list '%s'", load->crl.path);
    }
    return r >= 0;
}

static bool load_key(const X509Load *load, TlsCreds *creds, GError **error)
{
    gnutls_datum_t cert = pem_datum(&load->cert), key = pem_datum(&load->key);
    int r;

    if (!load->cert.file.data) {
        return true;
    }
    r = gnutls_certificate_set_x509_key_mem2(creds->x509, &cert, &key, GNUTLS_X509_FMT_PEM,
                                             load->password, 0);
    if (r == GNUTLS_E_DECRYPTION_FAILED) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "private key '%s' is encrypted, and %s", load->key.path,
                    load->password ? "the secret of 'passwordid' is not its password"
                                   : "no 'passwordid' is given");
        return false;
    }
    if (r < 0) {
        tls_set_error(error, r, "certificate '%s' and private key '%s'", load->cert.path,
                      load->key.path);
    }
    return r >= 0;
}

static bool load_fill(const X509Load *load, TlsCreds *creds, GError **error)
{
    int r = gnutls_certificate_allocate_credentials(&creds->x509);

    if (r < 0) {
        tls_set_error(error, r, "cannot make credentials");
        return false;
    }
    creds->verify_peer = load_properties(load)->verify_peer;
    if (!load_trust(load, creds, error) || !load_key(load, creds, error)) {
        return false;
    }
    if (!load_is_server(load)) {
        return true;
    }
    if (!tls_creds_load_dh_params(creds, load_properties(load)->dir, error)) {
        return false;
    }
    if (creds->dh_params) {
        gnutls_certificate_set_dh_params(creds->x509, creds->dh_params);
    }
    return true;
}

static int x509_load_work(void *opaque)
{
    X509Load *load = opaque;
    const TlsCredsX509Properties *p = load_properties(load);
    GError **error = &load->error;
    g_autoptr(TlsCreds) creds =
        tls_creds_new(p->endpoint, p->priority, GNUTLS_CRD_CERTIFICATE, NULL, error);

    if (!creds || !load_read_files(load, error) || (p->sanity_check && !load_check(load, error)) ||
        !load_fill(load, creds, error)) {
        return 0;
    }
    load->creds = g_steal_pointer(&creds);
    return 0;
}

static gpointer co_fn tls_creds_x509_co_create(gpointer self, const ObjectOptions *options,
                                               GError **error)
{
    const TlsCredsX509Properties *p = &options->u.tls_creds_x509;
    X509Load load = {.options = options};
    char *password = NULL;

    if (p->passwordid) {
        password = object_registry_get_secret_text(self, p->passwordid, "passwordid", error);
        if (!password) {
            return NULL;
        }
        load.password = password;
    }
    aio_co_run_worker_apart(x509_load_work, &load);
    secret_text_free(password);
    pem_file_clear(&load.ca);
    pem_file_clear(&load.crl);
    pem_file_clear(&load.cert);
    pem_file_clear(&load.key);
    if (!load.creds) {
        g_propagate_error(error, load.error);
    }
    return load.creds;
}

const ObjectClass object_class_tls_creds_x509 = {
    .type = OBJECT_TYPE_TLS_CREDS_X509,
    .parent = "tls-creds",
    .co_create = tls_creds_x509_co_create,
    .destroy = tls_creds_destroy,
};
