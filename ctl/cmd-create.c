/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wharfctl create: a new image, made by a daemon of its own. Which options there are the daemon
 * tells; names that qemu-img has for them are understood, too.
 */
#include "ctl/commands.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/args.h"
#include "ctl/exports.h"
#include "ctl/help.h"
#include "ctl/image.h"
#include "ctl/json.h"
#include "ctl/newfile.h"
#include "ctl/output.h"
#include "ctl/place.h"
#include "ctl/private.h"
#include "ctl/text.h"

#define COMMAND "blockdev-create"
#define JOB     "create"
#define SECTOR  512

typedef struct CreateOptions {
    const char *format;
    const char *options;
    const char *backing;
    const char *backing_format;
    bool unsafe;
    bool force;
    bool quiet;
} CreateOptions;

static const CtlOption create_options[] = {
    {"format", 'f', "FMT", "raw|qcow2", offsetof(CreateOptions, format),
     "format of IMAGE: raw (default) or qcow2"},
    {"options", 'o', "KEY=VALUE,...", NULL, offsetof(CreateOptions, options),
     "options of the format; '-o help' lists them"},
    {"backing", 'b', "FILE", NULL, offsetof(CreateOptions, backing),
     "what IMAGE does not have itself comes from FILE"},
    {"backing-format", 'F', "FMT", "raw|qcow2", offsetof(CreateOptions, backing_format),
     "format of that FILE, needed with it"},
    {"unsafe", 'u', NULL, NULL, offsetof(CreateOptions, unsafe), "do not look at the backing FILE"},
    {"force", 0, NULL, NULL, offsetof(CreateOptions, force),
     "also if IMAGE is there already; all that is in it is lost"},
    {"quiet", 'q', NULL, NULL, offsetof(CreateOptions, quiet), "say nothing"},
    {NULL},
};

/* One file of the image. */
typedef struct Part {
    const char *node; /* name of its node */
    char *path;       /* absolute; NULL: there is no such part */
    bool is_device;
    CtlNewFile made; /* if it was not there */
} Part;

typedef struct Creation {
    const CreateOptions *options;
    const char *format;
    const char *name; /* of the image, as it was typed */
    CtlPrivate *daemon;
    CtlSchema *schema;
    Part image, data;
    GPtrArray *words;      /* char *: arguments of COMMAND, for the format */
    GPtrArray *file_words; /* those for the file below, if there is a format above */
    char *backing, *backing_format;
    bool keeps_data; /* the data file is the disk as it is, and stays so */
    bool has_size;
    guint64 size;
} Creation;

