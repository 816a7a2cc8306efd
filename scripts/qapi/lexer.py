# SPDX-License-Identifier: GPL-2.0-or-later
"""
Schema text to expressions.

The language is JSON with single-quoted strings and '#' comments; a comment block between two lines
'##' is documentation. Objects and lists remember on which line each of their elements stands.
"""

import re

from .error import Info, SchemaError

TOKEN = re.compile(r'''
    (?P<blank>   [ \t\r]+ )
  | (?P<newline> \n )
  | (?P<doc>     ^\#\#[ \t]*$ )
  | (?P<comment> \#[^\n]* )
  | (?P<punct>   [{}\[\]:,] )
  | (?P<string>  '[^'\\\n]*' )
  | (?P<number>  -?(?:0x[0-9a-fA-F]+|\d+(?:\.\d+)?) \b )
  | (?P<word>    [A-Za-z]+ )
''', re.VERBOSE | re.MULTILINE)

WORDS = {'true': True, 'false': False, 'null': None}


class Object(dict):
    """A schema object; lines[key] is where a member stands."""

    def __init__(self, info):
        super().__init__()
        self.info = info
        self.lines = {}

    def info_of(self, key):
        """Where member @key stands."""
        return Info(self.info.file, self.lines.get(key, self.info.line))


class List(list):
    """A schema list; infos[i] is where element i stands."""

    def __init__(self, info):
        super().__init__()
        self.info = info
        self.infos = []


class Token:
    """A lexical element: kind is punctuation itself, or 'string', 'number', 'word', 'doc', 'end'."""

    def __init__(self, kind, value, info):
        self.kind = kind
        self.value = value
        self.info = info

    def __str__(self):
        return 'the end of the file' if self.kind == 'end' else repr(self.value)


def _doc_block(text, start, line, file):
    """The lines of the documentation block whose '##' ended just before @start, and what follows."""
    lines = []
    info = Info(file, line)
    pos = start
    while True:
        pos += 1                                # the newline before the next line
        if pos >= len(text):
            raise SchemaError(info, "documentation has no closing '##'")
        end = text.find('\n', pos)
        end = len(text) if end < 0 else end
        content = text[pos:end].rstrip()
        pos = end
        if content == '##':
            return lines, pos, line + len(lines) + 1
        here = Info(file, line + len(lines) + 1)
        if not content.startswith('#'):
            raise SchemaError(here, "a line of documentation must begin with '#'")
        if content != '#' and not content.startswith('# '):
            raise SchemaError(here, "a blank is missing after '#'")
        lines.append(content[2:])


def tokenize(text, file):
    """Yield the tokens of @text, ending with one of kind 'end'."""
    pos, line = 0, 1
    while pos < len(text):
        match = TOKEN.match(text, pos)
        info = Info(file, line)
        if not match:
            raise SchemaError(info, f'unexpected character {text[pos]!r}')
        kind, value = match.lastgroup, match.group()
        pos = match.end()
        if kind == 'newline':
            line += 1
        elif kind == 'doc':
            value, pos, line = _doc_block(text, pos, line, file)
            yield Token('doc', value, info)
        elif kind == 'punct':
            yield Token(value, value, info)
        elif kind == 'string':
            yield Token('string', value[1:-1], info)
        elif kind == 'number':
            number = float(value) if '.' in value else int(value, 0)
            yield Token('number', number, info)
        elif kind == 'word':
            if value not in WORDS:
                raise SchemaError(info, f'unexpected word {value!r}; strings need quotes')
            yield Token('word', WORDS[value], info)
    yield Token('end', None, Info(file, line))


class ExpressionReader:
    """Turns tokens into a sequence of top-level items: Object expressions and doc blocks."""

    def __init__(self, text, file):
        self._tokens = tokenize(text, file)
        self._token = next(self._tokens)

    def _advance(self):
        token = self._token
        if token.kind != 'end':
            self._token = next(self._tokens)
        return token

    def _expect(self, kind, what):
        if self._token.kind != kind:
            raise SchemaError(self._token.info, f'expected {what}, found {self._token}')
        return self._advance()

    def items(self):
        """Yield ('doc', info, lines) and ('expr', info, Object)."""
        while self._token.kind != 'end':
            if self._token.kind == 'doc':
                token = self._advance()
                yield 'doc', token.info, token.value
                continue
            if self._token.kind != '{':
                raise SchemaError(self._token.info,
                                  f"expected a definition in '{{', found {self._token}")
            expr = self._value()
            yield 'expr', expr.info, expr

    def _value(self):
        kind = self._token.kind
        if kind == '{':
            return self._object()
        if kind == '[':
            return self._list()
        if kind in ('string', 'number', 'word'):
            return self._advance().value
        raise SchemaError(self._token.info, f'expected a value, found {self._token}')

    def _object(self):
        result = Object(self._advance().info)
        if self._token.kind == '}':
            self._advance()
            return result
        while True:
            key = self._expect('string', 'a member name in quotes')
            if key.value in result:
                raise SchemaError(key.info, f"'{key.value}' stands here twice")
            self._expect(':', "':'")
            result.lines[key.value] = key.info.line
            result[key.value] = self._value()
            if self._token.kind == '}':
                self._advance()
                return result
            self._expect(',', "',' or '}'")

    def _list(self):
        result = List(self._advance().info)
        if self._token.kind == ']':
            self._advance()
            return result
        while True:
            result.infos.append(self._token.info)
            result.append(self._value())
            if self._token.kind == ']':
                self._advance()
                return result
            self._expect(',', "',' or ']'")
