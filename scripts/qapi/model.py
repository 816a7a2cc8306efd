# SPDX-License-Identifier: GPL-2.0-or-later
"""What a schema consists of: types, commands, events, modules."""

from . import names
from .error import SchemaError
from .lexer import List


class Feature:
    """A flag that introspection shows; 'deprecated' and 'unstable' have a meaning."""

    def __init__(self, name, info):
        self.name = name
        self.info = info
        self.doc = []


class Value:
    """A value of an enumeration."""

    def __init__(self, name, info, features):
        self.name = name
        self.info = info
        self.features = features
        self.doc = []


class Member:
    """A member of an object, an argument, or a branch of an alternate."""

    def __init__(self, name, type_, info, optional=False, features=()):
        self.name = name
        self.c_name = names.c_name(name)
        self.type = type_
        self.info = info
        self.optional = optional
        self.features = list(features)
        self.holds = True                # its condition
        self.has_default = False
        self.default = None
        self.min = None
        self.max = None
        self.doc = []

    @property
    def has_flag(self):
        """Whether a bool has_NAME says that it is there; other optional members are NULL."""
        return self.optional and not self.has_default and not self.type.is_pointer


class Type:
    """What all types have: name, module, documentation; subclasses say what they are in C."""
    meta = None
    is_pointer = True

    def __init__(self, name, info=None, module=None):
        self.name = name
        self.info = info
        self.module = module
        self.features = []
        self.doc = None
        self.snake = names.snake(name)


class EnumType(Type):
    """An enumeration; its prefix begins each constant."""
    meta = 'enum'
    is_pointer = False

    def __init__(self, name, info, module, prefix):
        super().__init__(name, info, module)
        self.prefix = prefix or self.snake.upper()
        self.values = []
        self.all_values = []             # those whose condition is false, too

    def find(self, name):
        """The value called @name, or None."""
        return next((v for v in self.values if v.name == name), None)

    def constant(self, name):
        """The C constant of value @name."""
        return f'{self.prefix}_{names.constant(name)}'


class ArrayType(Type):
    """A list of @element."""
    meta = 'array'

    def __init__(self, element):
        super().__init__(element.name + 'List')
        self.element = element
        self.snake = element.snake + '_list'


class Branch:
    """Branch @value of a union: further members, those of @type."""

    def __init__(self, value, type_, info):
        self.name = value
        self.c_name = names.c_name(value)
        self.type = type_
        self.info = info
        self.holds = True                # its condition


class ObjectType(Type):
    """A struct or union; @implicit if the schema gives it no name (arguments of a command)."""
    meta = 'object'

    def __init__(self, name, info, module, implicit=False):
        super().__init__(name, info, module)
        self.implicit = implicit
        self.base = None
        self.declared = []               # its own members, also those left out
        self.members = []                # its own, without the base's
        self.tag = None                  # the discriminating Member
        self.branches = []
        self.state = None                # for the check of circles

    def all_members(self):
        """Common members: those of all bases, then its own."""
        return (self.base.all_members() if self.base else []) + self.members

    @property
    def is_empty(self):
        """Whether it can hold nothing at all."""
        return not self.all_members() and not self.branches


class AlternateType(Type):
    """One of several types, told apart by their JSON type."""
    meta = 'alternate'

    def __init__(self, name, info, module):
        super().__init__(name, info, module)
        self.branches = []


class Callable:
    """What commands and events have in common; @arg is an ObjectType or None."""
    meta = None

    def __init__(self, name, info, module):
        self.name = name
        self.info = info
        self.module = module
        self.snake = names.snake(name)
        self.arg = None
        self.boxed = False
        self.features = []
        self.doc = None


class Command(Callable):
    """A command; @ret is a type or None."""
    meta = 'command'

    def __init__(self, name, info, module):
        super().__init__(name, info, module)
        self.ret = None
        self.gen = True
        self.allow_oob = False


class Event(Callable):
    """An event."""
    meta = 'event'


class Module:
    """One schema file."""

    def __init__(self, name, file):
        self.name = name
        self.file = file
        self.includes = []
        self.contents = []               # FreeDoc and definitions, in order
        self.title = name

    def of(self, *metas):
        """Its definitions of the given kinds, in order."""
        return [d for d in self.contents if getattr(d, 'meta', None) in metas]


class Pragma:
    """Exceptions from the naming rules; hold for all files."""
    KEYS = ('command-name-exceptions', 'command-returns-exceptions', 'member-name-exceptions')

    def __init__(self):
        self.lists = {key: set() for key in self.KEYS}

    def add(self, expr):
        """Take over a { 'pragma': ... } expression."""
        for key, value in expr['pragma'].items():
            if key not in self.KEYS:
                raise SchemaError(expr['pragma'].info_of(key), f"unknown pragma '{key}'")
            if not isinstance(value, List) or not all(isinstance(v, str) for v in value):
                raise SchemaError(expr['pragma'].info_of(key), f"'{key}' must be a list of names")
            self.lists[key].update(value)

    def allows(self, key, name):
        """Whether @name is among the exceptions @key."""
        return name in self.lists[key]
