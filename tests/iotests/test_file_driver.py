# SPDX-License-Identifier: GPL-2.0-or-later
"""The drivers file and host_device on real storage: file systems of their own, loop devices, our own
mounts."""

import errno
import os
import shutil

from wharf import *
from wharf import fs as fs_module
from wharf import nbd

KIB = 1 << 10
MIB = 1 << 20

O_ACCMODE = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


class DriverTest(IoTest):
    def setUp(self):
        super().setUp()
        self.need_fuse()

    # Storage

    def tmpfs(self, name='tmpfs'):
        self.need_root()
        directory = self.path(name)
        os.mkdir(directory)
        run('mount', '-t', 'tmpfs', 'none', directory)
        return directory

    def flushes(self, device):
        """How many flush requests a block device has carried out."""
        with open(f'/sys/block/{os.path.basename(device)}/stat', encoding='ascii') as f:
            fields = f.read().split()
        if len(fields) < 17:
            self.skipTest('this kernel does not count flushes')
        return int(fields[15])

    # The daemon

    def add(self, daemon, filename, node='n0', driver='file', **options):
        daemon.qmp.cmd('blockdev-add', {
            'driver': 'raw', 'node-name': node, 'discard': 'unmap',
            'file': {'driver': driver, 'node-name': node + 'file', 'filename': filename,
                     'discard': 'unmap', **options}})

    def export(self, daemon, node='n0', export='e0', mountpoint=None, **options):
        mountpoint = mountpoint or self.mountpoint('mnt-' + export)
        daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': export, 'node-name': node,
                                            'writable': True, 'mountpoint': mountpoint, **options})
        return mountpoint

    def delete(self, daemon, export='e0'):
        daemon.qmp.cmd('block-export-del', {'id': export})
        daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': export})

    def refused(self, words, function, *args, **kwargs):
        with self.assertRaises(QmpError) as caught:
            function(*args, **kwargs)
        self.assertEqual(caught.exception.cls, 'GenericError')
        for word in words:
            self.assertIn(word, caught.exception.desc)

    def descriptor_flags(self, daemon, filename):
        """How the daemon has a file open: its flags, or None if it has not."""
        for fd, target in daemon.fds().items():
            if target == os.path.realpath(filename):
                with open(f'/proc/{daemon.pid}/fdinfo/{fd}', encoding='ascii') as f:
                    for line in f:
                        if line.startswith('flags:'):
                            return int(line.split()[1], 8)
        return None


