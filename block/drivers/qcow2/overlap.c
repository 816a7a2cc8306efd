/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/drivers/qcow2/overlap.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "block/drivers/qcow2/state.h"
#include "util/error.h"

/* Kinds */

#define CONSTANT                                                                                   \
    (QCOW2_META_BIT(QCOW2_META_HEADER) | QCOW2_META_BIT(QCOW2_META_ACTIVE_L1) |                    \
     QCOW2_META_BIT(QCOW2_META_REFCOUNT_TABLE) | QCOW2_META_BIT(QCOW2_META_SNAPSHOT_TABLE) |       \
     QCOW2_META_BIT(QCOW2_META_BITMAP_DIRECTORY))
#define CACHED                                                                                     \
    (CONSTANT | QCOW2_META_BIT(QCOW2_META_ACTIVE_L2) | QCOW2_META_BIT(QCOW2_META_REFCOUNT_BLOCK) | \
     QCOW2_META_BIT(QCOW2_META_INACTIVE_L1))
#define ALL (CACHED | QCOW2_META_BIT(QCOW2_META_INACTIVE_L2))

static unsigned kinds_of_mode(Qcow2OverlapCheckMode mode)
{
    switch (mode) {
    case QCOW2_OVERLAP_CHECK_MODE_NONE:
        return QCOW2_META_NONE;
    case QCOW2_OVERLAP_CHECK_MODE_CONSTANT:
        return CONSTANT;
    case QCOW2_OVERLAP_CHECK_MODE_ALL:
        return ALL;
    default:
        return CACHED;
    }
}

static unsigned kinds_of_flags(const Qcow2OverlapCheckFlags *f)
{
    const struct {
        Qcow2Meta kind;
        bool given, on;
    } flags[] = {
        {QCOW2_META_HEADER, f->has_main_header, f->main_header},
        {QCOW2_META_ACTIVE_L1, f->has_active_l1, f->active_l1},
        {QCOW2_META_ACTIVE_L2, f->has_active_l2, f->active_l2},
        {QCOW2_META_REFCOUNT_TABLE, f->has_refcount_table, f->refcount_table},
        {QCOW2_META_REFCOUNT_BLOCK, f->has_refcount_block, f->refcount_block},
        {QCOW2_META_SNAPSHOT_TABLE, f->has_snapshot_table, f->snapshot_table},
        {QCOW2_META_INACTIVE_L1, f->has_inactive_l1, f->inactive_l1},
        {QCOW2_META_INACTIVE_L2, f->has_inactive_l2, f->inactive_l2},
        {QCOW2_META_BITMAP_DIRECTORY, f->has_bitmap_directory, f->bitmap_directory},
    };
    unsigned kinds = kinds_of_mode(f->template);

    for (unsigned i = 0; i < G_N_ELEMENTS(flags); i++) {
        unsigned bit = QCOW2_META_BIT(flags[i].kind);

        if (flags[i].given) {
            kinds = flags[i].on ? kinds | bit : kinds & ~bit;
        }
    }
    return kinds;
}

unsigned qcow2_guarded_kinds(const BlockdevOptionsQcow2 *o)
{
    const Qcow2OverlapChecks *checks = o->overlap_check;

    if (!checks) {
        return CACHED;
    }
    return checks->type == QVALUE_STRING ? kinds_of_mode(checks->u.mode)
                                         : kinds_of_flags(&checks->u.flags);
}

const char *qcow2_meta_text(Qcow2Meta kind)
{
    static const char *const texts[QCOW2_META__N] = {
        [QCOW2_META_HEADER] = "the header",
        [QCOW2_META_ACTIVE_L1] = "the active L1 table",
        [QCOW2_META_REFCOUNT_TABLE] = "the refcount table",
        [QCOW2_META_SNAPSHOT_TABLE] = "the table of snapshots",
        [QCOW2_META_BITMAP_DIRECTORY] = "the directory of bitmaps",
        [QCOW2_META_INACTIVE_L1] = "the L1 table of a snapshot",
        [QCOW2_META_ACTIVE_L2] = "an active L2 table",
        [QCOW2_META_REFCOUNT_BLOCK] = "a refcount block",
        [QCOW2_META_INACTIVE_L2] = "an L2 table of a snapshot",
    };

    return kind < QCOW2_META__N ? texts[kind] : "no metadata";
}

