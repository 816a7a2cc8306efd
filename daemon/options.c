/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/options.h"

#include <string.h>

#include "daemon/help.h"
#include "qapi/keyval.h"
#include "util/error.h"

/* ---- the table of options ---- */

typedef enum {
    OPT_OBJECT = START_OBJECT,
    OPT_CHARDEV = START_CHARDEV,
    OPT_NBD_SERVER = START_NBD_SERVER,
    OPT_BLOCKDEV = START_BLOCKDEV,
    OPT_EXPORT = START_EXPORT,
    OPT_MONITOR = START_MONITOR,
    OPT_AIO,
    OPT_DAEMONIZE,
    OPT_EXIT_WHEN_IDLE,
    OPT_HELP,
    OPT_LOG,
    OPT_PIDFILE,
    OPT_TRACE,
    OPT_VERSION,
} OptionId;

typedef struct {
    OptionId id;
    const char *name;
    char letter; /* 0: none */
    bool takes_value;
    const char *implied_key; /* of the first part of a key=value list; NULL: there is none */
} OptionSpec;

static const OptionSpec option_specs[] = {
    {OPT_AIO, "aio", 0, true},
    {OPT_BLOCKDEV, "blockdev", 0, true, "driver"},
    {OPT_CHARDEV, "chardev", 0, true, "backend"},
    {OPT_DAEMONIZE, "daemonize", 0, false},
    {OPT_EXIT_WHEN_IDLE, "exit-when-idle", 0, false},
    {OPT_EXPORT, "export", 0, true, "type"},
    {OPT_HELP, "help", 'h', false},
    {OPT_LOG, "log", 0, true, "level"},
    {OPT_MONITOR, "monitor", 0, true, "chardev"},
    {OPT_NBD_SERVER, "nbd-server", 0, true},
    {OPT_OBJECT, "object", 0, true, "qom-type"},
    {OPT_PIDFILE, "pidfile", 0, true},
    {OPT_TRACE, "trace", 'T', true, "enable"},
    {OPT_VERSION, "version", 'V', false},
};

/* One option as it stands on the command line. */
typedef struct {
    const OptionSpec *spec;
    const char *value; /* NULL if it takes none; borrowed from argv */
} Given;

/* ---- splitting ---- */

