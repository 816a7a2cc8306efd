# SPDX-License-Identifier: GPL-2.0-or-later
"""The form of expressions: which keys, which names, which conditions."""

import re

from .error import SchemaError
from .lexer import List, Object

# kind: (required keys, optional keys)
KINDS = {
    'enum': (('data',), ('prefix', 'if', 'features')),
    'struct': (('data',), ('base', 'if', 'features')),
    'union': (('base', 'discriminator', 'data'), ('if', 'features')),
    'alternate': (('data',), ('if', 'features')),
    'command': ((), ('data', 'boxed', 'returns', 'gen', 'allow-oob', 'coroutine', 'if', 'features')),
    'event': ((), ('data', 'boxed', 'if', 'features')),
}

BOOLEANS = ('boxed', 'gen', 'allow-oob', 'coroutine')
MEMBER_KEYS = ('type', 'if', 'features', 'default', 'min', 'max')

MEMBER_NAME = re.compile(r'(__[a-z0-9.-]+_|x-)?[a-z][a-z0-9-]*$')
MEMBER_NAME_DIGITS = re.compile(r'(__[a-z0-9.-]+_|x-)?[a-z0-9][a-z0-9-]*$')
TYPE_NAME = re.compile(r'[A-Z][A-Za-z0-9]*$')
SYMBOL = re.compile(r'[A-Z][A-Z0-9_]*$')


def check_member_name(name, info, what, digits=False):
    """Members, values, commands and features are lower case with dashes."""
    if not isinstance(name, str):
        raise SchemaError(info, f'the name of a {what} must be a string')
    if not (MEMBER_NAME_DIGITS if digits else MEMBER_NAME).match(name):
        raise SchemaError(info, f"name of {what} '{name}' must be lower case letters, digits and "
                                'dashes')


def check_type_name(name, info):
    """Types are in CamelCase."""
    if not TYPE_NAME.match(name):
        raise SchemaError(info, f"name of type '{name}' must be in CamelCase")
    if name.endswith(('List', 'Arg', 'EventData')):
        raise SchemaError(info, f"name of type '{name}' has an ending that the generator uses")
    if name.startswith(('Qapi', 'QValue')):
        raise SchemaError(info, f"name of type '{name}' has a beginning that the runtime uses")


def check_condition(cond, info):
    """A symbol, or { 'all': [...] }, { 'any': [...] }, { 'not': ... }."""
    if isinstance(cond, str):
        if not SYMBOL.match(cond):
            raise SchemaError(info, f"condition '{cond}' must be a symbol such as CONFIG_FUSE")
        return
    if not isinstance(cond, Object) or len(cond) != 1:
        raise SchemaError(info, "'if' must be a symbol or an object with one of all, any, not")
    (operator, operand), = cond.items()
    if operator == 'not':
        check_condition(operand, info)
    elif operator in ('all', 'any'):
        if not isinstance(operand, List) or not operand:
            raise SchemaError(info, f"'{operator}' of a condition must be a list that is not empty")
        for item in operand:
            check_condition(item, info)
    else:
        raise SchemaError(info, f"unknown operator '{operator}' in a condition")


def evaluate_condition(cond, symbols, info):
    """Whether @cond holds; symbols that the build does not know are refused."""
    if isinstance(cond, str):
        if cond not in symbols:
            raise SchemaError(info, f"the build defines no symbol '{cond}'")
        return symbols[cond]
    (operator, operand), = cond.items()
    if operator == 'not':
        return not evaluate_condition(operand, symbols, info)
    results = [evaluate_condition(item, symbols, info) for item in operand]
    return all(results) if operator == 'all' else any(results)


def describe_condition(cond):
    """@cond for people."""
    if isinstance(cond, str):
        return cond
    (operator, operand), = cond.items()
    if operator == 'not':
        return f'not {describe_condition(operand)}'
    word = ' and ' if operator == 'all' else ' or '
    return '(' + word.join(describe_condition(item) for item in operand) + ')'


def _check_keys(expr, what, required, optional):
    for key in expr:
        if key not in (*required, *optional):
            raise SchemaError(expr.info_of(key), f"{what} has an unknown key '{key}'")
    for key in required:
        if key not in expr:
            raise SchemaError(expr.info, f"{what} lacks '{key}'")
    if 'if' in expr:
        check_condition(expr['if'], expr.info_of('if'))
    if 'features' in expr:
        _check_features(expr)


