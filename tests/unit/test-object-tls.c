/* SPDX-License-Identifier: GPL-2.0-or-later */
/* TLS: which credentials are refused and by what words, sessions, and peers that do not behave. */
#include <errno.h>
#include <gnutls/gnutls.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "aio/aio.h"
#include "aio/lock.h"
#include "object/object.h"
#include "object/secret.h"
#include "object/tls-session.h"
#include "qapi/json-parser.h"
#include "tests/unit/tls-certs.h"
#include "util/error.h"

#define SIGNING (GNUTLS_KEY_DIGITAL_SIGNATURE | GNUTLS_KEY_KEY_ENCIPHERMENT)
#define SECOND  G_GINT64_CONSTANT(1000000000)

static TestCa authority, stranger;
static char *good; /* a directory where all is well */
static AioContext *ctx;
static ObjectRegistry *registry;

static const TestCert ca_spec = {
    .dn = "CN=Test CA", .is_ca = true, .usage = GNUTLS_KEY_KEY_CERT_SIGN, TEST_CERT_TIMES};
static const TestCert server_spec = {.dn = "CN=localhost,O=Example",
                                     .host = "localhost",
                                     .ip = "127.0.0.1",
                                     .purpose = GNUTLS_KP_TLS_WWW_SERVER,
                                     .usage = SIGNING,
                                     TEST_CERT_TIMES};
static const TestCert client_spec = {.dn = "CN=backup,O=Example,C=DE",
                                     .purpose = GNUTLS_KP_TLS_WWW_CLIENT,
                                     .usage = SIGNING,
                                     TEST_CERT_TIMES};

/* ---- coroutines ---- */

typedef struct Run {
    CoroutineEntry *entry;
    void *opaque;
    int *left;
} Run;

static void co_fn run_entry(void *opaque)
{
    Run *run = opaque;

    run->entry(run->opaque);
    (*run->left)--;
}

/* Run both to their ends, next to each other. @b may be NULL. */
static void run_two(CoroutineEntry *a, void *opaque_a, CoroutineEntry *b, void *opaque_b)
{
    int left = b ? 2 : 1;
    Run runs[2] = {{a, opaque_a, &left}, {b, opaque_b, &left}};

    aio_co_enter(ctx, run_entry, &runs[0]);
    if (b) {
        aio_co_enter(ctx, run_entry, &runs[1]);
    }
    while (left) {
        aio_context_poll(ctx, true);
    }
}

/* ---- objects ---- */

typedef struct Adding {
    ObjectOptions *options;
    GError *error;
} Adding;

static void co_fn co_add(void *opaque)
{
    Adding *adding = opaque;

    object_registry_co_add(registry, adding->options, &adding->error);
}

/* Make the object that @json describes; %s in it is @dir. The error, or NULL. */
static GError *add(const char *json, const char *dir)
{
    g_auto(GStrv) parts = g_strsplit(json, "%s", -1);
    g_autofree char *text = g_strjoinv(dir, parts);
    g_autoptr(GError) error = NULL;
    g_autoptr(QValue) value = NULL;
    Adding adding = {0};

    for (char *p = text; *p; p++) {
        *p = *p == '\'' ? '"' : *p;
    }
    value = qvalue_from_json(text, -1, &error);
    g_assert_no_error(error);
    adding.options = object_options_from_qvalue(value, &error);
    if (!adding.options) {
        return g_steal_pointer(&error);
    }
    run_two(co_add, &adding, NULL, NULL);
    object_options_free(adding.options);
    return adding.error;
}

static void add_ok(const char *json, const char *dir)
{
    g_autoptr(GError) error = add(json, dir);

    g_assert_no_error(error);
}

static void del(const char *id)
{
    g_autoptr(GError) error = NULL;

    object_registry_del(registry, id, NULL, &error);
    g_assert_no_error(error);
}

/* Refused, with each of the words (separated by '|') in the message. */
static void assert_refused(const char *json, const char *dir, const char *words)
{
    g_autoptr(GError) error = add(json, dir);
    g_auto(GStrv) each = g_strsplit(words, "|", -1);

    g_assert_nonnull(error);
    g_test_message("%s", error->message);
    for (unsigned i = 0; each[i]; i++) {
        if (!strstr(error->message, each[i])) {
            g_error("'%s' does not name '%s'", error->message, each[i]);
        }
    }
}

#define X509_SERVER "{'qom-type': 'tls-creds-x509', 'id': 's', 'endpoint': 'server', 'dir': '%s'}"
#define X509_CLIENT "{'qom-type': 'tls-creds-x509', 'id': 'c', 'endpoint': 'client', 'dir': '%s'}"
#define X509_SERVER_UNCHECKED                                                                      \
    "{'qom-type': 'tls-creds-x509', 'id': 's', 'endpoint': 'server', 'dir': '%s', "                \
    "'sanity-check': false}"
#define PSK_SERVER  "{'qom-type': 'tls-creds-psk', 'id': 's', 'endpoint': 'server', 'dir': '%s'}"
#define PSK_CLIENT  "{'qom-type': 'tls-creds-psk', 'id': 'c', 'endpoint': 'client', 'dir': '%s'}"
#define ANON_SERVER "{'qom-type': 'tls-creds-anon', 'id': 's', 'endpoint': 'server'}"
#define ANON_CLIENT "{'qom-type': 'tls-creds-anon', 'id': 'c', 'endpoint': 'client'}"

/* ---- credentials ---- */

static void test_x509_good(void)
{
    add_ok(X509_SERVER, good);
    add_ok(X509_CLIENT, good);
    del("s");
    del("c");
}

