# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports through the kernel's page cache (cache=page), and read-ahead."""

import concurrent.futures
import errno
import mmap
import os
import threading

import test_fio_verify
import test_fuse_file
from wharf import *

MIB = 1 << 20


class Cached:
    """The tests of a class of test_fuse_file, with the page cache."""

    def add(self, **options):
        super().add(**{'cache': 'page', **options})


class Stat(Cached, test_fuse_file.Stat):
    test_resize_shows_at_once_in_reads = None  # it shows a moment later: see Coherence


class Open(Cached, test_fuse_file.Open):
    pass


class Truncate(Cached, test_fuse_file.Truncate):
    pass


class ReadWrite(Cached, test_fuse_file.ReadWrite):
    test_nothing_is_cached = None  # it is cached: see Coherence

    def test_large_requests_arrive_whole(self):
        self.export(self.make_file('big.img', 4 * MIB), read_ahead=4 * MIB)
        self.worker.pwrite(self.open(), b'x' * MIB, 0)
        self.assertEqual(len(self.worker.pread(self.open(os.O_RDONLY | os.O_DIRECT), MIB, 0)), MIB)
        stats = self.daemon.qmp.cmd('query-block-exports')[0]['stats']
        self.assertEqual((stats['wr-operations'], stats['wr-bytes']), (1, MIB))
        self.assertEqual(stats['rd-bytes'], MIB)

    test_nowait = None  # the page cache can do without waiting


class Fallocate(Cached, test_fuse_file.Fallocate):
    pass


class Seek(Cached, test_fuse_file.Seek):
    pass


class Durability(Cached, test_fuse_file.Durability):
    pass


class CountedSyncs(Cached, test_fuse_file.CountedSyncs):
    pass


class CacheTest(Cached, test_fuse_file.FileTest):
    def info(self, export='e0'):
        return next(e for e in self.daemon.qmp.cmd('query-block-exports') if e['id'] == export)

    def reads(self):
        return self.info()['stats']['rd-operations']

    def asks_node(self, function, *args):
        """Whether the node was read for it, and its result."""
        before = self.reads()
        result = function(*args)
        return self.reads() > before, result


