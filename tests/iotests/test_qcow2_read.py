# SPDX-License-Identifier: GPL-2.0-or-later
"""qcow2 images that QEMU's tools made, read through the daemon."""

import itertools
import json
import os
import random
import struct

from wharf import *
from wharf.qcow2 import KIB, MIB, TIB, Qcow2Test


class MatrixTest(Qcow2Test):
    """Images of every kind."""

    SIZE = 6 * MIB

    @timeout(300)
    def test_plain(self):
        daemon = self.wharfd()
        for n, kind in enumerate(self.kinds()):
            with self.subTest(**kind):
                image = self.create('image.qcow2', self.SIZE, **kind)
                self.scribble(image, self.SIZE, n)
                self.check_reads(daemon, image)

    @timeout(300)
    def test_backing(self):
        """Each kind over a raw and over a qcow2 image that is shorter."""
        daemon = self.wharfd()
        raw = self.make_file('base.raw', 4 * MIB + 1536, random.Random(1).randbytes(3 * MIB))
        base = self.create('base.qcow2', 5 * MIB, cluster_size=1 * MIB)
        self.scribble(base, 4 * MIB, 'base')
        for n, kind in enumerate(self.kinds()):
            if 'preallocation' in kind:
                continue
            backing, form = [(raw, 'raw'), ('base.qcow2', 'qcow2')][n % 2]
            with self.subTest(backing=form, **kind):
                image = self.create('image.qcow2', self.SIZE, backing=backing, backing_format=form, **kind)
                self.scribble(image, self.SIZE, n)
                self.check_reads(daemon, image)

    @timeout(300)
    def test_compressed(self):
        daemon = self.wharfd()
        source = self.make_file('source.raw', self.SIZE, b''.join(
            bytes([i & 255]) * 3000 + random.Random(i).randbytes(700) for i in range(900)))
        kinds = [{'cluster_size': 1 << bits, 'compression_type': kind}
                 for bits, kind in itertools.product([9, 12, 16, 21], ['zlib', 'zstd'])]
        kinds += [{'compat': '0.10'}, {'extended_l2': 'on', 'compression_type': 'zlib'}]
        for kind in kinds:
            with self.subTest(**kind):
                image = self.path('image.qcow2')
                words = ','.join(f'{key}={value}' for key, value in kind.items())
                run(self.qemu_img, 'convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', words, source, image)
                if kind.get('compression_type') == 'zstd' and 'zstd: no' in self.version():
                    self.refused(daemon, image, 'zstd, which this build cannot do')
                    continue
                self.qemu_io(image, 'write -P 99 100k 200k')
                self.check_reads(daemon, image)

    def version(self):
        return run(os.environ['WHARFD'], '--version').stdout

    @timeout(300)
    def test_data_file(self):
        daemon = self.wharfd()
        for raw, bits, extended in itertools.product(['on', 'off'], [12, 16], ['on', 'off']):
            kind = {'cluster_size': 1 << max(bits, 14 if extended == 'on' else 0),
                    'data_file': self.path('data.bin'), 'data_file_raw': raw, 'extended_l2': extended}
            with self.subTest(**kind):
                if os.path.exists(kind['data_file']):
                    os.unlink(kind['data_file'])
                image = self.create('image.qcow2', self.SIZE, **kind)
                self.scribble(image, self.SIZE, raw)
                reference = self.reference(image)
                self.check_reads(daemon, image, reference)
                moved = self.path('moved.bin')
                os.rename(kind['data_file'], moved)
                self.refused(daemon, image, kind['data_file'])
                self.check_reads(daemon, image, reference,
                                 **{'data-file': {'driver': 'file', 'filename': moved}})

    @timeout(300)
    def test_iothreads(self):
        """Several readers in several threads, with a cache that is far too small."""
        daemon = self.wharfd('--object', 'iothread,id=t0', '--object', 'iothread,id=t1')
        image = self.create('image.qcow2', 64 * MIB, cluster_size=4 * KIB)
        self.qemu_io(image, *[f'write -P {i % 250 + 1} {i * 2}M 1M' for i in range(32)])
        reference = self.reference(image)
        self.add(daemon, image, **{'l2-cache-size': 8192, 'l2-cache-entry-size': 512})
        for n in range(4):
            daemon.qmp.cmd('block-export-add', {
                'type': 'fuse', 'id': f'e{n}', 'node-name': 'q', 'iothread': f't{n % 2}',
                'mountpoint': self.mountpoint(f'mnt{n}')})
        workers = [self.fs() for _ in range(4)]
        wanted = open(reference, 'rb').read()
        for n, worker in enumerate(workers):
            fd = worker.open(self.path(f'mnt{n}'), os.O_RDONLY)
            for offset in range(n * 8 * MIB, 64 * MIB, 5 * MIB):
                self.assertEqual(worker.pread(fd, MIB, offset), wanted[offset:offset + MIB])
            worker.close(fd)


