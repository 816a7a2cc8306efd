/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qapi/json-parser.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "util/error.h"

/*
 * Two layers. The lexer looks at one byte after the other and knows which token it is in; finished
 * tokens go to the grammar, which keeps the containers that are open and says what may come next.
 * Errors of either are reported at once and decide how the rest of the value is dropped.
 */

#define STRAY_QUOTE_MAX 32 /* bytes of a broken token that a message shows */
#define NAME_SHOWN      60 /* how much of a member's name a message shows */

const JsonLimits json_limits_default = {
    .max_bytes = 64 * 1024 * 1024,
    .max_tokens = 2 * 1024 * 1024,
    .max_depth = 1024,
};

typedef enum {
    LEX_START,    /* between tokens */
    LEX_STRING,   /* inside quotes */
    LEX_ESCAPE,   /* after a backslash */
    LEX_UNICODE,  /* in the four digits of \uXXXX */
    LEX_WORD,     /* true, false, null */
    LEX_MINUS,    /* numbers: after '-' */
    LEX_ZERO,     /* after a leading 0 */
    LEX_DIGITS,   /* in the integer part */
    LEX_POINT,    /* after '.' */
    LEX_FRACTION, /* in the digits behind it */
    LEX_E,        /* after 'e' */
    LEX_E_SIGN,   /* after its sign */
    LEX_EXPONENT, /* in its digits */
    LEX_RECOVERY, /* after a lexical error, up to where new input begins */
} LexState;

/* What the grammar takes next. */
typedef enum {
    WANT_VALUE,        /* a value: at top level, after ':' or after ',' in an array */
    WANT_VALUE_OR_END, /* just after '[' */
    WANT_KEY_OR_END,   /* just after '{' */
    WANT_KEY,          /* after ',' in an object */
    WANT_COLON,
    WANT_COMMA_OR_END,
} Want;

typedef struct {
    QValue *container; /* borrowed from the one around it; the lowest is the parser's */
    char *key;         /* of the member whose value comes next */
} Frame;

typedef struct {
    guint64 line, column; /* from 1 */
} Position;

struct JsonParser {
    JsonLimits limits;
    bool strict;
    JsonEmit *emit;
    void *opaque;

    /* Lexer */
    LexState lex;
    GString *token; /* of a string its content, of others their text */
    Position here;  /* of the byte being looked at */
    Position token_start;
    char quote;             /* of the string */
    unsigned unicode;       /* value of the digits of \uXXXX so far */
    unsigned unicode_left;  /* digits to come */
    unsigned high;          /* a high surrogate that waits for its low one, or 0 */
    const char *string_bad; /* the first thing wrong with the string, or NULL */

    /* The value that was begun */
    gsize bytes;   /* of its text so far */
    gsize tokens;  /* so far */
    guint64 depth; /* open brackets, also those being dropped */
    bool dropping; /* it is broken and has been reported: wait for its end */

    /* Grammar */
    Want want;
    GArray *frames; /* of Frame; empty while dropping */
};

/* ---- Values and errors ---- */

static void clear_frame(gpointer p)
{
    g_free(((Frame *)p)->key);
}

/* Forget the containers that are open. */
static void drop_frames(JsonParser *p)
{
    if (p->frames->len > 0) {
        qvalue_unref(g_array_index(p->frames, Frame, 0).container);
        g_array_set_size(p->frames, 0);
    }
}

/* The next token begins a new value. */
static void begin_anew(JsonParser *p)
{
    drop_frames(p);
    p->bytes = 0;
    p->tokens = 0;
    p->depth = 0;
    p->dropping = false;
    p->want = WANT_VALUE;
}

static void report(JsonParser *p, Position at, const char *text)
{
    g_autoptr(GError) error = g_error_new(
        WHARF_ERROR, WHARF_ERROR_PARSE,
        "line %" G_GUINT64_FORMAT ", column %" G_GUINT64_FORMAT ": %s", at.line, at.column, text);

    p->emit(p->opaque, NULL, error);
}

/* Report that the value is broken and drop the rest of it. */
static void break_value(JsonParser *p, const char *text)
{
    if (!p->dropping) {
        report(p, p->token_start, text);
        drop_frames(p);
        p->dropping = true;
    }
}

static void emit_value(JsonParser *p, QValue *take)
{
    g_autoptr(QValue) value = take;

    p->emit(p->opaque, value, NULL);
}

/* ---- Grammar ---- */