class FileSystems(DriverTest):
    """Space given back and taken, on file systems that can and that cannot."""

    def exercise(self, directory, punch=True):
        image = os.path.join(directory, 'image')
        with open(image, 'wb') as f:
            f.truncate(4 * MIB)
        daemon = self.wharfd()
        self.add(daemon, image)
        mnt = self.export(daemon)
        fs = self.fs()
        fd = fs.open(mnt, os.O_RDWR)
        fs.pwrite(fd, b'x' * 2 * MIB, MIB)
        fs.fsync(fd)
        full = os.stat(image).st_blocks * 512
        self.assertGreaterEqual(full, 2 * MIB)
        self.assertEqual(fs.lseek(fd, 0, os.SEEK_DATA), MIB)
        self.assertEqual(fs.lseek(fd, MIB, os.SEEK_HOLE), 3 * MIB)
        fs.fallocate(fd, fs_module.FALLOC_PUNCH_HOLE | fs_module.FALLOC_KEEP_SIZE, MIB, MIB)
        self.assertEqual(fs.pread(fd, MIB, MIB), bytes(MIB))
        self.assertEqual(fs.pread(fd, MIB, 2 * MIB), b'x' * MIB)
        fs.fsync(fd)
        if punch:
            self.assertLess(os.stat(image).st_blocks * 512, full)
            self.assertEqual(fs.lseek(fd, 0, os.SEEK_DATA), 2 * MIB)
        before = os.stat(image).st_blocks
        fs.fallocate(fd, fs_module.FALLOC_ZERO_RANGE | fs_module.FALLOC_KEEP_SIZE, 2 * MIB, MIB)
        fs.fsync(fd)
        self.assertEqual(fs.pread(fd, MIB, 2 * MIB), bytes(MIB))
        self.assertGreaterEqual(os.stat(image).st_blocks, before)
        fs.ftruncate(fd, 12345)
        self.assertEqual(os.stat(image).st_size, 12345)
        fs.close(fd)
        self.delete(daemon)
        daemon.quit()

    def test_ext4(self):
        self.exercise(self.ext4()[0])

    def test_tmpfs(self):
        self.exercise(self.tmpfs())

    def test_ext2_cannot_zero_ranges(self):
        device = self.loop_device()
        run(find_tool('mkfs.ext4'), '-q', '-F', '-t', 'ext2', device)
        directory = self.path('ext2')
        os.mkdir(directory)
        run('mount', device, directory)
        self.exercise(directory, punch=False)

    def test_no_space_to_reserve(self):
        directory, _ = self.ext4(size=8 * MIB)
        image = os.path.join(directory, 'image')
        with open(image, 'wb') as f:
            f.write(b'x' * 4096)
            f.truncate(64 * MIB)
        daemon = self.wharfd()
        self.add(daemon, image)
        mnt = self.export(daemon)
        fs = self.fs()
        fd = fs.open(mnt, os.O_RDWR)
        for mode in (0, fs_module.FALLOC_KEEP_SIZE):
            for length in (64 * MIB, 65 * MIB):
                self.assert_errno(errno.ENOSPC, fs.fallocate, fd, mode, 0, length)
                self.assertEqual(os.stat(image).st_size, 64 * MIB)
                self.assertEqual(fs.pread(fd, 8192, 0), b'x' * 4096 + bytes(4096))
        done = run(find_tool('fallocate'), '-l', 64 * MIB, mnt, check=False)
        self.assertIn('No space left on device', done.stderr)
        fs.close(fd)
        self.delete(daemon)
        daemon.quit()

    def test_no_space(self):
        """What a full file system says reaches the writer, and what was written stays."""
        directory, _ = self.ext4(size=8 * MIB)
        image = os.path.join(directory, 'image')
        with open(image, 'wb') as f:
            f.truncate(64 * MIB)
        daemon = self.wharfd()
        self.add(daemon, image)
        fs = self.fs()
        fd = fs.open(self.export(daemon), os.O_RDWR)
        written = 0
        with self.assertRaises(OSError) as caught:
            while written < 64 * MIB:
                written += fs.pwrite(fd, b'x' * MIB, written)
        self.assertEqual(caught.exception.errno, errno.ENOSPC)
        fs.fsync(fd)
        self.assertEqual(fs.pread(fd, written, 0), b'x' * written)
        # Room again: all goes on.
        fs.fallocate(fd, fs_module.FALLOC_PUNCH_HOLE | fs_module.FALLOC_KEEP_SIZE, 0, 2 * MIB)
        fs.pwrite(fd, b'y' * MIB, 0)
        fs.fsync(fd)
        fs.close(fd)
        self.delete(daemon)
        self.refused([image, 'File too large'], daemon.qmp.cmd, 'block_resize',
                     {'node-name': 'n0', 'size': 1 << 60})

    def test_read_only_file_system(self):
        directory, device = self.ext4()
        image = os.path.join(directory, 'image')
        shutil.copy(self.make_file('image', MIB), image)
        run('mount', '-o', 'remount,ro', directory)
        daemon = self.wharfd()
        self.refused([image, 'Read-only'], self.add, daemon, image)
        self.add(daemon, image, node='auto', **{'auto-read-only': True})
        self.refused([image, 'Read-only'], self.export, daemon, node='auto')
        mnt = self.export(daemon, node='auto', export='e1', writable=False)
        self.assertEqual(self.fs().read_file(mnt), bytes(MIB))

    def test_direct(self):
        for directory in (self.ext4()[0], self.tmpfs()):
            self.direct_io(directory)

    def direct_io(self, directory):
        image = os.path.join(directory, 'image')
        with open(image, 'wb') as f:
            f.truncate(MIB + 1000)
        daemon = self.wharfd()
        self.add(daemon, image, cache={'direct': True}, aio='native')
        fs = self.fs()
        fd = fs.open(self.export(daemon), os.O_RDWR)
        self.assertTrue(self.descriptor_flags(daemon, image) & os.O_DIRECT)
        for offset, size in ((0, 4096), (1, 1), (4095, 2), (511, 8194), (MIB - 3, 1003)):
            data = os.urandom(size)
            self.assertEqual(fs.pwrite(fd, data, offset), size)
            self.assertEqual(fs.pread(fd, size, offset), data)
        fs.fsync(fd)
        self.assertEqual(os.stat(image).st_size, MIB + 1000)
        with open(image, 'rb') as f:
            self.assertEqual(fs.pread(fd, MIB + 1000, 0), f.read())
        fs.close(fd)
        daemon.quit()