static void usage(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

static void usage(GError **error, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    g_propagate_error(error, g_error_new_valist(CTL_ERROR, CTL_ERROR_USAGE, format, ap));
    va_end(ap);
}

static bool is_raw(const Creation *c)
{
    return strcmp(c->format, "raw") == 0;
}

/* ---- What the command line says ---- */

static bool parse_size(Creation *c, const char *text, GError **error)
{
    bool negative;

    if (!ctl_text_parse_integer(text, &negative, &c->size) || negative || c->size > G_MAXINT64) {
        usage(error, "'%s' is no size; examples: 10G, 512M, 1073741824", text);
        return false;
    }
    c->has_size = true;
    return true;
}

/* @path as seen from where the image lies. */
static char *beside_image(const Creation *c, const char *path)
{
    g_autofree char *directory = g_path_get_dirname(c->image.path);

    return g_path_is_absolute(path) ? g_strdup(path) : g_build_filename(directory, path, NULL);
}

/* qemu-img's word for the version. */
static const char *version_of(const char *compat)
{
    if (strcmp(compat, "0.10") == 0 || strcmp(compat, "v2") == 0) {
        return "v2";
    }
    return strcmp(compat, "1.1") == 0 || strcmp(compat, "v3") == 0 ? "v3" : compat;
}

static bool is_for_file(const char *key)
{
    return strcmp(key, "nocow") == 0 || strcmp(key, "extent-size-hint") == 0;
}

static bool is_on(const char *value)
{
    return strcmp(value, "on") == 0 || strcmp(value, "yes") == 0 || strcmp(value, "true") == 0 ||
           strcmp(value, "y") == 0;
}

/* One "key=value" of -o. */
static bool take_option(Creation *c, const char *option, GError **error)
{
    const char *equals = strchr(option, '=');
    g_autofree char *key = equals ? g_strndup(option, equals - option) : NULL;
    const char *value = equals ? equals + 1 : NULL;

    if (!equals || equals == option) {
        usage(error, "'%s' in --options is not of the form KEY=VALUE", option);
        return false;
    }
    g_strdelimit(key, "_", '-');
    if (strcmp(key, "size") == 0) {
        return parse_size(c, value, error);
    }
    if (strcmp(key, "backing-file") == 0) {
        g_free(c->backing);
        c->backing = g_strdup(value);
    } else if (strcmp(key, "backing-fmt") == 0) {
        g_free(c->backing_format);
        c->backing_format = g_strdup(value);
    } else if (strcmp(key, "data-file") == 0 && !is_raw(c)) {
        g_free(c->data.path);
        c->data.path = beside_image(c, value);
    } else if (strcmp(key, "compat") == 0) {
        g_ptr_array_add(c->words, g_strdup_printf("options.version=%s", version_of(value)));
    } else {
        c->keeps_data = c->keeps_data || (strcmp(key, "data-file-raw") == 0 && is_on(value));
        g_ptr_array_add(is_for_file(key) ? c->file_words : c->words,
                        g_strdup_printf("options.%s=%s", key, value));
    }
    return true;
}

/* The parts between commas; two commas stand for one that is meant. */
static GPtrArray *split_options(const char *text)
{
    GPtrArray *parts = g_ptr_array_new_with_free_func(g_free);
    GString *part = g_string_new(NULL);

    for (const char *p = text; *p; p++) {
        if (*p == ',' && p[1] != ',') {
            g_ptr_array_add(parts, g_string_free(part, FALSE));
            part = g_string_new(NULL);
            continue;
        }
        p += *p == ',';
        g_string_append_c(part, *p);
    }
    g_ptr_array_add(parts, g_string_free(part, FALSE));
    return parts;
}

static bool take_options(Creation *c, GError **error)
{
    g_autoptr(GPtrArray) parts = split_options(c->options->options);

    for (guint i = 0; i < parts->len; i++) {
        if (!take_option(c, parts->pdata[i], error)) {
            return false;
        }
    }
    return true;
}

static bool check_backing(const Creation *c, GError **error)
{
    if (!c->backing && (c->backing_format || c->options->unsafe)) {
        usage(error, "%s needs --backing", c->backing_format ? "--backing-format" : "--unsafe");
        return false;
    }
    if (!c->backing) {
        return true;
    }
    if (is_raw(c)) {
        usage(error, "a raw image has no backing file; use --format=qcow2");
        return false;
    }
    if (!c->backing_format) {
        usage(error, "the format of the backing file is not guessed; give --backing-format");
        return false;
    }
    return true;
}

static bool read_command_line(Creation *c, char **words, GError **error)
{
    const CreateOptions *o = c->options;

    c->backing = g_strdup(o->backing);
    c->backing_format = g_strdup(o->backing_format);
    c->image.path = ctl_place_absolute(words[0], error);
    if (!c->image.path || (o->options && !take_options(c, error)) || !check_backing(c, error)) {
        return false;
    }
    return !words[1] || parse_size(c, words[1], error);
}

/* ---- Parts ---- */

static bool run(Creation *c, const char *command, QValue *take_args, GError **error)
{
    g_autoptr(QValue) result = ctl_private_call(c->daemon, command, take_args, error);

    return result != NULL;
}

/* COMMAND with @words, as a job. */
static bool run_create(Creation *c, GPtrArray *words, GError **error)
{
    g_autoptr(QValue) job = NULL;
    QValue *args;

    g_ptr_array_add(words, g_strdup("job-id=" JOB));
    g_ptr_array_add(words, NULL);
    args = ctl_args_convert(c->schema, COMMAND, (char **)words->pdata, error);
    job = args ? ctl_private_run_job(c->daemon, COMMAND, args, JOB, NULL, error) : NULL;
    return job != NULL;
}

static void add_pair(GPtrArray *words, const char *key, const char *value)
{
    g_ptr_array_add(words, g_strdup_printf("options.%s=%s", key, value));
}

static void add_size(GPtrArray *words, guint64 size)
{
    g_ptr_array_add(words, g_strdup_printf("options.size=%" G_GUINT64_FORMAT, size));
}

/* By which the daemon finds the file of @part. */
static const char *reach(const Part *part)
{
    return part->made.path ? ctl_new_file_reach(&part->made) : part->path;
}

/* Have the daemon make the file of @part what it is to be, of @size bytes. Takes @take_words. */
static bool shape_file(Creation *c, Part *part, guint64 size, GPtrArray *take_words, GError **error)
{
    g_autoptr(GPtrArray) words = take_words;

    add_pair(words, "driver", "file");
    add_pair(words, "filename", reach(part));
    add_size(words, size);
    return run_create(c, words, error);
}

/*
 * Have the file of @part, if there is none. It is made here: so it is known to be ours when it has
 * to go again. The name of what holds the data goes into the image, so it must have that at once.
 */
static bool find_file(Creation *c, Part *part, GError **error)
{
    struct stat st;

    if (stat(part->path, &st) == 0) {
        part->is_device = S_ISBLK(st.st_mode);
        return true;
    }
    return ctl_new_file_make(&part->made, part->path, part == &c->image, error);
}

/* Have the node of @part. What is there is left alone so far, for it may not come to anything. */
static bool open_part(Creation *c, Part *part, GPtrArray *take_words, GError **error)
{
    g_autoptr(GPtrArray) words = take_words;

    if (!find_file(c, part, error) ||
        (part->made.path && !shape_file(c, part, 0, g_steal_pointer(&words), error))) {
        return false;
    }
    return run(c, "blockdev-add",
               ctl_json_strings("driver", part->is_device ? "host_device" : "file", "node-name",
                                part->node, "filename", reach(part), NULL),
               error);
}

/* Whether the two paths lead to the same file, which is there. */
static bool is_same_file(const char *a, const char *b)
{
    struct stat x, y;

    if (stat(a, &x) < 0 || stat(b, &y) < 0) {
        return false;
    }
    return S_ISBLK(x.st_mode) && S_ISBLK(y.st_mode) ? x.st_rdev == y.st_rdev
                                                    : x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* What is made must not be what it is made upon. */
static bool check_not_backing(const Creation *c, const Part *part, const char *backing,
                              GError **error)
{
    if (!part->path || !is_same_file(part->path, backing)) {
        return true;
    }
    g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                "'%s' is its own backing file '%s', and would lose all that is in it; choose "
                "another name",
                part->path, c->backing);
    return false;
}

/* Whether the backing file can be opened; how large it is, if nothing else is said. */
static bool look_at_backing(Creation *c, GError **error)
{
    g_autofree char *path = beside_image(c, c->backing);
    g_autoptr(QValue) nodes = NULL;
    bool is_device;

    if (!check_not_backing(c, &c->image, path, error) ||
        !check_not_backing(c, &c->data, path, error)) {
        return false;
    }
    if (c->options->unsafe) {
        return true;
    }
    if (!ctl_image_check(path, c->backing_format, &is_device, error) ||
        !run(c, "blockdev-add", ctl_image_node("backing", path, c->backing_format, is_device),
             error)) {
        g_prefix_error(error, "backing file: ");
        return false;
    }
    nodes = ctl_nodes_query(ctl_private_client(c->daemon), error);
    if (!nodes) {
        return false;
    }
    if (!c->has_size) {
        c->size = ctl_nodes_length(ctl_nodes_find(nodes, "backing"));
        c->has_size = c->size != G_MAXUINT64;
    }
    return run(c, "blockdev-del", ctl_json_strings("node-name", "backing", NULL), error);
}

static GPtrArray *new_words(void)
{
    return g_ptr_array_new_with_free_func(g_free);
}

static bool create_format(Creation *c, GError **error)
{
    if (!open_part(c, &c->image, g_steal_pointer(&c->file_words), error) ||
        (c->data.path && !open_part(c, &c->data, new_words(), error))) {
        return false;
    }
    add_pair(c->words, "driver", c->format);
    add_pair(c->words, "file", c->image.node);
    c->size = (c->size + SECTOR - 1) & ~(guint64)(SECTOR - 1);
    add_size(c->words, c->size);
    if (c->data.path) {
        add_pair(c->words, "data-file", c->data.node);
    }
    if (c->backing) {
        add_pair(c->words, "backing-file", c->backing);
        add_pair(c->words, "backing-fmt", c->backing_format);
    }
    return run_create(c, c->words, error);
}

static bool create_raw(Creation *c, GError **error)
{
    for (guint i = 0; i < c->file_words->len; i++) {
        g_ptr_array_add(c->words, g_strdup(c->file_words->pdata[i]));
    }
    return find_file(c, &c->image, error) &&
           shape_file(c, &c->image, c->size, g_steal_pointer(&c->words), error);
}

/* Whether what is there already need not be kept. */
static bool check_blank(const Creation *c, GError **error)
{
    if (c->options->force) {
        return true;
    }
    if (!ctl_image_is_blank(c->image.path)) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                    "there is something already; --force makes it anew, and all that is in it is "
                    "lost");
        return false;
    }
    if (c->data.path && !c->keeps_data && !ctl_image_is_blank(c->data.path)) {
        g_set_error(error, CTL_ERROR, CTL_ERROR_FAILED,
                    "there is something already in its data file '%s'; data_file_raw=on makes that "
                    "the disk's content, --force gives it up",
                    c->data.path);
        return false;
    }
    return true;
}

