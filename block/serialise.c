/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/serialise-internal.h"

/* Whether a request that came before @t overlaps it and one of the two asks for order. */
static bool must_wait(const BlockTracked *t)
{
    for (const GList *l = t->link.prev; l; l = l->prev) {
        const BlockTracked *other = l->data;

        if ((t->serialising || other->serialising) && t->start < other->end &&
            other->start < t->end) {
            return true;
        }
    }
    return false;
}

static void tracked_enter_locked(BlockNode *node, BlockTracked *t)
{
    if (t->serialising && node->serialisers++ == 0) {
        gate_close(&node->writes);
    }
    t->listed = true;
    t->link = (GList){.data = t};
    g_queue_push_tail_link(&node->tracked, &t->link);
    /* Whoever tried the closed gate was inside for a moment; those who wait for that look again. */
    co_queue_wake_all(&node->tracked_wait);
}

/* Those in the gate are in no list, so one who asks for order waits until all of them have left. */
static void co_fn tracked_co_wait_locked(BlockNode *node, BlockTracked *t)
{
    while (t->serialising && gate_inside(&node->writes) > 0) {
        co_queue_wait(&node->tracked_wait, &node->tracked_lock);
    }
    while (must_wait(t)) {
        co_queue_wait(&node->tracked_wait, &node->tracked_lock);
    }
}

void co_fn block_tracked_co_begin_slow(BlockNode *node, BlockTracked *t)
{
    g_mutex_lock(&node->tracked_lock);
    if (!t->serialising && node->serialisers == 0 && gate_enter(&node->writes)) {
        co_queue_wake_all(&node->tracked_wait);
        g_mutex_unlock(&node->tracked_lock);
        return;
    }
    tracked_enter_locked(node, t);
    tracked_co_wait_locked(node, t);
    g_mutex_unlock(&node->tracked_lock);
}

void block_tracked_end_slow(BlockNode *node, BlockTracked *t)
{
    g_mutex_lock(&node->tracked_lock);
    if (t->listed) {
        g_queue_unlink(&node->tracked, &t->link);
        if (t->serialising && --node->serialisers == 0) {
            gate_open(&node->writes);
        }
    }
    co_queue_wake_all(&node->tracked_wait);
    g_mutex_unlock(&node->tracked_lock);
}
