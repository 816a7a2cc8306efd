# SPDX-License-Identifier: GPL-2.0-or-later
"""The nbd block driver: real servers, servers that go away, and servers that misbehave."""

import errno
import os
import random
import re
import shutil
import struct
import subprocess
import threading
import time

from wharf import *
from wharf import nbd_servers as servers
from wharf.tools import unmount

MIB = 1 << 20
FALLOC_PUNCH = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


class NbdTest(IoTest):
    """A daemon whose node 'n' is an export of a server, at self.mnt as a file."""

    SIZE = 8 * MIB

    def setUp(self):
        super().setUp()
        if 'libnbd: yes' not in run(os.environ['WHARFD'], '--version').stdout:
            self.skipTest('this build has no nbd driver')
        self.image = self.make_file('disk.img', self.SIZE)
        self.mnt = self.mountpoint()

    def start(self, *args):
        self.daemon = self.wharfd(*args)

    def refused(self, command, arguments):
        """The text of the error."""
        with self.assertRaises(QmpError) as caught:
            self.daemon.qmp.cmd(command, arguments)
        return str(caught.exception)

    def options(self, path, **options):
        return {'driver': 'nbd', 'node-name': 'n', 'server': {'type': 'unix', 'path': path},
                **{k.replace('_', '-'): v for k, v in options.items()}}

    def add(self, path, **options):
        self.daemon.qmp.cmd('blockdev-add', self.options(path, **options))

    def assert_refused(self, path, *words, **options):
        text = self.refused('blockdev-add', self.options(path, **options))
        for word in words:
            self.assertIn(word, text)
        self.assertEqual([], self.daemon.qmp.cmd('query-named-block-nodes'))

    def export(self, node='n', writable=True, **options):
        self.daemon.qmp.cmd('block-export-add', {
            'type': 'fuse', 'id': 'e0', 'node-name': node, 'mountpoint': self.mnt, 'writable': writable,
            **options})

    def read(self, offset, length, timeout=TIMEOUT):
        """Bytes of the mounted file, by a process that may be killed."""
        return run('dd', f'if={self.mnt}', 'bs=64k', 'iflag=skip_bytes,count_bytes', f'skip={offset}',
                   f'count={length}', 'status=none', timeout=timeout, text=False).stdout

    def fails_to_read(self, timeout=TIMEOUT):
        result = run('dd', f'if={self.mnt}', 'of=/dev/null', 'bs=4k', 'count=1', 'iflag=direct', timeout=timeout,
                     check=False)
        return result.returncode != 0 and 'Input/output error' in result.stderr

    def write(self, offset, data, timeout=TIMEOUT):
        run('dd', f'of={self.mnt}', 'bs=64k', 'oflag=seek_bytes', f'seek={offset}', 'conv=notrunc,fsync',
            'status=none', input=data, text=False, timeout=timeout)

    def verify(self, *options, size=None, timeout=TIMEOUT):
        run(find_tool('fio'), '--name=verify', f'--filename={self.mnt}', f'--size={size or self.SIZE}',
            '--rw=randwrite', '--bsrange=512-64k', '--blockalign=512', '--ioengine=libaio', '--iodepth=16',
            '--direct=1', '--verify=crc32c', '--verify_fatal=1', '--verify_state_save=0', '--randrepeat=1', *options,
            timeout=timeout)


@fuse_test
class RealServers(NbdTest):
    """The same with each server."""

    def go_through(self, path, **options):
        self.start()
        self.add(path, discard='unmap', **options)
        self.assertEqual(self.SIZE, self.daemon.qmp.cmd('query-named-block-nodes')[0]['image']['virtual-size'])
        self.export()
        data = os.urandom(3 * MIB + 4096)
        self.write(MIB - 512, data)
        self.assertEqual(data, self.read(MIB - 512, len(data)))
        with open(self.image, 'rb') as f:
            f.seek(MIB - 512)
            self.assertEqual(data, f.read(len(data)))
        # What was never written is a hole, and what is punched becomes one.
        run('fallocate', '--punch-hole', '--offset', 2 * MIB, '--length', MIB, self.mnt)
        self.assertEqual(bytes(MIB), self.read(2 * MIB, MIB))
        fd = os.open(self.mnt, os.O_RDONLY)
        try:
            self.assertEqual(2 * MIB, os.lseek(fd, MIB, os.SEEK_HOLE))
            self.assertEqual(3 * MIB, os.lseek(fd, 2 * MIB, os.SEEK_DATA))
            self.assert_errno(errno.ENXIO, os.lseek, fd, 6 * MIB, os.SEEK_DATA)
        finally:
            os.close(fd)
        self.verify()
        with open(self.image, 'rb') as image:
            self.assertEqual(image.read(), self.read(0, self.SIZE))
        self.daemon.quit()

    def test_nbdkit(self):
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.go_through(server.path)

    def test_qemu_nbd(self):
        server = servers.qemu_nbd(self, 's', self.image, '--discard=unmap')
        self.go_through(server.path)

    def test_qsd(self):
        server = servers.qsd(self, 's', self.image)
        self.go_through(server.path, export='e')

    def test_our_own(self):
        path = self.path('s')
        self.wharfd('--blockdev', f'file,node-name=f,filename={self.image},discard=unmap', '--blockdev',
                    'raw,node-name=r,file=f,discard=unmap', '--nbd-server', f'addr.type=unix,addr.path={path}',
                    '--export', 'nbd,id=e,node-name=r,name=e,writable=on', name='server')
        self.go_through(path, export='e')

    def test_nbdkit_nbd_in_between(self):
        far = servers.nbdkit(self, 'far', f'file={self.image}')
        server = servers.nbdkit(self, 's', f'socket={far.path}', plugin='nbd')
        self.go_through(server.path)

    def test_over_tcp(self):
        port = free_port()
        server = servers.Server(self.path('s'), [
            find_tool('sh'), '-c', f'nbdkit -f -i 127.0.0.1 -p {port} -P {self.path("pid")} file {self.image} & '
            f'exec nbdkit -f -U {self.path("s")} null'])
        self.addCleanup(lambda: os.kill(int(open(self.path('pid'), encoding='ascii').read()), 9))
        self.addCleanup(server.close)
        wait_until(lambda: os.path.exists(self.path('pid')))
        self.start()
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'nbd', 'node-name': 'n', 'server': {'type': 'inet', 'host': 'localhost', 'port': str(port)}})
        self.assertEqual(f'nbd://localhost:{port}', self.daemon.qmp.cmd('query-named-block-nodes')[0]['file'])
        self.export()
        self.verify()

    def test_iothreads(self):
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.start('--object', 'iothread,id=t0', '--object', 'iothread,id=t1')
        self.add(server.path)
        self.export(iothread=['t0', 't1'])
        self.verify('--numjobs=2', '--offset_increment=4m', size=4 * MIB)
        self.daemon.qmp.cmd('block-export-del', {'id': 'e0'})
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED')
        # Nothing of the node has stayed in a thread that goes.
        self.daemon.qmp.cmd('object-del', {'id': 't0'})
        self.daemon.qmp.cmd('object-del', {'id': 't1'})
        self.export()
        self.verify()

    def test_below_qcow2(self):
        run(find_tool('qemu-img'), 'create', '-q', '-f', 'qcow2', self.path('q.qcow2'), '16M')
        # An export cannot grow, so there must be room for the image to grow in.
        os.truncate(self.path('q.qcow2'), 32 * MIB)
        base = servers.nbdkit(self, 'b', f'file={self.image}')
        with open(self.image, 'r+b') as f:
            f.write(b'base' * 1024)
        server = servers.nbdkit(self, 's', f'file={self.path("q.qcow2")}')
        self.start()
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'q', 'file': self.options(server.path, node_name='f'),
            'backing': {'driver': 'raw', 'file': self.options(base.path, node_name='b')}})
        self.export('q')
        self.assertEqual(b'base' * 1024, self.read(0, 4096))
        self.verify()
        self.daemon.quit()
        run(find_tool('qemu-img'), 'check', '-q', self.path('q.qcow2'))