class ChainTest(Qcow2Test):
    def test_five_overlays(self):
        daemon = self.wharfd()
        self.make_file('o0.raw', 3 * MIB, random.Random(5).randbytes(MIB))
        below, form = 'o0.raw', 'raw'
        for n in range(1, 6):
            image = self.create(f'o{n}.qcow2', 4 * MIB + n * MIB, backing=below, backing_format=form,
                                cluster_size=1 << (8 + 2 * n))
            self.scribble(image, 4 * MIB, n)
            below, form = f'o{n}.qcow2', 'qcow2'
        self.check_reads(daemon, image)
        self.add(daemon, image)
        info = daemon.qmp.cmd('query-named-block-nodes')[0]
        self.assertEqual(info['node-name'], 'q')
        self.assertEqual(info['backing_file'], self.path('o4.qcow2'))
        self.assertEqual(info['backing_file_depth'], 5)
        depth, at = 0, info['image']
        while 'backing-image' in at:
            depth, at = depth + 1, at['backing-image']
        self.assertEqual(depth, 5)
        self.assertEqual(at['filename'], self.path('o0.raw'))

    def test_backing_by_options(self):
        daemon = self.wharfd()
        base = self.make_file('base.raw', 2 * MIB, b'b' * MIB)
        image = self.create('image.qcow2', 2 * MIB, backing=base, backing_format='raw')
        self.qemu_io(image, 'write -P 1 64k 64k')
        reference = self.reference(image)
        os.rename(base, self.path('elsewhere.raw'))
        self.refused(daemon, image, base)
        self.check_reads(daemon, image, reference, backing={
            'driver': 'raw', 'file': {'driver': 'file', 'filename': self.path('elsewhere.raw')}})
        with open(self.path('without.raw'), 'wb') as f:
            f.write(b'\0' * 64 * KIB + b'\1' * 64 * KIB)
            f.truncate(2 * MIB)
        self.check_reads(daemon, image, self.path('without.raw'), backing=None)
        self.check_reads(daemon, image, self.path('without.raw'), backing='')

    def test_no_backing_by_command_line(self):
        """Where there is no null: an empty name, as with QSD."""
        image = self.create('image.qcow2', MIB, backing=self.make_file('base.raw', MIB, b'b'), backing_format='raw')
        options = f'qcow2,node-name=n,file.driver=file,file.filename={image},'
        daemon = self.wharfd('--blockdev', options + 'backing=')
        self.assertNotIn('backing_file', daemon.qmp.cmd('query-named-block-nodes')[0])
        daemon.qmp.cmd('blockdev-reopen', {'options': [{
            'driver': 'qcow2', 'node-name': 'n', 'file': '#block000', 'backing': ''}]})

    def test_no_format(self):
        daemon = self.wharfd()
        base = self.make_file('base.raw', MIB)
        image = self.create('image.qcow2', MIB, backing=base, backing_format='raw')
        run(self.qemu_img, 'rebase', '-u', '-f', 'qcow2', '-b', base, image, check=False)
        data = bytearray(open(image, 'rb').read())
        at = data.find(bytes.fromhex('e2792aca'))
        if at >= 0:
            data[at:at + 4] = b'\x12\x34\x56\x78'
            with open(image, 'wb') as f:
                f.write(data)
        self.refused(daemon, image, base, 'format', 'not guessed', "'backing'")

    def test_names_not_followed(self):
        daemon = self.wharfd()
        secret = self.make_file('secret', MIB, b'secret')
        image = self.create('image.qcow2', MIB, backing=secret, backing_format='raw')
        self.refused(daemon, image, secret, 'follow-names', **{'follow-names': False})
        self.add(daemon, image, backing=None, **{'follow-names': False})
        self.remove(daemon, exported=False)

    def test_image_over_itself(self):
        """A chain without an end is refused before it has taken much memory."""
        daemon = self.wharfd()
        image = self.create('image.qcow2', MIB)
        run(self.qemu_img, 'rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', 'image.qcow2', image)
        self.refused(daemon, image, 'more than 64 nodes')
        self.assertEqual(daemon.qmp.cmd('query-named-block-nodes'), [])


