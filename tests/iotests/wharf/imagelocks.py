# SPDX-License-Identifier: GPL-2.0-or-later
"""What is left of the locks of a killed process.

They end with the last request that the kernel has still to do for it, which may be after waitpid() has
told of its death. Nothing here touches a file that is locked, for it may lie on a mount that hangs.
"""

import collections
import glob
import os
import re

from .tools import wait_until

# In /proc/locks and, after 'lock:', in /proc/PID/fdinfo/FD: the file as major:minor:inode, first and last byte.
_LOCK = re.compile(r'^(?:lock:\s*)?\d+: OFDLCK\s+\S+\s+\S+\s+\S+ (\S+) (\d+) (\S+)$', re.MULTILINE)


def _read_locks(*paths):
    """How often each (file, first, last) is locked, according to these files."""
    found = collections.Counter()
    for path in paths:
        try:
            with open(path, encoding='ascii', errors='replace') as f:
                found.update(_LOCK.findall(f.read()))
        except OSError:
            pass  # the process, or its descriptor, has gone
    return found


def locked_files(pid):
    """The files that a process has locked, each with a path of it, as wait_unlocked() wants them."""
    found = {}
    for info in glob.glob(f'/proc/{pid}/fdinfo/*'):
        for file, _, _ in _read_locks(info):
            try:
                found[file] = os.readlink(info.replace('/fdinfo/', '/fd/'))
            except OSError:
                pass  # closed meanwhile
    return found


def _any_orphan(files):
    """Whether anything of these files is locked that no process has locked."""
    found = _read_locks('/proc/locks')
    if any(lock[0] in files for lock in found):
        found -= _read_locks(*glob.glob('/proc/[0-9]*/fdinfo/*'))
    return any(lock[0] in files for lock in found)


def wait_unlocked(files):
    """Wait until the locks of these files that a dead process had are gone, whoever else has some."""
    wait_until(lambda: not _any_orphan(files), interval=0.002,
               what=f'the locks of a dead process to end: {", ".join(files.values())}')
