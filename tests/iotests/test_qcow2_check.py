# SPDX-License-Identifier: GPL-2.0-or-later
"""wharfctl check beside qemu-img check: what one finds the other does, and what one has repaired
pleases the other."""

import array
import os
import pty
import random
import shutil
import signal
import struct
import subprocess

from wharf import *
from wharf import nbd
from wharf.qcow2 import KIB, MIB, Qcow2Test
from wharf.tools import json_of

COPIED = 1 << 63
COMPRESSED = 1 << 62
OFFSET = 0x00fffffffffffe00

# Numbers that both tell.
NUMBERS = ['image-end-offset', 'total-clusters', 'allocated-clusters', 'fragmented-clusters',
           'compressed-clusters', 'check-errors', 'corruptions', 'leaks']


class Image:
    """An image file of 64 KiB clusters, whose words can be read and changed."""

    def __init__(self, path):
        self.path = path
        self.l1 = self.get(40)
        self.reftable = self.get(48)
        self.block = self.get(self.reftable)
        self.l2 = self.get(self.l1) & OFFSET

    def get(self, offset, form='>Q'):
        with open(self.path, 'rb') as f:
            f.seek(offset)
            return struct.unpack(form, f.read(struct.calcsize(form)))[0]

    def put(self, offset, value, form='>Q'):
        with open(self.path, 'r+b') as f:
            f.seek(offset)
            f.write(struct.pack(form, value))

    def entry(self, cluster):
        return self.l2 + 8 * cluster

    def change(self, offset, function):
        self.put(offset, function(self.get(offset)))

    def refcount(self, cluster, value):
        self.put(self.block + 2 * cluster, value, '>H')


class CheckTest(Qcow2Test):
    def setUp(self):
        super().setUp()
        self.size = 4 * MIB

    def ours(self, image, *options):
        """Exit status and result of our check."""
        done = self.wharfctl('check', '--output=json', *options, image, check=False)
        return done.returncode, json_of(done)

    def theirs(self, image, *options):
        done = run(self.qemu_img, 'check', '--output=json', '-f', 'qcow2', *options, image, check=False)
        return done.returncode, json_of(done) if done.returncode != 1 else {}

    def expect_same(self, image):
        status, found = self.ours(image)
        their_status, their_found = self.theirs(image)
        numbers = {name: found.get(name, 0) for name in NUMBERS}
        self.assertEqual(numbers, {name: their_found.get(name, 0) for name in NUMBERS},
                         found['findings'])
        self.assertEqual(status, their_status)
        return status

    def expect_clean(self, image):
        self.assertEqual(self.expect_same(image), 0)

    def reads(self, image):
        with open(self.reference(image), 'rb') as f:
            return f.read()


