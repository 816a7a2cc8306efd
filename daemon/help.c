/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/help.h"

#include <glib.h>
#include <string.h>

#include "qapi/types-block-core.h"
#include "qapi/types-block-export.h"
#include "qapi/types-chardev.h"
#include "qapi/types-control.h"
#include "qapi/types-object.h"

static const char usage_text[] =
    "Usage: wharfd [OPTION]...\n"
    "Opens disk images as block nodes and exports them; driven over sockets by QMP or JSON-RPC.\n"
    "\n"
    "What to set up; each may be given several times, in any order, as key=value list or as JSON,\n"
    "and 'help' for a value tells what it may be:\n"
    "  --object [qom-type=]TYPE,id=ID[,PROPERTY=VALUE...]\n"
    "        an object, such as an iothread\n"
    "  --blockdev [driver=]DRIVER,node-name=NAME[,OPTION=VALUE...]\n"
    "        a block node, such as an image file\n"
    "  --export [type=]TYPE,id=ID,node-name=NAME[,OPTION=VALUE...]\n"
    "        an export of a node, such as a mountpoint\n"
    "  --chardev [backend=]socket,id=ID,path=PATH,server=on,wait=off[,OPTION=VALUE...]\n"
    "        a socket or stdio for a monitor\n"
    "  --monitor [chardev=]ID[,mode=control|jsonrpc][,pretty=on][,id=ID]\n"
    "  --monitor path=PATH[,mode=control|jsonrpc][,socket-mode=0660][,pretty=on][,id=ID]\n"
    "        a monitor on a chardev, or on a Unix socket of its own\n"
    "  --nbd-server OPTIONS\n"
    "        known, and refused: this build has no NBD export\n"
    "\n"
    "How to run:\n"
    "  --daemonize             go to the background once everything is set up\n"
    "  --pidfile PATH          write the process id there once everything is set up\n"
    "  --exit-when-idle        end when the last export has gone\n"
    "  --aio auto|io_uring|epoll\n"
    "                          how to wait for input and output\n"
    "  --log [level=]LEVEL[,format=text|json][,file=PATH]\n"
    "                          LEVEL: error, warning, notice, info, debug\n"
    "  -T, --trace PATTERN     same as --log debug\n"
    "  -h, --help              print this\n"
    "  -V, --version           print the version and what this build can do\n"
    "\n"
    "SIGTERM, SIGINT and SIGHUP end the daemon in order; a second one ends it at once.\n";

char *help_usage(void)
{
    return g_strdup(usage_text);
}

char *help_version(void)
{
    return g_strdup("wharfd " WHARF_VERSION "\n" WHARF_FEATURES "\n");
}

/* ---- 'help' in place of a value ---- */

#define LIST_OF(prefix, count)                                                                     \
    static const char *name_##prefix(int i)                                                        \
    {                                                                                              \
        return i < (count) ? prefix##_to_string(i) : NULL;                                         \
    }

LIST_OF(object_type, OBJECT_TYPE__COUNT)
LIST_OF(blockdev_driver, BLOCKDEV_DRIVER__COUNT)
LIST_OF(block_export_type, BLOCK_EXPORT_TYPE__COUNT)
LIST_OF(chardev_backend_kind, CHARDEV_BACKEND_KIND__COUNT)

/* What a kind-of option offers. */
typedef struct {
    const char *option;
    const char *what;
    const char *(*name)(int i); /* of kind i; NULL past the last */
} HelpTopic;

static const HelpTopic topics[] = {
    {"object", "types of objects", name_object_type},
    {"blockdev", "block drivers", name_blockdev_driver},
    {"export", "types of exports", name_block_export_type},
    {"chardev", "kinds of chardevs", name_chardev_backend_kind},
};

static char *list_topic(const HelpTopic *topic)
{
    GString *text = g_string_new(NULL);
    const char *name;

    g_string_append_printf(text, "--%s: %s, each of which explains itself with 'NAME,help':\n",
                           topic->option, topic->what);
    for (int i = 0; (name = topic->name(i)); i++) {
        g_string_append_printf(text, "  %s\n", name);
    }
    return g_string_free(text, FALSE);
}

static bool is_help(const char *text)
{
    return g_str_equal(text, "help") || g_str_equal(text, "?");
}

char *help_for_value(const char *option, const char *value)
{
    for (gsize i = 0; i < G_N_ELEMENTS(topics); i++) {
        if (g_str_equal(topics[i].option, option) && is_help(value)) {
            return list_topic(&topics[i]);
        }
    }
    return NULL;
}
