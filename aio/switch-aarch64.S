/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * aio/switch-aarch64.S - change stacks under AAPCS64.
 *
 * Only what a function must preserve is saved: x19 to x30, the low halves of v8 to v15 and the
 * stack pointer. The signal mask stays: it belongs to the thread.
 */
    .text

/* void coroutine_cpu_switch(void **save, void *load) */
    .globl  coroutine_cpu_switch
    .hidden coroutine_cpu_switch
    .type   coroutine_cpu_switch, %function
    .p2align 4
coroutine_cpu_switch:
    .cfi_startproc
    hint    #34 /* bti c */
    sub     sp, sp, #160
    .cfi_adjust_cfa_offset 160
    stp     x19, x20, [sp, #0]
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    .cfi_rel_offset x29, 80
    .cfi_rel_offset x30, 88
    stp     d8, d9, [sp, #96]
    stp     d10, d11, [sp, #112]
    stp     d12, d13, [sp, #128]
    stp     d14, d15, [sp, #144]
    mov     x9, sp
    str     x9, [x0]
    mov     sp, x1
    ldp     x19, x20, [sp, #0]
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    ldp     d8, d9, [sp, #96]
    ldp     d10, d11, [sp, #112]
    ldp     d12, d13, [sp, #128]
    ldp     d14, d15, [sp, #144]
    add     sp, sp, #160
    .cfi_adjust_cfa_offset -160
    ret
    .cfi_endproc
    .size   coroutine_cpu_switch, . - coroutine_cpu_switch

/* Where the first switch to a stack "returns" to: x19 holds the function, x20 its argument. */
    .globl  coroutine_cpu_start
    .hidden coroutine_cpu_start
    .type   coroutine_cpu_start, %function
    .p2align 4
coroutine_cpu_start:
    .cfi_startproc
    .cfi_undefined x30
    hint    #34 /* bti c */
    mov     x0, x20
    blr     x19
    brk     #1
    .cfi_endproc
    .size   coroutine_cpu_start, . - coroutine_cpu_start

    .section .note.GNU-stack, "", %progbits