static void test_x509_missing(void)
{
    char *dir = test_dir_new();

    assert_refused(X509_SERVER, "/nonexistent", "/nonexistent/ca-cert.pem|No such file");
    assert_refused(X509_SERVER, dir, "ca-cert.pem|No such file");
    test_ca_save(&authority, dir, "ca-cert.pem");
    assert_refused(X509_SERVER, dir, "server-cert.pem|No such file");
    add_ok(X509_CLIENT, dir);
    del("c");
    test_cert_save(&authority, &server_spec, dir, "server", NULL);
    test_cert_save(&authority, &client_spec, dir, "client", NULL);
    {
        g_autofree char *key = g_build_filename(dir, "server-key.pem", NULL);
        g_autofree char *cert = g_build_filename(dir, "client-cert.pem", NULL);

        unlink(key);
        assert_refused(X509_SERVER, dir, "server-key.pem|No such file");
        g_assert_cmpint(mkfifo(key, 0600), ==, 0);
        assert_refused(X509_SERVER, dir, "server-key.pem|no regular file");
        unlink(cert);
        assert_refused(X509_CLIENT, dir, "client-key.pem|no certificate|client-cert.pem");
    }
    test_dir_remove(dir);
}

/* A server's certificate is as @spec says, signed by @ca. */
static void assert_server_refused(const TestCa *ca, const TestCert *spec, const char *words)
{
    char *dir = test_dir_new();

    test_ca_save(&authority, dir, "ca-cert.pem");
    test_cert_save(ca, spec, dir, "server", NULL);
    assert_refused(X509_SERVER, dir, words);
    add_ok(X509_SERVER_UNCHECKED, dir);
    del("s");
    test_dir_remove(dir);
}

static void test_x509_unfit(void)
{
    TestCert spec = server_spec;

    spec.until = -60;
    assert_server_refused(&authority, &spec, "server-cert.pem|expired");
    spec = server_spec;
    spec.from = 3600;
    assert_server_refused(&authority, &spec, "server-cert.pem|not valid before");
    spec = server_spec;
    spec.purpose = GNUTLS_KP_TLS_WWW_CLIENT;
    assert_server_refused(&authority, &spec, "server-cert.pem|purposes");
    spec = server_spec;
    spec.usage = GNUTLS_KEY_CRL_SIGN;
    assert_server_refused(&authority, &spec, "server-cert.pem|usage");
    spec = server_spec;
    spec.is_ca = true;
    assert_server_refused(&authority, &spec, "server-cert.pem|authority");
    assert_server_refused(&stranger, &server_spec, "server-cert.pem|ca-cert.pem|issuer");
}

static void assert_authority_refused(const TestCert *spec, const char *words)
{
    char *dir = test_dir_new();
    TestCa ca;

    test_ca_init(&ca, spec);
    test_ca_save(&ca, dir, "ca-cert.pem");
    assert_refused(X509_CLIENT, dir, words);
    test_ca_clear(&ca);
    test_dir_remove(dir);
}

static void test_x509_authority(void)
{
    TestCert spec = ca_spec;

    spec.is_ca = false;
    assert_authority_refused(&spec, "ca-cert.pem|authority");
    spec = ca_spec;
    spec.until = -60;
    assert_authority_refused(&spec, "ca-cert.pem|expired");
    spec = ca_spec;
    spec.usage = SIGNING;
    assert_authority_refused(&spec, "ca-cert.pem|signing");
}

