/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random requests against nodes with random limits, compared with a plain buffer. Several threads
 * work at the same time, each on a stretch of its own whose ends fit no alignment, so that they
 * meet in the blocks in between.
 */
#include <errno.h>
#include <string.h>

#include "block-fixture.h"
#include "block-script.h"

#define LENGTH   200123
#define STRETCH  (LENGTH / FIXTURE_THREADS)
#define REQUESTS 300

#define RWZ (BLOCK_PERM_CONSISTENT_READ | BLOCK_PERM_WRITE)

typedef struct Player {
    BlockBackend *blk;
    GRand *rand;
    uint64_t start, length; /* its stretch */
    unsigned char *model;   /* of all; it changes its stretch alone */
    unsigned *ended;
} Player;

static uint64_t pick_length(Player *p, uint64_t max)
{
    static const unsigned typical[] = {1, 100, 512, 4096, 5000, 20000, 70000};
    uint64_t n = typical[g_rand_int_range(p->rand, 0, G_N_ELEMENTS(typical))];

    if (g_rand_boolean(p->rand)) {
        n = g_rand_int_range(p->rand, 1, n + 2);
    }
    return MIN(n, max);
}

static void pick_range(Player *p, uint64_t *offset, uint64_t *bytes)
{
    *offset = g_rand_int_range(p->rand, 0, p->length);
    if (g_rand_boolean(p->rand)) {
        *offset &= ~UINT64_C(4095);
    }
    *bytes = pick_length(p, p->length - *offset);
    *offset += p->start;
}

/* Cut @memory of @bytes bytes into up to 20 pieces. */
static unsigned pick_pieces(Player *p, struct iovec *iov, char *memory, size_t bytes)
{
    unsigned n = 0;

    while (bytes > 0) {
        size_t piece = n == 19 || g_rand_boolean(p->rand)
                           ? bytes
                           : (size_t)g_rand_int_range(p->rand, 1, bytes + 1);

        iov[n++] = (struct iovec){memory, piece};
        memory += piece;
        bytes -= piece;
    }
    return n;
}

static void play_read(Player *p, uint64_t offset, uint64_t bytes)
{
    g_autofree char *memory = g_malloc(bytes);
    struct iovec array[20];
    IoVector iov = {array, pick_pieces(p, array, memory, bytes), bytes};

    g_assert_cmpint(blk_co_preadv(p->blk, offset, &iov, 0), ==, 0);
    g_assert_cmpmem(memory, bytes, p->model + offset, bytes);
}

static BlockRequestFlags pick_flags(Player *p)
{
    static const BlockRequestFlags flags[] = {0, 0, 0, BLOCK_REQ_FUA, BLOCK_REQ_SERIALISING};

    return flags[g_rand_int_range(p->rand, 0, G_N_ELEMENTS(flags))];
}

static void play_write(Player *p, uint64_t offset, uint64_t bytes)
{
    g_autofree char *memory = g_malloc(bytes);
    struct iovec array[20];
    IoVector iov = {array, pick_pieces(p, array, memory, bytes), bytes};

    memset(memory, g_rand_int_range(p->rand, 0, 4), bytes);
    memory[bytes / 2] = g_rand_int_range(p->rand, 0, 256);
    memcpy(p->model + offset, memory, bytes);
    g_assert_cmpint(blk_co_pwritev(p->blk, offset, &iov, pick_flags(p)), ==, 0);
}

static void play_zero(Player *p, uint64_t offset, uint64_t bytes)
{
    BlockRequestFlags flags = pick_flags(p) | BLOCK_REQ_MAY_UNMAP;

    memset(p->model + offset, 0, bytes);
    g_assert_cmpint(blk_co_pwrite_zeroes(p->blk, offset, bytes, flags), ==, 0);
}

/* What is discarded is unspecified afterwards, within the range. */
static void play_discard(Player *p, uint64_t offset, uint64_t bytes)
{
    IoVector iov = {&(struct iovec){p->model + offset, bytes}, 1, bytes};

    g_assert_cmpint(blk_co_pdiscard(p->blk, offset, bytes), ==, 0);
    g_assert_cmpint(blk_co_preadv(p->blk, offset, &iov, 0), ==, 0);
}

static void play_status(Player *p, uint64_t offset, uint64_t bytes)
{
    BlockStatus status;
    uint64_t n;

    g_assert_cmpint(blk_co_block_status(p->blk, offset, bytes, &n, &status), ==, 0);
    g_assert_cmpuint(n, >, 0);
    g_assert_cmpuint(n, <=, bytes);
    g_assert_cmpint(!!(status & BLOCK_STATUS_EOF), ==, offset + n == LENGTH);
    for (uint64_t i = 0; (status & BLOCK_STATUS_ZERO) && i < n; i++) {
        g_assert_cmpuint(p->model[offset + i], ==, 0);
    }
}

