/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "object/authz.h"

#include <fnmatch.h>
#include <string.h>

#include "aio/aio.h"
#include "object/class.h"
#include "object/file.h"
#include "object/registry.h"
#include "qapi/json-parser.h"
#include "util/error.h"

/* A list of rules that does not change any more. */
typedef struct AuthzRules {
    gint refs; /* atomic */
    AuthzListProperties *list;
} AuthzRules;

struct Authz {
    gint refs; /* atomic */
    char *id;
    char *filename; /* of a list in a file that is read again; else NULL */

    GMutex lock; /* of what follows */
    AuthzRules *rules;
    struct stat st; /* of the file that they come from */
};

/* ---- rules ---- */

/* Takes @list. */
static AuthzRules *authz_rules_new(AuthzListProperties *list)
{
    AuthzRules *rules = g_new0(AuthzRules, 1);

    g_atomic_int_set(&rules->refs, 1);
    rules->list = list;
    return rules;
}

static AuthzRules *authz_rules_ref(AuthzRules *rules)
{
    g_atomic_int_inc(&rules->refs);
    return rules;
}

static void authz_rules_unref(AuthzRules *rules)
{
    if (g_atomic_int_dec_and_test(&rules->refs)) {
        authz_list_properties_free(rules->list);
        g_free(rules);
    }
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(AuthzRules, authz_rules_unref)

static bool authz_rule_matches(const AuthzRule *rule, const char *identity)
{
    return rule->format == AUTHZ_FORMAT_GLOB ? fnmatch(rule->match, identity, 0) == 0
                                             : g_str_equal(rule->match, identity);
}

static bool authz_rules_allow(const AuthzRules *rules, const char *identity)
{
    const GPtrArray *list = rules->list->rules;

    for (guint i = 0; list && i < list->len; i++) {
        const AuthzRule *rule = g_ptr_array_index(list, i);

        if (authz_rule_matches(rule, identity)) {
            return rule->policy == AUTHZ_POLICY_ALLOW;
        }
    }
    return rules->list->policy == AUTHZ_POLICY_ALLOW;
}

static AuthzRules *authz_rules_parse(const ObjectFile *file, const char *filename, GError **error)
{
    g_autoptr(QValue) value = qvalue_from_json(file->data, file->len, error);
    AuthzListProperties *list = value ? authz_list_properties_from_qvalue(value, error) : NULL;

    if (!list) {
        g_prefix_error(error, "rules '%s': ", filename);
        return NULL;
    }
    return authz_rules_new(list);
}

/* ---- the file that rules come from ---- */

/* What the worker does. */
typedef struct AuthzLoad {
    const char *filename;
    struct stat known; /* what has been read already; all zeros: nothing */
    struct stat st;    /* what has been read now */
    AuthzRules *rules; /* NULL: failed, or nothing new */
    GError *error;
} AuthzLoad;

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static int authz_load_file(void *opaque)
{
    AuthzLoad *load = opaque;
    g_auto(ObjectFile) file = {0};
    struct stat st;

    if (stat(load->filename, &st) == 0 && same_file(&st, &load->known)) {
        return 0;
    }
    if (object_file_read(&file, "rules", load->filename, &load->error)) {
        load->st = file.st;
        load->rules = authz_rules_parse(&file, load->filename, &load->error);
    }
    return 0;
}

/* The rules that hold now; NULL with @error where they cannot be read. */
static AuthzRules *co_fn authz_co_get_rules(Authz *authz, GError **error)
{
    AuthzLoad load = {.filename = authz->filename};

    if (authz->filename) {
        g_mutex_lock(&authz->lock);
        load.known = authz->st;
        g_mutex_unlock(&authz->lock);
        aio_co_run_worker_apart(authz_load_file, &load);
    }
    if (load.error) {
        g_propagate_error(error, load.error);
        return NULL;
    }

    g_mutex_lock(&authz->lock);
    if (load.rules) {
        authz_rules_unref(authz->rules);
        authz->rules = load.rules;
        authz->st = load.st;
    }
    load.rules = authz_rules_ref(authz->rules);
    g_mutex_unlock(&authz->lock);
    return load.rules;
}

/* ---- life ---- */

/* Takes @rules. */
static Authz *authz_new(const char *id, AuthzRules *rules)
{
    Authz *authz = g_new0(Authz, 1);

    g_atomic_int_set(&authz->refs, 1);
    g_mutex_init(&authz->lock);
    authz->id = g_strdup(id);
    authz->rules = rules;
    return authz;
}

Authz *authz_ref(Authz *authz)
{
    g_atomic_int_inc(&authz->refs);
    return authz;
}

void authz_unref(Authz *authz)
{
    if (!authz || !g_atomic_int_dec_and_test(&authz->refs)) {
        return;
    }
    authz_rules_unref(authz->rules);
    g_mutex_clear(&authz->lock);
    g_free(authz->filename);
    g_free(authz->id);
    g_free(authz);
}

static void authz_destroy(gpointer instance)
{
    authz_unref(instance);
}

static void authz_set_rules(Authz *authz, AuthzRules *rules)
{
    g_mutex_lock(&authz->lock);
    authz_rules_unref(authz->rules);
    authz->rules = rules;
    g_mutex_unlock(&authz->lock);
}

static AuthzRules *authz_simple_rules(const ObjectOptions *options)
{
    AuthzListProperties *list = g_new0(AuthzListProperties, 1);
    AuthzRule *rule = g_new0(AuthzRule, 1);

    rule->match = g_strdup(options->u.authz_simple.identity);
    rule->policy = AUTHZ_POLICY_ALLOW;
    list->rules = authz_rule_list_new();
    g_ptr_array_add(list->rules, rule);
    return authz_rules_new(list);
}

static gpointer co_fn authz_simple_co_create(gpointer self, const ObjectOptions *options,
                                             GError **error)
{
    return authz_new(options->id, authz_simple_rules(options));
}

static bool authz_simple_reconfigure(gpointer instance, const ObjectOptions *options,
                                     GError **error)
{
    authz_set_rules(instance, authz_simple_rules(options));
    return true;
}

static AuthzRules *authz_list_rules(const ObjectOptions *options)
{
    return authz_rules_new(authz_list_properties_copy(&options->u.authz_list));
}

static gpointer co_fn authz_list_co_create(gpointer self, const ObjectOptions *options,
                                           GError **error)
{
    return authz_new(options->id, authz_list_rules(options));
}

static bool authz_list_reconfigure(gpointer instance, const ObjectOptions *options, GError **error)
{
    authz_set_rules(instance, authz_list_rules(options));
    return true;
}

static gpointer co_fn authz_list_file_co_create(gpointer self, const ObjectOptions *options,
                                                GError **error)
{
    const AuthzListFileProperties *p = &options->u.authz_list_file;
    AuthzLoad load = {.filename = p->filename};
    Authz *authz;

    aio_co_run_worker_apart(authz_load_file, &load);
    if (load.error) {
        g_propagate_error(error, load.error);
        return NULL;
    }
    authz = authz_new(options->id, load.rules);
    authz->st = load.st;
    authz->filename = p->refresh ? g_strdup(p->filename) : NULL;
    return authz;
}

const ObjectClass object_class_authz_simple = {
    .type = OBJECT_TYPE_AUTHZ_SIMPLE,
    .parent = "authz",
    .co_create = authz_simple_co_create,
    .destroy = authz_destroy,
    .reconfigure = authz_simple_reconfigure,
};

const ObjectClass object_class_authz_list = {
    .type = OBJECT_TYPE_AUTHZ_LIST,
    .parent = "authz",
    .co_create = authz_list_co_create,
    .destroy = authz_destroy,
    .reconfigure = authz_list_reconfigure,
};

const ObjectClass object_class_authz_list_file = {
    .type = OBJECT_TYPE_AUTHZ_LIST_FILE,
    .parent = "authz",
    .co_create = authz_list_file_co_create,
    .destroy = authz_destroy,
};

Authz *object_registry_get_authz(ObjectRegistry *registry, const char *id, GError **error)
{
    const Object *object = object_registry_find(registry, id);

    if (!object || !g_str_equal(object->class->parent, "authz")) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_NOT_FOUND,
                    "there is no authz object '%s'; make it first (--object authz-list,id=%s,...)",
                    id, id);
        return NULL;
    }
    return authz_ref(object->instance);
}

bool co_fn authz_co_is_allowed(Authz *authz, const char *identity, GError **error)
{
    g_autoptr(AuthzRules) rules = authz_co_get_rules(authz, error);

    if (!rules) {
        g_prefix_error(error, "nobody is let in by '%s': ", authz->id);
        return false;
    }
    if (!identity || !authz_rules_allow(rules, identity)) {
        g_autofree char *shown = wharf_printable(identity ? identity : "somebody unknown");

        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC, "'%s' is not let in by '%s'", shown,
                    authz->id);
        return false;
    }
    return true;
}
