# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of an exported file: appending where others move it, limits, and who may not move it."""

import errno
import os
import threading

import test_fuse_file
from wharf import *

MIB = 1 << 20
APPEND = os.O_WRONLY | os.O_APPEND


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


class Append(EndTest):
    """The kernel takes the end from what it has last heard of the length."""

    def setUp(self):
        super().setUp()
        self.image = self.make_file('log.img', content=b'begin ')

    def test_after_another_client(self):
        self.export_twice()
        fd = self.open(APPEND)
        self.worker.write(fd, b'one ')
        self.worker.write_at(self.other, len(b'begin one '), b'OTHER ')
        for text in (b'two ', b'three '):
            self.assertEqual(self.worker.write(fd, text), len(text))
        self.assertEqual(self.image_bytes(), b'begin one OTHER two three ')
        self.assertEqual(self.worker.read_file(self.mnt), b'begin one OTHER two three ')
        self.assertEqual(self.size(), len(b'begin one OTHER two three '))

    def test_in_turns(self):
        self.export_twice()
        fds = [self.open(APPEND), self.worker.open(self.other, APPEND)]
        want = b'begin '
        for i in range(20):
            text = b'%d ' % i
            self.worker.write(fds[i // 3 % 2], text)
            want += text
            if i % 5 == 0:
                self.worker.fstat(fds[i % 2])
        self.assertEqual(self.image_bytes(), want)
        for path in (self.mnt, self.other):
            self.assertEqual(self.worker.read_file(path), want)

    def test_after_a_resize(self):
        """Longer, and shorter: no hole either."""
        self.export()
        fd = self.open(APPEND)
        self.worker.write(fd, b'one ')
        self.resize(20)
        self.worker.write(fd, b'two ')
        self.worker.write(fd, b'three ')
        self.assertEqual(self.image_bytes(), b'begin one '.ljust(20, b'\0') + b'two three ')
        self.resize(5)
        self.worker.write(fd, b'!')
        self.worker.write(fd, b'?')
        self.assertEqual(self.image_bytes(), b'begin!?')

    def test_of_more_than_a_request(self):
        self.export()
        fd = self.open(APPEND)
        self.worker.write(fd, b'one ')
        self.resize(5000)
        data = bytes(i * 13 % 251 for i in range(3 * MIB + 17))
        self.assertEqual(self.worker.write(fd, data), len(data))
        self.assertEqual(self.image_bytes(), b'begin one '.ljust(5000, b'\0') + data)

    def test_cut_by_the_client_itself(self):
        """Then the kernel knows."""
        self.export()
        fd = self.open(APPEND)
        self.worker.write(fd, b'one ')
        self.resize(20)
        self.worker.ftruncate(fd, 3)
        self.worker.write(fd, b'in')
        self.resize(30)
        self.worker.close(self.open(os.O_WRONLY | os.O_TRUNC))
        self.worker.write(fd, b'new')
        self.assertEqual(self.image_bytes(), b'new')

    def test_positions_stay(self):
        """Of writes that do not append."""
        self.export_twice()
        fd = self.open(os.O_WRONLY)
        self.resize(20)
        self.worker.pwrite(fd, b'B', 0)
        self.worker.pwrite(fd, b'old end', 6)
        self.assertEqual(self.image_bytes(), b'Begin old end'.ljust(20, b'\0'))

    def test_two_at_once(self):
        """Nothing is lost, and none is torn."""
        content = self.two_write(APPEND, lambda i, n: 0)
        self.assertEqual(sorted(content[len(b'begin '):].splitlines(keepends=True)), sorted(self.LINES))


class CachedAppend(Append):
    """The kernel has put the data where it took the end to be, into pages that it then has to drop."""

    def add(self, **options):
        super().add(**{'cache': 'page', **options})

    def export_twice(self, **options):
        super().export_twice(**{'cache': 'page', **options})

    def test_two_at_once(self):
        """Nothing is lost; but lines across the end of a page come in two writes."""
        content = self.two_write(APPEND, lambda i, n: 0)
        self.assertEqual(sorted(content), sorted(b'begin ' + b''.join(self.LINES)))


class NotGrowable(EndTest):
    def test_appends_find_the_true_end(self):
        """There is no room, wherever the kernel takes the end to be."""
        self.export(growable=False)
        fd = self.open(APPEND)
        self.refuses(errno.ENOSPC, 'write', fd, b'x')
        self.resize(self.SIZE + 100)
        self.refuses(errno.ENOSPC, 'write', fd, b'x')
        self.assertEqual(self.image_bytes(), self.content + bytes(100))

    def test_truncating_opens_begin_anew(self):
        """For these appends, the kernel counts from the beginning."""
        self.export(growable=False)
        fd = self.open(APPEND | os.O_TRUNC)
        self.worker.write(fd, b'new ')
        self.worker.write(fd, b'text')
        self.assertEqual(self.image_bytes(), b'new text' + self.content[8:])


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
