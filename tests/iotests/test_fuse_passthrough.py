# SPDX-License-Identifier: GPL-2.0-or-later
"""Passthrough: the kernel reads and writes the image itself, and all else stays right."""

import ctypes
import errno
import gzip
import mmap
import os
import platform
import re
import stat
import threading
import time

import test_fio_verify
import test_fuse_file
from wharf import *
from wharf import tools

MIB = 1 << 20
KEEP, PUNCH, ZERO = test_fuse_file.KEEP, test_fuse_file.PUNCH, test_fuse_file.ZERO
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)


def kernel_has_passthrough():
    version = tuple(map(int, re.match(r'(\d+)\.(\d+)', platform.release()).groups()))
    if version < (6, 9):
        return False
    try:
        with gzip.open('/proc/config.gz', 'rt') as f:
            return 'CONFIG_FUSE_PASSTHROUGH=y' in f.read()
    except OSError:
        return True  # it does not say


def map_and_close(path, size):
    """A shared mapping that no descriptor of ours stands for (module mmap keeps one)."""
    fd = os.open(path, os.O_RDWR)
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    error = ctypes.get_errno()
    os.close(fd)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(error, os.strerror(error))
    return (ctypes.c_char * size).from_address(address), address


class PassTest(test_fuse_file.FileTest):
    """With passthrough, for which a writable export is growable unless a test wants it otherwise."""

    def setUp(self):
        self.need_root()
        if not kernel_has_passthrough():
            self.skipTest('the kernel has no passthrough')
        super().setUp()

    def add(self, **options):
        writable = options.get('writable', True)
        possible = options.get('growable', True) or not writable
        wanted = {'growable': writable, 'passthrough': 'on' if possible else 'auto', **options}
        super().add(**wanted)
        self.assertEqual(self.info()['passthrough'], wanted['passthrough'] == 'on')

    def info(self, export='e0', daemon=None):
        exports = (daemon or self.daemon).qmp.cmd('query-block-exports')
        return next(e for e in exports if e['id'] == export)['fuse']

    def stats(self):
        return self.daemon.qmp.cmd('query-block-exports')[0]['stats']

    def refused(self, command, arguments, *words):
        """The command fails, and its error holds these words."""
        reply = self.daemon.qmp.execute(command, arguments)
        self.assertIn('error', reply, reply)
        for word in words:
            self.assertIn(word, reply['error']['desc'])

    def delete(self, export='e0', mode='safe'):
        self.daemon.qmp.cmd('block-export-del', {'id': export, 'mode': mode})

    def image_bytes(self, offset, size):
        return self.worker.read_file(self.image, offset, size)


# What a file does, it does with passthrough: the tests of any export.

class Stat(PassTest, test_fuse_file.Stat):
    test_unknown_allocation_counts_as_full = None  # no file below
    test_resize_shows_at_once_in_reads = None  # block_resize is refused: see Holds


class Open(PassTest, test_fuse_file.Open):
    test_trunc_is_ignored_unless_growable = None  # it is growable
    test_growable_without_writable = None


class OtherUsers(PassTest, test_fuse_file.OtherUsers):
    def test_set_user_id_bits(self):
        """There are none, for nobody would take them away when the file is written."""
        self.export(allow_other='on')
        for mode in (0o4700, 0o2750, 0o6777):
            self.refuses(errno.EPERM, 'chmod', self.mnt, mode)
        self.worker.chmod(self.mnt, 0o1666)
        written = self.as_nobody('sh', '-c', f'printf text | dd of={self.mnt} conv=notrunc')
        self.assertEqual(written.returncode, 0, written.stderr)
        self.assertEqual(self.worker.read_file(self.mnt)[:4], b'text')
        self.worker.chown(self.mnt, self.NOBODY, self.NOBODY)
        self.assertEqual(self.as_nobody('truncate', '-s', '4096', self.mnt).returncode, 0)
        self.assertEqual(stat.S_IMODE(self.worker.stat(self.mnt).st_mode), 0o1666)


class Truncate(PassTest, test_fuse_file.Truncate):
    test_fixed_length = None  # no file below
    test_two_exports_share_the_resize = None  # there can be no second one: see Holds


class ReadWrite(PassTest, test_fuse_file.ReadWrite):
    test_direct_with_any_alignment = None  # as the file's own: see Data
    test_end_without_growing = None
    test_fixed_length = None
    test_large_requests_arrive_whole = None  # none arrives
    test_nothing_is_cached = None  # no second export: see Holds
    test_a_write_elsewhere_moves_the_times = None  # there can be no second writer
    test_nowait = None  # as the file's own


