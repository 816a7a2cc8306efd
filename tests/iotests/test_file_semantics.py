# SPDX-License-Identifier: GPL-2.0-or-later
"""Call by call: an export answers as a plain file on ext4 does.

The same calls go to a plain file and to a growable export of a raw image that lies on the same file
system; results, errors, sizes and contents must be equal.
"""

import errno
import os
import random

from wharf import *
from wharf import fs as fs_module
from wharf import tools

KIB = 1 << 10
MIB = 1 << 20
KEEP = fs_module.FALLOC_KEEP_SIZE
PUNCH = fs_module.FALLOC_PUNCH_HOLE | KEEP
ZERO = fs_module.FALLOC_ZERO_RANGE


@fuse_test
class Semantics(IoTest):
    SIZE = 256 * KIB + 100

    def setUp(self):
        super().setUp()
        self.need_loop()
        disk = self.make_file('ext4.img', 64 * MIB)
        run(find_tool('mkfs.ext4'), '-q', '-F', disk)
        self.base = self.path('ext4')
        os.mkdir(self.base)
        run('mount', '-o', 'loop', disk, self.base)
        self.plain = os.path.join(self.base, 'plain')
        self.image = os.path.join(self.base, 'image')
        content = random.Random(11).randbytes(self.SIZE)
        for path in (self.plain, self.image):
            with open(path, 'wb') as f:
                f.write(content)
                os.fsync(f.fileno())
        self.mnt = self.mountpoint()
        self.daemon = self.wharfd()
        # Unmounted in order: the export first, then what its image lies on.
        self.addCleanup(self.unmount_base)
        self.addCleanup(self.daemon.stop)
        self.export()
        self.worker = self.fs()

    def unmount_base(self):
        tools.unmount(self.base)
        tools.detach_loops_below(self.dir)

    def export(self):
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'raw', 'node-name': 'n0', 'discard': 'unmap',
            'file': {'driver': 'file', 'filename': self.image, 'discard': 'unmap'}})
        self.daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'growable': True,
                                                 'mountpoint': self.mnt, 'writable': True})

    def open_both(self, flags):
        return [self.worker.open(path, flags) for path in (self.plain, self.mnt)]

    def outcome(self, name, fd, *args):
        try:
            return getattr(self.worker, name)(fd, *args)
        except OSError as e:
            return errno.errorcode[e.errno]

    def both(self, fds, name, *args):
        """The same call on both; returns the result that must be common."""
        plain, exported = (self.outcome(name, fd, *args) for fd in fds)
        shown = tuple(a if not isinstance(a, bytes) else f'{len(a)} bytes' for a in args)
        if isinstance(plain, bytes):
            self.assertTrue(plain == exported, f'{name}{shown}: other bytes')
        else:
            self.assertEqual(exported, plain, f'{name}{shown}')
        sizes = [self.worker.fstat(fd).st_size for fd in fds]
        self.assertEqual(sizes[1], sizes[0], f'size after {name}{shown}')
        return plain

    def assert_same_content(self):
        self.assertEqual(os.stat(self.image).st_size, os.stat(self.plain).st_size)
        run('cmp', self.plain, self.mnt)
        run('cmp', self.plain, self.image)

    def test_truncate(self):
        fds = self.open_both(os.O_RDWR)
        for size in (self.SIZE, self.SIZE + 1, 4096, 4097, 511, 1, 0, 100000, 1 << 60, -1, 70000):
            self.both(fds, 'ftruncate', size)
        self.assert_same_content()
        for fd in fds:
            self.worker.close(fd)
        fds = self.open_both(os.O_RDONLY)
        self.assertEqual(self.both(fds, 'ftruncate', 5), 'EINVAL')

    def test_read_and_write(self):
        fds = self.open_both(os.O_RDWR)
        end = self.SIZE
        for offset, size in ((0, 0), (0, 1), (1, 4096), (4095, 2), (65535, 65537), (end - 1, 1), (end - 10, 20),
                             (end, 0), (end, 10), (end + 10, 10), (1 << 60, 10), (-1, 10)):
            self.both(fds, 'pread', size, offset)
        for offset, size in ((0, 0), (0, 1), (1, 4096), (4095, 2), (end - 10, 20), (end + 10, 0), (end + 30, 10),
                             (end + 100000, 1), (1 << 60, 10), (-1, 10)):
            self.both(fds, 'pwrite', b'w' * size, offset)
        self.assert_same_content()

    def test_append(self):
        fds = self.open_both(os.O_WRONLY | os.O_APPEND)
        for size in (6, 0, 1, 5000):
            self.both(fds, 'write', b'a' * size)
        self.assert_same_content()

    def test_open_truncates(self):
        fds = self.open_both(os.O_RDWR | os.O_TRUNC)
        self.both(fds, 'pread', 10, 0)
        self.both(fds, 'pwrite', b'new', 3)
        self.assert_same_content()

    def test_wrong_descriptors(self):
        readers = self.open_both(os.O_RDONLY)
        for name, args in (('pwrite', (b'x', 0)), ('fallocate', (0, 0, 10)), ('ftruncate', (0,))):
            self.both(readers, name, *args)
        writers = self.open_both(os.O_WRONLY)
        self.both(writers, 'pread', 10, 0)

    def test_fallocate_refusals(self):
        fds = self.open_both(os.O_RDWR)
        for mode in (0, KEEP, PUNCH, ZERO, ZERO | KEEP):
            for offset, length in ((0, 0), (-1, 10), (0, -1), (10, 0), ((1 << 63) - 10, 10)):
                self.both(fds, 'fallocate', mode, offset, length)
        for mode in (0, ZERO):  # what keeps the size has nothing to do beyond it
            self.both(fds, 'fallocate', mode, 1 << 60, 10)
            self.both(fds, 'fallocate', mode, 0, 1 << 60)
        self.both(fds, 'fallocate', fs_module.FALLOC_PUNCH_HOLE, 0, 4096)
        self.assert_same_content()

    def test_fallocate(self):
        fds = self.open_both(os.O_RDWR)
        end = self.SIZE
        for mode in (KEEP, PUNCH, ZERO | KEEP, 0, ZERO):
            for offset, length in ((0, 4096), (8192, 65536), (4097, 1), (4095, 4098), (end - 10, 5),
                                   (end - 10, 10), (end - 10, 20000), (end, 10), (end + 10, 10),
                                   (end + MIB, 4096)):
                self.assertIsNone(self.both(fds, 'fallocate', mode, offset, length))
            self.assert_same_content()

    def test_collapse_and_insert_are_refused(self):
        fd = self.worker.open(self.mnt, os.O_RDWR)
        for mode in (fs_module.FALLOC_COLLAPSE_RANGE, fs_module.FALLOC_INSERT_RANGE):
            self.assert_errno(errno.EOPNOTSUPP, self.worker.fallocate, fd, mode, 4096, 4096)

    def seek_all(self, fds):
        size = self.worker.fstat(fds[0]).st_size
        for whence in (os.SEEK_SET, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE):
            for offset in (-1, 0, 1, 4095, 4096, 65536, 100000, 131072, size - 1, size, size + 1, -(1 << 62)):
                if whence == os.SEEK_HOLE and offset == size:
                    # The end is a hole, as QSD has it; file systems do not agree here.
                    self.assertEqual(self.worker.lseek(fds[1], offset, whence), size)
                else:
                    self.both(fds, 'lseek', offset, whence)
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            self.both(fds, 'lseek', 1 << 60, whence)

    def test_lseek_without_holes(self):
        self.seek_all(self.open_both(os.O_RDONLY))

    def test_lseek_with_holes(self):
        fds = self.open_both(os.O_RDWR)
        self.both(fds, 'fallocate', PUNCH, 64 * KIB, 64 * KIB)
        self.both(fds, 'fallocate', PUNCH, 4096, 4096)
        self.both(fds, 'ftruncate', MIB + 5)
        self.both(fds, 'fsync')
        self.seek_all(fds)

    def test_lseek_all_hole_and_empty(self):
        fds = self.open_both(os.O_RDWR)
        self.both(fds, 'ftruncate', 0)
        self.seek_all(fds)
        self.both(fds, 'ftruncate', MIB)
        self.seek_all(fds)

    def test_times_and_modes(self):
        for path in (self.plain, self.mnt):
            self.worker.chmod(path, 0o640)
            self.worker.utime(path, ns=(10**18 + 7, 10**18 + 8))
        plain, exported = (self.worker.stat(path) for path in (self.plain, self.mnt))
        self.assertEqual(exported.st_mode, plain.st_mode)
        self.assertEqual(exported.st_mtime_ns, plain.st_mtime_ns)
        before = exported.st_mtime_ns
        self.worker.write_at(self.mnt, 0, b'x')
        self.assertGreater(self.worker.stat(self.mnt).st_mtime_ns, before)

    def random_call(self, rng, end):
        offset = rng.choice((rng.randrange(end), rng.randrange(end) // 4096 * 4096, end - 1, end, end + 5000))
        length = rng.choice((1, 511, 4096, 5000, 65536, rng.randrange(1, 100000)))
        kind = rng.randrange(10)
        if kind < 3:
            return 'pwrite', (rng.randbytes(length), offset)
        if kind < 6:
            return 'pread', (length, offset)
        if kind < 9:
            return 'fallocate', (rng.choice((0, KEEP, PUNCH, ZERO, ZERO | KEEP)), offset, length)
        return 'ftruncate', (min(offset, 2 * MIB),)

    def test_long_random_sequence(self):
        rng = random.Random(99)
        fds = self.open_both(os.O_RDWR)
        for turn in range(600):
            size = max(1, self.worker.fstat(fds[0]).st_size)
            if size > 3 * MIB:
                self.both(fds, 'ftruncate', 100000)
                size = 100000
            name, args = self.random_call(rng, size)
            self.both(fds, name, *args)
            if turn % 100 == 99:
                self.assert_same_content()
        # What is called a hole reads as zeros.
        at, size = 0, self.worker.fstat(fds[1]).st_size
        while at < size:
            hole = self.worker.lseek(fds[1], at, os.SEEK_HOLE)
            try:
                at = self.worker.lseek(fds[1], hole, os.SEEK_DATA)
            except OSError as e:
                self.assertEqual(e.errno, errno.ENXIO)
                at = size
            self.assertEqual(self.worker.pread(fds[1], at - hole, hole).strip(b'\0'), b'')


if __name__ == '__main__':
    main()
