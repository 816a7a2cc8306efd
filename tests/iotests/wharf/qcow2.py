# SPDX-License-Identifier: GPL-2.0-or-later
"""The base class of tests with qcow2 images."""

import itertools
import os
import random

from . import fs
from .clients import QmpError
from .iotest import IoTest
from .tools import find_tool, run, unmount

KIB = 1 << 10
MIB = 1 << 20
TIB = 1 << 40


class Qcow2Test(IoTest):
    def setUp(self):
        super().setUp()
        self.need_fuse()
        self.qemu_img = find_tool('qemu-img')
        self.qemu_io_tool = find_tool('qemu-io')

    # QEMU's side

    def create(self, name, size, *options, backing=None, backing_format='qcow2', **create):
        """A new image; create are its creation options, an underscore standing for itself."""
        path = self.path(name)
        words = [f'{key}={value}' for key, value in create.items()]
        args = ['-o', ','.join(words)] if words else []
        if backing:
            args += ['-b', backing, '-F', backing_format]
        run(self.qemu_img, 'create', '-q', '-f', 'qcow2', *args, *options, path, *([size] if size else []))
        return path

    def qemu_io(self, path, *commands, form='qcow2'):
        args = []
        for command in commands:
            args += ['-c', command]
        run(self.qemu_io_tool, '-d', 'unmap', '-f', form, *args, path)

    def reference(self, image, name='reference.raw'):
        """What QEMU reads, as a raw file."""
        path = self.path(name)
        run(self.qemu_img, 'convert', '-f', 'qcow2', '-O', 'raw', image, path)
        return path

    def scribble(self, image, size, seed, compressed=False):
        """Write to some places, zero and discard others."""
        rng = random.Random(seed)
        commands = []
        for i in range(12):
            offset = rng.randrange(size - 200 * KIB) & ~511
            length = rng.choice([512, 4 * KIB, 20 * KIB, 64 * KIB, 130 * KIB])
            kind = rng.choice(['write -P {}', 'write -P {}', 'write -z', 'write -z -u', 'discard'])
            commands.append(f'{kind.format(i + 1)} {offset} {length}')
        self.qemu_io(image, *commands)

    # Our side

    def add(self, daemon, image, node='q', **options):
        daemon.qmp.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': node, 'read-only': True,
            'file': {'driver': 'file', 'filename': image}, **options})

    def refused(self, daemon, image, *words, **options):
        with self.assertRaises(QmpError) as caught:
            self.add(daemon, image, **options)
        self.assertEqual(caught.exception.cls, 'GenericError')
        for word in words:
            self.assertIn(word, caught.exception.desc)

    def export(self, daemon, node='q', **options):
        mountpoint = self.mountpoint('mnt-' + node)
        daemon.qmp.cmd('block-export-add', {'type': 'fuse', 'id': node, 'node-name': node,
                                            'mountpoint': mountpoint, **options})
        return mountpoint

    def remove(self, daemon, node='q', exported=True):
        if exported:
            daemon.qmp.cmd('block-export-del', {'id': node})
            daemon.qmp.wait_event('BLOCK_EXPORT_DELETED', {'id': node})
        daemon.qmp.cmd('blockdev-del', {'node-name': node})

    def check_reads(self, daemon, image, reference=None, **options):
        """What the image reads as is what QEMU says."""
        self.add(daemon, image, **options)
        mountpoint = self.export(daemon)
        run('cmp', mountpoint, reference or self.reference(image))
        self.remove(daemon)

    def image_info(self, daemon, node='q'):
        for info in daemon.qmp.cmd('query-named-block-nodes'):
            if info['node-name'] == node:
                return info['image']
        self.fail(f'no node {node}')

    def kinds(self):
        """Creation options of the kinds of images."""
        for compat, bits in itertools.product(['0.10', '1.1'], [9, 12, 16, 21]):
            yield {'compat': compat, 'cluster_size': 1 << bits}
        for width in [1, 2, 4, 8, 32, 64]:
            yield {'compat': '1.1', 'cluster_size': 4 * KIB, 'refcount_bits': width}
        for bits in [14, 16, 21]:
            yield {'compat': '1.1', 'cluster_size': 1 << bits, 'extended_l2': 'on'}
        for preallocation in ['metadata', 'falloc']:
            yield {'compat': '1.1', 'preallocation': preallocation}
        yield {'compat': '1.1', 'lazy_refcounts': 'on'}


class Qcow2WriteTest(Qcow2Test):
    """Writes through the daemon; QEMU checks and reads."""

    def open(self, daemon, image, **options):
        """The image as a writable export; returns its mountpoint."""
        self.add(daemon, image, **{'read-only': False, 'discard': 'unmap', **options})
        return self.export(daemon, writable=True)

    def check(self, image):
        """QEMU finds nothing wrong, not even a leak."""
        done = run(self.qemu_img, 'check', '-f', 'qcow2', image, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def compare(self, image, content):
        """QEMU reads these bytes."""
        path = self.make_file('model.raw', content=content)
        run(self.qemu_img, 'compare', '-f', 'raw', '-F', 'qcow2', path, image)

    def random_requests(self, mountpoint, model, seed, n=60):
        """Change the disk and the model (a bytearray) in the same way."""
        rng = random.Random(seed)
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDWR)
        for _ in range(n):
            offset = rng.randrange(len(model) - 1)
            length = min(rng.choice([1, 100, 512, 4096, 20000, 65536, 200000]), len(model) - offset)
            if rng.random() < 0.5:
                offset -= offset % 4096
            what = rng.random()
            if what < 0.7:
                data = rng.randbytes(min(length, 64)) * (length // 64 + 1)
                data = data[:length]
                self.assertEqual(worker.pwrite(fd, data, offset), length)
                model[offset:offset + length] = data
            elif what < 0.9:
                mode = rng.choice([fs.FALLOC_PUNCH_HOLE | fs.FALLOC_KEEP_SIZE,
                                   fs.FALLOC_ZERO_RANGE | fs.FALLOC_KEEP_SIZE])
                worker.fallocate(fd, mode, offset, length)
                model[offset:offset + length] = bytes(length)
            else:
                worker.fsync(fd)
        worker.close(fd)

    def check_killed(self, cluster_sizes):
        """kill -9 in the middle of writes: nothing is corrupt, and what was synced is there."""
        for n, cluster_size in enumerate(cluster_sizes):
            daemon = self.wharfd()
            image = self.create('image.qcow2', 32 * MIB, cluster_size=cluster_size)
            mountpoint = self.open(daemon, image)
            worker = self.fs()
            fd = worker.open(mountpoint, os.O_RDWR)
            rng = random.Random(n)
            synced = bytearray(32 * MIB)
            for _ in range(6):
                for _ in range(20):
                    offset = rng.randrange(0, 31 * MIB) & ~511
                    data = bytes([rng.randrange(1, 256)]) * rng.choice([512, 4096, 100 * KIB])
                    worker.pwrite(fd, data, offset)
                    synced[offset:offset + len(data)] = data
                worker.fsync(fd)
            for _ in range(20):
                worker.pwrite(fd, b'\0' * 4096, rng.randrange(31 * MIB, 32 * MIB - 4096))
            daemon.kill()
            worker.kill()
            done = run(self.qemu_img, 'check', '-f', 'qcow2', image, check=False)
            self.assertIn(done.returncode, (0, 3), done.stdout + done.stderr)  # 3: leaks
            self.assertEqual(self.read_all(image)[:31 * MIB], synced[:31 * MIB])
            unmount(mountpoint)

    def read_all(self, image):
        with open(self.reference(image), 'rb') as f:
            return bytearray(f.read())