class InfoTest(Qcow2Test):
    def test_as_qemu_img_says(self):
        daemon = self.wharfd()
        kinds = [{'compat': '0.10'}, {'compat': '1.1', 'lazy_refcounts': 'on', 'refcount_bits': 8},
                 {'extended_l2': 'on', 'compression_type': 'zstd', 'cluster_size': 128 * KIB},
                 {'data_file': self.path('d.bin'), 'data_file_raw': 'on'}]
        for kind in kinds:
            with self.subTest(**kind):
                image = self.create('image.qcow2', 3 * MIB, **kind)
                theirs = json.loads(run(self.qemu_img, 'info', '--output=json', image).stdout)
                self.add(daemon, image)
                ours = self.image_info(daemon)
                for key in ['filename', 'format', 'virtual-size', 'cluster-size', 'dirty-flag']:
                    self.assertEqual(ours[key], theirs[key], key)
                self.assertEqual(ours['format-specific'], theirs['format-specific'])
                self.remove(daemon, exported=False)

    def test_snapshots(self):
        daemon = self.wharfd()
        image = self.create('image.qcow2', MIB)
        for name in ['first', 'the second', 'dritte']:
            run(self.qemu_img, 'snapshot', '-c', name, image)
        theirs = json.loads(run(self.qemu_img, 'info', '--output=json', image).stdout)['snapshots']
        self.add(daemon, image)
        ours = self.image_info(daemon)['snapshots']
        self.assertEqual([s['name'] for s in ours], ['first', 'the second', 'dritte'])
        for a, b in zip(ours, theirs):
            self.assertEqual(a, {key: b[key] for key in a})

    def test_backing_names(self):
        daemon = self.wharfd()
        self.make_file('base.raw', MIB)
        image = self.create('image.qcow2', MIB, backing='base.raw', backing_format='raw')
        self.add(daemon, image)
        info = self.image_info(daemon)
        self.assertEqual(info['backing-filename'], 'base.raw')
        self.assertEqual(info['full-backing-filename'], self.path('base.raw'))
        self.assertEqual(info['backing-filename-format'], 'raw')

    def test_holes(self):
        """SEEK_DATA and SEEK_HOLE follow the clusters, here and in the backing file."""
        daemon = self.wharfd()
        base = self.create('base.qcow2', 16 * MIB)
        self.qemu_io(base, 'write -P 1 4M 1M')
        image = self.create('image.qcow2', 16 * MIB, backing=base)
        self.qemu_io(image, 'write -P 2 8M 1M', 'write -z 4M 512k')
        self.add(daemon, image)
        mountpoint = self.export(daemon)
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDONLY)
        found, at = [], 0
        while True:
            try:
                start = worker.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            at = worker.lseek(fd, start, os.SEEK_HOLE)
            found.append((start, at))
        worker.close(fd)
        self.assertEqual(found, [(4 * MIB + 512 * KIB, 5 * MIB), (8 * MIB, 9 * MIB)])


