# SPDX-License-Identifier: GPL-2.0-or-later
"""Clusters that are compressed when they are written; QEMU's tools check and read them."""

import json
import os
import random

from wharf import *
from wharf.qcow2 import KIB, MIB, Qcow2WriteTest


class CompressTest(Qcow2WriteTest):
    SIZE = 6 * MIB

    def open(self, daemon, image, iothread=None, **options):
        """The image as a writable export whose writes are compressed; returns its mountpoint."""
        self.add(daemon, image, **{'read-only': False, 'discard': 'unmap', **options})
        self.add_filter(daemon)
        return self.export(daemon, 'c', writable=True, **({'iothread': iothread} if iothread else {}))

    def add_filter(self, daemon, below='q'):
        daemon.qmp.cmd('blockdev-add', {'driver': 'compress', 'node-name': 'c', 'file': below, 'discard': 'unmap'})

    def close(self, daemon):
        self.remove(daemon, 'c')
        self.remove(daemon, exported=False)

    def write(self, mountpoint, data, offset=0):
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDWR)
        self.assertEqual(worker.pwrite(fd, data, offset), len(data))
        worker.close(fd)

    def clusters(self, image):
        """How many clusters are compressed."""
        text = run(self.qemu_img, 'check', '-f', 'qcow2', '--output', 'json', image).stdout
        return json.loads(text).get('compressed-clusters', 0)


class MatrixTest(CompressTest):
    def compressed_kinds(self):
        for kind in self.kinds():
            if 'preallocation' not in kind:
                yield kind
        if 'zstd: yes' in run(os.environ['WHARFD'], '--version').stdout:
            for bits in [9, 16, 21]:
                yield {'cluster_size': 1 << bits, 'compression_type': 'zstd'}
            yield {'compression_type': 'zstd', 'extended_l2': 'on'}

    @timeout(600)
    def test_all_kinds(self):
        """They write, we write compressed, they check and read; then we write some of it plainly."""
        daemon = self.wharfd('--object', 'iothread,id=t0')
        base = self.create('base.qcow2', 5 * MIB)
        self.scribble(base, 4 * MIB, 'base')
        for n, kind in enumerate(self.compressed_kinds()):
            with self.subTest(**kind):
                backing = 'base.qcow2' if n % 2 else None
                image = self.create('image.qcow2', self.SIZE + 512, backing=backing, **kind)
                self.scribble(image, self.SIZE, n)
                model = self.read_all(image)
                mountpoint = self.open(daemon, image, 't0')
                self.random_requests(mountpoint, model, n)
                self.close(daemon)
                self.check(image)
                self.compare(image, model)
                self.add(daemon, image, **{'read-only': False, 'discard': 'unmap'})
                self.random_requests(self.export(daemon, writable=True), model, n + 1000, 20)
                self.remove(daemon)
                self.check(image)
                self.compare(image, model)


