# SPDX-License-Identifier: GPL-2.0-or-later
"""What programs see of an exported file, call by call (qsd-behaviour C2 to C10)."""

import errno
import mmap
import os
import stat
import time

from wharf import *
from wharf import fs as fs_module

MIB = 1 << 20
KEEP = fs_module.FALLOC_KEEP_SIZE
PUNCH = fs_module.FALLOC_PUNCH_HOLE | KEEP
ZERO = fs_module.FALLOC_ZERO_RANGE
NOTSUP = errno.errorcode[errno.ENOTSUP]
NOWAIT = getattr(os, 'RWF_NOWAIT', 8)


@fuse_test
class FileTest(IoTest):
    SIZE = 100000  # no multiple of anything

    def setUp(self):
        super().setUp()
        self.content = bytes(i * 7 % 251 + 1 for i in range(self.SIZE))
        self.image = self.make_file('disk.img', content=self.content)
        self.mnt = self.mountpoint()
        self.daemon = self.wharfd()
        self.worker = self.fs()

    def export(self, image=None, node=None, **options):
        node = node or {'driver': 'raw', 'discard': 'unmap',
                        'file': {'driver': 'file', 'filename': image or self.image, 'discard': 'unmap'}}
        self.daemon.qmp.cmd('blockdev-add', {'node-name': 'n0', **node})
        self.add(**options)

    def add(self, **options):
        self.daemon.qmp.cmd('block-export-add', {
            'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mnt, 'writable': True,
            **{k.replace('_', '-'): v for k, v in options.items()}})

    def export_null(self, size=100000, **options):
        self.export(node={'driver': 'null-co', 'size': size, 'read-zeroes': True}, **options)

    def open(self, flags=os.O_RDWR):
        return self.worker.open(self.mnt, flags)

    def size(self):
        return self.worker.stat(self.mnt).st_size

    def refuses(self, number, name, *args):
        self.assert_errno(number, getattr(self.worker, name), *args)


