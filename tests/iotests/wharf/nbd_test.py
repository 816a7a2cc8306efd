# SPDX-License-Identifier: GPL-2.0-or-later
"""The base of tests of the NBD server."""

import os
import tempfile

from .iotest import IoTest
from .nbd import RawClient

MIB = 1 << 20


class NbdTest(IoTest):
    """A daemon with an NBD server at self.socket, and nodes over files to export."""

    server_options = ''

    def setUp(self):
        super().setUp()
        self.socket = self.path('nbd')
        self.daemon = self.start_nbd()
        self.clients = []
        self.addCleanup(self.close_clients)

    def start_nbd(self, *args):
        return self.wharfd('--nbd-server', f'addr.type=unix,addr.path={self.socket}{self.server_options}', *args)

    def close_clients(self):
        for client in self.clients:
            client.close()

    def uri(self, name=''):
        return f'nbd+unix:///{name}?socket={self.socket}'

    def node(self, name='n0', image=None, size=4 * MIB, content=b'', **options):
        """A raw node over a file, which is made unless image names one."""
        image = image or self.make_file(f'{name}.img', size, content)
        self.daemon.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': name, 'discard': 'unmap', **options,
                                             'file': {'driver': 'file', 'filename': image, 'discard': 'unmap',
                                                      **options}})
        return image

    def memory_file(self, name, size=0, content=b''):
        """A file that lies in memory."""
        directory = tempfile.TemporaryDirectory(dir='/dev/shm')
        self.addCleanup(directory.cleanup)
        path = os.path.join(directory.name, name)
        with open(path, 'wb') as f:
            f.write(content)
            f.truncate(max(size, len(content)))
        return path

    def export(self, node='n0', export='e0', **options):
        """Export a node, writable unless said otherwise."""
        self.daemon.qmp.cmd('block-export-add', {
            'type': 'nbd', 'id': export, 'node-name': node, 'writable': True,
            **{k.replace('_', '-'): v for k, v in options.items()}})

    def delete(self, export='e0', **kwargs):
        self.daemon.qmp.cmd('block-export-del', {'id': export, **kwargs})

    def exports(self):
        return {e['id']: e for e in self.daemon.qmp.cmd('query-block-exports')}

    def connections(self):
        return self.daemon.qmp.cmd('query-nbd-server')['connections']

    def raw(self, **kwargs):
        """A raw client, closed with the test."""
        client = RawClient(self.socket, **kwargs)
        self.clients.append(client)
        return client

    def connected(self, name='n0', **kwargs):
        """A raw client that has chosen an export."""
        return self.raw().go(name, **kwargs)

    def image_bytes(self, image, offset=0, length=-1):
        with open(image, 'rb') as f:
            f.seek(offset)
            return f.read(length)

    def assert_no_leak(self, before):
        """The daemon has no more descriptors than before (sockets of clients that left may linger a moment)."""
        self.assertLessEqual(len(self.daemon.fds()), before)
        self.assertTrue(os.path.exists(self.socket))
