# SPDX-License-Identifier: GPL-2.0-or-later
"""Real NBD clients on the server: libnbd's, QEMU's, and nbdkit in between."""

import json
import os
import subprocess
import unittest

from wharf import *
from wharf import tools
from wharf.iotest import has_fuse
from wharf.nbd_test import MIB, NbdTest


class Clients(NbdTest):
    def setUp(self):
        super().setUp()
        data = os.urandom(MIB)
        self.content = data + bytes(MIB) + data + bytes(5 * MIB)
        self.image = self.make_file('n0.img', 8 * MIB, data)
        with open(self.image, 'r+b') as f:
            f.seek(2 * MIB)
            f.write(data)
        for name in 't0', 't1':
            self.daemon.qmp.cmd('object-add', {'qom-type': 'iothread', 'id': name})
        self.node(image=self.image)
        self.export(name='disk', description='an example', allocation_depth=True, iothread=['t0', 't1'])

    def nbdsh(self, *commands, options=()):
        """Commands of nbdsh, with a handle h connected to the export."""
        words = [find_tool('nbdsh', 'python3-libnbd'), *options, '-u', self.uri('disk')]
        for command in commands:
            words += ['-c', command]
        # Its Python module is the system's, whatever other Python may be in the way.
        return run(*words, env={**os.environ, 'PATH': '/usr/bin:/bin'}).stdout

    def test_nbdinfo(self):
        nbdinfo = find_tool('nbdinfo', 'libnbd-bin')
        listed = json.loads(run(nbdinfo, '--json', '--list', self.uri()).stdout)
        self.assertEqual([(e['export-name'], e['description'], e['export-size']) for e in listed['exports']],
                         [('disk', 'an example', 8 * MIB)])
        self.assertEqual(run(nbdinfo, '--size', self.uri('disk')).stdout, f'{8 * MIB}\n')
        for what in 'cache', 'df', 'fast-zero', 'flush', 'fua', 'multi-conn', 'trim', 'zero':
            run(nbdinfo, f'--can={what}', self.uri('disk'))
        self.assertEqual(run(nbdinfo, '--is=read-only', self.uri('disk'), check=False).returncode, 2)
        extents = json.loads(run(nbdinfo, '--json', '--map', self.uri('disk')).stdout)
        self.assertEqual([(e['offset'], e['length'], e['type']) for e in extents], [
            (0, MIB, 0), (MIB, MIB, 3), (2 * MIB, MIB, 0), (3 * MIB, 5 * MIB, 3)])
        self.assertEqual(run(nbdinfo, '--size', self.uri('other'), check=False).returncode, 1)

    def test_nbdcopy(self):
        nbdcopy = find_tool('nbdcopy', 'libnbd-bin')
        copy = self.path('copy')
        for options in (), ('--synchronous',), ('--connections=1', '--requests=64'), ('--request-size=4096',):
            run(nbdcopy, *options, self.uri('disk'), copy)
            self.assertEqual(self.image_bytes(copy), self.content, options)
            os.unlink(copy)
        source = self.make_file('source', 8 * MIB, os.urandom(3 * MIB + 777))
        for options in ('--flush',), ('--destination-is-zero',), ('--allocated',):
            run(nbdcopy, *options, source, self.uri('disk'))
            if options != ('--destination-is-zero',):
                self.assertEqual(self.image_bytes(self.image), self.image_bytes(source), options)

    def test_nbdsh(self):
        self.nbdsh('h.pwrite(b"hello", 4096)', 'assert h.pread(5, 4096) == b"hello"',
                   'h.zero(4096, 4096)', 'assert h.pread(5, 4096) == bytes(5)',
                   'h.trim(4096, 0)', 'h.flush()', 'h.cache(65536, 0)')
        self.nbdsh('''
found = []
h.block_status(7 << 20, 1 << 20, lambda context, offset, entries, error: found.append((context, entries)))
assert found == [('base:allocation', [1 << 20, 3, 1 << 20, 0, 5 << 20, 3])], found
parts = [nbd.Buffer(4096) for _ in range(500)]
cookies = [h.aio_pread(part, i * 4096) for i, part in enumerate(parts)]
cookies.append(h.aio_pwrite(b'x' * 65536, 4 << 20, flags=nbd.CMD_FLAG_FUA))
while cookies:
    h.poll(-1)
    cookies = [c for c in cookies if not h.aio_command_completed(c)]
assert b''.join(part.to_bytearray() for part in parts) == h.pread(500 * 4096, 0)
h.shutdown()
''', options=('--base-allocation',))
        self.assertEqual(self.image_bytes(self.image, 4 * MIB, 65536), b'x' * 65536)

    def test_qemu_img(self):
        qemu_img = find_tool('qemu-img')
        info = json.loads(run(qemu_img, 'info', '--output=json', '-f', 'raw', self.uri('disk')).stdout)
        self.assertEqual(info['virtual-size'], 8 * MIB)
        extents = json.loads(run(qemu_img, 'map', '--output=json', '-f', 'raw', self.uri('disk')).stdout)
        self.assertEqual([(e['start'], e['length'], e['zero']) for e in extents], [
            (0, MIB, False), (MIB, MIB, True), (2 * MIB, MIB, False), (3 * MIB, 5 * MIB, True)])
        copy = self.path('copy.qcow2')
        run(qemu_img, 'convert', '-f', 'raw', '-O', 'qcow2', self.uri('disk'), copy)
        run(qemu_img, 'compare', '-f', 'qcow2', '-F', 'raw', copy, self.uri('disk'))
        source = self.make_file('source', 8 * MIB, os.urandom(MIB))
        run(qemu_img, 'convert', '-n', '-f', 'raw', '-O', 'raw', source, self.uri('disk'))
        self.assertEqual(self.image_bytes(self.image), self.image_bytes(source))

    def test_qemu_io(self):
        run(find_tool('qemu-io'), '-f', 'raw', '-c', 'write -P 5 1000 3000', '-c', 'read -P 5 1000 3000',
            '-c', 'write -f -P 6 64k 64k', '-c', 'write -z -u 1M 1M', '-c', 'discard 2M 1M', '-c', 'flush',
            '-c', 'aio_write -P 7 3M 1M', '-c', 'aio_write -P 8 4M 1M', '-c', 'aio_flush', self.uri('disk'))
        self.assertEqual(self.image_bytes(self.image, 4 * MIB - 1, 2), b'\x07\x08')

    def test_qemu_reads_and_writes_at_random(self):
        """QEMU's own benchmark, with several requests in flight."""
        qemu_img = find_tool('qemu-img')
        for options in ('-w', '-d', '16', '-s', '4k'), ('-d', '32', '-s', '64k'), ('-w', '-d', '4', '-s', '1M'):
            run(qemu_img, 'bench', '-f', 'raw', '-c', '500', *options, self.uri('disk'))

    def test_through_nbdkit(self):
        """nbdkit's client in between, which splits and merges nothing."""
        nbdkit = find_tool('nbdkit')
        copy = self.path('copy')
        run(nbdkit, '-U', '-', 'nbd', f'uri={self.uri("disk")}', '--run', f'nbdcopy "$uri" {copy}')
        self.assertEqual(self.image_bytes(copy), self.content)
        source = self.make_file('source', 8 * MIB, os.urandom(5 * MIB))
        for shared in 'true', 'false':
            run(nbdkit, '-U', '-', 'nbd', f'uri={self.uri("disk")}', f'shared={shared}', '--run',
                f'nbdcopy --flush {source} "$uri"')
            self.assertEqual(self.image_bytes(self.image), self.image_bytes(source))
            os.truncate(source, 0)
            os.truncate(source, 8 * MIB)

    def test_fio(self):
        """Several connections write, read and verify at random."""
        run(find_tool('fio'), '--ioengine=nbd', f'--uri={self.uri("disk")}', '--thread', '--size=1m', '--numjobs=4',
            '--offset_increment=1m', '--iodepth=16', '--verify=crc32c', '--verify_fatal=1',
            '--verify_state_save=0',
            '--name=random', '--rw=randrw', '--bsrange=512-64k', '--bs_unaligned',
            '--name=stream', '--offset=4m', '--rw=write', '--bs=1M', '--fsync=2')

    @unittest.skipUnless(has_fuse(), 'there is no FUSE')
    def test_nbdfuse(self):
        """A file again, by libnbd."""
        mnt = self.mountpoint()
        with subprocess.Popen([find_tool('nbdfuse', 'libnbd-bin'), mnt, self.uri('disk')]) as server:
            self.addCleanup(server.kill)
            wait_until(lambda: self.mounted(mnt), what='nbdfuse to mount')
            run('cmp', mnt, self.make_file('wanted', content=self.content))
            data = self.make_file('data', content=os.urandom(MIB + 4567))
            run('dd', f'if={data}', f'of={mnt}', 'bs=100k', 'oflag=seek_bytes', f'seek={MIB - 777}',
                'conv=notrunc,fsync')
            run('cmp', f'--ignore-initial={MIB - 777}:0', f'--bytes={MIB + 4567}', mnt, data)
            self.assertEqual(self.image_bytes(self.image, MIB - 777, MIB + 4567), self.image_bytes(data))
            tools.unmount(mnt)
            self.assertEqual(server.wait(TIMEOUT), 0)

    def test_sparse_copies_stay_sparse(self):
        copy = self.path('copy')
        run(find_tool('nbdcopy'), self.uri('disk'), copy)
        self.assertLess(os.stat(copy).st_blocks * 512, 3 * MIB)


if __name__ == '__main__':
    main()
