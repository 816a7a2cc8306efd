/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * blkdebug: a filter that lets requests to its child fail or wait, as its rules say.
 *
 * Each request brings about one or more events, in a fixed order, and `none`. At each event the
 * rules for it are looked through, in the order errors, delays, changes of state: a rule counts if
 * the node is in the rule's state and the request is of the rule's type and touches its sector. A
 * change of state shows from the next event on. Of several errors for one event the first counts.
 *
 * What differs from QEMU: an error strikes the requests at which its event happens, and no others
 * after them; and reopening the node replaces its rules, which ends a fault.
 */
#include <errno.h>

#include "aio/aio.h"
#include "block/driver.h"
#include "util/error.h"

#define FIRST_STATE   1
#define SECTOR_SIZE   512
#define ANY_SECTOR    (-1)
#define MAX_ALIGNMENT (32 * 1024 * 1024)

#define TYPE_BIT(type) (1u << BLKDEBUG_IO_TYPE_##type)
#define DEFAULT_TYPES                                                                              \
    (TYPE_BIT(READ) | TYPE_BIT(WRITE) | TYPE_BIT(WRITE_ZEROES) | TYPE_BIT(DISCARD) |               \
     TYPE_BIT(FLUSH) | TYPE_BIT(ALLOCATE))
#define ALL_TYPES (DEFAULT_TYPES | TYPE_BIT(BLOCK_STATUS))

typedef enum RuleAction {
    RULE_ERROR,
    RULE_DELAY,
    RULE_SET_STATE,
} RuleAction;

typedef struct Rule {
    RuleAction action;
    int64_t value; /* the errno, nanoseconds, or the new state */
    BlkdebugEvent event;
    bool any_state;
    int64_t state;
    unsigned types; /* set of TYPE_BIT()s */
    int64_t sector; /* or ANY_SECTOR */
    bool once;
    bool spent;
} Rule;

/* Everything the options say. */
typedef struct Settings {
    GArray *rules; /* of Rule */
    uint32_t align, max_transfer;
    uint32_t zero_alignment, discard_alignment;
    uint64_t max_zero, max_discard;
    unsigned take, unshare; /* BlockPerm bits */
} Settings;

typedef struct BlkdebugState {
    BlockChild *image;
    GMutex lock;
    /* under lock: the rules in it and the state. The rest changes with the node drained only. */
    Settings *settings;
    int64_t state;
} BlkdebugState;

static void settings_free(Settings *settings)
{
    if (settings) {
        g_array_unref(settings->rules);
        g_free(settings);
    }
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Settings, settings_free)

/* The rule in @o, options of an error or a delay: these differ in nothing else. */
#define STRIKE_RULE(o, action_, value_)                                                            \
    {                                                                                              \
        .action = (action_), .value = (value_), .event = (o)->event,                               \
        .any_state = !(o)->has_state || (o)->state == 0, .state = (o)->state,                      \
        .types = (o)->has_iotype ? 1u << (o)->iotype : DEFAULT_TYPES,                              \
        .sector = (o)->has_sector ? (o)->sector : ANY_SECTOR, .once = (o)->once                    \
    }

static void add_error_rules(GArray *rules, const GPtrArray *errors)
{
    for (guint i = 0; errors && i < errors->len; i++) {
        const BlkdebugInjectErrorOptions *o = g_ptr_array_index(errors, i);
        Rule rule = STRIKE_RULE(o, RULE_ERROR, o->q_errno);

        g_array_append_val(rules, rule);
    }
}

static void add_delay_rules(GArray *rules, const GPtrArray *delays)
{
    for (guint i = 0; delays && i < delays->len; i++) {
        const BlkdebugInjectDelayOptions *o = g_ptr_array_index(delays, i);
        Rule rule = STRIKE_RULE(o, RULE_DELAY, o->delay_ns);

        g_array_append_val(rules, rule);
    }
}

static void add_state_rules(GArray *rules, const GPtrArray *changes)
{
    for (guint i = 0; changes && i < changes->len; i++) {
        const BlkdebugSetStateOptions *o = g_ptr_array_index(changes, i);
        Rule rule = {.action = RULE_SET_STATE,
                     .value = o->new_state,
                     .event = o->event,
                     .any_state = !o->has_state || o->state == 0,
                     .state = o->state,
                     .types = ALL_TYPES,
                     .sector = ANY_SECTOR};

        g_array_append_val(rules, rule);
    }
}

