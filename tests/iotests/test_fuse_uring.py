# SPDX-License-Identifier: GPL-2.0-or-later
"""FUSE over io_uring: the file is the same as through /dev/fuse, and however it ends, nothing hangs."""

import errno
import fcntl
import os
import random
import signal

import test_fuse_file

from wharf import *
from wharf import tools

MIB = 1 << 20
SWITCH = '/sys/module/fuse/parameters/enable_uring'
LOCK = '/run/wharf-test-enable-uring'  # one for the machine, as the switch is

# What a client may get whose request or connection was cut off; the last if the daemon was killed.
CUT_OFF = (errno.ENOTCONN, errno.ECONNABORTED, errno.ECANCELED)


def read_switch():
    try:
        with open(SWITCH, encoding='ascii') as f:
            return f.read().strip()
    except OSError:
        return None


def write_switch(value):
    with open(SWITCH, 'w', encoding='ascii') as f:
        f.write(value)


class UringTest(IoTest):
    """Has the kernel's switch on while the test runs, for as long as any such test does."""

    def setUp(self):
        self.switch_on()
        super().setUp()
        self.need_fuse()

    def switch_on(self):
        if read_switch() is None:
            self.skipTest('the kernel knows no FUSE over io_uring')
        if os.geteuid() != 0 or not os.access(SWITCH, os.W_OK):
            if read_switch() != 'Y':
                self.skipTest('cannot switch on FUSE over io_uring')
            return
        # Whoever has this file locked needs the switch; it holds what the switch was before.
        self.lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_SH)
        self.addCleanup(self.switch_back)
        if read_switch() != 'Y':
            os.pwrite(self.lock, b'N', 0)
            write_switch('Y')

    def switch_back(self):
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.pread(self.lock, 1, 0) == b'N':
                write_switch('N')
                os.ftruncate(self.lock, 0)
        except BlockingIOError:
            pass  # others need it still
        finally:
            os.close(self.lock)

    def transport(self, daemon=None):
        return (daemon or self.daemon).qmp.cmd('query-block-exports')[0]['fuse']['transport']


class OverUring:
    """Makes the tests of the file run over io_uring."""

    def add(self, **options):
        super().add(**{'transport': 'io-uring', **options})
        self.assertEqual(self.transport(), 'io-uring')


for _class in (test_fuse_file.Stat, test_fuse_file.Open, test_fuse_file.OtherUsers, test_fuse_file.Truncate,
               test_fuse_file.ReadWrite, test_fuse_file.Fallocate, test_fuse_file.Seek,
               test_fuse_file.Durability):
    globals()[f'{_class.__name__}OverUring'] = type(f'{_class.__name__}OverUring',
                                                    (OverUring, UringTest, _class), {'__module__': __name__})
del _class


class UringExport(UringTest):
    """One export e0 of a file of 4 MiB, over io_uring."""

    SIZE = 4 * MIB
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
        daemon.qmp.cmd('block-export-add', {
            'type': 'fuse', 'id': 'e0', 'node-name': node, 'mountpoint': self.mnt, 'writable': True,
            'transport': 'io-uring', **{k.replace('_', '-'): v for k, v in options.items()}})

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

    def assert_cut_off(self, function, *args):
        with self.assertRaises(OSError) as caught:
            function(*args)
        self.assertIn(caught.exception.errno, CUT_OFF)

    def assert_ends(self, worker):
        """The call it is in, if any, succeeds or is cut off."""
        try:
            if worker.busy():
                worker.finish()
        except OSError as e:
            self.assertIn(e.errno, CUT_OFF)

    def check_content(self):
        """Write and read all of it, from several processes, with requests of all sizes."""
        content = random.Random(2).randbytes(self.SIZE)
        workers = [self.fs() for _ in range(4)]
        part = self.SIZE // len(workers)
        fds = [worker.open(self.mnt, os.O_RDWR) for worker in workers]
        for i, (worker, fd) in enumerate(zip(workers, fds)):
            worker.start('pwrite', fd, content[i * part:(i + 1) * part], i * part)
        for worker in workers:
            self.assertEqual(worker.finish(), part)
        for size in (1, 4095, 65536, self.SIZE):
            for worker, fd in zip(workers, fds):
                worker.start('pread', fd, size, self.SIZE - size)
            for worker in workers:
                self.assertEqual(worker.finish(), content[self.SIZE - size:])
        with open(self.image, 'rb') as f:
            self.assertEqual(f.read(), content)
        for worker in workers:
            worker.kill()


