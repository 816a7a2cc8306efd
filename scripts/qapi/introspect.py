# SPDX-License-Identifier: GPL-2.0-or-later
"""
introspect.h and introspect.c: what query-qmp-schema answers.

The names of types are no interface, so they come out as numbers; a client follows them and relies on
the names of members only.
"""

import json
import re

from . import ctext
from .builtin import BUILTINS
from .ctext import CFile, HeaderFile, string

JSON_BUILTINS = {'int': 'int', 'number': 'number', 'string': 'str', 'boolean': 'bool',
                 'null': 'null', 'value': 'any'}


class Introspection:
    """
    Collects the entries in the order in which commands and events need them. @readable gives types
    their names and adds what help for people needs: doc, min, max, and defaults with their value.
    """

    def __init__(self, schema, readable=False):
        self.entries = []
        self._readable = readable
        self._names = {}                 # type -> its name here
        self._queue = []
        for module in schema.modules:
            for definition in module.of('command', 'event'):
                self._add_callable(definition)
            if readable:
                # Also those that only the command line reads: it has help, too.
                for definition in module.of('struct', 'union', 'object'):
                    self._name(definition)
        while self._queue:
            type_ = self._queue.pop(0)
            getattr(self, f'_add_{type_.meta}')(type_)

    def _name(self, type_):
        """The name of @type_ here; it gets an entry when first asked for."""
        if type_ is None or (type_.meta == 'object' and type_.is_empty):
            type_ = EMPTY
        if type_.meta == 'builtin' and not self._readable:
            type_ = BUILTINS[JSON_BUILTINS[type_.json_type]]
        if type_ in self._names:
            return self._names[type_]
        if type_.meta == 'array':
            name = f'[{self._name(type_.element)}]'
            if name in self._names.values():       # of int, where the element is size, say
                return name
        elif type_.meta == 'builtin' or self._readable:
            name = type_.name
        else:
            name = str(sum(t.meta not in ('array', 'builtin') for t in self._names))
        self._names[type_] = name
        self._queue.append(type_)
        return name

    def _add(self, meta, name, entry, definition=None):
        entry = {'name': name, 'meta-type': meta, **entry}
        if definition and definition.features:
            entry['features'] = [f.name for f in definition.features]
        if definition:
            self._document(entry, definition)
        self.entries.append(entry)

    def _document(self, entry, definition):
        doc = definition.doc
        if not self._readable or not doc:
            return
        entry['doc'] = plain(doc.body.text())
        for section, key in (('Returns', 'ret-doc'), ('Errors', 'err-doc')):
            if section in doc.sections:
                entry[key] = plain(doc.sections[section].text())

    def _add_callable(self, definition):
        entry = {'arg-type': self._name(definition.arg)}
        if definition.meta == 'command':
            entry['ret-type'] = self._name(definition.ret)
            if definition.allow_oob:
                entry['allow-oob'] = True
        self._add(definition.meta, definition.name, entry, definition)

    def _add_builtin(self, type_):
        self._add('builtin', self._names[type_], {'json-type': type_.json_type})

    def _add_array(self, type_):
        element = self._name(type_.element)
        self._add('array', f'[{element}]', {'element-type': element})

    def _item(self, entry, item):
        """Add what members and values have in common."""
        if item.features:
            entry['features'] = [f.name for f in item.features]
        if self._readable and item.doc:
            entry['doc'] = plain(item.doc)
        return entry

    def _add_enum(self, enum):
        members = [self._item({'name': v.name}, v) for v in enum.values]
        self._add('enum', self._names[enum],
                  {'members': members, 'values': [v.name for v in enum.values]}, enum)

    def _member(self, member):
        entry = {'name': member.name, 'type': self._name(member.type)}
        if member.optional:
            entry['default'] = member.default if self._readable else None
        if self._readable:
            entry.update({k: getattr(member, k) for k in ('min', 'max')
                          if getattr(member, k) is not None})
        return self._item(entry, member)

    def _add_object(self, obj):
        entry = {'members': [self._member(m) for m in obj.all_members()]}
        if obj.tag:
            types = {b.name: b.type for b in obj.branches}
            entry['tag'] = obj.tag.name
            entry['variants'] = [{'case': v.name, 'type': self._name(types.get(v.name))}
                                 for v in obj.tag.type.values]
        self._add('object', self._names[obj], entry, obj)

    def _add_alternate(self, alternate):
        members = [{'type': self._name(b.type)} for b in alternate.branches]
        if self._readable:
            members = [self._item(m, b) for m, b in zip(members, alternate.branches)]
        self._add('alternate', self._names[alternate], {'members': members}, alternate)