class LargeTest(Qcow2Test):
    def memory(self, daemon):
        """Resident memory of the daemon in bytes."""
        with open(f'/proc/{daemon.pid}/statm', encoding='ascii') as f:
            return int(f.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

    @normal_build_only
    def test_one_tebibyte(self):
        daemon = self.wharfd()
        image = self.create('image.qcow2', TIB)
        offsets = [0, 511 * MIB, 300 << 30, TIB - MIB]
        self.qemu_io(image, *[f'write -P {n + 1} {offset} 1M' for n, offset in enumerate(offsets)])
        before = self.memory(daemon)
        self.add(daemon, image)
        self.assertLess(self.memory(daemon) - before, 4 * MIB)
        mountpoint = self.export(daemon)
        worker = self.fs()
        self.assertEqual(worker.stat(mountpoint).st_size, TIB)
        fd = worker.open(mountpoint, os.O_RDONLY)
        for n, offset in enumerate(offsets):
            self.assertEqual(worker.pread(fd, MIB, offset), bytes([n + 1]) * MIB)
        self.assertEqual(worker.lseek(fd, 2 * MIB, os.SEEK_DATA), 511 * MIB)
        self.assertEqual(worker.lseek(fd, 512 * MIB, os.SEEK_DATA), 300 << 30)
        worker.close(fd)
        self.assertLess(self.memory(daemon) - before, 48 * MIB)


class RefusedTest(Qcow2Test):
    def patched(self, name, *patches):
        """An image with a cluster of data at 0; patches are pairs of offset and bytes."""
        image = self.create(name, MIB)
        self.qemu_io(image, 'write -P 1 0 64k')
        with open(image, 'r+b') as f:
            for offset, data in patches:
                f.seek(offset)
                f.write(data)
        return image

    def test_encrypted(self):
        """Told by the field alone: qemu-img cannot make such an image while the machine is busy."""
        daemon = self.wharfd()
        for method, name in [(1, 'AES'), (2, 'LUKS')]:
            image = self.patched('encrypted.qcow2', (32, struct.pack('>I', method)))
            self.refused(daemon, image, name)

    def test_for_info(self):
        """A node that tells all about its image, and has nothing to read or write."""
        daemon = self.wharfd()
        for method, name in [(1, 'aes'), (2, 'luks')]:
            image = self.patched('encrypted.qcow2', (32, struct.pack('>I', method)))
            self.refused(daemon, image, 'read-only', **{'for-info': True, 'read-only': False})
            self.add(daemon, image, **{'for-info': True})
            node = next(n for n in daemon.qmp.cmd('query-named-block-nodes') if n['node-name'] == 'q')
            self.assertTrue(node['encrypted'])
            self.assertTrue(node['image']['encrypted'])
            self.assertEqual(node['image']['virtual-size'], MIB)
            self.assertEqual(node['image']['format-specific']['data']['encrypt'], {'format': name})
            self.assertEqual(os.path.getsize(self.export(daemon)), 0)
            self.assertEqual(daemon.qmp.cmd('blockdev-check', {'node-name': 'q'})['check-errors'], 0)
            self.remove(daemon)
        image = self.patched('encrypted.qcow2', (32, struct.pack('>I', 3)))
        self.refused(daemon, image, 'method 3', **{'for-info': True})

    def test_features(self):
        daemon = self.wharfd()
        image = self.patched('future.qcow2', (72, struct.pack('>Q', 1 << 17)))
        self.refused(daemon, image, image, 'bit 17')

    def test_raw_image(self):
        daemon = self.wharfd()
        self.refused(daemon, self.make_file('raw.img', MIB), 'raw.img', 'no qcow2 image')

    def test_corrupt_in_use(self):
        """An entry that is wrong: an error for who reads it, an event once, and the rest can be read."""
        daemon = self.wharfd()
        image = self.create('image.qcow2', MIB)
        self.qemu_io(image, 'write -P 1 0 64k', 'write -P 2 512k 64k')
        with open(image, 'r+b') as f:
            f.seek(40)
            l1_offset = struct.unpack('>Q', f.read(8))[0]
            f.seek(l1_offset)
            l2_offset = struct.unpack('>Q', f.read(8))[0] & 0x00fffffffffffe00
            f.seek(l2_offset)
            f.write(struct.pack('>Q', 1 << 63 | 1 << 40))
        self.add(daemon, image)
        self.assertFalse(self.image_info(daemon)['format-specific']['data']['corrupt'])
        mountpoint = self.export(daemon)
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDONLY)
        for _ in range(2):
            with self.assertRaises(OSError):
                worker.pread(fd, 4096, 0)
        event = daemon.qmp.wait_event('BLOCK_IMAGE_CORRUPTED', {'node-name': 'q', 'fatal': False})
        self.assertIn('past the end of the file', event['data']['msg'])
        self.assertEqual(worker.pread(fd, 4096, 512 * KIB), b'\2' * 4096)
        worker.close(fd)
        self.assertTrue(self.image_info(daemon)['format-specific']['data']['corrupt'])
        self.assertEqual(daemon.log().count('image is corrupt'), 1)

    def test_marked_corrupt_or_dirty(self):
        """Both can be read, and are told."""
        daemon = self.wharfd()
        image = self.patched('dirty.qcow2', (72, struct.pack('>Q', 3)))
        self.refused(daemon, image, 'corrupt', 'wharfctl check', **{'read-only': False})
        self.add(daemon, image)
        info = self.image_info(daemon)
        self.assertTrue(info['dirty-flag'])
        self.assertTrue(info['format-specific']['data']['corrupt'])

    def test_locked(self):
        """QEMU may read what we read, not write to it."""
        daemon = self.wharfd()
        image = self.create('image.qcow2', MIB)
        self.add(daemon, image)
        run(self.qemu_io_tool, '-r', '-f', 'qcow2', '-c', 'read 0 4k', image)
        done = run(self.qemu_io_tool, '-f', 'qcow2', '-c', 'write 0 4k', image, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn('lock', done.stderr)


if __name__ == '__main__':
    main()
