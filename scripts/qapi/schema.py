# SPDX-License-Identifier: GPL-2.0-or-later
"""
The schema as a checked model.

Schema(file, symbols) reads a schema and what it includes, resolves names and conditions, and refuses
what contradicts itself or is not documented. What a false condition guards is checked like the rest
and then left out, so generated code has no preprocessor conditions.
"""

import os

from . import names
from .builtin import BUILTINS, check_bound, check_default
from .describe import attach_doc
from .doc import FreeDoc, parse_doc
from .error import Info, SchemaError
from .lexer import ExpressionReader, List, Object
from .model import AlternateType, ArrayType, Branch, Command, EnumType, Event, Feature, Member, \
    Module, ObjectType, Pragma, Value
from .syntax import KINDS, check_expression, check_member_name, check_type_name, \
    describe_condition, evaluate_condition


class Schema:
    """Everything in @file and its includes. @symbols: name -> bool, what conditions may name."""

    def __init__(self, file, symbols=None):
        self.symbols = dict(symbols or {})
        self.pragma = Pragma()
        self.modules = []
        self.types = dict(BUILTINS)
        self.arrays = {}
        self.commands = {}
        self.events = {}
        self._exprs = []                 # (module, expr, doc) in order
        self._dropped = set()            # names of types left out by their condition
        self._doc_of = {}
        self._constants = {}             # C constant -> the enumeration that has it
        self._owner = None               # the definition being looked at
        self._load(file)
        self._declare()
        self._define()
        self._check_circles()

    # -- Reading files

    def _load(self, file, stack=(), info=None):
        file = os.path.normpath(file)
        known = next((m for m in self.modules if m.file == file), None)
        if known:
            return known
        if file in stack:
            raise SchemaError(info, f"'{file}' includes itself, by way of others perhaps")
        try:
            with open(file, encoding='utf-8') as stream:
                text = stream.read()
        except OSError as err:
            raise SchemaError(info or Info(file, 1), f'cannot read it: {err.strerror}') from err
        except UnicodeDecodeError as err:
            raise SchemaError(Info(file, 1), 'is not UTF-8') from err
        module = Module(os.path.splitext(os.path.basename(file))[0], file)
        self._read_items(module, text, stack + (file,))
        clash = next((m for m in self.modules if m.name == module.name), None)
        if clash:
            raise SchemaError(Info(file, 1), f"'{clash.file}' makes a module of the same name")
        self.modules.append(module)
        return module

    def _read_items(self, module, text, stack):
        doc = None
        for kind, info, item in ExpressionReader(text, module.file).items():
            if kind == 'doc':
                self._check_doc_used(doc)
                doc = parse_doc(info, item)
                if isinstance(doc, FreeDoc):
                    self._exprs.append((module, None, doc))
                    doc = None
                continue
            if 'include' in item or 'pragma' in item:
                self._check_doc_used(doc)
                self._read_directive(module, item, stack)
                continue
            check_expression(item)
            self._exprs.append((module, item, doc))
            doc = None
        self._check_doc_used(doc)

    @staticmethod
    def _check_doc_used(doc):
        if doc:
            raise SchemaError(doc.info, f"no definition of '{doc.name}' follows its documentation")

    def _read_directive(self, module, expr, stack):
        key = 'include' if 'include' in expr else 'pragma'
        if len(expr) != 1:
            raise SchemaError(expr.info, f"'{key}' stands alone")
        if key == 'pragma':
            if not isinstance(expr['pragma'], Object):
                raise SchemaError(expr.info, "'pragma' must be an object")
            self.pragma.add(expr)
            return
        if not isinstance(expr['include'], str):
            raise SchemaError(expr.info, "'include' must be a file name")
        file = os.path.join(os.path.dirname(module.file), expr['include'])
        included = self._load(file, stack, expr.info)
        if included not in module.includes:
            module.includes.append(included)

    # -- First pass: names

    def _declare(self):
        """Make all definitions, also those that are left out, so that references can be checked."""
        for module, expr, doc in self._exprs:
            if expr is None:
                module.contents.append(doc)
                continue
            kind = next(k for k in KINDS if k in expr)
            name = expr[kind]
            if not doc:
                raise SchemaError(expr.info, f"{kind} '{name}' is not documented")
            if doc.name != name:
                raise SchemaError(doc.info, f"documentation of '{doc.name}' stands before "
                                            f"{kind} '{name}'")
            definition = self._make(kind, name, expr, module)
            self._doc_of[definition] = doc
            self._register(kind, definition)
            if self._holds(expr):
                module.contents.append(definition)
            elif kind not in ('command', 'event'):
                self._dropped.add(name)

    def _make(self, kind, name, expr, module):
        info = expr.info_of(kind)
        if kind == 'enum':
            check_type_name(name, info)
            definition = EnumType(name, info, module, expr.get('prefix'))
        elif kind in ('struct', 'union'):
            check_type_name(name, info)
            definition = ObjectType(name, info, module)
        elif kind == 'alternate':
            check_type_name(name, info)
            definition = AlternateType(name, info, module)
        elif kind == 'command':
            if not self.pragma.allows('command-name-exceptions', name):
                check_member_name(name, info, 'command')
            definition = Command(name, info, module)
        else:
            if name != name.upper():
                raise SchemaError(info, f"name of event '{name}' must be in upper case")
            definition = Event(name, info, module)
        definition.expr = expr
        return definition

    def _register(self, kind, definition):
        where = {'command': self.commands, 'event': self.events}.get(kind, self.types)
        other = where.get(definition.name)
        if other:
            at = f', first at {other.info}' if other.info else ', a builtin type'
            raise SchemaError(definition.info, f"'{definition.name}' is defined twice{at}")
        clash = next((d for d in where.values() if d.snake == definition.snake), None)
        if clash:
            raise SchemaError(definition.info,
                              f"'{definition.name}' and '{clash.name}' are the same name in C")
        where[definition.name] = definition

    # -- Second pass: contents

    def _define(self):
        definitions = [d for d in (*self.types.values(), *self.commands.values(),
                                   *self.events.values()) if d.info]
        order = {'enum': 0, 'object': 1, 'alternate': 2, 'command': 3, 'event': 3}
        definitions.sort(key=lambda d: order[d.meta])
        objects = [d for d in definitions if d.meta == 'object']
        for definition in definitions:
            self._owner = definition
            definition.features = self._features(definition.expr)
            getattr(self, f'_define_{definition.meta}')(definition, definition.expr)
        for definition in objects:
            self._owner = definition
            self._define_branches(definition, definition.expr)
        for definition in objects:
            self._check_names(definition, {}, definition.info, [])
        for definition in definitions:
            if definition.meta == 'alternate':
                self._check_alternate(definition)
            attach_doc(definition, self._doc_of[definition])
        for definition in objects:
            if 'union' in definition.expr:
                self._prune_branches(definition)

    def _holds(self, expr):
        if not isinstance(expr, Object) or 'if' not in expr:
            return True
        return evaluate_condition(expr['if'], self.symbols, expr.info_of('if'))

    def _features(self, expr):
        features = []
        for item, info in zip(expr.get('features', []),
                              getattr(expr.get('features'), 'infos', [])):
            name = item['name'] if isinstance(item, Object) else item
            check_member_name(name, info, 'feature')
            if any(f.name == name for f in features):
                raise SchemaError(info, f"feature '{name}' stands here twice")
            if self._holds(item):
                features.append(Feature(name, info))
        return features

    def _type(self, ref, info, where):
        """The type that @ref ('Name' or ['Name']) means."""
        name = ref[0] if isinstance(ref, List) else ref
        type_ = self.types.get(name)
        if not type_:
            raise SchemaError(info, f"{where}: there is no type '{name}'")
        if type_.module and type_.module not in self._visible(self._owner.module):
            raise SchemaError(info, f"{where}: '{name}' is defined in {type_.module.file}, which "
                                    'this file does not include')
        if name in self._dropped and self._holds(self._owner.expr):
            raise SchemaError(info, f"{where}: type '{name}' exists only if "
                                    f"{describe_condition(type_.expr['if'])}")
        if not isinstance(ref, List):
            return type_
        if type_.name == 'null':
            raise SchemaError(info, f'{where}: a list of null makes no sense')
        if not self._holds(self._owner.expr):
            return ArrayType(type_)
        return self.arrays.setdefault(name, ArrayType(type_))

    @staticmethod
    def _visible(module):
        """@module and all it includes, directly or not."""
        seen, queue = set(), [module]
        while queue:
            module = queue.pop()
            if module not in seen:
                seen.add(module)
                queue += module.includes
        return seen

    def _define_enum(self, enum, expr):
        constants = {}
        for item, info in zip(expr['data'], expr['data'].infos):
            if not isinstance(item, Object):
                item_name, features = item, []
            else:
                item_name, features = item['name'], self._features(item)
            if not self.pragma.allows('member-name-exceptions', enum.name):
                check_member_name(item_name, info, 'value', digits=True)
            clash = constants.setdefault(names.constant(item_name), item_name)
            if any(v.name == item_name for v in enum.all_values):
                raise SchemaError(info, f"value '{item_name}' stands here twice")
            if clash != item_name:
                raise SchemaError(info, f"values '{clash}' and '{item_name}' are the same name in C")
            value = Value(item_name, info, features)
            enum.all_values.append(value)
            if self._holds(item):
                enum.values.append(value)
                self._claim_constant(enum, item_name, info)
        if not enum.values:
            raise SchemaError(expr.info_of('data'), f"enum '{enum.name}' has no values")

    def _claim_constant(self, enum, name, info):
        constant = enum.constant(name)
        other = self._constants.setdefault(constant, enum)
        if other is not enum:
            raise SchemaError(info, f"value '{name}' becomes {constant} in C, which "
                                    f"'{other.name}' has, too; one of them needs a 'prefix'")

    def _members(self, data, owner):
        """The members that the object @data of @owner lists."""
        members = []
        for key, item in data.items():
            info = data.info_of(key)
            optional = key.startswith('*')
            name = key.lstrip('*') if optional else key
            if key.startswith('**'):
                raise SchemaError(info, f"bad member name '{key}'")
            if not self.pragma.allows('member-name-exceptions', owner):
                check_member_name(name, info, 'member')
            if name.replace('-', '_').startswith('has_'):
                raise SchemaError(info, f"member name '{name}' is needed by the generated code")
            ref = item['type'] if isinstance(item, Object) else item
            type_ = self._type_if_holds(item, ref, info, f"member '{name}'")
            features = self._features(item) if isinstance(item, Object) else []
            member = Member(name, type_, info, optional, features)
            if isinstance(item, Object):
                self._set_bounds(member, item)
            member.holds = self._holds(item)
            members.append(member)
        return members

    def _type_if_holds(self, item, ref, info, where):
        """The type; one that is left out is fine for a member that is left out, too."""
        if self._holds(item):
            return self._type(ref, info, where)
        name = ref[0] if isinstance(ref, List) else ref
        if name not in self.types:
            raise SchemaError(info, f"{where}: there is no type '{name}'")
        return self.types[name]

    @staticmethod
    def _set_bounds(member, item):
        for key in ('min', 'max'):
            if key in item:
                setattr(member, key, check_bound(member, key, item[key], item.info_of(key)))
        if member.min is not None and member.max is not None and member.min > member.max:
            raise SchemaError(item.info_of('min'), f"'min' of '{member.name}' is above its 'max'")
        if 'default' in item:
            info = item.info_of('default')
            if not member.optional:
                raise SchemaError(info, f"'{member.name}' has a default, so it must be optional: "
                                        f"write '*{member.name}'")
            member.default = check_default(member, item['default'], info)
            member.has_default = True

    def _define_object(self, obj, expr):
        obj.declared = []
        if isinstance(expr.get('base'), str):
            info = expr.info_of('base')
            obj.base = self._object_type(expr['base'], info, "'base'")
            if 'union' in obj.base.expr:
                raise SchemaError(info, 'a union cannot be a base')
        own = expr['data'] if 'struct' in expr else expr['base']
        if isinstance(own, Object):
            obj.declared = self._members(own, obj.name)
        obj.members = [m for m in obj.declared if m.holds]

    def _object_type(self, ref, info, where):
        type_ = self._type(ref, info, where)
        if type_.meta != 'object':
            raise SchemaError(info, f"{where}: '{ref}' is no struct or union")
        return type_

    def _define_branches(self, union, expr):
        if 'union' not in expr:
            return
        info = expr.info_of('discriminator')
        self._check_base_circle(union)
        tag = next((m for m in union.all_members() if m.name == expr['discriminator']), None)
        if not tag:
            raise SchemaError(info, f"'base' has no member '{expr['discriminator']}'")
        if tag.type.meta != 'enum':
            raise SchemaError(info, f"discriminator '{tag.name}' must be of an enumeration type")
        if tag.optional and not tag.has_default:
            raise SchemaError(info, f"discriminator '{tag.name}' must not be optional, "
                                    "unless it has a default")
        union.tag = tag
        if not expr['data']:
            raise SchemaError(expr.info_of('data'), 'a union needs at least one branch')
        for value, item in expr['data'].items():
            at = expr['data'].info_of(value)
            ref = item['type'] if isinstance(item, Object) else item
            if not any(v.name == value for v in tag.type.all_values):
                raise SchemaError(at, f"'{value}' is no value of enumeration '{tag.type.name}'")
            if not isinstance(ref, str):
                raise SchemaError(at, f"branch '{value}' cannot be a list")
            type_ = self._type_if_holds(item, ref, at, f"branch '{value}'")
            if type_.meta != 'object':
                raise SchemaError(at, f"branch '{value}': '{ref}' is no struct or union")
            branch = Branch(value, type_, at)
            branch.holds = self._holds(item)
            union.branches.append(branch)

    @staticmethod
    def _prune_branches(union):
        union.branches = [b for b in union.branches if b.holds and union.tag.type.find(b.name)]

    def _check_base_circle(self, obj):
        seen, base = {obj.name}, obj.base
        while base:
            if base.name in seen:
                raise SchemaError(obj.info, f"'{obj.name}' is its own base")
            seen.add(base.name)
            base = base.base

    def _check_names(self, obj, seen, info, stack):
        """Members that end up in one JSON object must differ, in C, too."""
        if obj in stack:
            raise SchemaError(info, f"'{obj.name}' contains itself")
        self._check_base_circle(obj)
        for member in obj.all_members():
            if member.c_name == 'u' and obj.branches:
                raise SchemaError(member.info, "member name 'u' of a union is needed by the "
                                               'generated code')
            other = seen.setdefault(member.c_name, member)
            if other is not member:
                raise SchemaError(info, f"'{obj.name}': member '{member.name}' clashes with "
                                        f"'{other.name}' at {other.info}")
        for branch in obj.branches:
            self._check_names(branch.type, dict(seen), branch.info, stack + [obj])
        c_names = {}
        for branch in obj.branches:
            clash = c_names.setdefault(branch.c_name, branch)
            if clash is not branch:
                raise SchemaError(branch.info, f"branches '{clash.name}' and '{branch.name}' are "
                                               "the same name in C")

    def _define_alternate(self, alternate, expr):
        for name, item in expr['data'].items():
            info = expr['data'].info_of(name)
            check_member_name(name, info, 'branch')
            ref = item['type'] if isinstance(item, Object) else item
            type_ = self._type_if_holds(item, ref, info, f"branch '{name}'")
            if self._holds(item):
                alternate.branches.append(Member(name, type_, info))
        if not alternate.branches:
            raise SchemaError(expr.info_of('data'), 'an alternate needs at least one branch')

    @staticmethod
    def _check_alternate(alternate):
        by_json = {}
        for branch in alternate.branches:
            json = branch.type.json_type if branch.type.meta == 'builtin' else \
                {'enum': 'string', 'object': 'object', 'array': 'array'}.get(branch.type.meta)
            if json in (None, 'value'):
                raise SchemaError(branch.info, f"branch '{branch.name}' cannot be told apart from "
                                               f"others: '{branch.type.name}' is no single type")
            if json in by_json:
                raise SchemaError(branch.info, f"branches '{by_json[json].name}' and "
                                               f"'{branch.name}' are both {json} in JSON")
            by_json[json] = branch
        scalars = {'int', 'number', 'boolean'} & by_json.keys()
        if 'string' in by_json and scalars:
            raise SchemaError(by_json[scalars.pop()].info,
                              'a string and a number or boolean cannot be told apart in key=value '
                              'options')
        if {'int', 'number'} <= by_json.keys():
            raise SchemaError(by_json['int'].info, "'int' and 'number' cannot be told apart")

    def _arguments(self, definition, expr):
        """The ObjectType of a command's or event's 'data'."""
        data, info = expr.get('data'), expr.info_of('data')
        boxed = expr.get('boxed', False)
        if data is None:
            if boxed:
                raise SchemaError(expr.info_of('boxed'), "'boxed' needs 'data'")
            return None
        if isinstance(data, Object):
            if boxed:
                raise SchemaError(expr.info_of('boxed'), "'boxed' needs a named type as 'data'")
            kind = 'Arg' if definition.meta == 'command' else 'EventData'
            name = names.camel(definition.name) + kind
            if name in self.types:
                raise SchemaError(info, f"type '{name}' clashes with the one generated here")
            implicit = ObjectType(name, info, definition.module, implicit=True)
            implicit.declared = self._members(data, definition.name)
            implicit.members = [m for m in implicit.declared if m.holds]
            self._check_names(implicit, {}, info, [])
            if not data:
                return None
            return implicit
        type_ = self._object_type(data, info, "'data'")
        if type_.expr.get('union') and not boxed:
            raise SchemaError(info, "a union as 'data' needs 'boxed': true")
        return type_

    def _define_command(self, command, expr):
        command.arg = self._arguments(command, expr)
        command.boxed = expr.get('boxed', False)
        command.gen = expr.get('gen', True)
        command.allow_oob = expr.get('allow-oob', False)
        if 'returns' not in expr:
            return
        info = expr.info_of('returns')
        command.ret = self._type(expr['returns'], info, "'returns'")
        inner = command.ret.element if command.ret.meta == 'array' else command.ret
        if inner.meta != 'object' and \
                not self.pragma.allows('command-returns-exceptions', command.name):
            raise SchemaError(info, f"'{command.name}' must return an object or a list of objects, "
                                    'so that members can be added')

    def _define_event(self, event, expr):
        event.arg = self._arguments(event, expr)
        event.boxed = expr.get('boxed', False)

    # -- Circles

    def _check_circles(self):
        """A value must end: no struct may require another of itself."""
        for type_ in list(self.types.values()):
            if type_.meta == 'object':
                self._check_circle(type_)

    def _check_circle(self, obj):
        if obj.state == 'done':
            return
        if obj.state == 'open':
            raise SchemaError(obj.info, f"every '{obj.name}' would contain another one")
        obj.state = 'open'
        for member in obj.all_members():
            if not member.optional and member.type.meta == 'object':
                self._check_circle(member.type)
        obj.state = 'done'
