# SPDX-License-Identifier: GPL-2.0-or-later
"""How the requests of FUSE exports under test travel, and the kernel's switch that io-uring needs.

$WHARF_FUSE_TRANSPORT (dev or io-uring) goes into every export for which a test names no transport
itself. That it is the one in use is checked each time; without the variable the daemon chooses.
"""

import json
import os
import unittest

from .switch import Switch

DEV = 'dev'
IO_URING = 'io-uring'

SWITCH = Switch('/sys/module/fuse/parameters/enable_uring', '/run/wharf-test-enable-uring', 'Y')

# What the daemon logs when it cannot do what it was asked for.
FALLBACKS = ('no FUSE over io_uring', 'refuses FUSE over io_uring')


def wanted():
    """The transport for exports that name none, or None."""
    name = os.environ.get('WHARF_FUSE_TRANSPORT') or None
    assert name in (None, DEV, IO_URING), f'WHARF_FUSE_TRANSPORT={name}'
    return name


def is_open(options):
    """Whether these are the options of a FUSE export that names no transport."""
    return isinstance(options, dict) and options.get('type') == 'fuse' and 'transport' not in options


def add_to_words(words, transport):
    """The words of a command line, with the transport in the --export options that name none."""
    if transport is None:
        return list(words)
    return [_add_to_word(word, transport) if before == '--export' else word
            for before, word in zip([None, *words], words)]


def _add_to_word(word, transport):
    if word.startswith('{'):
        options = json.loads(word)
        return json.dumps({**options, 'transport': transport}) if is_open(options) else word
    options = word.split(',')
    if options[0] not in ('fuse', 'type=fuse') or any(o.startswith('transport=') for o in options):
        return word
    return f'{word},transport={transport}'


# The switch


def why_no_uring():
    """Why FUSE over io_uring cannot be had here, or None."""
    if SWITCH.read() is None:
        return 'the kernel knows no FUSE over io_uring'
    if SWITCH.is_out_of_reach():
        return 'cannot switch on FUSE over io_uring'
    return None


def switch_on():
    """Have the switch on from here on; returns what is to be called in the end. Skips the test where
    that cannot be had."""
    reason = why_no_uring()
    if reason:
        raise unittest.SkipTest(reason)
    return SWITCH.hold()
