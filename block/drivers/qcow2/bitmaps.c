/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Persistent dirty bitmaps of an image that is written to.
 *
 * Before the first write the directory says of each bitmap that is kept up that it is in use. In
 * the end its bits are written to new places, a new directory names these and says that it is not
 * in use any more, and then eight bytes of the header extension name that directory: either all of
 * that is in the image or nothing is.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "block/drivers/qcow2/be.h"
#include "block/drivers/qcow2/state.h"
#include "util/error.h"

/* So many are kept up; others stay in use, and so are of no use afterwards. */
#define MAX_RECORDED 64

/* Where the header extension says where the directory is. */
#define DIRECTORY_OFFSET_AT 16

/* A bitmap that is kept up. */
typedef struct Qcow2Recorded {
    Qcow2Bitmap *bitmap;
    unsigned granularity;
    uint64_t *words; /* QCOW2_BITMAP_MAX_BYTES reserved; as in the image; atomic */
} Qcow2Recorded;

static void recorded_clear(gpointer recorded)
{
    munmap(((Qcow2Recorded *)recorded)->words, QCOW2_BITMAP_MAX_BYTES);
}

void qcow2_bitmaps_clear(Qcow2Metadata *m)
{
    g_clear_pointer(&m->recorded, g_array_unref);
}

static uint64_t cluster_size(const Qcow2State *s)
{
    return qcow2_cluster_size(&s->image->layout);
}

static uint64_t directory_offset(const Qcow2State *s)
{
    GBytes *data = qcow2_header_extension(s->image->header, QCOW2_EXTENSION_BITMAPS);
    const uint8_t *p = g_bytes_get_data(data, NULL);

    return be64_get(p + DIRECTORY_OFFSET_AT);
}

/* Forget them; what is in the image nobody must trust once there is another write. */
static void give_up(Qcow2State *s, const char *why)
{
    g_warning("image '%s': its persistent bitmaps are given up: %s", s->name, why);
    g_clear_pointer(&s->image->bitmaps, g_ptr_array_unref);
    __atomic_store_n(&s->metadata.begun, false, __ATOMIC_RELEASE); /* the header must say so */
}

/* Tables */

/* The table of a bitmap, with @entries entries, in the machine's byte order; or NULL and *@r. */
static uint64_t *co_fn co_read_table(const Qcow2State *s, const Qcow2Bitmap *b, uint32_t entries,
                                     int *r)
{
    uint64_t length = block_child_length(s->file);
    uint64_t bytes = (uint64_t)b->table_entries * 8;
    g_autofree uint64_t *table = g_try_new0(uint64_t, MAX(MAX(entries, b->table_entries), 1));

    *r = table ? 0 : -ENOMEM;
    if (table && (b->table_offset > length || bytes > length - b->table_offset)) {
        *r = -EIO;
    }
    if (*r == 0 && bytes > 0) {
        *r = block_child_co_preadv(s->file, b->table_offset, IOV_LOCAL(table, bytes), 0);
    }
    for (uint32_t i = 0; *r == 0 && i < b->table_entries; i++) {
        table[i] = GUINT64_FROM_BE(table[i]);
    }
    return *r == 0 ? g_steal_pointer(&table) : NULL;
}

static int co_fn co_read_bits(const Qcow2State *s, uint64_t entry, uint8_t *bits)
{
    uint64_t offset;

    switch (qcow2_bits_decode(entry, s->image->layout.cluster_bits, &offset)) {
    case QCOW2_BITS_ZEROS:
        return 0;
    case QCOW2_BITS_ONES:
        memset(bits, 0xff, cluster_size(s));
        return 0;
    case QCOW2_BITS_STORED:
        if (offset + cluster_size(s) > (uint64_t)block_child_length(s->file)) {
            return -EIO;
        }
        return block_child_co_preadv(s->file, offset, IOV_LOCAL(bits, cluster_size(s)), 0);
    default:
        return -EIO;
    }
}

/* Beginning */

static int co_fn co_load(const Qcow2State *s, Qcow2Recorded *recorded)
{
    const Qcow2Bitmap *b = recorded->bitmap;
    int64_t entries =
        qcow2_bitmap_entries(b->granularity, s->image->layout.cluster_bits, qcow2_disk_size(s));
    g_autofree uint64_t *table = NULL;
    int r = 0;

    if (entries != b->table_entries) {
        return -EIO;
    }
    table = co_read_table(s, b, b->table_entries, &r);
    for (uint32_t i = 0; r == 0 && i < b->table_entries; i++) {
        r = co_read_bits(s, table[i], (uint8_t *)recorded->words + i * cluster_size(s));
    }
    return r;
}

