/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wharfctl graph: exports and the nodes below them, as a tree or for Graphviz.
 *
 * The graph of nodes is no tree: one that several others use is shown below each of them, in full
 * only for the first.
 */
#include "ctl/commands.h"

#include <stdio.h>

#include "ctl/client.h"
#include "ctl/exports.h"
#include "ctl/json.h"
#include "ctl/output.h"
#include "ctl/place.h"
#include "ctl/text.h"

typedef struct GraphOptions {
    bool dot;
} GraphOptions;

static const CtlOption options[] = {
    {"dot", 'd', NULL, NULL, offsetof(GraphOptions, dot),
     "for Graphviz:  wharfctl graph --dot | dot -Tsvg"},
    {NULL},
};

typedef struct Graph {
    QValue *exports;
    QValue *nodes;
    GHashTable *shown; /* names of nodes whose children have been shown; borrowed */
    bool utf8;
} Graph;

static void graph_clear(Graph *graph)
{
    g_clear_pointer(&graph->exports, qvalue_unref);
    g_clear_pointer(&graph->nodes, qvalue_unref);
    g_clear_pointer(&graph->shown, g_hash_table_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Graph, graph_clear)

static bool graph_load(Graph *graph, const Ctl *ctl, GError **error)
{
    g_autofree char *socket = ctl_place_socket(ctl->socket);
    g_autoptr(CtlClient) client = ctl_client_connect(socket, error);

    graph->exports = client ? ctl_exports_query(client, error) : NULL;
    graph->nodes = graph->exports ? ctl_nodes_query(client, error) : NULL;
    graph->shown = g_hash_table_new(g_str_hash, g_str_equal);
    graph->utf8 = ctl_output_is_utf8();
    return graph->nodes != NULL;
}

/* "NAME  DRIVER, SIZE, read-only, FILE" */
static char *describe_node(const QValue *node)
{
    const QValue *children = ctl_json_array(node, "children");
    const char *file = ctl_json_string(node, "file");
    guint64 length = ctl_nodes_length(node);
    GString *text = g_string_new(ctl_json_string(node, "drv"));

    if (length != G_MAXUINT64) {
        g_autofree char *size = ctl_text_size(length);

        g_string_append_printf(text, ", %s", size);
    }
    if (ctl_json_bool(node, "ro", false)) {
        g_string_append(text, ", read-only");
    }
    /* Whoever has a file below only repeats its name. */
    if (file && *file && (!children || qvalue_array_length(children) == 0)) {
        g_string_append_printf(text, ", %s", file);
    }
    return g_string_free(text, FALSE);
}

static char *describe_export(const QValue *export)
{
    const char *mountpoint = ctl_json_string(export, "mountpoint");

    return g_strdup_printf("%s export, %s%s%s%s", ctl_json_string(export, "type"),
                           ctl_json_bool(export, "writable", false) ? "writable" : "read-only",
                           mountpoint ? ", " : "", mountpoint ? mountpoint : "",
                           ctl_json_bool(export, "shutting-down", false) ? ", shutting down" : "");
}

/* ---- The tree ---- */

static void print_line(const char *prefix, const char *branch, const char *role, const char *name,
                       const char *what)
{
    g_autofree char *safe_name = ctl_text_printable(name ? name : "?", -1);
    g_autofree char *safe_what = ctl_text_printable(what, -1);

    printf("%s%s%s%s%s  (%s)\n", prefix, branch, role ? role : "", role ? ": " : "", safe_name,
           safe_what);
}

static void print_node(Graph *graph, const char *name, const char *role, const char *prefix,
                       bool last);

static void print_children(Graph *graph, const QValue *node, const char *prefix)
{
    const QValue *children = ctl_json_array(node, "children");
    gsize n = children ? qvalue_array_length(children) : 0;

    for (gsize i = 0; i < n; i++) {
        const QValue *child = qvalue_array_get(children, i);

        print_node(graph, ctl_json_string(child, "node-name"), ctl_json_string(child, "child"),
                   prefix, i + 1 == n);
    }
}

static void print_node(Graph *graph, const char *name, const char *role, const char *prefix,
                       bool last)
{
    const QValue *node = ctl_nodes_find(graph->nodes, name);
    const char *branch = graph->utf8 ? (last ? "└─ " : "├─ ") : (last ? "`- " : "|- ");
    const char *deeper = last ? "   " : graph->utf8 ? "│  " : "|  ";
    g_autofree char *what = node ? describe_node(node) : g_strdup("not there");
    g_autofree char *below = g_strconcat(prefix, deeper, NULL);
    bool again = !node || !g_hash_table_add(graph->shown, (gpointer)name);

    print_line(prefix, branch, role, name, again && node ? "see above" : what);
    if (!again) {
        print_children(graph, node, below);
    }
}

/* Whether any node has @name among its children. */
static bool has_parent(const Graph *graph, const char *name)
{
    for (gsize i = 0; i < qvalue_array_length(graph->nodes); i++) {
        const QValue *children = ctl_json_array(qvalue_array_get(graph->nodes, i), "children");

        for (gsize j = 0; children && j < qvalue_array_length(children); j++) {
            if (g_strcmp0(ctl_json_string(qvalue_array_get(children, j), "node-name"), name) == 0) {
                return true;
            }
        }
    }
    return false;
}

/* Daemons list what is newest first; people read from the oldest on. */
static void print_tree(Graph *graph)
{
    for (gsize i = qvalue_array_length(graph->exports); i-- > 0;) {
        const QValue *export = qvalue_array_get(graph->exports, i);
        g_autofree char *what = describe_export(export);

        print_line("", "", NULL, ctl_json_string(export, "id"), what);
        print_node(graph, ctl_json_string(export, "node-name"), NULL, "", true);
    }
    for (gsize i = qvalue_array_length(graph->nodes); i-- > 0;) {
        const QValue *node = qvalue_array_get(graph->nodes, i);
        const char *name = ctl_json_string(node, "node-name");
        g_autofree char *what = NULL;

        if (!name || has_parent(graph, name) || !g_hash_table_add(graph->shown, (gpointer)name)) {
            continue;
        }
        what = describe_node(node);
        print_line("", "", NULL, name, what);
        print_children(graph, node, "");
    }
}

/* ---- Graphviz ---- */

/* @text in double quotes, as a DOT string. */
static char *dot_quote(const char *text)
{
    g_autofree char *safe = ctl_text_printable(text ? text : "?", -1);
    GString *out = g_string_new("\"");

    for (const char *c = safe; *c; c++) {
        if (*c == '"' || *c == '\\') {
            g_string_append_c(out, '\\');
        }
        g_string_append_c(out, *c);
    }
    return g_string_free(g_string_append_c(out, '"'), FALSE);
}

/* An id in DOT for something called @name: names of exports and of nodes may be the same. */
static char *dot_id(const char *kind, const char *name)
{
    g_autofree char *joined = g_strdup_printf("%s:%s", kind, name ? name : "?");

    return dot_quote(joined);
}

static void dot_box(const char *kind, const char *name, const char *what, const char *shape)
{
    g_autofree char *id = dot_id(kind, name);
    g_autofree char *label_name = dot_quote(name);
    g_autofree char *label_what = dot_quote(what);

    /* Two strings put together, so that the line break between them is none of their characters. */
    printf("    %s [shape=%s, label=%s + \"\\n\" + %s];\n", id, shape, label_name, label_what);
}

static void dot_edge(const char *from_kind, const char *from, const char *to, const char *label)
{
    g_autofree char *from_id = dot_id(from_kind, from);
    g_autofree char *to_id = dot_id("node", to);
    g_autofree char *quoted = dot_quote(label);

    printf("    %s -> %s [label=%s];\n", from_id, to_id, quoted);
}

static void dot_exports(const Graph *graph)
{
    for (gsize i = 0; i < qvalue_array_length(graph->exports); i++) {
        const QValue *export = qvalue_array_get(graph->exports, i);
        g_autofree char *what = describe_export(export);
        const char *id = ctl_json_string(export, "id");

        dot_box("export", id, what, "box");
        dot_edge("export", id, ctl_json_string(export, "node-name"), "");
    }
}

static void dot_nodes(const Graph *graph)
{
    for (gsize i = 0; i < qvalue_array_length(graph->nodes); i++) {
        const QValue *node = qvalue_array_get(graph->nodes, i);
        const QValue *children = ctl_json_array(node, "children");
        const char *name = ctl_json_string(node, "node-name");
        g_autofree char *what = describe_node(node);

        dot_box("node", name, what, "ellipse");
        for (gsize j = 0; children && j < qvalue_array_length(children); j++) {
            const QValue *child = qvalue_array_get(children, j);

            dot_edge("node", name, ctl_json_string(child, "node-name"),
                     ctl_json_string(child, "child"));
        }
    }
}

static void print_dot(const Graph *graph)
{
    puts("digraph wharf {\n    node [fontname=\"sans-serif\"];");
    dot_exports(graph);
    dot_nodes(graph);
    puts("}");
}

static void print_json(const Graph *graph)
{
    g_autoptr(QValue) both = qvalue_object();

    qvalue_object_set(both, "exports", qvalue_ref(graph->exports));
    qvalue_object_set(both, "nodes", qvalue_ref(graph->nodes));
    ctl_output_json(both);
}

static bool run(const Ctl *ctl, const void *opts, char **words, GError **error)
{
    const GraphOptions *o = opts;
    g_auto(Graph) graph = {0};

    if (!graph_load(&graph, ctl, error)) {
        return false;
    }
    if (ctl->json) {
        print_json(&graph);
    } else if (o->dot) {
        print_dot(&graph);
    } else if (qvalue_array_length(graph.exports) + qvalue_array_length(graph.nodes) == 0) {
        puts("There are no nodes and no exports.");
    } else {
        print_tree(&graph);
    }
    return true;
}

const CtlCommand ctl_command_graph = {
    .name = "graph",
    .synopsis = "",
    .summary = "show exports and the block nodes below them as a tree",
    .details =
        "Each line is an export or a node, and what it is; below it stand the nodes it uses.",
    .options = options,
    .options_size = sizeof(GraphOptions),
    .run = run,
};
