/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * monitor/set-internal.h - what a set of monitors consists of; shared by the set and its commands.
 */
#ifndef WHARF_MONITOR_SET_INTERNAL_H
#define WHARF_MONITOR_SET_INTERNAL_H

#include "monitor/client-internal.h"
#include "monitor/monitor.h"

/* A place where clients connect, and those who have. */
typedef struct Monitor {
    MonitorHost host; /* first: clients know us by it */
    unsigned refs;    /* the set's, and one a client */
    MonitorSet *set;
    char *id;
    Chardev *chardev;
    bool own_chardev; /* made for this monitor by 'path' */
    bool detached;    /* from the set: takes no new clients */
    const MonitorEnvelope *envelope;
    GPtrArray *clients; /* MonitorClient, connected */
} Monitor;

struct MonitorSet {
    AioContext *ctx;
    QapiCommandTable *commands;
    EventLog *events;
    QapiEventSink sink;
    GPtrArray *chardevs; /* Chardev */
    GPtrArray *monitors; /* Monitor */
    GPtrArray *detached; /* Monitor: taken away while clients were connected */
    unsigned next_compat_id;
    bool started;

    bool quiescing;       /* begin no more commands */
    bool out_of_patience; /* with those that run */
    unsigned n_running;   /* commands that run, 'quit' excepted */
    unsigned n_monitors;  /* Monitor objects that still exist */
    Coroutine *waiter;    /* co_quiesce or co_close */
    GQueue quit_waiters;  /* Coroutine */
    AioTimer *close_timer;

    void (*quit)(void *opaque);
    void *quit_opaque;
};

Chardev *monitor_set_find_chardev(MonitorSet *set, const char *id, GError **error);

/* The monitor of that id, or NULL. */
Monitor *monitor_set_lookup(MonitorSet *set, const char *id);

/* As monitor_set_co_add(), for options with an id and a chardev: never suspends. */
bool monitor_set_add_on_chardev(MonitorSet *set, const MonitorOptions *options, GError **error);

/* Close and forget it. */
void monitor_set_drop_chardev(MonitorSet *set, Chardev *chardev);

/* Ask for the end, and sleep until everything is down but the monitors. */
void co_fn monitor_set_co_quit(MonitorSet *set);

/* rpc.discover's answer, for what is in @commands. */
QValue *monitor_discover(const QapiCommandTable *commands);

#endif
