# SPDX-License-Identifier: GPL-2.0-or-later
"""Life of an export under load: however it begins, changes and ends, its clients get an answer."""

import errno
import os
import random
import signal

from wharf import *

MIB = 1 << 20


# What clients see of an end that cuts them off. With requests that the daemon has it depends on who
# answers: the daemon itself (dev), the kernel as the connection ends, or as the rings of a killed
# daemon go. Those that come later, or were not even fetched, find it ended or ending. Through the page
# cache a read that was cut off is tried again, and comes later.
DAEMON_GIVES_UP = {'dev': {errno.ENOTCONN}, 'io-uring': {errno.ECONNABORTED}}
CONNECTION_ENDS = {'dev': {errno.ECONNABORTED}, 'io-uring': {errno.ECONNABORTED}}
DAEMON_DIES = {'dev': {errno.ECONNABORTED}, 'io-uring': {errno.ECONNABORTED, errno.ECANCELED}}
LATER = {errno.ENOTCONN, errno.ECONNABORTED}


@fuse_test
class LifeTest(IoTest):
    """One export e0 of a file of 4 MiB."""

    SIZE = 4 * MIB
    EXPORT = {}  # more options of the export
    THREADS = ('t0', 't1')

    def setUp(self):
        super().setUp()
        self.image = self.make_file('disk.img', content=random.Random(1).randbytes(self.SIZE))
        self.mnt = self.mountpoint()
        self.daemon = self.start()
        self.worker = self.fs()

    def start(self, **kwargs):
        objects = [word for name in self.THREADS for word in ('--object', f'iothread,id={name}')]
        return self.wharfd(*objects, **kwargs)

    def add(self, daemon=None, node='n0', **options):
        daemon = daemon or self.daemon
        if node == 'n0':
            daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'n0', 'filename': self.image})
        self.add_export(daemon, node, **options)

    def add_export(self, daemon=None, node='n0', **options):
        daemon = daemon or self.daemon
        daemon.qmp.cmd('block-export-add', {
            'type': 'fuse', 'id': 'e0', 'node-name': node, 'mountpoint': self.mnt, 'writable': True,
            **{k.replace('_', '-'): v for k, v in {**self.EXPORT, **options}.items()}})
        self.used = self.transport(daemon)

    def delete(self, mode='safe'):
        self.daemon.qmp.cmd('block-export-del', {'id': 'e0', 'mode': mode})
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})

    def add_slow(self, seconds, **options):
        """Reads take so long."""
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'blkdebug', 'node-name': 'slow',
            'image': {'driver': 'file', 'filename': self.image},
            'inject-delay': [{'event': 'none', 'iotype': 'read', 'delay-ns': seconds * 10**9}]})
        self.add(node='slow', **options)

    def begin_read(self, worker=None, size=512):
        """A read in flight."""
        worker = worker or self.worker
        before = self.in_flight()
        fd = worker.open(self.mnt, os.O_RDWR)
        worker.start('pread', fd, size, 0)
        wait_until(lambda: self.in_flight() > before, what='the read to be in flight')

    def in_flight(self):
        return sum(e['in-flight'] for e in self.daemon.qmp.cmd('query-block-exports'))

    def transport(self, daemon=None):
        return (daemon or self.daemon).qmp.cmd('query-block-exports')[0]['fuse']['transport']

    def errors(self, end):
        """What a client may see of it."""
        errors = end[self.used] if isinstance(end, dict) else end
        return errors | LATER if self.EXPORT.get('cache') == 'page' else errors

    def assert_cut_off(self, end, function, *args):
        with self.assertRaises(OSError) as caught:
            function(*args)
        self.assertIn(caught.exception.errno, self.errors(end))

    def assert_ends(self, worker):
        """The call it is in, if any, succeeds or is cut off."""
        try:
            if worker.busy():
                worker.finish()
        except OSError as e:
            self.assertIn(e.errno, LATER)

    def force_unmount(self):
        """The daemon, which learns of the abort first, may be faster in taking the mount away."""
        run('umount', '-f', '-l', self.mnt, check=False)
        self.wait_unmounted(self.mnt)