@fuse_test
class WhatServersCan(NbdTest):
    def test_read_only(self):
        server = servers.nbdkit(self, 's', '-r', f'file={self.image}')
        self.start()
        self.assert_refused(server.path, 'read-only')
        self.add(server.path, auto_read_only=True)
        self.assertTrue(self.daemon.qmp.cmd('query-named-block-nodes')[0]['ro'])
        error = self.refused('block-export-add', {
            'type': 'fuse', 'id': 'e0', 'node-name': 'n', 'mountpoint': self.mnt, 'writable': True})
        self.assertIn('read-only', error)
        self.export(writable=False)
        self.assertEqual(bytes(4096), self.read(0, 4096))

    def test_reopen(self):
        server = servers.nbdkit(self, 's', '-r', f'file={self.image}')
        self.start()
        self.add(server.path, read_only=True)
        options = self.options(server.path)
        self.assertIn('read-only', self.refused('blockdev-reopen', {'options': [options]}))
        self.assertIn('reconnect-delay', self.refused('blockdev-reopen', {
            'options': [{**options, 'read-only': True, 'reconnect-delay': 5}]}))
        self.daemon.qmp.cmd('blockdev-reopen', {'options': [{**options, 'auto-read-only': True}]})
        self.assertTrue(self.daemon.qmp.cmd('query-named-block-nodes')[0]['ro'])

    def test_reopen_with_its_server(self):
        """One node is served from the other: both are reopened under load, whichever is named first."""
        path = self.path('own')
        self.start('--blockdev', f'file,node-name=f,filename={self.image}', '--blockdev', 'raw,node-name=r,file=f',
                   '--nbd-server', f'addr.type=unix,addr.path={path}',
                   '--export', 'nbd,id=e,node-name=r,name=e,writable=on')
        self.add(path, export='e')
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'top', 'file': 'n'})
        self.export('top')
        both = [{'driver': 'raw', 'node-name': 'r', 'file': 'f'}, {'driver': 'raw', 'node-name': 'top', 'file': 'n'}]
        worker = self.fs()
        fd = worker.open(self.mnt, os.O_RDWR)
        stop = threading.Event()

        def write():
            while not stop.is_set():
                run('dd', 'if=/dev/zero', f'of={self.mnt}', 'bs=64k', 'count=64', 'oflag=direct', 'conv=notrunc',
                    'status=none')
        thread = threading.Thread(target=write)
        thread.start()
        try:
            for i in range(10):
                worker.pwrite(fd, b'not flushed', 7 * MIB)
                self.daemon.qmp.cmd('blockdev-reopen', {'options': both[::-1] if i % 2 else both})
        finally:
            stop.set()
            thread.join()
        worker.close(fd)

    def test_resize(self):
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.start()
        self.add(server.path)
        self.daemon.qmp.cmd('block_resize', {'node-name': 'n', 'size': self.SIZE})
        for size in (0, self.SIZE - 512, self.SIZE + 512):
            self.assertIn('resized', self.refused('block_resize', {'node-name': 'n', 'size': size}))

    def test_odd_size(self):
        os.truncate(self.image, 1000)
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.start()
        self.add(server.path)
        self.export()
        self.assertEqual(1000, os.stat(self.mnt).st_size)
        self.write(0, b'z' * 1000)
        self.assertEqual(b'z' * 1000, self.read(0, 4096))

    def test_block_sizes(self):
        server = servers.nbdkit(self, 's', f'file={self.image}', '--filter=blocksize-policy',
                                'blocksize-minimum=4096', 'blocksize-maximum=64K', 'blocksize-error-policy=error')
        self.start()
        self.add(server.path)
        limits = self.daemon.qmp.cmd('query-named-block-nodes')[0]['image']['limits']
        self.assertEqual((4096, 65536), (limits['request-alignment'], limits['max-transfer']))
        self.export()
        data = os.urandom(MIB)
        self.write(12345, data)
        self.assertEqual(data, self.read(12345, MIB))
        self.verify()

    def test_preferred_block_size(self):
        """What is no size is none: those who ask us would take us for broken."""
        sizes = [None]
        fake = servers.Fake(self, 's', lambda sock: (servers.negotiate(sock, blocks=sizes[0]), sock.recv(1)))
        self.start()
        for sizes[0], told in (((1, 65536, 1 << 20), 65536), ((1, 5000, 1 << 20), None), ((4096, 512, 1 << 20), None),
                               ((1, 1 << 21, 1 << 20), None), ((1, 0, 1 << 20), None)):
            self.add(fake.path)
            limits = self.daemon.qmp.cmd('query-named-block-nodes')[0]['image']['limits']
            self.assertEqual(told, limits.get('opt-transfer'), sizes)
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n'})

    def test_poor_server(self):
        """No zeroes, no extents."""
        server = servers.nbdkit(self, 's', f'file={self.image}', '--filter=nozero', '--filter=noextents')
        self.start()
        self.add(server.path, discard='unmap')
        self.export()
        self.verify()
        run('fallocate', '--punch-hole', '--offset', MIB, '--length', MIB, self.mnt)
        self.assertEqual(bytes(MIB), self.read(MIB, MIB))

    def test_errors(self):
        flag = self.path('flag')
        server = servers.nbdkit(self, 's', f'file={self.image}', '--filter=error', 'error=ENOSPC',
                                'error-rate=100%', f'error-file={flag}')
        self.start()
        self.add(server.path)
        self.export()
        self.write(0, b'x' * 4096)
        with open(flag, 'wb'):
            pass
        result = run('dd', f'of={self.mnt}', 'if=/dev/zero', 'bs=4k', 'count=1', 'conv=notrunc', 'oflag=direct',
                     check=False)
        self.assertIn('No space left', result.stderr)
        os.unlink(flag)
        self.assertEqual(b'x' * 4096, self.read(0, 4096))

    def test_slow_server(self):
        server = servers.nbdkit(self, 's', f'file={self.image}', '--filter=delay', 'rdelay=20ms', 'wdelay=20ms')
        self.start()
        self.add(server.path, reply_timeout=20)
        self.export()
        self.verify('--bs=64k', size=MIB)

    def test_fua(self):
        """What a FUA write needs is on the server's disk before it is answered: it is told so."""
        log = self.path('log')
        server = servers.nbdkit(self, 's', f'file={self.image}', '--filter=log', f'logfile={log}')
        self.start()
        self.add(server.path)
        self.export(writethrough=True)
        run('dd', f'of={self.mnt}', 'if=/dev/zero', 'bs=4k', 'count=1', 'conv=notrunc', 'oflag=direct')
        with open(log, encoding='utf-8') as f:
            writes = [line for line in f if ' Write ' in line and 'fua=1' in line]
        self.assertEqual(1, len(writes))


