/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * monitor/event-log.h - the events of this run of the daemon, numbered from 1, the latest of them
 * kept so that a client that comes back can ask for what it missed.
 *
 * Threads   The main thread only.
 */
#ifndef WHARF_MONITOR_EVENT_LOG_H
#define WHARF_MONITOR_EVENT_LOG_H

#include "qapi/qvalue.h"

typedef struct EventRecord {
    uint64_t seq;
    int64_t time_us; /* CLOCK_REALTIME */
    char *name;
    QValue *data; /* NULL if the event carries none */
} EventRecord;

typedef struct EventLog EventLog;

/* A log that remembers the latest @capacity events. */
EventLog *event_log_new(unsigned capacity);
void event_log_free(EventLog *log);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(EventLog, event_log_free)

/* Number and keep an event; the oldest goes when there is no room. @data is borrowed. */
const EventRecord *event_log_append(EventLog *log, const char *name, const QValue *data);

/* The numbers of the oldest event that is remembered, and of the next one to come. */
uint64_t event_log_first(const EventLog *log);
uint64_t event_log_next(const EventLog *log);

/* Event @seq, which must be one of those remembered. Lent until the next append. */
const EventRecord *event_log_get(const EventLog *log, uint64_t seq);

/* What tells this run of the daemon from all others. */
const char *event_log_instance(const EventLog *log);

#endif
