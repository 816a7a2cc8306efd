# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of an exported file."""

import os
import threading

import test_fuse_file
from wharf import *


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


if __name__ == '__main__':
    main()