static void test_x509_garbage(void)
{
    char *dir = test_dir_new();

    test_save(dir, "ca-cert.pem", "");
    assert_refused(X509_CLIENT, dir, "ca-cert.pem");
    test_save(dir, "ca-cert.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    assert_refused(X509_CLIENT, dir, "ca-cert.pem");
    test_ca_save(&authority, dir, "ca-cert.pem");
    test_cert_save(&authority, &client_spec, dir, "server", NULL);
    test_cert_save(&authority, &server_spec, dir, "server", NULL);
    test_save(dir, "ca-crl.pem", "hello");
    assert_refused(X509_SERVER, dir, "ca-crl.pem");
    test_dir_remove(dir);

    dir = test_dir_new();
    test_ca_save(&authority, dir, "ca-cert.pem");
    test_cert_save(&authority, &server_spec, dir, "server", NULL);
    test_save(dir, "dh-params.pem", "hello");
    assert_refused(X509_SERVER, dir, "dh-params.pem");
    test_save(dir, "server-key.pem", "hello");
    assert_refused(X509_SERVER, dir, "server-cert.pem|server-key.pem");
    test_cert_save(&authority, &server_spec, dir, "other", NULL);
    {
        g_autofree char *from = g_build_filename(dir, "other-key.pem", NULL);
        g_autofree char *to = g_build_filename(dir, "server-key.pem", NULL);

        g_assert_cmpint(rename(from, to), ==, 0);
    }
    assert_refused(X509_SERVER, dir, "server-cert.pem|server-key.pem|match");
    test_save(dir, "server-cert.pem", "hello");
    assert_refused(X509_SERVER, dir, "server-cert.pem");
    test_dir_remove(dir);
}

static void test_x509_password(void)
{
    char *dir = test_dir_new();
    const char *with = "{'qom-type': 'tls-creds-x509', 'id': 's', 'endpoint': 'server', "
                       "'dir': '%s', 'passwordid': 'pw'}";

    test_ca_save(&authority, dir, "ca-cert.pem");
    test_cert_save(&authority, &server_spec, dir, "server", "letmein");
    assert_refused(X509_SERVER, dir, "server-key.pem|encrypted|passwordid");
    assert_refused(with, dir, "passwordid|'pw'");
    add_ok("{'qom-type': 'secret', 'id': 'pw', 'data': 'wrong'}", "");
    assert_refused(with, dir, "server-key.pem|password");
    del("pw");
    add_ok("{'qom-type': 'secret', 'id': 'pw', 'data': 'bGV0bWVpbg==', 'format': 'base64'}", "");
    add_ok(with, dir);
    del("s");
    del("pw");
    test_save(dir, "pw", "letmein");
    add_ok("{'qom-type': 'secret', 'id': 'pw', 'file': '%s/pw'}", dir);
    add_ok(with, dir);
    del("s");
    del("pw");
    test_dir_remove(dir);
}

/* The secret @id, a password. */
static void assert_secret(const char *id, const char *expected)
{
    g_autoptr(GError) error = NULL;
    char *text = object_registry_get_secret_text(registry, id, "option", &error);

    g_assert_no_error(error);
    g_assert_cmpstr(text, ==, expected);
    secret_text_free(text);
}

#define KEY   "'data': 'MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=', 'format': 'base64'"
#define IV    "'iv': 'ZmVkY2JhOTg3NjU0MzIxMA=='"
#define OTHER "'iv': 'ZmVkY2JhOTg3NjU0MzIxMQ=='"

/*
 * By OpenSSL: printf letmein | openssl enc -aes-256-cbc -a -K $(the key in hexadecimal) -iv $(...)
 */
static void test_secret_encrypted(void)
{
    static const char *const made[][2] = {
        {"YYJkiF4rTwDe+yqgJdNfXw==", "letmein"},
        {"9E7Ti56IJCxF5VJXx8nSST3ybvJT3meXJ3GJaofiI4I=", "0123456789abcdef"},
        {"BJiXSBVu/WANms7iJn3Mww==", ""},
        {"BJiXSBVu/WANms7iJn3Mww==\\n", ""},
    };
    char *dir = test_dir_new();

    add_ok("{'qom-type': 'secret', 'id': 'k', " KEY "}", "");
    for (unsigned i = 0; i < G_N_ELEMENTS(made); i++) {
        g_autofree char *json = g_strdup_printf(
            "{'qom-type': 'secret', 'id': 'x', 'data': '%s', 'format': 'base64', 'keyid': 'k', " IV
            "}",
            made[i][0]);

        add_ok(json, "");
        assert_secret("x", made[i][1]);
        del("x");
    }
    /* In a file. */
    add_ok("{'qom-type': 'secret', 'id': 'k2', 'data': '0123456789abcdef0123456789abcdef'}", "");
    test_save(dir, "x", "YYJkiF4rTwDe+yqgJdNfXw==\n");
    add_ok(
        "{'qom-type': 'secret', 'id': 'x', 'file': '%s/x', 'format': 'base64', 'keyid': 'k2', " IV
        "}",
        dir);
    assert_secret("x", "letmein");
    del("x");
    del("k2");
    del("k");
    test_dir_remove(dir);
}

static void test_secret_encrypted_wrongly(void)
{
#define ENCRYPTED(data) "{'qom-type': 'secret', 'id': 'x', 'format': 'base64', 'data': '" data "', "
#define GOOD            ENCRYPTED("YYJkiF4rTwDe+yqgJdNfXw==")

    assert_refused(GOOD IV ", 'keyid': 'k'}", "", "keyid|'k'");
    add_ok("{'qom-type': 'secret', 'id': 'k', " KEY "}", "");
    add_ok("{'qom-type': 'secret', 'id': 'short', 'data': 'letmein'}", "");
    add_ok("{'qom-type': 'secret', 'id': 'wrong', 'data': '0123456789abcdef0123456789abcdeX'}", "");
    assert_refused(GOOD "'keyid': 'k'}", "", "keyid|iv");
    assert_refused(GOOD IV "}", "", "keyid|iv");
    assert_refused(GOOD IV ", 'keyid': 'x'}", "", "keyid|'x'");
    assert_refused(GOOD IV ", 'keyid': 'short'}", "", "keyid|'short'|7 bytes|32");
    assert_refused(GOOD IV ", 'keyid': 'wrong'}", "", "'x'|'wrong'|another key");
    assert_refused(GOOD "'iv': 'ZmVk', 'keyid': 'k'}", "", "iv|16");
    assert_refused(GOOD "'iv': '#', 'keyid': 'k'}", "", "iv|16");
    assert_refused(GOOD "'iv': '', 'keyid': 'k'}", "", "iv|16");
    assert_refused(GOOD OTHER ", 'keyid': 'k'}", "", "another key");
    assert_refused(ENCRYPTED("") IV ", 'keyid': 'k'}", "", "0 bytes");
    assert_refused(ENCRYPTED("YYJkiF4rTwDe+yqgJdNf") IV ", 'keyid': 'k'}", "", "15 bytes");
    /* "abcdefghijklmno" and a zero byte, without padding */
    assert_refused(ENCRYPTED("ftj/SITI/sN1zwiYQYJ/Kw==") IV ", 'keyid': 'k'}", "", "another key");
    del("wrong");
    del("short");
    del("k");
#undef GOOD
#undef ENCRYPTED
}

static void test_secret_refused(void)
{
    assert_refused("{'qom-type': 'secret', 'id': 'x'}", "", "data|file");
    assert_refused("{'qom-type': 'secret', 'id': 'x', 'data': 'a', 'file': '/b'}", "", "data|file");
    assert_refused("{'qom-type': 'secret', 'id': 'x', 'file': '/nonexistent'}", "", "/nonexistent");
    assert_refused("{'qom-type': 'secret', 'id': 'x', 'data': '#', 'format': 'base64'}", "",
                   "base64");
    assert_refused("{'qom-type': 'secret', 'id': 'x', 'data': 'a', 'keyid': 'k'}", "", "keyid");
    add_ok("{'qom-type': 'secret', 'id': 'y', 'data': ''}", "");
    add_ok("{'qom-type': 'secret', 'id': 'z', 'data': '', 'format': 'base64'}", "");
    del("y");
    del("z");
}

static void test_priority(void)
{
    assert_refused("{'qom-type': 'tls-creds-anon', 'id': 'x', 'priority': 'NORMAL:NONSENSE'}", "",
                   "priority|NONSENSE");
    add_ok("{'qom-type': 'tls-creds-anon', 'id': 'x', 'priority': 'SECURE192'}", "");
    del("x");
}

static void test_psk_files(void)
{
    char *dir = test_dir_new();

    assert_refused(PSK_SERVER, dir, "keys.psk|No such file");
    test_save(dir, "keys.psk", "\n");
    assert_refused(PSK_SERVER, dir, "keys.psk|none");
    test_save(dir, "keys.psk", "qemu:0011\nfred:xyz\n");
    assert_refused(PSK_SERVER, dir, "keys.psk|line 2");
    assert_refused(PSK_CLIENT, dir, "keys.psk|line 2");
    test_save(dir, "keys.psk", "qemu:001\n");
    assert_refused(PSK_SERVER, dir, "line 1");
    test_save(dir, "keys.psk", ":0011\n");
    assert_refused(PSK_SERVER, dir, "line 1");
    test_save(dir, "keys.psk", "qemu:\n");
    assert_refused(PSK_SERVER, dir, "line 1");
    test_save(dir, "keys.psk", "fred:0011\r\n\nqemu:0022");
    add_ok(PSK_SERVER, dir);
    add_ok(PSK_CLIENT, dir);
    del("s");
    del("c");
    assert_refused("{'qom-type': 'tls-creds-psk', 'id': 'c', 'dir': '%s', 'username': 'joe'}", dir,
                   "joe|keys.psk|username");
    assert_refused("{'qom-type': 'tls-creds-psk', 'id': 's', 'endpoint': 'server', 'dir': '%s', "
                   "'username': 'fred'}",
                   dir, "username|server");
    test_dir_remove(dir);
}

static void test_endpoint(void)
{
    g_autoptr(GError) error = NULL;

    add_ok(ANON_CLIENT, "");
    add_ok("{'qom-type': 'secret', 'id': 'x', 'data': 'a'}", "");
    g_assert_null(object_registry_get_tls_creds(registry, "c", TLS_CREDS_ENDPOINT_SERVER, &error));
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT);
    g_clear_error(&error);
    g_assert_null(object_registry_get_tls_creds(registry, "x", TLS_CREDS_ENDPOINT_SERVER, &error));
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_null(object_registry_get_authz(registry, "x", &error));
    g_assert_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND);
    del("c");
    del("x");
}

