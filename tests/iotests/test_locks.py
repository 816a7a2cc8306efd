# SPDX-License-Identifier: GPL-2.0-or-later
"""Permissions as locks on the image: which bytes are held when, and who refuses whom."""

import fcntl
import os
import struct
import subprocess
import threading
import time

from wharf import *
from wharf import tools
from wharf.qcow2 import MIB

PERMISSIONS = ['consistent-read', 'write', 'write-unchanged', 'resize']
BYTES = [100, 101, 102, 103, 200, 201, 202, 203]

_FLOCK = 'hhqqi4x'


def _lock(fd, command, kind, byte):
    packed = struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0)
    return struct.unpack(_FLOCK, fcntl.fcntl(fd, command, packed))


def _lists(take, unshare):
    """blkdebug's options; QSD takes no empty list."""
    lists = {'take-child-perms': list(take), 'unshare-child-perms': list(unshare)}
    return {name: value for name, value in lists.items() if value}


class Holder:
    """Another user of an image, who holds the locks it is told to hold."""

    def __init__(self, test, path):
        self.fd = os.open(path, os.O_RDWR)
        test.addCleanup(os.close, self.fd)

    def hold(self, *held, kind=fcntl.F_RDLCK):
        for byte in held:
            _lock(self.fd, fcntl.F_OFD_SETLK, kind, byte)
        return self

    def drop(self, *held):
        return self.hold(*(held or BYTES), kind=fcntl.F_UNLCK)

    def sees(self):
        """The bytes that others hold."""
        return [byte for byte in range(90, 220)
                if _lock(self.fd, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, byte)[0] != fcntl.F_UNLCK]


class LockTest(IoTest):
    def setUp(self):
        super().setUp()
        self.image = self.make_file('image', 1 << 20)
        self.other = Holder(self, self.image)

    def add_node(self, daemon, name='n0', file=None, **options):
        daemon.qmp.cmd('blockdev-add', {
            'driver': 'raw', 'node-name': name, **options,
            'file': {'driver': 'file', 'filename': self.image, **(file or {})}})

    def export(self, daemon, node='n0', export='e0', **options):
        daemon.qmp.cmd('block-export-add', {
            'type': 'fuse', 'id': export, 'node-name': node,
            'mountpoint': self.mountpoint('mnt-' + export), **options})

    def delete(self, daemon, export='e0'):
        daemon.qmp.cmd('block-export-del', {'id': export})
        if not any(e['data']['id'] == export for e in daemon.qmp.events):
            daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': export})

    def refused(self, words, function, *args, **kwargs):
        """The call fails with an error that holds all the words."""
        with self.assertRaises(QmpError) as caught:
            function(*args, **kwargs)
        self.assertEqual(caught.exception.cls, 'GenericError')
        for word in words:
            self.assertIn(word, caught.exception.desc)


