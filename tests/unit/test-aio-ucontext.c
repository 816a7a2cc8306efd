/* SPDX-License-Identifier: GPL-2.0-or-later */
/* test-aio-coroutine.c again, on the switch for machines that have none in assembly. */
#define WHARF_COROUTINE_UCONTEXT
#include "aio/stack.c"
#include "aio/coroutine.c"
#include "test-aio-coroutine.c"
