# SPDX-License-Identifier: GPL-2.0-or-later
"""Switches of the kernel that tests need in some position, for as long as one of them runs."""

import contextlib
import fcntl
import os

AUTOGROUP = '/proc/sys/kernel/sched_autogroup_enabled'


def _lock(fd, how):
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Switch:
    """One switch, shared by all processes that know the same lock.

    Whoever has the lock file locked needs the switch in the wanted position; the file holds what to
    set it to when the last of them goes, or nothing where that is to be left as it is.
    """

    def __init__(self, path, lock, wanted):
        self.path = path
        self.lock = lock
        self.wanted = wanted

    def read(self):
        """Its position; None where the kernel has no such thing."""
        try:
            with open(self.path, encoding='ascii') as f:
                return f.read().strip()
        except OSError:
            return None

    def _write(self, value):
        with open(self.path, 'w', encoding='ascii') as f:
            f.write(value)

    def _open_lock(self):
        return os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def is_out_of_reach(self):
        """Whether it is in another position than wanted, and not ours to move."""
        return self.read() != self.wanted and (os.geteuid() != 0 or not os.access(self.path, os.W_OK))

    def hold(self):
        """Have it in the wanted position; returns what is to be called in the end."""
        if os.geteuid() != 0:
            return lambda: None
        fd = self._open_lock()
        fcntl.flock(fd, fcntl.LOCK_SH)
        before = self.read()
        if before != self.wanted:
            os.pwrite(fd, before.encode(), 0)
            self._write(self.wanted)
        return lambda: self._release(fd)

    def _release(self, fd):
        try:
            before = os.pread(fd, 1, 0).decode() if _lock(fd, fcntl.LOCK_EX) else ''
            if before:
                self._write(before)
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def put_back(self):
        """Do what those who were killed have left undone, unless others need it as it is."""
        if os.geteuid() == 0 and os.path.exists(self.lock):
            self._release(self._open_lock())

    def try_to_keep_free(self):
        """A descriptor that keeps everybody from holding it until it is closed; None while anybody does."""
        fd = self._open_lock()
        if _lock(fd, fcntl.LOCK_EX):
            return fd
        os.close(fd)
        return None


_autogroup = Switch(AUTOGROUP, '/run/wharf-test-autogroup', '0')


@contextlib.contextmanager
def fair_scheduling():
    """Have no scheduler groups made of sessions (sched(7), autogroup), where we may say so.

    With them, kernels of the 6.18 series give nothing to all other groups, threads of the kernel among
    them, for up to a minute, while processes of one session wake each other fast: weights of groups are
    changed with each such waking, and the group's lag gets lost. That is what clients of a daemon do.
    """
    _autogroup.put_back()
    if _autogroup.read() is None or _autogroup.is_out_of_reach():
        yield
        return
    release = _autogroup.hold()
    try:
        yield
    finally:
        release()