class Stat(FileTest):
    def test_fields(self):
        self.export()
        st = self.worker.stat(self.mnt)
        self.assertEqual(st.st_mode, stat.S_IFREG | 0o600)
        self.assertEqual((st.st_uid, st.st_gid), (os.geteuid(), os.getegid()))
        self.assertEqual((st.st_ino, st.st_nlink), (1, 1))
        self.assertEqual(st.st_size, self.SIZE)
        self.assertEqual(st.st_blocks, os.stat(self.image).st_blocks)
        self.assertGreaterEqual(st.st_blksize, 65536)

    def test_read_only(self):
        self.export(writable=False)
        self.assertEqual(self.worker.stat(self.mnt).st_mode, stat.S_IFREG | 0o400)

    def test_every_size_is_exact(self):
        for i, size in enumerate((0, 1, 511, 512, 513, 4095, 1000000)):
            image = self.make_file(f'image{i}', size)
            self.daemon.qmp.cmd('blockdev-add', {'node-name': f'n{i}', 'driver': 'file', 'filename': image})
            mnt = self.mountpoint(f'm{i}')
            self.daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': f'x{i}', 'node-name': f'n{i}',
                                                     'mountpoint': mnt})
            self.assertEqual(self.worker.stat(mnt).st_size, size)
            self.assertEqual(len(self.worker.read_file(mnt)), size)

    def test_times_stand_still(self):
        """Asking and reading move nothing; the times are those of the last change."""
        self.export()
        before = self.worker.stat(self.mnt)
        run('sleep', '1.2')
        self.worker.read_file(self.mnt)
        after = self.worker.stat(self.mnt)
        for name in ('st_atime_ns', 'st_mtime_ns', 'st_ctime_ns'):
            self.assertEqual(getattr(before, name), getattr(after, name), name)
        self.worker.write_at(self.mnt, 0, b'x')
        changed = self.worker.stat(self.mnt)
        self.assertGreater(changed.st_mtime_ns, after.st_mtime_ns)
        self.assertGreater(changed.st_ctime_ns, after.st_ctime_ns)
        self.assertEqual(changed.st_atime_ns, after.st_atime_ns)

    def test_utime(self):
        self.export()
        self.worker.utime(self.mnt, ns=(10**18 + 1, 2 * 10**18 + 2))
        st = self.worker.stat(self.mnt)
        self.assertEqual((st.st_atime_ns, st.st_mtime_ns), (10**18 + 1, 2 * 10**18 + 2))
        self.worker.utime(self.mnt)
        self.assertLess(abs(self.worker.stat(self.mnt).st_mtime_ns - time.time_ns()), 300 * 10**9)
        self.worker.utime(self.mnt, ns=(-5, -5 * 10**9 - 1))
        self.assertEqual(self.worker.stat(self.mnt).st_mtime_ns, -5 * 10**9 - 1)

    def test_statvfs_adds_up(self):
        image = self.make_file('sparse.img', 10 * MIB, content=b'x' * MIB)
        self.export(image)
        st = self.worker.statvfs(self.mnt)
        self.assertEqual((st.f_bsize, st.f_frsize), (4096, 4096))
        self.assertEqual(st.f_blocks * st.f_frsize, 10 * MIB)
        self.assertEqual(st.f_bfree, st.f_bavail)
        used = (st.f_blocks - st.f_bfree) * st.f_frsize
        self.assertLess(abs(used - os.stat(image).st_blocks * 512), 4096)

    def test_unknown_allocation_counts_as_full(self):
        self.export_null(MIB)
        st = self.worker.stat(self.mnt)
        self.assertEqual(st.st_blocks * 512, MIB)
        self.assertEqual(self.worker.statvfs(self.mnt).f_bfree, 0)

    def test_no_extended_attributes(self):
        self.export()
        self.refuses(errno.ENOTSUP, 'setxattr', self.mnt, 'user.a', b'b')
        self.refuses(errno.ENOTSUP, 'getxattr', self.mnt, 'user.a')
        self.refuses(errno.ENOTSUP, 'listxattr', self.mnt)

    def test_resize_shows_at_once_in_reads(self):
        self.export()
        fd = self.open(os.O_RDONLY)
        self.assertEqual(self.size(), self.SIZE)
        self.daemon.qmp.cmd('block_resize', {'node-name': 'n0', 'size': self.SIZE + 1000})
        self.assertEqual(self.worker.pread(fd, 2000, self.SIZE), bytes(1000))
        wait_until(lambda: self.size() == self.SIZE + 1000, what='the new size')
        self.daemon.qmp.cmd('block_resize', {'node-name': 'n0', 'size': 10})
        self.assertEqual(self.worker.pread(fd, 2000, 0), self.content[:10])
        wait_until(lambda: self.size() == 10, what='the new size')


