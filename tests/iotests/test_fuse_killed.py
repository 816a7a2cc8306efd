# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients that are killed while the storage hangs."""

import os
import signal

import test_fuse_file
from wharf import *

HOUR = 3600 * 10**9


class Killed(test_fuse_file.FileTest):
    def export_hanging(self, iotype, **options):
        self.export(node={'driver': 'raw', 'file': {
            'driver': 'blkdebug', 'inject-delay': [{'event': 'none', 'iotype': iotype, 'delay-ns': HOUR}],
            'image': {'driver': 'file', 'filename': self.image}}}, **options)
        self.addCleanup(self.end)

    def end(self):
        """The requests hang for good: nobody waits for them in vain."""
        self.daemon.kill()

    def start(self, flags, *call):
        """Begin a call in a process of its own that hangs."""
        worker = self.fs()
        fd = worker.open(self.mnt, flags)
        worker.start(call[0], fd, *call[1:])
        self.assertFalse(worker.finished(0.3))
        return worker

    def assert_ends(self, worker):
        wait_until(lambda: os.waitpid(worker.pid, os.WNOHANG)[0] == worker.pid, what='the end of the client')

    def kill(self, worker, sig=signal.SIGKILL):
        os.kill(worker.pid, sig)
        self.assert_ends(worker)

    @not_over('io-uring', 'an answer gives the buffer to the kernel, into which the node may still read')
    def test_reader(self):
        self.export_hanging('read')
        self.kill(self.start(os.O_RDWR, 'pread', 512, 0))
        self.kill(self.start(os.O_RDONLY, 'pread', 512, 0), signal.SIGTERM)
        # Who still waits goes on waiting, and all else works.
        waiting = self.start(os.O_RDONLY, 'pread', 512, 0)
        self.worker.write_at(self.mnt, 0, b'x')
        self.assertFalse(waiting.finished(2.5))
        self.kill(waiting)

    @not_over('io-uring', 'as above')
    def test_after_a_signal_that_is_no_end(self):
        """Of further ones the kernel does not tell the server."""
        self.export_hanging('read')
        worker = self.start(os.O_RDONLY, 'pread', 512, 0)
        os.kill(worker.pid, signal.SIGCONT)
        os.kill(worker.pid, signal.SIGWINCH)
        self.assertFalse(worker.finished(2.5))
        self.kill(worker)

    @not_over('io-uring', 'as above')
    def test_reader_of_several_queues(self):
        for i in range(2):
            self.daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': f'io{i}'})
        self.export_hanging('read', iothread=['io0', 'io1'], transport='dev')
        for worker in [self.start(os.O_RDONLY, 'pread', 512, 0) for _ in range(4)]:
            self.kill(worker)

    @not_over('io-uring', 'as above')
    def test_one_who_flushes(self):
        self.export_hanging('flush')
        worker = self.fs()
        fd = worker.open(self.mnt, os.O_RDWR)
        worker.pwrite(fd, b'x', 0)
        worker.start('fsync', fd)
        self.assertFalse(worker.finished(0.3))
        self.kill(worker)  # which flushes again when it closes


if __name__ == '__main__':
    main()