static void play_one(Player *p)
{
    uint64_t offset, bytes;

    pick_range(p, &offset, &bytes);
    switch (g_rand_int_range(p->rand, 0, 12)) {
    case 0 ... 3:
        play_read(p, offset, bytes);
        break;
    case 4 ... 7:
        play_write(p, offset, bytes);
        break;
    case 8:
        play_zero(p, offset, bytes);
        break;
    case 9:
        play_discard(p, offset, bytes);
        break;
    case 10:
        play_status(p, offset, bytes);
        break;
    case 11:
        g_assert_cmpint(blk_co_flush(p->blk), ==, 0);
        break;
    }
}

static void player_entry(void *opaque)
{
    Player *p = opaque;

    for (unsigned i = 0; i < REQUESTS; i++) {
        play_one(p);
    }
    __atomic_fetch_add(p->ended, 1, __ATOMIC_SEQ_CST);
}

static void script_random(GRand *rand)
{
    static const unsigned sizes[] = {0, 0, 512, 4096, 65536};

#define PICK sizes[g_rand_int_range(rand, 0, G_N_ELEMENTS(sizes))]
    script_reset();
    script.limits.request_alignment = PICK;
    if (script.limits.request_alignment == 65536) {
        script.limits.request_alignment = 1;
    }
    script.limits.max_transfer = PICK;
    script.limits.max_iov = g_rand_int_range(rand, 0, 5);
    script.limits.min_mem_alignment = g_rand_boolean(rand) ? 512 : 0;
    script.limits.pwrite_zeroes_alignment = PICK;
    script.limits.max_pwrite_zeroes = PICK;
    script.limits.pdiscard_alignment = PICK;
    script.limits.max_pdiscard = PICK;
#undef PICK
    if (script.limits.max_transfer) {
        script.limits.max_transfer =
            MAX(script.limits.max_transfer, script.limits.request_alignment);
    }
    if (script.limits.max_pwrite_zeroes) {
        script.limits.max_pwrite_zeroes =
            MAX(script.limits.max_pwrite_zeroes, script.limits.request_alignment);
    }
    if (script.limits.max_pdiscard) {
        script.limits.max_pdiscard =
            MAX(script.limits.max_pdiscard, script.limits.request_alignment);
    }
    script.lacks_zeroes = g_rand_int_range(rand, 0, 3) == 0;
    script.lacks_discard = g_rand_int_range(rand, 0, 3) == 0;
    script.write_flags = g_rand_boolean(rand) ? BLOCK_REQ_FUA : 0;
    script.zero_flags = g_rand_boolean(rand) ? BLOCK_REQ_FUA : 0;
}

/* The raw node in front makes offsets odd for the one below. */
static void play_game(GRand *rand)
{
    g_autoptr(Fixture) f = fixture_new();
    g_autofree unsigned char *model = g_malloc0(LENGTH);
    Player players[FIXTURE_THREADS];
    BlockBackend *blk;
    unsigned ended = 0;

    script_random(rand);
    fixture_start_threads(f);
    fixture_add(f, "{'driver': 'memory', 'node-name': 'mem', 'size': 200130}");
    fixture_add(f, "{'driver': 'blkdebug', 'node-name': 'low', 'image': 'mem', "
                   "'discard': 'unmap', 'detect-zeroes': 'on'}");
    fixture_add(f, "{'driver': 'raw', 'node-name': 'top', 'file': 'low', 'offset': 7, "
                   "'discard': 'unmap'}");
    blk = fixture_backend(f, "top", "test", RWZ, BLOCK_PERM_ALL);
    for (unsigned i = 0; i < FIXTURE_THREADS; i++) {
        bool last = i == FIXTURE_THREADS - 1;

        players[i] = (Player){
            .blk = blk,
            .rand = g_rand_new_with_seed(g_rand_int(rand)),
            .start = i * STRETCH,
            .length = last ? LENGTH - i * STRETCH : STRETCH,
            .model = model,
            .ended = &ended,
        };
        aio_co_enter(fixture_thread(f, i), player_entry, &players[i]);
    }
    fixture_wait_count(f, &ended, FIXTURE_THREADS);
    for (unsigned i = 0; i < FIXTURE_THREADS; i++) {
        g_rand_free(players[i].rand);
    }
    fixture_free_backend(f, blk);
}

/* The same games each time; with -m slow others, too, which --seed repeats. */
static void test_random(void)
{
    unsigned games = g_test_slow() ? 100 : 8;

    for (unsigned i = 0; i < games; i++) {
        g_autoptr(GRand) rand = g_rand_new_with_seed(i < 8 ? i : (unsigned)g_test_rand_int());

        play_game(rand);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/block/random", test_random);
    return g_test_run();
}