/* Bits of BlockPerm for the schema's list. */
static unsigned permissions(const GArray *list)
{
    static const BlockPerm bits[] = {
        [BLOCK_PERMISSION_CONSISTENT_READ] = BLOCK_PERM_CONSISTENT_READ,
        [BLOCK_PERMISSION_WRITE] = BLOCK_PERM_WRITE,
        [BLOCK_PERMISSION_WRITE_UNCHANGED] = BLOCK_PERM_WRITE_UNCHANGED,
        [BLOCK_PERMISSION_RESIZE] = BLOCK_PERM_RESIZE,
    };
    unsigned set = 0;

    for (guint i = 0; list && i < list->len; i++) {
        set |= bits[g_array_index(list, BlockPermission, i)];
    }
    return set;
}

static bool check_multiple(const char *option, uint64_t value, uint32_t align, GError **error)
{
    if (value % align != 0) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "blkdebug: '%s' is %" G_GUINT64_FORMAT
                    ", but must be a multiple of the alignment (%" G_GUINT32_FORMAT ")",
                    option, value, align);
        return false;
    }
    return true;
}

static bool check_settings(const Settings *s, uint32_t child_alignment, GError **error)
{
    uint32_t align = MAX(MAX(s->align, child_alignment), 1);

    if (s->align & (s->align - 1)) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_INVALID_ARGUMENT,
                    "blkdebug: 'align' is %" G_GUINT32_FORMAT ", but must be a power of two",
                    s->align);
        return false;
    }
    return check_multiple("max-transfer", s->max_transfer, align, error) &&
           check_multiple("opt-write-zero", s->zero_alignment, align, error) &&
           check_multiple("max-write-zero", s->max_zero, MAX(align, s->zero_alignment), error) &&
           check_multiple("opt-discard", s->discard_alignment, align, error) &&
           check_multiple("max-discard", s->max_discard, MAX(align, s->discard_alignment), error);
}

static Settings *settings_new(const BlockdevOptionsBlkdebug *o, GError **error)
{
    g_autoptr(Settings) s = g_new0(Settings, 1);

    s->rules = g_array_new(FALSE, FALSE, sizeof(Rule));
    if (o->config) {
        g_set_error(error, WHARF_ERROR, WHARF_ERROR_UNSUPPORTED,
                    "blkdebug: 'config' files are not supported, give 'inject-error', "
                    "'inject-delay' and 'set-state' instead");
        return NULL;
    }
    add_error_rules(s->rules, o->inject_error);
    add_delay_rules(s->rules, o->inject_delay);
    add_state_rules(s->rules, o->set_state);
    s->align = o->has_align ? (uint32_t)o->align : 0;
    s->max_transfer = o->has_max_transfer ? (uint32_t)o->max_transfer : 0;
    s->zero_alignment = o->has_opt_write_zero ? (uint32_t)o->opt_write_zero : 0;
    s->max_zero = o->has_max_write_zero ? (uint64_t)o->max_write_zero : 0;
    s->discard_alignment = o->has_opt_discard ? (uint32_t)o->opt_discard : 0;
    s->max_discard = o->has_max_discard ? (uint64_t)o->max_discard : 0;
    s->take = permissions(o->take_child_perms);
    s->unshare = permissions(o->unshare_child_perms);
    return g_steal_pointer(&s);
}

/* Whether the settings go with each other and with @image. */
static bool check_for_image(const Settings *s, BlockNode *image, GError **error)
{
    BlockLimits below;

    block_node_limits(image, &below);
    return check_settings(s, below.request_alignment, error);
}

/* A request, as the rules look at it. */
typedef struct Request {
    BlkdebugIOType type;
    uint64_t offset, bytes;
} Request;

/* What is to become of a request. */
typedef struct Verdict {
    int64_t delay_ns;
    int error; /* 0 or -errno */
} Verdict;

static bool rule_applies(const Rule *rule, const Request *req, int64_t state)
{
    uint64_t sector_start = (uint64_t)rule->sector * SECTOR_SIZE;

    if (rule->spent || !(rule->types & (1u << req->type)) ||
        (!rule->any_state && rule->state != state)) {
        return false;
    }
    return rule->sector == ANY_SECTOR ||
           (req->offset < sector_start + SECTOR_SIZE && sector_start < req->offset + req->bytes);
}

/* Under lock. Adds to @verdict what the rules for @event say. */
static void process_event(BlkdebugState *s, BlkdebugEvent event, const Request *req,
                          Verdict *verdict)
{
    int64_t state = s->state;

    for (guint i = 0; i < s->settings->rules->len; i++) {
        Rule *rule = &g_array_index(s->settings->rules, Rule, i);

        if (rule->event != event || !rule_applies(rule, req, state)) {
            continue;
        }
        switch (rule->action) {
        case RULE_ERROR:
            if (verdict->error) {
                continue;
            }
            verdict->error = -(int)rule->value;
            break;
        case RULE_DELAY:
            verdict->delay_ns += rule->value;
            break;
        case RULE_SET_STATE:
            s->state = rule->value;
            break;
        }
        rule->spent = rule->once;
    }
}

