/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/snapshots.h"

#include "ctl/json.h"
#include "ctl/output.h"
#include "ctl/text.h"

static char *snapshot_date(const QValue *snapshot)
{
    gint64 seconds = (gint64)ctl_json_uint(snapshot, "date-sec", 0);
    g_autoptr(GDateTime) date = g_date_time_new_from_unix_local(seconds);

    return date ? g_date_time_format(date, "%Y-%m-%d %H:%M:%S") : g_strdup("?");
}

void ctl_snapshots_print(const QValue *snapshots)
{
    static const char *const header[] = {"ID", "NAME", "DATE", ">VM STATE", NULL};
    CtlTable *table = ctl_table_new(header);

    for (gsize i = 0; i < qvalue_array_length(snapshots); i++) {
        const QValue *s = qvalue_array_get(snapshots, i);
        g_autofree char *date = snapshot_date(s);
        g_autofree char *state = ctl_text_size(ctl_json_uint(s, "vm-state-size", 0));
        const char *const cells[] = {ctl_json_string(s, "id"), ctl_json_string(s, "name"), date,
                                     state};

        ctl_table_add(table, cells);
    }
    ctl_table_print(table);
}

bool ctl_snapshots_have(const QValue *snapshots, const char *key, const char *value)
{
    for (gsize i = 0; i < qvalue_array_length(snapshots); i++) {
        if (g_strcmp0(ctl_json_string(qvalue_array_get(snapshots, i), key), value) == 0) {
            return true;
        }
    }
    return false;
}