static Frame *top_frame(JsonParser *p)
{
    return &g_array_index(p->frames, Frame, p->frames->len - 1);
}

/* Put @take where the grammar wants a value. */
static void place_value(JsonParser *p, QValue *take)
{
    Frame *top;

    if (p->frames->len == 0) {
        emit_value(p, take);
        return;
    }
    top = top_frame(p);
    if (top->key) {
        qvalue_object_set(top->container, top->key, take);
        g_clear_pointer(&top->key, g_free);
    } else {
        qvalue_array_append(top->container, take);
    }
    p->want = WANT_COMMA_OR_END;
}

/* Before a value: whether one may come. */
static bool check_value_wanted(JsonParser *p)
{
    switch (p->want) {
    case WANT_VALUE:
    case WANT_VALUE_OR_END:
        return true;
    case WANT_KEY:
    case WANT_KEY_OR_END:
        break_value(p, "expected the name of a member in quotes");
        return false;
    case WANT_COLON:
        break_value(p, "expected ':' after the name of a member");
        return false;
    case WANT_COMMA_OR_END:
        break_value(p, qvalue_type(top_frame(p)->container) == QVALUE_OBJECT
                           ? "expected ',' or '}' after a member"
                           : "expected ',' or ']' after an element");
        return false;
    }
    g_assert_not_reached();
}

static void open_container(JsonParser *p, QValue *container, Want want)
{
    Frame frame = {.container = container};

    if (p->frames->len == 0) {
        g_array_append_val(p->frames, frame);
    } else {
        place_value(p, container);
        g_array_append_val(p->frames, frame);
    }
    p->want = want;
}

static void close_container(JsonParser *p)
{
    QValue *container = top_frame(p)->container;

    g_array_set_size(p->frames, p->frames->len - 1);
    if (p->frames->len == 0) {
        emit_value(p, container);
    }
    p->want = WANT_COMMA_OR_END;
}

/* Whether @c, a closing bracket, may come here. */
static bool check_end_wanted(JsonParser *p, char c)
{
    QValueType type;

    if (p->frames->len == 0) {
        break_value(p, "nothing is open that this bracket could close");
        return false;
    }
    type = qvalue_type(top_frame(p)->container);
    if (type == QVALUE_OBJECT && c == ']') {
        break_value(p, "']' where '}' has to close an object");
        return false;
    }
    if (type == QVALUE_ARRAY && c == '}') {
        break_value(p, "'}' where ']' has to close an array");
        return false;
    }
    if (p->want == WANT_VALUE || p->want == WANT_KEY || p->want == WANT_COLON) {
        break_value(p, p->want == WANT_KEY ? "trailing ','" : "expected a value");
        return false;
    }
    return true;
}

static void take_punctuation(JsonParser *p, char c)
{
    switch (c) {
    case '[':
        if (check_value_wanted(p)) {
            open_container(p, qvalue_array(), WANT_VALUE_OR_END);
        }
        break;
    case '{':
        if (check_value_wanted(p)) {
            open_container(p, qvalue_object(), WANT_KEY_OR_END);
        }
        break;
    case ']':
    case '}':
        if (check_end_wanted(p, c)) {
            close_container(p);
        }
        break;
    case ':':
        if (p->want == WANT_COLON) {
            p->want = WANT_VALUE;
        } else {
            break_value(p, "unexpected ':'");
        }
        break;
    default:
        if (p->want == WANT_COMMA_OR_END && p->frames->len > 0) {
            p->want = qvalue_type(top_frame(p)->container) == QVALUE_OBJECT ? WANT_KEY : WANT_VALUE;
        } else {
            break_value(p, "unexpected ','");
        }
    }
}

static void take_scalar(JsonParser *p, QValue *take)
{
    if (check_value_wanted(p)) {
        place_value(p, take);
    } else {
        qvalue_unref(take);
    }
}

/*
 * The name of a member. U+0000 stays encoded as c0 80 in it, so that it cannot cut the name short
 * and make it equal to another.
 */
static void take_key(JsonParser *p)
{
    GString *key = g_string_sized_new(p->token->len);

    for (gsize i = 0; i < p->token->len; i++) {
        if (p->token->str[i] == '\0') {
            g_string_append(key, "\xc0\x80");
        } else {
            g_string_append_c(key, p->token->str[i]);
        }
    }
    if (qvalue_object_has(top_frame(p)->container, key->str)) {
        g_autofree char *text =
            g_strdup_printf("member '%.*s' is there already", NAME_SHOWN, key->str);

        g_string_free(key, TRUE);
        break_value(p, text);
        return;
    }
    top_frame(p)->key = g_string_free(key, FALSE);
    p->want = WANT_COLON;
}