class Fallocate(PassTest, test_fuse_file.Fallocate):
    test_fixed_length = None
    test_reserves_in_a_window = None  # a part of a file


class Seek(PassTest, test_fuse_file.Seek):
    test_all_hole = None  # no file below
    test_size_of_a_hole_takes_no_time = None


class Data(PassTest):
    def test_nothing_passes_the_daemon(self):
        self.export()
        fd = self.open()
        self.assertEqual(self.info()['open-files'], 1)
        self.assertEqual(self.worker.pread(fd, self.SIZE, 0), self.content)
        self.worker.pwrite(fd, b'written', 5000)
        self.assertEqual(self.image_bytes(5000, 7), b'written')
        stats = self.stats()
        self.assertEqual([stats[k] for k in ('rd-operations', 'rd-bytes', 'wr-operations', 'wr-bytes')], [0] * 4)
        # The other way round, too.
        self.worker.write_at(self.image, 7000, b'behind')
        self.assertEqual(self.worker.pread(fd, 6, 7000), b'behind')
        self.worker.close(fd)
        wait_until(lambda: self.info()['open-files'] == 0, what='the release')
        self.assertEqual(self.info()['cache'], 'direct')
        self.assertIn('passthrough', self.info()['features'])

    def test_off_by_default(self):
        self.export(passthrough='off')
        self.worker.write_at(self.mnt, 0, b'x')
        self.assertEqual(self.stats()['wr-operations'], 1)
        self.assertNotIn('passthrough', self.info()['features'])

    def test_writes_past_the_end(self):
        """Size and times are exact after each, by stat, fstat, seek and append."""
        self.export()
        fd, size = self.open(os.O_RDWR | os.O_APPEND), self.SIZE
        for text in (b'a', b'bcd', b'e' * 5000):
            before = self.worker.fstat(fd)
            self.worker.write(fd, text)
            size += len(text)
            after = self.worker.stat(self.mnt)
            self.assertEqual(after.st_size, size)
            self.assertEqual(self.worker.fstat(fd).st_size, size)
            self.assertEqual(self.worker.lseek(fd, 0, os.SEEK_END), size)
            self.assertGreater(after.st_mtime_ns, before.st_mtime_ns)
            self.assertGreaterEqual(after.st_ctime_ns, after.st_mtime_ns)
            self.assertEqual(os.stat(self.image).st_size, size)
            self.assertEqual(after.st_blocks, os.stat(self.image).st_blocks)
        self.worker.pwrite(self.open(), b'far', 3 * MIB)
        self.assertEqual(self.size(), 3 * MIB + 3)
        self.assertEqual(self.worker.pread(fd, 10, size), bytes(10))
        run('cmp', self.image, self.mnt)
        # The node knows, too.
        self.daemon.qmp.cmd('query-named-block-nodes')
        self.delete_closing(fd)
        node = next(n for n in self.daemon.qmp.cmd('query-named-block-nodes') if n['node-name'] == 'n0')
        self.assertEqual(node['image']['virtual-size'], (3 * MIB + 3 + 511) // 512 * 512)

    def delete_closing(self, *fds):
        self.worker.kill()
        self.worker = self.fs()
        self.delete()

    def test_other_calls_in_between(self):
        """Truncate, fallocate and seek find the file as writes have left it."""
        self.export()
        fd, other = self.open(), self.open()
        self.worker.pwrite(fd, b'x' * 1000, 2 * MIB)
        self.worker.ftruncate(other, 2 * MIB + 500)
        self.assertEqual(self.worker.pread(fd, 2000, 2 * MIB), b'x' * 500)
        self.worker.pwrite(fd, b'y', 3 * MIB - 1)
        self.assertEqual(self.worker.pread(fd, 500, 2 * MIB + 500), bytes(500))
        self.worker.fallocate(other, PUNCH, 2 * MIB, 500)
        self.assertEqual(self.worker.pread(fd, 600, 2 * MIB), bytes(600))
        self.worker.pwrite(fd, b'z' * 4096, 8 * MIB)
        self.assertEqual(self.worker.lseek(other, 4 * MIB, os.SEEK_DATA), 8 * MIB)
        self.assertEqual(self.worker.lseek(other, 8 * MIB, os.SEEK_HOLE), 8 * MIB + 4096)
        self.worker.fallocate(other, 0, 8 * MIB, MIB)
        self.assertEqual(self.size(), 9 * MIB)
        self.worker.pwrite(fd, b'end', 9 * MIB)
        self.worker.fallocate(other, ZERO, 9 * MIB - 10, 11)
        self.assertEqual(self.worker.pread(fd, 20, 9 * MIB - 10), bytes(11) + b'nd')
        free = self.worker.statvfs(self.mnt)
        self.assertEqual(free.f_blocks, (9 * MIB + 3 + 4095) // 4096)
        self.worker.truncate(self.mnt, 0)
        self.assertEqual(self.size(), 0)
        self.worker.pwrite(fd, b'new', 0)
        self.assertEqual((self.size(), self.image_bytes(0, 10)), (3, b'new'))

    def test_times(self):
        """They move with the data and only with it; those that are set stay until then."""
        self.export()
        fd = self.open()
        self.worker.utime(self.mnt, ns=(10**18, 10**18))
        for _ in range(3):
            self.worker.pread(fd, 100, 0)
            self.assertEqual(self.worker.stat(self.mnt).st_mtime_ns, 10**18)
        self.worker.pwrite(fd, b'x', 0)
        moved = self.worker.stat(self.mnt).st_mtime_ns
        self.assertGreater(moved, 10**18)
        self.assertEqual(self.worker.fstat(fd).st_mtime_ns, moved)
        before = time.time_ns()
        self.worker.fallocate(fd, PUNCH, 0, 4096)
        self.assertGreater(self.worker.stat(self.mnt).st_mtime_ns, before - 10**9)
        # Through a mapping, too.
        self.worker.utime(self.mnt, ns=(10**18, 10**18))

        def write(path):
            with open(path, 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:
                m[5000:5004] = b'mmap'
        in_child(write, self.mnt)
        self.assertGreater(self.worker.stat(self.mnt).st_mtime_ns, 10**18)

    def test_mappings(self):
        """Shared with calls on the mount and on the image."""
        self.export()

        def change(path, image):
            with open(path, 'r+b', buffering=0) as f, mmap.mmap(f.fileno(), 0) as m:
                os.pwrite(f.fileno(), b'called', 5000)
                m[9000:9006] = b'mapped'
                with open(image, 'rb') as i:
                    i.seek(9000)
                    return m[5000:5006], os.pread(f.fileno(), 6, 9000), i.read(6)
        self.assertEqual(in_child(change, self.mnt, self.image), (b'called', b'mapped', b'mapped'))

    def test_direct_io_as_the_file_allows_it(self):
        self.export()
        for path in (self.image, self.mnt):
            fd = self.worker.open(path, os.O_RDWR | os.O_DIRECT)
            self.assertEqual(self.worker.pwrite_direct(fd, b'd' * 8192, 4096), 8192)
            self.assertEqual(self.worker.pread_direct(fd, 8192, 4096), b'd' * 8192)
        self.assertEqual(self.worker.pread(self.open(), 8192, 4096), b'd' * 8192)

    def test_read_only(self):
        """Nobody can write, and what others in the daemon write shows."""
        self.export(writable=False)
        self.refuses(errno.EROFS, 'open', self.mnt, os.O_RDWR)
        fd = self.open(os.O_RDONLY)
        self.assertEqual(self.worker.pread(fd, self.SIZE, 0), self.content)
        other = self.mountpoint('other')
        self.daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e1', 'node-name': 'n0', 'mountpoint': other,
                                                 'writable': True, 'growable': True})
        self.worker.write_at(other, 500, b'news')
        self.assertEqual(self.worker.pread(fd, 4, 500), b'news')
        self.worker.write_at(other, self.SIZE, b'more')
        wait_until(lambda: self.worker.fstat(fd).st_size == self.SIZE + 4, what='the size to show')
        self.assertEqual(self.worker.pread(fd, 10, self.SIZE), b'more')

        def write_mapping(path):
            with open(path, 'rb') as f:
                mmap.mmap(f.fileno(), 0)
        self.assert_errno(errno.EACCES, in_child, write_mapping, self.mnt)

    def test_page_cache_option_gives_way(self):
        self.export(cache='page')
        self.assertEqual(self.info()['cache'], 'direct')
        self.worker.write_at(self.mnt, 100, b'data')
        self.assertEqual(self.worker.read_file(self.mnt, 100, 4), b'data')
        self.assertEqual(self.stats()['wr-operations'], 0)

    def test_many_opens(self):
        """The kernel is lent the file again after each last close."""
        self.export()
        for turn in range(30):
            self.assertEqual(self.worker.write_at(self.mnt, turn, b'%c' % turn), 1)
            self.assertEqual(self.worker.read_file(self.mnt, turn, 1), b'%c' % turn)

        def hammer(path):
            for _ in range(100):
                os.close(os.open(path, os.O_RDWR))
        threads = [threading.Thread(target=in_child, args=(hammer, self.mnt)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: self.info()['open-files'] == 0, what='all releases')
        self.assertEqual(self.worker.read_file(self.mnt, 0, 3), bytes(range(3)))

    def test_several_iothreads(self):
        for name in ('t0', 't1'):
            self.daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': name})
        self.export(iothread=['t0', 't1'])

        def hammer(path, n):
            for turn in range(100):
                fd = os.open(path, os.O_RDWR)
                os.pwrite(fd, b'%3d' % turn, n * 3)
                assert os.pread(fd, 3, n * 3) == b'%3d' % turn
                os.close(fd)
        threads = [threading.Thread(target=in_child, args=(hammer, self.mnt, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(self.image_bytes(0, 12), b' 99' * 4)


class Durability(PassTest):
    def test_fsync_close_and_deletion_flush(self):
        """Each, for the daemon cannot know whether something was written."""
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'file', 'node-name': 'n0', 'filename': self.image})
        self.add()
        fd = self.open()
        self.worker.pwrite(fd, b'x', 0)
        flushes = self.stats()['flush-operations']
        self.worker.fsync(fd)
        self.worker.fdatasync(fd)
        self.assertEqual(self.stats()['flush-operations'], flushes + 2)
        self.worker.close(fd)
        self.assertEqual(self.stats()['flush-operations'], flushes + 3)


class CountedSyncs(PassTest, test_fuse_file.CountedSyncs):
    test_synchronous_writes = None  # the kernel's affair
    test_writethrough = None  # refused

    def test_fsync(self):
        """What was written past the node is synced, each time."""
        self.export_traced()
        fd = self.open()
        for _ in range(3):
            self.worker.pwrite(fd, b'x', 0)
            self.assert_synced('fsync', fd)
        self.worker.pwrite(fd, b'x', 0)
        self.assert_synced('close', fd)


class Refusals(PassTest):
    """What stands in the way is named, with 'on' as the error and with 'auto' in the log."""

    FILE = {'driver': 'file'}

    def expect(self, node, word, **options):
        export = {'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mnt, 'writable': True,
                  'growable': True, **{k.replace('_', '-'): v for k, v in options.items()}}
        self.daemon.qmp.cmd('blockdev-add', {'node-name': 'n0', **node})
        with self.subTest(node=node, **options):
            self.refused('block-export-add', {**export, 'passthrough': 'on'}, "'e0'", word, "'passthrough': 'auto'")
            self.assertFalse(self.mounted(self.mnt))
            self.assertEqual(self.daemon.qmp.cmd('query-block-exports'), [])
            self.daemon.qmp.cmd('block-export-add', {**export, 'passthrough': 'auto'})
            self.daemon.wait_log('no passthrough: ')
            self.assertRegex(self.daemon.log(), f"'e0': no passthrough: .*{re.escape(word)}")
            self.assertFalse(self.info()['passthrough'])
            self.assertEqual(len(self.worker.read_file(self.mnt, 0, 512)), 512)
            # Nothing is held: another one may come.
            second = self.mountpoint('second')
            self.daemon.qmp.cmd('block-export-add', {**export, 'id': 'e1', 'mountpoint': second})
            self.delete('e1')
            self.delete()
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_table(self):
        file = {'driver': 'file', 'filename': self.image}
        self.expect({'driver': 'raw', 'offset': 512, 'file': file}, "'offset'")
        self.expect({'driver': 'raw', 'size': 1024, 'file': file}, "'size'")
        self.expect({'driver': 'blkdebug', 'image': file}, "'blkdebug'")
        self.expect({'driver': 'raw', 'file': {'driver': 'blkdebug', 'image': file}}, "'blkdebug'")
        self.expect({'driver': 'null-co', 'size': MIB}, "'null-co'")
        self.expect({**file, 'detect-zeroes': 'on'}, 'detect-zeroes')
        self.expect(file, "'growable'", growable=False)
        self.expect(file, 'writethrough', writethrough=True)

    def test_direct_image(self):
        self.expect({'driver': 'file', 'filename': self.make_file('direct.img', MIB), 'cache': {'direct': True}},
                    'cache.direct')

    def test_writeback_cache(self):
        """The kernel cannot have both, and the cache is what was asked for by name."""
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'n0', 'filename': self.image})
        export = {'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mnt, 'writable': True,
                  'growable': True, 'cache': 'writeback'}
        self.refused('block-export-add', {**export, 'passthrough': 'on'}, "'writeback'")
        self.daemon.qmp.cmd('block-export-add', {**export, 'passthrough': 'auto'})
        self.daemon.wait_log("no passthrough: with 'cache': 'writeback'")
        self.assertFalse(self.info()['passthrough'])
        self.assertEqual(self.worker.read_file(self.mnt), self.content)

    def test_fit_for_readers(self):
        for options in ({'detect-zeroes': 'on'}, {'read-only': True}, {'auto-read-only': True},
                        {'cache': {'no-flush': True}}, {'discard': 'unmap'}, {'locking': 'off'},
                        {'read-only': True, 'force-share': True}):
            self.export(node={'driver': 'file', 'filename': self.image, **options}, writable=False,
                        writethrough=True)
            self.assertEqual(self.worker.read_file(self.mnt), self.content)
            self.delete()
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_fit_for_writers(self):
        for options in ({'auto-read-only': True}, {'cache': {'no-flush': True}}, {'discard': 'unmap'},
                        {'locking': 'off'}):
            self.export(node={'driver': 'file', 'filename': self.image, **options})
            self.assertEqual(self.worker.write_at(self.mnt, 0, b'x', sync=True), 1)
            self.delete()
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_block_device(self):
        self.need_loop()
        device = run('losetup', '--find', '--show', self.make_file('dev.img', 4 * MIB)).stdout.strip()
        try:
            for writable in (True, False):
                self.expect({'driver': 'host_device', 'filename': device}, 'block device',
                            writable=writable, growable=writable)
        finally:
            run('losetup', '-d', device)

    def test_image_on_an_export(self):
        """Of this daemon or another: no hang."""
        self.export()
        other = self.wharfd(name='other')
        second = self.mountpoint('second')
        for daemon in (self.daemon, other):
            daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'inner', 'filename': self.mnt})
            reply = daemon.qmp.execute('block-export-add', {
                'type': 'fuse', 'id': 'x', 'node-name': 'inner', 'mountpoint': second, 'passthrough': 'on'})
            self.assertIn('FUSE', reply['error']['desc'])
            daemon.qmp.cmd('block-export-add', {
                'type': 'fuse', 'id': 'x', 'node-name': 'inner', 'mountpoint': second, 'passthrough': 'auto'})
            self.assertEqual(self.worker.read_file(second), self.content)
            daemon.qmp.cmd('block-export-del', {'id': 'x'})
            daemon.qmp.cmd('blockdev-del', {'node-name': 'inner'})

    def test_image_on_overlayfs(self):
        for name in ('upper', 'work', 'lower', 'merged'):
            os.mkdir(self.path(name))
        os.link(self.image, self.path('lower/disk.img'))
        options = f'lowerdir={self.path("lower")},upperdir={self.path("upper")},workdir={self.path("work")}'
        if run('mount', '-t', 'overlay', 'o', '-o', options, self.path('merged'), check=False).returncode:
            self.skipTest('no overlayfs here')
        self.export(self.path('merged/disk.img'))
        self.assertEqual(self.worker.read_file(self.mnt), self.content)
        self.worker.write_at(self.mnt, 0, b'over')
        self.assertEqual(self.worker.read_file(self.path('merged/disk.img'), 0, 4), b'over')
        self.worker.write_at(self.mnt, self.SIZE, b'more')
        self.assertEqual(self.size(), self.SIZE + 4)
        self.delete()
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})
        run('umount', self.path('merged'))

    def test_without_privilege(self):
        """Root that cannot do everything: mounting is left to it by a user namespace."""
        unshare = [find_tool('unshare'), '--user', '--map-root-user', '--mount']
        if run(*unshare, 'true', check=False).returncode:
            self.skipTest('no user namespace to be had')
        daemon = self.wharfd(name='inside', prefix=unshare)
        daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'n0', 'filename': self.image})
        export = {'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mnt, 'transport': 'dev'}
        reply = daemon.qmp.execute('block-export-add', {**export, 'passthrough': 'on'})
        self.assertIn('CAP_SYS_ADMIN', reply['error']['desc'])
        daemon.qmp.cmd('block-export-add', {**export, 'passthrough': 'auto'})
        daemon.wait_log('CAP_SYS_ADMIN')
        self.assertFalse(self.info(daemon=daemon)['passthrough'])
        inside = (find_tool('nsenter'), '--target', daemon.pid, '--user', '--mount', '--preserve-credentials')
        self.assertEqual(run(*inside, 'cat', self.mnt, text=False).stdout, self.content)


class Holds(PassTest):
    """What would have to see the data is kept away while there is passthrough, and no longer."""

    RAW = {'driver': 'raw', 'node-name': 'n0', 'file': 'f0'}
    FILE = {'driver': 'file', 'node-name': 'f0'}

    def setUp(self):
        super().setUp()
        self.file = {**self.FILE, 'filename': self.image}
        self.daemon.qmp.cmd('blockdev-add', self.file)
        self.daemon.qmp.cmd('blockdev-add', self.RAW)

    def second(self, node, **options):
        return {'type': 'fuse', 'id': 'e1', 'node-name': node, 'mountpoint': self.mountpoint('second'), **options}

    def test_reopen(self):
        for writable in (True, False):
            self.add(writable=writable)
            for options in ({**self.RAW, 'offset': 512}, self.RAW, {**self.file, 'cache': {'direct': True}}):
                self.refused('blockdev-reopen', {'options': [options]}, "'e0'", 'passthrough')
            self.assertEqual(self.worker.read_file(self.mnt), self.content)
            self.delete()
            self.daemon.qmp.cmd('blockdev-reopen', {'options': [{**self.RAW, 'offset': 512}]})
            self.daemon.qmp.cmd('blockdev-reopen', {'options': [self.RAW]})

    def test_others_beside_a_writer(self):
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'blkdebug', 'node-name': 'dbg', 'image': 'f0'})
        self.add()
        for node in ('n0', 'f0', 'dbg'):
            for writable in (True, False):
                for passthrough in ('off', 'on'):
                    self.refused('block-export-add',
                                 self.second(node, writable=writable, growable=writable, passthrough=passthrough),
                                 "'e0'", f"'{node}'", 'passthrough')
        for node in ('n0', 'f0'):
            self.refused('block_resize', {'node-name': node, 'size': 5}, "'e0'", 'passthrough')
        self.refused('blockdev-set-active', {'node-name': 'n0', 'active': False}, "'e0'")
        self.refused('blockdev-del', {'node-name': 'n0'})
        self.delete()
        self.daemon.qmp.cmd('block-export-add', self.second('dbg', writable=True))
        self.daemon.qmp.cmd('block_resize', {'node-name': 'n0', 'size': 5})
        # And a writer finds those that are there.
        self.refused('block-export-add', {
            'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mnt, 'writable': True, 'growable': True,
            'passthrough': 'on'}, "'dbg'")

    def test_others_beside_a_reader(self):
        self.add(writable=False)
        self.daemon.qmp.cmd('block-export-add', self.second('n0', passthrough='on'))
        self.delete('e1')
        self.daemon.qmp.cmd('block_resize', {'node-name': 'n0', 'size': 5})
        wait_until(lambda: self.size() == 5, what='the new size')

    def test_other_processes(self):
        self.add()
        other = self.wharfd(name='other')
        other.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'n0', 'filename': self.image})
        export = {'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mountpoint('second')}
        reply = other.qmp.execute('block-export-add', {**export, 'writable': True})
        self.assertIn('in use', reply['error']['desc'])
        other.qmp.cmd('block-export-add', export)


class Ending(PassTest):
    """What becomes of open files and mappings, and of the image, when the export goes."""

    def image_is_free(self):
        """Whether another daemon could write to it."""
        other = self.wharfd(name=f'probe{len(self._daemons)}')
        other.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'n0', 'filename': self.image})
        reply = other.qmp.execute('block-export-add', {
            'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mountpoint('probe'), 'writable': True})
        other.quit()
        return 'return' in reply

    def test_safe_deletion_of_a_file_just_closed(self):
        """Often: the kernel tells of the close a moment later."""
        self.export()
        for _ in range(20):
            self.worker.write_at(self.mnt, 0, b'x')
            self.delete()
            self.assertFalse(self.mounted(self.mnt))
            self.add()

    def test_safe_deletion_waits(self):
        self.export()
        fd = self.open()
        reply = []
        client = self.daemon.qmp_client()
        deletion = threading.Thread(target=lambda: reply.append(client.execute('block-export-del', {'id': 'e0'})))
        deletion.start()
        # It goes on being served meanwhile, for as long as it is open.
        self.worker.pwrite(fd, b'still', 0)
        self.assertEqual(self.worker.fstat(fd).st_size, self.SIZE)
        self.worker.close(fd)
        deletion.join(tools.TIMEOUT)
        self.assertEqual(reply, [{'return': {}}])
        event = self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED')
        self.assertEqual(event['data'], {'id': 'e0', 'reason': 'deleted'})
        self.assertTrue(self.image_is_free())

    def test_safe_deletion_is_refused(self):
        self.export()
        fd = self.open()
        self.refused('block-export-del', {'id': 'e0'}, 'open or mapped', "'e0'")
        self.worker.pwrite(fd, b'still', 0)
        self.assertEqual(self.worker.stat(self.mnt).st_size, self.SIZE)
        self.worker.close(fd)
        self.delete()

    def test_safe_deletion_of_a_mapping(self):
        """No descriptor, no open file that the daemon could know of, and yet somebody writes."""
        self.export()

        def use(path, image, go, done):
            memory, address = map_and_close(path, 8192)
            os.write(done, b'1')
            os.read(go, 1)
            memory[100:104] = b'mmap'
            with open(image, 'rb') as f:
                f.seek(100)
                result = f.read(4)
            libc.munmap(ctypes.c_void_p(address), 8192)
            return result
        go, done = os.pipe(), os.pipe()
        result = []
        user = threading.Thread(target=lambda: result.append(in_child(use, self.mnt, self.image, go[0], done[1])))
        user.start()
        os.read(done[0], 1)
        wait_until(lambda: self.info()['open-files'] == 0, what='the release')
        self.refused('block-export-del', {'id': 'e0'}, 'mapped')
        os.write(go[1], b'1')
        user.join(tools.TIMEOUT)
        self.assertEqual(result, [b'mmap'])
        self.delete()

    def open_goes_on(self, fd):
        self.worker.pwrite(fd, b'late', 300)
        self.assertEqual(self.worker.pread(fd, 4, 300), b'late')
        self.assertEqual(self.image_bytes(300, 4), b'late')

    def close_dead(self, fd):
        try:
            self.worker.close(fd)
        except OSError:
            pass  # it has told all the same

    def test_hard_deletion(self):
        """Open files go on, which nothing can stop; so the image stays locked until they are closed."""
        self.export()
        fd = self.open()
        self.delete(mode='hard')
        self.assertFalse(self.mounted(self.mnt))
        self.daemon.wait_log('will go on reading and writing the image')
        self.open_goes_on(fd)
        self.refused('block-export-add', {'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mnt,
                                          'writable': True}, 'in use')
        self.assertFalse(self.image_is_free())
        self.close_dead(fd)
        self.assertTrue(self.image_is_free())
        self.add()

    def test_quit(self):
        self.export()
        fd = self.open()
        self.daemon.quit()
        self.assertFalse(self.mounted(self.mnt))
        self.open_goes_on(fd)
        self.assertFalse(self.image_is_free())
        self.close_dead(fd)
        self.assertTrue(self.image_is_free())

    def test_hard_deletion_while_a_safe_one_waits(self):
        self.export()
        fd = self.open()
        client = self.daemon.qmp_client()
        reply = []
        waiting = threading.Thread(target=lambda: reply.append(client.execute('block-export-del', {'id': 'e0'})))
        waiting.start()
        self.delete(mode='hard')
        waiting.join(tools.TIMEOUT)
        # Whichever came first: it is told of the end, or finds the export ending or gone.
        self.assertRegex(str(reply[0]), 'return|there is no export|shutting down already')
        self.close_dead(fd)

    def test_quit_while_a_safe_one_waits(self):
        self.export()
        fd = self.open()
        client = self.daemon.qmp_client()
        client.send({'execute': 'block-export-del', 'arguments': {'id': 'e0'}})
        self.daemon.quit()
        self.close_dead(fd)

    def test_killed_with_open_files(self):
        """The image stays locked as long as it is open; then the next daemon clears the way itself."""
        self.export()
        fd = self.open()
        self.daemon.kill(wait_unlocked=False)
        self.open_goes_on(fd)
        again = self.wharfd(name='again')
        again.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'n0', 'filename': self.image})
        export = {'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mnt, 'writable': True,
                  'growable': True, 'passthrough': 'on'}
        reply = again.qmp.execute('block-export-add', export)
        self.assertIn('in use', reply['error']['desc'])
        self.close_dead(fd)
        wait_until(lambda: 'return' in again.qmp.execute('block-export-add', export), what='the locks to go')
        self.assertEqual(self.worker.read_file(self.mnt, 300, 4), b'late')
        again.quit()

    def test_killed_without_open_files(self):
        self.export()
        self.worker.write_at(self.mnt, 0, b'x')
        wait_until(lambda: self.info()['open-files'] == 0, what='the release')
        self.daemon.kill()
        # Its mount is there still, but holds nothing.
        self.assertTrue(self.image_is_free())
        again = self.wharfd(name='again')
        again.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'n0', 'filename': self.image})
        again.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mnt,
                                           'writable': True, 'growable': True, 'passthrough': 'on'})
        again.quit()

    def test_unmounted_by_somebody_else(self):
        self.export()
        self.worker.write_at(self.mnt, 0, b'x')
        run('umount', self.mnt)
        event = self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED')
        self.assertEqual(event['data']['reason'], 'unmounted')
        self.assertTrue(self.image_is_free())

    def test_unmounted_lazily_while_open(self):
        self.export()
        fd = self.open()
        run('umount', '-l', self.mnt)
        self.open_goes_on(fd)
        self.assertEqual(self.worker.fstat(fd).st_size, self.SIZE)
        self.worker.close(fd)
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED')

    def test_unmounted_lazily_then_deleted(self):
        self.export()
        fd = self.open()
        run('umount', '-l', self.mnt)
        self.delete()
        self.open_goes_on(fd)
        self.assertFalse(self.image_is_free())
        self.close_dead(fd)
        self.assertTrue(self.image_is_free())

    def test_no_descriptor_is_left(self):
        self.export(passthrough='off')
        self.delete()
        before = sorted(self.daemon.fds().values())
        for _ in range(5):
            self.add()
            self.worker.write_at(self.mnt, 0, b'x')
            self.delete()
        wait_until(lambda: len(self.daemon.fds()) == len(before), what='all to be closed')