static Qcow2GuardBits bits_of(Qcow2Meta kind)
{
    switch (kind) {
    case QCOW2_META_ACTIVE_L2:
        return QCOW2_GUARD_L2;
    case QCOW2_META_REFCOUNT_BLOCK:
        return QCOW2_GUARD_BLOCKS;
    case QCOW2_META_INACTIVE_L2:
        return QCOW2_GUARD_INACTIVE;
    default:
        return QCOW2_GUARD_TABLES;
    }
}

/* Bits */

#define ARRAY_BYTES (QCOW2_GUARD_BITS / 8)

static uint64_t *array_new(void)
{
    void *bits = mmap(NULL, ARRAY_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (bits == MAP_FAILED) {
        return NULL;
    }
    madvise(bits, ARRAY_BYTES, MADV_NOHUGEPAGE); /* few of them are set, here and there */
    return bits;
}

bool qcow2_guard_init(Qcow2Guard *g, unsigned cluster_bits, GError **error)
{
    *g = (Qcow2Guard){.cluster_bits = cluster_bits};
    g_mutex_init(&g->lock);
    g->inactive_l1 = g_array_new(FALSE, FALSE, sizeof(Qcow2MetaRange));
    for (unsigned i = 0; i < QCOW2_GUARD__N; i++) {
        g->bits[i] = array_new();
        if (!g->bits[i]) {
            wharf_set_error_errno(error, errno, "there is no memory to guard metadata");
            return false;
        }
    }
    return true;
}

void qcow2_guard_clear(Qcow2Guard *g)
{
    for (unsigned i = 0; i < QCOW2_GUARD__N; i++) {
        if (g->bits[i]) {
            munmap(g->bits[i], ARRAY_BYTES);
        }
    }
    g_clear_pointer(&g->inactive_l1, g_array_unref);
    g_mutex_clear(&g->lock);
}

void qcow2_guard_reset(Qcow2Guard *g)
{
    for (unsigned i = 0; i < QCOW2_GUARD__N; i++) {
        madvise(g->bits[i], ARRAY_BYTES, MADV_DONTNEED);
    }
    g_mutex_lock(&g->lock);
    memset(g->tables, 0, sizeof(g->tables));
    g_array_set_size(g->inactive_l1, 0);
    g_mutex_unlock(&g->lock);
    g->knows_inactive = false;
}

/* The bits of one word for clusters from *@first to @last; *@first moves on behind them. */
static uint64_t next_mask(uint64_t *first, uint64_t last, size_t *word)
{
    uint64_t end = MIN(last, *first | 63);
    uint64_t mask = UINT64_MAX >> (63 - (end - *first)) << *first % 64;

    *word = *first % QCOW2_GUARD_BITS / 64;
    *first = end + 1;
    return mask;
}

static void set_bits(Qcow2Guard *g, Qcow2GuardBits which, uint64_t offset, uint64_t bytes)
{
    uint64_t first = offset >> g->cluster_bits;
    uint64_t last = (offset + bytes - 1) >> g->cluster_bits;

    while (first <= last) {
        size_t word;
        uint64_t mask = next_mask(&first, last, &word);

        __atomic_fetch_or(&g->bits[which][word], mask, __ATOMIC_RELEASE);
    }
}

void qcow2_guard_add(Qcow2Guard *g, Qcow2Meta kind, uint64_t offset, uint64_t bytes)
{
    Qcow2MetaRange range = {offset, bytes};

    if (bytes == 0) {
        return;
    }
    if (kind == QCOW2_META_INACTIVE_L1) {
        g_mutex_lock(&g->lock);
        g_array_append_val(g->inactive_l1, range);
        g_mutex_unlock(&g->lock);
    }
    set_bits(g, bits_of(kind), offset, bytes);
}

void qcow2_guard_set_table(Qcow2Guard *g, Qcow2Meta kind, uint64_t offset, uint64_t bytes)
{
    g_mutex_lock(&g->lock);
    g->tables[kind] = (Qcow2MetaRange){offset, bytes};
    g_mutex_unlock(&g->lock);
    qcow2_guard_add(g, kind, offset, bytes);
}

/* By kind of bits: the kinds of metadata that go by them. */
static const unsigned kinds_of[QCOW2_GUARD__N] = {
    [QCOW2_GUARD_TABLES] = CONSTANT | QCOW2_META_BIT(QCOW2_META_INACTIVE_L1),
    [QCOW2_GUARD_L2] = QCOW2_META_BIT(QCOW2_META_ACTIVE_L2),
    [QCOW2_GUARD_BLOCKS] = QCOW2_META_BIT(QCOW2_META_REFCOUNT_BLOCK),
    [QCOW2_GUARD_INACTIVE] = QCOW2_META_BIT(QCOW2_META_INACTIVE_L2),
};

/* All bits of that word, of the kinds that matter; every write of data comes by here. */
static inline uint64_t load_word(const Qcow2Guard *g, unsigned kinds, size_t word)
{
    uint64_t bits = 0;

    for (unsigned i = 0; i < QCOW2_GUARD__N; i++) {
        if (kinds & kinds_of[i]) {
            bits |= __atomic_load_n(&g->bits[i][word], __ATOMIC_ACQUIRE);
        }
    }
    return bits;
}

bool qcow2_guard_may_hit(const Qcow2Guard *g, unsigned kinds, uint64_t offset, uint64_t bytes)
{
    uint64_t first = offset >> g->cluster_bits;
    uint64_t last = (offset + bytes - 1) >> g->cluster_bits;
    uint64_t found = 0;

    if (G_LIKELY(first == last)) {
        return load_word(g, kinds, first % QCOW2_GUARD_BITS / 64) >> first % 64 & 1;
    }
    while (first <= last && !found) {
        size_t word;
        uint64_t mask = next_mask(&first, last, &word);

        found = load_word(g, kinds, word) & mask;
    }
    return found != 0;
}

/* Whether a cluster belongs to both. */
static bool meets(const Qcow2Guard *g, const Qcow2MetaRange *m, uint64_t offset, uint64_t bytes)
{
    return m->bytes > 0 &&
           offset >> g->cluster_bits <= (m->offset + m->bytes - 1) >> g->cluster_bits &&
           m->offset >> g->cluster_bits <= (offset + bytes - 1) >> g->cluster_bits;
}

static Qcow2Meta find_table_locked(const Qcow2Guard *g, unsigned kinds, uint64_t offset,
                                   uint64_t bytes)
{
    for (Qcow2Meta kind = 0; kind < QCOW2_META_INACTIVE_L1; kind++) {
        if ((kinds & QCOW2_META_BIT(kind)) && meets(g, &g->tables[kind], offset, bytes)) {
            return kind;
        }
    }
    for (guint i = 0; (kinds & QCOW2_META_BIT(QCOW2_META_INACTIVE_L1)) && i < g->inactive_l1->len;
         i++) {
        if (meets(g, &g_array_index(g->inactive_l1, Qcow2MetaRange, i), offset, bytes)) {
            return QCOW2_META_INACTIVE_L1;
        }
    }
    return QCOW2_META__N;
}

Qcow2Meta qcow2_guard_find_table(Qcow2Guard *g, unsigned kinds, uint64_t offset, uint64_t bytes)
{
    Qcow2Meta found;

    g_mutex_lock(&g->lock);
    found = find_table_locked(g, kinds, offset, bytes);
    g_mutex_unlock(&g->lock);
    return found;
}

/* What the image has */

/* One that cannot be there is left out. */
static void add_inactive_l1(Qcow2Guard *g, const Qcow2Snapshot *snapshot)
{
    uint64_t bytes = (uint64_t)snapshot->l1_entries * 8;

    if (bytes <= QCOW2_MAX_L1_BYTES && snapshot->l1_offset <= INT64_MAX) {
        qcow2_guard_add(g, QCOW2_META_INACTIVE_L1, snapshot->l1_offset, bytes);
    }
}

static void add_tables(Qcow2Guard *g, const Qcow2Image *image, const GPtrArray *snapshots)
{
    const Qcow2Header *h = image->header;
    GBytes *extension = qcow2_header_extension(h, QCOW2_EXTENSION_BITMAPS);
    Qcow2BitmapsExtension ext;

    qcow2_guard_set_table(g, QCOW2_META_HEADER, 0, 1);
    qcow2_guard_set_table(g, QCOW2_META_ACTIVE_L1, h->l1_offset, (uint64_t)h->l1_entries * 8);
    qcow2_guard_set_table(g, QCOW2_META_REFCOUNT_TABLE, h->reftable_offset,
                          (uint64_t)h->reftable_clusters << h->cluster_bits);
    if (snapshots->len > 0) {
        qcow2_guard_set_table(g, QCOW2_META_SNAPSHOT_TABLE, h->snapshots_offset,
                              qcow2_snapshots_bytes(snapshots));
    }
    for (guint i = 0; i < snapshots->len; i++) {
        add_inactive_l1(g, g_ptr_array_index(snapshots, i));
    }
    if (image->bitmaps && qcow2_bitmaps_extension_parse(extension, h->cluster_bits, &ext, NULL)) {
        qcow2_guard_set_table(g, QCOW2_META_BITMAP_DIRECTORY, ext.offset, ext.bytes);
    }
}

static void add_l2_tables(Qcow2Guard *g, Qcow2Meta kind, const uint64_t *l1, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t table = l1[i] & QCOW2_ENTRY_OFFSET;

        if (table) {
            qcow2_guard_add(g, kind, table, 1);
        }
    }
}