static void usage_error(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void usage_error(GError **error, const char *format, ...)
{
    g_autofree char *message = NULL;
    va_list ap;

    va_start(ap, format);
    message = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_set_error_literal(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT, message);
}

/* The option whose name is, or alone begins with, the first @len bytes of @name. */
static const OptionSpec *find_long(const char *name, gsize len, GError **error)
{
    g_autoptr(GPtrArray) found = g_ptr_array_new();
    g_autoptr(GString) names = g_string_new(NULL);

    for (gsize i = 0; i < G_N_ELEMENTS(option_specs); i++) {
        const OptionSpec *spec = &option_specs[i];

        if (len == 0 || strncmp(spec->name, name, len) != 0) {
            continue;
        }
        if (strlen(spec->name) == len) {
            return spec;
        }
        g_ptr_array_add(found, (gpointer)spec);
        g_string_append_printf(names, "%s--%s", found->len > 1 ? ", " : "", spec->name);
    }
    if (found->len == 0) {
        usage_error(error, "unknown option '--%.*s'; --help lists them all", (int)len, name);
        return NULL;
    }
    if (found->len > 1) {
        usage_error(error, "option '--%.*s' is ambiguous: it may mean %s", (int)len, name,
                    names->str);
        return NULL;
    }
    return found->pdata[0];
}

static const OptionSpec *find_short(const char *arg, GError **error)
{
    for (gsize i = 0; i < G_N_ELEMENTS(option_specs); i++) {
        if (option_specs[i].letter == arg[1]) {
            return &option_specs[i];
        }
    }
    usage_error(error, "unknown option '%s'; --help lists them all", arg);
    return NULL;
}

/* Read the option at argv[*i], and its value, which may be the next argument; *i moves past them.
 */
static bool split_one(char **argv, int *i, Given *given, GError **error)
{
    const char *arg = argv[(*i)++];
    bool is_long = g_str_has_prefix(arg, "--");
    const char *equals = is_long ? strchr(arg, '=') : NULL;

    if (!is_long && (arg[0] != '-' || !arg[1])) {
        usage_error(error, "'%s' is no option; --help lists them all", arg);
        return false;
    }
    given->spec =
        is_long ? find_long(arg + 2, equals ? (gsize)(equals - arg - 2) : strlen(arg + 2), error)
                : find_short(arg, error);
    if (!given->spec) {
        return false;
    }
    given->value = equals ? equals + 1 : !is_long && arg[2] ? arg + 2 : NULL;
    if (!given->spec->takes_value) {
        if (given->value) {
            usage_error(error, "option '%s' takes no value", arg);
        }
        return !given->value;
    }
    if (!given->value) {
        given->value = argv[*i];
        *i += given->value != NULL;
    }
    if (!given->value) {
        usage_error(error, "option '%s' needs a value", arg);
        return false;
    }
    return true;
}

static GArray *split(int argc, char **argv, GError **error)
{
    g_autoptr(GArray) list = g_array_new(FALSE, FALSE, sizeof(Given));

    for (int i = 1; i < argc;) {
        Given given;

        if (!split_one(argv, &i, &given, error)) {
            return NULL;
        }
        g_array_append_val(list, given);
    }
    return g_steal_pointer(&list);
}

/* ---- questions ---- */

/* Say of an error with which value of which option it is. */
static void name_given(GError **error, const Given *given)
{
    g_prefix_error(error, "--%s%s%s: ", given->spec->name, given->value ? " " : "",
                   given->value ?: "");
}

/* What to print if @given asks something; NULL if it does not, or wrongly (@error). */
static char *answer_one(const Given *given, GError **error)
{
    char *text;

    if (given->spec->id == OPT_HELP) {
        return help_usage();
    }
    if (given->spec->id == OPT_VERSION) {
        return help_version();
    }
    text = given->value ? help_for_value(given->spec->name, given->value, error) : NULL;
    if (!text) {
        name_given(error, given);
    }
    return text;
}

/* The same for the whole command line; an answer goes before all that is wrong. */
static char *answer(const GArray *list, GError **error)
{
    g_autoptr(GError) wrong = NULL;

    for (guint i = 0; i < list->len; i++) {
        char *text = answer_one(&g_array_index(list, Given, i), wrong ? NULL : &wrong);

        if (text) {
            return text;
        }
    }
    if (wrong) {
        g_propagate_error(error, g_steal_pointer(&wrong));
    }
    return NULL;
}

/* ---- values ---- */

static void start_item_free(StartItem *item)
{
    switch (item->kind) {
    case START_OBJECT:
        object_options_free(item->u.object);
        break;
    case START_CHARDEV:
        chardev_config_free(item->u.chardev);
        break;
    case START_BLOCKDEV:
        blockdev_options_free(item->u.blockdev);
        break;
    case START_EXPORT:
        block_export_options_free(item->u.export);
        break;
    case START_MONITOR:
        monitor_options_free(item->u.monitor);
        break;
    case START_NBD_SERVER:
        nbd_server_options_free(item->u.nbd_server);
        break;
    }
    g_clear_pointer(&item->value, qvalue_unref);
    g_free(item->option);
    g_free(item->text);
    g_free(item);
}

void daemon_options_free(DaemonOptions *options)
{
    if (!options) {
        return;
    }
    g_ptr_array_unref(options->items);
    g_free(options->pidfile);
    g_free(options->log.file);
    g_free(options);
}

/*
 * --chardev alone knows flags without a value: "server" for server=on, "nowait" for wait=off.
 * Returns @text with these written out.
 */
static char *expand_chardev_flags(const char *text)
{
    static const char *const flags[][2] = {
        {"server", "server=on"},   {"wait", "wait=on"},         {"nowait", "wait=off"},
        {"nodelay", "nodelay=on"}, {"abstract", "abstract=on"}, {"tight", "tight=on"},
        {"ipv4", "ipv4=on"},       {"ipv6", "ipv6=on"},
    };
    GString *out = g_string_new(NULL);
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);

    /* A doubled comma gives an empty part, and what follows is the rest of a value. */
    for (gsize i = 0; parts[i]; i++) {
        bool inside = i > 0 && (!*parts[i] || (i > 1 && !*parts[i - 1]));
        const char *part = parts[i];

        for (gsize f = 0; !inside && i > 0 && f < G_N_ELEMENTS(flags); f++) {
            part = g_str_equal(part, flags[f][0]) ? flags[f][1] : part;
        }
        g_string_append_printf(out, "%s%s", i > 0 ? "," : "", part);
    }
    return g_string_free(out, FALSE);
}

static bool read_chardev(StartItem *item, GError **error)
{
    g_autoptr(ChardevOptions) options = chardev_options_from_keyval(item->value, error);

    item->u.chardev = options ? chardev_config_from_options(options, error) : NULL;
    return item->u.chardev != NULL;
}

/* Turn the value into the typed options of its kind. */
static bool read_typed(StartItem *item, GError **error)
{
    switch (item->kind) {
    case START_OBJECT:
        item->u.object = object_options_from_keyval(item->value, error);
        return item->u.object != NULL;
    case START_CHARDEV:
        return read_chardev(item, error);
    case START_BLOCKDEV:
        item->u.blockdev = blockdev_options_from_keyval(item->value, error);
        return item->u.blockdev != NULL;
    case START_EXPORT:
        item->u.export = block_export_options_from_keyval(item->value, error);
        return item->u.export != NULL;
    case START_MONITOR:
        item->u.monitor = monitor_options_from_keyval(item->value, error);
        return item->u.monitor != NULL;
    case START_NBD_SERVER:
        item->u.nbd_server = nbd_server_options_from_keyval(item->value, error);
        return item->u.nbd_server != NULL;
    }
    g_assert_not_reached();
}