class Kept(CacheTest):
    def test_told_in_query(self):
        self.export()
        self.assertEqual(self.info()['fuse']['cache'], 'page')

    def test_direct_is_the_default(self):
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'n1', 'size': MIB})
        mnt = self.mountpoint('plain')
        self.daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e1', 'node-name': 'n1', 'mountpoint': mnt})
        self.assertEqual(self.info('e1')['fuse']['cache'], 'direct')

    def test_reads_again_from_memory(self):
        """Within an open file and across opens."""
        self.export()
        self.assertEqual(self.asks_node(self.worker.read_file, self.mnt), (True, self.content))
        self.assertEqual(self.asks_node(self.worker.read_file, self.mnt), (False, self.content))
        fd = self.open()
        self.assertEqual(self.asks_node(self.worker.pread, fd, 100, 5000), (False, self.content[5000:5100]))

    def test_own_writes_keep_it(self):
        self.export()
        want = bytearray(self.content)
        self.worker.read_file(self.mnt)
        fd = self.open()
        for offset in (0, 4090, 50001):
            self.worker.pwrite(fd, b'w' * 100, offset)
            want[offset:offset + 100] = b'w' * 100
            # The write has changed its pages in the cache, too, and moved the times.
            self.assertEqual(self.asks_node(self.worker.pread, fd, self.SIZE, 0), (False, bytes(want)))
            self.assertEqual(self.worker.read_file(self.image), bytes(want))
        before = self.worker.stat(self.mnt).st_mtime_ns
        self.worker.pwrite(fd, b'x', 0)
        self.worker.pread(fd, 10, 0)
        self.assertGreater(self.worker.fstat(fd).st_mtime_ns, before)
        self.assertEqual(self.worker.stat(self.mnt).st_mtime_ns, self.worker.fstat(fd).st_mtime_ns)

    def test_stat_keeps_it(self):
        """The times that own writes have moved show without a loss of pages."""
        self.export()
        self.worker.read_file(self.mnt)
        fd = self.open()
        times = [self.worker.stat(self.mnt).st_mtime_ns]
        for turn in range(3):
            self.worker.pwrite(fd, b'%d' % turn, 5000)
            for stat in (lambda: self.worker.stat(self.mnt), lambda: self.worker.fstat(fd)):
                self.assertGreater(stat().st_mtime_ns, times[0])
                self.assertEqual(self.asks_node(self.worker.pread, fd, 1, 5000), (False, b'%d' % turn))
                times.append(stat().st_mtime_ns)
            self.assertEqual(len(set(times)), turn + 2)

    def test_reads_after_a_write_find_peace(self):
        """After so many the kernel is let know the new times, reads all again, and asks no more."""
        self.export()
        self.worker.read_file(self.mnt)
        fd = self.open()
        self.worker.pwrite(fd, b'x', 5000)

        def dropped():
            return self.asks_node(self.worker.pread, fd, 1, 5000) == (True, b'x')
        wait_until(dropped, what='the pages to be read again', interval=0)
        self.assertEqual(self.worker.read_file(self.mnt), self.content[:5000] + b'x' + self.content[5001:])
        self.assertEqual(self.asks_node(self.worker.pread, fd, 1, 5000), (False, b'x'))

    def test_times_set_by_clients_stay(self):
        self.export()
        fd = self.open()
        self.worker.pread(fd, 100, 0)
        self.worker.utime(self.mnt, ns=(10**18, 10**18))
        self.worker.pread(fd, 100, 0)
        self.assertEqual(self.worker.stat(self.mnt).st_mtime_ns, 10**18)
        self.assertEqual(self.worker.fstat(fd).st_mtime_ns, 10**18)

    def test_direct_io_passes_by(self):
        """Reads and writes of O_DIRECT openers agree with those through the cache."""
        self.export()
        want = bytearray(self.content)
        fd, direct = self.open(), self.open(os.O_RDWR | os.O_DIRECT)
        self.assertEqual(self.worker.pread(fd, self.SIZE, 0), want)
        for offset, length in ((0, 4096), (8192 + 7, 1000), (self.SIZE - 5, 5)):
            self.worker.pwrite_direct(direct, b'd' * length, offset)
            want[offset:offset + length] = b'd' * length
            self.assertEqual(self.worker.pread(fd, self.SIZE, 0), want)
            self.worker.pwrite(fd, b'b' * length, offset)
            self.assertEqual(self.worker.pread_direct(direct, length, offset), b'b' * length)
            want[offset:offset + length] = b'b' * length

    def test_refused_bytes_do_not_stay_in_the_cache(self):
        """A write across the end is cut short there, in the cached last page, too."""
        self.export()
        fd = self.open()
        self.assertEqual(self.worker.pread(fd, self.SIZE, 0), self.content)
        self.assertEqual(self.worker.pwrite(fd, b'z' * 100, self.SIZE - 10), 10)
        self.refuses(errno.ENOSPC, 'pwrite', fd, b'z' * 10, self.SIZE)
        self.assertEqual(self.worker.pread(fd, 200, self.SIZE - 20), self.content[-20:-10] + b'z' * 10)
        self.worker.ftruncate(fd, self.SIZE + 500)
        self.assertEqual(self.worker.pread(fd, 1000, self.SIZE - 10), b'z' * 10 + bytes(500))

    def test_growing_writes(self):
        self.export(growable=True)
        fd = self.open()
        self.assertEqual(self.worker.pread(fd, self.SIZE, 0), self.content)
        self.worker.pwrite(fd, b'far', self.SIZE + 10000)
        self.assertEqual(self.worker.pread(fd, 20000, self.SIZE - 5), self.content[-5:] + bytes(10000) + b'far')
        run('cmp', self.image, self.mnt)

    def test_shared_mapping_and_calls(self):
        self.export()

        def change(path):
            with open(path, 'r+b', buffering=0) as f, mmap.mmap(f.fileno(), 0) as m:
                os.pwrite(f.fileno(), b'called', 5000)
                m[9000:9006] = b'mapped'
                return m[5000:5006], os.pread(f.fileno(), 6, 9000)
        self.assertEqual(in_child(change, self.mnt), (b'called', b'mapped'))
        self.assertEqual(self.worker.read_file(self.image, 9000, 6), b'mapped')

    def test_programs(self):
        self.export()
        text = run('strings', '-n', '3', self.image).stdout
        self.assertEqual(run('strings', '-n', '3', self.mnt).stdout, text)
        run('cmp', self.image, self.mnt)
        run('cp', self.mnt, self.path('copy'))
        run('cmp', self.image, self.path('copy'))


