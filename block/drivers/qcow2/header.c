/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/header.h"

#include "block/drivers/qcow2/be.h"
#include "util/error.h"

#define MAGIC 0x514649fb /* "QFI\xfb" */

/* Where the fields stand. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_BACKING_OFFSET = 8,
    AT_BACKING_SIZE = 16,
    AT_CLUSTER_BITS = 20,
    AT_SIZE = 24,
    AT_CRYPT = 32,
    AT_L1_ENTRIES = 36,
    AT_L1_OFFSET = 40,
    AT_REFTABLE_OFFSET = 48,
    AT_REFTABLE_CLUSTERS = 56,
    AT_N_SNAPSHOTS = 60,
    AT_SNAPSHOTS_OFFSET = 64,
    V2_LENGTH = 72,
    AT_INCOMPATIBLE = 72,
    AT_COMPATIBLE = 80,
    AT_AUTOCLEAR = 88,
    AT_REFCOUNT_ORDER = 96,
    AT_HEADER_LENGTH = 100,
    V3_LENGTH = 104,
    AT_COMPRESSION = 104,
    V3_LENGTH_KNOWN = 112, /* with all fields that are known here */
};

#define V2_REFCOUNT_ORDER  4
#define MAX_REFCOUNT_ORDER 6

/* An entry of the table of feature names. */
#define FEATURE_ENTRY 48
#define FEATURE_NAME  46

#define KNOWN_INCOMPATIBLE                                                                         \
    (QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT | QCOW2_INCOMPATIBLE_DATA_FILE |        \
     QCOW2_INCOMPATIBLE_COMPRESSION | QCOW2_INCOMPATIBLE_EXTENDED_L2)

/* Fail with @error; also a size of 0. */
#define BAD(...) (g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC, __VA_ARGS__), false)
#define UNSUPPORTED(...)                                                                           \
    (g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED, __VA_ARGS__), false)

static uint64_t round_up8(uint64_t n)
{
    return (n + 7) & ~UINT64_C(7);
}

static uint64_t cluster_size(const Qcow2Header *h)
{
    return UINT64_C(1) << h->cluster_bits;
}

/* Extensions */

static void extension_clear(gpointer extension)
{
    g_bytes_unref(((Qcow2Extension *)extension)->data);
}

static Qcow2Extension *find_extension(const Qcow2Header *h, uint32_t type)
{
    for (guint i = 0; i < h->extensions->len; i++) {
        Qcow2Extension *e = &g_array_index(h->extensions, Qcow2Extension, i);

        if (e->type == type) {
            return e;
        }
    }
    return NULL;
}

GBytes *qcow2_header_extension(const Qcow2Header *header, uint32_t type)
{
    const Qcow2Extension *e = find_extension(header, type);

    return e ? e->data : NULL;
}

uint32_t qcow2_header_extension_at(const Qcow2Header *header, uint32_t type)
{
    const Qcow2Extension *e = find_extension(header, type);

    return e ? e->at : 0;
}

void qcow2_header_set_extension(Qcow2Header *header, uint32_t type, GBytes *data)
{
    Qcow2Extension *e = find_extension(header, type);
    Qcow2Extension fresh = {.type = type, .data = data};

    if (e && data) {
        g_bytes_unref(e->data);
        e->data = data;
    } else if (e) {
        g_array_remove_index(header->extensions, e - (Qcow2Extension *)header->extensions->data);
    } else if (data) {
        g_array_append_val(header->extensions, fresh);
    }
}