static bool read_item(DaemonOptions *options, const Given *given, GError **error)
{
    StartItem *item = g_new0(StartItem, 1);
    g_autofree char *text = given->spec->id == OPT_CHARDEV && *given->value != '{'
                                ? expand_chardev_flags(given->value)
                                : g_strdup(given->value);

    item->kind = (StartKind)given->spec->id;
    item->option = g_strdup_printf("--%s", given->spec->name);
    item->text = g_strdup(given->value);
    g_ptr_array_add(options->items, item);
    item->value = keyval_parse(text, given->spec->implied_key, error);
    return item->value && read_typed(item, error);
}

static bool read_log_member(LogOptions *log, const char *key, const char *text, GError **error)
{
    if (g_str_equal(key, "level")) {
        if (log_level_from_string(text, &log->level)) {
            return true;
        }
        usage_error(error, "'level' must be error, warning, notice, info or debug, not '%s'", text);
        return false;
    }
    if (g_str_equal(key, "format")) {
        if (g_str_equal(text, "text") || g_str_equal(text, "json")) {
            log->json = g_str_equal(text, "json");
            return true;
        }
        usage_error(error, "'format' must be text or json, not '%s'", text);
        return false;
    }
    if (g_str_equal(key, "file")) {
        g_free(log->file);
        log->file = g_canonicalize_filename(text, NULL);
        return true;
    }
    usage_error(error, "there is no '%s': only 'level', 'format' and 'file'", key);
    return false;
}

static bool read_log(DaemonOptions *options, const Given *given, GError **error)
{
    g_autoptr(QValue) value = keyval_parse(given->value, given->spec->implied_key, error);

    if (!value) {
        return false;
    }
    for (gsize i = 0; i < qvalue_object_size(value); i++) {
        const QValue *member = qvalue_object_value(value, i);

        if (qvalue_type(member) != QVALUE_STRING) {
            usage_error(error, "'%s' must be a string", qvalue_object_key(value, i));
            return false;
        }
        if (!read_log_member(&options->log, qvalue_object_key(value, i),
                             qvalue_get_string(member, NULL), error)) {
            return false;
        }
    }
    return true;
}

static bool read_aio(DaemonOptions *options, const char *text, GError **error)
{
    static const char *const names[] = {"auto", "io_uring", "epoll"};

    for (gsize i = 0; i < G_N_ELEMENTS(names); i++) {
        if (g_str_equal(names[i], text)) {
            options->aio = names[i];
            return true;
        }
    }
    usage_error(error, "it must be auto, io_uring or epoll");
    return false;
}

static bool read_pidfile(DaemonOptions *options, const char *text, GError **error)
{
    if (!*text) {
        usage_error(error, "the path must not be empty");
        return false;
    }
    g_free(options->pidfile);
    options->pidfile = g_canonicalize_filename(text, NULL);
    return true;
}

static bool read_given(DaemonOptions *options, const Given *given, GError **error)
{
    switch (given->spec->id) {
    case OPT_AIO:
        return read_aio(options, given->value, error);
    case OPT_DAEMONIZE:
        options->daemonize = true;
        return true;
    case OPT_EXIT_WHEN_IDLE:
        options->exit_when_idle = true;
        return true;
    case OPT_LOG:
        return read_log(options, given, error);
    case OPT_PIDFILE:
        return read_pidfile(options, given->value, error);
    case OPT_TRACE:
        /* There are no trace events; whoever asks for them wants to see more. */
        options->log.level = LOG_LEVEL_DEBUG;
        return true;
    default:
        return read_item(options, given, error);
    }
}

DaemonOptions *daemon_options_parse(int argc, char **argv, char **ret_answer, GError **error)
{
    g_autoptr(GArray) list = split(argc, argv, error);
    g_autoptr(DaemonOptions) options = NULL;
    g_autoptr(GError) wrong = NULL;

    *ret_answer = list ? answer(list, &wrong) : NULL;
    if (wrong) {
        g_propagate_error(error, g_steal_pointer(&wrong));
        return NULL;
    }
    if (!list || *ret_answer) {
        return NULL;
    }
    options = g_new0(DaemonOptions, 1);
    options->items = g_ptr_array_new_with_free_func((GDestroyNotify)start_item_free);
    options->log.level = LOG_LEVEL_NOTICE;
    for (guint i = 0; i < list->len; i++) {
        const Given *given = &g_array_index(list, Given, i);

        if (!read_given(options, given, error)) {
            name_given(error, given);
            return NULL;
        }
    }
    return g_steal_pointer(&options);
}