/* ---- who is let in ---- */

typedef struct Asking {
    const char *identity;
    Authz *authz;
    bool allowed;
    GError *error;
} Asking;

static void co_fn co_ask(void *opaque)
{
    Asking *asking = opaque;

    asking->allowed = authz_co_is_allowed(asking->authz, asking->identity, &asking->error);
}

/* Whether the authz object 'z' lets @identity in. */
static bool allowed(const char *identity)
{
    Asking asking = {.identity = identity};

    asking.authz = object_registry_get_authz(registry, "z", &asking.error);
    g_assert_no_error(asking.error);
    run_two(co_ask, &asking, NULL, NULL);
    authz_unref(asking.authz);
    g_assert_true(asking.allowed == !asking.error);
    g_clear_error(&asking.error);
    return asking.allowed;
}

static void test_authz_simple(void)
{
    add_ok("{'qom-type': 'authz-simple', 'id': 'z', 'identity': 'fred'}", "");
    g_assert_true(allowed("fred"));
    g_assert_false(allowed("fre"));
    g_assert_false(allowed("*"));
    g_assert_false(allowed(NULL));
    del("z");
}

static void test_authz_evil_name(void)
{
    Asking asking = {.identity = "CN=\xff\n"};

    add_ok("{'qom-type': 'authz-simple', 'id': 'z', 'identity': 'fred'}", "");
    asking.authz = object_registry_get_authz(registry, "z", &asking.error);
    run_two(co_ask, &asking, NULL, NULL);
    g_assert_false(asking.allowed);
    g_assert_nonnull(strstr(asking.error->message, "'CN=\\xff\\x0a' is not let in"));
    g_clear_error(&asking.error);
    authz_unref(asking.authz);
    del("z");
}

static void test_authz_list(void)
{
    add_ok("{'qom-type': 'authz-list', 'id': 'z'}", "");
    g_assert_false(allowed("fred"));
    del("z");
    add_ok("{'qom-type': 'authz-list', 'id': 'z', 'policy': 'allow'}", "");
    g_assert_true(allowed("fred"));
    g_assert_false(allowed(NULL));
    del("z");
    add_ok("{'qom-type': 'authz-list', 'id': 'z', 'rules': ["
           "{'match': 'CN=fred', 'policy': 'deny'},"
           "{'match': 'CN=*', 'policy': 'allow', 'format': 'glob'},"
           "{'match': 'O=*', 'policy': 'allow'}]}",
           "");
    g_assert_false(allowed("CN=fred"));
    g_assert_true(allowed("CN=joe"));
    g_assert_true(allowed("CN=a/b"));
    g_assert_false(allowed("O=a"));
    g_assert_true(allowed("O=*"));
    del("z");
    assert_refused("{'qom-type': 'authz-list', 'id': 'z', 'rules': [{'match': 'a'}]}", "",
                   "rules[0]|policy");
}