class Open(FileTest):
    def test_read_only(self):
        self.export(writable=False)
        for flags in (os.O_RDONLY, os.O_RDONLY | os.O_DIRECT, os.O_RDONLY | os.O_NOATIME, os.O_PATH):
            self.worker.close(self.open(flags))
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_CREAT,
                      os.O_WRONLY | os.O_TRUNC, os.O_RDONLY | os.O_TRUNC):
            self.refuses(errno.EROFS, 'open', self.mnt, flags)
        self.assertEqual(self.worker.read_file(self.mnt), self.content)

    def test_writable(self):
        self.export()
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_CREAT,
                      os.O_RDWR | os.O_DIRECT, os.O_PATH):
            self.worker.close(self.open(flags))

    def test_other_flags(self):
        self.export()
        self.refuses(errno.EEXIST, 'open', self.mnt, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self.refuses(errno.ENOTDIR, 'open', self.mnt, os.O_RDONLY | os.O_DIRECTORY)
        self.refuses(errno.EBUSY, 'unlink', self.mnt)
        self.refuses(errno.EBUSY, 'rename', self.mnt, self.path('other'))
        self.refuses(errno.EXDEV, 'link', self.mnt, self.path('other'))

    def test_trunc_is_ignored_unless_growable(self):
        self.export()
        self.worker.close(self.open(os.O_RDWR | os.O_TRUNC))
        self.assertEqual(self.size(), self.SIZE)
        self.assertEqual(self.worker.read_file(self.mnt), self.content)
        run('sh', '-c', f': > {self.mnt}')
        self.assertEqual(self.worker.read_file(self.mnt), self.content)

    def test_trunc_empties_a_growable_export(self):
        self.export(growable=True)
        self.worker.close(self.open(os.O_RDWR | os.O_TRUNC))
        self.assertEqual(self.size(), 0)
        self.assertEqual(os.stat(self.image).st_size, 0)

    def test_growable_without_writable(self):
        self.export(growable=True, writable=False)
        self.refuses(errno.EROFS, 'open', self.mnt, os.O_WRONLY)
        self.assertFalse(self.daemon.qmp.cmd('query-block-exports')[0]['growable'])


class OtherUsers(FileTest):
    NOBODY = 65534

    def setUp(self):
        super().setUp()
        self.need_root()

    def as_nobody(self, *command):
        def drop():
            os.setgroups([])
            os.setgid(self.NOBODY)
            os.setuid(self.NOBODY)
        return run(*command, check=False, preexec_fn=drop)

    def test_off_keeps_others_out(self):
        self.export(allow_other='off')
        result = self.as_nobody('stat', self.mnt)
        self.assertIn('Permission denied', result.stderr)

    def test_on_lets_them_in_as_the_mode_says(self):
        for allow in ('on', 'auto'):
            self.export(allow_other=allow)
            self.assertEqual(self.as_nobody('stat', self.mnt).returncode, 0)
            self.assertIn('Permission denied', self.as_nobody('cat', self.mnt).stderr)
            self.worker.chmod(self.mnt, 0o644)
            self.assertEqual(self.as_nobody('cmp', self.mnt, self.image).returncode, 0)
            self.assertIn('Permission denied', self.as_nobody('sh', '-c', f'echo > {self.mnt}').stderr)
            self.assertIn('not permitted', self.as_nobody('chmod', '666', self.mnt).stderr)
            self.worker.chown(self.mnt, self.NOBODY, self.NOBODY)
            self.assertEqual(self.as_nobody('chmod', '600', self.mnt).returncode, 0)
            self.assertEqual(stat.S_IMODE(self.worker.stat(self.mnt).st_mode), 0o600)
            self.daemon.qmp.cmd('block-export-del', {'id': 'e0'})
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_chmod_and_chown_not_in_force(self):
        self.export(allow_other='off')
        for mode in (0o640, 0o604, 0o4600, 0o1600, 0o777):
            self.refuses(errno.EPERM, 'chmod', self.mnt, mode)
        for mode in (0o400, 0o600, 0o700):
            self.worker.chmod(self.mnt, mode)
            self.assertEqual(stat.S_IMODE(self.worker.stat(self.mnt).st_mode), mode)
        self.refuses(errno.ENOTSUP, 'chown', self.mnt, 1, 1)

    def test_read_only_takes_modes_without_write_bits(self):
        self.export(writable=False)
        for mode in (0o600, 0o644, 0o222, 0o666):
            self.refuses(errno.EROFS, 'chmod', self.mnt, mode)
        self.worker.chmod(self.mnt, 0o444)
        self.assertEqual(self.as_nobody('cmp', self.mnt, self.image).returncode, 0)
        self.worker.chown(self.mnt, 1, 2)
        st = self.worker.stat(self.mnt)
        self.assertEqual((st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)), (1, 2, 0o444))
        self.refuses(errno.EROFS, 'utime', self.mnt)
        self.refuses(errno.EROFS, 'truncate', self.mnt, 5)


