# SPDX-License-Identifier: GPL-2.0-or-later
"""C text: types, literals, comments, and files that keep their time when nothing changed."""

import os
import textwrap

from . import names

WIDTH = 100
INT_LIMITS = {f'{u}int{bits}_t': (None if u else f'INT{bits}_MIN', f'{u.upper()}INT{bits}_MAX')
              for u in ('', 'u') for bits in (8, 16, 32, 64)}


def c_type(type_):
    """@type_ as a member of a struct, ending in a blank or '*'."""
    if type_.meta == 'array':
        text = 'GPtrArray *' if type_.element.is_pointer else 'GArray *'
    elif type_.meta == 'builtin':
        text = type_.c_type
    elif type_.meta == 'enum':
        text = type_.name
    else:
        text = f'{type_.name} *'
    return text if text.endswith('*') else text + ' '


def c_param(type_):
    """@type_ as a borrowed parameter."""
    text = c_type(type_)
    return 'const ' + text if type_.is_pointer else text


def destroy(type_):
    """The function that frees a pointer of @type_."""
    if type_.meta == 'array':
        return 'g_ptr_array_unref' if type_.element.is_pointer else 'g_array_unref'
    if type_.meta == 'builtin':
        return 'g_free' if type_.name == 'str' else 'qvalue_unref'
    return f'{type_.snake}_free'


def copy(type_, source):
    """An expression that copies the pointer @source, which may be NULL."""
    if type_.meta == 'array':
        if not type_.element.is_pointer:
            return f'qapi_copy_scalar_list({source})'
        return f'qapi_copy_{list_name(type_)}({source})'
    if type_.meta == 'builtin':
        if type_.name == 'str':
            return f'g_strdup({source})'
        return f'{source} ? qvalue_ref({source}) : NULL'
    return f'{type_.snake}_copy({source})'


def list_name(type_):
    """The name that functions for the array @type_ carry."""
    element = type_.element
    if element.meta == 'builtin' and element.name in ('any', 'null'):
        return 'any_list'
    return type_.snake


def write(type_, source):
    """An expression of a new QValue that holds @source."""
    if type_.meta == 'array':
        return f'qapi_write_{list_name(type_)}({source})'
    if type_.meta == 'enum':
        return f'qvalue_string({type_.snake}_to_string({source}))'
    if type_.meta == 'builtin':
        if type_.is_pointer:
            return f'qvalue_string({source})' if type_.name == 'str' else f'qvalue_ref({source})'
        if type_.limits:
            return f'qvalue_{"uint" if type_.limits[0] == 0 else "int"}({source})'
        return {'bool': f'qvalue_bool({source})', 'number': f'qvalue_double({source})'}[type_.name]
    return f'qapi_write_{type_.snake}({source})'


def read(member, source, target):
    """A call that reads @source into @target, with the bounds of @member."""
    type_ = member.type
    if type_.meta == 'array':
        return f'qapi_read_{list_name(type_)}({source}, {target}, error)'
    if type_.meta != 'builtin':
        return f'qapi_read_{type_.snake}({source}, {target}, error)'
    if type_.is_pointer or type_.name == 'bool':
        return f'qapi_read_{type_.reader}({source}, {target}, error)'
    low, high = bounds(member)
    return f'qapi_read_{type_.reader}({source}, {low}, {high}, {target}, error)'


def bounds(member):
    """The range of @member as C expressions."""
    type_ = member.type
    if type_.name == 'number':
        low = '-G_MAXDOUBLE' if member.min is None else repr(float(member.min))
        high = 'G_MAXDOUBLE' if member.max is None else repr(float(member.max))
        return low, high
    limit_names = INT_LIMITS[type_.c_type]
    low = (limit_names[0] or '0') if member.min is None else integer(member.min)
    high = limit_names[1] if member.max is None else integer(member.max)
    return low, high


def integer(value):
    """@value as a C constant."""
    if value == -2 ** 63:
        return 'INT64_MIN'
    if value > 2 ** 63 - 1:
        return f'UINT64_C({value})'
    if -2 ** 31 < value < 2 ** 31:
        return str(value)
    return f'INT64_C({value})'


def string(text):
    """@text as a C string."""
    escaped = text.replace('\\', '\\\\').replace('"', '\\"').replace('\n', '\\n')
    return f'"{escaped}"'


def literal(member):
    """The default of @member as C; pointers are newly made."""
    type_, value = member.type, member.default
    if type_.meta == 'enum':
        return type_.constant(value)
    if type_.name == 'str':
        return f'g_strdup({string(value)})'
    if type_.name == 'bool':
        return 'true' if value else 'false'
    if type_.name == 'number':
        return repr(float(value))
    return integer(value)


def call(indent, before, args, after):
    """@before(@args)@after as lines, broken where it gets too long."""
    return fit(f'{" " * indent}{before}({", ".join(args)}){after}')