def plain(lines):
    """Paragraphs of a doc comment as one string: a line a paragraph or item of a list."""
    text = ''
    in_item = False
    for line in lines:
        in_item = line.startswith('- ') or (in_item and line.startswith('  '))
        goes_on = in_item and not line.startswith('- ')
        if not goes_on and (not line.strip() or line.startswith((' ', '- '))):
            text += '\n' + line
        else:
            text += ('' if not text or text.endswith('\n') else ' ') + line.strip()
    return text


INTROSPECT_DOC = [
    'The schema as an array of SchemaInfo, a new reference.', '',
    '@readable false gives what query-qmp-schema answers: types are called by numbers, for their',
    'names are no interface. @readable true is for help and rpc.discover: types have their names, the',
    'builtin ones, too; a "default" that the schema knows has its value; members have "min" and "max";',
    'everything has "doc", commands also "ret-doc" and "err-doc". An end of line in a doc is the end of',
    'a paragraph.']


class _Empty:
    """The object without members, which commands without arguments or result refer to."""
    meta = 'object'
    name = 'Empty'
    features = ()
    doc = None
    tag = None

    @staticmethod
    def all_members():
        """None."""
        return []


EMPTY = _Empty()


def _dump(value):
    """JSON in QMP's dialect: single quotes, which C strings need not escape."""
    if isinstance(value, dict):
        return '{' + ', '.join(f'{_dump(k)}: {_dump(v)}' for k, v in value.items()) + '}'
    if isinstance(value, list):
        return '[' + ', '.join(map(_dump, value)) + ']'
    text = json.dumps(value)
    if not isinstance(value, str):
        return text
    return "'" + text[1:-1].replace('\\"', '"').replace("'", "\\'") + "'"


def _string_lines(text, width=86):
    """@text as C string literals that follow each other, broken at blanks."""
    pieces = re.findall(rf'.{{1,{width}}}(?:(?<= )|$)|\S+ ?', text)
    assert ''.join(pieces) == text
    return [f'    {string(p)}' for p in pieces[:-1]] + [f'    {string(pieces[-1])},']


def _table(name, entries):
    lines = [f'static const char *const {name}[] = {{']
    for entry in entries:
        lines += _string_lines(_dump(entry))
    return lines + ['};']


def generate(schema):
    """Yield (file name, text)."""
    header = HeaderFile('introspect.h', ['the schema, for programs that ask for it.', '',
                                         'Any thread.'], ['qapi/qvalue.h'])
    header.block([
        *ctext.comment(INTROSPECT_DOC),
        'QValue *qapi_introspect(bool readable);'])
    header.block(['/* The names of all events of the schema; NULL after the last. */',
                  'extern const char *const qapi_event_names[];'])
    source = CFile('introspect.c', ['the schema, for programs that ask for it.'])
    source.add('#include "qapi/introspect.h"', '', '#include "qapi/json-parser.h"')
    source.block(_table('masked', Introspection(schema).entries))
    source.block(_table('named', Introspection(schema, readable=True).entries))
    source.block(['QValue *qapi_introspect(bool readable)', '{',
                  '    const char *const *entries = readable ? named : masked;',
                  '    gsize n = readable ? G_N_ELEMENTS(named) : G_N_ELEMENTS(masked);',
                  '    QValue *array = qvalue_array();', '',
                  '    for (gsize i = 0; i < n; i++) {',
                  '        QValue *entry = qvalue_from_json(entries[i], -1, NULL);', '',
                  '        g_assert(entry);',
                  '        qvalue_array_append(array, entry);', '    }',
                  '    return array;', '}'])
    source.block(['const char *const qapi_event_names[] = {',
                  *(f'    {string(event.name)},' for module in schema.modules
                    for event in module.of('event')),
                  '    NULL,', '};'])
    yield header.name, header.text()
    yield source.name, source.text()