@fuse_test
class Filters(NbdTest):
    """nbdkit's filters make a server that fails, is slow, or ends; the data are verified."""

    BLOCK = 4096

    def write_until_done(self, worker, fd, n, seed):
        """Random blocks, each tried until it succeeds. Returns them, and how many attempts failed."""
        rng = random.Random(seed)
        model, failures = {}, 0
        for _ in range(n):
            block, data = rng.randrange(self.SIZE // self.BLOCK), rng.randbytes(self.BLOCK)
            while True:
                try:
                    worker.pwrite(fd, data, block * self.BLOCK)
                    break
                except OSError as e:
                    self.assertEqual(errno.EIO, e.errno)
                    failures += 1
            model[block] = data
        return model, failures

    def assert_holds(self, model):
        with open(self.image, 'rb') as f:
            data = f.read()
        for block in range(self.SIZE // self.BLOCK):
            self.assertEqual(model.get(block, bytes(self.BLOCK)), data[block * self.BLOCK:(block + 1) * self.BLOCK],
                             f'block {block}')

    def open(self):
        worker = self.fs()
        return worker, worker.open(self.mnt, os.O_RDWR)

    def test_error(self):
        """Some requests of each kind fail; those that succeed have done what they should."""
        server = servers.nbdkit(self, 's', f'file={self.image}', '--filter=error', 'error=EIO', 'error-rate=20%')
        self.start()
        self.add(server.path)
        self.export()
        worker, fd = self.open()
        model, failures = self.write_until_done(worker, fd, 200, 1)
        self.assertGreater(failures, 10)
        for block, data in model.items():
            while True:
                try:
                    self.assertEqual(data, worker.pread(fd, self.BLOCK, block * self.BLOCK))
                    break
                except OSError as e:
                    self.assertEqual(errno.EIO, e.errno)
        wait_until(lambda: self.syncs(worker, fd))
        self.assert_holds(model)
        self.assertNotIn('lost the connection', self.daemon.log())

    def syncs(self, worker, fd):
        try:
            worker.fsync(fd)
            return True
        except OSError as e:
            self.assertEqual(errno.EIO, e.errno)
            return False

    def test_error_that_says_goodbye(self):
        """ESHUTDOWN: each time the request goes to another connection, and nobody notices."""
        server = servers.nbdkit(self, 's', f'file={self.image}', '--filter=error', 'error=ESHUTDOWN', 'error-rate=5%')
        self.start()
        self.add(server.path, reconnect_delay=TIMEOUT, keeps_writes=True)
        self.export()
        worker, fd = self.open()
        # One at a time, for nbdkit may die of an assertion when others are under way.
        model, failures = self.write_until_done(worker, fd, 100, 5)
        worker.fsync(fd)
        self.assertEqual(0, failures)
        self.assertIn('the server shuts down', self.daemon.log())
        self.assert_holds(model)

    def test_delay_and_kill(self):
        """Killed while requests are delayed: they are carried out by the next one."""
        server = servers.nbdkit(self, 's', f'file={self.image}', '--filter=delay', 'wdelay=20ms', 'rdelay=20ms')
        self.start()
        self.add(server.path, reconnect_delay=TIMEOUT)
        self.export()
        worker, fd = self.open()
        model = {}
        for n in range(3):
            worker.start('pwrite', fd, bytes([n + 1]) * self.BLOCK, n * self.BLOCK)
            time.sleep(0.01)
            server.kill()
            server.start()
            self.assertEqual(self.BLOCK, worker.finish())
            model[n] = bytes([n + 1]) * self.BLOCK
        # Two were acknowledged by servers that have gone since.
        self.assert_errno(errno.EIO, worker.fsync, fd)
        worker.fsync(fd)
        self.assert_holds(model)

    def test_retry(self):
        """A server that tries again behind our back is a slow one, and no more."""
        flag = self.make_file('flag')
        server = servers.nbdkit(self, 's', f'file={self.image}', '--filter=retry-request', '--filter=error',
                                'retry-request-delay=1', 'error=EIO', 'error-rate=100%', f'error-file={flag}')
        self.start()
        self.add(server.path, reply_timeout=TIMEOUT)
        self.export()
        worker, fd = self.open()
        worker.start('pwrite', fd, b'r' * self.BLOCK, 0)
        self.assertFalse(worker.finished(0.1))
        os.unlink(flag)
        self.assertEqual(self.BLOCK, worker.finish())
        self.assert_holds({0: b'r' * self.BLOCK})

    def test_ends_without_clients(self):
        """exitlast: a server that ends when it is left stays as long as the node is there."""
        server = servers.nbdkit(self, 's', f'file={self.image}', '--filter=exitlast')
        server.kill()
        server.start(probe=False)
        self.start()
        self.add(server.path)
        self.export()
        worker, fd = self.open()
        model, _ = self.write_until_done(worker, fd, 20, 3)
        worker.close(fd)
        self.daemon.quit()
        server.process.wait(TIMEOUT)
        self.assert_holds(model)

    def test_rate(self):
        """A slow server is not a dead one, as long as it answers within reply-timeout."""
        server = servers.nbdkit(self, 's', f'file={self.image}', '--filter=rate', 'rate=100M')
        self.start()
        self.add(server.path, reply_timeout=TIMEOUT)
        self.export()
        self.verify(size=2 * MIB)
        self.assertNotIn('lost the connection', self.daemon.log())

    def test_minimum_block_size(self):
        """What is smaller is read, changed and written, and the server sees only what it wants."""
        log = self.path('log')
        os.truncate(self.image, self.SIZE + 1000)  # an odd end, which no block holds
        server = servers.nbdkit(self, 's', f'file={self.image}', '--filter=log', f'logfile={log}',
                                '--filter=blocksize-policy', 'blocksize-minimum=4096', 'blocksize-maximum=64K',
                                'blocksize-error-policy=error')
        self.start()
        self.add(server.path, discard='unmap')
        self.export()
        self.assertEqual(self.SIZE, os.stat(self.mnt).st_size)
        worker, fd = self.open()
        model = bytearray(self.SIZE)
        rng = random.Random(4)
        for n in range(100):
            offset, length = rng.randrange(self.SIZE - 200000), rng.choice([1, 511, 512, 5000, 150000])
            data = rng.randbytes(length) if n % 4 else bytes(length)
            if n % 4:
                worker.pwrite(fd, data, offset)
            else:
                worker.fallocate(fd, FALLOC_PUNCH, offset, length)
            model[offset:offset + length] = data
        worker.fsync(fd)
        with open(self.image, 'rb') as f:
            self.assertEqual(model, f.read(self.SIZE))
        with open(log, encoding='utf-8') as f:
            requests = re.findall(r' (Read|Write|Zero|Trim) id=\d+ offset=(\S+) count=(\S+)', f.read())
        self.assertGreater(len(requests), 100)
        for kind, offset, count in requests:
            self.assertEqual(0, (int(offset, 0) | int(count, 0)) % 4096, (kind, offset, count))
            self.assertTrue(int(count, 0) <= 65536 or kind in ('Zero', 'Trim'), (kind, offset, count))


class Opening(NbdTest):
    def test_what_is_wrong(self):
        server = servers.qsd(self, 's', self.image)
        self.start()
        self.assert_refused(self.path('none'), self.path('none'), 'No such file')
        self.assert_refused(server.path, "'nope'", export='nope')
        self.assert_refused(server.path, 'x-dirty-bitmap', export='e', x_dirty_bitmap='b')
        self.assert_refused(server.path, 'tls-hostname', export='e', tls_hostname='a')
        self.assert_refused(server.path, "'nope'", export='e', tls_creds='nope')
        self.assert_refused(server.path, '4096', export='x' * 4097)
        error = self.refused('blockdev-add', {
            'driver': 'nbd', 'node-name': 'n', 'server': {'type': 'vsock', 'cid': '2', 'port': '10809'}})
        self.assertIn('vsock', error)
        for host, port, word in (('127.0.0.1', str(free_port()), 'refused'), ('nonexistent.invalid', '1', 'resolve'),
                                 ('127.0.0.1', '99999', '99999')):
            error = self.refused('blockdev-add', {
                'driver': 'nbd', 'node-name': 'n', 'server': {'type': 'inet', 'host': host, 'port': port}})
            self.assertIn(word, error)
        self.add(server.path, export='e')

    def test_open_timeout(self):
        """A server that comes a little later is waited for."""
        self.start()
        begun = []

        def later():
            time.sleep(1.5)
            begun.append(servers.qemu_nbd(self, 's', self.image))
        thread = threading.Thread(target=later)
        thread.start()
        self.add(self.path('s'), open_timeout=TIMEOUT)
        thread.join()
        self.assertEqual('n', self.daemon.qmp.cmd('query-named-block-nodes')[0]['node-name'])

    def test_open_timeout_passes(self):
        self.start()
        before = time.monotonic()
        self.assert_refused(self.path('none'), 'No such file', open_timeout=1)
        self.assertGreater(time.monotonic() - before, 0.5)

    def test_silent_server(self):
        """It accepts, and says nothing."""
        fake = servers.Fake(self, 's', lambda sock: sock.recv(1))
        self.start()
        self.assert_refused(fake.path, 'in time', open_timeout=1)

    def test_quit_while_opening(self):
        fake = servers.Fake(self, 's', lambda sock: sock.recv(1))
        self.start()
        self.daemon.qmp.send({'execute': 'blockdev-add', 'arguments': self.options(fake.path, open_timeout=600)})
        wait_until(lambda: fake.connections)
        other = self.daemon.qmp_client()
        other.cmd('quit')
        self.assertEqual(0, self.daemon.wait())

    # How far a server goes before it says nothing more.
    @staticmethod
    def stages():
        def greeting(sock):
            servers.greet(sock)

        def option(sock):
            servers.greet(sock)
            servers.take_option(sock)

        def tls(sock):
            servers.greet(sock)
            servers.reply_option(sock, servers.take_option(sock), servers.REP_ACK)
        return {'accepted': (lambda sock: None, False), 'greeted': (greeting, False), 'asked': (option, False),
                'accepted-tls': (lambda sock: None, True), 'asked-tls': (option, True), 'began-tls': (tls, True)}

    def test_quit_at_each_stage(self):
        for stage, (talk, tls) in self.stages().items():
            with self.subTest(stage):
                silent = threading.Event()

                def serve(sock, silent=silent, talk=talk):
                    talk(sock)
                    silent.set()
                    sock.recv(1 << 16)
                    sock.recv(1)
                fake = servers.Fake(self, stage, serve)
                self.start('--object', f'tls-creds-psk,id=c,dir={self.psk()},endpoint=client')
                self.daemon.qmp.send({'execute': 'blockdev-add', 'arguments': self.options(
                    fake.path, open_timeout=600, **({'tls_creds': 'c'} if tls else {}))})
                self.assertTrue(silent.wait(TIMEOUT))
                before = time.monotonic()
                self.daemon.qmp_client().cmd('quit')
                self.assertEqual(0, self.daemon.wait())
                self.assertLess(time.monotonic() - before, 10)

    def psk(self):
        directory = self.path('psk')
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, 'keys.psk'), 'w', encoding='ascii') as f:
            f.write('qemu:00112233445566778899aabbccddeeff\n')
        return directory

    def test_del_at_each_stage(self):
        """The server was there, and its successor says nothing more from somewhere on."""
        for stage, (talk, _) in list(self.stages().items())[:3]:
            with self.subTest(stage):
                silent = threading.Event()

                def serve(sock, silent=silent, talk=talk):
                    if fake.connections == 1:
                        servers.negotiate(sock)
                        sock.recv(1)
                        return
                    talk(sock)
                    silent.set()
                    sock.recv(1 << 16)
                    sock.recv(1)
                fake = servers.Fake(self, stage, serve)
                self.start()
                self.add(fake.path, reconnect_delay=3600)
                fake.open[0].shutdown(2)
                self.assertTrue(silent.wait(TIMEOUT))
                before = time.monotonic()
                self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n'})
                self.assertLess(time.monotonic() - before, 10)
                self.daemon.quit()

    def test_others_go_on_meanwhile(self):
        fake = servers.Fake(self, 's', lambda sock: sock.recv(1))
        self.start()
        self.daemon.qmp.send({'execute': 'blockdev-add', 'arguments': self.options(fake.path, open_timeout=3)})
        other = self.daemon.qmp_client()
        wait_until(lambda: fake.connections)
        other.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'm'})

    def test_inherited_descriptor(self):
        server = servers.nbdkit(self, 's', f'file={self.image}')
        with socket_to(server.path) as sock:
            os.set_inheritable(sock.fileno(), True)
            self.daemon = self.wharfd(pass_fds=[sock.fileno()])
            number = sock.fileno()
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'nbd', 'node-name': 'n', 'reconnect-delay': 60, 'server': {'type': 'fd', 'str': str(number)}})
        server.kill()
        self.daemon.wait_log('lost the connection')
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n'})


