# SPDX-License-Identifier: GPL-2.0-or-later
"""Persistent dirty bitmaps: made and read by QEMU's tools, kept up by the daemon."""

import json
import os
import random
import subprocess

from wharf import *
from wharf.qcow2 import KIB, MIB, Qcow2WriteTest

GRANULARITY = 4096


class BitmapTest(Qcow2WriteTest):
    SIZE = 8 * MIB

    def setUp(self):
        super().setUp()
        self.qemu_nbd = find_tool('qemu-nbd')

    def make(self, **create):
        """An image with a bitmap that records, one that does not, and some data."""
        image = self.create('image.qcow2', self.SIZE, **create)
        run(self.qemu_img, 'bitmap', '--add', '-g', str(GRANULARITY), image, 'on')
        run(self.qemu_img, 'bitmap', '--add', '-g', str(GRANULARITY), image, 'off')
        self.qemu_io(image, 'write -P 1 100k 300k')
        run(self.qemu_img, 'bitmap', '--disable', image, 'off')
        return image

    def flags(self, image):
        """Name and flags of each bitmap that QEMU sees."""
        info = json.loads(run(self.qemu_img, 'info', '--output=json', image).stdout)
        listed = info['format-specific']['data'].get('bitmaps', [])
        return {b['name']: sorted(b['flags']) for b in listed}

    def dirty(self, image, name):
        """The dirty ranges of a bitmap, as QEMU's server tells them: the set of its granules."""
        socket = self.path('nbd.sock')
        server = subprocess.Popen([self.qemu_nbd, '-r', '-f', 'qcow2', '-B', name, '-k', socket, image])
        self.addCleanup(server.kill)
        wait_until(lambda: listens_at(socket))
        options = (f'driver=nbd,server.type=unix,server.path={socket},'
                   f'x-dirty-bitmap=qemu:dirty-bitmap:{name}')
        ranges = json.loads(run(self.qemu_img, 'map', '--output=json', '--image-opts', options).stdout)
        server.wait(TIMEOUT)  # it ends with its client
        return {g for r in ranges if not r['data']
                for g in range(r['start'] // GRANULARITY, (r['start'] + r['length'] - 1) // GRANULARITY + 1)}

    def granules(self, offset, length):
        return set(range(offset // GRANULARITY, (offset + length - 1) // GRANULARITY + 1))

    def write_some(self, mountpoint, seed, size=None):
        """Write at random; the granules that were touched."""
        rng = random.Random(seed)
        touched = set()
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDWR)
        for _ in range(15):
            length = rng.choice([1, 4096, 50000])
            offset = rng.randrange((size or self.SIZE) - length)
            worker.pwrite(fd, rng.randbytes(length), offset)
            touched |= self.granules(offset, length)
        worker.close(fd)
        return touched


class RecordingTest(BitmapTest):
    @timeout(300)
    def test_kept_up(self):
        daemon = self.wharfd()
        for kind in [{}, {'cluster_size': 512}, {'extended_l2': 'on'}, {'cluster_size': 2 * MIB},
                     {'refcount_bits': 1, 'cluster_size': 4 * KIB}]:
            with self.subTest(**kind):
                image = self.make(**kind)
                before = self.dirty(image, 'off')
                self.assertEqual(self.dirty(image, 'on'), before)
                expected = set(before)
                for turn in range(2):
                    mountpoint = self.open(daemon, image)
                    expected |= self.write_some(mountpoint, f'{kind}{turn}')
                    self.assertEqual(self.image_info(daemon)['format-specific']['data']['bitmaps'], [
                        {'name': 'on', 'granularity': GRANULARITY, 'flags': ['in-use', 'auto']},
                        {'name': 'off', 'granularity': GRANULARITY, 'flags': []}])
                    self.remove(daemon)
                    self.check(image)
                    self.assertEqual(self.flags(image), {'on': ['auto'], 'off': []})
                    self.assertEqual(self.dirty(image, 'on'), expected)
                    self.assertEqual(self.dirty(image, 'off'), before)

    def test_untouched(self):
        """Who only reads changes nothing, not even when the node is writable."""
        daemon = self.wharfd()
        image = self.make()
        content = self.reference(image)
        with open(image, 'rb') as f:
            before = f.read()
        run('cmp', self.open(daemon, image), content)
        self.remove(daemon)
        with open(image, 'rb') as f:
            self.assertEqual(f.read(), before)

    def test_killed(self):
        """Nobody trusts what a killed daemon could not store; what does not record stays valid."""
        daemon = self.wharfd()
        image = self.make()
        before = self.dirty(image, 'off')
        mountpoint = self.open(daemon, image)
        self.write_some(mountpoint, 1)
        daemon.kill()
        self.assertEqual(self.flags(image), {'on': ['auto', 'in-use'], 'off': []})
        self.assertEqual(self.dirty(image, 'off'), before)
        run('umount', '-l', mountpoint)
        daemon = self.wharfd(name='second')
        self.write_some(self.open(daemon, image), 2)
        self.remove(daemon)
        self.check(image)
        self.assertEqual(self.flags(image), {'on': ['auto', 'in-use'], 'off': []})

    def test_reopened(self):
        """What a node that becomes read-only has recorded is in the image then."""
        daemon = self.wharfd()
        image = self.make()
        expected = self.dirty(image, 'off')
        daemon.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f', 'filename': image})
        options = {'driver': 'qcow2', 'node-name': 'q', 'file': 'f'}
        daemon.qmp.cmd('blockdev-add', options)
        for turn in range(2):
            mountpoint = self.export(daemon, writable=True)
            expected |= self.write_some(mountpoint, turn)
            daemon.qmp.cmd('block-export-del', {'id': 'q'})
            daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'q'})
            daemon.qmp.cmd('blockdev-reopen', {'options': [{**options, 'read-only': True}]})
            self.assertEqual(self.dirty(image, 'on'), expected)
            daemon.qmp.cmd('blockdev-reopen', {'options': [options]})

    def test_inactive(self):
        daemon = self.wharfd()
        image = self.make()
        expected = self.dirty(image, 'off')
        for turn in range(2):
            expected |= self.write_some(self.open(daemon, image), turn)
            daemon.qmp.cmd('block-export-del', {'id': 'q'})
            daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': 'q'})
            daemon.qmp.cmd('blockdev-set-active', {'node-name': 'q', 'active': False})
            self.assertEqual(self.dirty(image, 'on'), expected)
            daemon.qmp.cmd('blockdev-del', {'node-name': 'q'})
        self.check(image)

    def test_lengths(self):
        """Tables follow the length of the disk; what is added counts as written."""
        daemon = self.wharfd()
        image = self.make(cluster_size=512)
        before = self.dirty(image, 'off')
        mountpoint = self.open(daemon, image)
        for size in [100 * MIB, 20 * MIB, 3 * MIB, 50 * MIB]:
            daemon.qmp.cmd('block_resize', {'node-name': 'q', 'size': size})
        expected = before | self.granules(3 * MIB, 47 * MIB) | self.write_some(mountpoint, 1)
        self.remove(daemon)
        self.check(image)
        self.assertEqual(self.dirty(image, 'on'), expected)
        self.assertEqual(self.dirty(image, 'off'), before)
        self.qemu_io(image, 'write 0 1M')
        self.check(image)

    def test_snapshots(self):
        """Taking one changes nothing for a bitmap, applying one everything."""
        daemon = self.wharfd()
        image = self.make()
        before = self.dirty(image, 'off')
        self.open(daemon, image)
        daemon.qmp.cmd('blockdev-snapshot-internal-sync', {'device': 'q', 'name': 'a'})
        self.remove(daemon)
        self.assertEqual(self.dirty(image, 'on'), before)
        self.open(daemon, image)
        daemon.qmp.cmd('block_resize', {'node-name': 'q', 'size': 12 * MIB})
        daemon.qmp.cmd('blockdev-snapshot-apply-internal-sync', {'device': 'q', 'name': 'a'})
        self.remove(daemon)
        self.check(image)
        self.assertEqual(self.dirty(image, 'on'), self.granules(0, self.SIZE))
        self.assertEqual(self.dirty(image, 'off'), before)


class BrokenTest(BitmapTest):
    def test_directory(self):
        """Bitmaps that cannot be right keep nobody from the data; after the first write nobody trusts them."""
        daemon = self.wharfd()
        for at, value in [(16, 2), (17, 40), (12, 0xff), (1, 0xff), (18, 0xff), (20, 0xff)]:
            with self.subTest(at=at):
                image = self.make()
                content = self.read_all(image)
                self.patch_directory(image, at, value)
                mountpoint = self.open(daemon, image)
                self.random_requests(mountpoint, content, at, n=10)
                self.remove(daemon)
                self.compare(image, content)
                self.assertEqual(self.flags(image), {'on': ['auto', 'in-use'], 'off': []} if at == 1 else {})
        self.assertEqual(daemon.log().count('persistent bitmaps cannot be used'), 5)
        self.assertEqual(daemon.log().count('a persistent bitmap cannot be kept up'), 1)

    def patch_directory(self, image, at, value):
        with open(image, 'r+b') as f:
            head = f.read(65536)
            extension = head.index(bytes.fromhex('2385287500000018')) + 8
            f.seek(int.from_bytes(head[extension + 16:extension + 24], 'big') + at)
            f.write(bytes([value]))