class CleanTest(CheckTest):
    @timeout(300)
    def test_kinds(self):
        for n, kind in enumerate(self.kinds()):
            with self.subTest(**kind):
                image = self.create('image.qcow2', self.size, **kind)
                self.expect_clean(image)
                self.scribble(image, self.size, n)
                self.expect_clean(image)

    def test_compressed(self):
        source = self.make_file('source.raw', self.size, b''.join(
            bytes([i & 255]) * 3000 + random.Random(i).randbytes(700) for i in range(900)))
        for options in ['cluster_size=4k', 'cluster_size=2M', 'compression_type=zstd',
                        'extended_l2=on']:
            with self.subTest(options=options):
                image = self.path('image.qcow2')
                run(self.qemu_img, 'convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', options, source,
                    image)
                self.expect_clean(image)
                self.scribble(image, self.size, 1)
                self.expect_clean(image)

    def test_snapshots(self):
        for kind in [{'compat': '0.10'}, {'cluster_size': 512}, {'extended_l2': 'on'}]:
            with self.subTest(**kind):
                image = self.create('image.qcow2', self.size, **kind)
                for n in range(5):
                    self.scribble(image, self.size, n)
                    run(self.qemu_img, 'snapshot', '-c', f's{n}', image)
                    self.expect_clean(image)
                run(self.qemu_img, 'snapshot', '-d', 's2', image)
                self.expect_clean(image)
                run(self.qemu_img, 'snapshot', '-a', 's1', image)
                self.expect_clean(image)

    def test_bitmaps(self):
        image = self.create('image.qcow2', self.size)
        for n in range(4):
            run(self.qemu_img, 'bitmap', '--add', '-g', str(512 << n), image, f'b{n}')
            self.scribble(image, self.size, n)
        self.expect_clean(image)
        run(self.qemu_img, 'bitmap', '--remove', image, 'b1')
        self.expect_clean(image)

    def test_data_file(self):
        for raw in ['on', 'off']:
            data = self.path(f'data-{raw}.bin')
            image = self.create('image.qcow2', self.size, data_file=data, data_file_raw=raw)
            self.scribble(image, self.size, raw)
            self.expect_clean(image)
            os.unlink(data)  # which is not needed
            self.assertEqual(self.ours(image)[0], 0)

    def test_backing(self):
        """A backing file that is not there does not matter."""
        base = self.create('base.qcow2', self.size)
        image = self.create('image.qcow2', None, backing='base.qcow2')
        self.scribble(image, self.size, 1)
        self.expect_clean(image)
        os.unlink(base)
        self.assertEqual(self.ours(image)[0], 0)

    def test_encrypted(self):
        image = self.path('image.qcow2')
        secret = 'secret,id=s,data=abc'

        def make():
            return run(self.qemu_img, 'create', '-q', '-f', 'qcow2', '--object', secret, '-o',
                       'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10', image, '2M',
                       check=False).returncode == 0
        # It measures how long that takes, and gives up where the clock is too coarse for it.
        if not any(make() for _ in range(30)):
            self.skipTest('qemu-img cannot make encrypted images here')
        status, found = self.ours(image)
        self.assertEqual(status, 0, found)


