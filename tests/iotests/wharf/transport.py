# SPDX-License-Identifier: GPL-2.0-or-later
"""How the requests of FUSE exports under test travel, and the kernel's switch that io-uring needs.

$WHARF_FUSE_TRANSPORT (dev or io-uring) goes into every export for which a test names no transport
itself. That it is the one in use is checked each time; without the variable the daemon chooses.
"""

import fcntl
import json
import os
import unittest

DEV = 'dev'
IO_URING = 'io-uring'

SWITCH = '/sys/module/fuse/parameters/enable_uring'
LOCK = '/run/wharf-test-enable-uring'  # one for the machine, as the switch is

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


def read_switch():
    """'Y' or 'N'; None where the kernel has no such thing."""
    try:
        with open(SWITCH, encoding='ascii') as f:
            return f.read().strip()
    except OSError:
        return None


def _write_switch(value):
    with open(SWITCH, 'w', encoding='ascii') as f:
        f.write(value)


def why_no_uring():
    """Why FUSE over io_uring cannot be had here, or None."""
    if read_switch() is None:
        return 'the kernel knows no FUSE over io_uring'
    if read_switch() != 'Y' and (os.geteuid() != 0 or not os.access(SWITCH, os.W_OK)):
        return 'cannot switch on FUSE over io_uring'
    return None


def _open_lock():
    return os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(fd, how):
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def switch_on():
    """Have the switch on from here on; returns what is to be called in the end. Skips the test where
    that cannot be had. It goes back to what it was when the last of all test processes says so."""
    reason = why_no_uring()
    if reason:
        raise unittest.SkipTest(reason)
    if os.geteuid() != 0:
        return lambda: None
    # Whoever has this file locked needs the switch; it holds what the switch was before.
    fd = _open_lock()
    fcntl.flock(fd, fcntl.LOCK_SH)
    if read_switch() != 'Y':
        os.pwrite(fd, b'N', 0)
        _write_switch('Y')
    return lambda: _switch_back(fd)


def _switch_back(fd):
    try:
        if _lock(fd, fcntl.LOCK_EX) and os.pread(fd, 1, 0) == b'N':
            _write_switch('N')
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def switch_back():
    """What tests that were killed have left undone, unless others need the switch."""
    if os.geteuid() == 0 and os.path.exists(LOCK):
        _switch_back(_open_lock())


def try_to_have_it_off():
    """A descriptor that keeps the switch off until it is closed; None while tests need it on."""
    fd = _open_lock()
    if _lock(fd, fcntl.LOCK_EX):
        return fd
    os.close(fd)
    return None