/* Keep a bitmap up from now on. */
static void co_fn co_record(Qcow2State *s, Qcow2Bitmap *b)
{
    Qcow2Recorded recorded = {.bitmap = b, .granularity = b->granularity};
    int r = -ENOMEM;

    recorded.words = mmap(NULL, QCOW2_BITMAP_MAX_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (recorded.words != MAP_FAILED) {
        r = co_load(s, &recorded);
    }
    if (r == 0) {
        g_array_append_val(s->metadata.recorded, recorded);
        return;
    }
    if (recorded.words != MAP_FAILED) {
        recorded_clear(&recorded);
    }
    g_warning("image '%s': a persistent bitmap cannot be kept up: %s", s->name, g_strerror(-r));
}

static bool is_to_be_kept_up(const Qcow2Bitmap *b)
{
    return (b->flags & QCOW2_BITMAP_AUTO) && !(b->flags & QCOW2_BITMAP_IN_USE);
}

/* Say in the image that bitmap @i is in use. */
static int co_fn co_write_in_use(BlockNode *node, guint i)
{
    Qcow2State *s = block_node_state(node);
    const Qcow2Bitmap *b = g_ptr_array_index(s->image->bitmaps, i);
    uint32_t flags = GUINT32_TO_BE(b->flags | QCOW2_BITMAP_IN_USE);
    uint64_t at = directory_offset(s) + qcow2_bitmaps_flags_at(s->image->bitmaps, i);
    int r =
        qcow2_co_check_write(node, at, sizeof(flags), QCOW2_META_BIT(QCOW2_META_BITMAP_DIRECTORY));

    return r < 0 ? r : block_child_co_pwritev(s->file, at, IOV_LOCAL(&flags, sizeof(flags)), 0);
}

static int co_fn co_write_all_in_use(BlockNode *node)
{
    const Qcow2State *s = block_node_state(node);
    const GPtrArray *bitmaps = s->image->bitmaps;
    bool any = false;
    int r = 0;

    for (guint i = 0; r == 0 && i < bitmaps->len; i++) {
        if (is_to_be_kept_up(g_ptr_array_index(bitmaps, i))) {
            any = true;
            r = co_write_in_use(node, i);
        }
    }
    return r == 0 && any ? qcow2_co_flush_file(node) : r;
}

int co_fn qcow2_bitmaps_co_begin(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);
    Qcow2Metadata *m = &s->metadata;
    const GPtrArray *bitmaps = s->image->bitmaps;
    int r;

    if (!bitmaps || m->recorded) {
        return 0;
    }
    r = co_write_all_in_use(node);
    if (r < 0) {
        return r;
    }
    m->recorded = g_array_new(FALSE, FALSE, sizeof(Qcow2Recorded));
    g_array_set_clear_func(m->recorded, recorded_clear);
    for (guint i = 0; i < bitmaps->len; i++) {
        Qcow2Bitmap *b = g_ptr_array_index(bitmaps, i);

        if (!is_to_be_kept_up(b)) {
            continue;
        }
        if (m->recorded->len < MAX_RECORDED) {
            co_record(s, b);
        }
        b->flags |= QCOW2_BITMAP_IN_USE;
    }
    return 0;
}

/* Marking */

static void mark_word(uint64_t *word, uint64_t mask)
{
    mask = GUINT64_TO_LE(mask);
    if ((__atomic_load_n(word, __ATOMIC_RELAXED) & mask) != mask) {
        __atomic_fetch_or(word, mask, __ATOMIC_RELAXED);
    }
}

static void mark(const Qcow2Recorded *r, uint64_t offset, uint64_t bytes)
{
    uint64_t first = offset >> r->granularity;
    uint64_t last = (offset + bytes - 1) >> r->granularity;

    last = MIN(last, (uint64_t)QCOW2_BITMAP_MAX_BYTES * 8 - 1);
    while (first <= last) {
        uint64_t end = MIN(last, first | 63);
        uint64_t mask = UINT64_MAX >> (63 - (end - first)) << first % 64;

        mark_word(&r->words[first / 64], mask);
        first = end + 1;
    }
}