GBytes *qcow2_header_known_features(void)
{
    /* The kinds of fields: 0 incompatible, 1 compatible, 2 autoclear. */
    static const struct {
        uint8_t kind, bit;
        const char *name;
    } features[] = {
        {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
        {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
        {2, 0, "bitmaps"},          {2, 1, "raw external data"},
    };
    uint8_t table[G_N_ELEMENTS(features)][FEATURE_ENTRY] = {{0}};

    for (unsigned i = 0; i < G_N_ELEMENTS(features); i++) {
        table[i][0] = features[i].kind;
        table[i][1] = features[i].bit;
        g_strlcpy((char *)&table[i][2], features[i].name, FEATURE_NAME);
    }
    return g_bytes_new(table, sizeof(table));
}

char *qcow2_header_extension_string(const Qcow2Header *header, uint32_t type)
{
    GBytes *data = qcow2_header_extension(header, type);

    return data ? g_strndup(g_bytes_get_data(data, NULL), g_bytes_get_size(data)) : NULL;
}

char *qcow2_header_feature_name(const Qcow2Header *header, unsigned kind, unsigned bit)
{
    GBytes *table = qcow2_header_extension(header, QCOW2_EXTENSION_FEATURE_NAMES);
    gsize size = 0;
    const uint8_t *entry = table ? g_bytes_get_data(table, &size) : NULL;

    for (; size >= FEATURE_ENTRY; entry += FEATURE_ENTRY, size -= FEATURE_ENTRY) {
        if (entry[0] == kind && entry[1] == bit && entry[2]) {
            g_autofree char *name = g_strndup((const char *)entry + 2, FEATURE_NAME);

            return g_utf8_make_valid(name, -1);
        }
    }
    return g_strdup_printf("bit %u", bit);
}

/* Parse */

size_t qcow2_header_extent(const void *start, size_t length, GError **error)
{
    const uint8_t *p = start;
    uint32_t version, bits;

    if (length < QCOW2_HEADER_MIN || be32_get(p + AT_MAGIC) != MAGIC) {
        return BAD("it is no qcow2 image, for it does not begin with 'QFI\\xfb' and a header");
    }
    version = be32_get(p + AT_VERSION);
    if (version != 2 && version != 3) {
        return UNSUPPORTED("qcow2 version %u is not supported; 2 and 3 are", version);
    }
    bits = be32_get(p + AT_CLUSTER_BITS);
    if (bits < QCOW2_MIN_CLUSTER_BITS || bits > QCOW2_MAX_CLUSTER_BITS) {
        return BAD("clusters of 2^%u bytes are not possible; %d to %d are", bits,
                   QCOW2_MIN_CLUSTER_BITS, QCOW2_MAX_CLUSTER_BITS);
    }
    return (size_t)1 << bits;
}

static void parse_fields_v2(Qcow2Header *h, const uint8_t *p)
{
    h->version = be32_get(p + AT_VERSION);
    h->cluster_bits = be32_get(p + AT_CLUSTER_BITS);
    h->size = be64_get(p + AT_SIZE);
    h->crypt = be32_get(p + AT_CRYPT);
    h->l1_entries = be32_get(p + AT_L1_ENTRIES);
    h->l1_offset = be64_get(p + AT_L1_OFFSET);
    h->reftable_offset = be64_get(p + AT_REFTABLE_OFFSET);
    h->reftable_clusters = be32_get(p + AT_REFTABLE_CLUSTERS);
    h->n_snapshots = be32_get(p + AT_N_SNAPSHOTS);
    h->snapshots_offset = be64_get(p + AT_SNAPSHOTS_OFFSET);
    h->refcount_order = V2_REFCOUNT_ORDER;
}

/* The fields of version 3. Returns the header's length, or 0. */
static size_t parse_fields_v3(Qcow2Header *h, const uint8_t *p, size_t length, GError **error)
{
    uint32_t n;

    if (length < V3_LENGTH) {
        return BAD("the file ends within the header");
    }
    n = be32_get(p + AT_HEADER_LENGTH);
    if (n < V3_LENGTH || n % 8 != 0 || n > length) {
        return BAD("the header cannot have %u bytes; it has a multiple of 8, at least %d, and "
                   "lies in the first cluster",
                   n, V3_LENGTH);
    }
    h->incompatible = be64_get(p + AT_INCOMPATIBLE);
    h->compatible = be64_get(p + AT_COMPATIBLE);
    h->autoclear = be64_get(p + AT_AUTOCLEAR);
    h->refcount_order = be32_get(p + AT_REFCOUNT_ORDER);
    if (n > AT_COMPRESSION) {
        h->compression = p[AT_COMPRESSION];
    }
    if (n > V3_LENGTH_KNOWN) {
        h->more_fields = g_bytes_new(p + V3_LENGTH_KNOWN, n - V3_LENGTH_KNOWN);
    }
    return n;
}

/* Its data stands at @at of @p. */
static bool add_extension(Qcow2Header *h, uint32_t type, const uint8_t *p, size_t at, uint32_t size,
                          GError **error)
{
    Qcow2Extension e = {.type = type, .at = at};
    bool known = type == QCOW2_EXTENSION_BACKING_FORMAT || type == QCOW2_EXTENSION_FEATURE_NAMES ||
                 type == QCOW2_EXTENSION_BITMAPS || type == QCOW2_EXTENSION_ENCRYPTION ||
                 type == QCOW2_EXTENSION_DATA_FILE;

    if (known && find_extension(h, type)) {
        return BAD("header extension 0x%08x is there twice", type);
    }
    e.data = g_bytes_new(p + at, size);
    g_array_append_val(h->extensions, e);
    return true;
}

/* Extensions from @at on, up to their end mark or @end. */
static bool parse_extensions(Qcow2Header *h, const uint8_t *p, size_t at, size_t end,
                             GError **error)
{
    while (end - at >= 8) {
        uint32_t type = be32_get(p + at);
        uint32_t size = be32_get(p + at + 4);

        if (type == QCOW2_EXTENSION_END) {
            return true;
        }
        at += 8;
        if (size > end - at) {
            return BAD("header extension 0x%08x of %u bytes reaches past the end of the header",
                       type, size);
        }
        if (!add_extension(h, type, p, at, size, error)) {
            return false;
        }
        at += MIN(round_up8(size), end - at);
    }
    return true;
}

/* The backing file's name. *@at gets where it stands, *@end where extensions must end. */
static bool parse_backing(Qcow2Header *h, const uint8_t *p, size_t header, size_t length,
                          size_t *end, GError **error)
{
    uint64_t at = be64_get(p + AT_BACKING_OFFSET);
    uint32_t size = be32_get(p + AT_BACKING_SIZE);

    *end = length;
    if (at == 0) {
        return true;
    }
    if (size > QCOW2_MAX_BACKING_NAME) {
        return BAD("the name of the backing file has %u bytes; at most %d are possible", size,
                   QCOW2_MAX_BACKING_NAME);
    }
    if (at < header || at > length || size > length - at) {
        return BAD("the name of the backing file (%u bytes at %" G_GUINT64_FORMAT
                   ") does not lie in the first cluster, behind the header",
                   size, at);
    }
    if (size == 0 || memchr(p + at, '\0', size)) {
        return BAD("the name of the backing file is %s", size ? "cut by a zero byte" : "empty");
    }
    h->backing_file = g_strndup((const char *)p + at, size);
    *end = at;
    return true;
}

Qcow2Header *qcow2_header_new(void)
{
    Qcow2Header *h = g_new0(Qcow2Header, 1);

    h->extensions = g_array_new(FALSE, FALSE, sizeof(Qcow2Extension));
    g_array_set_clear_func(h->extensions, extension_clear);
    return h;
}

Qcow2Header *qcow2_header_parse(const void *start, size_t length, GError **error)
{
    g_autoptr(Qcow2Header) h = qcow2_header_new();
    size_t cluster = qcow2_header_extent(start, length, error);
    size_t header = V2_LENGTH;
    size_t end;

    if (cluster == 0) {
        return NULL;
    }
    length = MIN(length, cluster);
    parse_fields_v2(h, start);
    if (h->version >= 3) {
        header = parse_fields_v3(h, start, length, error);
    }
    if (header == 0 || !parse_backing(h, start, header, length, &end, error) ||
        !parse_extensions(h, start, header, end, error)) {
        return NULL;
    }
    return g_steal_pointer(&h);
}

void qcow2_header_free(Qcow2Header *header)
{
    if (!header) {
        return;
    }
    g_clear_pointer(&header->more_fields, g_bytes_unref);
    g_array_unref(header->extensions);
    g_free(header->backing_file);
    g_free(header);
}

/* Features */

static bool check_incompatible(const Qcow2Header *h, GError **error)
{
    uint64_t unknown = h->incompatible & ~KNOWN_INCOMPATIBLE;
    g_autoptr(GString) names = g_string_new(NULL);

    for (unsigned bit = 0; bit < 64; bit++) {
        if (unknown & (UINT64_C(1) << bit)) {
            g_autofree char *name = qcow2_header_feature_name(h, 0, bit);

            g_string_append_printf(names, "%s'%s'", names->len ? ", " : "", name);
        }
    }
    return !unknown || UNSUPPORTED("it uses features that are not known here: %s", names->str);
}

static bool check_known_crypt(const Qcow2Header *h, GError **error)
{
    return h->crypt <= QCOW2_CRYPT_LUKS ||
           UNSUPPORTED("it is encrypted in a way that is not known here (method %u)", h->crypt);
}

static bool check_crypt(const Qcow2Header *h, GError **error)
{
    switch (h->crypt) {
    case QCOW2_CRYPT_NONE:
        return true;
    case QCOW2_CRYPT_AES:
        return UNSUPPORTED("it is encrypted (AES, the old way), which is not supported");
    default:
        return UNSUPPORTED("it is encrypted (LUKS), which is not supported yet");
    }
}

static bool check_compression(const Qcow2Header *h, GError **error)
{
    bool other = h->incompatible & QCOW2_INCOMPATIBLE_COMPRESSION;

    if (other != (h->compression != QCOW2_COMPRESSION_ZLIB)) {
        return BAD("compression type %u and the feature bit about it contradict each other",
                   h->compression);
    }
    if (h->compression > QCOW2_COMPRESSION_ZSTD) {
        return UNSUPPORTED("compression type %u is not known here", h->compression);
    }
#ifndef WHARF_ZSTD
    if (h->compression == QCOW2_COMPRESSION_ZSTD) {
        return UNSUPPORTED("its clusters are compressed by zstd, which this build cannot do");
    }
#endif
    return true;
}

static bool check_data_file(const Qcow2Header *h, GError **error)
{
    if (!(h->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW)) {
        return true;
    }
    if (!qcow2_header_has_data_file(h)) {
        return BAD("it says that its data file is raw, but has no data file");
    }
    return !h->backing_file || BAD("it has a raw data file and a backing file, which exclude each "
                                   "other");
}

bool qcow2_header_check_format(const Qcow2Header *h, GError **error)
{
    if (!check_incompatible(h, error) || !check_data_file(h, error)) {
        return false;
    }
    if (h->refcount_order > MAX_REFCOUNT_ORDER) {
        return BAD("refcounts of 2^%u bits are not possible; at most 2^%d are", h->refcount_order,
                   MAX_REFCOUNT_ORDER);
    }
    if (qcow2_header_extended_l2(h) && h->cluster_bits < 14) {
        return BAD("subclusters need clusters of at least 16384 bytes; it has %" G_GUINT64_FORMAT,
                   cluster_size(h));
    }
    return true;
}

bool qcow2_header_check_known(const Qcow2Header *h, GError **error)
{
    return qcow2_header_check_format(h, error) && check_known_crypt(h, error) &&
           check_compression(h, error);
}

bool qcow2_header_check_features(const Qcow2Header *h, GError **error)
{
    return qcow2_header_check_known(h, error) && check_crypt(h, error);
}

/* Tables */

uint64_t qcow2_l1_entries_for(uint64_t size, unsigned cluster_bits, bool extended_l2)
{
    unsigned shift = 2 * cluster_bits - (extended_l2 ? 4 : 3);

    return (size >> shift) + ((size & ((UINT64_C(1) << shift) - 1)) != 0);
}

/* A table, as far as its place matters. */
typedef struct Table {
    const char *name;
    uint64_t offset, bytes;
    uint64_t inside; /* so many of its bytes the file must have */
} Table;

static bool check_place(const Qcow2Header *h, const Table *t, uint64_t file_length, GError **error)
{
    if (t->bytes == 0) {
        return true;
    }
    if (t->offset & (cluster_size(h) - 1)) {
        return BAD("the %s at %" G_GUINT64_FORMAT " is not aligned to a cluster", t->name,
                   t->offset);
    }
    if (t->offset == 0) {
        return BAD("the %s at 0 overlaps the header", t->name);
    }
    if (t->offset >= file_length || t->inside > file_length - t->offset) {
        return BAD("the %s (%" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT
                   ") reaches past the end of the file, which has %" G_GUINT64_FORMAT " bytes",
                   t->name, t->bytes, t->offset, file_length);
    }
    return true;
}

static bool check_apart(const Table *a, const Table *b, GError **error)
{
    if (a->bytes == 0 || b->bytes == 0 || a->offset + a->bytes <= b->offset ||
        b->offset + b->bytes <= a->offset) {
        return true;
    }
    return BAD("the %s and the %s overlap", a->name, b->name);
}

static bool check_places(const Qcow2Header *h, uint64_t file_length, GError **error)
{
    uint64_t l1_bytes = (uint64_t)h->l1_entries * 8;
    uint64_t reftable_bytes = (uint64_t)h->reftable_clusters << h->cluster_bits;
    /* The end of a refcount table may be a hole; how long the table of snapshots is it tells. */
    const Table tables[] = {
        {"L1 table", h->l1_offset, l1_bytes, l1_bytes},
        {"refcount table", h->reftable_offset, reftable_bytes, 1},
        {"snapshot table", h->snapshots_offset, MIN(h->n_snapshots, 1), 1},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(tables); i++) {
        if (!check_place(h, &tables[i], file_length, error)) {
            return false;
        }
        for (unsigned j = 0; j < i; j++) {
            if (!check_apart(&tables[j], &tables[i], error)) {
                return false;
            }
        }
    }
    return true;
}

bool qcow2_header_check_tables(const Qcow2Header *h, uint64_t file_length, GError **error)
{
    uint64_t needed;

    if (h->size > INT64_MAX) {
        return BAD("a disk of %" G_GUINT64_FORMAT " bytes is too large", h->size);
    }
    if (h->l1_entries > QCOW2_MAX_L1_BYTES / 8) {
        return BAD("an L1 table of %u entries is too large; at most %d are possible", h->l1_entries,
                   QCOW2_MAX_L1_BYTES / 8);
    }
    needed = qcow2_l1_entries_for(h->size, h->cluster_bits, qcow2_header_extended_l2(h));
    if (h->l1_entries < needed) {
        return BAD("the L1 table has %u entries, but a disk of %" G_GUINT64_FORMAT
                   " bytes needs %" G_GUINT64_FORMAT,
                   h->l1_entries, h->size, needed);
    }
    if (h->reftable_clusters == 0) {
        return BAD("it has no refcount table");
    }
    if ((uint64_t)h->reftable_clusters << h->cluster_bits > QCOW2_MAX_REFTABLE_BYTES) {
        return BAD("a refcount table of %u clusters is too large; at most %d bytes are possible",
                   h->reftable_clusters, QCOW2_MAX_REFTABLE_BYTES);
    }
    if (h->n_snapshots > QCOW2_MAX_SNAPSHOTS) {
        return BAD("it has %u snapshots; at most %d are possible", h->n_snapshots,
                   QCOW2_MAX_SNAPSHOTS);
    }
    return check_places(h, file_length, error);
}

/* Serialise */

static size_t header_length(const Qcow2Header *h)
{
    if (h->version == 2) {
        return V2_LENGTH;
    }
    return V3_LENGTH_KNOWN + (h->more_fields ? g_bytes_get_size(h->more_fields) : 0);
}

void qcow2_header_patch(const Qcow2Header *h, void *start)
{
    uint8_t *p = start;

    be64_put(p + AT_SIZE, h->size);
    be32_put(p + AT_L1_ENTRIES, h->l1_entries);
    be64_put(p + AT_L1_OFFSET, h->l1_offset);
    be64_put(p + AT_REFTABLE_OFFSET, h->reftable_offset);
    be32_put(p + AT_REFTABLE_CLUSTERS, h->reftable_clusters);
    be32_put(p + AT_N_SNAPSHOTS, h->n_snapshots);
    be64_put(p + AT_SNAPSHOTS_OFFSET, h->snapshots_offset);
    if (h->version >= 3) {
        be64_put(p + AT_INCOMPATIBLE, h->incompatible);
        be64_put(p + AT_COMPATIBLE, h->compatible);
        be64_put(p + AT_AUTOCLEAR, h->autoclear);
    }
}

static void put_fields(const Qcow2Header *h, uint8_t *p)
{
    be32_put(p + AT_MAGIC, MAGIC);
    be32_put(p + AT_VERSION, h->version);
    be32_put(p + AT_CLUSTER_BITS, h->cluster_bits);
    be32_put(p + AT_CRYPT, h->crypt);
    qcow2_header_patch(h, p);
    if (h->version == 2) {
        return;
    }
    be32_put(p + AT_REFCOUNT_ORDER, h->refcount_order);
    be32_put(p + AT_HEADER_LENGTH, header_length(h));
    p[AT_COMPRESSION] = h->compression;
    if (h->more_fields) {
        memcpy(p + V3_LENGTH_KNOWN, g_bytes_get_data(h->more_fields, NULL),
               g_bytes_get_size(h->more_fields));
    }
}

static void append_extension(GByteArray *out, uint32_t type, const void *data, gsize size)
{
    static const uint8_t padding[8];
    uint8_t head[8];

    be32_put(head, type);
    be32_put(head + 4, size);
    g_byte_array_append(out, head, sizeof(head));
    if (size > 0) {
        g_byte_array_append(out, data, size);
        g_byte_array_append(out, padding, round_up8(size) - size);
    }
}

static void append_backing(GByteArray *out, const char *name)
{
    be64_put(out->data + AT_BACKING_OFFSET, out->len);
    be32_put(out->data + AT_BACKING_SIZE, strlen(name));
    g_byte_array_append(out, (const uint8_t *)name, strlen(name));
}

GByteArray *qcow2_header_serialise(const Qcow2Header *h, GError **error)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    guint used;

    g_byte_array_set_size(out, header_length(h));
    memset(out->data, 0, out->len);
    put_fields(h, out->data);
    for (guint i = 0; i < h->extensions->len; i++) {
        const Qcow2Extension *e = &g_array_index(h->extensions, Qcow2Extension, i);

        append_extension(out, e->type, g_bytes_get_data(e->data, NULL), g_bytes_get_size(e->data));
    }
    append_extension(out, QCOW2_EXTENSION_END, NULL, 0);
    if (h->backing_file) {
        append_backing(out, h->backing_file);
    }
    used = out->len;
    if (used > cluster_size(h)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_GENERIC,
                    "the header with its extensions and the name of the backing file needs %u "
                    "bytes, which is more than a cluster has",
                    used);
        return NULL;
    }
    g_byte_array_set_size(out, cluster_size(h));
    memset(out->data + used, 0, out->len - used);
    return g_steal_pointer(&out);
}