class Held(LockTest):
    """Which bytes are held when."""

    def test_idle_nodes_hold_nothing(self):
        daemon = self.wharfd()
        daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'rw',
                                        'filename': self.image})
        daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'ro', 'read-only': True,
                                        'filename': self.image})
        self.add_node(daemon)
        self.assertEqual(self.other.sees(), [])

    @fuse_test
    def test_read_only_export(self):
        daemon = self.wharfd()
        self.add_node(daemon)
        self.export(daemon)
        self.assertEqual(self.other.sees(), [100])
        self.delete(daemon)
        self.assertEqual(self.other.sees(), [])

    @fuse_test
    def test_writable_export(self):
        """Resize is held for the moment of a resize only."""
        daemon = self.wharfd()
        self.add_node(daemon)
        self.export(daemon, writable=True)
        self.assertEqual(self.other.sees(), [100, 101])
        fs = self.fs()
        fs.truncate(self.path('mnt-e0'), 12345)
        self.assertEqual(self.other.sees(), [100, 101])
        self.delete(daemon)
        self.assertEqual(self.other.sees(), [])

    @fuse_test
    def test_two_exports_hold_what_either_needs(self):
        daemon = self.wharfd()
        self.add_node(daemon)
        self.export(daemon)
        self.export(daemon, export='e1', writable=True)
        self.assertEqual(self.other.sees(), [100, 101])
        self.delete(daemon, 'e1')
        self.assertEqual(self.other.sees(), [100])
        self.delete(daemon)
        self.assertEqual(self.other.sees(), [])

    @fuse_test
    def test_locking_off_holds_nothing(self):
        daemon = self.wharfd()
        self.add_node(daemon, file={'locking': 'off'})
        self.other.hold(*BYTES)
        self.export(daemon, writable=True)
        self.other.drop()
        self.assertEqual(self.other.sees(), [])

    @fuse_test
    def test_locking_on_and_auto_hold_the_same(self):
        daemon = self.wharfd()
        for locking in ('on', 'auto'):
            self.add_node(daemon, name=locking, file={'locking': locking})
            self.export(daemon, node=locking, export=locking)
            self.assertEqual(self.other.sees(), [100])
            self.delete(daemon, locking)

    def test_every_byte(self):
        """What a filter needs and does not share ends up as exactly these bytes."""
        daemon = self.wharfd()
        for take in range(16):
            for unshare in range(16):
                self.add_debug(daemon, take, unshare)
                self.assertEqual(self.other.sees(), self.bytes_of(take, unshare))
                daemon.qmp.cmd('blockdev-del', {'node-name': 'd0'})
                self.assertEqual(self.other.sees(), [])

    @staticmethod
    def names_of(bits):
        return [name for i, name in enumerate(PERMISSIONS) if bits & 1 << i]

    @staticmethod
    def bytes_of(take, unshare):
        return ([100 + i for i in range(4) if take & 1 << i] +
                [200 + i for i in range(4) if unshare & 1 << i])

    def add_debug(self, daemon, take=0, unshare=0):
        daemon.qmp.cmd('blockdev-add', {
            'driver': 'blkdebug', 'node-name': 'd0',
            'image': {'driver': 'file', 'filename': self.image},
            **_lists(self.names_of(take), self.names_of(unshare))})

    def test_every_conflict(self):
        """Each byte that somebody else holds stops exactly those who contradict it."""
        daemon = self.wharfd()
        for byte in BYTES:
            self.other.hold(byte)
            for i, name in enumerate(PERMISSIONS):
                if byte == 200 + i:
                    self.refused([name, self.image], self.add_debug, daemon, take=1 << i)
                else:
                    self.add_debug(daemon, take=1 << i)
                    daemon.qmp.cmd('blockdev-del', {'node-name': 'd0'})
                if byte == 100 + i:
                    self.refused([name, self.image], self.add_debug, daemon, unshare=1 << i)
                else:
                    self.add_debug(daemon, unshare=1 << i)
                    daemon.qmp.cmd('blockdev-del', {'node-name': 'd0'})
                self.assertEqual(self.other.sees(), [])
            self.other.drop(byte)

    def test_exclusive_lock(self):
        """An exclusive lock of a stranger, OFD or POSIX, names the byte."""
        daemon = self.wharfd()
        for i in range(4):
            for byte, how in ((100 + i, {'take': 1 << i}), (200 + i, {'unshare': 1 << i})):
                self.other.hold(byte, kind=fcntl.F_WRLCK)
                self.refused([str(byte), self.image], self.add_debug, daemon, **how)
                self.other.drop(byte)
        with open(self.image, 'r+b') as f:
            fcntl.lockf(f, fcntl.LOCK_EX, 1, 100)
            self.refused(['100'], self.add_debug, daemon, take=1)
        self.assertEqual(self.other.sees(), [])

    def test_flock_does_not_matter(self):
        daemon = self.wharfd()
        fcntl.flock(self.other.fd, fcntl.LOCK_EX)
        self.add_debug(daemon, take=15, unshare=15)
        self.assertEqual(self.other.sees(), BYTES)

    @fuse_test
    def test_shrinking_gives_back(self):
        daemon = self.wharfd()
        self.add_debug(daemon, take=1, unshare=8)
        self.export(daemon, node='d0', writable=True)
        self.assertEqual(self.other.sees(), [100, 101, 203])
        self.delete(daemon)
        self.assertEqual(self.other.sees(), [100, 203])

    def test_locks_end_with_the_daemon(self):
        daemon = self.wharfd()
        self.add_debug(daemon, take=15, unshare=15)
        self.assertEqual(self.other.sees(), BYTES)
        daemon.quit()
        self.assertEqual(self.other.sees(), [])

    def test_reopen_keeps_locks(self):
        """At no moment of a reopen is anything free that was held."""
        daemon = self.wharfd()
        daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f0',
                                        'filename': self.image})
        daemon.qmp.cmd('blockdev-add', {'driver': 'blkdebug', 'node-name': 'd0', 'image': 'f0',
                                        'take-child-perms': ['write'],
                                        'unshare-child-perms': ['resize']})
        for direct in (True, False):
            daemon.qmp.cmd('blockdev-reopen', {'options': [{
                'driver': 'file', 'node-name': 'f0', 'filename': self.image,
                'cache': {'direct': direct}}]})
            self.assertEqual(self.other.sees(), [101, 203])
        for locking, seen in (('off', []), ('on', [101, 203])):
            daemon.qmp.cmd('blockdev-reopen', {'options': [{
                'driver': 'file', 'node-name': 'f0', 'filename': self.image,
                'locking': locking}]})
            self.assertEqual(self.other.sees(), seen)


