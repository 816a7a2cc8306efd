# SPDX-License-Identifier: GPL-2.0-or-later
"""fuse-probe, with which the benchmarks compare: it serves the file, and ends."""

import os
import random

from wharf import *

MIB = 1 << 20


class ProbeTest:
    """What holds in every mode."""

    SIZE = 4 * MIB + 4096
    MODES = ()

    def setUp(self):
        super().setUp()
        self.need_root()
        self.need_fuse()
        self.binary = self.built('tests', 'bench', 'fuse-probe')
        self.content = random.Random(3).randbytes(self.SIZE)
        self.image = self.make_file('image', content=self.content)
        self.mnt = self.mountpoint()

    def start(self, *args):
        probe = self._start(self.binary, [*args, self.image, self.mnt],
                            {'qmp': False, 'name': f'probe{len(self._daemons)}'})
        wait_until(lambda: 'ready\n' in probe.log() or not probe.running(), what='the probe to be ready')
        return probe

    def check_content(self):
        """Read and write it all, also from several processes at once."""
        workers = [self.fs() for _ in range(3)]
        for worker in workers:
            worker.start('read_file', self.mnt)
        for worker in workers:
            self.assertEqual(worker.finish(), self.content)
        new = random.Random(4).randbytes(MIB + 1)
        workers[0].write_at(self.mnt, 4095, new, sync=True)
        expected = self.content[:4095] + new + self.content[4095 + len(new):]
        self.assertEqual(workers[1].read_file(self.mnt), expected)
        with open(self.image, 'rb') as f:
            self.assertEqual(f.read(), expected)
        self.content = expected
        for worker in workers:
            worker.kill()

    def test_every_mode(self):
        for mode in self.MODES:
            with self.subTest(mode=mode):
                probe = self.start(*mode.split())
                self.assertTrue(probe.running(), probe.log())
                self.check_content()
                probe.terminate()
                self.assertFalse(self.mounted(self.mnt))

    def test_unmount_ends_it(self):
        probe = self.start(*self.MODES[0].split())
        self.assertEqual(len(self.fs().read_file(self.mnt)), self.SIZE)
        run('umount', self.mnt)
        self.assertEqual(probe.wait(), 0)

    def test_ends_while_it_is_open(self):
        probe = self.start(*self.MODES[0].split())
        worker = self.fs()
        fd = worker.open(self.mnt, os.O_RDWR)
        probe.terminate()
        with self.assertRaises(OSError):
            worker.pread(fd, 4096, 0)


@normal_build_only
class OverDev(ProbeTest, IoTest):
    MODES = ('--queues 1', '--queues 2', '--queues 2 --poll-ns 0 --batch 1', '--cache page',
             '--queues 2 --cache page --read-ahead 4194304')

    def test_passthrough(self):
        probe = self.start('--passthrough')
        if not probe.running() and 'does not offer' in probe.log():
            probe.wait()
            self.skipTest('the kernel passes no files through')
        self.assertTrue(probe.running(), probe.log())
        self.check_content()
        probe.terminate()

    def test_wrong_options(self):
        for args in (['--transport', 'pigeon'], ['--cache', 'none'], ['--queues', '0'], ['--depth', '-1']):
            result = run(self.binary, *args, self.image, self.mnt, check=False)
            self.assertEqual(result.returncode, 1)
            self.assertFalse(self.mounted(self.mnt))


@normal_build_only
class OverUring(ProbeTest, IoTest):
    MODES = ('--transport io-uring', '--transport io-uring --depth 1 --no-pin',
             '--transport io-uring --queues 1', '--transport io-uring --poll-ns 20000',
             '--transport io-uring --cache page')

    def setUp(self):
        super().setUp()
        self.need_uring()


if __name__ == '__main__':
    main()