class Truncate(FileTest):
    def test_read_only(self):
        self.export(writable=False)
        self.refuses(errno.EINVAL, 'ftruncate', self.open(os.O_RDONLY), 5)
        self.refuses(errno.EROFS, 'truncate', self.mnt, 5)

    def test_growable_or_not(self):
        for growable in (False, True):
            self.export(growable=growable)
            fd = self.open()
            for size in (self.SIZE + 5000, 1, 0, 77, 300000):
                self.worker.ftruncate(fd, size)
                self.assertEqual(self.worker.fstat(fd).st_size, size)
                self.assertEqual(os.stat(self.image).st_size, size)
            self.assertEqual(self.worker.read_file(self.mnt), bytes(300000))
            self.worker.close(fd)
            self.daemon.qmp.cmd('block-export-del', {'id': 'e0'})
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_fixed_length(self):
        self.export_null()
        for size in (self.SIZE, 5, self.SIZE + 5):
            self.refuses(errno.ENOTSUP, 'truncate', self.mnt, size)
        self.assertEqual(self.size(), 100000)

    def test_too_large(self):
        self.export()
        self.refuses(errno.EFBIG, 'truncate', self.mnt, (1 << 63) - 1)
        self.assertEqual(self.size(), self.SIZE)

    def test_two_exports_share_the_resize(self):
        """RESIZE is taken for the moment only, so both may do it, and each sees what the other does."""
        self.export()
        other = self.mountpoint('other')
        self.daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e1', 'node-name': 'n0',
                                                 'mountpoint': other, 'writable': True})
        self.worker.truncate(self.mnt, 5)
        wait_until(lambda: self.worker.stat(other).st_size == 5, what='the new size')
        self.worker.truncate(other, 500)
        wait_until(lambda: self.size() == 500, what='the new size')