def _check_features(expr):
    features = expr['features']
    if not isinstance(features, List):
        raise SchemaError(expr.info_of('features'), "'features' must be a list")
    for item, info in zip(features, features.infos):
        if isinstance(item, Object):
            _check_keys(item, 'feature', ('name',), ('if',))
        elif not isinstance(item, str):
            raise SchemaError(info, 'a feature must be a name or an object')


def _is_type_ref(ref):
    return isinstance(ref, str) or \
        (isinstance(ref, List) and len(ref) == 1 and isinstance(ref[0], str))


def _check_members(data, what, keys=MEMBER_KEYS):
    for key, item in data.items():
        info = data.info_of(key)
        if isinstance(item, Object):
            _check_keys(item, f"member '{key}'", ('type',), keys[1:])
            item = item['type']
        if not _is_type_ref(item):
            raise SchemaError(info, f"{what}: type of '{key}' must be a name or a list of one name")


def _check_enum(expr, what):
    data = expr['data']
    if not isinstance(data, List):
        raise SchemaError(expr.info_of('data'), f"'data' of {what} must be a list")
    for item, info in zip(data, data.infos):
        if isinstance(item, Object):
            _check_keys(item, 'value', ('name',), ('if', 'features'))
            item = item['name']
        if not isinstance(item, str):
            raise SchemaError(info, 'a value must be a name or an object')
    prefix = expr.get('prefix')
    if prefix is not None and (not isinstance(prefix, str) or not SYMBOL.match(prefix)):
        raise SchemaError(expr.info_of('prefix'), "'prefix' must be an upper case name")


def _require_object(expr, key, what):
    if not isinstance(expr[key], Object):
        raise SchemaError(expr.info_of(key), f"'{key}' of {what} must be an object")


def _check_struct(expr, what):
    _require_object(expr, 'data', what)
    _check_members(expr['data'], what)
    if 'base' in expr and not isinstance(expr['base'], str):
        raise SchemaError(expr.info_of('base'), f"'base' of {what} must be the name of a struct")


def _check_union(expr, what):
    if isinstance(expr['base'], Object):
        _check_members(expr['base'], what)
    elif not isinstance(expr['base'], str):
        raise SchemaError(expr.info_of('base'), f"'base' of {what} must be a name or an object")
    if not isinstance(expr['discriminator'], str):
        raise SchemaError(expr.info_of('discriminator'), "'discriminator' must be a member's name")
    _require_object(expr, 'data', what)
    _check_members(expr['data'], what, ('type', 'if'))


def _check_alternate(expr, what):
    _require_object(expr, 'data', what)
    _check_members(expr['data'], what, ('type', 'if'))


def _check_callable(expr, what):
    for key in BOOLEANS:
        if key in expr and not isinstance(expr[key], bool):
            raise SchemaError(expr.info_of(key), f"'{key}' of {what} must be true or false")
    if isinstance(expr.get('data'), Object):
        _check_members(expr['data'], what)
    elif 'data' in expr and not isinstance(expr['data'], str):
        raise SchemaError(expr.info_of('data'), f"'data' of {what} must be a name or an object")
    if 'returns' in expr and not _is_type_ref(expr['returns']):
        raise SchemaError(expr.info_of('returns'),
                          f"'returns' of {what} must be a name or a list of one name")


CHECKS = {'enum': _check_enum, 'struct': _check_struct, 'union': _check_union,
          'alternate': _check_alternate, 'command': _check_callable, 'event': _check_callable}


def check_expression(expr):
    """Refuse an expression whose form is wrong, whatever its names mean."""
    kinds = [kind for kind in KINDS if kind in expr]
    if not kinds:
        raise SchemaError(expr.info, 'this defines nothing: one of ' + ', '.join(KINDS) +
                          ', include, pragma is missing')
    if len(kinds) > 1:
        raise SchemaError(expr.info, f"both '{kinds[0]}' and '{kinds[1]}' in one definition")
    kind = kinds[0]
    if not isinstance(expr[kind], str):
        raise SchemaError(expr.info_of(kind), f"the name of a {kind} must be a string")
    what = f"{kind} '{expr[kind]}'"
    required, optional = KINDS[kind]
    _check_keys(expr, what, required, (kind, *optional))
    CHECKS[kind](expr, what)
