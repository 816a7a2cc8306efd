#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Generate C and its reference page from a QAPI schema.

    lexer      text to expressions
    syntax     the form of expressions
    doc        documentation blocks
    model      what a schema consists of
    schema     expressions to the model: names resolved, contradictions refused
    describe   documentation to the model
    types, commands, events, introspect    C text from the model
    reference  the page for people

A file is written only if its content changed, so a change to one command rebuilds what uses it.
"""

import sys

if __package__ in (None, ''):
    # Run as a script: the folder above takes our folder's place, whose types.py would hide Python's.
    sys.path[0] = sys.path[0].rpartition('/')[0]

# pylint: disable=wrong-import-position
import argparse
import os

from qapi import commands, ctext, events, introspect, reference, types
from qapi.error import SchemaError
from qapi.schema import Schema


def parse_symbol(text):
    """NAME=0 or NAME=1, what conditions of the schema may name."""
    name, separator, value = text.partition('=')
    if not separator or value not in ('0', '1'):
        raise argparse.ArgumentTypeError(f'{text}: expected NAME=0 or NAME=1')
    return name, value == '1'


def main(argv=None):
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description='Generate code and docs from a QAPI schema.')
    parser.add_argument('schema', help='the schema file that includes all others')
    parser.add_argument('-o', '--output', help='directory for C files')
    parser.add_argument('-r', '--reference', metavar='FILE', help='the reference page to write')
    parser.add_argument('-D', '--define', type=parse_symbol, action='append', default=[],
                        metavar='NAME=0|1', help='a symbol for conditions')
    args = parser.parse_args(argv)
    try:
        schema = Schema(args.schema, dict(args.define))
    except SchemaError as err:
        print(err, file=sys.stderr)
        return 1
    if args.output:
        for generator in (types, commands, events, introspect):
            for name, text in generator.generate(schema):
                ctext.save(os.path.join(args.output, name), text)
    if args.reference:
        ctext.save(args.reference, reference.generate(schema))
    return 0


if __name__ == '__main__':
    sys.exit(main())