class Inactive(LockTest):
    """An inactive node has given its image away."""

    def setUp(self):
        super().setUp()
        self.daemon = self.wharfd()
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'blkdebug', 'node-name': 'd0',
            'image': {'driver': 'file', 'filename': self.image, 'node-name': 'f0'},
            'take-child-perms': ['write'], 'unshare-child-perms': ['resize']})

    def set_active(self, active):
        self.daemon.qmp.cmd('blockdev-set-active', {'node-name': 'd0', 'active': active})

    def test_gives_back_and_takes_again(self):
        self.assertEqual(self.other.sees(), [101, 203])
        self.set_active(False)
        self.assertEqual(self.other.sees(), [])
        self.set_active(True)
        self.assertEqual(self.other.sees(), [101, 203])

    def test_taken_meanwhile(self):
        self.set_active(False)
        self.other.hold(201)
        self.refused(['write', self.image], self.set_active, True)
        self.assertEqual(self.other.sees(), [])
        self.other.drop(201)
        self.set_active(True)
        self.assertEqual(self.other.sees(), [101, 203])


class Daemon2(LockTest):
    """Two daemons on one image."""

    @fuse_test
    def test_unshared_against_needed(self):
        first, second = self.wharfd(), self.wharfd()
        first.qmp.cmd('blockdev-add', {'driver': 'blkdebug', 'node-name': 'd0',
                                       'image': {'driver': 'file', 'filename': self.image},
                                       'unshare-child-perms': ['write']})
        self.add_node(second)
        self.export(second)
        self.delete(second)
        self.refused(['write', self.image], self.export, second, export='e1', writable=True)
        self.assertEqual(second.qmp.cmd('query-block-exports'), [])
        first.qmp.cmd('blockdev-del', {'node-name': 'd0'})
        self.export(second, export='e2', writable=True)

    @fuse_test
    def test_raw_writers_share(self):
        first, second = self.wharfd(), self.wharfd()
        for i, daemon in enumerate((first, second)):
            self.add_node(daemon)
            self.export(daemon, export=f'e{i}', writable=True)

    def test_two_nodes_of_one_daemon(self):
        daemon = self.wharfd()
        add = {'driver': 'blkdebug', 'image': {'driver': 'file', 'filename': self.image}}
        daemon.qmp.cmd('blockdev-add', {**add, 'node-name': 'a', 'unshare-child-perms': ['resize']})
        self.refused(['resize', self.image], daemon.qmp.cmd, 'blockdev-add',
                     {**add, 'node-name': 'b', 'take-child-perms': ['resize']})
        daemon.qmp.cmd('blockdev-add', {**add, 'node-name': 'b', 'take-child-perms': ['write']})