class BrokenTest(CheckTest):
    """64 KiB clusters: L2 table at l2, then twelve clusters of data, of which each can be known."""

    CLUSTERS = 12

    def image(self, snapshots=0):
        path = self.create('image.qcow2', self.size)
        self.qemu_io(path, *[f'write -P {i + 1} {i * 64}k 64k' for i in range(self.CLUSTERS)])
        for n in range(snapshots):
            run(self.qemu_img, 'snapshot', '-c', f's{n}', path)
        return Image(path)

    def damages(self):
        """What is damaged how, the clusters that are zeros after a repair, and whether qemu-img
        finds as much."""
        data = 5  # the place of the first
        yield 'leak', lambda i: i.refcount(40, 1), [], True
        yield 'leaks', lambda i: [i.refcount(n, 2) for n in range(5, 9)], [], True
        yield 'low', lambda i: [i.refcount(n, 0) for n in range(3, 9)], [], True
        yield 'bits', lambda i: [i.change(i.entry(n), lambda e: e & ~COPIED) for n in range(4)], [], True
        yield 'l1-bit', lambda i: i.change(i.l1, lambda e: e & ~COPIED), [], True
        yield 'twice', lambda i: i.put(i.entry(20), i.get(i.entry(3))), [], True
        yield 'past-end', lambda i: i.put(i.entry(3), 1 << 40 | COPIED), [3], False
        yield 'unaligned', lambda i: i.change(i.entry(3), lambda e: e | 512), [3], False
        yield 'unaligned-zero', lambda i: i.change(i.entry(3), lambda e: e | 513), [3], False
        yield 'reserved', lambda i: i.change(i.entry(3), lambda e: e | 4), [], True
        yield 'reserved-l1', lambda i: i.change(i.l1, lambda e: e | 4), [], True
        yield 'compressed-bit', lambda i: i.put(i.entry(3), COMPRESSED | COPIED | (data << 16)), None, False
        yield 'block-gone', lambda i: i.put(i.reftable, 0), [], True
        yield 'block-past-end', lambda i: i.put(i.reftable, 1 << 40), [], False
        yield 'block-unaligned', lambda i: i.change(i.reftable, lambda e: e | 512), [], False
        yield 'block-twice', lambda i: i.put(i.reftable + 8, i.block), [], False
        yield 'marks', lambda i: i.put(72, 3), [], True
        yield 'dirty', lambda i: [i.put(72, 1), i.refcount(6, 0)], [], True

    def content(self, lost):
        return b''.join(bytes([0 if i in lost else i + 1]) * 65536 for i in range(self.CLUSTERS))

    @timeout(300)
    def test_repair(self):
        for name, damage, lost, same in self.damages():
            for snapshots in [0, 1]:
                with self.subTest(damage=name, snapshots=snapshots):
                    image = self.image(snapshots)
                    damage(image)
                    status, found = self.ours(image.path)
                    self.assertEqual(found['check-errors'], 0)
                    # An entry of a table that is shared they tell once for each that shares it.
                    if same and not (snapshots and name == 'reserved'):
                        their_status, their_found = self.theirs(image.path)
                        self.assertEqual(status, their_status, (found, their_found))
                        for key in ['corruptions', 'leaks']:
                            self.assertEqual(found.get(key), their_found.get(key), found['findings'])
                    status, found = self.ours(image.path, '-r', 'all')
                    self.assertEqual(status, 0, found['findings'])
                    self.expect_clean(image.path)
                    self.assertEqual(Image(image.path).get(72) & 3, 0)
                    if lost is not None:
                        expected = self.content(lost)
                        self.assertEqual(self.reads(image.path)[:len(expected)], expected)
                    for n in range(snapshots):
                        run(self.qemu_img, 'snapshot', '-a', f's{n}', image.path)
                        self.expect_clean(image.path)

    @timeout(300)
    def test_repaired_by_qemu(self):
        """We agree that nothing is left to do."""
        for name, damage, _, same in self.damages():
            if same:
                with self.subTest(damage=name):
                    image = self.image()
                    damage(image)
                    if self.theirs(image.path, '-r', 'all')[0] == 0:
                        self.expect_clean(image.path)

    def set_extra(self, image, sizes):
        """Write the table of snapshots anew, in its cluster, with so much extra data in each entry."""
        at, out = image.get(64), b''
        with open(image.path, 'r+b') as f:
            for size in sizes:
                f.seek(at)
                fixed = f.read(40)
                names = sum(struct.unpack_from('>HH', fixed, 12))
                old = struct.unpack_from('>I', fixed, 36)[0]
                rest = f.read(old + names)
                at += (40 + old + names + 7) & ~7
                out += fixed[:36] + struct.pack('>I', size) + (rest[:old] + bytes(size))[:size] + rest[old:]
                out += bytes(-len(out) % 8)
            f.seek(image.get(64))
            f.write(out)

    def test_snapshot_entries(self):
        """None is given up because it says too little or too much."""
        for sizes, wrong in [((16, 24), 0), ((0, 24), 1), ((8, 0), 2), ((24, 1024), 0), ((1025, 24), 1),
                             ((3000, 8), 2)]:
            with self.subTest(sizes=sizes):
                image = self.image(snapshots=1)
                self.qemu_io(image.path, 'write -P 99 0 64k')
                run(self.qemu_img, 'snapshot', '-c', 's1', image.path)
                self.set_extra(image, sizes)
                status, found = self.ours(image.path)
                self.assertEqual((status, found.get('corruptions', 0)), (2 if wrong else 0, wrong))
                self.assertNotIn('leaks', found)
                if max(sizes) <= 1024:  # which they refuse to look at
                    self.assertEqual(self.theirs(image.path)[1].get('corruptions', 0), wrong)
                self.assertEqual(self.ours(image.path, '-r', 'all')[0], 0)
                self.expect_clean(image.path)
                for name, first in (('s1', 99), ('s0', 1)):
                    run(self.qemu_img, 'snapshot', '-a', name, image.path)
                    self.expect_clean(image.path)
                    self.assertEqual(self.reads(image.path)[:131072], bytes([first]) * 65536 + b'\2' * 65536)

    def test_short_l1_table(self):
        """Nothing is freed that no entry names only because there are too few."""
        for change in (lambda i: i.put(36, 0, '>I'), lambda i: i.put(24, 1 << 40)):
            image = self.image()
            size, entries = image.get(24), image.get(36, '>I')
            change(image)
            self.assertEqual(self.ours(image.path)[0], 2)
            self.assertEqual(self.ours(image.path, '-r', 'all')[0], 2)
            image.put(24, size)
            image.put(36, entries, '>I')
            self.expect_clean(image.path)

    def test_leaks_only(self):
        image = self.image()
        image.refcount(6, 5)
        image.refcount(40, 1)
        status, found = self.ours(image.path, '-r', 'leaks')
        self.assertEqual(status, 0, found)
        self.assertGreater(found['leaks-fixed'], 0)
        self.expect_clean(image.path)
        image.refcount(6, 5)
        image.put(image.entry(3), image.get(image.entry(2)))
        status, found = self.ours(image.path, '-r', 'leaks')
        self.assertEqual(status, 2)

    def test_cut_off(self):
        """A file that has lost its end."""
        image = self.image()
        os.truncate(image.path, os.path.getsize(image.path) - 3 * 65536 - 100)
        status, found = self.ours(image.path)
        self.assertEqual(status, 2)
        status, found = self.ours(image.path, '-r', 'all')
        self.assertEqual(status, 0, found)
        self.expect_clean(image.path)

    def test_daemon_uses_repaired(self):
        daemon = self.wharfd()
        image = self.image()
        image.put(72, 1)
        for n in range(4, 10):
            image.refcount(n, 0)
        before = self.reads(image.path)
        self.add(daemon, image.path, **{'read-only': False})
        mountpoint = self.export(daemon, writable=True)
        with open(mountpoint, 'r+b') as f:
            self.assertEqual(f.read(), before)
            f.seek(MIB)
            f.write(b'x' * 200000)
        self.remove(daemon)
        self.assertIn('not closed in order', daemon.log())
        self.expect_clean(image.path)

    def test_random_damage(self):
        """Whatever is written over tables, a check ends, and so does a repair; if it says that all is
        well afterwards QEMU agrees."""
        for seed in range(25):
            with self.subTest(seed=seed):
                rng = random.Random(seed)
                image = self.image(snapshots=rng.randrange(3))
                tables = [(0, 104), (image.l1, 64), (image.l2, 200), (image.reftable, 32),
                          (image.block, 100)]
                for _ in range(rng.choice([1, 1, 2, 10])):
                    start, length = rng.choice(tables)
                    offset = start + rng.randrange(length)
                    image.put(offset, rng.choice([0, 1, 0x80, 0xff, rng.randrange(256)]), '>B')
                done = self.wharfctl('check', '--output=json', '-r', 'all', image.path, check=False)
                self.assertIn(done.returncode, [0, 1, 2, 3, 63], done.stderr)
                if done.returncode == 0 and json_of(done)['check-errors'] == 0:
                    self.assertEqual(self.theirs(image.path)[0], 0)


