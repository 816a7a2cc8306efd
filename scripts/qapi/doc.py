# SPDX-License-Identifier: GPL-2.0-or-later
"""
Documentation blocks.

    ##
    # @name:
    #
    # What it is.
    #
    # @member: what it means; further lines are indented by four
    #     blanks
    #
    # Features:
    #
    # @feature: what it tells
    #
    # Returns: what comes back
    #
    # Errors: what goes wrong
    #
    # Since: 0.1
    ##

A block that does not begin with '@name:' is free text; a line '= Title' in it is a heading. Indented
paragraphs, such as examples, are shown as they are; '@name' becomes `name` in all others.
"""

import re

from .error import Info, SchemaError

ARGUMENT = re.compile(r'@([\w.*-]+):(?:\s+(.*))?$')
SECTION = re.compile(r'(Features|Returns|Errors|Since|Notes?|TODO):(?:\s+(.*))?$')


class FreeDoc:
    """Text that belongs to no definition."""

    def __init__(self, info, lines):
        self.info = info
        self.lines = lines


class Section:
    """A paragraph group: text lines, where it begins."""

    def __init__(self, info, lines=()):
        self.info = info
        self.lines = list(lines)

    def text(self):
        """The lines without blank ones at either end."""
        lines = list(self.lines)
        while lines and not lines[0].strip():
            lines.pop(0)
        while lines and not lines[-1].strip():
            lines.pop()
        return lines


class DefinitionDoc:
    """What a block says about the definition @name."""

    def __init__(self, info, lines):
        self.info = info
        match = ARGUMENT.match(lines[0])
        self.name = match.group(1)
        if match.group(2):
            raise SchemaError(info, f"text of '@{self.name}:' belongs below it, after a blank line")
        self.body = Section(info)
        self.members = {}
        self.features = {}
        self.sections = {}
        self._parse(lines[1:])

    def _parse(self, lines):
        current = self.body
        in_features = False
        for offset, line in enumerate(lines):
            info = Info(self.info.file, self.info.line + 1 + offset)
            argument, section = ARGUMENT.match(line), SECTION.match(line)
            if argument:
                current = self._begin_argument(argument, info, in_features)
            elif section:
                in_features = section.group(1) == 'Features'
                current = self._begin_section(section, info)
            elif line and not line[0].isspace() and current is not self.body \
                    and current in (*self.members.values(), *self.features.values()):
                if current.lines and current.lines[-1].strip():
                    raise SchemaError(info, 'further lines of a description must be indented')
                current = self.body
                current.lines.append(line)
            else:
                current.lines.append(self._unindent(current, line))

    def _unindent(self, section, line):
        return line if section is self.body else re.sub(r'^ {1,4}', '', line)

    def _begin_argument(self, match, info, in_features):
        name, text = match.groups()
        where = self.features if in_features else self.members
        if name in where:
            raise SchemaError(info, f"'@{name}' is described twice")
        where[name] = Section(info, [text] if text else [])
        return where[name]

    def _begin_section(self, match, info):
        name, text = match.groups()
        if name in self.sections:
            raise SchemaError(info, f"'{name}:' stands here twice")
        self.sections[name] = Section(info, [text] if text else [])
        return self.sections[name]


def parse_doc(info, lines):
    """The FreeDoc or DefinitionDoc that @lines make up."""
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise SchemaError(info, 'empty documentation')
    if ARGUMENT.match(lines[first]):
        return DefinitionDoc(Info(info.file, info.line + 1 + first), lines[first:])
    return FreeDoc(info, lines)