class Leaving(LockTest):
    """Who uses the image is about to go, and then is no reason to refuse it."""

    PATIENCE = 0.2
    TRIES = 10

    def setUp(self):
        super().setUp()
        run(find_tool('qemu-img'), 'create', '-q', '-f', 'qcow2', self.image, '64M')
        self.daemon = self.wharfd()

    def try_to(self, attempt, *args, **kwargs):
        """Whether it succeeds. Where it is refused, others had as long as they may have to go."""
        begun = time.monotonic()
        try:
            attempt(*args, **kwargs)
        except QmpError as e:
            self.assertIn(self.image, e.desc)
            self.assertGreaterEqual(time.monotonic() - begun, self.PATIENCE)
            return False
        return True

    def in_time(self, byte, attempt, *args, **kwargs):
        """It succeeds although somebody has the byte when it begins. Once is enough: on a busy machine
        he may leave too late."""
        for _ in range(self.TRIES):
            self.other.hold(byte)
            leave = threading.Timer(0.05, self.other.drop, [byte])
            leave.start()
            done = self.try_to(attempt, *args, **kwargs)
            leave.join()
            if done:
                return
        self.fail(f'refused {self.TRIES} times')

    def qcow2(self, **options):
        return {'driver': 'qcow2', 'node-name': 'q', 'file': self.file(), **options}

    def file(self):
        return {'driver': 'file', 'node-name': 'f', 'filename': self.image}

    def cmd(self, name, **arguments):
        return self.daemon.qmp.cmd(name, {k.replace('_', '-'): v for k, v in arguments.items()})

    def test_add_and_activate(self):
        self.in_time(201, self.cmd, 'blockdev-add', **self.qcow2())
        self.cmd('blockdev-set-active', node_name='q', active=False)
        self.in_time(201, self.cmd, 'blockdev-set-active', node_name='q', active=True)
        self.assertEqual(self.other.sees(), [100, 101, 103, 201, 203])

    def test_reopen(self):
        self.cmd('blockdev-add', **self.qcow2(read_only=True))
        self.in_time(201, self.cmd, 'blockdev-reopen', options=[self.file(), self.qcow2(file='f')])
        self.assertEqual(self.other.sees(), [100, 101, 103, 201, 203])

    @fuse_test
    def test_export(self):
        self.add_node(self.daemon)
        self.in_time(201, self.export, self.daemon, writable=True)

    def test_create(self):
        def create():
            self.cmd('blockdev-create', job_id='j', options={
                'driver': 'file', 'filename': self.image, 'size': 4096})
            self.daemon.qmp.wait_event('JOB_STATUS_CHANGE', {'id': 'j', 'status': 'concluded'})
            error = self.cmd('query-jobs')[0].get('error')
            self.cmd('job-dismiss', id='j')
            if error:
                raise QmpError({'error': {'desc': error}})
        self.in_time(201, create)
        self.assertEqual(os.stat(self.image).st_size, 4096)

    @fuse_test
    def test_killed(self):
        """The kernel ends the last requests of a killed daemon, and its locks, when that is dead already."""
        mnt = self.path('mnt-e0')
        for n in range(3):
            first = self.wharfd('--object', 'iothread,id=t0', name=f'first{n}')
            first.qmp.cmd('blockdev-add', self.qcow2())
            self.export(first, 'q', writable=True, iothread='t0')
            fio = self.fio(mnt)
            wait_until(lambda: self.allocated() > 20 * MIB, what='fio to write')
            first.kill(wait_unlocked=False)
            if self.try_to(self.cmd, 'blockdev-add', **self.qcow2()):
                self.cmd('blockdev-del', node_name='q')
            tools.kill_group(fio.pid)
            fio.wait(TIMEOUT)
            tools.unmount(mnt)

    def fio(self, path):
        return subprocess.Popen(
            [find_tool('fio'), '--name=w', f'--filename={path}', '--size=60M', '--rw=randwrite', '--bs=256k',
             '--numjobs=4', '--thread', '--ioengine=psync', '--fdatasync=3', '--time_based', '--runtime=120'],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def allocated(self):
        return os.stat(self.image).st_blocks * 512


class QemuTools(LockTest):
    """QEMU's tools against an image held by the daemon, and the other way round."""

    def setUp(self):
        super().setUp()
        self.qemu_img = find_tool('qemu-img')
        self.qemu_io = find_tool('qemu-io')

    def outcome(self, *command):
        """Whether the tool got at the image: True, or False where a lock stood in its way."""
        done = run(*command, check=False)
        if done.returncode == 0:
            return True
        self.assertRegex(done.stderr, r'[Ll]ock')
        return False

    def outcomes(self, image_format='raw'):
        """Of info, info -U, a reader that does not share write, a writer, a resizer."""
        copy = self.path('copy')
        return {
            'info': self.outcome(self.qemu_img, 'info', '-f', image_format, self.image),
            'info -U': self.outcome(self.qemu_img, 'info', '-U', '-f', image_format, self.image),
            'convert': self.outcome(self.qemu_img, 'convert', '-f', image_format, '-O', 'raw',
                                    self.image, copy),
            'write': self.outcome(self.qemu_io, '-f', image_format, '-c', 'write 0 512',
                                  self.image),
            'resize': self.outcome(self.qemu_img, 'resize', '-f', image_format, self.image,
                                   '1048576'),
        }

    def expect(self, **refused):
        everything = dict.fromkeys(('info', 'info -U', 'convert', 'write', 'resize'), True)
        everything.update({name.replace('_', ' '): False for name in refused})
        self.assertEqual(self.outcomes(), everything)

    def hold_by_daemon(self, take=(), unshare=()):
        daemon = self.wharfd()
        daemon.qmp.cmd('blockdev-add', {'driver': 'blkdebug', 'node-name': 'd0',
                                        'image': {'driver': 'file', 'filename': self.image},
                                        **_lists(take, unshare)})
        return daemon

    def test_nothing_held(self):
        self.hold_by_daemon()
        self.expect()

    def test_read_held(self):
        self.hold_by_daemon(take=['consistent-read'])
        self.expect()

    def test_write_held(self):
        self.hold_by_daemon(take=['consistent-read', 'write'])
        self.expect(convert=True)

    def test_resize_held(self):
        self.hold_by_daemon(take=['consistent-read', 'write', 'resize'])
        self.expect(convert=True)

    def test_write_not_shared(self):
        self.hold_by_daemon(take=['consistent-read', 'write'], unshare=['write'])
        self.expect(convert=True, write=True, resize=True)

    def test_resize_not_shared(self):
        self.hold_by_daemon(take=['consistent-read'], unshare=['resize'])
        self.expect(resize=True)

    def test_read_not_shared(self):
        self.hold_by_daemon(unshare=['consistent-read'])
        self.expect(convert=True, write=True, resize=True)

    @fuse_test
    def test_fuse_export_against_tools(self):
        daemon = self.wharfd()
        self.add_node(daemon)
        self.export(daemon)
        self.expect()
        self.delete(daemon)
        self.export(daemon, export='e1', writable=True)
        self.expect(convert=True)
        self.delete(daemon, 'e1')
        self.expect()

    def qemu_io_holding(self, image_format, *options):
        """qemu-io with the image open, until the test ends."""
        process = subprocess.Popen([self.qemu_io, *options, '-f', image_format, self.image],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)

        def end():
            process.stdin.close()
            process.stdout.close()
            process.wait(TIMEOUT)
        self.addCleanup(end)
        # It prompts once the image is open.
        process.stdin.write('length\n')
        process.stdin.flush()
        self.assertIn('qemu-io>', process.stdout.readline())
        return process

    @fuse_test
    def test_qemu_io_holds_raw(self):
        self.qemu_io_holding('raw')
        daemon = self.wharfd()
        self.add_node(daemon)
        self.export(daemon, writable=True)

    @fuse_test
    def test_qemu_io_holds_qcow2(self):
        run(self.qemu_img, 'create', '-f', 'qcow2', self.image, '1M')
        self.qemu_io_holding('qcow2')
        self.assertEqual(self.other.sees(), [100, 101, 103, 201, 203])
        daemon = self.wharfd()
        self.add_node(daemon)
        self.export(daemon)
        self.delete(daemon)
        self.refused(['write', self.image], self.export, daemon, export='e1', writable=True)

    @fuse_test
    def test_qemu_io_reads_qcow2(self):
        run(self.qemu_img, 'create', '-f', 'qcow2', self.image, '1M')
        self.qemu_io_holding('qcow2', '-r')
        self.assertEqual(self.other.sees(), [100, 201, 203])
        daemon = self.wharfd()
        self.add_node(daemon)
        self.export(daemon)
        self.refused(['write', self.image], self.export, daemon, export='e1', writable=True)


    def qsd_with(self, *nodes):
        """QSD with these nodes and an NBD server."""
        qsd = self.qsd()
        for node in nodes:
            qsd.qmp.cmd('blockdev-add', node)
        qsd.qmp.cmd('nbd-server-start', {'addr': {'type': 'unix',
                                                  'data': {'path': self.path('nbd')}}})
        return qsd

    @fuse_test
    def test_qsd_exports_raw_over_nbd(self):
        """It does not share resize, read-only or not."""
        qsd = self.qsd_with({'driver': 'raw', 'node-name': 'r',
                             'file': {'driver': 'file', 'filename': self.image}})
        qsd.qmp.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'r',
                                         'writable': True})
        self.assertEqual(self.other.sees(), [100, 101, 203])
        daemon = self.wharfd()
        self.add_node(daemon)
        self.export(daemon, writable=True)
        self.refused(['resize'], daemon.qmp.cmd, 'block_resize', {'node-name': 'n0', 'size': 0})
        qsd.qmp.cmd('block-export-del', {'id': 'e'})
        qsd.qmp.wait_event('BLOCK_EXPORT_DELETED')
        daemon.qmp.cmd('block_resize', {'node-name': 'n0', 'size': 4096})

    @fuse_test
    def test_qsd_holds_qcow2(self):
        run(self.qemu_img, 'create', '-f', 'qcow2', self.image, '1M')
        qsd = self.qsd_with({'driver': 'qcow2', 'node-name': 'q',
                             'file': {'driver': 'file', 'filename': self.image}})
        self.assertEqual(self.other.sees(), [100, 101, 103, 201, 203])
        daemon = self.wharfd()
        self.add_node(daemon)
        self.refused(['write', self.image], self.export, daemon, writable=True)
        qsd.qmp.cmd('blockdev-del', {'node-name': 'q'})
        self.export(daemon, export='e1', writable=True)
        with self.assertRaises(QmpError) as caught:
            qsd.qmp.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'q',
                                         'file': {'driver': 'file', 'filename': self.image}})
        self.assertIn('write', caught.exception.desc)


