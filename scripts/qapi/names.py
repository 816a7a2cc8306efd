# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of the schema as C names."""

import re

# Words that cannot name a member or parameter: keywords, and macros of common headers.
RESERVED = frozenset('''
    asm auto bool break case char const continue default do double else enum errno extern false float
    for goto if inline int linux long register restrict return short signed sizeof static struct
    switch true typedef typeof union unix unsigned void volatile while NULL
'''.split())


def c_name(name):
    """A member or parameter: dashes become underscores, reserved words get a prefix."""
    name = re.sub(r'[^A-Za-z0-9_]', '_', name)
    return 'q_' + name if name in RESERVED or name[0].isdigit() else name


def snake(name):
    """BlockExportOptions -> block_export_options, BLOCK_IO_ERROR -> block_io_error."""
    name = re.sub(r'[^A-Za-z0-9_]', '_', name)
    name = re.sub(r'([A-Z]+)([A-Z][a-z])', r'\1_\2', name)
    name = re.sub(r'([a-z0-9])([A-Z])', r'\1_\2', name)
    return re.sub(r'_+', '_', name).lower()


def camel(name):
    """block-export-add -> BlockExportAdd, BLOCK_IO_ERROR -> BlockIoError."""
    return ''.join(part[:1].upper() + part[1:].lower() for part in re.split(r'[-_]', name))


def constant(name):
    """null-co -> NULL_CO; for what follows an enumeration's prefix."""
    return re.sub(r'[^A-Za-z0-9_]', '_', name).upper()