class HostDevice(DriverTest):
    def test_read_write_discard(self):
        device = self.loop_device()
        backing = self.path('backing')
        daemon = self.wharfd()
        self.add(daemon, device, driver='host_device')
        fs = self.fs()
        fd = fs.open(self.export(daemon), os.O_RDWR)
        self.assertEqual(fs.fstat(fd).st_size, 16 * MIB)
        data = os.urandom(4 * MIB)
        fs.pwrite(fd, data, 12345)
        self.assertEqual(fs.pread(fd, len(data), 12345), data)
        fs.fsync(fd)
        with open(backing, 'rb') as f:
            f.seek(12345)
            self.assertEqual(f.read(len(data)), data)
        before = os.stat(backing).st_blocks
        fs.fallocate(fd, fs_module.FALLOC_PUNCH_HOLE | fs_module.FALLOC_KEEP_SIZE, MIB, 2 * MIB)
        self.assertEqual(fs.pread(fd, 2 * MIB, MIB), bytes(2 * MIB))
        fs.fsync(fd)
        self.assertLess(os.stat(backing).st_blocks, before)
        fs.fallocate(fd, fs_module.FALLOC_ZERO_RANGE | fs_module.FALLOC_KEEP_SIZE, 0, MIB + 77)
        self.assertEqual(fs.pread(fd, MIB + 77, 0), bytes(MIB + 77))
        fs.close(fd)

    def test_size(self):
        device = self.loop_device(size=4 * MIB)
        daemon = self.wharfd()
        self.add(daemon, device, driver='host_device')
        self.refused([device, str(4 * MIB)], daemon.qmp.cmd, 'block_resize',
                     {'node-name': 'n0', 'size': 8 * MIB})
        os.truncate(self.path('backing'), 8 * MIB)
        run(find_tool('losetup'), '--set-capacity', device)
        daemon.qmp.cmd('block_resize', {'node-name': 'n0', 'size': 8 * MIB})
        image = daemon.qmp.cmd('query-named-block-nodes')[0]['image']
        self.assertEqual(image['virtual-size'], 8 * MIB)

    def test_direct(self):
        device = self.loop_device()
        daemon = self.wharfd()
        self.add(daemon, device, driver='host_device', cache={'direct': True}, aio='native')
        fs = self.fs()
        fd = fs.open(self.export(daemon), os.O_RDWR)
        data = os.urandom(10000)
        fs.pwrite(fd, data, 777)
        self.assertEqual(fs.pread(fd, len(data), 777), data)
        fs.close(fd)

    def test_wrong_kind(self):
        device = self.loop_device()
        daemon = self.wharfd()
        self.refused([device, 'block device', 'host_device'], self.add, daemon, device)
        self.refused(['regular file', 'file'], self.add, daemon, self.make_file('image', MIB),
                     driver='host_device')
        self.refused(['character device'], self.add, daemon, '/dev/null', driver='host_device')
        self.refused(['a directory'], self.add, daemon, self.dir, driver='host_device')
        self.refused(['No such file'], self.add, daemon, self.path('x'), driver='host_device')