def first_reads(path, other, size):
    """The lengths of the first reads in a new export, while others write elsewhere and stat."""
    done = threading.Event()

    def write():
        fd = os.open(other, os.O_WRONLY)
        while not done.is_set():
            os.pwrite(fd, b'other', 0)
        os.close(fd)

    def stat():
        while not done.is_set():
            os.stat(path)

    def read():
        fd = os.open(path, os.O_RDWR)
        os.pwrite(fd, b'own', 5000)
        lengths = [len(os.pread(fd, size, 0)) for _ in range(20)]
        os.close(fd)
        return lengths

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for function in write, stat, stat:
            pool.submit(function)
        reads = [pool.submit(read) for _ in range(3)]
        try:
            return {length for result in reads for length in result.result()}
        finally:
            done.set()


class Coherence(CacheTest):
    """What others change shows soon, in files that are open, too."""

    def export_twice(self, second=None, **options):
        self.export(**options)
        self.other = self.mountpoint('other')
        self.daemon.qmp.cmd('block-export-add', {
            'type': 'fuse', 'id': 'e1', 'node-name': 'n0', 'mountpoint': self.other, 'writable': True,
            'cache': 'page', **(second or {})})

    def shows(self, fd, offset, data):
        wait_until(lambda: self.worker.pread(fd, len(data), offset) == data, what='the data to show')

    def test_two_exports(self):
        self.export_twice()
        fds = self.open(), self.worker.open(self.other, os.O_RDWR)
        for fd in fds:
            self.assertEqual(self.worker.pread(fd, self.SIZE, 0), self.content)
        for turn in range(20):
            text = b'turn %03d' % turn
            self.worker.pwrite(fds[turn % 2], text, 5000)
            self.shows(fds[1 - turn % 2], 5000, text)
            self.assertEqual(self.worker.pread(fds[turn % 2], 8, 5000), text)

    def test_open_sees_all(self):
        """What was written elsewhere before an open shows in it at once, however they are served."""
        for name in ('t0', 't1'):
            self.daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': name})
        self.export_twice(iothread='t0', second={'iothread': 't1'})
        for turn in range(200):
            text = b'turn %03d' % turn
            here, there = (self.mnt, self.other)[::1 if turn % 2 else -1]
            self.worker.write_at(there, 5000, text)
            self.assertEqual(self.worker.read_file(here, 5000, 8), text)

    def test_own_writes_hide_nothing(self):
        """A change by others is seen though writes of one's own move the times before and after it."""
        self.export_twice()
        fd, second = self.open(), self.worker.open(self.other, os.O_RDWR)
        for turn in range(10):
            text = b'turn %03d' % turn
            self.assertEqual(len(self.worker.pread(fd, self.SIZE, 0)), self.SIZE)
            self.worker.pwrite(fd, text, 20000)
            self.worker.pwrite(second, text, 5000)
            self.worker.pwrite(fd, text, 40000)
            self.worker.stat(self.mnt)
            self.shows(fd, 5000, text)
            self.shows(second, 20000, text)
            self.shows(second, 40000, text)

    def test_resizing_hides_nothing(self):
        """A truncate that leaves the length alone, or fails, is no excuse for a change by others."""
        self.export_twice(growable=True)
        fd, second = self.open(), self.worker.open(self.other, os.O_RDWR)
        for turn, size in enumerate((self.SIZE, 1 << 62, self.SIZE + 512, self.SIZE)):
            text = b'turn %03d' % turn
            self.worker.pread(fd, self.SIZE, 0)
            try:
                self.worker.truncate(self.mnt, size)
            except OSError as e:
                self.assertEqual((turn, e.errno), (1, errno.EFBIG))
            self.worker.pwrite(second, text, 5000)
            self.assertEqual(self.worker.read_file(self.mnt, 5000, 8), text)

    def test_a_new_export_does_not_end_early(self):
        """The kernel takes it for empty until it has asked, and must get to keep an answer."""
        self.export_twice()
        for _ in range(40):
            self.assertEqual(in_child(first_reads, self.mnt, self.other, self.SIZE), {self.SIZE})
            self.daemon.qmp.cmd('block-export-del', {'id': 'e0', 'mode': 'hard'})
            self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})
            self.add()

    def test_setting_times_hides_nothing(self):
        self.export_twice()
        fd, second = self.open(), self.worker.open(self.other, os.O_RDWR)
        for turn in range(10):
            text = b'turn %03d' % turn
            self.worker.pread(fd, self.SIZE, 0)
            before = self.worker.stat(self.mnt)
            self.worker.pwrite(second, text, 5000)
            self.worker.utime(self.mnt, ns=(before.st_atime_ns, before.st_mtime_ns))
            self.worker.chmod(self.mnt, 0o600)
            self.shows(fd, 5000, text)

    def test_mapping(self):
        """A mapping shows it once the file is looked at."""
        self.export_twice()

        def watch(path, other):
            with open(path, 'rb') as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
                before = m[5000:5004]
                fd = os.open(other, os.O_WRONLY)
                os.pwrite(fd, b'news', 5000)
                os.close(fd)
                wait_until(lambda: os.fstat(f.fileno()) and m[5000:5004] == b'news', what='the mapping')
                return before
        self.assertEqual(in_child(watch, self.mnt, self.other), self.content[5000:5004])

    def test_punched_elsewhere(self):
        self.export_twice()
        fd = self.open(os.O_RDONLY)
        self.worker.pread(fd, self.SIZE, 0)
        self.worker.fallocate(self.worker.open(self.other, os.O_RDWR), test_fuse_file.PUNCH, 4000, 10000)
        self.shows(fd, 4000, bytes(10000))

    def test_length_changed_elsewhere(self):
        """By block_resize and by the other export; no stale byte comes back with a new end."""
        self.export_twice()
        fd = self.open(os.O_RDONLY)

        def resize(size):
            self.daemon.qmp.cmd('block_resize', {'node-name': 'n0', 'size': size})
        for change in (resize, lambda size: self.worker.truncate(self.other, size)):
            self.worker.pread(fd, self.SIZE, 0)
            change(50001)
            wait_until(lambda: self.worker.fstat(fd).st_size == 50001, what='the new size')
            self.assertEqual(self.worker.pread(fd, self.SIZE, 0), self.content[:50001])
            change(self.SIZE)
            wait_until(lambda: self.worker.fstat(fd).st_size == self.SIZE, what='the new size')
            self.assertEqual(self.worker.pread(fd, self.SIZE, 0), self.content[:50001] + bytes(self.SIZE - 50001))
            self.worker.write_at(self.mnt, 50001, self.content[50001:])

    def test_grown_by_a_write_elsewhere(self):
        self.export_twice()
        self.daemon.qmp.cmd('block-export-del', {'id': 'e1'})
        self.daemon.qmp.cmd('block-export-add', {
            'type': 'fuse', 'id': 'e1', 'node-name': 'n0', 'mountpoint': self.other, 'writable': True,
            'growable': True})
        fd = self.open(os.O_RDONLY)
        self.assertEqual(self.worker.pread(fd, self.SIZE + 10, 0), self.content)
        self.worker.write_at(self.other, self.SIZE, b'more')
        self.shows(fd, self.SIZE - 5, self.content[-5:] + b'more')

    def test_killed_while_both_change(self):
        """Nothing hangs when the daemon dies while pages are dropped and read."""
        self.export_twice()
        workers = [self.fs() for _ in range(4)]
        for number, worker in enumerate(workers):
            worker.start('write_at', (self.mnt, self.other)[number % 2], 0, b'x' * self.SIZE)
        self.daemon.kill()
        for worker in workers:
            try:
                worker.finish()
            except OSError:
                pass  # which error it is depends on how far the write had come