void qcow2_bitmaps_mark(const Qcow2State *s, uint64_t offset, uint64_t bytes)
{
    const GArray *recorded = s->metadata.recorded;

    if (G_LIKELY(!recorded) || bytes == 0) {
        return;
    }
    for (guint i = 0; i < recorded->len; i++) {
        mark(&g_array_index(recorded, Qcow2Recorded, i), offset, bytes);
    }
}

/* Storing */

/* Bitmaps on their way to new places. */
typedef struct Store {
    BlockNode *node;
    Qcow2State *s;
    uint64_t size;  /* of the disk */
    bool end;       /* those that are kept up are not in use then */
    GArray *taken;  /* of Qcow2Freed: new places */
    GArray *left;   /* the same: those that are used no more */
    GArray *before; /* of Qcow2Bitmap: what they were */
} Store;

static void store_init(Store *st, BlockNode *node, bool end)
{
    Qcow2State *s = block_node_state(node);

    *st = (Store){.node = node, .s = s, .size = qcow2_disk_size(s), .end = end};
    st->taken = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    st->left = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    st->before = g_array_new(FALSE, FALSE, sizeof(Qcow2Bitmap));
    for (guint i = 0; i < s->image->bitmaps->len; i++) {
        g_array_append_vals(st->before, g_ptr_array_index(s->image->bitmaps, i), 1);
    }
}

static void store_clear(Store *st)
{
    g_array_unref(st->taken);
    g_array_unref(st->left);
    g_array_unref(st->before);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Store, store_clear)

static void note(GArray *list, uint64_t offset, uint64_t bytes)
{
    Qcow2Freed range = {.offset = offset, .bytes = bytes};

    if (bytes > 0) {
        g_array_append_val(list, range);
    }
}

static void co_fn co_release(Qcow2State *s, const GArray *list)
{
    for (guint i = 0; i < list->len; i++) {
        const Qcow2Freed *f = &g_array_index(list, Qcow2Freed, i);

        /* An error leaves them counted, which does no harm. */
        qcow2_refcounts_co_release(&s->metadata.refcounts, f->offset, f->bytes, false);
    }
}

static int co_fn co_write_new(Store *st, const void *data, uint64_t bytes, uint64_t *offset)
{
    uint64_t n = (bytes + cluster_size(st->s) - 1) / cluster_size(st->s);
    int r;

    *offset = 0;
    if (bytes == 0) {
        return 0;
    }
    r = qcow2_refcounts_co_take_run(&st->s->metadata.refcounts, n, offset);
    if (r < 0) {
        return r;
    }
    note(st->taken, *offset, n * cluster_size(st->s));
    return block_child_co_pwritev(st->s->file, *offset, IOV_LOCAL((void *)data, bytes), 0);
}

static int co_fn co_write_table(Store *st, Qcow2Bitmap *b, uint64_t *table, uint32_t entries)
{
    int r;

    for (uint32_t i = 0; i < entries; i++) {
        table[i] = GUINT64_TO_BE(table[i]);
    }
    note(st->left, b->table_offset, (uint64_t)b->table_entries * 8);
    r = co_write_new(st, table, (uint64_t)entries * 8, &b->table_offset);
    b->table_entries = entries;
    return r;
}

/* The clusters of bits of entries from @from on are used no more. */
static void leave_bits(Store *st, const uint64_t *table, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        uint64_t offset;

        if (qcow2_bits_decode(table[i], st->s->image->layout.cluster_bits, &offset) ==
            QCOW2_BITS_STORED) {
            note(st->left, offset, cluster_size(st->s));
        }
    }
}

/* The same bits, for another length of the disk. */
static int co_fn co_store_resized(Store *st, Qcow2Bitmap *b, uint32_t entries)
{
    g_autofree uint64_t *table = NULL;
    int r = 0;

    table = co_read_table(st->s, b, entries, &r);
    if (r < 0) {
        return r;
    }
    leave_bits(st, table, entries, b->table_entries);
    return co_write_table(st, b, table, entries);
}

static bool is_zero(const uint64_t *words, uint64_t n)
{
    return words[0] == 0 && memcmp(words, words + 1, (n - 1) * 8) == 0;
}

