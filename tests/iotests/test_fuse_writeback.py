# SPDX-License-Identifier: GPL-2.0-or-later
"""Exports with the kernel's write-back cache (cache=writeback)."""

import concurrent.futures
import errno
import mmap
import os
import re
import signal

import test_fio_verify
import test_fuse_file
from wharf import *

MIB = 1 << 20


class WriteBack:
    """The tests of a class of test_fuse_file, with the write-back cache."""

    def setUp(self):
        super().setUp()
        self.need_root()

    def add(self, **options):
        super().add(**{'cache': 'writeback', 'growable': True, **options})
        if self.daemon.qmp.cmd('query-block-exports')[0]['fuse']['cache'] != 'writeback':
            self.daemon.wait_log('no write-back cache')
            self.skipTest('the system does not let us have the write-back cache')


# Left out are tests of what such an export refuses, or shows later.


class Stat(WriteBack, test_fuse_file.Stat):
    test_read_only = None
    test_resize_shows_at_once_in_reads = None
    test_unknown_allocation_counts_as_full = None


class Open(WriteBack, test_fuse_file.Open):
    test_read_only = None
    test_growable_without_writable = None
    test_trunc_is_ignored_unless_growable = None


class OtherUsers(WriteBack, test_fuse_file.OtherUsers):
    test_read_only_takes_modes_without_write_bits = None


class Truncate(WriteBack, test_fuse_file.Truncate):
    test_read_only = None
    test_growable_or_not = None
    test_fixed_length = None
    test_two_exports_share_the_resize = None


class ReadWrite(WriteBack, test_fuse_file.ReadWrite):
    test_a_write_elsewhere_moves_the_times = None
    test_append_lands_at_the_exact_end = None
    test_end_with_growing = None
    test_end_without_growing = None
    test_fixed_length = None
    test_kernel_copies = None
    test_large_requests_arrive_whole = None
    test_nothing_is_cached = None
    test_nowait = None
    test_private_mapping = None
    test_write_inside = None


class Fallocate(WriteBack, test_fuse_file.Fallocate):
    test_modes = None
    test_fixed_length = None
    test_reserves_in_a_window = None


class Durability(WriteBack, test_fuse_file.Durability):
    pass


class CountedSyncs(WriteBack, test_fuse_file.CountedSyncs):
    test_writethrough = None


class WriteBackTest(WriteBack, test_fuse_file.FileTest):
    def image_bytes(self, path=None):
        with open(path or self.image, 'rb') as f:
            return f.read()

    def delete(self, **options):
        self.daemon.qmp.cmd('block-export-del', {'id': 'e0', **options})


