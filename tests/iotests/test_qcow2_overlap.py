# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes that an image directs at its own metadata: prevented, or not, and told, as by QSD."""

import shutil
import struct

from wharf import *
from wharf.qcow2 import KIB, MIB, Qcow2WriteTest

COPIED = 1 << 63
CLUSTER = 64 * KIB
WRONG = 5  # a cluster of the disk


class OverlapTest(Qcow2WriteTest):
    def setUp(self):
        super().setUp()
        find_tool('qemu-storage-daemon')

    def word(self, image, offset):
        with open(image, 'rb') as f:
            f.seek(offset)
            return struct.unpack('>Q', f.read(8))[0]

    def put(self, image, offset, data):
        with open(image, 'r+b') as f:
            f.seek(offset)
            f.write(data)

    def make(self):
        """An image with a snapshot, and where its metadata lies."""
        image = self.create('image.qcow2', 8 * MIB)
        self.qemu_io(image, 'write -P 1 0 64k')
        run(self.qemu_img, 'snapshot', '-c', 's', image)
        self.qemu_io(image, 'write -P 1 0 64k')
        at = {'active-l1': self.word(image, 40), 'refcount-table': self.word(image, 48),
              'snapshot-table': self.word(image, 64)}
        at['active-l2'] = self.word(image, at['active-l1']) & ~COPIED
        at['refcount-block'] = self.word(image, at['refcount-table'])
        at['inactive-l1'] = self.word(image, at['snapshot-table'])
        at['inactive-l2'] = self.word(image, at['inactive-l1']) & ~COPIED
        return image, at

    def write(self, daemon, image, mode, name):
        """Write to the cluster; whether that went well, and what was told about it."""
        socket = self.path(name + '.sock')
        self.add(daemon, image, **{'read-only': False, 'overlap-check': mode})
        daemon.qmp.cmd('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': socket}}})
        daemon.qmp.cmd('block-export-add',
                       {'type': 'nbd', 'id': 'q', 'node-name': 'q', 'writable': True})
        done = run(self.qemu_io_tool, '-f', 'raw', '-c', f'write -P 7 {WRONG * CLUSTER + 60 * KIB} 512',
                   f'nbd+unix:///q?socket={socket}', check=False)
        daemon.qmp.cmd('query-version')
        events = [e['data'] for e in daemon.qmp.events if e['event'] == 'BLOCK_IMAGE_CORRUPTED']
        daemon.qmp.cmd('quit')
        daemon.wait()
        for event in events:
            self.assertTrue(event.pop('msg'))
        return done.returncode == 0, events

    def try_both(self, image, kind, at, mode):
        """What comes of it by either daemon."""
        found = []
        for name, start in [('qsd', self.qsd), ('wharfd', self.wharfd)]:
            copy = self.path(name + '.qcow2')
            shutil.copy(image, copy)
            ok, events = self.write(start(name=name), copy, mode, name)
            marked = bool(self.word(copy, 72) & 2)
            with open(copy, 'rb') as f:
                f.seek(at[kind] + 60 * KIB)
                hit = f.read(512) == b'\7' * 512
            found.append((ok, events, marked, hit))
        return found

    def test_in_place(self):
        """An entry of the disk names metadata."""
        for kind, mode, prevented in [
                ('active-l2', 'cached', True), ('active-l2', 'constant', False),
                ('refcount-block', 'cached', True), ('refcount-block', 'none', False),
                ('inactive-l1', 'cached', True), ('snapshot-table', 'constant', True),
                ('inactive-l2', 'cached', False), ('inactive-l2', 'all', True),
                ('inactive-l2', {'template': 'none', 'inactive-l2': True}, True)]:
            with self.subTest(kind=kind, mode=mode):
                image, at = self.make()
                self.put(image, at['active-l2'] + WRONG * 8, struct.pack('>Q', at[kind] | COPIED))
                theirs, ours = self.try_both(image, kind, at, mode)
                self.assertEqual(ours, theirs)
                self.assertEqual(ours[0], not prevented)
                self.assertEqual(ours[3], not prevented)
                if prevented:
                    self.assertEqual(ours[1], [{'device': '', 'node-name': 'q', 'fatal': True,
                                                'offset': at[kind] + 60 * KIB, 'size': 512}])

    def test_counted_as_free(self):
        """Metadata has a refcount of 0, so that it could be given away."""
        for kind, mode in [('active-l2', 'cached'), ('inactive-l1', 'cached'), ('active-l1', 'constant')]:
            with self.subTest(kind=kind, mode=mode):
                image, at = self.make()
                self.put(image, at['refcount-block'] + at[kind] // CLUSTER * 2, b'\0\0')
                theirs, ours = self.try_both(image, kind, at, mode)
                for ok, events, marked, hit in theirs, ours:
                    self.assertEqual((ok, len(events), marked, hit), (False, 1, True, False))
                self.assertEqual(ours[1][0]['offset'], at[kind])
                self.assertEqual(ours[1][0]['size'], CLUSTER)


if __name__ == '__main__':
    main()