class Durability(DriverTest):
    """Each write that is to be durable is synced, with every engine."""

    ENGINES = ({}, {'aio': 'threads'}, {'aio': 'io_uring'},
               {'aio': 'native', 'cache': {'direct': True}})

    def writes_through(self, daemon, device, mnt):
        """What writethrough writes do to the device below: the first, after a flush, and later."""
        fs = self.fs()
        fd = fs.open(mnt, os.O_RDWR)
        for offset in (0, 4096):
            before = self.flushes(device)
            fs.pwrite(fd, os.urandom(4096), offset)
            self.assertGreater(self.flushes(device), before, f'write at {offset}')
        fs.fsync(fd)
        for offset in (8192, 12288):
            before = self.flushes(device)
            fs.pwrite(fd, os.urandom(4096), offset)
            self.assertGreater(self.flushes(device), before, f'write at {offset} after a flush')
        fs.close(fd)

    def test_writethrough_on_device(self):
        device = self.loop_device()
        for i, options in enumerate(self.ENGINES):
            daemon = self.wharfd()
            self.add(daemon, device, driver='host_device', **options)
            mnt = self.export(daemon, export=f'e{i}', writethrough=True)
            self.writes_through(daemon, device, mnt)
            daemon.quit()

    def test_writethrough_on_file(self):
        directory, device = self.ext4()
        image = os.path.join(directory, 'image')
        with open(image, 'wb') as f:
            f.truncate(MIB)
        for i, options in enumerate(self.ENGINES):
            daemon = self.wharfd()
            self.add(daemon, image, **options)
            mnt = self.export(daemon, export=f'e{i}', writethrough=True)
            self.writes_through(daemon, device, mnt)
            daemon.quit()

    def test_fua_over_nbd(self):
        """Small ones, and large ones in a row, with which several iothreads may help."""
        device = self.loop_device()
        path = self.path('nbd')
        for i, options in enumerate(self.ENGINES):
            daemon = self.wharfd('--object', 'iothread,id=t0', '--object', 'iothread,id=t1',
                                 '--nbd-server', f'addr.type=unix,addr.path={path}')
            self.add(daemon, device, driver='host_device', **options)
            daemon.qmp.cmd('block-export-add', {'type': 'nbd', 'id': f'e{i}', 'node-name': 'n0', 'writable': True,
                                                'iothread': ['t0', 't1']})
            with nbd.RawClient(path) as client:
                client.go('n0', structured=True)
                for size, n in (512, 1), (4096, 1), (MIB, 8):
                    for _ in range(3):
                        before = self.flushes(device)
                        cookies = [client.send_request(nbd.WRITE, j * MIB, size, nbd.FUA, os.urandom(size))
                                   for j in range(n)]
                        answers = client.recv_answers(cookies)
                        self.assertEqual([answers[c][0] for c in cookies], [0] * n)
                        self.assertGreaterEqual(self.flushes(device), before + 1, (options, size))
                    client.error(nbd.FLUSH)
            daemon.quit()

    def test_flush(self):
        device = self.loop_device()
        daemon = self.wharfd()
        self.add(daemon, device, driver='host_device')
        fs = self.fs()
        fd = fs.open(self.export(daemon), os.O_RDWR)
        for _ in range(2):
            fs.pwrite(fd, os.urandom(4096), 0)
            before = self.flushes(device)
            fs.fdatasync(fd)
            self.assertGreater(self.flushes(device), before)
        fs.close(fd)

    def test_no_flush(self):
        device = self.loop_device()
        daemon = self.wharfd()
        self.add(daemon, device, driver='host_device', cache={'no-flush': True})
        fs = self.fs()
        fd = fs.open(self.export(daemon, writethrough=True), os.O_RDWR)
        before = self.flushes(device)
        fs.pwrite(fd, os.urandom(4096), 0)
        fs.fsync(fd)
        fs.close(fd)
        self.delete(daemon)
        self.assertEqual(self.flushes(device), before)


class Descriptors(DriverTest):
    def test_auto_read_only(self):
        image = self.make_file('image', MIB)
        daemon = self.wharfd()
        self.add(daemon, image, **{'auto-read-only': True})

        def access():
            return self.descriptor_flags(daemon, image) & O_ACCMODE

        def shown():
            return [n['ro'] for n in daemon.qmp.cmd('query-named-block-nodes')]
        self.assertEqual((access(), shown()), (os.O_RDONLY, [False, False]))
        mnt = self.export(daemon)
        self.assertEqual((access(), shown()), (os.O_RDWR, [False, False]))
        self.fs().write_at(mnt, 0, b'hello')
        self.delete(daemon)
        self.assertEqual((access(), shown()), (os.O_RDONLY, [False, False]))
        with open(image, 'rb') as f:
            self.assertEqual(f.read(5), b'hello')

    def test_without_auto_read_only(self):
        image = self.make_file('image', MIB)
        daemon = self.wharfd()
        self.add(daemon, image)
        self.assertEqual(self.descriptor_flags(daemon, image) & O_ACCMODE, os.O_RDWR)
        self.add(daemon, self.make_file('other', MIB), node='n1', **{'read-only': True})
        self.assertEqual(self.descriptor_flags(daemon, self.path('other')) & O_ACCMODE,
                         os.O_RDONLY)

    def test_nothing_is_left(self):
        image = self.make_file('image', MIB)
        daemon = self.wharfd()
        first = None
        for _ in range(4):
            self.add(daemon, image, **{'auto-read-only': True})
            self.export(daemon)
            self.delete(daemon)
            daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})
            self.refused(['No such file'], self.add, daemon, image + 'x')
            self.assertNotIn(image, daemon.fds().values())
            first = first or len(daemon.fds())
        wait_until(lambda: len(daemon.fds()) <= first, what='the descriptors to be closed')

    def test_fifo_does_not_hang(self):
        os.mkfifo(self.path('fifo'))
        daemon = self.wharfd()
        self.refused(['a fifo'], self.add, daemon, self.path('fifo'))