class Load:
    """Children that read and write at random until something fails or they are told to stop."""

    def __init__(self, test, children=4):
        self.test = test
        self.pids = {}
        self.stopper = test.path('stop')
        if os.path.exists(self.stopper):
            os.unlink(self.stopper)
        self.started = [test.path(f'started{i}') for i in range(children)]
        for i, started in enumerate(self.started):
            if os.path.exists(started):
                os.unlink(started)
            pid = os.fork()
            if pid == 0:
                try:
                    self.run(i, started)
                finally:
                    os._exit(255)
            self.pids[pid] = None
        test.addCleanup(self.kill)
        wait_until(lambda: all(map(os.path.exists, self.started)), what='the load to run')

    def run(self, number, started):
        request = self.requests(number)
        turn = 0
        try:
            fd = self.open()
            while turn % 16 or not os.path.exists(self.stopper):
                request(fd)
                turn += 1
                if turn == 4:
                    os.close(os.open(started, os.O_CREAT | os.O_WRONLY))
            os._exit(0)
        except OSError as e:
            os._exit(e.errno)

    def requests(self, number):
        """What child number does time and again, called with a descriptor of its own."""
        rng = random.Random(number)
        block = bytes([number]) * 65536

        def request(fd):
            offset = rng.randrange(0, self.test.SIZE - len(block))
            size = rng.choice((512, 4096, len(block)))
            if rng.random() < 0.5:
                os.pread(fd, size, offset)
            else:
                os.pwrite(fd, block[:size], offset)
        return request

    def open(self):
        return os.open(self.test.mnt, os.O_RDWR)

    def reap(self):
        for pid, status in self.pids.items():
            if status is None:
                done, code = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.pids[pid] = os.waitstatus_to_exitcode(code)
        return all(status is not None for status in self.pids.values())

    def assert_running(self):
        self.reap()
        self.test.assertEqual(set(self.pids.values()), {None})

    def stop(self):
        os.close(os.open(self.stopper, os.O_CREAT | os.O_WRONLY))
        wait_until(self.reap, what='the load to end')
        self.test.assertEqual(set(self.pids.values()), {0})

    def assert_cut_off(self, end):
        wait_until(self.reap, what='the clients to be cut off')
        self.test.assertLessEqual(set(self.pids.values()), self.test.errors(end) | LATER)

    def kill(self):
        self.reap()
        for pid, status in self.pids.items():
            if status is None:
                os.kill(pid, signal.SIGKILL)


class Knocking(Load):
    """Clients that come back whenever they are cut off, or find the place without a file."""

    def run(self, number, started):
        os.close(os.open(started, os.O_CREAT | os.O_WRONLY))
        while not os.path.exists(self.stopper):
            try:
                fd = self.open()
                while not os.path.exists(self.stopper) and os.pread(fd, 4096, number * 4096):
                    pass
                os.close(fd)
            except OSError as e:
                if e.errno not in LATER:
                    os._exit(e.errno)
        os._exit(0)


class Changing(LifeTest):
    def test_clients_that_knock_while_it_starts(self):
        """They find the file below, or the export, and nothing in between that hangs."""
        load = Knocking(self)
        for threads in ({}, {'iothread': 't0'}, {'iothread': ['t0', 't1']}) * 3:
            self.add(**threads)
            self.worker.read_file(self.mnt)
            self.delete('hard')
            wait_until(lambda: not self.daemon.qmp.cmd('query-block-exports'), what='the export to end')
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})
        load.stop()

    def test_move_to_other_iothreads(self):
        """By deletion and a new export of the same node; its clients come back."""
        self.add()
        load = Knocking(self)
        for threads in ({'iothread': 't0'}, {'iothread': 't1'}, {'iothread': ['t0', 't1']}, {}) * 2:
            self.delete('hard')
            wait_until(lambda: not self.daemon.qmp.cmd('query-block-exports'), what='the export to end')
            self.add_export(**threads)
            self.worker.read_file(self.mnt)
        load.stop()
        for name in self.THREADS:
            self.daemon.qmp.cmd('object-del', {'id': name})

    def test_refused_deletion(self):
        """What is in use goes on as if nothing had been asked for."""
        self.add(iothread=['t0', 't1'])
        load = Load(self)
        for _ in range(20):
            try:
                self.delete()
            except QmpError:
                continue
            load.assert_cut_off(LATER)  # nothing happened to be in flight
            return
        load.assert_running()
        load.stop()
        self.delete()

    def test_refused_unmount(self):
        self.add(iothread='t0')
        load = Load(self)
        for _ in range(5):
            self.assertIn('busy', run('umount', self.mnt, check=False).stderr)
        load.assert_running()
        load.stop()
        self.assertEqual(len(self.worker.read_file(self.mnt)), self.SIZE)

    def test_changes_of_the_node_under_load(self):
        """Draining waits for what is in the rings and lets it go on."""
        self.add(iothread=['t0', 't1'])
        load = Load(self)
        for i in range(20):
            self.daemon.qmp.cmd('blockdev-reopen', {'options': [{
                'driver': 'file', 'node-name': 'n0', 'filename': self.image,
                'discard': 'unmap' if i % 2 else 'ignore'}]})
        load.assert_running()
        load.stop()
        self.delete()


