/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command line as values, the order of what it asks for, and the lines of the log. */
#include "daemon/options.h"

#include <string.h>

#include "daemon/plan.h"

/* ---- reading ---- */

/* Parse words separated by blanks. The pointers in argv outlive the result, which copies. */
static DaemonOptions *parse(const char *words, char **ret_answer, GError **error)
{
    g_autofree char *line = g_strconcat("wharfd ", words, NULL);
    g_auto(GStrv) argv = g_strsplit(line, " ", -1);

    return daemon_options_parse(g_strv_length(argv), argv, ret_answer, error);
}

static DaemonOptions *must_parse(const char *words)
{
    GError *error = NULL;
    char *answer = NULL;
    DaemonOptions *options = parse(words, &answer, &error);

    g_assert_no_error(error);
    g_assert_null(answer);
    g_assert_nonnull(options);
    return options;
}

static void must_refuse(const char *words, const char *part)
{
    g_autoptr(GError) error = NULL;
    char *answer = NULL;

    g_assert_null(parse(words, &answer, &error));
    g_assert_null(answer);
    g_assert_nonnull(error);
    if (!strstr(error->message, part)) {
        g_test_message("%s: wanted %s, got %s", words, part, error->message);
        g_test_fail();
    }
}

static void must_answer(const char *words, const char *part)
{
    g_autofree char *answer = NULL;
    GError *error = NULL;

    g_assert_null(parse(words, &answer, &error));
    g_assert_no_error(error);
    g_assert_nonnull(answer);
    g_assert_nonnull(strstr(answer, part));
}

static void test_switches(void)
{
    g_autoptr(DaemonOptions) none =
        daemon_options_parse(1, (char *[]){(char *)"wharfd", NULL}, &(char *){NULL}, NULL);
    g_autoptr(DaemonOptions) all =
        must_parse("--daemon --exit-when-idle --pidfile /a --pidfile=/b/../c --aio epoll "
                   "--log info,format=json,file=/l");

    g_assert_nonnull(none);
    g_assert_cmpuint(none->items->len, ==, 0);
    g_assert_cmpint(none->log.level, ==, LOG_LEVEL_NOTICE);
    g_assert_false(none->daemonize);
    g_assert_true(all->daemonize);
    g_assert_true(all->exit_when_idle);
    g_assert_cmpstr(all->pidfile, ==, "/c");
    g_assert_cmpstr(all->aio, ==, "epoll");
    g_assert_cmpint(all->log.level, ==, LOG_LEVEL_INFO);
    g_assert_true(all->log.json);
    g_assert_cmpstr(all->log.file, ==, "/l");
}

/* Paths of files made here become absolute at once. */
static void test_relative_paths(void)
{
    g_autoptr(DaemonOptions) options = must_parse("--pidfile x --log file=y");

    g_assert_true(g_path_is_absolute(options->pidfile));
    g_assert_true(g_path_is_absolute(options->log.file));
}

static void test_items(void)
{
    g_autoptr(DaemonOptions) options =
        must_parse("--blockdev file,node-name=n,filename=a,,b --object=iothread,id=t "
                   "--chardev socket,id=c,path=x,,nowait,server,nowait -T x --monitor c,pretty=on");
    const StartItem *node = options->items->pdata[0], *object = options->items->pdata[1];
    const StartItem *chardev = options->items->pdata[2], *monitor = options->items->pdata[3];

    g_assert_cmpuint(options->items->len, ==, 4);
    g_assert_cmpint(options->log.level, ==, LOG_LEVEL_DEBUG);
    g_assert_cmpstr(node->option, ==, "--blockdev");
    g_assert_cmpstr(node->text, ==, "file,node-name=n,filename=a,,b");
    g_assert_cmpstr(node->u.blockdev->u.file.filename, ==, "a,b");
    g_assert_cmpint(object->u.object->qom_type, ==, OBJECT_TYPE_IOTHREAD);
    g_assert_cmpstr(chardev->u.chardev->address->path, ==, "x,nowait");
    g_assert_true(chardev->u.chardev->server);
    g_assert_false(chardev->u.chardev->wait);
    g_assert_true(monitor->u.monitor->pretty);
}

static void test_refused(void)
{
    static const char *const table[][2] = {
        {"--nope", "--nope"},
        {"-z", "-z"},
        {"word", "word"},
        {"--", "--"},
        {"--blockdev", "needs a value"},
        {"--daemonize=on", "takes no value"},
        {"--e", "--exit-when-idle, --export"},
        {"--log chatty", "chatty"},
        {"--log file.x=y", "file"},
        {"--aio select", "io_uring"},
        {"--nbd-server addr.type=unix", "path"},
        {"--nbd-server addr.type=unix,addr.path=x,max-connections=-1", "max-connections"},
        {"--chardev stdio", "id"},
        {"--chardev socket,id=c", "exactly one"},
        {"--blockdev nope,help --nope2 x", "--nope2"},
        {"--object nope,help --blockdev nope,help", "--object nope,help: there is no 'nope'"},
        {"--blockdev null-co,node-name=n,size=x", "--blockdev null-co,node-name=n,size=x: "},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(table); i++) {
        must_refuse(table[i][0], table[i][1]);
    }
}