/* The L1 table of a snapshot, or NULL and @error. */
static uint64_t *co_fn co_read_inactive_l1(const Qcow2State *s, guint i, uint32_t *n,
                                           GError **error)
{
    const Qcow2MetaRange *range = &g_array_index(s->metadata.guard.inactive_l1, Qcow2MetaRange, i);
    const Qcow2Snapshot snapshot = {.l1_offset = range->offset, .l1_entries = range->bytes / 8};

    *n = snapshot.l1_entries;
    return qcow2_image_co_snapshot_l1(s->image, s->file, &snapshot, error);
}

/* What cannot be read is not guarded; a check of the image says more about it. */
static void co_fn co_add_inactive(Qcow2State *s)
{
    Qcow2Guard *g = &s->metadata.guard;

    for (guint i = 0; i < g->inactive_l1->len; i++) {
        g_autoptr(GError) error = NULL;
        uint32_t n;
        g_autofree uint64_t *l1 = co_read_inactive_l1(s, i, &n, &error);

        if (l1) {
            add_l2_tables(g, QCOW2_META_INACTIVE_L2, l1, n);
        } else {
            g_warning("image '%s': L2 tables of a snapshot are not guarded: %s", s->name,
                      error->message);
        }
    }
    g->knows_inactive = true;
}

