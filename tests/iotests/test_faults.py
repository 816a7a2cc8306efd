# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors below, sudden death, and changes under load."""

import errno
import os
import random
import signal
import struct
import subprocess

from wharf import *
from wharf import fs as fs_module
from wharf import tools

MIB = 1 << 20

# What storage may say; each must reach the program as it is.
ERRNOS = (errno.EIO, errno.ENOSPC, errno.EACCES, errno.EDQUOT, errno.EPERM, errno.ENOMEM, errno.EBUSY, errno.EFBIG,
          errno.ETIMEDOUT, errno.ENXIO, errno.EROFS, errno.EREMOTEIO, errno.ENOMEDIUM, errno.ECONNRESET,
          errno.EBADMSG, errno.EINVAL)


@fuse_test
class InjectedErrors(IoTest):
    def setUp(self):
        super().setUp()
        self.image = self.make_file('disk.img', content=random.Random(3).randbytes(MIB))
        self.mnt = self.mountpoint()
        self.daemon = self.wharfd()
        self.worker = self.fs()

    def export(self, rules):
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'raw', 'node-name': 'n0', 'discard': 'unmap',
            'file': {'driver': 'blkdebug', 'discard': 'unmap', 'inject-error': rules,
                     'image': {'driver': 'file', 'filename': self.image, 'discard': 'unmap'}}})
        self.daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e0', 'node-name': 'n0',
                                                 'mountpoint': self.mnt, 'writable': True})

    def drop(self):
        self.daemon.qmp.cmd('block-export-del', {'id': 'e0', 'mode': 'hard'})
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

    def outcome(self, call, fd):
        try:
            call(fd)
        except OSError as e:
            return errno.errorcode[e.errno]
        return 'no error'

    def close(self, fd):
        try:
            self.worker.close(fd)
        except OSError:
            pass  # it may tell of a failed flush, and has closed all the same

    def every_errno(self, iotype, call, errnos=ERRNOS):
        """Under a rule for each errno the call fails with it, and reads go on working."""
        outcomes = {}
        for number in errnos:
            self.export([{'event': 'none', 'iotype': iotype, 'errno': number}])
            fd = self.worker.open(self.mnt, os.O_RDWR)
            outcomes[errno.errorcode[number]] = self.outcome(call, fd)
            if iotype != 'read':
                self.assertEqual(len(self.worker.pread(fd, 4096, 0)), 4096)
            self.close(fd)
            self.drop()
        self.assertEqual(outcomes, {name: name for name in outcomes})

    def test_read(self):
        self.every_errno('read', lambda fd: self.worker.pread(fd, 4096, 4096))

    def test_write(self):
        self.every_errno('write', lambda fd: self.worker.pwrite(fd, b'x' * 4096, 4096))

    def test_allocate(self):
        self.every_errno('allocate', lambda fd: self.worker.fallocate(fd, 0, 4096, 4096))

    def test_flush(self):
        def sync(fd):
            self.worker.pwrite(fd, b'x', 0)
            self.worker.fsync(fd)
        self.every_errno('flush', sync)

    def test_flush_of_what_others_wrote(self):
        """A failed flush is told to those who have written there, not to one that only reads it."""
        overlay, top = self.path('overlay.qcow2'), self.mountpoint('top')
        tools.run(tools.find_tool('qemu-img'), 'create', '-q', '-f', 'qcow2', '-b', self.image, '-F', 'raw', overlay)
        self.export([{'event': 'none', 'iotype': 'flush', 'errno': errno.EIO, 'once': True}])
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'o0', 'backing': 'n0',
            'file': {'driver': 'file', 'filename': overlay}})
        self.daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e1', 'node-name': 'o0',
                                                 'mountpoint': top, 'writable': True})
        base_fd = self.worker.open(self.mnt, os.O_RDWR)
        top_fd = self.worker.open(top, os.O_RDWR)
        self.worker.pwrite(base_fd, b'b' * 4096, 0)
        self.worker.pwrite(top_fd, b't' * 4096, 8192)
        self.assertEqual(self.outcome(self.worker.fsync, top_fd), 'no error')
        self.worker.pwrite(top_fd, b't' * 4096, 8192)
        self.assertEqual(self.outcome(self.worker.fsync, base_fd), 'EIO')
        self.assertEqual(self.outcome(self.worker.fsync, top_fd), 'no error')
        self.assertEqual(self.outcome(self.worker.fsync, base_fd), 'no error')

    def test_punch(self):
        # EINVAL is an answer about ability, not a failure: zeros are then written plainly.
        self.every_errno('write-zeroes', lambda fd: self.worker.fallocate(
            fd, fs_module.FALLOC_PUNCH_HOLE | fs_module.FALLOC_KEEP_SIZE, 0, 65536),
            [e for e in ERRNOS if e != errno.EINVAL])

    def test_zero_range(self):
        self.every_errno('write-zeroes', lambda fd: self.worker.fallocate(
            fd, fs_module.FALLOC_ZERO_RANGE | fs_module.FALLOC_KEEP_SIZE, 0, 65536),
            [e for e in ERRNOS if e != errno.EINVAL])

    def test_one_bad_sector(self):
        """Only what touches the sector fails, once it is rewritten all is well."""
        self.export([{'event': 'none', 'iotype': 'read', 'errno': errno.EIO, 'sector': 100, 'once': True}])
        fd = self.worker.open(self.mnt, os.O_RDWR)
        self.assertEqual(len(self.worker.pread(fd, 100 * 512, 0)), 100 * 512)
        self.assertEqual(len(self.worker.pread(fd, 4096, 101 * 512)), 4096)
        self.assert_errno(errno.EIO, self.worker.pread, fd, 10, 100 * 512 + 500)
        self.assertEqual(len(self.worker.pread(fd, 10, 100 * 512 + 500)), 10)

    def test_program_sees_the_error(self):
        self.export([{'event': 'none', 'iotype': 'write', 'errno': errno.ENOSPC}])
        done = run('dd', 'if=/dev/zero', f'of={self.mnt}', 'bs=4k', 'count=1', 'conv=notrunc', check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn('No space left on device', done.stderr)


@fuse_test
class SuddenDeath(IoTest):
    def stream(self, mnt, pipe):
        """In a child: write numbered blocks, fsync, and tell each number once it is safe."""
        fd = os.open(mnt, os.O_RDWR)
        number = 0
        while True:
            number += 1
            os.pwrite(fd, struct.pack('<Q', number) * 512, (number % 64) * 4096)
            os.fsync(fd)
            os.write(pipe, struct.pack('<Q', number))

    def kill_in_mid_write(self, cache=None, env=None, **export):
        """What fsync acknowledged before SIGKILL is in the image."""
        image = self.make_file('disk.img', 64 * 4096)
        mnt = self.mountpoint()
        daemon = self.wharfd('--object', 'iothread,id=t0', env=env)
        daemon.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'n0', 'file': {
            'driver': 'file', 'filename': image, **({'cache': cache} if cache else {})}})
        daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': mnt,
                                            'writable': True, 'iothread': 't0', **export})
        r, w = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                self.stream(mnt, w)
            finally:
                os._exit(0)
        os.close(w)
        acknowledged = 0
        try:
            while acknowledged < 40:
                acknowledged = struct.unpack('<Q', os.read(r, 8))[0]
            daemon.kill()
            while True:
                data = os.read(r, 8)
                if not data:
                    break
                acknowledged = struct.unpack('<Q', data)[0]
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(r)
        with open(image, 'rb') as f:
            blocks = [f.read(4096) for _ in range(64)]
        for number in range(max(1, acknowledged - 63), acknowledged + 1):
            found = struct.unpack('<Q', blocks[number % 64][:8])[0]
            # The next round may already have begun over it.
            self.assertIn(found, (number, number + 64))
            self.assertEqual(blocks[number % 64], struct.pack('<Q', found) * 512)
        # The corpse is told from a live mount, and a new daemon can take the place.
        self.assertTrue(self.mounted(mnt))
        self.assert_errno(errno.ENOTCONN, in_child, os.stat, mnt)
        tools.unmount(mnt)
        again = self.wharfd()
        self.add_file_export(again, image, mnt)
        run('cmp', image, mnt)

    def test_buffered(self):
        self.kill_in_mid_write()

    def test_direct(self):
        self.kill_in_mid_write(cache={'direct': True})

    def test_writethrough(self):
        self.kill_in_mid_write(writethrough=True)

    @not_over('io-uring', 'the fallback event loop has no ring')
    def test_epoll(self):
        self.kill_in_mid_write(env={'WHARF_AIO': 'epoll'})


