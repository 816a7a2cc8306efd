/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/tls-certs.h"

#include <arpa/inet.h>
#include <glib/gstdio.h>
#include <string.h>

static void must(int r)
{
    if (r < 0) {
        g_error("GnuTLS: %s", gnutls_strerror(r));
    }
}

static gnutls_x509_privkey_t new_key(void)
{
    gnutls_x509_privkey_t key;

    must(gnutls_x509_privkey_init(&key));
    must(gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
                                      GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0));
    return key;
}

static void set_names(gnutls_x509_crt_t cert, const TestCert *spec)
{
    const char *at;
    struct in_addr addr;

    must(gnutls_x509_crt_set_dn(cert, spec->dn, &at));
    if (spec->host) {
        must(gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_DNSNAME, spec->host,
                                                  strlen(spec->host), GNUTLS_FSAN_APPEND));
    }
    if (spec->ip) {
        g_assert_cmpint(inet_pton(AF_INET, spec->ip, &addr), ==, 1);
        must(gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_IPADDRESS, &addr, sizeof(addr),
                                                  GNUTLS_FSAN_APPEND));
    }
}

/* A certificate that says so, signed by @signer, or by itself. */
static gnutls_x509_crt_t new_cert(gnutls_x509_privkey_t key, const TestCert *spec,
                                  const TestCa *signer)
{
    static guint8 serial = 1;
    gnutls_x509_crt_t cert;
    time_t now = time(NULL);

    must(gnutls_x509_crt_init(&cert));
    must(gnutls_x509_crt_set_version(cert, 3));
    must(gnutls_x509_crt_set_key(cert, key));
    must(gnutls_x509_crt_set_serial(cert, &serial, 1));
    serial++;
    must(gnutls_x509_crt_set_activation_time(cert, now + spec->from));
    must(gnutls_x509_crt_set_expiration_time(cert, now + spec->until));
    must(gnutls_x509_crt_set_basic_constraints(cert, spec->is_ca, -1));
    set_names(cert, spec);
    if (spec->usage) {
        must(gnutls_x509_crt_set_key_usage(cert, spec->usage));
    }
    if (spec->purpose) {
        must(gnutls_x509_crt_set_key_purpose_oid(cert, spec->purpose, 0));
    }
    must(gnutls_x509_crt_sign2(cert, signer ? signer->cert : cert, signer ? signer->key : key,
                               GNUTLS_DIG_SHA256, 0));
    return cert;
}

static void save_datum(const char *dir, const char *name, gnutls_datum_t *datum)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autoptr(GError) error = NULL;

    g_file_set_contents(path, (const char *)datum->data, datum->size, &error);
    g_assert_no_error(error);
    gnutls_free(datum->data);
}

static void save_cert(gnutls_x509_crt_t cert, const char *dir, const char *name)
{
    gnutls_datum_t datum;

    must(gnutls_x509_crt_export2(cert, GNUTLS_X509_FMT_PEM, &datum));
    save_datum(dir, name, &datum);
}

void test_ca_init(TestCa *ca, const TestCert *spec)
{
    ca->key = new_key();
    ca->cert = new_cert(ca->key, spec, NULL);
}

void test_ca_clear(TestCa *ca)
{
    gnutls_x509_crt_deinit(ca->cert);
    gnutls_x509_privkey_deinit(ca->key);
}

void test_ca_save(const TestCa *ca, const char *dir, const char *name)
{
    save_cert(ca->cert, dir, name);
}

void test_cert_save(const TestCa *ca, const TestCert *spec, const char *dir, const char *name,
                    const char *password)
{
    g_autofree char *cert_name = g_strconcat(name, "-cert.pem", NULL);
    g_autofree char *key_name = g_strconcat(name, "-key.pem", NULL);
    gnutls_x509_privkey_t key = new_key();
    gnutls_x509_crt_t cert = new_cert(key, spec, ca);
    gnutls_datum_t datum;

    save_cert(cert, dir, cert_name);
    must(gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_PEM, password,
                                           password ? GNUTLS_PKCS_PBES2_AES_256 : GNUTLS_PKCS_PLAIN,
                                           &datum));
    save_datum(dir, key_name, &datum);
    gnutls_x509_crt_deinit(cert);
    gnutls_x509_privkey_deinit(key);
}

void test_save(const char *dir, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    g_autoptr(GError) error = NULL;

    g_file_set_contents(path, text, -1, &error);
    g_assert_no_error(error);
}

char *test_dir_new(void)
{
    g_autoptr(GError) error = NULL;
    char *dir = g_dir_make_tmp("test-tls-XXXXXX", &error);

    g_assert_no_error(error);
    return dir;
}

void test_dir_remove(char *dir)
{
    g_autoptr(GDir) entries = g_dir_open(dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(entries))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);

        g_remove(path);
    }
    g_rmdir(dir);
    g_free(dir);
}