class OwnMounts(DriverTest):
    """Images that lie on, or below, a mount of this very daemon."""

    def test_image_below_its_own_export(self):
        """Reopening must not go by the path, which leads to ourselves."""
        image = self.make_file('image', MIB)
        daemon = self.wharfd()
        daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f0', 'filename': image})
        daemon.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'n0', 'file': 'f0'})
        self.export(daemon, mountpoint=image)
        fs = self.fs()
        fs.write_at(image, 100, b'hello')
        for cache in ({'direct': True}, {}):
            daemon.qmp.cmd('blockdev-reopen', {'options': [{
                'driver': 'file', 'node-name': 'f0', 'filename': image, 'cache': cache}]})
            self.assertEqual(fs.read_file(image, 100, 5), b'hello')
        fs.write_at(image, 100, b'world')
        self.delete(daemon)
        self.wait_unmounted(image)
        self.assertEqual(fs.read_file(image, 100, 5), b'world')

    def test_image_on_own_export(self):
        for i, iothread in enumerate(({}, {'iothread': 't0'})):
            daemon = self.wharfd('--object', 'iothread,id=t0')
            self.add(daemon, self.make_file(f'image{i}', MIB))
            first = self.export(daemon, export=f'a{i}', growable=True, **iothread)
            self.add(daemon, first, node='n1')
            second = self.export(daemon, node='n1', export=f'b{i}', **iothread)
            fs = self.fs()
            data = os.urandom(100000)
            fs.write_at(second, 1000, data, sync=True)
            self.assertEqual(fs.read_file(second, 1000, len(data)), data)
            self.assertEqual(fs.read_file(first, 1000, len(data)), data)
            with open(self.path(f'image{i}'), 'rb') as f:
                f.seek(1000)
                self.assertEqual(f.read(len(data)), data)
            for size in (2 * MIB, 512, MIB, 0, 4096):
                daemon.qmp.cmd('block_resize', {'node-name': 'n1', 'size': size})
                self.assertEqual(os.stat(self.path(f'image{i}')).st_size, size)
            for size in (MIB, 512, 2 * MIB):
                fs.truncate(second, size)
                self.assertEqual(os.stat(self.path(f'image{i}')).st_size, size)
            self.delete(daemon, f'b{i}')
            daemon.qmp.cmd('blockdev-del', {'node-name': 'n1'})
            self.delete(daemon, f'a{i}')
            daemon.quit()

    def test_image_on_a_dead_mount(self):
        """The mount of a killed daemon gives an error, not a hang."""
        first = self.wharfd()
        self.add(first, self.make_file('image', MIB))
        mnt = self.export(first)
        first.kill()
        fs = self.fs()
        wait_until(lambda: self.is_dead(fs, mnt), what='the mount to be dead')
        second = self.wharfd()
        self.refused([mnt], self.add, second, mnt)

    @staticmethod
    def is_dead(fs, mnt):
        """What the kernel remembers of a file may be shown a little longer."""
        try:
            fs.stat(mnt)
        except OSError as e:
            return e.errno == errno.ENOTCONN
        return False

    def test_path_exchanged(self):
        """The node stays with the file it opened, whatever becomes of its name."""
        image = self.make_file('image', MIB, b'first')
        daemon = self.wharfd()
        daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f0', 'filename': image})
        mnt = self.export(daemon, node='f0')
        os.rename(image, self.path('moved'))
        self.make_file('image', MIB, b'second')
        daemon.qmp.cmd('blockdev-reopen', {'options': [{
            'driver': 'file', 'node-name': 'f0', 'filename': image,
            'cache': {'direct': True}}]})
        self.assertEqual(self.fs().read_file(mnt, 0, 5), b'first')


if __name__ == '__main__':
    main()