static void test_answers(void)
{
    must_answer("-h", "Usage:");
    must_answer("-V", "wharfd ");
    must_answer("--blockdev broken= --help", "Usage:");
    must_answer("--blockdev nope,help --object nope,help --help", "Usage:");
    must_answer("--blockdev help", "null-co");
    must_answer("--export fuse,help", "mountpoint=");
    must_answer("--monitor help", "socket-mode=");
    /* A doubled comma makes it part of a value. */
    must_refuse("--blockdev file,node-name=n,filename=a,,help,nope=1", "nope");
}

/* ---- order ---- */

/* The names of the items in their planned order, joined by blanks. */
static char *plan_names(const DaemonOptions *options)
{
    g_autoptr(GPtrArray) plan = plan_start(options->items);
    GString *names = g_string_new(NULL);

    for (guint i = 0; i < plan->len; i++) {
        const StartItem *item = plan->pdata[i];
        const QValue *name = qvalue_object_get(item->value, "node-name");

        if (!name || item->kind != START_BLOCKDEV) {
            name = qvalue_object_get(item->value, "id");
        }
        g_string_append_printf(names, "%s%s", i > 0 ? " " : "", qvalue_get_string(name, NULL));
    }
    return g_string_free(names, FALSE);
}

static void test_plan(void)
{
    static const char *const table[][2] = {
        /* Nothing refers to anything: as given. */
        {"--blockdev null-co,node-name=b --object iothread,id=t --blockdev null-co,node-name=a",
         "b t a"},
        /* Only what is needed moves, and only as far as needed. */
        {"--blockdev null-co,node-name=x --blockdev raw,node-name=r,file=f "
         "--blockdev null-co,node-name=y --blockdev null-co,node-name=f",
         "x f r y"},
        {"--monitor c,id=m --export fuse,id=e,node-name=n,mountpoint=/p,iothread=t "
         "--object iothread,id=t --chardev stdio,id=c --blockdev null-co,node-name=n",
         "c m n t e"},
        {"--export fuse,id=e,node-name=n,mountpoint=/p,iothread.0=t,iothread.1=u "
         "--object iothread,id=u --object iothread,id=t --blockdev null-co,node-name=n",
         "n t u e"},
        /* A reference deep inside. */
        {"--blockdev raw,node-name=r,file.driver=raw,file.file=f --blockdev null-co,node-name=f",
         "f r"},
        /* Circles stay as they are. */
        {"--blockdev raw,node-name=a,file=b --blockdev raw,node-name=b,file=a", "b a"},
        /* A file name is no reference, and one name may stand in several name spaces. */
        {"--blockdev file,node-name=a,filename=b --blockdev null-co,node-name=b", "a b"},
        {"--object iothread,id=n --blockdev null-co,node-name=n "
         "--export fuse,id=n,node-name=n,mountpoint=/p,iothread=n",
         "n n n"},
    };

    for (gsize i = 0; i < G_N_ELEMENTS(table); i++) {
        g_autoptr(DaemonOptions) options = must_parse(table[i][0]);
        g_autofree char *names = plan_names(options);

        g_assert_cmpstr(names, ==, table[i][1]);
    }
}

/* ---- log ---- */

static void check_line(bool json, LogLevel level, const char *domain, const char *message,
                       const char *wanted)
{
    g_autofree char *line = log_format("prog", json, level, domain, message, 1500000);

    g_assert_cmpstr(line, ==, wanted);
}

static void test_log_lines(void)
{
    check_line(false, LOG_LEVEL_ERROR, NULL, "gone", "prog: gone\n");
    check_line(false, LOG_LEVEL_NOTICE, "block", "hello", "prog: hello\n");
    check_line(false, LOG_LEVEL_WARNING, "block", "hm", "prog: warning: hm\n");
    /* Nothing in a file's name moves the cursor, or looks like another line. */
    check_line(false, LOG_LEVEL_DEBUG, NULL, "a\n\x1b[1m", "prog: debug: a\\x0a\\x1b[1m\n");
    check_line(true, LOG_LEVEL_INFO, "block", "a\n\"b\"",
               "{\"time\": \"1970-01-01T00:00:01.500000Z\", \"level\": \"info\", "
               "\"domain\": \"block\", \"message\": \"a\\n\\\"b\\\"\"}\n");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/daemon/options/switches", test_switches);
    g_test_add_func("/daemon/options/relative-paths", test_relative_paths);
    g_test_add_func("/daemon/options/items", test_items);
    g_test_add_func("/daemon/options/refused", test_refused);
    g_test_add_func("/daemon/options/answers", test_answers);
    g_test_add_func("/daemon/plan", test_plan);
    g_test_add_func("/daemon/log-lines", test_log_lines);
    return g_test_run();
}