/* ---- Tokens ---- */

/* Account for a token that began; false if it is dropped. */
static bool begin_token(JsonParser *p)
{
    if (p->dropping) {
        return false;
    }
    if (++p->tokens > p->limits.max_tokens) {
        break_value(p, "the value has too many elements");
        return false;
    }
    return true;
}

/* After each token: whether the value ended with it. */
static void end_token(JsonParser *p)
{
    p->lex = LEX_START;
    if (p->depth == 0) {
        begin_anew(p);
    }
}

static void finish_punctuation(JsonParser *p, char c)
{
    if (begin_token(p)) {
        if ((c == '[' || c == '{') && p->depth == p->limits.max_depth) {
            break_value(p, "the value is nested too deeply");
        } else {
            take_punctuation(p, c);
        }
    }
    /* Counted also while dropping, to find the balanced end. */
    if (c == '[' || c == '{') {
        p->depth++;
    } else if ((c == ']' || c == '}') && p->depth > 0) {
        p->depth--;
    }
    end_token(p);
}

/* Whether @c may stand in a string of the dialect. */
static bool is_allowed_character(const JsonParser *p, gunichar c)
{
    bool is_noncharacter = (c & 0xfffe) == 0xfffe || (c >= 0xfdd0 && c <= 0xfdef);

    return p->strict || !is_noncharacter;
}

/*
 * Check the content of the string. Text is UTF-8 where escapes were decoded, so only what came raw
 * can be wrong. Turns c0 80 into U+0000, in place.
 */
static bool check_string(JsonParser *p)
{
    char *read = p->token->str, *end = read + p->token->len, *write = read;

    while (read < end) {
        gunichar c;
        gsize n;

        if ((guchar)*read < 0x80) {
            *write++ = *read++;
            continue;
        }
        if (!p->strict && end - read >= 2 && memcmp(read, "\xc0\x80", 2) == 0) {
            *write++ = '\0';
            read += 2;
            continue;
        }
        c = g_utf8_get_char_validated(read, end - read);
        if (c == (gunichar)-1 || c == (gunichar)-2 || !is_allowed_character(p, c)) {
            return false;
        }
        n = (gsize)(g_utf8_next_char(read) - read);
        memmove(write, read, n);
        write += n;
        read += n;
    }
    g_string_truncate(p->token, (gsize)(write - p->token->str));
    return true;
}

static void finish_string(JsonParser *p)
{
    if (p->high && !p->string_bad) {
        p->string_bad = "half of a surrogate pair in a string";
    }
    if (!begin_token(p)) {
        /* Nothing: it is dropped. */
    } else if (p->string_bad) {
        break_value(p, p->string_bad);
    } else if (!check_string(p)) {
        break_value(p, "a string that is not valid UTF-8");
    } else if (p->want == WANT_KEY || p->want == WANT_KEY_OR_END) {
        take_key(p);
    } else {
        take_scalar(p, qvalue_string_len(p->token->str, p->token->len));
    }
    end_token(p);
}

/* @text, with everything but printable ASCII replaced, for a message. */
static char *printable(const GString *text)
{
    GString *out = g_string_new(NULL);

    for (gsize i = 0; i < text->len && i < STRAY_QUOTE_MAX; i++) {
        guchar c = (guchar)text->str[i];

        if (g_ascii_isprint(c)) {
            g_string_append_c(out, (char)c);
        } else {
            g_string_append_printf(out, "\\x%02x", c);
        }
    }
    return g_string_free(out, FALSE);
}

static void finish_word(JsonParser *p)
{
    const char *word = p->token->str;

    if (!begin_token(p)) {
        /* Nothing: it is dropped. */
    } else if (strcmp(word, "true") == 0 || strcmp(word, "false") == 0) {
        take_scalar(p, qvalue_bool(word[0] == 't'));
    } else if (strcmp(word, "null") == 0) {
        take_scalar(p, qvalue_null());
    } else {
        g_autofree char *shown = printable(p->token);
        g_autofree char *text = g_strdup_printf("unknown word '%s'", shown);

        break_value(p, text);
    }
    end_token(p);
}

