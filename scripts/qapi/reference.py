# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference page for people: docs/rpc.md."""

import json
import re

from . import ctext

WIDTH = 100

INTRODUCTION = '''\
# Commands, events and types

What the daemon understands, over QMP and over JSON-RPC 2.0 alike. Generated from the schema in
`qapi/schema`; the same is to be had from a running daemon by `query-qmp-schema`, by `rpc.discover`
and by `wharfctl help`.

- In QMP a command is `{"execute": NAME, "arguments": {...}, "id": ...}`, in JSON-RPC a request with
  the method NAME and the arguments as params.
- Members are required unless they are called optional.
- `int8` to `int64` and `uint8` to `uint64` are integers of that range, `int` is `int64`; `size` is a
  number of bytes, which takes suffixes such as `k`, `M`, `G` (powers of 1024) on the command line;
  `any` is any JSON value.
- On the command line members of members are written with dots (`cache.direct=on`), elements of lists
  by their number (`iothread.0=a,iothread.1=b`).
'''


def anchor(name):
    """The link target of the heading @name."""
    return '#' + re.sub(r'[^a-z0-9_-]', '', name.lower())


def text(lines):
    """A doc comment as Markdown paragraphs, wrapped."""
    escaped = [line if line.startswith('  ') else
               re.sub(r'@([\w-]*\w)', r'`\1`', line).replace('<', '&lt;') for line in lines]
    return ctext.wrap(escaped, WIDTH) if escaped else []


def type_link(type_):
    """@type_ with a link to where it is described."""
    if type_.meta == 'array':
        return f'list of {type_link(type_.element)}'
    if type_.meta == 'builtin':
        return f'`{type_.name}`'
    return f'[{type_.name}]({anchor(type_.name)})'


def properties(member):
    """Type, whether optional, default, range."""
    parts = [type_link(member.type)]
    if member.has_default:
        default = member.default if member.type.meta == 'enum' else json.dumps(member.default)
        parts.append(f'default `{default}`')
    elif member.optional:
        parts.append('optional')
    if member.min is not None:
        parts.append(f'at least {member.min}')
    if member.max is not None:
        parts.append(f'at most {member.max}')
    parts += [f.name for f in member.features]
    return ', '.join(parts)


def item(head, lines):
    """An item of a list, with @lines as its text."""
    body = ' '.join(text(lines))
    return ctext.wrap([f'- {head}: {body}'], WIDTH)


def member_items(members):
    """A list of members."""
    return [line for m in members
            for line in item(f'**{m.name}** ({properties(m)})', m.doc)]


def features(definition):
    """What the features of @definition mean."""
    return [line for f in definition.features for line in item(f'*{f.name}*', f.doc)]


class Page:
    """Lines of Markdown; blocks are set apart by blank lines."""

    def __init__(self):
        self.lines = INTRODUCTION.rstrip().split('\n')

    def block(self, lines):
        """Append a block, unless it is empty."""
        if lines:
            self.lines += ['', *lines]

    def section(self, definition, title):
        """A titled section of the documentation, such as Returns."""
        section = definition.doc.sections.get(title)
        if section and section.text():
            lead = ctext.wrap([f'**{title}:** ' + ' '.join(text(section.text()))], WIDTH)
            self.block(lead)

    def definition(self, definition, kind):
        """Heading and description."""
        self.block([f'### {definition.name}'])
        since = ' '.join(definition.doc.sections['Since'].text())
        self.block([f'*{kind}, since {since}*'])
        self.block(text(definition.doc.body.text()))

    def arguments(self, definition, title):
        """What a command takes or an event carries."""
        arg = definition.arg
        if not arg:
            return
        if not arg.implicit:
            self.block([f'**{title}:** the members of {type_link(arg)}'])
        elif arg.members:
            self.block([f'**{title}:**'])
            self.block(member_items(arg.members))

    def command(self, command):
        """A command."""
        self.definition(command, 'Command')
        self.arguments(command, 'Arguments')
        if command.ret:
            returns = ' '.join(text(command.doc.sections['Returns'].text()))
            self.block(ctext.wrap([f'**Returns:** {type_link(command.ret)}; {returns}'], WIDTH))
        self.section(command, 'Errors')
        self.block(features(command))

    def event(self, event):
        """An event."""
        self.definition(event, 'Event')
        self.arguments(event, 'Data')
        self.block(features(event))

    def enum(self, enum):
        """An enumeration."""
        self.definition(enum, 'Enumeration')
        self.block([line for v in enum.values for line in item(f'`{v.name}`', v.doc)])
        self.block(features(enum))

    def object(self, obj):
        """A struct or union."""
        self.definition(obj, 'Union' if obj.tag else 'Structure')
        if obj.base:
            self.block([f'**Base:** the members of {type_link(obj.base)}'])
        self.block(member_items(obj.members))
        if obj.branches:
            self.block([f'**Further members**, by `{obj.tag.name}`:'])
            self.block([f'- `{b.name}`: those of {type_link(b.type)}' for b in obj.branches])
        self.block(features(obj))

    def alternate(self, alternate):
        """An alternate."""
        self.definition(alternate, 'Alternate')
        self.block([line for b in alternate.branches
                    for line in item(f'{type_link(b.type)}', b.doc)])
        self.block(features(alternate))


def headings(module):
    """The free documentation of a module: its title and what follows it."""
    title, lines = module.name, []
    for doc in module.contents:
        if getattr(doc, 'meta', None) is None:
            for line in doc.lines:
                if line.startswith('= '):
                    title = line[2:]
                else:
                    lines.append(line)
    while lines and not lines[0].strip():
        lines.pop(0)
    return title, lines


def contents(modules):
    """A table of contents: commands and events of each module."""
    lines = []
    for module in modules:
        title, _ = headings(module)
        lines.append(f'- [{title}]({anchor(title.replace(" ", "-"))})')
        for kind, label in (('command', 'commands'), ('event', 'events')):
            found = [f'[{d.name}]({anchor(d.name)})' for d in module.of(kind)]
            if found:
                lines.append(f'  - {label}: {", ".join(found)}')
    return lines


def generate(schema):
    """The page as text."""
    page = Page()
    modules = [m for m in schema.modules if m.of('enum', 'object', 'alternate', 'command', 'event')]
    page.block(contents(modules))
    for module in modules:
        title, lines = headings(module)
        page.block([f'## {title}'])
        page.block(text(lines))
        for kind in ('command', 'event'):
            for definition in module.of(kind):
                getattr(page, kind)(definition)
        for definition in module.of('enum', 'object', 'alternate'):
            getattr(page, definition.meta)(definition)
    return '\n'.join(page.lines) + '\n'
