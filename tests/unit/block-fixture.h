/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tests/unit/block-fixture.h - a block graph in a test, and the coroutines to drive it.
 *
 * A Fixture owns a context for the main thread, a graph in it and, when asked for, iothreads. The
 * functions with an f begin run a coroutine in the main context and poll until it has ended; their
 * options are JSON in QMP's dialect (single quotes).
 */
#ifndef WHARF_TESTS_BLOCK_FIXTURE_H
#define WHARF_TESTS_BLOCK_FIXTURE_H

#include "aio/aio.h"
#include "aio/iothread.h"
#include "block/backend.h"
#include "block/block.h"
#include "util/error.h"

#define FIXTURE_THREADS 3

typedef struct Fixture {
    AioContext *main;
    BlockGraph *graph;
    Iothread *thread[FIXTURE_THREADS]; /* made by fixture_start_threads() */
} Fixture;

Fixture *fixture_new(void);
/* Closes the graph and checks that nothing is left. */
void fixture_free(Fixture *f);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Fixture, fixture_free)

/* Start to close the graph; @done is set when that has ended. Free the fixture afterwards. */
typedef struct FixtureClose {
    BlockGraph *graph;
    bool done;
} FixtureClose;
void fixture_close_start(Fixture *f, FixtureClose *closing);

/* JSON that must be right. */
QValue *fixture_parse(const char *json);

void fixture_start_threads(Fixture *f);
AioContext *fixture_thread(Fixture *f, unsigned i);

/* Poll the main context until *@flag (written in the main thread) is set. */
void fixture_wait(Fixture *f, const bool *flag);
/* Poll until *@counter, which any thread changes, has at least that value. */
void fixture_wait_count(Fixture *f, const unsigned *counter, unsigned value);
/* Run what is ready, without waiting. */
void fixture_settle(Fixture *f);

/* Run @fn in a coroutine of the main context to its end. */
void fixture_run(Fixture *f, CoroutineEntry *fn, void *opaque);

/* Control calls; those without an error argument must succeed. */
BlockNode *fixture_add(Fixture *f, const char *json);
bool fixture_try_add(Fixture *f, const char *json, GError **error);
void fixture_del(Fixture *f, const char *name);
bool fixture_try_del(Fixture *f, const char *name, GError **error);
/* @json: an array of options */
void fixture_reopen(Fixture *f, const char *json);
bool fixture_try_reopen(Fixture *f, const char *json, GError **error);
bool fixture_try_set_active(Fixture *f, const char *name, bool active, GError **error);

BlockBackend *fixture_backend(Fixture *f, const char *node, const char *user, BlockPerm perm,
                              BlockPerm shared);
BlockBackend *fixture_try_backend(Fixture *f, const char *node, const char *user, BlockPerm perm,
                                  BlockPerm shared, GError **error);
bool fixture_try_set_perm(Fixture *f, BlockBackend *blk, BlockPerm perm, BlockPerm shared,
                          GError **error);
void fixture_free_backend(Fixture *f, BlockBackend *blk);
void fixture_drain_begin(Fixture *f, BlockNode *node);
void fixture_drain_end(Fixture *f, BlockNode *node);

/* Requests, run to their end; results as of the blk_ functions. */
int fixture_read(Fixture *f, BlockBackend *blk, uint64_t offset, void *buffer, size_t bytes);
int fixture_write(Fixture *f, BlockBackend *blk, uint64_t offset, const void *buffer, size_t bytes,
                  BlockRequestFlags flags);
int fixture_fill(Fixture *f, BlockBackend *blk, uint64_t offset, size_t bytes, int byte);
int fixture_zero(Fixture *f, BlockBackend *blk, uint64_t offset, uint64_t bytes,
                 BlockRequestFlags flags);
int fixture_discard(Fixture *f, BlockBackend *blk, uint64_t offset, uint64_t bytes);
int fixture_allocate(Fixture *f, BlockBackend *blk, uint64_t offset, uint64_t bytes);
int fixture_flush(Fixture *f, BlockBackend *blk);
int fixture_truncate(Fixture *f, BlockBackend *blk, uint64_t size, BlockRequestFlags flags,
                     GError **error);
int fixture_status(Fixture *f, BlockBackend *blk, uint64_t offset, uint64_t bytes, uint64_t *pnum,
                   BlockStatus *status);

/* Check that the range holds @byte only. */
void fixture_assert_bytes(Fixture *f, BlockBackend *blk, uint64_t offset, size_t bytes, int byte);

/* One request that runs in the background, in any context. */
typedef struct Request {
    enum {
        REQUEST_READ,
        REQUEST_WRITE,
        REQUEST_ZERO,
        REQUEST_DISCARD,
        REQUEST_ALLOCATE,
        REQUEST_FLUSH,
        REQUEST_TRUNCATE,
        REQUEST_STATUS,
    } op;
    BlockBackend *blk;
    uint64_t offset, bytes;
    void *buffer;
    BlockRequestFlags flags;
    int result;
    uint64_t pnum; /* of a status */
    BlockStatus status;
    AioContext *ended_in;
    unsigned done; /* atomic; 1 when it has ended */
} Request;

void request_start(Request *r, AioContext *ctx);
static inline bool request_done(const Request *r)
{
    return __atomic_load_n(&r->done, __ATOMIC_SEQ_CST);
}

/* The error message must contain @word; clears the error. */
void assert_error(GError **error, const char *word);

#endif