class Choosing(UringExport):
    def test_default_and_dev(self):
        for options in ({'transport': 'auto'}, {'transport': 'dev'}):
            self.add(**options)
            self.assertEqual(self.transport(), 'dev')
            self.delete()
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_told(self):
        self.add()
        info = self.daemon.qmp.cmd('query-block-exports')[0]['fuse']
        self.assertEqual(info['transport'], 'io-uring')
        self.assertIn('over-io-uring', info['features'])

    def test_falls_back_without_io_uring(self):
        daemon = self.start(name='epoll', env={'WHARF_AIO': 'epoll'})
        self.add(daemon)
        self.assertEqual(self.transport(daemon), 'dev')
        self.assertIn('no FUSE over io_uring', daemon.log())
        self.assertEqual(len(self.worker.read_file(self.mnt)), self.SIZE)

    def test_options(self):
        for options in ({'queue_depth': 0}, {'queue_depth': 257}, {'transport': 'pigeon'}):
            with self.assertRaises(QmpError):
                self.add(node='none', **options)
        self.add(queue_depth=1)
        self.check_content()


class SwitchedOff(IoTest):
    @staticmethod
    def locked_alone(lock):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def test_falls_back(self):
        """The kernel does not offer it: a line in the log, and the export works."""
        self.need_root()
        self.need_fuse()
        lock = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.addCleanup(os.close, lock)
        # Tests that want the switch on wait for this one, as this one waits for them.
        wait_until(lambda: self.locked_alone(lock), 90, 'the other tests to switch FUSE over io_uring off')
        if read_switch() != 'N':
            self.skipTest('FUSE over io_uring is switched on')
        daemon = self.wharfd()
        mnt = self.mountpoint()
        self.add_file_export(daemon, self.make_file('disk.img', MIB), mnt, transport='io-uring')
        self.assertEqual(daemon.qmp.cmd('query-block-exports')[0]['fuse']['transport'], 'dev')
        self.assertIn('enable_uring', daemon.log())
        self.assertEqual(self.fs().read_file(mnt), bytes(MIB))


class Serving(UringExport):
    THREADS = tuple(f't{i}' for i in range(len(os.sched_getaffinity(0)) + 3))

    def test_any_number_of_iothreads(self):
        """None, fewer than there are CPUs, as many, more."""
        for threads in ([], ['t0'], ['t0', 't1'], list(self.THREADS)):
            self.add(**({'iothread': threads} if threads else {}))
            self.assertEqual(self.transport(), 'io-uring')
            self.check_content()
            self.delete()
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def affinity(self, name):
        """The CPUs that this iothread may run on."""
        for tid in os.listdir(f'/proc/{self.daemon.pid}/task'):
            with open(f'/proc/{self.daemon.pid}/task/{tid}/comm', encoding='ascii') as f:
                if f.read().strip() == name:
                    return os.sched_getaffinity(int(tid))
        raise AssertionError(f'there is no iothread {name}')

    def test_iothreads_go_where_they_serve(self):
        cpus = os.sched_getaffinity(self.daemon.pid)
        threads = ['t0', 't1']
        shares = {'t0': {cpu for cpu in cpus if cpu % 2 == 0}, 't1': {cpu for cpu in cpus if cpu % 2 == 1}}
        if not all(shares.values()):
            self.skipTest('there is no CPU for one of two iothreads')
        self.add(iothread=threads)
        self.assertEqual({name: self.affinity(name) for name in threads}, shares)
        self.check_content()
        self.delete()
        self.assertEqual({name: self.affinity(name) for name in threads}, {'t0': cpus, 't1': cpus})
        # Alone it serves all.
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})
        self.add(iothread='t0')
        self.assertEqual(self.affinity('t0'), cpus)

    def test_memory_is_used_only_by_requests(self):
        before = self.daemon.rss()
        self.add(queue_depth=256)
        self.worker.read_file(self.mnt, size=4096)
        # All entries of one CPU were 256 MiB.
        self.assertLess(self.daemon.rss() - before, 64 * MIB)

    def test_more_requests_than_entries(self):
        self.add_slow(1, queue_depth=1)
        workers = [self.fs() for _ in range(6)]
        for worker in workers:
            worker.start('read_file', self.mnt, 0, 512)
        for worker in workers:
            self.assertEqual(len(worker.finish()), 512)

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
        rng = random.Random(number)
        block = bytes([number]) * 65536
        turn = 0
        try:
            fd = os.open(self.test.mnt, os.O_RDWR)
            while turn % 16 or not os.path.exists(self.stopper):
                offset = rng.randrange(0, self.test.SIZE - len(block))
                size = rng.choice((512, 4096, len(block)))
                if rng.random() < 0.5:
                    os.pread(fd, size, offset)
                else:
                    os.pwrite(fd, block[:size], offset)
                turn += 1
                if turn == 4:
                    os.close(os.open(started, os.O_CREAT | os.O_WRONLY))
            os._exit(0)
        except OSError as e:
            os._exit(e.errno)

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

    def assert_cut_off(self):
        wait_until(self.reap, what='the clients to be cut off')
        self.test.assertLessEqual(set(self.pids.values()), set(CUT_OFF))

    def kill(self):
        self.reap()
        for pid, status in self.pids.items():
            if status is None:
                os.kill(pid, signal.SIGKILL)


