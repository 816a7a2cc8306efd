# SPDX-License-Identifier: GPL-2.0-or-later
"""Builtin types, and which defaults and bounds suit which type."""

from .error import SchemaError


class BuiltinType:
    """A type that the language brings along."""
    meta = 'builtin'
    info = None
    module = None
    features = ()

    def __init__(self, name, json_type, c_type, reader, is_pointer=False, limits=None):
        self.name = name
        self.json_type = json_type       # as introspection calls it
        self.c_type = c_type             # of a member
        self.reader = reader             # qapi_read_READER(), qapi_read_READER_list()
        self.snake = reader
        self.is_pointer = is_pointer
        self.limits = limits             # (lowest, highest) of an integer


def _integer(name, bits, signed, reader=None):
    limits = (-2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2 ** bits - 1)
    c_type = f'{"" if signed else "u"}int{bits}_t'
    return BuiltinType(name, 'int', c_type, reader or name, limits=limits)


BUILTINS = {type_.name: type_ for type_ in (
    BuiltinType('str', 'string', 'char *', 'str', is_pointer=True),
    BuiltinType('any', 'value', 'QValue *', 'any', is_pointer=True),
    BuiltinType('null', 'null', 'QValue *', 'null', is_pointer=True),
    BuiltinType('bool', 'boolean', 'bool', 'bool'),
    BuiltinType('number', 'number', 'double', 'number'),
    _integer('int', 64, True, 'int64'),
    *(_integer(f'int{bits}', bits, True) for bits in (8, 16, 32, 64)),
    *(_integer(f'uint{bits}', bits, False) for bits in (8, 16, 32, 64)),
    _integer('size', 64, False, 'size'),
)}


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_bound(member, key, value, info):
    """The bound @key ('min' or 'max') of @member, checked."""
    limits = getattr(member.type, 'limits', None)
    if limits:
        if not isinstance(value, int) or isinstance(value, bool):
            raise SchemaError(info, f"'{key}' of '{member.name}' must be an integer")
        if not limits[0] <= value <= limits[1]:
            raise SchemaError(info, f"'{key}' of '{member.name}' does not fit type "
                                    f"'{member.type.name}'")
        return value
    if member.type.name != 'number' or member.type.meta != 'builtin':
        raise SchemaError(info, f"'{key}' of '{member.name}': '{member.type.name}' has no range")
    if not _is_number(value):
        raise SchemaError(info, f"'{key}' of '{member.name}' must be a number")
    return value


def check_default(member, value, info):
    """The default of @member, checked against its type and bounds."""
    type_, what = member.type, f"default of '{member.name}'"
    if type_.meta == 'enum':
        if not isinstance(value, str) or not type_.find(value):
            raise SchemaError(info, f"{what} is no value of '{type_.name}'")
        return value
    expected = {'string': str, 'boolean': bool}.get(getattr(type_, 'json_type', None))
    if expected:
        if not isinstance(value, expected):
            raise SchemaError(info, f"{what} must be of type '{type_.name}'")
        return value
    limits = getattr(type_, 'limits', None)
    if not limits and type_.name != 'number':
        raise SchemaError(info, f"{what}: a '{type_.name}' cannot have one")
    if not _is_number(value) or (limits and not isinstance(value, int)):
        raise SchemaError(info, f"{what} must be of type '{type_.name}'")
    if limits and not limits[0] <= value <= limits[1]:
        raise SchemaError(info, f"{what} does not fit type '{type_.name}'")
    if (member.min is not None and value < member.min) or \
            (member.max is not None and value > member.max):
        raise SchemaError(info, f'{what} is outside its range')
    return value
