/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifdef WHARF_COROUTINE_UCONTEXT
#undef _FORTIFY_SOURCE /* its longjmp() refuses to change stacks */
#endif

#include "aio/stack-internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef WHARF_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef WHARF_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#ifdef WHARF_HAVE_VALGRIND
#include <valgrind/valgrind.h>
#endif
#ifdef WHARF_COROUTINE_UCONTEXT
#include <setjmp.h>
#include <ucontext.h>
#endif

/* The watching tools */

static void tools_stack_new(CoroutineStack *stack)
{
#ifdef WHARF_TSAN
    stack->fiber = __tsan_create_fiber(0);
#endif
#ifdef WHARF_HAVE_VALGRIND
    stack->valgrind_id = VALGRIND_STACK_REGISTER(stack->base, stack->base + stack->size);
#endif
}

static void tools_stack_gone(CoroutineStack *stack)
{
#ifdef WHARF_TSAN
    __tsan_destroy_fiber(stack->fiber);
#endif
#ifdef WHARF_HAVE_VALGRIND
    VALGRIND_STACK_DEREGISTER(stack->valgrind_id);
#endif
}

static inline void tools_before_switch(CoroutineStack *from, CoroutineStack *to, bool final)
{
#ifdef WHARF_ASAN
    from->fake_stack = NULL;
    __sanitizer_start_switch_fiber(final ? NULL : &from->fake_stack, to->base, to->size);
#endif
#ifdef WHARF_TSAN
    __tsan_switch_to_fiber(to->fiber, 0);
#endif
}

static inline void tools_after_switch(CoroutineStack *now)
{
#ifdef WHARF_ASAN
    __sanitizer_finish_switch_fiber(now->fake_stack, NULL, NULL);
#endif
}

void coroutine_stack_init_thread(CoroutineStack *stack)
{
    memset(stack, 0, sizeof(*stack));
#ifdef WHARF_ASAN
    /* AddressSanitizer wants to know the bounds of the stack that it comes back to. */
    pthread_attr_t attr;

    if (pthread_getattr_np(pthread_self(), &attr) == 0) {
        void *base;

        pthread_attr_getstack(&attr, &base, &stack->size);
        stack->base = base;
        pthread_attr_destroy(&attr);
    }
#endif
#ifdef WHARF_TSAN
    stack->fiber = __tsan_get_current_fiber();
#endif
}

/* Memory */

static size_t guard_size(void)
{
    return sysconf(_SC_PAGESIZE);
}

void coroutine_stack_alloc(CoroutineStack *stack, size_t size)
{
    size_t guard = guard_size();
    char *map = mmap(NULL, guard + size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);

    if (map == MAP_FAILED) {
        g_error("cannot map a coroutine stack of %zu bytes: %s", size, g_strerror(errno));
    }
    /*
     * Fails when the process has too many mappings already. To go on without the guard is better
     * than to end: unguarded neighbours merge into one mapping.
     */
    (void)mprotect(map, guard, PROT_NONE);

    memset(stack, 0, sizeof(*stack));
    stack->base = map + guard;
    stack->size = size;
    tools_stack_new(stack);
}

void coroutine_stack_free(CoroutineStack *stack)
{
    size_t guard = guard_size();

    tools_stack_gone(stack);
    munmap(stack->base - guard, guard + stack->size);
}

/* The switch */

static void *stack_top(const CoroutineStack *stack, size_t reserve)
{
    return (void *)(((uintptr_t)stack->base + stack->size - reserve) & ~(uintptr_t)15);
}

#ifdef WHARF_COROUTINE_UCONTEXT

typedef struct UcontextStart {
    ucontext_t here;
    ucontext_t there;
    CoroutineStack *stack;
    void (*start)(void *);
    void *arg;
} UcontextStart;

#ifdef WHARF_TSAN
/* ThreadSanitizer does not let longjmp() leave a fibre. */
typedef ucontext_t SavedState;
#define SAVED_SWITCH(from, to) swapcontext(from, to)
#else
typedef jmp_buf SavedState;
#define SAVED_SWITCH(from, to) (_setjmp(*(from)) ? (void)0 : _longjmp(*(to), 1))
#endif

/* makecontext() passes integers only. */
static void ucontext_start(unsigned low, unsigned high)
{
    UcontextStart *s = (UcontextStart *)(((uintptr_t)high << 16 << 16) | low);
    void (*start)(void *) = s->start;
    void *arg = s->arg;
    SavedState self;

    s->stack->saved = &self;
#ifdef WHARF_TSAN
    swapcontext(&self, &s->here);
#else
    if (_setjmp(self) == 0) {
        setcontext(&s->here);
    }
#endif
    start(arg);
    g_assert_not_reached();
}

void coroutine_stack_prepare(CoroutineStack *stack, size_t reserve, void (*start)(void *),
                             void *arg)
{
    UcontextStart s = {.stack = stack, .start = start, .arg = arg};
    uintptr_t self = (uintptr_t)&s;

    getcontext(&s.there);
    s.there.uc_stack.ss_sp = stack->base;
    s.there.uc_stack.ss_size = (char *)stack_top(stack, reserve) - stack->base;
    s.there.uc_link = NULL;
    makecontext(&s.there, (void (*)(void))ucontext_start, 2, (unsigned)self,
                (unsigned)(self >> 16 >> 16));
    swapcontext(&s.here, &s.there);
}

static void G_GNUC_NO_INLINE cpu_switch(CoroutineStack *from, CoroutineStack *to)
{
    SavedState self;

    from->saved = &self;
    SAVED_SWITCH(&self, (SavedState *)to->saved);
}

#else

void coroutine_cpu_switch(void **save, void *load);
void coroutine_cpu_start(void);

#if defined(__x86_64__)
enum {
    FRAME_START = 3,
    FRAME_ARG = 2,
    FRAME_RETURN = 6,
    FRAME_WORDS = 7
};
#elif defined(__aarch64__)
enum {
    FRAME_START = 0,
    FRAME_ARG = 1,
    FRAME_RETURN = 11,
    FRAME_WORDS = 20
};
#endif

/* Lay out what coroutine_cpu_switch() takes from a stack when it goes there. */
void coroutine_stack_prepare(CoroutineStack *stack, size_t reserve, void (*start)(void *),
                             void *arg)
{
    void **frame = (void **)stack_top(stack, reserve) - FRAME_WORDS;

    memset(frame, 0, FRAME_WORDS * sizeof(*frame));
    frame[FRAME_START] = (void *)start;
    frame[FRAME_ARG] = arg;
    frame[FRAME_RETURN] = (void *)coroutine_cpu_start;
    stack->saved = frame;
}

static inline void cpu_switch(CoroutineStack *from, CoroutineStack *to)
{
    coroutine_cpu_switch(&from->saved, to->saved);
}

#endif

void coroutine_stack_switch(CoroutineStack *from, CoroutineStack *to, bool final)
{
    tools_before_switch(from, to, final);
    cpu_switch(from, to);
    tools_after_switch(from);
}

void coroutine_stack_entered(CoroutineStack *stack)
{
    tools_after_switch(stack);
}
