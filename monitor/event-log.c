/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "monitor/event-log.h"

struct EventLog {
    EventRecord *ring; /* event n lives at n % capacity */
    unsigned capacity;
    uint64_t next;
    char *instance;
};

EventLog *event_log_new(unsigned capacity)
{
    EventLog *log = g_new0(EventLog, 1);

    log->ring = g_new0(EventRecord, capacity);
    log->capacity = capacity;
    log->next = 1;
    log->instance = g_uuid_string_random();
    return log;
}

static void event_record_clear(EventRecord *record)
{
    g_clear_pointer(&record->name, g_free);
    g_clear_pointer(&record->data, qvalue_unref);
}

void event_log_free(EventLog *log)
{
    if (!log) {
        return;
    }
    for (unsigned i = 0; i < log->capacity; i++) {
        event_record_clear(&log->ring[i]);
    }
    g_free(log->ring);
    g_free(log->instance);
    g_free(log);
}

const EventRecord *event_log_append(EventLog *log, const char *name, const QValue *data)
{
    EventRecord *record = &log->ring[log->next % log->capacity];

    event_record_clear(record);
    record->seq = log->next++;
    record->time_us = g_get_real_time();
    record->name = g_strdup(name);
    record->data = data ? qvalue_ref(data) : NULL;
    return record;
}

uint64_t event_log_first(const EventLog *log)
{
    return log->next > log->capacity ? log->next - log->capacity : 1;
}

uint64_t event_log_next(const EventLog *log)
{
    return log->next;
}

const EventRecord *event_log_get(const EventLog *log, uint64_t seq)
{
    g_assert(seq >= event_log_first(log) && seq < log->next);
    return &log->ring[seq % log->capacity];
}

const char *event_log_instance(const EventLog *log)
{
    return log->instance;
}
