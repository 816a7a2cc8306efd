# SPDX-License-Identifier: GPL-2.0-or-later
"""
introspect.h and introspect.c: what query-qmp-schema answers.

The names of types are no interface, so they come out as numbers; a client follows them and relies on
the names of members only.
"""

import json

from .ctext import CFile, HeaderFile, string

JSON_BUILTINS = {'int': 'int', 'number': 'number', 'string': 'str', 'boolean': 'bool',
                 'null': 'null', 'value': 'any'}


class Introspection:
    """Collects the entries in the order in which commands and events need them."""

    def __init__(self, schema):
        self.entries = []
        self._numbers = {}
        self._queue = []
        self._empty = None
        for module in schema.modules:
            for definition in module.of('command', 'event'):
                self._add_callable(definition)
        while self._queue:
            type_ = self._queue.pop(0)
            getattr(self, f'_add_{type_.meta}')(type_)

    def _name(self, type_):
        """The name of @type_ here; it gets an entry when first asked for."""
        if type_ is None or (type_.meta == 'object' and type_.is_empty):
            type_ = None
        if type_ is not None and type_.meta == 'builtin':
            name = JSON_BUILTINS[type_.json_type]
            key = name
        elif type_ is not None and type_.meta == 'array':
            name = f'[{self._name(type_.element)}]'
            key = name
        else:
            key = type_
            name = self._numbers.get(key, str(len([k for k in self._numbers
                                                   if not isinstance(k, str)])))
        if key not in self._numbers:
            self._numbers[key] = name
            self._queue.append(type_ if type_ is not None else _EMPTY)
        return name

    def _add(self, meta, name, entry, features=()):
        entry = {'name': name, 'meta-type': meta, **entry}
        if features:
            entry['features'] = [f.name for f in features]
        self.entries.append(entry)

    def _add_callable(self, definition):
        entry = {'arg-type': self._name(definition.arg)}
        if definition.meta == 'command':
            entry['ret-type'] = self._name(definition.ret)
            if definition.allow_oob:
                entry['allow-oob'] = True
        self._add(definition.meta, definition.name, entry, definition.features)

    def _add_builtin(self, type_):
        self._add('builtin', JSON_BUILTINS[type_.json_type], {'json-type': type_.json_type})

    def _add_array(self, type_):
        element = self._name(type_.element)
        self._add('array', f'[{element}]', {'element-type': element})

    def _add_enum(self, enum):
        members = []
        for value in enum.values:
            member = {'name': value.name}
            if value.features:
                member['features'] = [f.name for f in value.features]
            members.append(member)
        self._add('enum', self._numbers[enum],
                  {'members': members, 'values': [v.name for v in enum.values]}, enum.features)

    def _member(self, member):
        entry = {'name': member.name, 'type': self._name(member.type)}
        if member.optional:
            entry['default'] = None
        if member.features:
            entry['features'] = [f.name for f in member.features]
        return entry

    def _add_object(self, obj):
        entry = {'members': [self._member(m) for m in obj.all_members()]}
        if obj.tag:
            types = {b.name: b.type for b in obj.branches}
            entry['tag'] = obj.tag.name
            entry['variants'] = [{'case': v.name, 'type': self._name(types.get(v.name))}
                                 for v in obj.tag.type.values]
        name = self._numbers[None if obj is _EMPTY else obj]
        self._add('object', name, entry, obj.features)

    def _add_alternate(self, alternate):
        self._add('alternate', self._numbers[alternate],
                  {'members': [{'type': self._name(b.type)} for b in alternate.branches]},
                  alternate.features)


class _Empty:
    """The object without members, which commands without arguments or result refer to."""
    meta = 'object'
    features = ()
    tag = None

    @staticmethod
    def all_members():
        """None."""
        return []


_EMPTY = _Empty()


def generate(schema):
    """Yield (file name, text)."""
    header = HeaderFile('introspect.h', ['what query-qmp-schema answers.', '',
                                         'Any thread.'], ['qapi/qvalue.h'])
    header.block(['/* The schema as an array of SchemaInfo; a new reference. */',
                  'QValue *qapi_introspect(void);'])
    source = CFile('introspect.c', ['what query-qmp-schema answers.'])
    source.add('#include "qapi/introspect.h"', '', '#include "qapi/json-parser.h"')
    entries = [json.dumps(e) for e in Introspection(schema).entries]
    lines = ['static const char *const entries[] = {']
    for entry in entries:
        lines += _string_lines(entry)
    source.block(lines + ['};'])
    source.block(['QValue *qapi_introspect(void)', '{',
                  '    QValue *array = qvalue_array();', '',
                  '    for (unsigned i = 0; i < G_N_ELEMENTS(entries); i++) {',
                  '        QValue *entry = qvalue_from_json(entries[i], -1, NULL);', '',
                  '        g_assert(entry);',
                  '        qvalue_array_append(array, entry);', '    }',
                  '    return array;', '}'])
    yield header.name, header.text()
    yield source.name, source.text()


def _string_lines(text, width=90):
    pieces = []
    while text:
        pieces.append(text[:width])
        text = text[width:]
    return [f'    {string(p)}' for p in pieces[:-1]] + [f'    {string(pieces[-1])},']