class Ending(LifeTest):
    """Whatever ends an export, and whenever: its clients get an answer, and nothing of it is left."""

    def test_open_files_are_cut_off(self):
        for mode in ('safe', 'hard'):
            self.add()
            fd = self.worker.open(self.mnt, os.O_RDONLY)
            self.delete(mode)
            self.assert_errno(errno.ENOTCONN, self.worker.pread, fd, 1, 0)
            self.assertFalse(self.mounted(self.mnt))
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_cycles_leave_nothing(self):
        counts = set()
        for i in range(12):
            self.add(iothread=['t0', 't1'])
            self.worker.write_at(self.mnt, i, b'x')
            self.delete()
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})
            if i >= 4:
                counts.add(len(self.daemon.fds()))
        self.assertEqual(len(counts), 1)

    def test_hard_in_mid_request(self):
        for threads in ({}, {'iothread': 't0'}, {'iothread': ['t0', 't1']}):
            self.add_slow(2, **threads)
            self.begin_read()
            self.delete('hard')
            self.assertFalse(self.mounted(self.mnt))
            self.assert_cut_off(DAEMON_GIVES_UP, self.worker.finish)
            wait_until(lambda: not self.daemon.qmp.cmd('query-block-exports'), what='the export to end')
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'slow'})

    def test_safe_waits_for_requests(self):
        self.add_slow(2)
        self.begin_read()
        with self.assertRaises(QmpError):
            self.daemon.qmp.cmd('block-export-del', {'id': 'e0'})
        self.assertEqual(len(self.worker.finish()), 512)
        self.delete()

    def test_requests_that_come_while_it_shuts_down(self):
        """Those in flight are answered; those that come too late fail, and do not hang."""
        self.add_slow(3)
        late = [self.fs() for _ in range(3)]
        fds = [worker.open(self.mnt, os.O_RDWR) for worker in late]
        self.begin_read()
        self.daemon.qmp.send({'execute': 'quit'})
        self.wait_unmounted(self.mnt)
        for worker, fd in zip(late, fds):
            # Writes are fast, until nobody begins them any more.
            while not self.worker.finished():
                worker.start('pwrite', fd, b'x' * 4096, MIB)
                if not worker.finished(0.2):
                    break
                self.assertEqual(worker.finish(), 4096)
        self.assertEqual(len(self.worker.finish()), 512)
        for worker, fd in zip(late, fds):
            self.assert_ends(worker)
            self.assert_cut_off(LATER, worker.pread, fd, 1, 0)
        self.assertEqual(self.daemon.wait(), 0)

    def test_quit_does_not_wait_for_ever(self):
        self.add_slow(3600)
        self.begin_read()
        self.daemon.qmp.send({'execute': 'quit'})
        self.assert_cut_off(DAEMON_GIVES_UP, self.worker.finish)
        self.daemon.wait()
        self.assertFalse(self.mounted(self.mnt))

    def test_deletion_under_load(self):
        for threads in ({}, {'iothread': 't0'}, {'iothread': ['t0', 't1']}) * 2:
            self.add(**threads)
            load = Load(self)
            self.delete('hard')
            load.assert_cut_off(DAEMON_GIVES_UP)
            wait_until(lambda: not self.daemon.qmp.cmd('query-block-exports'), what='the export to end')
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_quit_and_signals_under_load(self):
        for end in 'quit', signal.SIGTERM, signal.SIGINT:
            self.add(iothread='t0')
            load = Load(self)
            if end == 'quit':
                self.daemon.quit()
            else:
                self.daemon.terminate(end)
            load.assert_cut_off(DAEMON_GIVES_UP)
            self.assertFalse(self.mounted(self.mnt))
            self.daemon = self.start(name=f'after-{end}')

    def test_unmount_from_outside(self):
        self.add()
        self.worker.read_file(self.mnt)
        run('umount', self.mnt)
        event = self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})
        self.assertEqual(event['data']['reason'], 'unmounted')
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_lazy_unmount_from_outside(self):
        """Goes on for those who have it open; ends with the last of them."""
        self.add(iothread=['t0', 't1'])
        fd = self.worker.open(self.mnt, os.O_RDWR)
        run('umount', '-l', self.mnt)
        self.assertEqual(len(self.worker.pread(fd, MIB, 0)), MIB)
        self.worker.close(fd)
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})

    def test_forced_unmount_in_mid_request(self):
        self.need_root()
        self.add_slow(2, iothread='t0')
        self.begin_read()
        self.force_unmount()
        self.assert_cut_off(CONNECTION_ENDS, self.worker.finish)
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})

    def test_forced_unmount_under_load(self):
        self.need_root()
        for _ in range(3):
            self.add(iothread=['t0', 't1'])
            load = Load(self)
            self.force_unmount()
            load.assert_cut_off(CONNECTION_ENDS)
            self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_killed_daemon(self):
        """Nobody hangs on it, and the next one clears its mount away."""
        for seconds in (0, 3600):
            if seconds:
                self.add_slow(seconds, iothread='t0')
                self.begin_read()
                self.daemon.kill()
                self.assert_cut_off(DAEMON_DIES, self.worker.finish)
            else:
                self.add(iothread='t0')
                load = Load(self)
                self.daemon.kill()
                load.assert_cut_off(DAEMON_DIES)
            self.daemon = self.start(name=f'next{seconds}')
            self.add()
            self.assertEqual(len(self.worker.read_file(self.mnt)), self.SIZE)
            self.delete()
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})


class EndingWithPageCache(Ending):
    EXPORT = {'cache': 'page'}

    test_quit_does_not_wait_for_ever = None  # which is long, and knows nothing of caches


if __name__ == '__main__':
    main()
