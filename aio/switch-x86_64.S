/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * aio/switch-x86_64.S - change stacks under the System V ABI.
 *
 * Only what a function must preserve is saved: rbx, rbp, r12 to r15 and the stack pointer. The
 * floating point control words are preserved, too, by the ABI, but nothing here ever changes them.
 * The signal mask stays: it belongs to the thread.
 */
    .text

/* void coroutine_cpu_switch(void **save, void *load) */
    .globl  coroutine_cpu_switch
    .hidden coroutine_cpu_switch
    .type   coroutine_cpu_switch, @function
    .p2align 4
coroutine_cpu_switch:
    .cfi_startproc
    pushq   %rbp
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbp, 0
    pushq   %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %rbx, 0
    pushq   %r12
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r12, 0
    pushq   %r13
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r13, 0
    pushq   %r14
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r14, 0
    pushq   %r15
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset %r15, 0
    movq    %rsp, (%rdi)
    movq    %rsi, %rsp
    popq    %r15
    .cfi_adjust_cfa_offset -8
    .cfi_restore %r15
    popq    %r14
    .cfi_adjust_cfa_offset -8
    .cfi_restore %r14
    popq    %r13
    .cfi_adjust_cfa_offset -8
    .cfi_restore %r13
    popq    %r12
    .cfi_adjust_cfa_offset -8
    .cfi_restore %r12
    popq    %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    popq    %rbp
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbp
    /* Not ret: the processor would expect to return to where this was called from. */
    popq    %rcx
    .cfi_adjust_cfa_offset -8
    .cfi_register %rip, %rcx
    jmpq    *%rcx
    .cfi_endproc
    .size   coroutine_cpu_switch, . - coroutine_cpu_switch

/*
 * Where the first switch to a stack "returns" to: r12 holds the function, r13 its argument. The
 * unwinder is told that there is nothing above.
 */
    .globl  coroutine_cpu_start
    .hidden coroutine_cpu_start
    .type   coroutine_cpu_start, @function
    .p2align 4
coroutine_cpu_start:
    .cfi_startproc
    .cfi_undefined %rip
    movq    %r13, %rdi
    callq   *%r12
    ud2
    .cfi_endproc
    .size   coroutine_cpu_start, . - coroutine_cpu_start

    .section .note.GNU-stack, "", @progbits