static void test_authz_file(void)
{
    char *dir = test_dir_new();
    g_autofree char *path = g_build_filename(dir, "rules", NULL);
    const char *with = "{'qom-type': 'authz-list-file', 'id': 'z', 'filename': '%s/rules'}";

    assert_refused(with, dir, "/rules|No such file");
    test_save(dir, "rules", "{\"policy\": \"maybe\"}");
    assert_refused(with, dir, "/rules|policy");
    test_save(dir, "rules", "{\"policy\": ");
    assert_refused(with, dir, "/rules");
    test_save(dir, "rules", "{\"policy\": \"allow\"}");
    add_ok(with, dir);
    g_assert_true(allowed("fred"));
    test_save(dir, "rules", "{\"policy\": \"deny\"}");
    g_assert_false(allowed("fred"));
    test_save(dir, "rules", "{\"rules\": [{\"match\": \"fred\", \"policy\": \"allow\"}]}");
    g_assert_true(allowed("fred"));
    test_save(dir, "rules", "{\"rules\": [");
    g_assert_false(allowed("fred"));
    unlink(path);
    g_assert_false(allowed("fred"));
    test_save(dir, "rules", "{\"policy\": \"allow\"}");
    g_assert_true(allowed("fred"));
    del("z");
    add_ok("{'qom-type': 'authz-list-file', 'id': 'z', 'filename': '%s/rules', 'refresh': false}",
           dir);
    unlink(path);
    g_assert_true(allowed("fred"));
    del("z");
    test_dir_remove(dir);
}

/* ---- sessions ---- */

/* One side of a connection, and what becomes of it. */
typedef struct Side {
    TlsSession *tls;
    int fd;
    int64_t limit_ns;
    bool shaken;
    GError *error;
    void co_fn (*co_talk)(struct Side *side);
    size_t bytes; /* to send and to receive */
} Side;

static void co_fn co_side(void *opaque)
{
    Side *side = opaque;

    side->shaken = tls_session_co_handshake(side->tls, aio_now_ns() + side->limit_ns, &side->error);
    if (side->shaken && side->co_talk) {
        side->co_talk(side);
    }
}

static void side_init(Side *side, const char *id, TlsCredsEndpoint endpoint, int fd,
                      const char *hostname, const char *authz_id)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(TlsCreds) creds = object_registry_get_tls_creds(registry, id, endpoint, &error);
    g_autoptr(Authz) authz = NULL;

    g_assert_no_error(error);
    if (authz_id) {
        authz = object_registry_get_authz(registry, authz_id, &error);
        g_assert_no_error(error);
    }
    *side = (Side){.fd = fd, .limit_ns = 60 * SECOND};
    side->tls = tls_session_new(creds, fd, hostname, authz);
}

static void side_clear(Side *side)
{
    tls_session_free(side->tls);
    close(side->fd);
    g_clear_error(&side->error);
}

/* A connection between the credentials 's' and 'c', which are deleted at the end. */
typedef struct Pair {
    Side server, client;
} Pair;

static void socket_pair(int *fds)
{
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), ==, 0);
}

static void pair_init(Pair *pair, const char *hostname, const char *authz_id)
{
    int fds[2];

    socket_pair(fds);
    side_init(&pair->server, "s", TLS_CREDS_ENDPOINT_SERVER, fds[0], NULL, authz_id);
    side_init(&pair->client, "c", TLS_CREDS_ENDPOINT_CLIENT, fds[1], hostname, NULL);
}

static void pair_clear(Pair *pair)
{
    side_clear(&pair->server);
    side_clear(&pair->client);
    del("s");
    del("c");
}

static void pair_run(Pair *pair)
{
    run_two(co_side, &pair->server, co_side, &pair->client);
}

/* Numbers that tell where they belong. */
static void fill(guint32 *words, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        words[i] = i * 2654435761u;
    }
}

static void co_fn co_send(void *opaque)
{
    Side *side = opaque;
    g_autofree guint32 *data = g_malloc(side->bytes);
    size_t head = MIN(side->bytes, 28), middle = side->bytes / 2;
    struct iovec iov[4] = {{data, head}};

    fill(data, side->bytes / 4);
    iov[1] = (struct iovec){(char *)data + head, MAX(middle, head) - head};
    iov[2] = (struct iovec){NULL, 0};
    iov[3] = (struct iovec){(char *)data + MAX(middle, head), side->bytes - MAX(middle, head)};
    g_assert_cmpint(tls_session_co_writev(side->tls, iov, 4), ==, 0);
}

static void co_fn co_receive(Side *side)
{
    g_autofree guint32 *data = g_malloc(side->bytes), *expected = g_malloc(side->bytes);

    fill(expected, side->bytes / 4);
    g_assert_cmpint(tls_session_co_read_full(side->tls, data, side->bytes), ==, 0);
    g_assert_true(memcmp(data, expected, side->bytes) == 0);
}

typedef struct Sending {
    Side *side;
    bool done;
    CoQueue waiting;
} Sending;

static void co_fn co_send_beside(void *opaque)
{
    Sending *sending = opaque;

    co_send(sending->side);
    sending->done = true;
    co_queue_wake_all(&sending->waiting);
}

/* Both directions at the same time, then the end. */
static void co_fn co_talk_both(Side *side)
{
    Sending sending = {.side = side};
    char byte;

    aio_co_enter(ctx, co_send_beside, &sending);
    co_receive(side);
    while (!sending.done) {
        co_queue_wait(&sending.waiting, NULL);
    }
    tls_session_co_bye(side->tls, aio_now_ns() + 60 * SECOND);
    g_assert_cmpint(tls_session_co_read(side->tls, &byte, 1), ==, 0);
}

static void pair_assert_talks(Pair *pair)
{
    g_autofree char *desc = NULL;

    pair->server.co_talk = pair->client.co_talk = co_talk_both;
    pair->server.bytes = pair->client.bytes = 3 * 1024 * 1024;
    pair_run(pair);
    g_assert_no_error(pair->server.error);
    g_assert_no_error(pair->client.error);
    g_assert_true(pair->server.shaken && pair->client.shaken);
    desc = tls_session_describe(pair->server.tls);
    g_test_message("%s", desc);
}