class SingleBytes(LockTest):
    """Somebody holds a single byte, and the daemon wants to export."""

    @fuse_test
    def test_exports(self):
        daemon = self.wharfd()
        self.add_node(daemon)
        for byte in BYTES:
            self.other.hold(byte)
            for writable in (False, True):
                name = f'e{byte}{"w" if writable else "r"}'
                needed = [100, 101] if writable else [100]
                if byte - 100 in needed:
                    self.refused([PERMISSIONS[byte - 200]], self.export, daemon, export=name,
                                 writable=writable)
                    self.assertEqual(self.other.sees(), [])
                else:
                    self.export(daemon, export=name, writable=writable)
                    self.assertEqual(self.other.sees(), needed)
                    self.delete(daemon, name)
            self.other.drop(byte)

    def test_resize(self):
        """Who does not share resize stops a resize, and it works when he has gone."""
        daemon = self.wharfd()
        self.add_node(daemon)
        self.other.hold(203)
        self.refused(['resize'], daemon.qmp.cmd, 'block_resize',
                     {'node-name': 'n0', 'size': 4096})
        self.assertEqual(self.other.sees(), [])
        self.assertEqual(os.stat(self.image).st_size, 1 << 20)
        self.other.drop(203)
        daemon.qmp.cmd('block_resize', {'node-name': 'n0', 'size': 4096})
        self.assertEqual(os.stat(self.image).st_size, 4096)
        self.assertEqual(self.other.sees(), [])

    def test_force_share(self):
        daemon = self.wharfd()
        daemon.qmp.cmd('blockdev-add', {
            'driver': 'blkdebug', 'node-name': 'd0', 'read-only': True, 'force-share': True,
            'image': {'driver': 'file', 'filename': self.image},
            'take-child-perms': ['consistent-read'], 'unshare-child-perms': ['write', 'resize']})
        self.assertEqual(self.other.sees(), [100])


if __name__ == '__main__':
    main()
