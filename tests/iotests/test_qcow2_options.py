# SPDX-License-Identifier: GPL-2.0-or-later
"""Each option of qcow2 nodes does what it says, as seen in the image and in what is read of it."""

import json
import os

from wharf import *
from wharf import fs
from wharf.qcow2 import KIB, MIB, Qcow2WriteTest

PUNCH = fs.FALLOC_PUNCH_HOLE | fs.FALLOC_KEEP_SIZE


class OptionsTest(Qcow2WriteTest):
    def begin(self, image, **options):
        """The image as a writable export."""
        self.daemon = self.wharfd()
        self.add(self.daemon, image, **{'read-only': False, 'discard': 'unmap',
                                        'file': {'driver': 'file', 'node-name': 'f', 'filename': image}, **options})
        self.worker = self.fs()
        self.fd = self.worker.open(self.export(self.daemon, writable=True), os.O_RDWR | os.O_DIRECT)

    def end(self):
        self.worker.close(self.fd)
        self.remove(self.daemon)
        self.daemon.qmp.cmd('quit')
        self.daemon.wait()

    def reads(self):
        """Bytes and requests read of the file so far."""
        for stats in self.daemon.qmp.cmd('query-blockstats', {'query-nodes': True}):
            if stats.get('node-name') == 'f':
                return stats['stats']['rd_bytes'], stats['stats']['rd_operations']
        self.fail('no statistics')

    def reads_of(self, function):
        before = self.reads()
        function()
        after = self.reads()
        return after[0] - before[0], after[1] - before[1]

    def read_at(self, *offsets):
        for offset in offsets:
            self.worker.pread(self.fd, 4096, offset)

    def blocks(self, image):
        return os.stat(image).st_blocks * 512


class CacheTest(OptionsTest):
    def test_l2_cache_entry_size(self):
        """So much of a table is read for the first request that needs it."""
        for size in [512, 4096, 65536, None]:
            with self.subTest(size=size):
                image = self.create('image.qcow2', 64 * MIB)
                self.qemu_io(image, 'write -P 1 0 1M')
                self.begin(image, **({'l2-cache-entry-size': size} if size else {}))
                done = self.reads_of(lambda: self.read_at(128 * KIB))
                self.assertEqual(done, (4096 + (size or 65536), 2))
                self.end()

    def test_l2_cache_size(self):
        """What does not fit is read again."""
        image = self.create('image.qcow2', 64 * MIB, cluster_size=4096)
        offsets = range(0, 64 * MIB, 2 * MIB)
        self.qemu_io(image, *[f'write -P 1 {offset} 4k' for offset in offsets])
        for options, again in [({}, 0), ({'l2-cache-size': MIB}, 0), ({'l2-cache-size': 8192}, 32),
                               ({'cache-size': 16384}, 32), ({'cache-size': 2 * MIB}, 0),
                               ({'cache-size': MIB, 'refcount-cache-size': MIB - 8192}, 32)]:
            with self.subTest(**options):
                self.begin(image, **options)
                self.assertEqual(self.reads_of(lambda: self.read_at(*offsets))[1], 64)
                self.assertEqual(self.reads_of(lambda: self.read_at(*offsets))[1], 32 + again)
                self.end()

    def test_refcount_cache_size(self):
        """Refcount blocks that do not fit are read again for the next clusters that they count."""
        for size, again in [(0, True), (MIB, False)]:
            with self.subTest(size=size):
                image = self.create('image.qcow2', 4 * MIB, cluster_size=512)
                self.qemu_io(image, 'write -P 1 0 4M')
                self.begin(image, **{'refcount-cache-size': size, 'l2-cache-size': MIB})
                self.discard_all(0)
                operations = self.reads_of(lambda: self.discard_all(4096))[1]
                self.assertEqual(operations > 20, again, operations)
                self.end()

    def discard_all(self, offset):
        """Something in each range that a refcount block counts, and have it counted down."""
        for start in range(0, 4 * MIB, 128 * KIB):
            self.worker.fallocate(self.fd, PUNCH, start + offset, 4096)
        for _ in range(2):  # the second one is for what the first has let go of
            self.worker.fsync(self.fd)
            self.worker.pwrite(self.fd, b'x' * 4096, 64 * KIB)


