# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes wrong with a schema, and where."""

from typing import NamedTuple


class Info(NamedTuple):
    """A place in the schema."""
    file: str
    line: int

    def __str__(self):
        return f'{self.file}:{self.line}'


class SchemaError(Exception):
    """The schema is wrong at @info; the message reads FILE:LINE: TEXT."""

    def __init__(self, info, text):
        super().__init__(f'{info}: {text}')
        self.info = info
        self.text = text
