# SPDX-License-Identifier: GPL-2.0-or-later
"""Internal snapshots of qcow2 images, taken, applied and deleted by the daemon and by QEMU's tools."""

import json
import os
import random
import struct
import threading

from wharf import *
from wharf.qcow2 import KIB, MIB, Qcow2WriteTest

CREATE = 'blockdev-snapshot-internal-sync'
DELETE = 'blockdev-snapshot-delete-internal-sync'
APPLY = 'blockdev-snapshot-apply-internal-sync'


class SnapshotTest(Qcow2WriteTest):
    SIZE = 3 * MIB

    def snapshots(self, image):
        """What QEMU lists, by name."""
        info = json.loads(run(self.qemu_img, 'info', '--output=json', image).stdout)
        return {s['name']: s for s in info.get('snapshots', [])}

    def reads(self, image, *options):
        """What QEMU reads."""
        path = self.path('reads.raw')
        run(self.qemu_img, 'convert', *options, '-f', 'qcow2', '-O', 'raw', image, path)
        with open(path, 'rb') as f:
            return f.read()

    def scribble_mounted(self, mountpoint, seed):
        rng = random.Random(seed)
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDWR)
        for _ in range(20):
            length = rng.choice([1, 512, 4096, 30000, 100000])
            worker.pwrite(fd, rng.randbytes(50) * (length // 50 + 1), rng.randrange(self.SIZE - length - 50))
        worker.close(fd)

    def content(self, mountpoint):
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDONLY)
        data = b''
        while piece := worker.pread(fd, MIB, len(data)):
            data += piece
        worker.close(fd)
        return data

    def kinds_of_snapshots(self):
        for kind in self.kinds():
            if kind.get('refcount_bits', 16) >= 8:
                yield kind


class MatrixTest(SnapshotTest):
    @timeout(600)
    def test_both_ways(self):
        """Each side takes, reads, applies and deletes snapshots of the other."""
        daemon = self.wharfd()
        for n, kind in enumerate(self.kinds_of_snapshots()):
            with self.subTest(**kind):
                self.go_through(daemon, kind, n)

    def go_through(self, daemon, kind, seed):
        image = self.create('image.qcow2', self.SIZE, **kind)
        self.scribble(image, self.SIZE, seed)
        run(self.qemu_img, 'snapshot', '-c', 'theirs', image)
        theirs = self.reads(image)
        mountpoint = self.open(daemon, image)
        self.scribble_mounted(mountpoint, seed)
        daemon.qmp.cmd(CREATE, {'device': 'q', 'name': 'ours'})
        ours = self.content(mountpoint)
        self.scribble_mounted(mountpoint, seed + 1000)
        now = self.content(mountpoint)
        self.remove(daemon)
        self.check(image)
        self.assertEqual(set(self.snapshots(image)), {'theirs', 'ours'})
        self.assertEqual(self.reads(image), now)
        self.assertEqual(self.reads(image, '-l', 'ours'), ours)
        self.assertEqual(self.reads(image, '-l', 'theirs'), theirs)
        # Ours reads theirs.
        for name, content in [('theirs', theirs), ('ours', ours)]:
            self.add(daemon, image, snapshot=name)
            self.assertEqual(self.content(self.export(daemon)), content)
            self.remove(daemon)
        # They apply ours, we apply theirs, and each deletes one.
        run(self.qemu_img, 'snapshot', '-a', 'ours', image)
        self.check(image)
        self.assertEqual(self.reads(image), ours)
        mountpoint = self.open(daemon, image)
        self.assertEqual(self.content(mountpoint), ours)
        daemon.qmp.cmd(APPLY, {'device': 'q', 'name': 'theirs'})
        self.assertEqual(self.content(mountpoint), theirs)
        daemon.qmp.cmd(DELETE, {'device': 'q', 'name': 'theirs'})
        self.scribble_mounted(mountpoint, seed + 2000)
        now = self.content(mountpoint)
        self.remove(daemon)
        self.check(image)
        self.assertEqual(self.reads(image), now)
        run(self.qemu_img, 'snapshot', '-d', 'ours', image)
        self.check(image)
        self.assertEqual(self.reads(image), now)

    @timeout(300)
    def test_backing(self):
        """What the overlay lacks stays with the backing file."""
        daemon = self.wharfd()
        base = self.make_file('base.raw', 2 * MIB, random.Random(1).randbytes(2 * MIB))
        for extended in ['off', 'on']:
            image = self.create('image.qcow2', self.SIZE, backing=base, backing_format='raw',
                                extended_l2=extended)
            mountpoint = self.open(daemon, image)
            before = self.content(mountpoint)
            daemon.qmp.cmd(CREATE, {'device': 'q', 'name': 'empty'})
            self.scribble_mounted(mountpoint, 5)
            daemon.qmp.cmd(APPLY, {'device': 'q', 'name': 'empty'})
            self.assertEqual(self.content(mountpoint), before)
            self.remove(daemon)
            self.check(image)

    @timeout(300)
    def test_compressed(self):
        daemon = self.wharfd()
        source = self.make_file('source.raw', self.SIZE, b''.join(
            bytes([i & 255]) * 3000 + random.Random(i).randbytes(700) for i in range(800)))
        image = self.path('image.qcow2')
        run(self.qemu_img, 'convert', '-c', '-f', 'raw', '-O', 'qcow2', source, image)
        before = self.reads(image)
        mountpoint = self.open(daemon, image)
        daemon.qmp.cmd(CREATE, {'device': 'q', 'name': 'one'})
        self.scribble_mounted(mountpoint, 1)
        daemon.qmp.cmd(CREATE, {'device': 'q', 'name': 'two'})
        daemon.qmp.cmd(APPLY, {'device': 'q', 'name': 'one'})
        self.assertEqual(self.content(mountpoint), before)
        daemon.qmp.cmd(DELETE, {'device': 'q', 'name': 'one'})
        self.remove(daemon)
        self.check(image)
        self.assertEqual(self.reads(image), before)


class CommandTest(SnapshotTest):
    def setUp(self):
        super().setUp()
        self.image = self.create('image.qcow2', self.SIZE)
        self.daemon = self.wharfd()

    def fails(self, command, arguments, *words):
        with self.assertRaises(QmpError) as caught:
            self.daemon.qmp.cmd(command, arguments)
        self.assertEqual(caught.exception.cls, 'GenericError')
        for word in words:
            self.assertIn(word, caught.exception.desc)

    def test_results(self):
        self.open(self.daemon, self.image)
        self.assertEqual(self.daemon.qmp.cmd(CREATE, {'device': 'q', 'name': 'a'}), {})
        self.daemon.qmp.cmd(CREATE, {'device': 'q', 'name': 'b'})
        listed = self.image_info(self.daemon)['snapshots']
        self.assertEqual([(s['id'], s['name']) for s in listed], [('1', 'a'), ('2', 'b')])
        self.assertEqual(self.daemon.qmp.cmd(DELETE, {'device': 'q', 'id': '1'}), listed[0])
        self.daemon.qmp.cmd(CREATE, {'device': 'q', 'name': 'c'})
        self.assertEqual([s['id'] for s in self.image_info(self.daemon)['snapshots']], ['2', '3'])
        self.remove(self.daemon)
        self.assertEqual(self.snapshots(self.image)['b'], listed[1])

    def test_refused(self):
        self.fails(CREATE, {'device': 'nope', 'name': 'a'}, 'nope')
        self.open(self.daemon, self.image)
        self.daemon.qmp.cmd(CREATE, {'device': 'q', 'name': 'a'})
        self.fails(CREATE, {'device': 'q', 'name': 'a'}, "has a snapshot 'a' already")
        self.fails(CREATE, {'device': 'q', 'name': ''}, 'not empty')
        self.fails(CREATE, {'device': 'q', 'name': 'x' * 256}, '255 bytes')
        for command in [DELETE, APPLY]:
            self.fails(command, {'device': 'q'}, "'id' and 'name' are missing")
            self.fails(command, {'device': 'q', 'name': 'b'}, "no snapshot with the name 'b'")
            self.fails(command, {'device': 'q', 'id': '7'}, "no snapshot with the id '7'")
            self.fails(command, {'device': 'q', 'id': '1', 'name': 'b'}, "no snapshot 'b' with the id '1'")
        self.remove(self.daemon)
        self.add(self.daemon, self.image)
        self.fails(CREATE, {'device': 'q', 'name': 'b'}, 'read-only')
        self.fails(DELETE, {'device': 'q', 'name': 'a'}, 'read-only')
        self.remove(self.daemon, exported=False)
        raw = self.make_file('disk.raw', MIB)
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f', 'filename': raw})
        self.fails(CREATE, {'device': 'f', 'name': 'b'}, "driver 'file' has no internal snapshots")
        self.assertEqual(list(self.snapshots(self.image)), ['a'])

    def test_narrow_refcounts(self):
        """Too many users of a cluster are refused before anything is changed."""
        for bits, most in [(1, 0), (2, 2)]:
            image = self.create('narrow.qcow2', self.SIZE, refcount_bits=bits)
            self.qemu_io(image, 'write -P 3 0 200k')
            mountpoint = self.open(self.daemon, image)
            for i in range(most):
                self.daemon.qmp.cmd(CREATE, {'device': 'q', 'name': f's{i}'})
            self.fails(CREATE, {'device': 'q', 'name': 'last'}, f'refcounts of {bits} bits', 'nothing was changed')
            content = self.content(mountpoint)
            self.remove(self.daemon)
            self.check(image)
            self.assertEqual(len(self.snapshots(image)), most)
            self.assertEqual(self.reads(image), content)

    def test_data_file(self):
        image = self.create('external.qcow2', self.SIZE, data_file=self.path('data.bin'))
        self.open(self.daemon, image)
        self.fails(CREATE, {'device': 'q', 'name': 'a'}, 'external data file')
        self.remove(self.daemon)

    def test_open_at_snapshot(self):
        self.open(self.daemon, self.image)
        self.daemon.qmp.cmd(CREATE, {'device': 'q', 'name': '7'})
        self.daemon.qmp.cmd(CREATE, {'device': 'q', 'name': '1'})
        self.remove(self.daemon)
        self.refused(self.daemon, self.image, "no snapshot with the id or name 'x'", snapshot='x')
        self.refused(self.daemon, self.image, 'can only be read', **{'snapshot': '7', 'read-only': False})
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f', 'filename': self.image})
        options = {'driver': 'qcow2', 'node-name': 'q', 'file': 'f'}
        auto = {'read-only': False, 'auto-read-only': True}
        self.daemon.qmp.cmd('blockdev-add', {**options, **auto, 'snapshot': '7'})
        self.fails('blockdev-reopen', {'options': [{**options, 'read-only': True}]}, "cannot change 'snapshot'")
        self.fails('blockdev-reopen', {'options': [{**options, 'snapshot': '7'}]}, 'can only be read')
        self.daemon.qmp.cmd('blockdev-reopen', {'options': [{**options, **auto, 'snapshot': '7'}]})
        self.assertTrue(self.daemon.qmp.cmd('query-named-block-nodes')[0]['ro'])

    def test_shown_while_in_use(self):
        """Snapshots are exported beside the disk that they are of, which goes on changing."""
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f', 'filename': self.image})
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'q', 'file': 'f'})
        disk = self.export(self.daemon, writable=True)
        contents = {}
        for i in range(4):
            self.scribble_mounted(disk, i)
            name = f's{i}'
            self.daemon.qmp.cmd(CREATE, {'device': 'q', 'name': name})
            self.daemon.qmp.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': name, 'file': 'f',
                                                 'read-only': True, 'snapshot': name})
            contents[self.export(self.daemon, node=name)] = self.content(disk)
        self.scribble_mounted(disk, 10)
        self.fails(DELETE, {'device': 'q', 'name': 's1'}, 'another block node shows', 's1')
        self.daemon.qmp.cmd(APPLY, {'device': 'q', 'name': 's2'})
        self.scribble_mounted(disk, 11)
        self.remove(self.daemon, node='s1')
        contents.pop(self.path('mnt-s1'))
        self.daemon.qmp.cmd(DELETE, {'device': 'q', 'name': 's1'})
        self.scribble_mounted(disk, 12)
        for mountpoint, content in contents.items():
            self.assertEqual(self.content(mountpoint), content)
        for name in ['s0', 's2', 's3', 'q']:
            self.remove(self.daemon, node=name)
        self.daemon.qmp.cmd('blockdev-del', {'node-name': 'f'})
        self.check(self.image)

    def test_sizes(self):
        """A snapshot has its own length, and applying it gives that to the disk and its exports."""
        mountpoint = self.open(self.daemon, self.image)
        worker = self.fs()
        self.daemon.qmp.cmd(CREATE, {'device': 'q', 'name': 'small'})
        self.daemon.qmp.cmd('block_resize', {'node-name': 'q', 'size': 900 * MIB})
        self.daemon.qmp.cmd(CREATE, {'device': 'q', 'name': 'large'})
        self.daemon.qmp.cmd(APPLY, {'device': 'q', 'name': 'small'})
        wait_until(lambda: worker.stat(mountpoint).st_size == self.SIZE)
        self.daemon.qmp.cmd(APPLY, {'device': 'q', 'name': 'large'})
        wait_until(lambda: worker.stat(mountpoint).st_size == 900 * MIB)
        self.daemon.qmp.cmd(APPLY, {'device': 'q', 'name': 'small'})
        self.remove(self.daemon)
        self.check(self.image)
        self.add(self.daemon, self.image, snapshot='large')
        self.assertEqual(self.image_info(self.daemon)['virtual-size'], 900 * MIB)
        self.remove(self.daemon, exported=False)

    def test_two_at_once(self):
        """Commands of two clients are carried out one after the other, whichever they are."""
        other = self.daemon.qmp_client()
        pairs = [(CREATE, 'a'), (CREATE, 'b')], [(CREATE, 'c'), (DELETE, 'a')], [(CREATE, 'd'), (APPLY, 'b')]
        self.qemu_io(self.image, f'write -P 7 0 {self.SIZE}')
        self.add(self.daemon, self.image, **{'read-only': False})
        for pair in pairs:
            clients = list(zip([self.daemon.qmp, other], pair))
            for client, (command, name) in clients:
                client.send({'execute': command, 'arguments': {'device': 'q', 'name': name}})
            for client, _ in clients:
                self.assertIn('return', client.read_reply())
        self.remove(self.daemon, exported=False)
        self.check(self.image)
        self.assertEqual(list(self.snapshots(self.image)), ['b', 'c', 'd'])

    @timeout(120)
    def test_while_written_to(self):
        """No request fails or is lost, and each snapshot holds what was written before it, in order."""
        mountpoint = self.open(self.daemon, self.image)
        written = []
        stop = threading.Event()

        def write():
            with open(mountpoint, 'r+b', buffering=0) as f:
                n = 0
                while not stop.is_set():
                    n += 1
                    f.seek(n * 7919 % 700 * 4096)
                    f.write(n.to_bytes(8, 'little') * 512)
                    written.append(n)
        thread = threading.Thread(target=write)
        thread.start()
        marks = {}
        try:
            for i in range(8):
                wait_until(lambda seen=len(written): len(written) > seen + 20)
                before = len(written)
                self.daemon.qmp.cmd(CREATE, {'device': 'q', 'name': f's{i}'})
                marks[f's{i}'] = (before, len(written) + 1)
                if i % 3 == 2:
                    self.daemon.qmp.cmd(DELETE, {'device': 'q', 'name': f's{i - 1}'})
                    del marks[f's{i - 1}']
        finally:
            stop.set()
            thread.join()
        self.remove(self.daemon)
        self.check(self.image)
        for name, (low, high) in [*marks.items(), (None, (len(written), len(written)))]:
            content = self.reads(self.image, *(['-l', name] if name else []))
            latest = max(int.from_bytes(content[i * 4096:i * 4096 + 8], 'little') for i in range(700))
            self.assertLessEqual(low, latest)
            self.assertLessEqual(latest, high)
            expected = bytearray(self.SIZE)
            for n in range(1, latest + 1):
                at = n * 7919 % 700 * 4096
                expected[at:at + 4096] = n.to_bytes(8, 'little') * 512
            self.assertEqual(content, bytes(expected))