static bool create(Creation *c, GError **error)
{
    if (!check_blank(c, error)) {
        return false;
    }
    if (c->backing && !look_at_backing(c, error)) {
        return false;
    }
    if (!c->has_size) {
        usage(error, "how large is the image to be? Say so behind its name: 10G");
        return false;
    }
    return is_raw(c) ? create_raw(c, error) : create_format(c, error);
}

/* ---- The command ---- */

/* What "-o help" tells. */
static bool help_options(Creation *c, GError **error)
{
    static const char *const given[] = {"driver", "file",    "filename", "data-file",
                                        "size",   "encrypt", NULL};
    g_autoptr(CtlSchema) schema = ctl_schema_fetch_documented(ctl_private_client(c->daemon), error);
    const QValue *type = NULL;
    g_autoptr(GArray) members = NULL;
    g_autofree char *text = NULL;

    if (!schema) {
        return false;
    }
    members = ctl_type_members(schema, ctl_schema_arguments(schema, COMMAND));
    for (guint i = 0; i < members->len; i++) {
        const CtlMember *member = &g_array_index(members, CtlMember, i);

        if (strcmp(member->name, "options") == 0) {
            type = ctl_type_variant(schema, member->type, is_raw(c) ? "file" : c->format);
        }
    }
    text = ctl_help_members(schema, type, given);
    printf("Options of format %s, for --options:\n%s%s", c->format,
           is_raw(c)
               ? ""
               : "  [data-file=FILE]            the file that is to hold its data; made if it is "
                 "not there\n",
           text);
    return true;
}