/* The number that the token spells, or NULL if it is none that a double can hold. */
static QValue *token_number(const JsonParser *p)
{
    const char *text = p->token->str;
    double d;

    if (!strpbrk(text, ".eE")) {
        gint64 i;
        guint64 u;

        errno = 0;
        i = g_ascii_strtoll(text, NULL, 10);
        if (errno == 0) {
            return qvalue_int(i);
        }
        errno = 0;
        u = g_ascii_strtoull(text, NULL, 10);
        if (errno == 0 && *text != '-') {
            return qvalue_uint(u);
        }
    }
    d = g_ascii_strtod(text, NULL);
    return isfinite(d) ? qvalue_double(d) : NULL;
}

static void finish_number(JsonParser *p)
{
    if (begin_token(p)) {
        QValue *number = token_number(p);

        if (number) {
            take_scalar(p, number);
        } else {
            break_value(p, "a number too large for a double");
        }
    }
    end_token(p);
}

/* A lexical error, told by @text. */
static void break_text(JsonParser *p, const char *text)
{
    if (!p->dropping) {
        report(p, p->token_start, text);
    }
    begin_anew(p);
    p->lex = LEX_RECOVERY;
}

/* The token so far is none. */
static void break_token(JsonParser *p)
{
    g_autofree char *shown = printable(p->token);
    g_autofree char *text = g_strdup_printf("stray '%s'", shown);

    break_text(p, text);
}

/* ---- Bytes ---- */

static bool is_structural(char c)
{
    return c && strchr("{}[]:,", c);
}

/* Add @c to the token, unless the value is dropped anyway. */
static void append(JsonParser *p, char c)
{
    if (!p->dropping) {
        g_string_append_c(p->token, c);
    }
}

/* @c cannot belong to the token in progress: it is broken. */
static bool refuse_byte(JsonParser *p, char c)
{
    g_string_append_c(p->token, c);
    break_token(p);
    /* What may begin something new is looked at again; the rest is part of the broken token. */
    return !is_structural(c);
}

static bool refuse_string_byte(JsonParser *p)
{
    break_text(p, "a control character or 0xff in a string that is not closed");
    return true;
}

static void start_string(JsonParser *p, char quote)
{
    p->quote = quote;
    p->high = 0;
    p->string_bad = NULL;
    g_string_truncate(p->token, 0);
    p->lex = LEX_STRING;
}

/* Each state's function returns whether it used up @c; otherwise @c is looked at again. */

static bool lex_start(JsonParser *p, char c)
{
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
        return true;
    }
    p->token_start = p->here;
    g_string_truncate(p->token, 0);
    g_string_append_c(p->token, c);
    if (is_structural(c)) {
        finish_punctuation(p, c);
    } else if (c == '"' || (c == '\'' && !p->strict)) {
        start_string(p, c);
    } else if (c == '-') {
        p->lex = LEX_MINUS;
    } else if (c == '0') {
        p->lex = LEX_ZERO;
    } else if (g_ascii_isdigit(c)) {
        p->lex = LEX_DIGITS;
    } else if (g_ascii_islower(c)) {
        p->lex = LEX_WORD;
    } else {
        break_token(p);
    }
    return true;
}

static void string_append_unichar(JsonParser *p, gunichar c)
{
    if (!p->dropping) {
        if (c == 0) {
            g_string_append_c(p->token, '\0');
        } else {
            g_string_append_unichar(p->token, c);
        }
    }
}

/* A string goes on with something else than the low half of a surrogate pair. */
static void string_no_low_half(JsonParser *p)
{
    if (p->high && !p->string_bad) {
        p->string_bad = "half of a surrogate pair in a string";
    }
    p->high = 0;
}

static bool lex_string(JsonParser *p, char c)
{
    if ((guchar)c < 0x20 || (guchar)c >= 0xfe) {
        return refuse_string_byte(p);
    }
    if (c == '\\') {
        p->lex = LEX_ESCAPE;
        return true;
    }
    if (c == p->quote) {
        finish_string(p);
        return true;
    }
    string_no_low_half(p);
    append(p, c);
    return true;
}

static bool lex_escape(JsonParser *p, char c)
{
    static const char letters[] = "\"\\/bfnrt'";
    static const char meanings[] = "\"\\/\b\f\n\r\t'";
    const char *found;

    if ((guchar)c < 0x20 || (guchar)c >= 0xfe) {
        return refuse_string_byte(p);
    }
    if (c == 'u') {
        p->unicode = 0;
        p->unicode_left = 4;
        p->lex = LEX_UNICODE;
        return true;
    }
    string_no_low_half(p);
    p->lex = LEX_STRING;
    found = strchr(letters, c);
    if (found && (c != '\'' || !p->strict)) {
        append(p, meanings[found - letters]);
    } else if (!p->string_bad) {
        p->string_bad = "an unknown escape sequence in a string";
    }
    return true;
}