class ReadWrite(FileTest):
    def test_read(self):
        self.export()
        fd = self.open(os.O_RDONLY)
        self.assertEqual(self.worker.pread(fd, 100, self.SIZE - 10), self.content[-10:])
        self.assertEqual(self.worker.pread(fd, 100, self.SIZE), b'')
        self.assertEqual(self.worker.pread(fd, 100, self.SIZE + 10**12), b'')
        self.assertEqual(self.worker.pread(fd, self.SIZE + 5, 0), self.content)

    def test_write_inside(self):
        self.export()
        fd = self.open()
        want = bytearray(self.content)
        for offset, length in ((0, 1), (1, 511), (4095, 2), (511, 70000), (99999, 1)):
            self.assertEqual(self.worker.pwrite(fd, b'w' * length, offset), length)
            want[offset:offset + length] = b'w' * length
        self.assertEqual(self.worker.read_file(self.image), bytes(want))

    def test_direct_with_any_alignment(self):
        self.export()
        fd = self.open(os.O_RDWR | os.O_DIRECT)
        for offset, length in ((0, 512), (1, 3), (777, 4096), (self.SIZE - 5, 5)):
            self.assertEqual(self.worker.pwrite_direct(fd, b'd' * length, offset), length)
            self.assertEqual(self.worker.pread_direct(fd, length, offset), b'd' * length)

    def test_end_without_growing(self):
        self.export()
        fd = self.open()
        self.assertEqual(self.worker.pwrite(fd, b'z' * 100, self.SIZE - 10), 10)
        for offset in (self.SIZE, self.SIZE + 1, self.SIZE + MIB):
            self.refuses(errno.ENOSPC, 'pwrite', fd, b'z', offset)
        append = self.open(os.O_WRONLY | os.O_APPEND)
        self.refuses(errno.ENOSPC, 'write', append, b'z')
        self.assertEqual(os.stat(self.image).st_size, self.SIZE)

    def test_end_with_growing(self):
        self.export(growable=True)
        fd = self.open()
        self.assertEqual(self.worker.pwrite(fd, b'z' * 100, self.SIZE - 10), 100)
        self.assertEqual(self.worker.fstat(fd).st_size, self.SIZE + 90)
        self.assertEqual(self.worker.pwrite(fd, b'y', self.SIZE + 1000), 1)
        self.assertEqual(self.worker.pread(fd, 910, self.SIZE + 90), bytes(910))
        self.assertEqual(os.stat(self.image).st_size, self.SIZE + 1001)

    def test_append_lands_at_the_exact_end(self):
        self.export(self.make_file('empty.img'), growable=True)
        fd = self.open(os.O_WRONLY | os.O_APPEND)
        for text in (b'six...', b'a', b'bc'):
            self.worker.write(fd, text)
        self.assertEqual(self.worker.read_file(self.path('empty.img')), b'six...abc')

    def test_fixed_length(self):
        self.export_null(growable=True)
        fd = self.open()
        self.assertEqual(self.worker.pwrite(fd, b'z' * 100, 100000 - 10), 10)
        self.refuses(errno.ENOSPC, 'pwrite', fd, b'z', 100000)

    def test_descriptors(self):
        self.export()
        self.refuses(errno.EBADF, 'pwrite', self.open(os.O_RDONLY), b'x', 0)
        self.refuses(errno.EBADF, 'pread', self.open(os.O_WRONLY), 5, 0)

    def test_large_requests_arrive_whole(self):
        """1 MiB reads and writes are one request each."""
        self.export(self.make_file('big.img', 4 * MIB))
        before = self.daemon.qmp.cmd('query-block-exports')[0]
        self.assertEqual((before['fuse']['max-write'], before['fuse']['max-read']), (MIB, MIB))
        fd = self.open()
        self.assertEqual(self.worker.pwrite_direct(fd, b'x' * MIB, 0), MIB)
        self.assertEqual(len(self.worker.pread_direct(fd, MIB, 0)), MIB)
        stats = self.daemon.qmp.cmd('query-block-exports')[0]['stats']
        self.assertEqual((stats['wr-operations'], stats['wr-bytes']), (1, MIB))
        self.assertEqual((stats['rd-operations'], stats['rd-bytes']), (1, MIB))

    def test_nothing_is_cached(self):
        """Bytes written behind the export's back, or through another export, show at once."""
        self.export()
        other = self.mountpoint('other')
        self.daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e1', 'node-name': 'n0',
                                                 'mountpoint': other, 'writable': True})
        fd, second = self.open(), self.worker.open(other, os.O_RDWR)
        for turn in range(5):
            text = b'turn %d' % turn
            with open(self.image, 'r+b') as f:
                f.write(text)
            self.assertEqual(self.worker.pread(fd, 6, 0), text)
            self.worker.pwrite(second, text[::-1], 100)
            self.assertEqual(self.worker.pread(fd, 6, 100), text[::-1])
            with open(self.image, 'rb') as f:
                f.seek(100)
                self.assertEqual(f.read(6), text[::-1])

    def test_a_write_elsewhere_moves_the_times(self):
        self.export()
        other = self.mountpoint('other')
        self.daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e1', 'node-name': 'n0',
                                                 'mountpoint': other, 'writable': True})
        before = self.worker.stat(self.mnt).st_mtime_ns

        def moves():
            # A write in the same tick of the clock gives the same time: so more than one.
            self.worker.write_at(other, 0, b'x')
            return self.worker.stat(self.mnt).st_mtime_ns > before
        wait_until(moves, what='mtime to move')

    def test_shared_mapping(self):
        self.export()

        def change(path):
            with open(path, 'r+b') as f, mmap.mmap(f.fileno(), 8192) as m:
                first = m[:100]
                m[4000:4200] = b'm' * 200
                m.flush()
                return first
        self.assertEqual(in_child(change, self.mnt), self.content[:100])
        self.assertEqual(self.worker.read_file(self.image, 4000, 200), b'm' * 200)
        self.assertEqual(self.worker.read_file(self.image), self.content[:4000] + b'm' * 200 + self.content[4200:])

    def test_private_mapping(self):
        self.export(writable=False)

        def look(path):
            with open(path, 'rb') as f, mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as m:
                return m[:]
        self.assertEqual(in_child(look, self.mnt), self.content)

    def test_kernel_copies(self):
        self.export()
        fd, second = self.open(), self.open()
        self.assertEqual(self.worker.copy_file_range(fd, second, 20000, 0, 50000), 20000)
        want = bytearray(self.content)
        want[50000:70000] = want[:20000]
        self.assertEqual(self.worker.read_file(self.image), bytes(want))
        target = self.worker.open(self.path('target'), os.O_RDWR | os.O_CREAT)
        self.assertEqual(self.worker.sendfile(target, fd, 50000, 1000), 1000)
        self.assertEqual(self.worker.read_file(self.path('target')), bytes(want[50000:51000]))

    def test_nowait(self):
        self.export()

        def nowait(path):
            fd = os.open(path, os.O_RDONLY)
            try:
                return os.preadv(fd, [bytearray(10)], 0, NOWAIT)
            finally:
                os.close(fd)
        self.assert_errno(errno.ENOTSUP, in_child, nowait, self.mnt)

    def test_locks_are_local_and_work(self):
        self.export()
        run('flock', '-x', '-n', self.mnt, 'true')

    def test_block_device_ioctls(self):
        self.export()
        result = run('blockdev', '--getsize64', self.mnt, check=False)
        self.assertIn('Inappropriate ioctl', result.stderr)