static void tell(const Ctl *ctl, const Creation *c)
{
    g_autofree char *size = ctl_text_size(c->size);
    g_autoptr(QValue) facts = NULL;

    if (ctl->json) {
        facts = ctl_json_strings("image", c->image.path, "format", c->format, NULL);
        qvalue_object_set(facts, "size", qvalue_uint(c->size));
        ctl_output_json(facts);
    } else if (!c->options->quiet) {
        g_autofree char *name = ctl_text_printable(c->name, -1);

        printf("%s is a new %s image of %s.\n", name, c->format, size);
    }
}

/* The schema's words for what was typed without a prefix, and ours for a file without a name. */
static void simplify(const Creation *c, GError **error)
{
    GString *text = g_string_new((*error)->message);

    g_string_replace(text, "options.", "", 0);
    if (c->image.made.handle) {
        g_string_replace(text, c->image.made.handle, c->image.path, 0);
    }
    g_free((*error)->message);
    (*error)->message = g_string_free(text, FALSE);
}

static bool give_name(Part *part, GError **error)
{
    return !part->made.path || ctl_new_file_name(&part->made, error);
}

static bool run_with_daemon(const Ctl *ctl, Creation *c, GError **error)
{
    c->schema = ctl_schema_fetch(ctl_private_client(c->daemon), error);
    if (!c->schema || !create(c, error) || !give_name(&c->data, error) ||
        !give_name(&c->image, error) || !ctl_private_end(c->daemon, error)) {
        return false;
    }
    ctl_new_file_keep(&c->data.made);
    ctl_new_file_keep(&c->image.made);
    tell(ctl, c);
    return true;
}