static void finish_unicode(JsonParser *p)
{
    unsigned unit = p->unicode;

    p->lex = LEX_STRING;
    if (p->high && unit >= 0xdc00 && unit <= 0xdfff) {
        gunichar c = 0x10000 + ((p->high - 0xd800) << 10) + (unit - 0xdc00);

        p->high = 0;
        if (is_allowed_character(p, c)) {
            string_append_unichar(p, c);
        } else if (!p->string_bad) {
            p->string_bad = "a noncharacter in a string";
        }
        return;
    }
    string_no_low_half(p);
    if (unit >= 0xd800 && unit <= 0xdbff) {
        p->high = unit;
    } else if (unit >= 0xdc00 && unit <= 0xdfff) {
        p->string_bad = p->string_bad ? p->string_bad : "half of a surrogate pair in a string";
    } else if (!is_allowed_character(p, unit)) {
        p->string_bad = p->string_bad ? p->string_bad : "a noncharacter in a string";
    } else {
        string_append_unichar(p, unit);
    }
}

static bool lex_unicode(JsonParser *p, char c)
{
    if (!g_ascii_isxdigit(c)) {
        if (!p->string_bad) {
            p->string_bad = "\\u without four hexadecimal digits in a string";
        }
        p->lex = LEX_STRING;
        return false;
    }
    p->unicode = p->unicode << 4 | (unsigned)g_ascii_xdigit_value(c);
    if (--p->unicode_left == 0) {
        finish_unicode(p);
    }
    return true;
}

static bool lex_word(JsonParser *p, char c)
{
    if (g_ascii_islower(c)) {
        append(p, c);
        return true;
    }
    finish_word(p);
    return false;
}

/* A number goes on with @c in state @next. */
static bool go_on(JsonParser *p, char c, LexState next)
{
    append(p, c);
    p->lex = next;
    return true;
}

static bool lex_number(JsonParser *p, char c)
{
    bool is_digit = g_ascii_isdigit(c);
    bool is_e = c == 'e' || c == 'E';

    switch (p->lex) {
    case LEX_MINUS:
        return is_digit ? go_on(p, c, c == '0' ? LEX_ZERO : LEX_DIGITS) : refuse_byte(p, c);
    case LEX_ZERO:
        if (is_digit) {
            return refuse_byte(p, c);
        }
        break;
    case LEX_DIGITS:
        if (is_digit) {
            return go_on(p, c, LEX_DIGITS);
        }
        break;
    case LEX_POINT:
        return is_digit ? go_on(p, c, LEX_FRACTION) : refuse_byte(p, c);
    case LEX_FRACTION:
        if (is_digit) {
            return go_on(p, c, LEX_FRACTION);
        }
        break;
    case LEX_E:
        if (c == '+' || c == '-') {
            return go_on(p, c, LEX_E_SIGN);
        }
        return is_digit ? go_on(p, c, LEX_EXPONENT) : refuse_byte(p, c);
    case LEX_E_SIGN:
        return is_digit ? go_on(p, c, LEX_EXPONENT) : refuse_byte(p, c);
    default:
        if (is_digit) {
            return go_on(p, c, LEX_EXPONENT);
        }
        break;
    }
    if (c == '.' && (p->lex == LEX_ZERO || p->lex == LEX_DIGITS)) {
        return go_on(p, c, LEX_POINT);
    }
    if (is_e && p->lex != LEX_EXPONENT) {
        return go_on(p, c, LEX_E);
    }
    finish_number(p);
    return false;
}

static bool lex_recovery(JsonParser *p, char c)
{
    if (is_structural(c) || ((guchar)c < 0x20 && c != '\t') || (guchar)c >= 0xfe) {
        p->lex = LEX_START;
        return false;
    }
    return true;
}

static bool lex_byte(JsonParser *p, char c)
{
    switch (p->lex) {
    case LEX_START:
        return lex_start(p, c);
    case LEX_STRING:
        return lex_string(p, c);
    case LEX_ESCAPE:
        return lex_escape(p, c);
    case LEX_UNICODE:
        return lex_unicode(p, c);
    case LEX_WORD:
        return lex_word(p, c);
    case LEX_RECOVERY:
        return lex_recovery(p, c);
    default:
        return lex_number(p, c);
    }
}