class Late(WriteBackTest):
    """What is written reaches the image later, and at fsync, close and deletion at the latest."""

    def test_told_in_query(self):
        self.export()
        fuse = self.daemon.qmp.cmd('query-block-exports')[0]['fuse']
        self.assertEqual(fuse['cache'], 'writeback')
        self.assertIn('writeback-cache', fuse['features'])

    def changed(self):
        """Changes some bytes; returns what the file holds then."""
        want = bytearray(self.content)
        fd = self.open(os.O_WRONLY)  # the kernel reads the rest of the pages through it
        for offset, length in ((0, 1), (5, 511), (4095, 2), (9000, 30000), (self.SIZE - 1, 1), (self.SIZE + 99, 7)):
            self.worker.pwrite(fd, b'w' * length, offset)
            want.extend(bytes(max(0, offset + length - len(want))))
            want[offset:offset + length] = b'w' * length
        self.assertEqual(self.worker.read_file(self.mnt), want)
        self.assertEqual(self.size(), len(want))
        return fd, bytes(want)

    def test_fsync(self):
        self.export()
        fd, want = self.changed()
        self.worker.fsync(fd)
        self.assertEqual(self.image_bytes(), want)

    def test_close(self):
        self.export()
        fd, want = self.changed()
        self.worker.close(fd)
        self.assertEqual(self.image_bytes(), want)

    def test_deletion(self):
        """Also while programs have the file open."""
        self.export()
        fd, want = self.changed()
        self.delete()
        self.assertEqual(self.image_bytes(), want)
        self.assertFalse(self.mounted(self.mnt))
        try:
            self.worker.close(fd)
        except OSError as e:
            self.assertEqual(e.errno, errno.ENOTCONN)

    def test_deletion_out_of_reach(self):
        """Where nobody can ask the kernel to write back, that is no success."""
        self.export()
        fd = self.open()
        self.worker.pwrite(fd, b'dirty', 0)
        run('umount', '-l', self.mnt)
        with self.assertRaises(QmpError) as caught:
            self.delete()
        self.assertIn('no longer to be found', str(caught.exception))
        self.worker.close(fd)
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})
        self.assertEqual(self.image_bytes()[:5], b'dirty')

    def slow_export(self):
        """Its writes take long enough for the child that waits for them to be seen on a busy machine."""
        self.export(node={'driver': 'blkdebug', 'image': {'driver': 'file', 'filename': self.image},
                          'inject-delay': [{'event': 'none', 'iotype': 'write', 'delay-ns': 2 * 10**9}]})

    def test_deletions_at_once(self):
        self.slow_export()
        self.worker.pwrite(self.open(), b'slow', 0)

        def remove():
            with self.daemon.qmp_client() as qmp:
                try:
                    qmp.cmd('block-export-del', {'id': 'e0'})
                    return 'gone'
                except QmpError as e:
                    return str(e)
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            removals = [pool.submit(remove) for _ in range(3)]
            self.assertEqual(len(wait_until(self.daemon.children, what='the child that writes back')), 1)
            self.assertIn('gone', [removal.result() for removal in removals])
        self.assertEqual(self.image_bytes()[:4], b'slow')

    def blocks(self, pid, number):
        """Whether the process keeps the signal away from itself."""
        with open(f'/proc/{pid}/status', encoding='utf-8') as f:
            blocked = int(re.search(r'^SigBlk:\s*(\w+)$', f.read(), re.MULTILINE)[1], 16)
        return bool(blocked >> (number - 1) & 1)

    def test_slow_deletion(self):
        """The child that has it written back can be ended by whoever must."""
        self.slow_export()
        self.worker.pwrite(self.open(), b'slow', 0)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            deletion = pool.submit(self.delete)
            child = wait_until(self.daemon.children, what='the child that writes back')[0]
            for number in (signal.SIGTERM, signal.SIGALRM):
                wait_until(lambda n=number: not self.blocks(child, n))
            deletion.result()
        self.assertEqual(self.image_bytes(), b'slow' + self.content[4:])

    def test_end_of_the_daemon(self):
        self.export()
        _, want = self.changed()
        self.daemon.quit()
        self.assertEqual(self.image_bytes(), want)

    def test_synchronous_descriptors(self):
        self.export()
        for flag in (os.O_SYNC, os.O_DSYNC):
            fd = self.open(os.O_RDWR | flag)
            self.worker.pwrite(fd, b'%08d' % flag, 5000)
            self.assertEqual(self.image_bytes()[5000:5008], b'%08d' % flag)
            self.worker.close(fd)

    def test_killed_after_fsync(self):
        self.export()
        fd, want = self.changed()
        self.worker.fsync(fd)
        self.worker.pwrite(fd, b'lost?', 0)
        self.daemon.kill()
        self.assertEqual(self.image_bytes()[5:], want[5:])
        self.assertIn(self.image_bytes()[:5], (want[:5], b'lost?'))

    def test_killed_with_much_to_write_back(self):
        """Nothing hangs, and the place can be used again."""
        self.export(self.make_file('big.img', 64 * MIB))
        workers = [self.fs() for _ in range(3)]
        for number, worker in enumerate(workers):
            fd = worker.open(self.mnt, os.O_RDWR)
            worker.start('pwrite', fd, b'x' * 16 * MIB, number * 16 * MIB)
        self.daemon.kill()
        for worker in workers:
            try:
                worker.finish()
            except OSError:
                pass
            worker.kill()
        self.daemon = self.wharfd()
        self.export()
        self.assertEqual(self.worker.read_file(self.mnt), self.content)

    def test_trunc(self):
        self.export()
        fd, _ = self.changed()
        run('sh', '-c', f'echo -n new > {self.mnt}')
        self.assertEqual(self.image_bytes(), b'new')
        self.assertEqual(self.worker.fstat(fd).st_size, 3)

    def test_length(self):
        self.export()
        fd = self.open()
        self.worker.pwrite(fd, b'x' * 5000, self.SIZE)
        self.worker.ftruncate(fd, self.SIZE + 1000)
        self.worker.pwrite(fd, b'y', self.SIZE + 8000)
        want = self.content + b'x' * 1000 + bytes(7000) + b'y'
        self.assertEqual(self.worker.pread(fd, 2 * self.SIZE, 0), want)
        self.worker.fsync(fd)
        self.assertEqual(self.image_bytes(), want)

    def test_no_holes_are_found(self):
        """They may have been written to, of which the export does not know yet."""
        self.export(self.make_file('sparse.img', 4 * MIB))
        fd = self.open()
        self.worker.pwrite(fd, b'data', MIB)
        self.assertLessEqual(self.worker.lseek(fd, 0, os.SEEK_DATA), MIB)
        self.assertEqual(self.worker.lseek(fd, MIB, os.SEEK_DATA), MIB)
        self.assertGreaterEqual(self.worker.lseek(fd, MIB, os.SEEK_HOLE), MIB + 4)
        self.refuses(errno.ENXIO, 'lseek', fd, 4 * MIB, os.SEEK_DATA)
        run('cp', '--sparse=auto', self.mnt, self.path('copy'))
        self.assertEqual(self.image_bytes(self.path('copy'))[MIB:MIB + 5], b'data\0')

    def test_times(self):
        self.export()
        before = self.worker.stat(self.mnt).st_mtime_ns

        def moves():
            self.worker.write_at(self.mnt, 0, b'x')
            return self.worker.stat(self.mnt).st_mtime_ns > before
        wait_until(moves, what='mtime to move')
        fd = self.open()
        self.worker.pwrite(fd, b'y', 0)
        self.worker.utime(self.mnt, ns=(10**18 + 1, 10**18 + 2))
        self.worker.fsync(fd)
        self.worker.close(fd)
        st = self.worker.stat(self.mnt)
        self.assertEqual((st.st_atime_ns, st.st_mtime_ns), (10**18 + 1, 10**18 + 2))

    def test_direct_io_passes_by(self):
        self.export()
        want = bytearray(self.content)
        fd, direct = self.open(), self.open(os.O_RDWR | os.O_DIRECT)
        for offset, length in ((0, 4096), (8192 + 7, 1000), (self.SIZE - 5, 500)):
            self.worker.pwrite(fd, b'b' * length, offset)
            self.assertEqual(self.worker.pread_direct(direct, length, offset), b'b' * length)
            self.worker.pwrite_direct(direct, b'd' * (length - 1), offset)
            want[offset:offset + length] = b'd' * (length - 1) + b'b'
            self.assertEqual(self.worker.pread(fd, 2 * self.SIZE, 0), want)

    def test_kernel_copies(self):
        self.export()
        fd, second = self.open(), self.open()
        self.worker.pwrite(fd, b'new', 10)
        self.assertEqual(self.worker.copy_file_range(fd, second, 20000, 0, 50000), 20000)
        want = bytearray(self.content)
        want[10:13] = b'new'
        want[50000:70000] = want[:20000]
        self.worker.fsync(second)
        self.assertEqual(self.image_bytes(), bytes(want))

    def test_unmapped_is_written_back(self):
        self.export()

        def change(path):
            with open(path, 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:
                os.pwrite(f.fileno(), b'called', 5000)
                m[9000:9006] = b'mapped'
                return m[5000:5006], os.pread(f.fileno(), 6, 9000)
        self.assertEqual(in_child(change, self.mnt), (b'called', b'mapped'))
        self.assertEqual(self.image_bytes()[9000:9006], b'mapped')
        self.assertEqual(self.image_bytes()[5000:5006], b'called')

    def test_unmounted_by_others(self):
        self.export()
        self.worker.write_at(self.mnt, 0, b'last words')
        run('umount', self.mnt)
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})
        self.assertEqual(self.image_bytes()[:10], b'last words')