static bool wants_help(const CreateOptions *o)
{
    return o->options && (strcmp(o->options, "help") == 0 || strcmp(o->options, "?") == 0);
}

static bool start(const Ctl *ctl, Creation *c, char **words, GError **error)
{
    bool help = wants_help(c->options);

    if (!help && !words[0]) {
        usage(error, "which image? usage: wharfctl create [OPTION...] IMAGE [SIZE]");
        return false;
    }
    if (!help && !read_command_line(c, words, error)) {
        return false;
    }
    c->daemon = ctl_private_start(ctl, error);
    if (!c->daemon) {
        return false;
    }
    return help ? help_options(c, error) && ctl_private_end(c->daemon, error)
                : run_with_daemon(ctl, c, error);
}

static void creation_clear(Creation *c)
{
    /* While there is a daemon signals do not end us, and so nothing is left behind. */
    ctl_new_file_clear(&c->image.made);
    ctl_new_file_clear(&c->data.made);
    ctl_private_free(c->daemon);
    ctl_schema_free(c->schema);
    g_free(c->image.path);
    g_free(c->data.path);
    g_clear_pointer(&c->words, g_ptr_array_unref);
    g_clear_pointer(&c->file_words, g_ptr_array_unref);
    g_free(c->backing);
    g_free(c->backing_format);
}

static bool run_command(const Ctl *ctl, const void *opts, char **words, GError **error)
{
    const CreateOptions *o = opts;
    Creation c = {
        .options = o,
        .format = o->format ? o->format : "raw",
        .name = words[0],
        .image = {.node = "image"},
        .data = {.node = "data"},
        .words = new_words(),
        .file_words = new_words(),
    };
    bool ok = start(ctl, &c, words, error);

    if (!ok) {
        simplify(&c, error);
    }
    creation_clear(&c);
    if (!ok && words[0]) {
        g_prefix_error(error, "cannot create '%s': ", words[0]);
    }
    return ok;
}

const CtlCommand ctl_command_create = {
    .name = "create",
    .synopsis = "IMAGE [SIZE]",
    .summary = "make a new image",
    .details =
        "SIZE takes k, M, G, T (powers of 1024); it may be left out with a backing file, whose\n"
        "size the image has then. An IMAGE or data file that is there already and not empty is\n"
        "left alone, unless --force is given. If something fails, what was made is removed. No "
        "running\n"
        "daemon is needed.\n"
        "\n"
        "  wharfctl create -f qcow2 disk.qcow2 20G\n"
        "  wharfctl create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2\n"
        "  wharfctl create -f qcow2 -o cluster_size=1M,preallocation=falloc disk.qcow2 20G",
    .words = CTL_WORDS_FILES,
    .max_words = 2,
    .options = create_options,
    .options_size = sizeof(CreateOptions),
    .run = run_command,
};