class ReadAhead(CacheTest):
    def setting(self):
        minor = self.info()['fuse']['connection']
        with open(f'/sys/class/bdi/0:{minor}/read_ahead_kb', encoding='ascii') as f:
            return int(f.read()) * 1024

    def test_sizes(self):
        self.need_root()
        for wanted, got in ((4 * MIB, 4 * MIB), (65536, 65536), (5000, 8192), (0, 0)):
            self.export(read_ahead=wanted)
            if self.info()['fuse']['read-ahead'] < got:
                self.daemon.wait_log('KiB ahead')
                self.skipTest('the system does not let us change read-ahead')
            self.assertEqual(self.setting(), got)
            self.assertEqual(self.info()['fuse']['read-ahead'], got)
            self.assertEqual(self.worker.read_file(self.mnt), self.content)
            self.daemon.qmp.cmd('block-export-del', {'id': 'e0'})
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_default_is_the_kernels(self):
        self.export()
        self.assertEqual(self.info()['fuse']['read-ahead'], self.setting())

    def test_too_much(self):
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'n0', 'filename': self.image})
        reply = self.daemon.qmp.execute('block-export-add', {
            'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mnt, 'read-ahead': 64 * MIB + 1})
        self.assertIn('read-ahead', reply['error']['desc'])


class FioVerify(test_fio_verify.FioVerify):
    """As there, with the page cache in between; buffered, direct and mapped."""

    EXPORT = {'cache': 'page', 'read-ahead': 4 * MIB}

    def check(self, daemon):
        self.assertEqual(daemon.qmp.cmd('query-block-exports')[0]['fuse']['cache'], 'page')
        super().check(daemon)


if __name__ == '__main__':
    main()
