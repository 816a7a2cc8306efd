# SPDX-License-Identifier: GPL-2.0-or-later
"""Space for qcow2 images ahead of writes: fallocate of an export; and lengths of any size."""

import errno
import os

from wharf import *
from wharf import fs as fs_module
from wharf.qcow2 import KIB, MIB, TIB, Qcow2WriteTest

KEEP_SIZE = fs_module.FALLOC_KEEP_SIZE


@fuse_test
class AllocateTest(Qcow2WriteTest):
    SIZE = 4 * MIB

    def setUp(self):
        super().setUp()
        self.daemon = self.wharfd()

    def kinds(self):
        yield {}
        yield {'compat': '0.10'}
        yield {'cluster_size': '4k', 'refcount_bits': 64}
        yield {'extended_l2': 'on'}
        yield {'data_file': self.path('data')}
        yield {'data_file': self.path('data'), 'data_file_raw': 'on'}

    def test_fallocate(self):
        """All that is in the range has its place then, and what is in it stays."""
        base = self.make_file('base', content=b'base' * 300000)
        for kind in self.kinds():
            for backing in (None, base):
                if backing and 'data_file_raw' in kind:
                    continue
                with self.subTest(kind=kind, backing=backing):
                    self.try_fallocate(kind, backing)

    def try_fallocate(self, kind, backing):
        image = self.create('image', self.SIZE, backing=backing, backing_format='raw', **kind)
        self.scribble(image, self.SIZE, 7)
        if 'data_file' not in kind:
            self.qemu_io(image, 'write -c -P 9 1M 64k')
            run(self.qemu_img, 'snapshot', '-c', 'before', image)
            self.qemu_io(image, 'write -P 8 2M 100k')
        model = self.read_all(image)
        mountpoint = self.open(self.daemon, image)
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDWR)
        worker.fallocate(fd, KEEP_SIZE, 100, self.SIZE - 200)
        worker.fsync(fd)
        where = kind.get('data_file', image)
        self.assertGreaterEqual(os.stat(where).st_blocks * 512, self.SIZE)
        before = os.stat(where)
        worker.pwrite(fd, b'x' * 500000, 1234567)
        model[1234567:1234567 + 500000] = b'x' * 500000
        worker.fsync(fd)
        self.assertEqual(os.stat(where).st_blocks, before.st_blocks)
        worker.close(fd)
        self.remove(self.daemon)
        self.check(image)
        self.compare(image, bytes(model))
        if 'data_file' not in kind:
            run(self.qemu_img, 'snapshot', '-a', 'before', image)
            self.qemu_io(image, 'read -P 9 1M 64k')
            run(self.qemu_img, 'snapshot', '-d', 'before', image)
            self.check(image)

    def test_foreign_data_file(self):
        """Of data in a file of its own nothing else has a part, whatever the entry says."""
        for raw in ('off', 'on'):
            data = self.path(f'data-{raw}')
            image = self.create('image', self.SIZE, data_file=data, data_file_raw=raw)
            self.scribble(image, self.SIZE, 7)
            self.clear_copied(image)
            model = self.read_all(image)
            mountpoint = self.open(self.daemon, image)
            worker = self.fs()
            fd = worker.open(mountpoint, os.O_RDWR)
            worker.fallocate(fd, KEEP_SIZE, 100, self.SIZE - 200)
            worker.pwrite(fd, b'x' * 5000, 1234567)
            model[1234567:1234567 + 5000] = b'x' * 5000
            worker.close(fd)
            self.remove(self.daemon)
            self.assertGreaterEqual(os.stat(data).st_blocks * 512, self.SIZE)
            self.compare(image, bytes(model))

    def clear_copied(self, image):
        """Have no entry say that its cluster is counted once."""
        with open(image, 'r+b') as f:
            f.seek(40)
            f.seek(int.from_bytes(f.read(8), 'big'))
            table = int.from_bytes(f.read(8), 'big') & 0x00fffffffffffe00
            for entry in range(table, table + self.SIZE // (64 * KIB) * 8, 8):
                f.seek(entry)
                byte = f.read(1)[0]
                f.seek(entry)
                f.write(bytes([byte & 0x7f]))

    def test_no_space(self):
        """A failure leaves nothing but what there was."""
        self.need_root()
        os.mkdir(self.path('tmpfs'))
        run('mount', '-t', 'tmpfs', '-o', 'size=3m', 'none', self.path('tmpfs'))
        image = self.create('tmpfs/image', self.SIZE)
        mountpoint = self.open(self.daemon, image)
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDWR)
        self.assert_errno(errno.ENOSPC, worker.fallocate, fd, KEEP_SIZE, 0, self.SIZE)
        worker.close(fd)
        self.remove(self.daemon)
        self.check(image)
        self.compare(image, bytes(self.SIZE))

    def test_any_length(self):
        """What is not a multiple of 512 becomes the next one, filled up by zeros."""
        image = self.create('image', MIB)
        self.add(self.daemon, image, **{'read-only': False})
        mountpoint = self.export(self.daemon, writable=True, growable=True)
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDWR)
        worker.pwrite(fd, b'abc' * 1000, 0)
        for size in (1000, 3000, 1, 70001, 512):
            worker.ftruncate(fd, size)
            rounded = (size + 511) // 512 * 512
            self.assertEqual(worker.fstat(fd).st_size, rounded)
            content = worker.pread(fd, rounded, 0)
            self.assertEqual(content[size:], bytes(rounded - size))
        worker.ftruncate(fd, 0)
        worker.pwrite(fd, b'z' * 777, 2000)
        wait_until(lambda: worker.fstat(fd).st_size == 3072)
        self.assertEqual(worker.pread(fd, 4000, 0), bytes(2000) + b'z' * 777 + bytes(295))
        worker.close(fd)
        self.remove(self.daemon)
        self.check(image)
        self.compare(image, bytes(2000) + b'z' * 777 + bytes(295))

    def test_growing_fallocate(self):
        image = self.create('image', MIB)
        self.add(self.daemon, image, **{'read-only': False})
        mountpoint = self.export(self.daemon, writable=True, growable=True)
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDWR)
        worker.fallocate(fd, 0, MIB, 3 * MIB)
        worker.fsync(fd)
        self.assertEqual(worker.fstat(fd).st_size, 4 * MIB)
        self.assertGreaterEqual(os.stat(image).st_blocks * 512, 3 * MIB)
        worker.close(fd)
        self.remove(self.daemon)
        self.check(image)
        self.compare(image, bytes(4 * MIB))

    def test_what_was_cut_off_does_not_come_back(self):
        """Nor does what a longer backing file has there."""
        base = self.make_file('base', content=b'b' * MIB)
        for backing in (None, base):
            for kind in ({}, {'compat': '0.10'}, {'extended_l2': 'on'}):
                image = self.create('image', MIB, backing=backing, backing_format='raw', **kind)
                self.qemu_io(image, 'write -P 3 0 1M')
                daemon = self.daemon
                self.add(daemon, image, **{'read-only': False})
                for size in (100 * KIB + 512, MIB):
                    daemon.qmp.cmd('block_resize', {'node-name': 'q', 'size': size})
                self.remove(daemon, exported=False)
                self.check(image)
                self.compare(image, b'\3' * (100 * KIB + 512) + bytes(MIB - 100 * KIB - 512))

    def test_huge(self):
        """The L1 table is longer than what one refcount block counts."""
        for size, kind in ((TIB // 8, {'cluster_size': '512'}),
                           (2 * TIB, {'cluster_size': '4k', 'refcount_bits': 64})):
            image = self.create('image', MIB, **kind)
            self.add(self.daemon, image, **{'read-only': False})
            self.daemon.qmp.cmd('block_resize', {'node-name': 'q', 'size': size})
            mountpoint = self.export(self.daemon, writable=True)
            worker = self.fs()
            fd = worker.open(mountpoint, os.O_RDWR)
            worker.pwrite(fd, b'end', size - 3)
            worker.fsync(fd)
            worker.close(fd)
            self.remove(self.daemon)
            self.check(image)
            self.qemu_io(image, f'read -P 0 {size - 1024} 1021')


if __name__ == '__main__':
    main()