/* Let @n @events happen to @req: wait as long as they say. Returns 0, or the error they say. */
static int co_fn co_happen(BlockNode *node, const BlkdebugEvent *events, unsigned n, Request req)
{
    BlkdebugState *s = block_node_state(node);
    Verdict verdict = {0};

    g_mutex_lock(&s->lock);
    for (unsigned i = 0; i < n; i++) {
        process_event(s, events[i], &req, &verdict);
    }
    g_mutex_unlock(&s->lock);
    if (verdict.delay_ns > 0) {
        aio_co_sleep_ns(verdict.delay_ns);
    }
    return verdict.error;
}

#define HAPPEN(node, request, ...)                                                                 \
    co_happen(node, (const BlkdebugEvent[]){__VA_ARGS__},                                          \
              G_N_ELEMENTS(((const BlkdebugEvent[]){__VA_ARGS__})), request)

static int co_fn blkdebug_co_preadv(BlockNode *node, uint64_t offset, const IoVector *iov,
                                    BlockRequestFlags flags)
{
    BlkdebugState *s = block_node_state(node);
    Request req = {BLKDEBUG_IO_TYPE_READ, offset, iov->bytes};
    int r = HAPPEN(node, req, BLKDEBUG_EVENT_NONE, BLKDEBUG_EVENT_READ_AIO);

    return r < 0 ? r : block_child_co_preadv(s->image, offset, iov, flags);
}

/*
 * What of a request lies in the node: not the padding behind a length that is no multiple of the
 * alignment, which would make the child longer.
 */
static uint64_t without_padding(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    uint64_t length = (uint64_t)block_node_length(node);

    return MIN(bytes, length - MIN(offset, length));
}

static int co_fn co_write_image(BlockNode *node, uint64_t offset, const IoVector *iov,
                                BlockRequestFlags flags)
{
    BlkdebugState *s = block_node_state(node);
    uint64_t bytes = without_padding(node, offset, iov->bytes);
    g_auto(IovPart) part = IOV_PART_EMPTY;

    if (G_LIKELY(bytes == iov->bytes)) {
        return block_child_co_pwritev(s->image, offset, iov, flags);
    }
    iov_part_init(&part, iov, 0, bytes);
    return block_child_co_pwritev(s->image, offset, &part.iov, flags);
}

static int co_fn blkdebug_co_pwritev(BlockNode *node, uint64_t offset, const IoVector *iov,
                                     BlockRequestFlags flags)
{
    Request req = {BLKDEBUG_IO_TYPE_WRITE, offset, iov->bytes};
    int r =
        HAPPEN(node, req, BLKDEBUG_EVENT_NONE, BLKDEBUG_EVENT_WRITE_AIO, BLKDEBUG_EVENT_PWRITEV);

    if (r == 0) {
        r = co_write_image(node, offset, iov, flags);
    }
    return r < 0 ? r : HAPPEN(node, req, BLKDEBUG_EVENT_PWRITEV_DONE);
}

static int co_fn blkdebug_co_pwrite_zeroes(BlockNode *node, uint64_t offset, uint64_t bytes,
                                           BlockRequestFlags flags)
{
    BlkdebugState *s = block_node_state(node);
    Request req = {BLKDEBUG_IO_TYPE_WRITE_ZEROES, offset, bytes};
    int r = HAPPEN(node, req, BLKDEBUG_EVENT_NONE, BLKDEBUG_EVENT_PWRITEV_ZERO);

    if (r == 0) {
        r = block_child_co_pwrite_zeroes(s->image, offset, without_padding(node, offset, bytes),
                                         flags);
    }
    return r < 0 ? r : HAPPEN(node, req, BLKDEBUG_EVENT_PWRITEV_DONE);
}

static int co_fn blkdebug_co_pdiscard(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    BlkdebugState *s = block_node_state(node);
    Request req = {BLKDEBUG_IO_TYPE_DISCARD, offset, bytes};
    int r = HAPPEN(node, req, BLKDEBUG_EVENT_NONE);

    return r < 0 ? r : block_child_co_pdiscard(s->image, offset, bytes);
}

static int co_fn blkdebug_co_allocate(BlockNode *node, uint64_t offset, uint64_t bytes)
{
    BlkdebugState *s = block_node_state(node);
    Request req = {BLKDEBUG_IO_TYPE_ALLOCATE, offset, bytes};
    int r = HAPPEN(node, req, BLKDEBUG_EVENT_NONE);

    return r < 0 ? r : block_child_co_allocate(s->image, offset, bytes);
}

/* The core flushes the child. A flush touches every sector. */
static int co_fn blkdebug_co_flush(BlockNode *node)
{
    Request req = {BLKDEBUG_IO_TYPE_FLUSH, 0, (uint64_t)block_node_length(node)};
    int r = HAPPEN(node, req, BLKDEBUG_EVENT_NONE, BLKDEBUG_EVENT_FLUSH_TO_OS,
                   BLKDEBUG_EVENT_FLUSH_TO_DISK);

    if (r < 0) {
        block_node_report_flush_error(node);
    }
    return r;
}

