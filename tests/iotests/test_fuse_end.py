# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of an exported file."""

import errno
import os
import threading

import test_fuse_file
from wharf import *

MIB = 1 << 20


class EndTest(test_fuse_file.FileTest):
    LINES = [b'%d:%05d\n' % (i, n) for n in range(600) for i in range(2)]

    def add(self, **options):
        super().add(**{'growable': True, **options})

    def export_twice(self, iothreads=False, **options):
        threads = [{}, {}]
        if iothreads:
            threads = [{'iothread': f'io{i}'} for i in range(2)]
            for i in range(2):
                self.daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': f'io{i}'})
        self.export(**options, **threads[0])
        self.other = self.mountpoint('other')
        self.daemon.qmp.cmd('block-export-add', {
            'type': 'fuse', 'id': 'e1', 'node-name': 'n0', 'mountpoint': self.other, 'writable': True,
            'growable': True, **options, **threads[1]})

    def resize(self, size):
        self.daemon.qmp.cmd('block_resize', {'node-name': 'n0', 'size': size})

    def image_bytes(self):
        return self.worker.read_file(self.image)

    def two_write(self, flags, offset):
        """From two threads through a mount each, 600 lines of 8 bytes."""
        self.export_twice(iothreads=True)
        workers = [self.fs(), self.fs()]
        fds = [w.open(path, flags) for w, path in zip(workers, (self.mnt, self.other))]

        def write(i):
            for n in range(600):
                workers[i].pwrite(fds[i], b'%d:%05d\n' % (i, n), offset(i, n))

        threads = [threading.Thread(target=write, args=(i,)) for i in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return self.image_bytes()


class Growing(EndTest):
    def test_two_at_once(self):
        """By writes to places of their own: neither cuts off what the other has written."""
        self.image = self.make_file('empty.img')
        self.assertEqual(self.two_write(os.O_WRONLY, lambda i, n: 8 * (2 * n + i)), b''.join(self.LINES))


class Limits(EndTest):
    """What fits is written; only a write of which nothing does fails."""

    def check(self, limit):
        fd = self.open()
        self.assertEqual(self.worker.pwrite(fd, b'x' * 1000, limit - 10), 10)
        self.refuses(errno.EFBIG, 'pwrite', fd, b'x', limit)
        self.assertEqual(self.worker.pread(fd, 1000, limit - 20), bytes(10) + b'x' * 10)
        self.worker.ftruncate(fd, 5)
        self.assertEqual(self.worker.pwrite(fd, b'y' * (2 * MIB), limit - MIB - 512), MIB + 512)
        self.assertEqual(self.worker.fstat(fd).st_size, limit)
        self.worker.ftruncate(fd, 5)

    def test_of_the_file_system(self):
        directory, _ = self.ext4()
        image = os.path.join(directory, 'disk.img')
        limit = (1 << 32) * os.statvfs(directory).f_bsize - os.statvfs(directory).f_bsize
        with open(image, 'wb') as f:
            f.truncate(limit)
            with self.assertRaises(OSError):
                f.truncate(limit + 1)
            f.truncate(5)
        self.export(image)
        self.check(limit)

    def test_of_qcow2(self):
        """As many clusters of 512 bytes as the largest L1 table can name."""
        limit = 4 * MIB * 64 * 512
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f', 'filename': self.make_file('q', 0)})
        self.daemon.qmp.cmd('blockdev-create', {'job-id': 'j', 'options': {
            'driver': 'qcow2', 'file': 'f', 'size': limit - 100 * 512, 'cluster-size': 512}})
        wait_until(lambda: self.daemon.qmp.cmd('query-jobs')[0]['status'] == 'concluded', what='the job')
        self.export(node={'driver': 'qcow2', 'file': 'f'})
        fd = self.open()
        self.assertEqual(self.worker.pwrite(fd, b'x' * 1000, limit - 10), 10)
        self.refuses(errno.EFBIG, 'pwrite', fd, b'x', limit)
        self.assertEqual(self.worker.fstat(fd).st_size, limit)


class BackingFile(EndTest):
    """An overlay is to go on showing what it shows behind the end of its backing file."""

    def setUp(self):
        super().setUp()
        self.make_file('overlay.qcow2', 0)
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'g',
                                             'filename': self.path('overlay.qcow2')})
        self.daemon.qmp.cmd('blockdev-create', {'job-id': 'j', 'options': {
            'driver': 'qcow2', 'file': 'g', 'size': MIB, 'backing-file': self.image, 'backing-fmt': 'raw'}})
        wait_until(lambda: self.daemon.qmp.cmd('query-jobs')[0]['status'] == 'concluded', what='the job')

    def overlay(self):
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'o', 'file': 'g', 'backing': 'n0'})

    def test_keeps_its_length(self):
        self.export()
        self.overlay()
        fd = self.open()
        for size in (5, self.SIZE + 5):
            self.refuses(errno.EBUSY, 'ftruncate', fd, size)
        self.refuses(errno.EBUSY, 'open', self.mnt, os.O_WRONLY | os.O_TRUNC)
        self.refuses(errno.EBUSY, 'fallocate', fd, 0, self.SIZE, 5)
        self.refuses(errno.EBUSY, 'pwrite', fd, b'x', self.SIZE)
        self.assertEqual(self.worker.pwrite(fd, b'x' * 10, self.SIZE - 4), 4)
        self.assertEqual(self.image_bytes(), self.content[:-4] + b'xxxx')
        self.assertEqual(self.daemon.log().count("backing file of block node 'o'"), 1)

    def test_may_be_told_what_it_is(self):
        self.export()
        self.overlay()
        self.worker.truncate(self.mnt, self.SIZE)
        self.assertEqual(self.size(), self.SIZE)

    def test_changes_without_an_overlay(self):
        self.export()
        self.overlay()
        self.refuses(errno.EBUSY, 'truncate', self.mnt, 5)
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'o'})
        self.worker.truncate(self.mnt, 5)
        self.assertEqual(self.size(), 5)


if __name__ == '__main__':
    main()