/* Nothing is said about what is behind the end of the disk. */
static void cut_bits(const Qcow2Recorded *r, uint64_t size, uint64_t n_words)
{
    uint64_t bits = qcow2_bitmap_bits(r->granularity, size);
    uint64_t whole = bits / 64;

    if (bits % 64) {
        r->words[whole] &= GUINT64_TO_LE((UINT64_C(1) << bits % 64) - 1);
        whole++;
    }
    memset(r->words + whole, 0, (n_words - whole) * 8);
}

static int co_fn co_store_recorded(Store *st, const Qcow2Recorded *recorded, uint32_t entries)
{
    Qcow2Bitmap *b = recorded->bitmap;
    uint64_t words = cluster_size(st->s) / 8;
    g_autofree uint64_t *table = NULL;
    int r = 0;

    table = co_read_table(st->s, b, entries, &r);
    if (r < 0) {
        return r;
    }
    leave_bits(st, table, 0, b->table_entries);
    cut_bits(recorded, st->size, entries * words);
    for (uint32_t i = 0; r == 0 && i < entries; i++) {
        const uint64_t *bits = recorded->words + i * words;

        table[i] = 0;
        if (!is_zero(bits, words)) {
            r = co_write_new(st, bits, words * 8, &table[i]);
        }
    }
    b->flags &= ~QCOW2_BITMAP_IN_USE;
    return r < 0 ? r : co_write_table(st, b, table, entries);
}

static const Qcow2Recorded *find_recorded(const Qcow2State *s, const Qcow2Bitmap *b)
{
    const GArray *recorded = s->metadata.recorded;

    for (guint i = 0; recorded && i < recorded->len; i++) {
        const Qcow2Recorded *r = &g_array_index(recorded, Qcow2Recorded, i);

        if (r->bitmap == b) {
            return r;
        }
    }
    return NULL;
}

static int co_fn co_store_bitmap(Store *st, Qcow2Bitmap *b)
{
    const Qcow2Recorded *recorded = st->end ? find_recorded(st->s, b) : NULL;
    int64_t entries =
        qcow2_bitmap_entries(b->granularity, st->s->image->layout.cluster_bits, st->size);

    if (entries < 0) {
        return -EFBIG;
    }
    if (recorded) {
        return co_store_recorded(st, recorded, entries);
    }
    return entries == b->table_entries ? 0 : co_store_resized(st, b, entries);
}

/* Where the extension's data stands in the image. */
static int co_fn co_find_extension(const Qcow2State *s, uint64_t *at)
{
    uint64_t bytes = MIN(cluster_size(s), (uint64_t)block_child_length(s->file));
    g_autofree void *start = g_malloc(bytes);
    g_autoptr(Qcow2Header) header = NULL;
    int r = block_child_co_preadv(s->file, 0, IOV_LOCAL(start, bytes), 0);

    if (r < 0) {
        return r;
    }
    header = qcow2_header_parse(start, bytes, NULL);
    *at = header ? qcow2_header_extension_at(header, QCOW2_EXTENSION_BITMAPS) : 0;
    return *at ? 0 : -EIO;
}

/* Let the header name another directory. */
static int co_fn co_switch(Store *st, uint64_t offset)
{
    Qcow2Header *h = st->s->image->header;
    GBytes *data = qcow2_header_extension(h, QCOW2_EXTENSION_BITMAPS);
    gsize length = g_bytes_get_size(data);
    g_autofree uint8_t *changed = g_memdup2(g_bytes_get_data(data, NULL), length);
    uint64_t at;
    int r = co_find_extension(st->s, &at);

    be64_put(changed + DIRECTORY_OFFSET_AT, offset);
    if (r == 0) {
        r = block_child_co_pwritev(st->s->file, at + DIRECTORY_OFFSET_AT,
                                   IOV_LOCAL(changed + DIRECTORY_OFFSET_AT, 8), 0);
    }
    if (r == 0) {
        r = qcow2_co_flush_file(st->node);
    }
    qcow2_header_set_extension(h, QCOW2_EXTENSION_BITMAPS,
                               g_bytes_new_take(g_steal_pointer(&changed), length));
    return r;
}

