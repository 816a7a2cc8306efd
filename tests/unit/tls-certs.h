/* SPDX-License-Identifier: GPL-2.0-or-later */
/* tests/unit/tls-certs.h - certificates and keys in PEM files, as tests want them. */
#ifndef WHARF_TESTS_TLS_CERTS_H
#define WHARF_TESTS_TLS_CERTS_H

#include <glib.h>
#include <gnutls/x509.h>
#include <stdbool.h>

/* Who signs. */
typedef struct TestCa {
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t cert;
} TestCa;

/* What a certificate says; times in seconds from now. */
typedef struct TestCert {
    const char *dn;      /* RFC 4514, so the last part comes first: "CN=localhost,O=Example" */
    const char *host;    /* a DNS name, or NULL */
    const char *ip;      /* an IPv4 address, or NULL */
    const char *purpose; /* GNUTLS_KP_..., or NULL: says nothing */
    bool is_ca;
    unsigned usage; /* GNUTLS_KEY_...; 0: says nothing */
    int from, until;
} TestCert;

#define TEST_CERT_TIMES .from = -3600, .until = 86400

/* A key of its own and a certificate signed by itself. */
void test_ca_init(TestCa *ca, const TestCert *spec);
void test_ca_clear(TestCa *ca);
/* Its certificate into @dir/@name. */
void test_ca_save(const TestCa *ca, const char *dir, const char *name);

/*
 * A key and its certificate, signed by @ca, into @dir/@name-key.pem and -cert.pem; the key is
 * encrypted if there is a @password.
 */
void test_cert_save(const TestCa *ca, const TestCert *spec, const char *dir, const char *name,
                    const char *password);

/* Text into @dir/@name. */
void test_save(const char *dir, const char *name, const char *text);

/* A directory, empty; test_dir_remove() removes it with the files in it, and frees its name. */
char *test_dir_new(void);
void test_dir_remove(char *dir);

#endif