static void test_session_x509(void)
{
    static const char *const hosts[] = {NULL, "localhost", "127.0.0.1"};

    for (unsigned i = 0; i < G_N_ELEMENTS(hosts); i++) {
        Pair pair;

        add_ok(X509_SERVER, good);
        add_ok(X509_CLIENT, good);
        pair_init(&pair, hosts[i], NULL);
        pair_assert_talks(&pair);
        g_assert_cmpstr(tls_session_peer(pair.server.tls), ==, "C=DE,O=Example,CN=backup");
        g_assert_cmpstr(tls_session_peer(pair.client.tls), ==, "O=Example,CN=localhost");
        pair_clear(&pair);
    }
}

static void test_session_psk(void)
{
    Pair pair;

    add_ok(PSK_SERVER, good);
    add_ok(PSK_CLIENT, good);
    pair_init(&pair, NULL, NULL);
    pair_assert_talks(&pair);
    g_assert_cmpstr(tls_session_peer(pair.server.tls), ==, "qemu");
    g_assert_cmpstr(tls_session_peer(pair.client.tls), ==, NULL);
    pair_clear(&pair);
}

static void test_session_anon(void)
{
    Pair pair;

    add_ok(ANON_SERVER, "");
    add_ok(ANON_CLIENT, "");
    pair_init(&pair, NULL, NULL);
    pair_assert_talks(&pair);
    g_assert_cmpstr(tls_session_peer(pair.server.tls), ==, NULL);
    pair_clear(&pair);
}

static void test_session_tls12(void)
{
    Pair pair;

    add_ok(X509_SERVER, good);
    add_ok("{'qom-type': 'tls-creds-x509', 'id': 'c', 'dir': '%s', "
           "'priority': 'NORMAL:-VERS-TLS1.3'}",
           good);
    pair_init(&pair, NULL, NULL);
    pair_assert_talks(&pair);
    pair_clear(&pair);
}

/* The side that must find something out says what. */
static void assert_says(const Side *side, const char *word)
{
    g_assert_nonnull(side->error);
    g_assert_false(side->shaken);
    g_test_message("%s", side->error->message);
    if (!strstr(side->error->message, word)) {
        g_error("'%s' does not name '%s'", side->error->message, word);
    }
}

static void test_session_hostname(void)
{
    Pair pair;

    add_ok(X509_SERVER, good);
    add_ok(X509_CLIENT, good);
    pair_init(&pair, "example.org", NULL);
    pair_run(&pair);
    assert_says(&pair.client, "name");
    pair_clear(&pair);
}

static void test_session_no_certificate(void)
{
    char *dir = test_dir_new();
    Pair pair;

    test_ca_save(&authority, dir, "ca-cert.pem");
    add_ok(X509_SERVER, good);
    add_ok(X509_CLIENT, dir);
    pair_init(&pair, NULL, NULL);
    pair_run(&pair);
    assert_says(&pair.server, "no certificate");
    pair_clear(&pair);

    add_ok("{'qom-type': 'tls-creds-x509', 'id': 's', 'endpoint': 'server', 'dir': '%s', "
           "'verify-peer': false}",
           good);
    add_ok(X509_CLIENT, dir);
    pair_init(&pair, NULL, NULL);
    pair_assert_talks(&pair);
    g_assert_cmpstr(tls_session_peer(pair.server.tls), ==, NULL);
    pair_clear(&pair);
    test_dir_remove(dir);
}

/* A client with the certificate @spec, signed by @ca; what the server says. */
static void assert_client_refused(const TestCa *ca, const TestCert *spec, const char *word)
{
    char *dir = test_dir_new();
    Pair pair;

    test_ca_save(&authority, dir, "ca-cert.pem");
    test_cert_save(ca, spec, dir, "client", NULL);
    add_ok(X509_SERVER, good);
    add_ok("{'qom-type': 'tls-creds-x509', 'id': 'c', 'dir': '%s', 'sanity-check': false}", dir);
    pair_init(&pair, NULL, NULL);
    pair_run(&pair);
    assert_says(&pair.server, word);
    pair_clear(&pair);
    test_dir_remove(dir);
}

static void test_session_bad_client(void)
{
    TestCert spec = client_spec;

    spec.until = -60;
    assert_client_refused(&authority, &spec, "expired");
    spec = client_spec;
    spec.purpose = GNUTLS_KP_TLS_WWW_SERVER;
    assert_client_refused(&authority, &spec, "purpose");
    /* Of a stranger's authority it sends none, or one that is not trusted. */
    assert_client_refused(&stranger, &client_spec, "certificate");
}

/* Whatever is in a name, a message shows it as text. */
static void test_session_evil_name(void)
{
    TestCert spec = client_spec;

    spec.until = -60;
    spec.dn = "CN=a\x1b[2J,O=\xe2\x80\xae";
    assert_client_refused(&authority, &spec, "CN=a\\x1b[2J");
    assert_client_refused(&authority, &spec, "O=\\u202e");
}

static void test_session_bad_server(void)
{
    char *dir = test_dir_new();
    Pair pair;

    test_ca_save(&stranger, dir, "ca-cert.pem");
    test_cert_save(&stranger, &server_spec, dir, "server", NULL);
    add_ok(X509_SERVER, dir);
    add_ok(X509_CLIENT, good);
    pair_init(&pair, NULL, NULL);
    pair_run(&pair);
    assert_says(&pair.client, "issuer");
    pair_clear(&pair);
    test_dir_remove(dir);
}

