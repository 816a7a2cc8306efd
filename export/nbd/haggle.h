/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * export/nbd/haggle.h - the options of a handshake: what each of them means, knowing nothing of
 * sockets. Bytes come in, bytes go out.
 *
 * Threads   Any one; nothing suspends.
 */
#ifndef WHARF_EXPORT_NBD_HAGGLE_H
#define WHARF_EXPORT_NBD_HAGGLE_H

#include <glib.h>
#include <stdbool.h>

#include "export/nbd/wire.h"

/* Most bytes of an option's data that anybody has a use for; more is not kept. */
#define NBD_HAGGLE_MAX_DATA (64 * 1024)

/* Most bytes of an option's data that are read over before it is called an attack. */
#define NBD_HAGGLE_MAX_SKIP (32 * 1024 * 1024)

/* What a client may learn of an export. */
typedef struct NbdFace {
    const char *name;
    const char *description;     /* NULL: none */
    uint64_t size;               /* bytes */
    uint16_t flags;              /* NBD_FLAG_*, but for those that depend on the client */
    uint32_t preferred_block;    /* bytes */
    const char *const *contexts; /* names of metadata contexts, ended by NULL; index: their id */
    gpointer self;               /* the export */
} NbdFace;

/* Where a handshake finds exports. */
typedef struct NbdDirectory {
    gpointer opaque;
    /* The export called @name, or NULL. Stays until the next option. */
    const NbdFace *(*find)(gpointer opaque, const NbdString *name);
    /* Call @fn for each. */
    void (*foreach)(gpointer opaque, void (*fn)(const NbdFace *face, gpointer arg), gpointer arg);
} NbdDirectory;

typedef struct NbdHaggle {
    const NbdDirectory *directory;
    bool fixed;         /* the client speaks the fixed newstyle */
    bool no_zeroes;     /* it can do without those at the end of the old answer */
    bool tls_possible;  /* STARTTLS can be granted */
    bool tls_required;  /* nothing else before it */
    bool tls;           /* runs */
    bool shutting_down; /* the server ends */
    bool structured;
    bool extended;

    char *meta_name;   /* the export that contexts were selected of; NULL: none were */
    GArray *meta_ids;  /* uint32_t: the contexts selected */
    GByteArray *reply; /* what is to be sent now */

    const NbdFace *chosen; /* with NBD_HAGGLE_GO */
    NbdTerms terms;        /* the same */
} NbdHaggle;

typedef enum {
    NBD_HAGGLE_ON,       /* go on with the next option */
    NBD_HAGGLE_GO,       /* the transmission begins */
    NBD_HAGGLE_STARTTLS, /* after the reply, TLS; then nbd_haggle_set_tls() */
    NBD_HAGGLE_END,      /* after the reply, close the connection */
} NbdHaggleStep;

void nbd_haggle_init(NbdHaggle *haggle, const NbdDirectory *directory);
void nbd_haggle_clear(NbdHaggle *haggle);

/* What the client's first word says. False: the connection must be closed. */
bool nbd_haggle_set_client_flags(NbdHaggle *haggle, uint32_t flags);

/* TLS runs from here on: whatever was agreed on before is void. */
void nbd_haggle_set_tls(NbdHaggle *haggle);

/*
 * Deal with an option. Its data is at @data, whole, or @data is NULL where there is more than
 * NBD_HAGGLE_MAX_DATA of it. The answer is appended to haggle->reply.
 */
NbdHaggleStep nbd_haggle_option(NbdHaggle *haggle, const NbdOptionHeader *header, const void *data);

#endif
