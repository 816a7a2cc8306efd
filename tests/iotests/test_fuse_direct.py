# SPDX-License-Identifier: GPL-2.0-or-later
"""FUSE exports of files that are opened past the page cache, where the kernel keeps the buffers of
requests: what it keeps must be what requests use, whatever becomes of that memory meanwhile."""

import os
import random

import test_fuse_lifecycle
from test_fuse_lifecycle import LATER

from wharf import *

MIB = 1 << 20
WRONG = 250  # the status of a child that has read what it has not written


@fuse_test
class DirectTest(test_fuse_lifecycle.LifeTest):
    """One export e0 of a file of 4 MiB on a file system that knows direct I/O."""

    def setUp(self):
        super().setUp()
        self.image = os.path.join(self.ext4()[0], 'image')
        self.content = bytearray(random.Random(1).randbytes(self.SIZE))
        with open(self.image, 'wb') as f:
            f.write(self.content)

    def add(self, daemon=None, node='n0', direct=True, **options):
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': node, 'filename': self.image,
                                             'cache': {'direct': direct}})
        self.add_export(node=node, **options)

    def uses_rings(self):
        return any('io_uring' in target for target in self.daemon.fds().values())

    def wait_given_back(self):
        wait_until(lambda: self.daemon.pinned() == 0, what='the memory to be given back')

    def assert_content(self, data, offset):
        wrong = [i for i in range(0, len(data), 512)
                 if data[i:i + 512] != self.content[offset + i:offset + i + 512]]
        self.assertEqual(wrong, [])

    def exchange(self, rng, sizes):
        """Write something new by requests of such sizes, and read all of it by others."""
        fd = self.worker.open(self.mnt, os.O_RDWR | os.O_DIRECT)
        for _ in range(16):
            size = rng.choice(sizes)
            offset = rng.randrange(0, self.SIZE - size + 1, 512)
            data = rng.randbytes(size)
            self.assertEqual(self.worker.pwrite_direct(fd, data, offset), size)
            self.content[offset:offset + size] = data
        for size in sizes:
            offset = rng.randrange(0, self.SIZE - size + 1, 512)
            self.assert_content(self.worker.pread_direct(fd, size, offset), offset)
        self.assert_content(self.worker.pread_direct(fd, self.SIZE, 0), 0)
        self.worker.close(fd)
        with open(self.image, 'rb') as f:
            self.assert_content(f.read(), 0)


class Memory(DirectTest):
    def pinned_after_write(self):
        """What is held right after a request: if the machine lets us look so soon, while it is in use."""
        fd = self.worker.open(self.mnt, os.O_RDWR | os.O_DIRECT)
        self.worker.pwrite_direct(fd, bytes(self.content[:4096]), 0)
        pinned = self.daemon.pinned()
        self.worker.close(fd)
        return pinned

    def test_held_for_direct_io_only(self):
        for direct in (False, True):
            self.add(direct=direct, iothread='t0')
            self.exchange(random.Random(2), (4096, MIB))
            if direct and self.uses_rings():
                wait_until(lambda: self.pinned_after_write() > 0, what='memory to be held')
            else:
                self.assertEqual(self.pinned_after_write(), 0)
            self.delete()
            self.wait_given_back()
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_held_as_far_as_needed(self):
        self.add(iothread='t0')
        fd = self.worker.open(self.mnt, os.O_RDWR | os.O_DIRECT)
        for offset in range(0, 64 * 4096, 4096):
            self.worker.pwrite_direct(fd, bytes(4096), offset)
        self.assertLess(self.daemon.pinned(), MIB)

    def test_given_back(self):
        """Where large requests have been, for larger pages; and when there were none for a while."""
        rng = random.Random(3)
        self.add(iothread=['t0', 't1'])
        self.exchange(rng, (512, 4096, 65536))
        self.exchange(rng, (4096, MIB))
        for _ in range(8):
            self.worker.stat(self.mnt)  # a request without data, in an entry that has had large ones
        self.exchange(rng, (4096, MIB))
        self.wait_given_back()
        self.exchange(rng, (512, 65536, MIB))


class Checking(test_fuse_lifecycle.Load):
    """Each child reads back what it has written to its own part of the file."""

    def requests(self, number):
        rng = random.Random(number)
        part = self.test.SIZE // len(self.started)
        begin = number * part
        content = bytearray(self.test.content[begin:begin + part])

        def request(fd):
            size = rng.choice((512, 4096, 65536, part))
            offset = rng.randrange(0, part - size + 1, 512)
            if rng.random() < 0.5:
                content[offset:offset + size] = rng.randbytes(size)
                os.pwrite(fd, content[offset:offset + size], begin + offset)
            else:
                data = os.pread(fd, size, begin + offset)  # a short one, where it is cut off in the middle
                if data != content[offset:offset + len(data)]:
                    os._exit(WRONG)
        return request


class UnderLoad(DirectTest):
    THREADINGS = ({}, {'iothread': 't0'}, {'iothread': 't1'}, {'iothread': ['t0', 't1']})

    def test_deletion_and_other_iothreads(self):
        for threads in self.THREADINGS:
            self.add(**threads)
            load = Checking(self)
            self.delete('hard')
            load.assert_cut_off(LATER)
            wait_until(lambda: not self.daemon.qmp.cmd('query-block-exports'), what='the export to end')
            self.wait_given_back()
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})
            with open(self.image, 'rb') as f:
                self.content = bytearray(f.read())

    def test_direct_and_not_in_turn(self):
        self.add(iothread=['t0', 't1'])
        load = Checking(self)
        for i in range(10):
            self.daemon.qmp.cmd('blockdev-reopen', {'options': [{
                'driver': 'file', 'node-name': 'n0', 'filename': self.image, 'cache': {'direct': i % 2 == 1}}]})
        load.assert_running()
        load.stop()
        self.delete()
        self.wait_given_back()


if __name__ == '__main__':
    main()
