# SPDX-License-Identifier: GPL-2.0-or-later
"""qcow2 images written through the daemon; QEMU's tools check and read them, and write in between."""

import itertools
import json
import os
import random

from wharf import *
from wharf.qcow2 import KIB, MIB, TIB, Qcow2WriteTest


class MatrixTest(Qcow2WriteTest):
    SIZE = 6 * MIB

    def go_through(self, kind, backing=None, seed=0, options=None):
        """They write, we write, they check, and once more."""
        backing, form = backing or (None, None)
        image = self.create('image.qcow2', self.SIZE, backing=backing, backing_format=form, **kind)
        for turn in range(2):
            self.scribble(image, self.SIZE, f'{seed}.{turn}')
            model = self.read_all(image)
            mountpoint = self.open(self.daemon, image, **(options or {}))
            self.random_requests(mountpoint, model, f'{seed}.{turn}')
            self.remove(self.daemon)
            self.check(image)
            self.compare(image, model)

    @timeout(600)
    def test_plain(self):
        self.daemon = self.wharfd()
        for n, kind in enumerate(self.kinds()):
            with self.subTest(**kind):
                self.go_through(kind, seed=n)

    @timeout(600)
    def test_backing(self):
        self.daemon = self.wharfd()
        raw = self.make_file('base.raw', 4 * MIB + 1536, random.Random(1).randbytes(3 * MIB))
        base = self.create('base.qcow2', 5 * MIB, cluster_size=1 * MIB)
        self.scribble(base, 4 * MIB, 'base')
        for n, kind in enumerate(self.kinds()):
            if 'preallocation' in kind:
                continue
            backing = [(raw, 'raw'), ('base.qcow2', 'qcow2')][n % 2]
            with self.subTest(backing=backing, **kind):
                self.go_through(kind, backing=backing, seed=n)
        self.check(base)

    @timeout(300)
    def test_options(self):
        self.daemon = self.wharfd()
        for n, options in enumerate([
                {'l2-cache-size': 8192, 'l2-cache-entry-size': 4096}, {'discard-no-unref': True},
                {'pass-discard-request': False}, {'discard': 'ignore'}, {'refcount-cache-size': 0},
                {'detect-zeroes': 'unmap'}, {'cache': {'direct': True}}]):
            with self.subTest(options=options):
                self.go_through({'cluster_size': 4 * KIB}, seed=n, options=options)

    @timeout(300)
    def test_compressed(self):
        """Compressed clusters are written over, and parts of them."""
        daemon = self.wharfd()
        source = self.make_file('source.raw', self.SIZE, b''.join(
            bytes([i & 255]) * 3000 + random.Random(i).randbytes(700) for i in range(900)))
        for bits, extended in [(12, 'off'), (16, 'off'), (16, 'on')]:
            image = self.path('image.qcow2')
            run(self.qemu_img, 'convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o',
                f'cluster_size={1 << bits},extended_l2={extended}', source, image)
            model = self.read_all(image)
            mountpoint = self.open(daemon, image)
            self.random_requests(mountpoint, model, bits)
            self.remove(daemon)
            self.check(image)
            self.compare(image, model)

    @timeout(300)
    def test_data_file(self):
        daemon = self.wharfd()
        for raw, extended in itertools.product(['on', 'off'], ['on', 'off']):
            with self.subTest(raw=raw, extended=extended):
                data = self.path('data.bin')
                if os.path.exists(data):
                    os.unlink(data)
                image = self.create('image.qcow2', self.SIZE, data_file=data, data_file_raw=raw,
                                    extended_l2=extended)
                self.scribble(image, self.SIZE, raw)
                model = self.read_all(image)
                mountpoint = self.open(daemon, image)
                self.random_requests(mountpoint, model, raw)
                self.remove(daemon)
                self.check(image)
                self.compare(image, model)
                if raw == 'on':
                    with open(data, 'rb') as f:
                        self.assertEqual(f.read(), bytes(model))

    @timeout(300)
    def test_snapshots(self):
        """A snapshot stays as it was while the disk is written to."""
        daemon = self.wharfd()
        for kind in [{'cluster_size': 4 * KIB}, {'cluster_size': 64 * KIB, 'extended_l2': 'on'},
                     {'compat': '0.10'}]:
            with self.subTest(**kind):
                image = self.create('image.qcow2', self.SIZE, **kind)
                self.scribble(image, self.SIZE, 1)
                before = self.read_all(image)
                run(self.qemu_img, 'snapshot', '-c', 'before', image)
                mountpoint = self.open(daemon, image)
                model = bytearray(before)
                self.random_requests(mountpoint, model, 2)
                self.remove(daemon)
                self.check(image)
                self.compare(image, model)
                run(self.qemu_img, 'snapshot', '-a', 'before', image)
                self.check(image)
                self.compare(image, before)
                run(self.qemu_img, 'snapshot', '-d', 'before', image)
                self.check(image)