static int co_fn blkdebug_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes,
                                          uint64_t *pnum, BlockStatus *status)
{
    BlkdebugState *s = block_node_state(node);
    Request req = {BLKDEBUG_IO_TYPE_BLOCK_STATUS, offset, bytes};
    int r = HAPPEN(node, req, BLKDEBUG_EVENT_NONE);

    return r < 0 ? r : block_child_co_block_status(s->image, offset, bytes, pnum, status);
}

static void blkdebug_limits(BlockNode *node, BlockLimits *limits)
{
    BlkdebugState *s = block_node_state(node);
    const Settings *o = s->settings;

    if (o->align) {
        limits->request_alignment = MAX(limits->request_alignment, o->align);
    }
    if (o->max_transfer) {
        limits->max_transfer = o->max_transfer;
    }
    if (o->zero_alignment) {
        limits->pwrite_zeroes_alignment = o->zero_alignment;
    }
    if (o->max_zero) {
        limits->max_pwrite_zeroes = o->max_zero;
    }
    if (o->discard_alignment) {
        limits->pdiscard_alignment = o->discard_alignment;
    }
    if (o->max_discard) {
        limits->max_pdiscard = o->max_discard;
    }
}

static void blkdebug_child_perm(BlockNode *node, BlockChild *child, BlockPerm parent_perm,
                                BlockPerm parent_shared, BlockPerm *perm, BlockPerm *shared)
{
    BlkdebugState *s = block_node_state(node);
    BlockReopen *reopen = block_node_reopen(node);
    const Settings *o = reopen && reopen->state ? reopen->state : s->settings;

    *perm = parent_perm | o->take;
    *shared = parent_shared & ~o->unshare;
}

static bool co_fn blkdebug_co_open(BlockNode *node, const BlockdevOptions *opts, GError **error)
{
    BlkdebugState *s = block_node_state(node);
    const BlockdevOptionsBlkdebug *o = &opts->u.blkdebug;

    s->state = FIRST_STATE;
    s->settings = settings_new(o, error); /* the child's permissions need them */
    if (!s->settings) {
        return false;
    }
    s->image = block_child_co_open(node, o->image, "image", error);
    if (!s->image || !check_for_image(s->settings, block_child_node(s->image), error)) {
        g_clear_pointer(&s->settings, settings_free);
        return false;
    }
    g_mutex_init(&s->lock);
    return true;
}

static void co_fn blkdebug_co_close(BlockNode *node)
{
    BlkdebugState *s = block_node_state(node);

    settings_free(s->settings);
    g_mutex_clear(&s->lock);
}

static bool co_fn blkdebug_co_reopen_prepare(BlockReopen *reopen, GError **error)
{
    g_autoptr(Settings) settings = settings_new(&reopen->opts->u.blkdebug, error);

    if (!settings || !check_for_image(settings, block_reopen_child(reopen, "image"), error)) {
        return false;
    }
    reopen->state = g_steal_pointer(&settings);
    return true;
}

static void co_fn blkdebug_co_reopen_commit(BlockReopen *reopen)
{
    BlkdebugState *s = block_node_state(reopen->node);

    g_mutex_lock(&s->lock);
    settings_free(s->settings);
    s->settings = g_steal_pointer(&reopen->state);
    s->state = FIRST_STATE;
    g_mutex_unlock(&s->lock);
}

static void co_fn blkdebug_co_reopen_abort(BlockReopen *reopen)
{
    settings_free(g_steal_pointer(&reopen->state));
}

const BlockDriver block_driver_blkdebug = {
    .name = "blkdebug",
    .type = BLOCKDEV_DRIVER_BLKDEBUG,
    .state_size = sizeof(BlkdebugState),
    .is_filter = true,
    .follows_child_length = true,
    .concurrency = BLOCK_CONCURRENT,
    .co_open = blkdebug_co_open,
    .co_close = blkdebug_co_close,
    .co_reopen_prepare = blkdebug_co_reopen_prepare,
    .co_reopen_commit = blkdebug_co_reopen_commit,
    .co_reopen_abort = blkdebug_co_reopen_abort,
    .co_preadv = blkdebug_co_preadv,
    .co_pwritev = blkdebug_co_pwritev,
    .co_pwrite_zeroes = blkdebug_co_pwrite_zeroes,
    .co_pdiscard = blkdebug_co_pdiscard,
    .co_allocate = blkdebug_co_allocate,
    .co_flush = blkdebug_co_flush,
    .co_block_status = blkdebug_co_block_status,
    .limits = blkdebug_limits,
    .child_perm = blkdebug_child_perm,
};