class Fallocate(FileTest):
    def outcome(self, fd, mode, offset, length):
        """None or an errno's name, and the size then."""
        try:
            self.worker.fallocate(fd, mode, offset, length)
            result = None
        except OSError as e:
            result = errno.errorcode[e.errno]
        return result, self.worker.fstat(fd).st_size

    def test_modes(self):
        end = self.SIZE
        expected = {
            0: (end, end + 1000, end + 100, end + 5100),
            KEEP: (end,) * 4,
            PUNCH: (end,) * 4,
            ZERO: (end, end + 1000, end + 100, end + 5100),
            ZERO | KEEP: (end,) * 4,
        }
        for growable in (False, True):
            self.export(growable=growable)
            fd = self.open()
            for mode, sizes in expected.items():
                ranges = ((100, 5000), (end - 1000, 2000), (end, 100), (end + 5000, 100))
                for (offset, length), size in zip(ranges, sizes):
                    self.assertEqual(self.outcome(fd, mode, offset, length), (None, size), (mode, offset))
                    self.worker.ftruncate(fd, end)
            self.worker.close(fd)
            self.daemon.qmp.cmd('block-export-del', {'id': 'e0'})
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_refused(self):
        self.export()
        fd = self.open()
        for mode in (fs_module.FALLOC_PUNCH_HOLE, fs_module.FALLOC_COLLAPSE_RANGE,
                     fs_module.FALLOC_INSERT_RANGE, fs_module.FALLOC_UNSHARE_RANGE):
            self.assertEqual(self.outcome(fd, mode, 0, 4096), (NOTSUP, self.SIZE))
        self.assertEqual(self.outcome(fd, 0, 0, 0), ('EINVAL', self.SIZE))
        self.assertEqual(self.outcome(fd, 0, 1 << 62, 1 << 62), ('EFBIG', self.SIZE))
        self.refuses(errno.EBADF, 'fallocate', self.open(os.O_RDONLY), 0, 0, 10)

    def test_zeroing_is_exact_and_keeps_the_rest(self):
        self.export()
        fd = self.open()
        want = bytearray(self.content)
        for mode, offset, length in ((PUNCH, 1000, 9000), (ZERO, 20001, 5), (ZERO | KEEP, 40960, 8192),
                                     (PUNCH, self.SIZE - 10, 10)):
            self.worker.fallocate(fd, mode, offset, length)
            want[offset:offset + length] = bytes(length)
        self.assertEqual(self.worker.read_file(self.mnt), bytes(want))
        self.assertEqual(self.worker.read_file(self.image), bytes(want))

    def test_punch_gives_space_back_only_with_discard(self):
        for discard, gives_back in (('unmap', True), ('ignore', False)):
            image = self.make_file(f'{discard}.img', content=b'x' * MIB)
            self.export(node={'driver': 'raw', 'discard': discard,
                              'file': {'driver': 'file', 'filename': image, 'discard': discard}})
            fd = self.open()
            self.worker.fallocate(fd, PUNCH, 0, MIB)
            self.worker.close(fd)
            self.assertEqual(self.worker.read_file(self.mnt), bytes(MIB))
            self.assertEqual(os.stat(image).st_blocks * 512 < MIB // 2, gives_back)
            self.daemon.qmp.cmd('block-export-del', {'id': 'e0'})
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_fixed_length(self):
        self.export_null()
        fd = self.open()
        for mode in (0, ZERO):
            self.assertEqual(self.outcome(fd, mode, 100000, 10), (NOTSUP, 100000))
        for mode in (0, KEEP, PUNCH, ZERO | KEEP):
            self.assertEqual(self.outcome(fd, mode, 10, 10), (None, 100000))

    def used(self, path):
        return self.worker.stat(path).st_blocks * 512

    def test_reserves_inside(self):
        for keep in ((), ('-n',)):
            image = self.make_file(f'sparse{len(keep)}.img', 4 * MIB, content=b'data' * 1024)
            self.export(image)
            self.assertLess(self.used(self.mnt), MIB)
            run(find_tool('fallocate'), *keep, '-o', MIB + 1, '-l', MIB, self.mnt)
            for path in (image, self.mnt):
                self.assertGreaterEqual(self.used(path), MIB)
                self.assertLess(self.used(path), 2 * MIB)
            run(find_tool('fallocate'), *keep, '-l', 4 * MIB, self.mnt)
            for path in (image, self.mnt):
                self.assertGreaterEqual(self.used(path), 4 * MIB)
                self.assertGreaterEqual(int(run('du', '-k', path).stdout.split()[0]), 4 * 1024)
                self.assertEqual(self.worker.stat(path).st_size, 4 * MIB)
                self.assertEqual(self.worker.read_file(path), b'data' * 1024 + bytes(4 * MIB - 4096))
            self.daemon.qmp.cmd('block-export-del', {'id': 'e0'})
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def test_reserves_in_a_window(self):
        image = self.make_file('sparse.img', 4 * MIB)
        self.export(node={'driver': 'raw', 'offset': MIB, 'size': 2 * MIB,
                          'file': {'driver': 'file', 'filename': image}})
        self.worker.fallocate(self.open(), KEEP, 0, 64 * MIB)
        with open(image, 'rb') as f:
            self.assertEqual(f.read(), bytes(4 * MIB))
        self.assertGreaterEqual(self.used(image), 2 * MIB)
        self.assertLess(self.used(image), 3 * MIB)

    def test_preallocation_takes_space(self):
        self.export()
        self.worker.fallocate(self.open(), 0, self.SIZE, MIB)
        self.assertGreaterEqual(os.stat(self.image).st_blocks * 512, MIB)


def store(path):
    """Stores into a hole by a shared mapping. Where somebody who had the file open before then finds the
    first data, and the next hole behind what was stored, and where he finds data without the mapping."""
    fd = os.open(path, os.O_RDWR)
    look = os.open(path, os.O_RDONLY)
    with mmap.mmap(fd, 0) as m:
        os.close(fd)
        m[MIB] = 1
        mapped = os.lseek(look, 0, os.SEEK_DATA), os.lseek(look, MIB, os.SEEK_HOLE)
    return *mapped, os.lseek(look, 0, os.SEEK_DATA)


class Seek(FileTest):
    def test_mapped(self):
        self.export(self.make_file('sparse.img', 4 * MIB))
        data, hole, after = in_child(store, self.mnt)
        self.assertLessEqual(data, MIB)
        self.assertGreater(hole, MIB)
        self.assertLessEqual(MIB - 65536, after)
        self.assertLessEqual(after, MIB)

    def test_holes(self):
        image = self.make_file('sparse.img', 4 * MIB)
        with open(image, 'r+b') as f:
            f.seek(MIB)
            f.write(b'x' * 65536)
        self.export(image)
        fd = self.open(os.O_RDONLY)
        self.assertEqual(self.worker.lseek(fd, 0, os.SEEK_DATA), MIB)
        self.assertEqual(self.worker.lseek(fd, MIB + 10, os.SEEK_DATA), MIB + 10)
        self.assertEqual(self.worker.lseek(fd, MIB, os.SEEK_HOLE), MIB + 65536)
        self.assertEqual(self.worker.lseek(fd, 10, os.SEEK_HOLE), 10)
        for offset in (MIB + 65536, 4 * MIB - 1, 4 * MIB, 5 * MIB, -1):
            self.refuses(errno.ENXIO, 'lseek', fd, offset, os.SEEK_DATA)
        for offset in (5 * MIB, -1):
            self.refuses(errno.ENXIO, 'lseek', fd, offset, os.SEEK_HOLE)

    def test_no_holes(self):
        self.export()
        fd = self.open(os.O_RDONLY)
        self.assertEqual(self.worker.lseek(fd, 0, os.SEEK_HOLE), self.SIZE)
        self.assertEqual(self.worker.lseek(fd, 0, os.SEEK_DATA), 0)

    def test_all_hole(self):
        self.export_null()
        fd = self.open(os.O_RDONLY)
        self.assertEqual(self.worker.lseek(fd, 7, os.SEEK_HOLE), 7)
        self.refuses(errno.ENXIO, 'lseek', fd, 0, os.SEEK_DATA)

    def test_size_of_a_hole_takes_no_time(self):
        self.export_null(size=1 << 62)
        fd = self.open(os.O_RDONLY)
        self.refuses(errno.ENXIO, 'lseek', fd, 0, os.SEEK_DATA)


class Durability(FileTest):
    """Flushes are counted at the node (query-blockstats)."""

    def flushes(self):
        for element in self.daemon.qmp.cmd('query-blockstats', {'query-nodes': True}):
            if element['node-name'] == 'f0':
                return element['stats']['flush_operations']
        raise AssertionError('no node f0')

    def export_counted(self, **options):
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f0', 'filename': self.image})
        self.export(node={'driver': 'raw', 'file': 'f0'}, **options)

    def flushed(self, function):
        before = self.flushes()
        function()
        return self.flushes() > before

    def test_fsync_flushes(self):
        self.export_counted()
        fd = self.open()
        for name in ('fsync', 'fdatasync'):
            self.worker.pwrite(fd, b'x', 0)
            self.assertTrue(self.flushed(lambda name=name: getattr(self.worker, name)(fd)))

    def test_close_flushes_what_was_written(self):
        self.export_counted()
        fd = self.open()
        self.worker.pwrite(fd, b'x', 0)
        self.assertTrue(self.flushed(lambda: self.worker.close(fd)))

    def test_deletion_flushes(self):
        self.export_counted()
        fd = self.open()
        self.worker.pwrite(fd, b'x', 0)
        self.assertTrue(self.flushed(lambda: self.daemon.qmp.cmd('block-export-del', {'id': 'e0'})))

    def test_failed_fsync_is_told(self):
        self.export(node={'driver': 'blkdebug', 'image': {'driver': 'file', 'filename': self.image},
                          'inject-error': [{'event': 'none', 'iotype': 'flush', 'errno': errno.EIO}]})
        fd = self.open()
        self.worker.pwrite(fd, b'x', 0)
        self.refuses(errno.EIO, 'fsync', fd)
        self.refuses(errno.EIO, 'close', fd)


@normal_build_only  # sanitizers do not work below strace
class CountedSyncs(FileTest):
    """Each write that must be on stable storage is synced, seen from outside by strace."""

    def setUp(self):
        strace = find_tool('strace')
        super().setUp()
        self.trace = self.path('trace')
        self.daemon.quit()
        self.daemon = self.wharfd(name='traced', prefix=(
            strace, '-f', '-o', self.trace, '-e', 'trace=pwritev2,fdatasync,fsync'))

    def tearDown(self):
        self.daemon.quit()  # by hand: a signal would hit strace
        super().tearDown()

    def export_traced(self, **options):
        self.export(node={'driver': 'raw', 'file': {'driver': 'file', 'filename': self.image, 'aio': 'threads'}},
                    **options)

    def syncs(self):
        with open(self.trace, encoding='utf-8', errors='replace') as f:
            text = f.read()
        return text.count('RWF_DSYNC') + text.count('fdatasync(') + text.count('fsync(')

    def assert_synced(self, name, *args):
        before = self.syncs()
        getattr(self.worker, name)(*args)
        wait_until(lambda: self.syncs() > before, what=f'{name} to sync')

    def test_synchronous_writes(self):
        self.export_traced()
        fd = self.open(os.O_WRONLY)
        self.worker.pwrite(fd, b'x', 0)
        self.assertEqual(self.syncs(), 0)
        for flag in (os.O_SYNC, os.O_DSYNC):
            sync = self.open(os.O_WRONLY | flag)
            for _ in range(3):
                self.assert_synced('pwrite', sync, b'x', 0)
            self.worker.close(sync)
        self.assert_synced('pwritev', fd, [b'x'], 0, os.RWF_DSYNC)

    def test_writethrough(self):
        """The very first write, and the first after a flush, too."""
        self.export_traced(writethrough=True)
        fd = self.open()
        for _ in range(3):
            self.assert_synced('pwrite', fd, b'x', 0)
            self.assert_synced('pwrite', fd, b'y', 4096)
            self.worker.fsync(fd)
        self.assert_synced('fallocate', fd, PUNCH, 0, 4096)
        self.assert_synced('fallocate', fd, ZERO, 0, 4096)


if __name__ == '__main__':
    main()
