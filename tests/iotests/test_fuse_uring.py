# SPDX-License-Identifier: GPL-2.0-or-later
"""What is peculiar to FUSE over io_uring; all tests of FUSE exports can be run over it, too."""

import os
import random

import test_fuse_lifecycle
from test_fuse_lifecycle import LATER

from wharf import *
from wharf import transport

MIB = 1 << 20


@not_over('io-uring', 'chooses its transport itself: run over dev, like tests of other things')
class UringExport(test_fuse_lifecycle.LifeTest):
    """That over io_uring, whatever the other tests run over."""

    EXPORT = {'transport': 'io-uring'}

    def setUp(self):
        super().setUp()
        self.need_uring()

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
        for options, transport in (({'transport': 'auto'}, 'dev'), ({'transport': 'dev', 'iothread': 't0'}, 'dev'),
                                   ({'transport': 'auto', 'iothread': 't0'}, 'io-uring'),
                                   ({'transport': 'auto', 'iothread': ['t0', 't1']}, 'io-uring')):
            self.add(**options)
            self.assertEqual(self.transport(), transport)
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
        for name, value in (('queue-depth', 0), ('queue-depth', 257), ('payload-size', 4095),
                            ('payload-size', MIB + 1), ('transport', 'pigeon')):
            with self.assertRaises(QmpError) as caught:
                self.add(node='none', **{name: value})
            self.assertIn(name, str(caught.exception))
        for depth, size, told in ((1, 4096, 4096), (2, 65537, 69632), (32, MIB, MIB)):
            self.add(queue_depth=depth, payload_size=size)
            info = self.daemon.qmp.cmd('query-block-exports')[0]['fuse']
            self.assertEqual((info['queue-depth'], info['max-write'], info['max-read']), (depth, told, told))
            self.check_content()
            self.delete()
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})


class SwitchedOff(IoTest):
    def test_falls_back(self):
        """The kernel does not offer it: a line in the log, and the export works."""
        self.need_root()
        self.need_fuse()
        # Tests that want the switch on wait for this one, as this one waits for them.
        self.addCleanup(os.close, wait_until(transport.SWITCH.try_to_keep_free, 90,
                                             'the other tests not to need it on'))
        if transport.SWITCH.read() != 'N':
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

    @normal_build_only  # sanitizers keep books on memory, in memory
    def test_memory_is_given_back(self):
        self.add(iothread=['t0', 't1'])
        before = self.daemon.rss()
        for _ in range(2):
            self.check_content()
            # Requests of 1 MiB have been in several entries; what is left is what the daemon has learned.
            wait_until(lambda: self.daemon.rss() - before < 3 * MIB // 2, what='the memory to be given back')
        # Nothing is lost with it that a request brings or takes.
        self.check_content()

    @normal_build_only
    def test_idle_export_is_small(self):
        def add(number):
            node = f'n{number}'
            self.daemon.qmp.cmd('blockdev-add', {'driver': 'null-co', 'node-name': node, 'size': MIB})
            self.daemon.qmp.cmd('block-export-add', {
                'type': 'fuse', 'id': f'e{number}', 'node-name': node, 'mountpoint': self.mountpoint(f'mnt{number}'),
                'transport': 'io-uring', 'iothread': ['t0', 't1']})

        for number in range(8):
            add(number)
        before = self.daemon.rss()
        for number in range(8, 40):
            add(number)
        cpus = len(os.sched_getaffinity(0))
        self.assertLess((self.daemon.rss() - before) / 32, max(64, 32 * cpus) * 1024)

    def test_more_requests_than_entries(self):
        self.add_slow(1, queue_depth=1)
        workers = [self.fs() for _ in range(6)]
        for worker in workers:
            worker.start('read_file', self.mnt, 0, 512)
        for worker in workers:
            self.assertEqual(len(worker.finish()), 512)


class LostEntry(UringExport):
    """The kernel refuses an answer: what is lost with it must not be waited for, for ever."""

    def setUp(self):
        super().setUp()
        self.trigger = self.path('lose-entry')
        self.daemon.stop()
        self.daemon = self.start(
            binary=self.built('tests', 'faults', 'wharfd-lose-entry'), name='losing',
            env={'WHARF_LOSE_ENTRY': self.trigger})

    def lose_one(self, worker, function, *args):
        """A request of this call is lost, if it has any."""
        with open(self.trigger, 'wb'):
            pass
        self.assert_cut_off(LATER, getattr(worker, function), *args)

    def test_clients_get_an_error_and_the_export_goes(self):
        for threads in ([], ['t0'], ['t0', 't1']):
            self.add_slow(3, **({'iothread': threads} if threads else {}))
            fd, slow = self.worker.open(self.mnt, os.O_RDWR), self.fs()
            self.begin_read(slow)
            self.lose_one(self.worker, 'pwrite', fd, bytes(4096), 0)
            self.assert_cut_off(LATER, slow.finish)
            self.assertIn('lost an entry of ring queue', self.daemon.log())
            self.wait_unmounted(self.mnt)
            self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'slow'})
        # And the next one has all of its entries.
        self.add()
        self.check_content()


if __name__ == '__main__':
    main()