class LengthTest(Qcow2WriteTest):
    def resize(self, daemon, size):
        daemon.qmp.cmd('block_resize', {'node-name': 'q', 'size': size})

    def test_grow_and_shrink(self):
        daemon = self.wharfd()
        for kind in [{'cluster_size': 512}, {'cluster_size': 64 * KIB}, {'compat': '0.10'},
                     {'extended_l2': 'on'}]:
            with self.subTest(**kind):
                image = self.create('image.qcow2', MIB, **kind)
                self.qemu_io(image, 'write -P 7 0 1M')
                mountpoint = self.open(daemon, image)
                worker = self.fs()
                self.resize(daemon, 700 * KIB + 512)
                self.resize(daemon, 4 * MIB)
                fd = worker.open(mountpoint, os.O_RDWR)
                self.assertEqual(worker.pwrite(fd, b'end', 4 * MIB - 3), 3)
                worker.close(fd)
                self.remove(daemon)
                self.check(image)
                size = 700 * KIB + 512
                self.compare(image, b'\7' * size + bytes(4 * MIB - size - 3) + b'end')

    def test_grow_beyond_backing(self):
        """What is added reads as zeros, whatever the backing file has there."""
        daemon = self.wharfd()
        base = self.make_file('base.raw', 4 * MIB, b'b' * 4 * MIB)
        image = self.create('image.qcow2', MIB, backing=base, backing_format='raw')
        self.open(daemon, image)
        self.resize(daemon, 3 * MIB)
        self.remove(daemon)
        self.check(image)
        self.compare(image, b'b' * MIB + bytes(2 * MIB))

    def test_grow_over_rest_of_data_file(self):
        """What a data file that is the disk has behind its end does not show up, either."""
        daemon = self.wharfd()
        data = self.path('data.raw')
        image = self.create('image.qcow2', MIB, data_file=data, data_file_raw='on')
        self.qemu_io(image, 'write -P 7 0 1M')
        with open(data, 'ab') as file:
            file.write(b'rest' * MIB)
        self.open(daemon, image)
        self.resize(daemon, 3 * MIB)
        self.remove(daemon)
        self.check(image)
        self.compare(image, b'\7' * MIB + bytes(2 * MIB))
        with open(data, 'rb') as file:
            self.assertEqual(file.read(), b'\7' * MIB + bytes(2 * MIB))

    def test_very_large(self):
        daemon = self.wharfd()
        image = self.create('image.qcow2', MIB)
        mountpoint = self.open(daemon, image)
        self.resize(daemon, 16 * TIB)
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDWR)
        self.assertEqual(worker.pwrite(fd, b'far', 16 * TIB - 1000), 3)
        worker.close(fd)
        self.remove(daemon)
        self.check(image)
        self.assertLess(os.stat(image).st_blocks * 512, 4 * MIB)

    def test_refused(self):
        daemon = self.wharfd()
        image = self.create('image.qcow2', MIB)
        self.open(daemon, image)
        for size in [1000, 1 << 62]:
            with self.assertRaises(QmpError):
                self.resize(daemon, size)
        self.remove(daemon)
        self.check(image)

    def test_refcount_table_grows(self):
        daemon = self.wharfd()
        image = self.create('image.qcow2', 64 * MIB, cluster_size=512)
        mountpoint = self.open(daemon, image)
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDWR)
        model = bytearray(64 * MIB)
        for offset in range(0, 40 * MIB, MIB):
            data = bytes([offset // MIB + 1]) * MIB
            self.assertEqual(worker.pwrite(fd, data, offset), MIB)
            model[offset:offset + MIB] = data
        worker.close(fd)
        self.remove(daemon)
        self.check(image)
        self.compare(image, model)


class FileSystemTest(Qcow2WriteTest):
    """A file system that lives in an overlay, as a virtual machine's does."""

    def work_inside(self, mountpoint, name, there=None):
        """Write, delete and trim; before that the files of an earlier call must be there."""
        inner = self.path('inner')
        os.makedirs(inner, exist_ok=True)
        loop = run(find_tool('losetup'), '--find', '--show', mountpoint).stdout.strip()
        try:
            run('mount', '-o', 'discard', loop, inner)
            try:
                for i in range(1, 20, 3) if there else ():
                    with open(os.path.join(inner, f'{there}{i}'), 'rb') as f:
                        self.assertEqual(f.read(), random.Random(f'{there}{i}').randbytes(70000 + i * 1000))
                for i in range(20):
                    with open(os.path.join(inner, f'{name}{i}'), 'wb') as f:
                        f.write(random.Random(f'{name}{i}').randbytes(70000 + i * 1000))
                        os.fsync(f.fileno())
                for i in range(0, 20, 3):
                    os.unlink(os.path.join(inner, f'{name}{i}'))
                find_tool('fstrim') and run('fstrim', inner)
            finally:
                run('umount', inner)
        finally:
            run(find_tool('losetup'), '-d', loop)

    def check_files(self, raw, names):
        for name in names:
            for i in range(1, 20, 3):
                out = self.path('out')
                run(find_tool('debugfs'), '-R', f'dump {name}{i} {out}', raw)
                with open(out, 'rb') as f:
                    self.assertEqual(f.read(), random.Random(f'{name}{i}').randbytes(70000 + i * 1000))

    @timeout(300)
    def test_ext4_in_an_overlay(self):
        self.need_loop()
        daemon = self.wharfd('--object', 'iothread,id=t0')
        base = self.create('base.qcow2', 64 * MIB)
        mountpoint = self.open(daemon, base)
        run(find_tool('mkfs.ext4'), '-q', '-F', mountpoint)
        self.work_inside(mountpoint, 'base')
        self.remove(daemon)
        self.check(base)
        before = self.read_all(base)
        image = self.create('overlay.qcow2', 64 * MIB, backing='base.qcow2', extended_l2='on')
        self.add(daemon, image, **{'read-only': False, 'discard': 'unmap'})
        mountpoint = self.export(daemon, writable=True, iothread='t0')
        self.work_inside(mountpoint, 'overlay')
        run(find_tool('fsck.ext4'), '-fn', mountpoint)
        self.remove(daemon)
        self.check(image)
        self.check(base)
        self.assertEqual(self.read_all(base), before)
        raw = self.reference(image)
        run(find_tool('fsck.ext4'), '-fn', raw)
        self.check_files(raw, ['base', 'overlay'])

    @timeout(300)
    def test_xfs_in_an_overlay(self):
        self.need_loop()
        daemon = self.wharfd('--object', 'iothread,id=t0')
        base = self.create('base.qcow2', 320 * MIB)
        mountpoint = self.open(daemon, base)
        run(find_tool('mkfs.xfs'), '-q', mountpoint)
        self.work_inside(mountpoint, 'base')
        self.remove(daemon)
        self.check(base)
        image = self.create('overlay.qcow2', 320 * MIB, backing='base.qcow2', cluster_size=2 * MIB)
        self.add(daemon, image, **{'read-only': False, 'discard': 'unmap'})
        mountpoint = self.export(daemon, writable=True, iothread='t0')
        self.work_inside(mountpoint, 'overlay', 'base')
        run(find_tool('xfs_repair'), '-n', '-f', mountpoint)
        self.remove(daemon)
        self.check(image)
        self.check(base)
        run(find_tool('xfs_repair'), '-n', '-f', self.reference(image))


class CrashTest(Qcow2WriteTest):
    @timeout(300)
    def test_killed(self):
        self.check_killed([4 * KIB, 64 * KIB, 4 * KIB, 64 * KIB])


if __name__ == '__main__':
    main()