void co_fn qcow2_guard_co_settle(Qcow2State *s)
{
    if ((s->guarded & QCOW2_META_BIT(QCOW2_META_INACTIVE_L2)) &&
        !s->metadata.guard.knows_inactive) {
        co_add_inactive(s);
    }
}

void co_fn qcow2_guard_co_fill(Qcow2State *s, const GPtrArray *snapshots)
{
    Qcow2Guard *g = &s->metadata.guard;

    qcow2_guard_reset(g);
    add_tables(g, s->image, snapshots);
    add_l2_tables(g, QCOW2_META_ACTIVE_L2, s->image->l1, s->image->header->l1_entries);
    qcow2_refcounts_guard(&s->metadata.refcounts);
    qcow2_guard_co_settle(s);
}

/* A closer look */

typedef struct Look {
    Qcow2State *s;
    unsigned kinds;
    uint64_t offset, bytes; /* whole clusters */
} Look;

static bool look_wants(const Look *l, Qcow2Meta kind)
{
    unsigned bit = l->kinds & QCOW2_META_BIT(kind);

    return bit && qcow2_guard_may_hit(&l->s->metadata.guard, bit, l->offset, l->bytes);
}

static bool names_l2(const Look *l, const uint64_t *l1, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t table = __atomic_load_n(&l1[i], __ATOMIC_ACQUIRE) & QCOW2_ENTRY_OFFSET;

        if (table && table - l->offset < l->bytes) {
            return true;
        }
    }
    return false;
}

