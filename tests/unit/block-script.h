/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tests/unit/block-script.h - a block driver that does what a test says.
 *
 * It takes the place of blkdebug in the programs that link it (its table has that name, so the
 * linker does not look for the real one): {'driver': 'blkdebug', 'image': ...}. It is no filter; it
 * passes requests on to its image, and on the way notes them, holds them until they are released,
 * or lets them fail. One script serves all such nodes of the program.
 */
#ifndef WHARF_TESTS_BLOCK_SCRIPT_H
#define WHARF_TESTS_BLOCK_SCRIPT_H

#include "block/driver.h"

typedef enum {
    SCRIPT_READ,
    SCRIPT_WRITE,
    SCRIPT_ZERO,
    SCRIPT_DISCARD,
    SCRIPT_FLUSH,
    SCRIPT_TRUNCATE,
    SCRIPT_STATUS,
    SCRIPT_ALLOCATE,
    SCRIPT_SNAPSHOT, /* to create one, which does nothing */
    SCRIPT_CHECK,
    SCRIPT_SIZE, /* that is allocated */
    SCRIPT__MAX,
} ScriptOp;

typedef struct ScriptEntry {
    ScriptOp op;
    uint64_t offset, bytes;
    BlockRequestFlags flags;
    unsigned n_iov;
} ScriptEntry;

/* Set before a node is added, or while nothing runs. */
typedef struct Script {
    BlockLimits limits; /* members that are not 0 */
    BlockRequestFlags write_flags, zero_flags, truncate_flags;
    bool lacks_zeroes, lacks_discard; /* answer -ENOTSUP */
    bool no_open;                     /* open fails, after the child was opened */
    bool slow_open;                   /* open waits for script_release_open() */
    bool twice;                       /* the image is a second child, too, called 'again' */
    int check_perm_error;             /* co_check_perm fails */
    int truncate_fill;                /* what is added is filled with this byte, not with zeros */
} Script;

extern Script script;

/* Forget everything: settings, notes, faults. */
void script_reset(void);

/* The notes: what came to the driver since the last script_clear(). */
unsigned script_count(ScriptOp op);
/* The i-th entry of that kind. */
ScriptEntry script_entry(ScriptOp op, unsigned i);
void script_clear(void);
/* "w0+512 f ..." for all of them: a letter, offset + bytes; for messages and compact checks. */
char *script_text(void);

/* The next @n requests of that kind fail with -@err. */
void script_fail(ScriptOp op, int err, unsigned n);

/* Hold all requests of that kind from now on, before they reach the image, until released. */
void script_hold(ScriptOp op);
/* How many are held now. Any thread. */
unsigned script_held(ScriptOp op);
/* Let go of those held, and hold no more. */
void script_release(ScriptOp op);
void script_release_open(void);

/* What the node was told about permissions, and how often that was checked, set, aborted. */
typedef struct ScriptPerm {
    BlockPerm perm, shared;
    unsigned checked, set, aborted;
} ScriptPerm;
extern ScriptPerm script_perm;

/* Reopen callbacks so far. */
extern unsigned script_prepared, script_committed, script_aborted;
extern bool script_prepare_fails;

/* Nodes open now. */
extern int script_open_nodes;

#endif