class Errors(WriteBackTest):
    """They come with fsync or close: the write has been answered."""

    def fails(self, number):
        self.export(node={'driver': 'blkdebug', 'image': {'driver': 'file', 'filename': self.image},
                          'inject-error': [{'event': 'none', 'iotype': 'write', 'errno': number}]})

    def test_fsync(self):
        for number in (errno.EIO, errno.ENOSPC):
            self.fails(number)
            fd = self.open()
            self.worker.pwrite(fd, b'x', 0)
            self.refuses(number, 'fsync', fd)
            self.delete()
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_close(self):
        self.fails(errno.EIO)
        fd = self.open()
        self.worker.pwrite(fd, b'x', 0)
        self.refuses(errno.EIO, 'close', fd)

    def test_deletion(self):
        """It is told once; what the kernel could not write it keeps no longer."""
        self.fails(errno.EIO)
        self.worker.pwrite(self.open(), b'x', 0)
        with self.assertRaises(QmpError) as caught:
            self.delete()
        self.assertIn('cannot write back', str(caught.exception))
        self.assertTrue(self.mounted(self.mnt))
        self.delete()

    def test_hard_deletion(self):
        self.fails(errno.EIO)
        self.worker.pwrite(self.open(), b'x', 0)
        self.delete(mode='hard')
        self.daemon.wait_log('cannot write back')