class RealUse(PassTest):
    def test_file_system_in_a_loop(self):
        self.need_loop()
        mkfs, fsck = find_tool('mkfs.ext4'), find_tool('fsck.ext4')
        self.export(self.make_file('fs.img', 64 * MIB))
        run(mkfs, '-q', self.mnt)
        inside = self.path('inside')
        os.mkdir(inside)
        run('mount', '-o', 'loop', self.mnt, inside)
        run('cp', '-r', os.path.dirname(os.path.abspath(__file__)), inside)
        run('diff', '-r', '-x', '__pycache__', os.path.dirname(os.path.abspath(__file__)),
            os.path.join(inside, os.path.basename(os.path.dirname(os.path.abspath(__file__)))))
        run('umount', inside)
        run(fsck, '-f', '-n', self.mnt)
        self.delete()
        run(fsck, '-f', '-n', self.path('fs.img'))

    def test_programs(self):
        self.export()
        run('cp', self.mnt, self.path('copy'))
        run('cmp', self.image, self.path('copy'))
        run('dd', f'if={self.path("copy")}', f'of={self.mnt}', 'bs=7777', 'seek=100', 'conv=notrunc')
        self.assertEqual(self.size(), 777700 + self.SIZE)
        run('tar', '-cf', self.path('a.tar'), '-C', self.dir, 'mnt')
        run('cp', self.path('a.tar'), self.mnt)
        run('cmp', self.path('a.tar'), self.image)


class FioVerify(test_fio_verify.FioVerify):
    """As there, with the kernel doing the work."""

    EXPORT = {'passthrough': 'on', 'growable': True}
    test_direct_image = None  # cache.direct
    test_unaligned_on_direct_image = None

    def setUp(self):
        if os.geteuid() != 0 or not kernel_has_passthrough():
            self.skipTest('no passthrough here')
        super().setUp()

    def check(self, daemon):
        export = daemon.qmp.cmd('query-block-exports')[0]
        self.assertTrue(export['fuse']['passthrough'])
        self.assertEqual((export['stats']['rd-operations'], export['stats']['wr-operations']), (0, 0))
        super().check(daemon)


if __name__ == '__main__':
    main()
