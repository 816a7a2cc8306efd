/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "util/error.h"

static void assert_printable(const char *text, const char *expected)
{
    g_autofree char *got = wharf_printable(text);

    g_assert_cmpstr(got, ==, expected);
    g_assert_true(g_utf8_validate(got, -1, NULL));
}

static void test_printable(void)
{
    assert_printable("", "");
    assert_printable("CN=Jürgen \\, O=Ex\xe2\x82\xac", "CN=Jürgen \\, O=Ex\xe2\x82\xac");
    assert_printable("a\nb\r\t\x1b[2J\x7f", "a\\x0ab\\x0d\\x09\\x1b[2J\\x7f");
    assert_printable("\xc2\x9b"
                     "31m",
                     "\\u009b31m"); /* a control character of C1 */
    assert_printable("\xe2\x80\xaetxt\xe2\x80\xa8",
                     "\\u202etxt\\u2028");      /* right to left; a line */
    assert_printable("\xff\xc3", "\\xff\\xc3"); /* no UTF-8 */
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/util/error/printable", test_printable);
    return g_test_run();
}
