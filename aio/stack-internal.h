/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * aio/stack-internal.h - stacks for coroutines and the switch between them.
 *
 * Everything that depends on the machine or on a tool that watches stacks (AddressSanitizer,
 * ThreadSanitizer, valgrind) is here and in stack.c.
 *
 * Threads   A stack belongs to whoever may switch to it.
 */
#ifndef WHARF_AIO_STACK_INTERNAL_H
#define WHARF_AIO_STACK_INTERNAL_H

#include <glib.h>
#include <stdbool.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WHARF_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define WHARF_TSAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define WHARF_ASAN 1
#endif
#ifdef __SANITIZE_THREAD__
#define WHARF_TSAN 1
#endif

typedef struct CoroutineStack {
    void *saved; /* stack pointer or jump buffer; valid while not running */
    char *base;  /* lowest usable byte; the guard page lies below */
    size_t size;
#ifdef WHARF_ASAN
    void *fake_stack;
#endif
#ifdef WHARF_TSAN
    void *fiber;
#endif
    unsigned valgrind_id;
} CoroutineStack;

/*
 * Map a stack of @size usable bytes (a multiple of the page size) with a guard page below.
 * Ends the process where there is no memory.
 */
void coroutine_stack_alloc(CoroutineStack *stack, size_t size);

/* Unmap @stack, which nobody runs on. */
void coroutine_stack_free(CoroutineStack *stack);

/*
 * Prepare @stack so that the first switch to it calls @start(@arg), which never returns. The
 * topmost @reserve bytes are left alone (they may hold @arg itself).
 */
void coroutine_stack_prepare(CoroutineStack *stack, size_t reserve, void (*start)(void *),
                             void *arg);

/* Describe the calling thread's own stack in @stack. */
void coroutine_stack_init_thread(CoroutineStack *stack);

/*
 * Go on where @to stopped; return when somebody switches back to @from. @final: what runs on @from
 * is over, although the stack may be switched to again to run the next.
 */
void coroutine_stack_switch(CoroutineStack *from, CoroutineStack *to, bool final);

/* To be called first thing by the function given to coroutine_stack_prepare(). */
void coroutine_stack_entered(CoroutineStack *stack);

#endif