class ContentTest(CompressTest):
    """What is compressed, and what it takes up."""

    def text(self, size):
        return (b'a line of text that comes again and again\n' * (size // 42 + 1))[:size]

    def test_takes_less_room(self):
        daemon = self.wharfd()
        for options in [{}, {'cluster_size': 2 * MIB}, {'extended_l2': 'on'}]:
            with self.subTest(**options):
                image = self.create('image.qcow2', 8 * MIB, **options)
                empty = os.stat(image).st_blocks * 512
                data = self.text(8 * MIB)
                self.write(self.open(daemon, image), data)
                self.close(daemon)
                self.check(image)
                self.compare(image, data)
                metadata = 2 * options.get('cluster_size', 64 * KIB)
                self.assertLess(os.stat(image).st_blocks * 512, empty + metadata + MIB)
                self.assertEqual(self.clusters(image), 8 * MIB // options.get('cluster_size', 64 * KIB))

    def test_packed(self):
        """Several compressed clusters share a cluster of the image, as QEMU has it."""
        daemon = self.wharfd()
        image = self.create('image.qcow2', 8 * MIB)
        theirs = self.path('theirs.qcow2')
        data = b''.join(random.Random(i).randbytes(20 * KIB) + bytes(44 * KIB) for i in range(128))
        self.write(self.open(daemon, image), data)
        self.close(daemon)
        self.check(image)
        raw = self.make_file('source.raw', content=data)
        run(self.qemu_img, 'convert', '-c', '-f', 'raw', '-O', 'qcow2', raw, theirs)
        self.assertLess(os.stat(image).st_blocks, os.stat(theirs).st_blocks * 1.1)

    def test_does_not_shrink(self):
        """Such clusters are stored as they are, between others that are compressed."""
        daemon = self.wharfd()
        image = self.create('image.qcow2', 4 * MIB)
        data = b''.join(random.Random(i).randbytes(64 * KIB) if i % 3 == 0 else self.text(64 * KIB) for i in range(64))
        self.write(self.open(daemon, image), data)
        self.close(daemon)
        self.check(image)
        self.compare(image, data)
        self.assertEqual(self.clusters(image), 42)

    def test_end_of_disk(self):
        """The last cluster is compressed, too, though the disk ends inside of it."""
        daemon = self.wharfd()
        size = 128 * KIB + 5 * 512
        image = self.create('image.qcow2', size)
        data = self.text(size)
        self.write(self.open(daemon, image), data)
        self.close(daemon)
        self.check(image)
        self.compare(image, data)
        self.assertEqual(self.clusters(image), 3)

    def test_parts_of_clusters(self):
        """They are merged with what is there; what is stored plainly stays so."""
        daemon = self.wharfd()
        base = self.make_file('base.raw', content=b'b' * MIB)
        image = self.create('image.qcow2', MIB, backing=base, backing_format='raw')
        self.qemu_io(image, 'write -P 7 64k 64k')
        model = self.read_all(image)
        mountpoint = self.open(daemon, image)
        for offset in [100, 5000, 64 * KIB + 77, 200 * KIB, 210 * KIB]:
            self.write(mountpoint, b'new', offset)
            model[offset:offset + 3] = b'new'
        self.close(daemon)
        self.check(image)
        self.compare(image, model)
        self.assertEqual(self.clusters(image), 2)

    def test_written_over(self):
        """Compressed clusters over others of both kinds; nothing leaks."""
        daemon = self.wharfd()
        image = self.create('image.qcow2', 4 * MIB)
        mountpoint = self.open(daemon, image)
        for turn in range(5):
            n = 1000 * (turn + 1)
            data = b''.join(random.Random(f'{turn}.{i}').randbytes(n) + bytes(64 * KIB - n) for i in range(64))
            self.write(mountpoint, data)
            worker = self.fs()
            fd = worker.open(mountpoint, os.O_RDWR)
            worker.fsync(fd)
            worker.close(fd)
        self.close(daemon)
        self.check(image)
        self.compare(image, data)
        self.assertLess(os.stat(image).st_size, 3 * MIB)

    def test_zeros(self):
        daemon = self.wharfd()
        image = self.create('image.qcow2', 4 * MIB)
        mountpoint = self.open(daemon, image, **{'detect-zeroes': 'unmap'})
        self.write(mountpoint, bytes(512 * KIB))
        self.close(daemon)
        self.check(image)
        self.assertEqual(self.clusters(image), 0)
        self.assertLess(os.stat(image).st_blocks * 512, MIB)


class ControlTest(CompressTest):
    def refused_filter(self, daemon, below, *words):
        with self.assertRaises(QmpError) as caught:
            self.add_filter(daemon, below)
        for word in words:
            self.assertIn(word, caught.exception.desc)

    def test_refused(self):
        """Over what cannot compress."""
        daemon = self.wharfd()
        raw = self.make_file('raw', MIB)
        image = self.create('image.qcow2', MIB, data_file=self.path('data.bin'))
        self.add(daemon, image, **{'read-only': False})
        daemon.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': {
            'driver': 'file', 'node-name': 'f', 'filename': raw}})
        self.refused_filter(daemon, 'q', "node 'q'", 'external data file')
        self.refused_filter(daemon, 'r', "node 'r'", "driver 'raw'", 'qcow2')
        self.refused_filter(daemon, 'f', "driver 'file'")
        self.refused_filter(daemon, 'nobody', 'nobody')

    def test_reopen(self):
        """The node below can be exchanged for another one that can compress."""
        daemon = self.wharfd()
        first = self.create('first.qcow2', MIB)
        second = self.create('second.qcow2', MIB)
        self.add(daemon, first, **{'read-only': False})
        self.add(daemon, second, 'q2', **{'read-only': False})
        self.add_filter(daemon)
        daemon.qmp.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'n', 'size': MIB})
        options = {'driver': 'compress', 'node-name': 'c', 'discard': 'unmap'}
        with self.assertRaises(QmpError):
            daemon.qmp.cmd('blockdev-reopen', {'options': [{**options, 'file': 'n'}]})
        daemon.qmp.cmd('blockdev-reopen', {'options': [{**options, 'file': 'q2'}]})
        self.write(self.export(daemon, 'c', writable=True), b'text' * 64 * KIB)
        self.remove(daemon, 'c')
        for node in 'q', 'q2':
            self.remove(daemon, node, exported=False)
        self.assertEqual(self.clusters(first), 0)
        self.assertEqual(self.clusters(second), 4)

    def test_as_in_qsd(self):
        """The same command lines mean the same there."""
        image = self.create('image.qcow2', MIB)
        daemon = self.wharfd('--blockdev', f'driver=qcow2,node-name=q,file.driver=file,file.filename={image}',
                             '--blockdev', 'driver=compress,node-name=c,file=q')
        daemon.qmp.cmd('quit')
        daemon.wait()
        qsd = find_tool('qemu-storage-daemon')
        run(qsd, '--blockdev', f'driver=qcow2,node-name=q,file.driver=file,file.filename={image}',
            '--blockdev', 'driver=compress,node-name=c,file=q', '--nbd-server',
            f'addr.type=unix,addr.path={self.path("nbd")}', '--pidfile', self.path('pid'), '--daemonize')
        with open(self.path('pid'), encoding='ascii') as f:
            os.kill(int(f.read()), 15)

    @timeout(300)
    def test_killed(self):
        self.check_killed([4 * KIB, 64 * KIB, 64 * KIB])


if __name__ == '__main__':
    main()