class Ending(UringExport):
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
            self.assert_cut_off(self.worker.finish)
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
                worker.start('pwrite', fd, b'x' * 4096, 0)
                if not worker.finished(0.2):
                    break
                self.assertEqual(worker.finish(), 4096)
        self.assertEqual(len(self.worker.finish()), 512)
        for worker, fd in zip(late, fds):
            self.assert_ends(worker)
            self.assert_cut_off(worker.pread, fd, 1, 0)
        self.assertEqual(self.daemon.wait(), 0)

    def test_quit_does_not_wait_for_ever(self):
        self.add_slow(3600)
        self.begin_read()
        self.daemon.qmp.send({'execute': 'quit'})
        self.assert_cut_off(self.worker.finish)
        self.daemon.wait()
        self.assertFalse(self.mounted(self.mnt))

    def test_deletion_under_load(self):
        for threads in ({}, {'iothread': 't0'}, {'iothread': ['t0', 't1']}) * 2:
            self.add(**threads)
            load = Load(self)
            self.delete('hard')
            load.assert_cut_off()
            wait_until(lambda: not self.daemon.qmp.cmd('query-block-exports'), what='the export to end')
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_quit_under_load(self):
        self.add(iothread='t0')
        load = Load(self)
        self.daemon.quit()
        load.assert_cut_off()
        self.assertFalse(self.mounted(self.mnt))

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

    def force_unmount(self):
        """The daemon, which learns of the abort first, may be faster in taking the mount away."""
        run('umount', '-f', '-l', self.mnt, check=False)
        self.wait_unmounted(self.mnt)

    def test_forced_unmount_in_mid_request(self):
        self.need_root()
        self.add_slow(2, iothread='t0')
        self.begin_read()
        self.force_unmount()
        self.assert_cut_off(self.worker.finish)
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})

    def test_forced_unmount_under_load(self):
        self.need_root()
        for _ in range(3):
            self.add(iothread=['t0', 't1'])
            load = Load(self)
            self.force_unmount()
            load.assert_cut_off()
            self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_killed_daemon(self):
        """Nobody hangs on it, and the next one clears its mount away."""
        for seconds in (0, 3600):
            if seconds:
                self.add_slow(seconds, iothread='t0')
                self.begin_read()
                self.daemon.kill()
                self.assert_cut_off(self.worker.finish)
            else:
                self.add(iothread='t0')
                load = Load(self)
                self.daemon.kill()
                load.assert_cut_off()
            self.daemon = self.start(name=f'next{seconds}')
            self.add()
            self.assertEqual(len(self.worker.read_file(self.mnt)), self.SIZE)
            self.delete()
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})


if __name__ == '__main__':
    main()