class HeaderTest(SnapshotTest):
    """What of the header is not known here."""

    UNKNOWN = struct.pack('>II', 0x12345678, 5) + b'hello\0\0\0'

    def setUp(self):
        super().setUp()
        self.image = self.create('image.qcow2', self.SIZE)
        self.daemon = self.wharfd()

    def patch(self, at, data):
        with open(self.image, 'r+b') as f:
            f.seek(at)
            f.write(data)

    def end_of_extensions(self):
        with open(self.image, 'rb') as f:
            head = f.read(64 * KIB)
        at = int.from_bytes(head[100:104], 'big')
        while head[at:at + 4] != bytes(4):
            at += 8 + (int.from_bytes(head[at + 4:at + 8], 'big') + 7) // 8 * 8
        return at

    def test_extensions_stay(self):
        at = self.end_of_extensions()
        self.patch(at, self.UNKNOWN + bytes(8))
        self.patch(80, struct.pack('>QQ', 1 << 40, 1 << 41))  # compatible, autoclear
        mountpoint = self.open(self.daemon, self.image)
        self.scribble_mounted(mountpoint, 1)
        self.daemon.qmp.cmd(CREATE, {'device': 'q', 'name': 'a'})
        self.daemon.qmp.cmd('block_resize', {'node-name': 'q', 'size': 4000 * MIB})
        self.daemon.qmp.cmd(APPLY, {'device': 'q', 'name': 'a'})
        self.daemon.qmp.cmd(DELETE, {'device': 'q', 'name': 'a'})
        self.remove(self.daemon)
        with open(self.image, 'rb') as f:
            head = f.read(64 * KIB)
        self.assertEqual(head[at:at + 16], self.UNKNOWN)
        self.assertEqual(struct.unpack('>QQ', head[80:96]), (1 << 40, 0))

    def test_features_by_name(self):
        at = self.end_of_extensions()
        table = struct.pack('>BB46s', 0, 62, b'time travel')
        with open(self.image, 'rb') as f:
            start = f.read(at).index(struct.pack('>I', 0x6803f857))
        self.patch(start, struct.pack('>II', 0x6803f857, len(table)) + table + bytes(8))
        self.patch(72, struct.pack('>Q', 3 << 61))
        self.refused(self.daemon, self.image, "'time travel'", "'bit 61'")