class Load:
    """fio against an empty image's mountpoint until stop(); it must not have failed."""

    def __init__(self, test, mnt, image, *options):
        self.test = test
        self.process = subprocess.Popen(
            [find_tool('fio'), '--name=load', f'--filename={mnt}', '--rw=randrw', '--bsrange=4k-64k', '--size=8m',
             '--ioengine=libaio', '--iodepth=8', '--direct=1', '--time_based', '--runtime=1000',
             '--allow_file_create=0', '--error_dump=1', *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=test.dir,
            start_new_session=True)
        test.addCleanup(self.process.stdout.close)
        test.addCleanup(tools.kill_group, self.process.pid)
        wait_until(lambda: os.stat(image).st_blocks > 0, what='fio to begin')

    def stop(self):
        """SIGINT makes fio finish what is in flight and sum up."""
        self.test.assertIsNone(self.process.poll(), 'fio has ended too early')
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            output, _ = self.process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise AssertionError('fio hangs') from None
        text = output.decode(errors='replace')
        self.test.assertNotIn('error=', text)
        self.test.assertIn('err= 0', text)


@fuse_test
class ChangesUnderLoad(IoTest):
    def setUp(self):
        super().setUp()
        find_tool('fio')

    def file_node(self, name, image, **options):
        return {'driver': 'file', 'node-name': name, 'filename': image, **options}

    def wait_for_writes(self, daemon, more):
        """Wait until the load has written something more."""
        def written():
            stats = daemon.qmp.cmd('query-blockstats', {'query-nodes': True})
            return next(s['stats']['wr_operations'] for s in stats if s['node-name'] == 'f0')
        begun = written()
        wait_until(lambda: written() >= begun + more, what='the load to go on')

    @timeout(240)
    def test_reopen_while_fio_runs(self):
        """Each reopen drains the node; nothing hangs, no request fails."""
        image = self.make_file('disk.img', 8 * MIB)
        mnt = self.mountpoint()
        daemon = self.wharfd('--object', 'iothread,id=t0', '--object', 'iothread,id=t1')
        daemon.qmp.cmd('blockdev-add', self.file_node('f0', image))
        daemon.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'n0', 'file': 'f0'})
        daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': mnt,
                                            'writable': True, 'iothread': ['t0', 't1']})
        load = Load(self, mnt, image, '--numjobs=2', '--group_reporting')
        self.wait_for_writes(daemon, 20)
        for turn in range(40):
            daemon.qmp.cmd('blockdev-reopen', {'options': [
                self.file_node('f0', image, cache={'direct': turn % 2 == 0},
                               **{'detect-zeroes': 'on' if turn % 3 == 0 else 'off'}),
                {'driver': 'raw', 'node-name': 'n0', 'file': 'f0'}]})
            if turn % 8 == 0:
                self.wait_for_writes(daemon, 5)
        load.stop()
        run('cmp', image, mnt)

    def test_resize_while_fio_runs(self):
        image = self.make_file('disk.img', 8 * MIB)
        mnt = self.mountpoint()
        daemon = self.wharfd('--object', 'iothread,id=t0')
        daemon.qmp.cmd('blockdev-add', self.file_node('f0', image))
        daemon.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'n0', 'file': 'f0'})
        daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': mnt,
                                            'writable': True, 'iothread': 't0'})
        load = Load(self, mnt, image)
        self.wait_for_writes(daemon, 20)
        for turn in range(30):
            daemon.qmp.cmd('block_resize', {'node-name': 'n0', 'size': 8 * MIB + turn * 1000})
        load.stop()
        self.assertEqual(os.stat(image).st_size, 8 * MIB + 29000)

    @timeout(600)
    def test_cycles_under_load_leak_nothing(self):
        """200 times: a node, an export, some use of it, and all gone again, beside a busy export."""
        busy_image = self.make_file('busy.img', 8 * MIB)
        busy = self.mountpoint('busy')
        image = self.make_file('disk.img', content=random.Random(5).randbytes(MIB))
        mnt = self.mountpoint()
        daemon = self.wharfd('--object', 'iothread,id=t0', '--object', 'iothread,id=t1')
        self.add_file_export(daemon, busy_image, busy, 'busy', 'busy', iothread='t0')
        load = Load(self, busy, busy_image)
        worker = self.fs()

        def cycle(turn):
            daemon.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'n0', 'file': {
                'driver': 'file', 'filename': image}})
            daemon.qmp.cmd('block-export-add', {
                'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': mnt, 'writable': True,
                'iothread': ['t0', 't1'] if turn % 2 else ['t1']})
            worker.write_at(mnt, turn * 512, b'x' * 512)
            self.assertEqual(worker.read_file(mnt, turn * 512, 512), b'x' * 512)
            if turn % 4 == 0:  # a descriptor is cut off
                fd = worker.open(mnt, os.O_RDONLY)
            daemon.qmp.cmd('block-export-del', {'id': 'e0', 'mode': 'hard' if turn % 3 == 0 else 'safe'})
            daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'e0'})
            if turn % 4 == 0:
                self.assert_errno(errno.ENOTCONN, worker.pread, fd, 1, 0)
                try:
                    worker.close(fd)
                except OSError:
                    pass  # ENOTCONN, but closed
            daemon.qmp.cmd('blockdev-del', {'node-name': 'n0'})

        for turn in range(40):
            cycle(turn)
        fds, threads, rss = len(daemon.fds()), len(daemon.threads()), daemon.rss()
        for turn in range(40, 240):
            cycle(turn)
        self.assertEqual(tools.fuse_mounts_below(self.dir), [busy])
        wait_until(lambda: len(daemon.fds()) <= fds, what=f'no more than {fds} descriptors: {daemon.fds()}')
        # The worker pool may have grown by one or two since; 200 cycles must not show.
        self.assertLess(len(daemon.threads()), threads + 20)
        if os.environ.get('WHARF_BUILD', 'normal') == 'normal':
            self.assertLess(daemon.rss(), rss + 8 * MIB)
        load.stop()

    def test_objects_come_and_go_under_load(self):
        image = self.make_file('disk.img', 8 * MIB)
        mnt = self.mountpoint()
        daemon = self.wharfd()
        self.add_file_export(daemon, image, mnt)
        load = Load(self, mnt, image)
        before = len(daemon.threads())
        for turn in range(50):
            daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': 't'})
            daemon.qmp.cmd('object-del', {'id': 't'})
        self.assertLess(len(daemon.threads()), before + 20)
        load.stop()

    def test_quit_under_load(self):
        """Whatever fio sees then, the daemon ends in order and leaves no mount."""
        for name in ('quit', 'terminate'):
            image = self.make_file('disk.img', 8 * MIB)
            mnt = self.mountpoint()
            daemon = self.wharfd('--object', 'iothread,id=t0')
            self.add_file_export(daemon, image, mnt, iothread='t0')
            load = Load(self, mnt, image)
            fd = self.fs().open(mnt, os.O_RDONLY)
            self.assertGreaterEqual(fd, 0)
            getattr(daemon, name)()
            self.assertFalse(self.mounted(mnt))
            tools.kill_group(load.process.pid)
            load.process.communicate(timeout=TIMEOUT)


if __name__ == '__main__':
    main()