class DiscardTest(OptionsTest):
    """What the file takes up after something has become free."""

    def test_request(self):
        for options, passed in [({}, True), ({'pass-discard-request': False}, False),
                                ({'pass-discard-request': True}, True)]:
            with self.subTest(**options):
                image = self.create('image.qcow2', 8 * MIB)
                self.qemu_io(image, 'write -P 1 0 8M')
                self.begin(image, **options)
                self.worker.fallocate(self.fd, PUNCH, MIB, 4 * MIB)
                self.end()
                self.check(image)
                self.assertEqual(self.blocks(image) < 6 * MIB, passed)

    def test_request_with_data_file(self):
        for passed in [True, False]:
            with self.subTest(passed=passed):
                data = self.make_file('data.bin', 8 * MIB)
                image = self.create('image.qcow2', 8 * MIB, data_file=data)
                self.qemu_io(image, 'write -P 1 0 8M')
                self.begin(image, **{'pass-discard-request': passed})
                self.worker.fallocate(self.fd, PUNCH, MIB, 4 * MIB)
                self.end()
                self.check(image)
                self.assertEqual(self.blocks(data) < 6 * MIB, passed)

    def test_shared_with_snapshot(self):
        """A part of a cluster is all the data it has; a snapshot has that, too."""
        image = self.create('image.qcow2', 4 * MIB, extended_l2='on')
        self.qemu_io(image, 'write -P 1 64k 4k', 'write -P 2 128k 64k')
        before = self.read_all(image)
        run(self.qemu_img, 'snapshot', '-c', 'before', image)
        for options in [{}, {'discard-no-unref': True}]:
            self.begin(image, **options)
            self.worker.fallocate(self.fd, PUNCH, 64 * KIB, 4 * KIB)
            self.worker.fallocate(self.fd, PUNCH, 128 * KIB, 64 * KIB)
            self.end()
            self.check(image)
            self.compare(image, bytes(4 * MIB))
            run(self.qemu_img, 'snapshot', '-a', 'before', image)
            self.compare(image, before)

    def test_snapshot(self):
        for options, passed in [({}, True), ({'pass-discard-snapshot': True}, True),
                                ({'pass-discard-snapshot': False}, False)]:
            with self.subTest(**options):
                image = self.create('image.qcow2', 4 * MIB)
                self.qemu_io(image, 'write -P 1 0 4M')
                run(self.qemu_img, 'snapshot', '-c', 'before', image)
                self.qemu_io(image, 'write -P 2 0 4M')
                self.begin(image, **options)
                self.daemon.qmp.cmd('blockdev-snapshot-delete-internal-sync', {'device': 'q', 'name': 'before'})
                self.end()
                self.check(image)
                self.assertEqual(self.blocks(image) < 6 * MIB, passed)

    def test_other(self):
        """Compressed clusters that are written over."""
        content = b''.join(os.urandom(40 * KIB) + bytes(24 * KIB) for _ in range(64))
        source = self.make_file('source.raw', content=content)
        for options, passed in [({}, False), ({'pass-discard-other': False}, False),
                                ({'pass-discard-other': True}, True)]:
            with self.subTest(**options):
                image = self.path('image.qcow2')
                run(self.qemu_img, 'convert', '-c', '-f', 'raw', '-O', 'qcow2', source, image)
                before = self.blocks(image)
                self.begin(image, **options)
                self.worker.pwrite(self.fd, b'x' * MIB, 0)
                self.worker.pwrite(self.fd, b'x' * MIB, MIB)
                self.end()
                self.check(image)
                self.assertEqual(self.blocks(image) < before + 1.5 * MIB, passed)

    def test_no_unref(self):
        """Clusters keep their place, and get the same one again."""
        for options, kept in [({}, False), ({'discard-no-unref': True}, True)]:
            with self.subTest(**options):
                image = self.create('image.qcow2', 4 * MIB)
                self.qemu_io(image, 'write -P 1 0 4M')
                before = self.places(image)
                self.begin(image, **options)
                self.worker.fallocate(self.fd, PUNCH, MIB, MIB)
                self.worker.fsync(self.fd)
                self.worker.pwrite(self.fd, b'x' * 64 * KIB, 3 * MIB // 2)
                self.worker.pwrite(self.fd, b'x' * 64 * KIB, MIB)
                self.end()
                self.check(image)
                self.assertEqual(self.places(image) == before, kept)
                self.assertLess(self.blocks(image), 3.5 * MIB)

    def places(self, image):
        """Where the clusters at 1 and 1.5 MiB lie."""
        found = json.loads(run(self.qemu_img, 'map', '--output', 'json', image).stdout)
        places = []
        for start in [MIB, 3 * MIB // 2]:
            for extent in found:
                if extent['start'] <= start < extent['start'] + extent['length']:
                    places.append(extent['offset'] + start - extent['start'])
        return places

    def test_no_unref_in_version_2(self):
        daemon = self.wharfd()
        image = self.create('image.qcow2', MIB, compat='0.10')
        self.refused(daemon, image, 'discard-no-unref', 'version 3', **{'discard-no-unref': True})


class ReopenTest(Qcow2WriteTest):
    """A node that becomes writable by a reopen ends up as one that is opened so."""

    INCOMPATIBLE = 72
    DIRTY, CORRUPT = 1, 2
    PLACES = {
        'inline': {},
        'read-only': {'read-only': True},
        'buffered': {'read-only': True},
        'writable': {},
        'auto-read-only': {'read-only': False, 'auto-read-only': True},
    }

    def begin(self, mark, place, auto_before):
        """A marked image of which one cluster is not counted, in a read-only node."""
        self.daemon = self.wharfd()
        self.image = self.create('image.qcow2', 8 * MIB)
        self.qemu_io(self.image, 'write -P 7 0 64k')
        with open(self.image, 'r+b') as f:
            f.seek(self.INCOMPATIBLE)
            f.write(mark.to_bytes(8, 'big'))
            if mark == self.DIRTY:
                f.seek(2 * 64 * KIB + 2 * 5)
                f.write(bytes(2))
        self.file = {'driver': 'file', 'node-name': 'f', 'filename': self.image, **self.PLACES[place]}
        if place != 'inline':
            self.daemon.qmp.cmd('blockdev-add', self.file)
        self.daemon.qmp.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'q', 'file': self.file if place == 'inline' else 'f',
            'read-only': True, 'auto-read-only': auto_before})

    def reopen(self, place, auto):
        options = [{'driver': 'qcow2', 'node-name': 'q', 'file': 'f', 'auto-read-only': auto}]
        if place in ('read-only', 'buffered'):
            direct = place == 'buffered'
            options.append({**self.file, 'read-only': False, 'cache': {'direct': direct}})
        self.daemon.qmp.cmd('blockdev-reopen', {'options': options})

    def end(self, writable):
        nodes = self.daemon.qmp.cmd('query-named-block-nodes')
        self.assertEqual([n['ro'] for n in nodes if n['node-name'] == 'q'], [not writable])
        if writable:
            worker = self.fs()
            fd = worker.open(self.export(self.daemon, node='q', writable=True), os.O_RDWR)
            self.assertEqual(worker.pread(fd, 64 * KIB, 0), b'\7' * 64 * KIB)
            worker.pwrite(fd, b'x' * 64 * KIB, MIB)
            worker.close(fd)
        self.daemon.qmp.cmd('quit')
        self.daemon.wait()

    def each_way(self, mark, body):
        for place in self.PLACES:
            for auto_before, auto in [(False, False), (True, True), (False, True)]:
                with self.subTest(place=place, auto_before=auto_before, auto=auto):
                    self.begin(mark, place, auto_before)
                    body(place, auto)

    def becomes_writable(self, place, auto):
        self.reopen(place, auto)
        self.end(writable=True)
        self.check(self.image)

    def stays_read_only(self, place, auto):
        if auto:
            self.reopen(place, auto)
        else:
            with self.assertRaisesRegex(QmpError, 'corrupt'):
                self.reopen(place, auto)
        self.end(writable=False)

    def test_clean(self):
        self.each_way(0, self.becomes_writable)

    def test_not_closed_in_order(self):
        """The image is repaired, for what QEMU would do here destroys data."""
        self.each_way(self.DIRTY, self.becomes_writable)

    def test_corrupt(self):
        """Only where that is allowed the node stays read-only; else nothing changes."""
        self.each_way(self.CORRUPT, self.stays_read_only)


if __name__ == '__main__':
    main()