class CommandTest(CheckTest):
    def test_exit_statuses(self):
        image = Image(self.create('image.qcow2', self.size))
        for n, (path, words, expected) in enumerate([
                (image.path, [], 0), (image.path, ['-r', 'all'], 0), (image.path, ['-r', 'leaks'], 0),
                (self.make_file('disk.raw', MIB), [], 63), (self.path('missing'), [], 1),
                (image.path, ['-r', 'some'], 2), (image.path, ['-U', '-r', 'all'], 1),
                (self.make_file('text', content=b'QFI\xfb\0\0\0\x03'), [], 1),
                (image.path, ['-f', 'raw'], 63)]):
            with self.subTest(n=n):
                done = self.wharfctl('check', *words, path, check=False)
                self.assertEqual(done.returncode, expected, done.stdout + done.stderr)
                self.assertEqual(bool(done.stderr), expected != 0, done.stderr)
        image.refcount(3, 3)
        self.assertEqual(self.wharfctl('check', image.path, check=False).returncode, 3)
        self.assertEqual(self.wharfctl('check', '-q', image.path, check=False).stdout, '')

    def test_locked(self):
        """Nobody may write meanwhile, and for a repair nobody may have it open."""
        image = self.create('image.qcow2', self.size)
        daemon = self.wharfd()
        self.add(daemon, image)
        self.wharfctl('check', image)
        done = self.wharfctl('check', '-r', 'all', image, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn('lock', done.stderr)
        daemon.qmp.cmd('blockdev-del', {'node-name': 'q'})
        self.add(daemon, image, **{'read-only': False})
        done = self.wharfctl('check', image, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn('lock', done.stderr)
        self.wharfctl('check', '-U', image)

    def test_in_a_daemon(self):
        """blockdev-check of a node that is in use."""
        daemon = self.wharfd()
        image = Image(self.create('image.qcow2', self.size))
        image.refcount(20, 2)
        self.add(daemon, image.path, **{'read-only': False})
        mountpoint = self.export(daemon, writable=True)
        with open(mountpoint, 'r+b') as f:
            f.write(b'x' * MIB)
        found = daemon.qmp.cmd('blockdev-check', {'node-name': 'q'})
        self.assertEqual(found['format'], 'qcow2')
        self.assertEqual(found['filename'], image.path)
        self.assertNotIn('corruptions', found)
        self.assertEqual(found['allocated-clusters'], 16)
        with self.assertRaises(QmpError) as caught:
            daemon.qmp.cmd('blockdev-check', {'node-name': 'q', 'repair': 'leaks'})
        self.assertIn("'q'", caught.exception.desc)
        daemon.qmp.cmd('block-export-del', {'id': 'q'})
        daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'q'})
        daemon.qmp.cmd('blockdev-check', {'node-name': 'q', 'repair': 'leaks'})
        mountpoint = self.export(daemon, writable=True)
        with open(mountpoint, 'r+b') as f:
            self.assertEqual(f.read(MIB), b'x' * MIB)
            f.write(b'y' * MIB)
        self.remove(daemon)
        self.expect_clean(image.path)

    def endless(self):
        """An image with a million L2 tables, all of them holes: a check of it takes very long."""
        entries = 1 << 20
        first = 2 + entries * 8 // 65536
        l1 = array.array('Q', range(first << 16, (first + entries) << 16, 1 << 16))
        l1.byteswap()
        path = self.make_file('endless.qcow2', content=struct.pack(
            '>IIQIIQIIQQIIQQQQII', 0x514649fb, 3, 0, 0, 16, entries << 29, 0, entries, 2 << 16, 1 << 16, 1,
            0, 0, 0, 0, 0, 4, 104))
        with open(path, 'r+b') as f:
            f.seek(2 << 16)
            f.write(l1.tobytes())
            f.truncate((first + entries) << 16)
        return path

    def job(self, daemon, **args):
        daemon.qmp.cmd('blockdev-check-start', {'job-id': 'j', 'node-name': 'q', **args})

    def job_info(self, daemon):
        return daemon.qmp.cmd('query-jobs')[0]

    def job_end(self, daemon):
        daemon.qmp.wait_event('JOB_STATUS_CHANGE', {'id': 'j', 'status': 'concluded'})
        info = self.job_info(daemon)
        daemon.qmp.cmd('job-dismiss', {'id': 'j'})
        return info

    def test_job(self):
        """The same as by the command."""
        daemon = self.wharfd()
        image = Image(self.create('image.qcow2', self.size))
        self.scribble(image.path, self.size, 1)
        image.refcount(200, 2)
        self.add(daemon, image.path, **{'read-only': False})
        expected = daemon.qmp.cmd('blockdev-check', {'node-name': 'q'})
        self.job(daemon)
        info = self.job_end(daemon)
        self.assertEqual((info['type'], info['result']), ('check', expected))
        self.assertGreater(info['total-progress'], 0)
        self.job(daemon, repair='all')
        self.assertEqual(self.job_end(daemon)['result']['check-errors'], 0)
        daemon.qmp.cmd('blockdev-del', {'node-name': 'q'})
        self.expect_clean(image.path)
        daemon.qmp.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'n'})
        self.job(daemon, **{'node-name': 'n'})
        info = self.job_end(daemon)
        self.assertIn('cannot be checked', info['error'])
        self.assertNotIn('result', info)
        with self.assertRaises(QmpError):
            self.job(daemon, **{'node-name': 'missing'})

    def test_job_cancelled(self):
        daemon = self.wharfd()
        image = self.endless()
        self.add(daemon, image, **{'for-check': True, 'read-only': False})
        with open(image, 'rb') as f:
            before = f.read(MIB)
        for repair in ('none', 'all'):
            self.job(daemon, repair=repair)
            wait_until(lambda: self.job_info(daemon)['current-progress'] > 0)
            daemon.qmp.cmd('job-pause', {'id': 'j'})
            wait_until(lambda: self.job_info(daemon)['status'] == 'paused')
            daemon.qmp.cmd('job-resume', {'id': 'j'})
            daemon.qmp.cmd('job-cancel', {'id': 'j'})
            info = self.job_end(daemon)
            self.assertIn('ancel', info['error'])
            self.assertNotIn('result', info)
        daemon.qmp.cmd('blockdev-del', {'node-name': 'q'})
        with open(image, 'rb') as f:
            self.assertEqual(f.read(MIB), before)

    def export_endless(self, daemon):
        """The path of a socket that serves it as 'e'."""
        path = self.path('nbd')
        self.add(daemon, self.endless(), **{'read-only': False})
        daemon.qmp.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': path}}})
        daemon.qmp.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'q', 'name': 'e',
                                            'writable': True})
        return path

    def job_goes_on(self, daemon):
        seen = self.job_info(daemon)['current-progress']
        wait_until(lambda: self.job_info(daemon)['current-progress'] > seen)

    def test_end_while_requests_wait(self):
        """A client's request waits for the check; the daemon, which waits for clients, ends the check first."""
        daemon = self.wharfd()
        with nbd.RawClient(self.export_endless(daemon)) as client:
            client.go('e')
            self.job(daemon)
            self.job_goes_on(daemon)
            client.send_request(nbd.WRITE, 0, 512, payload=bytes(512))
            self.job_goes_on(daemon)
            daemon.terminate()

    def expect_zeros(self, client, offset):
        self.assertEqual(client.request(nbd.READ, offset, 512), (0, [(None, bytes(512))]))

    def test_reads_go_on(self):
        """Beside a check that repairs nothing; a write is done when it has ended."""
        daemon = self.wharfd()
        with nbd.RawClient(self.export_endless(daemon)) as client:
            client.go('e')
            self.job(daemon)
            self.job_goes_on(daemon)
            self.expect_zeros(client, MIB)
            write = client.send_request(nbd.WRITE, 0, 512, payload=bytes(512))
            self.job_goes_on(daemon)
            self.expect_zeros(client, 0)
            daemon.qmp.cmd('job-cancel', {'id': 'j'})
            self.job_end(daemon)
            self.assertIn(write, client.recv_answers([write]))

    @fuse_test
    def test_reads_go_on_beside_a_resize(self):
        """It waits for the check as writes do, and holds nobody up before."""
        daemon, mnt = self.wharfd(), self.mountpoint()
        self.add(daemon, self.endless(), **{'read-only': False})
        daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': 'e', 'node-name': 'q', 'mountpoint': mnt,
                                            'writable': True})
        writer, reader, other = self.fs(), self.fs(), daemon.qmp_client()
        to_write = writer.open(mnt, os.O_RDWR | os.O_DIRECT)
        to_read = reader.open(mnt, os.O_RDONLY | os.O_DIRECT)
        self.job(daemon)
        self.job_goes_on(daemon)
        writer.start('pwrite_direct', to_write, b'x' * 4096, 0)
        self.job_goes_on(daemon)
        other.send({'execute': 'block_resize', 'arguments': {'node-name': 'q', 'size': MIB}})
        self.job_goes_on(daemon)
        self.assertEqual(reader.pread_direct(to_read, 4096, 4096), bytes(4096))
        daemon.qmp.cmd('job-cancel', {'id': 'j'})
        self.job_end(daemon)
        # In such an image neither can be done.
        self.assertRaises(OSError, writer.finish)
        self.assertIn('error', other.read_reply())

    def test_end_ends_command(self):
        """A command's check is not waited for, either."""
        for signalled in (True, False):
            daemon = self.wharfd()
            self.add(daemon, self.endless())
            daemon.qmp.send({'execute': 'blockdev-check', 'arguments': {'node-name': 'q'}, 'id': 1})
            other = daemon.qmp_client()
            other.cmd('query-jobs')
            if signalled:
                daemon.process.send_signal(signal.SIGTERM)
            else:
                other.send({'execute': 'quit'})
            self.assertEqual(daemon.qmp.read_reply()['return']['check-errors'], 1)
            self.assertEqual(daemon.wait(), 0)

    def test_interrupted(self):
        """Ctrl-C ends a check, and its daemon with it."""
        image = self.endless()
        for words in ([], ['-r', 'all']):
            process = subprocess.Popen([os.environ['WHARFCTL'], 'check', *words, image], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, text=True)
            daemon = wait_until(lambda pid=process.pid: self.reader(pid))
            process.send_signal(signal.SIGINT)
            self.assertIn('told to end', process.communicate(timeout=TIMEOUT)[1])
            self.assertEqual(process.returncode, 1)
            self.assertFalse(os.path.exists(f'/proc/{daemon}'))

    def test_progress(self):
        """On a terminal, and nowhere else."""
        here, there = pty.openpty()
        with os.fdopen(here, 'rb', buffering=0) as terminal:
            process = subprocess.Popen([os.environ['WHARFCTL'], 'check', self.endless()], stdout=subprocess.DEVNULL,
                                       stderr=there)
            os.close(there)
            shown = b''
            while b'%' not in shown:
                shown += terminal.read(100)
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(TIMEOUT), 1)
        self.assertRegex(shown, rb'\r\d+ %')

    def reader(self, pid):
        """The child of that process, if it has read a lot."""
        try:
            with open(f'/proc/{pid}/task/{pid}/children', encoding='ascii') as f:
                child = f.read().split()[0]
            with open(f'/proc/{child}/io', encoding='ascii') as f:
                done = int(next(line for line in f if line.startswith('rchar')).split()[1])
        except (FileNotFoundError, IndexError):
            return None
        return child if done > 64 * MIB else None

    def test_people(self):
        image = Image(self.create('image.qcow2', self.size))
        done = self.wharfctl('check', image.path)
        self.assertIn('no errors', done.stdout)
        image.refcount(3, 3)
        done = self.wharfctl('check', image.path, check=False)
        self.assertIn('leak: cluster 3 ', done.stdout)
        self.assertIn('leaked', done.stderr)
        self.assertIn('repaired', self.wharfctl('check', '-r', 'leaks', image.path).stdout)


if __name__ == '__main__':
    main()
