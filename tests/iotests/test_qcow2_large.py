# SPDX-License-Identifier: GPL-2.0-or-later
"""Large disks cost what is used of them; long chains; and a crash in the middle of much I/O."""

import os
import random
import subprocess

from wharf import *
from wharf import tools
from wharf.qcow2 import KIB, MIB, TIB, Qcow2WriteTest


class LargeTest(Qcow2WriteTest):
    def file_reads(self, daemon):
        for stats in daemon.qmp.cmd('query-blockstats', {'query-nodes': True}):
            if stats.get('node-name') == 'f':
                return stats['stats']['rd_bytes'], stats['stats']['rd_operations']
        self.fail('no statistics')

    def test_open_is_bounded(self):
        """Opening reads the header, the L1 table and the refcount table, whatever the disk has."""
        daemon = self.wharfd()
        rng = random.Random(1)
        for cluster in [64 * KIB, 2 * MIB]:
            l1 = TIB // (cluster * (cluster // 8)) * 8
            for places in [0, 100]:
                with self.subTest(cluster=cluster, places=places):
                    image = self.create('image.qcow2', TIB, cluster_size=cluster)
                    if places:
                        self.qemu_io(image, *[f'write -P 1 {rng.randrange(TIB // MIB - 1)}M 4k' for _ in range(places)])
                    self.add(daemon, image, **{
                        'read-only': False, 'file': {'driver': 'file', 'node-name': 'f', 'filename': image}})
                    size, operations = self.file_reads(daemon)
                    self.assertLessEqual(size, 72 + cluster + l1 + cluster)
                    self.assertLessEqual(operations, 4)
                    self.remove(daemon, exported=False)

    @normal_build_only
    @timeout(300)
    def test_constant_memory(self):
        """Written and read all over the disk, with caches of a given size."""
        daemon = self.wharfd()
        image = self.create('image.qcow2', TIB, cluster_size=16 * KIB)
        self.add(daemon, image, **{'read-only': False, 'l2-cache-size': 2 * MIB, 'refcount-cache-size': MIB})
        mountpoint = self.export(daemon, writable=True)
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDWR)
        rng = random.Random(2)
        places = [rng.randrange(TIB // MIB) * MIB for _ in range(6000)]
        memory = []
        for n, offset in enumerate(places):
            worker.pwrite(fd, offset.to_bytes(8, 'little') * 64, offset)
            if n % 1000 == 999:
                worker.fsync(fd)
                memory.append(daemon.rss() // MIB)
        for offset in places:
            self.assertEqual(worker.pread(fd, 512, offset), offset.to_bytes(8, 'little') * 64)
        memory.append(daemon.rss() // MIB)
        worker.close(fd)
        self.assertLess(max(memory) - memory[0], 8, memory)
        self.assertLess(max(memory), 80, memory)
        self.remove(daemon)
        self.check(image)


class ChainTest(Qcow2WriteTest):
    @timeout(300)
    def test_five_overlays(self):
        """Each is written to while the others lie below; none but the top one changes."""
        daemon = self.wharfd('--object', 'iothread,id=t0')
        size = 4 * MIB
        below, form = self.make_file('base.raw', content=random.Random(1).randbytes(3 * MIB)), 'raw'
        images, contents = [], []
        for n in range(5):
            image = self.create(f'overlay{n}.qcow2', size, backing=below, backing_format=form,
                                cluster_size=[64, 4, 2048, 16, 64][n] * KIB, extended_l2=['off', 'on'][n in (2, 4)])
            model = self.read_all(image)
            self.add(daemon, image, **{'read-only': False, 'discard': 'unmap'})
            self.random_requests(self.export(daemon, writable=True, iothread='t0'), model, n, 40)
            self.remove(daemon)
            images.append(image)
            contents.append(bytes(model))
            below, form = image, 'qcow2'
        for image, content in zip(images, contents):
            self.check(image)
            self.compare(image, content)


class FioTest(Qcow2WriteTest):
    """kill -9 while fio writes: nothing is corrupt, and what a sync has covered is there."""

    def kill_under_fio(self, image, *filters, seconds, **options):
        daemon = self.wharfd('--object', 'iothread,id=t0', '--object', 'iothread,id=t1')
        self.add(daemon, image, **{'read-only': False, 'discard': 'unmap', **options})
        node = 'q'
        for driver in filters:
            daemon.qmp.cmd('blockdev-add', {'driver': driver, 'node-name': 'top', 'file': 'q'})
            node = 'top'
        mountpoint = self.export(daemon, node, writable=True, iothread='t0')
        worker = self.fs()
        fd = worker.open(mountpoint, os.O_RDWR)
        worker.pwrite(fd, b'synced' * 10000, 60 * MIB + 777)
        worker.fsync(fd)
        log = open(self.path('fio.log'), 'wb')
        fio = subprocess.Popen(
            [find_tool('fio'), '--name=w', f'--filename={mountpoint}', '--size=60M', '--rw=randwrite', '--numjobs=3',
             '--bssplit=4k/60:64k/30:300k', '--ioengine=psync', '--fdatasync=20', '--time_based', '--runtime=120'],
            stdout=log, stderr=log, start_new_session=True)
        try:
            before = self.written(daemon)
            wait_until(lambda: self.written(daemon) > before + seconds * 20 * MIB, what='fio to write')
            daemon.kill()
        finally:
            fio.kill()
            fio.wait()
            log.close()
            worker.kill()
            tools.unmount(mountpoint)
        done = run(self.qemu_img, 'check', '-f', 'qcow2', '--output', 'json', image, check=False)
        found = tools.json_of(done)
        self.assertEqual(found.get('corruptions', 0), 0, done.stdout)
        self.assertEqual(found['check-errors'], 0, done.stdout)
        content = self.read_all(image)
        self.assertEqual(content[60 * MIB + 777:60 * MIB + 60777], b'synced' * 10000)
        run(self.qemu_img, 'check', '-f', 'qcow2', '-r', 'leaks', image)
        self.compare(image, content)
        os.unlink(self.path('reference.raw'))

    def written(self, daemon):
        for stats in daemon.qmp.cmd('query-blockstats', {'query-nodes': True}):
            if stats.get('node-name') == 'q':
                return stats['stats']['wr_bytes']
        return self.fail('no statistics')

    @timeout(300)
    def test_killed(self):
        for n, kind in enumerate([{}, {'cluster_size': 4 * KIB}, {'extended_l2': 'on'}, {'cluster_size': 2 * MIB}]):
            with self.subTest(**kind):
                base = self.make_file('base.raw', content=b'base' * 10 * MIB)
                image = self.create('image.qcow2', 64 * MIB, backing=base, backing_format='raw', **kind)
                self.kill_under_fio(image, seconds=n % 2 + 1)

    @timeout(300)
    def test_killed_compressing(self):
        image = self.create('image.qcow2', 64 * MIB)
        self.kill_under_fio(image, 'compress', seconds=1)


if __name__ == '__main__':
    main()
