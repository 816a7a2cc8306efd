#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
The schema generator: every construct it takes, and every mistake it refuses.

What the generated C does is tested in C, by test-qapi-convert and test-qapi-commands.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, 'scripts'))

# pylint: disable=wrong-import-position
from qapi import commands, events, introspect, main, names, reference, types
from qapi.error import SchemaError
from qapi.schema import Schema


def doc(name, *lines):
    """A documentation block; lines are members and sections."""
    text = ''.join(f'# {line}\n#\n' if line else '#\n' for line in lines)
    return f'##\n# @{name}:\n#\n# What it is.\n#\n{text}# Since: 1\n##\n'


class GeneratorTest(unittest.TestCase):
    """Helpers: schemas in a temporary folder."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, text, name='main.json'):
        """Write a schema file; its path."""
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as stream:
            stream.write(text)
        return path

    def load(self, text, **symbols):
        """The Schema that @text is."""
        return Schema(self.write(text), symbols)

    def refuse(self, text, message, **symbols):
        """@text is refused with a message that has @message in it, at the line that says HERE."""
        path = self.write(text)
        with self.assertRaises(SchemaError) as caught:
            Schema(path, symbols)
        found = str(caught.exception)
        self.assertIn(message, found)
        here = [i for i, line in enumerate(text.split('\n'), 1) if 'HERE' in line]
        if here:
            self.assertTrue(found.startswith(f'{path}:{here[0]}: '), f'{found}, expected {here[0]}')
        else:
            self.assertRegex(found, r'^[^:]+:\d+: ')


class TestLexer(GeneratorTest):
    """What is no token or no expression."""

    def test_comments_and_blanks(self):
        schema = self.load('# a comment\n\n' + doc('E', '@a: x') +
                           "{ 'enum': 'E', # another\n  'data': [ 'a' ] } # the last\n")
        self.assertEqual([v.name for v in schema.types['E'].values], ['a'])

    def test_empty_schema(self):
        self.assertEqual(self.load('').modules[0].contents, [])

    def test_refused(self):
        for text, message in (
                ('"x" # HERE', "unexpected character '\"'"),
                ("{ 'enum': 'E # HERE", "unexpected character"),
                ("{ 'enum': 'a\\b' } # HERE", 'unexpected character'),
                ("{ 'a': yes } # HERE", "unexpected word 'yes'"),
                ("{ 'a': 1x } # HERE", "unexpected character"),
                ('[] # HERE', "expected a definition in '{'"),
                ("'x' # HERE", "expected a definition in '{'"),
                ("{ 'a' 1 } # HERE", "expected ':'"),
                ("{ a: 1 } # HERE", "unexpected word 'a'"),
                ("{ 1: 1 } # HERE", 'expected a member name in quotes'),
                ("{ 'a': 1 'b': 2 } # HERE", "expected ',' or '}'"),
                ("{ 'a': 1, } # HERE", 'expected a member name in quotes'),
                ("{ 'a': } # HERE", 'expected a value'),
                ("{ 'a': [1 2] } # HERE", "expected ',' or ']'"),
                ("{ 'a': [1,] } # HERE", 'expected a value'),
                ("{ 'a': 1,\n  'a': 2 } # HERE", "'a' stands here twice"),
                ("{ 'a': 1,\n", 'the end of the file'),
                ("{ 'a': [", 'the end of the file')):
            with self.subTest(text):
                self.refuse(text, message)


class TestDocs(GeneratorTest):
    """Documentation: its form, and what may not lack."""

    def test_parts(self):
        schema = self.load(
            '##\n# = Heading\n#\n# Free text.\n##\n\n' +
            doc('R') + "{ 'struct': 'R', 'data': {} }\n" +
            '##\n# @go:\n#\n# First line,\n# second line.\n#\n# Another paragraph.\n#\n'
            '# @speed: how fast,\n#     in words\n#\n# Features:\n#\n# @unstable: may go\n#\n'
            '# Returns: something\n#     longer\n#\n# Errors: it can fail\n#\n# Since: 0.1\n##\n'
            "{ 'command': 'go', 'data': { 'speed': 'str' }, 'returns': 'R',\n"
            "  'features': [ 'unstable' ] }")
        command = schema.commands['go']
        self.assertEqual(command.doc.body.text(),
                         ['First line,', 'second line.', '', 'Another paragraph.'])
        self.assertEqual(command.arg.members[0].doc, ['how fast,', 'in words'])
        self.assertEqual(command.features[0].doc, ['may go'])
        self.assertEqual(command.doc.sections['Returns'].text(), ['something', 'longer'])
        self.assertEqual(command.doc.sections['Errors'].text(), ['it can fail'])

    def test_refused_form(self):
        for text, message in (
                ('##\n# @a:\n', "has no closing '##'"),
                ('##\n# @a:\nno hash HERE\n##\n', "must begin with '#'"),
                ('##\n# @a:\n#no blank HERE\n##\n', "a blank is missing after '#'"),
                ('##\n##\n', 'empty documentation'),
                ('##\n# @a: text HERE\n##\n', 'belongs below it'),
                ('##\n# @a:\n#\n# x\n#\n# @m: one\n#\n# @m: HERE two\n##\n', 'described twice'),
                ('##\n# @a:\n#\n# x\n#\n# Since: 1\n#\n# Since: 2 HERE\n##\n', 'stands here twice'),
                ('##\n# @a:\n#\n# x\n#\n# @m: one\n# two HERE\n##\n', 'must be indented')):
            with self.subTest(text):
                self.refuse(text, message)

    def test_refused_content(self):
        struct = "{ 'struct': 'S', 'data': { 'm': 'int' } } # HERE\n"
        cases = (
            (struct, "struct 'S' is not documented"),
            (doc('T') + struct.replace(' # HERE', ''),
             "documentation of 'T' stands before struct 'S'"),
            (doc('S') + struct, "'m' of 'S' is not documented"),
            (doc('S', '@m:') + struct, "'m' of 'S' is not documented"),
            (doc('S', '@m: HERE x (default: 3)') +
             "{ 'struct': 'S', 'data': {\n  '*m': { 'type': 'int', 'default': 3 } } }",
             "tells the default of 'm'"),
            (doc('S', '@m: x', '@n: y HERE') + struct.replace(' # HERE', ''), "'S' has no 'n'"),
            ('##\n# @S:\n#\n# @m: x\n#\n# Since: 1\n##\n' + struct.replace(' # HERE', ''),
             "'S' is not described"),
            ('##\n# @S:\n#\n# x\n#\n# @m: x\n##\n' + struct.replace(' # HERE', ''),
             "'S' lacks 'Since:'"),
            (doc('S', '@m: x', 'Returns: HERE y') + struct.replace(' # HERE', ''),
             "'S' returns nothing"),
            (doc('S', '@m: x', 'Errors: HERE y') + struct.replace(' # HERE', ''),
             "'Errors:' is for commands"),
            (doc('E') + "{ 'enum': 'E', 'data': [\n  'a' ] } # HERE", "'a' of 'E' is not documented"),
            (doc('A', '@s: x') + "{ 'alternate': 'A', 'data': { 's': 'str',\n 'i': 'null' } } # HERE",
             "'i' of 'A' is not documented"),
            (doc('c') + "{ 'command': 'c', 'data': {\n 'i': 'int' } } # HERE",
             "'i' of 'c' is not documented"),
            (doc('EV') + "{ 'event': 'EV', 'data': {\n 'i': 'int' } } # HERE",
             "'i' of 'EV' is not documented"),
            (doc('S') + "{ 'struct': 'S', 'data': {} }\n" + doc('c') +
             "{ 'command': 'c', 'returns': 'S' }", "'c' lacks 'Returns:'"),
            (doc('c') + "{ 'command': 'c',\n  'features': [ 'f' ] } # HERE",
             "feature 'f' of 'c' is not documented"),
            (doc('c', 'Features:', '@f: HERE x') + "{ 'command': 'c' }", "'c' has no feature 'f'"),
            (doc('c') + '##\n# = Free\n##\n', "no definition of 'c' follows"),
            (doc('c'), "no definition of 'c' follows"),
            (doc('c') + "{ 'include': 'x.json' }", "no definition of 'c' follows"),
        )
        for text, message in cases:
            with self.subTest(message):
                self.refuse(text, message)

    def test_hidden_members_are_documented_too(self):
        self.refuse(doc('S') + "{ 'struct': 'S', 'data': {\n"
                    "  'm': { 'type': 'int', 'if': 'OFF' } } } # HERE",
                    "'m' of 'S' is not documented", OFF=False)


class TestSyntax(GeneratorTest):
    """The form of definitions."""

    def test_refused(self):
        cases = (
            ("{ 'data': {} } # HERE", 'this defines nothing'),
            ("{ 'enum': 'E', 'struct': 'S', 'data': {} } # HERE", "both 'enum' and 'struct'"),
            ("{ 'enum': 5, 'data': [] } # HERE", 'must be a string'),
            ("{ 'enum': 'E' } # HERE", "enum 'E' lacks 'data'"),
            ("{ 'enum': 'E', 'data': {} } # HERE", "'data' of enum 'E' must be a list"),
            ("{ 'enum': 'E', 'data': [\n 5 ] } # HERE", 'a value must be a name or an object'),
            ("{ 'enum': 'E', 'data': [\n { 'nam': 'x' } ] } # HERE", "unknown key 'nam'"),
            ("{ 'enum': 'E', 'data': [\n { 'if': 'X' } ] } # HERE", "value lacks 'name'"),
            ("{ 'enum': 'E', 'prefix': 'low', 'data': ['a'] } # HERE", "'prefix' must be"),
            ("{ 'enum': 'E', 'data': ['a'],\n  'base': 'X' } # HERE", "unknown key 'base'"),
            ("{ 'struct': 'S', 'data': [] } # HERE", "'data' of struct 'S' must be an object"),
            ("{ 'struct': 'S', 'data': {},\n 'base': {} } # HERE", 'must be the name of a struct'),
            ("{ 'struct': 'S', 'data': {\n 'm': 5 } } # HERE", "type of 'm' must be a name"),
            ("{ 'struct': 'S', 'data': {\n 'm': [] } } # HERE", "type of 'm' must be a name"),
            ("{ 'struct': 'S', 'data': {\n 'm': ['a', 'b'] } } # HERE", "type of 'm' must be a name"),
            ("{ 'struct': 'S', 'data': {\n 'm': {} } } # HERE", "member 'm' lacks 'type'"),
            ("{ 'struct': 'S', 'data': {\n 'm': { 'type': 'int', 'x': 1 } } } # HERE",
             "member 'm' has an unknown key 'x'"),
            ("{ 'union': 'U', 'data': {} } # HERE", "union 'U' lacks 'base'"),
            ("{ 'union': 'U', 'base': 'B', 'data': {} } # HERE", "lacks 'discriminator'"),
            ("{ 'union': 'U', 'base': [], 'discriminator': 'd', 'data': {} } # HERE",
             "'base' of union 'U' must be a name or an object"),
            ("{ 'union': 'U', 'base': {}, 'discriminator': 5, 'data': {} } # HERE",
             "'discriminator' must be a member's name"),
            ("{ 'union': 'U', 'base': {}, 'discriminator': 'd', 'data': [] } # HERE",
             "'data' of union 'U' must be an object"),
            ("{ 'union': 'U', 'base': {}, 'discriminator': 'd', 'data': {\n"
             "  'a': { 'type': 'X', 'default': 1 } } } # HERE", "unknown key 'default'"),
            ("{ 'alternate': 'A', 'data': [] } # HERE", "must be an object"),
            ("{ 'command': 'c', 'data': [] } # HERE", "must be a name or an object"),
            ("{ 'command': 'c', 'returns': {} } # HERE", "'returns' of command 'c' must be"),
            ("{ 'command': 'c', 'boxed': 'yes' } # HERE", 'must be true or false'),
            ("{ 'command': 'c',\n  'success-response': false } # HERE", 'unknown key'),
            ("{ 'event': 'E', 'returns': 'x' } # HERE", "unknown key 'returns'"),
            ("{ 'command': 'c', 'features': {} } # HERE", "'features' must be a list"),
            ("{ 'command': 'c', 'features': [ 5 ] } # HERE", 'a feature must be a name or an object'),
            ("{ 'command': 'c', 'features': [ {} ] } # HERE", "feature lacks 'name'"),
            ("{ 'command': 'c', 'features': [ { 'name': 'f', 'x': 1 } ] } # HERE", 'unknown key'),
            ("{ 'command': 'c', 'if': 'lower' } # HERE", 'must be a symbol'),
            ("{ 'command': 'c', 'if': [] } # HERE", "'if' must be a symbol or an object"),
            ("{ 'command': 'c', 'if': {} } # HERE", "'if' must be a symbol or an object"),
            ("{ 'command': 'c', 'if': { 'xor': [] } } # HERE", "unknown operator 'xor'"),
            ("{ 'command': 'c', 'if': { 'all': [] } } # HERE", 'must be a list that is not empty'),
            ("{ 'command': 'c', 'if': { 'any': 'A' } } # HERE", 'must be a list that is not empty'),
            ("{ 'include': 'x.json', 'data': {} } # HERE", "'include' stands alone"),
            ("{ 'include': [] } # HERE", "'include' must be a file name"),
            ("{ 'pragma': [] } # HERE", "'pragma' must be an object"),
            ("{ 'pragma': {\n 'what': [] } } # HERE", "unknown pragma 'what'"),
            ("{ 'pragma': {\n 'member-name-exceptions': 'x' } } # HERE", 'must be a list of names'),
        )
        for text, message in cases:
            with self.subTest(text):
                self.refuse(text, message)


class TestNames(GeneratorTest):
    """Names: their form, and clashes in JSON and in C."""

    def test_forms(self):
        for name, expected in (('BlockExportOptions', 'block_export_options'),
                               ('QMPCapability', 'qmp_capability'), ('BlkdebugIOType',
                                                                     'blkdebug_io_type'),
                               ('BLOCK_IO_ERROR', 'block_io_error'), ('a-b', 'a_b'),
                               ('Qcow2Options', 'qcow2_options')):
            self.assertEqual(names.snake(name), expected)
        self.assertEqual(names.camel('block-export-add'), 'BlockExportAdd')
        self.assertEqual(names.camel('BLOCK_IO_ERROR'), 'BlockIoError')
        self.assertEqual([names.c_name(n) for n in ('a-b', 'default', 'errno', '2d')],
                         ['a_b', 'q_default', 'q_errno', 'q_2d'])

    def test_refused(self):
        cases = (
            (doc('e') + "{ 'enum': 'e', 'data': ['a'] } # HERE", 'must be in CamelCase'),
            (doc('My-E') + "{ 'enum': 'My-E', 'data': ['a'] } # HERE", 'must be in CamelCase'),
            (doc('ThingList') + "{ 'enum': 'ThingList', 'data': ['a'] } # HERE", 'has an ending'),
            (doc('QapiE') + "{ 'enum': 'QapiE', 'data': ['a'] } # HERE", 'has a beginning'),
            (doc('E') + "{ 'enum': 'E', 'data': [\n 'Up' ] } # HERE", "value 'Up' must be lower"),
            (doc('E') + "{ 'enum': 'E', 'data': [\n 'a_b' ] } # HERE", "value 'a_b' must be lower"),
            (doc('E') + "{ 'enum': 'E', 'data': [\n '' ] } # HERE", "value '' must be lower"),
            (doc('S') + "{ 'struct': 'S', 'data': {\n 'A': 'int' } } # HERE", "'A' must be lower"),
            (doc('S') + "{ 'struct': 'S', 'data': {\n '2d': 'int' } } # HERE", "'2d' must be lower"),
            (doc('S') + "{ 'struct': 'S', 'data': {\n '**a': 'int' } } # HERE", 'bad member name'),
            (doc('S') + "{ 'struct': 'S', 'data': {\n 'has-x': 'int' } } # HERE",
             'needed by the generated code'),
            (doc('C') + "{ 'command': 'C' } # HERE", "command 'C' must be lower"),
            (doc('a_b') + "{ 'command': 'a_b' } # HERE", "command 'a_b' must be lower"),
            (doc('ev') + "{ 'event': 'ev' } # HERE", 'must be in upper case'),
            (doc('c') + "{ 'command': 'c', 'features': [ 'F' ] } # HERE", "feature 'F' must be"),
            # Twice, or the same in C.
            (doc('str') + "{ 'struct': 'str', 'data': {} } # HERE", 'must be in CamelCase'),
            (doc('E', '@a: x') + "{ 'enum': 'E', 'data': ['a'] }\n" + doc('E') +
             "{ 'struct': 'E', 'data': {} } # HERE", "'E' is defined twice"),
            (doc('c') + "{ 'command': 'c' }\n" + doc('c') + "{ 'command': 'c' } # HERE",
             "'c' is defined twice"),
            (doc('EV') + "{ 'event': 'EV' }\n" + doc('EV') + "{ 'event': 'EV' } # HERE",
             "'EV' is defined twice"),
            (doc('IOType') + "{ 'struct': 'IOType', 'data': {} }\n" + doc('IoType') +
             "{ 'struct': 'IoType', 'data': {} } # HERE", 'are the same name in C'),
            (doc('E') + "{ 'enum': 'E', 'data': [ 'a',\n 'a' ] } # HERE", "'a' stands here twice"),
            (doc('E') + "{ 'enum': 'E', 'data': [\n 'a.b' ] } # HERE", "value 'a.b' must be lower"),
            (doc('c') + "{ 'command': 'c', 'features': [ 'f',\n 'f' ] } # HERE",
             "feature 'f' stands here twice"),
            (doc('S') + "{ 'struct': 'S', 'data': { 'a': 'int',\n '*a': 'str' } }",
             "member 'a' clashes with 'a'"),
            (doc('One') + "{ 'enum': 'One', 'prefix': 'A', 'data': [ 'b-c' ] }\n" + doc('Two') +
             "{ 'enum': 'Two', 'prefix': 'A_B', 'data': [\n 'c' ] } # HERE",
             "which 'One' has, too"),
        )
        for text, message in cases:
            with self.subTest(message + text[-60:]):
                self.refuse(text, message)

    def test_exceptions(self):
        schema = self.load(
            "{ 'pragma': { 'command-name-exceptions': [ 'a_b' ],\n"
            "  'member-name-exceptions': [ 'E', 'S', 'a_b' ],\n"
            "  'command-returns-exceptions': [ 'a_b' ] } }\n" +
            doc('E', '@Up_1: x') + "{ 'enum': 'E', 'data': [ 'Up_1' ] }\n" +
            doc('S', '@x_y: x') + "{ 'struct': 'S', 'data': { 'x_y': 'int' } }\n" +
            doc('a_b', '@c_d: x', 'Returns: y') +
            "{ 'command': 'a_b', 'data': { 'c_d': 'int' }, 'returns': 'str' }\n")
        self.assertEqual(schema.types['E'].constant('Up_1'), 'E_UP_1')

    def test_same_in_c(self):
        self.refuse("{ 'pragma': { 'member-name-exceptions': [ 'E' ] } }\n" + doc('E') +
                    "{ 'enum': 'E', 'data': [ 'a_b',\n  'a-b' ] } # HERE",
                    "'a_b' and 'a-b' are the same name in C")
        self.refuse("{ 'pragma': { 'member-name-exceptions': [ 'S' ] } }\n" + doc('S') +
                    "{ 'struct': 'S', 'data': { 'a_b': 'int',\n  'a-b': 'int' } }",
                    "member 'a-b' clashes with 'a_b'")

    def test_parameters_do_not_clash(self):
        schema = self.load(
            doc('c', '@call: x', '@error: x', '@ret: x') +
            "{ 'command': 'c', 'data': { '*call': 'int', 'error': 'str', 'ret': 'bool' } }\n" +
            doc('EV', '@sink: x', '@event-data: x') +
            "{ 'event': 'EV', 'data': { 'sink': 'str', 'event-data': 'int' } }\n")
        text = '\n'.join(commands.prototype(schema.commands['c'], ';'))
        self.assertEqual(re.sub(r'\s+', ' ', text),
                         'bool co_fn qmp_c(QapiCall *call, bool has_q_call, int64_t q_call, '
                         'const char *q_error, bool q_ret, GError **error);')
        text = '\n'.join(events.prototype(schema.events['EV'], ';'))
        self.assertIn('const char *q_sink, int64_t q_event_data', text)


class TestTypes(GeneratorTest):
    """References between types."""

    COLOR = doc('Color', '@red: x', '@blue: x') + "{ 'enum': 'Color', 'data': ['red', 'blue'] }\n"
    POINT = doc('Point', '@x: x') + "{ 'struct': 'Point', 'data': { 'x': 'int' } }\n"

    def test_forward_references(self):
        schema = self.load(doc('S', '@p: x') +
                           "{ 'struct': 'S', 'base': 'Point', 'data': { 'p': ['Color'] } }\n" +
                           self.POINT + self.COLOR)
        self.assertEqual([m.name for m in schema.types['S'].all_members()], ['x', 'p'])

    def test_struct_refused(self):
        cases = (
            (doc('S') + "{ 'struct': 'S', 'data': {\n 'm': 'Nope' } } # HERE",
             "there is no type 'Nope'"),
            (doc('S') + "{ 'struct': 'S', 'data': {\n 'm': ['Nope'] } } # HERE",
             "there is no type 'Nope'"),
            (doc('S') + "{ 'struct': 'S', 'data': {\n 'm': ['null'] } } # HERE", 'a list of null'),
            (doc('S') + "{ 'struct': 'S', 'data': {}, 'base': 'Nope' } # HERE",
             "there is no type 'Nope'"),
            (doc('S') + "{ 'struct': 'S', 'data': {}, 'base': 'str' } # HERE",
             "'str' is no struct or union"),
            (self.COLOR + doc('S') + "{ 'struct': 'S', 'data': {}, 'base': 'Color' } # HERE",
             "'Color' is no struct or union"),
            (doc('S') + "{ 'struct': 'S', 'data': {}, 'base': 'S' } # HERE", 'is its own base'),
            (doc('S') + "{ 'struct': 'S', 'data': {}, 'base': 'T' } # HERE\n" + doc('T') +
             "{ 'struct': 'T', 'data': {}, 'base': 'S' }", 'is its own base'),
            (self.POINT + doc('S') +
             "{ 'struct': 'S', 'base': 'Point', 'data': { 'x': 'str' } } # HERE",
             "member 'x' clashes with 'x'"),
            (doc('S', '@s: x') + "{ 'struct': 'S', 'data': { 's': 'S' } } # HERE",
             "every 'S' would contain another one"),
            (doc('S', '@t: x') + "{ 'struct': 'S', 'data': { 't': 'T' } } # HERE\n" +
             doc('T', '@s: x') + "{ 'struct': 'T', 'data': { 's': 'S' } }",
             "every 'S' would contain another one"),
            (doc('E') + "{ 'enum': 'E', 'data': [] } # HERE", "has no values"),
        )
        for text, message in cases:
            with self.subTest(message + text[-60:]):
                self.refuse(text, message)

    def test_recursion(self):
        self.load(doc('S', '@s: x', '@l: x') +
                  "{ 'struct': 'S', 'data': { '*s': 'S', 'l': ['S'] } }")

    def union(self, base="{ 'color': 'Color' }", tag='color', data="{ 'red': 'Point' }"):
        """A union whose parts can be broken one by one."""
        return (self.COLOR + self.POINT + doc('U', '@color: x') +
                f"{{ 'union': 'U',\n  'base': {base},\n  'discriminator': '{tag}',\n"
                f"  'data': {data} }}\n")

    def test_union(self):
        union = self.load(self.union()).types['U']
        self.assertEqual(union.tag.name, 'color')
        self.assertEqual([b.name for b in union.branches], ['red'])

    def test_union_base_by_name(self):
        schema = self.load(self.COLOR + self.POINT + doc('B', '@color: x') +
                           "{ 'struct': 'B', 'data': { 'color': 'Color' } }\n" + doc('U') +
                           "{ 'union': 'U', 'base': 'B', 'discriminator': 'color',\n"
                           "  'data': { 'red': 'Point' } }\n")
        self.assertEqual(schema.types['U'].tag.name, 'color')

    def test_union_refused(self):
        other = doc('V', '@color: x') + "{ 'union': 'V', 'base': { 'color': 'Color' }, " \
            "'discriminator': 'color', 'data': { 'blue': 'Point' } }\n"
        cases = (
            (self.union(tag='colour').replace("'colour',", "'colour', # HERE"),
             "'base' has no member 'colour'"),
            (self.union(base="{ 'color': 'str' }").replace("'color',\n  'd", "'color', # HERE\n  'd"),
             'must be of an enumeration type'),
            (self.union(base="{ '*color': 'Color' }").replace("'color',\n  'd",
                                                              "'color', # HERE\n  'd"),
             'must not be optional'),
            (self.union(data='{}'), 'at least one branch'),
            (self.union(data="{\n 'green': 'Point' } # HERE\n"), "no value of enumeration 'Color'"),
            (self.union(data="{\n 'red': 'Nope' } # HERE\n"), "there is no type 'Nope'"),
            (self.union(data="{\n 'red': 'str' } # HERE\n"), "'str' is no struct or union"),
            (self.union(data="{\n 'red': ['Point'] } # HERE\n"), 'cannot be a list'),
            (self.union(data="{\n 'red': 'U' } # HERE\n"), "'U' contains itself"),
            (self.union(base="{ 'color': 'Color', 'x': 'int' }",
                        data="{\n 'red': 'Point' } # HERE\n"), "member 'x' clashes with 'x'"),
            (self.union(base="{ 'color': 'Color',\n 'u': 'int' } # HERE\n"),
             "member name 'u' of a union"),
            # The inner union's tag has the name of the outer one's.
            (other + self.union(data="{\n 'red': 'V' } # HERE\n"), "member 'color' clashes"),
            (self.union() + doc('S') + "{ 'struct': 'S', 'data': {}, 'base': 'U' } # HERE",
             'a union cannot be a base'),
            (self.union() + doc('W') + "{ 'union': 'W', 'base': 'U', 'discriminator': 'color', "
             "'data': { 'red': 'Point' } } # HERE", 'a union cannot be a base'),
        )
        for text, message in cases:
            with self.subTest(message):
                self.refuse(text, message)

    def test_union_with_default_tag(self):
        schema = self.load(self.union(base="{ '*color': { 'type': 'Color', 'default': 'red' } }"))
        self.assertEqual(schema.types['U'].tag.default, 'red')

    def test_nested_union(self):
        schema = self.load(
            self.COLOR + self.POINT + doc('Kind', '@a: x') + "{ 'enum': 'Kind', 'data': ['a'] }\n" +
            doc('Inner', '@kind: x') + "{ 'union': 'Inner', 'base': { 'kind': 'Kind' },\n"
            "  'discriminator': 'kind', 'data': { 'a': 'Point' } }\n" +
            doc('Outer', '@color: x') + "{ 'union': 'Outer', 'base': { 'color': 'Color' },\n"
            "  'discriminator': 'color', 'data': { 'red': 'Inner' } }\n")
        self.assertEqual(schema.types['Outer'].branches[0].type.tag.name, 'kind')

    def test_alternate_refused(self):
        def alternate(data):
            return self.COLOR + self.POINT + doc('A', '@s: x', '@t: x') + \
                f"{{ 'alternate': 'A', 'data': {data}\n}}"

        other = doc('B', '@s: x') + "{ 'alternate': 'B', 'data': { 's': 'str' } }\n"
        cases = (
            ('{}', 'at least one branch'),
            ("{ 's': 'str',\n 't': 'Nope' } # HERE", "there is no type 'Nope'"),
            ("{ 's': 'str',\n 't': 'any' } # HERE", 'cannot be told apart'),
            ("{ 's': 'str',\n 't': 'Color' } # HERE", 'are both string in JSON'),
            ("{ 's': 'Point',\n 't': 'Point' } # HERE", 'are both object in JSON'),
            ("{ 's': ['str'],\n 't': ['int'] } # HERE", 'are both array in JSON'),
            ("{ 's': 'int8',\n 't': 'size' } # HERE", 'are both int in JSON'),
            ("{ 's': 'str',\n 't': 'int' } # HERE", 'in key=value options'),
            ("{ 's': 'Color',\n 't': 'bool' } # HERE", 'in key=value options'),
            ("{ 't': 'number',\n 's': 'int' } # HERE", "'int' and 'number'"),
            ("{ 's': 'str',\n 'T': 'Point' } # HERE", "branch 'T' must be lower"),
        )
        for data, message in cases:
            with self.subTest(data):
                self.refuse(alternate(data), message)
        self.refuse(other + alternate("{ 's': 'str',\n 't': 'B' } # HERE"), 'cannot be told apart')

    def test_command_refused(self):
        cases = (
            ("{ 'command': 'c', 'data': 'Nope' } # HERE", "there is no type 'Nope'"),
            ("{ 'command': 'c', 'data': 'Color' } # HERE", "'Color' is no struct or union"),
            ("{ 'command': 'c', 'boxed': true } # HERE", "'boxed' needs 'data'"),
            ("{ 'command': 'c', 'boxed': true, 'data': {} } # HERE", 'needs a named type'),
            ("{ 'command': 'c', 'data': 'U' } # HERE", "needs 'boxed': true"),
            ("{ 'command': 'c', 'returns': 'Nope' } # HERE", "there is no type 'Nope'"),
            ("{ 'command': 'c', 'returns': 'str' } # HERE", 'must return an object'),
            ("{ 'command': 'c', 'returns': ['int'] } # HERE", 'must return an object'),
            ("{ 'command': 'c', 'returns': 'Color' } # HERE", 'must return an object'),
            ("{ 'command': 'c', 'data': { 'x': 'int',\n '*x': 'str' } }", "clashes"),
        )
        for text, message in cases:
            with self.subTest(text):
                self.refuse(self.union() + doc('c') + text, message)
        self.refuse(self.union() + doc('EV') + "{ 'event': 'EV', 'data': 'U' } # HERE",
                    "needs 'boxed': true")


class TestDefaultsAndRanges(GeneratorTest):
    """The extension for members: default, min, max."""

    def member(self, name, fields):
        """A schema with one such member."""
        return TestTypes.COLOR + doc('S', '@m: x') + \
            f"{{ 'struct': 'S', 'data': {{\n '{name}': {{ {fields} }} }} }} # HERE"

    def test_taken(self):
        for fields, expected in (
                ("'type': 'int', 'default': -1", -1), ("'type': 'size', 'default': 0x400", 1024),
                ("'type': 'bool', 'default': true", True), ("'type': 'str', 'default': ''", ''),
                ("'type': 'number', 'default': 1", 1), ("'type': 'number', 'default': 1.5", 1.5),
                ("'type': 'Color', 'default': 'blue'", 'blue'),
                ("'type': 'uint8', 'default': 5, 'min': 5, 'max': 5", 5),
                ("'type': 'int', 'min': -9223372036854775808", None)):
            with self.subTest(fields):
                schema = self.load(self.member('*m', fields))
                self.assertEqual(schema.types['S'].members[0].default, expected)

    def test_refused(self):
        for fields, message in (
                ("'type': 'int', 'default': 'x'", "must be of type 'int'"),
                ("'type': 'int', 'default': 1.5", "must be of type 'int'"),
                ("'type': 'int', 'default': true", "must be of type 'int'"),
                ("'type': 'int', 'default': null", "must be of type 'int'"),
                ("'type': 'int8', 'default': 128", "does not fit type 'int8'"),
                ("'type': 'size', 'default': -1", "does not fit type 'size'"),
                ("'type': 'bool', 'default': 1", "must be of type 'bool'"),
                ("'type': 'str', 'default': 1", "must be of type 'str'"),
                ("'type': 'Color', 'default': 'green'", "no value of 'Color'"),
                ("'type': 'Color', 'default': 1", "no value of 'Color'"),
                ("'type': 'any', 'default': 1", 'cannot have one'),
                ("'type': 'null', 'default': null", 'cannot have one'),
                ("'type': ['int'], 'default': 1", 'cannot have one'),
                ("'type': 'S', 'default': 1", 'cannot have one'),
                ("'type': 'int', 'default': 1, 'min': 2", 'outside its range'),
                ("'type': 'int', 'default': 3, 'max': 2", 'outside its range'),
                ("'type': 'number', 'default': 3, 'max': 2.5", 'outside its range'),
                ("'type': 'int', 'min': 3, 'max': 2", "'min' of 'm' is above its 'max'"),
                ("'type': 'uint8', 'min': -1", "does not fit type 'uint8'"),
                ("'type': 'uint8', 'max': 256", "does not fit type 'uint8'"),
                ("'type': 'int', 'min': 'x'", 'must be an integer'),
                ("'type': 'int', 'min': 0.5", 'must be an integer'),
                ("'type': 'number', 'max': 'x'", 'must be a number'),
                ("'type': 'str', 'max': 5", "'str' has no range"),
                ("'type': 'Color', 'min': 5", "'Color' has no range"),
                ("'type': ['int'], 'min': 5", 'has no range')):
            with self.subTest(fields):
                self.refuse(self.member('*m', fields), message)

    def test_default_makes_optional(self):
        self.refuse(self.member('m', "'type': 'int', 'default': 1"), "write '*m'")


class TestConditions(GeneratorTest):
    """'if' on everything that can have it."""

    def test_operators(self):
        for cond, expected in (("'A'", True), ("'B'", False), ("{ 'not': 'B' }", True),
                               ("{ 'all': ['A', 'B'] }", False), ("{ 'any': ['A', 'B'] }", True),
                               ("{ 'all': ['A', { 'not': { 'any': ['B'] } }] }", True)):
            with self.subTest(cond):
                schema = self.load(doc('c') + f"{{ 'command': 'c', 'if': {cond} }}", A=True, B=False)
                self.assertEqual(bool(schema.modules[0].of('command')), expected)

    def test_dropped_lists(self):
        schema = self.load(doc('Gone') + "{ 'struct': 'Gone', 'data': {}, 'if': 'OFF' }\n" +
                           doc('S', '@l: x') +
                           "{ 'struct': 'S', 'data': { 'l': [ 'Gone' ] }, 'if': 'OFF' }\n" +
                           TestTypes.POINT, OFF=False)
        self.assertNotIn('gone', dict(types.generate(schema))['types-main.c'])

    def test_dropped_parts(self):
        schema = self.load(
            doc('E', '@a: x', '@b: x') +
            "{ 'enum': 'E', 'data': [ 'a', { 'name': 'b', 'if': 'OFF' } ] }\n" +
            doc('Gone', '@m: x') + "{ 'struct': 'Gone', 'data': { 'm': 'Gone2' }, 'if': 'OFF' }\n" +
            doc('Gone2') + "{ 'struct': 'Gone2', 'data': { }, 'if': 'OFF' }\n" +
            doc('U', '@e: x', '@m: x') +
            "{ 'union': 'U', 'base': { 'e': 'E', 'm': { 'type': 'Gone', 'if': 'OFF' } },\n"
            "  'discriminator': 'e', 'data': { 'b': { 'type': 'Gone', 'if': 'OFF' } } }\n" +
            doc('A', '@s: x') +
            "{ 'alternate': 'A', 'data': { 's': 'str', 'o': { 'type': 'Gone', 'if': 'OFF' } } }\n" +
            doc('c', '@m: x', 'Features:', '@f: x') +
            "{ 'command': 'c', 'data': { 'm': { 'type': 'int', 'if': 'OFF' } },\n"
            "  'features': [ 'f', { 'name': 'g', 'if': 'OFF' } ] }\n" +
            doc('d') + "{ 'command': 'd', 'data': 'Gone', 'if': 'OFF' }\n" +
            doc('EV') + "{ 'event': 'EV', 'if': 'OFF' }\n", OFF=False)
        kept = [d.name for d in schema.modules[0].of('enum', 'object', 'alternate', 'command',
                                                     'event')]
        self.assertEqual(kept, ['E', 'U', 'A', 'c'])
        self.assertEqual([v.name for v in schema.types['E'].values], ['a'])
        self.assertEqual([m.name for m in schema.types['U'].members], ['e'])
        self.assertEqual(schema.types['U'].branches, [])
        self.assertEqual([b.name for b in schema.types['A'].branches], ['s'])
        self.assertEqual(schema.commands['c'].arg.members, [])
        self.assertEqual([f.name for f in schema.commands['c'].features], ['f'])

    def test_refused(self):
        gone = doc('Gone') + "{ 'struct': 'Gone', 'data': {}, 'if': { 'not': 'ON' } }\n"
        cases = (
            (doc('c') + "{ 'command': 'c', 'if': 'NEVER_HEARD' } # HERE",
             "the build defines no symbol 'NEVER_HEARD'"),
            (gone + doc('c') + "{ 'command': 'c', 'data': 'Gone' } # HERE",
             "type 'Gone' exists only if not ON"),
            (gone + doc('S') + "{ 'struct': 'S', 'data': {\n 'm': 'Gone' } } # HERE",
             "type 'Gone' exists only if not ON"),
            (gone + doc('S') + "{ 'struct': 'S', 'data': {\n"
             " 'm': { 'type': 'Nope', 'if': { 'not': 'ON' } } } } # HERE", "there is no type 'Nope'"),
            (doc('E') + "{ 'enum': 'E', 'data': [ { 'name': 'a', 'if': { 'not': 'ON' } } ] } # HERE",
             'has no values'),
            (doc('A') + "{ 'alternate': 'A', 'data': { 'a': { 'type': 'str',\n"
             "  'if': { 'not': 'ON' } } } }", 'at least one branch'),
        )
        for text, message in cases:
            with self.subTest(message):
                self.refuse(text, message, ON=True)


class TestModules(GeneratorTest):
    """Several files."""

    def test_includes(self):
        self.write(TestTypes.POINT, 'sub/a.json')
        self.write("{ 'include': 'a.json' }\n" + doc('B') +
                   "{ 'struct': 'B', 'base': 'Point', 'data': {} }", 'sub/b.json')
        schema = self.load("{ 'include': 'sub/b.json' }\n{ 'include': 'sub/a.json' }\n" +
                           doc('C', '@b: x') + "{ 'struct': 'C', 'data': { 'b': 'B' } }")
        self.assertEqual([m.name for m in schema.modules], ['a', 'b', 'main'])
        files = dict(types.generate(schema))
        self.assertIn('#include "qapi/types-a.h"', files['types-b.h'])
        self.assertNotIn('Point', files['types-main.h'])

    def test_refused(self):
        self.write("{ 'include': 'main.json' }\n", 'circle.json')
        self.write(TestTypes.POINT, 'point.json')
        self.write('', 'other/point.json')
        self.write(doc('S', '@p: x') + "{ 'struct': 'S', 'data': { 'p': 'Point' } }\n", 'late.json')
        self.write('\n\n%', 'broken.json')
        for text, message in (
                ("\n{ 'include': 'nowhere.json' } # HERE", 'cannot read it'),
                ("{ 'include': 'circle.json' }", 'includes itself'),
                ("{ 'include': 'main.json' } # HERE", 'includes itself'),
                ("{ 'include': 'point.json' }\n{ 'include': 'other/point.json' }",
                 'makes a module of the same name'),
                ("{ 'include': 'point.json' }\n{ 'include': 'late.json' }",
                 'which this file does not include'),
                ("{ 'include': 'broken.json' }", 'broken.json:3: unexpected character')):
            with self.subTest(text):
                self.refuse(text, message)

    def test_not_utf8(self):
        path = os.path.join(self.folder, 'main.json')
        with open(path, 'wb') as stream:
            stream.write(b'# \xff\n')
        with self.assertRaises(SchemaError):
            Schema(path, {})


class TestIntrospection(GeneratorTest):
    """What query-qmp-schema shows."""

    SCHEMA = (
        TestTypes.COLOR + TestTypes.POINT +
        doc('U', '@color: x', '@size: x', '@l: x', '@a: x', 'Features:', '@deprecated: x') +
        "{ 'union': 'U', 'base': { 'color': 'Color', '*l': [ 'uint8' ], '*a': 'A',\n"
        "  '*size': { 'type': 'size', 'default': 5, 'max': 9, 'features': [ 'deprecated' ] } },\n"
        "  'discriminator': 'color', 'data': { 'red': 'Point' } }\n" +
        doc('A', '@s: x', '@n: x') + "{ 'alternate': 'A', 'data': { 's': 'str', 'n': 'null' } }\n" +
        doc('go', 'Returns: all', 'Errors: none') +
        "{ 'command': 'go', 'data': 'U', 'boxed': true, 'returns': [ 'Point' ] }\n" +
        doc('stop') + "{ 'command': 'stop', 'allow-oob': true }\n" +
        doc('EV', '@i: x') + "{ 'event': 'EV', 'data': { 'i': 'int' } }\n" +
        doc('Unused') + "{ 'struct': 'Unused', 'data': {} }\n")

    def entries(self, readable):
        """Entries by name."""
        found = introspect.Introspection(self.load(self.SCHEMA), readable).entries
        by_name = {e['name']: e for e in found}
        self.assertEqual(len(found), len(by_name))
        return by_name

    def test_masked(self):
        entries = self.entries(False)
        go = entries['go']
        self.assertEqual(go['meta-type'], 'command')
        self.assertNotIn('allow-oob', go)
        self.assertTrue(entries['stop']['allow-oob'])
        self.assertEqual(entries['stop']['arg-type'], entries['stop']['ret-type'])
        self.assertEqual(entries[entries['stop']['arg-type']]['members'], [])
        self.assertTrue(all(n.strip('[]').isdigit() or n in ('go', 'stop', 'EV', 'int', 'str', 'null',
                                                             '[int]') for n in entries))
        union = entries[go['arg-type']]
        members = {m['name']: m for m in union['members']}
        self.assertEqual(union['tag'], 'color')
        self.assertEqual([v['case'] for v in union['variants']], ['red', 'blue'])
        self.assertEqual(entries[union['variants'][1]['type']]['members'], [])
        self.assertEqual(members['size'],
                         {'name': 'size', 'type': 'int', 'default': None,
                          'features': ['deprecated']})
        self.assertEqual(members['l']['type'], '[int]')
        self.assertNotIn('default', members['color'])
        enum = entries[members['color']['type']]
        self.assertEqual(enum['values'], ['red', 'blue'])
        self.assertEqual(enum['members'], [{'name': 'red'}, {'name': 'blue'}])
        alternate = entries[members['a']['type']]
        self.assertEqual(alternate['members'], [{'type': 'str'}, {'type': 'null'}])
        self.assertEqual(entries[go['ret-type']]['element-type'], go['ret-type'].strip('[]'))
        self.assertEqual(entries['int']['json-type'], 'int')

    def test_all_references_resolve(self):
        for readable in (False, True):
            entries = self.entries(readable)
            for entry in entries.values():
                refs = [entry.get(k) for k in ('arg-type', 'ret-type', 'element-type')]
                refs += [m['type'] for m in entry.get('members', []) if 'type' in m]
                refs += [v['type'] for v in entry.get('variants', [])]
                for ref in filter(None, refs):
                    self.assertIn(ref, entries)

    def test_readable(self):
        entries = self.entries(True)
        self.assertEqual(entries['go']['arg-type'], 'U')
        self.assertEqual(entries['go']['doc'], 'What it is.')
        self.assertEqual(entries['go']['ret-doc'], 'all')
        self.assertEqual(entries['go']['err-doc'], 'none')
        size = next(m for m in entries['U']['members'] if m['name'] == 'size')
        self.assertEqual((size['type'], size['default'], size['max'], size['doc']),
                         ('size', 5, 9, 'x'))
        self.assertNotIn('Unused', entries)

    def test_c_text(self):
        files = dict(introspect.generate(self.load(self.SCHEMA)))
        self.assertIn("\"{'name': 'stop', 'meta-type': 'command'", files['introspect.c'])
        self.assertIn('qapi_event_names[]', files['introspect.h'])
        self.assertTrue(all(len(line) <= 100 for line in files['introspect.c'].split('\n')))

    def test_plain(self):
        self.assertEqual(introspect.plain(['a', 'b', '', 'c', '- d', '- e']), 'a b\nc\n- d\n- e')
        self.assertEqual(introspect.plain(['a', '- b', '  c', '  d', '- e', '', '    f', '    g']),
                         'a\n- b c d\n- e\n\n    f\n    g')


class TestReference(GeneratorTest):
    """The reference page."""

    SCHEMA = (
        '##\n# = Things\n#\n# All about @things.\n##\n\n' + TestTypes.COLOR + TestTypes.POINT +
        doc('U', '@color: x', '@size: a size; see @color', 'Features:', '@deprecated: old') +
        "{ 'union': 'U', 'discriminator': 'color', 'base': { 'color': 'Color',\n"
        "  '*size': { 'type': 'size', 'default': 5, 'max': 9, 'features': [ 'deprecated' ] } },\n"
        "  'data': { 'red': 'Point' } }\n" +
        '##\n# @go-on:\n#\n# Go child<X>.\n#\n#     { "a": "@b<c>" }\n#\n# @points: some\n#\n'
        '# Returns: a union\n#\n# Errors: none\n#\n# Since: 0.1\n##\n'
        "{ 'command': 'go-on', 'data': { '*points': [ 'Point' ] }, 'returns': 'U' }\n" +
        doc('EV') + "{ 'event': 'EV', 'data': 'Point' }\n")

    def test_page(self):
        page = reference.generate(self.load(self.SCHEMA))
        for part in ('\n- [Things](#things)\n  - commands: [go-on](#go-on)\n  - events: [EV](#ev)\n',
                     '\n## Things\n\nAll about `things`.\n',
                     '\n### go-on\n\n*Command, since 0.1*\n\nGo child&lt;X>.\n\n'
                     '    { "a": "@b<c>" }\n\n**Arguments:**\n\n'
                     '- **points** (list of [Point](#point), optional): some\n\n'
                     '**Returns:** [U](#u); a union\n\n**Errors:** none\n',
                     '\n**Data:** the members of [Point](#point)\n',
                     '\n- **size** (`size`, default `5`, at most 9, deprecated): a size; see `color`\n',
                     '\n**Further members**, by `color`:\n\n- `red`: those of [Point](#point)\n',
                     '\n- `red`: x\n- `blue`: x\n'):
            self.assertIn(part, page)

    def test_links_lead_somewhere(self):
        schema = Schema(os.path.join(ROOT, 'qapi/schema/wharf.json'),
                        {'CONFIG_FUSE': True, 'CONFIG_IO_URING': True})
        page = reference.generate(schema)
        targets = {reference.anchor(h.replace(' ', '-'))
                   for h in re.findall(r'^##+ (.*)$', page, re.MULTILINE)}
        self.assertEqual(set(re.findall(r'\]\((#[^)]*)\)', page)) - targets, set())


class TestMain(GeneratorTest):
    """The program."""

    def run_main(self, *args):
        """Exit status and what it says on stderr."""
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            status = main.main(list(args))
        return status, err.getvalue()

    def test_writes_only_changes(self):
        path = self.write(TestTypes.POINT + doc('c') + "{ 'command': 'c' }\n")
        out = os.path.join(self.folder, 'out')
        self.assertEqual(self.run_main('-o', out, path), (0, ''))
        files = sorted(os.listdir(out))
        self.assertEqual(files, ['commands-main.c', 'commands-main.h', 'convert-main.h',
                                 'introspect.c', 'introspect.h', 'types-main.c', 'types-main.h'])
        for name in files:
            os.utime(os.path.join(out, name), (1, 1))
        self.write(TestTypes.POINT + doc('c') + "{ 'command': 'c' }\n" + doc('d') +
                   "{ 'command': 'd' }\n")
        self.assertEqual(self.run_main('-o', out, path), (0, ''))
        changed = [n for n in files if os.stat(os.path.join(out, n)).st_mtime != 1]
        self.assertEqual(changed, ['commands-main.c', 'commands-main.h', 'introspect.c'])

    def test_reference(self):
        path = self.write(TestTypes.POINT)
        page = os.path.join(self.folder, 'docs', 'rpc.md')
        self.assertEqual(self.run_main('-r', page, path), (0, ''))
        with open(page, encoding='utf-8') as stream:
            self.assertIn('### Point', stream.read())

    def test_error(self):
        path = self.write('\n%')
        status, err = self.run_main('-o', self.folder, path)
        self.assertEqual(status, 1)
        self.assertTrue(err.startswith(f'{path}:2: unexpected character'))

    def test_symbols(self):
        path = self.write(doc('c') + "{ 'command': 'c', 'if': 'CONFIG_X' }\n")
        out = os.path.join(self.folder, 'out')
        self.assertEqual(self.run_main('-D', 'CONFIG_X=0', '-o', out, path)[0], 0)
        self.assertNotIn('commands-main.c', os.listdir(out))
        self.assertEqual(self.run_main('-D', 'CONFIG_X=1', '-o', out, path)[0], 0)
        self.assertIn('commands-main.c', os.listdir(out))
        with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
            main.main(['-D', 'CONFIG_X', '-o', out, path])


class TestGeneratedText(GeneratorTest):
    """That generated C stays readable."""

    def test_real_schema(self):
        schema = Schema(os.path.join(ROOT, 'qapi/schema/wharf.json'),
                        {'CONFIG_FUSE': True, 'CONFIG_IO_URING': True})
        for generator in (types, commands, events, introspect):
            for name, text in generator.generate(schema):
                self.assertTrue(text.startswith('/* SPDX-License-Identifier: GPL-2.0-or-later */\n'))
                self.assertNotIn('\t', text)
                self.assertNotIn('\n\n\n', text)
                for line in text.split('\n'):
                    self.assertEqual(line, line.rstrip(), name)
                    self.assertLessEqual(len(line), 100, f'{name}: {line}')

    def test_comment(self):
        schema = self.load('##\n# @S:\n#\n# Ends */ early.\n#\n# @m: a /* b\n#\n# Since: 1\n##\n'
                           "{ 'struct': 'S', 'data': { 'm': 'int' } }")
        text = dict(types.generate(schema))['types-main.h']
        self.assertIn('Ends * / early.', text)
        self.assertIn('a / * b', text)


if __name__ == '__main__':
    unittest.main()
