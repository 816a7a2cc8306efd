/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * block/drivers/qcow2/state.h - what the files of the qcow2 driver share: a node's state and the
 * parts of its work, which qcow2.c puts into the driver's table.
 *
 *   header, table, snapshot, compress   the format, as functions on plain structs
 *   cache                               tables in memory
 *   image     what is read when an image is opened
 *   names     the files that an image names
 *   options   sizes of caches
 *   map       from an offset in the disk to where its data is
 *   read      reads; status: block status
 *   info      what queries tell
 *   qcow2     open, close, reopen and the rest of control
 */
#ifndef WHARF_BLOCK_DRIVERS_QCOW2_STATE_H
#define WHARF_BLOCK_DRIVERS_QCOW2_STATE_H

#include "aio/aio.h"
#include "block/driver.h"
#include "block/drivers/qcow2/cache.h"
#include "block/drivers/qcow2/header.h"
#include "block/drivers/qcow2/snapshot.h"
#include "block/drivers/qcow2/table.h"

/* What was read when the image was opened. */
typedef struct Qcow2Image {
    Qcow2Header *header;
    Qcow2Layout layout;
    uint64_t *l1;         /* header->l1_entries, in the machine's byte order */
    GPtrArray *snapshots; /* Qcow2Snapshot * */
} Qcow2Image;

/* How to cache, as the options and the image say. */
typedef struct Qcow2CacheSizes {
    size_t l2_entry;     /* bytes of a part of an L2 table that is cached as one */
    unsigned l2_entries; /* such parts, at least 1 */
    uint64_t refcount_bytes;
    int64_t clean_ns; /* time between two cleanings, 0: none */
} Qcow2CacheSizes;

/* A cache of L2 tables, in slices: parts of @entries entries each, numbered through all tables. */
typedef struct Qcow2L2 {
    Qcow2Cache *cache;
    unsigned slice_bits; /* a slice has 1 << slice_bits entries */
    size_t slice_bytes;
} Qcow2L2;

typedef struct Qcow2State {
    /* Fixed after open; what the edges lead to changes with the node drained. */
    char *name;              /* of the image, for messages */
    bool follow_names;       /* of other files, in the image */
    BlockChild *file, *data; /* the same without an external data file */
    BlockChild *backing;     /* NULL: none */

    /* Changed with the node drained. */
    Qcow2Image *image;
    Qcow2L2 l2;

    /* Main thread. */
    AioTimer *clean_timer;
    int64_t clean_ns;

    bool corrupt; /* atomic; found to be, and reported */
} Qcow2State;

/* image.c */

/*
 * Read the image in @file: header, L1 table, list of snapshots. Messages begin with @name. The
 * first step alone gives what is needed to open the other children; image_co_load_tables() then
 * fills in the rest.
 */
Qcow2Image *co_fn qcow2_image_co_load_header(BlockChild *file, const char *name, GError **error);
bool co_fn qcow2_image_co_load_tables(Qcow2Image *image, BlockChild *file, const char *name,
                                      GError **error);
void qcow2_image_free(Qcow2Image *image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Image, qcow2_image_free)

/* names.c; options of children that only the image names, or NULL and @error */
BlockdevRef *co_fn qcow2_names_co_backing(const Qcow2State *s, const Qcow2Header *header,
                                          GError **error);
BlockdevRef *co_fn qcow2_names_co_data_file(const Qcow2State *s, const Qcow2Header *header,
                                            GError **error);
/* The complete path of the backing file, newly allocated, UTF-8; NULL where there is none. */
char *qcow2_names_full_backing(const Qcow2State *s);

/* options.c */
bool qcow2_cache_sizes(const BlockdevOptionsQcow2 *o, const Qcow2Header *header,
                       Qcow2CacheSizes *sizes, GError **error);
bool qcow2_l2_init(Qcow2L2 *l2, const Qcow2CacheSizes *sizes, const Qcow2Layout *layout,
                   GError **error);

/* map.c */

/*
 * Where the disk has what begins at @offset: the first part of the @bytes (> 0) there, which must
 * lie inside the disk. 0; -EIO where the image is wrong, which is reported; or an error of reading
 * it.
 */
int co_fn qcow2_co_map(BlockNode *node, uint64_t offset, uint64_t bytes, Qcow2Extent *extent);

/* The image is wrong: report it, the first time. Returns -EIO. Any thread. */
int qcow2_fault(BlockNode *node, Qcow2Fault fault, uint64_t offset);

/* read.c, status.c */
int co_fn qcow2_co_preadv(BlockNode *node, uint64_t offset, const IoVector *iov,
                          BlockRequestFlags flags);
int co_fn qcow2_co_block_status(BlockNode *node, uint64_t offset, uint64_t bytes, uint64_t *pnum,
                                BlockStatus *status, uint64_t *map);

/* info.c */
ImageInfoSpecific *qcow2_image_specific(BlockNode *node);
bool qcow2_image_info(BlockNode *node, ImageInfo *info);

#endif