@fuse_test
class GoingAway(NbdTest):
    """Servers that are killed, stopped, and come back."""

    def test_reconnect(self):
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.start()
        self.add(server.path, reconnect_delay=TIMEOUT)
        self.export()
        failed = []

        def verify():
            try:
                for _ in range(3):
                    self.verify('--rate=4m', '--norandommap=0', size=2 * MIB)
            except AssertionError as e:
                failed.append(e)
        thread = threading.Thread(target=verify)
        thread.start()
        for _ in range(4):
            time.sleep(0.3)
            server.kill()
            time.sleep(0.2)
            server.start()
        thread.join()
        self.assertEqual([], failed)
        self.assertIn('connected to', self.daemon.log())

    def test_cut_anywhere(self):
        """Connections end after a random number of bytes, in the middle of replies too."""
        # Not nbdkit, which may die of an assertion when a connection goes in the middle of a reply.
        server = servers.qemu_nbd(self, 'far', self.image)
        proxy = servers.Proxy(self.path('s'), server.path, 1, (50000, 1500000))
        self.addCleanup(proxy.close)
        self.start()
        self.add(self.path('s'), reconnect_delay=TIMEOUT)
        self.export()
        self.verify()
        self.assertGreater(proxy.cuts, 2)
        proxy.cut_after = None
        with open(self.image, 'rb') as image:
            self.assertEqual(image.read(), self.read(0, self.SIZE))

    def test_cut_below_two_exports(self):
        """Few requests at a time, of two iothreads, while their node is reopened and its connection cut."""
        path = self.path('own')
        server = servers.qemu_nbd(self, 'far', self.image)
        proxy = servers.Proxy(self.path('s'), server.path, 2, (50000, 1500000))
        self.addCleanup(proxy.close)
        self.start('--object', 'iothread,id=t0', '--object', 'iothread,id=t1', '--nbd-server',
                   f'addr.type=unix,addr.path={path}')
        self.add(self.path('s'), reconnect_delay=TIMEOUT, keeps_writes=True)
        raw = {'driver': 'raw', 'node-name': 'top', 'file': 'n'}
        self.daemon.qmp.cmd('blockdev-add', raw)
        self.export('top', iothread='t0')
        self.daemon.qmp.cmd('block-export-add', {
            'type': 'nbd', 'id': 'e1', 'node-name': 'top', 'name': 'x', 'writable': True, 'iothread': 't1'})
        options = ('--rw=randwrite', '--bsrange=512-16k', '--blockalign=512', '--verify=crc32c', '--verify_fatal=1',
                   '--verify_state_save=0', '--size=2m')
        loads = [subprocess.Popen([find_tool('fio'), f'--name=verify{n}', *options, *own], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, cwd=self.dir) for n, own in enumerate((
                                      (f'--filename={self.mnt}', '--ioengine=libaio', '--direct=1', '--iodepth=2'),
                                      ('--ioengine=nbd', f'--uri=nbd+unix:///x?socket={path}', '--iodepth=3',
                                       '--offset=4m')))]
        for load in loads:
            self.addCleanup(load.kill)
        while any(load.poll() is None for load in loads):
            self.daemon.qmp.cmd('blockdev-reopen', {'options': [raw]})
            time.sleep(0.05)
        for load in loads:
            self.assertEqual(0, load.returncode, load.stdout.read())
        self.assertGreater(proxy.cuts, 2)

    def test_without_delay(self):
        """Requests fail while it is away, at once, and work when it is back."""
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.start()
        self.add(server.path)
        self.export()
        self.write(0, b'a' * 4096)
        server.kill()
        self.daemon.wait_log('lost the connection')
        self.assertTrue(self.fails_to_read())
        server.start()
        self.daemon.wait_log('again')
        wait_until(lambda: not self.fails_to_read())
        self.assertEqual(b'a' * 4096, self.read(0, 4096))

    def test_delay_passes(self):
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.start()
        self.add(server.path, reconnect_delay=1)
        self.export()
        server.kill()
        self.assertTrue(self.fails_to_read())
        self.daemon.wait_log('requests fail now')

    def test_stopped_server(self):
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.start()
        self.add(server.path, reply_timeout=1)
        self.export()
        server.freeze()
        self.assertTrue(self.fails_to_read())
        self.assertIn('does not answer', self.daemon.log())
        server.thaw()
        wait_until(lambda: not self.fails_to_read())

    def test_quit_with_stopped_server(self):
        """Nobody waits for it at the end, even though nothing limits how long it may take."""
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.start()
        self.add(server.path, reconnect_delay=3600)
        self.export()
        fs = self.fs()
        server.freeze()
        fs.start('read_file', self.mnt, 0, 4096)
        self.daemon.quit()

    def test_quit_with_dead_server(self):
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.start()
        self.add(server.path, reconnect_delay=3600)
        self.export()
        server.kill()
        self.daemon.wait_log('lost the connection')
        reader = threading.Thread(target=self.fails_to_read)
        reader.start()
        self.daemon.quit()
        reader.join()

    def test_del_with_stopped_server(self):
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.start()
        self.add(server.path)
        server.freeze()
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n'})
        self.assertNotIn('nbd-n', self.daemon.threads())

    def test_smaller_and_larger(self):
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.start()
        self.add(server.path)
        self.export()
        server.kill()
        os.truncate(self.image, self.SIZE // 2)
        server.start()
        self.daemon.wait_log('has shrunk')
        self.assertTrue(self.fails_to_read())
        server.kill()
        os.truncate(self.image, 2 * self.SIZE)
        server.start()
        self.daemon.wait_log('again')
        wait_until(lambda: not self.fails_to_read())
        self.assertEqual(self.SIZE, os.stat(self.mnt).st_size)

    def test_becomes_read_only(self):
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.start()
        self.add(server.path)
        self.export()
        server.kill()
        server.command.insert(1, '-r')
        server.start()
        self.daemon.wait_log('read-only')
        self.assertTrue(self.fails_to_read())

    def test_becomes_read_only_unnoticed(self):
        """While nobody wrote: whoever wants to later is refused, and let in when it is writable again."""
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.start()
        self.add(server.path)
        self.export(writable=False)
        server.kill()
        server.command.insert(1, '-r')
        server.start()
        wait_until(lambda: not self.fails_to_read())
        self.assertIn('read-only', self.refused('block-export-add', {
            'type': 'fuse', 'id': 'e1', 'node-name': 'n', 'mountpoint': self.mountpoint('w'), 'writable': True}))
        server.kill()
        server.command.remove('-r')
        server.start()
        wait_until(lambda: not self.fails_to_read())
        self.daemon.qmp.cmd('block-export-del', {'id': 'e0', 'mode': 'hard'})
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED')
        self.export()
        self.write(0, b'w' * 4096)

    def test_leaves_nothing(self):
        """Descriptors and threads, after many connections."""
        server = servers.nbdkit(self, 's', f'file={self.image}')
        self.start()
        before = self.held()
        for _ in range(5):
            self.add(server.path)
            server.kill()
            server.start()
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n'})
        wait_until(lambda: self.held() == before, what=f'{before} and not {self.held()}')

    def held(self):
        threads = [name for name in self.daemon.threads() if name.startswith('nbd')]
        return sorted(what for what in self.daemon.fds().values() if what.startswith('socket')), threads


@fuse_test
class Forgetful(NbdTest):
    """Servers that crash, and forget what they have acknowledged and nobody has flushed."""

    def begin(self, **options):
        self.server = servers.nbdkit(self, 's', f'{self.SIZE}', plugin='memory')
        self.start()
        self.add(self.server.path, reconnect_delay=TIMEOUT, **options)
        self.export()
        self.fs1 = self.fs()
        self.fd = self.fs1.open(self.mnt, os.O_RDWR)

    def crash(self):
        self.server.kill()
        self.server.start()

    def test_fsync_fails_once(self):
        self.begin()
        self.assertEqual(4, self.fs1.pwrite(self.fd, b'gone', 0))
        self.crash()
        self.assertEqual(bytes(4), self.fs1.pread(self.fd, 4, 0))
        self.assert_errno(errno.EIO, self.fs1.fsync, self.fd)
        self.daemon.wait_log('was lost with 1 unflushed writes')
        self.fs1.fsync(self.fd)
        # What was flushed is the server's affair.
        self.fs1.pwrite(self.fd, b'kept', 0)
        self.fs1.fsync(self.fd)
        self.crash()
        self.fs1.pwrite(self.fd, b'more', 8)
        self.fs1.fsync(self.fd)

    def test_writethrough(self):
        """A write that is to be stable is done when it is, so what was lost before is no loss."""
        self.server = servers.Forgetful(self, 's', bytes(self.SIZE))
        self.start()
        self.add(self.server.path, reconnect_delay=TIMEOUT)
        self.export(writethrough=True)
        plain = self.mountpoint('plain')
        self.daemon.qmp.cmd('block-export-add', {
            'type': 'fuse', 'id': 'e1', 'node-name': 'n', 'mountpoint': plain, 'writable': True})
        self.fs1 = self.fs()
        through, fd = (self.fs1.open(path, os.O_RDWR) for path in (self.mnt, plain))
        for turn in range(4):
            self.server.crash_at = servers.CMD_FLUSH
            self.fs1.pwrite(through, b'kept%d' % turn, 0)
            self.assertIsNone(self.server.crash_at)
            self.assertEqual(b'kept%d' % turn, bytes(self.server.data[:5]))
            self.fs1.pwrite(fd, b'plain', 8)
            self.fs1.fsync(fd)

    def test_trusted(self):
        self.begin(keeps_writes=True)
        self.fs1.pwrite(self.fd, b'kept', 0)
        self.crash()
        self.fs1.fsync(self.fd)


@fuse_test
class ForgetfulBelowQcow2(NbdTest):
    """What the server forgets are tables, too: the image must not become corrupt by what follows."""

    DISK = 4 * MIB
    BLOCK = 4096

    def begin(self, seed):
        image = self.path(f'{seed}.qcow2')
        run(find_tool('qemu-img'), 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', image, self.DISK)
        os.truncate(image, 2 * self.DISK)
        with open(image, 'rb') as f:
            self.server = servers.Forgetful(self, f's{seed}', f.read(), seed)
        self.start()
        self.add_image()
        return image

    def add_image(self):
        self.image_options = {
            'driver': 'qcow2', 'node-name': 'q', 'refcount-cache-size': 16384, 'l2-cache-size': 16384,
            'file': self.options(self.server.path, node_name='f', reconnect_delay=TIMEOUT)}
        self.daemon.qmp.cmd('blockdev-add', self.image_options)
        self.export('q')

    def go_through(self, seed):
        image = self.begin(seed)
        rng = random.Random(seed)
        worker = self.fs()
        fd = worker.open(self.mnt, os.O_RDWR)
        possible = {}  # block: what it may hold, the last write at the end
        last = {}  # block: how many syncs had failed when it was last written
        failures = 0
        self.server.crash_rate = 0.03
        for _ in range(12):
            for _ in range(rng.randrange(1, 20)):
                block, byte = rng.randrange(self.DISK // self.BLOCK), rng.randrange(1, 256)
                possible.setdefault(block, [0]).append(byte)
                last[block] = failures
                try:
                    worker.pwrite(fd, bytes([byte]) * self.BLOCK, block * self.BLOCK)
                except OSError as e:
                    self.assertEqual(errno.EIO, e.errno)
                    last[block] = None
            try:
                worker.fsync(fd)
                possible = {block: held[-1:] if last[block] == failures else held
                            for block, held in possible.items()}
            except OSError as e:
                self.assertEqual(errno.EIO, e.errno)
                failures += 1
        worker.kill()
        self.daemon.kill()
        unmount(self.mnt)
        self.assert_sound(image, possible)
        return failures

    def assert_sound(self, image, possible):
        with open(image, 'wb') as f:
            f.write(self.server.data)
        done = run(find_tool('qemu-img'), 'check', image, check=False)
        self.assertIn(done.returncode, (0, 3), done.stdout + done.stderr)  # 3: leaks
        raw = self.path('raw')
        run(find_tool('qemu-img'), 'convert', '-O', 'raw', image, raw)
        with open(raw, 'rb') as f:
            data = f.read()
        for block in range(self.DISK // self.BLOCK):
            held = data[block * self.BLOCK:(block + 1) * self.BLOCK]
            self.assertIn(held[0], possible.get(block, [0]), f'block {block}')
            self.assertEqual(bytes(held[:1]) * self.BLOCK, held, f'block {block}')

    def test_opened_anew(self):
        """Nothing more is written, until the image is read anew."""
        image = self.begin(0)
        worker = self.fs()
        fd = worker.open(self.mnt, os.O_RDWR)
        worker.pwrite(fd, b'1' * 4096, 0)
        worker.fsync(fd)
        worker.pwrite(fd, b'2' * 4096, 4096)
        self.server.crash()
        for _ in range(2):
            self.assert_errno(errno.EIO, worker.fsync, fd)
        self.assert_errno(errno.EIO, worker.pwrite, fd, b'3' * 4096, 0)
        self.assertEqual(b'1' * 4096, worker.pread(fd, 4096, 0))
        self.assertIn('has lost something', self.daemon.log())
        self.assertIn('delete the node', self.refused('blockdev-reopen', {
            'options': [{**self.image_options, 'file': 'f', 'l2-cache-size': 32768}]}))
        self.assert_errno(errno.EIO, worker.close, fd)
        self.daemon.qmp.cmd('block-export-del', {'id': 'e0'})
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED')
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'q'})
        self.add_image()
        self.assertEqual(b'1' * 4096, self.read(0, 4096))
        self.write(4096, b'4' * 4096)
        self.daemon.quit()
        self.assert_sound(image, {0: b'1', 1: b'4'})

    def test_random(self):
        self.assertGreater(sum(self.go_through(seed) for seed in range(6)), 3)


class Hostile(NbdTest):
    """Servers that do not keep to the protocol. Each is refused, soon, and nothing is left."""

    HANDSHAKES = (
        b'', b'N', b'NBDMAGIC', b'NBDMAGIX' + bytes(200), b'HTTP/1.1 400 Bad Request\r\n\r\n' + bytes(200),
        b'NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53' + struct.pack('>QI', 1 << 20, 0) + bytes(124)[:100],
        b'NBDMAGICIHAVEOPX\x00\x03',
        b'NBDMAGICIHAVEOPT\x00\x03' + b'\xff' * 4096,
        b'NBDMAGICIHAVEOPT\x00\x03' + bytes(4096),
        b'NBDMAGICIHAVEOPT\x00\x03' + struct.pack('>QIII', servers.REPLY_MAGIC, 8, 1, 0xffffffff) + bytes(4096),
        b'NBDMAGICIHAVEOPT\x00\x03' + struct.pack('>QIII', servers.REPLY_MAGIC, 7, 1, 0),
        b'NBDMAGICIHAVEOPT\x00\x03' + struct.pack('>QIII', servers.REPLY_MAGIC, 8, 0xffffffff, 0) * 100,
    )

    def test_handshakes(self):
        script = [b'']
        fake = servers.Fake(self, 's', lambda sock: (sock.sendall(script[0]), sock.shutdown(1), sock.recv(65536)))
        self.start()
        for script[0] in self.HANDSHAKES:
            self.assert_refused(fake.path, fake.path)

    def test_handshakes_before_tls(self):
        script = [b'']
        fake = servers.Fake(self, 's', lambda sock: (sock.sendall(script[0]), sock.shutdown(1), sock.recv(65536)))
        self.start('--object', f'tls-creds-psk,id=c,dir={servers.make_certificates(self.path("pki"))}')

        def reply(option, kind, length, data=b''):
            return (b'NBDMAGICIHAVEOPT\x00\x03' +
                    struct.pack('>QIII', servers.REPLY_MAGIC, option, kind, length) + data)
        for script[0] in (*self.HANDSHAKES, b'NBDMAGICIHAVEOPT\x00\x02', reply(5, 1, 0), reply(5, 1, 0, b'x' * 999),
                          reply(5, 1, 4, b'abcd'), reply(5, 2, 0), reply(6, 1, 0),
                          reply(5, servers.REP_ERR_POLICY, 0xffffffff, b'x' * 9999),
                          reply(5, servers.REP_ERR_POLICY, 3, b'\xff\xfe\x00')):
            self.assert_refused(fake.path, fake.path, tls_creds='c')
        script[0] = reply(5, servers.REP_ERR_POLICY, 9, b'not today')
        self.assert_refused(fake.path, 'refuses TLS: not today', tls_creds='c')
        script[0] = reply(5, servers.REP_ERR_POLICY, 8, b'\x1b[2Jn\xff\ro')
        self.assert_refused(fake.path, 'refuses TLS: \\x1b[2Jn\\xff\\x0do', tls_creds='c')

    def test_sizes(self):
        size = [0]
        fake = servers.Fake(self, 's', lambda sock: (servers.negotiate(sock, size[0]), sock.recv(1)))
        self.start()
        for size[0] in (1 << 63, (1 << 64) - 1):
            self.assert_refused(fake.path, fake.path)
        for size[0] in (0, 1, 511, 1 << 40):
            self.add(fake.path)
            self.assertEqual((size[0] + 511) // 512 * 512,
                             self.daemon.qmp.cmd('query-named-block-nodes')[0]['image']['virtual-size'])
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n'})


@fuse_test
class HostileReplies(NbdTest):
    def test_replies(self):
        """Whatever the server answers, the read fails, and the daemon lives."""
        answer = [None]

        def talk(sock):
            servers.negotiate(sock)
            while True:
                _, _, cookie, _, length = servers.take_request(sock)
                sock.sendall(answer[0](cookie, length))
        fake = servers.Fake(self, 's', talk)
        self.start()
        for answer[0] in (
                lambda cookie, length: b'\xff' * 4096,
                lambda cookie, length: bytes(4096),
                lambda cookie, length: struct.pack('>IIQ', 0x67446698, 5, cookie),
                lambda cookie, length: struct.pack('>IIQ', 0x67446698, 0, cookie + 1) + bytes(length),
                lambda cookie, length: struct.pack('>IIQ', 0x67446698, 0xffffffff, cookie),
                lambda cookie, length: struct.pack('>IHHQI', 0x668e33ef, 1, 1, cookie, 0xffffffff) + bytes(4096)):
            self.add(fake.path)
            self.export(writable=False)
            self.assertNotEqual(0, run('dd', f'if={self.mnt}', 'of=/dev/null', 'bs=4k', 'count=1', 'iflag=direct',
                                       check=False).returncode)
            self.daemon.qmp.cmd('block-export-del', {'id': 'e0', 'mode': 'hard'})
            self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED')
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n'})

    def test_structured_replies(self):
        """The same where replies come in pieces: a piece that is missing is not made up."""
        answer = [None]

        def talk(sock):
            servers.negotiate(sock, structured=True)
            while True:
                _, _, cookie, offset, length = servers.take_request(sock)
                sock.sendall(answer[0](cookie, offset, length))

        def chunk(kind, cookie, payload=b'', done=True):
            return struct.pack('>IHHQI', 0x668e33ef, done, kind, cookie, len(payload)) + payload

        def data(offset, length):
            return struct.pack('>Q', offset) + b'x' * length

        def hole(offset, length):
            return struct.pack('>QI', offset, length)
        fake = servers.Fake(self, 's', talk)
        self.start()
        for answer[0] in (
                lambda cookie, offset, length: chunk(0, cookie),
                lambda cookie, offset, length: chunk(1, cookie, data(offset, 512)),
                lambda cookie, offset, length: chunk(1, cookie, data(offset + 512, length)),
                lambda cookie, offset, length: chunk(1, cookie, data(offset - 512, length)),
                lambda cookie, offset, length: chunk(2, cookie, hole(offset, 512)),
                lambda cookie, offset, length: chunk(2, cookie, hole(offset, 0xffffffff)),
                lambda cookie, offset, length: chunk(2, cookie, hole(1 << 63, 512)),
                lambda cookie, offset, length: chunk(2, cookie, hole(offset, length // 2), False) + chunk(
                    2, cookie, hole(offset, length // 2)),
                lambda cookie, offset, length: chunk(5, cookie, struct.pack('>III', 1, 4096, 0)),
                lambda cookie, offset, length: chunk(0x8001, cookie, b'')):
            self.add(fake.path)
            self.export(writable=False)
            self.assertTrue(self.fails_to_read())
            self.daemon.qmp.cmd('block-export-del', {'id': 'e0', 'mode': 'hard'})
            self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED')
            self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n'})

    def test_nothing_comes_late(self):
        """What has not left when a connection is lost never does: it would come after its repetition."""
        over = threading.Event()

        def talk(sock):
            servers.negotiate(sock, 32 * MIB)
            if fake.connections == 1:
                servers.take_request(sock)
                sock.sendall(b'\xff' * 16)  # no reply
                over.wait(TIMEOUT)
                return
            while True:
                _, kind, cookie, _, length = servers.take_request(sock)
                if kind == servers.CMD_WRITE:
                    servers.receive(sock, length)
                sock.sendall(struct.pack('>IIQ', servers.SIMPLE_REPLY_MAGIC, 0, cookie))
        fake = servers.Fake(self, 's', talk, tcp=True)
        self.start()
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'nbd', 'node-name': 'n', 'reconnect-delay': TIMEOUT,
            'server': {'type': 'inet', 'host': '127.0.0.1', 'port': str(fake.port)}})
        self.export()
        run('dd', 'if=/dev/zero', f'of={self.mnt}', 'bs=16M', 'count=1', 'oflag=direct', 'conv=notrunc')
        left = 0
        try:
            with self.assertRaises(ConnectionResetError):
                while True:
                    got = len(fake.open[0].recv(MIB))
                    self.assertGreater(got, 0, 'the connection was ended in peace')
                    left += got
        finally:
            over.set()
        self.assertLess(left, 16 * MIB)

    def test_dies_of_each_request(self):
        """A request that kills the server each time is not tried for ever."""
        def talk(sock):
            servers.negotiate(sock)
            servers.take_request(sock)
        fake = servers.Fake(self, 's', talk)
        self.start()
        self.add(fake.path, reconnect_delay=2)
        self.export(writable=False)
        self.assertTrue(self.fails_to_read())
        self.assertGreater(fake.connections, 1)

    def test_says_that_it_shuts_down(self):
        """ESHUTDOWN: the request is carried out by the next connection."""
        state = {'connections': 0}

        def talk(sock):
            state['connections'] += 1
            first = state['connections'] == 1
            servers.negotiate(sock)
            while True:
                _, kind, cookie, _, length = servers.take_request(sock)
                if first:
                    sock.sendall(struct.pack('>IIQ', 0x67446698, 108, cookie))
                else:
                    sock.sendall(struct.pack('>IIQ', 0x67446698, 0, cookie) + (b'y' * length if kind == 0 else b''))
        fake = servers.Fake(self, 's', talk)
        self.start()
        self.add(fake.path, reconnect_delay=TIMEOUT)
        self.export(writable=False)
        self.assertEqual(b'y' * 4096, self.read(0, 4096))


@fuse_test
class Tls(NbdTest):
    def setUp(self):
        super().setUp()
        self.pki = servers.make_certificates(self.path('pki'))

    def creds(self, kind, name='c', **properties):
        self.daemon.qmp.cmd('object-add', {
            'qom-type': f'tls-creds-{kind}', 'id': name, 'dir': self.pki,
            **{k.replace('_', '-'): v for k, v in properties.items()}})

    def x509_server(self, *tls):
        return servers.nbdkit(self, 's', f'file={self.image}', tls=[
            '--tls=require', f'--tls-certificates={self.pki}', *tls])

    def test_x509(self):
        server = self.x509_server('--tls-verify-peer')
        self.start()
        self.creds('x509')
        self.add(server.path, tls_creds='c', tls_hostname='localhost')
        self.export()
        self.verify()
        error = self.refused('object-del', {'id': 'c'})
        self.assertIn("block node 'n'", error)
        self.daemon.qmp.cmd('block-export-del', {'id': 'e0'})
        self.daemon.qmp.wait_event('BLOCK_EXPORT_DELETED')
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'n'})
        self.daemon.qmp.cmd('object-del', {'id': 'c'})

    def test_psk(self):
        server = servers.nbdkit(self, 's', f'file={self.image}', tls=[
            '--tls=require', f'--tls-psk={self.pki}/keys.psk'])
        self.start()
        self.creds('psk')
        self.add(server.path, tls_creds='c')
        self.export()
        self.verify()

    def test_qsd_with_authz(self):
        """QSD as the server lets in whom our own rules would let in: identities are written alike."""
        server = servers.qsd(
            self, 's', self.image, '--object', f'tls-creds-x509,id=s,endpoint=server,dir={self.pki}',
            '--object', 'authz-simple,id=z,identity=O=Example,,CN=backup', tls=',tls-creds=s,tls-authz=z')
        self.start()
        self.creds('x509')
        self.add(server.path, export='e', tls_creds='c')
        self.export()
        self.verify()

    def test_refused(self):
        server = self.x509_server('--tls-verify-peer')
        clear = servers.nbdkit(self, 'clear', f'file={self.image}')
        self.start()
        self.creds('x509')
        self.creds('psk', 'p')
        self.creds('x509', 's', endpoint='server')
        self.assert_refused(server.path, 'TLS')
        self.assert_refused(server.path, 'name', tls_creds='c', tls_hostname='example.org')
        self.assert_refused(server.path, 'TLS', tls_creds='p')
        self.assert_refused(server.path, 'server', 'client', tls_creds='s')
        self.assert_refused(clear.path, 'refuses TLS', tls_creds='c')
        os.unlink(os.path.join(self.pki, 'client-cert.pem'))
        os.unlink(os.path.join(self.pki, 'client-key.pem'))
        self.creds('x509', 'd')
        self.assert_refused(server.path, '', tls_creds='d')

    def test_reconnect(self):
        server = self.x509_server()
        self.start()
        self.creds('x509')
        # Nothing is read again later.
        shutil.move(self.pki, self.path('moved'))
        os.mkdir(self.pki)
        shutil.copytree(self.path('moved'), self.pki, dirs_exist_ok=True)
        self.add(server.path, tls_creds='c', reconnect_delay=TIMEOUT)
        os.unlink(os.path.join(self.pki, 'client-cert.pem'))
        self.export()
        for number in range(3):
            server.kill()
            server.start()
            self.write(0, bytes([number]) * 100000)
            self.assertEqual(bytes([number]) * 100000, self.read(0, 100000))

    def test_cut_anywhere(self):
        server = servers.qsd(self, 'far', self.image, '--object',
                             f'tls-creds-psk,id=s,endpoint=server,dir={self.pki}', tls=',tls-creds=s')
        proxy = servers.Proxy(self.path('s'), server.path, 2, (50000, 1500000))
        self.addCleanup(proxy.close)
        self.start()
        self.creds('psk')
        self.add(self.path('s'), export='e', tls_creds='c', reconnect_delay=TIMEOUT)
        self.export()
        self.verify()
        self.assertGreater(proxy.cuts, 2)

    def test_stopped_server(self):
        server = self.x509_server()
        self.start()
        self.creds('x509')
        self.add(server.path, tls_creds='c', reply_timeout=1)
        self.export()
        server.freeze()
        self.assertTrue(self.fails_to_read())
        self.daemon.quit()


def free_port():
    with inet_socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def inet_socket():
    import socket
    return socket.socket()


def socket_to(path):
    import socket
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


if __name__ == '__main__':
    main()