class Refused(WriteBackTest):
    def refuse(self, *words, **options):
        with self.assertRaises(QmpError) as caught:
            self.export(**options)
        for word in words:
            self.assertIn(word, str(caught.exception))
        self.assertEqual(self.daemon.qmp.cmd('query-block-exports'), [])
        self.assertFalse(self.mounted(self.mnt))
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_options(self):
        self.refuse('growable', growable=False)
        self.refuse('writethrough', writethrough=True)
        self.refuse('null-co', node={'driver': 'null-co', 'size': MIB})

    def test_mountpoints(self):
        """They are looked at only when the export runs already: of that nothing must be left."""
        for transport in ('dev', 'io-uring'):
            self.refuse('missing', mountpoint=self.path('missing'), transport=transport)
            self.refuse('directory', mountpoint=self.dir, transport=transport)
        self.export()
        with self.assertRaises(QmpError) as caught:
            self.daemon.qmp.cmd('blockdev-add', {'driver': 'memory', 'node-name': 'n1', 'size': 5})
            self.daemon.qmp.cmd('block-export-add', {
                'type': 'fuse', 'id': 'e1', 'node-name': 'n1', 'mountpoint': self.mnt, 'writable': True,
                'cache': 'writeback', 'growable': True})
        self.assertIn("already an export", str(caught.exception))
        self.assertEqual(self.worker.read_file(self.mnt), self.content)

    def second(self, **options):
        self.daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e1', 'node-name': 'n0',
                                                 'mountpoint': self.mountpoint('other'), **options})

    def test_others_may_read_only(self):
        self.export()
        with self.assertRaises(QmpError):
            self.second(writable=True)
        with self.assertRaises(QmpError):
            self.daemon.qmp.cmd('block_resize', {'node-name': 'n0', 'size': 5})
        self.second()
        self.worker.write_at(self.mnt, 0, b'seen')
        self.assertEqual(self.worker.read_file(self.path('other'), 0, 4), b'seen')

    def test_not_beside_a_writer(self):
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'n0', 'filename': self.image})
        self.second(writable=True)
        with self.assertRaises(QmpError) as caught:
            self.add()
        self.assertIn('e1', str(caught.exception))

    def test_read_only_is_page(self):
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'n0', 'filename': self.image})
        self.second(cache='writeback')
        self.assertEqual(self.daemon.qmp.cmd('query-block-exports')[0]['fuse']['cache'], 'page')
        self.assertEqual(self.worker.read_file(self.path('other')), self.content)


class Cycles(WriteBackTest):
    def test_started_by_one_that_ignores_its_children(self):
        """What is ignored then is inherited, and the kernel would tell nothing about children of ours."""
        self.daemon.quit()
        self.daemon = self.wharfd(prefix=[find_tool('env'), '--ignore-signal=CHLD'])
        self.export()
        fd = self.open()
        self.worker.pwrite(fd, b'late', 0)
        self.delete()
        self.assertEqual(self.image_bytes()[:4], b'late')
        self.assertFalse(self.mounted(self.mnt))

    def test_added_and_deleted(self):
        for turn in range(20):
            self.export()
            fd = self.open()
            self.worker.pwrite(fd, b'%05d' % turn, 70000)
            self.delete()
            self.assertEqual(self.image_bytes()[70000:70005], b'%05d' % turn)
            self.assertFalse(self.mounted(self.mnt))
            self.worker.kill()
            self.worker = self.fs()
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})


class FioVerify(test_fio_verify.FioVerify):
    EXPORT = {'cache': 'writeback', 'growable': True}

    def setUp(self):
        super().setUp()
        self.need_root()


if __name__ == '__main__':
    main()
