# SPDX-License-Identifier: GPL-2.0-or-later
"""File system calls that may hang, made by a child so that the test cannot.

Call nothing on a mountpoint of a daemon under test but through this module or tools.run().
"""

import ctypes
import mmap
import os
import pickle
import select
import signal
import struct
import time

from .tools import TIMEOUT

FALLOC_KEEP_SIZE = 0x01
FALLOC_PUNCH_HOLE = 0x02
FALLOC_COLLAPSE_RANGE = 0x08
FALLOC_ZERO_RANGE = 0x10
FALLOC_INSERT_RANGE = 0x20
FALLOC_UNSHARE_RANGE = 0x40

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class FsTimeout(AssertionError):
    """A call did not return in time: the mount hangs."""


# What FsWorker offers beside all of module os.


def fallocate(fd, mode, offset, length):
    """fallocate(2) with any mode."""
    if _libc.fallocate(fd, mode, offset, length) != 0:
        err = ctypes.get_errno()
        raise OSError(err, os.strerror(err))


def read_file(path, offset=0, size=None):
    """All bytes (or size of them) from an offset on."""
    fd = os.open(path, os.O_RDONLY)
    try:
        chunks = []
        while size is None or size > 0:
            chunk = os.pread(fd, 1 << 20 if size is None else min(size, 1 << 20), offset)
            if not chunk:
                break
            chunks.append(chunk)
            offset += len(chunk)
            size = None if size is None else size - len(chunk)
        return b''.join(chunks)
    finally:
        os.close(fd)


def write_at(path, offset, data, flags=0, sync=False):
    """Write all of data at an offset of an existing file; returns the bytes written at once."""
    fd = os.open(path, os.O_WRONLY | flags)
    try:
        done = os.pwrite(fd, data, offset)
        if sync:
            os.fsync(fd)
        return done
    finally:
        os.close(fd)


def pread_direct(fd, size, offset):
    """pread into memory aligned to a page, as O_DIRECT wants it."""
    with mmap.mmap(-1, max(size, 1)) as buffer:
        done = os.preadv(fd, [memoryview(buffer)[:size]], offset)
        return buffer[:done]


def pwrite_direct(fd, data, offset):
    """pwrite from memory aligned to a page."""
    with mmap.mmap(-1, max(len(data), 1)) as buffer:
        buffer[:len(data)] = data
        return os.pwritev(fd, [memoryview(buffer)[:len(data)]], offset)


_EXTRA = {f.__name__: f for f in (fallocate, read_file, write_at, pread_direct, pwrite_direct)}


def _write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def _read_exact(fd, size, deadline):
    """Exactly size bytes, None at the end of file; FsTimeout at the deadline (None: wait)."""
    data = bytearray()
    while len(data) < size:
        if deadline is not None:
            ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise FsTimeout('no answer in time')
        chunk = os.read(fd, size - len(data))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


def _send(fd, value):
    data = pickle.dumps(value)
    _write_all(fd, struct.pack('=Q', len(data)) + data)


def _receive(fd, deadline=None):
    head = _read_exact(fd, 8, deadline)
    if head is None:
        raise EOFError
    data = _read_exact(fd, struct.unpack('=Q', head)[0], deadline)
    if data is None:
        raise EOFError
    return pickle.loads(data)


def _answer(fd, function, args, kwargs):
    try:
        answer = (True, function(*args, **kwargs))
    except BaseException as e:  # every failure travels to the test
        answer = (False, e)
    try:
        _send(fd, answer)
    except (pickle.PicklingError, TypeError, AttributeError):
        _send(fd, (False, RuntimeError(f'cannot hand back {answer!r}')))


def _kill(pid):
    """Kill a child; reap it if it can die now (it cannot while it hangs in the kernel)."""
    try:
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 2
        while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.005)
    except (ProcessLookupError, ChildProcessError):
        pass


def in_child(function, *args, timeout=TIMEOUT, **kwargs):
    """Run function(*args) in a child process; return or raise what it does. FsTimeout if it hangs."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(r)
            _answer(w, function, args, kwargs)
        finally:
            os._exit(0)
    os.close(w)
    try:
        ok, value = _receive(r, time.monotonic() + timeout)
    except FsTimeout:
        raise FsTimeout(f'{function.__name__}{args} did not return within {timeout} s') from None
    except EOFError:
        raise AssertionError(f'the child died in {function.__name__}{args}') from None
    finally:
        os.close(r)
        _kill(pid)
    if not ok:
        raise value
    return value


class FsWorker:
    """A child process that holds descriptors and makes calls for the test, one at a time.

        fs = self.fs()                          # ends with the test
        fd = fs.open(path, os.O_RDWR)           # any function of module os, or of this module
        fs.pwrite(fd, b'x', 0)
        fs.fallocate(fd, 0, 0, 4096)

    Errors are raised here as they were there. start() and finish() split a call in two, for calls
    that must be in flight while the test does something else.
    """

    def __init__(self, timeout=TIMEOUT):
        self.timeout = timeout
        self._pending = None
        request_r, self._w = os.pipe()
        self._r, answer_w = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._w)
                os.close(self._r)
                self._serve(request_r, answer_w)
            finally:
                os._exit(0)
        os.close(request_r)
        os.close(answer_w)

    @staticmethod
    def _serve(r, w):
        while True:
            try:
                name, args, kwargs = _receive(r)
            except EOFError:
                return
            _answer(w, _EXTRA.get(name) or getattr(os, name), args, kwargs)

    def start(self, name, *args, **kwargs):
        """Begin a call, without waiting for its end."""
        assert self._pending is None, 'one call at a time'
        _send(self._w, (name, args, kwargs))
        self._pending = f'{name}{args if len(repr(args)) < 200 else "(...)"}'

    def busy(self):
        """Whether a call was begun by start() and its result not fetched."""
        return self._pending is not None

    def finished(self, timeout=0):
        """Whether the call begun by start() has an answer waiting."""
        return bool(select.select([self._r], [], [], timeout)[0])

    def finish(self, timeout=None):
        """The result of the call begun by start()."""
        what, self._pending = self._pending, None
        timeout = self.timeout if timeout is None else timeout
        try:
            ok, value = _receive(self._r, time.monotonic() + timeout)
        except FsTimeout:
            self.kill()
            raise FsTimeout(f'{what} did not return within {timeout} s') from None
        except EOFError:
            raise AssertionError(f'the child died in {what}') from None
        if not ok:
            raise value
        return value

    def __getattr__(self, name):
        if name.startswith('_') or not (name in _EXTRA or hasattr(os, name)):
            raise AttributeError(name)

        def call(*args, **kwargs):
            self.start(name, *args, **kwargs)
            return self.finish()
        return call

    def kill(self):
        """Kill the child, which drops its descriptors. Harmless when repeated."""
        if self.pid:
            os.close(self._w)
            os.close(self._r)
            _kill(self.pid)
            self.pid = 0