/* All that the new directory names, and the directory, are in the image. */
static int co_fn co_prepare(Store *st, uint64_t *offset, uint64_t *bytes)
{
    const GPtrArray *bitmaps = st->s->image->bitmaps;
    g_autoptr(GByteArray) directory = NULL;
    int r = 0;

    for (guint i = 0; r == 0 && i < bitmaps->len; i++) {
        r = co_store_bitmap(st, g_ptr_array_index(bitmaps, i));
    }
    if (r < 0) {
        return r;
    }
    directory = qcow2_bitmaps_serialise(bitmaps);
    *bytes = directory->len;
    r = co_write_new(st, directory->data, directory->len, offset);
    if (r == 0) {
        r = qcow2_refcounts_co_write(&st->s->metadata.refcounts);
    }
    return r < 0 ? r : qcow2_co_flush_file(st->node);
}

static void take_back(Store *st)
{
    const GPtrArray *bitmaps = st->s->image->bitmaps;

    for (guint i = 0; i < bitmaps->len; i++) {
        *(Qcow2Bitmap *)g_ptr_array_index(bitmaps, i) = g_array_index(st->before, Qcow2Bitmap, i);
    }
}

/* Bring all to the image that is not there as it should be. With commit_lock. */
static int co_fn co_store(BlockNode *node, bool end)
{
    Qcow2State *s = block_node_state(node);
    uint64_t old = directory_offset(s);
    uint64_t offset, bytes;
    g_auto(Store) st = {0};
    int r;

    store_init(&st, node, end);
    r = co_prepare(&st, &offset, &bytes);
    if (r < 0) {
        take_back(&st);
        co_release(s, st.taken);
        return r;
    }
    r = co_switch(&st, offset);
    if (r < 0) { /* it may name the one or the other, so both stay counted */
        give_up(s, g_strerror(-r));
        return r;
    }
    qcow2_guard_set_table(&s->metadata.guard, QCOW2_META_BITMAP_DIRECTORY, offset, bytes);
    note(st.left, old, bytes);
    co_release(s, st.left);
    qcow2_refcounts_co_write(&s->metadata.refcounts); /* the next one does it if this fails */
    return 0;
}

void co_fn qcow2_bitmaps_co_end(BlockNode *node)
{
    Qcow2State *s = block_node_state(node);
    Qcow2Metadata *m = &s->metadata;

    CO_MUTEX_GUARD(&m->commit_lock);
    if (s->image->bitmaps && m->recorded && m->recorded->len > 0 &&
        !__atomic_load_n(&s->corrupt, __ATOMIC_RELAXED)) {
        int r = co_store(node, true);

        if (r < 0) {
            g_warning("image '%s': persistent bitmaps could not be stored, and stay marked as in "
                      "use: %s",
                      s->name, g_strerror(-r));
        }
    }
    qcow2_bitmaps_clear(m);
    __atomic_store_n(&m->begun, false, __ATOMIC_RELEASE);
}

/* Other lengths of the disk */

static int co_fn co_set_feature(BlockNode *node, bool on)
{
    Qcow2State *s = block_node_state(node);
    Qcow2Header *h = s->image->header;
    uint64_t before = h->autoclear;
    int r;

    h->autoclear = (before & ~QCOW2_AUTOCLEAR_BITMAPS) | (on ? QCOW2_AUTOCLEAR_BITMAPS : 0);
    r = qcow2_co_write_header(node);
    if (r < 0) {
        h->autoclear = before;
        qcow2_co_write_header_back(node);
    }
    return r;
}

int co_fn qcow2_bitmaps_co_begin_resize(BlockNode *node, uint64_t size)
{
    Qcow2State *s = block_node_state(node);
    const GPtrArray *bitmaps = s->image->bitmaps;
    bool any = false;
    int r;

    for (guint i = 0; bitmaps && i < bitmaps->len; i++) {
        const Qcow2Bitmap *b = g_ptr_array_index(bitmaps, i);

        any |= qcow2_bitmap_entries(b->granularity, s->image->layout.cluster_bits, size) !=
               b->table_entries;
    }
    r = any ? co_set_feature(node, false) : 0;
    return r < 0 ? r : any;
}

void co_fn qcow2_bitmaps_co_end_resize(BlockNode *node, int begun)
{
    Qcow2State *s = block_node_state(node);
    int r;

    if (begun <= 0) {
        return;
    }
    CO_MUTEX_GUARD(&s->metadata.commit_lock);
    r = co_store(node, false);
    if (r == 0) {
        r = co_set_feature(node, true);
    }
    if (r < 0 && s->image->bitmaps) {
        give_up(s, g_strerror(-r));
    }
}
