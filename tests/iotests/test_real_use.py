# SPDX-License-Identifier: GPL-2.0-or-later
"""Plain tools on an exported file give what they give on the raw file itself."""

import concurrent.futures
import errno
import filecmp
import os
import random
import shutil
import time

from wharf import *

MIB = 1 << 20


@fuse_test
class PlainTools(IoTest):
    """An image of odd length with data, text and holes, exported writable but not growable."""

    SIZE = 8 * MIB + 1000

    def setUp(self):
        super().setUp()
        self.raw = self.make_image('disk.img')
        self.twin = self.make_image('twin.img')
        self.mnt = self.mountpoint('mnt')
        self.daemon = self.wharfd()
        self.export()

    def make_image(self, name):
        noise = random.Random(42).randbytes(MIB)
        path = self.make_file(name, self.SIZE)
        with open(path, 'r+b') as f:
            f.write(noise)
            f.seek(4 * MIB)
            f.write(b'a line of text in the middle\n' * 5000)
            f.seek(self.SIZE - 1000)
            f.write(noise[:1000])
        return path

    def export(self, **options):
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'raw', 'node-name': 'n0', 'discard': 'unmap',
            'file': {'driver': 'file', 'filename': self.raw, 'discard': 'unmap'}})
        self.daemon.qmp.cmd('block-export-add', {
            'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mnt, 'writable': True, **options})

    def make_growable(self):
        self.daemon.qmp.cmd('block-export-del', {'id': 'e0'})
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})
        self.export(growable=True)

    def assert_image_is_twin(self):
        """The image and what is seen of it are what the tool made of the plain file."""
        run('cmp', self.raw, self.twin)
        run('cmp', self.mnt, self.twin)

    def test_tar_twice(self):
        """tar complains (exit 1) about a file that changes while it is read."""
        for name in ('first.tar', 'second.tar'):
            done = run('tar', '-cf', self.path(name), '-C', self.dir, 'mnt')
            self.assertEqual(done.stderr, '')
            time.sleep(1.1)  # times of whole seconds would differ from here on
        self.assertTrue(filecmp.cmp(self.path('first.tar'), self.path('second.tar'), shallow=False))
        os.mkdir(self.path('out'))
        run('tar', '-xf', self.path('second.tar'), '-C', self.path('out'))
        run('cmp', self.path('out/mnt'), self.twin)

    def test_rsync_sends_nothing_the_second_time(self):
        rsync = find_tool('rsync')
        os.mkdir(self.path('out'))
        run(rsync, '-a', self.mnt, self.path('out/'))
        run('cmp', self.path('out/mnt'), self.twin)
        time.sleep(1.1)
        self.assertEqual(run(rsync, '-ai', self.mnt, self.path('out/')).stdout, '')

    def test_rsync_into_the_export(self):
        rsync = find_tool('rsync')
        source = self.make_file('source', content=random.Random(1).randbytes(self.SIZE))
        run(rsync, '--inplace', '--ignore-times', source, self.mnt)
        run('cmp', source, self.mnt)
        run('cmp', source, self.raw)

    def test_cp_keeps_holes(self):
        for mode in ('always', 'auto', 'never'):
            run('cp', f'--sparse={mode}', self.mnt, self.path(f'copy-{mode}'))
            run('cmp', self.path(f'copy-{mode}'), self.twin)
        for mode in ('always', 'auto'):
            self.assertLess(os.stat(self.path(f'copy-{mode}')).st_blocks * 512, 3 * MIB)

    def test_cp_into_the_export(self):
        """cp opens with O_TRUNC, which a mount that cannot grow ignores."""
        source = self.make_file('source', content=random.Random(1).randbytes(self.SIZE))
        run('cp', source, self.mnt)
        run('cmp', source, self.raw)

    def test_dd_reads_all(self):
        for size in (512, 4096, 65536, 3 * MIB + 17):
            copy = self.path(f'copy-{size}')
            count = -1 if size > 512 else 4000
            run('dd', f'if={self.mnt}', f'of={copy}', f'bs={size}', *([] if count < 0 else [f'count={count}']))
            run('cmp', copy, self.twin, *([] if count < 0 else ['-n', count * size]))

    def test_dd_past_the_end(self):
        """The reader sees the end, the writer ENOSPC, and nothing beyond the end appears."""
        done = run('dd', f'if={self.mnt}', 'of=/dev/null', 'bs=1M', 'skip=20')
        self.assertIn('0+0 records in', done.stderr)
        done = run('dd', 'if=/dev/zero', f'of={self.mnt}', 'bs=1M', 'count=1', 'seek=8', 'conv=notrunc', check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn('No space left on device', done.stderr)
        self.assertEqual(os.stat(self.raw).st_size, self.SIZE)
        run('dd', 'if=/dev/zero', f'of={self.twin}', 'bs=1000', 'count=1', f'seek={8 * MIB}', 'oflag=seek_bytes',
            'conv=notrunc')
        self.assert_image_is_twin()

    def test_dd_grows_a_growable_export(self):
        self.make_growable()
        source = self.make_file('source', content=random.Random(2).randbytes(2 * MIB + 5))
        for target in (self.mnt, self.twin):
            run('dd', f'if={source}', f'of={target}', 'bs=64k', f'seek={self.SIZE - 77}', 'oflag=seek_bytes',
                'conv=notrunc')
        self.assert_image_is_twin()

    def test_stdio_appends(self):
        """Shell appends land at the exact end, not at a rounded one."""
        self.make_growable()
        for target in (self.mnt, self.twin):
            for text in ('one', 'two', 'three'):
                run('sh', '-c', f'printf {text} >> "$0"', target)
        self.assert_image_is_twin()

    def test_df(self):
        line = run('df', '-B1', self.mnt).stdout.splitlines()[-1].split()
        size, used, free = map(int, line[1:4])
        self.assertGreaterEqual(size, self.SIZE // 4096 * 4096)
        self.assertLessEqual(size, self.SIZE + 4096)
        self.assertLessEqual(used + free, size)
        run('df', '-h', self.mnt)
        run('df', '-i', self.mnt)

    def test_stat(self):
        fs = self.fs()
        first = fs.stat(self.mnt)
        self.assertEqual(first.st_size, self.SIZE)
        self.assertEqual(first.st_blksize, 65536)
        self.assertEqual(first.st_blocks, os.stat(self.raw).st_blocks)
        time.sleep(1.2)
        fs.read_file(self.mnt, 0, 10)
        second = fs.stat(self.mnt)
        self.assertEqual((first.st_mtime_ns, first.st_ctime_ns), (second.st_mtime_ns, second.st_ctime_ns))
        fs.write_at(self.mnt, 0, b'x')
        self.assertGreater(fs.stat(self.mnt).st_mtime_ns, first.st_mtime_ns)

    def test_touch(self):
        run('touch', self.mnt)
        run('touch', '-d', '2001-02-03 04:05:06 UTC', self.mnt)
        self.assertEqual(self.fs().stat(self.mnt).st_mtime, 981173106)
        self.assertIn('981173106', run('stat', '-c', '%Y', self.mnt).stdout)

    def test_strings_and_cmp(self):
        strings = find_tool('strings')
        self.assertEqual(run(strings, self.mnt).stdout, run(strings, self.raw).stdout)
        run('cmp', self.mnt, self.raw)
        run('sha256sum', self.mnt)
        self.assertEqual(run('wc', '-c', self.mnt).stdout.split()[0], str(self.SIZE))
        self.assertEqual(run('tail', '-c', 1000, self.mnt, text=False).stdout,
                         run('tail', '-c', 1000, self.raw, text=False).stdout)
        self.assertEqual(run('grep', '-ac', 'line of text', self.mnt).stdout,
                         run('grep', '-ac', 'line of text', self.raw).stdout)

    def test_fallocate_inside(self):
        fallocate = find_tool('fallocate')
        for target in (self.mnt, self.twin):
            run(fallocate, '-l', 2 * MIB, target)
            run(fallocate, '-n', '-o', 2 * MIB, '-l', MIB, target)
        self.assert_image_is_twin()

    def test_fallocate_grows(self):
        fallocate = find_tool('fallocate')
        for target in (self.mnt, self.twin):
            run(fallocate, '-o', self.SIZE, '-l', MIB + 3, target)
        self.assert_image_is_twin()

    def test_fallocate_punches(self):
        fallocate = find_tool('fallocate')
        before = os.stat(self.raw).st_blocks
        for target in (self.mnt, self.twin):
            run(fallocate, '-p', '-o', 4096, '-l', 256 * 1024, target)
            run(fallocate, '-p', '-o', 4 * MIB + 17, '-l', 33333, target)
            run(fallocate, '-p', '-o', self.SIZE - 10, '-l', 1 * MIB, target)
        self.assert_image_is_twin()
        self.assertLess(os.stat(self.raw).st_blocks, before)

    def test_fallocate_zeroes(self):
        fallocate = find_tool('fallocate')
        for target in (self.mnt, self.twin):
            run(fallocate, '-z', '-n', '-o', 4097, '-l', 100000, target)
            run(fallocate, '-z', '-n', '-o', self.SIZE - 10, '-l', MIB, target)
        self.assert_image_is_twin()
        for target in (self.mnt, self.twin):
            run(fallocate, '-z', '-o', self.SIZE - 10, '-l', 10000, target)
        self.assert_image_is_twin()

    def test_fallocate_digs_holes(self):
        fallocate = find_tool('fallocate')
        fs = self.fs()
        fs.write_at(self.mnt, 2 * MIB, bytes(MIB))
        before = os.stat(self.raw).st_blocks
        run(fallocate, '-d', self.mnt)
        self.assertLess(os.stat(self.raw).st_blocks, before)
        self.assert_image_is_twin()

    def test_truncate(self):
        for size in ('-1', '+100000', '1000', '0', '70001'):
            for target in (self.mnt, self.twin):
                run('truncate', '-s', size, target)
            self.assert_image_is_twin()


def is_unused(device):
    """Whether nobody uses a block device exclusively, as mounted file systems do."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
    except OSError as e:
        if e.errno == errno.EBUSY:
            return False
        raise
    return True


@fuse_test
class FileSystemInside(IoTest):
    """A file system made, filled and checked through the export, then looked at without us."""

    def setUp(self):
        super().setUp()
        self.need_loop()

    def make_tree(self):
        rng = random.Random(7)
        tree = self.path('tree')
        for folder in ('', 'a', 'a/b', 'a/b/c', 'leer'):
            os.makedirs(os.path.join(tree, folder), exist_ok=True)
        for number in range(150):
            folder = ('', 'a', 'a/b', 'a/b/c')[number % 4]
            with open(os.path.join(tree, folder, f'file{number}'), 'wb') as f:
                f.write(rng.randbytes(rng.choice((0, 1, 511, 4096, 5000, 65536, 200000))))
        with open(os.path.join(tree, 'sparse'), 'wb') as f:
            f.seek(3 * MIB)
            f.write(b'end')
        os.symlink('a/b', os.path.join(tree, 'link'))
        shutil.copytree(os.path.dirname(os.path.abspath(__file__)), os.path.join(tree, 'iotests'))
        return tree

    def work_inside(self, mnt, losetup_options=()):
        """mkfs, mount, copy, compare, remove some, unmount, check."""
        mkfs, fsck, losetup = map(find_tool, ('mkfs.ext4', 'fsck.ext4', 'losetup'))
        tree = self.make_tree()
        inner = self.path('inner')
        os.mkdir(inner)
        run(mkfs, '-q', '-F', '-E', 'nodiscard', mnt)
        loop = run(losetup, '--find', '--show', *losetup_options, mnt).stdout.strip()
        try:
            for turn in range(2):
                run('mount', '-t', 'ext4', '-o', 'discard', loop, inner)
                try:
                    if turn == 0:
                        run('cp', '-a', tree, inner)
                        run('sync', '-f', inner)
                        run('cp', '-a', tree, os.path.join(inner, 'second'))
                        run('rm', '-r', os.path.join(inner, 'second'))
                        find_tool('fstrim') and run('fstrim', inner)
                    run('diff', '-r', '--no-dereference', tree, os.path.join(inner, 'tree'))
                finally:
                    run('umount', inner)
                # Where a mount namespace was made meanwhile, the file system lives on there for a while.
                wait_until(lambda: is_unused(loop), what=f'the end of the file system on {loop}')
        finally:
            run(losetup, '-d', loop)
        run(fsck, '-fn', mnt)
        return tree

    def check_image(self, image, tree):
        """The image alone, without a daemon, holds the same."""
        qemu_img = find_tool('qemu-img')
        run(find_tool('fsck.ext4'), '-fn', image)
        run(qemu_img, 'info', image)
        run(qemu_img, 'convert', '-f', 'raw', '-O', 'qcow2', image, self.path('copy.qcow2'))
        run(qemu_img, 'check', self.path('copy.qcow2'))
        run(qemu_img, 'compare', '-f', 'raw', '-F', 'qcow2', image, self.path('copy.qcow2'))
        inner = self.path('inner')
        run('mount', '-o', 'loop,ro', image, inner)
        try:
            run('diff', '-r', '--no-dereference', tree, os.path.join(inner, 'tree'))
        finally:
            run('umount', inner)

    def test_ext4_through_the_main_thread(self):
        image = self.make_file('disk.img', 64 * MIB)
        mnt = self.mountpoint()
        daemon = self.wharfd()
        self.add_file_export(daemon, image, mnt)
        tree = self.work_inside(mnt)
        run(find_tool('qemu-img'), 'info', '-U', image)
        daemon.quit()
        self.check_image(image, tree)

    @timeout(240)
    def test_ext4_with_direct_loop_and_iothreads(self):
        image = self.make_file('disk.img', 64 * MIB)
        mnt = self.mountpoint()
        daemon = self.wharfd('--object', 'iothread,id=t0', '--object', 'iothread,id=t1')
        self.add_file_export(daemon, image, mnt, iothread=['t0', 't1'])
        tree = self.work_inside(mnt, ['--direct-io=on'])
        daemon.qmp.cmd('block-export-del', {'id': 'e0'})
        daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})
        daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})
        self.check_image(image, tree)


def read_at_once(path, offsets):
    """The first bytes at each offset, all read at the same time."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    with concurrent.futures.ThreadPoolExecutor(len(offsets)) as pool:
        return list(pool.map(lambda offset: os.pread(fd, 4, offset), offsets))


class Nested(IoTest):
    """An image that lies on an export of the same daemon, three levels deep."""

    N = 200

    @fuse_test
    @not_over('io-uring', 'the fallback event loop, which has the workers, has no ring')
    def test_more_requests_than_workers(self):
        """Those above wait for those below, and must leave them threads to run on."""
        image = self.make_file('disk.img', content=b''.join(
            b'%04d' % i + bytes(16 * 4096 - 4) for i in range(self.N)))
        daemon = self.wharfd(env={'WHARF_AIO': 'epoll'})
        # A while in which all others arrive.
        daemon.qmp.cmd('blockdev-add', {
            'driver': 'blkdebug', 'node-name': 'n0',
            'image': {'driver': 'file', 'filename': image, 'aio': 'threads'},
            'inject-delay': [{'event': 'none', 'iotype': 'read', 'delay-ns': 300 * 10**6}]})
        for level in range(3):
            mnt = self.mountpoint(f'mnt{level}')
            daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': f'e{level}', 'node-name': f'n{level}',
                                                'mountpoint': mnt})
            if level < 2:
                daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': f'n{level + 1}',
                                                'filename': mnt, 'read-only': True})
        found = in_child(read_at_once, mnt, [i * 16 * 4096 for i in range(self.N)])
        self.assertEqual(found, [b'%04d' % i for i in range(self.N)])
        for level in reversed(range(3)):
            daemon.qmp.cmd('block-export-del', {'id': f'e{level}'})
            daemon.qmp.cmd('blockdev-del', {'node-name': f'n{level}'})

    @fuse_test
    def test_killed(self):
        """To end, it need not answer a request of its own that nobody serves any more."""
        image = self.make_file('disk.img', MIB)
        daemon = self.wharfd()
        mnt = self.mountpoint()
        self.add_file_export(daemon, image, mnt)
        daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'above', 'filename': mnt})
        second = self.mountpoint('second')
        daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e1', 'node-name': 'above',
                                            'mountpoint': second, 'writable': True})
        run('dd', 'if=/dev/urandom', f'of={second}', 'bs=64k', 'count=4', 'conv=notrunc,fsync')
        daemon.kill()


if __name__ == '__main__':
    main()
