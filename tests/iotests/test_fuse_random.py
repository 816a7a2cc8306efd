# SPDX-License-Identifier: GPL-2.0-or-later
"""Random calls on an export, in each way of caching, compared with what a file must do."""

import mmap
import os
import random

import test_fuse_file
import test_fuse_writeback
from wharf import *
from wharf import fs as fs_module

ROUNDS = 400
MAX = 300000

KEEP = fs_module.FALLOC_KEEP_SIZE
PUNCH = fs_module.FALLOC_PUNCH_HOLE | KEEP
ZERO = fs_module.FALLOC_ZERO_RANGE


class Mix:
    """A file, several descriptors on it, and what must be in it."""

    def __init__(self, path, seed, content, direct=os.O_DIRECT):
        self.path = path
        self.random = random.Random(seed)
        self.want = bytearray(content)
        self.fds = [os.open(path, flags) for flags in (os.O_RDWR, os.O_RDWR, os.O_RDWR | direct)]
        self.write_only = os.open(path, os.O_WRONLY)
        self.append = os.open(path, os.O_WRONLY | os.O_APPEND)
        self.turn = 0

    def fd(self):
        return self.random.choice(self.fds)

    def range(self, end=MAX):
        """Small and large, aligned and not, often at the end."""
        offset = self.random.choice((self.random.randrange(end), len(self.want) - self.random.randrange(5000),
                                     self.random.randrange(end) & ~4095))
        length = self.random.choice((1, 7, 511, 4096, 8192, 70000))
        offset = min(max(offset, 0), end - 1)
        return offset, max(1, min(self.random.randrange(1, length + 1), end - offset))

    def data(self, length):
        return bytes([1 + self.turn % 255]) * length

    def extend(self, end):
        self.want.extend(bytes(max(0, end - len(self.want))))

    def put(self, offset, data):
        self.extend(offset + len(data))
        self.want[offset:offset + len(data)] = data

    def write(self):
        offset, length = self.range()
        fd = self.random.choice((*self.fds, self.write_only))
        data = self.data(length)
        assert fs_module.pwrite_direct(fd, data, offset) == length
        self.put(offset, data)

    def write_at_the_end(self):
        data = self.data(self.random.randrange(1, 5000))
        if len(self.want) + len(data) < MAX:
            assert os.write(self.append, data) == len(data)
            self.put(len(self.want), data)

    def read(self):
        offset, length = self.range()
        got = fs_module.pread_direct(self.fd(), length, offset)
        assert got == self.want[offset:offset + length], ('read', offset, length, len(got))

    def mapped(self):
        if len(self.want) == 0:
            return
        offset, length = self.range(len(self.want))
        data = self.data(length)
        with mmap.mmap(self.fds[0], len(self.want)) as m:
            assert m[offset:offset + length] == self.want[offset:offset + length], ('mapped', offset, length)
            if self.random.randrange(2):
                m[offset:offset + length] = data
                self.put(offset, data)

    def truncate(self):
        size = self.random.randrange(MAX)
        os.ftruncate(self.fd(), size)
        del self.want[size:]
        self.extend(size)

    def fallocate(self):
        offset, length = self.range()
        mode = self.random.choice((0, KEEP, PUNCH, ZERO, ZERO | KEEP))
        fs_module.fallocate(self.fd(), mode, offset, length)
        if not mode & KEEP:
            self.extend(offset + length)
        if mode & (PUNCH | ZERO) & ~KEEP:
            end = min(offset + length, len(self.want))
            self.want[offset:end] = bytes(max(0, end - offset))

    def copy(self):
        if len(self.want) < 3:
            return
        length = self.random.randrange(1, len(self.want) // 2)
        source = self.random.randrange(len(self.want) - length)
        target = self.random.randrange(MAX - length)
        if abs(source - target) < length:
            return
        done = os.copy_file_range(self.fds[0], self.fds[1], length, source, target)
        self.put(target, bytes(self.want[source:source + done]))

    def seek(self):
        """Whatever is said to be a hole must read as zeros."""
        end = len(self.want)
        if end == 0:
            return
        offset = self.random.randrange(end)
        try:
            data = os.lseek(self.fds[1], offset, os.SEEK_DATA)
        except OSError:
            data = end
        assert not any(self.want[offset:data]), ('seek', offset, data)

    def empty(self):
        if self.random.randrange(8) == 0:
            os.close(os.open(self.path, os.O_WRONLY | os.O_TRUNC))
            self.want.clear()

    def sync(self):
        os.fsync(self.random.choice((*self.fds, self.write_only)))

    def look(self):
        assert os.fstat(self.fd()).st_size == len(self.want)
        assert os.stat(self.path).st_size == len(self.want)

    def reopen(self):
        os.close(self.fds[1])
        self.fds[1] = os.open(self.path, os.O_RDWR)

    def run(self):
        calls = (self.write, self.write, self.write_at_the_end, self.read, self.read, self.mapped, self.truncate,
                 self.fallocate, self.copy, self.seek, self.empty, self.sync, self.look, self.reopen)
        for self.turn in range(ROUNDS):
            call = self.random.choice(calls)
            try:
                call()
                self.look()
            except Exception as e:
                raise AssertionError(f'turn {self.turn}: {call.__name__}: {e!r}') from e
        got = os.pread(self.fds[0], MAX + 1, 0)
        assert got == self.want, f'{len(got)} bytes, {len(self.want)} wanted'
        for fd in (*self.fds, self.write_only, self.append):
            os.close(fd)
        return bytes(self.want)


def mix(*args, **kwargs):
    return Mix(*args, **kwargs).run()


class Direct(test_fuse_file.FileTest):
    SEEDS = (1, 2, 3)

    def add(self, **options):
        super().add(**{'growable': True, **options})

    def test_plain_file(self):
        """The test itself. Other file systems want direct I/O aligned, so there is none."""
        plain = self.make_file('plain', content=self.content)
        want = in_child(mix, plain, 0, self.content, direct=0)
        self.assertEqual(self.worker.read_file(plain), want)

    def test_export(self):
        want = self.content
        self.export()
        for seed in self.SEEDS:
            want = in_child(mix, self.mnt, seed, want)
            self.assertEqual(self.worker.read_file(self.image), want)
        self.assertEqual(self.worker.read_file(self.mnt), want)


class Page(Direct):
    test_plain_file = None

    def add(self, **options):
        super().add(cache='page', **options)


class WriteBack(test_fuse_writeback.WriteBack, Direct):
    test_plain_file = None


if __name__ == '__main__':
    main()