static bool look_for_l2(const Look *l)
{
    const Qcow2Image *image = l->s->image;

    return names_l2(l, image->l1, __atomic_load_n(&image->header->l1_entries, __ATOMIC_RELAXED));
}

static bool co_fn co_look_for_inactive_l2(const Look *l)
{
    const Qcow2Guard *g = &l->s->metadata.guard;
    bool found = false;

    for (guint i = 0; !found && i < g->inactive_l1->len; i++) {
        uint32_t n;
        g_autofree uint64_t *l1 = co_read_inactive_l1(l->s, i, &n, NULL);

        found = l1 && names_l2(l, l1, n);
    }
    return found;
}

static Qcow2Meta co_fn co_look(const Look *l, bool whole)
{
    Qcow2Metadata *m = &l->s->metadata;
    Qcow2Meta found = qcow2_guard_find_table(&m->guard, l->kinds, l->offset, l->bytes);

    if (found != QCOW2_META__N) {
        return found;
    }
    if (look_wants(l, QCOW2_META_ACTIVE_L2) && look_for_l2(l)) {
        return QCOW2_META_ACTIVE_L2;
    }
    if (look_wants(l, QCOW2_META_REFCOUNT_BLOCK) &&
        qcow2_refcounts_co_names_block(&m->refcounts, l->offset, l->bytes, whole)) {
        return QCOW2_META_REFCOUNT_BLOCK;
    }
    if (look_wants(l, QCOW2_META_INACTIVE_L2) && co_look_for_inactive_l2(l)) {
        return QCOW2_META_INACTIVE_L2;
    }
    return QCOW2_META__N;
}

/* What there is where the bits say that there may be something. */
static Qcow2Meta co_fn co_find(Qcow2State *s, uint64_t offset, uint64_t bytes, unsigned kinds,
                               bool whole)
{
    uint64_t mask = qcow2_cluster_size(&s->image->layout) - 1;
    Look l = {.s = s, .kinds = kinds, .offset = offset & ~mask};

    l.bytes = ((offset + bytes + mask) & ~mask) - l.offset;
    return co_look(&l, whole);
}

Qcow2Meta co_fn qcow2_co_find_metadata(BlockNode *node, uint64_t offset, uint64_t bytes,
                                       unsigned except, bool whole)
{
    Qcow2State *s = block_node_state(node);
    unsigned kinds = s->guarded & ~except;

    return qcow2_guard_may_hit(&s->metadata.guard, kinds, offset, bytes)
               ? co_find(s, offset, bytes, kinds, whole)
               : QCOW2_META__N;
}

static int co_fn co_prevent(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned kinds)
{
    Qcow2Meta kind = co_find(block_node_state(node), offset, bytes, kinds, false);

    return kind == QCOW2_META__N ? 0 : qcow2_fault_overlap(node, kind, offset, bytes);
}

int co_fn qcow2_co_check_write(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned except)
{
    const Qcow2State *s = block_node_state(node);
    unsigned kinds = s->guarded & ~except;

    return G_LIKELY(!qcow2_guard_may_hit(&s->metadata.guard, kinds, offset, bytes))
               ? 0
               : co_prevent(node, offset, bytes, kinds);
}
