# SPDX-License-Identifier: GPL-2.0-or-later
"""wharfctl snapshot, next to qemu-img, and mounts of snapshots."""

import json
import os

from wharf import *
from wharf.ctl import REFUSED, USAGE, CtlTest
from wharf.qcow2 import MIB


class SnapshotTest(CtlTest):
    def setUp(self):
        super().setUp()
        self.qemu_img = find_tool('qemu-img')
        self.qemu_io = find_tool('qemu-io')
        self.image = self.path('disk.qcow2')
        run(self.qemu_img, 'create', '-q', '-f', 'qcow2', self.image, '4M')
        self.write(1)

    def write(self, pattern):
        run(self.qemu_io, '-f', 'qcow2', '-c', f'write -P {pattern} 0 1M', self.image)

    def expect(self, pattern, *options):
        run(self.qemu_img, 'check', '-f', 'qcow2', self.image)
        path = self.path('content.raw')
        run(self.qemu_img, 'convert', *options, '-f', 'qcow2', '-O', 'raw', self.image, path)
        with open(path, 'rb') as f:
            self.assertEqual(f.read(), bytes([pattern]) * MIB + bytes(3 * MIB))

    def names(self):
        listed = json.loads(self.ctl('--json', 'snapshot', self.image).stdout)
        theirs = json.loads(run(self.qemu_img, 'info', '--output=json', self.image).stdout)
        self.assertEqual(listed, theirs.get('snapshots', []))
        return [s['name'] for s in listed]

    def test_all(self):
        self.assertEqual(self.ctl('snapshot', self.image).stdout, '')
        self.assertEqual(self.ctl('snapshot', '-c', 'one', self.image).stdout, '')
        self.write(2)
        self.ctl('snapshot', '--create=two', self.image)
        self.write(3)
        self.assertEqual(self.names(), ['one', 'two'])
        listed = self.ctl('snapshot', '-l', self.image).stdout
        self.assertIn('one', listed)
        self.assertIn('two', listed)
        self.ctl('snapshot', '-a', 'one', self.image)
        self.expect(1)
        self.expect(2, '-l', 'two')
        self.ctl('snapshot', '-a', '2', self.image)
        self.expect(2)
        self.ctl('snapshot', '-d', '1', self.image)
        self.ctl('snapshot', '-d', 'two', self.image)
        self.assertEqual(self.names(), [])
        self.expect(2)

    def test_backing_is_not_opened(self):
        overlay = self.path('overlay.qcow2')
        run(self.qemu_img, 'create', '-q', '-f', 'qcow2', '-b', self.image, '-F', 'qcow2', overlay)
        os.unlink(self.image)
        self.ctl('snapshot', '-c', 'one', overlay)
        self.assertIn('one', self.ctl('snapshot', overlay).stdout)

    def test_refused(self):
        self.assertIn("no snapshot with the name 'x'", self.refused('snapshot', '-d', 'x', self.image, status=REFUSED))
        self.assertIn('exclude each other',
                      self.refused('snapshot', '-c', 'a', '-d', 'b', self.image, status=USAGE))
        self.assertIn('--list', self.refused('snapshot', '-U', '-c', 'a', self.image, status=USAGE))
        self.assertIn('no such file', self.refused('snapshot', self.path('nope'), status=REFUSED).lower())
        raw = self.make_file('disk.raw', MIB)
        self.assertIn('no qcow2 image', self.refused('snapshot', '-c', 'a', raw, status=REFUSED))
        self.ctl('snapshot', '-c', 'a', self.image)
        self.assertIn("'a' already", self.refused('snapshot', '-c', 'a', self.image, status=REFUSED))

    def test_mount(self):
        self.need_fuse()
        self.ctl('snapshot', '-c', 'one', self.image)
        self.write(2)
        file = self.path('file')
        self.refused('mount', '--snapshot', 'one', self.image, file, status=USAGE)
        self.refused('mount', '-f', 'qcow2', '-w', '--snapshot', 'one', self.image, file, status=USAGE)
        self.refused('mount', '-f', 'qcow2', '--snapshot', 'none', self.image, file, status=REFUSED)
        self.ctl('mount', '-f', 'qcow2', '--snapshot', 'one', self.image, file)
        worker = self.fs()
        fd = worker.open(file, os.O_RDONLY)
        self.assertEqual(worker.pread(fd, 4096, 0), b'\1' * 4096)
        worker.close(fd)
        self.ctl('umount', file)
