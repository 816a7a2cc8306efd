# SPDX-License-Identifier: GPL-2.0-or-later
"""fio writes and verifies through an export: mixed sizes, buffered and direct, several processes."""


import mmap

from wharf import *

MIB = 1 << 20


def page(number):
    return number.to_bytes(8, 'little') * 512


def write_pages(path, parity):
    with open(path, 'r+b') as f, mmap.mmap(f.fileno(), 0) as mapped:
        for number in range(parity, len(mapped) // 4096, 2):
            mapped[number * 4096:(number + 1) * 4096] = page(number)
        mapped.flush()


def check_pages(path):
    with open(path, 'rb') as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        for number in range(len(mapped) // 4096):
            assert mapped[number * 4096:(number + 1) * 4096] == page(number), f'page {number}'


@fuse_test
class FioVerify(IoTest):
    JOBS = 3
    JOB_SIZE = 8 * MIB
    EXPORT = {}  # more options of the export

    def setUp(self):
        super().setUp()
        self.fio = find_tool('fio')
        self.image = self.make_file('disk.img', self.JOBS * self.JOB_SIZE)
        self.mnt = self.mountpoint()

    def export(self, iothreads=0, cache=None, aio=None, env=None, growable=False):
        args = []
        for number in range(iothreads):
            args += ['--object', f'iothread,id=t{number}']
        daemon = self.wharfd(*args, env=env)
        file = {'driver': 'file', 'filename': self.image, 'discard': 'unmap'}
        if cache:
            file['cache'] = cache
        if aio:
            file['aio'] = aio
        daemon.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'n0', 'discard': 'unmap', 'file': file})
        daemon.qmp.cmd('block-export-add', {
            'type': 'fuse', 'id': 'e0', 'node-name': 'n0', 'mountpoint': self.mnt, 'writable': True,
            'growable': growable, **self.EXPORT,
            **({'iothread': [f't{n}' for n in range(iothreads)]} if iothreads else {})})
        return daemon

    def verify(self, *options):
        run(self.fio, '--name=verify', f'--filename={self.mnt}', f'--size={self.JOB_SIZE}',
            f'--offset_increment={self.JOB_SIZE}', f'--numjobs={self.JOBS}', '--rw=randwrite',
            '--verify=crc32c', '--verify_fatal=1', '--verify_state_save=0', '--randseed=7', '--allow_file_create=0',
            '--serialize_overlap=1', '--group_reporting', *options, cwd=self.dir, timeout=100)

    def check(self, daemon):
        """What the processes wrote is in the image, and the mount shows the same."""
        run('cmp', self.image, self.mnt)
        daemon.quit()
        self.assertFalse(self.mounted(self.mnt))

    def test_buffered_psync(self):
        daemon = self.export()
        self.verify('--bsrange=512-64k', '--bs_unaligned=1', '--ioengine=psync', '--fsync=256')
        self.check(daemon)

    def test_direct_libaio(self):
        daemon = self.export(iothreads=2)
        self.verify('--bsrange=512-256k', '--direct=1', '--ioengine=libaio', '--iodepth=16')
        self.check(daemon)

    def test_direct_image(self):
        daemon = self.export(iothreads=1, cache={'direct': True})
        self.verify('--bsrange=512-1m', '--direct=1', '--ioengine=libaio', '--iodepth=8')
        self.check(daemon)

    def test_unaligned_on_direct_image(self):
        """Requests that the image's file system cannot do unaligned are read, merged and written."""
        daemon = self.export(cache={'direct': True})
        self.verify('--bsrange=512-20000', '--bs_unaligned=1', '--ioengine=psync', f'--io_size={MIB}')
        self.check(daemon)

    def test_worker_threads(self):
        daemon = self.export(iothreads=2, aio='threads')
        self.verify('--bsrange=512-64k', '--direct=1', '--ioengine=libaio', '--iodepth=16')
        self.check(daemon)

    @not_over('io-uring', 'the fallback event loop has no ring')
    def test_epoll_backend(self):
        daemon = self.export(iothreads=2, env={'WHARF_AIO': 'epoll'})
        self.verify('--bsrange=512-64k', '--direct=1', '--ioengine=libaio', '--iodepth=16')
        self.check(daemon)

    def test_with_trims_and_big_requests(self):
        daemon = self.export(iothreads=1)
        self.verify('--bs=2m', '--direct=1', '--ioengine=libaio', '--iodepth=4')
        run(self.fio, '--name=mixed', f'--filename={self.mnt}', f'--size={self.JOB_SIZE}', '--rw=randrw',
            '--bsrange=4k-3m', '--ioengine=libaio', '--direct=1', '--iodepth=8', '--allow_file_create=0',
            cwd=self.dir)
        self.check(daemon)

    def test_shared_mappings(self):
        """Two processes map the file, each writes every other page, both see all of it."""
        daemon = self.export()
        for parity in (0, 1):
            in_child(write_pages, self.mnt, parity)
        in_child(check_pages, self.mnt)
        self.check(daemon)


if __name__ == '__main__':
    main()