static void test_session_psk_mismatch(void)
{
    char *dir = test_dir_new();
    Pair pair;

    test_save(dir, "keys.psk", "qemu:ffeeddccbbaa99887766554433221100\n");
    add_ok(PSK_SERVER, good);
    add_ok(PSK_CLIENT, dir);
    pair_init(&pair, NULL, NULL);
    pair.server.limit_ns = pair.client.limit_ns = 10 * SECOND;
    pair_run(&pair);
    g_assert_nonnull(pair.server.error);
    pair_clear(&pair);
    test_save(dir, "keys.psk", "stranger:00112233445566778899aabbccddeeff\n");
    add_ok(PSK_SERVER, good);
    add_ok("{'qom-type': 'tls-creds-psk', 'id': 'c', 'dir': '%s', 'username': 'stranger'}", dir);
    pair_init(&pair, NULL, NULL);
    pair_run(&pair);
    g_assert_nonnull(pair.server.error);
    pair_clear(&pair);
    test_dir_remove(dir);
}

static void assert_authorizes(const char *identity, bool expected)
{
    g_autofree char *authz =
        g_strdup_printf("{'qom-type': 'authz-simple', 'id': 'z', 'identity': '%s'}", identity);
    Pair pair;

    add_ok(authz, "");
    add_ok(X509_SERVER, good);
    add_ok(X509_CLIENT, good);
    pair_init(&pair, NULL, "z");
    pair_run(&pair);
    if (expected) {
        g_assert_no_error(pair.server.error);
    } else {
        assert_says(&pair.server, "CN=backup");
    }
    pair_clear(&pair);
    del("z");
}

static void test_session_authz(void)
{
    assert_authorizes("C=DE,O=Example,CN=backup", true);
    assert_authorizes("CN=backup,O=Example,C=DE", false);
}

static void test_session_authz_psk(void)
{
    Pair pair;

    add_ok("{'qom-type': 'authz-simple', 'id': 'z', 'identity': 'fred'}", "");
    add_ok(PSK_SERVER, good);
    add_ok(PSK_CLIENT, good);
    pair_init(&pair, NULL, "z");
    pair_run(&pair);
    assert_says(&pair.server, "qemu");
    pair_clear(&pair);
    del("z");
}

/* ---- peers that do not behave ---- */

/* A server alone with @bytes from its peer, which then @closes, or stays silent. */
static void assert_hostile(const void *bytes, size_t n, bool closes, const char *word)
{
    int fds[2];
    Side server;

    socket_pair(fds);
    add_ok(X509_SERVER, good);
    side_init(&server, "s", TLS_CREDS_ENDPOINT_SERVER, fds[0], NULL, NULL);
    server.limit_ns = closes ? 60 * SECOND : SECOND / 5;
    g_assert_cmpint(write(fds[1], bytes, n), ==, n);
    if (closes) {
        shutdown(fds[1], SHUT_WR);
    }
    run_two(co_side, &server, NULL, NULL);
    assert_says(&server, word);
    side_clear(&server);
    close(fds[1]);
    del("s");
}