def _scan(line):
    """Yield (position, depth of brackets before it, character) outside strings."""
    depth, quoted, escaped = 0, False, False
    for i, c in enumerate(line):
        if quoted:
            quoted = escaped or c != '"'
            escaped = not escaped and c == '\\'
            continue
        yield i, depth, c
        quoted = c == '"'
        depth += {'(': 1, ')': -1}.get(c, 0)


def _break_inside(line, depth):
    """@line broken between the arguments of its first bracket at @depth, or None."""
    marks = list(_scan(line))
    start = next((i for i, d, c in marks if c == '(' and d == depth), None)
    if start is None:
        return None
    end = next((i for i, d, c in marks if i > start and c == ')' and d == depth + 1), len(line))
    cuts = [i + 2 for i, d, c in marks if start < i < end and d == depth + 1
            and c in ',|&' and line[i + 1:i + 2] == ' ']
    lines, hang, begin, last = [], ' ' * (start + 1), 0, None
    for cut in [*cuts, len(line)]:
        lead = '' if begin == 0 else hang
        if last and len(lead + line[begin:cut].rstrip()) > WIDTH:
            lines.append((lead + line[begin:last]).rstrip())
            begin = last
        last = cut
    lines.append((hang if begin else '') + line[begin:])
    return lines


def fit(line):
    """@line as lines that are no longer than WIDTH, if it has brackets to break in."""
    if len(line) <= WIDTH or line.lstrip().startswith(('*', '/*')):
        return [line]
    for depth in range(3):
        lines = _break_inside(line, depth)
        if lines and all(len(part) <= WIDTH for part in lines):
            return lines
    bracket = line.find('(') + 1
    indent = len(line) - len(line.lstrip())
    rest = ' ' * (indent + 4) + line[bracket:]
    star = line.find(' *', 0, bracket) + 2
    if bracket > WIDTH and indent == 0 and star > 1:  # a function's type stands alone then
        return [line[:star], *fit(line[star:])]
    return [line[:bracket], rest] if bracket and len(rest) <= WIDTH else [line]


def _wrap_items(lines, width):
    """The items of a list, each '- ' and its further lines."""
    items = []
    for line in lines:
        if line.startswith('- ') or not items:
            items.append(line)
        else:
            items[-1] += ' ' + line.strip()
    return [part for item in items
            for part in textwrap.wrap(item, width, subsequent_indent='  ', break_on_hyphens=False)]


def wrap(text, width):
    """Paragraphs and lists of @text (lines, with blank ones in between) wrapped; examples as is."""
    lines = []
    for paragraph in '\n'.join(text).split('\n\n'):
        content = paragraph.split('\n')
        if content[0].startswith('  '):
            wrapped = content
        elif content[0].startswith('- '):
            wrapped = _wrap_items(content, width)
        else:
            wrapped = textwrap.wrap(paragraph, width, break_on_hyphens=False)
        lines += ([''] if lines else []) + wrapped
    return lines


def comment(text, indent=0):
    """@text (lines, with blank ones between paragraphs) as a C comment, one line if it fits."""
    pad = ' ' * indent
    text = [line.replace('*/', '* /').replace('/*', '/ *') for line in text]
    while text and not text[-1].strip():
        text = text[:-1]
    if not text:
        return []
    lines = wrap(text, WIDTH - indent - 3)
    if len(lines) == 1 and len(lines[0]) + indent + 6 <= WIDTH:
        return [f'{pad}/* {lines[0]} */']
    return [f'{pad}/*'] + [f'{pad} * {line}'.rstrip() for line in lines] + [f'{pad} */']


class CFile:
    """A generated C file; what it says of itself, then whatever is added."""

    def __init__(self, name, contract):
        self.name = name
        self.lines = ['/* SPDX-License-Identifier: GPL-2.0-or-later */']
        self.lines += comment([f'{"qapi/" + name} - {contract[0]}', *contract[1:], '',
                               'Generated from the schema; changes belong there.'])

    def add(self, *lines):
        """Append lines."""
        self.lines += lines

    def block(self, lines):
        """Append lines after a blank one."""
        if lines:
            self.lines += ['', *lines]

    def text(self):
        """The whole file."""
        return self._joined() + '\n'

    def _joined(self):
        return '\n'.join(part for line in self.lines for part in fit(line))


class HeaderFile(CFile):
    """A header with its guard."""

    def __init__(self, name, contract, includes):
        super().__init__(name, contract)
        self.guard = 'WHARF_QAPI_' + names.constant(name)
        self.add(f'#ifndef {self.guard}', f'#define {self.guard}', '')
        self.add(*(f'#include "{i}"' for i in includes))

    def text(self):
        return self._joined() + '\n\n#endif\n'


def save(path, text):
    """Write a file, unless it says so already: what depends on it is then not rebuilt."""
    try:
        with open(path, encoding='utf-8') as stream:
            if stream.read() == text:
                return
    except OSError:
        pass
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, 'w', encoding='utf-8') as stream:
        stream.write(text)