/* How many of the @n bytes at @s are plain content of a string. */
static gsize plain_run(const JsonParser *p, const char *s, gsize n)
{
    gsize i = 0;

    while (i < n && (guchar)s[i] >= 0x20 && (guchar)s[i] < 0xfe && s[i] != '\\' &&
           s[i] != p->quote) {
        i++;
    }
    return i;
}

/* Whether a value or a token of one is under way. */
static bool is_inside(const JsonParser *p)
{
    return p->depth > 0 || (p->lex != LEX_START && p->lex != LEX_RECOVERY);
}

/* Account for @n bytes of the value. */
static void count_bytes(JsonParser *p, gsize n)
{
    gsize closing = p->depth > 0 || p->lex == LEX_STRING ? 1 : 0; /* at least one byte is to come */

    if (!is_inside(p)) {
        return;
    }
    p->bytes += n;
    if (p->bytes + closing > p->limits.max_bytes && !p->dropping) {
        break_value(p, "the value is too long");
        g_string_truncate(p->token, 0);
    }
}

/* Take a run of plain bytes of a string at once. */
static void take_run(JsonParser *p, const char *s, gsize n)
{
    string_no_low_half(p);
    if (!p->dropping) {
        g_string_append_len(p->token, s, (gssize)n);
    }
    p->here.column += n;
    count_bytes(p, n);
}

void json_parser_feed(JsonParser *p, const char *bytes, size_t n)
{
    size_t i = 0;

    while (i < n) {
        if (p->lex == LEX_STRING) {
            gsize run = plain_run(p, bytes + i, MIN(n - i, p->limits.max_bytes));

            if (run > 0) {
                take_run(p, bytes + i, run);
                i += run;
                continue;
            }
        }
        while (!lex_byte(p, bytes[i])) {
            /* The byte ended a token and begins another one. */
        }
        count_bytes(p, 1);
        if (bytes[i] == '\n') {
            p->here.line++;
            p->here.column = 1;
        } else {
            p->here.column++;
        }
        i++;
    }
}

void json_parser_end(JsonParser *p)
{
    if (is_inside(p) && p->lex != LEX_STRING) {
        while (!lex_byte(p, '\n')) {
            /* The end of line ends a number or word. */
        }
    }
    if (is_inside(p) && !p->dropping) {
        report(p, p->here, "the input ends inside a value");
    }
    begin_anew(p);
    p->lex = LEX_START;
    p->here = (Position){1, 1};
}

JsonParser *json_parser_new(const JsonLimits *limits, bool strict, JsonEmit *emit, void *opaque)
{
    JsonParser *p = g_new0(JsonParser, 1);

    p->limits = limits ? *limits : json_limits_default;
    p->strict = strict;
    p->emit = emit;
    p->opaque = opaque;
    p->token = g_string_new(NULL);
    p->here = (Position){1, 1};
    p->frames = g_array_new(FALSE, FALSE, sizeof(Frame));
    g_array_set_clear_func(p->frames, clear_frame);
    return p;
}

void json_parser_free(JsonParser *p)
{
    if (p) {
        drop_frames(p);
        g_array_unref(p->frames);
        g_string_free(p->token, TRUE);
        g_free(p);
    }
}

/* ---- One value ---- */

typedef struct {
    QValue *value;
    GError *error;
    bool several;
} OneValue;

static void take_one(void *opaque, QValue *value, GError *error)
{
    OneValue *one = opaque;

    if (one->error) {
        return;
    }
    if (error) {
        one->error = g_error_copy(error);
    } else if (one->value) {
        one->several = true;
    } else {
        one->value = qvalue_ref(value);
    }
}

QValue *qvalue_from_json(const char *text, gssize len, GError **error)
{
    OneValue one = {0};
    g_autoptr(JsonParser) parser = json_parser_new(NULL, false, take_one, &one);

    json_parser_feed(parser, text, len < 0 ? strlen(text) : (size_t)len);
    json_parser_end(parser);
    if (!one.error && !one.value) {
        g_set_error(&one.error, WHARF_ERROR, WHARF_ERROR_PARSE, "there is no JSON value");
    } else if (!one.error && one.several) {
        g_set_error(&one.error, WHARF_ERROR, WHARF_ERROR_PARSE, "text follows the JSON value");
    }
    if (one.error) {
        g_propagate_error(error, one.error);
        g_clear_pointer(&one.value, qvalue_unref);
    }
    return one.value;
}