static void test_hostile_handshake(void)
{
    static const char hello_head[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    g_autofree char *noise = g_malloc(65536);
    g_autoptr(GRand) random = g_rand_new_with_seed(1);

    assert_hostile("", 0, false, "in time");
    assert_hostile("", 0, true, "closed");
    assert_hostile(hello_head, sizeof(hello_head) - 1, false, "in time");
    assert_hostile(hello_head, sizeof(hello_head) - 1, true, "handshake");
    assert_hostile("NBDMAGICIHAVEOPT", 16, true, "handshake");
    assert_hostile("GET / HTTP/1.1\r\n\r\n", 18, true, "handshake");
    for (unsigned round = 0; round < 50; round++) {
        size_t n = g_rand_int_range(random, 100, 60000);

        for (size_t i = 0; i < n; i++) {
            noise[i] = g_rand_int(random);
        }
        if (round % 2) {
            memcpy(noise, hello_head, sizeof(hello_head) - 1);
        }
        assert_hostile(noise, n, true, "handshake");
    }
}

/* Between two sides: passes bytes on, from @from to @to, and spoils or cuts them after a while. */
typedef struct Wire {
    int from, to;
    long spoil_at, cut_at; /* -1: never */
    long passed;
    AioWatch *watch;
} Wire;

static void on_wire(void *opaque, short revents)
{
    Wire *wire = opaque;
    char bytes[4096];
    ssize_t n = read(wire->from, bytes, sizeof(bytes));

    if (n < 0) {
        return;
    }
    if (n == 0 || (wire->cut_at >= 0 && wire->passed + n > wire->cut_at)) {
        shutdown(wire->to, SHUT_WR);
        aio_watch_set_events(wire->watch, 0);
        return;
    }
    if (wire->spoil_at >= wire->passed && wire->spoil_at < wire->passed + n) {
        bytes[wire->spoil_at - wire->passed] ^= 0x40;
    }
    wire->passed += n;
    for (ssize_t done = 0; done < n;) {
        ssize_t m = write(wire->to, bytes + done, n - done);

        if (m > 0) {
            done += m;
        } else if (m < 0 && errno != EAGAIN) {
            return;
        }
    }
}

/* What the server's read said in the end. */
static int read_result;

static void co_fn co_read_on(Side *side)
{
    char bytes[4096];
    ssize_t n;

    do {
        n = tls_session_co_read(side->tls, bytes, sizeof(bytes));
    } while (n > 0);
    read_result = n;
}

static void co_fn co_write_some(Side *side)
{
    co_send(side);
    tls_session_co_bye(side->tls, aio_now_ns() + SECOND);
    shutdown(side->fd, SHUT_WR);
}

/* The client sends 16 KiB through a wire that spoils or cuts after so many bytes. */
static int read_through(long spoil_at, long cut_at)
{
    int up[2], down[2];
    Pair pair;
    Wire there, back;

    socket_pair(up);
    socket_pair(down);
    add_ok(PSK_SERVER, good);
    add_ok(PSK_CLIENT, good);
    side_init(&pair.server, "s", TLS_CREDS_ENDPOINT_SERVER, up[0], NULL, NULL);
    side_init(&pair.client, "c", TLS_CREDS_ENDPOINT_CLIENT, down[0], NULL, NULL);
    there = (Wire){.from = down[1], .to = up[1], .spoil_at = spoil_at, .cut_at = cut_at};
    back = (Wire){.from = up[1], .to = down[1], .spoil_at = -1, .cut_at = -1};
    there.watch = aio_watch_new(ctx, there.from, POLLIN, on_wire, NULL, &there);
    back.watch = aio_watch_new(ctx, back.from, POLLIN, on_wire, NULL, &back);
    pair.client.bytes = 16384;
    pair.client.co_talk = co_write_some;
    pair.server.co_talk = co_read_on;
    read_result = 1;
    pair_run(&pair);
    aio_watch_free(there.watch);
    aio_watch_free(back.watch);
    close(up[1]);
    close(down[1]);
    pair_clear(&pair);
    return read_result;
}

static void test_spoiled(void)
{
    /* The handshake takes less than 4000 bytes. */
    g_assert_cmpint(read_through(-1, -1), ==, 0);
    g_assert_cmpint(read_through(12000, -1), ==, -EPROTO);
    g_assert_cmpint(read_through(-1, 9000), ==, -ECONNRESET);
}

/* A reader that waits comes back when the socket is shut down. */
static void co_fn co_shut(void *opaque)
{
    Side *side = opaque;

    aio_co_sleep_ns(SECOND / 20);
    shutdown(side->fd, SHUT_RDWR);
}

static void co_fn co_read_until_shut(Side *side)
{
    char byte;

    aio_co_enter(ctx, co_shut, side);
    g_assert_cmpint(tls_session_co_read(side->tls, &byte, 1), ==, -ECONNRESET);
}

static void co_fn co_wait_for_end(Side *side)
{
    char byte;

    g_assert_cmpint(tls_session_co_read(side->tls, &byte, 1), ==, -ECONNRESET);
}

static void test_shutdown(void)
{
    Pair pair;

    add_ok(PSK_SERVER, good);
    add_ok(PSK_CLIENT, good);
    pair_init(&pair, NULL, NULL);
    pair.server.co_talk = co_read_until_shut;
    pair.client.co_talk = co_wait_for_end;
    pair_run(&pair);
    pair_clear(&pair);
}

static void make_good_files(void)
{
    TestCert stranger_spec = ca_spec;

    test_ca_init(&authority, &ca_spec);
    stranger_spec.dn = "CN=Stranger";
    test_ca_init(&stranger, &stranger_spec);
    good = test_dir_new();
    test_ca_save(&authority, good, "ca-cert.pem");
    test_cert_save(&authority, &server_spec, good, "server", NULL);
    test_cert_save(&authority, &client_spec, good, "client", NULL);
    test_save(good, "keys.psk", "qemu:00112233445566778899aabbccddeeff\n");
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    int status;

    g_test_init(&argc, &argv, NULL);
    ctx = aio_context_new(NULL, &error);
    g_assert_no_error(error);
    registry = object_registry_new();
    make_good_files();

    g_test_add_func("/tls/x509/good", test_x509_good);
    g_test_add_func("/tls/x509/missing", test_x509_missing);
    g_test_add_func("/tls/x509/unfit", test_x509_unfit);
    g_test_add_func("/tls/x509/authority", test_x509_authority);
    g_test_add_func("/tls/x509/garbage", test_x509_garbage);
    g_test_add_func("/tls/x509/password", test_x509_password);
    g_test_add_func("/tls/secret/encrypted", test_secret_encrypted);
    g_test_add_func("/tls/secret/encrypted-wrongly", test_secret_encrypted_wrongly);
    g_test_add_func("/tls/secret/refused", test_secret_refused);
    g_test_add_func("/tls/priority", test_priority);
    g_test_add_func("/tls/psk/files", test_psk_files);
    g_test_add_func("/tls/endpoint", test_endpoint);
    g_test_add_func("/tls/authz/simple", test_authz_simple);
    g_test_add_func("/tls/authz/evil-name", test_authz_evil_name);
    g_test_add_func("/tls/authz/list", test_authz_list);
    g_test_add_func("/tls/authz/file", test_authz_file);
    g_test_add_func("/tls/session/x509", test_session_x509);
    g_test_add_func("/tls/session/psk", test_session_psk);
    g_test_add_func("/tls/session/anon", test_session_anon);
    g_test_add_func("/tls/session/tls12", test_session_tls12);
    g_test_add_func("/tls/session/hostname", test_session_hostname);
    g_test_add_func("/tls/session/no-certificate", test_session_no_certificate);
    g_test_add_func("/tls/session/bad-client", test_session_bad_client);
    g_test_add_func("/tls/session/evil-name", test_session_evil_name);
    g_test_add_func("/tls/session/bad-server", test_session_bad_server);
    g_test_add_func("/tls/session/psk-mismatch", test_session_psk_mismatch);
    g_test_add_func("/tls/session/authz", test_session_authz);
    g_test_add_func("/tls/session/authz-psk", test_session_authz_psk);
    g_test_add_func("/tls/hostile/handshake", test_hostile_handshake);
    g_test_add_func("/tls/hostile/spoiled", test_spoiled);
    g_test_add_func("/tls/shutdown", test_shutdown);
    status = g_test_run();

    object_registry_free(registry);
    aio_context_unref(ctx);
    test_dir_remove(good);
    test_ca_clear(&authority);
    test_ca_clear(&stranger);
    return status;
}
