/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * util/stdio.h - the three descriptors that every program counts on.
 *
 * Threads   At the start of main(), before anything else is opened.
 */
#ifndef WHARF_UTIL_STDIO_H
#define WHARF_UTIL_STDIO_H

/*
 * Put /dev/null where stdin, stdout or stderr is closed. Else the next file or socket opened would
 * get its number, and with it whatever is printed.
 */
void stdio_fill_gaps(void);

#endif
